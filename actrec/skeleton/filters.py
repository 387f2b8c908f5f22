"""The One-Euro filter: smooth at rest, prompt in motion."""

import numpy as np

SPEED_CUTOFF_HZ = 5.0
"""Cutoff of the speed estimate; the paper's 1 Hz would notice a stroke only after it."""

MAX_GAP_S = 0.5
"""The filter restarts after a longer gap."""


class OneEuro:
    """Casiez, Roussel and Vogel, "1€ Filter", CHI 2012, on joints: one cutoff a joint from its speed in space.

    Args:
        min_cutoff_hz: Cutoff at rest.
        beta: Rise of the cutoff per metre per second.
    """

    def __init__(self, min_cutoff_hz: float, beta: float):
        self._min_cutoff_hz, self._beta = min_cutoff_hz, beta
        self._stamp = 0.0
        self._positions: np.ndarray | None = None
        self._raw = np.zeros(0, np.float32)
        self._velocity = np.zeros(0, np.float32)

    def update(self, stamp: float, positions: np.ndarray) -> np.ndarray:
        """Filter [V, 3] at `stamp` seconds; NaN stays NaN, and a joint that returns after NaN is taken unfiltered."""
        last, self._stamp, dt = self._positions, stamp, stamp - self._stamp
        if last is None or not 0 < dt <= MAX_GAP_S or last.shape != positions.shape:
            self._positions, self._raw, self._velocity = positions.copy(), positions.copy(), np.zeros_like(positions)
            return positions
        speed = np.nan_to_num((positions - self._raw) / np.float32(dt))
        self._velocity += _share(SPEED_CUTOFF_HZ, dt) * (speed - self._velocity)
        cutoff = self._min_cutoff_hz + self._beta * np.linalg.norm(self._velocity, axis=1, keepdims=True)
        smooth = last + _share(cutoff, dt) * (positions - last)
        self._positions = np.where(np.isfinite(last), smooth, positions).astype(np.float32)
        self._raw = positions.copy()
        return self._positions.copy()


def _share(cutoff_hz: np.ndarray | float, dt: float) -> np.ndarray:
    """Return the new sample's share in a first-order low pass."""
    turn = 2 * np.pi * np.asarray(cutoff_hz) * dt
    return (turn / (turn + 1)).astype(np.float32)
