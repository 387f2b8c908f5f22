"""What is to be shown of one instant, and the images, skeletons, hands and faces that belong together."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np

from actrec.recognition import ActionEvent
from actrec.recognition.predictions import hand_owner
from actrec.types import NANOSECONDS, UNKNOWN, Body, Face, Hand, Intrinsics, RgbdFrame
from actrec.utils import geometry
from actrec.utils.errors import InputError
from actrec.visualization import overlay
from actrec.visualization.overlay import Caption

KEPT_IMAGES = 16  # images that wait for their skeletons: half a second at 30 Hz, 400 MB of 4K color
KEPT_RESULTS = 8
SILENCE_S = 3.0  # without skeletons for this long, images do not wait
LIVE_S = 1.0  # a kind of results that came within this time is waited for
PARTS_WAIT_S = 0.1  # wait of skeletons for the hands and faces of their image
PARTS_AGE_S = 0.3  # older hands and faces are not shown
CAPTIONS = 1000  # bodies whose label is kept


@dataclass
class Snapshot:
    """The people of one camera frame, with or without its images.

    Attributes:
        stamp_ns: Capture time in nanoseconds.
        bodies, hands, faces: The people, in the optical frame.
        captions: Body id to its label.
        color: [H, W, 3] uint8 RGB; None without an image.
        depth: [H, W] float32 m, NaN if missing; None without depth.
        intrinsics: Of both images; None without an image.
        up: [3] unit vector against gravity in the optical frame; None if unknown.
    """

    stamp_ns: int
    bodies: Sequence[Body] = ()
    hands: Sequence[Hand] = ()
    faces: Sequence[Face] = ()
    captions: Mapping[str, Caption] = field(default_factory=dict)
    color: np.ndarray | None = None
    depth: np.ndarray | None = None
    intrinsics: Intrinsics | None = None
    up: np.ndarray | None = None

    @classmethod
    def of_frame(cls, frame: RgbdFrame) -> "Snapshot":
        """Return the snapshot of a frame with the skeletons in it."""
        return cls(
            frame.stamp_ns, frame.skeletons, color=frame.color, depth=frame.depth, intrinsics=frame.intrinsics,
            up=frame.up,
        )  # fmt: skip

    def annotated(self, max_width: int = 0) -> np.ndarray:
        """Return the color image [H, W, 3] with the people and labels, at most `max_width` px wide unless that is 0.

        Raises:
            InputError: There is no color image, or a body has not the joints of its layout.
        """
        if self.color is None:
            raise InputError("the snapshot has no color image")
        image, width = self.color, self.color.shape[1]
        if not 0 < max_width < width:
            return overlay.draw(image, self.bodies, self.hands, self.faces, self.captions)
        scale = max_width / width
        size = (max_width, max(round(image.shape[0] * scale), 1))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        bodies, hands, faces = (
            [replace(one, pixels=(one.pixels + 0.5) * scale - 0.5) for one in kind]
            for kind in (self.bodies, self.hands, self.faces)
        )
        return overlay.draw(image, bodies, hands, faces, self.captions)


class LiveView:
    """Base of the views of a graph, a camera or a recording; a view need not show everything.

    Attributes:
        frames: Number of shown images.
    """

    frames = 0

    @property
    def wants_images(self) -> bool:
        """Whether snapshots are shown now; otherwise their source need not be received."""
        return True

    def show(self, snapshot: Snapshot) -> None:
        """Show the images and people of one instant."""
        raise NotImplementedError

    def label(self, stamp_ns: int, body_id: str, caption: Caption, latency_s: float | None, model: str) -> None:
        """Show a label; `latency_s` is the time since its image, None if that is unknown."""

    def event(self, event: ActionEvent) -> None:
        """Show the begin or the end of an action."""

    def figures(self, figures: Mapping[str, Any]) -> None:
        """Show figures of the recognizer, such as `device`; `notice` is why nothing comes."""

    def close(self) -> None:
        """End the view."""


class Captions:
    """The newest label of each body, while it is valid.

    Args:
        hold_s: Greatest distance of a label's stamp from an image's.
    """

    def __init__(self, hold_s: float):
        self._hold_ns = int(hold_s * NANOSECONDS)
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[int, Caption]] = {}

    def add(self, stamp_ns: int, body_id: str, caption: Caption) -> None:
        """Keep a label."""
        with self._lock:
            self._kept.pop(body_id, None)
            self._kept[body_id] = stamp_ns, caption  # the newest come last
            if len(self._kept) > CAPTIONS:
                del self._kept[next(iter(self._kept))]

    def at(self, stamp_ns: int) -> dict[str, Caption]:
        """Return the labels that are valid at a stamp, by body id; see `with_owners`."""
        with self._lock:
            kept = list(self._kept.items())
        return with_owners({name: caption for name, (at, caption) in kept if abs(stamp_ns - at) <= self._hold_ns})


def with_owners(captions: Mapping[str, Caption]) -> dict[str, Caption]:
    """Return captions by body id, with the label of "body_1_left" or "body_1_right" under "body_1" too.

    A model of hands labels each hand of a person. A known label comes before `unknown`, then the higher confidence.
    """
    found = dict(captions)
    for name, caption in captions.items():
        owner = hand_owner(name)
        if owner not in captions and (owner not in found or _rank(caption) > _rank(found[owner])):
            found[owner] = caption
    return found


def _rank(caption: Caption) -> tuple[bool, float]:
    return caption.label not in ("", UNKNOWN), -1.0 if math.isnan(caption.confidence) else caption.confidence


@dataclass
class Matched:
    """An image with the results of its stamp: skeletons, and the nearest of other kinds, as they were added."""

    stamp_ns: int
    image: Any = None
    skeletons: Any = None
    parts: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Arrived:
    stamp_ns: int
    at: float  # monotonic
    value: Any


class SnapshotMatcher:
    """Emits each skeleton message with its image, when both have arrived, so that a skeleton does not lag.

    The skeletons of an image come later than the image, which waits. Skeletons wait for hands and faces of their stamp,
    if any come at all, but `PARTS_WAIT_S` at most. An image without skeletons for `wait_s` is emitted alone; without
    any skeletons for `SILENCE_S`, at once. Not thread-safe.

    Args:
        emit: Called with each match, in the order of the stamps; skeletons that come late follow upon later images.
        wait_s: Wait of an image for skeletons, and of skeletons for their image.
        clock: Monotonic seconds.

    Attributes:
        with_images: Whether images are added; otherwise skeletons are emitted alone.
    """

    def __init__(
        self, emit: Callable[[Matched], None], wait_s: float = 0.5, clock: Callable[[], float] = time.monotonic
    ):
        self._emit, self._wait_s, self._clock = emit, wait_s, clock
        self.with_images = True
        self.reset()

    def reset(self) -> None:
        """Drop everything that waits."""
        self._images: deque[_Arrived] = deque(maxlen=KEPT_IMAGES)
        self._skeletons: deque[_Arrived] = deque(maxlen=KEPT_RESULTS)
        self._parts: dict[str, deque[_Arrived]] = {}
        self._came = self._clock()  # skeletons, or the start
        self._emitted_ns = self._shown_ns = -(1 << 63)  # of the newest image, and of the newest skeletons

    def add_image(self, stamp_ns: int, image: Any) -> None:
        """Add an image; a stamp that jumps back, as of a recording that starts again, drops all that waits."""
        if self._jumped_back(stamp_ns, self._images):
            self._restart()
        self._images.append(_Arrived(stamp_ns, self._clock(), image))
        self.advance()

    def add_skeletons(self, stamp_ns: int, skeletons: Any) -> None:
        """Add the skeletons of an image."""
        if self._jumped_back(stamp_ns, self._skeletons):
            self._restart()
        self._came = self._clock()
        self._skeletons.append(_Arrived(stamp_ns, self._came, skeletons))
        self.advance()

    def add_part(self, kind: str, stamp_ns: int, part: Any) -> None:
        """Add the hands or faces of an image."""
        self._parts.setdefault(kind, deque(maxlen=KEPT_RESULTS)).append(_Arrived(stamp_ns, self._clock(), part))
        self.advance()

    def advance(self) -> None:
        """Emit everything that need not wait longer; call it at each timer tick too."""
        now = self._clock()
        while self._skeletons:
            head = self._skeletons[0]
            image = self._image_of(head) if self.with_images else None
            is_late = now - head.at >= self._wait_s
            if (self.with_images and image is None and not is_late) or self._parts_may_come(head, now):
                break
            self._skeletons.popleft()
            while self._images and self._images[0].stamp_ns <= max(head.stamp_ns, image.stamp_ns if image else 0):
                self._images.popleft()
            self._send(Matched(head.stamp_ns, image.value if image else None, head.value))
        silent_s = now - self._came
        while self._images and not self._skeletons and silent_s >= self._wait_s:
            if silent_s < SILENCE_S and now - self._images[0].at < self._wait_s:
                break
            alone = self._images.popleft()
            self._send(Matched(alone.stamp_ns, alone.value))

    def _image_of(self, skeletons: _Arrived) -> _Arrived | None:
        """Return the image of skeletons; the nearest one if it is lost; None while it may come."""
        if not self._images:
            return None
        nearest = min(self._images, key=lambda image: abs(image.stamp_ns - skeletons.stamp_ns))
        exact = nearest.stamp_ns == skeletons.stamp_ns
        return nearest if exact or self._images[-1].stamp_ns > skeletons.stamp_ns else None

    def _parts_may_come(self, skeletons: _Arrived, now: float) -> bool:
        if now - skeletons.at >= PARTS_WAIT_S:
            return False
        return any(
            now - kept[-1].at < LIVE_S and kept[-1].stamp_ns < skeletons.stamp_ns for kept in self._parts.values()
        )

    def _send(self, matched: Matched) -> None:
        newest_ns = self._emitted_ns if matched.skeletons is None else self._shown_ns
        if matched.stamp_ns < newest_ns:  # an image after a later one's skeletons; slow skeletons follow upon images
            return
        self._emitted_ns = max(matched.stamp_ns, self._emitted_ns)
        if matched.skeletons is not None:
            self._shown_ns = matched.stamp_ns
        for kind, kept in self._parts.items():
            nearest = min(kept, key=lambda part: abs(part.stamp_ns - matched.stamp_ns))
            if abs(nearest.stamp_ns - matched.stamp_ns) <= PARTS_AGE_S * NANOSECONDS:
                matched.parts[kind] = nearest.value
        self._emit(matched)

    def _jumped_back(self, stamp_ns: int, waiting: deque[_Arrived]) -> bool:
        newest = waiting[-1].stamp_ns if waiting else self._emitted_ns
        return stamp_ns < newest - NANOSECONDS

    def _restart(self) -> None:
        came = self._came
        self.reset()
        self._came = came


def point_cloud(snapshot: Snapshot, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return at most about `limit` points [N, 3] float32 m of the depth image, and their colors [N, 3] uint8."""
    if snapshot.depth is None or snapshot.color is None or snapshot.intrinsics is None:
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
    height, width = snapshot.depth.shape
    step = max(math.ceil(math.sqrt(height * width / limit)), 1)
    v, u = (grid.ravel() for grid in np.mgrid[step // 2 : height : step, step // 2 : width : step])
    depth = snapshot.depth[v, u]
    seen = np.isfinite(depth) & (depth > 0)
    u, v, depth = u[seen], v[seen], depth[seen]
    points = geometry.unproject(np.stack([u, v], axis=1).astype(np.float32), depth, snapshot.intrinsics)
    return points.astype(np.float32), snapshot.color[v, u]
