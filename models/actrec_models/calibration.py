"""Chooses the confidence below which a label is published as `unknown`."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Threshold:
    """A rejection threshold and what it does on the clips it was chosen on.

    Attributes:
        value: Confidence, 0..1.
        known_kept: Share of clips of known actions that reach it.
        unknown_rejected: Share of clips of other actions that do not.
    """

    value: float
    known_kept: float
    unknown_rejected: float


def choose_threshold(known: np.ndarray, unknown: np.ndarray, least_kept: float = 0.9) -> Threshold:
    """The threshold that best separates the confidences of known actions [N] from those of others [K].

    It maximises the mean of the two shares (Youden's J) among those that keep at least `least_kept` of the known.
    """
    candidates = np.unique(np.concatenate([known, unknown, [0.0]]))
    candidates = candidates[candidates <= np.quantile(known, 1 - least_kept)]
    kept = np.array([(known >= c).mean() for c in candidates])
    rejected = np.array([(unknown < c).mean() for c in candidates])
    best = int(np.argmax(kept + rejected))
    # Rounded, so that model.yaml reads well; the shares are those of the rounded value.
    value = round(float(candidates[best]), 3)
    return Threshold(value, float((known >= value).mean()), float((unknown < value).mean()))
