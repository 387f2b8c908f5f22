"""Parameter files without effect raise an error or warn, while ROS ignores them silently."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rclpy.context import Context
from rclpy.node import Node

from actrec.utils.errors import ConfigError
from actrec_nodes.bringup import graph, processes
from actrec_nodes.common import parameter_files
from tests.house.test_cli import run_main

pytestmark = pytest.mark.ros
ROOT = Path(__file__).parents[3]
Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> str:
        (tmp_path / "robot.yaml").write_text(text)
        return str(tmp_path / "robot.yaml")

    return write


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_parameter_files_set_parameters(path: Path) -> None:
    graph.check(str(path))


@pytest.mark.parametrize("namespace", ["", "/robot", "/a/robot"])
def test_fits_agrees_with_ros(write: Write, namespace: str) -> None:
    entries = (
        "camera_node /camera_node /robot/camera_node robot/camera_node /** /* ** * /**/camera_node /*/camera_node "
    )
    entries += "/robot/* /robot/** /**/robot/camera_node /robot/**/camera_node /*/* /robot/**/*"
    for entry in entries.split():
        path, context = write(f"'{entry}': {{ros__parameters: {{x: 3}}}}"), Context()
        rclpy.init(args=["--ros-args", "--params-file", path, "-r", f"__ns:={namespace or '/'}"], context=context)
        node = Node("camera_node", context=context)
        set_by_ros = "x" in node._parameter_overrides
        node.destroy_node()
        context.try_shutdown()
        (read,) = parameter_files.read(path)
        assert parameter_files.fits(read, f"{namespace}/camera_node") == set_by_ros, entry


@pytest.mark.parametrize(
    ("text", "namespace"),
    [
        ("", ""),
        ("# nothing yet\n", ""),
        ("/**:\n  ros__parameters: {depth_wait_s: 2.0}\n", ""),
        ("/robot/camera_node:\n  ros__parameters: {driver: replay}\n", "/robot"),
        ("robot:\n  camera_node:\n    ros__parameters: {driver: replay}\n", "/robot"),
        ("/**/camera_node:\n  ros__parameters: {driver: replay}\n", "/robot"),
        ("/*:\n  ros__parameters: {use_sim_time: true}\n", ""),
        ("amcl: {ros__parameters: {alpha1: 0.2}}\nface_node: {ros__parameters: {silence_s: 1.0}}\n", ""),
    ],
)
def test_parameter_file_of_a_graph_node_is_accepted(
    text: str, namespace: str, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    graph.check(write(text), namespace=namespace)
    assert not caplog.records


def test_parameter_file_with_a_list_as_launch_writes_it_is_read_as_ros_does(write: Write) -> None:
    text = "/**/peer:\n  ros__parameters:\n    actions: !!python/tuple\n    - wave\n    - clap\n"
    path = write(text)
    assert parameter_files.read(path) == {"/**/peer": {"actions": ["wave", "clap"]}}
    with processes.ros(["--ros-args", "--params-file", path]) as context:
        node = Node("peer", context=context, automatically_declare_parameters_from_overrides=True)
        assert node.get_parameter("actions").value == ["wave", "clap"]
        node.destroy_node()


def test_parameter_file_with_an_unsafe_tag_is_refused(write: Write) -> None:
    with pytest.raises(ConfigError, match="is not YAML: could not determine a constructor"):
        parameter_files.read(write("/**/peer: {ros__parameters: {a: !!python/object/apply:os.getcwd []}}"))


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        (
            "/recognizr_node",
            "its entry /recognizr_node fits no node: recognizr_node is no node here, did you mean",
        ),
        (
            "/robot/recognizer_node",
            "its entry /robot/recognizer_node fits no node: it is for namespace /robot, the nodes are in /: write "
            "'/**/recognizer_node', or start in /robot (--ros-args -r __ns:=/robot; launch: namespace:=/robot)",
        ),
    ],
)
def test_parameter_file_with_an_entry_that_fits_no_node_warns(
    entry: str, line: str, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    graph.check(write(f"camera_node: {{ros__parameters: {{a: 1}}}}\n{entry}: {{ros__parameters: {{b: 1}}}}\n"))
    assert len(caplog.messages) == 1 and line in caplog.text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("hello there\n", "sets no parameters, expected 'NODE: {ros__parameters: {NAME: VALUE}}'"),
        ("camera_node: {driver: replay}\n", "sets driver without ros__parameters, expected 'camera_node: {ros__par"),
        ("driver: replay\n", "sets driver without ros__parameters, expected 'NODE: {ros__parameters: {driver: …}}'"),
        ("camera_node: {ros_parameters: {driver: replay}}\n", "'ros_parameters' must be 'ros__parameters'"),
        ("- camera_node\n", "sets no parameters"),
        ("camera_node: {ros__parameters: {driver: [}}\n", "is not YAML"),
        ("\x00\n", "is not YAML"),
        ("cam*: {ros__parameters: {driver: replay}}\n", "in /cam*, write * or ** for a whole part of the name"),
        ("amcl: {ros__parameters: {alpha1: 0.2}}", "is for /amcl, but the nodes here are /recognizer_node, /skeleton_"),
        ("/**/recognizr_node: {ros__parameters: {a: 1}}\n", "recognizr_node is no node here, did you mean /recogni"),
        (
            "/robot/camera_node: {ros__parameters: {driver: replay}}",
            "it is for namespace /robot, the nodes are in /: write '/**/camera_node', or start in /robot "
            "(--ros-args -r __ns:=/robot; launch",
        ),
        ("/robot/*: {ros__parameters: {driver: replay}}", "the nodes are in /: write '/**', or start in /r"),
    ],
)
def test_parameter_file_without_effect_is_refused(text: str, line: str, write: Write) -> None:
    with pytest.raises(ConfigError, match=r"robot\.yaml") as raised:
        graph.check(write(text))
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_run_parameter_file_for_a_namespace_works_after_each_remedy(write: Write, capfd: Any) -> None:
    """The driver of the file is unknown, so that a run that uses the file ends with that error."""
    text = "{}/camera_node: {{ros__parameters: {{driver: no_such, drivers: replay}}}}"
    run = ["run", "--nodes", "camera"]
    file = write(text.format("/robot"))
    assert run_main([*run, "--params", file]) == 2
    assert run_main([*run, "--ros-args", "--params-file", file]) == 2
    error = capfd.readouterr().err
    assert error.count("has no effect: it is for /robot/camera_node, but the nodes here are /recognizer_node") == 2
    (namespace,) = set(re.findall(r"__ns:=/\w+", error))
    (entry,) = set(re.findall(r"write '(.*?)/camera_node'", error))
    for remedy in ([file, "--ros-args", "-r", namespace], [write(text.format(entry))]):
        assert run_main([*run, "--params", *remedy]) == 1
        error = capfd.readouterr().err
        assert "unknown camera driver 'no_such'" in error and "has no effect" not in error
        assert "no node here has a parameter drivers, it is ignored; did you mean driver?" in error


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("/robot/camera_node: {ros__parameters: {driver: replay}}", ["its entry /robot/camera_node does not set /cam"]),
        ("camera_nod: {ros__parameters: {driver: replay}}", ["camera_nod is no node here, did you mean /camera_node?"]),
        ("amcl: {ros__parameters: {alpha1: 0.2}}", ["sets nothing in /camera_node: it is for /amcl"]),
        ("face_node: {ros__parameters: {silence_s: 1.0}}", []),
        (
            "/**: {ros__parameters: {drivers: replay, alpha1: 1}}\ncamera_node: {ros__parameters: {alpha2: 2}}",
            ["no parameter drivers, it is ignored; did you mean driver?", "no parameter alpha2, it is ignored; known"],
        ),
        (
            "camera_node: {ros__parameters: {repaly: {path: x}, simulated: {fps: 5}}}",
            ["no parameter repaly.path, it is ignored; did you mean replay.path?"],
        ),
    ],
)
def test_node_alone_reports_entries_and_names_without_effect(
    text: str, lines: list[str], write: Write, capfd: Any
) -> None:
    """As `ros2 run actrec camera_node` does; an unknown driver ends it."""
    arguments = ["--ros-args", "--params-file", write(text), "-p", "autostart:=true", "-p", "driver:=no_such"]
    assert processes.spin(lambda: (graph.find("camera").load(), []), arguments) == 1
    warnings = [line for line in capfd.readouterr().err.splitlines() if "[WARN]" in line and "robot.yaml" in line]
    assert len(warnings) == len(lines)
    for warning, line in zip(warnings, lines, strict=True):
        assert line in warning


def test_node_alone_with_a_damaged_parameter_file_ends_with_one_line(write: Write, capfd: Any) -> None:
    path = write("camera_node: {driver: replay}")
    assert processes.spin(lambda: (graph.find("camera").load(), []), ["--ros-args", "--params-file", path]) == 1
    assert capfd.readouterr().err == (
        f"actrec: parameter file {path} sets driver without ros__parameters, expected "
        "'camera_node: {ros__parameters: {driver: …}}'\n"
    )


def test_read_pipe_raises(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match="cannot read parameter file .*pipe.yaml: a pipe or a device"):
        parameter_files.read(str(tmp_path / "pipe.yaml"))


def test_read_aliases_that_expand_endlessly_raises(write: Write) -> None:
    lines = [f"a{k}: &a{k} [{', '.join(9 * [f'*a{k - 1}'])}]" for k in range(1, 12)]
    path = write("\n".join(["a0: &a0 [1]", *lines]))
    with pytest.raises(ConfigError, match=r"parameter file .* is not YAML: its aliases add more than 100,000 values"):
        parameter_files.read(path)
