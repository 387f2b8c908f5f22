"""Lifecycle transitions of the nodes' base class: one-line errors, and new attempts."""

import json
import sys
import types
from dataclasses import dataclass
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.parameter import Parameter
from std_msgs.msg import String

from actrec.utils.config import setting
from actrec.utils.errors import DeviceError
from actrec_nodes.common import diagnostics, topics
from actrec_nodes.common.lifecycle import ActrecNode, one_line

pytestmark = pytest.mark.ros


@dataclass(frozen=True)
class Config:
    level: int = setting(3, "a level", range=(0, 5))


class Probe(ActrecNode[Config]):
    """A node that records its calls and fails in a chosen one."""

    def __init__(self, fail_in: str = "", error: Exception | None = None, **options):
        super().__init__("probe", Config, **options)
        self.calls: list[str] = []
        self._fail_in, self._error = fail_in, error or DeviceError("no camera is connected: plug one in")

    def _record_call(self, call: str) -> None:
        self.calls.append(call)
        if call == self._fail_in:
            raise self._error

    def configure(self) -> None:
        self._record_call("configure")

    def activate(self) -> None:
        self._record_call("activate")

    def deactivate(self) -> None:
        self._record_call("deactivate")

    def cleanup(self) -> None:
        self._record_call("cleanup")


def state(node: ActrecNode) -> str:
    return node._lifecycle_state


def test_lifecycle_transitions_call_the_hooks_in_order(context, host) -> None:
    node = Probe(context=context)
    host.add(node)
    assert host.start() is None
    assert node.is_active
    assert node.config == Config()
    host.stop()
    assert node.calls == ["configure", "activate", "deactivate", "cleanup"]


def test_lifecycle_destroyed_node_leaves_the_graph_before_it_is_collected(context, peer) -> None:
    node = Probe(context=context)
    peer.wait_until(lambda: "probe" in peer.get_node_names())
    node.destroy_node()
    peer.wait_until(lambda: "probe" not in peer.get_node_names())
    assert not node.is_active
    node.close()


@pytest.mark.parametrize(
    ("fail_in", "calls", "final_state"),
    [
        ("configure", ["configure", "cleanup"], "unconfigured"),
        ("activate", ["configure", "activate", "deactivate"], "inactive"),
    ],
)
def test_lifecycle_failed_transition_is_undone_and_logged_as_one_line(
    context, host, capfd, fail_in, calls, final_state
) -> None:
    node = Probe(fail_in, context=context)
    host.add(node)
    assert host.start() == "probe"
    assert (state(node), node.calls) == (final_state, calls)
    assert node.last_error == f"cannot {fail_in}: no camera is connected: plug one in"
    output = capfd.readouterr().err
    assert output.count("no camera is connected") == 1
    assert "Traceback" not in output


def test_lifecycle_unexpected_error_is_one_line_with_its_type(context, host, capfd) -> None:
    node = Probe("configure", ZeroDivisionError("division\nby zero"), context=context)
    host.add(node)
    assert host.start() == "probe"
    assert node.last_error == "cannot configure: ZeroDivisionError: division by zero"
    assert "Traceback" not in capfd.readouterr().err


def test_lifecycle_failed_node_can_be_corrected_and_started(context, host) -> None:
    node = Probe(context=context, parameter_overrides=[Parameter("level", value=9)])
    host.add(node)
    assert host.start() == "probe"
    assert node.last_error == "cannot configure: parameter level is 9, allowed: int in 0 to 5"
    node.set_parameters([Parameter("level", value=2)])
    assert host.start() is None
    assert node.config.level == 2


def test_lifecycle_manager_services_change_the_state(context, host, peer) -> None:
    node = Probe(context=context)
    host.add(node)
    client = peer.create_client(ChangeState, "probe/change_state")
    assert client.wait_for_service(60)
    for transition, expected in (
        (Transition.TRANSITION_CONFIGURE, "inactive"),
        (Transition.TRANSITION_ACTIVATE, "active"),
        (Transition.TRANSITION_ACTIVE_SHUTDOWN, "finalized"),
    ):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert client.call(request, timeout_sec=60).success
        assert state(node) == expected
    assert host.wait(60)
    assert node.exit_status == 0
    assert node.calls == ["configure", "activate", "deactivate", "cleanup"]


def test_lifecycle_figures_reach_late_subscribers(context, host, peer) -> None:
    node = Probe(context=context)
    host.add(node)
    assert host.start() is None
    node.statistics.count("received", 4)
    node.statistics.done(0.02, 0.05)
    node.report()
    peer.subscribe(String, "probe/statistics", topics.LATCHED)
    figures = json.loads(peer.wait_for("probe/statistics")[0].data)
    assert (figures["received"], figures["processed"], figures["latency_p95_ms"]) == (4, 1, 50.0)


def test_complain_repeated_line_is_logged_once(context, host, capfd, monkeypatch) -> None:
    monkeypatch.setattr(diagnostics, "REPEAT_S", 1e9)
    node = Probe(context=context)
    host.add(node)
    for _ in range(100):
        node.fail(DeviceError("the cable is loose"))
    node.complain("another matter", "warning")
    output = capfd.readouterr().err
    assert output.count("the cable is loose") == 1
    assert output.count("another matter") == 1
    assert node.statistics.snapshot().last_error == "the cable is loose"


def test_complain_lines_that_differ_in_numbers_are_one(context, host, capfd, monkeypatch) -> None:
    monkeypatch.setattr(diagnostics, "REPEAT_S", 1e9)
    node = Probe(context=context)
    host.add(node)
    for frame in range(300):
        node.complain(f"extrapolation into the future: requested {1700000000 + frame}.{frame:03d}", "warning")
    for number in range(500):
        node.complain(f"no such thing: {'x' * number}")
    assert capfd.readouterr().err.count("extrapolation into the future") == 1
    assert len(node._complaints) == diagnostics.KINDS


def test_lifecycle_parameter_set_while_active_warns(context, host, monkeypatch) -> None:
    node = Probe(context=context)
    host.add(node)
    lines: list[str] = []
    monkeypatch.setattr(node, "complain", lambda line, level: lines.append(f"{level} {line}"))
    node.set_parameters([Parameter("level", value=4)])
    assert host.start() is None and node.config == Config(4)
    node.declare_parameter("engine.size", 5)
    node.set_parameters([Parameter("level", value=4), Parameter("use_sim_time", value=False)])
    assert lines == []
    (result,) = node.set_parameters([Parameter("level", value=5)])
    assert result.successful
    assert [line[: line.index(" (")] for line in lines] == [
        "warning level: set, but used only after the node is configured again"
    ]
    node.trigger_deactivate()
    node.trigger_cleanup()
    assert node.start() and node.config == Config(5)


class Record:
    """A replacement of diagnostic_msgs types, which have no wheel."""

    def __init__(self, **fields):
        self.header = types.SimpleNamespace(stamp=None)
        self.__dict__.update(fields)


@pytest.mark.parametrize(
    ("seconds", "dropped", "active", "idle", "level", "message"),
    [
        (1.0, 0, True, "", b"\x02", "a lens is missing"),
        (99.0, 9, True, "", b"\x01", "dropped 9 of 10"),
        (99.0, 0, False, "no subscriber", b"\x01", "not active"),
        (99.0, 0, True, "", b"\x00", "0.0 Hz"),
        (1.0, 9, True, "no subscriber", b"\x00", "idle: no subscriber"),
    ],
)
def test_lifecycle_diagnostics_rate_the_figures(
    monkeypatch, context, host, seconds, dropped, active, idle, level, message
) -> None:
    node = Probe(context=context)
    host.add(node)
    sent: list[Any] = []
    publisher = diagnostics.Publisher(node)
    msg: Any = types.SimpleNamespace(DiagnosticArray=Record, DiagnosticStatus=Record, KeyValue=Record)
    publisher._msg = msg
    publisher._publisher = types.SimpleNamespace(publish=sent.append)
    node.statistics.count("received", 10)
    node.statistics.count("dropped", dropped)
    node.statistics.error("a lens is missing")
    publisher.publish(node.statistics.snapshot(), active, seconds, more={"idle": idle})
    status = sent[0].status[0]
    assert (status.level, status.message, status.name) == (level, message, "/probe")
    assert {value.key for value in status.values} >= {"received", "dropped", "latency_p95_ms"}


def test_lifecycle_without_diagnostic_msgs_publishes_no_diagnostics(monkeypatch, context, host) -> None:
    monkeypatch.setitem(sys.modules, "diagnostic_msgs", None)
    monkeypatch.setitem(sys.modules, "diagnostic_msgs.msg", None)
    node = Probe(context=context)
    host.add(node)
    diagnostics.Publisher(node).publish(node.statistics.snapshot(), True, 0.0)
    assert "/diagnostics" not in [name for name, _ in node.get_topic_names_and_types()]


def test_one_line_has_the_type_of_unexpected_errors() -> None:
    assert one_line(DeviceError("two\n  lines")) == "two lines"
    assert one_line(KeyError("x")) == "KeyError: 'x'"
