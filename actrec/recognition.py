"""From what is seen of tracked people to labelled windows: one window a body; the recognizer without ROS."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actrec import config, seen
from actrec.errors import PackageError
from actrec.frames import NANOSECONDS, Body, Face, Hand, Intrinsics
from actrec.inference.clips import body_layout
from actrec.inference.session import Prediction, Session
from actrec.labels import Counts, LabelledWindow, RecognitionConfig
from actrec.observations import Observations
from actrec.package import UNKNOWN
from actrec.seen import Seen
from actrec.skeleton.conversions import CANONICAL
from actrec.windows import Window, sample_stamps

__all__ = ["Counts", "LabelledWindow", "RecognitionConfig", "Recognizer"]

HANDS = ("hand_21", "hand_22")
"""Layouts of the models that label hands instead of bodies."""


@dataclass
class _Track:
    """One body that is followed."""

    window: Window
    last_seen_ns: int = 0
    judged_ns: int | None = None
    smoothed: np.ndarray | None = None
    smoothed_ns: int = 0


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
    first, then the others in view from near to far.

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
        self._tracks: dict[str, _Track] = {}
        self._last_ns: int | None = None
        self._empty_since_judged_ns: int | None = None
        self._pending: _Frame | None = None
        self._session, self._observations, self._layout = self._opened(session)

    # -- the model -----------------------------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """The model in use."""
        return self._session

    def use(self, session: Session) -> None:
        """Swaps the model. Bodies stay known, but their windows start anew: a window's length belongs to the model."""
        opened = self._opened(session)
        with self._lock:
            opened[1].size = self._observations.size
            other_joints = opened[2] != self._layout
            self._session, self._observations, self._layout = opened
            if other_joints:
                self._skip()
            for body_id, track in self._tracks.items():
                old, track.window = track.window, self._window()
                track.judged_ns, track.smoothed = None, None
                self._observations.follow(body_id)
                if self._pending is not None and body_id in self._pending.present:
                    track.window.add(old.end_ns, old.newest)  # this frame is the new model's to judge

    def _opened(self, session: Session) -> tuple[Session, Observations, str]:
        layout = body_layout(session.package)
        if layout not in (CANONICAL, *HANDS):
            raise PackageError(
                f"model {session.package.name} takes {layout} but live skeletons are {CANONICAL}: train it so"
            )
        return session, Observations(session, self.config.max_gap_s, self.config.stream_timeout_s), layout

    @property
    def subject(self) -> str:
        """The stream whose frames are labelled: "bodies", or "hands" for a model of hands."""
        return "hands" if self._layout in HANDS else "bodies"

    @property
    def streams(self) -> dict[str, bool]:
        """What the model needs, and whether it is needed at all costs; see `actrec.features.streams`."""
        others = {name: needed for name, needed in self._observations.streams.items() if name != "bodies"}
        return {**others, self.subject: True}

    @property
    def needs_size(self) -> bool:
        """Whether `set_size` must be called though colour images are not needed."""
        return self._observations.needs_size

    @property
    def waiting(self) -> dict[str, str]:
        """What is missing now, in words, by stream; a stream that the model can do without too."""
        with self._lock:
            missing = {stream: self._observations.absent(stream) for stream in self.streams}
        return {stream: words for stream, words in missing.items() if words}

    # -- streams -------------------------------------------------------------------------------------------------------

    def add_hands(self, stamp_ns: int, hands: Sequence[Hand]) -> None:
        """The hands found in a frame. A model of hands is given them by `observe` or `update` instead."""
        with self._lock:
            self._observations.add_hands(stamp_ns, hands)

    def add_faces(self, stamp_ns: int, faces: Sequence[Face]) -> None:
        """The faces found in a frame."""
        with self._lock:
            self._observations.add_faces(stamp_ns, faces)

    def add_flow(self, stamp_ns: int, flow: np.ndarray, intrinsics: Intrinsics) -> None:
        """Scene flow [h, w, 3] m/s, stamped with the first frame of its pair; intrinsics of its pixels."""
        with self._lock:
            self._observations.add_flow(stamp_ns, flow, intrinsics)

    def add_colour(self, stamp_ns: int, colour: np.ndarray) -> None:
        """A colour image [H, W, 3] uint8 RGB, which must not change any more."""
        with self._lock:
            self._observations.add_colour(stamp_ns, colour)

    def set_size(self, width: int, height: int) -> None:
        """The size of the colour image in which pixels are counted."""
        with self._lock:
            self._observations.size = (width, height)

    # -- frames --------------------------------------------------------------------------------------------------------

    def update(self, stamp_ns: int, bodies: Sequence[Body], predict: bool = True) -> list[LabelledWindow]:
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

    def observe(self, stamp_ns: int, bodies: Sequence[Body]) -> list[LabelledWindow]:
        """The first half of `update`: feeds the windows; gives one entry a body that has left."""
        with self._lock:
            found = seen.by_id(bodies, self._layout, self._observations.needs_pixels)
            if stamp_ns == self._last_ns:
                self.counts.duplicates += 1
                return []
            self.counts.frames += 1
            self._skip()
            back = self._last_ns is not None and stamp_ns < self._last_ns
            labels = self._restart(stamp_ns, found) if back else []
            self._last_ns = stamp_ns
            labels += self._drop_lost(stamp_ns, found)
            for body_id in self._followed(found):
                self._see(body_id, stamp_ns, found[body_id])
            self._observations.add_skeletons(stamp_ns, found)
            present = [body_id for body_id, track in self._tracks.items() if track.last_seen_ns == stamp_ns]
            self._pending = _Frame(stamp_ns, present, not found)
            return labels

    def judge(self) -> list[LabelledWindow]:
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
            clips = self._clips([body_id for body_id, _ in ready], frame)
        predictions = session.predict_many(clips)
        with self._lock:
            for (body_id, track), start_ns, prediction in zip(ready, starts, predictions, strict=True):
                smoothed = self._smooth(session, track, prediction, frame.stamp_ns)
                labels.append(self._labelled(session, body_id, start_ns, frame.stamp_ns, smoothed))
        return labels

    def _skip(self) -> None:
        """Counts what will not be said of a frame that nobody has judged."""
        if self._pending is not None:
            self.counts.skipped += len(self._due_in(self._pending))
            self._pending = None

    def _restart(self, stamp_ns: int, found: dict[str, Seen]) -> list[LabelledWindow]:
        """Forgets all windows because time jumped back; what is no longer there is reported as ended."""
        self.counts.restarts += 1
        gone = [self._unknown(body_id, stamp_ns) for body_id in self._tracks if body_id not in found]
        self._tracks.clear()
        self._observations.rewind(stamp_ns)
        self._empty_since_judged_ns = None
        return gone

    def _followed(self, found: dict[str, Seen]) -> list[str]:
        """Ids to follow: those known already, then newcomers from near to far while there is room."""
        known = [body_id for body_id in found if body_id in self._tracks]
        new = sorted(
            (b for b in found if b not in self._tracks), key=lambda b: float(np.nanmedian(found[b].positions[:, 2]))
        )
        room = max(self.config.max_bodies - len(self._tracks), 0)
        self.counts.left_out += len(new[room:])
        return known + new[:room]

    def _see(self, body_id: str, stamp_ns: int, body: Seen) -> None:
        track = self._tracks.get(body_id)
        if track is None:
            track = self._tracks[body_id] = _Track(self._window())
            self._observations.follow(body_id)
        if track.window.add(stamp_ns, body.positions):
            self.counts.restarts += 1
            track.smoothed = None
            self._observations.follow(body_id)
        track.last_seen_ns = stamp_ns

    def _window(self) -> Window:
        window = self._session.package.window
        return Window(window.seconds, window.frames, self.config.max_gap_s)

    def _drop_lost(self, stamp_ns: int, found: dict[str, Seen]) -> list[LabelledWindow]:
        limit = stamp_ns - int(self.config.lost_after_s * NANOSECONDS)
        lost = [b for b, track in self._tracks.items() if b not in found and track.last_seen_ns <= limit]
        for body_id in lost:
            del self._tracks[body_id]
            self._observations.drop(body_id)
        return [self._unknown(body_id, stamp_ns) for body_id in lost]

    # -- labels --------------------------------------------------------------------------------------------------------

    def _due(self, judged_ns: int | None, stamp_ns: int) -> bool:
        return judged_ns is None or stamp_ns - judged_ns >= self.config.interval_s * NANOSECONDS

    def _due_in(self, frame: _Frame) -> list[str]:
        return [b for b in frame.present if b in self._tracks and self._due(self._tracks[b].judged_ns, frame.stamp_ns)]

    def _empty_scene(self, stamp_ns: int) -> list[LabelledWindow]:
        if not self._due(self._empty_since_judged_ns, stamp_ns):
            return []
        self._empty_since_judged_ns = stamp_ns
        return [self._unknown("", stamp_ns)]

    def _unknown(self, body_id: str, stamp_ns: int, start_ns: int | None = None, reason: str = "") -> LabelledWindow:
        start = stamp_ns if start_ns is None else start_ns
        return LabelledWindow(body_id, UNKNOWN, -1, 0.0, (), (), start, stamp_ns, self._session.package.name, reason)

    def _ready(self, frame: _Frame) -> tuple[list[LabelledWindow], list[tuple[str, _Track]]]:
        """The bodies that are due: labels of those that cannot be judged, and the others."""
        labels, ready = [], []
        for body_id in self._due_in(frame):
            track = self._tracks[body_id]
            track.judged_ns = frame.stamp_ns
            young = track.window.duration_s < min(self.config.min_seconds, track.window.seconds) - 1e-6
            reason = "" if young else self._observations.lacking(body_id)
            self.counts.waiting += bool(reason)
            if young or reason:
                labels.append(self._unknown(body_id, frame.stamp_ns, track.window.start_ns, reason))
            else:
                ready.append((body_id, track))
        self.counts.labels += len(ready)
        return labels, ready

    def _clips(self, ready: list[str], frame: _Frame) -> list[dict[str, Any]]:
        """One clip [M, T, V, 3] a body, itself first, then those nearest to it."""
        package = self._session.package
        count = package.bodies
        needed = (frame.present if count > 1 else ready) if ready else []
        joints = {body_id: self._tracks[body_id].window.positions() for body_id in needed}
        centres = {body_id: np.nanmedian(clip[-1], axis=0) for body_id, clip in joints.items()} if count > 1 else {}
        wanted = sample_stamps(frame.stamp_ns, package.window.seconds, package.window.frames)
        clips = []
        for body_id in ready:
            others = sorted((b for b in centres if b != body_id), key=lambda b: _distance(centres[b], centres[body_id]))
            chosen = [body_id, *others[: count - 1]]
            # Before a body was first seen its first pose is held, and so is all else.
            stamps = [np.maximum(wanted, self._tracks[b].window.start_ns) for b in chosen]
            clips.append({"bodies": np.stack([joints[b] for b in chosen]), **self._observations.clip(chosen, stamps)})
        return clips

    def _smooth(self, session: Session, track: _Track, prediction: Prediction, stamp_ns: int) -> Prediction:
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

    def _labelled(
        self, session: Session, body_id: str, start_ns: int, stamp_ns: int, prediction: Prediction
    ) -> LabelledWindow:
        top = prediction.top(self.config.top_k)
        return LabelledWindow(
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


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b)) if np.isfinite([a, b]).all() else math.inf
