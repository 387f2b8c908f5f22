"""A RealSense in software: librealsense's own `software_device`, behind its real pipeline and filters.

`python -m tests.core.cameras.software_realsense --minutes 10` runs `actrec bench camera` on one.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import pyrealsense2 as rs

from actrec.cameras.realsense import device as realsense_device
from actrec.cameras.realsense.camera import RealSenseCamera
from actrec.types import Intrinsics
from actrec.utils import geometry, gravity
from tests.core.cameras.two_views import COLOR, TwoViews

UNITS = 0.00025
"""Meters per depth unit; not a millimeter, to detect a driver that assumes it."""

VIEWS = TwoViews(depth=Intrinsics(640, 480, 385.0, 385.5, 318.7, 241.3))


class SoftwareRealSense:
    """Camera whose test plugs it in, unplugs it and sends its frames; `fps` is the rate of its only profile."""

    def __init__(
        self,
        serial: str = "843112070001",
        views: TwoViews | None = None,
        usb: str = "3.2",
        fps: int = 30,
        mount: np.ndarray | None = None,
    ):
        """`mount` [3, 3] rotates from the axes of its motion sensor to the color camera's; None for none."""
        self.serial, self.fps, self.mount = serial, fps, mount
        self.views = views or VIEWS
        self.usb = usb
        self._announced: list[Any] = []
        self._number = 0

    def plug_into(self, context: Any) -> None:
        """Connect the camera, or connect it again."""
        self.device = rs.software_device()
        for field, value in (
            (rs.camera_info.serial_number, self.serial),
            (rs.camera_info.name, "Software RealSense"),
            (rs.camera_info.usb_type_descriptor, self.usb),
        ):
            self.device.register_info(field, value)
        self._depth_sensor = self.device.add_sensor("Stereo Module")
        self._color_sensor = self.device.add_sensor("RGB Camera")
        self._depth = self._stream(self._depth_sensor, rs.stream.depth, rs.format.z16, 2, self.views.depth)
        self._color = self._stream(self._color_sensor, rs.stream.color, rs.format.rgb8, 3, self.views.color)
        self._depth_sensor.add_read_only_option(rs.option.depth_units, UNITS)
        self._depth_sensor.add_option(rs.option.laser_power, rs.option_range(), True)
        place = rs.extrinsics()
        place.rotation = self.views.to_color[:3, :3].T.ravel().tolist()
        place.translation = self.views.to_color[:3, 3].tolist()
        self._depth.register_extrinsics_to(self._color, place)
        if self.mount is not None:
            self._add_motion(self.mount)
        self.device.create_matcher(rs.matchers.default)
        # A context forgets a software device when the list that announced it is deleted.
        context.set_devices_changed_callback(lambda event: self._announced.append(event.get_new_devices()))
        self.device.add_to(context)
        deadline = time.monotonic() + 5
        while not self._announced and time.monotonic() < deadline:
            time.sleep(0.005)

    def _add_motion(self, mount: np.ndarray) -> None:
        self._motion_sensor = self.device.add_sensor("Motion Module")
        self._motion = {}
        for kind in (rs.stream.accel, rs.stream.gyro):
            stream = rs.motion_stream()
            stream.type, stream.uid, stream.fmt, stream.fps = kind, int(kind) * 10 + 1, rs.format.motion_xyz32f, 200
            self._motion[kind] = self._motion_sensor.add_motion_stream(stream)
            place = rs.extrinsics()
            place.rotation, place.translation = mount.T.ravel().tolist(), [0.0, 0.0, 0.0]
            self._motion[kind].register_extrinsics_to(self._color, place)

    def move(self, kind: Any, value: np.ndarray, stamp_ms: float) -> None:
        """Send a sample [3] of `rs.stream.accel`, m/s², or `rs.stream.gyro`, rad/s, in the sensor's axes."""
        frame, vector = rs.software_motion_frame(), rs.vector()
        vector.x, vector.y, vector.z = map(float, value)
        frame.data, frame.timestamp, frame.domain = vector, stamp_ms, rs.timestamp_domain.global_time
        frame.frame_number, frame.profile = self._number, self._motion[kind].as_motion_stream_profile()
        self._number += 1
        self._motion_sensor.on_motion_frame(frame)

    def unplug(self) -> None:
        """Remove the camera from the context's list."""
        self._announced.clear()

    def send(
        self,
        color: np.ndarray | None,
        depth: np.ndarray | None,
        stamp_ms: float | None = None,
        depth_stamp_ms: float | None = None,
        domain: Any = rs.timestamp_domain.global_time,
    ) -> None:
        """Send color [H, W, 3] uint8 and depth [h, w] m; None for a lost image."""
        stamp = time.time() * 1e3 if stamp_ms is None else stamp_ms
        if depth is not None:
            raw = np.round(np.nan_to_num(depth) / UNITS).astype(np.uint16)
            self._send(self._depth_sensor, self._depth, raw, depth_stamp_ms or stamp, domain, UNITS)
        if color is not None:
            self._send(self._color_sensor, self._color, np.ascontiguousarray(color), stamp, domain, 0.0)
        self._number += 1

    def _stream(self, sensor: Any, kind: Any, form: Any, size: int, lens: Intrinsics) -> Any:
        stream = rs.video_stream()
        stream.type, stream.index, stream.uid, stream.fmt = kind, 0, int(kind) * 10 + 1, form
        stream.width, stream.height, stream.fps, stream.bpp = lens.width, lens.height, self.fps, size
        intrinsics = rs.intrinsics()
        intrinsics.width, intrinsics.height, intrinsics.fx, intrinsics.fy, intrinsics.ppx, intrinsics.ppy = (
            lens.width, lens.height, lens.fx, lens.fy, lens.cx, lens.cy,
        )  # fmt: skip
        intrinsics.model = rs.distortion.brown_conrady if lens.distortion else rs.distortion.none
        intrinsics.coeffs = list(lens.distortion or (0.0,) * 5)
        stream.intrinsics = intrinsics
        return sensor.add_video_stream(stream, True)

    def _send(self, sensor: Any, profile: Any, pixels: np.ndarray, stamp: float, domain: Any, units: float) -> None:
        frame = rs.software_video_frame()
        frame.pixels, frame.profile = pixels, profile.as_video_stream_profile()
        frame.stride, frame.bpp = pixels.strides[0], pixels.strides[1]
        frame.timestamp, frame.domain, frame.frame_number, frame.depth_units = stamp, domain, self._number, units
        sensor.on_video_frame(frame)


def gray_image(value: int = 90) -> np.ndarray:
    """Return a gray color image."""
    return np.full((COLOR.height, COLOR.width, 3), value, np.uint8)


@contextmanager
def streaming(device: SoftwareRealSense) -> Iterator[None]:
    """Send frames of a moving actor at the device's rate, from a thread."""
    kept = [device.views.at(k / 4) for k in range(8)]
    stopped = threading.Event()

    def run() -> None:
        due = time.monotonic()
        number = 0
        while not stopped.wait(max(0.0, due - time.monotonic())):
            color, _, depth = kept[number % len(kept)]
            device.send(color, depth)
            number, due = number + 1, due + 1 / device.fps

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def moving_camera(
    pitch_deg: Callable[[float], float], seconds: float, gyroscope: bool = True, rate_hz: int = 200
) -> Iterator[tuple[float, np.ndarray | None, np.ndarray]]:
    """Play a RealSense whose mount pitches; yield the time, `up` of the driver's frame and the true one, at 10 Hz."""
    context, random, mount = rs.context(), np.random.default_rng(0), geometry.rotation(0, 0.3)
    with patch.object(realsense_device, "open_context", lambda: context):
        device = SoftwareRealSense(mount=mount)
        device.plug_into(context)
        flat = np.full((VIEWS.depth.height, VIEWS.depth.width), 1.5, np.float32)
        with RealSenseCamera(calibration="factory") as camera:
            for k in range(round(seconds * rate_hz)):
                t, step = k / rate_hz, 1 / rate_hz
                rate, up = (
                    np.radians(pitch_deg(t) - pitch_deg(t - step)) / step,
                    gravity.up_from_angles(0, pitch_deg(t)),
                )
                if gyroscope:  # pitching down turns the camera about −x
                    device.move(rs.stream.gyro, mount.T @ (random.normal(0, 0.005, 3) - [rate, 0, 0]), 1e3 * t)
                device.move(rs.stream.accel, mount.T @ (9.81 * up + random.normal(0, 0.08, 3)), 1e3 * t)
                if k % (rate_hz // 10) == 0:
                    measured, deadline = camera._motion.filter, time.monotonic() + 5
                    while measured._last_ns != round(1e9 * t) and time.monotonic() < deadline:
                        time.sleep(0.001)
                    device.send(gray_image(), flat)
                    yield t, camera.read(5.0).up, up
        device.unplug()


def main() -> None:
    """Run the benchmark with the arguments of the command line."""
    from benchmarks import cameras

    context = rs.context()
    realsense_device.open_context = lambda: context
    device = SoftwareRealSense()
    device.plug_into(context)
    with streaming(device):
        print(json.dumps(cameras.measure(["--driver", "realsense", *sys.argv[1:]]), indent=1))


if __name__ == "__main__":
    main()
