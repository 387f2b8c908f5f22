"""Opening of rosbag2 bags (mcap or sqlite3) through `rosbags`, and the choice of their image topics."""

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

IMAGE = "sensor_msgs/msg/Image"

COMPRESSED = "sensor_msgs/msg/CompressedImage"

IMAGE_TYPES = {IMAGE, COMPRESSED}

INFO = "sensor_msgs/msg/CameraInfo"

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
"""Start of compressed data; a serialized message starts with 0."""

_REGISTERED = ("aligned_depth_to_color", "depth_registered", "depth_to_rgb")
"""Parts of topic names of depth registered to color."""

_LIBREALSENSE = "/device_0/sensor_"
"""Prefix of topics in recordings made by librealsense itself."""

_IMAGE_PROC = re.compile(r"(.*)/image(_(raw|color|mono|rect))*(/compressed(Depth)?)?")
"""Topic names of image_proc, after the camera's namespace."""

_COLOR_WORDS = ("color", "colour", "rgb")  # as drivers spell it


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Convert any exception for a damaged bag to an `InputError` of one line that names the bag."""
    try:
        yield
    except (ActrecError, GeneratorExit):
        raise
    except Exception as error:  # rosbags, sqlite3, zstd, lz4, struct each raise their own
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"bag '{path}' is corrupt, truncated or unfinished ({cause}); recover an mcap with "
            f"`actrec record --recover '{path}' --out NEW`"
        ) from error


def open_reader(path: Path) -> Any:
    """Return an open `rosbags.rosbag2.Reader`.

    Raises:
        InputError: The bag is corrupt or unfinished.
    """
    for log in path.glob("*.db3-wal") if path.is_dir() else [path.with_name(f"{path.name}-wal")]:
        if log.is_file() and log.stat().st_size:  # rosbags would read the database without its log
            file = str(log).removesuffix("-wal")
            raise InputError(
                f"bag '{path}' was not finished: '{log.name}' still holds messages; write them into the bag with "
                f"`python3 -c \"import sqlite3; sqlite3.connect('{file}').execute('PRAGMA wal_checkpoint(TRUNCATE)')\"`"
            )
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        raise InputError(
            f"bag '{path}' has no metadata.yaml: it was not finished; recover it with "
            f"`actrec record --recover '{path}' --out NEW`, or play its .mcap or .db3 file itself"
        )
    with reading(path):
        reader = Reader(path)
        reader.open()
    return reader


class OpenBag(Recording):
    """Recording in a bag whose reader is open.

    Raises:
        DeviceError: The bag does not exist.
        InputError: The bag is corrupt or unfinished.
    """

    def __init__(self, path: str | Path, config: RecordingConfig):
        super().__init__(existing(path), config)
        self._reader = open_reader(self.path)

    @property
    def duration_s(self) -> float:
        """Seconds from the first message of the bag to the last."""
        return float(self._reader.duration) / NANOSECONDS

    def close(self) -> None:
        """Close the bag; safe to call twice."""
        if self._reader.is_open:
            self._reader.close()


def message_types(path: Path) -> set[str]:
    """Return the message types of which a bag holds messages."""
    reader = open_reader(path)
    try:
        return {connection.msgtype for connection in reader.connections if connection.msgcount}
    finally:
        reader.close()


def stamp_ns(raw: bytes | memoryview) -> int:
    """Return the header stamp, in ns, of a serialized message that starts with a header."""
    sec, nanosec = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return sec * NANOSECONDS + nanosec


def replace_stamp(raw: bytes | memoryview, stamp: int) -> bytes:
    """Return a serialized message that starts with a header, with another stamp in ns."""
    return b"".join((raw[:4], struct.pack("<iI" if raw[1] & 1 else ">iI", *divmod(stamp, NANOSECONDS)), raw[12:]))


def decompress_message(raw: bytes) -> bytes:
    """Return a serialized message, decompressed if the bag compresses each message.

    The data is inspected because only metadata.yaml records this compression, and a file can be read without it.
    """
    return bytes(zstd.decompress(raw)) if bytes(raw[:4]) == _ZSTD_MAGIC else raw


def messages(reader: Any, topics: list[str], start: int | None = None) -> Iterator[tuple[str, int, bytes]]:
    """Yield (topic, log time, serialized message) on these topics, in order of log time, from `start` on."""
    connections = [connection for connection in reader.connections if connection.topic in topics]
    for connection, time, raw in reader.messages(connections, start=start):
        yield connection.topic, time, decompress_message(raw)


@dataclass(frozen=True)
class Topics:
    """Topics to play.

    Attributes:
        color: Topic of the color images.
        depth: Topic of the depth images, or None.
        info: CameraInfo topic of the color images, or None.
        compressed: Whether the color images are compressed.
        depth_info: CameraInfo topic of the depth images; None if there is none, or depth is registered to color.
    """

    color: str
    depth: str | None
    info: str | None
    compressed: bool
    depth_info: str | None


def find_topics(path: Path, reader: Any, config: RecordingConfig, encoding_of: Callable[[str], str]) -> Topics:
    """Choose the topics of an open bag by type, name and encoding.

    Args:
        path: The bag, for error messages.
        reader: An open `rosbags.rosbag2.Reader`.
        config: May name the topics.
        encoding_of: Returns the encoding (or compressed format) of a topic's first message.

    Raises:
        ConfigError: A given topic is absent or not an image, several topics match equally, or the bag was recorded by
            librealsense.
        InputError: No image topic has a color encoding; the message lists the image topics.
    """
    types = {c.topic: c.msgtype for c in reader.connections if c.msgcount != 0}
    kinds = {topic: _kind(topic, encoding_of(topic)) for topic, kind in types.items() if kind in IMAGE_TYPES}
    color = _given_topic(path, "color_topic", config.color_topic, types, IMAGE_TYPES)
    if color is None:
        color = _best_color(path, kinds, types, encoding_of)
    depth: str | None = None
    if config.depth_topic != "none":
        depth = _given_topic(path, "depth_topic", config.depth_topic, types, IMAGE_TYPES)
        depth = depth or _best_depth(path, [t for t, kind in kinds.items() if kind == "depth"], types, color)
        if not config.depth_topic and depth is not None and depth.startswith(_LIBREALSENSE):
            raise ConfigError(
                f"'{path}' was recorded by librealsense, with depth neither registered nor in millimeters: play it "
                "with driver realsense and its option recording"
            )
    info = _given_topic(path, "camera_info_topic", config.camera_info_topic, types, {INFO})
    own = None if depth is None or is_registered(depth) else _info_in_namespace(depth, types)
    return Topics(color, depth, info or _color_info(color, types), types[color] == COMPRESSED, own)


def is_registered(depth: str) -> bool:
    """Return whether a topic's name marks depth that is registered to color."""
    return any(word in depth for word in _REGISTERED)


def _kind(topic: str, encoding: str) -> str:
    if encoding in DEPTH_ENCODINGS or "compressedDepth" in encoding:
        return "other" if _is_infrared(topic) else "depth"
    if encoding.split(";")[0] in COLOR_ENCODINGS:  # as in "rgb8; jpeg compressed bgr8"
        return "color"
    if "bayer" in encoding:  # also compressed: decoding it gives its mosaic
        return "other"
    if any(kind in encoding.lower() for kind in ("jpeg", "jpg", "png")):
        return "depth" if "16UC1" in encoding or "depth" in topic else "color"
    return "other"


def _is_infrared(topic: str) -> bool:
    """Return whether drivers of Azure Kinect, Orbbec or OpenNI publish 16-bit infrared on a topic of this name."""
    return any(part == "ir" or part.startswith("infra") for part in topic.lower().split("/"))


def _given_topic(path: Path, option: str, name: str, types: dict[str, str], allowed: set[str]) -> str | None:
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
        # A part that is just "rgb" marks an RGB-D camera. A ZED and other cameras of a robot use
        # left/image_rect_color, or left/color/rect/image beside rgb/color/rect/image. Depth matches the rectified one.
        parts = topic.lower().split("/")
        own = sum(part in _COLOR_WORDS for part in parts)
        color_word = any(word in topic.lower() for word in _COLOR_WORDS)
        raw = types[topic] == IMAGE
        usual = "image_rect" in topic or "image_raw" in topic
        # rgb_to_depth of an Azure Kinect is color registered to the depth camera.
        return "to_depth" in topic, -own, not color_word, not raw, not usual, "mono" in topic, "raw" in parts

    return _single_best(path, "color_topic", topics, rank)


def _best_depth(path: Path, topics: list[str], types: dict[str, str], color: str) -> str | None:
    if not topics:
        return None

    def rank(topic: str) -> tuple[int, ...]:
        # With all transports recorded, `compressed` (JPEG of 8 bits) lies beside `compressedDepth`.
        return (
            _is_of_other_camera(topic, color),
            not is_registered(topic),
            -_common_prefix(topic, color),
            types[topic] != IMAGE,
            not topic.endswith("compressedDepth"),
        )

    return _single_best(path, "depth_topic", topics, rank)


def _is_of_other_camera(depth: str, color: str) -> bool:
    """Return whether the namespace of a depth topic, up to its part with "depth", is not a prefix of color's.

    image_proc may publish registered depth further up, in no camera's namespace.
    """
    above = list(takewhile(lambda name: "depth" not in name, depth.split("/")[:-1]))
    return color.split("/")[: len(above)] != above


def _common_prefix(topic: str, color: str) -> int:
    """Return the number of leading name parts that two topics share."""
    pairs = zip(topic.split("/")[:-1], color.split("/")[:-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _single_best(path: Path, option: str, topics: list[str], rank: Callable[[str], tuple[int, ...]]) -> str:
    ordered = sorted(topics, key=lambda topic: (rank(topic), topic))
    best = [topic for topic in ordered if rank(topic) == rank(ordered[0])]
    cameras = {match[1] if (match := _IMAGE_PROC.fullmatch(topic)) else topic for topic in best}
    if len(cameras) > 1:  # image_raw and image_rect_color of one camera show the same
        raise ConfigError(f"bag '{path}' has several: {', '.join(best)}; choose one with {option}")
    return best[0]


def _color_info(color: str, types: dict[str, str]) -> str | None:
    """Return the CameraInfo topic in the color topic's namespace, or the bag's only one."""
    infos = [topic for topic, kind in types.items() if kind == INFO]
    only = infos[0] if len(infos) == 1 and "depth" not in infos[0] else None
    return _info_in_namespace(color, types) or only


def _info_in_namespace(images: str, types: dict[str, str]) -> str | None:
    parts = images.strip("/").split("/")
    # …/image_raw/compressed lies one deeper. The root namespace counts only for a camera without a namespace.
    last = 0 if len(parts) == 1 + (types[images] == COMPRESSED) else 1
    for cut in range(len(parts) - 1, last - 1, -1):
        info = "/" + "/".join([*parts[:cut], "camera_info"])
        if types.get(info) == INFO:
            return info
    return None
