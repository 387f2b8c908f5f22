"""The user's own recordings: one folder per class, or any files with a labels file.

    DIR/wave/first.mcap                  DIR/labels.csv     recording,label,start_s,end_s,person
    DIR/wave/monday (a bag's folder)     DIR/wave_001       wave_001,wave,0,4,anna
    DIR/clap/a.skeleton                  DIR/party.mp4      party.mp4,clap,12.5,15,ben
    DIR/unknown/pacing.mcap                                 party.mp4,unknown,0,12.5,

Skeleton files that hold their own labels (`actrec.recordings.skeleton_npz`) need neither; the time without a label in
them is `unknown`. Lines of the labels file replace them.

A recording is a bag, a skeleton file (.skeleton, .json, .mat, .npz, .csv, .bvh, .amc), a video or a folder of images.
Joints are read from it if it has any, and estimated as in the live graph otherwise
(`actrec.perception.recorded_joints`).
"""

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from actrec.datasets.base import Clip, Entry, Source
from actrec.datasets.fingerprints import content, fingerprint_of
from actrec.recordings import RecordingConfig, open_recording
from actrec.recordings.labels import (
    LABELS_FILE,
    LabeledClip,
    OwnLabels,
    clips_by_folder,
    own_labels,
    read_labels,
    unlabeled_recordings,
)
from actrec.skeleton.layouts import CANONICAL
from actrec.skeleton.sequence import SkeletonSequence
from actrec.skeleton.windows import MAX_GAP_S
from actrec.types import NANOSECONDS, UNKNOWN, RgbdFrame
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import ActrecError, ConfigError, DeviceError, InputError
from actrec.utils.registry import Registry

PEOPLE = Registry("reader of people", {"any": "actrec.perception.recorded_joints:read_bodies"})
"""A name, not an import: perception depends on datasets."""

logger = logging.getLogger(__name__)

UNKNOWN_LABEL = -1
"""Label of recordings labeled `unknown`, which show none of the classes."""

_MAX_LOG_DELAY_S = 2.0
"""Bags are read by log time, which can be later than the stamp by a varying delay."""


@dataclass(frozen=True)
class FolderConfig:
    """Options of `Folder`."""

    held_out: list = setting([], "people to test on in split person")
    bodies: int = setting(1, "M, largest number of people in a clip", range=(1, 16))
    recording: dict = setting({}, "fields of RecordingConfig, for recordings without this information")


def _name_list(name: str, value: Any) -> list[str]:
    """Return one or several names as a list; numbers are names too."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if any(type(each) not in (str, int) for each in values):
        raise ConfigError(f"{name} is {value!r}, expected a name or a list of names")
    return [str(each) for each in values]


class Folder(Source):
    """The user's recordings. `classes` are their labels in alphabetical order, without `unknown`.

    Splits: "all" trains on everything; "part" uses the labels file's column of that name; "person" tests on the
    people in `held_out`. Recordings labeled `unknown` are listed by `unknown_entries()` only, label −1.

    Args:
        root: The folder.
        held_out: People to test on in split "person".
        bodies: M, largest number of people in a clip: the labeled person, then the longest in view.
        recording: Fields of `RecordingConfig`, for recordings without this information (`hfov_deg` of a video).
        classes: Class names in the order of a model; some may not occur. Empty for the labels that occur.

    Raises:
        DeviceError: There is no such folder, or it holds no recording.
        InputError: The labels file is invalid, or names a missing recording or an unknown label.
        ConfigError: An option is unknown.
    """

    splits: ClassVar = ("all", "part", "person")
    license: ClassVar = "the license of your recordings"

    def __init__(
        self,
        root: str | Path,
        held_out: Sequence[str] = (),
        bodies: int = 1,
        recording: dict[str, Any] | None = None,
        classes: Sequence[str] = (),
    ):
        super().__init__(Path(root).expanduser())
        people, classes = _name_list("held_out", held_out), _name_list("classes", classes)
        values = {"held_out": people, "bodies": bodies, "recording": {} if recording is None else recording}
        options = config.build(FolderConfig, values)
        config.check_names(options.recording, (), "recording")
        self.held_out, self.bodies = tuple(people), options.bodies
        self.recording = config.build(RecordingConfig, options.recording)
        intrinsics = self.recording.intrinsics
        if intrinsics and intrinsics.count(",") != 3:  # a file; a worker may have another working directory
            self.recording = replace(self.recording, intrinsics=str(Path(intrinsics).expanduser().absolute()))
        self._clips = self._labeled()
        labels = {clip.label for clip in self._clips} - {UNKNOWN}
        self.classes = tuple(classes) or tuple(sorted(labels))
        if foreign := sorted(labels - set(self.classes)):
            raise InputError(
                f"'{self.root}' has recordings labeled {', '.join(foreign)}; known: {', '.join(self.classes)}"
            )
        present = {clip.person for clip in self._clips if clip.person}
        if absent := sorted(set(self.held_out) - present):
            known = ", ".join(sorted(present)) or "none"
            raise ConfigError(f"'{self.root}' has no person {', '.join(absent)}; its people: {known}")
        self._last: tuple[Path, SkeletonSequence] | None = None
        self._identities: dict[Path, str] = {}

    def entries(self) -> list[Entry]:
        """Return every clip of a class, in the order of the labels file or of names."""
        return [entry for entry in self._entries() if entry.label != UNKNOWN_LABEL]

    def unknown_entries(self) -> list[Entry]:
        """Return every clip labeled `unknown`, with label −1."""
        return [entry for entry in self._entries() if entry.label == UNKNOWN_LABEL]

    def has_split(self, split: str) -> bool:
        """Return whether a split is defined; "person" needs `held_out`."""
        return split != "person" or bool(self.held_out)

    def part(self, entry: Entry, split: str) -> str:
        """Return the part of an item in a split; raises ConfigError for split "person" without `held_out`."""
        self.check(split)
        if split == "all":
            return "train"
        if split == "part":
            return str(entry.meta["part"])
        if not self.held_out:
            raise ConfigError("split person needs the option held_out: the people to test on")
        return "test" if entry.meta["person"] in self.held_out else "train"

    def read(self, entry: Entry) -> Clip:
        """Read the frames of a clip that show its person, of several the longest part without a pause.

        Live, a pause longer than `MAX_GAP_S` restarts the window.

        Raises:
            DeviceError: The recording is missing.
            InputError: It is truncated or corrupt, has neither joints nor images, or has no body in the span.
        """
        path = self._path(entry)
        try:
            if self._last is None or self._last[0] != path:  # several clips may share the last recording
                self._last = path, PEOPLE.create("any", path=str(path), config=self.recording)
            return _cut_clip(entry, self._last[1], self.bodies)
        except DeviceError:
            raise
        except ActrecError as error:
            begin, end = (int(entry.meta[key]) / 1e3 for key in ("start_ms", "end_ms"))
            span = "" if begin == 0 and end < 0 else f" from {begin:g} s" + (f" to {end:g} s" if end >= 0 else "")
            raise InputError(f"recording '{path}'{span} cannot be used: {error}") from error

    def frames(self, entry: Entry) -> Iterator[RgbdFrame]:
        """Yield the camera frames of a clip; raises DeviceError if missing, InputError if corrupt or without images."""
        path = self._path(entry)
        begin, end = int(entry.meta["start_ms"]) / 1e3, int(entry.meta["end_ms"]) / 1e3
        with open_recording(path, self.recording) as recording:
            first = next(recording.frames(), None)
            if first is not None and first.color is None:
                raise InputError(f"recording '{path}' holds joints and no images: record it with --images")
            # Start near the clip: a long recording may have many clips.
            for frame in recording.frames(max(begin - _MAX_LOG_DELAY_S, 0.0)):
                assert first is not None
                seconds = (frame.stamp_ns - first.stamp_ns) / NANOSECONDS
                if end >= 0 and seconds > end:
                    return
                if seconds >= begin:
                    yield frame

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """Return the SHA-256 of names, labels, spans, and sizes and ends of the recordings' files."""
        return fingerprint_of(
            self.classes,
            (f"{entry.name} {entry.label} {sorted(entry.meta.items())} {self.identity(entry)}" for entry in entries),
        )

    def identity(self, entry: Entry) -> str:
        """Return a digest of the ends of the recording's files, independent of label, span and person."""
        path = self._path(entry)
        if path not in self._identities:  # many clips may share one recording
            digest = hashlib.sha256()
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    for part in content(file):
                        digest.update(part)
            self._identities[path] = digest.hexdigest()[:16]
        return self._identities[path]

    def _labeled(self) -> list[LabeledClip]:
        """Read the labels from the labels file or the folder names."""
        if not self.root.is_dir():
            raise DeviceError(
                f"there is no folder '{self.root}'; check the path (of eval, prepare, train, export: --root DIR), or "
                "record: actrec record --label NAME"
            )
        files = own_labels(self.root, self.recording.fps)
        own = {n: (*file.actions, *file.background) for n, file in files.items() if file.actions is not None}
        file = self.root / LABELS_FILE
        if not file.exists():
            if not (clips := clips_by_folder(self.root, own)):
                raise DeviceError(f"'{self.root}' holds no recording: make some with `actrec record --label NAME`")
            self.layout = self._check_layout(clips, files)
            return clips
        clips = read_labels(file)
        listed = {clip.recording for clip in clips}
        clips += [clip for name, labeled in own.items() if name not in listed for clip in labeled]
        absent = [clip.recording for clip in clips if not (self.root / clip.recording).exists()]
        if absent:
            raise InputError(
                f"'{file}' names {len(absent)} recordings that are not there, first '{absent[0]}': correct or remove it"
            )
        if left := [name for name in unlabeled_recordings(self.root, clips) if name not in own]:
            logger.warning(
                "%d recordings are ignored because '%s' does not list them, first '%s'", len(left), file, left[0]
            )
        if not clips:
            raise InputError(f"'{file}' names no recording: write a line for each, or remove it")
        self.layout = self._check_layout(clips, files)
        return clips

    def _check_layout(self, clips: list[LabeledClip], files: dict[str, OwnLabels]) -> str:
        """Return the layout of the recordings, all of bodies or all of hands."""
        found = {files[c.recording].layout if c.recording in files else CANONICAL: c.recording for c in clips}
        if len(found) > 1:
            hands, bodies = (found[layout] for layout in sorted(found))
            raise InputError(f"'{self.root}' has hands ('{hands}') and bodies ('{bodies}'): use a folder for each")
        return next(iter(found))

    def _entries(self) -> list[Entry]:
        classes = {label: number for number, label in enumerate(self.classes)} | {UNKNOWN: UNKNOWN_LABEL}
        bodies = Counter(clip.span for clip in self._clips)
        file = Path(self.recording.intrinsics).expanduser()
        # Not in `identity`: a recording stays the same with another lens, its joints do not.
        lens = hashlib.sha256(b"".join(content(file))).hexdigest()[:16] if file.is_file() else ""
        lenses = {"lens": lens} if lens else {}
        return [_entry(clip, classes[clip.label], self.root, bodies[clip.span] > 1, lenses) for clip in self._clips]

    def _path(self, entry: Entry) -> Path:
        return self.root / str(entry.meta["recording"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None, "_identities": {}}  # another process reads its own


def _entry(clip: LabeledClip, label: int, root: Path, shared: bool, lens: dict[str, str]) -> Entry:
    end_ms = -1 if clip.end_s == math.inf else round(1e3 * clip.end_s)
    span = "" if clip.whole else f"@{clip.start_s:g}-{'' if end_ms < 0 else f'{clip.end_s:g}'}"
    meta: dict[str, int | str] = {
        "recording": clip.recording,
        "person": clip.person,
        "body": clip.body,
        "part": clip.part,
        "start_ms": round(1e3 * clip.start_s),
        "end_ms": end_ms,
        **lens,
    }
    body_suffix = f"#{clip.body}" if shared else ""
    return Entry(clip.recording + span + body_suffix, label, meta, {"recording": root / clip.recording})


def _cut_clip(entry: Entry, sequence: SkeletonSequence, bodies: int) -> Clip:
    """Cut the span and select the people of an entry."""
    times = (sequence.stamps_ns - sequence.start_ns) // 1_000_000
    end = int(entry.meta["end_ms"])
    in_span = (times >= int(entry.meta["start_ms"])) & ((times <= end) | (end < 0))
    if not in_span.any():
        raise InputError(f"its label's start and end contain no frame: it lasts {times[-1] / 1e3:.2f} s")
    observed = np.isfinite(sequence.bodies[:, in_span]).any(axis=(2, 3))  # (M, T)
    order = sorted(range(len(observed)), key=lambda m: -int(observed[m].sum()))
    if labeled_body := str(entry.meta["body"]):
        if labeled_body not in sequence.body_ids:
            raise InputError(f"it has no body '{labeled_body}'; it has {', '.join(sequence.body_ids)}")
        first = sequence.body_ids.index(labeled_body)
        order = [first, *(m for m in order if m != first)]
    if not observed[order[0]].any():
        raise InputError("it has no body" + (f" as '{labeled_body}'" if labeled_body else ""))
    frames = _longest_part(sequence.stamps_ns, np.flatnonzero(in_span)[observed[order[0]]])
    kept = sequence.bodies[order[:bodies]][:, frames]
    absent = np.full((bodies - len(kept), *kept.shape[1:]), np.nan, np.float32)
    padded = np.concatenate([kept, absent])
    return Clip(entry.name, entry.label, sequence.stamps_ns[frames], padded, sequence.streams)


def _longest_part(stamps_ns: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Return the longest part of the frames without a pause that restarts a live window; all of a slow recording."""
    steps = np.diff(stamps_ns[frames]) / NANOSECONDS
    if not len(steps) or np.median(steps) > MAX_GAP_S:
        return frames
    return max(np.split(frames, np.flatnonzero(steps > MAX_GAP_S) + 1), key=len)
