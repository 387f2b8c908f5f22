"""Scores of several streams made one: the sum of their softmaxes or of their logits, weighted."""

from collections.abc import Sequence

import numpy as np

from actrec.utils.errors import ConfigError, InputError

HOW = ("softmax", "logits")

ROUNDS = 500
"""Steps in which weights are fitted."""


def fuse(logits: Sequence[np.ndarray], how: str = "softmax", weights: Sequence[float] = ()) -> np.ndarray:
    """The probabilities of several streams together.

    Args:
        logits: [N, classes] of each stream, on the same clips.
        how: "softmax" sums probabilities, "logits" sums logits before one softmax. Divided by the sum of the weights,
            which changes no ranking and keeps the confidence at the streams' own level.
        weights: One a stream, 0 and more; none for all alike.

    Returns:
        [N, classes].

    Raises:
        ConfigError: Unknown way, or the weights are not one a stream, are negative or all zero.
        InputError: The streams' shapes differ.
    """
    shares = normalized(weights, len(logits))
    check_how(how)
    if len({stream.shape for stream in logits}) != 1:
        raise InputError(f"streams of {' and '.join(str(list(stream.shape)) for stream in logits)} cannot be fused")
    stacked = np.stack(logits).astype(np.float64)  # (S, N, C)
    if how == "logits":
        return softmax(np.tensordot(shares, stacked, axes=1))
    return np.asarray(np.tensordot(shares, softmax(stacked), axes=1))


def check_how(how: str) -> None:
    """Refuses a way of fusing that there is not.

    Raises:
        ConfigError: Names those that there are.
    """
    if how not in HOW:
        raise ConfigError(f"streams are fused by {' or '.join(HOW)}; got '{how}'")


def normalized(weights: Sequence[float], streams: int) -> np.ndarray:
    """[streams] weights that sum to 1.

    Raises:
        ConfigError: They are not one a stream, negative, or all zero.
    """
    given = np.asarray(list(weights) or [1.0] * streams, dtype=np.float64)
    if len(given) != streams:
        raise ConfigError(f"{len(given)} weights for {streams} streams: give one a stream, in their order")
    if not np.isfinite(given).all() or (given < 0).any() or given.sum() <= 0:
        raise ConfigError(f"weights {', '.join(f'{w:g}' for w in given)}: each must be 0 or more, one of them above 0")
    return np.asarray(given / given.sum())


def fit(logits: Sequence[np.ndarray], labels: np.ndarray, how: str = "softmax") -> np.ndarray:
    """[streams] weights that sum to 1 and make the true classes most likely, on clips that are not the test's.

    Both likelihoods are concave in the weights, so there is one best: of mixed probabilities found by
    expectation–maximization, of mixed logits by exponentiated gradient with a step that shrinks until it helps.

    Raises:
        InputError: A stream gave NaN.
    """
    stacked = np.stack(logits).astype(np.float64)
    if not np.isfinite(stacked).all():
        raise InputError("weights cannot be fitted: a stream gave NaN; train it with a lower rate or export it again")
    weights = np.full(len(stacked), 1 / len(stacked))
    rows = np.arange(len(labels))
    if how == "softmax":
        true = softmax(stacked)[:, rows, labels]  # (S, N)
        for _ in range(ROUNDS):
            weights = weights * (true / np.maximum(weights @ true, 1e-300)).mean(axis=1)
        return np.asarray(weights / weights.sum())
    return _fit_logits(stacked, labels, weights)


def _fit_logits(stacked: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    rows, step = np.arange(len(labels)), 1.0

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        p = softmax(np.tensordot(w, stacked, axes=1))
        expected = (stacked * p).sum(axis=2)  # (S, N)
        gradient = (expected - stacked[:, rows, labels]).mean(axis=1)
        return float(-np.log(np.maximum(p[rows, labels], 1e-300)).mean()), gradient

    best, gradient = loss(weights)
    for _ in range(ROUNDS):
        moved = weights * np.exp(-step * (gradient - gradient.min()))
        moved /= moved.sum()
        found, slope = loss(moved)
        if found < best:
            weights, best, gradient, step = moved, found, slope, step * 1.5
        else:
            step /= 2
    return weights


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def merge(probabilities: np.ndarray, merged: Sequence[int], classes: int) -> np.ndarray:
    """[N, classes] of probabilities [N, finer classes], summed by the coarse class of each finer one."""
    coarse = np.zeros((len(probabilities), classes))
    for finer, label in enumerate(merged):
        coarse[:, label] += probabilities[:, finer]
    return coarse
