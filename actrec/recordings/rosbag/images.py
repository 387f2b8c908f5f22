"""rosbag2 bags, mcap or sqlite3, through `rosbags`: no ROS needed.

What a bag tells of its cameras: the lens of each by its camera_info, by /tf_static where they sit to each other.

Pairs color with depth by stamp, as messages come in.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

from actrec.recordings import base, image_decoding
from actrec.recordings.base import Recording, RecordingConfig, existing, log
from actrec.recordings.rosbag.reader import (
    INFO,
    Topics,
    find_topics,
    is_registered,
    messages,
    open_reader,
    reading,
    restamped,
    stamp_ns,
)
from actrec.types import MAX_DEPTH_M, NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils import calibration_files
from actrec.utils.calibration_files import DepthGeometry, rotation_matrix
from actrec.utils.errors import ActrecError, InputError
from actrec.utils.registration import Registration

TRANSFORMS = "tf2_msgs/msg/TFMessage"

STATIC = "tf_static"
"""What the topic of transforms that hold for all times is called, whatever its namespace."""


def lens_of_topic(topic: str, info: Any, width: int, height: int, rectified: bool) -> Intrinsics:
    """The intrinsics of width×height images by the CameraInfo `info` on `topic`.

    Raises:
        InputError: It is of images of another size, of no calibrated camera, or of a lens model that is not known.
    """
    if (info.width, info.height) != (width, height):
        raise InputError(
            f"{topic} is of {info.width}×{info.height} images, but the color images are {width}×{height}; "
            "choose another with camera_info_topic, or give the option intrinsics"
        )
    k = [float(value) for value in info.k]
    if not (k[0] > 0 and k[4] > 0):  # nor NaN
        raise InputError(f"{topic} is of an uncalibrated camera (fx is {k[0]:g}): {base.REMEDY}")
    if rectified:
        p = [float(value) for value in info.p]
        fx, cx, fy, cy = (p[0], p[2], p[5], p[6]) if p[0] > 0 else (k[0], k[2], k[4], k[5])
        return Intrinsics(width, height, fx, fy, cx, cy)
    if not calibration_files.is_known(info.distortion_model, info.d):
        raise InputError(f"{topic} has distortion '{info.distortion_model}'; play the rectified images instead")
    try:
        distortion = calibration_files.distortion(info.d)
    except ValueError as error:
        raise InputError(f"{topic} has {error}; play the rectified images instead") from error
    return Intrinsics(width, height, k[0], k[4], k[2], k[5], distortion)


def registration(
    depth: Intrinsics, depth_frame: str, color: Intrinsics, color_frame: str, messages: Iterable[Any]
) -> Registration:
    """What registers depth images to the color images.

    Args:
        depth: Lens of the depth images.
        depth_frame: Optical frame that they are seen from.
        color: Lens of the color images.
        color_frame: Optical frame that those are seen from.
        messages: Of /tf_static.

    Raises:
        InputError: The messages do not tell where one frame is in the other.
    """
    held = {
        each.child_frame_id.lstrip("/"): (each.header.frame_id.lstrip("/"), _matrix(each.transform))
        for message in messages
        for each in message.transforms
    }
    root, pose = _in_root(held, depth_frame.lstrip("/"))
    other, color_pose = _in_root(held, color_frame.lstrip("/"))
    if root != other:
        raise InputError(f"/{STATIC} does not say where '{depth_frame}' is in '{color_frame}'")
    return Registration(depth, color, DepthGeometry(np.linalg.inv(color_pose) @ pose))


def _in_root(held: dict[str, tuple[str, np.ndarray]], frame: str) -> tuple[str, np.ndarray]:
    """The frame at the root of this one's tree, and the pose [4, 4] of this one in it."""
    pose = np.eye(4)
    for _ in range(len(held)):  # a loop of frames ends too
        if frame not in held:
            break
        frame, step = held[frame]
        pose = step @ pose
    return frame, pose


def _matrix(transform: Any) -> np.ndarray:
    """[4, 4] of a geometry_msgs Transform."""
    where, turn = transform.translation, transform.rotation
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrix(turn.x, turn.y, turn.z, turn.w)
    matrix[:3, 3] = where.x, where.y, where.z
    return matrix


MEMORY = 60
"""Messages of each kind kept: where depth is registered, or color compressed, one comes long after the other."""

_DEFAULT_PERIOD_NS = 33_333_333


def half_period_ns(stamps: list[int]) -> int:
    """Half the median interval of these stamps; of 30 Hz where there are too few."""
    steps = np.diff(np.asarray(stamps, dtype=np.int64))
    steps = steps[steps > 0]
    return int(np.median(steps) if len(steps) else _DEFAULT_PERIOD_NS) // 2


class Pairer:
    """Gives each color message the depth message nearest in stamp, in the order in which color came.

    Stamps need not grow: a recording whose clock was set back pairs on.

    Attributes:
        unpaired: Color messages given up, with no depth near enough.

    Args:
        tolerance_ns: Largest difference of the two stamps.
    """

    def __init__(self, tolerance_ns: int):
        self.unpaired = 0
        self._tolerance = tolerance_ns
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._depths: deque[tuple[int, bytes]] = deque(maxlen=MEMORY)

    def add_color(self, stamp: int, raw: bytes) -> list[tuple[bytes, bytes]]:
        """Takes a color message; returns the pairs (color, depth) that are now sure."""
        self._waiting.append((stamp, raw))
        return self._resolve(final=False)

    def add_depth(self, stamp: int, raw: bytes) -> list[tuple[bytes, bytes]]:
        """Takes a depth message; returns the pairs (color, depth) that are now sure."""
        self._depths.append((stamp, raw))
        return self._resolve(final=False)

    def flush(self) -> list[tuple[bytes, bytes]]:
        """The pairs left at the end of the recording."""
        return self._resolve(final=True)

    def _resolve(self, final: bool) -> list[tuple[bytes, bytes]]:
        pairs = []
        # One that has its depth says that those before it will get none any more.
        while self._waiting and (final or len(self._waiting) > MEMORY or any(self._sure(s) for s, _ in self._waiting)):
            stamp, color = self._waiting.popleft()
            index = self._nearest(stamp)
            if index is None:
                self.unpaired += 1
                continue
            pairs.append((color, self._depths[index][1]))
            for _ in range(index):  # what came before it is of color that came before
                self._depths.popleft()
        return pairs

    def _nearest(self, stamp: int) -> int | None:
        """Of the depth messages near enough the nearest, of two alike the newer."""
        away = [abs(other - stamp) for other, _ in self._depths]
        least = min(away, default=self._tolerance + 1)
        return len(away) - 1 - away[::-1].index(least) if least <= self._tolerance else None

    def _sure(self, stamp: int) -> bool:
        """Whether there is a depth message, and a farther one has come since or would be the next."""
        index = self._nearest(stamp)
        return index is not None and (index < len(self._depths) - 1 or self._depths[index][0] >= stamp)


STORE = get_typestore(Stores.ROS2_HUMBLE)
"""Images and CameraInfo are the same in every ROS 2 distribution since Humble."""

_AHEAD_NS = 2 * NANOSECONDS

_PEEK = 30
"""Color messages looked at to learn the frame rate and the images' size."""


class BagRecording(Recording):
    """Plays the color, depth and intrinsics of a bag; color without depth within half a frame is left out.

    So is a frame one of whose compressed images cannot be decoded: a cable spoils one, not those after it. Where the
    driver stamped no image, the times at which they were recorded stand for the stamps. Depth of another place or size
    than color is registered to it where the bag tells how: by the depth's camera_info and /tf_static.

    Attributes:
        topics: The topics that are played.
        unpaired: Color messages left out so far for want of depth.
        damaged: Frames left out so far because an image could not be decoded.

    Args:
        path: The bag's folder or file.
        config: Options; topics, and intrinsics for a bag without camera_info.

    Raises:
        DeviceError: There is no such bag.
        InputError: It is corrupt, has no color, or no camera_info.
        ConfigError: A topic is absent, or there are several and none is chosen.
    """

    def __init__(self, path: str | Path, config: RecordingConfig):
        super().__init__(existing(path), config)
        self.unpaired = self.damaged = 0
        self._unstamped = False
        self._metric = False  # whether an image has shown that depth is in metres
        self._registered: Registration | None = None
        self._reader = open_reader(self.path)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    @property
    def intrinsics(self) -> Intrinsics:
        """As the color topic's camera_info, or the options, say."""
        return self._intrinsics

    @property
    def duration_s(self) -> float:
        """Seconds from the first message of the bag to the last."""
        return self._reader.duration / NANOSECONDS

    def close(self) -> None:
        """Closes the bag; safe to call twice."""
        if self._reader.is_open:
            self._reader.close()

    def frames(self, start_s: float = 0.0) -> Iterator[RgbdFrame]:
        """Every frame from `start_s` after the first color message."""
        start = self._first_time + round(start_s * NANOSECONDS)
        pairer, damaged, produced = Pairer(self._tolerance), self.damaged, 0
        for color, depth in self._pairs(start, pairer):
            frame = self._decoded(color, depth)
            if frame is not None:
                produced += 1
                yield frame
        self._report(pairer, produced, self.damaged - damaged)

    def _pairs(self, start: int, pairer: Pairer) -> Iterator[tuple[bytes, bytes | None]]:
        """Messages of color and of its depth, from this log time on."""
        with reading(self.path):
            if self.topics.depth is None:
                for _, _, raw in self._messages([self.topics.color], start):
                    yield raw, None
                return
            # Depth may have been written long before the color that it belongs to.
            for topic, time, raw in self._messages([self.topics.color, self.topics.depth], start - _AHEAD_NS):
                if topic == self.topics.depth:
                    ready = pairer.add_depth(stamp_ns(raw), raw)
                elif time < start:
                    continue
                else:
                    ready = pairer.add_color(stamp_ns(raw), raw)
                yield from ready
            yield from pairer.flush()

    def _prepare(self) -> None:
        with reading(self.path):
            self.topics: Topics = find_topics(self.path, self._reader, self.config, self._encoding)
            times, stamps = [], []
            for _, time, raw in islice(self._messages([self.topics.color]), _PEEK):
                times.append(time)
                stamps.append(stamp_ns(raw))
        if not times:
            raise InputError(f"bag '{self.path}' has no message on its color topic {self.topics.color}")
        self._first_time = times[0]
        self._unstamped = len(stamps) > 1 and len(set(stamps)) == 1
        if self._unstamped:
            log.warning(
                "bag '%s': the images on %s all have one stamp, %g s: they are played by the times of their recording",
                self.path,
                self.topics.color,
                stamps[0] / NANOSECONDS,
            )
        self._tolerance = half_period_ns(times if self._unstamped else stamps)
        if self.topics.depth is None:
            log.warning("bag '%s' has no depth topic: frames come without depth", self.path)
        with reading(self.path):
            image, frame_id = self._first_image()
            height, width = image.shape[:2]
            self._intrinsics = self._resolve_intrinsics(width, height)
            self._registered = self._register(frame_id)

    def _first_image(self) -> tuple[np.ndarray, str]:
        """The first color image that can be decoded, and its frame_id."""
        problem: image_decoding.DamagedImageError | None = None
        for _, _, raw in islice(self._messages([self.topics.color]), _PEEK):
            try:
                return self._color(raw)
            except image_decoding.DamagedImageError as error:
                problem = problem or error
        raise InputError(f"bag '{self.path}': none of its first images can be decoded: {problem}") from problem

    def _register(self, frame_id: str) -> Registration | None:
        """What registers depth to color; None where it is, by its topic's name, its frame and its size, or cannot be.

        Says so where depth is not seen from where color is.
        """
        topic = self.topics.depth
        raw = self._first(topic)
        other = "" if topic is None or raw is None else self._deserialize(topic, raw).header.frame_id
        if not other or not frame_id:
            return None
        seen = f"bag '{self.path}': depth on {topic} is seen from '{other}', color from '{frame_id}'"
        try:
            registration = self._registration(other, frame_id)
        except InputError as error:
            if other != frame_id:
                log.warning(
                    "%s: where it is not registered to color joints get wrong depth, and it is not registered here "
                    "(%s); record registered depth (align_depth), or play without: depth_topic='none'",
                    seen,
                    error,
                )
            return None
        also = "" if other == frame_id else f" and /{STATIC}"
        log.warning("%s: it is registered to color by its camera_info%s", seen, also)
        return registration

    def _registration(self, depth_frame: str, color_frame: str) -> Registration:
        """By the bag's own camera_info and /tf_static.

        Raises:
            InputError: It takes none, or the bag does not hold what it takes.
        """
        topic, raw = self.topics.depth_info, self._first(self.topics.depth_info)
        if topic is None or raw is None or self.topics.depth is None:
            named = is_registered(self.topics.depth or "")
            raise InputError("its topic's name says that it is" if named else "the bag has no camera_info of it")
        info: Any = STORE.deserialize_cdr(raw, INFO)
        lens = lens_of_topic(topic, info, info.width, info.height, calibration_files.rectified(self.topics.depth))
        size, wanted = (lens.width, lens.height), (self._intrinsics.width, self._intrinsics.height)
        if topic == self.topics.info or lens == self._intrinsics or (depth_frame == color_frame and size == wanted):
            raise InputError("its camera_info is color's")
        kinds = {c.topic: c.msgtype for c in self._reader.connections if c.msgcount}
        static = [t for t, kind in kinds.items() if kind == TRANSFORMS and t.endswith(STATIC)]
        # As they are: transforms begin with their number, not with a header that could be stamped anew.
        held = [self._deserialize(t, raw) for t, _, raw in messages(self._reader, static)] if static else []
        return registration(lens, depth_frame, self._intrinsics, color_frame, held)

    def _first(self, topic: str | None) -> bytes | None:
        """The first message of a topic; None where there is none."""
        return None if topic is None else next((raw for _, _, raw in self._messages([topic])), None)

    def _resolve_intrinsics(self, width: int, height: int) -> Intrinsics:
        if self.config.intrinsics or not self.topics.info:
            try:
                return base.resolve(self.path, self.config, width, height)
            except InputError as error:
                if self.config.intrinsics or self.config.hfov_deg:
                    raise
                raise InputError(
                    f"bag '{self.path}' has no camera_info for {self.topics.color}: {base.REMEDY}"
                ) from error
        for _, _, raw in self._messages([self.topics.info]):
            info, straight = STORE.deserialize_cdr(raw, INFO), calibration_files.rectified(self.topics.color)
            return lens_of_topic(self.topics.info, info, width, height, straight)
        raise InputError(f"bag '{self.path}' has no message on {self.topics.info}: {base.REMEDY}")

    def _messages(self, topics: list[str], start: int | None = None) -> Iterator[tuple[str, int, bytes]]:
        for topic, time, raw in messages(self._reader, topics, start):
            yield topic, time, restamped(raw, time) if self._unstamped else raw

    def _encoding(self, topic: str) -> str:
        """The encoding of a topic's first image; empty where it has none."""
        for _, _, raw in self._messages([topic]):
            message = self._deserialize(topic, raw)
            return message.encoding if hasattr(message, "encoding") else message.format
        return ""

    def _deserialize(self, topic: str, raw: bytes) -> Any:
        kind = next(c.msgtype for c in self._reader.connections if c.topic == topic)
        return STORE.deserialize_cdr(raw, kind)

    def _color(self, raw: bytes) -> tuple[np.ndarray, str]:
        """The image and its frame_id."""
        message = self._deserialize(self.topics.color, raw)
        if hasattr(message, "format"):
            return image_decoding.decompress_color(message.data), message.header.frame_id
        return image_decoding.color(message.encoding, _pixels(message)), message.header.frame_id

    def _depth(self, raw: bytes) -> np.ndarray:
        assert self.topics.depth is not None
        message = self._deserialize(self.topics.depth, raw)
        scale = self.config.depth_scale
        if hasattr(message, "format"):
            metres = image_decoding.decompress_depth(message.format, message.data, scale)
        else:
            metres = image_decoding.depth(message.encoding, _pixels(message), scale)
        if not self._metric:
            self._check_unit(metres)
        return metres if self._registered is None else self._registered.register(metres)

    def _check_unit(self, metres: np.ndarray) -> None:
        """Refuses millimetres taken for metres, until an image is near: later ones may be of the sky alone."""
        if (away := _nearly_least(metres)) > MAX_DEPTH_M:
            raise InputError(
                f"depth on {self.topics.depth} is {away:.0f} m or more nearly everywhere, expected metres: is it in "
                "millimetres? Then give depth_scale=0.001, the metres of one unit"
            )
        self._metric = away > 0

    def _frame(self, color: bytes, depth: bytes | None) -> RgbdFrame:
        try:
            image, frame_id = self._color(color)
            metres = None if depth is None else self._depth(depth)
            frame = RgbdFrame(stamp_ns(color), image, metres, self._intrinsics, frame_id)
            frame.check()
        except ActrecError as error:
            raise type(error)(f"bag '{self.path}': {error}") from error
        return frame

    def _decoded(self, color: bytes, depth: bytes | None) -> RgbdFrame | None:
        """The frame; None where an image of it is damaged."""
        try:
            with reading(self.path):
                return self._frame(color, depth)
        except image_decoding.DamagedImageError as error:
            if not self.damaged:
                log.warning("%s; such frames are left out", error)
            self.damaged += 1
            return None

    def _report(self, pairer: Pairer, produced: int, damaged: int) -> None:
        self.unpaired += pairer.unpaired
        if damaged and not produced:
            raise InputError(f"bag '{self.path}': the images of none of {damaged} frames can be decoded")
        if damaged:
            log.warning("bag '%s': left out %d frames whose images cannot be decoded", self.path, damaged)
        if not produced and pairer.unpaired:
            raise InputError(
                f"bag '{self.path}': none of {pairer.unpaired} color images has depth within "
                f"{self._tolerance / 1e6:.1f} ms; play without with depth_topic='none'"
            )
        if pairer.unpaired:
            log.warning("bag '%s': left out %d color images without depth", self.path, pairer.unpaired)


def _nearly_least(metres: np.ndarray) -> float:
    """What all but a twentieth of the known depth is beyond, by some of the pixels; 0 where less than that is known."""
    few = metres[::8, ::8]
    known = few[np.isfinite(few)]
    return float(np.percentile(known, 5)) if known.size > 0.05 * few.size else 0.0


def _pixels(message: Any) -> np.ndarray:
    return image_decoding.pixels(
        message.encoding, message.width, message.height, message.step, bool(message.is_bigendian), message.data
    )
