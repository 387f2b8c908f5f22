"""The network inputs of a window that holds several clips, one after the other."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from actrec import features
from actrec.features.specs import InputSpec, WindowSpec
from actrec.types import KEYS, Clip, LazyClip
from actrec.utils.errors import InputError


def of_window(spec: InputSpec) -> bool:
    """Whether an input shows the whole window, whichever of its clips the network takes."""
    return bool(spec.preprocessing.get("scope") == "window")


def window_inputs(
    clip: Clip, specs: Iterable[InputSpec], window: WindowSpec, starts: Sequence[int] | None = None
) -> list[dict[str, np.ndarray]]:
    """As `each_clip`, all of them at once."""
    return list(each_clip(clip, specs, window, starts))


def each_clip(
    clip: Clip, specs: Iterable[InputSpec], window: WindowSpec, starts: Sequence[int] | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """The inputs of each clip of a window, one after the other: of pictures there are many megabytes.

    An input whose preprocessing has `scope: window` is made once, from the whole window, and given with every clip.

    Args:
        clip: The whole window, T = `window.frames`.
        specs: The network's inputs.
        window: How long the clips are and where they start.
        starts: First frames of the clips; None for `window.starts`.

    Yields:
        For each start, input name to float32 of the spec's shape.

    Raises:
        InputError: The window is shorter than one clip, or as `features.inputs`.
    """
    specs = list(specs)
    whole = [spec for spec in specs if of_window(spec)]
    others = [spec for spec in specs if spec not in whole]
    shared = features.inputs(clip, whole)
    starts = window.starts if starts is None else starts
    for start in starts:
        # Of several clips, which overlap, all pictures are made once; of one alone no more than it shows.
        part = cut(clip, start, window.clip_frames, alone=len(starts) == 1 and not whole)
        yield {**shared, **features.inputs(part, others)}


def cut(clip: Clip, start: int, frames: int, alone: bool = False) -> Clip:
    """Frames `start` to `start + frames` of a clip; what has no time axis stays as it is.

    Args:
        clip: The clip.
        start: First frame.
        frames: How many.
        alone: No other part of it is going to be looked at.

    Raises:
        InputError: The clip does not hold these frames; of a `LazyClip`, when they are looked at.
    """
    parts = {name: partial(_cut, clip, name, start, frames, alone) for name in clip}
    if not isinstance(clip, LazyClip):
        return {name: part() for name, part in parts.items()}
    return LazyClip(parts, shown=None if clip.shown is None else cut(clip.shown, start, frames, alone))


def _cut(clip: Clip, name: str, start: int, frames: int, alone: bool) -> np.ndarray:
    if alone and isinstance(clip, LazyClip) and (part := clip.part(name, start, frames)) is not None:
        return part
    value = clip[name]
    axis = KEYS[name][0] if name in KEYS else 0  # else: the observed frames of an input of that name
    if axis is not None and not 0 <= start <= start + frames <= (value.shape[axis] if axis else len(value)):
        raise InputError(
            f"'{name}' {list(np.shape(value))} has no frames {start} to {start + frames}: the window is too short"
        )
    span = slice(start, start + frames)
    return value if axis is None else value[:, span] if axis else value[span]
