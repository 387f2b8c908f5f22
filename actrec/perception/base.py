"""What every estimator gives: joints in pixels, with their shape in metres where it knows it.

The settings of the estimators, apart from them so that reading these loads no MediaPipe.

Square, rotated image regions that a landmark network looks at, and how they follow from joints and landmarks.

The rules are those of MediaPipe's own graphs (modules/*/…_to_roi.pbtxt), which are published without a paper beyond
Bazarevsky et al., "BlazePose", 2020 and Zhang et al., "MediaPipe Hands", 2020.
"""

from dataclasses import dataclass

import numpy as np

from actrec.skeleton import layouts
from actrec.types import Body, Intrinsics, RgbdFrame
from actrec.utils.config import setting
from actrec.utils.errors import InputError


@dataclass
class Detection:
    """One body, hand or face in one color image.

    Attributes:
        layout: Name of a layout in `actrec.skeleton.layouts`.
        pixels: [V, 2] float32 (u, v), pixel centers at integers; may lie outside the image.
        world: [V, 3] float32 metres about the object's own center, axes as the optical frame's (x right, y down, z away
            from the camera); NaN where the estimator has no metric shape.
        scores: [V] float32 in 0..1.
        side: The person's own "left" or "right" for a hand, else empty.
        body_id: The body it belongs to, empty where that is unknown.
    """

    layout: str
    pixels: np.ndarray
    world: np.ndarray
    scores: np.ndarray
    side: str = ""
    body_id: str = ""


def color_of(frame: RgbdFrame) -> np.ndarray:
    """The frame's color image, [H, W, 3] uint8 RGB, contiguous.

    Raises:
        InputError: The frame has none, or its shapes and types contradict the contract.
    """
    frame.check()
    if frame.color is None:
        raise InputError(
            "an estimator needs a color image, but this source gives joints alone: do without the estimator"
        )
    return np.ascontiguousarray(frame.color)


class StampGuard:
    """Tells when an estimator's memory of the last frame no longer holds."""

    def __init__(self, max_gap_s: float):
        self._max_gap_ns = int(max_gap_s * 1e9)
        self._last: int | None = None

    def broken(self, stamp_ns: int) -> bool:
        """True where time jumped back, or on by more than the gap allowed, since the last call; false on the first."""
        last, self._last = self._last, stamp_ns
        return last is not None and not 0 <= stamp_ns - last <= self._max_gap_ns


@dataclass(frozen=True)
class BodyEstimatorConfig:
    """Settings of the body estimator."""

    num_poses: int = setting(
        2, "The most people estimated in one frame; each costs one pose network run", range=(1, 10)
    )
    detect_every: int = setting(
        5,
        "Frames between looks for newcomers while somebody is followed; the search runs every frame otherwise",
        range=(1, 300),
    )
    min_detection_score: float = setting(
        0.5, "Score from which the person detector's find is followed up", range=(0.0, 1.0)
    )
    max_gap_s: float = setting(
        1.0, "A longer gap between frames, or a jump back, forgets the people followed", unit="s", range=(0.0, 60.0)
    )


@dataclass(frozen=True)
class HandEstimatorConfig:
    """Settings of the hand estimator."""

    hand_model: str = setting(
        "lite", "Landmark network: full finds 1 % more hands and takes twice as long", choices=("lite", "full")
    )
    hand_window_m: float = setting(
        0.26, "Edge of the square around a body's hand in which it is looked for", unit="m", range=(0.1, 1.0)
    )
    num_hands: int = setting(2, "The most hands looked for where no bodies are known", range=(1, 8))
    hand_max_gap_s: float = setting(
        1.0, "A longer gap between frames, or a jump back, forgets the hands followed", unit="s", range=(0.0, 60.0)
    )


@dataclass(frozen=True)
class FaceEstimatorConfig:
    """Settings of the face estimator."""

    num_faces: int = setting(2, "The most faces looked for where no bodies are known", range=(1, 10))
    head_window_m: float = setting(
        0.5, "Edge of the square around a body's head in which the face is looked for", unit="m", range=(0.1, 2.0)
    )
    face_attention: bool = setting(False, "Use the slower mesh that is more exact at lips and eyes")
    face_retry_every: int = setting(
        3, "Frames between looks for a face that was not found at a body's head", range=(1, 100)
    )
    face_max_gap_s: float = setting(
        1.0, "A longer gap between frames, or a jump back, forgets the faces followed", unit="s", range=(0.0, 60.0)
    )


@dataclass(frozen=True)
class Region:
    """A square in pixels.

    Attributes:
        u, v: Center.
        size: Edge length.
        angle: Radians by which it is turned clockwise in the image; at 0 its up is the image's up.
    """

    u: float
    v: float
    size: float
    angle: float = 0.0

    def shifted(self, right: float, down: float) -> "Region":
        """The region moved along its own axes by multiples of its size."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return Region(
            self.u + self.size * (right * cos - down * sin),
            self.v + self.size * (right * sin + down * cos),
            self.size,
            self.angle,
        )

    def meets(self, width: int, height: int) -> bool:
        """Whether its center lies in the image and it is large enough to show anything."""
        return 0 <= self.u < width and 0 <= self.v < height and self.size >= 8


def towards(start: np.ndarray, end: np.ndarray) -> float:
    """The angle that makes a region's up point from `start` to `end` ([2] pixels)."""
    du, dv = (end - start).tolist()
    return float(np.arctan2(du, -dv))


def circled(center: np.ndarray, rim: np.ndarray, scale: float) -> Region:
    """The upright-person region of BlazePose: a circle about `center` through `rim` (above the head), enlarged."""
    size = 2.0 * float(np.linalg.norm(rim - center)) * scale
    return Region(float(center[0]), float(center[1]), size, towards(center, rim))


def around(points: np.ndarray, angle: float, scale: float, shift_down: float = 0.0) -> Region:
    """The square around [N, 2] pixels in a frame turned by `angle`, enlarged, then shifted along its own axis."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    own = points @ turn
    low, high = own.min(axis=0), own.max(axis=0)
    center = turn @ ((low + high) / 2)
    span = float((high - low).max())
    shifted = Region(float(center[0]), float(center[1]), span, angle).shifted(0.0, shift_down)
    return Region(shifted.u, shifted.v, span * scale, angle)


def hand_from_landmarks(pixels: np.ndarray) -> Region:
    """Where the hand will be looked for in the next frame, from its 21 landmarks in pixels."""
    knuckles = 0.25 * (pixels[5] + pixels[13]) + 0.5 * pixels[9]
    palm = pixels[[0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]]
    return around(palm, towards(pixels[0], knuckles), scale=2.0, shift_down=-0.1)


def hand_from_body(body: Body, side: str, intrinsics: Intrinsics, hand_m: float, minimum: float = 0.3) -> Region | None:
    """A square around the hand of a `kinect_v2_25` body, pointing from elbow to fingers; None where it is unknown.

    Args:
        body: Joints with pixels; positions set the size where they are known, else the forearm in pixels does.
        side: The person's own "left" or "right".
        intrinsics: Of the image that the region is for.
        hand_m: Edge of the square in metres.
        minimum: Joints that score less are not trusted.
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
    # Foreshortened forearms point nowhere; a hand is then taken as held up.
    angle = towards(pixels[elbow], center) if np.linalg.norm(center - pixels[elbow]) > 0.3 * size else 0.0
    return Region(float(center[0]), float(center[1]), size, angle)


def head_from_body(body: Body, intrinsics: Intrinsics, head_m: float, minimum: float = 0.3) -> Region | None:
    """An upright square around the head of a `kinect_v2_25` body; None where the head is unknown."""
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
