"""The nodes `skeleton_node`, `hand_node` and `face_node`: RGB-D frames to detections."""

import dataclasses
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from actrec_msgs.msg import FaceArray, HandArray, SkeletonArray

from actrec.perception import pipeline
from actrec.types import NANOSECONDS, RgbdFrame
from actrec.utils import gravity
from actrec.utils.config import setting
from actrec_nodes.common import conversions, parameters, topics
from actrec_nodes.common.frame_node import FrameNode
from actrec_nodes.common.gravity import GravityInputConfig, GravityInputs
from actrec_nodes.common.subscriptions import Subscription

ConfigT = TypeVar("ConfigT")

KEPT = 8
"""Skeleton messages kept: enough for the frames in the queues."""


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
        self._listening: list[Subscription] = []

    def configure(self) -> None:
        """Make the estimator."""
        self._perception = self.perception_class(**parameters.as_options(self.config))
        self._publisher = self.create_output(self.message_class, self.topic)

    def activate(self) -> None:
        """Reset the tracks, then subscribe."""
        self._perception.reset()
        super().activate()

    def deactivate(self) -> None:
        """Unsubscribe."""
        super().deactivate()
        while self._listening:
            self._listening.pop().close()

    def listen(self, kind: type, topic: str, callback: Callable[[Any], None], profile: Any) -> None:
        """Subscribe until the node is deactivated."""
        self._listening.append(Subscription(self, kind, topic, callback, profile, self.warn))

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


class SkeletonNode(PerceptionNode[pipeline.BodyPerceptionConfig]):
    """Publishes the skeletons of the people in each frame."""

    node_name = "skeleton_node"
    perception_class = pipeline.BodyPerception
    message_class = SkeletonArray
    topic = topics.SKELETONS
    to_message = conversions.bodies_to_message

    def __init__(self, **node_options: Any):
        super().__init__(**node_options)
        self._gravity_settings = parameters.declare(self, GravityInputConfig)
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
        return {**found, "gravity": perception.up_source, "roll_deg": round(roll, 1), "pitch_deg": round(pitch, 1)}


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
        self._parts_settings = parameters.declare(self, BodyPartsConfig)
        self._recent: deque[tuple[int, SkeletonArray]] = deque(maxlen=KEPT)
        self._arrived = threading.Condition()
        self._max_age_ns, self._wait_s = 0, 0.0

    def activate(self) -> None:
        """Subscribe to skeletons too."""
        settings = self._parts_settings.read()
        self._max_age_ns, self._wait_s = int(settings.skeleton_max_age_s * NANOSECONDS), settings.skeleton_wait_s
        self._recent.clear()
        self.listen(SkeletonArray, topics.SKELETONS, self._keep, topics.SMALL)
        super().activate()

    def detect(self, frame: RgbdFrame) -> list[Any]:
        """Return the detections in a frame, near its skeletons if there are any."""
        message = self._nearest(frame.stamp_ns)
        bodies = conversions.message_to_bodies(message) if message is not None else []
        if message is not None:
            frame = dataclasses.replace(frame, up=gravity.up_from_vector(message.up))
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
