"""Metrics of a classifier, computed from labels [N] and probabilities [N, classes].

torchmetrics gives equal top-k accuracies, confusion matrices and average precisions, and calibration errors that differ
where confidences tie: 18 lines here. It has no multiclass Brier score, risk-coverage curve or bootstrap by clip, and
takes 1.7 s to import.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from actrec.utils.errors import InputError

CALIBRATION_BINS = 15
"""Bins of the expected calibration error, as in Guo et al. (ICML 2017)."""

BOOTSTRAP_SAMPLES = 10_000

SMALLEST_PROBABILITY = 1e-12

CONFUSED_PAIRS = 10

COVERAGES = (0.5, 0.8, 0.9, 0.95, 1.0)

PROBABILITY_TOLERANCE = 1e-3
"""How far float32 probabilities may lie outside 0..1, and their sum above 1."""


def top_k(probabilities: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Return [N] whether the label is among the `k` most probable classes; of equal ones the first ranks higher."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return (best == labels[:, None]).any(axis=1)


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return [classes, classes] counts; rows are the true classes."""
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def bootstrap_interval(
    correct: np.ndarray, clips: Sequence[str] = (), level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of `correct` [N], resampled by clip.

    Answers of several models to one clip are resampled together: `clips` [N] names each answer's clip; empty if every
    answer has its own. Clips with equal counts of answers and of correct answers are interchangeable, so one
    multinomial sample of these kinds replaces a sample of the clips.
    """
    clip_index = np.unique(clips, return_inverse=True)[1] if len(clips) else np.arange(len(correct))
    answers, hits = np.bincount(clip_index), np.bincount(clip_index, weights=correct)
    kinds, count = np.unique(np.stack([hits, answers], axis=1), axis=0, return_counts=True)
    sampled = np.random.default_rng(seed).multinomial(len(answers), count / len(answers), BOOTSTRAP_SAMPLES)
    means = sampled @ kinds[:, 0] / (sampled @ kinds[:, 1])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Return the sum of (R_n − R_n−1) P_n over the distinct scores [N], or None without a positive sample."""
    if not positive.any():
        return None
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # equal scores form one step
    found = np.cumsum(positive[order])[ends]
    recall_gain = np.diff(found, prepend=0) / positive.sum()
    return float((recall_gain * found / (ends + 1)).sum())


@dataclass(frozen=True)
class CalibrationBins:
    """Clips binned by confidence.

    Attributes:
        edges: [bins + 1] from 0 to 1; a bin includes its upper edge, the first one its lower edge too.
        counts: [bins] clips.
        confidence, accuracy: [bins] means, NaN for an empty bin.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: |accuracy − confidence| of the bins, weighted by their clips."""
        used = self.counts > 0
        gaps = np.abs(self.accuracy - self.confidence)[used]
        return float((self.counts[used] / self.counts.sum() * gaps).sum())


def calibration_bins(confidence: np.ndarray, correct: np.ndarray, bins: int = CALIBRATION_BINS) -> CalibrationBins:
    """Bin clips [N] into `bins` equally wide bins of confidence."""
    edges = np.linspace(0, 1, bins + 1)
    index = np.digitize(confidence.astype(np.float64), edges[1:-1], right=True)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(index, weights=value, minlength=bins) / counts for value in (confidence, correct)]
    return CalibrationBins(edges, counts, means[0], means[1])


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of −log p of the true class, in nats."""
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(true, SMALLEST_PROBABILITY)).mean())


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return Brier's score (1950), 0 to 2: the squared error summed over the classes.

    A row's difference to 1 is the probability of "none of these", which counts as a class that is never true.
    """
    errors = probabilities.astype(np.float64)
    none_of_these = 1 - errors.sum(axis=1)
    errors[np.arange(len(labels)), labels] -= 1
    return float(((errors**2).sum(axis=1) + none_of_these**2).mean())


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Return [N] share of errors among the k most confident clips, k = 1 to N; ties share their errors."""
    order = np.argsort(-confidence, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True))
    errors = np.cumsum(~correct[order])[ends]
    answered = np.arange(1, len(correct) + 1)
    return np.asarray(np.interp(answered, np.append(0, ends + 1), np.append(0, errors)) / answered)


def risk_at_coverage(risk: np.ndarray, coverage: float) -> float:
    """Return the risk if at least this share of the clips is answered."""
    return float(risk[max(int(np.ceil(coverage * len(risk) - 1e-9)), 1) - 1])


def confused_pairs(counts: np.ndarray, limit: int) -> list[tuple[int, int, int]]:
    """Return (true class, predicted class, clips) of the `limit` most frequent errors, most frequent first."""
    errors = counts - np.diag(np.diag(counts))
    order = np.argsort(-errors, axis=None, kind="stable")[:limit]
    pairs = [(*map(int, np.unravel_index(flat, counts.shape)), int(errors.flat[flat])) for flat in order]
    return [(true, predicted, clips) for true, predicted, clips in pairs if clips]


@dataclass(frozen=True)
class EvaluationResult:
    """The probabilities of every clip, and the metrics computed from them.

    Attributes:
        clips, labels: [N] names and true classes.
        probabilities: [N, classes]; a row's difference to 1 is the probability of "none of these". Zero if unreadable.
        threshold: Confidence below which the package publishes `unknown`; None without rejection.
        unreadable: Name of an unreadable clip to the cause. It counts as wrong and as rejected.
        package_confidence: [N] confidence in the package's own, finer classes, which the threshold applies to.
        duplicates: Names of the clips that the training part contains too (`actrec.datasets.find_duplicates`).
        recordings: [N] name of each answer's recording, if several models answered; empty for one clip each.
        learned: [N] whether the training part has clips of the true class; empty if it has of all.

    Raises:
        InputError: No clip, shapes that disagree, or invalid probabilities; the message names the first such clip.
    """

    name: str
    classes: tuple[str, ...]
    clips: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    threshold: float | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)
    package_confidence: np.ndarray | None = None
    duplicates: frozenset[str] = frozenset()
    recordings: tuple[str, ...] = ()
    learned: np.ndarray = field(default_factory=lambda: np.empty(0, bool))

    def __post_init__(self) -> None:
        p, labels, expected = self.probabilities, self.labels, (len(self.clips), len(self.classes))
        if not self.clips:
            raise InputError(f"{self.name}: there is no clip to score")
        if p.shape != expected or labels.shape != expected[:1]:
            raise InputError(
                f"{self.name}: probabilities {list(p.shape)} and labels {list(labels.shape)} for {expected[0]} clips "
                f"of {expected[1]} classes"
            )
        if labels.min() < 0 or labels.max() >= expected[1]:
            raise InputError(f"{self.name}: labels {labels.min()} to {labels.max()} of {expected[1]} classes")
        nan = np.isnan(p).any(axis=1)
        if nan.any():
            raise InputError(
                f"{self.name} gave NaN for {nan.sum()} of {len(p)} clips, first '{self.clips[int(nan.argmax())]}': the "
                "network has diverged or its export is broken; train it with a lower learning rate or export it again"
            )
        invalid = (p < -PROBABILITY_TOLERANCE).any(axis=1) | (p.sum(axis=1) > 1 + PROBABILITY_TOLERANCE)
        if invalid.any():
            first = self.clips[int(invalid.argmax())]
            raise InputError(f"{self.name}: the scores of clip '{first}' are no probabilities")

    @cached_property
    def readable(self) -> np.ndarray:
        """[N] whether the clip could be read."""
        return np.array([clip not in self.unreadable for clip in self.clips])

    @cached_property
    def predicted(self) -> np.ndarray:
        """[N] most probable class; −1 for an unreadable clip."""
        return np.where(self.readable, self.probabilities.argmax(axis=1), -1)

    @cached_property
    def correct(self) -> np.ndarray:
        """[N] whether the prediction is the true class."""
        return self.predicted == self.labels

    @cached_property
    def confidence(self) -> np.ndarray:
        """[N] probability of the most probable class."""
        return self.probabilities.max(axis=1).astype(np.float64)

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy without rejection."""
        return float(self.correct.mean())

    @property
    def accepted(self) -> np.ndarray:
        """[N] whether the confidence, as computed live, reaches the threshold, or without one the background's."""
        confidence = self.confidence if self.package_confidence is None else self.package_confidence
        return self.readable & (confidence >= (self.threshold or 1 - self.probabilities.sum(axis=1)))

    @cached_property
    def confusion(self) -> np.ndarray:
        """[classes, classes] counts of the readable clips; rows are the true classes."""
        return confusion_matrix(self.labels[self.readable], self.predicted[self.readable], len(self.classes))

    @cached_property
    def bins(self) -> CalibrationBins:
        """Confidence against accuracy of the readable clips."""
        return calibration_bins(self.confidence[self.readable], self.correct[self.readable])

    @cached_property
    def risk(self) -> np.ndarray:
        """[N] share of errors among the k most confident clips."""
        return risk_coverage(self.confidence, self.correct)

    @cached_property
    def per_class(self) -> dict[str, dict[str, float | int | None]]:
        """Class name to its clips, predictions, recall, precision, F1 and average precision; None for 0/0."""
        rows = {}
        for k, name in enumerate(self.classes):
            clips, predicted = int((self.labels == k).sum()), int((self.predicted == k).sum())
            hits = int(self.confusion[k, k])
            rows[name] = {
                "clips": clips,
                "predicted": predicted,
                "recall": hits / clips if clips else None,
                "precision": hits / predicted if predicted else None,
                "f1": 2 * hits / (clips + predicted) if clips + predicted else None,
                "average_precision": average_precision(self.probabilities[:, k], self.labels == k),
            }
        return rows

    def class_mean(self, metric: str) -> float:
        """Return the mean of a `per_class` metric over the classes that have it."""
        values = [row[metric] for row in self.per_class.values() if row["clips"]]
        return float(np.mean([value for value in values if value is not None] or [0.0]))

    def summary(self) -> dict[str, Any]:
        """Return the metrics that are one number each."""
        labels, probabilities = self.labels[self.readable], self.probabilities[self.readable]
        accepted, correct, some = self.accepted, self.correct, len(labels) > 0
        low, high = bootstrap_interval(correct, self.recordings)
        figures = {
            "clips": len(self.labels),
            "unreadable": len(self.unreadable),
            "right": int(correct.sum()),
            "accuracy": self.accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "top5": float((top_k(self.probabilities, self.labels, 5) & self.readable).mean()),
            "mean_class_accuracy": self.class_mean("recall"),
            "mean_f1": self.class_mean("f1"),
            "mean_average_precision": self.class_mean("average_precision"),
            "mean_confidence": float(self.confidence[self.readable].mean()) if some else None,
            "ece": self.bins.ece if some else None,
            "nll": negative_log_likelihood(probabilities, labels) if some else None,
            "brier": brier_score(probabilities, labels) if some else None,
            "aurc": float(self.risk.mean()),
        }
        if self.duplicates:
            unique = np.array([clip not in self.duplicates for clip in self.clips])
            figures["copies"] = int((~unique).sum())
            figures["accuracy_without_copies"] = float(correct[unique].mean()) if unique.any() else None
        if len(self.learned):
            figures["clips_of_learned"] = int(self.learned.sum())
            figures["accuracy_of_learned"] = float(correct[self.learned].mean()) if self.learned.any() else None
        if self.threshold is not None:
            figures |= {
                "threshold": self.threshold,
                "rejected": float((~accepted).mean()),
                "right_and_accepted": float((correct & accepted).mean()),
                "accuracy_of_accepted": float(correct[accepted].mean()) if accepted.any() else None,
            }
        return figures

    @property
    def confused(self) -> list[dict[str, Any]]:
        """The most confused pairs: clips of `true` predicted as `predicted`, and their share of `true`."""
        return [
            {
                "true": self.classes[true],
                "predicted": self.classes[predicted],
                "clips": clips,
                "share": clips / int((self.labels == true).sum()),
            }
            for true, predicted, clips in confused_pairs(self.confusion, CONFUSED_PAIRS)
        ]

    @property
    def risk_at_coverages(self) -> dict[str, float]:
        """Share of wrong answers at each of `COVERAGES`."""
        return {f"{share:g}": risk_at_coverage(self.risk, share) for share in COVERAGES}

    def as_dict(self) -> dict[str, Any]:
        """Return every metric, for `--json`."""
        bins = self.bins
        return {
            **self.summary(),
            "risk_at_coverage": self.risk_at_coverages,
            "reliability": [
                {"above": float(low), "clips": int(n), "confidence": float(c), "accuracy": float(a)}
                for low, n, c, a in zip(bins.edges[:-1], bins.counts, bins.confidence, bins.accuracy, strict=True)
                if n
            ],
            "per_class": self.per_class,
            "confused": self.confused,
            "confusion": self.confusion.tolist(),
            "unreadable_clips": dict(self.unreadable),
        }
