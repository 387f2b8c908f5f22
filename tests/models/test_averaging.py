"""What is kept of a training is an average of its last weights."""

from types import SimpleNamespace

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from actrec_models.training.callbacks import Averaging


@pytest.mark.parametrize(
    ("decay", "warm_up", "steps", "told"),
    [
        (0.99, False, 40, "68 % weights of the first of 40 steps: set ema_warm_up to true, ema_decay to 0.875"),
        (0.99, False, 1000, ""), (0.8, False, 40, ""), (0.99, True, 40, ""),
    ],
)  # fmt: skip
def test_an_average_of_few_steps_is_told_of(decay, warm_up, steps, told, caplog):
    Averaging(decay, warm_up).on_train_start(SimpleNamespace(estimated_stepping_batches=steps), None)
    assert told in caplog.text
    assert bool(told) == bool(caplog.records)


class Counting(lightning.LightningModule):
    """A weight that is the number of steps so far."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch, index):
        return -self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.mark.parametrize(("warm_up", "kept"), [(True, 36.0), (False, 7.9)])
def test_what_is_kept_of_a_short_training_is_of_its_last_steps(warm_up, kept):
    counting, averaging = Counting(), Averaging(0.99, warm_up)
    lightning.Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[averaging], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(counting, DataLoader(torch.zeros(40, 1)))  # fmt: skip
    assert counting.weight.item() == pytest.approx(kept, abs=0.01)


def test_the_decay_of_an_average_that_warms_up_grows_to_what_is_set():
    averaging = Averaging(0.99)
    assert [averaging.decay_after(steps) for steps in (1, 10, 889, 892)] == [2 / 11, 11 / 20, 890 / 899, 0.99]
    assert Averaging(0.99, warm_up=False).decay_after(1) == 0.99
    assert Averaging(0.1).decay_after(1) == 0.1
