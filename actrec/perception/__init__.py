"""Detection of bodies, hands and faces in RGB-D frames, lifted to meters and tracked."""

from typing import TYPE_CHECKING, Any

from actrec.perception.base import Detection
from actrec.utils.registry import Registry

if TYPE_CHECKING:
    from actrec.perception.pipeline import Pipeline

__all__ = ["ESTIMATORS", "Detection", "Pipeline", "create"]

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
    """Create the estimator of `kind` ("body", "hand" or "face"); `options` are fields of its settings dataclass.

    A body estimator has `.estimate(frame) -> list[Detection]`, the others `.estimate(frame, bodies)`.

    Raises:
        ConfigError: The kind or an option is unknown; the message lists the known ones.
        MissingLibraryError: MediaPipe or its models are not installed; the message has the command to install it.
    """
    return ESTIMATORS.create(kind, **options)


def __getattr__(name: str) -> Any:
    if name == "Pipeline":  # lazily: it needs scipy and the cameras
        from actrec.perception.pipeline import Pipeline

        return Pipeline
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
