"""The base of the nodes that work on RGB-D frames."""

from abc import abstractmethod
from functools import partial
from typing import Any, TypeVar

from actrec.types import RgbdFrame
from actrec.utils.errors import DeviceError
from actrec_nodes.common import parameters
from actrec_nodes.common.frame_source import FrameSubscription, Listener
from actrec_nodes.common.lifecycle import ActrecNode
from actrec_nodes.common.synchronizer import RgbdMessages, SynchronizerConfig

ConfigT = TypeVar("ConfigT")


class FrameNode(ActrecNode[ConfigT]):
    """Subscribes to color, depth and camera_info while active, and calls `process` in a thread with the newest frame.

    The fields of `SynchronizerConfig` are parameters too.
    """

    def __init__(self, name: str, config_class: type[ConfigT], **node_options: Any):
        super().__init__(name, config_class, **node_options)
        self._synchronizer_settings = parameters.declare(self, SynchronizerConfig)
        self._frames: FrameSubscription | None = None

    @abstractmethod
    def process(self, frame: RgbdFrame) -> None:
        """Process a frame and publish the result, with the frame's stamp."""

    def activate(self) -> None:
        """Subscribe and start the worker."""
        config = self._synchronizer_settings.read()
        worker = self.start_worker(self._work, lambda messages: messages.stamp_ns)
        unpaired = partial(self.statistics.count, "unpaired")
        self._frames = FrameSubscription(Listener(self, worker.put, self.warn, unpaired), config)
        self.start_timer(config.silence_s, self._on_watchdog)

    def deactivate(self) -> None:
        """Unsubscribe; report why there was no input if there was none."""
        if self._frames is not None:
            if not self.statistics.snapshot().received and not self.last_error:
                self._on_watchdog()
            self._frames.close()
            self._frames = None

    def _work(self, messages: RgbdMessages) -> None:
        self.process(messages.frame(self.warn))

    def _on_watchdog(self) -> None:
        """Report that no images or no camera_info arrive."""
        frames = self._frames
        if frames is not None and (line := frames.silent()):
            self.fail(DeviceError(line))
