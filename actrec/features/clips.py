"""Network inputs of a window that contains several clips."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from actrec import features
from actrec.features.specs import InputSpec, WindowSpec
from actrec.types import KEYS, Clip, LazyClip
from actrec.utils.errors import InputError


def spans_window(spec: InputSpec) -> bool:
    """Return whether an input spans the whole window instead of one clip."""
    return bool(spec.preprocessing.get("scope") == "window")


def window_inputs(
    clip: Clip, specs: Iterable[InputSpec], window: WindowSpec, starts: Sequence[int] | None = None
) -> list[dict[str, np.ndarray]]:
    """Return the inputs of all clips, as `each_clip` yields them."""
    return list(each_clip(clip, specs, window, starts))


def each_clip(
    clip: Clip, specs: Iterable[InputSpec], window: WindowSpec, starts: Sequence[int] | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the inputs of each clip of a window, to save memory.

    Inputs with the preprocessing `scope: window` are computed once from the whole window and are part of every clip.

    Args:
        clip: The whole window, T = `window.frames`.
        specs: The network's inputs.
        window: Length and starts of the clips.
        starts: First frames of the clips; None for `window.starts`.

    Yields:
        For each start, input name to float32 of the spec's shape.

    Raises:
        InputError: The window is shorter than one clip, or as for `features.inputs`.
    """
    specs = list(specs)
    whole = [spec for spec in specs if spans_window(spec)]
    others = [spec for spec in specs if spec not in whole]
    shared = features.inputs(clip, whole)
    starts = window.starts if starts is None else starts
    for start in starts:
        # Several clips overlap and share decoded images; a single one needs only its own frames.
        part = cut(clip, start, window.clip_frames, alone=len(starts) == 1 and not whole)
        yield {**shared, **features.inputs(part, others)}


def cut(clip: Clip, start: int, frames: int, alone: bool = False) -> Clip:
    """Return frames `start` to `start + frames` of a clip; keys without time axis are unchanged.

    Args:
        clip: The clip.
        start: First frame.
        frames: Number of frames.
        alone: No other part of the clip will be used.

    Raises:
        InputError: The clip does not have these frames; for a `LazyClip`, on access.
    """
    parts = {name: partial(_cut, clip, name, start, frames, alone) for name in clip}
    if not isinstance(clip, LazyClip):
        return {name: part() for name, part in parts.items()}
    return LazyClip(parts, shown=None if clip.shown is None else cut(clip.shown, start, frames, alone))


def _cut(clip: Clip, name: str, start: int, frames: int, alone: bool) -> np.ndarray:
    if alone and isinstance(clip, LazyClip) and (part := clip.part(name, start, frames)) is not None:
        return part
    value = clip[name]
    axis = KEYS[name][0] if name in KEYS else 0  # otherwise observed frames of an input of that name
    if axis is not None and not 0 <= start <= start + frames <= (value.shape[axis] if axis else len(value)):
        raise InputError(
            f"'{name}' {list(np.shape(value))} has no frames {start} to {start + frames}: the window is too short"
        )
    span = slice(start, start + frames)
    return value if axis is None else value[:, span] if axis else value[span]
