"""Preparation of a dataset: read every item once, estimate streams, and write a store that is fast to read."""

import contextlib
import dataclasses
import json
import logging
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
from tqdm.contrib.logging import logging_redirect_tqdm

from actrec import __version__, datasets
from actrec.datasets.base import IDENTITY, RATED_CLIPS, Entry, Source
from actrec.datasets.store import (
    INDEX,
    PARTS,
    ROW,
    SKIPPED,
    STORE,
    STORED_KEYS,
    Head,
    Index,
    PreparedDataset,
    open_store,
    read_head,
    write_atomically,
    write_head,
    write_index,
    writing,
)
from actrec.datasets.store_writer import LOCK, SHARD_BYTES, Shards, locked, shards
from actrec.scene_flow import identity
from actrec.skeleton.layouts import CANONICAL
from actrec.utils import config
from actrec.utils.errors import ActrecError, ConfigError, DeviceError, InputError
from actrec.utils.folders import final_name
from actrec_models.data.estimation import PrepareConfig
from actrec_models.data.preparation_workers import Batch, Job, run_here, run_on_cluster, signature

logger = logging.getLogger(__name__)

BATCH = 32
"""Items per task if an item takes milliseconds; otherwise one."""


@dataclass(frozen=True)
class Summary:
    """Summary of a preparation.

    Attributes:
        clips, shards, bytes: Numbers of clips and shards in the store, and their size.
        prepared: Number of clips prepared by this run.
        skipped: Name and reason of unreadable items.
        absent: Names of prepared clips that are no longer in the dataset; they stay on the disk.
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
    """Prepare a dataset into the folder `out` of a store, or resume an earlier run.

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
        raise ConfigError(
            f"--out '{out}' lies among the recordings of '{root}' and would be taken for one: choose another folder"
        )
    source = datasets.source(dataset, root, **options)
    protocols = {split: source for split in source.splits if source.has_split(split)}
    for fold in range(1, source.folds + 1):
        divided = datasets.source(dataset, source.root, **options, fold=fold)
        protocols |= {f"{split}#{fold}": divided for split in source.splits if divided.has_split(split)}
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
    """Prepare an open dataset like `prepare`; `protocols` maps each "split" or "split#fold" to its source."""
    began = time.monotonic()
    pickled = pickle.dumps(source)  # before it reads files
    head = Head(
        dataset, _recorded(source, options), dataclasses.asdict(settings), list(source.classes), source.layout,
        version=__version__, scene_flow=settings.scene_flow.identity if settings.scene_flow else {},
    )  # fmt: skip
    if settings.estimate and source.layout != CANONICAL:
        raise ConfigError(f"{dataset} has joints {source.layout}: only {CANONICAL} can be estimated")
    entries = _entries(dataset, source, protocols)
    _check_folder(out)
    with locked(out):
        store = _open(out, head, run)
        absent = sorted(store.records.keys() - {entry.name for entry in entries})
        if run.prune:
            store.drop(absent)
            absent = []
        if store.gaps and (run.prune or run.repair):
            _mark_incomplete(out, head)
            store.compact(run.shard_bytes)
        # Changed items stay in the store until they are prepared again.
        made = {name: record.signature for name, record in store.records.items()}
        missing = [entry for entry in entries if made.get(entry.name) != signature(entry, settings, source)]
        job = Job(uuid.uuid4().hex, out, pickled, settings, run.shard_bytes)
        skipped = _run(job, run, head, source, missing, len(entries) - len(missing)) if missing else {}
        for name in skipped.keys() & made.keys():
            skipped[name] += "; the store keeps its earlier clip"
        store.read()
        held = [entry for entry in entries if entry.name in store.records]
        if len(held) + len(skipped.keys() - made.keys()) < len(entries):
            raise DeviceError(
                f"'{out}' lacks clips that workers have written: every worker must write to this same folder; run the "
                "same command again"
            )
        if not any(entry.label >= 0 for entry in held):
            without = "all that can be read show none of its classes (unknown)" if held else "it has no items"
            cause = next(iter(skipped.values()), without)
            found = f"none of the {len(entries)} items of {dataset} in '{source.root}'"
            raise InputError(f"{found} can be prepared: {cause}")
        listed = [{"name": name, "reason": reason} for name, reason in skipped.items()]
        content = json.dumps(listed, indent=1, ensure_ascii=False)
        write_atomically(out / SKIPPED, content.encode("utf-8", "backslashreplace"))
        _finish(store, head, protocols, held)
        clips = PreparedDataset(out)
        prepared, seconds = len(missing) - len(skipped), round(time.monotonic() - began, 2)
        return Summary(
            str(out), dataset, len(clips), prepared, listed, absent, *clips.size, seconds, clips.fingerprint()
        )


def _entries(dataset: str, source: Source, protocols: Mapping[str, Source]) -> list[Entry]:
    """Return the items of a dataset, whose names must differ and which each protocol must assign to a part."""
    entries = [*source.entries(), *source.unknown_entries()]
    if twice := [name for name, count in Counter(entry.name for entry in entries).items() if count > 1]:
        raise InputError(f"{dataset} names '{twice[0]}' twice: remove one of them")
    for name, divided in protocols.items():  # before the work: the list of a split may be missing
        for entry in entries[:1]:
            divided.part(entry, name.split("#")[0])
    return entries


def _recorded(source: Source, options: dict[str, Any]) -> dict[str, Any]:
    """Return all options of a dataset, including defaults and options from a file, but not the fold."""
    settings: Any = getattr(source, "config", None)
    own = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)} if settings else {}
    recorded = {**own, **options}
    recorded.pop("fold", None)
    plain: dict[str, Any] = json.loads(json.dumps(recorded))
    return plain


def _run(job: Job, run: Run, head: Head, source: Source, todo: list[Entry], done: int) -> dict[str, str]:
    """Prepare the entries; return the reasons of the unreadable ones by name, in order."""
    size = 1 if job.settings.heavy else BATCH
    pending = deque(Batch(todo[start : start + size]) for start in range(0, len(todo), size))
    if run.workers == 0 and not run.scheduler:
        outcomes = run_here(job, pending, source)
    else:
        outcomes = run_on_cluster(job, pending, run.workers, run.scheduler)
    reasons: dict[str, str] = {}
    error: ActrecError | None = None
    bar = tqdm(total=done + len(todo), initial=done, unit="clip", disable=not run.progress, smoothing=0.05)
    devices = {""}  # of the workers' scene flow, each logged once
    with bar, logging_redirect_tqdm(), contextlib.closing(outcomes):
        for outcome in outcomes:
            if outcome.flow_device not in devices:
                devices.add(outcome.flow_device)
                logger.info("%s", outcome.flow_device)
            reasons |= dict(outcome.skipped)
            if outcome.clips:
                _mark_incomplete(job.folder, head)
            if outcome.error is not None:
                error = error or outcome.error
                pending.clear()  # running tasks are still finished
            bar.update(outcome.clips + len(outcome.skipped))
            bar.set_postfix_str(f"{len(reasons)} skipped" if reasons else "")
    if error is not None:
        raise error
    return {entry.name: reasons[entry.name] for entry in todo if entry.name in reasons}


# -- the store's folder ------------------------------------------------------------------------------------------------


def _check_folder(out: Path) -> None:
    """Create the folder of a store; raise if it holds another store's schema or other files."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        names = sorted(path.name for path in out.iterdir())
    if STORE in names:
        read_head(out)
    ours = {STORE, INDEX, SKIPPED, LOCK, *(path.name for path in shards(out))}
    if others := [name for name in names if final_name(name) not in ours]:
        raise ConfigError(f"'{out}' holds other files ({others[0]}): choose an empty folder with --out")


def _open(out: Path, head: Head, run: Run) -> Shards:
    """Open the clips of a store with this head; create the store if there is none."""
    store = Shards(out, run.repair, run.progress)
    before = read_head(out) if (out / STORE).is_file() else None
    if before is None and store.records:
        raise InputError(
            f"'{out}' has no {STORE} with the settings of its {len(store.records)} clips: choose another --out, or "
            f"delete '{out}'"
        )
    if before is None or not (store.records or before.complete):  # nothing was prepared yet
        write_head(out, head)
    else:
        _check_same(out, before, head)
    return store


def _check_same(out: Path, before: Head, head: Head) -> None:
    """Raise if the store was prepared with other settings."""
    was, now = _made_by(before), _made_by(head)
    if other := [key for key in {**was, **now} if was.get(key) != now.get(key)]:
        name = other[0].partition(" ")[2]
        words = [f"{name}={values.get(other[0])}" for values in (was, now)]
        words = [word if len(word) < 80 else f"another {name}" for word in words]
        raise ConfigError(
            f"'{out}' was prepared with {words[0]}, not {words[1]}: choose another --out, or delete '{out}'"
        )


def _made_by(head: Head) -> dict[str, Any]:
    """Return everything that determines the clips; options and settings may share names."""
    settings = {f"setting {key}": value for key, value in head.settings.items()}
    options = {f"option {key}": value for key, value in head.options.items()}
    return {**settings, **options, "the dataset": head.dataset, "the classes": head.classes}


def _mark_incomplete(out: Path, head: Head) -> None:
    """Mark the store as incomplete before its index is outdated."""
    if read_head(out).complete:
        write_head(out, head)


def _finish(store: Shards, head: Head, protocols: Mapping[str, Source], held: Sequence[Entry]) -> None:
    """Write the index of the entries `held`, then the head of a finished store. Keep an up-to-date store unchanged."""
    index = _index(protocols, held, store)
    there = None
    with contextlib.suppress(ActrecError):
        _, there = open_store(store.folder)
    names = [field.name for field in dataclasses.fields(Index)]
    if there is None or not all(np.array_equal(getattr(there, name), getattr(index, name)) for name in names):
        _mark_incomplete(store.folder, head)
        rows = np.split(index.rows["key"], index.first[1:-1])
        digest = write_index(store.folder, index)
        streams = [key for place, key in enumerate(STORED_KEYS) if all(place in keys for keys in rows)]
        done = dataclasses.replace(head, complete=True, streams=streams, clips=len(index), index_sha256=digest)
        if done.scene_flow:
            done.scene_flow.update(_flow_rate(PreparedDataset(store.folder, loaded=(done, index))))
        write_head(store.folder, done)
    store.tidy()


def _flow_rate(clips: PreparedDataset) -> dict[str, float]:
    """Return the rate of scene flow, Hz, which has one image per frame: the median of some clips; empty if unknown."""
    chosen = np.unique(np.linspace(0, len(clips) - 1, min(len(clips), RATED_CLIPS)).astype(int))
    known = [found for index in chosen if (found := identity.rate(clips[index].stamps_ns))]
    return {"rate": float(np.median(known))} if known else {}


def _index(protocols: Mapping[str, Source], entries: Sequence[Entry], store: Shards) -> Index:
    records = [store.records[entry.name] for entry in entries]
    names, shard = np.unique([record.shard for record in records], return_inverse=True)
    splits = [(source, name.split("#")[0]) for name, source in protocols.items()]
    parts = [[PARTS.index(source.part(entry, split)) for entry in entries] for source, split in splits]
    source = splits[0][0]
    identities = map(source.identity, entries)
    metas = [{**e.meta, **({IDENTITY: own} if own else {})} for e, own in zip(entries, identities, strict=True)]
    return Index(
        names=np.array([entry.name for entry in entries]),
        labels=np.array([entry.label for entry in entries], np.int64),
        shard=shard.astype(np.int32),
        first=np.cumsum([0, *(len(record.rows) for record in records)]).astype(np.int64),
        rows=np.array([row for record in records for row in record.rows], ROW),
        shards=names,
        sizes=np.array([store.sizes[name] for name in names.tolist()], np.int64),
        splits=np.array(list(protocols)),
        parts=np.array(parts, np.uint8).reshape(len(protocols), len(entries)),
        metas_json=np.frombuffer(json.dumps(metas).encode(), np.uint8),
    )
