"""Scores models on datasets by their official protocols, through the very session that runs live.

`study` and `opening` are imported on their own: they need what exports and reads checkpoints, which in turn need this.
"""

from actrec_models.evaluation.figures import Report
from actrec_models.evaluation.scoring import MODES, Scores, evaluate, logits, logits_of, score

__all__ = ["MODES", "Report", "Scores", "evaluate", "logits", "logits_of", "score"]
