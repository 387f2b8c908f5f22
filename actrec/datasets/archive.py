"""Datasets that come as one small archive or as published files, tables of text files, arrays of MATLAB files."""

import re
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actrec.datasets.base import Clip, Entry, Kind, Source, find_files, missing_folder_error
from actrec.datasets.fingerprints import fingerprint_of
from actrec.recordings import matlab_files
from actrec.skeleton.sequence import SkeletonSequence, read_text
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec.utils.folders import read_file

_MAX_MAT_BYTES = 1 << 28  # of a file of one clip, compressed or not


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
        """Return the SHA-256 of names, joints and options; of published files the digest of the base class."""
        if not self.packed:
            return super().fingerprint(entries)
        parts = ((f"{e.name} {e.label}", self._all()[e.name][1].bodies.tobytes()) for e in entries)
        return self.with_options(fingerprint_of(self.classes, chain.from_iterable(parts)))

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


@dataclass(frozen=True)
class PeopleConfig:
    """Options of a dataset of several people."""

    fold: int = setting(1, "split leave_one_out: number of the person who tests, from 1", range=(1, 99))


class PeopleSource(ArchiveSource):
    """A dataset of several people with one published file a clip.

    In split "leave_one_out", with a fold a person, the one of option `fold` tests; in others every second one.

    Attributes:
        title: Name of the dataset, for messages.
        people: Values of the metadata `person`, sorted.
        keys: Metadata of each item; "action" counts from 1.
        pattern: Pattern of the names of published files, the first group is the item's name; empty if there is only the
            archive.
        read_archive: Static function of the archive's path: all sequences, with `keys` in their metadata.
        read_file: Static function of a published file's path: its sequence.
        config_class: Options of the dataset.
    """

    title: ClassVar[str]
    people: ClassVar[tuple[int | str, ...]]
    person: ClassVar[str] = "subject"
    keys: ClassVar[tuple[str, ...]] = ("action", "subject", "trial")
    archive: ClassVar[str] = ""
    pattern: ClassVar[str] = ""
    read_archive: ClassVar[Any]
    read_file: ClassVar[Any]
    splits: ClassVar = ("subject",)
    config_class: ClassVar[type] = PeopleConfig

    def __init__(self, root: str | Path, **options: Any):
        super().__init__(root)
        self.config: Any = config.build(self.config_class, options)
        if getattr(self.config, "fold", 1) > max(self.folds, 1):
            raise ConfigError(f"{self.title} has {self.folds or 'no'} folds; got fold {self.config.fold}")

    def parse(self, path: Path) -> dict[str, Any]:
        """Parse the metadata `keys` from the name of a published file."""
        return parse_take(path)

    def read_all(self) -> list[tuple[Entry, Clip]]:
        """Return every item of the archive with its clip."""
        path = self.root / self.archive
        return archived(path, self.read_archive(path), self.keys)

    def published(self) -> list[Entry]:
        """Return every item of the published files."""
        if not self.pattern:
            raise (
                missing_folder_error(self.root)
                if not self.root.is_dir()
                else DeviceError(f"'{self.root}' holds no {self.archive}; check the path")
            )
        entries = []
        for name, path in files_by_name(self.root, self.archive, self.pattern).items():
            meta = self.parse(path)
            if not 1 <= meta["action"] <= len(self.classes) or meta[self.person] not in self.people:
                raise InputError(
                    f"'{path}' is of an action or a subject that {self.title} does not have; move it elsewhere"
                )
            entries.append(Entry(name, meta["action"] - 1, meta, {"skeleton": path}))
        return sorted(entries, key=lambda entry: [entry.meta[key] for key in self.keys])

    def read_published(self, entry: Entry) -> Clip:
        """Read the clip of a published item."""
        sequence = self.read_file(entry.files["skeleton"])
        return Clip(entry.name, entry.label, sequence.stamps_ns, sequence.bodies, sequence.streams)

    def part(self, entry: Entry, split: str) -> str:
        """Return the part of an item in a split."""
        self.check(split)
        number = self.people.index(entry.meta[self.person])
        tests = number == self.config.fold - 1 if split == "leave_one_out" else number % 2 == 1
        return "test" if tests else "train"


def parse_take(path: Path) -> dict[str, int]:
    """Parse action, subject and trial from a file name that begins with "aAA_sSS_eEE"; empty for another name."""
    match = re.match(r"a(\d+)_s(\d+)_e(\d+)", path.name, re.IGNORECASE)
    return dict(zip(("action", "subject", "trial"), map(int, match.groups()), strict=True)) if match else {}


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
        other = f"neither {archive} nor the" if archive else "no"
        raise DeviceError(f"'{root}' holds {other} files as published ({pattern})")
    return {name: files["skeleton"] for name, files in found.items()}


def read_table(path: Path, columns: int, separator: str | None = None) -> np.ndarray:
    """Read a text file of numbers [rows, columns] float64; empty lines and separators at a line's end are ignored.

    Raises:
        DeviceError: There is no such file.
        InputError: It is empty, a row has another number of columns, or a value is not a number.
    """
    return parse_table(path, read_text(path).split("\n"), columns, separator)


def parse_table(path: Path, lines: Sequence[str], columns: int, separator: str | None = None) -> np.ndarray:
    """Parse the numbered lines of a file like `read_table`."""
    rows = [line.rstrip().rstrip(separator or "").split(separator) for line in lines if line.strip()]
    if not rows:
        raise InputError(f"'{path}' is empty; copy it again")
    invalid = next((i for i, row in enumerate(rows) if len(row) != columns), None)
    if invalid is not None:
        raise InputError(f"'{path}' line {invalid + 1} has {len(rows[invalid])} columns, expected {columns}")
    try:
        return np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise InputError(f"'{path}' is corrupt: {error}") from error


def by_joints(path: Path, rows: np.ndarray, joints: int) -> np.ndarray:
    """Return a table of one row a joint as [frames, joints, columns]; raise InputError if the last frame is cut off."""
    if len(rows) % joints:
        raise InputError(f"'{path}' has {len(rows)} lines, expected {joints} a frame: it is truncated; copy it again")
    return rows.reshape(-1, joints, rows.shape[1])


def facing_sensor(xyz: np.ndarray, left: int, right: int) -> np.ndarray:
    """Return joints [T, V, 3] with x to the sensor's left, for files that do not state the direction of x.

    The people face the sensor, so their left shoulder (index `left`) is at smaller x than the right one.
    """
    across = xyz[:, left, 0] - xyz[:, right, 0]
    known = across[np.isfinite(across)]
    return xyz * np.array([-1.0 if len(known) and np.median(known) > 0 else 1.0, 1.0, 1.0])


def read_mats(path: Path) -> dict[str, Any]:
    """Read every array of a MATLAB file (up to version 7), by name.

    Raises:
        DeviceError: There is no such file.
        InputError: It is truncated or corrupt.
    """
    if not path.is_file():
        raise DeviceError(f"there is no file '{path}'; check the path")
    try:
        content = read_file(path, _MAX_MAT_BYTES)
    except OSError as error:
        raise DeviceError(f"cannot read '{path}': {error.strerror}") from error
    try:
        return matlab_files.parse(content, _MAX_MAT_BYTES)
    except (ValueError, zlib.error) as error:
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
