"""A folder a class: recordings whose label is the name of the folder that they lie in."""

import logging
from pathlib import Path

from actrec.errors import DeviceError, InputError
from actrec.recordings import sniff
from actrec.recordings.folder import COLOUR_FOLDERS, SUFFIXES
from actrec.recordings.labels import FILE, LabelledClip, check_label
from actrec.recordings.skeletons import open_sequences

logger = logging.getLogger(__name__)


def by_folder(root: Path) -> list[LabelledClip]:
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
                clips.append(LabelledClip(f"{label.name}/{path.name}", label.name))
            else:
                logger.warning("'%s' is no recording and is left out", path)
    return clips


def unnamed(root: Path, clips: list[LabelledClip]) -> list[str]:
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
    """Whether a folder is itself a recording of images (`actrec.recordings.folder`)."""
    files = [*folder.glob("*"), *(file for name in COLOUR_FOLDERS for file in folder.glob(f"{name}/*"))]
    return any(file.suffix.lower() in SUFFIXES for file in files)
