"""A thread that works on the newest inputs and counts the dropped ones."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from actrec_nodes.common.diagnostics import Statistics

T = TypeVar("T")


class Worker(Generic[T]):
    """Takes inputs from callbacks and works on them in a thread of its own, so that callbacks return at once.

    Args:
        work: Called with each input, in the thread.
        on_error: Called with what `work` raised; the thread goes on.
        statistics: Where received, processed, dropped and failed inputs are counted.
        capacity: Inputs that may wait; a further one pushes out the oldest. 1: the newest frame wins.
        age: Returns the age of an input's stamp in seconds when its work is done, or None if it has none.
    """

    def __init__(
        self,
        work: Callable[[T], None],
        on_error: Callable[[Exception], None],
        statistics: Statistics,
        capacity: int = 1,
        age: Callable[[T], float | None] = lambda item: None,
    ):
        self._work = work
        self._on_error = on_error
        self._statistics = statistics
        self._age = age
        self._waiting: deque[T] = deque()
        self._capacity = capacity
        self._condition = threading.Condition()
        self._stopping = False
        self._idle = True
        self._thread: threading.Thread | None = None

    def start(self, name: str = "worker") -> None:
        """Start the thread."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Forgets what waits, lets the work under way end, and join the thread. Safe to call twice."""
        with self._condition:
            self._stopping = True
            self._waiting.clear()
            self._condition.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            self._thread = None

    def put(self, item: T) -> None:
        """Hands over an input; never blocks."""
        with self._condition:
            if self._stopping:
                return
            dropped = len(self._waiting) >= self._capacity
            if dropped:
                self._waiting.popleft()
            self._waiting.append(item)
            self._statistics.count("received")
            self._statistics.count("dropped", int(dropped))
            self._statistics.queue(len(self._waiting))
            self._condition.notify_all()

    def clear(self) -> None:
        """Drop what waits, as when time jumps back."""
        with self._condition:
            self._statistics.count("dropped", len(self._waiting))
            self._waiting.clear()
            self._statistics.queue(0)

    def wait_idle(self, timeout_s: float) -> bool:
        """Block until no input waits and no work is under way; return False if that took longer than `timeout_s`."""
        with self._condition:
            return self._condition.wait_for(lambda: self._idle and not self._waiting, timeout_s)

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._waiting or self._stopping)
                if self._stopping:
                    return
                item = self._waiting.popleft()
                self._statistics.queue(len(self._waiting))
                self._idle = False
            self._do(item)
            with self._condition:
                self._idle = True
                self._condition.notify_all()

    def _do(self, item: T) -> None:
        began = time.monotonic()
        try:
            self._work(item)
        except Exception as error:  # the thread must outlive a bad input; the node reports it
            self._statistics.count("failed")
            self._on_error(error)
        else:
            self._statistics.done(time.monotonic() - began, self._age(item))
