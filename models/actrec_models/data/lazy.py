"""Streams of a clip that are decoded when they are looked at, so that what a network does not take costs nothing."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np


class LazyStreams(Mapping[str, np.ndarray]):
    """Keys of the data contract, each made by its own function at every access; nothing is kept.

    Args:
        decode: Key of `actrec.features.base.KEYS` to what returns its array.
    """

    def __init__(self, decode: Mapping[str, Callable[[], np.ndarray]]):
        self._decode = dict(decode)

    def __getitem__(self, key: str) -> np.ndarray:
        return self._decode[key]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._decode)

    def __len__(self) -> int:
        return len(self._decode)
