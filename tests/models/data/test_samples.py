"""Training inputs match evaluation inputs for any number of people."""

import gc
import weakref
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch.utils.data import default_collate

import actrec_models.networks
from actrec import features
from actrec.datasets.base import Clip, ClipDataset
from actrec.features import crops
from actrec.features.clips import example_clip, window_inputs
from actrec.features.specs import BodyView, InputSpec, WindowSpec
from actrec.types import KEYS, NANOSECONDS
from actrec.utils import config
from actrec.utils.errors import ConfigError, InputError
from actrec_models.data import augmentation, continuous
from actrec_models.data.augmentation import Augmentation
from actrec_models.data.samples import Samples, check_streams, describe_missing, unused_augmentation
from actrec_models.training.recipe import Recipe
from tests.models.small import SMALL

NETWORKS = {"sem_net": {"streams": "fuse"}, "deepacts_graph": {"modalities": ("body", "bones", "body_motion")}}


def people(count, frames=20):
    """Return a clip of people who stand side by side and drift slowly."""
    rng = np.random.default_rng(count)
    offsets = np.arange(count)[:, None, None, None] * [0.8, 0, 0] + [0, 0, 3]
    bodies = rng.normal(0, 0.4, (count, 1, 25, 3)) + np.cumsum(rng.normal(0, 0.01, (count, frames, 1, 3)), 1) + offsets
    stamps = (np.arange(frames) / 15 * NANOSECONDS).astype(np.int64)
    return Clip(f"of {count}", 0, stamps, bodies.astype(np.float32))


def samples(name, clips, augmentation, **settings):
    network = actrec_models.networks.create(name, num_classes=2, frames=16, bodies=2, **NETWORKS[name])
    recipe = config.build(Recipe, {"model": name, **settings})
    return Samples(ClipDataset(clips, ["a", "b"]), network.input_specs, network.window, recipe, augmentation)


@pytest.mark.parametrize("name", NETWORKS)
def test_samples_augmented_clips_keep_body_count(name):
    clips = [people(1), people(2)]
    plain, augmented = samples(name, clips, None), samples(name, clips, Augmentation(), outliers=0.3)
    batch = default_collate([augmented[epoch, index, 0] for epoch in range(6) for index in range(2)])
    assert {-1, 0} == set(batch["label"].tolist()), "the batch has an outlier sample"
    for spec in plain.specs:
        assert batch[spec.name].shape[1:] == plain[0][spec.name].shape == spec.shape
        assert not augmented[0, 0, 0][spec.name][1].any() and not plain[0][spec.name][1].any(), "a missing body is zero"
        assert augmented[0, 1, 0][spec.name][1].any()


def test_samples_too_many_bodies_raises():
    for settings in (None, Augmentation()):
        with pytest.raises(InputError, match="takes up to 2 bodies"):
            samples("sem_net", [people(3)], settings)[0]


def test_samples_speed_augmentation_scales_motion():
    frames, motion = 60, InputSpec("motion", "motion", "kinect_v2_25", (1, 3, 8, 25), "px/s", {"scale": "none"})
    flow = InputSpec("flow_rgb", "flow_rgb", "CTHW", (3, 8, 16, 16), "m/s", {"max_speed_m_s": [2.55] * 3})
    clip, ones = people(1, frames), np.ones((1, frames, 25, 2), np.float32)
    streams = {"motion": 40 * ones, "flow": np.full((frames, 24, 32, 3), 0.5, np.float32)}
    clips, window = ClipDataset([replace(clip, streams=streams)], ["a", "b"]), WindowSpec(1.0, 8)
    speeds = []
    for clips_mode in ("live", "whole"):
        for seed in range(4):
            recipe = config.build(Recipe, {"seed": seed, "clips": clips_mode})
            sample = Samples(clips, [motion, flow], window, recipe, Augmentation(speed=2.0, cut=0.0, hold_s=0.0))[0]
            speeds.append(sample["motion"][0, 0, -1, 0] / 40)
            assert sample["flow_rgb"][0, -1, 8, 8] == pytest.approx(25 * speeds[-1], abs=1)
        recorded = Samples(clips, [motion, flow], window, recipe, None)[0]
        assert recorded["motion"][0, 0, -1, 0] == 40 and recorded["flow_rgb"][0, -1, 8, 8] == 25
    assert 0.5 <= min(speeds) < 0.9 and 1.1 < max(speeds) <= 2.0


def test_augmentation_of_joints_and_bones_does_nothing_for_voxels():
    settings = config.build(Recipe, {"augmentation": {"turn_deg": 60.0, "tilt_deg": 30.0}})
    for name, unused in (("spa_net_4d", "augmentation: turn_deg does nothing"), ("sem_net", "")):
        specs = actrec_models.networks.create(name, num_classes=2, **SMALL[name]).input_specs
        found = unused_augmentation(specs, settings)
        assert found.startswith(unused) and bool(found) == bool(unused)


def test_clips_are_trained_as_they_are_scored(caplog):
    network = actrec_models.networks.create("c3d_flow", num_classes=2, **SMALL["c3d_flow"])
    data = example_clip(network.input_specs, 20)
    stamps = (np.arange(20) / 15 * NANOSECONDS).astype(np.int64)
    clips = ClipDataset([Clip("clip", 0, stamps, data.pop("bodies"), data)], ("a", "b"))
    stretched = config.build(Recipe, {"model": "c3d_flow", "clips": "stretched"})
    with pytest.raises(ConfigError, match="set augment to false, or clips to live"):
        check_streams(clips, network.input_specs, stretched)
    check_streams(clips, network.input_specs, replace(stretched, augment=False))
    bodies = ClipDataset([people(1)], ("a", "b"))
    specs = actrec_models.networks.create("sem_net", num_classes=2, **SMALL["sem_net"]).input_specs
    for mode, share, message in (
        ("stretched", 0.0, "set stretched of augmentation to 1"),
        ("live", 1.0, "set clips to stretched"),
        ("stretched", 1.0, ""),
        ("stretched", 0.5, ""),
        ("live", 0.0, ""),
    ):
        caplog.clear()
        settings = {"model": "sem_net", "clips": mode, "augmentation": {"stretched": share}}
        check_streams(bodies, specs, config.build(Recipe, settings))
        assert message in caplog.text and bool(caplog.text) == bool(message)


def test_follow_person_with_hidden_hips_joined():
    first, second = people(1), people(1)
    without_hips = replace(second, bodies=np.where(np.arange(25)[:, None] < 2, np.float32(np.nan), second.bodies + 1))
    joined = continuous.follow(first, without_hips, np.random.default_rng(1)).bodies[0]
    last, first_next = (joined[t, 2:].mean(axis=0) for t in (19, 20))
    np.testing.assert_allclose(last, first_next, atol=1e-5, err_msg="the next action starts at the last position")
    offset = joined[0] - first.bodies[0, 0]
    np.testing.assert_allclose(offset, np.tile(offset[:1], (25, 1)), atol=1e-5)


@pytest.mark.parametrize("missing", [[], [5, 18]])
@pytest.mark.parametrize("frames", [15, 20, 25])
@pytest.mark.parametrize("key", ["pixels", "color"])
def test_samples_stream_length_mismatch_raises(key, frames, missing):
    network = actrec_models.networks.create(
        "p_i3d", num_classes=2, frames=12, size=16, width=0.1, attention=False, clips=1
    )
    data = example_clip(network.input_specs, 20)
    data["bodies"][:, missing] = np.nan
    streams = {name: data[name] for name in ("pixels", "hand_pixels", "color")}
    streams[key] = np.take(streams[key], np.arange(frames) % 20, KEYS[key][0])
    clip = Clip("clip", 0, (np.arange(20) / 15 * NANOSECONDS).astype(np.int64), data["bodies"], streams)
    sample = clip.sample(network.window.seconds, 12)
    with pytest.raises(InputError, match=f"'clip': {key} .* for 20 stamps") if frames != 20 else nullcontext():
        window_inputs(sample, network.input_specs, network.window)


@pytest.mark.parametrize("missing", [[], [5, 18]])
def test_samples_decoded_images_released_with_clip(missing):
    network = actrec_models.networks.create(
        "p_i3d", num_classes=2, frames=12, size=16, width=0.1, attention=False, clips=2
    )
    data = example_clip(network.input_specs, 20)
    data["bodies"][:, missing] = np.nan
    stamps = (np.arange(20) / 15 * NANOSECONDS).astype(np.int64)
    clip = Clip("clip", 0, stamps, data["bodies"], {key: data[key] for key in ("pixels", "hand_pixels", "color")})
    gc.disable()
    try:
        sample = clip.sample(network.window.seconds, network.window.frames)
        window_inputs(sample, network.input_specs, network.window)
        images = [weakref.ref(frames["color"]) for frames in (sample, sample.shown) if frames is not None]
        del sample
        assert [image() for image in images] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize(("made", "mirror"), [(None, False), (["body_crop"], True), (["body_crop", "pose"], False)])
def test_samples_of_a_stage_without_poses_may_be_mirrored(made, mirror, monkeypatch):
    network = actrec_models.networks.create("p_i3d", num_classes=2, **SMALL["p_i3d"])
    data = example_clip(network.input_specs, 20)
    stamps = (np.arange(20) / 15 * NANOSECONDS).astype(np.int64)
    clip = Clip("clip", 0, stamps, data["bodies"], {key: data[key] for key in ("pixels", "hand_pixels", "color")})
    asked, jittered = [], crops.jittered

    def ask(specs, rng, mirror):
        asked.append(mirror)
        return jittered(specs, rng, mirror)

    monkeypatch.setattr(crops, "jittered", ask)
    chosen = Recipe(model="p_i3d")
    made_up = Samples(
        ClipDataset([clip], ("a", "b")), network.input_specs, network.window, chosen, Augmentation(), made=made
    )
    assert set(made_up[(0, 0, 0)]) - {"label"} == set(made or [spec.name for spec in network.input_specs])
    assert asked == [mirror]


def test_samples_crops_match_live_crops():
    network = actrec_models.networks.create(
        "p_i3d", num_classes=2, frames=12, size=16, width=0.1, attention=False, clips=1
    )
    data, rng = example_clip(network.input_specs, 20), np.random.default_rng(1)
    stamps = np.cumsum(rng.uniform(0.02, 0.06, 20) * NANOSECONDS).astype(np.int64)
    data["pixels"] += 10 * rng.normal(0, 1, (1, 20, 1, 2)).astype(np.float32)
    data["pixels"][rng.random((1, 20, 25)) < 0.2] = np.nan
    for missing in ([], [5, 18]):  # frames without a person, which live crops skip
        for key in ("bodies", "pixels", "hand_pixels"):
            data[key][:, missing] = np.nan
        streams = {key: data[key] for key in ("pixels", "hand_pixels", "color")}
        clip, visible = Clip("clip", 0, stamps, data["bodies"], streams), np.delete(np.arange(20), missing)
        sampled = clip.window_stamps(network.window.seconds, 12)
        nearest = visible[np.abs(stamps[visible] - np.maximum(sampled, stamps[0])[:, None]).argmin(axis=1)]
        assert len(set(nearest)) > 6
        (found,) = window_inputs(clip.sample(network.window.seconds, 12), network.input_specs, network.window)
        for spec in network.input_specs:
            views = [
                BodyView(pixels=data["pixels"][0, t], hand_pixels=data["hand_pixels"][0, t], color=data["color"][t])
                for t in nearest
            ]
            feature: Any = features.feature(spec.modality)
            expected = feature.finish(np.stack([feature.observe(view, spec) for view in views]), spec)
            np.testing.assert_array_equal(found[spec.name], expected)


def test_streams_of_an_empty_part_are_not_missing():
    specs = actrec_models.networks.create("p_i3d", num_classes=2, **SMALL["p_i3d"]).input_specs
    assert describe_missing("p_i3d", ClipDataset([], ("a", "b")), specs) == ""


def test_window_of_two_actions_shows_a_person_without_hands_all_the_time():
    clip = people(1)
    bodies = clip.bodies.copy()
    bodies[:, :, [7, 11]] = np.nan
    clip = replace(clip, bodies=bodies)
    options = Augmentation(before=1.0, cut=0.0, hold_s=0.0)
    for seed in range(60):
        window = augmentation.sample_window(clip, 3.0, 40, options, np.random.default_rng(seed), clip).resampled()
        assert np.isfinite(window[0, :, 0]).all(), seed


def test_velocities_are_zero_while_the_last_pose_is_held():
    clip, step = people(1), NANOSECONDS // 15
    streams = {"flow": np.full((20, 4, 4, 3), 0.5, np.float32), "motion": np.full((1, 20, 25, 2), 9.0, np.float32)}
    clip = replace(clip, streams=streams)
    shown = clip.at_stamps(clip.stamps_ns[-1] + np.array([-step, 0, step, 3 * step]))
    assert shown["flow"][:, 0, 0, 0].tolist() == [0.5, 0.5, 0, 0]
    assert shown["motion"][0, :, 0, 0].tolist() == [9, 9, 0, 0]


def test_stretched_window_that_ends_early_holds_most_of_a_long_clip():
    ramp = np.linspace(0, 1, 301, dtype=np.float32)[None, :, None, None] * np.ones((1, 1, 25, 3), np.float32)
    clip = Clip("ramp", 0, np.arange(301) * 33_333_333, ramp)
    options = Augmentation(stretched=1.0, speed=1.0, cut=1.0, hold_s=0.0, before=0.0, frame_loss=0.0)
    rngs = map(np.random.default_rng, range(100))
    ends = [augmentation.sample_window(clip, 3.0, 21, options, rng).resampled()[0, -1, 0, 0] for rng in rngs]
    assert min(ends) > 0.59
