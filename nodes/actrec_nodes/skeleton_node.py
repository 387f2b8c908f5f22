"""Publishes the skeletons of the people in each frame."""

from typing import Any

from actrec_msgs.msg import SkeletonArray

from actrec.perception.pipeline import BodyPerception, BodyPerceptionConfig
from actrec_nodes.bringup import process
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.frame_nodes import PerceptionNode


class SkeletonNode(PerceptionNode[BodyPerceptionConfig]):
    """The node `skeleton_node`."""

    perception_class = BodyPerception
    message_class = SkeletonArray
    topic = topics.SKELETONS
    to_message = conversions.bodies_to_message

    def __init__(self, **node_options: Any):
        super().__init__("skeleton_node", **node_options)


def main() -> int:
    """Entry point of the executable `skeleton_node`."""
    return process.spin(SkeletonNode)
