"""Images of one topic and a robot's poses from TF, for `actrec calibrate`."""

import contextlib
import posixpath
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from actrec.recordings import image_decoding
from actrec.types import Intrinsics
from actrec.utils.calibration_files import rectified
from actrec.utils.errors import DeviceError, InputError
from actrec.utils.waiting import Waiting
from actrec_nodes.bringup.processes import spinning
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.subscriptions import Subscription, why_silent
from actrec_nodes.common.tf import TfPoses

INFRARED_ENCODINGS = ("mono16", "16UC1")
TF_STEP_S = 0.05  # between looks for the first pose
ROBOT_WAIT_S = 0.3  # wait for a resting robot's pose: joint states come at a few Hz and more


class ImageTopicNode(Node):
    """Keeps the newest image of a topic until it is read; raises DeviceError for an invalid name."""

    def __init__(self, topic: str, **node_options: Any):
        super().__init__("calibration_images", **node_options)
        self._newest: tuple[int, Image] | None = None
        self._intrinsics: Intrinsics | None = None
        self._received = threading.Condition()
        try:
            self._subscription = self.create_subscription(Image, topic, self._on_image, topics.IMAGE_SUBSCRIBER)
        except Exception as error:  # rclpy's error for a name differs between distributions
            self.destroy_node()
            raise DeviceError(f"cannot subscribe to '{topic}': {' '.join(str(error).split())}") from error
        name = self._subscription.topic_name
        self._rectified = rectified(name)
        info = posixpath.join(posixpath.dirname(name), "camera_info")
        Subscription(self, CameraInfo, info, self._on_info, topics.INFO_SUBSCRIBER)

    def wait(self, waiting: Waiting) -> None:
        """Wait for the first image."""
        topic = self._subscription.topic_name
        waiting.until(
            lambda: self._newest is not None,
            f"image on {topic}",
            lambda: why_silent(self, topic, Image, ()),
            "start the camera's node first (actrec run --nodes camera), or give --driver",
        )

    def read(self, timeout_s: float) -> tuple[int, np.ndarray, Intrinsics | None]:
        """Return the next image: stamp in nanoseconds, [H, W, 3] uint8 RGB, and intrinsics if its camera_info has them.

        Raises:
            DeviceError: No image arrives; the message says whether the topic has a publisher.
            InputError: Its encoding is no color, gray or infrared one.
        """
        with self._received:
            if not self._received.wait_for(lambda: self._newest is not None, timeout_s):
                topic = self._subscription.topic_name
                raise DeviceError(
                    f"no image came on {topic} within {timeout_s:g} s: {why_silent(self, topic, Image, ())}"
                )
            newest, self._newest = self._newest, None
        assert newest is not None
        stamp_ns, message = newest
        if message.encoding in INFRARED_ENCODINGS:
            color = image_decoding.infrared(image_decoding.pixels(message, INFRARED_ENCODINGS))
        else:
            color = conversions.image_to_color(message)
        return stamp_ns, color, self._intrinsics

    def _on_image(self, message: Image) -> None:
        # A driver that sets no stamp: the arrival, as time tells whether the board is at rest.
        stamp_ns = conversions.stamp_to_ns(message.header.stamp) or self.get_clock().now().nanoseconds
        with self._received:
            self._newest = stamp_ns, message
            self._received.notify()

    def _on_info(self, message: CameraInfo) -> None:
        try:
            info = conversions.rectified_info(message) if self._rectified else message
            self._intrinsics = conversions.info_to_intrinsics(info)
        except InputError:  # not calibrated, which may be the reason for this command
            self._intrinsics = None


@contextlib.contextmanager
def images(
    topic: str, waiting: Waiting | None = None, arguments: list[str] | None = None
) -> Iterator[Callable[[float], tuple[int, np.ndarray, Intrinsics | None]]]:
    """Subscribe to a topic, wait for its first image and yield `ImageTopicNode.read`; the caller handles signals."""
    with spinning(lambda context: ImageTopicNode(topic, context=context), arguments) as node:
        if waiting is not None:
            node.wait(waiting)
        yield node.read


@contextlib.contextmanager
def robot_poses(
    base: str, gripper: str, waiting: Waiting | None = None, arguments: list[str] | None = None
) -> Iterator[Callable[[int], np.ndarray]]:
    """Subscribe to TF, wait for a pose and yield a function from a stamp in nanoseconds to [4, 4] gripper → base.

    The caller handles signals. The function raises DeviceError if TF does not have the pose.
    """
    with spinning(lambda context: Node("calibration_poses", context=context), arguments) as node:
        poses = TfPoses(node, "a robot's pose from TF", "give images with --poses FILE")
        problem = ""

        def known() -> bool:
            nonlocal problem
            try:
                poses.pose(base, gripper, 0, TF_STEP_S)  # the newest
            except DeviceError as error:
                problem = str(error).rstrip(".")
                return False
            return True

        remedy = "start the robot's driver or robot_state_publisher, or check the frames' names (ros2 run tf2_tools "
        if waiting is not None:
            waiting.until(known, f"pose of '{gripper}' in '{base}' on TF", lambda: problem, f"{remedy}view_frames)")
        yield lambda stamp_ns: poses.pose(base, gripper, stamp_ns, ROBOT_WAIT_S)
