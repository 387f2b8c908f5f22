"""The direction of gravity on its way through the graph: camera, mount or estimate, skeletons, recording."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from actrec_msgs.msg import SkeletonArray
from geometry_msgs.msg import Vector3, Vector3Stamped

from actrec import recordings
from actrec.recordings.rosbag.bag_writer import BagWriter
from actrec.types import RgbdFrame
from actrec.utils import calibration_files, gravity
from actrec.utils.errors import InputError
from actrec_nodes.camera_node import CameraNode
from actrec_nodes.common import conversions as c
from actrec_nodes.common import topics
from actrec_nodes.perception_nodes import SkeletonNode
from tests.nodes.test_perception_nodes import person, repeat  # noqa: F401

pytestmark = pytest.mark.ros

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
    first, second = recordings.open_recording(tmp_path / "bag").frames()
    assert first.up is None
    np.testing.assert_allclose(second.up, UPSIDE_DOWN, atol=1e-6)
