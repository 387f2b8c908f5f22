"""`actrec calibrate hand-eye` with a topic and TF, whose buffer is fake, as tf2_ros has no wheel."""

import json
import re
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make venv build && . scripts/env.sh")

from geometry_msgs.msg import Quaternion, Vector3

from actrec.cli import main
from actrec.types import Intrinsics
from actrec.utils import calibration_files
from actrec_calibration import hand_eye, views
from actrec_calibration.board import Board
from actrec_calibration.poses import pose_difference
from tests.nodes.topic_camera import TOPIC, TopicCamera
from tests.reference import calibration_views as simulated
from tests.reference.board_rendering import render

pytestmark = pytest.mark.ros
LENS = Intrinsics(640, 480, 525.0, 523.0, 322.3, 237.1)
BOARD = Board.of()
VIEWS = 7
COMMAND = ["calibrate", "hand-eye", "--topic", TOPIC, "--mount", "hand", "--parent", "tool0", "--serial", "77"]


class UnknownError(Exception):
    pass


class Robot:
    """A fake TF buffer of an arm that moves from pose to pose while it is connected."""

    def __init__(self):
        random = np.random.default_rng(3)
        self.arm = simulated.Arm.random("hand", 1)
        self.poses = [simulated.sample_pose(BOARD, LENS, random, 0.4, 0.6, 35) for _ in range(VIEWS)]
        self._starts = [0]
        self.connected = True

    def move(self) -> None:
        """Move to the next pose in 0.1 s, as its images arrive later than this call."""
        self._starts.append(time.time_ns() + 100_000_000)

    def lookup_transform(self, target, source, stamp, timeout):
        assert (target, source) == ("base_link", "tool0") and 0 < timeout.nanoseconds < 1e9
        if not self.connected:
            raise UnknownError("Could not find a connection between 'base_link' and 'tool0'.\nMore of it.")
        number = sum(start <= stamp.nanoseconds for start in self._starts) - 1
        gripper = self.arm.gripper(self.poses[number])
        translation = Vector3(**dict(zip("xyz", map(float, gripper[:3, 3]), strict=True)))
        rotation = Quaternion(**dict(zip("xyzw", calibration_files.quaternion(gripper[:3, :3]), strict=True)))
        return SimpleNamespace(transform=SimpleNamespace(translation=translation, rotation=rotation))


@pytest.fixture
def robot(monkeypatch, tmp_path):
    robot = Robot()
    listener = SimpleNamespace(unregister=lambda: None)
    module = SimpleNamespace(
        Buffer=lambda: robot, TransformListener=lambda buffer, node: listener, TransformException=UnknownError
    )
    monkeypatch.setitem(sys.modules, "tf2_ros", module)
    monkeypatch.setenv("ACTREC_CAMERAS", str(tmp_path / "cameras"))
    return robot


def test_hand_eye_simulated_arm_is_calibrated(robot, tmp_path, capsys):
    board_images = [render(BOARD, LENS, pose, noise=2, seed=number)[0] for number, pose in enumerate(robot.poses)]
    saved = tmp_path / "kept"
    camera = TopicCamera(image=board_images[0])
    camera.lens = LENS

    def move() -> None:
        deadline = time.monotonic() + 60
        for number, image in enumerate(board_images):
            if number:
                robot.move()
            camera.image = image
            while len(list(saved.glob("view_*.png"))) <= number and time.monotonic() < deadline:
                time.sleep(0.02)

    thread = threading.Thread(target=move, daemon=True)
    thread.start()
    try:
        command = [*COMMAND, "--base", "base_link", "--views", str(VIEWS), "--keep", str(saved), "--json"]
        assert main(command) == 0
    finally:
        thread.join()
        camera.stop()
    assert json.loads(capsys.readouterr().out)["views"] == VIEWS
    mount = calibration_files.load("77").mount
    meters, degrees = pose_difference(mount.pose, robot.arm.camera)
    assert meters < 0.002 and degrees < 0.1
    assert (mount.parent, mount.child) == ("tool0", "camera_color_optical_frame")


def test_hand_eye_without_robot_driver_is_reported(robot, tmp_path, capsys):
    robot.connected = False
    camera = TopicCamera(image=render(BOARD, LENS, robot.poses[0])[0])
    camera.lens = LENS
    try:
        assert main([*COMMAND, "--base", "base_link", "--keep", str(tmp_path / "kept"), "--wait", "1"]) == 1
    finally:
        camera.stop()
    error = capsys.readouterr().err
    assert "actrec: no pose of 'tool0' in 'base_link' on TF within 1 s (--wait): " in error
    assert "Could not find a connection between 'base_link' and 'tool0'; start the robot's driver" in error
    assert "More of it" not in error


def test_hand_eye_robot_driver_that_ends_is_reported(robot, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(hand_eye, "MAX_POSE_SILENCE_S", 0.5)
    lookup = robot.lookup_transform

    def once(*arguments):
        robot.lookup_transform = lookup
        robot.connected = False
        return robot_pose

    robot_pose = lookup("base_link", "tool0", SimpleNamespace(nanoseconds=0), SimpleNamespace(nanoseconds=1))
    robot.lookup_transform = once
    camera = TopicCamera(image=render(BOARD, LENS, robot.poses[0])[0])
    camera.lens = LENS
    try:
        assert main([*COMMAND, "--base", "base_link", "--keep", str(tmp_path / "kept")]) == 1
    finally:
        camera.stop()
    error = capsys.readouterr().err
    assert "Could not find a connection between 'base_link' and 'tool0'; is its driver running" in error


def test_hand_eye_views_before_camera_loss_are_kept(robot, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(views, "READ_TIMEOUT_S", 2.0)
    camera, saved = TopicCamera(image=render(BOARD, LENS, robot.poses[0])[0]), tmp_path / "kept"
    camera.lens = LENS

    def stop_after_first_view() -> None:
        deadline = time.monotonic() + 60
        while not (saved / hand_eye.POSES_FILE).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        camera.stop()

    thread = threading.Thread(target=stop_after_first_view, daemon=True)
    thread.start()
    assert main([*COMMAND, "--base", "base_link", "--keep", str(saved)]) == 1
    thread.join()
    assert f"the views so far are in '{saved}': calibrate from that folder" in capsys.readouterr().err
    assert len((saved / hand_eye.POSES_FILE).read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name the frame of its base with --base"),
        (["--gripper", "tool0"], "with --mount hand the gripper is --parent: give --base instead of --gripper"),
        (["--base", "base_link", "pictures"], "folder and topic are given"),
        (["--base", "base_link", "--views", "2"], "views is 2"),
        (["--base", "base_link", "--driver-option", "fps=15"], "needs --driver"),
    ],
)
def test_hand_eye_wrong_arguments_are_refused(robot, words, message, capsys):
    assert main([*COMMAND, *words]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_hand_eye_without_ros_is_reported(robot, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    assert main([*COMMAND, "--base", "base_link"]) == 1
    assert "a robot's pose from TF needs tf2_ros, which comes with ROS 2: source its setup.bash, or give images" in (
        capsys.readouterr().err
    )
