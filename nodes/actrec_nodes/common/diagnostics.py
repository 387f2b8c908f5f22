"""Statistics of a node, and their DiagnosticStatus on `/diagnostics` if diagnostic_msgs is installed."""

import importlib
import json
import math
import re
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from rclpy.node import Node

COUNTED = ("received", "processed", "dropped", "failed", "unpaired", "skipped", "stale")  # see `NodeStatistics`
KEPT = 1000  # latencies kept for the percentiles: over half a minute at 30 Hz
PLAUSIBLE_LATENCY_S = 30.0  # the stamp of a message older than this is a recording's and is not compared with the clock
STALLED_S = 5.0  # inputs have stopped if the last one is older than this and than three mean intervals
REPEAT_S = 5.0  # shortest interval between two log lines of one kind
LINE_CHARACTERS = 1000  # of a log line or a diagnostic; a string of a message may have megabytes
KINDS = 100  # kinds of log lines whose repetitions are counted
RECENT_S = 10.0  # an error this recent makes the node's status an error
DROPPING = 0.5  # above this share of dropped inputs the node's status is a warning

NO_FIGURES: Mapping[str, float | int | str] = MappingProxyType({})


@dataclass(frozen=True)
class NodeStatistics:
    """Statistics of a node since it was activated.

    Attributes:
        received, processed, dropped, failed: Counts of inputs. A newer input replaces a dropped one.
        unpaired: Color images without a depth image of their stamp.
        skipped: Labels skipped because newer skeletons were in the queue; the skeletons did enter the window.
        stale: Inputs that were too old to be worked on.
        rate_hz: Processed inputs per second over the last `KEPT`; 0 if inputs stopped.
        latency_p50_ms, latency_p95_ms: Stamp of an input to the publication of its result; NaN if the stamps are not of
            this clock (a recording's).
        work_p50_ms, work_p95_ms: Duration of the node's own work.
        queue: Inputs in the queue now.
        queue_max: Most inputs that were in the queue at once.
        last_error: One line, empty for none.
    """

    received: int
    processed: int
    dropped: int
    failed: int
    unpaired: int
    skipped: int
    rate_hz: float
    latency_p50_ms: float
    latency_p95_ms: float
    work_p50_ms: float
    work_p95_ms: float
    queue: int
    last_error: str
    stale: int = 0
    queue_max: int = 0

    def line(self) -> str:
        """Return the statistics as a line for the log."""
        parts = [f"{self.processed} of {self.received} processed at {self.rate_hz:.1f} Hz", f"{self.dropped} dropped"]
        for what in ("failed", "unpaired", "skipped", "stale"):
            parts += [f"{getattr(self, what)} {what}"] * bool(getattr(self, what))
        parts.append(f"work p50 {self.work_p50_ms:.0f} ms p95 {self.work_p95_ms:.0f} ms")
        if np.isfinite(self.latency_p50_ms):
            parts.append(f"latency p50 {self.latency_p50_ms:.0f} ms p95 {self.latency_p95_ms:.0f} ms")
        return ", ".join(parts)

    def json(self, more: Mapping[str, float | int | str] = NO_FIGURES) -> str:
        """Return the statistics and `more` as a JSON object; NaN becomes null."""
        figures = {**asdict(self), **more}
        return json.dumps({k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in figures.items()})


class Statistics:
    """Thread-safe counters of a node."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Reset all counts to zero."""
        with self._lock:
            self._counts = dict.fromkeys(COUNTED, 0)
            self._latency: deque[float] = deque(maxlen=KEPT)
            self._work: deque[float] = deque(maxlen=KEPT)
            self._times: deque[float] = deque(maxlen=KEPT)
            self._queue = self._queue_max = 0
            self._last_error = ""
            self._error_time = float("-inf")

    def count(self, what: str, number: int = 1) -> None:
        """Add to one of `COUNTED`."""
        with self._lock:
            self._counts[what] += number

    def queue(self, length: int) -> None:
        """Set the length of the queue."""
        with self._lock:
            self._queue, self._queue_max = length, max(self._queue_max, length)

    def done(self, work_s: float, latency_s: float | None = None) -> None:
        """Count a processed input, with the duration of its work and the age of its stamp, if known."""
        now = time.monotonic()
        with self._lock:
            self._counts["processed"] += 1
            if _stalled(self._times, now):  # a pause does not count for the rate
                self._times.clear()
            self._times.append(now)
            self._work.append(work_s)
            if latency_s is not None and 0.0 <= latency_s < PLAUSIBLE_LATENCY_S:
                self._latency.append(latency_s)

    def error(self, line: str, recent: bool = True) -> None:
        """Keep the last error and, if it is `recent`, its time."""
        with self._lock:
            self._last_error = line
            if recent:
                self._error_time = time.monotonic()

    def clear_error(self) -> None:
        """Forget the last error, whose cause is over."""
        with self._lock:
            self._last_error, self._error_time = "", float("-inf")

    def seconds_since_error(self) -> float:
        """Return the seconds since the last error; infinite before the first."""
        with self._lock:
            return time.monotonic() - self._error_time

    def snapshot(self) -> NodeStatistics:
        """Return the statistics now."""
        with self._lock:
            latency, work, times = list(self._latency), list(self._work), list(self._times)
            counts, last_error = dict(self._counts), self._last_error
            queue, queue_max = self._queue, self._queue_max
        span = times[-1] - times[0] if len(times) > 1 else 0.0
        rate = (len(times) - 1) / span if span > 0 and not _stalled(times, time.monotonic()) else 0.0
        (l50, l95), (w50, w95) = percentiles_ms(latency), percentiles_ms(work)
        return NodeStatistics(
            **counts, rate_hz=rate, latency_p50_ms=l50, latency_p95_ms=l95, work_p50_ms=w50, work_p95_ms=w95,
            queue=queue, queue_max=queue_max, last_error=last_error,
        )  # fmt: skip


class RepeatedLines:
    """Counts log lines that repeat themselves, so that each is logged once per `REPEAT_S`. Thread-safe.

    Lines that differ in numbers only, such as stamps, counts or ids, are repetitions.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[str, tuple[float, int]] = {}

    def __len__(self) -> int:
        return len(self._kinds)

    def count(self, line: str) -> int | None:
        """Return how often a line was held back if it is due, else None."""
        now, kind = time.monotonic(), re.sub(r"\d+", "0", line)
        with self._lock:
            last, held = self._kinds.pop(kind, (float("-inf"), 0))
            is_due = now - last >= REPEAT_S
            self._kinds[kind] = (now, 0) if is_due else (last, held + 1)  # the newest come last
            if len(self._kinds) > KINDS:
                del self._kinds[next(iter(self._kinds))]
        return held if is_due else None


def shorten(text: str) -> str:
    """Return a text in one line of at most `LINE_CHARACTERS`, without control characters, for logs and diagnostics.

    A long text keeps its begin and its end, which has the remedy.
    """
    if len(text) > LINE_CHARACTERS:
        kept = LINE_CHARACTERS - 40
        text = f"{text[: 2 * kept // 3]} … ({len(text) - kept} characters) … {text[-(kept // 3) :]}"
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def _stalled(times: Sequence[float], now: float) -> bool:
    if not times:
        return False
    pace = (times[-1] - times[0]) / max(len(times) - 1, 1)
    return now - times[-1] > max(STALLED_S, 3 * pace)


def percentiles_ms(seconds: list[float]) -> tuple[float, float]:
    """Return p50 and p95 in milliseconds; NaN without values."""
    p50, p95 = np.percentile(seconds or [math.nan], (50, 95)) * 1e3
    return float(p50), float(p95)


class Publisher:
    """Publishes a node's statistics as a DiagnosticStatus; does nothing if diagnostic_msgs is not installed."""

    def __init__(self, node: Node):
        self._node = node
        self._publisher: Any = None
        try:
            self._msg = importlib.import_module("diagnostic_msgs.msg")
        except ModuleNotFoundError:  # there is no wheel of it
            return
        self._publisher = node.create_publisher(self._msg.DiagnosticArray, "/diagnostics", 10)

    def publish(
        self,
        statistics: NodeStatistics,
        active: bool,
        seconds_since_error: float,
        busy: str = "",
        more: Mapping[str, float | int | str] = NO_FIGURES,
    ) -> None:
        """Publish one status with the statistics and `more` as values.

        It is an error after a recent error, and a warning if the node is `busy` (with work before it can run), is not
        active, drops many inputs, or states a "warning" in `more`; neither if it is active and `more` states why it is
        "idle".
        """
        if self._publisher is None:
            return
        level, message = 0, f"{statistics.rate_hz:.1f} Hz"
        if active and more.get("idle"):
            message = f"idle: {more['idle']}"
        elif seconds_since_error < RECENT_S:
            level, message = 2, statistics.last_error
        elif busy or not active:
            level, message = 1, busy or "not active"
        elif statistics.received and statistics.dropped > DROPPING * statistics.received:
            level, message = 1, f"dropped {statistics.dropped} of {statistics.received}"
        elif more.get("warning"):
            level, message = 1, str(more["warning"])
        status = self._msg.DiagnosticStatus(
            level=bytes([level]),
            name=self._node.get_fully_qualified_name(),
            message=message,
            hardware_id="actrec",
            values=[self._msg.KeyValue(key=k, value=_text(v)) for k, v in {**asdict(statistics), **more}.items()],
        )
        array = self._msg.DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3f}"
    return str(value)
