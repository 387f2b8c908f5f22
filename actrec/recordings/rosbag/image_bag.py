"""Playback of the images of rosbag2 bags (mcap or sqlite3): color, with depth paired and registered to it."""

import contextlib
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rosbags.typesys import Stores, get_typestore

from actrec.recordings import (
    INTRINSICS_REMEDY,
    Recording,
    RecordingConfig,
    existing_path,
    image_decoding,
    log,
    resolve_intrinsics,
)
from actrec.recordings.image_decoding import DamagedImageError
from actrec.recordings.rosbag.bag_reader import (
    IMAGE_TYPES,
    INFO,
    SKELETONS,
    OpenBag,
    RecordedUps,
    SkeletonBagRecording,
    find_topics,
    image_kind,
    is_registered,
    reading,
    recorded_ups,
    stamp_ns,
)
from actrec.types import MAX_DEPTH_M, NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils import camera_model
from actrec.utils.calibration_files import DepthGeometry, rectified, rotation_matrix, transform
from actrec.utils.errors import ActrecError, InputError
from actrec.utils.registration import Registration

STORE = get_typestore(Stores.ROS2_HUMBLE)
"""Image and CameraInfo messages are the same in every ROS 2 distribution since Humble."""

TRANSFORMS, STATIC_TRANSFORMS = "tf2_msgs/msg/TFMessage", "tf_static"  # type and topic name, in any namespace

QUEUE_SIZE = 60
"""Messages of each kind kept for pairing: registered depth or compressed color may be logged much later."""

_DEFAULT_PERIOD_NS = 33_333_333
_AHEAD_NS = 2 * NANOSECONDS  # depth may be logged this long before its color
_PROBE = 30  # color messages read to find the frame rate and the image size


def open_bag(path: str | Path, config: RecordingConfig) -> Recording:
    """Open a bag: its images, or its skeletons if it has no color images; raises as `BagRecording`."""
    path = existing_path(path)
    return (BagRecording if contents(path, config)[0] else SkeletonBagRecording)(path, config)


def contents(path: Path, config: RecordingConfig) -> tuple[bool, bool]:
    """Return whether the images of a bag are played, not skeletons, and if there is depth; raises as `BagRecording`."""
    bag = _Contents(path, config)
    with bag:
        return not bag.is_joints, bag.is_joints or bag.topics.depth is not None


class BagRecording(OpenBag):
    """Playback of a bag's color, depth and intrinsics.

    Color images without depth within half a frame, and frames with an image that cannot be decoded, are skipped. If the
    driver did not stamp the images, the log times replace the stamps. Depth from another place or of another size than
    color is registered to color, if the bag holds the depth's camera_info and /tf_static.

    Attributes:
        topics: The topics that are played.
        damaged: Number of frames skipped so far because an image could not be decoded.

    Raises:
        DeviceError: The bag does not exist.
        InputError: The bag is corrupt, or has no color or no camera_info.
        ConfigError: A topic is absent, or several match and none is chosen.
    """

    def _prepare(self) -> None:
        self.damaged = 0
        self._unstamped = False
        self._metric = False  # whether an image has shown that depth is in meters
        self._registration: Registration | None = None
        self._ups: RecordedUps | None = None
        with reading(self.path):
            self.topics = find_topics(self.path, self._reader, self.config, self._encoding)
            probe = [(time, stamp_ns(raw)) for _, time, raw in islice(self._messages([self.topics.color]), _PROBE)]
        if not probe:
            raise InputError(f"bag '{self.path}' has no message on its color topic {self.topics.color}")
        times, stamps = zip(*probe, strict=True)
        self._first_time = times[0]
        self._unstamped = len(stamps) > 1 and len(set(stamps)) == 1
        if self._unstamped:
            text = "bag '%s': all images on %s have the stamp %g s: using their log times instead"
            log.warning(text, self.path, self.topics.color, stamps[0] / NANOSECONDS)
        self._tolerance = _half_period_ns(times if self._unstamped else stamps)
        if self.topics.depth is None:
            log.warning("bag '%s' has no depth topic: frames come without depth", self.path)
        with reading(self.path):
            image, frame_id = self._first_image()
            self.intrinsics = self._resolve_intrinsics(image.shape[1], image.shape[0])
            self._registration = self._register(frame_id)
            skeletons = [c.topic for c in self._reader.connections if c.msgtype == SKELETONS]
            self._ups = recorded_ups(self._reader, self.topics.color, skeletons)

    def _frames(self, start_s: float) -> Iterator[RgbdFrame]:
        start = self._first_time + round(start_s * NANOSECONDS)
        pairer, before, produced = _Pairer(self._tolerance), self.damaged, 0
        for color, depth in self._pairs(start, pairer):
            frame = self._decode(color, depth)
            if frame is not None:
                produced += 1
                yield frame
        damaged = self.damaged - before
        if damaged and not produced:
            raise InputError(f"bag '{self.path}': the images of none of {damaged} frames can be decoded")
        if damaged:
            self._warn_once("bag '%s': skipped %d frames whose images cannot be decoded", self.path, damaged)
        if pairer.unpaired and not produced:
            raise InputError(
                f"bag '{self.path}': none of {pairer.unpaired} color images has depth within "
                f"{self._tolerance / 1e6:.1f} ms; play it without depth: depth_topic='none'"
            )
        if pairer.unpaired:
            self._warn_once("bag '%s': skipped %d color images without depth", self.path, pairer.unpaired)

    def _pairs(self, start: int, pairer: "_Pairer") -> Iterator[tuple[bytes, bytes | None]]:
        """Yield messages of color and its depth, from log time `start` on."""
        with reading(self.path):
            if self.topics.depth is None:
                for _, _, raw in self._messages([self.topics.color], start):
                    yield raw, None
                return
            for topic, time, raw in self._messages([self.topics.color, self.topics.depth], start - _AHEAD_NS):
                if topic == self.topics.depth:
                    pairer.depths.append((stamp_ns(raw), raw))
                elif time >= start:
                    pairer.colors.append((stamp_ns(raw), raw))
                yield from pairer.resolve()
            yield from pairer.resolve(final=True)

    def _first_image(self) -> tuple[np.ndarray, str]:
        """Return the first color image that can be decoded, and its frame_id."""
        problem: DamagedImageError | None = None
        for _, _, raw in islice(self._messages([self.topics.color]), _PROBE):
            try:
                return self._color(raw)
            except DamagedImageError as error:
                problem = problem or error
        raise InputError(f"bag '{self.path}': none of its first images can be decoded: {problem}") from problem

    def _register(self, frame_id: str) -> Registration | None:
        """Return the registration of depth to color; None if already registered or impossible.

        Warn if depth is in another frame than color.
        """
        topic, first = self.topics.depth, self._first_whole(self.topics.depth)
        other = "" if first is None else first.header.frame_id
        if not other or not frame_id:
            return None
        frames = f"bag '{self.path}': depth on {topic} is in frame '{other}', color in '{frame_id}'"
        try:
            registration = self._find_registration(other, frame_id)
        except InputError as error:
            if other != frame_id:
                text = (
                    "%s: joints get wrong depth if it is not registered to color, and it cannot be registered here "
                    "(%s); record registered depth (align_depth), or play without depth: depth_topic='none'"
                )
                log.warning(text, frames, error)
            return None
        static_source = "" if other == frame_id else f" and /{STATIC_TRANSFORMS}"
        log.warning("%s: registering it to color by its camera_info%s", frames, static_source)
        return registration

    def _find_registration(self, depth_frame: str, color_frame: str) -> Registration:
        """Return it by camera_info and /tf_static; raise InputError without, or if depth is registered already."""
        topic, raw = self.topics.depth_info, self._first(self.topics.depth_info)
        if topic is None or raw is None or self.topics.depth is None:
            if is_registered(self.topics.depth or ""):
                raise InputError("its topic name marks it registered")
            raise InputError("the bag has no camera_info for it")
        info: Any = STORE.deserialize_cdr(raw, INFO)
        lens = camera_model.from_camera_info(topic, info, rectified(self.topics.depth))
        same_size = (lens.width, lens.height) == (self.intrinsics.width, self.intrinsics.height)
        if topic == self.topics.info or lens == self.intrinsics or (depth_frame == color_frame and same_size):
            raise InputError("it has the camera_info of color")
        kinds = {c.topic: c.msgtype for c in self._reader.connections if c.msgcount}
        static = [t for t, kind in kinds.items() if kind == TRANSFORMS and t.endswith(STATIC_TRANSFORMS)]
        # Not through self._messages: these messages have no header whose stamp could be replaced.
        transforms = [self._deserialize(channel.topic, raw) for channel, _, raw in self._reader.messages(static)]
        pose = _pose_of_depth(transforms, depth_frame, color_frame)
        return Registration(lens, self.intrinsics, DepthGeometry(pose))

    def _first(self, topic: str | None) -> bytes | None:
        """Return the first message of a topic, or None."""
        return None if topic is None else next((raw for _, _, raw in self._messages([topic])), None)

    def _resolve_intrinsics(self, width: int, height: int) -> Intrinsics:
        topic, raw = self.topics.info, self._first(self.topics.info)
        if self.config.intrinsics or (raw is None and self.config.hfov_deg):
            return resolve_intrinsics(self.path, self.config, width, height)
        if topic is None or raw is None:
            raise InputError(f"bag '{self.path}' has no camera_info for {self.topics.color}: {INTRINSICS_REMEDY}")
        info: Any = STORE.deserialize_cdr(raw, INFO)
        if not info.k[0]:  # a driver without a calibration publishes K of zeros
            if self.config.hfov_deg:
                return resolve_intrinsics(self.path, self.config, width, height)
            raise InputError(f"{topic} is of an uncalibrated camera (fx is 0): {INTRINSICS_REMEDY}")
        if (info.width, info.height) != (width, height):
            raise InputError(
                f"{topic} is for {info.width}×{info.height} images, but the color images are {width}×{height}; "
                "choose another with camera_info_topic, or give the option intrinsics"
            )
        return camera_model.from_camera_info(topic, info, rectified(self.topics.color))

    def _messages(self, topics: list[str], start: int | None = None) -> Iterator[tuple[str, int, bytes]]:
        for channel, time, raw in self._reader.messages(topics, start):
            if self._unstamped:  # replace the stamp of the header
                stamp = struct.pack("<iI" if raw[1] & 1 else ">iI", *divmod(time, NANOSECONDS))
                raw = raw[:4] + stamp + raw[12:]
            yield channel.topic, time, raw

    def _first_whole(self, topic: str | None) -> Any:
        """Return the first of a topic's messages that is not damaged, or None."""
        for _, _, raw in islice(self._messages([topic]), _PROBE) if topic else ():
            with contextlib.suppress(DamagedImageError):
                return self._deserialize(str(topic), raw)
        return None

    def _encoding(self, topic: str) -> str:
        """Return the encoding of a topic's first whole image; empty without images."""
        message = self._first_whole(topic)
        return "" if message is None else str(getattr(message, "encoding", None) or getattr(message, "format", ""))

    def _deserialize(self, topic: str, raw: bytes) -> Any:
        kind = next(c.msgtype for c in self._reader.connections if c.topic == topic)
        try:
            return STORE.deserialize_cdr(raw, kind)
        except Exception as error:  # rosbags raises various errors
            raise DamagedImageError(f"a message on {topic} is damaged ({type(error).__name__}: {error})") from error

    def _color(self, raw: bytes) -> tuple[np.ndarray, str]:
        """Return the image and its frame_id."""
        message = self._deserialize(self.topics.color, raw)
        if hasattr(message, "format"):
            return image_decoding.decompress_color(message.data), message.header.frame_id
        return image_decoding.color(message.encoding, image_decoding.pixels(message)), message.header.frame_id

    def _depth(self, raw: bytes) -> tuple[np.ndarray, float]:
        """Return depth in meters and the length of its unit, m."""
        assert self.topics.depth is not None
        message = self._deserialize(self.topics.depth, raw)
        packed = getattr(message, "format", "")
        encoding = ("32FC1" if packed.startswith("32FC1") else "16UC1") if packed else message.encoding
        unit = image_decoding.depth_unit(encoding, self.config.depth_scale)
        if packed:
            camera, registration = self.intrinsics, self._registration
            shape = (camera.height, camera.width) if registration is None else registration.shape
            meters = image_decoding.decompress_depth(packed, message.data, self.config.depth_scale, shape)
        else:
            meters = image_decoding.depth(encoding, image_decoding.pixels(message), unit)
        if not self._metric:
            self._check_unit(meters)
        return meters if self._registration is None else self._registration.register(meters), unit

    def _check_unit(self, meters: np.ndarray) -> None:
        """Refuse millimeters read as meters, until one image is near: later images may show the sky only."""
        subset = meters[::8, ::8]
        known = subset[np.isfinite(subset)]
        near = float(np.percentile(known, 5)) if known.size > 0.05 * subset.size else 0.0
        if near > MAX_DEPTH_M:
            raise InputError(
                f"depth on {self.topics.depth} is {near:.0f} m or more nearly everywhere, expected meters; if it is in "
                "millimeters, give depth_scale=0.001"
            )
        self._metric = near > 0

    def _decode(self, color: bytes, depth: bytes | None) -> RgbdFrame | None:
        """Return the frame, or None if one of its images is damaged."""
        with reading(self.path):
            try:
                image, frame_id = self._color(color)
                meters, unit = (None, 1.0) if depth is None else self._depth(depth)
                frame = RgbdFrame(stamp_ns(color), image, meters, self.intrinsics, frame_id, depth_scale=unit)
                frame.up = None if self._ups is None else self._ups.at(frame.stamp_ns)
                frame.check()
                return frame
            except DamagedImageError as error:
                if not self.damaged:
                    log.warning("bag '%s': %s; skipping such frames", self.path, error)
                self.damaged += 1
                return None
            except ActrecError as error:
                raise type(error)(f"bag '{self.path}': {error}") from error


class _Contents(BagRecording):
    """Whether a bag plays joints, else its topics, without the warnings that its playback gives."""

    quiet: ClassVar = True

    def _prepare(self) -> None:
        self._unstamped = False
        with reading(self.path):
            kinds = {channel.topic: channel.msgtype for channel in self._reader.connections if channel.msgcount}
            images = [topic for topic, kind in kinds.items() if kind in IMAGE_TYPES]
            has_color = any(image_kind(topic, self._encoding(topic)) == "color" for topic in images)
            self.is_joints = SKELETONS in kinds.values() and not has_color and not self.config.color_topic
            if self.is_joints:
                return
            self.topics = find_topics(self.path, self._reader, self.config, self._encoding)


class _Pairer:
    """Matching of each color message with the depth message nearest in stamp, in the order of color.

    Stamps need not increase: pairing continues after the clock was set back.

    Attributes:
        colors, depths: Stamp and message of each image not yet paired.
        unpaired: Number of color messages without depth within the tolerance.
    """

    def __init__(self, tolerance_ns: int):
        self.colors: deque[tuple[int, bytes]] = deque()
        self.depths: deque[tuple[int, bytes]] = deque(maxlen=QUEUE_SIZE)
        self.unpaired = 0
        self._tolerance = tolerance_ns

    def resolve(self, final: bool = False) -> list[tuple[bytes, bytes]]:
        """Remove and return the pairs (color, depth) that later messages cannot change, or all of them at the end."""
        pairs = []
        # After a message with a final match, earlier ones get no other depth.
        while self.colors and (
            final or len(self.colors) > QUEUE_SIZE or any(self._is_final(stamp) for stamp, _ in self.colors)
        ):
            stamp, color = self.colors.popleft()
            index = self._nearest(stamp)
            if index is None:
                self.unpaired += 1
                continue
            pairs.append((color, self.depths[index][1]))
            for _ in range(index):  # earlier depth belongs to earlier color
                self.depths.popleft()
        return pairs

    def _nearest(self, stamp: int) -> int | None:
        """Return the index of the nearest depth message within the tolerance; of two equally near, the newer."""
        distances = [abs(other - stamp) for other, _ in self.depths]
        smallest = min(distances, default=self._tolerance + 1)
        return len(distances) - 1 - distances[::-1].index(smallest) if smallest <= self._tolerance else None

    def _is_final(self, stamp: int) -> bool:
        """Return whether no later depth message can be nearer to `stamp`."""
        index = self._nearest(stamp)
        return index is not None and (index < len(self.depths) - 1 or self.depths[index][0] >= stamp)


def _half_period_ns(stamps: Iterable[int]) -> int:
    """Return half the median interval of stamps, ns; 1/60 s for too few stamps."""
    steps = np.diff(np.array(list(stamps), dtype=np.int64))
    steps = steps[steps > 0]
    return int(np.median(steps) if len(steps) else _DEFAULT_PERIOD_NS) // 2


def _pose_of_depth(static: Iterable[Any], depth_frame: str, color_frame: str) -> np.ndarray:
    """Return the pose [4, 4] of the depth in the color frame, m, by /tf_static; raise InputError if it is missing."""
    steps: dict[str, tuple[str, np.ndarray]] = {}
    for message in static:
        for stamped in message.transforms:
            shift, turn = stamped.transform.translation, stamped.transform.rotation
            step = transform(rotation_matrix(turn.x, turn.y, turn.z, turn.w), (shift.x, shift.y, shift.z))
            steps[stamped.child_frame_id.lstrip("/")] = stamped.header.frame_id.lstrip("/"), step

    def in_root(frame: str) -> tuple[str, np.ndarray]:
        pose = np.eye(4)
        for _ in range(len(steps)):  # also ends in a loop of frames
            if frame not in steps:
                break
            frame, step = steps[frame]
            pose = step @ pose
        return frame, pose

    root, pose = in_root(depth_frame.lstrip("/"))
    other, color_pose = in_root(color_frame.lstrip("/"))
    if root != other:
        raise InputError(f"/{STATIC_TRANSFORMS} has no transform from '{depth_frame}' to '{color_frame}'")
    return np.linalg.inv(color_pose) @ pose
