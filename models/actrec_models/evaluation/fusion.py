"""Fusion of several streams: the weighted sum of their softmaxes or of their logits."""

from collections.abc import Sequence

import numpy as np

from actrec.utils.errors import ConfigError, InputError

METHODS = ("softmax", "logits")


def fuse(logits: Sequence[np.ndarray], method: str = "softmax", weights: Sequence[float] = ()) -> np.ndarray:
    """Return the probabilities [N, classes] of streams with the given logits [N, classes] on the same clips.

    "softmax" sums probabilities; "logits" sums logits before one softmax. The nonnegative weights, empty for equal
    ones, are normalized, which changes no ranking and keeps the confidence at the level of the streams.

    Raises:
        ConfigError: Unknown method or invalid weights.
        InputError: The streams' shapes differ.
    """
    shares = normalized_weights(weights, len(logits))
    check_method(method)
    if len({stream.shape for stream in logits}) != 1:
        raise InputError(f"streams of {' and '.join(str(list(stream.shape)) for stream in logits)} cannot be fused")
    stacked = np.stack(logits).astype(np.float64)  # (S, N, C)
    if method == "logits":
        return softmax(np.tensordot(shares, stacked, axes=1))
    return np.asarray(np.tensordot(shares, softmax(stacked), axes=1))


def check_method(method: str) -> None:
    """Raise a ConfigError for an unknown fusion method."""
    if method not in METHODS:
        raise ConfigError(f"streams are fused by {' or '.join(METHODS)}; got '{method}'")


def normalized_weights(weights: Sequence[float], streams: int) -> np.ndarray:
    """Return [streams] weights that sum to 1.

    Raises:
        ConfigError: Their count is not `streams`, one is negative, or all are zero.
    """
    given = np.asarray(list(weights) or [1.0] * streams, dtype=np.float64)
    if len(given) != streams:
        raise ConfigError(f"{len(given)} weights for {streams} streams: give one per stream, in their order")
    if not np.isfinite(given).all() or (given < 0).any() or given.sum() <= 0:
        raise ConfigError(f"weights {', '.join(f'{w:g}' for w in given)}: each must be 0 or more, one of them above 0")
    return np.asarray(given / given.sum())


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def merge_classes(probabilities: np.ndarray, class_map: Sequence[int], classes: int) -> np.ndarray:
    """Sum probabilities [N, finer classes] to [N, classes], by the coarse class of each finer one."""
    coarse = np.zeros((len(probabilities), classes))
    for finer, label in enumerate(class_map):
        coarse[:, label] += probabilities[:, finer]
    return coarse
