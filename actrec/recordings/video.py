"""Videos without depth, through PyAV: playback, decoding for datasets, and previews of RGB-D frames."""

import errno
import functools
import multiprocessing
import re
import shlex
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.logging
import cv2
import numpy as np

from actrec.recordings import Recording, RecordingConfig, existing_path, log, resolve_intrinsics
from actrec.recordings.image_folder import VideoInfo, write_errors
from actrec.types import NANOSECONDS, RgbdFrame
from actrec.utils.calibration_files import from_hfov
from actrec.utils.errors import InputError

NTU_HFOV_DEG = 84.1
"""Horizontal field of view of the Kinect v2's color camera (1920×1080), which recorded NTU RGB+D."""

_AVI_FORMAT = "avi"
_TRUNCATED_S = 1.0  # a file is truncated if its frames end earlier than stated by more; sound may last a little longer
_NTU_NAME = re.compile(r"S\d{3}C\d{3}P\d{3}R\d{3}A\d{3}_rgb")
_ENCODERS = ("libx264", "libopenh264")  # of H.264, which browsers play
_TICK_S = Fraction(1, 30000)  # fits 24, 25, 29.97, 30, 50 and 60 Hz; MPEG-4 allows at most 65,535 ticks a second
_PREVIEW_RANGE = 6.0  # m, from red to blue


def open_video(path: Path) -> Any:
    """Return the PyAV container of a video file, a context manager.

    Raises:
        InputError: The file is not a video, is truncated before its first frame, or FFmpeg cannot decode its codec.
    """
    try:
        container = av.open(str(path.absolute()))  # FFmpeg takes the text before a colon for a protocol
    except (av.error.FFmpegError, OSError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise InputError(f"'{path}' is truncated or not a video that FFmpeg reads: {cause}") from error
    if not container.streams.video:
        container.close()
        raise InputError(f"'{path}' holds no video stream")
    if container.streams.video[0].codec_context is None:  # PyAV 14.1 crashes if it decodes such a stream
        with container:
            raise _cannot_decode(path, container)
    # Worker processes decode on one thread each, or they would oversubscribe the cores.
    is_main = multiprocessing.parent_process() is None
    container.streams.video[0].thread_type = "AUTO" if is_main else "NONE"
    return container


def _cannot_decode(path: Path, container: Any) -> InputError:
    """Return the error for a codec without a decoder; its name is only in FFmpeg's description of the file."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    described = re.search(r"Video: (\w+)(?:[^,]*\((\w{4}) /)?", container.dumps_format())
    av.logging.set_level(level)
    name, tag = described.groups() if described else ("none", None)
    codec = tag or "that is unknown" if name == "none" else name
    files = [shlex.quote(str(file)) for file in (path, path.with_name(f"{path.stem}_h264.mp4"))]
    return InputError(
        f"'{path}' has a codec, {codec}, that the FFmpeg of PyAV {av.__version__} cannot decode; "
        f"convert it on a computer that plays it: ffmpeg -i {files[0]} -c:v libx264 {files[1]}"
    )


@contextmanager
def _ffmpeg_errors(path: Path, container: Any) -> Iterator[None]:
    """Convert errors of FFmpeg to an `InputError` that names the file."""
    try:
        yield
    except av.error.FFmpegError as error:
        missing = isinstance(error, (av.error.DecoderNotFoundError, av.error.PatchWelcomeError))
        if missing or error.errno == errno.ENOSYS:  # AV1 without hardware
            raise _cannot_decode(path, container) from error
        raise InputError(f"'{path}' is corrupt or truncated: {' '.join(str(error).split())}") from error


def read_video_info(path: Path) -> VideoInfo:
    """Return length, frame rate and size of a video file; the frames are counted.

    Raises:
        InputError: The file is not a video, is truncated, or holds no frame.
    """
    with open_video(path) as container:
        stream = container.streams.video[0]
        first = _first_frame(path, container)
        size = (first.height, first.width) if _quarter_turns(first) % 2 else (first.width, first.height)
        rate = float(stream.average_rate or 0)
    # Counted without decoding; discarded packets are never displayed.
    with open_video(path) as container, _ffmpeg_errors(path, container):
        packets = container.demux(container.streams.video[0])
        count = sum(1 for packet in packets if packet.size and not packet.is_discard)
    return VideoInfo(count, rate, size)


def decode_frames(path: Path, container: Any) -> Iterator[Any]:
    """Yield every decoded frame of an open container, in display order.

    Raises:
        InputError: The file is corrupt or truncated, or FFmpeg cannot decode it.
    """
    with _ffmpeg_errors(path, container):
        yield from container.decode(video=0)


def _first_frame(path: Path, container: Any) -> Any:
    first = next(decode_frames(path, container), None)
    if first is None:
        raise InputError(f"'{path}' holds no frame: it is truncated; copy it again")
    return first


def to_rgb(frame: Any, mirror: bool = False, size: tuple[int, int] | None = None) -> np.ndarray:
    """Convert a decoded frame to [H, W, 3] uint8 RGB, upright, mirrored or scaled to `size` (width, height)."""
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


def scaled_size(width: int, height: int, edge: int) -> tuple[int, int]:
    """Return width and height of an image scaled to this longest edge, in its aspect within half a pixel."""
    ratio = edge / max(width, height)
    return max(round(width * ratio), 1), max(round(height * ratio), 1)


class VideoRecording(Recording):
    """Playback of a video file; `fps` replaces its stamps.

    An NTU RGB+D `_rgb.avi` is mirrored, so it is flipped back, and its field of view is known. For any other video
    without the option `intrinsics` or `hfov_deg`, a typical field of view is assumed, with a warning.

    Raises:
        DeviceError: The file does not exist.
        InputError: It is not a video.
    """

    def __init__(self, path: str | Path, config: RecordingConfig):
        super().__init__(existing_path(path), config)
        ntu = bool(_NTU_NAME.fullmatch(self.path.stem))
        self._mirror = config.mirror == "yes" or (config.mirror == "auto" and ntu)
        source = "a video without depth"
        with open_video(self.path) as container:
            stream = container.streams.video[0]
            self._rate = float(stream.average_rate or 0)
            self.duration_s = container.duration / av.time_base if container.duration else self._measured_duration()
            if config.fps and self._rate:
                self.duration_s *= self._rate / config.fps
            tags = (tag.upper() for each in (container, *container.streams) for tag in each.metadata)
            if any(tag.startswith("K4A_") for tag in tags):
                source = "from an Azure Kinect; to get its depth, use driver azure_kinect with its option recording"
            height, width = to_rgb(_first_frame(self.path, container)).shape[:2]
        if ntu and not (config.intrinsics or config.hfov_deg):
            log.warning("'%s': assuming the Kinect v2's field of view of %g degrees", self.path, NTU_HFOV_DEG)
            self.intrinsics = from_hfov(width, height, NTU_HFOV_DEG)
        else:
            self.intrinsics = resolve_intrinsics(self.path, config, width, height, estimate=True)
        if config.mirror == "yes" and config.intrinsics:  # of the mirrored images
            self.intrinsics = self.intrinsics.mirrored()
        edge = config.max_edge
        self._size = None if not 0 < edge < max(width, height) else scaled_size(width, height, edge)
        if self._size is not None:
            self.intrinsics = self.intrinsics.resized(*self._size)
        log.warning("'%s' is %s", self.path, source)

    def _measured_duration(self) -> float:
        """Return the seconds from the first frame to the last by their stamps, for a file that states no duration."""
        with open_video(self.path) as container, _ffmpeg_errors(self.path, container):
            stream = container.streams.video[0]
            stamps = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
            return float((max(stamps) - min(stamps)) * stream.time_base) if stamps else 0.0

    def _frames(self, start_s: float) -> Iterator[RgbdFrame]:
        with open_video(self.path) as container:
            seconds, last_duration = 0.0, 0.0
            for seconds, frame in self._timed_frames(container, start_s):
                if seconds >= start_s - 1e-6:
                    image = to_rgb(frame, self._mirror, self._size)
                    yield RgbdFrame(round(seconds * NANOSECONDS), image, None, self.intrinsics)
                # The last frame of a slow camera may be displayed long. Older PyAV has no duration.
                duration = getattr(frame, "duration", None)
                last_duration = float(duration * frame.time_base) if duration and frame.time_base else 0.0
            # FFmpeg stops at damaged data.
            stated = 0.0 if self.config.fps else _stated_duration(container)
            if stated > seconds + last_duration + _TRUNCATED_S:
                text = "'%s' ends at %.1f s of its stated %.1f s: it is truncated or damaged; copy it again"
                self._warn_once(text, self.path, seconds, stated)

    def _timed_frames(self, container: Any, start_s: float) -> Iterator[tuple[float, Any]]:
        """Yield (seconds from the first, frame) of an open file, from `start_s` or somewhat earlier."""
        stream, rate = container.streams.video[0], self.config.fps or self._rate or 30.0
        if container.format.name == _AVI_FORMAT:
            for index, frame in _avi_frames(self.path, container):
                yield index / rate, frame
            return
        stamped = not self.config.fps and stream.time_base
        if start_s > 1.0 and stamped:  # seek to the key frame before
            container.seek(round((start_s - 0.5) * av.time_base), backward=True)
        origin = (stream.start_time or 0) * stream.time_base if stream.time_base else 0
        for index, frame in enumerate(decode_frames(self.path, container)):
            has_stamp = stamped and frame.pts is not None
            yield float(frame.pts * frame.time_base - origin) if has_stamp else index / rate, frame


def _avi_frames(path: Path, container: Any) -> Iterator[tuple[int, Any]]:
    """Yield (slot, frame) of an open AVI, which has no stamps, but one slot per tick of its clock.

    Slots are empty if the camera dropped frames. They are in file order, also for B-frames, which are stored in another
    order than displayed; FFmpeg's own stamps are not monotonic then.
    """
    slots: deque[int] = deque()
    last, first = -1, None
    with _ffmpeg_errors(path, container):
        for packet in container.demux(container.streams.video[0]):
            if packet.size:
                last = last + 1 if packet.dts is None else packet.dts
                slots.append(last)
            for frame in packet.decode():
                slot = slots.popleft() if slots else last
                first = slot if first is None else first
                yield slot - first, frame


def _stated_duration(container: Any) -> float:
    """Return the stated duration of the frames in s; 0 if unknown, or for an AVI, which estimates it."""
    if container.format.name == _AVI_FORMAT:
        return 0.0
    stream = container.streams.video[0]
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # Matroska counts from 0, not from the first frame.
    return max((container.duration or 0) - max(container.start_time or 0, 0), 0) / av.time_base


class VideoWriter:
    """Writer of a video of stamped images: H.264 if the FFmpeg of PyAV can encode it, else MPEG-4.

    Attributes:
        codec: Name of the encoder; empty before the first image.

    Raises:
        DeviceError: The file cannot be written; `write` and `close` raise it too.
    """

    def __init__(self, file: Path):
        remedy = "choose another file such as preview.mp4 or free disk space"
        self._write_errors = functools.partial(write_errors, file, ValueError, av.error.FFmpegError, remedy=remedy)
        with self._write_errors():
            file.parent.mkdir(parents=True, exist_ok=True)
            self._container: Any = av.open(str(file.absolute()), "w")
            file.open("ab").close()  # fail early: PyAV opens the file only with the first packet
        self._stream: Any = None
        self._first_ns, self._last_tick = 0, -1
        self.codec = ""

    def write(self, image: np.ndarray, stamp_ns: int) -> None:
        """Append an image [H, W, 3] uint8 RGB at its stamp; a stamp that does not increase counts as a little later.

        The size of the first image is the video's; an odd edge is cut by one pixel.
        """
        if self._stream is None:
            self._add_stream(image.shape[1] & ~1, image.shape[0] & ~1)
            self._first_ns = stamp_ns
        tick = max(round((stamp_ns - self._first_ns) / NANOSECONDS / _TICK_S), self._last_tick + 1)
        self._last_tick = tick
        even = image[: self._stream.height, : self._stream.width]
        video = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        video.pts, video.time_base = tick, _TICK_S
        with self._write_errors():
            self._container.mux(self._stream.encode(video))

    def close(self) -> None:
        """Finish the file; safe to call twice."""
        container, self._container = self._container, None
        if container is not None:
            with self._write_errors():
                if self._stream is not None:
                    container.mux(self._stream.encode())
                container.close()

    def _add_stream(self, width: int, height: int) -> None:
        self.codec = next((name for name in _ENCODERS if name in av.codecs_available), "mpeg4")
        # Without B-frames: FFmpeg states a wrong duration if a gap precedes a reordered frame.
        options = {"preset": "veryfast", "bf": "0"} if self.codec == "libx264" else {}
        with self._write_errors():
            self._stream = self._container.add_stream(self.codec, rate=30, options=options)
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
            self._stream.codec_context.time_base = _TICK_S
            if self.codec == "mpeg4":  # its default of 0.2 Mbit/s suits stamps
                self._stream.bit_rate = 4 * width * height


class PreviewWriter:
    """Writer of a video: color on the left, depth on the right.

    Raises:
        DeviceError: The file cannot be written; `add` and `close` raise it too.
    """

    def __init__(self, file: Path):
        self._writer = VideoWriter(file)

    def add(self, frame: RgbdFrame, actions: dict[str, str]) -> None:
        """Append one frame; the labels of its bodies are not used."""
        assert frame.color is not None and frame.depth is not None
        gray = np.nan_to_num(frame.depth / _PREVIEW_RANGE * 255, nan=0).clip(0, 255).astype(np.uint8)
        depth = cv2.cvtColor(cv2.applyColorMap(255 - gray, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
        depth[np.isnan(frame.depth)] = 0
        self._writer.write(np.hstack([frame.color, depth]), frame.stamp_ns)

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
