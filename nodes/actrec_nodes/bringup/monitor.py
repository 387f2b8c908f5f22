"""The node of `actrec run` that follows a graph: its labels, statistics, and what simulated actors perform."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from actrec_msgs.msg import ActionLabel
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.node import Node
from std_msgs.msg import String

from actrec.recognition.ground_truth import GroundTruth
from actrec.types import NANOSECONDS
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.diagnostics import PLAUSIBLE_LATENCY_S, percentiles_ms

KEPT = 100_000  # latencies and changes kept: most of an hour at 30 Hz
BODIES = 1000  # bodies whose last label is kept


class Change(NamedTuple):
    """A body's label that changed, or the same label when actors perform something else."""

    seconds: float  # since the first label
    body_id: str
    label: str
    confidence: float
    performed: str = ""  # by actors at this stamp; empty if the camera does not simulate
    right: bool | None = None  # whether the label fits; None if it is unknown or the camera does not simulate
    changed: bool = True  # false if only `performed` did


class GraphMonitor(Node):
    """Subscribes to `action_label`, to what simulated actors perform, and to the statistics of nodes.

    Args:
        nodes: Names of nodes.
        on_label: Called with each change.

    Attributes:
        labels: Number of labels.
        truth: The labels compared with what actors perform.
        latencies: (stamp of the frame in nanoseconds, seconds to its label) of the newest labels.
    """

    NAME = "actrec_monitor"

    def __init__(self, nodes: Sequence[str], on_label: Callable[[Change], None], **node_options: Any):
        super().__init__(self.NAME, **node_options)
        self.labels = 0
        self._changes: deque[tuple[float, str, str, float]] = deque(maxlen=KEPT)
        self._on_label = on_label
        self._last: dict[str, tuple[str, str]] = {}
        self.truth = GroundTruth()
        self._first_ns: int | None = None
        self.latencies: deque[tuple[int, float]] = deque(maxlen=KEPT)
        self._statistics: dict[str, dict[str, Any]] = {}
        self._received: dict[str, float] = {}
        self._lock = threading.Lock()
        self.create_service(GetState, "~/get_state", self._on_get_state)  # nodes can start after it
        self.create_subscription(ActionLabel, topics.ACTION_LABEL, self._label, topics.SMALL)
        self.create_subscription(ActionLabel, topics.TRUE_ACTION_LABEL, self._true_label, topics.SMALL)
        for name in nodes:
            self.follow(name)

    def follow(self, name: str) -> None:
        """Subscribe to the statistics of a node."""
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
        p50, p95 = percentiles_ms(latency)
        return {"p50": round(p50, 1), "p95": round(p95, 1)} if latency else {"p50": None, "p95": None}

    def statistics(self) -> dict[str, dict[str, Any]]:
        """Return the newest statistics of each node, as `NodeStatistics.json` writes them."""
        with self._lock:
            return dict(self._statistics)

    def busy(self) -> dict[str, float]:
        """Return the time of the newest statistics of each node that is busy with one task, monotonic seconds."""
        with self._lock:
            return {name: self._received[name] for name, each in self._statistics.items() if each.get("busy")}

    def forget(self, name: str) -> None:
        """Drop the statistics of a node whose process has ended: the next ones are of a new process."""
        with self._lock:
            self._statistics.pop(name, None)

    @staticmethod
    def _on_get_state(request: GetState.Request, response: GetState.Response) -> GetState.Response:
        response.current_state.id = State.PRIMARY_STATE_ACTIVE
        return response

    def _keep(self, name: str) -> Callable[[String], None]:
        def keep(message: String) -> None:
            statistics = conversions.message_to_statistics(message)
            with self._lock:
                self._statistics[name], self._received[name] = statistics, time.monotonic()

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
            performed, right = self.truth.add_label(stamp, message.body_id, message.label, message.confidence)
        before = self._last.pop(message.body_id, ("", ""))
        self._last[message.body_id] = message.label, performed  # the newest come last
        if len(self._last) > BODIES:  # ids are never used twice
            del self._last[next(iter(self._last))]
        seconds = (stamp - self._first_ns) / NANOSECONDS
        changed = before[0] != message.label
        change = Change(seconds, message.body_id, message.label, message.confidence, performed, right, changed)
        if changed:
            with self._lock:
                self._changes.append(change[:4])
        if before != (message.label, performed):
            self._on_label(change)

    def _true_label(self, message: ActionLabel) -> None:
        with self._lock:
            self.truth.add_action(conversions.stamp_to_ns(message.header.stamp), message.body_id, message.label)
