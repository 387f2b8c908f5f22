"""From one action to the next, as in live windows: a pause without frames, or waiting and moving on."""

import numpy as np

from actrec.datasets.base import Clip
from actrec.skeleton import layouts
from actrec.types import NANOSECONDS

LONGEST_PAUSE_S = 0.45
"""Without the person: live, `windows.MAX_GAP_S` without the person restarts the window."""

WAIT_S, MOVE_S = (0.0, 1.5), (0.4, 1.0)
"""Shortest and longest time for which a person waits after an action, and moves from there to the next one."""

OVER_S = (1.2, 2.5)
"""Shortest and longest time after the end of an action at which a window shows none any longer."""

EARLY_S = 0.5
"""Longest time before an action at which a window ends that shows none yet."""

_RATE_HZ = 30.0
_SWAY_M = 0.01


def begun_s(length_s: float) -> float:
    """Return the time of an action until which it has hardly begun, s."""
    return min(0.25 * length_s, 0.5)


def smooth_noise(times: np.ndarray, rng: np.random.Generator, size: float, rate: float) -> np.ndarray:
    """Return random motion [T, 3] of about `size`: three sinusoids an axis, of frequencies up to 2·`rate` Hz."""
    frequency = rng.uniform(0.1, 2 * rate, (3, 3, 1))
    phase = rng.uniform(0, 2 * np.pi, (3, 3, 1))
    weight = rng.normal(0, size / np.sqrt(3), (3, 3, 1))
    return (weight * np.sin(2 * np.pi * frequency * times + phase)).sum(axis=1).T


def follow(
    before: Clip, clip: Clip, rng: np.random.Generator, layout: str = "kinect_v2_25", speed: float = 1.0
) -> Clip:
    """Prepend `before` to `clip`, moved to the position of the person, with a pause in which the person is not seen.

    The pause is short enough when the clip's time is multiplied by `speed`.
    """
    pause = round(rng.uniform(0.2, LONGEST_PAUSE_S) / speed * NANOSECONDS)
    moved = _moved(before, clip, layout)
    stamps = before.stamps_ns - before.stamps_ns[-1] + clip.stamps_ns[0] - pause
    return _joined(clip, (stamps, moved), (clip.stamps_ns, clip.bodies))


def wait_and_follow(
    before: Clip,
    clip: Clip,
    rng: np.random.Generator,
    layout: str = "kinect_v2_25",
    speed: float = 1.0,
    shortest_s: float = 0.0,
) -> Clip:
    """Prepend `before` to `clip`: the person waits in its last pose, then moves to the first one of `clip`.

    Times hold when the clip's time is multiplied by `speed`; both together last `shortest_s` at least.
    """
    moved = _moved(before, clip, layout)
    wait_s, move_s = rng.uniform(*WAIT_S), rng.uniform(*MOVE_S)
    wait_s = max(wait_s, shortest_s - move_s)
    waited = _waiting(moved[:, -1], wait_s, rng)
    last = waited[:, -1] if waited.shape[1] else moved[:, -1]
    steps = np.linspace(0, 1, round(move_s * _RATE_HZ) + 2, dtype=np.float32)[1:-1, None, None]
    weights = 3 * steps**2 - 2 * steps**3
    between = np.concatenate([waited, (1 - weights) * last[:, None] + weights * clip.bodies[:, :1]], axis=1)
    spacing = NANOSECONDS / _RATE_HZ / speed
    between_ns = clip.stamps_ns[0] - np.round(np.arange(between.shape[1], 0, -1) * spacing).astype(np.int64)
    before_ns = before.stamps_ns - before.stamps_ns[-1] + between_ns[0] - round(spacing)
    return _joined(clip, (before_ns, moved), (between_ns, between), (clip.stamps_ns, clip.bodies))


def wait(clip: Clip, seconds: float, rng: np.random.Generator, speed: float = 1.0) -> Clip:
    """Append waiting in the last pose of `clip`, of this length when the clip's time is multiplied by `speed`."""
    waited = _waiting(clip.bodies[:, -1], seconds, rng)
    spacing = NANOSECONDS / _RATE_HZ / speed
    waited_ns = clip.stamps_ns[-1] + np.round(np.arange(1, waited.shape[1] + 1) * spacing).astype(np.int64)
    return _joined(clip, (clip.stamps_ns, clip.bodies), (waited_ns, waited))


def _waiting(pose: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return poses [M, T, V, 3] of people [M, V, 3] who sway a little."""
    times = np.arange(1, round(seconds * _RATE_HZ) + 1) / _RATE_HZ
    sway = smooth_noise(times, rng, _SWAY_M, 0.5) * np.minimum(times, 1.0)[:, None]
    return (pose[:, None] + sway[None, :, None]).astype(np.float32)


def _moved(before: Clip, clip: Clip, layout: str) -> np.ndarray:
    """Return the bodies of `before`, as many as in `clip`, such that they end where those of `clip` begin."""
    root = layouts.get(layout).index["palm" if layout == "hand_22" else "spine_base"]
    people, own = before.bodies[: len(clip.bodies)], clip.bodies
    # People of the second clip only appear with it.
    absent = np.full((len(own) - len(people), *people.shape[1:]), np.nan, np.float32)
    people = np.concatenate([people, absent])
    return np.asarray(people + _way(people[:, -1], own[:, 0], root)[:, None, None])


def _joined(clip: Clip, *parts: tuple[np.ndarray, np.ndarray]) -> Clip:
    stamps, bodies = zip(*parts, strict=True)
    return Clip(clip.name, clip.label, np.concatenate(stamps), np.concatenate(bodies, axis=1))


def _way(start: np.ndarray, end: np.ndarray, root: int) -> np.ndarray:
    """Return the shift [M, 3] from bodies `start` [M, V, 3] to `end`: of the roots, or the mean of common joints."""
    ways = end - start
    known = np.isfinite(ways).all(axis=-1, keepdims=True)
    middle = np.where(known, ways, 0).sum(axis=1) / np.where(known.any(axis=1), known.sum(axis=1), np.nan)
    return np.asarray(np.where(known[:, root], ways[:, root], middle), np.float32)
