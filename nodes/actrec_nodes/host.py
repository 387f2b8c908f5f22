"""Runs nodes in this process, each in an executor thread of its own, and ends cleanly."""

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from actrec_nodes import transport
from actrec_nodes.lifecycle import ActrecNode

DRAIN_S = 5.0
"""How long the last inputs may take when a recording has ended."""


@contextlib.contextmanager
def ros(args: Sequence[str] | None = None) -> Iterator[Context]:
    """ROS set up for this process, with image transport that works; SIGTERM is taken as Ctrl-C.

    rclpy's own signal handlers are left out: they invalidate every publisher before a node can say its last.

    Args:
        args: Command line, of which what follows `--ros-args` counts.
    """
    transport.prepare()
    context = Context()
    rclpy.init(args=list(args or []), context=context, signal_handler_options=SignalHandlerOptions.NO)
    previous = None
    if threading.current_thread() is threading.main_thread():
        previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield context
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)
        context.try_shutdown()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


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

    def __enter__(self) -> "Host":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def nodes(self) -> list[ActrecNode[Any]]:
        """The lifecycle nodes, in the order they were added."""
        return [node for node in self._nodes if isinstance(node, ActrecNode)]

    def add(self, node: Node) -> None:
        """Takes a node over and spins it."""
        executor = SingleThreadedExecutor(context=self._context)
        executor.add_node(node)
        if isinstance(node, ActrecNode):
            node.on_finish = self._finished.set
        thread = threading.Thread(target=self._spin, args=(executor,), name=node.get_name(), daemon=True)
        self._nodes.append(node)
        self._executors.append(executor)
        self._threads.append(thread)
        thread.start()

    def start(self) -> str | None:
        """Configures and activates the nodes in order.

        Returns:
            The name of the first that failed, which has said why; None where all run.
        """
        return next((node.get_name() for node in self.nodes if not node.start()), None)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Blocks until a node has nothing more to do (True) or the time is over (False)."""
        if not self._finished.wait(timeout_s):
            return False
        for node in self.nodes:
            node.wait_idle(DRAIN_S)
        return True

    def stop(self) -> None:
        """Stops spinning, then deactivates and destroys the nodes, the last added first. Safe to call twice."""
        for executor in self._executors:
            executor.shutdown(timeout_sec=0)
        for thread in self._threads:
            thread.join()
        for node in reversed(self._nodes):
            if isinstance(node, ActrecNode):
                node.close()
            node.destroy_node()
        self._nodes, self._executors, self._threads = [], [], []

    @staticmethod
    def _spin(executor: SingleThreadedExecutor) -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()
