"""MSR Action3D (Li, Zhang and Liu, CVPRW 2010): 20 joints of a Kinect at about 15 Hz, 20 gestures of 10 people.

A file `aAA_sSS_eEE_skeleton3D.txt` (the "real world" release) has 20 lines a frame, one joint each: x, y, z in m and a
confidence. The order of the joints, which the dataset does not state, is as in public readers (the library dai's
MSRActionSkeletonInstance, Vemulapalli et al.). They disagree on which side comes first: here it is the right one, and x
is turned so that the people, who face the sensor, have their left at its right. A joint at the origin is missing.

Of subjects 2 and 3, some clips have the joints of the left leg at the right one, from the knee or from the ankle on
(found by F. Quiroga, whose preprocessing exchanges them): a leg whose joints lie at the other side is put right.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actrec.datasets.archive import PeopleConfig, PeopleSource, by_joints, facing_sensor, parse_take, read_table
from actrec.datasets.base import Entry
from actrec.skeleton.layouts import KINECT_V1_20
from actrec.skeleton.sequence import SkeletonSequence, from_kinect, stamps_at
from actrec.utils.config import setting

FPS = 15.0

CLASSES = (
    "high arm wave", "horizontal arm wave", "hammer", "hand catch", "forward punch", "high throw", "draw x",
    "draw tick", "draw circle", "hand clap", "two hand wave", "side boxing", "bend", "forward kick", "side kick",
    "jogging", "tennis swing", "tennis serve", "golf swing", "pick up and throw",
)  # fmt: skip

JOINTS = (
    "shoulder_right", "shoulder_left", "shoulder_center", "spine", "hip_right", "hip_left", "hip_center", "elbow_right",
    "elbow_left", "wrist_right", "wrist_left", "hand_right", "hand_left", "knee_right", "knee_left", "ankle_right",
    "ankle_left", "foot_right", "foot_left", "head",
)  # fmt: skip

TO_KINECT_V1 = tuple(JOINTS.index(joint) for joint in KINECT_V1_20.joints)

EMPTY = "a13_s09_e02"  # all zeros in the release
NOISY = frozenset({
    "a07_s04_e01", "a13_s02_e02", "a13_s06_e01", "a13_s06_e02", EMPTY, "a20_s02_e01", "a20_s02_e02", "a20_s02_e03",
    "a20_s06_e01", "a20_s08_e02",
})  # fmt: skip
"""Sequences that Wang et al. (CVPR 2012) and most after them leave out."""

LEG_OF_OTHERS = (2, 3)
_CHAINS = (("hip", "knee", ("knee", "ankle", "foot")), ("knee", "ankle", ("ankle", "foot")))
"""Joints beside each other, the ones that follow, and all that are exchanged if these lie at the other side."""


def read_msr_action3d(path: str | Path, fps: float = FPS) -> SkeletonSequence:
    """Read `aAA_sSS_eEE_skeleton3D.txt`.

    Raises:
        DeviceError: There is no such file.
        InputError: It is truncated or corrupt.
    """
    path = Path(path)
    joints = by_joints(path, read_table(path, 4), len(JOINTS))[:, TO_KINECT_V1, :3]
    joints = np.where(joints.any(axis=-1, keepdims=True), joints, np.nan)
    joints = facing_sensor(joints, KINECT_V1_20.index["shoulder_left"], KINECT_V1_20.index["shoulder_right"])
    of: dict[str, Any] = parse_take(path)
    if of.get("subject") in LEG_OF_OTHERS:
        joints = _with_own_legs(joints)
    name, label = path.stem.removesuffix("_skeleton3D"), of.get("action")
    meta = {"format": "msr_action3d", "fps": fps, **of}
    return from_kinect(name, joints[None], KINECT_V1_20.name, stamps_at(fps, len(joints)), label=label, meta=meta)


def _with_own_legs(joints: np.ndarray) -> np.ndarray:
    """Return joints [T, 20, 3] with the left and right joints exchanged if they lie at the other side."""
    index, joints = KINECT_V1_20.index, joints.copy()
    for upper, lower, follow in _CHAINS:
        across = (joints[:, index[f"{name}_left"]] - joints[:, index[f"{name}_right"]] for name in (upper, lower))
        same = np.sum(np.prod(list(across), axis=0), axis=-1)
        if (known := same[np.isfinite(same)]).size and np.median(known) < 0:
            left, right = ([index[f"{name}_{side}"] for name in follow] for side in ("left", "right"))
            joints[:, left + right] = joints[:, right + left]
    return joints


@dataclass(frozen=True)
class MsrAction3dConfig(PeopleConfig):
    """Options of the dataset."""

    noisy: bool = setting(True, "with the nine sequences that most publications leave out (566 instead of 557)")


class MsrAction3d(PeopleSource):
    """Split "subject", the cross-subject test of all 20 actions: odd subjects train, even ones test.

    The root holds the published `aAA_sSS_eEE_skeleton3D.txt` in any folders. The one of the 567 that has zeros alone is
    no item.
    """

    title: ClassVar = "MSR Action3D"
    classes = CLASSES
    people: ClassVar = tuple(range(1, 11))
    pattern: ClassVar = r"(a\d+_s\d+_e\d+)_skeleton3D\.txt"
    read_file: ClassVar = staticmethod(read_msr_action3d)
    config_class: ClassVar = MsrAction3dConfig

    def published(self) -> list[Entry]:
        """Return every item of the published files that has a body."""
        entries = super().published()
        if not self.config.noisy:
            return [entry for entry in entries if entry.name not in NOISY]
        return [e for e in entries if e.name != EMPTY or read_table(e.files["skeleton"], 4)[:, :3].any()]
