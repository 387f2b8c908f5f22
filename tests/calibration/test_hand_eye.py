"""A camera's pose on an arm or next to it, with known ground truth."""

import numpy as np
import pytest

from actrec.types import Intrinsics
from actrec.utils.calibration_files import quaternion
from actrec.utils.errors import DeviceError, InputError
from actrec_calibration.board import Board
from actrec_calibration.detection import detect
from actrec_calibration.hand_eye import HandEyeView, calibrate, read_robot_poses
from actrec_calibration.poses import estimate_board_pose, invert, pose_difference, pose_from_vector, project, transform
from tests.reference import calibration_views as simulated
from tests.reference.board_rendering import render

BOARD = Board.of()
CAMERA = Intrinsics(1280, 720, 910, 910, 641, 358, (0.1, -0.2, 0.001, 0.0, 0.0))


def _views(mount, seed=0, count=15):
    arm = simulated.Arm.random(mount, seed)
    return arm, simulated.simulate_hand_eye_views(arm, BOARD, CAMERA, count, seed)


def _with(view, gripper):
    return HandEyeView(view.name, view.points, view.pixels, gripper)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mount", ["hand", "base"])
def test_calibrate_simulated_views_is_accurate(mount, seed):
    arm, views = _views(mount, seed)
    found = calibrate(views, CAMERA, mount)
    meters, degrees = pose_difference(found.camera, arm.camera)
    assert meters < 0.002 and degrees < 0.1 and not found.rejected
    assert meters < 4 * np.linalg.norm(found.sigma_m) and degrees < 4 * np.linalg.norm(found.sigma_deg)
    assert pose_difference(found.board, arm.board)[0] < 0.002


@pytest.mark.parametrize("mount", ["hand", "base"])
def test_calibrate_rendered_images_is_accurate(mount):
    """Corners come from blurred, noisy images; robot poses have the noise of repeatability."""
    arm, random, views = simulated.Arm.random(mount, 4), np.random.default_rng(4), []
    while len(views) < 15:
        pose = simulated.sample_pose(BOARD, CAMERA, random, 0.4, 0.7, 35)
        corners = detect(BOARD, render(BOARD, CAMERA, pose, blur=0.7, noise=4, seed=len(views))[0])
        if corners is not None:
            gripper = simulated.add_pose_noise(arm.gripper(pose), random, 1e-4, 0.02)
            views.append(HandEyeView(str(len(views)), BOARD.points[corners.ids], corners.pixels, gripper))
    meters, degrees = pose_difference(calibrate(views, CAMERA, mount).camera, arm.camera)
    assert meters < 0.002 and degrees < 0.1


def test_calibrate_exact_views_gives_exact_pose():
    arm, views = _views("hand")
    random, exact_views = np.random.default_rng(0), []
    for view in views:
        pose = simulated.sample_pose(BOARD, CAMERA, random, 0.4, 0.7, 35)
        corners = simulated.simulate_corners(BOARD, CAMERA, pose, 0.0, random)
        exact_views.append(HandEyeView(view.name, BOARD.points[corners.ids], corners.pixels, arm.gripper(pose)))
    meters, degrees = pose_difference(calibrate(exact_views, CAMERA, "hand").camera, arm.camera)
    assert meters < 1e-6 and degrees < 1e-4


def test_calibrate_wrong_poses_are_rejected():
    arm, views = _views("hand", 1)
    wrong = [_with(view, view.gripper @ pose_from_vector(np.array([0.05, 0, 0, 0.02, 0, 0]))) for view in views[:3]]
    found = calibrate(wrong + views[3:], CAMERA, "hand")
    assert set(found.rejected) == {"0.png", "1.png", "2.png"}
    meters, degrees = pose_difference(found.camera, arm.camera)
    assert meters < 0.002 and degrees < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("mount", "other"), [("hand", "base"), ("base", "hand")])
def test_calibrate_inverted_poses_are_recognized(mount, other):
    _, views = _views(mount, 2)
    inverted = [_with(view, invert(view.gripper)) for view in views]
    with pytest.raises(InputError, match=rf"times better inverted.*--inverted.*--mount {other}"):
        calibrate(inverted, CAMERA, mount)
    with pytest.raises(InputError, match="--mount"):
        calibrate(views, CAMERA, other)


def test_calibrate_shuffled_poses_are_refused():
    _, views = _views("hand", 3)
    shuffled = [_with(view, other.gripper) for view, other in zip(views, [*views[4:], *views[:4]], strict=True)]
    with pytest.raises(InputError, match="of 15 views agree on one pose.*each pose belongs to its image"):
        calibrate(shuffled, CAMERA, "hand")


def _rotated_views(sample_angles, count=8):
    arm, random, views = simulated.Arm.random("hand", 0), np.random.default_rng(0), []
    for number in range(count):
        angles = sample_angles(random, number)
        pose = pose_from_vector(np.concatenate([np.radians(angles), [0, 0, 0]]))
        pose[:3, 3] = [0, 0, 0.5] - pose[:3, :3] @ np.array([*BOARD.size, 0]) / 2 + random.uniform(-0.03, 0.03, 3)
        corners = simulated.simulate_corners(BOARD, CAMERA, pose, 0.1, random)
        views.append(HandEyeView(str(number), BOARD.points[corners.ids], corners.pixels, arm.gripper(pose)))
    return views


def test_calibrate_insufficient_motion_is_refused():
    with pytest.raises(InputError, match="at most 0.0°"):
        calibrate(_rotated_views(lambda random, number: [10, 5, 0]), CAMERA, "hand")
    with pytest.raises(InputError, match="rotates about one axis only"):
        calibrate(_rotated_views(lambda random, number: [0, 0, 9 * number]), CAMERA, "hand")
    with pytest.raises(InputError, match="4 views of the board are too few"):
        calibrate(_views("hand")[1][:4], CAMERA, "hand")
    with pytest.raises(InputError, match="mount is 'head'"):
        calibrate(_views("hand")[1], CAMERA, "head")


def test_calibrate_poses_in_mm_are_recognized():
    _, views = _views("hand")
    for view in views:
        view.gripper[:3, 3] *= 1000
    with pytest.raises(InputError, match="is it in mm"):
        calibrate(views, CAMERA, "hand")


def test_read_robot_poses_formats_are_equivalent(tmp_path):
    pose = pose_from_vector(np.array([0.3, -0.2, 1.0, 0.4, 0.1, 0.7]))
    x, y, z, w = quaternion(pose[:3, :3])
    files = {
        "a.csv": f"image,x,y,z,qx,qy,qz,qw\n1.png,0.4,0.1,0.7,{x},{y},{z},{w}\n",
        "b.csv": "image, x, y, z, rx, ry, rz\n1.png, 0.4, 0.1, 0.7, 0.3, -0.2, 1.0\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        np.testing.assert_allclose(read_robot_poses(tmp_path / name)["1.png"], pose, atol=1e-6, err_msg=name)
    (tmp_path / "excel.csv").write_text(files["a.csv"], encoding="utf-8-sig")
    np.testing.assert_allclose(read_robot_poses(tmp_path / "excel.csv")["1.png"], pose, atol=1e-6)
    inverse = read_robot_poses(tmp_path / "a.csv", inverted=True)["1.png"]
    np.testing.assert_allclose(inverse @ pose, np.eye(4), atol=1e-6)
    assert read_robot_poses(tmp_path / "a.csv", unit="mm")["1.png"][0, 3] == pytest.approx(0.0004)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,x,y,z,qx,qy,qz,qw\n1,0,0,0,0,0,0,2\n", "quaternion of length 2.000"),
        ("image,x,y,z\n1,0,0,0\n", "no 'rx'"),
        ("image,x,y,z,rx,ry,rz\n1,0,0,0,90,0,0\n", "give radians"),
        ("image,x,y,z,rx,ry,rz\n1,0,0,a,0,0,0\n", "could not convert"),
        ("image,x,y,z,rx,ry,rz\n1,0,0,0,0,0,0\n1,0,0,0,0,0,0\n", "has a pose already"),
        ("image,x,y,z,rx,ry,rz\n", "contains no poses"),
        ("image,x,y,z,rx,ry,rz\n1,nan,0,0,0,0,0\n", "not all numbers are finite"),
        ("image,x,y,z,rx,ry,rz\n1,0,4,0,1,0,7,0,0,0,0,0,0\n", "write decimals with a point"),
        ('image,x,y,z,rx,ry,rz\n"1,0,0,0,0,0,0\n', "no CSV: unexpected end of data; is a quotation mark left open"),
    ],
)
def test_read_robot_poses_damaged_file_is_refused(tmp_path, text, message):
    (tmp_path / "poses.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_robot_poses(tmp_path / "poses.csv")
    with pytest.raises(DeviceError, match="check the path"):
        read_robot_poses(tmp_path / "none.csv")


@pytest.mark.parametrize("tilt", [(0.4, 0.0), (-0.3, 0.2)])
def test_estimate_board_pose_upside_down_is_exact(tilt):
    """A rotation by exactly 180° is found, where OpenCV's solver alone is off by 95°."""
    pose = pose_from_vector(np.array([0, 0, np.pi, 0.1, 0.05, 0.6])) @ pose_from_vector(np.array([*tilt, 0, 0, 0, 0]))
    found = estimate_board_pose(BOARD.points, project(transform(pose, BOARD.points), CAMERA), CAMERA)
    meters, degrees = pose_difference(found.pose, pose)
    assert meters < 1e-6 and degrees < 1e-4 and found.rms < 1e-4
