"""Normalized joints, bones and their motion, the inputs of skeleton networks."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from actrec.features.specs import Feature, InputSpec, evenly_spaced, pad_bodies, required_joints
from actrec.skeleton import layouts
from actrec.types import Clip
from actrec.utils import config, gravity
from actrec.utils.config import setting
from actrec.utils.errors import InputError

SHORTEST_BONE = 0.02
"""In torsos; a shorter bone has no direction: its joint is missing."""

LEAST_TORSO_M, USUAL_TORSO_M = 0.05, 0.5
"""A shorter distance from spine_base to spine_shoulder is not measured; the usual one replaces a missing torso."""

LEAST_HAND_M, USUAL_HAND_M = 0.02, 0.1
"""The same of a hand, from the wrist to the base of the middle finger."""

LEAST_WIDTH_M = 0.02
"""With shoulders and hips less wide in the horizontal plane, the direction that a body faces is unknown."""

MODALITIES = ("body", "bones", "body_motion", "bones_motion")
"""Modalities made from skeletons only, all of the same shape."""


@dataclass(frozen=True)
class SkeletonPreprocessing:
    """Normalization of position, orientation and size."""

    center: str = setting(
        "spine_base", "joint whose mean over the window becomes the origin", choices=("spine_base", "palm", "none")
    )
    align: str = setting("yaw", "rotate about the vertical to face the camera", choices=("yaw", "none"))
    scale: str = setting(
        "torso",
        "unit of length: the median torso, a hand's median length from wrist to middle finger, or the meter",
        choices=("torso", "hand", "none"),
    )
    lengths: str = setting(
        "own",
        "of bones: the body's own, or the same of every body and frame, which leaves only their directions; then the "
        "unit of length is the torso",
        choices=("own", "canonical"),
    )
    root_bone: str = setting(
        "zero",
        "bone of the root: zero, or its position relative to the origin, which keeps the motion of a hand",
        choices=("zero", "origin"),
    )
    placing: str = setting(
        "window",
        "frames that define the center, rotation and scale: all of the window",
        choices=("window",),
    )
    pitch_deg: float = setting(
        0.0,
        "the joints are seen as by a camera that looks down by this angle, as in the training data",
        unit="deg",
        range=(-90.0, 90.0),
    )


CANONICAL_LENGTHS = {
    "spine_base": 0.0, "spine_mid": 0.5, "spine_shoulder": 0.5, "neck": 0.14, "head": 0.33, "shoulder": 0.48,
    "elbow": 0.63, "wrist": 0.58, "hand": 0.17, "hand_tip": 0.17, "thumb": 0.1, "hip": 0.245, "knee": 1.13,
    "ankle": 0.88, "foot": 0.2,
}  # fmt: skip
"""Lengths of the bones to these joints in torsos: medians of UTD-MHAD and N-UCLA."""

HAND_PREPROCESSING: dict[str, Any] = {"center": "palm", "align": "none", "scale": "hand", "root_bone": "origin"}
"""Fields of `SkeletonPreprocessing` for a hand, which has no spine and no torso."""


def normalize(bodies: np.ndarray, options: SkeletonPreprocessing, layout: str = "kinect_v2_25") -> np.ndarray:
    """Normalize a clip [M, T, V, 3] (m, NaN for missing) by its first body, and move missing joints to their parents.

    The result is float32 without NaN; an absent body is all zero. The layout has the Kinect's joint names.
    """
    clip = np.asarray(bodies, dtype=np.float32)
    if options.pitch_deg:
        clip = clip @ gravity.level_rotation(gravity.up_from_angles(0.0, options.pitch_deg))
    body, index = clip[0], layouts.get(layout).index
    origin, turn, unit = np.zeros(3, np.float32), np.eye(3, dtype=np.float32), 1.0
    if options.center != "none":
        origin = _mean(body[:, index[options.center]], fallback=body)
    if options.align == "yaw":
        turn = _facing_rotation(body, index)
    if options.scale == "torso":
        unit = _length(body, index["spine_base"], index["spine_shoulder"], LEAST_TORSO_M, USUAL_TORSO_M)
    elif options.scale == "hand":
        unit = _length(body, index["wrist"], index["middle_base"], LEAST_HAND_M, USUAL_HAND_M)
    filled = fill_missing(((clip - origin) @ turn.T) / np.float32(unit), layout)
    return filled if options.lengths == "own" else _with_canonical_lengths(filled, layout)


def _with_canonical_lengths(bodies: np.ndarray, layout: str) -> np.ndarray:
    """Return joints [..., V, 3] on bones of `CANONICAL_LENGTHS`; bones of missing joints stay zero."""
    joints = layouts.get(layout)
    lengths = np.array([CANONICAL_LENGTHS[name.removesuffix("_left").removesuffix("_right")] for name in joints.joints])
    vectors = bodies - bodies[..., list(joints.parents), :]
    own = np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors *= np.where(own > SHORTEST_BONE, lengths[:, None] / np.maximum(own, SHORTEST_BONE), 1.0)
    placed = bodies.copy()
    for v in joints.outwards:
        if joints.parents[v] != v:
            placed[..., v, :] = placed[..., joints.parents[v], :] + vectors[..., v, :]
    return placed.astype(np.float32)


def _mean(values: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """Return the mean [3] of the valid values [T, 3], or else of all valid joints, or else zero."""
    for candidate in (values, fallback.reshape(-1, 3)):
        present = candidate[~np.isnan(candidate).any(axis=-1)]
        if len(present):
            return present.mean(axis=0)
    return np.zeros(3, dtype=np.float32)


def _facing_rotation(body: np.ndarray, index: dict[str, int]) -> np.ndarray:
    """Return the rotation about y of the mean right-to-left axis of shoulders and hips to +x (facing the camera)."""
    across = np.zeros(3, dtype=np.float32)
    for part in ("shoulder", "hip"):
        side = body[:, index[f"{part}_left"]] - body[:, index[f"{part}_right"]]
        side = side[~np.isnan(side).any(axis=-1)]
        across += side.mean(axis=0) if len(side) else 0.0
    x, z = float(across[0]), float(across[2])
    length = float(np.hypot(x, z))
    if length < LEAST_WIDTH_M:  # from the side or not visible: no reliable direction
        return np.eye(3, dtype=np.float32)
    c, s = x / length, z / length
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=np.float32)


def _length(body: np.ndarray, start: int, end: int, shortest: float, usual: float) -> float:
    """Return the median distance (m) between two joints of [T, V, 3] above `shortest`; `usual` if there is none."""
    length = np.linalg.norm(body[:, end] - body[:, start], axis=-1)
    length = length[np.isfinite(length) & (length > shortest)]
    return float(np.median(length)) if len(length) else usual


def fill_missing(bodies: np.ndarray, layout: str) -> np.ndarray:
    """Move each missing joint of [..., V, D] to its parent (a zero bone) and a missing root to the origin."""
    filled = bodies.copy()
    if not np.isnan(filled).any():
        return filled
    parents = layouts.get(layout).parents
    for v in layouts.get(layout).outwards:
        missing = np.isnan(filled[..., v, :]).any(axis=-1)
        filled[missing, v] = 0.0 if parents[v] == v else filled[missing, parents[v]]
    return filled


def bones(joints: np.ndarray, layout: str = "kinect_v2_25", root_bone: str = "zero") -> np.ndarray:
    """Return the bones of joints [..., V, 3]: target minus source (DeepActsNet); see `root_bone` for the root."""
    parents = layouts.get(layout).parents
    vectors = joints - joints[..., list(parents), :]
    if root_bone == "origin":
        roots = [v for v, parent in enumerate(parents) if v == parent]
        vectors[..., roots, :] = joints[..., roots, :]
    return vectors


def stack(joints: np.ndarray, modality: str, layout: str = "kinect_v2_25", root_bone: str = "zero") -> np.ndarray:
    """Return the input [M, 3, T, V] for normalized joints [M, T, V, 3]; `modality` is one of `MODALITIES`.

    Raises:
        InputError: Another modality.
    """
    if modality not in MODALITIES:
        raise InputError(f"modality '{modality}' is not made from skeletons only; known: {', '.join(MODALITIES)}")
    values = bones(joints, layout, root_bone) if modality.startswith("bones") else joints
    if modality.endswith("_motion"):
        values = np.diff(values, axis=1, prepend=values[:, :1])  # zero for the first frame
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)  # (M, C, T, V)


class BodyFeature(Feature):
    """Normalized joints or bones, or their difference to the previous frame, (M, 3, T, V), by modality."""

    config_class = SkeletonPreprocessing
    streams: ClassVar = {"bodies": True}

    def make(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        """Compute the input from "bodies"; fewer than M are padded as absent."""
        return stack(normalized(clip, spec, memo), spec.modality, spec.layout, self.options(spec).root_bone)


@dataclass(frozen=True)
class PosePreprocessing(SkeletonPreprocessing):
    """Normalization and choice of the poses."""

    scope: str = setting("clip", "the poses are of the clip, or of the whole window", choices=("clip", "window"))
    choice: str = setting(
        "even",
        "evenly spaced frames, the last one included, or one frame of each of t_p equal segments",
        choices=("even", "segments"),
    )
    draw: int = setting(
        0, "seed of the random frame of each segment, in training only; 0: the middle frame", range=(0, 2**31 - 1)
    )


def segment_length(length: int, count: int) -> int:
    """Return the frames of each of `count` equal segments of `length` frames: the quotient, rounded half up.

    Segments may leave out up to half of `count` last frames, or reach that far beyond the last one.
    """
    return max(length // count + (length % count >= count / 2), 1)


def segment_frames(length: int, count: int, draw: int = 0) -> np.ndarray:
    """Return the index [count] of one of `length` frames in each of `count` equal segments (`segment_length`).

    It is the middle frame, or, with `draw` as the seed, a random one; the last frame beyond the end.
    """
    size = segment_length(length, count)
    within = np.random.default_rng(draw).integers(size, size=count) if draw else (size - 1) // 2
    return np.minimum(np.arange(count) * size + within, length - 1)


def drawn(specs: Iterable[InputSpec], rng: np.random.Generator) -> list[InputSpec]:
    """Return the specs with random poses of each segment, as in training; others stay unchanged."""
    return [
        dataclasses.replace(spec, preprocessing={**spec.preprocessing, "draw": int(rng.integers(1, 2**31))})
        if spec.preprocessing.get("choice") == "segments"
        else spec
        for spec in specs
    ]


class PoseFeature(Feature):
    """Normalized joints of the clip's body, (3, t_p, J): t_p frames of the clip, or of the window."""

    config_class = PosePreprocessing
    streams: ClassVar = {"bodies": True}

    def make(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        """Compute the input from "bodies"."""
        frames, options = spec.shape[1], self.options(spec)
        segments = options.choice == "segments"
        bodies = required_joints(clip, "bodies", spec, least=1 if segments else frames)
        whole = normalize(bodies[:1], options, spec.layout)[0]
        kept = whole[
            (segment_frames(len(whole), frames, options.draw) if segments else evenly_spaced(len(whole), frames))
        ]
        return np.ascontiguousarray(kept.transpose(2, 0, 1), dtype=np.float32)  # (C, t_p, J)


def normalized(clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
    """Return the joints [M, T, V, 3] of a clip's "bodies", normalized by the spec's `preprocessing`, once per clip.

    Fewer bodies than the spec's M are padded as absent. Raises `InputError` if shapes disagree.
    """
    key = ("normalized", spec.layout, spec.shape, tuple(sorted(spec.preprocessing.items())))
    if key not in memo:
        options = config.build(SkeletonPreprocessing, spec.preprocessing)
        count, _, frames, _ = spec.shape
        bodies = required_joints(clip, "bodies", spec, count, frames, frames)
        memo[key] = normalize(pad_bodies(bodies, count), options, spec.layout)
    return memo[key]
