"""Journal of a preparation: a JSON line per batch of clips, so that a kill at any moment loses no clip."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actrec.datasets.store.layout import JOURNAL, write_whole
from actrec.datasets.store.writer import Row, store_error
from actrec.utils.errors import DeviceError, InputError

LOCK = ".lock"


@dataclass(frozen=True)
class Record:
    """A prepared clip.

    Attributes:
        name: Of the clip.
        signature: Signature of the source entry; a clip with another signature is prepared again.
        frames: T.
        shard: File name.
        rows: Its arrays.
    """

    name: str
    signature: int
    frames: int
    shard: str
    rows: list[Row]

    @property
    def end(self) -> int:
        """Return the offset of its end in the shard."""
        return max(row[5] + row[6] for row in self.rows)


class Journal:
    """The records of a store by name; the last one of a name is valid. Only one process can open it.

    Attributes:
        records: Records by clip name.
        ends: For each shard, the end of the last clip ever recorded in it, also of dropped clips.

    Args:
        folder: Existing folder of the store.

    Raises:
        DeviceError: Another process writes to this folder, or the file system cannot lock files.
        InputError: The journal is damaged.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / JOURNAL
        self.records: dict[str, Record] = {}
        self.ends: dict[str, int] = {}
        try:
            self._lock = open(folder / LOCK, "w", encoding="ascii")  # noqa: SIM115 (open for the object\'s life)
            self._file = open(self.path, "ab")  # noqa: SIM115 (open for the object\'s life)
        except OSError as error:
            raise store_error(folder, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise DeviceError(f"another actrec prepare is writing to '{folder}': wait for it, or end it") from error
        except OSError as error:  # some network and cluster file systems do not
            self.close()
            raise DeviceError(
                f"the file system of '{folder}' locks no files ({error.strerror}), so that two runs could write to it: "
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
        """Record clips that are on the disk.

        Raises:
            StoreError: The disk is full; the journal is as it was before.
        """
        records = list(records)
        content = [[r.name, r.signature, r.frames, r.shard, r.rows] for r in records]
        self._append({"clips": content})
        for record in records:
            self._note(record)

    def drop(self, names: Iterable[str]) -> None:
        """Drop clips, which must be prepared again.

        Raises:
            StoreError: The disk is full.
        """
        names = [name for name in names if name in self.records]
        if names:
            self._append({"drop": names})
        for name in names:
            del self.records[name]

    def shorten(self) -> None:
        """Rewrite the journal without dropped clips. Requires that every shard ends with a valid clip.

        Raises:
            StoreError: The disk is full; the journal is as it was before.
        """
        content = [[r.name, r.signature, r.frames, r.shard, r.rows] for r in self.records.values()]
        try:
            write_whole(self.path, json.dumps({"clips": content}, separators=(",", ":")).encode() + b"\n")
            self._file.close()
            self._file = open(self.path, "ab")  # noqa: SIM115 (open for the object\'s life)
        except OSError as error:
            raise store_error(self.folder, error) from error
        self.ends = {}
        for record in self.records.values():
            self._note(record)

    def _note(self, record: Record) -> None:
        self.ends[record.shard] = max(self.ends.get(record.shard, 0), record.end)
        self.records[record.name] = record

    def _append(self, content: dict[str, Any]) -> None:
        end = os.fstat(self._file.fileno()).st_size
        try:
            self._file.write(json.dumps(content, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            # Unwritten bytes in the buffer would be written later: start with a new file object.
            with contextlib.suppress(OSError):
                self._file.close()
            os.truncate(self.path, end)
            self._file = open(self.path, "ab")  # noqa: SIM115 (open for the object\'s life)
            raise store_error(self.folder, error) from error

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                read = json.loads(line)
                for name, signature, frames, shard, rows in read.get("clips", ()):
                    self._note(Record(name, signature, frames, shard, rows))
                for name in read.get("drop", ()):
                    self.records.pop(name, None)
            except (ValueError, TypeError, AttributeError, IndexError) as error:
                raise InputError(
                    f"'{self.path}' is damaged in line {number}: delete '{self.folder}' and prepare the dataset again"
                ) from error
        if whole < len(content):  # the kill came while a line was written
            os.truncate(self.path, whole)
