"""What the page of the live view shows: the newest snapshot, events and figures, encoded once for all browsers."""

import json
import math
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from actrec.recognition import ActionEvent
from actrec.recognition.events import BEGAN, ENDED
from actrec.skeleton import layouts
from actrec.types import NANOSECONDS, UNKNOWN, Body
from actrec.visualization import overlay
from actrec.visualization.overlay import Caption
from actrec.visualization.snapshots import Snapshot, point_cloud, with_owners
from actrec.visualization.web.explanation_images import ExplanationImages

MAX_WIDTH = 1280  # of the image in the page, px
JPEG_QUALITY = 75
CLOUD_POINTS = 14_000
EVENTS = 200  # kept
RATE_S = 5.0  # time over which rates and latencies are averaged
JUMP_S = 3.0  # by which a stamp is earlier than the newest if time starts again; images may be later than labels
STALE_S = 2.0  # without news for this long the page shows that the view is old
WATCHED_S = 3.0  # time after its last request for which a browser counts


class ViewState:
    """The newest data of the view. Thread-safe; nothing is encoded or kept for long while no browser asks.

    Args:
        source: Name of the source, for the page.
        clock: Monotonic seconds.
        explanation: Images below the live view; None for none.
    """

    def __init__(
        self,
        source: str = "",
        clock: Callable[[], float] = time.monotonic,
        explanation: ExplanationImages | None = None,
    ):
        self._source, self._clock, self._explanation = source, clock, explanation
        self._condition = threading.Condition()
        self._closed = False
        self._snapshot: Snapshot | None = None
        self._number = 0
        self._arrived = -math.inf
        self._encoded: dict[bool, tuple[int, bytes]] = {}
        self._encoding = threading.Lock()
        self._events: dict[tuple[int, int], ActionEvent] = {}  # by run of the recognizer, and id
        self._run = self._newest_id = 0
        self._figures: dict[str, Any] = {}
        self._labels: dict[str, tuple[float, Caption]] = {}  # body id to arrival and label
        self._times = {"images": deque[float](maxlen=500), "labels": deque[float](maxlen=500)}
        self._latencies: deque[tuple[float, float]] = deque(maxlen=500)
        self._asked = -math.inf

    @property
    def is_watched(self) -> bool:
        """Whether a browser has asked in the last seconds."""
        return self._clock() - self._asked < WATCHED_S

    @property
    def closed(self) -> bool:
        """Whether the view has ended."""
        return self._closed

    def show(self, snapshot: Snapshot) -> None:
        """Replace the snapshot."""
        now = self._clock()
        with self._condition:
            self._restart_if_earlier(snapshot.stamp_ns)
            if snapshot.color is not None:
                self._times["images"].append(now)
            self._snapshot, self._arrived = snapshot, now
            self._number += 1
            self._condition.notify_all()

    def label(self, body_id: str, caption: Caption, latency_s: float | None, model: str) -> None:
        """Show a label and count it; `latency_s` is the time since its image, None if that is unknown."""
        now = self._clock()
        with self._condition:
            self._times["labels"].append(now)
            self._labels = {name: kept for name, kept in self._labels.items() if now - kept[0] <= STALE_S}
            self._labels[body_id] = now, caption
            self._figures["model"] = model
            if latency_s is not None:
                self._latencies.append((now, latency_s))

    def event(self, event: ActionEvent) -> None:
        """Keep an event; its end replaces its begin. Ids that start again are of another run, which ends all events."""
        with self._condition:
            self._restart_if_earlier(event.stamp_ns)
            if event.kind == BEGAN and event.event_id <= self._newest_id:
                self._restart()
                self._newest_id = 0
            self._newest_id = max(self._newest_id, event.event_id)
            run = self._run
            if (
                event.kind == ENDED
                and (run, event.event_id) not in self._events
                and (run - 1, event.event_id) in self._events
            ):
                run -= 1
            self._events[run, event.event_id] = event
            while len(self._events) > EVENTS:
                del self._events[next(iter(self._events))]

    def figures(self, figures: Mapping[str, Any]) -> None:
        """Keep figures of the recognizer, such as `model` and `device`."""
        with self._condition:
            self._figures.update(figures)

    def explanation_image(self, name: str) -> bytes | None:
        """Return an image of the explanation as PNG; None if there is none of this name."""
        return None if self._explanation is None else self._explanation.read(name)

    def close(self) -> None:
        """Answer all waiting requests."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def wait(self, after: int, timeout_s: float) -> int:
        """Block until there is a snapshot newer than `after`, or the timeout; return the newest number."""
        self._asked = self._clock()
        with self._condition:
            self._condition.wait_for(lambda: self._number != after or self._closed, timeout_s)
            self._asked = self._clock()
            return self._number

    def update(self, with_cloud: bool) -> bytes:
        """Return the newest data for the page: lengths of the parts, JSON, JPEG image, and point cloud.

        Three little-endian uint32 are followed by the parts. The cloud is one point after the other: x, y, z in int16
        mm, and the color in 3 bytes. An absent image or cloud has length 0.
        """
        with self._condition:
            snapshot, number = self._snapshot, self._number
            state = self._state()
        image, cloud = self._images(snapshot, number, with_cloud)
        text = json.dumps(state, allow_nan=False).encode()
        return struct.pack("<3I", len(text), len(image), len(cloud)) + text + image + cloud

    def _images(self, snapshot: Snapshot | None, number: int, with_cloud: bool) -> tuple[bytes, bytes]:
        """Return the JPEG image and the cloud of a snapshot, encoded once."""
        makers: dict[bool, Callable[[Snapshot], bytes]] = {False: encode_image, True: encode_cloud}
        found = {False: b"", True: b""}
        with self._encoding:
            for kind in (False, True) if with_cloud else (False,):
                kept, data = self._encoded.get(kind, (-1, b""))
                if kept != number and snapshot is not None:
                    data = makers[kind](snapshot)
                    self._encoded[kind] = number, data
                found[kind] = data
        return found[False], found[True]

    def _state(self) -> dict[str, Any]:
        snapshot, now = self._snapshot, self._clock()
        age = now - self._arrived
        latencies = [latency for at, latency in self._latencies if now - at < RATE_S]
        bodies = [] if snapshot is None else list(snapshot.bodies)
        if snapshot is not None:  # a model of hands labels hands without a body
            labeled = {name: hand for hand in snapshot.hands if (name := hand.body_id) in snapshot.captions}
            bodies += [hand for name, hand in labeled.items() if all(body.body_id != name for body in bodies)]
        fresh = with_owners({name: caption for name, (at, caption) in self._labels.items() if now - at <= STALE_S})
        shown = {} if snapshot is None else {**snapshot.captions, **fresh}
        people = [_person(body, shown.get(body.body_id, Caption())) for body in bodies]
        return {
            "number": self._number,
            "source": self._source,
            "explanation": None if self._explanation is None else self._explanation.listed(),
            # Labels come after the images that they are of.
            "stamp": self._newest_ns() / NANOSECONDS,
            "age_s": round(age, 2) if math.isfinite(age) else None,
            "stale": self._closed or age > STALE_S,
            "closed": self._closed,
            "size": None
            if snapshot is None or snapshot.color is None
            else [snapshot.color.shape[1], snapshot.color.shape[0]],
            "people": people,
            "hands": [] if snapshot is None else [_joints(hand) for hand in snapshot.hands],
            "faces": [] if snapshot is None else [_joints(face) for face in snapshot.faces],
            "up": None if snapshot is None or snapshot.up is None else [round(float(v), 4) for v in snapshot.up],
            "events": [
                {
                    "kind": event.kind,
                    "body_id": event.body_id,
                    "label": event.label,
                    "confidence": _share(event.confidence),
                    "start": event.start_ns / NANOSECONDS,
                    "end": event.end_ns / NANOSECONDS,
                    "color": _css(overlay.color_of(event.body_id)),
                }
                for event in self._events.values()
            ],
            "figures": {
                **self._figures,
                **{f"{name}_hz": self._rate(times, now) for name, times in self._times.items()},
                "latency_ms": round(1e3 * float(np.median(latencies)), 1) if latencies else None,
            },
        }

    def _restart_if_earlier(self, stamp_ns: int) -> None:
        """Begin another run if stamps jumped back, as of a recording that starts again."""
        if stamp_ns < self._newest_ns() - JUMP_S * NANOSECONDS:
            self._restart()
            self._snapshot = None

    def _restart(self) -> None:
        self._run += 1
        self._events = {key: replace(kept, kind=ENDED) for key, kept in self._events.items()}

    def _newest_ns(self) -> int:
        """Return the newest stamp of images and of this run's events, which also come while no browser shows images."""
        stamps = [event.stamp_ns for (run, _), event in self._events.items() if run == self._run]
        return max([*stamps, self._snapshot.stamp_ns if self._snapshot is not None else 0])

    def _rate(self, times: deque[float], now: float) -> float:
        recent = [at for at in times if now - at < RATE_S]
        return round(len(recent) / RATE_S, 1)


def encode_image(snapshot: Snapshot) -> bytes:
    """Return the annotated image of a snapshot as JPEG; empty without an image."""
    if snapshot.color is None:
        return b""
    image = cv2.cvtColor(snapshot.annotated(MAX_WIDTH), cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].data)


def encode_cloud(snapshot: Snapshot) -> bytes:
    """Return at most `CLOUD_POINTS` points of the depth image; see `ViewState.update`. Empty without depth."""
    points, colors = point_cloud(snapshot, CLOUD_POINTS)
    packed = np.zeros(len(points), [("xyz", "<i2", 3), ("rgb", "u1", 3)])
    packed["xyz"], packed["rgb"] = np.round(np.clip(points * 1000, -32_000, 32_000)), colors
    return packed.tobytes()


def _person(body: Body, caption: Caption) -> dict[str, Any]:
    known = caption.label not in ("", UNKNOWN)
    return {**_joints(body), "label": caption.label, "known": known, "confidence": _share(caption.confidence)}


def _share(confidence: float) -> float | None:
    """Return a confidence for JSON, which has no NaN and no infinity."""
    return round(confidence, 3) if math.isfinite(confidence) else None


def _joints(body: Body) -> dict[str, Any]:
    known = np.isfinite(body.positions).all(axis=1)
    rounded = np.round(np.where(known[:, None], body.positions, 0.0).astype(float), 3).tolist()
    edges = layouts.get(body.layout).edges
    return {
        "id": body.body_id,
        "color": _css(overlay.color_of(body.body_id)),
        "joints": [xyz if seen else None for xyz, seen in zip(rounded, known.tolist(), strict=True)],
        "bones": [edge for edge in edges if known[edge[0]] and known[edge[1]]],
    }


def _css(color: overlay.Color) -> str:
    return f"rgb({color[0]},{color[1]},{color[2]})"
