"""Sources of captures: an Azure Kinect, or a recording of one."""

import ctypes
from pathlib import Path
from typing import Any

from actrec.cameras.azure_kinect.captures import Capture
from actrec.cameras.azure_kinect.library import collect_errors
from actrec.utils.errors import DeviceError, EndOfStream

COLOR_MODES = ("720p", "1080p", "1440p", "1536p", "2160p", "3072p")

DEPTH_MODES = ("nfov_2x2binned", "nfov_unbinned", "wfov_2x2binned", "wfov_unbinned")

RATES = (5, 15, 30)

_UDEV = (
    "permission denied: copy 99-k4a.rules (idVendor 045e, MODE 0666; in scripts/ of "
    "https://github.com/microsoft/Azure-Kinect-Sensor-SDK) to /etc/udev/rules.d, run udevadm control --reload, and "
    "plug the camera in again"
)

_BUSY = "another program uses it: stop that program"
_UNKNOWN = "another program uses it, or its power supply is missing"


class Device:
    """A streaming Azure Kinect.

    Attributes:
        serial: Serial number.
        calibration: Factory calibration for the modes.

    Args:
        k4a: Bindings of libk4a.
        serial: Serial number; empty if only one is connected.
        color_mode, depth_mode, color_format, fps: As in `AzureKinectConfig`.

    Raises:
        DeviceError: There is none, or several without a serial number, or it does not open or start.
    """

    def __init__(
        self, k4a: Any, serial: str, color_mode: str, depth_mode: str, color_format: str = "mjpg", fps: int = 30
    ):
        self._k4a = k4a
        self._handle, self.serial = _find(k4a, serial)
        try:
            resolution, mode = 1 + COLOR_MODES.index(color_mode), 1 + DEPTH_MODES.index(depth_mode)
            self.calibration = k4a.k4a_calibration_t()
            if k4a.k4a_device_get_calibration(self._handle, mode, resolution, self.calibration):
                raise DeviceError(f"the Azure Kinect {self.serial} has no readable calibration: plug it in again")
            self._start(
                k4a.k4a_device_configuration_t(
                    color_format={
                        "mjpg": k4a.K4A_IMAGE_FORMAT_COLOR_MJPG,
                        "bgra32": k4a.K4A_IMAGE_FORMAT_COLOR_BGRA32,
                    }[color_format],
                    color_resolution=resolution,
                    depth_mode=mode,
                    camera_fps=RATES.index(fps),
                    synchronized_images_only=False,  # the SDK would drop incomplete captures silently
                )
            )
        except BaseException:
            k4a.k4a_device_close(self._handle)
            raise

    def next(self, timeout_s: float) -> Capture | None:
        """Return the oldest queued capture, or the next one; None after the timeout.

        Raises:
            DeviceError: The camera was unplugged.
        """
        k4a, handle = self._k4a, self._k4a.k4a_capture_t()
        result = k4a.k4a_device_get_capture(self._handle, handle, round(timeout_s * 1000))
        if result == k4a.K4A_WAIT_RESULT_TIMEOUT:
            return None
        if result != k4a.K4A_WAIT_RESULT_SUCCEEDED:
            raise DeviceError(
                f"the Azure Kinect {self.serial} was unplugged or stopped: check its USB cable and power supply"
            )
        return Capture(k4a, handle)

    def close(self) -> None:
        """Stop the cameras and close the device."""
        self._k4a.k4a_device_stop_cameras(self._handle)
        self._k4a.k4a_device_close(self._handle)

    def _start(self, configuration: Any) -> None:
        with collect_errors(self._k4a) as errors:
            result = self._k4a.k4a_device_start_cameras(self._handle, configuration)
        if result:
            raise DeviceError(
                f"the Azure Kinect {self.serial} does not start{_quote(errors)}: it needs its own USB 3 port, "
                "its power supply, and OpenGL for its depth engine (without a screen: DISPLAY of a running X server)"
            )


class Playback:
    """A recording of an Azure Kinect.

    Attributes:
        serial: Serial number of the recorded camera; empty if unknown.
        calibration: Factory calibration.
        fps: Frames per second.

    Args:
        k4a, record: Bindings of libk4a and libk4arecord.
        path: The mkv file.

    Raises:
        DeviceError: There is no such file, or it is not a recording with color and depth.
    """

    def __init__(self, k4a: Any, record: Any, path: str):
        self._k4a, self._record, self._path = k4a, record, path
        file = Path(path).expanduser()
        if not file.is_file():
            raise DeviceError(f"there is no recording '{path}': check the option recording")
        self._handle = record.k4a_playback_t()
        with collect_errors(k4a) as errors:
            result = record.k4a_playback_open(str(file).encode(), self._handle)
        if result:
            raise DeviceError(
                f"'{path}' is no recording of an Azure Kinect{_quote(errors)}: record it with k4arecorder"
            )
        try:
            self.calibration, self.fps = self._describe()
            self.serial = self._tag(b"K4A_DEVICE_SERIAL_NUMBER")
        except BaseException:
            self.close()
            raise

    def next(self) -> Capture:
        """Return the next capture.

        Raises:
            EndOfStream: The recording has ended.
            DeviceError: The file is damaged.
        """
        record, handle = self._record, self._k4a.k4a_capture_t()
        result = record.k4a_playback_get_next_capture(self._handle, handle)
        if result == record.K4A_STREAM_RESULT_EOF:
            raise EndOfStream(f"the recording '{self._path}' has ended")
        if result != record.K4A_STREAM_RESULT_SUCCEEDED:
            raise DeviceError(f"the recording '{self._path}' is damaged: record it again, or cut it with mkvmerge")
        return Capture(self._k4a, handle)

    def close(self) -> None:
        """Close the file."""
        self._record.k4a_playback_close(self._handle)

    def _describe(self) -> tuple[Any, int]:
        settings, calibration = self._record.k4a_record_configuration_t(), self._k4a.k4a_calibration_t()
        if self._record.k4a_playback_get_record_configuration(self._handle, settings):
            raise DeviceError(f"the recording '{self._path}' has no configuration: record it again")
        if not (settings.color_track_enabled and settings.depth_track_enabled):
            missing = "depth" if settings.color_track_enabled else "color"
            raise DeviceError(f"the recording '{self._path}' has no {missing}: record both")
        if self._record.k4a_playback_get_calibration(self._handle, calibration):
            raise DeviceError(f"the recording '{self._path}' has no calibration: record it again")
        return calibration, RATES[settings.camera_fps]

    def _tag(self, name: bytes) -> str:
        text, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
        if self._record.k4a_playback_get_tag(self._handle, name, text, size):
            return ""
        return text.value.decode(errors="replace")


def _find(k4a: Any, serial: str) -> tuple[Any, str]:
    """Open the camera with this serial number, or the only one."""
    count = int(k4a.k4a_device_get_installed_count())
    if not count:
        raise DeviceError("no Azure Kinect is connected: check its USB 3 cable and power supply")
    serials, problems = [], []
    for index in range(count):
        handle, problem = _open(k4a, index)
        if problem:
            problems.append(problem)
            continue
        serials.append(_serial_of(k4a, handle))
        # A number that went through YAML has lost its leading zeros.
        if (serial and serial.lstrip("0") == serials[-1].lstrip("0")) or (not serial and count == 1):
            return handle, serials[-1]
        k4a.k4a_device_close(handle)
    unopened = "".join(f"; one more cannot be opened: {problem}" for problem in problems)
    if not serials:
        raise DeviceError(f"the Azure Kinect cannot be opened: {problems[0]}")
    listed = ", ".join(serials)
    if serial:
        raise DeviceError(f"no Azure Kinect with serial number {serial}; connected: {listed}{unopened}")
    raise DeviceError(f"{count} Azure Kinects are connected: choose one with the option serial: {listed}{unopened}")


def _open(k4a: Any, index: int) -> tuple[Any, str]:
    """Return a camera's handle and "", or None and the cause with a remedy."""
    handle = k4a.k4a_device_t()
    with collect_errors(k4a) as errors:
        result = k4a.k4a_device_open(index, handle)
    if not result:
        return handle, ""
    log = " ".join(errors)
    if "BUSY" in log:
        return None, _BUSY
    # The SDK's message, with its spelling, if libusb denied access to each camera.
    return None, _UDEV if "all unavalable" in log or "ERROR_ACCESS" in log else _UNKNOWN + _quote(errors)


def _serial_of(k4a: Any, handle: Any) -> str:
    text, size = ctypes.create_string_buffer(64), ctypes.c_size_t(64)
    if k4a.k4a_device_get_serialnum(handle, text, size):
        return "(unknown)"
    return text.value.decode(errors="replace")


def _quote(errors: list[str]) -> str:
    return f" ({errors[0]})" if errors else ""
