"""NTU RGB+D (Shahroudy et al., CVPR 2016) and NTU RGB+D 120 (Liu et al., TPAMI 2019), from their own files."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actrec.datasets.base import Clip, Entry, Source
from actrec.datasets.ntu.actions import ACTIONS
from actrec.datasets.ntu.files import NtuFiles, read_list, sample_meta
from actrec.datasets.ntu.frames import cameras_of, ntu_frames
from actrec.datasets.ntu.skeletons import COLOR_SIZE, BodyCleaning, clean, read_ntu_skeleton
from actrec.datasets.video_streams import ColorVideo, VideoConfig
from actrec.skeleton.sequence import SkeletonSequence
from actrec.types import RgbdFrame
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import DeviceError, InputError

SUBJECTS_60 = frozenset({1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38})
"""The 20 of 40 subjects that "cross_subject" of NTU RGB+D trains on."""

SUBJECTS_120 = SUBJECTS_60 | {
    45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89, 91, 92, 93, 94, 95,
    97, 98, 100, 103,
}  # fmt: skip
"""The 53 of 106 subjects that "cross_subject" of NTU RGB+D 120 trains on."""

CAMERAS = frozenset({2, 3})
"""Those that "cross_view" trains on."""


@dataclass(frozen=True)
class NtuConfig(BodyCleaning, VideoConfig):
    """How NTU RGB+D is read: bodies cleaned as its users do, videos scaled."""

    incomplete: str = setting(
        "listed",
        "samples with missing skeletons: leave out those that the dataset's own list (in the root) names, or keep all",
        choices=("listed", "keep"),
    )


class Ntu60(Source):
    """NTU RGB+D: 60 actions by 40 subjects before 3 cameras, 56,880 samples of which 302 are incomplete.

    Root holds, in whatever folders, `SsssCcccPpppRrrrAaaa.skeleton`; color videos (`…_rgb.avi`, .mp4) and folders of
    depth maps (named as the sample) where there are any. Samples of NTU RGB+D 120 may lie there too, and are passed by.
    Splits: "cross_subject" (40,091 train, 16,487 test) and "cross_view" (cameras 2 and 3: 37,646 train, 18,932 test).

    Args:
        root: Folder of the files.
        options: Of `NtuConfig`.

    Raises:
        ConfigError: Unknown option.
    """

    splits: ClassVar = ("cross_subject", "cross_view")
    classes: tuple[str, ...] = ACTIONS[:60]
    lists: ClassVar[tuple[str, ...]] = (
        "NTU_RGBD_samples_with_missing_skeletons.txt",
        "NTU_RGBD120_samples_with_missing_skeletons.txt",  # holds the other's names too
        "samples_with_missing_skeletons.txt",  # the first one as it was called before, and as public readers carry it
    )
    training_subjects: ClassVar = SUBJECTS_60

    def __init__(self, root: str | Path, **options: Any):
        super().__init__(root)
        self.config = config.build(NtuConfig, options)

    def entries(self) -> list[Entry]:
        """Every sample, by name; those that the list of incomplete ones names are left out.

        Raises:
            DeviceError: There is no `.skeleton` file in the root, or no list though `incomplete` is "listed".
            InputError: A sample lies in two folders, a `.skeleton` file bears another name, or the list is corrupt.
        """
        found = NtuFiles.under(self.root)
        left_out = self._incomplete()
        metas = {name: sample_meta(path) for name, path in sorted(found.skeletons.items()) if name not in left_out}
        return [
            Entry(name, meta["action"] - 1, meta, found.of(name))
            for name, meta in metas.items()
            if meta["action"] <= len(self.classes)
        ]

    def read(self, entry: Entry) -> Clip:
        """Bodies cleaned, their pixels in the picture turned back from its mirroring, and color where it is there.

        Raises:
            DeviceError: A file is not there.
            InputError: The file is empty, truncated or corrupt, or shows nobody; names it.
        """
        sequence = self._sequence(entry)
        video = self._video(entry, sequence)
        if video is None:
            others: Any = {"pixels": sequence.pixels, "size": np.array(COLOR_SIZE, np.float32)}
        else:
            others = video.streams(sequence.pixels, COLOR_SIZE)
        return Clip(entry.name, entry.label, sequence.stamps_ns, sequence.bodies, others)

    def frames(self, entry: Entry) -> Iterator[RgbdFrame]:
        """As the base says; depth where there are depth maps, registered to color by cameras found from the joints."""
        sequence = self._sequence(entry)
        video = self._video(entry, sequence)
        if video is None:
            raise InputError(f"'{entry.name}' has no color video: put {entry.name}_rgb.avi into '{self.root}'")
        return ntu_frames(entry.files["skeleton"], video, entry.files.get("depth"))

    def camera_offset(self, entry: Entry) -> np.ndarray:
        """As the base says: joints are the depth camera's, pictures the color camera's, some centimetres beside it."""
        return cameras_of(entry.files["skeleton"]).offset

    def part(self, entry: Entry, split: str) -> str:
        """As the base says."""
        self.check(split)
        if split == "cross_subject":
            return "train" if entry.meta["subject"] in self.training_subjects else "test"
        return "train" if entry.meta["camera"] in CAMERAS else "test"

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """As the base has it, and what the options do to the clips."""
        return hashlib.sha256(f"{super().fingerprint(entries)} {asdict(self.config)}".encode()).hexdigest()

    def _sequence(self, entry: Entry) -> SkeletonSequence:
        file = entry.files["skeleton"]
        sequence = clean(read_ntu_skeleton(file), self.config)
        if not len(sequence.bodies):
            remedy = "" if self.config.incomplete == "listed" else ": read the dataset with incomplete='listed'"
            raise InputError(f"'{file}' shows nobody in {len(sequence)} frames{remedy}")
        return sequence

    def _video(self, entry: Entry, sequence: SkeletonSequence) -> ColorVideo | None:
        if "color" not in entry.files:
            return None
        # Pictures are mirrored as published; the sequence's pixels lie in the picture turned back.
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

    Root as of `Ntu60`, with the samples of both. Splits: "cross_subject" (63,026 train, 50,919 test) and "cross_setup",
    which trains on the setups of even number (54,468) and tests on the others (59,477).
    """

    splits: ClassVar = ("cross_subject", "cross_setup")
    classes = ACTIONS
    lists: ClassVar[tuple[str, ...]] = ("NTU_RGBD120_samples_with_missing_skeletons.txt",)
    training_subjects: ClassVar = SUBJECTS_120

    def part(self, entry: Entry, split: str) -> str:
        """As the base says."""
        self.check(split)
        if split == "cross_setup":
            return "test" if int(entry.meta["setup"]) % 2 else "train"
        return super().part(entry, split)
