"""Balance of training draws over classes and sets, and the clips held out of them."""

import dataclasses

import numpy as np
import pytest

from actrec.datasets.base import ClipDataset
from actrec.utils.errors import ConfigError
from actrec_models.data.samplers import EpochBatchSampler, Sampling, Validation
from tests.models.made_up import skeletons

LABELS = np.array([0] * 320 + [1] * 40 + [2] * 10)
SETS = ["large"] * 300 + ["small"] * 20 + ["small"] * 40 + ["long"] * 10
METAS = [{"set": name, "subject": index % 5} for index, name in enumerate(SETS)]


def share(sampler, chosen):
    return np.mean([chosen[index] for epoch in range(40) for index, _ in sampler.order(epoch)])


def test_sets_balance_classes_and_sets_by_powers_of_their_sizes():
    sampler = EpochBatchSampler(LABELS, Sampling(balance="sets"), 1, 10, metas=METAS)
    pairs = {(0, "large"): 150, (0, "small"): 20, (1, "small"): 40, (2, "long"): 10}
    powers = {pair: size**0.4 for pair, size in pairs.items()}
    for (label, name), power in powers.items():
        chosen = (label == LABELS) & (np.array(SETS) == name)
        assert share(sampler, chosen) == pytest.approx(power / sum(powers.values()), abs=0.005)


def test_set_weights_scale_the_draws_of_a_set():
    plain, scaled = (
        EpochBatchSampler(LABELS, Sampling(balance="sets", set_weights=weights), 1, 10, metas=METAS)
        for weights in ({}, {"long": 0.3})
    )
    long = np.array(SETS) == "long"
    odds = [share(sampler, long) / share(sampler, ~long) for sampler in (plain, scaled)]
    assert odds[1] / odds[0] == pytest.approx(0.3, abs=0.02)
    none = EpochBatchSampler(LABELS, Sampling(balance="sets", set_weights={"long": 0}), 1, 10, metas=METAS)
    assert share(none, long) == 0


def test_set_weights_of_a_missing_dataset_have_no_effect():
    plain, other = (
        Sampling(balance="sets", set_weights=weights).weights(LABELS, METAS) for weights in ({}, {"cad60": 0.3})
    )
    np.testing.assert_array_equal(plain, other)


def test_sets_order_depends_on_seed_and_epoch_and_numbers_repeats():
    options = {"sampling": Sampling(repeats=2, balance="sets", balance_by="subject"), "batch": 8, "metas": METAS}
    first, same, other = (EpochBatchSampler(LABELS, seed=seed, **options) for seed in (1, 1, 2))
    order = first.order(0)
    np.testing.assert_array_equal(order, same.order(0))
    assert len(order) == 2 * len(LABELS) and (order != other.order(0)).any() and (order != first.order(1)).any()
    assert len({tuple(draw) for draw in order}) == len(order)
    counts = np.bincount(order[:, 0], minlength=len(LABELS))
    assert all(sorted(again) == list(range(count)) for again, count in
               ((order[order[:, 0] == index, 1], count) for index, count in enumerate(counts)))  # fmt: skip
    ranks = [EpochBatchSampler(LABELS, seed=1, **options, rank=rank, world=2) for rank in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == list(same)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"balance": "sets", "balance_by": "room"}, "balance_by is 'room': every clip has set, subject"),
        ({"balance": "sets", "set_weights": {"cad6": 1}}, "names cad6; the clips are of large, long, small"),
        ({"balance": "sets", "set_weights": {"long": -1}}, "of long is -1, expected a number of 0 or more"),
        ({"balance": "sets", "set_weights": dict.fromkeys(("large", "long", "small"), 0)}, "are 0 for all clips"),
        ({"set_weights": {"long": 1}}, "do nothing without balance: sets"),
        ({"balance": "classes", "balance_by": "subject"}, "has balance_by, which do nothing without balance: sets"),
    ],
)
def test_invalid_balance_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        EpochBatchSampler(LABELS, Sampling(**options), 1, 10, metas=METAS)


def test_validation_by_set_holds_out_rendered_copies_with_the_set_of_their_clips():
    clips = ClipDataset(skeletons()[:8], ("a", "b"))
    metas = [
        {"set": "kard"},
        {"set": "nucla"},
        {"set": "rendered", "origin": "kard"},
        {"set": "rendered", "origin": ""},
    ]
    clips.entries = [dataclasses.replace(e, meta=metas[k % 4]) for k, e in enumerate(clips.entries)]
    training, held_out = Validation(by="set", only=("kard",)).split(clips, seed=1)
    assert held_out is not None and {meta.get("origin", "kard") for meta in held_out.metas} == {"kard"}
    assert len(held_out) == 4 and {meta["set"] for meta in training.metas} == {"nucla", "rendered"}
