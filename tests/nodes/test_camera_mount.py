"""The camera's mount is published as a static transform, and the driver's figures with the node's."""

import json
import sys
import types
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from std_msgs.msg import String

from actrec.utils import calibration_files
from actrec_nodes.camera_node import CameraNode
from actrec_nodes.common import topics

pytestmark = pytest.mark.ros

POSE = np.array([[0, 0, 1, 0.2], [-1, 0, 0, 0.05], [0, -1, 0, 1.1], [0, 0, 0, 1]], float)


@pytest.fixture
def camera(host, add, monkeypatch, tmp_path):
    """Return a function that adds a simulated camera with a serial number and figures."""
    from actrec.cameras.simulated import SimulatedCamera

    monkeypatch.setenv("ACTREC_CAMERAS", str(tmp_path))
    monkeypatch.setattr(SimulatedCamera, "serial", "S1")
    monkeypatch.setattr(SimulatedCamera, "figures", lambda self: {"stamp_jitter_ms": 0.25, "unpaired": 3})
    return lambda: add(CameraNode, driver="simulated", simulated__width=64, simulated__height=48)


class Message:
    """A replacement of tf2_msgs/msg/TFMessage, as tf2_msgs has no wheel."""

    def __init__(self, transforms: list[TransformStamped]):
        self.transforms = transforms


def test_camera_mount_is_published_on_tf_static(camera, monkeypatch):
    sent: list[tuple[str, Any, Any]] = []
    tf = types.ModuleType("tf2_msgs.msg")
    monkeypatch.setattr(tf, "TFMessage", Message, raising=False)
    monkeypatch.setitem(sys.modules, "tf2_msgs", types.ModuleType("tf2_msgs"))
    monkeypatch.setitem(sys.modules, "tf2_msgs.msg", tf)
    mount = calibration_files.Mount("base_link", "camera_color_optical_frame", POSE)
    calibration_files.write_mount(calibration_files.path_of("S1", calibration_files.MOUNT), mount)
    create_publisher = CameraNode.create_publisher

    def record_publisher(self, kind, topic, profile, **options):
        if topic != "/tf_static":
            return create_publisher(self, kind, topic, profile, **options)
        return types.SimpleNamespace(publish=lambda message: sent.append((kind.__name__, profile, message)))

    monkeypatch.setattr(CameraNode, "create_publisher", record_publisher)
    node = camera()
    assert node.start()
    ((kind, profile, message),) = sent
    assert kind == "Message" and profile == topics.LATCHED, "late subscribers get it too"
    (transform,) = message.transforms
    assert isinstance(transform, TransformStamped)
    assert (transform.header.frame_id, transform.child_frame_id) == ("base_link", "camera_color_optical_frame")
    assert transform.header.stamp.sec > 0
    t, r = transform.transform.translation, transform.transform.rotation
    np.testing.assert_allclose([t.x, t.y, t.z], POSE[:3, 3])
    np.testing.assert_allclose(calibration_files.rotation_matrix(r.x, r.y, r.z, r.w), POSE[:3, :3], atol=1e-12)


def test_camera_mount_without_tf2_msgs_is_logged(camera, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2_msgs", None)
    monkeypatch.setitem(sys.modules, "tf2_msgs.msg", None)
    calibration_files.write_mount(
        calibration_files.path_of("S1", calibration_files.MOUNT), calibration_files.Mount("base", "c", POSE)
    )
    lines: list[str] = []
    monkeypatch.setattr(CameraNode, "complain", lambda self, line, level="error": lines.append(line))
    assert camera().start()
    assert any("place in base is not published: it needs tf2_msgs" in line for line in lines)


@pytest.mark.parametrize("child", ["camera_color_optical_frame", "left_optical_frame"])
def test_camera_mount_of_another_frame_is_logged(camera, monkeypatch, child):
    calibration_files.write_mount(
        calibration_files.path_of("S1", calibration_files.MOUNT), calibration_files.Mount("base", child, POSE)
    )
    logged: list[str] = []
    monkeypatch.setattr(CameraNode, "complain", lambda self, line, level="error": logged.append(line))
    assert camera().start()
    line = f"mount is of frame '{child}', but its images are of 'camera_color_optical_frame': set its frame_id"
    assert any(line in entry for entry in logged) == (child == "left_optical_frame")


def test_camera_mount_damaged_file_is_logged_and_frames_continue(camera, monkeypatch, tmp_path):
    (tmp_path / "S1_mount.yaml").write_text("parent_frame: base\n")
    lines: list[str] = []
    monkeypatch.setattr(CameraNode, "complain", lambda self, line, level="error": lines.append(line))
    assert camera().start()
    assert any("S1_mount.yaml" in line for line in lines)


def test_camera_node_figures_include_the_drivers(camera, peer):
    peer.subscribe(String, "camera_node/statistics", topics.LATCHED)
    node = camera()
    assert node.start()
    node.report()
    figures = json.loads(peer.wait_for("camera_node/statistics")[0].data)
    assert (figures["stamp_jitter_ms"], figures["unpaired"]) == (0.25, 3) and "rate_hz" in figures
