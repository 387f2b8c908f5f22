"""Florence 3D Actions (Seidenari et al., CVPRW 2013): 15 joints of a Kinect, 9 actions of 10 people, 215 clips.

`Florence_dataset_WorldCoordinates.txt` has a line a frame: number of the video, of the actor and of the action, then x,
y, z in mm of 15 joints, in the order of the dataset's readme. The readme calls the ends of arms and legs wrist and
ankle, as `nite_15` has them. Which side x points to is not stated: it follows from the people, who face the sensor.

The dataset has no stamps and states no frame rate. Clips of 8 to 35 frames show whole actions, which fits a third of
the Kinect's 30 Hz and no more.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actrec.datasets.archive import PeopleSource, facing_sensor, read_table
from actrec.datasets.base import find_files
from actrec.skeleton.layouts import NITE_15
from actrec.skeleton.sequence import SkeletonSequence, from_kinect, stamps_at
from actrec.utils.errors import InputError

FPS = 10.0

CLASSES = (
    "wave", "drink from a bottle", "answer phone", "clap", "tight lace", "sit down", "stand up", "read watch", "bow",
)  # fmt: skip

JOINTS = (
    "head", "neck", "torso", "shoulder_left", "elbow_left", "hand_left", "shoulder_right", "elbow_right", "hand_right",
    "hip_left", "knee_left", "foot_left", "hip_right", "knee_right", "foot_right",
)  # fmt: skip

TO_NITE = tuple(JOINTS.index(joint) for joint in NITE_15.joints)


def read_florence3d(path: str | Path, fps: float = FPS) -> list[SkeletonSequence]:
    """Read all videos of `Florence_dataset_WorldCoordinates.txt`.

    Raises:
        DeviceError: There is no such file.
        InputError: It is truncated or corrupt, or a video has several actors or actions.
    """
    path = Path(path)
    table = read_table(path, 3 + 3 * len(JOINTS))
    for column, (name, most) in enumerate({"video": 9999, "actor": 10, "action": len(CLASSES)}.items()):
        if len(wrong := np.flatnonzero(~np.isin(table[:, column], np.arange(1, most + 1)))):
            value = table[wrong[0], column]
            raise InputError(f"'{path}' line {wrong[0] + 1}: {name} is {value:g}, expected 1 to {most}; copy it again")
    sequences = []
    for rows in np.split(table, np.flatnonzero(np.diff(table[:, 0])) + 1):
        video, actor, action = (int(value) for value in rows[0, :3])
        if (rows[:, :3] != rows[0, :3]).any():
            raise InputError(f"'{path}': video {video} has several actors or actions; copy it again")
        joints = rows[:, 3:].reshape(-1, len(JOINTS), 3)[:, TO_NITE] / 1000.0
        joints = facing_sensor(joints, NITE_15.index["shoulder_left"], NITE_15.index["shoulder_right"])
        meta = {"format": "florence3d", "fps": fps, "action": action, "subject": actor, "trial": video}
        stamps = stamps_at(fps, len(joints))
        sequences.append(from_kinect(f"video{video:03d}", joints[None], NITE_15.name, stamps, label=action, meta=meta))
    return sequences


class Florence3d(PeopleSource):
    """Split "leave_one_out", the official one: the actor of option `fold` tests, the other nine train.

    The root holds `Florence_dataset_WorldCoordinates.txt`, in any folder.
    """

    title: ClassVar = "Florence 3D"
    classes = CLASSES
    splits: ClassVar = ("leave_one_out",)
    folds: ClassVar = 10
    people: ClassVar = tuple(range(1, 11))
    archive: ClassVar = "Florence_dataset_WorldCoordinates.txt"
    read_archive: ClassVar = staticmethod(read_florence3d)

    def __init__(self, root: str | Path, **options: Any):
        super().__init__(root, **options)
        if not self.packed and self.root.is_dir():  # as downloaded, in Florence_3d_actions
            found = find_files(self.root, lambda path: ("", "skeleton") if path.name == self.archive else None)
            self.root = found[""]["skeleton"].parent if found else self.root
