"""How a prepared store keeps arrays: points as they are, pictures compressed frame by frame.

| codec | of | what is lost |
| --- | --- | --- |
| `raw` | points, stamps, sizes | nothing |
| `jpeg` | color [T, H, W, 3] uint8 | what JPEG of that quality loses, colors at full resolution (4:4:4) |
| `flow8` | scene flow [T, H, W, 3] m/s | speeds are rounded to limit / 127 (so they err by at most half of that) |
|  |  | and cut off at ± limit; unknown stays unknown |

Pictures lie one after the other behind a table [2, T] of where each frame's begins and ends: any is decoded alone, and
one that several frames show is there once.
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
"""What a `raw` array may be made of; its index stands in the store."""

_STEPS = 127
"""Levels of a speed from nought to its limit."""


@dataclass(frozen=True)
class Encoded:
    """An array as its bytes.

    Attributes:
        key: Of the clip, or "stamps_ns".
        codec: One of `CODECS`.
        dtype: One of `DTYPES`, of the array that a reader gets.
        shape: Of that array.
        parts: What is written, in order.
    """

    key: str
    codec: str
    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Any, ...]


def encode_raw(key: str, value: np.ndarray) -> Encoded:
    """An array as it is."""
    value = np.ascontiguousarray(value)
    dtype = value.dtype.newbyteorder("<").str
    if dtype not in DTYPES:
        raise InputError(f"{key} is {value.dtype}, which a prepared store does not keep")
    plain = value.astype(dtype, copy=False)
    return Encoded(key, "raw", dtype, plain.shape, (plain.reshape(-1).view(np.uint8).data if plain.size else b"",))


class Pictures:
    """Pictures [H, W, 3] compressed as they come, each kept once however often it is shown.

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

    def add(self, stamp_ns: int, picture: np.ndarray) -> None:
        """Adds the next picture.

        Raises:
            InputError: It is none, or of another size than those before, or of an earlier stamp.
        """
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.shape != (self.shape or picture.shape):
            raise InputError(
                f"{self.key} has a picture {list(picture.shape)} after {list(self.shape) or 'none'}; expected [H, W, 3]"
            )
        if self._stamps and stamp_ns <= self._stamps[-1]:
            raise InputError(f"{self.key} has two pictures of {stamp_ns} ns, or an earlier one after it")
        self.shape = picture.shape
        done, content = self._encode(picture)
        if not done:
            raise InputError(f"{self.key}: a picture of {list(picture.shape)} cannot be compressed")
        self._stamps.append(int(stamp_ns))
        self._coded.append(content.tobytes())

    def _encode(self, picture: np.ndarray) -> tuple[bool, np.ndarray]:
        if self.key == "flow":
            known = np.isfinite(picture).all(axis=-1, keepdims=True)
            levels = np.clip(np.rint(np.where(known, picture, 0) * self._scale), -_STEPS, _STEPS) + 128
            coded = np.where(known, levels, 0).astype(np.uint8)
            return cv2.imencode(".png", coded[..., ::-1].copy(), [cv2.IMWRITE_PNG_COMPRESSION, 3])
        full = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        options = [cv2.IMWRITE_JPEG_QUALITY, self._quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, full]
        return cv2.imencode(".jpg", picture[..., ::-1].copy(), options)

    def encoded(self, stamps_ns: np.ndarray) -> Encoded:
        """The pictures nearest to the stamps [T].

        Raises:
            InputError: There are none.
        """
        if not self._coded:
            raise InputError(f"{self.key} has no pictures")
        shown = nearest(np.array(self._stamps, np.int64), stamps_ns)
        ends = np.cumsum([len(content) for content in self._coded])
        starts = np.concatenate([[0], ends[:-1]])
        table = np.stack([starts[shown], ends[shown]]).astype("<u8")
        codec, dtype = ("flow8", "<f4") if self.key == "flow" else ("jpeg", "|u1")
        return Encoded(self.key, codec, dtype, (len(shown), *self.shape), (table.tobytes(), *self._coded))


def decode_frames(
    content: memoryview, codec: str, shape: tuple[int, ...], indices: Iterable[int], limit_m_s: float
) -> np.ndarray:
    """Pictures `indices` of what `Pictures` made of `shape` [T, H, W, 3].

    Raises:
        InputError: One cannot be decoded.
    """
    table = np.frombuffer(content, "<u8", 2 * shape[0]).reshape(2, -1)
    frames = content[table.nbytes :]
    wanted = list(indices)
    out = np.empty((len(wanted), *shape[1:]), np.uint8)
    seen: dict[int, int] = {}
    for place, index in enumerate(wanted):
        if index in seen:  # before a recording's start its first frame is held
            out[place] = out[seen[index]]
            continue
        seen[index] = place
        start, end = int(table[0, index]), int(table[1, index])
        picture = cv2.imdecode(np.frombuffer(frames[start:end], np.uint8), cv2.IMREAD_COLOR)
        if picture is None or picture.shape != shape[1:]:
            raise InputError(f"picture {index} of {shape[0]} cannot be decoded")
        cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=out[place])
    return out if codec == "jpeg" else _speeds(out, limit_m_s)


def _speeds(levels: np.ndarray, limit_m_s: float) -> np.ndarray:
    speeds = (levels.astype(np.float32) - 128) * np.float32(limit_m_s / _STEPS)
    speeds[(levels == 0).all(axis=-1)] = np.nan
    return speeds
