"""Quality of a lens calibration: coverage of the image by the views, check of a stored calibration, and report."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actrec.types import Intrinsics
from actrec.utils import folders
from actrec.utils.calibration_files import scale_to_size
from actrec.utils.config import setting
from actrec.utils.errors import InputError
from actrec_calibration.board import Board
from actrec_calibration.detection import BoardCorners, BoardView, placement
from actrec_calibration.intrinsics import (
    GRID,
    PLUMB_BOB,
    RATIONAL,
    REFITTED,
    Calibration,
    IntrinsicsConfig,
    calibrate,
    coefficients,
    covariance,
    displacement,
    fit,
    image_size,
    reprojection_rms,
)
from actrec_calibration.poses import rms

CELLS = 9  # across and down that divide the image; three by three of them are a named region

REGIONS = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
TILTS = ("right edge away from", "right edge towards", "lower edge away from", "lower edge towards")

# -- coverage ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CoverageConfig:
    """Requirements for sufficient views."""

    views: int = setting(20, "Number of views.", range=(3, 1000))
    filled: float = setting(0.6, "Share of a region's cells with a corner.", range=(0.0, 1.0))
    tilt_deg: float = setting(15.0, "Tilt in each of four directions.", unit="deg", range=(0.0, 60.0))
    tilted: int = setting(2, "Number of views for each tilt direction.", range=(0, 100))
    near: float = setting(0.6, "Width of the board in the largest view, in image widths.", range=(0.0, 2.0))
    zoom: float = setting(1.5, "Ratio of the board's width in the largest and the smallest view.", range=(1.0, 20.0))


@dataclass(frozen=True)
class Coverage:
    """Coverage of the image by views.

    Attributes:
        views: Number of views.
        missing: Instructions for the next views, most important first; empty if the views suffice.
        complete: Share of the requirements that is met, in 0..1.
    """

    views: int
    missing: list[str]
    complete: float


def coverage(
    board: Board, views: Sequence[BoardView], config: CoverageConfig | None = None, camera: Intrinsics | None = None
) -> Coverage:
    """Compute the coverage of views, with the camera's intrinsics if they are known."""
    config = config or CoverageConfig()
    cells = np.zeros((CELLS, CELLS), bool)
    for view in views:
        columns, rows = np.clip(np.floor(CELLS * (view.detection.pixels + 0.5) / view.size), 0, CELLS - 1).T.astype(int)
        cells[rows, columns] = True
    side = CELLS // 3
    filled = dict(zip(REGIONS, cells.reshape(3, side, 3, side).mean(axis=(1, 3)).ravel(), strict=True))
    placements = [placement(board, view, camera) for view in views]
    right, lower = np.array([one.tilt_deg for one in placements]).reshape(-1, 2).T
    angles = zip(TILTS, (right, -right, lower, -lower), strict=True)
    tilted = {direction: int((angle >= config.tilt_deg).sum()) for direction, angle in angles}
    scales = [one.scale for one in placements] or [0.0]
    largest, far = max(scales), config.zoom * min(scales)
    todo = []
    if empty := [region for region, share in filled.items() if share < config.filled]:
        todo.append(f"show the board in the image's {_join(empty)}")
    if flat := [direction for direction, count in tilted.items() if count < config.tilted]:
        todo.append(f"tilt it by {config.tilt_deg:.0f} to 45°: {_join(flat)} the camera")
    if largest < config.near:
        todo.append(f"bring it nearer (the board {100 * config.near:.0f} % of the image's width or more)")
    elif largest < far:
        todo.append(f"hold it farther away, {config.zoom:g} times")
    if len(views) < config.views and not todo:
        todo.append(f"show {config.views - len(views)} more views")
    pairs = [(share, config.filled) for share in filled.values()] + [(n, config.tilted) for n in tilted.values()]
    pairs += [(largest, config.near), (len(views), config.views), (largest, far)]
    met = [min(value / max(required, 1e-9), 1) for value, required in pairs]
    return Coverage(len(views), todo, float(np.mean(met)))


def _join(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


# -- check -------------------------------------------------------------------------------------------------------------

SIGNIFICANT = 3.0  # standard deviations beyond which a displacement is significant
RESOLVED = 2.0  # standard deviations that must lie within the tolerance to conclude that nothing has moved
COVERED = 0.04  # distance from a detected corner within which the views determine the lens, in image widths


@dataclass(frozen=True)
class CheckConfig:
    """Requirements on a stored calibration."""

    tolerance: float = setting(
        0.003, "Maximum displacement of a point, in image widths (0.003 of 640 px is 1.9 px).", range=(1e-5, 0.2)
    )
    fewest_views: int = setting(4, "Minimum number of views.", range=(3, 1000))
    most_views: int = setting(40, "Maximum number of views, chosen to differ most.", range=(3, 1000))

    def __post_init__(self) -> None:
        IntrinsicsConfig(fewest_views=self.fewest_views, most_views=self.most_views)  # checks them


@dataclass(frozen=True)
class Check:
    """Result of `check`.

    Attributes:
        holds: Whether the stored calibration still holds.
        moved_px, moved_deviation_px: Largest displacement of a point near the new corners, and its standard deviation.
        tolerance_px: Maximum displacement of a point.
        stored_rms_px, refitted_rms_px: Reprojection error of the new views, each with its best poses.
        stored, refitted: Stored lens, scaled to the images' size, and the lens fitted to the new views.
        views: Reprojection error of each view with the stored lens, px.
        rejected: Reason by name of the rejected view.
    """

    holds: bool
    moved_px: float
    moved_deviation_px: float
    tolerance_px: float
    stored_rms_px: float
    refitted_rms_px: float
    stored: Intrinsics
    refitted: Intrinsics
    views: dict[str, float]
    rejected: dict[str, str]


def check(board: Board, views: Sequence[BoardView], stored: Intrinsics, config: CheckConfig | None = None) -> Check:
    """Compare the stored lens with a lens fitted to new views, of images of its size or aspect.

    Residuals alone are no criterion: poses compensate for a wrong focal length or center, and among a thousand corners
    a hundredth of a pixel is statistically significant but irrelevant. So focal length, center and the first distortion
    coefficient are fitted to the new views, and the displacement of points between the two lenses is compared with its
    uncertainty.

    Raises:
        InputError: Images of another aspect, or too few or too similar views to decide.
    """
    config = config or CheckConfig()
    size = image_size(views)
    stored = scale_to_size(stored, *size)
    model = RATIONAL if len(stored.distortion) > 5 else PLUMB_BOB
    limits = IntrinsicsConfig(model=model, fewest_views=config.fewest_views, most_views=config.most_views)
    found = calibrate(board, views, limits)
    refit = fit(board, found.views, size, model, stored)
    known = covariance(board, found.views, refit, REFITTED)
    pixels, shift, sigma = displacement(stored, refit.camera, known)
    # Points near a detected corner; elsewhere the refitted lens is extrapolated.
    corners = np.concatenate([view.detection.pixels for view in found.views])
    nearest = np.array([np.hypot(*(corners - point).T).min() for point in pixels])
    covered = nearest <= COVERED * size[0]
    view_rms = {view.name: reprojection_rms(board, view, stored) for view in found.views}
    tolerance = config.tolerance * stored.width
    length = np.where(covered, np.hypot(*shift.T), 0)
    wrong = (length > tolerance) & (length > SIGNIFICANT * sigma)
    unclear = covered & ((RESOLVED * sigma > tolerance) | (length > tolerance))
    if not wrong.any() and unclear.any():
        needed = min([tolerance / RESOLVED, *(length[length > tolerance] / SIGNIFICANT)])
        raise InputError(
            f"these {len(found.views)} views cannot decide: they determine the lens to "
            f"±{sigma[covered].max():.1f} px, and {needed:.1f} px are needed; show more views, "
            "tilted by up to 45°"
        )
    counts = [len(view.detection) for view in found.views]
    return Check(
        holds=not bool(wrong.any()),
        moved_px=float(length.max()),
        moved_deviation_px=float(sigma[length.argmax()]),
        tolerance_px=tolerance,
        stored_rms_px=float(np.sqrt(np.average(np.square(list(view_rms.values())), weights=counts))),
        refitted_rms_px=refit.rms,
        stored=stored,
        refitted=refit.camera,
        views=view_rms,
        rejected=found.rejected,
    )


# -- report ------------------------------------------------------------------------------------------------------------

COEFFICIENTS = ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
TYPICAL_ARROW = 0.04  # length of the arrow of a typical residual, in image widths
_GREEN, _RED, _YELLOW, _WHITE = (60, 220, 60), (230, 60, 60), (240, 220, 60), (255, 255, 255)


def intrinsics_figures(board: Board, result: Calibration, covered: Coverage) -> dict[str, Any]:
    """Return the figures of an intrinsics calibration."""
    camera = result.camera
    view_rms = {view.name: rms(part) for view, part in zip(result.views, result.residuals, strict=True)}
    return {
        "width": camera.width,
        "height": camera.height,
        "intrinsics": dict(zip(COEFFICIENTS, coefficients(camera).tolist(), strict=False)),
        "standard_deviations": dict(zip(COEFFICIENTS, result.deviations.tolist(), strict=False)),
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


def write_report(
    folder: Path, board: Board, result: Calibration, covered: Coverage, load_image: Callable[[str], np.ndarray]
) -> None:
    """Write report.md, report.json, coverage.png and the views' residuals to a folder, which is created if missing.

    `load_image` returns the [H, W, 3] RGB image of a view by its name.

    Raises:
        DeviceError: The folder cannot be written.
    """
    figures = intrinsics_figures(board, result, covered)
    residuals = result.residuals
    # The same gain in all views, for comparison.
    typical = float(np.median(np.concatenate([np.hypot(*part.T) for part in residuals])))
    gain = float(2 ** np.floor(np.log2(TYPICAL_ARROW * result.camera.width / max(typical, 1e-3))))
    folders.write_file(
        folder / "report.json", (json.dumps(figures, indent=2) + "\n").encode(), "choose another --report"
    )
    folders.write_file(folder / "report.md", _page(figures).encode(errors="replace"))  # a name may not be UTF-8
    save_image(folder / "coverage.png", _draw_coverage(result))
    for view, residual in zip(result.views, residuals, strict=True):
        drawn = _draw_residuals(load_image(view.name), view.detection.pixels, residual, gain)
        save_image(folder / "views" / f"{Path(view.name).stem}.jpg", drawn)


def save_image(path: Path, image: np.ndarray) -> None:
    """Write [H, W, 3] RGB atomically, because a viewer may be reading the file; raise DeviceError."""
    folders.write_file(path, cv2.imencode(path.suffix, image[..., ::-1])[1].tobytes())


def draw_preview(
    image: np.ndarray, corners: BoardCorners | None, views: Sequence[BoardView], covered: Coverage
) -> np.ndarray:
    """Draw the corners (green), the corners of all views (blue) and the next instructions, [H, W, 3] RGB."""
    drawn = image.copy()
    for view in views:
        for corner in np.rint(view.detection.pixels).astype(int).tolist():
            cv2.circle(drawn, corner, 2, (80, 120, 255), -1)
    for corner in np.rint(corners.pixels).astype(int).tolist() if corners else ():
        cv2.circle(drawn, corner, 3, _GREEN, 1, cv2.LINE_AA)
    for number, line in enumerate([f"{len(views)} views, {100 * covered.complete:.0f} %", *covered.missing]):
        # OpenCV's font has no degree sign.
        origin, text = (8, 20 + 20 * number), line.replace("°", " deg")
        cv2.putText(drawn, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(drawn, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.5, _WHITE, 1, cv2.LINE_AA)
    return drawn


def _draw_residuals(image: np.ndarray, corners: np.ndarray, residuals: np.ndarray, gain: float) -> np.ndarray:
    drawn = (image * 0.6).astype(np.uint8)
    outliers = np.hypot(*residuals.T) > 2 * max(rms(residuals), 1e-6)
    ends = np.rint(np.stack([corners, corners + gain * residuals], axis=1)).astype(int).tolist()
    for (start, end), outlier in zip(ends, outliers, strict=True):
        cv2.arrowedLine(drawn, start, end, _RED if outlier else _GREEN, 1, cv2.LINE_AA, tipLength=0.25)
        cv2.circle(drawn, start, 2, _YELLOW, -1, cv2.LINE_AA)
    scale = f"arrows x{gain:g}, rms {rms(residuals):.3f} px"
    cv2.putText(drawn, scale, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _WHITE, 1, cv2.LINE_AA)
    return drawn


def _draw_coverage(result: Calibration) -> np.ndarray:
    """Draw the corners of all views over the lens's uncertainty: dark is certain, 1 px is white."""
    uncertainty = np.clip(result.uncertainty[:, 2].reshape(GRID[::-1]), 0, 1).astype(np.float32)
    background = cv2.resize(uncertainty, (result.camera.width, result.camera.height))
    drawn = cv2.applyColorMap((255 * background).astype(np.uint8), cv2.COLORMAP_MAGMA)[..., ::-1].copy()
    corners = np.concatenate([view.detection.pixels for view in result.views])
    for corner in np.rint(corners).astype(int).tolist():
        cv2.circle(drawn, corner, 2, _GREEN, -1, cv2.LINE_AA)
    return drawn


def summary(figures: dict[str, Any]) -> list[str]:
    """Return lines about the figures of an intrinsics calibration: views, lens, errors, and what would improve it."""
    values, sigma, uncertainty = figures["intrinsics"], figures["standard_deviations"], figures["uncertainty_px"]
    pinhole = ", ".join(f"{name} {values[name]:.2f} ± {sigma[name]:.2f}" for name in COEFFICIENTS[:4])
    distortion = " ".join(f"{value:.5f}" for name, value in values.items() if name[0] in "kp")
    rejected = figures["rejected"]
    return [
        f"{len(figures['views'])} views used, {len(rejected)} rejected, {figures['unmoved']} ignored as unmoved",
        *(f"  rejected {name}: {reason}" for name, reason in rejected.items()),
        f"{pinhole} px; distortion {distortion}",
        f"RMS {figures['rms_px']:.3f} px, of held-out views {figures['held_out_rms_px']:.3f} px; the lens is certain "
        f"to ±{uncertainty['middle']:.2f} px in the image's middle and ±{uncertainty['worst']:.2f} px at worst",
        *(f"to improve: {todo}" for todo in figures["missing"]),
    ]


def _page(figures: dict[str, Any]) -> str:
    deviations = figures["standard_deviations"]
    rows = [f"| {name} | {value:.6g} | {deviations[name]:.2g} |" for name, value in figures["intrinsics"].items()]
    views = [f"| {name} | {value:.3f} |" for name, value in sorted(figures["views"].items(), key=lambda i: -i[1])]
    parts = [
        f"# Intrinsics of {figures['width']}×{figures['height']} images",
        f"Board: {figures['board']}. {figures['corners']} corners ({figures['corners_rejected']} rejected).",
        *summary(figures),
        "| | value | standard deviation |\n| --- | --- | --- |\n" + "\n".join(rows),
        "![coverage of the image by the views](coverage.png)",
        "## Views, the worst first",
        "| view | RMS, px |\n| --- | --- |\n" + "\n".join(views),
    ]
    return "\n\n".join(parts) + "\n"
