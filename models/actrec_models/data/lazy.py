"""Streams of a clip that are decoded when they are looked at, so that what a network does not take costs nothing."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np


class LazyStreams(Mapping[str, np.ndarray]):
    """Keys of the data contract, each made by its own function at every access; nothing is kept.

    Args:
        decode: Key of `actrec.features.base.KEYS` to what returns its array.
        frames: Key of pictures to what returns some of them alone, given their indices [N] in any order.
    """

    def __init__(
        self,
        decode: Mapping[str, Callable[[], np.ndarray]],
        frames: Mapping[str, Callable[[np.ndarray], np.ndarray]] | None = None,
    ):
        self._decode, self._frames = dict(decode), dict(frames or {})

    def __getitem__(self, key: str) -> np.ndarray:
        return self._decode[key]()

    def __contains__(self, key: object) -> bool:
        return key in self._decode

    def __iter__(self) -> Iterator[str]:
        return iter(self._decode)

    def __len__(self) -> int:
        return len(self._decode)

    def partly(self, key: str) -> bool:
        """Whether some pictures of the stream can be decoded without the others."""
        return key in self._frames

    def at(self, key: str, indices: np.ndarray) -> np.ndarray:
        """Frames `indices` [N] of pictures [T, …]: no others are decoded where the stream can."""
        return self._frames[key](indices) if key in self._frames else self[key][indices]
