"""`actrec view` beside a running graph: it shows the topics, and reports a silent graph and bad messages."""

import threading
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make venv build && . scripts/env.sh")
pytest.importorskip("actrec_msgs", reason="needs the messages: make build && . scripts/env.sh")

import rclpy
from actrec_msgs.msg import ActionLabel, Skeleton, SkeletonArray
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from actrec.types import Body, Intrinsics
from actrec.utils.errors import ConfigError, DeviceError
from actrec_nodes import visualization_node
from actrec_nodes.common import conversions, topics
from tests.tiny_model import person_at

pytestmark = pytest.mark.ros
STAMP = 1_700_000_000_000_000_000


class Shown:
    """A viewer that keeps its input."""

    def __init__(self):
        self.frames, self.given, self.labels = [], [], []

    def frame(self, frame):
        self.frames.append(frame)

    def bodies(self, topic, stamp_ns, bodies):
        if not self.given:
            self.given.append(None)
            raise ConfigError("unknown layout")
        self.given.append((topic, stamp_ns, [body.body_id for body in bodies]))

    def label(self, *said):
        self.labels.append(said)


@pytest.fixture
def graph():
    """Publishes an image, a person, a message that is none and a label, ten times a second, until it is stopped."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node, stop = Node("graph", context=context), threading.Event()
    color, depth = (node.create_publisher(Image, name, topics.IMAGE_PUBLISHER) for name in (topics.COLOR, topics.DEPTH))
    info = node.create_publisher(CameraInfo, topics.COLOR_INFO, topics.IMAGE_PUBLISHER)
    skeletons = node.create_publisher(SkeletonArray, topics.SKELETONS, topics.SMALL)
    labels = node.create_publisher(ActionLabel, topics.ACTION_LABEL, topics.SMALL)
    body = Body("body_1", "kinect_v2_25", person_at(0.0), np.full((25, 2), np.nan, np.float32), np.ones(25, np.float32))

    def publish():
        sent = 0
        while not stop.wait(0.1):
            head = conversions.header(STAMP + sent * 100_000_000, "lens")
            info.publish(conversions.intrinsics_to_info(Intrinsics(64, 48, 60.0, 60.0, 31.5, 23.5), head))
            depth.publish(conversions.depth_to_image(np.full((48, 64), 2.0, np.float32), head))
            color.publish(conversions.color_to_image(np.zeros((48, 64, 3), np.uint8), head))
            skeletons.publish(SkeletonArray(header=head, skeletons=[Skeleton(body_id="body_2", confidences=[1.0])]))
            skeletons.publish(conversions.bodies_to_message([body], head))
            labels.publish(ActionLabel(header=head, body_id="body_1", label="wave", confidence=0.5))
            sent += 1

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join()
    node.destroy_node()
    rclpy.try_shutdown(context=context)


def test_view_shows_the_messages_of_a_graph(graph):
    shown, stopped = Shown(), threading.Event()
    looking = threading.Thread(target=visualization_node.run, args=(shown, stopped, 0.0))
    looking.start()
    until = time.monotonic() + 60
    while not (shown.frames and len(shown.given) > 1 and shown.labels) and time.monotonic() < until:
        time.sleep(0.05)
    stopped.set()
    looking.join()
    assert shown.frames[0].color.shape == (48, 64, 3) and shown.frames[0].depth[0, 0] == 2.0
    topic, stamp, names = shown.given[1]  # faults of other messages did not end the command
    assert (topic, names) == ("skeletons", ["body_1"]) and stamp >= STAMP
    assert shown.labels[0][1:] == ("body_1", "wave", 0.5)


def test_view_silent_graph_and_wrong_arguments_are_reported():
    with pytest.raises(DeviceError, match="nothing came on /elsewhere nor .* start the graph first"):
        visualization_node.run(Shown(), threading.Event(), 0.3, ["-r", "camera/color/image_raw:=/elsewhere"])
    with pytest.raises(ConfigError, match="ROS refuses its arguments"):
        visualization_node.run(Shown(), threading.Event(), 0.3, ["-p", "nonsense"])
