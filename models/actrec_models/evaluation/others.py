"""A person's own recordings that are labelled `unknown`: how many of them a model rejects."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actrec_models.data import ClipDataset
from actrec_models.evaluation.opening import Model
from actrec_models.evaluation.scoring import Scores
from actrec_models.evaluation.target import Target, learnt_by


@dataclass(frozen=True)
class Rejected:
    """What a model makes of them.

    Attributes:
        name: Of the model.
        clips: How many could be read.
        rejected: Share of which it says `unknown`.
    """

    name: str
    clips: int
    rejected: float

    def __str__(self) -> str:
        return f"{self.name} rejects {self.rejected:.1%} of {self.clips} recordings labelled unknown."


def others(target: Target, models: Sequence[Model]) -> ClipDataset | None:
    """The part's recordings that are labelled `unknown` and that no model has learnt; None where there are none."""
    found = target.others()
    learnt = set().union(*map(learnt_by, models))
    fresh = found.subset([index for index, recording in enumerate(found.recordings) if recording not in learnt])
    return fresh if len(fresh) else None


def rejected(model: Model, scores: Scores) -> Rejected:
    """How many of them a model rejects, by its package's threshold."""
    read = np.array([index not in scores.unread for index in range(len(scores.logits))])
    confidence = model.session.softmax(scores.logits[read]).max(axis=1)
    return Rejected(model.name, int(read.sum()), float((confidence < model.package.rejection.threshold).mean()))
