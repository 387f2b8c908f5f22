"""Plain video through PyAV: color, no depth.

Pictures of a video file, through PyAV: what recordings and datasets share.

A folder of color pictures, one a frame, that stands for a video.
"""

import multiprocessing
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from actrec.recordings import base
from actrec.recordings.base import Recording, RecordingConfig, existing, log
from actrec.types import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils import calibration_files, files
from actrec.utils.errors import InputError


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


NTU_HFOV_DEG = 84.1
"""Of the Kinect v2's 1920×1080 color camera, with which NTU RGB+D was recorded."""

_AVI = "avi"

_CUT_S = 1.0
"""A file whose pictures end by more before their stated end is cut off; sound may last a little longer."""

_NTU_NAME = re.compile(r"S\d{3}C\d{3}P\d{3}R\d{3}A\d{3}_rgb")


class VideoRecording(Recording):
    """Plays a video file; `fps` replaces its stamps.

    An NTU RGB+D `_rgb.avi` is turned back from its mirroring, so that the person's left is theirs, and its camera's
    field of view is known. For any other video the intrinsics or `hfov_deg` must be given.

    Args:
        path: The file.
        config: Options.

    Raises:
        DeviceError: There is no such file.
        InputError: It is no video, or its intrinsics are not known.
    """

    def __init__(self, path: str | Path, config: RecordingConfig):
        super().__init__(existing(path), config)
        ntu = bool(_NTU_NAME.fullmatch(self.path.stem))
        self._mirror = config.mirror == "yes" or (config.mirror == "auto" and ntu)
        with open_video(self.path) as container:
            stream = container.streams.video[0]
            self._rate = float(stream.average_rate or 0)
            ticks = container.duration  # microseconds; None where the container does not say
            if ticks:
                self._duration = ticks / av.time_base
            else:
                counted = stream.frames and self._rate
                self._duration = stream.frames / self._rate if counted else length_s(self.path)
            if config.fps and self._rate:
                self._duration *= self._rate / config.fps
            of_azure_kinect = _is_of_azure_kinect(container)
            first = self._image(next(pictures(self.path, container), None))
        height, width = first.shape[:2]
        if ntu and not (config.intrinsics or config.hfov_deg):
            log.warning("'%s': assuming the Kinect v2's field of view of %g degrees", self.path, NTU_HFOV_DEG)
            self._intrinsics = calibration_files.from_hfov(width, height, NTU_HFOV_DEG)
        else:
            self._intrinsics = base.resolve(self.path, config, width, height)
        kind = "a video without depth: frames come without it"
        if of_azure_kinect:
            kind = "of an Azure Kinect: its depth comes with driver azure_kinect and its option recording, not here"
        log.warning("'%s' is %s", self.path, kind)

    @property
    def intrinsics(self) -> Intrinsics:
        """Intrinsics of the images."""
        return self._intrinsics

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the last, as the container says, or at the rate that was given."""
        return self._duration

    def frames(self, start_s: float = 0.0) -> Iterator[RgbdFrame]:
        """Every frame from `start_s` after the first."""
        with open_video(self.path) as container:
            seconds, shown = 0.0, 0.0
            for seconds, picture in self._timed(container, start_s):
                if seconds >= start_s - 1e-6:
                    yield RgbdFrame(round(seconds * NANOSECONDS), self._image(picture), None, self._intrinsics)
                shown = _shown(picture)
            if not self.config.fps:
                self._check_end(container, seconds, shown)

    def _timed(self, container: Any, start_s: float) -> Iterator[tuple[float, Any]]:
        """(seconds from the first, picture) of an open file, from `start_s` or somewhat earlier on."""
        stream, rate = container.streams.video[0], self.config.fps or self._rate or 30.0
        if container.format.name == _AVI:  # the stamps that FFmpeg makes up go to and fro where there are B-frames
            for place, picture in placed_pictures(self.path, container):
                yield place / rate, picture
            return
        stamped = not self.config.fps and stream.time_base
        if start_s > 1.0 and stamped:  # seeks to the key frame before, decodes on from there
            container.seek(round((start_s - 0.5) * av.time_base), backward=True)
        origin = (stream.start_time or 0) * stream.time_base if stream.time_base else 0
        for index, picture in enumerate(pictures(self.path, container)):
            own = stamped and picture.pts is not None
            yield float(picture.pts * picture.time_base - origin) if own else index / rate, picture

    def _check_end(self, container: Any, seconds: float, shown: float) -> None:
        """Says so where the pictures end long before the file says; FFmpeg takes damage for the end.

        Args:
            container: The open file.
            seconds: From the first picture to the last.
            shown: Seconds for which the last is shown: many, of a slow camera.
        """
        stated = _stated(container)
        if stated > seconds + shown + _CUT_S:
            log.warning(
                "'%s' ends at %.1f s of the %.1f s that it states: it is cut off or damaged there; copy it again",
                self.path,
                seconds,
                stated,
            )

    def _image(self, picture: Any) -> np.ndarray:
        if picture is None:
            raise InputError(f"'{self.path}' holds no frame: it is truncated; copy it again")
        return rgb(picture, self._mirror)


def _is_of_azure_kinect(container: Any) -> bool:
    """Whether k4arecorder wrote it, by the tags that it leaves on the file or its tracks."""
    return any(tag.upper().startswith("K4A_") for each in (container, *container.streams) for tag in each.metadata)


def _shown(picture: Any) -> float:
    """Seconds for which a picture is shown; 0 where neither file nor PyAV says."""
    duration = getattr(picture, "duration", None)  # older ones have none
    return float(duration * picture.time_base) if duration and picture.time_base else 0.0


def _stated(container: Any) -> float:
    """Seconds that the pictures last by what the file says of itself; 0 where it does not, or an AVI guesses."""
    if container.format.name == _AVI:
        return 0.0
    stream = container.streams.video[0]
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # Matroska counts from 0, not from the first picture.
    return max((container.duration or 0) - max(container.start_time or 0, 0), 0) / av.time_base


SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp"})

_NUMBER = re.compile(r"(\d+)")


def image_files(folder: Path, suffixes: frozenset[str] = SUFFIXES) -> list[Path]:
    """The pictures, in the order of the numbers in their names: 10 comes after 9, however they are written.

    Hidden files are none: a Mac puts a `._1.png` beside each 1.png on a disk that is not its own.
    """
    found = [path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith(".")]
    return sorted(found, key=lambda path: [int(t) if t.isdigit() else t for t in _NUMBER.split(path.name)])


def read_folder_head(folder: Path) -> VideoHead:
    """Number and size of the pictures; their rate is not known.

    Raises:
        InputError: There are none, or the first is corrupt.
    """
    found = image_files(folder)
    if not found:
        raise InputError(f"'{folder}' holds no pictures ({', '.join(sorted(SUFFIXES))}); copy it again")
    height, width = _read(found[0]).shape[:2]
    return VideoHead(len(found), 0.0, (width, height))


def check_numbers(folder: Path) -> None:
    """Refuses a gap in the pictures' numbers: all after it would be taken for earlier ones.

    For a folder that has not as many as there should be; a camera that lost frames leaves gaps too.

    Raises:
        InputError: There is one; names the pictures beside it.
    """
    found = image_files(folder)
    numbers = [_NUMBER.findall(path.stem) for path in found]
    if len(found) < 3 or any(len(each) != 1 for each in numbers):  # numbered otherwise: nobody can tell
        return
    steps = np.diff([int(each[0]) for each in numbers])
    wrong = np.flatnonzero(steps != np.bincount(steps).argmax())
    if len(wrong):
        before, after = (found[wrong[0] + k].name for k in (0, 1))
        raise InputError(f"'{folder}' lacks pictures between '{before}' and '{after}': copy it again")


def folder_images(
    folder: Path, wanted: np.ndarray, head: VideoHead, mirror: bool = False, size: tuple[int, int] | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """(number from 0, [H, W, 3] uint8 RGB) of the pictures `wanted`; no other is read.

    Args:
        folder: Of the pictures.
        wanted: Numbers.
        head: Of the folder.
        mirror: Exchange left and right.
        size: Width and height to scale them to; None keeps theirs.

    Raises:
        InputError: A picture is corrupt, or of another size than the first.
    """
    found = image_files(folder)
    for number in wanted:
        image = _read(found[number])
        if (image.shape[1], image.shape[0]) != head.size:
            sizes = f"{image.shape[1]}×{image.shape[0]}, the first {head.size[0]}×{head.size[1]}"
            raise InputError(f"'{found[number]}' is {sizes}: they are of different videos")
        image = image if size is None else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        yield int(number), np.ascontiguousarray(image[:, ::-1] if mirror else image)


def _read(path: Path) -> np.ndarray:
    image = files.read_image(path, cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"'{path}' is truncated or no picture; copy it again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
