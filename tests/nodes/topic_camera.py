"""A camera that publishes images of a board, for commands that subscribe to a topic."""

import threading
import time

import numpy as np
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from actrec.types import Intrinsics
from actrec_nodes.common import conversions, topics

TOPIC = "some_camera/image"


class TopicCamera:
    """A thread that publishes `image`, or images with a counter as first value, at 20 Hz.

    Attributes:
        lens: Intrinsics that are published as camera_info, if given.
    """

    def __init__(
        self, encoding: str = "rgb8", image: np.ndarray | None = None, topic: str = TOPIC, stamped: bool = True
    ):
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = Node("some_camera", context=self.context)
        self._publisher = self.node.create_publisher(Image, topic, topics.IMAGE_PUBLISHER)
        self._info = self.node.create_publisher(CameraInfo, "some_camera/camera_info", topics.IMAGE_PUBLISHER)
        self.lens: Intrinsics | None = None
        self._encoding, self.image, self._stamped = encoding, image, stamped
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        sent = 0
        while not self._stop.wait(0.05):
            color = np.full((48, 64, 3), 7, np.uint8) if self.image is None else self.image
            if self.image is None:
                color[..., 0] = sent % 256
            stamp_ns = 1000 + sent if self.image is None else time.time_ns()
            message = conversions.color_to_image(color, conversions.header(stamp_ns if self._stamped else 0, "lens"))
            message.encoding = self._encoding
            if self._encoding == "mono16":
                message.data, message.step = color[..., :2].tobytes(), 2 * message.width
            self._publisher.publish(message)
            if self.lens is not None:
                self._info.publish(conversions.intrinsics_to_info(self.lens, message.header))
            sent += 1

    def stop(self):
        self._stop.set()
        self._thread.join()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)
