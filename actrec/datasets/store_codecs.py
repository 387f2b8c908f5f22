"""Codecs of a prepared store: the encoding of points and images.

| codec | data | loss |
| --- | --- | --- |
| `raw` | points, stamps, sizes | none |
| `jpeg` | color [T, H, W, 3] uint8 | JPEG of the given quality, 4:4:4 |
| `flow8` | scene flow [T, H, W, 3] m/s | rounded to limit / 127, clipped at ± limit; NaN stays NaN |

A table [2, T] with the begin and end of each frame precedes the images: each frame is decoded alone, and an image of
several frames is stored once.
"""

import contextlib
from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np

from actrec.recordings.image_decoding import DamagedImageError, decode
from actrec.skeleton.windows import nearest
from actrec.utils.errors import InputError

CODECS = ("raw", "jpeg", "flow8")
DTYPES = ("<f4", "<i8", "|u1", "<f8", "<i4", "<u8")
"""Types of `raw` arrays."""

_STEPS = 127
"""Levels of a speed from zero to the limit."""


class EncodedArray(NamedTuple):
    """An encoded array: one of `STORED_KEYS`, of `CODECS`, of `DTYPES`; decoded shape; the bytes."""

    key: str
    codec: str
    dtype: str
    shape: tuple[int, ...]
    content: bytes


def encode_raw(key: str, value: np.ndarray) -> EncodedArray:
    """Encode an array without compression."""
    dtype = value.dtype.newbyteorder("<").str
    if dtype not in DTYPES:
        raise InputError(f"{key} is {value.dtype}, not one of a prepared store's types {', '.join(DTYPES)}")
    return EncodedArray(key, "raw", dtype, value.shape, np.ascontiguousarray(value, dtype).tobytes())


class ImageEncoder:
    """Encoder of a sequence of images [H, W, 3], each stored once.

    Args:
        key: "color" (uint8 RGB) or "flow" (m/s, NaN for unknown).
        quality: JPEG quality of color.
        limit_m_s: Largest speed of flow.
    """

    def __init__(self, key: str, quality: int, limit_m_s: float):
        self.key, self._quality, self._scale = key, quality, np.float32(_STEPS / limit_m_s)
        self._stamps: list[int] = []
        self._coded: list[bytes] = []
        self.shape: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self._coded)

    def add(self, stamp_ns: int, image: np.ndarray) -> None:
        """Add the next image; raises InputError if it is no image, its size changed, or its stamp does not increase."""
        if image.ndim != 3 or image.shape[2] != 3 or image.shape != (self.shape or image.shape):
            raise InputError(
                f"{self.key} has an image {list(image.shape)} after {list(self.shape) or 'none'}; expected [H, W, 3]"
            )
        if self._stamps and stamp_ns <= self._stamps[-1]:
            raise InputError(f"{self.key} has two images of {stamp_ns} ns, or an earlier one after it")
        self.shape = image.shape
        done, content = self._encode(image)
        if not done:
            raise InputError(f"{self.key}: an image of {list(image.shape)} cannot be compressed")
        self._stamps.append(int(stamp_ns))
        self._coded.append(content.tobytes())

    def _encode(self, image: np.ndarray) -> tuple[bool, np.ndarray]:
        if self.key == "flow":
            known = np.isfinite(image).all(axis=-1, keepdims=True)
            levels = np.clip(np.rint(np.where(known, image, 0) * self._scale), -_STEPS, _STEPS) + 128
            coded = np.where(known, levels, 0).astype(np.uint8)
            return cv2.imencode(".png", coded[..., ::-1].copy(), [cv2.IMWRITE_PNG_COMPRESSION, 3])
        full = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        options = [cv2.IMWRITE_JPEG_QUALITY, self._quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, full]
        return cv2.imencode(".jpg", image[..., ::-1].copy(), options)

    def encoded(self, stamps_ns: np.ndarray) -> EncodedArray:
        """Return the encoded images nearest to the stamps [T]; raises InputError if there are no images."""
        if not self._coded:
            raise InputError(f"{self.key} has no images")
        nearest_images = nearest(np.array(self._stamps, np.int64), stamps_ns)
        ends = np.cumsum([0, *map(len, self._coded)])
        table = np.stack([ends[nearest_images], ends[nearest_images + 1]]).astype("<u8")
        codec, dtype = ("flow8", "<f4") if self.key == "flow" else ("jpeg", "|u1")
        content = b"".join([table.tobytes(), *self._coded])
        return EncodedArray(self.key, codec, dtype, (len(nearest_images), *self.shape), content)


def decode_frames(
    content: memoryview, codec: str, shape: tuple[int, ...], indices: Iterable[int], limit_m_s: float
) -> np.ndarray:
    """Decode the images `indices` of an encoded array of `shape` [T, H, W, 3]; raises InputError if one is damaged."""
    table = np.frombuffer(content, "<u8", 2 * shape[0]).reshape(2, -1)
    frames = content[table.nbytes :]
    requested = list(indices)
    out = np.empty((len(requested), *shape[1:]), np.uint8)
    decoded: dict[int, int] = {}
    for place, index in enumerate(requested):
        if index in decoded:  # the first frame is repeated before the start of a recording
            out[place] = out[decoded[index]]
            continue
        decoded[index] = place
        start, end = int(table[0, index]), int(table[1, index])
        image = None
        with contextlib.suppress(DamagedImageError):
            image = decode(frames[start:end], cv2.IMREAD_COLOR)
        if image is None or image.shape != shape[1:]:
            raise InputError(f"image {index} of {shape[0]} cannot be decoded")
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=out[place])
    if codec == "jpeg":
        return out
    speeds = (out.astype(np.float32) - 128) * np.float32(limit_m_s / _STEPS)
    speeds[(out == 0).all(axis=-1)] = np.nan
    return speeds
