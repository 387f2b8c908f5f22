"""HDM05 (Müller et al., University of Bonn, 2007), cut into eleven classes: motion capture of five actors.

Recorded at 120 Hz; every fourth frame is read. Classes and the split by actor come from Zhang and others,
"JointLearning-HDM05": cuts that begin and end with the action.
"""

import re
from pathlib import Path
from typing import Any, ClassVar

from actrec.datasets.archive import PeopleSource
from actrec.datasets.base import Clip, Entry, find_files
from actrec.recordings.motion_capture import AMC_FPS, motion_sequence, read_amc
from actrec.skeleton.layouts import ASF_31
from actrec.skeleton.sequence import SkeletonSequence, load_npz, split_frames, stamps_at
from actrec.utils.errors import DeviceError, InputError

STEP = 4
FPS = AMC_FPS / STEP

CLASSES = (
    "depositFloorR", "elbowToKnee1RepsLelbowStart", "grabHighR", "hopBothLegs1hops", "jogLeftCircle4StepsRstart",
    "kickLFront1Reps", "lieDownFloor", "rotateArmsBothBackward1Reps", "sneak2StepsLStart", "squat1Reps",
    "throwBasketball",
)  # fmt: skip

ACTORS = ("bd", "bk", "dg", "mm", "tr")
TESTED = ("mm", "tr")
_NAME = re.compile(r"HDM_([a-z]+)_(\w+)_(\d+)_120", re.IGNORECASE)


def read_hdm05_npz(path: str | Path, fps: float = FPS) -> list[SkeletonSequence]:
    """Read all sequences of `hdm05_eleven_skeletons.npz` (xyz in m, length, action, names, actor, number)."""
    path = Path(path)
    arrays = load_npz(path, ("xyz", "length", "action", "names", "actor", "number"))
    parts = split_frames(path, arrays, len(ASF_31), {"action": (0, len(CLASSES) - 1), "number": (0, 999)})
    names, actors = ([str(value) for value in arrays[key].reshape(-1)] for key in ("names", "actor"))
    if tuple(names) != CLASSES or len(actors) != len(parts) or not set(actors) <= set(ACTORS):
        raise InputError(f"'{path}': names or actor are not of HDM05's eleven classes; copy it again")
    sequences = []
    for part, action, actor, number in zip(parts, arrays["action"], actors, arrays["number"], strict=True):
        name = f"hdm_{actor}_{CLASSES[action].lower()}_{number:03d}_120"
        of = {"action": int(action) + 1, "actor": actor, "number": int(number), "label_name": CLASSES[action]}
        meta = {"format": "hdm05", "fps": fps, **of}
        sequences.append(motion_sequence(name, part, ASF_31.name, stamps_at(fps, len(part)), meta, int(action) + 1))
    return sequences


class Hdm05(PeopleSource):
    """Split "actor", the authors': bd, bk and dg train (188 clips), mm and tr test (99).

    The root holds `hdm05_eleven_skeletons.npz`, or the published `HDM_ACTOR_CLASS_NNN_120.amc` and the actors'
    `HDM_ACTOR.asf` in any folders.
    """

    title: ClassVar = "HDM05"
    license: ClassVar = "CC BY-SA 3.0: attribution, share alike"
    classes = CLASSES
    splits: ClassVar = ("actor",)
    people: ClassVar = ACTORS
    person: ClassVar = "actor"
    keys: ClassVar = ("action", "actor", "number")
    archive: ClassVar = "hdm05_eleven_skeletons.npz"
    pattern: ClassVar = rf"(HDM_[a-z]+_(?:{'|'.join(CLASSES)})_\d+_120)\.amc"  # cuts of other classes are ignored
    read_archive: ClassVar = staticmethod(read_hdm05_npz)

    def parse(self, path: Path) -> dict[str, Any]:
        """Parse the metadata from the name of a published file."""
        match = _NAME.match(path.name)
        assert match is not None
        return {"action": CLASSES.index(match[2]) + 1 if match[2] in CLASSES else 0, "actor": match[1].lower(),
                "number": int(match[3])}  # fmt: skip

    def published(self) -> list[Entry]:
        """Return every item of the published files, with the actor's skeleton as file "bones"."""
        entries = super().published()
        found = find_files(self.root, lambda path: (str(path), "bones") if path.suffix.lower() == ".asf" else None)
        bones = {kinds["bones"].stem.lower(): kinds["bones"] for kinds in reversed(found.values())}
        for entry in entries:
            if (wanted := f"hdm_{entry.meta['actor']}") not in bones:
                raise DeviceError(
                    f"'{self.root}' holds no {wanted.upper()}.asf, the skeleton of '{entry.name}': copy it there"
                )
        return [Entry(e.name, e.label, e.meta, {**e.files, "bones": bones[f"hdm_{e.meta['actor']}"]}) for e in entries]

    def part(self, entry: Entry, split: str) -> str:
        """Return the part of an item in a split."""
        self.check(split)
        return "test" if entry.meta["actor"] in TESTED else "train"

    def read_published(self, entry: Entry) -> Clip:
        """Read the clip of a published item."""
        sequence = read_amc(entry.files["skeleton"], AMC_FPS, entry.files["bones"], STEP)
        return Clip(entry.name, entry.label, sequence.stamps_ns, sequence.bodies, sequence.streams)
