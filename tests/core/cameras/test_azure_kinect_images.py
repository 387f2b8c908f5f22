"""Sizes, lenses and calibration files of the Azure Kinect driver."""

import dataclasses

import cv2
import numpy as np
import pytest

from actrec.cameras.azure_kinect.camera import AzureKinectCamera
from actrec.types import Intrinsics
from actrec.utils import calibration_files
from actrec.utils.calibration_files import DepthGeometry
from actrec.utils.errors import ConfigError, InputError
from tests.core.cameras.k4a import studio

SERIAL = "000123456789"


@pytest.fixture
def take(sdk, tmp_path):
    """Return a function that reads one frame of a camera with some settings."""

    def read(lens=(), **options):
        sdk.plug(studio.simulated_camera(lens=lens).write(tmp_path / "scene"))
        with AzureKinectCamera(library=sdk.library, **options) as camera:
            sdk.push(0, 1_000_000)
            frame = camera.read()
        frame.check()
        return frame

    return read


def share_correct(depth: np.ndarray) -> float:
    return float((studio.agreement(depth, studio.rendered_views()[0].rendering.depth) < 0.002).mean())


def test_registered_images_distortion_has_opencv_order(take):
    frame = take(lens=studio.LENS)
    assert frame.intrinsics.distortion == pytest.approx(studio.LENS, abs=1e-6)
    # Undistorted, the depth equals a camera's without distortion.
    c = studio.COLOR
    size, straight = (c.width, c.height), c.matrix
    maps = cv2.initUndistortRectifyMap(
        frame.intrinsics.matrix, np.array(frame.intrinsics.distortion), None, straight, size, cv2.CV_32FC1
    )
    depth = cv2.remap(frame.depth, *maps, cv2.INTER_NEAREST, borderValue=np.nan)
    assert share_correct(depth) > 0.999 and share_correct(frame.depth) < 0.95


def test_registered_images_depth_of_another_unit_is_registered_as_its_millimeters(take, monkeypatch):
    """A camera through a vendor's wrapper that sends units of 2 mm."""
    assert take().depth_scale == 0.001
    sent = dataclasses.replace(studio.shot(), depth=studio.shot().depth / 2)
    monkeypatch.setattr(studio, "shot", lambda: sent)
    frame = take(depth_scale=0.002)
    assert frame.depth_scale == 0.002
    exact = studio.rendered_views()[0].rendering.depth
    assert (studio.agreement(frame.depth, exact) < 0.003).mean() > 0.999


def test_registered_images_rectified_images_have_no_distortion(take):
    frame = take(lens=studio.LENS, rectify=True)
    assert frame.intrinsics.distortion == ()
    exact = studio.rendered_views()[0].rendering.depth
    assert (studio.agreement(frame.depth, exact) < 0.002).mean() > 0.999


def test_registered_images_registers_at_configured_width(take):
    frame = take(width=640)
    assert frame.depth.shape == (360, 640)
    c = studio.COLOR.resized(640, 360)
    assert (frame.intrinsics.fx, frame.intrinsics.cx) == (pytest.approx(c.fx), pytest.approx(c.cx))
    exact = studio.rendered_views(2.0, c)[0].rendering
    assert (studio.agreement(frame.depth, exact.depth) < 0.002).mean() > 0.999
    assert np.abs(frame.color.astype(int) - exact.color).mean() < 6


def test_registered_images_width_not_a_binary_fraction_is_resized(take):
    frame = take(width=500)
    assert frame.depth.shape == (281, 500)
    smaller = cv2.resize(studio.shot().color, (500, 281), interpolation=cv2.INTER_AREA)
    assert np.abs(frame.color.astype(int) - smaller).mean() < 3


def test_registered_images_width_above_images_raises(take):
    with pytest.raises(ConfigError, match="1280 wide"):
        take(width=1920)


def write_calibration(color: Intrinsics | None = None, geometry: DepthGeometry | None = None) -> None:
    """Write calibration files, as `actrec calibrate` does."""
    if color is not None:
        calibration_files.write_intrinsics(calibration_files.path_of(SERIAL, calibration_files.COLOR), color, SERIAL)
    if geometry is not None:
        path = calibration_files.path_of(SERIAL, calibration_files.DEPTH)
        calibration_files.write_intrinsics(path, studio.DEPTH, SERIAL, geometry)


@pytest.fixture
def wrong_factory(monkeypatch):
    """Make the factory calibration wrong, as after a fall; return the true pose of the depth camera."""
    turned = np.eye(4)
    turned[:3, :3] = cv2.Rodrigues(np.array([0.01, -0.015, 0.0]))[0]
    turned[:3, 3] = 0.004, -0.003, 0.006
    monkeypatch.setattr(studio, "TO_COLOR", turned @ studio.TO_COLOR)
    return np.linalg.inv(turned) @ studio.TO_COLOR


def test_registered_images_calibration_files_replace_factory_calibration(take, wrong_factory):
    assert share_correct(take().depth) < 0.8
    write_calibration(studio.COLOR, DepthGeometry(wrong_factory))
    frame = take()
    assert frame.intrinsics == studio.COLOR
    assert share_correct(frame.depth) > 0.99
    assert share_correct(take(calibration="factory").depth) < 0.8


def test_registered_images_applies_depth_scale_and_bias(take, sdk, tmp_path):
    good = studio.shot()
    off = dataclasses.replace(good, depth=(good.depth - 0.012) / 1.01)
    write_calibration(studio.COLOR, DepthGeometry(studio.TO_COLOR, 1.01, 0.012))
    sdk.plug(studio.simulated_camera(off).write(tmp_path / "off"))
    with AzureKinectCamera(library=sdk.library) as camera:
        sdk.push(0, 1_000_000)
        assert share_correct(camera.read().depth) > 0.99


def test_registered_images_color_file_alone_is_used_by_sdk_registration(take):
    c = studio.COLOR
    write_calibration(Intrinsics(640, 360, c.fx / 2 * 1.05, c.fy / 2 * 1.05, c.cx / 2, c.cy / 2))
    frame = take()
    assert (frame.intrinsics.width, frame.intrinsics.fx) == (1280, pytest.approx(c.fx * 1.05))
    zoomed = dataclasses.replace(frame.intrinsics)
    exact = studio.rendered_views(2.0, zoomed)[0].rendering.depth
    assert (studio.agreement(frame.depth, exact) < 0.002).mean() > 0.999


def test_registered_images_calibration_with_other_aspect_raises(take, sdk):
    write_calibration(Intrinsics(640, 480, 500, 500, 319.5, 239.5))
    with pytest.raises(InputError, match="another aspect"):
        take()
    assert sdk.live() == {}
    assert take(calibration="factory").depth is not None


def test_registered_images_depth_lens_without_extrinsics_is_used(sdk, tmp_path):
    lens = dataclasses.replace(studio.DEPTH, fx=1.05 * studio.DEPTH.fx, fy=1.05 * studio.DEPTH.fy)
    calibration_files.write_intrinsics(calibration_files.path_of(SERIAL, "depth"), lens, f"{SERIAL}_depth")
    sdk.plug(studio.simulated_camera().write(tmp_path / "scene"))
    with AzureKinectCamera(library=sdk.library) as camera:
        sdk.push(0, 1_000_000)
        frame, calibration = camera.read(), camera.calibration()
    assert calibration.depth.fx == pytest.approx(lens.fx) and share_correct(frame.depth) < 0.9
    np.testing.assert_allclose(calibration.geometry.to_color, studio.TO_COLOR, atol=1e-6)


def test_registered_images_without_registration_keeps_depth_image(sdk, tmp_path):
    sdk.plug(studio.simulated_camera().write(tmp_path / "scene"))
    with AzureKinectCamera(library=sdk.library, register=False) as camera:
        sdk.push(0, 1_000_000)
        frame, calibration = camera.read(), camera.calibration()
    exact = studio.rendered_views()[1].rendering.depth
    assert frame.depth.shape == exact.shape
    np.testing.assert_allclose(frame.depth, exact, atol=0.0006)
    assert (calibration.serial, calibration.color) == (SERIAL, frame.intrinsics)
    np.testing.assert_allclose(calibration.depth.matrix, studio.DEPTH.matrix, atol=1e-3)
    np.testing.assert_allclose(calibration.geometry.to_color, studio.TO_COLOR, atol=1e-6)
    with pytest.raises(InputError, match="register depth to color first"):
        frame.check()  # no node publishes it
