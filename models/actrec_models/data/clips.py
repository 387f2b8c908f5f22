"""What every dataset yields: labelled clips in the data contract."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from actrec import windows
from actrec.errors import InputError
from actrec.features.base import KEYS, STREAMS, LazyClip
from actrec.recordings.sequence import SkeletonSequence
from actrec.series import nearest, sampled
from actrec_models.data.lazy import LazyStreams

if TYPE_CHECKING:
    from actrec_models.data.source import Entry, Source


VELOCITIES = ("flow", "motion")
"""Keys of the data contract that are lengths by time."""


@dataclass(frozen=True)
class Clip:
    """One labelled recording.

    Attributes:
        name: As the dataset calls it.
        label: Index into the dataset's `classes`.
        stamps_ns: [T] int64 nanoseconds.
        bodies: [M, T, V, 3] float32 metres in the optical frame, NaN for missing; `kinect_v2_25` where the dataset does
            not say otherwise.
        others: Further keys of the data contract (`actrec.features.base.KEYS`), of the same T frames.
    """

    name: str
    label: int
    stamps_ns: np.ndarray
    bodies: np.ndarray
    others: Mapping[str, np.ndarray] = field(default_factory=dict)

    def window(self, seconds: float, frames: int) -> np.ndarray:
        """The [M, frames, V, 3] bodies that the live recognizer has when the clip ends."""
        wanted = windows.sample_stamps(int(self.stamps_ns[-1]), seconds, frames)
        return np.stack([windows.resample(self.stamps_ns, body, wanted) for body in self.bodies])

    def window_stamps(self, seconds: float, frames: int, stretched: bool = False) -> np.ndarray:
        """The [frames] stamps of the live recognizer's window when the recording ends; stretched: of all of it."""
        start, end = int(self.stamps_ns[0]), int(self.stamps_ns[-1])
        if stretched:
            return windows.stretched_stamps(start, end, frames)
        return windows.sample_stamps(end, seconds, frames)

    def sample(self, seconds: float, frames: int, stretched: bool = False) -> LazyClip:
        """The clip, in the data contract, of such a window."""
        return self.sampled(self.window_stamps(seconds, frames, stretched))

    def sampled(self, wanted_ns: np.ndarray, speed: float = 1.0) -> LazyClip:
        """The clip at the stamps [frames]: points interpolated in time, of pictures and flow the nearest one.

        Nothing is sampled before it is looked at, and of pictures no more are decoded than are wanted.

        Args:
            wanted_ns: In the clip's own time.
            speed: How many times faster it is to be played than that: velocities are so much larger.
        """
        make = {key: partial(self._sampled, key, wanted_ns, speed) for key in self.others}
        pictures = [key for key in self.others if key in KEYS and KEYS[key][0] == 0]
        spans: dict[str, Callable[[int, int], np.ndarray | None]] = {
            key: partial(self._span, key, wanted_ns, speed) for key in pictures
        }
        shown = None
        if "colour" in self.others:
            # Held by both and holding neither: pictures go with the clip, not when the garbage collector comes.
            colour = LazyClip({"colour": make["colour"]}, {"colour": spans["colour"]})
            make["colour"], spans["colour"] = partial(colour.__getitem__, "colour"), partial(colour.part, "colour")
            shown = self._shown(colour, wanted_ns)
        return LazyClip({"bodies": partial(self._bodies, wanted_ns), **make}, spans, shown)

    def _shown(self, colour: LazyClip, wanted_ns: np.ndarray) -> LazyClip:
        """The frames nearest to the stamps in which body 0 was seen, pictures and joints, as the live recognizer's.

        Args:
            colour: The pictures at the stamps.
            wanted_ns: [frames] the stamps.
        """
        held_ns = np.maximum(wanted_ns, self.stamps_ns[0])
        seen = np.flatnonzero(np.isfinite(self.bodies[0]).all(axis=-1).any(axis=-1))
        every = nearest(self.stamps_ns, held_ns)
        frames = seen[nearest(self.stamps_ns[seen], held_ns)] if len(seen) else every
        others = {key: partial(self._frames, key, frames) for key in self.others if key in KEYS and key != "flow"}
        span: Callable[[int, int], np.ndarray | None] = partial(self._frames_of_span, "colour", frames)
        if np.array_equal(frames, every):  # then no picture is decoded twice
            others["colour"], span = partial(colour.__getitem__, "colour"), partial(colour.part, "colour")
        return LazyClip({"bodies": lambda: self.bodies[:, frames], **others}, {"colour": span})

    def _frames(self, key: str, frames: np.ndarray) -> np.ndarray:
        axis = KEYS[key][0]
        if axis == 0 and isinstance(self.others, LazyStreams):
            return self.others.at(key, frames)
        value = self._whole(key)
        return value if axis is None else np.take(value, frames, axis)

    def _frames_of_span(self, key: str, frames: np.ndarray, start: int, count: int) -> np.ndarray:
        return self._frames(key, frames[start : start + count])

    def _bodies(self, wanted_ns: np.ndarray) -> np.ndarray:
        return np.stack([windows.resample(self.stamps_ns, body, wanted_ns) for body in self.bodies])

    def _span(self, key: str, wanted_ns: np.ndarray, speed: float, start: int, frames: int) -> np.ndarray:
        if not 0 <= start <= start + frames <= len(wanted_ns):
            raise InputError(f"'{key}' has no frames {start} to {start + frames} of {len(wanted_ns)}")
        return self._sampled(key, wanted_ns[start : start + frames], speed)

    def _sampled(self, key: str, wanted_ns: np.ndarray, speed: float) -> np.ndarray:
        found = self._at(key, wanted_ns)
        return found * np.float32(speed) if key in VELOCITIES and speed != 1.0 else found

    def _at(self, key: str, wanted_ns: np.ndarray) -> np.ndarray:
        if key not in KEYS:
            raise InputError(f"clip '{self.name}' holds '{key}'; known: {', '.join(KEYS)}")
        axis = KEYS[key][0]
        # Before the recording its first frame is held, as the first pose is.
        held_ns = np.maximum(wanted_ns, self.stamps_ns[0])
        if axis == 0 and isinstance(self.others, LazyStreams):
            return self.others.at(key, nearest(self.stamps_ns, held_ns))
        value = self._whole(key)
        if axis is None:
            return value
        if axis == 0:
            return value[nearest(self.stamps_ns, held_ns)]
        return np.stack([sampled(self.stamps_ns, body, held_ns) for body in value])

    def _whole(self, key: str) -> np.ndarray:
        """All of a stream, which has a frame for each stamp."""
        value, axis = self.others[key], KEYS[key][0]
        if axis is not None and value.shape[axis] != len(self.stamps_ns):
            raise InputError(f"clip '{self.name}': {key} {list(value.shape)} for {len(self.stamps_ns)} stamps")
        return value


class ClipDataset:
    """A map-style dataset of clips, held in memory.

    Attributes:
        classes: Class names by label.
        layout: Of the bodies' joints.
    """

    def __init__(self, clips: Iterable[Clip], classes: Sequence[str], layout: str = "kinect_v2_25"):
        self._clips, self.classes, self.layout = list(clips), tuple(classes), layout

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Clip:
        return self._clips[index]

    @property
    def labels(self) -> np.ndarray:
        """[N] label of each clip; reads none."""
        return np.array([clip.label for clip in self._clips], dtype=np.int64)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each clip; reads none."""
        return tuple(clip.name for clip in self._clips)

    @property
    def metas(self) -> tuple[Mapping[str, int | str], ...]:
        """Who did it, from where, of each clip; reads none. Empty where nobody says."""
        return tuple({} for _ in self._clips)

    @property
    def streams(self) -> frozenset[str]:
        """The streams (`actrec.features.base.STREAMS`) that every clip has."""
        held = frozenset.intersection(*(frozenset(clip.others) | {"bodies"} for clip in self._clips))
        return frozenset(stream for stream, keys in STREAMS.items() if keys[0] in held)

    @property
    def recordings(self) -> tuple[str, ...]:
        """What tells the recording of each clip from others (`Source.identity`); empty where its name does."""
        return ("",) * len(self)

    def identities(self) -> tuple[str, ...]:
        """What tells the recordings of a person's own from others, each once; empty for published datasets."""
        return tuple(dict.fromkeys(filter(None, self.recordings)))

    def joints_digest(self, index: int) -> bytes:
        """A digest of a clip's joints, the same for the same joints.

        Raises:
            DeviceError, InputError: The clip cannot be read.
        """
        return hashlib.sha256(self[index].bodies.tobytes()).digest()

    def fingerprint(self) -> str:
        """SHA-256 over names, labels and joints: whether two runs were trained on the same data."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for clip in self._clips:
            digest.update(f"{clip.name} {clip.label}".encode())
            digest.update(np.ascontiguousarray(clip.bodies).tobytes())
        return digest.hexdigest()


class SourceDataset(ClipDataset):
    """A part of a dataset, each clip read when it is asked for.

    Args:
        source: The dataset as published.
        entries: The items of the part.
    """

    def __init__(self, source: "Source", entries: Sequence["Entry"]):
        self.source, self.entries = source, list(entries)
        self.classes, self.layout = tuple(source.classes), source.layout

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Clip:
        return self.source.read(self.entries[index])

    def subset(self, chosen: Sequence[int]) -> "SourceDataset":
        """Some of the clips [N], by their indices here."""
        return SourceDataset(self.source, [self.entries[index] for index in chosen])

    @property
    def labels(self) -> np.ndarray:
        """As the base has it."""
        return np.array([entry.label for entry in self.entries], dtype=np.int64)

    @property
    def names(self) -> tuple[str, ...]:
        """As the base has it."""
        return tuple(entry.name for entry in self.entries)

    @property
    def metas(self) -> tuple[Mapping[str, int | str], ...]:
        """As the base has it."""
        return tuple(entry.meta for entry in self.entries)

    @property
    def streams(self) -> frozenset[str]:
        """As the base has it; the first clip speaks for all."""
        held = frozenset(self[0].others) | {"bodies"}
        return frozenset(stream for stream, keys in STREAMS.items() if keys[0] in held)

    @property
    def recordings(self) -> tuple[str, ...]:
        """As the source has it."""
        return tuple(map(self.source.identity, self.entries))

    def fingerprint(self) -> str:
        """As the source has it."""
        return self.source.fingerprint(self.entries)


def clip_of(sequence: SkeletonSequence, label: int) -> Clip:
    """The clip of a recording that an `actrec.recordings` reader returned."""
    return Clip(sequence.name, label, sequence.stamps_ns, sequence.bodies)
