"""Finishes an mcap bag whose recorder was killed, or whose file is cut off or damaged: every whole message is kept.

Reads the records as the mcap specification lays them out, needing neither index nor footer.
"""

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.rosbag2.metadata import parse_qos
from rosbags.rosbag2.storage_mcap import zstd
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

from actrec.recordings.base import existing, log
from actrec.recordings.rosbag.reader import unpacked
from actrec.recordings.rosbag.writer import METADATA_VERSION
from actrec.utils.errors import DeviceError, InputError

MAGIC = b"\x89MCAP0\r\n"

_NOTHING, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x00, 0x03, 0x04, 0x05, 0x06, 0x0F


@dataclass(frozen=True)
class _Channel:
    topic: str
    msgtype: str
    definition: str
    qos: str


def recover(path: str | Path, out: str | Path) -> dict[str, int]:
    """Copies every whole message of an unfinished mcap to a new, finished bag.

    Args:
        path: The `.mcap`, or the folder that holds it.
        out: Folder of the new bag; must not exist.

    Returns:
        Messages saved, by topic.

    Raises:
        DeviceError: There is no such file, or `out` exists.
        InputError: It is no mcap, or holds no message.
    """
    file = _file(Path(path).expanduser())
    found = read_messages(file)
    first = next(found, None)
    if first is None:
        raise InputError(f"'{file}' holds no whole message: nothing can be saved")
    counts: dict[str, int] = {}
    connections: dict[_Channel, Any] = {}
    try:
        with Writer(Path(out).expanduser(), version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
            for channel, stamp, raw in itertools.chain([first], found):  # one by one: a bag is larger than the memory
                if channel not in connections:
                    connections[channel] = _add(writer, channel)
                if connections[channel] is None:
                    continue
                writer.write(connections[channel], stamp, raw)
                counts[channel.topic] = counts.get(channel.topic, 0) + 1
    except WriterError as error:
        raise DeviceError(f"cannot write the bag '{out}': {error}") from error
    except OSError as error:
        raise DeviceError(f"cannot write the bag '{out}': {error.strerror}") from error
    return counts


def read_messages(file: Path) -> Iterator[tuple[_Channel, int, bytes]]:
    """(channel, log time in nanoseconds, serialized message) of each whole message, in file order."""
    schemas: dict[int, tuple[str, str]] = {}
    channels: dict[int, _Channel] = {}
    for kind, body in _file_records(file):
        try:
            if kind == _SCHEMA:
                number, name, _, text = _schema(body)
                schemas[number] = name, text
            elif kind == _CHANNEL:
                number, schema, topic, qos = _channel(body)
                name, text = schemas[schema]
                channels[number] = _Channel(topic, name, text, qos)
            elif kind == _MESSAGE:
                number, _, stamp, _ = struct.unpack_from("<HIQQ", body)
                message = channels[number], stamp, unpacked(body[22:])
        except (KeyError, struct.error, UnicodeDecodeError, zstd.ZstdError):
            continue  # damaged, or of what a damaged one declared
        if kind == _MESSAGE:
            yield message


def _file(path: Path) -> Path:
    path = existing(path)
    files = sorted(path.glob("*.mcap")) if path.is_dir() else [path]
    if len(files) != 1:
        raise DeviceError(f"'{path}' holds {len(files)} .mcap files, expected one; name the file itself")
    return files[0]


def _file_records(file: Path) -> Iterator[tuple[int, bytes]]:
    """Records of the data section, those inside chunks too, up to where the file ends or stops making sense."""
    end = file.stat().st_size
    with file.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise InputError(f"'{file}' is no mcap file")
        while len(head := stream.read(9)) == 9:
            kind, size = struct.unpack("<BQ", head)
            body = stream.read(min(size, end - stream.tell()))  # a size that is damaged may be any
            if kind == _CHUNK:
                yield from _records(_chunk(file, body, size))
            elif kind in (_NOTHING, _DATA_END) or len(body) < size:
                return
            else:
                yield kind, body


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 9 <= len(data):
        kind, size = struct.unpack_from("<BQ", data, at)
        body = data[at + 9 : at + 9 + size]
        if kind == _NOTHING or len(body) < size:
            return
        yield kind, body
        at += 9 + size


def _chunk(file: Path, body: bytes, size: int) -> bytes:
    """The records of a chunk; none of one that is damaged."""
    try:
        return _unpacked(file, body, size)
    except InputError:
        raise
    except Exception as error:  # zstd, lz4 and struct each raise their own
        log.warning("'%s': a damaged chunk is left out (%s)", file, " ".join(str(error).split()))
        return b""


def _unpacked(file: Path, body: bytes, size: int) -> bytes:
    """The records of a chunk; of a chunk cut off, those that are there if it is not compressed."""
    if len(body) < 32:
        return b""
    compression, at = _text(body, 28)
    data = body[at + 8 :]
    if not compression:
        return data
    if len(body) < size:
        return b""
    if compression == "zstd":
        return bytes(zstd.decompress(data))
    if compression == "lz4":
        from lz4.frame import decompress  # type: ignore[import-untyped]

        return bytes(decompress(data))
    raise InputError(f"'{file}' is compressed with '{compression}', which is not supported; known: zstd, lz4")


def _text(body: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from("<I", body, at)
    return body[at + 4 : at + 4 + size].decode(), at + 4 + size


def _schema(body: bytes) -> tuple[int, str, str, str]:
    (number,) = struct.unpack_from("<H", body)
    name, at = _text(body, 2)
    encoding, at = _text(body, at)
    text, _ = _text(body, at)
    return number, name, encoding, text


def _channel(body: bytes) -> tuple[int, int, str, str]:
    number, schema = struct.unpack_from("<HH", body)
    topic, at = _text(body, 4)
    _, at = _text(body, at)
    (size,) = struct.unpack_from("<I", body, at)
    at, end, metadata = at + 4, at + 4 + size, {}
    while at < end:
        key, at = _text(body, at)
        metadata[key], at = _text(body, at)
    return number, schema, topic, metadata.get("offered_qos_profiles", "")


def _add(writer: Writer, channel: _Channel) -> Any:
    """The connection; None where what the bag says of the type is no message definition, as of IDL or JSON."""
    store = get_typestore(Stores.EMPTY)
    try:
        store.register(get_types_from_msg(channel.definition, channel.msgtype))
        return writer.add_connection(
            channel.topic, channel.msgtype, typestore=store, offered_qos_profiles=parse_qos(channel.qos)
        )
    except TypesysError:
        log.warning("%s (%s) is left out: its definition in the bag cannot be read", channel.topic, channel.msgtype)
        return None
