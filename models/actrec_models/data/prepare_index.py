"""Ends a preparation: the index of what is in the shards, and nothing else left in the folder."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from actrec_models.data.prepare_folder import tells, tidy
from actrec_models.data.source import Entry, Source
from actrec_models.data.store_format import (
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
from actrec_models.data.store_journal import Journal, Record
from actrec_models.data.store_writer import store_error


def finish(journal: Journal, head: Head, protocols: Mapping[str, Source], held: Sequence[Entry]) -> None:
    """Writes the index of the entries `held`, which are in the journal, then the head of a finished store.

    A store that is finished and has this very index is left as it is.

    Args:
        journal: What was prepared.
        head: Of the store.
        protocols: "split" or "split#fold" to the dataset that says the parts of it.
        held: In the index's order.

    Raises:
        StoreError: The disk is full; what was prepared is kept.
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
    """The index of clips."""
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
    """An entry's, and what tells its recording from others."""
    identity = source.identity(entry) if source else ""
    return {**entry.meta, **({IDENTITY: identity} if identity else {})}


def write_skipped(folder: Path, skipped: Sequence[tuple[str, str]]) -> None:
    """The list of what could not be read, an empty one too.

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
