"""SYSU 3D Human-Object Interaction (Hu et al., CVPR 2015): 12 actions, 40 subjects, Kinect v1."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actrec import config
from actrec.config import setting
from actrec.errors import DeviceError, InputError
from actrec.frames import Intrinsics, RgbdFrame
from actrec.recordings.sysu import CLASSES, COLOUR_SIZE, FPS, SysuSequence, read_sysu
from actrec_models.data.clips import Clip
from actrec_models.data.source import Entry, Source, no_folder
from actrec_models.data.sysu_folds import COUNT, SUBJECTS, Folds, clip_number, read_folds
from actrec_models.data.video_streams import ColourVideo, VideoConfig

INTRINSICS = Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)
"""Nominal, of the Kinect v1's colour camera."""
UNPACKED = ("3DvideoNorm", "SYSU3DAction/3DvideoNorm", "SYSU3DAction")
"""Where the published archive has the persons' folders."""
_VIDEO = re.compile(r"video(\d+)")


@dataclass(frozen=True)
class SysuConfig(VideoConfig):
    """How SYSU is read."""

    fold: int = setting(1, "which of the 30 published folds `part` speaks of", range=(1, COUNT))
    cross_subject_folds: str = setting(
        "cross_subject_folds.mat", "the authors' list of that split's folds (.mat or .npz), in the root or anywhere"
    )
    same_subject_folds: str = setting("same_subject_folds.mat", "alike, of split same_subject")


class Sysu(Source):
    """Splits "cross_subject" (half of the subjects train) and "same_subject" (half of each action's clips), 30 folds.

    Root holds `3DvideoNorm/<person>/video<1 to 12>` (or `SYSU3DAction`, which holds that, or these folders of persons
    itself), each with `sklWorld.mat`, `sklImage.mat` and the pictures in `rgb`, and the authors' lists of folds
    (`actrec_models.data.sysu_folds`). The papers report the mean over the 30 folds, one after the other chosen by the
    option `fold`. Where the root has the list of one split alone, that is the dataset's only split.

    Args:
        root: Folder of the files.
        options: Of `SysuConfig`.

    Raises:
        ConfigError: Unknown option, or no such fold.
    """

    classes = CLASSES
    splits: ClassVar = ("cross_subject", "same_subject")
    folds: ClassVar = COUNT

    def __init__(self, root: str | Path, **options: Any):
        super().__init__(root)
        self.config = config.build(SysuConfig, options)
        self._lists: dict[str, Folds] = {}
        listed = tuple(split for split in type(self).splits if self._path(split).is_file())
        self.splits = listed or type(self).splits  # type: ignore[misc, assignment]  # those told here

    def entries(self) -> list[Entry]:
        """Every clip, by subject and action; a subject's number is their folder's place among the 40, by name.

        Where a list of folds counts all of them, those whose files are gone too: they are refused when they are read.

        Raises:
            DeviceError: The root holds no clips.
            InputError: A folder is of an action that there is not, there are more than 40 subjects, or a list of folds
                is corrupt or counts more subjects than there are.
        """
        people = self._people()
        self._lists = {split: self._list(split, len(people)) for split in self.splits if self._path(split).is_file()}
        return [entry for n, folder in enumerate(people, start=1) for entry in self._of(n, folder, len(people))]

    def read(self, entry: Entry) -> Clip:
        """Body, and colour, pixels in it and motion where the pictures are there.

        Raises:
            DeviceError: A file is not there.
            InputError: A file is truncated or corrupt, or shows nobody; names it.
        """
        read = self._sequence(entry)
        sequence = read.sequence
        others: Any = {}
        if np.isfinite(sequence.pixels).any():
            others = {"pixels": sequence.pixels, "size": np.array(COLOUR_SIZE, np.float32)}
            if "colour" in entry.files:
                others = self._video(entry, read).streams(sequence.pixels, COLOUR_SIZE)
        return Clip(entry.name, entry.label, sequence.stamps_ns, sequence.bodies, others)

    def frames(self, entry: Entry) -> Iterator[RgbdFrame]:
        """The colour pictures; the unit of the depth pictures is not published."""
        if "colour" not in entry.files:
            place = f"{entry.meta['person']}/video{entry.meta['action']}/rgb"
            raise self.no_pictures(entry, f"folder {place}")
        read = self._sequence(entry)
        return self._video(entry, read).frames(INTRINSICS)

    def part(self, entry: Entry, split: str) -> str:
        """As the base says, of the fold of option `fold`.

        Raises:
            DeviceError: The root has no list of the split's folds.
        """
        self.check(split)
        if split not in self._lists:
            if not self._path(split).is_file():
                raise self._unlisted(split)
            self._lists[split] = self._list(split, int(entry.meta["subjects"]))
        return self._lists[split].part(
            self.config.fold, clip_number(int(entry.meta["subject"]), int(entry.meta["action"]))
        )

    def check(self, split: str) -> None:
        """As the base says; DeviceError for a split of whose folds the root has no list."""
        if split in type(self).splits and split not in self.splits:
            raise self._unlisted(split)
        super().check(split)

    def _unlisted(self, split: str) -> DeviceError:
        return DeviceError(
            f"there is no '{self._path(split)}', the authors' 30 folds of SYSU's split {split}: copy it there from the "
            f"dataset's archive, or name it by the option {split}_folds"
        )

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """As the base has it, and what the options do to the clips."""
        options = {key: value for key, value in asdict(self.config).items() if "fold" not in key}
        return hashlib.sha256(f"{super().fingerprint(entries)} {options}".encode()).hexdigest()

    def _sequence(self, entry: Entry) -> SysuSequence:
        if "skeleton" not in entry.files:
            place = f"{entry.meta['person']}/video{entry.meta['action']}/sklWorld.mat"
            raise DeviceError(f"there is no '{place}' in '{self.root}', but the lists of folds count it: copy it there")
        return read_sysu(entry.files["skeleton"].parent, entry.name, FPS)

    def _video(self, entry: Entry, read: SysuSequence) -> ColourVideo:
        return ColourVideo(entry.files["colour"], read.sequence.stamps_ns, self.config, mirror=read.mirrored)

    def _path(self, split: str) -> Path:
        """Where the list of a split's folds lies, or should."""
        return self.root / str(getattr(self.config, f"{split}_folds"))

    def _list(self, split: str, subjects: int) -> Folds:
        path = self._path(split)
        if subjects != SUBJECTS:
            raise InputError(
                f"'{self.root}' holds {subjects} subjects, but '{path}' counts {SUBJECTS}: copy the others there too"
            )
        return read_folds(path, split)

    def _people(self) -> list[Path]:
        """Folders of the subjects, in the order of their names' characters (capitals first)."""
        places = (self.root / inner for inner in UNPACKED)
        root = next((place for place in places if place.is_dir()), self.root)
        if not root.is_dir():
            raise no_folder(root)
        people = sorted((f for f in root.iterdir() if any(f.glob("video*/sklWorld.mat"))), key=lambda f: f.name)
        if not people:
            raise DeviceError(f"'{self.root}' holds no <person>/video<n>/sklWorld.mat; give SYSU3DAction's folder")
        if len(people) > SUBJECTS:
            raise InputError(f"'{root}' holds {len(people)} subjects, SYSU has {SUBJECTS}; move the others away")
        return people

    def _of(self, subject: int, person: Path, subjects: int) -> list[Entry]:
        found: dict[int, dict[str, Path]] = {}
        for path in person.glob("video*/sklWorld.mat"):
            match = _VIDEO.fullmatch(path.parent.name)
            action = int(match[1]) if match else 0
            if not 1 <= action <= len(CLASSES) or action in found:
                raise InputError(f"'{path.parent}' is not one of video1 to video{len(CLASSES)}; move it away")
            found[action] = {"skeleton": path}
            if (path.parent / "rgb").is_dir():
                found[action]["colour"] = path.parent / "rgb"
        meta: dict[str, int | str] = {"subject": subject, "person": person.name, "subjects": subjects}
        return [
            Entry(f"{person.name}_video{action}", action - 1, {**meta, "action": action}, found.get(action, {}))
            for action in (range(1, len(CLASSES) + 1) if self._lists else sorted(found))
        ]
