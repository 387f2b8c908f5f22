"""The Lightning module of a training: a network with its loss, optimizer and schedule by a recipe."""

import zlib
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec_models.data.batches import BatchFeatures
from actrec_models.networks import create
from actrec_models.networks.base import OUTLIER, Network
from actrec_models.training.recipe import Recipe, Stage


def may_be_fused(recipe: Recipe) -> bool:
    """Return whether the optimizer may be a fused one: in mixed precision Lightning clips no gradients for it."""
    return recipe.precision == "32-true" or (recipe.precision == "bf16-mixed" and not recipe.gradient_clip)


class RecognitionModule(lightning.LightningModule):
    """Train a network on its own loss by a recipe, given by its plain fields."""

    def __init__(self, recipe: dict[str, Any], classes: list[str]):
        super().__init__()
        self.save_hyperparameters()
        self.recipe = config.build(Recipe, recipe)
        self.network: Network = create(self.recipe.model, num_classes=len(classes), **self.recipe.network_options())
        self.network.background = bool(self.recipe.background)
        if self.recipe.outliers:
            self.network.outlier_weight = self.recipe.outlier_weight
        self.batch_features: BatchFeatures | None = None
        self.stage = self.recipe.plan()[-1]
        self.epochs_before = 0
        self._plateau: ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] | None = None
        self._epoch_loss = torch.zeros(2, dtype=torch.float64)  # sum of losses, number of batches
        self._validation = torch.zeros(3)  # sum of losses, correct clips, clips

    @property
    def plain(self) -> bool:
        """Whether the loss is the cross-entropy alone, which label smoothing and outliers apply to."""
        return type(self.network).losses is Network.losses

    def enter(self, stage: Stage, epochs_before: int = 0) -> None:
        """Enter a stage: its trained parameters, loss, learning rate; raise ConfigError for an unknown one."""
        self.stage, self.epochs_before = stage, epochs_before
        self._plateau_state, self._epoch_loss = None, torch.zeros_like(self._epoch_loss)
        known = self.network.stages
        if stage.name and stage.name not in known:
            has = f"its stages: {', '.join(known)}" if known else "it is trained in one go, without stages"
            raise ConfigError(f"stage '{stage.name}' is none of {self.recipe.model}'s; {has}")
        if known:  # a stage without a name ends the partial training of the one before it
            self.network.stage(stage.name)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Tensor]:
        """Compute the inputs of a batch of `actrec_models.data.batches` on this device."""
        return batch if self.batch_features is None else self.batch_features(batch)

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Seed the network's randomness by the step, so that a resumed run draws the same."""
        epoch = self.epochs_before + self.current_epoch
        position = f"{self.recipe.seed} {epoch} {batch_idx} {self.global_rank}"
        torch.manual_seed(zlib.crc32(position.encode()))

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Return the loss of a batch; log it, its parts and the accuracy per epoch."""
        parts = self.losses(batch)
        loss, scores = parts["loss"], self.network.with_background(parts["logits"])
        known = batch["label"] != OUTLIER
        correct = ((scores.argmax(1) == batch["label"]) & known).float().sum()
        count = int(known.sum()) if self.recipe.outliers else len(scores)  # on a GPU, the sum waits for the step
        logged = {name: value.detach() for name, value in parts.items() if value.ndim == 0 and name != "loss"}
        if self._plateau is not None:
            self._epoch_loss += torch.tensor([float(loss.detach()), 1.0], dtype=torch.float64)
        shared = self.trainer.world_size > 1
        options: dict[str, Any] = {"on_epoch": True, "on_step": False, "prog_bar": True, "sync_dist": shared}
        self.log_dict({**logged, "loss": loss}, batch_size=len(scores), **options)
        self.log("accuracy", correct / max(count, 1), batch_size=count, **options)  # without outliers
        return loss

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses of a training step by the recipe, see `Network.losses`."""
        if self.plain:
            return self.network.classification_losses(batch, self.recipe.label_smoothing, self.recipe.outlier_weight)
        return self.network.losses(batch)

    def compile_losses(self, gpu: bool) -> None:
        """Compile the network and its loss for training steps; on a GPU, they run as CUDA graphs."""

        def plain(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            return RecognitionModule.losses(self, batch)

        compiled = torch.compile(plain, mode="reduce-overhead" if gpu else None)

        def replayed(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            torch.compiler.cudagraph_mark_step_begin()
            return {name: value.clone() for name, value in compiled(batch).items()}  # the next step reuses its memory

        self.losses = replayed  # type: ignore[method-assign]

    def on_validation_epoch_start(self) -> None:
        """Reset the counts."""
        self._validation = torch.zeros(3, device=self.device)

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        """Count loss and accuracy on the held-out clips, without smoothing or augmentation."""
        known = batch["label"] != OUTLIER
        if not known.any():
            return
        batch = {name: value[known] for name, value in batch.items()}  # without the padding of a process's last batch
        parts = self.network.losses(batch)
        correct = (self.network.with_background(parts["logits"]).argmax(1) == batch["label"]).sum()
        self._validation += torch.stack([parts["loss"] * known.sum(), correct, known.sum()]).float()

    def on_validation_epoch_end(self) -> None:
        """Log them over all processes; each clip counts once."""
        loss, correct, count = self.trainer.strategy.reduce(self._validation, reduce_op="sum").tolist()
        self.log_dict({"val_loss": loss / count, "val_accuracy": correct / count}, prog_bar=True)

    # -- optimizer and schedule ----------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Return the stage's optimizer, and its schedule over all of the stage's steps."""
        recipe = self.recipe.for_stage(self.stage)
        chosen, schedule, *_ = recipe.components()
        fused = self.device.type == "cuda" and may_be_fused(recipe)
        optimizer = chosen.make(self.network.parameters(), recipe.learning_rate, recipe.weight_decay, fused)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = schedule.make(optimizer, recipe.learning_rate, steps, recipe.epochs)
        if not isinstance(scheduler, ReduceLROnPlateau):
            self._plateau = None
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
        self._plateau = scheduler
        if self._plateau_state is not None:
            scheduler.load_state_dict(self._plateau_state)
        return optimizer

    def on_train_epoch_end(self) -> None:
        """Step a plateau schedule by the validation loss, else by the epoch's training loss."""
        if self._plateau is None:
            return
        figures = self.trainer.callback_metrics
        if "val_loss" in figures:
            loss = float(figures["val_loss"])
        else:
            total = self.trainer.strategy.reduce(self._epoch_loss.to(self.device, torch.float32), reduce_op="mean")
            loss = float(total[0] / total[1])
        self._plateau.step(loss)
        self._epoch_loss = torch.zeros_like(self._epoch_loss)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state of the plateau schedule."""
        if self._plateau is not None:
            checkpoint["plateau"] = {"schedule": self._plateau.state_dict(), "seen": self._epoch_loss}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state of the plateau schedule."""
        if "plateau" in checkpoint:
            self._plateau_state, self._epoch_loss = checkpoint["plateau"]["schedule"], checkpoint["plateau"]["seen"]
