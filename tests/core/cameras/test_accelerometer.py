"""The direction of gravity from accelerometers: the filter, a RealSense in software, a simulated Azure Kinect."""

import dataclasses
import logging
import time

import numpy as np
import pytest

from actrec.utils import geometry, gravity
from actrec.utils.gravity import GRAVITY_M_S2, GravityFilter

RATE_HZ = 100
MOUNT = geometry.rotation(0, 0.3) @ geometry.rotation(2, 2.0)  # sensor to color


def degrees(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b, -1, 1))))


class Shaken:
    """A mounted accelerometer: its pitch by time, noise, and the robot's acceleration forward in m/s²."""

    def __init__(self, pitch_deg, forward=lambda t: 0.0, gyroscope: bool = True, seed: int = 0):
        self.pitch_deg, self.forward, self.gyroscope = pitch_deg, forward, gyroscope
        self.random = np.random.default_rng(seed)
        self.filter = GravityFilter(MOUNT)
        self.time, self.errors = 0.0, []

    def up(self, t: float) -> np.ndarray:
        return gravity.up_from_angles(0, self.pitch_deg(t)).astype(np.float64)

    def run(self, seconds: float) -> float:
        """Feed samples; return the largest error of `up` in degrees."""
        self.errors = []
        for _ in range(round(seconds * RATE_HZ)):
            t, step = self.time, 1 / RATE_HZ
            stamp = round(t * 1e9)
            if self.gyroscope:
                rate = np.radians(self.pitch_deg(t) - self.pitch_deg(t - step)) / step
                # Pitching down rotates the camera about its x axis to the negative side (y is down).
                turn = np.array([-rate, 0, 0]) + self.random.normal(0, 0.005, 3)
                self.filter.rotate(stamp, MOUNT.T @ turn)
            force = GRAVITY_M_S2 * self.up(t) + [0, 0, self.forward(t)] + self.random.normal(0, 0.08, 3)
            self.filter.add(stamp, MOUNT.T @ force)
            self.time += step
            if self.filter.up is not None:
                self.errors.append(degrees(self.filter.up, self.up(t)))
        return max(self.errors, default=np.nan)


@pytest.mark.parametrize("gyroscope", [True, False])
def test_filter_static_camera_is_within_half_a_degree(gyroscope: bool) -> None:
    camera = Shaken(lambda t: 25.0, gyroscope=gyroscope)
    camera.run(0.4)
    assert camera.filter.up is None, "half a second is averaged"
    assert camera.run(10) < 0.5


def test_filter_turning_mount_is_followed() -> None:
    """A head pitches by 40° within a second: with a gyroscope nearly exactly, without one half a second later."""
    head = [Shaken(lambda t: 40 * np.clip(t - 2, 0, 1), gyroscope=gyroscope) for gyroscope in (True, False)]
    for camera in head:
        camera.run(2)
    exact, late = (camera.run(1) for camera in head)
    assert exact < 1.5 and late < 18
    assert all(camera.run(3) < 18 and camera.errors[-1] < 0.7 for camera in head)


@pytest.mark.parametrize("gyroscope, limit", [(True, 2.5), (False, 10)])
def test_filter_driving_robot_does_not_jump(gyroscope: bool, limit: float) -> None:
    """A robot accelerates with 2 m/s² for half a second, and brakes: 12° of apparent tilt."""
    camera = Shaken(lambda t: 10.0, lambda t: 2.0 * ((1 < t < 1.5) - (3 < t < 3.5)), gyroscope)
    assert camera.run(5) < limit
    steps = np.abs(np.diff(camera.errors))
    assert steps.max() < 0.5


def test_filter_wrong_scale_free_fall_and_gaps_have_no_direction() -> None:
    measured = GravityFilter()
    for k in range(200):
        measured.add(k * 10**7, np.array([0, -8.0, 0]))
        measured.add(k * 10**7 + 1, np.array([np.nan, 0, 0]))
    assert measured.up is None and measured.rejected == 400
    for k in range(200, 300):
        measured.add(k * 10**7, np.array([0, -9.9, 0]))
    assert degrees(measured.up, np.array([0, -1, 0])) < 0.1 and measured.rejected == 0
    measured.add(10**11, np.array([9.8, 0, 0]))
    assert measured.up is None, "after a pause it averages again"


UP = gravity.up_from_angles(180, 20)


def test_realsense_measures_the_direction_of_gravity(monkeypatch, tmp_path) -> None:
    rs = pytest.importorskip("pyrealsense2")
    from actrec.cameras.realsense import device as realsense_device
    from actrec.cameras.realsense.camera import RealSenseCamera
    from tests.core.cameras.software_realsense import SoftwareRealSense, gray_image

    monkeypatch.setenv("ACTREC_CAMERAS", str(tmp_path))
    context = rs.context()
    monkeypatch.setattr(realsense_device, "open_context", lambda: context)
    device = SoftwareRealSense(mount=MOUNT)
    device.plug_into(context)
    flat = np.full((480, 640), 1.5, np.float32)

    def read(camera, force: np.ndarray):
        for k in range(80):
            device.move(rs.stream.gyro, np.zeros(3), 10.0 * k)
            device.move(rs.stream.accel, MOUNT.T @ force, 10.0 * k)
        deadline = time.monotonic() + 5
        while camera._motion.filter.measured == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        device.send(gray_image(), flat)
        return camera.read(5.0)

    with RealSenseCamera() as camera:
        frame = read(camera, GRAVITY_M_S2 * UP)
        assert frame.up_source == "accelerometer" and degrees(frame.up, UP) < 0.1
    with RealSenseCamera(accelerometer=False) as camera:
        device.send(gray_image(), flat)
        assert camera.read(5.0).up is None
    device.unplug()


def test_realsense_without_extrinsics_of_its_accelerometer_warns(caplog) -> None:
    rs = pytest.importorskip("pyrealsense2")
    from actrec.cameras.realsense.device import start_motion
    from tests.core.cameras.software_realsense import SoftwareRealSense

    context, device = rs.context(), SoftwareRealSense(mount=np.eye(3))
    device.plug_into(context)
    other = SoftwareRealSense()
    other.plug_into(context)
    with caplog.at_level(logging.WARNING):
        assert start_motion(device.device, other._color, "S1") is None
    assert "the accelerometer of RealSense S1 is not used" in caplog.text and "set mount" in caplog.text
    assert start_motion(other.device, other._color, "S2") is None, "a camera without one is silent"


@pytest.mark.slow
@pytest.mark.parametrize("recorded", [False, True])
def test_azure_kinect_measures_the_direction_of_gravity(sdk, tmp_path, recorded: bool) -> None:
    from actrec.cameras.azure_kinect.camera import AzureKinectCamera
    from tests.core.cameras.k4a import studio

    shot = dataclasses.replace(studio.shot(), color_us=700_000, depth_us=700_000)
    path = studio.simulated_camera(shot, imu_to_color=MOUNT).write(tmp_path / "scene")
    for k in range(80):
        sdk.move(10_000 * k, MOUNT.T @ (GRAVITY_M_S2 * UP))
    if not recorded:
        sdk.plug(path)
    options = {"recording": str(path), "rate": 0.0} if recorded else {}
    with AzureKinectCamera(library=sdk.library, **options) as camera:
        if not recorded:
            sdk.push(0, 1_000_000)
        frame = camera.read()
    assert frame.up_source == "accelerometer" and degrees(frame.up, UP) < 0.1


def test_filter_silent_sensor_has_no_direction(monkeypatch) -> None:
    camera = Shaken(lambda t: 25.0)
    camera.run(2)
    assert camera.filter.up is not None
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + 3.0)
    assert camera.filter.up is None
    assert camera.run(2) < 0.5, "as soon as samples come again"
