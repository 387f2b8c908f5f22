"""Subscriptions work for publishers of any quality of service, also one that returns with another."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from actrec_msgs.msg import SkeletonArray
from geometry_msgs.msg import Vector3Stamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from actrec_nodes.bringup.processes import ros
from actrec_nodes.common import conversions as c
from actrec_nodes.common import topics
from actrec_nodes.common.lifecycle import ActrecNode
from actrec_nodes.common.participants import Participant
from actrec_nodes.common.subscriptions import Publishers, Subscription, requested, why_silent
from actrec_nodes.common.synchronizer import SynchronizerConfig
from actrec_nodes.record_node import RecordNode
from actrec_nodes.scene_flow_node import SceneFlowNode
from tests.nodes.conftest import INTRINSICS, Peer, still

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
VOLATILE, LATCHED = DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL


def profile(policies: tuple[ReliabilityPolicy, DurabilityPolicy], depth: int = 10) -> QoSProfile:
    reliability, durability = policies
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability)


EVERY = list(itertools.product((RELIABLE, BEST_EFFORT), (VOLATILE, LATCHED)))


class Talker:
    """A publisher of one topic that can return with another quality of service, and counts its messages."""

    def __init__(self, peer: Peer, kind: type, topic: str):
        self.peer, self.kind, self.topic = peer, kind, topic
        self.publisher: Any = None
        self.sent = 0

    def restart(self, policies: Any) -> None:
        if self.publisher is not None:
            self.peer.destroy_publisher(self.publisher)
        self.publisher = self.peer.create_publisher(self.kind, self.topic, profile(policies))

    def send_until(self, condition: Callable[[], bool]) -> None:
        def send() -> bool:
            self.sent += 1
            self.publisher.publish(self.kind())
            return self.peer.wait(condition, 0.05)

        self.peer.wait_until(send)


@pytest.mark.parametrize(("wanted", "offers", "expected"), [
    (topics.IMAGE_SUBSCRIBER, EVERY, [(BEST_EFFORT, VOLATILE)]),
    (topics.SMALL, [], [(RELIABLE, VOLATILE)]),
    (topics.SMALL, [(RELIABLE, LATCHED)], [(RELIABLE, VOLATILE)]),
    (topics.SMALL, [(RELIABLE, VOLATILE), (BEST_EFFORT, VOLATILE)], [(BEST_EFFORT, VOLATILE)]),
    (topics.INFO_SUBSCRIBER, [(RELIABLE, VOLATILE)], [(BEST_EFFORT, VOLATILE)]),
    (topics.INFO_SUBSCRIBER, EVERY, [(BEST_EFFORT, VOLATILE), (RELIABLE, LATCHED)]),
    (topics.INFO_SUBSCRIBER, [(BEST_EFFORT, LATCHED)], [(BEST_EFFORT, VOLATILE)]),
])  # fmt: skip
def test_requested_matches_every_publisher(wanted: QoSProfile, offers: list[Any], expected: list[Any]) -> None:
    offered = [profile(offer) for offer in offers]
    assert requested(wanted, offered) == expected
    latched = bool(offers) and all(offer == (RELIABLE, LATCHED) for offer in offers)
    alone = requested(profile((RELIABLE, LATCHED)), offered, exclusive=True)
    reliable = all(reliability == RELIABLE for reliability, _ in offers)
    assert alone == [(RELIABLE, LATCHED) if latched else (RELIABLE if reliable else BEST_EFFORT, VOLATILE)]


@pytest.mark.parametrize("policies", EVERY, ids=lambda policies: " ".join(p.name.lower() for p in policies))
def test_frame_node_gets_images_of_any_publisher(host, add, peer, policies) -> None:
    node = add(SceneFlowNode)
    assert host.start() is None
    for topic, kind in ((topics.COLOR, Image), (topics.COLOR_INFO, CameraInfo), (topics.DEPTH, Image)):
        peer._by_topic[topic] = peer.create_publisher(kind, topic, profile(policies))
    peer.send_frames_until(still(), lambda: node.statistics.snapshot().processed > 2)


def test_frame_node_uses_camera_info_latched_once_before_its_start(host, add, peer) -> None:
    peer.send(topics.COLOR_INFO, c.intrinsics_to_info(INTRINSICS, c.header(0, "camera")), topics.LATCHED)
    node = add(SceneFlowNode)
    assert host.start() is None
    frames = still()

    def send() -> bool:
        frame = next(frames)
        head = c.header(frame.stamp_ns, "camera")
        peer.send(topics.DEPTH, c.depth_to_image(frame.depth, head), topics.IMAGE_PUBLISHER)
        peer.send(topics.COLOR, c.color_to_image(frame.color, head), topics.IMAGE_PUBLISHER)
        return peer.wait(lambda: node.statistics.snapshot().processed > 2, 0.1)

    peer.wait_until(send)


def test_subscription_follows_a_publisher_that_returns_with_another_qos(host, peer) -> None:
    received: list[Any] = []
    lines: list[str] = []
    subscription = Subscription(peer, SkeletonArray, topics.SKELETONS, received.append, topics.SMALL, lines.append)
    talker = Talker(peer, SkeletonArray, topics.SKELETONS)
    for number, policies in enumerate([*EVERY, (RELIABLE, VOLATILE)]):
        talker.restart(policies)
        count = len(received)
        talker.send_until(lambda: len(received) >= count + 3)  # noqa: B023
        expected = [(BEST_EFFORT if policies[0] == BEST_EFFORT else RELIABLE, VOLATILE)]
        peer.wait_until(lambda: list(subscription._held) == expected)  # noqa: B023
        assert len(lines) == min(number // 2, 1), "told once while publishers stay best effort"
    assert lines == [
        "/peer publishes /skeletons best effort, and this node wants it reliable: subscribed best effort, so lost "
        "messages are not sent again; let it publish reliable"
    ]
    subscription.close()
    peer.wait_for_subscribers(topics.SKELETONS, 0)


@pytest.mark.parametrize("policies", [(RELIABLE, VOLATILE), (RELIABLE, LATCHED)])
def test_skeleton_node_gets_up_of_latched_and_volatile_publishers(host, add, peer, policies) -> None:
    from actrec_nodes.perception_nodes import SkeletonNode

    up = Vector3Stamped(vector=c.up_to_vector(np.array([0.0, 1.0, 0.0])))
    publisher = peer.create_publisher(Vector3Stamped, topics.UP, profile(policies, 1))
    publisher.publish(up)
    node = add(SkeletonNode)
    assert host.start() is None

    def send() -> bool:
        if policies[1] == VOLATILE:
            publisher.publish(up)
        return peer.wait(lambda: node._gravity._up is not None, 0.05)

    peer.wait_until(send)


def test_record_continues_with_a_publisher_that_returns_with_another_qos(context, host, peer, tmp_path) -> None:
    talker = Talker(peer, String, "text")
    talker.restart((RELIABLE, LATCHED))
    node = RecordNode({"context": context}, out=str(tmp_path / "bag"), topics=["text"])
    host.add(node)
    for policies in ((RELIABLE, LATCHED), (BEST_EFFORT, VOLATILE), (RELIABLE, VOLATILE)):
        talker.restart(policies)
        count = node.counts.get("/text", 0)
        talker.send_until(lambda: node.counts.get("/text", 0) >= count + 3)  # noqa: B023
    node.finish()
    assert node.counts["/text"] <= talker.sent, "no message is recorded twice"


def test_why_silent_names_the_publisher_and_its_type(peer) -> None:
    topic = peer.resolve_topic_name(topics.COLOR)
    assert why_silent(peer, topic, Image) == "it has no publisher"
    wrong = peer.create_publisher(String, topics.COLOR, 1)
    peer.wait_until(lambda: peer.count_publishers(topic) == 1)
    assert why_silent(peer, topic, Image) == (
        "/peer publishes std_msgs/msg/String on it, expected sensor_msgs/msg/Image: remap another topic"
    )
    peer.destroy_publisher(wrong)


def test_why_silent_camera_info_sent_once_without_latching_names_the_remedy(peer) -> None:
    topic = peer.resolve_topic_name(topics.COLOR_INFO)
    remedy = " (sent only once, it must be latched: reliable, with durability transient local)"
    for kind, hint in (
        ((RELIABLE, VOLATILE), remedy),
        ((BEST_EFFORT, LATCHED), remedy),  # DDS sends it to later subscribers only if it is reliable, too
        ((RELIABLE, LATCHED), ""),
    ):
        publisher = peer.create_publisher(CameraInfo, topic, profile(kind))
        peer.wait_until(lambda: peer.count_publishers(topic) == 1)
        assert why_silent(peer, topic, CameraInfo) == f"/peer publishes it but sends nothing{hint}"
        peer.destroy_publisher(publisher)
        peer.wait_until(lambda: peer.count_publishers(topic) == 0)


@pytest.fixture
def lines(host, context) -> list[str]:
    """Return the warnings of a node that publishes `text`, which grow."""
    node: ActrecNode[Any] = ActrecNode("probe", SynchronizerConfig, context=context)
    warnings: list[str] = []
    node.warn = warnings.append  # type: ignore[method-assign,assignment]
    host.add(node)
    node.create_output(String, "text", topics.SMALL)
    return warnings


def test_node_names_a_subscriber_that_asks_for_more(lines, peer) -> None:
    peer.create_subscription(String, "text", lambda m: None, profile((RELIABLE, LATCHED)))
    peer.wait_until(lambda: bool(lines))
    assert lines[0] == (
        "/peer gets nothing from /text: it asks for transient local, and this node publishes volatile; let it "
        "subscribe volatile"
    )


def test_node_names_a_subscriber_of_another_process_although_dds_finds_its_name_later(lines, peer) -> None:
    with ros() as other:  # a DDS participant of its own, as of a process
        asking = Node("asking", context=other)
        asking.create_subscription(String, "text", lambda m: None, profile((RELIABLE, LATCHED)))
        peer.wait_until(lambda: bool(lines))
        assert lines[0].startswith("/asking gets nothing from /text")
        asking.destroy_node()


def test_publishers_of_a_killed_node_and_its_successor_are_no_second_graph(context, peer) -> None:
    now = 0.0
    publishers = Publishers(peer, lambda: now)
    old, new = (Node("camera_node", context=context) for _ in range(2))  # as DDS shows both until the lease ends
    kept = [node.create_publisher(Image, topics.COLOR, topics.IMAGE_PUBLISHER) for node in (old, new)]
    peer.wait_until(lambda: peer.count_publishers(topics.COLOR) == len(kept))
    assert publishers.several(topics.COLOR) == publishers.rivals(topics.COLOR) == ""
    now = publishers.LEASE_S
    assert "has 2 publishers, /camera_node and /camera_node" in publishers.several(topics.COLOR)
    assert "if a second graph runs" in publishers.rivals(topics.COLOR)
    old.destroy_node()
    peer.wait_until(lambda: peer.count_publishers(topics.COLOR) == 1)
    assert publishers.several(topics.COLOR) == ""
    new.destroy_node()


def test_publisher_of_a_node_that_dds_has_not_found_yet_is_not_named(context, peer, monkeypatch) -> None:
    """DDS may find the endpoints of another process before its nodes; `rclpy` then gives a placeholder for a name."""
    nodes = [Node(name, context=context) for name in ("first", "second")]
    kept = [node.create_publisher(String, "text", topics.SMALL) for node in nodes]
    peer.wait_until(lambda: peer.count_publishers("/text") == len(kept))
    found = peer.get_publishers_info_by_topic("/text")
    late = max(found, key=lambda info: info.node_name)
    name, late.node_name = late.node_name, "_NODE_NAME_UNKNOWN_"
    monkeypatch.setattr(peer, "get_publishers_info_by_topic", lambda topic: found)
    now = 0.0
    publishers = Publishers(peer, lambda: now)
    assert publishers.several("/text") == ""
    assert why_silent(peer, "/text", String) == "/first, another node publishes it but sends nothing"
    now = publishers.LEASE_S  # of a program without ROS, which never has a name
    assert "has 2 publishers, /first and another node" in publishers.several("/text")
    late.node_name = name
    assert "has 2 publishers, /first and /second" in publishers.several("/text")
    for node in nodes:
        node.destroy_node()


def test_participant_replaced_by_another_of_its_name_warns_of_nothing(peer, capfd) -> None:
    first = Participant(peer, "images")
    second = Participant(peer, "images")
    first.close()
    second.close()
    assert "already registered" not in capfd.readouterr().err
