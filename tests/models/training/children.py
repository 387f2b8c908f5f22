"""Child processes in which trainings are killed.

They are forked from a server that does nothing else: pytest's own process holds threads by then (dask's, compiled
kernels'), and a fork of it may crash before it is killed.
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


def killed(target: Callable[..., Any], *arguments: Any) -> None:
    """Runs `target`, which must end by being killed."""
    child = _server().Process(target=_alone, args=(target, *arguments))
    child.start()
    child.join(300)
    assert child.exitcode == -signal.SIGKILL


@functools.cache
def _server() -> Any:
    """Start a server with the modules of a training loaded, which takes six seconds."""
    gc.collect()  # end the workers of unused loaders, which it would wait for
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # does nothing if none runs
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _alone(target: Callable[..., Any], *arguments: Any) -> None:
    """Runs `target` in the child, whose own workers are forked from it and so end when it is killed."""
    multiprocessing.set_start_method("fork", force=True)
    target(*arguments)


def run(out: Path, machine: Machine, init: Sequence[Path] = (), **changes: Any) -> Path:
    """A training on made-up clips."""
    recipe = config.build(Recipe, {**TINY, **changes})
    return trainer.train(recipe, "", out, progress=False, threads=1, machine=machine, init=init)


def die_at_step(step: int) -> None:
    """Has this process killed before a step of the whole run, counted from 0."""
    training_step = RecognitionModule.training_step

    def until(self: RecognitionModule, batch: Any, index: int) -> Any:
        if self.trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return training_step(self, batch, index)

    RecognitionModule.training_step = until  # type: ignore[method-assign]


def run_to_step(step: int, out: Path, machine: Machine, changes: dict[str, Any]) -> None:
    """A run on made-up clips that is killed before a step."""
    datasets.create = lambda name, root, **options: skeletons()  # type: ignore[assignment]
    die_at_step(step)
    run(out, machine, **changes)


def run_to_estimate(number: int, out: Path, machine: Machine, changes: dict[str, Any]) -> None:
    """A run on made-up clips that is killed at the start of an estimate of batch norms' statistics, counted from 1."""
    datasets.create = lambda name, root, **options: skeletons()  # type: ignore[assignment]
    estimate, begun = callbacks.estimate_norms, []

    def dies(*arguments: Any) -> Any:
        begun.append(1)
        if len(begun) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return estimate(*arguments)

    callbacks.estimate_norms = dies  # type: ignore[assignment]
    run(out, machine, **changes)
