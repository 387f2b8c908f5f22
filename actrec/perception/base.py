"""Detections, settings of the estimators, and the image regions that landmark networks look at.

No MediaPipe is loaded here. The regions follow the rules of MediaPipe's graphs (modules/*/…_to_roi.pbtxt); see
Bazarevsky et al., "BlazePose", 2020 and Zhang et al., "MediaPipe Hands", 2020.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from actrec.skeleton import layouts
from actrec.types import Body, Intrinsics, RgbdFrame
from actrec.utils.config import setting
from actrec.utils.errors import InputError
from actrec.utils.registry import Registry

ESTIMATORS = Registry(
    "estimator",
    {
        "body": "actrec.perception.body:MediaPipeBody",
        "hand": "actrec.perception.hand:MediaPipeHand",
        "face": "actrec.perception.face:MediaPipeFace",
    },
    install={"mediapipe": "pip install mediapipe==0.10.21 (0.10.18 on arm64)"},
)


def create(kind: str, **options: Any) -> Any:
    """Create the estimator of `kind` ("body", "hand" or "face"); `options` are fields of its settings dataclass.

    A body estimator has `.estimate(frame) -> list[Detection]`, the others `.estimate(frame, bodies)`.

    Raises:
        ConfigError: The kind or an option is unknown; the message lists the known ones.
        MissingLibraryError: MediaPipe or its models are not installed; the message has the command to install it.
    """
    return ESTIMATORS.create(kind, **options)


@dataclass
class Detection:
    """One body, hand or face in one color image.

    Attributes:
        layout: Name of a layout in `actrec.skeleton.layouts`.
        pixels: [V, 2] float32 (u, v), pixel centers at integers; may lie outside the image.
        world: [V, 3] float32 meters about the object's own center, axes of the optical frame (x right, y down, z away
            from the camera); NaN if the estimator has no metric shape.
        scores: [V] float32 in 0..1.
        side: The person's own "left" or "right" for a hand, else empty.
        body_id: Id of its body; empty if unknown.
    """

    layout: str
    pixels: np.ndarray
    world: np.ndarray
    scores: np.ndarray
    side: str = ""
    body_id: str = ""


@dataclass(frozen=True)
class BodyEstimatorConfig:
    """Settings of the body estimator."""

    num_poses: int = setting(
        2, "Maximum number of people per frame; each costs one run of the pose network", range=(1, 10)
    )
    detect_every: int = setting(
        5,
        "Frames between searches for new people while a person is tracked; without one, every frame is searched",
        range=(1, 300),
    )
    min_detection_score: float = setting(0.5, "Minimum score of the person detector", range=(0.0, 1.0))
    max_gap_s: float = setting(
        1.0, "A longer gap between frames, or a stamp that jumps back, resets tracking", unit="s", range=(0.0, 60.0)
    )


@dataclass(frozen=True)
class HandEstimatorConfig:
    """Settings of the hand estimator."""

    hand_model: str = setting(
        "lite", "Landmark network: full finds 1 % more hands and takes twice as long", choices=("lite", "full")
    )
    hand_window_m: float = setting(0.26, "Edge of the search window around a body's hand", unit="m", range=(0.1, 1.0))
    num_hands: int = setting(2, "Maximum number of hands if no bodies are known", range=(1, 8))
    hand_max_gap_s: float = setting(
        1.0, "A longer gap between frames, or a stamp that jumps back, resets tracking", unit="s", range=(0.0, 60.0)
    )


@dataclass(frozen=True)
class FaceEstimatorConfig:
    """Settings of the face estimator."""

    num_faces: int = setting(2, "Maximum number of faces if no bodies are known", range=(1, 10))
    head_window_m: float = setting(0.5, "Edge of the search window around a body's head", unit="m", range=(0.1, 2.0))
    face_attention: bool = setting(False, "Use the slower mesh that is more exact at lips and eyes")
    face_retry_every: int = setting(
        3, "Frames between searches for a face that was not found at a body's head", range=(1, 100)
    )
    face_max_gap_s: float = setting(
        1.0, "A longer gap between frames, or a stamp that jumps back, resets tracking", unit="s", range=(0.0, 60.0)
    )


class StampGuard:
    """Check of successive stamps for gaps that invalidate an estimator's tracking."""

    def __init__(self, max_gap_s: float):
        self._max_gap_ns = int(max_gap_s * 1e9)
        self._last: int | None = None

    def is_discontinuous(self, stamp_ns: int) -> bool:
        """Return whether time jumped back or forward by more than the maximum gap since the last call."""
        last, self._last = self._last, stamp_ns
        return last is not None and not 0 <= stamp_ns - last <= self._max_gap_ns


def require_color(frame: RgbdFrame) -> np.ndarray:
    """Return the frame's color image, [H, W, 3] uint8 RGB, contiguous.

    Raises:
        InputError: The frame has no color image or violates the data contract.
    """
    frame.check()
    if frame.color is None:
        raise InputError("an estimator needs a color image, but this source gives joints only; use its joints instead")
    return np.ascontiguousarray(frame.color)


@dataclass(frozen=True)
class Region:
    """A rotated square in pixels.

    Attributes:
        u, v: Center.
        size: Edge length.
        angle: Clockwise rotation in the image, rad; at 0 its up is the image's up.
    """

    u: float
    v: float
    size: float
    angle: float = 0.0

    def shifted(self, right: float, down: float) -> "Region":
        """Return the region moved along its own axes by multiples of its size."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return Region(
            self.u + self.size * (right * cos - down * sin),
            self.v + self.size * (right * sin + down * cos),
            self.size,
            self.angle,
        )

    def is_visible(self, width: int, height: int) -> bool:
        """Return whether its center lies in the image and its size is at least 8 px."""
        return 0 <= self.u < width and 0 <= self.v < height and self.size >= 8

    def covers(self, points: np.ndarray) -> bool:
        """Return whether the mean of [N, 2] pixels lies near the region's center."""
        center = points.mean(axis=0)
        return bool(np.hypot(center[0] - self.u, center[1] - self.v) < 0.35 * self.size)


def angle_towards(start: np.ndarray, end: np.ndarray) -> float:
    """Return the angle of a region whose up points from `start` to `end` ([2] pixels)."""
    du, dv = (end - start).tolist()
    return float(np.arctan2(du, -dv))


def region_from_circle(center: np.ndarray, rim: np.ndarray, scale: float) -> Region:
    """Return BlazePose's region of a person: the enlarged circle about `center` through `rim` (above the head)."""
    size = 2.0 * float(np.linalg.norm(rim - center)) * scale
    return Region(float(center[0]), float(center[1]), size, angle_towards(center, rim))


def region_around(points: np.ndarray, angle: float, scale: float, shift_down: float = 0.0) -> Region:
    """Return the square around [N, 2] pixels rotated by `angle`, shifted along its own axis and then enlarged."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    own = points @ turn
    low, high = own.min(axis=0), own.max(axis=0)
    center = turn @ ((low + high) / 2)
    span = float((high - low).max())
    shifted = Region(float(center[0]), float(center[1]), span, angle).shifted(0.0, shift_down)
    return Region(shifted.u, shifted.v, span * scale, angle)


def hand_region_from_landmarks(pixels: np.ndarray) -> Region:
    """Return the region of a hand in the next frame, from its 21 landmarks in pixels."""
    knuckles = 0.25 * (pixels[5] + pixels[13]) + 0.5 * pixels[9]
    palm = pixels[[0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]]
    return region_around(palm, angle_towards(pixels[0], knuckles), scale=2.0, shift_down=-0.1)


def hand_region_from_body(
    body: Body, side: str, intrinsics: Intrinsics, hand_m: float, minimum: float = 0.3
) -> Region | None:
    """Return a square around the hand of a `kinect_v2_25` body, pointing from elbow to fingers; None if unknown.

    Args:
        body: Joints with pixels. The size follows from the wrist's distance, or from the forearm in pixels.
        side: The person's own "left" or "right".
        intrinsics: Intrinsics of the image.
        hand_m: Edge of the square, m.
        minimum: Minimum score of the wrist.
    """
    index = layouts.get(body.layout).index
    elbow, wrist, hand = (index[f"{joint}_{side}"] for joint in ("elbow", "wrist", "hand"))
    pixels = body.pixels
    if body.scores[wrist] < minimum or not np.isfinite(pixels[[elbow, wrist]]).all():
        return None
    forearm = pixels[wrist] - pixels[elbow]
    z = body.positions[wrist, 2]
    size = hand_m * intrinsics.fx / float(z) if np.isfinite(z) and z > 0.1 else 1.2 * float(np.linalg.norm(forearm))
    center = pixels[hand] if np.isfinite(pixels[hand]).all() else pixels[wrist] + 0.25 * forearm
    # The direction of a foreshortened forearm is unreliable; the hand is then assumed upright.
    is_long = np.linalg.norm(center - pixels[elbow]) > 0.3 * size
    angle = angle_towards(pixels[elbow], center) if is_long else 0.0
    return Region(float(center[0]), float(center[1]), size, angle)


def head_region_from_body(body: Body, intrinsics: Intrinsics, head_m: float, minimum: float = 0.3) -> Region | None:
    """Return an upright square around the head of a `kinect_v2_25` body; None if the head is unknown."""
    index = layouts.get(body.layout).index
    head, neck = body.pixels[index["head"]], body.pixels[index["neck"]]
    if body.scores[index["head"]] < minimum or not np.isfinite(head).all():
        return None
    z = body.positions[index["head"], 2]
    if np.isfinite(z) and z > 0.1:
        size = head_m * intrinsics.fx / float(z)
    elif np.isfinite(neck).all():
        size = 3.0 * float(np.linalg.norm(head - neck))
    else:
        return None
    return Region(float(head[0]), float(head[1]), size)
