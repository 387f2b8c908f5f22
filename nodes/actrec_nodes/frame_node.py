"""The base of the nodes that work on RGB-D frames."""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from rclpy.clock import Clock, ClockType

from actrec.errors import DeviceError
from actrec.frames import RgbdFrame
from actrec_nodes import params, silence, topics
from actrec_nodes.lifecycle import ActrecNode
from actrec_nodes.shared_frames import Listener, listen
from actrec_nodes.synchroniser import RgbdMessages, SynchroniserConfig
from actrec_nodes.worker import Worker

ConfigT = TypeVar("ConfigT")


class FrameNode(ActrecNode[ConfigT]):
    """Subscribes to colour, depth and camera_info while active, and hands the newest frame to `process` in a thread.

    Args:
        name: Node name.
        config_class: The node's settings; those of `SynchroniserConfig` are parameters too.
        **node_options: Passed to rclpy.
    """

    def __init__(self, name: str, config_class: type[ConfigT], **node_options: Any):
        super().__init__(name, config_class, **node_options)
        self._synchroniser_settings = params.declare(self, SynchroniserConfig)
        self._stop_listening: Callable[[], None] | None = None
        self._worker: Worker[RgbdMessages] | None = None
        self._watch: Any = None
        self._came = self._received = 0

    @abstractmethod
    def process(self, frame: RgbdFrame) -> None:
        """Works on a frame and publishes what comes of it, with the frame's stamp."""

    def activate(self) -> None:
        """Subscribes and starts the worker."""
        config = self._synchroniser_settings.read()
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
        """Unsubscribes and stops the worker."""
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
            topic = self.resolve_topic_name(topics.COLOUR)
            self.fail(DeviceError(f"no image on {topic}: {silence.why(self, topic)}"))
        elif counts.received == self._received and not topics.publishers(self, topics.COLOUR_INFO):
            info = self.resolve_topic_name(topics.COLOUR_INFO)
            self.fail(DeviceError(f"frames are left out: no camera_info on {info}, nobody publishes it"))
        self._came, self._received = came, counts.received

    def _warn(self, line: str) -> None:
        self.complain(line, "warning")
