"""The size of people by depth, relative to the estimator's own shape, which reveals a wrong unit of depth."""

import logging
from collections import deque

import numpy as np

from actrec.types import NANOSECONDS

PLAUSIBLE_SIZES = (0.4, 2.5)
"""Size by depth relative to the estimator's own; other people, or their depth, are not real."""

SIZES = 20
"""Sizes of people that a decision needs; three times as many are kept."""

MIN_SECONDS = 1.0
"""Time that they must span."""

AGREEMENT = 0.8
"""Share of them that must be implausible: besides people, a poster or a screen may be in view."""

FACTORS = (4.0, 5.0, 10.0, 100.0, 1000.0)
"""Ratios of usual units: 0.25, 0.2 and 0.1 mm, centimeters and meters to millimeters; and their inverses."""

TYPICAL_SIZE = 1.05
"""Median size of simulated and recorded people whose depth is right; it is 0.9 to 1.2 of adults."""

SAME_FACTOR = 1.5
"""Largest ratio of a size to a usual factor; children are smaller than the estimator assumes."""

logger = logging.getLogger(__name__)


def is_plausible(size: float) -> bool:
    """Return whether a size by depth, relative to the estimator's own shape, can be a real person's; NaN can."""
    return not size <= PLAUSIBLE_SIZES[0] and not size >= PLAUSIBLE_SIZES[1]


class SizeMonitor:
    """Warns once if depth makes people so large or small that its unit must be another.

    Attributes:
        size: Median size of people by depth, relative to the estimator's own shape; NaN if unknown so far.
        fault: The warning; empty if there is none.
    """

    def __init__(self) -> None:
        self._readings: deque[tuple[int, float]] = deque(maxlen=3 * SIZES)
        self._has_warned = False
        self.size, self.fault = float("nan"), ""

    def reset(self) -> None:
        """Forget the people so far."""
        self._readings.clear()

    def add(self, stamp_ns: int, size: float, depth_scale: float) -> None:
        """Add one person's size in a frame, NaN if unknown, and the frame's `depth_scale`."""
        if np.isnan(size):
            return
        if self._readings and stamp_ns < self._readings[-1][0]:  # a recording that starts again
            self._readings.clear()
        self._readings.append((stamp_ns, size))
        span_s = (stamp_ns - self._readings[0][0]) / NANOSECONDS
        if len(self._readings) < SIZES or span_s < MIN_SECONDS:
            return
        sizes = np.array([reading for _, reading in self._readings])
        self.size = float(np.median(sizes))
        implausible = np.mean([not is_plausible(reading) for reading in sizes]) >= AGREEMENT
        self.fault = describe_size(self.size, depth_scale) if implausible else ""
        if self.fault and not self._has_warned:
            self._has_warned = True
            logger.warning("%s", self.fault)


def describe_size(size: float, depth_scale: float) -> str:
    """Return the warning about people of an implausible relative size, with the `depth_scale` that mends it."""
    known = np.array([*FACTORS, *(1 / factor for factor in FACTORS)])
    apart = np.exp(np.abs(np.log(known * TYPICAL_SIZE / size)))
    factors = known[apart <= min(SAME_FACTOR, 1.1 * float(apart.min()))]  # two, if the size is between them
    cause, units = "its unit seems wrong", f"about {depth_scale / size:.2g}"
    if len(factors):
        cause = f"its unit is wrong by a factor of {' or '.join(f'{factor:g}' for factor in factors)}"
        units = " or ".join(f"{depth_scale / factor:.3g}" for factor in factors)
    return (
        f"depth makes people {size:.3g} times as large as they are: {cause}; set depth_scale to {units} m (now "
        f"{depth_scale:g} m); until then joints have the estimator's own size and half the confidence"
    )
