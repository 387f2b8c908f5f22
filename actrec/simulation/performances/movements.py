"""Random performances of actions of the whole body by the procedural actor: steps, bends, jumps, throws, kicks."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from actrec.simulation import actions
from actrec.simulation.performances.performance import BOTH, Draw, Motion, Score, shorten_arm, steps
from actrec.simulation.posture import CHANNEL, with_channels


def bow(d: Draw) -> Motion:
    """Bend forward, sometimes to the toes."""
    if d.chance(0.25):  # to the toes
        low = d.bent(d.base, d.uniform(1.6, 2.2), 1.0, z=-d.uniform(0.1, 0.2), drop=d.uniform(0.01, 0.1))
    else:
        low = d.bent(
            d.base, d.uniform(0.45, 1.6), d.uniform(0, 1), z=-d.uniform(0, 0.15), head_pitch=d.uniform(-0.3, 0.3)
        )
    return d.start().to(d.uniform(0.5, 1.2), low, d.uniform(0.1, 1.2)).to(d.uniform(0.5, 1.2), d.base).motion()


def sit_or_stand(d: Draw, sits: bool) -> Motion:
    """Return sitting down or standing up."""
    seat = with_channels(actions.SEATED, bend=d.uniform(-0.1, 0.3), drop=d.uniform(0.3, 0.43))
    seat[[CHANNEL[f"foot_x_{side}"] for side in BOTH]] = d.base[[CHANNEL[f"foot_x_{side}"] for side in BOTH]]
    for side in BOTH:
        shorten_arm(seat, side)
    lean, on_knees = d.uniform(0.3, 1.0), d.chance(0.5)
    keys = []
    for share in np.linspace(0, 1, 6):
        vector = d.base + share * (seat - d.base)
        vector[CHANNEL["tilt"]] += 0.6 * lean * np.sin(np.pi * share)
        vector[CHANNEL["bend"]] += 0.4 * lean * np.sin(np.pi * share)
        if not on_knees and 0 < share < 1:
            vector = d.arms(vector, (0.15, -0.8, 0.25 + 0.4 * np.sin(np.pi * share)))
        keys.append(vector)
    keys = keys if sits else keys[::-1]
    score = Score(keys[0], float(np.exp(d.rng.normal(0, 0.22))))
    for key in keys[1:]:
        score.to(d.uniform(0.2, 0.42), key)
    return score.motion()


def gait(d: Draw, vector: np.ndarray, hz: float, lift: float, swing: float, speed: float, bounce: float) -> Motion:
    """Return steps for some seconds, often along a curve."""
    seconds, first = d.uniform(2.0, 4.5), d.uniform(0, 2 * np.pi)
    begin = 0.0 if d.chance(0.3) else -1.0
    waves = steps(begin, seconds + 1, first, hz, lift, swing, speed, bounce)
    turn = d.uniform(-1.2, 1.2) if d.chance(0.6) and speed else 0.0
    return Motion((0.0, seconds), (vector, vector), waves, ((begin, seconds + 1, speed),), turn)


def on_the_way(make: Callable[[Draw], Motion], share: float = 0.4) -> Callable[[Draw], Motion]:
    """Return a maker of the same action, in this share of performances between walking up to a place and away."""

    def walked(d: Draw) -> Motion:
        motion = make(d)
        if not d.chance(share):
            return motion
        before, after = d.uniform(0.4, 1.6), d.uniform(0.0, 1.4)
        begin, end = before - d.uniform(0, 0.4), before + motion.times[-1] - d.uniform(0, 0.4)
        last = end + after
        hz, speed = d.uniform(0.7, 1.1), d.uniform(0.4, 1.2)
        gait = [
            wave
            for span in ((-1.0, begin + 0.2), (end - 0.2, last + 1))
            for wave in steps(*span, d.uniform(0, 6.3), hz, d.uniform(0.04, 0.12), d.uniform(0, 0.2), speed, 0.012)
        ]
        waves = [replace(wave, start=wave.start + before, end=wave.end + before) for wave in motion.waves]
        times = [0.0, *(time + before for time in motion.times), max(last, before + motion.times[-1] + 0.05)]
        keys = [motion.keys[0], *motion.keys, motion.keys[-1]]
        ways = ((-1.0, begin + 0.2, speed), (end - 0.2, last + 1, speed))
        return Motion(times, keys, [*waves, *gait], ways, d.uniform(-0.8, 0.8))

    return walked


def walk(d: Draw) -> Motion:
    """Walk, in place or along a curve."""
    hz = d.uniform(0.7, 1.1)
    vector = with_channels(d.base, drop=0.03)
    if d.chance(0.5):  # in place
        return gait(d, vector, hz, d.uniform(0.05, 0.3), d.uniform(0.05, 0.4), 0.0, 0.01)
    return gait(d, vector, hz, d.uniform(0.04, 0.12), d.uniform(0.1, 0.4), d.uniform(0.5, 1.4), 0.012)


def run(d: Draw) -> Motion:
    """Run, in place or along a curve."""
    vector = d.arms(with_channels(d.base, drop=0.05, bend=d.uniform(0.05, 0.2)), d.near(0.15, -0.45, 0.35))
    speed = 0.0 if d.chance(0.6) else d.uniform(1.8, 3.0)
    return gait(d, vector, d.uniform(1.25, 1.9), d.uniform(0.12, 0.4), d.uniform(0.15, 0.4), speed, 0.035)


def carry(d: Draw) -> Motion:
    """Hold something before the body, mostly while walking."""
    both = d.chance(0.7)
    place = d.near(-0.12 if both else 0.1, -0.45, 0.5, by=(0.12, 0.15, 0.12))
    vector = d.hands(with_channels(d.base, drop=0.03, bend=d.uniform(-0.08, 0.12)), place, both)
    moving = d.chance(0.7)
    return gait(d, vector, d.uniform(0.65, 1.05), d.uniform(0.04, 0.15), 0.02, d.uniform(0.4, 1.2) * moving, 0.012)


def pick_up(d: Draw) -> Motion:
    """Pick something up from the floor or near it, with one hand or both."""
    both = d.chance(0.4)
    low = d.low(both, d.uniform(0.05, 0.4))
    held = d.hands(d.base, d.near(-0.05, -0.5, 0.45, by=0.15), both)
    halfway = with_channels(d.base + 0.45 * (low - d.base), tilt=0.32, bend=0.36)
    score = d.start().to(d.uniform(0.3, 0.6), halfway).to(d.uniform(0.3, 0.7), low, d.uniform(0.05, 0.6))
    if d.chance(0.7):
        score.to(d.uniform(0.6, 1.1), held, d.uniform(0, 0.6))
    return (score if d.chance(0.4) else score.to(d.uniform(0.5, 1.0), d.base)).motion()


def throw(d: Draw) -> Motion:
    """Throw overarm or from the side, with a step or without."""
    high = d.uniform(0.0, 1.0)
    twist, step = d.uniform(0.1, 0.6), d.chance(0.5)
    feet = {"foot_z_left": d.uniform(0.15, 0.35), "z": 0.06, "drop": 0.04} if step else {}
    cocked = d.arm(with_channels(d.base, twist=-twist, bend=-0.06, **feet), "right",
                   d.near(0.35, 0.2 + 0.5 * high, 0.0, by=(0.25, 0.15, 0.3)), (1.0, -0.5, -0.2))  # fmt: skip
    forward = with_channels(d.base, twist=0.5 * twist, bend=d.uniform(0.05, 0.25), **feet)
    release = d.arm(forward, "right", d.near(0.0, 0.15 + 0.45 * high, 0.8, by=0.15), (0.9, -0.5, -0.1))
    bend = with_channels(d.base, twist=twist, bend=d.uniform(0.1, 0.4), **feet)
    through = d.arm(bend, "right", d.near(-0.25, -0.45, 0.7, by=0.15))
    score = d.start()
    if d.chance(0.5):
        score.to(d.uniform(0.3, 0.6), d.arm(d.base, "right", d.near(0.1, -0.2, 0.45, by=0.15)), d.uniform(0, 0.4))
    score.to(d.uniform(0.3, 0.7), cocked, d.uniform(0, 0.25)).to(d.uniform(0.14, 0.32), release)
    return score.to(d.uniform(0.12, 0.3), through).to(d.uniform(0.4, 0.9), d.base).motion()


def shoot_basketball(d: Draw) -> Motion:
    """Throw with both hands from the chest upward."""
    chest = d.arms(with_channels(d.base, drop=d.uniform(0.03, 0.2)), d.near(-0.22, 0.0, 0.42, by=(0.08, 0.2, 0.1)))
    high = d.arms(with_channels(d.base, bend=-0.03, heel_left=0.3, heel_right=0.3), d.near(-0.1, 0.78, 0.45))
    score = (
        d.start().to(d.uniform(0.4, 0.9), chest, d.uniform(0, 0.5)).to(d.uniform(0.22, 0.5), high, d.uniform(0.1, 0.6))
    )
    return score.to(d.uniform(0.4, 0.9), d.base).motion()


def kick(d: Draw) -> Motion:
    """Kick forward or aside."""
    aside = d.chance(0.3)
    support = with_channels(d.base, x=0.08)
    support = d.arms(support, d.near(0.3, -0.85, 0.1)) if d.chance(0.5) else support
    back = with_channels(support, foot_z_right=-d.uniform(0.1, 0.45) * (not aside), foot_y_right=d.uniform(0.08, 0.3))
    to = {"foot_x_right": d.uniform(0.45, 0.8)} if aside else {"foot_z_right": d.uniform(0.4, 0.8)}
    strike = with_channels(support, foot_y_right=d.uniform(0.2, 0.85), bend=-d.uniform(0, 0.2), lean=0.15 * aside, **to)
    score = d.start()
    for _ in range(d.count(1, 2)):
        if d.chance(0.7):
            score.to(d.uniform(0.3, 0.5), back)
        score.to(d.uniform(0.2, 0.4), strike, d.uniform(0, 0.15)).to(d.uniform(0.3, 0.6), support)
    return score.to(d.uniform(0.3, 0.5), d.base).motion()


def drop_trash(d: Draw) -> Motion:
    """Hold something out, sometimes bent aside, and let go of it."""
    score = d.start()
    if d.chance(0.6):
        score.to(d.uniform(0.3, 0.6), d.arm(d.base, "right", d.near(0.0, -0.45, 0.45)), d.uniform(0, 0.4))
    over = d.arm(d.base, "right", d.near(0.35, -0.45, 0.5, by=(0.35, 0.2, 0.25)))
    over = with_channels(over, bend=d.uniform(0.02, 0.6), lean=-d.uniform(0, 0.3), twist=-d.uniform(0, 0.5))
    return score.to(d.uniform(0.35, 0.7), over, d.uniform(0.1, 0.6)).to(d.uniform(0.4, 0.8), d.base).motion()


def jump(d: Draw) -> Motion:
    """Jump once or several times."""
    height = d.uniform(0.06, 0.4)
    crouch = with_channels(d.base, drop=d.uniform(0.1, 0.35), tilt=d.uniform(0.1, 0.4), bend=0.2)
    air = with_channels(d.base, drop=-height, foot_y_left=height, foot_y_right=height, heel_left=0.6, heel_right=0.6)
    if d.chance(0.6):
        crouch, air = d.arms(crouch, d.near(0.2, -0.8, -0.4)), d.arms(air, d.near(0.3, d.uniform(-0.5, 0.9), 0.3))
    score = d.start()
    for _ in range(d.count(1, 3)):
        score.to(d.uniform(0.3, 0.6), crouch).to(0.15 + 0.35 * height, air).to(0.15 + 0.35 * height, crouch)
    return score.to(d.uniform(0.3, 0.6), d.base).motion()


def jumping_jacks(d: Draw) -> Motion:
    """Do jumping jacks."""
    seconds, wide, top = d.uniform(0.3, 0.6), d.uniform(0.25, 0.45), d.uniform(0.9, 1.5)
    score = d.start()
    for _ in range(d.count(2, 5)):
        for angle, share in ((0.1, 0.5), (top, 1.0), (0.1, 0.5), (-1.45, 0.0)):
            foot = 0.09 + share * wide
            vector = with_channels(d.base, foot_x_left=foot, foot_x_right=foot)
            if share == 0.5:
                vector = with_channels(vector, drop=-0.06, foot_y_left=0.07, foot_y_right=0.07)
            score.to(seconds / 2, d.arms(vector, (0.95 * np.cos(angle), 0.95 * np.sin(angle), 0.08), (0.3, -1.0, -0.3)))
    return score.to(0.3, d.base).motion()


def lunge(d: Draw) -> Motion:
    """Step far forward and down."""
    score = d.start()
    for _ in range(d.count(1, 2)):
        length = d.uniform(0.5, 0.9)
        step = with_channels(d.base, foot_z_right=length, foot_y_right=0.06, z=0.3 * length, drop=0.1)
        down = with_channels(d.base, foot_z_right=length, z=0.5 * length, drop=d.uniform(0.2, 0.42), heel_left=0.8)
        down = d.arms(down, (0.28, -0.62, 0.02), (1.0, 0.0, -0.6)) if d.chance(0.3) else down
        score.to(d.uniform(0.3, 0.6), step).to(d.uniform(0.3, 0.6), down, d.uniform(0.1, 0.8))
        score.to(d.uniform(0.3, 0.6), step).to(d.uniform(0.3, 0.6), d.base)
    return score.motion()


def squat(d: Draw) -> Motion:
    """Squat down and up."""
    tilt = d.uniform(0.2, 0.6)
    low = with_channels(d.base, drop=d.uniform(0.28, 0.6), z=-d.uniform(0.08, 0.2), tilt=tilt, bend=d.uniform(0, 0.3))
    kind = d.count(0, 3)
    if kind < 2:
        low = d.arms(low, (d.uniform(-0.1, 0.2), d.uniform(-0.3, 0.1) + 0.5 * tilt, 0.9))
    elif kind == 2:
        low = d.arms(low, (0.05, 0.45, 0.0), (1.0, 0.0, 0.0))
    score = d.start()
    for _ in range(d.count(1, 3)):
        score.to(d.uniform(0.5, 1.0), low, d.uniform(0.05, 0.6)).to(d.uniform(0.5, 1.0), d.base)
    return score.motion()


def sit_and_rest(d: Draw) -> Motion:
    """Sit and do nothing."""
    back = d.uniform(-0.3, 0.1)
    feet = {f"foot_z_{side}": d.uniform(0, 0.25) for side in BOTH}
    return Score(with_channels(d.base, tilt=0.6 * back, bend=0.4 * back, **feet)).to(d.uniform(3, 4.5)).motion()
