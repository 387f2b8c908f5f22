"""Camera driver that plays recordings: bags, folders of images, videos, skeleton files."""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from actrec.cameras.base import Camera, Pace
from actrec.recordings import FORMATS, open_recording
from actrec.recordings.base import Recording, RecordingConfig
from actrec.types import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils.config import build, setting
from actrec.utils.errors import ConfigError, DeviceError, EndOfStream, InputError

FRAMES_AHEAD = 4

_WAKE_S = 0.1


class StoppedError(Exception):
    """The decoder was stopped during a read."""


@dataclass(frozen=True)
class _Item:
    """A decoded frame or an error; with neither, the start of the next loop."""

    frame: RgbdFrame | None = None
    error: Exception | None = None


class DecodeAhead:
    """Decoder thread that keeps some frames ready, so that a slow frame does not break the pace.

    Attributes:
        passes: Number of restarts among the frames read.

    Args:
        recording: The recording; only this thread reads it until `stop`.
        first_s: Start of the first pass.
        start_s: Start of each further pass.
        duration_s: Duration of a pass in recorded time; 0 for all.
        loop: Whether to start over at the end.
    """

    def __init__(self, recording: Recording, first_s: float, start_s: float, duration_s: float, loop: bool):
        self.passes = 0
        self.stopped = threading.Event()
        self._recording = recording
        self._starts = first_s, start_s
        self._duration_ns = round(duration_s * NANOSECONDS)
        self._loop = loop
        self._items: queue.Queue[_Item] = queue.Queue(maxsize=FRAMES_AHEAD)
        self._next: RgbdFrame | None = None
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)
        self._thread.start()

    def peek(self, timeout_s: float) -> RgbdFrame:
        """Return the next frame; `take` removes it.

        Raises:
            EndOfStream: The recording has ended; every further call raises it too.
            DeviceError: None was decoded within `timeout_s`.
            StoppedError: The decoder was stopped.
            InputError: The recording is corrupt from here on.
        """
        deadline = time.monotonic() + timeout_s
        while self._next is None:
            if self._failed is not None:
                raise self._failed
            try:
                item = self._items.get(timeout=min(_WAKE_S, max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                if self.stopped.is_set():
                    raise StoppedError from None
                if time.monotonic() >= deadline:
                    raise DeviceError(
                        f"no frame of '{self._recording.path}' within {timeout_s:g} s: the disk or decoder is too slow"
                    ) from None
                continue
            self._next, self._failed = item.frame, item.error
            self.passes += item.frame is None and item.error is None
        return self._next

    def take(self) -> None:
        """Remove the frame that `peek` returned."""
        self._next = None

    def stop(self) -> None:
        """Stop decoding and wake waiting readers."""
        self.stopped.set()
        self._thread.join()

    def _run(self) -> None:
        start_s, again = self._starts
        try:
            while True:
                count = 0
                for frame in self._excerpt(start_s):
                    count += 1
                    if not self._put(_Item(frame)):
                        return
                if count == 0:
                    raise InputError(f"'{self._recording.path}' has no frame from {start_s:g} s on")
                if not self._loop:
                    raise EndOfStream(f"'{self._recording.path}' has ended")
                start_s = again
                if not self._put(_Item()):
                    return
        except Exception as error:  # raised in the reading thread
            self._put(_Item(error=error))

    def _excerpt(self, start_s: float) -> Iterator[RgbdFrame]:
        played, last = 0, None
        for frame in self._recording.frames(start_s):
            played += max(0, frame.stamp_ns - last) if last is not None else 0
            if self._duration_ns and played >= self._duration_ns:
                return
            last = frame.stamp_ns
            yield frame

    def _put(self, item: _Item) -> bool:
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
    """Camera that plays a recording.

    With `restamp`, stamps start at the current time, keep the recorded intervals and always increase (see `Pace`).
    Without it, frames keep the recorded stamps, jumps included.

    Attributes:
        frames_read: Frames that `read` returned.
        loops: Number of restarts since opening or seeking.

    Args:
        options: Fields of `ReplayConfig`.

    Raises:
        ConfigError: An option is unknown, out of range, or `path` is missing.
    """

    config_class = ReplayConfig
    live = False

    def __init__(self, **options: Any):
        self.config: ReplayConfig = build(ReplayConfig, options)
        if not self.config.path:
            raise ConfigError("the replay driver needs a recording: set its option path")
        self.frames_read, self.loops = 0, 0
        self._recording: Recording | None = None
        self._decoder: DecodeAhead | None = None
        self._pace = Pace(self.config.rate)
        self._lock = threading.Lock()  # held while the decoder is replaced

    @property
    def paced(self) -> bool:  # type: ignore[override]
        """False if the rate is 0."""
        return self.config.rate > 0

    @property
    def stamps_back(self) -> int:
        """Frames with an earlier recorded stamp than the frame before."""
        return self._pace.stamps_back

    @property
    def intrinsics(self) -> Intrinsics:
        """Intrinsics of the images; valid once open."""
        return self._opened().intrinsics

    @property
    def length_s(self) -> float:
        """Duration of the recording in seconds, if its format has one; valid once open."""
        return self._opened().duration_s

    def open(self) -> None:
        """Open the recording and start decoding.

        Raises:
            DeviceError: There is no such recording.
            InputError: It is corrupt or lacks data.
            ConfigError: An option does not fit it.
        """
        if self._recording is not None:
            return
        options = {field.name: getattr(self.config, field.name) for field in fields(RecordingConfig)}
        self._recording = open_recording(self.config.path, RecordingConfig(**options), self.config.format)
        try:
            self.seek(self.config.start_s)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop decoding and close the file; safe to call twice, and while another thread reads."""
        with self._lock:
            recording, self._recording = self._recording, None
            if self._decoder is not None:
                self._decoder.stop()
                self._decoder = None
            if recording is not None:
                recording.close()

    def seek(self, seconds: float) -> None:
        """Continue at the first frame at or after `seconds` from the start of the recording.

        Raises:
            ConfigError: The recording is shorter.
        """
        recording, config = self._opened(), self.config
        if not 0 <= seconds <= recording.duration_s:
            raise ConfigError(f"cannot start '{config.path}' at {seconds:g} s: it lasts {recording.duration_s:.2f} s")
        with self._lock:
            if self._decoder is not None:
                self._decoder.stop()
            self._pace.restart()
            self._decoder = DecodeAhead(recording, seconds, config.start_s, config.duration_s, config.loop)

    def read(self, timeout_s: float = 1.0) -> RgbdFrame:
        """Return the next frame when it is due; this waits through gaps of up to an hour.

        Raises:
            EndOfStream: The recording has ended and `loop` is off.
            DeviceError: No frame was decoded within `timeout_s`, or another thread closed the camera.
            InputError: The recording is corrupt from here on.
        """
        while True:
            with self._lock:
                self._opened()
                decoder = self._decoder
            assert decoder is not None  # an open recording has one
            try:
                frame = decoder.peek(timeout_s)
            except StoppedError:
                continue
            if not decoder.stopped.wait(max(0.0, self._pace.due(frame.stamp_ns, decoder.passes) - time.monotonic())):
                break
        decoder.take()
        stamp = self._pace.advance(frame.stamp_ns, decoder.passes)
        if self.config.restamp:
            frame.stamp_ns = stamp
        self.loops = decoder.passes
        self.frames_read += 1
        return frame

    def _opened(self) -> Recording:
        if self._recording is None:
            raise DeviceError(f"the replay of '{self.config.path}' is not open: call open() or use a with statement")
        return self._recording
