"""What every dataset yields: labelled clips in the data contract."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from actrec import windows
from actrec.recordings.sequence import SkeletonSequence


@dataclass(frozen=True)
class Clip:
    """One labelled recording.

    Attributes:
        name: As the dataset calls it.
        label: Index into the dataset's `classes`.
        stamps_ns: [T] int64 nanoseconds.
        bodies: [M, T, 25, 3] float32 metres, `kinect_v2_25` in the optical frame, NaN for missing.
    """

    name: str
    label: int
    stamps_ns: np.ndarray
    bodies: np.ndarray

    def window(self, seconds: float, frames: int) -> np.ndarray:
        """The [M, frames, 25, 3] window that the live recognizer has when the clip ends."""
        wanted = windows.sample_stamps(int(self.stamps_ns[-1]), seconds, frames)
        return np.stack([windows.resample(self.stamps_ns, body, wanted) for body in self.bodies])


class ClipDataset:
    """A map-style dataset held in memory.

    Attributes:
        classes: Class names by label.
    """

    def __init__(self, clips: Iterable[Clip], classes: Sequence[str]):
        self._clips, self.classes = list(clips), tuple(classes)

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Clip:
        return self._clips[index]


def clip_of(sequence: SkeletonSequence, label: int) -> Clip:
    """The clip of a recording that an `actrec.recordings` reader returned."""
    return Clip(sequence.name, label, sequence.stamps_ns, sequence.bodies)
