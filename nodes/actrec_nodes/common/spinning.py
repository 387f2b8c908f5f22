"""A node that spins in a thread of its own, for commands that are no nodes themselves."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from actrec_nodes.bringup import transport

N = TypeVar("N", bound=Node)


@contextlib.contextmanager
def spinning(make: Callable[[Any], N], arguments: list[str] | None = None) -> Iterator[N]:
    """Spins a node in a ROS context of its own; the caller handles signals.

    Args:
        make: Makes the node in a context.
        arguments: A command line, of which what follows `--ros-args` counts.

    Yields:
        The node.
    """
    transport.prepare()
    context = rclpy.Context()
    rclpy.init(args=arguments, context=context, signal_handler_options=SignalHandlerOptions.NO)
    stop = threading.Event()
    with contextlib.ExitStack() as held:
        held.callback(context.try_shutdown)
        node = make(context)
        held.callback(node.destroy_node)
        executor = SingleThreadedExecutor(context=context)
        held.callback(executor.shutdown)
        executor.add_node(node)

        def spin() -> None:
            with contextlib.suppress(ExternalShutdownException):
                while not stop.is_set():
                    executor.spin_once(timeout_sec=0.1)

        thread = threading.Thread(target=spin, name=node.get_name(), daemon=True)
        thread.start()
        held.callback(thread.join)
        held.callback(stop.set)
        yield node
