"""Reading of rosbag2 bags (mcap or sqlite3): messages, choice of topics, playback of skeletons."""

import re
import struct
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from actrec.recordings import Recording, RecordingConfig, existing_path, log, resolve_nominal_intrinsics
from actrec.recordings.image_decoding import COLOR_ENCODINGS, DEPTH_ENCODINGS
from actrec.recordings.rosbag.bag_files import Bag, typestore_of
from actrec.recordings.rosbag.bag_writer import (
    MEASURED_UP_TOPIC,
    SKELETONS,
    SKELETONS_TOPIC,
    TRUE_SKELETONS_TOPIC,
    UP,
    UP_TOPIC,
)
from actrec.recordings.rosbag.mcap_file import Channel
from actrec.skeleton.layouts import CANONICAL, convert
from actrec.types import NANOSECONDS, Body, RgbdFrame
from actrec.utils import gravity
from actrec.utils.camera_model import KINECT_V1
from actrec.utils.errors import ActrecError, ConfigError, DeviceError, InputError

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
IMAGE_TYPES = {IMAGE, COMPRESSED}
INFO = "sensor_msgs/msg/CameraInfo"

_LIBREALSENSE = "/device_0/sensor_"  # prefix of topics in recordings made by librealsense itself

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
    except OSError as error:
        raise DeviceError(f"cannot read bag '{path}': {error.strerror or error}") from error
    except Exception as error:  # rosbags, sqlite3, zstd, lz4, struct raise various errors
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"bag '{path}' is corrupt ({cause}); recover its whole messages with "
            f"`actrec record --recover '{path}' --out NEW`"
        ) from error


def open_reader(path: Path, quiet: bool = False) -> Bag:
    """Return an open bag; log a warning about each part that is skipped, unless `quiet`.

    Raises:
        DeviceError: A file cannot be read.
        InputError: The bag is corrupt, or holds no messages.
    """
    with reading(path):
        bag = Bag(path)
    if any(channel.msgcount for channel in (*bag.connections, *bag.foreign)):
        for note in () if quiet else bag.notes:
            log.warning("bag '%s': %s", path, note)
        return bag
    bag.close()
    if bag.is_lost:
        raise InputError(
            f"bag '{path}' holds no whole message ({'; '.join(bag.notes)}): it was stopped or copied too early; "
            "copy it again, or record it again"
        )
    raise InputError(f"bag '{path}' holds no messages: record again while its topics are published (ros2 topic list)")


def message_types(path: Path) -> set[str]:
    """Return the ROS message types of which a bag holds messages."""
    with open_reader(path, quiet=True) as bag:
        return {connection.msgtype for connection in bag.connections if connection.msgcount}


def nothing_to_play(path: Path, bag: Bag) -> InputError:
    """Return the error for a bag without images and skeletons, which lists its topics."""
    found = ", ".join(str(channel) for channel in (*bag.connections, *bag.foreign) if channel.msgcount)
    remedy = "record topics of these types"
    if any(channel.encoding == "ros1" for channel in bag.foreign):
        remedy = "convert the original ROS 1 bag with `rosbags-convert --src OLD.bag --dst NEW`"
    elif bag.foreign:
        remedy = "record the topics in ROS 2: actrec record --out NEW --topics TOPIC"
    return InputError(
        f"bag '{path}' has neither images ({IMAGE}, {COMPRESSED}) nor skeletons ({SKELETONS}): {remedy}; it has: "
        f"{found}"
    )


def stamp_ns(raw: bytes | memoryview) -> int:
    """Return the header stamp, in ns, of a serialized message that starts with a header."""
    sec, nanosec = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return sec * NANOSECONDS + nanosec


class OpenBag(Recording):
    """Recording in a bag whose reader is open."""

    quiet: ClassVar[bool] = False

    def __init__(self, path: str | Path, config: RecordingConfig):
        super().__init__(existing_path(path), config)
        self._reader = open_reader(self.path, self.quiet)
        self.duration_s = self._reader.duration / NANOSECONDS
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _prepare(self) -> None:
        """Choose the topics, and set intrinsics and start time."""

    def close(self) -> None:
        """Close the bag; safe to call twice."""
        self._reader.close()


class SkeletonBagRecording(OpenBag):
    """Playback of a bag's `SkeletonArray` topic: frames with `color` and `depth` None and the bodies in `skeletons`.

    Attributes:
        start_ns: Stamp of the bag's first image; of its first skeletons without images.

    Raises:
        ConfigError: The topic is absent, or several match and `skeleton_topic` chooses none; others as `open_reader`.
    """

    def _prepare(self) -> None:
        preferred = SKELETONS_TOPIC, TRUE_SKELETONS_TOPIC
        channel = choose_topic(self.path, self._reader, SKELETONS, preferred, self.config.skeleton_topic)
        self._topics = [channel.topic]
        self.intrinsics = resolve_nominal_intrinsics(self.path, self.config, KINECT_V1)
        with reading(self.path):
            self._store = typestore_of(channel)
            _, self._first_time, first = next(iter(self._reader.messages(self._topics)))
            self.start_ns = self._first_image_ns() or stamp_ns(first)
            self._ups = recorded_ups(self._reader, channel.topic, self._topics)

    def _first_image_ns(self) -> int:
        """Return the stamp of the first image; 0 without one, or if its driver sets no stamps."""
        topics = [channel.topic for channel in self._reader.connections if channel.msgtype in IMAGE_TYPES]
        firsts = [next(iter(self._reader.messages([topic])), None) for topic in topics]
        return min((stamp_ns(first[2]) for first in firsts if first is not None), default=0)

    def _frames(self, start_s: float) -> Iterator[RgbdFrame]:
        start = self._first_time + round(start_s * NANOSECONDS)
        with reading(self.path):
            for _, _, raw in self._reader.messages(self._topics, start):
                message = self._store.deserialize_cdr(raw, SKELETONS)
                bodies = [_body(skeleton) for skeleton in message.skeletons]
                stamp = stamp_ns(raw)
                # Older bags have no field `up`.
                up = gravity.up_from_vector(message.up) if hasattr(message, "up") else None
                if up is None and self._ups is not None:
                    up = self._ups.at(stamp)
                yield RgbdFrame(stamp, None, None, self.intrinsics, message.header.frame_id, bodies, up)


class RecordedUps(NamedTuple):
    """Stamps [N] in ns, which increase, and unit vectors [N, 3] against gravity."""

    stamps_ns: np.ndarray
    ups: np.ndarray

    def at(self, stamp_ns: int) -> np.ndarray:
        """Return the last vector [3] until a stamp, else the first."""
        return self.ups[max(int(np.searchsorted(self.stamps_ns, stamp_ns, side="right")) - 1, 0)]


def recorded_ups(reader: Bag, played: str, skeletons: Sequence[str]) -> RecordedUps | None:
    """Return the direction of gravity of the camera whose topic `played` an open bag holds; None without one.

    It comes from the topics `skeletons` if these have it, else from a topic `up`, else from a topic `measured_up`. Of
    several such topics the one in the namespace of `played` counts.
    """
    kinds = {c.topic: c.msgtype for c in reader.connections if c.msgcount}
    with_field = [c.topic for c in reader.connections if c.topic in skeletons and "Vector3 up" in c.definition]
    stated, measured = (
        _nearest([topic for topic, kind in kinds.items() if kind == UP and _name(topic) == _name(usual)], played)
        for usual in (UP_TOPIC, MEASURED_UP_TOPIC)
    )
    for topics in (with_field, stated, measured):
        found: dict[int, np.ndarray] = {}
        for _, _, raw in reader.messages(topics):
            length = struct.unpack_from("<I", raw, 12)[0]  # of the frame_id, after encapsulation and stamp
            vector = np.frombuffer(raw, "<f8", 3, 4 + -(-(12 + length) // 8) * 8)  # aligned to 8 bytes
            if np.isfinite(vector).all() and vector.any():
                found[stamp_ns(raw)] = gravity.check_up(vector)
        if found:
            stamps = sorted(found)
            return RecordedUps(np.array(stamps, np.int64), np.array([found[stamp] for stamp in stamps]))
    return None


def _name(topic: str) -> str:
    return topic.rpartition("/")[2]


def _nearest(topics: list[str], played: str) -> list[str]:
    """Return the topic that shares the most namespaces with `played`; none if several do."""

    def shared(topic: str) -> int:
        pairs = zip(topic.strip("/").split("/")[:-1], played.strip("/").split("/"), strict=False)
        return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))

    most = max(map(shared, topics), default=0)
    best = [topic for topic in topics if shared(topic) == most]
    return best if len(best) == 1 else []


def choose_topic(path: Path, reader: Bag, kind: str, preferred: tuple[str, ...], name: str = "") -> Channel:
    """Return the channel of type `kind` to play: on the given topic, a preferred one, or the only one.

    Raises:
        ConfigError: It is absent, or there are several and none is given.
    """
    channels = {c.topic: c for c in reader.connections if c.msgtype == kind and c.msgcount}
    topics = sorted(channels)
    topic = f"/{name.lstrip('/')}" if name else next((t for t in preferred if t in topics), topics[0])
    if topic not in topics or (not name and topic not in preferred and len(topics) > 1):
        raise ConfigError(f"bag '{path}': choose one of its topics with skeleton_topic: {', '.join(topics)}")
    return channels[topic]


def _body(skeleton: Any) -> Body:
    positions = np.array([(p.x, p.y, p.z) for p in skeleton.positions], dtype=np.float32).reshape(-1, 3)
    pixels = np.array(skeleton.pixels, dtype=np.float32).reshape(-1, 2)
    scores = np.array(skeleton.confidences, dtype=np.float32)
    if len(pixels) != len(positions):
        pixels = np.full((len(positions), 2), np.nan, np.float32)
    pixels, _ = convert(pixels, scores, skeleton.layout)
    positions, scores = convert(positions, scores, skeleton.layout)
    return Body(skeleton.body_id, CANONICAL, positions, pixels, scores)


@dataclass(frozen=True)
class Topics:
    """Image topics to play; None for a topic that the bag does not hold or that is not needed."""

    color: str
    depth: str | None
    info: str | None  # CameraInfo of the color images
    depth_info: str | None  # CameraInfo of the depth images, if they are not registered to color


def find_topics(path: Path, reader: Bag, config: RecordingConfig, encoding_of: Callable[[str], str]) -> Topics:
    """Choose the image topics of an open bag by type, name and encoding.

    `encoding_of` returns the encoding (or compressed format) of a topic's first message.

    Raises:
        ConfigError: A given topic is absent or not an image, several topics match equally, or the bag was recorded by
            librealsense.
        InputError: No image topic has a color encoding; the message lists the image topics.
    """
    types = {c.topic: c.msgtype for c in reader.connections if c.msgcount != 0}
    kinds = {topic: image_kind(topic, encoding_of(topic)) for topic, kind in types.items() if kind in IMAGE_TYPES}
    color = _given_topic(path, "color_topic", config.color_topic, types, IMAGE_TYPES)
    if color is None:
        colors = [topic for topic, kind in kinds.items() if kind == "color"]
        if not colors:
            if not kinds:
                raise nothing_to_play(path, reader)
            found = ", ".join(f"{t} ({encoding_of(t)})" for t in sorted(kinds))
            raise InputError(
                f"bag '{path}' has no color images of a supported encoding ({', '.join(COLOR_ENCODINGS)}, jpeg, png); "
                f"it has: {found}"
            )
        color = _single_best(path, "color_topic", {topic: _color_rank(topic, types[topic]) for topic in colors})
    depth: str | None = None
    if config.depth_topic != "none":
        depth = _given_topic(path, "depth_topic", config.depth_topic, types, IMAGE_TYPES)
        depths = {topic: _depth_rank(topic, types[topic], color) for topic, kind in kinds.items() if kind == "depth"}
        if depth is None and depths:
            depth = _single_best(path, "depth_topic", depths)
            if depth.startswith(_LIBREALSENSE):
                raise ConfigError(
                    f"'{path}' was recorded by librealsense, with depth neither registered nor in millimeters: play it "
                    "with driver realsense and its option recording"
                )
    info = _given_topic(path, "camera_info_topic", config.camera_info_topic, types, {INFO})
    if info is None:
        infos = [topic for topic, kind in types.items() if kind == INFO]
        only = infos[0] if len(infos) == 1 and "depth" not in infos[0] else None
        info = _info_in_namespace(color, types) or only
    depth_info = None if depth is None or is_registered(depth) else _info_in_namespace(depth, types)
    return Topics(color, depth, info, depth_info)


def is_registered(depth: str) -> bool:
    """Return whether a topic's name marks depth that is registered to color."""
    return any(word in depth for word in ("aligned_depth_to_color", "depth_registered", "depth_to_rgb"))


def image_kind(topic: str, encoding: str) -> str:
    """Return "color", "depth" or "other" for a topic by its encoding."""
    if encoding in DEPTH_ENCODINGS or "compressedDepth" in encoding:
        # Drivers of Azure Kinect, Orbbec and OpenNI publish 16-bit infrared.
        infrared = any(part == "ir" or part.startswith("infra") for part in topic.lower().split("/"))
        return "other" if infrared else "depth"
    if encoding.split(";")[0] in COLOR_ENCODINGS:  # as in "rgb8; jpeg compressed bgr8"
        return "color"
    if "bayer" in encoding:  # also compressed: decoding it gives its mosaic
        return "other"
    if any(kind in encoding.lower() for kind in ("jpeg", "jpg", "png")):
        return "depth" if "16UC1" in encoding or "depth" in topic else "color"
    return "other"


def _given_topic(path: Path, option: str, name: str, types: dict[str, str], allowed: set[str]) -> str | None:
    if not name:
        return None
    topic = name if name.startswith("/") else f"/{name}"
    if types.get(topic) not in allowed:
        found = ", ".join(sorted(t for t, kind in types.items() if kind in allowed)) or "none"
        raise ConfigError(f"bag '{path}' has no messages on {option} '{topic}'; it has: {found}")
    return topic


def _color_rank(topic: str, kind: str) -> tuple[int, ...]:
    """Return the rank of a color topic; the smallest is the best.

    A part that is just "rgb" marks an RGB-D camera. A ZED and other cameras of a robot use left/image_rect_color, or
    left/color/rect/image beside rgb/color/rect/image. Depth matches the rectified one.
    """
    parts = topic.lower().split("/")
    exact_parts = sum(part in _COLOR_WORDS for part in parts)
    color_word = any(word in topic.lower() for word in _COLOR_WORDS)
    usual = "image_rect" in topic or "image_raw" in topic
    # rgb_to_depth of an Azure Kinect is color registered to the depth camera.
    return "to_depth" in topic, -exact_parts, not color_word, kind != IMAGE, not usual, "mono" in topic, "raw" in parts


def _depth_rank(topic: str, kind: str, color: str) -> tuple[int, ...]:
    """Return the rank of a depth topic; the smallest is the best: in color's namespace, registered, uncompressed."""
    names, color_names = topic.split("/")[:-1], color.split("/")[:-1]
    # image_proc may publish registered depth outside the camera's namespace.
    above = list(takewhile(lambda name: "depth" not in name, names))
    other_camera = color.split("/")[: len(above)] != above
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(names, color_names, strict=False))))
    # With all transports recorded, `compressed` (JPEG of 8 bits) lies beside `compressedDepth`.
    return other_camera, not is_registered(topic), -shared, kind != IMAGE, not topic.endswith("compressedDepth")


def _single_best(path: Path, option: str, ranks: dict[str, tuple[int, ...]]) -> str:
    best = sorted(topic for topic, rank in ranks.items() if rank == min(ranks.values()))
    cameras = {match[1] if (match := _IMAGE_PROC.fullmatch(topic)) else topic for topic in best}
    if len(cameras) > 1:  # image_raw and image_rect_color of one camera show the same
        raise ConfigError(f"bag '{path}' has several: {', '.join(best)}; choose one with {option}")
    return best[0]


def _info_in_namespace(images: str, types: dict[str, str]) -> str | None:
    """Return the CameraInfo topic in an image topic's namespace or above."""
    parts = images.strip("/").split("/")
    # …/image_raw/compressed is one level deeper. The root namespace counts only for a camera without a namespace.
    last = 0 if len(parts) == 1 + (types[images] == COMPRESSED) else 1
    for cut in range(len(parts) - 1, last - 1, -1):
        info = "/" + "/".join([*parts[:cut], "camera_info"])
        if types.get(info) == INFO:
            return info
    return None
