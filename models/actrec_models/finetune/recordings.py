"""The user's recordings to fine-tune on, and their division into folds."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from actrec.datasets.base import Clip, Entry
from actrec.datasets.user_folder import Folder
from actrec.recordings.labels import LABELS_FILE, find_respelling
from actrec.types import UNKNOWN
from actrec.utils.errors import InputError

logger = logging.getLogger(__name__)

MIN_CLIPS = 3  # smallest number of clips of a class


@dataclass(frozen=True)
class Recordings:
    """The clips of the user's recordings.

    Attributes:
        clips: Clips of the classes, then clips labeled `unknown`, with label −1.
        people: Person of each clip; empty if not given.
        skipped: Causes of unusable recordings.
        identities: Identity of the recording that each clip was cut from (`Folder.identity`).
    """

    clips: list[Clip]
    classes: tuple[str, ...]
    people: tuple[str, ...]
    skipped: tuple[str, ...]
    fingerprint: str
    identities: tuple[str, ...] = ()

    @property
    def labels(self) -> np.ndarray:
        """[N], −1 for `unknown`."""
        return np.array([clip.label for clip in self.clips], dtype=np.int64)

    @property
    def counts(self) -> dict[str, int]:
        """Clips of each class."""
        return {name: int((self.labels == number).sum()) for number, name in enumerate(self.classes)}


def read_recordings(source: Folder, progress: bool = True) -> Recordings:
    """Read all recordings; skip and report unreadable ones and duplicates.

    Raises:
        InputError: Fewer than two classes with three clips each remain, or one clip has two labels.
    """
    clips, people, skipped, entries, identities = [], [], [], [], []
    first_entries: dict[tuple[object, ...], Entry] = {}
    for entry in tqdm(
        [*source.entries(), *source.unknown_entries()], desc="recordings", unit="clip", disable=not progress
    ):
        try:
            clip = source.read(entry)
        except InputError as error:
            logger.warning("skipped: %s", error)
            skipped.append(str(error))
            continue
        identity = source.identity(entry)
        key = (identity, *(entry.meta[name] for name in ("start_ms", "end_ms", "body")))
        first = first_entries.setdefault(key, entry)
        if first is not entry:
            skipped.append(_duplicate(first, entry, source.classes))
            logger.warning("skipped: %s", skipped[-1])
            continue
        clips.append(clip)
        people.append(str(entry.meta["person"]))
        entries.append(entry)
        identities.append(identity)
    for names, kind in ((source.classes, "actions"), (sorted(set(people)), "people")):
        for name in names:
            if (other := find_respelling(name, names)) > name:  # each pair once
                logger.warning("'%s' and '%s' count as two %s: spell them alike if they are one", name, other, kind)
    fingerprint = source.fingerprint(entries)
    found = Recordings(clips, source.classes, tuple(people), tuple(skipped), fingerprint, tuple(identities))
    few = [f"'{name}' has {count}" for name, count in found.counts.items() if count < MIN_CLIPS]
    if len(found.classes) < 2 or few:
        problem = f"each action needs at least three clips, but {', '.join(few)}"
        remedy = f"record more: actrec record --label NAME --out '{source.root}'"
        if not (source.root / LABELS_FILE).exists():  # `actrec record` does not write into folders with one per class
            remedy = (
                "record more into another folder (actrec record --label NAME --out DIR) and move them to their label's "
                "folder"
            )
        raise InputError(f"'{source.root}': {problem if few else 'at least two actions are needed'}; {remedy}")
    return found


def _duplicate(first: Entry, second: Entry, classes: Sequence[str]) -> str:
    """Return the message that two entries are one clip; raise `InputError` if they have different labels."""
    labels = [UNKNOWN if entry.label < 0 else classes[entry.label] for entry in (first, second)]
    if labels[0] != labels[1]:
        raise InputError(
            f"'{first.name}' ({labels[0]}) and '{second.name}' ({labels[1]}) are the same clip: remove one of them"
        )
    return f"recording '{second.name}' is the same as '{first.name}'"


# -- folds -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Folds:
    """A division of clips into folds.

    Attributes:
        fold_of_clip: [N] number of each clip's fold.
        names: Name of each fold: its people, or "fold 1", …
        by: "person", "recording", or "clip" if one recording contains all clips of a class.
    """

    fold_of_clip: np.ndarray
    names: tuple[str, ...]
    by: str

    @property
    def count(self) -> int:
        """Number of folds."""
        return len(self.names)

    @property
    def description(self) -> str:
        """Name of the validation scheme."""
        if self.by == "person":
            several = any(", " in name for name in self.names)
            return f"{self.count} folds of people" if several else "leave one person out"
        return f"{self.count}-fold cross-validation" + (" within recordings" if self.by == "clip" else "")


def make_folds(
    labels: np.ndarray, people: Sequence[str], count: int, seed: int, recordings: Sequence[str] = ()
) -> Folds:
    """Make one fold per person, or `count` folds of people, if every class has two people; else random folds.

    Random folds keep the clips of one recording together, unless these are all clips of a class. No fold contains all
    of a class; if recordings contain several classes, this may take more folds.

    Args:
        labels: [N] class of each clip, −1 for `unknown`.
        people: Person of each clip; empty if not given.
        count: Number of folds, at most the number of recordings of the smallest class.
        recordings: Recording of each clip; empty if every clip has its own.
    """
    person = np.array(people)
    source = np.array(recordings or [str(number) for number in range(len(labels))])
    known = labels >= 0
    names = tuple(sorted(set(person[known].tolist())))
    people_of_class = [set(person[labels == label].tolist()) for label in range(int(labels.max()) + 1)]
    if len(names) > 1 and "" not in names and all(len(who) > 1 for who in people_of_class):
        # People with clips labeled `unknown` alone go to the folds in turn, or their recordings if no person is given.
        groups = [(name, "" if name else recording) for name, recording in zip(people, source.tolist(), strict=True)]
        if len(names) > count:
            groups_of_clip = np.array([name or f"\0{recording}" for name, recording in groups])
            fold_of_clip = _random_folds(labels, groups_of_clip, count, seed)
            several = [sorted(set(person[known & (fold_of_clip == k)].tolist())) for k in np.unique(fold_of_clip)]
            return Folds(fold_of_clip, tuple(", ".join(fold) for fold in several), "person")
        return Folds(_fold_each(groups, [(name, "") for name in names]), names, "person")
    fewest = min(len(set(source[labels == label].tolist())) for label in range(len(people_of_class)))
    by = "recording" if fewest > 1 else "clip"
    if by == "clip":
        source = np.arange(len(labels))
        fewest = min(int((labels == label).sum()) for label in range(len(people_of_class)))
    fold_of_clip = _random_folds(labels, source, min(count, fewest), seed)
    return Folds(fold_of_clip, tuple(f"fold {k + 1}" for k in range(int(fold_of_clip.max()) + 1)), by)


def _fold_each(groups: Sequence[object], known: Sequence[object]) -> np.ndarray:
    """Return [N] a fold for each of the `known` groups; the other groups go to these folds in turn."""
    others = dict.fromkeys(group for group in groups if group not in known)
    fold_of = {group: fold for fold, group in enumerate(known)}
    fold_of |= {group: number % len(known) for number, group in enumerate(others)}
    return np.array([fold_of[group] for group in groups], dtype=np.int64)


def _random_folds(labels: np.ndarray, source: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return [N] random folds: `count`, or the fewest more of which none contains all of a class.

    A class in one fold only would be tested by heads that were not trained on it. At most, every recording becomes a
    fold.
    """
    sources = list(dict.fromkeys(source[labels >= 0].tolist()))
    fold_of_clip = _distribute(labels, source, count, seed)
    while not _valid_folds(labels, fold_of_clip, count):
        count += 1
        if count >= len(sources):
            return _fold_each(source.tolist(), sources)
        fold_of_clip = _distribute(labels, source, count, seed, even=True)
    return fold_of_clip


def _valid_folds(labels: np.ndarray, fold_of_clip: np.ndarray, count: int) -> bool:
    """Return whether each fold contains known clips, and no fold all of a class."""
    folds_of_class = [set(fold_of_clip[labels == label].tolist()) for label in range(int(labels.max()) + 1)]
    return set().union(*folds_of_class) == set(range(count)) and all(len(folds) > 1 for folds in folds_of_class)


def _distribute(labels: np.ndarray, source: np.ndarray, count: int, seed: int, even: bool = False) -> np.ndarray:
    """Return [N] random folds, stratified by class, with every recording in one fold.

    A recording goes to the fold with the fewest recordings of its class. Ties go to the first such fold, or if `even`
    to the one with the fewest recordings.
    """
    rng = np.random.default_rng(seed)
    shuffled = [source[rng.permutation(np.flatnonzero(labels == label))].tolist() for label in np.unique(labels)]
    fold_of: dict[object, int] = {}
    # Classes with the fewest recordings go first: a recording may contain several classes.
    for members in sorted((list(dict.fromkeys(sources)) for sources in shuffled), key=len):
        per_fold = Counter(fold_of[each] for each in members if each in fold_of)
        for each in (each for each in members if each not in fold_of):
            sizes = Counter(fold_of.values()) if even else Counter()
            fold_of[each] = min(range(count), key=lambda fold: (per_fold[fold], sizes[fold]))
            per_fold[fold_of[each]] += 1
    return np.array([fold_of[each] for each in source.tolist()], dtype=np.int64)
