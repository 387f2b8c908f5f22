"""Recipes: files, names, all shipped ones, optimizers and schedules."""

import argparse
import dataclasses
import json
import shlex
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from torch import nn

import actrec_models.networks
from actrec import features
from actrec.cli import prepare
from actrec.datasets import DATASETS
from actrec.datasets.base import Clip, ClipDataset
from actrec.features.clips import example_clip
from actrec.types import NANOSECONDS
from actrec.utils import config, folders
from actrec.utils.errors import ConfigError, PackageError
from actrec_models.data.estimation import PrepareConfig
from actrec_models.data.samplers import Validation
from actrec_models.data.samples import Samples
from actrec_models.training import checkpoints, paper_tables, recipe
from actrec_models.training.module import may_be_fused
from actrec_models.training.recipe import PRECISIONS, Optimizer, Recipe, Schedule, unused
from tests.models.made_up import skeletons

FOLDER = Path(__file__).parents[3] / "models/recipes"


@pytest.mark.parametrize("name", ["papers/vpn_ntu60", "papers/vpn_ntu60.yaml", "models/recipes/papers/vpn_ntu60.yaml"])
def test_find_recipe_by_name_in_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe.find(name) == FOLDER / "papers/vpn_ntu60.yaml"
    assert recipe.read(name).model == "vpn_i3d"


def test_find_recipe_file_before_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sem_net_nucla").write_text("model: sem_net")
    assert recipe.find("sem_net_nucla") == Path("sem_net_nucla")
    Path("sem_net_shrec17").mkdir()
    assert recipe.find("sem_net_shrec17") == FOLDER / "sem_net_shrec17.yaml"


def test_recipe_names_lists_every_file():
    paths = {path.relative_to(FOLDER).with_suffix("").as_posix() for path in SHIPPED}
    assert set(recipe.shipped()) == paths
    assert {recipe.find(name) for name in paths} == set(SHIPPED)


def test_find_recipe_in_installation(tmp_path, monkeypatch):
    shutil.copytree(FOLDER, tmp_path / "share/actrec/models/recipes")
    monkeypatch.setattr(folders, "__file__", str(tmp_path / "site-packages/actrec/folders.py"))
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    assert recipe.find("sem_net_nucla") == tmp_path / "share/actrec/models/recipes/sem_net_nucla.yaml"
    shutil.rmtree(tmp_path / "share")
    with pytest.raises(ConfigError, match="known: none"):
        recipe.find("sem_net_nucla")


@pytest.mark.parametrize(
    ("name", "message"),
    [("vpn_ntu60", "did you mean papers/vpn_ntu60"), ("x", "known: deepacts_cnn_nucla, "), (".", "recipe '.'")],
)
def test_find_recipe_unknown_name_lists_known(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        recipe.read(name)


SIZES = ("frames", "bodies", "poses", "pose_frames", "hidden", "lambda_1")
SHIPPED = sorted(path for path in FOLDER.rglob("*.yaml") if path != FOLDER / paper_tables.FILE)


@cache
def network_of(model, options):
    """Create a network of full size on the meta device."""
    with torch.device("meta"):
        return actrec_models.networks.create(model, num_classes=10, **json.loads(options))


def check_recipe(settings):
    """Build all parts of a recipe."""
    source = DATASETS.get(settings.dataset)
    assert settings.split in source.splits
    for stage in settings.plan():
        own = settings.for_stage(stage)
        network = network_of(own.model, json.dumps(own.network_options(), sort_keys=True))
        if stage.name:
            network.stage(stage.name)
        assert own.window(network).clip_frames == network.window.clip_frames
        assert features.streams(network.input_specs)
        if source.layout == "hand_22":
            assert {spec.layout for spec in network.input_specs} == {"hand_22"}
        optimizer_settings, schedule, sampling, validation = own.components()
        assert unused(optimizer_settings) == unused(schedule) == [], "all settings have an effect"
        optimizer = optimizer_settings.make(network.parameters(), own.learning_rate, own.weight_decay)
        schedule.make(optimizer, own.learning_rate, 1000, own.epochs)
        assert own.batch % 4 == 0, "the batch divides among four GPUs"
        assert sampling.repeats >= 1
        assert validation.share < 0.5


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(FOLDER)))
def test_recipe_every_shipped_one_can_be_trained(path):
    check_recipe(recipe.read(path))


RENDERED_EVERYDAY = [path for path in SHIPPED if path.parent.name == "rendered_everyday"]


@pytest.mark.parametrize("path", RENDERED_EVERYDAY, ids=lambda path: path.stem)
def test_recipe_rendered_everyday_takes_the_store_of_its_command(path):
    settings = recipe.read(path)
    parser = argparse.ArgumentParser()
    prepare.add_arguments(parser)
    args = parser.parse_args(shlex.split(settings.commands[0])[2:])
    named = {"streams": prepare.names(args.streams), "estimate": prepare.names(args.estimate)}
    store = config.build(PrepareConfig, config.merge_settings(named, config.parse_pairs(args.set, "setting")))
    store.check()
    assert args.dataset == settings.dataset == "rendered_everyday"
    assert config.parse_pairs(args.option, "option") == settings.dataset_options
    for own in map(settings.for_stage, settings.plan()):
        network = network_of(own.model, json.dumps(own.network_options(), sort_keys=True))
        assert set(features.streams(network.input_specs)) <= set(store.kept)
        takes_flow = "flow" in features.streams(network.input_specs)
        assert not takes_flow or (settings.scene_flow.items() <= store.flow.items() and settings.scene_flow)
        assert f"runs/rendered_everyday/{path.stem}" in settings.commands[-1]


@pytest.mark.slow
def test_recipe_table_rows_can_be_trained():
    read, checked = set(), set()
    for table in paper_tables.tables().values():
        for row in table.experiments():
            if (key := (row.recipe, json.dumps(row.changes, sort_keys=True))) in read:
                continue
            read.add(key)
            settings = recipe.read(row.name)
            assert settings.split in DATASETS.get(settings.dataset).splits
            # Networks of other datasets differ by sizes alone.
            own = {name: value for name, value in settings.options.items() if name not in SIZES}
            if (key := (settings.model, json.dumps(own, sort_keys=True))) not in checked:
                checked.add(key)
                check_recipe(settings)
    assert len(read) > 150 and len(checked) > 40


NTU = [
    *((path.stem, {}) for path in SHIPPED if path.parent.name == "papers" and "ntu" in path.stem),
    *(("deepacts_ntu60", {"model": f"deepacts_{name}"}) for name in ("multi", "graph", "cnn")),
    ("deepacts_ntu120", {"options": {"bodies": 2, "modalities": ["body"]}}),
    ("sem_net_ntu60", {"options": {"streams": "joint", "dropout": 0.1}}),
    ("spa_net_ntu120", {"model": "spa_net_3p1d"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "changes"), NTU)
def test_recipe_ntu_mutual_actions_give_inputs(name, changes):
    """Clips of NTU RGB+D have up to two people; image inputs show the first one."""
    settings = recipe.read(FOLDER / f"papers/{name}.yaml", changes)
    for stage in settings.plan():
        own = settings.for_stage(stage)
        network = network_of(own.model, json.dumps(own.network_options(), sort_keys=True))
        samples = [Samples(clips, network.input_specs, own.window(network), own, None)[0] for clips in mutual(network)]
        assert {spec.name: samples[0][spec.name].shape for spec in network.input_specs} == {
            spec.name: spec.shape for spec in network.input_specs
        }
        changed = [spec.name for spec in network.input_specs if (samples[0][spec.name] != samples[1][spec.name]).any()]
        assert bool(changed) == (getattr(network.config, "bodies", 1) == 2 and own.model != "c3d_flow_at1")


def mutual(network):
    """Return two datasets of one clip with two people; the second person's motion differs."""
    stamps = (np.arange(24) / 12 * NANOSECONDS).astype(np.int64)
    streams = example_clip(network.input_specs, 24, 2)
    bodies = streams.pop("bodies")
    changed = bodies.copy()
    changed[1] += 0.3 * np.sin(np.arange(24, dtype=np.float32))[:, None, None]
    return [ClipDataset([Clip("mutual", 0, stamps, positions, streams)], ["a", "b"]) for positions in (bodies, changed)]


def test_recipe_gestures_are_stretched():
    settings = recipe.read(FOLDER / "papers/sem_spa_shrec17.yaml")
    for stage in map(settings.for_stage, settings.plan()):
        assert (stage.clips, stage.check().stretched) == ("stretched", 1.0)


def test_recipe_exists_for_every_paper_and_dataset():
    of_papers = [path for path in SHIPPED if path.parent.name == "papers"]
    found = {(r.model, r.dataset) for r in map(recipe.read, of_papers)}
    families = {
        "deepacts": ("ntu60", "ntu120", "sysu"), "res_tcn_bjcn": ("ntu60",), "c3d_flow": ("ntu60",),
        "c3d_flow_at1": ("ntu60",), "c3d_flow_at2": ("ntu60",), "flow_skeleton": ("ntu60",),
        "p_i3d": ("ntu60", "nucla"),
        "sem_net": ("ntu60", "ntu120"), "spa_net_4d": ("ntu60", "ntu120"), "sem_spa": ("ntu60", "ntu120", "shrec17_28"),
        "vpn_i3d": ("ntu60", "ntu120", "smarthome", "nucla"),
    }  # fmt: skip
    assert found == {(model, dataset) for model, datasets in families.items() for dataset in datasets}
    rows = {each.changes.get("model") for table in paper_tables.tables().values() for each in table.experiments()}
    assert set(families) | rows - {None} | {"joint_tcn"} == set(actrec_models.networks.list_models())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"optimizer": {"name": "lion"}}, "Optimizer.name is 'lion', allowed: adamw, adam, sgd"),
        ({"optimizer": {"beta": 1}}, "unknown option beta of Optimizer; known: beta_2"),
        ({"optimizer": {"nesterov": True}}, "nesterov needs sgd"),
        ({"optimizer": {"name": "sgd", "nesterov": True, "momentum": 0.0}}, "nesterov needs sgd with a momentum"),
        ({"schedule": {"name": "steps"}}, "Schedule steps counts epochs: set `every`, or milestones"),
        ({"schedule": {"name": "exponential", "milestones": [3]}}, "milestones belong to steps, not to exponential"),
        ({"schedule": {"name": "steps", "milestones": [9, 3]}}, "expected rising numbers of epochs"),
        ({"schedule": {"name": "steps", "milestones": ["three"]}}, "expected rising numbers of epochs"),
        ({"stages": [{"optimizer": {"name": "lion"}}]}, "Optimizer.name is 'lion'"),
        ({"stages": [{"schedule": {"every": -1}}]}, "Schedule.every is -1, allowed"),
        ({"stages": [{"model": "sem_net"}]}, "the last stage trains sem_net, but the recipe is for deepacts_graph"),
        ({"stages": [{"options": {"width": 4}}]}, "stage 'whole' has options or window_s but no model"),
        ({"stages": [{"name": "joint", "window_s": 2.0}]}, "stage 'joint' has options or window_s but no model"),
        ({"stages": [3]}, "each entry of stages must be a mapping"),
        ({"batch": 10, "accumulate": 4}, "a batch of 10 clips does not divide into 4 parts"),
        ({"validation": {"share": 0.9}}, "Validation.share is 0.9, allowed: 0.0 to 0.5"),
        ({"validation": {"patience": 3, "by": "subject"}}, "validation has by, patience but holds nothing out"),
        ({"validation": {"only": [3]}}, "validation holds out 3 .only.: set by, and no share"),
        ({"validation": {"only": [3], "by": "subject", "share": 0.2}}, "set by, and no share"),
        ({"dataset_options": {"root": "x"}}, "dataset_options cannot set 'root', which has an option of its own"),
        ({"dataset_options": {"part": "test"}}, "dataset_options cannot set 'part'"),
        ({"options": {"num_classes": 4}}, "options cannot set 'num_classes'"),
        ({"frames": 48, "options": {"frames": 32}}, "frames is 48, but options.frames is 32"),
        ({"options": {1: 1}}, "options has the name 1, expected a string"),
        ({"stages": [{"augmentation": {"sped": 1.2}}]}, "unknown option sped of Augmentation"),
        ({"stages": [{"precision": "8-bit"}]}, "Stage.precision is '8-bit', allowed"),
        ({"learning_rate": "1e9"}, "Recipe.learning_rate is 1000000000.0, allowed"),
        ({"sampling": {"balance": "subjects"}}, "Sampling.balance is 'subjects', allowed: none, classes"),
        ({"gradient_clip": "large"}, "Recipe.gradient_clip is 'large', expected a number"),
        ({"seeds": 3}, "unknown option seeds of Recipe"),
        ({"unknown_dataset": "utdmhad"}, "unknown_dataset is 'utdmhad', expected '' or one of acted, bandai_namco"),
        ({"unknown_dataset": "shrec17_14"}, "unknown_dataset shrec17_14 has the layout hand_22"),
        ({"unknown_exclude": [3]}, "unknown_exclude is .3., expected labels"),
        ({"augmentation": {1: 2}}, "unknown option 1 of Augmentation"),
        ({"stages": [{True: 2}]}, "unknown option True of Stage"),
    ],
)
def test_read_recipe_contradicting_fields_refused(content, message, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=message) as raised:
        recipe.read(tmp_path / "recipe.yaml")
    assert "recipe.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_read_recipe_impossible_date_refused(tmp_path):
    (tmp_path / "recipe.yaml").write_text("command: 2024-13-45")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        recipe.read(tmp_path / "recipe.yaml")


def test_read_recipe_binary_refused(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00batch")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        recipe.read(tmp_path / "recipe.yaml")


def test_validation_holds_out_whole_subjects():
    clips = skeletons(50)
    training, held_out = Validation(share=0.2, by="subject").split(clips, seed=1)
    subjects = [{meta["subject"] for meta in part.metas} for part in (training, held_out)]
    assert subjects[0] | subjects[1] == set(range(5))
    assert not subjects[0] & subjects[1]
    assert held_out is not None and (len(training), len(held_out)) == (40, 10)
    assert [held_out[i].name for i in range(10)] == list(held_out.names)
    assert [held_out[i].label for i in range(10)] == list(held_out.labels)
    repeated = Validation(share=0.2, by="subject").split(clips, seed=1)[1]
    assert repeated.names == held_out.names
    single_clips = Validation(share=0.1).split(clips, seed=1)[1]
    assert 4 <= len(single_clips) <= 6
    assert Validation().split(clips, seed=1) == (clips, None)
    with pytest.raises(ConfigError, match=r"validation by 'view': the clips have subject"):
        Validation(share=0.2, by="view").split(clips, seed=1)
    subset = clips.subset(range(0, 50, 5))
    with pytest.raises(ConfigError, match="would hold out all 10 clips"):
        Validation(share=0.2, by="subject").split(subset, seed=1)


def test_validation_holds_out_rendered_copies_with_their_clips():
    copies = [dataclasses.replace(clip, label=0) for clip in skeletons()[:8]]
    clips = ClipDataset([*copies, *copies], ("a", "b"))
    training, held_out = Validation(share=0.3).split(clips, seed=1)
    assert held_out is not None and len(held_out) and not {*training.names} & {*held_out.names}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_optimizer_of_a_gpu_is_one_whose_gradients_lightning_clips(precision, clip):
    """A fused optimizer is refused in mixed precision, on a CPU too."""
    chosen = Recipe(model="sem_net", dataset="nucla", precision=precision, gradient_clip=clip)
    optimizer = chosen.components()[0].make([torch.nn.Parameter(torch.zeros(3))], 1e-3, 0.0, may_be_fused(chosen))
    plugin = Precision() if precision == "32-true" else MixedPrecision(precision, "cpu")
    plugin.clip_gradients(optimizer, clip)


def test_validation_holds_out_named_subjects():
    clips = skeletons(50)
    training, held_out = Validation(by="subject", only=(3, 1)).split(clips, seed=1)
    assert {meta["subject"] for meta in held_out.metas} == {1, 3}
    assert {meta["subject"] for meta in training.metas} == {0, 2, 4}
    assert (len(training), len(held_out)) == (30, 20)
    with pytest.raises(ConfigError, match=r"no clip has 7; there are 0, 1, 2, 3, 4"):
        Validation(by="subject", only=(3, 7)).split(clips, seed=1)
    with pytest.raises(ConfigError, match="would hold out all 50 clips"):
        Validation(by="subject", only=tuple(range(5))).split(clips, seed=1)


def test_for_stage_unset_fields_come_from_recipe():
    settings = config.build(
        Recipe, {"model": "flow_skeleton", "window_s": 3.0, "batch": 60, "stages": [
            {"model": "res_tcn_bjcn", "batch": 128, "epochs": 3}, {"weight_decay": 0.5, "learning_rate": 0.1}]},
    )  # fmt: skip
    first, second = (settings.for_stage(stage) for stage in settings.plan())
    assert (first.model, first.batch, first.window_s, first.epochs) == ("res_tcn_bjcn", 128, None, 3)
    assert (second.model, second.batch, second.weight_decay, second.learning_rate) == ("flow_skeleton", 60, 0.5, 0.1)
    assert settings.plan()[0].title == "res_tcn_bjcn"


@pytest.mark.parametrize("name", ["c3d_flow_at2", "flow_skeleton_frozen", "flow_skeleton_joint"])
def test_recipe_flow_skeleton_stage_equals_skeleton_recipe(name):
    skeleton = recipe.read(FOLDER / "papers" / "res_tcn_bjcn_ntu60.yaml")
    fused = recipe.read(FOLDER / "papers" / f"{name}_ntu60.yaml")
    first = fused.for_stage(fused.plan()[0])
    settings = ("model", "epochs", "batch", "learning_rate", "augment", "precision", "optimizer", "schedule",
                "validation", "weight_decay", "gradient_clip", "ema_decay", "window_s")  # fmt: skip
    assert {key: getattr(first, key) for key in settings} == {key: getattr(skeleton, key) for key in settings}
    second = fused.for_stage(fused.plan()[1])
    assert (second.augment, second.precision) == (True, "bf16-mixed")


def test_read_recipe_number_formats_accepted(tmp_path):
    (tmp_path / "recipe.yaml").write_text("learning_rate: 1e-3\nstages:\n  - {learning_rate: 2E-4}\nwindow_s: 1e+0\n")
    settings = recipe.read(tmp_path / "recipe.yaml", {"weight_decay": "5e-4"})
    assert (settings.learning_rate, settings.window_s, settings.weight_decay) == (1e-3, 1.0, 5e-4)
    assert settings.plan()[0].learning_rate == 2e-4


def test_read_checkpoint_unknown_recipe_field_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    parameters = {"recipe": {"model": "sem_net", "average_decay": 0.99}, "classes": ["a", "b"]}
    torch.save({"hyper_parameters": parameters, "state_dict": {}, "actrec": {}}, path)
    with pytest.raises(PackageError, match="average_decay.*--fresh"):
        checkpoints.read(path)


RATE, STEPS_PER_EPOCH = 0.01, 5


def rates(epochs, **options):
    """Return the learning rate at the start of each step."""
    schedule = config.build(Schedule, options)
    schedule.check()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=RATE)
    steps = epochs * STEPS_PER_EPOCH
    scheduler = schedule.make(optimizer, RATE, steps, epochs)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return np.array(found)


def test_schedule_steps_gives_papers_rates():
    vpn = rates(30, name="steps", factor=0.1, every=10)
    np.testing.assert_allclose(vpn, np.repeat([1e-2, 1e-3, 1e-4], 50))
    c3d = rates(12, name="steps", factor=0.2, every=4)
    np.testing.assert_allclose(c3d, np.repeat([1e-2, 2e-3, 4e-4], 20))
    milestones = rates(10, name="steps", milestones=[2, 7])
    np.testing.assert_allclose(milestones, np.repeat([1e-2, 1e-3, 1e-4], [10, 25, 15]))


def test_schedule_exponential_decays_by_factor():
    found = rates(30, name="exponential", factor=0.1, every=15)
    np.testing.assert_allclose(found[[0, 75]], [1e-2, 1e-3])
    np.testing.assert_allclose(found[1:] / found[:-1], 0.1 ** (1 / 75))


def test_schedule_cosine_rises_and_falls():
    found = rates(20, name="cosine", warm_up=0.1, final=0.2)
    assert found[0] < 0.2 * RATE
    assert (np.diff(found[:10]) > 0).all()
    assert (np.diff(found[11:]) < 0).all()
    assert found.max() == pytest.approx(RATE)
    assert found[-1] == pytest.approx(0.2 * RATE, rel=0.02)
    cosine = rates(20, name="cosine", warm_up=0.0)
    np.testing.assert_allclose(cosine, RATE * (1 + np.cos(np.pi * np.arange(100) / 100)) / 2, atol=1e-9)


def test_schedule_constant_and_one_cycle_give_expected_rates():
    assert (rates(3, name="constant") == RATE).all()
    cycle = rates(20, name="one_cycle")
    assert cycle.argmax() == pytest.approx(0.15 * 100, abs=1)
    assert cycle.max() == pytest.approx(RATE)
    assert cycle[-1] < 1e-4 * RATE


@pytest.mark.parametrize(("warm_up", "steps"), [(0.1, 10), (0.25, 4), (0.5, 2), (0.05, 20)])
def test_schedule_one_cycle_single_warm_up_step_works(warm_up, steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=RATE)
    schedule, rates_seen = Schedule(warm_up=warm_up).make(optimizer, RATE, steps, 1), []
    for _ in range(steps - 1):
        optimizer.step()
        schedule.step()
        rates_seen.append(optimizer.param_groups[0]["lr"])
    assert np.isfinite(rates_seen).all()
    assert max(rates_seen) <= RATE * (1 + 1e-6)


@pytest.mark.parametrize(
    ("name", "momentum", "low", "high"),
    [("adamw", 0.9, 0.85, 0.95), ("adam", 0.6, 0.55, 0.65), ("sgd", 0.5, 0.45, 0.55), ("sgd", 0.0, 0.0, 0.0)],
)
def test_schedule_one_cycle_varies_momentum(name, momentum, low, high):
    optimizer = Optimizer(name=name, momentum=momentum).make([nn.Parameter(torch.zeros(2))], RATE, 0.0)
    schedule, momenta = Schedule(warm_up=0.5).make(optimizer, RATE, 11, 1), []
    for _ in range(10):
        group = optimizer.param_groups[0]
        momenta.append(group["momentum"] if name == "sgd" else group["betas"][0])
        optimizer.step()
        schedule.step()
    assert (momenta[0], min(momenta), momenta[-1]) == pytest.approx((high, low, high), abs=0.02)
    assert max(momenta) == high


def test_schedule_plateau_waits_for_patience():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=RATE)
    plateau = Schedule(name="plateau", factor=0.1, patience=3).make(optimizer, RATE, 10, 1)
    rates_seen = []
    for loss in (1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.8):
        plateau.step(loss)
        rates_seen.append(optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates_seen, [RATE] * 5 + [RATE / 10] * 2)


@pytest.mark.parametrize(("name", "kind"), [("adamw", "AdamW"), ("adam", "Adam"), ("sgd", "SGD")])
def test_optimizer_decays_matrices_only(name, kind):
    layer = nn.Linear(3, 2)
    optimizer = Optimizer(name=name, momentum=0.8, nesterov=name == "sgd").make(layer.parameters(), RATE, 0.1)
    assert type(optimizer).__name__ == kind
    assert [(len(g["params"][0].shape), g["weight_decay"], g["lr"]) for g in optimizer.param_groups] == [
        (2, 0.1, RATE), (1, 0.0, RATE)]  # fmt: skip
    group = optimizer.param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (0.8, True) if name == "sgd" else group["betas"] == (0.8, 0.999)
    assert group["fused"] is None
    assert Optimizer(name=name).make(layer.parameters(), RATE, 0.1, fused=True).param_groups[0]["fused"] is True
    decay_all = Optimizer(name=name, decay_all=True).make(layer.parameters(), RATE, 0.1)
    assert [(len(g["params"]), g["weight_decay"]) for g in decay_all.param_groups] == [(2, 0.1)]


def test_optimizer_without_trained_parameters_refused():
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    assert [p.shape for g in Optimizer().make(layer.parameters(), RATE, 0.1).param_groups for p in g["params"]] == [
        (2, 3)
    ]
    layer.requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter of the network is trained"):
        Optimizer().make(layer.parameters(), RATE, 0.1)


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
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
def test_unused_lists_settings_without_effect(kind, options, expected):
    assert unused(config.build(kind, options)) == expected
