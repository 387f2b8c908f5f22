"""Captures of the Azure Kinect SDK, and their conversion to registered images."""

from dataclasses import replace
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from actrec.types import Intrinsics
from actrec.utils.calibration_files import CameraFiles, DepthGeometry, fitted
from actrec.utils.errors import ConfigError, DeviceError
from actrec.utils.registration import Registration

_TO_RGB = {"bgra": cv2.COLOR_BGRA2RGB, "nv12": cv2.COLOR_YUV2RGB_NV12, "yuy2": cv2.COLOR_YUV2RGB_YUY2}

_REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
_COEFFICIENTS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")  # OpenCV's order
_BROWN_CONRADY = 4  # K4A_CALIBRATION_LENS_DISTORTION_MODEL_BROWN_CONRADY, the model of every shipped camera


class Image:
    """One image of a capture.

    Args:
        k4a: Bindings of libk4a.
        handle: The image; this object releases it.
    """

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

    def data(self) -> np.ndarray:
        """Return the image's memory, [N] uint8, valid until `release`."""
        size = int(self._k4a.k4a_image_get_size(self.handle))
        return np.ctypeslib.as_array(self._k4a.k4a_image_get_buffer(self.handle), (size,))

    def depth(self) -> np.ndarray:
        """Return a depth image as [H, W] float32 m, NaN if missing."""
        width, height = self._size()
        stride = int(self._k4a.k4a_image_get_stride_bytes(self.handle))
        millimeters: np.ndarray = np.ndarray((height, width), np.uint16, self.data().data, strides=(stride, 2))
        meters = np.divide(millimeters, np.float32(1000), dtype=np.float32)
        np.putmask(meters, millimeters == 0, np.nan)
        return meters

    def rgb(self, width: int) -> np.ndarray | None:
        """Return a color image as [H, W, 3] uint8 RGB; None if its JPEG is damaged.

        Args:
            width: Required width; a JPEG at least twice as wide is decoded at a half or a quarter.
        """
        k4a, kind = self._k4a, int(self._k4a.k4a_image_get_format(self.handle))
        own_width, height = self._size()
        if kind == k4a.K4A_IMAGE_FORMAT_COLOR_MJPG:
            factor = max(f for f in _REDUCED if f == 1 or (own_width % f == 0 and own_width // f >= width))
            decoded = cv2.imdecode(self.data(), _REDUCED[factor])
            return None if decoded is None else cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
        shape, name = {
            k4a.K4A_IMAGE_FORMAT_COLOR_BGRA32: ((height, own_width, 4), "bgra"),
            k4a.K4A_IMAGE_FORMAT_COLOR_NV12: ((height * 3 // 2, own_width), "nv12"),
            k4a.K4A_IMAGE_FORMAT_COLOR_YUY2: ((height, own_width, 2), "yuy2"),
        }[kind]
        return cv2.cvtColor(self.data()[: int(np.prod(shape))].reshape(shape), _TO_RGB[name])

    def release(self) -> None:
        """Release the image; its `data` becomes invalid."""
        self._k4a.k4a_image_release(self.handle)

    def _size(self) -> tuple[int, int]:
        k4a = self._k4a
        return int(k4a.k4a_image_get_width_pixels(self.handle)), int(k4a.k4a_image_get_height_pixels(self.handle))


class Capture:
    """Color and depth of one instant; a context manager that releases them.

    Attributes:
        handle: Handle of the SDK.
        color, depth: The images; None if the capture lacks one.

    Args:
        k4a: Bindings of libk4a.
        handle: The capture; this object releases it.
    """

    def __init__(self, k4a: Any, handle: Any):
        self._k4a, self.handle = k4a, handle
        self.color = self._image(k4a.k4a_capture_get_color_image(handle))
        self.depth = self._image(k4a.k4a_capture_get_depth_image(handle))

    def __enter__(self) -> "Capture":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @property
    def time_difference_us(self) -> int:
        """Time between the exposures of the two images, µs."""
        assert self.color is not None and self.depth is not None
        return abs(self.color.device_us - self.depth.device_us)

    def release(self) -> None:
        """Release the capture and its images."""
        for image in (self.color, self.depth):
            if image is not None:
                image.release()
        self._k4a.k4a_capture_release(self.handle)

    def _image(self, handle: Any) -> Image | None:
        return Image(self._k4a, handle) if handle else None


class View:
    """Conversion of captures to registered images.

    Depth is registered by `Registration` if calibration files describe the depth camera, else by the SDK with the color
    intrinsics in use. It is registered directly at the size of the color images.

    Attributes:
        intrinsics: Intrinsics of both images.
        depth_lens, geometry: Intrinsics of the depth camera; its pose, depth scale and bias.
        to_color: [4, 4] float64 transform of points, m, from the depth camera to the color camera.

    Args:
        k4a: Bindings of libk4a.
        calibration: Factory calibration.
        files: Calibration files; None for the factory calibration only.
        width: Width of the images; 0 for the color camera's.
        rectify: Whether to remove lens distortion.
        register: False keeps the depth camera's image.

    Raises:
        ConfigError: The camera's images are narrower than `width`.
        InputError: A file has another aspect ratio than the images.
        DeviceError: The calibration's lens model is unknown, or the SDK rejects it.
    """

    def __init__(
        self,
        k4a: Any,
        calibration: Any,
        files: CameraFiles | None,
        width: int = 0,
        rectify: bool = False,
        register: bool = True,
    ):
        self._k4a, self._register = k4a, register
        factory = intrinsics_of(calibration.color_camera_calibration)
        if width > factory.width:
            raise ConfigError(f"width is {width}, but the images are {factory.width} wide: set a smaller width, or 0")
        width = width or factory.width
        size = width, round(width * factory.height / factory.width)
        own = files.color if files is not None else None
        self._lens = fitted(own, *size) if own is not None else factory.resized(*size)
        self.intrinsics = pinhole(self._lens) if rectify else self._lens
        self._maps: tuple[np.ndarray, np.ndarray] | None = None
        geometry = _factory_geometry(calibration)
        self._registration: Registration | None = None
        self._transformation = None
        depth = intrinsics_of(calibration.depth_camera_calibration)
        if files is not None and files.geometry is not None and files.depth is not None:
            geometry = files.geometry
            depth = fitted(files.depth, depth.width, depth.height)
            self._registration = Registration(depth, self.intrinsics, geometry)
        else:
            self._transformation = self._make_transformation(calibration)
        self.to_color = geometry.to_color
        self.depth_lens, self.geometry = depth, geometry

    def color(self, image: Image) -> np.ndarray | None:
        """Return [H, W, 3] uint8 RGB; None if the image is damaged."""
        c = self.intrinsics
        pixels = image.rgb(c.width)
        if pixels is None:
            return None
        if self.intrinsics != self._lens:
            return self._rectify(pixels)
        if pixels.shape[:2] != (c.height, c.width):
            return cv2.resize(pixels, (c.width, c.height), interpolation=cv2.INTER_AREA)
        return pixels

    def depth(self, image: Image) -> np.ndarray:
        """Return depth in the color camera's image: [H, W] float32 m, NaN if missing.

        Raises:
            DeviceError: The SDK cannot register it.
        """
        if not self._register:
            return image.depth()
        if self._registration is not None:
            return self._registration.register(image.depth())
        k4a, c, handle = self._k4a, self.intrinsics, self._k4a.k4a_image_t()
        kind = k4a.K4A_IMAGE_FORMAT_DEPTH16
        if k4a.k4a_image_create(kind, c.width, c.height, 2 * c.width, handle):
            raise DeviceError("the Azure Kinect SDK cannot allocate a depth image: close other programs")
        registered = Image(k4a, handle)
        try:
            # pykinect-azure's wrapper does not return the result.
            transform = k4a.k4a_dll.k4a_transformation_depth_image_to_color_camera
            transform.argtypes = (k4a.k4a_transformation_t, k4a.k4a_image_t, k4a.k4a_image_t)
            if transform(self._transformation, image.handle, handle):
                raise DeviceError("the Azure Kinect SDK cannot register depth to color: open the camera again")
            return registered.depth()
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

    def _rectify(self, pixels: np.ndarray) -> np.ndarray:
        """Return the image without distortion, at the output size."""
        if self._maps is None:
            c = self.intrinsics
            lens = self._lens.resized(pixels.shape[1], pixels.shape[0])
            distortion = np.array(lens.distortion)
            self._maps = cv2.initUndistortRectifyMap(
                lens.matrix, distortion, None, c.matrix, (c.width, c.height), cv2.CV_16SC2
            )
        return cv2.remap(pixels, *self._maps, cv2.INTER_LINEAR)


def intrinsics_of(camera: Any) -> Intrinsics:
    """Convert a `k4a_calibration_camera_t`.

    Raises:
        DeviceError: OpenCV lacks its lens model.
    """
    if camera.intrinsics.type != _BROWN_CONRADY:
        raise DeviceError(
            f"the Azure Kinect's calibration has lens model {camera.intrinsics.type}, only Brown-Conrady "
            f"({_BROWN_CONRADY}) is supported: update its firmware"
        )
    p = camera.intrinsics.parameters.param
    distortion = tuple(float(getattr(p, name)) for name in _COEFFICIENTS)
    size = int(camera.resolution_width), int(camera.resolution_height)
    return Intrinsics(*size, p.fx, p.fy, p.cx, p.cy, distortion if any(distortion) else ())


def pinhole(camera: Intrinsics) -> Intrinsics:
    """Return the camera without lens distortion."""
    return replace(camera, distortion=())


def _factory_geometry(calibration: Any) -> DepthGeometry:
    depth_to_color = calibration.extrinsics[0][1]  # K4A_CALIBRATION_TYPE_DEPTH to …_COLOR
    pose = np.eye(4)
    pose[:3, :3] = np.array(depth_to_color.rotation).reshape(3, 3)
    pose[:3, 3] = np.array(depth_to_color.translation) / 1000
    return DepthGeometry(pose)
