"""Bags whose images have no stamps, files of compressed bags, and unfinished databases."""

import logging
import shlex
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from actrec.recordings import open_recording
from actrec.recordings.rosbag.bag_files import recover
from actrec.utils.errors import InputError
from tests.core.recordings.test_bag import COLOR, DEPTH, INFO, METERS, MILLIMETERS, PERIOD, RGB, START, H, W, frames_of


@pytest.mark.parametrize("stamp", [0, START])
@pytest.mark.parametrize("lag", [-PERIOD // 4, PERIOD // 4])
def test_bag_recording_images_without_stamps_use_log_times(tmp_path, bag, caplog, stamp, lag):
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        for k in range(5):
            b.image(COLOR, stamp, np.roll(RGB, k, axis=1), "rgb8", log_time=START + k * PERIOD)
            b.image(DEPTH, stamp, np.roll(MILLIMETERS, k, axis=1), "16UC1", log_time=START + k * PERIOD + lag)
    with caplog.at_level(logging.WARNING):
        frames = frames_of(tmp_path / "b")
    assert f"all images on {COLOR} have the stamp {stamp / 1e9:g} s" in caplog.text
    assert [frame.stamp_ns for frame in frames] == [START + k * PERIOD for k in range(5)]
    for k, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.color, np.roll(RGB, k, axis=1))
        np.testing.assert_array_equal(frame.depth, np.roll(METERS, k, axis=1))
    assert [frame.stamp_ns for frame in frames_of(tmp_path / "b", 2 * PERIOD / 1e9)] == [f.stamp_ns for f in frames[2:]]


def test_bag_recording_occasional_repeated_stamps_kept(tmp_path, bag, caplog):
    stamps = [START + k // 2 * PERIOD for k in range(6)]
    with bag(tmp_path / "b") as b:
        b.info(INFO, START, W, H)
        for k, stamp in enumerate(stamps):
            b.image(COLOR, stamp, RGB, "rgb8", log_time=START + k * PERIOD)
    assert [frame.stamp_ns for frame in frames_of(tmp_path / "b")] == stamps
    assert "have the stamp" not in caplog.text


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_open_recording_message_compressed_file_without_metadata_plays(tmp_path, bag, plugin):
    b = bag(tmp_path / "b", plugin)
    b._writer = Writer(tmp_path / "c", version=8, storage_plugin=plugin)
    b._writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with b:
        b.info(INFO, START, W, H)
        b.image(COLOR, START, RGB, "rgb8")
    (file,) = (file for file in (tmp_path / "c").iterdir() if file.suffix != ".yaml")
    paths = [tmp_path / "c", file]
    if plugin is StoragePlugin.MCAP:
        (tmp_path / "cut.mcap").write_bytes(file.read_bytes()[:-200])
        assert recover(tmp_path / "cut.mcap", tmp_path / "saved") == {INFO: 1, COLOR: 1}
        (saved,) = (tmp_path / "saved").glob("*.mcap")
        assert b"\x28\xb5\x2f\xfd" not in saved.read_bytes(), "others play it too"
        paths.append(tmp_path / "saved")
    for path in paths:
        (frame,) = frames_of(path)
        np.testing.assert_array_equal(frame.color, RGB)


def test_open_recording_ros1_bag_plays_after_the_conversion_that_the_error_names(tmp_path, bag):
    store, old = get_typestore(Stores.ROS1_NOETIC), tmp_path / "walk.bag"
    header = partial(store.types["std_msgs/msg/Header"], seq=0, frame_id="lens")
    region = store.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    k, stamp = (
        np.array([600.0, 0, 30, 0, 600, 20, 0, 0, 1]),
        store.types["builtin_interfaces/msg/Time"](1_700_000_000, 0),
    )
    image = [header(stamp=stamp), H, W, "rgb8", 0, 3 * W, RGB.reshape(-1)]
    lens = [header(stamp=stamp), H, W, "plumb_bob", np.zeros(5), k, np.eye(3).reshape(-1), np.zeros(12), 0, 0, region]
    with Ros1Writer(old) as writer:
        for topic, kind, fields in ((INFO, "CameraInfo", lens), (COLOR, "Image", image)):
            name = f"sensor_msgs/msg/{kind}"
            connection = writer.add_connection(topic, name, typestore=store)
            writer.write(connection, START, store.serialize_ros1(store.types[name](*fields), name))
    with pytest.raises(InputError, match="a ROS 1 bag: convert it with `rosbags-convert --src") as raised:
        open_recording(old)
    tool, *arguments = shlex.split(str(raised.value).split("`")[1])
    command = [sys.executable, Path(sys.executable).with_name(tool), *arguments]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (frame,) = frames_of(tmp_path / "NEW")
    np.testing.assert_array_equal(frame.color, RGB)


def test_open_recording_sqlite3_with_write_ahead_log_plays_it(tmp_path, bag):
    """rosbag2 leaves such a bag when it is killed with its preset `resilient`."""
    with bag(tmp_path / "b", StoragePlugin.SQLITE3) as b:
        b.info(INFO, START, W, H)
        b.image(COLOR, START, RGB, "rgb8")
    (file,) = (tmp_path / "b").glob("*.db3")
    (tmp_path / "killed").mkdir()
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        for sent in range(1, 4):
            database.execute("INSERT INTO messages (topic_id, timestamp, data) SELECT topic_id, timestamp + ?, data "
                             "FROM messages WHERE topic_id = 2 LIMIT 1", (sent * PERIOD,))  # fmt: skip
        database.commit()
        for database_file in file.parent.glob("*.db3*"):
            shutil.copy(database_file, tmp_path / "killed" / database_file.name)
    killed = tmp_path / "killed" / file.name
    content = killed.read_bytes()
    for path in (killed, killed.parent):
        assert len(frames_of(path)) == 4
    assert killed.read_bytes() == content
    assert recover(killed.parent, tmp_path / "saved")[COLOR] == 4
