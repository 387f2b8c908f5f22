"""Digests that identify the data of a training."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from actrec.utils.errors import DeviceError


def fingerprint_of(classes: Sequence[str], parts: Iterable[str | bytes | memoryview]) -> str:
    """Return the SHA-256 of class names and of parts; texts may have names of files that are not UTF-8."""
    digest = hashlib.sha256()
    for part in chain(["\n".join(classes)], parts):
        digest.update(part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part)
    return digest.hexdigest()


def content(path: Path) -> Iterator[bytes]:
    """Yield the size and both ends of a file, or the names in a folder, for a fingerprint; raises DeviceError."""
    try:
        if path.is_dir():
            yield "\n".join(sorted(os.listdir(path))).encode("utf-8", "surrogateescape")
            return
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            yield str(size).encode()
            for offset in (0, max(size - 65536, 0)):
                file.seek(offset)
                yield file.read(65536)
    except OSError as error:
        raise DeviceError(f"cannot read '{path}': {error.strerror or error}") from error
