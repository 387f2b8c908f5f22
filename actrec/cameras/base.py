"""Interface of camera drivers, mapping of device clocks to system time, and pace of recordings."""

import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from actrec.types import NANOSECONDS, Intrinsics, RgbdFrame
from actrec.utils import calibration_files
from actrec.utils.calibration_files import COLOR, DEPTH, CameraFiles
from actrec.utils.config import setting
from actrec.utils.errors import DeviceError
from actrec.utils.gravity import GravityFilter

logger = logging.getLogger(__name__)

_Self = TypeVar("_Self", bound="Camera")

_PERIOD_NS = 33_333_333  # of a recording until its first interval is known
RESET_NS = NANOSECONDS  # a larger jump of a device's clock is a reset, of the system's a setting
_MEAN_WEIGHT = 0.05  # of a new frame in the running means

_LONGEST_PAUSE_NS = 3600 * NANOSECONDS
"""A longer step means that the clock was set while recording, e.g. when a robot received network time."""

_OFFSET_WINDOW_NS = 10 * NANOSECONDS
"""Window for a clock's offset. It is long enough to contain a frame without delay; a drift of 50 ppm adds 0.5 ms."""

MAX_REJECTED = 500
"""Samples in a row that are not gravity, from which on there is a warning: 5 s at 100 Hz."""


class Camera(ABC):
    """A source of registered RGB-D frames, used as a context manager.

    `with create("simulated") as camera: frame = camera.read(timeout_s=1.0)`

    Attributes:
        config_class: The settings dataclass that the constructor builds from its options; `camera_node` declares its
            fields as parameters `<driver>.<field>`.
        skipped: Frames dropped since opening because the reader was late; 0 if the driver cannot count them.
        has_depth: Whether frames may have depth; false for a source of color alone.
        paced: Whether frames come at their own pace; false if they come as fast as they are read.
        serial: Serial number of the device, once open; empty if it has none.
        live: Whether a broken stream is opened again; false for a recording, which would start over.
    """

    config_class: ClassVar[type]
    config: Any
    live: bool = True
    has_depth: bool = True
    skipped: int = 0
    paced: bool = True
    serial: str = ""

    def __enter__(self: _Self) -> _Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def has_color(self) -> bool:
        """Whether frames may have color; false for a recording of joints alone."""
        return True

    @property
    def ends(self) -> bool:
        """Whether the frames end by themselves, so that the first ones matter as much as later ones."""
        return not self.live

    def prepare(self) -> None:
        """Do slow work that needs no device, before opening."""
        return

    @abstractmethod
    def open(self) -> None:
        """Start the stream.

        Raises:
            DeviceError: There is no such camera or recording, or it does not start.
            ConfigError: The camera or recording does not support an option, or there are several cameras.
            InputError: The recording or a calibration file is damaged, or does not fit.
            MissingLibraryError: A library of the vendor is not installed.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop the stream; safe to call twice. A read in another thread soon returns or raises."""

    @abstractmethod
    def read(self, timeout_s: float = 1.0) -> RgbdFrame:
        """Return the next frame; block until it is due.

        Raises:
            EndOfStream: The recording has ended.
            DeviceError: No frame within `timeout_s`, or another thread closed the camera.
            InputError: The recording is damaged from here on.
        """

    def calibration(self) -> CameraFiles:
        """Return the calibration of the frames; valid once open. An unknown part is None."""
        return CameraFiles(self.serial, self.intrinsics)

    def actions_at(self, stamp_ns: int) -> dict[str, str]:
        """Return what each person does at a stamp, by body id, if the source has this ground truth; else nothing."""
        return {}

    def figures(self) -> dict[str, float | int]:
        """Return statistics for the diagnostics by name: delays in ms, numbers of dropped frames by cause."""
        return {}

    @property
    @abstractmethod
    def intrinsics(self) -> Intrinsics:
        """Intrinsics of the images that `read` returns; valid once open."""


class DeviceClock:
    """Mapping from a device's clock to the system's.

    The offset is the smallest difference between arrival and stamp over the last ten seconds.
    """

    def __init__(self) -> None:
        self._minima: deque[tuple[int, int]] = deque()  # (device stamp, difference), differences increasing
        self._newest: int | None = None
        self._last_stamp = 0

    @property
    def offset_ns(self) -> int:
        """System time minus device time, ns; 0 before the first frame."""
        return self._minima[0][1] if self._minima else 0

    def system_ns(self, device_ns: int, arrival_ns: int) -> int:
        """Convert a frame's device stamp to its capture time by the system's clock, ns.

        The result is never after the arrival. Results increase, unless a clock jumps by more than a second.
        """
        difference = arrival_ns - device_ns
        if self._newest is not None and (
            device_ns < self._newest - RESET_NS or abs(difference - self._minima[0][1]) > RESET_NS
        ):
            self._minima.clear()
            self._last_stamp = 0
        self._newest = device_ns
        while self._minima and self._minima[-1][1] >= difference:
            self._minima.pop()
        self._minima.append((device_ns, difference))
        while self._minima[0][0] < device_ns - _OFFSET_WINDOW_NS:
            self._minima.popleft()
        self._last_stamp = max(device_ns + self.offset_ns, self._last_stamp + 1)
        return self._last_stamp


class StampStatistics:
    """Running delay and jitter of frames.

    Attributes:
        delay_ms: Mean time from capture to arrival.
        jitter_ms: Mean deviation of the interval between two frames from the mean interval.
    """

    def __init__(self) -> None:
        self.delay_ms = self.jitter_ms = 0.0
        self._interval = 0.0
        self._last: int | None = None

    def update(self, stamp_ns: int, arrival_ns: int) -> None:
        """Add a frame by its capture stamp and its arrival, ns."""
        delay = (arrival_ns - stamp_ns) / 1e6
        if self._last is None:
            self.delay_ms = delay
        else:
            interval = (stamp_ns - self._last) / 1e6
            self._interval += (interval - self._interval) * (_MEAN_WEIGHT if self._interval else 1)
            self.jitter_ms += _MEAN_WEIGHT * (abs(interval - self._interval) - self.jitter_ms)
            self.delay_ms += _MEAN_WEIGHT * (delay - self.delay_ms)
        self._last = stamp_ns


@dataclass(frozen=True)
class DeviceConfig:
    """Settings of a `DeviceCamera`."""

    serial: str = setting("", "Serial number of the camera; empty if only one is connected.")
    calibration: str = setting("auto", "auto uses the files of actrec calibrate, if any.", choices=("auto", "factory"))
    register: bool = setting(True, "Register depth to color; actrec calibrate depth needs false.")
    depth_scale: float = setting(0.0, "Length of one unit of depth; 0 for the camera's.", unit="m", range=(0.0, 1.0))
    recording: str = setting("", "Recording by the vendor's tool to play instead of a camera.")
    frame_id: str = setting("camera_color_optical_frame", "Name of the optical frame.")


class DeviceCamera(Camera):
    """Base of the drivers of depth cameras and their recordings.

    `_name` is the kind of camera in messages.

    Attributes:
        incomplete: Pairs dropped because color or depth was missing.
        unpaired: Pairs dropped because color and depth are more than half a frame period apart.
    """

    _name: ClassVar[str]
    _warned_gravity: bool = False
    _source: Any = None  # the open device or recording

    def prepare(self) -> None:
        """Compile the registration of depth to color."""
        from actrec.utils import registration  # lazily: numba takes half a second to import

        registration.prepare()

    def open(self) -> None:
        """Open the camera or the recording."""
        if self._source is not None:
            return
        self._reset()
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _open(self) -> None:
        """Open the device or recording and set `_source`."""

    def _opened(self, name: str = "_source") -> Any:
        if (part := getattr(self, name)) is None:
            raise DeviceError(f"the {self._name} is not open: call open() or use a with statement")
        return part

    def figures(self) -> dict[str, float | int]:
        """Return delay and jitter of the stamps, the clocks' offset, and the dropped frames by cause."""
        return {
            "stamp_delay_ms": self._stamps.delay_ms,
            "stamp_jitter_ms": self._stamps.jitter_ms,
            "clock_offset_ms": self._clock.offset_ns / 1e6,
            "skipped": self.skipped,
            "without_color_or_depth": self.incomplete,
            "color_and_depth_apart": self.unpaired,
        }

    def _own_files(self) -> CameraFiles:
        """Return its lenses by `actrec calibrate`, empty if there are no files or the settings exclude them."""
        own = self.config.calibration == "auto" and self.serial
        return calibration_files.load(self.serial, parts=(COLOR, DEPTH)) if own else CameraFiles(self.serial)

    def _with_gravity(self, frame: RgbdFrame, measured: GravityFilter | None) -> RgbdFrame:
        """Add the direction of gravity by the accelerometer, if it has settled; warn once if it cannot."""
        if measured is None:
            return frame
        frame.up, frame.up_source = measured.up, "accelerometer"
        if measured.rejected > MAX_REJECTED and not self._warned_gravity:
            self._warned_gravity = True
            logger.warning(
                "the accelerometer of camera %s measures %.2f m/s², expected 9.81 at rest: it shakes, or is not "
                "calibrated; set mount if the direction of gravity is wrong", self.serial, measured.measured
            )  # fmt: skip
        return frame

    def _reset(self) -> None:
        self._warned_gravity = False
        self.skipped = self.incomplete = self.unpaired = 0
        self._clock, self._stamps = DeviceClock(), StampStatistics()


class Pace:
    """Due times and increasing stamps of recorded frames, whose own stamps may jump.

    A step backwards, of more than an hour, or to the start of a loop counts as one frame period. `rate` is recorded
    seconds per second; 0 makes every frame due at once.
    """

    def __init__(self, rate: float):
        self._rate = rate
        self._newest = 0  # the latest stamp returned
        self._period = _PERIOD_NS
        self.restart()

    def restart(self) -> None:
        """Make the next frame due now."""
        self._last: int | None = None
        self._anchor = 0.0  # when the first frame was delivered
        self._played_ns = 0  # recorded time since the anchor
        self._loops = 0

    def due(self, stamp: int, loops: int = 0) -> float:
        """Return the `time.monotonic` at which the frame recorded at `stamp` ns is due, after `loops` restarts."""
        if self._rate == 0 or self._last is None:
            return time.monotonic()
        return self._anchor + (self._played_ns + self._step(self._last, stamp, loops)) / (self._rate * 1e9)

    def advance(self, stamp: int, loops: int = 0) -> int:
        """Return the stamp of a frame that is delivered now, nanoseconds since the epoch."""
        if self._last is None:
            self._anchor = time.monotonic()
            self._newest = max(time.time_ns(), self._newest + self._period)
        else:
            step = self._step(self._last, stamp, loops)
            if loops == self._loops:
                self._period = step or self._period
            self._played_ns += step
            self._newest += step
        self._last, self._loops = stamp, loops
        return self._newest

    def _step(self, last: int, stamp: int, loops: int) -> int:
        """Return the recorded time between two frames, at least 0."""
        step = stamp - last
        return step if 0 <= step <= _LONGEST_PAUSE_NS and loops == self._loops else self._period
