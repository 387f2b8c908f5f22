"""KARD (Gaglio, Lo Re and Morana, IEEE Trans. Human-Machine Systems 2015): NITE joints, 18 actions of 10 people.

A file `aAA_sSS_eEE_realworld.txt` has 15 lines a frame, one joint each, in the order of the dataset's readme: x, y, z
in mm, x to the sensor's right, y up, z away. People draw, drink, phone and kick with the right side; they catch the
cap, toss the paper and take the umbrella with the left hand.

The dataset has no stamps. At the Kinect's 30 Hz, the feet pass each other 1.4 times a second in "walk" (median of 30
clips), a slow indoor walk. The authors' experiments A, B and C divide the takes of all people at random; the
cross-subject protocol of later work (Cippitelli et al. 2016, "new person") leaves one person out.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actrec.datasets.archive import PeopleSource, by_joints, parse_take, read_table
from actrec.skeleton import layouts
from actrec.skeleton.sequence import SkeletonSequence, from_kinect, load_npz, split_frames, stamps_at
from actrec.utils import gravity

FPS = 30.0

ROLL_DEG, PITCH_DEG = 1.1, 2.9
"""Mounting of the camera (`gravity.up_from_angles`), which the dataset does not publish: the mean of the people's axes
and of the floor under their feet, which differ by 4°."""

CLASSES = (
    "horizontal arm wave", "high arm wave", "two hand wave", "catch cap", "high throw", "draw x", "draw tick",
    "toss paper", "forward kick", "side kick", "take umbrella", "bend", "hand clap", "walk", "phone call", "drink",
    "sit down", "stand up",
)  # fmt: skip

JOINTS = (
    "head", "neck", "shoulder_right", "elbow_right", "hand_right", "shoulder_left", "elbow_left", "hand_left", "torso",
    "hip_right", "knee_right", "foot_right", "hip_left", "knee_left", "foot_left",
)  # fmt: skip

TO_NITE = tuple(JOINTS.index(joint) for joint in layouts.NITE_15.joints)


def read_kard_npz(path: str | Path, fps: float = FPS) -> list[SkeletonSequence]:
    """Read all sequences of `kard_skeletons.npz` (xyz in m, x to the left, length, action, subject, trial)."""
    path = Path(path)
    arrays = load_npz(path, ("xyz", "length", "action", "subject", "trial"))
    ranges = {"action": (1, len(CLASSES)), "subject": (1, 10), "trial": (1, 3)}
    parts = split_frames(path, arrays, len(JOINTS), ranges)
    rows = zip(parts, arrays["action"], arrays["subject"], arrays["trial"], strict=True)
    return [
        _sequence(f"a{a:02d}_s{s:02d}_e{t:02d}", part, {"action": int(a), "subject": int(s), "trial": int(t)}, fps)
        for part, a, s, t in rows
    ]


def read_kard_txt(path: str | Path, fps: float = FPS) -> SkeletonSequence:
    """Read the published `aAA_sSS_eEE_realworld.txt`.

    Raises:
        DeviceError: There is no such file.
        InputError: It is truncated or corrupt.
    """
    path = Path(path)
    xyz = by_joints(path, read_table(path, 3), len(JOINTS)) * np.array([-0.001, 0.001, 0.001])
    return _sequence(path.stem.removesuffix("_realworld"), xyz, parse_take(path), fps)


def _sequence(name: str, xyz: np.ndarray, of: dict[str, int], fps: float) -> SkeletonSequence:
    label = of.get("action") if 1 <= of.get("action", 0) <= len(CLASSES) else None
    meta: dict[str, Any] = {"format": "kard", "fps": fps, **of}
    if label is not None:
        meta["label_name"] = CLASSES[label - 1]
    up = gravity.up_from_angles(ROLL_DEG, PITCH_DEG)
    stamps = stamps_at(fps, len(xyz))
    return from_kinect(name, xyz[None][:, :, TO_NITE], layouts.NITE_15.name, stamps, label=label, meta=meta, up=up)


class Kard(PeopleSource):
    """Split "leave_one_out": the person of option `fold` tests (54 of 540 clips), the others train.

    The root holds `kard_skeletons.npz`, or the published `aAA_sSS_eEE_realworld.txt` in any folders.
    """

    title: ClassVar = "KARD"
    classes = CLASSES
    splits: ClassVar = ("leave_one_out",)
    folds: ClassVar = 10
    archive: ClassVar = "kard_skeletons.npz"
    people: ClassVar = tuple(range(1, 11))
    pattern: ClassVar = r"(a\d+_s\d+_e\d+)_realworld\.txt"
    read_archive: ClassVar = staticmethod(read_kard_npz)
    read_file: ClassVar = staticmethod(read_kard_txt)
