"""Prepares a dataset once: reads every item, estimates what is asked for, and writes a store that is read fast."""

import contextlib
import dataclasses
import json
import pickle
import time
import uuid
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from actrec import __version__
from actrec.errors import ActrecError, ConfigError, InputError
from actrec_models import data
from actrec_models.data.prepare_cluster import Batch, run_here, run_on_cluster
from actrec_models.data.prepare_index import finish, tidy, write_skipped
from actrec_models.data.prepare_settings import PrepareConfig
from actrec_models.data.prepare_tasks import Job, Outcome, signature
from actrec_models.data.source import Entry, Source
from actrec_models.data.store import PreparedDataset, map_file
from actrec_models.data.store_format import INDEX, JOURNAL, SKIPPED, STORE, Head, read_head, write_head
from actrec_models.data.store_journal import LOCK, Journal, Record
from actrec_models.data.store_writer import SHARD_BYTES, store_error

BATCH = 32
"""Items of a task where an item takes milliseconds; where it takes seconds, a task is one item."""


@dataclass(frozen=True)
class Summary:
    """What a preparation came to.

    Attributes:
        folder: The store's.
        dataset: Name.
        clips: In the store.
        prepared: By this run.
        skipped: Name and reason of what could not be read.
        shards: Files of clips.
        bytes: Of all of them.
        seconds: That this run took.
        fingerprint: Of the store's content.
    """

    folder: str
    dataset: str
    clips: int
    prepared: int
    skipped: list[dict[str, str]]
    shards: int
    bytes: int
    seconds: float
    fingerprint: str


@dataclass(frozen=True)
class Run:
    """How a preparation runs; none of it changes what is prepared.

    Attributes:
        workers: Processes of this machine; 0 for this one alone.
        scheduler: Address of a dask.distributed cluster's scheduler instead; empty for none.
        repair: Check every clip that is there, and prepare anew what is damaged.
        progress: Show a progress bar.
        shard_bytes: Size of a shard.
    """

    workers: int = 0
    scheduler: str = ""
    repair: bool = False
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
    """Prepares a dataset into a folder, or goes on where an earlier run was stopped.

    Args:
        dataset: A name of `actrec_models.data.DATASETS`.
        root: Folder of its files.
        out: Folder of the store.
        options: Of the dataset.
        settings: What is kept and estimated.
        run: On what it runs.

    Raises:
        ConfigError: Unknown dataset, option or setting, or `out` holds something else.
        DeviceError: The dataset is not there, the disk is full, or the cluster fails; nothing prepared is lost.
        InputError: A list of the dataset is corrupt, or none of its items can be read.
    """
    settings, run = settings or PrepareConfig(), run or Run()
    settings.check()
    if "fold" in (options or {}):
        raise ConfigError(f"all folds of {dataset} are prepared at once, one is chosen in training: leave fold out")
    # Absolute: a worker may have been started in another folder.
    source, out = data.source(dataset, Path(root).absolute(), **(options or {})), Path(out).absolute()
    pickled = pickle.dumps(source)  # before it has read anything
    protocols = _protocols(dataset, source, options or {})
    head = Head(
        dataset, _recorded(source, options or {}), dataclasses.asdict(settings), list(source.classes), source.layout,
        version=__version__,
    )  # fmt: skip
    began = time.monotonic()
    entries = source.entries()
    _check_names(dataset, entries)
    with _opened(out, head) as journal:
        tidy(out, journal.records.values())
        if run.repair:
            _forget(journal, head, _damaged(journal, run.progress))
        todo = _todo(journal, entries)
        _forget(journal, head, [entry.name for entry in todo])
        job = Job(uuid.uuid4().hex, out, pickled, settings, run.shard_bytes)
        skipped = _run(job, run, journal, head, source, todo, len(entries) - len(todo)) if todo else []
        held = [entry for entry in entries if entry.name in journal.records]
        if not held:
            reason = skipped[0][1] if skipped else "it has no items"
            raise InputError(f"none of the {len(entries)} items of {dataset} in '{root}' can be prepared: {reason}")
        write_skipped(out, skipped)
        if not _tells(out, held):
            finish(journal, head, protocols, held)
        return _summary(out, skipped, len(todo) - len(skipped), time.monotonic() - began)


def _run(
    job: Job, run: Run, journal: Journal, head: Head, source: Source, todo: list[Entry], done: int
) -> list[tuple[str, str]]:
    """Prepares the entries; gives what could not be read, in the entries' order."""
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
                _keep(journal, head, outcome)
            except ActrecError as failed:
                outcome.error = failed
            if outcome.error is not None:
                error = error or outcome.error
                pending.clear()  # what is under way is still taken in
            bar.update(len(outcome.records) + len(outcome.skipped))
            bar.set_postfix_str(f"{len(reasons)} skipped" if reasons else "")
    skipped = [(entry.name, reasons[entry.name]) for entry in todo if entry.name in reasons]
    if error is not None:
        raise error
    return skipped


def _keep(journal: Journal, head: Head, outcome: Outcome) -> None:
    if outcome.records:
        _open_again(journal.folder, head)
        journal.add(outcome.records)


def _forget(journal: Journal, head: Head, names: Sequence[str]) -> None:
    if any(name in journal.records for name in names):
        _open_again(journal.folder, head)
        journal.drop(names)


def _open_again(out: Path, head: Head) -> None:
    """Before the journal changes: from here on the index no longer tells of everything."""
    if read_head(out).complete:
        _write_head(out, head)


def _tells(out: Path, held: Sequence[Entry]) -> bool:
    """Whether the store is finished and tells of these very entries."""
    try:
        return PreparedDataset(out).names == tuple(entry.name for entry in held)
    except ActrecError:
        return False


# -- the folder --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(out: Path, head: Head) -> Iterator[Journal]:
    """The journal of a store of this very kind, begun where there is none."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        others = [path.name for path in out.iterdir() if not _ours(path.name)]
    except OSError as error:
        raise store_error(out, error) from error
    if others:
        raise ConfigError(f"'{out}' holds other files ({sorted(others)[0]}): choose an empty folder with --out")
    with Journal(out) as journal:
        if (out / STORE).is_file():
            _check_same(out, read_head(out), head)
        else:
            _write_head(out, head)
        yield journal


def _ours(name: str) -> bool:
    known = {STORE, INDEX, JOURNAL, SKIPPED, LOCK}
    return name.removesuffix(".new") in known or (name.startswith("shard_") and name.endswith(".bin"))


def _check_same(out: Path, before: Head, head: Head) -> None:
    """Refuses to mix what was prepared in another way."""
    was, now = ({**h.settings, **h.options, "dataset": h.dataset, "classes": h.classes} for h in (before, head))
    other = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    if other:
        told = [f"{key}={values.get(key)}" for values in (was, now) for key in other[:1]]
        told = [word if len(word) < 80 else f"another {other[0]}" for word in told]
        raise ConfigError(
            f"'{out}' was prepared with {told[0]}, not {told[1]}: choose another --out, or delete '{out}'"
        )


def _write_head(out: Path, head: Head) -> None:
    try:
        write_head(out, head)
    except OSError as error:
        raise store_error(out, error) from error


def _recorded(source: Source, options: dict[str, Any]) -> dict[str, Any]:
    """All options of a dataset, those too that it took by default or from a file; but not the fold."""
    settings: Any = getattr(source, "config", None)
    told = {**(dataclasses.asdict(settings) if dataclasses.is_dataclass(settings) else {}), **options}
    told.pop("fold", None)
    plain: dict[str, Any] = json.loads(json.dumps(told))
    return plain


def _protocols(dataset: str, source: Source, options: dict[str, Any]) -> dict[str, Source]:
    """Every split and every fold of one, with the source that knows its parts."""
    if "fold" in options:
        raise ConfigError(
            f"a fold of {dataset} is chosen when it is trained on, all are prepared: leave the option out"
        )
    found = dict.fromkeys(source.splits, source)
    for fold in range(1, source.folds + 1):
        divided = data.source(dataset, source.root, **options, fold=fold)
        found |= {f"{split}#{fold}": divided for split in source.splits}
    return found


def _check_names(dataset: str, entries: Sequence[Entry]) -> None:
    twice = [name for name, count in Counter(entry.name for entry in entries).items() if count > 1]
    if twice:
        raise InputError(f"{dataset} names '{twice[0]}' twice: remove one of them")


# -- what is to be done ------------------------------------------------------------------------------------------------


def _todo(journal: Journal, entries: Sequence[Entry]) -> list[Entry]:
    """The entries that are not in the store, have changed, or whose bytes are gone."""
    names = {record.shard for record in journal.records.values()}
    sizes = {name: _size(journal.folder / name) for name in names}

    def holds(record: Record | None, entry: Entry) -> bool:
        return record is not None and record.signature == signature(entry) and record.end <= sizes[record.shard]

    return [entry for entry in entries if not holds(journal.records.get(entry.name), entry)]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _damaged(journal: Journal, progress: bool) -> list[str]:
    """Names of the clips of which a checksum is wrong, or of which bytes are gone."""
    opened: dict[str, memoryview] = {}

    def whole(record: Record) -> bool:
        try:
            if record.shard not in opened:
                opened.clear()  # one shard at a time: there may be more of them than files may be open
                opened[record.shard] = map_file(journal.folder / record.shard, record.end)
            content = opened[record.shard]
            return all(zlib.crc32(content[row[5] : row[5] + row[6]]) == row[7] for row in record.rows)
        except InputError:
            return False

    records = sorted(journal.records.values(), key=lambda record: (record.shard, record.end))
    return [r.name for r in tqdm(records, desc="checking", unit="clip", disable=not progress) if not whole(r)]


def _summary(out: Path, skipped: list[tuple[str, str]], prepared: int, seconds: float) -> Summary:
    store = PreparedDataset(out)
    return Summary(
        str(out),
        store.head.dataset,
        len(store),
        prepared,
        [{"name": name, "reason": reason} for name, reason in skipped],
        *store.size,
        round(seconds, 2),
        store.fingerprint(),
    )
