"""Postures of the procedural actor: kinematics from channels to joints, keyframe curves, idle motion.

Trunk and arms use forward kinematics; legs use inverse kinematics from the feet. The body's frame is on the floor under
the actor's place, with columns left, up, forward; m.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actrec.simulation.actor import ANKLE_HEIGHT, REFERENCE_STATURE, TOE_HEIGHT, ActorPose, finger_frames
from actrec.skeleton.layouts import KINECT_V2_25

_J = KINECT_V2_25.index
SIGN = {"left": 1.0, "right": -1.0}

# Bone lengths at the reference stature, m (proportions of Drillis and Contini 1966; spine joints as of a Kinect v2).
_LENGTHS = {
    "spine_mid": 0.275, "spine_shoulder": 0.210, "neck": 0.068, "head": 0.138, "shoulder": 0.162,
    "elbow": 0.288, "wrist": 0.250, "hip": 0.085, "knee": 0.428, "ankle": 0.412,
}  # fmt: skip

_LIMBS = ("elbow", "wrist", "knee", "ankle")
_FOOT_FORWARD = 0.125
_PALM = 0.085  # wrist to the Kinect's hand joint

# Channels of a posture with their values at rest; angles in radians, lengths in m at the reference stature.
_TRUNK = {
    "x": 0.0, "z": 0.0, "drop": 0.012, "yaw": 0.0, "tilt": 0.0, "roll": 0.0, "bend": 0.02, "lean": 0.0, "twist": 0.0,
    "head_yaw": 0.0, "head_pitch": 0.0, "head_roll": 0.0,
}  # fmt: skip

_ARM = {
    "arm_x": 0.16, "arm_y": -0.98, "arm_z": 0.08, "reach": 0.97, "elbow_x": 0.35, "elbow_y": 0.0, "elbow_z": -1.0,
    "palm_x": -0.9, "palm_y": 0.0, "palm_z": -0.35, "flex": 0.1, "thumb": 0.25, "index": 0.22, "curl": 0.28,
}  # fmt: skip

_LEG = {"foot_x": 0.105, "foot_y": 0.0, "foot_z": 0.0, "foot_yaw": 0.12, "heel": 0.0, "knee_x": 0.12}

CHANNELS: dict[str, float] = {
    **_TRUNK,
    **{f"{name}_{side}": value for side in SIGN for name, value in {**_ARM, **_LEG}.items()},
}
"""Name to value at rest. Lateral values (…_x) of limbs are positive outward on both sides."""

CHANNEL = {name: index for index, name in enumerate(CHANNELS)}
"""Index of each channel in a posture vector."""

_FIRST, _COUNT = len(_TRUNK), len(_ARM) + len(_LEG)

_MIRROR = [*range(_FIRST), *range(_FIRST + _COUNT, _FIRST + 2 * _COUNT), *range(_FIRST, _FIRST + _COUNT)]
"""Channels with left and right exchanged."""

_LATERAL = [CHANNEL[name] for name in ("x", "yaw", "roll", "lean", "twist", "head_yaw", "head_roll")]
REST = np.array(list(CHANNELS.values()))


@dataclass(frozen=True)
class Physique:
    """Proportions of an actor."""

    stature: float = 1.75  # height in m
    limbs: float = 1.0  # factor on the length of arms and legs

    @property
    def scale(self) -> float:
        """Return the size relative to the reference stature."""
        return self.stature / REFERENCE_STATURE

    @property
    def hand_length(self) -> float:
        """Return the length from wrist to middle finger tip, m (0.108 of stature: Drillis and Contini, 1966)."""
        return 0.108 * self.stature

    def length(self, joint: str) -> float:
        """Return the length of the bone that ends in `joint` (without side), m."""
        return _LENGTHS[joint] * self.scale * (self.limbs if joint in _LIMBS else 1.0)


def with_channels(vector: np.ndarray, **channels: float) -> np.ndarray:
    """Return a copy of the posture `vector` with the given channels changed."""
    vector = vector.copy()
    for name, value in channels.items():
        vector[CHANNEL[name]] = value
    return vector


def mirrored(vector: np.ndarray) -> np.ndarray:
    """Return the posture with left and right exchanged."""
    result = vector[..., _MIRROR]
    result[..., _LATERAL] *= -1
    return result


# A pose needs a hundred operations on 3-vectors, where the call overhead of general NumPy functions dominates.


def _rotation_matrix(yaw: float, tilt: float, roll: float) -> np.ndarray:
    """Return the rotation of yaw to the left, tilt forward and roll to the left, in left-up-forward axes."""
    (cy, sy), (ct, st), (cr, sr) = ((math.cos(angle), math.sin(angle)) for angle in (yaw, tilt, roll))
    return np.array(
        [
            [cy * cr - sy * st * sr, cy * sr + sy * st * cr, sy * ct],
            [-ct * sr, ct * cr, -st],
            [-sy * cr - cy * st * sr, cy * st * cr - sy * sr, cy * ct],
        ]
    )


def _norm(vector: np.ndarray) -> float:
    return math.sqrt(vector.dot(vector))


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(_norm(vector), 1e-9)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    (ax, ay, az), (bx, by, bz) = a.tolist(), b.tolist()
    return np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])


def two_bones(
    start: np.ndarray, end: np.ndarray, first: float, second: float, hint: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the middle joint and the end of a chain of two bones of these lengths, m, that bends towards `hint`.

    A target `end` out of reach is moved within reach.
    """
    along = end - start
    distance = _norm(along)
    along = along / max(distance, 1e-9)
    distance = min(max(distance, abs(first - second) + 1e-3), (first + second) * 0.9995)
    out = _unit(hint - along * float(hint @ along))
    forward = (first**2 - second**2 + distance**2) / (2 * distance)
    aside = math.sqrt(max(first**2 - forward**2, 0.0))
    return start + along * forward + out * aside, start + along * distance


def pose(vector: np.ndarray, physique: Physique) -> ActorPose:
    """Compute the pose of a posture [channels] in the place frame (left, up, forward), feet on the floor at up = 0."""
    value = dict(zip(CHANNELS, vector.tolist(), strict=True))
    limbs = {side: {name: value[f"{name}_{side}"] for name in (*_ARM, *_LEG)} for side in SIGN}
    joints = np.zeros((25, 3))
    pelvis = _rotation_matrix(value["yaw"], value["tilt"], value["roll"])
    chest = _spine(joints, pelvis, value, limbs, physique)
    head = chest @ _rotation_matrix(value["head_yaw"], value["head_pitch"], value["head_roll"])
    joints[_J["head"]] = joints[_J["neck"]] + _unit(0.45 * chest[:, 1] + 0.55 * head[:, 1]) * physique.length("head")
    curl = np.clip([[limb["thumb"], limb["index"], *[limb["curl"]] * 3] for limb in limbs.values()], 0, 1)
    fingers, _ = finger_frames(curl, physique.hand_length)
    hands = np.zeros((2, 3, 3))
    for i, (side, sign) in enumerate(SIGN.items()):
        hands[i] = _arm(joints, chest, side, sign, limbs[side], physique)
        _leg(joints, pelvis, side, sign, limbs[side], physique)
        wrist = joints[_J[f"wrist_{side}"]]
        joints[_J[f"hand_{side}"]] = wrist + hands[i] @ np.array([0.0, _PALM * physique.scale, 0.0])
        joints[_J[f"hand_tip_{side}"]] = wrist + hands[i] @ fingers[i, 2, 3]
        joints[_J[f"thumb_{side}"]] = wrist + hands[i] @ fingers[i, 0, 3]
    return ActorPose(joints, head, hands, curl)


def reach_to(vector: np.ndarray, side: str, target: tuple[float, float, float]) -> np.ndarray:
    """Return a copy of `vector` whose arm brings the wrist to `target` (left, up, forward), m, at reference stature.

    The arm points at a target out of reach.
    """
    physique, sign = Physique(), SIGN[side]
    for _ in range(3):  # the shoulder itself follows the arm a little
        joints = pose(vector, physique).joints
        up = _unit(joints[_J["spine_shoulder"]] - joints[_J["spine_mid"]])
        left = joints[_J["shoulder_left"]] - joints[_J["shoulder_right"]]
        left = _unit(left - up * float(left @ up))
        chest = np.stack([left, up, _cross(left, up)], axis=1)
        away = chest.T @ (np.asarray(target) - joints[_J[f"shoulder_{side}"]])
        distance = _norm(away)
        reach = min(distance / (physique.length("elbow") + physique.length("wrist")), 0.995)
        x, y, z = away / distance
        vector = with_channels(
            vector, **{f"arm_x_{side}": sign * x, f"arm_y_{side}": y, f"arm_z_{side}": z, f"reach_{side}": reach}
        )
    return vector


def _spine(
    joints: np.ndarray, pelvis: np.ndarray, value: dict[str, float], limbs: dict[str, dict[str, float]],
    physique: Physique,
) -> np.ndarray:  # fmt: skip
    """Set the joints of the spine; return the chest's axes."""
    s, legs = physique.scale, physique.length("knee") + physique.length("ankle")
    base = np.array([value["x"] * s, legs + ANKLE_HEIGHT * s - value["drop"] * s, value["z"] * s])
    # The pelvis is lowered until both legs reach their feet.
    reach = legs * 0.9985
    height = base[1]
    for side, sign in SIGN.items():
        hip = pelvis[:, 0] * sign * physique.length("hip")
        ankle = _foot(sign, limbs[side], s)[0]
        level = math.hypot(base[0] + hip[0] - ankle[0], base[2] + hip[2] - ankle[2])
        height = min(height, ankle[1] - hip[1] + math.sqrt(max(reach**2 - level**2, 0.01)))
    base[1] = height
    belly = pelvis @ _rotation_matrix(value["twist"] * 0.4, value["bend"] * 0.45, value["lean"] * 0.45)
    chest = belly @ _rotation_matrix(value["twist"] * 0.6, value["bend"] * 0.55, value["lean"] * 0.55)
    mid = base + belly[:, 1] * physique.length("spine_mid")
    top = mid + chest[:, 1] * physique.length("spine_shoulder")
    joints[_J["spine_base"]], joints[_J["spine_mid"]], joints[_J["spine_shoulder"]] = base, mid, top
    joints[_J["neck"]] = top + chest[:, 1] * physique.length("neck")
    return chest


def _foot(sign: float, limb: dict[str, float], s: float) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Return the ankle's place, the foot's direction, and how far the ball of the foot is before and below the ankle.

    The heel rotates about the ball of the foot.
    """
    c, sine = math.cos(limb["heel"]), math.sin(limb["heel"])
    rise, run = (ANKLE_HEIGHT - TOE_HEIGHT) * s, _FOOT_FORWARD * s
    up, back = rise * c + run * sine, run * c - rise * sine
    yaw = sign * limb["foot_yaw"]
    toes = np.array([math.sin(yaw), 0.0, math.cos(yaw)])
    x, y, z = sign * limb["foot_x"] * s, limb["foot_y"] * s, limb["foot_z"] * s
    return np.array([x, y + up + TOE_HEIGHT * s, z]) + toes * (run - back), toes, back, up


def _leg(
    joints: np.ndarray, pelvis: np.ndarray, side: str, sign: float, limb: dict[str, float], physique: Physique
) -> None:
    """Set hip, knee, ankle and foot."""
    hip = joints[_J["spine_base"]] + pelvis[:, 0] * sign * physique.length("hip")
    ankle, toes, back, up = _foot(sign, limb, physique.scale)
    hint = toes + pelvis[:, 2] + pelvis[:, 0] * sign * limb["knee_x"]
    knee, end = two_bones(hip, ankle, physique.length("knee"), physique.length("ankle"), hint)
    foot = end + toes * back - np.array([0.0, up, 0.0])
    for name, joint in (("hip", hip), ("knee", knee), ("ankle", end), ("foot", foot)):
        joints[_J[f"{name}_{side}"]] = joint


def _arm(
    joints: np.ndarray, chest: np.ndarray, side: str, sign: float, limb: dict[str, float], physique: Physique
) -> np.ndarray:
    """Set shoulder, elbow and wrist; return the hand's axes."""

    def outward(name: str) -> np.ndarray:
        return np.array([sign * limb[f"{name}_x"], limb[f"{name}_y"], limb[f"{name}_z"]])

    direction = _unit(outward("arm"))
    # The shoulder girdle follows a raised arm a little.
    lift = 0.30 * max(direction[1], 0.0) + 0.02
    socket = _unit(chest @ np.array([sign * math.cos(lift), math.sin(lift) - 0.10, 0.0])) * physique.length("shoulder")
    shoulder = joints[_J["spine_shoulder"]] + socket
    upper, fore = physique.length("elbow"), physique.length("wrist")
    target = shoulder + chest @ direction * (upper + fore) * limb["reach"]
    elbow, wrist = two_bones(shoulder, target, upper, fore, chest @ outward("elbow"))
    joints[_J[f"shoulder_{side}"]], joints[_J[f"elbow_{side}"]], joints[_J[f"wrist_{side}"]] = shoulder, elbow, wrist
    along = _unit(wrist - elbow)
    palm = chest @ outward("palm")
    palm = _unit(palm - along * float(palm @ along))
    c, s = math.cos(limb["flex"]), math.sin(limb["flex"])
    fingers, palm = along * c + palm * s, palm * c - along * s
    return np.array([_cross(fingers, palm) * -sign, fingers, palm]).T


@dataclass(frozen=True)
class Style:
    """Variation of an action."""

    side: str = "right"  # the acting arm or leg, the person's own "left" or "right"
    speed: float = 1.0  # factor on the speed
    size: float = 1.0  # factor on the amplitude
    turn: float = 0.0  # direction of the action, radians outward on the acting side


def ease(x: float | np.ndarray) -> np.ndarray:
    """Return the minimum-jerk step from 0 to 1 (Flash and Hogan, 1985), constant outside."""
    x = np.clip(x, 0.0, 1.0)
    return x**3 * (10 - 15 * x + 6 * x * x)


def curve_through(times: Sequence[float], keys: Sequence[np.ndarray]) -> Callable[[Any], np.ndarray]:
    """Return the monotone piecewise cubic through keyframes (Fritsch and Butland, 1984), which does not overshoot.

    It starts and ends at rest; call it with times, s, between the first and the last.
    """
    from scipy.interpolate import CubicHermiteSpline  # 0.2 s, which every start would take

    t, y = np.asarray(times, np.float64), np.asarray(keys, np.float64)
    step = np.diff(t)[:, None]
    rise = np.diff(y, axis=0) / step
    slopes = np.zeros_like(y)
    before, after = rise[:-1], rise[1:]
    w_before, w_after = 2 * step[1:] + step[:-1], step[1:] + 2 * step[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (w_before + w_after) / (w_before / before + w_after / after)
    slopes[1:-1] = np.where(before * after > 0, mean, 0.0)
    curve: Callable[[float], np.ndarray] = CubicHermiteSpline(t, y, slopes)
    return curve


_IDLE_AMPLITUDES = {
    "bend": 0.010, "lean": 0.010, "twist": 0.012, "x": 0.006, "z": 0.004, "head_yaw": 0.06, "head_pitch": 0.025,
    "head_roll": 0.02, "arm_z_left": 0.012, "arm_z_right": 0.012, "arm_x_left": 0.008, "arm_x_right": 0.008,
    "curl_left": 0.03, "curl_right": 0.03,
}  # fmt: skip


class IdleMotion:
    """Continuous small motion: breathing, sway and head movement as sums of slow sines, random by `seed`."""

    def __init__(self, seed: int):
        random = np.random.default_rng([seed, 11])
        self._index = np.array([CHANNEL[name] for name in _IDLE_AMPLITUDES])
        self._size = np.array(list(_IDLE_AMPLITUDES.values()))
        self._rate = random.uniform(0.08, 0.35, (3, len(self._index))) * np.array([1.0, 1.9, 2.7])[:, None]
        self._phase = random.uniform(0, 2 * np.pi, (3, len(self._index)))

    def add(self, vector: np.ndarray, time: float) -> np.ndarray:
        """Return `vector` with the idle motion at `time` added."""
        waves = np.sin(2 * np.pi * self._rate * time + self._phase) * np.array([0.6, 0.3, 0.15])[:, None]
        vector = vector.copy()
        vector[self._index] += self._size * waves.sum(0)
        vector[CHANNEL["bend"]] -= 0.008 * np.sin(2 * np.pi * 0.27 * time)
        return vector
