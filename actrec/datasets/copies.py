"""Clips that lie in two parts of a dataset, number for number: published collections hold some by mistake."""

from collections.abc import Callable, Iterator

import numpy as np

from actrec.datasets.base import ClipDataset
from actrec.datasets.store.reader import PreparedDataset
from actrec.utils.errors import DeviceError, InputError

READ_AT_MOST = 5000
"""Clips of a part that are read for this; a larger part is looked through where it is prepared alone."""


def copies(clips: ClipDataset, training: Callable[[], ClipDataset]) -> dict[str, str]:
    """Which clips show just what another part shows, whatever they are called.

    Only joints are compared, to the last bit: clips of two cameras never agree in them, and one without joints is no
    copy. Clips that cannot be read are passed by.

    Args:
        clips: The test part.
        training: Opens the training part. One that is not there, or is larger than `READ_AT_MOST` and not prepared, is
            taken to hold no copy.

    Returns:
        Name of a clip to that of the first of the training part that is the same.
    """
    try:
        learnt = training()
    except (InputError, DeviceError):  # a folder that holds nothing but what is to be scored
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
