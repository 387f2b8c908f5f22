"""SYSU 3D Human-Object Interaction (Hu et al., CVPR 2015): Kinect v1 joints at 30 Hz, 12 actions by 40 subjects.

A clip is a folder: `sklWorld.mat`, whose `SW` [20, 3, T] are the joints in the sensor's space (metres, y up, in the
order of the Kinect SDK), `sklImage.mat`, whose `S` [20, 2, T] are the same in the colour picture (px), and the pictures
themselves in `rgb` and `depth`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actrec.errors import InputError
from actrec.recordings.matlab import read_mat
from actrec.recordings.sequence import SkeletonSequence, from_kinect, stamps_at
from actrec.skeleton import layouts
from actrec.skeleton.conversions import convert

FPS = 30.0
COLOUR_SIZE = (640, 480)
CLASSES = (
    "drinking", "pouring", "calling phone", "playing phone", "wearing backpacks", "packing backpacks", "sitting chair",
    "moving chair", "taking out wallet", "taking from wallet", "mopping", "sweeping",
)  # fmt: skip
LAYOUT = "kinect_v1_20"
_TRUNK_M = (0.2, 1.0)
"""What the middle trunk, hips to shoulders, may measure if the numbers are metres."""


@dataclass(frozen=True)
class SysuSequence:
    """A clip's joints, and whether its pictures show left and right exchanged.

    Attributes:
        sequence: In the data contract; pixels lie in the picture turned back from its mirroring.
        mirrored: Exchange left and right of the pictures for the joints to lie on the person.
    """

    sequence: SkeletonSequence
    mirrored: bool


def read_sysu(folder: str | Path, name: str, fps: float = FPS) -> SysuSequence:
    """Reads the joints of one clip.

    Args:
        folder: That of the clip.
        name: Of the clip.
        fps: Frames a second.

    Raises:
        DeviceError: There is no `sklWorld.mat`.
        InputError: A file is truncated or corrupt, not in metres, or shows nobody; names it.
        MissingLibraryError: scipy is not installed.
    """
    path = Path(folder) / "sklWorld.mat"
    world = _joints(path, read_mat(path, "SW"), 3)
    _check(path, world)
    image = Path(folder) / "sklImage.mat"
    pixels, mirrored = None, False
    if image.is_file():
        seen = _joints(image, read_mat(image, "S"), 2)
        if len(seen) != len(world):
            raise InputError(f"'{image}' has {len(seen)} frames but '{path.name}' {len(world)}: copy both again")
        mirrored = _mirrored(world, seen)
        pixels = _placed(world, seen, mirrored)
    meta: dict[str, Any] = {"format": "sysu", "fps": fps, "image_size": COLOUR_SIZE}
    sequence = from_kinect(name, world[None], LAYOUT, stamps_at(fps, len(world)), pixels=pixels, meta=meta)
    return SysuSequence(sequence, mirrored)


def _joints(path: Path, value: np.ndarray, dimensions: int) -> np.ndarray:
    """[T, 20, D] of a published [20, D, T]."""
    joints = value.astype(np.float64)
    if joints.ndim == 2:
        joints = joints[..., None]  # MATLAB drops a last axis of one: a clip of a single frame
    if joints.ndim != 3 or joints.shape[:2] != (20, dimensions) or not joints.shape[2]:
        raise InputError(f"'{path}' is {list(joints.shape)}, expected [20, {dimensions}, frames]")
    return joints.transpose(2, 0, 1)


def _known(joints: np.ndarray) -> np.ndarray:
    return np.isfinite(joints).all(axis=-1) & (joints != 0).any(axis=-1)


def _check(path: Path, world: np.ndarray) -> None:
    """Refuses what is not metres with y up."""
    index = layouts.get(LAYOUT).index
    hips, shoulders = world[:, index["hip_centre"]], world[:, index["shoulder_centre"]]
    both = _known(hips) & _known(shoulders)
    if not both.any():
        raise InputError(f"'{path}' shows nobody in {len(world)} frames; leave it out")
    trunk = (shoulders - hips)[both]
    length, up = float(np.median(np.linalg.norm(trunk, axis=-1))), float(np.median(trunk[:, 1]))
    if not (_TRUNK_M[0] <= length <= _TRUNK_M[1] and up > 0):
        raise InputError(
            f"'{path}': the trunk measures {length:.3g} and rises by {up:.3g}, expected {_TRUNK_M[0]} to {_TRUNK_M[1]} "
            "m upwards: it is not in the Kinect's space"
        )


def _mirrored(world: np.ndarray, seen: np.ndarray) -> bool:
    """Whether u grows with x, which points to the sensor's left: then the picture is mirrored."""
    both = _known(world) & _known(seen)
    x, u = world[..., 0], seen[..., 0]
    count = np.maximum(both.sum(axis=1, keepdims=True), 1)
    x, u = (v - np.where(both, v, 0).sum(axis=1, keepdims=True) / count for v in (x, u))
    return bool((x * u)[both].sum() > 0)


def _placed(world: np.ndarray, seen: np.ndarray, mirrored: bool) -> np.ndarray:
    """[1, T, 25, 2] px in the picture turned back, NaN where a joint is missing."""
    seen = seen.astype(np.float32)
    if mirrored:
        seen[..., 0] = COLOUR_SIZE[0] - 1 - seen[..., 0]
    known = _known(world) & np.isfinite(seen).all(axis=-1)
    seen[~known] = np.nan
    return convert(seen[None], known[None].astype(np.float32), LAYOUT)[0]
