"""The interface of camera drivers, and the pace of recorded frames."""

import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from actrec.types import Intrinsics, RgbdFrame
from actrec.utils.calibration_files import CameraFiles

_Self = TypeVar("_Self", bound="Camera")


class Camera(ABC):
    """A source of registered RGB-D frames, used as a context manager.

    `with create("simulated") as camera: frame = camera.read(timeout_s=1.0)`

    Attributes:
        config_class: The settings dataclass that the constructor builds from its options; `camera_node` declares its
            fields as parameters `<driver>.<field>`.
        config: The settings.
        skipped: Frames dropped since opening because the reader was late, if the driver can count them.
        paced: Whether frames come at their own pace; false if they come as fast as they are read.
        serial: Serial number of the device, once open; empty if it has none.
        live: Whether to open a broken stream again; a recording would start over.
    """

    config_class: ClassVar[type]
    config: Any
    live: ClassVar[bool] = True
    skipped: int = 0
    paced: bool = True
    serial: str = ""

    def __enter__(self: _Self) -> _Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def prepare(self) -> None:
        """Do slow work that needs no device, before opening."""
        return

    @abstractmethod
    def open(self) -> None:
        """Start the stream.

        Raises:
            DeviceError: There is no such camera or recording.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop the stream; safe to call twice. A read in another thread soon returns or raises."""

    @abstractmethod
    def read(self, timeout_s: float = 1.0) -> RgbdFrame:
        """Return the next frame; block until it is due.

        Raises:
            EndOfStream: The recording has ended.
            DeviceError: No frame within `timeout_s`.
        """

    def calibration(self) -> CameraFiles:
        """Return the calibration of the frames; valid once open. An unknown part is None."""
        return CameraFiles(self.serial, self.intrinsics)

    def figures(self) -> dict[str, float | int]:
        """Return statistics for the diagnostics: delays in ms, dropped frames by cause."""
        return {}

    @property
    @abstractmethod
    def intrinsics(self) -> Intrinsics:
        """Intrinsics of the images that `read` returns; valid once open."""


_DEFAULT_PERIOD_NS = 33_333_333
_LONGEST_PAUSE_NS = 3600 * 1_000_000_000
"""A longer step means that the recording clock was set, e.g. after a robot without network time went online."""


class Pace:
    """Due times and increasing stamps of recorded frames, whose own stamps may jump.

    A step backwards, a step of more than an hour and the start of a loop count as one frame period.

    Attributes:
        stamps_back: Frames with an earlier recorded stamp than the frame before.

    Args:
        rate: Recorded seconds per second; 0 makes every frame due at once.
    """

    def __init__(self, rate: float):
        self.stamps_back = 0
        self._rate = rate
        self._newest = 0  # the latest stamp returned
        self._period = _DEFAULT_PERIOD_NS
        self.restart()

    def restart(self) -> None:
        """Make the next frame due now, as after a seek."""
        self._last: int | None = None
        self._anchor: float | None = None
        self._played_ns = 0  # recorded time since the anchor
        self._passes = 0

    def due(self, stamp: int, passes: int = 0) -> float:
        """Return the `time.monotonic` at which the frame recorded at `stamp` in loop number `passes` is due."""
        if self._rate == 0 or self._anchor is None:
            return time.monotonic()
        return self._anchor + (self._played_ns + self._step(stamp, passes)) / (self._rate * 1e9)

    def advance(self, stamp: int, passes: int = 0) -> int:
        """Return the stamp of a frame that is delivered now, nanoseconds since the epoch."""
        step = self._step(stamp, passes)
        if self._last is not None and passes == self._passes:
            self.stamps_back += stamp < self._last
            self._period = step or self._period
        self._last, self._passes = stamp, passes
        self._played_ns += step
        if self._anchor is None:
            self._anchor = time.monotonic()
            self._newest = max(time.time_ns(), self._newest + self._period)
        else:
            self._newest += step
        return self._newest

    def _step(self, stamp: int, passes: int) -> int:
        """Return the recorded time from the previous frame to this one, at least 0."""
        if self._last is None:
            return 0
        step = stamp - self._last
        return step if 0 <= step <= _LONGEST_PAUSE_NS and passes == self._passes else self._period
