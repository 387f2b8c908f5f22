"""The newest image of one topic, for `actrec calibrate`."""

import contextlib
import posixpath
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from actrec.types import Intrinsics
from actrec.utils.calibration_files import rectified
from actrec.utils.errors import ActrecError, DeviceError, InputError
from actrec_nodes.common import conversions, frame_nodes, topics
from actrec_nodes.common.spinning import spinning

Read = Callable[[float], tuple[int, np.ndarray, Intrinsics | None]]
"""Gives the next image within so many seconds: its stamp in nanoseconds, [H, W, 3] uint8 RGB, and its intrinsics where
the camera_info beside it tells them."""


class ImageTopicNode(Node):
    """Keeps the newest image until it is read.

    Args:
        topic: Of `sensor_msgs/Image` in a color or gray encoding.
        node_options: Passed to rclpy.
    """

    def __init__(self, topic: str, **node_options: Any):
        super().__init__("calibration_images", **node_options)
        self._newest: Image | None = None
        self._intrinsics: Intrinsics | None = None
        self._came = threading.Condition()
        self._subscription = self.create_subscription(Image, topic, self._on_image, topics.IMAGE_SUBSCRIBER)
        name = self._subscription.topic_name
        self._rectified = rectified(name)
        beside = posixpath.join(posixpath.dirname(name), "camera_info")
        self.create_subscription(CameraInfo, beside, self._on_info, topics.IMAGE_SUBSCRIBER)

    def read(self, timeout_s: float) -> tuple[int, np.ndarray, Intrinsics | None]:
        """Return the newest image that has not been read yet.

        Raises:
            DeviceError: No image comes; the message says whether the topic has a publisher.
            InputError: Its encoding is no color or gray one.
        """
        with self._came:
            if not self._came.wait_for(lambda: self._newest is not None, timeout_s):
                topic = self._subscription.topic_name
                raise DeviceError(f"no image came on {topic} within {timeout_s:g} s: {frame_nodes.why(self, topic)}")
            message, self._newest = self._newest, None
        assert message is not None
        return conversions.stamp_to_ns(message.header.stamp), conversions.image_to_color(message), self._intrinsics

    def _on_image(self, message: Image) -> None:
        with self._came:
            self._newest = message
            self._came.notify()

    def _on_info(self, message: CameraInfo) -> None:
        try:
            info = conversions.rectified_info(message) if self._rectified else message
            self._intrinsics = conversions.info_to_intrinsics(info)
        except InputError:  # not calibrated, which may be the reason for this command
            self._intrinsics = None


@contextlib.contextmanager
def images(topic: str, arguments: list[str] | None = None) -> Iterator[Read]:
    """Subscribe; the caller handles signals.

    Args:
        topic: Of the images.
        arguments: A command line, of which what follows `--ros-args` counts.

    Yields:
        Gives the next image.

    Raises:
        DeviceError: The name is none that a topic can have.
    """
    with spinning(lambda context: _node(topic, context), arguments) as node:
        yield node.read


def _node(topic: str, context: Any) -> ImageTopicNode:
    try:
        return ImageTopicNode(topic, context=context)
    except ActrecError:
        raise
    except Exception as error:  # rclpy's own error for a name differs from one distribution to another
        raise DeviceError(f"cannot subscribe to '{topic}': {' '.join(str(error).split())}") from error
