"""Opening a rosbag2 bag, mcap or sqlite3, through `rosbags`, and what damaged ones are reported as."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import Reader
from rosbags.rosbag2.storage_mcap import zstd

from actrec.errors import ActrecError, InputError
from actrec.frames import NANOSECONDS
from actrec.recordings.base import Recording, RecordingConfig, existing

_ZSTD = b"\x28\xb5\x2f\xfd"
"""What compressed bytes begin with; a serialised message begins with 0."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns whatever the libraries raise for a damaged bag into one line that names it."""
    try:
        yield
    except (ActrecError, GeneratorExit):
        raise
    except Exception as error:  # rosbags, sqlite3, zstd, lz4, struct each raise their own
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"bag '{path}' is corrupt, truncated or unfinished ({what}); an mcap can be saved with "
            f"`actrec record --recover '{path}' --out NEW`"
        ) from error


def open_reader(path: Path) -> Any:
    """An open `rosbags.rosbag2.Reader`.

    Raises:
        InputError: The bag is corrupt, or was not finished.
    """
    for log in path.glob("*.db3-wal") if path.is_dir() else [path.with_name(f"{path.name}-wal")]:
        if log.is_file() and log.stat().st_size:  # what is read here is the database without it
            file = str(log).removesuffix("-wal")
            raise InputError(
                f"bag '{path}' was not finished: messages lie in '{log.name}' still; put them into the bag with "
                f"`python3 -c \"import sqlite3; sqlite3.connect('{file}').execute('PRAGMA wal_checkpoint(TRUNCATE)')\"`"
            )
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        raise InputError(
            f"bag '{path}' has no metadata.yaml: it was not finished; save it with "
            f"`actrec record --recover '{path}' --out NEW`, or play its .mcap or .db3 file itself"
        )
    with reading(path):
        reader = Reader(path)
        reader.open()
    return reader


def stamp_ns(raw: bytes | memoryview) -> int:
    """The header's stamp in nanoseconds of a serialised message that starts with a header."""
    sec, nanosec = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return sec * NANOSECONDS + nanosec


def restamped(raw: bytes | memoryview, stamp: int) -> bytes:
    """A serialised message that starts with a header, with this stamp in nanoseconds."""
    return b"".join((raw[:4], struct.pack("<iI" if raw[1] & 1 else ">iI", *divmod(stamp, NANOSECONDS)), raw[12:]))


def unpacked(raw: bytes) -> bytes:
    """A serialised message, of a bag compressed message by message too.

    That it is so its metadata.yaml alone says; a file of it may be played or saved without.
    """
    return bytes(zstd.decompress(raw)) if bytes(raw[:4]) == _ZSTD else raw


def messages(reader: Any, topics: list[str], start: int | None = None) -> Iterator[tuple[str, int, bytes]]:
    """(topic, log time, serialised message) on these topics, from log time `start` on, by log time."""
    connections = [connection for connection in reader.connections if connection.topic in topics]
    for connection, time, raw in reader.messages(connections, start=start):
        yield connection.topic, time, unpacked(raw)


def open_bag(path: str | Path, config: RecordingConfig) -> Recording:
    """Opens a bag: its images if it has any, else its joints.

    Raises:
        DeviceError: There is no such bag.
        InputError: It is corrupt, or holds neither.
        ConfigError: A topic is absent, or there are several and none is chosen.
    """
    from actrec.recordings.bag import BagRecording
    from actrec.recordings.bag_skeletons import SKELETONS, SkeletonBagRecording
    from actrec.recordings.bag_topics import COMPRESSED, IMAGE

    path = existing(path)
    reader = open_reader(path)
    types = {connection.msgtype for connection in reader.connections if connection.msgcount}
    reader.close()
    joints_alone = SKELETONS in types and not types & {IMAGE, COMPRESSED}
    return SkeletonBagRecording(path, config) if joints_alone else BagRecording(path, config)
