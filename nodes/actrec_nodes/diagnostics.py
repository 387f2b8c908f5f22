"""`/diagnostics`, where diagnostic_msgs is installed (it has no wheel; every ROS 2 distribution has it)."""

import importlib
import math
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from rclpy.node import Node

from actrec_nodes.statistics import Snapshot

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
        """Publishes one status: its level from recent errors and drops, its values from the figures.

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
