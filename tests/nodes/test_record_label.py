"""`actrec record --label` from a graph and from a camera, then training and running on the clips."""

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make venv build && . scripts/env.sh")
pytest.importorskip("actrec_msgs", reason="needs the messages: make build && . scripts/env.sh")

import rclpy
import yaml
from actrec_msgs.msg import ActionEvent, ActionLabel, Skeleton, SkeletonArray
from actrec_msgs.srv import LoadModel
from geometry_msgs.msg import Point
from rclpy.node import Node

from actrec.cli import main
from actrec.cli import run as run_command
from actrec.perception.recorded_joints import read_bodies
from actrec.recordings import open_recording
from actrec.recordings.labels import read_labels
from actrec.types import Body, Intrinsics
from actrec.utils.errors import DeviceError
from actrec_nodes.bringup import run
from actrec_nodes.common import conversions, topics
from actrec_nodes.record_node import graph_observations
from tests.documents import blocks, commands, tutorial
from tests.tiny_model import person_at

pytestmark = pytest.mark.ros
START = 1_700_000_000_000_000_000
PERIOD_NS = 50_000_000
QUICK = ["--countdown", "0.2", "--seconds", "0.5"]


class People:
    """A thread that publishes skeletons and images at 20 Hz until it is stopped."""

    def __init__(self, visible=True, latched_info=False):
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = Node("people", context=self.context)
        self.visible, self.seen = visible, True
        self._stop = threading.Event()
        make = self.node.create_publisher
        self._skeletons = make(SkeletonArray, topics.SKELETONS, topics.SMALL)
        self._color = make(conversions.Image, topics.COLOR, topics.IMAGE_PUBLISHER)
        self._depth = make(conversions.Image, topics.DEPTH, topics.IMAGE_PUBLISHER)
        self._latched_info = latched_info
        profile = topics.LATCHED if latched_info else topics.IMAGE_PUBLISHER
        self._info = make(conversions.CameraInfo, topics.COLOR_INFO, profile)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        sent = 0
        while not self._stop.wait(0.05):
            head = conversions.header(START + sent * PERIOD_NS, "lens")
            color, depth = np.full((48, 64, 3), sent % 256, np.uint8), np.full((48, 64), 2.0, np.float32)
            if sent == 0 or not self._latched_info:
                self._info.publish(conversions.intrinsics_to_info(Intrinsics(64, 48, 60.0, 60.0, 31.5, 23.5), head))
            self._depth.publish(conversions.depth_to_image(depth, head))
            self._color.publish(conversions.color_to_image(color, head))
            pixels, scores = np.full((25, 2), np.nan, np.float32), np.ones(25, np.float32)
            bodies = [Body("body_1", "kinect_v2_25", person_at(0.001 * sent), pixels, scores)] if self.visible else []
            if self.seen:
                self._skeletons.publish(conversions.bodies_to_message(bodies, head))
            sent += 1

    def stop(self):
        self._stop.set()
        self._thread.join()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def people(request):
    people = People(latched_info=getattr(request, "param", False))
    yield people
    people.stop()


@pytest.mark.parametrize("people", [False, True], indirect=True, ids=["camera_info each frame", "latched once"])
def test_record_label_running_graph_keeps_clips(people, tmp_path, capsys):
    out = tmp_path / "clips"
    command = ["record", "--label", "wave", "--out", str(out), "--repeat", "2", "--person", "anna", "--images", *QUICK]
    assert main([*command, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == {"folder": str(out), "label": "wave", "kept": ["wave_001", "wave_002"], "refused": []}
    assert [(clip.label, clip.person, clip.body) for clip in read_labels(out / "labels.csv")] == [
        ("wave", "anna", "body_1")
    ] * 2
    joints = read_bodies(out / "wave_002")
    assert len(joints) == 10 and (np.diff(joints.stamps_ns) == PERIOD_NS).all()
    k = round((joints.stamps_ns[0] - START) / PERIOD_NS)
    np.testing.assert_allclose(joints.bodies[0, 0], person_at(0.001 * k), atol=1e-6)
    with open_recording(out / "wave_002") as recording:
        frames = list(recording.frames())
    assert len(frames) >= 5 and frames[0].depth is not None
    assert not list((out / ".unfinished").iterdir())


def test_record_label_images_without_skeletons_names_the_cause(people, tmp_path, capsys):
    people.seen = False
    command = ["record", "--label", "wave", "--out", str(tmp_path / "clips"), "--images", "--wait", "1", *QUICK]
    assert main(command) == 1
    assert "no skeletons on /skeletons within 1 s" in capsys.readouterr().err
    people.seen = True
    with graph_observations(images=True) as read:
        while read(20.0).bodies is None:
            pass
        people.seen = False
        with pytest.raises(DeviceError, match="no skeletons on /skeletons: "):
            while True:
                read(0.5)


def interrupt_record(words: list[str], said: str) -> tuple[int, str, str]:
    """Interrupt `actrec record` once its errors contain `said`; return its status, output and remaining errors."""
    command = [sys.executable, "-m", "actrec", "record", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if said in line:
            break
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=60)
    return process.returncode, output, error


@pytest.mark.slow
def test_record_label_interrupted_while_it_waits_leaves_nothing(tmp_path):
    for words, message in (
        (["--label", "wave", "--out", str(tmp_path / "clips")], "interrupted before the first clip"),
        (["--out", str(tmp_path / "bag"), "--topics", "/nothing"], "interrupted before the first frame"),
    ):
        status, _, error = interrupt_record(words, "waiting for")
        assert status == 130 and message in error and "start the graph first" not in error
    assert not list(tmp_path.iterdir())


def test_record_label_without_a_person_is_refused(people, tmp_path, capsys):
    people.visible = False
    assert main(["record", "--label", "wave", "--out", str(tmp_path / "clips"), *QUICK]) == 1
    error = capsys.readouterr().err
    assert "clip 1 of 1: rejected, no person was detected" in error
    assert "actrec: 3 clips in a row were rejected" in error
    assert not (tmp_path / "clips/labels.csv").exists()


@pytest.mark.slow
def test_record_label_ctrl_c_keeps_finished_clips(people, tmp_path):
    out = tmp_path / "clips"
    words = ["--label", "wave", "--out", str(out), "--repeat", "50", "--json", *QUICK]
    status, output, _ = interrupt_record(words, "clip 3 of 50: GO!")
    assert status == 0
    names = json.loads(output)["kept"]
    assert names[:2] == ["wave_001", "wave_002"]
    assert [clip.recording for clip in read_labels(out / "labels.csv")] == names
    assert sorted(path.name for path in out.iterdir() if path.is_dir() and path.name != ".unfinished") == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label", ""], "label is ''"),
        (["--label", "a", "--topics", "/x"], "--topics, --duration: not used with --label"),
        (["--label", "a", "--seconds", "0"], "seconds is 0.0, allowed: 0.5 to 600"),
        (["--label", "a", "--driver-option", "fps=3"], "--driver-option: needs --driver"),
        (["--label", "a", "--depth-encoding", "32FC1"], "--depth-encoding cannot be used with --label"),
        (["--label", "a", "--driver", "no_camera"], "unknown camera driver 'no_camera'"),
        (["--out", "x", "--repeat", "3", "--images"], "--repeat, --images: only for labeled clips; add --label"),
        ([], "--out or --label is missing"),
    ],
)
def test_record_label_wrong_arguments_are_refused(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["record", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(300)  # for a loaded machine
def test_teach_tutorial_node_reacts_to_taught_actions(tmp_path, monkeypatch, capfd):
    """Run the tutorial, and add an action while the graph runs; only clips, images and rates are fewer."""
    pytest.importorskip("torch", reason="teaching needs PyTorch: make venv")
    monkeypatch.chdir(tmp_path)
    text = tutorial("teach")
    small = ["--driver-option", "width=320", "--driver-option", "height=240"]
    fast = ["--repeat", "3", "--countdown", "0.5", "--driver-option", "fps=6", "--driver-option", "realtime=false"]
    fewer = {"record": [*small, *fast], "teach": ["--rehearsals", "1", "--threads", "1", "--quiet"]}
    told = list(commands(text))
    assert [command[0] for command in told] == ["record", "record", "record", "teach", "run", "record", "teach"]
    for command in told[:4]:
        assert main([*command, *fewer[command[0]]]) == 0, capfd.readouterr().err
    (code,) = blocks(text, "python")
    (tmp_path / "react.py").write_text(code, encoding="utf-8")
    node = subprocess.Popen([sys.executable, "react.py"], stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    reactions, known = [], set()
    reader = threading.Thread(target=lambda: reactions.extend(node.stderr), daemon=True)

    def wait(condition):
        deadline = time.monotonic() + 120
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.05)

    def add_an_action(running, monitor):
        wait(lambda: any("turn at" in line for line in reactions))
        for command in told[5:]:
            assert main([*command, *fewer[command[0]]]) == 0, capfd.readouterr().err
        with loaded_by(text) as labels:
            wait(lambda: "clap" in labels)
            known.update(labels)

    parser = argparse.ArgumentParser()
    run_command.add_arguments(parser)
    paced = [word for each in ("fps=8", "pause=2", "realtime=false") for word in ("--driver-option", each)]
    arguments = parser.parse_args([*told[4][1:], *small, *paced])
    try:
        reader.start()
        result = run.run_graph(run_command.plan(arguments), add_an_action)
    finally:
        node.send_signal(signal.SIGINT)
        node.wait(60)
        reader.join()
    assert result is not None and result["labels"] > 0
    labels = "|".join(("wave", "pick_up", "throw"))
    assert any(re.search(rf"body_1: ({labels}), turn at [+-]\d\.\d\d rad/s", line) for line in reactions), reactions
    assert "clap" in known, "the running graph labels with the new package"


@contextlib.contextmanager
def loaded_by(text):
    """Send the request of the tutorial's `ros2 service call`; yield the labels that the recognizer then weighs."""
    (line,) = re.findall(r"^ros2 service call .*", text, re.MULTILINE)
    name, kind, values = shlex.split(line.replace("$PWD", os.getcwd()))[3:]
    assert kind == "actrec_msgs/srv/LoadModel"
    labels: set[str] = set()

    def store(label):
        labels.update(label.top_labels)

    with run.ros(handle_signals=False) as context, run.Host(context) as host:
        node = Node("robot", context=context)
        node.create_subscription(ActionLabel, "action_label", store, 10)
        client = node.create_client(LoadModel, name)
        host.add(node)
        assert client.wait_for_service(60)
        answer = client.call_async(LoadModel.Request(**yaml.safe_load(values)))
        done = threading.Event()
        answer.add_done_callback(lambda _: done.set())
        assert done.wait(60) and answer.result().success, answer.result()
        yield labels


def test_teach_tutorial_node_turns_for_a_second_and_stops_at_the_end_of_a_wave():
    (code,) = blocks(tutorial("teach"), "python")
    names = {}
    exec(code.split("rclpy.init()")[0], names)
    rclpy.init()
    try:
        node, sent = names["Reaction"](), []
        node.drive = SimpleNamespace(publish=lambda command: sent.append(command.angular.z))
        for kind in (ActionEvent.BEGAN, ActionEvent.ENDED):
            node.on_event(ActionEvent(kind=kind, body_id="body_1", label="wave", position=Point(x=1.0, z=2.0)))
            for _ in range(12):
                node.move()
        node.destroy_node()
    finally:
        rclpy.shutdown()
    assert sent == [*[pytest.approx(-0.4636, abs=1e-4)] * 9, *[0.0] * 11]


def test_record_label_without_the_images_that_it_needs_is_refused(people, tmp_path, capsys):
    """A vendor's driver has other topics."""
    command = ["record", "--label", "wave", "--out", str(tmp_path / "clips"), "--images", "--wait", "3", *QUICK]
    assert main([*command, "--ros-args", "-r", "camera/color/image_raw:=/nowhere"]) == 1
    error = capsys.readouterr().err
    assert "no color images on /nowhere within 3 s" in error and "leave out --images" in error


def test_clip_node_bad_message_is_skipped():
    context = rclpy.Context()
    rclpy.init(context=context)
    node = Node("mouth", context=context)
    publisher = node.create_publisher(SkeletonArray, topics.SKELETONS, topics.SMALL)
    try:
        with graph_observations(images=False) as read:
            stop = time.monotonic() + 60
            while not publisher.get_subscription_count() and time.monotonic() < stop:
                time.sleep(0.01)
            invalid = Skeleton(body_id="body_1", layout="kinect_v2_25", confidences=[1.0])
            publisher.publish(SkeletonArray(header=conversions.header(START, "lens"), skeletons=[invalid]))
            publisher.publish(SkeletonArray(header=conversions.header(START + PERIOD_NS, "lens")))
            assert read(60.0).stamp_ns == START + PERIOD_NS
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)
