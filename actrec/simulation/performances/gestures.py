"""Random performances of everyday actions by the procedural actor, to train on and to test with.

Each maker draws one of the many ways in which people do an action: tempo, size, hand, height, number of repetitions,
and the pose of the other arm.
"""

from collections.abc import Callable, Sequence

import numpy as np

from actrec.simulation import posture as body
from actrec.simulation.performances import movements, others
from actrec.simulation.performances.performance import BOTH, Draw, Motion, Place, Score, hold, trace
from actrec.simulation.posture import CHANNEL, IdleMotion, Physique, pose, with_channels
from actrec.utils.errors import ConfigError

_MOUTH: Place = (-0.22, 0.22, 0.30)
_EAR: Place = (0.04, 0.40, 0.12)
_UPPER, _FOREARM = 0.535, 0.465  # in lengths of the arm


def _up(phase: float) -> float:
    """Return a change to one side and back, 0 to 1."""
    return 0.5 - 0.5 * float(np.cos(phase))


def _turning(of: Callable[[float], float], middle: float, swing: float) -> Callable[[float], float]:
    """Return the change of sine or cosine of an angle that swings about `middle` by `swing`, radians."""
    return lambda phase: float(of(middle + swing * np.sin(phase)) - of(middle))


def _along(d: Draw, upper: Place, forearm: Place, both: bool = False, **hand: float) -> np.ndarray:
    """Return the posture with the right or both arms along two directions: of the upper arm and of the forearm."""
    ahead, to = (np.divide(v, np.linalg.norm(v)) for v in (upper, forearm))
    place = _UPPER * ahead + _FOREARM * to
    vector = d.hands(d.base, place, both)
    # Off the line to the hand, and of a straight arm down: else the elbow would lead when the arm falls.
    x, y, z = ahead - place * float(ahead @ place) / float(place @ place) + (0.05, -0.15, -0.03)
    c, s = (1.0, 0.0) if both else (np.cos(d.aim), np.sin(d.aim))
    elbow = {"elbow_x": x * c + z * s, "elbow_y": y, "elbow_z": z * c - x * s}
    sides = BOTH if both else BOTH[1:]
    return with_channels(vector, **{f"{name}_{side}": v for side in sides for name, v in (elbow | hand).items()})


def _halfway(d: Draw, both: bool) -> np.ndarray:
    """Return the posture of an arm on its way up: it swings forward or outward instead of folding at the body."""
    upper = (d.uniform(0.1, 0.9), d.uniform(-0.9, 0.0), d.uniform(0.2, 0.9))
    return _along(d, upper, (d.uniform(0, 0.7), d.uniform(-0.1, 0.8), d.uniform(0.3, 1)), both)


def _raised(d: Draw, held: np.ndarray, both: bool) -> Score:
    """Return a score that lifts one hand or both to a posture."""
    score, seconds = d.start(), d.uniform(0.3, 0.9)
    if d.chance(0.1):
        return score.to(seconds, held)
    return score.to(0.5 * seconds, _halfway(d, both)).to(0.5 * seconds, held)


def _lowered(d: Draw, score: Score, both: bool) -> Motion:
    """Return the motion so far and the way back to rest."""
    seconds = d.uniform(0.3, 0.9)
    if d.chance(0.9):
        seconds *= 0.5
        score.to(seconds, _halfway(d, both))
    return score.to(seconds, d.base).motion()


def _wave(d: Draw) -> Motion:
    both = d.chance(0.2)
    sides = BOTH if both else BOTH[1:]
    hz, cycles = d.uniform(0.8, 2.8), d.count(1, 6) if d.chance(0.6) else d.count(1, 2)
    if d.chance(0.7):  # the forearm swings about the elbow
        upper = d.near(0.4, -0.35, 0.45, by=(0.4, 0.6, 0.45))
        middle, swing, ahead = d.uniform(-0.5, 0.6), d.uniform(0.2, 1.0), d.uniform(-0.1, 0.8)
        raised = _along(d, upper, (np.sin(middle), np.cos(middle), ahead), both, palm_x=0, palm_z=1, flex=0)
    else:  # the whole arm
        ahead = 0.0
        raised = d.hands(d.base, d.near(0.2, 0.6, 0.4, by=(0.3, 0.3, 0.4)), both, (1.0, -0.3, 0.0))
        middle, swing = 0.0, 0.0
    score = _raised(d, raised, both)
    begin = score.now - 0.15
    score.to(cycles / hz, raised)
    if swing:
        for axis, of in (("x", np.sin), ("y", np.cos)):
            size = {f"arm_{axis}_{side}": _FOREARM / np.hypot(1, ahead) for side in sides}
            score.wave(size, hz, begin, _turning(of, middle, swing))
    else:
        out = d.uniform(0.12, 0.6)
        sizes = {"arm_x": out, "arm_y": -out * d.uniform(0.0, 0.4), "arm_z": out * d.uniform(-0.25, 0.25)}
        score.wave({f"{name}_{side}": v for name, v in sizes.items() for side in sides}, hz, begin)
    return _lowered(d, score, both)


def _raise_hand(d: Draw) -> Motion:
    both, height = d.chance(0.25), d.uniform(-0.25, 1.5)
    upper = (d.uniform(0.1, 0.9), height, d.uniform(-0.1, 0.7))
    held = _along(d, upper, (d.uniform(-0.35, 0.35), 1.0, d.uniform(-0.1, 0.4)), both, palm_x=0, palm_z=1)
    return _lowered(d, _raised(d, held, both).to(d.uniform(0.5, 3.5), held), both)


def _point(d: Draw) -> Motion:
    """Point with the straight arm, seldom with the forearm alone; some take aim first or point again."""
    up = d.uniform(-0.4, 0.12) if d.chance(0.8) else d.uniform(0.1, 0.8)
    upper = (d.uniform(-0.25, 0.5) if d.chance(0.8) else d.uniform(0.5, 2.0), up, 1.0)
    forearm = np.add(upper, d.near(-0.05, 0.03, 0, by=(0.15, 0.12, 0)))
    if d.chance(0.2):
        upper, forearm = (d.uniform(0, 0.4), -1.0, d.uniform(0, 0.5)), np.array([*d.near(0, 0.1, by=0.3), 1.0])
    out = with_channels(_along(d, upper, forearm, flex=0), twist=d.uniform(-0.05, 0.25))
    near = _along(d, (d.uniform(0, 0.5), -1.0, d.uniform(0, 0.5)), (d.uniform(-0.4, 0.2), d.uniform(0, 0.8), 1.0))
    score = d.start()
    if d.chance(0.4):
        score.to(d.uniform(0.25, 0.6), near, d.uniform(0, 0.1))
    score.to(d.uniform(0.25, 0.7), out, d.uniform(0.5, 2.5))
    if d.chance(0.2):
        score.to(d.uniform(0.2, 0.4), near).to(d.uniform(0.15, 0.4), out, d.uniform(0.4, 1.5))
    return score.to(d.uniform(0.3, 0.9), d.base).motion()


def _stop(d: Draw) -> Motion:
    """Hold the palm forward, mostly with the arm almost straight and the hand above the shoulder."""
    both = d.chance(0.15)
    upper = (d.uniform(-0.15, 0.4), d.uniform(-0.2, 0.4), 1.0)
    forearm = np.add(upper, (d.uniform(-0.3, 0.05), d.uniform(0.05, 0.4), 0))
    if d.chance(0.4):  # bent
        upper = (d.uniform(0, 0.5), d.uniform(-1.0, 0.1), d.uniform(0.5, 1.0))
        forearm = np.array([d.uniform(-0.3, 0.15), d.uniform(0.5, 1.6), 1.0])
    palm = {"palm_x": 0.0, "palm_y": -1.0, "palm_z": 0.5, "flex": -d.uniform(0.3, 1.3)}
    held = with_channels(_along(d, upper, forearm, both, **palm), bend=d.uniform(-0.05, 0.12))
    elbow = (d.uniform(0.1, 0.5), -1.0, d.uniform(-0.1, 0.5))
    near = _along(d, elbow, (d.uniform(-0.3, 0.2), d.uniform(0.4, 1.6), 1.0), both, **palm)
    score = d.start()
    if d.chance(0.6):  # thrust out from the chest
        score.to(d.uniform(0.25, 0.5), near).to(d.uniform(0.12, 0.4), held, d.uniform(0.5, 2.5))
    else:
        score.to(d.uniform(0.3, 0.8), held, d.uniform(0.5, 2.5))
    if d.chance(0.15):
        score.to(d.uniform(0.15, 0.3), near).to(d.uniform(0.12, 0.3), held, d.uniform(0.3, 1.2))
    return score.to(d.uniform(0.3, 0.9), d.base).motion()


def _clap(d: Draw) -> Motion:
    _, up, forward = d.near(0, -0.05, 0.5, by=(0, 0.3, 0.2))
    met = d.arms(d.base, (-0.3, up, forward))
    score = d.start().to(d.uniform(0.3, 0.8), met)
    hz, begin = d.uniform(1.0, 3.8), score.now - 0.2
    score.to(d.count(2, 8) / hz, met)
    apart = d.uniform(0.12, 0.6)
    score.wave({"arm_x_left": apart, "arm_x_right": apart}, hz, begin, _up)
    return score.to(d.uniform(0.3, 0.8), d.base).motion()


def _fetched(d: Draw, share: float) -> tuple[Score, np.ndarray]:
    """Return a score that takes a thing from a table in this share of performances, and the posture to put it back."""
    score = d.start()
    if d.seated or not d.chance(share):
        return score, d.base
    table = d.arm(d.base, "right", d.near(0.3, -0.4, 0.5, by=(0.4, 0.25, 0.25)))
    table = with_channels(
        table, lean=-d.uniform(0, 0.35), bend=d.uniform(0, 0.4), twist=-d.uniform(0, 0.4), head_pitch=d.uniform(0, 0.3)
    )
    score.to(d.uniform(0.4, 0.9), table, d.uniform(0, 0.4))
    return score, table if d.chance(0.7) else d.base


def _drink(d: Draw) -> Motion:
    score, last = _fetched(d, 0.45)
    height = d.uniform(0, 1)  # of elbow and hand, to tip a cup
    place = np.add(d.near(*_MOUTH, by=0.07), (0.12 * height, 0.15 * height, 0))
    mouth = d.arm(d.base, "right", place, (0.9, -0.9 + 0.9 * height, 0.0))
    tilted = with_channels(mouth, head_pitch=-d.uniform(0.0, 0.4), bend=-d.uniform(0.0, 0.12))
    tilted[CHANNEL["arm_y_right"]] += d.uniform(0.0, 0.2)
    tilted[CHANNEL["elbow_y_right"]] += d.uniform(0.0, 0.8)
    for _ in range(d.count(1, 2)):
        score.to(d.uniform(0.4, 0.9), mouth, d.uniform(0, 0.3)).to(d.uniform(0.2, 0.5), tilted, d.uniform(0.3, 2.0))
    score.to(d.uniform(0.5, 1.0), last)
    return (score if last is d.base else score.to(d.uniform(0.4, 0.8), d.base)).motion()


def _phone(d: Draw) -> Motion:
    score, last = _fetched(d, 0.65)
    if d.chance(0.4):
        seen = with_channels(d.arm(d.base, "right", d.near(-0.1, -0.15, 0.45)), head_pitch=0.35)
        score.to(d.uniform(0.4, 0.8), seen, d.uniform(0.2, 1.0))
    if d.chance(0.75):  # the elbow hangs
        ear = d.arm(d.base, "right", d.near(0.05, 0.22, 0.26, by=(0.06, 0.07, 0.06)), (0.6, -1.0, d.uniform(-0.1, 0.4)))
    else:
        ear = d.arm(d.base, "right", d.near(*_EAR, by=0.08), (0.9, d.uniform(-0.9, 0.1), 0.1))
    ear = with_channels(ear, head_roll=-d.uniform(0, 0.2))
    score.to(d.uniform(0.4, 0.9), ear, d.uniform(0.7, 2.0) if d.chance(0.6) else d.uniform(1.5, 4.0))
    if d.chance(0.3):
        return score.motion()
    score.to(d.uniform(0.4, 0.9), last, d.uniform(0, 0.3))
    return (score if last is d.base or d.chance(0.2) else score.to(d.uniform(0.4, 0.8), d.base)).motion()


def _punch(d: Draw) -> Motion:
    """Return one punch or several, from a guard or from arms at rest; the fist is often drawn back first."""
    resting = d.chance(0.4)
    step, flare = d.uniform(0, 0.35) * (not resting and d.chance(0.6)), d.uniform(0.3, 1.2)  # of the elbow
    guard = d.base if resting else d.arms(d.base, d.near(-0.08, 0.0 if d.chance(0.6) else -0.35, 0.35, by=0.12),
                                          (flare, -1.0, -0.3))  # fmt: skip
    guard = guard if resting else with_channels(guard, foot_z_left=step)
    score = d.start() if resting else d.start().to(d.uniform(0.25, 0.6), guard)
    count = d.count(1, 5) if not resting or d.chance(0.3) else 1
    alternates, height = d.chance(0.6), d.uniform(-0.1, 0.25)
    rolling = alternates and d.chance(0.7)  # one fist comes back while the other goes out
    drawn = d.near(0.18, -0.35, 0.08, by=(0.1, 0.2, 0.15))
    held = d.uniform(0.1, 0.8) if count < 3 and d.chance(0.5) else 0.05
    lean, turn = d.uniform(-0.05, 0.2), d.uniform(0, 0.6)
    for number in range(count):
        side, other = BOTH if alternates and number % 2 else BOTH[::-1]
        sign = -1 if side == "left" else 1
        back = with_channels(d.arm(guard, side, drawn, (0.6, -1.0, -0.9)), twist=-0.6 * sign * turn)
        out = d.arm(guard, side, d.near(-0.15, height, 0.94, by=(0.12, 0.12, 0.07)), (flare, -0.6, -0.2))
        out = with_channels(out, twist=sign * turn, bend=lean, foot_z_left=step, z=0.3 * step)
        if d.chance(0.7 if resting else 0.3) and not (rolling and number):
            score.to(d.uniform(0.15, 0.45), back, d.uniform(0, 0.2))
        out = d.arm(out, other, drawn, (0.6, -1.0, -0.9)) if rolling else out
        score.to(d.uniform(0.12, 0.3), out, d.uniform(0, held))
        if not rolling and number < count - 1:
            score.to(d.uniform(0.15, 0.35), guard, d.uniform(0, 0.3))
    if not resting and d.chance(0.6):
        score.to(d.uniform(0.15, 0.35), guard, d.uniform(0, 0.3))
    return (score.to(d.uniform(0.3, 0.7), d.base) if resting or d.chance(0.7) else score).motion()


def _come_here(d: Draw) -> Motion:
    """Beckon about a quiet elbow, with the whole arm or with little more than the hand; up or across the body."""
    both, swing = d.chance(0.15), d.uniform(0.4, 1.6) if d.chance(0.8) else d.uniform(0.15, 0.4)
    upper = (d.uniform(-0.1, 0.6), d.uniform(-1.0, 0.2), d.uniform(0.2, 1.0))
    first, across = d.uniform(-0.4, 0.6), d.chance(0.25)
    x, palm = d.uniform(-0.3, 0.3), 1.0 if d.chance(0.75) else -1.0  # up or down

    def at(angle: float, of: Place, flex: float) -> np.ndarray:
        to = (0.4 - np.sin(angle), 0.3 + x, np.cos(angle)) if across else (x, np.sin(angle), np.cos(angle))
        return _along(d, of, to, both, palm_x=-0.4, palm_y=palm, palm_z=-0.4, flex=flex)

    whole = (d.uniform(0.1, 0.5), -1.0, d.uniform(-0.2, 0.4)) if d.chance(0.3) else upper
    far, close = at(first, upper, d.uniform(-0.3, 0.1)), at(first + swing, whole, d.uniform(0.1, 1.2))
    score = d.start().to(d.uniform(0.3, 0.8), far, d.uniform(0, 0.3))
    seconds = d.uniform(0.15, 0.5), d.uniform(0.15, 0.5)
    for _ in range(d.count(1, 4)):
        score.to(seconds[0], close, d.uniform(-0.1, 0.15)).to(seconds[1], far)
    if d.chance(0.3):  # ends at the body
        score.to(seconds[0], close)
    return score.to(d.uniform(0.3, 0.8), d.base).motion()


def _swipe(d: Draw) -> Motion:
    _, up, forward = d.near(0, 0.05, 0.6, by=(0, 0.3, 0.2))
    places = [(d.uniform(0.45, 0.8), up, forward * 0.8), (0.1, up + d.uniform(-0.05, 0.1), forward + 0.15),
              (-d.uniform(0.2, 0.6), up + d.uniform(-0.1, 0.1), forward)]  # fmt: skip
    elbow = (0.7, d.uniform(-1.0, 0.1), -0.1)
    first, middle, last = (d.arm(d.base, "right", p, elbow) for p in (places if d.chance(0.5) else places[::-1]))
    seconds = d.uniform(0.15, 0.5)
    score = (
        d.start()
        .to(d.uniform(0.3, 0.7), first, d.uniform(0, 0.3))
        .to(seconds, middle)
        .to(seconds, last, d.uniform(0, 0.3))
    )
    return score.to(d.uniform(0.3, 0.8), d.base).motion()


def _push(d: Draw) -> Motion:
    """Return a push or two with both hands; against something heavy the trunk and a foot go along."""
    _, up, _ = d.near(0, 0.0, 0, by=(0, 0.22, 0))
    heavy = d.chance(0.25)
    near = d.arms(d.base, (d.uniform(-0.1, 0.15), up - d.uniform(0, 0.25), d.uniform(0.2, 0.4)),
                  (d.uniform(0.3, 1.2), -0.8, -0.4))  # fmt: skip
    body_to = {"tilt": d.uniform(0.1, 0.4), "foot_z_left": d.uniform(0.15, 0.4), "z": 0.1, "drop": 0.05}
    far = with_channels(d.base, bend=d.uniform(-0.12, 0.2), **(body_to if heavy else {}))
    far = d.arms(far, (d.uniform(-0.25, 0.05), up + d.uniform(-0.05, 0.2), d.uniform(0.88, 0.97)))
    score = d.start().to(d.uniform(0.3, 0.8), near, d.uniform(0, 0.3))
    count, returns = d.count(1, 2), d.chance(0.4)  # or lowers the outstretched arms at once
    for number in range(count):
        score.to(d.uniform(0.2, 1.2 if heavy else 0.7), far, d.uniform(0, 0.6))
        if returns or number < count - 1:
            score.to(d.uniform(0.25, 0.7), near)
    return score.to(d.uniform(0.3, 0.7), d.base).motion()


def _press_button(d: Draw) -> Motion:
    """Push a finger forward for a moment, from the chest or in one go, and mostly draw it back before the arm falls."""
    upper: Place = (d.uniform(-0.2, 0.35), d.uniform(-0.6, 0.2), 1.0)
    if d.chance(0.25):  # a button at the height of the waist
        upper = (d.uniform(0, 0.4), -1.0, d.uniform(0.2, 0.9))
    far = _along(d, upper, (d.uniform(-0.4, 0.15), d.uniform(-0.25, 0.4), 1.0), flex=0)
    far = with_channels(far, bend=d.base[CHANNEL["bend"]] + max(d.uniform(-0.15, 0.15), 0))
    elbow = (d.uniform(0.1, 0.6), -1.0, d.uniform(-0.2, 0.5))
    near = _along(d, elbow, (d.uniform(-0.5, 0.1), d.uniform(-0.1, 1.0), 1.0), flex=0.2)
    score = d.start()
    if d.chance(0.75):
        score.to(d.uniform(0.25, 0.7), near, d.uniform(-0.1, 0.2))
    for number in range(1 if d.chance(0.65) else d.count(2, 3)):
        if number:
            score.to(d.uniform(0.15, 0.35), near)
        score.to(d.uniform(0.15, 0.45), far, d.uniform(0, 0.35))
    if d.chance(0.65):
        score.to(d.uniform(0.15, 0.4), near)
    return score.to(d.uniform(0.3, 0.7), d.base).motion()


def _circle(d: Draw) -> list[tuple[float, float]]:
    sense, first = (1 if d.chance(0.5) else -1), d.uniform(0, 2 * np.pi) if d.chance(0.3) else np.pi / 2
    angles = first + sense * np.linspace(0, 2 * np.pi * d.uniform(0.95, 2.1), 9)
    return [(float(np.cos(a)), float(np.sin(a))) for a in angles]


def _triangle(d: Draw) -> list[tuple[float, float]]:
    low, wide, size = d.uniform(0.4, 1.0), d.uniform(0.7, 1.1), d.uniform(0.8, 1.3)
    corners = [(d.uniform(-0.3, 0.3), 1.0), (wide, -low), (-wide, -low + d.uniform(-0.2, 0.2))]
    first, sense = (0 if d.chance(0.7) else d.count(1, 2)), (1 if d.chance(0.5) else -1)
    points = [corners[(first + sense * k) % 3] for k in range(4)]
    points[3] = (points[3][0] + d.uniform(-0.2, 0.2), points[3][1] + d.uniform(-0.2, 0.2))  # it seldom closes
    return [(size * x, size * y) for x, y in points]


def _cross(d: Draw) -> list[tuple[float, float]]:
    x = d.uniform(0.6, 1.0) * (1 if d.chance(0.5) else -1)
    return [(x, 1.0), (-x, -1.0), (-x, 1.0), (x, -1.0)]


def _tick(d: Draw) -> list[tuple[float, float]]:
    """Return a short stroke down and a long one up, from small to as large as the arm."""
    x, size = (1 if d.chance(0.7) else -1), d.uniform(0.7, 1.6)
    first, low = (-d.uniform(0.4, 1.0), d.uniform(-0.1, 0.4)), (d.uniform(-0.4, 0.1), -d.uniform(0.6, 1.0))
    return [(size * x * a, size * b) for a, b in (first, low, (d.uniform(0.6, 1.1), d.uniform(0.8, 1.2)))]


def _at_work(
    place: Place, by: float, hz: tuple[float, float], left: Place | None = None, bend: float = 0.0, **size: float
) -> Callable[[Draw], Motion]:
    """Return a maker of small repeated movements of the right hand at a place; the left hand is held at `left`."""

    def make(d: Draw) -> Motion:
        vector = d.arm(d.base, "right", d.near(*place, by=by))
        vector = d.arm(vector, "left", d.near(*left, by=by)) if left else vector
        vector[CHANNEL["bend"]] += d.uniform(0, bend)
        score, rate = Score(vector, float(np.exp(d.rng.normal(0, 0.2)))), d.uniform(*hz)
        score.to(d.uniform(3.0, 4.5), vector)
        shapes: tuple[Callable[[float], float], ...] = (np.sin, np.cos)
        for (name, value), shape in zip(size.items(), shapes, strict=False):
            score.wave({name: value * d.uniform(0.6, 1.6)}, rate, shape=shape)
        drift = {f"arm_{axis}_right": d.uniform(-0.12, 0.12) for axis in "xyz"}
        return score.wave(drift, d.uniform(0.1, 0.4)).motion()

    return make


def _idle(d: Draw) -> Motion:
    """Return what people do while they wait."""
    kind = d.count(0, 9)
    if kind < 4:
        places: tuple[tuple[Place, Place, bool], ...] = (
            ((0.28, -0.62, 0.02), (1.0, 0.0, -0.6), True), ((-0.42, -0.38, 0.33), (0.7, -0.7, 0.2), True),
            ((-0.1, -0.72, -0.28), (0.8, 0.0, -0.6), True), ((-0.3, -0.45, 0.4), (0.6, -0.8, 0.0), True),
            ((-0.35, -0.2, 0.25), (0.6, -0.8, 0.0), False), ((0.12, -0.72, 0.05), (0.8, 0.0, -0.6), False),
        )  # fmt: skip
        place, elbow, both = places[d.count(0, len(places) - 1)]
        held = d.hands(d.base, d.near(*place, by=0.05), both, elbow)
        score = d.start().to(d.uniform(0.4, 0.9), held, d.uniform(0.5, 2.5))
        return (score.to(d.uniform(0.4, 0.9), d.base) if d.chance(0.6) else score).motion()
    if kind < 6:  # touches the face or the hair, looks at the watch
        place = d.near(*((-0.2, 0.3, 0.25), (0.0, 0.5, 0.05), (-0.3, -0.15, 0.4))[d.count(0, 2)], by=0.06)
        touch = d.arm(d.base, "right", place, (0.9, -0.9, 0.0))
        score = d.start().to(d.uniform(0.3, 0.7), touch, d.uniform(0.1, 0.7))
        score.wave({"arm_x_right": d.uniform(0, 0.05)}, d.uniform(2, 4), 0.4)
        return score.to(d.uniform(0.3, 0.7), d.base).motion()
    away = with_channels(
        d.base, twist=d.uniform(-0.5, 0.5), head_yaw=d.uniform(-0.9, 0.9), x=d.uniform(-0.1, 0.1),
        lean=d.uniform(-0.15, 0.15), yaw=d.uniform(-0.5, 0.5) * (kind > 7), roll=d.uniform(-0.05, 0.05),
    )  # fmt: skip
    return d.start().to(d.uniform(0.5, 1.2), away, d.uniform(0.2, 1.5)).to(d.uniform(0.5, 1.2), d.base).motion()


MAKERS: dict[str, tuple[Callable[[Draw], Motion], float]] = {
    "wave": (_wave, 0.1),
    "raise hand": (_raise_hand, 0.1),
    "clap": (_clap, 0.1),
    "bow": (movements.on_the_way(movements.bow, 0.15), 0.0),
    "drink": (_drink, 0.25),
    "phone": (_phone, 0.25),
    "sit down": (lambda d: movements.sit_or_stand(d, True), 0.0),
    "stand up": (lambda d: movements.sit_or_stand(d, False), 0.0),
    "walk": (movements.walk, 0.0),
    "run": (movements.run, 0.0),
    "pick up": (movements.on_the_way(movements.pick_up, 0.5), 0.0),
    "throw": (movements.on_the_way(movements.throw, 0.3), 0.0),
    "shoot a basketball": (movements.shoot_basketball, 0.0),
    "kick": (movements.on_the_way(movements.kick, 0.25), 0.0),
    "punch": (_punch, 0.0),
    "point": (_point, 0.1),
    "stop": (_stop, 0.1),
    "come here": (_come_here, 0.1),
    "call out": (hold((-0.28, 0.25, 0.32), 0.07, both=0.9, hold=(0.8, 2.5), bend=0.2), 0.0),
    "swipe": (_swipe, 0.1),
    "push": (_push, 0.05),
    "press a button": (_press_button, 0.1),
    "carry": (movements.carry, 0.0),
    "drop trash": (movements.on_the_way(movements.drop_trash, 0.5), 0.0),
    "draw a circle": (trace(_circle, (0.07, 0.28)), 0.1),
    "draw a triangle": (trace(_triangle, (0.22, 0.8), 0.2), 0.1),
    "draw x": (trace(_cross, (0.2, 0.7)), 0.1),
    "draw a tick": (trace(_tick, (0.25, 1.0), 0.3), 0.1),
    "jump": (movements.jump, 0.0),
    "jumping jacks": (movements.jumping_jacks, 0.0),
    "lunge": (movements.lunge, 0.0),
    "squat": (movements.squat, 0.0),
    "reach up": (hold((0.0, 0.75, 0.5), (0.2, 0.1, 0.15), heel_left=0.5, heel_right=0.5, hold=(0.2, 1.0)), 0.0),
    "brush teeth": (_at_work(_MOUTH, 0.06, (2.5, 5.0), arm_x_right=0.06, arm_z_right=0.03), 0.0),
    "write on a board": (_at_work((-0.05, 0.3, 0.72), 0.2, (1.5, 3.5), arm_y_right=0.06, arm_x_right=0.05), 0.0),
    "chop": (_at_work((-0.12, -0.42, 0.55), 0.1, (1.5, 4.0), (-0.2, -0.45, 0.5), 0.3, arm_y_right=0.1), 0.0),
    "stir": (_at_work((-0.1, -0.4, 0.55), 0.1, (0.8, 2.2), None, 0.25, arm_x_right=0.12, arm_z_right=0.1), 0.0),
    "open a pill bottle": (
        _at_work((-0.3, -0.25, 0.42), 0.08, (1.0, 2.5), (-0.3, -0.28, 0.42), 0.15, arm_y_right=0.04, arm_x_right=0.03),
        0.0,
    ),
    "use a computer": (_at_work((-0.12, -0.42, 0.58), 0.08, (2, 5), (-0.1, -0.42, 0.58), 0.25, arm_y_right=0.015), 1.0),
    "sit and rest": (movements.sit_and_rest, 1.0),
    "unknown": (_idle, 0.1),
    "other": (others.other, 0.1),
}
"""Class of `everyday` to its maker and the share of performances on a stool."""

NO_CLASS = ("unknown", "other")
"""Names in `MAKERS` that are no classes: waiting, and other actions."""


def perform(
    name: str, seed: Sequence[int], physique: Physique | None = None, hz: float = 30.0
) -> tuple[np.ndarray, np.ndarray]:
    """Perform an action once, as a camera before the actor measures it without noise.

    Args:
        name: A class of `MAKERS`.
        seed: Seed of all choices.
        physique: The actor's bone lengths; by default drawn too.
        hz: Frames a second.

    Returns:
        Stamps [T], ns, and joints [T, 25, 3] `kinect_v2_25` in the optical frame, m.

    Raises:
        ConfigError: The action is unknown.
    """
    if name not in MAKERS:
        raise ConfigError(f"the actor has no action '{name}'; known: {', '.join(MAKERS)}")
    make, seated = MAKERS[name]
    rng = np.random.default_rng(list(seed))
    physique = physique or Physique(float(rng.uniform(1.45, 1.95)), float(rng.uniform(0.94, 1.06)))
    motion = make(Draw(rng, seated))
    times = np.arange(max(int(motion.times[-1] * hz), 2)) / hz
    vectors = motion.postures(times)
    vectors = body.mirrored(vectors) if rng.random() < 0.5 else vectors
    idle, offset = IdleMotion(int(rng.integers(1 << 30))), rng.uniform(0, 100)
    joints = np.stack([pose(idle.add(v, t + offset), physique).joints for v, t in zip(vectors, times, strict=True)])
    heading = rng.uniform(-np.pi, np.pi) if motion.ways else rng.normal(0, 0.6)
    return (times * 1e9).astype(np.int64), _seen(joints, motion, times, heading, rng)


def _seen(
    joints: np.ndarray, motion: Motion, times: np.ndarray, heading: float, rng: np.random.Generator
) -> np.ndarray:
    """Return joints [T, 25, 3] in the place frame from a camera; the place moves and turns."""
    speed = motion.speeds(times)
    step = np.gradient(times) * speed
    yaw = heading + motion.turn * np.cumsum(step) / max(float(speed.max()), 1e-6)
    yaw = yaw + np.cumsum(np.gradient(times) * motion.turning(times))
    cos, sin = np.cos(yaw), np.sin(yaw)
    turn = np.zeros((len(times), 3, 3))
    turn[:, 0, 0], turn[:, 0, 2], turn[:, 1, 1], turn[:, 2, 0], turn[:, 2, 2] = cos, sin, 1, -sin, cos
    way = np.cumsum(np.stack([step * sin, 0 * step, step * cos], axis=1), axis=0)
    placed = np.einsum("tij,tvj->tvi", turn, joints) + (way - way.mean(axis=0))[:, None]
    away = max(rng.uniform(2.2, 3.8), float(placed[..., 2].max()) + 1.0)
    origin = np.array([rng.uniform(-0.7, 0.7), rng.uniform(0.7, 1.4), away])
    return placed * np.array([1.0, -1.0, -1.0]) + origin
