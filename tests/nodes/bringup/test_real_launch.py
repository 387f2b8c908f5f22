"""`ros2 launch` starts the graph: the real command and the installed launch files.

The launch packages come with a ROS 2 distribution; neither PyPI nor Debian has them. Without a sourced distribution, or
their sources on PYTHONPATH, these tests are skipped, and only the plan of the launch files is tested (test_launch.py).
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("launch_ros", reason="the launch packages come with a ROS 2 distribution: source its setup.bash")
pytest.importorskip("ros2launch", reason="as above")

from actrec_msgs.msg import ActionLabel
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python
from rosgraph_msgs.msg import Clock

from actrec_nodes.bringup import graph, launching
from actrec_nodes.common import conversions, topics
from tests.nodes.conftest import Peer

pytestmark = [pytest.mark.ros, pytest.mark.timeout(300)]

TIMEOUT_S = 120.0
SMALL = 'driver_options:="width=320 height=240 fps=10.0 actions=[wave]"'


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """Build the package actrec with colcon, as a user does; return the folder of its setup files."""
    folder = tmp_path_factory.mktemp("workspace")
    command = ["colcon", "--log-base", str(folder / "log"), "build", "--symlink-install", "--base-paths", str(root)]
    command += ["--packages-select", "actrec", "--build-base", str(folder / "build")]
    command += ["--install-base", str(folder / "install")]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "install"


class Launched:
    """A `ros2 launch` that runs, with its output so far in a file."""

    def __init__(self, setup: Path, output: Path, *arguments: str):
        self._output = output
        line = f". {shlex.quote(str(setup / 'local_setup.bash'))} && exec ros2 launch {' '.join(arguments)}"
        with output.open("w") as file:
            self.process = subprocess.Popen(
                ["bash", "-c", line], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """Return the condition's value once it is true."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (value := condition()):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)
        return value

    def stop(self) -> int:
        """Interrupt as Ctrl-C in a terminal does; return the exit status."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(60)


@pytest.fixture
def launched(workspace: Path, tmp_path: Path) -> Iterator[Callable[..., Launched]]:
    running: list[Launched] = []

    def start(*arguments: str) -> Launched:
        running.append(Launched(workspace, tmp_path / f"launch_{len(running)}.log", *arguments))
        return running[-1]

    yield start
    for each in running:
        each.stop()


def parameters(peer: Peer, node: str, *names: str) -> list[Any]:
    """Return parameters of a node in another process."""
    client = peer.create_client(GetParameters, f"{node}/get_parameters")
    assert client.wait_for_service(TIMEOUT_S)
    future = client.call_async(GetParameters.Request(names=list(names)))
    peer.wait_until(future.done)
    answer = future.result()
    assert answer is not None
    return [parameter_value_to_python(value) for value in answer.values]


def running_nodes(peer: Peer) -> set[str]:
    """Return the full names of the graph's nodes that are seen."""
    known = {spec.name for spec in graph.GRAPH}
    found = (f"{space.rstrip('/')}/{name}" for name, space in peer.get_node_names_and_namespaces() if name in known)
    return set(found)


@pytest.mark.parametrize("file", ["recognize", "camera"])
def test_show_args_lists_every_argument_with_its_default(launched: Callable[..., Launched], file: str) -> None:
    shown = launched("actrec", f"{file}.launch.py", "--show-args")
    assert shown.process.wait(TIMEOUT_S) == 0, shown.output
    defaults = dict(re.findall(r"'(\w+)':\n(?:.*\n)+?\s+\(default: '(.*)'\)", shown.output))
    switches = {name: value for name, (value, _) in launching.SWITCHES.items()}
    if file == "camera":
        switches |= {name: "false" for name in switches if name != "camera"}
    assert defaults == dict.fromkeys(launching.ARGUMENTS, "") | launching.DEFAULTS | switches


def test_launch_that_is_terminated_leaves_no_node(launched: Callable[..., Launched], peer: Peer) -> None:
    """ros2 launch itself leaves its nodes at SIGTERM: they end with their parent."""
    peer.subscribe(ActionLabel, topics.ACTION_LABEL)
    run = launched("actrec", "recognize.launch.py", "driver:=simulated", SMALL)
    run.wait_for(lambda: peer.received[topics.ACTION_LABEL])
    nodes = psutil.Process(run.process.pid).children(recursive=True)
    run.process.send_signal(signal.SIGTERM)
    assert len(nodes) >= 3 and psutil.wait_procs(nodes, 30)[1] == [], run.output


def test_launch_default_graph_labels_and_ends_cleanly(launched: Callable[..., Launched], peer: Peer) -> None:
    peer.subscribe(ActionLabel, topics.ACTION_LABEL)
    run = launched("actrec", "recognize.launch.py", "driver:=simulated")
    run.wait_for(lambda: peer.received[topics.ACTION_LABEL])
    assert running_nodes(peer) == {"/recognizer_node", "/skeleton_node", "/camera_node"}
    assert "not started: hand_node" in run.output
    assert run.stop() == 0, run.output
    assert not re.search(r"\[ERROR\]|Traceback|process has died", run.output), run.output


def test_launch_two_namespaces_and_remaps_do_not_meet(
    launched: Callable[..., Launched], peer: Peer, tmp_path: Path
) -> None:
    """One launch file includes the graph twice: in nested namespaces, and with a topic that is remapped."""
    file = tmp_path / "robots.launch.py"
    file.write_text("""
from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace, SetRemap
from launch_ros.substitutions import FindPackageShare

def graph(**arguments):
    source = [FindPackageShare("actrec"), "/launch/recognize.launch.py"]
    given = {"driver": "simulated", "driver_options": "width=320 height=240 fps=10.0", **arguments}
    return IncludeLaunchDescription(PythonLaunchDescriptionSource(source), launch_arguments=given.items())

def generate_launch_description():
    return LaunchDescription([
        GroupAction([PushRosNamespace("fleet"), graph(namespace="one", log_level="warn")]),
        GroupAction([SetRemap("action_label", "/elsewhere/label"), graph(namespace="two")]),
    ])
""")
    wanted = ("/fleet/one/action_label", "/elsewhere/label")
    for topic in wanted:
        peer.subscribe(ActionLabel, topic)
    run = launched(str(file))
    run.wait_for(lambda: all(peer.received[topic] for topic in wanted))
    three = ("recognizer_node", "skeleton_node", "camera_node")
    assert running_nodes(peer) == {f"{space}/{name}" for space in ("/fleet/one", "/two") for name in three}
    for topic in wanted:
        assert peer.count_publishers(topic) == 1
    assert "[INFO] [launch" in run.output
    assert "[fleet.one.recognizer_node]" not in run.output, "log_level:=warn hides its information"
    assert "[two.recognizer_node]: model " in run.output


def test_launch_composed_graph_takes_parameters_and_simulated_time(
    launched: Callable[..., Launched], peer: Peer, tmp_path: Path
) -> None:
    file = tmp_path / "robot.yaml"
    file.write_text("/**/recognizer_node: {ros__parameters: {interval_s: 0.21}}\n")
    peer.subscribe(ActionLabel, topics.ACTION_LABEL)
    arguments = f"composed:=true use_sim_time:=true params_file:={file} driver:=simulated {SMALL}"
    run = launched("actrec", "recognize.launch.py", arguments)
    clock = peer.create_publisher(Clock, "/clock", 10)

    def labeled() -> bool:
        clock.publish(Clock(clock=conversions.ns_to_stamp(time.time_ns())))
        return bool(peer.received[topics.ACTION_LABEL])

    run.wait_for(labeled)
    assert parameters(peer, "/recognizer_node", "interval_s", "use_sim_time") == [0.21, True]
    assert parameters(peer, "/camera_node", "driver", "simulated.width") == ["simulated", 320]
    children = psutil.Process(run.process.pid).children(recursive=True)
    assert len([child for child in children if "graph" in " ".join(child.cmdline())]) == 1


def test_launch_respawn_restarts_a_killed_node(launched: Callable[..., Launched], peer: Peer) -> None:
    run = launched("actrec", "camera.launch.py", f"respawn:=true driver:=simulated {SMALL}")
    started = r"\[camera_node-\d+\]: process started with pid \[(\d+)\]"
    first = int(run.wait_for(lambda: re.findall(started, run.output))[0])
    run.wait_for(lambda: "/camera_node" in running_nodes(peer))
    os.kill(first, signal.SIGKILL)
    pids = run.wait_for(lambda: len(found := re.findall(started, run.output)) > 1 and found)
    assert int(pids[1]) != first
    run.wait_for(lambda: psutil.pid_exists(int(pids[1])))


@pytest.mark.parametrize("victim", ["recognizer_node", "graph"])
def test_launch_labels_go_on_after_a_process_was_killed(
    launched: Callable[..., Launched], peer: Peer, victim: str
) -> None:
    peer.subscribe(ActionLabel, topics.ACTION_LABEL)
    run = launched("actrec", "recognize.launch.py", "driver:=simulated", SMALL)
    run.wait_for(lambda: peer.received[topics.ACTION_LABEL])

    def processes() -> dict[str, psutil.Process]:
        found = {}
        for child in psutil.Process(run.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                name = child.name() if child.name().endswith("_node") else Path(child.cmdline()[1]).name
                found[name] = child
        return found

    before = processes()
    assert {"recognizer_node", "skeleton_node", "camera_node", "graph"} <= set(before)
    before[victim].kill()
    run.wait_for(lambda: processes().get(victim, before[victim]) != before[victim])
    if victim == "graph":
        assert psutil.wait_procs(list(before.values()), 30)[1] == [], "its nodes end with it"
    killed_at = time.time_ns()
    labels = peer.received[topics.ACTION_LABEL]
    run.wait_for(lambda: conversions.stamp_to_ns(labels[-1].header.stamp) > killed_at)
    peer.wait_until(lambda: peer.count_publishers(topics.ACTION_LABEL) == 1)
    assert len(running_nodes(peer)) == 3


def test_launch_wrong_argument_ends_with_its_name(launched: Callable[..., Launched]) -> None:
    run = launched("actrec", "recognize.launch.py", "composed:=perhaps")
    assert run.process.wait(TIMEOUT_S) == 1
    assert "launch argument composed is 'perhaps', expected true or false" in run.output
