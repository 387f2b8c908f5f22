"""The streams that a recognizer takes, from messages; and why one is silent."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from actrec_msgs.msg import FaceArray, HandArray, SkeletonArray
from rclpy.clock import ROSClock
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from actrec.recognition import ActionPrediction, ActionRecognizer
from actrec.recognition.tracks import STREAM_NAMES
from actrec.types import NANOSECONDS, Intrinsics
from actrec.utils import gravity
from actrec.utils.errors import InputError
from actrec_nodes.bringup.graph import GRAPH, find
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.diagnostics import PLAUSIBLE_LATENCY_S
from actrec_nodes.common.lifecycle import ActrecNode, Worker
from actrec_nodes.common.participants import Deafness, Renewed
from actrec_nodes.common.subscriptions import NO_PUBLISHER, SENDS_NOTHING, Liveliness, Subscription, why_silent
from actrec_nodes.recognition.staleness import Arrival, FrameAges, elapsed_ns

PUBLISHERS = {spec.stream: spec.name for spec in GRAPH if spec.stream} | {
    "bodies": "skeleton_node",
    "color": "camera_node",
}
"""Node that publishes each stream."""

UNLEVELED_S = 10.0
"""Time without a direction of gravity after which a warning follows; `skeleton_node` estimates it in less."""

UNLEVELED = {
    "bodies": "people are labeled as before a level camera: their skeletons have no direction of gravity; start with "
    "--ros-args -p skeleton_node:mount:=level, or with how the camera is mounted; another publisher sets their `up`",
    "hands": "hands are labeled as before a level camera: no source has the direction of gravity, and no person is in "
    "view to estimate it; start with --ros-args -p skeleton_node:mount:=level, or with how the camera is mounted "
    "(without skeleton_node: camera_node:mount)",
}
"""The warning for each tracked stream."""


@dataclass(frozen=True)
class Frame:
    """A frame that was added to the windows, with the last predictions of the tracks that ended."""

    arrival: Arrival
    frame_id: str
    ended: list[ActionPrediction]

    @property
    def stamp_ns(self) -> int:
        """Its stamp."""
        return self.arrival.stamp_ns


class RecognizerInputs:
    """Subscriptions to the streams that a recognizer takes.

    Args:
        node: Owns the subscriptions and reports errors.
        recognizer: Receives the messages, in the callbacks.
        worker: Receives each frame that is to be labeled.
        stale_s: Age from which frames are stale; 0 for never.
        died: Called when the publishers of the frames have died.

    Attributes:
        ages: Measures the ages of the frames.
        newest: The newest frame.
        unleveled: Warning, with a remedy, about an unknown direction of gravity; empty if there is none.
        advanced_ns: `elapsed_ns` of the newest frame with a new stamp.
    """

    def __init__(
        self,
        node: ActrecNode[Any],
        recognizer: ActionRecognizer,
        worker: Worker[Frame],
        stale_s: float = 0.0,
        died: Callable[[], None] = lambda: None,
    ):
        self._node, self._recognizer, self._worker, self._died = node, recognizer, worker, died
        self.ages = FrameAges(lambda: int(node.get_clock().now().nanoseconds), stale_s or PLAUSIBLE_LATENCY_S)
        self._liveliness: Liveliness | None = None
        self._published_ns = 0
        self._heard_ns = self.advanced_ns = elapsed_ns()
        self._subscriptions: dict[str, Renewed] = {}
        self._profiles: dict[str, Any] = {}
        self._opened: dict[str, float] = {}
        self._received: set[str] = set()
        self._ever_received: set[str] = set()
        self._intrinsics: Intrinsics | None = None
        self._jumped = self._is_other = self._simulated = False
        self._deafness = Deafness()
        self.newest: Frame | None = None
        self.unleveled = ""
        self._leveled_ns: int | None = None  # stamp of the last frame with `up`, or of the first one

    def open(self) -> None:
        """Subscribe to the streams that the model takes, and unsubscribe from all others."""
        wanted = {name: entry for stream in self._recognizer.streams for name, entry in self._entries(stream).items()}
        if self._recognizer.needs_image_size:
            wanted[topics.COLOR_INFO] = (CameraInfo, self._on_color_info, topics.INFO_SUBSCRIBER)
        for name in list(self._subscriptions):
            if name not in wanted or wanted[name][2] is not self._profiles[name]:  # tracked hands need a longer queue
                self._subscriptions.pop(name).close()
        for name, (kind, callback, profile) in wanted.items():
            if name not in self._subscriptions:
                self._opened[name] = time.monotonic()
                self._ever_received.discard(name)
                self._profiles[name] = profile
                self._subscriptions[name] = self._subscribe(name, kind, callback, profile)
        self.unleveled, self._leveled_ns = "", None
        topic, kind = self.tracked
        if self._liveliness is None or self._liveliness.topic != topic:
            self._is_other = self.newest is not None  # with stamps of its own
            self._close_liveliness()
            self._liveliness = Liveliness(self._node, kind, topic, 1.5 * topics.LEASE_S, self._on_liveliness)

    def close(self) -> None:
        """Unsubscribe from everything."""
        self._close_liveliness()
        while self._subscriptions:
            self._subscriptions.popitem()[1].close()

    def renew_if_deaf(self) -> None:
        """Subscribe in another DDS participant as well if the messages of the frames' publisher do not arrive."""
        topic, kind = self.tracked
        subscribed = self._subscriptions.get(topic)

        def sends_nothing() -> bool:
            return SENDS_NOTHING in why_silent(self._node, self._topic(topic), kind)

        if subscribed is not None:
            subscribed.settle()
            if self._deafness.update(self._heard_ns, sends_nothing):
                subscribed.renew()
                self._node.get_logger().info(self._deafness.line(STREAM_NAMES[self._recognizer.tracked_stream]))

    def _subscribe(self, name: str, kind: type, callback: Callable[[Any], None], profile: Any) -> Renewed:
        def subscribe(node: Node, is_kept: Callable[[], bool]) -> list[Subscription]:
            received = self._guarded(name, callback, is_kept)
            return [Subscription(node, kind, self._topic(name), received, profile, self._node.warn, timed=True)]

        return Renewed(self._node, "frames", subscribe)

    def follow(self) -> None:
        """Follow the liveliness of publishers that have come."""
        if self._liveliness is not None:
            self._liveliness.follow()

    @property
    def tracked(self) -> tuple[str, type]:
        """Topic and type of the frames."""
        is_hands = self._recognizer.tracked_stream == "hands"
        return (topics.HANDS, HandArray) if is_hands else (topics.SKELETONS, SkeletonArray)

    @property
    def have_died(self) -> bool:
        """Whether the publishers of the frames had offered liveliness and none lives."""
        return self._liveliness is not None and self._liveliness.alive == 0

    @property
    def silence_s(self) -> float:
        """Seconds since the newest frame with a new stamp arrived; 0 before the first."""
        return (elapsed_ns() - self.advanced_ns) / NANOSECONDS if self.newest is not None else 0.0

    def why_stopped(self) -> str:
        """Return which topic has no new frames any longer, and why."""
        (topic, kind), name = self.tracked, STREAM_NAMES[self._recognizer.tracked_stream]
        if self.newest is not None and self.newest.arrival.received_ns > self.advanced_ns:
            return f"all {name} on {self._topic(topic)} have the same stamp; check the clock of their publisher"
        if self._heard_ns > self.advanced_ns:
            return f"all {name} on {self._topic(topic)} are invalid: {self._node.last_error}"
        why = why_silent(self._node, self._topic(topic), kind)
        if why == NO_PUBLISHER:
            why = f"{why}: {self._remedy(PUBLISHERS[self._recognizer.tracked_stream])}"
        elif self.have_died:
            why = "its publisher has died, or was stopped"
        return f"no {name} on {self._topic(topic)}: {why}"

    def _on_liveliness(self) -> None:
        if self.have_died:
            self._died()

    def _close_liveliness(self) -> None:
        if self._liveliness is not None:
            self._liveliness.close()
            self._liveliness = None

    def _entries(self, stream: str) -> dict[str, tuple[type, Callable[[Any], None], Any]]:
        """Return the message type, callback and QoS of each topic of a stream."""
        profile = topics.WINDOW_SUBSCRIBER if stream == self._recognizer.tracked_stream else topics.PART_SUBSCRIBER
        streams: dict[str, dict[str, tuple[type, Callable[[Any], None], Any]]] = {
            "bodies": {topics.SKELETONS: (SkeletonArray, self._on_skeletons, profile)},
            "hands": {topics.HANDS: (HandArray, self._on_hands, profile)},
            "face": {topics.FACE: (FaceArray, self._on_faces, profile)},
            "color": {topics.COLOR: (Image, self._on_color, topics.IMAGE_SUBSCRIBER)},
            "flow": {
                topics.SCENE_FLOW_STATISTICS: (String, self._on_flow_statistics, topics.LATCHED),
                topics.SCENE_FLOW_INFO: (CameraInfo, self._on_flow_info, topics.INFO_SUBSCRIBER),
                topics.SCENE_FLOW: (Image, self._on_flow, topics.IMAGE_SUBSCRIBER),
            },
        }
        return streams[stream]

    def _guarded(
        self, name: str, callback: Callable[[Any], None], is_kept: Callable[[], bool]
    ) -> Callable[[Any, int], None]:
        def receive(message: Any, published_ns: int) -> None:
            if not is_kept():
                return
            self._received.add(name)
            self._ever_received.add(name)
            self._published_ns = published_ns
            if name == self.tracked[0]:
                self._heard_ns = elapsed_ns()
            try:
                callback(message)
            except Exception as error:  # one bad message must not stop the node, which reports it
                self._node.statistics.count("received")
                self._node.statistics.count("failed")
                self._node.fail(error)

        return receive

    def _on_skeletons(self, message: SkeletonArray) -> None:
        bodies, up = conversions.message_to_bodies(message), gravity.up_from_vector(message.up)
        ended = self._recognizer.add_skeletons(conversions.stamp_of(message), bodies, up)
        self._check_leveled(conversions.stamp_of(message), bool(bodies), up is not None)
        self._put(message, ended)

    def _on_hands(self, message: HandArray) -> None:
        hands, up = conversions.message_to_hands(message), gravity.up_from_vector(message.up)
        ended = self._recognizer.add_hands(conversions.stamp_of(message), hands, up)
        if self._recognizer.tracked_stream == "hands":
            self._check_leveled(conversions.stamp_of(message), bool(hands), up is not None)
            self._put(message, ended)

    def _check_leveled(self, stamp_ns: int, has_any: bool, is_known: bool) -> None:
        """Warn of people or hands without a direction of gravity, `UNLEVELED_S` after the first of them."""
        is_used = self._recognizer.session.package.window.gravity != "camera"
        if is_known or not is_used or self._leveled_ns is None or stamp_ns < self._leveled_ns:
            self._leveled_ns, self.unleveled = stamp_ns if has_any or is_known else None, ""
        elif has_any and stamp_ns - self._leveled_ns > UNLEVELED_S * NANOSECONDS:
            self.unleveled = UNLEVELED[self._recognizer.tracked_stream]

    def _put(self, message: SkeletonArray | HandArray, ended: list[ActionPrediction]) -> None:
        back = 0 if self.newest is None else self.newest.stamp_ns - conversions.stamp_of(message)
        back, self._is_other = 0 if self._is_other else back, False
        if back > 0 and not self._jumped:
            self._jumped = True  # warn once: a recording that loops does this again and again
            self._node.warn(
                f"stamps of {STREAM_NAMES[self._recognizer.tracked_stream]} jumped back by {back / NANOSECONDS:.1f} s "
                "(a recording that starts again, simulated time, or a clock that was set): windows restart"
            )
        arrival = self.ages.add(conversions.stamp_of(message), self._published_ns)
        clock = self._node.get_clock()
        was_simulated, self._simulated = self._simulated, isinstance(clock, ROSClock) and clock.ros_time_is_active
        if self.ages.step_s and not (was_simulated or self._simulated):
            self._node.warn(
                f"the clock of this machine was set by {self.ages.step_s:+.1f} s: windows restart if the stamps of the "
                "camera follow it"
            )
        if self.newest is None or arrival.stamp_ns != self.newest.stamp_ns:
            self._heard_ns = self.advanced_ns = arrival.received_ns
        self.newest = Frame(arrival, message.header.frame_id, ended)
        self._worker.put(self.newest)

    def _on_faces(self, message: FaceArray) -> None:
        self._recognizer.add_faces(conversions.stamp_of(message), conversions.message_to_faces(message))

    def _on_color(self, message: Image) -> None:
        self._recognizer.add_color(conversions.stamp_of(message), conversions.image_to_color(message))

    def _on_color_info(self, message: CameraInfo) -> None:
        self._recognizer.set_image_size(message.width, message.height)

    def _on_flow(self, message: Image) -> None:
        if self._intrinsics is None:
            topic = self._topic(topics.SCENE_FLOW_INFO)
            raise InputError(f"scene flow is ignored: no camera_info on {topic} so far; check its publisher")
        flow = conversions.image_to_flow(message)
        self._recognizer.add_scene_flow(conversions.stamp_of(message), flow, self._intrinsics)

    def _on_flow_statistics(self, message: String) -> None:
        self._recognizer.set_scene_flow(conversions.message_to_statistics(message))

    def _on_flow_info(self, message: CameraInfo) -> None:
        self._intrinsics = conversions.info_to_intrinsics(message)

    def silent(self) -> dict[str, tuple[str, float]]:
        """Return the streams without a message since the last call.

        Each with a hint, and the seconds of waiting for its first message; infinite if it has stopped.
        """
        now, found = time.monotonic(), {}
        for stream in self._recognizer.streams:
            topic, (kind, *_) = [*self._entries(stream).items()][-1]
            if topic not in self._received:
                why = why_silent(self._node, self._topic(topic), kind)
                waited_s = math.inf if topic in self._ever_received else now - self._opened.get(topic, now)
                if waited_s >= self._node.startup_s and (why == NO_PUBLISHER or PUBLISHERS[stream] in why):
                    why = f"{why}: {self._remedy(PUBLISHERS[stream])}"
                found[stream] = f"{STREAM_NAMES[stream]} on {self._topic(topic)}: {why}", waited_s
        self._received.clear()
        return found

    def _remedy(self, publisher: str) -> str:
        """Return how to start the node that publishes a stream, or a question if it runs or is one of several."""
        if publisher == "camera_node" or publisher in self._node.get_node_names():
            return f"is {publisher} active?"
        space = self._node.get_namespace().rstrip("/")
        names = (*topics.CAMERA_TOPICS, topics.SKELETONS, *find(publisher).topics)
        remaps = {name: self._topic(name) for name in names if self._topic(name) != f"{space}/{name}"}
        remaps |= {"__ns": space} if space else {}
        words = "".join(f" -r {name}:={full}" for name, full in remaps.items())
        return f"start it: actrec run --nodes {find(publisher).switch}{words and f' --ros-args{words}'}"

    def _topic(self, topic: str) -> str:
        return str(self._node.resolve_topic_name(topic))
