"""Bags of other recorders: topics that are not of ROS 2, Foxglove's images, recordings in parts, compressed files."""

import base64
import json
import os
import shutil
import sqlite3
import struct
from pathlib import Path
from typing import Any

import cv2
import lz4.frame  # type: ignore[import-untyped]
import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2.storage_mcap import zstd
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from actrec.recordings import open_recording
from actrec.recordings.rosbag import bag_files, mcap_file
from actrec.recordings.rosbag.bag_files import recover
from actrec.recordings.rosbag.mcap_file import Channel
from actrec.utils.errors import InputError
from tests.core.conftest import Bag
from tests.core.recordings.test_bag import (
    COLOR,
    DEPTH,
    INFO,
    METERS,
    MILLIMETERS,
    PERIOD,
    RGB,
    START,
    H,
    W,
    frames_of,
    stamps,
)
from tests.core.recordings.test_bag_writer import mcap_record

COMPRESS = {"": bytes, "zstd": zstd.compress, "lz4": lz4.frame.compress}
Entry = tuple[Channel, int, bytes]


def u(size: int, *values: int) -> bytes:
    return struct.pack(f"<{len(values)}{'_HI_Q'[size // 2]}", *values)


def raw(data: bytes) -> bytes:
    return u(4, len(data)) + data


def write_mcap(
    path: Path, entries: list[Entry], compression: str | None = "", index: bool = True, checksum: int = 0
) -> None:
    """Write an mcap as any recorder: one chunk, or no chunks if compression is None; with or without an index."""
    channels = list(dict.fromkeys(channel for channel, _, _ in entries))
    definitions = b"".join(
        (mcap_record(3, u(2, n), c.msgtype, c.language, raw(c.definition.encode("latin-1"))) if c.msgtype else b"")
        + mcap_record(4, u(2, n, n if c.msgtype else 0), c.topic, c.encoding, u(4, 0))
        for n, c in enumerate(channels, 1)
    )
    numbers = [channels.index(channel) + 1 for channel, _, _ in entries]
    messages = b"".join(
        mcap_record(5, u(2, n), u(4, 0), u(8, time, time), data)
        for n, (_, time, data) in zip(numbers, entries, strict=True)
    )
    times = min(time for _, time, _ in entries), max(time for _, time, _ in entries)
    content = b"\x89MCAP0\r\n" + mcap_record(1, "", "some recorder")
    at, chunk_index = len(content), b""
    if compression is None:
        content += definitions + messages
    else:
        body = COMPRESS[compression](definitions + messages)
        size = len(definitions + messages)
        content += mcap_record(6, u(8, *times, size), u(4, checksum), compression, u(8, len(body)), body)
        chunk_index = mcap_record(8, u(8, *times, at, len(content) - at), u(4, 0), u(8, 0), compression, u(8, 0, 0))
    content += mcap_record(15, u(4, 0))
    summary = len(content) if index else 0
    if index:
        counts = b"".join(u(2, n) + u(8, numbers.count(n)) for n in sorted(set(numbers)))
        about = u(8, len(entries)) + u(2, len(channels)) + u(4, len(channels), 0, 0, 1) + u(8, *times)
        content += definitions + chunk_index + mcap_record(11, about, raw(counts))
    path.write_bytes(content + mcap_record(2, u(8, summary, 0), u(4, 0)) + b"\x89MCAP0\r\n")


@pytest.fixture
def ros_entries(tmp_path, bag) -> list[Entry]:
    with bag(tmp_path / "ros") as b:
        b.info(INFO, START, W, H)
        for stamp in stamps(4):
            b.image(DEPTH, stamp, MILLIMETERS, "16UC1")
            b.image(COLOR, stamp, RGB, "rgb8")
    with bag_files.Bag(tmp_path / "ros/ros.mcap") as recorded:
        return list(recorded.messages())


FOREIGN: list[Entry] = [
    (Channel("/points", "foxglove.PointCloud", "\n\xffbinary", "", "protobuf", "protobuf"), START, b"\x08\x01"),
    (Channel("/state", "State", '{"type": "object"}', "", "json", "jsonschema"), START + 1, b"{}"),
    (Channel("/odom", "nav_msgs/Odometry", "Header header", "", "ros1", "ros1msg"), START + 2, bytes(8)),
    (Channel("/imu", "Imu", "\xfe\x00", "", "flatbuffer", "flatbuffer"), START + 3, bytes(8)),
    (Channel("/note", "", "", "", "json", ""), START + 4, b"{}"),
]
LISTED = (
    "/points (foxglove.PointCloud, protobuf), /state (State, json), /odom (nav_msgs/Odometry, ros1), "
    "/imu (Imu, flatbuffer), /note (no type, json)"
)


@pytest.mark.parametrize("compression", ["", "zstd", "lz4", None])
@pytest.mark.parametrize("index", [True, False])
def test_bag_recording_foreign_topics_skipped_with_one_line(tmp_path, ros_entries, caplog, compression, index):
    write_mcap(tmp_path / "x.mcap", FOREIGN + ros_entries, compression, index)
    frames = frames_of(tmp_path / "x.mcap")
    assert [frame.stamp_ns for frame in frames] == stamps(4)
    np.testing.assert_array_equal(frames[3].depth, METERS)
    assert caplog.messages == [
        f"bag '{tmp_path / 'x.mcap'}': skipping topics whose messages are not of ROS 2: {LISTED}"
    ]
    assert [frame.stamp_ns for frame in frames_of(tmp_path / "x.mcap", 2 * PERIOD / 1e9)] == stamps(4)[2:]
    assert recover(tmp_path / "x.mcap", tmp_path / "saved") == {INFO: 1, DEPTH: 4, COLOR: 4}


def test_bag_recording_damaged_chunk_raises_and_recovers(tmp_path, ros_entries):
    write_mcap(tmp_path / "x.mcap", ros_entries, "zstd", checksum=1)
    with pytest.raises(InputError, match=r"is corrupt \(.*checksum differs\); .* `actrec record --recover '.*x.mcap'"):
        frames_of(tmp_path / "x.mcap")
    assert recover(tmp_path / "x.mcap", tmp_path / "saved")[COLOR] == 4
    assert len(frames_of(tmp_path / "saved")) == 4


def test_bag_recording_foreign_topics_alone_raise_with_list_and_remedy(tmp_path):
    write_mcap(tmp_path / "x.mcap", FOREIGN)
    with pytest.raises(
        InputError, match="neither images .*: convert the original ROS 1 bag with `rosbags-con"
    ) as error:
        open_recording(tmp_path / "x.mcap")
    assert str(error.value).endswith(f"; it has: {LISTED}")
    write_mcap(tmp_path / "y.mcap", FOREIGN[:1])
    with pytest.raises(InputError, match=r"record the topics in ROS 2: actrec record --out NEW .*it has: /points \("):
        open_recording(tmp_path / "y.mcap")


def test_bag_recording_sqlite3_foreign_topic_skipped(tmp_path, bag, caplog):
    with bag(tmp_path / "b", StoragePlugin.SQLITE3) as b:
        b.info(INFO, START, W, H)
        b.image(COLOR, START, RGB, "rgb8")
        b.image("/points", START, RGB, "rgb8")
    with sqlite3.connect(tmp_path / "b/b.db3") as database:
        database.execute("UPDATE topics SET type = 'Points', serialization_format = 'protobuf' WHERE name = '/points'")
    assert len(frames_of(tmp_path / "b")) == 1
    assert "skipping topics whose messages are not of ROS 2: /points (Points, protobuf)" in caplog.text


# -- Foxglove's schemas ------------------------------------------------------------------------------------------------

CALIBRATION = {"distortion_model": "plumb_bob", "D": [0.1, 0, 0, 0, 0], "K": [60.0, 0, 32, 0, 61, 24, 0, 0, 1]}
PNG = cv2.imencode(".png", RGB[..., ::-1])[1].tobytes()


def foxglove_messages(stamp: int) -> dict[str, dict[str, Any]]:
    """Return the fields of messages by schema."""
    seconds, nanoseconds = divmod(stamp, 10**9)
    base = {"timestamp": (seconds, nanoseconds), "frame_id": "lens"}
    size = {"width": W, "height": H}
    return {
        "CameraCalibration": {**base, **size, **CALIBRATION},
        "CompressedImage": {**base, "format": "png", "data": PNG},
        "RawImage": {**base, **size, "encoding": "16UC1", "step": 2 * W, "data": MILLIMETERS.tobytes()},
    }


def json_entry(name: str, fields: dict[str, Any], topic: str, stamp: int) -> Entry:
    seconds, nanoseconds = fields["timestamp"]
    plain = {**fields, "timestamp": {"sec": seconds, "nsec": nanoseconds}}
    if "data" in plain:
        plain["data"] = base64.b64encode(plain["data"]).decode()
    return Channel(topic, f"foxglove.{name}", "{}", "", "json", "jsonschema"), stamp, json.dumps(plain).encode()


def cdr_entry(name: str, fields: dict[str, Any], topic: str, stamp: int) -> Entry:
    """Return a message of the ROS package foxglove_msgs."""
    types = {str: "string", int: "uint32", bytes: "uint8[]", list: "float64[]", tuple: "builtin_interfaces/Time"}
    kind = f"foxglove_msgs/msg/{name}"
    definition = "\n".join(f"{types[type(value)]} {field}" for field, value in fields.items())
    store = get_typestore(Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg(definition, kind))
    plain = {key: np.array(value, np.float64) if isinstance(value, list) else value for key, value in fields.items()}
    plain["timestamp"] = store.types["builtin_interfaces/msg/Time"](*fields["timestamp"])
    if "data" in plain:
        plain["data"] = np.frombuffer(plain["data"], np.uint8)
    return Channel(topic, kind, definition, ""), stamp, bytes(store.serialize_cdr(store.types[kind](**plain), kind))


def protobuf_entry(name: str, fields: dict[str, Any], topic: str, stamp: int) -> Entry:
    """Return a message with the schema's definition, as Foxglove's tools write it."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

    time = descriptor_pb2.FileDescriptorProto.FromString(timestamp_pb2.DESCRIPTOR.serialized_pb)
    types = {str: 9, int: 7, bytes: 12, list: 1, tuple: 11}  # string, fixed32, bytes, double, message
    file = descriptor_pb2.FileDescriptorProto(name="x.proto", package="foxglove", syntax="proto3")
    file.dependency.append(time.name)
    message = file.message_type.add(name=name)
    for number, (field, value) in enumerate(fields.items(), 1):
        label = 3 if isinstance(value, list) else 1
        entry = message.field.add(name=field, number=number, label=label, type=types[type(value)])  # type: ignore[arg-type]
        if entry.type == 11:
            entry.type_name = ".google.protobuf.Timestamp"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(time)
    pool.Add(file)
    kind: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"foxglove.{name}"))
    sent = kind(**{key: value for key, value in fields.items() if key != "timestamp"})
    sent.timestamp.seconds, sent.timestamp.nanos = fields["timestamp"]
    definition = descriptor_pb2.FileDescriptorSet(file=[time, file]).SerializeToString().decode("latin-1")
    channel = Channel(topic, f"foxglove.{name}", definition, "", "protobuf", "protobuf")
    return channel, stamp, sent.SerializeToString()


@pytest.mark.parametrize("encode", [json_entry, protobuf_entry, cdr_entry])
def test_bag_recording_foxglove_images_play(tmp_path, caplog, encode):
    topics = {"CameraCalibration": "/cam/calibration", "CompressedImage": "/cam/color", "RawImage": "/cam/depth"}
    entries = [
        encode(name, fields, topics[name], stamp)
        for stamp in stamps(3)
        for name, fields in foxglove_messages(stamp).items()
    ]
    write_mcap(tmp_path / "x.mcap", entries)
    with open_recording(tmp_path / "x.mcap") as recording:
        frames: list[Any] = list(recording.frames())
        assert (recording.intrinsics.fx, recording.intrinsics.cy) == (60, 24)
    assert [frame.stamp_ns for frame in frames] == stamps(3) and not caplog.messages
    np.testing.assert_array_equal(frames[2].color, RGB)
    np.testing.assert_array_equal(frames[2].depth, METERS)


# -- recordings in parts -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[StoragePlugin.MCAP, StoragePlugin.SQLITE3], ids=["mcap", "db3"])
def recorded_parts(request, tmp_path_factory) -> Path:
    """Return the folder of a recording of 3 × 40 frames, split as `ros2 bag record --max-bag-size` splits it."""
    root, names, about = tmp_path_factory.mktemp("parts"), [], {}
    (root / "walk").mkdir()
    for part in range(3):
        with Bag(root / f"p{part}", request.param) as b:
            for stamp in stamps(120)[40 * part : 40 * part + 40]:
                b.info(INFO, stamp, W, H)
                b.image(COLOR, stamp, RGB, "rgb8")
        (file,) = (file for file in (root / f"p{part}").iterdir() if file.suffix != ".yaml")
        about = yaml.safe_load((root / f"p{part}/metadata.yaml").read_text())
        names.append(f"walk_{part}{file.suffix}")
        file.rename(root / "walk" / names[-1])
    about["rosbag2_bagfile_information"]["relative_file_paths"] = names
    (root / "walk/metadata.yaml").write_text(yaml.safe_dump(about))
    return root / "walk"


@pytest.fixture
def parts(recorded_parts, tmp_path) -> Path:
    return Path(shutil.copytree(recorded_parts, tmp_path / "walk"))


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix != ".yaml")


def reorder(folder: Path) -> None:
    about = yaml.safe_load((folder / "metadata.yaml").read_text())
    about["rosbag2_bagfile_information"]["relative_file_paths"].reverse()
    (folder / "metadata.yaml").write_text(yaml.safe_dump(about))


def swap(folder: Path) -> None:
    (folder / "metadata.yaml").unlink()
    first, second, _ = files_of(folder)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def drop_middle(folder: Path) -> None:
    files_of(folder)[1].unlink()


def drop_middle_and_metadata(folder: Path) -> None:
    drop_middle(folder)
    (folder / "metadata.yaml").unlink()


def cut_last(folder: Path) -> None:
    last = files_of(folder)[-1]
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    (folder / "metadata.yaml").unlink()


def empty_last(folder: Path) -> None:
    files_of(folder)[-1].write_bytes(b"")


def pack(folder: Path) -> None:
    for file in files_of(folder):
        (folder / f"{file.name}.zstd").write_bytes(zstd.compress(file.read_bytes()))
        file.unlink()


def damage_metadata(folder: Path) -> None:
    (folder / "metadata.yaml").write_text("rosbag2_bagfile_information: [")


def replace_metadata_by_a_pipe(folder: Path) -> None:
    (folder / "metadata.yaml").unlink()
    os.mkfifo(folder / "metadata.yaml")


FIRST_AND_LAST = stamps(120)[:40] + stamps(120)[80:]


@pytest.mark.parametrize(
    ("change", "expected", "warning"),
    [
        (lambda folder: (folder / "metadata.yaml").unlink(), stamps(120), ""),
        (reorder, stamps(120), ""),
        (swap, stamps(120), ""),
        (pack, stamps(120), ""),
        (damage_metadata, stamps(120), "metadata.yaml is damaged"),
        (replace_metadata_by_a_pipe, stamps(120), "metadata.yaml is damaged"),
        (drop_middle, FIRST_AND_LAST, "walk_1{} is missing: playing walk_0{}, walk_2{}"),
        (drop_middle_and_metadata, FIRST_AND_LAST, "walk_1{} is missing: playing walk_0{}, walk_2{}"),
        (empty_last, stamps(120)[:80], "skipping 'walk_2{}': '{0}' is not an "),
        (cut_last, stamps(120)[:85], "'walk_2{}' is damaged or not finished ("),
    ],
)
def test_bag_recording_in_parts_plays_and_recovers(parts, caplog, change, expected, warning):
    suffix = files_of(parts)[0].suffix
    text = warning.replace("{0}", str(parts / f"walk_2{suffix}")).replace("{}", suffix)
    change(parts)
    found = [frame.stamp_ns for frame in frames_of(parts)]
    if change is cut_last:
        assert found[: len(expected)] == expected and len(found) < 120
    else:
        assert found == expected
    problems = [line for line in caplog.messages if "no depth" not in line]
    assert len(problems) == bool(text) and all(text in line for line in problems)
    assert recover(parts, parts.parent / "saved")[COLOR] >= len(found)
    assert len(frames_of(parts.parent / "saved")) >= len(found)


def test_open_recording_several_recordings_in_a_folder_raise(tmp_path, ros_entries):
    for name in ("monday.mcap", "tuesday.mcap"):
        write_mcap(tmp_path / name, ros_entries)
    with pytest.raises(InputError, match=r"several recordings.*: give the path of one file \(monday.mcap, tuesday.mc"):
        open_recording(tmp_path)
    assert len(frames_of(tmp_path / "monday.mcap")) == 4


@pytest.mark.parametrize(("suffix", "method"), [("zstd", "zstd"), ("zst", "zstd"), ("lz4", "lz4")])
def test_open_recording_compressed_file_plays(tmp_path, ros_entries, suffix, method):
    packed = tmp_path / f"walk_0.mcap.{suffix}"
    packed.write_bytes(COMPRESS[method]((tmp_path / "ros/ros.mcap").read_bytes()))
    assert len(frames_of(packed)) == 4
    packed.write_bytes(COMPRESS[method](b"hello hello"))
    with pytest.raises(InputError, match=f"'{packed}' is not an mcap file: it starts with b'hello he'"):
        open_recording(packed)


@pytest.mark.parametrize("method", ["zstd", "lz4"])
def test_open_recording_compressed_file_that_would_fill_the_disk_is_refused(tmp_path, method, monkeypatch) -> None:
    monkeypatch.setattr(bag_files, "_LEAST_BYTES", 1 << 20)
    packed = tmp_path / f"walk_0.mcap.{method}"
    packed.write_bytes(COMPRESS[method](bytes(1 << 25)))
    with pytest.raises(InputError, match="unpacks to over 200 times its size"):
        open_recording(packed)


@pytest.mark.parametrize("method", ["zstd", "lz4"])
def test_decompress_message_with_too_many_bytes_raises(method, monkeypatch) -> None:
    monkeypatch.setattr(mcap_file, "_MAX_BYTES", 1 << 20)
    message = COMPRESS[method](bytes(1 << 20))
    assert mcap_file.decompress(message) == bytes(1 << 20)
    with pytest.raises(ValueError, match="it has more than 1048576 bytes when decompressed"):
        mcap_file.decompress(COMPRESS[method](bytes((1 << 20) + 1)))
    with pytest.raises(ValueError, match="more than 1048576 bytes"):
        mcap_file.decompress(message + message)
    with pytest.raises(ValueError, match="it is truncated"):
        mcap_file.decompress(message[:-3])
