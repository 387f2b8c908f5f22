"""Where in a recording its clips lie: evaluation scores all of these places, training draws from them."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from actrec import windows
from actrec.features.clips import of_window
from actrec.frames import NANOSECONDS
from actrec.package import InputSpec, WindowSpec
from actrec_models.data.clips import Clip

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
    part = window if any(map(of_window, inputs)) else WindowSpec(window.clip_frames / rate, window.clip_frames)
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
