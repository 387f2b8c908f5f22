"""Depth readings on the board, and the board's pose."""

import numpy as np
import pytest

from actrec.utils.calibration_files import DepthGeometry
from actrec.utils.errors import InputError
from actrec_calibration.board import Board
from actrec_calibration.depth import board_readings, check_distances, plane_depth, residuals_by_distance
from actrec_calibration.poses import estimate_board_pose, pose_difference, pose_from_vector, project, transform
from tests.reference import calibration_views as simulated
from tests.reference.board_rendering import render

BOARD = Board.of(columns=10, rows=7, square=0.06, marker=0.045)
CAMERA = simulated.kinect().depth
OUTLINE = np.array([[0, 0, 0], [0.6, 0, 0], [0.6, 0.42, 0], [0, 0.42, 0]])
POSE = pose_from_vector(np.array([0.3, -0.4, 0.1, -0.25, -0.2, 1.1]))


@pytest.fixture(scope="module")
def exact_depth():
    return render(BOARD, CAMERA, POSE)[1]


def test_board_readings_exact_depth_lies_on_plane(exact_depth):
    """The renderer and `plane_depth` agree, with the lens distortion included."""
    readings = board_readings(exact_depth, CAMERA, POSE, OUTLINE)
    np.testing.assert_allclose(readings.depth, plane_depth(POSE, readings.rays), atol=2e-6)


def test_board_readings_ignores_edges_holes_outliers(exact_depth):
    random = np.random.default_rng(0)
    depth = np.where(np.isfinite(exact_depth), exact_depth, 3.0) + random.normal(0, 0.002, exact_depth.shape)
    depth[random.random(depth.shape) < 0.2] = np.nan
    outliers = random.random(depth.shape) < 0.05
    depth[outliers] += 0.05
    readings = board_readings(depth, CAMERA, POSE, OUTLINE)
    residual = readings.depth - plane_depth(POSE, readings.rays)
    assert np.abs(residual).max() < 0.012 and abs(residual.mean()) < 4e-4 and 0.0017 < readings.sigma < 0.0025
    assert readings.count < np.isfinite(exact_depth).sum()


def test_board_readings_without_board_returns_none(exact_depth):
    assert board_readings(np.full_like(exact_depth, np.nan), CAMERA, POSE, OUTLINE) is None
    assert board_readings(np.full_like(exact_depth, 3.0), CAMERA, POSE, OUTLINE) is None  # only the wall is visible
    pose = POSE.copy()
    pose[2, 3] = -1
    assert board_readings(exact_depth, CAMERA, pose, OUTLINE) is None


def test_check_distances_similar_is_refused():
    check_distances(np.array([0.6, 1.0]))
    with pytest.raises(InputError, match=r"0.80 to 0.90 m.*nearer and farther"):
        check_distances(np.array([0.8, 0.9]))


def test_residuals_by_distance_before_and_after_correction(exact_depth):
    readings = board_readings((exact_depth - 0.01) / 1.01, CAMERA, POSE, OUTLINE)
    assert readings is not None
    (row,) = residuals_by_distance([POSE], [readings], DepthGeometry(np.eye(4), 1.01, 0.01), OUTLINE)
    assert row["corrected_mm"] == 0 and row["as_read_mm"] < -15
    assert row["distance_m"] == round(float(transform(POSE, OUTLINE.mean(0))[2]), 3)


def test_estimate_board_pose_rejects_outlier():
    pixels = project(transform(POSE, BOARD.points), CAMERA)
    found = estimate_board_pose(BOARD.points, pixels, CAMERA)
    meters, degrees = pose_difference(found.pose, POSE)
    assert meters < 1e-6 and degrees < 1e-4 and found.rms < 1e-4 and not found.ambiguous
    pixels[3] += 20
    found = estimate_board_pose(BOARD.points, pixels, CAMERA)
    assert list(np.flatnonzero(~found.inliers)) == [3] and pose_difference(found.pose, POSE)[0] < 1e-6


def test_estimate_board_pose_distant_board_is_ambiguous():
    pose = pose_from_vector(np.array([0.25, 0.0, 0.0, -0.1, -0.1, 6.0]))
    pixels = project(transform(pose, BOARD.points), CAMERA) + np.random.default_rng(0).normal(
        0, 0.3, (len(BOARD.points), 2)
    )
    assert estimate_board_pose(BOARD.points, pixels, CAMERA).ambiguous


def test_estimate_board_pose_unusable_corners_are_refused():
    pixels = project(transform(POSE, BOARD.points), CAMERA)
    with pytest.raises(InputError, match="5 corners are too few"):
        estimate_board_pose(BOARD.points[:5], pixels[:5], CAMERA)
    with pytest.raises(InputError, match="on one line"):
        estimate_board_pose(BOARD.points[:9], pixels[:9], CAMERA)
    with pytest.raises(InputError, match="corners fit no pose|no pose of the board"):
        estimate_board_pose(BOARD.points, np.random.default_rng(0).uniform(100, 400, pixels.shape), CAMERA)
