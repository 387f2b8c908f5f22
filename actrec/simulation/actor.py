"""Body of a simulated actor: its rig (a frame for each bone and phalanx), its appearance, and the shapes on the rig.

A body frame's columns point left, up (or along the bone) and forward. All points are in one right-handed frame.
"""

from dataclasses import dataclass, field

import numpy as np

from actrec.simulation.renderer import ShapeBuilder, Shapes
from actrec.simulation.textures import CLOTH, DENIM, FACE, HAIR, HEAD_DENSITY, SKIN, FaceColors, texture_index
from actrec.skeleton.layouts import KINECT_V2_25

_J = KINECT_V2_25.index

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

FRAME = {name: i for i, name in enumerate(FRAME_NAMES)}

_TRUNK = len(("pelvis", "abdomen", "chest", "neck"))

# A hand of unit length (wrist to tip of the middle finger); x to the thumb's side, y along the fingers, z out of the
# palm.
_KNUCKLE = np.array(
    [[0.16, 0.14, 0.09], [0.155, 0.50, 0.0], [0.045, 0.525, -0.01], [-0.065, 0.50, -0.005], [-0.165, 0.45, 0.01]]
)

PHALANX = np.array(
    [[0.20, 0.17, 0.14], [0.225, 0.13, 0.105], [0.245, 0.15, 0.11], [0.225, 0.145, 0.11], [0.175, 0.105, 0.095]]
)

_SPREAD = np.radians([0.0, 8.0, 1.0, -6.0, -14.0])

_BEND = np.radians([0.0, 84.0, 100.0, 66.0])[1:]  # of the three joints of a closed finger

_THUMB_OPEN = np.array([[0.62, 0.72, 0.30], [0.60, 0.78, 0.18], [0.52, 0.84, 0.12]])

_THUMB_SHUT = np.array([[0.42, 0.72, 0.55], [-0.15, 0.80, 0.58], [-0.55, 0.70, 0.45]])


@dataclass
class ActorPose:
    """Pose of a body at one time.

    Attributes:
        joints: [25, 3] `kinect_v2_25`, m.
        head: [3, 3], columns left, up, forward.
        hands: [2, 3, 3] left and right hand, columns toward the thumb, along the fingers, out of the palm.
        curl: [2, 5] flexion of each finger, thumb first: 0 straight, 1 a fist.
    """

    joints: np.ndarray
    head: np.ndarray
    hands: np.ndarray
    curl: np.ndarray

    def transformed(self, rotation: np.ndarray, shift: np.ndarray) -> "ActorPose":
        """Transform the pose to another frame: p ↦ rotation·p + shift."""
        return ActorPose(self.joints @ rotation.T + shift, rotation @ self.head, rotation @ self.hands, self.curl)


def bone_lengths(joints: np.ndarray) -> np.ndarray:
    """Return the median bone lengths [bones] of joints [..., 25, 3], m."""
    length = np.linalg.norm(joints[..., BONE_END, :] - joints[..., BONE_START, :], axis=-1)
    return np.maximum(np.median(length.reshape(-1, len(BONE_START)), axis=0), 0.02)


def body_frames(pose: ActorPose, rest: np.ndarray, hand_length: float) -> tuple[np.ndarray, np.ndarray]:
    """Place every frame of `FRAME_NAMES`.

    Args:
        pose: The joints and orientations.
        rest: [bones] lengths from `bone_lengths`; a bone of another length stretches its frame along y.
        hand_length: Wrist to tip of the middle finger, m.

    Returns:
        Origins [F, 3] and axes [F, 3, 3] (columns), float64.
    """
    joints = np.asarray(pose.joints, np.float64)
    along = joints[BONE_END] - joints[BONE_START]
    length = np.maximum(np.linalg.norm(along, axis=-1), 1e-6)
    y = along / length[:, None]
    z = _forward_hints(joints, y, pose.head)
    x = _unit(_cross(y, z))
    axes = np.stack([x, y * (length / rest)[:, None], _cross(x, y)], axis=-1)
    wrists = joints[[_J["wrist_left"], _J["wrist_right"]]]
    points, finger_axes = finger_frames(pose.curl, hand_length)
    finger_points = np.einsum("sij,sfkj->sfki", pose.hands, points[:, :, :3]) + wrists[:, None, None]
    finger_axes = pose.hands[:, None, None] @ finger_axes
    origins = np.concatenate([joints[BONE_START], joints[[_J["head"]]], wrists, finger_points.reshape(-1, 3)])
    return origins, np.concatenate([axes, pose.head[None], pose.hands, finger_axes.reshape(-1, 3, 3)])


def finger_frames(curl: np.ndarray, hand_length: float) -> tuple[np.ndarray, np.ndarray]:
    """Compute the joints and axes of the fingers of both hands.

    Args:
        curl: [2, 5] 0 straight to 1 a fist.
        hand_length: In m.

    Returns:
        Joint positions [2, 5, 4, 3] (base, first, second, tip) in the hand's frame and phalanx axes [2, 5, 3, 3, 3].
    """
    bend = np.cumsum(curl[:, 1:, None] * _BEND, axis=-1)  # (2, 4, 3)
    spread = (_SPREAD[1:] * (1 - curl[:, 1:]))[..., None]
    along = np.empty((2, 5, 3, 3))
    along[:, 1:] = np.stack([np.cos(bend) * np.sin(spread), np.cos(bend) * np.cos(spread), np.sin(bend)], axis=-1)
    share = curl[:, 0, None, None]
    along[:, 0] = _unit((1 - share) * _THUMB_OPEN + share * _THUMB_SHUT)
    steps = along * (PHALANX * hand_length)[None, :, :, None]
    points = np.concatenate([np.zeros((2, 5, 1, 3)), np.cumsum(steps, axis=2)], axis=2)
    points += (_KNUCKLE * hand_length)[None, :, None]
    x = _unit(np.array([1.0, 0.0, 0.0]) - along * along[..., :1])
    return points, np.stack([x, along, _cross(x, along)], axis=-1)


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
    hips = _unit(joints[_J["hip_left"]] - joints[_J["hip_right"]])
    shoulders = _unit(joints[_J["shoulder_left"]] - joints[_J["shoulder_right"]])
    left = np.stack([hips, _unit(hips + 0.5 * shoulders), _unit(hips + 2 * shoulders), head[:, 0]])
    hints = np.empty_like(y)
    hints[:_TRUNK] = np.cross(left, y[:_TRUNK])
    pelvis, chest = _frame(hips, y[0]), _frame(left[2], y[2])
    # Each limb starts from its most frequent direction, so that the shortest rotation is never ambiguous.
    out = np.array([1.0, -1.0])
    ones = np.ones(2)
    arm_rest = np.stack([0.6 * out, -0.6 * ones, 0.53 * ones], axis=1) @ chest.T
    leg_rest = np.stack([0.1 * out, -0.9 * ones, 0.42 * ones], axis=1) @ pelvis.T
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
    forward = _unit(np.cross(left, up))
    return np.stack([np.cross(up, forward), up, forward], axis=-1)


def _carry(source: np.ndarray, target: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Rotate `vector` by the shortest rotation from `source` to `target` (rows of unit vectors)."""
    source = _unit(source)
    axis = np.cross(source, target)
    cosine = np.sum(source * target, axis=-1, keepdims=True)
    dot = np.sum(axis * vector, axis=-1, keepdims=True)
    return vector * cosine + np.cross(axis, vector) + axis * dot / np.maximum(1 + cosine, 1e-3)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-9)


REFERENCE_STATURE = 1.75
"""Stature (m) for which the shapes below are defined."""

ANKLE_HEIGHT = 0.085
"""Height of the ankle joint above the sole, m at the reference stature."""

TOE_HEIGHT = 0.030
"""Height of the foot joint (ball of the foot) above the sole, m at the reference stature."""

_Color = tuple[float, float, float]

_Point = tuple[float, float, float]


@dataclass(frozen=True)
class Appearance:
    """Appearance of an actor.

    Attributes:
        stature: Height in m; scales girth, head and hands (bone lengths come from the skeleton).
        girth: Factor on the thickness of trunk and limbs.
        face: Colors of the face.
        shirt, sleeves, trousers, shoes: Albedo as displayed, 0..1.
    """

    stature: float = 1.75
    girth: float = 1.0
    face: FaceColors = field(default_factory=FaceColors)
    shirt: _Color = (0.20, 0.42, 0.62)
    sleeves: _Color = (0.16, 0.33, 0.50)
    trousers: _Color = (0.25, 0.26, 0.32)
    shoes: _Color = (0.12, 0.11, 0.11)

    @property
    def scale(self) -> float:
        """Return the size relative to the reference."""
        return self.stature / REFERENCE_STATURE

    @property
    def hand_length(self) -> float:
        """Return the length from wrist to middle finger tip, m (0.108 of stature: Drillis and Contini, 1966)."""
        return 0.108 * self.stature


WARDROBE = (
    Appearance(),
    Appearance(
        1.66, 0.95, FaceColors((0.62, 0.44, 0.33), (0.08, 0.06, 0.05), (0.52, 0.28, 0.26), (0.13, 0.09, 0.06)),
        shirt=(0.66, 0.25, 0.22), sleeves=(0.54, 0.19, 0.18), trousers=(0.50, 0.45, 0.36), shoes=(0.38, 0.30, 0.24),
    ),
)  # fmt: skip
"""Appearance of the first and second actor."""


def body_shapes(appearance: Appearance, rest: np.ndarray, person: int, people: int) -> Shapes:
    """Build all primitives of a body.

    Args:
        appearance: Proportions and colors.
        rest: [bones] lengths from `bone_lengths`, m.
        person: Index of the actor's face in the texture atlas.
        people: Number of faces in the atlas.
    """
    builder = _BodyBuilder(appearance, dict(zip(FRAME_NAMES, rest, strict=False)), person, people)
    builder.trunk()
    builder.head()
    for side, sign in zip(SIDES, (1.0, -1.0), strict=True):
        builder.arm(side)
        builder.leg(side, sign)
        builder.hand(side)
    return builder.shapes.build()


class _BodyBuilder:
    """Builder of a body's shapes, part by part."""

    def __init__(self, appearance: Appearance, rest: dict[str, float], person: int, people: int):
        self.shapes = ShapeBuilder()
        self.looks = appearance
        self.rest = rest
        self.s = appearance.scale
        self.g = appearance.scale * appearance.girth
        self.texture = {kind: texture_index(kind, person, people) for kind in (FACE, CLOTH, DENIM, SKIN, HAIR)}

    def _add(
        self,
        frame: str,
        start: tuple[float, float, float],
        end: tuple[float, float, float] | None,
        radii: tuple[float, float],
        color: _Color,
        kind: int,
        stretch: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> None:
        density = {CLOTH: 2.5, DENIM: 2.5, SKIN: 4.0, HAIR: 4.0}[kind]
        gloss = 0.10 if kind == SKIN else 0.0
        self.shapes.add(
            FRAME[frame],
            start,
            end,
            radii,
            color,
            stretch=stretch,
            texture=self.texture[kind],
            texture_scale=density,
            gloss=gloss,
        )

    def trunk(self) -> None:
        """Add pelvis, belly, rib cage, shoulders and neck."""
        g, looks = self.g, self.looks
        belly, ribs, neck = self.rest["abdomen"], self.rest["chest"], self.rest["neck"]
        self._add(
            "pelvis",
            (0, -0.01, -0.005),
            (0, 0.055, -0.005),
            (0.098 * g, 0.104 * g),
            looks.trousers,
            DENIM,
            (1.50, 1.0, 1.10),
        )
        for x in (-0.07, 0.07):
            self._add("pelvis", (x * g, -0.05, -0.045 * g), None, (0.082 * g, 0), looks.trousers, DENIM)
        self._add("abdomen", (0, 0.06, 0), (0, belly, 0), (0.104 * g, 0.104 * g), looks.shirt, CLOTH, (1.40, 1, 1))
        self._add(
            "chest", (0, -0.02, 0), (0, 0.55 * ribs, 0.008), (0.106 * g, 0.116 * g), looks.shirt, CLOTH, (1.40, 1, 1)
        )
        self._add("chest", (0, 0.66 * ribs, 0), None, (0.104 * g, 0), looks.shirt, CLOTH, (1.62, 0.82, 1.02))
        for side in SIDES:
            name = f"trapezius_{side}"
            slope = self.rest[name]
            self._add(name, (0, 0.30 * slope, 0), (0, 0.80 * slope, 0), (0.052 * g, 0.044 * g), looks.shirt, CLOTH)
        self._add("neck", (0, 0.0, 0.0), (0, 0.8 * neck, 0.006), (0.054 * g, 0.050 * g), looks.face.skin, SKIN)

    def head(self) -> None:
        """Add skull, jaw and nose with one face texture, ears and hair."""
        k = 0.93 * self.s
        face, hair = self.texture[FACE], self.texture[HAIR]

        def add(
            start: _Point,
            end: _Point | None,
            radii: tuple[float, float],
            stretch: _Point = (1.0, 1.0, 1.0),
            color: _Color = (1.0, 1.0, 1.0),
            texture: int = face,
            gloss: float = 0.06,
        ) -> None:
            first = (k * start[0], k * start[1], k * start[2])
            last = None if end is None else (k * end[0], k * end[1], k * end[2])
            self.shapes.add(
                FRAME["head"], first, last, (radii[0] * k, radii[1] * k), color, stretch=stretch,
                texture=texture,
                texture_scale=HEAD_DENSITY / k, gloss=gloss,
            )  # fmt: skip

        add((0, 0.025, -0.012), None, (0.092, 0), (0.83, 1.0, 1.03))
        add((0, -0.022, 0.012), None, (0.096, 0), (0.72, 1.0, 0.83))
        add((0, -0.050, 0.026), (0, -0.088, 0.046), (0.050, 0.028))
        add((0, 0.004, 0.083), (0, -0.034, 0.101), (0.009, 0.0135), gloss=0.12)
        for x in (-1.0, 1.0):
            add((x * 0.030, -0.030, 0.046), None, (0.033, 0))
            add(
                (x * 0.077, -0.010, -0.008),
                None,
                (0.032, 0),
                (0.35, 1.0, 0.6),
                self.looks.face.skin,
                self.texture[SKIN],
            )
        add((0, 0.036, -0.024), None, (0.094, 0), (0.89, 1.0, 1.0), self.looks.face.hair, hair, 0.05)

    def arm(self, side: str) -> None:
        """Add shoulder, short sleeve and bare lower arm."""
        g, looks = self.g, self.looks
        clavicle, upper, fore = (self.rest[f"{bone}_{side}"] for bone in ("clavicle", "upper_arm", "forearm"))
        self._add(
            f"clavicle_{side}", (0, 0.35 * clavicle, 0), (0, clavicle, 0), (0.066 * g, 0.060 * g), looks.shirt, CLOTH
        )
        name = f"upper_arm_{side}"
        self._add(name, (0, 0, 0), (0, 0.62 * upper, 0), (0.062 * g, 0.053 * g), looks.sleeves, CLOTH)
        self._add(name, (0, 0.55 * upper, 0), (0, upper, 0), (0.045 * g, 0.039 * g), looks.face.skin, SKIN)
        name = f"forearm_{side}"
        self._add(name, (0, 0, 0), (0, 0.32 * fore, 0), (0.039 * g, 0.043 * g), looks.face.skin, SKIN)
        self._add(name, (0, 0.32 * fore, 0), (0, fore, 0), (0.043 * g, 0.027 * g), looks.face.skin, SKIN)

    def leg(self, side: str, sign: float) -> None:
        """Add trousers and shoe."""
        g, s, looks = self.g, self.s, self.looks
        thigh, shank, foot = (self.rest[f"{bone}_{side}"] for bone in ("thigh", "shank", "foot"))
        self._add(f"thigh_{side}", (0, -0.01, 0), (0, thigh, 0), (0.091 * g, 0.060 * g), looks.trousers, DENIM)
        self._add(f"shank_{side}", (0, 0, 0), (0, 0.35 * shank, -0.01), (0.058 * g, 0.059 * g), looks.trousers, DENIM)
        self._add(
            f"shank_{side}",
            (0, 0.35 * shank, -0.01),
            (0, 0.97 * shank, 0),
            (0.059 * g, 0.046 * g),
            looks.trousers,
            DENIM,
        )
        # The foot's frame: y from ankle to toes, z up; y slopes down, the sole is flat.
        dip = min(max((ANKLE_HEIGHT - TOE_HEIGHT) * s / foot, -0.9), 0.9)
        level = float(np.sqrt(1 - dip * dip))
        shoe, name = looks.shoes, f"foot_{side}"

        def at(forward: float, up: float) -> tuple[float, float, float]:
            return (0.0, forward * level - up * dip, forward * dip + up * level)

        heel, ball = at(-0.045 * s, (0.036 - ANKLE_HEIGHT) * s), (0.0, foot, 0.0)
        self._add(name, heel, ball, (0.036 * s, TOE_HEIGHT * s), shoe, CLOTH, (1.15, 1, 1))
        self._add(
            name,
            ball,
            at(foot * level + 0.05 * s, (0.024 - ANKLE_HEIGHT) * s),
            (TOE_HEIGHT * s, 0.024 * s),
            shoe,
            CLOTH,
            (1.4, 1, 1),
        )
        self._add(
            name, (0, 0.01, -0.01), at(0.075 * s, (0.042 - ANKLE_HEIGHT) * s), (0.042 * s, 0.034 * s), shoe, CLOTH
        )

    def hand(self, side: str) -> None:
        """Add palm, ball of the thumb and fifteen phalanges."""
        size, skin = self.looks.hand_length, self.looks.face.skin
        palm = f"palm_{side}"
        self._add(
            palm, (0, 0.02 * size, 0), (0, 0.43 * size, 0), (0.105 * size, 0.118 * size), skin, SKIN, (1.75, 1, 0.72)
        )
        self._add(palm, (0.10 * size, 0.14 * size, 0.05 * size), (0.17 * size, 0.30 * size, 0.07 * size),
                  (0.085 * size, 0.06 * size), skin, SKIN)  # fmt: skip
        widths = {"thumb": 0.058, "index": 0.047, "middle": 0.048, "ring": 0.045, "pinky": 0.039}
        # Slightly different tints separate neighboring fingers.
        for finger in FINGERS:
            for k in range(3):
                length = float(PHALANX[FINGERS.index(finger), k]) * size
                radii = (widths[finger] * (1 - 0.07 * k) * size, widths[finger] * (1 - 0.07 * (k + 1)) * size)
                tint = 1.0 if finger in ("index", "ring") else 0.95
                color = (skin[0] * tint, skin[1] * tint, skin[2] * tint)
                self._add(f"{finger}{k}_{side}", (0, 0, 0), (0, length, 0), radii, color, SKIN)
