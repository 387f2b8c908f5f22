"""Gives bodies stable ids from frame to frame, and smooths their joints."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from actrec.skeleton.filters import OneEuro
from actrec.types import NANOSECONDS, Body
from actrec.utils.config import build, setting
from actrec.utils.errors import InputError

STATURE_M = 1.7
"""Turns distances in pixels to metres where positions are unknown: a person's extent in the image is taken for this."""

TWINS_M = 0.2
"""Two tracks so near to each other are of one person: two people are further apart, even where they embrace."""

FAR = 1e3


@dataclass(frozen=True)
class TrackerConfig:
    """Settings of the body tracker."""

    gate_m: float = setting(
        0.6, "Mean joint distance from the prediction beyond which it is another body", unit="m", range=(0.01, 10.0)
    )
    max_lost_s: float = setting(
        1.0, "A body unseen for longer is gone; seen again it gets a new id", unit="s", range=(0.0, 60.0)
    )
    min_hits: int = setting(2, "Frames in which a new body must be seen before it is reported", range=(1, 100))
    smooth: bool = setting(True, "Filter joints with a One-Euro filter")
    min_cutoff_hz: float = setting(
        2.0, "One-Euro: cutoff of joints at rest; lower is smoother", unit="Hz", range=(0.01, 100.0)
    )
    beta: float = setting(
        5.0, "One-Euro: rise of the cutoff with speed in m/s; higher lags less", unit="Hz/(m/s)", range=(0.0, 1000.0)
    )


@dataclass
class Track:
    """One body followed over time: its last joints, velocity (metres and pixels per second) and sightings.

    `twin` is the track beside which it was first seen, until both have been seen apart: they may be of one person.
    """

    body_id: str
    body: Body
    seen_ns: int
    hits: int = 1
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(3, np.float32))
    drift: np.ndarray = field(default_factory=lambda: np.zeros(2, np.float32))
    filter: OneEuro | None = None
    twin: str = ""

    def predicted(self, stamp_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions [V, 3] and pixels [V, 2] expected at `stamp_ns`, at constant velocity for at most half a second."""
        dt = min((stamp_ns - self.seen_ns) / NANOSECONDS, 0.5)
        return self.body.positions + self.velocity * dt, self.body.pixels + self.drift * dt

    def renew(self, stamp_ns: int, body: Body) -> None:
        """Takes over a new sighting."""
        dt = max((stamp_ns - self.seen_ns) / NANOSECONDS, 1e-3)
        share = 1 - np.exp(-dt / 0.15)
        self.velocity = _blend(self.velocity, body.positions - self.body.positions, dt, share)
        self.drift = _blend(self.drift, body.pixels - self.body.pixels, dt, share)
        self.body, self.seen_ns, self.hits = body, stamp_ns, self.hits + 1


class Tracker:
    """Assigns each frame's bodies to those known, so that a person keeps an id while in sight.

    The cost is the mean joint distance from a constant-velocity prediction, in metres, or in pixels scaled by the
    person's extent where positions are unknown; the assignment is optimal. Ids are "body_1", "body_2", …, never used
    twice.

    Args:
        options: Fields of `TrackerConfig`.
    """

    config_class = TrackerConfig

    def __init__(self, **options: Any):
        self.config = build(TrackerConfig, options)
        self._tracks: list[Track] = []
        self._seen: set[str] = set()
        self._count = 0
        self._stamp_ns: int | None = None
        self._pace_ns = 0

    def update(self, stamp_ns: int, bodies: list[Body]) -> list[Body]:
        """Names (and smooths) the bodies of one frame.

        Args:
            stamp_ns: The frame's time. A stamp before the last one forgets all bodies: time was reset.
            bodies: As estimated, ids ignored, all of one layout.

        Returns:
            Copies with ids of those seen now and often enough before, in order of id.

        Raises:
            InputError: Bodies of different layouts.
        """
        if len({body.layout for body in bodies} | {track.body.layout for track in self._tracks}) > 1:
            raise InputError("the tracker was given bodies of different layouts: convert them to one first")
        if self._stamp_ns is not None and stamp_ns < self._stamp_ns:
            self.reset()
        # Where frames come slower than bodies are given up, who is in every one of them has never been lost.
        limit = max(self.config.max_lost_s * NANOSECONDS, 1.5 * self._pace_ns)
        self._pace_ns = 0 if self._stamp_ns is None else stamp_ns - self._stamp_ns
        self._stamp_ns = stamp_ns
        self._tracks = [track for track in self._tracks if stamp_ns - track.seen_ns <= limit]
        bodies = [body for body in bodies if np.isfinite(body.positions).any() or np.isfinite(body.pixels).any()]
        # Not by the stamp: where a camera repeats one, who was in the frame before would be seen in this one too.
        self._seen = self._merge(stamp_ns, self._match(stamp_ns, bodies))
        return [self._named(t) for t in self._tracks if t.body_id in self._seen and t.hits >= self.config.min_hits]

    def reset(self) -> None:
        """Forgets all bodies; ids go on counting."""
        self._tracks, self._seen, self._stamp_ns, self._pace_ns = [], set(), None, 0

    def _match(self, stamp_ns: int, bodies: list[Body]) -> set[str]:
        """Gives each body its track, old or new; the ids of these tracks."""
        costs = np.array([[_cost(*t.predicted(stamp_ns), body) for body in bodies] for t in self._tracks])
        costs = costs.reshape(len(self._tracks), len(bodies))
        free, seen = set(range(len(bodies))), set[str]()
        for row, column in zip(*linear_sum_assignment(np.where(costs <= self.config.gate_m, costs, FAR)), strict=True):
            if costs[row, column] <= self.config.gate_m:
                self._tracks[row].renew(stamp_ns, bodies[column])
                free.discard(column)
                seen.add(self._tracks[row].body_id)
        for column in sorted(free):
            self._count += 1
            seen.add(f"body_{self._count}")
            filtered = OneEuro(self.config.min_cutoff_hz, self.config.beta) if self.config.smooth else None
            twin = self._beside(stamp_ns, bodies[column])
            self._tracks.append(Track(f"body_{self._count}", bodies[column], stamp_ns, filter=filtered, twin=twin))
        return seen

    def _beside(self, stamp_ns: int, body: Body) -> str:
        """The id of the track nearest to a body, where that is near; else empty."""
        apart = [(_apart(track.predicted(stamp_ns)[0], body), track.body_id) for track in self._tracks]
        least, body_id = min(apart, default=(FAR, ""))
        return body_id if least < self.config.gate_m else ""

    def _merge(self, stamp_ns: int, seen: set[str]) -> set[str]:
        """Leaves of two tracks of one person the older one; the ids of those seen now.

        An estimator takes somebody for two now and then. When it does no longer, two tracks lie where one person is,
        and would take turns at being seen for as long as the person stays: one whenever it sees left and right as
        they are, the other whenever it swaps them, which it does with people far away.
        """
        known = {track.body_id: track for track in self._tracks}
        for newer in self._tracks:
            older = known.get(newer.twin)
            if older is None:
                continue
            pair = {older.body_id, newer.body_id}
            lost, there = (older, newer) if newer.body_id in seen else (newer, older)
            apart = _apart(lost.predicted(stamp_ns)[0], there.body)
            if pair <= seen and self.config.gate_m < apart < FAR:
                newer.twin = ""
            elif len(pair & seen) == 1 and pair <= self._seen | seen and apart < TWINS_M:
                if lost is older:
                    older.renew(stamp_ns, there.body)
                self._tracks.remove(newer)
                for other in self._tracks:  # somebody may be taken for three
                    other.twin = older.body_id if other.twin == newer.body_id else other.twin
                return self._merge(stamp_ns, seen - pair | {older.body_id})
        return seen

    def _named(self, track: Track) -> Body:
        positions = track.body.positions
        if track.filter is not None:
            positions = track.filter.update(track.seen_ns / NANOSECONDS, positions)
        return replace(track.body, body_id=track.body_id, positions=positions)


def _blend(old: np.ndarray, moved: np.ndarray, dt: float, share: float) -> np.ndarray:
    """The body's velocity: the median of its joints', averaged over time."""
    known = moved[np.isfinite(moved).all(axis=1)]
    if not len(known):
        return old
    return (old + share * (np.median(known, axis=0) / dt - old)).astype(np.float32)


def _cost(positions: np.ndarray, pixels: np.ndarray, body: Body) -> float:
    """Mean distance in metres of a body's joints from where they are expected, each at most one metre."""
    apart = np.linalg.norm(positions - body.positions, axis=1)
    weight = np.where(np.isfinite(apart), body.scores + 0.05, 0.0)
    if weight.sum() == 0:
        if not np.isfinite(body.pixels).any():
            return FAR
        extent = float(np.linalg.norm(np.nanmax(body.pixels, axis=0) - np.nanmin(body.pixels, axis=0)))
        apart = np.linalg.norm(pixels - body.pixels, axis=1) * STATURE_M / max(extent, 1.0)
        weight = np.where(np.isfinite(apart), body.scores + 0.05, 0.0)
    if weight.sum() == 0:
        return FAR
    return float((weight * np.minimum(np.nan_to_num(apart), 1.0)).sum() / weight.sum())


def _apart(positions: np.ndarray, body: Body) -> float:
    """Metres by which a body as a whole is away from where it is expected, the turn of its joints left aside."""
    known = (positions - body.positions)[np.isfinite(positions + body.positions).all(axis=1)]
    return float(np.linalg.norm(np.median(known, axis=0))) if len(known) else FAR
