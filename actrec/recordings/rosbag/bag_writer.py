"""Writer of rosbag2 mcap bags, without ROS; `ros2 bag play`, RViz and Foxglove read them.

Metadata version 8 is the newest that both Humble and Jazzy read: QoS profiles are text there, and no longer in 9.
Data is flushed to disk in whole mcap chunks every `FLUSH_S` seconds; after a crash, `recovery` finishes the bag.

Message definitions come from the installed packages, else from this repository, else from `rosbags`.
"""

import os
import re
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from actrec.types import NANOSECONDS, Body, Intrinsics, RgbdFrame
from actrec.utils.errors import ConfigError, DeviceError, InputError

METADATA_VERSION: Final = 8

FLUSH_S = 1.0

COLOR_TOPIC = "/camera/color/image_raw"

COLOR_INFO_TOPIC = "/camera/color/camera_info"

DEPTH_TOPIC = "/camera/depth_registered/image_raw"

DEPTH_INFO_TOPIC = "/camera/depth_registered/camera_info"

SKELETONS_TOPIC = "/skeletons"

TRUE_SKELETONS_TOPIC = "/ground_truth/skeletons"

DEPTH_ENCODINGS = ("16UC1", "32FC1")

_SOURCES = Path(__file__).resolve().parents[3] / "ros2_ws" / "src"

_FOREVER = QosTime(9223372036, 854775807)

_MILLIMETERS = np.float32(1000.0)


def qos(reliable: bool = True, latched: bool = False) -> Qos:
    """Return an offered QoS profile as rosbag2 records it, with history and depth unknown."""
    return Qos(
        QosHistory.UNKNOWN,
        0,
        QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        _FOREVER,
        _FOREVER,
        QosLiveliness.AUTOMATIC,
        _FOREVER,
        False,
    )


class BagWriter:
    """Writer of one bag; a context manager. Leaving it, also by an error, finishes the bag.

    Attributes:
        path: The bag's folder.
        counts: Messages written, by topic.
        bytes_written: Total size of their payloads.

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
        self.path = Path(path).expanduser()
        self.counts: dict[str, int] = {}
        self.bytes_written = 0
        self._depth_encoding = depth_encoding
        self._connections: dict[str, Any] = {}
        self._types: dict[str, str] = {}
        self._stores: dict[str, Any] = {}
        self._flushed = time.monotonic()
        self._open = True
        try:
            self._writer = Writer(self.path, version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except WriterError as error:
            raise DeviceError(f"'{self.path}' exists already; give another name, or remove it") from error
        except OSError as error:
            raise DeviceError(f"cannot create the bag '{self.path}': {error.strerror}") from error

    def __enter__(self) -> "BagWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        if topic in self._connections:
            return
        store = self._typestore(msgtype)
        self._connections[topic] = self._writer.add_connection(
            topic, msgtype, typestore=store, offered_qos_profiles=list(offered) or [qos()]
        )
        self._types[topic] = msgtype
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
        """Write color, depth, their camera_info, and the skeletons of a frame.

        Raises:
            InputError: The frame violates the data contract.
            DeviceError: The disk is full or missing.
        """
        frame.check()
        header = self._header(frame.stamp_ns, frame.frame_id)
        joints = SKELETONS_TOPIC
        if frame.color is not None:
            joints = TRUE_SKELETONS_TOPIC
            info = self._info(frame.intrinsics, header)
            self._write_message(COLOR_INFO_TOPIC, "sensor_msgs/msg/CameraInfo", frame.stamp_ns, info)
            if frame.depth is not None:
                self._write_message(DEPTH_INFO_TOPIC, "sensor_msgs/msg/CameraInfo", frame.stamp_ns, info)
                depth = self._image(self._encode_depth(frame.depth), self._depth_encoding, header)
                self._write_message(DEPTH_TOPIC, "sensor_msgs/msg/Image", frame.stamp_ns, depth)
            color = self._image(frame.color, "rgb8", header)
            self._write_message(COLOR_TOPIC, "sensor_msgs/msg/Image", frame.stamp_ns, color)
        if frame.skeletons or frame.color is None:
            self.write_bodies(joints, frame.stamp_ns, frame.frame_id, frame.skeletons)

    def write_bodies(self, topic: str, stamp_ns: int, frame_id: str, bodies: Sequence[Body]) -> None:
        """Write a `SkeletonArray`."""
        array = self._message("actrec_msgs/msg/SkeletonArray")
        skeletons = [self._skeleton(body) for body in bodies]
        message = array(header=self._header(stamp_ns, frame_id), skeletons=skeletons)
        self._write_message(topic, "actrec_msgs/msg/SkeletonArray", stamp_ns, message)

    def _abort(self, error: OSError) -> None:
        self._open = False
        self._writer.abort()
        raise DeviceError(
            f"recording '{self.path}' stopped after {sum(self.counts.values())} messages: {error.strerror}; free "
            f"space, then recover it with `actrec record --recover '{self.path}' --out NEW`"
        ) from error

    def _typestore(self, msgtype: str) -> Any:
        if msgtype not in self._stores:
            self._stores[msgtype] = typestore_with(msgtype)
        return self._stores[msgtype]

    def _message(self, msgtype: str, owner: str = "") -> Any:
        return self._typestore(owner or msgtype).types[msgtype]

    def _write_message(self, topic: str, msgtype: str, stamp_ns: int, message: Any) -> None:
        self.add_topic(topic, msgtype)
        self.write(topic, stamp_ns, self._typestore(msgtype).serialize_cdr(message, msgtype))

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        image = "sensor_msgs/msg/Image"
        sec, nanosec = divmod(stamp_ns, NANOSECONDS)
        stamp = self._message("builtin_interfaces/msg/Time", image)(sec=sec, nanosec=nanosec)
        return self._message("std_msgs/msg/Header", image)(stamp=stamp, frame_id=frame_id)

    def _image(self, pixels: np.ndarray, encoding: str, header: Any) -> Any:
        pixels = np.ascontiguousarray(pixels)
        height, width = pixels.shape[:2]
        little = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
        return self._message("sensor_msgs/msg/Image")(
            header=header,
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=0,
            step=pixels.strides[0],
            data=little.reshape(-1).view(np.uint8),
        )

    def _encode_depth(self, depth: np.ndarray) -> np.ndarray:
        if self._depth_encoding == "32FC1":
            return depth.astype(np.float32, copy=False)
        millimeters = depth * _MILLIMETERS
        with np.errstate(invalid="ignore"):
            millimeters[~((millimeters > 0) & (millimeters < 65535.5))] = 0
        return np.rint(millimeters).astype(np.uint16)

    def _info(self, intrinsics: Intrinsics, header: Any) -> Any:
        owner = "sensor_msgs/msg/CameraInfo"
        k = intrinsics.matrix
        p = np.hstack([k, np.zeros((3, 1))])
        region = self._message("sensor_msgs/msg/RegionOfInterest", owner)
        d = np.array(intrinsics.distortion or (0.0,) * 5, dtype=np.float64)
        return self._message(owner)(
            header=header,
            height=intrinsics.height,
            width=intrinsics.width,
            distortion_model="rational_polynomial" if len(d) == 8 else "plumb_bob",
            d=d,
            k=k.reshape(-1),
            r=np.eye(3).reshape(-1),
            p=p.reshape(-1),
            binning_x=0,
            binning_y=0,
            roi=region(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
        )

    def _skeleton(self, body: Body) -> Any:
        owner = "actrec_msgs/msg/SkeletonArray"
        point = self._message("geometry_msgs/msg/Point32", owner)
        return self._message("actrec_msgs/msg/Skeleton", owner)(
            body_id=body.body_id,
            layout=body.layout,
            positions=[point(x=float(x), y=float(y), z=float(z)) for x, y, z in body.positions],
            pixels=np.ascontiguousarray(body.pixels, np.float32).reshape(-1),
            confidences=np.ascontiguousarray(body.scores, np.float32),
        )


def typestore_with(*names: str) -> Any:
    """Return a `rosbags` typestore with these message types ("sensor_msgs/msg/Image") and all their fields' types.

    Raises:
        InputError: A definition is not found; the message lists the searched folders.
    """
    known: dict[str, Any] = {}
    pending = list(names)
    while pending:
        name = pending.pop()
        if name in known:
            continue
        found = _definition(name)
        known.update(found)
        pending += [other for other in _field_types(found) if other not in known]
    store = get_typestore(Stores.EMPTY)
    store.register(known)
    return store


@cache
def _definition(name: str) -> dict[str, Any]:
    package, _, message = name.split("/")
    folders = [
        Path(prefix) / "share" / package for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if prefix
    ]
    for folder in [*folders, _SOURCES / package]:
        file = folder / "msg" / f"{message}.msg"
        if file.is_file():
            return get_types_from_msg(file.read_text(), name)
    store = get_typestore(Stores.ROS2_HUMBLE)
    if name in store.fielddefs:
        return {name: store.fielddefs[name]}
    raise InputError(
        f"the definition of {name} is found neither under AMENT_PREFIX_PATH nor in {_SOURCES}; "
        f"source the workspace that builds {package}"
    )


def _field_types(definitions: dict[str, Any]) -> set[str]:
    """Return the message types that these definitions refer to."""
    return set(re.findall(r"'(\w+/msg/\w+)'", repr(list(definitions.values()))))
