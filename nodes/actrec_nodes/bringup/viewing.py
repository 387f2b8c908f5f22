"""Images, people, labels and events of a running graph, for `actrec view`."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from actrec_msgs.msg import ActionEvent, ActionLabel
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_msgs.msg import String

from actrec.types import NANOSECONDS
from actrec.utils.errors import ActrecError
from actrec.utils.waiting import Waiting
from actrec.visualization.overlay import Caption
from actrec.visualization.snapshots import LiveView
from actrec_nodes.bringup.processes import spinning
from actrec_nodes.common import conversions, parameters, topics
from actrec_nodes.common.diagnostics import PLAUSIBLE_LATENCY_S, Statistics
from actrec_nodes.common.frame_node import FrameSubscription
from actrec_nodes.common.lifecycle import Worker
from actrec_nodes.common.snapshot_subscription import SnapshotConfig, SnapshotMessages, SnapshotSubscription
from actrec_nodes.common.subscriptions import Subscription
from actrec_nodes.common.synchronizer import SynchronizerConfig

QUEUE = 8  # snapshots that wait to be shown
TICK_S = 0.1
NOTICE_S = 2.0  # without images for this long, the view shows why

START = "start the graph first (actrec run), or give --driver"


class ViewNode(Node):
    """Passes messages to a view, images and people only while it wants them.

    Args:
        view: Receives everything, in several threads.
        config: What is shown.

    Attributes:
        received: Whether people, images or labels have arrived.
    """

    def __init__(self, view: LiveView, config: SnapshotConfig, **node_options: Any):
        super().__init__("actrec_view", **node_options)
        self.received = False
        self._view, self._config = view, config
        self._synchronizer = parameters.Parameters(self, SynchronizerConfig).read()  # as in the nodes of the graph
        self._worker: Worker[SnapshotMessages] = Worker(self._show, self._report, Statistics(), QUEUE)
        self._worker.start("view")
        self._frames: FrameSubscription | None = None
        self._snapshots: SnapshotSubscription | None = None
        self._checked = 0.0
        kinds: tuple[tuple[type, str, Callable[[Any], None], Any], ...] = (
            (ActionLabel, topics.ACTION_LABEL, self._on_label, topics.SMALL),
            (ActionEvent, topics.ACTION_EVENTS, self._on_event, topics.SMALL),
            (String, topics.RECOGNIZER_STATISTICS, self._on_statistics, topics.LATCHED),
        )
        for kind, topic, callback, profile in kinds:
            Subscription(self, kind, topic, self._counted(callback), profile, self._warn)
        self.create_timer(TICK_S, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._tick()

    @property
    def silent(self) -> str:
        """Why no images arrive; empty while they do, or if they are not wanted."""
        return self._frames.silent() if self._frames is not None else ""

    def destroy_node(self) -> None:
        """Unsubscribe and stop, then destroy the node."""
        self._unsubscribe()
        self._worker.stop()
        super().destroy_node()

    def _tick(self) -> None:
        if self._view.wants_images != (self._snapshots is not None):
            if self._snapshots is None:
                self._subscribe()
            else:
                self._unsubscribe()
        if self._snapshots is None:
            return
        self._snapshots.advance()
        now = time.monotonic()
        if now - self._checked >= NOTICE_S:
            self._checked = now
            self._snapshots.follow()
            why = self.silent
            self._view.figures({"notice": f"{why}; {START}" if why and not self.received else why})

    def _subscribe(self) -> None:
        self._checked = time.monotonic()
        self._snapshots = snapshots = SnapshotSubscription(self, self._config, self._put, self._warn)
        self._frames = FrameSubscription(self, self._synchronizer, snapshots.add_images, self._warn)

    def _unsubscribe(self) -> None:
        if self._frames is not None:
            self._frames.close()
        if self._snapshots is not None:
            self._snapshots.close()
        self._frames = self._snapshots = None

    def _put(self, messages: SnapshotMessages) -> None:
        self.received = True
        self._worker.put(messages)

    def _show(self, messages: SnapshotMessages) -> None:
        self._view.show(messages.snapshot(rgbd=self._warn))

    def _report(self, error: Exception) -> None:
        self._warn(str(error) if isinstance(error, ActrecError) else f"{type(error).__name__}: {error}")

    def _counted(self, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        def receive(message: Any) -> None:
            with self._guarded():
                callback(message)

        return receive

    def _on_label(self, message: ActionLabel) -> None:
        self.received = True
        stamp_ns = conversions.stamp_to_ns(message.header.stamp)
        latency_s = (self.get_clock().now().nanoseconds - stamp_ns) / NANOSECONDS
        plausible = latency_s if 0 <= latency_s < PLAUSIBLE_LATENCY_S else None
        caption = Caption(message.label, message.confidence)
        self._view.label(stamp_ns, message.body_id, caption, plausible, message.model_name)

    def _on_event(self, message: ActionEvent) -> None:
        self._view.event(conversions.message_to_event(message))

    def _on_statistics(self, message: String) -> None:
        figures = conversions.message_to_statistics(message)
        self._view.figures({name: figures[name] for name in ("model", "device") if figures.get(name)})

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Log the error of a bad message, which must not stop the node."""
        try:
            yield
        except (ActrecError, ValueError) as error:
            self._warn(str(error))

    def _warn(self, line: str) -> None:
        self.get_logger().warning(line, throttle_duration_sec=5.0)


def run(
    view: LiveView,
    stopped: threading.Event,
    duration_s: float,
    arguments: Sequence[str] = (),
    config: SnapshotConfig | None = None,
    waiting: Waiting | None = None,
) -> None:
    """Show the running graph for a duration, or for 0 s until `stopped` is set; the caller handles signals.

    Args:
        waiting: For the first message, before the duration begins; None to show the view in any case.

    Raises:
        DeviceError: Nothing is published.
    """
    given = [sys.argv[0], "--ros-args", *(word for word in arguments if word != "--ros-args")]
    with spinning(lambda context: ViewNode(view, config or SnapshotConfig(), context=context), given) as node:
        if waiting is None or waiting.until(
            lambda: node.received,
            "images, people or labels of a graph",
            lambda: node.silent or "none is readable",
            START,
        ):
            stopped.wait(duration_s or None)
