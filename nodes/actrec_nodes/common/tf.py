"""Where a frame is in another, as TF tells it.

How the camera moved between two frames, as TF tells it.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time

from actrec.scene_flow.camera_motion import CameraMotion
from actrec.types import RgbdFrame
from actrec.utils.calibration_files import rotation_matrix
from actrec.utils.errors import DeviceError, MissingLibraryError
from actrec_nodes.common.spinning import spinning

ROBOT_WAIT_S = 0.3
"""How long a resting robot's pose is waited for: joint states come at a few Hz and more."""


class TfPoses:
    """Looks poses up in TF, from another thread than the one that spins the node.

    Args:
        node: Listens to /tf and /tf_static.
        wanted: What needs TF, for messages.
        remedy: What does without it, for messages.

    Raises:
        MissingLibraryError: tf2_ros is not here.
    """

    def __init__(self, node: Node, wanted: str, remedy: str):
        try:
            tf2_ros = importlib.import_module("tf2_ros")
        except ImportError as error:
            raise MissingLibraryError(
                f"{wanted} needs tf2_ros, which comes with ROS 2: source its setup.bash, or {remedy}"
            ) from error
        self._buffer: Any = tf2_ros.Buffer()
        self._listener: Any = tf2_ros.TransformListener(self._buffer, node)
        self._unknown: Any = tf2_ros.TransformException

    def pose(self, fixed: str, frame: str, stamp_ns: int, wait_s: float) -> np.ndarray:
        """[4, 4] of `frame` in `fixed`, which carries points of the first into the second.

        Raises:
            DeviceError: TF does not tell it, or not within `wait_s`; the reason is TF's own, in one line.
        """
        wait = Duration(seconds=wait_s)
        try:
            found = self._buffer.lookup_transform(fixed, frame, Time(nanoseconds=stamp_ns), wait).transform
        except self._unknown as error:
            raise DeviceError(str(error).splitlines()[0]) from error
        return pose_matrix(found.translation, found.rotation)

    def forget(self) -> None:
        """Clear the TF buffer after time jumped back: it would reject the new, older transforms."""
        self._buffer.clear()

    def close(self) -> None:
        """Stop listening."""
        self._listener.unregister()


@contextlib.contextmanager
def robot_poses(base: str, gripper: str, arguments: list[str] | None = None) -> Iterator[Callable[[int], np.ndarray]]:
    """Listen to a robot's TF; the caller handles signals.

    Args:
        base: Frame of the robot's base.
        gripper: Frame of its hand.
        arguments: A command line, of which what follows `--ros-args` counts.

    Yields:
        Gives [4, 4] gripper → base at a stamp in nanoseconds; raises DeviceError where TF does not tell it.

    Raises:
        MissingLibraryError: tf2_ros is not here.
    """
    with spinning(lambda context: Node("calibration_poses", context=context), arguments) as node:
        poses = TfPoses(node, "a robot's pose from TF", "give images with --poses FILE")
        yield lambda stamp_ns: poses.pose(base, gripper, stamp_ns, ROBOT_WAIT_S)


def pose_matrix(translation: Any, rotation: Any) -> np.ndarray:
    """[4, 4] of a geometry_msgs translation and unit quaternion."""
    out = np.eye(4)
    out[:3, :3] = rotation_matrix(rotation.x, rotation.y, rotation.z, rotation.w)
    out[:3, 3] = translation.x, translation.y, translation.z
    return out


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
        self._poses = TfPoses(node, "camera_motion 'tf'", "set camera_motion to 'estimate'")
        self._fixed_frame, self._warn = fixed_frame, warn
        self._newest_ns = 0

    def __call__(self, first: RgbdFrame, second: RgbdFrame) -> CameraMotion | None:
        """Return the motion between two frames; None where TF does not reach, or not yet."""
        if second.stamp_ns < self._newest_ns:  # a recording that loops
            self._poses.forget()
        self._newest_ns = second.stamp_ns
        try:
            return CameraMotion.between(self._pose(first), self._pose(second))
        except DeviceError as error:
            self._warn(f"the camera's motion stays in the flow, TF does not tell it: {error}")
            return None

    def close(self) -> None:
        """Stop listening."""
        self._poses.close()

    def _pose(self, frame: RgbdFrame) -> np.ndarray:
        return self._poses.pose(self._fixed_frame, frame.frame_id, frame.stamp_ns, WAIT_S)
