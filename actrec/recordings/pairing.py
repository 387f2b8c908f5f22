"""Pairs colour with depth by stamp, as messages come in."""

from collections import deque

import numpy as np

MEMORY = 60
"""Messages of each kind kept: where depth is registered, or colour compressed, one comes long after the other."""
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
        # One that has its depth says that those before it will get none any more.
        while self._waiting and (final or len(self._waiting) > MEMORY or any(self._sure(s) for s, _ in self._waiting)):
            stamp, colour = self._waiting.popleft()
            index = self._nearest(stamp)
            if index is None:
                self.unpaired += 1
                continue
            pairs.append((colour, self._depths[index][1]))
            for _ in range(index):  # what came before it is of colour that came before
                self._depths.popleft()
        return pairs

    def _nearest(self, stamp: int) -> int | None:
        """Of the depth messages near enough the nearest, of two alike the newer."""
        away = [abs(other - stamp) for other, _ in self._depths]
        least = min(away, default=self._tolerance + 1)
        return len(away) - 1 - away[::-1].index(least) if least <= self._tolerance else None

    def _sure(self, stamp: int) -> bool:
        """Whether there is a depth message, and a farther one has come since or would be the next."""
        index = self._nearest(stamp)
        return index is not None and (index < len(self._depths) - 1 or self._depths[index][0] >= stamp)
