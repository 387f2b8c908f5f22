"""Skeleton sequences: the joints of a whole recording in the data contract."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actrec.skeleton.layouts import CANONICAL, KINECT_V2_25, convert
from actrec.types import NANOSECONDS, Body
from actrec.utils.errors import DeviceError, InputError
from actrec.utils.folders import read_file
from actrec.utils.geometry import kinect_to_optical

FARTHEST_M = 1000.0
"""Limit of plausible distances; a larger value means corruption or another unit."""

CAMERA_HEIGHT_M, NEAREST_M = 1.0, 2.5
"""Camera to which motion without a camera is shown: its height above the floor, and the distance of the people."""

TRACKED_SCORES = np.array([0.0, 0.5, 1.0], dtype=np.float32)
"""Score of a Kinect tracking state: 0 not tracked, 1 inferred, 2 tracked."""

MAX_FILE_BYTES, MAX_ARRAYS_BYTES = 1 << 30, 1 << 31
"""Limit of a file that is read as a whole, and of the arrays of an .npz together."""


@dataclass(frozen=True)
class SkeletonSequence:
    """The joints of M bodies over T frames, in layout `kinect_v2_25`; or of hands (25 is then 22).

    Attributes:
        name: Name of the recording, without folder and suffix.
        stamps_ns: [T] int64 ns; from 0 if the format has no clock.
        bodies: [M, T, 25, 3] float32 m in the optical frame, NaN if missing.
        scores: [M, T, 25] float32 in 0..1, 0 if missing.
        pixels: [M, T, 25, 2] float32 (u, v) in the color image, not mirrored; NaN if the format has none.
        body_ids: M strings that start with a letter (REP-155).
        label: Number of the action in the dataset (NTU "A001" is 1); None if unlabeled.
        up: [3] unit vector against gravity in the optical frame; None if unknown.
        meta: Other data of the format: `subject`, `view`, `fps`, `label_name`, …; `start_ns` if it began before.
        layout: "kinect_v2_25", or "hand_22" for hands.
    """

    name: str
    stamps_ns: np.ndarray
    bodies: np.ndarray
    scores: np.ndarray
    pixels: np.ndarray
    body_ids: tuple[str, ...]
    label: int | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    up: np.ndarray | None = None
    layout: str = CANONICAL

    def __len__(self) -> int:
        return len(self.stamps_ns)

    @property
    def start_ns(self) -> int:
        """Return the stamp of the recording's first frame, also without joints, from which labels count."""
        return int(self.meta.get("start_ns", self.stamps_ns[0]))

    @property
    def streams(self) -> dict[str, np.ndarray]:
        """Return the streams of a clip besides the bodies (`actrec.datasets.base.Clip`): `up`, if known."""
        return {} if self.up is None else {"up": self.up}

    def bodies_at(self, index: int) -> list[Body]:
        """Return the bodies in frame `index` with at least one known joint."""
        return [
            Body(body_id, "kinect_v2_25", self.bodies[m, index], self.pixels[m, index], self.scores[m, index])
            for m, body_id in enumerate(self.body_ids)
            if np.isfinite(self.bodies[m, index]).any()
        ]


def from_joints(name: str, stamps_ns: np.ndarray, bodies: np.ndarray, **more: Any) -> SkeletonSequence:
    """Return a sequence of joints [M, T, 25, 3] alone, without pixels; known joints have score 1.

    `more` are further attributes, as `meta` and `up`.
    """
    scores = np.isfinite(bodies).all(axis=-1).astype(np.float32)
    pixels = np.full((*bodies.shape[:-1], 2), np.nan, np.float32)
    ids = tuple(f"body_{number + 1}" for number in range(len(bodies)))
    return SkeletonSequence(name, stamps_ns, bodies, scores, pixels, ids, **more)


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
    up: np.ndarray | None = None,
) -> SkeletonSequence:
    """Create a sequence from joints of a Kinect; other arguments as in `SkeletonSequence`.

    Args:
        name: Name of the sequence.
        positions: [M, T, V, 3] m in Kinect camera space (y up, x to the sensor's left). A joint at the origin or that
            is not finite is missing.
        layout: The joint layout of `positions`.
        stamps_ns: [T] nanoseconds.
        scores: [M, T, V] in 0..1; None for 1 at every known joint.
        pixels: [M, T, 25, 2] in `kinect_v2_25`; None if unknown.
        body_ids: M names; None for "body_1", "body_2", …

    Raises:
        InputError: A joint is farther away than `FARTHEST_M`.
    """
    check_distance(name, positions)
    positions = np.asarray(positions, dtype=np.float32)
    missing = ~np.isfinite(positions).all(-1) | ~positions.any(-1)
    confidence = np.ones(missing.shape, np.float32) if scores is None else np.asarray(scores, np.float32)
    confidence = np.where(missing, np.float32(0), confidence)
    optical = np.where((confidence > 0)[..., None], kinect_to_optical(positions), np.float32(np.nan))
    bodies, confidence = convert(optical, confidence, layout)
    if pixels is None:
        pixels = np.full((*bodies.shape[:-1], 2), np.nan, np.float32)
    ids = body_ids or tuple(f"body_{m + 1}" for m in range(len(bodies)))
    stamps = np.asarray(stamps_ns, np.int64)
    shown = pixels.astype(np.float32)
    return SkeletonSequence(name, stamps, bodies, confidence, shown, ids, label, dict(meta or {}), up)


def check_distance(name: str, positions: np.ndarray) -> None:
    """Raise InputError if a joint of the sequence `name`, [..., 3] m, is farther away than `FARTHEST_M`.

    Call it before a conversion to float32, which turns large values into infinity.
    """
    if ((np.abs(positions) > FARTHEST_M) & np.isfinite(positions)).any():
        raise InputError(f"'{name}' has joints more than {FARTHEST_M:g} m away: it is corrupt, or not in meters")


def place_before_camera(joints: np.ndarray, turn: bool = True) -> np.ndarray:
    """Return bodies as a level camera sees them, `CAMERA_HEIGHT_M` above the floor and `NEAREST_M` away at the least.

    Args:
        joints: [M, T, 25, 3] m in right-handed axes with y up, NaN for missing.
        turn: Turn all so that the first body faces the camera when it is first seen; else keep the heading, in which
            the camera looks along z.

    Returns:
        [M, T, 25, 3] m in Kinect camera space, float32.
    """
    index = KINECT_V2_25.index
    sides = sum(joints[..., index[f"{j}_left"], :] - joints[..., index[f"{j}_right"], :] for j in ("hip", "shoulder"))
    known = sides[np.isfinite(sides).all(axis=-1)]
    if turn and len(known):
        heading = np.arctan2(known[0, 2], -known[0, 0])  # the left goes to −x: the body then faces −z, the camera
        c, s = np.cos(heading), np.sin(heading)
        joints = joints @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]], np.float32).T
    roots = joints[..., index["spine_base"], :]
    roots = joints[np.isfinite(joints).all(axis=-1)] if np.isnan(roots).all() else roots.reshape(-1, 3)
    low, high = np.nanmin(roots, axis=0), np.nanmax(roots, axis=0)
    feet = joints[..., 1].reshape(*joints.shape[:2], -1)
    floor = np.percentile(np.nanmin(feet[np.isfinite(feet).any(axis=-1)], axis=-1), 10)
    middle = (low[0] + high[0]) / 2
    moved: np.ndarray = joints - np.array([middle, floor + CAMERA_HEIGHT_M, low[2] - NEAREST_M], np.float32)
    return moved


def stamps_at(fps: float, frames: int) -> np.ndarray:
    """Return stamps [T] in ns from 0, at `fps` Hz, for a recording without a clock."""
    if not fps > 0:
        raise InputError(f"fps is {fps}, expected a positive number of frames per second")
    return np.round(np.arange(frames) * (NANOSECONDS / fps)).astype(np.int64)


def read_bytes(path: Path) -> bytes:
    """Return the content of a recording; raise DeviceError if it cannot be read, or is larger than 1 GiB."""
    try:
        return read_file(path, MAX_FILE_BYTES)
    except OSError as error:
        raise DeviceError(f"cannot read '{path}': {error.strerror}; check the path") from error


def read_text(path: Path) -> str:
    """Return the text of a recording; raise as `read_bytes`, and InputError if it is not text."""
    try:
        return read_bytes(path).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is not UTF-8 text: it is corrupt or has another format or encoding") from error


def open_npz(path: Path, limit: int = MAX_ARRAYS_BYTES) -> Any:
    """Open an .npz as `np.load` does, without pickles; raise InputError if its arrays have more than `limit` bytes."""
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())  # a member is read up to this size
    if size > limit:
        raise InputError(
            f"'{path}' holds {size / 1e6:,.0f} MB of arrays, at most {limit / 1e6:,.0f} MB are read: it is damaged, or "
            "must be split"
        )
    return np.load(path, allow_pickle=False)


def load_npz(path: Path, keys: tuple[str, ...], limit: int = MAX_ARRAYS_BYTES) -> dict[str, np.ndarray]:
    """Load arrays of an .npz; raise InputError if it is corrupt, too large (`open_npz`) or lacks one of `keys`."""
    if not path.is_file():
        raise DeviceError(f"there is no file '{path}'; check the path")
    try:
        with open_npz(path, limit) as archive:
            missing = [key for key in keys if key not in archive.files]
            if missing:
                raise InputError(f"'{path}' has no array {', '.join(missing)}; it has: {', '.join(archive.files)}")
            return {key: archive[key] for key in keys}
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and the codecs raise various errors
        raise InputError(f"'{path}' is corrupt or not an .npz archive; copy it again ({error})") from error


def split_frames(
    path: Path, arrays: Mapping[str, np.ndarray], joints: int, ranges: Mapping[str, tuple[int, int]]
) -> list[np.ndarray]:
    """Split `xyz` [frames, V, 3] of `arrays` into N sequences of `length` [N] frames.

    `ranges` has the minimum and maximum of other arrays of integers [N], one per sequence.

    Raises:
        InputError: An array has a wrong shape, type or range, or lengths do not add up; the message names `path`.
    """
    xyz, length = arrays["xyz"], arrays["length"]
    if xyz.ndim != 3 or xyz.shape[1:] != (joints, 3) or xyz.dtype.kind not in "fiu":
        raise InputError(f"'{path}': xyz is {xyz.dtype} {list(xyz.shape)}, expected [frames, {joints}, 3] in m")
    for name, (minimum, maximum) in {"length": (1, len(xyz)), **ranges}.items():
        column = arrays[name]
        if column.shape != (length.size,) or column.dtype.kind not in "iub":
            raise InputError(
                f"'{path}': {name} is {column.dtype} {list(column.shape)}, expected {length.size} whole numbers"
            )
        if invalid := sorted({int(number) for number in column if not minimum <= number <= maximum}):
            raise InputError(f"'{path}': {name} holds {invalid[0]}, expected {minimum} to {maximum}")
    if int(length.sum()) != len(xyz):
        raise InputError(f"'{path}': the lengths add up to {int(length.sum())} but xyz holds {len(xyz)} frames")
    return np.split(xyz, np.cumsum(length)[:-1])
