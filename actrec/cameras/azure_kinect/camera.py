"""Camera driver of the Azure Kinect, compatible cameras (Orbbec Femto) and their recordings."""

import logging
import threading
import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import cv2
import numpy as np

from actrec.cameras.azure_kinect.sdk import (
    COLOR_MODES,
    DEPTH_MODES,
    PROCESSING,
    RATES,
    BodyTracker,
    Capture,
    Device,
    Image,
    Playback,
    load,
    load_record,
)
from actrec.cameras.base import DeviceCamera, DeviceConfig, Pace
from actrec.recordings.image_decoding import MILLIMETER, depth_in_meters
from actrec.types import Intrinsics, RgbdFrame
from actrec.utils.calibration_files import CameraFiles, DepthGeometry, scale_to_size, transform
from actrec.utils.config import build, setting
from actrec.utils.errors import ConfigError, DeviceError
from actrec.utils.gravity import GravityFilter
from actrec.utils.registration import Registration

_COEFFICIENTS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")  # OpenCV's order
_BROWN_CONRADY = 4  # K4A_CALIBRATION_LENS_DISTORTION_MODEL_BROWN_CONRADY, the model of every shipped camera

_DEPTH, _ACCELEROMETER = 0, 3  # K4A_CALIBRATION_TYPE_DEPTH, …_ACCEL

logger = logging.getLogger(__name__)

_POLL_S = 0.05  # longest wait inside the SDK, and so of a thread that closes the camera
_MAX_QUEUED_NS = 10_000_000_000  # a longer time in the queue means that the arrival is by another clock


@dataclass(frozen=True)
class AzureKinectConfig(DeviceConfig):
    """Settings of `AzureKinectCamera`; recordings are .mkv files of k4arecorder."""

    color_mode: str = setting("720p", "Color resolution; 1536p and 3072p are 4:3.", choices=COLOR_MODES)
    depth_mode: str = setting("nfov_unbinned", "Field of view and binning of depth.", choices=DEPTH_MODES)
    fps: int = setting(30, "Frames per second: 5, 15 or 30.", unit="Hz", range=(5, 30))
    color_format: str = setting("mjpg", "Color sent by the camera; the SDK decodes bgra32.", choices=("mjpg", "bgra32"))
    accelerometer: bool = setting(True, "Measure the direction of gravity.")
    width: int = setting(0, "Width of the registered images; 0 for the color camera's.", unit="px", range=(0, 4096))
    rectify: bool = setting(False, "Remove lens distortion.")
    rate: float = setting(1.0, "Speed of a recording; 0 plays as fast as frames are read.", range=(0, 1000))
    bodies: bool = setting(False, "Track bodies with Microsoft's Body Tracking SDK.")
    body_processing: str = setting("cuda", "Processor of body tracking.", choices=tuple(PROCESSING))
    body_model: str = setting("", "Network file of body tracking; empty for the SDK's.")
    body_wait_s: float = setting(0.1, "Longest wait for the bodies of a frame.", unit="s", range=(0, 60))
    library: str = setting(
        "", "File of libk4a, e.g. of Orbbec's K4A wrapper, with libk4arecord beside it; empty for the system's.",
        read_only=True,
    )  # fmt: skip
    body_library: str = setting("", "File of libk4abt; empty for the system's.", read_only=True)


class RegisteredImages:
    """Conversion of captures to registered images.

    `Registration` registers depth if calibration files describe the depth camera, else the SDK does, with the color
    intrinsics in use. Registered depth has the size of the color images.

    Attributes:
        intrinsics: Intrinsics of both images.
        depth_intrinsics, geometry: Intrinsics of the depth camera; its pose, depth scale and bias.

    The arguments are the bindings of libk4a, the factory calibration, the calibration files, if any, and the settings
    with `width`, `rectify` and `register`.

    Raises:
        ConfigError: The camera's images are narrower than `width`.
        InputError: A file has another aspect ratio than the images.
        DeviceError: The calibration's lens model is unknown, or the SDK rejects it.
    """

    def __init__(self, k4a: Any, calibration: Any, files: CameraFiles, config: AzureKinectConfig):
        self._k4a, self._register = k4a, config.register
        factory = _intrinsics(calibration.color_camera_calibration)
        if config.width > factory.width:
            raise ConfigError(
                f"width is {config.width}, but the images are {factory.width} wide: set a smaller width, or 0"
            )
        width = config.width or factory.width
        size = width, round(width * factory.height / factory.width)
        self._color_intrinsics = scale_to_size(files.color, *size) if files.color else factory.resized(*size)
        self.intrinsics = replace(self._color_intrinsics, distortion=()) if config.rectify else self._color_intrinsics
        self._maps: tuple[np.ndarray, np.ndarray] | None = None
        self._registration: Registration | None = None
        self._transformation = None
        depth = _intrinsics(calibration.depth_camera_calibration)
        self.depth_intrinsics, self.geometry = depth, DepthGeometry(_pose(calibration, _DEPTH))
        if files.depth is not None:
            self.depth_intrinsics = scale_to_size(files.depth, depth.width, depth.height)
            self.geometry = files.geometry or self.geometry
            self._registration = Registration(self.depth_intrinsics, self.intrinsics, self.geometry)
        else:
            self._transformation = self._make_transformation(calibration)

    def color(self, image: Image) -> np.ndarray | None:
        """Return [H, W, 3] uint8 RGB; None if the image is damaged."""
        c = self.intrinsics
        pixels = image.rgb(c.width)
        if pixels is None:
            return None
        if c == self._color_intrinsics:
            same = pixels.shape[:2] == (c.height, c.width)
            return pixels if same else cv2.resize(pixels, (c.width, c.height), interpolation=cv2.INTER_AREA)
        if self._maps is None:
            lens = self._color_intrinsics.resized(pixels.shape[1], pixels.shape[0])
            self._maps = cv2.initUndistortRectifyMap(
                lens.matrix, np.array(lens.distortion), None, c.matrix, (c.width, c.height), cv2.CV_16SC2
            )
        return cv2.remap(pixels, *self._maps, cv2.INTER_LINEAR)

    def depth(self, image: Image) -> np.ndarray:
        """Return depth in the color camera's image: [H, W] float32 m, NaN if missing."""
        if not self._register:
            return _meters(image)
        if self._registration is not None:
            return self._registration.register(_meters(image))
        k4a, c, handle = self._k4a, self.intrinsics, self._k4a.k4a_image_t()
        kind = k4a.K4A_IMAGE_FORMAT_DEPTH16
        if k4a.k4a_image_create(kind, c.width, c.height, 2 * c.width, handle):
            raise DeviceError("the Azure Kinect SDK cannot allocate a depth image: close other programs")
        registered = Image(k4a, handle)
        try:
            # pykinect-azure's wrapper does not return the result code.
            transform = k4a.k4a_dll.k4a_transformation_depth_image_to_color_camera
            transform.argtypes = (k4a.k4a_transformation_t, k4a.k4a_image_t, k4a.k4a_image_t)
            if transform(self._transformation, image.handle, handle):
                raise DeviceError("the Azure Kinect SDK cannot register depth to color: open the camera again")
            return _meters(registered)
        finally:
            registered.release()

    def close(self) -> None:
        """Free the transformation."""
        if self._transformation is not None:
            self._k4a.k4a_transformation_destroy(self._transformation)
            self._transformation = None

    def _make_transformation(self, calibration: Any) -> Any:
        copy = type(calibration).from_buffer_copy(calibration)
        camera, c = copy.color_camera_calibration, self.intrinsics
        camera.resolution_width, camera.resolution_height = c.width, c.height
        values = {"fx": c.fx, "fy": c.fy, "cx": c.cx, "cy": c.cy}
        values |= dict.fromkeys(_COEFFICIENTS, 0.0) | dict(zip(_COEFFICIENTS, c.distortion, strict=False))
        for name, value in values.items():
            setattr(camera.intrinsics.parameters.param, name, value)
        transformation = self._k4a.k4a_transformation_create(copy)
        if not transformation:
            raise DeviceError("the Azure Kinect SDK rejects the camera's calibration: update its firmware")
        return transformation


def _intrinsics(camera: Any) -> Intrinsics:
    """Convert a `k4a_calibration_camera_t`."""
    if camera.intrinsics.type != _BROWN_CONRADY:
        raise DeviceError(
            f"the Azure Kinect's calibration has lens model {camera.intrinsics.type}, only Brown-Conrady "
            f"({_BROWN_CONRADY}) is supported: update its firmware"
        )
    p = camera.intrinsics.parameters.param
    distortion = tuple(float(getattr(p, name)) for name in _COEFFICIENTS)
    size = int(camera.resolution_width), int(camera.resolution_height)
    return Intrinsics(*size, p.fx, p.fy, p.cx, p.cy, distortion if any(distortion) else ())


def _pose(calibration: Any, sensor: int) -> np.ndarray:
    """Return the factory's transform [4, 4] of points, m, from a sensor's axes to the color camera's."""
    to_color = calibration.extrinsics[sensor][1]
    return transform(np.reshape(to_color.rotation, (3, 3)), np.array(to_color.translation) / 1000)


class AzureKinectCamera(DeviceCamera):
    """Azure Kinect with depth registered to color, and the direction of gravity; options: `AzureKinectConfig`.

    A stamp is the middle of the color exposure, mapped to system time by `DeviceClock`. It includes the smallest
    transfer delay, which cannot be measured. Stamps of a recording start now and keep the recorded intervals.

    Attributes:
        damaged: Captures with a corrupt color image.
        without_bodies: Frames whose bodies came too late.

    Raises:
        ConfigError: An option is unknown or out of range, or the camera does not support the combination.
    """

    config_class: ClassVar[type] = AzureKinectConfig
    _name = "Azure Kinect"

    def __init__(self, **options: Any):
        self.config: AzureKinectConfig = build(AzureKinectConfig, options)
        self.live = not self.config.recording
        self.paced = self.live or self.config.rate > 0
        if self.config.fps not in RATES:
            raise ConfigError(f"AzureKinectConfig.fps is {self.config.fps}, allowed: 5, 15, 30 Hz")
        for name, mode in (("color_mode", "3072p"), ("depth_mode", "wfov_unbinned")):
            if self.config.fps == 30 and getattr(self.config, name) == mode and self.live:
                raise ConfigError(f"AzureKinectConfig.{name} {mode} supports 5 and 15 Hz, not 30: set fps=15")
        self._images: Any = None
        self._tracker: BodyTracker | None = None
        self._gravity: GravityFilter | None = None
        self._lock = threading.Lock()  # held while the SDK is used; close waits for it
        self._closing = threading.Event()
        self._pace = Pace(self.config.rate)
        self._reset()

    @property
    def intrinsics(self) -> Intrinsics:
        """Intrinsics of both images; valid once open."""
        intrinsics: Intrinsics = self._opened("_images").intrinsics
        return intrinsics

    def close(self) -> None:
        """Close the camera; safe to call twice, and while another thread reads."""
        self._closing.set()
        if (tracker := self._tracker) is not None:
            tracker.stop()
        with self._lock:
            for part in (self._tracker, self._images, self._source):
                if part is not None:
                    part.close()
            self._tracker = self._images = self._source = self._gravity = None

    def read(self, timeout_s: float = 1.0) -> RgbdFrame:
        """Return the newest frame of a camera, or the next frame of a recording when it is due."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            source = self._opened()
            while True:
                if isinstance(source, Device):
                    capture = self._next(source, deadline)
                else:
                    capture = self._next_recorded(source)
                with capture:
                    frame = self._frame(capture)
                if frame is not None:
                    return frame

    def calibration(self) -> CameraFiles:
        """Return the calibration from `actrec calibrate` if there is one, else the factory's."""
        images = self._opened("_images")
        return CameraFiles(self.serial, images.intrinsics, images.depth_intrinsics, images.geometry)

    def figures(self) -> dict[str, float | int]:
        """Return the figures of `DeviceCamera` with the frames without color or bodies."""
        return super().figures() | {"damaged_color": self.damaged, "without_bodies": self.without_bodies}

    def _reset(self) -> None:
        super()._reset()
        self.damaged = self.without_bodies = 0
        self._fps, self.serial = self.config.fps, ""
        self._pace.restart()

    def _open(self) -> None:
        self._closing.clear()
        c = self.config
        k4a = load("k4a", c.library)
        # Report a missing library before the camera starts.
        k4abt = load("k4abt", c.body_library) if c.bodies else None
        if c.recording:
            self._source = playback = Playback(k4a, load_record(c.library), c.recording)
            self._fps = playback.fps
        else:
            self._source = Device(k4a, c.serial, c.color_mode, c.depth_mode, c.color_format, c.fps)
        self.serial = self._source.serial
        calibration = self._source.calibration
        self._images = images = RegisteredImages(k4a, calibration, self._own_files(), c)
        if c.accelerometer and self._source.start_imu():
            self._gravity = GravityFilter(_pose(calibration, _ACCELEROMETER)[:3, :3])
        elif c.accelerometer and self.live:
            logger.warning(
                "the accelerometer of Azure Kinect %s does not start: the direction of gravity is estimated; plug the "
                "camera in again, or set mount", self.serial
            )  # fmt: skip
        if k4abt is not None:
            pose = images.geometry.to_color
            self._tracker = BodyTracker(k4abt, calibration, pose, images.intrinsics, c.body_processing, c.body_model)

    def _next(self, source: Device, deadline: float) -> Capture:
        """Return the newest usable capture of the camera; wait for one."""
        capture: Capture | None = None
        try:
            while not self._closing.is_set():
                remaining = deadline - time.monotonic()
                if capture is None and remaining <= 0:
                    raise DeviceError(
                        f"the Azure Kinect {source.serial} sent no frame in time: use a USB 3 controller for it alone"
                    )
                newer = source.next(min(remaining, _POLL_S) if capture is None else 0)
                if newer is None and capture is not None:
                    return capture
                if newer is not None and self._usable(newer):
                    if capture is not None:
                        self.skipped += 1
                        capture.release()
                    capture = newer
            raise DeviceError("the Azure Kinect was closed during a read")
        except BaseException:
            if capture is not None:
                capture.release()
            raise

    def _next_recorded(self, source: Playback) -> Capture:
        """Return the next usable capture of the recording when it is due."""
        while not self._closing.is_set():
            capture = source.next()
            if not self._usable(capture):
                continue
            assert capture.color is not None
            due = self._pace.due(capture.color.device_us * 1000)
            if not self._closing.wait(max(0.0, due - time.monotonic())):
                return capture
            capture.release()
        raise DeviceError("the recording was closed during a read")

    def _usable(self, capture: Capture) -> bool:
        """Return whether a capture has color and depth of one instant; count and release it otherwise."""
        if capture.color is None or capture.depth is None:
            self.incomplete += 1
        elif abs(capture.color.device_us - capture.depth.device_us) > 500_000 / self._fps:
            self.unpaired += 1
        else:
            if self.live:
                self._stamp(capture.color)
            return True
        capture.release()
        return False

    def _frame(self, capture: Capture) -> RgbdFrame | None:
        """Return the frame of a capture; None if its color is damaged."""
        images, unit = self._images, self.config.depth_scale or MILLIMETER
        assert capture.color is not None and capture.depth is not None
        if unit != MILLIMETER:  # in place, since body tracking and the SDK's registration take millimeters
            units = capture.depth.depth()
            units[:] = np.minimum(np.round(units * (unit / MILLIMETER)), np.iinfo(units.dtype).max)
        queued = self._tracker is not None and self._tracker.offer(capture)
        color = images.color(capture.color)
        if color is None:
            self.damaged += 1
            return None
        frame = RgbdFrame(0, color, images.depth(capture.depth), images.intrinsics, self.config.frame_id)
        frame.depth_scale = unit
        if self._tracker is not None:
            tolerance, wait_s = round(500_000 / self._fps), self.config.body_wait_s
            bodies = self._tracker.collect(capture.depth.device_us, tolerance, wait_s) if queued else None
            self.without_bodies += bodies is None
            frame.skeletons = bodies or []
        frame.stamp_ns = self._stamp_ns if self.live else self._pace.advance(capture.color.device_us * 1000)
        if self._gravity is not None:
            self._measure(self._gravity, capture.color.device_us)
        return self._with_gravity(frame, self._gravity)

    def _measure(self, measured: GravityFilter, until_us: int) -> None:
        """Add the samples of the inertial sensor up to a frame's device time; of a camera, all that have arrived."""
        for sample in self._opened().motion(until_us):
            measured.rotate(int(sample.gyro_timestamp_usec) * 1000, np.array(sample.gyro_sample.v))
            measured.add(int(sample.acc_timestamp_usec) * 1000, np.array(sample.acc_sample.v))

    def _stamp(self, image: Image) -> None:
        """Set the stamp of a color image in system time."""
        now, clock_ns = time.time_ns(), time.monotonic_ns()
        # Time in the queue is not part of the delay.
        queued_ns = clock_ns - image.received_ns
        arrival = now - (queued_ns if 0 <= queued_ns < _MAX_QUEUED_NS else 0)
        self._stamp_ns = self._clock.system_ns(image.device_us * 1000, arrival)
        self._stamps.update(self._stamp_ns, arrival)


def _meters(image: Image) -> np.ndarray:
    """Return a depth image as [H, W] float32 m, NaN if missing."""
    return depth_in_meters(image.depth(), MILLIMETER)
