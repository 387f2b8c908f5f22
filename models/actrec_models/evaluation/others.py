"""A person's own recordings that are labelled `unknown`: how many of them a model rejects."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actrec_models.data import ClipDataset, SourceDataset
from actrec_models.data.user_folder import Folder
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


def others(target: Target, clips: ClipDataset, models: Sequence[Model]) -> SourceDataset | None:
    """The recordings of the part that are labelled `unknown` and that no model has learnt; None where there are none.

    A prepared store holds none of them.
    """
    if not isinstance(clips, SourceDataset) or not isinstance(clips.source, Folder):
        return None
    source, learnt = clips.source, set().union(*map(learnt_by, models))
    found = [entry for entry in source.others() if source.part(entry, target.split) == target.part]
    fresh = [entry for entry in found if source.identity(entry) not in learnt]
    return SourceDataset(source, fresh) if fresh else None


def rejected(model: Model, scores: Scores) -> Rejected:
    """How many of them a model rejects, by its package's threshold."""
    read = np.array([index not in scores.unread for index in range(len(scores.logits))])
    confidence = model.session.softmax(scores.logits[read]).max(axis=1)
    return Rejected(model.name, int(read.sum()), float((confidence < model.package.rejection.threshold).mean()))
