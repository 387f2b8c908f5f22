"""Execution of a preparation with dask.distributed, on local processes or a cluster."""

import asyncio
import contextlib
import logging
import signal
import tempfile
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

from actrec.datasets.base import Entry, Source
from actrec.utils.errors import DeviceError, MissingLibraryError
from actrec_models.data.preparation_worker import Job, Outcome, adopt, release, work

ATTEMPTS = 3
"""Number of workers that may die on a single item before it is skipped."""

WAIT_S = 60.0
"""Timeout for the first worker of a cluster."""

_COUNT_S = 5.0


@dataclass
class Batch:
    """Items of one task.

    Dask blames the death of a worker on all of its tasks: their items are retried `alone`, without any other task, and
    `deaths` counts the workers that died then.
    """

    entries: list[Entry]
    alone: bool = False
    deaths: int = 0


def run_here(job: Job, pending: deque[Batch], source: Source) -> Generator[Outcome, None, None]:
    """Prepare batch after batch in this process until `pending` is empty."""
    adopt(job, source)
    try:
        while pending:
            yield work(job, pending.popleft().entries)
    finally:
        release(job.run)


def run_on_cluster(job: Job, pending: deque[Batch], workers: int, scheduler: str) -> Generator[Outcome, None, None]:
    """Prepare on `workers` local processes, or on a cluster with a scheduler; the tasks of a dead worker are retried.

    Only a few tasks are submitted at a time, to bound the memory of the scheduler and this process. The caller clears
    `pending` to stop.

    Raises:
        DeviceError: The cluster does not answer, or fails.
        MissingLibraryError: dask.distributed is absent.
    """
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise MissingLibraryError(
            "preparation on workers needs the library 'distributed': pip install 'actrec[train]', or --workers 0"
        ) from error
    with _client(workers, scheduler) as client:
        done = distributed.as_completed()
        running: dict[Any, Batch] = {}
        counted, room = -_COUNT_S, 0
        while pending or running:
            if time.monotonic() - counted >= _COUNT_S:
                counted, threads = time.monotonic(), _threads(client, scheduler)
                room = threads + max(threads // 2, 1)
            while pending:
                alone = pending[0].alone or any(batch.alone for batch in running.values())
                if len(running) >= (1 if alone else room):
                    break
                batch = pending.popleft()
                future = client.submit(work, job, batch.entries, pure=False)
                running[future] = batch
                done.add(future)
            if not running:
                time.sleep(0.2)  # every worker is restarting
                continue
            watch = _Watch(client, scheduler)
            future = _next(done, watch)
            yield _result(future, running.pop(future), pending, watch, scheduler)
        with contextlib.suppress(OSError, asyncio.TimeoutError):  # frees long-lived workers; all clips are on the disk
            client.run(release, job.run)


def _threads(client: Any, scheduler: str) -> int:
    try:
        return sum(client.nthreads().values())
    except (OSError, AttributeError) as error:  # AttributeError: dask has closed the connection
        raise _gone(scheduler) from error


def _gone(scheduler: str) -> DeviceError:
    name = scheduler or "of this machine"
    return DeviceError(f"the scheduler {name} is no longer reachable: run the same command again to resume")


class _Watch:
    """Monitor that raises if the cluster has no active workers for some time."""

    def __init__(self, client: Any, scheduler: str):
        self._client, self._scheduler = client, scheduler
        self._seen = self._asked = time.monotonic()
        self._paused = False

    def look(self) -> None:
        """Raise DeviceError if there has been no worker for some time, or dask has paused all of them."""
        now = time.monotonic()
        if now - self._asked < _COUNT_S:
            return
        self._asked = now
        with contextlib.suppress(OSError):  # the scheduler does not answer
            workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
            self._seen, self._paused = now if any(map(_works, workers)) else self._seen, bool(workers)
        if now - self._seen < WAIT_S:
            return
        if self._paused:
            raise DeviceError(
                f"'{self._scheduler}' paused its workers because their memory is full: start them with "
                "--memory-limit 0, or fewer of them, and run the same command again to resume"
            )
        where = f"'{self._scheduler}' has no workers" if self._scheduler else "no worker process is"
        raise DeviceError(f"{where} left: run the same command again to resume")


def _works(worker: Mapping[str, Any]) -> bool:
    """Return whether a worker accepts tasks or runs one (dask pauses a worker with little free memory)."""
    return worker["status"] == "running" or bool(worker["metrics"].get("task_counts", {}).get("executing"))


def _next(done: Any, watch: _Watch) -> Any:
    while not done.has_ready():
        watch.look()
        time.sleep(0.002)
    return next(done)


def _result(future: Any, batch: Batch, pending: deque[Batch], watch: _Watch, scheduler: str) -> Outcome:
    """Return the outcome of a task; if its worker died, retry its items one by one."""
    import distributed
    from distributed.comm import CommClosedError

    try:
        return _fetched(future, watch)
    except distributed.KilledWorker:
        deaths = batch.deaths + batch.alone
        if deaths >= ATTEMPTS:
            return Outcome(skipped=[(batch.entries[0].name, f"{deaths} workers died while they worked on it")])
        pending.extendleft(Batch([entry], True, deaths) for entry in reversed(batch.entries))
        return Outcome()
    except (CancelledError, CommClosedError) as error:
        raise _gone(scheduler) from error
    except DeviceError:
        raise
    except Exception as error:
        raise DeviceError(
            f"a worker failed ({type(error).__name__}: {error}): workers need the same actrec and the same folders"
        ) from error


def _fetched(future: Any, watch: _Watch) -> Outcome:
    """Return the outcome of a finished task; dask repeats the task if the worker with the outcome is lost."""
    while True:
        try:
            outcome: Outcome = future.result(timeout=_COUNT_S)
            return outcome
        except asyncio.TimeoutError:
            if future.status == "error":  # the task's own
                raise
            watch.look()


@contextlib.contextmanager
def _client(workers: int, scheduler: str) -> Iterator[Any]:
    import distributed

    if scheduler:
        for name in ("distributed", "distributed.client"):  # our own error reports it
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            client = distributed.Client(scheduler, timeout=10)
        except (OSError, ValueError, TypeError) as error:  # TypeError: an address without its certificates
            raise DeviceError(f"no scheduler answers at '{scheduler}': start one with dask scheduler") from error
        with client:
            try:
                client.wait_for_workers(1, timeout=WAIT_S)
            except asyncio.TimeoutError as error:
                raise DeviceError(f"'{scheduler}' has no workers: start some with dask worker {scheduler}") from error
            yield client
        return
    with contextlib.ExitStack() as stack:
        try:
            client = _local(stack, workers)
        except (OSError, RuntimeError, asyncio.TimeoutError) as error:
            raise DeviceError(f"worker processes cannot be started ({error}): --workers 0 does without") from error
        yield client


def _local(stack: contextlib.ExitStack, workers: int) -> Any:
    """Start local workers and return their client; `stack` closes both."""
    import dask
    import distributed

    options = {
        # The task of a dead worker returns at once: it is split and counted here, dask would retry it as a whole.
        "distributed.scheduler.allowed-failures": 0,
        # Otherwise dask abandons a worker that starts slowly or has died again.
        "distributed.deploy.lost-worker-timeout": "1000 days",
    }
    stack.enter_context(dask.config.set(options))
    scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="actrec_prepare_"))
    cluster = distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        # Otherwise dask pauses a worker that uses most of its share of the memory, which the libraries alone can do.
        memory_limit=0,
        dashboard_address="127.0.0.1:0",
        local_directory=scratch,
        silence_logs="CRITICAL",
    )
    stack.enter_context(cluster)
    client = stack.enter_context(distributed.Client(cluster))

    class LeavesSigint(distributed.WorkerPlugin):
        """Ignore the Ctrl-C that a terminal sends to all of its processes."""

        def setup(self, worker: Any) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    client.register_plugin(LeavesSigint())
    return client
