"""Bags with skeletons and no images, as `actrec record --topics skeletons` makes them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import MessageDefinitionFormat
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from actrec.recordings.base import RecordingConfig, resolve_or_nominal
from actrec.recordings.rosbag.bag_reader import OpenBag, messages, reading, stamp_ns
from actrec.recordings.rosbag.bag_writer import SKELETONS_TOPIC, TRUE_SKELETONS_TOPIC, typestore_with
from actrec.recordings.skeleton_files import KINECT_V1
from actrec.skeleton.conversions import CANONICAL, convert
from actrec.types import NANOSECONDS, Body, RgbdFrame
from actrec.utils.errors import ConfigError

SKELETONS = "actrec_msgs/msg/SkeletonArray"

PREFERRED_TOPICS = (SKELETONS_TOPIC, TRUE_SKELETONS_TOPIC)


class SkeletonBagRecording(OpenBag):
    """Playback of a bag's `SkeletonArray` topic: frames with `color` and `depth` None and the bodies in `skeletons`.

    Attributes:
        topic: The topic that is played.

    Args:
        path: The bag's folder or file.
        config: Options; `skeleton_topic` chooses one of several.

    Raises:
        DeviceError: The bag does not exist.
        InputError: The bag is corrupt.
        ConfigError: The topic is absent, or several match and none is chosen.
    """

    def __init__(self, path: str | Path, config: RecordingConfig):
        super().__init__(path, config)
        try:
            self.topic = choose_topic(self.path, self._reader, SKELETONS, PREFERRED_TOPICS, config.skeleton_topic)
            self._store = typestore_of(self.path, self._reader, self.topic, SKELETONS)
            self.intrinsics = resolve_or_nominal(self.path, config, KINECT_V1)
            with reading(self.path):
                self._first_time = next(time for _, time, _ in messages(self._reader, [self.topic]))
        except BaseException:
            self.close()
            raise

    def frames(self, start_s: float = 0.0) -> Iterator[RgbdFrame]:
        """Yield a frame for each message from `start_s` after the first; `skeletons` may be empty."""
        start = self._first_time + round(start_s * NANOSECONDS)
        with reading(self.path):
            for _, _, raw in messages(self._reader, [self.topic], start):
                message = self._store.deserialize_cdr(raw, SKELETONS)
                bodies = [_body(skeleton) for skeleton in message.skeletons]
                yield RgbdFrame(stamp_ns(raw), None, None, self.intrinsics, message.header.frame_id, bodies)


def choose_topic(path: Path, reader: Any, kind: str, preferred: tuple[str, ...], name: str = "") -> str:
    """Return the topic of type `kind` to play: the given one, a preferred one, or the only one.

    Raises:
        ConfigError: It is absent, or there are several and none is given.
    """
    topics = sorted({c.topic for c in reader.connections if c.msgtype == kind and c.msgcount})
    wanted = f"/{name.lstrip('/')}" if name else next((t for t in preferred if t in topics), topics[0])
    if wanted not in topics or (not name and wanted not in preferred and len(topics) > 1):
        raise ConfigError(f"bag '{path}': choose one of its topics with skeleton_topic: {', '.join(topics)}")
    return wanted


def typestore_of(path: Path, reader: Any, topic: str, kind: str) -> Any:
    """Return the typestore for a topic's messages: the bag's own definition, or else the installed one."""
    definition = next(c.msgdef for c in reader.connections if c.topic == topic)
    if definition.format != MessageDefinitionFormat.MSG:  # sqlite3 bags of Humble store none
        return typestore_with(kind)
    store = get_typestore(Stores.EMPTY)
    with reading(path):
        store.register(get_types_from_msg(definition.data, kind))
    return store


def _body(skeleton: Any) -> Body:
    positions = np.array([(p.x, p.y, p.z) for p in skeleton.positions], dtype=np.float32).reshape(-1, 3)
    pixels = np.array(skeleton.pixels, dtype=np.float32).reshape(-1, 2)
    scores = np.array(skeleton.confidences, dtype=np.float32)
    if len(pixels) != len(positions):
        pixels = np.full((len(positions), 2), np.nan, np.float32)
    pixels, _ = convert(pixels, scores, skeleton.layout)
    positions, scores = convert(positions, scores, skeleton.layout)
    return Body(skeleton.body_id, CANONICAL, positions, pixels, scores)
