"""rosbag2 bags, mcap or sqlite3, through `rosbags`: no ROS needed."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

from actrec.capture.registration import Registration
from actrec.errors import ActrecError, InputError
from actrec.frames import MAX_DEPTH_M, NANOSECONDS, Intrinsics, RgbdFrame
from actrec.recordings import bag_cameras, images, intrinsics
from actrec.recordings.bag_reader import messages, open_reader, reading, restamped, stamp_ns
from actrec.recordings.bag_topics import INFO, Topics, find_topics, is_registered
from actrec.recordings.base import Recording, RecordingConfig, existing, log
from actrec.recordings.pairing import Pairer, half_period_ns

STORE = get_typestore(Stores.ROS2_HUMBLE)
"""Images and CameraInfo are the same in every ROS 2 distribution since Humble."""
_AHEAD_NS = 2 * NANOSECONDS
_PEEK = 30
"""Colour messages looked at to learn the frame rate and the images' size."""


class BagRecording(Recording):
    """Plays the colour, depth and intrinsics of a bag; colour without depth within half a frame is left out.

    So is a frame one of whose compressed images cannot be decoded: a cable spoils one, not those after it. Where the
    driver stamped no image, the times at which they were recorded stand for the stamps. Depth of another place or size
    than colour is registered to it where the bag tells how: by the depth's camera_info and /tf_static.

    Attributes:
        topics: The topics that are played.
        unpaired: Colour messages left out so far for want of depth.
        damaged: Frames left out so far because an image could not be decoded.

    Args:
        path: The bag's folder or file.
        config: Options; topics, and intrinsics for a bag without camera_info.

    Raises:
        DeviceError: There is no such bag.
        InputError: It is corrupt, has no colour, or no camera_info.
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
        """As the colour topic's camera_info, or the options, say."""
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
        """Every frame from `start_s` after the first colour message."""
        start = self._first_time + round(start_s * NANOSECONDS)
        pairer, damaged, produced = Pairer(self._tolerance), self.damaged, 0
        for colour, depth in self._pairs(start, pairer):
            frame = self._decoded(colour, depth)
            if frame is not None:
                produced += 1
                yield frame
        self._report(pairer, produced, self.damaged - damaged)

    def _pairs(self, start: int, pairer: Pairer) -> Iterator[tuple[bytes, bytes | None]]:
        """Messages of colour and of its depth, from this log time on."""
        with reading(self.path):
            if self.topics.depth is None:
                for _, _, raw in self._messages([self.topics.colour], start):
                    yield raw, None
                return
            # Depth may have been written long before the colour that it belongs to.
            for topic, time, raw in self._messages([self.topics.colour, self.topics.depth], start - _AHEAD_NS):
                if topic == self.topics.depth:
                    ready = pairer.add_depth(stamp_ns(raw), raw)
                elif time < start:
                    continue
                else:
                    ready = pairer.add_colour(stamp_ns(raw), raw)
                yield from ready
            yield from pairer.flush()

    def _prepare(self) -> None:
        with reading(self.path):
            self.topics: Topics = find_topics(self.path, self._reader, self.config, self._encoding)
            times, stamps = [], []
            for _, time, raw in islice(self._messages([self.topics.colour]), _PEEK):
                times.append(time)
                stamps.append(stamp_ns(raw))
        if not times:
            raise InputError(f"bag '{self.path}' has no message on its colour topic {self.topics.colour}")
        self._first_time = times[0]
        self._unstamped = len(stamps) > 1 and len(set(stamps)) == 1
        if self._unstamped:
            log.warning(
                "bag '%s': the images on %s all have one stamp, %g s: they are played by the times of their recording",
                self.path,
                self.topics.colour,
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
        """The first colour image that can be decoded, and its frame_id."""
        problem: images.DamagedImageError | None = None
        for _, _, raw in islice(self._messages([self.topics.colour]), _PEEK):
            try:
                return self._colour(raw)
            except images.DamagedImageError as error:
                problem = problem or error
        raise InputError(f"bag '{self.path}': none of its first images can be decoded: {problem}") from problem

    def _register(self, frame_id: str) -> Registration | None:
        """What registers depth to colour; None where it is, by its topic's name, its frame and its size, or cannot be.

        Says so where depth is not seen from where colour is.
        """
        topic = self.topics.depth
        raw = self._first(topic)
        other = "" if topic is None or raw is None else self._deserialize(topic, raw).header.frame_id
        if not other or not frame_id:
            return None
        seen = f"bag '{self.path}': depth on {topic} is seen from '{other}', colour from '{frame_id}'"
        try:
            registration = self._registration(other, frame_id)
        except InputError as error:
            if other != frame_id:
                log.warning(
                    "%s: where it is not registered to colour joints get wrong depth, and it is not registered here "
                    "(%s); record registered depth (align_depth), or play without: depth_topic='none'",
                    seen,
                    error,
                )
            return None
        also = "" if other == frame_id else f" and /{bag_cameras.STATIC}"
        log.warning("%s: it is registered to colour by its camera_info%s", seen, also)
        return registration

    def _registration(self, depth_frame: str, colour_frame: str) -> Registration:
        """By the bag's own camera_info and /tf_static.

        Raises:
            InputError: It takes none, or the bag does not hold what it takes.
        """
        topic, raw = self.topics.depth_info, self._first(self.topics.depth_info)
        if topic is None or raw is None or self.topics.depth is None:
            named = is_registered(self.topics.depth or "")
            raise InputError("its topic's name says that it is" if named else "the bag has no camera_info of it")
        info: Any = STORE.deserialize_cdr(raw, INFO)
        lens = bag_cameras.lens(topic, info, info.width, info.height, intrinsics.rectified(self.topics.depth))
        size, wanted = (lens.width, lens.height), (self._intrinsics.width, self._intrinsics.height)
        if topic == self.topics.info or lens == self._intrinsics or (depth_frame == colour_frame and size == wanted):
            raise InputError("its camera_info is colour's")
        kinds = {c.topic: c.msgtype for c in self._reader.connections if c.msgcount}
        static = [t for t, kind in kinds.items() if kind == bag_cameras.TRANSFORMS and t.endswith(bag_cameras.STATIC)]
        # As they are: transforms begin with their number, not with a header that could be stamped anew.
        held = [self._deserialize(t, raw) for t, _, raw in messages(self._reader, static)] if static else []
        return bag_cameras.registration(lens, depth_frame, self._intrinsics, colour_frame, held)

    def _first(self, topic: str | None) -> bytes | None:
        """The first message of a topic; None where there is none."""
        return None if topic is None else next((raw for _, _, raw in self._messages([topic])), None)

    def _resolve_intrinsics(self, width: int, height: int) -> Intrinsics:
        if self.config.intrinsics or not self.topics.info:
            try:
                return intrinsics.resolve(self.path, self.config, width, height)
            except InputError as error:
                if self.config.intrinsics or self.config.hfov_deg:
                    raise
                raise InputError(
                    f"bag '{self.path}' has no camera_info for {self.topics.colour}: {intrinsics.REMEDY}"
                ) from error
        for _, _, raw in self._messages([self.topics.info]):
            info, straight = STORE.deserialize_cdr(raw, INFO), intrinsics.rectified(self.topics.colour)
            return bag_cameras.lens(self.topics.info, info, width, height, straight)
        raise InputError(f"bag '{self.path}' has no message on {self.topics.info}: {intrinsics.REMEDY}")

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

    def _colour(self, raw: bytes) -> tuple[np.ndarray, str]:
        """The image and its frame_id."""
        message = self._deserialize(self.topics.colour, raw)
        if hasattr(message, "format"):
            return images.decompress_colour(message.data), message.header.frame_id
        return images.colour(message.encoding, _pixels(message)), message.header.frame_id

    def _depth(self, raw: bytes) -> np.ndarray:
        assert self.topics.depth is not None
        message = self._deserialize(self.topics.depth, raw)
        scale = self.config.depth_scale
        if hasattr(message, "format"):
            metres = images.decompress_depth(message.format, message.data, scale)
        else:
            metres = images.depth(message.encoding, _pixels(message), scale)
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

    def _frame(self, colour: bytes, depth: bytes | None) -> RgbdFrame:
        try:
            image, frame_id = self._colour(colour)
            metres = None if depth is None else self._depth(depth)
            frame = RgbdFrame(stamp_ns(colour), image, metres, self._intrinsics, frame_id)
            frame.check()
        except ActrecError as error:
            raise type(error)(f"bag '{self.path}': {error}") from error
        return frame

    def _decoded(self, colour: bytes, depth: bytes | None) -> RgbdFrame | None:
        """The frame; None where an image of it is damaged."""
        try:
            with reading(self.path):
                return self._frame(colour, depth)
        except images.DamagedImageError as error:
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
                f"bag '{self.path}': none of {pairer.unpaired} colour images has depth within "
                f"{self._tolerance / 1e6:.1f} ms; play without with depth_topic='none'"
            )
        if pairer.unpaired:
            log.warning("bag '%s': left out %d colour images without depth", self.path, pairer.unpaired)


def _nearly_least(metres: np.ndarray) -> float:
    """What all but a twentieth of the known depth is beyond, by some of the pixels; 0 where less than that is known."""
    few = metres[::8, ::8]
    known = few[np.isfinite(few)]
    return float(np.percentile(known, 5)) if known.size > 0.05 * few.size else 0.0


def _pixels(message: Any) -> np.ndarray:
    return images.pixels(
        message.encoding, message.width, message.height, message.step, bool(message.is_bigendian), message.data
    )
