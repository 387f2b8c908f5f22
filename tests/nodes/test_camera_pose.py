"""The camera's motion from TF. tf2_ros comes with ROS 2 alone: its buffer is stood in for, the arithmetic is ours."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from geometry_msgs.msg import Quaternion, Vector3

from actrec.types import Intrinsics, RgbdFrame
from actrec.utils.geometry import rotation
from actrec_nodes.common.tf import TfCameraMotion, pose_matrix

C = Intrinsics(4, 3, 5.0, 5.0, 1.5, 1.0)


class UnknownError(Exception):
    pass


class Buffer:
    """A camera that goes forward at 1 m/s and turns by 0.1 rad/s, known for 10 s."""

    def lookup_transform(self, target, source, time, timeout):
        assert 0 < timeout.nanoseconds < 1e8
        assert (target, source) == ("odom", "camera")
        seconds = time.nanoseconds / 1e9
        if seconds > 10:
            raise UnknownError("Lookup would require extrapolation into the future.\nMore of it.")
        turn = Quaternion(x=0.0, y=float(np.sin(0.05 * seconds)), z=0.0, w=float(np.cos(0.05 * seconds)))
        return SimpleNamespace(transform=SimpleNamespace(translation=Vector3(z=seconds), rotation=turn))


@pytest.fixture
def moved(monkeypatch):
    listener = SimpleNamespace(unregister=lambda: None)
    module = SimpleNamespace(
        Buffer=Buffer, TransformListener=lambda buffer, node: listener, TransformException=UnknownError
    )
    monkeypatch.setitem(sys.modules, "tf2_ros", module)
    said: list[str] = []
    return TfCameraMotion(None, "odom", said.append), said  # type: ignore[arg-type]


def frame(seconds: float) -> RgbdFrame:
    return RgbdFrame(round(seconds * 1e9), None, None, C, "camera")


def test_tf_camera_motion_is_the_motion_between_two_frames(moved) -> None:
    found = moved[0](frame(0.0), frame(0.1))
    # A point that rests comes nearer, and turns the other way.
    np.testing.assert_allclose(found.rotation, rotation(1, -0.01), atol=1e-6)
    np.testing.assert_allclose(found.translation, rotation(1, -0.01) @ [0, 0, -0.1], atol=1e-6)


def test_camera_pose_without_tf_is_logged(moved) -> None:
    assert moved[0](frame(9.99), frame(10.1)) is None
    assert moved[1] == [
        "the camera's motion stays in the flow, TF does not tell it: Lookup would require extrapolation into the "
        "future."
    ]


@pytest.mark.parametrize("axis", range(3))
def test_pose_matrix_of_a_transform_is_homogeneous(axis: int) -> None:
    parts = [0.0, 0.0, 0.0]
    parts[axis] = float(np.sin(0.2))
    turn = Quaternion(x=parts[0], y=parts[1], z=parts[2], w=float(np.cos(0.2)))
    found = pose_matrix(Vector3(x=1.0, y=2.0, z=3.0), turn)
    np.testing.assert_allclose(found[:3, :3], rotation(axis, 0.4), atol=1e-6)
    np.testing.assert_allclose(found[:3, 3], [1, 2, 3])


def test_tf_camera_motion_clears_tf_if_stamps_jump_back(moved, monkeypatch) -> None:
    cleared: list[bool] = []
    monkeypatch.setattr(Buffer, "clear", lambda self: cleared.append(True), raising=False)
    for seconds in (0.0, 0.1, 0.2):
        moved[0](frame(seconds), frame(seconds + 0.1))
    assert not cleared
    assert moved[0](frame(0.0), frame(0.1)) is not None
    assert len(cleared) == 1
