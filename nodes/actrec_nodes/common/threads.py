"""An executor whose thread does not delay the end of the process."""

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

_Task = tuple[Future[Any], Callable[[], Any]]


class DaemonExecutor(Executor):
    """Runs calls one after another in a daemon thread, as `ThreadPoolExecutor(1)` does.

    A call into a library that cannot be interrupted ends with the process, which does not wait for it.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str):
        self._name, self._lock = name, threading.Lock()
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a call; RuntimeError after `shutdown`."""
        future: Future[Any] = Future()
        with self._lock:
            if self._ended:
                raise RuntimeError("the executor was shut down")
            self._tasks.put((future, lambda: fn(*args, **kwargs)))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; wait for the queued ones, or cancel the ones not begun yet."""
        with self._lock:
            self._ended, thread = True, self._thread
        if cancel_futures:
            with contextlib.suppress(queue.Empty):
                while (task := self._tasks.get_nowait()) is not None:
                    task[0].cancel()
        self._tasks.put(None)
        if wait and thread is not None:
            thread.join()

    def join(self, timeout_s: float) -> bool:
        """Wait after `shutdown` until the thread has ended; return False after the timeout."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, call = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # raised again by the future
                future.set_exception(error)
