"""Preparation of a dataset: read every item once, estimate streams, and write a store that is fast to read."""

import contextlib
import dataclasses
import json
import pickle
import time
import uuid
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from actrec import __version__, datasets
from actrec.datasets.base import Entry, Source
from actrec.datasets.store.journal import Journal, Record
from actrec.datasets.store.layout import (
    IDENTITY,
    PARTS,
    ROW,
    SKIPPED,
    STORED_KEYS,
    Head,
    Index,
    write_head,
    write_index,
    write_whole,
)
from actrec.datasets.store.reader import PreparedDataset
from actrec.datasets.store.writer import SHARD_BYTES, store_error
from actrec.skeleton.conversions import CANONICAL
from actrec.utils import config
from actrec.utils.errors import ActrecError, ConfigError, InputError
from actrec_models.data.prepare.cluster import Batch, run_here, run_on_cluster
from actrec_models.data.prepare.folder import damaged, forget, free, gone, keep, opened, tells, tidy, todo
from actrec_models.data.prepare.settings import PrepareConfig
from actrec_models.data.prepare.worker import Job


def finish(journal: Journal, head: Head, protocols: Mapping[str, Source], held: Sequence[Entry]) -> None:
    """Write the index of the entries `held`, then the head of a finished store. Keep an up-to-date store unchanged.

    Args:
        journal: Journal of the store.
        head: Head of the store.
        protocols: For each "split" or "split#fold", the source with its parts.
        held: Entries in the journal, in the index's order.

    Raises:
        StoreError: The disk is full; prepared clips are kept.
    """
    records = [journal.records[entry.name] for entry in held]
    index = build(protocols, held, records)
    if tells(journal.folder, index):
        return
    streams = frozenset.intersection(*(frozenset(STORED_KEYS[row[0]] for row in record.rows) for record in records))
    try:
        digest = write_index(journal.folder, index)
        done = dataclasses.replace(
            head,
            complete=True,
            streams=[key for key in STORED_KEYS if key in streams],
            clips=len(index),
            index_sha256=digest,
        )
        write_head(journal.folder, done)
    except OSError as error:
        raise store_error(journal.folder, error) from error
    tidy(journal)


def build(protocols: Mapping[str, Source], entries: Sequence[Entry], records: Sequence[Record]) -> Index:
    """Build the index of the clips."""
    shards = sorted({record.shard for record in records})
    place = {name: number for number, name in enumerate(shards)}
    sizes = np.zeros(len(shards), np.int64)
    for record in records:
        sizes[place[record.shard]] = max(sizes[place[record.shard]], record.end)
    rows = [(*row[:4], tuple(row[4]), *row[5:]) for record in records for row in record.rows]
    splits = [(source, name.split("#")[0]) for name, source in protocols.items()]
    parts = [[PARTS.index(source.part(entry, split)) for entry in entries] for source, split in splits]
    source = next(iter(protocols.values()), None)
    metas = json.dumps([_meta(source, entry) for entry in entries]).encode()
    return Index(
        names=np.array([entry.name for entry in entries]),
        labels=np.array([entry.label for entry in entries], np.int64),
        lengths=np.array([record.frames for record in records], np.int32),
        shard=np.array([place[record.shard] for record in records], np.int32),
        first=np.cumsum([0, *(len(record.rows) for record in records)]).astype(np.int64),
        rows=np.array(rows, ROW),
        shards=np.array(shards),
        sizes=sizes,
        splits=np.array(list(protocols)),
        parts=np.array(parts, np.uint8).reshape(len(protocols), len(entries)),
        metas_json=np.frombuffer(metas, np.uint8),
    )


def _meta(source: Source | None, entry: Entry) -> dict[str, int | str]:
    """Return the metadata of an entry, with its recording's identity."""
    identity = source.identity(entry) if source else ""
    return {**entry.meta, **({IDENTITY: identity} if identity else {})}


def write_skipped(folder: Path, skipped: Sequence[tuple[str, str]]) -> None:
    """Write the list of unreadable items, also if empty.

    Raises:
        StoreError: The disk is full.
    """
    content = [{"name": name, "reason": reason} for name, reason in skipped]
    try:
        write_whole(
            folder / SKIPPED, json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")
        )
    except OSError as error:
        raise store_error(folder, error) from error


BATCH = 32
"""Items per task if an item takes milliseconds; otherwise one."""


@dataclass(frozen=True)
class Summary:
    """Summary of a preparation.

    Attributes:
        folder: Folder of the store.
        dataset: Name of the dataset.
        clips: Number of clips in the store.
        prepared: Number of clips prepared by this run.
        skipped: Name and reason of unreadable items.
        absent: Names of prepared clips that are no longer in the dataset; they stay on the disk.
        shards: Number of shards.
        bytes: Size of all shards.
        seconds: Duration of this run.
        fingerprint: Fingerprint of the store.
    """

    folder: str
    dataset: str
    clips: int
    prepared: int
    skipped: list[dict[str, str]]
    absent: list[str]
    shards: int
    bytes: int
    seconds: float
    fingerprint: str


@dataclass(frozen=True)
class Run:
    """How a preparation runs; no option changes the clips.

    Attributes:
        workers: Number of local processes; 0 for this process.
        scheduler: Address of a dask.distributed scheduler instead; empty for none.
        repair: Check every clip and prepare damaged ones again.
        prune: Delete clips of removed items and old versions of changed items.
        progress: Show a progress bar.
        shard_bytes: Size of a shard.
    """

    workers: int = 0
    scheduler: str = ""
    repair: bool = False
    prune: bool = False
    progress: bool = False
    shard_bytes: int = SHARD_BYTES


def prepare(
    dataset: str,
    root: str | Path,
    out: str | Path,
    *,
    options: dict[str, Any] | None = None,
    settings: PrepareConfig | None = None,
    run: Run | None = None,
) -> Summary:
    """Prepare a dataset into a folder, or resume an earlier run.

    Args:
        dataset: A name of `actrec.datasets.DATASETS`.
        root: Folder of its files.
        out: Folder of the store.
        options: Options of the dataset.
        settings: Settings of the preparation.
        run: Execution options.

    Raises:
        ConfigError: Unknown dataset, option or setting, or `out` holds something else.
        DeviceError: The dataset is not there, the disk is full, or the cluster fails; nothing prepared is lost.
        InputError: A list of the dataset is corrupt, or none of its items can be read.
    """
    options, settings = options or {}, settings or PrepareConfig()
    config.check_names(options, datasets.RESERVED, "--option")
    settings.check()
    if "fold" in options:
        raise ConfigError(f"all folds of {dataset} are prepared at once, one is chosen in training: leave fold out")
    # Absolute: a worker may have been started in another folder.
    root, out = Path(root).expanduser().absolute(), Path(out).expanduser().absolute()
    if dataset == "folder" and root.resolve() in out.resolve().parents:
        raise ConfigError(f"--out '{out}' lies among the recordings of '{root}', for one of which it would be taken: "
                          "choose another")  # fmt: skip
    source = datasets.source(dataset, root, **options)
    protocols = _protocols(dataset, source, options)
    return prepare_source(dataset, source, protocols, out, options, settings, run or Run())


def prepare_source(
    dataset: str,
    source: Source,
    protocols: Mapping[str, Source],
    out: Path,
    options: dict[str, Any],
    settings: PrepareConfig,
    run: Run,
) -> Summary:
    """Prepare an open dataset like `prepare`; `protocols` as in `finish`."""
    began = time.monotonic()
    pickled = pickle.dumps(source)  # before it reads files
    head = Head(
        dataset, _recorded(source, options), dataclasses.asdict(settings), list(source.classes), source.layout,
        version=__version__,
    )  # fmt: skip
    if settings.estimate and source.layout != CANONICAL:
        raise ConfigError(f"{dataset} has joints {source.layout}: nothing is estimated of others than {CANONICAL}")
    entries = [*source.entries(), *source.unknown_entries()]
    _check_names(dataset, entries)
    _check_parts(entries, protocols)
    with opened(out, head) as journal:
        tidy(journal)
        if run.repair:
            forget(journal, head, damaged(journal, run.progress))
        forget(journal, head, gone(journal))
        absent = sorted(journal.records.keys() - {entry.name for entry in entries})
        if run.prune:
            forget(journal, head, absent)
            free(journal, head, run.shard_bytes)
            absent = []
        # Changed items stay in the journal until they are prepared again.
        missing = todo(journal, entries, settings)
        job = Job(uuid.uuid4().hex, out, pickled, settings, run.shard_bytes)
        skipped = _run(job, run, journal, head, source, missing, len(entries) - len(missing)) if missing else []
        held = [entry for entry in entries if entry.name in journal.records]
        if not any(entry.label >= 0 for entry in held):
            without = "all that can be read show none of its classes (unknown)" if held else "it has no items"
            reason = skipped[0][1] if skipped else without
            raise InputError(
                f"none of the {len(entries)} items of {dataset} in '{source.root}' can be prepared: {reason}"
            )
        write_skipped(out, skipped)
        finish(journal, head, protocols, held)
        return _summary(out, skipped, absent, len(missing) - len(skipped), time.monotonic() - began)


def _run(
    job: Job, run: Run, journal: Journal, head: Head, source: Source, todo: list[Entry], done: int
) -> list[tuple[str, str]]:
    """Prepare the entries; return the unreadable ones in order."""
    size = 1 if job.settings.heavy else BATCH
    pending = deque(Batch(todo[start : start + size]) for start in range(0, len(todo), size))
    if run.workers == 0 and not run.scheduler:
        outcomes = run_here(job, pending, source)
    else:
        outcomes = run_on_cluster(job, pending, run.workers, run.scheduler)
    reasons: dict[str, str] = {}
    error: ActrecError | None = None
    bar = tqdm(total=done + len(todo), initial=done, unit="clip", disable=not run.progress, smoothing=0.05)
    with bar, contextlib.closing(outcomes):
        for outcome in outcomes:
            reasons |= dict(outcome.skipped)
            try:
                keep(journal, head, outcome.records)
            except ActrecError as failed:
                outcome.error = failed
            if outcome.error is not None:
                error = error or outcome.error
                pending.clear()  # running tasks are still recorded
            bar.update(len(outcome.records) + len(outcome.skipped))
            bar.set_postfix_str(f"{len(reasons)} skipped" if reasons else "")
    for name in reasons.keys() & journal.records.keys():
        reasons[name] += "; the store keeps its earlier clip"
    skipped = [(entry.name, reasons[entry.name]) for entry in todo if entry.name in reasons]
    if error is not None:
        raise error
    return skipped


def _recorded(source: Source, options: dict[str, Any]) -> dict[str, Any]:
    """Return all options of a dataset, including defaults and options from a file, but not the fold."""
    settings: Any = getattr(source, "config", None)
    own = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)} if settings else {}
    told = {**own, **options}
    told.pop("fold", None)
    plain: dict[str, Any] = json.loads(json.dumps(told))
    return plain


def _protocols(dataset: str, source: Source, options: dict[str, Any]) -> dict[str, Source]:
    """Return every defined split and fold with the source of its parts."""
    found = {split: source for split in source.splits if source.has_split(split)}
    for fold in range(1, source.folds + 1):
        divided = datasets.source(dataset, source.root, **options, fold=fold)
        found |= {f"{split}#{fold}": divided for split in source.splits}
    return found


def _check_parts(entries: Sequence[Entry], protocols: Mapping[str, Source]) -> None:
    """Raise before the work starts if the list of a split is missing."""
    if entries:
        for name, source in protocols.items():
            source.part(entries[0], name.split("#")[0])


def _check_names(dataset: str, entries: Sequence[Entry]) -> None:
    twice = [name for name, count in Counter(entry.name for entry in entries).items() if count > 1]
    if twice:
        raise InputError(f"{dataset} names '{twice[0]}' twice: remove one of them")


def _summary(out: Path, skipped: list[tuple[str, str]], absent: list[str], prepared: int, seconds: float) -> Summary:
    store = PreparedDataset(out)
    return Summary(
        str(out),
        store.head.dataset,
        len(store),
        prepared,
        [{"name": name, "reason": reason} for name, reason in skipped],
        absent,
        *store.size,
        round(seconds, 2),
        store.fingerprint(),
    )
