"""The nodes `skeleton_node`, `hand_node` and `face_node`: RGB-D frames to detections."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
from actrec_msgs.msg import FaceArray, HandArray, SkeletonArray
from geometry_msgs.msg import Vector3Stamped
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Imu

from actrec.perception import pipeline
from actrec.types import NANOSECONDS, RgbdFrame
from actrec.utils import gravity
from actrec.utils.config import setting
from actrec.utils.errors import DeviceError, InputError, MissingLibraryError
from actrec_nodes.common import conversions, parameters, topics
from actrec_nodes.common.frame_node import FrameNode
from actrec_nodes.common.lifecycle import ActrecNode
from actrec_nodes.common.subscriptions import Subscription
from actrec_nodes.common.tf import WAIT_S, TfPoses

ConfigT = TypeVar("ConfigT")

HOLD_S = 1.0  # time for which the last direction from TF is used while TF does not know a newer one

_IMU_TF = "the accelerometer's place from TF"

KEPT = 8  # skeleton messages kept: enough for the frames in the queues


class PerceptionNode(FrameNode[ConfigT]):
    """Base of nodes that publish one message per processed frame, an empty one without detections.

    The settings of `perception_class`, a class of `actrec.perception.pipeline`, are the node's. `to_message` converts
    detections and a header to a message.
    """

    node_name: ClassVar[str]
    perception_class: ClassVar[Any]
    message_class: ClassVar[type]
    topic: ClassVar[str]
    to_message: ClassVar[Callable[..., Any]]

    def __init__(self, **node_options: Any):
        super().__init__(self.node_name, self.perception_class.config_class, **node_options)
        self._perception: Any = None
        self._publisher: Any = None

    def configure(self) -> None:
        """Make the estimator."""
        self._perception = self.perception_class(**parameters.as_options(self.config))
        self._publisher = self.create_output(self.message_class, self.topic)

    def activate(self) -> None:
        """Reset the tracks, then subscribe."""
        self._perception.reset()
        super().activate()

    def process(self, frame: RgbdFrame) -> None:
        """Estimate and publish."""
        head = conversions.header(frame.stamp_ns, frame.frame_id)
        self._publisher.publish(type(self).to_message(self.detect(frame), head, self._perception.up))

    def detect(self, frame: RgbdFrame) -> list[Any]:
        """Return the detections in a frame."""
        return list(self._perception.process(frame))

    def cleanup(self) -> None:
        """Free the estimator."""
        if self._perception is not None:
            self._perception.close()
            self._perception = None


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
    """Adds the direction of gravity to frames: from `camera/up`, TF, or an accelerometer (`gravity.Choice`)."""

    def __init__(self, node: ActrecNode[Any], config: GravityInputConfig):
        self._node, self._config = node, config
        self._up: np.ndarray | None = None
        self._measured: np.ndarray | None = None
        self._choice = gravity.Choice(node.get_logger(), announce=False)
        self._tf = TfPoses(node, "gravity_frame", "set gravity_frame to ''") if config.gravity_frame else None
        self._held: tuple[int, np.ndarray] | None = None
        self._failures = 0
        self._optical = ""
        self._filters: dict[str, gravity.GravityFilter] = {}
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
        try:
            # After some failures in a row there is no wait, so that a missing transform does not delay all frames.
            wait_s = WAIT_S if self._failures < 10 else 0.0
            pose = self._tf.pose(self._config.gravity_frame, frame.frame_id, frame.stamp_ns, wait_s)
        except DeviceError as error:
            self._failures += 1
            if self._held is not None and abs(frame.stamp_ns - self._held[0]) < HOLD_S * NANOSECONDS:
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
        self._filters[frame_id] = gravity.GravityFilter(rotation)
        return True


class SkeletonNode(PerceptionNode[pipeline.BodyPerceptionConfig]):
    """Publishes the skeletons of the people in each frame."""

    node_name = "skeleton_node"
    perception_class = pipeline.BodyPerception
    message_class = SkeletonArray
    topic = topics.SKELETONS
    to_message = conversions.bodies_to_message

    def __init__(self, **node_options: Any):
        super().__init__(**node_options)
        self._gravity_settings = parameters.Parameters(self, GravityInputConfig)
        self._gravity: GravityInputs | None = None

    def activate(self) -> None:
        """Subscribe to the camera's direction of gravity too, which not every camera publishes."""
        self._gravity = GravityInputs(self, self._gravity_settings.read())
        super().activate()

    def deactivate(self) -> None:
        """Unsubscribe."""
        super().deactivate()
        if self._gravity is not None:
            self._gravity.close()
            self._gravity = None

    def detect(self, frame: RgbdFrame) -> list[Any]:
        """Return the bodies in a frame."""
        inputs = self._gravity
        return super().detect(frame if inputs is None else inputs.add_to(frame))

    def figures(self) -> dict[str, float | int | str]:
        """Return the direction of gravity and its source, the size of people by depth, and the warning about it."""
        found = dict(super().figures())
        if (perception := self._perception) is None:
            return {**found, "gravity": "unknown"}
        found |= {"people_size": perception.sizes.size, "warning": perception.sizes.fault}
        if perception.up is None:
            return {**found, "gravity": "unknown"}
        roll, pitch = gravity.angles_from_up(perception.up)
        return {**found, "gravity": perception.gravity.source, "roll_deg": round(roll, 1), "pitch_deg": round(pitch, 1)}


@dataclass(frozen=True)
class BodyPartsConfig:
    """How skeletons are used."""

    skeleton_max_age_s: float = setting(
        0.5, "Greatest distance of stamps at which skeletons are used for a frame.", unit="s", range=(0.0, 10.0)
    )
    skeleton_wait_s: float = setting(
        0.15, "Wait of a frame for its skeletons; older ones cost detections.", unit="s", range=(0.0, 10.0)
    )


class BodyPartsNode(PerceptionNode[ConfigT]):
    """Base of nodes that detect parts of the bodies in the skeletons of a frame, or in the nearest ones in time."""

    def __init__(self, **node_options: Any):
        super().__init__(**node_options)
        self._parts_settings = parameters.Parameters(self, BodyPartsConfig)
        self._recent: deque[tuple[int, SkeletonArray]] = deque(maxlen=KEPT)
        self._arrived = threading.Condition()
        self._max_age_ns, self._wait_s = 0, 0.0
        self._skeletons: Subscription | None = None

    def activate(self) -> None:
        """Subscribe to skeletons too."""
        settings = self._parts_settings.read()
        self._max_age_ns, self._wait_s = int(settings.skeleton_max_age_s * NANOSECONDS), settings.skeleton_wait_s
        self._recent.clear()
        self._skeletons = Subscription(self, SkeletonArray, topics.SKELETONS, self._keep, topics.SMALL, self.warn)
        super().activate()

    def deactivate(self) -> None:
        """Unsubscribe."""
        super().deactivate()
        if self._skeletons is not None:
            self._skeletons.close()
            self._skeletons = None

    def detect(self, frame: RgbdFrame) -> list[Any]:
        """Return the detections in a frame, near its skeletons if there are any."""
        message = self._nearest(frame.stamp_ns)
        bodies = conversions.message_to_bodies(message) if message is not None else []
        if message is not None:
            frame = replace(frame, up=gravity.up_from_vector(message.up))
        return list(self._perception.process(frame, bodies))

    def _nearest(self, stamp_ns: int) -> SkeletonArray | None:
        """Wait for the skeletons of a frame, and return them or the nearest that are not too old."""
        with self._arrived:
            if topics.publishers(self, topics.SKELETONS):
                # After skeletons of a later frame, this one's do not come.
                self._arrived.wait_for(lambda: self._recent and self._recent[-1][0] >= stamp_ns, self._wait_s)
            ages = [(abs(stamp_ns - stamp), message) for stamp, message in self._recent]
        age, nearest = min(ages, key=lambda item: item[0], default=(0, None))
        return nearest if age <= self._max_age_ns else None

    def _keep(self, message: SkeletonArray) -> None:
        stamp_ns = conversions.stamp_to_ns(message.header.stamp)
        with self._arrived:
            if self._recent and stamp_ns < self._recent[-1][0]:
                self._recent.clear()  # the recording started over
            self._recent.append((stamp_ns, message))
            self._arrived.notify_all()


class HandNode(BodyPartsNode[pipeline.HandPerceptionConfig]):
    """Publishes the hands of the people in each frame."""

    node_name = "hand_node"
    perception_class = pipeline.HandPerception
    message_class = HandArray
    topic = topics.HANDS
    to_message = conversions.hands_to_message


class FaceNode(BodyPartsNode[pipeline.FacePerceptionConfig]):
    """Publishes the faces of the people in each frame."""

    node_name = "face_node"
    perception_class = pipeline.FacePerception
    message_class = FaceArray
    topic = topics.FACE
    to_message = conversions.faces_to_message
