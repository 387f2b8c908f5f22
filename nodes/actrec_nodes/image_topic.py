"""Images of one topic for `actrec calibrate`: the newest, whoever publishes it."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from actrec.errors import ActrecError, DeviceError
from actrec_nodes import conversions, qos, transport

Read = Callable[[float], tuple[int, np.ndarray]]
"""Gives the next image within so many seconds: its stamp in nanoseconds, and [H, W, 3] uint8 RGB."""


class ImageTopicNode(Node):
    """Keeps the newest image until it is read.

    Args:
        topic: Of `sensor_msgs/Image` in a colour or grey encoding.
        node_options: Passed to rclpy.
    """

    def __init__(self, topic: str, **node_options: Any):
        super().__init__("calibration_images", **node_options)
        self._newest: Image | None = None
        self._came = threading.Condition()
        self._subscription = self.create_subscription(Image, topic, self._on_image, qos.IMAGE_SUBSCRIBER)

    def read(self, timeout_s: float) -> tuple[int, np.ndarray]:
        """The newest image that has not been read yet.

        Raises:
            DeviceError: None comes; says whether somebody publishes it.
            InputError: Its encoding is no colour or grey one.
        """
        with self._came:
            if not self._came.wait_for(lambda: self._newest is not None, timeout_s):
                raise DeviceError(self._silence(timeout_s))
            message, self._newest = self._newest, None
        assert message is not None
        return conversions.stamp_to_ns(message.header.stamp), conversions.image_to_colour(message)

    def _on_image(self, message: Image) -> None:
        with self._came:
            self._newest = message
            self._came.notify()

    def _silence(self, timeout_s: float) -> str:
        name = self._subscription.topic_name
        if self.count_publishers(name):
            return f"no image came on {name} within {timeout_s:g} s though it has a publisher: is the camera connected?"
        images = [topic for topic, types in self.get_topic_names_and_types() if "sensor_msgs/msg/Image" in types]
        others = sorted(topic for topic in images if topic != name and self.count_publishers(topic))
        there = f"; images are on {', '.join(others)}" if others else ""
        return f"nobody publishes {name}{there}: start the camera (ros2 launch actrec camera.launch.py)"


@contextlib.contextmanager
def images(topic: str, arguments: list[str] | None = None) -> Iterator[Read]:
    """Subscribes; the caller handles signals.

    Args:
        topic: Of the images.
        arguments: A command line, of which what follows `--ros-args` counts.

    Yields:
        Gives the next image.

    Raises:
        DeviceError: The name is none that a topic can have.
    """
    transport.prepare()
    context = rclpy.Context()
    rclpy.init(args=arguments, context=context, signal_handler_options=SignalHandlerOptions.NO)
    stop = threading.Event()
    with contextlib.ExitStack() as held:
        held.callback(context.try_shutdown)
        node = _node(topic, context)
        held.callback(node.destroy_node)
        executor = SingleThreadedExecutor(context=context)
        held.callback(executor.shutdown)
        executor.add_node(node)

        def spin() -> None:
            with contextlib.suppress(ExternalShutdownException):
                while not stop.is_set():
                    executor.spin_once(timeout_sec=0.1)

        thread = threading.Thread(target=spin, name="images", daemon=True)
        thread.start()
        held.callback(thread.join)
        held.callback(stop.set)
        yield node.read


def _node(topic: str, context: Any) -> ImageTopicNode:
    try:
        return ImageTopicNode(topic, context=context)
    except ActrecError:
        raise
    except Exception as error:  # rclpy's own error for a name differs from one distribution to another
        raise DeviceError(f"cannot subscribe to '{topic}': {' '.join(str(error).split())}") from error
