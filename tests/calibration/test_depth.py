"""Depth readings on the board."""

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
def exact():
    return render(BOARD, CAMERA, POSE)[1]


def test_board_readings_exact_depth_lies_on_plane(exact):
    """The renderer's depth and this module's plane agree, lens included."""
    seen = board_readings(exact, CAMERA, POSE, OUTLINE)
    np.testing.assert_allclose(seen.depth, plane_depth(POSE, seen.rays), atol=2e-6)


def test_board_readings_ignores_edges_holes_outliers(exact):
    random = np.random.default_rng(0)
    depth = np.where(np.isfinite(exact), exact, 3.0) + random.normal(0, 0.002, exact.shape)
    depth[random.random(depth.shape) < 0.2] = np.nan
    wrong = random.random(depth.shape) < 0.05
    depth[wrong] += 0.05
    seen = board_readings(depth, CAMERA, POSE, OUTLINE)
    away = seen.depth - plane_depth(POSE, seen.rays)
    assert np.abs(away).max() < 0.012 and abs(away.mean()) < 4e-4 and 0.0017 < seen.sigma < 0.0025
    assert seen.count < np.isfinite(exact).sum()


def test_board_readings_without_board_returns_none(exact):
    assert board_readings(np.full_like(exact, np.nan), CAMERA, POSE, OUTLINE) is None
    assert board_readings(np.full_like(exact, 3.0), CAMERA, POSE, OUTLINE) is None  # the wall alone
    behind = POSE.copy()
    behind[2, 3] = -1
    assert board_readings(exact, CAMERA, behind, OUTLINE) is None


def test_check_distances_similar_is_refused():
    check_distances(np.array([0.6, 1.0]))
    with pytest.raises(InputError, match=r"0.80 to 0.90 m.*nearer and farther"):
        check_distances(np.array([0.8, 0.9]))


def test_residuals_by_distance_before_and_after_correction(exact):
    seen = board_readings((exact - 0.01) / 1.01, CAMERA, POSE, OUTLINE)
    assert seen is not None
    (row,) = residuals_by_distance([POSE], [seen], DepthGeometry(np.eye(4), 1.01, 0.01), OUTLINE)
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
    far = pose_from_vector(np.array([0.25, 0.0, 0.0, -0.1, -0.1, 6.0]))
    pixels = project(transform(far, BOARD.points), CAMERA) + np.random.default_rng(0).normal(
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
