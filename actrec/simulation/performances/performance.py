"""Performances in the making: keyframes of postures, periodic movements, steps, and random choices.

Arms are given by the place of the wrist from the shoulder: outward, up and forward on the chest, in lengths of the arm.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from actrec.simulation import actions
from actrec.simulation import posture as body
from actrec.simulation.posture import CHANNEL, curve_through, ease, with_channels

Place = Sequence[float] | np.ndarray
"""Outward, up and forward of the shoulder, in lengths of the arm; of an elbow only the direction counts."""

_ELBOW = (0.6, -1.0, -0.2)

_ARM = {side: [CHANNEL[f"arm_{axis}_{side}"] for axis in "xyz"] for side in body.SIGN}
_REACH = {side: CHANNEL[f"reach_{side}"] for side in body.SIGN}
BOTH = ("left", "right")


def shorten_arm(vector: np.ndarray, side: str) -> None:
    """Give the direction of an arm the length of its reach, in place, as `Motion` expects it."""
    vector[_ARM[side]] *= vector[_REACH[side]]


@dataclass(frozen=True)
class Wave:
    """Periodic change of some channels between `start` and `end`, s; `shape` maps the phase in radians to −1…1."""

    size: Mapping[str, float]
    hz: float
    start: float
    end: float
    shape: Callable[[float], float] = np.sin

    def add(self, vector: np.ndarray, time: float) -> None:
        """Add the change at `time` to a posture, in place; it swells and ebbs within a quarter second."""
        if self.start < time < self.end:
            share = float(ease((time - self.start) / 0.25) * ease((self.end - time) / 0.25))
            value = share * float(self.shape(2 * np.pi * self.hz * (time - self.start)))
            for name, size in self.size.items():
                vector[CHANNEL[name]] += size * value


@dataclass(frozen=True)
class Motion:
    """One performance: postures over time and the way of the actor's place.

    Attributes:
        times: Times of two keyframes or more, s, increasing from 0.
        keys: Their postures.
        waves: Periodic changes on top.
        ways: Start and end, s, of walking, and the speed of the place over the floor, forward, m/s.
        turn: Of the place while it moves, rad/s to the left.
        turns: Start and end, s, of turning on the spot or on the way, and its speed, rad/s to the left.
    """

    times: Sequence[float]
    keys: Sequence[np.ndarray]
    waves: Sequence[Wave] = ()
    ways: Sequence[tuple[float, float, float]] = ()
    turn: float = 0.0
    turns: Sequence[tuple[float, float, float]] = ()

    def speeds(self, times: np.ndarray) -> np.ndarray:
        """Return the speed of the place at `times` [T], m/s."""
        return _within(self.ways, times)

    def turning(self, times: np.ndarray) -> np.ndarray:
        """Return the speed of the place's turns at `times` [T] without `turn`, rad/s."""
        return _within(self.turns, times)

    def postures(self, times: np.ndarray) -> np.ndarray:
        """Return the postures [T, channels] at `times` [T], s."""
        vectors = curve_through(self.times, self.keys)(np.clip(times, 0, self.times[-1]))
        for vector, time in zip(vectors, times, strict=True):
            for wave in self.waves:
                wave.add(vector, float(time))
        for side in BOTH:
            vectors[:, _REACH[side]] = np.linalg.norm(vectors[:, _ARM[side]], axis=1)
        return vectors


def _within(spans: Sequence[tuple[float, float, float]], times: np.ndarray) -> np.ndarray:
    """Return the sum at `times` of the values of spans (start, end, value), which swell and ebb."""
    parts = [value * ease((times - start) / 0.25) * ease((end - times) / 0.25) for start, end, value in spans]
    return np.sum(parts, axis=0) if parts else np.zeros(len(times))


@dataclass
class Score:
    """Keyframes in the making."""

    vector: np.ndarray
    tempo: float = 1.0
    times: list[float] = field(default_factory=lambda: [0.0])
    keys: list[np.ndarray] = field(default_factory=list)
    waves: list[Wave] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keys.append(self.vector)

    @property
    def now(self) -> float:
        """Return the time of the last keyframe, s."""
        return self.times[-1]

    def to(self, seconds: float, vector: np.ndarray | None = None, hold: float = 0.0) -> "Score":
        """Append a posture (the last one again for None) that is reached in `seconds` and held for `hold` seconds."""
        for wait, key in ((seconds, vector), (hold, vector)):
            if wait > 0:
                self.times.append(self.now + max(wait / self.tempo, 0.05))
                self.keys.append(self.keys[-1] if key is None else key)
        return self

    def wave(
        self, size: Mapping[str, float], hz: float, start: float = -1.0, shape: Callable[[float], float] = np.sin
    ) -> "Score":
        """Add a periodic change of the channels in `size` from `start` until now."""
        self.waves.append(Wave(size, hz * self.tempo, start, self.now, shape))
        return self

    def motion(self) -> Motion:
        """Return the motion so far."""
        return Motion(self.times, self.keys, self.waves)


class Draw:
    """The random choices of one performance, for the right side.

    Args:
        rng: Source of the choices.
        seated: Share of performances on a stool, of actions that allow it.
    """

    def __init__(self, rng: np.random.Generator, seated: float = 0.0):
        self.rng = rng
        self.seated = self.chance(seated)
        self.aim = float(rng.normal(0, 0.25))  # of a single raised hand, radians outward
        base = actions.SEATED if self.seated else body.REST
        self.base = self._relaxed(base)

    def uniform(self, low: float, high: float) -> float:
        """Return a number between `low` and `high`."""
        return float(self.rng.uniform(low, high))

    def near(self, *values: float, by: float | Sequence[float] = 0.1) -> tuple[float, ...]:
        """Return each value plus or minus up to `by`."""
        spread = np.broadcast_to(by, len(values))
        return tuple(self.uniform(value - d, value + d) for value, d in zip(values, spread, strict=True))

    def chance(self, share: float) -> bool:
        """Return True in this share of draws."""
        return bool(self.rng.random() < share)

    def count(self, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`."""
        return int(self.rng.integers(low, high + 1))

    def start(self) -> Score:
        """Return a new score at the relaxed posture, at a random tempo."""
        return Score(self.base, float(np.exp(self.rng.normal(0, 0.22))))

    def arm(self, vector: np.ndarray, side: str, place: Place, elbow: Place = _ELBOW) -> np.ndarray:
        """Return a copy of `vector` with the wrist at `place` from the shoulder, in lengths of the arm."""
        if side == "right" and place[1] > -0.6:
            c, s = np.cos(self.aim), np.sin(self.aim)
            place = (place[0] * c + place[2] * s, place[1], place[2] * c - place[0] * s)
        return self._arm(vector, side, place, elbow)

    def _arm(self, vector: np.ndarray, side: str, place: Place, elbow: Place) -> np.ndarray:
        length = max(float(np.linalg.norm(place)), 1e-6)
        out, up, forward = (value * min(max(length, 0.25), 0.99) / length for value in place)
        hint = self.near(*elbow, by=0.3)
        names = dict(zip(("elbow_x", "elbow_y", "elbow_z"), hint, strict=True))
        names |= {"arm_x": out, "arm_y": up, "arm_z": forward}
        return with_channels(vector, **{f"{name}_{side}": value for name, value in names.items()})

    def arms(self, vector: np.ndarray, place: Place, elbow: Place = _ELBOW) -> np.ndarray:
        """Return a copy with both wrists at `place` on their sides."""
        return self._arm(self._arm(vector, "left", place, elbow), "right", place, elbow)

    def hands(self, vector: np.ndarray, place: Place, both: bool, elbow: Place = _ELBOW) -> np.ndarray:
        """Return a copy with the right or both wrists at `place`."""
        return self.arms(vector, place, elbow) if both else self.arm(vector, "right", place, elbow)

    def bent(self, vector: np.ndarray, angle: float, hang: float, **more: float) -> np.ndarray:
        """Return a copy bent forward by `angle`, radians; arms hang by the share `hang`, else stay on the body."""
        share = self.uniform(0.4, 0.65)
        vector = with_channels(vector, tilt=angle * share, bend=angle * (1 - share), **more)
        down = angle * hang
        reach = self.uniform(0.9, 0.98)
        return self.arms(vector, (self.uniform(0.02, 0.15), -reach * np.cos(down), reach * np.sin(down)))

    def low(self, both: bool, height: float) -> np.ndarray:
        """Return a posture with the right or both wrists at `height` above the floor, m, before the feet."""
        squat = self.uniform(0.1, 0.9) if height < 0.5 else self.uniform(0.0, 0.5)
        angle = (1.9 - 0.9 * squat) * (1 - 0.5 * height)
        vector = with_channels(
            self.base, drop=0.05 + 0.42 * squat * (1 - 0.6 * height), tilt=0.55 * angle, bend=0.45 * angle, z=-0.14,
            head_pitch=self.uniform(-0.4, 0.1), twist=self.uniform(-0.1, 0.3), heel_right=0.5 * squat,
        )  # fmt: skip
        x, z = self.uniform(-0.3, 0.05), self.uniform(0.22, 0.5)
        vector = self._reach_to(vector, "right", (x, height, z))
        return self._reach_to(vector, "left", (-x if both else 0.2, height if both else 0.55, z if both else 0.2))

    def _reach_to(self, vector: np.ndarray, side: str, target: tuple[float, float, float]) -> np.ndarray:
        vector = body.reach_to(vector, side, target)
        shorten_arm(vector, side)
        return vector

    def _relaxed(self, vector: np.ndarray) -> np.ndarray:
        """Return the posture at rest of this person, the left arm sometimes in another pose."""
        apart = self.uniform(0.05, 0.2)
        vector = with_channels(
            vector, lean=self.uniform(-0.04, 0.04), twist=self.uniform(-0.08, 0.08),
            head_pitch=self.uniform(-0.1, 0.25), head_yaw=self.uniform(-0.2, 0.2),
            foot_x_left=apart, foot_x_right=apart, foot_z_left=self.uniform(-0.08, 0.08),
        )  # fmt: skip
        vector[CHANNEL["bend"]] += self.uniform(-0.05, 0.12)
        if self.seated:
            vector[CHANNEL["drop"]] += self.uniform(-0.05, 0.05)
            for side in BOTH:
                shorten_arm(vector, side)
            return vector
        hanging = (self.uniform(0.05, 0.22), -self.uniform(0.92, 0.97), self.uniform(-0.08, 0.25))
        vector = self.arms(vector, hanging, (0.3, 0.0, -1.0))
        if self.chance(0.25):
            place, elbow = _AT_REST[self.count(0, len(_AT_REST) - 1)]
            vector = self.arm(vector, "left", self.near(*place, by=0.06), elbow)
        return vector


_AT_REST: tuple[tuple[Place, Place], ...] = (
    ((0.28, -0.62, 0.02), (1.0, 0.0, -0.6)),  # on the hip
    ((0.12, -0.72, 0.05), (0.8, 0.0, -0.6)),  # in a pocket
    ((-0.1, -0.72, -0.28), (0.8, 0.0, -0.6)),  # behind the back
    ((0.0, -0.5, 0.5), (0.4, -1.0, -0.4)),  # holds something before the body
    ((-0.35, -0.45, 0.35), (0.6, -0.8, 0.0)),  # before the belly
)


def steps(
    start: float, end: float, first: float, hz: float, lift: float, swing: float, speed: float, bounce: float
) -> list[Wave]:
    """Return steps at `hz` a foot, of the place at `speed`, m/s; arms swing by `swing`; `first` is the phase."""
    stride = speed / (4 * hz)  # half of a foot's way below the body, which takes half a period
    waves = []

    def add(lag: float, shape: Callable[[float], float], rate: float, **size: float) -> None:
        waves.append(Wave(size, rate, start, end, lambda phase: shape(phase + first + lag)))

    for side, lag in (("left", 0.0), ("right", np.pi)):
        add(lag, lambda p: max(float(np.sin(p)), 0.0), hz, **{f"foot_y_{side}": lift})
        add(lag, lambda p: max(float(np.sin(p + 0.8)), 0.0), hz, **{f"heel_{side}": 0.8})
        add(lag, lambda p: -float(np.cos(p)), hz, **{f"foot_z_{side}": stride})
        add(lag, lambda p: float(np.cos(p)), hz, **{f"arm_z_{side}": swing})
    add(0, lambda p: float(np.cos(p)), hz, twist=0.15 * swing)
    add(0, lambda p: float(np.cos(2 * p)), hz, drop=bounce)
    return waves


def hold(
    place: Place, by: float | Sequence[float], both: float = 0.0, hold: tuple[float, float] = (0.3, 2.0), **more: float
) -> Callable[[Draw], Motion]:
    """Return a maker that brings one hand or, in a share of performances, both to a place, holds and lowers them."""

    def make(d: Draw) -> Motion:
        held = d.hands(d.base, d.near(*place, by=by), d.chance(both))
        held = with_channels(held, **{name: held[CHANNEL[name]] + d.uniform(0, value) for name, value in more.items()})
        return d.start().to(d.uniform(0.3, 1.0), held, d.uniform(*hold)).to(d.uniform(0.3, 1.0), d.base).motion()

    return make


def trace(
    points: Callable[[Draw], Sequence[tuple[float, float]]], stroke: tuple[float, float], pause: float = 0.0
) -> Callable[[Draw], Motion]:
    """Return a maker that draws a figure through points (to the right hand's side, up) of size 1 in the air.

    Half of the performances pause at each point for up to `pause` seconds.
    """

    def make(d: Draw) -> Motion:
        radius, turn = d.uniform(0.15, 0.65), d.uniform(-0.2, 0.2)
        _, up, forward = d.near(0, 0.1, 0.68, by=(0, 0.25, 0.15))
        middle = d.uniform(-0.3, 0.15)
        score, seconds = d.start(), d.uniform(*stroke)
        elbow = (d.uniform(0.3, 1.0), -1.0, -0.1)
        vector = d.base
        rest = d.uniform(-pause, pause) if pause else 0.0
        for number, (x, y) in enumerate(points(d)):
            place = (middle + radius * (x - turn * y), up + radius * (y + turn * x), forward - 0.1 * radius * abs(x))
            vector = d.arm(d.base, "right", place)
            for axis, value in zip("xyz", elbow, strict=True):
                vector[CHANNEL[f"elbow_{axis}_right"]] = value
            score.to(d.uniform(0.4, 0.8) if number == 0 else seconds, vector, rest)
        return score.to(d.uniform(0.05, 0.3), vector).to(d.uniform(0.4, 0.8), d.base).motion()

    return make
