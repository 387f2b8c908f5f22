"""What came with a stamp, in order of its stamps: bounded, tolerant of what is late, sampled by time."""

from bisect import bisect_left, bisect_right
from typing import Generic, TypeVar

import numpy as np

from actrec import windows
from actrec.frames import NANOSECONDS

T = TypeVar("T")

JUMP_S = 1.0
"""A stamp older than the newest by more than this is no late message: time has jumped back (a recording loops)."""


def sampled(stamps_ns: np.ndarray, values: np.ndarray, wanted_ns: np.ndarray, max_gap_s: float = 0.5) -> np.ndarray:
    """A whole recording's points at a window's stamps, as the live recognizer samples them.

    Args:
        stamps_ns: [L] increasing stamps.
        values: [L, ..., D] points of any arrangement, NaN for missing.
        wanted_ns: [T] stamps to sample at, none before the body was first seen (`numpy.maximum`).
        max_gap_s: As `Series.interpolated` has it.
    """
    series: Series[np.ndarray] = Series(float("1e9"), len(values) + 1)
    series._stamps, series._values = [int(stamp) for stamp in stamps_ns], list(values)
    return series.interpolated(wanted_ns, max_gap_s)


def nearest(stamps_ns: np.ndarray, wanted_ns: np.ndarray) -> np.ndarray:
    """[T] indices of the increasing `stamps_ns` [L] that are nearest to `wanted_ns` [T], the earlier of two alike."""
    right = np.clip(np.searchsorted(stamps_ns, wanted_ns), 1, max(len(stamps_ns) - 1, 1))
    right = np.minimum(right, len(stamps_ns) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(np.abs(stamps_ns[right] - wanted_ns) < np.abs(wanted_ns - stamps_ns[left]), right, left)


class Series(Generic[T]):
    """Values by stamp.

    Args:
        seconds: Values older than this against the newest are forgotten, but for the last of them.
        most: More values than this are never kept; the oldest go.
        spacing_s: A value nearer than this to the one before or after it is left out.
    """

    def __init__(self, seconds: float, most: int = 10_000, spacing_s: float = 0.0):
        self._seconds_ns, self._most = int(seconds * NANOSECONDS), most
        self._spacing_ns = int(spacing_s * NANOSECONDS)
        self._stamps: list[int] = []
        self._values: list[T] = []

    def __len__(self) -> int:
        return len(self._stamps)

    def takes(self, stamp_ns: int) -> bool:
        """Whether a value of this stamp would be kept: not one too many, not too old, not there already."""
        if not self._stamps or stamp_ns < self._stamps[-1] - int(JUMP_S * NANOSECONDS):
            return True
        at = bisect_left(self._stamps, stamp_ns)
        near = self._stamps[max(at - 1, 0) : at + 1]
        apart = min(abs(stamp_ns - other) for other in near)
        return apart > 0 and apart >= self._spacing_ns and stamp_ns > self._stamps[-1] - self._seconds_ns

    def replace(self, stamp_ns: int, value: T) -> None:
        """Puts a better value in the place of the one with this very stamp, if there is one."""
        at = bisect_left(self._stamps, stamp_ns)
        if at < len(self._stamps) and self._stamps[at] == stamp_ns:
            self._values[at] = value

    def add(self, stamp_ns: int, value: T) -> None:
        """Keeps a value, unless `takes` says no. Where time has jumped back, what was there is forgotten."""
        if not self.takes(stamp_ns):
            return
        if self._stamps and stamp_ns < self._stamps[-1] - int(JUMP_S * NANOSECONDS):
            self.clear()
        at = bisect_left(self._stamps, stamp_ns)
        self._stamps.insert(at, stamp_ns)
        self._values.insert(at, value)
        oldest = bisect_left(self._stamps, self._stamps[-1] - self._seconds_ns) - 1
        surplus = max(oldest, len(self._stamps) - self._most, 0)
        del self._stamps[:surplus], self._values[:surplus]

    def clear(self) -> None:
        """Forgets everything."""
        self._stamps.clear()
        self._values.clear()

    def rewind(self, stamp_ns: int) -> None:
        """Forgets what is of a later time than this, as when time has jumped back to it."""
        kept = bisect_right(self._stamps, stamp_ns)
        del self._stamps[kept:], self._values[kept:]

    def at(self, stamp_ns: int, tolerance_s: float) -> T | None:
        """The value nearest to a stamp, if it is near enough."""
        if not self._stamps:
            return None
        index = int(self._nearest(np.array([stamp_ns]))[0])
        return self._values[index] if abs(self._stamps[index] - stamp_ns) <= tolerance_s * NANOSECONDS else None

    def nearest(self, wanted_ns: np.ndarray) -> list[T]:
        """The values nearest in time to the stamps [T]; there must be one."""
        return [self._values[index] for index in self._nearest(wanted_ns)]

    def interpolated(self, wanted_ns: np.ndarray, max_gap_s: float) -> np.ndarray:
        """Points of arrays [..., V, D] at the stamps [T], interpolated in time: [T, ..., V, D] float32.

        A point unseen for longer than `max_gap_s` is NaN, before its first and after its last sight too.
        """
        values = np.stack([np.asarray(value, dtype=np.float32) for value in self._values])
        points = values.reshape(len(values), -1, values.shape[-1])  # (L, points, D)
        # An observation of nothing before all: a point is then held for `max_gap_s` before its first sight, no longer.
        before = min(self._stamps[0], int(wanted_ns[0])) - 1
        stamps = np.array([before, *self._stamps], dtype=np.int64)
        points = np.concatenate([np.full_like(points[:1], np.nan), points])
        found = windows.resample(stamps, points, wanted_ns, max_gap_s)
        return found.reshape(len(wanted_ns), *values.shape[1:])

    def _nearest(self, wanted_ns: np.ndarray) -> np.ndarray:
        return nearest(np.array(self._stamps, dtype=np.int64), wanted_ns)
