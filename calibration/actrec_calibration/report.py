"""A calibration as a folder to look at: report.md and report.json, what the views cover, and each view's residuals.

What calibrations write and print alike.
"""

import argparse
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actrec.types import Intrinsics
from actrec.utils import calibration_files
from actrec.utils.calibration_files import from_yaml
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec_calibration.board import Board, described
from actrec_calibration.coverage import Coverage
from actrec_calibration.intrinsics import GRID, Calibration
from actrec_calibration.live import save
from actrec_calibration.solver import angles

NAMES = ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")

ENLARGED_TO = 0.04
"""Length to which the typical residual is drawn, in image widths."""

_GREEN, _RED, _YELLOW = (60, 220, 60), (230, 60, 60), (240, 220, 60)


def figures(board: Board, found: Calibration, covered: Coverage) -> dict[str, Any]:
    """What a script would read of a calibration."""
    camera = found.camera
    values = (camera.fx, camera.fy, camera.cx, camera.cy, *camera.distortion)
    names = NAMES[: len(values)]
    view_rms = {view.name: _rms(part) for view, part in zip(found.views, found.residuals(board), strict=True)}
    return {
        "width": camera.width,
        "height": camera.height,
        "intrinsics": dict(zip(names, map(float, values), strict=True)),
        "standard_deviations": dict(zip(names, map(float, found.deviations), strict=True)),
        "rms_px": found.rms,
        "held_out_rms_px": found.held_out_rms,
        "uncertainty_px": {
            "middle": float(found.uncertainty[len(found.uncertainty) // 2, 2]),
            "worst": float(found.uncertainty[:, 2].max()),
        },
        "board": described(board),
        "views": view_rms,
        "rejected": found.rejected,
        "corners": sum(len(view.detection) for view in found.views),
        "corners_rejected": found.corners_rejected,
        "unmoved": found.unmoved,
        "missing": covered.missing,
    }


def write(
    folder: Path, board: Board, found: Calibration, covered: Coverage, picture_of: Callable[[str], np.ndarray]
) -> None:
    """Writes the folder, made if need be.

    Args:
        folder: Of the report.
        board: That was seen.
        found: The calibration.
        covered: What its views show.
        picture_of: Gives the [H, W, 3] RGB picture of a view by its name.

    Raises:
        DeviceError: The folder cannot be written.
    """
    said = figures(board, found, covered)
    try:
        (folder / "views").mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(json.dumps(said, indent=2) + "\n")
        (folder / "report.md").write_text(_text(said))
        save(folder / "coverage.png", coverage_picture(found))
        gain = residual_gain(found, board)
        for view, residual in zip(found.views, found.residuals(board), strict=True):
            drawn = residual_picture(picture_of(view.name), view.detection.pixels, residual, gain)
            save(folder / "views" / f"{Path(view.name).stem}.jpg", drawn)
    except OSError as error:
        raise DeviceError(f"cannot write the report '{folder}': {error.strerror}; choose another --report") from error


def residual_gain(found: Calibration, board: Board) -> float:
    """By how much residuals are drawn enlarged: the same in every view, so that views compare."""
    typical = float(np.median(np.concatenate([np.hypot(*part.T) for part in found.residuals(board)])))
    return float(2 ** np.floor(np.log2(ENLARGED_TO * found.camera.width / max(typical, 1e-3))))


def residual_picture(picture: np.ndarray, pixels: np.ndarray, residuals: np.ndarray, gain: float) -> np.ndarray:
    """[H, W, 3] the picture with each corner and its residual, enlarged `gain` times."""
    drawn = (picture * 0.6).astype(np.uint8)
    large = np.hypot(*residuals.T) > 2 * max(_rms(residuals), 1e-6)
    for corner, residual, wrong in zip(pixels, residuals, large, strict=True):
        color = _RED if wrong else _GREEN
        cv2.arrowedLine(drawn, _at(corner), _at(corner + gain * residual), color, 1, cv2.LINE_AA, tipLength=0.25)
        cv2.circle(drawn, _at(corner), 2, _YELLOW, -1, cv2.LINE_AA)
    scale = f"arrows x{gain:g}, rms {_rms(residuals):.3f} px"
    cv2.putText(drawn, scale, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return drawn


def coverage_picture(found: Calibration) -> np.ndarray:
    """[H, W, 3] every corner of every view, over how well the lens is known: dark well, bright badly (1 px: white)."""
    camera = found.camera
    known = found.uncertainty[:, 2].reshape(GRID[::-1])
    back = cv2.resize(np.clip(known, 0, 1).astype(np.float32), (camera.width, camera.height))
    drawn = cv2.applyColorMap((255 * back).astype(np.uint8), cv2.COLORMAP_MAGMA)[..., ::-1].copy()
    for view in found.views:
        for corner in view.detection.pixels:
            cv2.circle(drawn, _at(corner), 2, _GREEN, -1, cv2.LINE_AA)
    return drawn


def _text(said: dict[str, Any]) -> str:
    names, deviations = said["intrinsics"], said["standard_deviations"]
    rows = [f"| {name} | {value:.6g} | {deviations[name]:.2g} |" for name, value in names.items()]
    views = [f"| {name} | {rms:.3f} |" for name, rms in sorted(said["views"].items(), key=lambda item: -item[1])]
    out = [f"- {name}: {reason}" for name, reason in said["rejected"].items()] or ["None."]
    uncertain = said["uncertainty_px"]
    lines = [
        f"# Intrinsics of {said['width']}×{said['height']} images",
        f"Board: {said['board']}. {len(said['views'])} views, {said['corners']} corners "
        f"({said['corners_rejected']} left out).",
        f"RMS {said['rms_px']:.3f} px; of views held out {said['held_out_rms_px']:.3f} px. A point is seen where the "
        f"lens says to ±{uncertain['middle']:.2f} px in the image's middle, ±{uncertain['worst']:.2f} px at its worst "
        "(standard deviation).",
        "| | value | standard deviation |\n| --- | --- | --- |\n" + "\n".join(rows),
        "![what the views cover](coverage.png)",
        "## Still missing",
        "\n".join(f"- {todo}" for todo in said["missing"]) or "Nothing.",
        "## Views left out",
        "\n".join(out),
        "## Views, the worst first",
        "| view | RMS, px |\n| --- | --- |\n" + "\n".join(views),
    ]
    return "\n\n".join(lines) + "\n"


def _at(pixel: np.ndarray) -> tuple[int, int]:
    return round(float(pixel[0])), round(float(pixel[1]))


def _rms(residuals: np.ndarray) -> float:
    return float(np.sqrt((residuals**2).sum(axis=1).mean()))


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
    return calibration_files.path_of(args.serial, part, args.cameras)


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
