import numpy as np
import pytest
import torch

import actrec_models.networks
from actrec import features
from actrec.utils.errors import ConfigError, InputError
from actrec_models.networks.spa_net import mean

SMALL = {
    "frames": 12,
    "spa_frames": 6,
    "bodies": 1,
    "sem_options": {"channels": (8, 8), "strides": (1, 2), "heads": 2, "embedding": 4},
    "spa_options": {"width": 8, "widths": (1, 2), "depths": (1, 1), "kernel": 3},
}


def network(**options):
    torch.manual_seed(1)
    return actrec_models.networks.create("sem_spa", num_classes=5, **{**SMALL, **options})


def batch(model, joints=25, frames=12, count=3):
    rng = np.random.default_rng(0)
    clips = rng.normal(0, 0.5, (count, 1, frames, joints, 3)).astype(np.float32)
    made = [features.inputs({"bodies": clip}, model.input_specs) for clip in clips]
    inputs = {name: torch.from_numpy(np.stack([m[name] for m in made])) for name in made[0]}
    return {**inputs, "label": torch.arange(count)}


@pytest.mark.parametrize("spa", ["4d", "3p1d"])
@pytest.mark.parametrize("streams", ["fuse", "joint"])
def test_sem_spa_softmax_is_mean_of_both_networks(streams, spa):
    model = network(streams=streams, spa=spa).eval()
    data = batch(model)
    with torch.no_grad():
        found = torch.softmax(model(**{s.name: data[s.name] for s in model.input_specs}), dim=1)
        both = [
            torch.softmax(part(**{s.name: data[s.name] for s in part.input_specs}), dim=1)
            for part in (model.sem, model.spa)
        ]
    torch.testing.assert_close(found, (both[0] + both[1]) / 2)
    assert not torch.allclose(*both)


def test_sem_spa_losses_are_separate():
    model = network()
    data = batch(model)
    parts = model.losses(data)
    torch.testing.assert_close(parts["loss"], parts["sem"] + parts["spa"])
    torch.testing.assert_close(parts["spa"], model.spa.losses(data)["loss"])
    assert parts["logits"].shape == (3, 5)
    parts["spa"].backward()
    assert all(p.grad is None or not p.grad.any() for n, p in model.named_parameters() if n.startswith("sem."))


def test_sem_spa_extreme_scores_stay_finite():
    a, b = torch.tensor([[900.0, 0.0]]), torch.tensor([[0.0, 900.0]])
    torch.testing.assert_close(torch.softmax(mean(a, b), dim=1), torch.tensor([[0.5, 0.5]]))


def test_sem_spa_options_cover_tables_6_and_9():
    names = {streams: [s.name for s in network(streams=streams).input_specs] for streams in ("fuse", "joint")}
    assert names["fuse"][:2] == ["body", "bones"]
    assert names["joint"][0] == "body"
    assert len(set(names["fuse"])) == len(names["fuse"])
    assert {"voxel_features", "voxel_neighbors", "voxel_sums", "voxel_cells"} < set(names["joint"])
    hand = network(layout="hand_22", spa="3p1d")
    assert hand(**{k: v for k, v in batch(hand, joints=22).items() if k != "label"}).shape == (3, 5)


def test_sem_spa_voxel_tables_are_one_stream():
    network = actrec_models.networks.create("sem_spa", num_classes=2, frames=16, spa_frames=16, bodies=1)
    assert len(network.input_specs) > 3
    assert features.modalities(network.input_specs) == ["body", "bones", "voxels"]


def test_sem_spa_bad_input_refused():
    model = network()
    with pytest.raises(InputError, match=r"\[1, 12, 20, 3\]"):
        batch(model, joints=20)
    with pytest.raises(InputError, match=r"\[1, 9, 25, 3\]"):
        batch(model, frames=9)
    with pytest.raises(ConfigError, match="unknown option color"):
        network(spa_options={"color": 1})
    for options in ({"sem_options": {"streams": "joint"}}, {"spa_options": {"frames": 4}}):
        with pytest.raises(ConfigError, match=r"_options has (streams|frames), which is an option of sem_spa itself"):
            network(**options)
    with pytest.raises(ConfigError, match=r"spa is '5d', allowed: 4d, 3p1d"):
        network(spa="5d")
