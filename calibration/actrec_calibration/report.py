"""Report of a calibration: figures, a page, an image of the coverage, and the residuals of each view."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actrec.utils.errors import DeviceError
from actrec_calibration.board import Board
from actrec_calibration.coverage import Coverage
from actrec_calibration.intrinsics import GRID, Calibration
from actrec_calibration.live import round_pixel, save_image
from actrec_calibration.poses import rms, roll_pitch_yaw

COEFFICIENTS = ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
TYPICAL_ARROW = 0.04  # length of the arrow of a typical residual, in image widths
_GREEN, _RED, _YELLOW, _WHITE = (60, 220, 60), (230, 60, 60), (240, 220, 60), (255, 255, 255)


def intrinsics_figures(board: Board, result: Calibration, covered: Coverage) -> dict[str, Any]:
    """Return the figures of an intrinsics calibration."""
    camera = result.camera
    values = (camera.fx, camera.fy, camera.cx, camera.cy, *camera.distortion)
    names = COEFFICIENTS[: len(values)]
    view_rms = {view.name: rms(part) for view, part in zip(result.views, result.residuals(board), strict=True)}
    return {
        "width": camera.width,
        "height": camera.height,
        "intrinsics": dict(zip(names, map(float, values), strict=True)),
        "standard_deviations": dict(zip(names, map(float, result.deviations), strict=True)),
        "rms_px": result.rms,
        "held_out_rms_px": result.held_out_rms,
        "uncertainty_px": {
            "middle": float(result.uncertainty[len(result.uncertainty) // 2, 2]),
            "worst": float(result.uncertainty[:, 2].max()),
        },
        "board": board.describe(),
        "views": view_rms,
        "rejected": result.rejected,
        "corners": sum(len(view.detection) for view in result.views),
        "corners_rejected": result.corners_rejected,
        "unmoved": result.unmoved,
        "missing": covered.missing,
    }


def write(
    folder: Path, board: Board, result: Calibration, covered: Coverage, load_image: Callable[[str], np.ndarray]
) -> None:
    """Write report.md, report.json, coverage.png and the views' residuals.

    Args:
        folder: Folder, created if missing.
        board: Board in the views.
        result: Calibration.
        covered: Coverage of its views.
        load_image: Returns the [H, W, 3] RGB image of a view by its name.

    Raises:
        DeviceError: The folder cannot be written.
    """
    figures = intrinsics_figures(board, result, covered)
    residuals = result.residuals(board)
    # The same gain in all views, for comparison.
    typical = float(np.median(np.concatenate([np.hypot(*part.T) for part in residuals])))
    gain = float(2 ** np.floor(np.log2(TYPICAL_ARROW * result.camera.width / max(typical, 1e-3))))
    try:
        (folder / "views").mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(json.dumps(figures, indent=2) + "\n")
        (folder / "report.md").write_text(_page(figures))
        save_image(folder / "coverage.png", _draw_coverage(result))
        for view, residual in zip(result.views, residuals, strict=True):
            drawn = _draw_residuals(load_image(view.name), view.detection.pixels, residual, gain)
            save_image(folder / "views" / f"{Path(view.name).stem}.jpg", drawn)
    except OSError as error:
        raise DeviceError(f"cannot write the report '{folder}': {error.strerror}; choose another --report") from error


def _draw_residuals(image: np.ndarray, corners: np.ndarray, residuals: np.ndarray, gain: float) -> np.ndarray:
    drawn = (image * 0.6).astype(np.uint8)
    large = np.hypot(*residuals.T) > 2 * max(rms(residuals), 1e-6)
    for corner, residual, outlier in zip(corners, residuals, large, strict=True):
        ends, color = (round_pixel(corner), round_pixel(corner + gain * residual)), _RED if outlier else _GREEN
        cv2.arrowedLine(drawn, *ends, color, 1, cv2.LINE_AA, tipLength=0.25)
        cv2.circle(drawn, round_pixel(corner), 2, _YELLOW, -1, cv2.LINE_AA)
    scale = f"arrows x{gain:g}, rms {rms(residuals):.3f} px"
    cv2.putText(drawn, scale, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _WHITE, 1, cv2.LINE_AA)
    return drawn


def _draw_coverage(result: Calibration) -> np.ndarray:
    """Draw the corners of all views over the lens's uncertainty: dark is certain, 1 px is white."""
    uncertainty = np.clip(result.uncertainty[:, 2].reshape(GRID[::-1]), 0, 1).astype(np.float32)
    background = cv2.resize(uncertainty, (result.camera.width, result.camera.height))
    drawn = cv2.applyColorMap((255 * background).astype(np.uint8), cv2.COLORMAP_MAGMA)[..., ::-1].copy()
    for view in result.views:
        for corner in view.detection.pixels:
            cv2.circle(drawn, round_pixel(corner), 2, _GREEN, -1, cv2.LINE_AA)
    return drawn


def _page(figures: dict[str, Any]) -> str:
    deviations, uncertainty = figures["standard_deviations"], figures["uncertainty_px"]
    rows = [f"| {name} | {value:.6g} | {deviations[name]:.2g} |" for name, value in figures["intrinsics"].items()]
    views = [f"| {name} | {value:.3f} |" for name, value in sorted(figures["views"].items(), key=lambda i: -i[1])]
    rejected = [f"- {name}: {reason}" for name, reason in figures["rejected"].items()] or ["None."]
    parts = [
        f"# Intrinsics of {figures['width']}×{figures['height']} images",
        f"Board: {figures['board']}. {len(figures['views'])} views, {figures['corners']} corners "
        f"({figures['corners_rejected']} rejected).",
        f"RMS {figures['rms_px']:.3f} px; of held-out views {figures['held_out_rms_px']:.3f} px. The projection of a "
        f"point is certain to ±{uncertainty['middle']:.2f} px in the image's middle and to "
        f"±{uncertainty['worst']:.2f} px in the worst place (standard deviation).",
        "| | value | standard deviation |\n| --- | --- | --- |\n" + "\n".join(rows),
        "![coverage of the image by the views](coverage.png)",
        "## Still missing",
        "\n".join(f"- {todo}" for todo in figures["missing"]) or "Nothing.",
        "## Rejected views",
        "\n".join(rejected),
        "## Views, the worst first",
        "| view | RMS, px |\n| --- | --- |\n" + "\n".join(views),
    ]
    return "\n\n".join(parts) + "\n"


def pose_figures(
    pose: np.ndarray, sigma_m: np.ndarray | None = None, sigma_deg: np.ndarray | None = None
) -> dict[str, Any]:
    """Return the figures of a transform: mm, degrees about fixed axes, standard deviations, and the 4×4."""
    figures: dict[str, Any] = {
        "translation_mm": [round(1e3 * float(value), 2) for value in pose[:3, 3]],
        "roll_pitch_yaw_deg": [round(value, 3) for value in roll_pitch_yaw(pose)],
    }
    if sigma_m is not None and sigma_deg is not None:
        figures["sigma_mm"] = [round(1e3 * float(value), 2) for value in sigma_m]
        figures["sigma_deg"] = [round(float(value), 3) for value in sigma_deg]
    return figures | {"matrix": [[float(value) for value in row] for row in pose]}


def note(command: str, figures: dict[str, Any]) -> str:
    """Return the comment at the top of a result file: command, time, and its single figures."""
    now = datetime.datetime.now().astimezone().isoformat(timespec="minutes")
    lines = [f"actrec calibrate {command}, {now}"]
    for key, value in figures.items():
        if key != "file" and isinstance(value, (int, float, str, list)) and not is_table(value):
            lines.append(f"{key}: {value}")
    return "\n".join(lines)


def is_table(value: Any) -> bool:
    """Return whether a figure is a list of rows."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)
