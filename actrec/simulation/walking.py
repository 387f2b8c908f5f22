"""Walking around: a closed path in front of the actor's place, on planned footprints, so that no foot slides."""

from functools import lru_cache

import numpy as np

from actrec.simulation import posture as body
from actrec.simulation.motion import Style, ease

WALK_SECONDS = 6.6
_STEPS = 13
_PERIOD = WALK_SECONDS / (_STEPS + 1)
_TURN_SECONDS = 1.0
_HALF_WIDTH, _HALF_DEPTH = 0.70, 0.38  # of the ellipse, metres
_SIGN = {"left": 1.0, "right": -1.0}


def _body_at(time: float, size: float) -> tuple[float, float, float]:
    """Where the body is: left and forward of its place in metres, and its heading, radians to the left."""
    s = float(ease((time - 0.25) / (WALK_SECONDS - 0.5))) * 0.25 + 0.75 * float(
        np.clip((time - 0.45) / (WALK_SECONDS - 0.9), 0, 1)
    )
    around = 2 * np.pi * s
    x, z = size * _HALF_WIDTH * np.sin(around), size * _HALF_DEPTH * (1 - np.cos(around))
    # Along the ellipse's tangent, which turns by 2π; from facing the camera at the start to facing it at the end.
    tangent = np.pi / 2 - around + np.arctan2(
        (_HALF_DEPTH - _HALF_WIDTH) * np.sin(around) * np.cos(around),
        _HALF_WIDTH * np.cos(around) ** 2 + _HALF_DEPTH * np.sin(around) ** 2,
    )  # fmt: skip
    first = float(ease(time / _TURN_SECONDS))
    last = float(ease((time - WALK_SECONDS + _TURN_SECONDS) / _TURN_SECONDS))
    return x, z, first * tangent - last * np.pi / 2


def _footprint(time: float, side: str, size: float) -> np.ndarray:
    """[x, z, yaw] of a foot whose stance is centred on `time`, place frame."""
    x, z, yaw = _body_at(float(np.clip(time, 0.0, WALK_SECONDS)), size)
    at_rest = time <= 0 or time >= WALK_SECONDS
    apart = body.CHANNELS[f"foot_x_{side}"] if at_rest else 0.085
    sign = _SIGN[side]
    return np.array(
        [x + sign * apart * np.cos(yaw), z - sign * apart * np.sin(yaw), yaw + sign * body.CHANNELS[f"foot_yaw_{side}"]]
    )


@lru_cache(maxsize=64)
def _plan(side: str, size: float) -> tuple[tuple[float, ...], tuple[np.ndarray, ...]]:
    """Start times of a foot's swings and the prints between them, one more than swings."""
    first = 0 if side == "left" else 1
    steps = list(range(first, _STEPS, 2))
    starts = tuple((k + 0.5) * _PERIOD for k in steps)
    centres = [start + 1.5 * _PERIOD for start in starts]
    centres[-1] = WALK_SECONDS
    return starts, tuple(_footprint(time, side, size) for time in [0.0, *centres])


def _foot(time: float, side: str, size: float) -> dict[str, float]:
    """The foot's channels at `time`."""
    starts, prints = _plan(side, size)
    k = int(np.searchsorted(starts, time, side="right"))
    place, lift, heel = prints[k], 0.0, 0.0
    if k > 0:
        share = (time - starts[k - 1]) / _PERIOD
        if share < 1:
            swing = float(ease(share))
            place = prints[k - 1] + swing * (prints[k] - prints[k - 1])
            lift = 0.055 * np.sin(np.pi * share) ** 2
            heel = 0.75 * np.sin(np.pi * min(share * 1.3, 1.0)) ** 2
    sign = _SIGN[side]
    values = {"foot_x": sign * place[0], "foot_z": place[1], "foot_yaw": sign * place[2], "foot_y": lift, "heel": heel}
    return {f"{name}_{side}": float(value) for name, value in values.items()}


def walk(elapsed: float, style: Style) -> np.ndarray:
    """The posture `elapsed` seconds into the walk; starts and ends at rest, at the actor's place, facing forward."""
    x, z, yaw = _body_at(elapsed, style.size)
    going = float(ease((elapsed - 0.2) / 0.6) * ease((WALK_SECONDS - 0.2 - elapsed) / 0.6))
    # The left foot swings during the first period: the body is over the right one then.
    phase = np.pi * (elapsed / _PERIOD - 0.5)
    sway, stride = -0.022 * np.sin(phase) * going, np.cos(phase) * going
    arms = {f"arm_z_{side}": 0.08 - 0.30 * sign * stride for side, sign in _SIGN.items()}
    return body.posture(
        x=x + sway * np.cos(yaw), z=z - sway * np.sin(yaw), yaw=yaw + 0.07 * stride, twist=-0.14 * stride,
        bend=0.02 + 0.03 * going,
        drop=0.012 + (0.022 + 0.008 * np.cos(2 * phase)) * going, roll=0.03 * np.sin(phase) * going,
        reach_left=0.97 - 0.04 * going, reach_right=0.97 - 0.04 * going,
        **arms, **_foot(elapsed, "left", style.size), **_foot(elapsed, "right", style.size),
    )  # fmt: skip
