"""The One-Euro filter."""

import numpy as np

SPEED_CUTOFF_HZ = 5.0
"""Cutoff of the speed estimate; the paper's 1 Hz lags behind fast strokes."""

MAX_GAP_S = 0.5
"""The filter restarts after a longer gap."""


class OneEuro:
    """One-Euro filter of joints (Casiez et al., CHI 2012), with one cutoff per joint from its speed in space.

    Args:
        min_cutoff_hz: Cutoff at rest.
        beta: Increase of the cutoff per m/s.
    """

    def __init__(self, min_cutoff_hz: float, beta: float):
        self._min_cutoff_hz, self._beta = min_cutoff_hz, beta
        self._stamp = 0.0
        self._positions: np.ndarray | None = None
        self._raw = np.zeros(0, np.float32)
        self._velocity = np.zeros(0, np.float32)

    def update(self, stamp: float, positions: np.ndarray) -> np.ndarray:
        """Filter [V, 3] at `stamp` seconds; NaN stays NaN, and a joint is unfiltered after NaN."""
        last, self._stamp, dt = self._positions, stamp, stamp - self._stamp
        if last is None or not 0 < dt <= MAX_GAP_S or last.shape != positions.shape:
            self._positions, self._raw, self._velocity = positions.copy(), positions.copy(), np.zeros_like(positions)
            return positions
        speed = np.nan_to_num((positions - self._raw) / np.float32(dt))
        self._velocity += _alpha(SPEED_CUTOFF_HZ, dt) * (speed - self._velocity)
        cutoff = self._min_cutoff_hz + self._beta * np.linalg.norm(self._velocity, axis=1, keepdims=True)
        smooth = last + _alpha(cutoff, dt) * (positions - last)
        self._positions = np.where(np.isfinite(last), smooth, positions).astype(np.float32)
        self._raw = positions.copy()
        return self._positions.copy()


def _alpha(cutoff_hz: np.ndarray | float, dt: float) -> np.ndarray:
    """Return the weight of a new sample in a first-order low-pass filter."""
    turn = 2 * np.pi * np.asarray(cutoff_hz) * dt
    return (turn / (turn + 1)).astype(np.float32)
