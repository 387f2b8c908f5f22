"""Settings of the action recognizer."""

from dataclasses import dataclass

from actrec.inference.package import ModelPackage
from actrec.recognition.events import EventConfig
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
    labels: str = setting(
        "auto",
        "events: a body's present action event, else unknown: later (full window, average above its limit), but one "
        "change an event; windows: each window's own; auto: events if the model has thresholds of events, else windows",
        choices=("auto", "events", "windows"),
    )
    strict_inputs: bool = setting(
        False,
        "a model gets no scene flow of another method, height or rate than its training's: labels are unknown, with "
        "the reason; else a warning",
    )
    top_k: int = setting(5, "number of classes listed with each label", range=(1, 1000))
    events: EventConfig = setting(EventConfig(), "action events")

    def labels_events(self, package: ModelPackage) -> bool:
        """Whether the labels of a model are of events."""
        own = package.events
        return self.labels == "events" or (self.labels == "auto" and bool(own.begin or own.classes))
