"""Pairs of color and depth images by stamp, or color alone if depth is absent, too late or of another clock."""

import math
import statistics
import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, Image

from actrec.recordings import image_decoding
from actrec.types import NANOSECONDS, RgbdFrame
from actrec.utils.config import setting
from actrec.utils.errors import InputError
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.subscriptions import Kept, Numbers

FIRST_TOLERANCE_NS = NANOSECONDS // 60  # half a frame at 30 Hz, until the camera's interval is known
INTERVALS = 30  # recent intervals of color that determine the tolerance
RECENT = 1024  # color images whose arrival is remembered: half a minute at 30 Hz
DISORDER = 300  # depth images after which a delivery out of order is forgotten: ten seconds at 30 Hz
STEADY = 10  # depth images in time, in a row, after which color waits again for depth that was too late
MARGIN = 1.25  # factor on a measured delay, in advice on `depth_wait_s` and for depth out of order
MAX_INTERVAL_S = 10.0  # between color images; longer ones are pauses, or wild stamps that would hide a jump back
MAX_DELAY_S = 20.0  # stamps of depth that are older than this against color's are of another clock
OUT_OF_ORDER = 3  # intervals by which a color image may be older; beyond them stamps jumped back


@dataclass(frozen=True)
class SynchronizerConfig:
    """Settings of a node's subscription to images."""

    use_depth: bool = setting(True, "Use depth; without it joints have the estimator's position, not a metric one.")
    depth_scale: float = setting(
        0.0, "Length of one unit of depth images; 0: 0.001 for 16UC1, 1 for 32FC1.", unit="m", range=(0.0, 1000.0)
    )
    depth_wait_s: float = setting(
        1.0, "Wait of a color image for its depth; then color is used alone.", unit="s", range=(0.0, 60.0)
    )
    depth_wait_images: int = setting(
        64, "Images that wait at most: 400 MB of 1920×1080 color, 60 MB of 640×480.", range=(1, 10_000)
    )
    silence_s: float = setting(
        5.0, "Without color or camera_info for this long, report an error; 0 for never.", unit="s", range=(0.0, 3600.0)
    )
    sync_tolerance_s: float | None = setting(
        None, "Greatest distance of the stamps of color and depth; unset: half a frame.", unit="s", range=(0.0, 1.0)
    )


class RgbdMessages:
    """The messages of one frame, converted on first use, once for all users; `stamp_ns` is the color image's."""

    def __init__(self, color: Image, depth: Image | None, info: CameraInfo, depth_scale: float = 0.0):
        self.color, self.depth, self.info, self.depth_scale = color, depth, info, depth_scale
        self.stamp_ns = conversions.stamp_to_ns(color.header.stamp)
        self._frame: RgbdFrame | None = None
        self._lock = threading.Lock()

    def frame(self, complain: Callable[[str], None]) -> RgbdFrame:
        """Return the frame as `to_frame` does; its arrays are read-only, because others may hold them too."""
        with self._lock:
            if self._frame is None:
                self._frame = to_frame(self, complain)
            return self._frame


@dataclass
class _Waiting:
    """A received message (a reference, no copy) that waits for its partner."""

    stamp_ns: int
    message: Image
    received_at: float
    depth: Image | None = None
    paired_at: float = math.inf


class Synchronizer:
    """Takes messages and emits frames in the order of their stamps.

    A color image waits for the depth image nearest to it in time, up to `depth_wait_s`. At most `depth_wait_images`
    wait; if more would have to, new ones are dropped evenly, so that the others can still be paired. Without a pair for
    `depth_wait_s`, color is emitted alone, at once, until depth comes in time again. Depth may arrive out of order: a
    frame is then held as long as an earlier depth image was late before. A color stamp that jumps back, as in a
    recording that starts again, drops all waiting images. Not thread-safe: its callbacks belong in one mutually
    exclusive group.

    Args:
        config: The settings.
        emit: Called with each frame.
        complain: Called with a line about degraded input, perhaps at every frame.
        unpaired: Called with the number of dropped color images.
        clock: Monotonic seconds.
        why: Returns why nothing comes on a topic, such as that it has no publisher.
    """

    def __init__(
        self,
        config: SynchronizerConfig,
        emit: Callable[[RgbdMessages], None],
        complain: Callable[[str], None],
        unpaired: Callable[[int], None] = lambda number: None,
        clock: Callable[[], float] = time.monotonic,
        why: Callable[[str], str] = lambda topic: topic,
    ):
        self._config, self._emit, self._complain = config, emit, complain
        self._unpaired, self._clock, self._why = unpaired, clock, why
        self._repeated = 0
        self._info: CameraInfo | None = None
        self._alone = ""  # why color is emitted alone; empty while it waits for depth
        self._told: dict[str, float] = {}
        self._depth_at: float | None = None  # arrival of the newest depth image
        self._newest_depth_ns: int | None = None
        self.reset()

    def reset(self) -> None:
        """Drop all images, but not the camera_info."""
        self._color: list[_Waiting] = []  # by stamp, as is depth
        self._depth: list[_Waiting] = []
        self._intervals: deque[int] = deque(maxlen=INTERVALS)
        self._depth_intervals: deque[int] = deque(maxlen=9)
        self._newest_ns: int | None = None
        self._emitted_ns: int | None = None
        self._received_at = 0.0  # of the last color image
        self._arrivals: deque[tuple[int, float]] = deque(maxlen=RECENT)  # of color: stamp and time
        self._depth_arrivals: deque[tuple[int, float]] = deque(maxlen=64)
        self._delays: deque[float] = deque(maxlen=STEADY)  # of depth after its color
        self._disorder: deque[float] = deque(maxlen=DISORDER)  # of each depth image after a later one
        self._waiting_since: float | None = None

    def add_info(self, message: CameraInfo) -> None:
        """Keep the color camera's newest camera_info."""
        self._info = message

    def add_color(self, message: Image) -> None:
        """Emit a color image with its depth, or let it wait."""
        stamp, now = conversions.stamp_to_ns(message.header.stamp), self._clock()
        if not self._note(stamp, now):
            self._unpaired(1)
            return
        if not self._config.use_depth:
            self._send(stamp, message, None)
            return
        self._arrivals.append((stamp, now))
        item = _Waiting(stamp, message, now)
        if self._waiting_since is None:
            # Counted from a waiting color image: after a pause of all topics, depth may follow at once.
            self._waiting_since = now
        self._flush(now)
        if (match := self._partner(stamp)) is not None:
            insort(self._color, item, key=_stamp)
            self._pair(item, match, now)
        elif self._alone or (
            now - self._waiting_since > self._config.depth_wait_s and all(other.depth is None for other in self._color)
        ):
            self._send_alone(item, now)
        elif self._is_crowded(item):
            self._unpaired(1)
        else:
            insort(self._color, item, key=_stamp)

    def add_depth(self, message: Image) -> None:
        """Emit a depth image with its color, or let it wait."""
        stamp, now = conversions.stamp_to_ns(message.header.stamp), self._clock()
        self._depth_at, tolerance, before = now, self._tolerance_ns(), self._newest_depth_ns
        jumped = before is not None and before - stamp > self._config.depth_wait_s * NANOSECONDS
        if jumped:
            self._depth.clear()
            self._depth_arrivals.clear()
        elif before is not None and stamp > before:
            self._depth_intervals.append(stamp - before)
        self._newest_depth_ns = stamp if before is None or jumped else max(stamp, before)
        self._disorder.append(max((now - at for other, at in self._depth_arrivals if other > stamp), default=0.0))
        self._depth_arrivals.append((stamp, now))
        arrived = next((at for other, at in reversed(self._arrivals) if abs(other - stamp) <= tolerance), None)
        if arrived is not None:
            self._delays.append(now - arrived)
        if self._alone and arrived is not None:
            if self._is_in_time():  # its color has been sent; later frames wait again
                self._alone, self._waiting_since = "", None
            return
        self._depth = [item for item in self._depth if now - item.received_at <= self._config.depth_wait_s]
        if len(self._depth) < self._config.depth_wait_images:
            insort(self._depth, _Waiting(stamp, message, now), key=_stamp)
        # Color images before the last depth image were matched when it came.
        since = before if before is not None and before < stamp else None
        for waiting in [w for w in self._color if w.depth is None and w.stamp_ns <= stamp + tolerance]:
            if since is not None and waiting.stamp_ns <= since:
                continue
            match = self._partner(waiting.stamp_ns)
            if match is not None and _nearest(self._color, match.stamp_ns, tolerance) is waiting:
                self._pair(waiting, match, now)
        self._flush(now)

    def _partner(self, color_ns: int) -> _Waiting | None:
        """Return the depth image that belongs to a color image; None while a nearer one may come."""
        best = _nearest(self._depth, color_ns, self._tolerance_ns())
        if best is None or self._depth[-1].stamp_ns >= color_ns or not self._depth_intervals:
            return best
        # A later depth image is nearer than half an interval; the median is robust to lost frames and bursts.
        return best if 2 * (color_ns - best.stamp_ns) <= statistics.median(self._depth_intervals) else None

    def _note(self, stamp: int, now: float) -> bool:
        """Check the order and interval of the stamps; return False for an image that came too late for its place."""
        pause = max(self._config.depth_wait_s, OUT_OF_ORDER * self._interval_ns() / NANOSECONDS)
        paused = now - self._received_at > pause
        self._received_at = now
        self._repeated = self._repeated + 1 if stamp == self._newest_ns else 0
        if self._repeated > 1:  # some drivers send an image twice
            self._complain("color images repeat the previous stamp: without new stamps no action is recognized")
        back = 0 if self._newest_ns is None else self._newest_ns - stamp
        if 0 < back <= OUT_OF_ORDER * self._interval_ns():
            return self._emitted_ns is None or stamp > self._emitted_ns
        if back > 0:
            self._tell(
                "jump",
                f"color's stamps jumped back by {back / NANOSECONDS:.1f} s (a recording that starts again, simulated "
                "time, or a clock that was set): images that wait are dropped, and windows restart",
                again_s=math.inf,
            )
            # Depth from before the jump is later than this color image; depth may have jumped first.
            self._unpaired(len(self._color))
            tolerance = self._tolerance_ns()
            depth = [item for item in self._depth if item.stamp_ns <= stamp + tolerance]
            # The wait continues, or it would never end if stamps jump repeatedly; after a pause it starts again.
            waiting = None if paused else self._waiting_since
            self.reset()
            self._depth, self._waiting_since, self._received_at = depth, waiting, now
        else:
            if 0 < -back <= MAX_INTERVAL_S * NANOSECONDS:
                self._intervals.append(-back)
            if paused and self._color:
                self._waiting_since = now
        self._newest_ns = stamp
        return True

    def _interval_ns(self) -> int:
        # The lower quartile: the median is of several frames if half of them are lost, and the minimum is far too short
        # if stamps jitter.
        return sorted(self._intervals)[len(self._intervals) // 4] if self._intervals else 2 * FIRST_TOLERANCE_NS

    def _tolerance_ns(self) -> int:
        if self._config.sync_tolerance_s is not None:
            return int(self._config.sync_tolerance_s * NANOSECONDS)
        return self._interval_ns() // 2

    def _pair(self, item: _Waiting, match: _Waiting, now: float) -> None:
        self._alone = ""
        item.depth, item.paired_at = match.message, now
        self._depth = [other for other in self._depth if other.stamp_ns > match.stamp_ns]
        kept = [other for other in self._color if other is item or other.stamp_ns != item.stamp_ns]  # sent twice
        self._unpaired(len(self._color) - len(kept))
        self._color = kept
        self._flush(now)

    def _flush(self, now: float) -> None:
        """Emit the pairs in order; drop a color image before them if its depth is lost, hold them while it may come."""
        patience = min(MARGIN * max(self._disorder, default=0.0), self._config.depth_wait_s)
        while self._color:
            head = self._color[0]
            if head.depth is None:
                later = min(item.paired_at for item in self._color)
                if later == math.inf or now - later < patience:
                    break
                self._unpaired(1)
            del self._color[0]
            if head.depth is not None:
                self._send(head.stamp_ns, head.message, head.depth)
            self._waiting_since = self._color[0].received_at if self._color else None

    def _is_crowded(self, item: _Waiting) -> bool:
        """Return whether an image must not wait because of `depth_wait_images`: none that waits is dropped for it."""
        limit, interval = self._config.depth_wait_images, self._interval_ns()
        known = len(self._delays) == STEADY
        delay = min(MARGIN * max(self._delays) if known else math.inf, self._config.depth_wait_s)
        spacing = delay * NANOSECONDS / limit  # of the images that wait, if all that wait are to be paired
        dense = bool(self._color) and interval < spacing and item.stamp_ns - self._color[-1].stamp_ns < spacing
        if len(self._color) < limit and not dense:
            return False
        megabytes = sum(len(waiting.message.data) for waiting in self._color) / 1e6
        needed = math.ceil(MARGIN * self._config.depth_wait_s * NANOSECONDS / interval)
        self._tell(
            "crowded",
            f"{len(self._color)} color images ({megabytes:.0f} MB) wait for late depth, so others are dropped: set "
            f"depth_wait_images to {needed} or more, or lower the camera's rate",
        )
        return True

    def _is_in_time(self) -> bool:
        """Return whether depth comes in time again, steadily if it was late before."""
        wait = self._config.depth_wait_s
        if self._alone != "late":
            return self._delays[-1] <= wait
        return len(self._delays) == STEADY and max(self._delays) <= 0.9 * wait

    def _send_alone(self, item: _Waiting, now: float) -> None:
        self._alone, line = self._cause(now)
        self._tell(self._alone, f"working on color alone: {line}")
        self._unpaired(len(self._color))
        self._color.clear()
        self._send(item.stamp_ns, item.message, None)

    def _cause(self, now: float) -> tuple[str, str]:
        """Return the kind of cause for which color has no depth, and a line about it."""
        wait, newest = self._config.depth_wait_s, self._newest_depth_ns
        if newest is None or self._depth_at is None:
            return "never", f"no depth image so far on {self._why(topics.DEPTH)}"
        silence, tolerance = now - self._depth_at, self._tolerance_ns()
        apart = min(abs(newest - stamp) for stamp, _ in self._arrivals)
        if silence > wait or (apart <= tolerance and max(self._delays, default=0.0) <= wait):
            return "stopped", f"depth stopped {silence:.1f} s ago on {self._why(topics.DEPTH)}"
        delay, first = max(self._delays, default=0.0), self._arrivals[0][0]
        if delay <= wait and newest < first:  # its color came before this node started
            delay = (self._arrivals[-1][0] - newest) / NANOSECONDS
        if wait < delay < MAX_DELAY_S:
            needed = math.ceil(10 * MARGIN * delay) / 10
            images = math.ceil(needed * NANOSECONDS / self._interval_ns())
            more = f" and depth_wait_images to {images}" if images > self._config.depth_wait_images else ""
            return "late", (
                f"depth comes {delay:.1f} s after its color image, later than depth_wait_s ({wait:g} s): set "
                f"depth_wait_s to {needed:g}{more}; labels are then as late as depth"
            )
        seconds = apart / NANOSECONDS
        remedy = f", or set sync_tolerance_s to {math.ceil(1000 * seconds) / 1000:g}" if seconds < 1.0 else ""
        return "apart", (
            f"depth arrives in time, but its stamps are {seconds:.3g} s from color's (allowed "
            f"{tolerance / NANOSECONDS:.3g} s): let the driver stamp both with one clock{remedy}"
        )

    def _tell(self, kind: str, line: str, again_s: float = 1.0) -> None:
        """Complain, but once per `again_s` about one kind of cause."""
        now = self._clock()
        if now - self._told.get(kind, -math.inf) >= again_s:
            self._told[kind] = now
            self._complain(line)

    def _send(self, stamp: int, color: Image, depth: Image | None) -> None:
        self._emitted_ns = stamp
        if self._info is None:
            self._tell("info", f"color images arrive, but no camera_info on {self._why(topics.COLOR_INFO)}")
            self._unpaired(1)
            return
        self._emit(RgbdMessages(color, depth, self._info, self._config.depth_scale))


class FirstCamera:
    """Passes on the images of one camera where two publish on one topic.

    An image is of a second camera if its frame id or size differs, and the first one's images come after it, too. It is
    then ignored until the first has been silent for `GONE_S`. Cameras of one frame id and size differ by the numbers of
    their messages (`Numbers`).

    Args:
        complain: Called with a line about the second camera.
        clock: Monotonic seconds.
        kept: Shared by the topics of the camera.
    """

    GONE_S = 2.0

    def __init__(
        self, complain: Callable[[str], None], clock: Callable[[], float] = time.monotonic, kept: Kept | None = None
    ):
        self._complain, self._clock = complain, clock
        self._numbers = Numbers(kept or Kept(), clock)
        self._first: Any = None
        self._second: Any = None
        self._first_at = self._second_at = 0.0
        self._are_two = False

    def accepts(self, message: Any, number: int = 0) -> bool:
        """Return whether an image is of the first camera, or of the only one; `number` is of DDS, 0 if unknown."""
        if not self._looks_like_first(message):
            return False
        if number and not self._numbers.accepts(number):
            self._complain(
                f"two cameras with frame id '{message.header.frame_id}' ({message.width}×{message.height}) publish on "
                "one topic: images of one are ignored; stop one of them, or remap its topics"
            )
            return False
        return True

    def _looks_like_first(self, message: Any) -> bool:
        """Return whether an image has the frame id and size of the first camera, or of the only one."""
        found, now = (message.header.frame_id, message.width, message.height), self._clock()
        if found == self._first:
            self._are_two |= self._second is not None and now - self._second_at < self.GONE_S
            self._first_at = now
            return True
        if self._first is None or now - self._first_at > self.GONE_S:
            self._first, self._second, self._first_at, self._are_two = found, None, now, False
            return True
        self._second, self._second_at = found, now
        if self._are_two:
            first, second = (f"'{frame_id}' ({width}×{height})" for frame_id, width, height in (self._first, found))
            self._complain(
                f"two cameras publish on one topic: images of {second} are ignored, {first} came first; stop one of "
                "them, or remap its topics"
            )
        return not self._are_two


_stamp = attrgetter("stamp_ns")


def _nearest(waiting: list[_Waiting], stamp: int, tolerance: int) -> _Waiting | None:
    best = min(waiting, key=lambda item: abs(item.stamp_ns - stamp), default=None)
    return best if best is not None and abs(best.stamp_ns - stamp) <= tolerance else None


def to_frame(messages: RgbdMessages, complain: Callable[[str], None]) -> RgbdFrame:
    """Convert a frame; complain about depth that does not fit color, raise InputError for a wrong camera_info."""
    color = conversions.image_to_color(messages.color)
    intrinsics = conversions.info_to_intrinsics(messages.info)
    if (intrinsics.height, intrinsics.width) != color.shape[:2]:
        raise InputError(
            f"camera_info is of a {intrinsics.width}×{intrinsics.height} image, but color is "
            f"{color.shape[1]}×{color.shape[0]}: remap camera_info to this image's, or calibrate at its size"
        )
    depth, unit = None, 1.0
    if messages.depth is not None and (messages.depth.height, messages.depth.width) != color.shape[:2]:
        complain(
            f"depth is {messages.depth.width}×{messages.depth.height}, color is {color.shape[1]}×{color.shape[0]}: "
            "working on color alone; register depth to color in the camera's driver (align_depth)"
        )
    elif messages.depth is not None:
        unit = image_decoding.depth_unit(messages.depth.encoding, messages.depth_scale)
        depth = conversions.image_to_depth(messages.depth, messages.depth_scale)
        depth.flags.writeable = False
        seen_from = messages.depth.header.frame_id, messages.color.header.frame_id
        if all(seen_from) and len(set(seen_from)) == 2:
            complain(
                f"depth is seen from '{seen_from[0]}', color from '{seen_from[1]}': if it is not registered to "
                "color joints get wrong depth; register it in the camera's driver (align_depth)"
            )
        if np.isnan(depth).all():
            complain("depth has no valid pixel: the sensor is covered, too close or not running")
    frame_id = messages.color.header.frame_id
    return RgbdFrame(messages.stamp_ns, color, depth, intrinsics, frame_id, depth_scale=unit)
