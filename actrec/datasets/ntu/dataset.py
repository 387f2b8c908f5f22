"""NTU RGB+D (Shahroudy et al., CVPR 2016) and NTU RGB+D 120 (Liu et al., TPAMI 2019), from their published files."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actrec.datasets.base import Clip, Entry, Kind, Source, find_files, unreadable_folder_error
from actrec.datasets.ntu.cameras import DEPTH, cameras_of, ntu_frames
from actrec.datasets.ntu.skeletons import ACTIONS, COLOR_SIZE, NAME, BodyCleaning, clean, parse_name, read_ntu_skeleton
from actrec.datasets.video_streams import ColorVideo, VideoConfig, joint_streams
from actrec.skeleton.sequence import SkeletonSequence, read_text
from actrec.types import RgbdFrame
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import DeviceError, InputError

SUBJECTS_60 = frozenset({1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38})
"""Training subjects (20 of 40) of "cross_subject" in NTU RGB+D."""

SUBJECTS_120 = SUBJECTS_60 | {
    45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89, 91, 92, 93, 94, 95,
    97, 98, 100, 103,
}  # fmt: skip
"""Training subjects (53 of 106) of "cross_subject" in NTU RGB+D 120."""

CAMERAS = frozenset({2, 3})
"""Training cameras of "cross_view"."""

_VIDEO = re.compile(rf"({NAME.pattern})_rgb\.(?:avi|mp4)", re.IGNORECASE)
_LIST_HEAD = re.compile(r"(\d+) of the captured samples")
_LARGEST = {"setup": 32, "camera": 3, "subject": 106, "replication": 2, "action": len(ACTIONS)}


@dataclass(frozen=True)
class NtuConfig(BodyCleaning, VideoConfig):
    """Options of NTU RGB+D: body cleaning as in the literature, and video scaling."""

    incomplete: str = setting(
        "listed",
        "samples with missing skeletons: skip the samples in the dataset's own list (in the root), or keep all",
        choices=("listed", "keep"),
    )


class Ntu60(Source):
    """NTU RGB+D: 60 actions by 40 subjects before 3 cameras, 56,880 samples of which 302 are incomplete.

    The root holds, in any folders, `SsssCcccPpppRrrrAaaa.skeleton`; color videos (`…_rgb.avi`, .mp4) and folders of
    depth maps (named as the sample), if available. Samples of NTU RGB+D 120 are ignored.
    Splits: "cross_subject" (40,091 train, 16,487 test) and "cross_view" (cameras 2 and 3: 37,646 train, 18,932 test).
    Options are the fields of `NtuConfig`.
    """

    splits: ClassVar = ("cross_subject", "cross_view")
    classes: tuple[str, ...] = ACTIONS[:60]
    lists: ClassVar[tuple[str, ...]] = (
        "NTU_RGBD_samples_with_missing_skeletons.txt",
        "NTU_RGBD120_samples_with_missing_skeletons.txt",  # contains the names of NTU RGB+D 60 too
        "samples_with_missing_skeletons.txt",  # older name of the first
    )
    training_subjects: ClassVar = SUBJECTS_60

    def __init__(self, root: str | Path, **options: Any):
        super().__init__(root)
        self.config = config.build(NtuConfig, options)

    def entries(self) -> list[Entry]:
        """Return every sample, by name, without the listed incomplete ones; raises DeviceError without that list."""
        found = find_samples(self.root)
        skipped = self._incomplete()
        metas = {name: _sample_meta(files["skeleton"]) for name, files in found.items() if name not in skipped}
        return [
            Entry(name, meta["action"] - 1, meta, found[name])
            for name, meta in metas.items()
            if meta["action"] <= len(self.classes)
        ]

    def read(self, entry: Entry) -> Clip:
        """Return the cleaned bodies, their pixels in the mirrored-back image, and color if there is a video."""
        sequence = self._sequence(entry)
        streams = joint_streams(self._video(entry, sequence), sequence.pixels, COLOR_SIZE)
        return Clip(entry.name, entry.label, sequence.stamps_ns, sequence.bodies, streams)

    def frames(self, entry: Entry) -> Iterator[RgbdFrame]:
        """Yield color, and depth if there are depth maps, registered with cameras fitted to the joints."""
        sequence = self._sequence(entry)
        video = self._video(entry, sequence)
        if video is None:
            raise InputError(f"'{entry.name}' has no color video: put {entry.name}_rgb.avi into '{self.root}'")
        return ntu_frames(entry.files["skeleton"], video, entry.files.get("depth"))

    def camera_offset(self, entry: Entry) -> np.ndarray:
        """Return the offset from the depth camera (joints) to the color camera (images), some centimeters."""
        return cameras_of(entry.files["skeleton"]).offset

    def part(self, entry: Entry, split: str) -> str:
        """Return the part of an entry in a split."""
        self.check(split)
        if split == "cross_subject":
            return "train" if entry.meta["subject"] in self.training_subjects else "test"
        return "train" if entry.meta["camera"] in CAMERAS else "test"

    def _sequence(self, entry: Entry) -> SkeletonSequence:
        file = entry.files["skeleton"]
        sequence = clean(read_ntu_skeleton(file), self.config)
        if not len(sequence.bodies):
            remedy = "" if self.config.incomplete == "listed" else ": read the dataset with incomplete='listed'"
            raise InputError(f"'{file}' has no body in {len(sequence)} frames{remedy}")
        return sequence

    def _video(self, entry: Entry, sequence: SkeletonSequence) -> ColorVideo | None:
        if "color" not in entry.files:
            return None
        # Published images are mirrored; the sequence's pixels refer to the mirrored-back image.
        return ColorVideo(entry.files["color"], sequence.stamps_ns, self.config, mirror=True)

    def _incomplete(self) -> frozenset[str]:
        if self.config.incomplete == "keep":
            return frozenset()
        path = next((self.root / name for name in self.lists if (self.root / name).is_file()), None)
        if path is None:
            raise DeviceError(
                f"'{self.root}' has no {self.lists[0]}, the dataset's list of incomplete samples: copy it there from "
                "github.com/shahroudy/NTURGB-D, or keep them with incomplete=keep (--option)"
            )
        return read_list(path)


class Ntu120(Ntu60):
    """NTU RGB+D 120: 120 actions by 106 subjects in 32 setups, 114,480 samples of which 535 are incomplete.

    The root is as for `Ntu60`, with the samples of both. Splits: "cross_subject" (63,026 train, 50,919 test) and
    "cross_setup" (train on even setups: 54,468; test on odd: 59,477).
    """

    splits: ClassVar = ("cross_subject", "cross_setup")
    includes: ClassVar = ("ntu60",)
    classes = ACTIONS
    lists: ClassVar[tuple[str, ...]] = ("NTU_RGBD120_samples_with_missing_skeletons.txt",)
    training_subjects: ClassVar = SUBJECTS_120

    def part(self, entry: Entry, split: str) -> str:
        """Return the part of an entry in a split."""
        self.check(split)
        if split == "cross_setup":
            return "test" if int(entry.meta["setup"]) % 2 else "train"
        return super().part(entry, split)


def read_list(path: Path) -> frozenset[str]:
    """Read a published list of samples with missing skeletons: a count, then one name a line.

    Raises:
        DeviceError: The file is missing.
        InputError: A line is not a sample name or a duplicate, or the count does not match.
    """
    lines = read_text(path).splitlines()
    promised = [int(match[1]) for line in lines if (match := _LIST_HEAD.match(line))]
    begin = next((i for i, line in enumerate(lines) if NAME.fullmatch(line.strip())), len(lines))
    names: set[str] = set()
    for number, line in enumerate(lines[begin:], start=begin + 1):
        name = line.strip()
        if not name:
            continue
        if not NAME.fullmatch(name):
            raise InputError(f"'{path}' line {number}: '{name[:40]}' is not a sample name; copy the list again")
        if name in names:
            raise InputError(f"'{path}' line {number}: {name} is listed twice; copy the list again")
        names.add(name)
    if not names or (promised and promised[0] != len(names)):
        expected = f", its first line expects {promised[0]}" if promised else ""
        raise InputError(f"'{path}' names {len(names)} samples{expected}: it is truncated; copy the list again")
    return frozenset(names)


def find_samples(root: Path) -> dict[str, dict[str, Path]]:
    """Return the files of each sample below `root` by kind: skeleton, color, and the folder of depth maps.

    Full depth maps are preferred to masked ones. Folders of depth maps are not listed: they hold millions of files.

    Raises:
        DeviceError: There is no such folder, or no `.skeleton` file in it.
        InputError: A `.skeleton` file has another name, or a sample exists twice.
    """

    def kind_of(path: Path) -> Kind:
        if path.name.startswith("."):  # "._*" are of macOS
            return None
        if path.suffix == ".skeleton":
            if not NAME.fullmatch(path.stem):
                raise InputError(f"'{path}' is not named SsssCcccPpppRrrrAaaa.skeleton; move it elsewhere")
            return path.stem, "skeleton"
        match = _VIDEO.fullmatch(path.name)
        return (match[1].upper(), "color") if match else None

    def kind_of_folder(path: Path) -> Kind:
        if not NAME.fullmatch(path.name) or not _holds_depth(path):
            return None
        return path.name, "masked" if "masked" in path.parent.name.lower() else "depth"

    samples = {name: files for name, files in find_files(root, kind_of, kind_of_folder).items() if "skeleton" in files}
    if not samples:
        raise DeviceError(f"'{root}' holds no .skeleton file; give the folder that contains nturgb+d_skeletons")
    for files in samples.values():
        if "masked" in files:
            files.setdefault("depth", files.pop("masked"))
    return samples


def _holds_depth(folder: Path) -> bool:
    """Return whether a folder is empty or contains depth maps (checks its first files only)."""
    try:
        with os.scandir(folder) as inside:
            first = [item.name for item in islice(inside, 8)]
        return not first or any(DEPTH.fullmatch(name) for name in first)
    except OSError as error:
        raise unreadable_folder_error(error) from error


def _sample_meta(path: Path) -> dict[str, int]:
    """Return setup, camera, subject, replication and action from a file name, checked against NTU RGB+D 120."""
    meta = parse_name(path.stem)
    for key, value in meta.items():
        if not 1 <= value <= _LARGEST[key]:
            raise InputError(f"'{path}' has {key} {value}, but NTU RGB+D 120 has 1 to {_LARGEST[key]}; move it away")
    return meta
