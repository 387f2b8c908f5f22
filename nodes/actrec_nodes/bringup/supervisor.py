"""Processes that are started again with growing pauses after they have died."""

import atexit
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 30.0  # before a process is started again; doubled from one to the next
ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""Environment variable by which all threads of a process share glibc's memory, unless the user has set it. Else a node
that subscribes in other DDS participants, each of a dozen threads, because its camera hangs, takes 6 MB each time."""

START_RETRY_S = 5.0  # longest pause until a node that could not start tries again: a camera may be plugged in
HEALTHY_S = 60.0  # after a process has lived this long, its next pause is the first again
ATTEMPTS = 3  # starts of a process in a row that end with an error of its settings, before it is given up
STOP_S = 15.0  # time for processes to end

OWN_END = (0, 1, 2)
"""Exit statuses of a process that ended by itself: its work is done, it failed, or its arguments are wrong."""


class Backoff:
    """Pauses between attempts: doubled each time, and the first again after a success of `healthy_s`."""

    def __init__(
        self, first_s: float = FIRST_PAUSE_S, longest_s: float = LONGEST_PAUSE_S, healthy_s: float = HEALTHY_S
    ):
        self._first_s, self._longest_s, self._healthy_s = min(first_s, longest_s), longest_s, healthy_s
        self._next_s = self._first_s

    def next(self, lived_s: float = 0.0) -> float:
        """Return the pause in seconds before the next attempt, after one that lasted `lived_s`."""
        if lived_s >= self._healthy_s:
            self._next_s = self._first_s
        pause, self._next_s = self._next_s, min(2 * self._next_s, self._longest_s)
        return pause


RESPAWNS = "ACTREC_RESPAWNS"
"""Environment variable of the processes that launch starts: a folder with their last starts."""


def respawn_environment() -> dict[str, str]:
    """Return the variable `RESPAWNS` with a new folder, which this process removes as it ends."""
    folder = tempfile.mkdtemp(prefix="actrec_respawns_")
    atexit.register(shutil.rmtree, folder, True)
    return {RESPAWNS: folder}


def wait_before_start(name: str) -> bool:
    """Pause before a process starts if it was started shortly before, as launch's own pause is always the same.

    The first new start within `HEALTHY_S` waits for `FIRST_PAUSE_S`, each further one twice as long. Returns whether
    launch has started this process before.
    """
    folder = os.environ.get(RESPAWNS, "")
    if not folder:
        return False
    file, now, last, parent = Path(folder, name), time.time(), {"start": 0.0, "pause": 0.0}, os.getppid()
    with contextlib.suppress(OSError, ValueError):
        last = json.loads(file.read_text(encoding="utf-8"))
    pause = 0.0
    if 0 <= now - last["start"] < HEALTHY_S:
        pause = min(max(2 * last["pause"], FIRST_PAUSE_S), LONGEST_PAUSE_S)
    with contextlib.suppress(OSError):
        file.write_text(json.dumps({"start": now + pause, "pause": pause}), encoding="utf-8")
    while time.time() < now + pause and os.getppid() == parent:
        time.sleep(0.05)
    return last["start"] > 0


class Child(Protocol):
    """A child process: the part of `subprocess.Popen` that is used."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status; raise `subprocess.TimeoutExpired` after the timeout."""

    def send_signal(self, sig: int) -> None:
        """Send a signal."""

    def kill(self) -> None:
        """Send SIGKILL."""


class Supervisor:
    """Runs processes by name, each followed by a thread, until the work of one is done.

    A process that dies by a signal, or with another status than `OWN_END`, is started again. The work is done when a
    source ends with status 0; another process that does so, as by SIGTERM, is started again. A process that ends with
    status 1 or 2 within `HEALTHY_S` of its first start fails the work; one that was started again does so after
    `ATTEMPTS`.

    Args:
        command: Returns the command line of a process: its name, and whether it is started again.
        environment: Environment variables of all processes.
        log: Called with a line, and whether it is an error, in the thread of a process.
        standby: Returns a process that becomes the one of this name, as `command` does; None to start a new one.

    Attributes:
        children: The newest process of each name.
        restarted: Time of the newest start of each process that was started again, monotonic seconds.
    """

    def __init__(
        self,
        command: Callable[[str, bool], Sequence[str]],
        environment: Mapping[str, str],
        log: Callable[[str, bool], None],
        standby: Callable[[str, bool], Child | None] = lambda name, again: None,
    ):
        self.children: dict[str, Child] = {}
        self.restarted: dict[str, float] = {}
        self._command, self._environment, self._log = command, dict(environment), log
        self._standby = standby
        self._lock = threading.Lock()
        self._stopping, self._over = threading.Event(), threading.Event()
        self._failed = False

    def start(self, name: str, required: bool = True, is_source: bool = True) -> None:
        """Start a process; if it is not `required`, its failure at its first start does not end the others."""
        child = self._spawn(name, again=False)
        thread = threading.Thread(
            target=self._follow, args=(name, child, required, is_source), name=f"{name} process", daemon=True
        )
        thread.start()

    def kill(self, name: str, cause: str) -> None:
        """Kill a process that runs, so that it is started again."""
        child = self.children.get(name)
        if child is not None and child.poll() is None:
            self._log(f"{name} {cause}: killing its process", True)
            child.kill()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until the work is done or the timeout; return False if a process failed."""
        self._over.wait(timeout_s)
        return not self._failed

    def stop(self) -> None:
        """Interrupt the processes, the last started first, and kill the ones that do not end. Safe to call twice."""
        with self._lock:
            self._stopping.set()
        children = list(self.children.values())
        for child in reversed(children):
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)  # unlike SIGINT, it ends one that still starts without a traceback
        deadline = time.monotonic() + STOP_S
        for child in children:
            try:
                child.wait(max(deadline - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _spawn(self, name: str, again: bool) -> Child:
        command = self._command(name, again)
        with self._lock:
            if self._stopping.is_set():
                raise InterruptedError
            child = self._standby(name, again)
            if child is None:
                # Not in this process group, to which a terminal sends Ctrl-C: `stop` interrupts processes in order.
                environment = {**ONE_ARENA, **os.environ, **self._environment}
                child = subprocess.Popen(command, start_new_session=True, env=environment)
            self.children[name] = child
            if again:
                self.restarted[name] = time.monotonic()
        return child

    def _follow(self, name: str, child: Child, required: bool, is_source: bool) -> None:
        """Wait for the end of a process and start it again, in a thread of its own."""
        backoff, failures, first, began = Backoff(), 0, True, time.monotonic()
        while True:
            status, lived_s = child.wait(), time.monotonic() - began
            if self._stopping.is_set():
                return
            failures = failures + 1 if status in OWN_END[1:] and lived_s < HEALTHY_S else 0
            is_start = first and lived_s < HEALTHY_S
            is_end = is_source if status == 0 else is_start or failures >= ATTEMPTS
            if status in OWN_END and is_end:
                if status == 0 or required:
                    self._failed = status != 0
                    self._over.set()
                return
            again = self._start_again(name, ended(status), backoff, lived_s)
            if again is None:
                return
            child, first, began = again, False, time.monotonic()

    def _start_again(self, name: str, cause: str, backoff: Backoff, lived_s: float) -> Child | None:
        """Return a new process after a pause; None if the supervisor stops."""
        while True:
            pause_s = backoff.next(lived_s)
            self._log(f"{name} {cause}: starting it again in {pause_s:g} s", True)
            if self._stopping.wait(pause_s):
                return None
            try:
                return self._spawn(name, again=True)
            except InterruptedError:
                return None
            except OSError as error:  # no memory, or too many processes: it may pass
                cause, lived_s = f"cannot be started ({error})", 0.0


def ended(status: int) -> str:
    """Return how a process ended, from its exit status, negative for a signal."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
