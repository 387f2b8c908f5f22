"""`actrec calibrate` on a running camera: a RealSense in software before which a board is moved."""

import json
import signal
import threading
import time
from contextlib import contextmanager, nullcontext

import numpy as np
import pyrealsense2 as rs
import pytest

from actrec.cameras.realsense import device as realsense_device
from actrec.cameras.realsense.camera import RealSenseCamera
from actrec.cli import calibrate, main
from actrec.cli.calibrate import rig
from actrec.types import Intrinsics
from actrec.utils import calibration_files
from actrec.utils.calibration_files import COLOR, DEPTH
from actrec_calibration.board import Board
from actrec_calibration.detection import detect
from actrec_calibration.poses import estimate_board_pose, pose_difference
from tests.core.cameras.software_realsense import SoftwareRealSense
from tests.core.cameras.two_views import TwoViews
from tests.reference import calibration_views as simulated
from tests.reference.board_rendering import render, sample_poses

BIAS = -0.012
BOARD = Board.of(columns=10, rows=7, square=0.06, marker=0.045)
ARGUMENTS = ["--columns", "10", "--rows", "7", "--square", "0.06", "--marker", "0.045"]


HOLD = 8
"""Frames that each view is held for."""


@pytest.fixture
def camera(monkeypatch, tmp_path):
    """A camera that is plugged in."""
    monkeypatch.setenv("ACTREC_CAMERAS", str(tmp_path / "cameras"))
    context = rs.context()
    monkeypatch.setattr(realsense_device, "open_context", lambda: context)
    made = SoftwareRealSense(views=TwoViews(depth=Intrinsics(640, 480, 385.0, 385.5, 318.7, 241.3)), fps=15)
    made.plug_into(context)
    return made


@contextmanager
def showing(camera, shown):
    """It sees one view after another, over and over; yields when each was seen first: [(nanoseconds, number)]."""
    stopped, since = threading.Event(), []

    def hold() -> None:
        number = 0
        while not stopped.wait(1 / camera.fps):
            if number % HOLD == 0:
                since.append((time.time_ns(), number // HOLD % len(shown)))
            camera.give(*shown[number // HOLD % len(shown)])
            number += 1

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield since
    finally:
        stopped.set()
        thread.join()


def seen_by(camera, board, pose, seed):
    """Color, and depth by the depth camera, of a board [4, 4] → color camera."""
    color, _ = render(board, camera.views.color, pose, blur=0.6, noise=2, seed=seed)
    _, depth = render(board, camera.views.depth, np.linalg.inv(camera.views.to_color) @ pose)
    return color, depth


@pytest.fixture
def device(camera):
    """A camera whose depth reads 12 mm too far, before a board that is held in ten places, each for half a second."""
    poses = sample_poses(BOARD, camera.views.color, 10, seed=5)
    seen = [seen_by(camera, BOARD, pose, seed) for seed, pose in enumerate(poses)]
    with showing(camera, [(color, depth - BIAS) for color, depth in seen]):
        yield camera


def test_depth_registered_calibrates_bias_only(device, capsys):
    command = ["calibrate", "depth", "--driver", "realsense", "--driver-option", "fps=15", "--registered"]
    command += ["--views", "6", "--model", "bias", "--json", "--serial", device.serial, *ARGUMENTS]
    assert main(command) == 0
    streams = capsys.readouterr()
    assert "hold the board still for a moment" in streams.err and "6 of 6 views" in streams.err
    figures = json.loads(streams.out)
    assert figures["views"] == 6 and figures["bias_mm"] == pytest.approx(1e3 * BIAS, abs=1)
    files = calibration_files.load(device.serial)
    np.testing.assert_allclose(files.geometry.to_color, device.views.to_color, atol=1e-6)
    np.testing.assert_allclose(files.depth.matrix, device.views.depth.matrix, atol=1e-3)
    with RealSenseCamera(fps=15) as camera:
        frame = camera.read(20.0)
    seen = detect(BOARD, frame.color)
    assert seen is not None
    corners = BOARD.points[seen.ids]
    pose = estimate_board_pose(corners, seen.pixels, frame.intrinsics).pose
    u, v = np.round(seen.pixels).astype(int).T
    away = np.asarray(frame.depth)[v, u] - (corners @ pose[:3, :3].T + pose[:3, 3])[:, 2]
    assert abs(np.nanmedian(away)) < 0.002, "the driver takes the file and puts the readings right"
    assert main(command) == 2, "it is not overwritten"
    assert "add --overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 1
    assert "is corrected already" in capsys.readouterr().err


def test_depth_ctrl_c_uses_views_so_far(device, capsys, monkeypatch):
    said = []

    def interrupted(text: str) -> None:
        said.append(text)
        if text.startswith("6 of"):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(rig, "log", interrupted)
    command = ["calibrate", "depth", "--driver", "realsense", "--driver-option", "fps=15", "--registered", "--json"]
    assert main([*command, "--views", "50", "--model", "bias", "--serial", device.serial, *ARGUMENTS]) == 0
    assert json.loads(capsys.readouterr().out)["views"] == 6
    assert said[-1] == "6 of 50 views"


def test_depth_other_serial_is_refused(device, capsys):
    command = ["calibrate", "depth", "--driver", "realsense", "--driver-option", "fps=15", "--registered"]
    assert main([*command, "--views", "3", "--serial", "other", *ARGUMENTS]) == 2
    assert f"the camera's serial number is {device.serial}, not other" in capsys.readouterr().err
    assert not calibration_files.path_of("other", DEPTH).exists()


@pytest.mark.parametrize("command", ["intrinsics", "check"])
def test_intrinsics_opens_camera_of_serial(camera, tmp_path, capsys, command):
    for part in (COLOR, DEPTH):
        calibration_files.write_intrinsics(calibration_files.path_of("other", part, tmp_path), camera.views.color, part)
    source = ["calibrate", command, "--driver", "realsense", "--serial", "other", "--cameras", str(tmp_path)]
    source += ["--overwrite"] if command == "intrinsics" else []
    assert main(source) == 1
    assert f"no RealSense has serial number other; connected: {camera.serial}" in capsys.readouterr().err
    assert main([*source, "--part", "depth"]) == 2
    assert "driver realsense has images of the color camera only" in capsys.readouterr().err


def test_depth_raw_calibrates_extrinsics(device, capsys):
    """From raw depth: no infrared, ten places."""
    command = ["calibrate", "depth", "--driver", "realsense", "--driver-option", "fps=15", "--model", "bias"]
    assert main([*command, "--views", "10", "--json", "--serial", device.serial, *ARGUMENTS]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["views"] == 10 and figures["bias_mm"] == pytest.approx(1e3 * BIAS, abs=1)
    meters, degrees = pose_difference(calibration_files.load(device.serial).geometry.to_color, device.views.to_color)
    assert meters < 0.002 and degrees < 0.1


def test_depth_driver_without_raw_depth_is_refused(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("ACTREC_CAMERAS", str(tmp_path))
    assert main(["calibrate", "depth", "--driver", "simulated", "--serial", "1"]) == 2
    assert "driver simulated has registered depth only: add --registered" in capsys.readouterr().err


def test_hand_eye_from_driver_uses_camera_intrinsics(camera, tmp_path, monkeypatch, capsys):
    arm, random = simulated.Arm.random("hand", 4), np.random.default_rng(5)
    poses = [simulated.sample_pose(BOARD, camera.views.color, random, 0.7, 1.0, 35) for _ in range(8)]
    shown = [seen_by(camera, BOARD, pose, seed) for seed, pose in enumerate(poses)]
    with showing(camera, shown) as since:

        def pose_at(stamp_ns):
            return arm.gripper(poses[[number for start, number in since if start <= stamp_ns][-1]])

        monkeypatch.setattr(calibrate, "open_poses", lambda base, gripper: nullcontext(pose_at))
        command = ["calibrate", "hand-eye", "--driver", "realsense", "--driver-option", "fps=15", "--mount", "hand"]
        command += ["--parent", "tool0", "--base", "base_link", "--views", "8", "--keep", str(tmp_path / "kept")]
        assert main([*command, "--json", "--serial", camera.serial, *ARGUMENTS]) == 0
        assert json.loads(capsys.readouterr().out)["views"] == 8
        assert main([*command, "--serial", "other", *ARGUMENTS]) == 1
        assert f"no RealSense has serial number other; connected: {camera.serial}" in capsys.readouterr().err
    meters, degrees = pose_difference(calibration_files.load(camera.serial).mount.pose, arm.camera)
    assert meters < 0.002 and degrees < 0.1


def test_floor_from_driver_writes_mount(camera, capsys):
    board = Board.of(columns=7, rows=5, square=0.08, marker=0.06)
    room = simulated.Room.random(board, 3)
    rig = simulated.Rig(camera.views.color, camera.views.depth, camera.views.to_color)
    image = render(board, rig.color, room.board(), blur=0.6, noise=3)[0]
    command = ["calibrate", "floor", "--driver", "realsense", "--serial", camera.serial, "--parent", "base_footprint"]
    command += [f"--board-pose={room.placed.x},{room.placed.y},{room.placed.yaw}", "--columns", "7", "--rows", "5"]
    command += ["--square", "0.08", "--marker", "0.06", "--json", "--driver-option", "fps=15"]
    with showing(camera, [(image, room.depth(rig, 3, number)) for number in range(3)]):
        assert main(command) == 0
        assert json.loads(capsys.readouterr().out)["views"] == 10
        assert main([*command, "--overwrite", "--driver-option", "register=false"]) == 2
        assert "the floor is detected in registered depth" in capsys.readouterr().err
        assert main([*command, "--overwrite", "--columns", "9"]) == 1
        assert "no frame of 10 shows the board" in capsys.readouterr().err
    meters, degrees = pose_difference(calibration_files.load(camera.serial).mount.pose, room.camera)
    assert meters < 0.002 and degrees < 0.1
