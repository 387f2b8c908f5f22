"""Settings, predictions and counters of a recognizer."""

from dataclasses import dataclass

from actrec.utils.config import setting


@dataclass(frozen=True)
class RecognitionConfig:
    """Settings of an `ActionRecognizer`."""

    interval_s: float = setting(
        0.2, "minimum time between two labels of a body; 0 labels every frame", unit="s", range=(0.0, 60.0)
    )
    min_seconds: float = setting(
        0.5, "a body tracked for a shorter time is labeled unknown", unit="s", range=(0.0, 60.0)
    )
    lost_after_s: float = setting(
        0.5, "a track without a detection for this long ends with one unknown label", unit="s", range=(0.0, 60.0)
    )
    max_gap_s: float = setting(
        0.5, "a longer gap between the frames of a body restarts its window", unit="s", range=(0.01, 60.0)
    )
    max_bodies: int = setting(
        6, "maximum number of tracks; if there are more bodies, the farthest new ones are ignored", range=(1, 64)
    )
    stream_timeout_s: float = setting(
        2.0,
        "a stream without a message for this long, measured against the skeletons, counts as missing",
        unit="s",
        range=(0.05, 60.0),
    )
    smoothing_s: float = setting(
        0.0, "time constant of the moving average of a body's probabilities; 0 for none", unit="s", range=(0.0, 60.0)
    )
    top_k: int = setting(5, "number of classes listed with each label", range=(1, 1000))


@dataclass(frozen=True)
class ActionPrediction:
    """The action of one body at one frame.

    Attributes:
        body_id: The body's id; empty for a frame without bodies.
        label: An action, or `unknown` (rejected, track too short, input missing, body lost, no body).
        class_id: Index of the label; −1 for `unknown`.
        confidence: Probability of the best class; 0 if the network did not run.
        top_labels, top_probabilities: Best classes first, even if rejected; empty if the network did not run.
        window_start_ns: Stamp of the oldest frame used.
        stamp_ns: Stamp of the newest frame used.
        model_name: Name of the model package.
        reason: The missing inputs because of which the network did not run; else empty.
    """

    body_id: str
    label: str
    class_id: int
    confidence: float
    top_labels: tuple[str, ...]
    top_probabilities: tuple[float, ...]
    window_start_ns: int
    stamp_ns: int
    model_name: str
    reason: str = ""


@dataclass
class Counts:
    """Counters of a recognizer since its start.

    Attributes:
        frames: Frames added.
        labels: Predictions made by the network.
        skipped: Predictions that were due in a frame for which `predict` was not called.
        duplicates: Frames ignored because their stamp equals the previous one.
        restarts: Windows restarted because of a gap or of stamps that jump back.
        over_limit: Bodies ignored because `max_bodies` are tracked already.
        missing_input: Predictions replaced by `unknown` because a required stream is missing.
    """

    frames: int = 0
    labels: int = 0
    skipped: int = 0
    duplicates: int = 0
    restarts: int = 0
    over_limit: int = 0
    missing_input: int = 0
