"""Augmentation of body and hand clips, for the differences between datasets and live estimates.

The order is time (speed, frame rate, end of the window), then the body in meters before normalization (tilt,
proportions, noise, missing limbs, mirror), then the turn and size that normalization would remove.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from actrec.datasets.base import Clip
from actrec.skeleton import windows
from actrec.skeleton.layouts import HAND_22, KINECT_V2_25, Layout
from actrec.types import NANOSECONDS
from actrec.utils.config import setting
from actrec.utils.geometry import rotation
from actrec_models.data import continuous

_X, _Y, _Z = 0, 1, 2
_SIDES = ("left", "right", "clockwise")
"""Beginnings or ends of words for a side, such as leftwards or anticlockwise."""

_SIDES_ALONE = ("cw", "ccw")
_NO_SIDES = frozenset((
    "alright", "aright", "birthright", "bright", "cleft", "copyright", "forthright", "fright", "leftover", "leftovers",
    "outright", "playwright", "righteous", "rightful", "rightly", "upright",
))  # fmt: skip

_WORDS_END = re.compile(r"[\W\d_]+|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Word boundaries, also in swipeLeft and CCWTurn."""

_BRANCHES = tuple(
    tuple(KINECT_V2_25.index[f"{joint}_{side}"] for joint in joints)
    for side in ("left", "right")
    for joints in (
        ("elbow", "wrist", "hand", "hand_tip", "thumb"),
        ("wrist", "hand", "hand_tip", "thumb"),
        ("knee", "ankle", "foot"),
        ("ankle", "foot"),
    )
)

_LEGS = tuple(KINECT_V2_25.index[f"{j}_{s}"] for s in ("left", "right") for j in ("knee", "ankle", "foot"))
DRIVE_M_S, TURN_RAD_S = 0.8, 0.5
"""Largest speeds of a robot that follows or passes people."""

OUTWARDS = (1, 20, 2, 3, 4, 5, 6, 7, 21, 22, 8, 9, 10, 11, 23, 24, 12, 13, 14, 15, 16, 17, 18, 19)
"""All joints but the root, parents first."""


@dataclass(frozen=True)
class Augmentation:
    """Amounts of augmentation in training; the defaults belong to the shipped model."""

    stretched: float = setting(
        0.0,
        "share of clips of bodies whose window holds them from first frame to last, however long that is",
        range=(0.0, 1.0),
    )
    speed: float = setting(1.35, "clips are played up to so many times faster or slower", range=(1.0, 3.0))
    cut: float = setting(0.5, "share of clips whose window ends before the action does", range=(0.0, 1.0))
    hold_s: float = setting(0.8, "the last pose is held up to so long after the action", unit="s", range=(0.0, 5.0))
    before: float = setting(0.3, "share of clips that follow upon another one, as live actions do", range=(0.0, 1.0))
    frame_loss: float = setting(0.3, "up to this share of frames is dropped", range=(0.0, 0.9))
    tilt_deg: float = setting(20.0, "camera pitch and roll", unit="deg", range=(0.0, 90.0))
    turn_deg: float = setting(
        25.0, "turn left after facing is normalized, of hands and of bodies' joints and bones", unit="deg",
        range=(0.0, 180.0),
    )  # fmt: skip
    size: float = setting(
        0.1, "relative size left after scale is normalized, of hands and of bodies' joints and bones", range=(0.0, 0.5)
    )
    proportions: float = setting(0.1, "relative change of each bone's length", range=(0.0, 0.5))
    noise_m: float = setting(0.02, "largest standard deviation of joint noise", unit="m", range=(0.0, 0.2))
    bias_m: float = setting(0.02, "standard deviation of each joint's constant error", unit="m", range=(0.0, 0.2))
    smoothed: float = setting(
        0.0,
        "share of bodies whose joints are averaged over 3, 5 or 7 frames, as trackers do",
        range=(0.0, 1.0),
    )
    exchange: float = setting(
        0.15, "share of clips in which left and right are exchanged for a while", range=(0.0, 1.0)
    )
    missing: float = setting(0.3, "share of clips in which limbs are lost for a while", range=(0.0, 1.0))
    mirror: bool = setting(
        True, "half of the clips of bodies, or of images without poses, are mirrored, whatever side their class names"
    )
    reach: float = setting(
        0.0, "relative change of how far a hand goes, its size aside: from the wrist or the whole arm", range=(0.0, 0.9)
    )
    held_deg: float = setting(
        0.0, "turn of a hand about its palm, its way aside: how people hold it", unit="deg", range=(0.0, 90.0)
    )
    waiting: float = setting(
        0.0,
        "share of the clips that follow upon another one after waiting and a movement to the first pose, instead of a "
        "pause without frames",
        range=(0.0, 1.0),
    )
    driven: float = setting(
        0.0, "share of windows of bodies that a camera sees which drives and turns, on a robot", range=(0.0, 1.0)
    )


class TimedBodies(NamedTuple):
    """Joints with their stamps, and the stamps to resample them at.

    Attributes:
        stamps_ns: [L] increasing int64 ns of the joints.
        bodies: [M, L, V, 3] m, NaN for missing.
        sample_ns: [T] int64 ns of the window's samples.
    """

    stamps_ns: np.ndarray
    bodies: np.ndarray
    sample_ns: np.ndarray

    def resampled(self) -> np.ndarray:
        """Return the window [M, T, V, 3] float32."""
        if self.sample_ns is self.stamps_ns:
            return self.bodies
        return np.stack([windows.resample(self.stamps_ns, body, self.sample_ns) for body in self.bodies])


def sample_window(
    clip: Clip,
    seconds: float,
    frames: int,
    options: Augmentation,
    rng: np.random.Generator,
    before: Clip | None = None,
    layout: str = "kinect_v2_25",
) -> TimedBodies:
    """Choose a window of `frames` frames of `clip`: a random speed, end and frame rate, possibly after `before`.

    A stretched window starts near the start of the clip, and its speed changes along the clip.
    """
    stretched = rng.random() < options.stretched if options.stretched else False
    length_ns = clip.stamps_ns[-1] - clip.stamps_ns[0]
    speed = options.speed ** rng.uniform(-1, 1)
    ends = [0, -1]  # frames that are not dropped
    if before is not None and not stretched and rng.random() < options.before:
        if options.waiting and rng.random() < options.waiting:
            clip = continuous.wait_and_follow(before, clip, rng, layout, speed)
        else:
            clip = continuous.follow(before, clip, rng, layout, speed)
            ends += [len(before.stamps_ns) - 1, len(before.stamps_ns)]  # on both sides of the pause
    stamps = (clip.stamps_ns - clip.stamps_ns[0]) * speed
    if stretched:  # within the same span, the speed increases or decreases
        span = max(float(stamps[-1]), 1.0)
        stamps = np.asarray(span * (stamps / span) ** (options.speed ** rng.uniform(-1, 1)))
    keep = rng.random(len(stamps)) >= rng.uniform(0, options.frame_loss)
    keep[ends] = True
    end = float(stamps[-1])
    if rng.random() < options.cut:
        # A window that ends early must still hold most of a short action, or any full window of a long one; stretched,
        # most of any.
        action = float(length_ns) * speed
        whole = 0.6 * action
        end -= action - rng.uniform(whole if stretched else min(whole, 0.7 * seconds * NANOSECONDS), action)
    else:
        end += rng.uniform(0, options.hold_s) * NANOSECONDS
    if stretched:
        start = rng.uniform(-options.hold_s * NANOSECONDS, 0.1 * options.cut * end)
        wanted = windows.stretched_stamps(int(start), int(end), frames)
    else:
        wanted = windows.sample_stamps(int(end), seconds, frames)
    return TimedBodies(stamps[keep].astype(np.int64), clip.bodies[:, keep], wanted)


def sample_between(
    clip: Clip,
    seconds: float,
    frames: int,
    options: Augmentation,
    rng: np.random.Generator,
    before: Clip,
    layout: str = "kinect_v2_25",
) -> TimedBodies:
    """Choose a window of no action: it ends a while after the action of `clip`, or when that has hardly begun.

    A clip longer than the window may show work that goes on in a pose that is held: no window ends after it. Else
    an action is over `continuous.OVER_S` after its end, and has hardly begun before `continuous.begun_s`.
    """
    speed = options.speed ** rng.uniform(-1, 1)
    goes_on = clip.stamps_ns[-1] - clip.stamps_ns[0] > seconds * NANOSECONDS  # such as work that hardly moves
    if not goes_on and rng.random() < 0.5:  # after it
        if rng.random() < options.before:
            clip = continuous.wait_and_follow(before, clip, rng, layout, speed)
        clip = continuous.wait(clip, rng.uniform(*continuous.OVER_S), rng, speed)
        end_ns = clip.stamps_ns[-1]
    else:
        first, length = clip.stamps_ns[0], clip.stamps_ns[-1] - clip.stamps_ns[0]
        shown_s = rng.uniform(-continuous.EARLY_S, continuous.begun_s(float(length) * speed / NANOSECONDS))
        shortest_s = continuous.OVER_S[0] - shown_s  # the action before is over
        clip = continuous.wait_and_follow(before, clip, rng, layout, speed, shortest_s)
        end_ns = first + round(shown_s * NANOSECONDS / speed)
    stamps = (clip.stamps_ns - clip.stamps_ns[0]) * speed
    end = float(end_ns - clip.stamps_ns[0]) * speed
    keep = rng.random(len(stamps)) >= rng.uniform(0, options.frame_loss)
    keep[[0, int(np.searchsorted(stamps, end, side="right")) - 1, -1]] = True
    wanted = windows.sample_stamps(int(end), seconds, frames)
    return TimedBodies(stamps[keep].astype(np.int64), clip.bodies[:, keep], wanted)


def recorded_by_robot(window: TimedBodies, options: Augmentation, rng: np.random.Generator) -> TimedBodies:
    """Return a window as a camera records it that drives and turns, and ends at the same place; a share `driven`."""
    if not options.driven or rng.random() >= options.driven:
        return window
    elapsed_s = ((window.stamps_ns - window.sample_ns[-1]) / NANOSECONDS).astype(np.float32)
    heading, speed = rng.uniform(-np.pi, np.pi), rng.uniform(0, DRIVE_M_S)
    turn = rng.uniform(-TURN_RAD_S, TURN_RAD_S) * (rng.random() < 0.5)
    way = np.array([np.sin(heading), 0, np.cos(heading)], np.float32) * np.float32(speed)
    moved = window.bodies + elapsed_s[:, None, None] * way
    cos, sin = (of(turn * elapsed_s)[:, None].astype(np.float32) for of in (np.cos, np.sin))
    x, y, z = np.moveaxis(moved, -1, 0)
    moved = np.stack([cos * x + sin * z, y, cos * z - sin * x], axis=-1)
    return TimedBodies(window.stamps_ns, moved, window.sample_ns)


def sample_stamps(
    clip: Clip, seconds: float, frames: int, options: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """Sample the stamps [frames] of a window of `clip` at a random speed and end, in the clip's own time.

    For clips with several streams, which stay synchronous.
    """
    length = int(clip.stamps_ns[-1] - clip.stamps_ns[0])
    speed = options.speed ** rng.uniform(-1, 1)
    end = float(clip.stamps_ns[-1])
    if rng.random() < options.cut:
        end -= length - rng.uniform(min(0.6 * length, 0.7 * seconds * speed * NANOSECONDS), length)
    else:
        end += rng.uniform(0, options.hold_s) * NANOSECONDS
    return windows.sample_stamps(int(end), seconds * speed, frames)


def vary_speed(clip: Clip, stamps_ns: np.ndarray, options: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Vary the speed of a window's stamps, and shift them into the clip."""
    speed = options.speed ** rng.uniform(-1, 1)
    paced = stamps_ns[-1] - np.round((stamps_ns[-1] - stamps_ns) * speed).astype(np.int64)
    early, room = clip.stamps_ns[0] - paced[0], clip.stamps_ns[-1] - paced[-1]
    return np.asarray(paced + max(min(early, room), 0))


@dataclass(frozen=True)
class Variation:
    """Random numbers of the augmentation of one window, for M people, T frames and V joints.

    `vary_bodies` and `vary_hands` apply them to one window, `actrec_models.data.batches` to a batch.

    Attributes:
        turn: [3, 3] rotation about the `pivot`.
        factor: [V] float32, factor on the length of the bone to each joint.
        noise: [M, T, V, 3] float32 m, of each frame, without the factor `noise_size`.
        noise_size: Factor on `noise`.
        bias: [V, 3] float32 m, constant error of each joint.
        lost: [T, V] bool, joints that are set to NaN.
        smoothed: Frames before and after over which joints are averaged; 0 for none.
        exchanged: [T] bool, frames in which left and right are exchanged; None for none.
        mirrored: Whether the window is mirrored.
        stretch: [3] float32, factors on x, y and z, of hands; None for none.
        reach: Factor on the path of a hand's palm.
        held: [3, 3] rotation of a hand about its palm; None if it and `reach` are not varied.
    """

    turn: np.ndarray
    factor: np.ndarray
    noise: np.ndarray
    noise_size: float
    bias: np.ndarray
    lost: np.ndarray
    smoothed: int = 0
    exchanged: np.ndarray | None = None
    mirrored: bool = False
    stretch: np.ndarray | None = None
    reach: float = 1.0
    held: np.ndarray | None = None


def augment_bodies(bodies: np.ndarray, options: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Augment bodies [M, T, 25, 3] in m before normalization."""
    return vary_bodies(bodies, draw_bodies(bodies.shape[0], bodies.shape[1], options, rng))


def draw_bodies(count: int, frames: int, options: Augmentation, rng: np.random.Generator) -> Variation:
    """Draw the variation of a window of `count` bodies."""
    joints = len(KINECT_V2_25)
    turn = _random_rotation(rng, (_X, options.tilt_deg), (_Z, options.tilt_deg))
    factor: np.ndarray = 1 + rng.uniform(-options.proportions, options.proportions, joints).astype(np.float32)
    factor = (factor + factor[list(KINECT_V2_25.mirror)]) / 2  # the same on both sides
    smoothed = int(rng.integers(1, 4)) if options.smoothed and rng.random() < options.smoothed else 0
    noise = _draw_noise((count, frames, joints, 3), options, rng)
    exchanged = _exchanged_frames(frames, rng) if rng.random() < options.exchange else None
    lost = np.zeros((frames, joints), bool)
    if rng.random() < options.missing:
        _lose_limbs(lost, rng)
    mirrored = bool(options.mirror and rng.random() < 0.5)
    return Variation(turn, factor, *noise, lost, smoothed, exchanged, mirrored)


def vary_bodies(bodies: np.ndarray, variation: Variation) -> np.ndarray:
    """Apply a variation to bodies [M, T, 25, 3]."""
    middle = pivot(bodies)
    varied = (bodies - middle) @ variation.turn.T + middle
    varied = _scale_bones(varied, variation.factor, KINECT_V2_25, OUTWARDS)
    if variation.smoothed:
        varied = _smooth(varied, variation.smoothed)
    _add_noise(varied, variation)
    if variation.exchanged is not None:
        varied[:, variation.exchanged] = varied[:, variation.exchanged][:, :, list(KINECT_V2_25.mirror)]
    varied[:, variation.lost] = np.nan
    if variation.mirrored:
        varied = mirror(varied)
    return varied.astype(np.float32)


def _random_rotation(rng: np.random.Generator, *turns: tuple[int, float]) -> np.ndarray:
    """Return the product of random rotations, each of an axis and its largest angle in degrees."""
    product = np.eye(3)
    for axis, degrees in turns:
        product = product @ rotation(axis, np.radians(rng.uniform(-1, 1) * degrees))
    return product


def _draw_noise(
    shape: tuple[int, ...], options: Augmentation, rng: np.random.Generator
) -> tuple[np.ndarray, float, np.ndarray]:
    """Draw noise of each frame [M, T, V, 3], its factor, and a constant error [V, 3]."""
    noise = rng.normal(0, 1, shape).astype(np.float32)
    size = rng.uniform(0, options.noise_m)
    return noise, size, rng.normal(0, options.bias_m, shape[2:]).astype(np.float32)


def _add_noise(joints: np.ndarray, variation: Variation) -> None:
    """Add noise of each frame and a constant error to each of the joints [M, T, V, 3], in place."""
    joints += variation.noise * np.float32(variation.noise_size)
    joints += variation.bias


def _smooth(bodies: np.ndarray, reach: int) -> np.ndarray:
    """Average each joint [M, T, V, 3] over up to `reach` frames before and after; missing joints stay missing."""
    known = np.isfinite(bodies).all(axis=-1, keepdims=True)
    width = [(0, 0), (reach + 1, reach), (0, 0), (0, 0)]
    both = np.concatenate([np.where(known, bodies, 0), known], axis=-1, dtype=np.float64)
    sums = np.cumsum(np.pad(both, width), axis=1)
    sums = sums[:, 2 * reach + 1 :] - sums[:, : -2 * reach - 1]
    return np.where(known, sums[..., :3] / np.maximum(sums[..., 3:], 1), np.nan).astype(np.float32)


def augment_normalized(bodies: np.ndarray, options: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Rotate and scale normalized bodies [M, T, 25, 3], like the bias of an estimator."""
    return (bodies @ draw_after_normalization(options, rng).T).astype(np.float32)


def draw_after_normalization(options: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Draw the matrix [3, 3] of `augment_normalized`: a rotation times a size."""
    turn = _random_rotation(rng, (_Y, options.turn_deg))
    return turn * (1 + rng.uniform(-1, 1) * options.size)


def names_side(label: str) -> bool:
    """Return whether a label names a side or a sense of rotation, so that mirroring would change the action.

    Ambiguous words count as a side: a missing mirror costs less than a wrong one.
    """
    words = [word.lower() for word in _WORDS_END.split(label)]
    meant = [word for word, last in zip(words, ["", *words], strict=False) if (last, word) != ("all", "right")]
    return any(
        word in _SIDES_ALONE or (word not in _NO_SIDES and (word.startswith(_SIDES) or word.endswith(_SIDES)))
        for word in meant
    )


def mirror(bodies: np.ndarray) -> np.ndarray:
    """Mirror a clip [M, T, 25, 3]: negate x and exchange left and right joints."""
    return (bodies * np.array([-1, 1, 1], np.float32))[..., list(KINECT_V2_25.mirror), :]


def _scale_bones(joints: np.ndarray, factor: np.ndarray, layout: Layout, outwards: Sequence[int]) -> np.ndarray:
    """Scale each bone of joints [M, T, V, 3] by its factor [V], and rebuild the joints from the root.

    `outwards` has all joints but the root, parents first. Missing joints stay missing.
    """
    parents = list(layout.parents)
    varied = np.ascontiguousarray(np.moveaxis(joints, -2, 0))  # (V, M, T, 3): each joint one row
    lost = fill_missing_joints(varied, parents, outwards)
    bones = factor[:, None, None, None] * (varied - varied[parents])
    for v in outwards:
        np.add(varied[parents[v]], bones[v], out=varied[v])
    varied[lost] = np.nan
    return np.ascontiguousarray(np.moveaxis(varied, 0, -2))


def pivot(bodies: np.ndarray) -> np.ndarray:
    """Return the pivot [1, 1, 1, 3] of bodies [M, T, V, 3]: the first root, or the mean joint if that is missing."""
    root = bodies[:1, :1, :1]
    if not np.isnan(root).any():
        return root
    known = bodies[~np.isnan(bodies).any(axis=-1)]
    middle = known.mean(axis=0) if len(known) else np.zeros(3)
    return middle.astype(bodies.dtype).reshape(1, 1, 1, 3)


def fill_missing_joints(joints: np.ndarray, parents: Sequence[int], outwards: Sequence[int]) -> np.ndarray:
    """Move missing joints [V, …, 3] to their parents, in place, so that all bones are defined.

    A missing root moves to the first known joint of `outwards`, which has all joints but the root, parents first.
    Return the mask [V, …] of the joints that were missing.
    """
    lost = np.isnan(joints).any(axis=-1)
    if lost.any():
        for v in reversed(outwards):
            there = lost[0] & ~lost[v]
            joints[0][there] = joints[v][there]
        for v in outwards:
            joints[v][lost[v]] = joints[parents[v]][lost[v]]
    return lost


def _exchanged_frames(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Return a mask [T] of up to half of a clip, as estimators exchange sides of a person seen from the side."""
    start, length = rng.integers(frames), rng.integers(1, max(frames // 2, 2))
    mask = np.zeros(frames, bool)
    mask[start : start + length] = True
    return mask


def _lose_limbs(lost: np.ndarray, rng: np.random.Generator) -> None:
    """Add one or two limbs for a while to the mask [T, V]; sometimes both legs for the whole clip (behind a table)."""
    frames = len(lost)
    if rng.random() < 0.2:
        lost[:, list(_LEGS)] = True
    for _ in range(rng.integers(1, 3)):
        limb = _BRANCHES[rng.integers(len(_BRANCHES))]
        start, length = rng.integers(frames), rng.integers(2, max(frames // 2, 3))
        lost[start : start + length, list(limb)] = True


PALM = HAND_22.index["palm"]


def augment_hands(hands: np.ndarray, options: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Augment hands [M, T, 22, 3] in m: camera, size, proportions, noise. Never mirrored: gestures have a side."""
    return vary_hands(hands, draw_hands(hands.shape[0], hands.shape[1], options, rng))


def draw_hands(count: int, frames: int, options: Augmentation, rng: np.random.Generator) -> Variation:
    """Draw the variation of a window of `count` hands."""
    joints, reach, held = len(HAND_22), 1.0, None
    if options.reach or options.held_deg:
        reach = 1 + rng.uniform(-1, 1) * options.reach
        held = _random_rotation(rng, *((axis, options.held_deg) for axis in (_X, _Y, _Z)))
    turn = _random_rotation(rng, (_X, options.tilt_deg), (_Z, options.tilt_deg), (_Y, options.turn_deg))
    stretch = 1 + rng.uniform(-options.size, options.size, 3).astype(np.float32)
    factor = np.ones(joints, np.float32)
    factor[1:] = 1 + rng.uniform(-options.proportions, options.proportions, joints - 1)
    noise = _draw_noise((count, frames, joints, 3), options, rng)
    lost = np.zeros((frames, joints), bool)
    if rng.random() < options.missing:  # the whole hand for a short while, as trackers lose a fast hand
        start = int(rng.integers(frames))
        lost[start : start + int(rng.integers(1, max(frames // 10, 2)))] = True
    return Variation(turn.astype(np.float32), factor, *noise, lost, stretch=stretch, reach=reach, held=held)


def vary_hands(hands: np.ndarray, variation: Variation) -> np.ndarray:
    """Apply a variation to hands [M, T, 22, 3]."""
    if variation.held is not None:
        hands = _vary_way(hands, variation.reach, variation.held)
    assert variation.stretch is not None
    varied = ((hands - pivot(hands)) * variation.stretch) @ variation.turn.T
    varied = _scale_bones(varied, variation.factor, HAND_22, range(1, len(HAND_22)))  # parents come first
    _add_noise(varied, variation)
    varied[:, variation.lost] = np.nan
    return varied.astype(np.float32)


def _vary_way(hands: np.ndarray, reach: float, held: np.ndarray) -> np.ndarray:
    """Vary how a gesture is made: the palm's path is shorter or longer, the hand rotated about the palm."""
    palm = hands[:, :, PALM : PALM + 1]
    seen = ~np.isnan(palm).any(axis=-1, keepdims=True)
    middle = np.where(seen, palm, 0).sum(axis=1, keepdims=True) / np.maximum(seen.sum(axis=1, keepdims=True), 1)
    varied: np.ndarray = (hands - palm) @ held.T + middle + np.float32(reach) * (palm - middle)
    return varied.astype(np.float32)
