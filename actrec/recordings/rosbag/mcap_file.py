"""Reading of mcap files by the specification: by their index, or by a scan if unfinished or damaged.

The package `mcap` is not used: it returns a truncated last message as a complete one, and loses all messages of a
chunk with an error. `rosbags` refuses a file with a channel of another system.
"""

import heapq
import struct
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, NamedTuple

import lz4.frame  # type: ignore[import-untyped]
from rosbags.rosbag2.storage_mcap import zstd

from actrec.recordings import log
from actrec.utils.errors import InputError

_MAGIC = b"\x89MCAP0\r\n"
_PADDING, _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX, _CHUNK_INDEX = 0, 2, 3, 4, 5, 6, 7, 8
_LEAST = 22  # bytes of a message's record; a shorter one is damaged
_STATISTICS, _DATA_END = 0x0B, 0x0F
_FOOTER_SIZE = 37  # with the magic bytes

_ROS_LANGUAGES = ("", "ros2msg", "ros2idl", "omgidl")

_DECOMPRESSORS = {"zstd": zstd.ZstdDecompressor, "lz4": lz4.frame.LZ4FrameDecompressor}
_MAX_BYTES = 1 << 29  # of a chunk or message; 16 KB of zstd may hold as many, but no recorder writes them

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
        salvage: Read as much as possible of a damaged file: ignore checksums, skip damaged chunks with a warning.

    Attributes:
        path: Path in messages.
        channels: Channels by id, with their number of messages.
        start, end: Log time of the first and of the last message, ns; 0 without messages.
        lost: Reason why the end of the file cannot be read; empty for a finished file.

    Raises:
        InputError: It is no mcap file.
    """

    def __init__(self, path: Path, name: Path | None = None, salvage: bool = False):
        self.path, self.lost, self._salvage = name or path, "", salvage
        self.channels: dict[int, Channel] = {}
        self._schemas: dict[int, tuple[str, str, bytes]] = {}
        self._counts: Counter[int] = Counter()
        self._chunks: list[tuple[int, int, int, int]] = []  # start, end, offset and size of its body
        self._held: dict[int, set[int]] = {}  # offset of a chunk to its channels, where the index lists them
        self._single: list[tuple[int, int, int, int]] = []  # time, channel, offset and size of a message in no chunk
        self._stream = path.open("rb")
        try:
            self._size = path.stat().st_size
            check_start(self.path, self._stream, _MAGIC, "mcap")
            if salvage or not self._read_index():
                self._scan()
        except BaseException:
            self.close()
            raise
        self.channels = {k: c._replace(msgcount=self._counts[k]) for k, c in self.channels.items()}
        # Other chunks hold definitions only, unless their times are damaged.
        self._chunks = [chunk for chunk in self._chunks if chunk[0] <= chunk[1] or salvage]
        self.start = min((times[0] for times in (*self._chunks, *self._single)), default=0)
        self.end = max([*(times[1] for times in self._chunks), *(times[0] for times in self._single)], default=0)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._stream.close()

    def messages(self, channels: Iterable[int], start: int | None = None) -> Iterator[tuple[int, int, bytes]]:
        """Yield (log time in ns, channel, message) of these channels in order of log time, from `start` on."""
        wanted, first = set(channels), -1 if start is None else start
        chunks = (
            self._chunk_messages(chunk, wanted, first)
            for chunk in self._chunks
            if chunk[1] >= first and wanted & self._held.get(chunk[2], wanted)
        )
        single = sorted(message for message in self._single if message[1] in wanted and message[0] >= first)
        return in_time_order([*chunks, ((m[0], m[1], self._read(m[2], m[3])) for m in single)])

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
        for kind, body in _records(self._read(start, end - start)):
            if kind == _CHUNK_INDEX:
                first, last, offset, length = struct.unpack_from("<4Q", body)
                self._chunks.append((first, last, offset + 9, length - 9))
                size = int.from_bytes(body[32:36], "little")  # of the channels, each with the offset of its index
                if size and size % 10 == 0 and len(listed := body[36 : 36 + size]) == size:
                    self._held[offset + 9] = {channel for channel, _ in struct.iter_unpack("<HQ", listed)}
            elif kind == _STATISTICS:
                total, size = struct.unpack_from("<Q34xI", body)
                self._counts = Counter(dict(struct.iter_unpack("<HQ", body[46 : 46 + size])))
            else:
                self._define(kind, body)
        if total is not None and self._counts.total() == total and (self._chunks or not total):
            return all(channel in self.channels for channel, count in self._counts.items() if count)
        return False

    def _scan(self) -> None:
        """Find channels, chunks and messages from the start of the file to its end or its first damage."""
        self._chunks, self._held, self._counts = [], {}, Counter()
        counts: dict[int, Counter[int]] = defaultdict(Counter)  # of each chunk, by the message indexes after it
        at, kind = len(_MAGIC), _PADDING
        while len(head := self._read(at, 9)) == 9:
            kind, size = struct.unpack("<BQ", head)
            at += 9
            if kind == _CHUNK:
                start, end = struct.unpack("<QQ", self._read(at, 16).ljust(16, b"\0"))
                self._chunks.append((start, end, at, size))
            if kind in (_PADDING, _DATA_END, _FOOTER) or at + size > self._size:
                break
            if kind == _MESSAGE_INDEX and size >= 6:
                channel, length = struct.unpack("<HI", self._read(at, 6))
                counts[len(self._chunks) - 1][channel] += length // 16
            elif kind == _MESSAGE and size >= _LEAST:
                channel, _, time, _ = struct.unpack("<HIQQ", self._read(at, 22))
                self._single.append((time, channel, at + 22, size - 22))
                self._counts[channel] += 1
            elif kind in (_SCHEMA, _CHANNEL):
                self._define(kind, self._read(at, size))
            at += size
        for number, (_, _, offset, size) in enumerate(self._chunks):
            if not self._salvage and counts[number] and counts[number].keys() <= self.channels.keys():
                self._counts += counts[number]
                continue
            with suppress(ValueError) if self._salvage else nullcontext():  # there is a warning when it is read
                for kind_inside, body in _records(self._chunk(offset, size)):
                    if kind_inside == _MESSAGE and (len(body) >= _LEAST or not self._salvage):
                        self._counts[struct.unpack_from("<H", body)[0]] += 1
                    else:
                        self._define(kind_inside, body)
        if kind not in (_DATA_END, _FOOTER):
            self.lost = f"it ends without an index, after {self._counts.total()} whole messages"

    def _chunk_messages(self, chunk: tuple[int, int, int, int], wanted: set[int], first: int) -> Iterator[Any]:
        yield chunk[0], None, None
        found = []
        try:
            for kind, body in _records(self._chunk(*chunk[2:])):
                if kind == _MESSAGE and (len(body) >= _LEAST or not self._salvage):
                    channel, _, time, _ = struct.unpack_from("<HIQQ", body)
                    if channel in wanted and time >= first:
                        found.append((time, channel, bytes(body[22:])))
        except ValueError as error:
            if not self._salvage:
                raise
            log.warning("'%s': skipping %s", self.path, error)
        yield from sorted(found, key=itemgetter(0))

    def _chunk(self, offset: int, size: int) -> bytes | memoryview:
        """Return the decompressed records of a chunk; of a truncated one the rest, or nothing if it is compressed.

        Raise ValueError if it is damaged, InputError if the compression is unknown.
        """
        body = memoryview(self._read(offset, size))
        whole = len(body) == size
        try:
            (crc,), ((name,), at) = struct.unpack_from("<I", body, 24), _strings(body, 28, 1)
            compression = name.decode()
            data: bytes | memoryview = body[at + 8 :]
            if compression in _DECOMPRESSORS:
                data = _decompress(compression, data) if whole else data[:0]
            if whole and crc and zlib.crc32(data) != crc and not self._salvage:  # one byte would lose all messages
                raise ValueError("its checksum differs")
        except Exception as error:  # zstd, lz4 and struct raise various errors
            if not whole:
                return b""
            raise ValueError(f"damaged chunk: {' '.join(str(error).split())}") from error
        if compression and compression not in _DECOMPRESSORS:
            raise InputError(
                f"'{self.path}' is compressed with {compression[:20]!r}, which is not supported; known: zstd, lz4"
            )
        return data

    def _define(self, kind: int, body: bytes | memoryview) -> None:
        """Add the schema or channel of a record."""
        with suppress(KeyError, UnicodeDecodeError, struct.error) if self._salvage else nullcontext():
            if kind == _SCHEMA:
                (number,) = struct.unpack_from("<H", body)
                (name, language, text), _ = _strings(body, 2, 3)
                self._schemas[number] = name.decode(), language.decode(), text
            elif kind == _CHANNEL:
                number, schema = struct.unpack_from("<HH", body)
                (topic, coding), at = _strings(body, 4, 2)
                (size,) = struct.unpack_from("<I", body, at)
                metadata, at, end = {}, at + 4, at + 4 + size
                while at < end:
                    (key, value), at = _strings(body, at, 2)
                    metadata[key] = value.decode()
                msgtype, style, definition = self._schemas[schema] if schema else ("", "", b"")
                defined = definition.decode("utf-8" if style in _ROS_LANGUAGES else "latin-1")
                qos = metadata.get(b"offered_qos_profiles", "")
                self.channels[number] = Channel(topic.decode(), msgtype, defined, qos, coding.decode(), style)


def in_time_order(sources: Iterable[Iterator[Any]]) -> Iterator[Any]:
    """Merge sources of (time, channel, message) in order of time.

    A source may start with its first time and twice None: it is read on when that time is due, so that only overlapping
    ones are in memory.
    """
    return (message for message in heapq.merge(*sources, key=itemgetter(0)) if message[2] is not None)


def check_start(path: Path, stream: IO[bytes], magic: bytes, kind: str) -> None:
    """Raise InputError if an open file does not start with the bytes of its kind."""
    start = stream.read(len(magic))
    if start != magic:
        cause = f"it starts with {start!r}" if start else "it is empty"
        raise InputError(f"'{path}' is not an {kind} file: {cause}; copy it again")


def decompress(raw: bytes) -> bytes:
    """Return a message, decompressed if it is compressed by zstd or lz4.

    The data is inspected, since only metadata.yaml states this compression and a file may be read without it.
    """
    method = _COMPRESSED.get(raw[:4])
    return _decompress(method, raw) if method else raw


def _decompress(method: str, data: bytes | memoryview) -> bytes:
    """Decompress the frames in `data`; raise ValueError if they are truncated or have too many bytes."""
    parts: list[bytes] = []
    left = _MAX_BYTES
    while data:
        decompressor = _DECOMPRESSORS[method]()
        parts.append(decompressor.decompress(data, max_length=left + 1))
        left -= len(parts[-1])
        if left < 0:
            raise ValueError(f"it has more than {_MAX_BYTES} bytes when decompressed")
        if not decompressor.eof:
            raise ValueError("it is truncated")
        data = decompressor.unused_data or b""
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _records(data: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (opcode, body) of successive records, up to a truncated one."""
    view, at = memoryview(data), 0
    while at + 9 <= len(view):
        kind, size = struct.unpack_from("<BQ", view, at)
        body = view[at + 9 : at + 9 + size]
        if kind == _PADDING or len(body) < size:
            return
        yield kind, body
        at += 9 + size


def _strings(body: bytes | memoryview, at: int, count: int) -> tuple[list[bytes], int]:
    """Return `count` successive length-prefixed strings from offset `at`, and the offset after them."""
    found = []
    for _ in range(count):
        (size,) = struct.unpack_from("<I", body, at)
        found.append(bytes(body[at + 4 : at + 4 + size]))
        at += 4 + size
    return found, at
