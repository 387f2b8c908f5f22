"""Training of a network by a recipe on Lightning: stages, resuming, devices."""

import dataclasses
import hashlib
import itertools
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from actrec import datasets, features
from actrec.datasets.base import ClipDataset
from actrec.features import rates, stamps
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec_models.data import rendered_skeletons, unknown_clips
from actrec_models.data.augmentation import Augmentation
from actrec_models.data.batches import BatchFeatures, BatchSamples, collate, has_voxels, uncovered
from actrec_models.data.samplers import EpochBatchSampler, rank_batches
from actrec_models.data.samples import Samples, check_between, check_streams, unused_augmentation, warn_missing_streams
from actrec_models.networks import create
from actrec_models.training import checkpoints, initial_weights, provenance
from actrec_models.training.callbacks import (
    Averaging,
    Batches,
    BatchNormRecalibration,
    Checkpoints,
    EpochCsvLogger,
    Monitor,
    TrainingInterrupted,
    default_recalibration_batches,
)
from actrec_models.training.initial_weights import WeightFile
from actrec_models.training.machine import Machine, fast_bfloat16
from actrec_models.training.module import RecognitionModule
from actrec_models.training.recipe import Recipe, Stage, unused

__all__ = ["Machine", "RecognitionModule", "TrainingInterrupted", "train", "training_clips"]

logger = logging.getLogger(__name__)

_IGNORED_WARNINGS = (
    r"Found \d+ module\(s\) in eval mode",  # the frozen parts of a stage
    r"You defined a `validation_step` but have no `val_dataloader`",
    r".*treespec, LeafSpec.*is deprecated",  # within Lightning
    r"The '\w+_dataloader' does not have many workers",  # `Machine` sets the workers
    r"It is recommended to use `self.log\(.*sync_dist=True",  # these values are equal in all processes
    r"You're resuming from a checkpoint that ended before the epoch",  # `EpochBatchSampler` skips the drawn batches
)


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
    """Train by `recipe` and return the checkpoint: the best if the recipe holds clips out, else the last.

    Args:
        data_root: Folder with a subfolder per dataset.
        out: Folder for `last.ckpt`, the one before it (`previous.ckpt`), `best.ckpt` if clips are held out, and `log/`
            (`version_N/metrics.csv` and TensorBoard's files). Stages before the last one have subfolders of their own.
            Several nodes must share it.
        resume: Resume from the last checkpoint in `out`, if any.
        threads: CPU threads; 0 for all.
        init: Files of initial weights (`initial_weights.load`).
        root: Folder of the recipe's dataset; empty for its own in `data_root`.

    Raises:
        ConfigError: `out` holds a run by another recipe, `init` another network, or network and dataset do not fit.
        PackageError: A checkpoint or a file of weights is missing, damaged or foreign.
        DeviceError: A checkpoint cannot be written, another run writes to `out`, memory is full, or a data loader
            process was killed.
        InputError: A clip cannot be read (the message has its name), or there are fewer than two classes.
        TrainingInterrupted: SIGTERM or Ctrl-C; the last step is saved.
    """
    if threads:
        torch.set_num_threads(threads)
    recipe.check()
    _warn_unused(recipe)
    lightning.seed_everything(recipe.seed, verbose=False)
    _make_folder(out)
    with checkpoints.locked(out):
        identities = [initial_weights.identity(file) for file in init]
        clips, background = training_data(recipe, data_root, root)
        run = TrainingRun(recipe, clips, resume, progress, machine or Machine(), identities, background)
        recipe = run.completed(recipe)
        module = run.module(recipe)
        # Only the user's recordings have identities; a recording is the same in any split and folder of theirs.
        is_own = bool(init) and recipe.dataset == "folder"
        run.load(module, recipe, init, recipe.dataset_part(data_root, "test", root).identities() if is_own else ())
        if recipe.unknown_dataset and not len(recipe.unknown_clips(data_root, "train", root)):
            if missing := unknown_clips.missing_dataset(recipe, data_root):
                logger.warning("%s: the package gets no rejection", missing)
            else:
                unknown_clips.load(recipe, clips.classes, data_root, "train")
        run.check_stages(recipe, module)
        return run.fit_stages(module, recipe, out, init)


@rank_zero_only
def _warn_unused(recipe: Recipe) -> None:
    """Warn about settings without effect."""
    for name in ("epochs", "learning_rate"):
        changed = getattr(recipe, name) != getattr(Recipe, name)
        if changed and recipe.stages and all(name in stage for stage in recipe.stages):
            logger.warning("%s does nothing: each of the stages has its own", name)
    if recipe.augmentation and not any(recipe.for_stage(stage).augment for stage in recipe.plan()):
        logger.warning("augmentation does nothing: augment is false")
    for stage in recipe.plan():
        title = f"stage '{stage.title}': " if recipe.stages else ""
        for part in recipe.for_stage(stage).components()[:2]:
            for name in unused(part):
                logger.warning("%s%s does nothing with %s", title, f"{type(part).__name__.lower()}.{name}", part.name)


def _make_folder(out: Path) -> None:
    try:
        str(out).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"--out {str(out)!r} is no UTF-8: choose another name") from error
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeviceError(f"cannot write the run to {out}: {error.strerror or error}; choose another --out") from error


def training_clips(recipe: Recipe, data_root: str, root: str = "") -> ClipDataset:
    """Return the training part, with the recipe's rendered clips if any; raise InputError if either is empty."""
    clips = recipe.dataset_part(data_root, "train", root)
    if not len(clips):
        raise InputError(f"the training part of {recipe.dataset}, split {recipe.split}, is empty")
    if not recipe.rendered:
        return clips
    both = rendered_skeletons.add(clips, recipe.rendered)
    if len(both) == len(clips):
        raise InputError(f"'{recipe.rendered}' renders no clip of the training part of {recipe.dataset}, split "
                         f"{recipe.split}: make it with actrec prepare {recipe.dataset} --render-every")  # fmt: skip
    return both


def training_data(recipe: Recipe, data_root: str, root: str = "") -> tuple[ClipDataset, ClipDataset | None]:
    """Return the clips of the classes and of the background, None without one; raises as `training_clips`."""
    clips = training_clips(recipe, data_root, root)
    return clips, unknown_clips.background(recipe, clips, data_root, root)[0] if recipe.background else None


def fingerprint(clips: ClipDataset, background: ClipDataset | None) -> str:
    """Return the SHA-256 that identifies the data of a run."""
    digest = clips.fingerprint()
    if background is None:
        return digest
    return hashlib.sha256(f"{digest} {background.fingerprint()}".encode()).hexdigest()


class TrainingRun:
    """The state that the stages of a run share."""

    def __init__(
        self, recipe: Recipe, whole: ClipDataset, resume: bool, progress: bool, machine: Machine, init: list[str],
        background: ClipDataset | None = None,
    ):  # fmt: skip
        self.resume, self.progress, self.machine, self.init = resume, progress, machine, init
        self.options = machine.trainer_options()
        self.gpu = self.options["accelerator"] == "gpu"
        self.device = torch.device("cuda" if self.gpu else "cpu")
        self.world = self.options["devices"] * self.options["num_nodes"]
        precisions = {part.precision for part in map(recipe.for_stage, recipe.plan())}
        if not self.gpu and "16-mixed" in precisions:
            raise ConfigError("a CPU does not train in float16: set precision (of the recipe, or of the stage that has "
                              "one) to 32-true or bf16-mixed")  # fmt: skip
        if "bf16-mixed" in precisions and not fast_bfloat16(self.device):
            logger.warning("this processor only imitates bfloat16, several times slower than float32: "
                           "--set precision=32-true")  # fmt: skip
        self.fingerprint, self.recordings = fingerprint(whole, background), whole.identities()
        self.background = background
        # Trainings of the initial weights, and on the background's clips of another dataset.
        self.initial_trainings: tuple[dict[str, Any], ...] = ()
        if background is not None:
            self.recordings += background.identities()
            if not any(background.metas):  # of the unknown_dataset, not labeled unknown in the recipe's own
                split = datasets.DATASETS.get(recipe.unknown_dataset).splits[0]
                self.initial_trainings += (provenance.training(recipe.unknown_dataset, split, recipe.unknown_options),)
        self.frame_rates, self.scene_flow = whole.frame_rates(), whole.scene_flow
        self.validation = recipe.components().validation
        self.clips, self.held = self.validation.split(whole, recipe.seed)
        self.seconds, self.trained = 0.0, 0  # seconds and epochs of earlier stages
        self.filled = set[str]()  # tensors of the network from initial weights and earlier stages
        self.epochs = sum(stage.epochs for stage in recipe.plan())
        self.provenance: dict[str, Any] = {}
        classes = self.clips.classes
        if len(classes) < 2:
            raise InputError(f"there is one class, {', '.join(classes)}: two actions are the least to tell apart")
        counts = np.bincount(self.clips.labels, minlength=len(classes))
        self.absent = [name for name, count in zip(classes, counts, strict=True) if not count]
        if self.absent:
            logger.warning("no clip of the training part shows %s: this will not be learnt", ", ".join(self.absent))

    def module(self, recipe: Recipe) -> RecognitionModule:
        """Return the recipe's network; raise ConfigError if the dataset or outliers do not fit it."""
        module, unused_fields = RecognitionModule(recipe.as_dict(), list(self.clips.classes)), set[str]()
        for stage in recipe.plan():
            if not stage.model:
                if stage.name in module.network.stages:
                    module.network.stage(stage.name)
                made = [spec.name for spec in module.network.stage_input_specs]
                specs, chosen = module.network.input_specs, recipe.for_stage(stage)
                check_streams(self.clips, specs, chosen, made, self.background)
                unused_fields.add(unused_augmentation(specs, chosen, made))
        for line in filter(None, unused_fields):
            logger.warning("%s", line)
        if module.network.stages:
            module.network.stage("")
        warn_missing_streams(self.clips, module.network.input_specs, recipe)
        for field in ("outliers", "background"):
            if getattr(recipe, field) and not (module.plain or module.network.handles_outliers):
                raise ConfigError(f"{recipe.model} has a loss of its own without {field}: set {field} to 0")
        check_between(module.network.input_specs, recipe)
        if recipe.outliers and not any(recipe.for_stage(stage).augment for stage in recipe.plan()):
            raise ConfigError("outliers are made where clips are varied: set augment to true, or outliers to 0")
        return module

    def completed(self, recipe: Recipe) -> Recipe:
        """Return the recipe with, unless it states them, the window for slower recordings, and extrema of stamps."""
        with torch.random.fork_rng(devices=[]):  # this network must not change the next one's random weights
            network = create(recipe.model, num_classes=len(self.clips.classes), **recipe.network_options())
        specs, median = network.input_specs, self.frame_rates[len(self.frame_rates) // 2] if self.frame_rates else 0.0
        fitted = rates.fit_window(specs, recipe.window(network), median)
        if recipe.window_s is None and recipe.clips != "stretched" and fitted != recipe.window(network):
            logger.info("%s takes images at the recordings' %g Hz: window_s %g", recipe.model, median, fitted.seconds)
            recipe = dataclasses.replace(recipe, window_s=fitted.seconds)
        elif slow := rates.describe_rate(specs, recipe.window(network), median):
            logger.warning("%s: %s", recipe.dataset, slow)
        if "extrema" in recipe.options or not any(s.modality.endswith("_stamp") for s in network.input_specs):
            return recipe
        window, stretched = recipe.window(network), recipe.clips == "stretched"
        samples = (self.clips[i].sample(window.seconds, window.frames, stretched) for i in range(len(self.clips)))
        extrema = stamps.extrema(samples, network.input_specs, recipe.gravity)
        return dataclasses.replace(recipe, options={**recipe.options, "extrema": extrema})

    def load(self, module: RecognitionModule, recipe: Recipe, init: Sequence[Path], tested: Sequence[str] = ()) -> None:
        """Load initial weights; raise ConfigError if they do not fit, or were trained on the recipe's test clips.

        `tested` are `ClipDataset.identities` of the test part.
        """
        for file in init:
            weights = initial_weights.read(file)
            self.filled.update(initial_weights.load(module.network, recipe.model, weights).loaded)
            provenance.check(f"--init {file}", weights.trainings, recipe.dataset, recipe.split, recipe.dataset_options)
            # People in one recording may be on both sides of the same split.
            same = provenance.same_split(weights.trainings, recipe.split, recipe.dataset_options)
            if not same and (met := set(weights.recordings) & set(tested)):
                raise ConfigError(
                    f"--init {file} was trained on {len(met)} of the {len(tested)} recordings that would be tested on: "
                    "choose weights of the same split and held_out, or others to test on"
                )
            self.recordings += weights.recordings
            self.initial_trainings += weights.trainings

    def check_stages(self, recipe: Recipe, module: RecognitionModule) -> None:
        """Raise ConfigError, before the first stage is trained, if a stage does not fit the network or the clips."""
        for stage in recipe.plan():
            own, trained = recipe.for_stage(stage), module
            if stage.model:
                with torch.random.fork_rng(devices=[]):
                    trained = self.module(own)
                weights = trained.network.state_dict()
                file = WeightFile(Path(f"stage {stage.title}"), weights, stage.model, len(self.clips.classes))
                initial_weights.check(module.network, recipe.model, file)
            trained.enter(dataclasses.replace(stage, model="", options={}))
            if not trained.plain and own.label_smoothing not in (0.0, Recipe.label_smoothing):
                logger.warning("label_smoothing does nothing: %s has a loss of its own", own.model)
            self._batch_features(trained, own)
            optimizer, _, sampling, _ = own.components()
            optimizer.make(trained.network.parameters(), own.learning_rate, own.weight_decay)
            EpochBatchSampler(
                self.clips.labels, sampling, own.seed, own.batch, own.accumulate,
                world=self.world, metas=self.clips.metas,
            )  # fmt: skip

    def fit_stages(self, module: RecognitionModule, recipe: Recipe, out: Path, init: Sequence[Path]) -> Path:
        """Train each stage from the weights before; raise ConfigError if a folder holds another run, or `init`."""
        plan, folders = recipe.plan(), recipe.folders(out)
        if self.resume:
            for stage, folder in zip(plan[1:], folders[1:], strict=True):  # `fit` checks the first one
                if found := checkpoints.newest(folder):
                    own = self.completed(recipe.for_stage(stage)) if stage.model else recipe
                    checkpoints.check_same_run(found, own, self.fingerprint, self.init)
        else:
            delete_checkpoints(folders, init)
        random_state, before, kept, init_saved = torch.get_rng_state(), 0, out / checkpoints.LAST, False
        for stage, folder in zip(plan, folders, strict=True):
            given = init or (init_saved and not stage.model)
            if self.init and not given and not (self.resume and checkpoints.newest(folder)):
                raise ConfigError(
                    f"the run in {folder} began from {', '.join(self.init)}, which no checkpoint of it holds yet: "
                    "name the same --init again"
                )
            if stage.model:
                own = self.completed(recipe.for_stage(stage))
                torch.set_rng_state(random_state)  # equal initial weights whether or not earlier stages just ran
                trained = RecognitionModule(own.as_dict(), list(self.clips.classes))
                for weights in map(initial_weights.read, init):
                    if weights.network == stage.model:
                        initial_weights.load(trained.network, stage.model, weights)
                initial_weights.hand_on(module.network, recipe.model, self.filled, trained.network, stage.model)
                kept = self.fit(trained, dataclasses.replace(stage, model="", options={}), folder, before)
                self.filled.update(initial_weights.load(module.network, recipe.model, kept).loaded)
            else:
                init_saved = True  # in this stage's checkpoint
                kept = self.fit(module, stage, folder, before)
                self.filled.update(module.network.state_dict())
            before += stage.epochs
        return kept

    def fit(self, module: RecognitionModule, stage: Stage, folder: Path, before: int) -> Path:
        """Train one stage, after `before` epochs of others, and return the checkpoint of the weights in `module`."""
        module.enter(stage, before)
        recipe = module.recipe.for_stage(stage)
        found = checkpoints.newest(folder) if self.resume else None
        position: dict[str, Any] = {"epoch": 0, "steps": 0, "seconds": self.seconds, "finished": False}
        if found:
            self.init = checkpoints.check_same_run(found, module.recipe, self.fingerprint, self.init)
            self.provenance = provenance.from_checkpoint(found[1])
            position = found[1]["actrec"]
            state = "the run is finished" if position["finished"] else "resuming from there"
            logger.info("%s: step %d; %s", found[0], found[1]["global_step"], state)
        if not position["finished"]:
            self._fit(module, recipe, folder, before, position, found[0] if found else None)
        kept = folder / (checkpoints.BEST if self.held is not None else checkpoints.LAST)
        content = checkpoints.read(kept)
        last = checkpoints.newest(folder)  # later than the best
        ended = (last[1] if last else content)["actrec"]
        self.seconds, self.trained = ended["seconds"], ended["epochs"]
        self.provenance = provenance.from_checkpoint(content)
        module.load_state_dict(content["state_dict"])  # the averaged weights
        return kept

    def _fit(
        self, module: RecognitionModule, recipe: Recipe, folder: Path, before: int, position: dict[str, Any],
        last: Path | None,
    ) -> None:  # fmt: skip
        sync_batch_norm = self.options["strategy"] == "ddp" and recipe.sync_batch_norm
        if sync_batch_norm and not self.gpu and _has_batch_norm(module):
            logger.warning("PyTorch shares batch norms among GPUs alone: here each process counts its own clips")
        trainer = lightning.Trainer(
            **self.options,
            precision=cast(Any, recipe.precision),  # Lightning accepts a Literal only
            max_epochs=recipe.epochs,
            logger=[EpochCsvLogger(folder, name="log"), TensorBoardLogger(folder, name="log", version="tensorboard")],
            callbacks=self._callbacks(module, recipe, folder, before, position),
            plugins=[checkpoints.AtomicIO()],
            enable_progress_bar=self.progress,
            enable_model_summary=False,
            gradient_clip_val=recipe.gradient_clip or None,
            accumulate_grad_batches=recipe.accumulate,
            sync_batchnorm=sync_batch_norm and self.gpu,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
        )
        module.batch_features = self._batch_features(module, recipe)
        if self.machine.compile:
            # Gradients that are accumulated would lie in the memory of a graph that is replayed.
            module.compile_losses(self.gpu and recipe.accumulate == 1)
        loader = self._loader(module, recipe, trainer, before + position["epoch"], position["steps"])
        held = self._held_loader(module, recipe, trainer)
        with warnings.catch_warnings(), checkpoints.translate_errors(folder):
            for message in _IGNORED_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            trainer.fit(module, loader, held, ckpt_path=str(last) if last else None, weights_only=True)

    def _callbacks(
        self, module: RecognitionModule, recipe: Recipe, folder: Path, before: int, position: dict[str, Any]
    ) -> list[lightning.Callback]:
        metric = self.validation.metric if self.held is not None else ""
        held = len(self.held or ())
        now = {
            "dataset": recipe.dataset,
            "split": recipe.split,
            "seed": recipe.seed,
            "data_sha256": self.fingerprint,
            "init": self.init,
            "clips": len(self.clips),
            "held_out": held,
            "frame_rates": list(self.frame_rates),
            "scene_flow": dict(self.scene_flow) if "flow" in features.streams(module.network.input_specs) else {},
            **({"recordings": self.recordings} if self.recordings else {}),
            **({provenance.ABSENT: self.absent} if self.absent else {}),
            **provenance.as_figures(self.initial_trainings),
            **provenance.describe_machine(self.device, self.world),
        }
        callbacks: list[lightning.Callback] = [
            Monitor(recipe.batch, recipe.accumulate),
            Checkpoints(
                folder, provenance.merge(self.provenance, now), self.trained, recipe.accumulate,
                self.machine.checkpoint_minutes, self.machine.checkpoint_steps, metric, position["seconds"],
                followed=before + recipe.epochs < self.epochs, part=module.stage.name,
            ),
        ]  # fmt: skip
        averaging = Averaging(recipe.ema_decay, recipe.ema_warm_up) if recipe.ema_decay else None
        callbacks += [averaging] if averaging else []
        batches = recipe.recalibration_batches
        if batches is None:
            batches = default_recalibration_batches(recipe, len(self.clips), held)
        if batches and _has_batch_norm(module):

            def draw(trainer: lightning.Trainer, epoch: int) -> Batches:
                loader = self._loader(module, recipe, trainer, before + epoch, 0)
                return itertools.chain.from_iterable(itertools.repeat(loader))

            callbacks.append(BatchNormRecalibration(batches * recipe.accumulate, draw, averaging, bool(metric)))
        if metric and self.validation.patience:
            mode = "max" if metric == "accuracy" else "min"
            callbacks.append(EarlyStopping(f"val_{metric}", patience=self.validation.patience, mode=mode))
        return callbacks

    def _loader(
        self, module: RecognitionModule, recipe: Recipe, trainer: lightning.Trainer, epoch: int, steps_done: int
    ) -> DataLoader:
        """Return the batches of an epoch, counted from the first stage's first, and of the later epochs."""
        augmentation = recipe.check() if recipe.augment else None
        samples = self._samples(module, recipe, self.clips, augmentation, any_clip=True, background=self.background)
        sampler = EpochBatchSampler(
            self.clips.labels, recipe.components().sampling, recipe.seed, recipe.batch, recipe.accumulate,
            rank=trainer.global_rank, world=trainer.world_size, epoch=epoch, steps_done=steps_done,
            metas=self.clips.metas,
        )  # fmt: skip
        return DataLoader(samples, batch_sampler=sampler, **self._loader_options(module, recipe))

    def _held_loader(self, module: RecognitionModule, recipe: Recipe, trainer: lightning.Trainer) -> DataLoader | None:
        if self.held is None:
            return None
        samples = self._samples(module, recipe, self.held, None)
        size = max(recipe.batch // (recipe.accumulate * trainer.world_size), 1)
        sampler = rank_batches(len(self.held), size, trainer.global_rank, trainer.world_size)
        return DataLoader(samples, batch_sampler=sampler, **self._loader_options(module, recipe))

    def _samples(
        self, module: RecognitionModule, recipe: Recipe, clips: ClipDataset, augmentation: Augmentation | None,
        **options: Any,
    ) -> Samples:  # fmt: skip
        network = module.network
        made = [spec.name for spec in network.stage_input_specs]
        kind = Samples if module.batch_features is None else BatchSamples
        return kind(clips, network.input_specs, recipe.window(network), recipe, augmentation, made=made, **options)

    def _batch_features(self, module: RecognitionModule, recipe: Recipe) -> BatchFeatures | None:
        """Return the features of whole batches, None for features of single clips; raise ConfigError if refused."""
        if self.machine.features == "workers":
            return None
        network, layout = module.network, self.clips.layout
        slower = self.machine.workers or has_voxels(network.input_specs)  # on a CPU; workers run beside the network
        if self.machine.features == "auto" and not self.gpu and slower:
            return None
        if cause := uncovered(network.input_specs, recipe.window(network), recipe.clips, layout):
            if self.machine.features == "device":
                raise ConfigError(f"--features device does not cover {recipe.model}: {cause}; leave the option")
            return None
        return BatchFeatures(network.stage_input_specs)

    def _loader_options(self, module: RecognitionModule, recipe: Recipe) -> dict[str, Any]:
        options = self.machine.loader_options(self.options["devices"], self.gpu, recipe.seed)
        return options if module.batch_features is None else {**options, "collate_fn": collate}


def _has_batch_norm(module: RecognitionModule) -> bool:
    return any(isinstance(part, _BatchNorm) for part in module.network.modules())


def delete_checkpoints(folders: Sequence[Path], init: Sequence[Path]) -> None:
    """Delete an earlier run's checkpoints of all stages: a stopped new run must not resume from them."""
    names = checkpoints.LAST, checkpoints.PREVIOUS, checkpoints.BEST
    files = [folder / name for folder in folders for name in names]
    existing = {file.resolve() for file in files}
    if used := [file for file in init if file.expanduser().resolve() in existing]:
        raise ConfigError(f"--fresh would delete {used[0]}, which --init names: choose another --out")
    if not getattr(rank_zero_only, "rank", None):
        for file in files:
            file.unlink(missing_ok=True)
