"""Named joint layouts, and conversions between them: each joint is a weighted sum of source joints.

Networks use `kinect_v2_25` (NTU RGB+D order). Body layouts convert to it, hands to `hand_22`. A joint that a sensor
lacks (finger tips on Kinect v1, the spine in MediaPipe) is computed from its neighbors; an extrapolated joint has half
the score. A joint without neighbors to compute it from (hands and feet of NITE) is missing.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from actrec.utils.errors import ConfigError, InputError

CANONICAL = "kinect_v2_25"

EXTRAPOLATED_SCORE = 0.5
"""Factor on the score of an extrapolated joint."""

HANDS = ("hand_21", "hand_22")
"""Layouts of hands; their models label hands instead of bodies."""


@dataclass(frozen=True)
class Layout:
    """The joints of a skeleton and the tree that connects them.

    Attributes:
        name: Name in messages and model packages.
        joints: V joint names in order; the suffix `_left` or `_right` is the person's own side.
        parents: V indices; the root is its own parent. Bone v is joint v minus joint parents[v].
        counterparts: V indices for `mirror`, if the names have no suffix.
    """

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    counterparts: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.joints)

    @cached_property
    def index(self) -> dict[str, int]:
        """Joint name to index."""
        return {joint: v for v, joint in enumerate(self.joints)}

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """(joint, parent) of every joint except the root."""
        return tuple((v, p) for v, p in enumerate(self.parents) if v != p)

    @cached_property
    def outwards(self) -> tuple[int, ...]:
        """The indices of all joints, parents first."""

        def depth(v: int) -> int:
            return 0 if self.parents[v] == v else 1 + depth(self.parents[v])

        return tuple(sorted(range(len(self.parents)), key=depth))

    @cached_property
    def mirror(self) -> tuple[int, ...]:
        """Index of each joint's counterpart on the other side of the body."""
        return self.counterparts or tuple(self.index.get(_other_side(j), v) for v, j in enumerate(self.joints))


def _other_side(joint: str) -> str:
    for side, other in (("_left", "_right"), ("_right", "_left")):
        if joint.endswith(side):
            return joint.removesuffix(side) + other
    return joint


def _layout(name: str, *tables: str) -> Layout:
    """Parse "joint:parent joint:parent …"; a table with {s} is repeated for the left and the right side."""
    sides = [
        table.replace("{s}", side) for table in tables for side in (("left", "right") if "{s}" in table else ("",))
    ]
    pairs = [entry.split(":") for entry in " ".join(sides).split()]
    joints = tuple(joint for joint, _ in pairs)
    return Layout(name, joints, tuple(joints.index(parent) for _, parent in pairs))


KINECT_V2_25 = _layout(
    "kinect_v2_25",
    "spine_base:spine_base spine_mid:spine_base neck:spine_shoulder head:neck",
    "shoulder_{s}:spine_shoulder elbow_{s}:shoulder_{s} wrist_{s}:elbow_{s} hand_{s}:wrist_{s}",
    "hip_{s}:spine_base knee_{s}:hip_{s} ankle_{s}:knee_{s} foot_{s}:ankle_{s}",
    "spine_shoulder:spine_mid",
    "hand_tip_{s}:hand_{s} thumb_{s}:hand_{s}",
)

KINECT_V1_20 = _layout(
    "kinect_v1_20",
    "hip_center:hip_center spine:hip_center shoulder_center:spine head:shoulder_center",
    "shoulder_{s}:shoulder_center elbow_{s}:shoulder_{s} wrist_{s}:elbow_{s} hand_{s}:wrist_{s}",
    "hip_{s}:hip_center knee_{s}:hip_{s} ankle_{s}:knee_{s} foot_{s}:ankle_{s}",
)

AZURE_KINECT_32 = _layout(
    "azure_kinect_32",
    "pelvis:pelvis spine_navel:pelvis spine_chest:spine_navel neck:spine_chest",
    "clavicle_{s}:spine_chest shoulder_{s}:clavicle_{s} elbow_{s}:shoulder_{s} wrist_{s}:elbow_{s} "
    "hand_{s}:wrist_{s} hand_tip_{s}:hand_{s} thumb_{s}:wrist_{s}",
    "hip_{s}:pelvis knee_{s}:hip_{s} ankle_{s}:knee_{s} foot_{s}:ankle_{s}",
    "head:neck nose:head",
    "eye_{s}:head ear_{s}:head",
)

MEDIAPIPE_33 = _layout(
    "mediapipe_33",
    "nose:nose eye_inner_left:nose eye_left:eye_inner_left eye_outer_left:eye_left "
    "eye_inner_right:nose eye_right:eye_inner_right eye_outer_right:eye_right "
    "ear_left:eye_outer_left ear_right:eye_outer_right mouth_left:nose mouth_right:nose "
    "shoulder_left:nose shoulder_right:nose elbow_left:shoulder_left elbow_right:shoulder_right "
    "wrist_left:elbow_left wrist_right:elbow_right pinky_left:wrist_left pinky_right:wrist_right "
    "index_left:wrist_left index_right:wrist_right thumb_left:wrist_left thumb_right:wrist_right "
    "hip_left:shoulder_left hip_right:shoulder_right knee_left:hip_left knee_right:hip_right "
    "ankle_left:knee_left ankle_right:knee_right heel_left:ankle_left heel_right:ankle_right "
    "foot_index_left:heel_left foot_index_right:heel_right",
)

NITE_15 = _layout(
    "nite_15",
    "head:neck neck:neck torso:neck",
    "shoulder_{s}:neck elbow_{s}:shoulder_{s} hand_{s}:elbow_{s} hip_{s}:torso knee_{s}:hip_{s} foot_{s}:knee_{s}",
)
"""OpenNI's skeleton (CAD-60, KARD, Florence 3D)."""

BVH_21 = _layout(
    "bvh_21",
    "hips:hips spine:hips chest:spine neck:chest head:neck",
    "clavicle_{s}:chest shoulder_{s}:clavicle_{s} elbow_{s}:shoulder_{s} wrist_{s}:elbow_{s}",
    "hip_{s}:hips knee_{s}:hip_{s} ankle_{s}:knee_{s} toe_{s}:ankle_{s}",
)
"""The joints of common BVH files (Bandai-Namco, Mixamo, CMU)."""

ASF_31 = _layout(
    "asf_31",
    "root:root",
    "hipjoint_{s}:root femur_{s}:hipjoint_{s} tibia_{s}:femur_{s} foot_{s}:tibia_{s} toes_{s}:foot_{s}",
    "lowerback:root upperback:lowerback thorax:upperback lowerneck:thorax upperneck:lowerneck head:upperneck",
    "clavicle_{s}:thorax humerus_{s}:clavicle_{s} radius_{s}:humerus_{s} wrist_{s}:radius_{s} hand_{s}:wrist_{s} "
    "fingers_{s}:hand_{s} thumb_{s}:wrist_{s}",
)
"""The far end of each bone of Acclaim files of a Vicon system (HDM05, CMU): `femur_left` is the knee."""

LCRNET_13 = _layout(
    "lcrnet_13",
    "ankle_right:knee_right ankle_left:knee_left knee_right:hip_right knee_left:hip_left "
    "hip_right:shoulder_right hip_left:shoulder_left wrist_right:elbow_right wrist_left:elbow_left "
    "elbow_right:shoulder_right elbow_left:shoulder_left shoulder_right:head shoulder_left:head head:head",
)


def _hand(name: str, palm: str, root: str) -> Layout:
    fingers = [
        f"{finger}_base:{root} {finger}_first:{finger}_base {finger}_second:{finger}_first {finger}_tip:{finger}_second"
        for finger in ("thumb", "index", "middle", "ring", "pinky")
    ]
    return _layout(name, palm, *fingers)


HAND_21 = _hand("hand_21", "wrist:wrist", "wrist")
HAND_22 = _hand("hand_22", "wrist:wrist palm:wrist", "palm")

_FACE_68_COUNTERPARTS = (
    *range(16, -1, -1),  # jaw
    *range(26, 16, -1),  # brows
    27, 28, 29, 30, 35, 34, 33, 32, 31,  # nose
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,  # eyes: upper lids map to upper lids
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55,  # outer lips
    64, 63, 62, 61, 60, 67, 66, 65,  # inner lips
)  # fmt: skip


def _face_68() -> Layout:
    """Return the 68-point layout: jaw, brows, nose, eyes, lips; each is a chain from the root of the nose (27)."""
    chains = {"jaw": (0, 17), "brow_right": (17, 22), "brow_left": (22, 27), "nose": (27, 36), "eye_right": (36, 42),
              "eye_left": (42, 48), "lip_outer": (48, 60), "lip_inner": (60, 68)}  # fmt: skip
    joints, parents = [], []
    for name, (start, stop) in chains.items():
        for v in range(start, stop):
            joints.append(f"{name}_{v}")
            parents.append(27 if v == start else v - 1)
    return Layout("face_68", tuple(joints), tuple(parents), _FACE_68_COUNTERPARTS)


FACE_68 = _face_68()

_BODIES = (KINECT_V2_25, KINECT_V1_20, AZURE_KINECT_32, MEDIAPIPE_33, NITE_15, BVH_21, ASF_31, LCRNET_13)

LAYOUTS = {layout.name: layout for layout in (*_BODIES, HAND_21, HAND_22, FACE_68)}


def get(name: str) -> Layout:
    """Return the layout `name`.

    Raises:
        ConfigError: Unknown name; the known ones are listed.
    """
    if name not in LAYOUTS:
        raise ConfigError(f"unknown skeleton layout '{name}'; known: {', '.join(sorted(LAYOUTS))}")
    return LAYOUTS[name]


Weights = dict[str, float]


def _same(*joints: str) -> dict[str, Weights]:
    """Return the rows of joints that both layouts have."""
    return {joint: {joint: 1.0} for joint in joints}


_LIMBS = _same("shoulder_{s}", "elbow_{s}", "wrist_{s}", "hip_{s}", "knee_{s}", "ankle_{s}")

TABLES: dict[str, dict[str, Weights]] = {
    "kinect_v1_20": {
        **_LIMBS,
        **_same("hand_{s}", "foot_{s}", "head"),
        "spine_base": {"hip_center": 1.0},
        # The "spine" of Kinect v1 is just above the hips; "spine_mid" of v2 is halfway up.
        "spine_mid": {"hip_center": 0.5, "shoulder_center": 0.5},
        "spine_shoulder": {"shoulder_center": 1.0},
        "neck": {"shoulder_center": 0.7, "head": 0.3},
        "hand_tip_{s}": {"hand_{s}": 2.0, "wrist_{s}": -1.0},
        "thumb_{s}": {"hand_{s}": 1.0},
    },
    "azure_kinect_32": {
        **_LIMBS,
        **_same("hand_{s}", "foot_{s}", "head", "neck", "hand_tip_{s}", "thumb_{s}"),
        "spine_base": {"pelvis": 1.0},
        "spine_mid": {"pelvis": 0.5, "spine_chest": 0.25, "neck": 0.25},
        "spine_shoulder": {"spine_chest": 0.25, "neck": 0.75},
    },
    "mediapipe_33": {
        **_LIMBS,
        "spine_base": {"hip_left": 0.5, "hip_right": 0.5},
        # Fitted to recordings of a Kinect v2: spine_mid at 57 % of the way from spine_base to the shoulders, the
        # neck at 114 %, hips closer together, feet short of the toes, a longer thumb.
        "hip_left": {"hip_left": 0.93, "hip_right": 0.07},
        "hip_right": {"hip_right": 0.93, "hip_left": 0.07},
        "spine_mid": {"hip_left": 0.215, "hip_right": 0.215, "shoulder_left": 0.285, "shoulder_right": 0.285},
        "spine_shoulder": {"shoulder_left": 0.5, "shoulder_right": 0.5},
        "neck": {"shoulder_left": 0.325, "shoulder_right": 0.325, "ear_left": 0.175, "ear_right": 0.175},
        "head": {"ear_left": 0.5, "ear_right": 0.5},
        "hand_{s}": {"index_{s}": 0.5, "pinky_{s}": 0.5},
        "hand_tip_{s}": {"index_{s}": 0.95, "pinky_{s}": 0.95, "wrist_{s}": -0.9},
        "thumb_{s}": {"thumb_{s}": 1.6, "wrist_{s}": -0.6},
        "foot_{s}": {"foot_index_{s}": 0.75, "ankle_{s}": 0.25},
    },
    "nite_15": {
        **_same("shoulder_{s}", "elbow_{s}", "hip_{s}", "knee_{s}", "head"),
        # The "hand" ends a forearm as long as the upper arm (1.01 in KARD and CAD-60; on Kinect v1 the wrist 0.92, the
        # hand 1.20), and the "foot" is straight below the knee, not in front of it: they are wrist and ankle.
        "wrist_{s}": {"hand_{s}": 1.0},
        "ankle_{s}": {"foot_{s}": 1.0},
        # NITE puts the neck exactly between the shoulders, the torso halfway between the neck and the hips.
        "spine_base": {"hip_left": 0.5, "hip_right": 0.5},
        "spine_mid": {"torso": 1.0},
        "spine_shoulder": {"neck": 1.0},
        "neck": {"neck": 0.56, "head": 0.44},
    },
    # Weights of the spine in bvh_21 and asf_31 give the proportions of a Kinect v2 between hips and head: spine_mid at
    # 0.41, shoulders at 0.67, spine_shoulder at 0.72, neck at 0.82 (NTU RGB+D).
    "bvh_21": {
        **_LIMBS,
        "spine_base": {"hip_left": 0.5, "hip_right": 0.5},
        "spine_mid": {"spine": 0.3, "chest": 0.7},
        "spine_shoulder": {"neck": 1.0},
        "neck": {"neck": 0.1, "head": 0.9},
        "head": {"head": 2.5, "neck": -1.5},  # "head" is the base of the skull
        "foot_{s}": {"toe_{s}": 1.0},
    },
    "asf_31": {
        "spine_base": {"hipjoint_left": 0.5, "hipjoint_right": 0.5},
        "spine_mid": {"lowerback": 0.3, "upperback": 0.7},
        "spine_shoulder": {"thorax": 0.5, "lowerneck": 0.5},
        "neck": {"lowerneck": 0.6, "upperneck": 0.4},
        "head": {"head": 1.0},
        "shoulder_{s}": {"clavicle_{s}": 1.0},
        "elbow_{s}": {"humerus_{s}": 1.0},
        "wrist_{s}": {"wrist_{s}": 1.0},  # the radius ends in the middle of the forearm
        "hand_{s}": {"hand_{s}": 1.0},
        "hand_tip_{s}": {"fingers_{s}": 1.0},
        "thumb_{s}": {"thumb_{s}": 1.0},
        "hip_{s}": {"hipjoint_{s}": 1.0},
        "knee_{s}": {"femur_{s}": 1.0},
        "ankle_{s}": {"tibia_{s}": 1.0},
        "foot_{s}": {"foot_{s}": 1.0},
    },
    "lcrnet_13": {
        **_LIMBS,
        **_same("head"),
        "spine_base": {"hip_left": 0.5, "hip_right": 0.5},
        # Medians over NTU RGB+D: spine_mid at 60 % of the way from the hips to the shoulders, the neck at 44 % of
        # the way from there to the head, the hand 30 % of the forearm beyond the wrist.
        "spine_mid": {"hip_left": 0.2, "hip_right": 0.2, "shoulder_left": 0.3, "shoulder_right": 0.3},
        "spine_shoulder": {"shoulder_left": 0.5, "shoulder_right": 0.5},
        "neck": {"shoulder_left": 0.28, "shoulder_right": 0.28, "head": 0.44},
        "hand_{s}": {"wrist_{s}": 1.3, "elbow_{s}": -0.3},
        "hand_tip_{s}": {"wrist_{s}": 1.5, "elbow_{s}": -0.5},
        "thumb_{s}": {"wrist_{s}": 1.3, "elbow_{s}": -0.3},
        "foot_{s}": {"ankle_{s}": 1.1, "knee_{s}": -0.1},
    },
    CANONICAL: _same(*KINECT_V2_25.joints),
}
"""Weights of source joints for each joint of `kinect_v2_25`, by source layout; {s} is left and right.

A joint without a row is missing.
"""

_HAND_TABLES: dict[str, dict[str, Weights]] = {
    # The palm of SHREC'17 is in the middle of the metacarpals.
    "hand_21": {**_same(*HAND_21.joints), "palm": {"wrist": 0.5, "middle_base": 0.5}}
}


@cache
def matrix(source: str, target: str = CANONICAL) -> np.ndarray:
    """Return the weights [V', V] float32 from `source` joints to `target` joints.

    Raises:
        InputError: There is no such conversion; the message lists the known ones.
    """
    tables = {CANONICAL: TABLES, "hand_22": _HAND_TABLES}.get(target)
    if tables is None:
        raise InputError(f"no conversion from layout '{source}' to '{target}', only to {CANONICAL} and hand_22")
    if source not in tables:
        raise InputError(f"no conversion from layout '{source}' to {target}; known: {', '.join(sorted(tables))}")
    origin, goal = get(source), get(target)
    weights = np.zeros((len(goal), len(origin)), dtype=np.float32)
    for joint, row in tables[source].items():
        for side in ("left", "right") if "{s}" in joint else ("",):
            for name, weight in row.items():
                weights[goal.index[joint.replace("{s}", side)], origin.index[name.replace("{s}", side)]] = weight
    return weights


@cache
def known_joints(source: str, target: str = CANONICAL) -> np.ndarray:
    """Return [V'] bool: the target joints that a body in layout `source` has; raises like `matrix`."""
    known: np.ndarray = np.asarray(matrix(source, target).any(axis=1))
    return known


@cache
def _sources(source: str, target: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the sources of the V' target joints (first, second, … [V'] each) and the score factors [V']."""
    weights = matrix(source, target)
    used = [np.flatnonzero(row) if row.any() else np.zeros(1, int) for row in weights]
    max_sources = max(map(len, used))
    # A joint with fewer sources repeats its last one; this changes neither missing joints nor the lowest score.
    columns = [np.array([row[min(k, len(row) - 1)] for row in used]) for k in range(max_sources)]
    return columns, np.where((weights < 0).any(axis=1), EXTRAPOLATED_SCORE, 1.0)


def convert(
    positions: np.ndarray, scores: np.ndarray, source: str, target: str = CANONICAL
) -> tuple[np.ndarray, np.ndarray]:
    """Convert joints of one layout to another.

    Args:
        positions: [..., V, D] m or pixels, NaN if missing.
        scores: [..., V] in 0..1.
        source: Layout of the input.
        target: `source` itself, `kinect_v2_25`, or `hand_22` for a hand.

    Returns:
        Positions [..., V', D] and scores [..., V'], float32. A joint with a missing source, or without a source in this
        layout, is NaN with score 0; else the least certain source sets the score.

    Raises:
        InputError: Unknown pair of layouts, or V does not match the source layout.
    """
    positions, scores = np.asarray(positions, dtype=np.float32), np.asarray(scores, dtype=np.float32)
    expected = len(get(source))
    if positions.shape[-2] != expected or scores.shape != positions.shape[:-1]:
        raise InputError(
            f"positions {list(positions.shape)} and scores {list(scores.shape)} do not fit {source}, "
            f"which has {expected} joints"
        )
    missing = np.isnan(positions).any(axis=-1)
    if source == target:
        return np.where(missing[..., None], np.float32(np.nan), positions), np.where(missing, np.float32(0), scores)
    columns, factors = _sources(source, target)
    converted = matrix(source, target) @ np.nan_to_num(positions)
    missing_joint, lowest = missing[..., columns[0]] | ~known_joints(source, target), scores[..., columns[0]]
    for column in columns[1:]:
        missing_joint = missing_joint | missing[..., column]
        lowest = np.minimum(lowest, scores[..., column])
    converted[missing_joint] = np.nan
    return converted, np.where(missing_joint, 0.0, lowest * factors).astype(np.float32)
