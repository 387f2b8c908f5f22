"""Camera driver that plays recordings: bags, folders of images, videos, skeleton files."""

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from actrec.cameras.base import Camera, Pace
from actrec.recordings import FORMATS, Recording, RecordingConfig, detect_format, open_recording
from actrec.types import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils.config import build, setting
from actrec.utils.errors import ActrecError, ConfigError, DeviceError, EndOfStream, InputError
from actrec.utils.folders import expanded

FRAMES_AHEAD = 4

_WAKE_S = 0.1


class Decoder:
    """Decoder thread that keeps up to `FRAMES_AHEAD` frames ready, so that a slow frame does not delay playback.

    Attributes:
        recording: The recording, which only this thread reads.
        loops: Number of restarts of the recording so far.
        stopped: Set by `close`.

    Args:
        recording: The open recording.
        start_s: Start of each loop, s from the first frame.
        duration_s: Duration of a loop in recorded time, s; 0 plays to the end.
        loop: Whether to start over at the end.
    """

    def __init__(self, recording: Recording, start_s: float, duration_s: float, loop: bool):
        self.loops = 0
        self.stopped = threading.Event()
        self.recording, self._start_s, self._loop = recording, start_s, loop
        self._duration_ns = round(duration_s * NANOSECONDS)
        self._items: queue.Queue[RgbdFrame | Exception | None] = queue.Queue(FRAMES_AHEAD)  # None: the next loop starts
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)
        self._thread.start()

    def next(self, timeout_s: float) -> RgbdFrame:
        """Return the next frame, or raise as `Camera.read`; after the end, every further call raises EndOfStream."""
        deadline = time.monotonic() + timeout_s
        while self._error is None:
            try:
                item = self._items.get(timeout=min(_WAKE_S, max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                if self.stopped.is_set():
                    raise DeviceError(f"the replay of '{self.recording.path}' was closed during a read") from None
                if time.monotonic() >= deadline:
                    raise DeviceError(
                        f"no frame of '{self.recording.path}' within {timeout_s:g} s: use a faster disk or wait longer"
                    ) from None
                continue
            if isinstance(item, RgbdFrame):
                return item
            self._error = item
            self.loops += item is None
        raise self._error

    def close(self) -> None:
        """Stop decoding, wake waiting readers, and close the recording."""
        self.stopped.set()
        self._thread.join()
        self.recording.close()

    def _run(self) -> None:
        try:
            while not self.stopped.is_set():
                empty = True
                for frame in self._frames_of_loop():
                    empty = False
                    if not self._put(frame):
                        return
                if empty:
                    raise InputError(f"'{self.recording.path}' has no frame after {self._start_s:g} s: lower start_s")
                if not self._loop:
                    raise EndOfStream(f"'{self.recording.path}' has ended")
                self._put(None)
        except DeviceError as error:  # a reader would take it for a frame that is late, and read on without end
            self._put(InputError(str(error)))
        except Exception as error:  # raised in the reading thread
            self._put(error)

    def _frames_of_loop(self) -> Iterator[RgbdFrame]:
        pace = Pace(rate=0.0)  # counts a clock that was set as playback does
        first: int | None = None
        for frame in self.recording.frames(self._start_s):
            played_ns = pace.advance(frame.stamp_ns)
            first = played_ns if first is None else first
            if self._duration_ns and played_ns - first >= self._duration_ns:
                return
            yield frame

    def _put(self, item: RgbdFrame | Exception | None) -> bool:
        """Queue an item; return False if the decoder was stopped."""
        while not self.stopped.is_set():
            try:
                self._items.put(item, timeout=_WAKE_S)
                return True
            except queue.Full:
                continue
        return False


@dataclass(frozen=True)
class ReplayConfig(RecordingConfig):
    """Settings of `ReplayCamera`."""

    path: str = setting("", "Path of a bag, a folder of color and depth, a video or a skeleton file")
    format: str = setting("auto", "Format of the recording", choices=("auto", *FORMATS.names()))
    rate: float = setting(
        1.0, "Speed: 1 as recorded, 2 twice as fast, 0 as fast as frames are read", range=(0.0, 1000.0)
    )
    loop: bool = setting(False, "Start over at the end")
    start_s: float = setting(0.0, "Start time, from the first frame of the recording", unit="s", range=(0.0, 1e9))
    duration_s: float = setting(0.0, "Duration to play; 0 plays to the end", unit="s", range=(0.0, 1e9))
    restamp: bool = setting(
        True, "Stamp frames from the current time with the recorded intervals; false keeps the recorded stamps"
    )


class ReplayCamera(Camera):
    """Camera that plays a recording; options: `ReplayConfig`.

    With `restamp`, stamps start at the current time, keep the recorded intervals and always increase (see `Pace`).
    Without it, frames keep the recorded stamps, jumps included.

    Raises:
        ConfigError: An option is unknown, out of range, or `path` is missing.
    """

    config_class = ReplayConfig
    live = False

    def __init__(self, **options: Any):
        self.config: ReplayConfig = build(ReplayConfig, options)
        self.paced = self.config.rate > 0
        if not self.config.path:
            raise ConfigError("the replay driver needs a recording: set its option path")
        self._has_color = True
        with contextlib.suppress(ActrecError, ImportError):  # raised by `open`
            self._has_color, self.has_depth = self._find_contents()
        self._decoder: Decoder | None = None
        self._pace = Pace(self.config.rate)

    @property
    def intrinsics(self) -> Intrinsics:
        """Intrinsics of the images; valid once open."""
        return self._opened().recording.intrinsics

    @property
    def has_color(self) -> bool:
        """Whether the recording has images; true if it cannot be read, which `open` reports."""
        return self._has_color

    def _kind(self) -> str:
        return detect_format(self.config.path) if self.config.format == "auto" else self.config.format

    def _find_contents(self) -> tuple[bool, bool]:
        """Return whether frames have images, and whether they may have depth."""
        kind, path = self._kind(), expanded(self.config.path)
        has_color, has_depth = kind != "skeleton", kind != "video"
        if kind == "folder":
            from actrec.recordings import image_folder  # needs OpenCV

            has_depth = image_folder.has_depth(path)
        elif kind == "bag":
            from actrec.recordings.rosbag import image_bag  # needs rosbags

            has_color, has_depth = image_bag.contents(path, self.config)
        return has_color, has_depth and self.config.depth_topic != "none"

    def open(self) -> None:
        """Open the recording and start decoding."""
        if self._decoder is not None:
            return
        c = self.config
        options = {field.name: getattr(c, field.name) for field in fields(RecordingConfig)}
        recording = open_recording(c.path, RecordingConfig(**options), c.format)
        if c.start_s > recording.duration_s:
            recording.close()
            raise ConfigError(f"cannot start '{c.path}' at {c.start_s:g} s: it lasts {recording.duration_s:.2f} s")
        self._pace.restart()
        self._decoder = Decoder(recording, c.start_s, c.duration_s, c.loop)

    def close(self) -> None:
        """Stop decoding and close the file; safe to call twice, and while another thread reads."""
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            decoder.close()

    def read(self, timeout_s: float = 1.0) -> RgbdFrame:
        """Return the next frame when it is due; this waits through gaps of up to an hour."""
        decoder = self._opened()
        frame = decoder.next(timeout_s)
        if decoder.stopped.wait(max(0.0, self._pace.due(frame.stamp_ns, decoder.loops) - time.monotonic())):
            raise DeviceError(f"the replay of '{self.config.path}' was closed during a read")
        stamp = self._pace.advance(frame.stamp_ns, decoder.loops)
        if self.config.restamp:
            frame.stamp_ns = stamp
        return frame

    def _opened(self) -> Decoder:
        if self._decoder is None:
            raise DeviceError(f"the replay of '{self.config.path}' is not open: call open() or use a with statement")
        return self._decoder
