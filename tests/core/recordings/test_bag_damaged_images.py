"""Bags in which some compressed images are damaged, e.g. by a loose cable."""

import logging
from contextlib import closing

import cv2
import numpy as np
import pytest

from actrec.recordings import RecordingConfig
from actrec.recordings.rosbag.image_bag import BagRecording
from actrec.utils.errors import InputError

COLOR, DEPTH, INFO = "/camera/color/image_raw", "/camera/depth_registered/image_raw", "/camera/color/camera_info"
START, PERIOD, W, H = 1_700_000_000_000_000_000, 33_333_333, 64, 48
JPEG = cv2.imencode(".jpg", np.full((H, W, 3), 128, np.uint8))[1].tobytes()
PNG = cv2.imencode(".png", np.full((H, W), 1500, np.uint16))[1].tobytes()
NOISE = np.random.default_rng(1).integers(0, 256, 500, dtype=np.uint8).tobytes()


def written(bag, path, colors, depths=()):
    with bag(path) as b:
        b.info(INFO, START, W, H)
        for k, data in enumerate(depths):
            b.compressed(f"{DEPTH}/compressedDepth", START + k * PERIOD, "16UC1; compressedDepth png", bytes(12) + data)
        for k, data in enumerate(colors):
            b.compressed(f"{COLOR}/compressed", START + k * PERIOD, "rgb8; jpeg compressed bgr8", data)
    return path


def played(path):
    with closing(BagRecording(path, RecordingConfig())) as recording:
        return [round((frame.stamp_ns - START) / PERIOD) for frame in recording.frames()], recording.damaged


def test_bag_recording_frame_with_damaged_image_skipped(tmp_path, bag, caplog):
    path = written(bag, tmp_path / "color", [JPEG, NOISE, JPEG, b"", JPEG])
    with caplog.at_level(logging.WARNING):
        assert played(path) == ([0, 2, 4], 2)
    assert "skipped 2 frames whose images cannot be decoded" in caplog.text
    assert played(written(bag, tmp_path / "depth", [JPEG] * 4, [PNG, PNG, NOISE, PNG])) == ([0, 1, 3], 1)


def test_bag_recording_damaged_first_image_still_opens(tmp_path, bag):
    assert played(written(bag, tmp_path / "first", [NOISE, JPEG, JPEG])) == ([1, 2], 1)


def test_bag_recording_all_images_damaged_raises(tmp_path, bag):
    with pytest.raises(InputError, match="none of its first images can be decoded"):
        played(written(bag, tmp_path / "color", [NOISE] * 3))
    with pytest.raises(InputError, match="the images of none of 3 frames can be decoded"):
        played(written(bag, tmp_path / "depth", [JPEG] * 3, [NOISE] * 3))
