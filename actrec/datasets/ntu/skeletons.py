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

from actrec.skeleton.sequence import TRACKED_SCORES, SkeletonSequence, from_kinect, read_bytes, stamps_at
from actrec.utils.config import setting
from actrec.utils.errors import InputError

ACTIONS = (
    "drink water", "eat meal/snack", "brushing teeth", "brushing hair", "drop", "pickup", "throw", "sitting down",
    "standing up (from sitting position)", "clapping", "reading", "writing", "tear up paper", "wear jacket",
    "take off jacket", "wear a shoe", "take off a shoe", "wear on glasses", "take off glasses", "put on a hat/cap",
    "take off a hat/cap", "cheer up", "hand waving", "kicking something", "reach into pocket",
    "hopping (one foot jumping)", "jump up", "make a phone call/answer phone", "playing with phone/tablet",
    "typing on a keyboard", "pointing to something with finger", "taking a selfie", "check time (from watch)",
    "rub two hands together", "nod head/bow", "shake head", "wipe face", "salute", "put the palms together",
    "cross hands in front (say stop)", "sneeze/cough", "staggering", "falling", "touch head (headache)",
    "touch chest (stomachache/heart pain)", "touch back (backache)", "touch neck (neckache)",
    "nausea or vomiting condition", "use a fan (with hand or paper)/feeling warm", "punching/slapping other person",
    "kicking other person", "pushing other person", "pat on back of other person", "point finger at the other person",
    "hugging other person", "giving something to other person", "touch other person's pocket", "handshaking",
    "walking towards each other", "walking apart from each other",
    "put on headphone", "take off headphone", "shoot at the basket", "bounce ball", "tennis bat swing",
    "juggling table tennis balls", "hush (quiet)", "flick hair", "thumb up", "thumb down", "make ok sign",
    "make victory sign", "staple book", "counting money", "cutting nails", "cutting paper (using scissors)",
    "snapping fingers", "open bottle", "sniff (smell)", "squat down", "toss a coin", "fold paper", "ball up paper",
    "play magic cube", "apply cream on face", "apply cream on hand back", "put on bag", "take off bag",
    "put something into a bag", "take something out of a bag", "open a box", "move heavy objects", "shake fist",
    "throw up cap/hat", "hands up (both hands)", "cross arms", "arm circles", "arm swings", "running on the spot",
    "butt kicks (kick backward)", "cross toe touch", "side kick", "yawn", "stretch oneself", "blow nose",
    "hit other person with something", "wield knife towards other person",
    "knock over other person (hit with body)", "grab other person's stuff", "shoot at other person with a gun",
    "step on foot", "high-five", "cheers and drink", "carry something with other person",
    "take a photo of other person", "follow other person", "whisper in other person's ear",
    "exchange things with other person", "support somebody with hand",  # language: ok
    "finger-guessing game (playing rock-paper-scissors)",
)  # fmt: skip
"""The 120 actions of NTU RGB+D 120 (Liu et al., TPAMI 2019); the first 60 are NTU RGB+D's."""

FPS = 30.0
JOINTS = 25
COLOR_SIZE = (1920, 1080)
DEPTH_SIZE = (512, 424)
_BODY_VALUES = 10
"""Values in the line of a body, its id first."""

NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")
_JOINT_VALUES = 12
_STATE = 11
"""Index of a joint's state among its values."""

_SPACES = {0, _BODY_VALUES - 1, _JOINT_VALUES - 1}
"""Spaces in the lines of an intact file."""


@dataclass(frozen=True)
class NtuRecording:
    """The joints of a `.skeleton` file, in Kinect camera space (float64).

    Attributes:
        body_ids: M tracking ids, in order of appearance.
        positions: [M, T, 25, 3] meters, y up and x to the sensor's left; NaN where the body is not in the frame.
        depth_pixels, color_pixels: [M, T, 25, 2] in the mirrored 512×424 and 1920×1080 images.
        states: [M, T, 25] int8: 0 not tracked, 1 inferred, 2 tracked, −1 where the body is not in the frame.
    """

    body_ids: tuple[int, ...]
    positions: np.ndarray
    depth_pixels: np.ndarray
    color_pixels: np.ndarray
    states: np.ndarray


def read_ntu_file(path: str | Path) -> NtuRecording:
    """Read a `.skeleton` file completely.

    Raises:
        DeviceError: There is no such file.
        InputError: The file is empty, truncated, too long, or not a `.skeleton` file.
    """
    path = Path(path)
    text = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    words = text.split()
    if not words:
        raise InputError(f"'{path}' is empty; copy it again")
    lines = text.splitlines()
    if not {line.count(b" ") for line in lines} <= _SPACES:
        _check_lines(path, lines)
    try:
        values = np.loadtxt([b" ".join(lines)], ndmin=1, comments=None)  # the fastest parser of numpy
    except ValueError as error:
        _check_lines(path, lines)
        raise InputError(f"'{path}' is not an NTU .skeleton file: {error}") from error
    seen, frames = _parse(path, values, words)
    ids = tuple(dict.fromkeys(body_id for _, body_id in seen))
    joints = np.full((len(ids), frames, JOINTS, _JOINT_VALUES), np.nan)
    for (t, body_id), start in seen.items():
        first = start + _BODY_VALUES + 1
        joints[ids.index(body_id), t] = values[first : first + JOINTS * _JOINT_VALUES].reshape(JOINTS, _JOINT_VALUES)
    states = np.where(np.isnan(joints[..., _STATE]), -1, joints[..., _STATE])
    if not np.isin(states, (-1, 0, 1, 2)).all():
        raise InputError(f"'{path}' is not an NTU .skeleton file: a joint's state is neither 0, 1 nor 2")
    return NtuRecording(ids, joints[..., 0:3], joints[..., 3:5], joints[..., 5:7], states.astype(np.int8))


def _parse(path: Path, values: np.ndarray, words: list[bytes]) -> tuple[dict[tuple[int, int], int], int]:
    """Return the index of the first value of each body by frame and body id, and the number of frames."""
    at = 0

    def take(count: int) -> int:
        nonlocal at
        start, at = at, at + count
        if at > len(values):
            raise InputError(f"'{path}' is truncated: it ends {at - len(values)} values early; copy it again")
        return start

    def count(name: str) -> int:
        value = float(values[take(1)])
        if not (value.is_integer() and 0 <= value < 1e6):
            raise InputError(f"'{path}' is not an NTU .skeleton file: {value} where a number of {name} stands")
        return int(value)

    seen: dict[tuple[int, int], int] = {}
    frames = count("frames")
    for t in range(frames):
        for _ in range(count("bodies")):
            start = take(_BODY_VALUES)
            if (joints := count("joints")) != JOINTS:
                raise InputError(f"'{path}': frame {t + 1} has a body of {joints} joints, expected {JOINTS}")
            take(JOINTS * _JOINT_VALUES)
            if not words[start].isdigit():  # 17 digits, which a float64 does not hold
                raise InputError(
                    f"'{path}' is not an NTU .skeleton file: {words[start].decode()!r} where a body id stands"
                )
            body_id = int(words[start])
            if (t, body_id) in seen:
                raise InputError(f"'{path}': frame {t + 1} has body {body_id} twice")
            seen[t, body_id] = start
    if at != len(values):
        raise InputError(f"'{path}': {len(values) - at} values after the last of {frames} frames")
    return seen, frames


def _check_lines(path: Path, lines: list[bytes]) -> None:
    """Raise if a line is not a number, a body or a joint; a short last line is where a file was truncated."""
    for number, line in enumerate(map(bytes.split, lines), start=1):
        try:
            list(map(float, line))
        except ValueError as error:
            raise InputError(f"'{path}' is not an NTU .skeleton file: line {number}: {error}") from error
        if len(line) not in (0, 1, _BODY_VALUES, _JOINT_VALUES) and number < len(lines):
            raise InputError(
                f"'{path}' line {number} has {len(line)} values; a number, a body or a joint has "
                f"1, {_BODY_VALUES} or {_JOINT_VALUES}"
            )


def parse_name(name: str) -> dict[str, int]:
    """Parse setup, camera, subject, replication and action from "SsssCcccPpppRrrrAaaa"; empty for another name."""
    match = NAME.search(name)
    if not match:
        return {}
    return dict(zip(("setup", "camera", "subject", "replication", "action"), map(int, match.groups()), strict=True))


def unmirror(pixels: np.ndarray, width: int) -> np.ndarray:
    """Convert pixels [..., 2] of a mirrored image to the mirrored-back image."""
    turned = np.array(pixels, dtype=np.float32)
    turned[..., 0] = (width - 1) - turned[..., 0]
    return turned


def read_ntu_skeleton(path: str | Path, fps: float = FPS) -> SkeletonSequence:
    """Read every body of a `.skeleton` file to the data contract; raises like `read_ntu_file`.

    `pixels` refer to the mirrored-back color image (1919 − the file's u); `read_ntu_file` keeps the file's own.
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
        frames = seen[left].sum(1)
        left = left[frames >= min(options.min_frames, frames.max())]
        noise = _noise(sequence.bodies, options)
        share = (noise & seen)[left].sum(1) / seen[left].sum(1)
        upright = (share < options.spread_share) | (share == 0)
        left = left[upright] if upright.any() else left[[share.argmin()]]
        motion = [_motion(sequence.bodies[m], seen[m] & ~noise[m]) for m in left]
        left = left[np.argsort(motion, kind="stable")[::-1]]
    return _slots(sequence, left, seen, options)


def _noise(bodies: np.ndarray, options: BodyCleaning) -> np.ndarray:
    """Return the frames [M, T] in which a body is wider than a person."""
    known = np.isfinite(bodies).all(-1)[..., None]
    spread = np.where(known, bodies, -np.inf).max(2) - np.where(known, bodies, np.inf).min(2)  # (M, T, 3)
    spread = np.where(np.isfinite(spread), spread, 0)  # of a missing body
    return (spread[..., 0] > options.spread * spread[..., 1]) & (options.spread > 0)


def _motion(body: np.ndarray, frames: np.ndarray) -> float:
    """Return the variance of all joints of a body [T, V, 3], summed over x, y and z, in valid frames."""
    every = body[np.isfinite(body).all(-1)]
    calm = body[frames]
    calm = calm[np.isfinite(calm).all(-1)]
    return float(min(part.var(0).sum() for part in (every, calm) if len(part)))


def _slots(sequence: SkeletonSequence, order: np.ndarray, seen: np.ndarray, options: BodyCleaning) -> SkeletonSequence:
    """Merge tracks that never overlap, in order, into at most `max_bodies` bodies."""
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
