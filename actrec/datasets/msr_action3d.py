"""MSR Action3D (Li, Zhang and Liu, CVPRW 2010): 20 joints of a Kinect at about 15 Hz, 20 gestures of 10 people.

A file `aAA_sSS_eEE_skeleton3D.txt` (the "real world" release) has 20 lines a frame, one joint each: x, y, z in m and a
confidence. The order of the joints, which the dataset does not state, is as in public readers (the library dai's
MSRActionSkeletonInstance, Vemulapalli et al.). They disagree on which side comes first: here it is the right one, and x
is turned so that the people, who face the sensor, have their left at its right. A joint at the origin is missing.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actrec.datasets.archive import PeopleSource, by_joints, facing_sensor, parse_take, read_table
from actrec.skeleton.layouts import KINECT_V1_20
from actrec.skeleton.sequence import SkeletonSequence, from_kinect, stamps_at

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
    name, label = path.stem.removesuffix("_skeleton3D"), of.get("action")
    meta = {"format": "msr_action3d", "fps": fps, **of}
    return from_kinect(name, joints[None], KINECT_V1_20.name, stamps_at(fps, len(joints)), label=label, meta=meta)


class MsrAction3d(PeopleSource):
    """Split "subject", the cross-subject test of all 20 actions: odd subjects train, even ones test.

    The root holds the published `aAA_sSS_eEE_skeleton3D.txt` in any folders.
    """

    title: ClassVar = "MSR Action3D"
    classes = CLASSES
    people: ClassVar = tuple(range(1, 11))
    pattern: ClassVar = r"(a\d+_s\d+_e\d+)_skeleton3D\.txt"
    read_file: ClassVar = staticmethod(read_msr_action3d)
