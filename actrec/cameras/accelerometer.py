"""The direction of gravity from an accelerometer, and a gyroscope if there is one."""

import threading

import numpy as np

from actrec.types import NANOSECONDS

GRAVITY_M_S2 = 9.81

TOLERANCE = 0.05
"""Relative difference from `GRAVITY_M_S2` up to which a measured acceleration counts as gravity."""

SETTLE_S = 0.5
"""Duration of the first, static average."""

STEADY_DEG = 3.0
"""Largest deviation of a sample from the mean of a static average."""

FOLLOW_S, GYRO_FOLLOW_S = 0.4, 3.0
"""Time constants with which later samples correct the direction, alone and beside a gyroscope: a robot that
accelerates for a moment does not tilt it."""

MAX_GAP_S = 1.0
"""Time without samples after which the average starts again."""


class GravityFilter:
    """Direction of gravity from samples of an inertial sensor; thread-safe.

    The first direction is the mean of half a second at rest. Later the gyroscope rotates it, and the accelerometer
    corrects it while it measures 9.81 m/s² ± 5 %.

    Args:
        to_frame: Rotation [3, 3] from the sensor's axes to the optical frame.

    Attributes:
        up: Unit vector [3] against gravity in the optical frame; None before the first average.
        rejected: Number of samples in a row that are not gravity.
        measured: Norm of the last acceleration in m/s².
    """

    def __init__(self, to_frame: np.ndarray | None = None):
        self._to_frame = np.eye(3) if to_frame is None else np.asarray(to_frame, np.float64)
        self._lock = threading.Lock()
        self._rest: list[np.ndarray] = []
        self._rest_since_ns = 0
        self._last_ns: int | None = None
        self._turned_ns: int | None = None
        self._up: np.ndarray | None = None
        self.rejected = 0
        self.measured = 0.0

    @property
    def up(self) -> np.ndarray | None:
        """Return the direction, float32."""
        up = self._up
        return None if up is None else up.astype(np.float32)

    def rotate(self, stamp_ns: int, angular_velocity: np.ndarray) -> None:
        """Add a sample of the gyroscope, [3] rad/s in the sensor's axes."""
        with self._lock:
            before, self._turned_ns = self._turned_ns, stamp_ns
            if before is None or self._up is None or not 0 < stamp_ns - before < MAX_GAP_S * NANOSECONDS:
                return
            # The world turns the other way in the sensor's axes.
            turn = self._to_frame @ np.asarray(angular_velocity, np.float64) * (before - stamp_ns) / NANOSECONDS
            if np.isfinite(turn).all():
                self._up = _unit(_rotate(self._up, turn))

    def add(self, stamp_ns: int, acceleration: np.ndarray) -> None:
        """Add a sample of the accelerometer, [3] m/s² in the sensor's axes: against gravity at rest."""
        measured = self._to_frame @ np.asarray(acceleration, np.float64)
        with self._lock:
            before, self._last_ns = self._last_ns, stamp_ns
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
                self._up = _unit(self._up + share * (direction - self._up))

    def _average(self, stamp_ns: int, direction: np.ndarray) -> None:
        if self._rest and _unit(np.sum(self._rest, axis=0)) @ direction < np.cos(np.radians(STEADY_DEG)):
            self._rest = []  # it moves
        if not self._rest:
            self._rest_since_ns = stamp_ns
        self._rest.append(direction)
        if stamp_ns - self._rest_since_ns >= SETTLE_S * NANOSECONDS:
            self._up, self._rest = _unit(np.sum(self._rest, axis=0)), []


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / np.linalg.norm(vector))


def _rotate(vector: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Rotate a vector [3] by a rotation vector [3] (Rodrigues)."""
    angle = float(np.linalg.norm(turn))
    if angle < 1e-12:
        return vector
    axis = turn / angle
    across = np.cross(axis, vector)
    return np.asarray(vector * np.cos(angle) + across * np.sin(angle) + axis * (axis @ vector) * (1 - np.cos(angle)))
