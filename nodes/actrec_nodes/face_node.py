"""Publishes the faces of the people in each frame."""

from typing import Any

from actrec_msgs.msg import FaceArray

from actrec.frames import Body, RgbdFrame
from actrec.perception import FacePerception, FacePerceptionConfig
from actrec_nodes import conversions, params, process, qos, topics
from actrec_nodes.body_parts_node import BodyPartsNode


class FaceNode(BodyPartsNode[FacePerceptionConfig]):
    """Every frame worked on gives one message; an empty one where no face is seen."""

    def __init__(self, **node_options: Any):
        super().__init__("face_node", FacePerceptionConfig, **node_options)
        self._perception: FacePerception | None = None
        self._publisher: Any = None

    def configure(self) -> None:
        """Makes the estimator."""
        self._perception = FacePerception(**params.as_options(self.config))
        self._publisher = self.create_lifecycle_publisher(FaceArray, topics.FACE, qos.SMALL)

    def activate(self) -> None:
        """Starts with nobody known."""
        assert self._perception is not None
        self._perception.reset()
        super().activate()

    def look(self, frame: RgbdFrame, bodies: list[Body]) -> None:
        """Estimates, lifts and publishes."""
        assert self._perception is not None
        faces = self._perception.process(frame, bodies)
        self._publisher.publish(conversions.faces_to_message(faces, conversions.header(frame.stamp_ns, frame.frame_id)))

    def cleanup(self) -> None:
        """Frees the estimator."""
        if self._publisher is not None:
            self.destroy_lifecycle_publisher(self._publisher)
        if self._perception is not None:
            self._perception.close()
        self._publisher = self._perception = None


def main() -> int:
    """Entry point of the executable `face_node`."""
    return process.spin(FaceNode)
