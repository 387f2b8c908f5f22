"""Opening a rosbag2 bag, mcap or sqlite3, through `rosbags`, and what damaged ones are reported as.

Which topics of a bag are the color, the depth and the intrinsics: by type, name and encoding.
"""

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import Reader
from rosbags.rosbag2.storage_mcap import zstd

from actrec.recordings.base import Recording, RecordingConfig, existing
from actrec.recordings.image_decoding import COLOR_ENCODINGS, DEPTH_ENCODINGS
from actrec.types import NANOSECONDS
from actrec.utils.errors import ActrecError, ConfigError, InputError

_ZSTD = b"\x28\xb5\x2f\xfd"
"""What compressed bytes begin with; a serialized message begins with 0."""


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
    """The header's stamp in nanoseconds of a serialized message that starts with a header."""
    sec, nanosec = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return sec * NANOSECONDS + nanosec


def restamped(raw: bytes | memoryview, stamp: int) -> bytes:
    """A serialized message that starts with a header, with this stamp in nanoseconds."""
    return b"".join((raw[:4], struct.pack("<iI" if raw[1] & 1 else ">iI", *divmod(stamp, NANOSECONDS)), raw[12:]))


def unpacked(raw: bytes) -> bytes:
    """A serialized message, of a bag compressed message by message too.

    That it is so its metadata.yaml alone says; a file of it may be played or saved without.
    """
    return bytes(zstd.decompress(raw)) if bytes(raw[:4]) == _ZSTD else raw


def messages(reader: Any, topics: list[str], start: int | None = None) -> Iterator[tuple[str, int, bytes]]:
    """(topic, log time, serialized message) on these topics, from log time `start` on, by log time."""
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
    from actrec.recordings.rosbag.images import BagRecording
    from actrec.recordings.rosbag.skeletons import SKELETONS, SkeletonBagRecording

    path = existing(path)
    reader = open_reader(path)
    types = {connection.msgtype for connection in reader.connections if connection.msgcount}
    reader.close()
    joints_alone = SKELETONS in types and not types & {IMAGE, COMPRESSED}
    return SkeletonBagRecording(path, config) if joints_alone else BagRecording(path, config)


IMAGE = "sensor_msgs/msg/Image"

COMPRESSED = "sensor_msgs/msg/CompressedImage"

INFO = "sensor_msgs/msg/CameraInfo"

_DEPTH_PREFERRED = ("aligned_depth_to_color", "depth_registered", "depth_to_rgb")

_LIBREALSENSE = "/device_0/sensor_"
"""What the topics of librealsense's own recordings begin with."""

_OF_ONE = re.compile(r"(.*)/image(_(raw|color|mono|rect))*(/compressed(Depth)?)?")
"""What image_proc calls the pictures that it makes of one camera's, after the camera's namespace."""

_COLOR_WORDS = ("color", "colour", "rgb")


@dataclass(frozen=True)
class Topics:
    """The topics to play.

    Attributes:
        color: Of the color images.
        depth: Of the depth images; None where the bag has none.
        info: The color's camera_info; None where the bag has none.
        compressed: Whether color is.
        depth_info: The depth's own camera_info; None where the bag has none, or its topic's name says it is registered.
    """

    color: str
    depth: str | None
    info: str | None
    compressed: bool
    depth_info: str | None


def find_topics(path: Path, reader: Any, config: RecordingConfig, encoding_of: Callable[[str], str]) -> Topics:
    """Chooses the topics of an open bag.

    Args:
        path: The bag, for messages.
        reader: An open `rosbags.rosbag2.Reader`.
        config: May name the topics.
        encoding_of: Gives the encoding (or compressed format) of a topic's first message.

    Raises:
        ConfigError: A named topic is absent or no image, several are as good and none is named, or it is a recording
            of librealsense.
        InputError: No image topic has a color encoding; names what there is.
    """
    types = {c.topic: c.msgtype for c in reader.connections if c.msgcount != 0}
    kinds = {topic: _kind(topic, encoding_of(topic)) for topic, kind in types.items() if kind in (IMAGE, COMPRESSED)}
    color = _named(path, "color_topic", config.color_topic, types, (IMAGE, COMPRESSED))
    if color is None:
        color = _best_color(path, kinds, types, encoding_of)
    depth: str | None = None
    if config.depth_topic != "none":
        depth = _named(path, "depth_topic", config.depth_topic, types, (IMAGE, COMPRESSED))
        depth = depth or _best_depth(path, [t for t, kind in kinds.items() if kind == "depth"], types, color)
        if not config.depth_topic and depth is not None and depth.startswith(_LIBREALSENSE):
            raise ConfigError(
                f"'{path}' is a recording of librealsense, whose depth is neither registered nor in millimetres: play "
                "it with driver realsense and its option recording"
            )
    info = _named(path, "camera_info_topic", config.camera_info_topic, types, (INFO,)) or _info_beside(color, types)
    own = None if depth is None or is_registered(depth) else _beside(depth, types)
    return Topics(color, depth, info, types[color] == COMPRESSED, own)


def _kind(topic: str, encoding: str) -> str:
    if encoding in DEPTH_ENCODINGS or "compressedDepth" in encoding:
        return "other" if _infrared(topic) else "depth"
    if encoding.split(";")[0] in COLOR_ENCODINGS:  # "rgb8; jpeg compressed bgr8" tells, whatever the topic's name
        return "color"
    if "bayer" in encoding:  # also compressed: decoding it gives its mosaic
        return "other"
    if any(kind in encoding.lower() for kind in ("jpeg", "jpg", "png")):
        return "depth" if "16UC1" in encoding or "depth" in topic else "color"
    return "other"


def _infrared(topic: str) -> bool:
    """Whether a topic of 16 bit is of brightness, by the names that drivers of Azure Kinect, Orbbec, OpenNI give it."""
    return any(part == "ir" or part.startswith("infra") for part in topic.lower().split("/"))


def _named(path: Path, option: str, name: str, types: dict[str, str], allowed: tuple[str, ...]) -> str | None:
    if not name:
        return None
    topic = name if name.startswith("/") else f"/{name}"
    if types.get(topic) not in allowed:
        found = ", ".join(sorted(t for t, kind in types.items() if kind in allowed)) or "none"
        raise ConfigError(f"bag '{path}' has no messages on {option} '{topic}'; it has: {found}")
    return topic


def _best_color(path: Path, kinds: dict[str, str], types: dict[str, str], encoding_of: Callable[[str], str]) -> str:
    topics = [topic for topic, kind in kinds.items() if kind == "color"]
    if not topics:
        found = ", ".join(f"{t} ({encoding_of(t)})" for t in sorted(kinds)) or "no image topic"
        raise InputError(
            f"bag '{path}' has no color images of a supported encoding ({', '.join(COLOR_ENCODINGS)}, jpeg, png); "
            f"it has: {found}"
        )

    def rank(topic: str) -> tuple[int, ...]:
        # A part that is just "rgb" is an RGB-D camera's; a ZED's and a robot's others are left/image_rect_color, or
        # left/color/rect/image beside rgb/color/rect/image. Its depth lies over the rectified one.
        parts = topic.lower().split("/")
        own = sum(part in _COLOR_WORDS for part in parts)
        named = any(word in topic.lower() for word in _COLOR_WORDS)
        raw = types[topic] == IMAGE
        usual = "image_rect" in topic or "image_raw" in topic
        # An Azure Kinect's rgb_to_depth is the picture as the depth camera would see it, beside the camera's own.
        return "to_depth" in topic, -own, not named, not raw, not usual, "mono" in topic, "raw" in parts

    return _only(path, "color_topic", topics, rank)


def _best_depth(path: Path, topics: list[str], types: dict[str, str], color: str) -> str | None:
    if not topics:
        return None

    def rank(topic: str) -> tuple[int, ...]:
        # The transport `compressed`, whose JPEG is of 8 bits, stands beside `compressedDepth` where all are recorded.
        return (
            _is_of_another(topic, color),
            not is_registered(topic),
            -_shared(topic, color),
            types[topic] != IMAGE,
            not topic.endswith("compressedDepth"),
        )

    return _only(path, "depth_topic", topics, rank)


def _is_of_another(depth: str, color: str) -> bool:
    """Whether a topic lies, up to where its name speaks of depth, beside the color's: of several cameras, another's.

    Depth that image_proc registered may lie further up, in no camera's namespace.
    """
    above = list(takewhile(lambda name: "depth" not in name, depth.split("/")[:-1]))
    return color.split("/")[: len(above)] != above


def _shared(topic: str, color: str) -> int:
    """How many names two topics begin with alike: those of one camera of several do."""
    pairs = zip(topic.split("/")[:-1], color.split("/")[:-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _only(path: Path, option: str, topics: list[str], rank: Callable[[str], tuple[int, ...]]) -> str:
    ordered = sorted(topics, key=lambda topic: (rank(topic), topic))
    best = [topic for topic in ordered if rank(topic) == rank(ordered[0])]
    cameras = {match[1] if (match := _OF_ONE.fullmatch(topic)) else topic for topic in best}
    if len(cameras) > 1:  # one camera's image_raw and image_rect_color show the same
        raise ConfigError(f"bag '{path}' has several: {', '.join(best)}; choose one with {option}")
    return best[0]


def is_registered(depth: str) -> bool:
    """Whether a topic's name says that its depth is seen from the color camera."""
    return any(word in depth for word in _DEPTH_PREFERRED)


def _info_beside(color: str, types: dict[str, str]) -> str | None:
    """The CameraInfo in the color topic's namespace, or the bag's only one."""
    infos = [topic for topic, kind in types.items() if kind == INFO]
    only = infos[0] if len(infos) == 1 and "depth" not in infos[0] else None
    return _beside(color, types) or only


def _beside(images: str, types: dict[str, str]) -> str | None:
    """The CameraInfo in the namespace of images."""
    parts = images.strip("/").split("/")
    # …/image_raw/compressed lies one deeper. The root's is of a camera without a namespace alone.
    last = 0 if len(parts) == 1 + (types[images] == COMPRESSED) else 1
    for cut in range(len(parts) - 1, last - 1, -1):
        beside = "/" + "/".join([*parts[:cut], "camera_info"])
        if types.get(beside) == INFO:
            return beside
    return None
