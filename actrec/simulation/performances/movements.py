"""Random performances of actions of the whole body by the procedural actor: steps, bends, jumps, throws, kicks."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from actrec.simulation import actions
from actrec.simulation.performances.performance import BOTH, Draw, Motion, Place, Score, shorten_arm, steps
from actrec.simulation.posture import CHANNEL, with_channels


def bow(d: Draw) -> Motion:
    """Bend forward, from a nod of the trunk until the hands hang before the knees."""
    low = d.bent(d.base, d.uniform(0.45, 1.75), d.uniform(0, 1), z=-d.uniform(0, 0.2), head_pitch=d.uniform(-0.3, 0.3))
    if d.chance(0.2):  # a hand or both before the belly
        low = d.hands(low, d.near(-0.35, -0.5, 0.35), d.chance(0.4), (0.7, -0.7, 0.0))
    return d.start().to(d.uniform(0.5, 1.2), low, d.uniform(0.1, 1.8)).to(d.uniform(0.5, 1.2), d.base).motion()


def sit_or_stand(d: Draw, sits: bool) -> Motion:
    """Return sitting down or standing up, often with rest before and after and with a turn to the seat or from it."""
    slumped = d.uniform(0.1, 0.45) if d.chance(0.3) else 0.0  # leans back, often with the legs stretched out
    seat = with_channels(
        actions.SEATED, bend=d.uniform(-0.1, 0.3) - 0.3 * slumped, tilt=-slumped, drop=d.uniform(0.3, 0.43),
        head_pitch=d.uniform(-0.2, 0.3), twist=d.uniform(-0.2, 0.2),
    )  # fmt: skip
    wide, ahead = d.uniform(0.0, 0.2) * d.chance(0.5), d.uniform(0.0, 0.25) * d.chance(0.3)
    for side in BOTH:
        seat[CHANNEL[f"foot_x_{side}"]] = d.base[CHANNEL[f"foot_x_{side}"]] + wide
        seat[CHANNEL[f"foot_z_{side}"]] += ahead + d.uniform(-0.06, 0.06)
        shorten_arm(seat, side)
    hands = d.count(0, 4)  # 0 and 1: on the thighs
    if hands == 2:
        seat = d.arms(seat, d.near(0.25, -0.9, 0.0, by=0.1), (0.6, 0.0, -1.0))  # beside the hips
    elif hands == 3:
        seat = d.arms(seat, d.near(0.0, -0.55, 0.6))  # on the knees
    elif hands == 4:
        seat = d.arms(seat, d.near(-0.25, -0.65, 0.35))  # in the lap
    lean, back, looks = d.uniform(0.2, 1.0), d.chance(0.3), d.uniform(-0.6, 0.6) * d.chance(0.4)
    keys = []
    for share in np.linspace(0, 1, 6):
        vector, halfway = d.base + share * (seat - d.base), np.sin(np.pi * share)
        for name, size in {"tilt": 0.6 * lean, "bend": 0.4 * lean, "twist": 0.6 * looks, "head_yaw": looks}.items():
            vector[CHANNEL[name]] += size * halfway
        if hands and 0 < share < 1:
            vector = d.arms(vector, (0.2, -0.85, 0.05 if back else 0.25 + 0.4 * halfway))  # back to the seat or ahead
        keys.append(vector)
    stands = d.uniform(0, 1.2) * d.chance(0.6)
    around = d.uniform(0.8, 1.5) if d.chance(0.2) else 0.0
    sitting = d.uniform(0, 1.8) * d.chance(0.6)
    keys = keys if sits else keys[::-1]
    score = Score(keys[0], float(np.exp(d.rng.normal(0, 0.22))))
    score.to(around + stands if sits else sitting)
    for key in keys[1:]:
        score.to(d.uniform(0.2, 0.42), key)
    score.to(sitting if sits else around + stands)
    if not around:
        return score.motion()
    begin, end = (-1.0, around) if sits else (score.now - around, score.now + 1)
    waves = steps(begin, end, d.uniform(0, 6.3), d.uniform(0.7, 1.1), d.uniform(0.05, 0.12), 0.05, 0.0, 0.01)
    turns = ((begin, end, d.uniform(-2.2, 2.2)),)
    return replace(score.motion(), waves=waves, turns=turns)


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


def going(d: Draw, vector: np.ndarray, hz: float, lift: float, swing: float, speed: float, bounce: float) -> Motion:
    """Return steps that often begin or end at rest, straight on, along a curve, or with a turn about."""
    starts, stops, seconds = d.chance(0.5), d.chance(0.5), d.uniform(1.3, 4.5)
    score = Score(d.base if starts else vector)
    if starts:
        score.to(d.uniform(0.05, 0.7)).to(0.4, vector)
    begin = score.now - 0.3 if starts else -1.0
    score.to(seconds, vector)
    end = score.now if stops else score.now + 1
    if stops:
        score.to(0.4, d.base, d.uniform(0, 0.8))
    waves = steps(begin, end, d.uniform(0, 2 * np.pi), hz, lift, swing, speed, bounce)
    curve = d.uniform(-1.2, 1.2) if d.chance(0.5) and speed else 0.0
    turns = []
    if d.chance(0.4 if speed else 0.1):
        lasts = d.uniform(0.7, 1.4)
        first, last = max(begin, 0.0), min(end, score.now) - lasts
        if first < last:  # the feet move all the while
            at = d.uniform(first, last)
            turns.append((at, at + lasts, d.uniform(1.4, 3.3) / lasts * (1 if d.chance(0.5) else -1)))
    return Motion(score.times, score.keys, waves, ((begin, end, speed),), curve, turns)


def walk(d: Draw) -> Motion:
    """Walk, in place or over the floor."""
    hz = d.uniform(0.6, 1.15)
    vector = with_channels(d.base, drop=0.03, bend=d.base[CHANNEL["bend"]] + d.uniform(-0.03, 0.12))
    if d.chance(0.4):  # in place
        return going(d, vector, hz, d.uniform(0.03, 0.3), d.uniform(0.0, 0.35), 0.0, 0.01)
    return going(d, vector, hz, d.uniform(0.03, 0.12), d.uniform(0.05, 0.4), d.uniform(0.4, 1.4), 0.012)


def run(d: Draw) -> Motion:
    """Run, in place or over the floor, with the arms bent or sometimes nearly hanging."""
    vector = with_channels(d.base, drop=0.05, bend=d.uniform(0.0, 0.25), tilt=d.uniform(0, 0.3) * d.chance(0.3))
    hanging = d.chance(0.2)
    place = d.near(0.12, -0.8, 0.2) if hanging else d.near(0.1, -0.5, 0.35, by=(0.12, 0.12, 0.15))
    vector = d.arms(vector, place, (d.uniform(0.1, 0.6), -0.8, -0.8))
    swing = d.uniform(0.1, 0.4) if hanging or d.chance(0.8) else d.uniform(0, 0.06)  # or the arms are still
    speed = 0.0 if d.chance(0.6) else d.uniform(1.6, 3.0)
    hz = d.uniform(1.4 if hanging else 1.15, 1.9)
    return going(d, vector, hz, d.uniform(0.08 if hz > 1.4 else 0.15, 0.4), swing, speed, 0.035)


def carry(d: Draw) -> Motion:
    """Hold something before the body, from the belly to the shoulders, mostly while walking; some lift it first."""
    both = d.chance(0.75)
    up = d.uniform(-0.6, -0.25) if d.chance(0.5) else d.uniform(-0.3, 0.15)
    place = d.near(-0.15 if both else 0.05, up, 0.42, by=(0.15, 0.05, 0.18))
    elbow = (d.uniform(0.5, 1.0), d.uniform(-1.0, 0.0), -0.1)
    vector = d.hands(with_channels(d.base, drop=0.03, bend=d.uniform(-0.12, 0.15)), place, both, elbow)
    moving = d.chance(0.8)
    motion = gait(d, vector, d.uniform(0.65, 1.05), d.uniform(0.04, 0.15), 0.02, d.uniform(0.4, 1.2) * moving, 0.012)
    if not d.chance(0.4):
        return motion
    table = with_channels(d.base, bend=d.uniform(0.05, 0.4), head_pitch=d.uniform(0, 0.3))
    table = d.hands(table, d.near(0.0, -0.4, 0.65, by=(0.12, 0.25, 0.15)), both)
    lift = d.start().to(d.uniform(0.4, 0.9), table, d.uniform(0, 0.4)).to(d.uniform(0.4, 0.8), vector)
    begin = lift.now - 0.2
    waves = [replace(wave, start=begin, end=wave.end + lift.now) for wave in motion.waves]
    ways = [(begin, end + lift.now, speed) for _, end, speed in motion.ways]
    lift.to(motion.times[-1])
    return Motion(lift.times, lift.keys, waves, ways, motion.turn)


def pick_up(d: Draw) -> Motion:
    """Pick something up from the floor or near it, with one hand or both."""
    both = d.chance(0.4)
    low = d.low(both, d.uniform(0.05, 0.4))
    if d.chance(0.5):  # in a step, or beside the way
        low = with_channels(low, foot_z_left=d.uniform(0.05, 0.35), foot_z_right=-d.uniform(0, 0.25), heel_right=0.6,
                            yaw=d.uniform(-0.6, 0.6), lean=d.uniform(-0.2, 0.2))  # fmt: skip
    held = d.hands(d.base, d.near(-0.05, -0.5, 0.45, by=0.15), both)
    halfway = with_channels(d.base + 0.45 * (low - d.base), tilt=0.32, bend=0.36)
    score = d.start().to(d.uniform(0.3, 0.6), halfway).to(d.uniform(0.3, 0.7), low, d.uniform(0.05, 0.6))
    if d.chance(0.7):
        score.to(d.uniform(0.6, 1.1), held, d.uniform(0, 0.6))
    return (score if d.chance(0.4) else score.to(d.uniform(0.5, 1.0), d.base)).motion()


def throw(d: Draw) -> Motion:
    """Throw with one hand, from above or from the side, or from behind the head with both."""
    power = d.uniform(0.0, 1.0)  # from a toss with the trunk still to a throw as far as possible
    twist, both, across = 0.05 + 0.6 * power, d.chance(0.1), d.chance(0.25 + 0.5 * power)
    twist *= not both
    feet = {"foot_z_left": d.uniform(0.15, 0.4), "z": 0.06, "drop": 0.04} if d.chance(0.2 + 0.5 * power) else {}
    ready = with_channels(d.base, twist=-twist, bend=-d.uniform(0.0, 0.1 + 0.2 * power), **feet)
    elbow: Place = (1.0, d.uniform(-0.6, 0.3), -0.2)
    height = d.uniform(0.0, 0.5)  # of the release
    if both:
        cocked = d.arms(ready, d.near(-0.1, 0.55, -0.1, by=(0.08, 0.15, 0.15)), (0.6, 0.7, 0.3))
    elif power < 0.5 and d.chance(0.4):  # the forearm alone, the elbow before the body
        elbow = (0.5, -1.0, 0.0)
        cocked = d.arm(ready, "right", d.near(0.1, 0.15, 0.25, by=(0.12, 0.2, 0.1)), elbow)
    else:
        cocked = d.arm(ready, "right", d.near(0.35, 0.4, -0.1, by=(0.25, 0.3, 0.25)), elbow)
        if d.chance(0.15 + 0.3 * power):  # the other arm points the way
            cocked = d.arm(cocked, "left", d.near(0.0, -0.05, 0.85, by=(0.25, 0.25, 0.15)))
    forward = with_channels(d.base, twist=0.5 * twist, bend=d.uniform(0.0, 0.1 + 0.2 * power), **feet)
    release = d.hands(forward, d.near(-0.1 * both, height, 0.85, by=(0.12, 0.1, 0.12)), both, (0.9, -0.5, -0.1))
    bend = with_channels(d.base, twist=twist, bend=d.uniform(0.0, 0.1 + 0.4 * power), **feet)
    low = d.near(-0.25, -0.45, 0.7, by=0.15) if across and not both else d.near(0.05, -0.25, 0.9, by=(0.1, 0.25, 0.1))
    score = d.start()
    if d.chance(0.4):  # holds the thing, with one hand or both
        held = d.near(-0.15, -0.3, 0.42, by=0.15)
        score.to(d.uniform(0.3, 0.6), d.hands(d.base, held, both or d.chance(0.3)), d.uniform(0, 0.5))
    aims = d.uniform(0.3, 1.3) if d.chance(0.25) else d.uniform(0, 0.2)
    score.to(d.uniform(0.3, 0.7), cocked, aims)
    score.to(d.uniform(0.14, 0.36), release, d.uniform(0, 0.3) * d.chance(0.4))
    if across or d.chance(0.5):
        score.to(d.uniform(0.12, 0.3), d.hands(bend, low, both))
    return score.to(d.uniform(0.35, 0.9), d.base).motion()


def shoot_basketball(d: Draw) -> Motion:
    """Throw from the chest upward, with both hands or with one that the other guides, sometimes with a jump."""
    chest = d.arms(
        with_channels(d.base, drop=d.uniform(0.02, 0.05 + 0.15 * d.chance(0.5))),
        d.near(-0.22, 0.0, 0.42, by=(0.08, 0.25, 0.12)),
    )
    jumps = d.uniform(0.05, 0.25) if d.chance(0.25) else 0.0
    leap = {"drop": -jumps, "foot_y_left": jumps, "foot_y_right": jumps} if jumps else {}
    tall = with_channels(d.base, bend=d.uniform(-0.1, 0.05), heel_left=0.3, heel_right=0.3, **leap)
    guide, elbow = d.uniform(0.0, 0.4) * d.chance(0.6), (0.6, d.uniform(-1.0, 0.4), 0.4)
    brow = d.arms(chest, d.near(-0.15, 0.4, 0.32, by=(0.1, 0.15, 0.1)), elbow)
    high = d.arms(tall, d.near(-0.1, 0.7, 0.5, by=(0.1, 0.2, 0.2)))
    for vector in (brow, high):  # the guiding hand is lower
        vector[CHANNEL["arm_y_left"]] -= guide
        vector[CHANNEL["arm_x_left"]] -= 0.3 * guide
    score = d.start().to(d.uniform(0.35, 0.9), chest, d.uniform(0, 0.5))
    if d.chance(0.6):
        score.to(d.uniform(0.2, 0.45), brow, d.uniform(0, 0.3))
    if jumps:
        flight = 0.15 + 0.35 * jumps
        score.to(flight, high).to(flight, with_channels(high, drop=0.0, foot_y_left=0.0, foot_y_right=0.0))
    else:
        score.to(d.uniform(0.18, 0.45), high, d.uniform(0.05, 0.6))
    if d.chance(0.4):
        score.to(d.uniform(0.25, 0.5), d.arms(d.base, d.near(-0.05, -0.1, 0.5, by=0.15)))
    return score.to(d.uniform(0.35, 0.9), d.base).motion()


def kick(d: Draw) -> Motion:
    """Kick forward or aside, with a leg within its length."""
    aside, reach = d.chance(0.3), d.uniform(0.7, 0.82)
    angle = d.uniform(0.5, 1.4)  # of the leg from the vertical
    support = with_channels(d.base, x=0.08)
    back = with_channels(support, foot_z_right=-d.uniform(0.1, 0.45) * (not aside), foot_y_right=d.uniform(0.08, 0.3))
    out = reach * np.sin(angle)
    to = {"foot_x_right": 0.1 + out} if aside else {"foot_z_right": out, "foot_x_right": d.uniform(-0.1, 0.15)}
    trunk = {"bend": -d.uniform(-0.1, 0.2), "lean": d.uniform(0.1, 0.35) * aside, "drop": d.uniform(0.02, 0.06)}
    strike = with_channels(support, foot_y_right=max(0.83 - reach * np.cos(angle), 0.03), **trunk, **to)
    arms = d.count(0, 3)
    if arms == 1:  # out, for balance
        support, back, strike = (d.arms(v, d.near(0.35, -0.8, 0.1, by=0.15)) for v in (support, back, strike))
    elif arms > 1:  # against the leg
        swing = d.uniform(0.2, 0.8)
        ahead, behind = (0.35, -0.75, swing), (0.4, -0.75, -0.7 * swing)
        back = d.arm(d.arm(back, "left", behind, (0.3, 0.0, -1.0)), "right", ahead)
        strike = d.arm(d.arm(strike, "left", ahead), "right", behind, (0.3, 0.0, -1.0))
    score = d.start()
    for _ in range(d.count(1, 2)):
        if d.chance(0.7):
            score.to(d.uniform(0.25, 0.5), back)
        score.to(d.uniform(0.15, 0.4), strike, d.uniform(0, 0.15)).to(d.uniform(0.3, 0.6), support)
    return score.to(d.uniform(0.3, 0.5), d.base).motion()


def drop_trash(d: Draw) -> Motion:
    """Hold something out, often bent aside or down to a basket, and let go of it."""
    score, held = d.start(), d.arm(d.base, "right", d.near(0.0, -0.45, 0.45))
    if d.chance(0.4):  # comes with it in the hand
        score = Score(held, score.tempo)
    elif d.chance(0.5):
        score.to(d.uniform(0.3, 0.6), held, d.uniform(0, 0.4))
    kind = d.uniform(0, 1)
    if kind < 0.35:  # aside to a basket beside the feet
        over = d.arm(d.base, "right", d.near(0.2, -0.8, 0.25, by=(0.2, 0.12, 0.2)))
        lean, bend = d.uniform(0.35, 0.8), d.uniform(0.15, 0.7)
        over = with_channels(over, lean=-lean, bend=bend, tilt=d.uniform(0, 0.3), twist=-d.uniform(0, 0.4))
    elif kind < 0.6:  # down to a bin before the feet
        over = with_channels(d.base, tilt=d.uniform(0.2, 0.6), bend=d.uniform(0.2, 0.6), z=-0.08, head_pitch=0.2)
        over = d.arm(over, "left", d.near(0.12, -0.8, 0.4, by=(0.08, 0.1, 0.2)))
        over = d.arm(over, "right", d.near(0.15, -0.5, 0.75, by=(0.2, 0.15, 0.15)))
    else:
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
    """Step far forward and down, sometimes to the knee, and back or on."""
    score, base, deep = d.start(), d.base, d.chance(0.6)
    score.to(d.uniform(0, 0.5))
    on, arms, forward = d.chance(0.2), d.count(0, 7), d.uniform(0.0, 0.2)
    forward = d.uniform(0.2, 0.8) if d.chance(0.3) else forward  # of the trunk
    for _ in range(d.count(1, 2)):
        length = d.uniform(0.45, 0.9)
        rear, place = base[CHANNEL["foot_z_left"]], base[CHANNEL["z"]]
        share = d.uniform(0.4, 0.65)  # of the way to the front foot
        step = with_channels(base, foot_z_right=rear + length, foot_y_right=0.06, z=place + 0.3 * length, drop=0.1)
        down = with_channels(
            base, foot_z_right=rear + length, z=place + share * length, heel_left=d.uniform(0.4, 0.9),
            drop=d.uniform(0.25, 0.44) if deep else d.uniform(0.12, 0.28), tilt=0.6 * forward, bend=0.1 + 0.4 * forward,
        )  # fmt: skip
        if arms == 0:
            down = d.arms(down, (0.28, -0.62, 0.02), (1.0, 0.0, -0.6))  # on the hips
        elif arms == 1:
            down = d.arms(down, d.near(-0.2, -0.6, 0.55))  # on the front knee
        elif arms == 2:
            down = d.arms(down, d.near(0.6, -0.6, 0.1, by=(0.3, 0.3, 0.2)))  # out, for balance
        elif arms == 3:
            down = d.arms(down, d.near(-0.1, -0.4, 0.45))  # before the body
        score.to(d.uniform(0.3, 0.7), step).to(d.uniform(0.3, 0.9), down, d.uniform(0.05, 0.9))
        if on:  # the rear foot follows
            ahead = {f"foot_z_{side}": base[CHANNEL[f"foot_z_{side}"]] + length for side in BOTH}
            base = with_channels(base, z=place + length, **ahead)
            lifted = with_channels(base, foot_z_left=rear + 0.6 * length, foot_y_left=0.1, z=place + 0.8 * length)
            score.to(d.uniform(0.3, 0.6), lifted).to(d.uniform(0.2, 0.4), base)
        else:
            score.to(d.uniform(0.3, 0.7), step).to(d.uniform(0.3, 0.7), base)
    return score.to(d.uniform(0, 0.5)).motion()


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
