"""Frames of a node whose image topics are remapped."""

from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from actrec.types import Intrinsics
from actrec_nodes.common import conversions as c
from actrec_nodes.common.frame_node import FrameSubscription
from actrec_nodes.common.synchronizer import FirstCamera, SynchronizerConfig


def test_listen_rectified_images_have_rectified_intrinsics(context, host, peer) -> None:
    remaps = ["--ros-args", "-r", "camera/color/image_raw:=lens/image_rect_color"]
    node = Node("looker", context=context, cli_args=[*remaps, "-r", "camera/color/camera_info:=lens/camera_info"])
    host.add(node)
    received: list[Any] = []
    complaints: list[str] = []
    frames = FrameSubscription(node, SynchronizerConfig(use_depth=False), received.append, complaints.append)
    raw = c.intrinsics_to_info(Intrinsics(8, 6, 10, 10, 4, 3, (0.1, -0.2, 0.0, 0.0, 0.05)), c.header(0, "lens"))
    raw.p = [9.0, 0.0, 3.5, 0.0, 0.0, 9.0, 2.5, 0.0, 0.0, 0.0, 1.0, 0.0]

    def publish() -> bool:
        peer.send("lens/camera_info", raw)
        peer.send("lens/image_rect_color", c.color_to_image(np.zeros((6, 8, 3), np.uint8), c.header(10**9, "lens")))
        return bool(received)

    peer.wait_until(publish)
    frames.close()
    assert received[0].frame(complaints.append).intrinsics == Intrinsics(8, 6, 9, 9, 3.5, 2.5)


def test_first_camera_second_one_on_its_topics_is_ignored() -> None:
    lines: list[str] = []
    now = [0.0]
    camera = FirstCamera(lines.append, lambda: now[0])

    def send(frame_id: str, width: int = 640) -> bool:
        now[0] += 0.03
        return camera.accepts(Image(header=Header(frame_id=frame_id), width=width, height=480))

    assert all(send("left") for _ in range(5)) and all(send("left", 1280) for _ in range(5)), "its size was changed"
    now[0] += 3.0
    assert send("left", 1280)
    found = [send(frame_id, 1280) for frame_id in 10 * ("left", "right")]
    assert found[:2] == [True, True] and found[2:] == 9 * [True, False] and "'right' (1280×480) are ignored" in lines[0]
    now[0] += 3.0
    assert send("right"), "the first one has gone"
