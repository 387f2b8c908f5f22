"""One subscription a process: nodes that run together receive, pair and decode each frame once."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from actrec.recordings.intrinsics import rectified
from actrec_nodes import qos, topics
from actrec_nodes.conversions import rectified_info
from actrec_nodes.synchroniser import RgbdMessages, Synchroniser, SynchroniserConfig


@dataclass(frozen=True)
class Listener:
    """A node that wants frames.

    Attributes:
        node: The node; its remaps say which topics.
        emit: Called with each frame, in the thread of whichever listener holds the subscriptions; must return at once.
        complain: Called with a line where the input is degraded.
        unpaired: Called with the number of colour images given up.
    """

    node: Node
    emit: Callable[[RgbdMessages], None]
    complain: Callable[[str], None]
    unpaired: Callable[[int], None]


_LOCK = threading.Lock()
_SOURCES: "dict[tuple[object, ...], _Source]" = {}


def listen(listener: Listener, config: SynchroniserConfig) -> Callable[[], None]:
    """Starts giving frames to a listener.

    Listeners of one process that want the same topics in the same way share their subscriptions: deserialising an image
    holds Python's lock, and once is enough.

    Returns:
        What to call to stop.
    """
    node = listener.node
    key = (node.context, config, *(node.resolve_topic_name(name) for name in topics.CAMERA_TOPICS))
    with _LOCK:
        source = _SOURCES.setdefault(key, _Source(config))
        source.add(listener)

    def stop() -> None:
        with _LOCK:
            if source.remove(listener):
                _SOURCES.pop(key, None)

    return stop


class _Source:
    """The subscriptions behind one or more listeners; the first listener's node holds them."""

    def __init__(self, config: SynchroniserConfig):
        self._config = config
        self._listeners: tuple[Listener, ...] = ()
        self._subscriptions: list[Any] = []

    def add(self, listener: Listener) -> None:
        self._listeners = (*self._listeners, listener)
        if len(self._listeners) == 1:
            self._subscribe()

    def remove(self, listener: Listener) -> bool:
        """Hands the subscriptions on where the listener held them; True where nobody is left."""
        if listener not in self._listeners:
            return not self._listeners
        held = listener is self._listeners[0]
        self._listeners = tuple(other for other in self._listeners if other is not listener)
        if held:
            for subscription in self._subscriptions:
                listener.node.destroy_subscription(subscription)
            self._subscriptions = []
            if self._listeners:
                self._subscribe()
        return not self._listeners

    def _subscribe(self) -> None:
        holder = self._listeners[0]
        synchroniser = Synchroniser(self._config, self._emit, holder.complain, self._unpaired)
        straight = rectified(holder.node.resolve_topic_name(topics.COLOUR))
        wanted = [
            (Image, topics.COLOUR, synchroniser.add_colour),
            (CameraInfo, topics.COLOUR_INFO, lambda m: synchroniser.add_info(rectified_info(m) if straight else m)),
        ]
        if self._config.use_depth:
            wanted.append((Image, topics.DEPTH, synchroniser.add_depth))
        self._subscriptions = [
            holder.node.create_subscription(kind, name, callback, qos.IMAGE_SUBSCRIBER)
            for kind, name, callback in wanted
        ]

    def _emit(self, messages: RgbdMessages) -> None:
        for listener in self._listeners:
            listener.emit(messages)

    def _unpaired(self, number: int) -> None:
        for listener in self._listeners:
            listener.unpaired(number)
