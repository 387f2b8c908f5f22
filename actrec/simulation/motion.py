"""Smooth curves through key postures, and the small movements that never stop."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actrec.simulation import posture as body


@dataclass(frozen=True)
class Style:
    """How one performance of an action differs from the next.

    Attributes:
        side: The arm or leg that acts, the person's own "left" or "right".
        speed: Factor on the tempo.
        size: Factor on how far the movement goes.
        turn: Where it is directed, radians to the acting side's outside.
    """

    side: str = "right"
    speed: float = 1.0
    size: float = 1.0
    turn: float = 0.0


def ease(x: float | np.ndarray) -> np.ndarray:
    """Minimum-jerk step from 0 to 1 (Flash and Hogan, 1985), constant outside."""
    x = np.clip(x, 0.0, 1.0)
    return x**3 * (10 - 15 * x + 6 * x * x)


@dataclass(frozen=True)
class Curve:
    """A monotone piecewise cubic through keys (Fritsch and Butland, 1984).

    It does not overshoot, and is at rest wherever a channel turns back.

    Attributes:
        times: [K] seconds, rising.
        keys: [K, C] values.
        slopes: [K, C] per second.
    """

    times: np.ndarray
    keys: np.ndarray
    slopes: np.ndarray

    @classmethod
    def through(cls, times: Sequence[float], keys: Sequence[np.ndarray]) -> "Curve":
        """Makes the curve; it starts and ends at rest."""
        t, y = np.asarray(times, np.float64), np.asarray(keys, np.float64)
        step = np.diff(t)[:, None]
        rise = np.diff(y, axis=0) / step
        slopes = np.zeros_like(y)
        before, after = rise[:-1], rise[1:]
        w_before, w_after = 2 * step[1:] + step[:-1], step[1:] + 2 * step[:-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = (w_before + w_after) / (w_before / before + w_after / after)
        slopes[1:-1] = np.where(before * after > 0, mean, 0.0)
        return cls(t, y, slopes)

    def __call__(self, time: float) -> np.ndarray:
        """[C] values at `time`, held outside the keys."""
        time = float(np.clip(time, self.times[0], self.times[-1]))
        k = int(np.clip(np.searchsorted(self.times, time, side="right") - 1, 0, len(self.times) - 2))
        h = self.times[k + 1] - self.times[k]
        x = (time - self.times[k]) / h
        a, b = self.keys[k], self.keys[k + 1]
        p, q = self.slopes[k] * h, self.slopes[k + 1] * h
        return a + x * (p + x * (3 * (b - a) - 2 * p - q + x * (2 * (a - b) + p + q)))


_RESTLESS = {
    "bend": 0.010, "lean": 0.010, "twist": 0.012, "x": 0.006, "z": 0.004, "head_yaw": 0.06, "head_pitch": 0.025,
    "head_roll": 0.02,
    "arm_z_left": 0.012, "arm_z_right": 0.012, "arm_x_left": 0.008, "arm_x_right": 0.008, "curl_left": 0.03,
    "curl_right": 0.03,
}  # fmt: skip


class Restlessness:
    """Breathing, sway and small looks around: sums of slow sines, always on.

    Args:
        seed: Of their phases and frequencies.
    """

    def __init__(self, seed: int):
        random = np.random.default_rng([seed, 11])
        names = list(body.CHANNELS)
        self._index = np.array([names.index(name) for name in _RESTLESS])
        self._size = np.array(list(_RESTLESS.values()))
        self._rate = random.uniform(0.08, 0.35, (3, len(self._index))) * np.array([1.0, 1.9, 2.7])[:, None]
        self._phase = random.uniform(0, 2 * np.pi, (3, len(self._index)))

    def add(self, vector: np.ndarray, time: float) -> np.ndarray:
        """`vector` with the small movements of that instant."""
        waves = np.sin(2 * np.pi * self._rate * time + self._phase) * np.array([0.6, 0.3, 0.15])[:, None]
        vector = vector.copy()
        vector[self._index] += self._size * waves.sum(0)
        breath = 0.008 * np.sin(2 * np.pi * 0.27 * time)
        vector[body.index("bend")] -= breath
        return vector
