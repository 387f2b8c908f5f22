"""Microsoft's Azure Kinect libraries by the bindings of `pykinect-azure`: devices, recordings, captures, body tracking.

Only the bindings are used. The classes of `pykinect-azure` end the process at every failure, including a timeout, keep
the device in class attributes that two cameras would share, and leak images and body frames.
"""

import ctypes
import importlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actrec.recordings.image_decoding import DamagedImageError, decode
from actrec.skeleton.layouts import CANONICAL, convert
from actrec.types import Body, Intrinsics
from actrec.utils import camera_model
from actrec.utils.errors import DeviceError, EndOfStream, InputError, MissingLibraryError
from actrec.utils.folders import expanded

COLOR_MODES = ("720p", "1080p", "1440p", "1536p", "2160p", "3072p")
DEPTH_MODES = ("nfov_2x2binned", "nfov_unbinned", "wfov_2x2binned", "wfov_unbinned")
RATES = (5, 15, 30)
PROCESSING = {"cuda": 2, "tensorrt": 3, "cpu": 1}

_SCORES = np.array([0.0, 0.5, 1.0, 1.0], np.float32)
"""Score of a k4abt confidence level: none (out of range), low (occluded), medium (visible), high (not used yet)."""

_MAX_QUEUED = 2  # captures in the body tracker; more would only add latency
_POLL_MS = 100  # longest wait inside the body tracker, and so of a thread that closes the camera

_LIBRARIES = {"k4a": ("k4a_dll", "1.4"), "k4arecord": ("record_dll", "1.4"), "k4abt": ("k4abt_dll", "1.1")}
"""Variable of the bindings, and suffix of the file; only the -dev package has the plain name."""

_SENSOR_REMEDY = (
    "install Microsoft's libk4a1.4 from https://packages.microsoft.com/ubuntu/18.04/prod/pool/main/libk (on ARM "
    "…/18.04/multiarch/prod/…), or for an Orbbec Femto https://github.com/orbbec/OrbbecSDK-K4A-Wrapper, and set the "
    "option library if the file is elsewhere"
)
_BODY_REMEDY = (
    "install Microsoft's Body Tracking SDK, libk4abt1.1 from "
    "https://packages.microsoft.com/ubuntu/18.04/prod/pool/main/libk (not for ARM), and set the option body_library if "
    "the file is elsewhere; or set bodies=false"
)

_UDEV = (
    "permission denied: copy 99-k4a.rules (idVendor 045e, MODE 0666; in scripts/ of "
    "https://github.com/microsoft/Azure-Kinect-Sensor-SDK) to /etc/udev/rules.d, run udevadm control --reload, and "
    "plug the camera in again"
)

_DECODING_FLAGS = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}

_ERROR_LEVEL = 1  # K4A_LOG_LEVEL_ERROR: errors and critical errors
_MESSAGE_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p)

_loading = threading.Lock()


def load(part: str, path: str = "") -> Any:
    """Load a library and return its bindings, a module of `pykinect_azure`.

    Args:
        part: "k4a", "k4arecord" or "k4abt"; the latter two need k4a loaded before.
        path: File of the library; empty to search the system's folders.

    Raises:
        MissingLibraryError: The library or pykinect-azure is not installed.
        DeviceError: This process has already loaded another file of this library.
    """
    try:
        bindings: Any = importlib.import_module(f"pykinect_azure.{part}._{part}")
    except ImportError as error:
        raise MissingLibraryError(
            f"camera driver 'azure_kinect' needs the library pykinect-azure ({error}): "
            "pip install --no-deps pykinect-azure (its opencv-python conflicts with opencv-contrib-python)"
        ) from error
    with _loading:
        library = _open_library(part, path)
        loaded = getattr(bindings, _LIBRARIES[part][0])
        if loaded is None:
            # setup_library of pykinect-azure ends the process if a file is missing, and requires one release of ONNX
            # Runtime for k4abt, which libk4abt finds itself.
            setattr(bindings, _LIBRARIES[part][0], library)
        elif loaded._handle != library._handle:
            raise DeviceError(
                f"this process has loaded '{loaded._name}' and cannot load '{library._name}' too: use another "
                "process for a camera with another library"
            )
    return bindings


def load_record(k4a_path: str) -> Any:
    """Load libk4arecord from the folder of libk4a, or from the system's if the path of libk4a has no folder."""
    return load("k4arecord", str(Path(k4a_path).parent / "libk4arecord.so") if "/" in k4a_path else "")


def _open_library(part: str, path: str) -> Any:
    reasons = []
    for name in (str(expanded(path)),) if path else (f"lib{part}.so", f"lib{part}.so.{_LIBRARIES[part][1]}"):
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            reasons.append(str(error))
    remedy = _BODY_REMEDY if part == "k4abt" else _SENSOR_REMEDY
    raise MissingLibraryError(f"camera driver 'azure_kinect' cannot load lib{part} ({'; '.join(reasons)}): {remedy}")


@contextmanager
def collect_errors(k4a: Any) -> Iterator[list[str]]:
    """Collect the errors that the SDK logs; its return codes only mean failure."""
    errors: list[str] = []

    def log(context: int, level: int, file: bytes, line: int, message: bytes) -> None:
        errors.append(message.decode(errors="replace").strip())

    handler = _MESSAGE_HANDLER(log)
    # pykinect-azure does not bind it, and not every replacement of libk4a exports it.
    register = getattr(k4a.k4a_dll, "k4a_set_debug_message_handler", lambda *_: None)
    registered = register(handler, None, _ERROR_LEVEL) == k4a.K4A_RESULT_SUCCEEDED
    try:
        yield errors
    finally:
        if registered:
            register(_MESSAGE_HANDLER(0), None, _ERROR_LEVEL)


class Device:
    """A streaming Azure Kinect.

    Attributes:
        serial: Serial number.
        calibration: Factory calibration for the modes.

    The arguments are the bindings of libk4a and settings of `AzureKinectConfig`.

    Raises:
        DeviceError: There is none, or several without a serial number, or it does not open or start.
    """

    def __init__(self, k4a: Any, serial: str, color_mode: str, depth_mode: str, color_format: str, fps: int):
        self._k4a = k4a
        self._handle, self.serial = _find(k4a, serial)
        try:
            resolution, mode = 1 + COLOR_MODES.index(color_mode), 1 + DEPTH_MODES.index(depth_mode)
            self.calibration = k4a.k4a_calibration_t()
            if k4a.k4a_device_get_calibration(self._handle, mode, resolution, self.calibration):
                raise DeviceError(f"the Azure Kinect {self.serial} has no readable calibration: plug it in again")
            configuration = k4a.k4a_device_configuration_t(
                color_format=getattr(k4a, f"K4A_IMAGE_FORMAT_COLOR_{color_format.upper()}"),
                color_resolution=resolution,
                depth_mode=mode,
                camera_fps=RATES.index(fps),
                synchronized_images_only=False,  # the SDK would drop incomplete captures silently
            )
            with collect_errors(k4a) as errors:
                result = k4a.k4a_device_start_cameras(self._handle, configuration)
            if result:
                raise DeviceError(
                    f"the Azure Kinect {self.serial} does not start{_quote(errors)}: it needs its own USB 3 port, "
                    "its power supply, and OpenGL for its depth engine (without a screen: DISPLAY of a running X "
                    "server)"
                )
        except BaseException:
            k4a.k4a_device_close(self._handle)
            raise

    def next(self, timeout_s: float) -> "Capture | None":
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

    def start_imu(self) -> bool:
        """Start the inertial sensor; return False if it does not start."""
        return not self._k4a.k4a_device_start_imu(self._handle)

    def motion(self, until_us: int) -> Iterator[Any]:
        """Yield the samples of the inertial sensor (`k4a_imu_sample_t`) that have arrived, whatever `until_us`."""
        sample = self._k4a.k4a_imu_sample_t()
        while self._k4a.k4a_device_get_imu_sample(self._handle, sample, 0) == self._k4a.K4A_WAIT_RESULT_SUCCEEDED:
            yield sample

    def close(self) -> None:
        """Stop the cameras and close the device."""
        self._k4a.k4a_device_stop_imu(self._handle)
        self._k4a.k4a_device_stop_cameras(self._handle)
        self._k4a.k4a_device_close(self._handle)


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
        file = expanded(path)
        if not file.is_file():
            raise DeviceError(f"there is no recording '{path}': check the option recording")
        self._handle = record.k4a_playback_t()
        with collect_errors(k4a) as errors:
            result = record.k4a_playback_open(os.fsencode(file), self._handle)
        if result:
            raise DeviceError(f"'{path}' is not an Azure Kinect recording{_quote(errors)}: record it with k4arecorder")
        self._moved_us = 0
        settings, self.calibration = record.k4a_record_configuration_t(), k4a.k4a_calibration_t()
        missing, rates = "", dict(enumerate(RATES))
        if record.k4a_playback_get_record_configuration(self._handle, settings):
            missing = "configuration: record it again"
        elif not (settings.color_track_enabled and settings.depth_track_enabled):
            missing = f"{'depth' if settings.color_track_enabled else 'color'}: record both"
        elif record.k4a_playback_get_calibration(self._handle, self.calibration):
            missing = "calibration: record it again"
        elif settings.camera_fps not in rates:
            missing = "valid frame rate: record it again"
        if missing:
            self.close()
            raise DeviceError(f"the recording '{path}' has no {missing}")
        self.fps, self._has_imu = rates[settings.camera_fps], bool(settings.imu_track_enabled)
        self.serial = _text(record.k4a_playback_get_tag, self._handle, b"K4A_DEVICE_SERIAL_NUMBER")

    def next(self) -> "Capture":
        """Return the next capture.

        Raises:
            EndOfStream: The recording has ended.
            InputError: The file is damaged.
        """
        record, handle = self._record, self._k4a.k4a_capture_t()
        result = record.k4a_playback_get_next_capture(self._handle, handle)
        if result == record.K4A_STREAM_RESULT_EOF:
            raise EndOfStream(f"the recording '{self._path}' has ended")
        if result != record.K4A_STREAM_RESULT_SUCCEEDED:
            raise InputError(f"the recording '{self._path}' is damaged: record it again, or cut it with mkvmerge")
        return Capture(self._k4a, handle)

    def start_imu(self) -> bool:
        """Return whether the recording has samples of the inertial sensor."""
        return self._has_imu

    def motion(self, until_us: int) -> Iterator[Any]:
        """Yield the next samples of the inertial sensor (`k4a_imu_sample_t`) until a device time."""
        sample = self._k4a.k4a_imu_sample_t()
        while self._moved_us < until_us:
            if self._record.k4a_playback_get_next_imu_sample(self._handle, sample):
                return
            self._moved_us = int(sample.acc_timestamp_usec)
            yield sample

    def close(self) -> None:
        """Close the file."""
        self._record.k4a_playback_close(self._handle)


def _text(get: Any, *arguments: Any) -> str:
    """Return the text that a function of the SDK writes to its last two arguments; empty if it fails."""
    text, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
    return "" if get(*arguments, text, size) else text.value.decode(errors="replace")


def _find(k4a: Any, serial: str) -> tuple[Any, str]:
    """Open the camera with this serial number, or the only one; return its handle and serial number."""
    count = int(k4a.k4a_device_get_installed_count())
    if not count:
        raise DeviceError("no Azure Kinect is connected: check its USB 3 cable and power supply")
    serials, problems = [], []
    for index in range(count):
        handle = k4a.k4a_device_t()
        with collect_errors(k4a) as errors:
            result = k4a.k4a_device_open(index, handle)
        if result:
            problems.append(_explain_open_error(errors))
            continue
        serials.append(_text(k4a.k4a_device_get_serialnum, handle) or "(unknown)")
        # YAML removes leading zeros of a number.
        if (serial and serial.lstrip("0") == serials[-1].lstrip("0")) or (not serial and count == 1):
            return handle, serials[-1]
        k4a.k4a_device_close(handle)
    if not serials:
        raise DeviceError(f"the Azure Kinect cannot be opened: {problems[0]}")
    listing = ", ".join(serials) + "".join(f"; one more cannot be opened: {problem}" for problem in problems)
    if serial:
        raise DeviceError(f"no Azure Kinect with serial number {serial}; connected: {listing}")
    raise DeviceError(f"{count} Azure Kinects are connected: choose one with the option serial: {listing}")


def _explain_open_error(errors: list[str]) -> str:
    log = " ".join(errors)
    if "BUSY" in log:
        return "another program uses it: stop that program"
    # The SDK's message (misspelled there) if libusb denied access to each camera.
    if "all unavalable" in log or "ERROR_ACCESS" in log:
        return _UDEV
    return "another program uses it, or its power supply is missing" + _quote(errors)


def _quote(errors: list[str]) -> str:
    return f" ({errors[0]})" if errors else ""


class Image:
    """One image of a capture."""

    def __init__(self, k4a: Any, handle: Any):
        self._k4a, self.handle = k4a, handle

    @property
    def device_us(self) -> int:
        """Middle of the exposure by the device's clock, µs."""
        return int(self._k4a.k4a_image_get_device_timestamp_usec(self.handle))

    @property
    def received_ns(self) -> int:
        """Arrival at the host by its monotonic clock, ns; 0 if unknown."""
        return int(self._k4a.k4a_image_get_system_timestamp_nsec(self.handle))

    def _size(self) -> tuple[int, int]:
        k4a = self._k4a
        return int(k4a.k4a_image_get_width_pixels(self.handle)), int(k4a.k4a_image_get_height_pixels(self.handle))

    def _data(self) -> np.ndarray:
        """Return the image's memory, [N] uint8, valid until `release`."""
        size = int(self._k4a.k4a_image_get_size(self.handle))
        return np.ctypeslib.as_array(self._k4a.k4a_image_get_buffer(self.handle), (size,))

    def depth(self) -> np.ndarray:
        """Return the memory of a depth image, [H, W] uint16, 0 where missing, valid until `release`."""
        width, height = self._size()
        stride = int(self._k4a.k4a_image_get_stride_bytes(self.handle))
        return np.ndarray((height, width), np.uint16, self._data().data, strides=(stride, 2))

    def rgb(self, width: int) -> np.ndarray | None:
        """Return a color image as [H, W, 3] uint8 RGB; None if its JPEG is damaged.

        A JPEG at least twice as wide as `width` is decoded at a half or a quarter of its size.
        """
        k4a, kind = self._k4a, int(self._k4a.k4a_image_get_format(self.handle))
        own_width, height = self._size()
        if kind == k4a.K4A_IMAGE_FORMAT_COLOR_MJPG:
            factor = max(f for f in _DECODING_FLAGS if f == 1 or (own_width % f == 0 and own_width // f >= width))
            try:
                return cv2.cvtColor(decode(self._data(), _DECODING_FLAGS[factor]), cv2.COLOR_BGR2RGB)
            except DamagedImageError:
                return None
        shape, code = {
            k4a.K4A_IMAGE_FORMAT_COLOR_BGRA32: ((height, own_width, 4), cv2.COLOR_BGRA2RGB),
            k4a.K4A_IMAGE_FORMAT_COLOR_NV12: ((height * 3 // 2, own_width), cv2.COLOR_YUV2RGB_NV12),
            k4a.K4A_IMAGE_FORMAT_COLOR_YUY2: ((height, own_width, 2), cv2.COLOR_YUV2RGB_YUY2),
        }[kind]
        return cv2.cvtColor(self._data()[: int(np.prod(shape))].reshape(shape), code)

    def release(self) -> None:
        """Release the image's memory."""
        self._k4a.k4a_image_release(self.handle)


class Capture(AbstractContextManager["Capture", None]):
    """Color and depth of one instant, a context manager that releases them; None for a missing image."""

    def __init__(self, k4a: Any, handle: Any):
        self._k4a, self.handle = k4a, handle
        color, depth = k4a.k4a_capture_get_color_image(handle), k4a.k4a_capture_get_depth_image(handle)
        self.color = Image(k4a, color) if color else None
        self.depth = Image(k4a, depth) if depth else None

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Release the capture and its images."""
        for image in (self.color, self.depth):
            if image is not None:
                image.release()
        self._k4a.k4a_capture_release(self.handle)


class BodyTracker:
    """Body tracker of libk4abt, whose results are in the color camera's frame.

    Args:
        k4abt: Bindings of libk4abt.
        calibration: The SDK's calibration of the captures.
        to_color: [4, 4] transform of points, m, from the depth camera to the color camera.
        intrinsics: Intrinsics of the color images.
        processing: A key of `PROCESSING`.
        model: Network file of the tracker; empty for the SDK's.

    Raises:
        DeviceError: It does not start, or has failed (also by its methods).
    """

    def __init__(
        self, k4abt: Any, calibration: Any, to_color: np.ndarray, intrinsics: Intrinsics, processing: str, model: str
    ):
        self._k4abt, self._pose, self._intrinsics = k4abt, to_color, intrinsics
        self._handle = k4abt.k4abt_tracker_t()
        settings = k4abt.k4abt_tracker_configuration_t(
            processing_mode=PROCESSING[processing], model_path=os.fsencode(expanded(model)) if model else None
        )
        if k4abt.k4abt_tracker_create(calibration, settings, self._handle):
            raise DeviceError(
                f"Azure Kinect body tracking does not start on {processing}: it needs its network file and the CUDA, "
                "cuDNN or TensorRT of its release; install them, or set body_processing=cpu, which is slow"
            )
        self._queued = 0
        self._stopping = threading.Event()

    def offer(self, capture: Capture) -> bool:
        """Queue a capture; return False if the queue is full."""
        while self._queued and self._pop(0) is not None:
            continue  # results that came too late for their frames
        if self._queued >= _MAX_QUEUED:
            return False
        queued = self._check(self._k4abt.k4abt_tracker_enqueue_capture(self._handle, capture.handle, 0))
        self._queued += queued
        return queued

    def collect(self, device_us: int, tolerance_us: int, wait_s: float) -> list[Body] | None:
        """Return the bodies of the depth image with this stamp; None after `wait_s`."""
        deadline = time.monotonic() + wait_s
        while self._queued and not self._stopping.is_set():
            remaining_ms = max(0, round((deadline - time.monotonic()) * 1000))
            found = self._pop(min(remaining_ms, _POLL_MS))
            if found is not None and found[0] >= device_us - tolerance_us:
                return found[1]
            if not remaining_ms:
                break
        return None

    def stop(self) -> None:
        """Wake a waiting thread."""
        self._stopping.set()

    def close(self) -> None:
        """Free the tracker."""
        self._k4abt.k4abt_tracker_shutdown(self._handle)
        self._k4abt.k4abt_tracker_destroy(self._handle)

    @staticmethod
    def _check(result: int) -> bool:
        """Return whether a call succeeded, not timed out."""
        if result == 1:  # K4A_WAIT_RESULT_FAILED
            raise DeviceError("Azure Kinect body tracking has failed: open the camera again, or set bodies=false")
        return result == 0

    def _pop(self, timeout_ms: int) -> tuple[int, list[Body]] | None:
        """Return the device time, µs, of the oldest result, and its bodies; None after the timeout."""
        k4abt = self._k4abt
        frame = k4abt.k4abt_frame_t()
        if not self._check(k4abt.k4abt_tracker_pop_result(self._handle, frame, timeout_ms)):
            return None
        self._queued -= 1
        try:
            bodies = []
            for i in range(k4abt.k4abt_frame_get_num_bodies(frame)):
                skeleton = k4abt.k4abt_skeleton_t()
                if not k4abt.k4abt_frame_get_body_skeleton(frame, i, skeleton):
                    bodies.append(self._body(int(k4abt.k4abt_frame_get_body_id(frame, i)), skeleton))
            return int(k4abt.k4abt_frame_get_device_timestamp_usec(frame)), bodies
        finally:
            k4abt.k4abt_frame_release(frame)

    def _body(self, number: int, skeleton: Any) -> Body:
        confidence = np.array([joint.confidence_level for joint in skeleton.joints])
        millimeters = np.array([joint.position.v for joint in skeleton.joints])
        positions = millimeters / 1000 @ self._pose[:3, :3].T + self._pose[:3, 3]
        positions[confidence == 0] = np.nan
        joints, scores = convert(positions, _SCORES[confidence], "azure_kinect_32")
        pixels = camera_model.project(joints, self._intrinsics)
        return Body(f"body_{number}", CANONICAL, joints, pixels, scores)
