"""UTD-MHAD (Chen et al., ICIP 2015): Kinect v1 joints at 30 Hz, 27 actions of 8 subjects.

The joint order is given by the dataset's `Skeleton_joint_order.txt` and differs from the Kinect SDK's. The right hand
(joint 11) moves in the right-handed actions and the toes lie nearer to the sensor than the ankles, so the sides are the
person's own and x grows to the sensor's left.
"""

import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actrec.datasets.archive import PeopleSource, read_mat
from actrec.skeleton import layouts
from actrec.skeleton.sequence import SkeletonSequence, from_kinect, load_npz, split_frames, stamps_at
from actrec.utils import gravity
from actrec.utils.errors import InputError

FPS = 30.0

ROLL_DEG, PITCH_DEG = -0.8, 4.8
"""Mounting of the camera (`gravity.up_from_angles`), which the dataset does not publish: the mean of the people's axes
and of the floor under their feet, which differ by 3°."""

CLASSES = (
    "swipe left", "swipe right", "wave", "clap", "throw", "cross arms on the chest", "basketball shoot", "draw x",
    "draw circle clockwise", "draw circle counter-clockwise", "draw triangle", "bowling", "boxing", "baseball swing",
    "tennis swing", "arm curl", "tennis serve", "push", "knock on door", "catch", "pick up and throw", "jog in place",
    "walk in place", "sit to stand", "stand to sit", "forward lunge", "squat",
)  # fmt: skip

JOINTS = (
    "head", "shoulder_center", "spine", "hip_center",
    "shoulder_left", "elbow_left", "wrist_left", "hand_left",
    "shoulder_right", "elbow_right", "wrist_right", "hand_right",
    "hip_left", "knee_left", "ankle_left", "foot_left",
    "hip_right", "knee_right", "ankle_right", "foot_right",
)  # fmt: skip

TO_KINECT_V1 = tuple(JOINTS.index(joint) for joint in layouts.KINECT_V1_20.joints)
_NAME = re.compile(r"a(\d+)_s(\d+)_t(\d+)")


def read_utd_mhad_mat(path: str | Path, fps: float = FPS) -> SkeletonSequence:
    """Read `aA_sS_tT_skeleton.mat`: `d_skel` [20, 3, T] meters; raises like `read_mat`."""
    path = Path(path)
    skeleton = read_mat(path, "d_skel").astype(np.float64)
    if skeleton.ndim == 2:  # MATLAB stores an array of one frame without its last axis
        skeleton = skeleton[..., None]
    if skeleton.ndim != 3 or skeleton.shape[:2] != (20, 3) or not skeleton.shape[2]:
        raise InputError(f"'{path}': d_skel is {list(skeleton.shape)}, expected [20, 3, frames]")
    name = path.stem.removesuffix("_skeleton")
    of = parse_name(name)
    return _sequence(name, skeleton.transpose(2, 0, 1), of.get("action"), of.get("subject"), of.get("trial"), fps)


def parse_name(name: str) -> dict[str, int]:
    """Parse action, subject and trial from "aA_sS_tT"; empty for another name."""
    match = _NAME.fullmatch(name)
    return dict(zip(("action", "subject", "trial"), map(int, match.groups()), strict=True)) if match else {}


def read_utd_mhad_npz(path: str | Path, fps: float = FPS) -> list[SkeletonSequence]:
    """Read all sequences of `utd_mhad_skeletons.npz` (xyz, length, action, subject, trial).

    Raises:
        DeviceError: There is no such file.
        InputError: It is corrupt, or its arrays contradict each other.
    """
    path = Path(path)
    arrays = load_npz(path, ("xyz", "length", "action", "subject", "trial"))
    ranges = {"action": (1, len(CLASSES)), "subject": (1, 8), "trial": (1, 99)}
    parts = split_frames(path, arrays, 20, ranges)
    rows = zip(parts, arrays["action"], arrays["subject"], arrays["trial"], strict=True)
    return [_sequence(f"a{a}_s{s}_t{t}", part, int(a), int(s), int(t), fps) for part, a, s, t in rows]


def _sequence(
    name: str, xyz: np.ndarray, action: int | None, subject: int | None, trial: int | None, fps: float
) -> SkeletonSequence:
    meta: dict[str, Any] = {"format": "utd_mhad", "fps": fps}
    if action is not None and 1 <= action <= len(CLASSES):
        meta.update(action=action, subject=subject, trial=trial, label_name=CLASSES[action - 1])
    ordered = xyz[None][:, :, TO_KINECT_V1]  # (1, T, 20, 3), UTD-MHAD's order to the SDK's
    up = gravity.up_from_angles(ROLL_DEG, PITCH_DEG)
    return from_kinect(name, ordered, "kinect_v1_20", stamps_at(fps, len(xyz)), label=action, meta=meta, up=up)


class UtdMhad(PeopleSource):
    """Split "subject", the official one: odd subjects train (431 clips), even ones test (430).

    The root holds `utd_mhad_skeletons.npz`, or the published `aA_sS_tT_skeleton.mat` in any folders. Its depth maps and
    videos are not read.
    """

    title: ClassVar = "UTD-MHAD"
    classes = CLASSES
    people: ClassVar = tuple(range(1, 9))
    archive: ClassVar = "utd_mhad_skeletons.npz"
    pattern: ClassVar = r"(a\d+_s\d+_t\d+)_skeleton\.mat"
    read_archive: ClassVar = staticmethod(read_utd_mhad_npz)
    read_file: ClassVar = staticmethod(read_utd_mhad_mat)

    def parse(self, path: Path) -> dict[str, Any]:
        """Parse the metadata from the name of a published file."""
        return parse_name(path.stem.lower().removesuffix("_skeleton"))
