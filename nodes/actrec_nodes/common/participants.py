"""DDS participants beside one that gets no messages any longer.

Fast DDS can lose a participant's port in shared memory, to which publishers then send in vain. Further subscriptions of
that participant would have the same port, so another participant subscribes.
"""

import contextlib
import ctypes
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from actrec_nodes.common.lifecycle import one_line
from actrec_nodes.common.subscriptions import Subscription

DEAF_S = 3.0  # time without a message from a publisher until a node subscribes again; then doubled
LONGEST_RENEW_S = 300.0
PAUSED_S = 1.0  # longer between two updates: the process did not run, so nothing could arrive
CLOSE_S = 2.0  # time for the thread of a participant to end


def bare_node(name: str, context: Context, **options: Any) -> Node:
    """Return a node without services, logs and arguments: SROS2 policies allow none under a name that they do not have.

    A name can also be registered for rosout once, and a participant is replaced before the old one is closed.
    """
    return Node(
        name,
        context=context,
        use_global_arguments=False,
        enable_rosout=False,
        start_parameter_services=False,
        parameter_overrides=[Parameter("start_type_description_service", value=False)],
        **options,
    )


class Deafness:
    """The time for which messages of a publisher do not arrive; `update` is called several times a second."""

    def __init__(self) -> None:
        self._count = 0
        self._since = self._updated = time.monotonic()
        self._wait_s, self._due = DEAF_S, self._since + DEAF_S

    def update(self, count: int, sends_nothing: Callable[[], bool]) -> bool:
        """Return whether to subscribe again.

        Args:
            count: Messages that have arrived so far, or anything else that changes with each.
            sends_nothing: Whether there is a publisher; called only if nothing has arrived since the last update.
        """
        now = time.monotonic()
        if count != self._count or now - self._updated > PAUSED_S or not sends_nothing():
            self._count, self._since, self._wait_s, self._due = count, now, DEAF_S, now + DEAF_S
        self._updated = now
        if now < self._due:
            return False
        self._wait_s = min(2 * self._wait_s, LONGEST_RENEW_S)
        self._due = now + self._wait_s  # even if this attempt fails
        return True

    def line(self, what: str) -> str:
        """Return a line for the log about the new subscription to `what`."""
        silent_s = time.monotonic() - self._since
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
        self._logger = node.get_logger()
        self.node = bare_node(name, self._context, namespace=space)
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
                self._logger.error(f"in a callback: {one_line(error)}")


class Renewed:
    """Subscriptions of a node to the topics of one publisher, and if nothing arrives, the same in another participant.

    The old ones stay until a message arrives, because the new participant may take seconds to discover the publisher,
    which may only have been about to send. The participant that gets the first message is kept, and the other closed.

    Args:
        node: The node.
        purpose: The end of the name of other participants.
        subscribe: Returns the subscriptions of a node. Their callbacks call the function given, and ignore a message
            if it returns False: the other participant is kept.
    """

    def __init__(
        self, node: Node, purpose: str, subscribe: Callable[[Node, Callable[[], bool]], Sequence[Subscription]]
    ):
        self._node, self._purpose, self._subscribe = node, purpose, subscribe
        self._lock = threading.Lock()
        self._heard: object | None = None  # the key of the participant that is kept, as it got the first message
        self._held: dict[object, tuple[Sequence[Subscription], Participant | None]] = {}
        self._open(None)

    def renew(self) -> None:
        """Subscribe in another participant as well, in place of one from before that got no message either."""
        other = Participant(self._node, self._purpose)  # before one is closed, whose ports it would get
        for key in list(self._held)[1:]:
            self._close(key)
        self._open(other)

    def settle(self) -> None:
        """Close the participant that is not kept; to be called several times a second, by the thread of `renew`."""
        if not self._held:
            self._open(None)
        for key in [key for key in self._held if self._heard not in (None, key)]:
            self._close(key)

    def close(self) -> None:
        """Unsubscribe until a later `settle`: Fast DDS frees a topic's memory with its last subscription."""
        for key in list(self._held):
            self._close(key)

    def _open(self, participant: Participant | None) -> None:
        key = object()

        def is_kept() -> bool:
            with self._lock:
                self._heard = key if self._heard is None else self._heard
                return self._heard is key

        with self._lock:
            self._heard = None
        node = self._node if participant is None else participant.node
        self._held[key] = self._subscribe(node, is_kept), participant

    def _close(self, key: object) -> None:
        subscriptions, participant = self._held.pop(key)
        for subscription in subscriptions:
            subscription.close()
        if participant is not None:
            participant.close()
        # The threads that end leave glibc with memory that others do not use: 6 MB more each time.
        with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
