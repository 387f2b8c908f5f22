"""The base of the nodes that work on RGB-D frames.

The base of the nodes that estimate something in each frame and publish it.

The base of the nodes that look closer at each person: hands, face.

Why no image comes on a topic, in words.
"""

import posixpath
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeVar

from actrec_msgs.msg import SkeletonArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from actrec.types import NANOSECONDS, RgbdFrame
from actrec.utils.config import setting
from actrec.utils.errors import DeviceError
from actrec_nodes.common import conversions, parameters, topics
from actrec_nodes.common.lifecycle import ActrecNode
from actrec_nodes.common.synchronizer import Listener, RgbdMessages, SynchroniserConfig, listen
from actrec_nodes.common.worker import Worker


def why(node: Node, topic: str) -> str:
    """Explain why no image comes on a topic: whether it has a publisher, and which other topics have images.

    Args:
        node: Asks the graph.
        topic: Whole and remapped, as `resolve_topic_name` gives it.
    """
    if node.count_publishers(topic):
        return "it has a publisher: is the camera connected? (a recording of joints alone has no images)"
    images = [name for name, types in node.get_topic_names_and_types() if "sensor_msgs/msg/Image" in types]
    # A camera's are called image, image_raw, image_rect, …; scene flow is of that type too.
    named = [name for name in images if name != topic and "image" in posixpath.basename(name)]
    others = sorted(name for name in named if node.count_publishers(name))
    without = "it has no publisher"
    return f"{without}; images are on {', '.join(others)}" if others else without


ConfigT = TypeVar("ConfigT")


class FrameNode(ActrecNode[ConfigT]):
    """Subscribes to color, depth and camera_info while active, and hand the newest frame to `process` in a thread.

    Args:
        name: Node name.
        config_class: The node's settings; the fields of `SynchronizerConfig` are parameters too.
        **node_options: Passed to rclpy.
    """

    def __init__(self, name: str, config_class: type[ConfigT], **node_options: Any):
        super().__init__(name, config_class, **node_options)
        self._synchronizer_settings = parameters.declare(self, SynchroniserConfig)
        self._stop_listening: Callable[[], None] | None = None
        self._worker: Worker[RgbdMessages] | None = None
        self._watch: Any = None
        self._came = self._received = 0

    @abstractmethod
    def process(self, frame: RgbdFrame) -> None:
        """Process a frame and publish the result, with the frame's stamp."""

    def activate(self) -> None:
        """Subscribe and start the worker."""
        config = self._synchronizer_settings.read()
        worker = Worker(self._work, self.fail, self.statistics, age=lambda m: self.age(m.stamp_ns))
        worker.start(self.get_name())
        self._worker = worker
        unpaired = partial(self.statistics.count, "unpaired")
        self._stop_listening = listen(Listener(self, worker.put, self._warn, unpaired), config)
        self._came = self._received = 0
        if config.silence_s > 0:
            # A steady clock: it guards this machine's graph, whatever the simulated clock does.
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._watch = self.create_timer(config.silence_s, self._on_watch, clock=steady)

    def deactivate(self) -> None:
        """Unsubscribes and stop the worker."""
        if self._watch is not None:
            self.destroy_timer(self._watch)
            self._watch = None
        if self._stop_listening is not None:
            self._stop_listening()
            self._stop_listening = None
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def wait_idle(self, timeout_s: float) -> bool:
        """As the base says."""
        worker = self._worker
        return worker is None or worker.wait_idle(timeout_s)

    def _work(self, messages: RgbdMessages) -> None:
        self.process(messages.frame(self._warn))

    def _on_watch(self) -> None:
        """Without images, or camera_info, a node has nothing else to say, and would look well."""
        counts = self.statistics.snapshot()
        came = counts.received + counts.unpaired
        if came == self._came:
            topic = self.resolve_topic_name(topics.COLOR)
            self.fail(DeviceError(f"no image on {topic}: {why(self, topic)}"))
        elif counts.received == self._received and not topics.publishers(self, topics.COLOR_INFO):
            info = self.resolve_topic_name(topics.COLOR_INFO)
            self.fail(DeviceError(f"frames are dropped: no camera_info on {info}, which has no publisher"))
        self._came, self._received = came, counts.received

    def _warn(self, line: str) -> None:
        self.complain(line, "warning")


class PerceptionNode(FrameNode[ConfigT]):
    """Base of nodes that publish one message per processed frame; an empty one if nothing is found.

    Attributes:
        perception_class: A class of `actrec.perception.pipeline`; its settings are the node's.
        message_class: What is published on `topic`.
        topic: A name of `actrec_nodes.common.topics`.
        to_message: Makes the message from the detections and a header.
    """

    perception_class: ClassVar[Any]
    message_class: ClassVar[type]
    topic: ClassVar[str]
    to_message: ClassVar[Callable[..., Any]]

    def __init__(self, name: str, **node_options: Any):
        super().__init__(name, self.perception_class.config_class, **node_options)
        self._perception: Any = None
        self._publisher: Any = None

    def configure(self) -> None:
        """Make the estimator."""
        self._perception = self.perception_class(**parameters.as_options(self.config))
        self._publisher = self.create_lifecycle_publisher(self.message_class, self.topic, topics.SMALL)

    def activate(self) -> None:
        """Reset the perception: no tracked people."""
        self._perception.reset()
        super().activate()

    def process(self, frame: RgbdFrame) -> None:
        """Estimate and publish."""
        head = conversions.header(frame.stamp_ns, frame.frame_id)
        self._publisher.publish(type(self).to_message(self.look(frame), head))

    def look(self, frame: RgbdFrame) -> list[Any]:
        """Return the detections in a frame."""
        return list(self._perception.process(frame))

    def cleanup(self) -> None:
        """Frees the estimator."""
        if self._publisher is not None:
            self.destroy_lifecycle_publisher(self._publisher)
        if self._perception is not None:
            self._perception.close()
        self._publisher = self._perception = None


@dataclass(frozen=True)
class BodyPartsConfig:
    """How skeletons are used."""

    skeleton_max_age_s: float = setting(
        0.5, "Skeletons older than this against the frame do not say where to look.", unit="s", range=(0.0, 10.0)
    )
    skeleton_wait_s: float = setting(
        0.15,
        "How long a frame waits for its own skeletons; with older ones a hand is missed more often.",
        unit="s",
        range=(0.0, 10.0),
    )


_KEPT = 8
"""Skeleton messages remembered: enough for the frames that may be waiting."""


class BodyPartsNode(PerceptionNode[ConfigT]):
    """Knows the skeletons of a frame, or the nearest ones in time, while it works on the frame."""

    def __init__(self, name: str, **node_options: Any):
        super().__init__(name, **node_options)
        self._parts_settings = parameters.declare(self, BodyPartsConfig)
        self._skeletons: Any = None
        self._recent: deque[tuple[int, SkeletonArray]] = deque(maxlen=_KEPT)
        self._arrived = threading.Condition()
        self._max_age_ns, self._wait_s = 0, 0.0

    def activate(self) -> None:
        """Subscribe to skeletons too."""
        settings = self._parts_settings.read()
        self._max_age_ns, self._wait_s = int(settings.skeleton_max_age_s * NANOSECONDS), settings.skeleton_wait_s
        self._recent.clear()
        self._skeletons = self.create_subscription(SkeletonArray, topics.SKELETONS, self._keep, topics.SMALL)
        super().activate()

    def deactivate(self) -> None:
        """Unsubscribes from skeletons too."""
        super().deactivate()
        if self._skeletons is not None:
            self.destroy_subscription(self._skeletons)
            self._skeletons = None

    def look(self, frame: RgbdFrame) -> list[Any]:
        """Return the detections in a frame, near its skeletons (anywhere, if there are none)."""
        message = self._nearest(frame.stamp_ns)
        bodies = conversions.message_to_bodies(message) if message is not None else []
        return list(self._perception.process(frame, bodies))

    def _nearest(self, stamp_ns: int) -> SkeletonArray | None:
        """Return the skeletons of that frame, waited for a moment, or the nearest that are not too old."""
        with self._arrived:
            if topics.publishers(self, topics.SKELETONS):
                # Skeletons of a later frame mean that this one's will not come.
                self._arrived.wait_for(lambda: self._recent and self._recent[-1][0] >= stamp_ns, self._wait_s)
            recent = list(self._recent)
        age, message = min(((abs(stamp_ns - stamp), i) for i, (stamp, _) in enumerate(recent)), default=(0, -1))
        return recent[message][1] if message >= 0 and age <= self._max_age_ns else None

    def _keep(self, message: SkeletonArray) -> None:
        stamp_ns = conversions.stamp_to_ns(message.header.stamp)
        with self._arrived:
            if self._recent and stamp_ns < self._recent[-1][0]:
                self._recent.clear()  # the recording started over
            self._recent.append((stamp_ns, message))
            self._arrived.notify_all()
