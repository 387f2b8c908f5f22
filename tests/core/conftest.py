"""Frames and bags to read back, for tests of recordings and cameras."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from actrec.recordings import RecordingConfig, open_recording
from actrec.recordings.rosbag.bag_writer import typestore_with
from actrec.utils.calibration_files import quaternion

PERSON = "525,525,319.5,239.5"
EPOCH = 1_700_000_000_000_000_000
IMAGE, COMPRESSED, INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo"
TRANSFORMS = "tf2_msgs/msg/TFMessage"


@pytest.fixture(scope="session")
def person_frames(data_root):
    """Eight frames of a person turning, 640×480, depth of whole millimetres, stamped as in November 2023."""
    config = RecordingConfig(intrinsics=PERSON, depth_scale=0.001)
    with open_recording(data_root / "rgbd/person_turning", config) as recording:
        frames = [frame for frame, _ in zip(recording.frames(), range(8), strict=False)]
    for frame in frames:
        frame.stamp_ns += EPOCH
    return frames


class Bag:
    """Writes images as another's driver would: any encoding, any stamps."""

    def __init__(self, path: Path, plugin: StoragePlugin = StoragePlugin.MCAP):
        self.path = path
        self.store: Any = typestore_with(IMAGE, COMPRESSED, INFO, TRANSFORMS, "std_msgs/msg/String")
        self._writer = Writer(path, version=8, storage_plugin=plugin)
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> "Bag":
        self._writer.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def header(self, stamp: int, frame_id: str = "lens") -> Any:
        time = self.store.types["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
        return self.store.types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)

    def put(self, topic: str, msgtype: str, log_time: int, message: Any) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, msgtype, typestore=self.store)
        self._writer.write(self._connections[topic], log_time, self.store.serialize_cdr(message, msgtype))

    def image(
        self,
        topic: str,
        stamp: int,
        pixels: np.ndarray,
        encoding: str,
        pad: int = 0,
        big: bool = False,
        log_time: int | None = None,
        frame_id: str = "lens",
    ) -> None:
        pixels = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<"))
        height, width = pixels.shape[:2]
        rows = np.ascontiguousarray(pixels).reshape(height, -1).view(np.uint8)
        rows = np.pad(rows, ((0, 0), (0, pad)), constant_values=77)
        message = self.store.types[IMAGE](
            header=self.header(stamp, frame_id), height=height, width=width, encoding=encoding, is_bigendian=int(big),
            step=rows.shape[1], data=rows.reshape(-1),
        )  # fmt: skip
        self.put(topic, IMAGE, stamp if log_time is None else log_time, message)

    def compressed(self, topic: str, stamp: int, form: str, data: bytes) -> None:
        message = self.store.types[COMPRESSED](
            header=self.header(stamp), format=form, data=np.frombuffer(data, np.uint8)
        )
        self.put(topic, COMPRESSED, stamp, message)

    def info(
        self,
        topic: str,
        stamp: int,
        width: int,
        height: int,
        fx: float = 600.0,
        model: str = "plumb_bob",
        p: Sequence[float] = (0.0,) * 12,
        d: Sequence[float] = (0.1, -0.2, 0.001, 0.002, 0.05),
        k: Sequence[float] = (),
    ) -> None:
        region = self.store.types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
        k = k or [fx, 0, width / 2 + 0.5, 0, fx + 1, height / 2 + 0.5, 0, 0, 1.0]
        message = self.store.types[INFO](
            header=self.header(stamp), height=height, width=width, distortion_model=model,
            d=np.array(d, np.float64), k=np.array(k, np.float64), r=np.eye(3).reshape(-1), p=np.array(p, np.float64),
            binning_x=0, binning_y=0, roi=region,
        )  # fmt: skip
        self.put(topic, INFO, stamp, message)

    def static(self, topic: str, stamp: int, poses: Sequence[tuple[str, str, np.ndarray]]) -> None:
        """Transforms: of each its parent, its child, and the child's pose [4, 4] in the parent."""
        types, sent = self.store.types, []
        for parent, child, pose in poses:
            where = types["geometry_msgs/msg/Vector3"](*pose[:3, 3].tolist())
            turn = types["geometry_msgs/msg/Quaternion"](*quaternion(pose[:3, :3]))
            transform = types["geometry_msgs/msg/Transform"](translation=where, rotation=turn)
            kind = types["geometry_msgs/msg/TransformStamped"]
            sent.append(kind(header=self.header(stamp, parent), child_frame_id=child, transform=transform))
        self.put(topic, TRANSFORMS, stamp, types[TRANSFORMS](transforms=sent))


@pytest.fixture
def bag():
    return Bag
