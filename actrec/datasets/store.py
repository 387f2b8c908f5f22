"""Reader of prepared datasets: clips in a few memory-mapped files, written by `actrec prepare`."""

import errno
import hashlib
import mmap
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from actrec.datasets.base import Clip, ClipDataset, LazyStreams
from actrec.datasets.store_format import (
    CODECS,
    DTYPES,
    IDENTITY,
    PARTS,
    STORE,
    STORED_KEYS,
    Head,
    Index,
    Row,
    decode_frames,
    read_head,
    read_index,
)
from actrec.types import STREAMS
from actrec.utils.errors import ConfigError, DeviceError, InputError

MAX_MAPPED_SHARDS = 256
"""Largest number of mapped shards of a process; each is an open file."""

REPAIR = "run the same actrec prepare with --repair"


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
        self._chosen = np.arange(len(self._index)) if chosen is None else np.asarray(chosen, np.int64)
        self._maps: OrderedDict[int, memoryview] = OrderedDict()
        self._checked = np.zeros(len(self._index.rows), bool)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_chosen": self._chosen}  # another process maps its own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"], state["_chosen"])  # type: ignore[misc]

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
        splits = [name for name in known if "#" not in name]
        split = split or splits[0]
        if split not in splits:
            raise ConfigError(f"{self.head.dataset} has split {', '.join(splits)}; got '{split}'")
        requested = f"{split}#{fold}" if fold else split
        if requested not in known:
            folds = sum(name.startswith(f"{split}#") for name in known)
            raise ConfigError(f"{self.head.dataset} has {folds or 'no'} folds; got fold {fold}")
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
    def recordings(self) -> tuple[str, ...]:
        """Return the recording identity of each clip."""
        return tuple(str(meta.get(IDENTITY, "")) for meta in self.metas)

    @property
    def streams(self) -> frozenset[str]:
        """Return the streams of the clips."""
        keys_present = {"bodies", *self.head.streams}
        return frozenset(stream for stream, keys in STREAMS.items() if keys[0] in keys_present)

    def joints_digest(self, index: int) -> bytes:
        """Return a digest of a clip's joints from the checksum in the index, without reading the clip."""
        rows = (Row._make(row) for _, row in self._rows(int(self._chosen[index])))
        row = next(row for row in rows if STORED_KEYS[row.key] == "bodies")
        return f"{row.shape} {row.crc}".encode()

    def fingerprint(self) -> str:
        """Return the SHA-256 of classes, and of names, labels, shapes and checksums of the clips."""
        digest = hashlib.sha256("\n".join(self.head.classes).encode("utf-8", "surrogateescape"))
        digest.update("\n".join(self.names).encode("utf-8", "surrogateescape"))
        digest.update(self.labels.tobytes())
        first = self._index.first
        for field in ("key", "shape", "crc"):
            column = np.ascontiguousarray(self._index.rows[field])
            for clip in self._chosen:
                digest.update(column[first[clip] : first[clip + 1]].data)
        return digest.hexdigest()

    def __getitem__(self, index: int) -> Clip:
        clip = int(self._chosen[index])
        arrays: dict[str, Any] = {}
        frames: dict[str, Any] = {}
        shard = self._shard(clip)
        for place, row in self._rows(clip):
            key = STORED_KEYS[row[0]]
            if key in ("stamps_ns", "bodies"):
                arrays[key] = self._raw(shard, row, place)
            elif row[1] == 0:
                arrays[key] = partial(self._raw, shard, row, place)
            else:
                arrays[key] = partial(self._images, shard, row, place, None)
                frames[key] = partial(self._images, shard, row, place)
        name, label = str(self._index.names[clip]), int(self._index.labels[clip])
        stamps, bodies = arrays.pop("stamps_ns"), arrays.pop("bodies")
        return Clip(name, label, stamps, bodies, LazyStreams(arrays, frames) if arrays else {})

    def damaged(self) -> Iterator[tuple[str, str]]:
        """Read every clip; yield its name and its error, empty if intact."""
        for clip in map(int, self._chosen):
            error = ""
            try:
                for place, row in self._rows(clip):
                    self._checked[place] = False
                    self._check(self._shard(clip), Row._make(row), place)
            except InputError as problem:
                error = str(problem)
            yield str(self._index.names[clip]), error

    def _rows(self, clip: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yield the rows of a clip with their places in the index; as plain tuples, which are faster."""
        first, last = int(self._index.first[clip]), int(self._index.first[clip + 1])
        return enumerate(self._index.rows[first:last].tolist(), start=first)

    def _raw(self, shard: memoryview, row: tuple[Any, ...], place: int) -> np.ndarray:
        _, _, dtype, dimensions, shape, offset, size, _ = row
        if not self._checked[place]:
            self._check(shard, Row._make(row), place)
        return np.ndarray(shape[:dimensions], DTYPES[dtype], shard[offset : offset + size])

    def _images(
        self, shard: memoryview, values: tuple[Any, ...], place: int, indices: Sequence[int] | np.ndarray | None
    ) -> np.ndarray:
        row = Row._make(values)
        self._check(shard, row, place)
        requested = range(row.shape[0]) if indices is None else map(int, indices)
        shape, limit = tuple(row.shape[: row.dimensions]), float(self.head.settings["flow_limit_m_s"])
        try:
            return decode_frames(row.content(shard), CODECS[row.codec], shape, requested, limit)
        except InputError as error:
            raise InputError(f"'{self._path(self._clip_of(place))}': {error}: {REPAIR}") from error

    def _check(self, shard: memoryview, row: Row, place: int) -> None:
        if self._checked[place]:
            return
        if not row.intact(shard):
            clip = self._clip_of(place)
            raise InputError(
                f"'{self._path(clip)}' is damaged at byte {row.offset} ({STORED_KEYS[row.key]} of clip "
                f"'{self._index.names[clip]}'): {REPAIR}"
            )
        self._checked[place] = True

    def _clip_of(self, place: int) -> int:
        return int(np.searchsorted(self._index.first, place, side="right")) - 1

    def _path(self, clip: int) -> Path:
        return self.folder / str(self._index.shards[self._index.shard[clip]])

    def _shard(self, clip: int) -> memoryview:
        number = int(self._index.shard[clip])
        content = self._maps.get(number)
        if content is None:
            content = self._maps[number] = map_file(self._path(clip), int(self._index.sizes[number]))
            if len(self._maps) > MAX_MAPPED_SHARDS:
                self._maps.popitem(last=False)
        return content


def map_file(path: Path, size: int) -> memoryview:
    """Map a file read-only; raises InputError if it is missing or shorter than `size`."""
    try:
        with open(path, "rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise DeviceError(f"'{path}' cannot be opened: {error.strerror}; raise the limit (ulimit -n)") from error
        raise InputError(f"'{path}' cannot be read ({error}): {REPAIR}") from error
    if len(content) < size:
        raise InputError(f"'{path}' is truncated: {len(content)} of {size} bytes are there: {REPAIR}")
    return memoryview(content)


def is_store(folder: str | Path) -> bool:
    """Return whether a folder is a prepared store, finished or not."""
    return (Path(folder) / STORE).is_file()


def open_store(folder: Path) -> tuple[Head, Index]:
    """Return head and index of a finished store after checking the size of every shard; raises like PreparedDataset."""
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
