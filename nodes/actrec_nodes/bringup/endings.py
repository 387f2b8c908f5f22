"""Ends this process: with its parent, after a clean-up that hangs, or if it is stuck."""

import contextlib
import ctypes
import faulthandler
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from actrec_nodes.bringup import transport

PARENT = "ACTREC_PARENT"  # environment variable: the process with whose end this one ends
ORPHAN_S = 2.0  # time to close the camera and the nodes after that process has ended
STUCK_S = 3.3  # a process none of whose threads ran for this long is stuck: few calls keep Python's lock so long
PATIENCE_S = 60.0  # the same in those calls (`patiently`): librealsense waits for 15 s for a camera that has gone

_BETWEEN_S = 0.1  # from the first alarm to the second


def end_with_parent() -> None:
    """End this process when the one that `PARENT` names has ended, even by SIGKILL: no orphan keeps the camera.

    A thread then sends SIGTERM, and ends the process after `ORPHAN_S` in any case.
    """
    parent = int(os.environ.pop(PARENT, "0"))
    if not parent or not hasattr(os, "pidfd_open"):  # Linux
        return
    try:
        descriptor = os.pidfd_open(parent)
    except ProcessLookupError:  # ended while this process started
        os._exit(1)

    def follow() -> None:
        select.select([descriptor], [], [])
        transport.remove_orphans()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_S)
        os._exit(1)

    threading.Thread(target=follow, name="parent", daemon=True).start()


@contextlib.contextmanager
def ending_within(timeout_s: float) -> Iterator[Callable[[], None]]:
    """Yield a function to call when the clean-up begins: if the block ends later than `timeout_s`, the process ends.

    A driver or DDS may hang. The exit status is 1, and the stacks of all threads are written to standard error. That
    needs no lock of Python, which the call that hangs may hold.
    """
    try:
        yield lambda: end_after(timeout_s)
    finally:
        faulthandler.cancel_dump_traceback_later()


def end_after(timeout_s: float) -> None:
    """End this process with status 1 and the stacks of all threads if it still runs after a time."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # without standard error
        faulthandler.dump_traceback_later(timeout_s, exit=True, file=sys.__stderr__ or 2)


@contextlib.contextmanager
def ending_if_stuck(stuck_s: float = STUCK_S) -> Iterator[None]:
    """End this process by SIGALRM if none of its threads can run Python for a time; it is started again.

    A process that is killed while it holds a lock in the memory that Fast DDS shares leaves others in a call to publish
    that never ends, with Python's lock. The stacks are in the log. A signal, unlike an exit status, is no error of the
    settings, by which a supervisor gives up the whole graph (`OWN_END`). A process that was stopped (SIGSTOP, a
    debugger, a paused container) goes on (`_Alarms`). On other systems than Linux with glibc, nothing is ended.
    """
    try:
        alarms = _Alarms()
    except AttributeError:
        yield
        return
    finished = threading.Event()

    def put_off() -> None:
        limit_s = max(stuck_s, PATIENCE_S) if _patience.calls else stuck_s
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # as in `end_after`
            faulthandler.dump_traceback_later(0.9 * limit_s, file=sys.__stderr__ or 2)
        alarms.set(limit_s)

    def stay() -> None:
        while not finished.wait(stuck_s / 6):
            with _patience.lock:
                put_off()

    thread = threading.Thread(target=stay, name="stuck", daemon=True)
    _patience.put_off = put_off
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
        with _patience.lock:
            _patience.put_off = lambda: None
            faulthandler.cancel_dump_traceback_later()
            alarms.close()


@contextlib.contextmanager
def patiently() -> Iterator[None]:
    """Let threads stand still for `PATIENCE_S` until `ending_if_stuck` ends this process.

    For calls of libraries that keep Python's lock: opening a camera, starting CUDA.
    """
    with _patience.lock:
        _patience.calls += 1
        _patience.put_off()
    try:
        yield
    finally:
        with _patience.lock:
            _patience.calls -= 1


@dataclass
class _Patience:
    """State of `patiently` in this process: the calls in progress, and a function that puts the alarm off."""

    calls: int = 0
    put_off: Callable[[], None] = lambda: None
    lock: Any = field(default_factory=threading.Lock)


_patience = _Patience()


class _Alarms:
    """Ends this process by SIGALRM after a time, but not one that was stopped meanwhile.

    The first of two alarms changes nothing, the second ends the process. Of a stopped process, both are due when it
    goes on: then they are one, as the kernel drops the signal of `setitimer` while another is pending. That of a POSIX
    timer it would queue, so this comes first.

    Raises:
        AttributeError: This system has no such functions.
    """

    def __init__(self) -> None:
        self._before = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0], time.monotonic()
        self._libc: Any = ctypes.CDLL(None)
        self._handle, self._timer = self._libc.sysv_signal, ctypes.c_void_p()
        if self._libc.timer_create(time.CLOCK_MONOTONIC, None, ctypes.byref(self._timer)):
            raise AttributeError("no timer")

    def set(self, after_s: float) -> None:
        """Let the second alarm come after a time, in place of an earlier call's."""
        self._handle(signal.SIGALRM, self._libc.abs)  # for one signal; Python's own handlers need its lock
        seconds = after_s - _BETWEEN_S
        time_spec = (ctypes.c_long * 4)(0, 0, int(seconds), int(seconds % 1 * 1e9))  # interval, time
        self._libc.timer_settime(self._timer, 0, time_spec, None)
        signal.setitimer(signal.ITIMER_REAL, after_s)

    def close(self) -> None:
        """Set no further alarm, and restore the one of others, such as the time limit of a test."""
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        self._libc.timer_delete(self._timer)
        handler, left_s, began = self._before
        with contextlib.suppress(TypeError, ValueError):  # it was not set by Python; not in the main thread
            signal.signal(signal.SIGALRM, handler)
        if left_s:
            signal.setitimer(signal.ITIMER_REAL, max(left_s - (time.monotonic() - began), 0.001))
