"""Pairs colour with depth by stamp, as messages come in."""

from collections import deque

import numpy as np

PATIENCE = 3
"""Colour messages that may come after one that still waits for its depth."""
MEMORY = 12
"""Depth messages kept."""
_DEFAULT_PERIOD_NS = 33_333_333


def half_period_ns(stamps: list[int]) -> int:
    """Half the median interval of these stamps; of 30 Hz where there are too few."""
    steps = np.diff(np.asarray(stamps, dtype=np.int64))
    steps = steps[steps > 0]
    return int(np.median(steps) if len(steps) else _DEFAULT_PERIOD_NS) // 2


class Pairer:
    """Gives each colour message the depth message nearest in stamp, in the order in which colour came.

    Stamps need not grow: a recording whose clock was set back pairs on.

    Attributes:
        unpaired: Colour messages given up, with no depth near enough.

    Args:
        tolerance_ns: Largest difference of the two stamps.
    """

    def __init__(self, tolerance_ns: int):
        self.unpaired = 0
        self._tolerance = tolerance_ns
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._depths: deque[tuple[int, bytes]] = deque(maxlen=MEMORY)

    def add_colour(self, stamp: int, raw: bytes) -> list[tuple[bytes, bytes]]:
        """Takes a colour message; returns the pairs (colour, depth) that are now sure."""
        self._waiting.append((stamp, raw))
        return self._resolve(final=False)

    def add_depth(self, stamp: int, raw: bytes) -> list[tuple[bytes, bytes]]:
        """Takes a depth message; returns the pairs (colour, depth) that are now sure."""
        self._depths.append((stamp, raw))
        return self._resolve(final=False)

    def flush(self) -> list[tuple[bytes, bytes]]:
        """The pairs left at the end of the recording."""
        return self._resolve(final=True)

    def _resolve(self, final: bool) -> list[tuple[bytes, bytes]]:
        pairs = []
        while self._waiting:
            stamp, colour = self._waiting[0]
            difference, depth = min(((abs(s - stamp), raw) for s, raw in reversed(self._depths)), default=(None, b""),
                                    key=lambda item: item[0])  # fmt: skip
            near = difference is not None and difference <= self._tolerance
            passed = bool(self._depths) and self._depths[-1][0] >= stamp  # no nearer one can follow
            if not (final or (near and passed) or len(self._waiting) > PATIENCE):
                break
            self._waiting.popleft()
            if near:
                pairs.append((colour, depth))
            else:
                self.unpaired += 1
        return pairs
