"""A graph monitor keeps a bounded number of changes and bodies."""

from typing import Any

import pytest
from actrec_msgs.msg import ActionLabel

from actrec.cli import run as run_command
from actrec_nodes.bringup import monitor as monitoring
from actrec_nodes.bringup.monitor import GraphMonitor
from actrec_nodes.common import conversions

pytestmark = pytest.mark.ros


def receive(monitor: GraphMonitor, frame: int, body_id: str, label: str) -> None:
    head = conversions.header(frame * 1_000_000_000, "camera")
    monitor._label(ActionLabel(header=head, body_id=body_id, label=label, confidence=0.5))


def test_monitor_keeps_the_newest_changes_and_bodies(context: Any, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "KEPT", 20)
    monkeypatch.setattr(monitoring, "BODIES", 5)
    reported: list[str] = []
    monitor = GraphMonitor([], lambda change: reported.append(change.body_id), context=context)
    host.add(monitor)
    for frame in range(100):
        receive(monitor, frame, "body_0", "wave")  # unchanged, so reported once
        receive(monitor, frame, f"body_{frame + 1}", "unknown")
    assert reported == ["body_0", *(f"body_{frame + 1}" for frame in range(100))]
    assert monitor.changes == [(float(frame), f"body_{frame + 1}", "unknown", 0.5) for frame in range(80, 100)]
    assert monitor.truth.figures() == {}, "no camera simulates"
    assert list(monitor._last) == ["body_97", "body_98", "body_99", "body_0", "body_100"]
    assert monitor.labels == 200


def test_monitor_shows_actions_beside_the_labels(context: Any, host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = GraphMonitor([], run_command.Lines().show, context=context)
    host.add(monitor)
    acted = ["idle", "idle", "sit_down", "sit_down", "sit_down", "idle", "idle", "bow"]
    labels = ["unknown", "unknown", "unknown", "sit down", "sit down", "unknown", "wave", "wave"]
    for frame, (action, label) in enumerate(zip(acted, labels, strict=True)):
        monitor._true_label(ActionLabel(header=conversions.header(frame * 10**9, "camera"), body_id="a", label=action))
        receive(monitor, frame, "body_1", label)
    explanation, *lines = capsys.readouterr().out.splitlines()
    assert explanation.startswith("performed: by the simulated people")
    assert lines == [
        "",
        "      time  body       performed          recognized         confidence",
        "     2.0 s  body_1     sit down           –",
        "     3.0 s  body_1     sit down           sit down            0.50  right",
        "     6.0 s  body_1     waiting            wave                0.50  WRONG",
        "     7.0 s  body_1     bow                wave                0.50  still",
    ]
    assert run_command.performed_table(monitor.truth.figures(["Sit_Down", "wave"])).splitlines()[3:] == [
        "| sit down | sit down | 0.50 | 1.0 | right |",
        "",
        "1 of 1 actions found (delay from their start); 1 wrong (wave) in 3 s of waiting",
    ]
    assert "| sit down | sit down | 0.50 | 1.0 | not in the model |" in run_command.performed_table(
        monitor.truth.figures(["bow"])
    )
