"""The files of a bag: found with or without metadata.yaml, opened, and read together in order of time."""

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rosbags.rosbag2.storage_mcap import zstd

from actrec.recordings import BAG_SUFFIXES, PACKED_SUFFIXES, log
from actrec.recordings.rosbag import foxglove
from actrec.recordings.rosbag.mcap_file import Channel, McapFile, Message, decompress, in_time_order, read_messages
from actrec.utils.errors import InputError

_PART = re.compile(r"(.+)_(\d+)(\.\w+)")
"""File name of a part of a recording that rosbag2 has split."""

_SQLITE = b"SQLite format 3\0"


class Bag:
    """An open bag: one file, or a folder with one recording in one or several files.

    Topics that are not of ROS 2, and missing or damaged files, are skipped and listed in `notes`.

    Attributes:
        connections: Topics of ROS 2 messages, with their number of messages.
        foreign: Topics of other systems.
        notes: Lines about skipped content.
        duration: Time from the first message to the last, ns.
        is_open: False after `close`.
        is_lost: Whether a file is damaged or not finished.

    Raises:
        InputError: A file is no bag, or the folder holds none or several recordings.
    """

    def __init__(self, path: Path):
        self.is_open, self._stack = True, ExitStack()
        self._files: list[Any] = []
        try:
            found, self.notes = bag_files(path)
            for file in found:
                try:
                    self._files.append(self._stack.enter_context(opened(file)))
                except InputError as error:
                    if len(found) == 1:
                        raise
                    self.notes.append(f"skipping one of its files: {error}")
        except BaseException:
            self.close()
            raise
        self._files.sort(key=lambda file: int(file.start))
        self._convert: dict[tuple[Any, int], Callable[[bytes], bytes]] = {}
        for file, key, channel in [(f, key, channel) for f in self._files for key, channel in f.channels.items()]:
            if converter := foxglove.converter(channel):
                kind, self._convert[file, key] = converter
                file.channels[key] = channel._replace(msgtype=kind, definition="", encoding="cdr", language="")
        channels: dict[tuple[str, str], Channel] = {}
        for channel in (channel for file in self._files for channel in file.channels.values()):
            known = channels.get((channel.topic, channel.msgtype))
            count = channel.msgcount + (known.msgcount if known else 0)
            channels[channel.topic, channel.msgtype] = (known or channel)._replace(msgcount=count)
        self.connections = [channel for channel in channels.values() if not channel.foreign]
        self.foreign = [channel for channel in channels.values() if channel.foreign]
        spans = [(f.start, f.end) for f in self._files if any(c.msgcount for c in f.channels.values())]
        self.duration = max(end for _, end in spans) - min(start for start, _ in spans) if spans else 0
        self.is_lost = len(found) > len(self._files) or any(file.lost for file in self._files)
        for file in self._files:
            if file.lost:
                self.notes.append(
                    f"'{file.path.name}' is damaged or not finished ({file.lost}): playing its whole messages; "
                    f"finish it with `actrec record --recover '{path}' --out NEW`"
                )
        if self.foreign:
            listed = ", ".join(map(str, self.foreign))
            self.notes.append(f"skipping topics whose messages are not of ROS 2: {listed}")

    def messages(self, topics: Sequence[str], start: int | None = None) -> Iterator[tuple[str, int, bytes]]:
        """Yield (topic, log time, serialized message) on these topics, in order of log time, from `start` on."""
        names: list[str] = []  # of the topics, by a number that is the same in all files

        def read(file: Any, wanted: dict[int, int]) -> Iterator[Message]:
            for time, channel, raw in file.messages(wanted, start):
                convert = self._convert.get((file, channel), bytes)
                yield time, wanted[channel], convert(decompress(raw))

        sources: list[tuple[int, Callable[[], Iterable[Message]]]] = []
        for file in self._files:
            wanted = {}
            for key, channel in file.channels.items():
                if channel.topic in topics and not channel.foreign:
                    wanted[key] = len(names)
                    names.append(channel.topic)
            if wanted and (start is None or file.end >= start):
                sources.append((file.start, partial(read, file, wanted)))
        for time, number, raw in in_time_order(sources):
            yield names[number], time, raw

    def close(self) -> None:
        """Close the files; safe to call twice."""
        self.is_open = False
        self._stack.close()


class Sqlite3File:
    """An open sqlite3 file of a bag, with its write-ahead log or journal; attributes as `McapFile`."""

    def __init__(self, path: Path, name: Path | None = None):
        self.path, self.lost = name or path, ""
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

    def messages(self, channels: Iterable[int], start: int | None = None) -> Iterator[Message]:
        """Yield the messages of these channels in order of log time, from `start` on."""
        wanted, first = list(channels), -1 if start is None else start
        query = "SELECT timestamp, topic_id, data FROM messages"
        if self.lost:  # also of its index; Python loses the last row of any query before the damage
            with suppress(sqlite3.DatabaseError):
                for row in self._database.execute(f"{query} NOT INDEXED ORDER BY id"):
                    if row[1] in wanted and row[0] >= first:
                        yield row
            return
        where = f"topic_id IN ({','.join('?' * len(wanted))}) AND timestamp >= ?"
        yield from self._database.execute(f"{query} WHERE {where} ORDER BY timestamp, id", (*wanted, first))

    def _open(self, path: Path) -> sqlite3.Connection:
        with path.open("rb") as stream:
            begin = stream.read(len(_SQLITE))
        if begin != _SQLITE:
            raise InputError(
                f"'{self.path}' is not an sqlite3 file: "
                + (f"it starts with {begin!r}" if begin else "it is empty")
                + "; copy it again"
            )
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
def opened(path: Path) -> Iterator[Any]:
    """Open a file of a bag, compressed or not: yield a `McapFile` or `Sqlite3File`.

    Raises:
        InputError: It is of another format.
    """
    with ExitStack() as stack:
        file = path
        if path.suffix in PACKED_SUFFIXES:
            file = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="actrec_bag_"))) / path.stem
            with _unpacking(path) as source, file.open("wb") as target, suppress(EOFError):  # truncated
                shutil.copyfileobj(source, target)
        part: Any = (Sqlite3File if file.suffix == ".db3" else McapFile)(file, path)
        stack.callback(part.close)
        yield part


def recorded_messages(path: Path) -> Iterator[tuple[Channel, int, bytes]]:
    """Yield (channel, log time in ns, serialized message) of each whole message of a bag, file by file.

    Damaged and missing content is skipped with a warning.

    Raises:
        InputError: The path is no bag, or holds several recordings.
    """
    files, notes = bag_files(path)
    for note in notes:
        log.warning("bag '%s': %s", path, note)
    for file in files:
        try:
            if file.suffix == ".mcap":
                yield from read_messages(file)
                continue
            with opened(file) as part:
                if isinstance(part, McapFile):
                    yield from read_messages(part.file)
                else:
                    for time, key, raw in part.messages(part.channels):
                        yield part.channels[key], time, decompress(raw)
        except (InputError, sqlite3.DatabaseError) as error:
            if len(files) == 1 and isinstance(error, InputError):
                raise
            log.warning("'%s': skipping the rest of this file: %s", file, error)


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
        about = yaml.safe_load((folder / "metadata.yaml").read_text(encoding="utf-8"))
        paths = [Path(name) for name in about["rosbag2_bagfile_information"]["relative_file_paths"]]
    except FileNotFoundError:
        return []
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        notes.append(f"metadata.yaml is damaged ({type(error).__name__}): reading the files without it")
        return []
    return [path.stem if path.suffix in PACKED_SUFFIXES else path.name for path in paths]


def _unpacking(path: Path) -> Any:
    if path.suffix == ".lz4":
        import lz4.frame  # type: ignore[import-untyped]

        return lz4.frame.open(path)
    return zstd.open(path)
