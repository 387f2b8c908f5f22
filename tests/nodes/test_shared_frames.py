"""Frames of a node whose image topics are remapped."""

from typing import Any

import numpy as np
from rclpy.node import Node

from actrec.types import Intrinsics
from actrec_nodes.common import conversions as c
from actrec_nodes.common.frame_node import FrameSubscription
from actrec_nodes.common.synchronizer import SynchronizerConfig


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
