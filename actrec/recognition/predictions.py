"""The prediction of one body's action at one frame."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ActionPrediction:
    """The action of one body at one frame."""

    body_id: str  # the body's id; empty for a frame without bodies
    label: str  # an action, or `unknown` (no event, rejected, track too short, input missing, body lost, no body)
    class_id: int  # index of the label; −1 for `unknown`
    confidence: float  # probability of the label (an event's highest), or of the best class if unknown; 0 without any
    top_labels: tuple[str, ...]  # best classes first, even if rejected; empty if the network did not run
    top_probabilities: tuple[float, ...]  # with labels of events, averages over `events.smoothing_s`
    window_start_ns: int  # stamp of the oldest frame used
    stamp_ns: int  # stamp of the newest frame used
    model_name: str  # name of the model package
    reason: str = ""  # the missing inputs because of which the network did not run; else empty
    position: tuple[float, float, float] = (
        math.nan,
        math.nan,
        math.nan,
    )  # m in the optical frame; median joint
    duration_s: float = 0.0  # time with this label: since the start of the present event, else since the label changed


def hand_owner(body_id: str) -> str:
    """Return "body_1" for "body_1_left" or "body_1_right", the ids of a model of hands; other ids as they are."""
    return body_id.removesuffix("_left").removesuffix("_right")
