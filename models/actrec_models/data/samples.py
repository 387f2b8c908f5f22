"""Clips of a dataset as what a network is trained on: inputs by name and a label.

Where in a recording its clips lie: evaluation scores all of these places, training draws from them.
"""

import logging
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from actrec import features
from actrec.datasets.base import Clip, ClipDataset
from actrec.features import crops, joint_map, scene_flow, skeleton
from actrec.features.clips import spans_window, window_inputs
from actrec.features.skeleton import SkeletonPreprocessing
from actrec.features.specs import InputSpec, WindowSpec
from actrec.skeleton import windows
from actrec.types import NANOSECONDS
from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec_models.data import augmentation as data_augmentation
from actrec_models.data import synthetic_unknown
from actrec_models.data.samplers import PAD, Draw
from actrec_models.networks.base import OUTLIER
from actrec_models.training.recipe import Recipe

_EARLY = 1e-6
"""Of a sample: stamps are whole nanoseconds, so that a recording of T frames may be a little shorter than T samples."""


class Part(NamedTuple):
    """A stretch of a recording that is sampled at once.

    Attributes:
        stamps_ns: [window.frames] where it is sampled.
        window: What it is: one clip of T frames, or a whole window where an input shows that.
        starts: First frames of the clips in it.
    """

    stamps_ns: np.ndarray
    window: WindowSpec
    starts: tuple[int, ...]


def parts(clip: Clip, inputs: Iterable[InputSpec], window: WindowSpec, mode: str) -> Iterator[Part]:
    """What is taken of a recording, part by part.

    "live" is the window that ends with the recording, "stretched" one from its first frame to its last.

    "whole" goes over all of it: clips of T frames, or whole windows where an input shows those, in steps of the
    package's stride (half a part where it has none) back from the recording's end; one more begins with the recording
    where the steps do not meet it. No clip begins earlier than that, unless the recording is shorter than a clip: then
    there is one clip, which ends with it, and the first frame is held before. A window may begin earlier; its clips
    that do are left out.
    """
    if mode != "whole":
        yield Part(clip.window_stamps(window.seconds, window.frames, mode == "stretched"), window, window.starts)
        return
    rate, end = window.frames / window.seconds, int(clip.stamps_ns[-1])
    part = window if any(map(spans_window, inputs)) else WindowSpec(window.clip_frames / rate, window.clip_frames)
    held = int((end - int(clip.stamps_ns[0])) / NANOSECONDS * rate + _EARLY) + 1  # samples that the recording holds
    if held <= part.frames:
        yield Part(windows.sample_stamps(end, part.seconds, part.frames), part, _starts(part, part.frames - held))
        return
    stamps = windows.sample_stamps(end, held / rate, held)
    step = (window.stride if part.frames < window.frames else 0) or max(part.frames // 2, 1)
    places = range((held - part.frames) % step, held - part.frames + 1, step)
    for place in places if places[0] == 0 else (0, *places):
        yield Part(stamps[place : place + part.frames], part, part.starts if place else _starts(part, 0))


def _starts(part: WindowSpec, begin: int) -> tuple[int, ...]:
    """First frames of the clips of a part in which the recording begins at frame `begin`."""
    within = tuple(start for start in part.starts if start >= begin)
    if not within:
        return part.starts[-1:]
    return within if within[0] == begin else (begin, *within)


logger = logging.getLogger(__name__)

Sample = dict[str, Any]

Place = tuple[np.ndarray, int]
"""Stamps [frames] of a part of a recording, and the first frame of one clip in it."""

_PLACES = 1
"""Keeps the order in which a clip's places are drawn apart from how it is varied."""

_ROUNDED_NS = 1000
"""A place may end by rounding a little before the frame that it ends with."""


class Samples(Dataset[Sample]):
    """Clips as network inputs, varied anew with each draw where an augmentation is given.

    Where the recipe's `clips` are "whole", an item is one of the clips that evaluation scores of the recording
    (`positions`), all equally likely, whatever its augmentation says of where windows end.

    An item is asked for by its index, or by a `Draw`: what it shows follows from the seed and the draw, not from the
    order of drawing, so that any number of workers and a run that is resumed see the same.

    What is varied depends on what the network looks at. Of bodies alone: time, body and camera. Of images, hands or
    flow too: time, and where an image is cut, because a body that is turned or lost no longer fits its image.

    Args:
        clips: The dataset.
        specs: The network's inputs.
        window: The network's window; one of its clips is a sample.
        recipe: Seed, outliers, and what is taken of a recording.
        augmentation: None for clips as recorded: of the window that the live recognizer has when the recording ends.
        any_clip: Without augmentation: any clip of the window, instead of the one that it ends with; where the recipe's
            `clips` are "whole" it is any clip of the recording anyway.
        made: Names of the inputs that are made; None for all. What is varied, and how, is alike.
    """

    def __init__(
        self,
        clips: ClipDataset,
        specs: list[InputSpec],
        window: WindowSpec,
        recipe: Recipe,
        augmentation: data_augmentation.Augmentation | None,
        any_clip: bool = False,
        made: Collection[str] | None = None,
    ):
        self.made = made
        self.clips, self.specs, self.window, self.recipe = clips, specs, window, recipe
        self.augmentation, self.any_clip = augmentation, any_clip
        self._bodies_alone = set(features.streams(specs)) == {"bodies"}
        self._begins = any(spec.modality == "joint_map" for spec in specs)
        self._normalized = (
            config.build(SkeletonPreprocessing, specs[0].preprocessing) if _joints_and_bones(specs) else None
        )

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, draw: int | Draw) -> Sample:
        epoch, index, again = draw if isinstance(draw, tuple) else (0, draw, 0)
        if index == PAD:
            return {**self[0], "label": OUTLIER}
        clip = self.clips[index]
        place = self._place(clip, epoch, index, again) if self.recipe.clips == "whole" else None
        rng = np.random.default_rng([self.recipe.seed, epoch, index, *([again] if again else [])])
        if self.augmentation is None:
            return {**self._recorded(clip, place, rng), "label": clip.label}
        if rng.random() < self.recipe.outliers:
            return {**self._of_bodies(self._no_class(clip, rng), rng), "label": OUTLIER}
        if self._bodies_alone:
            shown = clip if place is None else _until(clip, place[0][-1])
            return {**self._of_bodies(self.varied_bodies(shown, rng), rng), "label": clip.label}
        return {**self._varied_streams(clip, place, self.augmentation, rng), "label": clip.label}

    def _place(self, clip: Clip, epoch: int, index: int, again: int) -> Place:
        """One of those that evaluation scores, another one each time that an epoch draws the clip."""
        found = parts(clip, self.specs, self.window, "whole")
        places = [(part.stamps_ns, start) for part in found for start in part.starts]
        order = np.random.default_rng([self.recipe.seed, epoch, index, 0, _PLACES]).permutation(len(places))
        return places[order[again % len(places)]]

    def _recorded(self, clip: Clip, place: Place | None, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Input that show what was recorded as it was."""
        if place is not None:
            return self._of_clip(clip.sampled(place[0]), self.specs, place[1])
        start = self._start(rng) if self.any_clip else self.window.starts[-1]
        sample = clip.sample(self.window.seconds, self.window.frames, self.recipe.clips == "stretched")
        return self._of_clip(sample, self.specs, start)

    def _varied_streams(
        self, clip: Clip, place: Place | None, options: data_augmentation.Augmentation, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Input whose time is varied, and where images and flow are cut."""
        if place is None:
            stamps = data_augmentation.sample_stamps(clip, self.window.seconds, self.window.frames, options, rng)
        else:
            stamps = data_augmentation.vary_speed(clip, place[0], options, rng)
        specs = crops.jittered(scene_flow.jittered(self.specs, rng), rng, options.mirror)
        start = self._start(rng) if place is None else place[1]
        return self._of_clip(clip.sampled(stamps, self._speed(stamps)), specs, start)

    def _speed(self, stamps: np.ndarray) -> float:
        """How many times faster than it was recorded a clip is shown at these stamps [frames] of its own time."""
        spacing_ns = self.window.seconds / self.window.frames * NANOSECONDS
        return round(float(stamps[-1] - stamps[0]) / spacing_ns / (len(stamps) - 1), 6) if len(stamps) > 1 else 1.0

    def varied_bodies(self, clip: Clip, rng: np.random.Generator) -> np.ndarray:
        """A clip as an augmented window [M, T, V, 3] in meters, before normalization."""
        assert self.augmentation is not None
        options, seconds, frames = self.augmentation, self.window.seconds, self.window.frames
        before = self.clips[int(rng.integers(len(self.clips)))] if options.before else None
        return self._varied(
            data_augmentation.sample_window(clip, seconds, frames, options, rng, before, self.clips.layout), rng
        )

    def _no_class(self, clip: Clip, rng: np.random.Generator) -> np.ndarray:
        """Somebody like the one of a clip, or a hand like it, who does nothing of the classes: as `varied_bodies`."""
        make = synthetic_unknown.synthetic_hand_gesture if self._hands else synthetic_unknown.synthetic_body_action
        return self._varied(make(clip, self.window.seconds, self.window.frames, rng), rng)

    def _varied(self, bodies: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        assert self.augmentation is not None
        varied = (data_augmentation.augment_hands if self._hands else data_augmentation.augment_bodies)(
            bodies, self.augmentation, rng
        )
        if self._begins:
            # Live the first pose is held as it is, and a joint map tells by that where a recording begins.
            first = joint_map.first_visible_frame(bodies)
            varied[:, :first] = varied[:, first : first + 1]
        return varied

    @property
    def _hands(self) -> bool:
        return self.clips.layout == "hand_22"

    def _of_bodies(self, bodies: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Input of an augmented window; joints and bones are turned and sized once more after they are normalized."""
        assert self.augmentation is not None
        if self._normalized is None:
            return self._of_clip({"bodies": bodies}, self.specs, self._start(rng))
        whole = skeleton.normalize(skeleton.pad_bodies(bodies, self.specs[0]), self._normalized)
        joints = data_augmentation.augment_normalized(whole, self.augmentation, rng)
        root = self._normalized.root_bone
        return {spec.name: skeleton.stack(joints, spec.modality, spec.layout, root) for spec in self.specs}

    def _of_clip(self, clip: features.Clip, specs: list[InputSpec], start: int) -> dict[str, np.ndarray]:
        made = [spec for spec in specs if self.made is None or spec.name in self.made]
        return window_inputs(clip, made, self.window, starts=[start])[0]

    def _start(self, rng: np.random.Generator) -> int:
        starts = self.window.starts
        return starts[int(rng.integers(len(starts)))] if len(starts) > 1 else starts[0]


def _until(clip: Clip, end_ns: int) -> Clip:
    """The bodies of a clip up to a stamp."""
    count = int(np.searchsorted(clip.stamps_ns, end_ns + _ROUNDED_NS, side="right"))
    return Clip(clip.name, clip.label, clip.stamps_ns[:count], clip.bodies[:, :count])


def _joints_and_bones(specs: list[InputSpec]) -> bool:
    """Return whether the inputs are made of joints of the canonical layout alone, all normalized alike."""
    return all(
        spec.modality in skeleton.MODALITIES
        and spec.layout == "kinect_v2_25"
        and spec.preprocessing == specs[0].preprocessing
        and spec.shape == specs[0].shape
        for spec in specs
    )


def warn_missing_streams(clips: ClipDataset, specs: list[InputSpec], recipe: Recipe) -> None:
    """Warns where a dataset lacks what the network can do without."""
    spared = sorted(set(features.streams(specs)) - clips.streams)
    if spared:
        logger.warning(
            "%s also takes %s, which not every clip of dataset '%s' has: it learns without them there "
            "(actrec prepare --estimate makes them)",
            recipe.model, ", ".join(spared), recipe.dataset,
        )  # fmt: skip


def check_streams(clips: ClipDataset, specs: list[InputSpec], recipe: Recipe) -> None:
    """Refuses to train on a dataset that lacks what the network needs; warns where mirrors change what a class is.

    Raises:
        ConfigError: Names what is missing and what is there.
    """
    needed = [stream for stream, required in features.streams(specs).items() if required]
    lacking = sorted(set(needed) - clips.streams)
    if lacking:
        raise ConfigError(
            f"{recipe.model} takes {', '.join(sorted(needed))}, but dataset '{recipe.dataset}' has no "
            f"{', '.join(lacking)} (it holds {', '.join(sorted(clips.streams))}): choose another network or dataset"
        )
    augmentation = recipe.check()
    if (augmentation.reach or augmentation.held_deg) and clips.layout != "hand_22":
        raise ConfigError(
            f"reach and held_deg vary hands, but dataset '{recipe.dataset}' holds {clips.layout}: set both to 0"
        )
    if augmentation.stretched and set(features.streams(specs)) != {"bodies"}:
        raise ConfigError(f"only bodies are stretched in training, but {recipe.model} takes more: set stretched to 0")
    if recipe.outliers and set(features.streams(specs)) != {"bodies"}:
        raise ConfigError(f"outliers are made-up skeletons, but {recipe.model} takes more: set outliers to 0")
    sided = [f"'{name}'" for name in clips.classes if data_augmentation.names_side(name)]
    bodies_alone = set(features.streams(specs)) == {"bodies"} and clips.layout != "hand_22"
    if sided and (bodies_alone or crops.may_mirror(specs)) and recipe.augment and augmentation.mirror:
        what = ", ".join(sided[:4]) + (", …" if len(sided) > 4 else "")
        logger.warning("half of the clips are mirrored, but %s tell a side: set mirror of augmentation to false", what)
