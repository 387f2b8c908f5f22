"""Unprojection, changes of axes between sensor frames, rigid fits of shapes, and optical flow at joints."""

import numpy as np

from actrec.types import Intrinsics
from actrec.utils.errors import InputError

MIN_POINTS = 3

KINECT_TO_OPTICAL = np.array([-1.0, -1.0, 1.0], dtype=np.float32)
"""Kinect camera space has y up and x to the sensor's left; optical has y down and x to the right."""


def kinect_to_optical(positions: np.ndarray) -> np.ndarray:
    """Convert [..., 3] m from Kinect camera space to the optical frame; this is its own inverse."""
    return (positions * KINECT_TO_OPTICAL).astype(np.float32)


def unproject(pixels: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Lift [..., 2] pixels with their depth [...] in m to [..., 3] m (optical frame)."""
    z = np.asarray(depth, dtype=np.float64)
    x = (pixels[..., 0] - intrinsics.cx) / intrinsics.fx * z
    y = (pixels[..., 1] - intrinsics.cy) / intrinsics.fy * z
    return np.stack([x, y, z], axis=-1).astype(np.float32)


def image_points(depth: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Return the point [H, W, 3], m (optical frame), of each pixel of a depth image [H, W]; NaN if missing."""
    height, width = depth.shape
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
    return unproject(pixels, depth, intrinsics)


def rotation(axis: int, radians: float) -> np.ndarray:
    """Return the 3×3 right-handed rotation about coordinate axis 0, 1 or 2, float32."""
    c, s = np.cos(radians), np.sin(radians)
    matrix = np.eye(3, dtype=np.float32)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def fit_translation(shape: np.ndarray, rays: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Translate a shape [V, 3] m, by linear least squares, so that it projects onto rays [V, 3] with z = 1.

    x/z of each moved point equals x/z of its ray: tx − rx·tz = rx·Z − X, linear in the translation. A second iteration
    divides the errors by z, which turns them into reprojection errors. Unknown points and rays are NaN; `weights` [V]
    are ≥ 0. The result [V, 3] is all NaN with fewer than `MIN_POINTS` usable points or no solution before the camera.
    """
    usable = np.isfinite(shape).all(axis=1) & np.isfinite(rays).all(axis=1) & (weights > 0.05)
    if usable.sum() < MIN_POINTS:
        return np.full(shape.shape, np.nan, dtype=np.float32)
    points, directions, weight = (a[usable].astype(np.float64) for a in (shape, rays, weights))
    rows = np.zeros((2, len(points), 3))
    rows[0, :, 0] = rows[1, :, 1] = 1
    rows[:, :, 2] = -directions[:, :2].T
    target = (directions[:, :2] * points[:, 2:] - points[:, :2]).T
    scale, move = weight, np.zeros(3)
    for _ in range(2):
        a, b = (rows * scale[None, :, None]).reshape(-1, 3), (target * scale).reshape(-1)
        move = np.linalg.lstsq(a, b, rcond=None)[0]
        z = points[:, 2] + move[2]
        if move[2] <= 0 or not np.isfinite(move).all():
            return np.full(shape.shape, np.nan, dtype=np.float32)
        error = np.abs(np.einsum("kij,j->ki", rows, move) - target).sum(axis=0)
        scale = weight / np.maximum(z, 0.05) / (1 + error / 0.1)
    return (shape + move).astype(np.float32)


def fit_similarity(source: np.ndarray, target: np.ndarray, weights: np.ndarray, outlier_m: float) -> np.ndarray:
    """Move `source` onto `target` by the similarity that fits best, robust against outliers.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991, reweighted by
    Tukey's function, which ignores residuals above `outlier_m`. The scale of each iteration is limited to 0.7..1.4.
    With fewer than six usable points it only translates; without any it returns `source`. Shapes are [V, 3] m, NaN if
    unknown, weights [V] ≥ 0.
    """
    usable = np.isfinite(source).all(axis=1) & np.isfinite(target).all(axis=1) & (weights > 0)
    if not usable.any():
        return source
    moved, b, base = source.astype(np.float64), target[usable].astype(np.float64), weights[usable].astype(np.float64)
    moved += np.median(b - moved[usable], axis=0)
    for _ in range(3 if len(b) >= 6 else 0):
        residual = np.linalg.norm(moved[usable] - b, axis=1)
        reach = max(outlier_m, 2 * float(np.median(residual)))
        weight = base * np.clip(1 - (residual / reach) ** 2, 0, None) ** 2
        if (weight > 0).sum() < 6:
            break
        turn, scale, shift = _umeyama(moved[usable], b, weight)
        moved = scale * moved @ turn.T + shift
    return moved.astype(np.float32)


def _umeyama(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    weight = weight / weight.sum()
    center_a, center_b = weight @ a, weight @ b
    a, b = a - center_a, b - center_b
    u, singular, vt = np.linalg.svd((b * weight[:, None]).T @ a)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt)) or 1.0])
    turn = (u * sign) @ vt
    spread = float((weight * (a**2).sum(axis=1)).sum())
    scale = float(np.clip((singular * sign).sum() / max(spread, 1e-9), 0.7, 1.4))
    return turn, scale, center_b - scale * turn @ center_a


def motion_at_joints(
    flow: np.ndarray, positions: np.ndarray, pixels: np.ndarray, size: tuple[int, int], intrinsics: Intrinsics
) -> np.ndarray:
    """Return optical flow at joints from scene flow, [V, 2] px/s: u̇ = fx (Vx − x/z Vz) / z, v̇ likewise.

    A joint that is missing, outside the image or without a known velocity is NaN.

    Args:
        flow: [h, w, 3] m/s in the optical frame, NaN if unknown, with the color image's field of view.
        positions: [V, 3] joints, m in the optical frame, NaN if missing.
        pixels: [V, 2] joints in the color image, px.
        size: Width and height of the color image, px.
        intrinsics: Intrinsics of the color image at any size.

    Raises:
        InputError: The shapes disagree.
    """
    if positions.shape != (len(pixels), 3):
        raise InputError(f"positions are {list(positions.shape)}, pixels {list(pixels.shape)}; expected [V, 3], [V, 2]")
    camera = intrinsics.resized(*size)
    velocity = velocity_at_joints(flow, pixels, size)
    valid = np.isfinite(positions).all(axis=1) & (positions[:, 2] > 0)
    depth = np.where(valid, positions[:, 2], np.nan)[:, None]
    focal = np.array([camera.fx, camera.fy])
    moved = focal * (velocity[:, :2] - positions[:, :2] / depth * velocity[:, 2:]) / depth
    return moved.astype(np.float32)


def velocity_at_joints(flow: np.ndarray, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the velocity of the surface at joints, [V, 3] m/s; arguments and NaN as in `motion_at_joints`."""
    if flow.ndim != 3 or flow.shape[2] != 3 or pixels.shape[1:] != (2,):
        raise InputError(f"flow is {list(flow.shape)}, pixels {list(pixels.shape)}; expected [h, w, 3] and [V, 2]")
    ratio = np.array([flow.shape[1] / size[0], flow.shape[0] / size[1]])
    return _sample(flow, (np.asarray(pixels, np.float64) + 0.5) * ratio - 0.5).astype(np.float32)  # (V, 3)


def motion_between_images(before: np.ndarray, after: np.ndarray, pixels: np.ndarray, seconds: float) -> np.ndarray:
    """Return optical flow at joints from two color images by DIS (Kroeger et al., ECCV 2016), [V, 2] px/s.

    Images are [H, W, 3] uint8 RGB, `pixels` [V, 2] are joints in `before`. A joint that is missing or outside the image
    is NaN. Raise InputError if the images differ in size, or the time is not positive.
    """
    if before.shape != after.shape or before.ndim != 3 or pixels.shape[1:] != (2,):
        raise InputError(
            f"images are {list(before.shape)} and {list(after.shape)}, pixels {list(pixels.shape)}; "
            "expected [H, W, 3] twice and [V, 2]"
        )
    if not seconds > 0:
        raise InputError(f"seconds between the images is {seconds}, expected more than 0")
    import cv2  # late, as in `actrec.utils.camera_model`

    gray0, gray1 = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (before, after))
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # A hand is about ten pixels wide: a search at half size, or smoothing, would remove most of its motion.
    method.setFinestScale(0)
    method.setVariationalRefinementIterations(0)
    moved = method.calc(gray0, gray1, None)
    return (_sample(moved, np.asarray(pixels, np.float64)) / seconds).astype(np.float32)


def _sample(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the median [V, C] of the known 3×3 pixels around points [V, 2] (u, v); NaN if none is known."""
    height, width = image.shape[:2]
    out = np.full((len(points), image.shape[2]), np.nan)
    for v, point in enumerate(points):
        if not np.isfinite(point).all():
            continue
        column, row = np.round(point).astype(int)
        if 0 <= column < width and 0 <= row < height:
            patch = image[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].reshape(-1, image.shape[2])
            known = patch[np.isfinite(patch).all(axis=1)]
            if len(known):
                out[v] = np.median(known, axis=0)
    return out
