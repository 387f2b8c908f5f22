"""Format of a prepared store: its files, and the encoding of points and images.

| file | content |
| --- | --- |
| `store.json` | dataset, options, settings, and whether the store is complete |
| `index.npz` | position, label, name and checksums of each clip |
| `shard_….bin` | the arrays; a few large files, memory-mapped |
| `journal.jsonl` | the prepared clips, from which a preparation resumes |
| `skipped.json` | unreadable items with the reason |

| codec | data | loss |
| --- | --- | --- |
| `raw` | points, stamps, sizes | none |
| `jpeg` | color [T, H, W, 3] uint8 | JPEG of the given quality, 4:4:4 |
| `flow8` | scene flow [T, H, W, 3] m/s | rounded to limit / 127, clipped at ± limit; NaN stays NaN |

A table [2, T] with the begin and end of each frame precedes the images: each frame is decoded alone, and an image of
several frames is stored once.
"""

import dataclasses
import errno
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from actrec.skeleton.windows import nearest
from actrec.types import KEYS
from actrec.utils.errors import DeviceError, InputError

SCHEMA = 2
"""Schema 1 had the stream "colour" and settings `picture_…`."""  # language: ok

STORE, INDEX, JOURNAL, SKIPPED = "store.json", "index.npz", "journal.jsonl", "skipped.json"
STORED_KEYS = ("stamps_ns", *KEYS)
PARTS = ("", "train", "test")
IDENTITY = "identity"
"""Key of the recording's identity (`Source.identity`) in a clip's metadata."""

ALIGNMENT = 64
CODECS = ("raw", "jpeg", "flow8")
DTYPES = ("<f4", "<i8", "|u1", "<f8", "<i4", "<u8")
"""Types of `raw` arrays."""

ROW = np.dtype([
    ("key", "u1"), ("codec", "u1"), ("dtype", "u1"), ("dimensions", "u1"), ("shape", "<i4", (5,)),
    ("offset", "<i8"), ("size", "<i8"), ("crc", "<u4"),
])  # fmt: skip

_STEPS = 127
"""Levels of a speed from zero to the limit."""


class Row(NamedTuple):
    """An array of a clip: indices into `STORED_KEYS`, `CODECS` and `DTYPES`; `size` bytes at `offset` of the shard."""

    key: int
    codec: int
    dtype: int
    dimensions: int
    shape: list[int]
    offset: int
    size: int
    crc: int

    def content(self, shard: memoryview) -> memoryview:
        """Return the array's bytes."""
        return shard[self.offset : self.offset + self.size]

    def intact(self, shard: memoryview) -> bool:
        """Return whether the array's bytes match the checksum."""
        return zlib.crc32(self.content(shard)) == self.crc


@dataclass(frozen=True)
class Head:
    """Content of `store.json`.

    Attributes:
        complete: Whether the preparation is finished.
        streams: Keys of `KEYS` that every clip has.
        index_sha256: SHA-256 of `index.npz`.
    """

    dataset: str
    options: dict[str, Any]
    settings: dict[str, Any]
    classes: list[str]
    layout: str
    complete: bool = False
    streams: list[str] = dataclasses.field(default_factory=list)
    clips: int = 0
    index_sha256: str = ""
    version: str = ""
    schema: int = SCHEMA


@dataclass(frozen=True)
class Index:
    """Content of `index.npz`.

    Attributes:
        names: [N] clip names.
        labels: [N] int64.
        lengths: [N] frames of each clip.
        shard: [N] index into `shards`.
        first: [N + 1]: the arrays of clip n are rows[first[n]:first[n + 1]].
        rows: [R] of `ROW`.
        shards: File names.
        sizes: Used bytes of each shard.
        splits: [S] protocols of the dataset; a fold is "split#fold".
        parts: [S, N] indices into `PARTS`.
        metas_json: Metadata of the clips, a JSON list.
    """

    names: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray
    shard: np.ndarray
    first: np.ndarray
    rows: np.ndarray
    shards: np.ndarray
    sizes: np.ndarray
    splits: np.ndarray
    parts: np.ndarray
    metas_json: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def metas(self) -> list[dict[str, int | str]]:
        """Return the metadata of each clip."""
        read: list[dict[str, int | str]] = json.loads(self.metas_json.tobytes() or b"[]")
        return read


class StoreError(DeviceError):
    """The folder of the store is not writable."""


def store_error(folder: Path, error: OSError) -> StoreError:
    """Return the error for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreError(
            f"no space is left in '{folder}' ({error.strerror}): no prepared clip is lost; free some space and run "
            "the same command again"
        )
    return StoreError(f"cannot write to '{folder}': {error.strerror}; every worker must reach this folder")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file atomically: after a kill it has the old or the new content. Raises StoreError."""
    scratch = path.with_name(path.name + ".new")
    try:
        with open(scratch, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise store_error(path.parent, error) from error


def read_head(folder: Path) -> Head:
    """Read `store.json`; raises DeviceError if there is none, InputError if it is damaged or has another schema."""
    path = folder / STORE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeviceError(
            f"there is no prepared dataset in '{folder}' ({error.strerror}): run actrec prepare"
        ) from error
    except ValueError as error:
        raise InputError(f"'{path}' is damaged: delete '{folder}' and prepare the dataset again") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise InputError(
            f"'{path}' has schema {schema}, this actrec reads {SCHEMA}: prepare the dataset again into another folder"
        )
    try:
        return Head(**content)
    except TypeError as error:
        raise InputError(f"'{path}' is damaged or foreign: delete '{folder}' and prepare the dataset again") from error


def write_head(folder: Path, head: Head) -> None:
    """Replace `store.json` atomically; raises StoreError."""
    write_atomically(folder / STORE, json.dumps(dataclasses.asdict(head), indent=1).encode())


def read_index(folder: Path, head: Head) -> Index:
    """Read `index.npz`; raises InputError if it is missing, damaged or does not belong to `store.json`."""
    path = folder / INDEX
    remedy = "run the same actrec prepare again to rewrite it"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror}): {remedy}") from error
    if hashlib.sha256(content).hexdigest() != head.index_sha256:
        raise InputError(f"'{path}' is damaged or of another preparation: {remedy}")
    with np.load(path, allow_pickle=False) as arrays:
        return Index(**{field.name: arrays[field.name] for field in dataclasses.fields(Index)})


def write_index(folder: Path, index: Index) -> str:
    """Replace `index.npz` atomically; return its SHA-256. Raises StoreError."""
    memory = io.BytesIO()
    np.savez(memory, **{field.name: getattr(index, field.name) for field in dataclasses.fields(Index)})
    write_atomically(folder / INDEX, memory.getvalue())
    return hashlib.sha256(memory.getvalue()).hexdigest()


# -- codecs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodedArray:
    """An encoded array: one of `STORED_KEYS`, of `CODECS`, of `DTYPES`; decoded shape; the bytes in parts, in order."""

    key: str
    codec: str
    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Any, ...]


def encode_raw(key: str, value: np.ndarray) -> EncodedArray:
    """Encode an array without compression."""
    dtype = value.dtype.newbyteorder("<").str
    if dtype not in DTYPES:
        raise InputError(f"{key} is {value.dtype}, not one of a prepared store's types {', '.join(DTYPES)}")
    return EncodedArray(key, "raw", dtype, value.shape, (np.ascontiguousarray(value, dtype).tobytes(),))


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
        return EncodedArray(self.key, codec, dtype, (len(nearest_images), *self.shape), (table.tobytes(), *self._coded))


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
        image = cv2.imdecode(np.frombuffer(frames[start:end], np.uint8), cv2.IMREAD_COLOR)
        if image is None or image.shape != shape[1:]:
            raise InputError(f"image {index} of {shape[0]} cannot be decoded")
        cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=out[place])
    if codec == "jpeg":
        return out
    speeds = (out.astype(np.float32) - 128) * np.float32(limit_m_s / _STEPS)
    speeds[(out == 0).all(axis=-1)] = np.nan
    return speeds
