"""Takes views by itself from live images: when the board is held still, and held as in no view before.

Views by a color and a depth camera at the same time: from a folder, or from a camera that runs.

The folder: `color/` (or `color/`, `rgb/`) with pictures, `depth/` with 16-bit PNG in millimetres (or another unit) and
0 where nothing was measured, and, where there is one, `ir/` (or `infrared/`) with the depth camera's infrared or
amplitude images of 8 or 16 bit. Files that belong together have the same number in their names, the last one there.
"""

import itertools
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actrec import cameras
from actrec.cameras.base import Camera
from actrec.recordings.video import image_files
from actrec.types import NANOSECONDS, Intrinsics
from actrec.utils import files
from actrec.utils.calibration_files import CameraFiles
from actrec.utils.config import setting
from actrec.utils.errors import DeviceError, EndOfStream, InputError
from actrec_calibration.board import Board, Detection
from actrec_calibration.coverage import Coverage, CoverageConfig, coverage
from actrec_calibration.depth import Pair
from actrec_calibration.intrinsics import View, holding
from actrec_calibration.sources import Picture, Read, read_file, visible

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
        self._before, self.detection = self.detection, self._board.detect(picture.color)
        if self.detection is None or self._moved() > self._config.still * picture.color.shape[1]:
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
        height, width = picture.color.shape[:2]
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
    drawn = picture.color.copy()
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


COLOR, DEPTH, INFRARED = ("color", "colour", "rgb"), ("depth",), ("ir", "infrared")

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\D*$")


def read(folder: str | Path, board: Board, sizes: tuple[Intrinsics, Intrinsics], unit: float = 0.001) -> list[Pair]:
    """The views of a folder that show the board in color.

    Args:
        folder: See above.
        board: Looked for.
        sizes: Intrinsics of color and depth: images must be of their sizes.
        unit: Metres of one step of the depth images.

    Raises:
        DeviceError: There is no such folder.
        InputError: A part is missing, two of its files have one number, an image is damaged, of another size, or
            mirrored; no view shows the board.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DeviceError(f"'{folder}' is no folder: give one with color/ and depth/")
    color, depth, infrared = _numbered(folder, COLOR), _numbered(folder, DEPTH), _numbered(folder, INFRARED)
    for names, found in ((COLOR, color), (DEPTH, depth)):
        if not found:
            raise InputError(f"'{folder}' has no pictures in {names[0]}/: expected color/, depth/ and, if any, ir/")
    both = sorted(set(color) & set(depth))
    if not both:
        raise InputError(f"'{folder}': no picture in color/ has the number of one in depth/: name them alike")
    pairs: list[Pair] = []
    for number in both:
        seen = board.detect(_sized(color[number], read_file(color[number]).color, sizes[0]))
        if seen is None:
            continue
        values = _sized(depth[number], read_depth(depth[number], unit), sizes[1])
        in_infrared = None
        if number in infrared:
            in_infrared = board.detect(_sized(infrared[number], read_infrared(infrared[number]), sizes[1]))
        pairs.append(Pair(color[number].name, seen, values, in_infrared))
    if not pairs:
        raise InputError(
            f"no picture of the {len(both)} in '{folder}' shows the board: check --kind, --columns and --rows"
        )
    return pairs


def live(
    driver: str, options: dict[str, Any], board: Board, count: int, stopped: threading.Event
) -> tuple[CameraFiles, list[Pair]]:
    """What a running camera goes by, and views from it, taken whenever the board is held still as in no view before.

    Args:
        driver: A name in `actrec.cameras.DRIVERS`; its depth is registered to color.
        options: Its settings.
        board: Looked for.
        count: Of views.
        stopped: Set it, from a signal handler if need be, to do with those so far.

    Raises:
        DeviceError: There is no such camera, or it stopped.
        InputError: It gives no depth.
    """
    collector = Collector(board, LiveConfig(most_views=max(count, 3)))
    pairs: list[Pair] = []
    _say("hold the board still for a moment, then in another way: near and far, tilted to all sides; Ctrl-C ends it")
    with cameras.create(driver, **options) as camera:
        for frame in _frames(camera, driver):
            name = f"view {len(pairs) + 1}"
            if collector.look(Picture(name, frame.stamp_ns, frame.color)) and collector.detection is not None:
                pairs.append(Pair(name, collector.detection, frame.depth))
                _say(f"{len(pairs)} of {count} views")
            if len(pairs) == count or stopped.is_set():
                break
        return camera.calibration(), pairs


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def standing(driver: str, options: dict[str, Any], board: Board, count: int) -> tuple[CameraFiles, list[Pair]]:
    """What a running camera goes by, and its next frames, of a camera and a board that stand still.

    Args:
        driver: A name in `actrec.cameras.DRIVERS`; its depth is registered to color.
        options: Its settings.
        board: Looked for.
        count: Of frames.

    Raises:
        DeviceError: There is no such camera, or it stopped.
        InputError: It gives no depth; none of the frames shows the board.
    """
    pairs: list[Pair] = []
    with cameras.create(driver, **options) as camera:
        for number, frame in enumerate(itertools.islice(_frames(camera, driver), count), 1):
            if (seen := board.detect(frame.color)) is not None:
                pairs.append(Pair(f"frame {number}", seen, frame.depth))
        told = camera.calibration()
    if not pairs:
        raise InputError(f"no frame of {count} shows the board: check --kind, --columns and --rows, and what it sees")
    return told, pairs


def _frames(camera: Camera, driver: str) -> Iterator[Any]:
    """A camera's frames to the end, each with color and depth."""
    while True:
        try:
            frame = camera.read(READ_TIMEOUT_S)
        except EndOfStream:
            return
        if frame.color is None or frame.depth is None:
            raise InputError(f"driver {driver} gives no color and depth here: choose a camera that has both")
        yield frame


def read_depth(path: Path, unit: float) -> np.ndarray:
    """[H, W] float32 metres of a 16-bit image, NaN where it is 0.

    Raises:
        InputError: It is damaged, or of 8 bit.
    """
    image = files.read_image(path, cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16 or image.ndim != 2:
        raise InputError(f"'{path}' is no 16-bit depth image: save depth as 16-bit PNG (millimetres)")
    return np.where(image > 0, image * np.float32(unit), np.float32(np.nan)).astype(np.float32)


def read_infrared(path: Path) -> np.ndarray:
    """[H, W] uint8, stretched to what can be seen where it has 16 bit.

    Raises:
        InputError: It is damaged.
    """
    image = files.read_image(path, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise InputError(f"'{path}' is no picture that can be read: take it out of the folder or copy it again")
    gray = image.mean(axis=2) if image.ndim == 3 else image.astype(np.float64)
    return np.round(gray).astype(np.uint8) if image.dtype == np.uint8 else visible(gray)


def _numbered(folder: Path, names: tuple[str, ...]) -> dict[float, Path]:
    place = next((folder / name for name in names if (folder / name).is_dir()), None)
    found: dict[float, Path] = {}
    for path in image_files(place) if place else []:
        match = _NUMBER.search(path.stem)
        if match and (other := found.setdefault(float(match.group(1)), path)) is not path:
            raise InputError(
                f"'{other}' and '{path.name}' have the same number, {match.group(1)}, the last one in a name: name the "
                "files by the views' numbers"
            )
    return found


def _sized(path: Path, image: np.ndarray, camera: Intrinsics) -> np.ndarray:
    if image.shape[:2] != (camera.height, camera.width):
        raise InputError(
            f"'{path}' is {image.shape[1]}×{image.shape[0]} and its intrinsics are of {camera.width}×{camera.height}: "
            "give intrinsics of this size"
        )
    return image
