"""Bandai-Namco Research Motion Datasets 1 and 2 (Kobayashi et al., 2023): motion capture of three actors at 30 Hz.

24 actions in 19 styles ("normal", "tired", …). Which actor performed a clip is not published, so the split is by style.
1,940 of the 3,076 clips raise or wave hands: balance the classes.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

from actrec.datasets.archive import PeopleSource
from actrec.recordings.motion_capture import motion_sequence, read_bvh
from actrec.skeleton.layouts import BVH_21
from actrec.skeleton.sequence import SkeletonSequence, load_npz, split_frames, stamps_at
from actrec.utils.errors import InputError

FPS = 30.0

CLASSES = (
    "bow", "bye", "byebye", "call", "dance", "dash", "guide", "kick", "punch", "raise up both hands",
    "raise up left hand", "raise up right hand", "respond", "run", "slash", "walk", "walk back", "walk left",
    "walk right", "walk turn left", "walk turn right", "wave both hands", "wave left hand", "wave right hand",
)  # fmt: skip

STYLES = (
    "active", "angry", "childish", "chimpira", "elderly", "exhausted", "feminine", "giant", "happy", "masculine",
    "masculinity", "musical", "normal", "not-confident", "old", "proud", "sad", "tired", "youthful",
)  # fmt: skip

_NAME = re.compile(r"dataset-(\d)_([a-z-]+)_([a-z-]+)_(\d+)")


def read_bandai_namco_npz(path: str | Path, fps: float = FPS) -> list[SkeletonSequence]:
    """Read all sequences of `bandai_namco_motions.npz` (xyz, length, content, contents, style, styles, dataset)."""
    path = Path(path)
    arrays = load_npz(path, ("xyz", "length", "content", "contents", "style", "styles", "dataset"))
    contents, styles = ([str(name) for name in arrays[key].reshape(-1)] for key in ("contents", "styles"))
    ranges = {"content": (0, len(contents) - 1), "style": (0, len(styles) - 1), "dataset": (1, 2)}
    parts = split_frames(path, arrays, len(BVH_21), ranges)
    if unknown := [name for name in contents if not _action(name)] + sorted({*styles} - {*STYLES}):
        raise InputError(f"'{path}': contents or styles name {unknown[0]}, which Bandai-Namco does not have")
    takes: Counter[str] = Counter()
    sequences = []
    for part, number, c, s in zip(parts, arrays["dataset"], arrays["content"], arrays["style"], strict=True):
        stem = f"dataset-{number}_{contents[c]}_{styles[s]}"
        takes[stem] += 1
        name = f"{stem}_{takes[stem]:03d}"
        of = _parse(name)
        meta = {"format": "bandai_namco", "fps": fps, "label_name": CLASSES[of["action"] - 1], **of}
        sequences.append(motion_sequence(name, part, BVH_21.name, stamps_at(fps, len(part)), meta, of["action"]))
    return sequences


def _action(content: str) -> int:
    """Return the number of the class, from 1; 0 if unknown. The short and the long dance are one class."""
    name = re.sub("-(short|long)$", "", content).replace("-", " ")
    return CLASSES.index(name) + 1 if name in CLASSES else 0


def _parse(name: str) -> dict[str, Any]:
    match = _NAME.match(name)
    assert match is not None
    return {"action": _action(match[2]), "style": match[3], "dataset": int(match[1]), "trial": int(match[4])}


class BandaiNamco(PeopleSource):
    """Split "style": every second of the sorted styles tests.

    The root holds `bandai_namco_motions.npz`, or the published `dataset-N_CONTENT_STYLE_NNN.bvh` in any folders.
    """

    title: ClassVar = "Bandai-Namco"
    license: ClassVar = "CC BY-NC 4.0: attribution, not for commercial use"
    classes = CLASSES
    splits: ClassVar = ("style",)
    people: ClassVar = STYLES
    person: ClassVar = "style"
    keys: ClassVar = ("action", "style", "dataset", "trial")
    archive: ClassVar = "bandai_namco_motions.npz"
    pattern: ClassVar = r"(dataset-\d_[a-z-]+_[a-z-]+_\d+)\.bvh"
    read_archive: ClassVar = staticmethod(read_bandai_namco_npz)
    read_file: ClassVar = staticmethod(read_bvh)

    def parse(self, path: Path) -> dict[str, Any]:
        """Parse the metadata from the name of a published file."""
        return _parse(path.name.lower())
