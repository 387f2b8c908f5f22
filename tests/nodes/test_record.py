"""`actrec record` with real publishers, processes and signals."""

import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import types
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2: make venv build && . scripts/env.sh")
pytest.importorskip("actrec_msgs", reason="needs the messages: make build && . scripts/env.sh")

import rclpy
from actrec_msgs.msg import Skeleton, SkeletonArray
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point32, Vector3Stamped
from rclpy.executors import SingleThreadedExecutor
from rosbags.highlevel import AnyReader
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String

from actrec import cameras
from actrec.cameras.simulated import SimulatedCamera
from actrec.cli import main
from actrec.recordings import open_recording
from actrec.recordings.rosbag.bag_files import Bag
from actrec.types import Intrinsics
from actrec.utils import gravity
from actrec.utils.errors import ConfigError, DeviceError
from actrec_nodes import record_node
from actrec_nodes.bringup import launching
from actrec_nodes.bringup.endings import PARENT
from actrec_nodes.common import conversions, topics
from actrec_nodes.record_node import RecordNode, record

pytestmark = pytest.mark.ros
RNG = np.random.default_rng(3)
COLOR = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
DEPTH = (RNG.integers(1, 5000, (48, 64)) * np.float32(0.001)).astype(np.float32)
UP = gravity.up_from_angles(180, 20)
START = 1_700_000_000_000_000_000
LAUNCH_CLASSES = {
    "launch": ("LaunchContext", "LaunchDescription"),
    "launch.actions": ("DeclareLaunchArgument", "OpaqueFunction"),
    "launch.substitutions": (),
    "launch_ros.actions": ("Node",),
    "launch_ros.parameter_descriptions": ("ParameterValue",),
}


class Graph:
    """A thread that publishes the graph's topics until it is stopped."""

    def __init__(self, context):
        self.node = rclpy.create_node("graph", context=context)
        self.sent = 0
        self._stop = threading.Event()
        make = self.node.create_publisher
        self._color = make(conversions.Image, topics.COLOR, topics.IMAGE_PUBLISHER)
        self._depth = make(conversions.Image, topics.DEPTH, topics.IMAGE_PUBLISHER)
        self._info = make(conversions.CameraInfo, topics.COLOR_INFO, topics.IMAGE_PUBLISHER)
        self._skeletons = make(SkeletonArray, topics.SKELETONS, topics.SMALL)
        self._up = make(Vector3Stamped, topics.UP, topics.LATCHED)
        self._up.publish(Vector3Stamped(header=conversions.header(START, "lens"), vector=conversions.up_to_vector(UP)))
        self._text = make(String, topics.ACTION_LABEL_TEXT, topics.LATCHED)
        self._text.publish(String(data="published before the recording"))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stop.wait(0.02):
            head = conversions.header(START + self.sent * 33_333_333, "lens")
            self._info.publish(conversions.intrinsics_to_info(Intrinsics(64, 48, 60.0, 61.0, 31.5, 23.5), head))
            self._depth.publish(conversions.depth_to_image(DEPTH, head))
            self._color.publish(conversions.color_to_image(np.roll(COLOR, self.sent, axis=1), head))
            point = Point32(x=float(self.sent), y=2.0, z=3.0)
            self._skeletons.publish(
                SkeletonArray(header=head, skeletons=[Skeleton(body_id="body_1", layout="none", positions=[point])])
            )
            self.sent += 1

    def stop(self):
        self._stop.set()
        self._thread.join()
        self.node.destroy_node()


@pytest.fixture
def ros():
    rclpy.init()
    yield rclpy.get_default_context()
    rclpy.try_shutdown()


@pytest.fixture
def graph(ros):
    graph = Graph(ros)
    yield graph
    graph.stop()


def messages(path, topic):
    with AnyReader([path]) as reader:
        connections = [c for c in reader.connections if c.topic == topic]
        return [reader.deserialize(raw, connections[0].msgtype) for _, _, raw in reader.messages(connections)]


def stop_after(stop, count):
    """Return a progress callback that stops the recording after `count` messages on each topic."""
    names = [f"/{name}" for name in (topics.SKELETONS, topics.COLOR, topics.DEPTH, topics.COLOR_INFO)]

    def check_counts(node, seconds):
        if min(node.counts.get(name, 0) for name in names) >= count:
            stop.set()

    return check_counts


def test_record_writes_the_graphs_topics_unchanged(graph, tmp_path):
    stop = threading.Event()
    node = record(stop, stop_after(stop, 20), out=str(tmp_path / "b"))
    assert node.dropped == 0 and node.missing and "/skeletons" not in node.missing
    metadata = yaml.safe_load((tmp_path / "b/metadata.yaml").read_text())["rosbag2_bagfile_information"]
    counts = {t["topic_metadata"]["name"]: t["message_count"] for t in metadata["topics_with_message_count"]}
    assert counts == node.counts and counts["/skeletons"] >= 20
    xs = [m.skeletons[0].positions[0].x for m in messages(tmp_path / "b", "/skeletons")]
    assert xs == list(np.arange(xs[0], xs[0] + len(xs)))  # no message is lost
    assert [m.data for m in messages(tmp_path / "b", "/action_label/text")] == ["published before the recording"]
    (text,) = [t for t in metadata["topics_with_message_count"] if t["topic_metadata"]["name"] == "/action_label/text"]
    (profile,) = yaml.safe_load(text["topic_metadata"]["offered_qos_profiles"])
    assert (profile["reliability"], profile["durability"]) == (1, 1)
    with open_recording(tmp_path / "b") as recording:
        frames: list[Any] = list(recording.frames())
        assert recording.intrinsics == Intrinsics(64, 48, 60.0, 61.0, 31.5, 23.5)
    assert len(frames) >= 15
    for frame in frames:
        k = round((frame.stamp_ns - START) / 33_333_333)
        np.testing.assert_array_equal(frame.color, np.roll(COLOR, k, axis=1))
        np.testing.assert_allclose(frame.depth, DEPTH, rtol=1e-6)
        np.testing.assert_allclose(frame.up, UP, atol=1e-6, err_msg="published before the recording")


def test_record_replayed_frames_are_equal(graph, tmp_path):
    stop = threading.Event()
    record(stop, stop_after(stop, 5), out=str(tmp_path / "b"))
    with cameras.create("replay", path=str(tmp_path / "b"), rate=0.0, restamp=False) as camera:
        frame: Any = camera.read(10.0)
    k = round((frame.stamp_ns - START) / 33_333_333)
    np.testing.assert_array_equal(frame.color, np.roll(COLOR, k, axis=1))


@pytest.mark.parametrize("begins", [True, False])
def test_record_discovers_topics_while_the_simulated_clock_stands(ros, tmp_path, begins):
    options = {"cli_args": ["--ros-args", "-p", "use_sim_time:=true"]}
    node = RecordNode(options, out=str(tmp_path / "b"), topics=["late"], discover_s=0.01)
    node_of_topic = rclpy.create_node("talker")
    publisher = node_of_topic.create_publisher(String, "late", 10)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    deadline = time.monotonic() + 60
    while "no simulated time" not in node.why_silent() and time.monotonic() < deadline:
        publisher.publish(String(data="text"))
        executor.spin_once(timeout_sec=0.05)
    assert not node.counts.get("/late"), "the bag would start at 0"
    if begins:
        clock = node_of_topic.create_publisher(Clock, "/clock", 10)
        while not node.counts.get("/late") and time.monotonic() < deadline:
            clock.publish(Clock(clock=Time(sec=1_700_000_000)))
            publisher.publish(String(data="text"))
            executor.spin_once(timeout_sec=0.05)
    executor.shutdown()
    node.finish()
    node.destroy_node()
    node_of_topic.destroy_node()
    assert {m.data for m in messages(tmp_path / "b", "/late")} == {"text"}
    with Bag(tmp_path / "b") as bag:
        assert next(bag.messages(["/late"]))[1] == (1_700_000_000 * 10**9 if begins else 0)


def test_record_with_duration_writes_named_topics(graph, tmp_path):
    node = record(threading.Event(), lambda *_: None, out=str(tmp_path / "b"), topics=["skeletons"], duration_s=3.0)
    assert list(node.counts) == ["/skeletons"] and node.counts["/skeletons"] > 0


def test_record_slow_disk_drops_and_counts_messages(ros, graph, tmp_path, monkeypatch):
    """While the writer is blocked, messages beyond its buffer are dropped; the bag stays valid."""
    node = RecordNode(out=str(tmp_path / "b"), topics=[topics.COLOR], buffer_mb=1.0)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while topics.COLOR not in [name.lstrip("/") for name in node.counts]:
        executor.spin_once(timeout_sec=1.0)
    executor.remove_node(node)
    gate, write = threading.Event(), node._writer.write
    monkeypatch.setattr(node._writer, "write", lambda *arguments: (gate.wait(60), write(*arguments)))
    for _ in range(8):
        node._receive("/camera/color/image_raw", bytes(400_000))
    assert 4 <= node.dropped <= 5  # the current message and 1 MB of queued ones are kept
    gate.set()
    node.finish()
    node.destroy_node()
    metadata = yaml.safe_load((tmp_path / "b/metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["message_count"] == node.counts["/camera/color/image_raw"] >= 8 - node.dropped


def test_record_full_disk_ends_the_recording_with_one_line(graph, tmp_path, monkeypatch):
    from actrec.recordings.rosbag import bag_writer as writer

    def fail(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer.BagWriter, "flush", fail)
    monkeypatch.setattr(writer, "FLUSH_S", 0.0)
    with pytest.raises(
        DeviceError, match="stopped after .* messages: No space left on device; free space, then"
    ) as raised:
        record(threading.Event(), lambda *_: None, out=str(tmp_path / "b"))
    assert "\n" not in str(raised.value)


def test_record_wrong_options_raise_config_error(ros, tmp_path):
    with pytest.raises(ConfigError, match="needs a bag to write: set its option out"):
        RecordNode()
    with pytest.raises(ConfigError, match="unknown option speed of RecordConfig; known: buffer_mb"):
        RecordNode(out=str(tmp_path / "b"), speed=3)
    with pytest.raises(ConfigError, match="the topic '/my topic' cannot be recorded, its name is wrong"):
        RecordNode(out=str(tmp_path / "b"), topics=["/my topic"])
    (tmp_path / "there").mkdir()
    with pytest.raises(DeviceError, match="exists already"):
        RecordNode(out=str(tmp_path / "there"))


def start_record(*arguments):
    """Start `actrec record` in another process."""
    return subprocess.Popen(
        [sys.executable, "-m", "actrec", "record", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_record_signal_finishes_the_bag(graph, tmp_path, kind):
    process = start_record("--out", str(tmp_path / "b"), "--json", "--topics", "/skeletons")
    deadline = time.monotonic() + 60
    assert process.stderr is not None
    for line in process.stderr:  # the progress lines
        if " messages on " in line and " 0 messages" not in line:
            break
        assert time.monotonic() < deadline, line
    process.send_signal(kind)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    summary = json.loads(out)
    assert summary["counts"]["/skeletons"] > 0 and summary["dropped"] == 0
    assert len(messages(tmp_path / "b", "/skeletons")) == summary["counts"]["/skeletons"]


@pytest.mark.slow
def test_record_executable_reads_parameters(graph, tmp_path):
    code = "from actrec_nodes.record_node import main; raise SystemExit(main())"
    parameters = [f"out:={tmp_path / 'b'}", "topics:=[skeletons]", "duration_s:=3.0"]
    options = [word for parameter in parameters for word in ("-p", parameter)]
    arguments = [sys.executable, "-c", code, "--ros-args", *options]
    process = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    assert "messages, 0 lost" in process.stdout and len(messages(tmp_path / "b", "/skeletons")) > 0
    second = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1 and "exists already" in second.stderr and "Traceback" not in second.stderr


LAUNCH = """
import os, subprocess, sys, time
environment = {**os.environ, sys.argv[1]: str(os.getpid())}
child = subprocess.Popen([sys.executable, "-c", *sys.argv[2:]], start_new_session=True, env=environment)
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_record_executable_ends_after_its_launch_is_killed(graph, tmp_path):
    """It would record until the disk is full."""
    code = "from actrec_nodes.record_node import main; raise SystemExit(main())"
    options = ["--ros-args", "-p", f"out:={tmp_path / 'b'}", "-p", "topics:=[skeletons]"]
    command = [sys.executable, "-c", LAUNCH, PARENT, code, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launch:
        assert launch.stdout is not None
        recorder = psutil.Process(int(launch.stdout.readline()))
        while not any(path.stat().st_size > 1000 for path in tmp_path.glob("b/*")):
            assert recorder.is_running() and recorder.status() != psutil.STATUS_ZOMBIE
            time.sleep(0.05)
        launch.kill()
        launch.stdout.read()  # to the end of the recorder
    psutil.wait_procs([recorder], timeout=60)
    assert not recorder.is_running() or recorder.status() == psutil.STATUS_ZOMBIE


def test_record_launch_file_names_itself_as_the_parent(root, monkeypatch):
    """The launch packages may be absent: these classes keep their arguments."""
    context = {name: value for name, (value, _) in launching.RECORDING.items()} | {"out": "2026-10-07"}
    modules: dict[str, Any] = {name: types.ModuleType(name) for name in LAUNCH_CLASSES}
    for module, names in LAUNCH_CLASSES.items():
        for name in names:
            setattr(modules[module], name, lambda *args, **kwargs: types.SimpleNamespace(args=args, **kwargs))
        monkeypatch.setitem(sys.modules, module, modules[module])
    modules["launch.substitutions"].LaunchConfiguration = lambda name: types.SimpleNamespace(
        perform=lambda context: context[name]
    )
    (node,) = runpy.run_path(str(root / "launch/record.launch.py"))["recorder"](context)
    assert node.executable == "record_node" and node.additional_env == {PARENT: str(os.getpid())}
    assert node.remappings == []
    (out,) = (parameters["out"] for parameters in node.parameters)
    assert (out.args, out.value_type) == (("2026-10-07",), str), "launch would parse a plain text as YAML"


def test_recorder_of_a_vendor_records_its_images(host, tmp_path):
    given = {name: value for name, (value, _) in launching.RECORDING.items()} | {"vendor": "realsense2_camera"}
    remaps = [word for ours, theirs in launching.recording_remaps(given) for word in ("-r", f"{ours}:={theirs}")]
    options = {"context": host._context, "cli_args": ["--ros-args", *remaps]}
    node = RecordNode(options, out=str(tmp_path / "b"))
    host.add(node)
    assert "/camera/camera/color/image_raw" in node.wanted and "/camera/color/image_raw" not in node.wanted
    assert "/skeletons" in node.missing
    node.finish()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [(["-p", "nonsense"], "record_node: ROS refuses its arguments"), ([], "record_node: the recorder needs a bag")],
)
def test_record_executable_wrong_parameters_are_one_line(arguments, line):
    code = "from actrec_nodes.record_node import main; raise SystemExit(main())"
    command = [sys.executable, "-c", code, "--ros-args", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert process.returncode == 2 and line in process.stderr and "Traceback" not in process.stderr


def test_record_driver_needs_no_ros(tmp_path, data_root, capsys):
    folder = data_root / "rgbd/person_turning"
    values = [f"path={folder}", "intrinsics=525,525,319.5,239.5", "depth_scale=0.001", "rate=0.0"]
    options = [word for value in values for word in ("--driver-option", value)]
    assert (
        main(["record", "--out", str(tmp_path / "b"), "--driver", "replay", "--duration", "0.3", "--json", *options])
        == 0
    )
    summary = json.loads(capsys.readouterr().out)
    assert summary["counts"]["/camera/color/image_raw"] == summary["counts"]["/camera/depth_registered/image_raw"] == 9
    with open_recording(tmp_path / "b") as recording:
        assert len(list(recording.frames())) == 9
    assert main(["record", "--out", str(tmp_path / "b"), "--driver", "replay", *options]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["record", "--out", str(tmp_path / "c"), "--driver", "replay", "--topics", "/x"]) == 2
    assert "--topics cannot be used with --driver" in capsys.readouterr().err
    assert main(["record", "--out", str(tmp_path / "c"), "--driver", "replay", "--driver-option", "path"]) == 2
    recover = ["record", "--out", str(tmp_path / "s"), "--recover", str(tmp_path / "b")]
    assert main([*recover, "--label", "wave"]) == 2
    assert "labels.csv" in capsys.readouterr().err
    assert main(recover) == 0
    assert "36 messages" in capsys.readouterr().out


def test_record_driver_that_fails_before_its_first_frame_leaves_no_bag(tmp_path, capsys, monkeypatch):
    """It would block the next try."""

    def fail(*_):
        raise DeviceError("the camera does not answer")

    monkeypatch.setattr(SimulatedCamera, "read", fail)
    assert main(["record", "--out", str(tmp_path / "b"), "--driver", "simulated"]) == 1
    assert "does not answer" in capsys.readouterr().err and not (tmp_path / "b").exists()


def test_record_driver_interrupted_before_its_first_frame_leaves_no_bag(tmp_path, capsys, monkeypatch):
    opened = SimulatedCamera.open

    def interrupted(camera):
        opened(camera)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(SimulatedCamera, "open", interrupted)
    assert main(["record", "--out", str(tmp_path / "b"), "--driver", "simulated"]) == 130
    assert "interrupted before the first frame: nothing is written" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--driver", "simulated", "--duration", "-1"], "'-1' is not a number of seconds"),
        (["--driver", "simulated", "--duration", "nan"], "'nan' is not a number of seconds"),
        (["--topics", "/x", "--driver-option", "foo=1"], "--driver-option: needs --driver"),
        (["--depth-encoding", "32FC1"], "--depth-encoding cannot be used without --driver"),
        (["--driver", "simulated", "--wait", "3"], "--wait cannot be used with --driver"),
        (["--recover", "x", "--topics", "/y"], "--topics cannot be used with --recover"),
    ],
)
def test_record_wrong_arguments_leave_no_bag(arguments, message, tmp_path, capsys):
    try:
        status = main(["record", "--out", str(tmp_path / "bag"), *arguments])
    except SystemExit as stopped:  # argparse exits by this exception
        status = int(str(stopped.code))
    assert status == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "bag").exists()


def test_record_messages_before_the_simulated_time_beyond_the_limit_are_dropped(ros, tmp_path, monkeypatch):
    monkeypatch.setattr(record_node, "EARLY", 2)
    node = RecordNode({"cli_args": ["--ros-args", "-p", "use_sim_time:=true"]}, out=str(tmp_path / "b"))
    for _ in range(3):
        node._receive("/late", b"text")
    assert (len(node._early), node.dropped) == (2, 1), "the bag would start at 0"
    node._early.clear()
    node.finish()
    node.destroy_node()
