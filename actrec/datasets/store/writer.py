"""Writer of clips into the shards of a prepared store; each writer has its own files."""

import contextlib
import errno
import os
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actrec.datasets.store.codecs import CODECS, DTYPES, EncodedArray
from actrec.datasets.store.layout import ALIGNMENT, STORED_KEYS
from actrec.utils.errors import DeviceError

SHARD_BYTES = 512 * 2**20

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Row = tuple[int, int, int, int, list[int], int, int, int]


class StoreError(DeviceError):
    """The folder of the store is not writable."""


def store_error(folder: Path, error: OSError) -> StoreError:
    """Return the error for a failed write."""
    if error.errno in _FULL:
        return StoreError(
            f"no space is left in '{folder}' ({error.strerror}): no prepared clip is lost; free some space and run "
            "the same command again"
        )
    return StoreError(f"cannot write to '{folder}': {error.strerror}; every worker must reach this folder")


class ShardWriter:
    """Writer that appends clips to shards and starts a new shard if one is full. Not thread-safe.

    Bytes of a killed writer behind the last recorded clip are never read.

    Args:
        folder: Existing folder of the store.
        limit: Largest size of a shard in bytes, unless a single clip is larger.
    """

    def __init__(self, folder: Path, limit: int = SHARD_BYTES):
        self._folder, self._limit = folder, limit
        self._file: Any = None
        self._end = 0
        self._lost: OSError | None = None
        self.name = ""

    def add(self, arrays: Sequence[EncodedArray]) -> list[Row]:
        """Append a clip to the shard `name`; return its rows.

        Raises:
            StoreError: The disk is full or the folder not writable; the clip is removed.
        """
        size = sum(sum(len(part) for part in array.parts) + ALIGNMENT for array in arrays)
        try:
            if self._file is None or (self._end and self._end + size > self._limit):
                self._open()
            return self._add(arrays)
        except OSError as error:
            self._undo()
            raise store_error(self._folder, error) from error

    def _add(self, arrays: Sequence[EncodedArray]) -> list[Row]:
        at, rows = self._end, []
        for array in arrays:
            gap = -at % ALIGNMENT
            self._file.write(bytes(gap))
            at += gap
            start, crc = at, 0
            for part in array.parts:
                self._file.write(part)
                crc = zlib.crc32(part, crc)
                at += len(part)
            shape = [*array.shape, *[0] * (5 - len(array.shape))]
            codes = STORED_KEYS.index(array.key), CODECS.index(array.codec), DTYPES.index(array.dtype)
            rows.append((*codes, len(array.shape), shape, start, at - start, crc))
        self._file.flush()
        self._end = at
        return rows

    def sync(self) -> None:
        """Flush all added clips to the disk.

        Raises:
            StoreError: They could not be written.
        """
        try:
            if self._lost is None and self._file is not None:
                os.fsync(self._file.fileno())
        except OSError as error:
            self._lost = error  # a second fsync would report success
        if self._lost is not None:
            raise store_error(self._folder, self._lost) from self._lost

    def close(self) -> None:
        """Close the shard."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        self.sync()
        self.close()
        name = f"shard_{uuid.uuid4().hex[:12]}.bin"
        self._file, self._end, self.name = open(self._folder / name, "xb"), 0, name  # noqa: SIM115

    def _undo(self) -> None:
        """Remove an incomplete clip after a failed write."""
        if self._file is None:
            return
        file, self._file = self._file, None
        with contextlib.suppress(OSError):  # unflushed bytes belong to the incomplete clip
            file.close()
        try:
            os.truncate(self._folder / self.name, self._end)
            with open(self._folder / self.name, "rb+") as kept:
                os.fsync(kept.fileno())
        except OSError as error:
            self._lost = error
