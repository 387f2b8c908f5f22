"""Duplicate clips in the training and test part of a dataset: published collections contain some by mistake."""

from collections.abc import Callable, Iterator

import numpy as np

from actrec.datasets.base import ClipDataset
from actrec.datasets.store import PreparedDataset
from actrec.utils.errors import DeviceError, InputError

READ_AT_MOST = 5000
"""Largest part that is read to find duplicates; a larger one is searched only in a prepared store."""


def find_duplicates(clips: ClipDataset, training: Callable[[], ClipDataset]) -> dict[str, str]:
    """Find the clips whose joints equal the joints of a training clip, bit for bit, whatever their names.

    Clips without joints and unreadable clips are ignored.

    Args:
        clips: The test part.
        training: Opens the training part. A missing part, or one larger than `READ_AT_MOST` and not prepared, has no
            duplicates.

    Returns:
        The name of the first equal training clip, by the name of the test clip.
    """
    try:
        learnt = training()
    except (InputError, DeviceError):  # a folder with a test part only
        return {}
    if len(learnt) > READ_AT_MOST and not isinstance(learnt, PreparedDataset):
        return {}
    known: dict[bytes, int] = {}
    for index, digest in _digests(learnt):
        known.setdefault(digest, index)
    names, others = clips.names, learnt.names
    return {
        names[index]: others[known[digest]]
        for index, digest in _digests(clips)
        if digest in known and _same(clips, index, learnt, known[digest])
    }


def _digests(clips: ClipDataset) -> Iterator[tuple[int, bytes]]:
    for index in range(len(clips)):
        try:
            yield index, clips.joints_digest(index)
        except (InputError, DeviceError):
            continue


def _same(clips: ClipDataset, index: int, others: ClipDataset, other: int) -> bool:
    try:
        a, b = clips[index].bodies, others[other].bodies
    except (InputError, DeviceError):  # a damaged store: its checksums can be read
        return False
    return bool(np.isfinite(a).any()) and np.array_equal(a, b, equal_nan=True)
