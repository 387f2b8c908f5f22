"""Estimation of the direction of gravity from the people in view and the floor under them.

People stand, walk and sit upright: over some seconds, the direction from their feet to their heads is vertical within a
few degrees. With depth, the floor under their feet gives it within about one degree, and distinguishes a person who
lies on the floor from a camera that is turned.
"""

import logging
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from actrec.skeleton.layouts import KINECT_V2_25
from actrec.types import NANOSECONDS, Body, RgbdFrame
from actrec.utils import camera_model, gravity
from actrec.utils.config import build, setting

_INDEX = KINECT_V2_25.index
_LEGS = np.array([[_INDEX[f"{joint}_{side}"] for joint in ("hip", "knee", "ankle")] for side in ("left", "right")])
_BASE, _SHOULDERS, _HEAD = _INDEX["spine_base"], _INDEX["spine_shoulder"], _INDEX["head"]

MIN_SCORE = 0.3
SEATED_WEIGHT = 0.1
"""Weight of a trunk alone, beside 1 for a straight standing body: seated people lean."""

HEAD_WEIGHT = 0.05
"""Weight of neck and head, if the image ends above the hips."""

MIN_WEIGHT = 1.0
"""Sum of weights from which on there is an estimate: one frame of a standing person, ten of a seated one."""


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GravityConfig:
    """Settings of the estimation of gravity."""

    mount: str = setting(
        "auto",
        "How the camera is mounted: level, upside_down, portrait_left, portrait_right, roll and pitch in degrees such "
        "as 0,25, or auto to use the camera's own data, else the people and the floor in view",
    )
    gravity_window_s: float = setting(
        4.0, "Time for which people are observed to estimate the direction of gravity", unit="s", range=(0.5, 600.0)
    )


class GravityEstimator:
    """Direction of gravity: from the frame, the setting `mount`, or the people and the floor in view.

    An estimate is kept once people were observed for `gravity_window_s`. Later it changes only if the floor under the
    people contradicts it: a person who lies down does not turn the camera.

    Args:
        options: Fields of `GravityConfig`.

    Raises:
        ConfigError: An option is unknown or out of range.

    Attributes:
        up: Unit vector [3] against gravity in the optical frame; None if unknown so far.
    """

    config_class = GravityConfig

    def __init__(self, **options: Any):
        self.config = build(GravityConfig, options)
        self._mount = None if self.config.mount == "auto" else gravity.parse_mount(self.config.mount)
        self._window_ns = int(self.config.gravity_window_s * NANOSECONDS)
        self._is_final = False
        self._samples: deque[tuple[int, np.ndarray, float]] = deque()
        self.up: np.ndarray | None = self._mount

    def known(self, frame: RgbdFrame) -> np.ndarray | None:
        """Return `up` before the people in `frame` are known: the frame's own, the setting's, or the estimate."""
        if self._mount is None and frame.up is not None:
            self.up, self._is_final = gravity.check_up(frame.up), True
        return self.up

    def update(self, frame: RgbdFrame, bodies: list[Body]) -> None:
        """Add the tracked bodies (`kinect_v2_25`) of a frame."""
        if self._mount is not None or frame.up is not None:
            return
        if self._samples and not 0 <= frame.stamp_ns - self._samples[-1][0] <= self._window_ns:
            self._samples.clear()
        for body in bodies:
            axis, weight = body_axis(body.positions, body.scores)
            if weight > 0:
                self._samples.append((frame.stamp_ns, axis, weight))
        if not bodies or not self._samples or frame.stamp_ns - self._samples[0][0] < self._window_ns:
            return
        weights = np.array([weight for _, _, weight in self._samples])
        if weights.sum() < MIN_WEIGHT:
            return
        axis = median_direction(np.array([axis for _, axis, _ in self._samples]), weights)
        stands = weights[weights > SEATED_WEIGHT].sum() >= MIN_WEIGHT
        axis = round_to_mount(axis, STANDING_ERROR_DEG if stands else SEATED_ERROR_DEG)
        self._decide(axis, frame, bodies)
        self._samples.clear()

    def _decide(self, axis: np.ndarray, frame: RgbdFrame, bodies: list[Body]) -> None:
        """Choose between the people's axis and the assumption so far, by the floor under the people."""
        assumed = self.up if self._is_final and self.up is not None else LEVEL
        agrees = angle_deg(axis, assumed) < MAX_LEAN_DEG
        if self._is_final and agrees:
            return
        on_floor = find_floor(frame, bodies, axis)
        if not agrees and on_floor is None and angle_deg(axis, assumed) < UPSIDE_DOWN_DEG:
            lying = find_floor(frame, bodies, assumed)
            if lying is not None or self._is_final:
                self.up, self._is_final = assumed if self._is_final else lying, True
                return
        self.up, self._is_final = axis if on_floor is None else on_floor, True
        if not agrees:
            roll, pitch = gravity.angles_from_up(self.up)
            logger.warning(
                "people lie sideways or upside down in the image: assuming a camera that is rolled by %.0f° and looks "
                "down by %.0f°; set mount if this is wrong (mount:=level)", roll, pitch
            )  # fmt: skip


LEVEL = np.array(gravity.LEVEL, np.float32)

MAX_LEAN_DEG = 45.0
"""Angle between people's axis and `up` beyond which people lie, or the camera is turned."""

STANDING_ERROR_DEG, SEATED_ERROR_DEG = 6.0, 30.0
"""Error of the axis of standing people, and of others, who lean: within it the camera counts as mounted exactly."""

UPSIDE_DOWN_DEG = 135.0
"""Angle beyond which people do not lie: a person on the head for seconds is too rare."""

FLOOR_ROWS, FLOOR_BAND_M, FLOOR_NOISE_M = 80, 0.35, 0.03
"""Rows of depth readings that are used, half the height of the readings' band about the feet, tolerance in m."""

MAX_FLOOR_DEPTH_M = 6.0

MAX_FLOOR_TILT_DEG, MIN_FLOOR_SHARE, MAX_FEET_M = 20.0, 0.03, 0.15

MIN_FLOOR_EXTENT_M, MAX_BELOW_FLOOR = 0.25, 0.05
"""Standard deviation of the floor's readings along its shorter side, and the share of readings below it."""


def round_to_mount(up: np.ndarray, within_deg: float) -> np.ndarray:
    """Return the mounting of `gravity.MOUNTS` within this angle of `up` [3], else `up` itself."""
    nearest = max(gravity.MOUNTS.values(), key=lambda mount: float(up @ mount))
    mount = np.array(nearest, np.float32)
    return mount if angle_deg(up, mount) < within_deg else up


def angle_deg(a: np.ndarray, b: np.ndarray) -> float:
    """Return the angle between unit vectors [3] in degrees."""
    return float(np.degrees(np.arccos(np.clip(a @ b, -1.0, 1.0))))


def find_floor(frame: RgbdFrame, bodies: list[Body], up: np.ndarray) -> np.ndarray | None:
    """Return the normal [3] of the floor under people, near a direction `up` [3]; None if there is no such plane.

    A plane is fitted to the depth readings about the height of the lowest joints, robustly (Tukey's weights).
    """
    if frame.depth is None:
        return None
    joints = np.concatenate([body.positions for body in bodies])
    joints = joints[np.isfinite(joints).all(axis=1)]
    step = max(min(frame.depth.shape) // FLOOR_ROWS, 1)
    depth = frame.depth[::step, ::step]
    v, u = np.nonzero((depth > 0.2) & (depth < MAX_FLOOR_DEPTH_M))
    least = max(MIN_FLOOR_SHARE * depth.size, 10)
    if len(v) < least or not len(joints):
        return None
    pixels = np.stack([u, v], axis=1) * step
    rays = np.concatenate([camera_model.rays(pixels, frame.intrinsics), np.ones((len(u), 1))], axis=1)
    points = rays * depth[v, u][:, None]
    normal, feet = np.asarray(up, np.float64), float((joints @ up).min())
    offset, reach = feet, FLOOR_BAND_M
    for _ in range(12):
        height = points @ normal - offset
        weight = np.clip(1 - (height / reach) ** 2, 0, None) ** 2
        if (weight > 0).sum() < least:
            return None
        center = weight @ points / weight.sum()
        spread = (points - center) * np.sqrt(weight)[:, None]
        fitted = np.linalg.eigh(spread.T @ spread)[1][:, 0]
        normal = fitted if fitted @ up > 0 else -fitted
        offset, reach = float(center @ normal), max(0.7 * reach, 2 * FLOOR_NOISE_M)
    height, noise = points @ normal - offset, FLOOR_NOISE_M * np.maximum(1.0, points[:, 2] / 2) ** 2
    flat = np.abs(height) < noise
    stands = abs(float((joints @ normal).min()) - offset) < MAX_FEET_M
    if angle_deg(normal, up) > MAX_FLOOR_TILT_DEG or flat.sum() < least or not stands:
        return None
    # A floor extends to all sides, and nearly nothing is below it; a ledge, a lap or a cut through the room does not.
    extent = np.sqrt(np.linalg.eigvalsh(np.cov(points[flat].T))[1])
    if extent < MIN_FLOOR_EXTENT_M or (height < -3 * noise).mean() > MAX_BELOW_FLOOR:
        return None
    return gravity.check_up(normal)


def body_axis(positions: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the direction [3] from a body's feet, else its hips, to its head, and its weight in 0..1.

    The weight falls with the angles between shanks, thighs and trunk: only a straight body is vertical.

    Args:
        positions: [25, 3] m, NaN for missing.
        scores: [25] in 0..1.
    """
    known = np.isfinite(positions).all(axis=-1) & (scores >= MIN_SCORE)
    lower, upper, weight = (_BASE, _SHOULDERS, SEATED_WEIGHT) if known[_BASE] else (_SHOULDERS, _HEAD, HEAD_WEIGHT)
    trunk = positions[upper] - positions[lower]
    length = float(np.linalg.norm(trunk)) if known[[lower, upper]].all() else 0.0
    if length < 0.05:
        return np.zeros(3, np.float32), 0.0
    best = trunk / length
    if known[_LEGS].all() and known[_HEAD]:
        hips, knees, ankles = positions[_LEGS].transpose(1, 0, 2)
        segments = np.concatenate([hips - knees, knees - ankles])
        segments /= np.maximum(np.linalg.norm(segments, axis=1, keepdims=True), 1e-6)
        bend = float((segments @ best).min())  # cosine of the largest angle of a leg's segment to the trunk
        straightness = np.clip((bend - 0.9) / 0.07, 0.0, 1.0)  # 0 at 26°, 1 at 14°
        if straightness > SEATED_WEIGHT:
            axis = positions[_HEAD] - ankles.mean(axis=0)
            best, weight = axis / max(float(np.linalg.norm(axis)), 1e-6), float(straightness)
    return best.astype(np.float32), weight


def median_direction(axes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted geometric median of unit vectors [N, 3], normalized (Weiszfeld's iteration)."""
    middle = (weights[:, None] * axes).sum(axis=0)
    for _ in range(20):
        factor = weights / np.maximum(np.linalg.norm(axes - middle / max(np.linalg.norm(middle), 1e-6), axis=1), 0.02)
        middle = (factor[:, None] * axes).sum(axis=0)
    return gravity.check_up(middle)
