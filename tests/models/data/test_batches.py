"""Batches of skeletons on the device against the clip-by-clip reference, for each shipped recipe of joints."""

import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.fx.experimental import _config as symbolic_config

from actrec.datasets.base import Clip, ClipDataset
from actrec.features.clips import example_clip
from actrec.features.specs import InputSpec, WindowSpec
from actrec.skeleton import windows
from actrec.types import NANOSECONDS
from actrec_models.data.augmentation import Augmentation
from actrec_models.data.batches import (
    BatchFeatures,
    BatchSamples,
    collate,
    has_voxels,
    normalization,
    uncovered,
    variation,
)
from actrec_models.data.batches.features import body_count
from actrec_models.data.batches.resampling import resample
from actrec_models.data.samples import Samples
from actrec_models.networks import create
from actrec_models.training import recipe as recipes
from actrec_models.training.recipe import Recipe

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
IN_VOXEL = {"atol": 2e-4, "rtol": 1e-5}  # the position in a voxel, of which the space has 64 or more a side
CLASSES = ("a", "b")


def network_of(recipe: Recipe):
    with torch.device("meta"):  # only its inputs are used
        return create(recipe.model, num_classes=len(CLASSES), **recipe.network_options())


def stages() -> dict[str, Recipe]:
    """Return each different stage of the shipped recipes that the batches cover, without a background."""
    found, known = {}, set()
    for name in recipes.shipped():
        whole = recipes.read(name)
        for stage in whole.plan():
            own = dataclasses.replace(whole.for_stage(stage), background=0.0)
            settings = repr(
                (own.model, own.options, own.window_s, own.frames, own.clips, own.augment, own.augmentation)
            )
            if settings in known:
                continue
            known.add(settings)
            network = network_of(own)
            if not uncovered(network.input_specs, own.window(network), own.clips, layout_of(network)):
                found[f"{name}-{stage.title}"] = own
    return found


def layout_of(network) -> str:
    return network.input_specs[0].layout


STAGES = stages()


def made_up_clips(specs: list[InputSpec], count: int) -> ClipDataset:
    """Return moving skeletons of different length, from tilted cameras, with gaps and missing people."""
    rng, clips = np.random.default_rng(7), []
    for number in range(count):
        frames = 1 if number == 3 else int(rng.integers(20, 90))
        bodies = example_clip(specs, frames, 1 + number % min(map(body_count, specs)), seed=number)["bodies"]
        if number % 4 == 1:
            joints = rng.integers(bodies.shape[2], size=2)
            bodies[:, frames // 3 :, joints[0]] = np.nan
            bodies[:, frames // 4 : frames // 4 + 3, joints[1]] = np.nan
            bodies[:, : frames // 5, 0] = np.nan
        if number == 6:
            bodies[:, frames // 4 : frames // 2] = np.nan
        stamps = np.cumsum(rng.uniform(0.02, 0.09, frames) * NANOSECONDS).astype(np.int64)
        up = {} if number % 3 else {"up": np.array([0.2, -0.9, -0.387], np.float32)}
        clips.append(Clip(f"clip {number}", number % 2, stamps, bodies, up))
    return ClipDataset(clips, CLASSES, specs[0].layout)


def assert_batches_equal_samples(recipe: Recipe, augmentation: Augmentation | None, **options) -> None:
    network = network_of(recipe)
    voxels = has_voxels(network.input_specs)
    clips = made_up_clips(network.input_specs, 5 if voxels else 16)
    arguments = clips, network.input_specs, recipe.window(network), recipe, augmentation
    single, batched = Samples(*arguments, **options), BatchSamples(*arguments, **options)
    compute = BatchFeatures(network.input_specs)
    for epoch in range(1 if voxels else 3):
        draws = [(epoch, index, epoch % 2) for index in range(len(clips))]
        expected = torch.utils.data.default_collate([single[draw] for draw in draws])
        found = compute(collate([batched[draw] for draw in draws]))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == value.dtype
            tolerance = IN_VOXEL if name == "voxel_features" else CLOSE
            torch.testing.assert_close(found[name], value, **tolerance, msg=f"{name}: {{}}".format)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_batch_of_recipe_equals_single_samples(name):
    recipe = STAGES[name]
    assert_batches_equal_samples(recipe, recipe.check() if recipe.augment else None, any_clip=True)


@pytest.mark.parametrize("name", ["joint_tcn_everyday", "sem_net_live_shrec17", "papers/sem_net_ntu60"])
def test_batch_of_strong_augmentation_equals_single_samples(name):
    always = Augmentation(
        stretched=0.3, before=0.7, smoothed=0.8, exchange=0.7, missing=0.9, frame_loss=0.6, proportions=0.3,
        reach=0.5 if "shrec" in name else 0.0, held_deg=30 if "shrec" in name else 0.0,
    )  # fmt: skip
    assert_batches_equal_samples(dataclasses.replace(recipes.read(name), background=0.0), always)


@pytest.mark.parametrize("mode", ["live", "stretched", "whole"])
def test_batch_of_recorded_clips_equals_single_samples(mode):
    recipe = dataclasses.replace(recipes.read("papers/sem_net_ntu60"), clips=mode)
    assert_batches_equal_samples(recipe, None)
    assert_batches_equal_samples(recipe, recipe.check())


def test_batch_as_on_a_gpu_equals_single_samples(monkeypatch):
    """A GPU fills missing joints of all clips, since a look at which have some would wait for it."""
    for module in (normalization, variation):
        monkeypatch.setattr(module, "rows_with", lambda mask: torch.arange(len(mask)))
    for name in ("papers/sem_net_ntu60", "joint_tcn_utd_mhad", "sem_net_reach_shrec17"):
        recipe = recipes.read(name)
        assert_batches_equal_samples(recipe, recipe.check(), any_clip=True)


@pytest.mark.parametrize(
    "name",
    [
        "joint_tcn_everyday",
        "sem_net_live_shrec17",
        "sem_spa_half_shrec17",
        "papers/sem_spa_ntu60",
        "rendered/res_tcn_bjcn",
    ],
)
def test_batch_uses_tensors_of_its_device_alone(name, monkeypatch):
    """Tensors without values stand for a GPU: an operation with a tensor of the CPU fails."""
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())
    recipe = dataclasses.replace(recipes.read(name), background=0.0)
    network = network_of(recipe)
    clips = made_up_clips(network.input_specs, 4)
    samples = BatchSamples(clips, network.input_specs, recipe.window(network), recipe, recipe.check())
    batch = collate([samples[index] for index in range(len(clips))])
    batch = {key: value.to("meta") if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    for gaps in (True, False):
        with symbolic_config.patch(meta_nonzero_assume_all_nonzero=True):  # type: ignore[attr-defined]
            inputs = BatchFeatures(network.input_specs)({**batch, "gaps": gaps})
        for spec in network.input_specs:
            assert inputs[spec.name].device.type == "meta" and inputs[spec.name].shape[1:] == spec.shape


def test_covered_recipes_are_all_of_joints():
    models = {recipe.model for recipe in STAGES.values()}
    assert models == {
        "deepacts_graph", "deepacts_cnn", "deepacts", "joint_tcn", "sem_net", "spa_net_4d", "sem_spa", "res_tcn_bjcn",
    }  # fmt: skip


def test_uncovered_inputs_have_a_reason():
    window = WindowSpec(5.0, 4)
    color = InputSpec("image", "image", "CHW", (3, 8, 8))
    assert uncovered([color], window, "live", "kinect_v2_25") == "input 'image' is not made from joints alone (image)"
    body = InputSpec("body", "body", "kinect_v2_25", (1, 3, 4, 25))
    assert "kinect_v2_25, but the clips are of hand_22" in uncovered([body], window, "live", "hand_22")
    assert "several clips" in uncovered([body], WindowSpec(5.0, 8, 4), "live", "kinect_v2_25")


@pytest.mark.parametrize("seed", range(8))
def test_resample_batch_equals_windows(seed):
    rng = np.random.default_rng(seed)
    joints = rng.normal(0, 1, (3, 2, 30, 5, 3)).astype(np.float32)
    joints[rng.random(joints.shape[:4]) < (0.0, 0.2, 0.6, 0.95)[seed % 4]] = np.nan
    joints[0, 1], joints[1, 0, :, 2] = np.nan, np.nan
    stamps = np.cumsum(rng.uniform(0.02, 0.4, (3, 30)), axis=1)
    wanted = np.sort(rng.uniform(-1, stamps[:, -1:] + 1, (3, 40)), axis=1)
    wanted[0, :20] = np.sort(rng.choice(stamps[0], 20, replace=False))
    stamps_ns, wanted_ns = (stamps * NANOSECONDS).astype(np.int64), (wanted * NANOSECONDS).astype(np.int64)
    times, padded = np.full((3, 33), np.inf), np.full((3, 2, 33, 5, 3), np.nan, np.float32)
    end = wanted_ns[:, -1:]
    times[:, :30], padded[:, :, :30] = (stamps_ns - end) / NANOSECONDS, joints
    found = resample(
        torch.from_numpy(padded), torch.from_numpy(times), torch.from_numpy((wanted_ns - end) / NANOSECONDS)
    )
    expected = [[windows.resample(stamps_ns[b], joints[b, m], wanted_ns[b]) for m in range(2)] for b in range(3)]
    np.testing.assert_allclose(found.permute(0, 1, 3, 4, 2).numpy(), np.array(expected), atol=1e-6)
