"""A person's own recordings: a folder a class, or any files with a labels file beside them.

    DIR/wave/first.mcap                  DIR/labels.csv     recording,label,start_s,end_s,person
    DIR/wave/monday (a bag's folder)     DIR/wave_001       wave_001,wave,0,4,anna
    DIR/clap/a.skeleton                  DIR/party.mp4      party.mp4,clap,12.5,15,ben
    DIR/unknown/pacing.mcap                                 party.mp4,unknown,0,12.5,

A recording is a bag, a skeleton file (.skeleton, .json, .mat, .npz, .csv), a video or a folder of images; joints are
taken from it where it has some, else found by the body estimator, as in the live graph
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

from actrec.datasets.base import Clip, Entry, Source, content
from actrec.recordings import open_recording
from actrec.recordings.base import RecordingConfig
from actrec.recordings.labels import LABELS_FILE, LabeledClip, clips_by_folder, read_labels, unlabeled_recordings
from actrec.skeleton.sequence import SkeletonSequence
from actrec.types import NANOSECONDS, UNKNOWN, RgbdFrame
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import ActrecError, ConfigError, DeviceError, InputError
from actrec.utils.registry import Registry

PEOPLE = Registry("reader of people", {"any": "actrec.perception.recorded_joints:read_bodies"})
"""By name: perception builds on datasets, not the other way round."""


logger = logging.getLogger(__name__)

OTHER = -1
"""Label of recordings called `unknown`: they show none of the classes."""

_EARLY_S = 2.0
"""Bags are started by when messages were written, some of them later after their stamps than others."""


@dataclass(frozen=True)
class FolderConfig:
    """Options of `Folder`."""

    held_out: list = setting([], "who is tested on in split person")
    bodies: int = setting(1, "M, how many people a clip keeps", range=(1, 16))
    recording: dict = setting({}, "fields of RecordingConfig, for recordings that do not tell of themselves")


def _texts(name: str, value: Any) -> list[str]:
    """One name or several; a number is the name of somebody who is only counted."""
    several = list(value) if isinstance(value, (list, tuple)) else [value]
    if any(type(one) not in (str, int) for one in several):
        raise ConfigError(f"{name} is {value!r}, expected a name or a list of names")
    return [str(one) for one in several]


def _found_anywhere(recording: RecordingConfig) -> RecordingConfig:
    """With the path of its intrinsics, if it is one, absolute: a worker may have been started in another folder."""
    given = recording.intrinsics
    if not given or given.count(",") == 3:
        return recording
    return replace(recording, intrinsics=str(Path(given).expanduser().absolute()))


class Folder(Source):
    """The user's recordings. `classes` are their labels in alphabetical order, `unknown` left aside.

    Splits: "all" trains on everything; "part" goes by the labels file's column of that name; "person" tests on the
    people that `held_out` names. Recordings labeled `unknown` are listed by `unknown_entries()` only, label −1.

    Args:
        root: The folder.
        held_out: Who is tested on in split "person".
        bodies: M, how many people a clip keeps: whom it is about, then those in view longest.
        recording: Fields of `RecordingConfig`, for recordings that do not tell of themselves (`hfov_deg` of a video).
        classes: The labels in an order of their own, as a model knows them; some may not occur. Empty: those that do.

    Raises:
        DeviceError: There is no such folder, or it holds no recording.
        InputError: The labels file is wrong, names what is not there, or a label that is none of `classes`.
        ConfigError: An option is unknown.
    """

    splits: ClassVar = ("all", "part", "person")

    def __init__(
        self,
        root: str | Path,
        held_out: Sequence[str] = (),
        bodies: int = 1,
        recording: dict[str, Any] | None = None,
        classes: Sequence[str] = (),
    ):
        super().__init__(Path(root).expanduser())
        people, classes = _texts("held_out", held_out), _texts("classes", classes)
        given = {"held_out": people, "bodies": bodies, "recording": {} if recording is None else recording}
        options = config.build(FolderConfig, given)
        config.check_names(options.recording, (), "recording")
        self.held_out, self.bodies = tuple(people), options.bodies
        self.recording = _found_anywhere(config.build(RecordingConfig, options.recording))
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
            raise ConfigError(f"'{self.root}' has nobody called {', '.join(absent)}; its people: {known}")
        self._last: tuple[str, SkeletonSequence] | None = None
        self._identities: dict[Path, str] = {}

    def entries(self) -> list[Entry]:
        """Every clip of a class, in the order of the labels file, or of names."""
        return [entry for entry in self._entries() if entry.label != OTHER]

    def unknown_entries(self) -> list[Entry]:
        """Every clip labeled `unknown`, with label −1."""
        return [entry for entry in self._entries() if entry.label == OTHER]

    def has_split(self, split: str) -> bool:
        """As the base says: by persons where some are held out."""
        return split != "person" or bool(self.held_out)

    def part(self, entry: Entry, split: str) -> str:
        """As the base says.

        Raises:
            ConfigError: Split "person" and nobody is held out.
        """
        self.check(split)
        if split == "all":
            return "train"
        if split == "part":
            return str(entry.meta["part"])
        if not self.held_out:
            raise ConfigError("split person needs the option held_out: the people to test on")
        return "test" if entry.meta["person"] in self.held_out else "train"

    def read(self, entry: Entry) -> Clip:
        """The clip from the first frame in which its person is seen to the last; frames without them are left out.

        Raises:
            DeviceError: The recording is not there.
            InputError: It is truncated or corrupt, holds neither joints nor images, or shows nobody then.
        """
        path = self._path(entry)
        try:
            sequence = self._sequence(str(path))
            return _clip(entry, sequence, self.bodies)
        except DeviceError:
            raise
        except ActrecError as error:
            begin, end = (int(entry.meta[key]) / 1e3 for key in ("start_ms", "end_ms"))
            span = "" if begin == 0 and end < 0 else f" from {begin:g} s" + (f" to {end:g} s" if end >= 0 else "")
            raise InputError(f"recording '{path}'{span} cannot be used: {error}") from error

    def frames(self, entry: Entry) -> Iterator[RgbdFrame]:
        """As the base says.

        Raises:
            DeviceError: The recording is not there.
            InputError: It is corrupt, or holds joints alone.
        """
        path = self._path(entry)
        begin, end = int(entry.meta["start_ms"]) / 1e3, int(entry.meta["end_ms"]) / 1e3
        with open_recording(path, self.recording) as recording:
            first = next(recording.frames(), None)
            if first is not None and first.color is None:
                raise InputError(f"recording '{path}' holds joints and no images: record it with --images")
            # Of many clips of a long recording, all that lies before would be decoded again for each.
            for frame in recording.frames(max(begin - _EARLY_S, 0.0)):
                assert first is not None
                seconds = (frame.stamp_ns - first.stamp_ns) / NANOSECONDS
                if end >= 0 and seconds > end:
                    return
                if seconds >= begin:
                    yield frame

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """SHA-256 over names, labels, spans and the sizes and ends of all files of their recordings."""
        digest = hashlib.sha256("\n".join(self.classes).encode("utf-8", "surrogateescape"))
        for entry in entries:
            told = f"{entry.name} {entry.label} {sorted(entry.meta.items())} {self.identity(entry)}"
            digest.update(told.encode("utf-8", "surrogateescape"))  # as names of files may be
        return digest.hexdigest()

    def identity(self, entry: Entry) -> str:
        """As the base says, by the ends of its files: whatever its label, span and person."""
        path = self._path(entry)
        if path not in self._identities:  # hundreds of clips may be cut from one folder of ten thousand images
            self._identities[path] = _identity(path)
        return self._identities[path]

    def _labeled(self) -> list[LabeledClip]:
        """What the labels file, or the folders' names, say."""
        if not self.root.is_dir():
            raise DeviceError(
                f"there is no folder '{self.root}'; check the path (of eval, prepare, train, export: --root DIR), or "
                "record: actrec record --label NAME"
            )
        file = self.root / LABELS_FILE
        clips = read_labels(file) if file.exists() else clips_by_folder(self.root)
        absent = [clip.recording for clip in clips if not (self.root / clip.recording).exists()]
        if absent:
            raise InputError(
                f"'{file}' names {len(absent)} recordings that are not there, first '{absent[0]}': correct or remove it"
            )
        if file.exists() and (left := unlabeled_recordings(self.root, clips)):
            logger.warning(
                "%d recordings are left out, for '%s' does not name them, first '%s'", len(left), file, left[0]
            )
        if not clips and file.exists():
            raise InputError(f"'{file}' names no recording: write a line for each, or remove it")
        if not clips:
            raise DeviceError(f"'{self.root}' holds no recording: make some with `actrec record --label NAME`")
        return clips

    def _entries(self) -> list[Entry]:
        classes = {label: number for number, label in enumerate(self.classes)} | {UNKNOWN: OTHER}
        bodies = Counter(clip.span for clip in self._clips)
        return [_entry(clip, classes[clip.label], self.root, bodies[clip.span] > 1) for clip in self._clips]

    def _path(self, entry: Entry) -> Path:
        return self.root / str(entry.meta["recording"])

    def _sequence(self, path: str) -> SkeletonSequence:
        """The recording, the last one kept: several clips may be cut from it."""
        if self._last is None or self._last[0] != path:
            self._last = path, PEOPLE.create("any", path=path, config=self.recording)
        return self._last[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None, "_identities": {}}  # another process reads its own


def _identity(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            for part in content(file):
                digest.update(part)
    return digest.hexdigest()[:16]


def _entry(clip: LabeledClip, label: int, root: Path, shared: bool) -> Entry:
    end_ms = -1 if clip.end_s == math.inf else round(1e3 * clip.end_s)
    span = "" if clip.whole else f"@{clip.start_s:g}-{'' if end_ms < 0 else f'{clip.end_s:g}'}"
    meta: dict[str, int | str] = {
        "recording": clip.recording,
        "person": clip.person,
        "body": clip.body,
        "part": clip.part,
        "start_ms": round(1e3 * clip.start_s),
        "end_ms": end_ms,
    }
    whose = f"#{clip.body}" if shared else ""
    return Entry(clip.recording + span + whose, label, meta, {"recording": root / clip.recording})


def _clip(entry: Entry, sequence: SkeletonSequence, bodies: int) -> Clip:
    """The span and the people of an entry."""
    times = (sequence.stamps_ns - sequence.stamps_ns[0]) // 1_000_000
    end = int(entry.meta["end_ms"])
    within = (times >= int(entry.meta["start_ms"])) & ((times <= end) | (end < 0))
    if not within.any():
        raise InputError(
            f"nothing lies between the start and end that its label gives: it lasts {times[-1] / 1e3:.2f} s"
        )
    seen = np.isfinite(sequence.bodies[:, within]).any(axis=(2, 3))  # (M, T)
    order = sorted(range(len(seen)), key=lambda m: -int(seen[m].sum()))
    if wanted := str(entry.meta["body"]):
        if wanted not in sequence.body_ids:
            raise InputError(f"it shows no body '{wanted}'; it shows {', '.join(sequence.body_ids)}")
        first = sequence.body_ids.index(wanted)
        order = [first, *(m for m in order if m != first)]
    if not seen[order[0]].any():
        raise InputError("nobody is seen in it" + (f" as '{wanted}'" if wanted else ""))
    frames = np.flatnonzero(within)[seen[order[0]]]
    kept = sequence.bodies[order[:bodies]][:, frames]
    absent = np.full((bodies - len(kept), *kept.shape[1:]), np.nan, np.float32)
    return Clip(entry.name, entry.label, sequence.stamps_ns[frames], np.concatenate([kept, absent]))
