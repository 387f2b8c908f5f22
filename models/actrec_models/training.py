"""Training of a network by a recipe, on Lightning."""

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader

from actrec import config
from actrec.errors import ConfigError
from actrec.features import stamps
from actrec_models import checkpoint, data, initial_weights
from actrec_models.data import ClipDataset, rendered
from actrec_models.networks.base import OUTLIER, Network
from actrec_models.recipe import Recipe, Stage
from actrec_models.registry import create
from actrec_models.samples import Samples, check_streams


class Recognition(lightning.LightningModule):
    """Optimises a network's own loss with AdamW on a one-cycle schedule.

    Args:
        recipe: Plain fields of `Recipe`.
        classes: Class names.

    Attributes:
        stage: The part of the training that is under way.
    """

    def __init__(self, recipe: dict[str, Any], classes: list[str]):
        super().__init__()
        self.save_hyperparameters()
        self.recipe = config.build(Recipe, recipe)
        self.network: Network = create(self.recipe.model, num_classes=len(classes), **self.recipe.network_options())
        self.stage = self.recipe.plan()[0]

    def enter(self, stage: Stage) -> None:
        """Goes to a stage: what is trained, on which loss, how fast.

        Raises:
            ConfigError: The network does not have it.
        """
        self.stage = stage
        if not stage.name:
            return
        known = getattr(self.network, "stages", ())
        if stage.name not in known:
            has = f"its stages: {', '.join(known)}" if known else "it is trained in one go, without stages"
            raise ConfigError(f"stage '{stage.name}' is none of {self.recipe.model}'s; {has}")
        self.network.stage(stage.name)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """The loss of one batch; logs it, its parts and the accuracy an epoch."""
        parts = self._smoothed(batch) if self.plain else self.network.losses(batch)
        loss, scores, known = parts["loss"], parts["logits"], batch["label"] != OUTLIER
        accuracy = (scores.argmax(1) == batch["label"])[known].float().mean()
        logged = {name: value.detach() for name, value in parts.items() if value.ndim == 0 and name != "loss"}
        figures = {**logged, "loss": loss, "accuracy": accuracy}
        self.log_dict(figures, on_epoch=True, on_step=False, prog_bar=True, batch_size=len(scores))
        return loss

    @property
    def plain(self) -> bool:
        """Whether the network is trained on cross-entropy alone, which may be smoothed and shown outliers."""
        return type(self.network).losses is Network.losses

    def _smoothed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Smoothed cross-entropy; what is no class is asked for equal probabilities."""
        scores = self.network(**{s.name: batch[s.name] for s in self.network.input_specs})
        known = batch["label"] != OUTLIER
        smoothing = self.recipe.label_smoothing
        losses = torch.nn.functional.cross_entropy(
            scores, batch["label"], reduction="none", ignore_index=OUTLIER, label_smoothing=smoothing
        )
        unsure = -torch.log_softmax(scores, dim=1).mean(dim=1)
        return {"loss": torch.where(known, losses, self.recipe.outlier_weight * unsure).mean(), "logits": scores}

    def configure_optimizers(self) -> Any:
        """AdamW without decay of biases and norms, one cycle over all steps of the stage."""
        trained = [p for p in self.network.parameters() if p.requires_grad]
        decayed = [p for p in trained if p.ndim > 1]
        plain = [p for p in trained if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": self.recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        rate = self.stage.learning_rate
        optimiser = torch.optim.AdamW([group for group in groups if group["params"]], lr=rate)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.15)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _Epochs(lightning.Callback):
    """Tells the samples which epoch they are drawn for; `before` were drawn in earlier stages."""

    def __init__(self, before: int):
        self.before = before

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        trainer.train_dataloader.dataset.epoch = self.before + trainer.current_epoch


def train(
    recipe: Recipe,
    data_root: str,
    out: Path,
    *,
    resume: bool = True,
    progress: bool = True,
    threads: int = 0,
    init: Sequence[Path] = (),
) -> Path:
    """Trains by `recipe` and returns the last checkpoint.

    Args:
        recipe: What to do.
        data_root: Folder that holds a folder a dataset.
        out: Folder for the checkpoint after each epoch (`last.ckpt`) and `log/version_N/metrics.csv`. Where the recipe
            has stages, those before the last one lie in folders of their own in it.
        resume: Go on from `out`'s last checkpoint where there is one.
        progress: Show a progress bar.
        threads: CPU threads; 0 for all.
        init: Files of initial weights; see `actrec_models.initial_weights`.

    Raises:
        ConfigError: `out` holds a run by another recipe, `init` another network, or network and dataset do not fit.
        PackageError: A checkpoint or a file of weights is missing, damaged or foreign.
    """
    if threads:
        torch.set_num_threads(threads)
    recipe.check()
    lightning.seed_everything(recipe.seed, verbose=False)
    clips = training_clips(recipe, data_root)
    recipe = _with_extrema(recipe, clips)
    module = Recognition(recipe.as_dict(), list(clips.classes))
    check_streams(clips, module.network.input_specs, recipe)
    if recipe.outliers and not module.plain:
        raise ConfigError(f"{recipe.model} has a loss of its own, which knows no outliers: set outliers to 0")
    for file in init:
        # The weights alone: schedule and optimiser start anew.
        initial_weights.load(module.network, recipe.model, file)
    plan, before = recipe.plan(), 0
    for number, stage in enumerate(plan, start=1):
        folder = out if number == len(plan) else out / f"stage_{number}_{stage.name}"
        _fit(module, stage, clips, folder, before, resume, progress)
        before += stage.epochs
    return out / "last.ckpt"


def _fit(
    module: Recognition, stage: Stage, clips: ClipDataset, folder: Path, before: int, resume: bool, progress: bool
) -> None:
    """One stage, which leaves its weights in `module` and in `folder`."""
    recipe, last = module.recipe, folder / "last.ckpt"
    module.enter(stage)
    resume = resume and last.is_file()
    if resume:
        _check_same_run(last, recipe)
    window = recipe.window(module.network)
    samples = Samples(clips, module.network.input_specs, window, recipe, recipe.check())
    trainer = lightning.Trainer(
        accelerator="auto",
        precision=recipe.precision,
        max_epochs=stage.epochs,
        logger=CSVLogger(folder, name="log"),
        callbacks=[_Epochs(before), EMAWeightAveraging(decay=recipe.average_decay), _checkpoint(folder)],
        enable_progress_bar=progress,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        log_every_n_steps=1,
    )
    loader = DataLoader(samples, recipe.batch, shuffle=True, drop_last=True)
    with warnings.catch_warnings():
        # What a stage does not train is meant to be in evaluation mode.
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        trainer.fit(module, loader, ckpt_path=str(last) if resume else None)
    # The next stage starts from the averaged weights, which are what the checkpoint holds.
    module.load_state_dict(checkpoint.read(last)["state_dict"])


def training_clips(recipe: Recipe, data_root: str) -> ClipDataset:
    """The recipe's training part, with the rendered clips where it names some."""
    clips = data.create(recipe.dataset, data.folder(data_root, recipe.dataset), split=recipe.split, part="train")
    if not recipe.rendered:
        return clips
    more = rendered.read(Path(recipe.rendered))
    return ClipDataset([*(clips[i] for i in range(len(clips))), *more], clips.classes)


def _with_extrema(recipe: Recipe, clips: ClipDataset) -> Recipe:
    """The recipe with Eq. 1's extrema of the training part, where its network takes stamps and it names none."""
    with torch.random.fork_rng(devices=[]):  # a network made to look at must not change the next one's weights
        network = create(recipe.model, num_classes=len(clips.classes), **recipe.network_options())
    if "extrema" in recipe.options or not any(spec.modality in stamps.STAMPS for spec in network.input_specs):
        return recipe
    window = recipe.window(network)
    samples = (clips[i].sample(window.seconds, window.frames) for i in range(len(clips)))
    found = stamps.extrema(samples, network.input_specs)
    return dataclasses.replace(recipe, options={**recipe.options, "extrema": found})


def _check_same_run(last: Path, recipe: Recipe) -> None:
    before = config.build(Recipe, checkpoint.read(last)["hyper_parameters"]["recipe"]).as_dict()
    changed = [name for name, value in recipe.as_dict().items() if before[name] != value]
    if changed:
        raise ConfigError(
            f"{last.parent} holds a run with another {', '.join(changed)}: choose another --out, or --fresh"
        )


def _checkpoint(out: Path) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=out, filename="epoch{epoch}", save_last=True, save_top_k=1, monitor=None)
