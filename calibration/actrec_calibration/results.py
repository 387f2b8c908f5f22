"""What calibrations write and print alike."""

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np

from actrec import camera_files
from actrec.errors import ConfigError, InputError
from actrec.frames import Intrinsics
from actrec.recordings.intrinsics import from_yaml
from actrec_calibration.transforms import angles

OPTICAL = "camera_color_optical_frame"


def add_command(subparsers: Any, name: str, help_line: str, epilog: str) -> argparse.ArgumentParser:
    """A command's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=help_line,
        description=f"{help_line[0].upper()}{help_line[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_output(parser: argparse.ArgumentParser) -> None:
    """Declares where results go and how they are printed."""
    parser.add_argument("--serial", required=True, help="serial number of the camera: names its files")
    add_cameras(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the result that is there")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_cameras(parser: argparse.ArgumentParser) -> None:
    """Declares where cameras' files lie."""
    parser.add_argument(
        "--cameras",
        type=Path,
        metavar="DIR",
        help="folder of the cameras' files (default: calibration/cameras or the user's)",
    )


def target(args: argparse.Namespace, part: str) -> Path:
    """The file of that part of the camera."""
    return camera_files.path_of(args.serial, part, args.cameras)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raises ConfigError where `path` would be lost."""
    if path.exists() and not overwrite:
        raise ConfigError(f"'{path}' is there already: add --overwrite to replace it")


def intrinsics(args: argparse.Namespace, given: Path | None, part: str, option: str) -> Intrinsics:
    """Those of a file given, or the camera's own.

    Raises:
        InputError: There are none.
    """
    path = given or target(args, part)
    if given is None and not path.is_file():
        raise InputError(f"no intrinsics '{path}': run actrec calibrate intrinsics first, or name a file with {option}")
    return from_yaml(path)


def pose_figures(pose: np.ndarray, sigma_m: np.ndarray, sigma_deg: np.ndarray) -> dict[str, Any]:
    """A transform for people and scripts: millimetres, degrees about fixed axes, and the 4×4."""
    return {
        "translation_mm": [round(1e3 * float(value), 2) for value in pose[:3, 3]],
        "roll_pitch_yaw_deg": [round(value, 3) for value in angles(pose)],
        "sigma_mm": [round(1e3 * float(value), 2) for value in sigma_m],
        "sigma_deg": [round(float(value), 3) for value in sigma_deg],
        "matrix": [[float(value) for value in row] for row in pose],
    }


def note(command: str, figures: dict[str, Any]) -> str:
    """Comment at the top of a result: which command, when, and its single figures."""
    today = datetime.datetime.now().astimezone().isoformat(timespec="minutes")
    plain = {
        key: value for key, value in figures.items() if isinstance(value, (int, float, str, list)) and key != "file"
    }
    lines = [f"{key}: {value}" for key, value in plain.items() if not _is_rows(value)]
    return "\n".join([f"actrec calibrate {command}, {today}", *lines])


def report(args: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Prints the figures."""
    if args.json:
        print(json.dumps(figures, indent=2))
        return
    for key, value in figures.items():
        if _is_rows(value):
            _print_rows(key, value)
        elif isinstance(value, dict):
            print(f"{key}:")
            for inner, of in value.items():
                if inner != "matrix":
                    print(f"  {inner}: {of}")
        else:
            print(f"{key}: {value}")


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    print(f"{title}:")
    print("  " + "".join(f"{column:>14}" for column in rows[0]))
    for row in rows:
        print("  " + "".join(f"{value!s:>14}" for value in row.values()))
