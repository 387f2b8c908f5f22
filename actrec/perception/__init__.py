"""Detection of bodies, hands and faces in RGB-D frames, lifted to meters and tracked."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actrec.perception.pipeline import ESTIMATORS, BodyPerception, FacePerception, HandPerception, Pipeline, create

__all__ = ["ESTIMATORS", "BodyPerception", "FacePerception", "HandPerception", "Pipeline", "create"]


def __getattr__(name: str) -> Any:
    """Import the pipeline on first use: `camera_node` takes only the direction of gravity from this package."""
    if name in __all__:
        return getattr(importlib.import_module("actrec.perception.pipeline"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
