"""Scores a model package on a dataset by its official protocol, through the very session that runs live."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from actrec.errors import InputError
from actrec.features.base import Clip
from actrec.inference import Session
from actrec_models.data import ClipDataset


@dataclass(frozen=True)
class Report:
    """Accuracy of one package on one part of a dataset.

    Attributes:
        classes: Class names.
        labels: [N] true class of each clip.
        probabilities: [N, classes] of the window that ends with the clip.
        threshold: Confidence below which the package says `unknown`.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    threshold: float

    @property
    def predicted(self) -> np.ndarray:
        """[N] most probable class."""
        return self.probabilities.argmax(axis=1)

    @property
    def accuracy(self) -> float:
        """Top-1, rejection left aside."""
        return float((self.predicted == self.labels).mean())

    @property
    def accepted(self) -> np.ndarray:
        """[N] whether the confidence reaches the threshold."""
        return self.probabilities.max(axis=1) >= self.threshold

    @property
    def confusion(self) -> np.ndarray:
        """[classes, classes] counts, true class by row."""
        counts = np.zeros((len(self.classes), len(self.classes)), dtype=int)
        np.add.at(counts, (self.labels, self.predicted), 1)
        return counts

    def as_dict(self) -> dict[str, Any]:
        """The figures, for `--json`."""
        counts = self.confusion
        right = self.predicted == self.labels
        top5 = np.argsort(-self.probabilities, axis=1)[:, :5]
        return {
            "clips": len(self.labels),
            "accuracy": self.accuracy,
            "top5": float((top5 == self.labels[:, None]).any(axis=1).mean()),
            "threshold": self.threshold,
            "rejected": float((~self.accepted).mean()),
            "right_and_accepted": float((right & self.accepted).mean()),
            "accuracy_of_accepted": float(right[self.accepted].mean()) if self.accepted.any() else None,
            "per_class": {c: float(counts[k, k] / max(counts[k].sum(), 1)) for k, c in enumerate(self.classes)},
            "confusion": counts.tolist(),
        }


def logits(session: Session, clips: ClipDataset, batch: int = 16) -> np.ndarray:
    """[N, classes] of the window that the live recognizer has when each clip ends."""
    window = session.package.window
    return _logits(session, (clips[i].sample(window.seconds, window.frames) for i in range(len(clips))), batch)


def logits_of(session: Session, windows: Iterable[np.ndarray], batch: int = 16) -> np.ndarray:
    """[N, classes] of windows [M, T, V, 3] in metres."""
    return _logits(session, ({"bodies": window} for window in windows), batch)


def _logits(session: Session, samples: Iterator[Clip], batch: int) -> np.ndarray:
    rows = []
    while together := list(islice(samples, batch)):
        rows.append(session.logits(together))
    return np.concatenate(rows)


def evaluate(session: Session, clips: ClipDataset) -> Report:
    """Scores `session` on `clips`.

    Raises:
        InputError: The package's classes are not the dataset's.
    """
    if tuple(session.package.labels) != tuple(clips.classes):
        raise InputError(
            f"package {session.package.name} knows {', '.join(session.package.labels)} but the dataset's classes are "
            f"{', '.join(clips.classes)}: evaluate it on the dataset it was trained for"
        )
    labels = np.array([clips[i].label for i in range(len(clips))])
    return Report(
        tuple(clips.classes), labels, session.softmax(logits(session, clips)), session.package.rejection.threshold
    )
