"""Subscriptions of the recognizer node to the streams that its model takes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from actrec_msgs.msg import FaceArray, HandArray, SkeletonArray
from sensor_msgs.msg import CameraInfo, Image

from actrec.recognition import ActionPrediction, ActionRecognizer
from actrec.recognition.recognizer import STREAM_NAMES
from actrec.types import Intrinsics
from actrec.utils.errors import InputError
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.lifecycle import ActrecNode
from actrec_nodes.common.worker import Worker


@dataclass(frozen=True)
class Frame:
    """A frame that was added to the windows.

    Attributes:
        stamp_ns, frame_id: From the header of its message.
        ended: Last predictions of the bodies whose tracks have ended.
    """

    stamp_ns: int
    frame_id: str
    ended: list[ActionPrediction]


SOURCES: dict[str, tuple[str, str]] = {
    "bodies": (topics.SKELETONS, "skeleton_node"),
    "hands": (topics.HANDS, "hand_node"),
    "face": (topics.FACE, "face_node"),
    "flow": (topics.SCENE_FLOW, "scene_flow_node"),
    "color": (topics.COLOR, "camera_node"),
}
"""Stream to its topic and the node that publishes it."""


class RecognizerInputs:
    """Subscriptions to the streams that a recognizer takes; messages are added to it in the callback.

    Args:
        node: Owns the subscriptions; errors are reported to it.
        recognizer: Receives the messages.
        worker: Receives each frame that is to be labeled.

    Attributes:
        newest: The newest frame.
    """

    def __init__(self, node: ActrecNode[Any], recognizer: ActionRecognizer, worker: Worker[Frame]):
        self._node, self._recognizer, self._worker = node, recognizer, worker
        self._subscriptions: dict[str, Any] = {}
        self._opened: dict[str, float] = {}
        self._received: set[str] = set()
        self._ever_received: set[str] = set()
        self._intrinsics: Intrinsics | None = None
        self.newest: Frame | None = None

    # -- subscriptions -------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Subscribe to the streams that the model takes, and unsubscribe from all others."""
        wanted = {name: entry for stream in self._recognizer.streams for name, entry in self._entries(stream).items()}
        if self._recognizer.needs_image_size:
            wanted[topics.COLOR_INFO] = (CameraInfo, self._on_color_info, topics.IMAGE_SUBSCRIBER)
        for name in [name for name in self._subscriptions if name not in wanted]:
            self._node.destroy_subscription(self._subscriptions.pop(name))
        for name, (kind, callback, profile) in wanted.items():
            if name not in self._subscriptions:
                self._opened[name] = time.monotonic()
                self._ever_received.discard(name)
                self._subscriptions[name] = self._node.create_subscription(
                    kind, name, self._guarded(name, callback), profile
                )

    def close(self) -> None:
        """Unsubscribe from everything."""
        for subscription in self._subscriptions.values():
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _entries(self, stream: str) -> dict[str, tuple[type, Callable[[Any], None], Any]]:
        """Return the message type, callback and QoS of each topic of a stream."""
        profile = topics.WINDOW_SUBSCRIBER if stream == self._recognizer.tracked_stream else topics.SMALL
        if stream == "bodies":
            return {topics.SKELETONS: (SkeletonArray, self._on_skeletons, profile)}
        if stream == "hands":
            return {topics.HANDS: (HandArray, self._on_hands, profile)}
        if stream == "face":
            return {topics.FACE: (FaceArray, self._on_faces, profile)}
        if stream == "color":
            return {topics.COLOR: (Image, self._on_color, topics.IMAGE_SUBSCRIBER)}
        return {
            topics.SCENE_FLOW_INFO: (CameraInfo, self._on_flow_info, topics.IMAGE_SUBSCRIBER),
            topics.SCENE_FLOW: (Image, self._on_flow, topics.IMAGE_SUBSCRIBER),
        }

    def _guarded(self, name: str, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        def receive(message: Any) -> None:
            self._received.add(name)
            self._ever_received.add(name)
            try:
                callback(message)
            except Exception as error:  # one bad message must not stop the node, which reports it
                self._node.statistics.count("received")
                self._node.statistics.count("failed")
                self._node.fail(error)

        return receive

    # -- callbacks -----------------------------------------------------------------------------------------------------

    def _on_skeletons(self, message: SkeletonArray) -> None:
        bodies = conversions.message_to_bodies(message)
        self._put(message, self._recognizer.add_skeletons(conversions.stamp_to_ns(message.header.stamp), bodies))

    def _on_hands(self, message: HandArray) -> None:
        hands = conversions.message_to_hands(message)
        ended = self._recognizer.add_hands(conversions.stamp_to_ns(message.header.stamp), hands)
        if self._recognizer.tracked_stream == "hands":
            self._put(message, ended)

    def _put(self, message: SkeletonArray | HandArray, ended: list[ActionPrediction]) -> None:
        header = message.header
        self.newest = Frame(conversions.stamp_to_ns(header.stamp), header.frame_id, ended)
        self._worker.put(self.newest)

    def _on_faces(self, message: FaceArray) -> None:
        faces = conversions.message_to_faces(message)
        self._recognizer.add_faces(conversions.stamp_to_ns(message.header.stamp), faces)

    def _on_color(self, message: Image) -> None:
        color = conversions.image_to_color(message)
        self._recognizer.add_color(conversions.stamp_to_ns(message.header.stamp), color)

    def _on_color_info(self, message: CameraInfo) -> None:
        self._recognizer.set_image_size(message.width, message.height)

    def _on_flow(self, message: Image) -> None:
        if self._intrinsics is None:
            topic = self._topic(topics.SCENE_FLOW_INFO)
            raise InputError(f"scene flow is ignored: no camera_info on {topic} so far; check its publisher")
        flow = conversions.image_to_flow(message)
        self._recognizer.add_scene_flow(conversions.stamp_to_ns(message.header.stamp), flow, self._intrinsics)

    def _on_flow_info(self, message: CameraInfo) -> None:
        self._intrinsics = conversions.info_to_intrinsics(message)

    # -- silent streams ------------------------------------------------------------------------------------------------

    def silent(self, startup_s: float) -> dict[str, str]:
        """Return the streams without a message since the last call, each with a message to the user.

        Args:
            startup_s: Time allowed for a stream's first message after subscribing.
        """
        now, found = time.monotonic(), {}
        for stream in self._recognizer.streams:
            topic, publisher = SOURCES[stream]
            starting = topic not in self._ever_received and now - self._opened.get(topic, now) < startup_s
            if topic not in self._received and not starting:
                found[stream] = f"{STREAM_NAMES[stream]} on {self._topic(topic)}: is {publisher} active?"
        self._received.clear()
        return found

    def _topic(self, topic: str) -> str:
        return str(self._node.resolve_topic_name(topic))
