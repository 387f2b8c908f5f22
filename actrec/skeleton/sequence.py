"""What a skeleton recording is once read: whole tracks of joints in the data contract."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actrec.skeleton.conversions import convert
from actrec.types import NANOSECONDS, Body
from actrec.utils.errors import DeviceError, InputError
from actrec.utils.geometry import kinect_to_optical

FARTHEST_M = 1000.0
"""No joint of a recording in metres is as far away."""

TRACKED_SCORES = np.array([0.0, 0.5, 1.0], dtype=np.float32)
"""Score of a Kinect tracking state: 0 not tracked, 1 inferred, 2 tracked."""


@dataclass(frozen=True)
class SkeletonSequence:
    """The joints of M bodies over T frames, in layout `kinect_v2_25`.

    Attributes:
        name: Name of the recording, without folder and suffix.
        stamps_ns: [T] int64 nanoseconds; from 0 where the format has no clock.
        bodies: [M, T, 25, 3] float32 metres in the optical frame, NaN where missing.
        scores: [M, T, 25] float32 in 0..1, 0 where missing.
        pixels: [M, T, 25, 2] float32 (u, v) in the color image, not mirrored; NaN where the format has none.
        body_ids: M strings that start with a letter (REP-155).
        label: The action's number as the dataset counts it (NTU "A001" is 1); None if it has none.
        meta: What else the format tells: `subject`, `view`, `fps`, `label_name`, …
    """

    name: str
    stamps_ns: np.ndarray
    bodies: np.ndarray
    scores: np.ndarray
    pixels: np.ndarray
    body_ids: tuple[str, ...]
    label: int | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.stamps_ns)

    def bodies_at(self, index: int) -> list[Body]:
        """Return the bodies in frame `index`, without those that have no known joint."""
        return [
            Body(body_id, "kinect_v2_25", self.bodies[m, index], self.pixels[m, index], self.scores[m, index])
            for m, body_id in enumerate(self.body_ids)
            if np.isfinite(self.bodies[m, index]).any()
        ]


def from_kinect(
    name: str,
    positions: np.ndarray,
    layout: str,
    stamps_ns: np.ndarray,
    *,
    scores: np.ndarray | None = None,
    pixels: np.ndarray | None = None,
    body_ids: tuple[str, ...] | None = None,
    label: int | None = None,
    meta: dict[str, Any] | None = None,
) -> SkeletonSequence:
    """Make a sequence of joints measured by a Kinect.

    Args:
        name: Name of the sequence.
        positions: [M, T, V, 3] metres in Kinect camera space (y up, x to the sensor's left). A joint at the
            origin, which is inside the sensor, or that is not finite is a missing one.
        layout: The joint layout of `positions`.
        stamps_ns: [T] nanoseconds.
        scores: [M, T, V] in 0..1; None gives 1 to every joint that is there.
        pixels: [M, T, 25, 2] already in `kinect_v2_25`; None if there are none.
        body_ids: M names; None gives "body_1", "body_2", …
        label: Number of the action.
        meta: What else is known.

    Raises:
        InputError: A joint is further away than `FARTHEST_M`.
    """
    check_distance(name, positions)
    positions = np.asarray(positions, dtype=np.float32)
    missing = ~np.isfinite(positions).all(-1) | ~positions.any(-1)
    known = np.ones(missing.shape, np.float32) if scores is None else np.asarray(scores, np.float32)
    known = np.where(missing, np.float32(0), known)
    optical = np.where((known > 0)[..., None], kinect_to_optical(positions), np.float32(np.nan))
    bodies, known = convert(optical, known, layout)
    if pixels is None:
        pixels = np.full((*bodies.shape[:-1], 2), np.nan, np.float32)
    ids = body_ids or tuple(f"body_{m + 1}" for m in range(len(bodies)))
    stamps = np.asarray(stamps_ns, np.int64)
    return SkeletonSequence(name, stamps, bodies, known, pixels.astype(np.float32), ids, label, dict(meta or {}))


def check_distance(name: str, positions: np.ndarray) -> None:
    """Refuse joints that are too far away, before float32 turns far values into infinity.

    Args:
        name: Of the sequence.
        positions: [..., 3] metres, not finite where missing.

    Raises:
        InputError: A joint is further away than `FARTHEST_M`.
    """
    if ((np.abs(positions) > FARTHEST_M) & np.isfinite(positions)).any():
        raise InputError(f"'{name}' has joints more than {FARTHEST_M:g} m away: it is corrupt, or not in metres")


def stamps_at(fps: float, frames: int) -> np.ndarray:
    """[T] stamps of a recording without a clock, from 0 at `fps`."""
    if not fps > 0:
        raise InputError(f"fps is {fps}, expected a positive number of frames per second")
    return np.round(np.arange(frames) * (NANOSECONDS / fps)).astype(np.int64)


def read_text(path: Path) -> str:
    """Return the text of a recording.

    Raises:
        DeviceError: There is no such file, or it cannot be read.
        InputError: It is not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DeviceError(f"cannot read '{path}': {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is no text in UTF-8: save it so, or it is corrupt or of another format") from error


def read_bytes(path: Path) -> bytes:
    """Return the content of a recording.

    Raises:
        DeviceError: There is no such file, or it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DeviceError(f"cannot read '{path}': {error.strerror}; check the path") from error


def load_npz(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays of an .npz; never unpickles.

    Raises:
        DeviceError: There is no such file.
        InputError: It is corrupt, or lacks one of `keys`.
    """
    if not path.is_file():
        raise DeviceError(f"there is no file '{path}'; check the path")
    try:
        with np.load(path, allow_pickle=False) as archive:
            absent = [key for key in keys if key not in archive.files]
            if absent:
                raise InputError(f"'{path}' has no array {', '.join(absent)}; it has: {', '.join(archive.files)}")
            return {key: archive[key] for key in keys}
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and the codec each raise their own for a damaged file
        raise InputError(f"'{path}' is corrupt or not an .npz archive; copy it again ({error})") from error


def split_frames(
    path: Path, arrays: Mapping[str, np.ndarray], joints: int, ranges: Mapping[str, tuple[int, int]]
) -> list[np.ndarray]:
    """Cuts `xyz` [frames, V, 3] into N sequences of `length` [N] frames.

    Args:
        path: Named in errors.
        arrays: `xyz`, `length` and the arrays named in `ranges`.
        joints: V.
        ranges: Arrays that say something of each sequence in whole numbers [N]; least and largest of each.

    Raises:
        InputError: An array is of another form or length, holds other numbers, or the lengths do not add up.
    """
    xyz, length = arrays["xyz"], arrays["length"]
    if xyz.ndim != 3 or xyz.shape[1:] != (joints, 3) or xyz.dtype.kind not in "fiu":
        raise InputError(f"'{path}': xyz is {xyz.dtype} {list(xyz.shape)}, expected [frames, {joints}, 3] metres")
    for name, (least, most) in {"length": (1, len(xyz)), **ranges}.items():
        column = arrays[name]
        if column.shape != (length.size,) or column.dtype.kind not in "iub":
            told = f"{column.dtype} {list(column.shape)}, expected {length.size} whole numbers"
            raise InputError(f"'{path}': {name} is {told}")
        if wrong := sorted({int(number) for number in column if not least <= number <= most}):
            raise InputError(f"'{path}': {name} holds {wrong[0]}, expected {least} to {most}")
    if int(length.sum()) != len(xyz):
        raise InputError(f"'{path}': the lengths add up to {int(length.sum())} but xyz holds {len(xyz)} frames")
    return np.split(xyz, np.cumsum(length)[:-1])
