"""The files of a bag: found with or without metadata.yaml, opened, read together in order of time, and recovered."""

import itertools
import re
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import lz4.frame  # type: ignore[import-untyped]
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.rosbag2.metadata import parse_qos
from rosbags.rosbag2.storage_mcap import zstd
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

from actrec.recordings import BAG_SUFFIXES, PACKED_SUFFIXES, existing_path, log
from actrec.recordings.rosbag import foxglove
from actrec.recordings.rosbag.bag_writer import METADATA_VERSION, typestore_with
from actrec.recordings.rosbag.mcap_file import Channel, McapFile, check_start, decompress, in_time_order
from actrec.utils import config
from actrec.utils.errors import DeviceError, InputError
from actrec.utils.folders import expanded, read_file

_PART = re.compile(r"(.+)_(\d+)(\.\w+)")  # file name of a part of a recording that rosbag2 has split
_SQLITE = b"SQLite format 3\0"
_MAX_METADATA_BYTES = 1 << 22  # of thousands of files
_MOST_TIMES, _LEAST_BYTES, _BLOCK = 200, 1 << 28, 1 << 16
"""Largest size of an unpacked file, in times of the packed one, and that any may have: others fill the disk."""


class Bag(AbstractContextManager["Bag", None]):
    """An open bag: one file, or a folder with one recording in one or several files; a context manager.

    Topics that are not of ROS 2, and missing or damaged files, are skipped and listed in `notes`.

    Args:
        path: The file or folder.
        salvage: Also skip damaged content in the middle of a file, with a warning.

    Attributes:
        connections: Topics of ROS 2 messages, with their number of messages.
        foreign: Topics of other systems.
        notes: Lines about skipped content.
        duration: Time from the first message to the last, ns.
        is_lost: Whether a file is damaged or not finished.

    Raises:
        InputError: A file is no bag, or the folder holds none or several recordings.
    """

    def __init__(self, path: Path, salvage: bool = False):
        self._stack, self._salvage = ExitStack(), salvage
        self._files: list[Any] = []
        self._convert: dict[tuple[Any, int], Callable[[bytes], bytes]] = {}
        self._channels: dict[tuple[str, str], Channel] = {}
        try:
            found, self.notes = bag_files(path)
            for file in found:
                try:
                    self._files.append(self._stack.enter_context(_opened(file, salvage)))
                except (InputError, sqlite3.DatabaseError) as error:
                    if len(found) == 1:
                        raise
                    self.notes.append(f"skipping '{file.name}': {error}")
            self._files.sort(key=lambda file: int(file.start))
            for file in self._files:
                self._add_channels(file)
        except BaseException:
            self.close()
            raise
        self.connections = [channel for channel in self._channels.values() if not channel.foreign]
        self.foreign = [channel for channel in self._channels.values() if channel.foreign]
        spans = [(f.start, f.end) for f in self._files if any(c.msgcount for c in f.channels.values())]
        self.duration = max(end for _, end in spans) - min(start for start, _ in spans) if spans else 0
        self.is_lost = len(found) > len(self._files) or any(file.lost for file in self._files)
        for file in () if salvage else self._files:
            if file.lost:
                self.notes.append(
                    f"'{file.path.name}' is damaged or not finished ({file.lost}): playing its whole messages; "
                    f"finish it with `actrec record --recover '{path}' --out NEW`"
                )
        if self.foreign:
            listed = ", ".join(map(str, self.foreign))
            self.notes.append(f"skipping topics whose messages are not of ROS 2: {listed}")

    def __exit__(self, *_: object) -> None:
        self.close()

    def messages(
        self, topics: Sequence[str] | None = None, start: int | None = None
    ) -> Iterator[tuple[Channel, int, bytes]]:
        """Yield (channel, log time, serialized message) of these topics, in order of log time, from `start` on.

        `topics` None yields all in `connections`.
        """
        sources = []
        for file in self._files:
            wanted = {
                key: self._channels[channel.topic, channel.msgtype]
                for key, channel in file.channels.items()
                if not channel.foreign and (topics is None or channel.topic in topics)
            }
            if wanted and (start is None or file.end >= start):
                sources.append(self._file_messages(file, wanted, start))
        return ((channel, time, raw) for time, channel, raw in in_time_order(sources))

    def close(self) -> None:
        """Close the files; safe to call twice."""
        self._stack.close()

    def _add_channels(self, file: Any) -> None:
        """Add the channels of a file; Foxglove's schemas are converted to ROS messages."""
        for key, channel in file.channels.items():
            if converter := foxglove.converter(channel):
                kind, self._convert[file, key] = converter
                channel = channel._replace(msgtype=kind, definition="", encoding="cdr", language="")
                file.channels[key] = channel
            known = self._channels.get((channel.topic, channel.msgtype))
            count = channel.msgcount + (known.msgcount if known else 0)
            self._channels[channel.topic, channel.msgtype] = (known or channel)._replace(msgcount=count)

    def _file_messages(self, file: Any, wanted: dict[int, Channel], start: int | None) -> Iterator[Any]:
        yield file.start, None, None  # see `in_time_order`
        for time, key, raw in file.messages(wanted, start):
            try:
                content = self._convert.get((file, key), bytes)(decompress(raw))
            except Exception as error:  # zstd, lz4 and rosbags raise various errors
                if not self._salvage:
                    raise
                log.warning("'%s': skipping a damaged message on %s: %s", file.path, wanted[key].topic, error)
                continue
            yield time, wanted[key], content


class Sqlite3File:
    """An open sqlite3 file of a bag, with its write-ahead log or journal; arguments and attributes as `McapFile`."""

    def __init__(self, path: Path, name: Path | None = None, salvage: bool = False):
        self.path, self.lost, self._salvage = name or path, "", salvage
        self._stack = ExitStack()
        try:
            self._database = self._open(path)
            self.channels = self._channels()
            counts = self._counts()
        except BaseException:
            self.close()
            raise
        self.start = min((first for _, _, first, _ in counts), default=0)
        self.end = max((last for _, _, _, last in counts), default=0)
        for key, count, _, _ in counts:
            self.channels[key] = self.channels[key]._replace(msgcount=count)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._stack.close()

    def messages(self, channels: Iterable[int], start: int | None = None) -> Iterator[tuple[int, int, bytes]]:
        """Yield (log time in ns, channel, message) of these channels in order of log time, from `start` on."""
        wanted, first = list(channels), -1 if start is None else start
        query = "SELECT timestamp, topic_id, data FROM messages"
        if self.lost or self._salvage:  # the index may be lost too; Python loses the last row before the damage
            try:
                for row in self._database.execute(f"{query} NOT INDEXED ORDER BY id"):
                    if row[1] in wanted and row[0] >= first:
                        yield row
            except sqlite3.DatabaseError as error:
                if self._salvage:
                    log.warning("'%s': skipping the rest of this file: %s", self.path, error)
            return
        where = f"topic_id IN ({','.join('?' * len(wanted))}) AND timestamp >= ?"
        yield from self._database.execute(f"{query} WHERE {where} ORDER BY timestamp, id", (*wanted, first))

    def _open(self, path: Path) -> sqlite3.Connection:
        with path.open("rb") as stream:
            check_start(self.path, stream, _SQLITE, "sqlite3")
        logs = [path.with_name(f"{path.name}-{end}") for end in ("wal", "journal")]
        logs = [file for file in logs if file.is_file() and file.stat().st_size]
        if logs:
            with suppress(sqlite3.OperationalError):
                return self._connect(path, "mode=ro")
            # Its folder cannot be written to, or the journal must be undone; the recording stays as it is.
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="actrec_bag_")))
            for file in (path, *logs):
                shutil.copy(file, folder / file.name)
            return self._connect(folder / path.name, "mode=rw")
        return self._connect(path, "immutable=1")

    def _connect(self, path: Path, options: str) -> sqlite3.Connection:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True, check_same_thread=False)
        self._stack.callback(database.close)
        database.execute("PRAGMA writable_schema=ON")  # otherwise sqlite3 refuses a truncated file
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return database

    def _channels(self) -> dict[int, Channel]:
        """Return the channels by id; the oldest bags store neither QoS nor definitions."""
        columns = [row[1] for row in self._database.execute("PRAGMA table_info(topics)")]
        definitions: dict[str, tuple[str, str]] = {}
        if list(self._database.execute("PRAGMA table_info(message_definitions)")):
            query = "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            definitions = {name: (language, text) for name, language, text in self._database.execute(query)}
        qos = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"
        rows = self._database.execute(f"SELECT id, name, type, serialization_format, {qos} FROM topics")
        channels = {}
        for key, name, kind, encoding, profiles in rows:
            language, text = definitions.get(kind, ("", ""))
            channels[key] = Channel(name, kind, text, profiles, encoding, language)
        return channels

    def _counts(self) -> list[tuple[int, int, int, int]]:
        """Return topic id, number of messages, first and last time, of each topic, or of its whole part."""
        query = "SELECT topic_id, count(*), min(timestamp), max(timestamp) FROM messages GROUP BY topic_id"
        try:
            return list(self._database.execute(query))
        except sqlite3.DatabaseError as error:
            times: dict[int, list[int]] = {}
            with suppress(sqlite3.DatabaseError):
                for key, time in self._database.execute("SELECT topic_id, timestamp FROM messages NOT INDEXED"):
                    times.setdefault(key, []).append(time)
            if not times:
                raise
            self.lost = f"{error}, after {sum(map(len, times.values()))} whole messages"
            return [(key, len(found), min(found), max(found)) for key, found in times.items()]


@contextmanager
def _opened(path: Path, salvage: bool) -> Iterator[Any]:
    """Open a file of a bag, compressed or not: yield a `McapFile` or `Sqlite3File`."""
    with ExitStack() as stack:
        file = path
        if path.suffix in PACKED_SUFFIXES:
            file = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="actrec_bag_"))) / path.stem
            unpacked = lz4.frame.open(path) if path.suffix == ".lz4" else zstd.open(path)
            most = max(_MOST_TIMES * path.stat().st_size, _LEAST_BYTES)
            with unpacked as source, file.open("wb") as target, suppress(EOFError):  # truncated
                while content := source.read(_BLOCK):
                    target.write(content)
                    if target.tell() > most:
                        raise InputError(
                            f"'{path}' unpacks to over {_MOST_TIMES} times its size, unlike a recording: if it is one, "
                            "unpack it first (zstd -d, lz4 -d)"
                        )
        part: Any = (Sqlite3File if file.suffix == ".db3" else McapFile)(file, path, salvage)
        stack.callback(part.close)
        yield part


def bag_files(path: Path) -> tuple[list[Path], list[str]]:
    """Return the files of the recording at `path`, and lines about missing ones.

    Files that metadata.yaml lists, else files of one name with successive numbers, as rosbag2 splits a recording.

    Raises:
        InputError: There are no such files, or there are several recordings.
    """
    if not path.is_dir():
        return [path], []
    present: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        name = file.stem if file.suffix in PACKED_SUFFIXES else file.name
        if name.endswith(BAG_SUFFIXES) and file.is_file():
            present.setdefault(name, file)
    notes: list[str] = []
    listed = _listed_files(path, notes)
    if any(name in present for name in listed):
        names, missing = [name for name in listed if name in present], [name for name in listed if name not in present]
    elif not present:
        cause = f"; metadata.yaml lists {', '.join(listed)}: copy them into it" if listed else ""
        raise InputError(f"'{path}' holds no .mcap or .db3 file{cause or ': give the folder or file of a recording'}")
    else:
        names, missing = _numbered_files(path, list(present))
        missing += listed
    if missing:
        notes.append(f"{', '.join(missing)} is missing: playing {', '.join(present[name].name for name in names)}")
    return [present[name] for name in names], notes


def _numbered_files(folder: Path, names: list[str]) -> tuple[list[str], list[str]]:
    """Return the names of the parts of one recording in order, and the names of missing parts."""
    parts = {name: match.groups() if (match := _PART.fullmatch(name)) else (name, "0", "") for name in names}
    if len({(stem, suffix) for stem, _, suffix in parts.values()}) > 1:
        raise InputError(
            f"'{folder}' holds several recordings, and no metadata.yaml that lists one: give the path of one file "
            f"({', '.join(names)})"
        )
    numbers = {int(number): name for name, (_, number, _) in parts.items()}
    stem, _, suffix = next(iter(parts.values()))
    gaps = [number for number in range(max(numbers)) if number not in numbers] if len(names) > 1 else []
    return [numbers[number] for number in sorted(numbers)], [f"{stem}_{number}{suffix}" for number in gaps]


def _listed_files(folder: Path, notes: list[str]) -> list[str]:
    """Return the files that metadata.yaml lists, without folders and the suffix of compression; note a damaged one."""
    try:
        about = config.parse_yaml(read_file(folder / "metadata.yaml", _MAX_METADATA_BYTES))
        paths = [Path(name) for name in about["rosbag2_bagfile_information"]["relative_file_paths"]]
    except FileNotFoundError:
        return []
    except (OSError, yaml.YAMLError, RecursionError, ValueError, KeyError, TypeError) as error:
        notes.append(f"metadata.yaml is damaged ({type(error).__name__}): reading the files without it")
        return []
    return [path.stem if path.suffix in PACKED_SUFFIXES else path.name for path in paths]


def recover(path: str | Path, out: str | Path) -> dict[str, int]:
    """Copy every whole message of an unfinished or damaged bag, in one file or several, to a new, finished mcap.

    Returns:
        Number of recovered messages by topic.

    Raises:
        DeviceError: The bag does not exist, or `out` exists.
        InputError: It is no bag, or holds no message.
    """
    path = existing_path(path)
    nothing = InputError(f"'{path}' holds no whole message: nothing can be recovered")
    try:
        bag = Bag(path, salvage=True)
    except sqlite3.DatabaseError as error:
        raise nothing from error
    counts: Counter[str] = Counter()
    connections: dict[Channel, Any] = {}
    with bag:
        for note in bag.notes:
            log.warning("bag '%s': %s", path, note)
        messages = bag.messages()
        first = next(messages, None)
        if first is None:
            raise nothing
        try:
            with Writer(expanded(out), version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
                for channel, time, raw in itertools.chain([first], messages):  # one by one: it may exceed the memory
                    if channel not in connections:
                        connections[channel] = _add_connection(writer, channel)
                    if connections[channel] is not None:
                        writer.write(connections[channel], time, raw)
                        counts[channel.topic] += 1
        except (WriterError, OSError) as error:
            raise DeviceError(f"cannot write the bag '{out}': {getattr(error, 'strerror', None) or error}") from error
    return dict(counts)


def _add_connection(writer: Writer, channel: Channel) -> Any:
    """Return the connection, or None, with a warning, if the messages have no known definition."""
    try:
        store, profiles = typestore_of(channel), _offered_qos(channel)
        return writer.add_connection(channel.topic, channel.msgtype, typestore=store, offered_qos_profiles=profiles)
    except (TypesysError, InputError) as error:
        log.warning("skipping %s: %s", channel, error or "its definition in the bag cannot be read")
        return None


def _offered_qos(channel: Channel) -> list[Any]:
    """Return the QoS profiles of a topic's publishers; none, with a warning, if they are damaged."""
    try:
        return list(parse_qos(channel.qos))
    except Exception as error:  # of rosbags or of its YAML library
        log.warning("the QoS profiles of %s are damaged (%s): written without them", channel, type(error).__name__)
        return []


def typestore_of(channel: Channel) -> Any:
    """Return the typestore for a channel's messages: the bag's own definition, else the installed one."""
    if channel.language != "ros2msg":  # sqlite3 bags of Humble store none
        return typestore_with(channel.msgtype)
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(channel.definition, channel.msgtype))
    return store
