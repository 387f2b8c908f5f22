"""Pairs of color and depth images by stamp, or color alone if depth is absent, late or of another size.

The nodes of one process share their subscriptions: each frame is received, paired and decoded once.
"""

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from actrec.types import NANOSECONDS, RgbdFrame
from actrec.utils.calibration_files import rectified
from actrec.utils.config import setting
from actrec.utils.errors import InputError
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.conversions import rectified_info

PENDING = 8
"""Smallest limit of the images that wait for their partner."""

PENDING_BYTES = 64_000_000
"""More images may wait up to this size together: two seconds of 640×480 color at 30 Hz."""

LEAST_BYTES = 250_000
"""Smallest size that an image counts for, which limits the number of small ones."""

FIRST_TOLERANCE_NS = NANOSECONDS // 60
"""Half a frame at 30 Hz, until the camera's interval is known."""

INTERVALS = 30
"""Recent intervals of color that determine the tolerance."""


@dataclass(frozen=True)
class SynchronizerConfig:
    """Settings of a node's subscription to images."""

    use_depth: bool = setting(True, "Use depth; without it joints have the estimator's position, not a metric one.")
    depth_wait_s: float = setting(1.0, "Without depth for this long, use color alone.", unit="s", range=(0.0, 60.0))
    silence_s: float = setting(
        5.0, "Without color or camera_info for this long, report an error; 0 for never.", unit="s", range=(0.0, 3600.0)
    )
    sync_tolerance_s: float | None = setting(
        None, "Greatest distance of the stamps of color and depth; unset: half a frame.", unit="s", range=(0.0, 1.0)
    )


class RgbdMessages:
    """The messages of one frame, converted on first use, once for all users; `stamp_ns` is the color image's."""

    def __init__(self, color: Image, depth: Image | None, info: CameraInfo):
        self.color, self.depth, self.info = color, depth, info
        self.stamp_ns = conversions.stamp_to_ns(color.header.stamp)
        self._frame: RgbdFrame | None = None
        self._lock = threading.Lock()

    def frame(self, complain: Callable[[str], None]) -> RgbdFrame:
        """Return the frame as `to_frame` does; its arrays are read-only, because others may hold them too."""
        with self._lock:
            if self._frame is None:
                self._frame = to_frame(self, complain)
            return self._frame


class Synchronizer:
    """Takes messages and emits frames in the order of their stamps.

    A color image waits for the depth image nearest to it in time. Without depth for `depth_wait_s`, color is emitted
    alone, at once, until depth comes again with a shorter delay. A stamp that jumps back, as in a recording that starts
    again, drops all waiting images. Not thread-safe: its callbacks belong in one mutually exclusive group.

    Args:
        config: The settings.
        emit: Called with each frame.
        complain: Called with a line about degraded input, perhaps at every frame.
        unpaired: Called with the number of dropped color images.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        config: SynchronizerConfig,
        emit: Callable[[RgbdMessages], None],
        complain: Callable[[str], None],
        unpaired: Callable[[int], None] = lambda number: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._config, self._emit, self._complain = config, emit, complain
        self._unpaired, self._clock = unpaired, clock
        self._repeated = 0
        self._info: CameraInfo | None = None
        self.reset()

    def reset(self) -> None:
        """Drop all images, but not the camera_info."""
        self._color: deque[tuple[int, Image]] = deque()
        self._depth: deque[tuple[int, Image]] = deque()
        self._intervals: deque[int] = deque(maxlen=INTERVALS)
        self._depth_intervals: deque[int] = deque(maxlen=9)
        self._newest_ns: int | None = None
        self._received_at = 0.0  # of the last color image, by the clock
        self._newest_depth_ns = -1
        self._sent_alone: deque[tuple[int, float]] = deque()  # stamps sent without depth, and when
        self._waiting_since: float | None = None
        self._without_depth = not self._config.use_depth

    def add_info(self, message: CameraInfo) -> None:
        """Keep the color camera's newest camera_info."""
        self._info = message

    def add_color(self, message: Image) -> None:
        """Emit a color image with its depth, or let it wait."""
        stamp = conversions.stamp_to_ns(message.header.stamp)
        self._note(stamp)
        if not self._config.use_depth:
            self._send(stamp, message, None)
            return
        match = self._partner(stamp)
        if self._waiting_since is None:
            # Counted from a waiting color image: after a pause of all topics, depth may follow at once.
            self._waiting_since = self._clock()
        if match is not None:
            self._pair(stamp, message, *match)
        elif self._without_depth or self._clock() - self._waiting_since > self._config.depth_wait_s:
            self._send_alone(stamp, message)
        else:
            self._color.append((stamp, message))
            self._unpaired(_limit(self._color))

    def add_depth(self, message: Image) -> None:
        """Emit a depth image with its color, or let it wait."""
        stamp = conversions.stamp_to_ns(message.header.stamp)
        if self._depth and stamp < self._depth[-1][0]:
            self._depth.clear()
        before, self._newest_depth_ns = self._newest_depth_ns, stamp
        if 0 <= before < stamp:
            self._depth_intervals.append(stamp - before)
        tolerance = self._tolerance_ns()
        if self._without_depth and any(abs(stamp - sent) <= tolerance for sent, _ in self._sent_alone):
            # Its color has been sent; later frames wait again.
            self._without_depth = False
            self._sent_alone.clear()
            self._waiting_since = None
            return
        self._depth.append((stamp, message))
        # Color images before the last depth image were matched when it came.
        since = before if before < stamp else -1
        for waiting in [item for item in self._color if since < item[0] <= stamp + tolerance]:
            match = self._partner(waiting[0])
            if match is not None and _nearest(self._color, match[0], tolerance) is waiting:
                self._pair(*waiting, *match)
        _limit(self._depth)

    def _partner(self, color_ns: int) -> tuple[int, Image] | None:
        """Return the depth image that belongs to a color image; None while a nearer one may come."""
        best = _nearest(self._depth, color_ns, self._tolerance_ns())
        if best is None or self._depth[-1][0] >= color_ns or not self._depth_intervals:
            return best
        # A later depth image is nearer than half an interval; the median is robust to lost frames and bursts.
        return best if 2 * (color_ns - best[0]) <= statistics.median(self._depth_intervals) else None

    def _note(self, stamp: int) -> None:
        """Check the order and interval of the stamps."""
        self._repeated = self._repeated + 1 if stamp == self._newest_ns else 0
        if self._repeated > 1:  # some drivers send an image twice
            self._complain("color images repeat the previous stamp: without new stamps no action is recognized")
        if self._newest_ns is not None and stamp < self._newest_ns:
            # Depth from before the jump is later than this color image; depth may have jumped first.
            self._unpaired(len(self._color))
            tolerance = self._tolerance_ns()
            depth = [item for item in self._depth if item[0] <= stamp + tolerance]
            # The wait continues, or it would never end if stamps jump repeatedly; after a pause it starts again.
            paused = self._clock() - self._received_at > self._config.depth_wait_s
            without, waiting = self._without_depth, None if paused else self._waiting_since
            self.reset()
            self._depth.extend(depth)
            self._without_depth, self._waiting_since = without, waiting
        elif self._newest_ns is not None and stamp > self._newest_ns:
            self._intervals.append(stamp - self._newest_ns)
        self._newest_ns, self._received_at = stamp, self._clock()

    def _tolerance_ns(self) -> int:
        if self._config.sync_tolerance_s is not None:
            return int(self._config.sync_tolerance_s * NANOSECONDS)
        # The lower quartile: the median is of several frames if half of them are lost, and the minimum is far too short
        # if stamps jitter.
        return sorted(self._intervals)[len(self._intervals) // 4] // 2 if self._intervals else FIRST_TOLERANCE_NS

    def _pair(self, color_ns: int, color: Image, depth_ns: int, depth: Image) -> None:
        self._without_depth = False
        self._unpaired(sum(stamp <= color_ns and image is not color for stamp, image in self._color))
        self._color = deque(item for item in self._color if item[0] > color_ns)
        self._depth = deque(item for item in self._depth if item[0] > depth_ns)
        self._waiting_since = self._clock() if self._color else None
        self._send(color_ns, color, depth)

    def _send_alone(self, stamp: int, color: Image) -> None:
        if not self._depth:
            self._complain(f"no depth image for {self._config.depth_wait_s:g} s: working on color alone")
        else:
            apart, allowed = min(abs(stamp - d) for d, _ in self._depth) / 1e6, self._tolerance_ns() / 1e6
            self._complain(
                f"depth's stamps are {apart:.0f} ms or more from color's (allowed {allowed:.0f} ms): "
                "working on color alone; synchronize the streams or set sync_tolerance_s, or depth_wait_s where depth "
                "comes late"
            )
        self._without_depth = True
        self._unpaired(len(self._color))
        self._color.clear()
        now = self._clock()
        while self._sent_alone and now - self._sent_alone[0][1] > self._config.depth_wait_s:
            self._sent_alone.popleft()
        self._sent_alone.append((stamp, now))
        self._send(stamp, color, None)

    def _send(self, stamp: int, color: Image, depth: Image | None) -> None:
        if self._info is None:
            self._complain("no camera_info yet: frames are dropped until it comes")
            self._unpaired(1)
            return
        self._emit(RgbdMessages(color, depth, self._info))


def _limit(pending: deque[tuple[int, Image]]) -> int:
    """Drop the oldest images above the limit of memory; return their number."""
    dropped = 0
    while len(pending) > PENDING and sum(max(len(m.data), LEAST_BYTES) for _, m in pending) > PENDING_BYTES:
        pending.popleft()
        dropped += 1
    return dropped


def _nearest(pending: deque[tuple[int, Image]], stamp: int, tolerance: int) -> tuple[int, Image] | None:
    best = min(pending, key=lambda item: abs(item[0] - stamp), default=None)
    return best if best is not None and abs(best[0] - stamp) <= tolerance else None


def to_frame(messages: RgbdMessages, complain: Callable[[str], None]) -> RgbdFrame:
    """Convert a frame; depth that does not fit color is dropped with a complaint.

    Raises:
        InputError: Encoding not supported, or camera_info of another size than the image.
    """
    color = conversions.image_to_color(messages.color)
    intrinsics = conversions.info_to_intrinsics(messages.info)
    if (intrinsics.height, intrinsics.width) != color.shape[:2]:
        raise InputError(
            f"camera_info is of a {intrinsics.width}×{intrinsics.height} image, but color is "
            f"{color.shape[1]}×{color.shape[0]}"
        )
    depth = None
    if messages.depth is not None and (messages.depth.height, messages.depth.width) != color.shape[:2]:
        complain(
            f"depth is {messages.depth.width}×{messages.depth.height}, color is {color.shape[1]}×{color.shape[0]}: "
            "working on color alone; register depth to color in the camera's driver (align_depth)"
        )
    elif messages.depth is not None:
        depth = conversions.image_to_depth(messages.depth)
        depth.flags.writeable = False
        seen_from = messages.depth.header.frame_id, messages.color.header.frame_id
        if all(seen_from) and len(set(seen_from)) == 2:
            complain(
                f"depth is seen from '{seen_from[0]}', color from '{seen_from[1]}': if it is not registered to "
                "color joints get wrong depth; register it in the camera's driver (align_depth)"
            )
        if np.isnan(depth).all():
            complain("depth has no valid pixel: the sensor is covered, too close or not running")
    return RgbdFrame(messages.stamp_ns, color, depth, intrinsics, messages.color.header.frame_id)


@dataclass(frozen=True)
class Listener:
    """A node that receives frames, of the topics that its remaps name.

    `emit` is called in the thread of the listener that holds the subscriptions, and must return at once. For the other
    callbacks see `Synchronizer`.
    """

    node: Node
    emit: Callable[[RgbdMessages], None]
    complain: Callable[[str], None]
    unpaired: Callable[[int], None]


_LOCK = threading.Lock()

_SOURCES: "dict[tuple[object, ...], _Source]" = {}


def listen(listener: Listener, config: SynchronizerConfig) -> Callable[[], None]:
    """Start to pass frames to a listener; return a function that stops it.

    The listeners of one process to the same topics with the same settings share their subscriptions, because
    deserializing an image holds Python's lock.
    """
    node = listener.node
    key = (node.context, config, *(node.resolve_topic_name(name) for name in topics.CAMERA_TOPICS))
    with _LOCK:
        source = _SOURCES.setdefault(key, _Source(config))
        source.add(listener)

    def stop() -> None:
        with _LOCK:
            if source.remove(listener):
                _SOURCES.pop(key, None)

    return stop


class _Source:
    """The subscriptions behind one or more listeners; the first listener's node holds them."""

    def __init__(self, config: SynchronizerConfig):
        self._config = config
        self._listeners: tuple[Listener, ...] = ()
        self._subscriptions: list[Any] = []

    def add(self, listener: Listener) -> None:
        self._listeners += (listener,)
        if len(self._listeners) == 1:
            self._subscribe()

    def remove(self, listener: Listener) -> bool:
        """Remove a listener, and move its subscriptions to the next one; return whether none is left."""
        held = self._listeners[:1] == (listener,)
        self._listeners = tuple(other for other in self._listeners if other is not listener)
        if held:
            for subscription in self._subscriptions:
                listener.node.destroy_subscription(subscription)
            self._subscriptions = []
            if self._listeners:
                self._subscribe()
        return not self._listeners

    def _subscribe(self) -> None:
        holder = self._listeners[0]
        synchronizer = Synchronizer(self._config, self._emit, holder.complain, self._unpaired)
        straight = rectified(holder.node.resolve_topic_name(topics.COLOR))
        wanted = [
            (Image, topics.COLOR, synchronizer.add_color),
            (CameraInfo, topics.COLOR_INFO, lambda m: synchronizer.add_info(rectified_info(m) if straight else m)),
        ]
        if self._config.use_depth:
            wanted.append((Image, topics.DEPTH, synchronizer.add_depth))
        self._subscriptions = [
            holder.node.create_subscription(kind, name, callback, topics.IMAGE_SUBSCRIBER)
            for kind, name, callback in wanted
        ]

    def _emit(self, messages: RgbdMessages) -> None:
        for listener in self._listeners:
            listener.emit(messages)

    def _unpaired(self, number: int) -> None:
        for listener in self._listeners:
            listener.unpaired(number)
