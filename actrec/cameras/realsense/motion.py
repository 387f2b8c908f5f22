"""The motion sensor of a RealSense (D435i, D455, L515, T265), which measures the direction of gravity."""

import contextlib
import logging
from typing import Any

import numpy as np
import pyrealsense2 as rs

from actrec.cameras.accelerometer import GravityFilter

logger = logging.getLogger(__name__)

MIN_RATE_HZ = 50
"""The slowest profile of at least this rate is used."""


class MotionSensor:
    """The accelerometer of a device, and its gyroscope if there is one, streaming beside the images.

    Args:
        sensor: The sensor, which has an accelerometer.
        color: Profile of the color stream, to whose optical frame the factory's extrinsics rotate the samples.

    Raises:
        RuntimeError: The sensor does not start, or has no extrinsics.
    """

    def __init__(self, sensor: Any, color: Any):
        streams = [_profile(sensor, kind) for kind in (rs.stream.accel, rs.stream.gyro)]
        rotation = np.array(streams[0].get_extrinsics_to(color).rotation).reshape(3, 3).T  # column-major
        self.filter = GravityFilter(rotation)
        self._sensor = sensor
        sensor.open([stream for stream in streams if stream is not None])
        sensor.start(self._receive)

    def close(self) -> None:
        """Stop the sensor."""
        with contextlib.suppress(RuntimeError):  # unplugged
            self._sensor.stop()
            self._sensor.close()

    def _receive(self, frame: Any) -> None:
        data, stamp_ns = frame.as_motion_frame().get_motion_data(), round(frame.get_timestamp() * 1e6)
        if frame.get_profile().stream_type() == rs.stream.gyro:
            self.filter.rotate(stamp_ns, np.array([data.x, data.y, data.z]))
        else:
            self.filter.add(stamp_ns, np.array([data.x, data.y, data.z]))


def start(device: Any, color: Any, serial: str) -> MotionSensor | None:
    """Return the started motion sensor of a device; None if it has none, or with a warning if it does not start."""
    for sensor in device.query_sensors():
        if _profile(sensor, rs.stream.accel) is None:
            continue
        try:
            return MotionSensor(sensor, color)
        except RuntimeError as error:
            logger.warning(
                "the accelerometer of RealSense %s is not used (%s): the direction of gravity is estimated; set mount "
                "if the estimate is wrong, or accelerometer to false", serial, " ".join(str(error).split()),
            )  # fmt: skip
    return None


def _profile(sensor: Any, kind: Any) -> Any:
    """Return the slowest sufficient profile of a stream; None if the sensor does not have it."""
    profiles = [p for p in sensor.get_stream_profiles() if p.stream_type() == kind]
    return min(profiles, key=lambda p: (p.fps() < MIN_RATE_HZ, p.fps()), default=None)
