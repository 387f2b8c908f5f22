"""The moving average of a training's weights, which is the kept network.

Batch norms whose running statistics belong to the weights that are kept.
"""

import logging
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.optim.swa_utils import get_ema_multi_avg_fn

from actrec_models.training.module import RecognitionModule
from actrec_models.training.recipe import Recipe

logger = logging.getLogger(__name__)

_MOST_OF_FIRST = 0.1
"""Share of a random network's weights in an average that is still good."""


class Averaging(WeightAveraging):
    """Lightning's exponential moving average of the weights, which can be looked at between two steps.

    After n steps of a stage the decay is (1 + n)/(10 + n) at most, as in TensorFlow's ExponentialMovingAverage, so that
    the average is of the last tenth of them: of 0.99 alone the first step's weights, which may be random, are a third
    after a hundred.

    Args:
        decay: Of the average, a step.
        warm_up: False: from the second step on.
    """

    def __init__(self, decay: float, warm_up: bool = True):
        super().__init__(multi_avg_fn=self._update)
        self.decay, self.warm_up = decay, warm_up

    def decay_after(self, steps: int) -> float:
        """Return the decay of a step before which a stage had so many."""
        return min(self.decay, (1 + steps) / (10 + steps)) if self.warm_up else self.decay

    def _update(self, averaged: list[Tensor], current: list[Tensor], steps: Tensor) -> None:
        get_ema_multi_avg_fn(self.decay_after(int(steps)))(averaged, current, steps)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Warn if the steps are too few: the loss may fall to nothing while the kept average has not learned."""
        steps = int(trainer.estimated_stepping_batches)
        share = 0.0 if self.warm_up else self.decay ** (steps - 1)  # of the first step's weights in the last average
        if share > _MOST_OF_FIRST:
            logger.warning(
                "the average of the weights, which is kept, will be to %d %% those of the first of %d steps: "
                "set ema_warm_up to true, ema_decay to %g (0: no average), or train for more steps",
                round(100 * share), steps, max(round(1 - 5 / steps, 3), 0.0),
            )  # fmt: skip

    @contextmanager
    def shown(self, module: lightning.LightningModule) -> Iterator[None]:
        """Make `module` hold the average; changes of it then change the average."""
        self._swap_models(module)
        try:
            yield
        finally:
            self._swap_models(module)

    @property
    def state_key(self) -> str:
        """As the base has it, so that earlier checkpoints are taken up."""
        return "WeightAveraging"


Batches = Iterable[dict[str, Tensor]]


def default_recalibration_batches(recipe: Recipe, clips: int, held: int) -> int:
    """Return the number of batches for new norm statistics if a recipe has none: a quarter of an epoch's, 4 to 20.

    Averaged weights need them if they are evaluated during training: at a high rate, the running statistics are so far
    from the average's that a network may be at chance on held-out clips. They catch up at the end of a schedule.

    Args:
        recipe: For its batch, and whether weights are averaged.
        clips: Number that is trained on.
        held: Number held out.
    """
    return min(max(clips // recipe.batch // 4, 4), 20) if held and recipe.ema_decay else 0


class BatchNormRecalibration(lightning.Callback):
    """Recalibrates batch norm statistics for the weights that are evaluated and kept.

    Running statistics follow the weights with a lag, and an average of weights has none of its own: after few steps,
    or with many norms, a network that is right in training mode may evaluate at chance. They are estimated after the
    last step, and after each epoch where clips are held out, because the best of these is kept. Norms that the stage
    leaves in evaluation mode keep theirs.

    Args:
        batches: How many, of each process.
        draw: Gives the batches of an epoch, counted from the stage's first.
        averaging: The average of the weights, or None.
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
        """Recalibrate after an epoch's last step, before validation."""
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
        assert isinstance(module, RecognitionModule)
        if self.averaging is None:
            self._estimate(trainer, module, epoch)
            return
        with self.averaging.shown(module):
            self._estimate(trainer, module, epoch)

    def _estimate(self, trainer: lightning.Trainer, module: RecognitionModule, epoch: int) -> None:
        strategy, network = trainer.strategy, module.network
        torch.manual_seed(zlib.crc32(f"{module.recipe.seed} norms {epoch} {trainer.global_rank}".encode()))

        def put(batches: Batches) -> Iterator[dict[str, Tensor]]:
            for batch in islice(batches, self.batches):
                yield strategy.batch_to_device(batch)

        with strategy.precision_plugin.forward_context():
            norms = estimate(network, network.losses, put(self.draw(trainer, epoch + 1)))
        for norm in norms:  # alike in all processes, each of which saw its own share
            for statistic in (norm.running_mean, norm.running_var):
                assert statistic is not None
                statistic.copy_(strategy.reduce(statistic.clone(), reduce_op="mean"))


def estimate(network: nn.Module, look: Callable[[dict[str, Tensor]], Any], batches: Batches) -> list[_BatchNorm]:
    """Set the statistics of batch norms in training mode to the mean over batches.

    As `torch.optim.swa_utils.update_bn` does, but no units are dropped out, as none are in evaluation, and a norm in
    evaluation mode, or one that no batch comes through, keeps its own.

    Args:
        network: In training mode, except its frozen parts. Its modes and momenta are restored afterwards.
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
        assert norm.num_batches_tracked is not None
        seen = int(norm.num_batches_tracked) > 0
        norm.num_batches_tracked.copy_(buffers["num_batches_tracked"])
        if seen:
            renewed.append(norm)
            continue
        norm.load_state_dict(buffers, strict=False)
    return renewed
