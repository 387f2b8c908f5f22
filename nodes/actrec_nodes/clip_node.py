"""Observations of a running graph, its skeletons and on request its images, for `actrec record --label`."""

import contextlib
import queue
from collections.abc import Iterator
from typing import Any

from actrec_msgs.msg import SkeletonArray
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from actrec.recordings.clip_recorder import Observation, ReadObservation
from actrec.recordings.rosbag.bag_reader import stamp_ns
from actrec.recordings.rosbag.bag_writer import SKELETONS_TOPIC, BagWriter
from actrec.utils import gravity
from actrec.utils.errors import DeviceError, InputError
from actrec_nodes.bringup.processes import spinning
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.subscriptions import Subscription, type_name, why_silent

IMAGES = {topics.COLOR: Image, topics.COLOR_INFO: CameraInfo, topics.DEPTH: Image, topics.DEPTH_INFO: CameraInfo}

INFOS = {topics.COLOR: topics.COLOR_INFO, topics.DEPTH: topics.DEPTH_INFO}

QUEUE_SIZE = 500  # queue size in observations; the oldest are dropped beyond it (250 MB of images or more)


class ClipNode(Node):
    """Queue of received skeletons and, on request, images."""

    def __init__(self, images: bool, **node_options: Any):
        super().__init__("clip_node", **node_options)
        self._observations: queue.Queue[Observation] = queue.Queue(QUEUE_SIZE)
        self._infos: dict[str, bytes] = {}  # the newest camera_info by topic
        self._subscription = Subscription(
            self, SkeletonArray, topics.SKELETONS, self._on_skeletons, topics.WINDOW_SUBSCRIBER
        )
        for topic, kind in IMAGES.items() if images else ():
            self._subscribe(topic, kind)

    def read(self, timeout_s: float) -> Observation:
        """Return the oldest observation in the queue; raise DeviceError with the reason if nothing arrives."""
        try:
            return self._observations.get(timeout=timeout_s)
        except queue.Empty:
            topic = self._subscription.topic_name
            raise DeviceError(
                f"no skeletons on {topic}: {why_silent(self, topic, SkeletonArray)}; start the graph first (actrec "
                "run) with its skeleton node, or give --driver"
            ) from None

    def _on_skeletons(self, message: SkeletonArray) -> None:
        stamp, frame_id = conversions.stamp_to_ns(message.header.stamp), message.header.frame_id
        try:
            bodies, up = conversions.message_to_bodies(message), gravity.up_from_vector(message.up)
        except InputError as error:  # a bad message must not stop the node
            self.get_logger().error(f"skipping skeletons: {error}", throttle_duration_sec=5.0)
            return

        def write(bag: BagWriter) -> None:
            bag.write_bodies(SKELETONS_TOPIC, stamp, frame_id, bodies, up)

        self._put(Observation(stamp, bodies, write))

    def _subscribe(self, topic: str, kind: type) -> None:
        name, info_name = f"/{topic}", f"/{INFOS.get(topic, '')}"

        def keep(raw: bytes) -> None:
            stamp, info = stamp_ns(raw), self._infos.get(info_name)
            if kind is CameraInfo:
                self._infos[name] = raw

            def write(bag: BagWriter) -> None:
                if info is not None and not bag.counts.get(info_name):  # sent once, before this clip
                    bag.add_topic(info_name, type_name(CameraInfo))
                    bag.write(info_name, stamp, info)
                bag.add_topic(name, type_name(kind))
                bag.write(name, stamp, raw)

            self._put(Observation(stamp, None, write))

        profile = topics.INFO_SUBSCRIBER if kind is CameraInfo else topics.IMAGE_SUBSCRIBER
        Subscription(self, kind, topic, keep, profile, raw=True)

    def _put(self, observation: Observation) -> None:
        if self._observations.full():
            with contextlib.suppress(queue.Empty):
                self._observations.get_nowait()
        self._observations.put(observation)


@contextlib.contextmanager
def graph_observations(images: bool, arguments: list[str] | None = None) -> Iterator[ReadObservation]:
    """Subscribe to the running graph and yield `ClipNode.read`; the caller handles signals."""
    with spinning(lambda context: ClipNode(images, context=context), arguments) as node:
        yield node.read
