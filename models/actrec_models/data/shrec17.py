"""SHREC'17 (De Smedt et al., 3DOR 2017): 14 hand gestures by 28 subjects, with one finger or the whole hand."""

from typing import ClassVar

from actrec.recordings.shrec17 import (
    CLASSES,
    FINGERS,
    GestureSequence,
    read_list,
    read_shrec17,
    read_shrec17_npz,
)
from actrec_models.data.archive import ArchiveSource
from actrec_models.data.clips import Clip
from actrec_models.data.source import Entry

CLASSES_28 = tuple(f"{gesture}, {finger}" for gesture in CLASSES for finger in FINGERS.values())
LISTS = {"train": "train_gestures.txt", "test": "test_gestures.txt"}


class Shrec17(ArchiveSource):
    """The 14 gestures, however they are made. Split "official": 20 subjects train (1,960 sequences), 8 test (840).

    Root holds `shrec17_skeletons.npz`, or the dataset as published: both lists and the folders `gesture_*`.
    """

    classes: tuple[str, ...] = CLASSES
    layout = "hand_22"
    splits: ClassVar = ("official",)
    archive: ClassVar = "shrec17_skeletons.npz"

    def label(self, sequence: GestureSequence) -> int:
        """Its index into `classes`."""
        return sequence.gesture - 1

    def read_all(self) -> list[tuple[Entry, Clip]]:
        """As the base says."""
        return [self._item(sequence) for sequence in self._sequences()]

    def _sequences(self) -> list[GestureSequence]:
        path = self.root / self.archive
        if path.is_file() or not (self.root / LISTS["train"]).is_file():
            return read_shrec17_npz(path)
        lists = {part: read_list(self.root / file) for part, file in LISTS.items()}
        return [read_shrec17(self.root, entry, part == "train") for part, rows in lists.items() for entry in rows]

    def _item(self, s: GestureSequence) -> tuple[Entry, Clip]:
        meta = {"gesture": s.gesture, "finger": s.finger, "subject": s.subject, "essai": s.essai}
        clip = Clip(s.name, self.label(s), s.stamps_ns, s.hands)
        return Entry(s.name, clip.label, {**meta, "part": "train" if s.train else "test"}), clip

    def part(self, entry: Entry, split: str) -> str:
        """As the base says."""
        self.check(split)
        return str(entry.meta["part"])


class Shrec17Fine(Shrec17):
    """28 classes: gestures of one finger and of the whole hand told apart."""

    classes = CLASSES_28
    merges: ClassVar = {"shrec17_14": tuple(label // len(FINGERS) for label in range(len(CLASSES_28)))}

    def label(self, sequence: GestureSequence) -> int:
        """As the base says."""
        return 2 * (sequence.gesture - 1) + sequence.finger - 1
