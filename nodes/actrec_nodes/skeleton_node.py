"""Publishes the skeletons of the people in each frame."""

from typing import Any

from actrec_msgs.msg import SkeletonArray

from actrec.frames import RgbdFrame
from actrec.perception import BodyPerception, BodyPerceptionConfig
from actrec_nodes import conversions, params, process, qos, topics
from actrec_nodes.frame_node import FrameNode


class SkeletonNode(FrameNode[BodyPerceptionConfig]):
    """Every frame gives one message; an empty one where nobody is seen."""

    def __init__(self, **node_options: Any):
        super().__init__("skeleton_node", BodyPerceptionConfig, **node_options)
        self._perception: BodyPerception | None = None
        self._publisher: Any = None

    def configure(self) -> None:
        """Makes the estimator and the tracker."""
        self._perception = BodyPerception(**params.as_options(self.config))
        self._publisher = self.create_lifecycle_publisher(SkeletonArray, topics.SKELETONS, qos.SMALL)

    def activate(self) -> None:
        """Starts with nobody known."""
        assert self._perception is not None
        self._perception.reset()
        super().activate()

    def process(self, frame: RgbdFrame) -> None:
        """Estimates, lifts, tracks and publishes."""
        assert self._perception is not None
        bodies = self._perception.process(frame)
        self._publisher.publish(
            conversions.bodies_to_message(bodies, conversions.header(frame.stamp_ns, frame.frame_id))
        )

    def cleanup(self) -> None:
        """Frees the estimator."""
        if self._publisher is not None:
            self.destroy_lifecycle_publisher(self._publisher)
        if self._perception is not None:
            self._perception.close()
        self._publisher = self._perception = None


def main() -> int:
    """Entry point of the executable `skeleton_node`."""
    return process.spin(SkeletonNode)
