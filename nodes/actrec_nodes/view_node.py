"""Listens to a running graph for `actrec view`: images, people, hands, faces and labels."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from actrec_msgs.msg import ActionLabel, FaceArray, HandArray, SkeletonArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from actrec.utils.errors import ActrecError, ConfigError, DeviceError
from actrec.visualization.rerun_view import Viewer
from actrec_nodes.bringup import transport
from actrec_nodes.common import conversions, synchronizer, topics
from actrec_nodes.common.synchronizer import RgbdMessages, SynchroniserConfig

SILENCE_S = 10.0
"""Where nothing has come for so long since the start, nothing will."""

BODIES: dict[str, tuple[type, Callable[[Any], Sequence[Any]]]] = {
    topics.SKELETONS: (SkeletonArray, conversions.message_to_bodies),
    topics.HANDS: (HandArray, conversions.message_to_hands),
    topics.FACE: (FaceArray, conversions.message_to_faces),
}


class ViewNode(Node):
    """Passes messages to a viewer in its callbacks: it has nothing else to do.

    Args:
        viewer: Shows it.
        **node_options: Passed to rclpy.

    Attributes:
        heard: Whether anything has come.
    """

    def __init__(self, viewer: Viewer, **node_options: Any):
        super().__init__("view_node", **node_options)
        self.heard = False
        self._viewer = viewer
        self.stop = synchronizer.listen(
            synchronizer.Listener(self, self._on_frame, self._complain, lambda number: None), SynchroniserConfig()
        )
        for topic, (kind, read) in BODIES.items():
            self.create_subscription(kind, topic, self._shower(topic, read), topics.SMALL)
        self.create_subscription(ActionLabel, topics.ACTION_LABEL, self._on_label, topics.SMALL)

    def _shower(self, topic: str, read: Callable[[Any], Sequence[Any]]) -> Callable[[Any], None]:
        def show(message: Any) -> None:
            self.heard = True
            with self._said():
                self._viewer.bodies(topic, conversions.stamp_to_ns(message.header.stamp), read(message))

        return show

    def _on_frame(self, messages: RgbdMessages) -> None:
        self.heard = True
        with self._said():
            self._viewer.frame(messages.frame(self._complain))

    def _on_label(self, message: ActionLabel) -> None:
        self.heard = True
        stamp = conversions.stamp_to_ns(message.header.stamp)
        self._viewer.label(stamp, message.body_id, message.label, message.confidence)

    @contextlib.contextmanager
    def _said(self) -> Any:
        """One bad message must not end the looking."""
        try:
            yield
        except ActrecError as error:
            self._complain(str(error))

    def _complain(self, line: str) -> None:
        self.get_logger().warning(line, throttle_duration_sec=5.0)


def run(viewer: Viewer, stopped: threading.Event, duration_s: float, arguments: Sequence[str] = ()) -> None:
    """Join the running graph and shows it; the caller handles signals.

    Args:
        viewer: Shows it.
        stopped: Set it to end.
        duration_s: How long; 0 until it is stopped.
        arguments: For ROS, as after `--ros-args`.

    Raises:
        ConfigError: ROS refuses its arguments.
        DeviceError: Nothing is published.
    """
    transport.prepare()
    context = rclpy.Context()
    given = [sys.argv[0], "--ros-args", *(word for word in arguments if word != "--ros-args")]
    try:
        rclpy.init(args=given, context=context, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:
        raise ConfigError(f"ROS refuses its arguments: {' '.join(str(error).split())}") from error
    node = ViewNode(viewer, context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    began = time.monotonic()
    try:
        while not stopped.is_set():
            executor.spin_once(timeout_sec=0.1)
            passed = time.monotonic() - began
            over = bool(duration_s) and passed >= duration_s
            if not node.heard and (over or passed > SILENCE_S):
                raise DeviceError(
                    f"nothing came on {node.resolve_topic_name(topics.COLOR)} nor on the graph's other topics: start "
                    "the graph first (actrec run), or give --driver"
                )
            if over:
                return
    finally:
        node.stop()
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()
