"""Normalised joints and bones, the inputs of the skeleton networks."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from actrec import config
from actrec.config import setting
from actrec.errors import InputError
from actrec.package import InputSpec
from actrec.skeleton import layouts


@dataclass(frozen=True)
class SkeletonPreprocessing:
    """How joints are made independent of where a person stands, faces and how tall they are."""

    centre: str = setting(
        "spine_base", "joint whose mean over the window becomes the origin", choices=("spine_base", "none")
    )
    align: str = setting("yaw", "turn about the vertical until the person faces the camera", choices=("yaw", "none"))
    scale: str = setting("torso", "unit of length: the median torso, or the metre", choices=("torso", "none"))


def normalise(bodies: np.ndarray, options: SkeletonPreprocessing, layout: str = "kinect_v2_25") -> np.ndarray:
    """Moves, turns and scales a clip by its first body, and seats missing joints on their parents.

    Args:
        bodies: [M, T, V, 3] metres in the optical frame, NaN for missing.
        options: Which of the steps to take.
        layout: Layout of V, with the Kinect's joint names.

    Returns:
        [M, T, V, 3] float32 without NaN; an absent body is all zero.
    """
    index = layouts.get(layout).index
    clip = np.array(bodies, dtype=np.float32)
    if options.centre != "none":
        clip -= _mean(clip[0, :, index[options.centre]], fallback=clip[0])
    if options.align == "yaw":
        clip = clip @ _facing_rotation(clip[0], index).T
    if options.scale == "torso":
        clip /= _torso_length(clip[0], index)
    return seat_missing(clip, layout)


def _mean(values: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """Mean [3] of what is present in values [T, 3], else of all present joints, else zero."""
    for candidate in (values, fallback.reshape(-1, 3)):
        present = candidate[~np.isnan(candidate).any(axis=-1)]
        if len(present):
            return present.mean(axis=0)
    return np.zeros(3, dtype=np.float32)


def _facing_rotation(body: np.ndarray, index: dict[str, int]) -> np.ndarray:
    """The 3×3 turn about y that lays the mean right-to-left axis of shoulders and hips along +x (facing the camera)."""
    across = np.zeros(3, dtype=np.float32)
    for part in ("shoulder", "hip"):
        side = body[:, index[f"{part}_left"]] - body[:, index[f"{part}_right"]]
        side = side[~np.isnan(side).any(axis=-1)]
        across += side.mean(axis=0) if len(side) else 0.0
    x, z = float(across[0]), float(across[2])
    length = float(np.hypot(x, z))
    if length < 0.02:  # seen exactly from the side or not at all: no direction to trust
        return np.eye(3, dtype=np.float32)
    c, s = x / length, z / length
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=np.float32)


def _torso_length(body: np.ndarray, index: dict[str, int]) -> float:
    torso = np.linalg.norm(body[:, index["spine_shoulder"]] - body[:, index["spine_base"]], axis=-1)
    torso = torso[np.isfinite(torso) & (torso > 0.05)]
    return float(np.median(torso)) if len(torso) else 0.5


def seat_missing(bodies: np.ndarray, layout: str) -> np.ndarray:
    """Puts each missing joint of [..., V, 3] on its parent (its bone is then zero) and a missing root at the origin."""
    filled = bodies.copy()
    if not np.isnan(filled).any():
        return filled
    for v in _root_first(layout):
        parent = layouts.get(layout).parents[v]
        lost = np.isnan(filled[..., v, :]).any(axis=-1)
        filled[lost, v] = 0.0 if parent == v else filled[lost, parent]
    return filled


def _root_first(layout: str) -> list[int]:
    parents = layouts.get(layout).parents

    def depth(v: int) -> int:
        return 0 if parents[v] == v else 1 + depth(parents[v])

    return sorted(range(len(parents)), key=depth)


def bones(joints: np.ndarray, layout: str = "kinect_v2_25") -> np.ndarray:
    """Bone vectors of joints [..., V, 3]: target minus source (DeepActsNet), zero at the root."""
    return joints - joints[..., list(layouts.get(layout).parents), :]


def stack(joints: np.ndarray, modality: str, layout: str = "kinect_v2_25") -> np.ndarray:
    """Network input [M, 3, T, V] of normalised joints [M, T, V, 3]; `modality` is "body" or "bones".

    Raises:
        InputError: Another modality.
    """
    if modality not in ("body", "bones"):
        raise InputError(f"modality '{modality}' is not made from skeletons alone; known here: body, bones")
    values = joints if modality == "body" else bones(joints, layout)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)  # (M, C, T, V)


def inputs(bodies: np.ndarray, specs: Iterable[InputSpec]) -> dict[str, np.ndarray]:
    """Every input of a skeleton network.

    Args:
        bodies: [M, T, V, 3] metres in the optical frame, NaN for missing; fewer than M are padded as absent.
        specs: The model's inputs, shape (M, 3, T, V) each.

    Returns:
        Input name to [M, 3, T, V] float32, without the batch axis.

    Raises:
        InputError: Shapes disagree, both are named.
    """
    made: dict[str, np.ndarray] = {}
    normalised: dict[str, np.ndarray] = {}
    for spec in specs:
        key = f"{spec.layout} {sorted(spec.preprocessing.items())}"
        if key not in normalised:
            options = config.build(SkeletonPreprocessing, spec.preprocessing)
            normalised[key] = normalise(_fit(bodies, spec), options, spec.layout)
        made[spec.name] = stack(normalised[key], spec.modality, spec.layout)
    return made


def _fit(bodies: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Checks bodies against a spec's shape and pads absent bodies with NaN."""
    count, _, frames, joints = spec.shape
    wanted = f"input '{spec.name}' takes up to {count} bodies of {frames} frames × {joints} joints ({spec.layout})"
    if bodies.ndim != 4 or bodies.shape[1:] != (frames, joints, 3) or bodies.shape[0] > count:
        raise InputError(f"bodies are {list(bodies.shape)} [M, T, V, 3] but {wanted}")
    absent = np.full((count - len(bodies), *bodies.shape[1:]), np.nan, dtype=np.float32)
    return np.concatenate([bodies.astype(np.float32), absent])
