"""Color–depth extrinsics and the depth's scale and bias, on views with known ground truth."""

import numpy as np
import pytest

from actrec.utils.errors import InputError
from actrec_calibration.board import Board
from actrec_calibration.depth import CameraPair, calibrate
from actrec_calibration.detection import BoardCorners, RgbdView, detect
from actrec_calibration.poses import invert, pose_difference, pose_from_vector
from tests.reference import calibration_views as simulated
from tests.reference.board_rendering import render

BOARD = Board.of(columns=10, rows=7, square=0.06, marker=0.045)
SCALE, BIAS = 1.004, -0.012


def _rig(sensor="time_of_flight"):
    return simulated.kinect(sensor=sensor, scale=SCALE, bias=BIAS)


def _cameras(rig):
    return CameraPair(rig.color, rig.depth)


@pytest.mark.slow
@pytest.mark.parametrize(("sensor", "infrared"), [("time_of_flight", True), ("stereo", False)])
def test_calibrate_simulated_views_is_accurate(sensor, infrared):
    rig = _rig(sensor)
    found = calibrate(BOARD, simulated.simulate_rgbd_views(BOARD, rig, 15, seed=3, infrared=infrared), _cameras(rig))
    meters, degrees = pose_difference(found.geometry.to_color, rig.to_color)
    assert meters < 0.002 and degrees < 0.1
    assert abs(found.geometry.bias - BIAS) < 0.001 and abs(found.geometry.scale - SCALE) < 0.002
    # The errors lie within four reported deviations.
    assert meters < 4 * np.linalg.norm(found.sigma_m) and degrees < 4 * np.linalg.norm(found.sigma_deg)
    assert abs(found.geometry.bias - BIAS) < 4 * found.sigma_bias
    assert [row["distance_m"] for row in found.rows] == sorted(row["distance_m"] for row in found.rows)
    assert np.median([abs(row["corrected_mm"]) for row in found.rows]) < 1
    assert np.median([abs(row["as_read_mm"]) for row in found.rows]) > 6


@pytest.mark.slow
def test_calibrate_rendered_images_is_accurate():
    """Corners come from blurred, noisy images of both cameras, depth from the sensor's noise model."""
    from actrec.simulation.noise import SENSORS, SensorNoise

    rig, random = _rig(), np.random.default_rng(1)
    noise, pairs = SensorNoise(SENSORS[rig.sensor], rig.depth, 1), []
    for number in range(14):
        pose = simulated.sample_pose(BOARD, rig.color, random, 0.7, 1.5, 40)
        in_depth = invert(rig.to_color) @ pose
        color, infrared = (
            detect(BOARD, render(BOARD, camera, board_pose, blur=0.7, noise=4, seed=number)[0])
            for camera, board_pose in ((rig.color, pose), (rig.depth, in_depth))
        )
        if color is not None:
            depth = simulated.simulate_board_depth(BOARD, rig, in_depth, noise, number)
            pairs.append(RgbdView(f"{number}.png", color, depth, infrared))
    found = calibrate(BOARD, pairs, _cameras(rig))
    meters, degrees = pose_difference(found.geometry.to_color, rig.to_color)
    assert len(pairs) >= 12 and meters < 0.002 and degrees < 0.1 and abs(found.geometry.bias - BIAS) < 0.001


def test_calibrate_one_distance_needs_model_bias():
    rig, random = simulated.kinect(bias=0.009), np.random.default_rng(0)
    from actrec.simulation.noise import SENSORS, SensorNoise

    noise, pairs = SensorNoise(SENSORS[rig.sensor], rig.depth, 0), []
    for number in range(8):
        pose = simulated.sample_pose(BOARD, rig.color, random, 0.95, 1.05, 30)
        in_depth = invert(rig.to_color) @ pose
        pairs.append(
            RgbdView(
                str(number),
                simulated.simulate_corners(BOARD, rig.color, pose, 0.15, random),
                simulated.simulate_board_depth(BOARD, rig, in_depth, noise, number),
                simulated.simulate_corners(BOARD, rig.depth, in_depth, 0.15, random),
            )
        )
    with pytest.raises(InputError, match="too similar to separate a depth scale from a bias"):
        calibrate(BOARD, pairs, _cameras(rig))
    found = calibrate(BOARD, pairs, _cameras(rig), "bias")
    assert found.geometry.scale == 1 and found.sigma_scale == 0 and abs(found.geometry.bias - 0.009) < 0.001


def test_calibrate_registered_depth_gives_scale_and_bias():
    rig = simulated.kinect(scale=0.995, bias=0.006)
    rig = simulated.Rig(rig.color, rig.color, np.eye(4), 0.995, 0.006)
    pairs = simulated.simulate_rgbd_views(BOARD, rig, 10, seed=5, infrared=False)
    found = calibrate(BOARD, pairs, CameraPair(rig.color, rig.color, np.eye(4)))
    assert np.array_equal(found.geometry.to_color, np.eye(4)) and not found.sigma_m.any()
    assert abs(found.geometry.bias - 0.006) < 0.001 and abs(found.geometry.scale - 0.995) < 0.002


def test_calibrate_frontal_boards_need_infrared():
    rig = _rig()
    frontal = simulated.simulate_rgbd_views(BOARD, rig, 8, seed=1, infrared=False, tilt=3)
    with pytest.raises(InputError, match="boards are all parallel.*distance along z.*depth bias"):
        calibrate(BOARD, frontal, _cameras(rig))
    # With infrared images, the corners determine the pose, so frontal boards suffice.
    found = calibrate(BOARD, simulated.simulate_rgbd_views(BOARD, rig, 8, seed=1, tilt=3), _cameras(rig))
    assert abs(found.geometry.bias - BIAS) < 0.001


@pytest.mark.parametrize(("axis", "missing"), [(0, "left and right"), (1, "up and down")])
def test_calibrate_tilts_about_one_axis_are_refused(axis, missing, monkeypatch):
    def sample_one_axis_tilt(board, camera, random, near, far, tilt):
        pose_vector = np.zeros(6)
        pose_vector[axis] = np.radians(random.uniform(-40, 40))
        pose = pose_from_vector(pose_vector)
        pose[:3, 3] = [0, 0, random.uniform(near, far)] - pose[:3, :3] @ np.array([*board.size, 0]) / 2
        return pose

    monkeypatch.setattr(simulated, "sample_pose", sample_one_axis_tilt)
    rig = _rig()
    with pytest.raises(InputError, match=f"tilt one way only.*tilt the board {missing} as well"):
        calibrate(BOARD, simulated.simulate_rgbd_views(BOARD, rig, 8, seed=1, infrared=False), _cameras(rig))


def test_calibrate_view_without_board_in_depth_is_rejected():
    rig = _rig()
    pairs = simulated.simulate_rgbd_views(BOARD, rig, 12, seed=2)
    empty = np.full_like(pairs[4].depth, np.nan)
    pairs[4] = RgbdView(pairs[4].name, pairs[4].color, empty, pairs[4].infrared)
    found = calibrate(BOARD, pairs, _cameras(rig))
    assert list(found.rejected) == ["4.png"] and "no plane" in found.rejected["4.png"]
    assert abs(found.geometry.bias - BIAS) < 0.001


def test_calibrate_unusable_views_are_refused():
    rig = _rig()
    pairs = simulated.simulate_rgbd_views(BOARD, rig, 6, seed=2)
    with pytest.raises(InputError, match="3 of 3 views show the board well enough; 4 are needed"):
        calibrate(BOARD, pairs[:3], _cameras(rig))
    with pytest.raises(InputError, match="model is 'both', expected scale, bias, none"):
        calibrate(BOARD, pairs, _cameras(rig), "both")
    no_depth = [RgbdView(pair.name, pair.color, np.full_like(pair.depth, np.nan), pair.infrared) for pair in pairs]
    with pytest.raises(InputError, match="show the board in 0 of 6 views"):
        calibrate(BOARD, no_depth, _cameras(rig))
    chessboard = Board.of(kind="chessboard", columns=8, rows=6, square=0.06)
    views = [
        RgbdView(
            p.name,
            BoardCorners(np.arange(48), p.color.pixels[:48]),
            p.depth,
            BoardCorners(np.arange(48), p.infrared.pixels[:48]),
        )
        for p in pairs
    ]
    assert chessboard.ambiguous
    with pytest.raises(InputError, match="4 are needed|half a turn"):
        calibrate(chessboard, views, _cameras(rig))


def test_calibrate_view_left_out_is_not_counted():
    rig = simulated.kinect(bias=0.006)
    rig = simulated.Rig(rig.color, rig.color, np.eye(4), 1.0, 0.006)
    pairs = simulated.simulate_rgbd_views(BOARD, rig, 10, seed=5, infrared=False)
    pairs[4] = RgbdView(pairs[4].name, pairs[4].color, np.full_like(pairs[4].depth, np.nan))
    found = calibrate(BOARD, pairs, CameraPair(rig.color, rig.color, np.eye(4)), "bias")
    assert list(found.rejected) == ["4.png"] and found.views == 9
