"""Rig of a simulated actor: its pose, and a frame for each bone and phalanx.

A body frame's columns point left, up (or along the bone) and forward. All points are in one right-handed frame.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from actrec.skeleton.layouts import HAND_22, KINECT_V2_25
from actrec.utils.geometry import unit

_J = KINECT_V2_25.index

REFERENCE_STATURE = 1.75
"""Stature (m) for which shapes and bone lengths are defined."""

ANKLE_HEIGHT = 0.085
"""Height of the ankle joint above the sole, m at the reference stature."""

TOE_HEIGHT = 0.030
"""Height of the foot joint (ball of the foot) above the sole, m at the reference stature."""

SIDES = ("left", "right")
FINGERS = ("thumb", "index", "middle", "ring", "pinky")

# Bone frames: name, joint at the origin, joint along y.
_BONES = (
    ("pelvis", "spine_base", "spine_mid"),
    ("abdomen", "spine_base", "spine_mid"),
    ("chest", "spine_mid", "spine_shoulder"),
    ("neck", "spine_shoulder", "head"),
    *(
        (f"{bone}_{side}", f"{start}_{side}" if start != "spine_shoulder" else start, f"{end}_{side}")
        for bone, start, end in (
            ("clavicle", "spine_shoulder", "shoulder"),
            ("upper_arm", "shoulder", "elbow"),
            ("forearm", "elbow", "wrist"),
            ("thigh", "hip", "knee"),
            ("shank", "knee", "ankle"),
            ("foot", "ankle", "foot"),
        )
        for side in SIDES
    ),
    *((f"trapezius_{side}", f"shoulder_{side}", "neck") for side in SIDES),
)

BONE_START = np.array([_J[start] for _, start, _ in _BONES])
BONE_END = np.array([_J[end] for _, _, end in _BONES])

FRAME_NAMES = (
    *(name for name, _, _ in _BONES),
    "head",
    *(f"palm_{side}" for side in SIDES),
    *(f"{finger}{k}_{side}" for side in SIDES for finger in FINGERS for k in range(3)),
)

PALM_BONES = (
    *(("wrist", f"{finger}_base") for finger in ("index", "ring", "pinky")),
    *((f"{finger}_base", f"{following}_base") for finger, following in itertools.pairwise(FINGERS[1:])),
)
"""Joints (`hand_22`) between which the palm of a recorded hand reaches, beside the one of the rig."""

FRAME = {name: i for i, name in enumerate((*FRAME_NAMES, *map("_".join, PALM_BONES)))}
_TRUNK = len(("pelvis", "abdomen", "chest", "neck"))

# A hand of unit length (wrist to tip of the middle finger); x to the thumb's side, y along the fingers, z out of the
# palm.
_KNUCKLE = np.array(
    [[0.16, 0.14, 0.09], [0.155, 0.50, 0.0], [0.045, 0.525, -0.01], [-0.065, 0.50, -0.005], [-0.165, 0.45, 0.01]]
)

PALM_SHARE = float(_KNUCKLE[2, 1])
"""Distance of the wrist from the middle knuckle, relative to an open hand's length."""

PHALANX = np.array(
    [[0.20, 0.17, 0.14], [0.225, 0.13, 0.105], [0.245, 0.15, 0.11], [0.225, 0.145, 0.11], [0.175, 0.105, 0.095]]
)

_SPREAD = np.radians([0.0, 8.0, 1.0, -6.0, -14.0])
_BEND = np.radians([0.0, 84.0, 100.0, 66.0])[1:]  # of the three joints of a closed finger
_THUMB_OPEN = np.array([[0.62, 0.72, 0.30], [0.60, 0.78, 0.18], [0.52, 0.84, 0.12]])
_THUMB_SHUT = np.array([[0.42, 0.72, 0.55], [-0.15, 0.80, 0.58], [-0.55, 0.70, 0.45]])


@dataclass
class ActorPose:
    """Pose of a body at one time."""

    joints: np.ndarray  # [25, 3] `kinect_v2_25`, m
    head: np.ndarray  # [3, 3], columns left, up, forward
    hands: np.ndarray  # [2, 3, 3] left and right hand, columns toward the thumb, along the fingers, out of the palm
    curl: np.ndarray  # [2, 5] flexion of each finger, thumb first: 0 straight, 1 a fist

    def transformed(self, rotation: np.ndarray, shift: np.ndarray) -> "ActorPose":
        """Transform the pose to another frame: p ↦ rotation·p + shift."""
        return ActorPose(self.joints @ rotation.T + shift, rotation @ self.head, rotation @ self.hands, self.curl)


def bone_lengths(joints: np.ndarray) -> np.ndarray:
    """Return the median bone lengths [bones] of joints [..., 25, 3], m."""
    length = np.linalg.norm(joints[..., BONE_END, :] - joints[..., BONE_START, :], axis=-1)
    return np.maximum(np.median(length.reshape(-1, len(BONE_START)), axis=0), 0.02)


def body_frames(pose: ActorPose, rest: np.ndarray, hand_length: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the origins [F, 3] and axes [F, 3, 3] (columns), float64, of all frames of `FRAME_NAMES`.

    A bone of another length than in `rest` [bones], from `bone_lengths`, stretches its frame along y. The hand's length
    is from the wrist to the tip of the middle finger, m.
    """
    joints = np.asarray(pose.joints, np.float64)
    along = joints[BONE_END] - joints[BONE_START]
    length = np.maximum(np.linalg.norm(along, axis=-1), 1e-6)
    y = along / length[:, None]
    z = _forward_hints(joints, y, pose.head)
    x = unit(_cross(y, z))
    axes = np.stack([x, y * (length / rest)[:, None], _cross(x, y)], axis=-1)
    wrists = joints[[_J["wrist_left"], _J["wrist_right"]]]
    points, finger_axes = finger_frames(pose.curl, hand_length)
    finger_points = np.einsum("sij,sfkj->sfki", pose.hands, points[:, :, :3]) + wrists[:, None, None]
    finger_axes = pose.hands[:, None, None] @ finger_axes
    origins = np.concatenate([joints[BONE_START], joints[[_J["head"]]], wrists, finger_points.reshape(-1, 3)])
    return origins, np.concatenate([axes, pose.head[None], pose.hands, finger_axes.reshape(-1, 3, 3)])


def finger_frames(curl: np.ndarray, hand_length: float) -> tuple[np.ndarray, np.ndarray]:
    """Return finger joints [2, 5, 4, 3] (base, first, second, tip) in the hand's frame, and axes [2, 5, 3, 3, 3].

    `curl` [2, 5] is 0 for straight fingers to 1 for a fist, the hand's length in m.
    """
    bend = np.cumsum(curl[:, 1:, None] * _BEND, axis=-1)  # (2, 4, 3)
    spread = (_SPREAD[1:] * (1 - curl[:, 1:]))[..., None]
    along = np.empty((2, 5, 3, 3))
    along[:, 1:] = np.stack([np.cos(bend) * np.sin(spread), np.cos(bend) * np.cos(spread), np.sin(bend)], axis=-1)
    share = curl[:, 0, None, None]
    along[:, 0] = unit((1 - share) * _THUMB_OPEN + share * _THUMB_SHUT)
    steps = along * (PHALANX * hand_length)[None, :, :, None]
    points = np.concatenate([np.zeros((2, 5, 1, 3)), np.cumsum(steps, axis=2)], axis=2)
    points += (_KNUCKLE * hand_length)[None, :, None]
    x = unit(np.array([1.0, 0.0, 0.0]) - along * along[..., :1])
    return points, np.stack([x, along, _cross(x, along)], axis=-1)


def recorded_hand_frames(joints: np.ndarray, hand_length: float, forearm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place the frames of a recorded right hand, `PALM_BONES` and its forearm; the others stay at the origin.

    Args:
        joints: [22, 3] of layout `hand_22`, m.
        hand_length: Wrist to tip of the middle finger of the open hand, m.
        forearm: Vector [3] from the wrist to the elbow, m.

    Returns:
        Origins [F, 3] and axes [F, 3, 3] as `body_frames`.
    """
    origins, axes = np.zeros((len(FRAME), 3)), np.tile(np.eye(3), (len(FRAME), 1, 1))
    at = {name: joints[v] for name, v in HAND_22.index.items()}
    across = at["index_base"] - at["pinky_base"]

    def place(name: str, start: np.ndarray, end: np.ndarray, rest: float) -> None:
        y = unit(end - start)
        x = unit(across - y * (across @ y))
        stretch = max(float(np.linalg.norm(end - start)) / rest, 0.1)
        origins[FRAME[name]], axes[FRAME[name]] = start, np.stack([x, y * stretch, np.cross(x, y)], axis=-1)

    place("palm_right", at["wrist"], at["middle_base"], PALM_SHARE * hand_length)
    place("forearm_right", at["wrist"] + forearm, at["wrist"], float(np.linalg.norm(forearm)))
    for finger, lengths in zip(FINGERS, PHALANX * hand_length, strict=True):
        chain = [at[f"{finger}_{part}"] for part in ("base", "first", "second", "tip")]
        for n, rest in enumerate(lengths):
            place(f"{finger}{n}_right", chain[n], chain[n + 1], float(rest))
    for first, last in PALM_BONES:
        place(f"{first}_{last}", at[first], at[last], palm_bone_length(first, last) * hand_length)
    return origins, axes


def palm_bone_length(first: str, last: str) -> float:
    """Return the distance of a pair of `PALM_BONES` in the rig, relative to an open hand's length."""
    places = {"wrist": np.zeros(3), **{f"{finger}_base": _KNUCKLE[n] for n, finger in enumerate(FINGERS)}}
    return float(np.linalg.norm(places[last] - places[first]))


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cross product of [..., 3] arrays, faster than `np.cross`."""
    return a[..., (1, 2, 0)] * b[..., (2, 0, 1)] - a[..., (2, 0, 1)] * b[..., (1, 2, 0)]


def hand_joints(pose: ActorPose, hand_length: float) -> np.ndarray:
    """Return the joints [2, 21, 3] of the left and right hand, layout `hand_21`, in the pose's frame."""
    points, _ = finger_frames(pose.curl, hand_length)
    local = np.concatenate([np.zeros((2, 1, 3)), points.reshape(2, 20, 3)], axis=1)
    wrists = pose.joints[[_J["wrist_left"], _J["wrist_right"]]]
    return local @ np.swapaxes(pose.hands, 1, 2) + wrists[:, None]


def _forward_hints(joints: np.ndarray, y: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Return each frame's z direction [bones, 3], propagated from bone to bone so that it never flips."""
    hips = unit(joints[_J["hip_left"]] - joints[_J["hip_right"]])
    shoulders = unit(joints[_J["shoulder_left"]] - joints[_J["shoulder_right"]])
    left = np.stack([hips, unit(hips + 0.5 * shoulders), unit(hips + 2 * shoulders), head[:, 0]])
    hints = np.empty_like(y)
    hints[:_TRUNK] = np.cross(left, y[:_TRUNK])
    pelvis, chest = _frame(hips, y[0]), _frame(left[2], y[2])
    # Each limb starts from its most frequent direction, so that the shortest rotation is unique.
    arm_rest = np.array([[0.6, -0.6, 0.53], [-0.6, -0.6, 0.53]]) @ chest.T
    leg_rest = np.array([[0.1, -0.9, 0.42], [-0.1, -0.9, 0.42]]) @ pelvis.T
    arm = _carry(arm_rest, y[6:8], np.broadcast_to(chest[:, 2], (2, 3)))
    leg = _carry(leg_rest, y[10:12], np.broadcast_to(pelvis[:, 2], (2, 3)))
    hints[4:6] = chest[:, 2]
    hints[6:8], hints[8:10] = arm, _carry(y[6:8], y[8:10], arm)
    shank = _carry(y[10:12], y[12:14], leg)
    hints[10:12], hints[12:14] = leg, shank
    hints[14:16] = -y[12:14]  # the foot's z is up along the shank
    hints[16:18] = chest[:, 2]
    return hints


def _frame(left: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return a frame [3, 3] with columns left, up, forward; `up` is exact."""
    forward = unit(np.cross(left, up))
    return np.stack([np.cross(up, forward), up, forward], axis=-1)


def _carry(source: np.ndarray, target: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Rotate `vector` by the shortest rotation from `source` to `target` (rows of unit vectors)."""
    source = unit(source)
    axis = np.cross(source, target)
    cosine = np.sum(source * target, axis=-1, keepdims=True)
    dot = np.sum(axis * vector, axis=-1, keepdims=True)
    return vector * cosine + np.cross(axis, vector) + axis * dot / np.maximum(1 + cosine, 1e-3)
