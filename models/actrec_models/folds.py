"""Which clips are left out together when a small set of recordings is judged on itself."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Folds:
    """A division of clips.

    Attributes:
        of_clip: [N] number of the fold that each clip is in.
        names: What each fold is: a person, or "fold 1", …
        by: "person", "recording", or "clip" where one recording holds all clips of a class.
    """

    of_clip: np.ndarray
    names: tuple[str, ...]
    by: str

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.names)

    @property
    def words(self) -> str:
        """How it is called."""
        if self.by == "person":
            return "leave one person out"
        return f"{self.count}-fold cross-validation" + (" within recordings" if self.by == "clip" else "")


def folds_of(labels: np.ndarray, people: Sequence[str], count: int, seed: int, recordings: Sequence[str] = ()) -> Folds:
    """A fold a person where everybody is named and every class is done by two or more, else `count` folds by chance.

    By chance, clips that were cut from one recording are left out together, unless they are all that a class has. No
    fold holds all of a class: where recordings show several classes, there may be more folds for that.

    Args:
        labels: [N] class of each clip from 0 on, −1 for none of them.
        people: Who did each; empty where nobody says.
        count: Folds by chance; as many as the smallest class has recordings, where that is fewer.
        seed: Of the chance.
        recordings: What each clip was cut from; empty for another one each.
    """
    doer = np.array(people)
    source = np.array(recordings or [str(number) for number in range(len(labels))])
    known = labels >= 0
    names = tuple(sorted(set(doer[known].tolist())))
    doers = [set(doer[labels == label].tolist()) for label in range(int(labels.max()) + 1)]
    if len(names) > 1 and "" not in names and all(len(who) > 1 for who in doers):
        return Folds(_by_person(people, source, names), names, "person")
    apart = min(len(set(source[labels == label].tolist())) for label in range(len(doers)))
    by = "recording" if apart > 1 else "clip"
    if by == "clip":
        source = np.arange(len(labels))
        apart = min(int((labels == label).sum()) for label in range(len(doers)))
    of_clip = _divided(labels, source, min(count, apart), seed)
    return Folds(of_clip, tuple(f"fold {k + 1}" for k in range(int(of_clip.max()) + 1)), by)


def _by_person(people: Sequence[str], source: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """[N] folds: of each of these people one, among which all clips of somebody else lie together.

    So do those that have one source, of which nobody says who did them.
    """
    who = [(name, "" if name else one) for name, one in zip(people, source.tolist(), strict=True)]
    others = dict.fromkeys(one for one in who if one[0] not in names)  # did nothing but what is unknown
    fold_of = {(name, ""): fold for fold, name in enumerate(names)}
    fold_of |= {one: number % len(names) for number, one in enumerate(others)}
    return np.array([fold_of[one] for one in who], dtype=np.int64)


def _divided(labels: np.ndarray, source: np.ndarray, count: int, seed: int) -> np.ndarray:
    """[N] folds by chance: `count`, or the fewest more of which none holds all of a class, at most one a source.

    A class that lies in one fold would be judged by heads that never saw it, and seem to be recognised never.
    """
    sources = list(dict.fromkeys(source[labels >= 0].tolist()))
    of_clip = _by_chance(labels, source, count, seed)
    while not _serve(labels, of_clip, count):
        count += 1
        if count >= len(sources):
            known = {one: fold for fold, one in enumerate(sources)}
            others = dict.fromkeys(one for one in source.tolist() if one not in known)
            fold_of = known | {one: fold % len(sources) for fold, one in enumerate(others)}
            return np.array([fold_of[one] for one in source.tolist()], dtype=np.int64)
        of_clip = _by_chance(labels, source, count, seed, even=True)
    return of_clip


def _serve(labels: np.ndarray, of_clip: np.ndarray, count: int) -> bool:
    """Whether each fold has known clips, and no fold all of a class."""
    within = [set(of_clip[labels == label].tolist()) for label in range(int(labels.max()) + 1)]
    return set().union(*within) == set(range(count)) and all(len(folds) > 1 for folds in within)


def _by_chance(labels: np.ndarray, source: np.ndarray, count: int, seed: int, even: bool = False) -> np.ndarray:
    """[N] folds in each of which every class has its share, as far as what has one source lies in one fold.

    Of folds that have as little of a class, a source goes to the first, or if `even` to that of the fewest sources.
    """
    rng = np.random.default_rng(seed)
    drawn = [source[rng.permutation(np.flatnonzero(labels == label))].tolist() for label in np.unique(labels)]
    fold_of: dict[object, int] = {}
    # Those of the fewest sources first: a source may hold several classes, and these have the least choice of folds.
    for members in sorted((list(dict.fromkeys(sources)) for sources in drawn), key=len):
        held = Counter(fold_of[one] for one in members if one in fold_of)
        for one in (one for one in members if one not in fold_of):
            sizes = Counter(fold_of.values()) if even else Counter()
            fold_of[one] = min(range(count), key=lambda fold: (held[fold], sizes[fold]))
            held[fold_of[one]] += 1
    return np.array([fold_of[one] for one in source.tolist()], dtype=np.int64)
