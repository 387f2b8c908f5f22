"""Poses from TF."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time

from actrec.scene_flow.camera_motion import CameraMotion
from actrec.types import RgbdFrame
from actrec.utils.calibration_files import rotation_matrix, transform
from actrec.utils.errors import DeviceError, MissingLibraryError

WAIT_S = 0.05
"""Wait for the camera's pose, because odometry often comes a little after its image."""


class TfPoses:
    """Looks up poses in TF, from another thread than the one that spins the node.

    Raises MissingLibraryError if tf2_ros is not installed, with the purpose of TF and the alternative without it.
    """

    def __init__(self, node: Node, purpose: str, remedy: str):
        try:
            tf2_ros = importlib.import_module("tf2_ros")
        except ImportError as error:
            raise MissingLibraryError(
                f"{purpose} needs tf2_ros, which comes with ROS 2: source its setup.bash, or {remedy}"
            ) from error
        self._buffer: Any = tf2_ros.Buffer()
        self._listener: Any = tf2_ros.TransformListener(self._buffer, node)
        self._unknown: Any = tf2_ros.TransformException

    def pose(self, fixed: str, frame: str, stamp_ns: int, wait_s: float) -> np.ndarray:
        """Return [4, 4] `frame` → `fixed`; raise DeviceError with TF's message if it is not known within `wait_s`."""
        wait = Duration(seconds=wait_s)
        if stamp_ns < 0:
            raise DeviceError(
                f"the stamp {stamp_ns / 1e9:.3f} s of frame '{frame}' is negative, which TF does not know"
            )
        try:
            found = self._buffer.lookup_transform(fixed, frame, Time(nanoseconds=stamp_ns), wait).transform
        except self._unknown as error:
            raise DeviceError(str(error).splitlines()[0]) from error
        return pose_matrix(found.translation, found.rotation)

    def clear(self) -> None:
        """Clear the buffer after time jumped back: it would reject the new, older transforms."""
        self._buffer.clear()

    def close(self) -> None:
        """Unsubscribe."""
        self._listener.unregister()


def pose_matrix(translation: Any, rotation: Any) -> np.ndarray:
    """Return [4, 4] of a geometry_msgs translation and unit quaternion."""
    turned = rotation_matrix(rotation.x, rotation.y, rotation.z, rotation.w)
    return transform(turned, (translation.x, translation.y, translation.z))


class TfCameraMotion:
    """Looks up the camera's motion in TF, from another thread than the one that spins the node.

    Args:
        node: Subscribes to /tf and /tf_static.
        fixed_frame: A frame that does not move: odom, map.
        warn: Called with a line if TF does not have the pose of a frame.

    Raises:
        MissingLibraryError: tf2_ros is not installed.
    """

    def __init__(self, node: Node, fixed_frame: str, warn: Callable[[str], None]):
        self._poses = TfPoses(node, "camera_motion 'tf'", "set camera_motion to 'estimate'")
        self._fixed_frame, self._warn = fixed_frame, warn
        self._newest_ns = 0

    def __call__(self, first: RgbdFrame, second: RgbdFrame) -> CameraMotion | None:
        """Return the motion between two frames; None if TF does not have a pose in time."""
        if second.stamp_ns < self._newest_ns:  # a recording that loops
            self._poses.clear()
        self._newest_ns = second.stamp_ns
        try:
            poses = [self._poses.pose(self._fixed_frame, f.frame_id, f.stamp_ns, WAIT_S) for f in (first, second)]
        except DeviceError as error:
            self._warn(f"the camera's motion stays in the flow, TF does not tell it: {error}")
            return None
        return CameraMotion.between(*poses)

    def close(self) -> None:
        """Unsubscribe."""
        self._poses.close()
