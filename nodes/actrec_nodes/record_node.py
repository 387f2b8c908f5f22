"""Records topics to a rosbag2 mcap: messages go from the wire to the disk as they are, never decoded.

It is no lifecycle node: it has nothing to configure and stops at a signal or after its duration.
"""

import importlib
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_event import SubscriptionEventCallbacks
from rclpy.signals import SignalHandlerOptions
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

from actrec.recordings.rosbag.bag_writer import BagWriter
from actrec.types import NANOSECONDS
from actrec.utils.config import build, setting
from actrec.utils.errors import ActrecError, ConfigError, DeviceError
from actrec_nodes.bringup import transport
from actrec_nodes.common import parameters, topics

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ModuleNotFoundError:  # Humble's name of it
    from rclpy.qos_event import SubscriptionEventCallbacks

GRAPH_TOPICS = (
    topics.COLOR, topics.COLOR_INFO, topics.DEPTH, topics.DEPTH_INFO, topics.SKELETONS, topics.TRUE_SKELETONS,
    topics.HANDS, topics.FACE, topics.ACTION_LABEL, topics.ACTION_LABEL_TEXT,
)  # fmt: skip
"""The topics recorded by default: all of the graph but scene flow, which is 110 MB/s."""


@dataclass(frozen=True)
class RecordConfig:
    """Settings of the recorder."""

    out: str = setting("", "Folder of the bag to make; must not exist")
    topics: list[str] = setting([], "Topics to record; none records the graph's")
    duration_s: float = setting(0.0, "How long to record from the first message on; 0 until told to stop", unit="s",
                                range=(0.0, 1e9))  # fmt: skip
    discover_s: float = setting(0.1, "Interval at which new topics are looked for", unit="s", range=(0.01, 60.0))
    queue_depth: int = setting(100, "Messages that the middleware keeps for each topic", range=(1, 10_000))
    buffer_mb: float = setting(256.0, "Messages that wait for the disk; beyond it they are dropped", unit="MB",
                               range=(1.0, 65536.0))  # fmt: skip


class RecordNode(Node):
    """Subscribes to topics as they appear and write them on a thread of its own.

    Attributes:
        dropped: Messages lost because the disk was too slow.
        lost: Messages that the middleware reported as lost before they came here.
        error: What stopped the recording, if anything did.

    Args:
        node_options: Keyword arguments of `rclpy.node.Node`.
        options: Fields of `RecordConfig`, in place of the node's parameters of these names.

    Raises:
        ConfigError: No `out`, or an option is unknown.
        DeviceError: The bag exists already, or cannot be made.
    """

    def __init__(self, node_options: dict[str, Any] | None = None, **options: Any):
        build(RecordConfig, options)  # unknown and mistyped options are reported before ROS sees them
        overrides = [Parameter(name, value=value) for name, value in options.items() if value != []]
        super().__init__("record_node", parameter_overrides=overrides, **(node_options or {}))
        self.config: RecordConfig = parameters.declare(self, RecordConfig).read()
        if not self.config.out:
            raise ConfigError("the recorder needs a bag to write: set its option out")
        self.dropped, self.lost = 0, 0
        self.error: ActrecError | None = None
        self._wanted = {self.resolve_topic_name(name) for name in self.config.topics or GRAPH_TOPICS}
        self._sinks: dict[str, Any] = {}
        self._writer = BagWriter(self.config.out)
        self._queue: deque[tuple[Callable[..., None], tuple[Any, ...], int]] = deque()
        self._waiting_bytes = 0
        self._ready = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._write, name="record", daemon=True)
        self._thread.start()
        # A steady clock: topics are looked for while a simulation's stands, or has not begun.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self.create_timer(self.config.discover_s, self.discover, clock=steady)
        self.discover()

    @property
    def counts(self) -> dict[str, int]:
        """Messages written so far, by topic."""
        return dict(self._writer.counts)

    @property
    def bytes_written(self) -> int:
        """Payload written so far."""
        return self._writer.bytes_written

    @property
    def missing(self) -> list[str]:
        """Return the wanted topics that have no publisher yet."""
        return sorted(self._wanted - set(self._sinks))

    def discover(self) -> None:
        """Subscribe to the wanted topics that have a publisher by now."""
        for topic, types in self.get_topic_names_and_types():
            if topic in self._wanted and topic not in self._sinks and self.get_publishers_info_by_topic(topic):
                self._subscribe(topic, types[0])

    def finish(self) -> None:
        """Write the waiting messages, then the index and metadata.yaml; safe to call twice.

        Raises:
            DeviceError: The disk was or is full.
        """
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
        self._sinks[topic] = self.create_subscription(
            _message_class(msgtype),
            topic,
            lambda raw: self._receive(topic, cast("bytes", raw)),
            self._requested(offered),
            raw=True,
            event_callbacks=SubscriptionEventCallbacks(message_lost=self._on_lost),
        )

    def _requested(self, offered: list[QoSProfile]) -> QoSProfile:
        """Connect to every publisher, and gets what latched ones said before."""
        reliable = all(profile.reliability == ReliabilityPolicy.RELIABLE for profile in offered)
        latched = all(profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for profile in offered)
        return QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=self.config.queue_depth,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )

    def _on_lost(self, event: Any) -> None:
        self.lost += event.total_count_change

    def _receive(self, topic: str, raw: bytes) -> None:
        if self.error is not None or self._waiting_bytes > self.config.buffer_mb * 1e6:
            self.dropped += 1
            return
        self._enqueue(len(raw), self._writer.write, topic, self.get_clock().now().nanoseconds, raw)

    def _enqueue(self, size: int, call: Callable[..., None], *arguments: Any) -> None:
        with self._ready:
            self._queue.append((call, arguments, size))
            self._waiting_bytes += size
            self._ready.notify()

    def _write(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    return
                call, arguments, size = self._queue.popleft()
                self._waiting_bytes -= size
            try:
                call(*arguments)
            except ActrecError as error:
                self.error = error
                return
            except Exception as error:  # a fault of any kind must end the recording, not this thread alone
                self.error = DeviceError(f"recording '{self.config.out}' stopped: {type(error).__name__}: {error}")
                return


def _message_class(msgtype: str) -> Any:
    package, _, name = msgtype.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ConfigError(f"cannot record {msgtype}: source the workspace that builds {package}") from error


def _offered(profile: QoSProfile) -> Qos:
    """Return a publisher's QoS as rosbag2 stores it."""

    def duration(value: Any) -> QosTime:
        return QosTime(*divmod(value.nanoseconds, NANOSECONDS))

    return Qos(
        QosHistory(profile.history.value),
        profile.depth,
        QosReliability(profile.reliability.value),
        QosDurability(profile.durability.value),
        duration(profile.deadline),
        duration(profile.lifespan),
        QosLiveliness(profile.liveliness.value),
        duration(profile.liveliness_lease_duration),
        profile.avoid_ros_namespace_conventions,
    )


def record(stopped: threading.Event, progress: Callable[[RecordNode, float], None], **options: Any) -> RecordNode:
    """Record until `stopped` is set, `duration_s` is over or the disk is full; finishes the bag.

    Args:
        stopped: Set it, from a signal handler if need be, to end the recording.
        progress: Called about once a second with the node and the seconds recorded.
        options: Fields of `RecordConfig`.

    Returns:
        The node, destroyed, for its counts.

    Raises:
        ConfigError, DeviceError: As `RecordNode`.
    """
    node = RecordNode(**options)
    duration = node.config.duration_s
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    began, shown = 0.0, time.monotonic()
    try:
        while not stopped.is_set() and node.error is None:
            executor.spin_once(timeout_sec=0.1)
            now = time.monotonic()
            if not began and any(node.counts.values()):
                began = now
            if began and duration and now - began >= duration:
                break
            if now - shown >= 1.0:
                shown = now
                progress(node, now - began if began else 0.0)
    finally:
        executor.remove_node(node)
        executor.shutdown()
        try:
            node.finish()
        finally:
            node.destroy_node()
    return node


def run(
    stopped: threading.Event,
    progress: Callable[[RecordNode, float], None],
    arguments: list[str] | None = None,
    **options: Any,
) -> RecordNode:
    """`record` in a process where ROS is not running yet; the caller handles signals.

    Args:
        stopped: As in `record`.
        progress: As in `record`.
        arguments: The command line, for ROS to find its own in (`--ros-args`).
        options: Fields of `RecordConfig`.
    """
    transport.prepare()
    try:
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:
        raise ConfigError(f"ROS refuses its arguments: {' '.join(str(error).split())}") from error
    try:
        return record(stopped, progress, **options)
    finally:
        rclpy.try_shutdown()


def main() -> int:
    """Entry point of the executable `record_node`, set by ROS parameters; SIGINT and SIGTERM finish the bag."""
    stopped = threading.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, lambda *_: stopped.set())
    try:
        node = run(stopped, lambda node, seconds: node.get_logger().debug(f"{seconds:.0f} s {node.counts}"), sys.argv)
    except ActrecError as error:
        print(f"record_node: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    print(f"record_node: {node.config.out}: {sum(node.counts.values())} messages, {node.dropped + node.lost} lost")
    return 0
