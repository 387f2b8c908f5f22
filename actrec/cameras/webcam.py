"""Camera driver for webcams, network streams and video files, through OpenCV: color without depth."""

import logging
import os
import re
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actrec.cameras.base import Camera
from actrec.types import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils import calibration_files
from actrec.utils.calibration_files import COLOR, TYPICAL_FOV_DEG, CameraFiles, scale_to_size
from actrec.utils.config import build, setting
from actrec.utils.errors import ConfigError, DeviceError, EndOfStream, InputError
from actrec.utils.folders import expanded

logger = logging.getLogger(__name__)

SAME_CLOCK_NS = NANOSECONDS
"""Largest difference of a frame's stamp to the monotonic clock if V4L2 stamps frames by it."""

SET_BACK_NS = NANOSECONDS
"""Stamps that jump back by more follow a system clock that was set back; smaller jumps are smoothed out."""

CLOSE_S = 0.5
"""Wait for the reader thread at closing. A device that does not answer keeps it longer; it then ends by itself."""

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_CREDENTIALS = re.compile(r"//[^/?#]*@")  # to the last "@", as in FFmpeg


@dataclass(frozen=True)
class WebcamConfig:
    """Settings of the webcam driver."""

    source: str = setting(
        "0", "Index of a camera (0, 1), path of its device (/dev/video0), RTSP or HTTP URL, or path of a video file."
    )
    width: int = setting(0, "Image width; 0 for the camera's own.", unit="px", range=(0, 16384))
    height: int = setting(0, "Image height; 0 for the camera's own.", unit="px", range=(0, 16384))
    fps: float = setting(0.0, "Frames per second; 0 for the camera's own.", unit="Hz", range=(0.0, 1000.0))
    fourcc: str = setting("", "Pixel format, such as MJPG or YUYV; empty for the camera's own.")
    fov_deg: float = setting(
        TYPICAL_FOV_DEG, "Field of view along the longer edge, if the camera is not calibrated.", unit="degrees",
        range=(5.0, 170.0),
    )  # fmt: skip
    intrinsics: str = setting("", "YAML file of intrinsics or camera_info; empty: of serial, else by fov_deg.")
    serial: str = setting("", "Name of the camera's files of actrec calibrate; empty if it is not calibrated.")
    open_timeout_s: float = setting(10.0, "Longest wait for a network stream to open.", unit="s", range=(0.1, 600.0))
    frame_id: str = setting("camera_color_optical_frame", "Name of the optical frame.")


class WebcamCamera(Camera):
    """Camera that a thread reads through OpenCV, so that `read` returns the newest frame; options: `WebcamConfig`.

    Stamps are capture times by V4L2 if it stamps by the monotonic clock, else arrival times. A video file is played at
    its own pace and ends.

    Raises:
        ConfigError: An option is unknown or out of range, or the pixel format has not four characters.
    """

    config_class = WebcamConfig
    has_depth = False

    def __init__(self, **options: Any):
        self.config: WebcamConfig = build(WebcamConfig, options)
        self.serial = self.config.serial
        self._is_assumed = False  # the field of view
        if self.config.fourcc and len(self.config.fourcc) != 4:
            raise ConfigError(f"fourcc is '{self.config.fourcc}', expected four characters such as MJPG")
        source = self.config.source
        self.is_file = not (source.isdecimal() or _URL.match(source) or source.startswith("/dev/"))
        self.live = not self.is_file
        self.name = f"video '{source}'" if self.is_file else f"webcam '{_CREDENTIALS.sub('//', source)}'"
        self._intrinsics: Intrinsics | None = None
        self._reader: _Reader | None = None
        self._has_warned = False

    @property
    def intrinsics(self) -> Intrinsics:
        """Intrinsics of the images; by a calibration file, else estimated from `fov_deg`."""
        if self._intrinsics is None:
            raise DeviceError(f"the {self.name} is not open: call open() or use a with statement")
        return self._intrinsics

    def open(self) -> None:
        """Open the device, stream or file, wait for its first frame, and start reading."""
        if self._reader is not None:
            return
        capture = self._capture()
        try:
            found, image = capture.read()
            if not found:
                raise DeviceError(
                    f"the {self.name} opens but sends no frame: "
                    + ("it is not a video that OpenCV reads, or damaged" if self.is_file else self._remedy())
                )
            height, width = image.shape[:2]
            self._check_size(width, height)
            self._intrinsics = self._find_intrinsics(width, height)
        except BaseException:
            capture.release()
            raise
        self.skipped = 0
        self._reader = _Reader(self.name, capture, image, self.is_file, self.config.fps)

    def close(self) -> None:
        """Stop reading and wake a waiting reader; safe to call twice. Also returns if the device does not answer."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def read(self, timeout_s: float = 1.0) -> RgbdFrame:
        """Return the newest frame that was not read yet; wait for it if there is none."""
        reader, intrinsics = self._reader, self.intrinsics
        if reader is None:
            raise DeviceError(f"the {self.name} is closed: call open()")
        stamp_ns, image = reader.next(timeout_s)
        self.skipped = reader.skipped
        if image.shape[:2] != (intrinsics.height, intrinsics.width):
            raise DeviceError(
                f"the {self.name} changed its images from {intrinsics.width}×{intrinsics.height} to "
                f"{image.shape[1]}×{image.shape[0]}: open it again"
            )
        color = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        return RgbdFrame(stamp_ns, color, None, intrinsics, self.config.frame_id)

    def calibration(self) -> CameraFiles:
        """Return the calibration of the frames, without intrinsics that are assumed."""
        return CameraFiles(self.serial, None if self._is_assumed else self.intrinsics)

    def figures(self) -> dict[str, float | int]:
        """Return the number of frames dropped for a newer one, and the time from capture to arrival."""
        reader = self._reader
        return {} if reader is None else {"skipped": reader.skipped, "stamp_delay_ms": reader.delay_ms}

    def _capture(self) -> Any:
        """Return the open capture of OpenCV."""
        c, source = self.config, self.config.source
        is_device = source.isdecimal() or source.startswith("/dev/")
        if self.is_file and not expanded(source).is_file():
            raise DeviceError(
                f"there is no video '{source}': set the option source to the index of a webcam (0), a device "
                "(/dev/video0), a URL (rtsp://…) or the path of a video"
            )
        wanted = {
            cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*c.fourcc) if c.fourcc else 0,
            cv2.CAP_PROP_FRAME_WIDTH: c.width,
            cv2.CAP_PROP_FRAME_HEIGHT: c.height,
            cv2.CAP_PROP_FPS: c.fps,
        }
        log = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging  # OpenCV 4, 5
        log_level = log.getLogLevel()
        log.setLogLevel(0)  # silent: the error below names the cause
        try:
            if is_device:
                backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
                capture = cv2.VideoCapture(int(source) if source.isdecimal() else source, backend)
                for key, value in wanted.items():
                    if value and capture.isOpened():
                        capture.set(key, value)
                if bool(c.width) != bool(c.height) and capture.isOpened():
                    _set_side(capture, c.width, c.height)
                self._check_format(capture)
            else:
                if (c.fps or c.fourcc) and not self.is_file:
                    logger.warning("the %s comes at its own rate: fps and fourcc are of devices", self.name)
                milliseconds = round(1000 * c.open_timeout_s)
                timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds, cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds]
                path = str(expanded(source)) if self.is_file else source
                if not _is_utf8(path):  # OpenCV ends the process
                    raise DeviceError(f"the {self.name} has a name that is not UTF-8: rename it, or use driver replay")
                capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [] if self.is_file else timeouts)
        finally:
            log.setLogLevel(log_level)
        if not capture.isOpened():
            capture.release()
            raise DeviceError(f"cannot open the {self.name}: {self._remedy()}")
        return capture

    def _remedy(self) -> str:
        """Return the cause for which the source does not open, as far as it can be seen, and a remedy."""
        source = self.config.source
        if self.is_file:
            return "it is not a video that OpenCV reads, or damaged"
        if _URL.match(source):
            return "no video comes from there; check address, password and network (and open_timeout_s, if it is slow)"
        device = Path(f"/dev/video{source}" if source.isdecimal() else source)
        if sys.platform != "linux":
            return (
                "another program uses it, no camera has this number, or the system denies access: allow it for the "
                "terminal (macOS: Privacy & Security, Camera), or set source to another number"
            )
        if not device.exists():
            known = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*"))) or "none"
            return f"there is no device {device} (connected: {known}); set source to one of them, or plug it in"
        if not os.access(device, os.R_OK | os.W_OK):
            return f"no permission for {device}: sudo usermod -aG video $USER, then log in again"
        return "another program uses it, or it does not capture color; close the program, or set source to another one"

    def _check_format(self, capture: Any) -> None:
        """Warn about a rate or pixel format that the device has not taken; 0 is unknown."""
        c, rate, code = self.config, capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FOURCC))
        if c.fps and rate > 0 and abs(rate - c.fps) > 0.5:
            remedy = "" if c.fourcc else "; cameras on USB 2 often need fourcc=MJPG for large images"
            logger.warning("the %s sends %g images a second instead of %g%s", self.name, rate, c.fps, remedy)
        if c.fourcc and code > 0 and code != cv2.VideoWriter.fourcc(*c.fourcc):
            found = code.to_bytes(4, "little").decode("ascii", "replace")
            logger.warning("the %s sends %s instead of %s", self.name, found, c.fourcc)

    def _check_size(self, width: int, height: int) -> None:
        c = self.config
        if not self.is_file and (c.width or width, c.height or height) != (width, height):
            logger.warning(
                "the %s has no images of %s×%s, it sends %d×%d", self.name, c.width or "any", c.height or "any", width,
                height,
            )  # fmt: skip

    def _find_intrinsics(self, width: int, height: int) -> Intrinsics:
        c = self.config
        self._is_assumed = False
        if c.intrinsics:
            return scale_to_size(calibration_files.from_yaml(expanded(c.intrinsics)), width, height)
        if c.serial and (own := calibration_files.load(c.serial, parts=(COLOR,)).color) is not None:
            return scale_to_size(own, width, height)
        self._is_assumed = True
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "the %s is not calibrated: assuming a field of view of %g degrees along the longer edge, by which "
                "distances are estimated; set fov_deg, or calibrate it (actrec calibrate intrinsics) and set serial",
                self.name,
                c.fov_deg,
            )
        return calibration_files.from_fov(width, height, c.fov_deg)


class _Reader:
    """A thread that reads a capture and keeps the newest frame; it releases the capture when it ends.

    Attributes:
        skipped: Frames replaced by a newer one before they were read.
        delay_ms: Time from capture to arrival of the newest frame.
    """

    def __init__(self, name: str, capture: Any, first: np.ndarray, is_file: bool, fps: float):
        self.skipped, self.delay_ms, self._first_ns = 0, 0.0, 0
        self._name, self._capture, self._is_file = name, capture, is_file
        rate = fps or capture.get(cv2.CAP_PROP_FPS)
        self._period_s = 1 / rate if 0 < rate < 1000 else 1 / 30
        self._changed = threading.Condition()
        self._newest: tuple[int, np.ndarray] | None = self._stamp_ns(), first
        self._last_ns = self._newest[0]
        self._end: Exception | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webcam", daemon=True)
        self._thread.start()

    def next(self, timeout_s: float) -> tuple[int, np.ndarray]:
        """Return stamp and BGR image of the newest frame, once; raise as `Camera.read`."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest or self._end or self._stopped.is_set(), timeout_s)
            if self._newest is not None:
                newest, self._newest = self._newest, None
                self._changed.notify_all()
                return newest
            if self._end is not None:
                raise self._end
        if self._stopped.is_set():
            raise DeviceError(f"the {self._name} was closed during a read")
        raise DeviceError(f"the {self._name} sent no frame for {timeout_s:g} s: check its cable, or its network")

    def close(self) -> None:
        """Stop, and wake the reader."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        began, number = time.monotonic(), 0
        try:
            while not self._stopped.is_set():
                if self._is_file:  # at its own pace, and no faster than it is read
                    number += 1
                    self._stopped.wait(max(began + number * self._period_s - time.monotonic(), 0.0))
                if not self._capture.grab():
                    self._finish(
                        EndOfStream(f"the {self._name} has ended")
                        if self._is_file
                        else DeviceError(f"the {self._name} stopped: it was unplugged, or its stream ended or stalled")
                    )
                    return
                stamp_ns = self._stamp_ns(number)
                found, image = self._capture.retrieve()
                if found:
                    self._put(stamp_ns, image)
        except Exception as error:  # raised in the reading thread
            failure = InputError if self._is_file else DeviceError  # a file does not recover
            self._finish(failure(f"the {self._name} failed: {error}"))
        finally:
            self._capture.release()

    def _stamp_ns(self, number: int = 0) -> int:
        """Return the capture time of frame `number`, just grabbed, by the system's clock; of a file in its own time."""
        now = time.time_ns()
        if self._is_file:  # a reader that pauses or is slow must not change the speed of motion
            self._first_ns = self._first_ns or now
            return self._first_ns + round(number * self._period_s * NANOSECONDS)
        age_ns = time.monotonic_ns() - round(1e6 * self._capture.get(cv2.CAP_PROP_POS_MSEC))
        if not 0 <= age_ns < SAME_CLOCK_NS:
            age_ns = 0  # unknown
        self.delay_ms = age_ns / 1e6
        return now - age_ns

    def _put(self, stamp_ns: int, image: np.ndarray) -> None:
        with self._changed:
            if self._is_file:  # every frame counts
                self._changed.wait_for(lambda: self._newest is None or self._stopped.is_set())
            self.skipped += self._newest is not None
            if self._is_file or stamp_ns > self._last_ns - SET_BACK_NS:  # else the system's clock was set back
                stamp_ns = max(stamp_ns, self._last_ns + 1)
            self._last_ns = stamp_ns
            self._newest = self._last_ns, image
            self._changed.notify_all()

    def _finish(self, error: Exception) -> None:
        with self._changed:
            self._end = error
            self._changed.notify_all()


def _set_side(capture: Any, width: int, height: int) -> None:
    """Set one side of the images, of which the other is 0: V4L2 sets both or none, and takes the most similar size."""
    side = cv2.CAP_PROP_FRAME_WIDTH if width else cv2.CAP_PROP_FRAME_HEIGHT
    now = (int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    for across, down in (tuple(now), *((round(height * aspect), round(width / aspect)) for aspect in (16 / 9, 4 / 3))):
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, width or across)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height or down)
        if int(capture.get(side)) == (width or height):
            return


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
