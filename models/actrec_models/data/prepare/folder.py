"""Output folder of a preparation: creation, resuming, checks and pending entries."""

import contextlib
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from actrec.datasets.base import Entry
from actrec.datasets.store.compaction import compact, with_holes
from actrec.datasets.store.journal import LOCK, Journal, Record
from actrec.datasets.store.layout import INDEX, JOURNAL, SKIPPED, STORE, Head, Index, read_head, write_head
from actrec.datasets.store.reader import map_file, open_store
from actrec.datasets.store.writer import store_error
from actrec.utils.errors import ActrecError, ConfigError, InputError
from actrec_models.data.prepare.settings import PrepareConfig
from actrec_models.data.prepare.worker import signature


def keep(journal: Journal, head: Head, records: Sequence[Record]) -> None:
    """Record the clips of a worker.

    Raises:
        StoreError: The disk is full.
    """
    if records:
        _open_again(journal.folder, head)
        journal.add(records)


def forget(journal: Journal, head: Head, names: Sequence[str]) -> None:
    """Drop clips that must be prepared again.

    Raises:
        StoreError: The disk is full.
    """
    if any(name in journal.records for name in names):
        _open_again(journal.folder, head)
        journal.drop(names)


def free(journal: Journal, head: Head, shard_bytes: int) -> None:
    """Delete dropped clips from the disk.

    Raises:
        StoreError: The disk is full; no recorded clip is lost.
    """
    if with_holes(journal):
        _open_again(journal.folder, head)
        forget(journal, head, compact(journal, shard_bytes))
    tidy(journal)
    journal.shorten()


def tidy(journal: Journal) -> None:
    """Remove leftovers of dead workers: shards without records, and bytes behind the last clip of a shard.

    Bytes of replaced clips stay: another process may have them mapped, and truncation would kill it (SIGBUS).

    Raises:
        StoreError: The files cannot be removed.
    """
    used = {record.shard for record in journal.records.values()}
    try:
        for path in journal.folder.glob("shard_*.bin"):
            if path.name not in used:
                path.unlink()
            elif path.stat().st_size > journal.ends[path.name]:
                os.truncate(path, journal.ends[path.name])
    except OSError as error:
        raise store_error(journal.folder, error) from error


def _open_again(out: Path, head: Head) -> None:
    """Mark the store as incomplete before the journal changes."""
    if read_head(out).complete:
        _write_head(out, head)


def tells(out: Path, index: Index) -> bool:
    """Return whether the store is finished and has this index."""
    try:
        _, there = open_store(out)
    except ActrecError:
        return False
    return all(np.array_equal(getattr(there, field.name), getattr(index, field.name)) for field in fields(Index))


@contextlib.contextmanager
def opened(out: Path, head: Head) -> Iterator[Journal]:
    """Open the journal of a store with this head; create the store if there is none.

    Raises:
        ConfigError: The folder has other files, or was prepared with other settings.
        DeviceError: It cannot be written to, or another run writes to it.
        InputError: Its head or journal is damaged.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        others = [path.name for path in out.iterdir() if not _ours(path.name)]
    except OSError as error:
        raise store_error(out, error) from error
    if others:
        raise ConfigError(f"'{out}' holds other files ({sorted(others)[0]}): choose an empty folder with --out")
    with Journal(out) as journal:
        before = read_head(out) if (out / STORE).is_file() else None
        if before is None and journal.records:
            raise InputError(
                f"'{out}' has no {STORE}, which says how the {len(journal.records)} clips of its {JOURNAL} were "
                f"prepared: choose another --out, or delete '{out}'"
            )
        if before is None or not (journal.records or before.complete):  # nothing was prepared yet, in whatever way
            _write_head(out, head)
        else:
            _check_same(out, before, head)
            _check_whole(journal, before)
        yield journal


def _check_whole(journal: Journal, head: Head) -> None:
    """Raise if the journal misses clips of a finished store, whose shards would be deleted."""
    if head.complete and len(journal.records) < head.clips:
        raise InputError(
            f"'{journal.path}' tells of {len(journal.records)} clips, the finished store of {head.clips}: it can still "
            f"be trained from; to prepare again, choose another --out, or delete '{journal.folder}'"
        )


def _ours(name: str) -> bool:
    known = {STORE, INDEX, JOURNAL, SKIPPED, LOCK}
    return name.removesuffix(".new") in known or (name.startswith("shard_") and name.endswith(".bin"))


def _check_same(out: Path, before: Head, head: Head) -> None:
    """Raise if the store was prepared with other settings."""
    was, now = _made_by(before), _made_by(head)
    other = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    if other:
        name = other[0].partition(" ")[2]
        told = [f"{name}={values.get(other[0])}" for values in (was, now)]
        told = [word if len(word) < 80 else f"another {name}" for word in told]
        raise ConfigError(
            f"'{out}' was prepared with {told[0]}, not {told[1]}: choose another --out, or delete '{out}'"
        )


def _made_by(head: Head) -> dict[str, Any]:
    """Return everything that determines the clips; options and settings may share names."""
    settings = {f"setting {key}": value for key, value in head.settings.items()}
    options = {f"option {key}": value for key, value in head.options.items()}
    return {**settings, **options, "the dataset": head.dataset, "the classes": head.classes}


def _write_head(out: Path, head: Head) -> None:
    try:
        write_head(out, head)
    except OSError as error:
        raise store_error(out, error) from error


# -- pending work ------------------------------------------------------------------------------------------------------


def gone(journal: Journal) -> list[str]:
    """Return the names of clips with missing bytes."""
    names = {record.shard for record in journal.records.values()}
    sizes = {name: _size(journal.folder / name) for name in names}
    return [record.name for record in journal.records.values() if record.end > sizes[record.shard]]


def todo(journal: Journal, entries: Sequence[Entry], settings: PrepareConfig) -> list[Entry]:
    """Return the entries that are new or have changed."""
    made = {name: record.signature for name, record in journal.records.items()}
    return [entry for entry in entries if made.get(entry.name) != signature(entry, settings)]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def damaged(journal: Journal, progress: bool) -> list[str]:
    """Return the names of clips with a wrong checksum or missing bytes."""
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
