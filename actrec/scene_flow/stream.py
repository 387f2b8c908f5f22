"""Scene flow of a stream: each frame is paired with the previous one, at the flow's own image size; its color image."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from actrec.scene_flow import SceneFlow, camera_motion
from actrec.scene_flow.camera_motion import CameraMotion
from actrec.types import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils import camera_model
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SceneFlowConfig:
    """Method and image size. The method's own settings are `<method>.<setting>`."""

    method: str = setting("dis", "Scene flow method: a name in actrec.scene_flow.")
    height: int = setting(
        240,
        "Height of the flow image (the width of a portrait one); the other side keeps the aspect of the image.",
        unit="px",
        range=(16, 4096),
    )
    max_gap_s: float = setting(0.5, "Maximum time between the two frames of a pair.", unit="s", range=(0.001, 10.0))
    camera_motion: str = setting(
        "none",
        "Camera motion to subtract: none; estimate (from the static part of the scene); tf (from TF).",
        choices=("none", "estimate", "tf"),
    )
    fixed_frame: str = setting("odom", "Fixed TF frame for the camera's pose.")

    @property
    def identity(self) -> dict[str, Any]:
        """Return the settings that a network's training and its live use share."""
        return {"method": self.method, "height": self.height}

    def size(self, image: Intrinsics) -> tuple[int, int]:
        """Return width and height of the flow of an image, in its aspect within half a pixel."""
        short = min(image.width, image.height)
        return round(image.width * self.height / short), round(image.height * self.height / short)


@dataclass(frozen=True)
class Flow:
    """Scene flow of one frame."""

    stamp_ns: int  # of the first frame of the pair
    frame_id: str
    velocity: np.ndarray  # [h, w, 3] float32 m/s at the first frame's pixels, NaN for unknown
    intrinsics: Intrinsics  # of the flow image


MotionLookup = Callable[[RgbdFrame, RgbdFrame], CameraMotion | None]
"""Returns the camera's motion from one frame to another; None if unknown."""


class FlowPairs:
    """Estimator of the flow between each frame and the previous one.

    `lookup` returns the camera's motion, for `camera_motion` "tf". `warn` receives a message if the motion cannot be
    estimated, or if the lens bends the image, which the flow does not take into account; by default it is logged, once.

    Raises:
        ConfigError: `camera_motion` is "tf" without `lookup`.
    """

    def __init__(
        self,
        method: SceneFlow,
        config: SceneFlowConfig,
        lookup: MotionLookup | None = None,
        warn: Callable[[str], None] | None = None,
    ):
        if config.camera_motion == "tf" and lookup is None:
            raise ConfigError("camera_motion is tf, and recordings have no TF here: set it to estimate or none")
        self._method, self._config, self._lookup = method, config, lookup
        self._warn, self._logged = warn or self._log_once, set[str]()
        self._last: RgbdFrame | None = None

    def _log_once(self, line: str) -> None:
        if line not in self._logged:
            self._logged.add(line)
            logger.warning("%s", line)

    def reset(self) -> None:
        """Forget the previous frame."""
        self._last = None

    def add(self, frame: RgbdFrame) -> Flow | None:
        """Return the flow from the previous frame to this one; None if they are no pair.

        Raises:
            InputError: The frame has no color or no depth, or their size differs from its intrinsics.
        """
        last, self._last = self._last, None
        if frame.color is None or frame.depth is None:
            raise InputError("scene flow needs color and depth, but the frame has none: use an RGB-D camera")
        frame.check()  # before resizing, which would hide that color and depth differ in size
        small = resize(frame.color, frame.depth, frame.intrinsics, *self._config.size(frame.intrinsics))
        newest = self._last = RgbdFrame(frame.stamp_ns, *small, frame.frame_id)
        if last is None or last.intrinsics != newest.intrinsics:
            if (share := lens_shift(frame.intrinsics)) > MAX_LENS_SHIFT:
                self._warn(
                    f"the lens shifts corners by {share:.0%} of the image's width, and scene flow takes it as pinhole: "
                    "velocities near the edges are wrong; publish undistorted images (azure_kinect.rectify: true)"
                )
            return None
        dt = (newest.stamp_ns - last.stamp_ns) / NANOSECONDS
        if not 0 < dt <= self._config.max_gap_s:  # time jumped back, or a gap
            return None
        assert last.depth is not None
        estimating = self._config.camera_motion == "estimate"
        motion = self._lookup(last, newest) if self._lookup is not None else None
        if estimating:
            rotation = camera_motion.estimate_rotation(last, newest)
        else:
            rotation = None if motion is None else motion.rotation
        velocity = camera_motion.flow_with_rotation(self._method, last, newest, dt, rotation)
        if estimating:
            motion = camera_motion.estimate_camera_motion(velocity, last.depth, last.intrinsics, dt)
            if motion is None:
                self._warn("camera motion not estimated and not subtracted: less than a third of the image is static")
        if motion is not None:
            velocity = camera_motion.subtract_camera_motion(velocity, last.depth, last.intrinsics, dt, motion)
        return Flow(last.stamp_ns, last.frame_id, velocity, last.intrinsics)


MAX_LENS_SHIFT = 0.03
"""Shift of the corners by the lens, as a share of the image's width, beyond which scene flow warns."""


def lens_shift(intrinsics: Intrinsics) -> float:
    """Return the largest shift of a corner by the lens, as a share of the image's width."""
    if not intrinsics.is_distorted:
        return 0.0
    corners = np.array([(x, y) for x in (0, intrinsics.width - 1) for y in (0, intrinsics.height - 1)], np.float64)
    focal, center = (intrinsics.fx, intrinsics.fy), (intrinsics.cx, intrinsics.cy)
    shifts = camera_model.rays(corners, intrinsics) * focal + center - corners
    return float(np.nan_to_num(np.linalg.norm(shifts, axis=1), nan=np.inf).max()) / intrinsics.width


def resize(
    color: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics, width: int, height: int
) -> tuple[np.ndarray, np.ndarray, Intrinsics]:
    """Downscale an RGB-D image: average color over areas, sample depth (an average would invent surfaces).

    Depth is taken from the pixel nearest to the area's center: from columns 2, 6, 10, … if 640 are reduced to 160.
    """
    if (width, height) == (intrinsics.width, intrinsics.height):
        return color, depth, intrinsics
    return (
        cv2.resize(color, (width, height), interpolation=cv2.INTER_AREA),
        cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT),
        intrinsics.resized(width, height),
    )


def flow_image(flow: np.ndarray, full_m_s: float = 1.0) -> np.ndarray:
    """Draw scene flow [H, W, 3] m/s as RGB [H, W, 3] uint8: hue is the direction in the image, brightness the speed.

    Right is red, down yellow-green, left cyan, up violet; motion along the optical axis is paler, unknown flow gray.
    """
    known = np.isfinite(flow).all(axis=-1)
    x, y, z = np.moveaxis(np.where(known[..., None], flow, 0), -1, 0)
    across = np.hypot(x, y)
    speed = np.hypot(across, z)
    hue = np.degrees(np.arctan2(y, x)) % 360
    saturation = np.divide(across, speed, out=np.zeros_like(speed), where=speed > 0)
    wheel = np.stack([hue, saturation, np.clip(speed / full_m_s, 0, 1)], axis=-1).astype(np.float32)
    out = np.round(255 * cv2.cvtColor(wheel, cv2.COLOR_HSV2RGB)).astype(np.uint8)
    out[~known] = 60
    return out
