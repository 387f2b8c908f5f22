"""Workers of a preparation: their number, little memory, slow starts, and lost schedulers."""

import argparse
import os
import subprocess
import sys
from collections import deque
from concurrent.futures import CancelledError

import pytest

from actrec import datasets
from actrec.cli import prepare as command
from actrec.utils.errors import DeviceError
from actrec_models.data import preparation_workers as workers
from actrec_models.data.preparation import Run, prepare
from tests.models import flaky
from tests.models.flaky import names_of

distributed = pytest.importorskip("distributed")
CommClosedError = distributed.comm.CommClosedError


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(datasets.DATASETS, "_targets", dict(datasets.DATASETS._targets))
    flaky.register()


@pytest.mark.slow
def test_prepare_worker_memory_use_by_libraries_tolerated(published, tmp_path, monkeypatch):
    """Workers with little memory per core run, although dask would pause or restart them."""
    monkeypatch.setattr(distributed.system, "MEMORY_LIMIT", 200 * 2**20)
    summary = prepare("nucla", published, tmp_path / "out", run=Run(workers=2))
    assert summary.clips == len(names_of(published)) and not summary.skipped


@pytest.mark.slow
def test_prepare_slow_worker_restart_awaited(published, tmp_path, monkeypatch):
    """A worker that restarts slowly is awaited, while dask by itself would close it permanently."""
    dask = pytest.importorskip("dask")
    names = names_of(published)
    options = {"once": names[1], "marks": str(tmp_path)}
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "100ms"}):  # the default is 15 s
        summary = prepare("deadly", published, tmp_path / "out", options=options, run=Run(workers=1))
    assert summary.clips == len(names) and not summary.skipped


def test_prepare_paused_cluster_raises(monkeypatch):
    monkeypatch.setattr(workers, "WAIT_S", 0.5)
    monkeypatch.setattr(workers, "_COUNT_S", 0.1)
    options = {"processes": False, "protocol": "tcp", "dashboard_address": None, "threads_per_worker": 1}
    with distributed.LocalCluster(n_workers=1, memory_limit="10MB", silence_logs="CRITICAL", **options) as cluster:
        with distributed.Client(cluster) as client:
            future = client.submit(len, "item")
            watch = workers._Watch(client, cluster.scheduler_address)
            with pytest.raises(DeviceError, match=r"because their memory is full: start them with --memory-limit 0"):
                while True:
                    workers._next(distributed.as_completed([future]), watch)


@pytest.mark.parametrize("error", [CancelledError(), CommClosedError("in <TCP (closed)>: reset by peer")])
def test_prepare_lost_scheduler_raises(error):
    class Future:
        status = "error"

        def result(self, timeout):
            raise error

    with pytest.raises(DeviceError, match="tcp://head:1 is no longer reachable: run the same"):
        workers._result(Future(), workers.Batch([]), deque(), None, "tcp://head:1")


@pytest.mark.parametrize("error", [CommClosedError("reset by peer"), AttributeError("'NoneType' has no 'ncores'")])
def test_prepare_lost_scheduler_while_counting_workers_raises(error):
    class Client:
        def nthreads(self):
            raise error

    with pytest.raises(DeviceError, match="tcp://head:1 is no longer reachable: run the same"):
        workers._threads(Client(), "tcp://head:1")


def test_prepare_worker_count_matches_available_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7})
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert parser.parse_args(["nucla"]).workers == 3, "a cluster job may use only some of the cores"


def test_prepare_with_workers_prints_nothing_but_its_summary(published, tmp_path):
    options = ["--root", str(published), "--out", str(tmp_path / "out"), "--workers", "1", "--quiet"]
    command = [sys.executable, "-m", "actrec", "prepare", "nucla", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "" and len(done.stdout.splitlines()) == 1, done.stdout + done.stderr
