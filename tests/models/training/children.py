"""Child processes in which trainings kill themselves.

A separate server forks them, because pytest's process has threads of dask and compiled kernels, so its forks
may crash.
"""

import functools
import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from actrec import datasets
from actrec.utils import config
from actrec_models.training import callbacks, trainer
from actrec_models.training.module import RecognitionModule
from actrec_models.training.recipe import Recipe
from actrec_models.training.trainer import Machine
from tests.models.made_up import TINY, skeletons


def run_until_killed(target: Callable[..., Any], *arguments: Any) -> None:
    """Run `target` in a child process and check that it gets killed."""
    child = _server().Process(target=_run_in_child, args=(target, *arguments))
    child.start()
    child.join(300)
    assert child.exitcode == -signal.SIGKILL


@functools.cache
def _server() -> Any:
    """Start a fork server that has the training modules loaded, in about six seconds."""
    gc.collect()  # ends the workers of unused loaders, for which the server would wait
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # does nothing if none runs
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _run_in_child(target: Callable[..., Any], *arguments: Any) -> None:
    """Run `target` in the child; its workers are forks, so they end with it."""
    multiprocessing.set_start_method("fork", force=True)
    target(*arguments)


def run(out: Path, machine: Machine, init: Sequence[Path] = (), **changes: Any) -> Path:
    """Train on synthetic clips."""
    recipe = config.build(Recipe, {**TINY, **changes})
    return trainer.train(recipe, "", out, progress=False, threads=1, machine=machine, init=init)


def die_at_step(step: int) -> None:
    """Kill this process before the given global step, counted from 0."""
    training_step = RecognitionModule.training_step

    def step_or_die(self: RecognitionModule, batch: Any, index: int) -> Any:
        if self.trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return training_step(self, batch, index)

    RecognitionModule.training_step = step_or_die  # type: ignore[method-assign]


def run_to_step(step: int, out: Path, machine: Machine, changes: dict[str, Any]) -> None:
    """Train on synthetic clips until the process is killed before the given step."""
    datasets.create = lambda name, root, **options: skeletons()  # type: ignore[assignment]
    die_at_step(step)
    run(out, machine, **changes)


def run_to_estimate(number: int, out: Path, machine: Machine, changes: dict[str, Any]) -> None:
    """Train on synthetic clips until the process is killed at a batch norm estimate, counted from 1."""
    datasets.create = lambda name, root, **options: skeletons()  # type: ignore[assignment]
    estimate, calls = callbacks.estimate_norms, []

    def estimate_or_die(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return estimate(*arguments)

    callbacks.estimate_norms = estimate_or_die  # type: ignore[assignment]
    run(out, machine, **changes)
