"""Projection, changes of axes between sensor frames, and rigid fits of shapes to rays and points."""

import numpy as np

from actrec.types import Intrinsics

KINECT_TO_OPTICAL = np.array([-1.0, -1.0, 1.0], dtype=np.float32)
"""Kinect camera space has y up and x to the sensor's left; optical has y down and x to the right."""


def kinect_to_optical(positions: np.ndarray) -> np.ndarray:
    """Convert [..., 3] m from Kinect camera space to the optical frame; this is its own inverse."""
    return (positions * KINECT_TO_OPTICAL).astype(np.float32)


def project(positions: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Project [..., 3] m (optical frame) to [..., 2] pixels, without distortion; NaN behind the camera."""
    positions = np.asarray(positions, dtype=np.float64)
    z = np.where(positions[..., 2] > 1e-6, positions[..., 2], np.nan)
    u = intrinsics.fx * positions[..., 0] / z + intrinsics.cx
    v = intrinsics.fy * positions[..., 1] / z + intrinsics.cy
    return np.stack([u, v], axis=-1).astype(np.float32)


def unproject(pixels: np.ndarray, depth: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Lift [..., 2] pixels with their depth [...] in m to [..., 3] m (optical frame)."""
    z = np.asarray(depth, dtype=np.float64)
    x = (pixels[..., 0] - intrinsics.cx) / intrinsics.fx * z
    y = (pixels[..., 1] - intrinsics.cy) / intrinsics.fy * z
    return np.stack([x, y, z], axis=-1).astype(np.float32)


def rays(pixels: np.ndarray, intrinsics: Intrinsics) -> np.ndarray:
    """Return x/z and y/z [..., 2] float64 of the rays through pixels [..., 2], without lens distortion.

    Outside the image, where a distortion model is invalid, rays continue as in a pinhole camera.
    """
    center, focal = (intrinsics.cx, intrinsics.cy), (intrinsics.fx, intrinsics.fy)
    if not any(intrinsics.distortion):
        return (np.asarray(pixels, np.float64) - center) / focal
    import cv2

    flat = np.ascontiguousarray(pixels, np.float64).reshape(-1, 1, 2)
    inside = flat.clip(-1.0, (intrinsics.width, intrinsics.height))
    distortion = np.array(intrinsics.distortion or (0.0,) * 5)
    # OpenCV's default of five iterations leaves tenths of a pixel at the corners of wide lenses.
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 50, 1e-6)
    straight = cv2.undistortPointsIter(inside, intrinsics.matrix, distortion, None, None, criteria)
    return (np.asarray(straight) + (flat - inside) / focal).reshape(pixels.shape)


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


MIN_POINTS = 3


def place(shape: np.ndarray, rays: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Translate a metric shape so that it projects onto rays: weighted linear least squares.

    x/z of each moved point equals x/z of its ray: tx − rx·tz = rx·Z − X, linear in the translation. A second iteration
    divides the errors by z, which turns them into reprojection errors.

    Args:
        shape: [V, 3] m, NaN if unknown.
        rays: [V, 3] with z = 1, NaN if unknown.
        weights: [V] ≥ 0.

    Returns:
        [V, 3] float32, NaN if unknown; all NaN with fewer than three usable points or no solution in front of the
        camera.
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


def similarity(source: np.ndarray, target: np.ndarray, weights: np.ndarray, outlier_m: float) -> np.ndarray:
    """`source` moved onto `target` by the similarity that fits best, robust against outliers.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991, reweighted by
    Tukey's function of the residuals. Each round's scale stays within 0.7..1.4. With fewer than six usable points it
    only translates.

    Args:
        source: [V, 3] metres, NaN where unknown.
        target: [V, 3] metres, NaN where unknown.
        weights: [V] ≥ 0, 0 leaves a point out.
        outlier_m: Residual from which a point no longer counts.

    Returns:
        [V, 3] float32, `source` moved; `source` itself if no point can be used.
    """
    usable = np.isfinite(source).all(axis=1) & np.isfinite(target).all(axis=1) & (weights > 0)
    if not usable.any():
        return source
    a, b, base = (array[usable].astype(np.float64) for array in (source, target, weights))
    everything = source.astype(np.float64)
    move = np.median(b - a, axis=0)
    moved, everything = a + move, everything + move
    if len(a) < 6:
        return everything.astype(np.float32)
    for _ in range(3):
        residual = np.linalg.norm(moved - b, axis=1)
        reach = max(outlier_m, 2 * float(np.median(residual)))
        weight = base * np.clip(1 - (residual / reach) ** 2, 0, None) ** 2
        if (weight > 0).sum() < 6:
            break
        turn, scale, shift = _umeyama(moved, b, weight)
        moved, everything = scale * moved @ turn.T + shift, scale * everything @ turn.T + shift
    return everything.astype(np.float32)


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
