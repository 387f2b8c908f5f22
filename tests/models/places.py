"""A made-up dataset for evaluations: people who stand at places that the tiny model of `tests.tiny_model` knows.

What the tiny model says of a clip follows from where the person stands, so every figure can be worked out by hand.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actrec.datasets.base import Clip, Entry, Source
from actrec.types import NANOSECONDS
from actrec.utils.errors import InputError
from tests.tiny_model import LABELS, person_at

Place = tuple[str, int, float, float, int]
"""Name, label, x, z, fold in which it tests."""

PLACES: list[Place] = [
    ("left_1", 0, -1.0, 2.0, 1),
    ("left_2", 0, -0.9, 2.0, 2),
    ("left_wrong", 0, 1.0, 2.0, 1),
    ("right_1", 1, 1.0, 2.0, 1),
    ("right_2", 1, 0.8, 2.0, 2),
    ("far_1", 2, 0.0, 6.0, 1),
    ("far_2", 2, 0.1, 6.0, 2),
    ("far_unsure", 2, 0.0, 4.0, 2),
]
"""Seven of eight are recognized (the last one by the skin of its teeth: three classes alike, "left" comes first)."""


def still(name: str, label: int, positions: Sequence[tuple[float, float]], fps: float = 4.0) -> Clip:
    """A clip of a person at (x, z), frame after frame."""
    bodies = np.stack([person_at(x, z) for x, z in positions])[None]
    stamps = (np.arange(len(positions)) / fps * NANOSECONDS).astype(np.int64)
    return Clip(name, label, stamps, bodies)


class Places(Source):
    """Option `broken` names unreadable clips; `read_names` lists the clips that were read."""

    classes: tuple[str, ...] = LABELS
    splits: ClassVar = ("all", "none")
    folds: ClassVar = 2
    merges: ClassVar = {"places_coarse": (0, 0, 1)}
    read_names: ClassVar[list[str]] = []

    def __init__(self, root: str | Path, **options: Any):
        super().__init__(root)
        self.broken, self.fold = options.get("broken", ()), options.get("fold", 0)

    def entries(self) -> list[Entry]:
        return [Entry(name, self.label(label), {"fold": fold}) for name, label, _, _, fold in PLACES]

    def label(self, label: int) -> int:
        return label

    def read(self, entry: Entry) -> Clip:
        if entry.name in self.broken:
            raise InputError(f"{self.root / entry.name}.skeleton is truncated")
        self.read_names.append(entry.name)
        place = next((x, z) for name, _, x, z, _ in PLACES if entry.name.endswith(name))
        return still(entry.name, entry.label, [place] * 8)

    def part(self, entry: Entry, split: str) -> str:
        self.check(split)
        if split == "none":
            return "train"
        return "test" if self.fold in (0, entry.meta["fold"]) else "train"


class PlacesTrainToo(Places):
    """With a training part: the same people, beside the test part."""

    def entries(self) -> list[Entry]:
        test = super().entries()
        return [*test, *(Entry(f"train_{e.name}", e.label, {**e.meta, "train": 1}) for e in test)]

    def part(self, entry: Entry, split: str) -> str:
        return "train" if "train" in entry.meta else super().part(entry, split)


class PlacesCoarse(Places):
    """Beside or far: the coarser classes of the same people."""

    classes = ("near", "far away")
    measure: ClassVar = "mean_class_accuracy"
    merges: ClassVar = {}

    def label(self, label: int) -> int:
        return label // 2


TARGETS = {
    "places": "tests.models.places:Places",
    "places_train": "tests.models.places:PlacesTrainToo",
    "places_coarse": "tests.models.places:PlacesCoarse",
}
