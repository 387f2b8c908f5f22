"""Camera driver of Intel RealSense cameras and librealsense recordings."""

import contextlib
import logging
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pyrealsense2 as rs

from actrec.cameras.base import Camera, Pace
from actrec.cameras.clock import DeviceClock, StampStatistics
from actrec.cameras.realsense import device as realsense_device
from actrec.cameras.realsense.depth import FilterSettings, RegisteredDepth
from actrec.types import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils import calibration_files
from actrec.utils.config import build, setting
from actrec.utils.errors import DeviceError, EndOfStream, InputError

logger = logging.getLogger(__name__)

_POLL_S = 0.2

_TO_RGB = {
    rs.format.bgr8: cv2.COLOR_BGR2RGB,
    rs.format.rgba8: cv2.COLOR_RGBA2RGB,
    rs.format.bgra8: cv2.COLOR_BGRA2RGB,
    rs.format.yuyv: cv2.COLOR_YUV2RGB_YUYV,
    rs.format.uyvy: cv2.COLOR_YUV2RGB_UYVY,
}
"""Color formats of recordings; a camera sends RGB."""


@dataclass(frozen=True)
class RealSenseConfig(FilterSettings):
    """Settings of `RealSenseCamera`."""

    serial: str = setting("", "Serial number of the camera; empty if only one is connected.")
    width: int = setting(640, "Width of the color images and the registered depth.", unit="px", range=(1, 8192))
    height: int = setting(480, "Height of the color images.", unit="px", range=(1, 8192))
    depth_width: int = setting(0, "Width of the depth images; 0 for the color's.", unit="px", range=(0, 8192))
    depth_height: int = setting(0, "Height of the depth images; 0 for the color's.", unit="px", range=(0, 8192))
    fps: int = setting(30, "Frames per second.", unit="Hz", range=(1, 300))
    options: str = setting(
        "", "Camera options, such as depth.laser_power=150,color.auto_exposure_priority=0; empty for none."
    )
    calibration: str = setting(
        "auto", "auto uses this camera's files from actrec calibrate if there are any.", choices=("auto", "factory")
    )
    register: bool = setting(
        True, "Register depth to color; false keeps the depth camera's image, for actrec calibrate depth."
    )
    reset: str = setting(
        "stall",
        "When to reset the camera on opening: after a stall, always, or never.",
        choices=("stall", "always", "never"),
    )
    reset_wait_s: float = setting(
        15.0, "Timeout for the camera to reappear after a reset.", unit="s", range=(1.0, 120.0)
    )
    recording: str = setting("", "Librealsense recording (.db3, .bag) to play instead of a camera.")
    realtime: bool = setting(True, "Play a recording at its own pace; false plays every frame, as fast as it is read.")
    restamp: bool = setting(True, "Stamp a recording from the current time; false keeps the recorded stamps.")
    frame_id: str = setting("camera_color_optical_frame", "Name of the optical frame.")


class RealSenseCamera(Camera):
    """RealSense camera that returns the newest frame, with depth registered to color.

    Stamps are capture times: librealsense's global time, or the device's clock mapped to the system's.

    Attributes:
        skipped: Frames dropped since opening, by their frame numbers.
        incomplete: Framesets dropped because color or depth was missing.
        unpaired: Framesets dropped because color and depth are more than half a frame period apart.

    Args:
        options: Fields of `RealSenseConfig`.

    Raises:
        ConfigError: An option is unknown or out of range.
    """

    config_class: ClassVar[type] = RealSenseConfig

    def __init__(self, **options: Any):
        self.config: RealSenseConfig = build(RealSenseConfig, options)
        self._reset_figures()
        self._pipeline: Any = None
        self._context: Any = None
        self._serial = self.config.serial
        self._stalled = False

    @property
    def live(self) -> bool:  # type: ignore[override]
        """False for a recording."""
        return not self.config.recording

    @property
    def paced(self) -> bool:  # type: ignore[override]
        """False for a recording without `realtime`."""
        return self.live or self.config.realtime

    @property
    def serial(self) -> str:  # type: ignore[override]
        """Serial number of the camera, or of the camera that made the recording; valid once open."""
        return self._serial

    @property
    def intrinsics(self) -> Intrinsics:
        """Intrinsics of the color and depth images; valid once open."""
        self._opened()
        return self._depth.color

    def open(self) -> None:
        """Start the streams.

        Raises:
            ConfigError: There are several cameras and no serial number, or the camera lacks the profile or option.
            DeviceError: There is no such camera or recording, or it does not open or start.
            InputError: A calibration file is damaged or has another aspect ratio.
        """
        if self._pipeline is not None:
            return
        self._context = self._context or open_context()
        self._reset_figures()
        device = None if self.config.recording else self._camera()
        self._pipeline = rs.pipeline(self._context)
        try:
            self._start(device)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the streams; safe to call twice, and while another thread reads."""
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            with contextlib.suppress(RuntimeError):  # not started, or unplugged
                pipeline.stop()

    def read(self, timeout_s: float = 1.0) -> RgbdFrame:
        """Return the newest frame that was not read before; wait for one.

        Raises:
            EndOfStream: The recording has ended.
            DeviceError: No frame with color and depth within `timeout_s`: unplugged, or stalled.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            frames = self._next(deadline)
            if frames is None:
                raise self._no_frame_error(timeout_s)
            arrival = time.time_ns()
            color, depth = frames.get_color_frame(), frames.get_depth_frame()
            if not color or not depth:
                self.incomplete += 1
                continue
            if _time_difference_ns(color, depth) > self._half_frame_ns:
                self.unpaired += 1
                continue
            return self._frame(frames, color, self._stamp(color, arrival), arrival)

    def calibration(self) -> calibration_files.CameraFiles:
        """Return the factory's calibration, or the camera's calibration files."""
        self._opened()
        return self._depth.calibration

    def figures(self) -> dict[str, float | int]:
        """Return delay and jitter of the stamps, the clock offset, and the dropped framesets by cause."""
        self._opened()
        return self._stamps.figures(self._clock, self.skipped, self.incomplete, self.unpaired)

    def _reset_figures(self) -> None:
        self.skipped = self.incomplete = self.unpaired = 0
        self._clock, self._stamps, self._pace = DeviceClock(), StampStatistics(), Pace(1.0)
        self._number: int | None = None
        self._warned = False

    def _camera(self) -> Any:
        """Return the device, after a reset if one is due."""
        device = realsense_device.find(self._context, self._serial)
        self._serial = realsense_device.serial_of(device)  # a reset must find the same camera
        if self.config.reset == "always" or (self.config.reset == "stall" and self._stalled):
            device = self._reset(device)
        self._stalled = False
        if realsense_device.info(device, rs.camera_info.usb_type_descriptor).startswith("2"):
            logger.warning("RealSense %s is connected by USB 2: few profiles, and frames may be lost", self._serial)
        return device

    def _reset(self, device: Any) -> Any:
        logger.warning("resetting RealSense %s", self._serial)
        try:
            device.hardware_reset()
        except RuntimeError as error:
            logger.warning("RealSense %s cannot be reset (%s); opening it without", self._serial, error)
            return device
        return realsense_device.wait_for(self._context, self._serial, self.config.reset_wait_s)

    def _start(self, device: Any) -> None:
        c = self.config
        size = c.depth_width or c.width, c.depth_height or c.height
        if device is None:
            self._play(Path(c.recording).expanduser())
            return
        config = rs.config()
        config.enable_device(self._serial)
        config.enable_stream(rs.stream.color, c.width, c.height, rs.format.rgb8, c.fps)
        config.enable_stream(rs.stream.depth, *size, rs.format.z16, c.fps)
        try:
            realsense_device.set_options(device, c.options)
            for sensor in device.query_sensors():
                if sensor.supports(rs.option.global_time_enabled):
                    sensor.set_option(rs.option.global_time_enabled, 1)
            profile = self._pipeline.start(config)
        except RuntimeError as error:
            streams = f"color {c.width}×{c.height} and depth {size[0]}×{size[1]} at {c.fps} Hz"
            raise realsense_device.explain_start_error(error, device, streams) from error
        self._prepare(profile)

    def _play(self, path: Path) -> None:
        if not path.is_file():
            raise DeviceError(f"there is no recording '{path}': check the path")
        config = rs.config()
        try:
            config.enable_device_from_file(str(path), repeat_playback=False)
            config.enable_stream(rs.stream.color)
            config.enable_stream(rs.stream.depth)
            # Before the start: the first frames would be missed otherwise.
            device = config.resolve(rs.pipeline_wrapper(self._pipeline)).get_device()
            device.as_playback().set_real_time(self.config.realtime)
            profile = self._pipeline.start(config)
        except RuntimeError as error:
            raise DeviceError(
                f"'{path}' is no recording of librealsense (.db3, .bag) with color and depth: "
                f"{' '.join(str(error).split())}; use driver replay for a ROS bag, rs-convert for an old .bag"
            ) from error
        self._playback = profile.get_device().as_playback()
        self._prepare(profile)

    def _prepare(self, profile: Any) -> None:
        """Prepare registration, options and clock from the started streams."""
        self._serial = serial = realsense_device.serial_of(profile.get_device())
        factory = self.config.calibration == "factory" or not serial
        files = calibration_files.CameraFiles(serial) if factory else calibration_files.load(serial)
        settings = {field.name: getattr(self.config, field.name) for field in fields(FilterSettings)}
        self._depth = RegisteredDepth(profile, FilterSettings(**settings), files, self.config.register)
        self._half_frame_ns = NANOSECONDS / profile.get_stream(rs.stream.color).fps() / 2

    def _next(self, deadline: float) -> Any:
        """Return the newest frameset; None after the deadline."""
        pipeline = self._opened()
        with contextlib.suppress(RuntimeError):  # the device was unplugged
            # Poll: stopping the pipeline does not wake a waiting thread.
            while self._pipeline is pipeline and (left := deadline - time.monotonic()) > 0:
                arrived, frames = pipeline.try_wait_for_frames(max(1, round(min(left, _POLL_S) * 1000)))
                while arrived and self.paced and (newer := pipeline.poll_for_frames()):
                    frames = newer
                if arrived:
                    return frames
        return None

    def _no_frame_error(self, timeout_s: float) -> DeviceError | EndOfStream:
        """Return the error that explains why there is no frame."""
        if self._pipeline is None:
            return DeviceError("the RealSense was closed during a read")
        if not self.live:
            if self._playback.current_status() == rs.playback_status.stopped:
                return EndOfStream(f"'{self.config.recording}' has ended")
            return DeviceError(f"'{self.config.recording}': no frame with color and depth within {timeout_s:g} s")
        if self._serial not in realsense_device.connected(self._context):
            return DeviceError(f"RealSense {self._serial} was unplugged: plug it in, and it is opened again")
        self._stalled = True
        dropped = f", {self.incomplete} framesets without color or depth" if self.incomplete else ""
        dropped += f", {self.unpaired} with color and depth too far apart in time" if self.unpaired else ""
        return DeviceError(
            f"RealSense {self._serial} is connected but sent no frame within {timeout_s:g} s{dropped}: use another "
            "cable or USB port, or a lower profile; opening it again resets it (reset: stall)"
        )

    def _stamp(self, frame: Any, arrival: int) -> int:
        """Return the capture time in nanoseconds of the system's clock; as recorded for a recording."""
        stamp, domain = round(frame.get_timestamp() * 1e6), frame.get_frame_timestamp_domain()
        if self.live and domain == rs.timestamp_domain.hardware_clock:
            return self._clock.system_ns(stamp, arrival)
        if self.live and domain == rs.timestamp_domain.system_time and not self._warned:
            self._warned = True
            logger.warning(
                "RealSense %s stamps frames at arrival, not at capture: for capture times install librealsense "
                "with its kernel patches or its RSUSB backend",
                self._serial,
            )
        return stamp

    def _frame(self, frames: Any, color: Any, stamp: int, arrival: int) -> RgbdFrame:
        number = color.get_frame_number()
        if self.live and self._number is not None and number > self._number:
            self.skipped += number - self._number - 1
        self._number = number
        self._stamps.update(stamp, arrival)
        if not self.live and self.config.restamp:
            stamp = self._pace.advance(stamp)
        return RgbdFrame(stamp, _rgb(color), self._depth.register(frames), self._depth.color, self.config.frame_id)

    def _opened(self) -> Any:
        if self._pipeline is None:
            raise DeviceError("the RealSense is not open: call open() or use a with statement")
        return self._pipeline


def _time_difference_ns(color: Any, depth: Any) -> float:
    """Return the time between two frames; infinite if different clocks stamp them, as during startup."""
    if color.get_frame_timestamp_domain() != depth.get_frame_timestamp_domain():
        return float("inf")
    return abs(color.get_timestamp() - depth.get_timestamp()) * 1e6


def open_context() -> Any:
    """Return a librealsense context for USB cameras, without its own DDS, which could disturb ROS."""
    return rs.context('{"dds": {"enabled": false}}')


def _rgb(frame: Any) -> np.ndarray:
    """Return [H, W, 3] RGB; a copy, since librealsense has few buffers.

    Raises:
        InputError: The color format of a recording is not supported.
    """
    pixels, kind = np.asanyarray(frame.get_data()), frame.get_profile().format()
    if kind == rs.format.rgb8:
        return pixels.copy()
    if kind not in _TO_RGB:
        raise InputError(f"color in {kind} is not supported: record it as rgb8")
    if kind in (rs.format.yuyv, rs.format.uyvy):
        pixels = pixels.view(np.uint8).reshape(*pixels.shape[:2], 2)
    return cv2.cvtColor(pixels, _TO_RGB[kind])
