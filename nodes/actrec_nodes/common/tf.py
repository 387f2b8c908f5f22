"""Poses from TF."""

import importlib
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time

from actrec.types import NANOSECONDS
from actrec.utils.calibration_files import rotation_matrix, transform
from actrec.utils.errors import DeviceError, MissingLibraryError

WAIT_S = 0.05  # wait for the camera's pose, because odometry often comes a little after its image
JUMP_NS = NANOSECONDS  # stamps that jump back by more than this are of a recording that starts again


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
        self._newest_ns = 0

    def follow(self, stamp_ns: int) -> None:
        """Notice a recording that loops by a frame's stamp: the buffer would reject the older transforms."""
        if 0 < stamp_ns < self._newest_ns - JUMP_NS:
            self._buffer.clear()
            self._newest_ns = 0
        self._newest_ns = max(stamp_ns, self._newest_ns)

    def pose(self, fixed: str, frame: str, stamp_ns: int, wait_s: float, follows: bool = True) -> np.ndarray:
        """Return [4, 4] `frame` → `fixed`; raise DeviceError with TF's message if it is not known within `wait_s`.

        With `follows`, the stamp is of the newest frame (see `follow`), else it may lie in the past.
        """
        wait = Duration(seconds=wait_s)
        if follows:
            self.follow(stamp_ns)
        if stamp_ns < 0:
            raise DeviceError(
                f"the stamp {stamp_ns / 1e9:.3f} s of frame '{frame}' is negative, which TF does not know"
            )
        try:
            found = self._buffer.lookup_transform(fixed, frame, Time(nanoseconds=stamp_ns), wait).transform
        except self._unknown as error:
            raise DeviceError(str(error).splitlines()[0]) from error
        return pose_matrix(found.translation, found.rotation)

    def close(self) -> None:
        """Unsubscribe."""
        self._listener.unregister()


def pose_matrix(translation: Any, rotation: Any) -> np.ndarray:
    """Return [4, 4] of a geometry_msgs translation and unit quaternion."""
    turned = rotation_matrix(rotation.x, rotation.y, rotation.z, rotation.w)
    return transform(turned, (translation.x, translation.y, translation.z))
