"""Extrinsics of the depth camera relative to the color camera, and correction of its readings, from views of a board.

One least-squares problem over all views. The residuals are the corners in color, the corners in the depth camera's
infrared image if there is one, and the depth readings on the board. The unknowns are the board's pose in each view, the
transform depth → color, and the correction: true depth = scale · reading + bias, m along the optical axis.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from actrec.types import Intrinsics
from actrec.utils.calibration_files import DepthGeometry
from actrec.utils.errors import InputError
from actrec_calibration import solver
from actrec_calibration.board import Board
from actrec_calibration.detection import BoardCorners, RgbdView
from actrec_calibration.poses import (
    estimate_board_pose,
    image_rays,
    invert,
    pose_from_vector,
    pose_to_vector,
    project,
    rms,
    rotation_sigma_deg,
    transform,
)

MODELS = ("scale", "bias", "none")
"""Correction of the readings: scale and bias, bias alone, or none."""

MIN_VIEWS = 4
MIN_READINGS = 100
MAX_READINGS = 400  # used of one view: neighbors share their errors, and more would only take longer
EDGE_MARGIN_PX = 4  # border inside the board's edge at which depth pixels mix the board with its background
MIN_DISTANCE_RATIO = 1.3  # of the farthest to the nearest board that separates a scale from a bias
MIN_TILT = 8.0  # degrees, RMS about the axis about which the boards' normals rotate least, without infrared
MAX_SIGMA_M, MAX_SIGMA_DEG = 0.005, 0.25  # a less certain result is refused
MIN_CORNER_SIGMA_PX = 0.03
MIN_DEPTH_SIGMA_M = 0.0002  # no sensor is better, and exact simulated depth must not divide by zero
FIRST_GATE_M, GATE_M = 0.1, 0.04  # between a reading and the board's plane, before and after the first solution
ROUNDS = 3


@dataclass(frozen=True)
class DepthReadings:
    """Depth readings on the board in one view.

    Attributes:
        rays: [N, 3] directions, z = 1, in the depth camera's optical frame.
        depth: [N] readings, m.
        sigma: Standard deviation of a reading about the fitted plane, m.
        count: Pixels on the board, before thinning.
    """

    rays: np.ndarray
    depth: np.ndarray
    sigma: float
    count: int


@dataclass(frozen=True)
class CameraPair:
    """Intrinsics of both cameras.

    Attributes:
        color, depth: Intrinsics.
        to_color: [4, 4] depth → color if it is known (identity for registered depth) and only the correction is
            calibrated.
        initial: [4, 4] initial depth → color; by default the cameras coincide.
    """

    color: Intrinsics
    depth: Intrinsics
    to_color: np.ndarray | None = None
    initial: np.ndarray | None = None


@dataclass(frozen=True)
class DepthCalibration:
    """Result of `calibrate`.

    Attributes:
        geometry: depth → color, scale and bias.
        sigma_m, sigma_deg: [3] standard deviations of depth → color along and about x, y, z; 0 if it is known.
        sigma_scale, sigma_bias: Standard deviations of the correction; 0 if not calibrated.
        rms_color, rms_infrared: Reprojection errors, px; infrared NaN without such images.
        rows: Residuals of the readings of each view, see `residuals_by_distance`.
        views: Number of used views.
        rejected: Reason by name of the rejected view.
    """

    geometry: DepthGeometry
    sigma_m: np.ndarray
    sigma_deg: np.ndarray
    sigma_scale: float
    sigma_bias: float
    rms_color: float
    rms_infrared: float
    rows: list[dict[str, Any]]
    views: int
    rejected: dict[str, str]


def calibrate(board: Board, views: list[RgbdView], cameras: CameraPair, model: str = "scale") -> DepthCalibration:
    """Calibrate the extrinsics (unless they are known) and the correction of the readings.

    Raises:
        InputError: Too few views, or the views leave an unknown undetermined; the message names the missing views.
    """
    if model not in MODELS:
        raise InputError(f"model is '{model}', expected {', '.join(MODELS)}")
    problem = _Problem(board, views, cameras, model)
    geometry = DepthGeometry(problem.initial_transform())
    for number in range(ROUNDS):
        readings = problem.collect_readings(geometry, FIRST_GATE_M if number == 0 else GATE_M)
        solution = problem.solve(readings, geometry)
        geometry = problem.unpack(solution.shared)
    return problem.result(solution, readings)


# -- readings ----------------------------------------------------------------------------------------------------------


def plane_depth(pose: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Return [N] m along the optical axis at which rays [N, 3] intersect the plane z = 0 of a pose."""
    normal = pose[:3, 2]
    return np.asarray((normal @ pose[:3, 3]) / (rays @ normal))


def board_readings(
    depth: np.ndarray, camera: Intrinsics, pose: np.ndarray, outline: np.ndarray, gate: float = FIRST_GATE_M
) -> DepthReadings | None:
    """Collect the readings on a board; None if fewer than `MIN_READINGS` lie on one plane there.

    Args:
        depth: [H, W] m, NaN if missing.
        camera: Intrinsics of the depth image.
        pose: [4, 4] approximate pose of the board in the depth camera.
        outline: [K, 3] corners of the board, m, in order.
        gate: Maximum distance in m between a reading and the approximate board.
    """
    v, u = np.nonzero(_board_mask(depth.shape, camera, pose, outline) & np.isfinite(depth) & (depth > 0))
    rays, values = image_rays(camera)[v, u], depth[v, u].astype(np.float64)
    near = np.abs(values - plane_depth(pose, rays)) <= gate
    rays, values = rays[near], values[near]
    if len(values) < MIN_READINGS:
        return None
    on_plane, sigma = _fit_plane(rays, values)
    if on_plane.sum() < max(MIN_READINGS, len(values) / 2):
        return None
    rays, values = rays[on_plane], values[on_plane]
    thinned = np.unique(np.linspace(0, len(values) - 1, MAX_READINGS).astype(int))
    return DepthReadings(rays[thinned], values[thinned], sigma, len(values))


def _board_mask(shape: tuple[int, ...], camera: Intrinsics, pose: np.ndarray, outline: np.ndarray) -> np.ndarray:
    points = transform(pose, outline)
    mask = np.zeros(shape, np.uint8)
    if (points[:, 2] > 0.05).all():
        # Points along the edges, because a lens bends them.
        t = np.linspace(0, 1, 16, endpoint=False)[:, None]
        edges = [a + t * (b - a) for a, b in zip(points, np.roll(points, -1, axis=0), strict=True)]
        pixels = np.clip(project(np.concatenate(edges), camera), -1e4, 1e4)
        cv2.fillPoly(mask, [np.round(pixels).astype(np.int32)], 1)
        kernel = np.ones((2 * EDGE_MARGIN_PX + 1,) * 2, np.uint8)
        mask = cv2.erode(mask, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask.astype(bool)


def _fit_plane(rays: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the readings on their plane, [N] bool, and their scatter about it, m.

    A plane is linear in the inverse of the depth: 1 / z = a x + b y + c.
    """
    inliers = np.ones(len(depth), bool)
    for _ in range(6):
        plane = np.linalg.lstsq(rays[inliers], 1 / depth[inliers], rcond=None)[0]
        error = np.abs(depth - 1 / (rays @ plane))
        sigma = max(1.4826 * float(np.median(error[inliers])), MIN_DEPTH_SIGMA_M)
        inliers = error <= 4 * sigma
    return inliers, sigma


def check_distances(distances: np.ndarray) -> None:
    """Raise InputError if boards at these distances do not determine a depth scale."""
    if distances.max() < MIN_DISTANCE_RATIO * distances.min():
        raise InputError(
            f"the boards are at {distances.min():.2f} to {distances.max():.2f} m: too similar to separate a depth "
            f"scale from a bias; show the board nearer and farther (at least {MIN_DISTANCE_RATIO} times as far), or "
            "use --model bias"
        )


def _check_tilts(normals: np.ndarray) -> None:
    """Raise InputError unless the boards' normals span all directions, so that their planes determine the transform."""
    _, singular, axes = np.linalg.svd(normals - normals.mean(0))
    tilts = np.degrees(np.arcsin(np.minimum(singular / np.sqrt(len(normals)), 1)))
    advice = "or add infrared images of the depth camera"
    if tilts[0] < MIN_TILT:
        raise InputError(
            f"the boards are all parallel (they tilt by {tilts[0]:.0f}°): depth alone does not determine the depth "
            "camera's position, nor its distance along z separately from a depth bias; tilt the board by 30° to 45° "
            f"about two axes, {advice}"
        )
    if tilts[1] < MIN_TILT:
        missing = "up and down" if abs(axes[0][0]) > abs(axes[0][1]) else "left and right"
        raise InputError(
            "the boards tilt one way only: depth alone then leaves a shift of the camera undetermined; tilt the board "
            f"{missing} as well, {advice}"
        )


def residuals_by_distance(
    boards: list[np.ndarray], readings: list[DepthReadings], geometry: DepthGeometry, outline: np.ndarray
) -> list[dict[str, Any]]:
    """Tabulate the median error of the readings on boards [4, 4] in the depth camera, as read and corrected."""
    rows = []
    for board, reading in zip(boards, readings, strict=True):
        true = plane_depth(board, reading.rays)
        corrected = geometry.scale * reading.depth + geometry.bias
        rows.append(
            {
                "distance_m": round(float(_distance(board, outline)), 3),
                "as_read_mm": round(1e3 * float(np.median(reading.depth - true)), 2),
                "corrected_mm": round(1e3 * float(np.median(corrected - true)), 2),
                "noise_mm": round(1e3 * reading.sigma, 2),
                "pixels": reading.count,
            }
        )
    return sorted(rows, key=lambda row: row["distance_m"])


def _distance(board: np.ndarray, outline: np.ndarray) -> float:
    """Return m along the optical axis to the center of the board."""
    return float(transform(board, outline.mean(0))[2])


# -- least squares -----------------------------------------------------------------------------------------------------


class _Problem:
    """Views and unknowns of one calibration.

    The shared unknowns are depth → color (6 numbers unless it is known), the bias and the scale − 1.
    """

    def __init__(self, board: Board, views: list[RgbdView], cameras: CameraPair, model: str):
        self.board, self.cameras, self.model, self.outline = board, cameras, model, board.outline
        self.pose_size = 0 if cameras.to_color is not None else 6
        self.correction_size = MODELS[::-1].index(model)
        self.rejected: dict[str, str] = {}
        self.views: list[RgbdView] = []
        self.boards: list[np.ndarray] = []
        errors = []
        for view in views:
            try:
                found = estimate_board_pose(board.points[view.color.ids], view.color.pixels, cameras.color)
            except InputError as error:
                self.rejected[view.name] = str(error)
                continue
            corners = BoardCorners(view.color.ids[found.inliers], view.color.pixels[found.inliers])
            self.views.append(RgbdView(view.name, corners, view.depth, view.infrared))
            self.boards.append(found.pose)
            errors.append(found.rms)
        if len(self.views) < MIN_VIEWS:
            raise InputError(
                f"{len(self.views)} of {len(views)} views show the board well enough; {MIN_VIEWS} are needed, 15 for "
                "an accurate result: take more"
            )
        self.corner_sigma = max(float(np.median(errors)) / np.sqrt(2), MIN_CORNER_SIGMA_PX)
        self.infrared = sum(view.infrared is not None for view in self.views)
        # Without a correction, biased readings would only distort the transform: infrared corners alone determine it.
        self.use_depth = not (model == "none" and self.infrared and self.pose_size)
        if board.ambiguous and self.infrared:
            raise InputError(
                "this chessboard looks the same after half a turn, so its corners cannot be matched between the "
                "images: use a ChArUco board, or one with an odd and an even number of corners"
            )

    def initial_transform(self) -> np.ndarray:
        """Return the initial depth → color: given, the median over the infrared images, or the identity."""
        for known in (self.cameras.to_color, self.cameras.initial):
            if known is not None:
                return known
        vectors = []
        for view, board in zip(self.views, self.boards, strict=True):
            if view.infrared is not None:
                points = self.board.points[view.infrared.ids]
                in_depth = estimate_board_pose(points, view.infrared.pixels, self.cameras.depth).pose
                vectors.append(pose_to_vector(board @ invert(in_depth)))
        return pose_from_vector(np.median(vectors, axis=0)) if vectors else np.eye(4)

    def collect_readings(self, geometry: DepthGeometry, gate: float) -> list[DepthReadings | None]:
        """Collect the depth readings on each board, given the current solution."""
        scale, bias = geometry.scale, geometry.bias
        readings: list[DepthReadings | None] = []
        for view, board in zip(self.views, self.boards, strict=True):
            found = None
            if view.depth is not None:
                corrected, in_depth = view.depth.astype(np.float64) * scale + bias, invert(geometry.to_color) @ board
                found = board_readings(corrected, self.cameras.depth, in_depth, self.outline, gate)
            if found is not None:
                found = DepthReadings(found.rays, (found.depth - bias) / scale, found.sigma / scale, found.count)
            readings.append(found)
        if self.use_depth:
            self._check_readings(readings)
        return readings

    def _check_readings(self, readings: list[DepthReadings | None]) -> None:
        with_depth = [board for board, reading in zip(self.boards, readings, strict=True) if reading is not None]
        if len(with_depth) < MIN_VIEWS:
            raise InputError(
                f"the depth images show the board in {len(with_depth)} of {len(readings)} views; {MIN_VIEWS} are "
                "needed: check that color and depth belong together, and the board's distance to the depth camera"
            )
        if self.model == "scale":
            check_distances(np.array([_distance(board, self.outline) for board in with_depth]))
        if self.pose_size and not self.infrared:
            _check_tilts(np.array([board[:3, 2] for board in with_depth]))

    def unpack(self, shared: np.ndarray) -> DepthGeometry:
        """Return the geometry of the shared unknowns."""
        to_color = self.cameras.to_color if self.cameras.to_color is not None else pose_from_vector(shared[:6])
        bias, scale = (*shared[self.pose_size :], 0.0, 0.0)[:2]
        return DepthGeometry(to_color, 1 + float(scale), float(bias))

    def solve(self, readings: list[DepthReadings | None], geometry: DepthGeometry) -> solver.Solution:
        """Solve for these readings, and keep the boards' poses for the next round."""
        initial_boards = list(self.boards)

        def residuals(shared: np.ndarray, own: np.ndarray, number: int) -> np.ndarray:
            geometry = self.unpack(shared)
            board = initial_boards[number] @ pose_from_vector(own)
            in_depth = invert(geometry.to_color) @ board
            view, reading = self.views[number], readings[number]
            parts = [self._corner_errors(view.color, board, self.cameras.color).ravel() / self.corner_sigma]
            if view.infrared is not None and self.pose_size:
                errors = self._corner_errors(view.infrared, in_depth, self.cameras.depth)
                parts.append(errors.ravel() / self.corner_sigma)
            if reading is not None and self.use_depth:
                # Compare raw readings, because the noise is in them: corrected ones would bias the scale down.
                expected = (plane_depth(in_depth, reading.rays) - geometry.bias) / geometry.scale
                parts.append((reading.depth - expected) / reading.sigma)
            return np.concatenate(parts)

        correction = np.array([geometry.bias, geometry.scale - 1])[: self.correction_size]
        initial = np.concatenate([pose_to_vector(geometry.to_color)[: self.pose_size], correction])
        solution = solver.solve(residuals, initial, np.zeros((len(initial_boards), 6)))
        self.boards = [b @ pose_from_vector(own) for b, own in zip(initial_boards, solution.own, strict=True)]
        return solution

    def _corner_errors(self, corners: BoardCorners, pose: np.ndarray, camera: Intrinsics) -> np.ndarray:
        return project(transform(pose, self.board.points[corners.ids]), camera) - corners.pixels

    def result(self, solution: solver.Solution, readings: list[DepthReadings | None]) -> DepthCalibration:
        """Return the result, unless it is too uncertain."""
        geometry = self.unpack(solution.shared)
        sigma_deg, sigma_m = np.zeros(3), np.zeros(3)
        if self.pose_size:
            sigma_deg = rotation_sigma_deg(solution.shared[:6], solution.covariance[:3, :3])
            sigma_m = solution.sigma[3:6]
            self._check_certain(sigma_deg, sigma_m, solution)
        boards, with_depth = [], []
        color, infrared = [np.zeros((0, 2))], [np.zeros((0, 2))]
        for view, board, reading in zip(self.views, self.boards, readings, strict=True):
            in_depth = invert(geometry.to_color) @ board
            color.append(self._corner_errors(view.color, board, self.cameras.color))
            if view.infrared is not None:
                infrared.append(self._corner_errors(view.infrared, in_depth, self.cameras.depth))
            if reading is not None:
                boards.append(in_depth)
                with_depth.append(reading)
            elif view.depth is not None and any(reading is not None for reading in readings):
                self.rejected[view.name] = "its depth shows no plane at the board"
        sigma_bias, sigma_scale = (*solution.sigma[self.pose_size :], 0.0, 0.0)[:2]
        return DepthCalibration(
            geometry=geometry,
            sigma_m=sigma_m,
            sigma_deg=sigma_deg,
            sigma_scale=float(sigma_scale),
            sigma_bias=float(sigma_bias),
            rms_color=rms(np.concatenate(color)),
            rms_infrared=rms(np.concatenate(infrared)),
            rows=residuals_by_distance(boards, with_depth, geometry, self.outline),
            views=sum(
                (reading is not None and self.use_depth) or (view.infrared is not None and self.pose_size > 0)
                for view, reading in zip(self.views, readings, strict=True)
            ),
            rejected=self.rejected,
        )

    def _check_certain(self, sigma_deg: np.ndarray, sigma_m: np.ndarray, solution: solver.Solution) -> None:
        if sigma_m.max() <= MAX_SIGMA_M and sigma_deg.max() <= MAX_SIGMA_DEG:
            return
        confounded = ""
        if self.correction_size:
            correlation = solution.covariance[5, 6] / (solution.sigma[5] * solution.sigma[6])
            if abs(correlation) > 0.9:
                confounded = "; the depth bias and the distance between the cameras along z cannot be separated"
        raise InputError(
            f"depth → color is determined to {1e3 * sigma_m.max():.1f} mm and {sigma_deg.max():.2f}° only{confounded}: "
            "show the board tilted by 30° to 45° to the left, right, up and down, near the image's edges as well, or "
            "add infrared images"
        )
