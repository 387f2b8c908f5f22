"""Skeleton recordings of every known format: one call to open any of them.

Kinect v2 captures as CSV: a row a frame, `time, then x, y, z, state of 25 joints`, time in ticks of 100 ns.
"""

from pathlib import Path

import numpy as np

from actrec.skeleton.sequence import TRACKED_SCORES, SkeletonSequence, from_kinect, read_text
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec.utils.registry import Registry

__all__ = ["FORMATS", "SkeletonSequence", "open_sequence", "open_sequences", "read_kinect_csv", "sniff"]

TICK_NS = 100
"""The Kinect's relative time counts 100 ns: 30 Hz frames lie 330,000 apart."""

_LATEST = 2**53
"""Ticks: 28 years."""

_VALUES = 1 + 25 * 4


def read_kinect_csv(path: str | Path) -> SkeletonSequence:
    """Reads one capture; stamps are the sensor's.

    Raises:
        DeviceError: There is no such file.
        InputError: A row has too few values (a truncated file), something that is no number, or a time that does not
            come after that of the row before.
    """
    path = Path(path)
    rows = [line.rstrip().rstrip(",").split(",") for line in read_text(path).splitlines() if line.strip()]
    if not rows:
        raise InputError(f"'{path}' is empty; record it again")
    for number, row in enumerate(rows, 1):
        if len(row) != _VALUES:
            raise InputError(f"'{path}' line {number} has {len(row)} values, expected {_VALUES}; remove or complete it")
    try:
        ticks = np.array([int(row[0]) for row in rows], dtype=np.int64)
        joints = np.array([row[1:] for row in rows], dtype=np.float64).reshape(1, len(rows), 25, 4)
    except (ValueError, OverflowError) as error:
        raise InputError(f"'{path}' is no Kinect v2 capture: {error}") from error
    _check_times(path, ticks)
    states = joints[..., 3]
    if not np.isin(states, (0, 1, 2)).all():
        raise InputError(f"'{path}' is no Kinect v2 capture: a tracking state is none of 0, 1, 2")
    meta = {"format": "kinect_v2_csv"}
    scores = TRACKED_SCORES[states.astype(int)]
    return from_kinect(path.stem, joints[..., :3], "kinect_v2_25", ticks * TICK_NS, scores=scores, meta=meta)


def _check_times(path: Path, ticks: np.ndarray) -> None:
    wrong = np.flatnonzero((np.diff(ticks, prepend=-1) <= 0) | (ticks > _LATEST))
    if len(wrong):
        raise InputError(
            f"'{path}' line {wrong[0] + 1}: its time, {ticks[wrong[0]]}, is not after that of the line before, or no "
            "time of a Kinect; remove it"
        )


FORMATS = Registry(
    "skeleton format",
    {
        "ntu": "actrec.datasets.ntu.skeletons:read_ntu_skeleton",
        "nucla_json": "actrec.datasets.nucla:read_nucla_json",
        "nucla_npz": "actrec.datasets.nucla:read_nucla_npz",
        "utd_mhad_mat": "actrec.datasets.utd_mhad:read_utd_mhad_mat",
        "utd_mhad_npz": "actrec.datasets.utd_mhad:read_utd_mhad_npz",
        "kinect_v2_csv": "actrec.recordings.skeleton_files:read_kinect_csv",
    },
    install={"scipy": "pip install scipy"},
)

_SUFFIXES = {".skeleton": "ntu", ".json": "nucla_json", ".mat": "utd_mhad_mat", ".csv": "kinect_v2_csv"}


def sniff(path: str | Path) -> str | None:
    """The name in `FORMATS` of the skeleton file at `path`; None where it is none of them.

    Raises:
        InputError: It is an .npz that cannot be read.
    """
    path = Path(path)
    if path.suffix != ".npz" or not path.is_file():
        return _SUFFIXES.get(path.suffix)
    try:
        with np.load(path, allow_pickle=False) as archive:
            keys = set(archive.files)
    except Exception as error:  # zipfile and numpy each raise their own for a damaged file
        raise InputError(f"'{path}' is corrupt or not an .npz archive; copy it again ({error})") from error
    if {"xyz", "length", "name", "label"} <= keys:
        return "nucla_npz"
    return "utd_mhad_npz" if {"xyz", "length", "action", "trial"} <= keys else None


def open_sequences(path: str | Path, fps: float = 0.0, format: str = "auto") -> list[SkeletonSequence]:
    """Every sequence in a file of any known format.

    Args:
        path: The file.
        fps: Frame rate of a format without a clock; 0 takes the dataset's own.
        format: A name in `FORMATS`, or "auto" to tell it from the file.

    Raises:
        DeviceError: There is no such file.
        ConfigError: The format is unknown.
        InputError: The file is corrupt or of no known format.
    """
    path = Path(path)
    if not path.is_file():
        raise DeviceError(f"there is no file '{path}'; check the path")
    name = sniff(path) if format == "auto" else format
    if name is None:
        raise InputError(f"'{path}' is no skeleton recording; known formats: {', '.join(FORMATS.names())}")
    options = {"fps": float(fps)} if fps and name != "kinect_v2_csv" else {}
    result = FORMATS.create(name, path=path, **options)
    return result if isinstance(result, list) else [result]


def open_sequence(
    path: str | Path, name: str | int | None = None, fps: float = 0.0, format: str = "auto"
) -> SkeletonSequence:
    """One sequence of a file of any known format.

    Args:
        path: The file.
        name: Which sequence of a file with several: its name ("a01_s01_e00_v01"), or its index from 0 (also as a
            string). None takes the only one.
        fps: Frame rate of a format without a clock; 0 takes the dataset's own.
        format: A name in `FORMATS`, or "auto".

    Raises:
        ConfigError: No such sequence, or none was chosen where there are several.
        DeviceError, InputError: As `open_sequences`.
    """
    sequences = open_sequences(path, fps, format)
    if name is None:
        if len(sequences) > 1:
            raise ConfigError(
                f"'{path}' holds {len(sequences)} sequences; choose one by name ('{sequences[0].name}' … "
                f"'{sequences[-1].name}') or by index (0 … {len(sequences) - 1})"
            )
        return sequences[0]
    for sequence in sequences:
        if sequence.name == name:
            return sequence
    try:
        index = int(name)
    except ValueError:
        index = -1
    if 0 <= index < len(sequences):
        return sequences[index]
    raise ConfigError(f"'{path}' holds no sequence '{name}'; it holds {len(sequences)}, first '{sequences[0].name}'")
