"""The camera's motion from TF, with a fake buffer, as tf2_ros has no wheel."""

import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from geometry_msgs.msg import Quaternion, Vector3

from actrec.types import Intrinsics, RgbdFrame
from actrec.utils.geometry import rotation
from actrec_nodes.common.tf import TfPoses, pose_matrix
from actrec_nodes.scene_flow_node import camera_motion

C = Intrinsics(4, 3, 5.0, 5.0, 1.5, 1.0)


class UnknownError(Exception):
    pass


class Buffer:
    """A fake TF buffer of a camera that moves forward at 1 m/s and rotates by 0.1 rad/s, for 10 s."""

    def lookup_transform(self, target, source, time, timeout):
        assert 0 < timeout.nanoseconds < 1e8
        assert (target, source) == ("odom", "camera")
        seconds = time.nanoseconds / 1e9
        if seconds > 10:
            raise UnknownError("Lookup would require extrapolation into the future.\nMore of it.")
        rotation = Quaternion(x=0.0, y=float(np.sin(0.05 * seconds)), z=0.0, w=float(np.cos(0.05 * seconds)))
        return SimpleNamespace(transform=SimpleNamespace(translation=Vector3(z=seconds), rotation=rotation))


@pytest.fixture
def motion_and_lines(monkeypatch):
    listener = SimpleNamespace(unregister=lambda: None)
    module = SimpleNamespace(
        Buffer=Buffer, TransformListener=lambda buffer, node: listener, TransformException=UnknownError
    )
    monkeypatch.setitem(sys.modules, "tf2_ros", module)
    lines: list[str] = []
    return partial(camera_motion, TfPoses(None, "", ""), "odom", lines.append), lines  # type: ignore[arg-type]


def frame(seconds: float) -> RgbdFrame:
    return RgbdFrame(round(seconds * 1e9), None, None, C, "camera")


def test_camera_motion_is_the_motion_between_two_frames(motion_and_lines) -> None:
    found = motion_and_lines[0](frame(0.0), frame(0.1))
    # A static point comes nearer and rotates the other way.
    np.testing.assert_allclose(found.rotation, rotation(1, -0.01), atol=1e-6)
    np.testing.assert_allclose(found.translation, rotation(1, -0.01) @ [0, 0, -0.1], atol=1e-6)


def test_camera_pose_without_tf_is_logged(motion_and_lines) -> None:
    assert motion_and_lines[0](frame(9.99), frame(10.1)) is None
    assert motion_and_lines[1] == [
        "the camera's motion is not subtracted from the flow, because TF does not have it: Lookup would require "
        "extrapolation into the future."
    ]


@pytest.mark.parametrize("axis", range(3))
def test_pose_matrix_of_a_transform_is_homogeneous(axis: int) -> None:
    parts = [0.0, 0.0, 0.0]
    parts[axis] = float(np.sin(0.2))
    quaternion = Quaternion(x=parts[0], y=parts[1], z=parts[2], w=float(np.cos(0.2)))
    found = pose_matrix(Vector3(x=1.0, y=2.0, z=3.0), quaternion)
    np.testing.assert_allclose(found[:3, :3], rotation(axis, 0.4), atol=1e-6)
    np.testing.assert_allclose(found[:3, 3], [1, 2, 3])


def test_camera_motion_clears_tf_if_stamps_jump_back(motion_and_lines, monkeypatch) -> None:
    cleared: list[bool] = []
    monkeypatch.setattr(Buffer, "clear", lambda self: cleared.append(True), raising=False)
    for seconds in (1.0, 1.1, 2.1):
        motion_and_lines[0](frame(seconds), frame(seconds + 0.1))
    assert not cleared
    assert motion_and_lines[0](frame(0.1), frame(0.2)) is not None
    assert len(cleared) == 1
