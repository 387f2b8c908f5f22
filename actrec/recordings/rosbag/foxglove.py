"""Images and calibrations in Foxglove's own schemas (protobuf, JSON or CDR), converted to ROS messages."""

import base64
import json
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from actrec.recordings.rosbag.bag_writer import typestore_with
from actrec.recordings.rosbag.mcap_file import Channel

_NAME = re.compile(r"foxglove(?:\.|_msgs/msg/)(\w+)")
_TYPES = {
    "RawImage": "sensor_msgs/msg/Image",
    "CompressedImage": "sensor_msgs/msg/CompressedImage",
    "CameraCalibration": "sensor_msgs/msg/CameraInfo",
}


def converter(channel: Channel) -> tuple[str, Callable[[bytes], bytes]] | None:
    """Return the ROS type of a channel's messages and the function that converts one; None for other schemas.

    Protobuf messages need the package protobuf.
    """
    name = _NAME.fullmatch(channel.msgtype)
    kind = _TYPES.get(name[1]) if name else None
    decode = _decoder(channel) if kind else None
    if kind is None or decode is None:
        return None
    store = typestore_with(kind)
    return kind, lambda raw: bytes(store.serialize_cdr(_message(store.types, kind, decode(raw)), kind))


def _decoder(channel: Channel) -> Callable[[bytes], Any] | None:
    """Return the function that returns an object with the fields of a message."""
    if channel.encoding == "json":
        return lambda raw: json.loads(raw, object_hook=lambda fields: SimpleNamespace(**fields))
    if channel.encoding == "cdr" and channel.language == "ros2msg":
        store = get_typestore(Stores.ROS2_HUMBLE)
        store.register(get_types_from_msg(channel.definition, channel.msgtype))
        return lambda raw: store.deserialize_cdr(raw, channel.msgtype)
    if channel.encoding == "protobuf":
        try:
            from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
        except ImportError:
            return None
        pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(channel.definition.encode("latin-1")).file:
            pool.Add(file)
        kind: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName(channel.msgtype))
        decode: Callable[[bytes], Any] = kind.FromString
        return decode
    return None


def _message(types: dict[str, Any], kind: str, given: Any) -> Any:
    """Return the ROS message with the content of one of Foxglove."""

    def get(name: str, default: Any) -> Any:
        return getattr(given, name, getattr(given, name.lower(), default))

    def matrix(name: str, size: int) -> np.ndarray:
        values = np.array(get(name, ()), np.float64)
        return values if len(values) == size else np.zeros(size)

    time = get("timestamp", SimpleNamespace())
    second, nanosecond = ("seconds", "nanos") if hasattr(time, "seconds") else ("sec", "nsec")
    nanoseconds = getattr(time, nanosecond, getattr(time, "nanosec", 0))
    stamp = types["builtin_interfaces/msg/Time"](sec=getattr(time, second, 0), nanosec=nanoseconds)
    fields = {"header": types["std_msgs/msg/Header"](stamp=stamp, frame_id=get("frame_id", ""))}
    data = get("data", b"")
    pixels = np.frombuffer(base64.b64decode(data) if isinstance(data, str) else bytes(data), np.uint8)
    size = {"height": get("height", 0), "width": get("width", 0)}
    if kind == _TYPES["CompressedImage"]:
        return types[kind](**fields, format=get("format", ""), data=pixels)
    if kind == _TYPES["RawImage"]:
        return types[kind](
            **fields, **size, encoding=get("encoding", ""), is_bigendian=0, step=get("step", 0), data=pixels
        )
    region = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    lens = {"d": np.array(get("D", ()), np.float64), "k": matrix("K", 9), "r": matrix("R", 9), "p": matrix("P", 12)}
    model = get("distortion_model", "")
    return types[kind](**fields, **size, distortion_model=model, **lens, binning_x=0, binning_y=0, roi=region)
