"""Nodes of this process, each in an executor thread of its own, that start and end cleanly.

`python -m actrec_nodes.bringup.processes camera_node --ros-args …` runs one node, as its executable does.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import cv2
import rclpy
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from actrec.utils import folders, stop_signals
from actrec.utils.errors import ActrecError, ConfigError
from actrec_nodes.bringup import graph, transport
from actrec_nodes.bringup.endings import end_after, end_with_parent, ending_if_stuck, ending_within, patiently
from actrec_nodes.bringup.health import GraphHealth
from actrec_nodes.bringup.supervisor import Backoff, wait_before_start
from actrec_nodes.common import parameter_files
from actrec_nodes.common.lifecycle import ActrecNode, one_line
from actrec_nodes.common.participants import bare_node

logger = logging.getLogger(__name__)

N = TypeVar("N", bound=Node)
NodeClass = Callable[..., ActrecNode[Any]]

DRAIN_S = 5.0  # time to process the last inputs after a recording has ended
READY_S = 60.0  # time to wait for the nodes of `start_after`
WATCHED = "ACTREC_WATCHED"  # environment variable: comma-separated nodes whose health this process reports to systemd
EXIT_S = 8.0  # time for a process to end: `ros2 launch` kills it after 10 s
LOST_STATUS = 75  # exit status of a process that others no longer reach, a temporary failure: it is started again
FIRST_RETRY_S = 1.0  # pause after the first failed start of a node; doubled from one to the next

_REPORT_S = 5.0  # interval of diagnostics of a node that waits for its next start
_STEP_S = 0.05
_ANSWER_S = 1.0


@contextlib.contextmanager
def ros(
    args: Sequence[str] | None = None,
    handle_signals: bool = True,
    stopped: threading.Event | None = None,
    images: bool = True,
) -> Iterator[Context]:
    """Initialize ROS for this process, with the part of a command line after `--ros-args` and our image transport.

    rclpy's signal handlers are disabled: they invalidate publishers before a node can publish its last message. The
    first SIGINT or SIGTERM raises KeyboardInterrupt, or the caller handles signals. So does one before, which has set
    `stopped`. `images` is whether the process publishes or takes images (`transport.prepare`).

    Raises:
        ConfigError: ROS cannot read the command line or a parameter file in it.
        DeviceError: No folder for logs can be written.
    """
    transport.prepare(images=images, args=args or ())
    # OpenCV's other threads wait actively for their share of each small operation, so they take a processor from nodes.
    cv2.setNumThreads(1)
    if warning := folders.prepare_ros_logs():
        logger.warning(warning)
    context = Context()
    with _interruptible() if handle_signals else contextlib.nullcontext():
        if stopped is not None and stopped.is_set():
            raise KeyboardInterrupt
        try:
            with uninterrupted():
                rclpy.init(args=list(args or []), context=context, signal_handler_options=SignalHandlerOptions.NO)
        except RuntimeError as error:
            raise ConfigError(f"ROS refuses its arguments: {' '.join(str(error).split())}") from error
        try:
            yield context
        finally:
            context.try_shutdown()


class _Signals:
    """State of `_interruptible`, of the main thread: signals so far, and whether `uninterrupted` holds the first.

    `pending` is whether it holds one back now.
    """

    count = 0
    held = False
    pending = False


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first signal to stop; ignore the second during the clean-up, not the third.

    A terminal and a launch file can both send SIGINT at one Ctrl-C. A terminal that closes sends SIGHUP.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Signals.count, interrupted = 0, False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        _Signals.count += 1
        if _Signals.count > 2:
            os._exit(128 + number)
        if not interrupted and (not _Signals.held or _Signals.count == 2):
            interrupted = True
            raise KeyboardInterrupt
        _Signals.pending = _Signals.held

    previous = {number: signal.signal(number, interrupt) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Raise KeyboardInterrupt after this block, not in it: it could break the import of a compiled module.

    A second signal interrupts the block, which may not end by itself.
    """
    if _Signals.held or threading.current_thread() is not threading.main_thread():
        yield
        return
    before, _Signals.held = _Signals.count, True
    try:
        yield
    finally:
        _Signals.held = _Signals.pending = False
    if _Signals.count > before:
        raise KeyboardInterrupt


class Host(contextlib.AbstractContextManager["Host", None]):
    """Owns nodes and the threads that spin them; a context manager that stops and destroys them."""

    def __init__(self, context: Context):
        self._context = context
        self._spun: list[tuple[Node, SingleThreadedExecutor, threading.Thread]] = []
        self._starting: list[threading.Thread] = []
        self._finished = threading.Event()
        self._ending, self._stopping = threading.Event(), threading.Event()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def nodes(self) -> list[ActrecNode[Any]]:
        """The lifecycle nodes, in the order they were added."""
        return [node for node, _, _ in self._spun if isinstance(node, ActrecNode)]

    def add(self, node: Node) -> None:
        """Take ownership of a node and spin it."""
        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(node)
        if isinstance(node, ActrecNode):
            node.on_finish = self._finished.set
            node.is_interrupted = lambda: self._ending.is_set() or _Signals.pending
            node.patiently = patiently
        thread = threading.Thread(target=self._spin, args=(executor, node), name=node.get_name(), daemon=True)
        self._spun.append((node, executor, thread))
        thread.start()

    def start(
        self, nodes: Sequence[ActrecNode[Any]] | None = None, wait: Callable[[], None] = lambda: None
    ) -> str | None:
        """Configure the nodes, call `wait`, and activate them, so that models are loaded before the first frame.

        A node with the parameter `start_retry_s` that fails is started again, with growing pauses, in a thread.

        Args:
            nodes: By default all.
            wait: Called between.

        Returns:
            The name of the first that failed without another attempt, which has logged its error; else None.
        """
        failed: list[ActrecNode[Any]] = []
        for step in ("configure", "activate"):
            for node in self.nodes if nodes is None else nodes:
                if node in failed:
                    continue
                with uninterrupted():
                    result = getattr(node, f"trigger_{step}")()
                if result != TransitionCallbackReturn.SUCCESS:
                    if not node.start_retry_s:
                        return node.get_name()
                    failed.append(node)
            if step == "configure":
                wait()
        for node in failed:
            thread = threading.Thread(
                target=self._keep_starting, args=(node,), name=f"{node.get_name()} start", daemon=True
            )
            self._starting.append(thread)
            thread.start()
        return None

    def _keep_starting(self, node: ActrecNode[Any]) -> None:
        """Start a node again until it is active, with its error and the time of the next attempt in the diagnostics."""
        backoff, attempts = Backoff(FIRST_RETRY_S, node.start_retry_s), 1
        while True:
            pause_s = backoff.next()
            line = f"{node.last_error} (next attempt in {pause_s:g} s)"
            node.get_logger().info(f"not active: next attempt in {pause_s:g} s")
            end = time.monotonic() + pause_s
            while (left_s := end - time.monotonic()) > 0:
                node.statistics.error(line)
                node.report()
                if self._ending.wait(min(left_s, _REPORT_S)):
                    return
            node.last_error, attempts = "", attempts + 1
            try:
                if node.start():
                    node.get_logger().info(f"active, after {attempts} attempts")
                    return
            except Exception as error:  # such as a transition that a client has asked for meanwhile
                node.fail(error)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until a node has finished and the others are idle (True), or until the timeout (False)."""
        if not self._finished.wait(timeout_s):
            return False
        # From source to sink; twice, for messages that were between two nodes the first time.
        for node in 2 * self.nodes[::-1]:
            node.wait_idle(DRAIN_S)
        return True

    def stop(self) -> None:
        """Stop spinning, then deactivate and destroy the nodes, the last added first. Safe to call twice."""
        self._ending.set()
        for lifecycle_node in self.nodes:
            lifecycle_node.answer_clients()
        while self._starting:
            self._starting.pop().join()
        self._stopping.set()
        for _, executor, thread in self._spun:
            # A task, not a shutdown, ends the executor's wait: a callback may still need its executor.
            executor.create_task(lambda: None)
            thread.join()
            executor.shutdown()
        for node, _, _ in reversed(self._spun):
            if isinstance(node, ActrecNode):
                node.close()
            node.destroy_node()
        self._spun = []

    def _spin(self, executor: SingleThreadedExecutor, node: Node) -> None:
        while not self._stopping.is_set():
            try:
                executor.spin_once()
            except (ExternalShutdownException, ShutdownException):
                return
            except Exception as error:  # an exception in a callback must not stop the node
                node.get_logger().error(f"in a callback: {one_line(error)}")


@contextlib.contextmanager
def spinning(make: Callable[[Context], N], arguments: Sequence[str] | None = None) -> Iterator[N]:
    """Spin the node that `make` returns, for a command that is no node itself; the caller handles signals.

    The arguments, by default of this process, are passed to `ros`.
    """
    with ros(sys.argv if arguments is None else arguments, handle_signals=False) as context, Host(context) as host:
        node = make(context)
        host.add(node)
        yield node


def wait_until_active(asking: Node, names: Iterable[str], timeout_s: float) -> str | None:
    """Ask nodes for their lifecycle states until all are active, and so discovered, which takes DDS seconds.

    Another thread spins the asking node. Returns the first node that was not active in time; None if all are.
    """
    deadline = time.monotonic() + timeout_s
    for name in names:
        client = asking.create_client(GetState, f"{name}/get_state")
        try:
            while not _is_active(client):
                if time.monotonic() > deadline:
                    return name
                time.sleep(_STEP_S)
        finally:
            asking.destroy_client(client)
    return None


def _is_active(client: Any) -> bool:
    if not client.service_is_ready():
        return False
    answer = client.call_async(GetState.Request())
    deadline = time.monotonic() + _ANSWER_S
    while not answer.done():
        if time.monotonic() > deadline:
            client.remove_pending_request(answer)
            return False
        time.sleep(0.005)
    return bool(answer.result().current_state.id == State.PRIMARY_STATE_ACTIVE)


def spin(choose: Callable[[], tuple[NodeClass, list[str]] | None], args: Sequence[str]) -> int:
    """Run a node until it has finished or is interrupted; return 0 at a clean end, 1 if it could not start.

    With the parameter `autostart` the node configures and activates itself; otherwise a lifecycle manager does.

    Args:
        choose: Returns the class of the node and further arguments for it, or None for no node. It is called while
            other processes discover this one.
        args: Arguments for ROS.
    """
    end_with_parent()
    try:
        is_again = wait_before_start(Path(args[0]).name)
        transport.remove_orphans()  # under launch, no other process does
        files = parameter_files.given(args)
        for path in files:
            parameter_files.read(path)  # ROS's own messages name neither the cause nor a remedy
        with ending_within(EXIT_S) as begin_end, ros(args) as context, Host(context) as host:
            try:
                with announced(context):
                    chosen = choose()
                    if chosen is None:
                        return 0
                    with uninterrupted():
                        node = chosen[0](context=context, cli_args=chosen[1] or None)
                        host.add(node)
                return _run(node, files, host, is_again)
            finally:
                begin_end()
    except KeyboardInterrupt:
        return 0
    except ActrecError as error:
        print(f"actrec: {error}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def announced(context: Context) -> Iterator[None]:
    """Announce this process to the others, by a hidden node, until the block has made a node.

    DDS takes about a second until two processes know each other. Meanwhile this one imports what its node needs. The
    topics of the node are then known to the others within milliseconds.
    """
    with uninterrupted():
        hidden = bare_node(f"_starting_{os.getpid()}", context)
    try:
        yield
    finally:
        hidden.destroy_node()


def _run(node: ActrecNode[Any], files: Sequence[str], host: Host, is_again: bool) -> int:
    """Start and spin a node until it has finished; return the exit status.

    One that is started again does not wait for others: they have run before, and a client may have deactivated them.
    """
    for line in parameter_files.ineffective(files, node, [spec.name for spec in graph.GRAPH]):
        node.get_logger().warning(line)

    def wait_for_others() -> None:
        if not is_again and (missing := wait_until_active(node, node.start_after, READY_S)):
            node.warn(f"{missing} is not active after {READY_S:g} s: starting without it")

    watched = list(filter(None, os.environ.get(WATCHED, "").split(",")))
    health = GraphHealth(node, watched, owns_graph=False) if watched else contextlib.nullcontext()
    with ending_if_lost(node), health:
        if node.autostart and host.start(wait=wait_for_others) is not None:
            return 1
        if is_again and node.is_active:
            node.get_logger().warning("active again, after its process was started again")
        with ending_if_stuck():
            host.wait()
    return node.exit_status or 0


def ending_if_lost(node: ActrecNode[Any], is_restarted: bool = True) -> contextlib.AbstractContextManager[None]:
    """Finish a node with `LOST_STATUS` if other processes no longer reach this one; for its log, what follows."""

    def end(port: str) -> None:
        then = "to be started again" if is_restarted else "start it again"
        node.get_logger().error(f"{transport.LOST.format(port=port)}; it ends, {then}")
        node.finish(LOST_STATUS)

    return transport.reached(end)


def show_name(name: str) -> None:
    """Set the name of this process for ps, top and pgrep, of which Linux keeps 15 characters."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name[:15], encoding="utf-8")


OWN = "--own"
"""Argument after which the arguments for ROS of the node itself follow: they outrank parameter files."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node with the name of the executable, or of the first argument."""
    arguments = list(sys.argv if arguments is None else arguments)
    at = arguments.index(OWN) if OWN in arguments else len(arguments)
    spec = graph.find(Path(arguments[0]).name)
    show_name(spec.name)

    def choose() -> tuple[NodeClass, list[str]]:
        with uninterrupted():
            return spec.load(), ["--ros-args", *arguments[at + 1 :]] if arguments[at:] else []

    status = spin(choose, arguments[:at])
    end_after(EXIT_S)  # Python waits for threads, which may hang
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
