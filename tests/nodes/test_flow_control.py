"""A recording with rate 0 runs as fast as the graph processes it, and no faster."""

import json
import threading

import cv2
import numpy as np
import pytest
from actrec_msgs.msg import ActionLabel, SkeletonArray
from rclpy.node import Node
from sensor_msgs.msg import Image

from actrec_nodes.camera_node import CameraNode, FlowControl
from actrec_nodes.common import conversions, topics

pytestmark = pytest.mark.ros


@pytest.fixture
def recording(tmp_path):
    """Write a N-UCLA file of 300 frames."""
    joints = np.random.default_rng(1).normal([0, 0, 2.5], 0.3, (300, 20, 3)).round(4).tolist()
    path = tmp_path / "a01_s01_e00_v01.json"
    path.write_text(json.dumps({"file_name": path.stem, "skeletons": joints, "label": 1}))
    return path


class SlowRecognizer:
    """A subscriber that publishes a label for every third frame while `gate` is set."""

    def __init__(self, peer):
        self.stamps, self.ahead, self._label = (
            [],
            0,
            peer.create_publisher(ActionLabel, topics.ACTION_LABEL, topics.SMALL),
        )
        self.answered, self.gate = -1, threading.Event()
        peer.create_subscription(SkeletonArray, topics.SKELETONS, self._on_skeletons, topics.WINDOW_SUBSCRIBER)

    def _on_skeletons(self, message):
        self.stamps.append(conversions.stamp_to_ns(message.header.stamp))
        self.ahead = max(self.ahead, len(self.stamps) - 1 - self.answered)
        if len(self.stamps) % 3 == 0 and self.gate.is_set():
            self.answer(message.header)

    def answer(self, header):
        self.answered = len(self.stamps) - 1
        self._label.publish(ActionLabel(header=header))


def start_replay(add, host, recording, **parameters):
    node = add(CameraNode, driver="replay", on_end="stay", replay__path=str(recording), replay__rate=0.0, **parameters)
    assert host.start() is None
    return node


def test_flow_control_delivers_every_frame_with_few_ahead(add, host, peer, recording, monkeypatch):
    # Long timeouts, which a loaded machine does not reach.
    monkeypatch.setattr(FlowControl.__init__, "__defaults__", (60.0, 60.0, 60.0))
    recognizer = SlowRecognizer(peer)
    recognizer.gate.set()
    peer.subscribe(SkeletonArray, topics.SKELETONS, topics.WINDOW_SUBSCRIBER)
    start_replay(add, host, recording, joints_ahead=9)
    peer.wait_for(topics.SKELETONS, 300)
    peer.wait_until(lambda: len(recognizer.stamps) == 300)
    assert recognizer.ahead <= 9


def test_flow_control_unanswered_frame_delays_for_patience_only(add, host, peer, recording, monkeypatch):
    monkeypatch.setattr(FlowControl.__init__, "__defaults__", (0.02, 1.0, 0.02))
    recognizer = SlowRecognizer(peer)  # publishes no label
    peer.subscribe(SkeletonArray, topics.SKELETONS, topics.WINDOW_SUBSCRIBER)
    node = start_replay(add, host, recording, joints_ahead=30)
    peer.wait_for(topics.SKELETONS, 300)
    assert recognizer.answered == -1
    assert node.is_active


def test_flow_control_skeletons_answer_images(add, host, peer, tmp_path, monkeypatch):
    """A video waits for skeletons, not for the rarer labels."""
    monkeypatch.setattr(FlowControl.__init__, "__defaults__", (60.0, 60.0, 60.0))
    for k in range(20):
        cv2.imwrite(str(tmp_path / f"{k:04d}.png"), np.full((48, 64, 3), 10 * k, np.uint8))
        cv2.imwrite(str(tmp_path / f"{k:04d}_depth.png"), np.full((48, 64), 2000, np.uint16))
    (tmp_path / "intrinsics.yaml").write_text(
        "{width: 64, height: 48, fx: 50.0, fy: 50.0, cx: 31.5, cy: 23.5, depth_scale: 0.001}"
    )
    peer.create_publisher(ActionLabel, topics.ACTION_LABEL, topics.SMALL)  # publishes nothing
    skeletons = peer.create_publisher(SkeletonArray, topics.SKELETONS, topics.SMALL)
    images = []

    def answer(image):
        images.append(image)
        skeletons.publish(SkeletonArray(header=image.header))

    peer.create_subscription(Image, topics.COLOR, answer, topics.IMAGE_PUBLISHER)
    peer.subscribe(Image, topics.COLOR, topics.IMAGE_PUBLISHER)
    node = start_replay(add, host, tmp_path)
    peer.wait_for(topics.COLOR, 20)
    peer.wait_until(lambda: len(images) == 20)
    assert node.statistics.snapshot().failed == 0


def test_flow_control_discovers_a_publisher_on_a_remapped_topic(peer):
    remapped = Node("camera", context=peer.context, cli_args=["--ros-args", "-r", "skeletons:=people"])
    try:
        flow = FlowControl(remapped, discovery_s=0.0)  # type: ignore[arg-type]
        assert flow._discover(joints_alone=False) is None
        peer.create_publisher(SkeletonArray, "people", topics.SMALL)
        peer.wait_until(lambda: flow._discover(joints_alone=False) == topics.SKELETONS)
        flow.close()
    finally:
        remapped.destroy_node()
