import dataclasses
import json

import numpy as np
import pytest
import torch
import yaml

from actrec import datasets, inference
from actrec.cli import main
from actrec.datasets.base import Clip, ClipDataset
from actrec.inference import package
from actrec.skeleton import windows
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.types import NANOSECONDS
from actrec.utils import config
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec_models import evaluation
from actrec_models.data import augmentation, continuous, rendered_skeletons, unknown_clips
from actrec_models.data.samples import Samples
from actrec_models.finetune import transfer
from actrec_models.training import module as training_module
from actrec_models.training import recipe, trainer
from actrec_models.training.machine import Machine

SMALL = {"options": {"width": 4, "modalities": ["body", "bones"]}, "epochs": 2, "batch": 64, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def nucla(data_root):
    return {part: datasets.create("nucla", str(data_root / "nucla"), part=part) for part in ("train", "test")}


def test_nucla_has_official_split(nucla):
    assert (len(nucla["train"]), len(nucla["test"])) == (1020, 464)
    assert len(nucla["train"].classes) == 10
    assert {nucla["test"][i].label for i in range(464)} == set(range(10))
    assert all(nucla["test"][i].name.endswith("v03") for i in range(464))


def test_utd_mhad_has_official_split(data_root):
    parts = [datasets.create("utd_mhad", str(data_root / "utd_mhad"), part=p) for p in ("train", "test")]
    assert [len(p) for p in parts] == [431, 430]
    assert len(parts[0].classes) == 27


def test_datasets_create_unknown_name_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown dataset 'kth'; known: .*nucla"):
        datasets.create("kth", str(tmp_path))
    with pytest.raises(ConfigError, match="nucla has split view, view_1, view_2, subject; got 'half'"):
        datasets.create("nucla", str(tmp_path), split="half")
    with pytest.raises(DeviceError, match="nucla_skeletons"):
        datasets.create("nucla", str(tmp_path))


def test_augmentation_same_seed_gives_same_window(nucla):
    clip, options = nucla["train"][0], augmentation.Augmentation(missing=1.0)
    windows_drawn = []
    for _ in range(2):
        rng = np.random.default_rng(5)
        window = augmentation.sample_window(clip, 5.0, 60, options, rng).resampled()
        windows_drawn.append(augmentation.augment_bodies(window, options, rng))
    assert windows_drawn[0].shape == (1, 60, 25, 3)
    assert windows_drawn[0].dtype == np.float32
    np.testing.assert_array_equal(windows_drawn[0], windows_drawn[1])
    assert 0 < np.isnan(windows_drawn[0]).mean() < 0.7


def test_augmentation_disabled_gives_live_window(nucla):
    clip = nucla["train"][3]
    no_change = {field.name: 0.0 for field in dataclasses.fields(augmentation.Augmentation)}
    disabled = config.build(augmentation.Augmentation, {**no_change, "speed": 1.0, "mirror": False})
    rng = np.random.default_rng(1)
    window = augmentation.augment_bodies(
        augmentation.sample_window(clip, 5.0, 60, disabled, rng).resampled(), disabled, rng
    )
    np.testing.assert_allclose(window, clip.sample(5.0, 60)["bodies"], atol=1e-5)


def test_stretched_window_contains_whole_clip():
    """A step in the middle of the clip stays in the middle for any clip length."""
    disabled = augmentation.Augmentation(1.0, 1.0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, mirror=False)
    for frames in (10, 40, 400):
        bodies = np.zeros((1, frames, 25, 3), np.float32)
        bodies[:, frames // 2 :] = 1.0
        clip = Clip("step", 0, np.arange(frames) * 33_000_000, bodies)
        window = augmentation.sample_window(clip, 5.0, 20, disabled, np.random.default_rng(1)).resampled()
        assert (window[0, :9] == 0).all() and (window[0, 11:] == 1).all()


def test_stretched_window_pace_keeps_ends():
    options = augmentation.Augmentation(1.0, 2.0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, mirror=False)
    ramp = np.linspace(0, 1, 50, dtype=np.float32)[None, :, None, None] * np.ones((1, 1, 25, 3), np.float32)
    clip, rng = Clip("ramp", 0, np.arange(50) * 33_000_000, ramp), np.random.default_rng(1)
    found = [augmentation.sample_window(clip, 5.0, 21, options, rng).resampled()[0, :, 0, 0] for _ in range(30)]
    assert np.allclose([w[0] for w in found], 0) and np.allclose([w[-1] for w in found], 1)
    middles = [w[10] for w in found]
    assert 0.2 < min(middles) < 0.35 and 0.65 < max(middles) < 0.8  # 0.5**2 and 0.5**0.5


def test_mirror_twice_gives_original(nucla):
    bodies = nucla["train"][0].bodies
    mirrored = augmentation.mirror(bodies)
    left, right = KINECT_V2_25.index["hand_left"], KINECT_V2_25.index["hand_right"]
    np.testing.assert_array_equal(mirrored[..., left, 0], -bodies[..., right, 0])
    np.testing.assert_array_equal(augmentation.mirror(mirrored), bodies)


def test_follow_joins_clips_without_jump(nucla):
    first, clip = nucla["train"][0], nucla["train"][40]
    joined = continuous.follow(first, clip, np.random.default_rng(1))
    assert len(joined.stamps_ns) == joined.bodies.shape[1] == len(first.stamps_ns) + len(clip.stamps_ns)
    assert (np.diff(joined.stamps_ns) > 0).all()
    boundary = len(first.stamps_ns)
    np.testing.assert_allclose(joined.bodies[0, boundary - 1, 0], joined.bodies[0, boundary, 0], atol=1e-6)
    np.testing.assert_array_equal(joined.bodies[:, boundary:], clip.bodies)
    assert joined.label == clip.label


def test_follow_different_body_counts_are_joined(nucla):
    first, second = nucla["train"][0], nucla["train"][40]
    two_bodies = dataclasses.replace(second, bodies=np.concatenate([second.bodies, second.bodies + np.float32(0.5)]))
    after_two = continuous.follow(two_bodies, first, np.random.default_rng(1))
    np.testing.assert_array_equal(after_two.bodies, continuous.follow(second, first, np.random.default_rng(1)).bodies)
    after_one = continuous.follow(first, two_bodies, np.random.default_rng(1)).bodies
    frames = len(first.stamps_ns)
    np.testing.assert_array_equal(after_one[0], continuous.follow(first, second, np.random.default_rng(1)).bodies[0])
    assert np.isnan(after_one[1, :frames]).all() and not np.isnan(after_one[1, frames:]).any()


@pytest.mark.parametrize("joint", ["spine_base", "spine_mid", "elbow_left"])
def test_augment_bodies_missing_joint_keeps_others(nucla, joint):
    """A missing joint, such as hips behind a table, leaves the other joints usable."""
    missing, rng = KINECT_V2_25.index[joint], np.random.default_rng(1)
    bodies = nucla["train"][0].sample(5.0, 60)["bodies"]
    bodies[:, :, missing] = np.nan
    options = augmentation.Augmentation(missing=0.0, exchange=0.0, mirror=False)
    augmented = augmentation.augment_bodies(bodies, options, rng)
    assert np.isnan(augmented[:, :, missing]).all()
    change = np.delete(augmented - bodies, missing, axis=2)
    assert np.abs(change).max() < 1.5  # from noise, a tilt of 15° at a height of 2 m, and bones 10 % longer
    constant = augmentation.Augmentation(missing=0.0, exchange=0.0, mirror=False, tilt_deg=0.0, noise_m=0.0, bias_m=0.0)
    bodies[:] = bodies[:, :1]
    np.testing.assert_array_equal(
        np.ptp(np.delete(augmentation.augment_bodies(bodies, constant, rng), missing, axis=2), axis=1), 0
    )


def test_synthetic_action_uses_visible_pose(nucla):
    clip = nucla["train"][0]
    bodies = clip.bodies.copy()
    bodies[:, : len(clip.stamps_ns) // 2] = np.nan
    bodies[:, :, KINECT_V2_25.index["spine_mid"]] = np.nan
    half = dataclasses.replace(clip, bodies=bodies)
    for seed in range(10):
        window = unknown_clips.synthetic_body_action(half, 5.0, 60, np.random.default_rng(seed))
        assert np.isfinite(np.delete(window, KINECT_V2_25.index["spine_mid"], axis=2)).all()


def test_exchange_sides_is_temporary(nucla):
    bodies = nucla["train"][0].sample(5.0, 60)["bodies"]
    options = augmentation.Augmentation(
        tilt_deg=0, proportions=0, noise_m=0, bias_m=0, missing=0, exchange=1.0, mirror=False
    )
    changed = augmentation.augment_bodies(bodies, options, np.random.default_rng(3))
    changed = np.where(np.isclose(changed, bodies, atol=1e-6), bodies, changed)
    exchanged = (changed != bodies).any(axis=(0, 2, 3))
    assert 0 < exchanged.sum() <= 30
    np.testing.assert_allclose(changed[:, exchanged], bodies[:, exchanged][:, :, list(KINECT_V2_25.mirror)], atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_synthetic_action_keeps_bones_and_is_smooth(nucla, seed):
    window = unknown_clips.synthetic_body_action(nucla["train"][seed], 5.0, 60, np.random.default_rng(seed))
    assert window.shape == (1, 60, 25, 3)
    bones = np.linalg.norm(window[0] - window[0][:, list(KINECT_V2_25.parents)], axis=-1)
    np.testing.assert_allclose(bones, np.broadcast_to(bones[0], bones.shape), atol=1e-4)
    assert np.abs(np.diff(window[0], axis=0)).max() < 1.5  # at most an arm's length in 1/12 s


def test_rendered_clips_are_close_to_recording(nucla, tmp_path):
    recording = next(clip for clip in nucla["train"] if 15 <= len(clip.stamps_ns) <= 20)
    clip = rendered_skeletons.estimate(recording, seed=1)
    assert clip is not None
    expected = windows.resample(recording.stamps_ns, recording.bodies[0], clip.stamps_ns)
    assert np.nanmedian(np.linalg.norm(expected - clip.bodies[0], axis=-1)) < 0.12
    rendered_skeletons.write(tmp_path / "clips.npz", [clip, clip])
    loaded = rendered_skeletons.read(tmp_path / "clips.npz")
    assert [(c.name, c.label) for c in loaded] == [(recording.name, recording.label)] * 2
    np.testing.assert_array_equal(loaded[1].bodies, clip.bodies)
    np.testing.assert_array_equal(loaded[1].stamps_ns, clip.stamps_ns)
    with pytest.raises(InputError, match="no file of rendered clips"):
        rendered_skeletons.read(tmp_path / "clips.npz", "hand_22")
    np.savez(tmp_path / "foreign.npz", bodies=np.zeros(3))
    with pytest.raises(InputError, match=r"foreign.npz.*has no array"):
        rendered_skeletons.read(tmp_path / "foreign.npz")


def test_augment_bodies_proportions_scale_both_sides_equally(nucla):
    body = nucla["train"][0].bodies
    disabled = {"tilt_deg": 0.0, "noise_m": 0.0, "bias_m": 0.0, "exchange": 0.0, "missing": 0.0, "mirror": False}
    options = augmentation.Augmentation(proportions=0.3, **disabled)
    augmented = augmentation.augment_bodies(body, options, np.random.default_rng(2))
    index = KINECT_V2_25.index

    def ratio(a, b):
        before, after = (np.linalg.norm(x[0, :, index[a]] - x[0, :, index[b]], axis=-1) for x in (body, augmented))
        return after / before

    left, right = ratio("elbow_left", "wrist_left"), ratio("elbow_right", "wrist_right")
    np.testing.assert_allclose(left, left[0], rtol=1e-3)
    np.testing.assert_allclose(left, right, rtol=1e-3)
    assert abs(left[0] - 1) > 0.01


def test_sample_window_one_frame_is_repeated():
    clip = Clip("short", 0, np.array([0]), np.ones((1, 1, 25, 3), np.float32))
    window = augmentation.sample_window(
        clip, 5.0, 60, augmentation.Augmentation(), np.random.default_rng(1)
    ).resampled()
    assert window.shape == (1, 60, 25, 3)
    assert (window == 1).all()


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_augment_bodies_few_frames_may_lose_limbs(frames):
    options = augmentation.Augmentation(missing=1.0, exchange=1.0)
    for seed in range(5):
        augmented = augmentation.augment_bodies(
            np.ones((1, frames, 25, 3), np.float32), options, np.random.default_rng(seed)
        )
        assert augmented.shape == (1, frames, 25, 3) and np.isnan(augmented).any()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epochs: 0", "epochs is 0, allowed: 1 to"),
        ("optimizer: sgd", "Recipe.optimizer is .sgd., expected keys and values"),
        ("augmentation: {spin: 1}", "unknown option spin"),
        ("command: actrec train x", "command is now commands, a list"),
        ("- a list", "not a mapping"),
        ("epochs: [", "is not valid YAML"),
        ("!!python/object/apply:os.getcwd []", "is not valid YAML"),
    ],
)
def test_read_recipe_invalid_refused(tmp_path, content, message):
    (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        recipe.read(tmp_path / "recipe.yaml")


def test_read_recipe_shipped_are_valid():
    for path in recipe.shipped().values():
        recipe.read(path)


@pytest.fixture
def every_eighth(monkeypatch):
    """Make `datasets.create` return every eighth clip only."""
    create = datasets.create

    def create_every_eighth(name, root, **options):
        clips = create(name, root, **options)
        return ClipDataset([clips[i] for i in range(0, len(clips), 8)], clips.classes)

    monkeypatch.setattr(datasets, "create", create_every_eighth)
    return create_every_eighth


@pytest.mark.slow
def test_training_in_batches_equals_clip_by_clip(every_eighth, data_root, tmp_path):
    settings = tmp_path / "recipe.yaml"
    steps = {"epochs": 1, "batch": 16, "learning_rate": 1e-3}  # short ones: each enlarges the rounding errors
    settings.write_text(yaml.safe_dump({**SMALL, **steps, "validation": {"share": 0.2}}))
    figures = []
    for features in ("device", "workers"):
        out = tmp_path / features
        command = ["train", str(settings), "--data", str(data_root), "--out", str(out), "--quiet", "--threads", "1"]
        assert main([*command, "--features", features]) == 0
        names, values = (line.split(",") for line in (out / "log/version_0/metrics.csv").read_text().split()[:2])
        figures.append(dict(zip(names, values, strict=True)))
    for name in ("loss", "val_loss"):
        assert float(figures[0][name]) == pytest.approx(float(figures[1][name]), rel=1e-3)


@pytest.mark.slow
def test_compiled_training_equals_uncompiled(every_eighth, data_root, tmp_path, monkeypatch):
    compile_with, backend, compiled = torch.compile, "aot_eager", []

    def compile_quickly(function, **options):  # with C++, it would take a minute
        compiled.append(options)
        return compile_with(function, backend=backend)

    monkeypatch.setattr(torch, "compile", compile_quickly)
    settings = config.build(recipe.Recipe, {**SMALL, "epochs": 1, "batch": 32, "unknown_dataset": ""})
    weights = []
    for machine in (Machine(accelerator="cpu", compile=True), Machine(accelerator="cpu")):
        last = trainer.train(settings, str(data_root), tmp_path / str(machine.compile), progress=False, machine=machine)
        weights.append(torch.load(last, weights_only=True)["state_dict"])
    assert compiled == [{"mode": None}]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_commands_train_resume_export_and_eval_work_together(every_eighth, data_root, tmp_path, monkeypatch, capsys):
    """The commands work together, with a small network and few clips."""
    settings = tmp_path / "recipe.yaml"
    out, folder = tmp_path / "run", tmp_path / "package"
    settings.write_text(yaml.safe_dump({**SMALL, "epochs": 3, "batch": 16}))
    command = ["train", str(settings), "--data", str(data_root), "--out", str(out), "--quiet", "--threads", "1"]
    with monkeypatch.context() as patched:
        sample_window, calls = augmentation.sample_window, iter(range(190))

        def fail_after_calls(*arguments):
            if next(calls, None) is None:
                raise RuntimeError("power cut")
            return sample_window(*arguments)

        patched.setattr(augmentation, "sample_window", fail_after_calls)
        with pytest.raises(RuntimeError, match="power cut"):
            main(command)
    assert torch.load(out / "last.ckpt", weights_only=True)["epoch"] == 0
    assert main(command) == 0
    last = torch.load(out / "last.ckpt", weights_only=True)
    assert (last["epoch"], last["global_step"]) == (2, 3 * (len(every_eighth("nucla", str(data_root / "nucla"))) // 16))
    settings.write_text(yaml.safe_dump({**SMALL, "epochs": 3, "batch": 32}))
    assert main(command) == 2
    assert "another batch" in capsys.readouterr().err
    capsys.readouterr()
    export = ["export", str(out / "last.ckpt"), "--out", str(folder), "--data", str(data_root), "--float16"]
    assert main(export) == 0
    assert "model.float16.onnx: " in capsys.readouterr().out
    session = inference.load(folder)
    clips = every_eighth("nucla", str(data_root / "nucla"), part="test")
    report = evaluation.evaluate(session, clips)
    assert session.package.provenance.accuracy == pytest.approx(report.accuracy)
    assert report.confusion.sum() == len(clips)
    assert "Accuracy" in (folder / "README.md").read_text() and "In float16" in (folder / "README.md").read_text()
    half = evaluation.evaluate(inference.load(folder, "onnxruntime", precision="float16"), clips)
    assert session.package.float16.accuracy == pytest.approx(half.accuracy)
    assert half.accuracy == pytest.approx(report.accuracy, abs=2.5 / len(clips))
    capsys.readouterr()
    for options in ([], ["--precision", "float16"]):
        assert main(["eval", str(folder), "--data", str(data_root), "--json", *options]) == 0
        assert '"accuracy"' in capsys.readouterr().out
    with pytest.raises(InputError, match="evaluate it on the dataset it was trained for"):
        evaluation.evaluate(session, every_eighth("utd_mhad", str(data_root / "utd_mhad"), part="test"))


@pytest.mark.slow
@pytest.mark.usefixtures("every_eighth")
def test_package_of_stretched_clips_states_live_accuracy(data_root, tmp_path, capsys):
    settings, run, folder = tmp_path / "recipe.yaml", tmp_path / "run", tmp_path / "package"
    settings.write_text(yaml.safe_dump({**SMALL, "epochs": 1, "clips": "stretched", "unknown_dataset": ""}))
    common = ["--data", str(data_root)]
    assert main(["train", str(settings), "--out", str(run), "--threads", "1", "--quiet", *common]) == 0
    assert main(["export", str(run / "last.ckpt"), "--out", str(folder), *common]) == 0
    provenance = package.load(folder).provenance
    assert provenance.figures["clips"] == "stretched"
    assert f"| Live | {provenance.live_note} |" in (folder / "README.md").read_text()
    capsys.readouterr()
    for clips, expected in (("stretched", provenance.accuracy), ("live", provenance.figures["live_accuracy"])):
        assert main(["eval", str(folder), "--clips", clips, "--json", "--quiet", *common]) == 0
        assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(expected)


def test_train_unsuited_initial_weights_refused(data_root, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(SMALL))
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    other = training_module.RecognitionModule({**recipe.Recipe().as_dict(), "options": {"width": 8}}, ["a", "b"])
    parameters = {"recipe": dict(other.recipe.as_dict()), "classes": ["a", "b"]}
    torch.save({"hyper_parameters": parameters, "state_dict": other.state_dict()}, tmp_path / "other.ckpt")
    # Its split has another name, so its training part may have test clips of the recipe's split.
    settings = {**recipe.Recipe().as_dict(), **SMALL, "split": "subject"}
    parameters = {"recipe": settings, "classes": list(datasets.create("nucla", str(data_root / "nucla")).classes)}
    leaking = training_module.RecognitionModule(**parameters)
    torch.save({"hyper_parameters": parameters, "state_dict": leaking.state_dict()}, tmp_path / "leak.ckpt")
    for name, status in (("missing", 1), ("text", 1), ("other", 2), ("leak", 2)):
        command = ["train", str(tmp_path / "recipe.yaml"), "--data", str(data_root), "--out", str(tmp_path / "run")]
        assert main([*command, "--quiet", "--init", str(tmp_path / f"{name}.ckpt")]) == status
        error = capsys.readouterr().err.strip().splitlines()
        assert f"{name}.ckpt" in error[-1]
        assert (name == "leak") == ("was trained on split 'subject' of nucla, not 'view'" in error[-1])
        assert "Traceback" not in "".join(error)


@pytest.mark.slow
def test_training_few_steps_lower_loss(nucla):
    torch.manual_seed(1)
    settings = dataclasses.replace(recipe.Recipe(), **SMALL)
    module = training_module.RecognitionModule(settings.as_dict(), list(nucla["train"].classes))
    window = settings.window(module.network)
    samples = Samples(nucla["train"], module.network.input_specs, window, settings, None)
    items = [samples[i] for i in range(0, 960, 40)]
    batch = {k: torch.from_numpy(np.stack([np.asarray(item[k]) for item in items])) for k in items[0]}
    optimizer = torch.optim.AdamW(module.network.parameters(), 5e-3)
    losses = []
    for _ in range(12):
        loss = module.network.losses(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_window_ends_with_clip():
    stamps = (np.arange(24) / 12 * NANOSECONDS).astype(np.int64)
    bodies = np.arange(24, dtype=np.float32)[None, :, None, None] * np.ones((1, 1, 25, 3), np.float32)
    window = Clip("c", 0, stamps, bodies).sample(5.0, 60)["bodies"]
    np.testing.assert_allclose(window[0, -24:, 0, 0], np.arange(24), atol=1e-4)
    assert (window[0, :36] == 0).all()


def test_bfloat16_emulated_is_warned_and_not_used_by_teach(data_root, tmp_path, monkeypatch, caplog):
    for fast in (True, False):
        caplog.clear()
        monkeypatch.setattr(trainer, "fast_bfloat16", lambda device, fast=fast: fast)
        settings = config.build(recipe.Recipe, {**SMALL, "precision": "bf16-mixed"})
        clips = trainer.training_clips(settings, str(data_root))
        trainer.TrainingRun(settings, clips, False, False, trainer.Machine(), [])
        assert ("--set precision=32-true" in caplog.text) is not fast
        monkeypatch.setattr(transfer, "fast_bfloat16", lambda device, fast=fast: fast)
        for precision, expected in (("auto", fast), ("bf16-mixed", True), ("32-true", False)):
            with transfer.autocast(torch.device("cpu"), precision):
                assert torch.is_autocast_enabled("cpu") is expected


def test_fast_bfloat16_follows_cpu_capabilities(monkeypatch):
    cpu = torch.device("cpu")
    for capabilities, expected in (
        ({"avx512_bf16": False, "amx_bf16": True, "cpu_name": "bf16"}, True),
        ({"avx512_bf16": False, "avx2": True, "cpu_name": "bf16"}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda capabilities=capabilities: capabilities)
        assert trainer.fast_bfloat16(cpu) is expected
