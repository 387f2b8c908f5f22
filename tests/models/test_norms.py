"""Batch norms' statistics are those of the weights that are kept."""

import copy

import pytest
import torch
from torch import nn

from actrec import datasets
from actrec_models.training import callbacks, checkpoints
from actrec_models.training.module import RecognitionModule
from actrec_models.training.recipe import Recipe
from actrec_models.training.trainer import Machine
from tests.models import children
from tests.models.made_up import CLASSES, skeletons

ON_CPU = Machine(checkpoint_steps=1, accelerator="cpu", workers=0)
RENEWED = {"recalibration_batches": 3, "ema_decay": 0.9}


@pytest.fixture(autouse=True)
def dataset(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(datasets, "create", lambda name, root, **options: skeletons())


def run(out, **changes):
    return children.run(out, ON_CPU, **{**RENEWED, **changes})


@pytest.fixture
def looked_at(monkeypatch):
    """The batches of each estimate, in turn."""
    seen, estimate = [], callbacks.estimate_norms

    def noted(network, look, batches):
        seen.append([])

        def noting(batch):
            seen[-1].append(copy.deepcopy(batch))
            return look(batch)

        return estimate(network, noting, batches)

    monkeypatch.setattr(callbacks, "estimate_norms", noted)
    return seen


def statistics(state):
    return {name: value for name, value in state.items() if name.endswith(("running_mean", "running_var"))}


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.frozen, self.unused = (nn.BatchNorm1d(4) for _ in range(3))
        self.dropout, self.bare = nn.Dropout(0.5), nn.BatchNorm1d(4, track_running_stats=False)
        self.last = nn.BatchNorm1d(4, momentum=0.01)

    def forward(self, x):
        return self.last(self.bare(self.dropout(self.frozen(3 * self.first(x)))))


def test_statistics_are_the_mean_over_batches_with_nothing_dropped_out():
    torch.manual_seed(0)
    network = Small().train()
    network.frozen.eval()
    batches = [5 + 2 * torch.randn(8, 4) for _ in range(3)]
    for _ in range(4):
        network(batches[0])
    kept = copy.deepcopy(network.state_dict())
    found = callbacks.estimate_norms(network, network, iter(batches))
    assert found == [network.first, network.last]
    mean = torch.stack([batch.mean(0) for batch in batches]).mean(0)
    variance = torch.stack([batch.var(0) for batch in batches]).mean(0)
    torch.testing.assert_close(network.first.running_mean, mean)
    torch.testing.assert_close(network.first.running_var, variance)
    # Each batch comes as whole to the last norm: of variance n/(n-1) where all of it is there.
    torch.testing.assert_close(network.last.running_var, torch.full((4,), 8 / 7), atol=1e-3, rtol=0)
    now = network.state_dict()
    for name, value in kept.items():
        if not name.startswith(("first.running", "last.running")):
            assert torch.equal(now[name], value), name
    assert network.dropout.training
    assert not network.frozen.training
    assert (network.first.momentum, network.last.momentum) == (0.1, 0.01)


def test_a_failure_leaves_modes_and_momenta():
    network = Small().train()

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
def test_what_is_kept_has_statistics_of_its_own_weights(changes, estimates, looked_at, tmp_path):
    kept = run(tmp_path, **changes)
    assert len(looked_at) == estimates
    assert {len(batches) for batches in looked_at} == {3 * changes.get("accumulate", 1)}
    content = checkpoints.read(kept)
    module = RecognitionModule(content["hyper_parameters"]["recipe"], list(CLASSES))
    module.load_state_dict(content["state_dict"])
    number = content["actrec"]["epoch"] - 1 if "validation" in changes else 0
    callbacks.estimate_norms(module.network.train(), module.network.losses, looked_at[number][:])
    again = statistics(module.state_dict())
    assert again
    for name, value in statistics(content["state_dict"]).items():
        torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "batches"),
    [
        ({"validation": {"share": 0.2}}, [4, 4]),  # an epoch each
        ({"validation": {"share": 0.2}, "recalibration_batches": 0}, []),
        ({"validation": {"share": 0.2}, "ema_decay": 0.0}, []),
        ({}, []),
    ],
)
def test_by_default_averaged_weights_are_judged_with_statistics_of_their_own(changes, batches, looked_at, tmp_path):
    run(tmp_path, **{"recalibration_batches": None, **changes})
    assert [len(seen) for seen in looked_at] == batches


@pytest.mark.parametrize(("clips", "batches"), [(100, 4), (1020, 7), (40_000, 20)])
def test_by_default_a_quarter_of_an_epoch_is_looked_at(clips, batches):
    assert callbacks.default_recalibration_batches(Recipe(batch=32), clips, held=10) == batches


def test_nothing_but_statistics_is_changed(tmp_path):
    one = checkpoints.read(run(tmp_path / "one"))["state_dict"]
    other = checkpoints.read(run(tmp_path / "other", recalibration_batches=0))["state_dict"]
    changed = {name for name, value in one.items() if not torch.equal(value, other[name])}
    assert changed
    assert changed <= set(statistics(one))


def test_more_batches_than_an_epoch_has_go_on_with_the_next(looked_at, tmp_path):
    run(tmp_path, recalibration_batches=7, epochs=1)  # of five steps
    assert len(looked_at[0]) == 7


@pytest.mark.parametrize("changes", [{}, {"validation": {"share": 0.2}}])
def test_a_kill_while_they_are_estimated_is_made_good(changes, tmp_path):
    whole = run(tmp_path / "whole", **changes)
    number = 2 if changes else 1
    children.killed(children.run_to_estimate, number, tmp_path / "killed", ON_CPU, {**RENEWED, **changes})
    assert not checkpoints.read(tmp_path / "killed/last.ckpt")["actrec"]["finished"]
    ended = run(tmp_path / "killed", **changes)
    ours, theirs = (checkpoints.read(path)["state_dict"] for path in (whole, ended))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_run_from_before_the_option_goes_on(tmp_path):
    last = run(tmp_path, recalibration_batches=None)
    content = torch.load(last, weights_only=True)
    del content["hyper_parameters"]["recipe"]["recalibration_batches"]
    torch.save(content, last)
    assert run(tmp_path, recalibration_batches=None) == last
