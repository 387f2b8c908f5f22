"""The base of the nodes that work on RGB-D frames."""

import posixpath
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from rclpy.node import Node

from actrec.types import RgbdFrame
from actrec.utils.errors import DeviceError
from actrec_nodes.common import parameters, topics
from actrec_nodes.common.lifecycle import ActrecNode
from actrec_nodes.common.synchronizer import Listener, RgbdMessages, SynchronizerConfig, listen

ConfigT = TypeVar("ConfigT")


class FrameNode(ActrecNode[ConfigT]):
    """Subscribes to color, depth and camera_info while active, and calls `process` in a thread with the newest frame.

    The fields of `SynchronizerConfig` are parameters too.
    """

    def __init__(self, name: str, config_class: type[ConfigT], **node_options: Any):
        super().__init__(name, config_class, **node_options)
        self._synchronizer_settings = parameters.declare(self, SynchronizerConfig)
        self._stop_listening: Callable[[], None] | None = None
        self._last_counts = (0, 0)

    @abstractmethod
    def process(self, frame: RgbdFrame) -> None:
        """Process a frame and publish the result, with the frame's stamp."""

    def activate(self) -> None:
        """Subscribe and start the worker."""
        config = self._synchronizer_settings.read()
        worker = self.start_worker(self._work, lambda messages: messages.stamp_ns)
        unpaired = partial(self.statistics.count, "unpaired")
        self._stop_listening = listen(Listener(self, worker.put, self.warn, unpaired), config)
        self._last_counts = (0, 0)
        self.start_timer(config.silence_s, self._on_watchdog)

    def deactivate(self) -> None:
        """Unsubscribe."""
        if self._stop_listening is not None:
            self._stop_listening()
            self._stop_listening = None

    def _work(self, messages: RgbdMessages) -> None:
        self.process(messages.frame(self.warn))

    def _on_watchdog(self) -> None:
        """Report that no images or no camera_info arrive."""
        counts = self.statistics.snapshot()
        images = counts.received + counts.unpaired
        if images == self._last_counts[0]:
            topic = self.resolve_topic_name(topics.COLOR)
            self.fail(DeviceError(f"no image on {topic}: {why_silent(self, topic)}"))
        elif counts.received == self._last_counts[1] and not topics.publishers(self, topics.COLOR_INFO):
            info = self.resolve_topic_name(topics.COLOR_INFO)
            self.fail(DeviceError(f"frames are dropped: no camera_info on {info}, which has no publisher"))
        self._last_counts = images, counts.received


def why_silent(node: Node, topic: str) -> str:
    """Explain why no image arrives on a topic (its resolved name): publishers, and other topics with images."""
    if node.count_publishers(topic):
        return "it has a publisher: is the camera connected? (a recording of joints alone has no images)"
    images = [name for name, types in node.get_topic_names_and_types() if "sensor_msgs/msg/Image" in types]
    # A camera's are called image, image_raw, image_rect, …; scene flow is of that type too.
    named = [name for name in images if name != topic and "image" in posixpath.basename(name)]
    others = sorted(name for name in named if node.count_publishers(name))
    return f"it has no publisher; images are on {', '.join(others)}" if others else "it has no publisher"
