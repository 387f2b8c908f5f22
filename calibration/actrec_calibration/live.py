"""Takes views by itself from live images: when the board is held still, and held as in no view before."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from actrec.config import setting
from actrec.errors import DeviceError, EndOfStream
from actrec.frames import NANOSECONDS
from actrec_calibration.boards import Board, Detection
from actrec_calibration.coverage import Coverage, CoverageConfig, coverage
from actrec_calibration.pictures import Picture, Read
from actrec_calibration.views import View, holding

READ_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class LiveConfig:
    """When a view is taken of live images."""

    still: float = setting(
        0.002, "The board is still when its corners move less than this from one image to the next, in image widths.",
        range=(1e-5, 0.1),
    )  # fmt: skip
    still_s: float = setting(0.2, "How long it must be still.", unit="s", range=(0.0, 10.0))
    new: float = setting(
        0.12,
        "How far it must be from every view before: share of the image moved, or of 60° tilted.",
        range=(0.01, 1.0),
    )
    most_views: int = setting(60, "Views after which no more are taken.", range=(3, 1000))


class Stillness:
    """Whether the board is in live pictures, and rests.

    Args:
        board: Looked for.
        config: When it rests.

    Attributes:
        detection: Of the last picture; None where the board is not in it.
    """

    def __init__(self, board: Board, config: LiveConfig):
        self.detection: Detection | None = None
        self._board, self._config = board, config
        self._before: Detection | None = None
        self._since: int | None = None

    def look(self, picture: Picture) -> bool:
        """Whether the board has rested for long enough.

        Raises:
            InputError: The picture is mirrored.
        """
        self._before, self.detection = self.detection, self._board.detect(picture.colour)
        if self.detection is None or self._moved() > self._config.still * picture.colour.shape[1]:
            self._since = None
            return False
        if self._since is None or picture.stamp_ns < self._since:  # a recording that loops jumps back
            self._since = picture.stamp_ns
        return picture.stamp_ns - self._since >= self._config.still_s * NANOSECONDS

    def _moved(self) -> float:
        """Median distance in pixels of the corners seen in both of the last two pictures; infinite where none are."""
        if self._before is None or self.detection is None:
            return float("inf")
        _, now, then = np.intersect1d(self.detection.ids, self._before.ids, return_indices=True)
        if not len(now):
            return float("inf")
        return float(np.median(np.hypot(*(self.detection.pixels[now] - self._before.pixels[then]).T)))


class Collector:
    """Judges one picture after another.

    Args:
        board: Looked for.
        config: When a view is taken.
        wanted: When the views suffice.

    Attributes:
        taken: The views so far.
        coverage: What they show.
    """

    def __init__(self, board: Board, config: LiveConfig | None = None, wanted: CoverageConfig | None = None):
        self.board = board
        self.config = config or LiveConfig()
        self.taken: list[View] = []
        self._wanted = wanted or CoverageConfig()
        self.coverage: Coverage = coverage(board, [], self._wanted)
        self._stillness = Stillness(board, self.config)

    @property
    def detection(self) -> Detection | None:
        """Of the last picture; None where the board is not in it."""
        return self._stillness.detection

    @property
    def done(self) -> bool:
        """Whether the views suffice, or are as many as are taken."""
        return not self.coverage.missing or len(self.taken) >= self.config.most_views

    def look(self, picture: Picture) -> bool:
        """Whether a view was taken of this picture.

        Raises:
            InputError: The picture is mirrored.
        """
        if not self._stillness.look(picture) or self.detection is None:
            return False
        height, width = picture.colour.shape[:2]
        view = View(picture.name, (width, height), self.detection)
        if not self._is_new(view):
            return False
        self.taken.append(view)
        self.coverage = coverage(self.board, self.taken, self._wanted)
        return True

    def _is_new(self, view: View) -> bool:
        here = holding(self.board, view).vector
        there = [holding(self.board, one).vector for one in self.taken]
        return all(np.linalg.norm(here - other) > self.config.new for other in there)


def collect(
    read: Read,
    collector: Collector,
    stopped: threading.Event,
    seen: Callable[[Picture, bool], None],
) -> list[View]:
    """Takes views until they suffice, the stream ends or somebody stops it.

    Args:
        read: Gives pictures.
        collector: Judges them.
        stopped: Set it to end, from a signal handler if need be.
        seen: Called with each picture and whether it became a view.

    Raises:
        DeviceError: No picture comes.
        InputError: The pictures are mirrored.
    """
    while not stopped.is_set() and not collector.done:
        try:
            picture = read(READ_TIMEOUT_S)
        except EndOfStream:
            break
        seen(picture, collector.look(picture))
    return collector.taken


def preview(picture: Picture, collector: Collector) -> np.ndarray:
    """[H, W, 3] RGB: the live image with the corners found (green), those of the views (blue), and what to do next."""
    drawn = picture.colour.copy()
    for view in collector.taken:
        for corner in view.detection.pixels:
            cv2.circle(drawn, _at(corner), 2, (80, 120, 255), -1)
    for corner in collector.detection.pixels if collector.detection else ():
        cv2.circle(drawn, _at(corner), 3, (60, 220, 60), 1, cv2.LINE_AA)
    lines = [f"{len(collector.taken)} views, {100 * collector.coverage.complete:.0f} %", *collector.coverage.missing]
    for number, line in enumerate(lines):
        # OpenCV's font has no degree sign.
        place, text = (8, 20 + 20 * number), line.replace("°", " deg")
        cv2.putText(drawn, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(drawn, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return drawn


def save(path: Path, picture: np.ndarray) -> None:
    """Writes [H, W, 3] RGB whole or not at all: a viewer may be reading the file.

    Raises:
        DeviceError: It cannot be written.
    """
    staging = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staging.write_bytes(cv2.imencode(path.suffix, picture[..., ::-1])[1].tobytes())
        os.replace(staging, path)
    except OSError as error:
        raise DeviceError(f"cannot write '{path}': {error.strerror}; choose another place") from error


def _at(pixel: np.ndarray) -> tuple[int, int]:
    return round(float(pixel[0])), round(float(pixel[1]))
