"""Loads model packages in threads, so that frames are processed meanwhile and the node can stop."""

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from typing import Any

from actrec import inference
from actrec.inference import zoo
from actrec.inference.package import ModelPackage
from actrec.inference.session import Session
from actrec.inference.tensorrt.cache import EngineCache
from actrec.utils.errors import AbortedError, ActrecError
from actrec_nodes.common import parameters
from actrec_nodes.common.lifecycle import ActrecNode, one_line

CLOSE_S = 1.5  # time of a load in progress to end
POLL_S = 0.05

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


@dataclasses.dataclass
class _Request:
    """A request for a model, which may be ended."""

    ended: str = ""  # why


class ModelLoader:
    """Loads the models of a recognizer, by its parameters `backend`, `allow_fallback` and `trusted_models`.

    Args:
        node: The recognizer.

    Attributes:
        fallback: Why a model runs in `FALLBACK`; else empty.
    """

    def __init__(self, node: ActrecNode[Any]):
        self.fallback = ""
        self._node = node
        self._later, self._first = DaemonExecutor("load_model"), DaemonExecutor("configure")
        self._lister = DaemonExecutor("list_models")
        self._opening: list[Session] = []  # warmed up now
        self._request = _Request()  # of the models that are loaded or queued now
        self._in_thread = threading.local()
        self._closing = False

    def submit(self, call: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Queue a call in the thread of later models; `end_loads` ends its load."""
        request = self._request

        def run() -> Any:
            self._in_thread.request = request
            return call(*args)

        return self._later.submit(run)

    def end_loads(self, why: str) -> None:
        """End the loads of later models: the build of an engine, or the first runs of a network. Returns at once."""
        (ended, self._request), opening = (self._request, _Request()), self._opening[:]
        ended.ended = why

        def abort() -> None:
            while remaining := [session for session in opening if session in self._opening]:
                for session in remaining:  # again and again: its run may be about to begin
                    session.abort()
                time.sleep(POLL_S)

        if opening:
            threading.Thread(target=abort, name="abort", daemon=True).start()

    def load_first(self, model: str, replace: Callable[[str], None]) -> Session:
        """Load a model in another thread, and give up if the process is to end: a library may take minutes.

        With `allow_fallback` it runs in ONNX Runtime until the backend has built its engine; then `replace` is called.
        """
        loaded = self._first.submit(self._load_first, model, replace)
        while not wait([loaded], POLL_S).done:
            if self._closing or self._node.is_interrupted():
                self.close()
                raise AbortedError(f"model {model} was not loaded: the node is shutting down")
        session: Session = loaded.result()
        return session

    def load(self, model: str, backend: str = "") -> Session:
        """Load a model in this thread, by default in the node's backend. Raises as `inference.load`."""
        name, opened = backend or self._backend(model), []
        options, request = self._options(name), getattr(self._in_thread, "request", _Request())

        def check() -> None:
            if request.ended:
                raise AbortedError(request.ended)

        def opening(session: Session) -> None:
            opened.append(session)
            self._opening.append(session)
            check()

        working: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if hasattr(inference.BACKENDS.get(name), "ready"):
            options["progress"] = self._report_build(model, check)
            working = self._node.working(f"loading {model}")  # TensorRT keeps Python's lock while CUDA starts
        try:
            check()
            with working:
                return inference.load(self._find(model), name, opened=opening, **options)
        except AbortedError:
            check()
            raise
        finally:
            for session in opened:
                self._opening.remove(session)

    def list(self, done: Callable[[list[zoo.InstalledPackage]], None]) -> None:
        """Read the installed packages, whose files are large, in another thread, and call `done` there with them."""
        self._lister.submit(lambda: done([entry for entry in zoo.list_packages() if entry.package is not None]))

    def close(self) -> None:
        """End the loads in progress as far as possible: the build of an engine, or the first runs of a network.

        A library that does not return is left in its thread, which ends with the process.
        """
        if self._closing:
            return
        self._closing, deadline = True, time.monotonic() + CLOSE_S
        for executor in (self._later, self._first, self._lister):
            executor.shutdown(wait=False, cancel_futures=True)
            while not executor.join(POLL_S) and time.monotonic() < deadline:
                for session in self._opening[:]:
                    session.abort()

    def _load_first(self, model: str, replace: Callable[[str], None]) -> Session:
        self.fallback = ""
        name = self._backend(model)
        kind = inference.BACKENDS.get(name)
        if not self._node.config.allow_fallback or name == inference.FALLBACK or not hasattr(kind, "ready"):
            return self.load(model)
        try:
            if kind.ready(self._find(model), **self._options(name)):
                return self.load(model)
        except ActrecError as error:
            self.fallback = f"{name} cannot be used, {inference.FALLBACK} runs instead: {one_line(error)}"
            self._node.warn(self.fallback)
            return self.load(model, inference.FALLBACK)
        self._node.get_logger().info(f"{name} is building an engine; {inference.FALLBACK} runs until it is ready")
        self.submit(replace, model)
        return self.load(model, inference.FALLBACK)

    def _report_build(self, model: str, check: Callable[[], None]) -> Callable[[str, int, int], None]:
        """Return the function that reports each step of the build of an engine, and raises to end it."""
        node, began, reported = self._node, time.monotonic(), float("-inf")

        def building(phase: str, step: int, steps: int) -> None:
            nonlocal reported
            if self._closing:
                raise AbortedError("the node is shutting down")
            check()
            now = time.monotonic()
            node.busy = f"BUILDING an engine for {model}: {phase} {step}/{steps}, {now - began:.0f} s"
            if now - reported >= 1.0:  # the timer of the node does not run while it is configured
                reported = now
                node.report()
            node.warn(f"building an engine for {model}; this takes minutes, but only once")

        return building

    def _backend(self, model: str) -> str:
        return inference.resolve(self._node.config.backend, self._find(model), self._options)

    def _find(self, model: str) -> ModelPackage:
        return zoo.find(model, self._node.config.trusted_models)

    def _options(self, backend: str) -> dict[str, Any]:
        kind = inference.BACKENDS.get(backend).config_class
        options = dataclasses.asdict(parameters.Parameters(self._node, kind, backend).read())
        if self._node.config.trusted_models and "cache" in options:
            EngineCache(options["cache"]).check_trusted()
        return options
