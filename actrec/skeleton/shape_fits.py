"""Fits of shapes: a translation onto rays of a camera, and a robust similarity onto points. Compiled with Numba."""

import numpy as np

from actrec.utils.jit import kernel

MIN_POINTS = 3


def fit_translation(shape: np.ndarray, rays: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Translate a shape [V, 3] m, by linear least squares, so that it projects onto rays [V, 3] with z = 1.

    x/z of each moved point equals x/z of its ray: tx − rx·tz = rx·Z − X, linear in the translation. A second iteration
    divides the errors by z, which turns them into reprojection errors. Unknown points and rays are NaN; `weights` [V]
    are ≥ 0. The result [V, 3] is all NaN with fewer than `MIN_POINTS` usable points or no solution before the camera.
    """
    return _translated(*_float64(shape, rays, weights)).astype(np.float32)


def fit_similarity(source: np.ndarray, target: np.ndarray, weights: np.ndarray, outlier_m: float) -> np.ndarray:
    """Move `source` onto `target` by the similarity that fits best, robust against outliers.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991, reweighted by
    Tukey's function, which ignores residuals above `outlier_m`. The scale of each iteration is limited to 0.7..1.4.
    With fewer than six usable points it only translates; without any it returns `source`. Shapes are [V, 3] m, NaN if
    unknown, weights [V] ≥ 0.
    """
    return _fitted(*_float64(source, target, weights), float(outlier_m)).astype(np.float32)


def prepare() -> None:
    """Compile both fits (5 s), or load them from the cache."""
    points, weights = np.ones((MIN_POINTS, 3)), np.ones(MIN_POINTS)
    fit_translation(points, points, weights)
    fit_similarity(points, points, weights, 1.0)


def _float64(*values: np.ndarray) -> list[np.ndarray]:
    """Return writable arrays of one type, for which the kernels are compiled once."""
    return [np.array(value, np.float64) for value in values]


@kernel
def _translated(shape: np.ndarray, rays: np.ndarray, weights: np.ndarray) -> np.ndarray:
    count, out, usable = len(shape), np.full(shape.shape, np.nan), 0
    r, z, b, base = np.empty((2, count)), np.empty(count), np.empty((2, count)), np.empty(count)
    for i in range(count):
        total = 0.0
        for k in range(3):
            total += shape[i, k] + rays[i, k]
        if abs(total) < np.inf and weights[i] > 0.05:
            z[usable], base[usable] = shape[i, 2], weights[i]
            for k in range(2):
                r[k, usable], b[k, usable] = rays[i, k], rays[i, k] * shape[i, 2] - shape[i, k]
            usable += 1
    if usable < MIN_POINTS:
        return out
    scale, move = base.copy(), np.zeros(3)
    mean_r, mean_b = np.zeros(2), np.zeros(2)
    for _ in range(2):
        # The normal equations, with the means eliminated: tx = mean(bx) + mean(rx)·tz, ty likewise.
        total, above, below = 0.0, 0.0, 0.0
        for i in range(usable):
            total += scale[i] ** 2
        for k in range(2):
            mean_r[k], mean_b[k] = 0.0, 0.0
            for i in range(usable):
                mean_r[k] += scale[i] ** 2 / total * r[k, i]
                mean_b[k] += scale[i] ** 2 / total * b[k, i]
            for i in range(usable):
                above -= scale[i] ** 2 * (r[k, i] - mean_r[k]) * (b[k, i] - mean_b[k])
                below += scale[i] ** 2 * (r[k, i] - mean_r[k]) ** 2
        move[2] = above / below if below > 0 else np.nan
        if not (move[2] > 0 and move[2] < np.inf):
            return out
        for k in range(2):
            move[k] = mean_b[k] + mean_r[k] * move[2]
        for i in range(usable):
            error = 0.0
            for k in range(2):
                error += abs(move[k] - r[k, i] * move[2] - b[k, i])
            scale[i] = base[i] / max(z[i] + move[2], 0.05) / (1 + error / 0.1)
    for i in range(count):
        for k in range(3):
            out[i, k] = shape[i, k] + move[k]
    return out


@kernel
def _fitted(source: np.ndarray, target: np.ndarray, weights: np.ndarray, outlier_m: float) -> np.ndarray:
    count, moved, usable = len(source), source.copy(), 0
    a, b, base = np.empty((count, 3)), np.empty((count, 3)), np.empty(count)
    for i in range(count):
        total = 0.0
        for k in range(3):
            total += source[i, k] + target[i, k]
        if abs(total) < np.inf and weights[i] > 0:
            base[usable] = weights[i]
            for k in range(3):
                a[usable, k], b[usable, k] = source[i, k], target[i, k]
            usable += 1
    if usable == 0:
        return moved
    sorted_, weight = np.empty(usable), np.empty(usable)
    for k in range(3):
        for i in range(usable):
            sorted_[i] = b[i, k] - a[i, k]
        shift = _median(sorted_)
        for i in range(usable):
            a[i, k] += shift
        for i in range(count):
            moved[i, k] += shift
    for _ in range(3 if usable >= 6 else 0):
        for i in range(usable):
            weight[i] = np.sqrt((a[i, 0] - b[i, 0]) ** 2 + (a[i, 1] - b[i, 1]) ** 2 + (a[i, 2] - b[i, 2]) ** 2)
            sorted_[i] = weight[i]
        reach = max(outlier_m, 2 * _median(sorted_))
        total, counted = 0.0, 0
        for i in range(usable):
            weight[i] = base[i] * max(1 - (weight[i] / reach) ** 2, 0.0) ** 2
            total += weight[i]
            counted += weight[i] > 0
        if counted < 6:
            break
        for i in range(usable):
            weight[i] /= total
        step = _umeyama(a, b, weight)
        _move(a, step)
        _move(moved, step)
    return moved


@kernel
def _median(values: np.ndarray) -> float:
    """Return the median of values [N], and sort them."""
    values.sort()
    half = len(values) // 2
    return float(values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2)


@kernel
def _move(points: np.ndarray, step: np.ndarray) -> None:
    """Apply a step [3, 4], a matrix and a shift, to points [V, 3], in place."""
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        for k in range(3):
            points[i, k] = step[k, 0] * x + step[k, 1] * y + step[k, 2] * z + step[k, 3]


@kernel
def _umeyama(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the similarity [3, 4] from a to b [V, 3]; the weights [N], N ≤ V, have the sum 1.

    The rotation is the quaternion of Horn, "Closed-form solution of absolute orientation using unit quaternions", 1987:
    the eigenvector of the largest eigenvalue, which is the trace of Umeyama's D·S.
    """
    mean_a, mean_b, m, spread = np.zeros(3), np.zeros(3), np.zeros((3, 3)), 0.0
    for i in range(len(weight)):
        for k in range(3):
            mean_a[k] += weight[i] * a[i, k]
            mean_b[k] += weight[i] * b[i, k]
    for i in range(len(weight)):
        for j in range(3):
            spread += weight[i] * (a[i, j] - mean_a[j]) ** 2
            for k in range(3):
                m[j, k] += weight[i] * (a[i, j] - mean_a[j]) * (b[i, k] - mean_b[k])
    n = np.zeros((4, 4))
    n[0, 0] = m[0, 0] + m[1, 1] + m[2, 2]
    for j in range(3):
        k, i = (j + 1) % 3, (j + 2) % 3
        n[0, j + 1] = n[j + 1, 0] = m[k, i] - m[i, k]
        n[j + 1, j + 1] = m[j, j] - m[k, k] - m[i, i]
        n[j + 1, k + 1] = n[k + 1, j + 1] = m[j, k] + m[k, j]
    largest, (w, x, y, z) = _largest_eigenvalue(n)
    scale = min(max(largest / max(spread, 1e-9), 0.7), 1.4)
    step = np.empty((3, 4))
    step[0, 0], step[0, 1], step[0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    step[1, 0], step[1, 1], step[1, 2] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    step[2, 0], step[2, 1], step[2, 2] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    for k in range(3):
        step[k, 3] = mean_b[k]
        for j in range(3):
            step[k, j] *= scale
            step[k, 3] -= step[k, j] * mean_a[j]
    return step


@kernel
def _largest_eigenvalue(n: np.ndarray) -> tuple[float, tuple[float, float, float, float]]:
    """Return the largest eigenvalue of a symmetric matrix [4, 4] and its eigenvector, by Jacobi's rotations."""
    vectors = np.zeros((4, 4))
    for k in range(4):
        vectors[k, k] = 1.0
    for _ in range(10):  # sweeps; the convergence is quadratic
        for p in range(3):
            for q in range(p + 1, 4):
                if abs(n[p, q]) <= 1e-15 * (abs(n[p, p]) + abs(n[q, q])):
                    continue
                theta = (n[q, q] - n[p, p]) / (2 * n[p, q])
                t = (1.0 if theta >= 0 else -1.0) / (abs(theta) + np.sqrt(theta * theta + 1))
                c = 1 / np.sqrt(t * t + 1)
                s = t * c
                for k in range(4):
                    n[k, p], n[k, q] = c * n[k, p] - s * n[k, q], s * n[k, p] + c * n[k, q]
                for k in range(4):
                    n[p, k], n[q, k] = c * n[p, k] - s * n[q, k], s * n[p, k] + c * n[q, k]
                    vectors[k, p], vectors[k, q] = (
                        c * vectors[k, p] - s * vectors[k, q], s * vectors[k, p] + c * vectors[k, q],
                    )  # fmt: skip
    best = 0
    for k in range(1, 4):
        best = k if n[k, k] > n[best, best] else best
    return n[best, best], (vectors[0, best], vectors[1, best], vectors[2, best], vectors[3, best])
