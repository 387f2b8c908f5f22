"""Action events: one decision for each action of a body, from the probabilities of its windows.

An average of the probabilities over time begins an event above one limit and ends it below a lower one (hysteresis).
The package has limits for each class. Another action begins only once the present one's average is below its first.
The longer an action has lasted, the longer it may pause. Classes that are motions end as soon as the person rests.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from actrec.inference.package import ModelPackage
from actrec.types import NANOSECONDS
from actrec.utils.config import setting

BEGAN, ENDED = "began", "ended"

AGAIN_S = 1.2
"""A motion that rest has ended begins again after this much new motion: until then its window shows the old one."""

PAUSE_SHARE, PAUSE_S = 0.2, 5.0
"""An action may pause for this share of the time that it has lasted, at most for so long."""

_NEVER = np.iinfo(np.int64).min
"""Stamp of something that has not happened; a recording's own may be negative."""

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
        0.4, "time for which the average must exceed `begin` to begin an event", unit="s", range=(0.0, 60.0)
    )
    end_s: float = setting(
        0.6,
        "time for which the average must stay below `end` to end an event; longer for events of more than 3 s",
        unit="s",
        range=(0.0, 60.0),
    )
    rest_s: float = setting(
        0.4, "a person who rests for this long ends an event of the model's `events.motions`", unit="s",
        range=(0.0, 60.0),
    )  # fmt: skip
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


class Rest:
    """Motion of a person: the speed of the fastest joints, compared with their highest one shortly before.

    If all joints move alike, the camera moves, on a robot that drives or turns: speeds are then relative to the median.
    """

    STEP_S = 0.15  # joints of frames at least this far apart are compared, because of their noise
    FASTEST = 4  # joints whose mean speed is the person's
    SPEED, SHARE = 0.12, 0.22  # m/s, and share of the highest speed, below which the person rests
    ALIKE = 0.15  # share of the speed, above which joints move differently from the median
    FORGET_S = 2.0  # time constant with which the highest speed decreases

    def __init__(self) -> None:
        self.still_ns = _NEVER  # stamp from which on the person rests
        self._joints, self._stamp_ns, self._highest = np.empty((0, 3)), 0, 0.0

    def update(self, stamp_ns: int, joints: np.ndarray) -> None:
        """Add joints [V, 3] of a frame, m."""
        elapsed_s = (stamp_ns - self._stamp_ns) / NANOSECONDS
        if len(self._joints) and elapsed_s < self.STEP_S:
            return
        if len(self._joints):
            moves = joints - self._joints
            moves = moves[np.isfinite(moves).all(axis=-1)]
            speed, relative = (self._fastest(each) / elapsed_s for each in (moves, moves - middle(moves)))
            speed = relative if relative < self.ALIKE * speed else speed
            highest = self._highest * math.exp(-elapsed_s / self.FORGET_S)
            self._highest = max(highest, speed) if math.isfinite(speed) else highest
            if speed > max(self.SPEED, self.SHARE * self._highest):
                self.still_ns = _NEVER
            elif self.still_ns == _NEVER:
                self.still_ns = stamp_ns
        self._joints, self._stamp_ns = joints, stamp_ns

    def _fastest(self, moves: np.ndarray) -> float:
        """Return the mean distance of the farthest moves [N, 3], m; infinite if there are too few."""
        steps = np.sort(np.linalg.norm(moves, axis=-1))[-self.FASTEST :]
        return float(steps.mean()) if len(steps) == self.FASTEST else math.inf

    def lasts(self, stamp_ns: int, seconds: float) -> bool:
        """Return whether the person has rested for so long."""
        return self.still_ns != _NEVER and stamp_ns - self.still_ns >= seconds * NANOSECONDS - 1


@dataclass
class _State:
    """State of one body."""

    average: np.ndarray  # [classes]
    stamp_ns: int
    since_ns: np.ndarray  # [classes] stamp from which on the average stayed above `end`
    above_ns: np.ndarray  # [classes] the same for `begin`
    event: ActionEvent | None = None
    rest: Rest = field(default_factory=Rest)
    rested: int = -1  # class of the motion that rest has ended, while its average stays above `end`
    resumed_ns: int = _NEVER  # stamp from which on the person moves again
    given_by: str = ""  # the id that the present event's body had before, if that may have been another person
    joints: np.ndarray = field(default_factory=lambda: np.full((1, 3), np.nan))  # [N, 3] m, the last known ones


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

    Attributes:
        next_id: Id of the next event.
        endings: How often all events were ended.
    """

    def __init__(self, package: ModelPackage, config: EventConfig, first_id: int = 1, begin: np.ndarray | None = None):
        self.config, self._package = config, package
        self._begin = begin_thresholds(package, config.begin) if begin is None else begin
        self._end = self._begin * config.end
        self._motions = {package.labels.index(label) for label in package.events.motions}
        self._evidence_s = min(config.evidence_s or package.window.seconds, package.window.seconds)
        self._states: dict[str, _State] = {}
        self.next_id, self.endings = first_id, 0

    def update(
        self,
        body_id: str,
        stamp_ns: int,
        probabilities: np.ndarray | None,
        joints: np.ndarray,
        tracked_s: float,
        in_view: float | None = None,
    ) -> list[ActionEvent]:
        """Add the probabilities of a body's newest window.

        Args:
            body_id: The body.
            stamp_ns: Stamp of the window's newest frame.
            probabilities: [classes]; their sum may be below 1. NaN, and None without a prediction, is no evidence.
            joints: [V, 3] m in the optical frame, the newest ones; NaN if missing.
            tracked_s: Time since the body's window began, s, at most the window's length.
            in_view: Share of the joints that are in view; None for the share that is not NaN.
        """
        none = np.zeros(len(self._package.labels))
        now = none if probabilities is None else np.nan_to_num(np.asarray(probabilities, dtype=np.float64))
        state = self._states.setdefault(body_id, _State(none, stamp_ns, *np.full((2, len(none)), _NEVER, np.int64)))
        elapsed_s = (stamp_ns - state.stamp_ns) / NANOSECONDS
        keep = math.exp(-elapsed_s / self.config.smoothing_s) if self.config.smoothing_s else 0.0
        state.average, state.stamp_ns = keep * state.average + (1 - keep) * now, stamp_ns
        for limit, since_ns in ((self._end, state.since_ns), (self._begin, state.above_ns)):
            since_ns[(state.average >= limit) & (since_ns == _NEVER)] = stamp_ns
            since_ns[state.average < limit] = _NEVER
        state.rest.update(stamp_ns, joints)
        seen = np.isfinite(joints).all(axis=-1)
        if seen.any():
            state.joints = joints[seen]
        is_known = tracked_s >= self._evidence_s - 1e-6
        begins = is_known and (seen.mean() if in_view is None else in_view) >= self.config.min_joints
        return [*self._continue(state, is_known), *(self._start(body_id, state) if begins else [])]

    def present(self, body_id: str) -> tuple[np.ndarray, ActionEvent | None]:
        """Return the average probabilities [classes] of a known body, and its event that goes on, if any."""
        state = self._states[body_id]
        return state.average, state.event

    @property
    def present_events(self) -> dict[str, ActionEvent]:
        """The events that go on, with the highest confidence so far, by body id."""
        return {body_id: state.event for body_id, state in self._states.items() if state.event is not None}

    def end(self, body_id: str, stamp_ns: int) -> list[ActionEvent]:
        """Forget a body that is lost, and return the end of its event."""
        state = self._states.pop(body_id, None)
        return [] if state is None else self._ended(state, stamp_ns)

    def end_all(self, stamp_ns: int) -> list[ActionEvent]:
        """Forget all bodies, and return the ends of their events."""
        self.endings += 1
        return [event for body_id in list(self._states) for event in self.end(body_id, stamp_ns)]

    def restart(self, body_ids: Iterable[str] | None = None) -> None:
        """Drop the evidence of bodies (default: all) whose windows restart.

        Their events go on until there is enough evidence again, or for as long as that takes.
        """
        chosen = self._states if body_ids is None else body_ids
        for state in [self._states[body_id] for body_id in chosen if body_id in self._states]:
            state.average = np.zeros_like(state.average)
            state.since_ns[:] = state.above_ns[:] = _NEVER

    def rename(self, new: Mapping[str, np.ndarray], lost: Collection[str]) -> dict[str, str]:
        """Give events of bodies out of `lost` to new bodies at their places: tracking has changed the persons' ids.

        The nearest two come first: if several people get new ids, the one who acts keeps the event.

        Args:
            new: Joints [V, 3] of each new body, m.
            lost: Ids of tracked bodies that are not in this frame.

        Returns:
            The id before, of each new body that was given an event.
        """
        places = {body_id: middle(joints[np.isfinite(joints).all(axis=-1)]) for body_id, joints in new.items()}
        present = self.present_events if new else {}
        old = {other: middle(self._states[other].joints) for other in lost if other in present}
        pairs = [(math.dist(places[body_id], old[other]), body_id, other) for body_id in places for other in old]
        renamed: dict[str, str] = {}
        for _, body_id, other in sorted(pair for pair in pairs if pair[0] <= SAME_PLACE_M):
            if body_id not in renamed and other not in renamed.values():
                self._give(other, body_id)
                self._states[body_id].given_by = renamed[body_id] = other
        return renamed

    def give_back(self, found: Mapping[str, np.ndarray]) -> None:
        """Give events back to the bodies that had them before `rename`, if these are found again near their events.

        A publisher may have used such an id for another person meanwhile, who is elsewhere or has an event of its own.

        Args:
            found: Joints [V, 3] of each tracked body that is found, m.
        """
        for body_id, state in list(self._states.items()):
            before = state.given_by
            if state.event is None or before not in found or before in self.present_events:
                continue
            place = middle(found[before][np.isfinite(found[before]).all(axis=-1)])
            if math.dist(place, middle(state.joints)) <= 2 * SAME_PLACE_M:
                self._give(body_id, before)

    def _give(self, body_id: str, other: str) -> None:
        """Move the state of a body, with its event, to another."""
        state = self._states[other] = self._states.pop(body_id)
        assert state.event is not None
        state.event, state.given_by = dataclasses.replace(state.event, body_id=other), ""
        self.restart([other])

    def _continue(self, state: _State, is_known: bool) -> list[ActionEvent]:
        """Extend the present event of a body, or end it; with a window that restarted, only after some more time."""
        event = state.event
        if state.rested >= 0:
            if state.since_ns[state.rested] == _NEVER:
                state.rested = -1
            elif state.rest.lasts(state.stamp_ns, self.config.rest_s):  # again: the motion in between was short
                state.resumed_ns = _NEVER
            elif state.resumed_ns == state.rest.still_ns == _NEVER:
                state.resumed_ns = state.stamp_ns
        if event is None:
            return []
        average = float(state.average[event.class_id])
        if goes_on := average >= self._end[event.class_id]:
            confidence = max(event.confidence, average)
            event = state.event = dataclasses.replace(event, confidence=confidence, end_ns=state.stamp_ns)
        if event.class_id in self._motions and state.rest.lasts(state.stamp_ns, self.config.rest_s):
            end_ns = min(event.end_ns, max(event.start_ns, state.rest.still_ns))
            state.event = dataclasses.replace(event, end_ns=end_ns)
            state.rested, state.resumed_ns = event.class_id, _NEVER
            return self._ended(state, state.stamp_ns)
        if goes_on:
            return []
        pause_s = min(PAUSE_SHARE * (event.end_ns - event.start_ns) / NANOSECONDS, PAUSE_S)
        wait_s = max(self.config.end_s, pause_s) + (0.0 if is_known else self._evidence_s)
        return self._ended(state, state.stamp_ns) if state.stamp_ns - event.end_ns >= wait_s * NANOSECONDS else []

    def _start(self, body_id: str, state: _State) -> list[ActionEvent]:
        """Begin an event if the best class has had the evidence for long enough, and the present one has lost it."""
        best = int(np.argmax(state.average))
        above_ns = int(state.above_ns[best])
        held = above_ns != _NEVER and state.stamp_ns - above_ns >= self.config.begin_s * NANOSECONDS - 1
        if best == state.rested:
            held &= _NEVER < state.resumed_ns <= state.stamp_ns - AGAIN_S * NANOSECONDS + 1
        if not held or (state.event is not None and state.above_ns[state.event.class_id] != _NEVER):
            return []
        start_ns = max(int(state.since_ns[best]), state.resumed_ns if best == state.rested else _NEVER)
        state.rested = -1
        if state.event is not None:  # if it comes back, its next event starts after this one
            state.since_ns[state.event.class_id] = state.stamp_ns
        ended = self._ended(state, state.stamp_ns)
        state.event = ActionEvent(
            self.next_id,
            BEGAN,
            body_id,
            self._package.labels[best],
            best,
            float(state.average[best]),
            start_ns,
            state.stamp_ns,
            state.stamp_ns,
            middle(state.joints),
            self._package.name,
        )
        self.next_id += 1
        return [*ended, state.event]

    def _ended(self, state: _State, stamp_ns: int) -> list[ActionEvent]:
        event, state.event, state.given_by = state.event, None, ""
        if event is None:
            return []
        return [dataclasses.replace(event, kind=ENDED, stamp_ns=stamp_ns, position=middle(state.joints))]


def middle(joints: np.ndarray) -> tuple[float, float, float]:
    """Return the median of known joints [N, 3], m; NaN of none."""
    x, y, z = np.median(joints, axis=0) if len(joints) else (math.nan,) * 3
    return float(x), float(y), float(z)
