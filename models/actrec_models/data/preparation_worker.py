"""Worker of a preparation: read, check, estimate and encode items, and write them into its own shards."""

import json
import pickle
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from actrec.datasets.base import Clip, Entry, LazyStreams, Source
from actrec.datasets.store_codecs import EncodedArray, ImageEncoder, encode_raw
from actrec.datasets.store_writer import SHARD_BYTES, ShardWriter, record_batch
from actrec.skeleton import layouts
from actrec.types import KEYS
from actrec.utils.errors import ActrecError, ConfigError, InputError, MissingLibraryError
from actrec_models.data.estimation import ESTIMATES, STREAM_KEYS, Estimation, Found, PrepareConfig, shrunk

IMAGE_BYTES = 256 * 2**20
"""Largest size of decoded images in memory, if the source can decode frames alone."""

IN_IMAGE = ("pixels", "hand_pixels", "face_pixels")


def encode(source: Source, entry: Entry, settings: PrepareConfig, estimation: Estimation | None) -> list[EncodedArray]:
    """Return the encoded arrays of an item, stamps first.

    Raises:
        ActrecError: The item is unreadable, violates the data contract, has no body, or misses a stream.
    """
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
        known = None if "bodies" in settings.estimate else source.read(entry)
        offset = None if known is None else source.camera_offset(entry)
        return estimation.run(entry.name, entry.label, source.frames(entry), known, offset)
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
    """Outcome of a task: number of clips, name and reason of unreadable items, and an error that stops the run."""

    clips: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    error: ActrecError | None = None


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

_LOCK = threading.Lock()


def work(job: Job, entries: Sequence[Entry]) -> Outcome:
    """Prepare items; the counted clips are on the disk."""
    outcome = Outcome()
    try:
        worker = _worker(job)
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
            worker.writer.add(entry.name, signature(entry, job.settings), record_batch(arrays))
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
    with _LOCK:
        found = _WORKERS.get(key)
    if found is None:
        cv2.setNumThreads(1)  # a worker is one of many
        found = _Worker(job)
        with _LOCK:
            _WORKERS[key] = found
    return found


def adopt(job: Job, source: Source) -> None:
    """Use a source in this thread that has already read its lists."""
    with _LOCK:
        _WORKERS[job.run, threading.get_ident()] = _Worker(job, source)


def release(run: str) -> None:
    """End a run in this process."""
    with _LOCK:
        for key in [key for key in _WORKERS if key[0] == run]:
            _WORKERS.pop(key).close()


def signature(entry: Entry, settings: PrepareConfig) -> int:
    """Return a checksum of label, metadata and file sizes, which detects changed items.

    Unused files are ignored: videos may be added to a folder of skeletons, and NTU has millions of depth maps.
    """
    used = {key: path for key, path in entry.files.items() if key not in settings.unread}
    files = {key: (path.name, _sizes(path)) for key, path in used.items()}
    meta = sorted((key, str(value)) for key, value in entry.meta.items())
    return zlib.crc32(json.dumps([entry.name, int(entry.label), meta, sorted(files.items())]).encode())


def _sizes(path: Path) -> int | list[tuple[str, int]]:
    if not path.is_dir():
        return path.stat().st_size if path.is_file() else -1
    return sorted((str(file.relative_to(path)), file.stat().st_size) for file in path.rglob("*") if file.is_file())
