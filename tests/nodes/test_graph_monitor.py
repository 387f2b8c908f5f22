"""A graph monitor keeps a bounded number of changes and bodies."""

from typing import Any

import pytest
from actrec_msgs.msg import ActionLabel

from actrec_nodes.bringup import run
from actrec_nodes.bringup.run import GraphMonitor
from actrec_nodes.common import conversions

pytestmark = pytest.mark.ros


def receive(monitor: GraphMonitor, frame: int, body_id: str, label: str) -> None:
    head = conversions.header(frame * 1_000_000_000, "camera")
    monitor._label(ActionLabel(header=head, body_id=body_id, label=label, confidence=0.5))


def test_monitor_keeps_the_newest_changes_and_bodies(context: Any, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "KEPT", 20)
    monkeypatch.setattr(run, "BODIES", 5)
    reported: list[str] = []
    monitor = GraphMonitor([], lambda seconds, body_id, label, confidence: reported.append(body_id), context=context)
    host.add(monitor)
    for frame in range(100):
        receive(monitor, frame, "body_0", "wave")  # unchanged, so reported once
        receive(monitor, frame, f"body_{frame + 1}", "unknown")
    assert reported == ["body_0", *(f"body_{frame + 1}" for frame in range(100))]
    assert monitor.changes == [(float(frame), f"body_{frame + 1}", "unknown", 0.5) for frame in range(80, 100)]
    assert list(monitor._last) == ["body_97", "body_98", "body_99", "body_0", "body_100"]
    assert monitor.labels == 200
