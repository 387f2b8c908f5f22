"""Camera motion in scene flow: estimation, removal, and compensation of fast rotations.

A static point at X in the first camera is at R X + t in the second; the remaining flow is the scene's own motion.

A rotation shifts the whole image, near and far, by more pixels than a flow method can match: 5° between two frames are
23 of 320 pixels. `flow_with_rotation` rotates the second image back before the flow is estimated.
"""

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from actrec.scene_flow import SceneFlow
from actrec.types import Intrinsics, RgbdFrame
from actrec.utils.errors import InputError
from actrec.utils.geometry import image_points

MIN_ROTATION_DEG = 0.5
"""Smaller rotations are left to the flow method."""

MAX_ROTATION_DEG = 30.0
"""Larger rotations leave too little overlap between the two images."""

_SAMPLE, _TRIALS, _MIN_POINTS = 1500, 64, 50

_CLOSE_M = 0.02
"""Maximum residual of an inlier."""

_CORNERS, _MIN_CORNERS, _MIN_SHARE = 300, 20, 1 / 3
_CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 0.03)
_START_SCALE_RAD, _END_SCALE_RAD = 0.04, 0.003

_SURFACE_STEP = 0.02
"""Depths that differ by more than this share are different surfaces and are not interpolated."""


@dataclass(frozen=True)
class CameraMotion:
    """Motion of static points from the first camera's frame to the second's."""

    rotation: np.ndarray  # R, [3, 3]
    translation: np.ndarray  # t, [3] m

    @staticmethod
    def between(first: np.ndarray, second: np.ndarray) -> "CameraMotion":
        """Return the motion between two camera poses [4, 4] in a fixed frame, such as TF's.

        Raises:
            InputError: A pose has the wrong shape or is not finite.
        """
        for pose in (first, second):
            if pose.shape != (4, 4) or not np.isfinite(pose).all():
                raise InputError(f"camera pose is {list(pose.shape)}, expected a finite [4, 4] matrix")
        motion = np.linalg.inv(second) @ first
        return CameraMotion(motion[:3, :3], motion[:3, 3])


def subtract_camera_motion(
    flow: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics, dt: float, camera: CameraMotion
) -> np.ndarray:
    """Remove the camera's motion from scene flow: return the scene's velocities in the first camera's frame.

    Flow [H, W, 3] m/s and depth [H, W] m are of the first image, `dt` is the time between the images.
    """
    points, step = image_points(depth, intrinsics), np.float32(dt)
    rotation, translation = camera.rotation.astype(np.float32), camera.translation.astype(np.float32)
    # In the first camera's frame a static point does not move.
    moved = (points + flow * step - translation) @ rotation
    return ((moved - points) / step).astype(np.float32)


def estimate_camera_motion(
    flow: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics, dt: float
) -> CameraMotion | None:
    """Estimate the motion of a camera in a mostly static scene; None if fewer than a third of the points agree.

    RANSAC over triples of points, then three rounds of least squares on the inliers. The arguments are as for
    `subtract_camera_motion`.
    """
    known = np.isfinite(flow).all(axis=-1) & np.isfinite(depth)
    rng = np.random.default_rng(0)
    pixels = np.flatnonzero(known)
    if len(pixels) < _MIN_POINTS:
        return None
    chosen = rng.choice(pixels, min(_SAMPLE, len(pixels)), replace=False)
    before = image_points(depth, intrinsics).reshape(-1, 3)[chosen].astype(np.float64)
    after = before + flow.reshape(-1, 3)[chosen].astype(np.float64) * dt
    best = _largest_consensus(before, after, rng)
    for _ in range(3):
        if best.sum() < max(_MIN_POINTS, len(chosen) / 3):
            return None
        rotation, translation = rigid(before[best], after[best])
        best = np.linalg.norm(before @ rotation.T + translation - after, axis=1) < _CLOSE_M
    return CameraMotion(rotation, translation)


def _largest_consensus(before: np.ndarray, after: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the inliers of the triple with the most inliers, or of no motion if that has as many."""
    still = np.linalg.norm(after - before, axis=1) < _CLOSE_M
    triples = rng.integers(0, len(before), (_TRIALS, 3))
    rotations, translations = rigid(before[triples], after[triples])
    moved = before @ rotations.swapaxes(1, 2) + translations[:, None]
    agree = np.square(moved - after).sum(axis=-1) < _CLOSE_M**2
    best = agree[agree.sum(axis=1).argmax()]
    return best if best.sum() > still.sum() else still


def rigid(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return R [..., 3, 3] and t [..., 3] that fit points [..., N, 3] to others in least squares (Kabsch 1976)."""
    a, b = before.mean(axis=-2, keepdims=True), after.mean(axis=-2, keepdims=True)
    u, _, vt = np.linalg.svd((after - b).swapaxes(-1, -2) @ (before - a))
    u[..., 2] *= np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)[..., None]
    rotation = u @ vt
    return rotation, (b - a @ rotation.swapaxes(-1, -2))[..., 0, :]


def estimate_rotation(first: RgbdFrame, second: RgbdFrame) -> np.ndarray | None:
    """Estimate the camera's rotation R [3, 3] from color: a ray r of the first image is R r in the second.

    Corners are tracked (Lucas-Kanade, forward and backward) and a robust rotation is fitted to their rays. A
    translation that looks like a rotation is included, which leaves less motion to the flow method.

    Returns:
        The rotation; None if fewer than 20 corners are tracked, fewer than a third agree, or as many stand still.
    """
    gray0, gray1 = (cv2.cvtColor(frame.color, cv2.COLOR_RGB2GRAY) for frame in (first, second))
    # A minimum distance spreads the corners: a near, textured person would otherwise get more than the room.
    corners = cv2.goodFeaturesToTrack(gray0, _CORNERS, 0.003, first.intrinsics.width / 27)
    if corners is None:
        return None
    track = partial(cv2.calcOpticalFlowPyrLK, nextPts=None, winSize=(15, 15), maxLevel=4, criteria=_CRITERIA)
    forward, found, _ = track(gray0, gray1, corners)
    backward, found_again, _ = track(gray1, gray0, forward)
    tracked = (found & found_again).ravel() > 0
    tracked &= np.linalg.norm(backward - corners, axis=-1).ravel() < 1
    if tracked.sum() < _MIN_CORNERS:
        return None
    before, after = (_rays(points[tracked, 0], first.intrinsics) for points in (corners, forward))
    rotation = _fit_rotation(before, after)
    close = 2 * _END_SCALE_RAD
    inliers, still = (np.linalg.norm(rays - after, axis=1) < close for rays in (before @ rotation.T, before))
    return rotation if inliers.mean() >= _MIN_SHARE and inliers.sum() > still.sum() else None


def _fit_rotation(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Fit R to unit rays [N, 3] by iteratively reweighted least squares.

    Geman-McClure weights with a shrinking scale (graduated non-convexity) do not get stuck between room and person.
    """
    weights, scale = np.ones(len(before)), _START_SCALE_RAD
    rotation = np.eye(3)
    for _ in range(12):
        u, _, vt = np.linalg.svd((after * weights[:, None]).T @ before)
        rotation = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
        weights = 1 / np.square(1 + np.square((before @ rotation.T - after) / scale).sum(axis=1))
        scale = max(scale * 0.75, _END_SCALE_RAD)
    return rotation


def _rays(pixels: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """Return unit rays [N, 3] through pixels [N, 2]."""
    rays = np.stack([(pixels[:, 0] - camera.cx) / camera.fx, (pixels[:, 1] - camera.cy) / camera.fy], axis=1)
    rays = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def rotation_degrees(rotation: np.ndarray) -> float:
    """Return the angle of a rotation [3, 3]."""
    return float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))


def flow_with_rotation(
    method: SceneFlow, first: RgbdFrame, second: RgbdFrame, dt: float, rotation: np.ndarray | None
) -> np.ndarray:
    """Estimate scene flow between two frames after compensating the camera's rotation, which the result includes.

    `rotation` [3, 3] is approximate, as from `estimate_rotation`; None if unknown. The flow is NaN also outside the
    second image's field of view.
    """
    assert first.color is not None and first.depth is not None
    assert second.color is not None and second.depth is not None
    camera = first.intrinsics
    if rotation is None or not MIN_ROTATION_DEG <= rotation_degrees(rotation) <= MAX_ROTATION_DEG:
        return method.estimate(first.color, first.depth, second.color, second.depth, camera, dt)
    color, depth, visible = rotate_back(second.color, second.depth, camera, rotation)
    flow = method.estimate(first.color, first.depth, color, depth, camera, dt)
    points = image_points(first.depth, camera)
    step = np.float32(dt)
    velocity = ((points + flow * step) @ rotation.T.astype(np.float32) - points) / step
    velocity[~visible] = np.nan
    return velocity


def rotate_back(
    color: np.ndarray, depth: np.ndarray, camera: Intrinsics, rotation: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Warp an RGB-D image as if the camera had not rotated.

    Returns:
        Color, depth (NaN outside the field of view), and whether a pixel is inside the field of view, [H, W].
    """
    height, width = depth.shape
    right = ((np.arange(width) - camera.cx) / camera.fx)[None, :]
    down = ((np.arange(height) - camera.cy) / camera.fy)[:, None]
    # Each pixel's ray of depth 1 in the rotated camera's frame.
    x, y, z = ((row[0] * right + (row[1] * down + row[2])).astype(np.float32) for row in rotation)
    u, v = np.float32(camera.fx) * x / z + np.float32(camera.cx), np.float32(camera.fy) * y / z + np.float32(camera.cy)
    visible = (u > -0.5) & (v > -0.5) & (u < width - 0.5) & (v < height - 0.5)
    nearest = cv2.remap(depth, u, v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=float("nan"))
    linear = cv2.remap(depth, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=float("nan"))
    # Interpolate within one surface only: a mean across an edge would be a surface that does not exist.
    smooth = np.abs(linear - nearest) < _SURFACE_STEP * nearest
    back = np.where(smooth, linear, nearest) / z
    return cv2.remap(color, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), back, visible
