"""A camera's pose on a mobile robot, from the floor and a board on it, with known ground truth."""

import numpy as np
import pytest

from actrec import recordings
from actrec.perception.floor_plane import Floor, Readings, find_floor
from actrec.utils.errors import InputError
from actrec.utils.gravity import angles_from_up
from actrec_calibration.board import Board
from actrec_calibration.depth import plane_depth
from actrec_calibration.detection import detect
from actrec_calibration.floor import FloorBoard, calibrate
from actrec_calibration.poses import image_rays, invert, pixel_rays, pose_difference, pose_from_vector, rotation_vector
from tests.reference import calibration_views as simulated
from tests.reference.board_rendering import render

CONFIG = recordings.RecordingConfig(intrinsics="525,525,319.5,239.5", depth_scale=0.0002)
BOARD = Board.of(columns=7, rows=5, square=0.08, marker=0.06)


def _expected_floor(room):
    up = room.camera[2, :3]  # in the color camera's frame
    return room.camera[2, 3], -np.degrees(np.arcsin(up[2])), np.degrees(np.arctan2(-up[0], -up[1]))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("sensor", ["time_of_flight", "stereo"])
def test_find_floor_height_pitch_roll_are_accurate(sensor, seed):
    """The scene has a wall on the floor; both cameras share one pose."""
    rig = simulated.kinect(sensor=sensor)
    rig = simulated.Rig(rig.color, rig.depth, np.eye(4), sensor=sensor)
    room = simulated.Room.random(BOARD, seed)
    found = find_floor(Readings.of(room.depth(rig, seed), rig.depth))
    height, pitch, roll = _expected_floor(room)
    assert abs(found.height - height) < 0.002
    assert angles_from_up(found.normal) == pytest.approx((roll, pitch), abs=0.1)


@pytest.mark.parametrize("sensor", ["time_of_flight", "stereo"])
def test_calibrate_rendered_board_is_accurate(sensor):
    rig, room = simulated.kinect(sensor=sensor), simulated.Room.random(BOARD, 3)
    views = []
    for number in range(5):
        image, _ = render(BOARD, rig.color, room.board(), blur=0.7, noise=4, seed=number)
        views.append((detect(BOARD, image), find_floor(Readings.of(room.depth(rig, 3, number), rig.depth))))
    found = calibrate(BOARD, views, room.placed, rig.color, rig.to_color)
    meters, degrees = pose_difference(found.camera, room.camera)
    assert meters < 0.002 and degrees < 0.1
    assert meters < 4 * np.linalg.norm(found.sigma_m) and abs(found.board_offset_m) < 0.01 and found.board_angle_deg < 1


def test_calibrate_sigma_matches_scatter_about_base_axes():
    """The reported deviations match the scatter over twenty noise samples."""
    rig, room, random = simulated.kinect(), simulated.Room.random(BOARD, 3), np.random.default_rng(0)
    directions = image_rays(rig.color)[::9, ::9].reshape(-1, 3)
    distance = plane_depth(invert(room.camera), directions)
    visible = (distance > 0.3) & (distance < 3)
    directions, distance = directions[visible], distance[visible]
    sigma = 0.002 + 0.002 * distance**2
    errors, deviations = [], []
    for _ in range(20):
        plane = Floor(room.camera[2, :3], room.camera[2, 3], directions, random.normal(distance, sigma), sigma)
        corners = simulated.simulate_corners(BOARD, rig.color, room.board(), 0.25, random)
        found = calibrate(BOARD, [(corners, plane)], room.placed, rig.color, np.eye(4))
        errors.append(rotation_vector(found.camera[:3, :3] @ room.camera[:3, :3].T))
        deviations.append(found.sigma_deg)
    scatter = np.degrees(np.std(errors, axis=0))
    assert np.mean(deviations, axis=0) == pytest.approx(scatter, rel=0.5)


def test_calibrate_base_height_and_thickness_shift_camera():
    """A base link 0.2 m above the floor and a board 5 mm thick shift the camera pose accordingly."""
    rig, room = simulated.kinect(), simulated.Room.random(BOARD, 1)
    floor_board = FloorBoard(room.placed.x, room.placed.y, room.placed.yaw, 0.005)
    corners = simulated.simulate_corners(
        BOARD, rig.color, invert(room.camera) @ floor_board.pose(0), 0.1, np.random.default_rng(0)
    )
    plane = find_floor(Readings.of(room.depth(rig, 1), rig.depth))
    found = calibrate(BOARD, [(corners, plane)], floor_board, rig.color, rig.to_color, base_height=0.2)
    assert abs(found.camera[2, 3] - (room.camera[2, 3] - 0.2)) < 0.002


def _plane_image(rig, plane):
    v, u = np.indices((rig.depth.height, rig.depth.width))
    z = plane_depth(plane, pixel_rays(np.stack([u.ravel(), v.ravel()], 1), rig.depth))
    return np.where(z > 0, z, np.inf).reshape(u.shape).astype(np.float32)


def test_find_floor_nearby_table_is_not_largest():
    """A nearby table covers more pixels than the floor behind it."""
    rig, room = simulated.kinect(), simulated.Room.random(BOARD, 0)
    to_depth = invert(room.camera @ rig.to_color)
    floor, table = np.eye(4), np.eye(4)
    table[2, 3] = 0.5 * room.camera[2, 3]
    floor_z, table_z = (_plane_image(rig, to_depth @ plane) for plane in (floor, table))
    rows = np.arange(rig.depth.height)[:, None] > 0.45 * rig.depth.height
    depth = np.where(rows, table_z, floor_z)
    assert rows.mean() > 0.5
    assert abs(find_floor(Readings.of(depth, rig.depth)).height - (room.camera @ rig.to_color)[2, 3]) < 0.005


def test_find_floor_table_above_floor_is_refused():
    rig, room = simulated.kinect(), simulated.Room.random(BOARD, 0)
    to_depth = invert(room.camera @ rig.to_color)
    table = np.eye(4)
    table[2, 3] = 0.2
    table_z, floor_z = _plane_image(rig, to_depth @ table), _plane_image(rig, to_depth)
    columns = np.arange(rig.depth.width)[None] > 0.3 * rig.depth.width
    with pytest.raises(InputError, match="is it a table"):
        find_floor(Readings.of(np.where(columns, table_z, floor_z), rig.depth))


def test_find_floor_without_floor_is_refused():
    rig = simulated.kinect()
    wall = np.full((424, 512), 2.0, np.float32)
    with pytest.raises(InputError, match="point the camera at the floor"):
        find_floor(Readings.of(wall, rig.depth))
    with pytest.raises(InputError, match="0 readings below 5 m"):
        find_floor(Readings.of(np.full((424, 512), np.nan, np.float32), rig.depth))


def test_find_floor_wall_behind_a_person_is_refused(data_root):
    """The fit turns to the wall in front of the camera, which hardly sees the floor."""
    with recordings.open_recording(data_root / "rgbd/person_turning", CONFIG) as recording:
        frame = next(recording.frames())
    with pytest.raises(InputError, match=r"tilted by \d+° from the up direction, so it is a wall|is it a table"):
        find_floor(Readings.of(frame.depth, frame.intrinsics))


def test_find_floor_rotated_camera_needs_up():
    rig, room = simulated.kinect(), simulated.Room.random(BOARD, 2)
    room = simulated.Room(room.camera @ pose_from_vector(np.array([0, 0, np.pi / 2, 0, 0, 0])), room.placed)
    depth = room.depth(rig, 2)
    found = find_floor(Readings.of(depth, rig.depth), up=(-1, 0, 0))
    assert abs(found.height - (room.camera @ rig.to_color)[2, 3]) < 0.002


def test_calibrate_board_above_floor_is_refused():
    rig, room = simulated.kinect(), simulated.Room.random(BOARD, 1)
    raised_board = FloorBoard(room.placed.x, room.placed.y, room.placed.yaw, 0.1)
    corners = simulated.simulate_corners(
        BOARD, rig.color, invert(room.camera) @ raised_board.pose(0), 0.1, np.random.default_rng(0)
    )
    plane = find_floor(Readings.of(room.depth(rig, 1), rig.depth))
    with pytest.raises(
        InputError, match="does not lie on the floor.*100 mm above|does not lie on the floor.*99 mm above"
    ):
        calibrate(BOARD, [(corners, plane)], room.placed, rig.color, rig.to_color)
    chessboard = Board.of(kind="chessboard", columns=6, rows=4, square=0.08)
    with pytest.raises(InputError, match="forward and backward"):
        calibrate(chessboard, [(corners, plane)], room.placed, rig.color, rig.to_color)
