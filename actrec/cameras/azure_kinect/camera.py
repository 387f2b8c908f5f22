"""The Azure Kinect and what speaks its interface (Orbbec Femto), live or from its recordings."""

import threading
import time
from dataclasses import dataclass
from typing import Any, ClassVar

from actrec.cameras.azure_kinect import library as azure_kinect_library
from actrec.cameras.azure_kinect.bodies import PROCESSING, BodyTracker
from actrec.cameras.azure_kinect.captures import Capture, Image, View
from actrec.cameras.azure_kinect.sources import COLOR_MODES, DEPTH_MODES, RATES, Device, Playback
from actrec.cameras.base import Camera, Pace
from actrec.cameras.clock import DeviceClock, StampFigures
from actrec.types import Intrinsics, RgbdFrame
from actrec.utils import calibration_files
from actrec.utils.config import build, setting
from actrec.utils.errors import ConfigError, DeviceError

_POLL_S = 0.05
"""How long the SDK is waited for at a time: another thread that closes the camera waits no longer."""

_OLDEST_NS = 10_000_000_000
"""A time of arrival older than that is of another clock."""


@dataclass(frozen=True)
class AzureKinectConfig:
    """Settings of `AzureKinectCamera`."""

    serial: str = setting("", "Serial number of the camera; empty for the only one.")
    color_mode: str = setting("720p", "Color resolution; 1536p and 3072p are 4:3.", choices=COLOR_MODES)
    depth_mode: str = setting("nfov_unbinned", "Field of view and binning of depth.", choices=DEPTH_MODES)
    fps: int = setting(30, "Frames a second: 5, 15 or 30.", unit="Hz", range=(5, 30))
    color_format: str = setting(
        "mjpg", "What the camera sends; bgra32 is decoded by the SDK.", choices=("mjpg", "bgra32")
    )
    width: int = setting(0, "Width of the registered images; 0 for the color camera's.", unit="px", range=(0, 4096))
    rectify: bool = setting(False, "Takes lens distortion out of the images.")
    register: bool = setting(
        True, "Registers depth to color; false leaves it in the depth camera's image, for actrec calibrate depth."
    )
    calibration: str = setting(
        "auto",
        "Calibration to use: the files of this serial number if there are any, or the factory's.",
        choices=("auto", "factory"),
    )
    recording: str = setting("", "An mkv of k4arecorder to play instead of a camera.")
    rate: float = setting(
        1.0, "Pace of a recording: 1 as recorded, 2 twice as fast, 0 as fast as frames are taken.", range=(0, 1000)
    )
    bodies: bool = setting(False, "Tracks bodies with Microsoft's Body Tracking SDK.")
    body_processing: str = setting("cuda", "What body tracking runs on.", choices=tuple(PROCESSING))
    body_model: str = setting("", "Network file of body tracking; empty for the SDK's.")
    body_wait_s: float = setting(
        0.1, "A frame whose bodies are not found in this time goes without.", unit="s", range=(0, 60)
    )
    library: str = setting("", "File of libk4a, e.g. of Orbbec's K4A wrapper; empty for the system's.")
    record_library: str = setting("", "File of libk4arecord; empty for that beside `library`.")
    body_library: str = setting("", "File of libk4abt; empty for the system's.")
    frame_id: str = setting("camera_color_optical_frame", "Name of the optical frame.")


class AzureKinectCamera(Camera):
    """Registered frames of an Azure Kinect. The IMU stays off.

    Stamps are the middle of the color exposure by the device's clock, put on the system's by `DeviceClock` from when
    the host had received the image; the least delay of transfer, which no clock of it tells, is in them. Of a recording
    they begin now and keep the recorded intervals.

    Attributes:
        serial: Serial number of the camera, or of the camera that made the recording, once open; empty if unknown.
        skipped: Frames left out since it was opened, for a newer one was there.
        halves: Captures without color or without depth.
        unpaired: Captures whose images were taken more than half a frame apart.
        damaged: Captures whose color could not be decoded.
        without_bodies: Frames whose bodies came too late.

    Args:
        options: Fields of `AzureKinectConfig`.

    Raises:
        ConfigError: An option is unknown or out of range, or the camera has no such combination.
    """

    config_class: ClassVar[type] = AzureKinectConfig

    def __init__(self, **options: Any):
        self.config: AzureKinectConfig = build(AzureKinectConfig, options)
        _check(self.config)
        self._source: Device | Playback | None = None
        self._view: View | None = None
        self._tracker: BodyTracker | None = None
        self._lock = threading.Lock()  # held while the SDK is used: closing must wait for it
        self._closing = threading.Event()
        self._pace = Pace(self.config.rate)
        self._reset()

    @property
    def live(self) -> bool:  # type: ignore[override]
        """False for a recording."""
        return not self.config.recording

    @property
    def paced(self) -> bool:  # type: ignore[override]
        """False for a recording of rate 0."""
        return self.live or self.config.rate > 0

    @property
    def intrinsics(self) -> Intrinsics:
        """Intrinsics of both images; valid once open."""
        return self._opened()[1].intrinsics

    def open(self) -> None:
        """Open the camera or the recording.

        Raises:
            DeviceError: There is no such camera or recording, or it does not start.
            MissingLibraryError: One of the SDK's libraries is not there.
            InputError: The camera's own calibration does not fit its images.
            ConfigError: `width` exceeds the images'.
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
        """Close it; safe to call twice, and while another thread reads."""
        self._closing.set()
        if (tracker := self._tracker) is not None:
            tracker.stop()
        with self._lock:
            for part in (self._tracker, self._view, self._source):
                if part is not None:
                    part.close()
            self._tracker = self._view = self._source = None

    def read(self, timeout_s: float = 1.0) -> RgbdFrame:
        """Return the newest frame of a camera, or the next one; of a recording the next one, when it is due.

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
        """Return the factory's intrinsics, or the intrinsics of the calibration files in use."""
        _, view = self._opened()
        return calibration_files.CameraFiles(self.serial, view.intrinsics, view.depth_lens, view.geometry)

    def figures(self) -> dict[str, float | int]:
        """Return delay and jitter of the stamps, the clocks' offset, and the frames dropped since opening, by cause."""
        told = self._stamps.told(self._clock, self.skipped, self.halves, self.unpaired)
        return told | {
            "damaged_color": self.damaged,
            "without_bodies": self.without_bodies,
        }

    def _reset(self) -> None:
        self.skipped = self.halves = self.unpaired = self.damaged = self.without_bodies = 0
        self._clock, self._stamps = DeviceClock(), StampFigures()
        self._fps, self.serial = self.config.fps, ""
        self._pace.restart()

    def _open(self) -> None:
        c = self.config
        k4a = azure_kinect_library.load("k4a", c.library)
        # Before the camera starts: a missing library should be found before images arrive.
        k4abt = azure_kinect_library.load("k4abt", c.body_library) if c.bodies else None
        if c.recording:
            library = c.record_library or azure_kinect_library.beside(c.library, "k4arecord")
            self._source = playback = Playback(k4a, azure_kinect_library.load("k4arecord", library), c.recording)
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
            raise DeviceError("the Azure Kinect is not open: call open() or use it in a with statement")
        return self._source, self._view

    def _next(self, deadline: float) -> Capture:
        """Return the capture to give next."""
        source, _ = self._opened()
        if isinstance(source, Playback):
            return self._recorded(source)
        while True:
            left = deadline - time.monotonic()
            if self._closing.is_set():
                raise DeviceError("the Azure Kinect was closed while a frame was awaited")
            if left <= 0:
                raise DeviceError(
                    f"the Azure Kinect {source.serial} gave no frame in time: check that it has USB 3 of its own"
                )
            capture = source.next(min(left, _POLL_S))
            if capture is not None and self._usable(capture):
                return self._newest(source, capture)

    def _newest(self, source: Device, capture: Capture) -> Capture:
        """Return the last of the captures that wait."""
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

    def _recorded(self, source: Playback) -> Capture:
        while True:
            if self._closing.is_set():
                raise DeviceError("the recording was closed while a frame was awaited")
            capture = source.next()
            if not self._usable(capture):
                continue
            assert capture.color is not None
            due = self._pace.due(capture.color.device_us * 1000)
            if self._closing.wait(max(0.0, due - time.monotonic())):
                capture.release()
                raise DeviceError("the recording was closed while a frame was awaited")
            return capture

    def _usable(self, capture: Capture) -> bool:
        """Whether a capture has both images of one instant; one that has not is counted and released."""
        if capture.color is None or capture.depth is None:
            self.halves += 1
        elif capture.apart_us > 500_000 / self._fps:
            self.unpaired += 1
        else:
            if self.live:
                self._stamp(capture.color)
            return True
        capture.release()
        return False

    def _frame(self, capture: Capture) -> RgbdFrame | None:
        """None where the color is damaged."""
        _, view = self._opened()
        assert capture.color is not None and capture.depth is not None
        offered = self._tracker is not None and self._tracker.offer(capture)
        color = view.color(capture.color)
        if color is None:
            self.damaged += 1
            return None
        frame = RgbdFrame(0, color, view.depth(capture.depth), view.intrinsics, self.config.frame_id)
        if self._tracker is not None:
            tolerance = round(500_000 / self._fps)
            bodies = (
                self._tracker.collect(capture.depth.device_us, tolerance, self.config.body_wait_s) if offered else None
            )
            self.without_bodies += bodies is None
            frame.skeletons = bodies or []
        frame.stamp_ns = self._given if self.live else self._pace.advance(capture.color.device_us * 1000)
        return frame

    def _stamp(self, image: Image) -> None:
        """Put the exposure on the system's clock."""
        now, clock_ns = time.time_ns(), time.monotonic_ns()
        # When the host had received it; the time that it then waited for us is no part of the delay.
        waited = clock_ns - image.received_ns
        arrival = now - (waited if 0 <= waited < _OLDEST_NS else 0)
        self._given = self._clock.system_ns(image.device_us * 1000, arrival)
        self._stamps.seen(self._given, arrival)


def _check(config: AzureKinectConfig) -> None:
    """Raise ConfigError for settings that the camera does not support."""
    if config.fps not in RATES:
        raise ConfigError(f"AzureKinectConfig.fps is {config.fps}, allowed: 5, 15, 30 Hz")
    for name, mode in (("color_mode", "3072p"), ("depth_mode", "wfov_unbinned")):
        if config.fps == 30 and getattr(config, name) == mode and not config.recording:
            raise ConfigError(
                f"AzureKinectConfig.{name} {mode} comes at 5 or 15 frames a second, not at 30: set fps=15"
            )
