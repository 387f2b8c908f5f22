"""How the camera moved between two frames, as TF tells it."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time

from actrec.errors import MissingLibraryError
from actrec.frames import RgbdFrame
from actrec.sceneflow.camera_motion import CameraMotion

WAIT_S = 0.05
"""How long a pose is waited for: odometry often comes a little after the image of its time."""


class TfCameraMotion:
    """Looks the camera's poses up in TF, from another thread than the one that spins the node.

    Args:
        node: Listens to /tf and /tf_static.
        fixed_frame: Does not move: odom, map.
        warn: Takes a line where TF does not tell the pose of a frame.

    Raises:
        MissingLibraryError: tf2_ros is not here.
    """

    def __init__(self, node: Node, fixed_frame: str, warn: Callable[[str], None]):
        try:
            tf2_ros = importlib.import_module("tf2_ros")
        except ImportError as error:
            raise MissingLibraryError(
                "camera_motion 'tf' needs tf2_ros, which comes with ROS 2: source its setup.bash, or set camera_motion "
                "to 'estimate'"
            ) from error
        self._buffer: Any = tf2_ros.Buffer()
        self._listener: Any = tf2_ros.TransformListener(self._buffer, node)
        self._unknown: Any = tf2_ros.TransformException
        self._fixed_frame, self._warn = fixed_frame, warn

    def __call__(self, first: RgbdFrame, second: RgbdFrame) -> CameraMotion | None:
        """The motion between two frames; None where TF does not reach, or not yet."""
        try:
            return CameraMotion.between(self._pose(first), self._pose(second))
        except self._unknown as error:
            self._warn(f"the camera's motion stays in the flow, TF does not tell it: {str(error).splitlines()[0]}")
            return None

    def close(self) -> None:
        """Stops listening."""
        self._listener.unregister()

    def _pose(self, frame: RgbdFrame) -> np.ndarray:
        stamp = Time(nanoseconds=frame.stamp_ns)
        wait = Duration(seconds=WAIT_S)
        found = self._buffer.lookup_transform(self._fixed_frame, frame.frame_id, stamp, wait).transform
        return pose_matrix(found.translation, found.rotation)


def pose_matrix(translation: Any, rotation: Any) -> np.ndarray:
    """[4, 4] of a geometry_msgs translation and unit quaternion."""
    x, y, z, w = rotation.x, rotation.y, rotation.z, rotation.w
    out = np.eye(4)
    out[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    out[:3, 3] = translation.x, translation.y, translation.z
    return out
