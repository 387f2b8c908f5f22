"""Depth that librealsense decimates, registered: by the factory's calibration and by the camera's own files."""

import numpy as np
import pyrealsense2 as rs
import pytest

from actrec.cameras.realsense import device as realsense_device
from actrec.cameras.realsense.camera import RealSenseCamera
from actrec.utils import calibration_files
from tests.core.cameras.software_realsense import SoftwareRealSense, blank


@pytest.fixture
def device(monkeypatch, tmp_path):
    monkeypatch.setenv("ACTREC_CAMERAS", str(tmp_path))
    context = rs.context()
    monkeypatch.setattr(realsense_device, "open_context", lambda: context)
    made = SoftwareRealSense()
    made.plug_into(context)
    return made


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("every", [3, 4, 7])
def test_read_decimated_depth_keeps_geometry(device, every, own):
    depth = np.full((480, 640), 2.0, np.float32)
    depth[:336, :336] = 1.0  # whole squares of three, of four and of seven
    if own:
        geometry = calibration_files.DepthGeometry(device.views.to_color)
        path = calibration_files.path_of(device.serial, "depth")
        calibration_files.write_intrinsics(path, device.views.depth, device.serial, geometry)
    corners = []
    for decimation in (1, every):
        with RealSenseCamera(decimation=decimation) as camera:
            device.give(blank(), depth)
            corners.append(np.argwhere(camera.read().depth < 1.5).max(axis=0))
    assert np.abs(corners[1] - corners[0]).max() <= 1


def test_read_without_filters_has_reported_intrinsics(device):
    with RealSenseCamera(decimation=2, register=False) as camera:
        device.give(blank(), np.full((480, 640), 2.0, np.float32))
        lens = camera.calibration().depth
        assert camera.read().depth.shape == (lens.height, lens.width) == (480, 640)
