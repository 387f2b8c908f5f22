"""A device's clock and the system's: when a frame was taken, by the clock that the robot goes by."""

from collections import deque

from actrec.types import NANOSECONDS

_SPAN_NS = 10 * NANOSECONDS
"""What the offset is found from: long enough to hold a frame that came without delay, short enough for clocks that
drift apart by 50 millionths: half a millisecond."""

_JUMP_NS = NANOSECONDS
"""A device clock that differs by more has been reset."""

_SHARE = 0.05
"""Of a new frame in the running means."""


class DeviceClock:
    """Maps stamps of a device's own clock to the system's.

    A frame never arrives before it was taken, and now and then one arrives at once; so the smallest difference between
    arrival and stamp over the last ten seconds is the clocks' offset, plus the least delay that frames have.

    Attributes:
        jitter_ns: Mean delay of the frames beyond the least one.
        restarts: Times that the device's clock jumped.

    Args:
        delay_ns: The least time from capture to arrival, if known.
    """

    def __init__(self, delay_ns: int = 0):
        self.jitter_ns = 0.0
        self.restarts = 0
        self._delay = delay_ns
        self._least: deque[tuple[int, int]] = deque()  # (device stamp, difference): differences grow along it
        self._newest: int | None = None
        self._given = 0

    @property
    def offset_ns(self) -> int:
        """System time less device time; 0 before the first frame."""
        return self._least[0][1] - self._delay if self._least else 0

    def system_ns(self, device_ns: int, arrival_ns: int) -> int:
        """When a frame was taken, by the system's clock: not after it arrived, and after the frame before it.

        Where the system's clock is set back by more than a second, so are the stamps.

        Args:
            device_ns: Its stamp.
            arrival_ns: The system's time when it came.
        """
        difference = arrival_ns - device_ns
        if self._newest is not None and (
            device_ns < self._newest - _JUMP_NS or abs(difference - self._least[0][1]) > _JUMP_NS
        ):
            self._least.clear()
            self.restarts += 1
            self.jitter_ns, self._given = 0.0, 0
        self._newest = device_ns
        while self._least and self._least[-1][1] >= difference:
            self._least.pop()
        self._least.append((device_ns, difference))
        while self._least[0][0] < device_ns - _SPAN_NS:
            self._least.popleft()
        self.jitter_ns += _SHARE * (difference - self._least[0][1] - self.jitter_ns)
        self._given = max(device_ns + self.offset_ns, self._given + 1)
        return self._given


class StampFigures:
    """How late frames come and how evenly they were taken, over the last twenty or so.

    Attributes:
        delay_ms: Mean time from capture to arrival.
        jitter_ms: Mean deviation of the interval between two frames from the mean interval.
    """

    def __init__(self) -> None:
        self.delay_ms = self.jitter_ms = 0.0
        self._interval = 0.0
        self._last: int | None = None

    def told(self, clock: DeviceClock, skipped: int, halves: int, unpaired: int) -> dict[str, float | int]:
        """With what drivers count, by the names that a node's figures have."""
        return {
            "stamp_delay_ms": self.delay_ms,
            "stamp_jitter_ms": self.jitter_ms,
            "clock_offset_ms": clock.offset_ns / 1e6,
            "skipped": skipped,
            "without_color_or_depth": halves,
            "color_and_depth_apart": unpaired,
        }

    def seen(self, stamp_ns: int, arrival_ns: int) -> None:
        """Count a frame of this stamp."""
        delay = (arrival_ns - stamp_ns) / 1e6
        if self._last is None:
            self.delay_ms = delay
        else:
            interval = (stamp_ns - self._last) / 1e6
            self._interval += (interval - self._interval) * (_SHARE if self._interval else 1)
            self.jitter_ms += _SHARE * (abs(interval - self._interval) - self.jitter_ms)
            self.delay_ms += _SHARE * (delay - self.delay_ms)
        self._last = stamp_ns
