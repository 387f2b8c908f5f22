"""Publishes the hands of the people in each frame."""

from typing import Any

from actrec_msgs.msg import HandArray

from actrec.perception.pipeline import HandPerception, HandPerceptionConfig
from actrec_nodes.bringup import process
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.frame_nodes import BodyPartsNode


class HandNode(BodyPartsNode[HandPerceptionConfig]):
    """The node `hand_node`."""

    perception_class = HandPerception
    message_class = HandArray
    topic = topics.HANDS
    to_message = conversions.hands_to_message

    def __init__(self, **node_options: Any):
        super().__init__("hand_node", **node_options)


def main() -> int:
    """Entry point of the executable `hand_node`."""
    return process.spin(HandNode)
