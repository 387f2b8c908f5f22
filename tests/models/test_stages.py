"""Trainings that go by stages: what is wrong with a later one is said before days are spent on the first."""

import pytest

from actrec.errors import ConfigError
from actrec_models import data
from actrec_models.training import Machine
from tests.models import children
from tests.models.made_up import skeletons


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"name": "joint"}, "stage 'joint' is none of sem_net's; it is trained in one go"),
        ({"batch": 4096}, "a batch of 4096 clips is more than the training part's"),
        ({"model": "spa_net_3p1d", "options": {"bodies": 1}}, "stage spa_net_3p1d holds weights of spa_net_3p1d; sem"),
    ],
)
def test_a_later_stage_that_cannot_be_trained_is_refused_before_the_first(stage, message, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "create", lambda name, root, **options: skeletons())
    stages = [{"epochs": 1}, {"epochs": 1, **stage}, {"epochs": 1}]
    with pytest.raises(ConfigError, match=message):
        children.run(tmp_path / "run", Machine(accelerator="cpu"), stages=stages)
    assert not list((tmp_path / "run").rglob("*.ckpt"))
