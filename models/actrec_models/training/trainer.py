"""Training of a network by a recipe, on Lightning.

A training run: what its stages share, and how each is fitted on Lightning.
"""

import dataclasses
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader

from actrec import datasets
from actrec.datasets.base import ClipDataset
from actrec.features import stamps
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec_models.data import rendered_skeletons, unknown_clips
from actrec_models.data.samplers import EpochBatchSampler, RankBatchSampler
from actrec_models.data.samples import Samples, check_streams, warn_missing_streams
from actrec_models.networks.base import Network
from actrec_models.registry import create
from actrec_models.training import checkpoints, initial_weights, optimizers, provenance
from actrec_models.training.averaging import Averaging, Batches, BatchNormRecalibration, default_recalibration_batches
from actrec_models.training.checkpoints import AtomicIO, Checkpoints, TrainingInterrupted, locked, translate_errors
from actrec_models.training.initial_weights import WeightFile
from actrec_models.training.module import RecognitionModule
from actrec_models.training.monitoring import EpochCsvLogger, Machine, Monitor, fast_bfloat16, loader_options
from actrec_models.training.recipe import Recipe, Stage

__all__ = ["Machine", "RecognitionModule", "TrainingInterrupted", "train", "training_clips"]


class TrainingRun:
    """What the stages of a run share."""

    def __init__(
        self, recipe: Recipe, whole: ClipDataset, resume: bool, progress: bool, machine: Machine, init: list[str]
    ):
        self.resume, self.progress, self.machine, self.init = resume, progress, machine, init
        self.options = machine.trainer_options()
        on_cpu = self.options["accelerator"] == "cpu"
        precisions = {part.precision for part in map(recipe.for_stage, recipe.plan())}
        if on_cpu and "16-mixed" in precisions:
            raise ConfigError("a CPU does not train in float16: set precision (of the recipe, or of the stage that has "
                              "one) to 32-true or bf16-mixed")  # fmt: skip
        if "bf16-mixed" in precisions and not fast_bfloat16(_device(self.options)):
            logger.warning("this processor only imitates bfloat16, several times slower than float32: "
                           "--set precision=32-true")  # fmt: skip
        self.fingerprint = whole.fingerprint()
        self.recordings = whole.identities()
        self.initial_trainings: tuple[dict[str, Any], ...] = ()  # trainings of the initial weights
        self.validation = recipe.components().validation
        self.clips, self.held = self.validation.split(whole, recipe.seed)
        self.seconds, self.trained = 0.0, 0  # seconds and epochs that the stages before took
        self.epochs = sum(stage.epochs for stage in recipe.plan())
        self.made_by: dict[str, Any] = {}  # provenance so far

    def network(self, recipe: Recipe) -> RecognitionModule:
        """Return the recipe's network."""
        return RecognitionModule(recipe.as_dict(), list(self.clips.classes))

    def module(self, recipe: Recipe) -> RecognitionModule:
        """Return the recipe's network, which the dataset must suit."""
        module = self.network(recipe)
        for stage in recipe.plan():
            if not stage.model:
                check_streams(self.clips, module.network.input_specs, recipe.for_stage(stage))
        warn_missing_streams(self.clips, module.network.input_specs, recipe)  # once, not a stage
        if recipe.outliers and not (module.plain or module.network.handles_outliers):
            raise ConfigError(f"{recipe.model} has a loss of its own, which knows no outliers: set outliers to 0")
        if recipe.outliers and not any(recipe.for_stage(stage).augment for stage in recipe.plan()):
            raise ConfigError("outliers are made where clips are varied: set augment to true, or outliers to 0")
        return module

    def with_extrema(self, recipe: Recipe) -> Recipe:
        """Return the recipe with Eq. 1's extrema of the training part, if its network takes stamps and it has none."""
        with torch.random.fork_rng(devices=[]):  # a network made to look at must not change the next one's weights
            network = create(recipe.model, num_classes=len(self.clips.classes), **recipe.network_options())
        if "extrema" in recipe.options or not any(spec.modality in stamps.STAMPS for spec in network.input_specs):
            return recipe
        window = recipe.window(network)
        stretched = recipe.clips == "stretched"
        samples = (self.clips[i].sample(window.seconds, window.frames, stretched) for i in range(len(self.clips)))
        found = stamps.extrema(samples, network.input_specs)
        return dataclasses.replace(recipe, options={**recipe.options, "extrema": found})

    def check_stages(self, recipe: Recipe, module: RecognitionModule) -> None:
        """Check the later stages before the first one is trained, perhaps for days.

        Raises:
            ConfigError: The network has no such stage or nothing to train in it, a batch is larger than the training
                part, or the network of a stage has weights that the recipe's does not take.
        """
        world = self.options["devices"] * self.options["num_nodes"]
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
            optimizer, _, sampling, _ = own.components()
            optimizer.make(trained.network.parameters(), own.learning_rate, own.weight_decay)
            EpochBatchSampler(self.clips.labels, sampling, own.seed, own.batch, own.accumulate, world=world)

    def check_folders(self, recipe: Recipe, folders: Sequence[Path]) -> None:
        """Refuse the folder of a later stage if it holds another run, before the first stage is trained.

        Args:
            recipe: Of the run.
            folders: One a stage; the first one is looked at when it is trained.

        Raises:
            ConfigError: It holds a run by another recipe, on other data or from other initial weights.
            PackageError: None of its checkpoints can be read.
        """
        for stage, folder in list(zip(recipe.plan(), folders, strict=True))[1:]:
            if found := checkpoints.newest(folder):
                own = self.with_extrema(recipe.for_stage(stage)) if stage.model else recipe
                checkpoints.check_same_run(found, own, self.fingerprint)
                checkpoints.same_init(found, self.init)

    def takes_over(self, folder: Path) -> bool:
        """Return whether the stage's checkpoint has the initial weights, if they are not given again.

        Raises:
            ConfigError: The run began from some, and was ended before the network that takes them was trained.
        """
        if self.init and not (self.resume and checkpoints.newest(folder)):
            raise ConfigError(
                f"the run in {folder} began from {', '.join(self.init)}, which no checkpoint of it holds yet: "
                "name the same --init again"
            )
        return True

    def fit(self, module: RecognitionModule, stage: Stage, folder: Path, before: int) -> Path:
        """One stage, which leaves its weights in `module` and in the checkpoint that is returned."""
        module.enter(stage, before)
        recipe = module.recipe.for_stage(stage)
        found = checkpoints.newest(folder) if self.resume else None
        position: dict[str, Any] = {"epoch": 0, "steps": 0, "seconds": self.seconds}
        if found:
            checkpoints.check_same_run(found, module.recipe, self.fingerprint)
            self.made_by = provenance.from_checkpoint(found[1])
            self.init = checkpoints.same_init(found, self.init)
            position = checkpoints.position(found[1], recipe)
            goes_on = "the run is finished" if position["finished"] else "the run goes on from there"
            logger.info("%s: step %d; %s", found[0], found[1]["global_step"], goes_on)
        if not (found and position["finished"]):
            self._fit(module, recipe, folder, before, position, found[0] if found else None)
        kept = folder / (checkpoints.BEST if self.held is not None else checkpoints.LAST)
        content = checkpoints.read(kept)
        ended = checkpoints.newest(folder) if self.held is not None else None  # later than the best
        position = (ended[1] if ended else content).get("actrec", {})
        self.seconds, self.trained = float(position.get("seconds", 0.0)), int(position.get("epochs", 0))
        self.made_by = provenance.from_checkpoint(content)
        module.load_state_dict(content["state_dict"])  # the averaged weights
        return kept

    def _fit(
        self,
        module: RecognitionModule,
        recipe: Recipe,
        folder: Path,
        before: int,
        position: dict[str, Any],
        last: Path | None,
    ) -> None:
        trainer = lightning.Trainer(
            **self.options,
            precision=cast(Any, recipe.precision),  # Lightning accepts a Literal only
            max_epochs=recipe.epochs,
            logger=[EpochCsvLogger(folder, name="log"), TensorBoardLogger(folder, name="log", version="tensorboard")],
            callbacks=self._callbacks(module, recipe, folder, before, position),
            plugins=[AtomicIO()],
            enable_progress_bar=self.progress,
            enable_model_summary=False,
            gradient_clip_val=recipe.gradient_clip or None,
            accumulate_grad_batches=recipe.accumulate,
            sync_batchnorm=self._sync_batch_norm(recipe, module),
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
        )
        loader = self._loader(module, recipe, trainer, before + position["epoch"], position["steps"])
        held = self._held_loader(module, recipe, trainer) if self.held is not None else None
        with warnings.catch_warnings(), translate_errors(folder):
            # What a stage does not train is meant to be in evaluation mode.
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
            warnings.filterwarnings("ignore", message=r"You defined a `validation_step` but have no `val_dataloader`")
            # Deprecated within Lightning; and how many processes read is `Machine`'s to say.
            warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec.*is deprecated")
            warnings.filterwarnings("ignore", message=r"The '\w+_dataloader' does not have many workers")
            # What is logged so is alike in all processes already.
            warnings.filterwarnings("ignore", message=r"It is recommended to use `self.log\(.*sync_dist=True")
            # On resuming, `EpochBatchSampler` skips the drawn batches.
            warnings.filterwarnings("ignore", message=r"You're resuming from a checkpoint that ended before the epoch")
            trainer.fit(module, loader, held, ckpt_path=str(last) if last else None, weights_only=True)

    def _callbacks(
        self, module: RecognitionModule, recipe: Recipe, folder: Path, before: int, position: dict[str, Any]
    ) -> list[lightning.Callback]:
        metric = self.validation.metric if self.held is not None else ""
        devices = self.options["devices"] * self.options["num_nodes"]
        now = provenance.describe(
            recipe,
            self.fingerprint,
            len(self.clips),
            len(self.held or ()),
            _device(self.options),
            devices,
            self.init,
            self.recordings,
            self.initial_trainings,
        )
        made_of, machine = provenance.merge(self.made_by, now), self.machine
        callbacks: list[lightning.Callback] = [
            Monitor(recipe.batch, recipe.accumulate),
            Checkpoints(
                folder, made_of, self.trained, recipe.accumulate, machine.checkpoint_minutes, machine.checkpoint_steps,
                metric, position["seconds"], before + recipe.epochs < self.epochs,
            ),
        ]  # fmt: skip
        averaging = Averaging(recipe.ema_decay, recipe.ema_warm_up) if recipe.ema_decay else None
        callbacks += [averaging] if averaging else []
        renewed = recipe.recalibration_batches
        if renewed is None:
            renewed = default_recalibration_batches(recipe, len(self.clips), len(self.held or ()))
        if renewed and _has_batch_norm(module):

            def draw(trainer: lightning.Trainer, epoch: int) -> Batches:
                return _endless(self._loader(module, recipe, trainer, before + epoch, 0))

            batches = renewed * recipe.accumulate
            callbacks.append(BatchNormRecalibration(batches, draw, averaging, self.held is not None))
        if metric and self.validation.patience:
            mode = "max" if metric == "accuracy" else "min"
            callbacks.append(EarlyStopping(f"val_{metric}", patience=self.validation.patience, mode=mode))
        return callbacks

    def _sync_batch_norm(self, recipe: Recipe, module: RecognitionModule) -> bool:
        several = self.options["strategy"] == "ddp" and recipe.sync_batch_norm
        if several and self.options["accelerator"] == "cpu" and _has_batch_norm(module):
            logger.warning("PyTorch shares batch norms among GPUs alone: here each process counts its own clips")
            return False
        return bool(several and self.options["accelerator"] == "gpu")

    def _loader(
        self, module: RecognitionModule, recipe: Recipe, trainer: lightning.Trainer, epoch: int, steps_done: int
    ) -> DataLoader:
        """Return the batches of an epoch, counted from the first stage's first, and of the later epochs."""
        augmentation = recipe.check() if recipe.augment else None
        window = recipe.window(module.network)
        specs, made = module.network.input_specs, _made(module)
        samples = Samples(self.clips, specs, window, recipe, augmentation, any_clip=True, made=made)
        epochs = EpochBatchSampler(
            self.clips.labels, recipe.components().sampling, recipe.seed, recipe.batch, recipe.accumulate,
            rank=trainer.global_rank, world=trainer.world_size, epoch=epoch, steps_done=steps_done,
        )  # fmt: skip
        return DataLoader(samples, batch_sampler=epochs, **self._loader_options(recipe))

    def _held_loader(self, module: RecognitionModule, recipe: Recipe, trainer: lightning.Trainer) -> DataLoader:
        assert self.held is not None
        specs, window = module.network.input_specs, recipe.window(module.network)
        samples = Samples(self.held, specs, window, recipe, None, made=_made(module))
        size = max(recipe.batch // (recipe.accumulate * trainer.world_size), 1)
        shares = RankBatchSampler(len(self.held), size, trainer.global_rank, trainer.world_size)
        return DataLoader(samples, batch_sampler=shares, **self._loader_options(recipe))

    def _loader_options(self, recipe: Recipe) -> dict[str, Any]:
        gpu = self.options["accelerator"] == "gpu"
        return loader_options(self.machine.loader_workers(self.options["devices"], gpu), gpu, recipe.seed)


def _made(module: RecognitionModule) -> list[str]:
    """Return the inputs that the stage reads."""
    return [spec.name for spec in module.network.stage_input_specs]


def _endless(loader: DataLoader) -> Iterator[dict[str, torch.Tensor]]:
    """Epoch after epoch."""
    while True:
        yield from loader


def _device(options: dict[str, Any]) -> torch.device:
    return torch.device("cuda" if options["accelerator"] == "gpu" else "cpu")


def _has_batch_norm(module: RecognitionModule) -> bool:
    network: Network = module.network
    return any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in network.modules())


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
        resume: Resume from `out`'s last checkpoint if there is one.
        progress: Show a progress bar.
        threads: CPU threads; 0 for all.
        init: Files of initial weights; see `actrec_models.training.initial_weights`.
        machine: Devices, workers, how often to keep the state.
        root: Folder of the recipe's dataset itself; empty for its own in `data_root`.

    Raises:
        ConfigError: `out` holds a run by another recipe, `init` another network, or network and dataset do not fit.
        PackageError: A checkpoint or a file of weights is missing, damaged or foreign.
        DeviceError: A checkpoint cannot be written, another run writes to `out`, memory is full, or a reading process
            was killed.
        InputError: A clip cannot be read (the message has its name), or there are not two classes.
        TrainingInterrupted: SIGTERM or Ctrl-C; the state is kept.
    """
    if threads:
        torch.set_num_threads(threads)
    recipe.check()
    _tell_unused(recipe)
    lightning.seed_everything(recipe.seed, verbose=False)
    _prepare(out)
    with locked(out):
        begun = [initial_weights.identity(file) for file in init]
        clips = training_clips(recipe, data_root, root)
        run = TrainingRun(recipe, clips, resume, progress, machine or Machine(), begun)
        _check_classes(run.clips)
        recipe = run.with_extrema(recipe)
        module = run.module(recipe)
        for file in init:
            # The weights alone: schedule and optimizer restart. The recordings of their training are remembered.
            loaded = initial_weights.load(module.network, recipe.model, file)
            provenance.check(f"--init {file}", loaded.trainings, recipe.dataset, recipe.split, recipe.dataset_options)
            run.recordings += loaded.recordings
            run.initial_trainings += loaded.trainings
        if recipe.unknown_dataset and not len(recipe.unknown_clips(data_root, "train", root)):
            if missing := unknown_clips.missing_dataset(recipe, data_root):
                logger.warning("%s: the package gets no rejection", missing)
            else:
                unknown_clips.load(recipe, clips.classes, data_root, "train")
        run.check_stages(recipe, module)
        return _fit_stages(run, module, recipe, out, init)


@rank_zero_only
def _tell_unused(recipe: Recipe) -> None:
    """Warn about settings without effect."""
    for name in ("epochs", "learning_rate"):
        if recipe.stages and all(name in stage for stage in recipe.stages) and _changed(recipe, name):
            logger.warning("%s does nothing: each of the stages has its own", name)
    for stage in recipe.plan():
        for part in recipe.for_stage(stage).components()[:2]:
            for name in optimizers.unused(part):
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


def _fit_stages(run: TrainingRun, module: RecognitionModule, recipe: Recipe, out: Path, init: Sequence[Path]) -> Path:
    """Return the stages one after another, each from what those before it learnt; the last one's checkpoint.

    `module` holds the initial weights of `init` already.
    """
    taken_over = bool(init)
    plan = recipe.plan()
    folders = [*(out / f"stage_{number}_{stage.title}" for number, stage in enumerate(plan[:-1], start=1)), out]
    if run.resume:
        run.check_folders(recipe, folders)
    else:
        _forget(folders, init)
    drawn, before, kept = torch.get_rng_state(), 0, out / checkpoints.LAST
    for stage, folder in zip(plan, folders, strict=True):
        if stage.model:
            own = run.with_extrema(recipe.for_stage(stage))
            torch.set_rng_state(drawn)  # the same weights to begin with, whether or not the stages before ran just now
            trained = run.network(own)
            if not init:
                run.takes_over(folder)
            for file in init:  # this network's own, which its training would replace
                if initial_weights.read(file).network == stage.model:
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
    """Return the recipe's training part, with the rendered clips if it has some."""
    folder = root or datasets.folder(data_root, recipe.dataset)
    clips = datasets.create(recipe.dataset, folder, split=recipe.split, part="train", **recipe.dataset_options)
    if not len(clips):
        raise InputError(f"the training part of {recipe.dataset}, split {recipe.split}, is empty")
    if not recipe.rendered:
        return clips
    more = rendered_skeletons.read(Path(recipe.rendered))
    return ClipDataset([*(clips[i] for i in range(len(clips))), *more], clips.classes)


def _forget(folders: Iterable[Path], init: Sequence[Path]) -> None:
    """Delete an earlier run's checkpoints of all its stages: a stopped new run must not resume from them.

    Raises:
        ConfigError: The new one is to begin from it.
    """
    names = checkpoints.LAST, checkpoints.PREVIOUS, checkpoints.BEST
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
    """Make the folder.

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
