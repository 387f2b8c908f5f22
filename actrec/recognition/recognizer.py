"""From what is seen of tracked people to labeled windows: one window a body; the recognizer without ROS."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actrec.inference.session import Prediction, Session
from actrec.recognition.labels import Counts, LabeledWindow, RecognitionConfig
from actrec.recognition.streams import WORDS
from actrec.recognition.tracks import Followed, Track
from actrec.types import NANOSECONDS, UNKNOWN, Body, Face, Hand, Intrinsics
from actrec.utils import config

__all__ = ["Counts", "LabeledWindow", "RecognitionConfig", "Recognizer"]


@dataclass(frozen=True)
class _Frame:
    """A frame that nobody has judged yet."""

    stamp_ns: int
    present: list[str]
    empty: bool


class Recognizer:
    """Keeps a window for each body and labels it.

    A frame without anybody gives one `unknown` with an empty body id. A body that has gone gets one last `unknown`
    after `lost_after_s`; one that comes back later starts anew. Until then nothing is said of it. When stamps jump back
    (a recording that loops) every window restarts. For a package that looks at M > 1 bodies, a body's clip holds itself
    first, then the others that are seen or were less than `max_gap_s` ago, from near to far; longer than that before
    they were first seen they are missing, as in a recording.

    Streams beside the skeletons are added as they come; a late or lost message holds nothing up. While one that the
    model cannot do without is missing, bodies are `unknown` and the label says why; one that it can do without is left
    out, which the features fill with zeros. A model of hands labels each hand as if it were a body: its frames come
    from the hands.

    `update` may be split in two, for a network that takes longer than a frame: one thread may `observe` (and add other
    streams) while another one is in `judge`.

    Args:
        session: The model.
        **options: Fields of `RecognitionConfig`.

    Raises:
        PackageError: The model takes another layout than kinect_v2_25 or a hand's, or whole pictures.
    """

    def __init__(self, session: Session, **options: Any):
        self.config = config.build(RecognitionConfig, options)
        self.counts = Counts()
        self._lock = threading.RLock()
        self._session = session
        self._followed = Followed(session, self.config, self.counts)
        self._last_ns: int | None = None
        self._empty_since_judged_ns: int | None = None
        self._pending: _Frame | None = None

    # -- the model -----------------------------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """The model in use."""
        return self._session

    def use(self, session: Session) -> None:
        """Swaps the model. Bodies stay known, but their windows start anew: a window's length belongs to the model."""
        followed = Followed(session, self.config, self.counts)
        with self._lock:
            if followed.layout != self._followed.layout:
                self._skip()
            followed.succeed(self._followed, self._pending.present if self._pending is not None else ())
            self._session, self._followed = session, followed

    @property
    def subject(self) -> str:
        """The stream whose frames are labeled: "bodies", or "hands" for a model of hands."""
        return self._followed.subject

    @property
    def streams(self) -> dict[str, bool]:
        """What the model needs, and whether it is needed at all costs; see `actrec.features.streams`."""
        others = {name: needed for name, needed in self._followed.others.streams.items() if name != "bodies"}
        return {**others, self.subject: True}

    @property
    def needs_size(self) -> bool:
        """Whether `set_size` must be called though color images are not needed."""
        return self._followed.others.needs_size

    @property
    def waiting(self) -> dict[str, str]:
        """What is missing now, in words, by stream; a stream that the model can do without too."""
        with self._lock:
            others = {stream: self._followed.others.absent(stream) for stream in self.streams if stream != self.subject}
            first = {self.subject: f"no {WORDS[self.subject]} so far"} if self._last_ns is None else {}
        return {**first, **{stream: words for stream, words in others.items() if words}}

    # -- streams -------------------------------------------------------------------------------------------------------

    def add_hands(self, stamp_ns: int, hands: Sequence[Hand]) -> None:
        """The hands found in a frame. A model of hands is given them by `observe` or `update` instead."""
        with self._lock:
            self._followed.others.add_hands(stamp_ns, hands)

    def add_faces(self, stamp_ns: int, faces: Sequence[Face]) -> None:
        """The faces found in a frame."""
        with self._lock:
            self._followed.others.add_faces(stamp_ns, faces)

    def add_flow(self, stamp_ns: int, flow: np.ndarray, intrinsics: Intrinsics) -> None:
        """Scene flow [h, w, 3] m/s, stamped with the first frame of its pair; intrinsics of its pixels."""
        with self._lock:
            self._followed.others.add_flow(stamp_ns, flow, intrinsics)

    def add_color(self, stamp_ns: int, color: np.ndarray) -> None:
        """A color image [H, W, 3] uint8 RGB, which must not change any more."""
        with self._lock:
            self._followed.others.add_color(stamp_ns, color)

    def set_size(self, width: int, height: int) -> None:
        """The size of the color image in which pixels are counted."""
        with self._lock:
            self._followed.others.size = (width, height)

    # -- frames --------------------------------------------------------------------------------------------------------

    def update(self, stamp_ns: int, bodies: Sequence[Body], predict: bool = True) -> list[LabeledWindow]:
        """Takes one frame's skeletons in and labels the bodies that are due.

        Args:
            stamp_ns: The frame's stamp.
            bodies: Those in the frame, in any layout that converts to kinect_v2_25, each with its own id; hands for a
                model of hands.
            predict: False only feeds the windows (a newer frame is already waiting); endings are still reported.

        Returns:
            One entry a body that was due, or that has left; one with an empty id where nobody is in the scene.

        Raises:
            InputError: A body without id or with that of another, of unknown layout or with the wrong number of joints,
                or with infinite coordinates. Nothing of that frame is used.
        """
        labels = self.observe(stamp_ns, bodies)
        return labels + self.judge() if predict else labels

    def observe(self, stamp_ns: int, bodies: Sequence[Body]) -> list[LabeledWindow]:
        """The first half of `update`: feeds the windows; gives one entry a body that has left."""
        with self._lock:
            found = self._followed.read(bodies)
            if stamp_ns == self._last_ns:
                self.counts.duplicates += 1
                return []
            self.counts.frames += 1
            self._skip()
            before = list(self._followed.tracks)
            if self._last_ns is not None and stamp_ns < self._last_ns:
                self._followed.rewind(stamp_ns)
                self._empty_since_judged_ns = None
            self._last_ns = stamp_ns
            self._followed.drop_lost(stamp_ns, found)
            self._pending = _Frame(stamp_ns, self._followed.see(stamp_ns, found), not found)
            # Also of those who are here, but for whom no room was left when all began anew.
            return [self._unknown(body_id, stamp_ns) for body_id in before if body_id not in self._followed.tracks]

    def judge(self) -> list[LabeledWindow]:
        """The second half of `update`: labels the bodies that are due in the newest frame, once.

        All in one run of the network where they are not too large; those too new or whose streams are missing are
        `unknown`. Others may observe meanwhile.
        """
        with self._lock:
            frame, self._pending = self._pending, None
            if frame is None:
                return []
            if frame.empty:
                return self._empty_scene(frame.stamp_ns)
            self._empty_since_judged_ns = None
            session = self._session
            labels, ready = self._ready(frame)
            starts = [track.window.start_ns for _, track in ready]
            clips = self._followed.clips([body_id for body_id, _ in ready], frame.stamp_ns)
        predictions = session.predict_many(clips)
        with self._lock:
            for (body_id, track), start_ns, prediction in zip(ready, starts, predictions, strict=True):
                smoothed = self._smooth(session, track, prediction, frame.stamp_ns)
                labels.append(self._labeled(session, body_id, start_ns, frame.stamp_ns, smoothed))
        return labels

    def _skip(self) -> None:
        """Counts what will not be said of a frame that nobody has judged."""
        if self._pending is not None:
            self.counts.skipped += len(self._due_in(self._pending))
            self._pending = None

    # -- labels --------------------------------------------------------------------------------------------------------

    def _due(self, judged_ns: int | None, stamp_ns: int) -> bool:
        return judged_ns is None or stamp_ns - judged_ns >= self.config.interval_s * NANOSECONDS

    def _due_in(self, frame: _Frame) -> list[str]:
        tracks = self._followed.tracks
        return [b for b in frame.present if b in tracks and self._due(tracks[b].judged_ns, frame.stamp_ns)]

    def _empty_scene(self, stamp_ns: int) -> list[LabeledWindow]:
        if not self._due(self._empty_since_judged_ns, stamp_ns):
            return []
        self._empty_since_judged_ns = stamp_ns
        return [self._unknown("", stamp_ns)]

    def _unknown(self, body_id: str, stamp_ns: int, start_ns: int | None = None, reason: str = "") -> LabeledWindow:
        start = stamp_ns if start_ns is None else start_ns
        return LabeledWindow(body_id, UNKNOWN, -1, 0.0, (), (), start, stamp_ns, self._session.package.name, reason)

    def _ready(self, frame: _Frame) -> tuple[list[LabeledWindow], list[tuple[str, Track]]]:
        """The bodies that are due: labels of those that cannot be judged, and the others."""
        labels, ready = [], []
        for body_id in self._due_in(frame):
            track = self._followed.tracks[body_id]
            track.judged_ns = frame.stamp_ns
            young = self._followed.young(body_id)
            reason = "" if young else self._followed.others.lacking(body_id)
            self.counts.waiting += bool(reason)
            if young or reason:
                labels.append(self._unknown(body_id, frame.stamp_ns, track.window.start_ns, reason))
            else:
                ready.append((body_id, track))
        self.counts.labels += len(ready)
        return labels, ready

    def _smooth(self, session: Session, track: Track, prediction: Prediction, stamp_ns: int) -> Prediction:
        """Exponential average in time of a body's probabilities, then the rejection anew."""
        other_model = session is not self._session  # it was swapped in while the network ran
        if self.config.smoothing_s == 0 or other_model or np.isnan(prediction.probabilities).any():
            return prediction
        if track.smoothed is None:
            track.smoothed = prediction.probabilities
        else:
            elapsed = (stamp_ns - track.smoothed_ns) / NANOSECONDS
            keep = math.exp(-elapsed / self.config.smoothing_s)
            track.smoothed = keep * track.smoothed + (1 - keep) * prediction.probabilities
        track.smoothed_ns = stamp_ns
        return session.judge(track.smoothed)

    def _labeled(
        self, session: Session, body_id: str, start_ns: int, stamp_ns: int, prediction: Prediction
    ) -> LabeledWindow:
        top = prediction.top(self.config.top_k)
        return LabeledWindow(
            body_id,
            prediction.label,
            prediction.class_id,
            prediction.confidence,
            tuple(label for label, _ in top),
            tuple(probability for _, probability in top),
            start_ns,
            stamp_ns,
            session.package.name,
        )
