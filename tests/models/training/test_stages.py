"""Stages of a training: settings, initial weights, logged figures, and errors before the first stage."""

import csv
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import default_collate

from actrec import datasets
from actrec.utils import config
from actrec.utils.errors import ConfigError, DeviceError, PackageError
from actrec_models.data.samplers import PAD
from actrec_models.data.samples import Samples
from actrec_models.networks import create
from actrec_models.training import checkpoints, initial_weights, provenance, trainer
from actrec_models.training.checkpoints import translate_errors
from actrec_models.training.module import RecognitionModule
from actrec_models.training.recipe import Recipe
from actrec_models.training.trainer import Machine, TrainingRun
from tests.models.made_up import TINY, skeletons
from tests.models.small import SMALL
from tests.models.training import children

CPU = Machine(accelerator="cpu")


@pytest.fixture(autouse=True)
def clips(monkeypatch):
    monkeypatch.setattr(datasets, "create", lambda name, root, **options: skeletons())


def read_metrics(folder):
    newest = sorted(folder.glob("log/version_*/metrics.csv"))[-1]
    return list(csv.DictReader(newest.read_text().splitlines()))


def test_stage_unset_fields_default_to_recipe():
    stages = [{"epochs": 3}, {"learning_rate": 0.5}, {}]
    recipe = config.build(Recipe, {**TINY, "epochs": 7, "learning_rate": 0.25, "stages": stages})
    assert [(stage.epochs, stage.learning_rate) for stage in recipe.plan()] == [(3, 0.25), (7, 0.5), (7, 0.25)]


@pytest.mark.parametrize("learning_rate_in_stage", [True, False])
def test_train_recipe_field_overridden_by_every_stage_warned(learning_rate_in_stage, tmp_path, caplog):
    rate = {"learning_rate": 1e-3} if learning_rate_in_stage else {}
    children.run(tmp_path / "run", CPU, stages=[{"epochs": 1, **rate}, {"epochs": 1}], epochs=1, learning_rate=0.02)
    messages = [record.getMessage() for record in caplog.records if "does nothing" in record.getMessage()]
    assert messages == ["epochs does nothing: each of the stages has its own"]  # the second stage uses the rate


@pytest.mark.parametrize(("stages", "warnings"), [([], 1), ([{"augment": True}], 0)])
def test_train_augmentation_without_effect_warned(stages, warnings, caplog):
    settings = {"augment": False, "augmentation": {"tilt_deg": 30}, "stages": stages}
    trainer._warn_unused(config.build(Recipe, {**TINY, **settings}))
    assert caplog.text.count("augmentation does nothing: augment is false") == warnings


@pytest.mark.parametrize(("smoothing", "warnings"), [(0.1, 0), (0.0, 0), (0.3, 1)])
def test_label_smoothing_without_effect_warned(smoothing, warnings, caplog):
    recipe = config.build(Recipe, {**TINY, "label_smoothing": smoothing})
    run = TrainingRun(recipe, skeletons(), False, False, CPU, [])
    run.check_stages(recipe, run.module(recipe))
    assert len([r for r in caplog.records if "label_smoothing does nothing: sem_net has" in r.getMessage()]) == warnings


def test_stage_starts_from_initial_weights_of_its_network(tmp_path, monkeypatch, caplog):
    pretrained = children.run(tmp_path / "alone", CPU, epochs=1)
    initial = {}
    start = RecognitionModule.on_train_batch_start

    def record_weights(self, batch, index):
        initial.setdefault(self.recipe.model, {k: v.detach().clone() for k, v in self.network.state_dict().items()})
        start(self, batch, index)

    monkeypatch.setattr(RecognitionModule, "on_train_batch_start", record_weights)
    sem = {name: value for name, value in TINY["options"].items() if name not in ("bodies", "frames")}
    spa = {"width": 8, "widths": [1, 2], "depths": [1, 1], "kernel": 3}
    options = {"bodies": 1, "frames": 8, "spa_frames": 8, "streams": "joint", "sem_options": sem, "spa_options": spa}
    stages = [{"model": "sem_net", "options": TINY["options"], "epochs": 1}, {"epochs": 1}]
    with caplog.at_level(logging.INFO):
        children.run(tmp_path / "both", CPU, [pretrained], model="sem_spa", options=options, stages=stages, seed=2)
    expected = checkpoints.read(pretrained)["state_dict"]
    weights = [name for name, value in initial["sem_net"].items() if value.ndim > 1]
    assert weights and all(torch.equal(initial["sem_net"][name], expected[f"network.{name}"]) for name in weights)


def test_stage_of_another_network_starts_from_earlier_stages(tmp_path, monkeypatch):
    starts = []
    begin = RecognitionModule.on_train_batch_start

    def record_weights(self, batch, index):
        if not self.global_step:
            starts.append({k: v.detach().clone() for k, v in self.network.state_dict().items()})
        begin(self, batch, index)

    monkeypatch.setattr(RecognitionModule, "on_train_batch_start", record_weights)
    stages = [OTHER, OTHER, {"epochs": 1}]
    children.run(tmp_path / "run", CPU, stages=stages, options={**TINY["options"], "channels": [4, 8]})
    for start, number in zip(starts[1:], (1, 2), strict=True):
        before = checkpoints.read(tmp_path / f"run/stage_{number}_sem_net/last.ckpt")["state_dict"]
        assert all(torch.equal(value, before[f"network.{name}"]) for name, value in start.items())


def test_network_hands_on_trained_parts_to_a_stage_that_fills_them():
    """As `rendered/flow_skeleton.yaml` trains the skeleton model first; `c3d.*` are of public initial weights."""
    whole, skeleton_model, flow = (
        create(name, num_classes=3, **options)
        for name, options in (
            ("flow_skeleton", SMALL["flow_skeleton"]),
            ("res_tcn_bjcn", {"width": 8, "frames": 144, "step": 3}),
            ("c3d_flow_at2", {**SMALL["c3d_flow_at2"], "skeleton": "frozen"}),
        )
    )
    file = initial_weights.WeightFile(Path("stage_1"), skeleton_model.state_dict(), "res_tcn_bjcn", 3)
    filled = set(initial_weights.load(whole, "flow_skeleton", file).loaded)
    filled |= {name for name in whole.state_dict() if name.startswith("c3d.conv1")}
    random = {name: value.clone() for name, value in flow.state_dict().items()}
    initial_weights.hand_on(whole, "flow_skeleton", filled, flow, "c3d_flow_at2")
    ours = whole.state_dict()
    handed = {name for name, value in flow.state_dict().items() if name in ours and torch.equal(value, ours[name])}
    assert {name for name in random if name.startswith(("skeleton.", "c3d.conv1"))} <= handed
    kept = {name for name, value in random.items() if torch.equal(value, flow.state_dict()[name])}
    assert {name for name, value in random.items() if name.startswith("c3d.conv2") and value.ndim > 1} <= kept


def test_checkpoint_of_a_stage_that_trains_a_part_is_no_model(tmp_path):
    path = children.run(tmp_path / "run", CPU, epochs=1)
    content = checkpoints.read(path)
    content["actrec"]["part"] = "visual"
    torch.save(content, tmp_path / "part.ckpt")
    with pytest.raises(PackageError, match="is of stage visual, which trains this part of the network alone"):
        checkpoints.open_checkpoint(tmp_path / "part.ckpt")
    assert initial_weights.read(tmp_path / "part.ckpt").network == "sem_net"


def test_early_stopping_stage_counts_own_epochs(tmp_path):
    validation = {"share": 0.2, "metric": "loss", "patience": 1}
    constant = {"learning_rate": 1e-7, "schedule": {"name": "constant"}, "ema_decay": 0.0}
    best = children.run(
        tmp_path / "run", CPU, stages=[{"epochs": 30}, {"epochs": 2}], validation=validation, optimizer={"name": "sgd"},
        **constant,
    )  # fmt: skip
    first = checkpoints.read(tmp_path / "run" / "stage_1_whole" / "last.ckpt")
    first_stage = provenance.from_checkpoint(first)
    assert first_stage["epochs"] == len(read_metrics(tmp_path / "run" / "stage_1_whole")) < 30
    both_stages = provenance.from_checkpoint(checkpoints.read(best))
    assert first_stage["epochs"] < both_stages["epochs"] <= first_stage["epochs"] + 2
    assert both_stages["hours"] > first_stage["hours"]


@pytest.mark.parametrize("outliers", [0.0, 0.2])
def test_validation_loss_is_independent_of_process_count(outliers, monkeypatch):
    """Padding in a process's last batch does not change the loss."""
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
    rates = [float(row["learning_rate"]) for row in read_metrics(tmp_path / "run")]
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
    message = "deepacts_graph also takes face, hands, which not every clip of dataset 'made_up' has"
    lines = [record.getMessage() for record in caplog.records]
    assert [line.startswith(message) for line in lines if "augmentation" not in line] == [True] * (len(modalities) > 1)
    unused = "augmentation: before does nothing: deepacts_graph takes more than bodies, which cut, hold_s, speed varies"
    assert [line for line in lines if "augmentation" in line] == [unused] * (len(modalities) > 1)


OTHER = {"model": "sem_net", "options": dict(TINY["options"]), "window_s": 1.0, "epochs": 1}


@pytest.mark.parametrize(
    ("other", "message"),
    [("recipe", "another seed"), ("data", "another data"), ("init", "began from random weights, not")],
)
def test_train_folder_of_other_run_refused_first(other, message, clips, tmp_path, monkeypatch):
    out, stages = tmp_path / "run", [{"epochs": 1}, OTHER, {"epochs": 1}]
    children.run(out, CPU, stages=stages, **({"seed": 2} if other == "recipe" else {}))
    shutil.rmtree(out / "stage_1_whole")
    init = [out / "last.ckpt"] if other == "init" else []
    if other == "data":
        monkeypatch.setattr(datasets, "create", lambda name, root, **options: skeletons(24))
    with pytest.raises(ConfigError, match=message):
        children.run(out, CPU, init=init, stages=stages)
    assert not (out / "stage_1_whole").exists()


def test_train_fresh_keeps_initial_weights(clips, tmp_path):
    """`--fresh` also keeps other runs in subfolders, whatever their name."""
    out, stages = tmp_path / "run", [{"epochs": 1}, OTHER, {"epochs": 1}]
    children.run(out / "stage_1", CPU, epochs=1)
    path = children.run(out, CPU, stages=stages)
    existing = sorted(out.rglob("*.ckpt"))
    changed = config.build(Recipe, {**TINY, "stages": stages, "seed": 2})
    fresh = {"progress": False, "threads": 1, "machine": CPU, "resume": False}
    for file in (path, out / "stage_1_whole/../stage_2_sem_net/last.ckpt"):
        with pytest.raises(ConfigError, match=f"--fresh would delete {file}, which --init names: choose another --out"):
            trainer.train(changed, "", out, init=[file], **fresh)
    assert sorted(out.rglob("*.ckpt")) == existing
    trainer.train(changed, "", out, init=[out / "stage_1/last.ckpt"], **fresh)
    assert (out / "stage_1/last.ckpt").is_file()
