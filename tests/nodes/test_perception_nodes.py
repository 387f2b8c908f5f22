"""Skeleton, hand, face and scene flow nodes over real DDS, with recorded and invalid frames."""

import itertools
import math
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from actrec_msgs.msg import FaceArray, HandArray, SkeletonArray
from sensor_msgs.msg import CameraInfo, Image

from actrec.recordings import RecordingConfig, open_recording
from actrec.types import Body, RgbdFrame
from actrec_nodes.common import conversions as c
from actrec_nodes.common import diagnostics, topics
from actrec_nodes.perception_nodes import FaceNode, HandNode, SkeletonNode
from actrec_nodes.scene_flow_node import SceneFlowNode
from tests.nodes.conftest import INTRINSICS, still

pytestmark = pytest.mark.ros

START_NS = 1_700_000_000_000_000_000
STEP_NS = 66_666_667


def recorded(folder: Path, **options: Any) -> list[RgbdFrame]:
    """Return up to thirty frames of an image folder."""
    with open_recording(folder, RecordingConfig(intrinsics="525,525,319.5,239.5", **options)) as recording:
        return list(itertools.islice(recording.frames(), 30))


@pytest.fixture(scope="module")
def person(data_root: Path) -> list[RgbdFrame]:
    """Return fifteen real frames of a person, every second frame of the recording."""
    return recorded(data_root / "rgbd/person_turning", depth_scale=0.001)[::2]


@pytest.fixture(scope="module")
def raised_hands(data_root: Path) -> list[RgbdFrame]:
    """Return two real frames of a person with raised hands."""
    return recorded(data_root / "rgbd/pairs/person_standing", depth_scale=0.0002)


def repeat(frames: list[RgbdFrame]) -> Iterator[RgbdFrame]:
    """Yield the frames forward and backward with increasing stamps, for a minute at 10 Hz."""
    cycle = frames + frames[-2:0:-1]
    for k, frame in enumerate(itertools.islice(itertools.cycle(cycle), 600)):
        yield RgbdFrame(START_NS + k * STEP_NS, frame.color, frame.depth, frame.intrinsics)


def stamp(message) -> int:
    return c.stamp_to_ns(message.header.stamp)


def test_skeleton_node_detects_a_real_person(host, add, peer, person) -> None:
    peer.subscribe(SkeletonArray, topics.SKELETONS)
    node = add(SkeletonNode)
    assert host.start() is None
    received = peer.received[topics.SKELETONS]
    peer.send_frames_until(repeat(person), lambda: len([m for m in received if m.skeletons]) >= 5)
    received = list(received)  # more messages may arrive
    found = [m for m in received if m.skeletons]
    assert all((stamp(m) - START_NS) % STEP_NS == 0 for m in received)
    assert [stamp(m) for m in received] == sorted({stamp(m) for m in received})
    body = c.message_to_bodies(found[-1])[0]
    # A busy machine drops frames, and a person who is lost for long gets a new number.
    assert re.fullmatch(r"body_\d+", body.body_id) and body.layout == "kinect_v2_25"
    assert found[-1].header.frame_id == "camera_color_optical_frame"
    # The skeleton's distance lies within the range of the depth image.
    frame = person[0]
    assert frame.depth is not None
    assert np.nanmin(frame.depth) < np.nanmedian(body.positions[:, 2]) < 5
    assert node.statistics.snapshot().failed == 0


def test_perception_nodes_empty_scene_publishes_empty_messages(host, add, peer) -> None:
    peer.subscribe(SkeletonArray, topics.SKELETONS)
    add(SkeletonNode)
    assert host.start() is None
    received = peer.received[topics.SKELETONS]
    peer.send_frames_until(still(), lambda: len(received) >= 3)
    assert all(not m.skeletons for m in received)


@pytest.mark.parametrize("kind", ["nan", "zero", "missing", "other size"])
def test_skeleton_node_without_usable_depth_publishes_pixels(host, add, peer, person, kind, capfd, monkeypatch) -> None:
    monkeypatch.setattr(diagnostics, "REPEAT_S", 1e9)
    peer.subscribe(SkeletonArray, topics.SKELETONS)
    node = add(SkeletonNode, depth_wait_s=0.2)
    assert host.start() is None
    depth = {
        "nan": np.full((480, 640), np.nan, np.float32),
        "zero": np.zeros((480, 640), np.float32),
        "missing": None,
        "other size": np.full((240, 320), 2.0, np.float32),
    }[kind]

    def frames() -> Iterator[RgbdFrame]:
        for frame in repeat(person):
            yield RgbdFrame(frame.stamp_ns, frame.color, depth, frame.intrinsics)

    received = peer.received[topics.SKELETONS]
    peer.send_frames_until(frames(), lambda: len([m for m in received if m.skeletons]) >= 2)
    line = {
        "nan": "no valid pixel",
        "zero": "no valid pixel",
        "missing": "no depth image",
        "other size": "register depth",
    }
    output = capfd.readouterr().err
    assert output.count(line[kind]) == 1
    assert "Traceback" not in output
    assert node.statistics.snapshot().failed == 0


@pytest.mark.parametrize("scale", [0.0, 0.0001])
def test_skeleton_node_depth_in_tenths_of_millimeters_warns_until_scaled(host, add, peer, person, scale) -> None:
    peer.subscribe(SkeletonArray, topics.SKELETONS)
    node = add(SkeletonNode, depth_scale=scale)
    assert host.start() is None
    tenths = [RgbdFrame(f.stamp_ns, f.color, f.depth * np.float32(10), f.intrinsics) for f in person]
    received = peer.received[topics.SKELETONS]
    peer.send_frames_until(repeat(tenths), lambda: node.figures()["people_size"] > 0)
    figures, body = node.figures(), c.message_to_bodies([m for m in received if m.skeletons][-1])[0]
    assert np.nanmedian(body.positions[:, 2]) < 5, "at a plausible distance, by depth or by the estimator's size"
    if scale:
        assert figures["warning"] == "" and 0.6 < figures["people_size"] < 1.4 and body.scores.max() > 0.5
    else:
        assert "set depth_scale to 0.0001 m (now 0.001 m)" in figures["warning"] and body.scores.max() <= 0.5


def test_skeleton_node_wrong_encoding_is_one_line_and_the_node_continues(host, add, peer, capfd, monkeypatch) -> None:
    monkeypatch.setattr(diagnostics, "REPEAT_S", 1e9)
    peer.subscribe(SkeletonArray, topics.SKELETONS)
    node = add(SkeletonNode)
    assert host.start() is None
    received = peer.received[topics.SKELETONS]
    frames = still()
    for frame in frames:
        assert frame.color is not None
        image = c.color_to_image(frame.color, c.header(frame.stamp_ns, "camera"))
        image.encoding = "bayer_rggb8"
        peer.send_frame(frame, color_image=image)
        if peer.wait(lambda: node.statistics.snapshot().failed >= 2, 0.1):
            break
    assert node.last_error.startswith("image encoding 'bayer_rggb8' is not supported here; supported: rgb8")
    assert capfd.readouterr().err.count("bayer_rggb8") == 1
    assert received == []
    peer.send_frames_until(frames, lambda: len(received) >= 1)
    assert node.is_active


def test_skeleton_node_continues_if_stamps_jump_back(host, add, peer, person) -> None:
    peer.subscribe(SkeletonArray, topics.SKELETONS)
    node = add(SkeletonNode)
    assert host.start() is None
    received = peer.received[topics.SKELETONS]
    peer.send_frames_until(repeat(person), lambda: len([m for m in received if m.skeletons]) >= 3)
    newest = stamp(received[-1])
    peer.send_frames_until(repeat(person), lambda: any(stamp(m) < newest and m.skeletons for m in received[-3:]))
    assert node.statistics.snapshot().failed == 0


def test_frame_node_without_images_logs_each_level_once_and_then_an_error(host, add, peer, capfd) -> None:
    node = add(SceneFlowNode, silence_s=0.1, startup_s=0.5)
    assert host.start() is None
    topic = "/camera/color/image_raw"
    output = ""

    def logged(level: str) -> bool:
        nonlocal output
        output += capfd.readouterr().err
        return f"[{level}]" in output

    line = f"no image on {topic}: it has no publisher"
    peer.wait_until(lambda: logged("ERROR"))
    levels = [part.split("]")[0] for part in output.split("[") if part.startswith(("INFO", "WARN", "ERROR"))]
    assert levels == ["INFO", "WARN", "ERROR"], output
    assert output.count(line) == 3 and node.last_error == line
    peer.send_frames_until(still(), lambda: node.statistics.snapshot().processed > 0)
    cause = "/peer publishes it but sends nothing: is the camera connected, or a recording without images?"
    peer.wait_until(lambda: node.last_error == f"no image on {topic}: {cause}")


def test_frame_node_first_image_withdraws_the_report_of_its_absence(host, add, peer) -> None:
    node = add(SceneFlowNode, silence_s=1.0)
    assert host.start() is None
    peer.wait_until(lambda: "no image on" in node.statistics.snapshot().last_error)
    assert node.statistics.seconds_since_error() == math.inf, "no error while the camera may be starting"
    peer.send_frames_until(still(), lambda: node.statistics.snapshot().last_error == "")


def test_frame_node_without_camera_info_reports_an_error(host, add, peer) -> None:
    node = add(SceneFlowNode, silence_s=0.3)
    assert host.start() is None
    message = "color images arrive, but no camera_info on /camera/color/camera_info: it has no publisher"
    for frame in still(100):
        head = c.header(frame.stamp_ns, frame.frame_id)
        peer.send(topics.COLOR, c.color_to_image(frame.color, head), topics.IMAGE_PUBLISHER)
        if peer.wait(lambda: node.last_error == message, 0.1):
            break
    assert node.last_error == message
    peer.send_frames_until(still(start_s=100.0), lambda: node.statistics.snapshot().processed > 0)


def test_frame_node_subscribes_only_while_active(host, add, peer) -> None:
    node = add(SkeletonNode)
    node.trigger_configure()
    peer.wait_for_subscribers(topics.COLOR, 0)
    node.trigger_activate()
    peer.wait_for_subscribers(topics.COLOR, 1)
    node.trigger_deactivate()
    peer.wait_for_subscribers(topics.COLOR, 0)


def test_hand_node_assigns_hands_of_a_real_person_to_the_body(host, add, peer, raised_hands) -> None:
    peer.subscribe(HandArray, topics.HANDS)
    peer.subscribe(SkeletonArray, topics.SKELETONS)
    add(SkeletonNode)
    add(HandNode)
    assert host.start() is None
    received = peer.received[topics.HANDS]
    bodies = peer.received[topics.SKELETONS]

    def sides_by_body() -> dict[str, set[str]]:
        """Return the sides of the hands that have a body of a message; on a slow machine skeletons may come late."""
        sides: dict[str, set[str]] = {body.body_id: set() for m in list(bodies) for body in m.skeletons}
        for hand in (hand for m in list(received) for hand in m.hands if hand.body_id in sides):
            sides[hand.body_id].add(hand.side)
        return sides

    peer.send_frames_until(repeat(raised_hands), lambda: {"left", "right"} in sides_by_body().values())
    messages = list(received)
    hands = [hand for m in messages for hand in c.message_to_hands(m)]
    assert all((stamp(m) - START_NS) % STEP_NS == 0 for m in messages)
    assert {(hand.layout, len(hand.positions)) for hand in hands} == {("hand_21", 21)}
    assert {hand.body_id for hand in hands if not hand.body_id.startswith("hand_")} <= set(sides_by_body())


def test_face_node_faces_have_the_stamp_of_their_frame(host, add, peer, person) -> None:
    peer.subscribe(FaceArray, topics.FACE)
    add(FaceNode)
    assert host.start() is None
    received = peer.received[topics.FACE]
    peer.send_frames_until(repeat(person), lambda: len([m for m in received if m.faces]) >= 3)
    messages = list(received)
    faces = [face for m in messages for face in c.message_to_faces(m)]
    assert all((stamp(m) - START_NS) % STEP_NS == 0 for m in messages)
    assert {(face.layout, face.positions.shape) for face in faces} == {("face_68", (68, 3))}


@pytest.mark.parametrize("node_class", [HandNode, FaceNode])
def test_body_parts_node_ignores_stale_skeletons(host, add, peer, node_class) -> None:
    node = add(node_class, skeleton_max_age_s=0.5)
    assert host.start() is None
    body_ids: list[list[str]] = []

    def process(frame, bodies):
        body_ids.append([body.body_id for body in bodies])
        return []

    node._perception.process = process
    body = Body(
        "body_7", "kinect_v2_25", np.ones((25, 3), np.float32), np.ones((25, 2), np.float32), np.ones(25, np.float32)
    )
    frames = still()
    for frame in frames:
        peer.send(topics.SKELETONS, c.bodies_to_message([body], c.header(frame.stamp_ns, "camera")))
        peer.send_frame(frame)
        if peer.wait(lambda: ["body_7"] in body_ids, 0.1):
            break
    assert ["body_7"] in body_ids
    peer.send_frames_until(frames, lambda: body_ids[-1] == [])


@pytest.mark.parametrize("node_class", [HandNode, FaceNode])
def test_body_parts_node_waits_for_skeletons_on_a_remapped_topic(context, host, peer, node_class) -> None:
    arguments = ["--ros-args", "-r", "skeletons:=people", "-p", "idle_after_s:=0.0"]
    node = node_class(context=context, cli_args=arguments)
    host.add(node)
    assert host.start() is None
    node._wait_s = 60.0
    peer.send("people", SkeletonArray(header=c.header(START_NS, "lens")))
    peer.wait_until(lambda: bool(node._recent) or peer.send("people", SkeletonArray(header=c.header(START_NS, "lens"))))
    found: list[SkeletonArray | None] = []
    thread = threading.Thread(target=lambda: found.append(node._nearest(START_NS + STEP_NS)))
    thread.start()
    peer.send("people", SkeletonArray(header=c.header(START_NS + STEP_NS, "lens")))
    thread.join(60.0)
    assert [stamp(message) for message in found] == [START_NS + STEP_NS]


def test_scene_flow_has_the_stamp_of_the_first_frame(host, add, peer, person) -> None:
    peer.subscribe(Image, topics.SCENE_FLOW)
    peer.subscribe(CameraInfo, topics.SCENE_FLOW_INFO)
    add(SceneFlowNode)
    assert host.start() is None
    received = peer.received[topics.SCENE_FLOW]
    peer.send_frames_until(repeat(person), lambda: len(received) >= 3)
    flow = c.image_to_flow(received[-1])
    assert flow.shape == (240, 320, 3)
    assert 0.3 < np.isfinite(flow).all(-1).mean() < 0.9
    assert np.nanmax(np.linalg.norm(flow, axis=-1)) <= 8.0
    assert all((stamp(m) - START_NS) % STEP_NS == 0 for m in received)
    intrinsics = c.info_to_intrinsics(peer.wait_for(topics.SCENE_FLOW_INFO)[0])
    assert intrinsics == INTRINSICS.resized(320, 240)


def test_scene_flow_preview_is_published_to_subscribers(host, add, peer, person) -> None:
    node = add(SceneFlowNode, height=120, camera_motion="estimate")
    assert host.start() is None
    peer.send_frames_until(repeat(person), lambda: node.statistics.snapshot().processed >= 3)
    peer.subscribe(Image, topics.SCENE_FLOW_PREVIEW)
    received = peer.received[topics.SCENE_FLOW_PREVIEW]
    peer.send_frames_until(repeat(person), lambda: len(received) >= 2)
    preview = c.image_to_color(received[-1])
    assert preview.shape == (120, 160, 3)
    assert (preview != 60).any()


def test_scene_flow_of_a_still_scene_is_zero_and_gaps_make_no_pair(host, add, peer) -> None:
    peer.subscribe(Image, topics.SCENE_FLOW)
    node = add(SceneFlowNode, height=48, max_gap_s=0.2)
    assert host.start() is None
    received = peer.received[topics.SCENE_FLOW]
    peer.send_frames_until(still(), lambda: len(received) >= 2)
    np.testing.assert_array_equal(c.image_to_flow(received[0]), 0)
    start_s, count = 500.0, node.statistics.snapshot().processed
    # Old frames may still be queued, so more new frames follow than the queue holds.
    peer.send_frames_until(still(dt=1.0, start_s=start_s), lambda: node.statistics.snapshot().processed >= count + 20)
    assert all(stamp(message) < start_s * 1e9 for message in list(received))


def test_scene_flow_without_depth_reports_an_error(host, add, peer, capfd) -> None:
    node = add(SceneFlowNode, depth_wait_s=0.0)
    assert host.start() is None
    for frame in still(depth=None):
        peer.send_frame(frame)
        if peer.wait(lambda: node.statistics.snapshot().failed >= 1, 0.1):
            break
    assert node.last_error == "scene flow needs color and depth, but the frame has none: use an RGB-D camera"


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"method": "sf2se3"}, "cannot configure: unknown scene flow method 'sf2se3'; known: dis"),
        ({"camera_motion": "tf"}, "cannot configure: camera_motion 'tf' needs tf2_ros, which comes with ROS 2"),
        ({"dis__finest_scale": 9}, "cannot configure: parameter dis.finest_scale is 9, allowed: int in 0 to 5"),
        ({"dis__finest": 1}, "cannot configure: unknown parameter dis.finest; known: dis."),
    ],
)
def test_scene_flow_wrong_settings_fail_to_configure(host, add, parameters, line) -> None:
    node = add(SceneFlowNode, **parameters)
    assert host.start() == "scene_flow_node"
    assert node.last_error.startswith(line)


def test_listen_nodes_of_one_process_share_subscriptions(host, add, peer) -> None:
    first, second = add(SceneFlowNode, height=48), add(FaceNode)
    frames: dict[str, list[RgbdFrame]] = {"first": [], "second": []}
    first.process = frames["first"].append
    second.process = frames["second"].append
    assert host.start() is None
    stream = still()
    peer.send_frames_until(stream, lambda: all(len(received) >= 3 for received in frames.values()))
    peer.wait_for_subscribers(topics.COLOR, 1)
    stamps = {frame.stamp_ns: frame for frame in frames["first"]}
    pairs = [(stamps[frame.stamp_ns], frame) for frame in frames["second"] if frame.stamp_ns in stamps]
    assert pairs
    assert all(first_frame is second_frame for first_frame, second_frame in pairs)
    assert pairs[0][0].depth is not None
    assert not pairs[0][0].depth.flags.writeable
    first.trigger_deactivate()
    count = len(frames["second"])
    peer.send_frames_until(stream, lambda: len(frames["second"]) >= count + 2)
    peer.wait_for_subscribers(topics.COLOR, 1)
    second.trigger_deactivate()
    peer.wait_for_subscribers(topics.COLOR, 0)


def test_listen_different_topics_are_not_shared(host, add, peer) -> None:
    add(SceneFlowNode)
    add(FaceNode, use_depth=False)
    assert host.start() is None
    peer.wait_for_subscribers(topics.COLOR, 2)
    peer.wait_for_subscribers(topics.DEPTH, 1)
