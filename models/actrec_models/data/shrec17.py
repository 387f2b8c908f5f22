"""SHREC'17 (De Smedt et al., 3DOR 2017): 14 hand gestures by 28 subjects, with one finger or the whole hand."""

import logging
from pathlib import Path
from typing import ClassVar

from actrec.errors import DeviceError, InputError
from actrec.recordings.shrec17 import (
    CLASSES,
    COLUMNS,
    FILE_NAME,
    FINGERS,
    read_list,
    read_shrec17,
    read_shrec17_npz,
    sequence_name,
)
from actrec_models.data.archive import ArchiveSource
from actrec_models.data.clips import Clip
from actrec_models.data.source import Entry

CLASSES_28 = tuple(f"{gesture}, {finger}" for gesture in CLASSES for finger in FINGERS.values())
META = ("gesture", "finger", "subject", "essai", "frames")
LISTS = {"train": "train_gestures.txt", "test": "test_gestures.txt"}
SIZES = {"train": 1960, "test": 840}
UNPACKED = "HandGestureDataset_SHREC2017"
"""The folder that the published archive holds."""

logger = logging.getLogger(__name__)


class Shrec17(ArchiveSource):
    """The 14 gestures, however they are made. Split "official": 20 subjects train (1,960 sequences), 8 test (840).

    Root holds `shrec17_skeletons.npz`, or the dataset as published: both lists and the folders `gesture_*`, or the
    folder `HandGestureDataset_SHREC2017` that the archive has them in.
    """

    classes: tuple[str, ...] = CLASSES
    layout = "hand_22"
    splits: ClassVar = ("official",)
    archive: ClassVar = "shrec17_skeletons.npz"

    def __init__(self, root: str | Path):
        super().__init__(root)
        inner = self.root / UNPACKED
        if not self.packed and not (self.root / LISTS["train"]).is_file() and inner.is_dir():
            self.root = inner

    def label(self, gesture: int, finger: int) -> int:
        """Index into `classes`."""
        return gesture - 1

    def read_all(self) -> list[tuple[Entry, Clip]]:
        """As the base says."""
        path, read = self.root / self.archive, []
        for s in read_shrec17_npz(path):
            meta = {"gesture": s.gesture, "finger": s.finger, "subject": s.subject, "essai": s.essai}
            entry = self._entry(s.name, meta, "train" if s.train else "test", path)
            read.append((entry, Clip(s.name, entry.label, s.stamps_ns, s.hands)))
        return read

    def published(self) -> list[Entry]:
        """As the base says: every sequence of the official lists, whether its file is there or not."""
        if not (self.root / LISTS["train"]).is_file():
            raise DeviceError(f"'{self.root}' holds neither {self.archive} nor {LISTS['train']}; check the path")
        entries: dict[str, Entry] = {}
        for part, file in LISTS.items():
            rows = read_list(self.root / file)
            if len(rows) != SIZES[part]:
                logger.warning(
                    "'%s' lists %d sequences, the dataset's %d: it is cut, or no official split",
                    self.root / file, len(rows), SIZES[part],
                )  # fmt: skip
            for row in rows:
                name, meta = sequence_name(*row[:4]), {key: row[COLUMNS.index(key)] for key in META}
                if name in entries:
                    raise InputError(f"'{self.root}': {' and '.join(LISTS.values())} both list {name}; copy them again")
                entries[name] = self._entry(name, meta, part, self.root / name / FILE_NAME)
        return list(entries.values())

    def read_published(self, entry: Entry) -> Clip:
        """As the base says."""
        row = tuple(int(entry.meta.get(key, 0)) for key in COLUMNS)
        s = read_shrec17(self.root, row, entry.meta["part"] == "train")
        return Clip(s.name, entry.label, s.stamps_ns, s.hands)

    def _entry(self, name: str, meta: dict[str, int], part: str, file: Path) -> Entry:
        files = {"skeleton": file} if file.is_file() else {}
        return Entry(name, self.label(meta["gesture"], meta["finger"]), {**meta, "part": part}, files)

    def part(self, entry: Entry, split: str) -> str:
        """As the base says."""
        self.check(split)
        return str(entry.meta["part"])


class Shrec17Fine(Shrec17):
    """28 classes: gestures of one finger and of the whole hand told apart."""

    classes = CLASSES_28
    merges: ClassVar = {"shrec17_14": tuple(label // len(FINGERS) for label in range(len(CLASSES_28)))}

    def label(self, gesture: int, finger: int) -> int:
        """As the base says."""
        return 2 * (gesture - 1) + finger - 1
