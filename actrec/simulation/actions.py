"""Actions of the procedural actor, and their endless, reproducible sequence with pauses.

An action is a smooth function from time to posture, for the right side; the left one is its mirror image. It starts and
ends at rest, standing or seated, so that any two can follow each other. Walking is a closed path on planned footprints,
so that no foot slides.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from actrec.simulation import posture as body
from actrec.simulation.actor import ActorPose
from actrec.simulation.posture import IdleMotion, Physique, Style, curve_through, ease, pose
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.utils.errors import ConfigError

WALK_SECONDS = 6.6
_STEPS = 13
_STEP_PERIOD = WALK_SECONDS / (_STEPS + 1)
_TURN_SECONDS = 1.0
_ELLIPSE_WIDTH, _ELLIPSE_DEPTH = 0.70, 0.38  # half axes of the walked ellipse, m


def _body_at(time: float, size: float) -> tuple[float, float, float]:
    """Return the body's position left and forward of its place, m, and its heading to the left, radians."""
    s = float(ease((time - 0.25) / (WALK_SECONDS - 0.5))) * 0.25 + 0.75 * float(
        np.clip((time - 0.45) / (WALK_SECONDS - 0.9), 0, 1)
    )
    around = 2 * np.pi * s
    x, z = size * _ELLIPSE_WIDTH * np.sin(around), size * _ELLIPSE_DEPTH * (1 - np.cos(around))
    # Along the ellipse's tangent, which turns by 2π; facing the camera at start and end.
    tangent = np.pi / 2 - around + np.arctan2(
        (_ELLIPSE_DEPTH - _ELLIPSE_WIDTH) * np.sin(around) * np.cos(around),
        _ELLIPSE_WIDTH * np.cos(around) ** 2 + _ELLIPSE_DEPTH * np.sin(around) ** 2,
    )  # fmt: skip
    first = float(ease(time / _TURN_SECONDS))
    last = float(ease((time - WALK_SECONDS + _TURN_SECONDS) / _TURN_SECONDS))
    return x, z, first * tangent - last * np.pi / 2


def _footprint(time: float, side: str, size: float) -> np.ndarray:
    """Return [x, z, yaw], m and radians, of a foot whose stance is centered on `time`, in the place frame."""
    x, z, yaw = _body_at(float(np.clip(time, 0.0, WALK_SECONDS)), size)
    at_rest = time <= 0 or time >= WALK_SECONDS
    apart = body.CHANNELS[f"foot_x_{side}"] if at_rest else 0.085
    sign = body.SIGN[side]
    return np.array(
        [x + sign * apart * np.cos(yaw), z - sign * apart * np.sin(yaw), yaw + sign * body.CHANNELS[f"foot_yaw_{side}"]]
    )


@lru_cache(maxsize=64)
def _plan(side: str, size: float) -> tuple[tuple[float, ...], tuple[np.ndarray, ...]]:
    """Return a foot's swing start times, s, and its footprints, one more than swings."""
    first = 0 if side == "left" else 1
    steps = list(range(first, _STEPS, 2))
    starts = tuple((k + 0.5) * _STEP_PERIOD for k in steps)
    centers = [start + 1.5 * _STEP_PERIOD for start in starts]
    centers[-1] = WALK_SECONDS
    return starts, tuple(_footprint(time, side, size) for time in [0.0, *centers])


def _foot(time: float, side: str, size: float) -> dict[str, float]:
    """Return the foot's channels at `time`."""
    starts, prints = _plan(side, size)
    k = int(np.searchsorted(starts, time, side="right"))
    place, lift, heel = prints[k], 0.0, 0.0
    if k > 0:
        share = (time - starts[k - 1]) / _STEP_PERIOD
        if share < 1:
            swing = float(ease(share))
            place = prints[k - 1] + swing * (prints[k] - prints[k - 1])
            lift = 0.055 * np.sin(np.pi * share) ** 2
            heel = 0.75 * np.sin(np.pi * min(share * 1.3, 1.0)) ** 2
    sign = body.SIGN[side]
    values = {"foot_x": sign * place[0], "foot_z": place[1], "foot_yaw": sign * place[2], "foot_y": lift, "heel": heel}
    return {f"{name}_{side}": float(value) for name, value in values.items()}


def walk(elapsed: float, style: Style) -> np.ndarray:
    """Return the posture `elapsed` s after the start of the walk, which starts and ends at the actor's place."""
    x, z, yaw = _body_at(elapsed, style.size)
    moving = float(ease((elapsed - 0.2) / 0.6) * ease((WALK_SECONDS - 0.2 - elapsed) / 0.6))
    # In the first period, the left foot swings and the body is over the right one.
    phase = np.pi * (elapsed / _STEP_PERIOD - 0.5)
    sway, stride = -0.022 * np.sin(phase) * moving, np.cos(phase) * moving
    arms = {f"arm_z_{side}": 0.08 - 0.30 * sign * stride for side, sign in body.SIGN.items()}
    return body.with_channels(
        body.REST, x=x + sway * np.cos(yaw), z=z - sway * np.sin(yaw), yaw=yaw + 0.07 * stride, twist=-0.14 * stride,
        bend=0.02 + 0.03 * moving,
        drop=0.012 + (0.022 + 0.008 * np.cos(2 * phase)) * moving, roll=0.03 * np.sin(phase) * moving,
        reach_left=0.97 - 0.04 * moving, reach_right=0.97 - 0.04 * moving,
        **arms, **_foot(elapsed, "left", style.size), **_foot(elapsed, "right", style.size),
    )  # fmt: skip


STANDING = body.REST

SEAT_BEHIND = 0.43
"""Distance of the stool behind the actor's place, m."""

_Keys = tuple[Sequence[float], Sequence[np.ndarray]]
"""Times, s, and postures of an action's keyframes."""


def _limb(side: str = "right", **channels: float | tuple[float, float, float]) -> dict[str, float]:
    """Return the channels of an arm or leg; `arm`, `elbow` and `palm` have x, y and z."""
    named: dict[str, float] = {}
    for name, value in channels.items():
        if isinstance(value, tuple):
            named |= {f"{name}_{axis}_{side}": number for axis, number in zip("xyz", value, strict=True)}
        else:
            named[f"{name}_{side}"] = value
    return named


def _seated() -> np.ndarray:
    """Return the posture on the stool, hands on the lap."""
    vector = body.with_channels(body.REST, drop=0.375, z=-SEAT_BEHIND, tilt=-0.08, bend=0.10)
    for side in body.SIGN:
        hand = _limb(side, palm=(-0.25, -1.0, 0.0), elbow=(0.8, -0.3, -1.0), flex=0.0, knee_x=0.35)
        vector = body.with_channels(vector, **hand)
    vector = body.reach_to(vector, "left", (0.13, 0.665, -0.17))
    return body.reach_to(vector, "right", (-0.13, 0.665, -0.17))


SEATED = _seated()


@dataclass(frozen=True)
class Action:
    """Action of the procedural actor."""

    name: str  # label
    seconds: float  # duration at speed 1
    start: str  # "standing" or "seated"
    end: str
    posture: Callable[[float, Style], np.ndarray]  # posture of the right side by time (at speed 1, s) and style

    def at(self, elapsed: float, style: Style) -> np.ndarray:
        """Return the posture `elapsed` seconds after the start."""
        vector = self.posture(float(np.clip(elapsed * style.speed, 0.0, self.seconds)), style)
        return body.mirrored(vector) if style.side == "left" else vector

    def duration(self, style: Style) -> float:
        """Return the duration in seconds."""
        return self.seconds / style.speed


def _keyed(make: Callable[[float, float], _Keys]) -> Callable[[float, Style], np.ndarray]:
    """Return a posture function that interpolates the keyframes `make(size, turn)`."""

    @lru_cache(maxsize=64)
    def curve(size: float, turn: float) -> Callable[[float], np.ndarray]:
        return curve_through(*make(size, turn))

    return lambda elapsed, style: curve(style.size, style.turn)(elapsed)


def _wave(elapsed: float, style: Style) -> np.ndarray:
    raised = body.with_channels(
        STANDING, lean=-0.02, **_limb(arm=(0.62, 0.62, 0.42), reach=0.76, elbow=(0.8, -1.0, 0.1), palm=(0.0, 0.0, 1.0),
                                      flex=-0.05, curl=0.06, index=0.04, thumb=0.05),
    )  # fmt: skip
    share = float(ease(elapsed / 0.8) * ease((3.6 - elapsed) / 0.8))
    vector = STANDING + share * (raised - STANDING)
    swing = np.sin(2 * np.pi * 1.5 * (elapsed - 0.6)) * float(ease((elapsed - 0.5) / 0.5) * ease((3.1 - elapsed) / 0.5))
    vector[body.CHANNEL["arm_x_right"]] += 0.30 * style.size * swing
    vector[body.CHANNEL["arm_y_right"]] -= 0.08 * style.size * swing
    return vector


def _between(share: float, lean: float) -> np.ndarray:
    """Return a posture between standing (0) and seated (1), the trunk `lean` radians forward, hands on the knees."""
    vector = STANDING + share * (SEATED - STANDING)
    vector = body.with_channels(
        vector, tilt=0.6 * lean - 0.08 * share, bend=0.4 * lean + 0.10 * share, head_pitch=-0.4 * lean
    )
    joints = pose(vector, Physique()).joints
    grasp = float(ease(share / 0.4))
    for side in ("left", "right"):
        hanging, knee, hip = (joints[KINECT_V2_25.index[f"{joint}_{side}"]] for joint in ("wrist", "knee", "hip"))
        lap = knee + 0.42 * (hip - knee) + np.array([0.0, 0.115, 0.0])
        vector = body.reach_to(vector, side, hanging + grasp * (lap - hanging))
    return vector


def _sit_down(size: float, turn: float) -> _Keys:
    times = np.linspace(0.0, 1.9, 11)
    shares = ease(times / 1.9)
    keys = [_between(float(s), 0.85 * float(np.sin(np.pi * s))) for s in shares[1:-1]]
    return tuple(times), (STANDING, *keys, SEATED)


def _stand_up(size: float, turn: float) -> _Keys:
    # The trunk leans forward before the hips rise.
    times = np.linspace(0.0, 2.0, 11)
    shares = 1 - ease((times - 0.35) / 1.6)
    leans = 0.85 * ease(times / 0.8) * ease((1.95 - times) / 1.1)
    keys = [_between(float(s), float(lean)) for s, lean in zip(shares[1:-1], leans[1:-1], strict=True)]
    return tuple(times), (SEATED, *keys, STANDING)


def _pick_up(size: float, turn: float) -> _Keys:
    low = body.with_channels(
        STANDING, drop=0.40, z=-0.14, tilt=0.62, bend=0.72, twist=0.18, lean=-0.10, head_pitch=-0.45,
        **_limb(heel=0.30, knee_x=0.45, elbow=(0.6, 0.0, -1.0), palm=(-0.6, 0.0, -0.8)),
        **_limb("left", knee_x=0.35, arm=(0.30, -0.70, 0.55), reach=0.86),
    )  # fmt: skip
    grasp = _limb(curl=0.62, index=0.58, thumb=0.65)
    reach = body.reach_to(low, "right", (-0.20 - 0.2 * np.sin(turn), 0.20, 0.36))
    open_hand = body.with_channels(reach, **_limb(curl=0.12, index=0.10, thumb=0.05))
    grip = body.with_channels(reach, **grasp)
    halfway = body.with_channels(STANDING + 0.45 * (open_hand - STANDING), tilt=0.32, bend=0.36)
    rising = body.with_channels(STANDING + 0.45 * (grip - STANDING), tilt=0.34, bend=0.40)
    arm = _limb(arm=(0.05, -0.62, 0.75), reach=0.70, elbow=(0.5, -0.8, -0.6), palm=(-0.9, 0.3, 0.0))
    hold = body.with_channels(STANDING, head_pitch=0.22, **arm, **grasp)
    keys = (STANDING, halfway, open_hand, grip, rising, hold, hold, STANDING)
    return (0.0, 0.55, 1.25, 1.55, 2.15, 2.7, 3.1, 3.8), keys


def _throw(size: float, turn: float) -> _Keys:
    fist, step = _limb(curl=0.60, index=0.55, thumb=0.6), _limb("left", foot_z=0.26, foot_x=0.14)
    wind = body.with_channels(
        STANDING, twist=-0.35, x=-0.03, z=-0.02, **_limb("left", foot_y=0.05, foot_z=0.10), **fist,
        **_limb(arm=(0.75, 0.05, 0.10), reach=0.66, elbow=(0.9, -0.2, -0.6), palm=(0.1, -0.6, 0.6)),
    )  # fmt: skip
    cocked = body.with_channels(
        STANDING, twist=-0.50 * size, bend=-0.08, x=-0.02, z=0.03, drop=0.04, **step, **fist,
        **_limb(arm=(0.72, 0.66, -0.18), reach=0.62, elbow=(1.0, -0.55, -0.1), palm=(-0.1, 0.4, 0.9)),
        **_limb("left", arm=(0.25, -0.25, 0.85), reach=0.85),
    )  # fmt: skip
    release = body.with_channels(
        STANDING, twist=0.25 * size, bend=0.18, z=0.10, drop=0.045, **step,
        **_limb(arm=(0.22, 0.52, 0.85), reach=0.93, elbow=(0.9, -0.5, -0.1), palm=(0.0, -0.8, 0.5)),
        **_limb(heel=0.3, curl=0.12, index=0.08, thumb=0.1), **_limb("left", arm=(0.3, -0.7, 0.2), reach=0.8),
    )  # fmt: skip
    through = body.with_channels(
        STANDING, twist=0.42 * size, bend=0.32, z=0.12, drop=0.05, head_pitch=-0.15, **step,
        **_limb(arm=(-0.35, -0.45, 0.80), reach=0.88, elbow=(0.9, -0.4, -0.3), palm=(-0.6, -0.6, -0.2)),
        **_limb(heel=0.45, curl=0.2),
    )  # fmt: skip
    back = body.with_channels(
        STANDING + 0.35 * (through - STANDING), **_limb("left", foot_y=0.05, foot_z=0.12), heel_right=0.0
    )
    return (0.0, 0.65, 1.05, 1.30, 1.55, 2.15, 2.7), (STANDING, wind, cocked, release, through, back, STANDING)


def _drink(size: float, turn: float) -> _Keys:
    hold = _limb(curl=0.55, index=0.50, thumb=0.45, palm=(-1.0, 0.0, 0.15), elbow=(0.75, -1.0, 0.0))
    chest = body.reach_to(body.with_channels(STANDING, **hold, head_pitch=0.12), "right", (-0.13, 1.24, 0.33))
    mouth = body.with_channels(STANDING, **hold, flex_right=0.0, head_pitch=0.02)
    mouth = body.reach_to(mouth, "right", (-0.115, 1.48, 0.17))
    tilted = body.with_channels(STANDING, **hold, flex_right=0.25, head_pitch=-0.26 * size, bend=-0.05)
    tilted = body.reach_to(tilted, "right", (-0.125, 1.53, 0.15))
    times = (0.0, 0.8, 1.35, 1.75, 2.35, 2.75, 3.4, 4.1)
    return times, (STANDING, chest, mouth, tilted, tilted, mouth, chest, STANDING)


def _point(size: float, turn: float) -> _Keys:
    x, z = np.sin(0.45 + turn), np.cos(0.45 + turn)
    aim = body.with_channels(
        STANDING, twist=-0.10, head_yaw=-0.25 * x,
        **_limb(arm=(x, 0.08, z), reach=0.985, elbow=(0.7, -1.0, 0.0), palm=(-0.6, -0.8, 0.0)),
        **_limb(flex=0.0, index=0.0, curl=0.95, thumb=0.75),
    )  # fmt: skip
    halfway = body.with_channels(STANDING + 0.5 * (aim - STANDING), reach_right=0.82)
    again = body.with_channels(aim, arm_y_right=0.14, reach_right=0.96)
    return (0.0, 0.45, 0.9, 1.5, 2.1, 2.55, 3.0), (STANDING, halfway, aim, again, aim, halfway, STANDING)


ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        Action("idle", 2.0, "standing", "standing", lambda elapsed, style: STANDING),
        Action("idle_seated", 2.0, "seated", "seated", lambda elapsed, style: SEATED),
        Action("wave", 3.6, "standing", "standing", _wave),
        Action("sit_down", 1.9, "standing", "seated", _keyed(_sit_down)),
        Action("stand_up", 2.0, "seated", "standing", _keyed(_stand_up)),
        Action("pick_up", 3.8, "standing", "standing", _keyed(_pick_up)),
        Action("throw", 2.7, "standing", "standing", _keyed(_throw)),
        Action("walk", WALK_SECONDS, "standing", "standing", walk),
        Action("drink", 4.1, "standing", "standing", _keyed(_drink)),
        Action("point", 3.0, "standing", "standing", _keyed(_point)),
    )
}
"""Actions by name. "idle_seated" is labeled "idle" in a performance."""


def get(name: str) -> Action:
    """Return the action called `name`; raise ConfigError if it is unknown."""
    if name not in ACTIONS:
        raise ConfigError(f"unknown simulated action '{name}'; known: all, {', '.join(sorted(ACTIONS))}")
    return ACTIONS[name]


CYCLE = ("wave", "point", "sit_down", "stand_up", "pick_up", "throw", "walk", "drink")
"""Actions that "all" means."""

_PAUSE = (0.5, 1.0)  # seconds of idling between actions
_SIZES, _TURNS, _SPEEDS = (0.85, 1.0, 1.1), (-0.3, 0.0, 0.3), (0.9, 1.15)


@dataclass(frozen=True)
class Segment:
    """One action from `start` to `end`, seconds."""

    action: Action
    label: str
    start: float
    end: float
    style: Style


class Performance:
    """Endless performance of actions in order.

    Args:
        names: The actions; "all" stands for `CYCLE`. Sitting down and standing up are inserted as needed,
            with their own labels.
        seed: Seed of sides, speeds, pauses and idle motion.
        side: The acting side, "left", "right", or "" for a random one.
        room: Factor on the size of the walked path.
        physique: The actor's bone lengths; by default at the reference stature.
        tempo: Factor on the speed of all movements.

    Raises:
        ConfigError: An action is unknown, or there is none.
    """

    def __init__(
        self,
        names: tuple[str, ...] = ("all",),
        seed: int = 0,
        side: str = "",
        room: float = 1.0,
        physique: Physique | None = None,
        tempo: float = 1.0,
    ):
        cycle = [entry for name in names for entry in (CYCLE if name == "all" else (name,))]
        if not cycle:
            raise ConfigError(f"no action to perform; known: all, {', '.join(sorted(ACTIONS))}")
        self._cycle = [get(name) for name in cycle]
        self._random = np.random.default_rng([seed, 5])
        self._side, self._room, self._tempo = side, room, tempo
        self._idle_motion = IdleMotion(seed)
        self.physique = physique or Physique()
        self._state = self._cycle[0].start
        self._segments: list[Segment] = []
        self._ends: list[float] = []
        self._next = 0

    def segment(self, time: float) -> Segment:
        """Return the action at `time` seconds after the start."""
        while not self._ends or self._ends[-1] <= time:
            self._append_next()
        return self._segments[bisect_right(self._ends, time)]

    def pose(self, time: float) -> ActorPose:
        """Return the pose in the actor's place frame (left, up, forward)."""
        segment = self.segment(time)
        vector = segment.action.at(time - segment.start, segment.style)
        return pose(self._idle_motion.add(vector, time), self.physique)

    def _append_next(self) -> None:
        """Append the next action, or the one that leads to its start posture, and a pause."""
        action = self._cycle[self._next % len(self._cycle)]
        if action.start != self._state:
            action = ACTIONS["stand_up" if self._state == "seated" else "sit_down"]
        else:
            self._next += 1
        self._append(action)
        self._append(ACTIONS["idle" if self._state == "standing" else "idle_seated"])

    def _append(self, action: Action) -> None:
        random, idle = self._random, action.name.startswith("idle")
        size = self._room if action.name == "walk" else float(random.choice(_SIZES))
        side = self._side or str(random.choice(["left", "right"]))
        style = Style(side, float(random.uniform(*_SPEEDS)) * self._tempo, size, float(random.choice(_TURNS)))
        start = self._ends[-1] if self._ends else 0.0
        seconds = float(random.uniform(*_PAUSE)) if idle else action.duration(style)
        self._ends.append(start + seconds)
        self._segments.append(Segment(action, "idle" if idle else action.name, start, start + seconds, style))
        self._state = action.end
