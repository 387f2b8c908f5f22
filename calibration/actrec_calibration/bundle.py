"""Least squares over views: unknowns that all views share, and six or none of each view's own.

Levenberg–Marquardt on the normal equations. A view's own unknowns touch its residuals alone, so they are eliminated
view by view (Schur complement): the cost grows with the number of views, not with its cube.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Residuals = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""(shared [S], own [P], number of the view) to residuals [R], each divided by its standard deviation."""

HUBER = 2.0  # standard deviations beyond which a residual counts linearly
_STEP = 1e-6  # metres and radians: well above rounding, well below any curvature here
_ROUNDS = 60


@dataclass(frozen=True)
class Bundle:
    """A solution.

    Attributes:
        shared: [S].
        own: [V, P].
        covariance: [S, S] of the shared unknowns: from the residuals' size, or from how the views disagree where that
            is more (noise that the pixels of one view have in common).
        information: [S, S] of the shared unknowns, as the residuals' stated deviations have it.
        residuals: Of each view.
    """

    shared: np.ndarray
    own: np.ndarray
    covariance: np.ndarray
    information: np.ndarray
    residuals: list[np.ndarray]

    @property
    def sigma(self) -> np.ndarray:
        """[S] standard deviations of the shared unknowns."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0))


def solve(residuals: Residuals, shared: np.ndarray, own: np.ndarray) -> Bundle:
    """Minimises the sum of Huber's losses.

    Args:
        residuals: See `Residuals`.
        shared: [S] where to begin.
        own: [V, P] where to begin; P may be 0.
    """
    shared, own = np.array(shared, np.float64), np.array(own, np.float64)
    damping, cost = 1e-4, _cost(residuals, shared, own)
    for _ in range(_ROUNDS):
        blocks = [_block(residuals, shared, own[view], view) for view in range(len(own))]
        for _ in range(12):
            step, steps = _step(blocks, damping)
            tried = _cost(residuals, shared + step, own + steps)
            if tried <= cost:
                break
            damping *= 10
        else:
            break  # no step downhill is left
        shared, own = shared + step, own + steps
        gained, cost, damping = cost - tried, tried, max(damping / 10, 1e-12)
        if gained <= 1e-10 * (cost + 1e-12):
            break
    return _finished(residuals, shared, own)


@dataclass(frozen=True)
class _Block:
    """One view's share of the normal equations, in shared (s) and own (o) unknowns."""

    ss: np.ndarray
    so: np.ndarray
    oo: np.ndarray
    gs: np.ndarray
    go: np.ndarray


def _weights(r: np.ndarray) -> np.ndarray:
    return np.minimum(1.0, HUBER / np.maximum(np.abs(r), 1e-12))


def _cost(residuals: Residuals, shared: np.ndarray, own: np.ndarray) -> float:
    total = 0.0
    for view in range(len(own)):
        r = np.abs(residuals(shared, own[view], view))
        total += float(np.where(r <= HUBER, r**2 / 2, HUBER * (r - HUBER / 2)).sum())
    return total if np.isfinite(total) else float("inf")


def _block(residuals: Residuals, shared: np.ndarray, own: np.ndarray, view: int) -> _Block:
    r = residuals(shared, own, view)
    both, count = np.concatenate([shared, own]), len(shared)
    jacobian = np.empty((len(r), len(both)))
    for i in range(len(both)):
        ahead, behind = both.copy(), both.copy()
        ahead[i] += _STEP
        behind[i] -= _STEP
        plus, minus = residuals(ahead[:count], ahead[count:], view), residuals(behind[:count], behind[count:], view)
        jacobian[:, i] = (plus - minus) / (2 * _STEP)
    weighted = jacobian * _weights(r)[:, None]
    normal, gradient = weighted.T @ jacobian, weighted.T @ r
    return _Block(
        normal[:count, :count], normal[:count, count:], normal[count:, count:], gradient[:count], gradient[count:]
    )


def _step(blocks: list[_Block], damping: float) -> tuple[np.ndarray, np.ndarray]:
    left = sum((b.ss for b in blocks), np.zeros_like(blocks[0].ss))
    left = left + _damped(left, damping)
    right = -sum((b.gs for b in blocks), np.zeros_like(blocks[0].gs))
    folded = []
    for b in blocks:
        back = _solved(b.oo + _damped(b.oo, damping), np.column_stack([b.so.T, b.go]))
        left, right = left - b.so @ back[:, :-1], right + b.so @ back[:, -1]
        folded.append(back)
    step = _solved(left, right)
    return step, np.array([-back[:, -1] - back[:, :-1] @ step for back in folded])


def _damped(normal: np.ndarray, damping: float) -> np.ndarray:
    return np.diag(damping * np.diag(normal) + 1e-12)


def _solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    if not len(matrix):
        return np.zeros((0, *np.shape(right)[1:]))
    return np.asarray(np.linalg.lstsq(matrix, right, rcond=1e-15)[0])


def _finished(residuals: Residuals, shared: np.ndarray, own: np.ndarray) -> Bundle:
    blocks = [_block(residuals, shared, own[view], view) for view in range(len(own))]
    rest = [residuals(shared, own[view], view) for view in range(len(own))]
    information = np.zeros((len(shared), len(shared)))
    scatter = np.zeros_like(information)
    for b in blocks:
        back = _solved(b.oo, np.column_stack([b.so.T, b.go]))
        information += b.ss - b.so @ back[:, :-1]
        score = b.gs - b.so @ back[:, -1]  # what this view alone would pull the shared unknowns by
        scatter += np.outer(score, score)
    spread = np.linalg.pinv(information, rcond=1e-15, hermitian=True)
    number = sum(map(len, rest))
    chi = sum(float((_weights(r) * r**2).sum()) for r in rest) / max(number - len(shared) - own.size, 1)
    views = len(own)
    of_views = spread @ scatter @ spread * views / max(views - 1, 1)
    by_noise = spread * max(chi, 1e-12)
    larger = np.diag(of_views) > np.diag(by_noise)
    scale = np.sqrt(np.where(larger, np.diag(of_views) / np.maximum(np.diag(by_noise), 1e-300), 1.0))
    return Bundle(shared, own, by_noise * np.outer(scale, scale), information, rest)
