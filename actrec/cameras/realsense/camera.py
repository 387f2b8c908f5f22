"""Intel RealSense cameras, and recordings of theirs, through librealsense."""

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
from actrec.cameras.clock import DeviceClock, StampFigures
from actrec.cameras.realsense import device as realsense_device
from actrec.cameras.realsense.depth import FilterSettings, RegisteredDepth
from actrec.types import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils import calibration_files
from actrec.utils.config import build, setting
from actrec.utils.errors import DeviceError, EndOfStream, InputError

logger = logging.getLogger(__name__)

_SLICE_S = 0.2

_TO_RGB = {
    rs.format.bgr8: cv2.COLOR_BGR2RGB,
    rs.format.rgba8: cv2.COLOR_RGBA2RGB,
    rs.format.bgra8: cv2.COLOR_BGRA2RGB,
    rs.format.yuyv: cv2.COLOR_YUV2RGB_YUYV,
    rs.format.uyvy: cv2.COLOR_YUV2RGB_UYVY,
}
"""What a recording's color may be in; a camera is asked for RGB."""


@dataclass(frozen=True)
class RealSenseConfig(FilterSettings):
    """Settings of `RealSenseCamera`."""

    serial: str = setting("", "Serial number of the camera; empty if only one is connected.")
    width: int = setting(640, "Width of the color images, which depth is registered to.", unit="px", range=(1, 8192))
    height: int = setting(480, "Height of the color images.", unit="px", range=(1, 8192))
    depth_width: int = setting(0, "Width of the depth images; 0 for the color's.", unit="px", range=(0, 8192))
    depth_height: int = setting(0, "Height of the depth images; 0 for the color's.", unit="px", range=(0, 8192))
    fps: int = setting(30, "Frames a second.", unit="Hz", range=(1, 300))
    options: str = setting(
        "", "The camera's own options, such as depth.laser_power=150,color.auto_exposure_priority=0; empty for none."
    )
    calibration: str = setting(
        "auto", "auto takes this camera's files of actrec calibrate if there are some.", choices=("auto", "factory")
    )
    register: bool = setting(
        True, "Registers depth to color; false leaves it in the depth camera's image, for actrec calibrate depth."
    )
    reset: str = setting(
        "stall",
        "When the camera is reset on opening: after its stream has stalled, always, or never.",
        choices=("stall", "always", "never"),
    )
    reset_wait_s: float = setting(15.0, "How long a reset camera may take to come back.", unit="s", range=(1.0, 120.0))
    recording: str = setting("", "A recording of librealsense (.db3, .bag) to play in place of a camera.")
    realtime: bool = setting(True, "Plays a recording at its own pace; otherwise every frame, as fast as it is read.")
    restamp: bool = setting(True, "Stamps a recording's frames from now on; false keeps the recorded stamps.")
    frame_id: str = setting("camera_color_optical_frame", "Name of the optical frame.")


class RealSenseCamera(Camera):
    """Color with depth registered to it; the newest frame wins.

    Stamps are capture times: librealsense's global time, else the device's clock mapped to the system's.

    Attributes:
        skipped: Frames dropped since opening, by their frame numbers.
        halves: Framesets dropped because color or depth was missing.
        unpaired: Framesets dropped because color and depth were taken more than half a frame apart.

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
        """False for a recording that is played as fast as it is read."""
        return self.live or self.config.realtime

    @property
    def serial(self) -> str:  # type: ignore[override]
        """The serial number of the camera, or of the camera that made a recording; valid once open."""
        return self._serial

    @property
    def intrinsics(self) -> Intrinsics:
        """Intrinsics of the color images, and so of the depth; valid once open."""
        self._opened()
        return self._depth.color

    def open(self) -> None:
        """Start the streams.

        Raises:
            ConfigError: There are several cameras and none is chosen, or it has no such profile or option.
            DeviceError: There is no such camera or recording, it may not be opened, or it does not start.
            InputError: A calibration file is damaged or of another aspect.
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
            with contextlib.suppress(RuntimeError):  # it had not started, or is unplugged
                pipeline.stop()

    def read(self, timeout_s: float = 1.0) -> RgbdFrame:
        """Return the newest frame that was not read before; waits for one.

        Raises:
            EndOfStream: The recording has ended.
            DeviceError: No frame with color and depth within `timeout_s`: unplugged, or stalled.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            frames = self._next(deadline)
            if frames is None:
                raise self._lost(timeout_s)
            arrival = time.time_ns()
            color, depth = frames.get_color_frame(), frames.get_depth_frame()
            if not color or not depth:
                self.halves += 1
                continue
            if _apart_ns(color, depth) > self._half_frame_ns:
                self.unpaired += 1
                continue
            return self._frame(frames, color, self._stamp(color, arrival), arrival)

    def calibration(self) -> calibration_files.CameraFiles:
        """Return the camera's own, or its files' in use."""
        self._opened()
        return self._depth.calibration

    def figures(self) -> dict[str, float | int]:
        """Delay and jitter of the stamps, the clocks' offset, framesets that were dropped and why."""
        self._opened()
        return self._stamps.told(self._clock, self.skipped, self.halves, self.unpaired)

    def _reset_figures(self) -> None:
        self.skipped = self.halves = self.unpaired = 0
        self._clock, self._stamps, self._pace = DeviceClock(), StampFigures(), Pace(1.0)
        self._number: int | None = None
        self._warned = False

    def _camera(self) -> Any:
        """Return the device, reset if it has to be."""
        device = realsense_device.find(self._context, self._serial)
        self._serial = realsense_device.serial_of(device)  # after a reset it is to be the same one
        if self.config.reset == "always" or (self.config.reset == "stall" and self._stalled):
            device = self._reset(device)
        self._stalled = False
        if realsense_device.info(device, rs.camera_info.usb_type_descriptor).startswith("2"):
            logger.warning("RealSense %s hangs on USB 2: few profiles, and frames may be lost", self._serial)
        return device

    def _reset(self, device: Any) -> Any:
        logger.warning("resetting RealSense %s", self._serial)
        try:
            device.hardware_reset()
        except RuntimeError as error:
            logger.warning("RealSense %s cannot be reset (%s): it is opened as it is", self._serial, error)
            return device
        return realsense_device.returned(self._context, self._serial, self.config.reset_wait_s)

    def _start(self, device: Any) -> None:
        c = self.config
        size = c.depth_width or c.width, c.depth_height or c.height
        if device is None:
            self._play(Path(c.recording).expanduser())
            return
        wanted = rs.config()
        wanted.enable_device(self._serial)
        wanted.enable_stream(rs.stream.color, c.width, c.height, rs.format.rgb8, c.fps)
        wanted.enable_stream(rs.stream.depth, *size, rs.format.z16, c.fps)
        try:
            realsense_device.set_options(device, c.options)
            for sensor in device.query_sensors():
                if sensor.supports(rs.option.global_time_enabled):
                    sensor.set_option(rs.option.global_time_enabled, 1)
            profile = self._pipeline.start(wanted)
        except RuntimeError as error:
            words = f"color {c.width}×{c.height} and depth {size[0]}×{size[1]} at {c.fps} Hz"
            raise realsense_device.explained(error, device, words) from error
        self._prepare(profile)

    def _play(self, path: Path) -> None:
        if not path.is_file():
            raise DeviceError(f"there is no recording '{path}'; check the path")
        wanted = rs.config()
        try:
            wanted.enable_device_from_file(str(path), repeat_playback=False)
            wanted.enable_stream(rs.stream.color)
            wanted.enable_stream(rs.stream.depth)
            # Before it starts: at its own pace the first frames would be missed.
            device = wanted.resolve(rs.pipeline_wrapper(self._pipeline)).get_device()
            device.as_playback().set_real_time(self.config.realtime)
            profile = self._pipeline.start(wanted)
        except RuntimeError as error:
            told = " ".join(str(error).split())
            raise DeviceError(
                f"'{path}' is no recording of librealsense (.db3, .bag) with color and depth: {told}; a bag of ROS is "
                "for driver replay, an old .bag may need rs-convert"
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
        """Return the newest frameset; None if none comes in time."""
        pipeline = self._opened()
        with contextlib.suppress(RuntimeError):  # the device was unplugged
            # In slices, as stopping the pipeline does not wake who waits for it.
            while self._pipeline is pipeline and (left := deadline - time.monotonic()) > 0:
                there, frames = pipeline.try_wait_for_frames(max(1, round(min(left, _SLICE_S) * 1000)))
                while there and self.paced and (newer := pipeline.poll_for_frames()):
                    frames = newer
                if there:
                    return frames
        return None

    def _lost(self, timeout_s: float) -> DeviceError | EndOfStream:
        """Why there is no frame."""
        if self._pipeline is None:
            return DeviceError("the RealSense was closed while a frame was awaited")
        if not self.live:
            if self._playback.current_status() == rs.playback_status.stopped:
                return EndOfStream(f"'{self.config.recording}' has been played")
            return DeviceError(f"'{self.config.recording}': no frame with color and depth within {timeout_s:g} s")
        if self._serial not in realsense_device.connected(self._context):
            return DeviceError(f"RealSense {self._serial} was unplugged: plug it in, it is opened again by itself")
        self._stalled = True
        told = f", {self.halves} framesets without color or depth" if self.halves else ""
        told += f", {self.unpaired} with the two too far apart" if self.unpaired else ""
        return DeviceError(
            f"RealSense {self._serial} is connected but gave no frame within {timeout_s:g} s{told}: another cable or "
            "USB port, or a lower profile; it is reset when it is opened again (reset: stall)"
        )

    def _stamp(self, frame: Any, arrival: int) -> int:
        """Capture time, nanoseconds of the system's clock; a recording's as it was recorded."""
        stamp, domain = round(frame.get_timestamp() * 1e6), frame.get_frame_timestamp_domain()
        if self.live and domain == rs.timestamp_domain.hardware_clock:
            return self._clock.system_ns(stamp, arrival)
        if self.live and domain == rs.timestamp_domain.system_time and not self._warned:
            self._warned = True
            logger.warning(
                "RealSense %s stamps frames when they arrive, not when they are taken: for metadata of the camera "
                "install librealsense with its kernel patches or its RSUSB backend",
                self._serial,
            )
        return stamp

    def _frame(self, frames: Any, color: Any, stamp: int, arrival: int) -> RgbdFrame:
        number = color.get_frame_number()
        if self.live and self._number is not None and number > self._number:
            self.skipped += number - self._number - 1
        self._number = number
        self._stamps.seen(stamp, arrival)
        if not self.live and self.config.restamp:
            stamp = self._pace.advance(stamp)
        return RgbdFrame(stamp, _rgb(color), self._depth.of(frames), self._depth.color, self.config.frame_id)

    def _opened(self) -> Any:
        if self._pipeline is None:
            raise DeviceError("the RealSense is not open: call open() or use it in a with statement")
        return self._pipeline


def _apart_ns(color: Any, depth: Any) -> float:
    """Time between two frames; infinite where different clocks stamp them, as while these are being matched."""
    if color.get_frame_timestamp_domain() != depth.get_frame_timestamp_domain():
        return float("inf")
    return abs(color.get_timestamp() - depth.get_timestamp()) * 1e6


def open_context() -> Any:
    """Return a librealsense context, which lists the cameras connected by USB.

    Its own DDS, for cameras on a network, stays off: one DDS in a process of ROS is enough.
    """
    return rs.context('{"dds": {"enabled": false}}')


def _rgb(frame: Any) -> np.ndarray:
    """[H, W, 3] RGB, a copy: librealsense has few buffers, and a frame that is held keeps one.

    Raises:
        InputError: A recording's color is in a format that is not known here.
    """
    pixels, kind = np.asanyarray(frame.get_data()), frame.get_profile().format()
    if kind == rs.format.rgb8:
        return pixels.copy()
    if kind not in _TO_RGB:
        raise InputError(f"color in {kind} is not supported: record it as rgb8")
    if kind in (rs.format.yuyv, rs.format.uyvy):
        pixels = pixels.view(np.uint8).reshape(*pixels.shape[:2], 2)
    return cv2.cvtColor(pixels, _TO_RGB[kind])
