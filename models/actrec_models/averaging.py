"""The average of a training's weights, which is what is kept."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import lightning
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

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
        """The decay of a step before which a stage had so many."""
        return min(self.decay, (1 + steps) / (10 + steps)) if self.warm_up else self.decay

    def _update(self, averaged: list[Tensor], current: list[Tensor], steps: Tensor) -> None:
        get_ema_multi_avg_fn(self.decay_after(int(steps)))(averaged, current, steps)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Says where the steps are too few: the loss may fall to nothing, and what is kept has not learnt."""
        steps = int(trainer.estimated_stepping_batches)
        share = 0.0 if self.warm_up else self.decay ** (steps - 1)  # of the first step's weights in the last average
        if share > _MOST_OF_FIRST:
            logger.warning(
                "the average of the weights, which is kept, will be to %d %% those of the first of %d steps: "
                "set average_warm_up to true, average_decay to %g (0: no average), or train for more steps",
                round(100 * share), steps, max(round(1 - 5 / steps, 3), 0.0),
            )  # fmt: skip

    @contextmanager
    def shown(self, module: lightning.LightningModule) -> Iterator[None]:
        """Has `module` hold the average; what is changed in it then is changed in the average."""
        self._swap_models(module)
        try:
            yield
        finally:
            self._swap_models(module)

    @property
    def state_key(self) -> str:
        """As the base has it, so that earlier checkpoints are taken up."""
        return "WeightAveraging"
