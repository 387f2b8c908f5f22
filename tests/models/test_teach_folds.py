"""What `actrec teach` leaves out to judge itself, and that nothing of it is learnt."""

import dataclasses

import numpy as np
import pytest
import torch

from actrec import config
from actrec_models import data, taking_over, teach_material
from actrec_models.folds import Folds
from actrec_models.teach_trainings import Trainings

pytestmark = pytest.mark.timeout(600)  # for a machine that does much else


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def utd(data_root):
    return data.create("utd_mhad", str(data_root / "utd_mhad"), part="train")


def test_a_rehearsal_has_seen_nothing_of_what_it_leaves_out(utd):
    """Not even as what leads up to a clip: of the fold, and of the class that it leaves out."""
    asked = {"head_steps": 50, "steps": 1, "batch": 4, "draws": 2, "augmentation": {"before": 1.0}}
    settings, base = config.build(teach_material.TeachConfig, asked), taking_over.open_base("deepacts_graph_nucla")
    clips = [dataclasses.replace(utd[index], label=index % 3) for index in range(9)]
    folds = Folds(np.array([0, 0, 0, 1, 1, 1, 1, 1, 1]), ("fold 1", "fold 2"), "clip")
    made_up = []
    for changed in (None, 1, 3, 4):  # of the fold, of the class, of neither
        shown = list(clips)
        if changed is not None:
            shown[changed] = dataclasses.replace(clips[changed], bodies=clips[changed].bodies[..., ::-1, :].copy())
        material = teach_material.Material(shown, ("a", "b", "c"), ("",) * 9, (), "none")
        rehearsal = Trainings(base, material, settings, progress=False).rehearse(folds, 0, 0, 60.0, "rehearsal")
        assert rehearsal.known.shape == (4, 2) and rehearsal.others.shape == (2 * 3, 2)
        made_up.append(rehearsal.made_up)
    same = [bool((one == made_up[0]).all()) for one in made_up]
    assert same == [True, True, True, False]
