"""Kinder-Gator (Aloba et al., Eurographics 2018 short papers): Kinect v1 joints at about 31 Hz with stamps.

58 actions of 10 adults and 10 children, performed freely, one take each. Clips end with the person standing still, and
most (83 %) begin with spread arms, which go down within the first second (26 frames in the median, 54 in 95 %).
Which side comes first ("your hand", "your other hand") was the person's choice. Joints are in the SDK's order and
space; the one left-handed adult (921) draws and throws with the left hand.

The camera is level: the people's axes and the floor under their feet are within 1° of it, in the mean over the people.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actrec.datasets.archive import PeopleSource, parse_table
from actrec.datasets.base import Clip, Entry
from actrec.skeleton.layouts import KINECT_V1_20, KINECT_V2_25
from actrec.skeleton.sequence import SkeletonSequence, from_kinect, load_npz, read_text, split_frames
from actrec.utils import gravity
from actrec.utils.config import setting
from actrec.utils.errors import InputError

CLASSES = (
    "bend your knee while raising your leg", "bend your other knee while raising your leg", "bow",
    "climb and imaginary ladder", "do a forward lunge", "do two jumping jacks", "draw a circle", "draw a square",
    "draw a triangle", "draw the letter a", "draw the letter c", "draw the letter k", "draw the letter m",
    "draw the letter x", "fly like a bird", "fly like an airplane", "jump", "jump as high as you can", "kick a ball",
    "kick a ball as far as you can", "kick a ball as far as you can with the other leg",
    "kick a ball with the other leg", "lift your leg to one side", "lift your leg to the other side",
    "make the letter a", "make the letter c", "make the letter k", "make the letter m", "make the letter p",
    "make the letter t", "make the letter x", "make the letter y", "point at the camera", "punch",
    "push an imaginary button in front of you", "put your hands on your hips and lean to the other side",
    "put your hands on your hips and lean to the side", "put your hands on your hips and twist",
    "raise your arm to one side", "raise your arm to the other side", "raise your hand", "raise your other hand",
    "run in place", "run in place as fast as you can", "signal someone to come here", "signal someone to stop", "swim",
    "swipe across an imaginary screen in front of you from left to right",
    "swipe across an imaginary screen in front of you from right to left", "throw a ball",
    "throw a ball as far as you can", "throw a ball as far as you can with the other arm",
    "throw a ball with your other arm", "touch your toes", "walk in place", "walk in place as fast as you can",
    "wave your hand", "wave your other hand",
)  # fmt: skip
"""The dataset's names in lower case, with spaces for hyphens."""

ADULTS = (565, 577, 604, 734, 876, 888, 921, 934, 970, 976)
CHILDREN = (103, 106, 169, 290, 337, 342, 474, 595, 644, 723)
ARMS_DOWN = 2.2
"""Distance of the wrists, in widths of the shoulders, below which the arms of the initial pose are down."""

_NAME = re.compile(r"POSE-p(\d+)_(\d+)-(.+)-\d+\.csv", re.IGNORECASE)
_NANOSECONDS_PER_MS = 1_000_000


def read_kinder_gator_csv(path: str | Path) -> SkeletonSequence:
    """Read `POSE-p<subject>_<order>-<action>-<time>.csv`: a header, then stamp (ms), 20 × (x, y, z) m, subject, action.

    Raises:
        DeviceError: There is no such file.
        InputError: It is truncated or corrupt, or its stamps do not increase.
    """
    path = Path(path)
    header, *lines = read_text(path).splitlines() or [""]
    names = header.split(",")
    if names[:2] != ["Timestamp", "HipCenterX"] or names[61:63] != ["User-ID", "Action"]:
        raise InputError(f"'{path}' has no header of a Kinder-Gator file; copy it again")
    cut = next((i for i, line in enumerate(lines, 2) if line.strip() and line.count(",") < 62), None)
    if cut is not None:
        raise InputError(f"'{path}' line {cut} has {lines[cut - 2].count(',') + 1} columns, expected 63")
    table = parse_table(path, [",".join(line.split(",")[:61]) for line in lines if line.strip()], 61, ",")
    stamps = np.round((table[:, 0] - table[0, 0]) * _NANOSECONDS_PER_MS)
    return _sequence(path, table[:, 1:].reshape(-1, 20, 3), stamps, parse_name(path) or {"name": path.stem})


def parse_name(path: Path) -> dict[str, Any]:
    """Parse name, subject, order and action (from 1; 0 if unknown) of a published file; empty for another name."""
    match = _NAME.fullmatch(path.name)
    if not match:
        return {}
    action = match[3].lower().replace("-", " ").strip()
    number = CLASSES.index(action) + 1 if action in CLASSES else 0
    return {"name": f"p{match[1]}_{match[2]}", "action": number, "subject": int(match[1]), "order": int(match[2])}


def read_kinder_gator_npz(path: str | Path, fps: float = 0.0) -> list[SkeletonSequence]:
    """Read all sequences of `kinder_gator_skeletons.npz` (xyz, length, subject, action, order, seconds, names).

    The clips have stamps; `fps` is not used. Raises like `actrec.skeleton.sequence.load_npz` and `split_frames`.
    """
    path = Path(path)
    arrays = load_npz(path, ("xyz", "length", "subject", "action", "order", "seconds", "names"))
    ranges = {"subject": (1, 999), "action": (0, len(CLASSES) - 1), "order": (1, len(CLASSES))}
    parts = split_frames(path, arrays, len(KINECT_V1_20), ranges)
    names = [str(name).lower().replace("-", " ").strip() for name in arrays["names"].reshape(-1)]
    if names != list(CLASSES) or arrays["seconds"].shape != (len(arrays["xyz"]),):
        raise InputError(f"'{path}': names or seconds are not Kinder-Gator's; copy it again")
    stamps = np.split(np.round(arrays["seconds"].astype(np.float64) * 1e9), np.cumsum(arrays["length"])[:-1])
    return [
        _sequence(
            path, part, stamp, {"name": f"p{s}_{o:02d}", "action": int(a) + 1, "subject": int(s), "order": int(o)}
        )
        for part, stamp, s, a, o in zip(
            parts, stamps, arrays["subject"], arrays["action"], arrays["order"], strict=True
        )
    ]


def _sequence(path: Path, xyz: np.ndarray, stamps_ns: np.ndarray, of: dict[str, Any]) -> SkeletonSequence:
    # Two frames that came late have one stamp, after a gap of two frames: the first belongs into the gap.
    twice = np.flatnonzero(np.diff(stamps_ns) == 0)
    stamps_ns[twice] = (stamps_ns[np.maximum(twice - 1, 0)] + stamps_ns[twice + 1]) // 2
    if not np.isfinite(stamps_ns).all() or (np.diff(stamps_ns) <= 0).any():
        raise InputError(f"'{path}': the stamps of {of['name']} do not increase; copy it again")
    meta = {"format": "kinder_gator", **of, "people": "adults" if of.get("subject") in ADULTS else "children"}
    label = of.get("action") or None
    if label:
        meta["label_name"] = CLASSES[label - 1]
    return from_kinect(
        of["name"],
        xyz[None],
        KINECT_V1_20.name,
        stamps_ns,
        label=label,
        meta=meta,
        up=np.array(gravity.LEVEL, np.float32),
    )


@dataclass(frozen=True)
class KinderGatorConfig:
    """Options of Kinder-Gator."""

    spread_arms: str = setting("keep", "frames before the arms are down: keep or cut", choices=("keep", "cut"))
    people: str = setting("all", "clips of all people, of adults or of children", choices=("all", "adults", "children"))


class KinderGator(PeopleSource):
    """Split "subject": every second of the sorted subjects tests (579 of 1,159 clips). There is no official split.

    The root holds `kinder_gator_skeletons.npz`, or the published `POSE-p*.csv` in any folders. Options are the fields
    of `KinderGatorConfig`.
    """

    title: ClassVar = "Kinder-Gator"
    classes = CLASSES
    archive: ClassVar = "kinder_gator_skeletons.npz"
    people: ClassVar = tuple(sorted(ADULTS + CHILDREN))
    keys: ClassVar = ("action", "subject", "order", "people")
    pattern: ClassVar = r"POSE-(p\d+_\d+)-.+-\d+\.csv"
    config_class: ClassVar = KinderGatorConfig
    read_archive: ClassVar = staticmethod(read_kinder_gator_npz)
    read_file: ClassVar = staticmethod(read_kinder_gator_csv)

    def parse(self, path: Path) -> dict[str, Any]:
        """Parse the metadata from the name of a published file."""
        of = parse_name(path)
        of["people"] = "adults" if of["subject"] in ADULTS else "children"
        return {key: of[key] for key in self.keys}

    def read(self, entry: Entry) -> Clip:
        """Read the clip of an item, from the frame in which the arms are down with option `spread_arms` "cut"."""
        clip = super().read(entry)
        body, index = clip.bodies[0], KINECT_V2_25.index
        wrists, shoulders = (
            np.linalg.norm(body[:, index[f"{joint}_left"]] - body[:, index[f"{joint}_right"]], axis=-1)
            for joint in ("wrist", "shoulder")
        )
        down = np.flatnonzero(wrists < ARMS_DOWN * np.nanmedian(shoulders))
        if self.config.spread_arms == "keep" or not len(down):
            return clip
        return replace(clip, stamps_ns=clip.stamps_ns[down[0] :], bodies=clip.bodies[:, down[0] :])

    def entries(self) -> list[Entry]:
        """Return the items of the people of option `people`."""
        chosen = self.config.people
        return [entry for entry in super().entries() if chosen in ("all", entry.meta["people"])]
