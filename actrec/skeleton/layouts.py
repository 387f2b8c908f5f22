"""Named joint layouts; networks use `kinect_v2_25` (NTU RGB+D order)."""

from dataclasses import dataclass
from functools import cached_property

from actrec.utils.errors import ConfigError


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
    def mirror(self) -> tuple[int, ...]:
        """Index of each joint's counterpart on the other side of the body."""
        if self.counterparts:
            return self.counterparts
        swap = {"_left": "_right", "_right": "_left"}
        return tuple(
            self.index.get(j[: -len(s)] + swap[s], v) if (s := _side(j)) else v for v, j in enumerate(self.joints)
        )


def _side(joint: str) -> str:
    return next((s for s in ("_left", "_right") if joint.endswith(s)), "")


def _layout(name: str, table: str) -> Layout:
    """Parse "joint:parent joint:parent …"; the root is its own parent."""
    pairs = [entry.split(":") for entry in table.split()]
    joints = tuple(joint for joint, _ in pairs)
    return Layout(name, joints, tuple(joints.index(parent) for _, parent in pairs))


def _both(table: str) -> str:
    """Expand a table with {s} to the left side, then the right."""
    return table.replace("{s}", "left") + " " + table.replace("{s}", "right")


KINECT_V2_25 = _layout(
    "kinect_v2_25",
    "spine_base:spine_base spine_mid:spine_base neck:spine_shoulder head:neck "
    + _both("shoulder_{s}:spine_shoulder elbow_{s}:shoulder_{s} wrist_{s}:elbow_{s} hand_{s}:wrist_{s}")
    + " "
    + _both("hip_{s}:spine_base knee_{s}:hip_{s} ankle_{s}:knee_{s} foot_{s}:ankle_{s}")
    + " spine_shoulder:spine_mid "
    + _both("hand_tip_{s}:hand_{s} thumb_{s}:hand_{s}"),
)

KINECT_V1_20 = _layout(
    "kinect_v1_20",
    "hip_center:hip_center spine:hip_center shoulder_center:spine head:shoulder_center "
    + _both("shoulder_{s}:shoulder_center elbow_{s}:shoulder_{s} wrist_{s}:elbow_{s} hand_{s}:wrist_{s}")
    + " "
    + _both("hip_{s}:hip_center knee_{s}:hip_{s} ankle_{s}:knee_{s} foot_{s}:ankle_{s}"),
)

AZURE_KINECT_32 = _layout(
    "azure_kinect_32",
    "pelvis:pelvis spine_navel:pelvis spine_chest:spine_navel neck:spine_chest "
    + _both(
        "clavicle_{s}:spine_chest shoulder_{s}:clavicle_{s} elbow_{s}:shoulder_{s} wrist_{s}:elbow_{s} "
        "hand_{s}:wrist_{s} hand_tip_{s}:hand_{s} thumb_{s}:wrist_{s}"
    )
    + " "
    + _both("hip_{s}:pelvis knee_{s}:hip_{s} ankle_{s}:knee_{s} foot_{s}:ankle_{s}")
    + " head:neck nose:head "
    + _both("eye_{s}:head ear_{s}:head"),
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

LCRNET_13 = _layout(
    "lcrnet_13",
    "ankle_right:knee_right ankle_left:knee_left knee_right:hip_right knee_left:hip_left "
    "hip_right:shoulder_right hip_left:shoulder_left wrist_right:elbow_right wrist_left:elbow_left "
    "elbow_right:shoulder_right elbow_left:shoulder_left shoulder_right:head shoulder_left:head head:head",
)


def _fingers(tips: tuple[str, ...], root: str) -> str:
    entries = []
    for finger in ("thumb", "index", "middle", "ring", "pinky"):
        parts = [f"{finger}_{tip}" for tip in tips]
        entries += [f"{part}:{parent}" for part, parent in zip(parts, [root, *parts[:-1]], strict=True)]
    return " ".join(entries)


HAND_21 = _layout("hand_21", "wrist:wrist " + _fingers(("base", "first", "second", "tip"), "wrist"))

HAND_22 = _layout("hand_22", "wrist:wrist palm:wrist " + _fingers(("base", "first", "second", "tip"), "palm"))

HANDS = ("hand_21", "hand_22")
"""Layouts of hands; their models label hands instead of bodies."""

_FACE_68_COUNTERPARTS = (
    *range(16, -1, -1),  # jaw
    *range(26, 16, -1),  # brows
    27, 28, 29, 30, 35, 34, 33, 32, 31,  # nose
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,  # eyes: upper lids with upper lids
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

LAYOUTS = {
    layout.name: layout
    for layout in (KINECT_V2_25, KINECT_V1_20, AZURE_KINECT_32, MEDIAPIPE_33, LCRNET_13, HAND_21, HAND_22, FACE_68)
}


def get(name: str) -> Layout:
    """Return the layout `name`.

    Raises:
        ConfigError: Unknown name; the known ones are listed.
    """
    if name not in LAYOUTS:
        raise ConfigError(f"unknown skeleton layout '{name}'; known: {', '.join(sorted(LAYOUTS))}")
    return LAYOUTS[name]
