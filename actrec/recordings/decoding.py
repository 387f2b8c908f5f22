"""Pictures of a video file, through PyAV: what recordings and datasets share."""

import multiprocessing
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from actrec.errors import InputError


@dataclass(frozen=True)
class VideoHead:
    """What a video file says of itself, no picture decoded.

    Attributes:
        frames: Pictures stored, counted.
        fps: Frames per second; 0 where the file does not say.
        size: Width and height as shown, px.
    """

    frames: int
    fps: float
    size: tuple[int, int]


def open_video(path: Path) -> Any:
    """The PyAV container of a video file, a context manager.

    Raises:
        InputError: It is no video, or is truncated before its first picture.
    """
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"'{path}' is no video that FFmpeg reads, or is truncated: {_one_line(error)}") from error
    if not container.streams.video:
        container.close()
        raise InputError(f"'{path}' holds no video stream")
    # A worker among workers decodes on one thread, or the machine has as many threads as the square of its cores.
    alone = multiprocessing.parent_process() is None
    container.streams.video[0].thread_type = "AUTO" if alone else "NONE"
    return container


def read_head(path: Path) -> VideoHead:
    """Length, rate and size of a video file.

    Raises:
        InputError: It is no video, is truncated, or holds no picture.
    """
    with open_video(path) as container:
        stream = container.streams.video[0]
        first = next(pictures(path, container), None)
        if first is None:
            raise InputError(f"'{path}' holds no frame: it is truncated; copy it again")
        size = (first.height, first.width) if _turns(first) % 2 else (first.width, first.height)
        rate = float(stream.average_rate or 0)
    with open_video(path) as container:  # packets, counted from the start; what was trimmed away is never shown
        try:
            count = sum(
                1 for packet in container.demux(container.streams.video[0]) if packet.size and not packet.is_discard
            )
        except av.error.FFmpegError as error:
            raise InputError(f"'{path}' is corrupt or truncated: {_one_line(error)}") from error
    return VideoHead(count, rate, size)


def length_s(path: Path) -> float:
    """Seconds from the first picture to the last by their stamps, where the file does not say: one streamed to disk.

    Raises:
        InputError: The file is corrupt or truncated.
    """
    with open_video(path) as container:
        stream = container.streams.video[0]
        try:
            stamps = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
        except av.error.FFmpegError as error:
            raise InputError(f"'{path}' is corrupt or truncated: {_one_line(error)}") from error
        return float((max(stamps) - min(stamps)) * stream.time_base) if stamps else 0.0


def pictures(path: Path, container: Any) -> Iterator[Any]:
    """Every picture of an open container, decoded, as it is shown one after the other.

    Raises:
        InputError: The file is corrupt or truncated.
    """
    try:
        yield from container.decode(video=0)
    except av.error.FFmpegError as error:
        raise InputError(f"'{path}' is corrupt or truncated: {_one_line(error)}") from error


def placed_pictures(path: Path, container: Any) -> Iterator[tuple[int, Any]]:
    """(place, picture) of an open AVI, which has no stamps but a place for a picture at each tick of its clock.

    Places are left empty where a camera dropped pictures or was slower than the clock, and picture by picture they
    follow each other as the file holds them, though it holds B-frames in another order than they are shown in.

    Raises:
        InputError: The file is corrupt or truncated.
    """
    places: deque[int] = deque()
    last, first = -1, None
    try:
        for packet in container.demux(container.streams.video[0]):
            if packet.size:
                last = last + 1 if packet.dts is None else packet.dts
                places.append(last)
            for picture in packet.decode():
                place = places.popleft() if places else last
                first = place if first is None else first
                yield place - first, picture
    except av.error.FFmpegError as error:
        raise InputError(f"'{path}' is corrupt or truncated: {_one_line(error)}") from error


def rgb(picture: Any, mirror: bool = False, size: tuple[int, int] | None = None) -> np.ndarray:
    """[H, W, 3] uint8 RGB of a decoded picture, upright.

    Args:
        picture: One of `pictures`.
        mirror: Exchange left and right.
        size: Width and height to scale it to; None keeps its own.
    """
    turns = _turns(picture)  # a phone's upright video is stored lying
    if size is None:
        image = picture.to_ndarray(format="rgb24")
    else:
        width, height = size[::-1] if turns % 2 else size
        scaled = picture.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
        image = scaled.to_ndarray()
    if turns:
        image = np.rot90(image, turns)
    return np.ascontiguousarray(image[:, ::-1] if mirror else image)


def _turns(picture: Any) -> int:
    return round(picture.rotation / 90) % 4


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
