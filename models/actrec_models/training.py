"""Training of a network by a recipe, on Lightning."""

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from actrec import config, features
from actrec.errors import ConfigError
from actrec.features import skeleton
from actrec.features.skeleton import SkeletonPreprocessing
from actrec_models import checkpoint, data
from actrec_models.data import ClipDataset, augment, outliers, rendered
from actrec_models.recipe import Recipe
from actrec_models.registry import create

Sample = dict[str, Any]
OUTLIER = -1
"""Label of a sample that shows no class."""


class Samples(Dataset[Sample]):
    """Clips as network inputs, varied anew on each access where an augmentation is given.

    Args:
        clips: The dataset.
        specs: The network's inputs.
        recipe: Window length and seed.
        augmentation: None for the window that the live recognizer would have at the clip's end.
    """

    def __init__(self, clips: ClipDataset, specs: list, recipe: Recipe, augmentation: augment.Augmentation | None):
        self.clips, self.specs, self.recipe, self.augmentation = clips, specs, recipe, augmentation
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Sample:
        clip = self.clips[index]
        if self.augmentation is None:
            made = features.inputs({"bodies": clip.window(self.recipe.window_s, self.recipe.frames)}, self.specs)
            return {**made, "label": clip.label}
        # Seeded by what is drawn, not by the order of drawing: the same for any number of workers, or after resuming.
        rng = np.random.default_rng([self.recipe.seed, self.epoch, index])
        if rng.random() < self.recipe.outliers:
            window = outliers.other_action(clip, self.recipe.window_s, self.recipe.frames, rng)
            window = augment.vary_bodies(window, self.augmentation, rng)
            return {**self._network_inputs(window, rng), "label": OUTLIER}
        return {**self._network_inputs(self.varied_bodies(index, rng), rng), "label": clip.label}

    def varied_bodies(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """The clip as an augmented window [M, T, 25, 3] in metres, before normalisation."""
        assert self.augmentation is not None
        before = self.clips[int(rng.integers(len(self.clips)))]
        window = augment.sample_window(
            self.clips[index], self.recipe.window_s, self.recipe.frames, self.augmentation, rng, before
        )
        return augment.vary_bodies(window, self.augmentation, rng)

    def _network_inputs(self, window: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        assert self.augmentation is not None
        preprocessing = config.build(SkeletonPreprocessing, self.specs[0].preprocessing)
        joints = augment.vary_normalised(skeleton.normalise(window, preprocessing), self.augmentation, rng)
        return {spec.name: skeleton.stack(joints, spec.modality, spec.layout) for spec in self.specs}


class Recognition(lightning.LightningModule):
    """Optimises a network's own loss with AdamW on a one-cycle schedule."""

    def __init__(self, recipe: dict[str, Any], classes: list[str]):
        super().__init__()
        self.save_hyperparameters()
        self.recipe = config.build(Recipe, recipe)
        options = {"frames": self.recipe.frames, **self.recipe.options}
        self.network = create(self.recipe.model, num_classes=len(classes), **options)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Cross-entropy of one batch, to equal probabilities for what is no class; logs loss and accuracy an epoch."""
        scores = self.network(**{s.name: batch[s.name] for s in self.network.input_specs})
        known = batch["label"] != OUTLIER
        smoothing = self.recipe.label_smoothing
        losses = torch.nn.functional.cross_entropy(
            scores, batch["label"], reduction="none", ignore_index=OUTLIER, label_smoothing=smoothing
        )
        unsure = -torch.log_softmax(scores, dim=1).mean(dim=1)
        loss = torch.where(known, losses, self.recipe.outlier_weight * unsure).mean()
        accuracy = (scores.argmax(1) == batch["label"])[known].float().mean()
        self.log_dict({"loss": loss, "accuracy": accuracy}, on_epoch=True, on_step=False, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW without decay of biases and norms, one cycle over all steps."""
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        plain = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": self.recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, lr=self.recipe.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.recipe.learning_rate, steps, pct_start=0.15)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _Epochs(lightning.Callback):
    """Tells the samples which epoch they are drawn for."""

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        trainer.train_dataloader.dataset.epoch = trainer.current_epoch


def train(
    recipe: Recipe,
    data_root: str,
    out: Path,
    *,
    resume: bool = True,
    progress: bool = True,
    threads: int = 0,
    init: Path | None = None,
) -> Path:
    """Trains by `recipe` and returns the last checkpoint.

    Args:
        recipe: What to do.
        data_root: Folder that holds a folder a dataset.
        out: Folder for the checkpoint after each epoch (`last.ckpt`) and `log/version_N/metrics.csv`.
        resume: Go on from `out`'s last checkpoint where there is one.
        progress: Show a progress bar.
        threads: CPU threads; 0 for all.
        init: Checkpoint of an earlier run whose weights to start from.

    Raises:
        ConfigError: `out` holds a run by another recipe, or `init` another network.
        PackageError: A checkpoint is missing, damaged or foreign.
    """
    if threads:
        torch.set_num_threads(threads)
    augmentation = recipe.check()
    lightning.seed_everything(recipe.seed, verbose=False)
    clips = training_clips(recipe, data_root)
    module = Recognition(recipe.as_dict(), list(clips.classes))
    if init is not None:
        # The weights alone: schedule and optimiser start anew.
        _take_weights(module, init)
    samples = Samples(clips, module.network.input_specs, recipe, augmentation)
    loader = DataLoader(samples, recipe.batch, shuffle=True, drop_last=True)
    last = out / "last.ckpt"
    if resume and last.is_file():
        _check_same_run(last, recipe)
    trainer = lightning.Trainer(
        accelerator="auto",
        precision=recipe.precision,
        max_epochs=recipe.epochs,
        logger=CSVLogger(out, name="log"),
        callbacks=[_Epochs(), EMAWeightAveraging(decay=recipe.average_decay), _checkpoint(out)],
        enable_progress_bar=progress,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        log_every_n_steps=1,
    )
    trainer.fit(module, loader, ckpt_path=str(last) if resume and last.is_file() else None)
    return last


def training_clips(recipe: Recipe, data_root: str) -> ClipDataset:
    """The recipe's training part, with the rendered clips where it names some."""
    clips = data.create(recipe.dataset, f"{data_root}/{recipe.dataset}", split=recipe.split, part="train")
    if not recipe.rendered:
        return clips
    more = rendered.read(Path(recipe.rendered))
    return ClipDataset([*(clips[i] for i in range(len(clips))), *more], clips.classes)


def _take_weights(module: Recognition, source: Path) -> None:
    try:
        module.load_state_dict(checkpoint.read(source)["state_dict"])
    except RuntimeError as error:
        raise ConfigError(f"{source} holds another network than the recipe's: choose another --init") from error


def _check_same_run(last: Path, recipe: Recipe) -> None:
    before = checkpoint.read(last)["hyper_parameters"]["recipe"]
    changed = [name for name, value in recipe.as_dict().items() if before.get(name) != value]
    if changed:
        raise ConfigError(
            f"{last.parent} holds a run with another {', '.join(changed)}: choose another --out, or --fresh"
        )


def _checkpoint(out: Path) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=out, filename="epoch{epoch}", save_last=True, save_top_k=1, monitor=None)
