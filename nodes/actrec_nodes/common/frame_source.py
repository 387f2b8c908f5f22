"""Frames of a node: its subscriptions to color, depth and camera_info, which the nodes of one process share.

Each frame is received, paired and decoded once.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from actrec.utils.calibration_files import rectified
from actrec_nodes.common import topics
from actrec_nodes.common.conversions import rectified_info
from actrec_nodes.common.subscriptions import SENDS_NOTHING, Subscription, why_silent
from actrec_nodes.common.synchronizer import RgbdMessages, Synchronizer, SynchronizerConfig

IMAGE_TOPICS = (*topics.CAMERA_TOPICS, topics.SCENE_FLOW, topics.SCENE_FLOW_INFO, topics.SCENE_FLOW_PREVIEW)

KINDS = {topics.COLOR: Image, topics.COLOR_INFO: CameraInfo, topics.DEPTH: Image}


@dataclass(frozen=True)
class Listener:
    """A node that receives frames, of the topics that its remaps name.

    `emit` is called in the thread of the listener that holds the subscriptions, and must return at once. For the other
    callbacks see `Synchronizer`.
    """

    node: Node
    emit: Callable[[RgbdMessages], None]
    complain: Callable[[str], None]
    unpaired: Callable[[int], None]


_LOCK = threading.Lock()

_SOURCES: "dict[tuple[object, ...], _Source]" = {}


class FrameSubscription:
    """Passes frames to a listener until it is closed.

    The listeners of one process to the same topics with the same settings share their subscriptions, because
    deserializing an image holds Python's lock.
    """

    def __init__(self, listener: Listener, config: SynchronizerConfig):
        node = listener.node
        self._listener = listener
        self._key = (node.context, config, *(node.resolve_topic_name(name) for name in topics.CAMERA_TOPICS))
        with _LOCK:
            self._source = _SOURCES.setdefault(self._key, _Source(config))
            self._source.add(listener)
        self._seen = self._source.counts

    def close(self) -> None:
        """Unsubscribe."""
        with _LOCK:
            if self._source.remove(self._listener):
                _SOURCES.pop(self._key, None)

    def silent(self) -> str:
        """Return which required topic sent nothing since the last call, and why; empty if none is missing.

        camera_info counts as missing only if it never came.
        """
        before, self._seen = self._seen, self._source.counts
        if self._seen[topics.COLOR] == before[topics.COLOR]:
            line = f"no image on {why(self._listener.node, topics.COLOR)}"
            return f"{line}: is the camera connected, or a recording without images?" if SENDS_NOTHING in line else line
        if not self._seen[topics.COLOR_INFO]:
            return f"color images arrive, but no camera_info on {why(self._listener.node, topics.COLOR_INFO)}"
        return ""


def why(node: Node, name: str) -> str:
    """Return the resolved name of one of `KINDS`, and why nothing comes on it."""
    topic = node.resolve_topic_name(name)
    return f"{topic}: {why_silent(node, topic, KINDS[name], IMAGE_TOPICS)}"


class _Source:
    """The subscriptions behind one or more listeners; the first listener's node holds them.

    `counts` is the number of messages by topic; each update replaces it.
    """

    def __init__(self, config: SynchronizerConfig):
        self.counts = dict.fromkeys(KINDS, 0)
        self._config = config
        self._listeners: tuple[Listener, ...] = ()
        self._subscriptions: list[Subscription] = []
        self._synchronizer = Synchronizer(
            config,
            self._emit,
            lambda line: self._listeners[0].complain(line),
            self._unpaired,
            why=lambda name: why(self._listeners[0].node, name),
        )

    def add(self, listener: Listener) -> None:
        self._listeners += (listener,)
        if len(self._listeners) == 1:
            self._subscribe()

    def remove(self, listener: Listener) -> bool:
        """Remove a listener, and move its subscriptions to the next one; return whether none is left."""
        held = self._listeners[:1] == (listener,)
        self._listeners = tuple(other for other in self._listeners if other is not listener)
        if held:
            while self._subscriptions:
                self._subscriptions.pop().close()
            if self._listeners:
                self._subscribe()
        return not self._listeners

    def _subscribe(self) -> None:
        holder, synchronizer = self._listeners[0], self._synchronizer
        straight = rectified(holder.node.resolve_topic_name(topics.COLOR))
        synchronizer.reset()
        wanted: dict[str, Callable[[Any], None]] = {
            topics.COLOR_INFO: lambda m: synchronizer.add_info(rectified_info(m) if straight else m),
            topics.COLOR: synchronizer.add_color,
            topics.DEPTH: synchronizer.add_depth,
        }
        if not self._config.use_depth:
            del wanted[topics.DEPTH]
        for name, callback in wanted.items():
            profile = topics.INFO_SUBSCRIBER if name == topics.COLOR_INFO else topics.IMAGE_SUBSCRIBER
            counted = self._counted(name, callback)
            self._subscriptions.append(Subscription(holder.node, KINDS[name], name, counted, profile, holder.complain))

    def _counted(self, name: str, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        def receive(message: Any) -> None:
            self.counts = {**self.counts, name: self.counts[name] + 1}
            callback(message)

        return receive

    def _emit(self, messages: RgbdMessages) -> None:
        for listener in self._listeners:
            listener.emit(messages)

    def _unpaired(self, number: int) -> None:
        for listener in self._listeners:
            listener.unpaired(number)
