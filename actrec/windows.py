"""Sliding windows of skeletons, resampled by time to what a network takes.

A window always spans `seconds` and ends at the newest observation, so that speed keeps its meaning whatever the
camera's frame rate. Before the first observation the first pose is held. Training and the live recognizer both sample
here.
"""

from collections import deque

import numpy as np

from actrec.errors import InputError
from actrec.frames import NANOSECONDS


def sample_stamps(end_ns: int, seconds: float, frames: int) -> np.ndarray:
    """The [T] stamps in nanoseconds at which a window is sampled: evenly spaced, the last one at `end_ns`."""
    steps = np.arange(frames - 1, -1, -1, dtype=np.float64)
    return end_ns - np.round(steps * seconds / frames * NANOSECONDS).astype(np.int64)


def stretched_stamps(start_ns: int, end_ns: int, frames: int) -> np.ndarray:
    """The [T] stamps in nanoseconds, evenly spaced, that hold all between `start_ns` and `end_ns`, both included."""
    return np.round(np.linspace(start_ns, end_ns, frames)).astype(np.int64)


def resample(stamps_ns: np.ndarray, positions: np.ndarray, wanted_ns: np.ndarray, max_gap_s: float = 0.5) -> np.ndarray:
    """Linear interpolation of joints in time.

    Args:
        stamps_ns: [L] increasing int64 nanoseconds of the observations.
        positions: [L, V, 3] metres, NaN for missing.
        wanted_ns: [T] stamps to sample at; outside the observations the nearest one is held.
        max_gap_s: A joint unseen for longer stays NaN in between.

    Returns:
        [T, V, 3] float32.
    """
    times = (np.asarray(stamps_ns, dtype=np.int64) - wanted_ns[-1]) / NANOSECONDS
    wanted = (wanted_ns - wanted_ns[-1]) / NANOSECONDS
    seen = ~np.isnan(positions).any(axis=-1)
    if seen.all():
        return _interpolate(times, positions, wanted)
    return _interpolate_each(times, positions, seen, wanted, max_gap_s)


def _interpolate(times: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Interpolates values [L, ...] at `wanted` [T], holding the ends."""
    right = np.clip(np.searchsorted(times, wanted), 1, max(len(times) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(times) - 1)
    span = times[right] - times[left]
    share = np.clip((wanted - times[left]) / np.where(span > 0, span, 1.0), 0.0, 1.0)
    share = share.reshape(-1, *[1] * (values.ndim - 1)).astype(np.float32)
    return (values[left] * (1 - share) + values[right] * share).astype(np.float32)


def _interpolate_each(
    times: np.ndarray, positions: np.ndarray, seen: np.ndarray, wanted: np.ndarray, max_gap_s: float
) -> np.ndarray:
    """As `_interpolate`, each joint over the frames in which it was seen; long gaps stay NaN."""
    out = np.full((len(wanted), *positions.shape[1:]), np.nan, dtype=np.float32)
    # Joints that were seen in the same frames (a hand's, a face's) are interpolated together.
    patterns, alike = np.unique(seen, axis=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):
        joints = np.flatnonzero(alike.reshape(-1) == number)
        kept = times[pattern]
        if len(kept) == 0:
            continue
        values = _interpolate(kept, positions[pattern][:, joints], wanted)
        after = np.searchsorted(kept, wanted)
        inside = (after > 0) & (after < len(kept))
        gap = np.zeros(len(wanted))
        gap[inside] = kept[after[inside]] - kept[after[inside] - 1]
        # At the ends a held pose stands for what was not observed; of a joint alone that would be a guess.
        gap[wanted > kept[-1]] = (wanted - kept[-1])[wanted > kept[-1]]
        early = (wanted < kept[0]) & (wanted >= times[0])
        gap[early] = (kept[0] - wanted)[early]
        gap[wanted < times[0]] = kept[0] - times[0]
        values[(gap > max_gap_s) & ~_observed(kept, wanted)] = np.nan
        out[:, joints] = values
    return out


def _observed(kept: np.ndarray, wanted: np.ndarray, tolerance_s: float = 1e-3) -> np.ndarray:
    """Whether each of `wanted` [T] coincides with one of `kept` [K], both increasing."""
    right = np.clip(np.searchsorted(kept, wanted), 0, len(kept) - 1)
    left = np.maximum(right - 1, 0)
    return np.minimum(np.abs(kept[right] - wanted), np.abs(wanted - kept[left])) <= tolerance_s


class Window:
    """The last `seconds` of one body's joints.

    Args:
        seconds: Span of the window.
        frames: T, how many samples a network takes from it.
        max_gap_s: A longer pause between observations restarts the window, as does a stamp that jumps back.
    """

    def __init__(self, seconds: float, frames: int, max_gap_s: float = 0.5):
        self.seconds, self.frames, self.max_gap_s = seconds, frames, max_gap_s
        self._stamps: deque[int] = deque()
        self._positions: deque[np.ndarray] = deque()
        self._forgotten: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._stamps)

    def add(self, stamp_ns: int, positions: np.ndarray) -> bool:
        """Appends one observation [V, 3]; True where the window had to restart.

        Raises:
            InputError: V differs from that of the earlier observations.
        """
        if self._positions and positions.shape != self._positions[-1].shape:
            raise InputError(
                f"joints {list(positions.shape)} do not fit the window's {list(self._positions[-1].shape)}"
            )
        restart = bool(self._stamps) and not 0 < stamp_ns - self._stamps[-1] <= self.max_gap_s * NANOSECONDS
        if restart:
            self.clear()
        self._stamps.append(stamp_ns)
        self._positions.append(np.array(positions, dtype=np.float32))  # a copy: the next may be written there
        self._forget(stamp_ns - int((self.seconds + self.max_gap_s) * NANOSECONDS))
        return restart

    def _forget(self, oldest_ns: int) -> None:
        # A joint that is missing when the window begins is interpolated from `max_gap_s` before it, as in a recording;
        # of one that was seen longer ago no more is known than that it was.
        while len(self._stamps) > 1 and self._stamps[1] <= oldest_ns:
            self._stamps.popleft()
            last = self._positions.popleft()
            if self._forgotten is not None:
                last = np.where(np.isnan(last).any(axis=-1, keepdims=True), self._forgotten, last)
            self._forgotten = last

    def clear(self) -> None:
        """Forgets everything."""
        self._stamps.clear()
        self._positions.clear()
        self._forgotten = None

    @property
    def newest(self) -> np.ndarray:
        """The newest observation, [V, 3]."""
        return self._positions[-1]

    @property
    def end_ns(self) -> int:
        """Stamp of the newest observation."""
        return self._stamps[-1]

    @property
    def start_ns(self) -> int:
        """Stamp of the oldest observation used, never before the window's span."""
        return max(self._stamps[0], self.end_ns - int(self.seconds * NANOSECONDS))

    @property
    def duration_s(self) -> float:
        """How much of the span was really observed, in seconds."""
        return (self.end_ns - self.start_ns) / NANOSECONDS

    def positions(self, end_ns: int | None = None) -> np.ndarray:
        """[T, V, 3] float32 metres, NaN for joints that were not seen.

        Args:
            end_ns: The window ends there; None for the newest observation, which is held where it is older.
        """
        wanted = sample_stamps(self.end_ns if end_ns is None else end_ns, self.seconds, self.frames)
        stamps, positions = list(self._stamps), list(self._positions)
        if self._forgotten is not None:
            stamps, positions = [stamps[0] - 1, *stamps], [self._forgotten, *positions]
        return resample(np.array(stamps), np.stack(positions), wanted, self.max_gap_s)
