"""Writing of rosbag2 mcap bags for `ros2 bag play`, RViz and Foxglove, without ROS.

Metadata version 8 is the newest that both Humble and Jazzy read; version 9 no longer stores QoS profiles as text.
Data is flushed to disk in whole mcap chunks every `FLUSH_S` seconds; `bag_files.recover` finishes a bag after a crash.
"""

import contextlib
import os
import re
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from actrec.recordings.image_decoding import depth_in_millimeters
from actrec.types import NANOSECONDS, Body, Intrinsics, RgbdFrame
from actrec.utils import camera_model
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec.utils.folders import expanded, installed

METADATA_VERSION: Final = 8
FLUSH_S = 1.0
DEPTH_ENCODINGS = ("16UC1", "32FC1")

COLOR_TOPIC, COLOR_INFO_TOPIC = "/camera/color/image_raw", "/camera/color/camera_info"
DEPTH_TOPIC, DEPTH_INFO_TOPIC = "/camera/depth_registered/image_raw", "/camera/depth_registered/camera_info"
SKELETONS_TOPIC, TRUE_SKELETONS_TOPIC = "/skeletons", "/ground_truth/skeletons"
SKELETONS = "actrec_msgs/msg/SkeletonArray"
UP_TOPIC, MEASURED_UP_TOPIC, UP = "/camera/up", "/camera/measured_up", "geometry_msgs/msg/Vector3Stamped"
_IMAGE, _INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"

_MESSAGE_SOURCES = "ros2_ws/src"  # in the source, and in share/actrec of an installation
_FOREVER = QosTime(9223372036, 854775807)


def qos(reliable: bool = True, latched: bool = False) -> Qos:
    """Return an offered QoS profile as rosbag2 records it, with history and depth unknown."""
    reliability = QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT
    durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
    return Qos(
        QosHistory.UNKNOWN, 0, reliability, durability, _FOREVER, _FOREVER, QosLiveliness.AUTOMATIC, _FOREVER, False
    )


class BagWriter(AbstractContextManager["BagWriter", None]):
    """Writer of one bag; a context manager. Leaving it, also by an error, finishes the bag.

    Attributes:
        path: The bag's folder.
        counts: Number of messages written, by topic.
        bytes_written: Total size of the serialized messages, bytes.

    Args:
        path: The folder to create; it must not exist.
        depth_encoding: How `write_frame` stores depth: "16UC1" whole millimeters, or "32FC1" meters, exact but twice
            as large.

    Raises:
        DeviceError: The folder exists already, or cannot be created.
    """

    def __init__(self, path: str | Path, depth_encoding: str = "16UC1"):
        if depth_encoding not in DEPTH_ENCODINGS:
            raise ConfigError(f"depth encoding is '{depth_encoding}', allowed: {', '.join(DEPTH_ENCODINGS)}")
        self.path = expanded(path)
        self.counts: dict[str, int] = {}
        self.bytes_written = 0
        self._depth_encoding = depth_encoding
        self._connections: dict[str, Any] = {}
        self._up: np.ndarray | None = None
        self._flushed = time.monotonic()
        self._open = True
        try:
            self._writer = Writer(self.path, version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except WriterError as error:
            raise DeviceError(f"'{self.path}' exists already; give another name, or remove it") from error
        except OSError as error:
            raise DeviceError(f"cannot create the bag '{self.path}': {error.strerror}") from error

    def __exit__(self, *error: object) -> None:
        self.close()

    def add_topic(self, topic: str, msgtype: str, offered: Sequence[Qos] = ()) -> None:
        """Declare a topic before its first message.

        Args:
            topic: Absolute name.
            msgtype: As "sensor_msgs/msg/Image".
            offered: QoS profiles of the publishers; by default one reliable, volatile publisher.

        Raises:
            InputError: The type's definition is not found.
        """
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, msgtype, typestore=typestore_with(msgtype), offered_qos_profiles=list(offered) or [qos()]
            )
            self.counts[topic] = 0

    def write(self, topic: str, stamp_ns: int, raw: bytes | memoryview) -> None:
        """Write one serialized message of a declared topic.

        Raises:
            DeviceError: The disk is full or missing; the bag stays as it is and can be recovered.
        """
        try:
            self._writer.write(self._connections[topic], stamp_ns, raw)
            self.counts[topic] += 1
            self.bytes_written += len(raw)
            if time.monotonic() - self._flushed > FLUSH_S:
                self.flush()
        except OSError as error:
            self._abort(error)

    def flush_waiting(self) -> None:
        """Flush the messages since the last time, if there are any; raise DeviceError as `write`."""
        storage: Any = self._writer.storage
        try:
            if self._open and storage.chunk.msgs:
                self.flush()
        except OSError as error:
            self._abort(error)

    def flush(self) -> None:
        """Flush everything written so far to the disk, as a whole chunk."""
        storage: Any = self._writer.storage
        if storage.chunk.msgs:
            storage.close_chunk()
        storage.bio.flush()
        os.fsync(storage.bio.fileno())
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Write the index, then metadata.yaml; safe to call twice.

        Raises:
            DeviceError: The disk is full or missing.
        """
        if not self._open:
            return
        self._open = False
        try:
            self._writer.close()
        except OSError as error:
            self._abort(error)

    def write_frame(self, frame: RgbdFrame) -> None:
        """Write color, depth, their camera_info, the skeletons, and a new `up` of a frame.

        Raises:
            InputError: The frame violates the data contract.
            DeviceError: The disk is full or missing.
        """
        frame.check()
        header = self._header(frame.stamp_ns, frame.frame_id)
        if frame.color is not None:
            self._write_up(frame, header)
            info = self._info(frame.intrinsics, header)
            self._write_message(COLOR_INFO_TOPIC, _INFO, frame.stamp_ns, info)
            if frame.depth is not None:
                self._write_message(DEPTH_INFO_TOPIC, _INFO, frame.stamp_ns, info)
                is_exact = self._depth_encoding == "32FC1"
                depth = frame.depth.astype(np.float32, copy=False) if is_exact else depth_in_millimeters(frame.depth)
                image = self._image(depth, self._depth_encoding, header)
                self._write_message(DEPTH_TOPIC, _IMAGE, frame.stamp_ns, image)
            self._write_message(COLOR_TOPIC, _IMAGE, frame.stamp_ns, self._image(frame.color, "rgb8", header))
        if frame.skeletons or frame.color is None:
            topic = SKELETONS_TOPIC if frame.color is None else TRUE_SKELETONS_TOPIC
            self.write_bodies(topic, frame.stamp_ns, frame.frame_id, frame.skeletons, frame.up)

    def _write_up(self, frame: RgbdFrame, header: Any) -> None:
        if frame.up is None or (self._up is not None and np.allclose(frame.up, self._up, atol=1e-4)):
            return
        self._up = frame.up
        types = typestore_with(UP).types
        self.add_topic(UP_TOPIC, UP, [qos(latched=True)])
        self._write_message(UP_TOPIC, UP, frame.stamp_ns, types[UP](header=header, vector=self._vector(UP, frame.up)))

    def _vector(self, msgtype: str, up: np.ndarray | None) -> Any:
        x, y, z = (0.0, 0.0, 0.0) if up is None else map(float, up)
        return typestore_with(msgtype).types["geometry_msgs/msg/Vector3"](x=x, y=y, z=z)

    def write_bodies(
        self, topic: str, stamp_ns: int, frame_id: str, bodies: Sequence[Body], up: np.ndarray | None = None
    ) -> None:
        """Write a `SkeletonArray`; `up` [3] is the unit vector against gravity, None if unknown."""
        types = typestore_with(SKELETONS).types
        point, skeleton = types["geometry_msgs/msg/Point32"], types["actrec_msgs/msg/Skeleton"]
        skeletons = [
            skeleton(
                body_id=body.body_id,
                layout=body.layout,
                positions=[point(x=float(x), y=float(y), z=float(z)) for x, y, z in body.positions],
                pixels=np.ascontiguousarray(body.pixels, np.float32).reshape(-1),
                confidences=np.ascontiguousarray(body.scores, np.float32),
            )
            for body in bodies
        ]
        message = types[SKELETONS](
            header=self._header(stamp_ns, frame_id), up=self._vector(SKELETONS, up), skeletons=skeletons
        )
        self._write_message(topic, SKELETONS, stamp_ns, message)

    def _abort(self, error: OSError) -> None:
        self._open = False
        with contextlib.suppress(OSError):  # it writes the rest, too
            self._writer.abort()
        raise DeviceError(
            f"recording '{self.path}' stopped after {sum(self.counts.values())} messages: {error.strerror}; free "
            f"space, then recover it with `actrec record --recover '{self.path}' --out NEW`"
        ) from error

    def _write_message(self, topic: str, msgtype: str, stamp_ns: int, message: Any) -> None:
        self.add_topic(topic, msgtype)
        self.write(topic, stamp_ns, typestore_with(msgtype).serialize_cdr(message, msgtype))

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        types = typestore_with(_IMAGE).types
        sec, nanosec = divmod(stamp_ns, NANOSECONDS)
        stamp = types["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)
        return types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)

    def _image(self, pixels: np.ndarray, encoding: str, header: Any) -> Any:
        pixels = np.ascontiguousarray(pixels)
        little = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
        return typestore_with(_IMAGE).types[_IMAGE](
            header=header,
            height=pixels.shape[0],
            width=pixels.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=pixels.strides[0],
            data=little.reshape(-1).view(np.uint8),
        )

    def _info(self, intrinsics: Intrinsics, header: Any) -> Any:
        types = typestore_with(_INFO).types
        region = types["sensor_msgs/msg/RegionOfInterest"]
        model, d = camera_model.ros_lens(intrinsics)
        return types[_INFO](
            header=header,
            height=intrinsics.height,
            width=intrinsics.width,
            distortion_model=model,
            d=np.array(d),
            k=intrinsics.matrix.reshape(-1),
            r=np.eye(3).reshape(-1),
            p=np.hstack([intrinsics.matrix, np.zeros((3, 1))]).reshape(-1),
            binning_x=0,
            binning_y=0,
            roi=region(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
        )


@cache
def typestore_with(*names: str) -> Any:
    """Return a `rosbags` typestore with these message types ("sensor_msgs/msg/Image") and all their fields' types.

    Definitions come from the sourced workspaces, else from this installation, else from `rosbags`.

    Raises:
        InputError: A definition is not found; the message lists the searched folders.
    """
    known: dict[str, Any] = {}
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in known:
            found = _definition(name)
            known.update(found)
            pending += re.findall(r"'(\w+/msg/\w+)'", repr(list(found.values())))  # types of its fields
    store = get_typestore(Stores.EMPTY)
    store.register(known)
    return store


@cache
def _definition(name: str) -> dict[str, Any]:
    package, _, message = name.split("/")
    prefixes = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    folders = [*(prefix / "share" for prefix in prefixes), *installed(_MESSAGE_SOURCES)]
    for folder in (share / package for share in folders):
        file = folder / "msg" / f"{message}.msg"
        if file.is_file():
            return get_types_from_msg(file.read_text(), name)
    store = get_typestore(Stores.ROS2_HUMBLE)
    if name in store.fielddefs:
        return {name: store.fielddefs[name]}
    raise InputError(
        f"the definition of {name} is found neither under AMENT_PREFIX_PATH nor in {folders[-1]}; "
        f"source the workspace that builds {package}"
    )
