"""What every dataset offers before it is read: its items, their labels and who did them, its official splits."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from actrec.errors import ConfigError, DeviceError, InputError
from actrec.frames import RgbdFrame
from actrec_models.data.clips import Clip

_END = 1 << 16
"""Bytes at either end of a file that a fingerprint reads: 1.8 s for 10,000 of NTU's skeletons; whole ones 3.1 s."""


@dataclass(frozen=True)
class Entry:
    """One item of a dataset that has not been read yet.

    Attributes:
        name: Unique in the dataset.
        label: Index into the source's `classes`.
        meta: What splits and fusions go by: subject, view, setup, …
        files: What it is read from: "skeleton", "colour", "depth", …; those that do not exist are left out.
    """

    name: str
    label: int
    meta: Mapping[str, int | str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)


class Source(ABC):
    """A dataset as published. Can be pickled, so that several processes may read it.

    Args:
        root: Folder of the dataset's files.

    Attributes:
        classes: Class names by label.
        layout: Of the bodies' joints.
        splits: Official protocols, the one that `create` takes by default first.
        measure: What the official protocol reports: "accuracy" (top-1) or "mean_class_accuracy".
        folds: Into how many folds each split is divided, chosen by the option `fold` (from 1); 0 for none.
        merges: A coarser dataset of the same items, by its registered name, to the class there of each class here.
        has_files: Whether it is read from files, so that there must be a folder of them.
        caveat: What a figure on it does not say; stands on every card and report of it.
        licence: Of what is learnt from it.
        root: Folder of the dataset's files.
    """

    classes: tuple[str, ...]
    layout: str = "kinect_v2_25"
    splits: ClassVar[tuple[str, ...]]
    measure: ClassVar[str] = "accuracy"
    caveat: ClassVar[str] = ""
    licence: ClassVar[str] = "research use: the dataset carries no clear licence to redistribute or to use commercially"
    folds: ClassVar[int] = 0
    has_files: ClassVar[bool] = True
    merges: ClassVar[Mapping[str, tuple[int, ...]]] = {}

    def __init__(self, root: str | Path):
        self.root = Path(root)

    @abstractmethod
    def entries(self) -> list[Entry]:
        """Every item, in an order that depends on the dataset alone.

        Raises:
            DeviceError: The dataset is not there.
            InputError: A list is corrupt, or names an item twice.
        """

    def others(self) -> list[Entry]:
        """Items that show none of the classes, with label −1: a person's own recordings labelled `unknown`."""
        return []

    @abstractmethod
    def read(self, entry: Entry) -> Clip:
        """The clip of an item; pictures are decoded when they are looked at (`actrec_models.data.lazy`).

        Raises:
            DeviceError: A file is not there.
            InputError: A file is truncated, corrupt or empty, or shows nobody; names it.
        """

    @abstractmethod
    def part(self, entry: Entry, split: str) -> str:
        """The part of `split` that an item belongs to: "train", "test", or "" for neither."""

    def divides(self, split: str) -> bool:
        """Whether a split is made with the options that the dataset has; one that is not is left out of a store."""
        return True

    def frames(self, entry: Entry) -> Iterator[RgbdFrame]:
        """What the camera saw, one frame after another: what `actrec prepare` makes hands, faces and flow from.

        Stamps count from the same zero as those of the clip that `read` gives, and there is a frame for each of them
        unless the recording lost it. Depth, registered to colour, is None where the dataset has none.

        Raises:
            DeviceError: A file is not there.
            InputError: A file is corrupt, or the dataset has no pictures.
        """
        kind = type(self).__module__.rsplit(".", 1)[-1]
        remedy = "leave out --estimate, and colour of --streams"
        raise InputError(f"'{entry.name}': {kind} has no camera frames here: {remedy}")

    def no_pictures(self, entry: Entry, missing: str) -> InputError:
        """That an item lacks what others of its dataset may have."""
        return InputError(
            f"'{entry.name}' has no camera frames here: there is no {missing} in '{self.root}'; where no clip has "
            "them, leave out --estimate, and colour of --streams"
        )

    def camera_offset(self, entry: Entry) -> np.ndarray:
        """[3] metres from a point as `read` gives it to the same as the camera of `frames` sees it: most often zero."""
        return np.zeros(3, np.float32)

    def identity(self, entry: Entry) -> str:
        """What tells an item's recording from others, wherever it lies; empty where its name does."""
        return ""

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """SHA-256 over what tells these items from others: names and labels, and of each file its size and its ends.

        The ends are the first and last 64 KiB, so that files up to 128 KiB are read whole. Of a longer one (a video,
        most of NTU's skeletons) another middle is not noticed where the size is the same. Where a folder stands for a
        file (SYSU's pictures, NTU's depth maps), the names in it are taken.

        Raises:
            DeviceError: A file cannot be read.
        """
        digest = hashlib.sha256("\n".join(self.classes).encode("utf-8", "surrogateescape"))
        for entry in entries:
            digest.update(f"{entry.name} {entry.label}".encode("utf-8", "surrogateescape"))
            for key, file in sorted(entry.files.items()):
                digest.update(f" {key} ".encode())
                for part in content(file):
                    digest.update(part)
        return digest.hexdigest()

    def check(self, split: str) -> None:
        """Refuses a split that the dataset does not have.

        Raises:
            ConfigError: Lists those that it has.
        """
        if split not in self.splits:
            name = type(self).__module__.rsplit(".", 1)[-1]
            raise ConfigError(f"{name} has split {', '.join(self.splits)}; got '{split}'")


def content(path: Path) -> Iterator[bytes]:
    """What a fingerprint takes of a file: its size and its ends; of a folder, the names in it.

    Raises:
        DeviceError: It cannot be read.
    """
    try:
        if path.is_dir():
            yield "\n".join(sorted(os.listdir(path))).encode("utf-8", "surrogateescape")
            return
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            yield str(size).encode()
            for place in (0, max(size - _END, 0)):
                file.seek(place)
                yield file.read(_END)
    except OSError as error:
        raise DeviceError(f"cannot read '{path}': {error.strerror or error}") from error


def no_folder(root: Path) -> DeviceError:
    """The error of a dataset that is not there; most often nobody has said where datasets are."""
    return DeviceError(
        f"there is no folder '{root}'; check the path (commands: --data or ACTREC_DATA for the folder of datasets, "
        "--root for the dataset's own)"
    )


def walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`, links followed, but each folder once: links may lead to where they lie, or several to one place.

    Raises:
        DeviceError: A folder cannot be looked into, so that nobody knows what is missing; hidden ones and a disk's own
            `lost+found` are passed by.
    """
    known: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_refuse):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in known:
            folders.clear()
            continue
        known.add((status.st_dev, status.st_ino))
        yield folder, folders, names


def _refuse(error: OSError) -> None:
    name = Path(error.filename).name
    if not name.startswith(".") and name != "lost+found":
        raise closed(error) from error


def closed(error: OSError) -> DeviceError:
    """The error of a folder that cannot be looked into."""
    return DeviceError(f"cannot look into '{error.filename}': {error.strerror}; make it readable, or move it away")
