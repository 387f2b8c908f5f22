"""Skeleton recordings of every known format: one call to open any of them."""

from pathlib import Path

import numpy as np

from actrec.errors import ConfigError, DeviceError, InputError
from actrec.recordings.kinect_csv import read_kinect_csv
from actrec.recordings.ntu import NtuRecording, read_ntu_file, read_ntu_skeleton
from actrec.recordings.nucla import read_nucla_json, read_nucla_npz
from actrec.recordings.sequence import SkeletonSequence
from actrec.recordings.utd_mhad import read_utd_mhad_mat, read_utd_mhad_npz
from actrec.registry import Registry

__all__ = [
    "FORMATS", "NtuRecording", "SkeletonSequence", "open_sequence", "open_sequences", "read_kinect_csv",
    "read_ntu_file", "read_ntu_skeleton", "read_nucla_json", "read_nucla_npz", "read_utd_mhad_mat", "read_utd_mhad_npz",
    "sniff",
]  # fmt: skip

FORMATS = Registry(
    "skeleton format",
    {
        "ntu": "actrec.recordings.ntu:read_ntu_skeleton",
        "nucla_json": "actrec.recordings.nucla:read_nucla_json",
        "nucla_npz": "actrec.recordings.nucla:read_nucla_npz",
        "utd_mhad_mat": "actrec.recordings.utd_mhad:read_utd_mhad_mat",
        "utd_mhad_npz": "actrec.recordings.utd_mhad:read_utd_mhad_npz",
        "kinect_v2_csv": "actrec.recordings.kinect_csv:read_kinect_csv",
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
