"""`/diagnostics`, where diagnostic_msgs is installed (it has no wheel; every ROS 2 distribution has it).

What a node counts of itself: frames received, processed and dropped, latency, the last error.
"""

import importlib
import json
import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from rclpy.node import Node

COUNTED = ("received", "processed", "dropped", "failed", "unpaired", "skipped")
"""What is counted; each is explained in `Snapshot`."""

KEPT = 1000
"""Latencies kept for the percentiles: over half a minute at 30 Hz."""

PLAUSIBLE_LATENCY_S = 30.0
"""A stamp older than this is a recording's, not a clock's that can be compared with ours."""

STALLED_S = 5.0
"""When the last input is longer ago than this, and than three at the pace so far, nothing comes any more."""


@dataclass(frozen=True)
class Snapshot:
    """A node's figures since it was activated.

    Attributes:
        received, processed, dropped, failed: Counts of inputs. A dropped one gave way to a newer one.
        unpaired: Images that found no partner with their stamp.
        skipped: Labels left out because newer skeletons already waited; the skeletons are in the window all the same.
        rate_hz: Processed inputs per second over the last ones kept; 0 if inputs stopped.
        latency_p50_ms, latency_p95_ms: Stamp of the input to its result being published; NaN where the stamps are not
            of this clock (a recording's).
        work_p50_ms, work_p95_ms: Time in the node's own work.
        queue: Inputs waiting now.
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

    def line(self) -> str:
        """Return the figures in one line, for a log."""
        parts = [f"{self.processed} of {self.received} processed at {self.rate_hz:.1f} Hz", f"{self.dropped} dropped"]
        for what in ("failed", "unpaired", "skipped"):
            parts += [f"{getattr(self, what)} {what}"] * bool(getattr(self, what))
        parts.append(f"work p50 {self.work_p50_ms:.0f} ms p95 {self.work_p95_ms:.0f} ms")
        if np.isfinite(self.latency_p50_ms):
            parts.append(f"latency p50 {self.latency_p50_ms:.0f} ms p95 {self.latency_p95_ms:.0f} ms")
        return ", ".join(parts)

    def json(self, more: Mapping[str, float | int | str] = MappingProxyType({})) -> str:
        """Return the figures, and `more` of the node's own, as a JSON object; a figure that does not exist is null."""
        figures = {**asdict(self), **more}
        values = {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in figures.items()}
        return json.dumps(values)


class Statistics:
    """Counters that a node's threads share."""

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
            self._queue = 0
            self._last_error = ""
            self._error_time = float("-inf")

    def count(self, what: str, number: int = 1) -> None:
        """Add to one of `COUNTED`."""
        with self._lock:
            self._counts[what] += number

    def queue(self, length: int) -> None:
        """Note how many inputs wait."""
        with self._lock:
            self._queue = length

    def done(self, work_s: float, latency_s: float | None = None) -> None:
        """Count one processed input: the time its work took, and the age of its stamp if known."""
        now = time.monotonic()
        with self._lock:
            self._counts["processed"] += 1
            if _stalled(self._times, now):  # a pause is no part of the pace
                self._times.clear()
            self._times.append(now)
            self._work.append(work_s)
            if latency_s is not None and 0.0 <= latency_s < PLAUSIBLE_LATENCY_S:
                self._latency.append(latency_s)

    def error(self, line: str) -> None:
        """Note a failed input."""
        with self._lock:
            self._last_error = line
            self._error_time = time.monotonic()

    def seconds_since_error(self) -> float:
        """Return the seconds since the last input; infinite before the first."""
        with self._lock:
            return time.monotonic() - self._error_time

    def snapshot(self) -> Snapshot:
        """Return the figures now."""
        with self._lock:
            latency, work, times = list(self._latency), list(self._work), list(self._times)
            counts, queue, last_error = dict(self._counts), self._queue, self._last_error
        span = times[-1] - times[0] if len(times) > 1 else 0.0
        rate = (len(times) - 1) / span if span > 0 and not _stalled(times, time.monotonic()) else 0.0
        (l50, l95), (w50, w95) = _percentiles(latency), _percentiles(work)
        return Snapshot(
            **counts, rate_hz=rate, latency_p50_ms=l50, latency_p95_ms=l95, work_p50_ms=w50, work_p95_ms=w95,
            queue=queue, last_error=last_error,
        )  # fmt: skip


def _stalled(times: Sequence[float], now: float) -> bool:
    if not times:
        return False
    pace = (times[-1] - times[0]) / max(len(times) - 1, 1)
    return now - times[-1] > max(STALLED_S, 3 * pace)


def _percentiles(seconds: list[float]) -> tuple[float, float]:
    if not seconds:
        return float("nan"), float("nan")
    p50, p95 = np.percentile(seconds, (50, 95)) * 1e3
    return float(p50), float(p95)


RECENT_S = 10.0
"""An error this recent makes the node's status an error."""

DROPPING = 0.5
"""Above this share of dropped inputs the node's status is a warning."""


class Publisher:
    """Publishes a node's figures as a DiagnosticStatus; does nothing where diagnostic_msgs is absent."""

    def __init__(self, node: Node):
        self._node = node
        self._publisher: Any = None
        try:
            self._msg = importlib.import_module("diagnostic_msgs.msg")
        except ModuleNotFoundError:
            return
        self._publisher = node.create_publisher(self._msg.DiagnosticArray, "/diagnostics", 10)

    def publish(
        self,
        snapshot: Snapshot,
        active: bool,
        seconds_since_error: float,
        busy: str = "",
        more: Mapping[str, float | int | str] = MappingProxyType({}),
    ) -> None:
        """Publish one status: its level from recent errors and drop, its values from the figures.

        Args:
            snapshot: The figures.
            active: Whether the node is.
            seconds_since_error: Since the last one.
            busy: What it does before it can do its work; empty for nothing.
            more: Figures of the node's own.
        """
        if self._publisher is None:
            return
        level, message = _judge(snapshot, active, seconds_since_error, busy)
        status = self._msg.DiagnosticStatus(
            level=bytes([level]),
            name=self._node.get_fully_qualified_name(),
            message=message,
            hardware_id="actrec",
            values=[self._msg.KeyValue(key=k, value=_text(v)) for k, v in {**asdict(snapshot), **more}.items()],
        )
        array = self._msg.DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)


def _judge(snapshot: Snapshot, active: bool, seconds_since_error: float, busy: str = "") -> tuple[int, str]:
    """Level (0 ok, 1 warning, 2 error) and message."""
    if seconds_since_error < RECENT_S:
        return 2, snapshot.last_error
    if busy:
        return 1, busy
    if not active:
        return 1, "not active"
    if snapshot.received and snapshot.dropped > DROPPING * snapshot.received:
        return 1, f"dropped {snapshot.dropped} of {snapshot.received}"
    return 0, f"{snapshot.rate_hz:.1f} Hz"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3f}"
    return str(value)
