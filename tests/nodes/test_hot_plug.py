"""The camera node reopens a camera that is unplugged and plugged in again."""

import re
import time

import numpy as np
import pyrealsense2 as rs
import pytest

from actrec.cameras.realsense import device
from actrec_nodes.camera_node import CameraNode
from tests.core.cameras.k4a import studio
from tests.core.cameras.k4a.simulated_sdk import built_sdk, sdk
from tests.core.cameras.software_realsense import SoftwareRealSense, gray_image

pytestmark = pytest.mark.ros

__all__ = ["built_sdk", "sdk"]
FLAT = np.full((480, 640), 1.5, np.float32)


class RealSense:
    """A software RealSense that a test plugs in and unplugs."""

    error = r"RealSense 843112070001 was unplugged|no RealSense is connected"

    def __init__(self, request):
        self.options = {"driver": "realsense"}
        self.patch = request.getfixturevalue("monkeypatch")
        self.patch.setenv("ACTREC_CAMERAS", str(request.getfixturevalue("tmp_path")))
        self.context = rs.context()
        self.patch.setattr(device, "open_context", lambda: self.context)
        self.device = SoftwareRealSense()
        self.plug()

    def plug(self):
        self.patch.setattr(device, "connected", CONNECTED)
        self.device.plug_into(self.context)

    def unplug(self):
        self.device.unplug()
        # The pipeline keeps the software device alive, so the patch removes it.
        self.patch.setattr(device, "connected", lambda context: {})

    def give(self, number):
        self.device.send(gray_image(), FLAT)


CONNECTED = device.connected


class AzureKinect:
    """An Azure Kinect of the simulated SDK."""

    error = r"Azure Kinect .*(unplugged|no Azure Kinect is connected)|no Azure Kinect is connected"

    def __init__(self, request):
        self.sdk = request.getfixturevalue("sdk")
        self.path = studio.simulated_camera().write(request.getfixturevalue("tmp_path") / "stage")
        self.options = {"driver": "azure_kinect", "azure_kinect__library": self.sdk.library}
        self.plug()

    def plug(self):
        self.sdk.plug(self.path)

    def unplug(self):
        self.sdk.unplug()

    def give(self, number):
        try:
            self.sdk.push(0, 1_000_000 + 33_333 * number)
        except AssertionError:  # the camera has not started yet
            return


@pytest.mark.parametrize("kind", [RealSense, AzureKinect])
def test_realsense_camera_reconnects_after_hot_plug(kind, request, add, monkeypatch):
    camera = kind(request)
    log: list[str] = []
    monkeypatch.setattr(CameraNode, "complain", lambda self, line, level="error": log.append(line))
    node = add(CameraNode, read_timeout_s=1.0, retry_s=0.05, retry_max_s=0.2, **camera.options)
    assert node.start()

    number = 0

    def send_frames_until(condition) -> None:
        nonlocal number
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, log
            camera.give(number)
            number += 1
            time.sleep(0.03)

    def processed() -> int:
        return node.statistics.snapshot().processed

    for _ in range(2):
        count = processed()
        send_frames_until(lambda count=count: processed() >= count + 3)
        log.clear()
        camera.unplug()
        deadline = time.monotonic() + 60
        while not any(re.search(camera.error, line) for line in log) or sum("next attempt in" in x for x in log) < 2:
            assert time.monotonic() < deadline, log
            time.sleep(0.05)
        assert node.is_active, "the node waits for it"
        camera.plug()
    count = processed()
    send_frames_until(lambda: processed() >= count + 3)
    assert node.figures()["without_color_or_depth"] == 0
    node.close()
