"""Action events: one decision for each action of a body, from the probabilities of its windows.

An average of the probabilities over time begins an event above one limit and ends it below a lower one (hysteresis).
The package has limits for each class. Another action begins only once the present one's average is below its first.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np

from actrec.inference.package import ModelPackage
from actrec.types import NANOSECONDS
from actrec.utils.config import setting

BEGAN, ENDED = "began", "ended"

SAME_PLACE_M = 0.5
"""A new body this near to a lost one, by the median of their joints, is the same person with another id."""


@dataclass(frozen=True)
class EventConfig:
    """Settings of an `EventDetector`."""

    smoothing_s: float = setting(
        0.4, "time constant of the average of a body's probabilities; 0 for none", unit="s", range=(0.0, 60.0)
    )
    begin: float = setting(
        0.0,
        "average probability that begins an event; 0 for the model's own of each class, else its rejection threshold",
        range=(0.0, 1.0),
    )
    end: float = setting(0.6, "fraction of `begin`; the average must stay below it to end an event", range=(0.05, 1.0))
    begin_s: float = setting(
        0.2, "time for which the average must exceed `begin` to begin an event", unit="s", range=(0.0, 60.0)
    )
    end_s: float = setting(
        0.6, "time for which the average must stay below `end` to end an event", unit="s", range=(0.0, 60.0)
    )
    evidence_s: float = setting(
        0.0, "a body tracked for a shorter time begins no event; 0 for the model's window", unit="s", range=(0.0, 60.0)
    )
    min_joints: float = setting(
        0.6, "a body with a smaller share of its joints begins no event: it is cut off or hidden", range=(0.0, 1.0)
    )


@dataclass(frozen=True)
class ActionEvent:
    """The begin or the end of one action of a body."""

    event_id: int  # the same for begin and end; counts from 1
    kind: str  # "began" or "ended"
    body_id: str
    label: str
    class_id: int
    confidence: float  # highest average probability so far
    start_ns: int  # stamp of the frame from which on the average stayed above `end`
    end_ns: int  # stamp of the last frame with an average above `end`; of the newest frame in an event that began
    stamp_ns: int  # stamp of the frame in which this was decided
    position: tuple[float, float, float]  # m in the optical frame, the median of the joints; NaN if unknown
    model_name: str


@dataclass
class _State:
    """State of one body."""

    average: np.ndarray  # [classes]
    stamp_ns: int
    since_ns: np.ndarray  # [classes] stamp from which on the average stayed above `end`; −1 if it is below
    above_ns: np.ndarray  # [classes] the same for `begin`
    event: ActionEvent | None = None
    position: tuple[float, float, float] = field(default=(math.nan,) * 3)


def begin_thresholds(package: ModelPackage, begin: float = 0.0) -> np.ndarray:
    """Return the average probability [classes] that begins an event: `begin`, if not 0, else the package's own."""
    default = begin or package.events.begin or package.rejection.threshold or 0.5
    raised = {} if begin else package.events.classes
    return np.array([raised.get(label, default) for label in package.labels])


class EventDetector:
    """Turns the probabilities of several bodies into events.

    A body has one event at a time. If another action begins, the present event ends.

    Args:
        package: The model: its labels, window and rejection threshold.
        config: The settings.
        first_id: Id of the first event.
        begin: [classes] thresholds to use instead of the package's.
    """

    def __init__(self, package: ModelPackage, config: EventConfig, first_id: int = 1, begin: np.ndarray | None = None):
        self.config, self._package = config, package
        self._begin = begin_thresholds(package, config.begin) if begin is None else begin
        self._end = self._begin * config.end
        self._evidence_s = min(config.evidence_s or package.window.seconds, package.window.seconds)
        self._states: dict[str, _State] = {}
        self.next_id = first_id

    def update(
        self, body_id: str, stamp_ns: int, probabilities: np.ndarray | None, joints: np.ndarray, tracked_s: float
    ) -> list[ActionEvent]:
        """Add the probabilities of a body's newest window.

        Args:
            body_id: The body.
            stamp_ns: Stamp of the window's newest frame.
            probabilities: [classes]; their sum may be below 1. NaN, and None without a prediction, is no evidence.
            joints: [V, 3] m in the optical frame, the newest ones; NaN if missing.
            tracked_s: Time since the body's window began, s, at most the window's length.
        """
        none = np.zeros(len(self._package.labels))
        now = none if probabilities is None else np.nan_to_num(np.asarray(probabilities, dtype=np.float64))
        state = self._states.setdefault(body_id, _State(none, stamp_ns, *np.full((2, len(none)), -1, np.int64)))
        elapsed_s = (stamp_ns - state.stamp_ns) / NANOSECONDS
        keep = math.exp(-elapsed_s / self.config.smoothing_s) if self.config.smoothing_s else 0.0
        state.average, state.stamp_ns = keep * state.average + (1 - keep) * now, stamp_ns
        for limit, since_ns in ((self._end, state.since_ns), (self._begin, state.above_ns)):
            since_ns[(state.average >= limit) & (since_ns < 0)] = stamp_ns
            since_ns[state.average < limit] = -1
        seen = np.isfinite(joints).all(axis=-1)
        if seen.any():
            state.position = _middle(joints[seen])
        is_known = tracked_s >= self._evidence_s - 1e-6
        begins = is_known and seen.mean() >= self.config.min_joints
        return [*self._continue(state, is_known), *(self._start(body_id, state) if begins else [])]

    def present(self, body_id: str) -> tuple[np.ndarray, ActionEvent | None]:
        """Return the average probabilities [classes] of a known body, and its event that goes on, if any."""
        state = self._states[body_id]
        return state.average, state.event

    def end(self, body_id: str, stamp_ns: int) -> list[ActionEvent]:
        """Forget a body that is lost, and return the end of its event."""
        state = self._states.pop(body_id, None)
        return [] if state is None else self._ended(state, stamp_ns)

    def end_all(self, stamp_ns: int) -> list[ActionEvent]:
        """Forget all bodies, and return the ends of their events."""
        return [event for body_id in list(self._states) for event in self.end(body_id, stamp_ns)]

    def restart(self, body_ids: Iterable[str] | None = None) -> None:
        """Drop the evidence of bodies (default: all) whose windows restart.

        Their events go on until there is enough evidence again, or for as long as that takes.
        """
        chosen = self._states if body_ids is None else body_ids
        for state in [self._states[body_id] for body_id in chosen if body_id in self._states]:
            state.average = np.zeros_like(state.average)
            state.since_ns[:] = state.above_ns[:] = -1

    def rename(self, body_id: str, joints: np.ndarray, lost: Collection[str]) -> None:
        """Give the event of a body out of `lost` to a new body at its place: tracking has changed the person's id."""
        seen = joints[np.isfinite(joints).all(axis=-1)]
        distances = {
            other: math.dist(_middle(seen), self._states[other].position)
            for other in lost
            if len(seen) and other in self._states and self._states[other].event is not None
        }
        nearest = min(distances, key=lambda other: distances[other], default="")
        if nearest and distances[nearest] <= SAME_PLACE_M:
            state = self._states[body_id] = self._states.pop(nearest)
            assert state.event is not None
            state.event = dataclasses.replace(state.event, body_id=body_id)
            self.restart([body_id])

    def _continue(self, state: _State, is_known: bool) -> list[ActionEvent]:
        """Extend the present event of a body, or end it; with a window that restarted, only after some more time."""
        event = state.event
        if event is None:
            return []
        average = float(state.average[event.class_id])
        if average >= self._end[event.class_id]:
            state.event = dataclasses.replace(
                event, confidence=max(event.confidence, average), end_ns=state.stamp_ns, position=state.position
            )
            return []
        wait_s = self.config.end_s + (0.0 if is_known else self._evidence_s)
        return self._ended(state, state.stamp_ns) if state.stamp_ns - event.end_ns >= wait_s * NANOSECONDS else []

    def _start(self, body_id: str, state: _State) -> list[ActionEvent]:
        """Begin an event if the best class has had the evidence for long enough, and the present one has lost it."""
        best = int(np.argmax(state.average))
        above_ns = int(state.above_ns[best])
        held = above_ns >= 0 and state.stamp_ns - above_ns >= self.config.begin_s * NANOSECONDS - 1
        if not held or (state.event is not None and state.above_ns[state.event.class_id] >= 0):
            return []
        ended = self._ended(state, state.stamp_ns)
        state.event = ActionEvent(
            self.next_id,
            BEGAN,
            body_id,
            self._package.labels[best],
            best,
            float(state.average[best]),
            int(state.since_ns[best]),
            state.stamp_ns,
            state.stamp_ns,
            state.position,
            self._package.name,
        )
        self.next_id += 1
        return [*ended, state.event]

    def _ended(self, state: _State, stamp_ns: int) -> list[ActionEvent]:
        event, state.event = state.event, None
        return [] if event is None else [dataclasses.replace(event, kind=ENDED, stamp_ns=stamp_ns)]


def _middle(joints: np.ndarray) -> tuple[float, float, float]:
    """Return the median of known joints [N, 3]."""
    x, y, z = np.median(joints, axis=0)
    return float(x), float(y), float(z)
