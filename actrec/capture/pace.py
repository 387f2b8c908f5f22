"""When recorded frames are due, and stamps for them that only grow."""

import time

_DEFAULT_PERIOD_NS = 33_333_333
_SET_NS = 3600 * 1_000_000_000
"""No recording pauses for as long: there its clock was set, as a robot's that starts in 1970 and finds the network."""


class Pace:
    """Follows recorded stamps, which may jump, and turns them into due times and growing stamps.

    Where the recorded clock was set, back or on by more than an hour, and where a loop starts over, one frame period is
    put.

    Attributes:
        stamps_back: Frames whose recorded stamp was before the one preceding it.

    Args:
        rate: Recorded seconds a second; 0 makes every frame due at once.
    """

    def __init__(self, rate: float):
        self.stamps_back = 0
        self._rate = rate
        self._growing: int | None = None  # the newest stamp given
        self._period = _DEFAULT_PERIOD_NS
        self.restart()

    def restart(self) -> None:
        """After a seek: the next frame is due now."""
        self._last: int | None = None
        self._anchor: float | None = None
        self._played_ns = 0  # recorded time since the anchor
        self._passes = 0

    def due(self, stamp: int, passes: int = 0) -> float:
        """When (time.monotonic) the frame recorded at `stamp`, in pass number `passes`, is due."""
        if self._rate == 0 or self._anchor is None:
            return time.monotonic()
        return self._anchor + (self._played_ns + self._step(stamp, passes)) / (self._rate * 1e9)

    def advance(self, stamp: int, passes: int = 0) -> int:
        """The frame goes out now; returns its growing stamp, nanoseconds since the epoch."""
        step = self._step(stamp, passes)
        if self._last is not None and passes == self._passes:
            self.stamps_back += stamp < self._last
            self._period = step or self._period
        self._last, self._passes = stamp, passes
        self._played_ns += step
        if self._anchor is None:
            self._anchor = time.monotonic()
            now = time.time_ns()
            step = max(now, (self._growing or 0) + self._period) - (self._growing or 0)
        self._growing = (self._growing or 0) + step
        return self._growing

    def _step(self, stamp: int, passes: int) -> int:
        """Recorded time from the newest frame to this one, never negative."""
        if self._last is None:
            return 0
        step = stamp - self._last
        return step if 0 <= step <= _SET_NS and passes == self._passes else self._period
