"""What a network is shown in training fits what it is shown afterwards, however many people a recording has."""

import numpy as np
import pytest
from torch.utils.data import default_collate

import actrec_models
from actrec import config
from actrec.errors import InputError
from actrec.frames import NANOSECONDS
from actrec_models.data import Clip, ClipDataset
from actrec_models.data.augment import Augmentation
from actrec_models.recipe import Recipe
from actrec_models.samples import Samples

NETWORKS = {"sem_net": {"streams": "fuse"}, "deepacts_graph": {"modalities": ("body", "bones", "body_motion")}}


def people(count, frames=20):
    """Standing people side by side, who wander."""
    rng = np.random.default_rng(count)
    places = np.arange(count)[:, None, None, None] * [0.8, 0, 0] + [0, 0, 3]
    bodies = rng.normal(0, 0.4, (count, 1, 25, 3)) + np.cumsum(rng.normal(0, 0.01, (count, frames, 1, 3)), 1) + places
    stamps = (np.arange(frames) / 15 * NANOSECONDS).astype(np.int64)
    return Clip(f"of {count}", 0, stamps, bodies.astype(np.float32))


def samples(name, clips, augmentation, **settings):
    network = actrec_models.create(name, num_classes=2, frames=16, bodies=2, **NETWORKS[name])
    recipe = config.build(Recipe, {"model": name, **settings})
    return Samples(ClipDataset(clips, ["a", "b"]), network.input_specs, network.window, recipe, augmentation)


@pytest.mark.parametrize("name", NETWORKS)
def test_varied_clips_have_as_many_bodies_as_recorded_ones(name):
    clips = [people(1), people(2)]
    plain, varied = samples(name, clips, None), samples(name, clips, Augmentation(), outliers=0.3)
    batch = default_collate([varied[epoch, index, 0] for epoch in range(6) for index in range(2)])
    assert {-1, 0} == set(batch["label"].tolist()), "one with people who do nothing of the classes"
    for spec in plain.specs:
        assert batch[spec.name].shape[1:] == plain[0][spec.name].shape == spec.shape
        assert not varied[0, 0, 0][spec.name][1].any() and not plain[0][spec.name][1].any(), "nobody is zero"
        assert varied[0, 1, 0][spec.name][1].any()


def test_more_bodies_than_the_network_looks_at_are_refused_alike():
    for augmentation in (None, Augmentation()):
        with pytest.raises(InputError, match="takes up to 2 bodies"):
            samples("sem_net", [people(3)], augmentation)[0]
