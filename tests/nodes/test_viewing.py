"""`actrec view` with a running graph shows its topics, and reports missing and invalid messages."""

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
from actrec_nodes.bringup import viewing
from actrec_nodes.common import conversions, topics
from tests.tiny_model import person_at

pytestmark = pytest.mark.ros
STAMP = 1_700_000_000_000_000_000


class FakeViewer:
    """A viewer that records its inputs."""

    def __init__(self):
        self.frames, self.bodies_shown, self.labels = [], [], []

    def frame(self, frame):
        self.frames.append(frame)

    def bodies(self, topic, stamp_ns, bodies):
        if not self.bodies_shown:
            self.bodies_shown.append(None)
            raise ConfigError("unknown layout")
        self.bodies_shown.append((topic, stamp_ns, [body.body_id for body in bodies]))

    def label(self, *arguments):
        self.labels.append(arguments)


@pytest.fixture
def graph():
    """Publish an image, a person, an invalid message and a label at 10 Hz until the test ends."""
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
    viewer, stop = FakeViewer(), threading.Event()
    thread = threading.Thread(target=viewing.run, args=(viewer, stop, 0.0))
    thread.start()
    deadline = time.monotonic() + 60
    while not (viewer.frames and len(viewer.bodies_shown) > 1 and viewer.labels) and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    thread.join()
    assert viewer.frames[0].color.shape == (48, 64, 3) and viewer.frames[0].depth[0, 0] == 2.0
    topic, stamp, names = viewer.bodies_shown[1]  # errors of other messages do not end the command
    assert (topic, names) == ("skeletons", ["body_1"]) and stamp >= STAMP
    assert viewer.labels[0][1:] == ("body_1", "wave", 0.5)


def test_view_silent_graph_and_wrong_arguments_are_reported():
    with pytest.raises(
        DeviceError, match="no image on /elsewhere: it has no publisher, and nothing .* start the graph first"
    ):
        viewing.run(FakeViewer(), threading.Event(), 0.3, ["-r", "camera/color/image_raw:=/elsewhere"])
    with pytest.raises(ConfigError, match="ROS refuses its arguments"):
        viewing.run(FakeViewer(), threading.Event(), 0.3, ["-p", "nonsense"])
