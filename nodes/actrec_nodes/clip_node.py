"""Listens to a running graph for `actrec record --label`: its skeletons, and where asked its images."""

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any

import rclpy
from actrec_msgs.msg import SkeletonArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image

from actrec.recordings.clip_recorder import Read, Sight
from actrec.recordings.rosbag.reader import stamp_ns
from actrec.recordings.rosbag.writer import SKELETONS_TOPIC, BagWriter
from actrec.utils.errors import DeviceError, InputError
from actrec_nodes.bringup import transport
from actrec_nodes.common import conversions, topics

IMAGES = {
    topics.COLOR: Image,
    topics.COLOR_INFO: CameraInfo,
    topics.DEPTH: Image,
    topics.DEPTH_INFO: CameraInfo,
}

WAITING = 500
"""Sights that may wait for the disk; beyond it the oldest are lost: a quarter of a gigabyte of images and more."""


class TakeNode(Node):
    """Keeps what comes until it is read.

    Args:
        images: Whether to listen to the camera too.
        **node_options: Passed to rclpy.
    """

    def __init__(self, images: bool, **node_options: Any):
        super().__init__("take_node", **node_options)
        self._sights: queue.Queue[Sight] = queue.Queue(WAITING)
        self._subscription = self.create_subscription(
            SkeletonArray, topics.SKELETONS, self._on_skeletons, topics.WINDOW_SUBSCRIBER
        )
        for topic, kind in IMAGES.items() if images else ():
            self._subscribe(topic, kind)

    def read(self, timeout_s: float) -> Sight:
        """The oldest sight that waits.

        Raises:
            DeviceError: Nothing comes.
        """
        try:
            return self._sights.get(timeout=timeout_s)
        except queue.Empty:
            raise DeviceError(
                f"nothing is published on {self._subscription.topic_name}: start the graph first (actrec run) with its "
                "skeleton node, or give --driver"
            ) from None

    def _on_skeletons(self, message: SkeletonArray) -> None:
        stamp, frame_id = conversions.stamp_to_ns(message.header.stamp), message.header.frame_id
        try:
            bodies = conversions.message_to_bodies(message)
        except InputError as error:  # one bad message must not end the listening
            self.get_logger().error(f"skeletons are left out: {error}", throttle_duration_sec=5.0)
            return
        self._put(Sight(stamp, bodies, lambda bag: bag.write_bodies(SKELETONS_TOPIC, stamp, frame_id, bodies)))

    def _subscribe(self, topic: str, kind: type) -> None:
        name, msgtype = f"/{topic}", f"sensor_msgs/msg/{kind.__name__}"

        def keep(raw: bytes) -> None:
            stamp = stamp_ns(raw)

            def write(bag: BagWriter) -> None:
                bag.add_topic(name, msgtype)
                bag.write(name, stamp, raw)

            self._put(Sight(stamp, None, write))

        self.create_subscription(kind, topic, keep, topics.IMAGE_SUBSCRIBER, raw=True)

    def _put(self, sight: Sight) -> None:
        if self._sights.full():
            with contextlib.suppress(queue.Empty):
                self._sights.get_nowait()
        self._sights.put(sight)


@contextlib.contextmanager
def of_graph(images: bool, arguments: list[str] | None = None) -> Iterator[Read]:
    """Joins the running graph; the caller handles signals.

    Args:
        images: Whether a take keeps color and depth too.
        arguments: A command line, of which what follows `--ros-args` counts.

    Yields:
        Gives the next sight; see `actrec.recordings.clip_recorder.Read`.
    """
    transport.prepare()
    context = rclpy.Context()
    rclpy.init(args=arguments, context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = TakeNode(images, context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    stop = threading.Event()

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            while not stop.is_set():
                executor.spin_once(timeout_sec=0.1)

    thread = threading.Thread(target=spin, name="take", daemon=True)
    thread.start()
    try:
        yield node.read
    finally:
        stop.set()
        thread.join()
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()
