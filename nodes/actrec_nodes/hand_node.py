"""Publishes the hands of the people in each frame."""

from typing import Any

from actrec_msgs.msg import HandArray

from actrec.frames import Body, RgbdFrame
from actrec.perception import HandPerception, HandPerceptionConfig
from actrec_nodes import conversions, params, process, qos, topics
from actrec_nodes.body_parts_node import BodyPartsNode


class HandNode(BodyPartsNode[HandPerceptionConfig]):
    """Every frame worked on gives one message; an empty one where no hand is seen."""

    def __init__(self, **node_options: Any):
        super().__init__("hand_node", HandPerceptionConfig, **node_options)
        self._perception: HandPerception | None = None
        self._publisher: Any = None

    def configure(self) -> None:
        """Makes the estimator."""
        self._perception = HandPerception(**params.as_options(self.config))
        self._publisher = self.create_lifecycle_publisher(HandArray, topics.HANDS, qos.SMALL)

    def activate(self) -> None:
        """Starts with nobody known."""
        assert self._perception is not None
        self._perception.reset()
        super().activate()

    def look(self, frame: RgbdFrame, bodies: list[Body]) -> None:
        """Estimates, lifts and publishes."""
        assert self._perception is not None
        hands = self._perception.process(frame, bodies)
        self._publisher.publish(conversions.hands_to_message(hands, conversions.header(frame.stamp_ns, frame.frame_id)))

    def cleanup(self) -> None:
        """Frees the estimator."""
        if self._publisher is not None:
            self.destroy_lifecycle_publisher(self._publisher)
        if self._perception is not None:
            self._perception.close()
        self._publisher = self._perception = None


def main() -> int:
    """Entry point of the executable `hand_node`."""
    return process.spin(HandNode)
