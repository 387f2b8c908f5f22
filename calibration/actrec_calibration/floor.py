"""The camera's pose on a mobile robot: the floor gives height, pitch and roll; a board on the floor gives x, y and yaw.

The base frame has x forward, y left, z up; its origin is at a known height above the floor (0 for base_footprint).
"""

import itertools
from dataclasses import dataclass

import numpy as np

from actrec.perception.floor_plane import Floor
from actrec.types import Intrinsics
from actrec.utils import calibration_files
from actrec.utils.errors import InputError
from actrec_calibration import solver
from actrec_calibration.board import Board
from actrec_calibration.depth import MAX_SIGMA_DEG, MAX_SIGMA_M, plane_depth
from actrec_calibration.detection import BoardCorners
from actrec_calibration.poses import (
    estimate_board_pose,
    invert,
    pose_from_vector,
    pose_to_vector,
    project,
    rms,
    rotation_sigma_deg,
    transform,
)

MAX_BOARD_OFFSET_M, MAX_BOARD_ANGLE_DEG = 0.03, 3.0  # between the board and the floor
BANDS = 25


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
        place = self.x, self.y, self.thickness - base_height
        return calibration_files.transform([[c, s, 0], [s, -c, 0], [0, 0, -1]], place)


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
    floor = calibration_files.transform(np.eye(3), (0, 0, -base_height))
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
