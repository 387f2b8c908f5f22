"""Toyota Smarthome, trimmed (Das et al., ICCV 2019): 31 activities of daily living, 18 subjects, 7 cameras."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actrec import config
from actrec.config import setting
from actrec.errors import DeviceError, InputError
from actrec.frames import RgbdFrame
from actrec.recordings.sequence import SkeletonSequence
from actrec.recordings.smarthome import CLASSES, INTRINSICS, SmarthomeConfig, parse_name, read_smarthome
from actrec_models.data.clips import Clip
from actrec_models.data.source import Entry, Source, no_folder, walk
from actrec_models.data.video_streams import ColourVideo, VideoConfig

CLASSES_CROSS_VIEW = (
    "Cutbread", "Drink.Frombottle", "Drink.Fromcan", "Drink.Fromcup", "Drink.Fromglass", "Eat.Attable", "Eat.Snack",
    "Enter", "Getup", "Leave", "Pour.Frombottle", "Pour.Fromcan", "Readbook", "Sitdown", "Takepills", "Uselaptop",
    "Usetablet", "Usetelephone", "Walk",
)  # fmt: skip
"""The 19 activities that were seen from more than one side."""
SUBJECTS = frozenset({3, 4, 6, 7, 9, 12, 13, 15, 17, 19, 25})
"""The 11 of 18 that "cross_subject" trains on."""
CAMERAS = {"cross_view_1": frozenset({1}), "cross_view_2": frozenset({1, 3, 4, 6, 7})}
"""Those that a split trains on."""
TEST_CAMERA = 2
"""Camera 5 is the validation set of both, which neither trains nor tests on."""
VIDEOS = frozenset({".mp4", ".avi"})
REFINED = "_pose3d"
"""What the names of the second release's skeletons end with."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SmarthomeSourceConfig(SmarthomeConfig, VideoConfig):
    """How Toyota Smarthome is read."""

    activities: str = setting(
        "all",
        "all 31 activities, or the 19 of the cross-view splits as the only classes",
        choices=("all", "cross_view"),
    )
    release: str = setting(
        "refined",
        "which skeletons are taken where both releases are there: those called …_pose3d.json (1.2), or the first (1.1)",
        choices=("refined", "first"),
    )


class Smarthome(Source):
    """Splits "cross_subject", "cross_view_1" and "cross_view_2".

    Root holds, in whatever folders, the skeletons (`Activity_pPP_rRR_vVV_cCC.json`, or with `_pose3d`, of the second
    release) and, where there are any, the videos of the same names (.mp4); those of depth, whose folder or file says
    so, are passed by. The cross-view splits are of 19 activities: the clips of the other 12 are in neither part. With
    `activities="cross_view"` these 19 are the only classes, as in the papers' figures; with "all" a network has 12
    outputs that the split never shows it.

    Args:
        root: Folder of the files.
        options: Of `SmarthomeSourceConfig`.

    Raises:
        ConfigError: Unknown option.
    """

    splits: ClassVar = ("cross_subject", "cross_view_1", "cross_view_2")
    measure: ClassVar = "mean_class_accuracy"

    def __init__(self, root: str | Path, **options: Any):
        super().__init__(root)
        self.config = config.build(SmarthomeSourceConfig, options)
        self.classes = CLASSES if self.config.activities == "all" else CLASSES_CROSS_VIEW

    def entries(self) -> list[Entry]:
        """Every clip whose activity is one of `classes`, by name.

        Raises:
            DeviceError: The root holds no skeletons.
            InputError: A clip lies in two files of a kind.
        """
        found = self._files()
        skeletons = self._skeletons(found)
        if not skeletons:
            raise DeviceError(f"'{self.root}' holds no skeletons named Activity_pPP_rRR_vVV_cCC.json; check the path")
        # The published lists name a few clips of an activity that is none of the 31.
        foreign = [name for name in skeletons if parse_name(name)["activity"] not in CLASSES]
        if foreign:
            logger.warning("%d clips are of no activity of Smarthome, first %s: left out", len(foreign), foreign[0])
        wanted = [name for name in skeletons if parse_name(name)["activity"] in self.classes]
        return [self._entry(name, skeletons[name], found[name]) for name in wanted]

    def read(self, entry: Entry) -> Clip:
        """Bodies tracked, those seen most first; colour, pixels in it and motion where the video is there.

        Raises:
            DeviceError: A file is not there.
            InputError: A file is truncated or corrupt, or shows nobody; names it.
        """
        sequence = read_smarthome(entry.files["skeleton"], self.config)
        size = (INTRINSICS.width, INTRINSICS.height)
        others: Any = {"pixels": sequence.pixels, "size": np.array(size, np.float32)}
        if "colour" in entry.files:
            others = self._video(entry, sequence).streams(sequence.pixels, size)
        return Clip(entry.name, entry.label, sequence.stamps_ns, sequence.bodies, others)

    def frames(self, entry: Entry) -> Iterator[RgbdFrame]:
        """The video's pictures; there is no depth."""
        if "colour" not in entry.files:
            raise self.no_pictures(entry, f"{entry.name}.mp4")
        sequence = read_smarthome(entry.files["skeleton"], self.config)
        return self._video(entry, sequence).frames(INTRINSICS)

    def part(self, entry: Entry, split: str) -> str:
        """As the base says; "" for camera 5 and for what the split's activities do not hold."""
        self.check(split)
        if split == "cross_subject":
            return "train" if entry.meta["subject"] in SUBJECTS else "test"
        if entry.meta["activity"] not in CLASSES_CROSS_VIEW:
            return ""
        if entry.meta["camera"] in CAMERAS[split]:
            return "train"
        return "test" if entry.meta["camera"] == TEST_CAMERA else ""

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """As the base has it, and what the options do to the clips."""
        return hashlib.sha256(f"{super().fingerprint(entries)} {asdict(self.config)}".encode()).hexdigest()

    def _video(self, entry: Entry, sequence: SkeletonSequence) -> ColourVideo:
        return ColourVideo(entry.files["colour"], sequence.stamps_ns, self.config)

    def _files(self) -> dict[str, dict[str, Path]]:
        """By clip, its files by kind."""
        if not self.root.is_dir():
            raise no_folder(self.root)
        found: dict[str, dict[str, Path]] = {}
        for folder, _, names in walk(self.root):
            for path in (Path(folder, name) for name in names):
                kind, meta = self._kind(path), parse_name(path.name)
                if not kind or not meta:
                    continue
                name = "{activity}_p{subject:02}_r{recording:02}_v{video:02}_c{camera:02}".format(**meta)
                other = found.setdefault(name, {}).setdefault(kind, path)
                if other != path:
                    raise InputError(f"'{path}' and '{other}' are of the same clip; remove one of them")
        return found

    def _kind(self, path: Path) -> str:
        """What a file holds; "" for depth, whose videos are published under the names of colour's."""
        suffix = path.suffix.lower()
        if suffix == ".json":
            return "refined" if path.stem.lower().endswith(REFINED) else "first"
        depth = any("depth" in part.lower() for part in path.relative_to(self.root).parts)
        return "colour" if suffix in VIDEOS and not depth else ""

    def _skeletons(self, found: dict[str, dict[str, Path]]) -> dict[str, Path]:
        """By clip, its skeletons, all of one release: the wanted one where both are there."""
        there = {kind for files in found.values() for kind in files} & {"refined", "first"}
        release = self.config.release if self.config.release in there else next(iter(there), "")
        chosen = {name: files[release] for name, files in sorted(found.items()) if release in files}
        without = [name for name, files in sorted(found.items()) if not there & files.keys()]
        if without and chosen:
            logger.warning("%d videos have no skeletons, first '%s': left out", len(without), without[0])
        lacking = sum(1 for files in found.values() if there & files.keys() and release not in files)
        if lacking:
            logger.warning("%d clips have skeletons of the other release than '%s' alone: left out", lacking, release)
        return chosen

    def _entry(self, name: str, skeleton: Path, files: dict[str, Path]) -> Entry:
        meta = parse_name(name)
        own = {"skeleton": skeleton, **{kind: path for kind, path in files.items() if kind == "colour"}}
        return Entry(name, self.classes.index(meta["activity"]), meta, own)
