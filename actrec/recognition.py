"""From tracked skeletons to labelled windows: one window a body, all bodies in one run; the recognizer without ROS."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actrec import config
from actrec.config import setting
from actrec.errors import InputError, PackageError
from actrec.frames import NANOSECONDS, Body
from actrec.inference.session import Prediction, Session
from actrec.package import UNKNOWN
from actrec.skeleton import layouts
from actrec.skeleton.conversions import CANONICAL, convert
from actrec.windows import Window


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
    smoothing_s: float = setting(
        0.0, "time constant over which a body's probabilities are averaged; 0 for none", unit="s", range=(0.0, 60.0)
    )
    top_k: int = setting(5, "classes listed with each label", range=(1, 1000))


@dataclass(frozen=True)
class LabelledWindow:
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


@dataclass
class Counts:
    """What a recognizer has done since it started."""

    frames: int = 0
    labels: int = 0
    skipped: int = 0
    duplicates: int = 0
    restarts: int = 0
    left_out: int = 0


@dataclass
class _Track:
    """One body that is followed."""

    window: Window
    last_seen_ns: int = 0
    judged_ns: int | None = None
    smoothed: np.ndarray | None = None
    smoothed_ns: int = 0


class Recognizer:
    """Keeps a window for each body and labels it.

    A frame without anybody gives one `unknown` with an empty body id. A body that has gone gets one last `unknown`
    after `lost_after_s`; one that comes back later starts anew. Until then nothing is said of it. When stamps jump back
    (a recording that loops) every window restarts. For a package that looks at M > 1 bodies, a body's clip holds itself
    first, then the others in view from near to far.

    Args:
        session: The model.
        **options: Fields of `RecognitionConfig`.

    Raises:
        PackageError: The model takes another layout than kinect_v2_25.
    """

    def __init__(self, session: Session, **options: Any):
        self.config = config.build(RecognitionConfig, options)
        self.counts = Counts()
        self._session = _canonical_only(session)
        self._tracks: dict[str, _Track] = {}
        self._last_ns: int | None = None
        self._empty_since_judged_ns: int | None = None

    @property
    def session(self) -> Session:
        """The model in use."""
        return self._session

    def use(self, session: Session) -> None:
        """Swaps the model. Bodies stay known, but their windows start anew: a window's length belongs to the model."""
        self._session = _canonical_only(session)
        for track in self._tracks.values():
            track.window, track.judged_ns, track.smoothed = self._window(), None, None

    def update(self, stamp_ns: int, bodies: Sequence[Body], predict: bool = True) -> list[LabelledWindow]:
        """Takes one frame's skeletons in and labels the bodies that are due.

        Args:
            stamp_ns: The frame's stamp.
            bodies: Those in the frame, in any layout that converts to kinect_v2_25, each with its own id.
            predict: False only feeds the windows (a newer frame is already waiting); endings are still reported.

        Returns:
            One entry a body that was due, or that has left; one with an empty id where nobody is in the scene.

        Raises:
            InputError: A body without id or with that of another, of unknown layout or with the wrong number of joints,
                or with infinite coordinates. Nothing of that frame is used.
        """
        seen = _joints_by_id(bodies)
        if stamp_ns == self._last_ns:
            self.counts.duplicates += 1
            return []
        self.counts.frames += 1
        labels = self._restart(stamp_ns, seen) if self._last_ns is not None and stamp_ns < self._last_ns else []
        self._last_ns = stamp_ns
        labels += self._drop_lost(stamp_ns, seen)
        for body_id in self._followed(seen):
            self._observe(body_id, stamp_ns, seen[body_id])
        present = [body_id for body_id, track in self._tracks.items() if track.last_seen_ns == stamp_ns]
        due = [body_id for body_id in present if self._due(self._tracks[body_id].judged_ns, stamp_ns)]
        if not predict:
            self.counts.skipped += len(due)
            return labels
        if not seen:
            return labels + self._empty_scene(stamp_ns)
        self._empty_since_judged_ns = None
        return labels + self._judge(due, present, stamp_ns)

    def _restart(self, stamp_ns: int, seen: dict[str, np.ndarray]) -> list[LabelledWindow]:
        """Forgets all windows because time jumped back; what is no longer there is reported as ended."""
        self.counts.restarts += 1
        gone = [self._unknown(body_id, stamp_ns) for body_id in self._tracks if body_id not in seen]
        self._tracks.clear()
        self._empty_since_judged_ns = None
        return gone

    def _followed(self, seen: dict[str, np.ndarray]) -> list[str]:
        """Ids to follow: those known already, then newcomers from near to far while there is room."""
        known = [body_id for body_id in seen if body_id in self._tracks]
        new = sorted((b for b in seen if b not in self._tracks), key=lambda b: float(np.nanmedian(seen[b][:, 2])))
        room = max(self.config.max_bodies - len(self._tracks), 0)
        self.counts.left_out += len(new[room:])
        return known + new[:room]

    def _observe(self, body_id: str, stamp_ns: int, joints: np.ndarray) -> None:
        track = self._tracks.get(body_id)
        if track is None:
            track = self._tracks[body_id] = _Track(self._window())
        if track.window.add(stamp_ns, joints):
            self.counts.restarts += 1
            track.smoothed = None
        track.last_seen_ns = stamp_ns

    def _window(self) -> Window:
        window = self._session.package.window
        return Window(window.seconds, window.frames, self.config.max_gap_s)

    def _drop_lost(self, stamp_ns: int, seen: dict[str, np.ndarray]) -> list[LabelledWindow]:
        limit = stamp_ns - int(self.config.lost_after_s * NANOSECONDS)
        lost = [b for b, track in self._tracks.items() if b not in seen and track.last_seen_ns <= limit]
        for body_id in lost:
            del self._tracks[body_id]
        return [self._unknown(body_id, stamp_ns) for body_id in lost]

    def _due(self, judged_ns: int | None, stamp_ns: int) -> bool:
        return judged_ns is None or stamp_ns - judged_ns >= self.config.interval_s * NANOSECONDS

    def _empty_scene(self, stamp_ns: int) -> list[LabelledWindow]:
        if not self._due(self._empty_since_judged_ns, stamp_ns):
            return []
        self._empty_since_judged_ns = stamp_ns
        return [self._unknown("", stamp_ns)]

    def _unknown(self, body_id: str, stamp_ns: int, start_ns: int | None = None) -> LabelledWindow:
        start = stamp_ns if start_ns is None else start_ns
        return LabelledWindow(body_id, UNKNOWN, -1, 0.0, (), (), start, stamp_ns, self._session.package.name)

    def _judge(self, due: list[str], present: list[str], stamp_ns: int) -> list[LabelledWindow]:
        """Labels the bodies that are due, in one run of the network; those too new are unknown."""
        labels, ready = [], []
        for body_id in due:
            track = self._tracks[body_id]
            track.judged_ns = stamp_ns
            if track.window.duration_s < min(self.config.min_seconds, track.window.seconds) - 1e-6:
                labels.append(self._unknown(body_id, stamp_ns, track.window.start_ns))
            else:
                ready.append(body_id)
        self.counts.labels += len(ready)
        for body_id, prediction in zip(ready, self._session.predict_many(self._clips(ready, present)), strict=True):
            labels.append(self._labelled(body_id, stamp_ns, self._smooth(self._tracks[body_id], prediction, stamp_ns)))
        return labels

    def _clips(self, ready: list[str], present: list[str]) -> list[dict[str, np.ndarray]]:
        """One clip [M, T, V, 3] a body, itself first, then those nearest to it."""
        count = self._session.package.bodies
        needed = present if count > 1 else ready
        joints = {body_id: self._tracks[body_id].window.positions() for body_id in (needed if ready else [])}
        centres = {body_id: np.nanmedian(clip[-1], axis=0) for body_id, clip in joints.items()} if count > 1 else {}
        clips = []
        for body_id in ready:
            others = sorted((b for b in centres if b != body_id), key=lambda b: _distance(centres[b], centres[body_id]))
            clips.append({"bodies": np.stack([joints[b] for b in [body_id, *others[: count - 1]]])})
        return clips

    def _smooth(self, track: _Track, prediction: Prediction, stamp_ns: int) -> Prediction:
        """Exponential average in time of a body's probabilities, then the rejection anew."""
        if self.config.smoothing_s == 0 or np.isnan(prediction.probabilities).any():
            return prediction
        if track.smoothed is None:
            track.smoothed = prediction.probabilities
        else:
            elapsed = (stamp_ns - track.smoothed_ns) / NANOSECONDS
            keep = math.exp(-elapsed / self.config.smoothing_s)
            track.smoothed = keep * track.smoothed + (1 - keep) * prediction.probabilities
        track.smoothed_ns = stamp_ns
        return self._session.judge(track.smoothed)

    def _labelled(self, body_id: str, stamp_ns: int, prediction: Prediction) -> LabelledWindow:
        top = prediction.top(self.config.top_k)
        return LabelledWindow(
            body_id,
            prediction.label,
            prediction.class_id,
            prediction.confidence,
            tuple(label for label, _ in top),
            tuple(probability for _, probability in top),
            self._tracks[body_id].window.start_ns,
            stamp_ns,
            self._session.package.name,
        )


def _canonical_only(session: Session) -> Session:
    for spec in session.package.inputs:
        if spec.layout != CANONICAL:
            raise PackageError(
                f"model {session.package.name} takes {spec.layout} but live skeletons are {CANONICAL}: train it so"
            )
    return session


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b)) if np.isfinite([a, b]).all() else math.inf


def _joints_by_id(bodies: Sequence[Body]) -> dict[str, np.ndarray]:
    """Id to [25, 3] joints of the bodies of which anything is seen; a body without any joint counts as not there."""
    seen: dict[str, np.ndarray] = {}
    for body in bodies:
        if not body.body_id:
            raise InputError("a body has no id: track the skeletons first (skeleton_node does)")
        if body.body_id in seen:
            raise InputError(f"two bodies of one frame have the id '{body.body_id}'")
        joints = _canonical(body)
        if np.isinf(joints).any():
            raise InputError(f"body '{body.body_id}' has infinite coordinates; a missing joint is NaN")
        if not np.isnan(joints).any(axis=-1).all():
            seen[body.body_id] = joints
    return seen


def _canonical(body: Body) -> np.ndarray:
    if body.layout not in layouts.LAYOUTS:
        known = ", ".join(sorted(layouts.LAYOUTS))
        raise InputError(f"body '{body.body_id}' has the unknown layout '{body.layout}'; known: {known}")
    expected = (len(layouts.get(body.layout)), 3)
    if body.positions.shape != expected:
        raise InputError(
            f"body '{body.body_id}' has positions {list(body.positions.shape)}, "
            f"expected {list(expected)} of {body.layout}"
        )
    return convert(body.positions, np.ones(expected[0], dtype=np.float32), body.layout, CANONICAL)[0]
