"""Labels of a user's own recordings: a CSV file with a header and one line per clip, or a folder per class.

    recording,label,start_s,end_s,person,body,part
    wave_001,wave,0,4.02,anna,body_1,

`recording` (a path relative to the file) and `label` are required; other columns and values are optional.
"""

import contextlib
import csv
import errno
import io
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

from actrec.recordings import detect_format, log, skeleton_format
from actrec.recordings.image_folder import COLOR_FOLDERS, SUFFIXES
from actrec.recordings.skeleton_files import open_sequences
from actrec.skeleton.sequence import read_text
from actrec.types import UNKNOWN
from actrec.utils import file_lock, folders
from actrec.utils.errors import DeviceError, InputError

LABELS_FILE = "labels.csv"
LOCK = ".labels.lock"  # lock file on file systems that cannot lock a folder
PARTS = ("train", "test", "")
REQUIRED = ("recording", "label")
_SEPARATORS = re.compile(r"[ _-]+")

_REMOVABLE_BLANK = re.compile(r"(?<!\d) | (?!\d)")
"""A blank between two digits is kept: subject 1-1 is not subject 11, but is subject 1_1."""


@dataclass(frozen=True)
class LabeledClip:
    """One labeled clip, a line of the labels file."""

    recording: str  # path relative to the labels file's folder
    label: str
    start_s: float = 0.0  # from the recording's first frame
    end_s: float = math.inf
    person: str = ""  # name of the person; empty if unknown
    body: str = ""  # id of the labeled body; empty for the body that is in view most
    part: str = ""  # "train" or "test", for the split "part"; empty for neither

    @property
    def whole(self) -> bool:
        """Whether the clip is the whole recording."""
        return self.start_s == 0.0 and self.end_s == math.inf

    @property
    def span(self) -> tuple[str, float, float]:
        """The recording and its span; several lines may share it, one for each body."""
        return self.recording, self.start_s, self.end_s


COLUMNS = tuple(field.name for field in fields(LabeledClip))


def read_labels(path: str | Path) -> list[LabeledClip]:
    """Read the clips of a labels file, in order; the recordings themselves are not checked.

    Raises:
        DeviceError: The file does not exist.
        InputError: A column is unknown or missing, a line is invalid, or two lines label the same clip and body; the
            message gives the line.
    """
    path = Path(path)
    lines = csv.reader(io.StringIO(read_text(path)), strict=True)
    try:
        header = [name.strip().lower() for name in next(lines, [])]
        _check_header(path, header)
        clips: list[LabeledClip] = []
        bodies: dict[tuple[str, float, float], set[str]] = {}
        for values in lines:
            if not any(value.strip() for value in values):
                continue
            where = f"'{path}' line {lines.line_num}"
            clip = _parse_clip(where, header, values)
            others = bodies.setdefault(clip.span, set())
            if others and ("" in others or clip.body in {*others, ""}):
                raise InputError(
                    f"{where} repeats '{clip.recording}' from {clip.start_s:g} s; remove one, or fill in body in each"
                )
            others.add(clip.body)
            clips.append(clip)
    except csv.Error as error:
        raise InputError(f"'{path}' line {lines.line_num} is invalid CSV: {error}; quote values with commas") from error
    return clips


def is_printable(text: str) -> bool:
    """Return whether `text` has at most 80 characters, all printable."""
    return len(text) <= 80 and text.isprintable()


def check_label(where: str, label: str) -> None:
    """Refuse other spellings of `unknown`, which would become an action of their own.

    Raises:
        InputError: The label is "Unknown" or similar.
    """
    if label != UNKNOWN and label.casefold() == UNKNOWN:
        raise InputError(f"{where}: the label is '{label}'; clips of none of your actions have the label '{UNKNOWN}'")


def find_respelling(name: str, others: Iterable[str]) -> str:
    """Return the other label or person that differs from `name` only in spelling (`normalize_name`), or ""."""
    normalized = normalize_name(name)
    return next((o for o in others if normalized and o != name and normalize_name(o) == normalized), "")


def normalize_name(name: str) -> str:
    """Return a name for comparison: without case, blanks, hyphens, underscores and Unicode composition."""
    composed = unicodedata.normalize("NFC", name)  # "ä" is one code point or two, depending on the system
    return _REMOVABLE_BLANK.sub("", _SEPARATORS.sub(" ", composed.casefold()))


def _check_header(path: Path, header: Sequence[str]) -> None:
    missing = [name for name in REQUIRED if name not in header]
    unknown = [name for name in header if name not in COLUMNS]
    if missing or unknown or len(set(header)) < len(header):
        nameless = dict.fromkeys(name or "a column without a name" for name in unknown)
        wrong = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(nameless) or 'one column twice'}"
        hint = " with commas between, not semicolons" if any(";" in name for name in header) else ""
        raise InputError(f"'{path}' {wrong}: its first line must list columns out of {','.join(COLUMNS)}{hint}")


def _parse_clip(where: str, header: Sequence[str], values: Sequence[str]) -> LabeledClip:
    if len(values) != len(header):
        raise InputError(f"{where} has {len(values)} values for {len(header)} columns; complete it")
    given: dict[str, Any] = {name: text.strip() for name, text in zip(header, values, strict=True) if text.strip()}
    for name in REQUIRED:
        if name not in given:
            raise InputError(f"{where} has no {name}; fill it in or remove the line")
    for name in ("start_s", "end_s"):
        text = given.get(name, "0")
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            raise InputError(f"{where}: {name} is '{text}', expected seconds from the recording's first frame")
        if name in given:
            given[name] = seconds
    for name in ("label", "person"):
        if not is_printable(text := given.get(name, "")):
            raise InputError(f"{where}: {name} is {text!r}, expected up to 80 printable characters, such as 'wave'")
    recording = PurePath(given["recording"])
    if recording.anchor or ".." in recording.parts:
        raise InputError(
            f"{where}: recording is '{recording}', expected a path in the folder of the recordings: move or link it "
            "there"
        )
    given["recording"] = recording.as_posix()  # also for "wave_001/" and "./wave_001"
    clip = LabeledClip(**given)
    check_label(where, clip.label)
    if clip.end_s <= clip.start_s:
        raise InputError(f"{where}: end_s {clip.end_s:g} is not after start_s {clip.start_s:g}")
    if clip.part not in PARTS:
        raise InputError(f"{where}: part is '{clip.part}', expected train, test or nothing")
    return clip


def write_labels(path: str | Path, clips: Sequence[LabeledClip]) -> None:
    """Write a labels file atomically.

    Raises:
        DeviceError: The disk is full or read-only.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for clip in clips:
        start, end = (f"{s:.3f}".rstrip("0").rstrip(".") for s in (clip.start_s, clip.end_s))
        times = start, "" if math.isinf(clip.end_s) else end
        rows.writerow([clip.recording, clip.label, *times, clip.person, clip.body, clip.part])
    folders.write_file(Path(path), text.getvalue().encode(), "free space or choose another folder")


def add_label(path: str | Path, clip: LabeledClip) -> None:
    """Add a line to a labels file, or create the file; several processes may do so at once.

    Raises:
        DeviceError: The file cannot be written.
        InputError: The existing file is invalid.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:  # the system releases a lock if this process is killed
        try:
            descriptor = os.open(path.parent, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            file_lock.lock(descriptor)
        except OSError as error:
            if error.errno != errno.EBADF and os.name != "nt":
                raise
            # NFS locks only files open for writing, and Windows opens no folders.
            file = stack.enter_context(open(path.parent / LOCK, "w", encoding="ascii"))
            file_lock.lock(file.fileno())
        write_labels(path, [*(read_labels(path) if path.exists() else []), clip])


@dataclass(frozen=True)
class OwnLabels:
    """Labels that a skeleton file holds itself.

    Attributes:
        actions: The labeled spans; None if the file has no labels.
        background: The time between them, labeled `unknown`.
        layout: Of the file's joints: `kinect_v2_25`, or `hand_22` for hands.
    """

    actions: tuple[LabeledClip, ...] | None
    background: tuple[LabeledClip, ...]
    layout: str


def own_labels(root: Path, fps: float = 0.0) -> dict[str, OwnLabels]:
    """Return the labels of the files of `actrec.recordings.skeleton_npz` in a folder and its folders.

    Files in a folder that is itself a recording, as `actrec simulate` writes beside its images, are none of them.

    Args:
        root: The folder, to which the recordings' paths are relative.
        fps: Frame rate of files without stamps, Hz; 0 for their own.

    Raises:
        DeviceError: A folder cannot be read.
        InputError: A file is invalid. A damaged archive, whose format is unknown, is left to its reader.
    """
    found = {}
    tops = [top for top in _visible_entries(root) if not top.is_dir() or not _is_unclassified(top)]
    for path in [file for top in tops for file in (_visible_entries(top) if top.is_dir() else [top])]:
        with contextlib.suppress(InputError):
            if path.suffix.lower() == ".npz" and skeleton_format(path) == "npz":
                found[path.relative_to(root).as_posix()] = path
    return {name: _read_own(path, name, fps) for name, path in found.items()}


def _read_own(path: Path, name: str, fps: float) -> OwnLabels:
    (sequence,) = open_sequences(path, fps)
    labels, background = sequence.meta["labels"], sequence.meta["background"]
    actions = None if labels is None else tuple(replace(clip, recording=name) for clip in labels)
    return OwnLabels(actions, tuple(replace(clip, recording=name) for clip in background), sequence.layout)


def clips_by_folder(root: Path, own: Mapping[str, Sequence[LabeledClip]] = MappingProxyType({})) -> list[LabeledClip]:
    """Return the recordings in a folder per class; log a warning for each other file.

    Args:
        root: The folder of folders.
        own: Labels that files hold themselves, by path relative to `root`, instead of their folder's.

    Raises:
        DeviceError: A folder cannot be read.
        InputError: A recording lies outside the class folders, or a folder's name is not a valid label.
    """
    clips: list[LabeledClip] = []
    for label in _visible_entries(root):
        if _is_unclassified(label) and label.name not in own:
            within = ", or save its labels in it" if label.suffix.lower() == ".npz" else ""
            raise InputError(
                f"'{label}' lies outside the class folders: move it into one, or write {LABELS_FILE}{within}"
            )
        if not label.is_dir():
            clips += own.get(label.name, ())
            continue
        inside = _visible_entries(label)
        labeled = [path for path in inside if f"{label.name}/{path.name}" in own]
        if len(labeled) < len(inside):
            check_label(f"folder '{label}'", label.name)
        for path in inside:
            if path in labeled:
                clips += own[f"{label.name}/{path.name}"]
            elif is_recording(path):
                if labeled and path.suffix.lower() == ".npz":
                    skeleton_format(path)  # raises if it is damaged: its labels are in it, the folder's name is none
                clips.append(LabeledClip(f"{label.name}/{path.name}", label.name))
            else:
                log.warning("skipping '%s': not a recording", path)
    return clips


def unlabeled_recordings(root: Path, clips: list[LabeledClip]) -> list[str]:
    """Return the recordings in a folder and its folders that are missing in its labels file.

    Raises:
        DeviceError: A folder cannot be read.
    """
    labeled = {(root / clip.recording).resolve() for clip in clips}
    found = []
    for path in _visible_entries(root):
        inside = _visible_entries(path) if path.is_dir() and not is_recording(path) else [path]
        unknown = (path for path in inside if path != root / LABELS_FILE and path.resolve() not in labeled)
        found += [path.relative_to(root).as_posix() for path in unknown if is_recording(path)]
    return found


def _visible_entries(folder: Path) -> list[Path]:
    """Return the sorted entries of a folder that are not hidden."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DeviceError(f"cannot read '{folder}': {error.strerror}") from error


def is_recording(path: Path) -> bool:
    """Return whether a path is a recording, by its name.

    Raises:
        DeviceError: The folder cannot be read.
    """
    if not path.exists():  # a broken link
        return False
    try:
        return detect_format(path) != "folder" or _holds_images(path)
    except InputError:
        return path.suffix.lower() == ".npz"  # damaged; reading it will raise


def _is_unclassified(path: Path) -> bool:
    """Return whether an entry beside class folders is a recording; a folder of bag files may be a class."""
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or _holds_images(path)
    if path.suffix.lower() not in (".csv", ".json"):
        return is_recording(path)
    try:  # may also be notes or settings
        return bool(open_sequences(path))
    except (DeviceError, InputError):
        return False


def _holds_images(folder: Path) -> bool:
    """Return whether a folder is a recording of images (`actrec.recordings.image_folder`)."""
    files = [*folder.glob("*"), *(file for name in COLOR_FOLDERS for file in folder.glob(f"{name}/*"))]
    return any(file.suffix.lower() in SUFFIXES for file in files)
