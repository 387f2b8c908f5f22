"""The 30 folds of SYSU 3D HOI, from the lists that its authors publish beside the data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actrec.errors import DeviceError, InputError
from actrec.recordings.matlab import read_mats
from actrec.recordings.sequence import load_npz
from actrec.recordings.sysu import CLASSES

COUNT = 30
SUBJECTS = 40
CLIPS = SUBJECTS * len(CLASSES)
PARTS = ("train", "test")


@dataclass(frozen=True)
class Folds:
    """The folds of one split.

    Attributes:
        path: The list.
        parts: For each fold, of train and test the numbers of clips, from 1 (`clip_number`).
    """

    path: Path
    parts: tuple[dict[str, frozenset[int]], ...]

    def part(self, fold: int, clip: int) -> str:
        """The part of fold 1 to 30 that a clip belongs to."""
        return next(part for part in PARTS if clip in self.parts[fold - 1][part])


def clip_number(subject: int, action: int) -> int:
    """1 to 480, as the lists count: the actions of the first subject, those of the second, and so on."""
    return (subject - 1) * len(CLASSES) + action


def read_folds(path: Path, split: str) -> Folds:
    """Reads a list of folds: `train` and `test`, each 30 rows (or a MATLAB cell of 30) of numbers from 1.

    The numbers are those of clips (1 to 480), or where none is above 40 in "cross_subject", those of subjects. Names of
    the arrays may hold more than "train" and "test"; where the file holds one of the two, the rest is the other.

    Args:
        path: A .mat, or an .npz with the same arrays.
        split: "cross_subject" or "same_subject".

    Raises:
        DeviceError: There is no such file.
        InputError: It is corrupt, has other than 30 folds, names a clip twice or one that there is not, leaves one out,
            trains and tests on the same clip, or is of the other split by the subjects that it trains and tests on.
    """
    if not path.is_file():
        raise DeviceError(f"there is no file '{path}'; check the path")
    arrays = load_npz(path, _keys(path)) if path.suffix == ".npz" else read_mats(path)
    lists = {part: _rows(path, part, arrays) for part in PARTS}
    given = [part for part in PARTS if lists[part] is not None]
    if not given:
        raise InputError(f"'{path}' has no array named train or test; it has: {', '.join(arrays) or 'none'}")
    numbers = [row for part in given for row in lists[part] or []]
    people = split == "cross_subject" and max(int(row.max()) for row in numbers) <= SUBJECTS
    folds = []
    for k in range(COUNT):
        sets = {part: _clips(path, k + 1, rows[k], people) for part, rows in lists.items() if rows is not None}
        for part, other in (PARTS, PARTS[::-1]):
            sets.setdefault(part, frozenset(range(1, CLIPS + 1)) - sets.get(other, frozenset()))
        _check(path, k + 1, sets, split)
        folds.append(sets)
    return Folds(path, tuple(folds))


def _keys(path: Path) -> tuple[str, ...]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return tuple(archive.files)
    except Exception as error:  # zipfile and numpy each raise their own for a damaged file
        raise InputError(f"'{path}' is corrupt or not an .npz archive; copy it again ({error})") from error


def _rows(path: Path, part: str, arrays: dict[str, Any]) -> list[np.ndarray] | None:
    """The 30 rows of a part; None where the file has no such array."""
    named = [key for key in arrays if part in key.lower()]
    if not named:
        return None
    if len(named) > 1:
        raise InputError(f"'{path}' has several arrays named {part}: {', '.join(named)}; keep one")
    value = np.asarray(arrays[named[0]])
    if value.dtype == object:
        rows = [np.asarray(row).reshape(-1) for row in value.reshape(-1)]
    else:
        table = np.atleast_2d(value)
        rows = list(table if len(table) == COUNT else table.T)
    if len(rows) != COUNT or not all(len(row) for row in rows):
        raise InputError(f"'{path}': '{named[0]}' {list(value.shape)} is not {COUNT} folds")
    for k, row in enumerate(rows):
        # Infinity is its own round number.
        if row.dtype.kind not in "iuf" or not np.isfinite(row).all() or (row != np.round(row)).any():
            raise InputError(f"'{path}': '{named[0]}' of fold {k + 1} is not whole numbers")
    return rows


def _clips(path: Path, fold: int, row: np.ndarray, people: bool) -> frozenset[int]:
    numbers, largest = [int(n) for n in row], SUBJECTS if people else CLIPS
    wrong = next((n for n in numbers if not 1 <= n <= largest), None)
    if wrong is not None:
        raise InputError(f"'{path}': fold {fold} names {wrong}, but there are 1 to {largest}")
    if len(set(numbers)) < len(numbers):
        twice = next(n for n in numbers if numbers.count(n) > 1)
        raise InputError(f"'{path}': fold {fold} names {twice} twice; copy the list again")
    actions = range(1, len(CLASSES) + 1)
    return frozenset(clip_number(n, a) for n in numbers for a in actions) if people else frozenset(numbers)


def _check(path: Path, fold: int, sets: dict[str, frozenset[int]], split: str) -> None:
    shared = sets["train"] & sets["test"]
    if shared:
        raise InputError(f"'{path}': fold {fold} trains and tests on clip {min(shared)}; copy the list again")
    left_out = frozenset(range(1, CLIPS + 1)) - sets["train"] - sets["test"]
    if left_out:
        raise InputError(
            f"'{path}': fold {fold} neither trains nor tests on {len(left_out)} of the {CLIPS} clips, first "
            f"{min(left_out)}: it is cut; copy the list again"
        )
    subjects = [{(n - 1) // len(CLASSES) + 1 for n in sets[part]} for part in PARTS]
    both = subjects[0] & subjects[1]
    if split == "cross_subject" and both:
        raise InputError(
            f"'{path}': fold {fold} trains and tests on subject {min(both)}: it is no list of split cross_subject"
        )
    if split == "same_subject" and not both:
        raise InputError(
            f"'{path}': fold {fold} trains and tests on nobody in both parts: it is no list of split same_subject"
        )
