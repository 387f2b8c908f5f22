"""RealSense devices: discovery, options, motion sensors, and explanations of librealsense's errors."""

import contextlib
import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyrealsense2 as rs

from actrec.utils.calibration_files import transform
from actrec.utils.errors import ActrecError, ConfigError, DeviceError
from actrec.utils.gravity import GravityFilter

logger = logging.getLogger(__name__)

USB = Path("/sys/bus/usb/devices")

_UDEV = (
    "install librealsense's udev rules (99-realsense-libusb.rules, from its config folder) into /etc/udev/rules.d, "
    "run `sudo udevadm control --reload && sudo udevadm trigger`, and plug the camera in again"
)

_POLL_S = 0.1
_LEAVE_S = 3.0  # a camera that is reset is off the bus by then
MIN_MOTION_HZ = 50  # the slowest profile of a motion sensor of at least this rate is used


def open_context() -> Any:
    """Return a librealsense context for USB cameras, without its own DDS, which could disturb ROS."""
    return rs.context('{"dds": {"enabled": false}}')


def info(device: Any, field: Any) -> str:
    """Return a camera info field, "" if the device lacks it."""
    return str(device.get_info(field)) if device.supports(field) else ""


def connected(context: Any) -> dict[str, Any]:
    """Return the connected cameras by serial number."""
    devices = {info(device, rs.camera_info.serial_number): device for device in context.query_devices()}
    devices.pop("", None)  # in recovery mode
    return devices


def find(context: Any, serial: str) -> Any:
    """Return the camera with this serial number, or the only one.

    Raises:
        ConfigError: There are several and no serial number is given.
        DeviceError: There is none, or none with this number.
    """
    devices = connected(context)
    listing = ", ".join(f"{number} ({info(device, rs.camera_info.name)})" for number, device in devices.items())
    if not devices:
        raise DeviceError(_explain_missing())
    if serial:
        # YAML removes leading zeros of a number.
        matches = [number for number in devices if number.lstrip("0") == serial.lstrip("0")]
        if not matches:
            raise DeviceError(f"no RealSense has serial number {serial}; connected: {listing}")
        return devices[matches[0]]
    if len(devices) > 1:
        raise ConfigError(f"there are {len(devices)} RealSense cameras: choose one with the setting serial: {listing}")
    return next(iter(devices.values()))


def wait_for(context: Any, serial: str, wait_s: float) -> Any:
    """Return the camera when it reappears after a reset; raise DeviceError after `wait_s`.

    It leaves the bus within a second or so. To start it before would wait for a camera that has gone, with Python's
    lock.
    """
    began = time.monotonic()
    leaves, deadline = began + _LEAVE_S, began + wait_s
    while serial in connected(context) and time.monotonic() < leaves:
        time.sleep(_POLL_S)
    while True:
        time.sleep(_POLL_S)
        try:
            return find(context, serial)
        except DeviceError as error:
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"RealSense {serial} did not reappear within {wait_s:g} s of its reset: unplug it and plug it in"
                ) from error


def explain_start_error(error: Exception, device: Any, streams: str) -> ActrecError:
    """Convert librealsense's error at start to one with cause and remedy; `streams` describes the requested streams."""
    text = " ".join(str(error).split())
    lowered = text.lower()
    name = f"RealSense {info(device, rs.camera_info.serial_number)}"
    usb = info(device, rs.camera_info.usb_type_descriptor)
    if "resolve" in lowered:
        if usb.startswith("2"):
            why = f"USB {usb} lacks the bandwidth; use a USB 3 port and cable"
            return DeviceError(f"{name} does not support {streams}: {why}, or one of {_profiles(device)}")
        return ConfigError(f"{name} does not support {streams}; it supports {_profiles(device)}")
    if "permission" in lowered or "access" in lowered:
        return DeviceError(f"permission to open {name} is denied: {_UDEV}")
    if "busy" in lowered:
        return DeviceError(f"{name} is in use by another program (realsense-viewer, another node): stop that program")
    return DeviceError(f"{name} does not start: {text}; unplug it and plug it in, or set reset: always")


def _explain_missing() -> str:
    """Return why there is no camera: unplugged, or without permission."""
    for product in USB.glob("*/product"):
        with contextlib.suppress(OSError):
            name = product.read_text().strip()
            if "RealSense" in name:
                return f"there is a {name} on USB, but permission to open it is denied: {_UDEV}"
    return "no RealSense is connected: plug it into a USB 3 port (lsusb then shows 8086)"


def _profiles(device: Any) -> str:
    """Describe the video profiles of depth and color: sizes with their rates."""
    rates: dict[str, set[int]] = {}
    for sensor in device.query_sensors():
        for profile in sensor.get_stream_profiles():
            kind = profile.stream_type()
            if kind in (rs.stream.depth, rs.stream.color) and profile.is_video_stream_profile():
                video = profile.as_video_stream_profile()
                size = f"{'depth' if kind == rs.stream.depth else 'color'} {video.width()}×{video.height()}"
                rates.setdefault(size, set()).add(profile.fps())
    lines = [f"{size} at {'/'.join(map(str, sorted(fps)))}" for size, fps in sorted(rates.items())]
    return ", ".join(lines) or "no depth and color"


def set_options(device: Any, text: str) -> None:
    """Set camera options, `depth.laser_power=150,color.auto_exposure_priority=0`: options by librealsense's names.

    Raises:
        ConfigError: The camera lacks an option, or a value is out of range; the message lists the options.
        RuntimeError: The camera rejects the value.
    """
    for entry in filter(None, (part.strip() for part in text.split(","))):
        target, _, value = entry.partition("=")
        kind, _, name = target.strip().partition(".")
        if kind not in ("depth", "color") or not value:
            raise ConfigError(f"option '{entry}' of the RealSense: expected depth.NAME=VALUE or color.NAME=VALUE")
        try:
            sensor = device.first_depth_sensor() if kind == "depth" else device.first_color_sensor()
        except RuntimeError as error:
            raise ConfigError(
                f"option '{entry}': {info(device, rs.camera_info.name)} has no {kind} sensor; a D405 sets "
                f"its color by its depth sensor: depth.{name}={value}"
            ) from error
        known = {o.name: o for o in sensor.get_supported_options() if not sensor.is_option_read_only(o)}
        if name not in known:
            raise ConfigError(
                f"the {kind} sensor has no option '{name}' that can be set; it has {', '.join(sorted(known))}"
            )
        allowed = sensor.get_option_range(known[name])
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not allowed.min <= number <= allowed.max:
            raise ConfigError(f"{kind}.{name} is '{value}', expected {allowed.min:g} to {allowed.max:g}")
        sensor.set_option(known[name], number)


def pose(source: Any, target: Any) -> np.ndarray:
    """Return the factory's transform [4, 4] of points, m, between the sensors of two stream profiles."""
    extrinsics = source.get_extrinsics_to(target)
    return transform(np.reshape(extrinsics.rotation, (3, 3)).T, extrinsics.translation)  # column-major


class MotionSensor:
    """The accelerometer of a device, and its gyroscope if there is one, streaming beside the images.

    Args:
        sensor: The sensor, which has an accelerometer.
        color: Profile of the color stream, to whose optical frame the factory's extrinsics rotate the samples.

    Raises:
        RuntimeError: The sensor does not start, or has no extrinsics.
    """

    def __init__(self, sensor: Any, color: Any):
        streams = [_motion_profile(sensor, kind) for kind in (rs.stream.accel, rs.stream.gyro)]
        self.filter = GravityFilter(pose(streams[0], color)[:3, :3])
        self._sensor = sensor
        sensor.open([stream for stream in streams if stream is not None])
        sensor.start(self._receive)

    def close(self) -> None:
        """Stop the sensor."""
        with contextlib.suppress(RuntimeError):  # unplugged
            self._sensor.stop()
            self._sensor.close()

    def _receive(self, frame: Any) -> None:
        data, stamp_ns = frame.as_motion_frame().get_motion_data(), round(frame.get_timestamp() * 1e6)
        is_gyro = frame.get_profile().stream_type() == rs.stream.gyro
        (self.filter.rotate if is_gyro else self.filter.add)(stamp_ns, np.array([data.x, data.y, data.z]))


def start_motion(device: Any, color: Any, serial: str) -> MotionSensor | None:
    """Return the started motion sensor of a device; None if it has none, or with a warning if it does not start."""
    for sensor in device.query_sensors():
        if _motion_profile(sensor, rs.stream.accel) is None:
            continue
        try:
            return MotionSensor(sensor, color)
        except RuntimeError as error:
            logger.warning(
                "the accelerometer of RealSense %s is not used (%s): the direction of gravity is estimated; set mount "
                "if the estimate is wrong, or accelerometer to false", serial, " ".join(str(error).split()),
            )  # fmt: skip
    return None


def _motion_profile(sensor: Any, kind: Any) -> Any:
    """Return the slowest sufficient profile of a stream; None if the sensor does not have it."""
    profiles = [p for p in sensor.get_stream_profiles() if p.stream_type() == kind]
    return min(profiles, key=lambda p: (p.fps() < MIN_MOTION_HZ, p.fps()), default=None)
