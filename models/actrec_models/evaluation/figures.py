"""What is known of a model once every clip has its probabilities."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from actrec.utils.errors import InputError
from actrec_models.evaluation import metrics

PAIRS = 10

COVERAGES = (0.5, 0.8, 0.9, 0.95, 1.0)

TOLERANCE = 1e-3
"""By which probabilities of float32 may leave 0..1, or sum to more than 1."""


@dataclass(frozen=True)
class Report:
    """Every clip's probabilities, and the figures that follow from them.

    Attributes:
        name: Of what was scored: a package, a checkpoint, a fusion.
        classes: Class names.
        clips: [N] names.
        labels: [N] true class of each clip.
        probabilities: [N, classes]; what a row lacks to 1 is the probability of "none of these". Zero where unread.
        threshold: Confidence below which the package says `unknown`; None where there is no rejection to speak of.
        unread: Name of a clip that could not be read to why. It counts as wrong and as rejected.
        own_confidence: [N] what the threshold is compared with, where the package's classes are finer than these: the
            robot knows those alone. None for `confidence`.
        copied: Names of clips that the training part holds too (`actrec.datasets.duplicates`).
        recordings: [N] names of what was asked, where several models were; a clip each where nothing is given.

    Raises:
        InputError: No clip at all, shapes that disagree, or probabilities that are none; names the first such clip.
    """

    name: str
    classes: tuple[str, ...]
    clips: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    threshold: float | None = None
    unread: Mapping[str, str] = field(default_factory=dict)
    own_confidence: np.ndarray | None = None
    copied: frozenset[str] = frozenset()
    recordings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expected = (len(self.clips), len(self.classes))
        if not self.clips:
            raise InputError(f"{self.name}: there is no clip to score")
        if self.probabilities.shape != expected or self.labels.shape != expected[:1]:
            raise InputError(
                f"{self.name}: probabilities {list(self.probabilities.shape)} and labels {list(self.labels.shape)} for "
                f"{expected[0]} clips of {expected[1]} classes"
            )
        if self.labels.min() < 0 or self.labels.max() >= expected[1]:
            raise InputError(f"{self.name}: labels {self.labels.min()} to {self.labels.max()} of {expected[1]} classes")
        self._check_probabilities()

    def _check_probabilities(self) -> None:
        p = self.probabilities
        broken = np.isnan(p).any(axis=1)
        if broken.any():
            first = self.clips[int(broken.argmax())]
            raise InputError(
                f"{self.name} gave NaN for {broken.sum()} of {len(p)} clips, first '{first}': the network has diverged "
                "or its export is broken; train it with a lower rate or export it again"
            )
        foreign = (p < -TOLERANCE).any(axis=1) | (p.sum(axis=1) > 1 + TOLERANCE)
        if foreign.any():
            clip = self.clips[int(foreign.argmax())]
            raise InputError(f"{self.name}: what it gave for clip '{clip}' are no probabilities")

    @cached_property
    def read(self) -> np.ndarray:
        """[N] whether the clip could be read."""
        return np.array([clip not in self.unread for clip in self.clips])

    @cached_property
    def predicted(self) -> np.ndarray:
        """[N] most probable class; −1 where the clip was not read."""
        return np.where(self.read, self.probabilities.argmax(axis=1), -1)

    @cached_property
    def right(self) -> np.ndarray:
        """[N] whether that is the true class."""
        return self.predicted == self.labels

    @cached_property
    def confidence(self) -> np.ndarray:
        """[N] probability of the most probable class."""
        return self.probabilities.max(axis=1).astype(np.float64)

    @property
    def accuracy(self) -> float:
        """Top-1, rejection left aside."""
        return float(self.right.mean())

    @property
    def accepted(self) -> np.ndarray:
        """[N] whether the confidence, on the robot, reaches the threshold."""
        confidence = self.confidence if self.own_confidence is None else self.own_confidence
        return self.read & (confidence >= (self.threshold or 0.0))

    @cached_property
    def confusion(self) -> np.ndarray:
        """[classes, classes] counts of the clips that were read, true class by row."""
        return metrics.confusion(self.labels[self.read], self.predicted[self.read], len(self.classes))

    @cached_property
    def bins(self) -> metrics.Bins:
        """Confidence against accuracy, of the clips that were read."""
        return metrics.binned(self.confidence[self.read], self.right[self.read])

    @cached_property
    def risk(self) -> np.ndarray:
        """[N] share of errors among the k most confident clips."""
        return metrics.risk_coverage(self.confidence, self.right)

    @cached_property
    def per_class(self) -> dict[str, dict[str, float | int | None]]:
        """Class to its clips, how often it was predicted, recall, precision, F1 and average precision; None for 0/0."""
        found = {}
        for k, name in enumerate(self.classes):
            clips, predicted = int((self.labels == k).sum()), int((self.predicted == k).sum())
            right = int(self.confusion[k, k])
            found[name] = {
                "clips": clips,
                "predicted": predicted,
                "recall": _share(right, clips),
                "precision": _share(right, predicted),
                "f1": _share(2 * right, clips + predicted),
                "average_precision": metrics.average_precision(self.probabilities[:, k], self.labels == k),
            }
        return found

    def mean(self, figure: str) -> float:
        """The mean of one of `per_class`'s figures over the classes that have it."""
        values = [row[figure] for row in self.per_class.values() if row["clips"]]
        return float(np.mean([value for value in values if value is not None] or [0.0]))

    def summary(self) -> dict[str, Any]:
        """The figures that are one number each."""
        labels, probabilities = self.labels[self.read], self.probabilities[self.read]
        low, high = metrics.interval(self.right, self.recordings)
        some = len(labels) > 0
        return {
            "clips": len(self.labels),
            "unreadable": len(self.unread),
            "right": int(self.right.sum()),
            "accuracy": self.accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "top5": float((metrics.top_k(self.probabilities, self.labels, 5) & self.read).mean()),
            "mean_class_accuracy": self.mean("recall"),
            "mean_f1": self.mean("f1"),
            "mean_average_precision": self.mean("average_precision"),
            "mean_confidence": float(self.confidence[self.read].mean()) if some else None,
            "ece": self.bins.ece if some else None,
            "nll": metrics.negative_log_likelihood(probabilities, labels) if some else None,
            "brier": metrics.brier(probabilities, labels) if some else None,
            "aurc": float(self.risk.mean()),
            **self._copies(),
            **self._rejection(),
        }

    def _copies(self) -> dict[str, float | int | None]:
        if not self.copied:
            return {}
        own = np.array([clip not in self.copied for clip in self.clips])
        return {
            "copies": int((~own).sum()),
            "accuracy_without_copies": float(self.right[own].mean()) if own.any() else None,
        }

    def _rejection(self) -> dict[str, float | None]:
        if self.threshold is None:
            return {}
        accepted, right = self.accepted, self.right
        return {
            "threshold": self.threshold,
            "rejected": float((~accepted).mean()),
            "right_and_accepted": float((right & accepted).mean()),
            "accuracy_of_accepted": float(right[accepted].mean()) if accepted.any() else None,
        }

    @property
    def pairs(self) -> list[dict[str, Any]]:
        """The most confused pairs of classes: clips of `true` taken for `predicted`, and their share of `true`."""
        found = metrics.confused_pairs(self.confusion, PAIRS)
        return [
            {
                "true": self.classes[true],
                "predicted": self.classes[predicted],
                "clips": clips,
                "share": clips / int((self.labels == true).sum()),
            }
            for true, predicted, clips in found
        ]

    def as_dict(self) -> dict[str, Any]:
        """Every figure, for `--json`."""
        bins = self.bins
        return {
            **self.summary(),
            "risk_at_coverage": {f"{share:g}": metrics.at_coverage(self.risk, share) for share in COVERAGES},
            "reliability": [
                {"above": float(low), "clips": int(n), "confidence": float(c), "accuracy": float(a)}
                for low, n, c, a in zip(bins.edges[:-1], bins.counts, bins.confidence, bins.accuracy, strict=True)
                if n
            ],
            "per_class": self.per_class,
            "confused": self.pairs,
            "confusion": self.confusion.tolist(),
            "unreadable_clips": dict(self.unread),
        }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
