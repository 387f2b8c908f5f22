"""Camera driver of Intel RealSense cameras and librealsense recordings."""

import contextlib
import logging
import math
import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import cv2
import numpy as np
import pyrealsense2 as rs

from actrec.cameras.base import DeviceCamera, DeviceConfig, Pace
from actrec.cameras.realsense import device as realsense_device
from actrec.recordings.image_decoding import depth_in_meters
from actrec.types import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils.calibration_files import CameraFiles, DepthGeometry, scale_to_size
from actrec.utils.config import build, setting
from actrec.utils.errors import DeviceError, EndOfStream, InputError
from actrec.utils.folders import expanded
from actrec.utils.registration import Registration

logger = logging.getLogger(__name__)

_POLL_S = 0.2
_GONE_S = 0.5  # time without a frame after which the devices are listed
_STALL_S = 1.0  # longest wait for a frame after the first one; a camera may have been plugged in again meanwhile
_RESET_S = 15.0  # timeout for the camera to reappear after a reset
_MAX_FIT_ERROR_PX = 0.1
_GRID_SIZE = 25

_RESETS = ("stall", "always", "never")
_HOLE_FILLING = ("none", "left", "farthest", "nearest")

_TO_RGB = {
    rs.format.bgr8: cv2.COLOR_BGR2RGB,
    rs.format.rgba8: cv2.COLOR_RGBA2RGB,
    rs.format.bgra8: cv2.COLOR_BGRA2RGB,
    rs.format.yuyv: cv2.COLOR_YUV2RGB_YUYV,
    rs.format.uyvy: cv2.COLOR_YUV2RGB_UYVY,
}
"""Color formats of recordings; a camera sends RGB."""


@dataclass(frozen=True)
class RealSenseConfig(DeviceConfig):
    """Settings of `RealSenseCamera`; recordings are .db3 and .bag files of librealsense.

    The filters of depth are off by default: each costs time or blurs edges.
    """

    width: int = setting(640, "Width of the color images and the registered depth.", unit="px", range=(1, 8192))
    height: int = setting(480, "Height of the color images.", unit="px", range=(1, 8192))
    depth_width: int = setting(0, "Width of the depth images; 0 for the color's.", unit="px", range=(0, 8192))
    depth_height: int = setting(0, "Height of the depth images; 0 for the color's.", unit="px", range=(0, 8192))
    fps: int = setting(30, "Frames per second.", unit="Hz", range=(1, 300))
    decimation: int = setting(1, "Downsampling factor of depth; 1 for none.", range=(1, 8))
    spatial: bool = setting(False, "Smooth depth across the image, preserving edges.")
    temporal: bool = setting(False, "Smooth depth over time; fast motion leaves trails.")
    hole_filling: str = setting("none", "Neighbor that fills missing depth.", choices=_HOLE_FILLING)
    options: str = setting(
        "", "Camera options, such as depth.laser_power=150,color.auto_exposure_priority=0; empty for none."
    )
    accelerometer: bool = setting(True, "Measure the direction of gravity, if the camera has an accelerometer.")
    reset: str = setting("stall", "Reset on opening: after a stall, always or never.", choices=_RESETS)
    realtime: bool = setting(True, "Play a recording at its own pace; false plays every frame, as fast as it is read.")


class RealSenseCamera(DeviceCamera):
    """RealSense camera that returns the newest frame, with depth registered to color; options: `RealSenseConfig`.

    Stamps are capture times: librealsense's global time, or the device's clock mapped to the system's. Stamps of a
    recording start now and keep the recorded intervals.

    Raises:
        ConfigError: An option is unknown or out of range.
    """

    config_class: ClassVar[type] = RealSenseConfig
    _name = "RealSense"

    def __init__(self, **options: Any):
        self.config: RealSenseConfig = build(RealSenseConfig, options)
        self.live = not self.config.recording
        self.paced = self.live or self.config.realtime
        self._reset()
        self._context: Any = None
        self._motion: realsense_device.MotionSensor | None = None
        self.serial = self.config.serial
        self._stalled = False

    @property
    def intrinsics(self) -> Intrinsics:
        """Intrinsics of the color and depth images; valid once open."""
        self._opened()
        return self._depth.color

    def close(self) -> None:
        """Stop the streams; safe to call twice, and while another thread reads."""
        pipeline, self._source = self._source, None
        sensor, self._motion = self._motion, None
        if sensor is not None:
            sensor.close()
        if pipeline is not None:
            with contextlib.suppress(RuntimeError):  # not started, or unplugged
                pipeline.stop()

    def read(self, timeout_s: float = 1.0) -> RgbdFrame:
        """Return the newest frame that was not read before; wait for one."""
        deadline = time.monotonic() + timeout_s
        while (frames := self._next(deadline)) is not None:
            arrival = time.time_ns()
            color, depth = frames.get_color_frame(), frames.get_depth_frame()
            if not color or not depth:
                self.incomplete += 1
            elif (
                # During startup, different clocks stamp them.
                color.get_frame_timestamp_domain() != depth.get_frame_timestamp_domain()
                or abs(color.get_timestamp() - depth.get_timestamp()) * 1e6 > self._half_frame_ns
            ):
                self.unpaired += 1
            else:
                return self._frame(frames, color, arrival)
        raise self._no_frame_error(timeout_s)

    def calibration(self) -> CameraFiles:
        """Return the calibration from `actrec calibrate` if there is one, else the factory's."""
        self._opened()
        return self._depth.calibration

    def _reset(self) -> None:
        super()._reset()
        self._pace = Pace(1.0)
        self._number: int | None = None
        self._counted = 0  # incomplete and unpaired framesets before that number
        self._warned = False

    def _open(self) -> None:
        self._context = self._context or realsense_device.open_context()
        device = self._find() if self.live else None
        self._source = rs.pipeline(self._context)
        profile = self._play() if device is None else self._start(device)
        self.serial = realsense_device.info(profile.get_device(), rs.camera_info.serial_number)
        self._depth = RegisteredDepth(profile, self.config, self._own_files())
        color = profile.get_stream(rs.stream.color)
        if self.config.accelerometer:
            self._motion = realsense_device.start_motion(profile.get_device(), color, self.serial)
        self._half_frame_ns = NANOSECONDS / color.fps() / 2

    def _find(self) -> Any:
        """Return the device, after a reset if one is due."""
        connected = realsense_device.connected(self._context)
        same = self.serial if self.serial in connected else self.config.serial  # another one may be in its place
        device = realsense_device.find(self._context, same)
        self.serial = realsense_device.info(device, rs.camera_info.serial_number)  # a reset must find the same camera
        if self.config.reset == "always" or (self.config.reset == "stall" and self._stalled):
            logger.warning("resetting RealSense %s", self.serial)
            try:
                device.hardware_reset()
            except RuntimeError as error:
                logger.warning("RealSense %s cannot be reset (%s); opening it without", self.serial, error)
            else:
                device = realsense_device.wait_for(self._context, self.serial, _RESET_S)
        self._stalled = False
        if realsense_device.info(device, rs.camera_info.usb_type_descriptor).startswith("2"):
            logger.warning("RealSense %s is connected by USB 2: few profiles, and frames may be lost", self.serial)
        return device

    def _start(self, device: Any) -> Any:
        c, config = self.config, rs.config()
        size = c.depth_width or c.width, c.depth_height or c.height
        config.enable_device(self.serial)
        config.enable_stream(rs.stream.color, c.width, c.height, rs.format.rgb8, c.fps)
        config.enable_stream(rs.stream.depth, *size, rs.format.z16, c.fps)
        try:
            realsense_device.set_options(device, c.options)
            for sensor in device.query_sensors():
                if sensor.supports(rs.option.global_time_enabled):
                    sensor.set_option(rs.option.global_time_enabled, 1)
            return self._source.start(config)
        except RuntimeError as error:
            streams = f"color {c.width}×{c.height} and depth {size[0]}×{size[1]} at {c.fps} Hz"
            raise realsense_device.explain_start_error(error, device, streams) from error

    def _play(self) -> Any:
        path, config = expanded(self.config.recording), rs.config()
        if not path.is_file():
            raise DeviceError(f"there is no recording '{path}': check the path")
        try:
            config.enable_device_from_file(str(path), repeat_playback=False)
            config.enable_stream(rs.stream.color)
            config.enable_stream(rs.stream.depth)
            # Paused until both streams have started: playback begins with the first one, and loses the other's frames.
            playback = config.resolve(rs.pipeline_wrapper(self._source)).get_device().as_playback()
            playback.set_real_time(self.config.realtime)
            playback.pause()
            profile = self._source.start(config)
            playback.resume()
        except RuntimeError as error:
            raise DeviceError(
                f"'{path}' is not a librealsense recording (.db3, .bag) with color and depth: "
                f"{' '.join(str(error).split())}; use driver replay for a ROS bag, rs-convert for an old .bag"
            ) from error
        self._playback = profile.get_device().as_playback()
        return profile

    def _next(self, deadline: float) -> Any:
        """Return the newest frameset; None after the deadline, or soon after an unplugging."""
        pipeline, looked = self._opened(), time.monotonic()
        deadline = min(deadline, looked + self._patience_s)
        with contextlib.suppress(RuntimeError):  # the device was unplugged
            # Stopping the pipeline does not wake a waiting thread, so poll.
            while self._source is pipeline and (remaining := deadline - time.monotonic()) > 0:
                arrived, frames = pipeline.try_wait_for_frames(max(1, round(min(remaining, _POLL_S) * 1000)))
                while arrived and self.paced and (newer := pipeline.poll_for_frames()):
                    frames = newer
                if arrived:
                    return frames
                if self.live and time.monotonic() - looked >= _GONE_S:
                    looked = time.monotonic()
                    if self.serial not in realsense_device.connected(self._context):
                        break
        return None

    @property
    def _patience_s(self) -> float:
        """Longest wait for a frame, s."""
        return _STALL_S if self.live and self._number is not None else math.inf

    def _no_frame_error(self, timeout_s: float) -> DeviceError | EndOfStream:
        """Return the error that explains why there is no frame."""
        if self._source is None:
            return DeviceError("the RealSense was closed during a read")
        if not self.live:
            if self._playback.current_status() == rs.playback_status.stopped:
                return EndOfStream(f"'{self.config.recording}' has ended")
            return DeviceError(f"'{self.config.recording}': no frame with color and depth within {timeout_s:g} s")
        if self.serial not in realsense_device.connected(self._context):
            return DeviceError(f"RealSense {self.serial} was unplugged: plug it in, and it is opened again")
        self._stalled = self._number is None  # since it was opened
        again = "opening it again resets it" if self._stalled else "it is reset if it sends none when opened again"
        timeout_s = min(timeout_s, self._patience_s)
        dropped = f", {self.incomplete} framesets without color or depth" if self.incomplete else ""
        dropped += f", {self.unpaired} with color and depth too far apart in time" if self.unpaired else ""
        return DeviceError(
            f"RealSense {self.serial} is connected but sent no frame within {timeout_s:g} s{dropped}: use another "
            f"cable or USB port, or a lower profile; {again} (reset: stall)"
        )

    def _frame(self, frames: Any, color: Any, arrival: int) -> RgbdFrame:
        stamp, number = self._stamp(color, arrival), color.get_frame_number()
        counted = self.incomplete + self.unpaired
        if self.live and self._number is not None and number > self._number:
            self.skipped += max(number - self._number - 1 - (counted - self._counted), 0)
        self._number, self._counted = number, counted
        if self.live:
            self._stamps.update(stamp, arrival)
        else:
            stamp = self._pace.advance(stamp)
        frame = RgbdFrame(stamp, _rgb(color), self._depth.register(frames), self._depth.color, self.config.frame_id)
        frame.depth_scale = self._depth.unit
        return self._with_gravity(frame, None if self._motion is None else self._motion.filter)

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
                self.serial,
            )
        return stamp


def _rgb(frame: Any) -> np.ndarray:
    """Return [H, W, 3] RGB; a copy, since librealsense has few buffers."""
    pixels, kind = np.asanyarray(frame.get_data()), frame.get_profile().format()
    if kind == rs.format.rgb8:
        return pixels.copy()
    if kind not in _TO_RGB:
        raise InputError(f"color in {kind} is not supported: record it as rgb8")
    if kind in (rs.format.yuyv, rs.format.uyvy):
        pixels = pixels.view(np.uint8).reshape(*pixels.shape[:2], 2)
    return cv2.cvtColor(pixels, _TO_RGB[kind])


class RegisteredDepth:
    """Filtered depth in the color camera's image.

    The calibration comes from `actrec calibrate` if there are files, else from the factory. librealsense's aligner
    moves the pixels but keeps the depth along the depth camera's axis, an error of centimeters at one degree of tilt.

    Attributes:
        color: Intrinsics of the color and depth images.
        calibration: Calibration in use.
        unit: Length of one unit of the newest depth image, m.

    Args:
        profile: Profile of the started pipeline.
        config: Its filters, `depth_scale`, and `register`: false keeps the depth camera's image, not decimated.
        files: The camera's calibration files.
    """

    def __init__(self, profile: Any, config: RealSenseConfig, files: CameraFiles):
        color, depth = (profile.get_stream(s).as_video_stream_profile() for s in (rs.stream.color, rs.stream.depth))
        # Unregistered depth is for calibration, which needs every pixel.
        self._decimation = config.decimation if config.register else 1
        self._filters = _make_filters(replace(config, decimation=self._decimation))
        self._registers, self._unit, self.unit = config.register, config.depth_scale, config.depth_scale
        self.color, self._depth_intrinsics = _intrinsics(color, files.color), _intrinsics(depth, files.depth)
        self._geometry = files.geometry or DepthGeometry(realsense_device.pose(depth, color))
        self.calibration = CameraFiles(files.serial, self.color, self._depth_intrinsics, self._geometry)
        self._registration: Registration | None = None
        if files.color is not None or files.geometry is not None:
            logger.info("RealSense %s: using its files from actrec calibrate", files.serial)

    def register(self, frames: Any) -> np.ndarray:
        """Return the depth of a frameset in the color image: [H, W] float32 m, NaN if missing."""
        for filter_ in self._filters:
            frames = filter_.process(frames).as_frameset()
        frame = frames.get_depth_frame()
        self.unit = self._unit or frame.get_units()
        depth = depth_in_meters(np.asanyarray(frame.get_data()), self.unit)
        if not self._registers:
            return depth
        if self._registration is None:  # created here, since filters change the size
            lens = _decimated(self._depth_intrinsics, self._decimation, *depth.shape)
            self._registration = Registration(lens, self.color, self._geometry)
        return self._registration.register(depth)


def _intrinsics(stream: Any, calibrated: Intrinsics | None) -> Intrinsics:
    """Return the calibrated intrinsics at the size of a stream, else the factory's."""
    if calibrated is None:
        return from_realsense(stream.get_intrinsics())
    return scale_to_size(calibrated, stream.width(), stream.height())


def _make_filters(config: RealSenseConfig) -> list[Any]:
    """Return librealsense's post-processing filters in the vendor's order.

    Spatial and temporal work on disparity, whose noise does not depend on the distance.
    """
    filters: list[Any] = []
    if config.decimation > 1:
        filters.append(rs.decimation_filter(config.decimation))
    if config.spatial or config.temporal:
        filters.append(rs.disparity_transform(True))
        filters += [rs.spatial_filter()] if config.spatial else []
        filters += [rs.temporal_filter()] if config.temporal else []
        filters.append(rs.disparity_transform(False))
    if config.hole_filling != "none":
        filters.append(rs.hole_filling_filter(_HOLE_FILLING.index(config.hole_filling) - 1))
    return filters


def _decimated(lens: Intrinsics, factor: int, height: int, width: int) -> Intrinsics:
    """Return the intrinsics of depth images decimated by `factor`.

    librealsense's intrinsics place a block's center at its first pixel; its images are padded to a multiple of four.
    """
    cx, cy = ((center + 0.5) / factor - 0.5 for center in (lens.cx, lens.cy))
    return Intrinsics(width, height, lens.fx / factor, lens.fy / factor, cx, cy, lens.distortion)


def from_realsense(lens: Any) -> Intrinsics:
    """Convert a `pyrealsense2.intrinsics`.

    OpenCV's Brown-Conrady model is fitted to the other lens models on a grid of pixels, by least squares: given
    undistorted rays, it is linear in k1, k2, p1, p2, k3.

    Raises:
        DeviceError: Five coefficients cannot describe the lens (a fisheye).
    """
    pinhole = Intrinsics(lens.width, lens.height, lens.fx, lens.fy, lens.ppx, lens.ppy)
    if lens.model == rs.distortion.none or not any(lens.coeffs):
        return pinhole
    if lens.model == rs.distortion.brown_conrady:
        return replace(pinhole, distortion=tuple(map(float, lens.coeffs)))
    u, v = np.meshgrid(np.linspace(0, lens.width - 1, _GRID_SIZE), np.linspace(0, lens.height - 1, _GRID_SIZE))
    pixels = np.stack([u.ravel(), v.ravel()], -1)
    rays = np.array([rs.rs2_deproject_pixel_to_point(lens, pixel.tolist(), 1.0) for pixel in pixels])
    if lens.model == rs.distortion.modified_brown_conrady:
        # librealsense can only add this option; it ignores a request to remove it.
        pixels = np.array([rs.rs2_project_point_to_pixel(lens, ray.tolist()) for ray in rays])
    x, y = rays[:, 0], rays[:, 1]
    r = x * x + y * y
    across = np.stack([x * r, x * r**2, 2 * x * y, r + 2 * x * x, x * r**3], -1) * lens.fx
    down = np.stack([y * r, y * r**2, r + 2 * y * y, 2 * x * y, y * r**3], -1) * lens.fy
    displacements = pixels - np.stack([lens.fx * x + lens.ppx, lens.fy * y + lens.ppy], -1)
    rows, values = np.concatenate([across, down]), np.concatenate([displacements[:, 0], displacements[:, 1]])
    coefficients = np.linalg.lstsq(rows, values, rcond=None)[0]
    error_px = float(np.abs(rows @ coefficients - values).max())
    if not error_px < _MAX_FIT_ERROR_PX:
        raise DeviceError(
            f"five distortion coefficients fit the lens model {lens.model} of the camera only to {error_px:.2f} px: "
            "calibrate it with actrec calibrate intrinsics, or use the vendor's rectified images"
        )
    return replace(pinhole, distortion=tuple(map(float, coefficients)))
