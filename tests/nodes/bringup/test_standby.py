"""Processes that start after the others: of nodes that labels do not need, and one for a node that has died."""

import dataclasses
import os
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
import yaml

from actrec_nodes.bringup import run
from actrec_nodes.bringup import standby as standby_module
from actrec_nodes.bringup.endings import PARENT
from actrec_nodes.bringup.graph import GRAPH
from actrec_nodes.bringup.processes import wait_until_active
from actrec_nodes.bringup.standby import Standby, StandbyPlan
from tests.nodes.conftest import TIMEOUT_S, Peer

pytestmark = pytest.mark.ros

ACTIVE = ["-p", "autostart:=true"]
REPLACED = ("camera_node", "skeleton_node", "hand_node", "face_node", "recognizer_node")
"""Nodes whose modules are known before they start; the methods of scene flow load more, some of them for a GPU."""


@pytest.fixture
def standby(peer: Peer) -> Iterator[Standby]:
    made = Standby(StandbyPlan([], ["-r", "__ns:=/robot"]), {PARENT: str(os.getpid())})
    assert made.become("scene_flow_node", ACTIVE) is None, "there is none yet"
    made.prepare()
    peer.wait_until(lambda: made.is_ready)
    yield made
    made.stop()


def test_standby_becomes_nodes_and_reports_their_ends(standby: Standby, peer: Peer) -> None:
    first = standby.become("scene_flow_node", ACTIVE)
    assert first is not None and first.poll() is None
    assert wait_until_active(peer, ["/robot/scene_flow_node"], TIMEOUT_S) is None
    assert psutil.Process(first.pid).name() == "scene_flow_node"
    first.kill()
    assert first.wait(TIMEOUT_S) == first.poll() == -signal.SIGKILL
    peer.wait_until(lambda: standby.is_ready)
    second = standby.become("scene_flow_node", [*ACTIVE, "-p", "height:=wrong"])
    assert second is not None and second.wait(TIMEOUT_S) == 1, "a wrong parameter ends it as any node"


@pytest.mark.slow
def test_standby_server_that_dies_leaves_its_nodes(standby: Standby, peer: Peer) -> None:
    node = standby.become("scene_flow_node", ACTIVE)
    assert node is not None
    server = psutil.Process(node.pid).parent()
    assert server is not None and server.name() == "actrec_standby"
    server.kill()
    peer.wait_until(lambda: not standby.is_ready)
    assert standby.become("scene_flow_node", ACTIVE) is None and node.poll() is None
    assert wait_until_active(peer, ["/robot/scene_flow_node"], TIMEOUT_S) is None
    node.send_signal(signal.SIGTERM)
    assert node.wait(TIMEOUT_S) == -signal.SIGKILL, "without the server its status is unknown"

    def is_back() -> bool:
        standby.prepare()
        return standby.is_ready

    peer.wait_until(is_back)


PRELOADED = """
import sys, rclpy
from rclpy.parameter import Parameter
from actrec_nodes.bringup import graph, standby
name, settings = sys.argv[1], {"driver": "simulated"} if sys.argv[1] == "camera_node" else {}
standby.preload(standby.StandbyPlan([name], [], {name: settings}))
before = set(sys.modules)
rclpy.init()
node = graph.find(name).load()(parameter_overrides=[Parameter(key, value=value) for key, value in settings.items()])
print(node.trigger_configure(), *(module for module in sys.modules if module not in before))
"""


@pytest.mark.parametrize("name", [spec.name for spec in GRAPH if spec.name in REPLACED])
def test_preload_imports_the_modules_of_a_node(name: str) -> None:
    """Else each process that replaces a dead one imports them, while there are no labels."""
    done = subprocess.run([sys.executable, "-c", PRELOADED, name], capture_output=True, text=True, timeout=TIMEOUT_S)
    state, *imported = done.stdout.split()
    assert state.endswith("SUCCESS"), done.stderr
    assert [module for module in imported if module.startswith(("actrec.", "actrec_nodes", "scipy", "onnx"))] == []


def test_processes_that_labels_do_not_need_start_after_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(driver: str | None = None, *options: str) -> run.Plan:
        return run.plan(driver, options, nodes=["camera", "skeleton", "hand", "recognizer"], processes=True)

    for endless in (plan(), plan("simulated"), plan("realsense")):
        assert [spec.name for spec in endless.later] == ["hand_node"]
    assert not plan("simulated", "duration=5").later and not plan("replay", "path=x").later
    started: list[str] = []
    monkeypatch.setattr(run.Supervisor, "start", lambda self, name, **kind: started.append(name))
    monkeypatch.setattr(run.Standby, "prepare", lambda self: started.append("standby"))
    newest: dict[str, Any] = {}
    monitor: Any = types.SimpleNamespace(statistics=lambda: newest, forget=lambda name: newest.pop(name, None))
    graph = run._Processes(plan("simulated"), monitor)
    assert started == ["recognizer_node", "skeleton_node", "camera_node"]
    before = "actrec_monitor,recognizer_node,skeleton_node"
    assert f'start_after:="{before}"' in graph._parameters("camera_node", again=False)
    newest["recognizer_node"] = {"package": "/models/loaded"}  # by a client, after the start
    for _ in range(2):  # it may die before its first statistics
        assert graph._command("recognizer_node", again=True)[-2:] == ["-p", 'model:="/models/loaded"']
    assert "/models/loaded" not in str(graph._command("hand_node", again=True))
    assert graph.support(is_active=False) == []
    assert graph.support(is_active=True) == [] and started[3:] == ["standby"], "labels first, then to keep them"
    monkeypatch.setattr(run.Standby, "is_ready", True)
    assert graph.support(is_active=True) == ["hand_node"] == started[5:] and graph.support(is_active=True) == []
    monkeypatch.setattr(run.Standby, "is_ready", False)
    plain = run._Processes(dataclasses.replace(plan(), standby=False), monitor)
    assert plain.support(is_active=True) == ["hand_node"]
    monkeypatch.setattr(run, "LATER_S", 0.0)  # a recognizer that builds an engine is not active for minutes
    assert run._Processes(plan(), None).support(is_active=False) == ["hand_node"]  # type: ignore[arg-type]


@pytest.mark.parametrize(("options", "is_source"), [([], False), (["duration=5"], True)])
def test_process_of_a_camera_that_does_not_end_is_replaced_whatever_its_status(
    monkeypatch: pytest.MonkeyPatch, options: list[str], is_source: bool
) -> None:
    kinds: dict[str, Any] = {}
    monkeypatch.setattr(run.Supervisor, "start", lambda self, name, **kind: kinds.update({name: kind}))
    planned = run.plan("simulated", options, nodes=["camera", "skeleton"], processes=True)
    processes = run._Processes(planned, cast("Any", None))
    assert kinds["camera_node"]["is_source"] is is_source
    processes.start(run.graph.find("hri"))
    assert processes.guests() == ["hri_node"]


def test_parameters_of_a_process_are_yaml_for_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.Supervisor, "start", lambda *_, **__: None)
    model = "/data/\N{ROBOT FACE}/model"
    processes = run._Processes(run.plan(model=model, nodes=["recognizer"], processes=True), cast("Any", None))
    (text,) = [word for word in processes._parameters("recognizer_node", again=False) if word.startswith("model:=")]
    assert yaml.load(text.removeprefix("model:="), yaml.CSafeLoader) == model


def test_standby_preloads_the_model_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.Supervisor, "start", lambda *_, **__: None)
    planned = run.plan(model="/models/mine", nodes=["recognizer"], processes=True)
    found: list[Any] = []
    kind = SimpleNamespace(preload=lambda value: found.append(value("model")))
    standby_plan = run._Processes(planned, cast("Any", None))._standby._plan
    monkeypatch.setattr(standby_module.graph, "find", lambda name: SimpleNamespace(load=lambda: kind))
    standby_module._preload("recognizer_node", standby_plan)
    assert found == ["/models/mine"]
