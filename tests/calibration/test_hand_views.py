"""Live views of a robot: taken when it rests in a new pose that TF knows."""

import threading
from contextlib import nullcontext

import numpy as np
import pytest

from actrec.cli import main
from actrec.cli.calibrate import lens, rig
from actrec.types import Intrinsics
from actrec.utils import calibration_files
from actrec.utils.errors import DeviceError, EndOfStream, InputError
from actrec_calibration import hand_eye
from actrec_calibration.board import Board
from actrec_calibration.hand_eye import POSES_FILE, HandConfig, HandEyeCollector, read_folder
from actrec_calibration.poses import pose_difference
from actrec_calibration.views import ColorImage
from tests.reference import calibration_views as simulated
from tests.reference.board_rendering import render

LENS = Intrinsics(640, 480, 525.0, 523.0, 322.3, 237.1)
BOARD = Board.of()
FPS = 10
VIEWS = 8


class Robot:
    """An arm with a camera that rests for half a second in each pose.

    Attributes:
        known: Whether TF has the hand's pose.
    """

    def __init__(self, poses: int, intrinsics: Intrinsics | None = None):
        random = np.random.default_rng(2)
        self.arm, self.known, self._intrinsics, self._read = simulated.Arm.random("hand", 1), True, intrinsics, 0
        self.board_poses = [simulated.sample_pose(BOARD, LENS, random, 0.4, 0.6, 35) for _ in range(poses)]
        self.images = [render(BOARD, LENS, pose, noise=2, seed=i)[0] for i, pose in enumerate(self.board_poses)]

    def read(self, timeout_s: float) -> ColorImage:
        """Return the next image, at 10 Hz."""
        number = self._read // (FPS // 2)
        if number == len(self.images):
            raise EndOfStream("the robot has gone home")
        self._read += 1
        return ColorImage("", round(self._read / FPS * 1e9), self.images[number], self._intrinsics)

    def pose_at(self, stamp_ns: int) -> np.ndarray:
        """Return the pose of the hand at `stamp_ns`."""
        if not self.known:
            raise DeviceError("'tool0' does not exist.")
        return self.arm.gripper(self.board_poses[(round(stamp_ns * FPS / 1e9) - 1) // (FPS // 2)])


def collect(robot, folder, known=LENS, **config):
    collector = HandEyeCollector(BOARD, robot.pose_at, HandConfig(**config), folder)
    return collector, *hand_eye.collect(robot.read, collector, threading.Event(), known, lens.log)


def test_collect_takes_view_of_each_resting_pose(tmp_path, capsys):
    robot = Robot(VIEWS + 2)
    collector, views, camera = collect(robot, tmp_path, views=VIEWS)
    assert len(views) == VIEWS and not collector.todo and camera == LENS
    log = capsys.readouterr().err
    assert f"0 views; {VIEWS} more: turn the hand" in log and f"{VIEWS} views; enough" in log
    for view, pose in zip(views, robot.board_poses, strict=False):
        np.testing.assert_allclose(view.gripper, robot.arm.gripper(pose))
    found = hand_eye.calibrate(views, camera, "hand")
    meters, degrees = pose_difference(found.camera, robot.arm.camera)
    assert meters < 0.002 and degrees < 0.1
    saved, _ = read_folder(tmp_path, tmp_path / POSES_FILE, BOARD, LENS)
    assert pose_difference(hand_eye.calibrate(saved, LENS, "hand").camera, found.camera) == pytest.approx(
        (0, 0), abs=1e-6
    )


def test_read_folder_lists_images_without_pose(tmp_path, capsys):
    collect(Robot(3), tmp_path, views=3)
    poses = (tmp_path / POSES_FILE).read_text().splitlines()
    (tmp_path / "some.csv").write_text("\n".join(poses[:3]))  # the header and two poses
    capsys.readouterr()
    read_views, without_pose = read_folder(tmp_path, tmp_path / "some.csv", BOARD, LENS)
    assert [view.name for view in read_views] == ["view_001.png", "view_002.png"]
    assert without_pose == ["view_003.png"]


def test_collect_stream_ends_early_keeps_views(tmp_path):
    collector, views, camera = collect(Robot(3, intrinsics=LENS), tmp_path, known=None)
    assert len(views) == 3 and camera == LENS
    assert collector.todo.startswith("17 more")


def test_collect_unknown_intrinsics_are_refused(tmp_path):
    with pytest.raises(InputError, match="intrinsics are unknown.*name a file with --intrinsics"):
        collect(Robot(12), tmp_path, known=None)


def test_hand_eye_rectified_topic_uses_camera_info(tmp_path, monkeypatch):
    robot = Robot(VIEWS, intrinsics=LENS)
    distorted = Intrinsics(640, 480, 500.0, 500.0, 310.0, 245.0, (-0.3, 0.1, 0.0, 0.0, 0.0))
    calibration_files.write_intrinsics(tmp_path / "77_color.yaml", distorted, "77_color")

    def read_topic(timeout_s):
        image = robot.read(timeout_s)
        return image.stamp_ns, image.color, image.intrinsics

    monkeypatch.setattr(lens, "open_topic", lambda topic, waiting: nullcontext(read_topic))
    monkeypatch.setattr(rig, "open_poses", lambda base, gripper, waiting: nullcontext(robot.pose_at))
    command = ["calibrate", "hand-eye", "--topic", "camera/image_rect_color", "--mount", "hand", "--parent", "tool0"]
    command += ["--base", "base_link", "--serial", "77", "--cameras", str(tmp_path), "--keep", str(tmp_path / "kept")]
    assert main(command) == 0
    found = calibration_files.load("77", tmp_path).mount.pose
    meters, degrees = pose_difference(found, robot.arm.camera)
    assert meters < 0.002 and degrees < 0.1
    kept = ["calibrate", "hand-eye", str(tmp_path / "kept"), "--poses", str(tmp_path / "kept" / POSES_FILE)]
    kept += ["--mount", "hand", "--parent", "tool0", "--serial", "77", "--cameras", str(tmp_path), "--overwrite"]
    assert main(kept) == 0, "with the lens that was saved beside the views, not with the raw one"
    again = calibration_files.load("77", tmp_path).mount.pose
    assert pose_difference(again, found) == pytest.approx((0, 0), abs=1e-6)


def test_hand_eye_camera_file_of_another_size_is_scaled_and_earlier_views_stay(tmp_path, monkeypatch):
    robot = Robot(VIEWS)
    calibration_files.write_intrinsics(tmp_path / "77_color.yaml", LENS.resized(1280, 960), "77_color")

    def read_topic(timeout_s):
        image = robot.read(timeout_s)
        return image.stamp_ns, image.color, None

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lens, "open_topic", lambda topic, waiting: nullcontext(read_topic))
    monkeypatch.setattr(rig, "open_poses", lambda base, gripper, waiting: nullcontext(robot.pose_at))
    earlier = tmp_path / "hand_eye_77" / POSES_FILE
    earlier.parent.mkdir()
    earlier.write_text("of an earlier run")
    command = ["calibrate", "hand-eye", "--mount", "hand", "--parent", "tool0", "--serial", "77", "--cameras", "."]
    assert main([*command, "--topic", "camera/color/image_raw", "--base", "base_link"]) == 0
    found = calibration_files.load("77", tmp_path).mount.pose
    meters, degrees = pose_difference(found, robot.arm.camera)
    assert meters < 0.002 and degrees < 0.1
    assert earlier.read_text() == "of an earlier run"
    assert main([*command, "hand_eye_77_2", "--poses", f"hand_eye_77_2/{POSES_FILE}", "--overwrite"]) == 0
    assert pose_difference(calibration_files.load("77", tmp_path).mount.pose, found) == pytest.approx((0, 0), abs=1e-6)


def test_collector_known_pose_takes_no_view(tmp_path):
    robot = Robot(3)
    robot.board_poses[2], robot.images[2] = robot.board_poses[0], robot.images[0]
    assert len(collect(robot, tmp_path)[1]) == 2


def test_collector_moving_hand_takes_no_view(tmp_path, monkeypatch):
    """The hand moves between the capture of an image and its stamp of arrival."""
    robot = Robot(1)
    pose, offset = robot.pose_at(1), np.eye(4)

    def moving_pose(stamp_ns):
        offset[0, 3] = 0.01 * stamp_ns / 1e9
        return offset @ pose

    monkeypatch.setattr(robot, "pose_at", moving_pose)
    assert not collect(robot, tmp_path)[1]


def test_collector_rotation_about_one_axis_asks_for_second(tmp_path, monkeypatch):
    robot = Robot(6)
    about_z = [np.eye(4) for _ in range(6)]
    for angle, pose in zip(np.radians(range(0, 72, 12)), about_z, strict=True):
        pose[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    monkeypatch.setattr(robot, "pose_at", lambda stamp_ns: about_z[(round(stamp_ns * FPS / 1e9) - 1) // (FPS // 2)])
    collector, views, _ = collect(robot, tmp_path, views=5)
    assert len(views) == 6 and "rotates about one axis only" in collector.todo


def test_collect_unknown_robot_pose_is_shown_then_refused(tmp_path, capsys):
    robot = Robot(2)
    robot.known = False
    assert not collect(robot, tmp_path)[1]
    assert "TF has no pose of the robot: 'tool0' does not exist\n" in capsys.readouterr().err
    robot = Robot(25)
    robot.known = False
    robot.images = [robot.images[0]] * 25
    with pytest.raises(DeviceError, match="TF has had no pose of the robot for 10 s: 'tool0' does not exist"):
        collect(robot, tmp_path)


def test_collector_wrong_size_or_unwritable_folder_is_refused(tmp_path):
    other_size = Intrinsics(1280, 720, 900.0, 900.0, 640.0, 360.0)
    with pytest.raises(InputError, match="is for 1280×720 images and these are 640×480, of another aspect ratio"):
        collect(Robot(1), tmp_path, known=other_size)
    with pytest.raises(InputError, match="the image is 640×480 and its intrinsics are of 1280×720"):
        collect(Robot(1, intrinsics=other_size), tmp_path, known=None)
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError, match="cannot write"):
        collect(Robot(1), tmp_path / "file")
