"""What a clip holds, and what every feature offers."""

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
    """One frame, as far as one body is concerned; None for a stream that is absent.

    Attributes:
        positions: [V, 3] metres, NaN for missing.
        pixels: [V, 2] px in the color image, NaN for missing.
        hand_pixels: [2, 21, 2] px, alike.
        size: Width and height of the color image, px.
        color: [H, W, 3] uint8 RGB.
        flow: [h, w, 3] m/s, NaN for missing, of the same field of view.
    """

    positions: np.ndarray | None = None
    pixels: np.ndarray | None = None
    hand_pixels: np.ndarray | None = None
    size: tuple[int, int] | None = None
    color: np.ndarray | None = None
    flow: np.ndarray | None = None


class Feature(ABC):
    """Makes one network input. Has no state: what it needs to know stands in the spec.

    Attributes:
        config_class: Dataclass of the spec's `preprocessing`.
        streams: Name in `STREAMS` to whether the input cannot be made without it; where False, absence gives zeros.
        part_of: What it is together with other inputs of a network; empty where it is something by itself.
    """

    config_class: ClassVar[type]
    streams: ClassVar[dict[str, bool]]
    part_of: ClassVar[str] = ""

    @abstractmethod
    def make(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        """The input of one clip.

        Args:
            clip: What was seen; see `KEYS`.
            spec: Shape, layout and preprocessing.
            memo: Empty for each clip; features keep there what others of the same clip can use again.

        Returns:
            Float32 of `spec.shape`.

        Raises:
            InputError: A key is absent or has the wrong shape; both shapes are named.
        """

    def options(self, spec: InputSpec) -> Any:
        """The spec's preprocessing, validated."""
        return config.build(self.config_class, spec.preprocessing)


class FrameFeature(Feature):
    """An input that is a stack of pictures, each made from one frame alone: live, frames are reduced as they come."""

    @abstractmethod
    def observe(self, view: View, spec: InputSpec) -> np.ndarray:
        """One frame's share, small (uint8 where it is a picture). The same shape for every view."""

    @abstractmethod
    def finish(self, frames: np.ndarray, spec: InputSpec) -> np.ndarray:
        """The input, float32 of `spec.shape`, from `observe`d frames [T, …]."""

    def make(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        """As the base says."""
        frames = clip.get(spec.name)
        if frames is None:
            frames = np.stack([self.observe(view, spec) for view in self._views(clip, spec)])
        return self.finish(np.asarray(frames), spec)

    def _views(self, clip: Clip, spec: InputSpec) -> list[View]:
        if "bodies" in self.streams and isinstance(clip, LazyClip) and clip.shown is not None:
            clip = clip.shown  # as live, where a picture is reduced with the joints of its own frame
        for stream, needed in self.streams.items():
            if needed and STREAMS[stream][0] not in clip:
                raise absent(spec, STREAMS[stream][0], clip)
        size = clip.get("size")
        if size is None and "color" in clip:
            size = np.array(clip["color"].shape[2:0:-1])
        whole = None if size is None else (int(size[0]), int(size[1]))
        used = {key for stream in self.streams for key in STREAMS[stream] if key in clip}
        per_body = {"positions": "bodies", "pixels": "pixels", "hand_pixels": "hand_pixels"}
        per_body = {field: key for field, key in per_body.items() if key in used}
        pictures = [key for key in ("color", "flow") if key in used]
        count = _frames(clip, [*pictures, *per_body.values()], spec)
        return [
            View(
                size=whole,
                **{field: clip[key][0, t] for field, key in per_body.items()},
                **{key: clip[key][t] for key in pictures},
            )
            for t in range(count)
        ]


def _frames(clip: Clip, keys: list[str], spec: InputSpec) -> int:
    """How many frames these keys of a clip have.

    Raises:
        InputError: They do not have the same number.
    """
    counts = [clip[key].shape[KEYS[key][0] or 0] for key in keys]
    if len(set(counts)) > 1:
        said = ", ".join(f"'{key}' {KEYS[key][1]} is {list(clip[key].shape)}" for key in keys)
        raise InputError(f"input '{spec.name}' ({spec.modality}) is made of as many frames of each, but {said}")
    return counts[0]


def absent(spec: InputSpec, key: str, clip: Clip) -> InputError:
    """What to raise where a clip lacks `key`."""
    _, shape, meaning = KEYS[key]
    return InputError(
        f"input '{spec.name}' ({spec.modality}) is made from '{key}' {shape} ({meaning}), "
        f"but the clip holds {', '.join(sorted(clip)) or 'nothing'}"
    )
