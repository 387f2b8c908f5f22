"""What a person teaches: their recordings, and how to learn from them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from actrec.datasets.base import Clip, Entry
from actrec.datasets.user_folder import Folder
from actrec.recordings.labels import LABELS_FILE, find_respelling
from actrec.types import UNKNOWN
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import InputError
from actrec_models.data.augmentation import Augmentation, names_side
from actrec_models.finetune.transfer import TuningConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeachConfig(TuningConfig):
    """Settings of `actrec teach`."""

    base: str = setting("deepacts_graph_nucla", "package whose network is taken over: its name or folder")
    least: int = setting(10, "clips a class below which a warning is given", range=(1, 10_000))
    draws: int = setting(8, "augmented draws of each clip that the frozen body looks at", range=(1, 1000))
    folds: int = setting(5, "parts of which one is left out, where fewer than two people are named", range=(2, 100))
    rehearsals: int = setting(2, "how often the whole way is rehearsed to choose the threshold", range=(1, 100))
    outliers: float = setting(0.2, "share of draws that show made-up actions of no class", range=(0.0, 0.9))
    mirror: str = setting(
        "auto", "also learn from mirrored clips; auto: unless a label tells a side", choices=("auto", "yes", "no")
    )
    augmentation: dict = setting({}, "fields of actrec_models.data.augmentation.Augmentation")
    minutes: float = setting(10.0, "time that the training may take; where it is short, draws and steps are left out",
                             range=(0.1, 1e5))  # fmt: skip
    seed: int = setting(1, "of everything random", range=(0, 2**31 - 1))

    def augmented(self, labels: Sequence[str]) -> Augmentation:
        """The augmentation for these labels."""
        sided = any(names_side(label) for label in labels)
        mirror = self.mirror == "yes" or (self.mirror == "auto" and not sided)
        return config.build(Augmentation, {"mirror": mirror, **self.augmentation})


@dataclass(frozen=True)
class Material:
    """The recordings.

    Attributes:
        clips: Of the classes first, then those of none, with label −1.
        classes: Labels.
        people: Who did each clip; empty where nobody says.
        skipped: Recordings that cannot be used, and why.
        fingerprint: Of all of them.
        recordings: What each was cut from (`Folder.identity`).
    """

    clips: list[Clip]
    classes: tuple[str, ...]
    people: tuple[str, ...]
    skipped: tuple[str, ...]
    fingerprint: str
    recordings: tuple[str, ...] = ()

    @property
    def labels(self) -> np.ndarray:
        """[N], −1 for none of the classes."""
        return np.array([clip.label for clip in self.clips], dtype=np.int64)

    @property
    def counts(self) -> dict[str, int]:
        """Clips of each class."""
        return {name: int((self.labels == number).sum()) for number, name in enumerate(self.classes)}


def read_material(source: Folder, progress: bool = True) -> Material:
    """Reads all recordings; those that cannot be read, or are there twice, are left out and named.

    Raises:
        InputError: No two classes are left with three clips each, or one clip has two labels.
    """
    clips, people, skipped, entries, recordings = [], [], [], [], []
    seen: dict[tuple[object, ...], Entry] = {}
    listed = [*source.entries(), *source.unknown_entries()]
    for entry in tqdm(listed, desc="recordings", unit="clip", disable=not progress):
        try:
            clips.append(source.read(entry))
        except InputError as error:
            logger.warning("left out: %s", error)
            skipped.append(str(error))
            continue
        identity = source.identity(entry)
        first = seen.setdefault((identity, *(entry.meta[key] for key in ("start_ms", "end_ms", "body"))), entry)
        if first is not entry:
            clips.pop()
            skipped.append(_twice(first, entry, source.classes))
            logger.warning("left out: %s", skipped[-1])
            continue
        people.append(str(entry.meta["person"]))
        entries.append(entry)
        recordings.append(identity)
    for names, what in ((source.classes, "learnt as two actions"), (sorted(set(people)), "judged as two people")):
        for name in names:
            if (other := find_respelling(name, names)) > name:  # each pair once
                logger.warning("'%s' and '%s' are %s: write them alike if they are one", name, other, what)
    print_of_all = source.fingerprint(entries)
    found = Material(clips, source.classes, tuple(people), tuple(skipped), print_of_all, tuple(recordings))
    few = [f"'{name}' has {count}" for name, count in found.counts.items() if count < 3]
    if len(found.classes) < 2 or few:
        what = f"three clips of each are the least, and {', '.join(few)}" if few else "at least two actions are needed"
        raise InputError(f"'{source.root}': {what}; {_more(source)}")
    return found


def _more(source: Folder) -> str:
    """How more recordings come into a folder; `actrec record` adds to none that has a folder a class."""
    if (source.root / LABELS_FILE).exists():
        return f"record more: actrec record --label NAME --out '{source.root}'"
    return "record more into another folder (actrec record --label NAME --out DIR) and move them to that of their label"


def _twice(first: Entry, second: Entry, classes: Sequence[str]) -> str:
    """Says that two entries are one clip.

    Raises:
        InputError: They have different labels.
    """
    labels = [UNKNOWN if entry.label < 0 else classes[entry.label] for entry in (first, second)]
    if labels[0] != labels[1]:
        raise InputError(
            f"'{first.name}' ({labels[0]}) and '{second.name}' ({labels[1]}) are the same clip: remove one of them"
        )
    return f"recording '{second.name}' is the same as '{first.name}'"
