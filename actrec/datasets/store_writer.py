"""Writer of a prepared store: shards of clips, the journal from which a preparation resumes, and compaction.

Each worker writes its own shards; one process writes the journal, a JSON line per batch of clips, so that a kill at any
moment loses no recorded clip.
"""

import contextlib
import fcntl
import json
import os
import uuid
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from actrec.datasets.store import map_file
from actrec.datasets.store_format import (
    ALIGNMENT,
    CODECS,
    DTYPES,
    JOURNAL,
    STORED_KEYS,
    EncodedArray,
    Row,
    store_error,
    write_atomically,
)
from actrec.utils.errors import DeviceError, InputError

SHARD_BYTES = 512 * 2**20
LOCK = ".lock"


class ShardWriter:
    """Writer that appends clips to shards, and starts a new one when `limit` bytes are reached. Not thread-safe.

    Bytes of a killed writer behind the last recorded clip are never read.
    """

    def __init__(self, folder: Path, limit: int = SHARD_BYTES):
        self._folder, self._limit = folder, limit
        self._file: Any = None
        self._end = 0
        self._sync_error: OSError | None = None
        self.name = ""

    def add(self, arrays: Sequence[EncodedArray]) -> list[Row]:
        """Append a clip to the shard `name`; return its rows. After StoreError, the incomplete clip is removed."""
        size = sum(sum(len(part) for part in array.parts) + ALIGNMENT for array in arrays)
        try:
            if self._file is None or (self._end and self._end + size > self._limit):
                self.sync()
                self.close()
                self.name, self._end = f"shard_{uuid.uuid4().hex[:12]}.bin", 0
                self._file = open(self._folder / self.name, "xb")  # noqa: SIM115
            return self._append(arrays)
        except OSError as error:
            self._undo()
            raise store_error(self._folder, error) from error

    def _append(self, arrays: Sequence[EncodedArray]) -> list[Row]:
        at, rows = self._end, []
        for array in arrays:
            gap = -at % ALIGNMENT
            self._file.write(bytes(gap))
            start, size, crc = at + gap, 0, 0
            for part in array.parts:
                self._file.write(part)
                crc, size = zlib.crc32(part, crc), size + len(part)
            at = start + size
            shape = [*array.shape, *[0] * (5 - len(array.shape))]
            codes = STORED_KEYS.index(array.key), CODECS.index(array.codec), DTYPES.index(array.dtype)
            rows.append(Row(*codes, len(array.shape), shape, start, size, crc))
        self._file.flush()
        self._end = at
        return rows

    def sync(self) -> None:
        """Flush all added clips to the disk, or raise StoreError."""
        try:
            if self._sync_error is None and self._file is not None:
                os.fsync(self._file.fileno())
        except OSError as error:
            self._sync_error = error  # a second fsync would report success
        if self._sync_error is not None:
            raise store_error(self._folder, self._sync_error) from self._sync_error

    def close(self) -> None:
        """Close the shard."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _undo(self) -> None:
        """Remove an incomplete clip after a failed write."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # unflushed bytes belong to the incomplete clip
            self._file.close()
        self._file = None
        try:
            os.truncate(self._folder / self.name, self._end)
            with open(self._folder / self.name, "rb+") as kept:
                os.fsync(kept.fileno())
        except OSError as error:
            self._sync_error = error


class Record(NamedTuple):
    """A prepared clip of `frames` in a shard; it is prepared again if its entry has another signature."""

    name: str
    signature: int
    frames: int
    shard: str
    rows: list[Row]

    @property
    def end(self) -> int:
        """Return the offset of the clip's end in the shard."""
        return max(row.offset + row.size for row in self.rows)


class Journal:
    """The records of a store by name; the last one of a name is valid. Only one process can open it.

    Attributes:
        records: Records by clip name.
        ends: For each shard, the end of the last clip ever recorded in it, also of dropped clips.

    Raises:
        DeviceError: Another process writes to this folder, or the file system cannot lock files.
        InputError: The journal is damaged.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / JOURNAL
        self.records: dict[str, Record] = {}
        self.ends: dict[str, int] = {}
        try:
            self._lock = open(folder / LOCK, "w", encoding="ascii")  # noqa: SIM115
            self._file = open(self.path, "ab")  # noqa: SIM115
        except OSError as error:
            raise store_error(folder, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            if isinstance(error, BlockingIOError):
                raise DeviceError(f"another actrec prepare is writing to '{folder}': wait for it, or end it") from error
            raise DeviceError(  # some network and cluster file systems do not lock
                f"the file system of '{folder}' cannot lock files ({error.strerror}), so two runs could write to it: "
                "choose another --out, or mount it with locks"
            ) from error
        try:
            self._read()
        except InputError:
            self.close()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock."""
        self._file.close()
        self._lock.close()

    def add(self, records: Iterable[Record]) -> None:
        """Record clips that are on the disk. After StoreError, the journal is as it was before."""
        records = list(records)
        self._append({"clips": records})
        for record in records:
            self._remember(record)

    def drop(self, names: Iterable[str]) -> None:
        """Drop clips, which must be prepared again."""
        names = [name for name in names if name in self.records]
        if names:
            self._append({"drop": names})
        for name in names:
            del self.records[name]

    def rewrite(self) -> None:
        """Rewrite the journal without dropped clips. Requires that every shard ends with a valid clip."""
        write_atomically(self.path, _line({"clips": list(self.records.values())}))
        self._file.close()
        self._file = open(self.path, "ab")  # noqa: SIM115
        self.ends = {}
        for record in self.records.values():
            self._remember(record)

    def compact(self, shard_bytes: int) -> list[str]:
        """Copy the clips of shards with unused bytes into new shards of `shard_bytes`, and record them.

        The old shards stay complete until they are deleted, so that open readers keep their mapped files. Returns the
        names of damaged clips, which are not moved and must be prepared again. After StoreError, nothing is lost.
        """
        damaged: list[str] = []
        writer = ShardWriter(self.folder, shard_bytes)
        try:
            for records in self.shards_with_gaps():
                damaged += self._move(writer, sorted(records, key=lambda record: record.end))
        finally:
            writer.close()
        return damaged

    def shards_with_gaps(self) -> list[list[Record]]:
        """Return the clips of each shard that has unused bytes."""
        shards: dict[str, list[Record]] = defaultdict(list)
        for record in self.records.values():
            shards[record.shard].append(record)
        used = {
            name: sum(-(-row.size // ALIGNMENT) * ALIGNMENT for record in records for row in record.rows)
            for name, records in shards.items()
        }
        return [records for name, records in sorted(shards.items()) if used[name] < self.ends[name]]

    def _move(self, writer: ShardWriter, records: Sequence[Record]) -> list[str]:
        """Copy the intact clips of a shard; return the names of the others."""
        shard = map_file(self.folder / records[0].shard, max(record.end for record in records))
        moved, damaged = [], []
        for record in records:
            if not all(row.intact(shard) for row in record.rows):
                damaged.append(record.name)  # a new checksum would hide it
                continue
            arrays = [
                EncodedArray(
                    STORED_KEYS[row.key], CODECS[row.codec], DTYPES[row.dtype], tuple(row.shape[: row.dimensions]),
                    (row.content(shard),),
                )
                for row in record.rows
            ]  # fmt: skip
            rows = writer.add(arrays)
            moved.append(record._replace(shard=writer.name, rows=rows))
        writer.sync()
        self.add(moved)
        return damaged

    def _remember(self, record: Record) -> None:
        self.ends[record.shard] = max(self.ends.get(record.shard, 0), record.end)
        self.records[record.name] = record

    def _append(self, content: dict[str, Any]) -> None:
        end = os.fstat(self._file.fileno()).st_size
        try:
            self._file.write(_line(content))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            # Unwritten bytes in the buffer would be written later: start with a new file object.
            with contextlib.suppress(OSError):
                self._file.close()
            os.truncate(self.path, end)
            self._file = open(self.path, "ab")  # noqa: SIM115
            raise store_error(self.folder, error) from error

    def _read(self) -> None:
        content = self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:end].splitlines(), start=1):
            try:
                read = json.loads(line)
                for name, signature, frames, shard, rows in read.get("clips", ()):
                    self._remember(Record(name, signature, frames, shard, [Row(*row) for row in rows]))
                for name in read.get("drop", ()):
                    self.records.pop(name, None)
            except (ValueError, TypeError, AttributeError) as error:
                raise InputError(
                    f"'{self.path}' is damaged in line {number}: delete '{self.folder}' and prepare the dataset again"
                ) from error
        if end < len(content):  # the kill came while a line was written
            os.truncate(self.path, end)


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"
