"""Training of a network by a recipe, on Lightning."""

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only

from actrec.errors import ConfigError, DeviceError, InputError
from actrec_models import checkpoint, data, initial_weights, lineage, optimisers, other_actions, weight_files
from actrec_models.data import ClipDataset, rendered
from actrec_models.learning import Recognition
from actrec_models.machine import Machine
from actrec_models.recipe import Recipe
from actrec_models.run_lock import locked
from actrec_models.saving import Stopped
from actrec_models.training_run import TrainingRun

__all__ = ["Machine", "Recognition", "Stopped", "train", "training_clips"]

logger = logging.getLogger(__name__)


def train(
    recipe: Recipe,
    data_root: str,
    out: Path,
    *,
    resume: bool = True,
    progress: bool = True,
    threads: int = 0,
    init: Sequence[Path] = (),
    machine: Machine | None = None,
    root: str = "",
) -> Path:
    """Trains by `recipe` and returns the checkpoint: the best where the recipe holds clips out, else the last.

    Args:
        recipe: What to do.
        data_root: Folder that holds a folder a dataset.
        out: Folder for `last.ckpt`, the one before it (`previous.ckpt`), `best.ckpt` where clips are held out, and
            `log/`: `version_N/metrics.csv`, and TensorBoard's files. Where the recipe has stages, those before the
            last one lie in folders of their own in it. On several nodes it must be a folder that all of them see.
        resume: Go on from `out`'s last checkpoint where there is one.
        progress: Show a progress bar.
        threads: CPU threads; 0 for all.
        init: Files of initial weights; see `actrec_models.initial_weights`.
        machine: Devices, workers, how often to keep what is done.
        root: Folder of the recipe's dataset itself; empty for its own in `data_root`.

    Raises:
        ConfigError: `out` holds a run by another recipe, `init` another network, or network and dataset do not fit.
        PackageError: A checkpoint or a file of weights is missing, damaged or foreign.
        DeviceError: A checkpoint cannot be written, another run writes to `out`, memory is full, or a reading process
            was killed.
        InputError: A clip cannot be read; it is named. Or there are not two classes.
        Stopped: SIGTERM or Ctrl-C; what was learnt is kept.
    """
    if threads:
        torch.set_num_threads(threads)
    recipe.check()
    _tell_unused(recipe)
    lightning.seed_everything(recipe.seed, verbose=False)
    _prepare(out)
    with locked(out):
        begun = [weight_files.identity(file) for file in init]
        clips = training_clips(recipe, data_root, root)
        run = TrainingRun(recipe, clips, resume, progress, machine or Machine(), begun)
        _check_classes(run.clips)
        recipe = run.with_extrema(recipe)
        module = run.module(recipe)
        for file in init:
            # The weights alone: schedule and optimiser start anew. Whose recordings they have learnt is not forgotten.
            loaded = initial_weights.load(module.network, recipe.model, file)
            lineage.check(f"--init {file}", loaded.trainings, recipe.dataset, recipe.split, recipe.dataset_options)
            run.recordings += loaded.recordings
            run.began_with += loaded.trainings
        if recipe.unknown_dataset and not len(recipe.own_unknown(data_root, "train", root)):
            if missing := other_actions.missing(recipe, data_root):
                logger.warning("%s: the package will not be told what to reject", missing)
            else:
                other_actions.taken(recipe, clips.classes, data_root, "train")
        run.check_stages(recipe, module)
        return _fit_stages(run, module, recipe, out, init)


@rank_zero_only
def _tell_unused(recipe: Recipe) -> None:
    """Warns of what is set but does nothing: somebody expects something of it."""
    for name in ("epochs", "learning_rate"):
        if recipe.stages and all(name in stage for stage in recipe.stages) and _changed(recipe, name):
            logger.warning("%s does nothing: each of the stages has its own", name)
    for stage in recipe.plan():
        for part in recipe.of(stage).parts()[:2]:
            for name in optimisers.unused(part):
                title = f"stage '{stage.title}': " if recipe.stages else ""
                logger.warning("%s%s does nothing with %s", title, f"{type(part).__name__.lower()}.{name}", part.name)


def _check_classes(clips: ClipDataset) -> None:
    """Refuses what no package can be made of, and tells of classes that cannot be learnt.

    Raises:
        InputError: There are not two classes.
    """
    if len(clips.classes) < 2:
        raise InputError(f"there is one class, {', '.join(clips.classes)}: two actions are the least to tell apart")
    counts = np.bincount(clips.labels, minlength=len(clips.classes))
    if absent := [name for name, count in zip(clips.classes, counts, strict=True) if not count]:
        logger.warning("no clip of the training part shows %s: this will not be learnt", ", ".join(absent))


def _changed(recipe: Recipe, name: str) -> bool:
    return bool(getattr(recipe, name) != getattr(Recipe, name))


def _fit_stages(run: TrainingRun, module: Recognition, recipe: Recipe, out: Path, init: Sequence[Path]) -> Path:
    """The stages one after another, each from what those before it learnt; the last one's checkpoint.

    `module` holds the initial weights of `init` already.
    """
    taken_over = bool(init)
    plan = recipe.plan()
    folders = [*(out / f"stage_{number}_{stage.title}" for number, stage in enumerate(plan[:-1], start=1)), out]
    if run.resume:
        run.check_folders(recipe, folders)
    else:
        _forget(folders, init)
    drawn, before, kept = torch.get_rng_state(), 0, out / checkpoint.LAST
    for stage, folder in zip(plan, folders, strict=True):
        if stage.model:
            own = run.with_extrema(recipe.of(stage))
            torch.set_rng_state(drawn)  # the same weights to begin with, whether or not the stages before ran just now
            trained = run.network(own)
            if not init:
                run.takes_over(folder)
            for file in init:  # those of this network, which what it learns would else replace
                if weight_files.read(file).network == stage.model:
                    initial_weights.load(trained.network, stage.model, file)
            # The next stage starts from what this one learnt.
            kept = run.fit(trained, dataclasses.replace(stage, model="", options={}), folder, before)
            initial_weights.load(module.network, recipe.model, kept)
        else:
            taken_over = taken_over or run.takes_over(folder)
            kept = run.fit(module, stage, folder, before)
        before += stage.epochs
    return kept


def training_clips(recipe: Recipe, data_root: str, root: str = "") -> ClipDataset:
    """The recipe's training part, with the rendered clips where it names some."""
    folder = root or data.folder(data_root, recipe.dataset)
    clips = data.create(recipe.dataset, folder, split=recipe.split, part="train", **recipe.dataset_options)
    if not len(clips):
        raise InputError(f"the training part of {recipe.dataset}, split {recipe.split}, is empty")
    if not recipe.rendered:
        return clips
    more = rendered.read(Path(recipe.rendered))
    return ClipDataset([*(clips[i] for i in range(len(clips))), *more], clips.classes)


def _forget(folders: Iterable[Path], init: Sequence[Path]) -> None:
    """Deletes what an earlier run left, of all its stages: a new one that is stopped must not go on from any of it.

    Raises:
        ConfigError: The new one is to begin from it.
    """
    names = checkpoint.LAST, checkpoint.PREVIOUS, checkpoint.BEST
    files = [folder / name for folder in folders for name in names]
    there = {file.resolve() for file in files}
    if used := [file for file in init if file.expanduser().resolve() in there]:
        raise ConfigError(f"--fresh would delete {used[0]}, which --init names: choose another --out")
    _delete(files)


@rank_zero_only
def _delete(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _prepare(out: Path) -> None:
    """Makes the folder.

    Raises:
        ConfigError: Its name cannot be written down.
        DeviceError: It cannot be made.
    """
    try:
        str(out).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"--out {str(out)!r} is no UTF-8: choose another name") from error
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeviceError(f"cannot write the run to {out}: {error.strerror or error}; choose another --out") from error
