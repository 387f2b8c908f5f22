"""Workers of a preparation: what each does with an item, and their execution with dask.distributed.

A worker reads, checks, estimates and encodes items, and writes them into its own shards. Workers are this process,
processes of this machine, or a cluster.
"""

import asyncio
import contextlib
import json
import logging
import pickle
import signal
import tempfile
import threading
import time
import zlib
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actrec.datasets.base import Clip, Entry, LazyStreams, Source
from actrec.datasets.store_codecs import EncodedArray, ImageEncoder, encode_raw
from actrec.datasets.store_writer import SHARD_BYTES, ShardWriter, record_batch
from actrec.skeleton import layouts
from actrec.types import KEYS
from actrec.utils.errors import ActrecError, ConfigError, DeviceError, InputError, MissingLibraryError
from actrec_models.data.estimation import ESTIMATES, STREAM_KEYS, Estimation, Found, PrepareConfig, shrunk

IMAGE_BYTES = 256 * 2**20
"""Largest size of decoded images in memory, if the source can decode frames alone."""

IN_IMAGE = ("pixels", "hand_pixels", "face_pixels")


def encode(source: Source, entry: Entry, settings: PrepareConfig, estimation: Estimation | None) -> list[EncodedArray]:
    """Return the encoded arrays of an item, stamps first; raise ActrecError if it is unusable or misses a stream."""
    found = _found(source, entry, settings, estimation)
    clip = found.clip
    check(clip, source.layout)
    held = {*clip.streams, *found.points, *found.images}
    lacking = [stream for stream in settings.required if STREAM_KEYS[stream][0] not in held and stream != "bodies"]
    if lacking:
        remedy = ", or --estimate it" if lacking[0] in ESTIMATES else ""
        raise InputError(
            f"clip '{entry.name}' has no {lacking[0]} (it has {', '.join(sorted(held)) or 'bodies alone'}): leave it "
            f"out of --streams{remedy}"
        )
    keys = [key for stream in settings.kept for key in (*STREAM_KEYS[stream], "up") if key in held]
    points = {key: _points(found, key) for key in keys if KEYS[key][0] != 0}
    images = {key: _images(found, key, settings) for key in keys if KEYS[key][0] == 0}
    if "color" in images:
        points = _resized(points, images["color"].shape)
    arrays: dict[str, np.ndarray] = {
        "stamps_ns": clip.stamps_ns.astype(np.int64),
        "bodies": clip.bodies.astype(np.float32),
        **points,
    }
    plain = [encode_raw(key, value) for key, value in arrays.items()]
    return plain + [made.encoded(clip.stamps_ns) for made in images.values()]


def check(clip: Clip, layout: str) -> None:
    """Raise InputError if a clip violates the data contract."""
    bodies, stamps, joints = clip.bodies, clip.stamps_ns, len(layouts.get(layout))
    if bodies.ndim != 4 or bodies.shape[2:] != (joints, 3) or stamps.shape != bodies.shape[1:2]:
        raise InputError(
            f"clip '{clip.name}' has bodies {list(bodies.shape)} and stamps {list(stamps.shape)}, expected "
            f"[M, T, {joints}, 3] of {layout} and [T]"
        )
    if not len(stamps) or not np.isfinite(bodies).any():
        raise InputError(f"clip '{clip.name}' has no body")
    if (np.diff(stamps) <= 0).any():
        raise InputError(f"clip '{clip.name}' has stamps that do not increase")


def _found(source: Source, entry: Entry, settings: PrepareConfig, estimation: Estimation | None) -> Found:
    if estimation is not None:
        frames = source.frames(entry)
        if "bodies" not in settings.estimate:
            known = source.read(entry)
            return estimation.run(entry.name, entry.label, frames, known, source.camera_offset(entry))
        person = source.read(entry) if entry.meta.get("body") else None  # the recording shows others, too
        return estimation.run(entry.name, entry.label, frames, None, first=source.frames(entry), person=person)
    if not settings.uses_images:  # do not open an unused, possibly damaged video
        entry = replace(entry, files={kind: file for kind, file in entry.files.items() if kind not in settings.unread})
    clip = source.read(entry)
    if "color" in settings.required and "color" not in clip.streams:
        return Estimation(settings).run(entry.name, entry.label, source.frames(entry), clip)
    return Found(clip, {}, {})


def _points(found: Found, key: str) -> np.ndarray:
    """Return the points of a stream, checked to have the clip's bodies and frames."""
    clip, (axis, shape, _) = found.clip, KEYS[key]
    value = np.asarray(found.points[key] if key in found.points else clip.streams[key])
    start = (len(clip.bodies), len(clip.stamps_ns)) if axis == 1 else ()
    if value.shape[: len(start)] != start:
        raise InputError(f"clip '{clip.name}' has {key} {list(value.shape)}, expected {shape} with M, T = {start}")
    return value.astype(np.float32) if value.dtype.kind == "f" or key == "size" else value


def _images(found: Found, key: str, settings: PrepareConfig) -> ImageEncoder:
    if key in found.images:
        return found.images[key]
    made = ImageEncoder(key, settings.image_quality, settings.flow_limit_m_s)
    height = settings.image_height if key == "color" else 0
    for stamp, image in zip(found.clip.stamps_ns, _decoded(found.clip, key), strict=True):
        made.add(int(stamp), shrunk(image, height))
    return made


def _decoded(clip: Clip, key: str) -> Iterator[np.ndarray]:
    """Yield each image of a clip with bounded memory."""
    others, total = clip.streams, len(clip.stamps_ns)
    if not (isinstance(others, LazyStreams) and others.decodes_frames(key)):
        value = others[key]
        if len(value) != total:
            raise InputError(f"clip '{clip.name}' has {len(value)} images of {key} for {total} stamps")
        yield from value
        return
    first = others.at(key, np.arange(1))
    step = max(IMAGE_BYTES // max(first.nbytes, 1), 1)
    for start in range(0, total, step):
        yield from others.at(key, np.arange(start, min(start + step, total)))


def _resized(points: dict[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Scale points to the stored images of `shape` [H, W, 3]."""
    kept = np.array([shape[1], shape[0]], np.float32)
    scale = kept / points["size"] if "size" in points else np.ones(2, np.float32)
    if (scale == 1).all():
        return {**points, "size": kept}
    moved = {key: ((points[key] + 0.5) * scale - 0.5).astype(np.float32) for key in IN_IMAGE if key in points}
    if "motion" in points:
        moved["motion"] = (points["motion"] * scale).astype(np.float32)
    return {**points, **moved, "size": kept}


@dataclass(frozen=True)
class Job:
    """Task description for all workers of a run, of unique id `run`: folder of the store, pickled source, settings."""

    run: str
    folder: Path
    source: bytes
    settings: PrepareConfig
    shard_bytes: int = SHARD_BYTES


@dataclass
class Outcome:
    """Outcome of a task: number of clips, name and reason of unreadable items, and an error that stops the run.

    `flow_device` is the device of the worker's scene flow, in one line.
    """

    clips: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    error: ActrecError | None = None
    flow_device: str = ""


class _Worker:
    """State of a worker thread between tasks."""

    def __init__(self, job: Job, source: Source | None = None):
        self.source: Source = source or pickle.loads(job.source)  # of our own run, not of a file
        self.writer = ShardWriter(job.folder, job.shard_bytes)
        self.estimation = Estimation(job.settings) if job.settings.estimate else None

    def close(self) -> None:
        """Close the shard and free the estimators' models."""
        self.writer.close()
        if self.estimation is not None:
            self.estimation.close()


_WORKERS: dict[tuple[str, int], _Worker] = {}
"""Worker of each run and thread."""


def work(job: Job, entries: Sequence[Entry]) -> Outcome:
    """Prepare items; the counted clips are on the disk."""
    outcome = Outcome()
    try:
        worker = _worker(job)
        if worker.estimation is not None:
            outcome.flow_device = worker.estimation.flow_device
        for entry in entries:
            try:
                arrays = encode(worker.source, entry, job.settings, worker.estimation)
            except (ConfigError, MissingLibraryError):
                raise
            except ActrecError as error:
                outcome.skipped.append((entry.name, " ".join(str(error).split())))
                continue
            except ImportError as error:  # every other item would fail too
                raise MissingLibraryError(f"'{entry.name}' cannot be read: {error}; install the library") from error
            except Exception as error:  # a damaged file may fail in any library; skip the item
                if isinstance(error.__cause__, KeyboardInterrupt):  # compiled code wraps a Ctrl-C in a SystemError
                    raise KeyboardInterrupt from error
                outcome.skipped.append((entry.name, f"{type(error).__name__}: {' '.join(str(error).split())}"))
                continue
            worker.writer.add(entry.name, signature(entry, job.settings, worker.source), record_batch(arrays))
            outcome.clips += 1
    except ActrecError as error:
        outcome.error = error
    try:
        if outcome.clips:
            _worker(job).writer.sync()
    except ActrecError as error:
        outcome.clips, outcome.error = 0, outcome.error or error
    return outcome


def _worker(job: Job) -> _Worker:
    key = (job.run, threading.get_ident())
    if key not in _WORKERS:
        cv2.setNumThreads(1)  # a worker is one of many
        _WORKERS[key] = _Worker(job)
    return _WORKERS[key]


def release(run: str) -> None:
    """End a run in this process."""
    for key in [key for key in list(_WORKERS) if key[0] == run]:
        _WORKERS.pop(key).close()


def signature(entry: Entry, settings: PrepareConfig, source: Source | None = None) -> int:
    """Return a checksum of label, metadata, file sizes and `Source.identity`, which detects changed items.

    Unused files are ignored: videos may be added to a folder of skeletons, and NTU has millions of depth maps.
    """
    used = {key: path for key, path in entry.files.items() if key not in settings.unread}
    files = {key: (path.name, _sizes(path)) for key, path in used.items()}
    meta = sorted((key, str(value)) for key, value in entry.meta.items())
    identity = ""
    with contextlib.suppress(DeviceError):  # a missing file
        identity = source.identity(entry) if source else ""
    parts = [entry.name, int(entry.label), meta, sorted(files.items()), *filter(None, [identity])]
    return zlib.crc32(json.dumps(parts).encode())


def _sizes(path: Path) -> int | list[tuple[str, int]]:
    if not path.is_dir():
        return path.stat().st_size if path.is_file() else -1
    return sorted((str(file.relative_to(path)), file.stat().st_size) for file in path.rglob("*") if file.is_file())


# -- execution ---------------------------------------------------------------------------------------------------------

ATTEMPTS = 3
"""Number of workers that may die on a single item before it is skipped."""

WAIT_S = 60.0
"""Timeout for the first worker of a cluster."""

_COUNT_S = 5.0


@dataclass
class Batch:
    """Items of one task.

    Dask blames the death of a worker on all of its tasks: their items are retried `alone`, without any other task, and
    `deaths` counts the workers that died then.
    """

    entries: list[Entry]
    alone: bool = False
    deaths: int = 0


def run_here(job: Job, pending: deque[Batch], source: Source) -> Generator[Outcome, None, None]:
    """Prepare batch after batch in this process until `pending` is empty."""
    _WORKERS[job.run, threading.get_ident()] = _Worker(job, source)  # this source has already read its lists
    try:
        while pending:
            yield work(job, pending.popleft().entries)
    finally:
        release(job.run)


def run_on_cluster(job: Job, pending: deque[Batch], workers: int, scheduler: str) -> Generator[Outcome, None, None]:
    """Prepare on `workers` local processes, or on a cluster with a scheduler; the tasks of a dead worker are retried.

    Only a few tasks are submitted at a time, to bound the memory of the scheduler and this process. The caller clears
    `pending` to stop. Raise DeviceError if the cluster does not answer, or fails.
    """
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise MissingLibraryError(
            "preparation on workers needs the library 'distributed': pip install 'actrec[train]', or --workers 0"
        ) from error
    with _client(workers, scheduler) as client:
        done = distributed.as_completed()
        running: dict[Any, Batch] = {}
        counted, room = -_COUNT_S, 0
        while pending or running:
            if time.monotonic() - counted >= _COUNT_S:
                counted, threads = time.monotonic(), _threads(client, scheduler)
                room = threads + max(threads // 2, 1)
            while pending:
                alone = pending[0].alone or any(batch.alone for batch in running.values())
                if len(running) >= (1 if alone else room):
                    break
                batch = pending.popleft()
                future = client.submit(work, job, batch.entries, pure=False)
                running[future] = batch
                done.add(future)
            if not running:
                time.sleep(0.2)  # every worker is restarting
                continue
            watch = _Watch(client, scheduler)
            future = _next(done, watch)
            yield _result(future, running.pop(future), pending, watch, scheduler)
        with contextlib.suppress(OSError, asyncio.TimeoutError):  # frees long-lived workers; all clips are on the disk
            client.run(release, job.run)


def _threads(client: Any, scheduler: str) -> int:
    try:
        return sum(client.nthreads().values())
    except (OSError, AttributeError) as error:  # AttributeError: dask has closed the connection
        raise _gone(scheduler) from error


def _gone(scheduler: str) -> DeviceError:
    name = scheduler or "of this machine"
    return DeviceError(f"the scheduler {name} is no longer reachable: run the same command again to resume")


class _Watch:
    """Monitor that raises if the cluster has no active workers for some time."""

    def __init__(self, client: Any, scheduler: str):
        self._client, self._scheduler = client, scheduler
        self._seen = self._asked = time.monotonic()
        self._paused = False

    def look(self) -> None:
        """Raise DeviceError if there has been no worker for some time, or dask has paused all of them."""
        now = time.monotonic()
        if now - self._asked < _COUNT_S:
            return
        self._asked = now
        with contextlib.suppress(OSError):  # the scheduler does not answer
            workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
            self._seen, self._paused = now if any(map(_works, workers)) else self._seen, bool(workers)
        if now - self._seen < WAIT_S:
            return
        if self._paused:
            raise DeviceError(
                f"'{self._scheduler}' paused its workers because their memory is full: start them with "
                "--memory-limit 0, or fewer of them, and run the same command again to resume"
            )
        where = f"'{self._scheduler}' has no workers" if self._scheduler else "no worker process is"
        raise DeviceError(f"{where} left: run the same command again to resume")


def _works(worker: Mapping[str, Any]) -> bool:
    """Return whether a worker accepts tasks or runs one (dask pauses a worker with little free memory)."""
    return worker["status"] == "running" or bool(worker["metrics"].get("task_counts", {}).get("executing"))


def _next(done: Any, watch: _Watch) -> Any:
    while not done.has_ready():
        watch.look()
        time.sleep(0.002)
    return next(done)


def _result(future: Any, batch: Batch, pending: deque[Batch], watch: _Watch, scheduler: str) -> Outcome:
    """Return the outcome of a task; if its worker died, retry its items one by one."""
    import distributed
    from distributed.comm import CommClosedError

    try:
        return _fetched(future, watch)
    except distributed.KilledWorker:
        deaths = batch.deaths + batch.alone
        if deaths >= ATTEMPTS:
            return Outcome(skipped=[(batch.entries[0].name, f"{deaths} workers died while they worked on it")])
        pending.extendleft(Batch([entry], True, deaths) for entry in reversed(batch.entries))
        return Outcome()
    except (CancelledError, CommClosedError) as error:
        raise _gone(scheduler) from error
    except DeviceError:
        raise
    except Exception as error:
        raise DeviceError(
            f"a worker failed ({type(error).__name__}: {error}): workers need the same actrec and the same folders"
        ) from error


def _fetched(future: Any, watch: _Watch) -> Outcome:
    """Return the outcome of a finished task; dask repeats the task if the worker with the outcome is lost."""
    while True:
        try:
            outcome: Outcome = future.result(timeout=_COUNT_S)
            return outcome
        except asyncio.TimeoutError:
            if future.status == "error":  # the task's own
                raise
            watch.look()


@contextlib.contextmanager
def _client(workers: int, scheduler: str) -> Iterator[Any]:
    import distributed

    for name in ("distributed", "distributed.client"):  # our own errors report what matters
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if scheduler:
        try:
            client = distributed.Client(scheduler, timeout=10)
        except (OSError, ValueError, TypeError) as error:  # TypeError: an address without its certificates
            raise DeviceError(f"no scheduler answers at '{scheduler}': start one with dask scheduler") from error
        with client:
            try:
                client.wait_for_workers(1, timeout=WAIT_S)
            except asyncio.TimeoutError as error:
                raise DeviceError(f"'{scheduler}' has no workers: start some with dask worker {scheduler}") from error
            yield client
        return
    with contextlib.ExitStack() as stack:
        try:
            client = _local(stack, workers)
        except (OSError, RuntimeError, asyncio.TimeoutError) as error:
            raise DeviceError(f"worker processes cannot be started ({error}): --workers 0 does without") from error
        yield client


def _local(stack: contextlib.ExitStack, workers: int) -> Any:
    """Start local workers and return their client; `stack` closes both."""
    import dask
    import distributed

    options = {
        # The task of a dead worker returns at once: it is split and counted here, dask would retry it as a whole.
        "distributed.scheduler.allowed-failures": 0,
        # Otherwise dask abandons a worker that starts slowly or has died again.
        "distributed.deploy.lost-worker-timeout": "1000 days",
    }
    stack.enter_context(dask.config.set(options))
    scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="actrec_prepare_"))
    cluster = distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        # Otherwise dask pauses a worker that uses most of its share of the memory, which the libraries alone can do.
        memory_limit=0,
        dashboard_address="127.0.0.1:0",
        local_directory=scratch,
        silence_logs="CRITICAL",
    )
    stack.enter_context(cluster)
    client = stack.enter_context(distributed.Client(cluster))

    class LeavesSigint(distributed.WorkerPlugin):
        """Ignore the Ctrl-C that a terminal sends to all of its processes."""

        def setup(self, worker: Any) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    client.register_plugin(LeavesSigint())
    return client
