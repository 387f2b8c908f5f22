"""A folder of colour pictures, one a frame, that stands for a video."""

import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from actrec import image_files
from actrec.errors import InputError
from actrec.recordings.decoding import VideoHead

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp"})
_NUMBER = re.compile(r"(\d+)")


def files(folder: Path, suffixes: frozenset[str] = SUFFIXES) -> list[Path]:
    """The pictures, in the order of the numbers in their names: 10 comes after 9, however they are written.

    Hidden files are none: a Mac puts a `._1.png` beside each 1.png on a disk that is not its own.
    """
    found = [path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith(".")]
    return sorted(found, key=lambda path: [int(t) if t.isdigit() else t for t in _NUMBER.split(path.name)])


def read_head(folder: Path) -> VideoHead:
    """Number and size of the pictures; their rate is not known.

    Raises:
        InputError: There are none, or the first is corrupt.
    """
    found = files(folder)
    if not found:
        raise InputError(f"'{folder}' holds no pictures ({', '.join(sorted(SUFFIXES))}); copy it again")
    height, width = _read(found[0]).shape[:2]
    return VideoHead(len(found), 0.0, (width, height))


def check_numbers(folder: Path) -> None:
    """Refuses a gap in the pictures' numbers: all after it would be taken for earlier ones.

    For a folder that has not as many as there should be; a camera that lost frames leaves gaps too.

    Raises:
        InputError: There is one; names the pictures beside it.
    """
    found = files(folder)
    numbers = [_NUMBER.findall(path.stem) for path in found]
    if len(found) < 3 or any(len(each) != 1 for each in numbers):  # numbered otherwise: nobody can tell
        return
    steps = np.diff([int(each[0]) for each in numbers])
    wrong = np.flatnonzero(steps != np.bincount(steps).argmax())
    if len(wrong):
        before, after = (found[wrong[0] + k].name for k in (0, 1))
        raise InputError(f"'{folder}' lacks pictures between '{before}' and '{after}': copy it again")


def pictures(
    folder: Path, wanted: np.ndarray, head: VideoHead, mirror: bool = False, size: tuple[int, int] | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """(number from 0, [H, W, 3] uint8 RGB) of the pictures `wanted`; no other is read.

    Args:
        folder: Of the pictures.
        wanted: Numbers.
        head: Of the folder.
        mirror: Exchange left and right.
        size: Width and height to scale them to; None keeps theirs.

    Raises:
        InputError: A picture is corrupt, or of another size than the first.
    """
    found = files(folder)
    for number in wanted:
        image = _read(found[number])
        if (image.shape[1], image.shape[0]) != head.size:
            sizes = f"{image.shape[1]}×{image.shape[0]}, the first {head.size[0]}×{head.size[1]}"
            raise InputError(f"'{found[number]}' is {sizes}: they are of different videos")
        image = image if size is None else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        yield int(number), np.ascontiguousarray(image[:, ::-1] if mirror else image)


def _read(path: Path) -> np.ndarray:
    image = image_files.read(path, cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"'{path}' is truncated or no picture; copy it again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
