"""SHREC'17 track (De Smedt et al., 3DOR 2017): hand gestures before an Intel RealSense, 22 joints, 30 frames a second.

14 hand gestures by 28 subjects, with one finger or the whole hand. The world axes of the files are x to the image's
right, y up and z away from the camera, of a mirrored image with the origin in its corner. In a right-handed frame these
coordinates show right hands (fingers curl to the palm's side in 12 frames of 13), which all subjects used. Half a turn
about z gives the optical frame: fingers up is −y, and a swipe to the user's right goes to −x, the left of the image.

The papers' tables list V before +. The files have + before V: gesture 12 is a cross, gesture 13 is a V.
"""

import logging
from pathlib import Path
from typing import ClassVar

import numpy as np

from actrec.datasets.archive import ArchiveSource, read_table
from actrec.datasets.base import Clip, Entry
from actrec.skeleton.sequence import check_distance, load_npz, split_frames, stamps_at
from actrec.utils.errors import DeviceError, InputError

FPS = 30.0
CLASSES = (
    "grab", "tap", "expand", "pinch", "rotation clockwise", "rotation counterclockwise", "swipe right", "swipe left",
    "swipe up", "swipe down", "swipe x", "swipe +", "swipe v", "shake",
)  # fmt: skip

FINGERS = {1: "one finger", 2: "whole hand"}
COLUMNS = ("gesture", "finger", "subject", "essai", "label14", "label28", "frames")
FILE_NAME = "skeletons_world.txt"
_JOINTS = 22


def _hand(name: str, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return stamps [T] ns, and joints [1, T, 22, 3] float32 m in the optical frame of the module's description."""
    check_distance(name, xyz)
    hands = (xyz * np.array([-1, -1, 1], np.float32))[None].astype(np.float32)
    missing = ~np.isfinite(hands).all(-1) | (hands == 0).all(-1)
    hands[missing] = np.nan
    return stamps_at(FPS, len(xyz)), hands


def read_list(path: str | Path) -> list[tuple[int, ...]]:
    """Read the rows of an official list, columns as `COLUMNS`; raises InputError if it is corrupt."""
    path = Path(path)
    values = read_table(path, len(COLUMNS))
    if not (np.abs(values) < 2**31).all():
        raise InputError(f"'{path}' is corrupt: a number is too large or NaN; copy it again")
    if (values % 1).any():
        raise InputError(f"'{path}' is corrupt: line {1 + int((values % 1).any(axis=1).argmax())} has a fraction")
    rows = [tuple(row) for row in values.astype(np.int64).tolist()]
    listed: set[tuple[int, ...]] = set()
    for number, row in enumerate(rows, start=1):
        gesture, finger, subject, essai = row[:4]
        if not (1 <= gesture <= len(CLASSES) and finger in FINGERS):
            raise InputError(f"'{path}' line {number}: no gesture {gesture} with finger {finger} in SHREC'17")
        if row[4:6] != (gesture, 2 * (gesture - 1) + finger):
            raise InputError(
                f"'{path}' line {number}: labels {row[4]} and {row[5]} do not fit gesture {gesture}, finger {finger}"
            )
        if row[:4] in listed:
            raise InputError(
                f"'{path}' line {number}: {sequence_name(gesture, finger, subject, essai)} is listed twice"
            )
        listed.add(row[:4])
    return rows


def sequence_name(gesture: int, finger: int, subject: int, essai: int) -> str:
    """Return the folder of a sequence in the dataset."""
    return f"gesture_{gesture}/finger_{finger}/subject_{subject}/essai_{essai}"


CLASSES_28 = tuple(f"{gesture}, {finger}" for gesture in CLASSES for finger in FINGERS.values())
META = ("gesture", "finger", "subject", "essai", "frames")
LISTS = {"train": "train_gestures.txt", "test": "test_gestures.txt"}
SIZES = {"train": 1960, "test": 840}
ARCHIVE_FOLDER = "HandGestureDataset_SHREC2017"
"""Folder in the published archive."""

logger = logging.getLogger(__name__)


class Shrec17(ArchiveSource):
    """The 14 gestures. Split "official": 20 subjects train (1,960 sequences), 8 test (840).

    The root holds `shrec17_skeletons.npz`, or the published dataset: both lists and the folders `gesture_*`, or the
    archive's folder `HandGestureDataset_SHREC2017`.
    """

    classes: tuple[str, ...] = CLASSES
    layout = "hand_22"
    splits: ClassVar = ("official",)
    archive: ClassVar = "shrec17_skeletons.npz"

    def __init__(self, root: str | Path):
        super().__init__(root)
        inner = self.root / ARCHIVE_FOLDER
        if not self.packed and not (self.root / LISTS["train"]).is_file() and inner.is_dir():
            self.root = inner

    def label(self, gesture: int, finger: int) -> int:
        """Return the index into `classes`."""
        return gesture - 1

    def read_all(self) -> list[tuple[Entry, Clip]]:
        """Return every item of the archive with its clip."""
        path, keys, items = self.root / self.archive, META[:4], []
        arrays = load_npz(path, ("xyz", "length", *keys, "is_train"))
        ranges = {"gesture": (1, len(CLASSES)), "finger": (1, len(FINGERS)), "subject": (1, 28), "essai": (1, 99)}
        sequences = split_frames(path, arrays, _JOINTS, {**ranges, "is_train": (0, 1)})
        columns = (arrays[key].tolist() for key in (*keys, "is_train"))
        for xyz, *numbers, train in zip(sequences, *columns, strict=True):
            name = sequence_name(*numbers)
            entry = self._entry(name, dict(zip(keys, numbers, strict=True)), "train" if train else "test", path)
            items.append((entry, Clip(name, entry.label, *_hand(name, xyz))))
        return items

    def published(self) -> list[Entry]:
        """Return every sequence of the official lists, with or without its file."""
        if not (self.root / LISTS["train"]).is_file():
            raise DeviceError(f"'{self.root}' holds neither {self.archive} nor {LISTS['train']}; check the path")
        entries: dict[str, Entry] = {}
        for part, file in LISTS.items():
            rows = read_list(self.root / file)
            if len(rows) != SIZES[part]:
                logger.warning(
                    "'%s' lists %d sequences, the dataset has %d: it is truncated or not the official split",
                    self.root / file, len(rows), SIZES[part],
                )  # fmt: skip
            for row in rows:
                name, meta = sequence_name(*row[:4]), {key: row[COLUMNS.index(key)] for key in META}
                if name in entries:
                    raise InputError(f"'{self.root}': {' and '.join(LISTS.values())} both list {name}; copy them again")
                entries[name] = self._entry(name, meta, part, self.root / name / FILE_NAME)
        return list(entries.values())

    def read_published(self, entry: Entry) -> Clip:
        """Read the clip of a published item."""
        path, expected = self.root / entry.name / FILE_NAME, entry.meta["frames"]
        stamps, hands = _hand(str(path), read_table(path, 3 * _JOINTS).reshape(-1, _JOINTS, 3))
        if len(stamps) != expected:
            raise InputError(
                f"'{path}' has {len(stamps)} frames but the list has {expected}: it is truncated, copy it again"
            )
        return Clip(entry.name, entry.label, stamps, hands)

    def _entry(self, name: str, meta: dict[str, int], part: str, file: Path) -> Entry:
        files = {"skeleton": file} if file.is_file() else {}
        return Entry(name, self.label(meta["gesture"], meta["finger"]), {**meta, "part": part}, files)

    def part(self, entry: Entry, split: str) -> str:
        """Return the part of an item in a split."""
        self.check(split)
        return str(entry.meta["part"])


class Shrec17Fine(Shrec17):
    """28 classes: gestures with one finger and with the whole hand are separate classes."""

    classes = CLASSES_28
    merges: ClassVar = {"shrec17_14": tuple(label // len(FINGERS) for label in range(len(CLASSES_28)))}

    def label(self, gesture: int, finger: int) -> int:
        """Return the label of a gesture."""
        return 2 * (gesture - 1) + finger - 1
