"""Images, people, hands, faces and labels of a running graph, for `actrec view`."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from actrec_msgs.msg import ActionLabel, FaceArray, HandArray, SkeletonArray
from rclpy.node import Node

from actrec.utils.errors import ActrecError, DeviceError
from actrec.visualization.rerun_view import Viewer
from actrec_nodes.bringup.processes import spinning
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.frame_node import FrameSubscription
from actrec_nodes.common.subscriptions import Subscription
from actrec_nodes.common.synchronizer import RgbdMessages, SynchronizerConfig

SILENCE_S = 10.0  # time for the first message

BODIES: dict[str, tuple[type, Callable[[Any], Sequence[Any]]]] = {
    topics.SKELETONS: (SkeletonArray, conversions.message_to_bodies),
    topics.HANDS: (HandArray, conversions.message_to_hands),
    topics.FACE: (FaceArray, conversions.message_to_faces),
}


class ViewNode(Node):
    """Passes messages to a viewer in its callbacks; `received` is whether any has arrived, `frames` the images."""

    def __init__(self, viewer: Viewer, **node_options: Any):
        super().__init__("actrec_view", **node_options)
        self.received = False
        self._viewer = viewer
        self.frames = FrameSubscription(self, SynchronizerConfig(), self._on_frame, self._warn)
        for topic, (kind, read) in BODIES.items():
            Subscription(self, kind, topic, self._bodies_callback(topic, read), topics.SMALL, self._warn)
        Subscription(self, ActionLabel, topics.ACTION_LABEL, self._on_label, topics.SMALL, self._warn)

    def destroy_node(self) -> None:
        """Unsubscribe from images, then destroy the node."""
        self.frames.close()
        super().destroy_node()

    def _bodies_callback(self, topic: str, read: Callable[[Any], Sequence[Any]]) -> Callable[[Any], None]:
        def show(message: Any) -> None:
            with self._guarded():
                self._viewer.bodies(topic, conversions.stamp_to_ns(message.header.stamp), read(message))

        return show

    def _on_frame(self, messages: RgbdMessages) -> None:
        with self._guarded():
            self._viewer.frame(messages.frame(self._warn))

    def _on_label(self, message: ActionLabel) -> None:
        with self._guarded():
            stamp = conversions.stamp_to_ns(message.header.stamp)
            self._viewer.label(stamp, message.body_id, message.label, message.confidence)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Log the error of a bad message, which must not stop the node."""
        self.received = True
        try:
            yield
        except ActrecError as error:
            self._warn(str(error))

    def _warn(self, line: str) -> None:
        self.get_logger().warning(line, throttle_duration_sec=5.0)


def run(viewer: Viewer, stopped: threading.Event, duration_s: float, arguments: Sequence[str] = ()) -> None:
    """Show the running graph for a duration, or for 0 s until `stopped` is set; the caller handles signals.

    Raises DeviceError if nothing is published.
    """
    given = [sys.argv[0], "--ros-args", *(word for word in arguments if word != "--ros-args")]
    with spinning(lambda context: ViewNode(viewer, context=context), given) as node:
        began, passed = time.monotonic(), 0.0
        while not stopped.wait(0.1) and not (duration_s and passed >= duration_s):
            passed = time.monotonic() - began
            if not node.received and passed > min(SILENCE_S, duration_s or SILENCE_S):
                raise DeviceError(
                    f"{node.frames.silent()}, and nothing on the graph's other topics; start the graph first (actrec "
                    "run), or give --driver"
                )
