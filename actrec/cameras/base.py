"""What every camera driver offers.

When recorded frames are due, and stamps for them that only grow.
"""

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
        config: What it was built to.
        skipped: Frames left out since it was opened because the reader came too late, where the driver can tell.
        paced: Whether frames come at their own pace; false if they come as fast as they are read.
        serial: The device's serial number, once open; empty if it has none.
        live: Whether a stream that broke off is worth opening again; opening a recording again would start it over.
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
        """Do slow work that needs no device, so that subscribers do not wait for it after opening."""
        return

    @abstractmethod
    def open(self) -> None:
        """Start the stream.

        Raises:
            DeviceError: There is no such camera or recording, with the remedy.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop the stream; safe to call twice, and while another thread reads, which soon gets a frame or an error."""

    @abstractmethod
    def read(self, timeout_s: float = 1.0) -> RgbdFrame:
        """Return the next frame; blocks until it is due.

        Raises:
            EndOfStream: The recording has ended.
            DeviceError: No frame within `timeout_s`.
        """

    def calibration(self) -> CameraFiles:
        """Return the calibration of the frames; valid once open. The depth camera's pose may be unknown: None."""
        return CameraFiles(self.serial, self.intrinsics)

    def figures(self) -> dict[str, float | int]:
        """Return the driver's figures for the node's diagnostics: delays in ms, dropped frames and their causes."""
        return {}

    @property
    @abstractmethod
    def intrinsics(self) -> Intrinsics:
        """Intrinsics of the images that `read` returns; valid once open."""


_DEFAULT_PERIOD_NS = 33_333_333

_SET_NS = 3600 * 1_000_000_000
"""No recording pauses for as long: there its clock was set, as a robot's that starts in 1970 and find the network."""


class Pace:
    """Follows recorded stamps, which may jump, and turns them into due times and growing stamps.

    Where the recorded clock was set, back or on by more than an hour, and where a loop starts over, one frame period is
    put.

    Attributes:
        stamps_back: Frames whose recorded stamp was before the one preceding it.

    Args:
        rate: Recorded seconds a second; 0 makes every frame due at once.
    """

    def __init__(self, rate: float):
        self.stamps_back = 0
        self._rate = rate
        self._growing: int | None = None  # the newest stamp given
        self._period = _DEFAULT_PERIOD_NS
        self.restart()

    def restart(self) -> None:
        """After a seek: the next frame is due now."""
        self._last: int | None = None
        self._anchor: float | None = None
        self._played_ns = 0  # recorded time since the anchor
        self._passes = 0

    def due(self, stamp: int, passes: int = 0) -> float:
        """When (time.monotonic) the frame recorded at `stamp`, in pass number `passes`, is due."""
        if self._rate == 0 or self._anchor is None:
            return time.monotonic()
        return self._anchor + (self._played_ns + self._step(stamp, passes)) / (self._rate * 1e9)

    def advance(self, stamp: int, passes: int = 0) -> int:
        """Return the frame goes out now; returns its growing stamp, nanoseconds since the epoch."""
        step = self._step(stamp, passes)
        if self._last is not None and passes == self._passes:
            self.stamps_back += stamp < self._last
            self._period = step or self._period
        self._last, self._passes = stamp, passes
        self._played_ns += step
        if self._anchor is None:
            self._anchor = time.monotonic()
            now = time.time_ns()
            step = max(now, (self._growing or 0) + self._period) - (self._growing or 0)
        self._growing = (self._growing or 0) + step
        return self._growing

    def _step(self, stamp: int, passes: int) -> int:
        """Return recorded time from the newest frame to this one, never negative."""
        if self._last is None:
            return 0
        step = stamp - self._last
        return step if 0 <= step <= _SET_NS and passes == self._passes else self._period
