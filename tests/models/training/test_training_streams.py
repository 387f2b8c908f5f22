"""Training of networks with more inputs than bodies, on synthetic clips with images and flow."""

import csv
import dataclasses

import numpy as np
import pytest
import torch
import yaml

import actrec_models.networks
from actrec import datasets, inference
from actrec.cli import main
from actrec.datasets.base import Clip, ClipDataset
from actrec.features.clips import RATE_HZ, example_clip
from actrec.types import KEYS, NANOSECONDS
from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec_models.data import augmentation
from actrec_models.data.samples import Samples
from actrec_models.training import checkpoints, module, provenance, recipe, trainer
from actrec_models.training.callbacks import EpochCsvLogger
from actrec_models.training.recipe import Recipe
from tests.models.made_up import TINY, skeletons
from tests.models.small import SMALL

CLASSES = ("dark", "bright")
FRAMES = 24
STAMPS = (np.arange(FRAMES) / RATE_HZ * NANOSECONDS).astype(np.int64)


def make_clips(name, count):
    """Return clips with all streams of a network; the second class has brighter images and larger flow."""
    network = actrec_models.networks.create(name, num_classes=2, **SMALL[name])
    clips = []
    for n in range(count):
        clip = example_clip(network.input_specs, FRAMES, seed=n)
        label = n % 2
        if "color" in clip:
            clip["color"] = np.clip(clip["color"].astype(int) + 80 * label - 40, 0, 255).astype(np.uint8)
        if "flow" in clip:
            clip["flow"] = clip["flow"] + np.float32(0.5 * label)
        clips.append(Clip(f"clip{n}", label, STAMPS, clip.pop("bodies"), clip))
    return ClipDataset(clips, CLASSES)


@pytest.fixture
def dataset(monkeypatch):
    """Return a function that makes all datasets return given clips."""

    def use(clips):
        monkeypatch.setattr(datasets, "create", lambda name, root, **options: clips)

    return use


def write(path, name, **settings):
    content = {
        "model": name, "options": dict(SMALL[name]), "dataset": "nucla", "unknown_dataset": "", "epochs": 1,
        "batch": 4, "augmentation": {"before": 0.0}, **settings,
    }  # fmt: skip
    path.write_text(yaml.safe_dump({**content, "options": {k: _plain(v) for k, v in content["options"].items()}}))
    return path


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def metrics(folder):
    with open(folder / "log/version_0/metrics.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_samples_equal_live_windows():
    clip = make_clips("p_i3d", 1)[0]
    window = clip.sample(1.0, 15)
    assert set(window) == {"bodies", "pixels", "hands", "hand_pixels", "color", "size"} & (set(window) | {"bodies"})
    for key, value in window.items():
        axis = KEYS[key][0]
        assert axis is None or value.shape[axis] == 15, key
    np.testing.assert_array_equal(window["color"][-1], clip.streams["color"][-1])
    np.testing.assert_allclose(window["pixels"][:, -1], clip.streams["pixels"][:, -1], atol=1e-3)
    longer = clip.sample(10.0, 20)
    np.testing.assert_array_equal(longer["color"][0], clip.streams["color"][0])
    assert np.isfinite(longer["pixels"]).all(), "before the recording, its first frame repeats"


def test_dataset_streams_are_common_to_all_clips():
    clips = make_clips("p_i3d", 2)
    assert {"bodies", "color"} <= clips.streams
    joints_only = Clip("bare", 0, STAMPS, clips[0].bodies)
    assert ClipDataset([clips[0], joints_only], CLASSES).streams == {"bodies"}


def test_samples_streams_share_drawn_stamps():
    clip, options = make_clips("c3d_flow", 1)[0], augmentation.Augmentation()
    network = actrec_models.networks.create("c3d_flow", num_classes=2, **SMALL["c3d_flow"])
    settings = config.build(Recipe, {"model": "c3d_flow", "unknown_dataset": ""})
    samples = Samples(ClipDataset([clip], CLASSES), network.input_specs, network.window, settings, options)
    first, repeated = samples[0], samples[0, 0, 0]
    other_epoch = samples[1, 0, 0]
    assert first["label"] == 0
    for spec in network.input_specs:
        assert first[spec.name].shape == spec.shape
        np.testing.assert_array_equal(first[spec.name], repeated[spec.name])
    assert any((first[spec.name] != other_epoch[spec.name]).any() for spec in network.input_specs)


@pytest.mark.slow
def test_p_i3d_stages_train_and_resume(dataset, tmp_path, capsys):
    dataset(make_clips("p_i3d", 4))
    stages = [{"name": name, "epochs": 1, "learning_rate": 1e-3} for name in ("parts", "pose", "attention")]
    stages.append({"name": "joint", "epochs": 2, "learning_rate": 1e-3})
    path, out = write(tmp_path / "recipe.yaml", "p_i3d", stages=stages, recalibration_batches=1), tmp_path / "run"
    command = ["train", str(path), "--data", str(tmp_path), "--out", str(out), "--quiet", "--threads", "1"]
    assert main(command) == 0
    folders = [out / "stage_1_parts", out / "stage_2_pose", out / "stage_3_attention", out]
    contents = [torch.load(folder / "last.ckpt", weights_only=True) for folder in folders]
    assert [content["epoch"] for content in contents] == [0, 0, 0, 1]
    assert [content["actrec"].get("part") for content in contents] == ["parts", "pose", "attention", None]
    seconds = [content["actrec"]["seconds"] for content in contents]  # summed over the stages so far
    assert 0 < seconds[0] < seconds[1] < seconds[2] < seconds[3]
    assert all(float(row["loss"]) > 0 for folder in folders for row in metrics(folder) if row["loss"])
    states = [content["state_dict"] for content in contents]
    frozen = {  # parameters that a stage keeps: the parts in pose and attention, the LSTM in joint
        stage: [name for name in states[0] if name.startswith(f"network.{prefix}")]
        for stage, prefix in ((1, "parts."), (2, "parts."), (3, "pose."))
    }
    for stage, names in frozen.items():
        assert names
        for name in names:  # averaging equal weights rounds
            torch.testing.assert_close(states[stage][name], states[stage - 1][name], rtol=1e-5, atol=1e-7)
    changed = [name for name in states[0] if not torch.allclose(states[2][name], states[3][name], rtol=1e-3)]
    assert any(name.startswith("network.parts.") for name in changed)
    (out / "last.ckpt").unlink()
    assert main(command) == 0  # finished stages are skipped
    content = torch.load(out / "last.ckpt", weights_only=True)
    assert content["actrec"]["seconds"] > seconds[2]
    resumed = content["state_dict"]
    assert torch.load(folders[0] / "last.ckpt", weights_only=True)["epoch"] == 0
    assert set(resumed) == set(states[3])


def test_samples_contain_inputs_of_stage_only():
    network = actrec_models.networks.create("p_i3d", num_classes=2, **SMALL["p_i3d"])
    settings = config.build(Recipe, {"model": "p_i3d", "unknown_dataset": ""})
    arguments = (make_clips("p_i3d", 1), network.input_specs, network.window, settings, augmentation.Augmentation())
    full, crops = Samples(*arguments)[2, 0, 0], set(network.parts)
    for stage, names in {"parts": crops, "pose": {"pose"}, "joint": {*crops, "pose"}}.items():
        network.stage(stage)
        made = [spec.name for spec in network.stage_input_specs]
        sample = Samples(*arguments, made=made)[2, 0, 0]
        assert set(sample) == {*names, "label"}
        for name in names:
            np.testing.assert_array_equal(sample[name], full[name])
        network.losses(
            {k: torch.as_tensor(np.asarray(v)[None]).repeat(2, *[1] * np.ndim(v)) for k, v in sample.items()}
        )


@pytest.mark.slow
def test_losses_of_several_parts_are_logged(dataset, tmp_path):
    dataset(make_clips("vpn_i3d", 8))
    settings = write(tmp_path / "recipe.yaml", "vpn_i3d", epochs=4, learning_rate=3e-3, batch=8)
    trainer.train(recipe.read(settings), str(tmp_path), tmp_path / "run", progress=False)
    rows = metrics(tmp_path / "run")
    parts = set(rows[0]) - {"epoch", "step", "loss", "accuracy", "learning_rate", "clips_per_s"}
    assert len(parts) >= 2
    assert all(np.isfinite(float(row[part])) for row in rows for part in parts)


def test_csv_logger_writes_row_per_epoch(dataset, tmp_path):
    dataset(skeletons())
    settings = config.build(Recipe, {**TINY, "validation": {"share": 0.2}, "epochs": 3})
    trainer.train(settings, "", tmp_path / "run", progress=False, threads=1)
    rows = metrics(tmp_path / "run")
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert all(row[name] for row in rows for name in ("loss", "learning_rate", "val_loss", "val_accuracy"))
    logger = EpochCsvLogger(tmp_path / "cut", name="log")
    logger.log_metrics({"val_loss": 0.5, "epoch": 0}, 5)
    logger.finalize("failed")
    assert metrics(tmp_path / "cut") == [{"epoch": "0", "step": "5", "val_loss": "0.5"}]


def test_features_on_device_of_images_are_refused_by_name():
    clips = make_clips("vpn_i3d", 2)
    settings = Recipe(model="vpn_i3d", options=SMALL["vpn_i3d"], dataset="nucla")
    machine = trainer.Machine(accelerator="cpu", features="device")
    run = trainer.TrainingRun(settings, clips, False, False, machine, [])
    with pytest.raises(ConfigError, match=r"--features device does not cover vpn_i3d: input 'body_crop' is not made"):
        run.check_stages(settings, run.module(settings))


@pytest.mark.parametrize(
    ("model", "machine", "batched"),
    [("joint_tcn", {}, True), ("joint_tcn", {"workers": 2}, False), ("spa_net_4d", {}, False),
     ("spa_net_4d", {"features": "device"}, True), ("joint_tcn", {"features": "workers"}, False)],
)  # fmt: skip
def test_features_are_of_batches_if_not_slower_on_a_cpu(model, machine, batched):
    settings = Recipe(
        model=model, dataset="nucla", options={"dilations": [1]} if model == "joint_tcn" else {"width": 4}
    )
    run = trainer.TrainingRun(settings, skeletons(), False, False, trainer.Machine(accelerator="cpu", **machine), [])
    assert (run._batch_features(run.module(settings), settings) is not None) is batched


@pytest.mark.slow
def test_training_takes_images_at_the_rate_of_slower_recordings():
    """A 30 Hz network on 15 Hz clips: T different images, and the window says so."""
    clips = make_clips("vpn_i3d", 2)
    settings = Recipe(model="vpn_i3d", options=SMALL["vpn_i3d"], dataset="nucla")
    run = trainer.TrainingRun(settings, clips, False, False, trainer.Machine(accelerator="cpu"), [])
    found = run.completed(settings)
    network = actrec_models.networks.create("vpn_i3d", num_classes=2, **SMALL["vpn_i3d"])
    assert run.frame_rates == (RATE_HZ,)
    assert found.window(network).rate == pytest.approx(RATE_HZ, rel=1e-3) and network.window.rate == 30

    def differing(window):
        shown = clips[0].sample(window.seconds, window.frames)["color"][-window.clip_frames :]
        return len(np.unique(shown.reshape(len(shown), -1), axis=0))

    assert (differing(network.window), differing(found.window(network))) == (9, 16)
    assert run.completed(dataclasses.replace(settings, window_s=2.0)).window_s == 2.0


@pytest.mark.parametrize(("name", "scene_flow"), [("flow_skeleton", True), ("vpn_i3d", False)])
def test_package_states_scene_flow_of_training_if_network_takes_it(name, scene_flow, dataset, tmp_path):
    clips, made = make_clips(name, 4), {"method": "pd_flow", "height": 120}
    clips.scene_flow = made
    dataset(clips)
    trainer.train(recipe.read(write(tmp_path / "recipe.yaml", name)), "", tmp_path / "run", progress=False, threads=1)
    content = checkpoints.read(tmp_path / "run/last.ckpt")
    settings = module.RecognitionModule(*content["hyper_parameters"].values()).recipe
    trained = provenance.package_provenance(settings, provenance.from_checkpoint(content))
    assert trained.scene_flow == (made if scene_flow else {})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flow_skeleton", "deepacts"])
def test_commands_multi_stream_networks_train_and_export(name, dataset, tmp_path, capsys):
    """Networks with windows of several clips, or with extrema from the training part, train and export."""
    dataset(make_clips(name, 8))
    path, out, folder = write(tmp_path / "recipe.yaml", name), tmp_path / "run", tmp_path / "package"
    assert main(["train", str(path), "--data", str(tmp_path), "--out", str(out), "--quiet", "--threads", "1"]) == 0
    assert main(["export", str(out / "last.ckpt"), "--out", str(folder), "--data", str(tmp_path)]) == 0
    package = inference.load(folder).package
    network = actrec_models.networks.create(name, num_classes=2, **SMALL[name])
    assert (package.window, package.labels) == (network.window, CLASSES)
    assert package.provenance.frame_rates == (RATE_HZ,)
    assert {spec.rate for spec in package.inputs if spec.modality == "flow_rgb"} <= {10.0}
    assert "not calibrated" in package.rejection.calibrated_on
    assert package.rejection.threshold == 0
    if name == "deepacts":
        stamp = next(spec for spec in package.inputs if spec.modality == "body_stamp")
        trained = module.RecognitionModule(*checkpoints.read(out / "last.ckpt")["hyper_parameters"].values())
        low, high = trained.recipe.options["extrema"]["body"]
        assert (stamp.preprocessing["minimum"], stamp.preprocessing["maximum"]) == (low, high)
        assert -4 < low < high < 4
    capsys.readouterr()
    assert main(["eval", str(folder), "--data", str(tmp_path)]) == 0
    assert "Dataset nucla, split view, test part" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "p_i3d",
            {"stages": [{"name": "warm_up"}]},
            "stage 'warm_up' is none of p_i3d's; its stages: parts, left_hand_crop",
        ),
        ("c3d_flow", {"stages": [{"name": "joint"}]}, "c3d_flow's; it is trained in one go"),
        ("p_i3d", {"stages": ["joint"]}, "each entry of stages must be a mapping"),
        ("p_i3d", {"stages": [{"name": "joint", "epoch": 2}]}, "unknown option epoch of Stage"),
        ("p_i3d", {"outliers": 0.3}, "outliers are synthetic skeletons"),
        ("sem_net", {"outliers": 0.3, "augment": False}, "outliers are made where clips are varied: set augment"),
    ],
)
def test_train_recipe_unsuited_to_network_refused(name, settings, message, dataset, tmp_path):
    dataset(make_clips(name, 4))
    with pytest.raises(ConfigError, match=message):
        settings_read = recipe.read(write(tmp_path / "recipe.yaml", name, **settings))
        trainer.train(settings_read, str(tmp_path), tmp_path / "run", progress=False)


def test_train_dataset_without_streams_refused(dataset, tmp_path):
    clips = make_clips("p_i3d", 4)
    dataset(
        ClipDataset([Clip(c.name, c.label, c.stamps_ns, c.bodies) for c in map(clips.__getitem__, range(4))], CLASSES)
    )
    with pytest.raises(ConfigError, match=r"p_i3d takes bodies, color.* has no color \(it holds bodies\)"):
        trainer.train(recipe.read(write(tmp_path / "recipe.yaml", "p_i3d")), str(tmp_path), tmp_path, progress=False)


def test_train_scene_flow_of_another_method_refused_with_command(dataset, tmp_path, caplog):
    clips = make_clips("c3d_flow", 4)
    dataset(clips)
    path = write(tmp_path / "recipe.yaml", "c3d_flow", scene_flow={"method": "pd_flow", "height": 120})
    settings = recipe.read(path)
    trainer.train(settings, str(tmp_path), tmp_path / "unknown", progress=False, threads=1)
    assert "takes scene flow of method pd_flow, but the method of dataset 'nucla' is not known" in caplog.text
    clips.scene_flow = {"method": "dis", "height": 120}
    command = "actrec prepare nucla --estimate flow --set flow.method=pd_flow --set flow.height=120 --out FOLDER"
    with pytest.raises(ConfigError, match=f"was prepared with dis: {command}"):
        trainer.train(settings, str(tmp_path), tmp_path / "other", progress=False)
    trainer.train(recipe.read(path, {"scene_flow": {}}), str(tmp_path), tmp_path / "any", progress=False, threads=1)
    with pytest.raises(ConfigError, match="scene_flow has 'methods'; known: method, height, rate"):
        recipe.read(path, {"scene_flow.methods": "dis"})
