"""Perception and scene flow nodes do no work without a subscriber, over real DDS."""

import json
import sys
from collections.abc import Callable

import pytest
from actrec_msgs.msg import HandArray, SkeletonArray
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from actrec_nodes.common import conversions as c
from actrec_nodes.common import frame_node, topics
from actrec_nodes.common import participants as participants_module
from actrec_nodes.common.subscriptions import Subscription
from actrec_nodes.perception_nodes import HandNode, SkeletonNode
from actrec_nodes.scene_flow_node import SceneFlowNode
from tests.nodes.conftest import participants, still

pytestmark = pytest.mark.ros

SOON = {"idle_after_s": 0.1, "silence_s": 0.2, "statistics_period_s": 0.1}


def test_idle_hand_node_lets_skeleton_node_idle_until_hands_have_a_subscriber(host, add, peer) -> None:
    skeleton, hand = add(SkeletonNode, **SOON), add(HandNode, **SOON)
    resets: list[str] = []
    assert host.start() is None
    hand.reset = lambda: resets.append("hand")
    peer.subscribe(String, "hand_node/statistics", topics.LATCHED)
    peer.wait_until(lambda: hand.idle == skeleton.idle == "no subscriber")
    for topic in (topics.COLOR, topics.DEPTH, topics.COLOR_INFO, topics.SKELETONS):
        peer.wait_for_subscribers(topic, 0)
    frames, errors = still(), (hand.last_error, skeleton.last_error)
    for frame in (next(frames) for _ in range(3)):
        peer.send_frame(frame)
    for node in (hand, skeleton):
        node._on_watchdog()
    assert errors == (hand.last_error, skeleton.last_error), "missing images are no error"
    statistics = peer.received["hand_node/statistics"]
    assert peer.wait(lambda: bool(statistics) and json.loads(statistics[-1].data)["idle"] == "no subscriber")
    received = skeleton.statistics.snapshot().received
    for _ in range(2):
        subscription = peer.subscribe(HandArray, topics.HANDS)
        peer.wait_for_subscribers(topics.SKELETONS, 1)
        peer.wait_until(lambda: peer._by_topic[topics.COLOR].get_subscription_count() == 1)
        peer.wait_until(lambda: not skeleton.idle and not hand.idle)
        count = len(resets)
        frame = next(frames)
        peer.send_frame(frame)
        (message,) = peer.wait_for(topics.HANDS)
        assert c.stamp_to_ns(message.header.stamp) == frame.stamp_ns, "the first frame"
        assert len(resets) == count + 1
        peer.destroy_subscription(subscription)
        peer.wait_until(lambda: hand.idle == skeleton.idle == "no subscriber")
        assert skeleton.statistics.snapshot().received > received


def test_idle_scene_flow_node_works_for_a_subscriber_of_any_output(host, add, peer) -> None:
    node = add(SceneFlowNode, height=48, **SOON)
    assert host.start() is None
    assert node.figures()["device"] == "CPU"
    peer.wait_until(lambda: bool(node.idle))
    peer.subscribe(CameraInfo, topics.SCENE_FLOW_INFO)
    peer.send_frames_until(still(), lambda: len(peer.received[topics.SCENE_FLOW_INFO]) >= 1)
    node.trigger_deactivate()
    assert not node.idle
    peer.wait_for_subscribers(topics.COLOR, 0)


def test_idle_node_that_cannot_subscribe_reports_it_and_tries_again(host, add, peer) -> None:
    """`gravity_frame` is read when work begins again, and needs tf2_ros, which has no wheel."""
    node = add(SkeletonNode, **SOON)
    assert host.start() is None
    peer.wait_until(lambda: bool(node.idle))
    node.set_parameters([Parameter("gravity_frame", value="base_footprint")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tf2_ros", None)
        peer.subscribe(SkeletonArray, topics.SKELETONS)
        peer.wait_until(lambda: "tf2_ros" in node.last_error)
        assert node.idle == "no subscriber"
    node.set_parameters([Parameter("gravity_frame", value="")])
    peer.wait_until(lambda: not node.idle)
    peer.send_frames_until(still(), lambda: len(peer.received[topics.SKELETONS]) >= 1)


def test_idle_after_zero_works_without_subscribers(host, add, peer) -> None:
    node = add(SceneFlowNode, height=48, idle_after_s=0.0)
    assert host.start() is None
    node._wanted_at = 0.0
    node.follow_subscribers()
    peer.send_frames_until(still(), lambda: node.statistics.snapshot().processed >= 2)


def test_node_without_images_from_a_publisher_subscribes_in_another_participant_too(
    host, add, peer, monkeypatch
) -> None:
    """Fast DDS may lose the port of a participant: further subscriptions in it would get nothing either."""
    monkeypatch.setattr(participants_module, "DEAF_S", 0.2)
    node = add(SceneFlowNode, height=48)
    assert host.start() is None
    before = participants()
    frames = still()
    peer.send_frames_until(frames, lambda: node.statistics.snapshot().processed >= 1)
    peer.wait_until(lambda: participants() == before + 1)
    peer.wait_for_subscribers(topics.COLOR, 2)
    monkeypatch.setattr(participants_module, "DEAF_S", 60.0)
    done = node.statistics.snapshot().processed
    peer.send_frames_until(frames, lambda: node.statistics.snapshot().processed > done + 1)
    assert "repeat" not in node.last_error, "a frame came twice"
    peer.wait_for_subscribers(topics.COLOR, 1)
    node.trigger_deactivate()
    peer.wait_for_subscribers(topics.COLOR, 0)
    peer.wait_until(lambda: participants() == before)


@pytest.mark.parametrize("deaf", [False, True])
def test_renewed_subscription_loses_no_message_and_keeps_the_participant_that_hears(peer, deaf: bool) -> None:
    """A message that comes before the new participant has discovered the publisher is not lost."""
    heard: list[tuple[int, int]] = []
    made: list[Subscription] = []

    def subscribe(node: Node, is_kept: Callable[[], bool]) -> list[Subscription]:
        number = len(made)

        def receive(message: CameraInfo) -> None:
            if is_kept():
                heard.append((number, message.width))

        made.append(Subscription(node, CameraInfo, topics.COLOR_INFO, receive, topics.SMALL))
        return made[-1:]

    before = participants()
    renewed = participants_module.Renewed(peer, "test", subscribe)
    publisher = peer.create_publisher(CameraInfo, topics.COLOR_INFO, topics.SMALL)
    peer.wait_for_subscribers(topics.COLOR_INFO, 1)
    renewed.renew()
    renewed.renew()  # nothing came: only the newest other participant stays
    assert participants() == before + 1
    if deaf:
        peer.wait_until(lambda: publisher.get_subscription_count() == 2)
        made[0].close()
        peer.wait_until(lambda: publisher.get_subscription_count() == 1)
    for width in range(20):
        renewed.settle()
        publisher.publish(CameraInfo(width=width))
        peer.wait_until(lambda: len(heard) == width + 1)  # noqa: B023
    kept = {number for number, _ in heard}
    assert kept == {2} if deaf else kept < {0, 2}, "a message came by both, or not by the first that got one"
    assert [width for _, width in heard] == list(range(20))
    assert participants() == before + (kept == {2})
    renewed.close()
    assert participants() == before
    peer.destroy_publisher(publisher)


def test_deafness_counts_from_publisher_or_last_message_but_not_while_stopped(
    monkeypatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(participants_module.time, "monotonic", lambda: now[0])
    deafness = participants_module.Deafness()

    def due(seconds: float, count: int, sends_nothing: bool = True) -> list[float]:
        times = []
        for _ in range(round(4 * seconds)):
            now[0] += 0.25
            if deafness.update(count, lambda: sends_nothing):
                times.append(now[0])
        return times

    assert due(20, 0, sends_nothing=False) == []
    assert due(30, 0) == [23.0, 29.0, 41.0], "3 s after the publisher came, then twice as long each time"
    assert due(2.5, 1) == [] and due(2.5, 2) == [], "a message came"
    now[0] += 10  # stopped
    assert due(2.5, 2) == [] and due(2, 2) == [now[0] - 1.25]


def test_node_subscribes_again_while_and_after_a_second_camera_publishes(host, add, peer, context, monkeypatch) -> None:
    """Fast DDS keeps images of a second publisher until the last subscription of the topic ends."""
    monkeypatch.setattr(frame_node, "MIXED_S", 0.5)
    node = add(SceneFlowNode, height=48, idle_after_s=0.0, silence_s=0.2)
    opened: list[object] = []
    monkeypatch.setattr(participants_module.Renewed, "_open", _noting(participants_module.Renewed._open, opened))
    assert host.start() is None
    frames = still()
    peer.send_frames_until(frames, lambda: node.statistics.snapshot().processed >= 1)
    assert len(opened) == 1
    second = Node("second_camera", context=context)
    other = second.create_publisher(Image, topics.COLOR, topics.IMAGE_PUBLISHER)
    peer.send_frames_until(frames, lambda: len(opened) >= 3)
    assert "2 publishers" in str(node.figures()["warning"])
    second.destroy_publisher(other)
    second.destroy_node()
    peer.send_frames_until(frames, lambda: not node.figures()["warning"])
    peer.wait(lambda: False, 0.6)  # the last subscription
    count, done = len(opened), node.statistics.snapshot().processed
    peer.send_frames_until(frames, lambda: node.statistics.snapshot().processed > done + 2)
    peer.wait_for_subscribers(topics.COLOR, 1)
    peer.wait(lambda: False, 0.8)
    assert len(opened) == count


def _noting(function: Callable[..., None], calls: list[object]) -> Callable[..., None]:
    def noted(self: object, participant: object) -> None:
        calls.append(participant)
        function(self, participant)

    return noted
