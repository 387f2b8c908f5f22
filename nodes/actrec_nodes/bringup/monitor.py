"""Figures of a running graph: labels as they change, their latency, statistics of nodes, use of memory and cores."""

import json
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import psutil
from actrec_msgs.msg import ActionLabel
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.node import Node
from std_msgs.msg import String

from actrec.types import NANOSECONDS
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.diagnostics import PLAUSIBLE_LATENCY_S

KEPT = 100_000
"""Latencies and changes kept: most of an hour at 30 Hz."""

BODIES = 1000
"""Bodies whose last label is kept."""


class GraphMonitor(Node):
    """Subscribes to `action_label` and to the statistics of nodes.

    Args:
        nodes: Names of nodes.
        on_label: Called with (seconds since the first label, body id, label, confidence) when a body's label changes.

    Attributes:
        labels: Number of labels.
        latencies: (stamp of the frame in nanoseconds, seconds to its label) of the newest labels.
    """

    NAME = "actrec_monitor"

    def __init__(self, nodes: Sequence[str], on_label: Callable[[float, str, str, float], None], **node_options: Any):
        super().__init__(self.NAME, **node_options)
        self.labels = 0
        self._changes: deque[tuple[float, str, str, float]] = deque(maxlen=KEPT)
        self._on_label = on_label
        self._last: dict[str, str] = {}
        self._first_ns: int | None = None
        self.latencies: deque[tuple[int, float]] = deque(maxlen=KEPT)
        self._statistics: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self.create_service(GetState, "~/get_state", self._on_get_state)  # nodes can start after it
        self.create_subscription(ActionLabel, topics.ACTION_LABEL, self._label, topics.SMALL)
        for name in nodes:
            self.create_subscription(String, f"{name}/statistics", self._keep(name), topics.LATCHED)

    @property
    def changes(self) -> list[tuple[float, str, str, float]]:
        """(seconds, body id, label, confidence) of the newest changes."""
        with self._lock:
            return list(self._changes)

    def latency_ms(self) -> dict[str, float | None]:
        """Return p50 and p95 from frame to label in milliseconds; None if stamps are not of this machine's clock."""
        with self._lock:
            latency = [seconds for _, seconds in self.latencies]
        if not latency:
            return {"p50": None, "p95": None}
        p50, p95 = np.percentile(latency, (50, 95)) * 1e3
        return {"p50": round(float(p50), 1), "p95": round(float(p95), 1)}

    def statistics(self) -> dict[str, dict[str, Any]]:
        """Return the newest statistics of each node, as `NodeStatistics.json` writes them."""
        with self._lock:
            return dict(self._statistics)

    @staticmethod
    def _on_get_state(request: GetState.Request, response: GetState.Response) -> GetState.Response:
        response.current_state.id = State.PRIMARY_STATE_ACTIVE
        return response

    def _keep(self, name: str) -> Callable[[String], None]:
        def keep(message: String) -> None:
            with self._lock:
                self._statistics[name] = json.loads(message.data)

        return keep

    def _label(self, message: ActionLabel) -> None:
        stamp = conversions.stamp_to_ns(message.header.stamp)
        latency = (self.get_clock().now().nanoseconds - stamp) / NANOSECONDS
        if self._first_ns is None:
            self._first_ns = stamp
        with self._lock:
            self.labels += 1
            if 0 <= latency < PLAUSIBLE_LATENCY_S:
                self.latencies.append((stamp, latency))
        before = self._last.pop(message.body_id, None)
        self._last[message.body_id] = message.label  # the newest come last
        if len(self._last) > BODIES:  # ids are never used twice
            del self._last[next(iter(self._last))]
        if before != message.label:
            change = ((stamp - self._first_ns) / NANOSECONDS, message.body_id, message.label, message.confidence)
            with self._lock:
                self._changes.append(change)
            self._on_label(*change)


def usage(pid: int) -> dict[str, float | None]:
    """Return rss and pss in MB (pss on Linux only) and cpu_s, seconds on all cores; None after the process ended."""
    try:
        process = psutil.Process(pid)
        memory: Any = process.memory_full_info()
        times = process.cpu_times()
    except psutil.Error:
        return {"rss": None, "pss": None, "cpu_s": None}
    pss = getattr(memory, "pss", None)
    return {
        "rss": round(memory.rss / 1e6, 1),
        "pss": round(pss / 1e6, 1) if pss else None,
        "cpu_s": round(times.user + times.system, 2),
    }
