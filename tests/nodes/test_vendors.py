"""Vendors' own ROS drivers in place of camera_node: their topic names, encodings and camera_info."""

from array import array
from pathlib import Path

import numpy as np
import pytest
import yaml
from actrec_msgs.msg import SkeletonArray
from sensor_msgs.msg import CameraInfo, Image

from actrec.cameras.simulated import SimulatedCamera
from actrec.types import RgbdFrame
from actrec_nodes.common import conversions, topics
from actrec_nodes.perception_nodes import SkeletonNode

pytestmark = pytest.mark.ros

# Color encoding, depth encoding, distortion model and number of coefficients of each driver.
DRIVERS = [
    ("realsense2_camera", "rgb8", "16UC1", "plumb_bob", 5),
    ("azure_kinect_ros_driver", "bgra8", "16UC1", "rational_polynomial", 8),
    ("azure_kinect_ros_driver", "bgra8", "32FC1", "rational_polynomial", 8),
    ("orbbec_camera", "rgb8", "16UC1", "rational_polynomial", 8),
    ("orbbec_camera", "bgr8", "16UC1", "plumb_bob", 5),
]


@pytest.fixture(scope="module")
def frame() -> RgbdFrame:
    with SimulatedCamera(width=320, height=240, noise=False, realtime=False) as camera:
        return camera.read()


def image(pixels: np.ndarray, encoding: str, frame: RgbdFrame) -> Image:
    height, width = pixels.shape[:2]
    step = pixels.strides[0]
    return Image(
        header=conversions.header(frame.stamp_ns, "vendors_optical_frame"), height=height, width=width,
        encoding=encoding, step=step, data=array("B", pixels.tobytes()),
    )  # fmt: skip


def vendor_images(frame: RgbdFrame, color: str, depth: str) -> tuple[Image, Image]:
    order = {"rgb8": [0, 1, 2], "bgr8": [2, 1, 0], "bgra8": [2, 1, 0]}[color]
    pixels = np.ascontiguousarray(np.asarray(frame.color)[..., order])
    if color == "bgra8":
        pixels = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    meters = np.nan_to_num(frame.depth)
    raw = np.round(meters * 1000).astype(np.uint16) if depth == "16UC1" else frame.depth.astype(np.float32)
    return image(pixels, color, frame), image(raw, depth, frame)


@pytest.mark.parametrize(("vendor", "color", "depth", "model", "coefficients"), DRIVERS)
def test_vendor_driver_messages_give_skeletons(context, host, peer, frame, vendor, color, depth, model, coefficients):
    remaps = [item for name, vendor_name in topics.vendor_remaps(vendor) for item in ("-r", f"{name}:={vendor_name}")]
    node = SkeletonNode(context=context, cli_args=["--ros-args", *remaps])
    host.add(node)
    peer.subscribe(SkeletonArray, topics.SKELETONS)
    assert node.start()
    names = topics.VENDORS[vendor]
    info = conversions.intrinsics_to_info(frame.intrinsics, conversions.header(frame.stamp_ns, "vendors"))
    info.distortion_model, info.d = model, [0.0] * coefficients
    images = vendor_images(frame, color, depth)

    def publish() -> bool:
        for topic, message in ((names[topics.COLOR_INFO], info), (names[topics.DEPTH_INFO], info)):
            assert isinstance(message, CameraInfo)
            peer.send(topic, message, topics.IMAGE_PUBLISHER)
        peer.send(names[topics.DEPTH], images[1], topics.IMAGE_PUBLISHER)
        peer.send(names[topics.COLOR], images[0], topics.IMAGE_PUBLISHER)
        return peer.wait(lambda: any(message.skeletons for message in peer.received[topics.SKELETONS]), 0.3)

    assert any(publish() for _ in range(60)), "no person found"
    found = next(message for message in peer.received[topics.SKELETONS] if message.skeletons)
    assert conversions.stamp_to_ns(found.header.stamp) == frame.stamp_ns
    assert found.header.frame_id == "vendors_optical_frame"
    (body,) = conversions.message_to_bodies(found)
    (expected,) = frame.skeletons
    joints = [0, 1, 4, 8, 12, 16]  # spine, shoulders, hips, which are visible in depth
    assert np.nanmedian(np.linalg.norm(body.positions[joints] - expected.positions[joints], axis=1)) < 0.12


@pytest.mark.parametrize("vendor", sorted(topics.VENDORS))
def test_vendors_have_a_parameter_file_with_their_command(root: Path, vendor: str):
    text = (root / "config" / f"{vendor}.yaml").read_text()
    assert f"ros2 launch {vendor} " in text and f"vendor:={vendor} params_file:=" in text
    assert list(yaml.safe_load(text)) == ["/**"]
