"""One node in a process of its own."""

import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor

from actrec_nodes import transport
from actrec_nodes.lifecycle import ActrecNode


def spin(node_class: Callable[[], ActrecNode[Any]], args: Sequence[str] | None = None) -> int:
    """Runs a node until it is done or interrupted.

    With the parameter `autostart` the node configures and activates itself; otherwise a lifecycle manager does.

    Returns:
        Exit status: 0 at a clean end, 1 where the node could not start.
    """
    transport.prepare()
    rclpy.init(args=list(args) if args is not None else sys.argv)
    # Launch and a terminal's Ctrl-C can both send SIGINT: the second one must not cut the clean-up short.
    status = 1
    node = node_class()
    executor = make_executor()
    try:
        executor.add_node(node)
        status = 0
        if node.autostart and not node.start():
            status = 1
        else:
            executor.spin_until_future_complete(node.done)
            status = int(node.done.result()) if node.done.done() else 0
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        executor.remove_node(node)
        node.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()
    return status


def make_executor(context: Any = None) -> Executor:
    """The executor that a node spins in."""
    return SingleThreadedExecutor(context=context)
