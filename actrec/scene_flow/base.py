"""What every scene flow method offers, and what all of them check and resize alike.

Scene flow before a camera that turns fast: the second image is turned back before the flow is made.

A turn moves the picture by the same angle wherever it looks, near or far, hence by more pixels than flow finds: 5° from
one frame to the next are 23 pixels of 320. Turned back, which needs no depth, only what is left must be found.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import cv2
import numpy as np

from actrec.types import MAX_DEPTH_M, Intrinsics, RgbdFrame
from actrec.utils.errors import InputError
from actrec.utils.geometry import image_points


class SceneFlow(ABC):
    """Estimates scene flow between two registered RGB-D images.

    Attributes:
        config_class: The settings dataclass that the constructor builds from its options.
    """

    config_class: ClassVar[type]

    def estimate(
        self,
        color0: np.ndarray,
        depth0: np.ndarray,
        color1: np.ndarray,
        depth1: np.ndarray,
        intrinsics: Intrinsics,
        dt: float,
    ) -> np.ndarray:
        """The velocity of the surface that each pixel of the first image shows.

        Args:
            color0: [H, W, 3] uint8 RGB.
            depth0: [H, W] float32 metres, NaN where missing.
            color1: The second image.
            depth1: Its depth.
            intrinsics: Of all four images.
            dt: Seconds from the first to the second.

        Returns:
            [H, W, 3] float32 m/s in the optical frame; NaN where either depth is missing or the surface is hidden
            in the second image.

        Raises:
            InputError: Sizes or types differ, depth is not in metres, or dt is not positive.
        """
        _check(color0, depth0, color1, depth1, intrinsics, dt)
        return self._estimate(color0, _sound(depth0), color1, _sound(depth1), intrinsics, dt)

    @abstractmethod
    def _estimate(
        self,
        color0: np.ndarray,
        depth0: np.ndarray,
        color1: np.ndarray,
        depth1: np.ndarray,
        intrinsics: Intrinsics,
        dt: float,
    ) -> np.ndarray:
        """As `estimate`, with inputs that are sound: depth is positive or NaN."""


def resize(
    color: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics, width: int, height: int
) -> tuple[np.ndarray, np.ndarray, Intrinsics]:
    """A smaller RGB-D image: color averaged over areas, depth sampled (an average would invent surfaces).

    Depth is that of the pixel nearest to the area's middle; of 640 columns made 160, of pixels 2, 6, 10, …
    """
    if (width, height) == (intrinsics.width, intrinsics.height):
        return color, depth, intrinsics
    small = cv2.resize(color, (width, height), interpolation=cv2.INTER_AREA)
    return (
        small,
        cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT),
        intrinsics.resized(width, height),
    )


def _sound(depth: np.ndarray) -> np.ndarray:
    """Depth with NaN for whatever else cameras write where they see none."""
    missing = ~((depth > 0) & (depth < np.inf))
    return np.where(missing, np.float32(np.nan), depth) if missing.any() else depth


def _median(depth: np.ndarray) -> float:
    """The median of what is known, of a sixteenth of the pixels; 0 where nothing is."""
    few = depth[::4, ::4]
    known = few[np.isfinite(few) & (few > 0)]
    return float(np.median(known)) if known.size else 0.0


def _check(
    color0: np.ndarray, depth0: np.ndarray, color1: np.ndarray, depth1: np.ndarray, intrinsics: Intrinsics, dt: float
) -> None:
    size = (intrinsics.height, intrinsics.width)
    for name, image in (("first", color0), ("second", color1)):
        if image.shape != (*size, 3) or image.dtype != np.uint8:
            raise InputError(f"{name} color is {image.dtype}{list(image.shape)}, expected uint8{[*size, 3]}")
    for name, image in (("first", depth0), ("second", depth1)):
        if image.shape != size or image.dtype != np.float32:
            raise InputError(
                f"{name} depth is {image.dtype}{list(image.shape)}, expected float32{list(size)} in metres"
            )
        if (away := _median(image)) > MAX_DEPTH_M:
            raise InputError(f"{name} depth is {away:.0f} m in the middle, expected metres: is it in millimetres?")
    if not (np.isfinite(dt) and dt > 0):
        raise InputError(f"the second image is {dt} s after the first, expected more than 0")


LEAST_DEG = 0.5
"""Turns smaller than this are left to the flow, which finds them."""

MOST_DEG = 30.0
"""Beyond it the two images share too little."""


def estimate(first: RgbdFrame, second: RgbdFrame) -> np.ndarray | None:
    """The turn [3, 3] of a camera before which most corners stand still: a ray r of the first is R r in the second.

    Corners are followed (Lucas-Kanade, there and back), and R brings the rays of most of them together. They are spread
    evenly: a near, patterned person has more corners than the room. A shift of the camera goes into R where it looks
    like a turn, as it should: less of it is left to the flow.

    Returns:
        The turn; None where fewer than 20 corners are found again, or no third of them agrees on one, or as many
        stand still.
    """
    gray0, gray1 = (cv2.cvtColor(frame.color, cv2.COLOR_RGB2GRAY) for frame in (first, second))
    corners = cv2.goodFeaturesToTrack(gray0, _CORNERS, 0.003, first.intrinsics.width / 27)
    if corners is None:
        return None
    there, found, _ = cv2.calcOpticalFlowPyrLK(gray0, gray1, corners, None, **_FOLLOW)  # type: ignore[call-overload]
    back, found_again, _ = cv2.calcOpticalFlowPyrLK(gray1, gray0, there, None, **_FOLLOW)  # type: ignore[call-overload]
    same = (found & found_again).ravel() > 0
    same &= np.linalg.norm(back - corners, axis=-1).ravel() < 1
    if same.sum() < _LEAST_CORNERS:
        return None
    before, after = (_rays(points[same, 0], first.intrinsics) for points in (corners, there))
    turn = _turn_of_rays(before, after)
    turned, still = (np.linalg.norm(each - after, axis=1) < 2 * _CLOSE_RAD for each in (before @ turn.T, before))
    return turn if turned.mean() >= _LEAST_SHARE and turned.sum() > still.sum() else None


_CORNERS, _LEAST_CORNERS, _LEAST_SHARE = 300, 20, 1 / 3

_FOLLOW = {"winSize": (15, 15), "maxLevel": 4, "criteria": (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 0.03)}

_FAR_RAD, _CLOSE_RAD = 0.04, 0.003


def _turn_of_rays(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """R that brings most of unit rays [N, 3] to others: least squares reweighted, who is off counts ever less.

    Geman and McClure's weights, of a scale that shrinks: graduated, they do not stay between the room and a person.
    """
    weights, close = np.ones(len(before)), _FAR_RAD
    turn = np.eye(3)
    for _ in range(12):
        u, _, vt = np.linalg.svd((after * weights[:, None]).T @ before)
        turn = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
        weights = 1 / np.square(1 + np.square((before @ turn.T - after) / close).sum(axis=1))
        close = max(close * 0.75, _CLOSE_RAD)
    return turn


def _rays(pixels: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """[N, 3] unit rays through pixels [N, 2]."""
    rays = np.stack([(pixels[:, 0] - camera.cx) / camera.fx, (pixels[:, 1] - camera.cy) / camera.fy], axis=1)
    rays = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def degrees(turn: np.ndarray) -> float:
    """The angle of a rotation [3, 3]."""
    return float(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))


def flow(method: SceneFlow, first: RgbdFrame, second: RgbdFrame, dt: float, turn: np.ndarray | None) -> np.ndarray:
    """What `method.estimate` gives, found though the camera turns.

    Args:
        method: Makes the flow.
        first, second: Of one camera, with color and depth.
        dt: Seconds from the first to the second.
        turn: The camera's, [3, 3] as `estimate` gives it, about right; None where nobody knows.

    Returns:
        [H, W, 3] float32 m/s, the camera's turn included; NaN also where the second image does not look any more.

    Raises:
        InputError: As `method.estimate`.
    """
    assert first.color is not None and first.depth is not None
    assert second.color is not None and second.depth is not None
    camera = first.intrinsics
    if turn is None or not LEAST_DEG <= degrees(turn) <= MOST_DEG:
        return method.estimate(first.color, first.depth, second.color, second.depth, camera, dt)
    color, depth, seen = turned_back(second.color, second.depth, camera, turn)
    found = method.estimate(first.color, first.depth, color, depth, camera, dt)
    here = image_points(first.depth, camera)
    step = np.float32(dt)
    moved = ((here + found * step) @ turn.T.astype(np.float32) - here) / step
    moved[~seen] = np.nan
    return moved


def turned_back(
    color: np.ndarray, depth: np.ndarray, camera: Intrinsics, turn: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a camera would see that had not turned.

    Returns:
        Color, depth (NaN where it did not look), and where it looked, [H, W].
    """
    height, width = depth.shape
    right = ((np.arange(width) - camera.cx) / camera.fx)[None, :]
    down = ((np.arange(height) - camera.cy) / camera.fy)[:, None]
    # Each pixel's ray, of depth 1, as the camera sees it that had turned.
    x, y, z = ((row[0] * right + (row[1] * down + row[2])).astype(np.float32) for row in turn)
    u, v = np.float32(camera.fx) * x / z + np.float32(camera.cx), np.float32(camera.fy) * y / z + np.float32(camera.cy)
    seen = (u > -0.5) & (v > -0.5) & (u < width - 0.5) & (v < height - 0.5)
    far = cv2.remap(depth, u, v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=float("nan"))
    between = cv2.remap(depth, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=float("nan"))
    # Between pixels only of one surface: across an edge the mean is a surface that is not there.
    smooth = np.abs(between - far) < _SURFACE_STEP * far
    back = np.where(smooth, between, far) / z
    return cv2.remap(color, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), back, seen


_SURFACE_STEP = 0.02
