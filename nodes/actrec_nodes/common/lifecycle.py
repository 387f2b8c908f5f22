"""The base of every node: lifecycle, parameters, errors of one line, statistics."""

import contextlib
import re
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import String

from actrec.utils.config import setting
from actrec.utils.errors import ActrecError
from actrec_nodes.common import diagnostics, parameters, topics
from actrec_nodes.common.diagnostics import Statistics

ConfigT = TypeVar("ConfigT")

REPEAT_S = 5.0
"""The same complaint is logged at most this often."""

LAST_WORD_S = 0.5
"""How long the last figures may take to reach subscribers."""

COMPLAINTS = 100
"""Complaints known as said already."""


@dataclass(frozen=True)
class CommonConfig:
    """What every node has."""

    autostart: bool = setting(False, "Configure and activate at start, without a lifecycle manager.")
    start_after: str = setting(
        "", "With autostart: nodes, comma-separated, that are waited for until they are active, for a minute at most."
    )
    statistics_period_s: float = setting(
        10.0, "How often figures are published and logged; 0 for never.", unit="s", range=(0.0, 3600.0)
    )


class ActrecNode(LifecycleNode, Generic[ConfigT]):
    """A lifecycle node made from a settings dataclass.

    A subclass overrides the four hooks `configure`, `activate`, `deactivate` and `cleanup`, any of which
    may raise. An `ActrecError` becomes one logged line, a diagnostic, and a failed transition.

    Args:
        name: Node name.
        config_class: Settings dataclass; its fields are the node's parameters.
        **node_options: Passed to rclpy (`context`, `namespace`, `parameter_overrides`, `cli_args`, …).

    Attributes:
        config: The validated settings, from `configure` on.
        statistics: Counters, reset by each activation.
        exit_status: Set where the node has nothing more to do (a recording has ended, the node was shut down).
        busy: What it does before it can do its work, for the diagnostics; empty for nothing.
        on_finish: Called when `exit_status` is set; for the process that runs the node.
    """

    config: ConfigT
    _state_machine: Any  # rclpy's

    def __init__(self, name: str, config_class: type[ConfigT], **node_options: Any):
        super().__init__(name, **node_options)
        self._settings = parameters.declare(self, config_class)
        self._common = parameters.declare(self, CommonConfig)
        self.statistics = Statistics()
        self.last_error = ""
        self.exit_status: int | None = None
        self.busy = ""
        self.on_finish: Callable[[], None] = lambda: None
        self._complaints: dict[str, tuple[float, int]] = {}
        self._complaints_lock = threading.Lock()
        self._timer: Any = None
        self._reported = 0
        self._diagnostics = diagnostics.Publisher(self)
        self._statistics_publisher = self.create_publisher(String, "~/statistics", topics.LATCHED)
        self.add_on_set_parameters_callback(self._on_set_parameters)

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def configure(self) -> None:
        """Build the core and the publishers from `self.config`; may raise ActrecError."""

    def activate(self) -> None:
        """Subscribe and start threads; may raise ActrecError."""

    def deactivate(self) -> None:
        """Unsubscribes and stop threads; also called where `activate` failed half-way."""

    def cleanup(self) -> None:
        """Frees what `configure` made; also called where `configure` failed half-way."""

    def figures(self) -> Mapping[str, float | int | str]:
        """Return the node's own figures, in addition to the common ones."""
        return {}

    def wait_idle(self, timeout_s: float) -> bool:
        """Block until every received input is processed; return False if that took longer than `timeout_s`."""
        return True

    # -- transitions ---------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters and builds the core."""
        return self._attempt("configure", self._configure, self.cleanup)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Enable the publishers, then starts."""
        self.statistics.reset()
        self._reported = 0
        super().on_activate(state)
        result = self._attempt("activate", self.activate, self.deactivate)
        if result == TransitionCallbackReturn.SUCCESS:
            self._start_timer()
        else:
            super().on_deactivate(state)
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop, then disables the publishers."""
        self._stop_timer()
        result = self._attempt("deactivate", self.deactivate)
        self.report()
        # The process may end next, and with it messages in flight. Not every middleware knows which have arrived.
        with contextlib.suppress(RuntimeError):
            self._statistics_publisher.wait_for_all_acked(Duration(seconds=LAST_WORD_S))
        super().on_deactivate(state)
        return result

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees the core."""
        return self._attempt("clean up", self.cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free whatever state the node is in."""
        if state.label == "active":
            self.on_deactivate(state)
        result = self._attempt("shut down", self.cleanup)
        self.finish(0)
        return result

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After an unexpected error the node is unconfigured again and can be retried."""
        self._stop_timer()
        self._attempt("deactivate", self.deactivate)
        return self._attempt("clean up", self.cleanup)

    def start(self) -> bool:
        """Configure and activates; False where either failed (already reported)."""
        return (
            self.trigger_configure() == TransitionCallbackReturn.SUCCESS
            and self.trigger_activate() == TransitionCallbackReturn.SUCCESS
        )

    @property
    def autostart(self) -> bool:
        """Whether the process that runs the node is to start it."""
        return bool(self.get_parameter("autostart").value)

    @property
    def start_after(self) -> list[str]:
        """The nodes in other processes that are to be active before this one is started."""
        return [name.strip() for name in str(self.get_parameter("start_after").value).split(",") if name.strip()]

    @property
    def is_active(self) -> bool:
        """Whether the node is in the lifecycle state `active`."""
        return self._lifecycle_state == "active"

    @property
    def _lifecycle_state(self) -> str:
        return str(self._state_machine.current_state[1]) if self._state_machine is not None else "destroyed"

    def finish(self, status: int) -> None:
        """Says that there is nothing more to do; the process or the runner may end with `status`."""
        if self.exit_status is None:
            self.exit_status = status
            self.on_finish()

    # -- errors and figures --------------------------------------------------------------------------------------------

    def fail(self, error: Exception) -> None:
        """Report an error as one line: logged (repeats counted), kept for the statistics and diagnostics."""
        line = one_line(error)
        self.last_error = line
        self.statistics.error(line)
        self.complain(line)
        if not isinstance(error, ActrecError):
            self.get_logger().debug("".join(traceback.format_exception(type(error), error, error.__traceback__)))

    def complain(self, line: str, level: str = "error") -> None:
        """Log a line, but the same one at most every few seconds; says how often it came in between.

        Lines that differ in numbers alone are the same: TF's bear stamps, others counts or ids, new ones in each frame.
        """
        now, kind = time.monotonic(), _NUMBER.sub("0", line)
        with self._complaints_lock:
            last, held = self._complaints.pop(kind, (float("-inf"), 0))
            due = now - last >= REPEAT_S
            self._complaints[kind] = (now, 0) if due else (last, held + 1)  # the newest come last
            if len(self._complaints) > COMPLAINTS:
                del self._complaints[next(iter(self._complaints))]
        if not due:
            return
        message = f"{line} (and {held} times more)" if held else line
        # rclpy ties a severity to a line of code, so each has its own.
        if level == "warning":
            self.get_logger().warning(message)
        else:
            self.get_logger().error(message)

    def age(self, stamp_ns: int) -> float:
        """Seconds from a stamp to now on the node's clock (simulated where `use_sim_time`)."""
        return (self.get_clock().now().nanoseconds - stamp_ns) / 1e9

    def report(self) -> None:
        """Publish and log the figures now."""
        snapshot, own = self.statistics.snapshot(), self.figures()
        self._statistics_publisher.publish(String(data=snapshot.json(own)))
        self._diagnostics.publish(snapshot, self.is_active, self.statistics.seconds_since_error(), self.busy, own)
        if snapshot.received != self._reported:
            self._reported = snapshot.received
            self.get_logger().info(snapshot.line())

    def close(self) -> None:
        """Stop and free whatever state the node is in, before it is destroyed. Safe to call twice."""
        if self.is_active:
            self.trigger_deactivate()
        if self._lifecycle_state == "inactive":
            self.trigger_cleanup()

    def destroy_node(self) -> None:
        """Destroys the node with its lifecycle, which rclpy forgets and which keeps it known to the others.

        Otherwise the node, and with the last of a process its DDS participant, ends whenever Python collects garbage,
        in whichever thread that happens.
        """
        super().destroy_node()
        self._state_machine = None

    def _on_set_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        """Says that a new value waits: parameters are read by transitions, so that they are checked together."""
        late = [p.name for p in parameters if self._waits(p)] if self.is_active else []
        if late:
            self.complain(
                f"{', '.join(late)}: set, but used only after the node is configured again "
                f"(ros2 lifecycle set {self.get_fully_qualified_name()} deactivate, then cleanup, configure, activate)",
                "warning",
            )
        return SetParametersResult(successful=True)

    def _waits(self, parameter: Parameter) -> bool:
        """Whether a value differs from that in use; one that is being declared is read at once."""
        name = parameter.name
        if name == "use_sim_time" or not self.has_parameter(name) or self.get_parameter(name).value == parameter.value:
            return False
        return getattr(self.config, name, None) != parameter.value

    def _configure(self) -> None:
        self._common.read()
        self.config = self._settings.read()
        self.configure()

    def _attempt(self, what: str, action: Callable[[], None], undo: Callable[[], None] | None = None) -> Any:
        try:
            action()
            return TransitionCallbackReturn.SUCCESS
        except Exception as error:
            line = f"cannot {what}: {one_line(error)}"
            self.last_error = line
            self.statistics.error(line)
            self.get_logger().error(line)
            self._diagnostics.publish(self.statistics.snapshot(), False, 0.0)
            if not isinstance(error, ActrecError):
                self.get_logger().debug(traceback.format_exc())
        if undo is not None:
            self._attempt(f"undo {what}", undo)
        return TransitionCallbackReturn.FAILURE

    def _start_timer(self) -> None:
        period = self._common.read().statistics_period_s
        if period > 0:
            # A steady clock: figures are of this machine's time, whatever the simulated clock does.
            self._timer = self.create_timer(period, self.report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None


_NUMBER = re.compile(r"\d+")


def one_line(error: Exception) -> str:
    """Return an error as one line; an unexpected one with its type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ActrecError) else f"{type(error).__name__}: {text}"
