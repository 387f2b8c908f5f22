"""The health of a graph reaches systemd, from nodes in real processes and threads."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actrec_nodes.bringup.health import GraphHealth, notify
from actrec_nodes.bringup.monitor import GraphMonitor
from tests.nodes.common.test_lifecycle import Probe
from tests.nodes.conftest import Peer

pytestmark = pytest.mark.ros


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Return the socket on which systemd receives, with a watchdog of 0.4 s."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(f"\0actrec_test_{os.getpid()}")
        channel.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@actrec_test_{os.getpid()}")
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        yield channel


def receive(channel: socket.socket, wanted: str) -> list[str]:
    """Return the states up to a wanted one."""
    states: list[str] = []
    deadline = time.monotonic() + 60
    while wanted not in states:
        assert time.monotonic() < deadline, states
        states += channel.recv(4096).decode().splitlines()
    return states


def test_notify_sends_states_if_systemd_waits_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    assert notify("READY=1"), "without a receiver"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        assert notify("READY=1", "STATUS=ready")
        assert channel.recv(100) == b"READY=1\nSTATUS=ready"


def test_health_node_that_a_client_has_deactivated_does_not_hang(
    systemd: socket.socket, context: Any, host: Any, peer: Peer, add: Callable[..., Any], monkeypatch: Any
) -> None:
    """It may build an engine for minutes when it is configured again, and answers nothing meanwhile."""
    monkeypatch.setattr("actrec_nodes.bringup.health.ANSWER_S", 1.0)
    monkeypatch.setattr("actrec_nodes.bringup.health.PERIOD_S", 0.2)
    node, hung, released = add(Probe), [], threading.Event()
    with GraphHealth(peer, ["probe"], hung=hung.append):
        assert host.start([node]) is None
        receive(systemd, "STATUS=1 nodes are active")
        node.trigger_deactivate()
        receive(systemd, "STATUS=waiting for probe (inactive)")
        node.create_timer(0.01, lambda: released.wait(60.0))  # it does not answer
        receive(systemd, "STATUS=waiting for probe (no answer)")
        time.sleep(2.0)
    released.set()
    assert not hung


@pytest.mark.slow
def test_health_node_that_answers_late_does_not_hang_and_one_that_does_not_answer_does(
    context: Any, host: Any, peer: Peer, add: Callable[..., Any], monkeypatch: Any
) -> None:
    monkeypatch.setattr("actrec_nodes.bringup.health.PERIOD_S", 0.3)
    node, hung, released = add(Probe), [], threading.Event()
    with GraphHealth(peer, ["probe"], hung=hung.append) as health:
        assert host.start([node]) is None
        timer = node.create_timer(0.01, lambda: time.sleep(0.75))  # each answer is later than two further questions
        peer.wait_until(lambda: not health.inactive())
        time.sleep(6.0)
        assert not hung and not health.inactive()
        node.destroy_timer(timer)
        node.create_timer(0.01, lambda: released.wait(60.0))
        peer.wait_until(lambda: hung == ["probe"])
        released.set()


@pytest.mark.slow
def test_health_busy_node_does_not_hang_until_it_has_worked(
    context: Any, host: Any, peer: Peer, add: Callable[..., Any], monkeypatch: Any
) -> None:
    """A library may keep Python's lock while a camera is opened: the node does not answer."""
    monkeypatch.setattr("actrec_nodes.bringup.health.PERIOD_S", 0.3)
    node, hung, working, released = add(Probe), [], threading.Event(), threading.Event()
    monitor = GraphMonitor(["probe"], lambda change: None, context=context)
    host.add(monitor)

    def open_camera() -> None:
        timer.cancel()
        with node.working("opening the camera"):
            working.set()
            released.wait(60.0)
        released.clear()
        released.wait(60.0)

    with GraphHealth(peer, ["probe"], hung=hung.append, busy=monitor.busy) as health:
        assert host.start([node]) is None
        peer.wait_until(lambda: not health.inactive())
        timer = node.create_timer(0.01, open_camera)
        assert working.wait(60.0)
        peer.wait_until(lambda: monitor.statistics().get("probe", {}).get("busy") == "opening the camera")
        time.sleep(4.0)
        assert not hung
        released.set()
        peer.wait_until(lambda: hung == ["probe"])
        released.set()


def test_health_follows_the_nodes_that_its_support_starts(
    systemd: socket.socket, context: Any, host: Any, peer: Peer, add: Callable[..., Any]
) -> None:
    node, calls = add(Probe), []

    def support(is_active: bool) -> list[str]:
        calls.append(is_active)
        return ["later"] if is_active and calls.count(True) == 1 else []

    with GraphHealth(peer, ["probe"], support=support):
        receive(systemd, "STATUS=waiting for probe (unconfigured)")
        assert host.start([node]) is None
        assert "READY=1" in receive(systemd, "STATUS=1 nodes are active")
        receive(systemd, "STATUS=waiting for later (no answer)")
    assert calls[0] is False and calls.count(True) == 1


def test_health_of_a_new_watcher_is_alive_beside_a_node_that_a_client_has_deactivated(
    systemd: socket.socket, context: Any, host: Any, peer: Peer, add: Callable[..., Any]
) -> None:
    node = add(Probe)
    assert host.start([node]) is None
    node.trigger_deactivate()
    with GraphHealth(peer, ["probe"], owns_graph=False):
        assert "READY=1" not in receive(systemd, "WATCHDOG=1")
    systemd.settimeout(0.5)
    with pytest.raises(TimeoutError):  # the watcher alone has ended: launch starts it again
        receive(systemd, "STOPPING=1")


def test_health_is_ready_when_the_nodes_are_active_and_alive_while_they_answer(
    systemd: socket.socket, context: Any, host: Any, peer: Peer, add: Callable[..., Any], monkeypatch: Any
) -> None:
    monkeypatch.setattr("actrec_nodes.bringup.health.ANSWER_S", 1.0)
    node = add(Probe)
    restarted: dict[str, float] = {}
    hung: list[str] = []
    with GraphHealth(peer, ["probe"], lambda: restarted, hung=hung.append):
        assert "READY=1" not in receive(systemd, "STATUS=waiting for probe (unconfigured)")
        assert host.start([node]) is None
        receive(systemd, "READY=1")
        receive(systemd, "WATCHDOG=1")
        node.trigger_deactivate()
        receive(systemd, "STATUS=waiting for probe (inactive)")
        receive(systemd, "WATCHDOG=1")  # deactivated by a client: it answers
        node.trigger_activate()
        receive(systemd, "STATUS=1 nodes are active")
        restarted["probe"] = time.monotonic()
        node.destroy_node()  # it does not answer
        receive(systemd, "STATUS=waiting for probe (no answer)")
        systemd.settimeout(0.5)
        with pytest.raises(TimeoutError):
            receive(systemd, "WATCHDOG=1")
        systemd.settimeout(60)
    assert receive(systemd, "STOPPING=1")
    assert not hung, "its process was started again after it was active"


def test_health_ends_a_node_that_has_joined_and_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actrec_nodes.bringup.health.PERIOD_S", 0.01)
    answers, ended, hung = threading.Event(), threading.Event(), list[str]()
    answers.set()
    state = SimpleNamespace(current_state=SimpleNamespace(label="active"))

    def call(_: object) -> SimpleNamespace:
        is_done = answers.is_set()
        return SimpleNamespace(done=lambda: is_done, result=lambda: state)

    def end(name: str) -> None:
        hung.append(name)
        ended.set()

    client = SimpleNamespace(service_is_ready=lambda: True, call_async=call, remove_pending_request=lambda _: None)
    asking: Any = SimpleNamespace(create_client=lambda *_: client, destroy_client=lambda _: None)
    with GraphHealth(asking, [], hung=end, guests=lambda: ["hri_node"]) as health:
        while health._nodes.get("hri_node") is None or health._nodes["hri_node"].state != "active":
            time.sleep(0.01)
        answers.clear()
        assert ended.wait(30.0) and hung == ["hri_node"] and health.silent() == [] == health.inactive()
