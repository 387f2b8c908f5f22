"""NTU RGB+D `.skeleton` files (Shahroudy et al., CVPR 2016): Kinect v2, 30 Hz, up to six bodies a frame.

The text holds numbers only: frames; for each frame bodies; for each body a line of ten values and, for each of its
25 joints, twelve: x y z (meters, camera space), depth x y, color x y (pixels), orientation w x y z, state.
The images of the dataset and the pixels in the files are mirrored, as the Kinect v2 records them.

Body cleaning follows Shahroudy et al. (CVPR 2016) and Zhang et al. (ICCV 2017), as in DeepActsNet: a body with few
frames, or wider than a standing person in most of them, is furniture; of the others the most moving are kept. A sensor
gives a person a new id after losing the track, so tracks that never overlap in time are merged.
"""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actrec.datasets.ntu.actions import ACTIONS
from actrec.skeleton.sequence import TRACKED_SCORES, SkeletonSequence, from_kinect, read_bytes, stamps_at
from actrec.utils.config import setting
from actrec.utils.errors import InputError

FPS = 30.0

JOINTS = 25

COLOR_SIZE = (1920, 1080)

DEPTH_SIZE = (512, 424)

BODY_FIELDS = (
    "clipped_edges", "hand_left_confidence", "hand_left_state", "hand_right_confidence", "hand_right_state",
    "restricted", "lean_x", "lean_y", "tracking_state",
)  # fmt: skip

_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")

_JOINT_VALUES = 12

_STATE = 11  # where a joint's state stands among them

_HEAD_VALUES = 2 + len(BODY_FIELDS)  # id, fields, number of joints


@dataclass(frozen=True)
class NtuRecording:
    """All values of a `.skeleton` file, in Kinect camera space (float64).

    Attributes:
        body_ids: M tracking ids, in order of appearance.
        positions: [M, T, 25, 3] meters, y up and x to the sensor's left; NaN where the body is not in the frame.
        depth_pixels, color_pixels: [M, T, 25, 2] in the mirrored 512×424 and 1920×1080 images.
        orientations: [M, T, 25, 4] quaternions w x y z.
        states: [M, T, 25] int8: 0 not tracked, 1 inferred, 2 tracked, −1 where the body is not in the frame.
        body_values: [M, T, 9] values of `BODY_FIELDS`.
    """

    body_ids: tuple[int, ...]
    positions: np.ndarray
    depth_pixels: np.ndarray
    color_pixels: np.ndarray
    orientations: np.ndarray
    states: np.ndarray
    body_values: np.ndarray


def read_ntu_file(path: str | Path) -> NtuRecording:
    """Read a `.skeleton` file completely.

    Raises:
        DeviceError: There is no such file.
        InputError: The file is empty, truncated, too long, or not a `.skeleton` file.
    """
    path = Path(path)
    values, seen, frames = _parse(path)
    ids = tuple(dict.fromkeys(body_id for _, body_id, _ in seen))
    number = {body_id: m for m, body_id in enumerate(ids)}
    joints = np.full((len(ids), frames, JOINTS, _JOINT_VALUES), np.nan)
    of_bodies = np.full((len(ids), frames, len(BODY_FIELDS)), np.nan)
    if seen:
        t = np.array([frame for frame, _, _ in seen])
        m = np.array([number[body_id] for _, body_id, _ in seen])
        start = np.array([at for _, _, at in seen])[:, None]
        of_bodies[m, t] = values[start + 1 + np.arange(len(BODY_FIELDS))]
        block = values[start + _HEAD_VALUES + np.arange(JOINTS * _JOINT_VALUES)]
        joints[m, t] = block.reshape(-1, JOINTS, _JOINT_VALUES)
        if not np.isin(block[:, _STATE::_JOINT_VALUES], (0, 1, 2)).all():
            raise InputError(f"'{path}' is not an NTU .skeleton file: a joint's state is neither 0, 1 nor 2")
    states = np.where(np.isnan(joints[..., _STATE]), -1, joints[..., _STATE]).astype(np.int8)
    return NtuRecording(ids, joints[..., 0:3], joints[..., 3:5], joints[..., 5:7], joints[..., 7:11], states, of_bodies)


def _parse(path: Path) -> tuple[np.ndarray, list[tuple[int, int, int]], int]:
    """Return all values; (frame, body id, index of its first value) of each body in each frame; number of frames."""
    from actrec.datasets.ntu.numbers import read_numbers  # numba takes a second to load

    try:
        numbers = read_numbers(read_bytes(path))
    except ValueError as error:
        raise InputError(f"'{path}' is not an NTU .skeleton file: {error}") from error
    if not len(numbers.values):
        raise InputError(f"'{path}' is empty; copy it again")
    _check_columns(path, numbers.lines)
    seen: dict[tuple[int, int], int] = {}
    cursor = _Cursor(path, numbers.values)
    frames = cursor.count("frames")
    for t in range(frames):
        for _ in range(cursor.count("bodies")):
            start = cursor.take(1 + len(BODY_FIELDS))
            if (joints := cursor.count("joints")) != JOINTS:
                raise InputError(f"'{path}': frame {t + 1} has a body of {joints} joints, expected {JOINTS}")
            cursor.take(JOINTS * _JOINT_VALUES)
            body = (t, _identity(path, numbers.word(start)))
            if body in seen:
                raise InputError(f"'{path}': frame {t + 1} has body {body[1]} twice")
            seen[body] = start
    if cursor.at != len(numbers.values):
        raise InputError(f"'{path}': {len(numbers.values) - cursor.at} values after the last of {frames} frames")
    return numbers.values, [(*body, start) for body, start in seen.items()], frames


def _identity(path: Path, word: str) -> int:
    try:
        return int(word)
    except ValueError as error:
        raise InputError(f"'{path}' is not an NTU .skeleton file: '{word}' where a body's identity stands") from error


def _check_columns(path: Path, lines: np.ndarray) -> None:
    widths = np.bincount(lines)
    wrong = np.flatnonzero(~np.isin(widths, (0, 1, 1 + len(BODY_FIELDS), _JOINT_VALUES)))
    if len(wrong) and wrong[0] != lines[-1]:  # a short last line is where the file was cut
        raise InputError(
            f"'{path}' line {wrong[0]} has {widths[wrong[0]]} values; a number, a body or a joint has "
            f"1, {1 + len(BODY_FIELDS)} or {_JOINT_VALUES}"
        )


class _Cursor:
    def __init__(self, path: Path, values: np.ndarray):
        self.at, self._path, self._values, self._end = 0, path, values, len(values)

    def take(self, count: int) -> int:
        start, self.at = self.at, self.at + count
        if self.at > self._end:
            raise InputError(f"'{self._path}' is truncated: it ends {self.at - self._end} values early; copy it again")
        return start

    def count(self, what: str) -> int:
        value = float(self._values[self.take(1)])
        if not (value.is_integer() and 0 <= value < 1e6):
            raise InputError(f"'{self._path}' is not an NTU .skeleton file: {value} where a number of {what} stands")
        return int(value)


def parse_name(name: str) -> dict[str, int]:
    """Parse setup, camera, subject, replication and action from "SsssCcccPpppRrrrAaaa"; empty for another name."""
    match = _NAME.search(name)
    if not match:
        return {}
    return dict(zip(("setup", "camera", "subject", "replication", "action"), map(int, match.groups()), strict=True))


def unmirror(pixels: np.ndarray, width: int) -> np.ndarray:
    """Convert pixels [..., 2] of a mirrored image to the mirrored-back image."""
    turned = np.array(pixels, dtype=np.float32)
    turned[..., 0] = (width - 1) - turned[..., 0]
    return turned


def read_ntu_skeleton(path: str | Path, fps: float = FPS) -> SkeletonSequence:
    """Read a `.skeleton` file to the data contract, every body of it.

    `pixels` refer to the mirrored-back color image (1919 − the file's u); `read_ntu_file` keeps the file's own.

    Raises:
        DeviceError: There is no such file.
        InputError: It is truncated or corrupt.
    """
    path = Path(path)
    recording = read_ntu_file(path)
    meta: dict[str, Any] = {"format": "ntu", "fps": fps, "image_size": COLOR_SIZE, **parse_name(path.stem)}
    if 1 <= meta.get("action", 0) <= len(ACTIONS):
        meta["label_name"] = ACTIONS[meta["action"] - 1]
    pixels = unmirror(recording.color_pixels, COLOR_SIZE[0])
    return from_kinect(
        path.stem,
        recording.positions,
        "kinect_v2_25",
        stamps_at(fps, recording.positions.shape[1]),
        scores=TRACKED_SCORES[np.clip(recording.states, 0, 2)],
        pixels=np.where(np.isfinite(pixels), pixels, np.nan),
        body_ids=tuple(f"body_{body_id}" for body_id in recording.body_ids),
        label=meta.get("action"),
        meta=meta,
    )


@dataclass(frozen=True)
class BodyCleaning:
    """How bodies are selected. The only body of a recording is always kept."""

    min_frames: int = setting(11, "drop bodies with fewer frames; 0 keeps all", unit="frames", range=(0, 100_000))
    spread: float = setting(
        0.8,
        "a body whose joints spread in x exceeds this multiple of their spread in y is no person in that frame; "
        "0 disables the check",
        range=(0.0, 100.0),
    )
    spread_share: float = setting(
        0.69754,
        "drop bodies that are no person in at least this share of their frames",
        range=(0.0, 1.0),
    )
    max_bodies: int = setting(2, "largest number of bodies, the most moving first; 0 keeps all", range=(0, 6))
    join: bool = setting(True, "merge tracks that never share a frame into one person")


def clean(sequence: SkeletonSequence, options: BodyCleaning) -> SkeletonSequence:
    """Return the sequence with the bodies selected by `options`, the most moving first.

    Bodies without any joint are dropped. If no body looks like a person, the most likely one is kept.
    """
    seen = np.isfinite(sequence.bodies).all(-1).any(-1)  # (M, T)
    left = np.flatnonzero(seen.any(1))
    if len(left) > 1:
        left = _most_moving(sequence.bodies, left, seen, options)
    return _slots(sequence, left, seen, options)


def _most_moving(bodies: np.ndarray, left: np.ndarray, seen: np.ndarray, options: BodyCleaning) -> np.ndarray:
    left = _long_enough(left, seen, options)
    noise = _noise(bodies, options)
    if len(left) > 1:
        left = _upright(left, seen, noise, options)
    motion = [_motion(bodies[m], seen[m] & ~noise[m]) for m in left]
    return left[np.argsort(motion, kind="stable")[::-1]]


def _long_enough(left: np.ndarray, seen: np.ndarray, options: BodyCleaning) -> np.ndarray:
    frames = seen[left].sum(1)
    return left[frames >= min(options.min_frames, frames.max())]


def _noise(bodies: np.ndarray, options: BodyCleaning) -> np.ndarray:
    """Return the frames [M, T] in which a body is wider than a person."""
    known = np.isfinite(bodies).all(-1)[..., None]
    spread = np.where(known, bodies, -np.inf).max(2) - np.where(known, bodies, np.inf).min(2)  # (M, T, 3)
    spread = np.where(np.isfinite(spread), spread, 0)  # of a body that is not there
    return (spread[..., 0] > options.spread * spread[..., 1]) & (options.spread > 0)


def _upright(left: np.ndarray, seen: np.ndarray, noise: np.ndarray, options: BodyCleaning) -> np.ndarray:
    share = (noise & seen)[left].sum(1) / seen[left].sum(1)
    kept = left[(share < options.spread_share) | (share == 0)]
    return kept if len(kept) else left[[share.argmin()]]


def _motion(body: np.ndarray, frames: np.ndarray) -> float:
    """Return the variance of all joints of a body [T, V, 3], summed over x, y and z, in valid frames."""
    every = body[np.isfinite(body).all(-1)]
    calm = body[frames]
    calm = calm[np.isfinite(calm).all(-1)]
    return float(min(part.var(0).sum() for part in (every, calm) if len(part)))


def _slots(sequence: SkeletonSequence, order: np.ndarray, seen: np.ndarray, options: BodyCleaning) -> SkeletonSequence:
    slots: list[list[int]] = []
    for m in order:
        free = [slot for slot in slots if options.join and not (seen[slot] & seen[m]).any()]
        if free:
            free[0].append(int(m))
        elif not options.max_bodies or len(slots) < options.max_bodies:
            slots.append([int(m)])
    arrays = {name: getattr(sequence, name)[[slot[0] for slot in slots]] for name in ("bodies", "scores", "pixels")}
    for k, slot in enumerate(slots):
        for m in slot[1:]:
            for name, array in arrays.items():
                array[k, seen[m]] = getattr(sequence, name)[m, seen[m]]
    ids = tuple(sequence.body_ids[slot[0]] for slot in slots)
    return dataclasses.replace(sequence, body_ids=ids, **arrays)
