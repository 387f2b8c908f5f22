"""The recognizer's ears: it subscribes to what its model needs, and knows which of it is silent."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from actrec_msgs.msg import FaceArray, HandArray, SkeletonArray
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from actrec.errors import InputError
from actrec.frames import Body, Intrinsics
from actrec.observations import WORDS
from actrec.recognition import LabelledWindow, Recognizer
from actrec_nodes import conversions, qos, topics


@dataclass(frozen=True)
class Frame:
    """One frame that is in the windows.

    Attributes:
        stamp_ns, frame_id: Of its message.
        endings: What is to be said of bodies that have left.
    """

    stamp_ns: int
    frame_id: str
    endings: list[LabelledWindow]


SOURCES: dict[str, tuple[str, str]] = {
    "bodies": (topics.SKELETONS, "skeleton_node"),
    "hands": (topics.HANDS, "hand_node"),
    "face": (topics.FACE, "face_node"),
    "flow": (topics.SCENE_FLOW, "scene_flow_node"),
    "colour": (topics.COLOUR, "camera_node"),
}
"""Stream to its topic and the node that publishes it."""


class Inputs:
    """Subscriptions to the streams that a recognizer needs; what comes is given to it at once, in the callback.

    Args:
        node: Holds the subscriptions.
        recognizer: Is given what comes.
        on_frame: Called with each frame that is to be labelled.
        on_error: Called with what went wrong with a message.
    """

    def __init__(
        self,
        node: Node,
        recognizer: Recognizer,
        on_frame: Callable[[Frame], None],
        on_error: Callable[[Exception], None],
    ):
        self._node, self._recognizer = node, recognizer
        self._on_frame, self._on_error = on_frame, on_error
        self._subscriptions: dict[str, Any] = {}
        self._opened: dict[str, float] = {}
        self._heard: set[str] = set()
        self._ever_heard: set[str] = set()
        self._intrinsics: Intrinsics | None = None

    # -- subscriptions -------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Subscribes to what the model needs and is not subscribed yet; drops what it does not need."""
        wanted = {name: entry for stream in self._recognizer.streams for name, entry in self._entries(stream).items()}
        if self._recognizer.needs_size:
            wanted[topics.COLOUR_INFO] = (CameraInfo, self._on_size, qos.IMAGE_SUBSCRIBER)
        for name in [name for name in self._subscriptions if name not in wanted]:
            self._node.destroy_subscription(self._subscriptions.pop(name))
        for name, (kind, callback, profile) in wanted.items():
            if name not in self._subscriptions:
                self._opened[name] = time.monotonic()
                self._ever_heard.discard(name)
                self._subscriptions[name] = self._node.create_subscription(
                    kind, name, self._guarded(name, callback), profile
                )

    def close(self) -> None:
        """Unsubscribes from everything."""
        for subscription in self._subscriptions.values():
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _entries(self, stream: str) -> dict[str, tuple[type, Callable[[Any], None], Any]]:
        """Topic to message type, callback and quality of service."""
        subject = stream == self._recognizer.subject
        profile = qos.WINDOW_SUBSCRIBER if subject else qos.SMALL
        if stream == "bodies":
            return {topics.SKELETONS: (SkeletonArray, self._on_skeletons, profile)}
        if stream == "hands":
            return {topics.HANDS: (HandArray, self._on_hands, profile)}
        if stream == "face":
            return {topics.FACE: (FaceArray, self._on_faces, profile)}
        if stream == "colour":
            return {topics.COLOUR: (Image, self._on_colour, qos.IMAGE_SUBSCRIBER)}
        return {
            topics.SCENE_FLOW_INFO: (CameraInfo, self._on_flow_info, qos.IMAGE_SUBSCRIBER),
            topics.SCENE_FLOW: (Image, self._on_flow, qos.IMAGE_SUBSCRIBER),
        }

    def _guarded(self, name: str, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        def receive(message: Any) -> None:
            self._heard.add(name)
            self._ever_heard.add(name)
            try:
                callback(message)
            except Exception as error:  # one bad message must not silence the node, which reports it
                self._on_error(error)

        return receive

    # -- callbacks -----------------------------------------------------------------------------------------------------

    def _on_skeletons(self, message: SkeletonArray) -> None:
        self._frame(message, conversions.message_to_bodies(message))

    def _on_hands(self, message: HandArray) -> None:
        hands = conversions.message_to_hands(message)
        if self._recognizer.subject == "hands":
            self._frame(message, hands)
        else:
            self._recognizer.add_hands(conversions.stamp_to_ns(message.header.stamp), hands)

    def _frame(self, message: SkeletonArray | HandArray, bodies: list[Any]) -> None:
        found: list[Body] = bodies
        stamp_ns = conversions.stamp_to_ns(message.header.stamp)
        endings = self._recognizer.observe(stamp_ns, found)
        self._on_frame(Frame(stamp_ns, message.header.frame_id, endings))

    def _on_faces(self, message: FaceArray) -> None:
        faces = conversions.message_to_faces(message)
        self._recognizer.add_faces(conversions.stamp_to_ns(message.header.stamp), faces)

    def _on_colour(self, message: Image) -> None:
        colour = conversions.image_to_colour(message)
        self._recognizer.add_colour(conversions.stamp_to_ns(message.header.stamp), colour)

    def _on_flow(self, message: Image) -> None:
        if self._intrinsics is None:
            raise InputError(f"scene flow without its camera_info on {self._name(topics.SCENE_FLOW_INFO)} is left out")
        flow = conversions.image_to_flow(message)
        self._recognizer.add_flow(conversions.stamp_to_ns(message.header.stamp), flow, self._intrinsics)

    def _on_flow_info(self, message: CameraInfo) -> None:
        self._intrinsics = conversions.info_to_intrinsics(message)

    def _on_size(self, message: CameraInfo) -> None:
        self._recognizer.set_size(message.width, message.height)

    # -- silence -------------------------------------------------------------------------------------------------------

    def silent(self, startup_s: float) -> dict[str, str]:
        """What has not been heard since the last call, in words, by stream.

        Args:
            startup_s: How long a stream's first message may take after subscribing.
        """
        now, found = time.monotonic(), {}
        for stream in self._recognizer.streams:
            topic, publisher = SOURCES[stream]
            starting = topic not in self._ever_heard and now - self._opened.get(topic, now) < startup_s
            if topic not in self._heard and not starting:
                found[stream] = f"{WORDS[stream]} on {self._name(topic)}: is {publisher} active?"
        self._heard.clear()
        return found

    def _name(self, topic: str) -> str:
        return str(self._node.resolve_topic_name(topic))
