"""Frees the room of clips that were given up, while other clips of their shards stay."""

import zlib
from collections import defaultdict
from collections.abc import Sequence

from actrec.datasets.store.codecs import CODECS, DTYPES, Encoded
from actrec.datasets.store.journal import Journal, Record
from actrec.datasets.store.layout import ALIGNMENT, STORED_KEYS
from actrec.datasets.store.reader import map_file
from actrec.datasets.store.writer import ShardWriter


def with_holes(journal: Journal) -> dict[str, list[Record]]:
    """The clips, by shard, of the shards of which a part is no clip's that is kept."""
    shards: dict[str, list[Record]] = defaultdict(list)
    for record in journal.records.values():
        shards[record.shard].append(record)
    return {name: records for name, records in sorted(shards.items()) if _holes(records, journal.ends[name])}


def compact(journal: Journal, shard_bytes: int) -> list[str]:
    """Writes what is left of shards with holes into new ones, which the journal then tells of.

    The old ones are whole until nobody is told of them: `tidy` removes them. Who reads the store as it was keeps what
    is mapped.

    Args:
        journal: What was prepared.
        shard_bytes: Size of a shard.

    Returns:
        Names of clips that are damaged, which stay where they are and must be prepared again.

    Raises:
        StoreError: The disk is full; nothing is lost.
        InputError: A shard is shorter than the journal says.
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
    """Whether bytes of a shard, up to the end of the last clip ever noted in it, are no clip's."""
    at = 0
    for start, size in sorted((row[5], row[6]) for record in records for row in record.rows):
        if start - at >= ALIGNMENT:
            return True
        at = start + size
    return at < end


def _move(journal: Journal, writer: ShardWriter, records: Sequence[Record]) -> list[str]:
    """Copies the clips of a shard that are whole; names of the others."""
    content = map_file(journal.folder / records[0].shard, max(record.end for record in records))
    moved, damaged = [], []
    for record in records:
        parts = [content[row[5] : row[5] + row[6]] for row in record.rows]
        if any(zlib.crc32(part) != row[7] for part, row in zip(parts, record.rows, strict=True)):
            damaged.append(record.name)  # a new checksum would hide it
            continue
        arrays = [
            Encoded(STORED_KEYS[row[0]], CODECS[row[1]], DTYPES[row[2]], tuple(row[4][: row[3]]), (part,))
            for part, row in zip(parts, record.rows, strict=True)
        ]
        rows = writer.add(arrays)
        moved.append(Record(record.name, record.signature, record.frames, writer.name, rows))
    writer.sync()
    journal.add(moved)
    return damaged
