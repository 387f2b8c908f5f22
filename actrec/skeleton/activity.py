"""The part of a recording in which a person moves, and the waiting before and after it."""

import numpy as np

from actrec.skeleton.layouts import KINECT_V2_25
from actrec.types import NANOSECONDS

_SMOOTHED_S = 0.3  # joints are averaged over this time, so that their noise is no motion
_FASTEST = 4  # joints whose mean speed is a frame's: one moving arm is enough
_STILL, _MOVING = 10, 95  # percentiles of the frames' speeds
_THRESHOLD = 0.22  # between these two
_MARGIN_S = 0.2
_SHORTEST_S = 0.8  # a shorter motion with its margins is noise: one wrong frame gives 0.7 s
_SHORTEST_CLIP_S = 1.2

_JOINTS = [
    KINECT_V2_25.index[f"{joint}_{side}"] for joint in ("shoulder", "hip", "wrist") for side in ("left", "right")
]
_TORSO_M = 0.15  # smallest height of the shoulders above the hips of an upright person


def active_span(stamps_ns: np.ndarray, bodies: np.ndarray) -> tuple[int, int]:
    """Return the first and the last frame of the motion in a clip, both included, with 0.2 s on each side.

    A frame moves if its four fastest joints exceed 22 % of the range of the clip's speeds. A clip that is shorter than
    1.2 s, or moves for less than 0.8 s with them, is returned whole.

    Args:
        stamps_ns: [T] nanoseconds.
        bodies: [M, T, V, 3] m, NaN for missing.
    """
    whole = 0, len(stamps_ns) - 1
    times = (stamps_ns - stamps_ns[0]) / NANOSECONDS
    if len(times) < 3 or times[-1] < _SHORTEST_CLIP_S:
        return whole
    speed = speeds(times, bodies)
    still, moving = np.percentile(speed, [_STILL, _MOVING])
    moves = np.flatnonzero(speed > still + _THRESHOLD * (moving - still))
    if not len(moves):
        return whole
    first = int(np.searchsorted(times, times[moves[0]] - _MARGIN_S))
    last = int(np.searchsorted(times, times[moves[-1]] + _MARGIN_S, side="right")) - 1
    return (first, last) if times[last] - times[first] >= _SHORTEST_S else whole


def speeds(times: np.ndarray, bodies: np.ndarray) -> np.ndarray:
    """Return the speed [T] of the fastest joints of bodies [M, T, V, 3] at times [T], m/s, 0 if none is known."""
    begin = np.searchsorted(times, times - _SMOOTHED_S / 2 - 1e-6)
    end = np.searchsorted(times, times + _SMOOTHED_S / 2 + 1e-6)
    known = np.isfinite(bodies)
    values = np.stack([np.where(known, bodies, 0.0), known], dtype=np.float64)
    sums = np.pad(values.cumsum(axis=2), ((0, 0), (0, 0), (1, 0), (0, 0), (0, 0)))
    total, count = sums[:, :, end] - sums[:, :, begin]
    smooth = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    steps = np.linalg.norm(np.diff(smooth, axis=1), axis=-1) / np.maximum(np.diff(times), 1e-3)[:, None]  # (M, T-1, V)
    fastest = np.sort(np.nan_to_num(steps), axis=-1)[..., -_FASTEST:].mean(axis=-1).max(axis=0)
    return np.concatenate([fastest[:1], fastest])


def is_resting(bodies: np.ndarray) -> bool:
    """Return whether the first of bodies [M, T, 25, 3] has its hands down and its torso upright; y points down."""
    height = -bodies[0, :, _JOINTS, 1].astype(np.float64)  # (6, T)
    if not np.isfinite(height).all(axis=0).any():
        return False
    shoulders, hips, wrists = np.nanmedian(height, axis=1).reshape(3, 2)
    upright = shoulders.mean() - hips.mean() > _TORSO_M
    return bool(upright and wrists.max() < (shoulders.mean() + hips.mean()) / 2)
