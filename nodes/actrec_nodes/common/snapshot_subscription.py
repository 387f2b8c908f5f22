"""Subscriptions to the people and labels of the graph, matched with images by stamp, for nodes that show them."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from actrec_msgs.msg import ActionLabel, FaceArray, HandArray, SkeletonArray
from rclpy.node import Node

from actrec.utils import gravity
from actrec.utils.config import setting
from actrec.visualization.overlay import Caption
from actrec.visualization.snapshots import Captions, Matched, Snapshot, SnapshotMatcher
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.subscriptions import Subscription
from actrec_nodes.common.synchronizer import RgbdMessages

VIEWERS = ("visualization_node", "actrec_view")
"""Nodes that show hands and faces only if another node needs them."""

PARTS: dict[str, type] = {topics.HANDS: HandArray, topics.FACE: FaceArray}

AUTO, ALWAYS, NEVER = "auto", "always", "never"


@dataclass(frozen=True)
class SnapshotConfig:
    """What is shown, and how long it is valid."""

    hands_and_face: str = setting(
        AUTO,
        "Show hands and faces: auto shows them if another node subscribes to them, so that showing starts no work; "
        "with always, hand_node and face_node work for it.",
        choices=(AUTO, ALWAYS, NEVER),
    )
    skeleton_wait_s: float = setting(
        0.5, "Wait of an image for its skeletons; then it is shown without.", unit="s", range=(0.0, 10.0)
    )
    label_hold_s: float = setting(2.0, "Time for which a label is shown.", unit="s", range=(0.0, 60.0))


@dataclass
class SnapshotMessages:
    """The messages of a `Snapshot`, converted by `snapshot`."""

    stamp_ns: int
    matched: Matched
    captions: dict[str, Caption]

    @property
    def header(self) -> Any:
        """The header of the skeletons, or of the image."""
        skeletons, images = self.matched.skeletons, self.matched.image
        return images.color.header if skeletons is None else skeletons.header

    def snapshot(self, color: bool = True, rgbd: Callable[[str], None] | None = None) -> Snapshot:
        """Convert the messages.

        Args:
            color: Convert the color image.
            rgbd: Convert the depth image too; called with lines about its faults.
        """
        images: RgbdMessages | None = self.matched.image
        skeletons, parts = self.matched.skeletons, self.matched.parts
        snapshot = Snapshot(self.stamp_ns, captions=self.captions)
        if skeletons is not None:
            snapshot.bodies, snapshot.up = (
                conversions.message_to_bodies(skeletons),
                gravity.up_from_vector(skeletons.up),
            )
        if topics.HANDS in parts:
            snapshot.hands = conversions.message_to_hands(parts[topics.HANDS])
        if topics.FACE in parts:
            snapshot.faces = conversions.message_to_faces(parts[topics.FACE])
        if images is not None and rgbd is not None:
            frame = images.frame(rgbd)
            snapshot.color, snapshot.depth, snapshot.intrinsics = frame.color, frame.depth, frame.intrinsics
        elif images is not None and color:
            snapshot.color = conversions.image_to_color(images.color)
        return snapshot


class SnapshotSubscription:
    """Subscribes to skeletons, hands, faces and labels; images are added by `add_images`.

    Args:
        node: Owns the subscriptions.
        config: The settings.
        emit: Called with each snapshot's messages, in the thread of a callback; must return at once.
        warn: Called with a line about the publishers.
        with_images: Whether images are added.
    """

    def __init__(
        self,
        node: Node,
        config: SnapshotConfig,
        emit: Callable[[SnapshotMessages], None],
        warn: Callable[[str], None],
        with_images: bool = True,
    ):
        self._node, self._config, self._emit, self._warn = node, config, emit, warn
        self._lock = threading.RLock()  # images come in the thread of another node
        self._captions = Captions(config.label_hold_s)
        self._matcher = SnapshotMatcher(self._on_match, config.skeleton_wait_s)
        self._matcher.with_images = with_images
        self._parts: dict[str, Subscription] = {}
        self._subscriptions = [
            Subscription(node, SkeletonArray, topics.SKELETONS, self._on_skeletons, topics.SMALL_SUBSCRIBER, warn),
            Subscription(node, ActionLabel, topics.ACTION_LABEL, self._on_label, topics.SMALL_SUBSCRIBER, warn),
        ]
        self.follow()

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in (*self._subscriptions, *self._parts.values()):
            subscription.close()
        self._parts.clear()

    def show_images(self, shown: bool) -> None:
        """Set whether images are added."""
        with self._lock:
            if shown != self._matcher.with_images:
                self._matcher.with_images = shown
                self._matcher.reset()

    def add_images(self, messages: RgbdMessages) -> None:
        """Add the images of a frame."""
        with self._lock:
            self._matcher.add_image(messages.stamp_ns, messages)

    def advance(self) -> None:
        """Emit images that need not wait longer; call it some ten times a second."""
        with self._lock:
            self._matcher.advance()

    def follow(self) -> None:
        """Subscribe to hands and faces if the settings or another node want them; call it now and then."""
        for topic, kind in PARTS.items():
            mode = self._config.hands_and_face
            wanted = mode == ALWAYS or (mode == AUTO and self._others_subscribe(topic))
            if wanted and topic not in self._parts:
                self._parts[topic] = Subscription(
                    self._node, kind, topic, partial(self._on_part, topic), topics.SMALL_SUBSCRIBER, self._warn
                )
            elif not wanted and topic in self._parts:
                self._parts.pop(topic).close()

    def _others_subscribe(self, topic: str) -> bool:
        name = self._node.resolve_topic_name(topic)
        return any(info.node_name not in VIEWERS for info in self._node.get_subscriptions_info_by_topic(name))

    def _on_match(self, matched: Matched) -> None:
        self._emit(SnapshotMessages(matched.stamp_ns, matched, self._captions.at(matched.stamp_ns)))

    def _on_skeletons(self, message: SkeletonArray) -> None:
        with self._lock:
            self._matcher.add_skeletons(conversions.stamp_of(message), message)

    def _on_part(self, topic: str, message: Any) -> None:
        with self._lock:
            self._matcher.add_part(topic, conversions.stamp_of(message), message)

    def _on_label(self, message: ActionLabel) -> None:
        self._captions.add(conversions.stamp_of(message), message.body_id, Caption(message.label, message.confidence))
