"""What a worker of a preparation does: reads items and writes them into shards of its own."""

import json
import pickle
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2

from actrec.errors import ActrecError, ConfigError, MissingLibraryError
from actrec_models.data.estimate import Estimation
from actrec_models.data.prepare_item import encode
from actrec_models.data.prepare_settings import PrepareConfig
from actrec_models.data.source import Entry, Source
from actrec_models.data.store_journal import Record
from actrec_models.data.store_writer import SHARD_BYTES, ShardWriter, StoreError


@dataclass(frozen=True)
class Job:
    """What every worker of a run is told.

    Attributes:
        run: Tells this run from others in the same process.
        folder: The store's.
        source: The dataset, pickled before it was read.
        settings: What is kept and estimated.
        shard_bytes: Size of a shard.
    """

    run: str
    folder: Path
    source: bytes
    settings: PrepareConfig
    shard_bytes: int = SHARD_BYTES


@dataclass
class Outcome:
    """What became of some items.

    Attributes:
        records: Of those written.
        skipped: Name and reason of those that could not be read.
        error: Why the run must stop, None where it need not.
    """

    records: list[Record] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    error: ActrecError | None = None


class _Worker:
    """What a thread keeps from one task of a run to the next."""

    def __init__(self, job: Job, source: Source | None = None):
        self.source: Source = source or pickle.loads(job.source)  # of our own run, not of a file
        self.writer = ShardWriter(job.folder, job.shard_bytes)
        self.estimation = Estimation(job.settings) if job.settings.estimate else None

    def close(self) -> None:
        """Closes the shard and frees the estimators' models."""
        self.writer.close()
        if self.estimation is not None:
            self.estimation.close()


_WORKERS: dict[tuple[str, int], _Worker] = {}
_LOCK = threading.Lock()


def work(job: Job, entries: Sequence[Entry]) -> Outcome:
    """Prepares items; what it returns is on the disk."""
    outcome = Outcome()
    try:
        worker = _worker(job)
        for entry in entries:
            try:
                arrays = encode(worker.source, entry, job.settings, worker.estimation)
            except (ConfigError, MissingLibraryError, StoreError):
                raise
            except ActrecError as error:
                outcome.skipped.append((entry.name, " ".join(str(error).split())))
                continue
            except ImportError as error:  # as it would be with every other item
                raise MissingLibraryError(f"'{entry.name}' cannot be read: {error}; install the library") from error
            except SystemError as error:  # compiled code wraps a Ctrl-C in one
                if isinstance(error.__cause__, KeyboardInterrupt):
                    raise KeyboardInterrupt from error
                outcome.skipped.append(_fault(entry, error))
                continue
            except Exception as error:  # a damaged file may fail in any library; the item is named, not the run ended
                outcome.skipped.append(_fault(entry, error))
                continue
            rows = worker.writer.add(arrays)
            frames = arrays[0].shape[0]
            outcome.records.append(Record(entry.name, signature(entry, job.settings), frames, worker.writer.name, rows))
    except ActrecError as error:
        outcome.error = error
    try:
        if outcome.records:
            _worker(job).writer.sync()
    except ActrecError as error:
        outcome.records.clear()  # nobody knows which of them are on the disk
        outcome.error = outcome.error or error
    return outcome


def _fault(entry: Entry, error: Exception) -> tuple[str, str]:
    """Name and reason of an item that no reader refused in words of its own."""
    return entry.name, f"{type(error).__name__}: {' '.join(str(error).split())}"


def _worker(job: Job) -> _Worker:
    key = (job.run, threading.get_ident())
    with _LOCK:
        found = _WORKERS.get(key)
    if found is None:
        cv2.setNumThreads(1)  # a worker is one of many
        found = _Worker(job)
        with _LOCK:
            _WORKERS[key] = found
    return found


def adopt(job: Job, source: Source) -> None:
    """Lets this thread work with a source that has read its lists already."""
    with _LOCK:
        _WORKERS[job.run, threading.get_ident()] = _Worker(job, source)


def release(run: str) -> None:
    """Ends a run in this process."""
    with _LOCK:
        for key in [key for key in _WORKERS if key[0] == run]:
            _WORKERS.pop(key).close()


def signature(entry: Entry, settings: PrepareConfig) -> int:
    """Tells an item from what it was: by label, meta, and the sizes of its files, or of those in its folders.

    Files of which nothing is made are passed by: videos may be added to a folder of skeletons, and NTU's depth maps are
    millions.
    """
    used = {key: path for key, path in entry.files.items() if key not in settings.unread}
    files = {key: (path.name, _sizes(path)) for key, path in used.items()}
    told = [entry.name, int(entry.label), sorted((k, str(v)) for k, v in entry.meta.items()), sorted(files.items())]
    return zlib.crc32(json.dumps(told).encode())


def _sizes(path: Path) -> int | list[tuple[str, int]]:
    if not path.is_dir():
        return path.stat().st_size if path.is_file() else -1
    return sorted((str(file.relative_to(path)), file.stat().st_size) for file in path.rglob("*") if file.is_file())
