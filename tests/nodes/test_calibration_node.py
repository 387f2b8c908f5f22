"""Images of a topic for `actrec calibrate`: the newest one, and the error if no image arrives."""

import dataclasses
import json
import os
import signal
import threading
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make venv build && . scripts/env.sh")

from actrec.cli import main
from actrec.types import Intrinsics
from actrec.utils import calibration_files
from actrec.utils.errors import DeviceError, InputError
from actrec_calibration.board import Board
from actrec_nodes.calibration_node import images
from tests.nodes.topic_camera import TOPIC, TopicCamera
from tests.reference.board_rendering import render, sample_poses

pytestmark = pytest.mark.ros


@pytest.fixture
def camera(request):
    camera = TopicCamera(getattr(request, "param", "rgb8"))
    yield camera
    camera.stop()


def test_images_returns_the_newest_image_with_its_stamp(camera):
    with images(TOPIC) as read:
        stamps = []
        for _ in range(4):
            stamp_ns, color, intrinsics = read(20.0)
            assert intrinsics is None
            assert color.shape == (48, 64, 3) and color.dtype == np.uint8
            assert color[0, 0].tolist() == [(stamp_ns - 1000) % 256, 7, 7]
            stamps.append(stamp_ns)
        assert stamps == sorted(set(stamps))  # no image twice


def test_images_returns_the_intrinsics_of_the_camera_info(camera):
    lens = Intrinsics(64, 48, 50.0, 51.0, 31.5, 23.5, (0.1, 0.0, 0.0, 0.0, 0.0))
    with images(TOPIC) as read:
        camera.lens, deadline = lens, time.monotonic() + 20
        while (intrinsics := read(20.0)[2]) is None and time.monotonic() < deadline:
            pass
        assert intrinsics == lens
        camera.lens = dataclasses.replace(lens, fx=0.0)  # an uncalibrated camera
        while intrinsics is not None and time.monotonic() < deadline:
            intrinsics = read(20.0)[2]
        assert intrinsics is None


def test_images_rectified_topic_has_no_distortion():
    lens, topic = Intrinsics(64, 48, 50.0, 51.0, 31.5, 23.5, (0.1, 0.0, 0.0, 0.0, 0.0)), "some_camera/image_rect_color"
    camera = TopicCamera(topic=topic)
    try:
        with images(topic) as read:
            camera.lens, deadline = lens, time.monotonic() + 20
            while (intrinsics := read(20.0)[2]) is None and time.monotonic() < deadline:
                pass
    finally:
        camera.stop()
    assert intrinsics == dataclasses.replace(lens, distortion=())


def test_images_without_stamps_have_their_arrival():
    camera = TopicCamera(stamped=False)
    try:
        with images(TOPIC) as read:
            first, second = read(20.0)[0], read(20.0)[0]
    finally:
        camera.stop()
    assert 0 < first < second, "else the board would never be at rest"


@pytest.mark.parametrize("camera", ["mono16"], indirect=True)
def test_images_16_bit_infrared_is_stretched(camera):
    with images(TOPIC) as read:
        image = read(20.0)[1]
    assert image.dtype == np.uint8 and image.shape == (48, 64, 3)


@pytest.mark.parametrize("camera", ["8UC3"], indirect=True)
def test_images_unsupported_encoding_raises_input_error(camera):
    with images(TOPIC) as read, pytest.raises(InputError, match="encoding '8UC3' is not supported"):
        read(20.0)


def test_images_silent_topic_error_lists_other_image_topics(camera):
    with images("wrong/topic") as read:
        with images(TOPIC) as known:
            known(20.0)  # the camera is discovered
        with pytest.raises(
            DeviceError, match=r"on /wrong/topic .*: it has no publisher; images are on /some_camera/image"
        ):
            read(1.0)


def test_images_invalid_topic_name_raises_device_error():
    with pytest.raises(DeviceError, match="cannot subscribe to 'no topic!'"), images("no topic!"):
        pass


@pytest.mark.slow
def test_calibrate_from_a_topic_until_ctrl_c_writes_intrinsics(tmp_path, monkeypatch, capsys):
    """Each pose of the board stays until its view is saved; Ctrl-C ends the command after the last one."""
    monkeypatch.setenv("ACTREC_CAMERAS", str(tmp_path / "cameras"))
    lens, board = Intrinsics(640, 480, 525.0, 523.0, 322.3, 237.1), Board.of()
    board_images = [
        render(board, lens, pose, noise=2, seed=number)[0]
        for number, pose in enumerate(sample_poses(board, lens, 9, 7))
    ]
    saved = tmp_path / "report/images"
    camera = TopicCamera(image=board_images[0])

    def show_board() -> None:
        deadline = time.monotonic() + 60
        for number, image in enumerate(board_images, 1):
            camera.image = image
            while len(list(saved.glob("[!.]*.png"))) < number and time.monotonic() < deadline:
                time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=show_board, daemon=True)
    thread.start()
    try:
        command = ["calibrate", "intrinsics", "--topic", TOPIC, "--serial", "77", "--report", str(tmp_path / "report")]
        assert main([*command, "--json"]) == 0
    finally:
        thread.join()
        camera.stop()
    assert len(json.loads(capsys.readouterr().out)["views"]) == 9
    found = calibration_files.load("77").color
    assert found.fx == pytest.approx(525, rel=0.003) and found.cx == pytest.approx(322.3, abs=1)
