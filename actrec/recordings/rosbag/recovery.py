"""Recovery of mcap bags whose recorder was killed, or whose file is truncated or damaged.

Every whole message is kept. The records are parsed as the mcap specification defines them, without index or footer.
`mcap.stream_reader` does not suit: it returns the truncated last message as a whole one, and an error in a chunk loses
the chunk's earlier messages.
"""

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.rosbag2.metadata import parse_qos
from rosbags.rosbag2.storage_mcap import zstd
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

from actrec.recordings.base import existing, log
from actrec.recordings.rosbag.bag_reader import decompress_message
from actrec.recordings.rosbag.bag_writer import METADATA_VERSION
from actrec.utils.errors import DeviceError, InputError

MAGIC = b"\x89MCAP0\r\n"

_PADDING, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x00, 0x03, 0x04, 0x05, 0x06, 0x0F


@dataclass(frozen=True)
class _Channel:
    topic: str
    msgtype: str
    definition: str
    qos: str


def recover(path: str | Path, out: str | Path) -> dict[str, int]:
    """Copy every whole message of an unfinished mcap to a new, finished bag.

    Args:
        path: The `.mcap`, or the folder that holds it.
        out: Folder of the new bag; must not exist.

    Returns:
        Number of recovered messages by topic.

    Raises:
        DeviceError: The file does not exist, or `out` exists.
        InputError: The file is not an mcap, or holds no message.
    """
    file = _mcap_file(Path(path).expanduser())
    found = read_messages(file)
    first = next(found, None)
    if first is None:
        raise InputError(f"'{file}' holds no whole message: nothing can be recovered")
    counts: dict[str, int] = {}
    connections: dict[_Channel, Any] = {}
    try:
        with Writer(Path(out).expanduser(), version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
            for channel, stamp, raw in itertools.chain([first], found):  # one by one: a bag may exceed the memory
                if channel not in connections:
                    connections[channel] = _add_connection(writer, channel)
                if connections[channel] is not None:
                    writer.write(connections[channel], stamp, raw)
                    counts[channel.topic] = counts.get(channel.topic, 0) + 1
    except WriterError as error:
        raise DeviceError(f"cannot write the bag '{out}': {error}") from error
    except OSError as error:
        raise DeviceError(f"cannot write the bag '{out}': {error.strerror}") from error
    return counts


def read_messages(file: Path) -> Iterator[tuple[_Channel, int, bytes]]:
    """Yield (channel, log time in ns, serialized message) of each whole message, in file order."""
    schemas: dict[int, tuple[str, str]] = {}
    channels: dict[int, _Channel] = {}
    for kind, body in _file_records(file):
        try:
            if kind == _SCHEMA:
                (number,) = struct.unpack_from("<H", body)
                name, _, definition = _texts(body, 2, 3)
                schemas[number] = name, definition
            elif kind == _CHANNEL:
                number, schema = struct.unpack_from("<HH", body)
                channels[number] = _channel(body, *schemas[schema])
            elif kind == _MESSAGE:
                number, _, stamp, _ = struct.unpack_from("<HIQQ", body)
                message = channels[number], stamp, decompress_message(body[22:])
        except (KeyError, struct.error, UnicodeDecodeError, zstd.ZstdError):
            continue  # damaged, or of a damaged schema or channel
        if kind == _MESSAGE:
            yield message


def _mcap_file(path: Path) -> Path:
    path = existing(path)
    files = sorted(path.glob("*.mcap")) if path.is_dir() else [path]
    if len(files) != 1:
        raise DeviceError(f"'{path}' holds {len(files)} .mcap files, expected one; give the path of the file itself")
    return files[0]


def _file_records(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the records of the data section, also from inside chunks, until the file ends or is damaged."""
    with file.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
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
    """Return the decompressed records of a chunk: of a truncated one only if uncompressed, of a damaged one none."""
    try:
        (compression,) = _texts(body, 28, 1)
        data = body[28 + 4 + len(compression) + 8 :]
        if not compression:
            return data
        if not whole:
            return b""
        if compression == "zstd":
            return bytes(zstd.decompress(data))
        if compression == "lz4":
            from lz4.frame import decompress  # type: ignore[import-untyped]

            return bytes(decompress(data))
    except Exception as error:  # zstd, lz4 and struct each raise their own
        log.warning("'%s': skipping a damaged chunk (%s)", file, " ".join(str(error).split()))
        return b""
    raise InputError(f"'{file}' is compressed with '{compression}', which is not supported; known: zstd, lz4")


def _texts(body: bytes, at: int, count: int) -> list[str]:
    """Return `count` successive length-prefixed strings from offset `at`."""
    found = []
    for _ in range(count):
        (size,) = struct.unpack_from("<I", body, at)
        found.append(body[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return found


def _channel(body: bytes, msgtype: str, definition: str) -> _Channel:
    topic, encoding = _texts(body, 4, 2)
    at = 4 + 4 + len(topic.encode()) + 4 + len(encoding.encode())
    (size,) = struct.unpack_from("<I", body, at)
    at, end, metadata = at + 4, at + 4 + size, {}
    while at < end:
        key, value = _texts(body, at, 2)
        metadata[key] = value
        at += 8 + len(key.encode()) + len(value.encode())
    return _Channel(topic, msgtype, definition, metadata.get("offered_qos_profiles", ""))


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
