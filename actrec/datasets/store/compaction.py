"""Compaction of a store: free the space of dropped clips in shards that hold other clips."""

import zlib
from collections import defaultdict
from collections.abc import Sequence

from actrec.datasets.store.codecs import CODECS, DTYPES, EncodedArray
from actrec.datasets.store.journal import Journal, Record
from actrec.datasets.store.layout import ALIGNMENT, STORED_KEYS
from actrec.datasets.store.reader import map_file
from actrec.datasets.store.writer import ShardWriter


def with_holes(journal: Journal) -> dict[str, list[Record]]:
    """Return the clips, by shard, of the shards that have unused bytes."""
    shards: dict[str, list[Record]] = defaultdict(list)
    for record in journal.records.values():
        shards[record.shard].append(record)
    return {name: records for name, records in sorted(shards.items()) if _holes(records, journal.ends[name])}


def compact(journal: Journal, shard_bytes: int) -> list[str]:
    """Copy the clips of shards with holes into new shards and record them in the journal.

    The old shards stay complete until `tidy` removes them, so that open readers keep their mapped files.

    Args:
        journal: Journal of the store.
        shard_bytes: Size of a shard.

    Returns:
        Names of damaged clips, which are not moved and must be prepared again.

    Raises:
        StoreError: The disk is full; nothing is lost.
        InputError: A shard is truncated.
    """
    damaged: list[str] = []
    writer = ShardWriter(journal.folder, shard_bytes)
    try:
        for records in with_holes(journal).values():
            damaged += _move(journal, writer, sorted(records, key=lambda record: record.end))
    finally:
        writer.close()
    return damaged


def _holes(records: Sequence[Record], end: int) -> bool:
    """Return whether a shard has unused bytes before the end of the last clip ever recorded in it."""
    at = 0
    for start, size in sorted((row[5], row[6]) for record in records for row in record.rows):
        if start - at >= ALIGNMENT:
            return True
        at = start + size
    return at < end


def _move(journal: Journal, writer: ShardWriter, records: Sequence[Record]) -> list[str]:
    """Copy the intact clips of a shard; return the names of the others."""
    content = map_file(journal.folder / records[0].shard, max(record.end for record in records))
    moved, damaged = [], []
    for record in records:
        parts = [content[row[5] : row[5] + row[6]] for row in record.rows]
        if any(zlib.crc32(part) != row[7] for part, row in zip(parts, record.rows, strict=True)):
            damaged.append(record.name)  # a new checksum would hide it
            continue
        arrays = [
            EncodedArray(STORED_KEYS[row[0]], CODECS[row[1]], DTYPES[row[2]], tuple(row[4][: row[3]]), (part,))
            for part, row in zip(parts, record.rows, strict=True)
        ]
        rows = writer.add(arrays)
        moved.append(Record(record.name, record.signature, record.frames, writer.name, rows))
    writer.sync()
    journal.add(moved)
    return damaged
