"""Robust nonlinear least squares (Levenberg-Marquardt) over unknowns of all views and unknowns of each view.

`scipy.optimize.least_squares` takes 7 times as long for the same problems, and stops before the depth bias is found.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Residuals = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""(shared [S], own [P], view number) to residuals [R], each divided by its standard deviation."""

HUBER = 2.0  # standard deviations beyond which a residual counts linearly
STEP = 1e-6  # of numeric derivatives, m and rad
MAX_ITERATIONS = 60
MAX_DAMPING_TRIALS = 12


@dataclass(frozen=True)
class Solution:
    """Result of `solve`.

    Attributes:
        shared: [S] unknowns of all views.
        own: [V, P] unknowns of each view.
        covariance: [S, S] of the shared unknowns: from the size of the residuals, or from the disagreement between
            views if that is larger (noise that the pixels of one view have in common).
    """

    shared: np.ndarray
    own: np.ndarray
    covariance: np.ndarray

    @property
    def sigma(self) -> np.ndarray:
        """[S] standard deviations of the shared unknowns."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0))


def solve(residuals: Residuals, shared: np.ndarray, own: np.ndarray) -> Solution:
    """Minimize the sum of Huber's losses of all residuals.

    Args:
        residuals: See `Residuals`.
        shared: [S] initial values.
        own: [V, P] initial values; P may be 0.
    """
    shared, own = np.array(shared, np.float64), np.array(own, np.float64)
    damping, cost = 1e-4, _cost(residuals, shared, own)
    for _ in range(MAX_ITERATIONS):
        normal, gradient = _assemble(residuals, shared, own)
        for _ in range(MAX_DAMPING_TRIALS):
            damped = normal + np.diag(damping * np.diag(normal) + 1e-12)
            step = np.linalg.solve(damped, -gradient)
            new_shared, new_own = shared + step[: len(shared)], own + step[len(shared) :].reshape(own.shape)
            new_cost = _cost(residuals, new_shared, new_own)
            if new_cost <= cost:
                break
            damping *= 10
        else:
            break  # no step reduces the cost
        shared, own, decrease, cost = new_shared, new_own, cost - new_cost, new_cost
        damping = max(damping / 10, 1e-12)
        if decrease <= 1e-10 * (cost + 1e-12):
            break
    return Solution(shared, own, _covariance(residuals, shared, own))


def _weights(r: np.ndarray) -> np.ndarray:
    return np.minimum(1.0, HUBER / np.maximum(np.abs(r), 1e-12))


def _cost(residuals: Residuals, shared: np.ndarray, own: np.ndarray) -> float:
    total = 0.0
    for view in range(len(own)):
        r = np.abs(residuals(shared, own[view], view))
        total += float(np.where(r <= HUBER, r**2 / 2, HUBER * (r - HUBER / 2)).sum())
    return total if np.isfinite(total) else float("inf")


def _normal_equations(
    residuals: Residuals, shared: np.ndarray, own: np.ndarray, view: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the normal matrix [S + P, S + P], the gradient [S + P] and the residuals [R] of one view."""
    r, x, s = residuals(shared, own, view), np.concatenate([shared, own]), len(shared)
    jacobian = np.empty((len(r), len(x)))
    for i, step in enumerate(STEP * np.eye(len(x))):
        ahead, behind = x + step, x - step
        difference = residuals(ahead[:s], ahead[s:], view) - residuals(behind[:s], behind[s:], view)
        jacobian[:, i] = difference / (2 * STEP)
    weighted = jacobian * _weights(r)[:, None]
    return weighted.T @ jacobian, weighted.T @ r, r


def _assemble(residuals: Residuals, shared: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the normal matrix and the gradient over all unknowns, first the shared ones."""
    s, (views, p) = len(shared), own.shape
    normal, gradient = np.zeros((s + own.size, s + own.size)), np.zeros(s + own.size)
    for view in range(views):
        places = np.r_[0:s, s + view * p : s + (view + 1) * p]
        matrix, vector, _ = _normal_equations(residuals, shared, own[view], view)
        normal[np.ix_(places, places)] += matrix
        gradient[places] += vector
    return normal, gradient


def _covariance(residuals: Residuals, shared: np.ndarray, own: np.ndarray) -> np.ndarray:
    information, scatter = np.zeros((2, len(shared), len(shared)))
    chi2, count, views, s = 0.0, 0, len(own), len(shared)
    for view in range(views):
        normal, gradient, r = _normal_equations(residuals, shared, own[view], view)
        # Schur complement: the part that the view's own unknowns cannot explain.
        explained = normal[:s, s:] @ np.linalg.pinv(normal[s:, s:], rcond=1e-15, hermitian=True)
        information += normal[:s, :s] - explained @ normal[s:, :s]
        score = gradient[:s] - explained @ gradient[s:]
        scatter += np.outer(score, score)
        chi2 += float((_weights(r) * r**2).sum())
        count += len(r)
    inverse = np.linalg.pinv(information, rcond=1e-15, hermitian=True)
    by_residuals = inverse * max(chi2 / max(count - s - own.size, 1), 1e-12)
    by_views = inverse @ scatter @ inverse * views / max(views - 1, 1)
    ratio = np.diag(by_views) / np.maximum(np.diag(by_residuals), 1e-300)
    scale = np.sqrt(np.maximum(ratio, 1.0))
    return by_residuals * np.outer(scale, scale)
