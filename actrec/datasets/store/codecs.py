"""Codecs of a prepared store: points are stored as they are, images are compressed frame by frame.

| codec | data | loss |
| --- | --- | --- |
| `raw` | points, stamps, sizes | none |
| `jpeg` | color [T, H, W, 3] uint8 | JPEG of the given quality, 4:4:4 |
| `flow8` | scene flow [T, H, W, 3] m/s | rounded to limit / 127, clipped at ± limit; unknown stays unknown |

A table [2, T] with the begin and end of each frame precedes the images: each frame is decoded alone, and an image of
several frames is stored once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from actrec.skeleton.windows import nearest
from actrec.utils.errors import InputError

CODECS = ("raw", "jpeg", "flow8")

DTYPES = ("<f4", "<i8", "|u1", "<f8", "<i4", "<u8")
"""Types of `raw` arrays; the store holds the index."""

_STEPS = 127
"""Levels of a speed from zero to the limit."""


@dataclass(frozen=True)
class EncodedArray:
    """An encoded array.

    Attributes:
        key: Key of the clip, or "stamps_ns".
        codec: One of `CODECS`.
        dtype: One of `DTYPES`, of the decoded array.
        shape: Shape of the decoded array.
        parts: The bytes in order.
    """

    key: str
    codec: str
    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Any, ...]


def encode_raw(key: str, value: np.ndarray) -> EncodedArray:
    """Encode an array without compression."""
    value = np.ascontiguousarray(value)
    dtype = value.dtype.newbyteorder("<").str
    if dtype not in DTYPES:
        raise InputError(f"{key} is {value.dtype}, which a prepared store does not keep")
    plain = value.astype(dtype, copy=False)
    return EncodedArray(key, "raw", dtype, plain.shape, (plain.reshape(-1).view(np.uint8).data if plain.size else b"",))


class ImageEncoder:
    """Encoder of a sequence of images [H, W, 3], each stored once.

    Args:
        key: "color" (uint8 RGB) or "flow" (m/s, NaN for unknown).
        quality: Of JPEG, for color.
        limit_m_s: Of speeds, for flow.
    """

    def __init__(self, key: str, quality: int, limit_m_s: float):
        self.key, self._quality, self._scale = key, quality, np.float32(_STEPS / limit_m_s)
        self._stamps: list[int] = []
        self._coded: list[bytes] = []
        self.shape: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self._coded)

    def add(self, stamp_ns: int, image: np.ndarray) -> None:
        """Add the next image.

        Raises:
            InputError: It is not an image, its size changed, or its stamp does not increase.
        """
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
        """Return the encoded images nearest to the stamps [T].

        Raises:
            InputError: There are no images.
        """
        if not self._coded:
            raise InputError(f"{self.key} has no images")
        shown = nearest(np.array(self._stamps, np.int64), stamps_ns)
        ends = np.cumsum([len(content) for content in self._coded])
        starts = np.concatenate([[0], ends[:-1]])
        table = np.stack([starts[shown], ends[shown]]).astype("<u8")
        codec, dtype = ("flow8", "<f4") if self.key == "flow" else ("jpeg", "|u1")
        return EncodedArray(self.key, codec, dtype, (len(shown), *self.shape), (table.tobytes(), *self._coded))


def decode_frames(
    content: memoryview, codec: str, shape: tuple[int, ...], indices: Iterable[int], limit_m_s: float
) -> np.ndarray:
    """Decode the images `indices` of an encoded array of `shape` [T, H, W, 3].

    Raises:
        InputError: An image cannot be decoded.
    """
    table = np.frombuffer(content, "<u8", 2 * shape[0]).reshape(2, -1)
    frames = content[table.nbytes :]
    wanted = list(indices)
    out = np.empty((len(wanted), *shape[1:]), np.uint8)
    seen: dict[int, int] = {}
    for place, index in enumerate(wanted):
        if index in seen:  # the first frame is repeated before the start of a recording
            out[place] = out[seen[index]]
            continue
        seen[index] = place
        start, end = int(table[0, index]), int(table[1, index])
        image = cv2.imdecode(np.frombuffer(frames[start:end], np.uint8), cv2.IMREAD_COLOR)
        if image is None or image.shape != shape[1:]:
            raise InputError(f"image {index} of {shape[0]} cannot be decoded")
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=out[place])
    return out if codec == "jpeg" else _speeds(out, limit_m_s)


def _speeds(levels: np.ndarray, limit_m_s: float) -> np.ndarray:
    speeds = (levels.astype(np.float32) - 128) * np.float32(limit_m_s / _STEPS)
    speeds[(levels == 0).all(axis=-1)] = np.nan
    return speeds
