"""Runs nodes in this process, each in an executor thread of its own, and end cleanly.

Waits until nodes of other processes are active.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any

import rclpy
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from actrec.utils.errors import ConfigError
from actrec_nodes.bringup import transport
from actrec_nodes.common.lifecycle import ActrecNode, one_line

DRAIN_S = 5.0
"""How long the last inputs may take when a recording has ended."""


@contextlib.contextmanager
def ros(args: Sequence[str] | None = None) -> Iterator[Context]:
    """ROS set up for this process, with image transport that works and an end that can be asked for.

    rclpy's own signal handlers are disabled: they invalidate publishers before a node can publish its last message.

    Args:
        args: Command line, of which what follows `--ros-args` counts.

    Raises:
        ConfigError: ROS cannot read the command line or a parameter file that it names.
    """
    transport.prepare()
    context = Context()
    try:
        rclpy.init(args=list(args or []), context=context, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:
        raise ConfigError(f"ROS refuses its arguments: {' '.join(str(error).split())}") from error
    try:
        with _interruptible():
            yield context
    finally:
        context.try_shutdown()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first SIGINT or SIGTERM; ignore the second during the clean-up, not the third.

    A terminal and a launch file can both send SIGINT at one Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    count = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count == 1:
            raise KeyboardInterrupt
        if count > 2:
            os._exit(128 + number)

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _nothing() -> None:
    """Work that makes an executor return from its wait."""


class Host:
    """Owns nodes and the threads they spin in; a context manager that stops and destroys them.

    Args:
        context: Of all nodes.
    """

    def __init__(self, context: Context):
        self._context = context
        self._nodes: list[Node] = []
        self._executors: list[SingleThreadedExecutor] = []
        self._threads: list[threading.Thread] = []
        self._finished = threading.Event()
        self._stopping = threading.Event()

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def nodes(self) -> list[ActrecNode[Any]]:
        """The lifecycle nodes, in the order they were added."""
        return [node for node in self._nodes if isinstance(node, ActrecNode)]

    def add(self, node: Node) -> None:
        """Take a node over and spins it."""
        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(node)
        if isinstance(node, ActrecNode):
            node.on_finish = self._finished.set
        thread = threading.Thread(target=self._spin, args=(executor, node), name=node.get_name(), daemon=True)
        self._nodes.append(node)
        self._executors.append(executor)
        self._threads.append(thread)
        thread.start()

    def start(self, wait: Callable[[], None] = lambda: None) -> str | None:
        """Configure all nodes in order, then activates them in order: loading is done before the first frame comes.

        Args:
            wait: Called between the two.

        Returns:
            The name of the first that failed, which has said why; None where all run.
        """
        success = TransitionCallbackReturn.SUCCESS
        for node in self.nodes:
            if node.trigger_configure() != success:
                return node.get_name()
        wait()
        return next((node.get_name() for node in self.nodes if node.trigger_activate() != success), None)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Blocks until a node has nothing more to do (True) or the time is over (False)."""
        if not self._finished.wait(timeout_s):
            return False
        # From source to sink; twice, for messages that were between two nodes the first time.
        for node in 2 * self.nodes[::-1]:
            node.wait_idle(DRAIN_S)
        return True

    def stop(self) -> None:
        """Stop spinning, then deactivates and destroys the nodes, the last added first. Safe to call twice."""
        self._stopping.set()
        for executor, thread in zip(self._executors, self._threads, strict=True):
            # A last task, not a shutdown: a callback under way may still need its executor.
            executor.create_task(_nothing)
            thread.join()
            executor.shutdown()
        for node in reversed(self._nodes):
            if isinstance(node, ActrecNode):
                node.close()
            node.destroy_node()
        self._nodes, self._executors, self._threads = [], [], []

    def _spin(self, executor: SingleThreadedExecutor, node: Node) -> None:
        while not self._stopping.is_set():
            try:
                executor.spin_once()
            except (ExternalShutdownException, ShutdownException):
                return
            except Exception as error:  # a callback's fault must not silence the node
                node.get_logger().error(f"in a callback: {one_line(error)}")


_STEP_S = 0.05

_ANSWER_S = 1.0


def wait_until_active(asking: Node, names: Iterable[str], timeout_s: float) -> str | None:
    """Asks nodes for their lifecycle states until all are active.

    Who has answered has been discovered, too: DDS may take seconds for that.

    Args:
        asking: A node that is spun in another thread.
        names: Of the lifecycle nodes, resolved as `asking` resolves names.
        timeout_s: For all of them together.

    Returns:
        The first that was not active in time; None where all are.
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
