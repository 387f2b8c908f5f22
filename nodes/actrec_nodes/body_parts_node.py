"""The base of the nodes that look closer at each person: hands, face."""

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any, TypeVar

from actrec_msgs.msg import SkeletonArray

from actrec.config import setting
from actrec.frames import NANOSECONDS, RgbdFrame
from actrec_nodes import conversions, params, qos, topics
from actrec_nodes.perception_node import PerceptionNode

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True)
class BodyPartsConfig:
    """How skeletons are used."""

    skeleton_max_age_s: float = setting(
        0.5, "Skeletons older than this against the frame do not say where to look.", unit="s", range=(0.0, 10.0)
    )
    skeleton_wait_s: float = setting(
        0.15,
        "How long a frame waits for its own skeletons; a hand sought where it was a frame ago is missed more often.",
        unit="s",
        range=(0.0, 10.0),
    )


_KEPT = 8
"""Skeleton messages remembered: those of the frames that may be waiting."""


class BodyPartsNode(PerceptionNode[ConfigT]):
    """Knows the skeletons of a frame, or the nearest ones in time, while it works on the frame."""

    def __init__(self, name: str, **node_options: Any):
        super().__init__(name, **node_options)
        self._parts_settings = params.declare(self, BodyPartsConfig)
        self._skeletons: Any = None
        self._recent: deque[tuple[int, SkeletonArray]] = deque(maxlen=_KEPT)
        self._arrived = threading.Condition()
        self._max_age_ns, self._wait_s = 0, 0.0

    def activate(self) -> None:
        """Subscribes to skeletons too."""
        settings = self._parts_settings.read()
        self._max_age_ns, self._wait_s = int(settings.skeleton_max_age_s * NANOSECONDS), settings.skeleton_wait_s
        self._recent.clear()
        self._skeletons = self.create_subscription(SkeletonArray, topics.SKELETONS, self._keep, qos.SMALL)
        super().activate()

    def deactivate(self) -> None:
        """Unsubscribes from skeletons too."""
        super().deactivate()
        if self._skeletons is not None:
            self.destroy_subscription(self._skeletons)
            self._skeletons = None

    def look(self, frame: RgbdFrame) -> list[Any]:
        """What is found in a frame, sought where its skeletons say (anywhere, where there are none)."""
        message = self._nearest(frame.stamp_ns)
        bodies = conversions.message_to_bodies(message) if message is not None else []
        return list(self._perception.process(frame, bodies))

    def _nearest(self, stamp_ns: int) -> SkeletonArray | None:
        """The skeletons of that frame, waited for a moment, or the nearest that are not too old."""
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
