"""Synthetic gestures and hands from body clips as out-of-distribution samples of gesture networks."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

import actrec_models.networks
from actrec import datasets, inference
from actrec.datasets.base import Clip, ClipDataset
from actrec.skeleton.layouts import HAND_22, KINECT_V2_25
from actrec.types import NANOSECONDS
from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec_models.data import unknown_clips
from actrec_models.data.samples import Samples
from actrec_models.data.unknown_clips import hand_from_body, hands_from_bodies
from actrec_models.export import exporter, rejection
from actrec_models.networks.base import OUTLIER, cross_entropy
from actrec_models.training import module, recipe, trainer

TINY: dict[str, Any] = {
    "model": "sem_net", "dataset": "shrec17_28", "split": "official", "window_s": 3.2, "frames": 8, "epochs": 1,
    "options": {"layout": "hand_22", "bodies": 1, "channels": [4, 8], "strides": [2, 2], "heads": 2, "embedding": 4,
                "kernels": [3], "dilations": [1]},
    "unknown_dataset": "utd_mhad", "unknown_exclude": ["swipe left", "swipe right"], "outliers": 0.5,
    "batch": 64, "augmentation": {"before": 0.2, "stretched": 0.4},
}  # fmt: skip
FRAMES, SECONDS = 96, 3.2
TIMES = np.arange(FRAMES) * SECONDS / FRAMES


@pytest.fixture(scope="module")
def hands(data_root):
    return datasets.create("shrec17_28", str(data_root / "shrec17"), part="train")


@pytest.fixture(scope="module")
def people(data_root):
    return datasets.create("utd_mhad", str(data_root / "utd_mhad"), part="train")


def bone_lengths(hand):
    return np.linalg.norm(hand - hand[:, list(HAND_22.parents)], axis=-1)


@pytest.mark.parametrize("seed", range(12))
def test_synthetic_gestures_keep_bones_and_move_smoothly(hands, seed):
    window = unknown_clips.synthetic_hand_gesture(hands[7 * seed], SECONDS, FRAMES, np.random.default_rng(seed))
    assert window.shape == (1, FRAMES, 22, 3)
    assert window.dtype == np.float32
    lengths = bone_lengths(window[0])
    np.testing.assert_allclose(lengths, np.broadcast_to(lengths[0], lengths.shape), atol=1e-4)
    speed = np.linalg.norm(np.diff(window[0, :, 1], axis=0), axis=-1) * FRAMES / SECONDS
    assert speed.max() < 20
    repeated = unknown_clips.synthetic_hand_gesture(hands[7 * seed], SECONDS, FRAMES, np.random.default_rng(seed))
    np.testing.assert_array_equal(window, repeated)


@pytest.mark.parametrize("seed", range(5))
def test_synthetic_gestures_slow_hand_is_no_swipe(hands, seed):
    hand = np.repeat(hands[0].bodies[:1, 0].astype(np.float64), FRAMES, axis=0)
    unknown_clips._lead_slowly(hand, TIMES, np.random.default_rng(seed))
    speed = np.linalg.norm(np.diff(hand[:, HAND_22.index["wrist"]], axis=0), axis=-1) * FRAMES / SECONDS
    # With easing, the peak speed is at most 1.5 times the mean.
    assert speed.max() <= 1.51 * unknown_clips._SLOW


def test_synthetic_gestures_fingers_move_with_still_hand(hands):
    hand = np.repeat(hands[0].bodies[:1, 0].astype(np.float64), FRAMES, axis=0)
    original = hand.copy()
    unknown_clips._move_fingers(hand, TIMES, np.random.default_rng(3))
    changed = np.abs(hand - original).max(axis=(0, 2)) > 1e-6
    assert not changed[[HAND_22.index["wrist"], HAND_22.index["palm"]]].any()
    assert 1 <= sum(changed[list(finger)].any() for finger in unknown_clips.FINGERS) <= 4
    assert not any(changed[finger[0]] for finger in unknown_clips.FINGERS), "knuckles do not move"


def test_synthetic_gestures_hand_without_joints_accepted():
    clip = Clip("lost", 0, np.arange(3) * NANOSECONDS // 30, np.full((1, 3, 22, 3), np.nan, np.float32))
    assert np.isfinite(unknown_clips.synthetic_hand_gesture(clip, SECONDS, 8, np.random.default_rng(1))).all()


def test_hand_from_body_attached_to_forearm(hands, people):
    clip, pose = people[40], hands[0].bodies[0, 0]
    attached = hand_from_body(clip, pose)
    assert attached.bodies.shape == (1, clip.bodies.shape[1], 22, 3)
    elbow, wrist = (clip.bodies[0, :, KINECT_V2_25.index[f"{joint}_right"]] for joint in ("elbow", "wrist"))
    np.testing.assert_allclose(attached.bodies[0, :, HAND_22.index["wrist"]], wrist, atol=1e-5)
    direction = attached.bodies[0, :, HAND_22.index["middle_base"]] - wrist
    forearm = wrist - elbow
    cosine = (direction * forearm).sum(-1) / np.linalg.norm(direction, axis=-1) / np.linalg.norm(forearm, axis=-1)
    np.testing.assert_allclose(cosine, 1, atol=1e-4)
    np.testing.assert_allclose(
        bone_lengths(attached.bodies[0]), np.broadcast_to(bone_lengths(pose[None]), (len(wrist), 22)), atol=1e-4
    )
    assert np.linalg.det(pose[[5, 9, 17]] - pose[0]) * np.linalg.det(attached.bodies[0, 0, [5, 9, 17]] - wrist[0]) > 0


def test_hands_from_bodies_cycle_poses_and_keep_missing_joints(hands, people):
    clips = hands_from_bodies(ClipDataset([people[i] for i in (3, 50, 99)], people.classes), hands)
    assert (len(clips), clips.layout, clips.names[1]) == (3, "hand_22", people.names[50])
    lengths = [bone_lengths(clips[i].bodies[0])[0] for i in range(3)]
    assert not np.allclose(lengths[0], lengths[1])
    bodies = people[3].bodies.copy()
    bodies[0, 2, KINECT_V2_25.index["wrist_right"]] = np.nan
    clip = dataclasses.replace(people[3], bodies=bodies)
    attached = hand_from_body(clip, hands[0].bodies[0, 0]).bodies[0]
    assert np.isnan(attached[2]).all() and np.isfinite(np.delete(attached, 2, axis=0)).all()


def test_samples_of_hands_include_synthetic_gestures(hands):
    settings = config.build(recipe.Recipe, TINY)
    network = actrec_models.networks.create("sem_net", num_classes=28, **settings.network_options())
    subset = ClipDataset([hands[i] for i in range(0, 400, 10)], hands.classes, hands.layout)
    samples = Samples(subset, network.input_specs, settings.window(network), settings, settings.check())
    labels = [samples[i]["label"] for i in range(len(samples))]
    assert 8 < labels.count(OUTLIER) < 32
    assert all(np.isfinite(samples[i]["body"]).all() for i in range(8))


def test_cross_entropy_outliers_target_uniform_probabilities():
    scores, labels = torch.tensor([[4.0, 0.0], [0.0, 0.0], [3.0, 0.0]]), torch.tensor([0, OUTLIER, OUTLIER])
    known_loss = -torch.log_softmax(scores[0], 0)[0]
    assert cross_entropy(scores, labels) == pytest.approx(known_loss.item())
    assert cross_entropy(scores, torch.full_like(labels, OUTLIER)) == 0
    uniform_losses = [-torch.log_softmax(row, 0).mean().item() for row in scores]
    expected = (known_loss.item() + 0.5 * (uniform_losses[1] + uniform_losses[2])) / 3
    assert cross_entropy(scores, labels, outlier_weight=0.5) == pytest.approx(expected)
    assert uniform_losses[1] < uniform_losses[2]


def test_sem_net_trained_with_outliers_lowers_their_confidence():
    torch.manual_seed(0)
    network = actrec_models.networks.create(
        "sem_net", num_classes=3, frames=8, **{**TINY["options"], "streams": "fuse"}
    )
    assert network.handles_outliers and network.outlier_weight == 0
    batch = {spec.name: torch.randn(6, *spec.shape) for spec in network.input_specs}
    batch["label"] = torch.tensor([0, 1, 2, OUTLIER, OUTLIER, OUTLIER])
    without_outliers = network.losses(batch)["loss"]
    network.outlier_weight = 1.0
    assert network.losses(batch)["loss"] != without_outliers
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        network.losses(batch)["loss"].backward()
        optimizer.step()
    confidences = network.losses(batch)["logits"].softmax(1).max(1).values
    assert confidences[3:].max() < 0.6 < confidences[:3].min()


def test_trainer_outlier_weight_passed_or_raises(data_root, tmp_path):
    settings = config.build(recipe.Recipe, {**TINY, "outlier_weight": 0.7})
    assert module.RecognitionModule(settings.as_dict(), ["a", "b"]).network.outlier_weight == 0.7
    without_outliers = config.build(recipe.Recipe, {**TINY, "outliers": 0.0})
    assert module.RecognitionModule(without_outliers.as_dict(), ["a", "b"]).network.outlier_weight == 0
    options = {"layout": "hand_22", "bodies": 1}
    unsupported = config.build(recipe.Recipe, {**TINY, "model": "sem_spa", "options": options, "frames": None})
    with pytest.raises(ConfigError, match="has a loss of its own without outliers"):
        trainer.train(unsupported, str(data_root), tmp_path / "run")


def test_export_hands_threshold_chosen(data_root, tmp_path, monkeypatch):
    settings = config.build(recipe.Recipe, TINY)
    network = actrec_models.networks.create("sem_net", num_classes=28, **settings.network_options())
    assert rejection.calibration_obstacle(settings, network.input_specs, str(data_root)) == ""
    create: Any = datasets.create
    monkeypatch.setattr(datasets, "create", lambda *args, **options: every_20th(create(*args, **options)))
    checkpoint = trainer.train(settings, str(data_root), tmp_path / "run")
    package = exporter.export(checkpoint, tmp_path / "hands", str(data_root), weights=False)
    assert not (tmp_path / "hands/model.safetensors").exists()
    assert "utd_mhad train part, its right hands with poses of the gestures" in package.rejection.calibrated_on
    assert "without: swipe left, swipe right" in package.rejection.calibrated_on
    assert package.provenance.figures["unknown_clips"] > 0
    assert 0 <= package.provenance.figures["unknown_rejected"] <= 1
    session = inference.load(tmp_path / "hands")
    assert rejection.unknown_logits(settings, session, str(data_root), "test").shape[1] == 28


def every_20th(clips):
    return ClipDataset([clips[i] for i in range(0, len(clips), 20)], clips.classes, clips.layout)


@pytest.mark.parametrize("lost", [("hand", "hand_tip", "thumb"), ("knee", "ankle", "foot")])
def test_synthetic_actions_do_not_show_joints_that_the_clip_lacks(people, lost):
    index = [KINECT_V2_25.index[f"{joint}_{side}"] for joint in lost for side in ("left", "right")]
    bodies = people[40].bodies.copy()
    bodies[:, :, index] = np.nan
    clip = dataclasses.replace(people[40], bodies=bodies)
    for seed in range(8):
        window = unknown_clips.synthetic_body_action(clip, SECONDS, FRAMES, np.random.default_rng(seed))
        assert np.isnan(window[:, :, index]).all() and np.isfinite(np.delete(window, index, axis=2)).all()
