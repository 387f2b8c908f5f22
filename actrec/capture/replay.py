"""The camera driver that plays recordings: bags, folders of images, videos, skeleton files."""

import logging
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from actrec.capture.base import Camera
from actrec.config import build, setting
from actrec.errors import ConfigError, DeviceError, EndOfStream, InputError
from actrec.frames import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.recordings import FORMATS, Recording, open_recording
from actrec.recordings.base import RecordingConfig

log = logging.getLogger("actrec.capture.replay")

DECODE_AHEAD = 4
"""Frames decoded before they are due."""
_DEFAULT_PERIOD_NS = 33_333_333


@dataclass(frozen=True)
class ReplayConfig(RecordingConfig):
    """Settings of `ReplayCamera`."""

    path: str = setting("", "The recording: a bag, a folder of colour and depth, a video, a skeleton file")
    format: str = setting("auto", "Format of the recording", choices=("auto", *FORMATS.names()))
    rate: float = setting(
        1.0, "Pace: 1 as recorded, 2 twice as fast, 0 as fast as frames are taken", range=(0.0, 1000.0)
    )
    loop: bool = setting(False, "Starts over at the end")
    start_s: float = setting(0.0, "Where to start, from the recording's first frame", unit="s", range=(0.0, 1e9))
    duration_s: float = setting(0.0, "How much to play; 0 plays to the end", unit="s", range=(0.0, 1e9))
    restamp: bool = setting(
        True, "Stamps frames from now on with the recorded intervals; false keeps the recorded stamps"
    )


@dataclass(frozen=True)
class _Item:
    """A decoded frame, the end of a pass (frame and error None), or what went wrong."""

    frame: RgbdFrame | None = None
    error: Exception | None = None


class ReplayCamera(Camera):
    """Plays a recording as if it were a camera. Frames are decoded ahead on a thread of its own.

    With `restamp` the stamps start at the current time, keep the recorded intervals and never go back: where the
    recording's clock was set back, and where a loop starts over, one frame period is put. Without it they pass as
    recorded, jumps and all.

    Attributes:
        frames_read: Frames that `read` returned.
        loops: Times it started over.
        stamps_back: Frames whose recorded stamp was before the one preceding it.

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
        self.frames_read, self.loops, self.stamps_back = 0, 0, 0
        self._recording: Recording | None = None
        self._items: queue.Queue[_Item] = queue.Queue(maxsize=DECODE_AHEAD)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._pending: RgbdFrame | None = None
        self._clock = _Clock(self.config.rate)

    @property
    def intrinsics(self) -> Intrinsics:
        """Intrinsics of the images; valid once open."""
        return self._opened().intrinsics

    @property
    def length_s(self) -> float:
        """Seconds that the recording lasts, as far as its format tells; valid once open."""
        return self._opened().duration_s

    def open(self) -> None:
        """Opens the recording and starts decoding.

        Raises:
            DeviceError: There is no such recording.
            InputError: It is corrupt or lacks what its frames need.
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
        """Stops decoding and closes the file; safe to call twice."""
        self._halt()
        if self._recording is not None:
            self._recording.close()
            self._recording = None

    def seek(self, seconds: float) -> None:
        """Goes on with the first frame at or after `seconds` from the recording's start.

        Raises:
            ConfigError: The recording is shorter.
        """
        recording = self._opened()
        if not 0 <= seconds <= max(recording.duration_s, 0.0):
            raise ConfigError(
                f"cannot start '{self.config.path}' at {seconds:g} s: it lasts {recording.duration_s:.2f} s"
            )
        self._halt()
        self._stop.clear()
        self._clock.restart()
        self._thread = threading.Thread(target=self._decode, args=(recording, seconds), name="replay", daemon=True)
        self._thread.start()

    def read(self, timeout_s: float = 1.0) -> RgbdFrame:
        """The next frame, when it is due.

        Raises:
            EndOfStream: The recording has ended and `loop` is off.
            DeviceError: No frame is due within `timeout_s` (a gap in the recording, or a slow disk); read again.
            InputError: The recording is corrupt from here on.
        """
        self._opened()
        give_up = time.monotonic() + timeout_s
        if self._pending is None:
            self._pending = self._next(timeout_s)
        due = self._clock.due(self._pending.stamp_ns)
        if due > give_up:
            self._stop.wait(max(0.0, give_up - time.monotonic()))
            raise DeviceError(
                f"no frame of '{self.config.path}' is due within {timeout_s:g} s: the next comes in "
                f"{max(0.0, due - time.monotonic()):.1f} s; read again or with a longer timeout"
            )
        self._stop.wait(max(0.0, due - time.monotonic()))
        frame, self._pending = self._pending, None
        stamp = self._clock.pass_frame(frame.stamp_ns)
        self.stamps_back = self._clock.stamps_back
        if self.config.restamp:
            frame.stamp_ns = stamp
        self.frames_read += 1
        return frame

    def _opened(self) -> Recording:
        if self._recording is None:
            raise DeviceError(
                f"the replay of '{self.config.path}' is not open: call open() or use it in a with statement"
            )
        return self._recording

    def _next(self, timeout_s: float) -> RgbdFrame:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                item = self._items.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise DeviceError(
                    f"no frame of '{self.config.path}' within {timeout_s:g} s: its disk or decoder is too slow"
                ) from None
            if item.frame is not None:
                return item.frame
            if item.error is not None:
                self._items.put(item)  # every further read says the same
                raise item.error
            self.loops += 1
            self._clock.start_over()

    def _decode(self, recording: Recording, start_s: float) -> None:
        """Runs on the thread: frames of one pass after another into the queue, then the end."""
        try:
            while True:
                count = 0
                for frame in self._excerpt(recording, start_s):
                    count += 1
                    if not self._put(_Item(frame)):
                        return
                if count == 0:
                    raise InputError(f"'{self.config.path}' has no frame from {start_s:g} s on")
                if not self.config.loop:
                    raise EndOfStream(f"'{self.config.path}' has ended")
                start_s = self.config.start_s
                if not self._put(_Item()):
                    return
        except Exception as error:  # handed to the reader, who raises it
            self._put(_Item(error=error))

    def _excerpt(self, recording: Recording, start_s: float) -> Iterator[RgbdFrame]:
        played, last = 0, None
        for frame in recording.frames(start_s):
            played += max(0, frame.stamp_ns - last) if last is not None else 0
            if self.config.duration_s and played >= self.config.duration_s * NANOSECONDS:
                return
            last = frame.stamp_ns
            yield frame

    def _put(self, item: _Item) -> bool:
        while not self._stop.is_set():
            try:
                self._items.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _halt(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._items = queue.Queue(maxsize=DECODE_AHEAD)
        self._pending = None


class _Clock:
    """Turns recorded stamps into stamps that only grow, and into when each frame is due.

    Args:
        rate: Recorded seconds a second; 0 makes every frame due at once.
    """

    def __init__(self, rate: float):
        self.stamps_back = 0
        self._rate = rate
        self._restamped: int | None = None  # of the newest frame passed on
        self.restart()

    def restart(self) -> None:
        """After a seek: the next frame is due now."""
        self._last: int | None = None
        self._period = _DEFAULT_PERIOD_NS
        self._media_ns = 0  # recorded time passed since the anchor
        self._anchor: float | None = None
        self._over = False

    def start_over(self) -> None:
        """The recording loops: one period separates its last frame from its first."""
        self._over = True

    def _step(self, stamp: int) -> int:
        """Recorded time from the newest frame to this one, never negative."""
        if self._last is None:
            return 0
        step = stamp - self._last
        return step if step >= 0 and not self._over else self._period

    def due(self, stamp: int) -> float:
        """When (time.monotonic) the frame recorded at `stamp` is due."""
        now = time.monotonic()
        if self._rate == 0 or self._anchor is None:
            return now
        return self._anchor + (self._media_ns + self._step(stamp)) / (self._rate * NANOSECONDS)

    def pass_frame(self, stamp: int) -> int:
        """Notes that the frame goes out; returns its stamp of the growing kind, nanoseconds since the epoch."""
        step = self._step(stamp)
        if self._last is not None and not self._over:
            if stamp < self._last:
                self.stamps_back += 1
            elif stamp > self._last:
                self._period = stamp - self._last
        self._over = False
        self._last = stamp
        self._media_ns += step
        if self._anchor is None:
            self._anchor = time.monotonic()
            now = time.time_ns()
            self._restamped = now if self._restamped is None else max(now, self._restamped + self._period)
        else:
            self._restamped = (self._restamped or 0) + step
        return self._restamped
