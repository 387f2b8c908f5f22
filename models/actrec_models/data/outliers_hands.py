"""Made-up hand movements outside every gesture: what `outliers` is for bodies, of one hand.

A real hand's pose is held still, is led slowly elsewhere and stays, wanders from place to place, or moves its fingers
each for itself. No recorded movement outside the classes is used, so that those can still judge the rejection.
"""

import numpy as np

from actrec.skeleton.layouts import HAND_22
from actrec_models.data.clips import Clip
from actrec_models.data.outliers import eased, rotations, smooth_noise

FINGERS = tuple(
    tuple(HAND_22.index[f"{finger}_{part}"] for part in ("base", "first", "second", "tip"))
    for finger in ("thumb", "index", "middle", "ring", "pinky")
)
_WRIST, _INDEX, _PINKY = (HAND_22.index[joint] for joint in ("wrist", "index_base", "pinky_base"))
_SLOWEST, _SLOW = 0.02, 0.12
"""Metres a second of a hand that is led elsewhere; a swipe is ten times as fast."""


def other_gesture(clip: Clip, seconds: float, frames: int, rng: np.random.Generator) -> np.ndarray:
    """A window [1, frames, 22, 3] in metres of a hand of `clip` doing something that is none of the gestures."""
    pose = _pose(clip, rng)
    times = np.arange(frames) * seconds / frames
    hand = np.repeat(pose[None], frames, axis=0)
    kind = rng.random()
    if kind < 0.2:
        _lead_slowly(hand, times, rng)
    elif kind < 0.55:
        _wander(hand, times, rng)
    elif kind < 0.75:
        _move_fingers(hand, times, rng)
    return (hand + smooth_noise(times, rng, 0.004, 0.5)[:, None])[None].astype(np.float32)


def _pose(clip: Clip, rng: np.random.Generator) -> np.ndarray:
    """[22, 3] one frame of `clip`: often the first, in which a hand is yet at rest."""
    pose = clip.bodies[0, 0 if rng.random() < 0.5 else rng.integers(clip.bodies.shape[1])].astype(np.float64)
    if np.isnan(pose).all():
        return np.zeros_like(pose)
    return np.where(np.isnan(pose), np.nanmean(pose, axis=0), pose)


def _lead_slowly(hand: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> None:
    """Goes straight to another place in its own time, turning as it goes, and stays there."""
    way = rng.normal(0, 1, 3)
    distance = rng.uniform(0.03, 0.3)
    way *= distance / max(float(np.linalg.norm(way)), 1e-6)
    took = distance / rng.uniform(_SLOWEST, _SLOW)
    start = rng.uniform(times[0] - took, times[-1])
    share = eased(times, np.array([start, start + took]), np.array([0.0, 1.0]))[:, None]
    _turn(hand, share * rng.normal(0, 0.5, 3))
    hand += (share * way)[:, None]


def _wander(hand: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> None:
    """From place to place in all three directions, or round and round, turning as it goes."""
    start, stop = np.sort(rng.uniform(times[0] - 1.0, times[-1] + 1.0, 2))
    pause = rng.uniform(0.25, 0.8)
    marks = np.arange(start, max(stop, start + 5 * pause), pause)
    places = rng.normal(0, 1, (len(marks), 3)) * np.exp(rng.uniform(np.log(0.03), np.log(0.4)))
    if rng.random() < 0.3:  # round and round in some plane
        plane = np.linalg.qr(rng.normal(0, 1, (3, 2)))[0]
        angle = np.arange(len(marks)) * np.pi / 2
        circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        places = circle @ plane.T * np.exp(rng.uniform(np.log(0.04), np.log(0.3)))
    places[[0, -1]] = 0
    path = np.stack([eased(times, marks, places[:, i]) for i in range(3)], axis=1)
    within = (times > marks[0]) & (times < marks[-1])
    _turn(hand, within[:, None] * smooth_noise(times, rng, rng.uniform(0.0, 0.6), 0.8))
    hand += path[:, None]


def _move_fingers(hand: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> None:
    """Bends and stretches some of the fingers, each in its own time, as in counting or playing."""
    across = hand[0, _INDEX] - hand[0, _PINKY]
    across /= max(np.linalg.norm(across), 1e-6)
    moved = rng.permutation(len(FINGERS))[: rng.integers(1, len(FINGERS))]
    for finger in moved:
        marks = np.sort(rng.uniform(times[0], times[-1], rng.integers(3, 8)))
        bends = np.where(np.arange(len(marks)) % 2, rng.uniform(0.4, 1.2), 0.0) * rng.choice([-1, 1])
        bends[-1] = 0
        turned = rotations(eased(times, marks, bends)[:, None] * across).transpose(0, 2, 1)
        joints = list(FINGERS[finger])
        for first, joint in enumerate(joints[:-1], start=1):  # each joint turns what lies beyond it
            pivot, rest = hand[:, joint][:, None], joints[first:]
            hand[:, rest] = (hand[:, rest] - pivot) @ turned + pivot


def _turn(hand: np.ndarray, vectors: np.ndarray) -> None:
    """Turns the hand [T, 22, 3] about its wrist by rotation vectors [T, 3]."""
    pivot = hand[:, _WRIST][:, None]
    hand[:] = (hand - pivot) @ rotations(vectors).transpose(0, 2, 1) + pivot
