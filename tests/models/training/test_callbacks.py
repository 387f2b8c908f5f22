"""EMA of the weights and batch norm recalibration."""

import copy
from types import SimpleNamespace

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from actrec import datasets
from actrec.utils.errors import ConfigError
from actrec_models.layers import cnn2d
from actrec_models.training import callbacks, checkpoints
from actrec_models.training.callbacks import Averaging
from actrec_models.training.module import RecognitionModule
from actrec_models.training.recipe import Recipe
from actrec_models.training.trainer import Machine
from tests.models.made_up import CLASSES, skeletons
from tests.models.training import children


class StepCounter(lightning.LightningModule):
    """A module whose weight equals the number of steps."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch, index):
        return -self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.mark.parametrize(("warm_up", "expected"), [(True, 36.0), (False, 7.9)])
def test_averaging_short_training_keeps_last_steps(warm_up, expected):
    counter, averaging = StepCounter(), Averaging(0.99, warm_up)
    lightning.Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[averaging], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(counter, DataLoader(torch.zeros(40, 1)))  # fmt: skip
    assert counter.weight.item() == pytest.approx(expected, abs=0.01)


def test_averaging_is_on_the_device_that_trains():
    """Lightning moves the module there only after the callbacks are set up."""
    averaging, strategy = Averaging(0.99), SimpleNamespace(root_device=torch.device("meta"))
    averaging.setup(SimpleNamespace(strategy=strategy), StepCounter(), "fit")
    assert {each.device.type for each in averaging._average_model.parameters()} == {"meta"}


def test_averaging_warm_up_decay_grows_to_setting():
    averaging = Averaging(0.99)
    assert [averaging.decay_after(steps) for steps in (1, 10, 889, 892)] == [2 / 11, 11 / 20, 890 / 899, 0.99]
    assert Averaging(0.99, warm_up=False).decay_after(1) == 0.99
    assert Averaging(0.1).decay_after(1) == 0.1


ON_CPU = Machine(checkpoint_steps=1, accelerator="cpu", workers=0)
SETTINGS = {"recalibration_batches": 3, "ema_decay": 0.9}


@pytest.fixture(autouse=True)
def dataset(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(datasets, "create", lambda name, root, **options: skeletons())


def run(out, **changes):
    return children.run(out, ON_CPU, **{**SETTINGS, **changes})


@pytest.fixture
def estimate_batches(monkeypatch):
    """Return a list that records the batches of each estimate."""
    recorded, estimate = [], callbacks.estimate_norms

    def record_estimate(network, look, batches):
        recorded.append([])

        def record_batch(batch):
            recorded[-1].append(copy.deepcopy(batch))
            return look(batch)

        return estimate(network, record_batch, batches)

    monkeypatch.setattr(callbacks, "estimate_norms", record_estimate)
    return recorded


def statistics(state):
    return {name: value for name, value in state.items() if name.endswith(("running_mean", "running_var"))}


class SmallNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.frozen, self.unused = (nn.BatchNorm1d(4) for _ in range(3))
        self.dropout, self.bare = nn.Dropout(0.5), nn.BatchNorm1d(4, track_running_stats=False)
        self.last = nn.BatchNorm1d(4, momentum=0.01)

    def forward(self, x):
        return self.last(self.bare(self.dropout(self.frozen(3 * self.first(x)))))


def test_estimate_norms_gives_mean_over_batches_without_dropout():
    torch.manual_seed(0)
    network = SmallNetwork().train()
    network.frozen.eval()
    batches = [5 + 2 * torch.randn(8, 4) for _ in range(3)]
    for _ in range(4):
        network(batches[0])
    before = copy.deepcopy(network.state_dict())
    found = callbacks.estimate_norms(network, network, iter(batches))
    assert found == [network.first, network.last]
    mean = torch.stack([batch.mean(0) for batch in batches]).mean(0)
    variance = torch.stack([batch.var(0) for batch in batches]).mean(0)
    torch.testing.assert_close(network.first.running_mean, mean)
    torch.testing.assert_close(network.first.running_var, variance)
    # The last norm sees whole batches of normalized values, whose unbiased variance is n/(n-1).
    torch.testing.assert_close(network.last.running_var, torch.full((4,), 8 / 7), atol=1e-3, rtol=0)
    after = network.state_dict()
    for name, value in before.items():
        if not name.startswith(("first.running", "last.running")):
            assert torch.equal(after[name], value), name
    assert network.dropout.training
    assert not network.frozen.training
    assert (network.first.momentum, network.last.momentum) == (0.1, 0.01)


def test_estimate_norms_error_restores_modes_and_momenta():
    network = SmallNetwork().train()

    def look(batch):
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        callbacks.estimate_norms(network, look, [{"x": torch.zeros(2, 4)}])
    assert network.dropout.training
    assert network.last.momentum == 0.01


@pytest.mark.parametrize(
    ("changes", "estimates"),
    [({}, 1), ({"ema_decay": 0.0}, 1), ({"accumulate": 2}, 1), ({"validation": {"share": 0.2}}, 2)],
)
def test_recalibration_saved_weights_have_own_statistics(changes, estimates, estimate_batches, tmp_path):
    path = run(tmp_path, **changes)
    assert len(estimate_batches) == estimates
    assert {len(batches) for batches in estimate_batches} == {3 * changes.get("accumulate", 1)}
    content = checkpoints.read(path)
    module = RecognitionModule(content["hyper_parameters"]["recipe"], list(CLASSES))
    module.load_state_dict(content["state_dict"])
    number = content["actrec"]["epoch"] - 1 if "validation" in changes else 0
    callbacks.estimate_norms(module.network.train(), module.network.losses, estimate_batches[number][:])
    recalibrated = statistics(module.state_dict())
    assert recalibrated
    for name, value in statistics(content["state_dict"]).items():
        torch.testing.assert_close(recalibrated[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "batches"),
    [
        ({"validation": {"share": 0.2}}, [4, 4]),  # one estimate per epoch
        ({"validation": {"share": 0.2}, "recalibration_batches": 0}, []),
        ({"validation": {"share": 0.2}, "ema_decay": 0.0}, []),
        ({}, []),
    ],
)
def test_recalibration_default_depends_on_validation_and_average(changes, batches, estimate_batches, tmp_path):
    run(tmp_path, **{"recalibration_batches": None, **changes})
    assert [len(estimate) for estimate in estimate_batches] == batches


@pytest.mark.parametrize(("clips", "batches"), [(100, 4), (1020, 7), (40_000, 20)])
def test_default_recalibration_batches_is_quarter_of_epoch(clips, batches):
    assert callbacks.default_recalibration_batches(Recipe(batch=32), clips, held=10) == batches


def test_recalibration_changes_statistics_only(tmp_path):
    with_recalibration = checkpoints.read(run(tmp_path / "one"))["state_dict"]
    without = checkpoints.read(run(tmp_path / "other", recalibration_batches=0))["state_dict"]
    changed = {name for name, value in with_recalibration.items() if not torch.equal(value, without[name])}
    assert changed
    assert changed <= set(statistics(with_recalibration))


def test_recalibration_continues_into_next_epoch(estimate_batches, tmp_path):
    run(tmp_path, recalibration_batches=7, epochs=1)  # an epoch has five steps
    assert len(estimate_batches[0]) == 7


def test_checkpoint_of_a_step_whose_loss_is_nan_is_not_saved(tmp_path, monkeypatch):
    training_step = RecognitionModule.training_step

    def step(module, batch, index):
        loss = training_step(module, batch, index)
        return loss * float("nan") if module.trainer.global_step == 2 else loss

    monkeypatch.setattr(RecognitionModule, "training_step", step)
    monkeypatch.setattr(datasets, "create", lambda name, root, **options: skeletons())
    machine = Machine(accelerator="cpu", workers=0, checkpoint_steps=1)
    with pytest.raises(ConfigError, match="the loss is nan at step 3"):
        children.run(tmp_path, machine, epochs=1)
    saved = checkpoints.read(tmp_path / "last.ckpt")
    assert saved["global_step"] == 2 and all(value.isfinite().all() for value in saved["state_dict"].values())


@pytest.mark.parametrize("changes", [{}, {"validation": {"share": 0.2}}])
def test_recalibration_killed_run_gives_same_weights(changes, tmp_path):
    uninterrupted = run(tmp_path / "whole", **changes)
    number = 2 if changes else 1
    children.run_until_killed(children.run_to_estimate, number, tmp_path / "killed", ON_CPU, {**SETTINGS, **changes})
    assert not checkpoints.read(tmp_path / "killed/last.ckpt")["actrec"]["finished"]
    resumed = run(tmp_path / "killed", **changes)
    expected, found = (checkpoints.read(path)["state_dict"] for path in (uninterrupted, resumed))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_estimate_norms_skips_no_blocks():
    torch.manual_seed(0)
    block = cnn2d.MBConv(8, 8, 1, 3, 1, drop=0.5)
    network = nn.Sequential(block, nn.BatchNorm2d(8)).train()
    batches, found = [torch.randn(6, 8, 5, 5) for _ in range(2)], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        callbacks.estimate_norms(network, network, iter(batches))
        found.append(network[1].running_var.clone())
    assert torch.equal(*found)
    assert all(part.training for part in network.modules())


def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    training_step = RecognitionModule.training_step

    def step(module, batch, index):  # the first of the last step's two parts
        loss = training_step(module, batch, index)
        return loss * float("nan") if index == 8 else loss

    monkeypatch.setattr(RecognitionModule, "training_step", step)
    with pytest.raises(ConfigError, match="the weights are not finite after step 5"):
        run(tmp_path, accumulate=2, epochs=1)
