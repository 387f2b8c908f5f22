"""Where captures come from: an Azure Kinect, or an mkv recorded with one."""

import ctypes
from pathlib import Path
from typing import Any

from actrec.cameras.azure_kinect.captures import Capture
from actrec.cameras.azure_kinect.library import complaints
from actrec.utils.errors import DeviceError, EndOfStream

COLOR_MODES = ("720p", "1080p", "1440p", "1536p", "2160p", "3072p")

DEPTH_MODES = ("nfov_2x2binned", "nfov_unbinned", "wfov_2x2binned", "wfov_unbinned")

RATES = (5, 15, 30)

_UDEV = (
    "permission denied: copy 99-k4a.rules (idVendor 045e, MODE 0666; in scripts/ of "
    "https://github.com/microsoft/Azure-Kinect-Sensor-SDK) to /etc/udev/rules.d, run udevadm control --reload, and "
    "plug the camera in again"
)

_BUSY = "it is used by another program: close that"

_UNKNOWN = "it is used by another program, or lacks its power supply"


class Device:
    """An Azure Kinect that streams.

    Attributes:
        serial: Its serial number.
        calibration: The factory's, of the chosen modes.

    Args:
        k4a: Bindings of libk4a.
        serial: Which one; empty for the only one.
        color_mode, depth_mode, color_format, fps: As in `AzureKinectConfig`.

    Raises:
        DeviceError: There is none, none of this serial number, or several and no serial number; it cannot be opened
            or started. With the remedy.
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
                raise DeviceError(f"the Azure Kinect {self.serial} does not give its calibration: plug it in again")
            self._start(
                k4a.k4a_device_configuration_t(
                    color_format={
                        "mjpg": k4a.K4A_IMAGE_FORMAT_COLOR_MJPG,
                        "bgra32": k4a.K4A_IMAGE_FORMAT_COLOR_BGRA32,
                    }[color_format],
                    color_resolution=resolution,
                    depth_mode=mode,
                    camera_fps=RATES.index(fps),
                    synchronized_images_only=False,  # the SDK would drop halves without a word; here they are counted
                )
            )
        except BaseException:
            k4a.k4a_device_close(self._handle)
            raise

    def next(self, timeout_s: float) -> Capture | None:
        """Return the oldest waiting capture, or the next one; None if none comes in time.

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
        with complaints(self._k4a) as heard:
            result = self._k4a.k4a_device_start_cameras(self._handle, configuration)
        if result:
            raise DeviceError(
                f"the Azure Kinect {self.serial} does not start{_quoted(heard)}: it needs USB 3 of its own, its power "
                "supply, and for its depth engine OpenGL (without a screen: DISPLAY of a running X server)"
            )


class Playback:
    """A recording that is read capture by capture.

    Attributes:
        serial: Of the camera that recorded it; empty where the file does not say.
        calibration: The factory's, as recorded.
        fps: Frames a second, as recorded.

    Args:
        k4a, record: Bindings of libk4a and libk4arecord.
        path: The mkv file.

    Raises:
        DeviceError: There is no such file, it is no recording, or has no color or no depth.
    """

    def __init__(self, k4a: Any, record: Any, path: str):
        self._k4a, self._record, self._path = k4a, record, path
        file = Path(path).expanduser()
        if not file.is_file():
            raise DeviceError(f"there is no recording '{path}': check the option recording")
        self._handle = record.k4a_playback_t()
        with complaints(k4a) as heard:
            result = record.k4a_playback_open(str(file).encode(), self._handle)
        if result:
            raise DeviceError(
                f"'{path}' is no recording of an Azure Kinect{_quoted(heard)}: record it with k4arecorder"
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
            EndOfStream: There are no more.
            DeviceError: The file is damaged from here on.
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
            raise DeviceError(f"the recording '{self._path}' does not say how it was made: record it again")
        if not (settings.color_track_enabled and settings.depth_track_enabled):
            lacking = "depth" if settings.color_track_enabled else "color"
            raise DeviceError(f"the recording '{self._path}' has no {lacking}: record both")
        if self._record.k4a_playback_get_calibration(self._handle, calibration):
            raise DeviceError(f"the recording '{self._path}' has no calibration: record it again")
        return calibration, RATES[settings.camera_fps]

    def _tag(self, name: bytes) -> str:
        text, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
        if self._record.k4a_playback_get_tag(self._handle, name, text, size):
            return ""
        return text.value.decode(errors="replace")


def _find(k4a: Any, serial: str) -> tuple[Any, str]:
    """Open the camera of this serial number, or the only one."""
    count = int(k4a.k4a_device_get_installed_count())
    if not count:
        raise DeviceError("no Azure Kinect is connected: check its USB 3 cable and power supply")
    seen, refusals = [], []
    for index in range(count):
        handle, refusal = _open(k4a, index)
        if refusal:
            refusals.append(refusal)
            continue
        seen.append(_serial_of(k4a, handle))
        # A number that went through YAML has lost the noughts that it begins with.
        if (serial and serial.lstrip("0") == seen[-1].lstrip("0")) or (not serial and count == 1):
            return handle, seen[-1]
        k4a.k4a_device_close(handle)
    unopened = "".join(f"; one more cannot be opened: {refusal}" for refusal in refusals)
    if not seen:
        raise DeviceError(f"the Azure Kinect cannot be opened: {refusals[0]}")
    listed = ", ".join(seen)
    if serial:
        raise DeviceError(f"no Azure Kinect of serial number {serial}; connected: {listed}{unopened}")
    raise DeviceError(f"{count} Azure Kinects are connected: choose one with the option serial: {listed}{unopened}")


def _open(k4a: Any, index: int) -> tuple[Any, str]:
    """Return a camera's handle, and why there is none."""
    handle = k4a.k4a_device_t()
    with complaints(k4a) as heard:
        result = k4a.k4a_device_open(index, handle)
    if not result:
        return handle, ""
    said = " ".join(heard)
    if "BUSY" in said:
        return None, _BUSY
    # What the SDK says, and spells so, where libusb denied it access to each camera, though it guesses another reason.
    return None, _UDEV if "all unavalable" in said or "ERROR_ACCESS" in said else _UNKNOWN + _quoted(heard)


def _serial_of(k4a: Any, handle: Any) -> str:
    text, size = ctypes.create_string_buffer(64), ctypes.c_size_t(64)
    if k4a.k4a_device_get_serialnum(handle, text, size):
        return "(unknown)"
    return text.value.decode(errors="replace")


def _quoted(heard: list[str]) -> str:
    return f" ({heard[0]})" if heard else ""
