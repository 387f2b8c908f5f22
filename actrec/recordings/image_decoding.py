"""Pixels of `sensor_msgs/Image` and `CompressedImage` as arrays of the data contract, with no ROS installed."""

import struct

import cv2
import numpy as np

from actrec.utils.errors import InputError

COLOR_ENCODINGS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1,
                    "yuv422_yuy2": 2, "yuyv": 2, "yuv422": 2, "uyvy": 2}  # fmt: skip
"""Color encodings read, with their channels; the last four are of two orders, by their older and newer names."""

DEPTH_ENCODINGS = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}
"""Depth encodings read, with their type."""

MILLIMETRE = 0.001

_TO_RGB = {
    "bgr8": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "mono8": cv2.COLOR_GRAY2RGB,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "yuyv": cv2.COLOR_YUV2RGB_YUY2,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
}

_COMPRESSED_DEPTH_HEADER = struct.Struct("<iff")


class DamagedImageError(InputError):
    """One compressed image cannot be decoded, which says nothing of the next."""


def pixels(
    encoding: str,
    width: int,
    height: int,
    step: int,
    big_endian: bool,
    data: bytes | bytearray | memoryview | np.ndarray,
) -> np.ndarray:
    """[H, W] or [H, W, C] view of the pixels of an image, row padding cut off, in the machine's byte order.

    Args:
        encoding: One of `COLOR_ENCODINGS` or `DEPTH_ENCODINGS`.
        width: Pixels of a row.
        height: Rows.
        step: Bytes from one row to the next.
        big_endian: The byte order of the data.
        data: The rows.

    Raises:
        InputError: The encoding is none of them, or the data does not fit the size.
    """
    code, channels = DEPTH_ENCODINGS.get(encoding, "u1"), COLOR_ENCODINGS.get(encoding, 1)
    if encoding not in COLOR_ENCODINGS and encoding not in DEPTH_ENCODINGS:
        known = ", ".join([*COLOR_ENCODINGS, *DEPTH_ENCODINGS])
        raise InputError(f"image encoding '{encoding}' is not supported; supported: {known}")
    dtype = np.dtype(code).newbyteorder(">" if big_endian else "<")
    row = width * channels * dtype.itemsize
    raw = np.frombuffer(data, np.uint8)
    if width <= 0 or height <= 0 or step < row or len(raw) < (height - 1) * step + row:
        raise InputError(
            f"image {width}×{height} {encoding} with step {step} needs {row} bytes a row, but has {len(raw)} bytes"
        )
    shape = (height, width) if channels == 1 else (height, width, channels)
    strides = (step, channels * dtype.itemsize, dtype.itemsize)[: len(shape)]
    view: np.ndarray = np.ndarray(shape, dtype, buffer=raw, strides=strides)
    return view if dtype.isnative else view.astype(dtype.newbyteorder("="))


def color(encoding: str, image: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8 RGB of pixels in a color encoding.

    Raises:
        InputError: It is not a color encoding, or its pixels come in pairs and one is left over.
    """
    if encoding not in COLOR_ENCODINGS:
        raise InputError(f"image encoding '{encoding}' is not color; supported: {', '.join(COLOR_ENCODINGS)}")
    if COLOR_ENCODINGS[encoding] == 2 and image.shape[1] % 2:
        raise InputError(f"an image in {encoding} is {image.shape[1]} pixels wide: their number must be even")
    image = np.ascontiguousarray(image)
    return image if encoding == "rgb8" else cv2.cvtColor(image, _TO_RGB[encoding])


def depth(encoding: str, image: np.ndarray, scale: float = 0.0) -> np.ndarray:
    """[H, W] float32 metres of pixels in a depth encoding, NaN where nothing was measured.

    Args:
        encoding: "16UC1" or "mono16" (integers), or "32FC1".
        image: [H, W] pixels.
        scale: Metres of one unit; 0 for what REP 118 says, a millimetre of integers, else a metre.

    Raises:
        InputError: It is not a depth encoding.
    """
    if encoding not in DEPTH_ENCODINGS:
        raise InputError(f"image encoding '{encoding}' is not depth; supported: {', '.join(DEPTH_ENCODINGS)}")
    if image.dtype.kind == "u":
        return depth_in_metres(image, scale or MILLIMETRE)
    metres = image.astype(np.float32) * np.float32(scale or 1.0)
    metres[~(np.isfinite(metres) & (metres > 0))] = np.nan
    return metres


def depth_in_metres(units: np.ndarray, scale: float) -> np.ndarray:
    """Integer depth of `scale` metres a unit to float32 metres; 0 becomes NaN."""
    metres = units * np.float32(scale)
    metres[units == 0] = np.nan
    return metres.astype(np.float32, copy=False)


def decompress_color(data: bytes | np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8 RGB of a JPEG or PNG.

    Raises:
        DamagedImageError: It cannot be decoded.
    """
    image = _decode(data, cv2.IMREAD_COLOR)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def decompress_depth(form: str, data: bytes | np.ndarray, scale: float = 0.0) -> np.ndarray:
    """[H, W] float32 metres of a 16-bit PNG, or of what `compressed_depth_image_transport` writes.

    Args:
        form: The message's `format`: "16UC1; compressedDepth png", "32FC1; compressedDepth rvl", "png", …
        data: The bytes.
        scale: Metres of one unit; 0 as in `depth`.

    Raises:
        DamagedImageError: It cannot be decoded.
        InputError: It is not a 16-bit image.
    """
    raw = np.frombuffer(data, np.uint8)
    transport = "compressedDepth" in form
    body = raw[_COMPRESSED_DEPTH_HEADER.size :] if transport else raw
    image = _unpack(body) if transport and "rvl" in form else _decode(body, cv2.IMREAD_UNCHANGED)
    if image.ndim != 2 or image.dtype != np.uint16:
        raise InputError(f"compressed depth '{form}' holds {image.dtype}{list(image.shape)}, expected uint16[H, W]")
    if not (transport and form.startswith("32FC1")):
        return depth_in_metres(image, scale or MILLIMETRE)
    _, quantum_a, quantum_b = _COMPRESSED_DEPTH_HEADER.unpack_from(raw.tobytes())  # inverse depth, quantized
    with np.errstate(divide="ignore", invalid="ignore"):
        metres = quantum_a / (image.astype(np.float32) - quantum_b) * (scale or 1.0)
    return np.where((image > 0) & (metres > 0), metres, np.nan).astype(np.float32)


def _decode(data: bytes | np.ndarray, flags: int) -> np.ndarray:
    raw = np.frombuffer(data, np.uint8)
    image = cv2.imdecode(raw, flags) if len(raw) else None
    if image is None:
        raise DamagedImageError(f"a compressed image of {len(raw)} bytes cannot be decoded; expected JPEG or PNG")
    return image


def _unpack(data: np.ndarray) -> np.ndarray:
    from actrec.recordings import rvl  # with numba: half a second of each node's start, and its memory

    image = rvl.decode(data)
    if image is None:
        raise DamagedImageError(f"a compressed image of {len(data)} bytes cannot be decoded; expected RVL")
    return image
