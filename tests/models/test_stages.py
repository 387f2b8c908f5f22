"""What is wrong with a training, in a later stage too, is said before days are spent on it."""

import shutil

import pytest

from actrec import datasets
from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec_models.training import trainer
from actrec_models.training.recipe import Recipe
from actrec_models.training.trainer import Machine, TrainingRun
from tests.models import children
from tests.models.made_up import TINY, skeletons


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"name": "joint"}, "stage 'joint' is none of sem_net's; it is trained in one go"),
        ({"batch": 4096}, "a batch of 4096 clips is more than the training part's"),
        ({"model": "spa_net_3p1d", "options": {"bodies": 1}}, "stage spa_net_3p1d holds weights of spa_net_3p1d; sem"),
    ],
)
def test_a_later_stage_that_cannot_be_trained_is_refused_before_the_first(stage, message, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "create", lambda name, root, **options: skeletons())
    stages = [{"epochs": 1}, {"epochs": 1, **stage}, {"epochs": 1}]
    with pytest.raises(ConfigError, match=message):
        children.run(tmp_path / "run", Machine(accelerator="cpu"), stages=stages)
    assert not list((tmp_path / "run").rglob("*.ckpt"))


@pytest.mark.parametrize("modalities", [["body"], ["body", "hands", "face"]])
def test_streams_that_a_network_can_do_without_are_told_of_once_where_a_dataset_lacks_them(modalities, caplog):
    options = {"modalities": modalities}
    stages = [{"epochs": 1}, {"epochs": 1, "learning_rate": 1e-4}, {"epochs": 1}]
    recipe = config.build(Recipe, {**TINY, "model": "deepacts_graph", "options": options, "stages": stages})
    run = TrainingRun(recipe, skeletons(), False, False, Machine(accelerator="cpu"), [])
    run.check_stages(recipe, run.module(recipe))
    told = "deepacts_graph also takes face, hands, which not every clip of dataset 'made_up' has"
    assert [record.getMessage().startswith(told) for record in caplog.records] == [True] * (len(modalities) > 1)


OTHER = {"model": "sem_net", "options": dict(TINY["options"]), "window_s": 1.0, "epochs": 1}
CPU = Machine(accelerator="cpu")


@pytest.fixture
def clips(monkeypatch):
    monkeypatch.setattr(datasets, "create", lambda name, root, **options: skeletons())


@pytest.mark.parametrize(
    ("other", "said"),
    [("recipe", "another seed"), ("data", "another data"), ("init", "began from random weights, not")],
)
def test_a_folder_of_another_run_is_refused_before_the_first_stage(other, said, clips, tmp_path, monkeypatch):
    out, stages = tmp_path / "run", [{"epochs": 1}, OTHER, {"epochs": 1}]
    children.run(out, CPU, stages=stages, **({"seed": 2} if other == "recipe" else {}))
    shutil.rmtree(out / "stage_1_whole")
    init = [out / "last.ckpt"] if other == "init" else []
    if other == "data":
        monkeypatch.setattr(datasets, "create", lambda name, root, **options: skeletons(24))
    with pytest.raises(ConfigError, match=said):
        children.run(out, CPU, init=init, stages=stages)
    assert not (out / "stage_1_whole").exists()


def test_fresh_deletes_nothing_that_is_begun_from(clips, tmp_path):
    """Nor another run in a folder of this one, whatever it is called."""
    out, stages = tmp_path / "run", [{"epochs": 1}, OTHER, {"epochs": 1}]
    children.run(out / "stage_1", CPU, epochs=1)
    whole = children.run(out, CPU, stages=stages)
    there = sorted(out.rglob("*.ckpt"))
    changed = config.build(Recipe, {**TINY, "stages": stages, "seed": 2})
    fresh = {"progress": False, "threads": 1, "machine": CPU, "resume": False}
    for file in (whole, out / "stage_1_whole/../stage_2_sem_net/last.ckpt"):
        with pytest.raises(ConfigError, match=f"--fresh would delete {file}, which --init names: choose another --out"):
            trainer.train(changed, "", out, init=[file], **fresh)
    assert sorted(out.rglob("*.ckpt")) == there
    trainer.train(changed, "", out, init=[out / "stage_1/last.ckpt"], **fresh)
    assert (out / "stage_1/last.ckpt").is_file()
