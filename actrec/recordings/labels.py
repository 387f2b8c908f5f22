"""The labels file of a person's own recordings: one line a clip, as CSV with a header.

    recording,label,start_s,end_s,person,body,part
    wave_001,wave,0,4.02,anna,body_1,

`recording` (a path beside the file) and `label` must be there, the others may be empty or left out.

A folder a class: recordings whose label is the name of the folder that they lie in.
"""

import contextlib
import csv
import errno
import fcntl
import io
import logging
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path, PurePath

from actrec.recordings import sniff
from actrec.recordings.image_folder import COLOR_FOLDERS, SUFFIXES
from actrec.recordings.skeleton_files import open_sequences
from actrec.skeleton.sequence import read_text
from actrec.types import UNKNOWN
from actrec.utils.errors import DeviceError, InputError

FILE = "labels.csv"

LOCK = ".labels.lock"
"""Beside it where a folder itself cannot be locked."""

PARTS = ("train", "test", "")

REQUIRED = ("recording", "label")

_SPACING = re.compile(r"[ _-]+")

_LOOSE = re.compile(r"(?<!\d) | (?!\d)")
"""Between two digits a blank tells names apart: subject 1-1 is not subject 11, but is subject 1_1."""


@dataclass(frozen=True)
class LabeledClip:
    """One line.

    Attributes:
        recording: Path of the recording, relative to the labels file's folder.
        label: What is done in it.
        start_s, end_s: Where, in seconds from its first frame; by default all of it.
        person: Who does it; empty where nobody says.
        body: Id of the body that it is about; empty: whoever is in view most.
        part: "train" or "test", for the split "part"; empty for neither.
    """

    recording: str
    label: str
    start_s: float = 0.0
    end_s: float = math.inf
    person: str = ""
    body: str = ""
    part: str = ""

    @property
    def whole(self) -> bool:
        """Whether it is all of the recording."""
        return self.start_s == 0.0 and self.end_s == math.inf

    @property
    def span(self) -> tuple[str, float, float]:
        """What of which recording; several lines may be about it, of a body each."""
        return self.recording, self.start_s, self.end_s


COLUMNS = tuple(field.name for field in fields(LabeledClip))


def read_labels(path: str | Path) -> list[LabeledClip]:
    """The clips that a labels file names, in its order. Whether the recordings are there is not looked at.

    Raises:
        DeviceError: There is no such file.
        InputError: A column is unknown or missing, a line is wrong, or two lines name the same clip, if they are not
            about a body each; names the line.
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
            clip = _clip(where, header, values)
            others = bodies.setdefault(clip.span, set())
            if others and ("" in others or clip.body in {*others, ""}):
                raise InputError(
                    f"{where} names '{clip.recording}' a second time, from {clip.start_s:g} s: remove one, or say of "
                    "each which body it is about"
                )
            others.add(clip.body)
            clips.append(clip)
    except csv.Error as error:
        raise InputError(f"'{path}' line {lines.line_num} is no CSV: {error}; quote what holds a comma") from error
    return clips


def printable(text: str) -> bool:
    """Whether it can be shown in one line of a table or a terminal as it is: up to 80 printable characters."""
    return len(text) <= 80 and text.isprintable()


def check_label(where: str, label: str) -> None:
    """Refuses what would pass for `unknown` and be an action of its own.

    Raises:
        InputError: It is "Unknown", or written otherwise.
    """
    if label != UNKNOWN and label.casefold() == UNKNOWN:
        raise InputError(f"{where}: the label is '{label}'; what is none of your actions is called '{UNKNOWN}'")


def alike(name: str, others: Iterable[str]) -> str:
    """The one of other labels, or people, that differs by case, blanks, hyphens, underscores or coding alone, or ""."""
    written = plain(name)
    return next((other for other in others if written and other != name and plain(other) == written), "")


def plain(name: str) -> str:
    """A label as it is compared: without case, blanks, hyphens, underscores and coding."""
    composed = unicodedata.normalize("NFC", name)  # "ä" is one sign or two, by keyboard and system, and looks the same
    return _LOOSE.sub("", _SPACING.sub(" ", composed.casefold()))


def _check_header(path: Path, header: Sequence[str]) -> None:
    missing = [name for name in REQUIRED if name not in header]
    unknown = [name for name in header if name not in COLUMNS]
    if missing or unknown or len(set(header)) < len(header):
        nameless = dict.fromkeys(name or "a column without a name" for name in unknown)
        wrong = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(nameless) or 'one column twice'}"
        hint = " with commas between, not semicolons" if any(";" in name for name in header) else ""
        raise InputError(f"'{path}' {wrong}: its first line must name columns of {','.join(COLUMNS)}{hint}")


def _clip(where: str, header: Sequence[str], values: Sequence[str]) -> LabeledClip:
    if len(values) != len(header):
        raise InputError(f"{where} has {len(values)} values for {len(header)} columns; complete it")
    given = {name: value.strip() for name, value in zip(header, values, strict=True) if value.strip()}
    for name in REQUIRED:
        if name not in given:
            raise InputError(f"{where} has no {name}; fill it in or remove the line")
    start, end = (_seconds(where, name, given.get(name)) for name in ("start_s", "end_s"))
    texts = [given.get(name, "") for name in ("recording", "label", "person", "body", "part")]
    for name, text in (("label", texts[1]), ("person", texts[2])):
        if not printable(text):
            raise InputError(f"{where}: {name} is {text!r}, expected up to 80 printable characters, such as 'wave'")
    check_label(where, texts[1])
    clip = LabeledClip(
        str(PurePath(texts[0])),  # "wave_001/" and "./wave_001" are wave_001
        texts[1],
        start or 0.0,
        math.inf if end is None else end,
        person=texts[2],
        body=texts[3],
        part=texts[4],
    )
    if clip.end_s <= clip.start_s:
        raise InputError(f"{where}: end_s {clip.end_s:g} is not after start_s {clip.start_s:g}")
    if clip.part not in PARTS:
        raise InputError(f"{where}: part is '{clip.part}', expected train, test or nothing")
    return clip


def _seconds(where: str, name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise InputError(f"{where}: {name} is '{text}', expected seconds from the recording's first frame")
    return value


def write_labels(path: str | Path, clips: Sequence[LabeledClip]) -> None:
    """Writes a labels file whole, at once: a reader sees the old or the new one.

    Raises:
        DeviceError: The disk is full or read-only.
    """
    path = Path(path)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows([_text(value) for value in astuple(clip)] for clip in clips)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with staging.open("w", encoding="utf-8") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, path)
    except OSError as error:
        staging.unlink(missing_ok=True)
        raise DeviceError(f"cannot write '{path}': {error.strerror}; free space or choose another folder") from error


def _text(value: str | float) -> str:
    if isinstance(value, float):
        return "" if math.isinf(value) else f"{value:.3f}".rstrip("0").rstrip(".")
    return value


def add_label(path: str | Path, clip: LabeledClip) -> None:
    """Adds a line to a labels file, which is made where there is none; several programs may do so at once.

    Raises:
        DeviceError: It cannot be written.
        InputError: The file that is there is wrong.
    """
    path = Path(path)
    with _alone(path.parent):
        write_labels(path, [*(read_labels(path) if path.exists() else []), clip])


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds a folder's lock, which the system lets go of even where this process is killed."""
    with contextlib.ExitStack() as held:
        descriptor = os.open(folder, os.O_RDONLY)
        held.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            # NFS locks only what is open for writing, which no folder ever is.
            file = held.enter_context(open(folder / LOCK, "w", encoding="ascii"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


logger = logging.getLogger(__name__)


def by_folder(root: Path) -> list[LabeledClip]:
    """The recordings in a folder's folders. What is no recording is left out and named.

    Raises:
        DeviceError: A folder cannot be read.
        InputError: A recording lies outside any class, or a folder is called as no label may be.
    """
    clips = []
    for label in _listed(root):
        if _is_itself_recording(label):
            raise InputError(
                f"'{label}' lies outside any class: put it in a folder named as its label, or write {FILE}"
            )
        if not label.is_dir():
            continue
        inside = _listed(label)
        check_label(f"folder '{label}'", label.name)
        for path in inside:
            if is_recording(path):
                clips.append(LabeledClip(f"{label.name}/{path.name}", label.name))
            else:
                logger.warning("'%s' is no recording and is left out", path)
    return clips


def unnamed(root: Path, clips: list[LabeledClip]) -> list[str]:
    """The recordings in a folder and its folders that no line of its labels file names.

    Raises:
        DeviceError: A folder cannot be read.
    """
    named = {(root / clip.recording).resolve() for clip in clips}
    found = []
    for path in _listed(root):
        inside = _listed(path) if path.is_dir() and not is_recording(path) else [path]
        unknown = (one for one in inside if one != root / FILE and one.resolve() not in named)
        found += [str(one.relative_to(root)) for one in unknown if is_recording(one)]
    return found


def _listed(folder: Path) -> list[Path]:
    """What is in a folder and not hidden, in order."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DeviceError(f"cannot read '{folder}': {error.strerror}") from error


def is_recording(path: Path) -> bool:
    """Whether this is a recording, as far as its name tells.

    Raises:
        DeviceError: It is a folder that cannot be read.
    """
    if not path.exists():  # a link that leads nowhere
        return False
    try:
        return sniff(path) != "folder" or _holds_images(path)
    except InputError:
        return path.suffix == ".npz"  # damaged, which is said when it is read


def _is_itself_recording(path: Path) -> bool:
    """As `is_recording`, of what lies beside classes: a folder of bags' files is none, for it may be a class."""
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or _holds_images(path)
    if path.suffix not in (".csv", ".json"):
        return is_recording(path)
    try:  # notes and settings are called so too
        return bool(open_sequences(path))
    except (DeviceError, InputError):
        return False


def _holds_images(folder: Path) -> bool:
    """Whether a folder is itself a recording of images (`actrec.recordings.image_folder`)."""
    files = [*folder.glob("*"), *(file for name in COLOR_FOLDERS for file in folder.glob(f"{name}/*"))]
    return any(file.suffix.lower() in SUFFIXES for file in files)
