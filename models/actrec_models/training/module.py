"""What Lightning trains: a network, its loss, its optimizer and schedule, as a recipe has them."""

import zlib
from typing import Any

import lightning
import torch
from torch import Tensor

from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec_models.networks.base import OUTLIER, Network, cross_entropy
from actrec_models.registry import create
from actrec_models.training.recipe import Recipe, Stage


class RecognitionModule(lightning.LightningModule):
    """Optimizes a network's own loss as a recipe says.

    Args:
        recipe: Plain fields of `Recipe`.
        classes: Class names.

    Attributes:
        stage: The part of the training that is under way.
        epochs_before: Those of earlier stages.
    """

    def __init__(self, recipe: dict[str, Any], classes: list[str]):
        super().__init__()
        self.save_hyperparameters()
        self.recipe = config.build(Recipe, recipe)
        self.network: Network = create(self.recipe.model, num_classes=len(classes), **self.recipe.network_options())
        if self.recipe.outliers:
            self.network.outlier_weight = self.recipe.outlier_weight
        self.stage = self.recipe.plan()[-1]
        self.epochs_before = 0
        self._plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        self._plateau_state: dict[str, Any] | None = None
        self._seen = torch.zeros(2, dtype=torch.float64)  # sum of losses and batches of the epoch so far
        self._held = torch.zeros(3)  # sum of losses, right ones and number of the clips held out

    def enter(self, stage: Stage, epochs_before: int = 0) -> None:
        """Enter a stage: its trained parameters, loss and learning rate.

        Raises:
            ConfigError: The network does not have it.
        """
        self.stage, self.epochs_before = stage, epochs_before
        self._plateau_state, self._seen = None, torch.zeros_like(self._seen)  # those are of the stage before
        known = self.network.stages
        if stage.name and stage.name not in known:
            has = f"its stages: {', '.join(known)}" if known else "it is trained in one go, without stages"
            raise ConfigError(f"stage '{stage.name}' is none of {self.recipe.model}'s; {has}")
        if known:  # a stage without a name ends the partial training of the one before it
            self.network.stage(stage.name)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Seed the network's randomness by the step, so that a resumed run draws the same."""
        epoch = self.epochs_before + self.current_epoch
        position = f"{self.recipe.seed} {epoch} {batch_idx} {self.global_rank}"
        torch.manual_seed(zlib.crc32(position.encode()))

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Return the loss of one batch; logs it, its parts and the accuracy an epoch."""
        parts = self._smoothed(batch) if self.plain else self.network.losses(batch)
        loss, scores, known = parts["loss"], parts["logits"], batch["label"] != OUTLIER
        right, count = (scores.argmax(1) == batch["label"])[known].float().sum(), int(known.sum())
        logged = {name: value.detach() for name, value in parts.items() if value.ndim == 0 and name != "loss"}
        if self._plateau is not None:
            self._seen += torch.tensor([float(loss.detach()), 1.0], dtype=torch.float64)
        how: dict[str, Any] = {"on_epoch": True, "on_step": False, "prog_bar": True, "sync_dist": self._shared}
        self.log_dict({**logged, "loss": loss}, batch_size=len(scores), **how)
        # Of samples that show a class; a small part of a batch may have none.
        self.log("accuracy", right / max(count, 1), batch_size=count, **how)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Nothing is counted yet."""
        self._held = torch.zeros(3, device=self.device)

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        """Count loss and accuracy on the held-out clips, without smoothing or augmentation."""
        known = batch["label"] != OUTLIER
        if not known.any():
            return
        batch = {name: value[known] for name, value in batch.items()}  # without what fills up a process's last batch
        parts = self.network.losses(batch)
        right = (parts["logits"].argmax(1) == batch["label"]).sum()
        self._held += torch.stack([parts["loss"] * known.sum(), right, known.sum()]).float()

    def on_validation_epoch_end(self) -> None:
        """Log them, over all processes: each clip counts once."""
        loss, right, count = self.trainer.strategy.reduce(self._held, reduce_op="sum").tolist()
        self.log_dict({"val_loss": loss / count, "val_accuracy": right / count}, prog_bar=True)

    @property
    def plain(self) -> bool:
        """Whether the network is trained on cross-entropy alone, which may be smoothed and shown outliers."""
        return type(self.network).losses is Network.losses

    @property
    def _shared(self) -> bool:
        return bool(self.trainer.world_size > 1)

    def _smoothed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the smoothed cross-entropy; outliers get equal probabilities as their target."""
        scores = self.network(**{s.name: batch[s.name] for s in self.network.input_specs})
        weights = self.recipe.label_smoothing, self.recipe.outlier_weight
        return {"loss": cross_entropy(scores, batch["label"], *weights), "logits": scores}

    # -- optimizer and schedule ----------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Return the stage's optimizer, and its schedule over all of the stage's steps."""
        recipe = self.recipe.for_stage(self.stage)
        chosen, schedule, *_ = recipe.components()
        optimizer = chosen.make(self.network.parameters(), recipe.learning_rate, recipe.weight_decay)
        self._plateau = schedule.plateau(optimizer)
        if self._plateau is not None and self._plateau_state is not None:
            self._plateau.load_state_dict(self._plateau_state)
        steps = int(self.trainer.estimated_stepping_batches)
        by_step = schedule.make(optimizer, recipe.learning_rate, steps, recipe.epochs)
        if by_step is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": by_step, "interval": "step"}}

    def on_train_epoch_end(self) -> None:
        """Step a plateau schedule by the validation loss, else by the epoch's training loss."""
        if self._plateau is None:
            return
        figures = self.trainer.callback_metrics
        if "val_loss" in figures:
            loss = float(figures["val_loss"])
        else:
            total = self.trainer.strategy.reduce(self._seen.to(self.device, torch.float32), reduce_op="mean")
            loss = float(total[0] / total[1])
        self._plateau.step(loss)
        self._seen = torch.zeros_like(self._seen)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state of the plateau schedule."""
        if self._plateau is not None:
            checkpoint["plateau"] = {"schedule": self._plateau.state_dict(), "seen": self._seen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it up again."""
        if "plateau" in checkpoint:
            self._plateau_state, self._seen = checkpoint["plateau"]["schedule"], checkpoint["plateau"]["seen"]
