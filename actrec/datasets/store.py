"""Prepared datasets: clips in a few memory-mapped files, written by `actrec prepare`.

| file | content |
| --- | --- |
| `store.json` | dataset, options, settings, and whether the store is complete |
| `shard_….arrow` | the arrays, in a few large Arrow IPC streams; a record batch is a clip, a row an array |
| `index.npz` | position, label, name and checksums of each clip, to read without a search |
| `skipped.json` | unreadable items with the reason |
"""

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import mmap
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from actrec.datasets.base import Clip, ClipDataset, LazyStreams
from actrec.datasets.fingerprints import fingerprint_of
from actrec.datasets.store_codecs import CODECS, DTYPES, decode_frames
from actrec.types import KEYS, STREAMS
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec.utils.folders import is_plain, replace_file

SCHEMA = 3
STORE, INDEX, SKIPPED = "store.json", "index.npz", "skipped.json"
STORED_KEYS = ("stamps_ns", *KEYS)
PARTS = ("", "train", "test")

ROW = np.dtype([
    ("key", "u1"), ("codec", "u1"), ("dtype", "u1"), ("dimensions", "u1"), ("shape", "<i4", (5,)),
    ("offset", "<i8"), ("size", "<i8"), ("crc", "<u4"),
])  # fmt: skip
"""An array of a clip: indices into `STORED_KEYS`, `CODECS` and `DTYPES`; `size` bytes at `offset` of the shard."""

MAX_MAPPED_SHARDS = 256
"""Largest number of mapped shards of a process; each is an open file."""

REPAIR = "run the same actrec prepare with --repair"


def intact(shard: memoryview, row: tuple[Any, ...]) -> bool:
    """Return whether the bytes of an array, a tuple of the fields of `ROW`, match the checksum."""
    *_, offset, size, crc = row
    return zlib.crc32(shard[offset : offset + size]) == crc


@dataclass(frozen=True)
class Head:
    """Content of `store.json`."""

    dataset: str
    options: dict[str, Any]
    settings: dict[str, Any]
    classes: list[str]
    layout: str
    complete: bool = False  # whether the preparation is finished
    streams: list[str] = dataclasses.field(default_factory=list)  # keys of `KEYS` that every clip has
    clips: int = 0
    index_sha256: str = ""
    version: str = ""
    schema: int = SCHEMA
    scene_flow: dict[str, Any] = dataclasses.field(default_factory=dict)  # method, height and rate of estimated flow


@dataclass(frozen=True)
class Index:
    """Content of `index.npz`."""

    names: np.ndarray  # [N] clip names
    labels: np.ndarray  # [N] int64
    shard: np.ndarray  # [N] index into `shards`
    first: np.ndarray  # [N + 1]: the arrays of clip n are rows[first[n]:first[n + 1]]
    rows: np.ndarray  # [R] of `ROW`
    shards: np.ndarray  # file names
    sizes: np.ndarray  # bytes of each shard
    splits: np.ndarray  # [S] protocols of the dataset; a fold is "split#fold"
    parts: np.ndarray  # [S, N] indices into `PARTS`
    metas_json: np.ndarray  # metadata of the clips, a JSON list

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def metas(self) -> list[dict[str, int | str]]:
        """Return the metadata of each clip."""
        read: list[dict[str, int | str]] = json.loads(self.metas_json.tobytes() or b"[]")
        return read


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise DeviceError instead of OSError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DeviceError(
                f"no space is left in '{folder}' ({error.strerror}): no prepared clip is lost; free some space and run "
                "the same command again"
            ) from error
        raise DeviceError(
            f"cannot write to '{folder}': {error.strerror}; every worker must reach this folder"
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file atomically: after a kill it has the old or the new content. Raises DeviceError."""
    with writing(path.parent):
        replace_file(path, content)


def read_head(folder: Path) -> Head:
    """Read `store.json`; raises DeviceError if there is none, InputError if it is damaged or has another schema."""
    path = folder / STORE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeviceError(
            f"there is no prepared dataset in '{folder}' ({error.strerror}): run actrec prepare"
        ) from error
    except (ValueError, RecursionError) as error:
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
    """Replace `store.json` atomically; raises DeviceError."""
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
        index = Index(**{field.name: arrays[field.name] for field in dataclasses.fields(Index)})
    if outside := [name for name in map(str, index.shards.ravel()) if not is_plain(name)]:
        raise InputError(f"'{path}' names '{outside[0]}', which is not in its folder: {remedy}")
    return index


def write_index(folder: Path, index: Index) -> str:
    """Replace `index.npz` atomically; return its SHA-256. Raises DeviceError."""
    memory = io.BytesIO()
    np.savez(memory, **{field.name: getattr(index, field.name) for field in dataclasses.fields(Index)})
    write_atomically(folder / INDEX, memory.getvalue())
    return hashlib.sha256(memory.getvalue()).hexdigest()


class PreparedDataset(ClipDataset):
    """Clips of a prepared store. Arrays are read-only views of the files without a copy.

    Each process opens the files at its first read, so workers of a DataLoader have their own, and checks the
    checksum of an array at its first access.

    Args:
        folder: Folder of the store.
        chosen: [N] indices of the clips; None for all.
        loaded: Head (content of `store.json`) and index, if already read.

    Raises:
        DeviceError: There is no store.
        InputError: It is not finished, damaged, truncated or has another schema.
    """

    def __init__(self, folder: str | Path, chosen: np.ndarray | None = None, loaded: tuple[Head, Index] | None = None):
        self.folder = Path(folder)
        self.head, self._index = loaded or open_store(self.folder)
        self.classes, self.layout = tuple(self.head.classes), self.head.layout
        self.scene_flow = self.head.scene_flow
        self._chosen = np.arange(len(self._index)) if chosen is None else np.asarray(chosen, np.int64)
        self._maps: dict[int, memoryview] = {}
        self._checked = np.zeros(len(self._index.rows), bool)

    def __reduce__(self) -> tuple[Any, ...]:
        return PreparedDataset, (self.folder, self._chosen)  # another process maps its own

    def subset(self, chosen: Sequence[int] | np.ndarray) -> "PreparedDataset":
        """Return the subset of clips with these indices [N]."""
        return PreparedDataset(self.folder, self._chosen[np.asarray(chosen, np.int64)], (self.head, self._index))

    def part(self, split: str, part: str, fold: int = 0, unknown: bool = False) -> "PreparedDataset":
        """Return part "train" or "test" of a split, by default the first one.

        `fold` is counted from 1; 0 is the dataset's default. `unknown` selects the clips of no class instead.

        Raises:
            ConfigError: The dataset has no such split or fold.
        """
        known = self._index.splits.tolist()
        splits = list(dict.fromkeys(name.split("#")[0] for name in known))
        split = split or splits[0]
        if split not in splits:
            raise ConfigError(f"{self.head.dataset} has split {', '.join(splits)}; got '{split}'")
        requested = f"{split}#{fold}" if fold else split
        if requested not in known:
            folds = ", ".join(name.split("#")[1] for name in known if name.startswith(f"{split}#"))
            held = f"folds {folds} of split {split}" if folds else "no folds"
            raise ConfigError(f"{self.head.dataset} has {held}; got {f'fold {fold}' if fold else 'none'}")
        parts = self._index.parts[known.index(requested)][self._chosen]
        return self.subset(np.flatnonzero((parts == PARTS.index(part)) & ((self.labels < 0) == unknown)))

    def __len__(self) -> int:
        return len(self._chosen)

    @property
    def labels(self) -> np.ndarray:
        """Return the label of each clip [N]."""
        return self._index.labels[self._chosen]

    @property
    def size(self) -> tuple[int, int]:
        """Return the number and the bytes of all shards."""
        return len(self._index.shards), int(self._index.sizes.sum())

    @property
    def names(self) -> tuple[str, ...]:
        """Return the name of each clip."""
        return tuple(self._index.names[self._chosen].tolist())

    @property
    def metas(self) -> tuple[Mapping[str, int | str], ...]:
        """Return the metadata of each clip."""
        metas = self._index.metas
        return tuple(metas[clip] for clip in self._chosen)

    @property
    def streams(self) -> frozenset[str]:
        """Return the streams of the clips."""
        keys_present = {"bodies", *self.head.streams}
        return frozenset(stream for stream, keys in STREAMS.items() if keys[0] in keys_present)

    def joints_digest(self, index: int) -> bytes:
        """Return a digest of a clip's joints from the checksum in the index, without reading the clip."""
        bodies = STORED_KEYS.index("bodies")
        _, _, _, _, shape, _, _, crc = next(row for _, row in self._rows(int(self._chosen[index])) if row[0] == bodies)
        return f"{shape} {crc}".encode()

    def fingerprint(self) -> str:
        """Return the SHA-256 of classes, and of names, labels, shapes and checksums of the clips."""
        first = self._index.first
        columns = (np.ascontiguousarray(self._index.rows[field]) for field in ("key", "shape", "crc"))
        rows = (column[first[clip] : first[clip + 1]].data for column in columns for clip in self._chosen)
        return fingerprint_of(self.head.classes, chain(["\n".join(self.names), self.labels.tobytes()], rows))

    def __getitem__(self, index: int) -> Clip:
        clip = self._chosen.item(index)
        arrays: dict[str, Any] = {}
        frames: dict[str, Any] = {}
        for place, row in self._rows(clip):
            key = STORED_KEYS[row[0]]
            if row[0] < 2:  # stamps and bodies
                arrays[key] = self._read(clip, place, row)
                continue
            arrays[key] = partial(self._read, clip, place, row)  # not a shard: it cannot be pickled
            if row[1]:  # not raw
                frames[key] = arrays[key]
        name, label = self._index.names.item(clip), self._index.labels.item(clip)
        stamps, bodies = arrays.pop("stamps_ns"), arrays.pop("bodies")
        return Clip(name, label, stamps, bodies, LazyStreams(arrays, frames) if arrays else {})

    def damaged(self) -> Iterator[tuple[str, str]]:
        """Read every clip; yield its name and its error, empty if intact."""
        for clip in map(int, self._chosen):
            error = ""
            try:
                for place, row in self._rows(clip):
                    self._check(self._shard(clip), place, row)
            except InputError as problem:
                error = str(problem)
            yield str(self._index.names[clip]), error

    def _rows(self, clip: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yield the rows of a clip with their places in the index; as plain tuples, which are faster."""
        first, last = self._index.first.item(clip), self._index.first.item(clip + 1)
        return enumerate(self._index.rows[first:last].tolist(), start=first)

    def _read(
        self, clip: int, place: int, row: tuple[Any, ...], indices: Sequence[int] | np.ndarray | None = None
    ) -> np.ndarray:
        """Return an array of a clip, or the images `indices` of it."""
        shard = self._shard(clip)
        if not self._checked[place]:
            self._check(shard, place, row)
        _, codec, dtype, dimensions, shape, offset, size, _ = row
        if codec == 0:
            return np.ndarray(shape[:dimensions], DTYPES[dtype], shard[offset : offset + size])
        requested = range(shape[0]) if indices is None else map(int, indices)
        limit = float(self.head.settings["flow_limit_m_s"])
        try:
            return decode_frames(
                shard[offset : offset + size], CODECS[codec], tuple(shape[:dimensions]), requested, limit
            )
        except InputError as error:
            raise InputError(f"'{self._path(clip)}': {error}: {REPAIR}") from error

    def _check(self, shard: memoryview, place: int, row: tuple[Any, ...]) -> None:
        if not intact(shard, row):
            clip = self._clip_of(place)
            key, _, _, _, _, offset, _, _ = row
            raise InputError(
                f"'{self._path(clip)}' is damaged at byte {offset} ({STORED_KEYS[key]} of clip "
                f"'{self._index.names[clip]}'): {REPAIR}"
            )
        self._checked[place] = True

    def _clip_of(self, place: int) -> int:
        return int(np.searchsorted(self._index.first, place, side="right")) - 1

    def _path(self, clip: int) -> Path:
        return self.folder / str(self._index.shards[self._index.shard[clip]])

    def _shard(self, clip: int) -> memoryview:
        number = self._index.shard.item(clip)
        content = self._maps.get(number)
        if content is None:
            path = self._path(clip)
            try:
                content = map_file(path)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    raise DeviceError(
                        f"'{path}' cannot be opened: {error.strerror}; raise the limit (ulimit -n)"
                    ) from error
                raise InputError(f"'{path}' cannot be read ({error}): {REPAIR}") from error
            self._maps[number] = content
            if len(self._maps) > MAX_MAPPED_SHARDS:
                del self._maps[next(iter(self._maps))]
        return content


def map_file(path: Path) -> memoryview:
    """Map a file read-only; raises OSError."""
    with open(path, "rb") as file:
        empty = os.fstat(file.fileno()).st_size == 0
        return memoryview(b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def is_store(folder: str | Path) -> bool:
    """Return whether a folder is a prepared store, finished or not."""
    return (Path(folder) / STORE).is_file()


def open_store(folder: Path) -> tuple[Head, Index]:
    """Return head and index of a finished store; checks the size of each shard; raises like PreparedDataset."""
    head = read_head(folder)
    if not head.complete:
        raise InputError(f"the preparation in '{folder}' is not finished: run the same actrec prepare again")
    index = read_index(folder, head)
    for name, size in zip(index.shards.tolist(), index.sizes.tolist(), strict=True):
        path = folder / name
        actual = path.stat().st_size if path.is_file() else -1
        if actual < size:
            state = "is missing" if actual < 0 else f"is truncated: {actual} of {size} bytes are there"
            raise InputError(f"'{path}' {state}: {REPAIR}")
    return head, index
