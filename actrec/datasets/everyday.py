"""Everyday actions of several datasets under the names of one vocabulary, `everyday_vocabulary.yaml`.

A clip whose own class is in no class of the vocabulary shows an unknown action (`Source.unknown_entries`), unless the
vocabulary skips it. A clip that shows two actions one after the other becomes two items. Waiting before and after an
action is cut off; longer waiting becomes an unknown item.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml

from actrec import datasets
from actrec.datasets.base import Clip, Entry, Source, missing_folder_error
from actrec.datasets.fingerprints import fingerprint_of
from actrec.skeleton.activity import active_span, is_resting
from actrec.types import NANOSECONDS
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, DeviceError, InputError

SETS = ("nucla", "utd_mhad", "kard", "kinder_gator", "cad60", "bandai_namco", "hdm05")
"""The datasets that train; fold k of split leave_one_set_out tests on the k-th."""

FINAL_SETS = ("florence3d", "utkinect", "msr_action3d")
"""Datasets for a final measurement only, which are merged if option `sets` names them."""

ACTED = "acted"
"""Set of the procedural actor's performances, which only train."""

_UNTRIMMED = ("cad60", ACTED)  # these show an action throughout
_IDLE_S = 1.0  # shortest waiting that becomes an item

Names = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Vocabulary:
    """Names of the datasets' own classes by class and dataset.

    Attributes:
        classes: Class to dataset to names.
        parts: Dataset to name to class to the first and last share of a clip that shows two classes.
        corrected: Dataset to patterns of wrongly labeled items to their classes.
        skipped: Dataset to names that are neither a class nor unknown.
    """

    classes: Mapping[str, Names]
    parts: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
    corrected: Mapping[str, Mapping[str, str]]
    skipped: Names

    def actions(self, dataset: str, name: str, item: str) -> list[tuple[str, float, float]] | None:
        """Return the classes of an `item` of a dataset's class `name`, each with its share of the clip.

        The list is empty for an unknown action; None if it is skipped.
        """
        for pattern, label in self.corrected.get(dataset, {}).items():
            if re.fullmatch(pattern, item):
                return [(label, 0.0, 1.0)]
        if name in self.skipped.get(dataset, ()):
            return None
        found = [(label, 0.0, 1.0) for label, sets in self.classes.items() if name in sets.get(dataset, ())]
        split = self.parts.get(dataset, {}).get(name, {})
        return found + [(label, float(start), float(end)) for label, (start, end) in split.items()]


@cache
def vocabulary() -> Vocabulary:
    """Return the vocabulary of the package."""
    content = yaml.safe_load(Path(__file__).with_name("everyday_vocabulary.yaml").read_text(encoding="utf-8"))
    return Vocabulary(**content)


def class_of(dataset: str, label: str) -> str:
    """Return the class of a dataset's own `label`; the label itself if it is of no class, or of another dataset."""
    return next((name for name, _, _ in vocabulary().actions(dataset, label, "") or ()), label)


@dataclass(frozen=True)
class EverydayConfig:
    """Options of the merged dataset."""

    sets: list = setting([], "datasets to merge; empty for all training sets that are there")
    people: str = setting("all", "people of Kinder-Gator", choices=("all", "adults", "children"))
    trim: bool = setting(True, "cut off the waiting before and after an action; 1 s of it is an unknown item")
    acted: int = setting(
        0, "clips of each class that the procedural actor adds to the training part of every split", range=(0, 10_000)
    )
    classes: str = setting(
        "all", "classes of the vocabulary: all, or only the ones that a merged set shows", choices=("all", "shown")
    )
    fold: int = setting(1, "split leave_one_set_out: number of the dataset that tests", range=(1, len(SETS)))


class Everyday(Source):
    """The merged dataset. Metadata: the set's own, `set`, and `subject`, the person's name among all sets.

    Splits: in "person" every second person of each set tests; in "leave_one_set_out" the set of option `fold`; in "own"
    each set is divided as by its own first split. The root holds a folder for each set, called as in
    `actrec.datasets.folder`. Options are the fields of `EverydayConfig`.
    """

    classes = tuple(vocabulary().classes)
    splits: ClassVar = ("person", "leave_one_set_out", "own")
    folds: ClassVar = len(SETS)
    fold_splits: ClassVar = ("leave_one_set_out",)
    caveat: ClassVar = "several datasets under common names; see everyday_vocabulary.yaml"

    def __init__(self, root: str | Path, **options: Any):
        super().__init__(root)
        self.config = self.configured(options)
        if unknown := sorted(set(map(str, self.config.sets)) - {*SETS, *FINAL_SETS}):
            raise ConfigError(f"everyday has no set {unknown[0]}; known: {', '.join((*SETS, *FINAL_SETS))}")
        if self.config.classes == "shown":
            self.classes = tuple(label for label in vocabulary().classes if self._is_shown(label))
        self._sources: dict[str, Source] = {}
        self._spans: dict[str, tuple[int, int]] = {}

    @classmethod
    def configured(cls, options: Mapping[str, Any]) -> EverydayConfig:
        """Return the options, checked."""
        return config.build(EverydayConfig, dict(options))

    @classmethod
    def license_of(cls, options: Mapping[str, Any]) -> str:
        """Return the licenses of the sets that option `sets` names; research use if it names none."""
        chosen = cls.configured(options)
        if not chosen.sets:
            return cls.license
        names = [*map(str, chosen.sets), *([ACTED] if chosen.acted else [])]
        return "; ".join(f"{name}: {datasets.DATASETS.get(name).license}" for name in names)

    @classmethod
    def divisions(cls, name: str, split: str, part: str, options: Mapping[str, Any]) -> dict[str, str]:
        """Return the merged datasets instead of `name`, as the base class."""
        sets = list(map(str, options.get("sets") or SETS))
        if split == "leave_one_set_out":
            tested = SETS[int(options.get("fold", 1)) - 1]
            return {each: "" for each in sets if (each == tested) == (part == "test")}
        if split != "own":
            return dict.fromkeys(sets, f"{split} of everyday")
        kinds = {each: datasets.DATASETS.get(each) for each in sets}
        return {k: v for each, kind in kinds.items() for k, v in kind.divisions(each, kind.splits[0], part, {}).items()}

    def _is_shown(self, label: str) -> bool:
        """Return whether a merged set, or a part of its clips, has a class of the vocabulary."""
        words = vocabulary()
        for name in self._merged:
            if name == ACTED and label in datasets.DATASETS.get(ACTED).classes:
                return True
            parts = words.parts.get(name, {}).values()
            if name in words.classes[label] or any(label in shares for shares in parts):
                return True
        return False

    def source(self, name: str) -> Source:
        """Return one of the merged datasets."""
        if name not in self._sources:
            options: dict[str, Any] = {}
            if name == "kinder_gator":
                options = {"people": self.config.people, "spread_arms": "cut"}
            elif name == ACTED:
                options = {"clips": self.config.acted}
            self._sources[name] = datasets.source(name, datasets.folder(self.root, name), **options)
        return self._sources[name]

    def entries(self) -> list[Entry]:
        """Return every item of a class; raises as the merged datasets, and DeviceError if there are none."""
        return list(self._items(unknown=False))

    def unknown_entries(self) -> list[Entry]:
        """Return every clip of a class that the vocabulary does not have, and long waiting, with label −1."""
        return list(self._items(unknown=True))

    @cached_property
    def _merged(self) -> list[str]:
        if not self.root.is_dir():
            raise missing_folder_error(self.root)
        present = [name for name in SETS if Path(datasets.folder(self.root, name)).is_dir()]
        if not (names := list(map(str, self.config.sets)) or present):
            raise DeviceError(f"'{self.root}' holds no folder of {', '.join(SETS)}; check the path")
        return [*names, ACTED] if self.config.acted else names

    def _acted(self, unknown: bool) -> Iterator[Entry]:
        source = self.source(ACTED)
        for entry in source.unknown_entries() if unknown else source.entries():
            label = -1 if unknown else self.classes.index(source.classes[entry.label])
            subject = f"{ACTED}_{entry.meta['subject']}"
            meta = {**entry.meta, "set": ACTED, "subject": subject, "person": "train", "own": "train"}
            yield Entry(f"{ACTED}/{entry.name}", label, meta)

    def _items(self, unknown: bool) -> Iterator[Entry]:
        for name in self._merged:
            if name == ACTED:
                yield from self._acted(unknown)
                continue
            source = self.source(name)
            entries = source.entries()
            # All of the set, also who is not there: which ones test must not depend on options and files.
            everyone = {*map(str, getattr(source, "people", ())), *map(_person, entries)}
            people = sorted(everyone, key=lambda person: (len(person), person))
            for entry in entries:
                actions = vocabulary().actions(name, source.classes[entry.label], entry.name)
                rank = people.index(_person(entry))
                meta = {
                    **entry.meta,
                    "set": name,
                    "subject": f"{name}_{people[rank]}",
                    "person": "test" if rank % 2 else "train",
                    "own": source.part(entry, source.splits[0]),
                }
                if unknown:
                    if actions == []:
                        yield Entry(f"{name}/{entry.name}", -1, meta, entry.files)
                    yield from self._idle(Entry(f"{name}/{entry.name}", -1, meta, entry.files))
                for label, start, end in () if unknown else actions or ():
                    part = {} if (start, end) == (0.0, 1.0) else {"start": str(start), "end": str(end)}
                    suffix = f"#{label}" if part else ""
                    index = self.classes.index(label)
                    yield Entry(f"{name}/{entry.name}{suffix}", index, {**meta, **part}, entry.files)

    def _idle(self, entry: Entry) -> Iterator[Entry]:
        """Yield the waiting before and after the motion of an item as items of their own."""
        if not self._is_trimmed(entry):
            return
        try:
            clip = self.source(str(entry.meta["set"])).read(self._original(entry))
        except (DeviceError, InputError):  # `read` raises it for the item itself
            return
        first, last = self._span(entry, clip.stamps_ns, clip.bodies)
        for end, span in (("start", slice(first)), ("end", slice(last + 1, None))):
            stamps_ns, bodies = clip.stamps_ns[span], clip.bodies[:, span]
            if len(stamps_ns) and np.ptp(stamps_ns) >= _IDLE_S * NANOSECONDS and is_resting(bodies):
                yield replace(entry, name=f"{entry.name}#idle_{end}", meta={**entry.meta, "idle": end})

    def _span(self, entry: Entry, stamps_ns: np.ndarray, bodies: np.ndarray) -> tuple[int, int]:
        """Return the first and the last frame of an item's motion, measured once."""
        key = entry.name.split("#idle")[0]
        if key not in self._spans:
            self._spans[key] = active_span(stamps_ns, bodies)
        return self._spans[key]

    def _is_trimmed(self, entry: Entry) -> bool:
        return self.config.trim and entry.meta["set"] not in _UNTRIMMED

    def read(self, entry: Entry) -> Clip:
        """Read the clip of an item, or its part of it."""
        clip = self.source(str(entry.meta["set"])).read(self._original(entry))
        frames = len(clip.stamps_ns)
        start, end = (float(entry.meta.get(key, default)) for key, default in (("start", 0), ("end", 1)))
        part = slice(int(start * frames), max(int(np.ceil(end * frames)), int(start * frames) + 1))
        clip = clip.cut(part)
        if self._is_trimmed(entry):
            first, last = self._span(entry, clip.stamps_ns, clip.bodies)
            idle = {"start": slice(first), "end": slice(last + 1, None)}
            clip = clip.cut(idle.get(str(entry.meta.get("idle")), slice(first, last + 1)))
        return replace(clip, name=entry.name, label=entry.label)

    def _original(self, entry: Entry) -> Entry:
        """Return the item of the merged dataset."""
        name = entry.name.split("/", 1)[1].split("#")[0]
        if entry.meta["set"] == ACTED and entry.label >= 0:
            return replace(entry, name=name, label=self.source(ACTED).classes.index(self.classes[entry.label]))
        return replace(entry, name=name)

    def has_split(self, split: str) -> bool:
        """Return whether the set that the fold of leave_one_set_out tests on is merged."""
        return split != "leave_one_set_out" or SETS[self.config.fold - 1] in self._merged

    def part(self, entry: Entry, split: str) -> str:
        """Return the part of an item in a split."""
        self.check(split)
        if split == "leave_one_set_out":
            if (tested := SETS[self.config.fold - 1]) not in self._merged:
                numbers = ", ".join(f"{SETS.index(name) + 1} {name}" for name in self._merged if name in SETS)
                raise ConfigError(
                    f"fold {self.config.fold} tests on {tested}, which is not merged here; folds: {numbers}"
                )
            return "test" if entry.meta["set"] == tested else "train"
        return str(entry.meta[split])

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """Return the SHA-256 of the items' names and labels, and of the data of each set."""

        def parts() -> Iterator[str]:
            for name in sorted({str(entry.meta["set"]) for entry in entries}):
                chosen = [entry for entry in entries if entry.meta["set"] == name]
                yield "\n".join(f"{entry.name} {entry.label}" for entry in chosen)
                yield self.source(name).fingerprint([self._original(entry) for entry in chosen])

        return self.with_options(fingerprint_of(self.classes, parts()))


def _person(entry: Entry) -> str:
    """Return the name of the person of an item in its dataset; Bandai-Namco publishes styles only."""
    return str(next(entry.meta[key] for key in ("subject", "actor", "style") if key in entry.meta))
