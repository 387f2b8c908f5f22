"""Points in space with their pixels, from CSV and from NTU RGB+D's `.skeleton` files."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actrec.camera_files import DEPTH
from actrec.errors import ConfigError, DeviceError, InputError
from actrec.geometry import KINECT_TO_OPTICAL
from actrec.recordings.ntu import COLOUR_SIZE, DEPTH_SIZE, read_ntu_file

_COLUMNS = ("x", "y", "z", "u", "v")


@dataclass(frozen=True)
class Given:
    """Points [N, 3] metres, pixels [N, 2], NaN where missing, and the picture's width and height."""

    points: np.ndarray
    pixels: np.ndarray
    size: tuple[int, int]


def read(files: list[Path], part: str, size: str | None = None) -> Given:
    """All points of files of one kind and one camera.

    Args:
        files: CSV or `.skeleton`.
        part: Whose pixels of a `.skeleton`: "color" or "depth".
        size: "W,H" of the picture, for CSV.

    Raises:
        ConfigError: The size is missing or no size.
        DeviceError: A file is not there.
        InputError: A file is damaged.
    """
    if all(file.suffix == ".skeleton" for file in files):
        return _skeletons(files, DEPTH_SIZE if part == DEPTH else COLOUR_SIZE, part)
    rows = np.concatenate([_csv(file) for file in files])
    return Given(rows[:, :3], rows[:, 3:], _size(size))


def _skeletons(files: list[Path], size: tuple[int, int], part: str) -> Given:
    points, pixels = [], []
    for file in files:
        recording = read_ntu_file(file)
        seen = recording.depth_pixels if part == DEPTH else recording.colour_pixels
        points.append((recording.positions * KINECT_TO_OPTICAL).reshape(-1, 3))
        # The dataset's pictures are mirrored. In float64: unmirror's float32 is coarser than the fit.
        pixels.append(np.stack([size[0] - 1 - seen[..., 0], seen[..., 1]], axis=-1).reshape(-1, 2))
    return Given(np.concatenate(points), np.concatenate(pixels), size)


def _csv(file: Path) -> np.ndarray:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:  # tables saved by Excel begin with a mark
            rows = list(csv.DictReader(lines, skipinitialspace=True, strict=True))
        if any(None in row for row in rows):  # DictReader's key for them
            raise ValueError("a row with more values than the header has names: write decimals with a point")
        return np.array([[float(row[column]) for column in _COLUMNS] for row in rows]).reshape(-1, len(_COLUMNS))
    except OSError as error:
        raise DeviceError(f"cannot read points '{file}': {error.strerror}; check the path") from error
    except csv.Error as error:
        raise InputError(f"'{file}' is no CSV: {error}; is a quotation mark left open?") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"'{file}' is no table of points ({error}); expected a header x,y,z,u,v and numbers"
        ) from error


def _size(text: str | None) -> tuple[int, int]:
    if text is None:
        raise ConfigError("give the picture's size with --size W,H")
    try:
        width, height = (int(word) for word in text.replace("x", ",").split(","))
        if min(width, height) <= 0:
            raise ValueError("no size")
    except ValueError as error:
        raise ConfigError(f"--size is '{text}', expected W,H, e.g. 640,480") from error
    return width, height
