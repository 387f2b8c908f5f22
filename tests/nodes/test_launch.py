"""What the launch files describe.

The launch modules have no wheel: small ones that note what they are given stand in for them.
"""

import importlib.util
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actrec_nodes import graph, topics, transport


class Noted:
    """An action or substitution: what it was made with."""

    def __init__(self, *args: Any, **kwargs: Any):
        self.args, self.kwargs = args, kwargs


class LaunchConfiguration(Noted):
    def perform(self, context: Any) -> str:
        return context.arguments[self.args[0]]


def module(name: str, **members: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__dict__.update(members)
    return made


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, root: Path):
    """Imports a launch file as launch does, with modules that note."""

    def noted(name: str) -> type:
        return type(name, (Noted,), {})

    stand_ins = {
        "launch": module("launch", LaunchContext=object, LaunchDescription=noted("LaunchDescription")),
        "launch.actions": module(
            "launch.actions",
            **{
                name: noted(name)
                for name in (
                    "DeclareLaunchArgument",
                    "IncludeLaunchDescription",
                    "OpaqueFunction",
                    "SetEnvironmentVariable",
                )
            },
        ),
        "launch.substitutions": module("launch.substitutions", LaunchConfiguration=LaunchConfiguration),
        "launch.launch_description_sources": module(
            "launch.launch_description_sources", PythonLaunchDescriptionSource=noted("PythonLaunchDescriptionSource")
        ),
        "launch_ros": module("launch_ros"),
        "launch_ros.actions": module("launch_ros.actions", Node=noted("Node")),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, stand_in)
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


def kinds(description: Any, name: str) -> list[Any]:
    return [action for action in description.args[0] if type(action).__name__ == name]


def nodes(recognize: Any, **given: str) -> list[Any]:
    """The nodes that the launch file starts with these arguments, the others at their defaults."""
    description = recognize.generate_launch_description()
    declared = {a.args[0]: a.kwargs["default_value"] for a in kinds(description, "DeclareLaunchArgument")}
    assert set(given) <= set(declared)
    (function,) = kinds(description, "OpaqueFunction")
    return function.kwargs["function"](SimpleNamespace(arguments=declared | given))


def own(node: Any) -> dict[str, Any]:
    return node.kwargs["parameters"][-1]


def test_each_node_of_the_graph_in_a_process_that_starts_itself(load) -> None:
    started = nodes(load("recognize"))
    assert [node.kwargs["executable"] for node in started] == [spec.name for spec in graph.GRAPH]
    assert [node.kwargs["name"] for node in started] == [spec.name for spec in graph.GRAPH]
    # Nothing that a node's settings already say.
    assert all(node.kwargs["parameters"] == [{"autostart": True}] for node in started)
    assert {node.kwargs["package"] for node in started} == {"actrec"}


def test_image_transport_that_works_is_set(load, monkeypatch) -> None:
    description = load("recognize").generate_launch_description()
    names = {action.args[0] for action in kinds(description, "SetEnvironmentVariable")}
    assert names == {"FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"}
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA")
    assert kinds(load("recognize").generate_launch_description(), "SetEnvironmentVariable") == []


def test_every_argument_is_described(load) -> None:
    for name in ("recognize", "camera"):
        for argument in kinds(load(name).generate_launch_description(), "DeclareLaunchArgument"):
            assert argument.kwargs["description"]


def test_arguments_become_parameters_after_the_file(load) -> None:
    started = nodes(
        load("recognize"),
        driver="replay",
        driver_options='path="/my data/run.mcap" loop=true rate=0.5',
        model="mine",
        params_file="/etc/robot.yaml",
        use_sim_time="true",
        namespace="robot",
        log_level="warn",
    )
    for node in started:
        assert node.kwargs["parameters"][0] == "/etc/robot.yaml"
        assert node.kwargs["namespace"] == "robot"
        assert node.kwargs["ros_arguments"] == ["--log-level", "warn"]
    assert own(started[0]) == {
        "autostart": True,
        "use_sim_time": True,
        "driver": "replay",
        "model": "mine",
        "replay.path": "/my data/run.mcap",
        "replay.loop": True,
        "replay.rate": 0.5,
    }


def test_switches_leave_nodes_out(load) -> None:
    started = nodes(load("recognize"), hand="false", face="off", scene_flow="0")
    assert [node.kwargs["name"] for node in started] == ["recognizer_node", "skeleton_node", "camera_node"]


def test_a_vendors_driver_replaces_the_camera_node(load) -> None:
    started = nodes(load("recognize"), vendor="realsense2_camera")
    assert "camera_node" not in [node.kwargs["name"] for node in started]
    assert (topics.COLOUR, "/camera/camera/color/image_raw") in started[0].kwargs["remappings"]


def test_composed_is_one_process(load) -> None:
    (node,) = nodes(load("recognize"), composed="true", hand="false", vendor="orbbec_camera")
    assert node.kwargs["executable"] == "graph"
    assert node.kwargs["arguments"] == ["--without", "hand,camera"]
    assert "name" not in node.kwargs


@pytest.mark.parametrize("composed", ["true", "false"])
def test_processes_that_end_are_started_again_where_asked_for(load, composed) -> None:
    assert not any(node.kwargs["respawn"] for node in nodes(load("recognize"), composed=composed))
    for node in nodes(load("recognize"), composed=composed, respawn="true"):
        assert node.kwargs["respawn"]
        assert node.kwargs["respawn_delay"] == 2.0


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"composed": "perhaps"}, "launch argument composed is 'perhaps', expected true or false"),
        ({"vendor": "acme"}, "unknown camera driver node 'acme'; known: azure_kinect_ros_driver"),
        ({"driver_options": "path=/x"}, "driver option 'path=/x' needs a driver"),
        ({"driver": "replay", "driver_options": "path"}, "driver option is 'path', expected KEY=VALUE"),
    ],
)
def test_arguments_that_make_no_sense_are_named(load, given, line) -> None:
    with pytest.raises(Exception, match=line):
        nodes(load("recognize"), **given)


def test_the_camera_alone_is_the_graph_with_the_others_off(load) -> None:
    description = load("camera").generate_launch_description()
    off = {a.args[0]: a.kwargs["default_value"] for a in kinds(description, "DeclareLaunchArgument")}
    assert set(off) == {spec.switch for spec in graph.GRAPH} - {"camera"}
    assert set(off.values()) == {"false"}
    (include,) = kinds(description, "IncludeLaunchDescription")
    assert include.args[0].args[0].endswith("recognize.launch.py")
