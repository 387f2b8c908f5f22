"""Files of a prepared store.

`store.json`       dataset, options, settings, and whether the store is complete
`index.npz`        position, label, name and checksums of each clip
`shard_….bin`      the arrays; a few large files, memory-mapped
`journal.jsonl`    the prepared clips, from which a preparation resumes
`skipped.json`     unreadable items with the reason
"""

import dataclasses
import hashlib
import io
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from actrec.types import KEYS
from actrec.utils.errors import DeviceError, InputError

SCHEMA = 2
"""Schema 1 had the stream "colour" and settings `picture_…`."""  # language: ok

STORE, INDEX, JOURNAL, SKIPPED = "store.json", "index.npz", "journal.jsonl", "skipped.json"

STORED_KEYS = ("stamps_ns", *KEYS)

PARTS = ("", "train", "test")

IDENTITY = "identity"
"""Key of the recording's identity (`Source.identity`) in a clip's metadata."""

ALIGNMENT = 64

ROW = np.dtype(
    [
        ("key", "u1"),
        ("codec", "u1"),
        ("dtype", "u1"),
        ("dimensions", "u1"),
        ("shape", "<i4", (5,)),
        ("offset", "<i8"),
        ("size", "<i8"),
        ("crc", "<u4"),
    ]
)
"""An array of a clip: indices into `STORED_KEYS`, `CODECS` and `DTYPES`; `size` bytes at `offset` of the shard."""


@dataclass(frozen=True)
class Head:
    """Content of `store.json`.

    Attributes:
        dataset: A name of `actrec.datasets.DATASETS`.
        options: Options of the dataset.
        settings: Settings of the preparation.
        classes: Class names by label.
        layout: Layout of the joints.
        complete: Whether the preparation is finished.
        streams: Keys of `KEYS` that every clip has.
        clips: Number of clips.
        index_sha256: SHA-256 of `index.npz`.
        version: Version of actrec.
        schema: Version of the format.
    """

    dataset: str
    options: dict[str, Any]
    settings: dict[str, Any]
    classes: list[str]
    layout: str
    complete: bool = False
    streams: list[str] = dataclasses.field(default_factory=list)
    clips: int = 0
    index_sha256: str = ""
    version: str = ""
    schema: int = SCHEMA


@dataclass(frozen=True)
class Index:
    """Content of `index.npz`.

    Attributes:
        names: [N] clip names.
        labels: [N] int64.
        lengths: [N] frames of each clip.
        shard: [N] index into `shards`.
        first: [N + 1]: the arrays of clip n are rows[first[n]:first[n + 1]].
        rows: [R] of `ROW`.
        shards: File names.
        sizes: Used bytes of each shard.
        splits: [S] protocols of the dataset; a fold is "split#fold".
        parts: [S, N] indices into `PARTS`.
        metas_json: Metadata of the clips, a JSON list.
    """

    names: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray
    shard: np.ndarray
    first: np.ndarray
    rows: np.ndarray
    shards: np.ndarray
    sizes: np.ndarray
    splits: np.ndarray
    parts: np.ndarray
    metas_json: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def metas(self) -> list[dict[str, int | str]]:
        """Return the metadata of each clip."""
        read: list[dict[str, int | str]] = json.loads(self.metas_json.tobytes() or b"[]")
        return read

    def fingerprint(self, classes: list[str], chosen: np.ndarray) -> str:
        """Return the SHA-256 of classes, and of names, labels, shapes and checksums of the chosen clips."""
        digest = hashlib.sha256("\n".join(classes).encode("utf-8", "surrogateescape"))
        digest.update("\n".join(self.names[chosen].tolist()).encode("utf-8", "surrogateescape"))
        digest.update(self.labels[chosen].tobytes())
        for field in ("key", "shape", "crc"):
            column = np.ascontiguousarray(self.rows[field])
            for clip in chosen:
                digest.update(column[self.first[clip] : self.first[clip + 1]].data)
        return digest.hexdigest()


def read_head(folder: Path) -> Head:
    """Read `store.json`.

    Raises:
        DeviceError: There is no store.
        InputError: It is damaged or has another schema.
    """
    path = folder / STORE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeviceError(
            f"there is no prepared dataset in '{folder}' ({error.strerror}): run actrec prepare"
        ) from error
    except ValueError as error:
        raise InputError(f"'{path}' is damaged: delete '{folder}' and prepare the dataset again") from error
    known = {field.name for field in dataclasses.fields(Head)}
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise InputError(
            f"'{path}' has schema {schema}, this actrec reads {SCHEMA}: prepare the dataset again into another folder"
        )
    if not known >= set(content) or not {"dataset", "options", "settings", "classes", "layout"} <= set(content):
        raise InputError(f"'{path}' is damaged or foreign: delete '{folder}' and prepare the dataset again")
    return Head(**content)


def write_head(folder: Path, head: Head) -> None:
    """Replace `store.json` atomically."""
    write_whole(folder / STORE, json.dumps(dataclasses.asdict(head), indent=1).encode())


def read_index(folder: Path, head: Head) -> Index:
    """Read `index.npz` and check it against `store.json`.

    Raises:
        InputError: It is missing or damaged.
    """
    path = folder / INDEX
    remedy = "run the same actrec prepare again to rewrite it"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror}): {remedy}") from error
    if hashlib.sha256(content).hexdigest() != head.index_sha256:
        raise InputError(f"'{path}' is damaged or of another preparation: {remedy}")
    with np.load(path, allow_pickle=False) as arrays:
        return Index(**{field.name: arrays[field.name] for field in dataclasses.fields(Index)})


def write_index(folder: Path, index: Index) -> str:
    """Replace `index.npz` atomically; return its SHA-256."""
    memory = io.BytesIO()
    np.savez(memory, **{field.name: getattr(index, field.name) for field in dataclasses.fields(Index)})
    content = memory.getvalue()
    write_whole(folder / INDEX, content)
    return hashlib.sha256(content).hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: after a kill it has the old or the new content."""
    scratch = path.with_name(path.name + ".new")
    try:
        with open(scratch, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
