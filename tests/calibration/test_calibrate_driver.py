"""`actrec calibrate` with a running camera: a software RealSense that sees a moving board."""

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
from actrec.cli import main
from actrec.cli.calibrate import rig
from actrec.types import Intrinsics
from actrec.utils import calibration_files
from actrec.utils.calibration_files import COLOR, DEPTH, MOUNT
from actrec_calibration import views
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
"""Number of frames that each view lasts."""


@pytest.fixture
def camera(monkeypatch, tmp_path):
    """Return a connected software camera."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACTREC_CAMERAS", str(tmp_path / "cameras"))
    context = rs.context()
    monkeypatch.setattr(realsense_device, "open_context", lambda: context)
    device = SoftwareRealSense(views=TwoViews(depth=Intrinsics(640, 480, 385.0, 385.5, 318.7, 241.3)), fps=15)
    device.plug_into(context)
    return device


@contextmanager
def show_views(camera, view_images):
    """Show the views to the camera in a loop; yield the start of each as a list of (nanoseconds, number)."""
    stop, starts = threading.Event(), []

    def feed_camera() -> None:
        number = 0
        while not stop.wait(1 / camera.fps):
            if number % HOLD == 0:
                starts.append((time.time_ns(), number // HOLD % len(view_images)))
            camera.send(*view_images[number // HOLD % len(view_images)])
            number += 1

    thread = threading.Thread(target=feed_camera)
    thread.start()
    try:
        yield starts
    finally:
        stop.set()
        thread.join()


def render_view(camera, board, pose, seed):
    """Return the images of both cameras for a pose [4, 4] from the board to the color camera."""
    color, _ = render(board, camera.views.color, pose, blur=0.6, noise=2, seed=seed)
    _, depth = render(board, camera.views.depth, np.linalg.inv(camera.views.to_color) @ pose)
    return color, depth


@pytest.fixture
def device(camera):
    """Yield a camera whose depth is 12 mm too far; it sees a board at ten poses, half a second each."""
    poses = sample_poses(BOARD, camera.views.color, 10, seed=5)
    views = [render_view(camera, BOARD, pose, seed) for seed, pose in enumerate(poses)]
    with show_views(camera, [(color, depth - BIAS) for color, depth in views]):
        yield camera


@pytest.mark.slow
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
    detection = detect(BOARD, frame.color)
    assert detection is not None
    corners = BOARD.points[detection.ids]
    pose = estimate_board_pose(corners, detection.pixels, frame.intrinsics).pose
    u, v = np.round(detection.pixels).astype(int).T
    depth_error = np.asarray(frame.depth)[v, u] - (corners @ pose[:3, :3].T + pose[:3, 3])[:, 2]
    assert abs(np.nanmedian(depth_error)) < 0.002, "the driver corrects its depth by the file"
    assert main(command) == 2, "the existing file is kept"
    assert "add --overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 1
    assert "is corrected already" in capsys.readouterr().err


@pytest.mark.slow
def test_depth_ctrl_c_uses_views_so_far(device, capsys, monkeypatch):
    messages = []

    def log_and_interrupt(text: str) -> None:
        messages.append(text)
        if text.startswith("6 of"):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(rig, "log", log_and_interrupt)
    command = ["calibrate", "depth", "--driver", "realsense", "--driver-option", "fps=15", "--registered", "--json"]
    assert main([*command, "--views", "50", "--model", "bias", "--serial", device.serial, *ARGUMENTS]) == 0
    assert json.loads(capsys.readouterr().out)["views"] == 6
    assert messages[-2:] == ["6 of 50 views", f"6 views, saved in 'depth_{device.serial}'"]


@pytest.mark.parametrize("command", ["depth", "floor"])
def test_depth_and_floor_open_camera_of_serial(camera, capsys, command):
    words = ["--parent", "base_link", "--board-pose=1,0,0"] if command == "floor" else []
    assert main(["calibrate", command, "--driver", "realsense", "--serial", "other", *words, *ARGUMENTS]) == 1
    assert f"no RealSense has serial number other; connected: {camera.serial}" in capsys.readouterr().err
    assert not calibration_files.path_of("other", DEPTH).exists()


def test_depth_other_serial_is_refused_before_views(camera, capsys):
    source = ["--driver", "realsense", "--driver-option", "fps=15", "--driver-option", f"serial={camera.serial}"]
    assert main(["calibrate", "depth", *source, "--serial", "other", *ARGUMENTS]) == 2
    assert f"the camera's serial number is {camera.serial}, not other" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["intrinsics", "hand-eye"])
def test_calibrate_other_serial_is_refused_before_views(camera, monkeypatch, capsys, command):
    monkeypatch.setattr(rig, "open_poses", lambda base, gripper, waiting: nullcontext(None))
    source = ["--driver", "realsense", "--driver-option", "fps=15", "--driver-option", f"serial={camera.serial}"]
    words = ["--mount", "hand", "--parent", "tool0", "--base", "base_link"] if command == "hand-eye" else []
    assert main(["calibrate", command, *source, *words, "--serial", "other", *ARGUMENTS]) == 2
    assert f"the camera's serial number is {camera.serial}, not other" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["intrinsics", "depth", "floor"])
def test_calibrate_damaged_file_to_replace_does_not_block_the_camera(camera, monkeypatch, capsys, command):
    monkeypatch.setattr(views, "READ_TIMEOUT_S", 0.5)
    folder = calibration_files.search_folders()[0]
    calibration_files.write_intrinsics(folder / f"{camera.serial}_color.yaml", camera.views.color, "color")
    damaged = {"intrinsics": COLOR, "depth": DEPTH, "floor": MOUNT}[command]
    (folder / f"{camera.serial}_{damaged}.yaml").write_text("depth_to_color: {data: [1]}\nparent_frame: base\n")
    words = ["--parent", "base_link", "--board-pose=1,0,0"] if command == "floor" else []
    source = ["--driver", "realsense", "--driver-option", "fps=15", "--serial", camera.serial, "--overwrite"]
    assert main(["calibrate", command, *source, *words, *ARGUMENTS]) == 1
    assert "is connected but sent no frame within 0.5 s" in capsys.readouterr().err


def test_depth_damaged_file_error_has_a_remedy(camera, capsys):
    path = calibration_files.path_of(camera.serial, DEPTH)
    calibration_files.write_intrinsics(path, camera.views.depth, "depth")
    path.write_text(f"depth_to_color: {{data: [1]}}\n{path.read_text()}")
    command = ["calibrate", "depth", "--driver", "realsense", "--serial", camera.serial, *ARGUMENTS]
    for words in ([], ["--registered", "--overwrite"]):
        assert main([*command, *words]) == 1
        assert "calibrate the depth again, with --overwrite and without --registered" in capsys.readouterr().err


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


@pytest.mark.slow
def test_depth_raw_calibrates_extrinsics(device, capsys):
    """Raw depth at ten board poses suffices without infrared images; the old file may be damaged or of another size."""
    path = calibration_files.path_of(device.serial, DEPTH)
    calibration_files.write_intrinsics(path, Intrinsics(1280, 720, 600.0, 600.0, 640.0, 360.0), "depth")
    path.write_text(f"depth_to_color: {{data: [1]}}\n{path.read_text()}")
    command = ["calibrate", "depth", "--driver", "realsense", "--driver-option", "fps=15", "--model", "bias"]
    command += ["--serial", device.serial, "--overwrite", "--json", *ARGUMENTS]
    assert main([*command, "--views", "10"]) == 0
    streams = capsys.readouterr()
    assert "not kept: the depth camera's lens: the calibration is for 1280×720" in streams.err
    figures = json.loads(streams.out)
    assert figures["views"] == 10 and figures["bias_mm"] == pytest.approx(1e3 * BIAS, abs=1)
    files = calibration_files.load(device.serial)
    meters, degrees = pose_difference(files.geometry.to_color, device.views.to_color)
    assert meters < 0.002 and degrees < 0.1
    np.testing.assert_allclose(files.depth.matrix, device.views.depth.matrix, atol=1e-3)


def test_depth_driver_without_raw_depth_is_refused(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("ACTREC_CAMERAS", str(tmp_path))
    command = ["calibrate", "depth", "--driver", "simulated", "--serial", "1"]
    for words in ([], ["--registered"]):
        assert main([*command, *words]) == 2
        error = capsys.readouterr().err
        assert "has registered depth only, and the extrinsics are unknown: calibrate with a FOLDER" in error
    lens = Intrinsics(640, 480, 500.0, 500.0, 320.0, 240.0)
    path = calibration_files.path_of("1", DEPTH)
    calibration_files.write_intrinsics(path, lens, "1_depth", calibration_files.DepthGeometry(np.eye(4)))
    assert main(command) == 2
    assert "driver simulated has registered depth only: add --registered" in capsys.readouterr().err


@pytest.mark.slow
def test_hand_eye_from_driver_uses_camera_intrinsics(camera, tmp_path, monkeypatch, capsys):
    arm, random = simulated.Arm.random("hand", 4), np.random.default_rng(5)
    poses = [simulated.sample_pose(BOARD, camera.views.color, random, 0.7, 1.0, 35) for _ in range(8)]
    view_images = [render_view(camera, BOARD, pose, seed) for seed, pose in enumerate(poses)]
    with show_views(camera, view_images) as starts:

        def pose_at(stamp_ns):
            return arm.gripper(poses[[number for start, number in starts if start <= stamp_ns][-1]])

        monkeypatch.setattr(rig, "open_poses", lambda base, gripper, waiting: nullcontext(pose_at))
        command = ["calibrate", "hand-eye", "--driver", "realsense", "--driver-option", "fps=15", "--mount", "hand"]
        command += ["--parent", "tool0", "--base", "base_link", "--views", "8", "--keep", str(tmp_path / "kept")]
        assert main([*command, "--json", "--serial", camera.serial, *ARGUMENTS]) == 0
        assert json.loads(capsys.readouterr().out)["views"] == 8
        other = ["--serial", "other", "--keep", str(tmp_path / "other")]
        assert main([*command, *other, *ARGUMENTS]) == 1
        assert f"no RealSense has serial number other; connected: {camera.serial}" in capsys.readouterr().err
    meters, degrees = pose_difference(calibration_files.load(camera.serial).mount.pose, arm.camera)
    assert meters < 0.002 and degrees < 0.1


@pytest.mark.slow
def test_floor_from_driver_writes_mount(camera, capsys):
    board = Board.of(columns=7, rows=5, square=0.08, marker=0.06)
    room = simulated.Room.random(board, 3)
    rig = simulated.Rig(camera.views.color, camera.views.depth, camera.views.to_color)
    image = render(board, rig.color, room.board(), blur=0.6, noise=3)[0]
    command = ["calibrate", "floor", "--driver", "realsense", "--serial", camera.serial, "--parent", "base_footprint"]
    command += [f"--board-pose={room.placed.x},{room.placed.y},{room.placed.yaw}", "--columns", "7", "--rows", "5"]
    command += ["--square", "0.08", "--marker", "0.06", "--json", "--driver-option", "fps=15"]
    with show_views(camera, [(image, room.depth(rig, 3, number)) for number in range(3)]):
        assert main(command) == 0
        assert json.loads(capsys.readouterr().out)["views"] == 10
        assert main([*command, "--overwrite", "--driver-option", "register=false"]) == 2
        assert "the floor is detected in registered depth" in capsys.readouterr().err
        assert main([*command, "--overwrite", "--columns", "9"]) == 1
        assert "no frame of 10 shows the board" in capsys.readouterr().err
    meters, degrees = pose_difference(calibration_files.load(camera.serial).mount.pose, room.camera)
    assert meters < 0.002 and degrees < 0.1


def test_depth_registered_by_the_factory_is_not_corrected_by_files(camera, monkeypatch, capsys):
    monkeypatch.setattr(views, "READ_TIMEOUT_S", 0.5)
    geometry = calibration_files.DepthGeometry(np.eye(4), 1.004, 0.0)
    path = calibration_files.path_of(camera.serial, DEPTH)
    calibration_files.write_intrinsics(path, camera.views.depth, "depth", geometry)
    source = ["--driver", "realsense", "--driver-option", "fps=15", "--driver-option", "calibration=factory"]
    command = ["calibrate", "depth", *source, "--registered", "--overwrite", "--serial", camera.serial, *ARGUMENTS]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "corrected already" not in error and "sent no frame within 0.5 s" in error
