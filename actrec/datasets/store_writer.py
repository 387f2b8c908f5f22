"""Writer of a prepared store: shards of clips in the Arrow IPC stream format, from which a preparation resumes.

A record batch is a clip and a row one of its arrays. Each worker appends to its own shards, so that a kill loses
no clip before the last `sync`. Of several clips of a name, the one in the last shard is valid.
"""

import contextlib
import os
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from actrec.datasets.store import STORED_KEYS, intact, map_file, writing
from actrec.datasets.store_codecs import CODECS, DTYPES, EncodedArray
from actrec.utils import file_lock
from actrec.utils.errors import DeviceError, MissingLibraryError

SHARD_BYTES = 512 * 2**20
LOCK = ".lock"
END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""End of an Arrow stream; the shard of a killed worker has none."""


class Record(NamedTuple):
    """A clip in a shard, and the position behind it. It is prepared again if its entry has another signature."""

    name: str
    signature: int
    shard: str
    rows: list[tuple[Any, ...]]
    end: int

    def intact(self, content: memoryview) -> bool:
        """Return whether all arrays match their checksums."""
        return all(intact(content, row) for row in self.rows)


def record_batch(arrays: Sequence[EncodedArray]) -> Any:
    """Return the Arrow record batch of a clip. Raises MissingLibraryError."""
    pa = _pyarrow()
    types = [pa.utf8(), pa.utf8(), pa.utf8(), pa.list_(pa.int32()), pa.large_binary(), pa.uint32()]
    columns = [*zip(*arrays, strict=True), [zlib.crc32(array.content) for array in arrays]]
    values = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    return pa.record_batch(values, names=[*EncodedArray._fields, "crc32"])


def read_shard(name: str, content: memoryview) -> Iterator[tuple[Record, Any]]:
    """Yield each clip of a shard and its record batch, up to the first that is incomplete or unreadable."""
    pa = _pyarrow()
    shard = pa.py_buffer(content)
    source = pa.BufferReader(shard)
    try:
        stream = pa.ipc.open_stream(source)
        while True:
            batch, metadata = stream.read_next_batch_with_custom_metadata()
            batch.validate(full=True)
            _, offsets, data = batch.column("content").buffers()
            places = (data.address - shard.address + np.frombuffer(offsets, np.int64)).tolist()
            rows = []
            for place, array in enumerate(batch.drop_columns("content").to_pylist()):
                codes = STORED_KEYS.index(array["key"]), CODECS.index(array["codec"]), DTYPES.index(array["dtype"])
                dimensions, size = len(array["shape"]), places[place + 1] - places[place]
                shape = (*array["shape"], *[0] * (5 - dimensions))
                rows.append((*codes, dimensions, shape, places[place], size, array["crc32"]))
            clip = metadata[b"name"].decode("utf-8", "surrogateescape")
            yield Record(clip, int(metadata[b"signature"]), name, rows, source.tell()), batch
    except (StopIteration, pa.ArrowException, OSError, ValueError, LookupError, TypeError):
        return


class ShardWriter:
    """Writer that appends clips to shards, and starts a new one when `limit` bytes are reached. Not thread-safe."""

    def __init__(self, folder: Path, limit: int = SHARD_BYTES):
        self._folder, self._limit = folder, limit
        self._file: Any = None
        self._stream: Any = None
        self._synced = 0
        self.path = folder

    def add(self, name: str, signature: int, batch: Any) -> None:
        """Append a clip to the shard `path`. If DeviceError is raised, all clips since the last `sync` are removed."""
        if self._file is not None and self._file.tell() + batch.nbytes > self._limit:
            self.sync()
            self.close()
        with self._undone_on_error():
            if self._file is None:
                last = max((int(path.name[6:12]) for path in shards(self._folder)), default=0)
                self.path = self._folder / f"shard_{last + 1:06d}_{uuid.uuid4().hex[:12]}.arrow"
                self._file, self._synced = open(self.path, "xb"), 0  # noqa: SIM115
                self._stream = _pyarrow().ipc.new_stream(self._file, batch.schema)
            metadata = {"name": name.encode("utf-8", "surrogateescape"), "signature": str(signature)}
            self._stream.write_batch(batch, custom_metadata=metadata)
            self._file.flush()

    def sync(self) -> None:
        """Flush all added clips to the disk, or remove them and raise DeviceError."""
        with self._undone_on_error():
            if self._file is not None:
                os.fsync(self._file.fileno())
                self._synced = self._file.tell()

    def close(self) -> None:
        """End the shard after `sync`."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # without an end, the shard is checked when it is read
                self._stream.close()
                self._file.close()
            self._file = None

    @contextlib.contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        try:
            with writing(self._folder):
                yield
        except DeviceError:
            if self._file is not None:
                with contextlib.suppress(OSError):  # unwritten bytes are of no use
                    self._file.close()
                with contextlib.suppress(OSError):  # otherwise, the next preparation checks the clips
                    os.truncate(self.path, self._synced)
                self._file = None
            raise


class Shards:
    """The clips in the shards of a store.

    Args:
        verify: Check every clip; damaged ones are not valid.

    Attributes:
        records: Valid clips by name.
        sizes: Bytes of each shard.
        gaps: Shards that hold more than valid clips.

    Raises:
        DeviceError: A shard is not accessible.
    """

    def __init__(self, folder: Path, verify: bool = False, progress: bool = False):
        self.folder = folder
        self.records: dict[str, Record] = {}
        self.sizes: dict[str, int] = {}
        self.gaps: set[str] = set()
        self.read(verify, progress)

    def read(self, verify: bool = False, progress: bool = False) -> None:
        """Add the clips of new shards. The shard of a killed worker is cut at its first incomplete or damaged clip."""
        new = [path for path in shards(self.folder) if path.name not in self.sizes]
        for path in tqdm(new, desc="checking", unit="file", disable=not (verify and progress)):
            with writing(self.folder):
                content = map_file(path)
                ended, end = content[-len(END) :] == END, 0
                for record, _ in read_shard(path.name, content):
                    if (verify or not ended) and not record.intact(content):
                        self.gaps.add(path.name)
                        if ended:
                            continue
                        break
                    end = record.end
                    self.drop([record.name])
                    self.records[record.name] = record
                if ended and end + len(END) < len(content):  # the rest is unreadable
                    self.gaps.add(path.name)
                if not ended:
                    os.truncate(path, end)
                    with open(path, "ab") as file:
                        file.write(END)
                        file.flush()
                        os.fsync(file.fileno())
                self.sizes[path.name] = path.stat().st_size

    def drop(self, names: Iterable[str]) -> None:
        """Forget clips; their bytes stay on the disk."""
        self.gaps |= {self.records.pop(name).shard for name in names if name in self.records}

    def compact(self, shard_bytes: int) -> None:
        """Copy the intact valid clips of shards with gaps into new shards of `shard_bytes`, then delete the old ones.

        Open readers keep their mapped files. If DeviceError is raised, nothing is lost.
        """
        old = sorted(self.gaps)
        with writing(self.folder), contextlib.closing(ShardWriter(self.folder, shard_bytes)) as writer:
            for shard in old:
                content = map_file(self.folder / shard)
                for record, batch in read_shard(shard, content):
                    if self.records.get(record.name) == record and record.intact(content):
                        writer.add(record.name, record.signature, batch)
            writer.sync()
        self.drop([record.name for record in self.records.values() if record.shard in old])
        self.read()
        self.tidy()

    def tidy(self) -> None:
        """Delete the shards without valid clips.

        Bytes of replaced clips stay: another process may have them mapped, and truncation would kill it (SIGBUS).
        """
        used = {record.shard for record in self.records.values()}
        self.gaps &= used
        with writing(self.folder):
            for path in shards(self.folder):
                if path.name not in used:
                    path.unlink()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a store for this process.

    Raises:
        DeviceError: Another process writes to this folder, or the file system cannot lock files.
    """
    with writing(folder):
        lock = open(folder / LOCK, "w", encoding="ascii")  # noqa: SIM115
    with lock:
        try:
            file_lock.lock(lock.fileno(), wait=False)
        except BlockingIOError as error:
            raise DeviceError(f"another actrec prepare is writing to '{folder}': wait for it, or end it") from error
        except OSError as error:
            raise DeviceError(  # some network and cluster file systems do not lock
                f"the file system of '{folder}' cannot lock files ({error.strerror}), so two runs could write to it: "
                "choose another --out, or mount it with locks"
            ) from error
        yield


def shards(folder: Path) -> list[Path]:
    """Return the shards of a store, the oldest first."""
    return sorted(folder.glob(f"shard_{'[0-9]' * 6}_*.arrow"))


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise MissingLibraryError("preparation needs the library 'pyarrow': pip install 'actrec[train]'") from error
    return pyarrow
