"""Videos without depth, through PyAV: playback, decoding for datasets, and folders of color images as videos."""

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
from actrec.types import NANOSECONDS, RgbdFrame
from actrec.utils import calibration_files, files
from actrec.utils.errors import InputError

NTU_HFOV_DEG = 84.1
"""Kinect v2 color camera (1920×1080), with which NTU RGB+D was recorded."""

_AVI = "avi"

_TRUNCATED_S = 1.0
"""A file whose frames end earlier than its header states by more is truncated; sound may last a little longer."""

_NTU_NAME = re.compile(r"S\d{3}C\d{3}P\d{3}R\d{3}A\d{3}_rgb")

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp"})

_NUMBER = re.compile(r"(\d+)")


@dataclass(frozen=True)
class VideoInfo:
    """Length, frame rate and size of a video.

    Attributes:
        frames: Number of frames.
        fps: Frame rate in Hz; 0 if unknown.
        size: Width and height as displayed, px.
    """

    frames: int
    fps: float
    size: tuple[int, int]


def open_video(path: Path) -> Any:
    """Return the PyAV container of a video file, a context manager.

    Raises:
        InputError: The file is not a video, or is truncated before its first frame.
    """
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"'{path}' is truncated or not a video that FFmpeg reads: {_one_line(error)}") from error
    if not container.streams.video:
        container.close()
        raise InputError(f"'{path}' holds no video stream")
    # Worker processes decode on one thread each: more would oversubscribe the cores.
    is_main = multiprocessing.parent_process() is None
    container.streams.video[0].thread_type = "AUTO" if is_main else "NONE"
    return container


def read_video_info(path: Path) -> VideoInfo:
    """Return length, frame rate and size of a video file; the frames are counted.

    Raises:
        InputError: The file is not a video, is truncated, or holds no frame.
    """
    with open_video(path) as container:
        stream = container.streams.video[0]
        first = next(decode_frames(path, container), None)
        if first is None:
            raise InputError(f"'{path}' holds no frame: it is truncated; copy it again")
        size = (first.height, first.width) if _quarter_turns(first) % 2 else (first.width, first.height)
        rate = float(stream.average_rate or 0)
    with open_video(path) as container:  # counted without decoding; discarded packets are never displayed
        try:
            count = sum(
                1 for packet in container.demux(container.streams.video[0]) if packet.size and not packet.is_discard
            )
        except av.error.FFmpegError as error:
            raise InputError(f"'{path}' is corrupt or truncated: {_one_line(error)}") from error
    return VideoInfo(count, rate, size)


def measure_duration_s(path: Path) -> float:
    """Return the seconds from the first frame to the last by their stamps, for a file without a duration in its header.

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


def decode_frames(path: Path, container: Any) -> Iterator[Any]:
    """Yield every decoded frame of an open container, in display order.

    Raises:
        InputError: The file is corrupt or truncated.
    """
    try:
        yield from container.decode(video=0)
    except av.error.FFmpegError as error:
        raise InputError(f"'{path}' is corrupt or truncated: {_one_line(error)}") from error


def decode_avi_frames(path: Path, container: Any) -> Iterator[tuple[int, Any]]:
    """Yield (frame index, frame) of an open AVI, which has no stamps but one slot for each tick of its clock.

    Slots are empty if the camera dropped frames. Slots are in file order, also for B-frames, which are stored in
    another order than displayed.

    Raises:
        InputError: The file is corrupt or truncated.
    """
    slots: deque[int] = deque()
    last, first = -1, None
    try:
        for packet in container.demux(container.streams.video[0]):
            if packet.size:
                last = last + 1 if packet.dts is None else packet.dts
                slots.append(last)
            for frame in packet.decode():
                slot = slots.popleft() if slots else last
                first = slot if first is None else first
                yield slot - first, frame
    except av.error.FFmpegError as error:
        raise InputError(f"'{path}' is corrupt or truncated: {_one_line(error)}") from error


def to_rgb(frame: Any, mirror: bool = False, size: tuple[int, int] | None = None) -> np.ndarray:
    """Convert a decoded frame to [H, W, 3] uint8 RGB, upright.

    Args:
        frame: A frame from `decode_frames`.
        mirror: Whether to flip it horizontally.
        size: Width and height to scale it to; None keeps its size.
    """
    turns = _quarter_turns(frame)  # phones store upright video rotated
    if size is None:
        image = frame.to_ndarray(format="rgb24")
    else:
        width, height = size[::-1] if turns % 2 else size
        scaled = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
        image = scaled.to_ndarray()
    if turns:
        image = np.rot90(image, turns)
    return np.ascontiguousarray(image[:, ::-1] if mirror else image)


def _quarter_turns(frame: Any) -> int:
    return round(frame.rotation / 90) % 4


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class VideoRecording(Recording):
    """Playback of a video file; `fps` replaces its stamps.

    An NTU RGB+D `_rgb.avi` is mirrored, so it is flipped back, and its field of view is known. Any other video needs
    the option intrinsics or `hfov_deg`.

    Args:
        path: The file.
        config: Options.

    Raises:
        DeviceError: The file does not exist.
        InputError: It is not a video, or its intrinsics are unknown.
    """

    def __init__(self, path: str | Path, config: RecordingConfig):
        super().__init__(existing(path), config)
        ntu = bool(_NTU_NAME.fullmatch(self.path.stem))
        self._mirror = config.mirror == "yes" or (config.mirror == "auto" and ntu)
        with open_video(self.path) as container:
            stream = container.streams.video[0]
            self._rate = float(stream.average_rate or 0)
            ticks = container.duration  # in µs; None if unknown
            if ticks:
                self._duration = ticks / av.time_base
            else:
                counted = stream.frames and self._rate
                self._duration = stream.frames / self._rate if counted else measure_duration_s(self.path)
            if config.fps and self._rate:
                self._duration *= self._rate / config.fps
            from_azure_kinect = _is_from_azure_kinect(container)
            first = self._image(next(decode_frames(self.path, container), None))
        height, width = first.shape[:2]
        if ntu and not (config.intrinsics or config.hfov_deg):
            log.warning("'%s': assuming the Kinect v2's field of view of %g degrees", self.path, NTU_HFOV_DEG)
            self.intrinsics = calibration_files.from_hfov(width, height, NTU_HFOV_DEG)
        else:
            self.intrinsics = base.resolve_intrinsics(self.path, config, width, height)
        kind = "a video without depth"
        if from_azure_kinect:
            kind = "from an Azure Kinect; to get its depth, use driver azure_kinect with its option recording"
        log.warning("'%s' is %s", self.path, kind)

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the last, by the container, or at the given frame rate."""
        return self._duration

    def frames(self, start_s: float = 0.0) -> Iterator[RgbdFrame]:
        """Yield every frame from `start_s` after the first."""
        with open_video(self.path) as container:
            seconds, shown = 0.0, 0.0
            for seconds, frame in self._timed_frames(container, start_s):
                if seconds >= start_s - 1e-6:
                    yield RgbdFrame(round(seconds * NANOSECONDS), self._image(frame), None, self.intrinsics)
                shown = _shown(frame)
            if not self.config.fps:
                self._check_end(container, seconds, shown)

    def _timed_frames(self, container: Any, start_s: float) -> Iterator[tuple[float, Any]]:
        """Yield (seconds from the first, frame) of an open file, from `start_s` or somewhat earlier."""
        stream, rate = container.streams.video[0], self.config.fps or self._rate or 30.0
        if container.format.name == _AVI:  # FFmpeg's stamps are not monotonic with B-frames
            for index, frame in decode_avi_frames(self.path, container):
                yield index / rate, frame
            return
        stamped = not self.config.fps and stream.time_base
        if start_s > 1.0 and stamped:  # seek to the key frame before
            container.seek(round((start_s - 0.5) * av.time_base), backward=True)
        origin = (stream.start_time or 0) * stream.time_base if stream.time_base else 0
        for index, frame in enumerate(decode_frames(self.path, container)):
            own = stamped and frame.pts is not None
            yield float(frame.pts * frame.time_base - origin) if own else index / rate, frame

    def _check_end(self, container: Any, seconds: float, shown: float) -> None:
        """Warn if the frames end long before the file's stated duration; FFmpeg stops at damaged data.

        Args:
            container: The open file.
            seconds: Time from the first frame to the last.
            shown: Display time of the last frame, which may be long for a slow camera.
        """
        stated = _stated(container)
        if stated > seconds + shown + _TRUNCATED_S:
            log.warning(
                "'%s' ends at %.1f s of its stated %.1f s: it is truncated or damaged; copy it again",
                self.path,
                seconds,
                stated,
            )

    def _image(self, frame: Any) -> np.ndarray:
        if frame is None:
            raise InputError(f"'{self.path}' holds no frame: it is truncated; copy it again")
        return to_rgb(frame, self._mirror)


def _is_from_azure_kinect(container: Any) -> bool:
    """Return whether k4arecorder wrote the file, by the tags of the file or its tracks."""
    return any(tag.upper().startswith("K4A_") for each in (container, *container.streams) for tag in each.metadata)


def _shown(frame: Any) -> float:
    """Return the display time of a frame in s; 0 if unknown."""
    duration = getattr(frame, "duration", None)  # missing in older PyAV
    return float(duration * frame.time_base) if duration and frame.time_base else 0.0


def _stated(container: Any) -> float:
    """Return the stated duration of the frames in s; 0 if unknown, or for an AVI, which estimates it."""
    if container.format.name == _AVI:
        return 0.0
    stream = container.streams.video[0]
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # Matroska counts from 0, not from the first frame.
    return max((container.duration or 0) - max(container.start_time or 0, 0), 0) / av.time_base


def image_files(folder: Path, suffixes: frozenset[str] = IMAGE_SUFFIXES) -> list[Path]:
    """Return the images in a folder in natural order (10 after 9), without hidden files such as macOS's `._1.png`."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith(".")]
    return sorted(found, key=lambda path: [int(t) if t.isdigit() else t for t in _NUMBER.split(path.name)])


def read_folder_info(folder: Path) -> VideoInfo:
    """Return number and size of the images in a folder; the frame rate is unknown.

    Raises:
        InputError: There are none, or the first is corrupt.
    """
    found = image_files(folder)
    if not found:
        raise InputError(f"'{folder}' holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); copy it again")
    height, width = _read(found[0]).shape[:2]
    return VideoInfo(len(found), 0.0, (width, height))


def check_numbering(folder: Path) -> None:
    """Refuse a gap in the images' numbers, after which images would get the wrong stamps.

    For a folder with fewer images than expected.

    Raises:
        InputError: There is a gap; the message names the images beside it.
    """
    found = image_files(folder)
    numbers = [_NUMBER.findall(path.stem) for path in found]
    if len(found) < 3 or any(len(each) != 1 for each in numbers):  # another numbering
        return
    steps = np.diff([int(each[0]) for each in numbers])
    wrong = np.flatnonzero(steps != np.bincount(steps).argmax())
    if len(wrong):
        before, after = (found[wrong[0] + k].name for k in (0, 1))
        raise InputError(f"'{folder}' lacks images between '{before}' and '{after}'; copy it again")


def read_folder_images(
    folder: Path, wanted: np.ndarray, head: VideoInfo, mirror: bool = False, size: tuple[int, int] | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index, [H, W, 3] uint8 RGB) of some images of a folder.

    Args:
        folder: The folder.
        wanted: Indices from 0; no other image is read.
        head: Info of the folder.
        mirror: Whether to flip them horizontally.
        size: Width and height to scale them to; None keeps their size.

    Raises:
        InputError: An image is corrupt, or of another size than the first.
    """
    found = image_files(folder)
    for number in wanted:
        image = _read(found[number])
        if (image.shape[1], image.shape[0]) != head.size:
            sizes = f"{image.shape[1]}×{image.shape[0]}, the first {head.size[0]}×{head.size[1]}"
            raise InputError(f"'{found[number]}' is {sizes}; put each video into its own folder")
        image = image if size is None else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        yield int(number), np.ascontiguousarray(image[:, ::-1] if mirror else image)


def _read(path: Path) -> np.ndarray:
    image = files.read_image(path, cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"'{path}' is truncated or not an image; copy it again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
