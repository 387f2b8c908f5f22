"""Which clips are left out together when a small set of recordings is judged on itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Folds:
    """A division of clips.

    Attributes:
        of_clip: [N] number of the fold that each clip is in.
        names: What each fold is: a person, or "fold 1", …
        by: "person" or "clip".
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
        return "leave one person out" if self.by == "person" else f"{self.count}-fold cross-validation"


def folds_of(labels: np.ndarray, people: Sequence[str], count: int, seed: int) -> Folds:
    """A fold a person where everybody is named and every class is done by two or more, else `count` folds by chance.

    Args:
        labels: [N] class of each clip from 0 on, −1 for none of them.
        people: Who did each; empty where nobody says.
        count: Folds by chance; as many as the smallest class has clips, where that is fewer.
        seed: Of the chance.
    """
    doer = np.array(people)
    known = labels >= 0
    names = tuple(sorted(set(doer[known].tolist())))
    doers = [set(doer[labels == label].tolist()) for label in range(int(labels.max()) + 1)]
    if len(names) > 1 and "" not in names and all(len(who) > 1 for who in doers):
        of_clip = np.array([names.index(who) if who in names else -1 for who in people])
        strangers = np.flatnonzero(of_clip < 0)  # did nothing but what is unknown
        of_clip[strangers] = np.arange(len(strangers)) % len(names)
        return Folds(of_clip, names, "person")
    count = min(count, min(int((labels == label).sum()) for label in range(int(labels.max()) + 1)))
    return Folds(_by_chance(labels, count, seed), tuple(f"fold {k + 1}" for k in range(count)), "clip")


def _by_chance(labels: Sequence[int] | np.ndarray, count: int, seed: int) -> np.ndarray:
    """[N] folds in each of which every class has its share."""
    labels, rng = np.asarray(labels), np.random.default_rng(seed)
    of_clip = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        of_clip[members] = np.arange(len(members)) % count
    return of_clip
