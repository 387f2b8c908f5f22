"""Reading of mcap files by the specification: by their index, by a scan if unfinished, or record by record.

`mcap.stream_reader` is not used: it returns a truncated last message as a complete one, and loses all messages of a
chunk with an error. `rosbags` refuses a file with a channel of another system.
"""

import heapq
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, NamedTuple

from rosbags.rosbag2.storage_mcap import zstd

from actrec.recordings import log
from actrec.utils.errors import InputError

Message = tuple[int, int, bytes]
"""Log time in ns, channel id, serialized message."""

_MAGIC = b"\x89MCAP0\r\n"
_PADDING, _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX, _CHUNK_INDEX = 0, 2, 3, 4, 5, 6, 7, 8
_STATISTICS, _DATA_END = 0x0B, 0x0F
_FOOTER_SIZE = 37  # with the magic bytes

_ROS_LANGUAGES = ("", "ros2msg", "ros2idl", "omgidl")

_COMPRESSED = {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
"""Start of compressed data; a serialized message starts with 0."""


class Channel(NamedTuple):
    """A topic of a file of a bag.

    Attributes:
        definition: Text of the message definition; Latin-1 if not of ROS; empty if the file has none.
        qos: Offered QoS profiles, as YAML.
        encoding: Of the messages; "cdr" in ROS 2.
        language: Of the definition; "ros2msg" or an IDL in ROS 2, empty for no definition.
        msgcount: Number of messages.
    """

    topic: str
    msgtype: str
    definition: str
    qos: str
    encoding: str = "cdr"
    language: str = "ros2msg"
    msgcount: int = 0

    @property
    def foreign(self) -> bool:
        """Whether the messages are not of ROS 2."""
        return self.encoding != "cdr" or self.language not in _ROS_LANGUAGES or not self.msgtype

    def __str__(self) -> str:
        kind = f"{self.msgtype or 'no type'}, {self.encoding}" if self.foreign else self.msgtype
        return f"{self.topic} ({kind})"


class McapFile:
    """An open mcap file.

    Args:
        path: The file.
        name: Its path in error messages, if the file is a copy.

    Attributes:
        file, path: The file, and its path in messages.
        channels: Channels by id, with their number of messages.
        start, end: Log time of the first and of the last message, ns; 0 without messages.
        lost: Reason why the end of the file cannot be read; empty for a finished file.

    Raises:
        InputError: It is no mcap file.
    """

    def __init__(self, path: Path, name: Path | None = None):
        self.file, self.path, self.lost = path, name or path, ""
        self.channels: dict[int, Channel] = {}
        self._schemas: dict[int, tuple[str, str, bytes]] = {}
        self._counts: dict[int, int] = {}
        self._chunks: list[tuple[int, int, int, int]] = []  # start, end, offset and size of its body
        self._single: list[tuple[int, int, int, int]] = []  # time, channel, offset and size of a message in no chunk
        self._stream = path.open("rb")
        try:
            self._size = path.stat().st_size
            check_magic(self.path, self._stream)
            if not self._read_index():
                self._scan()
        except BaseException:
            self.close()
            raise
        self.channels = {k: c._replace(msgcount=self._counts.get(k, 0)) for k, c in self.channels.items()}
        self._chunks = [chunk for chunk in self._chunks if chunk[0] <= chunk[1]]  # others hold definitions only
        self.start = min((times[0] for times in (*self._chunks, *self._single)), default=0)
        self.end = max([*(times[1] for times in self._chunks), *(times[0] for times in self._single)], default=0)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._stream.close()

    def messages(self, channels: Iterable[int], start: int | None = None) -> Iterator[Message]:
        """Yield the messages of these channels in order of log time, from `start` on."""
        wanted, first = set(channels), -1 if start is None else start
        sources: list[tuple[int, Callable[[], Iterable[Message]]]] = [
            (begin, partial(self._chunk_messages, offset, size, wanted, first))
            for begin, end, offset, size in self._chunks
            if end >= first
        ]
        single = sorted(message for message in self._single if message[1] in wanted and message[0] >= first)
        if single:
            sources.append((single[0][0], lambda: ((m[0], m[1], self._read(m[2], m[3])) for m in single)))
        return in_time_order(sources)

    def _read(self, offset: int, size: int) -> bytes:
        self._stream.seek(offset)
        return self._stream.read(min(size, self._size - offset))  # a damaged size may have any value

    def _read_index(self) -> bool:
        """Read the summary section; return False if there is none or it is incomplete."""
        end = self._size - _FOOTER_SIZE
        if end < len(_MAGIC):
            return False
        footer = self._read(end, _FOOTER_SIZE)
        (start,) = struct.unpack_from("<Q", footer, 9)
        if footer[:9] != struct.pack("<BQ", _FOOTER, 20) or footer[-8:] != _MAGIC or not 0 < start < end:
            return False
        total = None
        for kind, body, _ in _records(BytesIO(self._read(start, end - start)), end - start):
            if kind == _CHUNK_INDEX:
                first, last, offset, length = struct.unpack_from("<4Q", body)
                self._chunks.append((first, last, offset + 9, length - 9))
            elif kind == _STATISTICS:
                total, size = struct.unpack_from("<Q34xI", body)
                self._counts = dict(struct.iter_unpack("<HQ", body[46 : 46 + size]))
            else:
                self._define(kind, body)
        if total is not None and sum(self._counts.values()) == total and (self._chunks or not total):
            return all(channel in self.channels for channel, count in self._counts.items() if count)
        return False

    def _scan(self) -> None:
        """Find channels, chunks and messages from the start of the file to its end or its first damage."""
        self._counts, self._chunks = {}, []
        chunk: tuple[int, int] | None = None  # the last record, if it is a chunk with or without its message indexes
        counted, at = False, len(_MAGIC)
        while len(head := self._read(at, 9)) == 9:
            kind, size = struct.unpack("<BQ", head)
            at += 9
            whole = at + size <= self._size
            if kind == _MESSAGE_INDEX and whole and chunk:
                counted = True
                channel, length = struct.unpack("<HI", self._read(at, 6))
                if channel not in self.channels:
                    self._scan_chunk(*chunk, count=False)
                self._counts[channel] = self._counts.get(channel, 0) + length // 16
                at += size
                continue
            if chunk and not counted:
                self._scan_chunk(*chunk, count=True)
            chunk = None
            if kind in (_DATA_END, _FOOTER):
                return
            if kind == _CHUNK:
                chunk, counted = (at, size), False
                start, end = struct.unpack("<QQ", self._read(at, 16).ljust(16, b"\0"))
                self._chunks.append((start, end, *chunk))
            elif kind == _MESSAGE and whole:
                channel, _, time, _ = struct.unpack("<HIQQ", self._read(at, 22))
                self._single.append((time, channel, at + 22, size - 22))
                self._counts[channel] = self._counts.get(channel, 0) + 1
            elif whole:
                self._define(kind, self._read(at, size) if kind in (_SCHEMA, _CHANNEL) else b"")
            if kind == _PADDING or not whole:
                break
            at += size
        if chunk and not counted:
            self._scan_chunk(*chunk, count=True)
        self.lost = f"it ends without an index, after {sum(self._counts.values())} whole messages"

    def _scan_chunk(self, offset: int, size: int, count: bool) -> None:
        for kind, body, whole in _records(BytesIO(data := self._chunk(offset, size)), len(data)):
            if whole and kind == _MESSAGE and count:
                (channel,) = struct.unpack_from("<H", body)
                self._counts[channel] = self._counts.get(channel, 0) + 1
            elif whole:
                self._define(kind, body)

    def _chunk(self, offset: int, size: int) -> bytes | memoryview:
        body = memoryview(self._read(offset, size))
        data = _chunk_records(self.path, body, whole=len(body) == size)
        if len(body) == size and (crc := struct.unpack_from("<I", body, 24)[0]) and zlib.crc32(data) != crc:
            raise ValueError("damaged chunk: its checksum differs")
        return data

    def _chunk_messages(self, offset: int, size: int, wanted: set[int], start: int) -> list[Message]:
        data = memoryview(self._chunk(offset, size))
        found, at = [], 0
        while at + 9 <= len(data):
            kind, length = struct.unpack_from("<BQ", data, at)
            at += 9
            if at + length > len(data):
                break
            if kind == _MESSAGE:
                channel, _, time, _ = struct.unpack_from("<HIQQ", data, at)
                if channel in wanted and time >= start:
                    found.append((time, channel, bytes(data[at + 22 : at + length])))
            at += length
        return sorted(found, key=lambda message: message[0])

    def _define(self, kind: int, body: bytes) -> None:
        define(kind, body, self._schemas, self.channels)


def in_time_order(sources: Iterable[tuple[int, Callable[[], Iterable[Message]]]]) -> Iterator[Message]:
    """Merge sources of messages in order of time; each is (time of its first message, function that opens it).

    A source is opened when its first message is due, so that only overlapping ones are in memory.
    """
    waiting = sorted(enumerate(sources), key=lambda source: source[1][0], reverse=True)
    open_: list[tuple[int, int, Message, Iterator[Message]]] = []
    while waiting or open_:
        while waiting and (not open_ or waiting[-1][1][0] <= open_[0][0]):
            number, (_, source) = waiting.pop()
            messages = iter(source())
            if (message := next(messages, None)) is not None:
                heapq.heappush(open_, (message[0], number, message, messages))
        if open_:
            _, number, message, messages = open_[0]
            yield message
            if (following := next(messages, None)) is not None:
                heapq.heapreplace(open_, (following[0], number, following, messages))
            else:
                heapq.heappop(open_)


def check_magic(path: Path, stream: IO[bytes]) -> None:
    """Raise InputError if an open file does not start as an mcap file."""
    start = stream.read(len(_MAGIC))
    if start != _MAGIC:
        cause = "it is empty" if not start else f"it starts with {start!r}"
        raise InputError(f"'{path}' is not an mcap file: {cause}; copy it again")


def define(kind: int, body: bytes, schemas: dict[int, tuple[str, str, bytes]], channels: dict[int, Channel]) -> None:
    """Add the schema or channel of a record to these dictionaries."""
    if kind == _SCHEMA:
        (number,) = struct.unpack_from("<H", body)
        (name, language, text), _ = _strings(body, 2, 3)
        schemas[number] = name.decode(), language.decode(), text
    elif kind == _CHANNEL:
        number, schema = struct.unpack_from("<HH", body)
        (topic, coding), at = _strings(body, 4, 2)
        (size,) = struct.unpack_from("<I", body, at)
        metadata, at, end = {}, at + 4, at + 4 + size
        while at < end:
            (key, value), at = _strings(body, at, 2)
            metadata[key] = value.decode()
        schema_name, style, definition = schemas[schema] if schema else ("", "", b"")
        defined = definition.decode("utf-8" if style in _ROS_LANGUAGES else "latin-1")
        qos = metadata.get(b"offered_qos_profiles", "")
        channels[number] = Channel(topic.decode(), schema_name, defined, qos, coding.decode(), style)


def decompress(raw: bytes) -> bytes:
    """Return data (a message, a file), decompressed if it is compressed by zstd or lz4.

    The data is inspected, since only metadata.yaml states this compression and a file may be read without it.
    """
    method = _COMPRESSED.get(bytes(raw[:4]))
    return _decompress(method, raw) if method else raw


def _decompress(method: str, data: bytes | memoryview) -> bytes:
    if method == "zstd":
        return bytes(zstd.decompress(data))
    from lz4.frame import decompress  # type: ignore[import-untyped]

    return bytes(decompress(data))


def read_messages(file: Path) -> Iterator[tuple[Channel, int, bytes]]:
    """Yield (channel, log time in ns, serialized message) of each whole message of an mcap, in file order.

    Damaged records and chunks are skipped.
    """
    schemas: dict[int, tuple[str, str, bytes]] = {}
    channels: dict[int, Channel] = {}
    for kind, body in _file_records(file):
        try:
            define(kind, body, schemas, channels)
            if kind == _MESSAGE:
                number, _, stamp, _ = struct.unpack_from("<HIQQ", body)
                message = channels[number], stamp, decompress(body[22:])
        except (KeyError, struct.error, UnicodeDecodeError, zstd.ZstdError):
            continue  # damaged, or of a damaged schema or channel
        if kind == _MESSAGE:
            yield message


def _file_records(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the records of the data section, also from inside chunks, until the file ends or is damaged."""
    with file.open("rb") as stream:
        check_magic(file, stream)
        for kind, body, whole in _records(stream, file.stat().st_size):
            if kind == _CHUNK:
                try:
                    data = _chunk_records(file, body, whole)
                except ValueError as error:
                    log.warning("'%s': skipping a damaged chunk (%s)", file, error)
                    continue
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


def _chunk_records(file: Path, body: bytes | memoryview, whole: bool) -> bytes | memoryview:
    """Return the decompressed records of a chunk; empty if it is compressed and truncated.

    Raises:
        ValueError: It is damaged.
        InputError: The compression is unknown.
    """
    try:
        (name,), at = _strings(body, 28, 1)
        compression, data = name.decode(), body[at + 8 :]
        if compression in ("", *_COMPRESSED.values()):
            if not compression:
                return data
            return _decompress(compression, data) if whole else b""
    except Exception as error:  # zstd, lz4 and struct raise various errors
        if not whole:
            return b""
        raise ValueError(f"damaged chunk: {' '.join(str(error).split())}") from error
    raise InputError(f"'{file}' is compressed with '{compression}', which is not supported; known: zstd, lz4")


def _strings(body: bytes | memoryview, at: int, count: int) -> tuple[list[bytes], int]:
    """Return `count` successive length-prefixed strings from offset `at`, and the offset after them."""
    found = []
    for _ in range(count):
        (size,) = struct.unpack_from("<I", body, at)
        found.append(bytes(body[at + 4 : at + 4 + size]))
        at += 4 + size
    return found, at
