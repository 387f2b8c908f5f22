"""The node `record_node`: topics to a rosbag2 mcap, without decoding the messages; observations for labeled clips.

It is no lifecycle node: it has nothing to configure, and stops at a signal or after its duration.
"""

import contextlib
import importlib
import queue
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from actrec_msgs.msg import SkeletonArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from sensor_msgs.msg import CameraInfo, Image

from actrec.cli import interruptible
from actrec.recordings.clip_recorder import Observation, ReadObservation
from actrec.recordings.rosbag.bag_reader import stamp_ns
from actrec.recordings.rosbag.bag_writer import FLUSH_S, SKELETONS_TOPIC, BagWriter
from actrec.types import NANOSECONDS
from actrec.utils import gravity
from actrec.utils.config import build, setting
from actrec.utils.errors import ActrecError, ConfigError, DeviceError, InputError
from actrec.utils.waiting import Waiting
from actrec_nodes.bringup.endings import end_with_parent
from actrec_nodes.bringup.processes import Host, ros, spinning
from actrec_nodes.common import conversions, parameters, topics
from actrec_nodes.common.lifecycle import one_line
from actrec_nodes.common.subscriptions import Subscription, type_name, why_silent

GRAPH_TOPICS = (
    topics.COLOR, topics.COLOR_INFO, topics.DEPTH, topics.DEPTH_INFO, topics.SKELETONS, topics.TRUE_SKELETONS,
    topics.HANDS, topics.FACE, topics.ACTION_LABEL, topics.ACTION_LABEL_TEXT, topics.ACTION_EVENTS,
    topics.TRUE_ACTION_LABEL, topics.UP, topics.MEASURED_UP,
)  # fmt: skip
"""The topics recorded by default: all but scene flow, which is 110 MB/s."""

START_GRAPH = "start the graph first (actrec run)"

EARLY = 1000  # messages kept until the simulated time begins


@dataclass(frozen=True)
class RecordConfig:
    """Settings of the recorder."""

    out: str = setting("", "Folder of the new bag")
    topics: list[str] = setting([], "Topics to record; empty: the graph's")
    duration_s: float = setting(0.0, "Duration from the first message on; 0: no end", unit="s", range=(0.0, 1e9))
    discover_s: float = setting(0.1, "Interval of discovery of new topics", unit="s", range=(0.01, 60.0))
    queue_depth: int = setting(100, "Depth of the middleware's queue of each topic", range=(1, 10_000))
    buffer_mb: float = setting(256.0, "Size of the queue of the disk", unit="MB", range=(1.0, 65536.0))


class RecordNode(Node):
    """Subscribes to topics as they appear and writes their messages in a thread.

    Args:
        node_options: Keyword arguments of `rclpy.node.Node`.
        options: Fields of `RecordConfig`, in place of the node's parameters of these names.

    Attributes:
        dropped: Messages lost because the disk was too slow.
        lost: Messages that the middleware reported as lost.
        error: The error that stopped the recording, if any.

    Raises:
        ConfigError: No `out`, or an option is unknown.
        DeviceError: The bag exists already, or cannot be made.
    """

    def __init__(self, node_options: dict[str, Any] | None = None, **options: Any):
        build(RecordConfig, options)  # unknown and mistyped options are reported before ROS sees them
        overrides = [Parameter(name, value=value) for name, value in options.items() if value != []]
        super().__init__("record_node", parameter_overrides=overrides, **(node_options or {}))
        self.config: RecordConfig = parameters.Parameters(self, RecordConfig).read()
        if not self.config.out:
            raise ConfigError("the recorder needs a bag to write: set its option out")
        self.dropped, self.lost = 0, 0
        self.error: ActrecError | None = None
        self._wanted = {self._resolved(name) for name in self.config.topics or GRAPH_TOPICS}
        self._early: list[tuple[str, bytes]] = []  # before the simulated time began
        self._sinks: dict[str, Subscription] = {}
        self._writer = BagWriter(self.config.out)
        self._queue: deque[tuple[Callable[..., None], tuple[Any, ...], int]] = deque()
        self._waiting_bytes = 0
        self._ready = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._write, name="record", daemon=True)
        self._thread.start()
        # A steady clock, because a simulated clock may stand still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self.create_timer(self.config.discover_s, self.discover, clock=steady)
        self.discover()

    @property
    def counts(self) -> dict[str, int]:
        """Number of written messages by topic."""
        return dict(self._writer.counts)

    @property
    def bytes_written(self) -> int:
        """Size of the written messages."""
        return self._writer.bytes_written

    @property
    def missing(self) -> list[str]:
        """Return the wanted topics that have no publisher yet."""
        return sorted(self._wanted - set(self._sinks))

    @property
    def wanted(self) -> list[str]:
        """The topics to record."""
        return sorted(self._wanted)

    def why_silent(self) -> str:
        """Return why nothing has been recorded: no topic has a publisher, or nothing is sent."""
        if self._early:
            return "messages come, but no simulated time: nothing is published on /clock"
        if self._sinks:
            return f"{', '.join(sorted(self._sinks))}: published, but nothing is sent"
        return f"{'it has' if len(self._wanted) == 1 else 'they have'} no publisher"

    def discover(self) -> None:
        """Subscribe to the wanted topics that have a publisher by now; an error ends the recording."""
        try:
            for topic, types in self.get_topic_names_and_types():
                if topic in self._wanted and topic not in self._sinks and self.get_publishers_info_by_topic(topic):
                    self._subscribe(topic, types[0])
            for sink in self._sinks.values():
                sink.follow()
        except ActrecError as error:
            self.error = error

    def finish(self) -> None:
        """Write the waiting messages, the index and metadata.yaml, or raise the error; safe to call twice."""
        self._write_early(self.get_clock().now().nanoseconds)
        with self._ready:
            self._closing = True
            self._ready.notify()
        self._thread.join()
        self._writer.close()
        if self.error is not None:
            raise self.error

    def _subscribe(self, topic: str, msgtype: str) -> None:
        offered = [info.qos_profile for info in self.get_publishers_info_by_topic(topic)]
        self._enqueue(0, self._writer.add_topic, topic, msgtype, [_offered(profile) for profile in offered])
        # Matches every publisher, also one that comes later, and receives earlier messages of latched ones.
        profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=self.config.queue_depth,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
        )
        self._sinks[topic] = Subscription(
            self, _message_class(msgtype), topic, lambda raw: self._receive(topic, cast("bytes", raw)), profile,
            lambda line: None, raw=True, exclusive=True, lost=self._on_lost,
        )  # fmt: skip

    def _on_lost(self, event: Any) -> None:
        self.lost += event.total_count_change

    def _receive(self, topic: str, raw: bytes) -> None:
        if self.error is not None or self._waiting_bytes > self.config.buffer_mb * 1e6:
            self.dropped += 1
            return
        now_ns = self.get_clock().now().nanoseconds
        if now_ns == 0:  # simulated time: a bag that starts at 0 would last for decades
            if len(self._early) < EARLY and sum(len(other) for _, other in self._early) < self.config.buffer_mb * 1e6:
                self._early.append((topic, raw))
            else:
                self.dropped += 1
            return
        self._write_early(now_ns)
        self._enqueue(len(raw), self._writer.write, topic, now_ns, raw)

    def _write_early(self, now_ns: int) -> None:
        early, self._early = self._early, []
        for topic, raw in early:
            self._enqueue(len(raw), self._writer.write, topic, now_ns, raw)

    def _resolved(self, name: str) -> str:
        try:
            return self.resolve_topic_name(name)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"the topic '{name}' cannot be recorded, its name is wrong: {one_line(error)}") from None

    def _enqueue(self, size: int, call: Callable[..., None], *arguments: Any) -> None:
        with self._ready:
            self._queue.append((call, arguments, size))
            self._waiting_bytes += size
            self._ready.notify()

    def _write(self) -> None:
        while True:
            with self._ready:
                is_idle = not self._ready.wait_for(lambda: self._queue or self._closing, FLUSH_S)
                if not is_idle:
                    if not self._queue:
                        return
                    call, arguments, size = self._queue.popleft()
                    self._waiting_bytes -= size
            try:
                # The next message, which would flush this one, may come hours later.
                self._writer.flush_waiting() if is_idle else call(*arguments)
            except Exception as error:  # any error must end the recording, not this thread only
                line = f"recording '{self.config.out}' stopped: {type(error).__name__}: {error}"
                self.error = error if isinstance(error, ActrecError) else DeviceError(line)
                return


def _message_class(msgtype: str) -> Any:
    package, _, name = msgtype.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ConfigError(f"cannot record {msgtype}: source the workspace that builds {package}") from error


def _offered(profile: QoSProfile) -> Qos:
    """Return a publisher's QoS as rosbag2 stores it."""
    deadline, lifespan, lease = (
        QosTime(*divmod(value.nanoseconds, NANOSECONDS))
        for value in (profile.deadline, profile.lifespan, profile.liveliness_lease_duration)
    )
    return Qos(
        QosHistory(profile.history.value),
        profile.depth,
        QosReliability(profile.reliability.value),
        QosDurability(profile.durability.value),
        deadline,
        lifespan,
        QosLiveliness(profile.liveliness.value),
        lease,
        profile.avoid_ros_namespace_conventions,
    )


def record(
    stopped: threading.Event,
    progress: Callable[[RecordNode, float], None],
    waiting: Waiting | None = None,
    **options: Any,
) -> RecordNode:
    """Record until `stopped` is set, `duration_s` is over or the disk is full, and finish the bag.

    `progress` is called about once a second with the node and the seconds recorded; for the options and errors see
    `RecordNode`. `waiting` is for the first message, by default without an end. Returns the node, destroyed, for its
    counts; without a message there is no bag.
    """
    node = RecordNode(**options)
    waiting = waiting or Waiting(stopped, node.get_logger().info, limit_s=0.0)
    try:
        with Host(node.context) as host:
            host.add(node)
            waiting.until(
                lambda: any(node.counts.values()) or node.error is not None,
                f"message on {', '.join(node.wanted) if node.config.topics else 'the topics of the graph'}",
                node.why_silent,
                START_GRAPH,
            )
            began = shown = time.monotonic()
            while not stopped.wait(0.05) and node.error is None:
                now = time.monotonic()
                if 0 < node.config.duration_s <= now - began:
                    break
                if now - shown >= 1.0:
                    shown = now
                    progress(node, now - began)
    finally:
        try:
            node.finish()
        finally:
            if not any(node.counts.values()):
                shutil.rmtree(Path(node.config.out).expanduser(), ignore_errors=True)  # it would block the next try
    return node


def run(
    stopped: threading.Event,
    progress: Callable[[RecordNode, float], None],
    waiting: Waiting | None = None,
    arguments: Sequence[str] | None = None,
    **options: Any,
) -> RecordNode:
    """Call `record` in a process where ROS is not running yet; the caller handles signals.

    The arguments, by default of this process, are passed to `ros`.
    """
    with ros(sys.argv if arguments is None else arguments, handle_signals=False) as context:
        return record(stopped, progress, waiting, node_options={"context": context}, **options)


def main() -> int:
    """Run the executable `record_node`, whose settings are ROS parameters; SIGINT and SIGTERM finish the bag."""
    try:
        with interruptible() as stopped:
            end_with_parent()
            node = run(stopped, lambda node, seconds: node.get_logger().debug(f"{seconds:.0f} s {node.counts}"))
    except ActrecError as error:
        print(f"record_node: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    print(f"record_node: {node.config.out}: {sum(node.counts.values())} messages, {node.dropped + node.lost} lost")
    if node.missing:
        print(f"record_node: not published, so not recorded: {', '.join(node.missing)}", file=sys.stderr)
    return 0


# -- labeled clips -----------------------------------------------------------------------------------------------------

IMAGES = {topics.COLOR: Image, topics.COLOR_INFO: CameraInfo, topics.DEPTH: Image, topics.DEPTH_INFO: CameraInfo}

INFOS = {topics.COLOR: topics.COLOR_INFO, topics.DEPTH: topics.DEPTH_INFO}

REMEDY = f"{START_GRAPH} with its skeleton node, or give --driver"

QUEUE_SIZE = 500  # queue size in observations; the oldest are dropped beyond it (250 MB of images or more)


class ClipNode(Node):
    """Queue of received skeletons and, on request, images."""

    def __init__(self, images: bool, **node_options: Any):
        super().__init__("clip_node", **node_options)
        self._observations: queue.Queue[Observation] = queue.Queue(QUEUE_SIZE)
        self._infos: dict[str, bytes] = {}  # the newest camera_info by topic
        self._lacks_skeletons, self._skeletons_at = True, time.monotonic()  # images alone are no clip
        self._subscription = Subscription(
            self, SkeletonArray, topics.SKELETONS, self._on_skeletons, topics.WINDOW_SUBSCRIBER
        )
        self._lacks_color = images
        for topic, kind in IMAGES.items() if images else ():
            self._subscribe(topic, kind)

    def wait(self, waiting: Waiting) -> None:
        """Wait for the first skeletons and, with images, for the first color image."""
        topic = self._subscription.topic_name
        waiting.until(
            lambda: not self._lacks_skeletons,
            f"skeletons on {topic}",
            lambda: why_silent(self, topic, SkeletonArray),
            REMEDY,
        )
        color = self.resolve_topic_name(topics.COLOR)
        waiting.until(
            lambda: not self._lacks_color,
            f"color images on {color}",
            lambda: why_silent(self, color, Image, list(IMAGES)),
            f"give --ros-args -r {color}:=TOPIC, likewise for depth and camera_info, or leave out --images",
        )

    def read(self, timeout_s: float) -> Observation:
        """Return the oldest observation in the queue; raise DeviceError with the reason if no skeletons arrive."""
        try:
            if time.monotonic() - self._skeletons_at > timeout_s:
                raise queue.Empty
            return self._observations.get(timeout=timeout_s)
        except queue.Empty:
            topic = self._subscription.topic_name
            raise DeviceError(f"no skeletons on {topic}: {why_silent(self, topic, SkeletonArray)}; {REMEDY}") from None

    def _on_skeletons(self, message: SkeletonArray) -> None:
        stamp, frame_id = conversions.stamp_to_ns(message.header.stamp), message.header.frame_id
        try:
            bodies, up = conversions.message_to_bodies(message), gravity.up_from_vector(message.up)
        except InputError as error:  # a bad message must not stop the node
            self.get_logger().error(f"skipping skeletons: {error}", throttle_duration_sec=5.0)
            return

        def write(bag: BagWriter) -> None:
            bag.write_bodies(SKELETONS_TOPIC, stamp, frame_id, bodies, up)

        self._lacks_skeletons, self._skeletons_at = False, time.monotonic()
        self._put(Observation(stamp, bodies, write))

    def _subscribe(self, topic: str, kind: type) -> None:
        name, info_name = f"/{topic}", f"/{INFOS.get(topic, '')}"

        def keep(raw: bytes) -> None:
            stamp, info = stamp_ns(raw), self._infos.get(info_name)
            self._lacks_color &= topic != topics.COLOR
            if kind is CameraInfo:
                self._infos[name] = raw

            def write(bag: BagWriter) -> None:
                if info is not None and not bag.counts.get(info_name):  # sent once, before this clip
                    bag.add_topic(info_name, type_name(CameraInfo))
                    bag.write(info_name, stamp, info)
                bag.add_topic(name, type_name(kind))
                bag.write(name, stamp, raw)

            self._put(Observation(stamp, None, write))

        profile = topics.INFO_SUBSCRIBER if kind is CameraInfo else topics.IMAGE_SUBSCRIBER
        Subscription(self, kind, topic, keep, profile, raw=True)

    def _put(self, observation: Observation) -> None:
        if self._observations.full():
            with contextlib.suppress(queue.Empty):
                self._observations.get_nowait()
        self._observations.put(observation)


@contextlib.contextmanager
def graph_observations(
    images: bool, waiting: Waiting | None = None, arguments: list[str] | None = None
) -> Iterator[ReadObservation]:
    """Subscribe to the running graph, wait for skeletons and yield `ClipNode.read`; the caller handles signals."""
    with spinning(lambda context: ClipNode(images, context=context), arguments) as node:
        if waiting is not None:
            node.wait(waiting)
        yield node.read
