"""Launch descriptions of the launch files.

The launch packages have no wheel, so small fakes record the arguments of actions.
"""

import argparse
import importlib.util
import os
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from actrec.cli import run as run_command
from actrec_nodes.bringup import graph, transport
from actrec_nodes.common import topics
from tests.example_scene import FLOW, WINDOW
from tests.tiny_model import write_any


class Recorded:
    """A fake action or substitution that records its arguments."""

    def __init__(self, *args: Any, **kwargs: Any):
        self.args, self.kwargs = args, kwargs


class LaunchConfiguration(Recorded):
    def perform(self, context: Any) -> str:
        return context.arguments[self.args[0]]


def module(name: str, **members: Any) -> types.ModuleType:
    created = types.ModuleType(name)
    created.__dict__.update(members)
    return created


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, root: Path):
    """Return a function that imports a launch file as launch does, with fake launch modules."""

    def recorded(name: str) -> type:
        return type(name, (Recorded,), {})

    fakes = {
        "launch": module("launch", LaunchContext=object, LaunchDescription=recorded("LaunchDescription")),
        "launch.actions": module(
            "launch.actions",
            **{
                name: recorded(name)
                for name in (
                    "DeclareLaunchArgument",
                    "IncludeLaunchDescription",
                    "LogInfo",
                    "OpaqueFunction",
                    "SetEnvironmentVariable",
                )
            },
        ),
        "launch.substitutions": module("launch.substitutions", LaunchConfiguration=LaunchConfiguration),
        "launch.launch_description_sources": module(
            "launch.launch_description_sources", PythonLaunchDescriptionSource=recorded("PythonLaunchDescriptionSource")
        ),
        "launch_ros": module("launch_ros"),
        "launch_ros.actions": module("launch_ros.actions", Node=recorded("Node")),
        "launch_ros.parameter_descriptions": module(
            "launch_ros.parameter_descriptions", ParameterValue=recorded("ParameterValue")
        ),
    }
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    for name in transport.OWN_CHOICE:
        monkeypatch.delenv(name, raising=False)

    def load(name: str) -> Any:
        path = root / "launch" / f"{name}.launch.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded

    return load


def actions(description: Any, name: str) -> list[Any]:
    return [action for action in description.args[0] if type(action).__name__ == name]


EVERY = {spec.switch: "true" for spec in graph.GRAPH if spec.is_optional}


def started(recognize: Any, **arguments: str) -> list[Any]:
    """Return the actions of the launch file with these arguments and other defaults."""
    description = recognize.generate_launch_description()
    declared = {a.args[0]: a.kwargs["default_value"] for a in actions(description, "DeclareLaunchArgument")}
    assert set(arguments) <= set(declared)
    (function,) = actions(description, "OpaqueFunction")
    return function.kwargs["function"](SimpleNamespace(arguments=declared | arguments, launch_configurations={}))


def nodes(recognize: Any, **arguments: str) -> list[Any]:
    """Return the nodes that the launch file starts with these arguments and other defaults."""
    return [action for action in started(recognize, **arguments) if type(action).__name__ == "Node"]


def parameters_of(node: Any) -> dict[str, Any]:
    """Return the parameters from launch arguments; launch parses text as YAML unless it has a type."""

    def read(value: Any) -> Any:
        if isinstance(value, Recorded):
            assert value.kwargs == {"value_type": str}
            return value.args[0]
        return yaml.safe_load(value) if isinstance(value, str) else value

    return {name: read(value) for name, value in node.kwargs["parameters"][-1].items()}


def test_launch_starts_each_node_in_its_own_process(load) -> None:
    processes = nodes(load("recognize"), **EVERY)
    assert [node.kwargs["executable"] for node in processes] == [spec.name for spec in graph.GRAPH]
    assert [node.kwargs["name"] for node in processes] == [spec.name for spec in graph.GRAPH]
    # Defaults are not repeated; the camera starts after the other nodes.
    *other_nodes, camera = processes
    assert all(node.kwargs["parameters"] == [{"autostart": True}] for node in other_nodes)
    names = ",".join(node.kwargs["name"] for node in other_nodes)
    assert camera.kwargs["parameters"] == [{"autostart": True, "start_after": names}]
    assert {node.kwargs["package"] for node in processes} == {"actrec"}


@pytest.mark.parametrize("by_file", [False, True])
def test_launch_starts_the_nodes_that_the_model_takes_and_logs_the_others(load, tmp_path, by_file) -> None:
    recognize, model = load("recognize"), str(write_any(tmp_path / "flow", [FLOW], WINDOW).path)
    log, *processes = started(recognize)
    assert [node.kwargs["name"] for node in processes] == ["recognizer_node", "skeleton_node", "camera_node"]
    assert processes[-1].kwargs["parameters"][0]["start_after"] == "recognizer_node,skeleton_node"
    assert log.kwargs["msg"] == (
        "not started: hand_node, face_node, scene_flow_node (model joint_tcn_everyday takes no hands or face or flow), "
        "visualization_node (no subscriber), hri_node (no subscriber); to start: hand:=true face:=true "
        "scene_flow:=true visualization:=true hri:=true"
    )
    (tmp_path / "robot.yaml").write_text(f"/robot/recognizer_node: {{ros__parameters: {{model: {model}}}}}")
    given = {"params_file": f"{tmp_path}/robot.yaml", "namespace": "robot"} if by_file else {"model": model}
    log, *processes = started(recognize, hand="true", **given)
    assert [node.kwargs["name"] for node in processes[1:-1]] == ["skeleton_node", "hand_node", "scene_flow_node"]
    assert log.kwargs["msg"].startswith("not started: face_node (model")
    assert len(nodes(recognize, recognizer="false")) == len(nodes(recognize, model="/nowhere")) - 1 == 5


def test_launch_sets_the_transport_profile(load, monkeypatch) -> None:
    description = load("recognize").generate_launch_description()
    names = {action.args[0] for action in actions(description, "SetEnvironmentVariable")}
    assert names == {"FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE", "ACTREC_PARENT"}
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA")
    (only,) = actions(load("recognize").generate_launch_description(), "SetEnvironmentVariable")
    assert only.args == ("ACTREC_PARENT", str(os.getpid()))


def test_launch_arguments_have_descriptions(load) -> None:
    for name in ("recognize", "camera"):
        for argument in actions(load(name).generate_launch_description(), "DeclareLaunchArgument"):
            assert argument.kwargs["description"]


def test_launch_parameter_file_is_checked_once(load, tmp_path, caplog) -> None:
    text = "camera_node: {ros__parameters: {driver: replay}}\nrecognizr_node: {ros__parameters: {model: x}}\n"
    (tmp_path / "robot.yaml").write_text(text)
    processes = nodes(load("recognize"), params_file=f"{tmp_path}/robot.yaml", **EVERY)
    assert len(processes) == len(graph.GRAPH)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_launch_arguments_become_parameters_after_the_file(load, tmp_path) -> None:
    (tmp_path / "robot.yaml").write_text("")
    recognizer, *_, camera = processes = nodes(
        load("recognize"),
        driver="replay",
        driver_options='path="/my data/run.mcap" loop=true rate=0.5',
        model="mine",
        params_file=f"{tmp_path}/robot.yaml",
        use_sim_time="true",
        namespace="robot",
        log_level="warn",
    )
    for node in processes:
        assert node.kwargs["parameters"][0] == f"{tmp_path}/robot.yaml"
        assert node.kwargs["namespace"] == "robot"
        assert node.kwargs["ros_arguments"] == ["--log-level", "warn"]
    assert parameters_of(recognizer) == {"autostart": True, "use_sim_time": True, "model": "mine"}
    replay = {"driver": "replay", "replay.path": "/my data/run.mcap", "replay.loop": True, "replay.rate": 0.5}
    names = ",".join(node.kwargs["name"] for node in processes if node is not camera)
    assert parameters_of(camera) == {"autostart": True, "use_sim_time": True, "start_after": names, **replay}


def test_launch_switches_exclude_nodes(load) -> None:
    processes = nodes(load("recognize"), hand="false", face="off", scene_flow="0")
    assert [node.kwargs["name"] for node in processes] == ["recognizer_node", "skeleton_node", "camera_node"]


def test_launch_vendor_replaces_the_camera_node(load) -> None:
    processes = nodes(load("recognize"), vendor="realsense2_camera")
    assert "camera_node" not in [node.kwargs["name"] for node in processes]
    assert (topics.COLOR, "/camera/camera/color/image_raw") in processes[0].kwargs["remappings"]


def test_launch_composed_is_one_process(load) -> None:
    (node,) = nodes(load("recognize"), composed="true", hand="false", face="true", vendor="orbbec_camera")
    assert node.kwargs["executable"] == "graph"
    assert node.kwargs["arguments"] == ["--without", "hand,camera", "--with", "face"]
    assert "name" not in node.kwargs


def test_launch_text_argument_stays_a_text(load) -> None:
    options = "serial=017322071234 path='/data/run #3: again.mcap' fps=15"
    recognizer, *_, camera = nodes(load("recognize"), driver="replay", driver_options=options, model="2026_11_22")
    assert parameters_of(camera)["replay.serial"] == "017322071234"
    assert parameters_of(camera)["replay.path"] == "/data/run #3: again.mcap"
    assert parameters_of(camera)["replay.fps"] == 15
    assert parameters_of(recognizer)["model"] == "2026_11_22"


def test_launch_arguments_outrank_the_parameter_file(load) -> None:
    """With one process, the arguments of the runner set the parameters."""
    (node,) = nodes(
        load("recognize"),
        composed="true",
        driver="replay",
        driver_options='path="/my data/run.mcap" serial=017',
        model="mine",
        face="false",
    )
    parser = argparse.ArgumentParser()
    run_command.add_arguments(parser)
    args = parser.parse_args([*node.kwargs["arguments"], "--ros-args", "-r", "__ns:=/"])
    assert run_command.plan(args).overrides == {
        "camera_node": {"driver": "replay", "replay.path": "/my data/run.mcap", "replay.serial": "017"},
        "recognizer_node": {"model": "mine"},
    }
    assert "face_node" not in [spec.name for spec in run_command.plan(args).specs]


@pytest.mark.parametrize("composed", ["true", "false"])
def test_launch_respawn_restarts_ended_processes(load, composed) -> None:
    assert not any(node.kwargs["respawn"] for node in nodes(load("recognize"), composed=composed))
    for node in nodes(load("recognize"), composed=composed, respawn="true"):
        assert node.kwargs["respawn"]
        assert node.kwargs["respawn_delay"] == 2.0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"composed": "perhaps"}, "launch argument composed is 'perhaps', expected true or false"),
        ({"vendor": "orbbec_camera", "driver": "realsense"}, "launch arguments vendor and driver each name"),
        ({"vendor": "acme"}, "unknown camera driver node 'acme'; known: azure_kinect_ros_driver"),
        ({"driver_options": "path=/x"}, "driver option 'path=/x' needs a driver"),
        ({"driver": "replay", "driver_options": "path"}, "driver option is 'path', expected KEY=VALUE"),
        ({"driver": "replay", "driver_options": "'path={a: 1}'"}, "driver option path is {'a': 1}, expected a text"),
        ({"driver": "replay", "driver_options": 'path="/data'}, "driver_options is 'path=.*: No closing quotation"),
        ({"params_file": "/nowhere/robot.yaml"}, "there is no parameter file /nowhere/robot.yaml"),
    ],
)
def test_launch_invalid_arguments_are_refused(load, arguments, line) -> None:
    with pytest.raises(Exception, match=line):
        nodes(load("recognize"), **arguments)


def test_camera_launch_switches_the_other_nodes_off(load) -> None:
    description = load("camera").generate_launch_description()
    defaults = {a.args[0]: a.kwargs["default_value"] for a in actions(description, "DeclareLaunchArgument")}
    assert set(defaults) == {spec.switch for spec in graph.GRAPH} - {"camera"}
    assert set(defaults.values()) == {"false"}
    (include,) = actions(description, "IncludeLaunchDescription")
    assert include.args[0].args[0].endswith("recognize.launch.py")
