"""What every dataset offers before it is read: its items, their labels and who did them, its official splits.

What every dataset yields: labeled clips in the data contract.

Streams of a clip that are decoded when they are looked at, so that what a network does not take costs nothing.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from actrec.skeleton import windows
from actrec.skeleton.sequence import SkeletonSequence
from actrec.skeleton.windows import nearest, sampled
from actrec.types import KEYS, STREAMS, LazyClip, RgbdFrame
from actrec.utils.errors import ConfigError, DeviceError, InputError


class LazyStreams(Mapping[str, np.ndarray]):
    """Keys of the data contract, each made by its own function at every access; nothing is kept.

    Args:
        decode: Key of `actrec.types.KEYS` to what returns its array.
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


VELOCITIES = ("flow", "motion")
"""Keys of the data contract that are lengths by time."""


@dataclass(frozen=True)
class Clip:
    """One labeled recording.

    Attributes:
        name: As the dataset calls it.
        label: Index into the dataset's `classes`.
        stamps_ns: [T] int64 nanoseconds.
        bodies: [M, T, V, 3] float32 metres in the optical frame, NaN for missing; `kinect_v2_25` where the dataset does
            not say otherwise.
        others: Further keys of the data contract (`actrec.types.KEYS`), of the same T frames.
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
        if "color" in self.others:
            # Held by both and holding neither: pictures go with the clip, not when the garbage collector comes.
            color = LazyClip({"color": make["color"]}, {"color": spans["color"]})
            make["color"], spans["color"] = partial(color.__getitem__, "color"), partial(color.part, "color")
            shown = self._shown(color, wanted_ns)
        return LazyClip({"bodies": partial(self._bodies, wanted_ns), **make}, spans, shown)

    def _shown(self, color: LazyClip, wanted_ns: np.ndarray) -> LazyClip:
        """The frames nearest to the stamps in which body 0 was seen, pictures and joints, as the live recognizer's.

        Args:
            color: The pictures at the stamps.
            wanted_ns: [frames] the stamps.
        """
        held_ns = np.maximum(wanted_ns, self.stamps_ns[0])
        seen = np.flatnonzero(np.isfinite(self.bodies[0]).all(axis=-1).any(axis=-1))
        every = nearest(self.stamps_ns, held_ns)
        frames = seen[nearest(self.stamps_ns[seen], held_ns)] if len(seen) else every
        others = {key: partial(self._frames, key, frames) for key in self.others if key in KEYS and key != "flow"}
        span: Callable[[int, int], np.ndarray | None] = partial(self._frames_of_span, "color", frames)
        if np.array_equal(frames, every):  # then no picture is decoded twice
            others["color"], span = partial(color.__getitem__, "color"), partial(color.part, "color")
        return LazyClip({"bodies": lambda: self.bodies[:, frames], **others}, {"color": span})

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
        """The streams (`actrec.types.STREAMS`) that every clip has."""
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


_END = 1 << 16
"""Bytes at either end of a file that a fingerprint reads: 1.8 s for 10,000 of NTU's skeletons; whole ones 3.1 s."""


@dataclass(frozen=True)
class Entry:
    """One item of a dataset that has not been read yet.

    Attributes:
        name: Unique in the dataset.
        label: Index into the source's `classes`.
        meta: What splits and fusions go by: subject, view, setup, …
        files: What it is read from: "skeleton", "color", "depth", …; those that do not exist are left out.
    """

    name: str
    label: int
    meta: Mapping[str, int | str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)


class Source(ABC):
    """A dataset as published. Can be pickled, so that several processes may read it.

    Args:
        root: Folder of the dataset's files.

    Attributes:
        classes: Class names by label.
        layout: Of the bodies' joints.
        splits: Official protocols, the one that `create` takes by default first.
        measure: What the official protocol reports: "accuracy" (top-1) or "mean_class_accuracy".
        folds: Into how many folds each split is divided, chosen by the option `fold` (from 1); 0 for none.
        merges: A coarser dataset of the same items, by its registered name, to the class there of each class here.
        has_files: Whether it is read from files, so that there must be a folder of them.
        caveat: What a figure on it does not say; stands on every card and report of it.
        licence: Of what is learnt from it.
        root: Folder of the dataset's files.
    """

    classes: tuple[str, ...]
    layout: str = "kinect_v2_25"
    splits: ClassVar[tuple[str, ...]]
    measure: ClassVar[str] = "accuracy"
    caveat: ClassVar[str] = ""
    licence: ClassVar[str] = "research use: the dataset carries no clear licence to redistribute or to use commercially"
    folds: ClassVar[int] = 0
    has_files: ClassVar[bool] = True
    merges: ClassVar[Mapping[str, tuple[int, ...]]] = {}

    def __init__(self, root: str | Path):
        self.root = Path(root)

    @abstractmethod
    def entries(self) -> list[Entry]:
        """Every item, in an order that depends on the dataset alone.

        Raises:
            DeviceError: The dataset is not there.
            InputError: A list is corrupt, or names an item twice.
        """

    def others(self) -> list[Entry]:
        """Items that show none of the classes, with label −1: a person's own recordings labeled `unknown`."""
        return []

    @abstractmethod
    def read(self, entry: Entry) -> Clip:
        """The clip of an item; pictures are decoded when they are looked at (`actrec.datasets.base`).

        Raises:
            DeviceError: A file is not there.
            InputError: A file is truncated, corrupt or empty, or shows nobody; names it.
        """

    @abstractmethod
    def part(self, entry: Entry, split: str) -> str:
        """The part of `split` that an item belongs to: "train", "test", or "" for neither."""

    def divides(self, split: str) -> bool:
        """Whether a split is made with the options that the dataset has; one that is not is left out of a store."""
        return True

    def frames(self, entry: Entry) -> Iterator[RgbdFrame]:
        """What the camera saw, one frame after another: what `actrec prepare` makes hands, faces and flow from.

        Stamps count from the same zero as those of the clip that `read` gives, and there is a frame for each of them
        unless the recording lost it. Depth, registered to color, is None where the dataset has none.

        Raises:
            DeviceError: A file is not there.
            InputError: A file is corrupt, or the dataset has no pictures.
        """
        kind = type(self).__module__.split(".")[2]
        remedy = "leave out --estimate, and color of --streams"
        raise InputError(f"'{entry.name}': {kind} has no camera frames here: {remedy}")

    def no_pictures(self, entry: Entry, missing: str) -> InputError:
        """That an item lacks what others of its dataset may have."""
        return InputError(
            f"'{entry.name}' has no camera frames here: there is no {missing} in '{self.root}'; where no clip has "
            "them, leave out --estimate, and color of --streams"
        )

    def camera_offset(self, entry: Entry) -> np.ndarray:
        """[3] metres from a point as `read` gives it to the same as the camera of `frames` sees it: most often zero."""
        return np.zeros(3, np.float32)

    def identity(self, entry: Entry) -> str:
        """What tells an item's recording from others, wherever it lies; empty where its name does."""
        return ""

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """SHA-256 over what tells these items from others: names and labels, and of each file its size and its ends.

        The ends are the first and last 64 KiB, so that files up to 128 KiB are read whole. Of a longer one (a video,
        most of NTU's skeletons) another middle is not noticed where the size is the same. Where a folder stands for a
        file (SYSU's pictures, NTU's depth maps), the names in it are taken.

        Raises:
            DeviceError: A file cannot be read.
        """
        digest = hashlib.sha256("\n".join(self.classes).encode("utf-8", "surrogateescape"))
        for entry in entries:
            digest.update(f"{entry.name} {entry.label}".encode("utf-8", "surrogateescape"))
            for key, file in sorted(entry.files.items()):
                digest.update(f" {key} ".encode())
                for part in content(file):
                    digest.update(part)
        return digest.hexdigest()

    def check(self, split: str) -> None:
        """Refuses a split that the dataset does not have.

        Raises:
            ConfigError: Lists those that it has.
        """
        if split not in self.splits:
            name = type(self).__module__.split(".")[2]
            raise ConfigError(f"{name} has split {', '.join(self.splits)}; got '{split}'")


def content(path: Path) -> Iterator[bytes]:
    """What a fingerprint takes of a file: its size and its ends; of a folder, the names in it.

    Raises:
        DeviceError: It cannot be read.
    """
    try:
        if path.is_dir():
            yield "\n".join(sorted(os.listdir(path))).encode("utf-8", "surrogateescape")
            return
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            yield str(size).encode()
            for place in (0, max(size - _END, 0)):
                file.seek(place)
                yield file.read(_END)
    except OSError as error:
        raise DeviceError(f"cannot read '{path}': {error.strerror or error}") from error


def no_folder(root: Path) -> DeviceError:
    """The error of a dataset that is not there; most often nobody has said where datasets are."""
    return DeviceError(
        f"there is no folder '{root}'; check the path (commands: --data or ACTREC_DATA for the folder of datasets, "
        "--root for the dataset's own)"
    )


def walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`, links followed, but each folder once: links may lead to where they lie, or several to one place.

    Raises:
        DeviceError: A folder cannot be looked into, so that nobody knows what is missing; hidden ones and a disk's own
            `lost+found` are passed by.
    """
    known: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_refuse):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in known:
            folders.clear()
            continue
        known.add((status.st_dev, status.st_ino))
        yield folder, folders, names


def _refuse(error: OSError) -> None:
    name = Path(error.filename).name
    if not name.startswith(".") and name != "lost+found":
        raise closed(error) from error


def closed(error: OSError) -> DeviceError:
    """The error of a folder that cannot be looked into."""
    return DeviceError(f"cannot look into '{error.filename}': {error.strerror}; make it readable, or move it away")
