"""Batch norms whose running statistics belong to the weights that are kept."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from actrec_models.averaging import Averaging
from actrec_models.learning import Recognition
from actrec_models.recipe import Recipe

Batches = Iterable[dict[str, Tensor]]


def batches_by_default(recipe: Recipe, clips: int, held: int) -> int:
    """Over how many batches norms are estimated anew where a recipe does not say: a quarter of an epoch's, 4 to 20.

    They are where averaged weights are judged before they are done: while the rate is high, running statistics are so
    far from those of the average that a network may be at chance on what is held out. At the end of a schedule they
    have caught up.

    Args:
        recipe: For its batch, and whether weights are averaged.
        clips: Number that is trained on.
        held: Number held out.
    """
    return min(max(clips // recipe.batch // 4, 4), 20) if held and recipe.average_decay else 0


class RenewedNorms(lightning.Callback):
    """Estimates batch norms' statistics anew, with the weights that are evaluated and kept.

    Running statistics follow the weights with a lag, and an average of weights has none of its own: after few steps,
    or with many norms, a network that is right in training mode may evaluate at chance. They are estimated after the
    last step, and after each epoch where clips are held out, because the best of these is kept. Norms that the stage
    leaves in evaluation mode keep theirs.

    Args:
        batches: How many, of each process.
        draw: Gives the batches of an epoch, counted from the stage's first.
        averaging: Of the weights; None where there is none.
        each_epoch: Whether clips are held out.
    """

    def __init__(
        self, batches: int, draw: Callable[[lightning.Trainer, int], Batches], averaging: Averaging | None,
        each_epoch: bool,
    ):  # fmt: skip
        self.batches, self.draw, self.averaging, self.each_epoch = batches, draw, averaging, each_epoch
        self._done = -1

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After an epoch's last step, before what is held out is looked at."""
        if trainer.is_last_batch:
            self._renew(trainer, pl_module)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Where a run goes on after an epoch's last step, that step is not seen here."""
        if self._done != trainer.current_epoch:
            self._renew(trainer, pl_module)

    def _renew(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        epoch = trainer.current_epoch
        if not self.each_epoch and epoch + 1 < (trainer.max_epochs or 0):
            return
        self._done = epoch
        assert isinstance(module, Recognition)
        if self.averaging is None:
            self._estimate(trainer, module, epoch)
            return
        with self.averaging.shown(module):
            self._estimate(trainer, module, epoch)

    def _estimate(self, trainer: lightning.Trainer, module: Recognition, epoch: int) -> None:
        strategy, network = trainer.strategy, module.network
        torch.manual_seed(zlib.crc32(f"{module.recipe.seed} norms {epoch} {trainer.global_rank}".encode()))

        def put(batches: Batches) -> Iterator[dict[str, Tensor]]:
            for batch in islice(batches, self.batches):
                yield strategy.batch_to_device(batch)

        with strategy.precision_plugin.forward_context():
            norms = estimate(network, network.losses, put(self.draw(trainer, epoch + 1)))
        for norm in norms:  # alike in all processes, each of which saw its own share
            for statistic in (norm.running_mean, norm.running_var):
                statistic.copy_(strategy.reduce(statistic.clone(), reduce_op="mean"))


def estimate(network: nn.Module, look: Callable[[dict[str, Tensor]], Any], batches: Batches) -> list[_BatchNorm]:
    """Sets the statistics of batch norms in training mode to the mean over batches.

    As `torch.optim.swa_utils.update_bn` does, but no units are dropped out, as none are in evaluation, and a norm in
    evaluation mode, or one that no batch comes through, keeps its own.

    Args:
        network: In training mode, but for what is not trained. Its modes and momenta are afterwards as they were.
        look: Has a batch go through it.
        batches: Of the training part.

    Returns:
        The norms that have new statistics, in the network's order.
    """
    dropping = [part for part in network.modules() if isinstance(part, _DropoutNd) and part.training]
    norms = [
        part for part in network.modules()
        if isinstance(part, _BatchNorm) and part.training and part.track_running_stats
    ]  # fmt: skip
    before = [{name: value.clone() for name, value in norm.named_buffers()} for norm in norms]
    momenta = [norm.momentum for norm in norms]
    try:
        for part in dropping:
            part.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
        with torch.no_grad():
            for batch in batches:
                look(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for part in dropping:
            part.train()
    renewed = []
    for norm, buffers in zip(norms, before, strict=True):
        seen = int(norm.num_batches_tracked) > 0
        norm.num_batches_tracked.copy_(buffers["num_batches_tracked"])
        if seen:
            renewed.append(norm)
            continue
        norm.load_state_dict(buffers, strict=False)
    return renewed
