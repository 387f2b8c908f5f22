"""The camera driver that plays recordings: bags, folders of images, videos, skeleton files."""

import threading
import time
from dataclasses import dataclass, fields
from typing import Any

from actrec.capture.base import Camera
from actrec.capture.pace import Pace
from actrec.config import build, setting
from actrec.errors import ConfigError, DeviceError
from actrec.frames import Intrinsics, RgbdFrame
from actrec.recordings import FORMATS, Recording, open_recording
from actrec.recordings.ahead import DecodeAhead, StoppedError
from actrec.recordings.base import RecordingConfig


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


class ReplayCamera(Camera):
    """Plays a recording as if it were a camera. Frames are decoded ahead on a thread of its own.

    With `restamp` the stamps start at the current time, keep the recorded intervals and never go back: where the
    recording's clock was set, back or on by more than an hour, and where a loop starts over, one frame period is put.
    Without it they pass as recorded, jumps and all.

    Attributes:
        frames_read: Frames that `read` returned.
        loops: Times it started over since it was opened or sought in.

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
        self._lock = threading.Lock()  # held while the decoder is exchanged

    @property
    def paced(self) -> bool:  # type: ignore[override]
        """False where the rate is 0."""
        return self.config.rate > 0

    @property
    def stamps_back(self) -> int:
        """Frames whose recorded stamp was before the one preceding it."""
        return self._pace.stamps_back

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
        """Stops decoding and closes the file; safe to call twice, and while another thread reads."""
        with self._lock:
            recording, self._recording = self._recording, None
            if self._decoder is not None:
                self._decoder.stop()
                self._decoder = None
            if recording is not None:
                recording.close()

    def seek(self, seconds: float) -> None:
        """Goes on with the first frame at or after `seconds` from the recording's start.

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
        """The next frame, when it is due; a gap in the recording is waited for, up to an hour.

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
            raise DeviceError(
                f"the replay of '{self.config.path}' is not open: call open() or use it in a with statement"
            )
        return self._recording
