"""Optimizers and schedules against what the papers say, step by step."""

import numpy as np
import pytest
import torch
from torch import nn

from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec_models.training.recipe import Optimizer, Schedule, unused

RATE, STEPS_AN_EPOCH = 0.01, 5


def rates(epochs, **options):
    """The learning rate at the start of each step."""
    schedule = config.build(Schedule, options)
    schedule.check()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=RATE)
    steps = epochs * STEPS_AN_EPOCH
    by_step = schedule.make(optimizer, RATE, steps, epochs)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if by_step is not None:
            by_step.step()
    return np.array(found)


def test_steps_are_the_papers():
    vpn = rates(30, name="steps", factor=0.1, every=10)
    np.testing.assert_allclose(vpn, np.repeat([1e-2, 1e-3, 1e-4], 50))
    c3d = rates(12, name="steps", factor=0.2, every=4)
    np.testing.assert_allclose(c3d, np.repeat([1e-2, 2e-3, 4e-4], 20))
    uneven = rates(10, name="steps", milestones=[2, 7])
    np.testing.assert_allclose(uneven, np.repeat([1e-2, 1e-3, 1e-4], [10, 25, 15]))


def test_exponential_decay_loses_its_factor_in_so_many_epochs():
    found = rates(30, name="exponential", factor=0.1, every=15)
    np.testing.assert_allclose(found[[0, 75]], [1e-2, 1e-3])
    np.testing.assert_allclose(found[1:] / found[:-1], 0.1 ** (1 / 75))


def test_cosine_rises_and_falls():
    found = rates(20, name="cosine", warm_up=0.1, final=0.2)
    assert found[0] < 0.2 * RATE
    assert (np.diff(found[:10]) > 0).all()
    assert (np.diff(found[11:]) < 0).all()
    assert found.max() == pytest.approx(RATE)
    assert found[-1] == pytest.approx(0.2 * RATE, rel=0.02)
    whole = rates(20, name="cosine", warm_up=0.0)
    np.testing.assert_allclose(whole, RATE * (1 + np.cos(np.pi * np.arange(100) / 100)) / 2, atol=1e-9)


def test_constant_and_one_cycle():
    assert (rates(3, name="constant") == RATE).all()
    cycle = rates(20, name="one_cycle")
    assert cycle.argmax() == pytest.approx(0.15 * 100, abs=1)
    assert cycle.max() == pytest.approx(RATE)
    assert cycle[-1] < 1e-4 * RATE


@pytest.mark.parametrize(("warm_up", "steps"), [(0.1, 10), (0.25, 4), (0.5, 2), (0.05, 20)])
def test_one_cycle_rises_within_a_single_step(warm_up, steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=RATE)
    schedule, seen = Schedule(warm_up=warm_up).make(optimizer, RATE, steps, 1), []
    for _ in range(steps - 1):
        optimizer.step()
        schedule.step()
        seen.append(optimizer.param_groups[0]["lr"])
    assert np.isfinite(seen).all()
    assert max(seen) <= RATE * (1 + 1e-6)


@pytest.mark.parametrize(
    ("name", "momentum", "low", "high"),
    [("adamw", 0.9, 0.85, 0.95), ("adam", 0.6, 0.55, 0.65), ("sgd", 0.5, 0.45, 0.55), ("sgd", 0.0, 0.0, 0.0)],
)
def test_one_cycle_swings_about_the_momentum_of_the_recipe(name, momentum, low, high):
    optimizer = Optimizer(name=name, momentum=momentum).make([nn.Parameter(torch.zeros(2))], RATE, 0.0)
    schedule, seen = Schedule(warm_up=0.5).make(optimizer, RATE, 11, 1), []
    for _ in range(10):
        group = optimizer.param_groups[0]
        seen.append(group["momentum"] if name == "sgd" else group["betas"][0])
        optimizer.step()
        schedule.step()
    assert (seen[0], min(seen), seen[-1]) == pytest.approx((high, low, high), abs=0.02)
    assert max(seen) == high


def test_plateau_waits_for_its_patience():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=RATE)
    plateau = Schedule(name="plateau", factor=0.1, patience=3).plateau(optimizer)
    seen = []
    for loss in (1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.8):
        plateau.step(loss)
        seen.append(optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(seen, [RATE] * 5 + [RATE / 10] * 2)
    assert Schedule().plateau(optimizer) is None
    assert Schedule(name="plateau").make(optimizer, RATE, 10, 1) is None


@pytest.mark.parametrize(("name", "kind"), [("adamw", "AdamW"), ("adam", "Adam"), ("sgd", "SGD")])
def test_optimizers_are_torchs_with_decay_of_matrices_alone(name, kind):
    layer = nn.Linear(3, 2)
    made = Optimizer(name=name, momentum=0.8, nesterov=name == "sgd").make(layer.parameters(), RATE, 0.1)
    assert type(made).__name__ == kind
    assert [(len(g["params"][0].shape), g["weight_decay"], g["lr"]) for g in made.param_groups] == [
        (2, 0.1, RATE), (1, 0.0, RATE)]  # fmt: skip
    group = made.param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (0.8, True) if name == "sgd" else group["betas"] == (0.8, 0.999)
    whole = Optimizer(name=name, decay_all=True).make(layer.parameters(), RATE, 0.1)
    assert [(len(g["params"]), g["weight_decay"]) for g in whole.param_groups] == [(2, 0.1)]


def test_what_is_frozen_is_left_out_and_nothing_to_train_is_said():
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    assert [p.shape for g in Optimizer().make(layer.parameters(), RATE, 0.1).param_groups for p in g["params"]] == [
        (2, 3)
    ]
    layer.requires_grad_(False)
    with pytest.raises(ConfigError, match="nothing of the network is to be trained"):
        Optimizer().make(layer.parameters(), RATE, 0.1)


@pytest.mark.parametrize(
    ("kind", "options", "idle"),
    [
        (
            Schedule,
            {"name": "cosine", "warm_up": 0.1, "final": 0.1, "every": 5.0, "patience": 3},
            ["every", "patience"],
        ),
        (Schedule, {"name": "one_cycle", "factor": 0.5, "warm_up": 0.15}, ["factor"]),
        (Schedule, {"name": "steps", "milestones": [5], "factor": 0.2, "final": 0.1}, ["final"]),
        (Schedule, {"name": "constant", "warm_up": 0.1}, ["warm_up"]),
        (Schedule, {"name": "plateau", "factor": 0.5, "patience": 3}, []),
        (Optimizer, {"name": "sgd", "nesterov": True, "beta_2": 0.99}, ["beta_2"]),
        (Optimizer, {"name": "adam", "momentum": 0.8, "beta_2": 0.99, "decay_all": True}, []),
    ],
)
def test_settings_that_do_nothing_are_known(kind, options, idle):
    assert unused(config.build(kind, options)) == idle
