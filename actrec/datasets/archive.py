"""Datasets that come as one small archive or as published files, and arrays of MATLAB files."""

import hashlib
import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actrec.datasets.base import Clip, Entry, Kind, Source, find_files
from actrec.skeleton.sequence import SkeletonSequence
from actrec.utils.errors import DeviceError, InputError, MissingLibraryError


class ArchiveSource(Source):
    """A dataset in one `archive` in its root, which is read completely at the first access.

    Without the archive, the root holds the published files, each read on access.
    """

    archive: ClassVar[str]

    def __init__(self, root: str | Path):
        super().__init__(root)
        self._read: dict[str, tuple[Entry, Clip]] | None = None

    @property
    def packed(self) -> bool:
        """Return whether the root holds the archive."""
        return (self.root / self.archive).is_file()

    @abstractmethod
    def read_all(self) -> list[tuple[Entry, Clip]]:
        """Return every item of the archive with its clip; raises InputError if it is corrupt."""

    @abstractmethod
    def published(self) -> list[Entry]:
        """Return every item of the published files; raises DeviceError or InputError like `entries`."""

    @abstractmethod
    def read_published(self, entry: Entry) -> Clip:
        """Read the clip of one of the entries of `published`; raises the errors of `read`."""

    def entries(self) -> list[Entry]:
        """Return every item."""
        return [entry for entry, _ in self._all().values()] if self.packed else self.published()

    def read(self, entry: Entry) -> Clip:
        """Read the clip of an item."""
        clip = self._all()[entry.name][1] if self.packed else self.read_published(entry)
        if not np.isfinite(clip.bodies).any():
            item = f": '{entry.name}'" if self.packed else ""
            raise InputError(f"'{entry.files['skeleton']}'{item} has no body in {len(clip.stamps_ns)} frames")
        return clip

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """Return the SHA-256 of names and joints; of published files the digest of the base class."""
        if not self.packed:
            return super().fingerprint(entries)
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for entry in entries:
            digest.update(f"{entry.name} {entry.label}".encode())
            digest.update(self._all()[entry.name][1].bodies.tobytes())
        return digest.hexdigest()

    def _all(self) -> dict[str, tuple[Entry, Clip]]:
        if self._read is None:
            read: dict[str, tuple[Entry, Clip]] = {}
            for entry, clip in self.read_all():
                if entry.name in read:
                    raise InputError(f"'{self.root / self.archive}' holds {entry.name} twice")
                read[entry.name] = (entry, clip)
            self._read = read
        return self._read

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_read": None}  # another process reads its own


def archived(path: Path, sequences: Iterable[SkeletonSequence], keys: Sequence[str]) -> list[tuple[Entry, Clip]]:
    """Return item and clip of each sequence of an archive; labels count from 1, `keys` of the metadata are kept."""
    items = []
    for sequence in sequences:
        label = (sequence.label or 0) - 1
        entry = Entry(sequence.name, label, {key: sequence.meta[key] for key in keys}, {"skeleton": path})
        items.append((entry, Clip(sequence.name, label, sequence.stamps_ns, sequence.bodies, sequence.streams)))
    return items


def files_by_name(root: Path, archive: str, pattern: str) -> dict[str, Path]:
    """Find files below `root` by the first group of `pattern`, in lower case and sorted.

    The pattern is of the whole file name, in any case. Other files are ignored.

    Raises:
        DeviceError: There is no such folder, or no such file in it.
        InputError: Two files have the same name.
    """
    matching = re.compile(pattern, re.IGNORECASE)

    def kind_of(path: Path) -> Kind:
        match = matching.fullmatch(path.name)
        return (match[1].lower(), "skeleton") if match else None

    found = find_files(root, kind_of)
    if not found:
        raise DeviceError(f"'{root}' holds neither {archive} nor the files as published ({pattern})")
    return {name: files["skeleton"] for name, files in found.items()}


def read_mats(path: Path) -> dict[str, Any]:
    """Read every array of a MATLAB file (up to version 7), by name.

    Raises:
        DeviceError: There is no such file.
        InputError: It is truncated or corrupt.
        MissingLibraryError: scipy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError as error:
        raise MissingLibraryError("a .mat needs scipy, which is not installed: pip install scipy") from error
    if not path.is_file():
        raise DeviceError(f"there is no file '{path}'; check the path")
    try:
        return {key: value for key, value in loadmat(path).items() if not key.startswith("__")}
    except PermissionError as error:
        raise DeviceError(f"cannot read '{path}': {error.strerror}") from error
    except Exception as error:  # scipy raises a dozen types for a damaged file
        raise InputError(f"'{path}' is corrupt or no MATLAB file; copy it again ({error})") from error


def read_mat(path: Path, key: str) -> np.ndarray:
    """Read one array of numbers of a MATLAB file; raises like `read_mats`, and InputError if there is none."""
    arrays = read_mats(path)
    if key not in arrays:
        raise InputError(f"'{path}' holds no '{key}' but {', '.join(arrays) or 'nothing'}: it is another kind of file")
    value = np.asarray(arrays[key])
    if value.dtype.kind not in "uif":
        raise InputError(f"'{path}': '{key}' is {value.dtype}, expected numbers: it is another kind of file")
    return value
