"""Videos with the people and their labels drawn in, written while the next frames are recognized."""

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from actrec.recognition.offline import LabeledFrame
from actrec.recognition.recognizer import ActionPrediction
from actrec.recordings.video import VideoWriter
from actrec.utils.errors import InputError
from actrec.visualization.overlay import Caption, draw
from actrec.visualization.snapshots import with_owners

FRAMES_AHEAD = 4


def labeled_image(labeled: LabeledFrame) -> np.ndarray:
    """Return the color image [H, W, 3] uint8 RGB with people and labels; raise InputError if there is no image."""
    if labeled.frame.color is None:
        raise InputError("the recording has joints without images: nothing can be drawn on them")
    people = labeled.people
    return draw(labeled.frame.color, people.bodies, people.hands, people.faces, captions(labeled.labels))


def captions(labels: Mapping[str, ActionPrediction]) -> dict[str, Caption]:
    """Return the captions of people by body id; see `with_owners`."""
    return with_owners({name: Caption(made.label, made.confidence) for name, made in labels.items()})


class LabeledVideo:
    """Writer of a labeled video. It draws and encodes in a thread, at most `FRAMES_AHEAD` frames behind.

    Raises:
        DeviceError: The file cannot be written; `add` and `close` raise it too.
    """

    def __init__(self, file: Path):
        self._writer = VideoWriter(file)
        self._thread = ThreadPoolExecutor(1, "labeled_video")
        # A Ctrl-C while the first frame's `submit` starts the thread would leave it out of `shutdown`, which would not
        # wait for that frame.
        self._thread.submit(int).result()
        self._pending: deque[Future[None]] = deque()

    @property
    def codec(self) -> str:
        """Name of the encoder; empty before the first frame."""
        return self._writer.codec

    def add(self, labeled: LabeledFrame) -> None:
        """Append a frame; raise InputError if it has no image."""
        while len(self._pending) >= FRAMES_AHEAD:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(self._write, labeled))

    def close(self) -> None:
        """Finish the file; safe to call twice, also after an error."""
        pending, self._pending = self._pending, deque()
        try:
            while pending:
                pending.popleft().result()
        finally:
            self._thread.shutdown(cancel_futures=True)
            self._writer.close()

    def _write(self, labeled: LabeledFrame) -> None:
        self._writer.write(labeled_image(labeled), labeled.frame.stamp_ns)
