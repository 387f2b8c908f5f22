"""The network inputs of a window that holds several clips, one after the other."""

from collections.abc import Iterable, Sequence

import numpy as np

from actrec import features
from actrec.errors import InputError
from actrec.features.base import KEYS, Clip
from actrec.package import InputSpec, WindowSpec


def window_inputs(
    clip: Clip, specs: Iterable[InputSpec], window: WindowSpec, starts: Sequence[int] | None = None
) -> list[dict[str, np.ndarray]]:
    """The inputs of each clip of a window.

    An input whose preprocessing has `scope: window` is made once, from the whole window, and given with every clip.

    Args:
        clip: The whole window, T = `window.frames`.
        specs: The network's inputs.
        window: How long the clips are and where they start.
        starts: First frames of the clips; None for `window.starts`.

    Returns:
        For each start, input name to float32 of the spec's shape.

    Raises:
        InputError: The window is shorter than one clip, or as `features.inputs`.
    """
    specs = list(specs)
    whole = [spec for spec in specs if spec.preprocessing.get("scope") == "window"]
    others = [spec for spec in specs if spec not in whole]
    shared = features.inputs(clip, whole)
    starts = window.starts if starts is None else starts
    return [{**shared, **features.inputs(cut(clip, start, window.clip_frames), others)} for start in starts]


def cut(clip: Clip, start: int, frames: int) -> dict[str, np.ndarray]:
    """Frames `start` to `start + frames` of a clip; what has no time axis stays as it is.

    Raises:
        InputError: The clip does not hold these frames.
    """
    part = {}
    for name, value in clip.items():
        axis = KEYS[name][0] if name in KEYS else 0  # else: the observed frames of an input of that name
        if axis is not None and not 0 <= start <= start + frames <= value.shape[axis]:
            raise InputError(
                f"'{name}' {list(value.shape)} has no frames {start} to {start + frames}: the window is too short"
            )
        part[name] = value if axis is None else value[(slice(None),) * axis + (slice(start, start + frames),)]
    return part
