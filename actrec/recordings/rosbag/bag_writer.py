"""Writing of rosbag2 mcap bags for `ros2 bag play`, RViz and Foxglove, without ROS, and recovery of unfinished ones.

Metadata version 8 is the newest that both Humble and Jazzy read; version 9 no longer stores QoS profiles as text.
Data is flushed to disk in whole mcap chunks every `FLUSH_S` seconds; after a crash, `recover` finishes the bag.
"""

import itertools
import os
import re
import struct
import time
from collections.abc import Iterator, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import numpy as np
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.rosbag2.metadata import parse_qos
from rosbags.rosbag2.storage_mcap import zstd
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

from actrec.recordings import existing_path, log
from actrec.types import NANOSECONDS, Body, Intrinsics, RgbdFrame
from actrec.utils import camera_model
from actrec.utils.errors import ConfigError, DeviceError, InputError

METADATA_VERSION: Final = 8
FLUSH_S = 1.0
DEPTH_ENCODINGS = ("16UC1", "32FC1")

COLOR_TOPIC, COLOR_INFO_TOPIC = "/camera/color/image_raw", "/camera/color/camera_info"
DEPTH_TOPIC, DEPTH_INFO_TOPIC = "/camera/depth_registered/image_raw", "/camera/depth_registered/camera_info"
SKELETONS_TOPIC, TRUE_SKELETONS_TOPIC = "/skeletons", "/ground_truth/skeletons"
SKELETONS = "actrec_msgs/msg/SkeletonArray"
UP_TOPIC, UP = "/camera/up", "geometry_msgs/msg/Vector3Stamped"
_IMAGE, _INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"

_MESSAGE_SOURCES = Path(__file__).resolve().parents[3] / "ros2_ws" / "src"
_FOREVER = QosTime(9223372036, 854775807)
_MILLIMETERS = np.float32(1000.0)

_MCAP_MAGIC = b"\x89MCAP0\r\n"
_PADDING, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x00, 0x03, 0x04, 0x05, 0x06, 0x0F

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
"""Start of compressed data; a serialized message starts with 0."""


def qos(reliable: bool = True, latched: bool = False) -> Qos:
    """Return an offered QoS profile as rosbag2 records it, with history and depth unknown."""
    reliability = QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT
    durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
    return Qos(
        QosHistory.UNKNOWN, 0, reliability, durability, _FOREVER, _FOREVER, QosLiveliness.AUTOMATIC, _FOREVER, False
    )


class BagWriter:
    """Writer of one bag; a context manager. Leaving it, also by an error, finishes the bag.

    Attributes:
        path: The bag's folder.
        counts: Number of messages written, by topic.
        bytes_written: Total size of the serialized messages, bytes.

    Args:
        path: The folder to create; it must not exist.
        depth_encoding: How `write_frame` stores depth: "16UC1" whole millimeters, or "32FC1" meters, exact but twice
            as large.

    Raises:
        DeviceError: The folder exists already, or cannot be created.
    """

    def __init__(self, path: str | Path, depth_encoding: str = "16UC1"):
        if depth_encoding not in DEPTH_ENCODINGS:
            raise ConfigError(f"depth encoding is '{depth_encoding}', allowed: {', '.join(DEPTH_ENCODINGS)}")
        self.path = Path(path).expanduser()
        self.counts: dict[str, int] = {}
        self.bytes_written = 0
        self._depth_encoding = depth_encoding
        self._connections: dict[str, Any] = {}
        self._stores: dict[str, Any] = {}
        self._up: np.ndarray | None = None
        self._flushed = time.monotonic()
        self._open = True
        try:
            self._writer = Writer(self.path, version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except WriterError as error:
            raise DeviceError(f"'{self.path}' exists already; give another name, or remove it") from error
        except OSError as error:
            raise DeviceError(f"cannot create the bag '{self.path}': {error.strerror}") from error

    def __enter__(self) -> "BagWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add_topic(self, topic: str, msgtype: str, offered: Sequence[Qos] = ()) -> None:
        """Declare a topic before its first message.

        Args:
            topic: Absolute name.
            msgtype: As "sensor_msgs/msg/Image".
            offered: QoS profiles of the publishers; by default one reliable, volatile publisher.

        Raises:
            InputError: The type's definition is not found.
        """
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, msgtype, typestore=self._store(msgtype), offered_qos_profiles=list(offered) or [qos()]
            )
            self.counts[topic] = 0

    def write(self, topic: str, stamp_ns: int, raw: bytes | memoryview) -> None:
        """Write one serialized message of a declared topic.

        Raises:
            DeviceError: The disk is full or missing; the bag stays as it is and can be recovered.
        """
        try:
            self._writer.write(self._connections[topic], stamp_ns, raw)
            self.counts[topic] += 1
            self.bytes_written += len(raw)
            if time.monotonic() - self._flushed > FLUSH_S:
                self.flush()
        except OSError as error:
            self._abort(error)

    def flush(self) -> None:
        """Flush everything written so far to the disk, as a whole chunk."""
        storage: Any = self._writer.storage
        if storage.chunk.msgs:
            storage.close_chunk()
        storage.bio.flush()
        os.fsync(storage.bio.fileno())
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Write the index, then metadata.yaml; safe to call twice.

        Raises:
            DeviceError: The disk is full or missing.
        """
        if not self._open:
            return
        self._open = False
        try:
            self._writer.close()
        except OSError as error:
            self._abort(error)

    def write_frame(self, frame: RgbdFrame) -> None:
        """Write color, depth, their camera_info, the skeletons, and a new `up` of a frame.

        Raises:
            InputError: The frame violates the data contract.
            DeviceError: The disk is full or missing.
        """
        frame.check()
        header = self._header(frame.stamp_ns, frame.frame_id)
        if frame.color is not None:
            self._write_up(frame, header)
            info = self._info(frame.intrinsics, header)
            self._write_message(COLOR_INFO_TOPIC, _INFO, frame.stamp_ns, info)
            if frame.depth is not None:
                self._write_message(DEPTH_INFO_TOPIC, _INFO, frame.stamp_ns, info)
                depth = self._image(self._encode_depth(frame.depth), self._depth_encoding, header)
                self._write_message(DEPTH_TOPIC, _IMAGE, frame.stamp_ns, depth)
            self._write_message(COLOR_TOPIC, _IMAGE, frame.stamp_ns, self._image(frame.color, "rgb8", header))
        if frame.skeletons or frame.color is None:
            topic = SKELETONS_TOPIC if frame.color is None else TRUE_SKELETONS_TOPIC
            self.write_bodies(topic, frame.stamp_ns, frame.frame_id, frame.skeletons, frame.up)

    def _write_up(self, frame: RgbdFrame, header: Any) -> None:
        if frame.up is None or (self._up is not None and np.allclose(frame.up, self._up, atol=1e-4)):
            return
        self._up = frame.up
        types = self._store(UP).types
        self.add_topic(UP_TOPIC, UP, [qos(latched=True)])
        self._write_message(UP_TOPIC, UP, frame.stamp_ns, types[UP](header=header, vector=self._vector(UP, frame.up)))

    def _vector(self, msgtype: str, up: np.ndarray | None) -> Any:
        x, y, z = (0.0, 0.0, 0.0) if up is None else map(float, up)
        return self._store(msgtype).types["geometry_msgs/msg/Vector3"](x=x, y=y, z=z)

    def write_bodies(
        self, topic: str, stamp_ns: int, frame_id: str, bodies: Sequence[Body], up: np.ndarray | None = None
    ) -> None:
        """Write a `SkeletonArray`; `up` [3] is the unit vector against gravity, None if unknown."""
        types = self._store(SKELETONS).types
        point, skeleton = types["geometry_msgs/msg/Point32"], types["actrec_msgs/msg/Skeleton"]
        skeletons = [
            skeleton(
                body_id=body.body_id,
                layout=body.layout,
                positions=[point(x=float(x), y=float(y), z=float(z)) for x, y, z in body.positions],
                pixels=np.ascontiguousarray(body.pixels, np.float32).reshape(-1),
                confidences=np.ascontiguousarray(body.scores, np.float32),
            )
            for body in bodies
        ]
        message = types[SKELETONS](
            header=self._header(stamp_ns, frame_id), up=self._vector(SKELETONS, up), skeletons=skeletons
        )
        self._write_message(topic, SKELETONS, stamp_ns, message)

    def _abort(self, error: OSError) -> None:
        self._open = False
        self._writer.abort()
        raise DeviceError(
            f"recording '{self.path}' stopped after {sum(self.counts.values())} messages: {error.strerror}; free "
            f"space, then recover it with `actrec record --recover '{self.path}' --out NEW`"
        ) from error

    def _store(self, msgtype: str) -> Any:
        if msgtype not in self._stores:
            self._stores[msgtype] = typestore_with(msgtype)
        return self._stores[msgtype]

    def _write_message(self, topic: str, msgtype: str, stamp_ns: int, message: Any) -> None:
        self.add_topic(topic, msgtype)
        self.write(topic, stamp_ns, self._store(msgtype).serialize_cdr(message, msgtype))

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        types = self._store(_IMAGE).types
        sec, nanosec = divmod(stamp_ns, NANOSECONDS)
        stamp = types["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)
        return types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)

    def _image(self, pixels: np.ndarray, encoding: str, header: Any) -> Any:
        pixels = np.ascontiguousarray(pixels)
        little = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
        return self._store(_IMAGE).types[_IMAGE](
            header=header,
            height=pixels.shape[0],
            width=pixels.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=pixels.strides[0],
            data=little.reshape(-1).view(np.uint8),
        )

    def _encode_depth(self, depth: np.ndarray) -> np.ndarray:
        if self._depth_encoding == "32FC1":
            return depth.astype(np.float32, copy=False)
        millimeters = depth * _MILLIMETERS
        with np.errstate(invalid="ignore"):
            millimeters[~((millimeters > 0) & (millimeters < 65535.5))] = 0
        return np.rint(millimeters).astype(np.uint16)

    def _info(self, intrinsics: Intrinsics, header: Any) -> Any:
        types = self._store(_INFO).types
        region = types["sensor_msgs/msg/RegionOfInterest"]
        model, d = camera_model.ros_lens(intrinsics)
        return types[_INFO](
            header=header,
            height=intrinsics.height,
            width=intrinsics.width,
            distortion_model=model,
            d=np.array(d),
            k=intrinsics.matrix.reshape(-1),
            r=np.eye(3).reshape(-1),
            p=np.hstack([intrinsics.matrix, np.zeros((3, 1))]).reshape(-1),
            binning_x=0,
            binning_y=0,
            roi=region(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
        )


def typestore_with(*names: str) -> Any:
    """Return a `rosbags` typestore with these message types ("sensor_msgs/msg/Image") and all their fields' types.

    Definitions come from the installed packages, else from this repository, else from `rosbags`.

    Raises:
        InputError: A definition is not found; the message lists the searched folders.
    """
    known: dict[str, Any] = {}
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in known:
            found = _definition(name)
            known.update(found)
            pending += re.findall(r"'(\w+/msg/\w+)'", repr(list(found.values())))  # types of its fields
    store = get_typestore(Stores.EMPTY)
    store.register(known)
    return store


@cache
def _definition(name: str) -> dict[str, Any]:
    package, _, message = name.split("/")
    folders = [
        Path(prefix) / "share" / package for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if prefix
    ]
    for folder in [*folders, _MESSAGE_SOURCES / package]:
        file = folder / "msg" / f"{message}.msg"
        if file.is_file():
            return get_types_from_msg(file.read_text(), name)
    store = get_typestore(Stores.ROS2_HUMBLE)
    if name in store.fielddefs:
        return {name: store.fielddefs[name]}
    raise InputError(
        f"the definition of {name} is found neither under AMENT_PREFIX_PATH nor in {_MESSAGE_SOURCES}; "
        f"source the workspace that builds {package}"
    )


def decompress_message(raw: bytes) -> bytes:
    """Return a serialized message, decompressed if the bag compresses each message.

    The data is inspected, since only metadata.yaml states this compression and a file may be read without it.
    """
    return bytes(zstd.decompress(raw)) if bytes(raw[:4]) == _ZSTD_MAGIC else raw


def recover(path: str | Path, out: str | Path) -> dict[str, int]:
    """Copy every whole message of an unfinished or damaged mcap (or its folder) to a new, finished bag.

    Returns:
        Number of recovered messages by topic.

    Raises:
        DeviceError: The file does not exist, or `out` exists.
        InputError: The file is not an mcap, or holds no message.
    """
    path = existing_path(path)
    files = sorted(path.glob("*.mcap")) if path.is_dir() else [path]
    if len(files) != 1:
        raise DeviceError(f"'{path}' holds {len(files)} .mcap files, expected one; give the path of the file itself")
    messages = read_messages(files[0])
    first = next(messages, None)
    if first is None:
        raise InputError(f"'{files[0]}' holds no whole message: nothing can be recovered")
    counts: dict[str, int] = {}
    connections: dict[_Channel, Any] = {}
    try:
        with Writer(Path(out).expanduser(), version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
            for channel, stamp, raw in itertools.chain([first], messages):  # one by one: a bag may exceed the memory
                if channel not in connections:
                    connections[channel] = _add_connection(writer, channel)
                if connections[channel] is not None:
                    writer.write(connections[channel], stamp, raw)
                    counts[channel.topic] = counts.get(channel.topic, 0) + 1
    except (WriterError, OSError) as error:
        raise DeviceError(f"cannot write the bag '{out}': {getattr(error, 'strerror', None) or error}") from error
    return counts


class _Channel(NamedTuple):
    topic: str
    msgtype: str
    definition: str
    qos: str


def read_messages(file: Path) -> Iterator[tuple[_Channel, int, bytes]]:
    """Yield (channel, log time in ns, serialized message) of each whole message of an mcap, in file order.

    The records are parsed by the mcap specification, without index or footer. `mcap.stream_reader` is not used: it
    returns a truncated last message as a complete one, and loses all messages of a chunk with an error.
    """
    schemas: dict[int, tuple[str, str]] = {}
    channels: dict[int, _Channel] = {}
    for kind, body in _file_records(file):
        try:
            if kind == _SCHEMA:
                (number,) = struct.unpack_from("<H", body)
                (name, _, definition), _ = _strings(body, 2, 3)
                schemas[number] = name, definition
            elif kind == _CHANNEL:
                number, schema = struct.unpack_from("<HH", body)
                (topic, _), at = _strings(body, 4, 2)
                (size,) = struct.unpack_from("<I", body, at)
                metadata, at, end = {}, at + 4, at + 4 + size
                while at < end:
                    (key, value), at = _strings(body, at, 2)
                    metadata[key] = value
                channels[number] = _Channel(topic, *schemas[schema], metadata.get("offered_qos_profiles", ""))
            elif kind == _MESSAGE:
                number, _, stamp, _ = struct.unpack_from("<HIQQ", body)
                message = channels[number], stamp, decompress_message(body[22:])
        except (KeyError, struct.error, UnicodeDecodeError, zstd.ZstdError):
            continue  # damaged, or of a damaged schema or channel
        if kind == _MESSAGE:
            yield message


def _file_records(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the records of the data section, also from inside chunks, until the file ends or is damaged."""
    with file.open("rb") as stream:
        if stream.read(len(_MCAP_MAGIC)) != _MCAP_MAGIC:
            raise InputError(f"'{file}' is not an mcap file")
        for kind, body, whole in _records(stream, file.stat().st_size):
            if kind == _CHUNK:
                data = _chunk_records(file, body, whole)
                yield from ((k, b) for k, b, complete in _records(BytesIO(data), len(data)) if complete)
            elif whole:
                yield kind, body


def _records(stream: IO[bytes], end: int) -> Iterator[tuple[int, bytes, bool]]:
    """Yield (opcode, body, whether it is whole) of successive records; only the last one may be truncated."""
    while len(head := stream.read(9)) == 9:
        kind, size = struct.unpack("<BQ", head)
        if kind in (_PADDING, _DATA_END):
            return
        body = stream.read(min(size, end - stream.tell()))  # a damaged size may have any value
        yield kind, body, len(body) == size


def _chunk_records(file: Path, body: bytes, whole: bool) -> bytes:
    """Return the decompressed records of a chunk; empty if it is damaged, or compressed and truncated."""
    try:
        (compression,), at = _strings(body, 28, 1)
        data = body[at + 8 :]
        if not compression:
            return data
        if not whole:
            return b""
        if compression == "zstd":
            return bytes(zstd.decompress(data))
        if compression == "lz4":
            from lz4.frame import decompress  # type: ignore[import-untyped]

            return bytes(decompress(data))
    except Exception as error:  # zstd, lz4 and struct raise various errors
        log.warning("'%s': skipping a damaged chunk (%s)", file, " ".join(str(error).split()))
        return b""
    raise InputError(f"'{file}' is compressed with '{compression}', which is not supported; known: zstd, lz4")


def _strings(body: bytes, at: int, count: int) -> tuple[list[str], int]:
    """Return `count` successive length-prefixed strings from offset `at`, and the offset after them."""
    found = []
    for _ in range(count):
        (size,) = struct.unpack_from("<I", body, at)
        found.append(body[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return found, at


def _add_connection(writer: Writer, channel: _Channel) -> Any:
    """Return the connection, or None if the type's definition is not a ROS message (IDL, JSON)."""
    store = get_typestore(Stores.EMPTY)
    try:
        store.register(get_types_from_msg(channel.definition, channel.msgtype))
        return writer.add_connection(
            channel.topic, channel.msgtype, typestore=store, offered_qos_profiles=parse_qos(channel.qos)
        )
    except TypesysError:
        log.warning("skipping %s (%s): its definition in the bag cannot be read", channel.topic, channel.msgtype)
        return None
