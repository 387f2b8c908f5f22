"""Age of frames, whatever clock their stamps are of, and the validity of labels."""

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from actrec.types import NANOSECONDS

RECENT_S = 1.0  # time of flowing frames over which the smallest delay is taken; below the age that is stale
LONG_S = 60.0  # the same for the time in queues if this process was stopped; clocks of machines drift
JUMP_S = 0.5  # between two frames a clock that advances by so much more or less than time passes was set
READ_S = 0.1  # two clocks are read within this time
AHEAD_S = 0.1  # stamps may be in the future by this much, because the clocks of a network differ


def elapsed_ns() -> int:
    """Return the time on a clock that is never set, and goes on while the process is stopped or the machine sleeps."""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True)
class Arrival:
    """The times of a received frame, in ns.

    Attributes:
        stamp_ns: Its stamp, by the clock of the camera.
        queued_ns: Time from its publication to its receipt, above the smallest one of recent frames.
        queued_long_ns: The same above the smallest one of a long time.
        received_ns: `elapsed_ns` of its receipt.
    """

    stamp_ns: int
    queued_ns: int
    queued_long_ns: int
    received_ns: int


class FrameAges:
    """Measures the ages of frames.

    The time in queues is that from the publication to now, both of which the middleware and this process know. The
    clock of another machine may differ, so it is counted from the smallest one of recent frames. This finds frames that
    waited because this process was stopped or the network was down, whatever their stamps are.

    The age by stamp is that from the stamp to now by the node's clock. It also finds frames that are old because the
    publisher was stopped. If it is implausible for all recent frames, stamps are of another clock (a recording, a
    camera on a machine with another time), and it is counted from the smallest one.

    Recent are the frames of the last `RECENT_S`, pauses not counted. Over a longer time, the delay of a recording that
    is played slowly, or of a burst of messages, would grow too much. Only if this process was stopped, the time in
    queues is counted from the smallest one of a long time, because it takes long to empty the queues.

    Args:
        clock_ns: The node's clock.
        limit_s: Age of stale frames. Delays of all recent frames above this mean another clock.
        elapsed: As `elapsed_ns`.

    Attributes:
        step_s: By how much the node's clock was set between the last two frames, s; 0 if it was not.
    """

    def __init__(self, clock_ns: Callable[[], int], limit_s: float, elapsed_ns: Callable[[], int] = elapsed_ns):
        self._clock_ns, self._limit_ns, self._elapsed_ns = clock_ns, limit_s * NANOSECONDS, elapsed_ns
        recent_s = min(RECENT_S, limit_s / 2)
        self._pause_s, self._live_ns = recent_s / 2, (limit_s - 1.2 * recent_s) * NANOSECONDS
        self._by_stamp, self._in_queue, self._in_queue_long = map(LeastDelay, (recent_s, recent_s, LONG_S))
        self._newest: Arrival | None = None
        self._published_ns = self._clock_before_ns = 0
        self._flow_s, self._late, self.step_s = 0.0, False, 0.0
        self._intervals: deque[float] = deque(maxlen=15)  # s

    def add(self, stamp_ns: int, published_ns: int = 0) -> Arrival:
        """Return the times of a frame that is being received.

        Args:
            stamp_ns: Its stamp.
            published_ns: Its publication, by the clock of the publisher's machine; 0 if the middleware has none.
        """
        (now_ns, clock_ns), before = self._read_clocks(), self._newest
        passed_s = 0.0 if before is None else (now_ns - before.received_ns) / NANOSECONDS
        if passed_s > 0:
            self._intervals.append(passed_s)
            usual_s = statistics.median(self._intervals)
            is_pause = passed_s > max(self._pause_s, 2 * usual_s)  # counts as one interval: earlier delays stay
            self._flow_s += usual_s if is_pause else passed_s
        clock_s = (clock_ns - self._clock_before_ns) / NANOSECONDS
        self.step_s = 0.0 if before is None or abs(clock_s - passed_s) <= JUMP_S else clock_s - passed_s
        if before is None or stamp_ns < before.stamp_ns or self.step_s:
            self._by_stamp.clear()
        self._by_stamp.add(self._flow_s, clock_ns - stamp_ns)
        queued_ns = now_ns - published_ns if published_ns else 0
        if published_ns < self._published_ns:  # another publisher, or its clock was set back
            self._in_queue.clear()
            self._in_queue_long.clear()
        self._in_queue.add(self._flow_s, queued_ns)
        self._in_queue_long.add(self._flow_s, queued_ns)
        self._clock_before_ns, self._published_ns = clock_ns, published_ns
        above_ns, above_long_ns = queued_ns - self._in_queue.least_ns, queued_ns - self._in_queue_long.least_ns
        self._newest = Arrival(stamp_ns, above_ns, above_long_ns, now_ns)
        return self._newest

    def _read_clocks(self) -> tuple[int, int]:
        """Return the elapsed time and the node's clock, of one moment also if this process was stopped meanwhile."""
        for _ in range(3):
            before_ns, clock_ns, now_ns = self._elapsed_ns(), self._clock_ns(), self._elapsed_ns()
            if now_ns - before_ns < READ_S * NANOSECONDS:
                break
        return now_ns, clock_ns

    def age_s(self, frame: Arrival) -> float:
        """Return the age of a frame now."""
        return max(self._since_ns(frame.stamp_ns) - self._offset_ns(), self._waited_ns(frame), 0) / NANOSECONDS

    def age_of_stamp_s(self, stamp_ns: int) -> float:
        """Return the age of the frame with this stamp now: the newest one, or one before it."""
        if self._newest is not None and self._newest.stamp_ns == stamp_ns:
            return self.age_s(self._newest)
        return max(self._since_ns(stamp_ns) - self._offset_ns(), 0) / NANOSECONDS

    def known_age_s(self, frame: Arrival, paused_within: Callable[[float], bool] = lambda seconds: False) -> float:
        """Return the age of a frame now, as far as it is known for sure: by stamps of another clock it is not.

        Args:
            frame: The frame.
            paused_within: Returns whether this process was stopped in the last so many seconds.
        """
        # Not up to the limit: the delay of a recording that is played slowly grows while earlier frames are recent.
        is_live = -AHEAD_S * NANOSECONDS <= self._by_stamp.least_ns <= self._live_ns
        ages_ns = [self._waited_ns(frame), self._since_ns(frame.stamp_ns) if is_live else 0]
        waited_s = (frame.queued_long_ns + self._elapsed_ns() - frame.received_ns) / NANOSECONDS
        # After a stop, queues are late until a frame has come through them in time.
        self._late = paused_within(waited_s) or (self._late and waited_s * NANOSECONDS > self._limit_ns)
        return max(max(ages_ns) / NANOSECONDS, waited_s if self._late else 0.0)

    def _since_ns(self, stamp_ns: int) -> int:
        return self._clock_ns() - stamp_ns

    def _waited_ns(self, frame: Arrival) -> int:
        """Return the time that a frame has spent in queues and in this process."""
        return frame.queued_ns + self._elapsed_ns() - frame.received_ns

    def _offset_ns(self) -> int:
        """Return the smallest delay if stamps are of another clock, else 0."""
        least_ns = self._by_stamp.least_ns
        return 0 if -AHEAD_S * NANOSECONDS <= least_ns <= self._limit_ns else least_ns


class LeastDelay:
    """The smallest of the recent delays.

    Args:
        recent_s: How long a delay is recent.
    """

    def __init__(self, recent_s: float):
        self._recent_s = recent_s
        self._kept: deque[tuple[float, int]] = deque()  # time and delay; each is smaller than the ones after it

    @property
    def least_ns(self) -> int:
        """The smallest delay; 0 without any."""
        return self._kept[0][1] if self._kept else 0

    def clear(self) -> None:
        """Forget all delays."""
        self._kept.clear()

    def add(self, time_s: float, delay_ns: int) -> None:
        """Add a delay at a time, which must not decrease."""
        while self._kept and self._kept[-1][1] >= delay_ns:
            self._kept.pop()
        self._kept.append((time_s, delay_ns))
        while self._kept[0][0] < time_s - self._recent_s:
            self._kept.popleft()


class Heartbeat:
    """Finds the times in which this process did not run: stopped, or without a processor.

    Args:
        stale_s: Age of stale frames; a pause of half of it is one.

    Attributes:
        period_s: Interval at which `beat` is to be called; 0 for never.
    """

    SHARE, SHORTEST_S, LONGEST_S = 0.1, 0.05, 0.5

    def __init__(self, stale_s: float, elapsed_ns: Callable[[], int] = elapsed_ns):
        self.period_s = min(max(self.SHARE * stale_s, self.SHORTEST_S), self.LONGEST_S) if stale_s else 0.0
        self._pause_ns, self._elapsed_ns = 0.5 * stale_s * NANOSECONDS, elapsed_ns
        self._last_ns = elapsed_ns()
        self._resumed_ns: int | None = None

    def beat(self) -> float:
        """Return the length of a pause that ends now, in s; 0 if there was none."""
        now_ns = self._elapsed_ns()
        passed_ns, self._last_ns = now_ns - self._last_ns, now_ns
        if passed_ns < self._pause_ns:
            return 0.0
        self._resumed_ns = now_ns
        return passed_ns / NANOSECONDS

    def paused_within(self, seconds: float) -> bool:
        """Return whether there was a pause in the last `seconds`; it may end now."""
        now_ns, resumed_ns = self._elapsed_ns(), self._resumed_ns
        ended = resumed_ns is not None and now_ns - resumed_ns <= seconds * NANOSECONDS
        return ended or now_ns - self._last_ns >= self._pause_ns
