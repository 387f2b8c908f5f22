"""CAD-60 (Sung et al., ICRA 2012): long NITE recordings of 4 people in kitchen, bathroom, bedroom, living room, office.

A folder `data1` … `data4`, one a person, holds `activityLabel.txt` (`<number>,<activity>,…`, ended by END) and for each
recording `<number>.txt`: rows of frame number, then for 11 joints orientation (9 values and confidence) and position
(x, y, z in mm, confidence), then the position of 4 more joints; ended by END.

The skeletons are mirror images, as OpenNI makes them from mirrored depth: the three right-handed people phone, drink
and write with the "left" hand, the left-handed one (person 3) with the "right" one. The reader mirrors them back.

The dataset has no stamps, but frame numbers; the authors recorded about 45 s an activity, which at the Kinect's 30 Hz
are the 1,300 to 1,900 frames of most recordings.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actrec.datasets.archive import PeopleSource, files_by_name, parse_table
from actrec.datasets.base import Entry
from actrec.skeleton import layouts
from actrec.skeleton.sequence import SkeletonSequence, from_kinect, load_npz, read_text, split_frames, stamps_at
from actrec.types import NANOSECONDS
from actrec.utils import gravity
from actrec.utils.errors import InputError

FPS = 30.0

ROLL_DEG, PITCH_DEG = -0.9, 3.8
"""Mean mounting of the cameras of all rooms (`gravity.up_from_angles`), which the dataset does not publish: the mean of
the people's axes and of the floor under their feet, which differ by 7°."""

CLASSES = (
    "still", "talking on the phone", "writing on whiteboard", "drinking water", "rinsing mouth with water",
    "brushing teeth", "wearing contact lenses", "talking on couch", "relaxing on couch", "cooking (chopping)",
    "cooking (stirring)", "opening pill container", "working on computer", "random",
)  # fmt: skip

ARCHIVED = (0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11, 11, 11, 12, 13, 0)
"""Class of each of the archive's 18 numbers: some activities were recorded in several rooms. The archive's "random2"
stands still: its joints move at 0.1 m/s as in "still", in "random1" at 0.4 m/s."""

JOINTS = (
    "head", "neck", "torso", "shoulder_left", "elbow_left", "shoulder_right", "elbow_right", "hip_left", "knee_left",
    "hip_right", "knee_right", "hand_left", "hand_right", "foot_left", "foot_right",
)  # fmt: skip

_ORIENTED = 11
_COLUMNS = 1 + _ORIENTED * 14 + (len(JOINTS) - _ORIENTED) * 4
_POSITIONS = np.array(
    [1 + 14 * j + 10 if j < _ORIENTED else 1 + 14 * _ORIENTED + 4 * (j - _ORIENTED) for j in range(15)]
)
"""Column of the x of each joint; y, z and the confidence follow."""

TO_MIRRORED = tuple(JOINTS.index(layouts.NITE_15.joints[v]) for v in layouts.NITE_15.mirror)
"""Index in the file of each joint of `nite_15` in the mirrored skeleton."""


def read_cad60_npz(path: str | Path, fps: float = FPS) -> list[SkeletonSequence]:
    """Read all sequences of `cad60_skeletons.npz` (xyz in m, length, action 1 to 18, subject)."""
    path = Path(path)
    arrays = load_npz(path, ("xyz", "length", "action", "subject"))
    parts = split_frames(path, arrays, len(JOINTS), {"action": (1, len(ARCHIVED)), "subject": (1, 4)})
    return [
        _sequence(f"s{s}_a{a:02d}", part, stamps_at(fps, len(part)), ARCHIVED[a - 1] + 1, int(s))
        for part, a, s in zip(parts, arrays["action"], arrays["subject"], strict=True)
    ]


def read_cad60_txt(path: str | Path, action: int | None = None, subject: int | None = None) -> SkeletonSequence:
    """Read the published `<number>.txt` of a recording; stamps follow its frame numbers.

    Raises:
        DeviceError: There is no such file.
        InputError: It is truncated or corrupt.
    """
    path = Path(path)
    lines = read_text(path).split()
    if lines[-1:] != ["END"]:
        raise InputError(f"'{path}' does not end with END: it is truncated; copy it again")
    table = parse_table(path, lines[:-1], _COLUMNS, ",")
    frames = table[:, 0]
    if not np.isfinite(frames).all() or (np.diff(frames) <= 0).any() or (frames % 1).any() or frames[-1] > 1e7:
        raise InputError(f"'{path}' is corrupt: its frame numbers do not increase; copy it again")
    xyz = table[:, _POSITIONS[:, None] + np.arange(3)] / 1000.0
    stamps = np.round((frames - frames[0]) * (NANOSECONDS / FPS)).astype(np.int64)
    return _sequence(path.stem, xyz, stamps, action, subject)


def _sequence(
    name: str, xyz: np.ndarray, stamps_ns: np.ndarray, action: int | None, subject: int | None
) -> SkeletonSequence:
    meta: dict[str, Any] = {"format": "cad60", "fps": FPS, "action": action, "subject": subject}
    if action is not None:
        meta["label_name"] = CLASSES[action - 1]
    # Not by the shoulders: at the whiteboard, people turn their backs to the sensor.
    joints = xyz[:, TO_MIRRORED] * np.array([-1.0, 1.0, 1.0])
    up = gravity.up_from_angles(ROLL_DEG, PITCH_DEG)
    return from_kinect(name, joints[None], layouts.NITE_15.name, stamps_ns, label=action, meta=meta, up=up)


class Cad60(PeopleSource):
    """Split "leave_one_out": the person of option `fold` tests, the other three train.

    The root holds `cad60_skeletons.npz`, or the published folders `data1` to `data4`.
    """

    title: ClassVar = "CAD-60"
    classes = CLASSES
    splits: ClassVar = ("leave_one_out",)
    folds: ClassVar = 4
    archive: ClassVar = "cad60_skeletons.npz"
    people: ClassVar = (1, 2, 3, 4)
    keys: ClassVar = ("action", "subject")
    pattern: ClassVar = r"(\d{10})\.txt"
    read_archive: ClassVar = staticmethod(read_cad60_npz)
    read_file: ClassVar = staticmethod(read_cad60_txt)

    def published(self) -> list[Entry]:
        """Return every recording that is listed in an `activityLabel.txt` and there."""
        entries = []
        labels: dict[Path, dict[str, int]] = {}
        for name, path in files_by_name(self.root, self.archive, self.pattern).items():
            folder = path.parent
            if folder not in labels:
                labels[folder] = read_labels(folder / "activityLabel.txt")
            if name not in labels[folder]:
                raise InputError(f"'{path}' is not listed in its activityLabel.txt; copy both again")
            if folder.name.lower() not in (known := {f"data{person}": person for person in self.people}):
                raise InputError(f"'{path}' is in folder '{folder.name}', expected {', '.join(known)}: one a person")
            meta = {"action": labels[folder][name] + 1, "subject": known[folder.name.lower()]}
            entries.append(Entry(name, labels[folder][name], meta, {"skeleton": path}))
        return entries


def read_labels(path: Path) -> dict[str, int]:
    """Read an `activityLabel.txt`: the label of each recording's number; raises InputError if it is corrupt."""
    labels: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        name, _, rest = line.strip().partition(",")
        activity = rest.split(",")[0].strip().rstrip("12")
        if name == "END":
            return labels
        if name and activity not in CLASSES:
            raise InputError(f"'{path}' line {number}: no activity '{activity}' in CAD-60; copy it again")
        if name:
            labels[name] = CLASSES.index(activity)
    raise InputError(f"'{path}' does not end with END: it is truncated; copy it again")
