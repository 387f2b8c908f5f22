"""Random performances of actions that are in no class of `everyday`, many of them near to one: for background.

They are other figures drawn in the air, swings, lifted legs, held arms, turns of the trunk, work with the hands: a
choice of what NTU RGB+D 120 and daily life have beside the classes.
"""

from collections.abc import Callable

import numpy as np

from actrec.simulation.performances.performance import BOTH, Draw, Motion, Place, hold, trace
from actrec.simulation.posture import with_channels

Points = list[tuple[float, float]]


def _regular(*points: tuple[float, float]) -> Callable[[Draw], Points]:
    """Return a function of the points of a figure, drawn in either direction, a little distorted."""

    def make(d: Draw) -> Points:
        order = points if d.chance(0.6) else points[::-1]
        return [(x + d.uniform(-0.12, 0.12), y + d.uniform(-0.12, 0.12)) for x, y in order]

    return make


def _spiral(d: Draw) -> Points:
    turns, sense = d.uniform(1.5, 3.0), (1 if d.chance(0.5) else -1)
    shares = np.linspace(0.15, 1, 12)
    angles = sense * 2 * np.pi * turns * shares
    return [(float(share * np.cos(a)), float(share * np.sin(a))) for share, a in zip(shares, angles, strict=True)]


def _eight(d: Draw) -> Points:
    angles = np.linspace(0, 2 * np.pi, 11) * (1 if d.chance(0.5) else -1)
    if d.chance(0.5):
        return [(float(np.sin(a)), float(0.6 * np.sin(2 * a))) for a in angles]
    return [(float(0.6 * np.sin(2 * a)), float(np.sin(a))) for a in angles]


_FIGURES: tuple[Callable[[Draw], Points], ...] = (
    _regular((-0.8, 0.8), (0.8, 0.8), (0.8, -0.8), (-0.8, -0.8), (-0.8, 0.8)),  # square
    _regular((-1, 0.5), (-0.4, -0.5), (0.1, 0.5), (0.5, -0.5), (1, 0.5)),  # zigzag, w
    _regular((-0.9, -0.9), (0, 1), (0.9, -0.9), (0.4, -0.1), (-0.4, -0.1)),  # a
    _regular((0.7, 0.8), (-0.5, 0.9), (-0.8, 0), (-0.5, -0.9), (0.7, -0.8)),  # c
    _regular((-0.6, 1), (-0.6, -1), (-0.6, 0), (0.7, 1), (-0.6, 0), (0.7, -1)),  # k
    _regular((-0.9, -0.9), (-0.7, 0.9), (0, -0.3), (0.7, 0.9), (0.9, -0.9)),  # m
    _regular((-0.5, -1), (-0.5, 1), (0.6, 0.8), (0.6, 0.1), (-0.5, 0)),  # p
    _regular((-0.8, 0.8), (0.8, 0.8), (-0.8, -0.8), (0.8, -0.8)),  # z
    _regular((-0.6, 1), (-0.6, -0.9), (0.8, -0.9)),  # l
    _regular((0.7, 0.8), (-0.5, 0.7), (0.5, -0.4), (-0.7, -0.8)),  # s
    _regular((-0.7, 0.8), (-0.6, -0.8), (0.6, -0.8), (0.7, 0.8)),  # u
    _regular((0, 1), (0, -1), (0, 1), (0, -0.8)),  # up and down
    _regular((0, 0.9), (0, -0.9), (-0.9, 0), (0.9, 0)),  # plus
    _spiral,
    _eight,
)


def _figure(d: Draw) -> Motion:
    return trace(_FIGURES[d.count(0, len(_FIGURES) - 1)], (0.12, 0.6))(d)


def _between(d: Draw, *postures: np.ndarray, pace: tuple[float, float], most: int = 4, pause: float = 0.2) -> Motion:
    """Return a motion through postures, some times."""
    score = d.start().to(d.uniform(0.4, 0.9), postures[0])
    seconds = d.uniform(*pace)
    for number in range(d.count(1, most)):
        for vector in postures[0 if number else 1 :]:
            score.to(seconds * d.uniform(0.8, 1.2), vector, d.uniform(0, pause))
    return score.to(d.uniform(0.4, 0.9), d.base).motion()


def _arms_at_angles(d: Draw, vector: np.ndarray, angle: float, forward: float = 0.08) -> np.ndarray:
    """Return both arms stretched sideways at an angle above the horizontal, radians."""
    reach = d.uniform(0.85, 0.97)
    return d.arms(vector, (reach * np.cos(angle), reach * np.sin(angle), forward), (0.3, -1.0, -0.3))


def _flap(d: Draw) -> Motion:
    low, high, forward = d.uniform(-1.3, -0.5), d.uniform(0.0, 1.3), d.uniform(-0.1, 0.4)
    base = with_channels(d.base, bend=d.uniform(0, 0.2), lean=d.uniform(-0.1, 0.1))
    return _between(d, *(_arms_at_angles(d, base, a, forward) for a in (low, high)), pace=(0.25, 0.9), most=5)


def _spread(d: Draw) -> Motion:
    held = _arms_at_angles(d, d.base, d.uniform(-0.3, 0.5), d.uniform(-0.1, 0.5))
    if d.chance(0.4):
        held = d.arm(held, "left", d.near(0.1, -0.9, 0.1))
    if d.chance(0.3):
        held = with_channels(held, foot_y_right=d.uniform(0.1, 0.4), foot_z_right=d.uniform(-0.3, 0.2), x=0.08)
    return d.start().to(d.uniform(0.4, 1.0), held, d.uniform(0.3, 2.5)).to(d.uniform(0.4, 1.0), d.base).motion()


def _arm_circles(d: Draw) -> Motion:
    both, plane = d.chance(0.5), d.count(0, 1)  # beside the body, or before it
    radius, hz = d.uniform(0.25, 0.9), d.uniform(0.5, 1.5)
    sense = 1 if d.chance(0.5) else -1
    middle: Place = (0.25, 0.0, 0.0) if plane == 0 else d.near(0.5, 0.0, 0.35, by=0.2)
    first = d.hands(d.base, middle, both)
    score = d.start().to(d.uniform(0.4, 0.8), first)
    begin = score.now - 0.1
    score.to(d.count(1, 4) / hz, first)
    sides = BOTH if both else BOTH[1:]
    across = "z" if plane == 0 else "x"
    score.wave({f"arm_{across}_{side}": sense * radius for side in sides}, hz, begin, np.sin)
    score.wave({f"arm_y_{side}": radius for side in sides}, hz, begin, np.cos)
    return score.to(d.uniform(0.4, 0.9), d.base).motion()


def _curl(d: Draw) -> Motion:
    both, out = d.chance(0.5), d.uniform(0.05, 0.35)
    low = d.hands(d.base, (out, -0.88, d.uniform(0.1, 0.4)), both, (0.5, -0.6, -0.7))
    high = d.hands(d.base, (out, d.uniform(-0.25, 0.05), d.uniform(0.3, 0.5)), both, (0.4, -1.0, -0.2))
    return _between(d, low, high, pace=(0.3, 0.9))


def _swing(d: Draw) -> Motion:
    """Swing a racket or a bat, forehand or backhand, level or from above."""
    twist, height = d.uniform(0.2, 0.8), d.uniform(-0.5, 0.5)
    sense = 1 if d.chance(0.65) else -1
    feet = {"foot_z_left": d.uniform(0.05, 0.3)} if d.chance(0.4) else {}
    back = with_channels(d.base, twist=-sense * twist, **feet)
    front = with_channels(d.base, twist=sense * twist * d.uniform(0.5, 1), bend=d.uniform(0, 0.2), **feet)
    away, near = (0.75, height, d.uniform(-0.5, 0.2)), (-0.4, height + d.uniform(0, 0.6), d.uniform(0.4, 0.7))
    first, last = (away, near) if sense > 0 else (near, away)
    middle = d.near(0.2, height * 0.6, 0.85, by=0.12)
    postures = [d.arm(v, "right", place) for v, place in ((back, first), (d.base, middle), (front, last))]
    if d.chance(0.4):  # both hands on it
        lefts = [(-place[0] - 0.45, place[1], max(place[2], 0.25)) for place in (first, middle, last)]
        postures = [d.arm(v, "left", place) for v, place in zip(postures, lefts, strict=True)]
    score, seconds = d.start(), d.uniform(0.14, 0.4)
    for _ in range(d.count(1, 2)):
        score.to(d.uniform(0.4, 0.8), postures[0], d.uniform(0, 0.4)).to(seconds, postures[1])
        score.to(seconds, postures[2], d.uniform(0, 0.4))
    return score.to(d.uniform(0.4, 0.9), d.base).motion()


def _catch(d: Draw) -> Motion:
    out = d.arms(d.base, d.near(-0.1, 0.1, 0.75, by=(0.15, 0.35, 0.15)))
    held = d.arms(with_channels(d.base, bend=d.uniform(0, 0.2)), d.near(-0.3, -0.2, 0.35))
    score = d.start().to(d.uniform(0.2, 0.5), out, d.uniform(0, 0.4)).to(d.uniform(0.2, 0.5), held, d.uniform(0.2, 1))
    return score.to(d.uniform(0.4, 0.9), d.base).motion()


def _repeated(place: Place, by: float, hz: tuple[float, float], axis: str, size: float) -> Callable[[Draw], Motion]:
    """Return a maker of a hand that moves to and fro: knocks, shakes a fist, bounces a ball, saws."""

    def make(d: Draw) -> Motion:
        held, rate = d.arm(d.base, "right", d.near(*place, by=by)), d.uniform(*hz)
        score = d.start().to(d.uniform(0.3, 0.8), held)
        begin = score.now - 0.1
        score.to(d.count(2, 6) / rate, held).wave({f"arm_{axis}_right": size * d.uniform(0.6, 1.5)}, rate, begin)
        return score.to(d.uniform(0.3, 0.8), d.base).motion()

    return make


def _hug(d: Draw) -> Motion:
    _, up, forward = d.near(0, -0.05, 0.6, by=(0, 0.2, 0.15))
    wide = d.arms(d.base, (d.uniform(0.3, 0.7), up, forward))
    closed = d.arms(d.base, (d.uniform(-0.55, -0.35), up, forward - 0.15))
    score = d.start().to(d.uniform(0.4, 0.9), wide, d.uniform(0, 0.5)).to(d.uniform(0.3, 0.8), closed)
    return score.to(d.uniform(0.3, 1.5), closed).to(d.uniform(0.4, 0.9), d.base).motion()


def _swim(d: Draw) -> Motion:
    bent = with_channels(d.base, bend=d.uniform(0.1, 0.5), tilt=d.uniform(0, 0.3))
    hz, both = d.uniform(0.4, 1.0), d.chance(0.4)
    if both:  # breast stroke
        near, far = d.arms(bent, (-0.2, -0.05, 0.35)), d.arms(bent, (-0.1, 0.1, 0.95))
        return _between(d, near, far, d.arms(bent, (0.7, 0.0, 0.5)), pace=(0.3, 0.7), pause=0.05)
    held = d.arms(bent, (0.2, 0.0, 0.2))
    score = d.start().to(d.uniform(0.4, 0.8), held)
    begin = score.now - 0.1
    score.to(d.count(2, 4) / hz, held)
    for side, sign in zip(BOTH, (1, -1), strict=True):
        score.wave({f"arm_z_{side}": 0.75 * sign}, hz, begin, np.sin).wave(
            {f"arm_y_{side}": 0.75 * sign}, hz, begin, np.cos
        )
    return score.to(d.uniform(0.4, 0.9), d.base).motion()


def _lift_leg(d: Draw) -> Motion:
    """Lift a leg slowly or hold it: forward, aside, back, the knee alone."""
    kind = d.count(0, 3)
    to = (
        {"foot_y_right": d.uniform(0.25, 0.55), "foot_z_right": d.uniform(0.05, 0.25)},
        {"foot_y_right": d.uniform(0.08, 0.35), "foot_x_right": d.uniform(0.35, 0.65)},
        {"foot_y_right": d.uniform(0.15, 0.5), "foot_z_right": -d.uniform(0.2, 0.45)},
        {"foot_y_right": d.uniform(0.1, 0.4), "foot_z_right": d.uniform(0.3, 0.55)},
    )[kind]
    base = _arms_at_angles(d, d.base, d.uniform(-0.5, 0.2)) if d.chance(0.3) else d.base
    up = with_channels(base, x=0.08, lean=d.uniform(0, 0.12), **to)
    if kind == 0 and d.chance(0.3):  # holds the knee
        up = d.hands(up, d.near(0.0, -0.5, 0.6), True)
    pace = d.uniform(0.4, 1.0) if kind == 0 else d.uniform(0.6, 1.3)
    score = d.start()
    for _ in range(d.count(1, 3)):
        score.to(pace, up, d.uniform(0.1, 1.5) if kind == 0 else d.uniform(0.5, 2.0)).to(pace, d.base)
    return score.motion()


def _trunk(d: Draw) -> Motion:
    """Turn or lean the trunk to both sides, look around, shake the head, nod."""
    kind, hands = d.count(0, 4), d.count(0, 2)
    base = d.base
    if hands == 1:
        base = d.arms(base, (0.28, -0.62, 0.02), (1.0, 0.0, -0.6))
    elif hands == 2:
        base = _arms_at_angles(d, base, d.uniform(-0.2, 0.2)) if d.chance(0.5) else d.arms(base, (-0.3, -0.1, 0.35))
    size = d.uniform(0.3, 0.9)
    ends = (
        ({"twist": size, "head_yaw": 0.4 * size}, {"twist": -size, "head_yaw": -0.4 * size}),
        ({"lean": 0.6 * size}, {"lean": -0.6 * size}),
        ({"head_yaw": size}, {"head_yaw": -size}),
        ({"head_pitch": 0.5 * size}, {"head_pitch": -0.2}),
        ({"yaw": size, "twist": 0.3}, {"yaw": -size, "twist": -0.3}),
    )[kind]
    return _between(d, *(with_channels(base, **end) for end in ends), pace=(0.3, 1.1), pause=0.6)


def _step_aside(d: Draw) -> Motion:
    """Step aside, forward or back once, and return; or rise on the toes."""
    if d.chance(0.3):
        up = with_channels(d.base, heel_left=0.6, heel_right=0.6, drop=-0.05)
        return _between(d, d.base, up, pace=(0.3, 0.8), pause=0.5)
    length, ahead = d.uniform(0.2, 0.5), d.chance(0.5)
    to = {"foot_z_right": length, "z": length / 2} if ahead else {"foot_x_right": 0.1 + length, "x": -length / 2}
    out = with_channels(d.base, drop=d.uniform(0.02, 0.08), **to)
    lifted = with_channels(0.5 * (out + d.base), foot_y_right=d.uniform(0.03, 0.12))
    score = d.start()
    for _ in range(d.count(1, 3)):
        score.to(d.uniform(0.2, 0.4), lifted).to(d.uniform(0.2, 0.4), out, d.uniform(0.1, 0.8))
        score.to(d.uniform(0.2, 0.4), lifted).to(d.uniform(0.2, 0.4), d.base)
    return score.motion()


def _open_door(d: Draw) -> Motion:
    out = d.arm(d.base, "right", d.near(0.1, -0.3, 0.8, by=0.12))
    pulled = d.arm(with_channels(d.base, twist=-d.uniform(0, 0.4)), "right", d.near(0.35, -0.4, 0.3, by=0.12))
    first, last = (out, pulled) if d.chance(0.5) else (pulled, out)
    score = (
        d.start().to(d.uniform(0.4, 0.9), first, d.uniform(0.1, 0.5)).to(d.uniform(0.4, 0.9), last, d.uniform(0, 0.5))
    )
    return score.to(d.uniform(0.4, 0.9), d.base).motion()


def _reach_down(d: Draw) -> Motion:
    """Touch a knee or a foot, pat the thighs, tie a shoe with the foot up."""
    low = d.low(d.chance(0.4), d.uniform(0.45, 0.75))
    if d.chance(0.5):
        low = with_channels(low, foot_y_right=d.uniform(0.1, 0.35), foot_z_right=d.uniform(0.0, 0.2))
    pause = d.uniform(0.1, 2.0)
    return d.start().to(d.uniform(0.4, 0.9), low, pause).to(d.uniform(0.4, 0.9), d.base).motion()


KINDS: tuple[tuple[float, Callable[[Draw], Motion]], ...] = (
    (4.0, _figure), (1.5, _flap), (1.5, _spread), (1.5, _arm_circles), (1.5, _curl), (2.5, _swing), (1.0, _catch),
    (0.7, _repeated((-0.05, 0.2, 0.65), 0.15, (1.5, 4.0), "z", 0.1)),  # knocks
    (0.7, _repeated((0.1, 0.3, 0.4), 0.15, (1.5, 3.5), "y", 0.15)),  # shakes a fist
    (0.7, _repeated((0.15, -0.55, 0.45), 0.12, (1.0, 2.2), "y", 0.2)),  # bounces a ball
    (0.7, _repeated((0.0, -0.35, 0.6), 0.15, (0.8, 2.5), "z", 0.25)),  # saws
    (1.0, _hug), (1.0, _swim), (2.5, _lift_leg), (2.0, _trunk), (1.5, _step_aside), (1.0, _open_door),
    (0.7, _reach_down),
    (1.0, hold((-0.4, -0.1, 0.35), 0.1, both=1.0, hold=(0.5, 2.5))),  # crosses the arms
    (0.8, hold((0.05, 0.45, -0.02), 0.08, both=1.0, hold=(0.4, 2.0))),  # hands on the head
    (0.7, hold((-0.02, 0.42, 0.22), 0.06, hold=(0.4, 1.5))),  # salutes
    (0.6, hold((-0.1, 0.35, -0.15), 0.08, hold=(0.3, 1.5))),  # rubs the neck
    (0.8, hold((-0.25, -0.1, 0.45), 0.1, both=1.0, hold=(0.8, 2.5), head_pitch=0.4)),  # reads
    (0.6, hold((0.12, -0.72, 0.08), 0.06, hold=(0.2, 1.0))),  # into a pocket
    (0.6, hold((-0.3, -0.15, 0.42), 0.08, hold=(0.4, 1.5), head_pitch=0.4)),  # looks at the watch
)  # fmt: skip
"""Makers and how often each is chosen, relative to the others."""


def other(d: Draw) -> Motion:
    """Return a performance of some action that is in no class."""
    shares = np.array([share for share, _ in KINDS])
    return KINDS[int(d.rng.choice(len(KINDS), p=shares / shares.sum()))][1](d)
