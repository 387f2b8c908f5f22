"""`actrec bench training`, `rendered` and `teach`."""

import json
import warnings

import numpy as np
import pytest

pytest.importorskip("torch", reason="the networks need PyTorch: make venv")

from actrec import datasets, inference
from actrec.cli import main
from actrec.inference import zoo
from actrec.utils.errors import ActrecError, ConfigError, DeviceError
from actrec_models import networks
from actrec_models.data.rendered import RenderedRgbd
from actrec_models.networks import create
from actrec_models.training import recipe
from benchmarks import short_trainings, training

SMALL_ATTENTION = "c3d_flow_at1:width=4;size=32;fc=32"


FAMILIES = {
    "res_tcn_bjcn", "c3d_flow", "c3d_flow_at1", "c3d_flow_at2", "flow_skeleton", "p_i3d", "vpn_i3d", "vpn_resnext101",
    "deepacts_cnn", "deepacts", "deepacts_multi",
}  # fmt: skip
ROW = {
    "network": "p_i3d", "inputs": "body_crop, pose", "parameters": 12345, "epochs": 9, "chance": 0.125,
    "held_out_actors": 0.75, "test_clips": 144, "minutes": 2.5,
}  # fmt: skip
CLIPS = 4


@pytest.mark.slow
def test_training_small_network_is_measured(capsys):
    command = ["bench", "training", "--networks", SMALL_ATTENTION, "--device", "cpu", "--seconds", "0.2"]
    assert main([*command, "--threads", "1", "--batch", "2", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["networks"]
    assert (row["network"], row["batch"], row["recipe_batch"], row["workers"]) == (SMALL_ATTENTION, 2, 60, 0)
    assert row["clips_per_s"] > 0 < row["clips_per_s_with_reading"] < row["read_by_a_core"] * 10


def test_training_recipe_of_joints_is_measured_in_batches_and_clip_by_clip():
    found = training.row("joint_tcn_utd_mhad:width=4", "cpu", 1, 0, 2, 0.05)
    names = ("clips_per_s_with_reading", "clips_per_s_with_reading_clip_by_clip")
    assert all(found[name] > 0 for name in names) and found["recipe_batch"] == 64


def tables_on_gpu():
    tables = {}
    for step in training.measure_on_gpu(1.0):
        tables.setdefault(step.table, []).append(step.run())
        assert step.subject == tables[step.table][-1]["network"]
    return tables


def test_training_on_gpu_measures_each_network_and_one_compiled(monkeypatch):
    with pytest.raises(DeviceError, match="PyTorch finds no GPU"):
        tables_on_gpu()
    monkeypatch.setattr(training.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(training, "row", lambda entry, *_, compiled=False: {"network": entry, "compiled": compiled})
    tables = tables_on_gpu()
    assert tables["training"] == [{"network": entry, "compiled": False} for entry in training.ON_GPU]
    assert tables["training_compiled"] == [{"network": training.ON_GPU[0], "compiled": True}]


def test_training_on_a_small_gpu_keeps_the_networks_that_fit(monkeypatch):
    def too_large(entry, *_, compiled=False):
        if entry == training.ON_GPU[1]:
            raise training.torch.OutOfMemoryError("CUDA out of memory.\nlong advice")
        return {"network": entry}

    monkeypatch.setattr(training.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(training, "row", too_large)
    rows = tables_on_gpu()["training"]
    assert rows[1] == {"network": training.ON_GPU[1], "error": "CUDA out of memory."} and len(rows) == len(
        training.ON_GPU
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--networks", "sem_nett"], "unknown network 'sem_nett'"),
        (["--networks", "sem_net:frames"], "expected KEY=VALUE"),
    ],
)
def test_training_wrong_network_raises_config_error_before_it_measures(arguments, message, monkeypatch):
    monkeypatch.setattr(training, "in_process", lambda *_: pytest.fail("measured"))
    with pytest.raises(ConfigError, match=message):
        training.measure(arguments)


def test_recipe_of_any_network_is_single_stage_of_its_paper():
    for name in networks.list_models():
        chosen = training.recipe_of(name)
        assert chosen.model == name
        assert not chosen.stages
        assert chosen.options.get("bodies") == (2 if name.startswith("deepacts") else None)  # NTU's mutual actions


def test_rendered_recipes_cover_every_image_and_flow_network():
    paths = sorted((short_trainings.RECIPES / "rendered").glob("*.yaml"))
    assert {path.stem for path in paths} == FAMILIES
    for path in paths:
        read = recipe.read(path)
        assert (read.model, read.dataset, read.split) == (path.stem, "rendered", "cross_actor")
        network = create(read.model, num_classes=8, **read.network_options())
        for stage in read.plan():
            assert not stage.name or stage.name in network.stages
        assert "nothing about people" in path.read_text()


def test_rendered_prepares_once_and_trains_each_network(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(short_trainings, "_actrec", lambda *words: commands.append(words))
    monkeypatch.setattr(short_trainings, "_row", lambda path, *rest: {**ROW, "network": path.stem})
    (tmp_path / "recipes").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"recipes/{name}.yaml").write_text("model: p_i3d")
    paths = ["--recipes", str(tmp_path / "recipes"), "--out", str(tmp_path / "out")]
    figures = short_trainings.rendered([*paths, "--option", "takes=1"])
    assert [row["network"] for row in figures["networks"]] == ["a", "b"]
    assert figures["caveat"] == RenderedRgbd.caveat
    assert [words[:2] for words in commands] == [("prepare", "rendered")]
    assert commands[0][-2:] == ("--option", "takes=1")


def test_rendered_wrong_networks_raise_config_error_before_rendering(tmp_path, monkeypatch):
    monkeypatch.setattr(short_trainings, "_actrec", lambda *words: pytest.fail("ran"))
    with pytest.raises(ConfigError, match="no recipe lstm in .*c3d_flow_at1"):
        short_trainings.rendered(["--recipes", str(short_trainings.RECIPES / "rendered"), "--networks", "p_i3d,lstm"])
    with pytest.raises(ConfigError, match="there are: none"):
        short_trainings.rendered(["--recipes", str(tmp_path)])


def test_actrec_failed_command_raises_actrec_error():
    with pytest.raises(ActrecError, match="actrec prepare no_such_dataset failed"):
        short_trainings._actrec("prepare", "no_such_dataset", "--quiet")


@pytest.fixture(scope="module")
def clips(data_root):
    """Clips of three of N-UCLA's actions, the last two under names that no package has."""
    held = datasets.create("nucla", str(data_root / "nucla"), part="test")
    new = dict(zip(held.classes[1:3], ("bowling", "boxing"), strict=True))
    chosen = [int(i) for label in range(3) for i in np.flatnonzero(held.labels == label)[:CLIPS]]
    return datasets.ClipDataset([held[i] for i in chosen], [new.get(name, name) for name in held.classes], held.layout)


def test_scores_unknown_shown_actions_are_reported_separately(clips):
    session = inference.load(zoo.find("deepacts_graph_nucla").path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of the mean of nothing
        none, bowling = (short_trainings.scores(session, clips, shown) for shown in ((), ["bowling"]))
    assert none["accuracy"] > 0.5 and none["test_clips"] == CLIPS
    assert "of these rejected" not in none and 0 <= bowling["of these rejected"] <= 1
    assert bowling["others shown as unknown"] == bowling["other_clips"] == CLIPS
    assert none["other_clips"] == 2 * CLIPS
