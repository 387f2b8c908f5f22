"""The camera's pose on a mobile robot: the floor gives height, pitch and roll; a board on the floor gives x, y and yaw.

The base frame has x forward, y left, z up; its origin is at a known height above the floor (0 for base_footprint).
"""

import itertools
from dataclasses import dataclass

import numpy as np

from actrec.types import Intrinsics
from actrec.utils.errors import InputError
from actrec_calibration import solver
from actrec_calibration.board import Board
from actrec_calibration.depth import MAX_SIGMA_DEG, MAX_SIGMA_M, plane_depth
from actrec_calibration.detection import BoardCorners
from actrec_calibration.poses import (
    estimate_board_pose,
    invert,
    pixel_rays,
    pose_from_vector,
    pose_to_vector,
    project,
    rms,
    rotation_sigma_deg,
    transform,
)

MAX_TILT_DEG = 65.0  # between the floor's normal and the approximate up direction
MAX_DEPTH = 5.0  # m; farther readings are too coarse
NEAR_DEPTH, NEAR_FACTOR = 2.5, 1.6
"""The fit uses the floor up to 2.5 m, or to 1.6 times the depth at which it enters the image. Noise grows with the
square of the distance; farther away the foot of a wall is within it and tilts the fit."""

MIN_FLOOR_SHARE = 0.05  # of the visible surface
MAX_SHARE_BELOW = 0.15  # of the visible surface that may be under the floor (reflections, holes)
MAX_BOARD_OFFSET_M, MAX_BOARD_ANGLE_DEG = 0.03, 3.0  # between the board and the floor
RANSAC_TRIALS, RANSAC_POINTS = 600, 4000
MAX_READINGS = 5000
BANDS = 25


@dataclass(frozen=True)
class Floor:
    """The floor in a depth image.

    Attributes:
        normal: [3] up, in the depth camera's optical frame.
        height: Of the camera above the floor, m.
        rays: [N, 3] directions, z = 1, of readings on the floor.
        depth: [N] m.
        sigma: [N] standard deviation of each reading, m.
    """

    normal: np.ndarray
    height: float
    rays: np.ndarray
    depth: np.ndarray
    sigma: np.ndarray

    @property
    def pitch(self) -> float:
        """Rotation of the camera downwards, degrees."""
        return float(-np.degrees(np.arcsin(np.clip(self.normal[2], -1, 1))))

    @property
    def roll(self) -> float:
        """Rotation of the camera about its optical axis, degrees, clockwise in the viewing direction."""
        return float(np.degrees(np.arctan2(-self.normal[0], -self.normal[1])))


@dataclass(frozen=True)
class FloorBoard:
    """A board face up on the floor.

    Attributes:
        x, y: Position of the board's origin (the outer corner of its top left square) in the base frame, m.
        yaw: Degrees from the base's x axis to the print's x axis (left to right), counter-clockwise from above; −90 if
            the print is upright for a viewer at the robot who looks ahead.
        thickness: Of the board, m.
    """

    x: float
    y: float
    yaw: float
    thickness: float = 0.0

    def pose(self, base_height: float) -> np.ndarray:
        """Return [4, 4] board → base; the board's z axis points into the floor."""
        c, s = np.cos(np.radians(self.yaw)), np.sin(np.radians(self.yaw))
        pose = np.eye(4)
        pose[:3, :3] = np.array([[c, s, 0], [s, -c, 0], [0, 0, -1]])
        pose[:3, 3] = self.x, self.y, self.thickness - base_height
        return pose


@dataclass(frozen=True)
class FloorCalibration:
    """Result of `calibrate`.

    Attributes:
        camera: [4, 4] color camera → base.
        sigma_m, sigma_deg: [3] standard deviations along and about the base's axes.
        rms: Reprojection error of the board's corners, px.
        board_offset_m, board_angle_deg: Between the floor in depth and the board's plane.
    """

    camera: np.ndarray
    sigma_m: np.ndarray
    sigma_deg: np.ndarray
    rms: float
    board_offset_m: float
    board_angle_deg: float


def find_floor(
    depth: np.ndarray, camera: Intrinsics, up: tuple[float, float, float] = (0, -1, 0), seed: int = 0
) -> Floor:
    """Find the largest plane below the camera, by area in m², that is compatible with the up direction.

    Args:
        depth: [H, W] m, NaN if missing.
        camera: Intrinsics of the depth image.
        up: Approximate up direction in the optical frame.
        seed: Seed of RANSAC.

    Raises:
        InputError: There is no such plane, or much of the visible surface is below it (a table).
    """
    v, u = np.nonzero(np.isfinite(depth) & (depth > 0) & (depth < 1.2 * MAX_DEPTH))
    if len(v) < 1000:
        raise InputError(f"the depth image has {len(v)} readings below {MAX_DEPTH:g} m: show the camera the floor")
    readings = _Readings(pixel_rays(np.stack([u, v], axis=1), camera), depth[v, u].astype(np.float64))
    random = np.random.default_rng(seed)
    sample = random.choice(len(readings.depth), min(RANSAC_POINTS, len(readings.depth)), replace=False)
    points = readings.rays[sample] * readings.depth[sample, None]
    normal, height = _ransac_plane(points, np.array(up, np.float64), random)
    on = readings.on_floor(normal, height, MAX_DEPTH)
    nearest = float(np.percentile(readings.floor_depth(normal, height)[on], 2)) if on.any() else MAX_DEPTH
    reach = min(MAX_DEPTH, max(NEAR_DEPTH, NEAR_FACTOR * nearest))
    for _ in range(8):
        on = readings.on_floor(normal, height, reach)
        normal, height = readings.fit_floor(on, normal, height)
        readings.update_sigma(normal, height, on)
    area = readings.depth**2
    share = float(area[readings.on_floor(normal, height, MAX_DEPTH)].sum() / area.sum())
    if share < MIN_FLOOR_SHARE or height <= 0:
        raise InputError(
            f"the largest level plane is {share:.0%} of the visible surface: point the camera at the floor"
        )
    below = readings.rays @ normal * readings.depth + height < -0.05 - _max_distance(readings.depth)
    if area[below].sum() > MAX_SHARE_BELOW * area.sum():
        raise InputError(
            f"much of the visible surface is below the largest level plane, {height:.2f} m under the camera: is it a "
            "table? point the camera at the floor"
        )
    on = readings.on_floor(normal, height, reach)
    thinned = np.flatnonzero(on)[np.unique(np.linspace(0, on.sum() - 1, MAX_READINGS).astype(int))]
    return Floor(normal, height, readings.rays[thinned], readings.depth[thinned], readings.sigma[thinned])


def _max_distance(z: np.ndarray) -> np.ndarray:
    """Return the distance in m from the floor that noise explains at depth z."""
    return np.asarray(0.01 + 0.005 * z**2)


class _Readings:
    """Readings [N] of a depth image with their rays [N, 3], compared with a plane (normal, height)."""

    def __init__(self, rays: np.ndarray, depth: np.ndarray):
        self.rays, self.depth = rays, depth
        self.sigma = _max_distance(depth)  # of each reading; first a coarse bound

    def floor_depth(self, normal: np.ndarray, height: float) -> np.ndarray:
        """Return [N] depth of the floor along the rays; infinite above the horizon."""
        down = -self.rays @ normal
        return np.where(down > 1e-6, height / np.maximum(down, 1e-6), np.inf)

    def on_floor(self, normal: np.ndarray, height: float, reach: float) -> np.ndarray:
        """Return [N] bool: readings of the floor up to depth `reach`.

        All limits depend on the floor's depth, not on the reading's: otherwise readings that are too far by chance pass
        more easily, and the fitted floor sinks.
        """
        true = self.floor_depth(normal, height)
        facing = np.abs(self.rays @ normal)
        limit = np.minimum(_max_distance(np.minimum(true, reach)), 3 * self.sigma * facing)
        near: np.ndarray = np.abs(self.depth - true) * facing <= limit
        return near & (true < reach)

    def fit_floor(self, on: np.ndarray, normal: np.ndarray, height: float) -> tuple[np.ndarray, float]:
        """Fit the plane by least squares in the inverse depth, in which it is linear, weighted by the depth error."""
        z = self.depth[on]
        if len(z) < 100:
            raise InputError("no plane below the camera is even enough: point the camera at an even floor")
        weight = z * self.floor_depth(normal, height)[on] / self.sigma[on]
        plane = np.linalg.lstsq(self.rays[on] * weight[:, None], weight / z, rcond=None)[0]  # −normal / height
        size = float(np.linalg.norm(plane))
        fitted = -plane / size
        return (fitted, 1 / size) if fitted @ normal > 0 else (-fitted, -1 / size)

    def update_sigma(self, normal: np.ndarray, height: float, on: np.ndarray) -> None:
        """Estimate the noise by depth from the readings on the floor: objects on the floor would tilt the fit."""
        floor_depth = self.floor_depth(normal, height)
        true, readings = floor_depth[on], self.depth[on]
        parts = np.array_split(np.argsort(true), 12)
        medians = [float(np.median(true[part])) for part in parts]
        spread = [1.4826 * float(np.median(np.abs(readings[part] - true[part]))) for part in parts]
        self.sigma = np.maximum(np.interp(floor_depth, medians, spread), 2e-4)


def _ransac_plane(points: np.ndarray, up: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, float]:
    triples = points[random.integers(0, len(points), (RANSAC_TRIALS, 3))]
    normals = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1), 1e-12)[:, None]
    normals *= np.where(normals @ up < 0, -1, 1)[:, None]
    heights = -(normals * triples[:, 0]).sum(1)
    level = (normals @ (up / np.linalg.norm(up)) >= np.cos(np.radians(MAX_TILT_DEG))) & (heights > 0.05)
    normals, heights = normals[level], heights[level]
    if not len(normals):
        raise InputError(
            "no plane below the camera looks like a floor: point the camera at the floor, and set the up direction "
            "(--up) if it is not mounted upright"
        )
    on = np.abs(normals @ points.T + heights[:, None]) <= _max_distance(points[:, 2])
    # By area, for surfaces that face the camera: the factor of oblique ones favors planes that graze far readings.
    best = int((on @ points[:, 2] ** 2).argmax())
    return normals[best], float(heights[best])


def calibrate(
    board: Board,
    views: list[tuple[BoardCorners, Floor]],
    placed: FloorBoard,
    color: Intrinsics,
    to_color: np.ndarray,
    base_height: float = 0.0,
) -> FloorCalibration:
    """Calibrate the camera's pose from the board's corners and the floor's readings together.

    Args:
        board: Board on the floor.
        views: Its corners in the color image and the floor in the depth image, of one or more frames from one place.
        placed: Pose of the board.
        color: Intrinsics of the color image.
        to_color: [4, 4] depth → color; the identity for registered depth.
        base_height: Of the base frame's origin above the floor, m.

    Raises:
        InputError: The board is not on the detected floor, looks the same after half a turn, or is too far away.
    """
    if board.ambiguous:
        raise InputError(
            "this chessboard looks the same after half a turn, so forward and backward cannot be distinguished: use a "
            "ChArUco board, or one with an odd and an even number of corners"
        )
    to_base = placed.pose(base_height)
    poses = [estimate_board_pose(board.points[corners.ids], corners.pixels, color) for corners, _ in views]
    offset_m, angle_deg = _check_board_on_floor(poses[0].pose, views[0][1], to_color, placed.thickness)
    floor = np.eye(4)
    floor[2, 3] = -base_height
    sigma = max(float(np.median([pose.rms for pose in poses])) / np.sqrt(2), 0.03)

    def corner_errors(camera: np.ndarray, corners: BoardCorners) -> np.ndarray:
        return project(transform(invert(camera) @ to_base, board.points[corners.ids]), color) - corners.pixels

    # Each band of the floor counts as a view, so that errors common to neighboring readings increase the covariance.
    places = [(plane, np.linspace(0, len(plane.depth), BANDS + 1).astype(int)) for _, plane in views]
    bands = [(plane, slice(a, b)) for plane, edges in places for a, b in itertools.pairwise(edges) if b > a]

    def residuals(shared: np.ndarray, own: np.ndarray, part: int) -> np.ndarray:
        camera = pose_from_vector(shared)
        if part < len(views):
            return corner_errors(camera, views[part][0]).ravel() / sigma
        plane, band = bands[part - len(views)]
        true = plane_depth(invert(camera @ to_color) @ floor, plane.rays[band])
        return np.asarray((plane.depth[band] - true) / plane.sigma[band])

    initial = pose_to_vector(to_base @ invert(poses[0].pose))
    solution = solver.solve(residuals, initial, np.zeros((len(views) + len(bands), 0)))
    sigma_deg, sigma_m = rotation_sigma_deg(solution.shared, solution.covariance[:3, :3]), solution.sigma[3:]
    if sigma_m.max() > MAX_SIGMA_M or sigma_deg.max() > MAX_SIGMA_DEG:
        raise InputError(
            f"the board determines the camera's pose to {1e3 * sigma_m.max():.1f} mm and {sigma_deg.max():.2f}° only: "
            "lay it nearer, or use one with larger squares"
        )
    camera = pose_from_vector(solution.shared)
    errors = np.concatenate([corner_errors(camera, corners) for corners, _ in views])
    return FloorCalibration(camera, sigma_m, sigma_deg, rms(errors), offset_m, angle_deg)


def _check_board_on_floor(
    board: np.ndarray, floor: Floor, to_color: np.ndarray, thickness: float
) -> tuple[float, float]:
    """Return the distance in m and the angle in degrees between the board's plane and the floor, if they are small."""
    in_depth = invert(to_color) @ board
    angle = float(np.degrees(np.arccos(np.clip(-in_depth[:3, 2] @ floor.normal, -1, 1))))
    above = float(floor.normal @ in_depth[:3, 3] + floor.height) - thickness
    if angle > MAX_BOARD_ANGLE_DEG or abs(above) > MAX_BOARD_OFFSET_M:
        raise InputError(
            f"the board does not lie on the floor of the depth image: {1e3 * above:.0f} mm above it, tilted by "
            f"{angle:.1f}°; lay it flat, check the size of its squares, and run actrec calibrate depth first"
        )
    return above, angle
