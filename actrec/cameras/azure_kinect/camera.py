"""Camera driver of the Azure Kinect, compatible cameras (Orbbec Femto) and their recordings."""

import threading
import time
from dataclasses import dataclass
from typing import Any, ClassVar

from actrec.cameras.azure_kinect.bodies import PROCESSING, BodyTracker
from actrec.cameras.azure_kinect.captures import Capture, Image, View
from actrec.cameras.azure_kinect.library import load, sibling_path
from actrec.cameras.azure_kinect.sources import COLOR_MODES, DEPTH_MODES, RATES, Device, Playback
from actrec.cameras.base import Camera, Pace
from actrec.cameras.clock import DeviceClock, StampStatistics
from actrec.types import Intrinsics, RgbdFrame
from actrec.utils import calibration_files
from actrec.utils.config import build, setting
from actrec.utils.errors import ConfigError, DeviceError

_POLL_S = 0.05
"""Longest wait inside the SDK, and so of a thread that closes the camera."""

_MAX_QUEUED_NS = 10_000_000_000
"""An older arrival time comes from another clock."""


@dataclass(frozen=True)
class AzureKinectConfig:
    """Settings of `AzureKinectCamera`."""

    serial: str = setting("", "Serial number of the camera; empty if only one is connected.")
    color_mode: str = setting("720p", "Color resolution; 1536p and 3072p are 4:3.", choices=COLOR_MODES)
    depth_mode: str = setting("nfov_unbinned", "Field of view and binning of depth.", choices=DEPTH_MODES)
    fps: int = setting(30, "Frames per second: 5, 15 or 30.", unit="Hz", range=(5, 30))
    color_format: str = setting(
        "mjpg", "Color format that the camera sends; the SDK decodes bgra32.", choices=("mjpg", "bgra32")
    )
    width: int = setting(0, "Width of the registered images; 0 for the color camera's.", unit="px", range=(0, 4096))
    rectify: bool = setting(False, "Remove lens distortion.")
    register: bool = setting(
        True, "Register depth to color; false keeps the depth camera's image, for actrec calibrate depth."
    )
    calibration: str = setting(
        "auto",
        "auto uses this camera's files from actrec calibrate if there are any.",
        choices=("auto", "factory"),
    )
    recording: str = setting("", "Recording of k4arecorder (.mkv) to play instead of a camera.")
    rate: float = setting(
        1.0, "Speed of a recording: 1 as recorded, 2 twice as fast, 0 as fast as frames are read.", range=(0, 1000)
    )
    bodies: bool = setting(False, "Track bodies with Microsoft's Body Tracking SDK.")
    body_processing: str = setting("cuda", "Processor of body tracking.", choices=tuple(PROCESSING))
    body_model: str = setting("", "Network file of body tracking; empty for the SDK's.")
    body_wait_s: float = setting(0.1, "Longest wait for the bodies of a frame.", unit="s", range=(0, 60))
    library: str = setting("", "File of libk4a, e.g. of Orbbec's K4A wrapper; empty for the system's.")
    record_library: str = setting("", "File of libk4arecord; empty for the one beside `library`.")
    body_library: str = setting("", "File of libk4abt; empty for the system's.")
    frame_id: str = setting("camera_color_optical_frame", "Name of the optical frame.")


class AzureKinectCamera(Camera):
    """Azure Kinect with depth registered to color. The IMU stays off.

    Stamps are the middle of the color exposure, mapped to system time by `DeviceClock`; they include the smallest
    transfer delay, which cannot be measured. Stamps of a recording start now and keep the recorded intervals.

    Attributes:
        serial: Serial number of the camera, or of the camera that made the recording, once open; empty if unknown.
        skipped: Frames dropped since opening for a newer one.
        incomplete: Captures without color or without depth.
        unpaired: Captures with color and depth more than half a frame period apart.
        damaged: Captures with a corrupt color image.
        without_bodies: Frames with late bodies.

    Args:
        options: Fields of `AzureKinectConfig`.

    Raises:
        ConfigError: An option is unknown or out of range, or the camera does not support the combination.
    """

    config_class: ClassVar[type] = AzureKinectConfig

    def __init__(self, **options: Any):
        self.config: AzureKinectConfig = build(AzureKinectConfig, options)
        _check(self.config)
        self._source: Device | Playback | None = None
        self._view: View | None = None
        self._tracker: BodyTracker | None = None
        self._lock = threading.Lock()  # held while the SDK is used; close waits for it
        self._closing = threading.Event()
        self._pace = Pace(self.config.rate)
        self._reset()

    @property
    def live(self) -> bool:  # type: ignore[override]
        """False for a recording."""
        return not self.config.recording

    @property
    def paced(self) -> bool:  # type: ignore[override]
        """False for a recording with rate 0."""
        return self.live or self.config.rate > 0

    @property
    def intrinsics(self) -> Intrinsics:
        """Intrinsics of both images; valid once open."""
        return self._opened()[1].intrinsics

    def open(self) -> None:
        """Open the camera or the recording.

        Raises:
            DeviceError: There is no such camera or recording, or it does not start.
            MissingLibraryError: A library of the SDK is not installed.
            InputError: A calibration file has another aspect ratio.
            ConfigError: `width` exceeds the width of the images.
        """
        if self._source is not None:
            return
        self._closing.clear()
        self._reset()
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the camera; safe to call twice, and while another thread reads."""
        self._closing.set()
        if (tracker := self._tracker) is not None:
            tracker.stop()
        with self._lock:
            for part in (self._tracker, self._view, self._source):
                if part is not None:
                    part.close()
            self._tracker = self._view = self._source = None

    def read(self, timeout_s: float = 1.0) -> RgbdFrame:
        """Return the newest frame of a camera, or the next frame of a recording when it is due.

        Raises:
            EndOfStream: The recording has ended.
            DeviceError: No frame within `timeout_s`, the camera was unplugged, or another thread closed it.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            self._opened()
            while True:
                with self._next(deadline) as capture:
                    frame = self._frame(capture)
                if frame is not None:
                    return frame

    def calibration(self) -> calibration_files.CameraFiles:
        """Return the factory's calibration, or the camera's calibration files."""
        _, view = self._opened()
        return calibration_files.CameraFiles(self.serial, view.intrinsics, view.depth_lens, view.geometry)

    def figures(self) -> dict[str, float | int]:
        """Return delay and jitter of the stamps, the clocks' offset, and the frames dropped since opening, by cause."""
        common = self._stamps.figures(self._clock, self.skipped, self.incomplete, self.unpaired)
        return common | {"damaged_color": self.damaged, "without_bodies": self.without_bodies}

    def _reset(self) -> None:
        self.skipped = self.incomplete = self.unpaired = self.damaged = self.without_bodies = 0
        self._clock, self._stamps = DeviceClock(), StampStatistics()
        self._fps, self.serial = self.config.fps, ""
        self._pace.restart()

    def _open(self) -> None:
        c = self.config
        k4a = load("k4a", c.library)
        # Report a missing library before the camera starts.
        k4abt = load("k4abt", c.body_library) if c.bodies else None
        if c.recording:
            library = c.record_library or sibling_path(c.library, "k4arecord")
            self._source = playback = Playback(k4a, load("k4arecord", library), c.recording)
            self._fps = playback.fps
        else:
            self._source = Device(k4a, c.serial, c.color_mode, c.depth_mode, c.color_format, c.fps)
        self.serial = self._source.serial
        files = calibration_files.load(self.serial) if c.calibration == "auto" and self.serial else None
        calibration = self._source.calibration
        self._view = view = View(k4a, calibration, files, c.width, c.rectify, c.register)
        if k4abt is not None:
            self._tracker = BodyTracker(
                k4abt, calibration, view.to_color, view.intrinsics, c.body_processing, c.body_model
            )

    def _opened(self) -> tuple[Device | Playback, View]:
        if self._source is None or self._view is None:
            raise DeviceError("the Azure Kinect is not open: call open() or use a with statement")
        return self._source, self._view

    def _next(self, deadline: float) -> Capture:
        """Return the next usable capture."""
        source, _ = self._opened()
        if isinstance(source, Playback):
            return self._next_recorded(source)
        while True:
            left = deadline - time.monotonic()
            if self._closing.is_set():
                raise DeviceError("the Azure Kinect was closed during a read")
            if left <= 0:
                raise DeviceError(
                    f"the Azure Kinect {source.serial} sent no frame in time: use its own USB 3 controller"
                )
            capture = source.next(min(left, _POLL_S))
            if capture is not None and self._usable(capture):
                return self._newest(source, capture)

    def _newest(self, source: Device, capture: Capture) -> Capture:
        """Return the last of the queued captures."""
        try:
            while (newer := source.next(0)) is not None:
                if self._usable(newer):
                    self.skipped += 1
                    capture.release()
                    capture = newer
        except BaseException:
            capture.release()
            raise
        return capture

    def _next_recorded(self, source: Playback) -> Capture:
        while True:
            if self._closing.is_set():
                raise DeviceError("the recording was closed during a read")
            capture = source.next()
            if not self._usable(capture):
                continue
            assert capture.color is not None
            due = self._pace.due(capture.color.device_us * 1000)
            if self._closing.wait(max(0.0, due - time.monotonic())):
                capture.release()
                raise DeviceError("the recording was closed during a read")
            return capture

    def _usable(self, capture: Capture) -> bool:
        """Return whether a capture has color and depth of one instant; count and release it otherwise."""
        if capture.color is None or capture.depth is None:
            self.incomplete += 1
        elif capture.time_difference_us > 500_000 / self._fps:
            self.unpaired += 1
        else:
            if self.live:
                self._stamp(capture.color)
            return True
        capture.release()
        return False

    def _frame(self, capture: Capture) -> RgbdFrame | None:
        """Return the frame of a capture; None if its color is damaged."""
        _, view = self._opened()
        assert capture.color is not None and capture.depth is not None
        queued = self._tracker is not None and self._tracker.offer(capture)
        color = view.color(capture.color)
        if color is None:
            self.damaged += 1
            return None
        frame = RgbdFrame(0, color, view.depth(capture.depth), view.intrinsics, self.config.frame_id)
        if self._tracker is not None:
            tolerance = round(500_000 / self._fps)
            bodies = (
                self._tracker.collect(capture.depth.device_us, tolerance, self.config.body_wait_s) if queued else None
            )
            self.without_bodies += bodies is None
            frame.skeletons = bodies or []
        frame.stamp_ns = self._stamp_ns if self.live else self._pace.advance(capture.color.device_us * 1000)
        return frame

    def _stamp(self, image: Image) -> None:
        """Set the stamp of a color image in system time."""
        now, clock_ns = time.time_ns(), time.monotonic_ns()
        # The time that the image then waited in the queue is not part of the delay.
        waited = clock_ns - image.received_ns
        arrival = now - (waited if 0 <= waited < _MAX_QUEUED_NS else 0)
        self._stamp_ns = self._clock.system_ns(image.device_us * 1000, arrival)
        self._stamps.update(self._stamp_ns, arrival)


def _check(config: AzureKinectConfig) -> None:
    """Raise ConfigError for settings that the camera does not support."""
    if config.fps not in RATES:
        raise ConfigError(f"AzureKinectConfig.fps is {config.fps}, allowed: 5, 15, 30 Hz")
    for name, mode in (("color_mode", "3072p"), ("depth_mode", "wfov_unbinned")):
        if config.fps == 30 and getattr(config, name) == mode and not config.recording:
            raise ConfigError(f"AzureKinectConfig.{name} {mode} supports 5 and 15 Hz, not 30: set fps=15")
