"""A robot's poses, one a picture, from a file.

CSV with a header: `image,x,y,z,qx,qy,qz,qw`, or `image,x,y,z,rx,ry,rz` with a rotation vector in radians (what a UR
prints). YAML: a list of `{image, translation: {x, y, z}, rotation: {x, y, z, w}}` (what tf2_echo and geometry_msgs
have), or of `{image, pose: [16 numbers, row by row]}`. Each is gripper → base: the gripper's pose in the base frame.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from actrec.camera_files import rigid, rotation_matrix, unit_quaternion
from actrec.errors import DeviceError, InputError
from actrec_calibration.transforms import inverse, pose_of

UNITS = {"m": 1.0, "mm": 0.001}


def read(path: str | Path, unit: str = "m", inverted: bool = False) -> dict[str, np.ndarray]:
    """Poses [4, 4] gripper → base by picture's name.

    Args:
        path: CSV or YAML.
        unit: Of the translations, one of `UNITS`.
        inverted: The file has base → gripper.

    Raises:
        DeviceError: There is no such file.
        InputError: A row is no pose, or a picture has two.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")  # tables saved by Excel begin with a mark
    except OSError as error:
        raise DeviceError(f"cannot read poses '{path}': {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is no text: give poses as CSV or YAML") from error
    rows = _csv(path, text) if path.suffix.lower() == ".csv" else _yaml(path, text)
    poses: dict[str, np.ndarray] = {}
    for number, row in enumerate(rows, 1):
        try:
            name, pose = _pose(row)
        except (KeyError, TypeError, ValueError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"'{path}' pose {number}: {what}; expected image, x, y, z and qx, qy, qz, qw") from error
        if name in poses:
            raise InputError(f"'{path}' pose {number}: '{name}' has a pose already; give one a picture")
        pose[:3, 3] *= UNITS[unit]
        poses[name] = inverse(pose) if inverted else pose
    if not poses:
        raise InputError(f"'{path}' holds no poses; expected a header image,x,y,z,qx,qy,qz,qw and a row a picture")
    return poses


def _csv(path: Path, text: str) -> list[dict[str, Any]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    try:
        return list(csv.DictReader(lines, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise InputError(f"'{path}' is no CSV: {error}; is a quotation mark left open?") from error


def _yaml(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"'{path}' is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, list):
        raise InputError(f"'{path}' is no list of poses; expected - {{image, translation, rotation}} for each picture")
    return content


def _pose(row: dict[str, Any]) -> tuple[str, np.ndarray]:
    if None in row:  # DictReader's key for them
        raise ValueError("more values than the header has names: write decimals with a point")
    name = str(row["image"]).strip()
    if "pose" in row:
        return name, rigid(np.array(row["pose"], np.float64).reshape(4, 4))
    if "translation" in row:
        row = {**row["translation"], **{f"q{axis}": row["rotation"][axis] for axis in "xyzw"}}
    pose = np.eye(4)
    if "qw" in row:
        pose[:3, :3] = rotation_matrix(*unit_quaternion([row[f"q{axis}"] for axis in "xyzw"]))
    else:
        vector = np.array([float(row[f"r{axis}"]) for axis in "xyz"])
        if not np.linalg.norm(vector) < 2 * np.pi + 0.01:
            raise ValueError("a rotation vector longer than a full turn: give radians")
        pose[:3, :3] = pose_of(np.concatenate([vector, np.zeros(3)]))[:3, :3]
    pose[:3, 3] = [float(row[axis]) for axis in "xyz"]
    return name, rigid(pose)
