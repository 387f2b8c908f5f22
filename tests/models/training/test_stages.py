"""Stages of a training: settings, initial weights, logged figures, and errors before the first stage."""

import csv
import logging
import shutil
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import default_collate

from actrec import datasets
from actrec.utils import config
from actrec.utils.errors import ConfigError, DeviceError
from actrec_models.data.samplers import PAD
from actrec_models.data.samples import Samples
from actrec_models.training import checkpoints, provenance, trainer
from actrec_models.training.checkpoints import translate_errors
from actrec_models.training.module import RecognitionModule
from actrec_models.training.recipe import Recipe
from actrec_models.training.trainer import Machine, TrainingRun
from tests.models.made_up import TINY, skeletons
from tests.models.training import children

CPU = Machine(accelerator="cpu")


@pytest.fixture(autouse=True)
def clips(monkeypatch):
    monkeypatch.setattr(datasets, "create", lambda name, root, **options: skeletons())


def rows(folder):
    newest = sorted(folder.glob("log/version_*/metrics.csv"))[-1]
    return list(csv.DictReader(newest.read_text().splitlines()))


def test_stage_unset_fields_default_to_recipe():
    stages = [{"epochs": 3}, {"learning_rate": 0.5}, {}]
    recipe = config.build(Recipe, {**TINY, "epochs": 7, "learning_rate": 0.25, "stages": stages})
    assert [(stage.epochs, stage.learning_rate) for stage in recipe.plan()] == [(3, 0.25), (7, 0.5), (7, 0.25)]


@pytest.mark.parametrize("own", [True, False])
def test_train_recipe_field_overridden_by_every_stage_warned(own, tmp_path, caplog):
    rate = {"learning_rate": 1e-3} if own else {}
    children.run(tmp_path / "run", CPU, stages=[{"epochs": 1, **rate}, {"epochs": 1}], epochs=1, learning_rate=0.02)
    told = [record.getMessage() for record in caplog.records if "does nothing" in record.getMessage()]
    assert told == ["epochs does nothing: each of the stages has its own"]  # the second stage goes by the rate


@pytest.mark.parametrize(("smoothing", "told"), [(0.1, 0), (0.0, 0), (0.3, 1)])
def test_label_smoothing_without_effect_warned(smoothing, told, caplog):
    recipe = config.build(Recipe, {**TINY, "label_smoothing": smoothing})
    run = TrainingRun(recipe, skeletons(), False, False, CPU, [])
    run.check_stages(recipe, run.module(recipe))
    assert len([r for r in caplog.records if "label_smoothing does nothing: sem_net has" in r.getMessage()]) == told


def test_stage_starts_from_initial_weights_of_its_network(tmp_path, monkeypatch, caplog):
    alone = children.run(tmp_path / "alone", CPU, epochs=1)
    begun = {}
    start = RecognitionModule.on_train_batch_start

    def first(self, batch, index):
        begun.setdefault(self.recipe.model, {k: v.detach().clone() for k, v in self.network.state_dict().items()})
        start(self, batch, index)

    monkeypatch.setattr(RecognitionModule, "on_train_batch_start", first)
    own = {name: value for name, value in TINY["options"].items() if name not in ("bodies", "frames")}
    spa = {"width": 8, "widths": [1, 2], "depths": [1, 1], "kernel": 3}
    options = {"bodies": 1, "frames": 8, "spa_frames": 8, "streams": "joint", "sem_options": own, "spa_options": spa}
    stages = [{"model": "sem_net", "options": TINY["options"], "epochs": 1}, {"epochs": 1}]
    with caplog.at_level(logging.INFO):
        children.run(tmp_path / "both", CPU, [alone], model="sem_spa", options=options, stages=stages, seed=2)
    learnt = checkpoints.read(alone)["state_dict"]
    weights = [name for name, value in begun["sem_net"].items() if value.ndim > 1]
    assert weights and all(torch.equal(begun["sem_net"][name], learnt[f"network.{name}"]) for name in weights)


def test_early_stopping_stage_counts_own_epochs(tmp_path):
    held = {"share": 0.2, "metric": "loss", "patience": 1}
    still = {"learning_rate": 1e-7, "schedule": {"name": "constant"}, "ema_decay": 0.0}
    best = children.run(
        tmp_path / "run", CPU, stages=[{"epochs": 30}, {"epochs": 2}], validation=held, optimizer={"name": "sgd"},
        **still,
    )  # fmt: skip
    first = checkpoints.read(tmp_path / "run" / "stage_1_whole" / "last.ckpt")
    took = provenance.from_checkpoint(first)
    assert took["epochs"] == len(rows(tmp_path / "run" / "stage_1_whole")) < 30
    whole = provenance.from_checkpoint(checkpoints.read(best))
    assert took["epochs"] < whole["epochs"] <= took["epochs"] + 2
    assert whole["hours"] > took["hours"]


@pytest.mark.parametrize("outliers", [0.0, 0.2])
def test_validation_loss_is_independent_of_process_count(outliers, monkeypatch):
    """What fills up the last batch of a process that has a clip less counts nowhere."""
    recipe = config.build(Recipe, {**TINY, "outliers": outliers})
    torch.manual_seed(0)
    module = RecognitionModule(recipe.as_dict(), ["rests", "waves"]).eval()
    samples = Samples(skeletons(), module.network.input_specs, recipe.window(module.network), recipe, None)
    strategy = SimpleNamespace(reduce=lambda figures, reduce_op: figures)
    monkeypatch.setattr(RecognitionModule, "trainer", property(lambda self: SimpleNamespace(strategy=strategy)))

    def figures(batches):
        found = {}
        monkeypatch.setattr(module, "log_dict", lambda values, **_: found.update(values))
        module.on_validation_epoch_start()
        with torch.no_grad():
            for batch in batches:
                module.validation_step(default_collate([samples[index] for index in batch]), 0)
        module.on_validation_epoch_end()
        return found

    assert figures([[0, 1, 2, 3, 4]]) == pytest.approx(figures([[0, 2, 4], [1, 3, PAD], [PAD, PAD]]), rel=1e-5)


def test_monitor_logs_learning_rate_of_step(tmp_path):
    schedule = {"name": "steps", "every": 2, "factor": 0.1}
    children.run(tmp_path / "run", CPU, epochs=4, learning_rate=0.01, schedule=schedule)
    rates = [float(row["learning_rate"]) for row in rows(tmp_path / "run")]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001])


def test_translate_errors_ended_process_is_reported(tmp_path):
    with pytest.raises(DeviceError, match="another process of this run ended, see its own line; the same command"):
        with translate_errors(tmp_path):
            raise RuntimeError("[…/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4711")


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"name": "joint"}, "stage 'joint' is none of sem_net's; it is trained in one go"),
        ({"batch": 4096}, "a batch of 4096 clips is more than the training part's"),
        ({"model": "spa_net_3p1d", "options": {"bodies": 1}}, "stage spa_net_3p1d holds weights of spa_net_3p1d; sem"),
    ],
)
def test_train_unsuited_later_stage_refused_first(stage, message, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "create", lambda name, root, **options: skeletons())
    stages = [{"epochs": 1}, {"epochs": 1, **stage}, {"epochs": 1}]
    with pytest.raises(ConfigError, match=message):
        children.run(tmp_path / "run", Machine(accelerator="cpu"), stages=stages)
    assert not list((tmp_path / "run").rglob("*.ckpt"))


@pytest.mark.parametrize("modalities", [["body"], ["body", "hands", "face"]])
def test_optional_streams_missing_warned_once(modalities, caplog):
    options = {"modalities": modalities}
    stages = [{"epochs": 1}, {"epochs": 1, "learning_rate": 1e-4}, {"epochs": 1}]
    recipe = config.build(Recipe, {**TINY, "model": "deepacts_graph", "options": options, "stages": stages})
    run = TrainingRun(recipe, skeletons(), False, False, Machine(accelerator="cpu"), [])
    run.check_stages(recipe, run.module(recipe))
    told = "deepacts_graph also takes face, hands, which not every clip of dataset 'made_up' has"
    assert [record.getMessage().startswith(told) for record in caplog.records] == [True] * (len(modalities) > 1)


OTHER = {"model": "sem_net", "options": dict(TINY["options"]), "window_s": 1.0, "epochs": 1}


@pytest.mark.parametrize(
    ("other", "said"),
    [("recipe", "another seed"), ("data", "another data"), ("init", "began from random weights, not")],
)
def test_train_folder_of_other_run_refused_first(other, said, clips, tmp_path, monkeypatch):
    out, stages = tmp_path / "run", [{"epochs": 1}, OTHER, {"epochs": 1}]
    children.run(out, CPU, stages=stages, **({"seed": 2} if other == "recipe" else {}))
    shutil.rmtree(out / "stage_1_whole")
    init = [out / "last.ckpt"] if other == "init" else []
    if other == "data":
        monkeypatch.setattr(datasets, "create", lambda name, root, **options: skeletons(24))
    with pytest.raises(ConfigError, match=said):
        children.run(out, CPU, init=init, stages=stages)
    assert not (out / "stage_1_whole").exists()


def test_train_fresh_keeps_initial_weights(clips, tmp_path):
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
