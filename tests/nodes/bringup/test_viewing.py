"""`actrec view` with a running graph shows its topics, and reports missing and invalid messages."""

import contextlib
import threading
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make venv build && . scripts/env.sh")
pytest.importorskip("actrec_msgs", reason="needs the messages: make build && . scripts/env.sh")

import rclpy
from actrec_msgs.msg import ActionEvent, ActionLabel, Skeleton, SkeletonArray
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from actrec.types import Body, Intrinsics
from actrec.utils.errors import ConfigError, DeviceError
from actrec.utils.waiting import Waiting
from actrec.visualization.overlay import Caption
from actrec.visualization.snapshots import LiveView
from actrec_nodes.bringup import viewing
from actrec_nodes.common import conversions, topics
from tests.tiny_model import person_at

pytestmark = pytest.mark.ros
STAMP = 1_700_000_000_000_000_000


class FakeView(LiveView):
    """A view that records its inputs."""

    def __init__(self):
        self.snapshots, self.labels, self.events, self.notices, self.wanted = [], [], [], [], True

    @property
    def wants_images(self):
        return self.wanted

    def show(self, snapshot):
        self.snapshots.append(snapshot)

    def label(self, *arguments):
        self.labels.append(arguments)

    def event(self, event):
        self.events.append(event)

    def figures(self, figures):
        self.notices.append(figures.get("notice"))


@pytest.fixture
def graph():
    """Publish images, people, labels and events at 10 Hz until the test ends, some of them invalid; yield the node."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node, stop = Node("graph", context=context), threading.Event()
    color, depth = (node.create_publisher(Image, name, topics.IMAGE_PUBLISHER) for name in (topics.COLOR, topics.DEPTH))
    info = node.create_publisher(CameraInfo, topics.COLOR_INFO, topics.IMAGE_PUBLISHER)
    skeletons = node.create_publisher(SkeletonArray, topics.SKELETONS, topics.SMALL)
    labels = node.create_publisher(ActionLabel, topics.ACTION_LABEL, topics.SMALL)
    events = node.create_publisher(ActionEvent, topics.ACTION_EVENTS, topics.SMALL)
    body = Body("body_1", "kinect_v2_25", person_at(0.0), np.full((25, 2), np.nan, np.float32), np.ones(25, np.float32))

    def publish():
        sent = 0
        while not stop.wait(0.1):
            head = conversions.header(STAMP + sent * 100_000_000, "lens")
            info.publish(conversions.intrinsics_to_info(Intrinsics(64, 48, 60.0, 60.0, 31.5, 23.5), head))
            depth.publish(conversions.depth_to_image(np.full((48, 64), 2.0, np.float32), head))
            color.publish(conversions.color_to_image(np.zeros((48, 64, 3), np.uint8), head))
            invalid = SkeletonArray(header=head, skeletons=[Skeleton(body_id="body_2", confidences=[1.0])])
            skeletons.publish(conversions.bodies_to_message([body], head) if sent % 2 else invalid)
            events.publish(
                ActionEvent(header=head, kind=9 if sent % 2 else ActionEvent.BEGAN, event_id=1, label="wave")
            )
            labels.publish(ActionLabel(header=head, body_id="body_1", label="wave", confidence=0.5))
            sent += 1

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    yield node
    stop.set()
    thread.join()
    node.destroy_node()
    rclpy.try_shutdown(context=context)


@contextlib.contextmanager
def viewed(view, **options):
    """Show the graph in a thread until the end of the block; yield a function that waits for a condition."""
    stop = threading.Event()
    thread = threading.Thread(target=viewing.run, args=(view, stop, 0.0), kwargs=options)

    def wait_until(condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, vars(view)
            time.sleep(0.02)

    thread.start()
    try:
        yield wait_until
    finally:
        stop.set()
        thread.join()


def test_view_shows_the_messages_of_a_graph(graph):
    view = FakeView()
    with viewed(view) as wait_until:
        wait_until(lambda: any(s.bodies and s.captions for s in view.snapshots) and view.labels and view.events)
    shown = next(s for s in view.snapshots if s.bodies and s.captions)  # invalid messages do not end the command
    assert shown.color.shape == (48, 64, 3) and shown.depth[0, 0] == 2.0 and shown.stamp_ns > STAMP
    assert [body.body_id for body in shown.bodies] == ["body_1"] and shown.captions == {"body_1": Caption("wave", 0.5)}
    stamp_ns, body_id, caption, latency_s, _ = view.labels[0]
    assert (body_id, caption, latency_s) == ("body_1", Caption("wave", 0.5), None), "a latency of years is none"
    assert stamp_ns >= STAMP and {event.kind for event in view.events} == {"began"}


def test_view_without_a_viewer_receives_no_images(graph):
    view = FakeView()
    with viewed(view) as wait_until:
        wait_until(lambda: view.snapshots and graph.count_subscribers(topics.COLOR) == 1)
        view.wanted = False
        for topic in (topics.COLOR, topics.DEPTH, topics.SKELETONS):
            wait_until(lambda topic=topic: graph.count_subscribers(topic) == 0)
        view.wanted, count = True, len(view.snapshots)
        wait_until(lambda: len(view.snapshots) > count)


def test_view_without_a_limit_waits_for_a_graph_and_shows_why(monkeypatch):
    monkeypatch.setattr(viewing, "NOTICE_S", 0.2)
    view = FakeView()
    with viewed(view, arguments=["-r", "camera/color/image_raw:=/elsewhere"]) as wait_until:
        wait_until(lambda: any(view.notices))
    notice = next(filter(None, view.notices))
    assert "no image on /elsewhere: it has no publisher; start the graph first (actrec run)" in notice


def test_view_silent_graph_and_wrong_arguments_are_reported():
    stop = threading.Event()
    waiting = Waiting(stop, print, 0.3)
    with pytest.raises(DeviceError, match="no image on /elsewhere: it has no publisher; start the graph first"):
        viewing.run(FakeView(), stop, 0.3, ["-r", "camera/color/image_raw:=/elsewhere"], waiting=waiting)
    with pytest.raises(ConfigError, match="ROS refuses its arguments"):
        viewing.run(FakeView(), stop, 0.3, ["-p", "nonsense"])
