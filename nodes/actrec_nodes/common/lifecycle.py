"""The base of every node: lifecycle, parameters, errors of one line, statistics, and a thread for its work."""

import contextlib
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import String

from actrec.utils.config import setting
from actrec.utils.errors import AbortedError, ActrecError, DeviceError
from actrec_nodes.common import diagnostics, parameters, topics
from actrec_nodes.common.diagnostics import RepeatedLines, Statistics, shorten
from actrec_nodes.common.subscriptions import publisher_events

ConfigT = TypeVar("ConfigT")
T = TypeVar("T")

LAST_STATISTICS_S = 0.5  # time for the last statistics to reach subscribers
FINISH_S, INTERRUPT_S = 0.2, 0.05  # for work in progress when a node stops: until it is interrupted, and again


@dataclass(frozen=True)
class CommonConfig:
    """Parameters of every node."""

    autostart: bool = setting(False, "Configure and activate at start, without a lifecycle manager.")
    start_after: str = setting("", "With autostart: comma-separated nodes to be active before, within a minute.")
    start_retry_s: float = setting(
        0.0,
        "With autostart: longest pause before another attempt to start after one has failed; "
        "0: no other attempt, the process ends with status 1.",
        unit="s",
        range=(0.0, 3600.0),
    )
    statistics_period_s: float = setting(10.0, "Interval of statistics; 0 for none.", unit="s", range=(0.0, 3600.0))
    startup_s: float = setting(
        30.0,
        "Time for the first message of an input, while its publisher starts: until then its absence is information; "
        "then a warning, and after twice this time an error.",
        unit="s",
        range=(0.0, 600.0),
    )


class ActrecNode(LifecycleNode, Generic[ConfigT]):
    """A lifecycle node whose parameters are the fields of a settings dataclass.

    A subclass overrides `configure`, `activate`, `deactivate` and `cleanup`. An `ActrecError` raised in one of them
    becomes one logged line, a diagnostic, and a failed transition.

    Args:
        name, config_class: Node name, and settings dataclass.
        **node_options: Passed to rclpy: `context`, `namespace`, `parameter_overrides`, `cli_args`, …

    Attributes:
        config: The validated settings, from `configure` on.
        statistics: Counters, reset by each activation.
        exit_status: Set when the node has no more work: a recording has ended, or the node was shut down.
        is_interrupted: Returns whether the process is to end, so that a long transition gives up.
        busy: What the node does before it can work, for the diagnostics; else empty (`working`).
        patiently: Returns a context in which a call of a library may keep Python's lock for long.
        on_finish: Called when `exit_status` is set.
    """

    config: ConfigT
    _state_machine: Any  # rclpy's

    def __init__(self, name: str, config_class: type[ConfigT], **node_options: Any):
        super().__init__(name, **node_options)
        self._settings = parameters.Parameters(self, config_class)
        self._common = parameters.Parameters(self, CommonConfig)
        self.statistics = Statistics()
        self.last_error = ""
        self.exit_status: int | None = None
        self.is_interrupted: Callable[[], bool] = lambda: False
        self.busy = ""
        self.patiently: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        self.on_finish: Callable[[], None] = lambda: None
        self._complaints = RepeatedLines()
        self._worker: Worker[Any] | None = None
        self._steady_timers: list[Any] = []
        self._outputs: list[Any] = []
        self._reported, self._waiting, self._waiting_level = 0, "", ""
        self._diagnostics = diagnostics.Publisher(self)
        self._statistics_publisher = self.create_publisher(String, "~/statistics", topics.LATCHED)
        self.add_on_set_parameters_callback(self._on_set_parameters)

    @classmethod
    def preload(cls, value: Callable[[str], Any]) -> None:
        """Import the modules of `configure`; `value` returns a parameter that is given, else None. Start no thread."""

    def configure(self) -> None:
        """Build the core and the publishers from `self.config`."""

    def activate(self) -> None:
        """Subscribe and start threads."""

    def deactivate(self) -> None:
        """Unsubscribe and stop threads, before the worker stops; also called if `activate` failed."""

    def cleanup(self) -> None:
        """Free the results of `configure`; also called if `configure` failed."""

    def figures(self) -> Mapping[str, float | int | str]:
        """Return figures in addition to the common statistics."""
        return {}

    def follow_subscribers(self, _: Any = None) -> None:
        """React to a subscriber of an output that came or went; called by the middleware, but not in Humble."""

    def answer_clients(self) -> None:
        """Answer the clients that wait for a result, while the node still spins: its process ends next."""

    def interrupt(self) -> None:
        """End the work in progress, which raises; called again and again while the worker stops."""

    def wait_idle(self, timeout_s: float) -> bool:
        """Block until every received input is processed; return False after `timeout_s`."""
        worker = self._worker
        return worker is None or worker.wait_idle(timeout_s)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters and build the core."""
        return self._attempt("configure", self._configure, self._cleanup)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Enable the publishers, then start."""
        self.statistics.reset()
        self._reported, self._waiting, self._waiting_level = 0, "", ""
        super().on_activate(state)
        result = self._attempt("activate", self.activate, self._deactivate)
        if result == TransitionCallbackReturn.SUCCESS:
            self.start_timer(self._common.read().statistics_period_s, self.report)
        else:
            super().on_deactivate(state)
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop, then disable the publishers."""
        result = self._attempt("deactivate", self._deactivate)
        self.report()
        # The process may end next, and the messages in flight are lost. Not every middleware counts acknowledgements.
        with contextlib.suppress(RuntimeError):
            self._statistics_publisher.wait_for_all_acked(Duration(seconds=LAST_STATISTICS_S))
        super().on_deactivate(state)
        return result

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the core."""
        return self._attempt("clean up", self._cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free in any state."""
        if state.label == "active":
            self.on_deactivate(state)
        result = self._attempt("shut down", self._cleanup)
        self.finish(0)
        return result

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free after an unexpected error; the node is unconfigured and can be configured again."""
        self._attempt("deactivate", self._deactivate)
        return self._attempt("clean up", self._cleanup)

    def start(self) -> bool:
        """Configure and activate, as far as it is not yet; return False if either failed, which has been logged."""
        success = TransitionCallbackReturn.SUCCESS
        if self._lifecycle_state == "unconfigured" and self.trigger_configure() != success:
            return False
        return self.is_active or bool(self.trigger_activate() == success)

    @property
    def autostart(self) -> bool:
        """Whether the process of the node starts it."""
        return bool(self.get_parameter("autostart").value)

    @property
    def start_after(self) -> list[str]:
        """The nodes of other processes that are active before this one is activated."""
        return [name.strip() for name in str(self.get_parameter("start_after").value).split(",") if name.strip()]

    @property
    def start_retry_s(self) -> float:
        """Longest pause before another attempt to start, seconds; 0 for none."""
        return float(self.get_parameter("start_retry_s").value)

    @property
    def startup_s(self) -> float:
        """The parameter of this name."""
        return self._common.read().startup_s

    @property
    def is_active(self) -> bool:
        """Whether the node is in the lifecycle state `active`."""
        return self._lifecycle_state == "active"

    @property
    def _lifecycle_state(self) -> str:
        return str(self._state_machine.current_state[1]) if self._state_machine is not None else "destroyed"

    def finish(self, status: int) -> None:
        """Set the exit status, once, and call `on_finish`."""
        if self.exit_status is None:
            self.exit_status = status
            self.on_finish()

    def close(self) -> None:
        """Stop and free in any state, before the node is destroyed. Safe to call twice."""
        if self.is_active:
            self.trigger_deactivate()
        if self._lifecycle_state == "inactive":
            self.trigger_cleanup()

    def destroy_node(self) -> None:
        """Destroy the node with its lifecycle, which rclpy keeps, and with it the node's entry in the ROS graph.

        Otherwise the node and its DDS participant end when Python collects garbage, in any thread.
        """
        super().destroy_node()
        self._state_machine = None

    def create_output(self, kind: type, topic: str, profile: Any = topics.SMALL, deadline_s: float = 0.0) -> Any:
        """Create a publisher that publishes while the node is active, and is destroyed by `cleanup`.

        It offers a liveliness lease, and a deadline if one is given (`topics.leased`).
        """
        events = publisher_events(self, topic, profile, self.warn, self.follow_subscribers)
        offered = topics.leased(profile, deadline_s)
        self._outputs.append(self.create_lifecycle_publisher(kind, topic, offered, event_callbacks=events))
        return self._outputs[-1]

    def start_timer(self, period_s: float, callback: Callable[[], None]) -> None:
        """Start a timer of a steady clock (a simulated one may stand still) until deactivation; none for 0 s."""
        if period_s > 0:
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._steady_timers.append(self.create_timer(period_s, callback, clock=steady))

    def start_worker(self, work: Callable[[T], None], stamp_ns: Callable[[T], int], capacity: int = 1) -> "Worker[T]":
        """Start a worker, until deactivation, that reports errors to the node."""
        worker = Worker(work, self.fail, self.statistics, capacity, age=lambda item: self.age(stamp_ns(item)))
        worker.start(self.get_name())
        self._worker = worker
        return worker

    def fail(self, error: Exception) -> None:
        """Report an error as one line: logged (repetitions counted), kept for the statistics and diagnostics."""
        self.last_error = line = one_line(error)
        self.statistics.error(line)
        self.complain(line)
        if not isinstance(error, ActrecError):
            self.get_logger().debug("".join(traceback.format_exception(type(error), error, error.__traceback__)))

    def wait_for_input(self, line: str, waited_s: float) -> None:
        """Report that the first message of an input has not come for `waited_s`: each level of `startup_s` once."""
        startup_s = self.startup_s
        if waited_s >= 2 * startup_s:
            self._waiting = ""
            self.fail(DeviceError(line))
            return
        level = "info" if waited_s < startup_s else "warning"
        if level != self._waiting_level:
            self._waiting_level = level
            self._log(line, level)
        self._waiting = self.last_error = line
        self.statistics.error(line, recent=False)

    def end_waiting(self) -> None:
        """Withdraw what `wait_for_input` reported: the input has come."""
        if self._waiting and self.last_error == self._waiting:
            self.last_error = ""
            self.statistics.error("", recent=False)
        self._waiting = ""

    def complain(self, line: str, level: str = "error") -> None:
        """Log a line, but once per `REPEAT_S`, with the number of repetitions between.

        Lines that differ in numbers only, such as stamps, counts or ids, are repetitions.
        """
        held = self._complaints.count(shorten(line))
        if held is not None:
            self._log(f"{line} (and {held} times more)" if held else line, level)

    def _log(self, message: str, level: str) -> None:
        message = shorten(message)  # a name in it may come from a message
        # rclpy ties a severity to a line of code, so each has its own.
        if level == "info":
            self.get_logger().info(message)
        elif level == "warning":
            self.get_logger().warning(message)
        else:
            self.get_logger().error(message)

    def warn(self, line: str) -> None:
        """Log a warning as `complain` does."""
        self.complain(line, "warning")

    def age(self, stamp_ns: int) -> float:
        """Return the seconds from a stamp to now on the node's clock (simulated with `use_sim_time`)."""
        return (self.get_clock().now().nanoseconds - stamp_ns) / 1e9

    @contextlib.contextmanager
    def working(self, on: str) -> Iterator[None]:
        """State in the statistics and diagnostics that the node works `on` something before it can go on.

        Its process is then not taken for one that hangs, although it may not answer for a minute.
        """
        before, self.busy = self.busy, on
        try:
            with self.patiently():
                self.report()
                yield
        finally:
            self.busy = before
            self.report()

    def report(self) -> None:
        """Publish and log the figures now."""
        snapshot, own = self.statistics.snapshot(), self.figures()
        own = {**own, "busy": self.busy} if self.busy else own
        self._statistics_publisher.publish(String(data=snapshot.json(own)))
        self._diagnostics.publish(
            snapshot, self.is_active, self.statistics.seconds_since_error(), self.busy or self._waiting, own
        )
        if snapshot.received != self._reported:
            self._reported = snapshot.received
            self.get_logger().info(snapshot.line())

    def _on_set_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        """Warn that transitions read the parameters, so that they are checked together."""
        late = [p.name for p in parameters if self._is_late(p)] if self.is_active else []
        if late:
            self.warn(
                f"{', '.join(late)}: set, but used only after the node is configured again "
                f"(ros2 lifecycle set {self.get_fully_qualified_name()} deactivate, then cleanup, configure, activate)"
            )
        return SetParametersResult(successful=True)

    def _is_late(self, parameter: Parameter) -> bool:
        """Return whether a value differs from that in use; one that is being declared is read at once."""
        name = parameter.name
        if name == "use_sim_time" or not self.has_parameter(name) or self.get_parameter(name).value == parameter.value:
            return False
        return getattr(self.config, name, None) != parameter.value

    def _configure(self) -> None:
        self._common.read()
        self.config = self._settings.read()
        self.configure()

    def _deactivate(self) -> None:
        for timer in self._steady_timers:
            self.destroy_timer(timer)
        self._steady_timers.clear()
        try:
            self.deactivate()
        finally:
            if self._worker is not None:
                self._worker.stop(self.interrupt)
                self._worker = None

    def _cleanup(self) -> None:
        try:
            self.cleanup()
        finally:
            for publisher in self._outputs:
                self.destroy_lifecycle_publisher(publisher)
            self._outputs.clear()

    def _attempt(self, what: str, action: Callable[[], None], undo: Callable[[], None] | None = None) -> Any:
        try:
            with self.patiently():
                action()
            return TransitionCallbackReturn.SUCCESS
        except Exception as error:
            line = f"cannot {what}: {one_line(error)}"
            if isinstance(error, AbortedError):  # the process ends, which is no fault
                self.get_logger().info(line)
                return self._undo(what, undo)
            self.last_error = line
            self.statistics.error(line)
            self.get_logger().error(line)
            self._diagnostics.publish(self.statistics.snapshot(), False, 0.0)
            if not isinstance(error, ActrecError):
                self.get_logger().debug(traceback.format_exc())
        return self._undo(what, undo)

    def _undo(self, what: str, undo: Callable[[], None] | None) -> Any:
        if undo is not None:
            self._attempt(f"undo {what}", undo)
        return TransitionCallbackReturn.FAILURE


def one_line(error: Exception) -> str:
    """Return an error as one line of `shorten`; an unexpected one with its type."""
    text = shorten(str(error))
    return text if isinstance(error, ActrecError) else f"{type(error).__name__}: {text}"


class Worker(Generic[T]):
    """A thread that works on the newest inputs, so that callbacks return at once.

    Args:
        work: Called with each input, in the thread.
        on_error: Called with an exception of `work`; the thread continues.
        statistics: Counts received, processed, dropped and failed inputs.
        capacity: Length of the queue; a further input replaces the oldest. 1: only the newest frame.
        age: Returns the age of an input's stamp in seconds when its work is done, or None if it has none.
    """

    def __init__(
        self,
        work: Callable[[T], None],
        on_error: Callable[[Exception], None],
        statistics: Statistics,
        capacity: int = 1,
        age: Callable[[T], float | None] = lambda item: None,
    ):
        self._work, self._on_error, self._statistics, self._age = work, on_error, statistics, age
        self._waiting: deque[T] = deque()
        self._capacity = capacity
        self._condition = threading.Condition()
        self._stopping = False
        self._idle = True
        self._thread: threading.Thread | None = None

    def start(self, name: str = "worker") -> None:
        """Start the thread."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self, interrupt: Callable[[], None] = lambda: None) -> None:
        """Clear the queue, finish the current work, and join the thread. Safe to call twice.

        `interrupt` may end work that takes long; it is called until the thread has ended.
        """
        with self._condition:
            self._stopping = True
            self._waiting.clear()
            self._condition.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(FINISH_S)
            while self._thread.is_alive():
                interrupt()
                self._thread.join(INTERRUPT_S)
            self._thread = None

    def put(self, item: T) -> None:
        """Add an input to the queue; never blocks."""
        with self._condition:
            if self._stopping:
                return
            dropped = len(self._waiting) >= self._capacity
            if dropped:
                self._waiting.popleft()
            self._waiting.append(item)
            self._statistics.count("received")
            self._statistics.count("dropped", int(dropped))
            self._statistics.queue(len(self._waiting))
            self._condition.notify_all()

    def wait_idle(self, timeout_s: float) -> bool:
        """Block until the queue is empty and no work runs; return False after `timeout_s`."""
        with self._condition:
            return self._condition.wait_for(lambda: self._idle and not self._waiting, timeout_s)

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._waiting or self._stopping)
                if self._stopping:
                    return
                item = self._waiting.popleft()
                self._statistics.queue(len(self._waiting))
                self._idle = False
            began = time.monotonic()
            try:
                self._work(item)
            except Exception as error:  # the thread must outlive a bad input; the node reports it
                self._statistics.count("failed")
                self._on_error(error)
            else:
                self._statistics.done(time.monotonic() - began, self._age(item))
            with self._condition:
                self._idle = True
                self._condition.notify_all()
