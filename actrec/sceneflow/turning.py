"""Scene flow before a camera that turns fast: the second image is turned back before the flow is made.

A turn moves the picture by the same angle wherever it looks, near or far, hence by more pixels than flow finds: 5° from
one frame to the next are 23 pixels of 320. Turned back, which needs no depth, only what is left must be found.
"""

import cv2
import numpy as np

from actrec.frames import Intrinsics, RgbdFrame
from actrec.geometry import image_points
from actrec.sceneflow.base import SceneFlow

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
    grey0, grey1 = (cv2.cvtColor(frame.colour, cv2.COLOR_RGB2GRAY) for frame in (first, second))
    corners = cv2.goodFeaturesToTrack(grey0, _CORNERS, 0.003, first.intrinsics.width / 27)
    if corners is None:
        return None
    there, found, _ = cv2.calcOpticalFlowPyrLK(grey0, grey1, corners, None, **_FOLLOW)  # type: ignore[call-overload]
    back, found_again, _ = cv2.calcOpticalFlowPyrLK(grey1, grey0, there, None, **_FOLLOW)  # type: ignore[call-overload]
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
        first, second: Of one camera, with colour and depth.
        dt: Seconds from the first to the second.
        turn: The camera's, [3, 3] as `estimate` gives it, about right; None where nobody knows.

    Returns:
        [H, W, 3] float32 m/s, the camera's turn included; NaN also where the second image does not look any more.

    Raises:
        InputError: As `method.estimate`.
    """
    assert first.colour is not None and first.depth is not None
    assert second.colour is not None and second.depth is not None
    camera = first.intrinsics
    if turn is None or not LEAST_DEG <= degrees(turn) <= MOST_DEG:
        return method.estimate(first.colour, first.depth, second.colour, second.depth, camera, dt)
    colour, depth, seen = turned_back(second.colour, second.depth, camera, turn)
    found = method.estimate(first.colour, first.depth, colour, depth, camera, dt)
    here = image_points(first.depth, camera)
    step = np.float32(dt)
    moved = ((here + found * step) @ turn.T.astype(np.float32) - here) / step
    moved[~seen] = np.nan
    return moved


def turned_back(
    colour: np.ndarray, depth: np.ndarray, camera: Intrinsics, turn: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a camera would see that had not turned.

    Returns:
        Colour, depth (NaN where it did not look), and where it looked, [H, W].
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
    return cv2.remap(colour, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), back, seen


_SURFACE_STEP = 0.02
