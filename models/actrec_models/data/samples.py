"""Training samples: network inputs by name and a label, cut from the clips of a dataset.

Evaluation scores all windows of a recording, training samples from them.
"""

import dataclasses
import logging
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from actrec import features
from actrec.datasets.base import Clip, ClipDataset
from actrec.features import crops, scene_flow, skeleton
from actrec.features.clips import spans_window, window_inputs
from actrec.features.skeleton import SkeletonPreprocessing
from actrec.features.specs import InputSpec, WindowSpec
from actrec.scene_flow import identity
from actrec.skeleton import windows
from actrec.types import NANOSECONDS
from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec_models.data import augmentation as data_augmentation
from actrec_models.data import unknown_clips
from actrec_models.data.data_recipe import DataRecipe
from actrec_models.data.samplers import PAD, Draw
from actrec_models.networks.base import OUTLIER

_EARLY = 1e-6
"""Tolerance in samples: with integer stamps a recording of T frames may be slightly shorter than T samples."""


class Part(NamedTuple):
    """A segment that is sampled at once: sample stamps, window or clip, first frames of the clips in it.

    `around_ns` are the stamps that inputs of the whole window are made from; None for the segment's own.
    """

    stamps_ns: np.ndarray
    window: WindowSpec
    starts: tuple[int, ...]
    around_ns: np.ndarray | None = None


def parts(clip: Clip, inputs: Iterable[InputSpec], window: WindowSpec, mode: str) -> Iterator[Part]:
    """Yield the segments of a recording.

    "live" is the window at the end of the recording, "stretched" the window from its first to its last frame. Live, an
    input that spans the window ends with each clip, as clips are run when their last frame has come
    (`actrec.recognition.clip_scores`).

    "whole" covers the recording with clips of T frames, or whole windows if an input needs them. They step back from
    the end by the package's stride (default: half a segment), plus one at the start if the steps miss it. Clips do not
    begin before the recording, unless it is shorter than a clip: then the first frame is repeated.

    "subsequences" takes as many clips as a window has, of T recorded frames each (`subsequence`), evenly spaced over
    the recording, of which inputs of the whole window are made.
    """
    begin, end = int(clip.stamps_ns[0]), int(clip.stamps_ns[-1])
    if mode == "subsequences":
        clips, length = len(window.starts), window.clip_frames
        for place in np.unique(np.round(np.linspace(0, spare_frames(len(clip.stamps_ns), length), clips)).astype(int)):
            yield _subsequence(clip, window, int(place))
        return
    if mode == "live" and len(window.starts) > 1 and any(map(spans_window, inputs)):
        for lag_s in window.lags_s:
            clip_end = max(end - round(lag_s * NANOSECONDS), begin)
            yield Part(windows.sample_stamps(clip_end, window.seconds, window.frames), window, window.starts[-1:])
        return
    if mode != "whole":
        yield Part(clip.window_stamps(window.seconds, window.frames, mode == "stretched"), window, window.starts)
        return
    rate = window.frames / window.seconds
    clip_window = WindowSpec(window.clip_frames / rate, window.clip_frames, gravity=window.gravity)
    part = window if any(map(spans_window, inputs)) else clip_window
    held = int((end - begin) / NANOSECONDS * rate + _EARLY) + 1  # samples that the recording holds
    if held <= part.frames:
        yield Part(windows.sample_stamps(end, part.seconds, part.frames), part, _starts(part, part.frames - held))
        return
    stamps = windows.sample_stamps(end, held / rate, held)
    step = (window.stride if part.frames < window.frames else 0) or max(part.frames // 2, 1)
    places = range((held - part.frames) % step, held - part.frames + 1, step)
    for place in places if places[0] == 0 else (0, *places):
        yield Part(stamps[place : place + part.frames], part, part.starts if place else _starts(part, 0))


def spare_frames(count: int, length: int) -> int:
    """Return the last frame at which a sub-sequence of a recording of `count` frames can start."""
    return max(count - length * (2 if count > 2 * length else 1), 0)


def subsequence(count: int, length: int, start: int) -> np.ndarray:
    """Return the frames [length] of a sub-sequence, as P-I3D's authors take them.

    Every second frame if a recording of `count` frames is longer than twice the length, else successive ones; of a
    shorter recording all frames, some of them repeated.
    """
    if count < length:
        return np.sort(np.arange(length) % count)
    return start + np.arange(length) * (2 if count > 2 * length else 1)


def _subsequence(clip: Clip, window: WindowSpec, start: int) -> Part:
    stamps, length = clip.stamps_ns, window.clip_frames
    part = WindowSpec(length / window.rate, length, gravity=window.gravity)
    return Part(stamps[subsequence(len(stamps), length, start)], part, part.starts, stamps)


def _starts(part: WindowSpec, begin: int) -> tuple[int, ...]:
    """Return the first frames of the clips of a segment in which the recording begins at frame `begin`."""
    within = tuple(start for start in part.starts if start >= begin)
    if not within:
        return part.starts[-1:]
    return within if within[0] == begin else (begin, *within)


logger = logging.getLogger(__name__)

Sample = dict[str, Any]

Place = tuple[np.ndarray, int, np.ndarray | None]
"""Stamps [frames] of a segment, the first frame of one clip in it, and `Part.around_ns`."""

_PLACES = 1
"""Seed component that separates the order of windows from the augmentation."""

_BACKGROUND = 2
"""Seed component that separates the choice of background clips from the augmentation."""

_ROUNDED_NS = 1000
"""Rounding tolerance of the end of a window."""


class Samples(Dataset[Sample]):
    """Clips as network inputs, with random augmentation if given.

    If the recipe's `clips` is "whole", an item is a random one of the clips that evaluation scores (`parts`); if it is
    "subsequences", one with a random start. It depends only on the seed and the draw, so that any number of workers and
    a resumed run see the same samples.

    Networks of bodies only get variations of time, body and camera. Networks of images, hands or flow get variations
    of time and of the image crop only, since a rotated body no longer fits its image.

    Args:
        augmentation: None for clips as recorded, of the live window at the end of the recording.
        any_clip: Without augmentation: a random clip of the window instead of the last one.
        made: Names of the inputs to compute; None for all. The variations are the same, but that images without the
            others may be mirrored.
        background: Clips of the unknown class, which replace the recipe's share `background` of the items; their label
            is the number of classes.
    """

    def __init__(
        self,
        clips: ClipDataset,
        specs: list[InputSpec],
        window: WindowSpec,
        recipe: DataRecipe,
        augmentation: data_augmentation.Augmentation | None,
        any_clip: bool = False,
        made: Collection[str] | None = None,
        background: ClipDataset | None = None,
    ):
        self.made, self.background = made, background
        self.clips, self.specs, self.window, self.recipe = clips, specs, window, recipe
        self.augmentation, self.any_clip = augmentation, any_clip
        self.bodies_alone = set(features.streams(specs)) == {"bodies"}
        self._begins = any(spec.modality == "joint_map" for spec in specs)
        # As in `parts`: the window ends with the clip that is shown.
        self._ends = recipe.clips == "live" and any(map(spans_window, specs))
        self.normalized = (
            config.build(SkeletonPreprocessing, specs[0].preprocessing) if _joints_and_bones(specs) else None
        )

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, draw: int | Draw) -> Sample:
        epoch, index, again = draw if isinstance(draw, tuple) else (0, draw, 0)
        if index == PAD:
            return {**self[0], "label": OUTLIER}
        clip, label = self._clip(epoch, index, again)
        placed = self.recipe.clips in ("whole", "subsequences")
        place = self._place(clip, epoch, index, again) if placed else None
        rng = np.random.default_rng([self.recipe.seed, epoch, index, *([again] if again else [])])
        if self.augmentation is None:
            return {**self._recorded(clip, place, rng), "label": label}
        if rng.random() < self.recipe.outliers:
            return {**self._varied_inputs(self._no_class(self._in_axes(clip), rng), rng), "label": OUTLIER}
        if self.bodies_alone and self.recipe.between and rng.random() < self.recipe.between:
            return {**self._varied_inputs(self._between(clip, rng), rng), "label": len(self.clips.classes)}
        if self.bodies_alone:
            shown = clip if place is None else _until(self._in_axes(clip), place[0][-1])
            return {**self._varied_inputs(self._window(shown, rng), rng), "label": label}
        return {**self._varied_streams(clip, place, self.augmentation, rng), "label": label}

    def _clip(self, epoch: int, index: int, again: int) -> tuple[Clip, int]:
        """Return the clip of a draw, or a random one of the background, and its label."""
        if self.background is not None:
            rng = np.random.default_rng([self.recipe.seed, epoch, index, again, _BACKGROUND])
            if rng.random() < self.recipe.background:
                return self.background[int(rng.integers(len(self.background)))], len(self.clips.classes)
        clip = self.clips[index]
        return clip, clip.label

    def _place(self, clip: Clip, epoch: int, index: int, again: int) -> Place:
        """Return a random window among the ones of evaluation, a different one for each repeat in an epoch.

        In training, a sub-sequence starts at any frame.
        """
        if self.recipe.clips == "subsequences" and self.any_clip:
            rng = np.random.default_rng([self.recipe.seed, epoch, index, again, _PLACES])
            start = int(rng.integers(spare_frames(len(clip.stamps_ns), self.window.clip_frames) + 1))
            part = _subsequence(clip, self.window, start)
            return part.stamps_ns, 0, part.around_ns
        found = parts(clip, self.specs, self.window, self.recipe.clips)
        places = [(part.stamps_ns, start, part.around_ns) for part in found for start in part.starts]
        order = np.random.default_rng([self.recipe.seed, epoch, index, 0, _PLACES]).permutation(len(places))
        return places[order[again % len(places)]]

    def _recorded(self, clip: Clip, place: Place | None, rng: np.random.Generator) -> dict[str, np.ndarray]:
        specs = skeleton.drawn(self.specs, rng) if self.any_clip else self.specs
        if place is not None:
            return self._of_clip(clip.at_stamps(place[0]), specs, place[1], self._around(clip, place))
        start = self._start(rng) if self.any_clip else self.window.starts[-1]
        stamps = clip.window_stamps(self.window.seconds, self.window.frames, self.recipe.clips == "stretched")
        return self._of_clip(clip.at_stamps(self._earlier(clip, stamps, rng)), specs, start)

    def _varied_streams(
        self, clip: Clip, place: Place | None, options: data_augmentation.Augmentation, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Return inputs with varied time and varied crops of images and flow."""
        if place is None:
            stamps = data_augmentation.sample_stamps(clip, self.window.seconds, self.window.frames, options, rng)
            stamps = self._earlier(clip, stamps, rng)
        else:
            stamps = data_augmentation.vary_speed(clip, place[0], options, rng)
        mirror = options.mirror and crops.may_mirror(_read(self.specs, self.made))
        specs = crops.jittered(scene_flow.jittered(self.specs, rng), rng, mirror)
        specs = skeleton.drawn(specs, rng) if self.any_clip else specs
        start = self._start(rng) if place is None else place[1]
        around = None if place is None else self._around(clip, place)
        speed = self._speed(stamps) if place is None else _relative_speed(stamps, place[0])
        return self._of_clip(clip.at_stamps(stamps, speed), specs, start, around)

    @staticmethod
    def _around(clip: Clip, place: Place) -> features.Clip | None:
        return None if place[2] is None else clip.at_stamps(place[2])

    def _speed(self, stamps: np.ndarray) -> float:
        """Return the playback speed of stamps [frames] in the clip's own time."""
        spacing_ns = self.window.seconds / self.window.frames * NANOSECONDS
        return round(float(stamps[-1] - stamps[0]) / spacing_ns / (len(stamps) - 1), 6) if len(stamps) > 1 else 1.0

    def varied_bodies(self, clip: Clip, rng: np.random.Generator) -> np.ndarray:
        """Return an augmented window [M, T, V, 3] of a clip in m, in level axes, before normalization."""
        return self._varied(self._window(clip, rng).resampled(), rng)

    def _varied_inputs(self, window: data_augmentation.TimedBodies, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return self._of_bodies(self._varied(window.resampled(), rng), rng)

    def _window(self, clip: Clip, rng: np.random.Generator) -> data_augmentation.TimedBodies:
        assert self.augmentation is not None
        options, seconds, frames = self.augmentation, self.window.seconds, self.window.frames
        before = self._in_axes(self.clips[int(rng.integers(len(self.clips)))]) if options.before else None
        window = data_augmentation.sample_window(
            self._in_axes(clip), seconds, frames, options, rng, before, self.clips.layout
        )
        return window if self.hands else data_augmentation.recorded_by_robot(window, options, rng)

    def _between(self, clip: Clip, rng: np.random.Generator) -> data_augmentation.TimedBodies:
        """Return a window that ends after an action, or before the next one."""
        assert self.augmentation is not None
        before = self._in_axes(self.clips[int(rng.integers(len(self.clips)))])
        window = data_augmentation.sample_between(
            self._in_axes(clip), self.window.seconds, self.window.frames, self.augmentation, rng, before,
            self.clips.layout,
        )  # fmt: skip
        return window if self.hands else data_augmentation.recorded_by_robot(window, self.augmentation, rng)

    def _in_axes(self, clip: Clip) -> Clip:
        """Return the bodies of a clip in the axes that the network takes."""
        return clip if self.window.gravity == "camera" else clip.leveled()

    def _no_class(self, clip: Clip, rng: np.random.Generator) -> data_augmentation.TimedBodies:
        """Return a window of synthetic unknown motion, based on the body or hand of a clip."""
        make = unknown_clips.synthetic_hand_gesture if self.hands else unknown_clips.synthetic_body_action
        stamps = windows.sample_stamps(0, self.window.seconds, self.window.frames)
        return data_augmentation.TimedBodies(stamps, make(clip, self.window.seconds, self.window.frames, rng), stamps)

    def _varied(self, bodies: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        assert self.augmentation is not None
        varied = (data_augmentation.augment_hands if self.hands else data_augmentation.augment_bodies)(
            bodies, self.augmentation, rng
        )
        if self._begins:
            # As in live windows: a joint map detects the start of a recording by the repeated first pose.
            first = scene_flow.first_visible_frame(bodies)
            varied[:, :first] = varied[:, first : first + 1]
        return varied

    @property
    def hands(self) -> bool:
        """Whether the clips are of hands."""
        return self.clips.layout == "hand_22"

    def _of_bodies(self, bodies: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return the inputs of an augmented window; normalized joints and bones are rotated and scaled once more."""
        assert self.augmentation is not None
        if self.normalized is None:
            return self._of_clip({"bodies": bodies}, self.specs, self._start(rng))
        whole = skeleton.normalized({"bodies": bodies}, self.specs[0], {})
        joints = data_augmentation.augment_normalized(whole, self.augmentation, rng)
        root = self.normalized.root_bone
        return {spec.name: skeleton.stack(joints, spec.modality, spec.layout, root) for spec in self.specs}

    def _of_clip(
        self, clip: features.Clip, specs: list[InputSpec], start: int, around: features.Clip | None = None
    ) -> dict[str, np.ndarray]:
        return window_inputs(clip, _read(specs, self.made), self.window, [start], around)[0]

    def _start(self, rng: np.random.Generator) -> int:
        starts = self.window.starts
        return starts[-1] if len(starts) == 1 or self._ends else starts[int(rng.integers(len(starts)))]

    def _earlier(self, clip: Clip, stamps: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the stamps of a window that ends with a random one of its clips, if the window ends with a clip."""
        lags_s = self.window.lags_s
        if not self._ends or not self.any_clip or len(lags_s) == 1:
            return stamps
        lag_ns = round(lags_s[int(rng.integers(len(lags_s)))] * NANOSECONDS)
        return stamps - min(lag_ns, max(int(stamps[-1]) - int(clip.stamps_ns[0]), 0))


def _until(clip: Clip, end_ns: int) -> Clip:
    """Return the bodies of a clip up to a stamp."""
    count = int(np.searchsorted(clip.stamps_ns, end_ns + _ROUNDED_NS, side="right"))
    return Clip(clip.name, clip.label, clip.stamps_ns[:count], clip.bodies[:, :count])


def _joints_and_bones(specs: list[InputSpec]) -> bool:
    """Return whether all inputs are joints and bones of the canonical layout, normalized in the same way."""
    return all(
        spec.modality in skeleton.MODALITIES
        and spec.layout == "kinect_v2_25"
        and spec.preprocessing == specs[0].preprocessing
        and spec.shape == specs[0].shape
        for spec in specs
    )


def warn_missing_streams(clips: ClipDataset, specs: list[InputSpec], recipe: DataRecipe) -> None:
    """Warn if a dataset has no optional stream of the network."""
    missing = sorted(set(features.streams(specs)) - clips.streams)
    if missing:
        logger.warning(
            "%s also takes %s, which not every clip of dataset '%s' has: it learns without them there "
            "(actrec prepare --estimate makes them)",
            recipe.model, ", ".join(missing), recipe.dataset,
        )  # fmt: skip


def describe_missing(model: str, clips: ClipDataset, specs: Iterable[InputSpec], estimation: str = "") -> str:
    """Return which streams that a model needs are missing from clips, with the remedy; empty if none is.

    `estimation` has more settings of `actrec prepare`, for streams that it estimates.
    """
    if not len(clips):  # reported when it is scored
        return ""
    needed = sorted(stream for stream, required in features.streams(specs).items() if required)
    lacking = {stream: names for stream in needed if stream != "bodies" and (names := clips.lacking(stream))}
    if not lacking:
        return ""
    names = next(iter(lacking.values()))
    some = (
        "the dataset has" if len(names) == len(clips) else f"{len(names)} of {len(clips)} clips, first {names[0]}, have"
    )
    wanted = [stream for stream in lacking if stream != "color"]
    remedies = ["use recordings with color (a prepared store: --streams bodies,color)"] if "color" in lacking else []
    remedies += [f"actrec prepare it with --estimate {','.join(wanted)}{estimation}"] if wanted else []
    return (
        f"{model} takes {', '.join(needed)}, but {some} no {', '.join(lacking)} (it holds "
        f"{', '.join(sorted(clips.streams - lacking.keys()))}): {'; '.join(remedies)}; or choose a network of joints"
    )


def _flow_settings(recipe: DataRecipe) -> str:
    """Return the settings of `actrec prepare` for the scene flow that a recipe requires."""
    required = recipe.scene_flow
    return "".join(f" --set flow.{name}={required[name]}" for name in identity.SETTINGS if name in required)


def check_scene_flow(clips: ClipDataset, specs: Iterable[InputSpec], recipe: DataRecipe) -> None:
    """Raise ConfigError if the clips' scene flow is not the one that a recipe requires; warn if it is unknown."""
    if not recipe.scene_flow or "flow" not in features.streams(specs):
        return
    if other := identity.differing(recipe.scene_flow, clips.scene_flow):
        name = next(iter(other))
        raise ConfigError(
            f"the recipe takes scene flow of {name} {other[name]}, but dataset '{recipe.dataset}' was prepared with "
            f"{clips.scene_flow[name]}: actrec prepare {recipe.dataset} --estimate flow{_flow_settings(recipe)} --out "
            "FOLDER; or train on this one with --set scene_flow={}"
        )
    if unknown := [name for name in identity.NAMES if name in recipe.scene_flow.keys() - clips.scene_flow.keys()]:
        logger.warning(
            "the recipe takes scene flow of %s %s, but the %s of dataset '%s' is not known",
            unknown[0], recipe.scene_flow[unknown[0]], unknown[0], recipe.dataset,
        )  # fmt: skip


def _read(specs: list[InputSpec], made: Collection[str] | None) -> list[InputSpec]:
    """Return the inputs to compute: the ones whose names are in `made`, or all."""
    return [spec for spec in specs if made is None or spec.name in made]


def _relative_speed(stamps: np.ndarray, recorded: np.ndarray) -> float:
    """Return the playback speed of varied stamps [frames] relative to the ones that evaluation takes."""
    span = float(recorded[-1] - recorded[0])
    return round(float(stamps[-1] - stamps[0]) / span, 6) if span > 0 else 1.0


def check_between(specs: list[InputSpec], recipe: DataRecipe) -> None:
    """Raise ConfigError if a network cannot learn from samples between actions."""
    if recipe.between and not (recipe.background and set(features.streams(specs)) == {"bodies"}):
        raise ConfigError("between is for networks of bodies alone, beside a background: set it to 0")


def unused_augmentation(specs: list[InputSpec], recipe: DataRecipe, made: Collection[str] | None = None) -> str:
    """Return a warning about settings that vary bodies alone, for a network that takes more; empty without any."""
    bodies_alone = set(features.streams(specs)) == {"bodies"}
    if not recipe.augment or (bodies_alone and _joints_and_bones(specs)):
        return ""
    ours, default = recipe.check(), data_augmentation.Augmentation()
    if bodies_alone and specs[0].layout == "hand_22":
        known, more = {"exchange", "smoothed", "driven"}, "they vary bodies, not hands"
    elif bodies_alone:
        known, more = {"turn_deg", "size"}, "they vary networks of joints and bones alone"
    else:
        used = {"speed", *(("cut", "hold_s") if recipe.clips in ("live", "stretched") else ())}
        used |= {"mirror"} if crops.may_mirror(_read(specs, made)) else set()
        known = {field.name for field in dataclasses.fields(default)} - used
        more = f"{recipe.model} takes more than bodies, which {', '.join(sorted(used))} varies"
    changed = sorted(name for name in known if getattr(ours, name) != getattr(default, name))
    return f"augmentation: {', '.join(changed)} does nothing: {more}" if changed else ""


def check_streams(
    clips: ClipDataset,
    specs: list[InputSpec],
    recipe: DataRecipe,
    made: Collection[str] | None = None,
    background: ClipDataset | None = None,
) -> None:
    """Raise ConfigError if a dataset lacks a stream that the network needs; warn if mirroring changes a class.

    The clips of the background must have every stream of the classes' clips that the network takes: a missing stream
    would tell them apart.
    """
    streams = features.streams(specs)
    if background is not None and (lacking := sorted((streams.keys() & clips.streams) - background.streams)):
        raise ConfigError(
            f"clips of the background hold no {', '.join(lacking)}, which {recipe.model} takes: name another "
            "unknown_dataset, or set background to 0"
        )
    if background is not None and "flow" in streams:
        other = identity.differing(clips.scene_flow, background.scene_flow)
        if name := next((name for name in identity.SETTINGS if name in other), ""):
            raise ConfigError(
                f"clips of the background have scene flow of {name} {background.scene_flow[name]}, the classes' of "
                f"{other[name]}: prepare both alike, or set background to 0"
            )
    if missing := describe_missing(recipe.model, clips, specs, _flow_settings(recipe)):
        raise ConfigError(f"dataset '{recipe.dataset}': {missing}")
    check_scene_flow(clips, specs, recipe)
    augmentation = recipe.check()
    if (augmentation.reach or augmentation.held_deg) and clips.layout != "hand_22":
        raise ConfigError(
            f"reach and held_deg vary hands, but dataset '{recipe.dataset}' holds {clips.layout}: set both to 0"
        )
    bodies_alone = set(streams) == {"bodies"}
    if recipe.augment and recipe.clips == "stretched" and not bodies_alone:
        raise ConfigError(f"{recipe.model} takes more than bodies, which alone are stretched when they are varied: set "
                          "augment to false, or clips to live")  # fmt: skip
    if recipe.augment and bodies_alone:
        if recipe.clips == "stretched" and not augmentation.stretched:
            logger.warning("clips are trained as live windows but scored stretched: set stretched of augmentation to 1")
        if recipe.clips != "stretched" and augmentation.stretched == 1:
            logger.warning("clips are trained stretched, but scored as %s: set clips to stretched", recipe.clips)
    if augmentation.stretched and not bodies_alone:
        raise ConfigError(f"only bodies are stretched in training, but {recipe.model} takes more: set stretched to 0")
    if recipe.outliers and not bodies_alone:
        raise ConfigError(f"outliers are synthetic skeletons, but {recipe.model} takes more: set outliers to 0")
    sided = [f"'{name}'" for name in clips.classes if data_augmentation.names_side(name)]
    mirrors = (bodies_alone and clips.layout != "hand_22") or crops.may_mirror(_read(specs, made))
    if sided and mirrors and recipe.augment and augmentation.mirror:
        names = ", ".join(sided[:4]) + (", …" if len(sided) > 4 else "")
        logger.warning("half of the clips are mirrored, but %s name a side: set mirror of augmentation to false", names)
