"""Publishes the faces of the people in each frame."""

from typing import Any

from actrec_msgs.msg import FaceArray

from actrec.perception.pipeline import FacePerception, FacePerceptionConfig
from actrec_nodes.bringup import process
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.frame_nodes import BodyPartsNode


class FaceNode(BodyPartsNode[FacePerceptionConfig]):
    """The node `face_node`."""

    perception_class = FacePerception
    message_class = FaceArray
    topic = topics.FACE
    to_message = conversions.faces_to_message

    def __init__(self, **node_options: Any):
        super().__init__("face_node", **node_options)


def main() -> int:
    """Entry point of the executable `face_node`."""
    return process.spin(FaceNode)
