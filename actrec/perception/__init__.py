"""Finds bodies, hands and faces in color images; estimators are found by what they look for."""

from typing import Any

from actrec.perception.base import Detection
from actrec.utils.registry import Registry

__all__ = ["ESTIMATORS", "Detection", "create"]

ESTIMATORS = Registry(
    "estimator",
    {
        "body": "actrec.perception.body:MediaPipeBody",
        "hand": "actrec.perception.hand:MediaPipeHand",
        "face": "actrec.perception.face:MediaPipeFace",
    },
    install={"mediapipe": "pip install mediapipe==0.10.21 (0.10.18 on arm64)"},
)


def create(kind: str, **options: Any) -> Any:
    """Makes the estimator of `kind` ("body", "hand" or "face"); `options` are the fields of its settings dataclass.

    A body estimator has `.estimate(frame) -> list[Detection]`, the others `.estimate(frame, bodies)` alike.

    Raises:
        ConfigError: Unknown kind or option; the known ones are listed.
        MissingLibraryError: MediaPipe is absent, or without its models, with the command that installs it.
    """
    return ESTIMATORS.create(kind, **options)
