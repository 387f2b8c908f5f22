"""Northwestern-UCLA Multiview Action 3D (Wang et al., CVPR 2014): Kinect v1 joints, three views.

10 actions, 10 subjects. The dataset has no stamps. In "walk around" the distance between the ankles swings 0.128 times
a frame (median of 106 sequences): at the default of 12 Hz this is 1.5 steps a second, a slow indoor walk.
"""

import json
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actrec.datasets.archive import ArchiveSource, archived, files_by_name
from actrec.datasets.base import Clip, Entry
from actrec.skeleton.sequence import SkeletonSequence, from_kinect, load_npz, read_text, split_frames, stamps_at
from actrec.utils import gravity
from actrec.utils.errors import InputError

FPS = 12.0

MOUNTINGS = {1: (0.2, 13.7), 2: (2.2, 15.8), 3: (2.2, 18.4)}
"""View to roll and pitch of its camera in degrees (`gravity.up_from_angles`), which the dataset does not publish: the
mean of the people's axes and of the floor under their feet, which differ by up to 4°."""

CLASSES = (
    "pick up with one hand", "pick up with two hands", "drop trash", "walk around", "sit down", "stand up",
    "donning", "doffing", "throw", "carry",
)  # fmt: skip

_NAME = re.compile(r"a(\d+)_s(\d+)_e(\d+)_v(\d+)")


def read_nucla_json(path: str | Path, fps: float = FPS) -> SkeletonSequence:
    """Read one sequence as published: {"file_name", "skeletons": [T][20][3] meters, "label": 1..10}.

    Raises:
        DeviceError: There is no such file.
        InputError: It is truncated, corrupt or of another format.
    """
    path = Path(path)
    try:
        content = json.loads(read_text(path))
        xyz = np.asarray(content["skeletons"], dtype=np.float64)
        label = int(content["label"])
        name = str(content.get("file_name", path.stem))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"'{path}' is corrupt or not an N-UCLA skeleton file: {error}; copy it again") from error
    if xyz.ndim != 3 or xyz.shape[1:] != (20, 3) or not len(xyz):
        raise InputError(f"'{path}': skeletons is {list(xyz.shape)}, expected [frames, 20, 3]")
    return _sequence(name, xyz, label, fps)


def read_nucla_npz(path: str | Path, fps: float = FPS) -> list[SkeletonSequence]:
    """Read all sequences of `nucla_skeletons.npz` (xyz, length, name, label; `is_train` goes to `meta`)."""
    path = Path(path)
    arrays = load_npz(path, ("xyz", "length", "name", "label", "is_train"))
    parts = split_frames(path, arrays, 20, {"label": (1, len(CLASSES)), "is_train": (0, 1)})
    names = [str(name) for name in arrays["name"].reshape(-1)]
    if len(names) != len(parts) or not all(map(parse_name, names)):
        raise InputError(f"'{path}': name does not hold {len(parts)} names aAA_sSS_eEE_vVV")
    return [
        _sequence(name, part, int(label), fps, is_train=bool(train))
        for name, part, label, train in zip(names, parts, arrays["label"], arrays["is_train"], strict=True)
    ]


def parse_name(name: str) -> dict[str, int]:
    """Parse action, subject, episode and view from "aAA_sSS_eEE_vVV"; empty for another name."""
    match = _NAME.fullmatch(name)
    return dict(zip(("action", "subject", "episode", "view"), map(int, match.groups()), strict=True)) if match else {}


def _sequence(name: str, xyz: np.ndarray, label: int, fps: float, **more: Any) -> SkeletonSequence:
    meta: dict[str, Any] = {"format": "nucla", "fps": fps, **more}
    if 1 <= label <= len(CLASSES):
        meta["label_name"] = CLASSES[label - 1]
    meta.update(parse_name(name))
    mounting = MOUNTINGS.get(meta.get("view", 0))
    up = None if mounting is None else gravity.up_from_angles(*mounting)
    return from_kinect(name, xyz[None], "kinect_v1_20", stamps_at(fps, len(xyz)), label=label, meta=meta, up=up)


KEYS = ("action", "subject", "episode", "view")
ACTIONS = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)
"""Action numbers of the ten classes in file names."""


class Nucla(ArchiveSource):
    """Split "view", the official one: views 1 and 2 train (1,020 clips), view 3 tests (464).

    The root holds `nucla_skeletons.npz`, or the published sequences `aAA_sSS_eEE_vVV.json` in any folders.
    """

    classes = CLASSES
    splits: ClassVar = ("view",)
    archive: ClassVar = "nucla_skeletons.npz"

    def read_all(self) -> list[tuple[Entry, Clip]]:
        """Return every item of the archive with its clip."""
        path = self.root / self.archive
        return archived(path, read_nucla_npz(path), KEYS)

    def published(self) -> list[Entry]:
        """Return every item of the published files."""
        files = files_by_name(self.root, self.archive, r"(a\d+_s\d+_e\d+_v\d+)\.json")
        entries = []
        for name, path in files.items():
            meta = parse_name(name)
            if meta["action"] not in ACTIONS or not 1 <= meta["view"] <= 3:
                raise InputError(f"'{path}' is of an action or a view that N-UCLA does not have; move it elsewhere")
            entries.append(Entry(name, ACTIONS.index(meta["action"]), meta, {"skeleton": path}))
        return entries

    def read_published(self, entry: Entry) -> Clip:
        """Read the clip of a published file; raise if the name or label in it differs from its file name."""
        path = entry.files["skeleton"]
        sequence = read_nucla_json(path)
        if (sequence.name, sequence.label) != (entry.name, entry.label + 1):
            raise InputError(
                f"'{path}' contains {sequence.name} of class {sequence.label}, but its file name is "
                f"{entry.name} of class {entry.label + 1}; copy it again"
            )
        return Clip(entry.name, entry.label, sequence.stamps_ns, sequence.bodies, sequence.streams)

    def part(self, entry: Entry, split: str) -> str:
        """Return the part of an item in a split."""
        self.check(split)
        return "test" if entry.meta["view"] == 3 else "train"
