"""The base of the nodes that work on RGB-D frames, whose subscriptions the nodes of one process share.

Each frame is received, paired and decoded once.
"""

import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from actrec.types import RgbdFrame
from actrec.utils.calibration_files import rectified
from actrec.utils.config import setting
from actrec.utils.errors import DeviceError
from actrec_nodes.common import parameters, topics
from actrec_nodes.common.conversions import rectified_info
from actrec_nodes.common.lifecycle import ActrecNode
from actrec_nodes.common.participants import Deafness, Renewed
from actrec_nodes.common.subscriptions import SENDS_NOTHING, Kept, Publishers, Subscription, why_silent
from actrec_nodes.common.synchronizer import FirstCamera, RgbdMessages, Synchronizer, SynchronizerConfig

ConfigT = TypeVar("ConfigT")

MIXED_S = 30.0  # time for which images of two cameras arrive until a node subscribes again
FOLLOW_S = 0.25  # interval at which subscribers are counted; distributions after Humble report a new one at once

IMAGE_TOPICS = (
    *topics.CAMERA_TOPICS, topics.SCENE_FLOW, topics.SCENE_FLOW_INFO, topics.SCENE_FLOW_PREVIEW, topics.ANNOTATED_IMAGE,
)  # fmt: skip

KINDS = {topics.COLOR: Image, topics.COLOR_INFO: CameraInfo, topics.DEPTH: Image}


_LOCK = threading.Lock()

_SOURCES: "dict[tuple[object, ...], _Source]" = {}


class FrameSubscription:
    """Passes frames of the topics that a node's remaps name to the node until it is closed.

    The subscriptions of one process to the same topics with the same settings share one set of ROS subscriptions,
    because deserializing an image holds Python's lock.

    Args:
        node: Receives the frames.
        config: The settings.
        emit: Called with each frame, in the thread of the node that holds the ROS subscriptions; must return at once.
        complain, unpaired: See `Synchronizer`.
    """

    def __init__(
        self,
        node: Node,
        config: SynchronizerConfig,
        emit: Callable[[RgbdMessages], None],
        complain: Callable[[str], None],
        unpaired: Callable[[int], None] = lambda number: None,
    ):
        self.node, self.emit, self.complain, self.unpaired = node, emit, complain, unpaired
        self._key = (node.context, config, *(node.resolve_topic_name(name) for name in topics.CAMERA_TOPICS))
        with _LOCK:
            self._source = _SOURCES.setdefault(self._key, _Source(config))
            self._source.add(self)
        self._seen = self._source.counts

    @property
    def images(self) -> int:
        """The number of color images that have arrived."""
        return self._source.counts[topics.COLOR]

    def close(self) -> None:
        """Unsubscribe."""
        with _LOCK:
            if self._source.remove(self):
                _SOURCES.pop(self._key, None)

    def renew(self) -> bool:
        """Subscribe in a DDS participant of its own as well; return False if another node holds the subscriptions."""
        with _LOCK:
            return self._source.renew(self)

    def settle(self) -> None:
        """Close the participant that is not kept after `renew`; to be called several times a second."""
        with _LOCK:
            self._source.settle(self)

    def reopen(self) -> None:
        """Unsubscribe, and subscribe again at the next `settle`."""
        with _LOCK:
            self._source.reopen(self)

    def silent(self) -> str:
        """Return which required topic sent nothing since the last call, and why; empty if none is missing.

        camera_info counts as missing only if it never came.
        """
        before, self._seen = self._seen, self._source.counts
        if self._seen[topics.COLOR] == before[topics.COLOR]:
            line = f"no image on {why(self.node, topics.COLOR)}"
            return f"{line}: is the camera connected, or a recording without images?" if SENDS_NOTHING in line else line
        if not self._seen[topics.COLOR_INFO]:
            return f"color images arrive, but no camera_info on {why(self.node, topics.COLOR_INFO)}"
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
        self._listeners: tuple[FrameSubscription, ...] = ()
        self._subscriptions: Renewed | None = None
        self._synchronizer = Synchronizer(
            config,
            self._emit,
            lambda line: self._listeners[0].complain(line),
            self._unpaired,
            why=lambda name: why(self._listeners[0].node, name),
        )

    def add(self, listener: FrameSubscription) -> None:
        self._listeners += (listener,)
        if len(self._listeners) == 1:
            self._subscribe()

    def remove(self, listener: FrameSubscription) -> bool:
        """Remove a listener, and move its subscriptions to the next one; return whether none is left."""
        held = self._listeners[:1] == (listener,)
        self._listeners = tuple(other for other in self._listeners if other is not listener)
        if held:
            self._unsubscribe()
            if self._listeners:
                self._subscribe()
        return not self._listeners

    def settle(self, listener: FrameSubscription) -> None:
        """Close the participant that is not kept, if the listener's node holds the subscriptions (`Renewed`)."""
        if (subscriptions := self._held_by(listener)) is not None:
            subscriptions.settle()

    def renew(self, listener: FrameSubscription) -> bool:
        """Subscribe in a new participant as well, if the listener's node holds the subscriptions."""
        if (subscriptions := self._held_by(listener)) is None:
            return False
        subscriptions.renew()
        return True

    def reopen(self, listener: FrameSubscription) -> None:
        """Unsubscribe until `settle`, if the listener's node holds the subscriptions."""
        if (subscriptions := self._held_by(listener)) is not None:
            subscriptions.close()

    def _held_by(self, listener: FrameSubscription) -> Renewed | None:
        """Return the subscriptions, if the listener's node holds them."""
        return self._subscriptions if self._listeners[:1] == (listener,) else None

    def _unsubscribe(self) -> None:
        if self._subscriptions is not None:
            self._subscriptions.close()
            self._subscriptions = None

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
        kept = Kept()
        cameras = {name: self._first_camera(name, kept) for name in wanted}  # the same one after `reopen`

        def subscribe(node: Node, is_kept: Callable[[], bool]) -> list[Subscription]:
            made = []
            for name, callback in wanted.items():
                profile = topics.INFO_SUBSCRIBER if name == topics.COLOR_INFO else topics.IMAGE_SUBSCRIBER
                # A latched camera_info says nothing about images.
                is_image = name != topics.COLOR_INFO
                counted = self._counted(name, callback, is_kept if is_image else lambda: True, cameras[name])
                topic = holder.node.resolve_topic_name(name)
                # A latched camera_info may come twice, so its number says nothing about a second camera.
                made.append(
                    Subscription(node, KINDS[name], topic, counted, profile, holder.complain, numbered=is_image)
                )
            return made

        self._subscriptions = Renewed(holder.node, "images", subscribe)

    def _first_camera(self, name: str, kept: Kept) -> FirstCamera:
        return FirstCamera(lambda line: self._listeners[0].complain(f"{name}: {line}"), kept=kept)

    def _counted(
        self, name: str, callback: Callable[[Any], None], is_kept: Callable[[], bool], camera: FirstCamera
    ) -> Callable[[Any], None]:
        def receive(message: Any, number: int = 0) -> None:
            if not is_kept():
                return
            self.counts = {**self.counts, name: self.counts[name] + 1}
            if camera.accepts(message, number):
                callback(message)

        return receive

    def _emit(self, messages: RgbdMessages) -> None:
        for listener in self._listeners:
            listener.emit(messages)

    def _unpaired(self, number: int) -> None:
        for listener in self._listeners:
            listener.unpaired(number)


@dataclass(frozen=True)
class IdleConfig:
    """When a node without subscribers stops its work."""

    idle_after_s: float = setting(
        2.0,
        "Without a subscriber to its topics for this long, a node unsubscribes from its inputs until one comes; "
        "0: it always works.",
        unit="s",
        range=(0.0, 3600.0),
    )


class FrameNode(ActrecNode[ConfigT]):
    """Subscribes to color, depth and camera_info while active, and calls `process` in a thread with the newest frame.

    Without subscribers to its outputs the node is idle: it has no subscriptions either. The fields of
    `SynchronizerConfig` and `IdleConfig` are parameters too.

    Attributes:
        idle: Why the node does no work, for the diagnostics; else empty.
    """

    def __init__(self, name: str, config_class: type[ConfigT], **node_options: Any):
        super().__init__(name, config_class, **node_options)
        self._synchronizer_settings = parameters.Parameters(self, SynchronizerConfig)
        self._idle_settings = parameters.Parameters(self, IdleConfig)
        self._synchronizer_config = SynchronizerConfig()
        self._frames: FrameSubscription | None = None
        self._put: Callable[[Any], None] | None = None  # of the worker, while active
        self._following = threading.RLock()
        self._idle_after_s = self._activated = self._wanted_at = 0.0
        self._deafness = Deafness()
        self._fresh = False
        self.idle = self._second = ""
        self._second_publishers = Publishers(self)
        self._mixed_since: float | None = None  # monotonic seconds: images of two cameras since the last subscription

    @abstractmethod
    def process(self, frame: RgbdFrame) -> None:
        """Process a frame and publish the result, with the frame's stamp."""

    @abstractmethod
    def reset(self) -> None:
        """Forget earlier frames; called before the first frame and after a pause, in the thread of `process`."""

    def activate(self) -> None:
        """Subscribe and start the worker."""
        self._synchronizer_config = config = self._synchronizer_settings.read()
        self._idle_after_s = self._idle_settings.read().idle_after_s
        worker = self.start_worker(self.work, lambda item: item.stamp_ns)
        with self._following:
            self._put, self.idle, self._wanted_at = worker.put, "", time.monotonic()
            self.subscribe()
        self.start_timer(config.silence_s, self._on_watchdog)
        self.start_timer(FOLLOW_S, self.follow_subscribers)

    def deactivate(self) -> None:
        """Unsubscribe; report why there was no input if there was none."""
        with self._following:
            self._put = None
            if self._frames is not None and not self.statistics.snapshot().received and not self.last_error:
                self._on_watchdog()
            self.unsubscribe()

    def subscribe(self) -> None:
        """Subscribe to the inputs: at activation, and when a subscriber ends the idle time."""
        self._fresh, self._activated, self._deafness = True, time.monotonic(), Deafness()
        unpaired = partial(self.statistics.count, "unpaired")
        self._frames = FrameSubscription(self, self._synchronizer_config, self.receive, self.warn, unpaired)

    def unsubscribe(self) -> None:
        """Unsubscribe from the inputs. Safe to call twice."""
        if self._frames is not None:
            self._frames.close()
            self._frames = None

    def receive(self, messages: RgbdMessages) -> None:
        """Pass a frame to the worker; must return at once."""
        self.put(messages)

    def put(self, item: Any) -> None:
        """Pass an input of `work` to the worker, if the node is active."""
        if (put := self._put) is not None:
            put(item)

    def follow_subscribers(self, _: Any = None) -> None:
        """Become idle if no output has had a subscriber for `idle_after_s`; work again when one has.

        Subscribe in another participant as well if images do not arrive although they have a publisher.
        """
        with self._following:
            if self._put is None:
                return
            frames = self._frames
            if frames is not None:
                frames.settle()
                if self._is_mixed_for_long():
                    frames.reopen()
                if self._deafness.update(frames.images, self._sends_nothing) and frames.renew():
                    self.get_logger().info(self._deafness.line("image"))
            now = time.monotonic()
            if any(output.get_subscription_count() for output in self._outputs):
                self._wanted_at = now
                if self.idle:
                    try:
                        self.subscribe()
                    except Exception as error:  # such as a setting without its library: the next call tries again
                        self.unsubscribe()
                        self.fail(error)
                        return
                    self.idle = ""
                    self.get_logger().info("no longer idle: a subscriber came")
            elif not self.idle and 0 < self._idle_after_s <= now - self._wanted_at:
                self.idle = "no subscriber"
                self.get_logger().info("idle: no subscriber; images are not received until one comes")
                self.unsubscribe()

    def figures(self) -> Mapping[str, float | int | str]:
        """Return why the node is idle, empty while it works, and a warning about a second camera."""
        return {"idle": self.idle, "warning": self._second}

    def work(self, item: Any) -> None:
        """Process the messages of a frame, in the worker's thread."""
        if self._fresh:
            self._fresh = False
            self.reset()
        self.process(item.frame(self.warn))

    def _is_mixed_for_long(self) -> bool:
        """Return whether to subscribe again: a second camera has gone, or was there for another `MIXED_S`.

        Fast DDS 2.14 never frees an image that is older than all others in a full queue, as one of a second publisher
        can be, until the subscription ends (`ReaderHistory::received_change`).
        """
        now, since = time.monotonic(), self._mixed_since
        is_due = since is not None and (not self._second or now - since > MIXED_S)
        if not self._second:
            self._mixed_since = None
        elif since is None or is_due:
            self._mixed_since = now
        return is_due

    def _sends_nothing(self) -> bool:
        return SENDS_NOTHING in why(self, topics.COLOR)

    def _on_watchdog(self) -> None:
        """Report that no images or no camera_info arrive."""
        frames = self._frames
        if frames is None:
            return
        images = (topics.COLOR, topics.DEPTH)
        second, before = next(filter(None, map(self._second_publishers.several, images)), ""), self._second
        self._second = second
        if second and second != before:
            self.warn(second)
        line = frames.silent()
        if not line:
            self.end_waiting()
        elif self.statistics.snapshot().received:
            self.fail(DeviceError(line))
        else:
            self.wait_for_input(line, time.monotonic() - self._activated)
