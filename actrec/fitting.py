"""Rigid fits of a known shape to rays and to points."""

import numpy as np

MIN_POINTS = 3


def place(shape: np.ndarray, rays: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Translates a metric shape so that it projects onto rays: weighted linear least squares.

    x/z of each moved point shall equal its ray's x/z, which is linear in the translation: tx − rx·tz = rx·Z − X. The
    errors are in units of z; in the second of two rounds they are divided by z to be reprojection errors.

    Args:
        shape: [V, 3] metres, NaN where unknown.
        rays: [V, 3] with z = 1, NaN where unknown.
        weights: [V] ≥ 0.

    Returns:
        [V, 3] float32, NaN where the shape is; all NaN with fewer than three usable points or no solution before the
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
        [V, 3] float32, `source` moved; as `source` where no point can be used.
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
    centre_a, centre_b = weight @ a, weight @ b
    a, b = a - centre_a, b - centre_b
    u, singular, vt = np.linalg.svd((b * weight[:, None]).T @ a)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt)) or 1.0])
    turn = (u * sign) @ vt
    spread = float((weight * (a**2).sum(axis=1)).sum())
    scale = float(np.clip((singular * sign).sum() / max(spread, 1e-9), 0.7, 1.4))
    return turn, scale, centre_b - scale * turn @ centre_a
