"""For `simulated-nucla`: listens to everything that the graph publishes and compares it with the truth."""

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from actrec_msgs.msg import ActionLabel, FaceArray, HandArray, SkeletonArray
from rclpy.node import Node

from actrec.frames import Body
from actrec.package import UNKNOWN
from actrec.skeleton.layouts import KINECT_V2_25
from actrec_nodes import conversions, qos, topics


@dataclass(frozen=True)
class Seen:
    """What the graph published of one sequence.

    Attributes:
        frames: Frames that the camera published, with their truth.
        skeleton_frames, hand_frames, face_frames: Those that each node worked on.
        with_skeleton: Frames in which a skeleton was found.
        swapped: Of these, those in which it fits better with left and right exchanged.
        parts: Frames with a "left hand", "right hand", "any hand", "face".
        errors: [F, 25] metres between found and true joint in the frames with a skeleton, NaN where not found.
        top, label, confidence: Of the person, at the last frame that has labels.
    """

    frames: int
    skeleton_frames: int
    hand_frames: int
    face_frames: int
    with_skeleton: int
    swapped: int
    parts: dict[str, int]
    errors: np.ndarray = field(repr=False)
    top: str
    label: str
    confidence: float


class Witness(Node):
    """Keeps every message since `clear`, by stamp."""

    def __init__(self, **node_options: Any):
        super().__init__("benchmark_witness", **node_options)
        self._changed = threading.Condition()
        self._kept: dict[str, dict[int, Any]] = {}
        self._labels: dict[int, list[ActionLabel]] = {}
        self.clear()
        for kind, topic in (
            (SkeletonArray, topics.TRUE_SKELETONS),
            (SkeletonArray, topics.SKELETONS),
            (HandArray, topics.HANDS),
            (FaceArray, topics.FACE),
        ):
            self.create_subscription(kind, topic, self._keeper(topic), qos.WINDOW_SUBSCRIBER)
        self.create_subscription(ActionLabel, topics.ACTION_LABEL, self._on_label, qos.WINDOW_SUBSCRIBER)

    def clear(self) -> None:
        """Forgets everything."""
        with self._changed:
            self._kept = {t: {} for t in (topics.TRUE_SKELETONS, topics.SKELETONS, topics.HANDS, topics.FACE)}
            self._labels = {}

    def wait_labelled(self, timeout_s: float) -> bool:
        """Blocks until the newest frame has skeletons and these have labels; False where that takes too long."""

        def labelled() -> bool:
            shown, found = self._kept[topics.TRUE_SKELETONS], self._kept[topics.SKELETONS]
            return bool(shown and found) and max(found) >= max(shown) and max(found) in self._labels

        with self._changed:
            return self._changed.wait_for(labelled, timeout_s)

    def seen(self) -> Seen:
        """What was published since `clear`."""
        with self._changed:
            kept = {topic: dict(messages) for topic, messages in self._kept.items()}
            labels = dict(self._labels)
        truth = {stamp: conversions.message_to_bodies(m)[0] for stamp, m in kept[topics.TRUE_SKELETONS].items()}
        found = {stamp: conversions.message_to_bodies(m) for stamp, m in kept[topics.SKELETONS].items()}
        person = {stamp: _nearest(bodies, truth[stamp]) for stamp, bodies in found.items() if bodies and stamp in truth}
        errors = [np.linalg.norm(body.positions - truth[stamp].positions, axis=1) for stamp, body in person.items()]
        top, label, confidence = _last_label(labels, person)
        return Seen(
            frames=len(truth),
            skeleton_frames=len(found),
            hand_frames=len(kept[topics.HANDS]),
            face_frames=len(kept[topics.FACE]),
            with_skeleton=len(person),
            swapped=sum(_is_swapped(body, truth[stamp]) for stamp, body in person.items()),
            parts=_parts(kept[topics.HANDS], kept[topics.FACE]),
            errors=np.array(errors, dtype=np.float64).reshape(-1, 25),
            top=top,
            label=label,
            confidence=confidence,
        )

    def _keeper(self, topic: str) -> Any:
        def keep(message: Any) -> None:
            with self._changed:
                self._kept[topic][conversions.stamp_to_ns(message.header.stamp)] = message
                self._changed.notify_all()

        return keep

    def _on_label(self, message: ActionLabel) -> None:
        with self._changed:
            self._labels.setdefault(conversions.stamp_to_ns(message.header.stamp), []).append(message)
            self._changed.notify_all()


def _nearest(bodies: list[Body], truth: Body) -> Body:
    """The found body that lies nearest to the true one; a false one beside it is left aside."""

    def distance(body: Body) -> float:
        apart = np.linalg.norm(body.positions - truth.positions, axis=1)
        return float(np.nanmedian(apart)) if np.isfinite(apart).any() else float("inf")

    return min(bodies, key=distance)


def _is_swapped(found: Body, truth: Body) -> bool:
    mirrored = found.positions[list(KINECT_V2_25.mirror)]
    straight, exchanged = (np.linalg.norm(p - truth.positions, axis=1) for p in (found.positions, mirrored))
    return bool(np.nansum(exchanged) < np.nansum(straight))


def _last_label(labels: dict[int, list[ActionLabel]], person: dict[int, Body]) -> tuple[str, str, float]:
    """Best class, label and confidence of the person at the newest stamp with labels; `unknown` where unlabelled."""
    if not labels:
        return "", UNKNOWN, 0.0
    newest = max(labels)
    body = person.get(newest)
    for label in labels[newest]:
        if body is not None and label.body_id == body.body_id:
            return (label.top_labels or [""])[0], label.label, float(label.confidence)
    return "", UNKNOWN, 0.0


def _parts(hands: dict[int, HandArray], faces: dict[int, FaceArray]) -> dict[str, int]:
    sides = [{hand.side for hand in message.hands} for message in hands.values()]
    return {
        "left hand": sum("left" in found for found in sides),
        "right hand": sum("right" in found for found in sides),
        "any hand": sum(bool(found) for found in sides),
        "face": sum(bool(message.faces) for message in faces.values()),
    }
