"""Detection of bodies, hands and faces in RGB-D frames, lifted to meters and tracked."""

from actrec.perception.base import ESTIMATORS, Detection, create
from actrec.perception.pipeline import BodyPerception, FacePerception, HandPerception, Pipeline

__all__ = [
    "ESTIMATORS",
    "BodyPerception",
    "Detection",
    "FacePerception",
    "HandPerception",
    "Pipeline",
    "create",
]
