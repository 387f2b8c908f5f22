"""Views by a colour and a depth camera at the same time: from a folder, or from a camera that runs.

The folder: `colour/` (or `color/`, `rgb/`) with pictures, `depth/` with 16-bit PNG in millimetres (or another unit) and
0 where nothing was measured, and, where there is one, `ir/` (or `infrared/`) with the depth camera's infrared or
amplitude images of 8 or 16 bit. Files that belong together have the same number in their names, the last one there.
"""

import itertools
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from actrec import capture, image_files
from actrec.camera_files import CameraFiles
from actrec.capture.base import Camera
from actrec.errors import DeviceError, EndOfStream, InputError
from actrec.frames import Intrinsics
from actrec.recordings.picture_folder import files
from actrec_calibration.boards import Board
from actrec_calibration.extrinsics import Pair
from actrec_calibration.live import READ_TIMEOUT_S, Collector, LiveConfig
from actrec_calibration.pictures import Picture, read_file, visible

COLOUR, DEPTH, INFRARED = ("colour", "color", "rgb"), ("depth",), ("ir", "infrared")
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\D*$")


def read(folder: str | Path, board: Board, sizes: tuple[Intrinsics, Intrinsics], unit: float = 0.001) -> list[Pair]:
    """The views of a folder that show the board in colour.

    Args:
        folder: See above.
        board: Looked for.
        sizes: Intrinsics of colour and depth: images must be of their sizes.
        unit: Metres of one step of the depth images.

    Raises:
        DeviceError: There is no such folder.
        InputError: A part is missing, two of its files have one number, an image is damaged, of another size, or
            mirrored; no view shows the board.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DeviceError(f"'{folder}' is no folder: give one with colour/ and depth/")
    colour, depth, infrared = _numbered(folder, COLOUR), _numbered(folder, DEPTH), _numbered(folder, INFRARED)
    for names, found in ((COLOUR, colour), (DEPTH, depth)):
        if not found:
            raise InputError(f"'{folder}' has no pictures in {names[0]}/: expected colour/, depth/ and, if any, ir/")
    both = sorted(set(colour) & set(depth))
    if not both:
        raise InputError(f"'{folder}': no picture in colour/ has the number of one in depth/: name them alike")
    pairs: list[Pair] = []
    for number in both:
        seen = board.detect(_sized(colour[number], read_file(colour[number]).colour, sizes[0]))
        if seen is None:
            continue
        values = _sized(depth[number], read_depth(depth[number], unit), sizes[1])
        in_infrared = None
        if number in infrared:
            in_infrared = board.detect(_sized(infrared[number], read_infrared(infrared[number]), sizes[1]))
        pairs.append(Pair(colour[number].name, seen, values, in_infrared))
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
        driver: A name in `actrec.capture.DRIVERS`; its depth is registered to colour.
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
    with capture.create(driver, **options) as camera:
        for frame in _frames(camera, driver):
            name = f"view {len(pairs) + 1}"
            if collector.look(Picture(name, frame.stamp_ns, frame.colour)) and collector.detection is not None:
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
        driver: A name in `actrec.capture.DRIVERS`; its depth is registered to colour.
        options: Its settings.
        board: Looked for.
        count: Of frames.

    Raises:
        DeviceError: There is no such camera, or it stopped.
        InputError: It gives no depth; none of the frames shows the board.
    """
    pairs: list[Pair] = []
    with capture.create(driver, **options) as camera:
        for number, frame in enumerate(itertools.islice(_frames(camera, driver), count), 1):
            if (seen := board.detect(frame.colour)) is not None:
                pairs.append(Pair(f"frame {number}", seen, frame.depth))
        told = camera.calibration()
    if not pairs:
        raise InputError(f"no frame of {count} shows the board: check --kind, --columns and --rows, and what it sees")
    return told, pairs


def _frames(camera: Camera, driver: str) -> Iterator[Any]:
    """A camera's frames to the end, each with colour and depth."""
    while True:
        try:
            frame = camera.read(READ_TIMEOUT_S)
        except EndOfStream:
            return
        if frame.colour is None or frame.depth is None:
            raise InputError(f"driver {driver} gives no colour and depth here: choose a camera that has both")
        yield frame


def read_depth(path: Path, unit: float) -> np.ndarray:
    """[H, W] float32 metres of a 16-bit image, NaN where it is 0.

    Raises:
        InputError: It is damaged, or of 8 bit.
    """
    image = image_files.read(path, cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16 or image.ndim != 2:
        raise InputError(f"'{path}' is no 16-bit depth image: save depth as 16-bit PNG (millimetres)")
    return np.where(image > 0, image * np.float32(unit), np.float32(np.nan)).astype(np.float32)


def read_infrared(path: Path) -> np.ndarray:
    """[H, W] uint8, stretched to what can be seen where it has 16 bit.

    Raises:
        InputError: It is damaged.
    """
    image = image_files.read(path, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise InputError(f"'{path}' is no picture that can be read: take it out of the folder or copy it again")
    grey = image.mean(axis=2) if image.ndim == 3 else image.astype(np.float64)
    return np.round(grey).astype(np.uint8) if image.dtype == np.uint8 else visible(grey)


def _numbered(folder: Path, names: tuple[str, ...]) -> dict[float, Path]:
    place = next((folder / name for name in names if (folder / name).is_dir()), None)
    found: dict[float, Path] = {}
    for path in files(place) if place else []:
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
