"""Cached scores of the clips of a window, so that a label runs the network on its newest clip alone.

A window of several clips combines their scores. Each clip is run once, when its last frame has come. A label takes, for
each clip of its window, the score of the clip that ends nearest. This equals a run of all clips if the time between two
labels divides the one between two clips. If the network is slower than that, a label combines fewer different clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actrec.features.specs import WindowSpec
from actrec.inference.session import Session, combined
from actrec.skeleton.windows import nearest
from actrec.types import NANOSECONDS, Prediction


class ClipScores:
    """The logits of the clips of one track, by the stamp of a clip's last frame."""

    def __init__(self) -> None:
        self._logits: dict[int, np.ndarray] = {}

    def due(self, window: WindowSpec, end_ns: int, start_ns: int, interval_s: float) -> list[int]:
        """Return the ends, ns, of the clips to run for a label.

        The newest clip is always due. So is a clip of the first frame alone if the window is not full yet: it stands
        for all earlier ones. If labels are farther apart than clips, the clips between two labels are due too.

        Args:
            window: The package's window.
            end_ns, start_ns: End of the window and stamp of its first observation.
            interval_s: Minimum time between two labels.
        """
        ends, due = _ends(window, end_ns, start_ns), [end_ns]
        if ends[0] == start_ns != end_ns and start_ns not in self._logits:
            due.append(start_ns)
        stride_s = (window.stride or 1) / window.rate
        between = int(interval_s / stride_s + 1e-6)
        for end in ends[-2 : -2 - between : -1]:
            if min(abs(end - known) for known in (*self._logits, *due)) > stride_s / 2 * NANOSECONDS:
                due.append(end)
        return due

    def add(self, end_ns: int, logits: np.ndarray) -> None:
        """Keep the logits [classes] of the clip with this end."""
        self._logits[end_ns] = logits

    def window(self, window: WindowSpec, end_ns: int, start_ns: int) -> np.ndarray:
        """Return the logits [clips, classes] of a window whose due clips were added; drop older scores."""
        ends = sorted(self._logits)
        chosen = nearest(np.array(ends), np.array(_ends(window, end_ns, start_ns)))
        for old in ends[: int(chosen[0])]:
            del self._logits[old]
        return np.stack([self._logits[ends[index]] for index in chosen])


def _ends(window: WindowSpec, end_ns: int, start_ns: int) -> list[int]:
    """Return the stamp of the last frame of each clip, ns, but none before the first observation."""
    return [max(end_ns - round(lag_s * NANOSECONDS), start_ns) for lag_s in window.lags_s]


@dataclass(frozen=True)
class BodyWindow:
    """The window of one body, to be labeled.

    Attributes:
        scores: Of its earlier clips.
        end_ns, start_ns: Its end and the stamp of its first observation.
        clips: For the end of each due clip, the window [T frames] that ends there.
    """

    scores: ClipScores
    end_ns: int
    start_ns: int
    clips: Mapping[int, Mapping[str, Any]]


def predict(session: Session, windows: Sequence[BodyWindow]) -> list[Prediction]:
    """Return the predictions for windows; all due clips go through the network together if they are small enough."""
    spec, clips = session.package.window, [clip for each in windows for clip in each.clips.values()]
    if len(spec.starts) == 1 or not clips:
        return session.predict_many(clips)
    logits = iter(session.last_logits(clips))
    for each in windows:
        for end_ns in each.clips:
            each.scores.add(end_ns, next(logits))
    scores = np.stack([each.scores.window(spec, each.end_ns, each.start_ns) for each in windows])
    return session.to_predictions(combined(scores, spec.combine))
