"""The visualization node draws people on the image of their stamp and publishes markers, for subscribers only."""

import json
from typing import Any

import cv2
import numpy as np
import pytest
from actrec_msgs.msg import ActionLabel, HandArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from actrec.types import Body, Hand
from actrec.utils.errors import MissingLibraryError
from actrec.visualization import overlay
from actrec_nodes import visualization_node
from actrec_nodes.common import conversions as c
from actrec_nodes.common import topics
from actrec_nodes.visualization_node import VisualizationNode
from tests.nodes.conftest import INTRINSICS, still
from tests.tiny_model import person_at

visualization_msgs = pytest.importorskip("visualization_msgs.msg", reason="visualization_msgs is missing: make venv")
pytestmark = pytest.mark.ros

Marker = visualization_msgs.Marker
FRAME = "camera_color_optical_frame"


def person(body_id: str = "body_1") -> Body:
    """Return a person two metres before the camera."""
    positions = person_at(0.0) + np.array([0.0, 0.0, 2.0], np.float32)
    pixels = positions[:, :2] / positions[:, 2:] * INTRINSICS.fx + [INTRINSICS.cx, INTRINSICS.cy]
    return Body(body_id, "kinect_v2_25", positions, pixels.astype(np.float32), np.ones(25, np.float32))


def send_people(peer: Any, node: Any, stamp_ns: int, *people: Body, label: str = "throw") -> None:
    """Publish labels, wait for them, as topics have no common order, and publish skeletons."""
    head, kept = c.header(stamp_ns, FRAME), node._snapshots._captions._kept
    for body in people:
        peer.send(topics.ACTION_LABEL, ActionLabel(header=head, body_id=body.body_id, label=label, confidence=0.9))
        peer.wait_until(lambda name=body.body_id: kept.get(name, (0, None))[0] == stamp_ns)
    peer.send(topics.SKELETONS, c.bodies_to_message(list(people), head))


@pytest.fixture
def node(host: Any, add: Any) -> VisualizationNode:
    node = add(VisualizationNode, max_rate_hz=0.0, idle_after_s=0.3, statistics_period_s=0.1)
    assert host.start() is None
    return node


def colored(image: np.ndarray) -> int:
    return int((image == np.array(overlay.color_of("body_1"), np.uint8)).all(axis=2).sum())


def test_visualization_image_has_the_skeletons_of_its_stamp(node, peer) -> None:
    peer.subscribe(Image, topics.ANNOTATED_IMAGE, topics.IMAGE_SUBSCRIBER)
    peer.wait_for_subscribers(topics.COLOR, 1)
    frames = still()
    for frame in (next(frames) for _ in range(3)):
        peer.send_frame(frame)
    send_people(peer, node, frame.stamp_ns, person())
    message = peer.wait_for(topics.ANNOTATED_IMAGE)[-1]
    assert c.stamp_to_ns(message.header.stamp) == frame.stamp_ns and message.header.frame_id == FRAME
    assert (message.width, message.height, message.encoding) == (640, 480, "rgb8")
    assert colored(c.image_to_color(message)) > 1000, "joints and banner"
    assert peer.count_subscribers(topics.HANDS) == 0, "showing starts no work"


@pytest.mark.parametrize("encoding", ["bgr8", "mono8"])
def test_visualization_compressed_image_of_other_encoding_is_jpeg(node, peer, encoding) -> None:
    peer.subscribe(CompressedImage, topics.ANNOTATED_COMPRESSED, topics.IMAGE_SUBSCRIBER)
    peer.wait_for_subscribers(topics.COLOR, 1)
    frame = next(still())
    channels = {"bgr8": 3, "mono8": 1}[encoding]
    pixels = np.full((480, 640 * channels), 200, np.uint8)
    image = Image(
        header=c.header(frame.stamp_ns, FRAME), height=480, width=640, encoding=encoding, step=640 * channels,
        data=pixels.tobytes(),
    )  # fmt: skip
    peer.send_frame(frame, color_image=image)
    send_people(peer, node, frame.stamp_ns, person())
    message = peer.wait_for(topics.ANNOTATED_COMPRESSED)[-1]
    decoded = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (480, 640, 3) and "jpeg" in message.format
    distance = abs(decoded[..., ::-1].astype(int) - overlay.color_of("body_1")).max(axis=2)
    assert (distance < 40).sum() > 1000 and abs(int(decoded[0, 0, 0]) - 200) < 5


def test_visualization_4k_image_is_reduced(host, add, peer) -> None:
    node = add(VisualizationNode, max_width=960)
    assert host.start() is None
    large = np.zeros((2160, 3840, 3), np.uint8)
    peer.subscribe(Image, topics.ANNOTATED_IMAGE, topics.IMAGE_SUBSCRIBER)
    peer.wait_for_subscribers(topics.COLOR, 1)
    frame = next(still())
    image = c.color_to_image(large, c.header(frame.stamp_ns, FRAME))
    body = person()
    body.pixels *= 6
    peer.send_frame(frame, color_image=image)
    send_people(peer, node, frame.stamp_ns, body)
    message = peer.wait_for(topics.ANNOTATED_IMAGE)[-1]
    assert (message.width, message.height) == (960, 540)
    assert colored(c.image_to_color(message)) > 1000
    assert not node.last_error


def test_visualization_without_skeletons_images_are_published(node, peer) -> None:
    peer.subscribe(Image, topics.ANNOTATED_IMAGE, topics.IMAGE_SUBSCRIBER)
    peer.wait_for_subscribers(topics.COLOR, 1)
    peer.send_frames_until(still(), lambda: len(peer.received[topics.ANNOTATED_IMAGE]) >= 2)


def test_visualization_markers_of_people_are_deleted_when_they_leave(node, peer) -> None:
    peer.subscribe(visualization_msgs.MarkerArray, topics.MARKERS)
    peer.wait_for_subscribers(topics.SKELETONS, 1)
    assert peer.count_subscribers(topics.COLOR) == 0, "markers need no images"
    stamp = next(still()).stamp_ns
    send_people(peer, node, stamp, person("body_1"), person("body_2"))
    first = peer.wait_for(topics.MARKERS)[-1].markers
    assert first[0].action == Marker.DELETEALL
    found = {(marker.ns, marker.id): marker for marker in first[1:]}
    assert {ns for ns, _ in found} == {"bones", "joints", "labels"} and len(found) == 6
    bones, joints, label = (
        next(m for (ns, _), m in found.items() if ns == kind) for kind in ("bones", "joints", "labels")
    )
    assert (bones.type, len(bones.points)) == (Marker.LINE_LIST, 2 * 24) and len(joints.points) == 25
    assert label.text == "throw  90%\nbody_1" and label.pose.position.y < min(p.y for p in joints.points)
    assert bones.header.frame_id == FRAME and 0 < bones.lifetime.sec <= 2 and bones.color.a == 1.0
    send_people(peer, node, stamp + 33_000_000, person("body_2"), label="unknown")
    second = peer.wait_for(topics.MARKERS, 2)[-1].markers
    kept = {(m.ns, m.id) for m in second if m.action == Marker.ADD}
    deleted = {(m.ns, m.id) for m in second if m.action == Marker.DELETE}
    assert kept < set(found) and deleted == set(found) - kept, "ids are constant"
    send_people(peer, node, stamp + 66_000_000)
    third = peer.wait_for(topics.MARKERS, 3)[-1].markers
    assert {(m.ns, m.id) for m in third} == kept and {m.action for m in third} == {Marker.DELETE}


def test_visualization_hands_are_shown_if_another_node_needs_them(node, peer) -> None:
    peer.subscribe(HandArray, topics.HANDS)
    peer.subscribe(visualization_msgs.MarkerArray, topics.MARKERS)
    peer.wait_for_subscribers(topics.HANDS, 2)
    stamp = next(still()).stamp_ns
    pixels = np.zeros((21, 2), np.float32)
    hand = Hand("hand_1", "hand_21", np.ones((21, 3), np.float32), pixels, np.ones(21, np.float32), side="left")
    peer.send(topics.HANDS, c.hands_to_message([hand], c.header(stamp, FRAME)))
    peer.wait_until(lambda: "hands" in node._snapshots._matcher._parts)
    send_people(peer, node, stamp, person())
    markers = peer.wait_for(topics.MARKERS)[-1].markers
    assert [len(m.points) for m in markers if m.ns == "hands"] == [40]


def test_visualization_without_subscriber_does_no_work(node, peer) -> None:
    peer.subscribe(String, "visualization_node/statistics", topics.LATCHED)
    subscription = peer.subscribe(Image, topics.ANNOTATED_IMAGE, topics.IMAGE_SUBSCRIBER)
    for topic in (topics.COLOR, topics.SKELETONS):
        peer.wait_for_subscribers(topic, 1)
    peer.destroy_subscription(subscription)
    for topic in (topics.COLOR, topics.DEPTH, topics.SKELETONS, topics.ACTION_LABEL):
        peer.wait_for_subscribers(topic, 0)
    statistics = peer.received["visualization_node/statistics"]
    assert peer.wait(lambda: bool(statistics) and json.loads(statistics[-1].data)["idle"] == "no subscriber")


def test_visualization_invalid_skeleton_is_reported_and_the_next_is_shown(node, peer) -> None:
    peer.subscribe(visualization_msgs.MarkerArray, topics.MARKERS)
    peer.wait_for_subscribers(topics.SKELETONS, 1)
    stamp, wrong = next(still()).stamp_ns, person()
    wrong.layout = "hand_21"
    send_people(peer, node, stamp, wrong)
    peer.wait_until(lambda: "'body_1' has 25 joints, hand_21 has 21" in node.last_error)
    send_people(peer, node, stamp + 33_000_000, person())
    peer.wait_for(topics.MARKERS)


def test_markers_without_visualization_msgs_raises(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "visualization_msgs.msg", None)
    with pytest.raises(MissingLibraryError, match="apt install ros-"):
        visualization_node.Markers()
