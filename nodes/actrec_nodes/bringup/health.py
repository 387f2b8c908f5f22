"""Health of a running graph: the lifecycle states of its nodes, reported to systemd and in the log."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any

from lifecycle_msgs.srv import GetState
from rclpy.node import Node

from actrec_nodes.bringup.endings import PATIENCE_S

PERIOD_S = 1.0  # interval at which nodes are asked for their states
ANSWER_S = 5.0  # a node that has not answered for this long is not alive
HUNG = 4  # questions, a period apart, that a node leaves without an answer, even a late one, until it counts as hung


def notify(*states: str) -> bool:
    """Send states such as READY=1 to systemd, as sd_notify does; return False if it does not wait for them."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        channel.sendall("\n".join(states).encode())
    return True


def watchdog_s() -> float:
    """Return the time after which systemd restarts the service without WATCHDOG=1, seconds; infinite for never."""
    return float(os.environ.get("WATCHDOG_USEC") or "inf") / 1e6


@dataclass
class _Asked:
    """The open questions to a node for its state, and its last answer."""

    client: Any
    open: list[tuple[float, Any]] = field(default_factory=list)  # monotonic seconds and future of each, oldest first
    state: str = ""
    answered: float = float("-inf")  # monotonic seconds at which the answered question was asked
    active: float = float("-inf")  # the same of the last answer "active"
    unanswered: int = 0  # questions since then; unlike time, none pass while this process itself stands still


class GraphHealth:
    """Asks nodes for their lifecycle states, in a thread; a context manager.

    systemd gets READY=1 as soon as all nodes are active, so that labels can flow, and WATCHDOG=1 while all nodes
    answer. A node that a client has deactivated, or that waits for its camera, answers: to restart it would not help.

    Args:
        asking: Node that asks; another thread spins it.
        names: Names of the nodes, which others join by `support`.
        restarted: Returns the time of the newest start of each node that was started again, monotonic seconds.
        support: Called again and again with whether all nodes are active; it returns nodes that it has started.
        hung: Called once with the name of a node that was active and answers no more. A process waits
            without end if another was killed while it held a lock in shared memory.
        busy: Returns when each busy node last reported so, monotonic seconds: it may not answer for `PATIENCE_S`, as
            some libraries keep Python's lock while a camera is opened.
        guests: Returns nodes that have joined for their subscribers: one that hangs is reported, too, but systemd does
            not wait for them.
        owns_graph: Whether the graph ends with this process: systemd then gets STOPPING=1, and ends the service.
    """

    def __init__(
        self,
        asking: Node,
        names: Iterable[str],
        restarted: Callable[[], Mapping[str, float]] = lambda: MappingProxyType({}),
        support: Callable[[bool], Iterable[str]] = lambda is_active: (),
        hung: Callable[[str], None] = lambda name: None,
        busy: Callable[[], Mapping[str, float]] = lambda: MappingProxyType({}),
        guests: Callable[[], Iterable[str]] = lambda: (),
        owns_graph: bool = True,
    ):
        self._guests, self._joined = guests, set[str]()
        self._owns_graph = owns_graph
        self._asking, self._restarted, self._support, self._hung, self._busy = asking, restarted, support, hung, busy
        self._nodes: dict[str, _Asked] = {}
        self._ready, self._status = False, ""
        self._announced: dict[str, float] = {}
        self._stopping = threading.Event()
        self._follow(names)
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def __enter__(self) -> "GraphHealth":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        if self._owns_graph:
            notify("STOPPING=1")
        self._thread.join()
        for asked in self._nodes.values():
            self._asking.destroy_client(asked.client)

    def inactive(self) -> list[str]:
        """Return the nodes that are not active, with their states."""
        nodes = self._awaited()
        return [f"{name} ({asked.state or 'no answer'})" for name, asked in nodes.items() if asked.state != "active"]

    def silent(self) -> list[str]:
        """Return the nodes that do not answer."""
        now = time.monotonic()
        return [name for name, asked in self._awaited().items() if now - asked.answered > ANSWER_S]

    def _awaited(self) -> dict[str, _Asked]:
        """Return the nodes that systemd waits for."""
        return {name: asked for name, asked in self._nodes.copy().items() if name not in self._joined}

    def _run(self) -> None:
        period_s = min(PERIOD_S, watchdog_s() / 4)
        while not self._stopping.wait(period_s):
            joined = [name for name in self._guests() if name not in self._nodes]
            self._joined.update(joined)
            self._follow(joined)
            for asked in self._nodes.values():
                self._ask(asked)
            self._announce()
            self._end_hung()
            self._notify()
            self._follow(self._support(not self.inactive()))

    def _follow(self, names: Iterable[str]) -> None:
        for name in names:
            self._nodes[name] = _Asked(self._asking.create_client(GetState, f"{name}/get_state"))

    def _ask(self, asked: _Asked) -> None:
        now = time.monotonic()
        for began, future in list(asked.open):
            if future.done() and (answer := future.result()) is not None:
                asked.state, asked.answered, asked.unanswered = str(answer.current_state.label), began, 0
                # A node that a client has deactivated may take minutes to configure itself: it does not hang.
                asked.active = began if asked.state == "active" else float("-inf")
            if future.done():
                asked.open.remove((began, future))
            elif now - began > ANSWER_S:  # the node has died
                asked.client.remove_pending_request(future)
                asked.open.remove((began, future))
        if now - asked.answered > ANSWER_S:
            asked.state = ""
        # A busy node may answer later than the next question, but it answers.
        if (not asked.open or now - asked.open[-1][0] >= PERIOD_S) and asked.client.service_is_ready():
            asked.open.append((now, asked.client.call_async(GetState.Request())))
            asked.unanswered += 1

    def _announce(self) -> None:
        """Log that a node that was started again is active."""
        for name, began in self._restarted().items():
            asked = self._nodes.get(name)
            if asked and asked.state == "active" and asked.answered > began and self._announced.get(name) != began:
                self._announced[name] = began
                line = f"{name} is active again, {asked.answered - began:.1f} s after its process was started"
                self._asking.get_logger().warning(line)

    def _end_hung(self) -> None:
        """Report nodes that were active since their process was started, and hang."""
        restarted, busy, now = self._restarted(), self._busy(), time.monotonic()
        for name, asked in self._nodes.items():
            is_patient = now - busy.get(name, float("-inf")) < PATIENCE_S
            if asked.unanswered > HUNG and asked.active > restarted.get(name, 0.0) and not is_patient:
                asked.active = float("-inf")
                self._hung(name)

    def _notify(self) -> None:
        inactive, silent = self.inactive(), self.silent()
        status = f"waiting for {', '.join(inactive)}" if inactive else f"{len(self._awaited())} nodes are active"
        states = [f"STATUS={status}"] if status != self._status else []
        self._status = status
        if not inactive and not self._ready:
            self._ready = True
            states.append("READY=1")
        if not silent:  # also before all are active: if this process was restarted, a client may have deactivated one
            states.append("WATCHDOG=1")
        if states:
            notify(*states)
