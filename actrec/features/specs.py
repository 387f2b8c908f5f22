"""Declaration of a network's time window and inputs, and the base classes of the features that compute them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from actrec.skeleton import layouts
from actrec.types import KEYS, STREAMS, Clip, LazyClip
from actrec.utils import config
from actrec.utils.errors import InputError

COMBINE = ("mean", "logits", "max")

AXES = ("leveled", "camera")
"""Axes of joints, flow and images: level ones wherever the direction of gravity is known, or always the camera's."""


@dataclass(frozen=True)
class WindowSpec:
    """Time window of a prediction: `seconds` long, resampled to `frames`."""

    seconds: float
    frames: int
    clip: int = 0  # T, frames per network input; 0 for all of them
    stride: int = 0  # frames from the start of one clip to the next; 0 for a single clip
    combine: str = "mean"  # clips' scores: "mean" or (renormalized) "max" of probabilities, mean of "logits"
    gravity: str = "leveled"  # one of `AXES`, in which the network was trained

    @property
    def rate(self) -> float:
        """Return the frames per second, Hz."""
        return self.frames / self.seconds

    @property
    def clip_frames(self) -> int:
        """Return T, the frames per network input."""
        return self.clip or self.frames

    @property
    def starts(self) -> tuple[int, ...]:
        """Return the first frame of each clip. The last clip ends with the window."""
        length, stride = self.clip_frames, self.stride or 1
        return tuple(range((self.frames - length) % stride, self.frames - length + 1, stride))

    @property
    def lags_s(self) -> tuple[float, ...]:
        """Return the time from the last frame of each clip to the end of the window, s; 0 for the last clip."""
        return tuple((self.starts[-1] - start) / self.rate for start in self.starts)


@dataclass(frozen=True)
class InputSpec:
    """One input tensor of a network."""

    name: str  # name of the ONNX graph's input
    modality: str  # name of a feature in `actrec.features`: "body", "bones", …
    layout: str  # joint layout, e.g. "kinect_v2_25", or the axes of an image
    shape: tuple[int, ...]  # without the batch axis
    unit: str = ""  # SI unit of the values before normalization, "" for none
    preprocessing: dict[str, Any] = field(default_factory=dict)  # options of the feature
    rate: float = 0.0  # Hz at which images are taken (`features.rates`); 0 for joints, which are interpolated


@dataclass(frozen=True)
class BodyView:
    """One frame of one body; None for an absent stream, NaN for missing points."""

    positions: np.ndarray | None = None  # [V, 3] m
    pixels: np.ndarray | None = None  # [V, 2] px in the color image
    hand_pixels: np.ndarray | None = None  # [2, 21, 2] px
    size: tuple[int, int] | None = None  # width and height of the color image, px
    color: np.ndarray | None = None  # [H, W, 3] uint8 RGB
    flow: np.ndarray | None = None  # [h, w, 3] m/s, with the same field of view


class Feature(ABC):
    """Stateless computation of one network input, configured by its spec."""

    config_class: ClassVar[type]  # dataclass of the spec's `preprocessing`
    streams: ClassVar[dict[str, bool]]  # to whether it is required; an absent optional stream gives zeros
    part_of: ClassVar[str] = ""  # name of the group of inputs that it belongs to; empty for a single input

    @abstractmethod
    def make(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        """Compute the input for one clip, float32 of `spec.shape`.

        Args:
            clip: See `KEYS`.
            spec: Shape, layout and preprocessing.
            memo: Cache for intermediate results that the features of one clip share.

        Raises:
            InputError: A key is missing or has the wrong shape.
        """

    def options(self, spec: InputSpec) -> Any:
        """Return the spec's preprocessing, validated."""
        return config.build(self.config_class, spec.preprocessing)


class FrameFeature(Feature):
    """Input made of one image per frame; a live node reduces each frame on arrival."""

    @abstractmethod
    def observe(self, view: BodyView, spec: InputSpec) -> np.ndarray:
        """Reduce one frame to a small array (uint8 for images) of constant shape."""

    @abstractmethod
    def finish(self, frames: np.ndarray, spec: InputSpec) -> np.ndarray:
        """Return the input, float32 of `spec.shape`, from `observe`d frames [T, …]."""

    def make(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        """Compute the input, from observed frames in the clip if there are any."""
        frames = clip.get(spec.name)
        if frames is None:
            frames = np.stack([self.observe(view, spec) for view in self._views(clip, spec)])
        return self.finish(np.asarray(frames), spec)

    def _views(self, clip: Clip, spec: InputSpec) -> list[BodyView]:
        if "bodies" in self.streams and isinstance(clip, LazyClip) and clip.shown is not None:
            clip = clip.shown  # as live: an image is reduced with the joints of its own frame
        for stream, needed in self.streams.items():
            if needed and STREAMS[stream][0] not in clip:
                raise missing_key_error(spec, STREAMS[stream][0], clip)
        size = clip.get("size")
        if size is None and "color" in clip:
            size = np.array(clip["color"].shape[2:0:-1])
        whole = None if size is None else (int(size[0]), int(size[1]))
        used = {key for stream in self.streams for key in STREAMS[stream] if key in clip}
        per_body = {"positions": "bodies", "pixels": "pixels", "hand_pixels": "hand_pixels"}
        per_body = {name: key for name, key in per_body.items() if key in used}
        images = [key for key in ("color", "flow") if key in used]
        keys = [*images, *per_body.values()]
        counts = [clip[key].shape[KEYS[key][0] or 0] for key in keys]
        if len(set(counts)) > 1:
            shapes = ", ".join(f"'{key}' {KEYS[key][1]} is {list(clip[key].shape)}" for key in keys)
            raise InputError(
                f"input '{spec.name}' ({spec.modality}) needs the same number of frames of each, but {shapes}"
            )
        return [
            BodyView(
                size=whole,
                **{name: clip[key][0, t] for name, key in per_body.items()},
                **{key: clip[key][t] for key in images},
            )
            for t in range(counts[0])
        ]


def missing_key_error(spec: InputSpec, key: str, clip: Clip) -> InputError:
    """Return the error for a clip without `key`."""
    _, shape, meaning = KEYS[key]
    return InputError(
        f"input '{spec.name}' ({spec.modality}) needs '{key}' {shape} ({meaning}), "
        f"but the clip has {', '.join(sorted(clip)) or 'nothing'}"
    )


def required(clip: Clip, key: str, spec: InputSpec) -> np.ndarray:
    """Return a key of a clip, or raise `InputError` if it is missing."""
    if key not in clip:
        raise missing_key_error(spec, key, clip)
    return np.asarray(clip[key])


def required_joints(
    clip: Clip, key: str, spec: InputSpec, bodies: float = np.inf, least: int = 0, most: float = np.inf
) -> np.ndarray:
    """Return "bodies" or "pixels" [M, T, V, D] of a clip as float32, V of the spec's layout.

    Args:
        clip, key: The clip and its key.
        spec: The input that needs it.
        bodies: Maximum M.
        least, most: Minimum and maximum T.

    Raises:
        InputError: The clip does not have it, or its shape is another.
    """
    values = required(clip, key, spec).astype(np.float32, copy=False)
    axes, joints = KEYS[key][1], len(layouts.get(spec.layout))
    fits = values.ndim == 4 and values.shape[2:] == (joints, int(axes[-2]))
    if not fits or len(values) > bodies or not least <= values.shape[1] <= most:
        people = "bodies" if bodies == np.inf else f"up to {bodies} bodies"
        frames = f"at least {least}" if most == np.inf else f"{most}" if least == most else f"up to {most}"
        raise InputError(
            f"{key} are {list(values.shape)} {axes} but input '{spec.name}' takes {people} of {frames} frames × "
            f"{joints} joints ({spec.layout})"
        )
    return values


def evenly_spaced(length: int, count: int) -> np.ndarray:
    """Return the indices of `count` of `length` frames. The last one is included, as in `windows.sample_stamps`."""
    return np.round(np.arange(1, count + 1) * length / count).astype(int) - 1


def pad_bodies(bodies: np.ndarray, count: int) -> np.ndarray:
    """Pad bodies [M, …] with NaN, as absent, to `count` of them."""
    return np.concatenate([bodies, np.full((count - len(bodies), *bodies.shape[1:]), np.nan, np.float32)])
