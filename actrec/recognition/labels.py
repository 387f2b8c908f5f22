"""What a recognizer is set to, says and counts."""

from dataclasses import dataclass

from actrec.utils.config import setting


@dataclass(frozen=True)
class RecognitionConfig:
    """Settings of a `Recognizer`."""

    interval_s: float = setting(
        0.2, "least time between two labels of a body; 0 labels every frame", unit="s", range=(0.0, 60.0)
    )
    min_seconds: float = setting(
        0.5, "a body seen for less than this is published as unknown", unit="s", range=(0.0, 60.0)
    )
    lost_after_s: float = setting(
        0.5, "a body unseen for this long gets one last unknown and is forgotten", unit="s", range=(0.0, 60.0)
    )
    max_gap_s: float = setting(
        0.5, "a longer pause of a body's joints restarts its window", unit="s", range=(0.01, 60.0)
    )
    max_bodies: int = setting(
        6, "bodies followed at once; of more, the newcomers farthest away are left out", range=(1, 64)
    )
    stream_timeout_s: float = setting(
        2.0,
        "a stream silent for this long against the skeletons counts as absent",
        unit="s",
        range=(0.05, 60.0),
    )
    smoothing_s: float = setting(
        0.0, "time constant over which a body's probabilities are averaged; 0 for none", unit="s", range=(0.0, 60.0)
    )
    top_k: int = setting(5, "classes listed with each label", range=(1, 1000))


@dataclass(frozen=True)
class LabeledWindow:
    """What one body is doing, as of one frame.

    Attributes:
        body_id: Whose; empty where nobody is in the scene.
        label: An action, or `unknown`: rejected, body too new, body left, empty scene.
        class_id: −1 for `unknown`.
        confidence: Probability of the best class, 0 where the network was not asked.
        top_labels, top_probabilities: Best classes first, also where they were rejected; empty where the network was
            not asked.
        window_start_ns: Stamp of the oldest frame used.
        stamp_ns: Stamp of the newest frame used.
        model_name: The package that judged.
        reason: Why the network was not asked, where a stream is missing; else empty.
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
    """What a recognizer has done since it started; `waiting` counts labels held back because a stream is missing."""

    frames: int = 0
    labels: int = 0
    skipped: int = 0
    duplicates: int = 0
    restarts: int = 0
    left_out: int = 0
    waiting: int = 0
