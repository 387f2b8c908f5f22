"""Base classes of datasets: clips in the data contract, lazily decoded streams, and sources of published files."""

import contextlib
import copy
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from actrec.datasets.fingerprints import content, fingerprint_of
from actrec.skeleton import windows
from actrec.skeleton.windows import nearest, resample_points
from actrec.types import KEYS, STREAMS, LazyClip, RgbdFrame
from actrec.utils import gravity
from actrec.utils.errors import ConfigError, DeviceError, InputError

IDENTITY = "identity"
"""Key of the recording's identity (`Source.identity`) in a clip's metadata."""

RATED_CLIPS = 32  # of a dataset, read to find its frame rates


class LazyStreams(Mapping[str, np.ndarray]):
    """Streams of a clip that are decoded at every access and not cached.

    Args:
        decode: For each key of `actrec.types.KEYS`, the function that returns the array.
        frames: For each key that can be decoded in part, the function that returns the frames at indices [N].
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

    def decodes_frames(self, key: str) -> bool:
        """Return whether single frames of a stream can be decoded."""
        return key in self._frames

    def at(self, key: str, indices: np.ndarray) -> np.ndarray:
        """Return the frames `indices` [N] of a stream [T, …]; decode only these if possible."""
        return self._frames[key](indices) if key in self._frames else self[key][indices]


VELOCITIES = ("flow", "motion")  # keys of the data contract


@dataclass(frozen=True)
class Clip:
    """One labeled recording.

    Attributes:
        name: Name in the dataset.
        label: Index into the dataset's `classes`.
        stamps_ns: [T] int64 nanoseconds.
        bodies: [M, T, V, 3] float32 m in the optical frame, NaN for missing; layout of the dataset.
        streams: Further keys of the data contract (`actrec.types.KEYS`) of the same T frames.
    """

    name: str
    label: int
    stamps_ns: np.ndarray
    bodies: np.ndarray
    streams: Mapping[str, np.ndarray] = field(default_factory=dict)

    def leveled(self) -> "Clip":
        """Return the clip of the bodies alone in level axes (`actrec.utils.gravity`); as they are without key "up"."""
        bodies = self.bodies
        if "up" in self.streams and not gravity.is_level(up := self.streams["up"]):
            bodies = bodies @ gravity.level_rotation(gravity.check_up(up)).T
        return Clip(self.name, self.label, self.stamps_ns, bodies)

    def cut(self, span: slice) -> "Clip":
        """Return the clip of a span of its frames."""
        indices = np.arange(len(self.stamps_ns))[span]

        def images(key: str, at: np.ndarray) -> np.ndarray:
            return self._frames(key, indices[at])

        lazy = self.streams if isinstance(self.streams, LazyStreams) else LazyStreams({})
        single = {key: partial(images, key) for key in lazy if lazy.decodes_frames(key)}
        streams = LazyStreams({key: partial(self._frames, key, indices) for key in self.streams}, single)
        return replace(self, stamps_ns=self.stamps_ns[span], bodies=self.bodies[:, span], streams=streams)

    def window_stamps(self, seconds: float, frames: int, stretched: bool = False) -> np.ndarray:
        """Return the stamps [frames], ns, of the live window at the clip's end, or `stretched` over the whole clip."""
        start, end = int(self.stamps_ns[0]), int(self.stamps_ns[-1])
        if stretched:
            return windows.stretched_stamps(start, end, frames)
        return windows.sample_stamps(end, seconds, frames)

    def sample(self, seconds: float, frames: int, stretched: bool = False) -> LazyClip:
        """Return the clip sampled at the stamps of `window_stamps`."""
        return self.at_stamps(self.window_stamps(seconds, frames, stretched))

    def at_stamps(self, sample_ns: np.ndarray, speed: float = 1.0) -> LazyClip:
        """Return the clip, lazily, at the stamps [frames]: points interpolated, images and flow of the nearest frame.

        Stamps are in the clip's own time; velocities are multiplied by the playback speed.
        """
        make = {key: partial(self._at, key, sample_ns, speed) for key in self.streams}
        spans: dict[str, Callable[[int, int], np.ndarray | None]] = {
            key: partial(self._span, key, sample_ns, speed) for key in self.streams if key in KEYS and KEYS[key][0] == 0
        }
        observed_frames = None
        if "color" in self.streams:
            # Shared without a reference cycle, so that images are freed with the clip.
            color = LazyClip({"color": make["color"]}, {"color": spans["color"]})
            make["color"], spans["color"] = partial(color.__getitem__, "color"), partial(color.part, "color")
            observed_frames = self._observed_frames(color, sample_ns)
        return LazyClip({"bodies": partial(self._bodies, sample_ns), **make}, spans, observed_frames)

    def _observed_frames(self, color: LazyClip, sample_ns: np.ndarray) -> LazyClip:
        """Return the frames of body 0 nearest to the stamps, as in the live recognizer; `color` has images there."""
        clamped_ns = np.maximum(sample_ns, self.stamps_ns[0])
        observed = np.flatnonzero(np.isfinite(self.bodies[0]).all(axis=-1).any(axis=-1))
        nearest_frames = nearest(self.stamps_ns, clamped_ns)
        frames = observed[nearest(self.stamps_ns[observed], clamped_ns)] if len(observed) else nearest_frames
        others = {key: partial(self._frames, key, frames) for key in self.streams if key in KEYS and key != "flow"}
        spans: dict[str, Callable[[int, int], np.ndarray | None]] = {}
        spans["color"] = lambda start, count: self._frames("color", frames[start : start + count])
        if np.array_equal(frames, nearest_frames):  # then no image is decoded twice
            others["color"], spans["color"] = partial(color.__getitem__, "color"), partial(color.part, "color")
        return LazyClip({"bodies": lambda: self.bodies[:, frames], **others}, spans)

    def _bodies(self, sample_ns: np.ndarray) -> np.ndarray:
        return np.stack([windows.resample(self.stamps_ns, body, sample_ns) for body in self.bodies])

    def _at(self, key: str, sample_ns: np.ndarray, speed: float) -> np.ndarray:
        """Return a stream at stamps [frames]; before the recording starts, the first frame is repeated."""
        if key not in KEYS:
            raise InputError(f"clip '{self.name}' holds '{key}'; known: {', '.join(KEYS)}")
        clamped_ns = np.maximum(sample_ns, self.stamps_ns[0])
        if KEYS[key][0] == 1:
            value = np.stack([resample_points(self.stamps_ns, body, clamped_ns) for body in self._checked_stream(key)])
        else:
            value = self._frames(key, nearest(self.stamps_ns, clamped_ns))
        if key not in VELOCITIES:
            return value
        factor = np.where(sample_ns > self.stamps_ns[-1] + 1_000, 0.0, speed).astype(np.float32)  # held, nothing moves
        return value * factor.reshape(-1, *[1] * (value.ndim - 1 - (KEYS[key][0] or 0)))

    def _span(self, key: str, sample_ns: np.ndarray, speed: float, start: int, frames: int) -> np.ndarray:
        if not 0 <= start <= start + frames <= len(sample_ns):
            raise InputError(f"'{key}' has no frames {start} to {start + frames} of {len(sample_ns)}")
        return self._at(key, sample_ns[start : start + frames], speed)

    def _frames(self, key: str, frames: np.ndarray) -> np.ndarray:
        """Return the frames with these indices of a stream; the whole value if it has no frames."""
        axis = KEYS[key][0]
        if axis == 0 and isinstance(self.streams, LazyStreams):
            return self.streams.at(key, frames)
        value = self._checked_stream(key)
        return value if axis is None else np.take(value, frames, axis)

    def _checked_stream(self, key: str) -> np.ndarray:
        """Return a whole stream, checked to have a frame per stamp."""
        value, axis = self.streams[key], KEYS[key][0]
        if axis is not None and value.shape[axis] != len(self.stamps_ns):
            raise InputError(f"clip '{self.name}': {key} {list(value.shape)} for {len(self.stamps_ns)} stamps")
        return value


@dataclass(frozen=True)
class Entry:
    """An item of a dataset, not read yet.

    Attributes:
        name: Unique in the dataset.
        meta: Metadata for splits and fusion: subject, view, setup, …
        files: Existing files by kind: "skeleton", "color", "depth", …
    """

    name: str
    label: int
    meta: Mapping[str, int | str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)


class ClipDataset:
    """A map-style dataset of clips in memory.

    Attributes:
        classes: Class names by label.
        layout: Joint layout of the bodies.
        entries: The items of the clips.
        scene_flow: Method, height (px) and rate (Hz) of the clips' scene flow; empty if unknown.
    """

    scene_flow: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, clips: Iterable[Clip], classes: Sequence[str], layout: str = "kinect_v2_25"):
        self._clips, self.classes, self.layout = list(clips), tuple(classes), layout
        self.entries = [Entry(clip.name, clip.label) for clip in self._clips]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Clip:
        return self._clips[index]

    def subset(self, chosen: Sequence[int] | np.ndarray) -> "ClipDataset":
        """Return the clips with these indices [N]."""
        part = copy.copy(self)
        part.entries = [self.entries[index] for index in chosen]
        part._clips = [self._clips[index] for index in chosen]
        return part

    @property
    def labels(self) -> np.ndarray:
        """Return the label of each clip [N] without reading clips."""
        return np.array([entry.label for entry in self.entries], dtype=np.int64)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the name of each clip without reading clips."""
        return tuple(entry.name for entry in self.entries)

    @property
    def metas(self) -> tuple[Mapping[str, int | str], ...]:
        """Return the metadata (subject, view, …) of each clip without reading clips; empty if unknown."""
        return tuple(entry.meta for entry in self.entries)

    @property
    def streams(self) -> frozenset[str]:
        """The streams (`actrec.types.STREAMS`) that every clip has."""
        keys_present = frozenset.intersection(*(frozenset(clip.streams) | {"bodies"} for clip in self._clips))
        return frozenset(stream for stream, keys in STREAMS.items() if keys[0] in keys_present)

    def lacking(self, stream: str) -> tuple[str, ...]:
        """Return the names of the clips that lack a stream, as far as that is known without reading them."""
        return () if stream in self.streams else self.names

    @property
    def recordings(self) -> tuple[str, ...]:
        """Return the identity of each clip's recording (`Source.identity`); empty if the name identifies it."""
        return tuple(str(meta.get(IDENTITY, "")) for meta in self.metas)

    def identities(self) -> tuple[str, ...]:
        """Return the distinct identities of the user's recordings; empty for published datasets."""
        return tuple(dict.fromkeys(filter(None, self.recordings)))

    def frame_rates(self, skip_unreadable: bool = False) -> tuple[float, ...]:
        """Return the lowest, the median and the highest frame rate, Hz, of some clips; one figure if all are equal."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(len(self), RATED_CLIPS)).astype(int))
        stamps = []
        for index in chosen:
            with contextlib.suppress(*((InputError, DeviceError) if skip_unreadable else ())):
                stamps.append(self[index].stamps_ns)
        found = [(len(each) - 1) * 1e9 / max(int(each[-1] - each[0]), 1) for each in stamps if len(each) > 1]
        if not found:
            return ()
        low, median, high = (round(float(np.percentile(found, share)), 1) for share in (0, 50, 100))
        return (low,) if low == high else (low, median, high)

    def joints_digest(self, index: int) -> bytes:
        """Return a digest of a clip's joints."""
        return hashlib.sha256(self[index].bodies.tobytes()).digest()

    def fingerprint(self) -> str:
        """Return the SHA-256 of names, labels and joints, which identifies training data."""

        def parts() -> Iterator[str | bytes]:
            for clip in self._clips:
                yield f"{clip.name} {clip.label}"
                yield np.ascontiguousarray(clip.bodies).tobytes()
                yield clip.streams["up"].tobytes() if "up" in clip.streams else b""

        return fingerprint_of(self.classes, parts())


class SourceDataset(ClipDataset):
    """Some items of a published dataset; clips are read on access."""

    def __init__(self, source: "Source", entries: Sequence[Entry]):
        self.source, self.entries = source, list(entries)
        self.classes, self.layout = tuple(source.classes), source.layout

    def __getitem__(self, index: int) -> Clip:
        return self.source.read(self.entries[index])

    def subset(self, chosen: Sequence[int] | np.ndarray) -> "SourceDataset":
        """Return the clips with these indices [N]."""
        return SourceDataset(self.source, [self.entries[index] for index in chosen])

    @property
    def streams(self) -> frozenset[str]:
        """Return the streams of the first clip."""
        keys_present = frozenset(self[0].streams) | {"bodies"}
        return frozenset(stream for stream, keys in STREAMS.items() if keys[0] in keys_present)

    def lacking(self, stream: str) -> tuple[str, ...]:
        """Return the names of the clips that lack a stream: all if the first does, or the ones without their video."""
        names = super().lacking(stream)
        with_file = [stream in entry.files for entry in self.entries]
        return names or tuple(n for n, has in zip(self.names, with_file, strict=True) if any(with_file) and not has)

    @property
    def recordings(self) -> tuple[str, ...]:
        """Return the recording identity of each clip."""
        return tuple(map(self.source.identity, self.entries))

    def fingerprint(self) -> str:
        """Return a digest of the data."""
        return self.source.fingerprint(self.entries)


class Source(ABC):
    """A dataset as published. It can be pickled, so several processes may read it.

    Attributes:
        splits: Official protocols; the first is the default.
        measure: Metric of the official protocol: "accuracy" (top-1) or "mean_class_accuracy".
        folds: Number of folds of the splits `fold_splits` (empty: all), chosen by option `fold` (from 1); 0 for none.
        merges: For each coarser dataset of the same items, its label for each label of this dataset.
        includes: Datasets all items of which are in this one.
        has_files: Whether the dataset is read from files.
        caveat: Note for every card and report about the dataset.
        license: License of models trained on it.
    """

    classes: tuple[str, ...]
    layout: str = "kinect_v2_25"
    splits: ClassVar[tuple[str, ...]]
    measure: ClassVar[str] = "accuracy"
    caveat: ClassVar[str] = ""
    license: ClassVar[str] = "research use: the dataset carries no clear license to redistribute or to use commercially"
    folds: ClassVar[int] = 0
    fold_splits: ClassVar[tuple[str, ...]] = ()
    has_files: ClassVar[bool] = True
    merges: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    includes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, root: str | Path):
        self.root = Path(root)

    @abstractmethod
    def entries(self) -> list[Entry]:
        """Return every item, in a fixed order; raises DeviceError if missing, InputError if a list is corrupt."""

    def unknown_entries(self) -> list[Entry]:
        """Return the items that show none of the classes (the user's recordings labeled `unknown`), with label −1."""
        return []

    @abstractmethod
    def read(self, entry: Entry) -> Clip:
        """Read the clip of an item; images are decoded on access (`LazyStreams`).

        Raises:
            DeviceError: A file is missing.
            InputError: A file is truncated, corrupt or empty, or has no body.
        """

    @abstractmethod
    def part(self, entry: Entry, split: str) -> str:
        """Return the part of `split` of an item: "train", "test", or "" for neither."""

    def has_split(self, split: str) -> bool:
        """Return whether the options of the dataset define a split; a store skips undefined splits."""
        return True

    def frames(self, entry: Entry) -> Iterator[RgbdFrame]:
        """Yield the camera frames, from which `actrec prepare` estimates hands, faces and flow.

        Stamps have the same zero as the clip of `read`, with one frame per stamp unless the recording dropped it.
        Depth, registered to color, is None if the dataset has none. Raises like `read`, and InputError without images.
        """
        kind = type(self).__module__.split(".")[2]
        remedy = "omit --estimate, and color in --streams"
        raise InputError(f"'{entry.name}': {kind} has no camera frames here: {remedy}")

    def missing_images(self, entry: Entry, missing: str) -> InputError:
        """Return the error for an item without camera frames."""
        return InputError(
            f"'{entry.name}' has no camera frames here: there is no {missing} in '{self.root}'; if no clip has "
            "them, omit --estimate, and color in --streams"
        )

    def camera_offset(self, entry: Entry) -> np.ndarray:
        """Return the offset [3] m from the frame of `read` to the frame of the camera of `frames`; usually zero."""
        return np.zeros(3, np.float32)

    def identity(self, entry: Entry) -> str:
        """Return an identity of the recording that does not depend on its path; empty if the name identifies it."""
        return ""

    def fingerprint(self, entries: Sequence[Entry]) -> str:
        """Return the SHA-256 of names, labels, options, and the size and both ends (64 KiB) of each file.

        A change in the middle of a long file of the same size is not detected. A folder contributes its file names.
        """

        def parts() -> Iterator[str | bytes]:
            for entry in entries:
                yield f"{entry.name} {entry.label}"
                for key, file in sorted(entry.files.items()):
                    yield f" {key} "
                    yield from content(file)

        return self.with_options(fingerprint_of(self.classes, parts()))

    def with_options(self, digest: str) -> str:
        """Return a digest of `digest` and the dataset's options except the fold; `digest` itself without options."""
        settings: Any = getattr(self, "config", None)
        options = {} if settings is None else {k: v for k, v in asdict(settings).items() if "fold" not in k}
        return hashlib.sha256(f"{digest} {options}".encode()).hexdigest() if options else digest

    @classmethod
    def license_of(cls, options: Mapping[str, Any]) -> str:
        """Return the license of models trained on the dataset with these options."""
        return cls.license

    @classmethod
    def divisions(cls, name: str, split: str, part: str, options: Mapping[str, Any]) -> dict[str, str]:
        """Return each published dataset that a part of the dataset `name` shows, with the division of that part.

        The parts of a division are disjoint. A division is "" if all of that dataset is shown.
        """
        fold = f", fold {options.get('fold', 1)}" if cls.folds and split in (cls.fold_splits or (split,)) else ""
        return dict.fromkeys((name, *cls.merges, *cls.includes), f"split {split}{fold}")

    def check(self, split: str) -> None:
        """Raise ConfigError if the dataset has no such split."""
        if split not in self.splits:
            name = type(self).__module__.split(".")[2]
            raise ConfigError(f"{name} has split {', '.join(self.splits)}; got '{split}'")


def missing_folder_error(root: Path) -> DeviceError:
    """Return the error for a missing dataset folder."""
    return DeviceError(
        f"there is no folder '{root}'; check the path (commands: --data or ACTREC_DATA for the folder of datasets, "
        "--root for the dataset's own)"
    )


Kind = tuple[str, str] | None
"""Sample and kind ("skeleton", "color", …) of a file or folder; None for another one."""


def find_files(
    root: Path, kind_of: Callable[[Path], Kind], kind_of_folder: Callable[[Path], Kind] = lambda folder: None
) -> dict[str, dict[str, Path]]:
    """Return the files of each sample below `root` by kind; links are followed, each folder is listed once.

    A folder that is of a sample itself is not listed.

    Raises:
        DeviceError: There is no such folder, or one is unreadable.
        InputError: Two files of a sample are of one kind.
    """
    if not root.is_dir():
        raise missing_folder_error(root)
    found: dict[str, dict[str, Path]] = {}
    known: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_refuse):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in known:
            folders.clear()
            continue
        known.add((status.st_dev, status.st_ino))
        inside = [(path, kind_of_folder(path)) for path in (Path(folder, name) for name in folders)]
        folders[:] = [path.name for path, kind in inside if kind is None]
        inside += [(path, kind_of(path)) for path in (Path(folder, name) for name in names)]
        for path, kind in inside:
            if kind is not None and (other := found.setdefault(kind[0], {}).setdefault(kind[1], path)) != path:
                raise InputError(f"'{path}' and '{other}' belong to the same sample; remove one of them")
    return dict(sorted(found.items()))


def _refuse(error: OSError) -> None:
    name = Path(error.filename).name
    if not name.startswith(".") and name != "lost+found":
        raise unreadable_folder_error(error) from error


def unreadable_folder_error(error: OSError) -> DeviceError:
    """Return the error for an unreadable folder."""
    return DeviceError(f"cannot read the folder '{error.filename}': {error.strerror}; make it readable or move it")
