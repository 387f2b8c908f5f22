"""Base classes of features."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from actrec.features.specs import InputSpec
from actrec.types import KEYS, STREAMS, Clip, LazyClip
from actrec.utils import config
from actrec.utils.errors import InputError


@dataclass(frozen=True)
class View:
    """One frame of one body; None for an absent stream.

    Attributes:
        positions: [V, 3] m, NaN for missing.
        pixels: [V, 2] px in the color image, NaN for missing.
        hand_pixels: [2, 21, 2] px, NaN for missing.
        size: Width and height of the color image, px.
        color: [H, W, 3] uint8 RGB.
        flow: [h, w, 3] m/s, NaN for missing, with the same field of view.
    """

    positions: np.ndarray | None = None
    pixels: np.ndarray | None = None
    hand_pixels: np.ndarray | None = None
    size: tuple[int, int] | None = None
    color: np.ndarray | None = None
    flow: np.ndarray | None = None


class Feature(ABC):
    """Stateless computation of one network input, configured by its spec.

    Attributes:
        config_class: Dataclass of the spec's `preprocessing`.
        streams: Name in `STREAMS` to whether it is required; an absent optional stream gives zeros.
        part_of: Name of the group of inputs that it belongs to; empty for a single input.
    """

    config_class: ClassVar[type]
    streams: ClassVar[dict[str, bool]]
    part_of: ClassVar[str] = ""

    @abstractmethod
    def make(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        """Compute the input for one clip.

        Args:
            clip: See `KEYS`.
            spec: Shape, layout and preprocessing.
            memo: Cache for intermediate results that the features of one clip share.

        Returns:
            Float32 of `spec.shape`.

        Raises:
            InputError: A key is missing or has the wrong shape.
        """

    def options(self, spec: InputSpec) -> Any:
        """Return the spec's preprocessing, validated."""
        return config.build(self.config_class, spec.preprocessing)


class FrameFeature(Feature):
    """Input made of one image per frame; a live node reduces each frame on arrival."""

    @abstractmethod
    def observe(self, view: View, spec: InputSpec) -> np.ndarray:
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

    def _views(self, clip: Clip, spec: InputSpec) -> list[View]:
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
        per_body = {field: key for field, key in per_body.items() if key in used}
        images = [key for key in ("color", "flow") if key in used]
        count = _frames(clip, [*images, *per_body.values()], spec)
        return [
            View(
                size=whole,
                **{field: clip[key][0, t] for field, key in per_body.items()},
                **{key: clip[key][t] for key in images},
            )
            for t in range(count)
        ]


def _frames(clip: Clip, keys: list[str], spec: InputSpec) -> int:
    """Return the number of frames of these keys of a clip.

    Raises:
        InputError: The numbers differ.
    """
    counts = [clip[key].shape[KEYS[key][0] or 0] for key in keys]
    if len(set(counts)) > 1:
        shapes = ", ".join(f"'{key}' {KEYS[key][1]} is {list(clip[key].shape)}" for key in keys)
        raise InputError(f"input '{spec.name}' ({spec.modality}) needs the same number of frames of each, but {shapes}")
    return counts[0]


def missing_key_error(spec: InputSpec, key: str, clip: Clip) -> InputError:
    """Return the error for a clip without `key`."""
    _, shape, meaning = KEYS[key]
    return InputError(
        f"input '{spec.name}' ({spec.modality}) needs '{key}' {shape} ({meaning}), "
        f"but the clip has {', '.join(sorted(clip)) or 'nothing'}"
    )
