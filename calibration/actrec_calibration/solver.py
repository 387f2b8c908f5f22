"""Robust nonlinear least squares over unknowns that all views share and unknowns of each view.

Levenberg-Marquardt on the normal equations. The unknowns of a view affect only its own residuals, so they are
eliminated view by view (Schur complement): the cost is linear in the number of views.
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
        blocks = [_normal_equations(residuals, shared, own[view], view) for view in range(len(own))]
        for _ in range(MAX_DAMPING_TRIALS):
            shared_step, own_steps = _step(blocks, damping)
            new_cost = _cost(residuals, shared + shared_step, own + own_steps)
            if new_cost <= cost:
                break
            damping *= 10
        else:
            break  # no step reduces the cost
        shared, own = shared + shared_step, own + own_steps
        decrease, cost, damping = cost - new_cost, new_cost, max(damping / 10, 1e-12)
        if decrease <= 1e-10 * (cost + 1e-12):
            break
    return Solution(shared, own, _covariance(residuals, shared, own))


@dataclass(frozen=True)
class _Block:
    """Contribution of one view to the normal equations, in shared (s) and own (o) unknowns."""

    ss: np.ndarray
    so: np.ndarray
    oo: np.ndarray
    gs: np.ndarray
    go: np.ndarray

    def eliminate_own(self, oo: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the Schur complement [S, S], its gradient [S], and the solved own part [P, S + 1]."""
        solved = _solve_linear(oo, np.column_stack([self.so.T, self.go]))
        return self.ss - self.so @ solved[:, :-1], self.gs - self.so @ solved[:, -1], solved


def _weights(r: np.ndarray) -> np.ndarray:
    return np.minimum(1.0, HUBER / np.maximum(np.abs(r), 1e-12))


def _cost(residuals: Residuals, shared: np.ndarray, own: np.ndarray) -> float:
    total = 0.0
    for view in range(len(own)):
        r = np.abs(residuals(shared, own[view], view))
        total += float(np.where(r <= HUBER, r**2 / 2, HUBER * (r - HUBER / 2)).sum())
    return total if np.isfinite(total) else float("inf")


def _normal_equations(residuals: Residuals, shared: np.ndarray, own: np.ndarray, view: int) -> _Block:
    r, x, s = residuals(shared, own, view), np.concatenate([shared, own]), len(shared)
    jacobian = np.empty((len(r), len(x)))
    for i, step in enumerate(STEP * np.eye(len(x))):
        ahead, behind = x + step, x - step
        difference = residuals(ahead[:s], ahead[s:], view) - residuals(behind[:s], behind[s:], view)
        jacobian[:, i] = difference / (2 * STEP)
    weighted = jacobian * _weights(r)[:, None]
    normal, gradient = weighted.T @ jacobian, weighted.T @ r
    return _Block(normal[:s, :s], normal[:s, s:], normal[s:, s:], gradient[:s], gradient[s:])


def _step(blocks: list[_Block], damping: float) -> tuple[np.ndarray, np.ndarray]:
    parts = [block.eliminate_own(_damped(block.oo, damping)) for block in blocks]
    undamped = sum((block.ss for block in blocks), np.zeros_like(blocks[0].ss))
    left = sum((part[0] for part in parts), _damped(undamped, damping) - undamped)
    step = _solve_linear(left, -sum((part[1] for part in parts), np.zeros(len(left))))
    return step, np.array([-solved[:, -1] - solved[:, :-1] @ step for _, _, solved in parts])


def _damped(normal: np.ndarray, damping: float) -> np.ndarray:
    return normal + np.diag(damping * np.diag(normal) + 1e-12)


def _solve_linear(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    if not len(matrix):
        return np.zeros((0, *np.shape(right)[1:]))
    return np.asarray(np.linalg.lstsq(matrix, right, rcond=1e-15)[0])


def _covariance(residuals: Residuals, shared: np.ndarray, own: np.ndarray) -> np.ndarray:
    information, scatter = np.zeros((2, len(shared), len(shared)))
    chi2, count, views = 0.0, 0, len(own)
    for view in range(views):
        block = _normal_equations(residuals, shared, own[view], view)
        complement, score, _ = block.eliminate_own(block.oo)
        information += complement
        scatter += np.outer(score, score)
        r = residuals(shared, own[view], view)
        chi2 += float((_weights(r) * r**2).sum())
        count += len(r)
    inverse = np.linalg.pinv(information, rcond=1e-15, hermitian=True)
    by_residuals = inverse * max(chi2 / max(count - len(shared) - own.size, 1), 1e-12)
    by_views = inverse @ scatter @ inverse * views / max(views - 1, 1)
    ratio = np.diag(by_views) / np.maximum(np.diag(by_residuals), 1e-300)
    scale = np.sqrt(np.maximum(ratio, 1.0))
    return by_residuals * np.outer(scale, scale)
