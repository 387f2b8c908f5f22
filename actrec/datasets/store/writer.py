"""Writes clips into the shards of a prepared store: each writer into files of its own, which nobody else opens."""

import contextlib
import errno
import os
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actrec.datasets.store.codecs import CODECS, DTYPES, Encoded
from actrec.datasets.store.layout import ALIGNMENT, STORED_KEYS
from actrec.utils.errors import DeviceError

SHARD_BYTES = 512 * 2**20

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Row = tuple[int, int, int, int, list[int], int, int, int]


class StoreError(DeviceError):
    """The store's folder cannot be written to: no fault of a clip."""


def store_error(folder: Path, error: OSError) -> StoreError:
    """What to tell of a failed write."""
    if error.errno in _FULL:
        return StoreError(
            f"no space is left in '{folder}' ({error.strerror}): nothing that was prepared is lost; free some and run "
            "the same command again"
        )
    return StoreError(f"cannot write to '{folder}': {error.strerror}; every worker must reach this folder")


class ShardWriter:
    """Appends clips to shards, a new one when one is full.

    What a killed writer leaves behind the last clip that was reported is never read. Not safe for threads.

    Args:
        folder: The store's; there already.
        limit: Bytes that a shard may have, unless a single clip is larger.
    """

    def __init__(self, folder: Path, limit: int = SHARD_BYTES):
        self._folder, self._limit = folder, limit
        self._file: Any = None
        self._end = 0
        self._lost: OSError | None = None
        self.name = ""

    def add(self, arrays: Sequence[Encoded]) -> list[Row]:
        """Appends a clip; gives its rows, of the shard `name`.

        Raises:
            StoreError: The disk is full, or the folder not writable; nothing of the clip is left.
        """
        size = sum(sum(len(part) for part in array.parts) + ALIGNMENT for array in arrays)
        try:
            if self._file is None or (self._end and self._end + size > self._limit):
                self._open()
            return self._add(arrays)
        except OSError as error:
            self._undo()
            raise store_error(self._folder, error) from error

    def _add(self, arrays: Sequence[Encoded]) -> list[Row]:
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
        """Returns when what was added is on the disk.

        Raises:
            StoreError: It could not be written.
        """
        try:
            if self._lost is None and self._file is not None:
                os.fsync(self._file.fileno())
        except OSError as error:
            self._lost = error  # asked again, the system would say that all is well
        if self._lost is not None:
            raise store_error(self._folder, self._lost) from self._lost

    def close(self) -> None:
        """Closes the shard."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        self.sync()
        self.close()
        name = f"shard_{uuid.uuid4().hex[:12]}.bin"
        self._file, self._end, self.name = open(self._folder / name, "xb"), 0, name  # noqa: SIM115

    def _undo(self) -> None:
        """Cuts off what of a clip was written before the disk was full."""
        if self._file is None:
            return
        file, self._file = self._file, None
        with contextlib.suppress(OSError):  # what cannot be flushed is lost with it, as it should be
            file.close()
        try:
            os.truncate(self._folder / self.name, self._end)
            with open(self._folder / self.name, "rb+") as kept:
                os.fsync(kept.fileno())
        except OSError as error:
            self._lost = error
