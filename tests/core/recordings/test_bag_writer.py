"""Written bags are read by actrec and rosbags; truncated bags are recovered."""

import errno
import os
import shutil
import signal
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Writer
from rosbags.rosbag2.storage_mcap import zstd

from actrec.recordings import open_recording, skeleton_files
from actrec.recordings.rosbag.bag_files import Bag, recover
from actrec.recordings.rosbag.bag_writer import BagWriter, qos
from actrec.recordings.rosbag.mcap_file import McapFile
from actrec.types import Body, Intrinsics, RgbdFrame
from actrec.utils.errors import ConfigError, DeviceError, InputError

FOREVER = {"sec": 9223372036, "nsec": 854775807}


def write(path, frames, **options):
    with BagWriter(path, **options) as writer:
        for frame in frames:
            writer.write_frame(frame)
    return writer


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_bag_writer_round_trip_is_exact(tmp_path, person_frames, encoding):
    write(tmp_path / "b", person_frames, depth_encoding=encoding)
    with open_recording(tmp_path / "b") as recording:
        read: list[Any] = list(recording.frames())
        assert recording.intrinsics == person_frames[0].intrinsics
    assert len(read) == len(person_frames)
    for before, after in zip(person_frames, read, strict=True):
        np.testing.assert_array_equal(before.color, after.color)
        np.testing.assert_array_equal(before.depth, after.depth)
        assert (before.stamp_ns, before.frame_id) == (after.stamp_ns, after.frame_id)


def test_bag_writer_depth_out_of_16_bit_range_is_missing(tmp_path):
    depth = np.array([[0.0004, 1.00049, 65.535, 70.0, np.nan, np.inf, -1.0, 2.0]], np.float32)
    frame = RgbdFrame(5, np.zeros((1, 8, 3), np.uint8), depth, Intrinsics(8, 1, 9, 9, 4, 0))
    write(tmp_path / "b", [frame])
    with open_recording(tmp_path / "b") as recording:
        read: Any = next(recording.frames())
    nan = np.nan
    np.testing.assert_allclose(read.depth, [[nan, 1.0, 65.535, nan, nan, nan, nan, 2.0]], rtol=1e-6)


def test_bag_reader_rare_topic_is_read_without_the_images(tmp_path, person_frames, monkeypatch):
    """An hour of images has one direction of gravity at its start."""
    up = np.array([0.0, -1.0, 0.0])
    write(tmp_path / "b", [replace(frame, up=up if k == 0 else None) for k, frame in enumerate(person_frames)])
    read, original = [], McapFile._read

    def counted(self, offset, size):
        read.append(size)
        return original(self, offset, size)

    monkeypatch.setattr(McapFile, "_read", counted)
    with Bag(tmp_path / "b") as bag:
        read.clear()
        assert len(list(bag.messages(["/camera/up"]))) == 1
    assert sum(read) < sum(path.stat().st_size for path in (tmp_path / "b").glob("*.mcap")) / 2


def test_bag_writer_8_distortion_coefficients_kept(tmp_path, person_frames):
    k = Intrinsics(640, 480, 500, 501, 320, 240, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8))
    frame = RgbdFrame(7, person_frames[0].color, person_frames[0].depth, k)
    write(tmp_path / "b", [frame])
    with open_recording(tmp_path / "b") as recording:
        assert recording.intrinsics == k


def test_bag_writer_metadata_matches_rosbag2(tmp_path, person_frames):
    """Version 8 with QoS as text of integers: Humble and Jazzy read it (rosbag2_storage's yaml.hpp, qos.cpp)."""
    write(tmp_path / "b", person_frames)
    info = yaml.safe_load((tmp_path / "b/metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert info["version"] == 8 and info["storage_identifier"] == "mcap"
    assert info["relative_file_paths"] == ["b.mcap"] and info["message_count"] == 4 * len(person_frames)
    assert info["compression_format"] == info["compression_mode"] == ""
    assert info["starting_time"]["nanoseconds_since_epoch"] == person_frames[0].stamp_ns
    assert info["duration"]["nanoseconds"] == person_frames[-1].stamp_ns - person_frames[0].stamp_ns
    assert info["files"][0]["path"] == "b.mcap" and info["files"][0]["message_count"] == info["message_count"]
    for topic in info["topics_with_message_count"]:
        metadata = topic["topic_metadata"]
        assert metadata["serialization_format"] == "cdr" and metadata["type"].startswith("sensor_msgs/msg/")
        assert metadata["type_description_hash"].startswith("RIHS01_")
        assert isinstance(metadata["offered_qos_profiles"], str)
        (profile,) = yaml.safe_load(metadata["offered_qos_profiles"])
        assert profile == {
            "history": 3, "depth": 0, "reliability": 1, "durability": 2, "deadline": FOREVER, "lifespan": FOREVER,
            "liveliness": 1, "liveliness_lease_duration": FOREVER, "avoid_ros_namespace_conventions": False,
        }  # fmt: skip


def test_bag_writer_joints_and_text_readable_by_rosbags(tmp_path, data_root):
    sequence = skeleton_files.open_sequence(data_root / "ntu/skeleton/S001C001P001R001A001.skeleton")
    with BagWriter(tmp_path / "b") as writer:
        for index, stamp in enumerate(sequence.stamps_ns):
            writer.write_bodies("/skeletons", int(stamp), "lens", sequence.bodies_at(index))
        writer.add_topic("/action_label/text", "std_msgs/msg/String", [qos(reliable=False, latched=True)])
        writer.write("/action_label/text", 10, b"\x00\x01\x00\x00\x06\x00\x00\x00drink\x00")
    with AnyReader([tmp_path / "b"]) as reader:
        connection: Any = next(c for c in reader.connections if c.topic == "/skeletons")
        messages: list[Any] = [
            reader.deserialize(raw, connection.msgtype) for _, _, raw in reader.messages([connection])
        ]
        text: Any = next(c for c in reader.connections if c.topic == "/action_label/text")
        texts: list[Any] = [reader.deserialize(raw, text.msgtype) for _, _, raw in reader.messages([text])]
        (offered,) = text.ext.offered_qos_profiles
    assert [message.data for message in texts] == ["drink"] and (offered.reliability.name, offered.durability.name) == (
        "BEST_EFFORT",
        "TRANSIENT_LOCAL",
    )
    assert len(messages) == 103
    last = messages[-1].skeletons[0]
    assert (last.body_id, last.layout) == ("body_72057594037931101", "kinect_v2_25")
    positions = np.array([(p.x, p.y, p.z) for p in last.positions], np.float32)
    np.testing.assert_array_equal(positions, sequence.bodies[0, -1])
    np.testing.assert_array_equal(last.pixels.reshape(25, 2), sequence.pixels[0, -1])
    np.testing.assert_array_equal(last.confidences, sequence.scores[0, -1])


def test_bag_writer_type_hashes_match_ros(tmp_path, root):
    """Compare the RIHS01 of our messages with the one of ROS's generator."""
    import json

    from actrec.recordings.rosbag.bag_writer import typestore_with

    built = root / "ros2_ws/install/actrec_msgs/share/actrec_msgs/msg"
    if not built.is_dir():
        pytest.skip("the messages are not built: make build")
    for name in ("SkeletonArray", "HandArray", "FaceArray", "ActionLabel"):
        known = {
            h["type_name"]: h["hash_string"] for h in json.loads((built / f"{name}.json").read_text())["type_hashes"]
        }
        msgtype = f"actrec_msgs/msg/{name}"
        assert typestore_with(msgtype).hash_rihs01(msgtype) == known[msgtype]


def test_bag_writer_joints_topic_depends_on_images(tmp_path, person_frames):
    body = Body("body_1", "kinect_v2_25", np.zeros((25, 3), np.float32), np.zeros((25, 2), np.float32), np.ones(25))
    alone = RgbdFrame(1, None, None, Intrinsics(8, 1, 9, 9, 4, 0), skeletons=[body])
    assert list(write(tmp_path / "alone", [alone]).counts) == ["/skeletons"]
    both = RgbdFrame(1, person_frames[0].color, None, person_frames[0].intrinsics, skeletons=[body])
    assert "/ground_truth/skeletons" in write(tmp_path / "both", [both]).counts


def test_bag_writer_invalid_use_raises(tmp_path, person_frames):
    (tmp_path / "there").mkdir()
    with pytest.raises(DeviceError, match="exists already"):
        BagWriter(tmp_path / "there")
    with pytest.raises(ConfigError, match="depth encoding is '8UC1'"):
        BagWriter(tmp_path / "new", depth_encoding="8UC1")
    with BagWriter(tmp_path / "c") as writer:
        with pytest.raises(InputError, match="definition of no_such/msg/Thing is found neither"):
            writer.add_topic("/x", "no_such/msg/Thing")


@pytest.mark.parametrize("share", [0.3, 0.5, 0.95])
def test_recover_truncated_file_keeps_whole_messages(tmp_path, person_frames, share):
    write(tmp_path / "b", person_frames)
    whole = (tmp_path / "b/b.mcap").read_bytes()
    (tmp_path / "cut.mcap").write_bytes(whole[: int(len(whole) * share)])
    counts = recover(tmp_path / "cut.mcap", tmp_path / "saved")
    with open_recording(tmp_path / "saved") as recording:
        read: list[Any] = list(recording.frames())
    assert len(read) == counts["/camera/color/image_raw"] >= int(len(person_frames) * share) - 1
    for before, after in zip(person_frames, read, strict=False):
        np.testing.assert_array_equal(before.color, after.color)
        np.testing.assert_array_equal(before.depth, after.depth)


def chunks(whole):
    """Return (start, end) of each chunk of an mcap."""
    at, found = 8, []
    while whole[at] != 0x0F:
        end = at + 9 + struct.unpack_from("<Q", whole, at + 1)[0]
        found += [(at, end)] if whole[at] == 0x06 else []
        at = end
    return found


def with_damaged_second_chunk(whole, first, second):
    """Return the mcap with chunk 1 compressed, chunk 2 compressed and damaged, chunk 3 unchanged."""
    parts = [whole[: first[0]]]
    for (start, end), damaged in ((first, False), (second, True)):
        data = zstd.compress(whole[start + 49 : end])
        data = bytes(40) + data[40:] if damaged else data
        body = whole[start + 9 : start + 37] + struct.pack("<I4sQ", 4, b"zstd", len(data)) + data
        parts.append(struct.pack("<BQ", 0x06, len(body)) + body)
    return b"".join(parts) + whole[chunks(whole)[2][0] :]


def with_short_message(whole, first, second):
    """Return the mcap with a message of one byte before the others of chunk 2, and no index."""
    start, end = second
    data = mcap_record(5, b"\x01") + whole[start + 49 : end]
    body = whole[start + 9 : start + 41] + struct.pack("<Q", len(data)) + data
    return whole[:start] + struct.pack("<BQ", 0x06, len(body)) + body


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda whole, first, second: whole[: second[0] + 16] + b"\x7f" + whole[second[0] + 17 :], 4),  # its start time
        (with_short_message, 3),
        (lambda whole, first, second: whole[: second[0]] + bytes(5000), 2),  # after a power cut
        (lambda whole, first, second: whole[: second[0]] + b"\x05" + b"\xff" * 5000, 2),
        (lambda whole, first, second: whole[: second[0]] + b"\x05" + struct.pack("<Q", 1 << 44) + bytes(99), 2),
        (lambda whole, first, second: whole[: first[0] + 60] + bytes(9000) + whole[first[0] + 9060 :], 0),
        (with_damaged_second_chunk, 3),
    ],
    ids=["time of a chunk", "short message", "zeros", "no size", "huge size", "definitions lost", "chunk"],
)
def test_recover_damaged_parts_skipped(tmp_path, damage, expected):
    k = Intrinsics(32, 24, 30, 30, 15.5, 11.5)
    with BagWriter(tmp_path / "b") as writer:
        for stamp in range(4):
            writer.write_frame(RgbdFrame(stamp, np.zeros((24, 32, 3), np.uint8), np.ones((24, 32), np.float32), k))
            if stamp:
                writer.flush()
    whole = (tmp_path / "b/b.mcap").read_bytes()
    first, second, _ = chunks(whole)
    (tmp_path / "damaged.mcap").write_bytes(damage(whole, first, second))
    try:
        counts = recover(tmp_path / "damaged.mcap", tmp_path / "saved")
    except InputError as error:
        assert "holds no whole message" in str(error) and not expected
    else:
        assert counts["/camera/color/image_raw"] == expected


def mcap_record(opcode, *parts):
    """Return a record of an mcap; strings are prefixed with their lengths."""
    body = b"".join(struct.pack("<I", len(part)) + part.encode() if isinstance(part, str) else part for part in parts)
    return struct.pack("<BQ", opcode, len(body)) + body


def test_recover_topic_of_half_indexed_last_chunk_kept(tmp_path, person_frames):
    joints = Body("body_1", "kinect_v2_25", *(np.zeros(shape, np.float32) for shape in ((25, 3), (25, 2), 25)))
    with BagWriter(tmp_path / "b") as writer:
        writer.write_frame(person_frames[0])
        writer.flush()
        writer.write_frame(replace(person_frames[1], skeletons=[joints]))
    whole = (tmp_path / "b/b.mcap").read_bytes()
    index = chunks(whole)[-1][1]
    (tmp_path / "cut.mcap").write_bytes(whole[: index + 9 + struct.unpack_from("<Q", whole, index + 1)[0]])
    counts = recover(tmp_path / "cut.mcap", tmp_path / "saved")
    assert counts["/ground_truth/skeletons"] == 1 and counts["/camera/color/image_raw"] == 2


def test_recover_topic_without_ros_definition_skipped(tmp_path, person_frames, caplog):
    write(tmp_path / "b", person_frames[:2])
    whole = (tmp_path / "b/b.mcap").read_bytes()
    header_end = 8 + 9 + struct.unpack_from("<Q", whole, 9)[0]
    json = mcap_record(3, struct.pack("<H", 99), "foo.Bar", "jsonschema", '{"type": "object"}')
    json += mcap_record(4, struct.pack("<HH", 99, 99), "/map", "json", struct.pack("<I", 0))
    json += mcap_record(5, struct.pack("<HIQQ", 99, 0, 1, 1), b"{}")
    (tmp_path / "cut.mcap").write_bytes(whole[:header_end] + json + whole[header_end:-100])
    counts = recover(tmp_path / "cut.mcap", tmp_path / "saved")
    assert counts["/camera/color/image_raw"] == 2 and "/map" not in counts
    assert caplog.text.count("skipping topics whose messages are not of ROS 2: /map (foo.Bar, json)") == 1


def test_recover_messages_streamed_one_by_one(tmp_path, person_frames, monkeypatch):
    """A bag may exceed the memory."""
    write(tmp_path / "b", person_frames[:3])
    written, write_one, read_messages = [], Writer.write, Bag.messages

    def count(self, connection, stamp, raw):
        written.append(stamp)
        write_one(self, connection, stamp, raw)

    def read_and_count(bag):
        for number, message in enumerate(read_messages(bag)):
            assert len(written) == number
            yield message

    monkeypatch.setattr("actrec.recordings.rosbag.bag_files.Writer.write", count)
    monkeypatch.setattr(Bag, "messages", read_and_count)
    recover(tmp_path / "b", tmp_path / "saved")
    assert len(written) >= 12


def test_recover_invalid_input_raises(tmp_path, person_frames):
    (tmp_path / "x.mcap").write_bytes(b"rubbish and more rubbish")
    with pytest.raises(InputError, match="is not an mcap file"):
        recover(tmp_path / "x.mcap", tmp_path / "y")
    (tmp_path / "z.mcap").write_bytes(b"\x89MCAP0\r\n")
    with pytest.raises(InputError, match="holds no whole message"):
        recover(tmp_path / "z.mcap", tmp_path / "y")
    with pytest.raises(DeviceError, match="there is no recording '.*nothing'"):
        recover(tmp_path / "nothing", tmp_path / "y")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no .mcap or .db3 file"):
        recover(tmp_path / "empty", tmp_path / "y")
    write(tmp_path / "b", person_frames[:1])
    with pytest.raises(DeviceError, match="exists already"):
        recover(tmp_path / "b", tmp_path / "b")


CHILD = """
import resource, signal, sys
import numpy as np
from actrec.utils.errors import DeviceError
from actrec.types import Intrinsics, RgbdFrame
from actrec.recordings.rosbag.bag_writer import BagWriter
path, mode = sys.argv[1:]
if mode == "full":  # a limit on the file size simulates a full disk
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY))
writer = BagWriter(path)
color = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
k = Intrinsics(320, 240, 300, 300, 160, 120)
try:
    for stamp in range(30):
        writer.write_frame(RgbdFrame(stamp, color, np.full((240, 320), 1.5, np.float32), k))
        if stamp == 19 and mode == "kill":
            writer.flush()
            print("flushed", flush=True)
            sys.stdin.read()
except DeviceError as error:
    print(error)
    sys.exit(1)
"""


def child(path, mode):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), mode],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def test_bag_writer_full_disk_raises_one_line_and_recovers(tmp_path):
    process = child(tmp_path / "b", "full")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, "")
    assert out.count("\n") == 1 and "stopped after" in out and "File too large" in out and "--recover" in out
    assert recover(tmp_path / "b", tmp_path / "saved")["/camera/color/image_raw"] >= 5
    with open_recording(tmp_path / "saved") as recording:
        assert len(list(recording.frames())) >= 5


def test_bag_writer_full_disk_whose_buffer_cannot_be_closed_names_the_remedy(tmp_path, monkeypatch):
    """Small messages wait in the file's buffer, which closing writes again."""
    bag = BagWriter(tmp_path / "b")
    bag.write_bodies("/skeletons", 1, "camera", [])

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bag, "flush", full)
    monkeypatch.setattr(bag._writer, "abort", full)
    with pytest.raises(DeviceError, match="after 1 messages: No space left on device; free space, then recover"):
        bag.flush_waiting()
    bag.close()


def test_bag_writer_messages_are_flushed_though_no_others_follow(tmp_path):
    with BagWriter(tmp_path / "b") as bag:
        bag.write_bodies("/skeletons", 1, "camera", [])
        bag.flush_waiting()
        shutil.copytree(tmp_path / "b", tmp_path / "killed")
    assert recover(tmp_path / "killed", tmp_path / "saved") == {"/skeletons": 1}


def test_recover_killed_recorder_keeps_flushed_messages(tmp_path):
    process = child(tmp_path / "b", "kill")
    assert process.stdout is not None and process.stdout.readline() == "flushed\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    assert not (tmp_path / "b/metadata.yaml").exists()
    with open_recording(tmp_path / "b") as recording:
        assert len(list(recording.frames())) == 20
    assert recover(tmp_path / "b", tmp_path / "saved")["/camera/color/image_raw"] == 20


def test_bench_recordings_returns_rows():
    from benchmarks.streams import recordings

    rows = recordings(["--frames", "3"])["rows"]
    assert len(rows) == 4 and all(row["cpu_ms"] > 0 and row["mb"] > 0 for row in rows)
