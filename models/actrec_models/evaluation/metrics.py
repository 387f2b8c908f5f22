"""Figures of a classifier from labels [N] and probabilities [N, classes]. Plain functions, no state, no files."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 15
"""Bins of the calibration error, as in Guo et al. (ICML 2017)."""

DRAWS = 10_000
"""Bootstrap draws of an interval."""

LEAST_PROBABILITY = 1e-12
"""What a probability of zero counts as in the log-likelihood."""


def top_k(probabilities: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """[N] whether the label is among the `k` most probable classes; of equal ones the first counts as better."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return (best == labels[:, None]).any(axis=1)


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """[classes, classes] counts, true class by row."""
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def interval(right: np.ndarray, clips: Sequence[str] = (), level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `right` [N], drawn clip by clip.

    What several models say of one clip is drawn together: it is one clip still. Clips of which so many answers, and so
    many of them right, are there, are alike; how many draws are of each kind is multinomial, which is drawn directly.

    Args:
        right: [N] whether an answer is right.
        clips: [N] names of what was asked; none where it was something else each time.
        level: Share of the draws within.
        seed: Of the draws.
    """
    number = np.unique(clips, return_inverse=True)[1] if len(clips) else np.arange(len(right))
    answers, good = np.bincount(number), np.bincount(number, weights=right)
    kinds, count = np.unique(np.stack([good, answers], axis=1), axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(answers), count / len(answers), DRAWS)
    low, high = np.quantile(drawn @ kinds[:, 0] / (drawn @ kinds[:, 1]), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the precision–recall steps of scores [N]: sum of (R_n − R_n−1) P_n over the distinct scores.

    None where nothing is positive.
    """
    if not positive.any():
        return None
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # equal scores are taken together
    found = np.cumsum(positive[order])[ends]
    gained = np.diff(found, prepend=0) / positive.sum()
    return float((gained * found / (ends + 1)).sum())


@dataclass(frozen=True)
class Bins:
    """Clips by confidence.

    Attributes:
        edges: [bins + 1] from 0 to 1; a bin holds its upper edge, the first one its lower edge too.
        counts: [bins] clips.
        confidence, accuracy: [bins] means, NaN where a bin is empty.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: |accuracy − confidence| of the bins, weighted by their clips."""
        held = self.counts > 0
        gaps = np.abs(self.accuracy - self.confidence)[held]
        return float((self.counts[held] / self.counts.sum() * gaps).sum())


def binned(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Bins:
    """Clips [N] in `bins` equally wide bins of confidence."""
    edges = np.linspace(0, 1, bins + 1)
    index = np.digitize(confidence.astype(np.float64), edges[1:-1], right=True)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(index, weights=value, minlength=bins) / counts for value in (confidence, right)]
    return Bins(edges, counts, means[0], means[1])


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean of −log p of the true class, in nats."""
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(true, LEAST_PROBABILITY)).mean())


def brier(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Brier's score (1950), 0 to 2: squared error of the probabilities summed over the classes.

    What a row lacks to 1 is the probability of "none of these" and counts as a class that is never true.
    """
    errors = probabilities.astype(np.float64)
    lacking = 1 - errors.sum(axis=1)
    errors[np.arange(len(labels)), labels] -= 1
    return float(((errors**2).sum(axis=1) + lacking**2).mean())


def risk_coverage(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[N] share of errors among the k clips of highest confidence, for k = 1 to N; equal ones share their errors."""
    order = np.argsort(-confidence, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True))
    errors = np.cumsum(~right[order])[ends]
    taken = np.arange(1, len(right) + 1)
    return np.asarray(np.interp(taken, np.append(0, ends + 1), np.append(0, errors)) / taken)


def at_coverage(risk: np.ndarray, coverage: float) -> float:
    """The risk when at least this share of the clips is answered."""
    return float(risk[max(int(np.ceil(coverage * len(risk) - 1e-9)), 1) - 1])


def confused_pairs(counts: np.ndarray, most: int) -> list[tuple[int, int, int]]:
    """(true class, predicted class, clips) of the most frequent errors, at most `most`, in order of frequency."""
    errors = counts - np.diag(np.diag(counts))
    order = np.argsort(-errors, axis=None, kind="stable")[:most]
    found = [(*map(int, np.unravel_index(flat, counts.shape)), int(errors.flat[flat])) for flat in order]
    return [(true, predicted, number) for true, predicted, number in found if number]
