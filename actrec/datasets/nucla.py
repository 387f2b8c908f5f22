"""Northwestern-UCLA Multiview Action 3D (Wang et al., CVPR 2014): Kinect v1 joints and color videos, three views.

10 actions, 10 subjects. The color videos are `multiview_action_videos/aAA/vVV_sSS_eEE.avi`. They are read as mirror
images, which the Kinect SDK v1 makes, and a video of another length than its skeleton is spread evenly over it; both
assumptions are not checked with published videos. The joints are projected with nominal intrinsics.

The other published form, `multiview_action/view_V/aAA_sSS_eEE`, has a folder of frames for each sequence:
`fileList.txt` has a line a frame, with its number first and its time in ms last; `frame_N_tc_TIME_skeletons.txt` has a
line, then 20 lines x,y,z,state; `frame_N_tc_TIME_rgb.jpg` has a time of its own.

 The dataset has no stamps. In "walk around" the distance between the ankles swings 0.128 times
a frame (median of 106 sequences): at the default of 12 Hz this is 1.5 steps a second, a slow indoor walk.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actrec.datasets.archive import ArchiveSource, archived, parse_table
from actrec.datasets.base import Clip, Entry, Kind, Source, find_files
from actrec.datasets.video_streams import ColorVideo, VideoConfig
from actrec.recordings.image_folder import image_files
from actrec.skeleton.sequence import SkeletonSequence, from_kinect, load_npz, read_text, split_frames, stamps_at
from actrec.types import RgbdFrame
from actrec.utils import config, gravity
from actrec.utils.camera_model import KINECT_V1, project
from actrec.utils.config import setting
from actrec.utils.errors import DeviceError, InputError

logger = logging.getLogger(__name__)

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


def read_nucla_frames(folder: Path) -> SkeletonSequence:
    """Read the skeletons of a folder of frames; its name and its parent's, `view_V`, are the sequence's.

    Raises:
        DeviceError: There is no list of its frames.
        InputError: A file is truncated or corrupt, times do not increase, or no frame has a skeleton.
    """
    listed = folder / FRAME_LIST
    times, joints, frames = [], [], dict[str, str]()
    for line in filter(None, map(str.split, read_text(listed).splitlines())):
        line = line[-3:]  # a record may follow the begin of itself
        if not (_NUMBER.fullmatch(line[0]) and _NUMBER.fullmatch(line[-1])):
            raise InputError(f"'{listed}' is corrupt: '{' '.join(line)[:60]}' has no frame and time; copy it again")
        frames[line[0]] = line[-1]  # of a frame that is listed twice, the last record
    for number, time in frames.items():
        file = folder / f"frame_{number}_tc_{time}_skeletons.txt"
        if file.is_file() and (lines := read_text(file).splitlines()[1:21]):
            joints.append(parse_table(file, lines, 4, ",")[:, :3])
            times.append(int(time))
            if len(joints[-1]) != 20:
                raise InputError(f"'{file}' has {len(joints[-1])} joints, expected 20; copy it again")
    if not joints:
        raise InputError(f"'{listed}' names no frame with a skeleton; remove the folder")
    if (np.diff(times) <= 0).any():
        raise InputError(f"'{listed}' is corrupt: its times do not increase; copy it again")
    name = f"{folder.name.lower()}_v{int(folder.parent.name[len('view_') :]):02}"
    label = ACTIONS.index(parse_name(name)["action"]) + 1
    stamps = (np.array(times, np.int64) - times[0]) * 1_000_000
    return _sequence(name, np.stack(joints), label, 0.0, stamps=stamps, begin_ms=times[0])


def _has_skeletons(folder: Path) -> bool:
    """Return whether a folder of frames has a list of them, and a skeleton: ten of 1,494 do not."""
    files = folder.glob("frame_*_skeletons.txt")
    return (folder / FRAME_LIST).is_file() and any(file.stat().st_size > 0 for file in files)


def parse_name(name: str) -> dict[str, int]:
    """Parse action, subject, episode and view from "aAA_sSS_eEE_vVV"; empty for another name."""
    match = _NAME.fullmatch(name)
    return dict(zip(("action", "subject", "episode", "view"), map(int, match.groups()), strict=True)) if match else {}


def _sequence(
    name: str, xyz: np.ndarray, label: int, fps: float, stamps: np.ndarray | None = None, **more: Any
) -> SkeletonSequence:
    meta: dict[str, Any] = {"format": "nucla", "fps": fps, **more}
    if 1 <= label <= len(CLASSES):
        meta["label_name"] = CLASSES[label - 1]
    meta.update(parse_name(name))
    mounting = MOUNTINGS.get(meta.get("view", 0))
    up = None if mounting is None else gravity.up_from_angles(*mounting)
    stamps = stamps_at(fps, len(xyz)) if stamps is None else stamps
    return from_kinect(name, xyz[None], "kinect_v1_20", stamps, label=label, meta=meta, up=up)


KEYS = ("action", "subject", "episode", "view")
ACTIONS = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)
"""Action numbers of the ten classes in file names."""


TEST_VIEWS = {"view": 3, "view_1": 1, "view_2": 2}
"""Test view of each cross-view split; the other two train."""

SUBJECTS = 10

FRAME_LIST = "fileList.txt"
_JSON = re.compile(r"(a\d+_s\d+_e\d+_v\d+)\.json", re.IGNORECASE)
_FRAMES, _VIEW = re.compile(r"a\d+_s\d+_e\d+", re.IGNORECASE), re.compile(r"view_(\d+)", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,15}", re.ASCII)  # of a frame, or its ms
_IMAGE = re.compile(r"frame_\d+_tc_(\d+)_rgb")
_VIDEO = re.compile(r"v(\d+)_s(\d+)_e(\d+)\.avi", re.IGNORECASE)
_VIDEO_FOLDER = re.compile(r"a(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class NuclaConfig(VideoConfig):
    """Options of N-UCLA."""

    fold: int = setting(1, "split subject: number of the person who tests", range=(1, SUBJECTS))
    mirrored: bool = setting(True, "the videos are mirror images, as the Kinect SDK v1 makes them")


class Nucla(ArchiveSource):
    """Split "view": views 1 and 2 train (1,020 clips), view 3 tests (464); "view_1" and "view_2" test on those.

    In split "subject" one person tests, by option `fold`. The root holds `nucla_skeletons.npz`, or the published
    sequences `aAA_sSS_eEE_vVV.json`, or the folders `view_V/aAA_sSS_eEE` of frames; beside one of the first two, if
    available, the videos `aAA/vVV_sSS_eEE.avi`; all in any folders. Options are the fields of `NuclaConfig`.
    """

    classes = CLASSES
    splits: ClassVar = (*TEST_VIEWS, "subject")
    folds: ClassVar = SUBJECTS
    fold_splits: ClassVar = ("subject",)
    people: ClassVar = tuple(range(1, SUBJECTS + 1))
    archive: ClassVar = "nucla_skeletons.npz"

    def __init__(self, root: str | Path, **options: Any):
        super().__init__(root)
        self.config = config.build(NuclaConfig, options)

    def entries(self) -> list[Entry]:
        """Return every item, with its color video if there is one."""
        found, files = super().entries(), self._files()
        videos = {name: kinds["color"] for name, kinds in files.items() if "color" in kinds}
        missing = sum(entry.name not in videos for entry in found)
        if videos and missing:
            logger.warning("%d of %d clips have no color video aAA/vVV_sSS_eEE.avi", missing, len(found))
        return [
            replace(entry, files={**entry.files, "color": videos[entry.name]}) if entry.name in videos else entry
            for entry in found
        ]

    def read(self, entry: Entry) -> Clip:
        """Read the joints; color, pixels and motion if there is a video."""
        clip = super().read(entry)
        if "color" not in entry.files:
            return clip
        pixels = project(clip.bodies, KINECT_V1)
        size = (KINECT_V1.width, KINECT_V1.height)
        return replace(clip, streams=self._video(entry, clip).streams(pixels, size, clip.streams))

    def frames(self, entry: Entry) -> Iterator[RgbdFrame]:
        """Yield the images of the video; there is no depth."""
        if "color" not in entry.files:
            action, subject, episode, view = entry.name.split("_")
            raise self.missing_images(entry, f"{action}/{view}_{subject}_{episode}.avi")
        return self._video(entry, super().read(entry)).frames(KINECT_V1)

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """Return the digest of the skeletons; with videos, of both and of the options."""
        digest = super().fingerprint(entries)
        colored = (entry for entry in entries if "color" in entry.files)
        shown = [Entry(entry.name, entry.label, files={"color": entry.files["color"]}) for entry in colored]
        if not shown:
            return digest
        options = {key: value for key, value in asdict(self.config).items() if key != "fold"}
        return hashlib.sha256(f"{digest} {Source.fingerprint(self, shown)} {options}".encode()).hexdigest()

    def with_options(self, digest: str) -> str:
        """Return the digest itself: the options change videos only."""
        return digest

    def _video(self, entry: Entry, clip: Clip) -> ColorVideo:
        path, mirrored = entry.files["color"], self.config.mirrored
        if not path.is_dir():
            return ColorVideo(path, clip.stamps_ns, self.config, mirrored, spread=True)
        images = image_files(path, ending="_rgb")
        times = [int(match[1]) for file in images if (match := _IMAGE.fullmatch(file.stem))]
        if not times or len(times) < len(images):
            raise InputError(f"'{path}' has no images frame_N_tc_TIME_rgb.jpg, or others beside; copy it again")
        begin_ms = read_nucla_frames(path).meta["begin_ms"]
        stamps = (np.array(times, np.int64) - begin_ms) * 1_000_000
        return ColorVideo(path, clip.stamps_ns, self.config, mirrored, ending="_rgb", image_stamps_ns=stamps)

    def _files(self) -> dict[str, dict[str, Path]]:
        """Return the skeletons, color videos and folders of frames of each sequence, by its name."""

        def kind_of(path: Path) -> Kind:
            if match := _JSON.fullmatch(path.name):
                return match[1].lower(), "skeleton"
            action, match = _VIDEO_FOLDER.fullmatch(path.parent.name), _VIDEO.fullmatch(path.name)
            if action is None or match is None:
                return None
            view, subject, episode = map(int, match.groups())
            return f"a{int(action[1]):02}_s{subject:02}_e{episode:02}_v{view:02}", "color"

        def kind_of_folder(path: Path) -> Kind:
            view, match = _VIEW.fullmatch(path.parent.name), _FRAMES.fullmatch(path.name)
            return (f"{path.name.lower()}_v{int(view[1]):02}", "frames") if view and match else None

        return find_files(self.root, kind_of, kind_of_folder)

    def read_all(self) -> list[tuple[Entry, Clip]]:
        """Return every item of the archive with its clip."""
        path = self.root / self.archive
        return archived(path, read_nucla_npz(path), KEYS)

    def published(self) -> list[Entry]:
        """Return every item of the published files."""
        found = self._files()
        files = {name: {"skeleton": kinds["skeleton"]} for name, kinds in found.items() if "skeleton" in kinds}
        if not files:
            folders = {name: kinds["frames"] for name, kinds in found.items() if "frames" in kinds}
            without = [name for name, folder in folders.items() if not _has_skeletons(folder)]
            if without:
                logger.warning("%d of %d folders have no skeleton, first %s", len(without), len(folders), without[0])
            folders = {name: folder for name, folder in folders.items() if name not in without}
            files = {name: {"skeleton": folder / FRAME_LIST, "color": folder} for name, folder in folders.items()}
        if not files:
            raise DeviceError(
                f"'{self.root}' holds neither {self.archive} nor the files as published ({_JSON.pattern})"
            )
        entries = []
        for name, of in files.items():
            meta = parse_name(name)
            if meta["action"] not in ACTIONS or not 1 <= meta["view"] <= 3:
                path = of.get("color", of["skeleton"])
                raise InputError(f"'{path}' is of an action or a view that N-UCLA does not have; move it elsewhere")
            entries.append(Entry(name, ACTIONS.index(meta["action"]), meta, of))
        return entries

    def read_published(self, entry: Entry) -> Clip:
        """Read the clip of a published file; raise if the name or label in it differs from its file name."""
        path = entry.files["skeleton"]
        if path.name == FRAME_LIST:
            sequence = read_nucla_frames(path.parent)
            return Clip(entry.name, entry.label, sequence.stamps_ns, sequence.bodies, sequence.streams)
        sequence = read_nucla_json(path)
        label = ACTIONS.index(parse_name(entry.name)["action"]) + 1  # a merged dataset's entry has its own label
        if (sequence.name, sequence.label) != (entry.name, label):
            raise InputError(
                f"'{path}' contains {sequence.name} of class {sequence.label}, but its file name is "
                f"{entry.name} of class {label}; copy it again"
            )
        return Clip(entry.name, entry.label, sequence.stamps_ns, sequence.bodies, sequence.streams)

    def part(self, entry: Entry, split: str) -> str:
        """Return the part of an item in a split."""
        self.check(split)
        if split == "subject":
            return "test" if entry.meta["subject"] == self.config.fold else "train"
        return "test" if entry.meta["view"] == TEST_VIEWS[split] else "train"
