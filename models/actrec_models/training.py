"""Training of a network by a recipe, on Lightning."""

import dataclasses
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader

from actrec import config
from actrec.errors import ConfigError, DeviceError, InputError
from actrec.features import stamps
from actrec_models import checkpoint, data, initial_weights, provenance, weight_files
from actrec_models.data import ClipDataset, rendered
from actrec_models.draws import Epochs, Shares
from actrec_models.faults import explained
from actrec_models.learning import Recognition
from actrec_models.machine import Machine, fast_bfloat16, loader_options
from actrec_models.monitoring import EpochRows, Monitor
from actrec_models.networks.base import Network
from actrec_models.norms import Averaging, Batches, RenewedNorms
from actrec_models.recipe import Recipe, Stage
from actrec_models.registry import create
from actrec_models.samples import Samples, check_streams
from actrec_models.saving import AtomicIO, Checkpoints, Stopped

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
        DeviceError: A checkpoint cannot be written, memory is full, or a reading process was killed.
        InputError: A clip cannot be read; it is named.
        Stopped: SIGTERM or Ctrl-C; what was learnt is kept.
    """
    if threads:
        torch.set_num_threads(threads)
    recipe.check()
    lightning.seed_everything(recipe.seed, verbose=False)
    _prepare(out)
    begun = [weight_files.identity(file) for file in init]
    run = _Run(recipe, training_clips(recipe, data_root, root), resume, progress, machine or Machine(), begun)
    recipe = run.with_extrema(recipe)
    module = run.module(recipe)
    for file in init:
        # The weights alone: schedule and optimiser start anew. Whose recordings they have learnt is not forgotten.
        run.recordings += initial_weights.load(module.network, recipe.model, file).recordings
    plan, before, kept, taken_over = recipe.plan(), 0, out / checkpoint.LAST, bool(init)
    drawn = torch.get_rng_state()
    named = [f"stage_{number}_{stage.title}" for number, stage in enumerate(plan[:-1], start=1)]
    folders = [*(out / name for name in named), out]
    if not resume:
        _forget(folders)
    missing = recipe.missing_unknown(data_root)
    if missing and not len(recipe.own_unknown(data_root, "train", root)):
        logger.warning("%s: the package will not be told what to reject", missing)
    for stage, folder in zip(plan, folders, strict=True):
        if stage.model:
            own = run.with_extrema(recipe.of(stage))
            torch.set_rng_state(drawn)  # the same weights to begin with, whether or not the stages before ran just now
            # The next stage starts from what this one learnt.
            kept = run.fit(run.module(own), dataclasses.replace(stage, model="", options={}), folder, before)
            initial_weights.load(module.network, recipe.model, kept)
        else:
            taken_over = taken_over or run.takes_over(folder)
            kept = run.fit(module, stage, folder, before)
        before += stage.epochs
    return kept


class _Run:
    """What the stages of a run share."""

    def __init__(
        self, recipe: Recipe, whole: ClipDataset, resume: bool, progress: bool, machine: Machine, init: list[str]
    ):
        self.resume, self.progress, self.machine, self.init = resume, progress, machine, init
        self.options = machine.trainer_options()
        on_cpu = self.options["accelerator"] == "cpu"
        precisions = {part.precision for part in map(recipe.of, recipe.plan())}
        if on_cpu and "16-mixed" in precisions:
            raise ConfigError("a CPU does not train in float16: set precision (of the recipe, or of the stage that has "
                              "one) to 32-true or bf16-mixed")  # fmt: skip
        if "bf16-mixed" in precisions and not fast_bfloat16(_device(self.options)):
            logger.warning("this processor only imitates bfloat16, several times slower than float32: "
                           "--set precision=32-true")  # fmt: skip
        self.fingerprint = whole.fingerprint()
        self.recordings = whole.identities()
        self.validation = recipe.parts()[3]
        self.clips, self.held = self.validation.split(whole, recipe.seed)
        self.seconds = 0.0  # that the stages before took
        self.epochs = sum(stage.epochs for stage in recipe.plan())
        self.made_by: dict[str, Any] = {}  # provenance of what was learnt so far

    def module(self, recipe: Recipe) -> Recognition:
        """The recipe's network, which the dataset must suit."""
        module = Recognition(recipe.as_dict(), list(self.clips.classes))
        for stage in recipe.plan():
            if not stage.model:
                check_streams(self.clips, module.network.input_specs, recipe.of(stage))
        if recipe.outliers and not (module.plain or module.network.knows_outliers):
            raise ConfigError(f"{recipe.model} has a loss of its own, which knows no outliers: set outliers to 0")
        if recipe.outliers and not any(recipe.of(stage).augment for stage in recipe.plan()):
            raise ConfigError("outliers are made where clips are varied: set augment to true, or outliers to 0")
        return module

    def with_extrema(self, recipe: Recipe) -> Recipe:
        """The recipe with Eq. 1's extrema of the training part, where its network takes stamps and it names none."""
        with torch.random.fork_rng(devices=[]):  # a network made to look at must not change the next one's weights
            network = create(recipe.model, num_classes=len(self.clips.classes), **recipe.network_options())
        if "extrema" in recipe.options or not any(spec.modality in stamps.STAMPS for spec in network.input_specs):
            return recipe
        window = recipe.window(network)
        stretched = recipe.clips == "stretched"
        samples = (self.clips[i].sample(window.seconds, window.frames, stretched) for i in range(len(self.clips)))
        found = stamps.extrema(samples, network.input_specs)
        return dataclasses.replace(recipe, options={**recipe.options, "extrema": found})

    def takes_over(self, folder: Path) -> bool:
        """Makes sure that the initial weights are in the stage's checkpoint, where they are not named again.

        Raises:
            ConfigError: The run began from some, and was ended before the network that takes them was trained.
        """
        if self.init and not (self.resume and checkpoint.newest(folder)):
            raise ConfigError(
                f"the run in {folder} began from {', '.join(self.init)}, which no checkpoint of it holds yet: "
                "name the same --init again"
            )
        return True

    def fit(self, module: Recognition, stage: Stage, folder: Path, before: int) -> Path:
        """One stage, which leaves its weights in `module` and in the checkpoint that is returned."""
        module.enter(stage, before)
        recipe = module.recipe.of(stage)
        found = checkpoint.newest(folder) if self.resume else None
        position: dict[str, Any] = {"epoch": 0, "steps": 0, "seconds": self.seconds}
        if found:
            _check_same_run(found, module.recipe, self.fingerprint)
            self.made_by = provenance.of_checkpoint(found[1])
            self.init = _same_init(found, self.init)
            position = _position(found[1], recipe)
            goes_on = "the run is finished" if position["finished"] else "the run goes on from there"
            logger.info("%s: step %d; %s", found[0], found[1]["global_step"], goes_on)
        if not (found and position["finished"]):
            self._fit(module, recipe, folder, before, position, found[0] if found else None)
        kept = folder / (checkpoint.BEST if self.held is not None else checkpoint.LAST)
        content = checkpoint.read(kept)
        self.seconds = float(content.get("actrec", {}).get("seconds", 0.0))
        self.made_by = provenance.of_checkpoint(content)
        module.load_state_dict(content["state_dict"])  # the averaged weights
        return kept

    def _fit(
        self,
        module: Recognition,
        recipe: Recipe,
        folder: Path,
        before: int,
        position: dict[str, Any],
        last: Path | None,
    ) -> None:
        trainer = lightning.Trainer(
            **self.options,
            precision=recipe.precision,
            max_epochs=recipe.epochs,
            logger=[EpochRows(folder, name="log"), TensorBoardLogger(folder, name="log", version="tensorboard")],
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
        with warnings.catch_warnings(), explained(folder):
            # What a stage does not train is meant to be in evaluation mode.
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
            warnings.filterwarnings("ignore", message=r"You defined a `validation_step` but have no `val_dataloader`")
            # Deprecated within Lightning; and how many processes read is `Machine`'s to say.
            warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec.*is deprecated")
            warnings.filterwarnings("ignore", message=r"The '\w+_dataloader' does not have many workers")
            # What is logged so is alike in all processes already.
            warnings.filterwarnings("ignore", message=r"It is recommended to use `self.log\(.*sync_dist=True")
            # Where it goes on, `Epochs` leaves out what was drawn.
            warnings.filterwarnings("ignore", message=r"You're resuming from a checkpoint that ended before the epoch")
            trainer.fit(module, loader, held, ckpt_path=str(last) if last else None, weights_only=True)

    def _callbacks(
        self, module: Recognition, recipe: Recipe, folder: Path, before: int, position: dict[str, Any]
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
        )
        made_of, machine = provenance.going_on(self.made_by, now), self.machine
        callbacks: list[lightning.Callback] = [
            Monitor(recipe.batch, recipe.accumulate),
            Checkpoints(
                folder, made_of, before, recipe.accumulate, machine.checkpoint_minutes, machine.checkpoint_steps,
                metric, position["seconds"], before + recipe.epochs < self.epochs,
            ),
        ]  # fmt: skip
        averaging = Averaging(recipe.average_decay) if recipe.average_decay else None
        callbacks += [averaging] if averaging else []
        if recipe.renew_norms:

            def draw(trainer: lightning.Trainer, epoch: int) -> Batches:
                return _endless(self._loader(module, recipe, trainer, before + epoch, 0))

            batches = recipe.renew_norms * recipe.accumulate
            callbacks.append(RenewedNorms(batches, draw, averaging, self.held is not None))
        if metric and self.validation.patience:
            mode = "max" if metric == "accuracy" else "min"
            callbacks.append(EarlyStopping(f"val_{metric}", patience=self.validation.patience, mode=mode))
        return callbacks

    def _sync_batch_norm(self, recipe: Recipe, module: Recognition) -> bool:
        several = self.options["strategy"] == "ddp" and recipe.sync_batch_norm
        if several and self.options["accelerator"] == "cpu" and _has_batch_norm(module):
            logger.warning("PyTorch shares batch norms among GPUs alone: here each process counts its own clips")
            return False
        return bool(several and self.options["accelerator"] == "gpu")

    def _loader(
        self, module: Recognition, recipe: Recipe, trainer: lightning.Trainer, epoch: int, steps_done: int
    ) -> DataLoader:
        """The batches of an epoch, counted from the first stage's first, and of those that follow."""
        augmentation = recipe.check() if recipe.augment else None
        window = recipe.window(module.network)
        specs, made = module.network.input_specs, _made(module)
        samples = Samples(self.clips, specs, window, recipe, augmentation, any_clip=True, made=made)
        epochs = Epochs(
            self.clips.labels, recipe.parts()[2], recipe.seed, recipe.batch, recipe.accumulate,
            rank=trainer.global_rank, world=trainer.world_size, epoch=epoch, steps_done=steps_done,
        )  # fmt: skip
        return DataLoader(samples, batch_sampler=epochs, **self._loader_options(recipe))

    def _held_loader(self, module: Recognition, recipe: Recipe, trainer: lightning.Trainer) -> DataLoader:
        assert self.held is not None
        specs, window = module.network.input_specs, recipe.window(module.network)
        samples = Samples(self.held, specs, window, recipe, None, made=_made(module))
        size = max(recipe.batch // (recipe.accumulate * trainer.world_size), 1)
        shares = Shares(len(self.held), size, trainer.global_rank, trainer.world_size)
        return DataLoader(samples, batch_sampler=shares, **self._loader_options(recipe))

    def _loader_options(self, recipe: Recipe) -> dict[str, Any]:
        gpu = self.options["accelerator"] == "gpu"
        return loader_options(self.machine.loader_workers(self.options["devices"], gpu), gpu, recipe.seed)


def _made(module: Recognition) -> list[str]:
    """The inputs that the stage reads."""
    return [spec.name for spec in module.network.trained_specs]


def _endless(loader: DataLoader) -> Iterator[dict[str, torch.Tensor]]:
    """Epoch after epoch."""
    while True:
        yield from loader


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


def _check_same_run(found: tuple[Path, dict[str, Any]], recipe: Recipe, fingerprint: str) -> None:
    path, content = found
    before = config.build(Recipe, content["hyper_parameters"]["recipe"]).as_dict()
    changed = [name for name, value in recipe.as_dict().items() if before[name] != value]
    known = provenance.of_checkpoint(content).get("data_sha256", fingerprint)
    changed += ["data, although it is called the same"] if known != fingerprint else []
    if changed:
        raise ConfigError(
            f"{path.parent} holds a run with another {', '.join(changed)}: choose another --out, or --fresh"
        )


def _same_init(found: tuple[Path, dict[str, Any]], init: list[str]) -> list[str]:
    """What a run that goes on began from; where files are named again, they must be the same.

    Raises:
        ConfigError: They are others.
    """
    path, content = found
    began: list[str] | None = provenance.of_checkpoint(content).get("init")
    if began is None or not init:  # from before this was kept, or left to the checkpoint
        return began or init
    if [one.rsplit(" ", 1)[-1] for one in began] != [one.rsplit(" ", 1)[-1] for one in init]:  # whatever their names
        from_what = ", ".join(began) or "random weights"
        raise ConfigError(
            f"{path.parent} holds a run that began from {from_what}, not from {', '.join(init)}: leave out --init to "
            "go on with it, or choose another --out, or --fresh"
        )
    return began


@rank_zero_only
def _forget(folders: Iterable[Path]) -> None:
    """Deletes what an earlier run left, of all its stages: a new one that is stopped must not go on from any of it."""
    for folder in folders:
        for name in (checkpoint.LAST, checkpoint.PREVIOUS, checkpoint.BEST):
            (folder / name).unlink(missing_ok=True)


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


def _position(content: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Where a run is; those from before this was kept have checkpoints of whole epochs alone."""
    if "actrec" in content:
        return dict(content["actrec"])
    done = int(content["epoch"]) + 1
    return {"epoch": done, "steps": 0, "seconds": 0.0, "finished": done >= recipe.epochs}


def _device(options: dict[str, Any]) -> torch.device:
    return torch.device("cuda" if options["accelerator"] == "gpu" else "cpu")


def _has_batch_norm(module: Recognition) -> bool:
    network: Network = module.network
    return any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in network.modules())
