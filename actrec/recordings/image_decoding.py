"""Decoding of `sensor_msgs/Image` and `CompressedImage` to arrays of the data contract, without ROS.

RVL: Wilson, "Fast Lossless Depth Image Compression", ISS 2017.
"""

import contextlib
import struct
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import cv2
import numpy as np

from actrec.utils.errors import InputError

COLOR_ENCODINGS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1,
                    "yuv422_yuy2": 2, "yuyv": 2, "yuv422": 2, "uyvy": 2}  # fmt: skip
"""Supported color encodings and their channels; the last four are old and new names of two YUV byte orders."""

DEPTH_ENCODINGS = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4", "64FC1": "f8", "16SC1": "i2", "32SC1": "i4"}
"""Supported depth encodings and their numpy types."""

FLOW_ENCODING = "32FC3"

MILLIMETER = 0.001

_UNITS = {"16UC1": MILLIMETER, "mono16": MILLIMETER, "32FC1": 1.0, "64FC1": 1.0}
"""Meters per unit of depth encodings (REP 118); the unit of the others is not defined."""

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
_RVL_HEADER = struct.Struct("<II")
_MAX_PIXELS = 1 << 27  # more than the cameras of phones have, 108 million; more means a damaged header
_JPEG, _PNG, _BMP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM"
_JPEG_SIZES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # start of frame: precision, height, width
_JPEG_ALONE = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})  # markers without a length
_JPEG_SCAN = 0xDA
_JPEG_PIXELS = 512  # per byte, at most: each block of 8×8 pixels takes a bit or more
_PNG_BYTES = 1032  # of pixels per byte, at most: the limit of deflate
_BMP_PIXELS = 128  # per byte, at most: a run of 255 takes two bytes
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


class DamagedImageError(InputError):
    """One compressed image cannot be decoded; the next may be fine."""


def pixels(message: Any, supported: Iterable[str] = (*COLOR_ENCODINGS, *DEPTH_ENCODINGS)) -> np.ndarray:
    """Return a read-only view [H, W] or [H, W, C] of the pixels of a `sensor_msgs/Image`; a copy in native byte order.

    Raises:
        InputError: The encoding is not one of `supported`, or the data does not fit the size.
    """
    encoding, width, height, step = message.encoding, message.width, message.height, message.step
    if encoding not in supported:
        raise InputError(f"image encoding '{encoding}' is not supported here; supported: {', '.join(supported)}")
    channels = 3 if encoding == FLOW_ENCODING else COLOR_ENCODINGS.get(encoding, 1)
    code = "f4" if encoding == FLOW_ENCODING else DEPTH_ENCODINGS.get(encoding, "u1")
    dtype = np.dtype((">" if message.is_bigendian else "<") + code)
    row = width * channels * dtype.itemsize
    raw = np.frombuffer(message.data, np.uint8)
    if width <= 0 or height <= 0:
        raise InputError(f"image is {width}×{height}: it has no pixels")
    if step < row or len(raw) < (height - 1) * step + row:
        raise InputError(
            f"image {width}×{height} {encoding} needs {row} bytes a row, but its step is {step} and it has {len(raw)} "
            "bytes"
        )
    shape = (height, width) if channels == 1 else (height, width, channels)
    # The step may be padded, and need not be a multiple of the pixel's size.
    strides = (step, channels * dtype.itemsize, dtype.itemsize)[: len(shape)]
    view: np.ndarray = np.ndarray(shape, dtype, buffer=raw, strides=strides)
    view.flags.writeable = False
    return view if dtype.isnative else view.astype(dtype.newbyteorder("="))


def color(encoding: str, image: np.ndarray) -> np.ndarray:
    """Convert pixels of a color encoding to [H, W, 3] uint8 RGB.

    Raises:
        InputError: It is not a color encoding, or the width of a YUV 4:2:2 image is odd.
    """
    if encoding not in COLOR_ENCODINGS:
        raise InputError(f"image encoding '{encoding}' is not color; supported: {', '.join(COLOR_ENCODINGS)}")
    if COLOR_ENCODINGS[encoding] == 2 and image.shape[1] % 2:
        raise InputError(f"a {encoding} image is {image.shape[1]} pixels wide, expected an even width")
    image = np.ascontiguousarray(image)
    return image if encoding == "rgb8" else cv2.cvtColor(image, _TO_RGB[encoding])


def infrared(image: np.ndarray) -> np.ndarray:
    """Return a 16-bit infrared image [H, W] as [H, W, 3] uint8, with its contrast stretched."""
    # Infrared decreases with the square of the distance.
    low, high = np.percentile(image, [1, 99])
    stretched = np.round(255 * np.sqrt(np.clip((image - low) / max(high - low, 1), 0, 1))).astype(np.uint8)
    return np.repeat(stretched[..., None], 3, axis=2)


def check_depth_encoding(encoding: str) -> None:
    """Raise InputError, with the reason, if an encoding cannot hold depth."""
    if encoding in DEPTH_ENCODINGS:
        return
    if encoding.startswith(("8UC", "8SC")) or encoding in COLOR_ENCODINGS:
        raise InputError(
            f"depth is an image of encoding '{encoding}', made for display: 8 bits hold no distances; use the topic "
            "on which the camera's driver publishes 16UC1 or 32FC1"
        )
    raise InputError(f"image encoding '{encoding}' is not depth; supported: {', '.join(DEPTH_ENCODINGS)}")


def depth_unit(encoding: str, scale: float = 0.0) -> float:
    """Return the meters per unit of a depth image: `scale`, or if 0 the encoding's own (REP 118).

    Raises:
        InputError: It is not a depth encoding, or its unit is not defined and no scale is given.
    """
    check_depth_encoding(encoding)
    if not scale and encoding not in _UNITS:
        raise InputError(
            f"depth is an image of encoding '{encoding}', whose unit is not defined: set depth_scale (0.001 for "
            "millimeters)"
        )
    return scale or _UNITS[encoding]


def depth(encoding: str, image: np.ndarray, scale: float = 0.0) -> np.ndarray:
    """Convert pixels [H, W] of a depth encoding to float32 meters, NaN if missing (0, negative or infinite).

    `scale` is in meters per unit; 0 as in `depth_unit`, which raises InputError.
    """
    unit = depth_unit(encoding, scale)
    if image.dtype.kind in "ui":
        return depth_in_meters(image, unit)
    meters = (image if unit == 1.0 else image * image.dtype.type(unit)).astype(np.float32)
    with np.errstate(invalid="ignore"):
        np.putmask(meters, ~((meters > 0) & (meters < np.inf)), np.nan)
    return meters


def depth_in_meters(units: np.ndarray, scale: float) -> np.ndarray:
    """Convert integer depth of `scale` meters per unit to float32 meters; 0 and less become NaN."""
    meters = np.empty(units.shape, np.float32)
    _kernel(_to_meters)(units, np.float32(1.0 / scale), meters)
    return meters


def _to_meters(units: np.ndarray, per_meter: np.float32, meters: np.ndarray) -> None:
    for v in range(units.shape[0]):
        for u in range(units.shape[1]):
            value = units[v, u]
            meters[v, u] = np.float32(value) / per_meter if value > 0 else np.float32(np.nan)


def depth_in_millimeters(depth: np.ndarray) -> np.ndarray:
    """Convert depth [H, W] in m to uint16 millimeters, 0 if missing or above the limit of 65.535 m."""
    millimeters = np.empty(depth.shape, np.uint16)
    _kernel(_to_millimeters)(depth, millimeters)
    return millimeters


def _to_millimeters(depth: np.ndarray, millimeters: np.ndarray) -> None:
    for v in range(depth.shape[0]):
        for u in range(depth.shape[1]):
            value = depth[v, u] * np.float32(1000)
            known = value > 0 and value < np.float32(65535.5)
            millimeters[v, u] = np.uint16(np.rint(value)) if known else np.uint16(0)


def decompress_color(data: bytes | np.ndarray) -> np.ndarray:
    """Decode a JPEG or PNG to [H, W, 3] uint8 RGB.

    Raises:
        DamagedImageError: The image cannot be decoded.
    """
    return cv2.cvtColor(decode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def decompress_depth(
    transport_format: str, data: bytes | np.ndarray, scale: float = 0.0, shape: tuple[int, int] | None = None
) -> np.ndarray:
    """Decode a 16-bit PNG, or data of `compressed_depth_image_transport`, to [H, W] float32 meters.

    `transport_format` is the message's `format`, e.g. "16UC1; compressedDepth png" or "png"; `scale` is as for `depth`.

    Raises:
        DamagedImageError: The image cannot be decoded.
        InputError: The image is not 16-bit, or by its header not of the expected `shape` (H, W).
    """
    raw = np.frombuffer(data, np.uint8)
    transport = "compressedDepth" in transport_format
    body = raw[_COMPRESSED_DEPTH_HEADER.size :] if transport else raw
    image = (
        decode_rvl(body, shape)
        if transport and "rvl" in transport_format
        else decode(body, cv2.IMREAD_UNCHANGED, shape)
    )
    if image.ndim != 2 or image.dtype != np.uint16:
        raise InputError(
            f"compressed depth '{transport_format}' is {image.dtype}{list(image.shape)}, expected uint16[H, W]"
        )
    if not (transport and transport_format.startswith("32FC1")):
        return depth_in_meters(image, scale or MILLIMETER)
    _, quantum_a, quantum_b = _COMPRESSED_DEPTH_HEADER.unpack_from(raw.tobytes())  # inverse depth, quantized
    with np.errstate(divide="ignore", invalid="ignore"):
        meters = quantum_a / (image.astype(np.float32) - quantum_b) * (scale or 1.0)
    return np.where((image > 0) & (meters > 0), meters, np.nan).astype(np.float32)


def decode(data: bytes | memoryview | np.ndarray, flags: int, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Decode a JPEG, PNG or BMP as `cv2.imdecode` does, but refuse a size that its bytes cannot hold.

    OpenCV allocates the size in the header first: a damaged header takes up to 3 GB.

    Raises:
        DamagedImageError: The image cannot be decoded.
        InputError: By its header, it is not of the expected `shape` (H, W).
    """
    raw = np.frombuffer(data, np.uint8)
    image = None
    with contextlib.suppress(cv2.error, struct.error, ValueError, IndexError):
        width, height, limit = _size_and_limit(raw.tobytes())
        if width * height > limit:
            raise DamagedImageError(
                f"a compressed image of {len(raw)} bytes cannot be decoded: its header is damaged, as {width}×{height} "
                f"pixels do not fit in (at most {limit})"
            )
        _check_shape(shape, width, height)
        image = cv2.imdecode(raw, flags)
    if image is None:
        raise DamagedImageError(f"a compressed image of {len(raw)} bytes cannot be decoded; expected JPEG or PNG")
    return image


def _size_and_limit(data: bytes) -> tuple[int, int, int]:
    """Return width and height in the header, and the most pixels that so many bytes can hold.

    Raises:
        ValueError: It is no JPEG, PNG or BMP, or has no size; struct.error and IndexError likewise.
    """
    if data.startswith(_JPEG):
        width, height = _jpeg_size(data)
        limit = len(data) * _JPEG_PIXELS
    elif data.startswith(_PNG):
        width, height, bits, kind = struct.unpack_from(">IIBB", data, 16)
        limit = len(data) * _PNG_BYTES * 8 // max(1, bits * _PNG_CHANNELS.get(kind, 1))
    elif data.startswith(_BMP):
        width, height = (abs(size) for size in struct.unpack_from("<HH" if data[14] == 12 else "<ii", data, 18))
        limit = len(data) * _BMP_PIXELS
    else:
        raise ValueError("expected an image")
    return width, height, min(limit, _MAX_PIXELS)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Return width and height of the first frame, found as libjpeg finds it."""
    at = 2
    while True:
        at = data.index(0xFF, at)
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        if marker in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, at + 4)
            return width, height
        if marker == _JPEG_SCAN:
            raise ValueError("expected a size before the image")
        at += 1 if marker in _JPEG_ALONE else 1 + (data[at + 1] << 8 | data[at + 2])


def _check_shape(shape: tuple[int, int] | None, width: int, height: int) -> None:
    """Raise InputError if a size is not the expected one: a few bytes may stand for millions of pixels."""
    if shape not in (None, (height, width)):
        raise InputError(
            f"depth is {[height, width]} but {list(shape or ())} is expected: register depth to color first "
            "(align_depth in the camera driver)"
        )


def decode_rvl(data: np.ndarray, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Decode RVL bytes [N], with width and height first, to [H, W] uint16.

    Raises:
        DamagedImageError: The data is truncated or invalid.
        InputError: By its header, it is not of the expected `shape` (H, W).
    """
    if len(data) >= _RVL_HEADER.size:
        width, height = _RVL_HEADER.unpack(data[: _RVL_HEADER.size].tobytes())
        if 0 < width * height <= _MAX_PIXELS:
            _check_shape(shape, width, height)
            words = data[_RVL_HEADER.size :]
            image = np.zeros(width * height, np.uint16)
            if _kernel(_unpack_rvl)(words[: len(words) // 4 * 4].view("<u4").astype(np.uint32), image):
                return image.reshape(height, width)
    raise DamagedImageError(f"a compressed image of {len(data)} bytes cannot be decoded; expected RVL")


@cache
def _kernel(loop: Callable[..., Any]) -> Any:
    """Return a loop, compiled. Its division is exact, as numpy's."""
    from actrec.utils.jit import njit  # lazily: numba takes half a second to import

    return njit(nogil=True, error_model="numpy")(loop)


def _unpack_rvl(words: np.ndarray, out: np.ndarray) -> bool:
    """Write the pixels to out [N]; return False if the data is too short or invalid.

    Counts of zero and of nonzero pixels alternate; a count of nonzero pixels is followed by their differences (zigzag).
    A number is a sequence of nibbles with three bits each, lowest first; the highest bit marks a continuation. A word
    has eight nibbles, the first in its highest bits.
    """
    done, last, zeros, left = 0, 0, -1, 0  # zeros -1: a count of zeros is next; left: remaining differences
    value, shift = 0, 0
    for at in range(8 * len(words)):
        nibble = int(np.int64(words[at >> 3]) >> (28 - 4 * (at & 7))) & 15
        value |= (nibble & 7) << shift
        shift += 3
        if nibble & 8:
            if shift > 30:
                return False
            continue
        if left:
            last += (value >> 1) ^ -(value & 1)
            out[done] = last & 0xFFFF
            done += 1
            left -= 1
        elif zeros < 0:
            zeros = value
        else:
            if zeros + value == 0 or zeros + value > len(out) - done:
                return False
            done, left, zeros = done + zeros, value, -1
        if done == len(out) and not left:
            return True
        value, shift = 0, 0
    return False
