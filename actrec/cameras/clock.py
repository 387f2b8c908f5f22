"""Conversion of device stamps to system time."""

from collections import deque

from actrec.types import NANOSECONDS

_SPAN_NS = 10 * NANOSECONDS
"""Window of the offset estimate: long enough to contain a frame without delay, short enough that a drift of 50 ppm adds
only half a millisecond."""

_JUMP_NS = NANOSECONDS
"""A larger jump of the device clock is a reset."""

_ALPHA = 0.05
"""Weight of a new frame in the running means."""


class DeviceClock:
    """Mapping from a device's clock to the system's.

    The offset is the smallest difference between arrival and stamp over the last ten seconds, minus `delay_ns`.

    Attributes:
        jitter_ns: Mean delay of frames beyond the smallest delay.
        restarts: Number of clock jumps.

    Args:
        delay_ns: Smallest time from capture to arrival, if known.
    """

    def __init__(self, delay_ns: int = 0):
        self.jitter_ns = 0.0
        self.restarts = 0
        self._delay = delay_ns
        self._least: deque[tuple[int, int]] = deque()  # (device stamp, difference), differences increasing
        self._newest: int | None = None
        self._returned = 0

    @property
    def offset_ns(self) -> int:
        """System time minus device time; 0 before the first frame."""
        return self._least[0][1] - self._delay if self._least else 0

    def system_ns(self, device_ns: int, arrival_ns: int) -> int:
        """Return the capture time of a frame by the system's clock.

        It is not after the arrival and, unless a clock jumped by more than a second, after the previous frame's.

        Args:
            device_ns: Stamp of the device.
            arrival_ns: System time at arrival.
        """
        difference = arrival_ns - device_ns
        if self._newest is not None and (
            device_ns < self._newest - _JUMP_NS or abs(difference - self._least[0][1]) > _JUMP_NS
        ):
            self._least.clear()
            self.restarts += 1
            self.jitter_ns, self._returned = 0.0, 0
        self._newest = device_ns
        while self._least and self._least[-1][1] >= difference:
            self._least.pop()
        self._least.append((device_ns, difference))
        while self._least[0][0] < device_ns - _SPAN_NS:
            self._least.popleft()
        self.jitter_ns += _ALPHA * (difference - self._least[0][1] - self.jitter_ns)
        self._returned = max(device_ns + self.offset_ns, self._returned + 1)
        return self._returned


class StampStatistics:
    """Running delay and jitter of frames.

    Attributes:
        delay_ms: Mean time from capture to arrival.
        jitter_ms: Mean deviation of the interval between two frames from the mean interval.
    """

    def __init__(self) -> None:
        self.delay_ms = self.jitter_ms = 0.0
        self._interval = 0.0
        self._last: int | None = None

    def figures(self, clock: DeviceClock, skipped: int, incomplete: int, unpaired: int) -> dict[str, float | int]:
        """Return the diagnostics of a driver: delays, clock offset and its counts of dropped frames."""
        return {
            "stamp_delay_ms": self.delay_ms,
            "stamp_jitter_ms": self.jitter_ms,
            "clock_offset_ms": clock.offset_ns / 1e6,
            "skipped": skipped,
            "without_color_or_depth": incomplete,
            "color_and_depth_apart": unpaired,
        }

    def update(self, stamp_ns: int, arrival_ns: int) -> None:
        """Add a frame."""
        delay = (arrival_ns - stamp_ns) / 1e6
        if self._last is None:
            self.delay_ms = delay
        else:
            interval = (stamp_ns - self._last) / 1e6
            self._interval += (interval - self._interval) * (_ALPHA if self._interval else 1)
            self.jitter_ms += _ALPHA * (abs(interval - self._interval) - self.jitter_ms)
            self.delay_ms += _ALPHA * (delay - self.delay_ms)
        self._last = stamp_ns
