"""Evaluation of models on datasets by their official protocols, through the session that runs live."""

from actrec_models.evaluation.metrics import EvaluationResult
from actrec_models.evaluation.scoring import CLIP_MODES, Scores, evaluate, score, window_logits

__all__ = ["CLIP_MODES", "EvaluationResult", "Scores", "evaluate", "score", "window_logits"]
