"""The base of the nodes that look closer at each person: hands, face."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

from actrec_msgs.msg import SkeletonArray

from actrec.config import setting
from actrec.frames import NANOSECONDS, Body, RgbdFrame
from actrec_nodes import conversions, params, qos, topics
from actrec_nodes.frame_node import FrameNode

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True)
class BodyPartsConfig:
    """How skeletons are used."""

    skeleton_max_age_s: float = setting(
        0.5, "Skeletons older than this against the frame do not say where to look.", unit="s", range=(0.0, 10.0)
    )


class BodyPartsNode(FrameNode[ConfigT]):
    """Knows the newest skeletons while it works on a frame."""

    def __init__(self, name: str, config_class: type[ConfigT], **node_options: Any):
        super().__init__(name, config_class, **node_options)
        self._parts_settings = params.declare(self, BodyPartsConfig)
        self._skeletons: Any = None
        self._newest: SkeletonArray | None = None
        self._max_age_ns = 0

    @abstractmethod
    def look(self, frame: RgbdFrame, bodies: list[Body]) -> None:
        """Works on a frame, with the newest skeletons (none where they are too old)."""

    def activate(self) -> None:
        """Subscribes to skeletons too."""
        self._max_age_ns = int(self._parts_settings.read().skeleton_max_age_s * NANOSECONDS)
        self._newest = None
        self._skeletons = self.create_subscription(SkeletonArray, topics.SKELETONS, self._keep, qos.SMALL)
        super().activate()

    def deactivate(self) -> None:
        """Unsubscribes from skeletons too."""
        super().deactivate()
        if self._skeletons is not None:
            self.destroy_subscription(self._skeletons)
            self._skeletons = None

    def process(self, frame: RgbdFrame) -> None:
        """Adds the newest skeletons to the frame."""
        newest = self._newest
        age = abs(frame.stamp_ns - conversions.stamp_to_ns(newest.header.stamp)) if newest is not None else None
        fresh = newest is not None and age is not None and age <= self._max_age_ns
        self.look(frame, conversions.message_to_bodies(newest) if fresh else [])

    def _keep(self, message: SkeletonArray) -> None:
        self._newest = message
