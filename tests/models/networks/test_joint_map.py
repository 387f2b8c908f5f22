"""The joint map on which the skeleton model is trained, and that which the models that hold it give it: one form."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

import actrec_models.networks
from actrec.datasets.base import Clip, ClipDataset
from actrec.types import NANOSECONDS
from actrec_models.data.augmentation import Augmentation
from actrec_models.data.samples import Samples
from actrec_models.training import recipe

RECIPES = Path(__file__).parents[3] / "models/recipes"
FUSED = [
    *(f"papers/{name}_ntu60" for name in ("c3d_flow_at2", "flow_skeleton_frozen", "flow_skeleton_joint")),
    *(f"rendered/{name}" for name in ("c3d_flow_at2", "flow_skeleton")),
]


def walk(frames, bodies=1):
    """Joints that wander, at the Kinect's 30 Hz; x of the first grows from frame to frame."""
    steps = np.random.default_rng(0).normal(0, 0.02, (bodies, frames, 25, 3))
    steps[:, :, 0, 0] = 0.002
    stamps = (np.arange(frames) / 30 * NANOSECONDS).astype(np.int64)
    return Clip("walk", 0, stamps, (np.cumsum(steps, axis=1) + np.array([0, 0, 3])).astype(np.float32))


def samples(chosen, clip, augmentation=None):
    """Of the joint map alone: the recipe's network at full size, but without memory."""
    with torch.device("meta"):
        network = actrec_models.networks.create(chosen.model, num_classes=2, **chosen.network_options())
    specs = [spec for spec in network.input_specs if spec.name == "joint_map"]
    return Samples(ClipDataset([clip], ["a", "b"]), specs, chosen.window(network), chosen, augmentation)


def columns(joint_map):
    return np.flatnonzero(np.abs(joint_map).max(axis=0)).tolist()


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("seconds", [0.5, 1.0, 3.0, 4.7])
def test_joint_map_every_stage_gets_same_map(name, seconds):
    fused, clip = recipe.read(RECIPES / f"{name}.yaml"), walk(int(seconds * 30) + 1)
    maps = [samples(fused.for_stage(stage), clip)[0]["joint_map"] for stage in fused.plan()]
    for found in maps[1:]:
        np.testing.assert_array_equal(found, maps[0])
    assert columns(maps[0]) == list(range(3 * (int(seconds * 10)) + 1))
    assert (np.diff(maps[0][0, : len(columns(maps[0]))]) > 0).all(), "no pose is held"


@pytest.mark.parametrize("frames", [31, 91, 241, 300])
def test_joint_map_short_sequence_ends_in_zeros(frames):
    chosen = recipe.read(RECIPES / "papers/res_tcn_bjcn_ntu60.yaml")
    clip = walk(frames)
    found = samples(chosen, clip)[0]["joint_map"]
    assert found.shape == (150, 300) and columns(found) == list(range(frames))
    np.testing.assert_allclose(found[0, :frames], clip.bodies[0, :, 0, 0] / 2.5, atol=1e-4)


def test_joint_map_long_recording_gives_random_part():
    fused = recipe.read(RECIPES / "papers/flow_skeleton_joint_ntu60.yaml")
    for stage in fused.plan():
        drawn = samples(fused.for_stage(stage), walk(900))
        maps = [drawn[epoch, 0, 0]["joint_map"] for epoch in range(20)]
        assert all(len(columns(found)) == 298 for found in maps)
        assert len({found.tobytes() for found in maps}) == 5, "half a window on and on"


def test_joint_map_augmented_starts_with_recording():
    chosen = recipe.read(RECIPES / "rendered/res_tcn_bjcn.yaml")
    options = {field.name: 0.0 for field in fields(Augmentation)} | {"speed": 1.0, "mirror": False, "noise_m": 0.05}
    drawn = samples(chosen, walk(31), Augmentation(**options))
    for epoch in range(5):
        assert columns(drawn[epoch, 0, 0]["joint_map"]) == list(range(16))  # a second of the four, at 15 Hz
