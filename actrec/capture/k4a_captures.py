"""Captures and images of the Azure Kinect SDK: each is released when it is done with, not when memory is short."""

from types import TracebackType
from typing import Any

import cv2
import numpy as np

_TO_RGB = {"bgra": cv2.COLOR_BGRA2RGB, "nv12": cv2.COLOR_YUV2RGB_NV12, "yuy2": cv2.COLOR_YUV2RGB_YUY2}
_REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}


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
        """Middle of the exposure by the device's clock, microseconds."""
        return int(self._k4a.k4a_image_get_device_timestamp_usec(self.handle))

    @property
    def received_ns(self) -> int:
        """When the host had received it, nanoseconds of its monotonic clock; 0 where that is unknown."""
        return int(self._k4a.k4a_image_get_system_timestamp_nsec(self.handle))

    def data(self) -> np.ndarray:
        """[N] uint8, the image's memory: valid until it is released."""
        size = int(self._k4a.k4a_image_get_size(self.handle))
        return np.ctypeslib.as_array(self._k4a.k4a_image_get_buffer(self.handle), (size,))

    def depth(self) -> np.ndarray:
        """[H, W] float32 metres of a depth image, NaN where it has none."""
        width, height = self._size()
        stride = int(self._k4a.k4a_image_get_stride_bytes(self.handle))
        millimetres: np.ndarray = np.ndarray((height, width), np.uint16, self.data().data, strides=(stride, 2))
        metres = np.divide(millimetres, np.float32(1000), dtype=np.float32)
        np.putmask(metres, millimetres == 0, np.nan)
        return metres

    def rgb(self, width: int) -> np.ndarray | None:
        """[H, W, 3] uint8 RGB of a colour image, at least `width` wide where it is; None where its JPEG is damaged.

        Args:
            width: What is needed: a JPEG several times as wide is decoded at a half or a quarter.
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
        """Gives the image back; arrays of `data` are invalid from now on."""
        self._k4a.k4a_image_release(self.handle)

    def _size(self) -> tuple[int, int]:
        k4a = self._k4a
        return int(k4a.k4a_image_get_width_pixels(self.handle)), int(k4a.k4a_image_get_height_pixels(self.handle))


class Capture:
    """What the camera took at one instant, used as a context manager that releases it.

    Attributes:
        handle: The SDK's.
        colour, depth: The images; None where the capture lacks one.

    Args:
        k4a: Bindings of libk4a.
        handle: The capture; this object releases it.
    """

    def __init__(self, k4a: Any, handle: Any):
        self._k4a, self.handle = k4a, handle
        self.colour = self._image(k4a.k4a_capture_get_color_image(handle))
        self.depth = self._image(k4a.k4a_capture_get_depth_image(handle))

    def __enter__(self) -> "Capture":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @property
    def apart_us(self) -> int:
        """Between the exposures of the two images, microseconds."""
        assert self.colour is not None and self.depth is not None
        return abs(self.colour.device_us - self.depth.device_us)

    def release(self) -> None:
        """Gives back the capture and its images."""
        for image in (self.colour, self.depth):
            if image is not None:
                image.release()
        self._k4a.k4a_capture_release(self.handle)

    def _image(self, handle: Any) -> Image | None:
        return Image(self._k4a, handle) if handle else None
