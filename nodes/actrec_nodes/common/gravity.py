"""The direction of gravity of a camera from topics and TF."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from geometry_msgs.msg import Vector3Stamped
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Imu

from actrec.types import NANOSECONDS, RgbdFrame
from actrec.utils import gravity
from actrec.utils.config import setting
from actrec.utils.errors import DeviceError, InputError, MissingLibraryError
from actrec.utils.gravity import GravityFilter
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.lifecycle import ActrecNode
from actrec_nodes.common.subscriptions import Subscription
from actrec_nodes.common.tf import WAIT_S, TfPoses

HOLD_S = 1.0
"""Time for which the last direction from TF is used while TF does not know a newer one."""

_IMU_TF = "the accelerometer's place from TF"


@dataclass(frozen=True)
class GravityInputConfig:
    """Where the direction of gravity comes from."""

    gravity_frame: str = setting(
        "",
        "Frame in TF whose z axis points up, such as base_footprint, odom or map: TF then gives the direction of "
        "gravity at each image's stamp, also on a moving head; empty: not from TF.",
    )
    imu: bool = setting(
        False, "Subscribe to camera/imu, the sensor_msgs/Imu of a camera driver's accelerometer; its place is in TF."
    )


class GravityInputs:
    """Adds the direction of gravity to frames: from `camera/up`, TF, or an accelerometer (`gravity.Choice`).

    Raises:
        MissingLibraryError: `gravity_frame` is set, but tf2_ros is not installed.
    """

    def __init__(self, node: ActrecNode[Any], config: GravityInputConfig):
        self._node, self._config = node, config
        self._up: np.ndarray | None = None
        self._measured: np.ndarray | None = None
        self._choice = gravity.Choice(node.get_logger(), announce=False)
        self._tf = TfPoses(node, "gravity_frame", "set gravity_frame to ''") if config.gravity_frame else None
        self._held: tuple[int, np.ndarray] | None = None
        self._failures = 0
        self._optical = ""
        self._filters: dict[str, GravityFilter] = {}
        heard: list[tuple[Any, str, Any, Any]] = [
            (Vector3Stamped, topics.UP, self._keep_up, topics.INFO_SUBSCRIBER),
            (Vector3Stamped, topics.MEASURED_UP, self._keep_measured, topics.INFO_SUBSCRIBER),
        ]
        if config.imu:
            heard.append((Imu, topics.IMU, self._on_imu, qos_profile_sensor_data))
        self._subscriptions = [Subscription(node, *each, node.warn) for each in heard]

    def add_to(self, frame: RgbdFrame) -> RgbdFrame:
        """Return the frame with its direction of gravity and the source; without them if no source knows it."""
        self._optical = frame.frame_id
        filters = self._filters.values()
        measured = self._measured if not filters else next((f.up for f in filters if f.up is not None), None)
        up = self._choice.of({"camera": self._up, "tf": self._from_tf(frame), "accelerometer": measured})
        return replace(frame, up=up, up_source=self._choice.source)

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            subscription.close()
        if self._tf is not None:
            self._tf.close()

    def _from_tf(self, frame: RgbdFrame) -> np.ndarray | None:
        if self._tf is None or not self._config.gravity_frame:  # TF may have an accelerometer's place only
            return None
        if self._held is not None and frame.stamp_ns < self._held[0] - int(HOLD_S * NANOSECONDS):
            self._tf.clear()  # a recording that loops
            self._held = None
        try:
            # After some failures in a row there is no wait, so that a missing transform does not delay all frames.
            wait_s = WAIT_S if self._failures < 10 else 0.0
            pose = self._tf.pose(self._config.gravity_frame, frame.frame_id, frame.stamp_ns, wait_s)
        except DeviceError as error:
            self._failures += 1
            if self._held is not None and frame.stamp_ns - self._held[0] < HOLD_S * NANOSECONDS:
                return self._held[1]
            self._node.warn(
                f"TF does not have the direction of gravity, from '{self._config.gravity_frame}' to "
                f"'{frame.frame_id}' ({error}): set gravity_frame to a frame of this tree whose z axis points up, or "
                "to '' to estimate it"
            )
            return None
        self._failures = 0
        self._held = frame.stamp_ns, gravity.check_up(pose[2, :3])
        return self._held[1]

    def _keep_up(self, message: Vector3Stamped) -> None:
        self._up = self._checked(message, topics.UP)

    def _keep_measured(self, message: Vector3Stamped) -> None:
        self._measured = self._checked(message, topics.MEASURED_UP)

    def _checked(self, message: Vector3Stamped, topic: str) -> np.ndarray | None:
        try:
            return gravity.up_from_vector(message.vector)
        except InputError as error:
            self._node.warn(f"a message on {self._node.resolve_topic_name(topic)} is ignored: {error}")
            return None

    def _on_imu(self, message: Imu) -> None:
        """Add a sample; a gyroscope that measures nothing at all is none (separate topics of both)."""
        frame_id = message.header.frame_id
        if not self._optical or (frame_id not in self._filters and not self._find_place(frame_id)):
            return
        measured, stamp_ns = self._filters[frame_id], conversions.stamp_to_ns(message.header.stamp)
        turn = message.angular_velocity
        if message.angular_velocity_covariance[0] >= 0 and (turn.x or turn.y or turn.z):
            measured.rotate(stamp_ns, np.array([turn.x, turn.y, turn.z]))
        a = message.linear_acceleration
        measured.add(stamp_ns, np.array([a.x, a.y, a.z]))

    def _find_place(self, frame_id: str) -> bool:
        """Make the filter of an accelerometer by its place in TF; return False if that is not known."""
        rotation = np.eye(3)
        if frame_id != self._optical:
            try:
                if self._tf is None:
                    self._tf = TfPoses(self._node, _IMU_TF, "set mount and imu to false")
                rotation = self._tf.pose(self._optical, frame_id, 0, 0.0)[:3, :3]
            except (DeviceError, MissingLibraryError) as error:
                self._node.warn(
                    f"the accelerometer on {self._node.resolve_topic_name(topics.IMU)} is not used, its place is not "
                    f"in TF ({error}): let the camera driver publish its transforms (publish_tf), or set mount"
                )
                return False
        self._filters[frame_id] = GravityFilter(rotation)
        return True
