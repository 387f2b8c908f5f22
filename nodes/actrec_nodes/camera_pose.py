"""How the camera moved between two frames, as TF tells it."""

from collections.abc import Callable

import numpy as np
from rclpy.node import Node

from actrec.errors import DeviceError
from actrec.frames import RgbdFrame
from actrec.sceneflow.camera_motion import CameraMotion
from actrec_nodes.tf_poses import TfPoses

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
        """The motion between two frames; None where TF does not reach, or not yet."""
        if second.stamp_ns < self._newest_ns:  # a recording that loops
            self._poses.forget()
        self._newest_ns = second.stamp_ns
        try:
            return CameraMotion.between(self._pose(first), self._pose(second))
        except DeviceError as error:
            self._warn(f"the camera's motion stays in the flow, TF does not tell it: {error}")
            return None

    def close(self) -> None:
        """Stops listening."""
        self._poses.close()

    def _pose(self, frame: RgbdFrame) -> np.ndarray:
        return self._poses.pose(self._fixed_frame, frame.frame_id, frame.stamp_ns, WAIT_S)
