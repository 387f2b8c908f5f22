"""DDS participants that replace one which gets no messages any longer.

Fast DDS can lose a participant's port in shared memory, to which publishers then send in vain. Further subscriptions of
that participant would have the same port, so another participant subscribes.
"""

import sys
import threading
import time

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from actrec_nodes.common.lifecycle import one_line

DEAF_S = 15.0  # time without a message from a publisher until a node subscribes again; then doubled
LONGEST_RENEW_S = 300.0
CLOSE_S = 2.0  # time for the thread of a participant to end


class Deafness:
    """The time for which messages of a publisher do not arrive."""

    def __init__(self) -> None:
        self.hear()

    def hear(self) -> None:
        """Begin again: a message has come, or there is no publisher."""
        self._since, self._after_s = time.monotonic(), DEAF_S

    def is_due(self) -> bool:
        """Return whether to subscribe again."""
        return time.monotonic() - self._since >= self._after_s

    def renew(self, what: str) -> str:
        """Wait for longer until the next time; return a line about the subscription to `what`."""
        silent_s = time.monotonic() - self._since
        self._after_s = silent_s + min(2 * self._after_s, LONGEST_RENEW_S)
        return f"no {what} for {silent_s:.0f} s: subscribed again, in case that DDS has lost the connection"


class Participant:
    """A node in a DDS participant of its own, and the thread that spins it, for subscriptions of another node.

    Args:
        node: The other node.
        purpose: The end of its name.
    """

    def __init__(self, node: Node, purpose: str):
        self._context = Context()
        enclave = sys.argv[sys.argv.index("--enclave") :][:2] if "--enclave" in sys.argv else []
        rclpy.init(args=["--ros-args", *enclave], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        name, space = f"{node.get_name()}_{purpose}", node.get_namespace()
        self.node = Node(name, context=self._context, namespace=space, use_global_arguments=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._stopping = False
        self._thread = threading.Thread(target=self._spin, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and destroy the node."""
        self._stopping = True
        self._executor.create_task(lambda: None)
        self._thread.join(CLOSE_S)
        self._executor.shutdown(timeout_sec=CLOSE_S)
        self.node.destroy_node()
        self._context.try_shutdown()

    def _spin(self) -> None:
        while not self._stopping:
            try:
                self._executor.spin_once()
            except (ExternalShutdownException, ShutdownException):
                return
            except Exception as error:  # an exception in a callback must not stop the subscriptions
                self.node.get_logger().error(f"in a callback: {one_line(error)}")
