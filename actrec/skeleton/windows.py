"""Joints over time: windows resampled to the frames of a network, series of stamped values, the One-Euro filter.

A window spans a fixed time and ends at the newest observation, so that speeds do not depend on the frame rate. Before
the first observation, the window repeats the first pose. Training and the live recognizer both use this module.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from typing import Generic, TypeVar

import numpy as np

from actrec.types import NANOSECONDS
from actrec.utils.errors import InputError

T = TypeVar("T")

JUMP_S = 1.0
"""A stamp that is older than the newest by more than this is a jump back in time (a loop), not a late message."""

SPEED_CUTOFF_HZ = 5.0
"""Cutoff of the One-Euro filter's speed estimate; the paper's 1 Hz lags behind fast strokes."""

MAX_GAP_S = 0.5
"""A joint that is missing for longer stays missing in a window; a longer pause restarts a live window."""

MAX_FILTER_GAP_S = 0.5
"""The One-Euro filter restarts after a longer gap."""


def sample_stamps(end_ns: int, seconds: float, frames: int) -> np.ndarray:
    """Return the stamps [T] of a window's samples, ns: evenly spaced, the last at `end_ns`."""
    steps = np.arange(frames - 1, -1, -1, dtype=np.float64)
    return end_ns - np.round(steps * seconds / frames * NANOSECONDS).astype(np.int64)


def stretched_stamps(start_ns: int, end_ns: int, frames: int) -> np.ndarray:
    """Return [T] stamps in ns, evenly spaced from `start_ns` to `end_ns` inclusive."""
    return np.round(np.linspace(start_ns, end_ns, frames)).astype(np.int64)


def resample(
    stamps_ns: np.ndarray, positions: np.ndarray, sample_ns: np.ndarray, max_gap_s: float = MAX_GAP_S
) -> np.ndarray:
    """Interpolate joints linearly in time.

    Args:
        stamps_ns: [L] increasing int64 ns of the observations.
        positions: [L, V, 3] m, NaN if missing.
        sample_ns: [T] stamps to sample at, ns; before the first and after the last observation, that one is repeated.
        max_gap_s: A joint that is missing for longer stays NaN in between.

    Returns:
        [T, V, 3] float32.
    """
    times = (np.asarray(stamps_ns, dtype=np.int64) - sample_ns[-1]) / NANOSECONDS
    sample_times = (sample_ns - sample_ns[-1]) / NANOSECONDS
    known = ~np.isnan(positions).any(axis=-1)
    if known.all():
        return _interpolate(times, positions, sample_times)
    return _interpolate_each(times, positions, known, sample_times, max_gap_s)


def resample_points(
    stamps_ns: np.ndarray, values: np.ndarray, sample_ns: np.ndarray, max_gap_s: float = MAX_GAP_S
) -> np.ndarray:
    """Interpolate points linearly in time; NaN in gaps over `max_gap_s`, also before the first and after the last.

    Args:
        stamps_ns: [L] increasing int64 ns of the values.
        values: [L, ..., V, D] points, NaN if missing.
        sample_ns: [T] stamps to sample at, ns.
        max_gap_s: Longest gap that is interpolated, s.

    Returns:
        [T, ..., V, D] float32.
    """
    values = np.asarray(values, dtype=np.float32)
    points = values.reshape(len(values), -1, values.shape[-1])  # (L, points, D)
    # A NaN observation before all others limits the repetition of the first one to `max_gap_s`.
    before = min(int(stamps_ns[0]), int(sample_ns[0])) - 1
    stamps = np.array([before, *stamps_ns], dtype=np.int64)
    points = np.concatenate([np.full_like(points[:1], np.nan), points])
    return resample(stamps, points, sample_ns, max_gap_s).reshape(len(sample_ns), *values.shape[1:])


def nearest(stamps: np.ndarray, sample_times: np.ndarray) -> np.ndarray:
    """Return the indices [T] of the increasing `stamps` [L] nearest to `sample_times` [T]; the earlier one of a tie."""
    right = np.clip(np.searchsorted(stamps, sample_times), 0, len(stamps) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(np.abs(stamps[right] - sample_times) < np.abs(sample_times - stamps[left]), right, left)


def _interpolate(times: np.ndarray, values: np.ndarray, sample_times: np.ndarray) -> np.ndarray:
    """Interpolate values [L, ...] at `sample_times` [T], constant outside."""
    right = np.clip(np.searchsorted(times, sample_times), 1, max(len(times) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(times) - 1)
    span = times[right] - times[left]
    weight = np.clip((sample_times - times[left]) / np.where(span > 0, span, 1.0), 0.0, 1.0)
    weight = weight.reshape(-1, *[1] * (values.ndim - 1)).astype(np.float32)
    return (values[left] * (1 - weight) + values[right] * weight).astype(np.float32)


def _interpolate_each(
    times: np.ndarray, positions: np.ndarray, known: np.ndarray, sample_times: np.ndarray, max_gap_s: float
) -> np.ndarray:
    """Interpolate each joint over the frames in which it is known; long gaps stay NaN."""
    out = np.full((len(sample_times), *positions.shape[1:]), np.nan, dtype=np.float32)
    # Joints known in the same frames, such as a hand's, are interpolated together.
    patterns, pattern_index = np.unique(known, axis=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):
        joints = np.flatnonzero(pattern_index.reshape(-1) == number)
        known_times = times[pattern]
        if len(known_times) == 0:
            continue
        values = _interpolate(known_times, positions[pattern][:, joints], sample_times)
        after = np.searchsorted(known_times, sample_times)
        inside = (after > 0) & (after < len(known_times))
        gap = np.zeros(len(sample_times))
        gap[inside] = known_times[after[inside]] - known_times[after[inside] - 1]
        # A body's first and last pose are repeated, but a single joint only for `max_gap_s`.
        gap[sample_times > known_times[-1]] = (sample_times - known_times[-1])[sample_times > known_times[-1]]
        before = (sample_times < known_times[0]) & (sample_times >= times[0])
        gap[before] = (known_times[0] - sample_times)[before]
        gap[sample_times < times[0]] = known_times[0] - times[0]
        observed = np.abs(known_times[nearest(known_times, sample_times)] - sample_times) <= 1e-3
        values[(gap > max_gap_s) & ~observed] = np.nan
        out[:, joints] = values
    return out


class Window:
    """The last `seconds` of one body's joints.

    Args:
        seconds: Span of the window.
        frames: Number of samples T.
        max_gap_s: A longer pause between observations restarts the window, as does a stamp that jumps back.
    """

    def __init__(self, seconds: float, frames: int, max_gap_s: float = MAX_GAP_S):
        self.seconds, self.frames, self.max_gap_s = seconds, frames, max_gap_s
        self._stamps: deque[int] = deque()
        self._positions: deque[np.ndarray] = deque()
        self._dropped: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._stamps)

    def add(self, stamp_ns: int, positions: np.ndarray) -> bool:
        """Append one observation [V, 3]; return whether the window restarted.

        Raises:
            InputError: V differs from earlier observations.
        """
        if self._positions and positions.shape != self._positions[-1].shape:
            raise InputError(
                f"joints {list(positions.shape)} do not fit the window's {list(self._positions[-1].shape)}"
            )
        restart = bool(self._stamps) and not 0 < stamp_ns - self._stamps[-1] <= self.max_gap_s * NANOSECONDS
        if restart:
            self._stamps.clear()
            self._positions.clear()
            self._dropped = None
        self._stamps.append(stamp_ns)
        self._positions.append(np.array(positions, dtype=np.float32))  # a copy: the caller may reuse the array
        self._drop_older(stamp_ns - int((self.seconds + self.max_gap_s) * NANOSECONDS))
        return restart

    def _drop_older(self, oldest_ns: int) -> None:
        """Drop observations before `oldest_ns`; of these, keep only the last known position of each joint.

        The time before the window is needed to interpolate joints that are missing at its start, as in a recording.
        """
        while len(self._stamps) > 1 and self._stamps[1] <= oldest_ns:
            self._stamps.popleft()
            last = self._positions.popleft()
            if self._dropped is not None:
                last = np.where(np.isnan(last).any(axis=-1, keepdims=True), self._dropped, last)
            self._dropped = last

    @property
    def stamps_ns(self) -> list[int]:
        """Stamps of the observations."""
        return list(self._stamps)

    @property
    def newest(self) -> np.ndarray:
        """Newest observation, [V, 3]."""
        return self._positions[-1]

    @property
    def end_ns(self) -> int:
        """Stamp of the newest observation."""
        return self._stamps[-1]

    @property
    def start_ns(self) -> int:
        """Stamp of the oldest observation within the span."""
        return max(self._stamps[0], self.end_ns - int(self.seconds * NANOSECONDS))

    @property
    def duration_s(self) -> float:
        """Observed part of the span in seconds; 0 without an observation."""
        return (self.end_ns - self.start_ns) / NANOSECONDS if self._stamps else 0.0

    def positions(self, end_ns: int | None = None) -> np.ndarray:
        """Return [T, V, 3] float32 m, NaN for missing joints.

        The window ends at the newest observation, or at `end_ns`; a later end repeats the last observation.
        """
        sample_times = sample_stamps(self.end_ns if end_ns is None else end_ns, self.seconds, self.frames)
        stamps, positions = list(self._stamps), list(self._positions)
        if self._dropped is not None:
            stamps, positions = [stamps[0] - 1, *stamps], [self._dropped, *positions]
        return resample(np.array(stamps), np.stack(positions), sample_times, self.max_gap_s)


class Series(Generic[T]):
    """Values by stamp, with a bound on their age and number; late values are inserted.

    Args:
        seconds: Maximum age relative to the newest value; one older value is kept.
        max_count: Maximum number of values.
        spacing_s: Minimum time between values; closer ones are ignored.
    """

    def __init__(self, seconds: float, max_count: int = 10_000, spacing_s: float = 0.0):
        self._seconds_ns, self._max_count = int(seconds * NANOSECONDS), max_count
        self._spacing_ns = int(spacing_s * NANOSECONDS)
        self._stamps: list[int] = []
        self._values: list[T] = []

    def __len__(self) -> int:
        return len(self._stamps)

    @property
    def stamps_ns(self) -> list[int]:
        """Stamps of the values, increasing."""
        return list(self._stamps)

    def accepts(self, stamp_ns: int) -> bool:
        """Return whether `add` would keep a value with this stamp."""
        if not self._stamps or stamp_ns < self._stamps[-1] - int(JUMP_S * NANOSECONDS):
            return True
        at = bisect_left(self._stamps, stamp_ns)
        near = self._stamps[max(at - 1, 0) : at + 1]
        gap_ns = min(abs(stamp_ns - other) for other in near)
        return gap_ns > 0 and gap_ns >= self._spacing_ns and stamp_ns > self._stamps[-1] - self._seconds_ns

    def replace(self, stamp_ns: int, value: T) -> None:
        """Replace the value with this stamp, if there is one."""
        at = bisect_left(self._stamps, stamp_ns)
        if at < len(self._stamps) and self._stamps[at] == stamp_ns:
            self._values[at] = value

    def add(self, stamp_ns: int, value: T) -> None:
        """Insert a value if `accepts` allows it. If time has jumped back, remove the other values first."""
        if not self.accepts(stamp_ns):
            return
        if self._stamps and stamp_ns < self._stamps[-1] - int(JUMP_S * NANOSECONDS):
            self.clear()
        at = bisect_left(self._stamps, stamp_ns)
        self._stamps.insert(at, stamp_ns)
        self._values.insert(at, value)
        oldest = bisect_left(self._stamps, self._stamps[-1] - self._seconds_ns) - 1
        excess = max(oldest, len(self._stamps) - self._max_count, 0)
        del self._stamps[:excess], self._values[:excess]

    def clear(self) -> None:
        """Remove all values."""
        self._stamps.clear()
        self._values.clear()

    def rewind(self, stamp_ns: int) -> None:
        """Remove the values that are later than `stamp_ns`."""
        count = bisect_right(self._stamps, stamp_ns)
        del self._stamps[count:], self._values[count:]

    def at(self, stamp_ns: int, tolerance_s: float) -> T | None:
        """Return the value nearest to a stamp; None if it is not within the tolerance."""
        if not self._stamps:
            return None
        index = int(nearest(np.array(self._stamps), np.array([stamp_ns]))[0])
        return self._values[index] if abs(self._stamps[index] - stamp_ns) <= tolerance_s * NANOSECONDS else None

    def nearest(self, sample_ns: np.ndarray) -> list[T]:
        """Return the values nearest in time to the stamps [T]; the series must not be empty."""
        return [self._values[index] for index in nearest(np.array(self._stamps), sample_ns)]

    def interpolated(self, sample_ns: np.ndarray, max_gap_s: float) -> np.ndarray:
        """Interpolate arrays [..., V, D] in time at the stamps [T]; see `resample_points`."""
        return resample_points(np.array(self._stamps), np.stack(self._values), sample_ns, max_gap_s)  # type: ignore[arg-type]


class OneEuro:
    """One-Euro filter of joints (Casiez et al., CHI 2012), with one cutoff per joint from its speed in space.

    Args:
        min_cutoff_hz: Cutoff at rest.
        beta: Increase of the cutoff per m/s.
    """

    def __init__(self, min_cutoff_hz: float, beta: float):
        self._min_cutoff_hz, self._beta = min_cutoff_hz, beta
        self._stamp = 0.0
        self._positions: np.ndarray | None = None
        self._raw = np.zeros(0, np.float32)
        self._velocity = np.zeros(0, np.float32)

    def update(self, stamp: float, positions: np.ndarray) -> np.ndarray:
        """Filter [V, 3] at `stamp` seconds; NaN stays NaN, and a joint is unfiltered after NaN."""
        last, self._stamp, dt = self._positions, stamp, stamp - self._stamp
        if last is None or not 0 < dt <= MAX_FILTER_GAP_S or last.shape != positions.shape:
            self._positions, self._raw, self._velocity = positions.copy(), positions.copy(), np.zeros_like(positions)
            return positions
        speed = np.nan_to_num((positions - self._raw) / np.float32(dt))
        self._velocity += _alpha(SPEED_CUTOFF_HZ, dt) * (speed - self._velocity)
        cutoff = self._min_cutoff_hz + self._beta * np.linalg.norm(self._velocity, axis=1, keepdims=True)
        smooth = last + _alpha(cutoff, dt) * (positions - last)
        self._positions = np.where(np.isfinite(last), smooth, positions).astype(np.float32)
        self._raw = positions.copy()
        return self._positions.copy()


def _alpha(cutoff_hz: np.ndarray | float, dt: float) -> np.ndarray:
    """Return the weight of a new sample in a first-order low-pass filter."""
    turn = 2 * np.pi * np.asarray(cutoff_hz) * dt
    return (turn / (turn + 1)).astype(np.float32)
