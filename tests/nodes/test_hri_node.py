"""People in the topics of REP-155: over real DDS where hri_msgs is installed, else with stand-ins for its messages."""

import json
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from actrec_msgs.msg import ActionEvent, SkeletonArray
from geometry_msgs.msg import Point32

from actrec.skeleton.layouts import KINECT_V2_25
from actrec.types import Body
from actrec.utils.geometry import rotation
from actrec_nodes import hri_node
from actrec_nodes.common import conversions, topics
from actrec_nodes.hri_node import HriNode, body_pose
from tests.nodes.conftest import INTRINSICS, Peer
from tests.tiny_model import person_at

pytestmark = pytest.mark.ros

J = KINECT_V2_25.index
FIELDS: dict[str, dict[str, Any]] = {
    "IdsList": {"ids": []},
    "NormalizedPointOfInterest2D": {"x": 0.0, "y": 0.0, "c": 0.0},
    "Skeleton2D": {"skeleton": []},
    "NormalizedRegionOfInterest2D": {"xmin": 0.0, "ymin": 0.0, "xmax": 0.0, "ymax": 0.0, "c": 0.0},
    "Gesture": {"gesture": 0},
    "Intent": {"intent": "", "data": "", "source": "", "modality": "", "priority": 0, "confidence": 0.0},
}
NAMES = "NOSE NECK RIGHT_SHOULDER RIGHT_ELBOW RIGHT_WRIST LEFT_SHOULDER LEFT_ELBOW LEFT_WRIST RIGHT_HIP RIGHT_KNEE "
NAMES += "RIGHT_ANKLE LEFT_HIP LEFT_KNEE LEFT_ANKLE LEFT_EYE RIGHT_EYE LEFT_EAR RIGHT_EAR"
CONSTANTS: dict[str, dict[str, Any]] = {
    "Skeleton2D": {name: number for number, name in enumerate(NAMES.split())},
    "Gesture": {"LEFT_HAND_RAISED": 3, "RIGHT_HAND_RAISED": 4, "BOTH_HANDS_RAISED": 5, "WAVING": 6},
    "Intent": {"UNKNOWN_AGENT": "__unknown_agent__", "MODALITY_MOTION": "__modality_motion__"},
}


def stand_in(name: str) -> type:
    """Return a class with the fields and constants of a message of hri_msgs or hri_actions_msgs."""

    fields: dict[str, Any] = {"header": None, **FIELDS[name]}

    def fill(self: Any, **values: Any) -> None:
        self.__dict__.update({**fields, **values})

    return type(name, (), {"__init__": fill, **CONSTANTS.get(name, {})})


MESSAGES = SimpleNamespace(**{name: stand_in(name) for name in FIELDS})


class Published:
    """A stand-in for a publisher, as rclpy refuses messages without type support."""

    def __init__(self, by_topic: dict[str, list[Any]], topic: str):
        self.messages = by_topic.setdefault(topic, [])
        self.publish = self.messages.append

    def get_subscription_count(self) -> int:
        return 1


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[Any]]]:
    """Replace the messages of ROS4HRI and their publishers; return the messages by topic."""
    by_topic: dict[str, list[Any]] = {}
    monkeypatch.setattr(hri_node, "_messages", lambda package: MESSAGES if package.startswith("hri") else None)
    monkeypatch.setattr(HriNode, "create_output", lambda self, kind, topic, profile=None: Published(by_topic, topic))
    create = HriNode.create_publisher

    def create_publisher(self: Any, kind: type, topic: str, *rest: Any, **more: Any) -> Any:
        own = kind.__name__ in FIELDS
        return Published(by_topic, topic) if own else create(self, kind, topic, *rest, **more)

    destroy = HriNode.destroy_publisher
    monkeypatch.setattr(HriNode, "create_publisher", create_publisher)
    monkeypatch.setattr(
        HriNode, "destroy_publisher", lambda self, each: isinstance(each, Published) or destroy(self, each)
    )
    yield by_topic


def person() -> Body:
    """Return a person whose right hand is raised, with pixels 10 px apart and the left foot outside the image."""
    positions = person_at(0.0)
    positions[J["shoulder_left"]], positions[J["shoulder_right"]] = (0.2, -0.4, 2.0), (-0.2, -0.4, 2.0)
    positions[J["hip_left"]], positions[J["hip_right"]] = (0.1, 0.1, 2.0), (-0.1, 0.1, 2.0)
    positions[J["wrist_left"]], positions[J["wrist_right"]] = (0.3, 0.1, 2.0), (-0.3, -0.8, 2.0)
    pixels = np.stack([np.arange(25) * 10 + 100.0, np.arange(25) * 10 + 50.0], axis=1).astype(np.float32)
    pixels[J["ankle_left"]] = (700, 100)
    return Body("body_7", "kinect_v2_25", positions, pixels, np.full(25, 0.5, np.float32))


def skeletons(*bodies: Body) -> SkeletonArray:
    return conversions.bodies_to_message(bodies, conversions.header(10**9, "camera"))


def event(label: str, kind: int = ActionEvent.BEGAN) -> ActionEvent:
    head = conversions.header(10**9, "camera")
    return ActionEvent(header=head, kind=kind, body_id="body_7", label=label, confidence=0.75)


def check_person(skeleton: Any, region: Any) -> None:
    neck, ankle, nose = (skeleton.skeleton[CONSTANTS["Skeleton2D"][name]] for name in ("NECK", "LEFT_ANKLE", "NOSE"))
    assert len(skeleton.skeleton) == 18
    assert (neck.x, neck.y, neck.c) == pytest.approx((300 / 640, 250 / 480, 0.5))
    assert ankle.c == nose.c == 0.0
    assert (region.xmin, region.ymin, region.xmax) == pytest.approx((100 / 640, 50 / 480, 1.0))


def test_hri_node_publishes_people_with_stand_in_messages(add: Any, published: dict[str, list[Any]]) -> None:
    node = add(HriNode)
    assert node.start()
    node._on_info(conversions.intrinsics_to_info(INTRINSICS, conversions.header(0, "camera")))
    node._on_skeletons(skeletons(person()))
    assert published["humans/bodies/tracked"][-1].ids == ["body_7"]
    check_person(published["humans/bodies/body_7/skeleton2d"][-1], published["humans/bodies/body_7/roi"][-1])
    for label in ("wave", "raise hand", "throw"):
        node._on_event(event(label))
    node._on_event(event("wave", ActionEvent.ENDED))
    assert [message.gesture for message in published["humans/bodies/body_7/gesture"]] == [6, 4]
    (found,) = published["intents"]
    assert (found.intent, found.confidence, found.priority) == ("__intent_engage_with__", 0.75, 128)
    assert json.loads(found.data) == {"agent": "body_7", "recipient": "__myself__", "object": "wave"}
    node._on_skeletons(skeletons())
    assert published["humans/bodies/tracked"][-1].ids == [] and not node._by_body
    assert node.statistics.snapshot().processed == 2


def test_hri_node_without_skeletons_ends_the_people(
    add: Any, published: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = add(HriNode)
    assert node.start()
    node._on_skeletons(skeletons(person()))
    node._end_silent()
    tracked = published["humans/bodies/tracked"]
    assert tracked[-1].ids == ["body_7"]
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + 2.1)
    node._end_silent()
    assert tracked[-1].ids == [] and not node._by_body
    count = len(tracked)
    node._end_silent()
    node._on_event(event("wave"))
    assert len(tracked) == count, "once"


def test_hri_node_publishes_body_frames_if_asked(
    add: Any, published: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tf = SimpleNamespace(TFMessage=lambda transforms: transforms)
    monkeypatch.setattr(hri_node, "_messages", lambda package: tf if package == "tf2_msgs" else MESSAGES)
    node = add(HriNode, body_frames=True)
    assert node.start()
    unknown = person()
    unknown.body_id, unknown.positions[J["hip_left"]] = "body_8", np.nan
    node._on_skeletons(skeletons(person(), unknown))
    ((sent,),) = published["/tf"]
    assert (sent.header.frame_id, sent.child_frame_id) == ("camera", "body_body_7")
    place = sent.transform.translation
    assert (place.x, place.y, place.z) == pytest.approx((0.0, 0.1, 2.0))


def test_hri_node_bad_skeletons_are_reported(add: Any, published: dict[str, list[Any]]) -> None:
    node = add(HriNode)
    assert node.start()
    message = skeletons(person())
    message.skeletons[0].positions = [Point32()]
    node._on_skeletons(message)
    assert "body_7" in node.last_error and node.statistics.snapshot().failed == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"body_frames": True}, "body_frames needs tf2_msgs"),
        ({"intents": ["wave"]}, "intents has 'wave', expected LABEL=INTENT"),
    ],
)
def test_hri_node_wrong_settings_fail_to_configure(
    add: Any, published: dict[str, list[Any]], settings: dict[str, Any], words: str
) -> None:
    node = add(HriNode, **settings)
    assert not node.start() and words in node.last_error


def test_hri_node_without_hri_msgs_names_the_remedy(add: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hri_msgs.msg", None)
    node = add(HriNode)
    assert not node.start()
    assert "hri_node needs hri_msgs: sudo apt install ros-$ROS_DISTRO-hri-msgs" in node.last_error


def test_body_pose_follows_the_person_who_turns() -> None:
    body = person()
    up = np.array([0.0, -1.0, 0.0])
    facing = body_pose(body.positions, up)
    assert facing is not None
    np.testing.assert_allclose(facing[:3, 3], [0, 0.1, 2.0], atol=1e-6)
    # Toward the camera; the person's left is the image's right.
    np.testing.assert_allclose(facing[:3, :3].T, [[0, 0, -1], [1, 0, 0], [0, -1, 0]], atol=1e-6)
    turned = body_pose(body.positions @ rotation(1, 0.5).T, up)
    assert turned is not None
    np.testing.assert_allclose(turned[:3, 0], rotation(1, 0.5) @ [0, 0, -1], atol=1e-6)
    body.positions[J["hip_left"]] = np.nan
    assert body_pose(body.positions, up) is None


def test_hri_node_publishes_people_over_dds(add: Any, peer: Peer) -> None:
    hri = pytest.importorskip("hri_msgs.msg", reason="hri_msgs is not installed: it has no wheel")
    node = add(HriNode)
    assert node.start()
    tracked, body = "humans/bodies/tracked", "humans/bodies/body_7"
    skeleton, roi, gesture = (f"{body}/{name}" for name in ("skeleton2d", "roi", "gesture"))
    for kind, topic in (
        (hri.IdsList, tracked),
        (hri.Skeleton2D, skeleton),
        (hri.NormalizedRegionOfInterest2D, roi),
        (hri.Gesture, gesture),
    ):
        peer.subscribe(kind, topic)
    info = conversions.intrinsics_to_info(INTRINSICS, conversions.header(0, "camera"))

    def send() -> bool:
        peer.send(topics.COLOR_INFO, info, topics.IMAGE_PUBLISHER)
        peer.send(topics.SKELETONS, skeletons(person()))
        peer.send(topics.ACTION_EVENTS, event("raise hand"))
        return all(peer.received[topic] for topic in (tracked, skeleton, roi, gesture))

    peer.wait_until(send)
    assert list(peer.received[tracked][-1].ids) == ["body_7"]
    check_person(peer.received[skeleton][-1], peer.received[roi][-1])
    assert peer.received[gesture][-1].gesture == hri.Gesture.RIGHT_HAND_RAISED
    names = dict(peer.get_topic_names_and_types())
    assert names["/humans/bodies/body_7/skeleton2d"] == ["hri_msgs/msg/Skeleton2D"]
    peer.send(topics.SKELETONS, skeletons())
    peer.wait_until(lambda: peer.count_publishers("/humans/bodies/body_7/roi") == 0)


def test_hri_node_publishes_intents_over_dds(add: Any, peer: Peer) -> None:
    pytest.importorskip("hri_msgs.msg", reason="hri_msgs is not installed: it has no wheel")
    actions = pytest.importorskip("hri_actions_msgs.msg", reason="hri_actions_msgs is not installed: it has no wheel")
    node = add(HriNode, intents=["throw=__intent_greet__"])
    assert node.start()
    peer.subscribe(actions.Intent, "intents")

    def send() -> bool:
        peer.send(topics.ACTION_EVENTS, event("throw"))
        return bool(peer.received["intents"])

    peer.wait_until(send)
    assert peer.received["intents"][0].intent == actions.Intent.GREET


def test_hri_node_event_of_a_hand_is_its_persons(add: Any, published: dict[str, list[Any]]) -> None:
    node, waved = add(HriNode), event("wave")
    assert node.start()
    node._on_skeletons(skeletons(person()))
    waved.body_id = "body_7_left"
    node._on_event(waved)
    assert json.loads(published["intents"][-1].data)["agent"] == "body_7"
    assert [message.gesture for message in published["humans/bodies/body_7/gesture"]] == [6]
