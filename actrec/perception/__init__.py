"""Detection of bodies, hands and faces in RGB-D frames, lifted to meters and tracked."""

from actrec.perception.pipeline import ESTIMATORS, BodyPerception, FacePerception, HandPerception, Pipeline, create

__all__ = ["ESTIMATORS", "BodyPerception", "FacePerception", "HandPerception", "Pipeline", "create"]
