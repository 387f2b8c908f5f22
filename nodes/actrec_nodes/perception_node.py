"""The base of the nodes that estimate something in each frame and publish it."""

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from actrec.frames import RgbdFrame
from actrec_nodes import conversions, params, qos
from actrec_nodes.frame_node import FrameNode

ConfigT = TypeVar("ConfigT")


class PerceptionNode(FrameNode[ConfigT]):
    """Every frame worked on gives one message; an empty one where nothing is seen.

    Attributes:
        perception_class: A class of `actrec.perception`; its settings are the node's.
        message_class: What is published on `topic`.
        topic: A name of `actrec_nodes.topics`.
        to_message: Makes the message of what was found and a header.
    """

    perception_class: ClassVar[Any]
    message_class: ClassVar[type]
    topic: ClassVar[str]
    to_message: ClassVar[Callable[..., Any]]

    def __init__(self, name: str, **node_options: Any):
        super().__init__(name, self.perception_class.config_class, **node_options)
        self._perception: Any = None
        self._publisher: Any = None

    def configure(self) -> None:
        """Makes the estimator."""
        self._perception = self.perception_class(**params.as_options(self.config))
        self._publisher = self.create_lifecycle_publisher(self.message_class, self.topic, qos.SMALL)

    def activate(self) -> None:
        """Starts with nobody known."""
        self._perception.reset()
        super().activate()

    def process(self, frame: RgbdFrame) -> None:
        """Estimates and publishes."""
        head = conversions.header(frame.stamp_ns, frame.frame_id)
        self._publisher.publish(type(self).to_message(self.look(frame), head))

    def look(self, frame: RgbdFrame) -> list[Any]:
        """What is found in a frame."""
        return list(self._perception.process(frame))

    def cleanup(self) -> None:
        """Frees the estimator."""
        if self._publisher is not None:
            self.destroy_lifecycle_publisher(self._publisher)
        if self._perception is not None:
            self._perception.close()
        self._publisher = self._perception = None
