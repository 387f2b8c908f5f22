"""The direction of gravity in a camera's frame, and what follows from it: level axes and upright images.

`up` is a unit vector in the optical frame (x right, y down, z forward) against gravity: (0, −1, 0) for a level camera.
"""

import dataclasses
import threading
import time
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from actrec.types import NANOSECONDS, Body, Intrinsics, RgbdFrame
from actrec.utils.errors import ConfigError, InputError
from actrec.utils.geometry import unit

BodyKind = TypeVar("BodyKind", bound=Body)

LEVEL = (0.0, -1.0, 0.0)  # `up` of a level camera

MOUNTS = {
    "level": LEVEL,
    "upside_down": (0.0, 1.0, 0.0),
    "portrait_left": (1.0, 0.0, 0.0),
    "portrait_right": (-1.0, 0.0, 0.0),
}
"""Name of a mounting to its `up`; in `portrait_left` the top of the camera points to the left, seen from behind it."""


SOURCES = {
    "setting": "the setting mount",
    "calibration": "the calibrated mount",
    "camera": "camera/up or the recording",
    "tf": "TF",
    "accelerometer": "the accelerometer",
    "estimate": "people and floor",
}
"""Sources of `up`, the first known one is used, with their names in messages. "camera" is the source of a frame that
names no other: a recording, the simulated camera, or the topic `camera/up`."""

MAX_DISAGREEMENT_DEG = 10.0  # angle between two sources from which on there is a warning


GRAVITY_M_S2 = 9.81
TOLERANCE = 0.05  # relative difference from it up to which a measured acceleration counts as gravity
SETTLE_S = 0.5  # duration of the first, static average
STEADY_DEG = 3.0  # largest deviation of a sample from the mean of a static average

FOLLOW_S, GYRO_FOLLOW_S = 0.4, 3.0
"""Time constants with which later samples correct the direction, alone and beside a gyroscope: a robot that
accelerates for a moment does not tilt it."""

MAX_GAP_S = 1.0  # time without samples after which the average starts again
SILENT_S = 3.0  # time without samples after which the sensor is taken for dead


class Choice:
    """Choice of `up` among the sources that know it, in the order of `SOURCES`.

    Args:
        log: Gets the source's name whenever it changes, and one warning for each pair of sources that disagree.
        announce: Whether to log the source.

    Attributes:
        source: Name of the source in use; empty if none knows `up`.
    """

    def __init__(self, log: Any, announce: bool = True):
        self._log, self._announce, self.source = log, announce, ""
        self._disagreeing: set[tuple[str, str]] = set()

    def of(self, known: Mapping[str, np.ndarray | None]) -> np.ndarray | None:
        """Return `up` [3] of the first source that knows it, None if none does."""
        stated = [(name, up) for name in SOURCES if (up := known.get(name)) is not None]
        if not stated:
            self.source = ""
            return None
        (source, best), *others = stated
        if source != self.source:
            self.source = source
            roll, pitch = angles_from_up(best)
            if self._announce:
                self._log.info(f"direction of gravity from {SOURCES[source]}: roll {roll:.0f}°, pitch {pitch:.0f}°")
        for other, up in others:
            angle = float(np.degrees(np.arccos(np.clip(best @ up, -1, 1))))
            if angle > MAX_DISAGREEMENT_DEG and other != "estimate" and (source, other) not in self._disagreeing:
                self._disagreeing.add((source, other))
                self._log.warning(
                    f"{SOURCES[source]} and {SOURCES[other]} disagree by {angle:.0f}° on the direction of gravity: "
                    f"using {SOURCES[source]}; correct it if the camera was moved"
                )
        return best


def up_from_angles(roll_deg: float, pitch_deg: float) -> np.ndarray:
    """Return `up` [3] of a camera looking down by `pitch_deg`, then rolled about its optical axis.

    `roll_deg` is clockwise seen from behind the camera: 90 is `portrait_right`, 180 `upside_down`.
    """
    roll, pitch = np.deg2rad(roll_deg), np.deg2rad(pitch_deg)
    return np.array([-np.sin(roll) * np.cos(pitch), -np.cos(roll) * np.cos(pitch), -np.sin(pitch)], np.float32)


def angles_from_up(up: np.ndarray) -> tuple[float, float]:
    """Return (roll, pitch) in degrees, the inverse of `up_from_angles`; roll is 0 if the camera looks straight down."""
    x, y, z = (float(value) for value in up)
    across = np.hypot(x, y)
    roll = np.rad2deg(np.arctan2(-x, -y)) if across > 1e-3 else 0.0
    return float(roll), float(np.rad2deg(np.arctan2(-z, across)))


def parse_mount(text: str) -> np.ndarray:
    """Return `up` [3] of a name in `MOUNTS`, or "ROLL,PITCH" in degrees; raise ConfigError if it is neither."""
    if text in MOUNTS:
        return np.array(MOUNTS[text], np.float32)
    try:
        roll, pitch = (float(part) for part in text.split(","))
    except ValueError:
        roll = pitch = np.nan
    if not (np.isfinite(roll) and abs(pitch) <= 90):
        raise ConfigError(
            f"mount is '{text}', expected {', '.join(MOUNTS)}, or roll and pitch in degrees with pitch within ±90, "
            "such as 0,25 for a level camera that looks down by 25°"
        )
    return up_from_angles(roll, pitch)


def check_up(up: np.ndarray) -> np.ndarray:
    """Return `up` as a float32 unit vector [3]; raise InputError if it is not three finite numbers, or zero."""
    vector = np.asarray(up, np.float64)
    length = np.linalg.norm(vector)
    if vector.shape != (3,) or not np.isfinite(length) or length < 1e-6:
        raise InputError(f"up is {vector.tolist()}, expected a direction of three finite numbers")
    return (vector / length).astype(np.float32)


def is_level(up: np.ndarray) -> bool:
    """Return whether a camera is level within 0.01°, so that nothing has to be turned or rotated."""
    return bool(np.abs(np.asarray(up) - LEVEL).max() < 1.7e-4)


def up_from_vector(vector: Any) -> np.ndarray | None:
    """Return the unit vector [3] against gravity of a Vector3 message; None for zeros, which mean unknown."""
    found = np.array([vector.x, vector.y, vector.z])
    return check_up(found) if found.any() else None


def level_rotation(up: np.ndarray) -> np.ndarray:
    """Return the rotation [3, 3] float32 from the optical frame to level axes, in which `up` is (0, −1, 0).

    It undoes the roll about the optical axis, then the pitch, and keeps the heading of the camera.
    """
    roll, pitch = np.deg2rad(angles_from_up(up))
    cr, sr, cp, sp = np.cos(roll), np.sin(roll), np.cos(pitch), np.sin(pitch)
    unroll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    unpitch = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    return (unpitch @ unroll).astype(np.float32)


def rotation_between(up: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the rotation [3, 3] float32 from the frame of a camera with `up` to the frame of one with `other`."""
    return level_rotation(other).T @ level_rotation(up)


def quarter_turns(up: np.ndarray, current: int | None = None) -> int:
    """Return how many clockwise quarter turns bring an image nearest to upright: 0 to 3.

    The `current` turns stay within 55° of roll, so that a camera at 45° does not turn back and forth.
    """
    roll, pitch = angles_from_up(up)
    if current is not None and abs((roll - 90 * current + 180) % 360 - 180) < 55:
        return current
    return current or 0 if abs(pitch) > 80 else int(np.round(roll / 90)) % 4


class GravityFilter:
    """Direction of gravity from samples of an inertial sensor; thread-safe.

    The first direction is the mean of half a second at rest. Later the gyroscope rotates it, and the accelerometer
    corrects it while it measures 9.81 m/s² ± 5 %.

    Args:
        to_frame: Rotation [3, 3] from the sensor's axes to the optical frame.

    Attributes:
        up: Unit vector [3] against gravity in the optical frame; None before the first average, and from `SILENT_S`
            after the last sample on.
        rejected: Number of samples in a row that are not gravity.
        measured: Norm of the last acceleration in m/s².
    """

    def __init__(self, to_frame: np.ndarray | None = None):
        self._to_frame = np.eye(3) if to_frame is None else np.asarray(to_frame, np.float64)
        self._lock = threading.Lock()
        self._rest: list[np.ndarray] = []
        self._rest_since_ns = 0
        self._last_ns: int | None = None
        self._heard_s = 0.0
        self._turned_ns: int | None = None
        self._up: np.ndarray | None = None
        self.rejected = 0
        self.measured = 0.0

    @property
    def up(self) -> np.ndarray | None:
        """Return the direction, float32."""
        up, is_heard = self._up, time.monotonic() - self._heard_s < SILENT_S
        return None if up is None or not is_heard else up.astype(np.float32)

    def rotate(self, stamp_ns: int, angular_velocity: np.ndarray) -> None:
        """Add a sample of the gyroscope, [3] rad/s in the sensor's axes."""
        with self._lock:
            before, self._turned_ns = self._turned_ns, stamp_ns
            if before is None or self._up is None or not 0 < stamp_ns - before < MAX_GAP_S * NANOSECONDS:
                return
            # The world turns the other way in the sensor's axes.
            with np.errstate(invalid="ignore"):  # infinite numbers
                turn = self._to_frame @ np.asarray(angular_velocity, np.float64) * (before - stamp_ns) / NANOSECONDS
            if np.isfinite(turn).all():
                self._up = unit(_rotate(self._up, turn))

    def add(self, stamp_ns: int, acceleration: np.ndarray) -> None:
        """Add a sample of the accelerometer, [3] m/s² in the sensor's axes: against gravity at rest."""
        with np.errstate(invalid="ignore"):  # infinite numbers
            measured = self._to_frame @ np.asarray(acceleration, np.float64)
        with self._lock:
            before, self._last_ns, self._heard_s = self._last_ns, stamp_ns, time.monotonic()
            if before is not None and not 0 <= stamp_ns - before < MAX_GAP_S * NANOSECONDS:
                self._up, self._rest, self._turned_ns = None, [], None
            self.measured = float(np.linalg.norm(measured))
            if not abs(self.measured / GRAVITY_M_S2 - 1) < TOLERANCE:  # NaN, too
                self.rejected += 1
                self._rest = []
                return
            self.rejected = 0
            direction = measured / self.measured
            if self._up is None:
                self._average(stamp_ns, direction)
            elif before is not None:
                turns = self._turned_ns is not None and abs(stamp_ns - self._turned_ns) < MAX_GAP_S * NANOSECONDS
                share = -np.expm1((before - stamp_ns) / NANOSECONDS / (GYRO_FOLLOW_S if turns else FOLLOW_S))
                self._up = unit(self._up + share * (direction - self._up))

    def _average(self, stamp_ns: int, direction: np.ndarray) -> None:
        if self._rest and unit(np.sum(self._rest, axis=0)) @ direction < np.cos(np.radians(STEADY_DEG)):
            self._rest = []  # it moves
        if not self._rest:
            self._rest_since_ns = stamp_ns
        self._rest.append(direction)
        if stamp_ns - self._rest_since_ns >= SETTLE_S * NANOSECONDS:
            self._up, self._rest = unit(np.sum(self._rest, axis=0)), []


def _rotate(vector: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Rotate a vector [3] by a rotation vector [3] (Rodrigues)."""
    angle = float(np.linalg.norm(turn))
    if angle < 1e-12:
        return vector
    axis = turn / angle
    across = np.cross(axis, vector)
    return np.asarray(vector * np.cos(angle) + across * np.sin(angle) + axis * (axis @ vector) * (1 - np.cos(angle)))


def turn_image(image: np.ndarray, turns: int, axis: int = 0) -> np.ndarray:
    """Turn an image [H, W, …] clockwise by quarter turns, as a contiguous array; `axis` is the axis of H."""
    return np.ascontiguousarray(np.rot90(image, -turns, (axis, axis + 1))) if turns % 4 else image


def turn_pixels(pixels: np.ndarray, width: int, height: int, turns: int) -> np.ndarray:
    """Return pixels [..., 2] of a width×height image in the image turned clockwise; NaN stays."""
    u, v = pixels[..., 0], pixels[..., 1]
    by_turns = [(u, v), (height - 1 - v, u), (width - 1 - u, height - 1 - v), (v, width - 1 - u)]
    return np.stack(by_turns[turns % 4], axis=-1)


def turn_vectors(vectors: np.ndarray, turns: int) -> np.ndarray:
    """Return vectors [..., 2 or 3] of the optical frame or the image in the axes of the image turned clockwise."""
    x, y, rest = vectors[..., :1], vectors[..., 1:2], vectors[..., 2:]
    by_turns = [(x, y), (-y, x), (-x, -y), (y, -x)]
    return np.concatenate([*by_turns[turns % 4], rest], axis=-1)


def turn_intrinsics(intrinsics: Intrinsics, turns: int) -> Intrinsics:
    """Return the intrinsics of the image turned clockwise by quarter turns."""
    for _ in range(turns % 4):
        i = intrinsics
        d = i.distortion
        if d and not i.lens:  # p1 and p2 change places with the axes: x' = −y, y' = x; a fisheye has none
            d = (d[0], d[1], d[3], -d[2], *d[4:])
        intrinsics = dataclasses.replace(
            i, width=i.height, height=i.width, fx=i.fy, fy=i.fx, cx=i.height - 1 - i.cy, cy=i.cx, distortion=d
        )
    return intrinsics


def turn_frame(frame: RgbdFrame, turns: int) -> RgbdFrame:
    """Return the frame with its images turned clockwise by quarter turns, without known joints."""
    if not turns % 4:
        return frame
    return dataclasses.replace(
        frame,
        color=None if frame.color is None else turn_image(frame.color, turns),
        depth=None if frame.depth is None else turn_image(frame.depth, turns),
        intrinsics=turn_intrinsics(frame.intrinsics, turns),
        skeletons=[],
        up=None if frame.up is None else turn_vectors(frame.up, turns),
    )


def turn_joints(joints: BodyKind, image: Intrinsics, turns: int) -> BodyKind:
    """Return a body, hand or face of an image with these intrinsics as it is in the image turned clockwise."""
    if not turns % 4:
        return joints
    pixels = turn_pixels(joints.pixels, image.width, image.height, turns)
    return dataclasses.replace(joints, positions=turn_vectors(joints.positions, turns), pixels=pixels)
