"""The direction of gravity on its way through the graph: camera, mount or estimate, skeletons, recording."""

import dataclasses
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from actrec_msgs.msg import HandArray, SkeletonArray
from geometry_msgs.msg import Vector3, Vector3Stamped
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Imu

from actrec import recordings
from actrec.recordings.rosbag.bag_writer import BagWriter
from actrec.types import Intrinsics, RgbdFrame
from actrec.utils import calibration_files, gravity
from actrec.utils.errors import DeviceError, InputError, MissingLibraryError
from actrec_nodes.camera_node import CameraNode
from actrec_nodes.common import conversions as c
from actrec_nodes.common import topics
from actrec_nodes.perception_nodes import GravityInputConfig, GravityInputs, HandNode, SkeletonNode
from tests.nodes.test_perception_nodes import person, repeat  # noqa: F401

pytestmark = pytest.mark.ros

CAMERA = Intrinsics(64, 48, 60.0, 60.0, 31.5, 23.5)
UPSIDE_DOWN = gravity.parse_mount("upside_down")


def test_up_round_trip_and_unknown() -> None:
    head = c.header(1, "lens")
    for to_message in (c.bodies_to_message, c.hands_to_message, c.faces_to_message):
        assert gravity.up_from_vector(to_message([], head).up) is None
        np.testing.assert_allclose(gravity.up_from_vector(to_message([], head, UPSIDE_DOWN).up), UPSIDE_DOWN, atol=1e-6)
    with pytest.raises(InputError, match="up is"):
        gravity.up_from_vector(Vector3(x=float("nan")))


def test_camera_node_publishes_the_mount_of_its_calibration(host, add, peer, monkeypatch, tmp_path: Path) -> None:
    from actrec.cameras.simulated import SimulatedCamera

    monkeypatch.setenv("ACTREC_CAMERAS", str(tmp_path))
    monkeypatch.setattr(SimulatedCamera, "serial", "S1")
    pose = np.eye(4)  # camera to robot: the optical x axis points up
    pose[:3, :3] = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]]).T @ np.diag([1.0, 1.0, 1.0])
    mount = calibration_files.Mount("base_link", "camera_color_optical_frame", pose)
    calibration_files.write_mount(calibration_files.path_of("S1", calibration_files.MOUNT), mount)
    peer.subscribe(Vector3Stamped, topics.UP)
    add(CameraNode, driver="simulated", simulated__width=64, simulated__height=48, simulated__gravity=False)
    assert host.start() is None
    peer.wait_until(lambda: bool(peer.received[topics.UP]))
    np.testing.assert_allclose(gravity.up_from_vector(peer.received[topics.UP][0].vector), pose[2, :3], atol=1e-6)


def write_mount(folder: Path, monkeypatch, up: np.ndarray, moving: bool = False) -> None:
    """Write the calibrated mount of the simulated camera, which gets a serial number."""
    from actrec.cameras.simulated import SimulatedCamera

    monkeypatch.setenv("ACTREC_CAMERAS", str(folder))
    monkeypatch.setattr(SimulatedCamera, "serial", "S1")
    pose = np.eye(4)
    pose[:3, :3] = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]) @ gravity.level_rotation(up)
    mount = calibration_files.Mount("base_link", "camera_color_optical_frame", pose, moving)
    calibration_files.write_mount(calibration_files.path_of("S1", calibration_files.MOUNT), mount)
    read = calibration_files.load("S1").mount
    assert read is not None and read.moving == moving
    np.testing.assert_allclose(read.pose[2, :3], up, atol=1e-6)


TILTED = gravity.up_from_angles(0, 20)


def test_camera_node_withdraws_the_direction_of_an_accelerometer_that_falls_silent(
    host, add, peer, monkeypatch
) -> None:
    from actrec.cameras.simulated import SimulatedCamera

    read, silent = SimulatedCamera.read, threading.Event()

    def measured(*args):
        frame = read(*args)
        return dataclasses.replace(frame, up=None if silent.is_set() else frame.up, up_source="accelerometer")

    monkeypatch.setattr(SimulatedCamera, "read", measured)
    peer.subscribe(Vector3Stamped, topics.MEASURED_UP, topics.LATCHED)
    add(CameraNode, driver="simulated", simulated__width=64, simulated__height=48)
    assert host.start() is None
    found = peer.received[topics.MEASURED_UP]
    peer.wait_until(lambda: len(found) == 1)
    assert gravity.up_from_vector(found[0].vector) is not None
    silent.set()
    peer.wait_until(lambda: len(found) == 2)
    assert gravity.up_from_vector(found[1].vector) is None
    silent.clear()
    peer.wait_until(lambda: len(found) == 3)
    assert gravity.up_from_vector(found[2].vector) is not None


def check_withdrawn(host, add, peer, up: np.ndarray, change: Callable[[CameraNode], object], **parameters) -> None:
    """Start a camera node without an accelerometer, whose direction `up` must be withdrawn after `change`."""
    peer.subscribe(Vector3Stamped, topics.UP, topics.LATCHED)
    size = {"simulated__width": 64, "simulated__height": 48, "simulated__gravity": False}
    node = add(CameraNode, driver="simulated", **size, **parameters)
    assert host.start() is None
    found = peer.received[topics.UP]
    peer.wait_until(lambda: len(found) == 1)
    np.testing.assert_allclose(gravity.up_from_vector(found[0].vector), up, atol=1e-6)
    change(node)
    peer.wait_until(lambda: len(found) == 2)
    assert gravity.up_from_vector(found[1].vector) is None


def test_camera_node_withdraws_its_direction_when_it_stops(host, add, peer) -> None:
    """The next activation may be of another camera or with another mount, and latched messages stay."""
    check_withdrawn(host, add, peer, UPSIDE_DOWN, CameraNode.trigger_deactivate, mount="upside_down")


def test_camera_node_another_camera_does_not_keep_the_mount(host, add, peer, monkeypatch, tmp_path: Path) -> None:
    """It is plugged in instead of the calibrated one, and has no calibration and no accelerometer."""
    from actrec.cameras.simulated import SimulatedCamera

    write_mount(tmp_path, monkeypatch, TILTED)
    read, lost = SimulatedCamera.read, threading.Event()

    def unplugged(*args):
        if lost.is_set():
            lost.clear()
            monkeypatch.setattr(SimulatedCamera, "serial", "S2")
            raise DeviceError("it was unplugged")
        return read(*args)

    monkeypatch.setattr(SimulatedCamera, "read", unplugged)
    monkeypatch.setattr(SimulatedCamera, "live", True)
    check_withdrawn(host, add, peer, TILTED, lambda _: lost.set(), retry_s=0.01)


@pytest.mark.parametrize("moving", [False, True])
def test_camera_node_mount_beats_the_accelerometer(host, add, peer, monkeypatch, tmp_path: Path, moving: bool) -> None:
    """Unless the mount's parent moves, whose z axis is no direction of gravity."""
    from actrec.cameras.simulated import SimulatedCamera

    write_mount(tmp_path, monkeypatch, TILTED, moving)
    read, lines = SimulatedCamera.read, []
    monkeypatch.setattr(
        SimulatedCamera, "read", lambda *args: dataclasses.replace(read(*args), up_source="accelerometer")
    )
    for topic in (topics.UP, topics.MEASURED_UP):
        peer.subscribe(Vector3Stamped, topic, topics.LATCHED)
    node = add(CameraNode, driver="simulated", simulated__width=64, simulated__height=48)
    monkeypatch.setattr(node._gravity, "_log", SimpleNamespace(info=lines.append, warning=lines.append))
    assert host.start() is None
    used, unused = (topics.MEASURED_UP, topics.UP) if moving else (topics.UP, topics.MEASURED_UP)
    peer.wait_until(lambda: bool(peer.received[used]))
    np.testing.assert_allclose(
        gravity.up_from_vector(peer.received[used][0].vector), gravity.LEVEL if moving else TILTED, atol=0.1
    )
    peer.wait_until(lambda: node.statistics.snapshot().processed > 10)
    assert not peer.received[unused]
    assert lines[1:] == ([] if moving else [
        "the calibrated mount and the accelerometer disagree by 20° on the direction of gravity: using the calibrated "
        "mount; correct it if the camera was moved"
    ])  # fmt: skip


class Buffer:
    """A TF buffer of a head that pitches by 10° a second up to 40°, and is unknown from 5 to 7 s."""

    def lookup_transform(self, target, source, time, timeout):
        seconds = time.nanoseconds / 1e9
        if target == "lens":  # the accelerometer's fixed place
            matrix = gravity.level_rotation(UPSIDE_DOWN)
        elif 5 < seconds < 7:
            raise LookupError("no such transform.\nMore of it.")
        else:
            assert (target, source) == ("base_footprint", "lens")
            matrix = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]]) @ gravity.level_rotation(head_at(seconds))
        x, y, z, w = calibration_files.quaternion(np.asarray(matrix, np.float64))
        rotation = SimpleNamespace(x=x, y=y, z=z, w=w)
        return SimpleNamespace(transform=SimpleNamespace(translation=Vector3(), rotation=rotation))

    def clear(self) -> None:
        pass


def head_at(seconds: float) -> np.ndarray:
    return gravity.up_from_angles(0, min(10 * seconds, 40))


@pytest.fixture
def tf(monkeypatch):
    """Replace tf2_ros, which has no wheel."""
    listener = SimpleNamespace(unregister=lambda: None)
    module = SimpleNamespace(
        Buffer=Buffer, TransformListener=lambda buffer, node: listener, TransformException=LookupError
    )
    monkeypatch.setitem(sys.modules, "tf2_ros", module)


def test_gravity_inputs_follow_tf_at_each_stamp(add, tf, monkeypatch) -> None:
    node, lines = add(SkeletonNode), []
    monkeypatch.setattr(SkeletonNode, "warn", lambda self, line: lines.append(line))
    inputs = GravityInputs(node, GravityInputConfig(gravity_frame="base_footprint"))

    def at(seconds: float) -> RgbdFrame:
        return inputs.add_to(RgbdFrame(round(seconds * 1e9), None, None, CAMERA, "lens"))

    for seconds in (0.0, 1.0, 1.3, 3.9, 5.0, 5.9):
        frame = at(seconds)
        assert frame.up_source == "tf"
        np.testing.assert_allclose(frame.up, head_at(seconds), atol=1e-5)
    assert not lines, "a direction is held for a second"
    assert at(6.5).up is None
    assert lines == [
        "TF does not have the direction of gravity, from 'base_footprint' to 'lens' (no such transform.): set "
        "gravity_frame to a frame of this tree whose z axis points up, or to '' to estimate it"
    ]
    np.testing.assert_allclose(at(7.5).up, head_at(4), atol=1e-5)
    inputs._keep_measured(Vector3Stamped(vector=c.up_to_vector(UPSIDE_DOWN)))
    assert at(8).up_source == "tf", "before the accelerometer"
    inputs._keep_up(Vector3Stamped(vector=c.up_to_vector(UPSIDE_DOWN)))
    assert at(8).up_source == "camera", "after a stated direction"
    inputs.close()


def test_gravity_inputs_wait_now_and_then_for_a_transform_that_failed(add, tf, monkeypatch) -> None:
    node, waits = add(SkeletonNode), []
    monkeypatch.setattr(SkeletonNode, "warn", lambda *_: None)
    inputs = GravityInputs(node, GravityInputConfig(gravity_frame="base_footprint"))

    def pose(target: str, source: str, stamp_ns: int, wait_s: float) -> None:
        waits.append(wait_s > 0)
        raise DeviceError("not yet")

    monkeypatch.setattr(inputs._tf, "pose", pose)
    for second in range(100):
        inputs.add_to(RgbdFrame(second * 10**9, None, None, CAMERA, "lens"))
    assert all(waits[:10]) and sum(waits[10:]) == 3, "a late transform may come into time again"
    inputs.close()


def test_gravity_inputs_without_tf2_ros_name_the_remedy(add, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    with pytest.raises(MissingLibraryError, match="gravity_frame needs tf2_ros.*or set gravity_frame to ''"):
        GravityInputs(add(SkeletonNode), GravityInputConfig(gravity_frame="odom"))


@pytest.mark.parametrize("frame_id", ["lens", "imu"])
def test_skeleton_node_takes_the_accelerometer_of_another_driver(host, add, peer, person, tf, frame_id: str) -> None:  # noqa: F811
    """The accelerometer is in the optical frame, or elsewhere by TF, mounted upside down."""
    peer.subscribe(SkeletonArray, topics.SKELETONS)
    node = add(SkeletonNode, imu=True)
    assert host.start() is None
    received, up = peer.received[topics.SKELETONS], gravity.up_from_angles(0, 20)
    in_sensor = up if frame_id == "lens" else gravity.turn_vectors(up, 2)

    def moving() -> Iterator[RgbdFrame]:
        for number, frame in enumerate(repeat(person)):
            for k in range(10):
                x, y, z = map(float, 9.81 * in_sensor)
                imu = Imu(linear_acceleration=Vector3(x=x, y=y, z=z))
                imu.header = c.header(number * 10**8 + k * 10**7, frame_id)
                peer.send(topics.IMU, imu, qos_profile_sensor_data)
            yield dataclasses.replace(frame, up=None, frame_id="lens")

    peer.send_frames_until(moving(), lambda: any(m.up.z < -0.2 for m in received))
    np.testing.assert_allclose(gravity.up_from_vector(received[-1].up), up, atol=0.02)
    figures = node.figures()
    assert (figures["gravity"], round(figures["pitch_deg"])) == ("accelerometer", 20)


@pytest.mark.parametrize("source", ["mount", "topic"])
def test_skeleton_node_turned_camera_finds_the_person(host, add, peer, person, source: str) -> None:  # noqa: F811
    """The recording turned by half a turn gives a standing person again, and states the direction of gravity."""
    peer.subscribe(SkeletonArray, topics.SKELETONS)
    node = add(SkeletonNode, **({"mount": "upside_down"} if source == "mount" else {}))
    assert host.start() is None
    received = peer.received[topics.SKELETONS]

    def turned() -> Iterator[RgbdFrame]:
        for frame in repeat(person):
            if source == "topic":
                peer.send(topics.UP, Vector3Stamped(vector=c.up_to_vector(UPSIDE_DOWN)), topics.LATCHED)
            yield dataclasses.replace(gravity.turn_frame(frame, 2), up=None)

    peer.send_frames_until(turned(), lambda: len([m for m in received if m.skeletons and m.up.y > 0.9]) >= 5)
    message = [m for m in received if m.skeletons][-1]
    body = c.message_to_bodies(message)[0]
    np.testing.assert_allclose(gravity.up_from_vector(message.up), UPSIDE_DOWN, atol=1e-5)
    head, base = body.positions[3], body.positions[0]
    assert (head - base) @ UPSIDE_DOWN > 0.3, "the head is above the hips"
    assert node.statistics.snapshot().failed == 0


def test_hand_node_without_skeletons_takes_the_direction_of_the_camera(host, add, peer, person) -> None:  # noqa: F811
    peer.subscribe(HandArray, topics.HANDS)
    add(HandNode)
    assert host.start() is None
    peer.send(topics.UP, Vector3Stamped(vector=c.up_to_vector(UPSIDE_DOWN)), topics.LATCHED)
    received = peer.received[topics.HANDS]
    turned = (dataclasses.replace(gravity.turn_frame(frame, 2), up=None) for frame in repeat(person))
    peer.send_frames_until(turned, lambda: any(m.up.y > 0.9 for m in received))


@pytest.mark.parametrize("source", ["image", "skeletons"])
def test_bag_with_images_keeps_the_direction_of_gravity(tmp_path: Path, person, source: str) -> None:  # noqa: F811
    """A camera that is turned by hand from frame to frame; skeletons know it by the frame, the topic by its changes."""
    ups = [gravity.up_from_angles(roll, 10) for roll in (0, 0, 30, 60)]
    with BagWriter(tmp_path / "bag") as bag:
        for frame, up in zip(person, ups, strict=False):
            bag.write_frame(dataclasses.replace(frame, up=up if source == "image" else None, skeletons=[]))
            if source == "skeletons":
                bag.write_bodies("/skeletons", frame.stamp_ns, "a_long_frame_id", [], up)
    assert bag.counts.get("/camera/up", 0) == (3 if source == "image" else 0), "unchanged directions are not repeated"
    frames = list(recordings.open_recording(tmp_path / "bag").frames())
    assert len(frames) == 4
    np.testing.assert_allclose([frame.up for frame in frames], ups, atol=1e-6)


def test_bag_keeps_the_direction_of_gravity(tmp_path: Path, person) -> None:  # noqa: F811
    with BagWriter(tmp_path / "bag") as bag:
        for frame, up in itertools.product(person[:1], (None, UPSIDE_DOWN)):
            bag.write_bodies("/skeletons", frame.stamp_ns, "lens", [], up)
    found = [frame.up for frame in recordings.open_recording(tmp_path / "bag").frames()]
    np.testing.assert_allclose(found, [UPSIDE_DOWN] * 2, atol=1e-6, err_msg="the first one from the second message")
