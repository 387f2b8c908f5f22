"""Tracking of bodies: stable ids from frame to frame, and smoothed joints."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from actrec.skeleton.windows import OneEuro
from actrec.types import NANOSECONDS, Body
from actrec.utils.config import build, setting
from actrec.utils.errors import InputError

STATURE_M = 1.7
"""Assumed extent of a person in the image; converts pixel distances to meters if positions are unknown."""

DUPLICATE_M = 0.2
"""Two tracks nearer than this are one person: two people are further apart, even if they embrace."""

DRIFT_M_S, WIDEST_M = 1.0, 0.9
"""Growth of a track's gate while it is not detected, and its limit: the cost of a joint is at most 1 m."""

MOST_M = 1.0
"""Least limit of the distance of a joint in a cost."""

FAR = 1e3


@dataclass(frozen=True)
class TrackerConfig:
    """Settings of the body tracker."""

    gate_m: float = setting(
        0.6, "Maximum mean joint distance between a track's prediction and its body", unit="m", range=(0.01, 10.0)
    )
    max_lost_s: float = setting(
        1.0, "Time without detection after which a track ends; the body then gets a new id", unit="s", range=(0.0, 60.0)
    )
    min_hits: int = setting(2, "Frames in which a new body must be detected before it is reported", range=(1, 100))
    smooth: bool = setting(True, "Filter joints with a One-Euro filter")
    min_cutoff_hz: float = setting(
        2.0, "One-Euro: cutoff of joints at rest; lower is smoother", unit="Hz", range=(0.01, 100.0)
    )
    beta: float = setting(
        5.0, "One-Euro: rise of the cutoff with speed in m/s; higher lags less", unit="Hz/(m/s)", range=(0.0, 1000.0)
    )


@dataclass
class Track:
    """State of one tracked body."""

    body_id: str
    body: Body  # last detection
    stamp_ns: int  # of the last detection
    hits: int = 1  # number of detections
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(3, np.float32))  # m/s
    pixel_velocity: np.ndarray = field(default_factory=lambda: np.zeros(2, np.float32))  # px/s
    filter: OneEuro | None = None
    duplicate_of: str = ""  # id of an older track of maybe the same person; empty once both were detected apart

    def predict(self, stamp_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Predict positions [V, 3] and pixels [V, 2] at `stamp_ns`, at constant velocity for at most 0.5 s."""
        dt = min((stamp_ns - self.stamp_ns) / NANOSECONDS, 0.5)
        return self.body.positions + self.velocity * dt, self.body.pixels + self.pixel_velocity * dt

    def update(self, stamp_ns: int, body: Body) -> None:
        """Add a detection."""
        dt = max((stamp_ns - self.stamp_ns) / NANOSECONDS, 1e-3)
        gain = 1 - np.exp(-dt / 0.15)
        self.velocity = _smooth_velocity(self.velocity, body.positions - self.body.positions, dt, gain)
        self.pixel_velocity = _smooth_velocity(self.pixel_velocity, body.pixels - self.body.pixels, dt, gain)
        self.body, self.stamp_ns, self.hits = body, stamp_ns, self.hits + 1


class Tracker:
    """Assignment of each frame's bodies to tracks.

    The cost is the mean joint distance from a constant-velocity prediction, in meters, or in pixels scaled by the
    person's extent if positions are unknown; the assignment is optimal. Ids are "body_1", "body_2", …, never reused.
    `options` are fields of `TrackerConfig`.
    """

    config_class = TrackerConfig

    def __init__(self, **options: Any):
        from scipy.optimize import linear_sum_assignment  # takes 0.8 s, and nodes of hands and faces need none

        self.config, self._assign = build(TrackerConfig, options), linear_sum_assignment
        self._most_m = max(MOST_M, 1.5 * self.config.gate_m)  # beyond every gate
        self._tracks: list[Track] = []
        self._detected: set[str] = set()
        self._count = 0
        self._stamp_ns: int | None = None
        self._interval_ns = 0

    def update(self, stamp_ns: int, bodies: list[Body]) -> list[Body]:
        """Track (and smooth) the bodies of one frame; raise InputError for bodies of different layouts.

        A stamp before the last one resets the tracker. The result are copies, with ids and sorted by id, of the bodies
        detected now and in at least `min_hits` frames.
        """
        if len({body.layout for body in bodies} | {track.body.layout for track in self._tracks}) > 1:
            raise InputError("the tracker got bodies of different layouts; convert them to one layout first")
        if self._stamp_ns is not None and stamp_ns < self._stamp_ns:
            self.reset()
        # If frames are further apart than max_lost_s, a body detected in each of them was never lost.
        limit = max(self.config.max_lost_s * NANOSECONDS, 1.5 * self._interval_ns)
        self._interval_ns = 0 if self._stamp_ns is None else stamp_ns - self._stamp_ns
        self._stamp_ns = stamp_ns
        self._tracks = [track for track in self._tracks if stamp_ns - track.stamp_ns <= limit]
        bodies = [body for body in bodies if np.isfinite(body.positions).any() or np.isfinite(body.pixels).any()]
        # Not compared by stamp: a camera may repeat one, and bodies of the last frame would count as detected now.
        self._detected = self._merge(stamp_ns, self._match(stamp_ns, bodies))
        reported = [t for t in self._tracks if t.body_id in self._detected and t.hits >= self.config.min_hits]
        return [self._output(track) for track in reported]

    def reset(self) -> None:
        """End all tracks; ids continue to count up."""
        self._tracks, self._detected, self._stamp_ns, self._interval_ns = [], set(), None, 0

    def _match(self, stamp_ns: int, bodies: list[Body]) -> set[str]:
        """Update or start a track for each body; return the ids of these tracks."""
        costs = np.array([[_cost(*t.predict(stamp_ns), body, self._most_m) for body in bodies] for t in self._tracks])
        costs = costs.reshape(len(self._tracks), len(bodies))
        unmatched, detected = set(range(len(bodies))), set[str]()
        gates = np.array([[self._gate(track, stamp_ns)] for track in self._tracks]).reshape(-1, 1)
        for row, column in zip(*self._assign(np.where(costs <= gates, costs, FAR)), strict=True):
            if costs[row, column] <= gates[row]:
                self._tracks[row].update(stamp_ns, bodies[column])
                unmatched.discard(int(column))
                detected.add(self._tracks[row].body_id)
        for column in sorted(unmatched):
            self._count += 1
            detected.add(f"body_{self._count}")
            joint_filter = OneEuro(self.config.min_cutoff_hz, self.config.beta) if self.config.smooth else None
            distances = [(_offset(t.predict(stamp_ns)[0], bodies[column]), t.body_id) for t in self._tracks]
            least, nearest = min(distances, default=(FAR, ""))
            track = Track(f"body_{self._count}", bodies[column], stamp_ns, filter=joint_filter)
            track.duplicate_of = nearest if least < self.config.gate_m else ""
            self._tracks.append(track)
        return detected

    def _gate(self, track: Track, stamp_ns: int) -> float:
        """Return the gate of a track: the longer it was not detected, the less its place is known."""
        lost_ns = max(stamp_ns - track.stamp_ns - self._interval_ns, 0)
        return max(self.config.gate_m, min(self.config.gate_m + DRIFT_M_S * lost_ns / NANOSECONDS, WIDEST_M))

    def _merge(self, stamp_ns: int, detected: set[str]) -> set[str]:
        """Merge duplicate tracks of one person into the older one; return the ids detected now.

        An estimator sometimes returns two bodies for one person. Afterwards two tracks lie on that person and would
        alternate for as long as the person stays: one matches whenever the estimator returns left and right as they
        are, the other whenever it swaps them, as it does with people far away.
        """
        known = {track.body_id: track for track in self._tracks}
        for newer in self._tracks:
            older = known.get(newer.duplicate_of)
            if older is None:
                continue
            pair = {older.body_id, newer.body_id}
            lost, present = (older, newer) if newer.body_id in detected else (newer, older)
            offset = _offset(lost.predict(stamp_ns)[0], present.body)
            if pair <= detected and self.config.gate_m < offset < FAR:
                newer.duplicate_of = ""
            elif len(pair & detected) == 1 and pair <= self._detected | detected and offset < DUPLICATE_M:
                if lost is older:
                    older.update(stamp_ns, present.body)
                self._tracks.remove(newer)
                for other in self._tracks:  # a person may have three tracks
                    if other.duplicate_of == newer.body_id:
                        other.duplicate_of = older.body_id
                return self._merge(stamp_ns, detected - pair | {older.body_id})
        return detected

    def _output(self, track: Track) -> Body:
        positions = track.body.positions
        if track.filter is not None:
            positions = track.filter.update(track.stamp_ns / NANOSECONDS, positions)
        return replace(track.body, body_id=track.body_id, positions=positions)


def _smooth_velocity(old: np.ndarray, moved: np.ndarray, dt: float, gain: float) -> np.ndarray:
    """Return the median velocity of the joints, low-pass filtered."""
    known = moved[np.isfinite(moved).all(axis=1)]
    if not len(known):
        return old
    return (old + gain * (np.median(known, axis=0) / dt - old)).astype(np.float32)


def _cost(positions: np.ndarray, pixels: np.ndarray, body: Body, most_m: float = MOST_M) -> float:
    """Return the mean distance in meters of a body's joints from their prediction, each at most `most_m`."""
    distances = np.linalg.norm(positions - body.positions, axis=1)
    weight = np.where(np.isfinite(distances), body.scores + 0.05, 0.0)
    if weight.sum() == 0:
        if not np.isfinite(body.pixels).any():
            return FAR
        extent = float(np.linalg.norm(np.nanmax(body.pixels, axis=0) - np.nanmin(body.pixels, axis=0)))
        distances = np.linalg.norm(pixels - body.pixels, axis=1) * STATURE_M / max(extent, 1.0)
        weight = np.where(np.isfinite(distances), body.scores + 0.05, 0.0)
    if weight.sum() == 0:
        return FAR
    return float((weight * np.minimum(np.nan_to_num(distances), most_m)).sum() / weight.sum())


def _offset(positions: np.ndarray, body: Body) -> float:
    """Return the median offset in meters of a body from predicted positions; it does not depend on swapped joints."""
    known = (positions - body.positions)[np.isfinite(positions + body.positions).all(axis=1)]
    return float(np.linalg.norm(np.median(known, axis=0))) if len(known) else FAR
