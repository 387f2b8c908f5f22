"""Square, rotated image regions that a landmark network looks at, and how they follow from joints and landmarks.

The rules are those of MediaPipe's own graphs (modules/*/…_to_roi.pbtxt), which are published without a paper beyond
Bazarevsky et al., "BlazePose", 2020 and Zhang et al., "MediaPipe Hands", 2020.
"""

from dataclasses import dataclass

import numpy as np

from actrec.frames import Body, Intrinsics
from actrec.skeleton import layouts


@dataclass(frozen=True)
class Region:
    """A square in pixels.

    Attributes:
        u, v: Centre.
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
        """Whether its centre lies in the image and it is large enough to show anything."""
        return 0 <= self.u < width and 0 <= self.v < height and self.size >= 8


def towards(start: np.ndarray, end: np.ndarray) -> float:
    """The angle that makes a region's up point from `start` to `end` ([2] pixels)."""
    du, dv = (end - start).tolist()
    return float(np.arctan2(du, -dv))


def circled(centre: np.ndarray, rim: np.ndarray, scale: float) -> Region:
    """The upright-person region of BlazePose: a circle about `centre` through `rim` (above the head), enlarged."""
    size = 2.0 * float(np.linalg.norm(rim - centre)) * scale
    return Region(float(centre[0]), float(centre[1]), size, towards(centre, rim))


def around(points: np.ndarray, angle: float, scale: float, shift_down: float = 0.0) -> Region:
    """The square around [N, 2] pixels in a frame turned by `angle`, enlarged, then shifted along its own axis."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    own = points @ turn
    low, high = own.min(axis=0), own.max(axis=0)
    centre = turn @ ((low + high) / 2)
    span = float((high - low).max())
    shifted = Region(float(centre[0]), float(centre[1]), span, angle).shifted(0.0, shift_down)
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
    centre = pixels[hand] if np.isfinite(pixels[hand]).all() else pixels[wrist] + 0.25 * forearm
    # Foreshortened forearms point nowhere; a hand is then taken as held up.
    angle = towards(pixels[elbow], centre) if np.linalg.norm(centre - pixels[elbow]) > 0.3 * size else 0.0
    return Region(float(centre[0]), float(centre[1]), size, angle)


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
