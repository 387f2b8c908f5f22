"""A standby process for `actrec run --processes`: it becomes a node in place of one that has died.

A new Python process imports the modules of a node for seconds, and is known to all others a second later by DDS.
The standby server (`python -m actrec_nodes.bringup.standby`) imports the modules of all nodes once, at low priority. It
then forks a process that other processes discover, and that becomes a node as soon as one is asked for. Then it forks
the next. The memory of the modules is shared by all of them.
"""

import contextlib
import inspect
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2

from actrec_nodes.bringup import graph
from actrec_nodes.bringup.processes import NodeClass, show_name, spin
from actrec_nodes.bringup.supervisor import ONE_ARENA, Backoff
from actrec_nodes.common import parameter_files

NICENESS = 5  # of the imports
PAUSE_S = 1.0  # after a process has become a node, until the next is forked: the node starts meanwhile
ANSWER_S = 2.0  # time for the server to answer
STOP_S = 2.0  # time for the server to end
START_S = 60.0  # time for a forked process to be discovered; then it is ended, as a library may hang after a fork

IS_AVAILABLE = all(map(hasattr, (os, os, signal), ("fork", "pidfd_open", "pidfd_send_signal")))  # Linux


@dataclass(frozen=True)
class StandbyPlan:
    """The nodes that may be replaced.

    Attributes:
        nodes: Their names.
        ros_args: Arguments for ROS of every node.
        overrides: Parameters by node that outrank them.
    """

    nodes: list[str]
    ros_args: list[str] = field(default_factory=list)
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)


# -- the process that asks ---------------------------------------------------------------------------------------------


class StandbyProcess:
    """A process that the server has forked, with the interface of `subprocess.Popen`.

    Args:
        pid: Process id.
        descriptor: Its pidfd, which is closed with this object.

    Attributes:
        returncode: Exit status, negative for a signal; None while it runs.
    """

    def __init__(self, pid: int, descriptor: int):
        self.pid = pid
        self.returncode: int | None = None
        self._descriptor = descriptor
        self._ended = threading.Event()

    def __del__(self) -> None:
        os.close(self._descriptor)

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status; raise `subprocess.TimeoutExpired` after the timeout."""
        if not self._ended.wait(timeout) or self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def end(self, status: int) -> None:
        """Set the exit status, which the server reports."""
        self.returncode = status
        self._ended.set()

    def end_unseen(self) -> None:
        """Wait for the end of a process whose server has died, and with it the exit status."""
        select.select([self._descriptor], [], [])
        self.end(-signal.SIGKILL)


class Standby:
    """Starts the server, and asks it for processes.

    Args:
        plan: The nodes.
        environment: Further environment variables of the server.
    """

    def __init__(self, plan: StandbyPlan, environment: Mapping[str, str]):
        self._plan, self._environment = plan, dict(environment)
        self._server: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._lock = threading.Lock()
        self._answered = threading.Condition()
        self._is_ready, self._stopping = False, False
        self._start_at = self._started = 0.0
        self._backoff = Backoff(PAUSE_S)
        self._pid: int | None = None
        self._running: dict[int, StandbyProcess] = {}

    @property
    def is_ready(self) -> bool:
        """Whether a process waits to become a node."""
        return self._is_ready

    def prepare(self) -> None:
        """Start the server, unless it runs, or has died just now; call it again and again."""
        with self._lock:
            if self._stopping or (self._server is not None and self._server.poll() is None):
                return
            now = time.monotonic()
            if now < self._start_at:
                return
            self._start_at, self._started = now + self._backoff.next(now - self._started), now
            ours, theirs = socket.socketpair()
            command = [sys.executable, "-m", "actrec_nodes.bringup.standby"]
            with theirs:
                environment = {**ONE_ARENA, **os.environ, **self._environment}
                self._server = subprocess.Popen(command, stdin=theirs.fileno(), start_new_session=True, env=environment)
            self._channel = ours
            _send(ours, asdict(self._plan))
            threading.Thread(target=self._read, args=(ours,), name="standby", daemon=True).start()

    def become(self, name: str, arguments: Sequence[str]) -> StandbyProcess | None:
        """Return the standby process, which becomes a node; None if there is none.

        Args:
            name: Name of the node.
            arguments: Arguments for ROS of this node alone.
        """
        with self._lock, self._answered:
            channel = self._channel
            if not self._is_ready or channel is None or self._server is None:
                return None
            self._pid = None
            with contextlib.suppress(OSError):
                _send(channel, [name, *arguments])
                self._answered.wait_for(lambda: self._pid is not None or channel is not self._channel, ANSWER_S)
            if self._pid is None:  # a server that is stopped must not start the node later
                self._is_ready = False
                self._server.kill()
                return None
            return self._running.get(self._pid)

    def stop(self) -> None:
        """End the server and the process that waits. Safe to call twice."""
        with self._lock:
            self._stopping = True
            server, channel = self._server, self._channel
            if server is not None and not self._is_ready:  # it may import modules, and not notice
                server.kill()
            if channel is not None:
                with contextlib.suppress(OSError):
                    channel.shutdown(socket.SHUT_RDWR)
        if server is not None:
            try:
                server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

    def _read(self, channel: socket.socket) -> None:
        with channel, channel.makefile("r", encoding="utf-8") as lines:
            with contextlib.suppress(OSError, ValueError):
                for line in lines:
                    self._take(json.loads(line))
        with self._answered:
            if channel is self._channel:
                self._is_ready, self._channel = False, None
            left = list(self._running.values())
            self._running.clear()
            self._answered.notify_all()
        for process in left:
            threading.Thread(target=process.end_unseen, name="standby", daemon=True).start()

    def _take(self, answer: dict[str, int]) -> None:
        with self._answered:
            if "ready" in answer:
                self._is_ready = bool(answer["ready"])
            elif "ended" in answer:
                if (process := self._running.pop(answer["ended"], None)) is not None:
                    process.end(answer["status"])
            else:
                self._pid = answer["pid"]
                if self._pid:
                    with contextlib.suppress(ProcessLookupError):  # it has ended
                        self._running[self._pid] = StandbyProcess(self._pid, os.pidfd_open(self._pid))
            self._answered.notify_all()


def _send(channel: socket.socket, message: Any) -> None:
    channel.sendall(json.dumps(message).encode() + b"\n")


# -- the server --------------------------------------------------------------------------------------------------------


class Server:
    """Forks processes and reports their ends, in one thread, as only the thread that forks exists in the new process.

    Args:
        channel: Connected to a `Standby`, whose end ends the server.
    """

    def __init__(self, channel: socket.socket):
        self._channel, self._lines = channel, channel.makefile("rb", buffering=0)
        self.plan = StandbyPlan(**json.loads(self._lines.readline()))
        self._pid, self._link, self._is_waiting = 0, channel, False  # of the newest process
        self._fork_at = self._forked = 0.0
        self._backoff = Backoff(PAUSE_S)
        self._wake = socket.socketpair()

    def run(self) -> int:
        """Answer until the other end is closed."""
        reader, writer = self._wake
        reader.setblocking(False)
        writer.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        while True:
            left_s = (self._forked + START_S if self._pid else self._fork_at) - time.monotonic()
            if left_s <= 0 and not self._is_waiting:
                self._fork() if not self._pid else os.kill(self._pid, signal.SIGKILL)
                left_s = START_S
            starting = [self._link] if self._pid and not self._is_waiting else []
            pause_s = None if self._is_waiting else left_s
            readable, _, _ = select.select([self._channel, reader, *starting], [], [], pause_s)
            if reader in readable:
                with contextlib.suppress(BlockingIOError):
                    reader.recv(4096)
                self._report()
            elif self._link in readable and starting:
                self._set_waiting(bool(self._link.recv(1)))
            if self._channel in readable:
                if not (line := self._lines.readline()):
                    return 0
                self._become(line)

    def _report(self) -> None:
        """Report the processes that have ended."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._pid:
                    self._forget(self._backoff.next(time.monotonic() - self._forked))
                _send(self._channel, {"ended": ended[0], "status": os.waitstatus_to_exitcode(ended[1])})

    def _become(self, line: bytes) -> None:
        """Let the process that waits become a node, and answer with its id; 0 if none waits."""
        pid = self._pid if self._is_waiting else 0
        if pid:
            with contextlib.suppress(BrokenPipeError):  # just ended, which is reported next
                self._link.sendall(line)
            self._forget(PAUSE_S)
        _send(self._channel, {"pid": pid})

    def _set_waiting(self, is_waiting: bool) -> None:
        self._is_waiting = is_waiting
        _send(self._channel, {"ready": int(is_waiting)})

    def _forget(self, pause_s: float) -> None:
        self._link.close()
        self._set_waiting(False)
        self._pid, self._fork_at = 0, time.monotonic() + pause_s

    def _fork(self) -> None:
        ours, theirs = socket.socketpair()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads of libraries, which the child does not use
            pid = os.fork()
        if pid:
            theirs.close()
            self._pid, self._link, self._forked = pid, ours, time.monotonic()
            return
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for channel in (ours, self._lines, self._channel, *self._wake):
                channel.close()
            os.setsid()
            status = _wait_and_run(theirs, self.plan.ros_args)
        except BaseException:  # the server's code must not run in this process
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)  # libraries would wait for threads of the server


def _wait_and_run(server: socket.socket, ros_args: Sequence[str]) -> int:
    """Wait, known to other processes, until this process is to become a node, and run it; return the exit status."""

    def choose() -> tuple[NodeClass, list[str]] | None:
        line = ""
        with contextlib.suppress(OSError), server, server.makefile("r", encoding="utf-8") as lines:
            server.sendall(b"\n")
            line = lines.readline()
        if not line:  # the server has ended
            return None
        name, *arguments = json.loads(line)
        sys.argv = [name, "--ros-args", *ros_args, *arguments]
        show_name(name)
        return graph.find(name).load(), ["--ros-args", *arguments]

    return spin(choose, ["--ros-args", *ros_args])


def preload(plan: StandbyPlan) -> None:
    """Import the modules that the nodes import while they start, at low priority.

    In a thread, because a process may not raise its priority again.
    """

    def load() -> None:
        if hasattr(os, "setpriority"):  # in Linux, of this thread alone
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(os.nice(0) + NICENESS, 19))
        for name in plan.nodes:
            # A node that cannot start reports its error itself.
            with contextlib.suppress(Exception):
                _preload(name, plan)
        inspect.getframeinfo(sys._getframe())  # lists the files of all modules once: rclpy needs it for the first log

    thread = threading.Thread(target=load, name="preload")
    thread.start()
    thread.join()


def _preload(name: str, plan: StandbyPlan) -> None:
    own = plan.overrides.get(name, {})

    def value(parameter: str) -> Any:
        return own.get(parameter, parameter_files.value(plan.ros_args, name, parameter))

    graph.find(name).load().preload(value)
    if name == "camera_node" and (driver := graph.camera(plan.ros_args, own)) is not None:
        driver.prepare()


def main() -> int:
    """Run the server with its channel as standard input."""
    channel = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    with contextlib.suppress(KeyboardInterrupt, ConnectionError):
        server = Server(channel)
        show_name("actrec_standby")
        cv2.setNumThreads(1)  # a forked process would wait for the other threads
        preload(server.plan)
        return server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
