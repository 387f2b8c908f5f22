"""SYSU 3D Human-Object Interaction (Hu et al., CVPR 2015): Kinect v1 joints at 30 Hz, 12 actions by 40 subjects.

A clip is a folder: `sklWorld.mat`, whose `SW` [20, 3, T] are the joints in the sensor's space (meters, y up, in the
order of the Kinect SDK), `sklImage.mat`, whose `S` [20, 2, T] are the same in the color image (px), and the images
themselves in `rgb` and `depth`. The 30 folds come from the lists of the authors.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actrec.datasets.archive import read_mat, read_mats
from actrec.datasets.base import Clip, Entry, Source, missing_folder_error
from actrec.datasets.video_streams import ColorVideo, VideoConfig, joint_streams
from actrec.skeleton import layouts
from actrec.skeleton.layouts import convert
from actrec.skeleton.sequence import SkeletonSequence, from_kinect, stamps_at
from actrec.types import RgbdFrame
from actrec.utils import config
from actrec.utils.camera_model import KINECT_V1
from actrec.utils.config import setting
from actrec.utils.errors import DeviceError, InputError

FPS = 30.0
COLOR_SIZE = (640, 480)
CLASSES = (
    "drinking", "pouring", "calling phone", "playing phone", "wearing backpacks", "packing backpacks", "sitting chair",
    "moving chair", "taking out wallet", "taking from wallet", "mopping", "sweeping",
)  # fmt: skip

LAYOUT = "kinect_v1_20"
_TRUNK_M = (0.2, 1.0)
"""m, range of the median trunk length (hips to shoulders); other values are not in meters."""


def read_sysu(folder: str | Path, name: str, fps: float = FPS) -> tuple[SkeletonSequence, bool]:
    """Read the joints of the clip `name`, and whether its images must be mirrored back (pixels already are).

    Raises:
        DeviceError: There is no `sklWorld.mat`.
        InputError: A file is truncated or corrupt, not in meters, or has no body.
    """
    path, image = Path(folder) / "sklWorld.mat", Path(folder) / "sklImage.mat"
    world = _joints(path, "SW", 3)
    _check(path, world)
    pixels, mirrored = None, False
    if image.is_file():
        joints_px = _joints(image, "S", 2).astype(np.float32)
        if len(joints_px) != len(world):
            raise InputError(f"'{image}' has {len(joints_px)} frames but '{path.name}' {len(world)}: copy both again")
        if mirrored := _mirrored(world, joints_px):
            joints_px[..., 0] = COLOR_SIZE[0] - 1 - joints_px[..., 0]
        known = _known(world) & np.isfinite(joints_px).all(axis=-1)
        joints_px[~known] = np.nan
        pixels, _ = convert(joints_px[None], known[None].astype(np.float32), LAYOUT)
    meta: dict[str, Any] = {"format": "sysu", "fps": fps, "image_size": COLOR_SIZE}
    return from_kinect(name, world[None], LAYOUT, stamps_at(fps, len(world)), pixels=pixels, meta=meta), mirrored


def _joints(path: Path, key: str, dimensions: int) -> np.ndarray:
    """Read joints as [T, 20, D]."""
    joints = read_mat(path, key).astype(np.float64)
    if joints.ndim == 2:
        joints = joints[..., None]  # MATLAB drops a last axis of one: a clip of a single frame
    if joints.ndim != 3 or joints.shape[:2] != (20, dimensions) or not joints.shape[2]:
        raise InputError(f"'{path}' is {list(joints.shape)}, expected [20, {dimensions}, frames]")
    return joints.transpose(2, 0, 1)


def _known(joints: np.ndarray) -> np.ndarray:
    return np.isfinite(joints).all(axis=-1) & (joints != 0).any(axis=-1)


def _check(path: Path, world: np.ndarray) -> None:
    """Raise if the joints are not in meters with y up."""
    index = layouts.get(LAYOUT).index
    hips, shoulders = world[:, index["hip_center"]], world[:, index["shoulder_center"]]
    both = _known(hips) & _known(shoulders)
    if not both.any():
        raise InputError(f"'{path}' has no body in {len(world)} frames; remove it")
    trunk = (shoulders - hips)[both]
    length, up = float(np.median(np.linalg.norm(trunk, axis=-1))), float(np.median(trunk[:, 1]))
    if not (_TRUNK_M[0] <= length <= _TRUNK_M[1] and up > 0):
        raise InputError(
            f"'{path}': the trunk measures {length:.3g} and rises by {up:.3g}, expected {_TRUNK_M[0]} to {_TRUNK_M[1]} "
            "m upwards: it is not in the Kinect's space"
        )


def _mirrored(world: np.ndarray, joints_px: np.ndarray) -> bool:
    """Return whether the image is mirrored: u grows with x, which points to the sensor's left."""
    both = _known(world) & _known(joints_px)
    x, u = (np.where(both, values, np.nan) for values in (world[..., 0], joints_px[..., 0]))
    frames = both.any(axis=1)
    x, u = (values[frames] - np.nanmean(values[frames], axis=1, keepdims=True) for values in (x, u))
    return bool(np.nansum(x * u) > 0)


FOLDS = 30
SUBJECTS = 40
CLIPS = SUBJECTS * len(CLASSES)
PARTS = ("train", "test")

Fold = dict[str, frozenset[int]]
"""Clip numbers (`clip_number`) of "train" and "test"."""


def clip_number(subject: int, action: int) -> int:
    """Return the number (1 to 480) of a clip in the lists: subject by subject, action by action."""
    return (subject - 1) * len(CLASSES) + action


def read_folds(path: Path, split: str) -> list[Fold]:
    """Read a .mat of folds: `train` and `test`, each 30 rows (or a MATLAB cell of 30) of numbers from 1.

    The numbers are clips (1 to 480), or subjects if none is above 40 in "cross_subject". Names of the arrays contain
    "train" or "test"; if the file has only one of them, the other part is the rest.

    Raises:
        DeviceError: There is no such file.
        InputError: It is corrupt, does not have 30 folds, has a duplicate, unknown or missing clip or a clip in both
            parts, or belongs to the other split.
    """
    arrays = read_mats(path)
    lists = {part: rows for part in PARTS if (rows := _rows(path, part, arrays))}
    if not lists:
        raise InputError(f"'{path}' has no array named train or test; it has: {', '.join(arrays) or 'none'}")
    largest = max(int(row.max()) for rows in lists.values() for row in rows)
    people = split == "cross_subject" and largest <= SUBJECTS
    folds = []
    for k in range(FOLDS):
        fold = {part: _clips(path, k + 1, rows[k], people) for part, rows in lists.items()}
        for part, other in (PARTS, PARTS[::-1]):
            fold.setdefault(part, frozenset(range(1, CLIPS + 1)) - fold.get(other, frozenset()))
        _check_fold(path, k + 1, fold, split)
        folds.append(fold)
    return folds


def _rows(path: Path, part: str, arrays: dict[str, Any]) -> list[np.ndarray]:
    """Return the 30 rows of a part; none if the file has no such array."""
    named = [key for key in arrays if part in key.lower()]
    if not named:
        return []
    if len(named) > 1:
        raise InputError(f"'{path}' has several arrays named {part}: {', '.join(named)}; keep one")
    value = np.asarray(arrays[named[0]])
    if value.dtype == object:
        rows = [np.asarray(row).reshape(-1) for row in value.reshape(-1)]
    else:
        table = np.atleast_2d(value)
        rows = list(table if len(table) == FOLDS else table.T)
    if len(rows) != FOLDS or not all(len(row) for row in rows):
        raise InputError(f"'{path}': '{named[0]}' {list(value.shape)} is not {FOLDS} folds")
    for k, row in enumerate(rows):
        # round(inf) == inf.
        if row.dtype.kind not in "iuf" or not np.isfinite(row).all() or (row != np.round(row)).any():
            raise InputError(f"'{path}': '{named[0]}' of fold {k + 1} is not whole numbers")
    return rows


def _clips(path: Path, fold: int, row: np.ndarray, people: bool) -> frozenset[int]:
    numbers, largest = [int(n) for n in row], SUBJECTS if people else CLIPS
    invalid = next((n for n in numbers if not 1 <= n <= largest), None)
    if invalid is not None:
        raise InputError(f"'{path}': fold {fold} names {invalid}, but there are 1 to {largest}")
    if len(set(numbers)) < len(numbers):
        twice = next(n for n in numbers if numbers.count(n) > 1)
        raise InputError(f"'{path}': fold {fold} names {twice} twice; copy the list again")
    actions = range(1, len(CLASSES) + 1)
    return frozenset(clip_number(n, a) for n in numbers for a in actions) if people else frozenset(numbers)


def _check_fold(path: Path, number: int, fold: Fold, split: str) -> None:
    shared = fold["train"] & fold["test"]
    if shared:
        raise InputError(f"'{path}': fold {number} trains and tests on clip {min(shared)}; copy the list again")
    missing = frozenset(range(1, CLIPS + 1)) - fold["train"] - fold["test"]
    if missing:
        raise InputError(
            f"'{path}': fold {number} neither trains nor tests on {len(missing)} of the {CLIPS} clips, first "
            f"{min(missing)}: it is truncated; copy the list again"
        )
    train, test = ({(n - 1) // len(CLASSES) + 1 for n in fold[part]} for part in PARTS)
    if split == "cross_subject" and train & test:
        raise InputError(
            f"'{path}': fold {number} trains and tests on subject {min(train & test)}: it is not a list of split "
            "cross_subject"
        )
    if split == "same_subject" and not train & test:
        raise InputError(
            f"'{path}': fold {number} has no subject in both parts: it is not a list of split same_subject"
        )


ARCHIVE_FOLDERS = ("3DvideoNorm", "SYSU3DAction/3DvideoNorm", "SYSU3DAction")
"""Folder of the subjects in the published archive."""

_VIDEO = re.compile(r"video(\d+)")


@dataclass(frozen=True)
class SysuConfig(VideoConfig):
    """Options of SYSU."""

    fold: int = setting(1, "published fold, 1 to 30", range=(1, FOLDS))
    cross_subject_folds: str = setting(
        "cross_subject_folds.mat", "the authors' list of folds of cross_subject, relative to the root"
    )
    same_subject_folds: str = setting("same_subject_folds.mat", "the authors' list of folds of same_subject")


class Sysu(Source):
    """Splits "cross_subject" (half of the subjects train) and "same_subject" (half of each action's clips), 30 folds.

    The root holds `3DvideoNorm/<person>/video<1 to 12>` (or `SYSU3DAction` with it, or the subjects' folders), each
    with `sklWorld.mat`, `sklImage.mat` and the images in `rgb`, and the authors' lists of folds. The papers report the
    mean over the 30 folds (option `fold`). If the root has only one list, the dataset has only that split. Options are
    the fields of `SysuConfig`.
    """

    classes = CLASSES
    splits: ClassVar = ("cross_subject", "same_subject")
    folds: ClassVar = FOLDS

    def __init__(self, root: str | Path, **options: Any):
        super().__init__(root)
        self.config = config.build(SysuConfig, options)
        self._lists: dict[str, list[Fold]] = {}
        listed = tuple(split for split in type(self).splits if self._path(split).is_file())
        self.splits = listed or type(self).splits  # type: ignore[misc, assignment]

    def entries(self) -> list[Entry]:
        """Return every clip by subject and action; subjects are numbered in the order of their folders' names.

        With a list of folds, clips with missing files are included; `read` raises for them.
        """
        people = self._people()
        self._lists = {split: self._list(split, len(people)) for split in self.splits if self._path(split).is_file()}
        return [entry for n, folder in enumerate(people, start=1) for entry in self._entries_of(n, folder, len(people))]

    def read(self, entry: Entry) -> Clip:
        """Read the body; color, pixels and motion if there are images."""
        sequence, mirrored = self._sequence(entry)
        streams: Any = {}
        if np.isfinite(sequence.pixels).any():
            video = self._video(entry, sequence, mirrored) if "color" in entry.files else None
            streams = joint_streams(video, sequence.pixels, COLOR_SIZE)
        return Clip(entry.name, entry.label, sequence.stamps_ns, sequence.bodies, streams)

    def frames(self, entry: Entry) -> Iterator[RgbdFrame]:
        """Yield the color images; the unit of the depth images is not published."""
        if "color" not in entry.files:
            raise self.missing_images(entry, f"folder {entry.meta['person']}/video{entry.meta['action']}/rgb")
        return self._video(entry, *self._sequence(entry)).frames(KINECT_V1)

    def part(self, entry: Entry, split: str) -> str:
        """Return the part of an item in the fold of option `fold`; raises DeviceError without the list of folds."""
        self.check(split)
        if split not in self._lists:
            if not self._path(split).is_file():
                raise self._missing_list_error(split)
            self._lists[split] = self._list(split, int(entry.meta["subjects"]))
        number = clip_number(int(entry.meta["subject"]), int(entry.meta["action"]))
        return "train" if number in self._lists[split][self.config.fold - 1]["train"] else "test"

    def check(self, split: str) -> None:
        """Raise ConfigError for an unknown split, DeviceError for a split without its list of folds."""
        if split in type(self).splits and split not in self.splits:
            raise self._missing_list_error(split)
        super().check(split)

    def _missing_list_error(self, split: str) -> DeviceError:
        return DeviceError(
            f"there is no '{self._path(split)}', the authors' 30 folds of SYSU's split {split}: copy it there from the "
            f"dataset's archive, or name it by the option {split}_folds"
        )

    def _sequence(self, entry: Entry) -> tuple[SkeletonSequence, bool]:
        if "skeleton" not in entry.files:
            place = f"{entry.meta['person']}/video{entry.meta['action']}/sklWorld.mat"
            raise DeviceError(f"there is no '{place}' in '{self.root}', but the lists of folds count it: copy it there")
        return read_sysu(entry.files["skeleton"].parent, entry.name, FPS)

    def _video(self, entry: Entry, sequence: SkeletonSequence, mirrored: bool) -> ColorVideo:
        return ColorVideo(entry.files["color"], sequence.stamps_ns, self.config, mirror=mirrored)

    def _path(self, split: str) -> Path:
        """Return the path of a split's list of folds."""
        return self.root / str(getattr(self.config, f"{split}_folds"))

    def _list(self, split: str, subjects: int) -> list[Fold]:
        path = self._path(split)
        if subjects != SUBJECTS:
            raise InputError(
                f"'{self.root}' holds {subjects} subjects, but '{path}' counts {SUBJECTS}: copy the others there too"
            )
        return read_folds(path, split)

    def _people(self) -> list[Path]:
        """Return the folders of the subjects, sorted by name (capitals first)."""
        places = (self.root / inner for inner in ARCHIVE_FOLDERS)
        root = next((place for place in places if place.is_dir()), self.root)
        if not root.is_dir():
            raise missing_folder_error(root)
        people = sorted((f for f in root.iterdir() if any(f.glob("video*/sklWorld.mat"))), key=lambda f: f.name)
        if not people:
            raise DeviceError(f"'{self.root}' holds no <person>/video<n>/sklWorld.mat; give SYSU3DAction's folder")
        if len(people) > SUBJECTS:
            raise InputError(f"'{root}' holds {len(people)} subjects, SYSU has {SUBJECTS}; move the others away")
        return people

    def _entries_of(self, subject: int, person: Path, subjects: int) -> list[Entry]:
        found: dict[int, dict[str, Path]] = {}
        for path in person.glob("video*/sklWorld.mat"):
            match = _VIDEO.fullmatch(path.parent.name)
            action = int(match[1]) if match else 0
            if not 1 <= action <= len(CLASSES) or action in found:
                raise InputError(f"'{path.parent}' is not one of video1 to video{len(CLASSES)}; move it away")
            found[action] = {"skeleton": path}
            if (path.parent / "rgb").is_dir():
                found[action]["color"] = path.parent / "rgb"
        meta: dict[str, int | str] = {"subject": subject, "person": person.name, "subjects": subjects}
        return [
            Entry(f"{person.name}_video{action}", action - 1, {**meta, "action": action}, found.get(action, {}))
            for action in (range(1, len(CLASSES) + 1) if self._lists else sorted(found))
        ]
