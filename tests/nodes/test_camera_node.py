"""The camera node: its messages, and its behavior when a camera is absent, ends or is lost."""

import re
import sys
import threading
import types
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from actrec_msgs.msg import ActionLabel, SkeletonArray
from sensor_msgs.msg import CameraInfo, Image

from actrec import cameras
from actrec.cameras.base import Camera
from actrec.features.clips import example_clip
from actrec.features.specs import InputSpec
from actrec.types import Body, Intrinsics, RgbdFrame
from actrec.utils import gravity
from actrec.utils.config import build, setting
from actrec.utils.errors import DeviceError, EndOfStream, InputError
from actrec_nodes import camera_node
from actrec_nodes.camera_node import CameraNode
from actrec_nodes.common import conversions as c
from actrec_nodes.common import topics

pytestmark = pytest.mark.ros

INTRINSICS = Intrinsics(8, 6, 10.0, 10.0, 3.5, 2.5)
STEP_NS = 33_333_333


@dataclass(frozen=True)
class StageConfig:
    start: int = setting(5, "first stamp in frames", range=(0, 1000))


class StageCamera(Camera):
    """A camera without hardware that returns frames and raises errors from a program, without delay."""

    config_class = StageConfig
    program: tuple[Any, ...] = ()
    opened: int = 0
    absent: int = 0

    def __init__(self, **options: Any):
        self.config = build(StageConfig, options)
        self._k = 0

    @property
    def intrinsics(self) -> Intrinsics:
        return INTRINSICS

    def open(self) -> None:
        cls = type(self)
        cls.opened += 1
        if cls.opened in range(2, 2 + cls.absent) or cls.absent < 0:
            raise DeviceError("no stage camera is connected: check its cable")

    def close(self) -> None:
        pass

    def read(self, timeout_s: float = 1.0) -> RgbdFrame:
        if self._k == len(self.program):
            raise EndOfStream("the program is over")
        step, self._k = self.program[self._k], self._k + 1
        if isinstance(step, Exception):
            raise step
        return step(self.config.start + self._k - 1)


def rgbd(k: int) -> RgbdFrame:
    color = np.full((6, 8, 3), k, np.uint8)
    depth = np.full((6, 8), 1.5, np.float32)
    depth[0] = np.nan
    return RgbdFrame(k * STEP_NS, color, depth, INTRINSICS)


def color_only(k: int) -> RgbdFrame:
    return RgbdFrame(k * STEP_NS, np.full((6, 8, 3), k, np.uint8), None, INTRINSICS)


def body() -> Body:
    return Body(
        "body_1", "kinect_v2_25", np.ones((25, 3), np.float32), np.ones((25, 2), np.float32), np.ones(25, np.float32)
    )


def joints_only(k: int) -> RgbdFrame:
    return RgbdFrame(k * STEP_NS, None, None, INTRINSICS, skeletons=[body()])


def with_truth(k: int) -> RgbdFrame:
    frame = rgbd(k)
    frame.skeletons = [body()]
    return frame


@pytest.fixture
def stage(monkeypatch):
    """Return a function that registers the driver `stage` with a program."""

    def stage(*program: Any, live: bool = True, absent: int = 0) -> None:
        attributes = {"program": program, "live": live, "opened": 0, "absent": absent}
        module = types.ModuleType("stage_driver")
        module.Driver = type("Driver", (StageCamera,), attributes)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "stage_driver", module)
        monkeypatch.setitem(cameras.DRIVERS._targets, "stage", "stage_driver:Driver")

    return stage


@pytest.fixture
def subscriber(peer):
    """Return a peer that subscribes reliably to all topics of a camera node, as tests count messages."""
    for kind, topic in (
        (Image, topics.COLOR),
        (Image, topics.DEPTH),
        (CameraInfo, topics.COLOR_INFO),
        (CameraInfo, topics.DEPTH_INFO),
        (SkeletonArray, topics.SKELETONS),
        (SkeletonArray, topics.TRUE_SKELETONS),
        (ActionLabel, topics.TRUE_ACTION_LABEL),
    ):
        peer.subscribe(kind, topic, topics.SMALL)
    return peer


def stamps(messages: list[Any]) -> list[int]:
    return [c.stamp_to_ns(message.header.stamp) // STEP_NS for message in messages]


def test_camera_node_messages_have_the_stamp_of_their_frame(stage, host, add, subscriber) -> None:
    stage(rgbd, rgbd, rgbd)
    add(CameraNode, driver="stage", stage__start=7)
    assert host.start() is None
    for topic in topics.CAMERA_TOPICS:
        messages = subscriber.wait_for(topic, 3)
        assert stamps(messages) == [7, 8, 9]
        assert {message.header.frame_id for message in messages} == {"camera_color_optical_frame"}
    color, depth = subscriber.received[topics.COLOR][1], subscriber.received[topics.DEPTH][1]
    np.testing.assert_array_equal(c.image_to_color(color), np.full((6, 8, 3), 8, np.uint8))
    np.testing.assert_array_equal(c.image_to_depth(depth)[[0, 5], 0], [np.nan, 1.5])
    assert c.info_to_intrinsics(subscriber.received[topics.DEPTH_INFO][0]) == INTRINSICS
    assert subscriber.received[topics.SKELETONS] == []
    assert subscriber.received[topics.TRUE_ACTION_LABEL] == []


def test_camera_node_frame_without_depth_publishes_color_only(stage, host, add, subscriber) -> None:
    stage(color_only, color_only)
    add(CameraNode, driver="stage")
    assert host.start() is None
    subscriber.wait_for(topics.COLOR, 2)
    assert subscriber.received[topics.DEPTH] == []


def test_camera_node_frame_without_images_publishes_skeletons(stage, host, add, subscriber) -> None:
    stage(joints_only, joints_only)
    add(CameraNode, driver="stage")
    assert host.start() is None
    messages = subscriber.wait_for(topics.SKELETONS, 2)
    assert stamps(messages) == [5, 6]
    assert messages[0].skeletons[0].layout == "kinect_v2_25"
    assert subscriber.received[topics.TRUE_SKELETONS] == []


@pytest.mark.parametrize(
    ("turns", "parameters", "up"),
    [
        (2, {}, (0, 1, 0)),
        (2, {"mount": "level"}, (0, -1, 0)),
        (1, {}, (0, 0, 0)),
        (3, {}, (-1, 0, 0)),
    ],
)
def test_camera_node_joints_alone_have_the_estimated_direction_of_gravity(
    stage, host, add, subscriber, caplog, turns, parameters, up
) -> None:
    """A person stands still before a camera that is turned by quarter turns, or lies: the arm beneath is raised."""
    standing = example_clip([InputSpec("body", "body", "kinect_v2_25", (1, 3, 1, 25))], 1)["bodies"][0, 0]
    person = gravity.turn_joints(replace(body(), positions=standing), INTRINSICS, turns)
    stage(*[lambda k: RgbdFrame(k * STEP_NS, None, None, INTRINSICS, skeletons=[person])] * 40)
    add(CameraNode, driver="stage", gravity_window_s=1.0, **parameters)
    assert host.start() is None
    messages = subscriber.wait_for(topics.SKELETONS, 40)
    found = [(message.up.x, message.up.y, message.up.z) for message in messages]
    np.testing.assert_allclose(found[-1], up, atol=1e-6)
    assert (found[0] == found[-1]) == (turns == 1 or bool(parameters)), "it is unknown for the first second"
    assert ("set mount:=portrait_" in caplog.text) == (turns == 1)
    assert ("set mount:=level" in caplog.text) == (turns > 1 and not parameters)


def test_camera_node_frame_with_images_publishes_true_skeletons_separately(stage, host, add, subscriber) -> None:
    stage(with_truth)
    add(CameraNode, driver="stage")
    assert host.start() is None
    assert stamps(subscriber.wait_for(topics.TRUE_SKELETONS)) == [5]
    assert subscriber.received[topics.SKELETONS] == []


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"driver": "kinect_v9"}, "unknown camera driver 'kinect_v9'; known: .*replay, simulated"),
        ({"driver": "stage", "stage__start": -1}, r"parameter stage\.start is -1, allowed: int in 0 to 1000"),
        ({"driver": "stage", "stage__stat": 1}, r"unknown parameter stage\.stat; known: stage\.start"),
        ({"driver": "replay", "replay__path": "/nowhere.mcap"}, "/nowhere.mcap"),
        ({"driver": "replay"}, "needs a recording: set its option path"),
        ({"on_end": "burn"}, "parameter on_end is 'burn', allowed: exit, stay"),
    ],
)
def test_camera_node_wrong_settings_fail_to_configure_with_one_line(stage, host, add, capfd, parameters, line) -> None:
    stage(rgbd)
    node = add(CameraNode, **parameters)
    assert host.start() == "camera_node"
    output = capfd.readouterr().err
    assert "Traceback" not in output
    assert len([text for text in output.splitlines() if "cannot" in text]) == 1
    assert re.search(line, node.last_error)


def test_camera_node_configure_prepares_and_activate_opens_the_driver(stage, host, add, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(StageCamera, "prepare", lambda self: calls.append("prepared"))
    monkeypatch.setattr(StageCamera, "open", lambda self: calls.append("opened"))
    stage(rgbd)
    add(CameraNode, driver="stage")
    assert host.start(wait=lambda: calls.append("waiting")) is None
    assert calls == ["prepared", "waiting", "opened"]


def test_camera_node_absent_camera_fails_to_activate(stage, host, add) -> None:
    stage(absent=-1)
    node = add(CameraNode, driver="stage")
    assert host.start() == "camera_node"
    assert node.last_error == "cannot activate: no stage camera is connected: check its cable"


def test_camera_node_end_of_recording_finishes_the_node(stage, host, add, subscriber) -> None:
    stage(rgbd, EndOfStream("the recording has ended"), live=False)
    node = add(CameraNode, driver="stage")
    assert host.start() is None
    assert host.wait(60)
    assert node.exit_status == 0
    assert len(subscriber.wait_for(topics.COLOR, 1)) == 1


@pytest.mark.parametrize(("soon_s", "pause"), [(60.0, "0.01"), (0.0, "0.02")])
def test_camera_node_lost_camera_is_reopened_until_it_answers(
    stage, host, add, subscriber, capfd, monkeypatch, soon_s, pause
) -> None:
    monkeypatch.setattr(camera_node, "_SOON_S", soon_s)
    stage(rgbd, DeviceError("the camera has stopped answering"), rgbd, rgbd, absent=2)
    add(CameraNode, driver="stage", retry_s=0.01)
    assert host.start() is None
    assert stamps(subscriber.wait_for(topics.COLOR, 3)) == [5, 7, 8]
    assert sys.modules["stage_driver"].Driver.opened == 4
    output = capfd.readouterr().err
    assert "the camera has stopped answering" in output
    assert f"no stage camera is connected: check its cable (next attempt in {pause} s)" in output
    assert "Traceback" not in output


def test_camera_node_stalled_recording_is_not_reopened(stage, host, add, subscriber) -> None:
    stage(rgbd, DeviceError("no frame within 2 s; read again"), rgbd, live=False)
    add(CameraNode, driver="stage")
    assert host.start() is None
    assert stamps(subscriber.wait_for(topics.COLOR, 2)) == [5, 7]
    assert sys.modules["stage_driver"].Driver.opened == 1


def test_camera_node_corrupt_recording_finishes_with_status_1(stage, host, add) -> None:
    stage(rgbd, InputError("the recording is cut off"), live=False)
    node = add(CameraNode, driver="stage")
    assert host.start() is None
    assert host.wait(60)
    assert (node.exit_status, node.last_error) == (1, "the recording is cut off")


def test_camera_node_hanging_driver_does_not_block_deactivation(stage, host, add, capfd) -> None:
    release, entered = threading.Event(), threading.Event()

    def hang(k: int) -> RgbdFrame:
        entered.set()
        release.wait(60)
        return rgbd(k)

    stage(hang)
    add(CameraNode, driver="stage", read_timeout_s=0.1)
    assert host.start() is None
    assert entered.wait(60)
    host.stop()
    release.set()
    assert "does not return from reading" in capfd.readouterr().err


def test_camera_node_silent_camera_is_closed_at_once(stage, host, add, monkeypatch, capfd) -> None:
    """Deactivation closes the camera and does not wait for its read timeout of a minute."""
    closed, entered, closed_in_time = threading.Event(), threading.Event(), []
    monkeypatch.setattr(StageCamera, "close", lambda _: closed.set())

    def wait_until_closed(k: int) -> RgbdFrame:
        entered.set()
        closed_in_time.append(closed.wait(50))
        raise DeviceError("it was closed while a frame was awaited")

    stage(wait_until_closed, rgbd)
    node = add(CameraNode, driver="stage", read_timeout_s=60.0)
    assert host.start() is None
    assert entered.wait(60)
    node.trigger_deactivate()
    assert not node.is_active and closed_in_time == [True]
    assert node.last_error == "" and not capfd.readouterr().err
    assert sys.modules["stage_driver"].Driver.opened == 1


def test_camera_node_camera_reopened_after_deactivation_is_closed(stage, host, add, monkeypatch) -> None:
    calls: list[str] = []
    opening, resume = threading.Event(), threading.Event()

    def open_slowly(camera: StageCamera) -> None:
        calls.append("open")
        if calls.count("open") == 2:
            opening.set()
            assert resume.wait(60)

    monkeypatch.setattr(StageCamera, "open", open_slowly)
    monkeypatch.setattr(StageCamera, "close", lambda _: calls.append("close"))
    stage(DeviceError("it was pulled out"), rgbd)
    node = add(CameraNode, driver="stage", retry_s=0.01, read_timeout_s=0.1)
    assert host.start() is None
    assert opening.wait(60)
    thread = node._thread
    node.trigger_deactivate()
    resume.set()
    thread.join(60)
    assert calls == ["open", "close", "open", "close", "close"]


def test_camera_node_end_of_recording_during_deactivation_is_ignored(stage, host, add, monkeypatch, capfd) -> None:
    closed, entered = threading.Event(), threading.Event()
    monkeypatch.setattr(StageCamera, "close", lambda _: closed.set())

    def end_after_close(k: int) -> RgbdFrame:
        entered.set()
        closed.wait(60)
        raise EndOfStream("the recording has ended")

    stage(end_after_close, live=False)
    node = add(CameraNode, driver="stage", on_end="exit")
    assert host.start() is None
    assert entered.wait(60)
    node.trigger_deactivate()
    assert not node.is_active and node.exit_status is None
    assert "ERROR" not in capfd.readouterr().err


def test_camera_node_inconsistent_frame_is_dropped(stage, host, add, subscriber) -> None:
    def inconsistent(k: int) -> RgbdFrame:
        return RgbdFrame(k * STEP_NS, rgbd(k).color, np.ones((12, 16), np.float32), INTRINSICS)

    stage(inconsistent, rgbd)
    node = add(CameraNode, driver="stage")
    assert host.start() is None
    assert stamps(subscriber.wait_for(topics.COLOR)) == [6]
    assert "register depth to color" in node.last_error
    assert node.statistics.snapshot().failed == 1


def test_camera_node_publishes_a_real_recording_unchanged(host, add, subscriber, data_root: Path) -> None:
    add(
        CameraNode,
        driver="replay",
        replay__path=str(data_root / "rgbd" / "person_turning"),
        replay__intrinsics="525,525,319.5,239.5",
        replay__depth_scale=0.001,
        replay__duration_s=0.3,
        replay__restamp=False,
    )
    assert host.start() is None
    assert host.wait(60)
    color, depth = subscriber.received[topics.COLOR], subscriber.received[topics.DEPTH]
    assert subscriber.wait(lambda: len(color) == len(depth) >= 9), (len(color), len(depth))
    assert [m.header.stamp for m in color] == [m.header.stamp for m in depth]
    metres = c.image_to_depth(depth[0])
    assert 0.6 < np.isfinite(metres).mean() < 0.9
    assert 0.5 < np.nanmedian(metres) < 6.0


def test_camera_node_default_driver_is_the_simulated_camera(host, add, subscriber) -> None:
    add(CameraNode, simulated__width=160, simulated__height=120, simulated__duration=0.5, simulated__realtime=False)
    assert host.start() is None
    assert host.wait(60)
    skeletons = subscriber.wait_for(topics.TRUE_SKELETONS, 1)
    assert skeletons[0].skeletons[0].layout == "kinect_v2_25"
    color = subscriber.wait_for(topics.COLOR, 1)[0]
    assert c.image_to_color(color).shape == (120, 160, 3)
    performed = subscriber.wait_for(topics.TRUE_ACTION_LABEL, 1)[0]
    assert (performed.header, performed.body_id, performed.label) == (color.header, "actor_1", "wave")
