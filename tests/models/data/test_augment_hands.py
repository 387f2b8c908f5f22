"""Hand augmentation, and mirroring of classes with a side."""

import dataclasses

import numpy as np
import pytest

from actrec import datasets
from actrec.skeleton import layouts
from actrec.skeleton.layouts import HAND_22
from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec_models.data.augmentation import Augmentation, augment_hands, names_side
from actrec_models.data.samples import check_streams, unused_augmentation
from actrec_models.networks import create
from actrec_models.training import recipe

PALM = HAND_22.index["palm"]


@pytest.fixture(scope="module")
def hands(data_root):
    """Return the joints [1, T, 22, 3] of a swipe."""
    return datasets.create("shrec17_28", str(data_root / "shrec17"), part="train")[1000].bodies


def only(**settings: float) -> Augmentation:
    """Return an augmentation with only the given changes."""
    no_change = {field.name: 0.0 for field in dataclasses.fields(Augmentation)}
    return config.build(Augmentation, {**no_change, "speed": 1.0, "mirror": False, **settings})


def shape_and_path(hands):
    """Return the joints [T, 22, 3] relative to the palm, and the palm's path [T, 3] relative to its mean."""
    palm = hands[0, :, PALM]
    return hands[0] - palm[:, None], palm - palm.mean(axis=0)


def test_augmentation_with_no_changes_returns_the_clip(hands):
    augmented = augment_hands(hands, only(), np.random.default_rng(0))
    assert augmented.dtype == np.float32
    # The joints keep their positions relative to the first joint of the first frame.
    np.testing.assert_allclose(augmented, hands - hands[:1, :1, :1], atol=1e-6)


def test_reach_scales_the_path_and_keeps_the_hand_shape(hands):
    shape, path = shape_and_path(hands)
    factors = []
    for seed in range(30):
        new_shape, new_path = shape_and_path(augment_hands(hands, only(reach=0.6), np.random.default_rng(seed)))
        np.testing.assert_allclose(new_shape, shape, atol=1e-5)
        factors.append(float((new_path * path).sum() / (path**2).sum()))
        np.testing.assert_allclose(new_path, factors[-1] * path, atol=1e-5)
    assert 0.4 <= min(factors) < 0.6
    assert 1.4 < max(factors) <= 1.6


def test_held_deg_rotates_the_hand_about_the_palm_and_keeps_the_path(hands):
    shape, path = shape_and_path(hands)
    angles = []
    for seed in range(30):
        new_shape, new_path = shape_and_path(augment_hands(hands, only(held_deg=20), np.random.default_rng(seed)))
        np.testing.assert_allclose(new_path, path, atol=1e-5)
        rotation, *_ = np.linalg.lstsq(shape.reshape(-1, 3), new_shape.reshape(-1, 3), rcond=None)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-4)  # the same rotation in all frames
        angles.append(np.degrees(np.arccos((np.trace(rotation) - 1) / 2)))
    assert 15 < max(angles) <= 20 * np.sqrt(3)


def test_augmentation_frames_without_hand_stay_empty_and_do_not_affect_others(hands):
    options, with_gaps = only(reach=0.6, held_deg=20), hands.copy()
    with_gaps[:, 5:9] = np.nan
    augmented = augment_hands(with_gaps, options, np.random.default_rng(1))
    np.testing.assert_array_equal(np.isnan(augmented), np.isnan(with_gaps))
    complete = augment_hands(hands, options, np.random.default_rng(1))
    np.testing.assert_allclose(shape_and_path(augmented)[0][:5], shape_and_path(complete)[0][:5], atol=1e-5)
    assert np.isnan(augment_hands(np.full_like(hands, np.nan), options, np.random.default_rng(1))).all()


def test_hand_augmentation_without_hands_raises(data_root):
    settings = {"model": "sem_net", "dataset": "nucla", "split": "view", "augmentation": {"reach": 0.5}}
    bodies = datasets.create("nucla", str(data_root / "nucla"), split="view", part="train")
    specs = create("sem_net", num_classes=10).input_specs
    with pytest.raises(ConfigError, match=r"reach and held_deg vary hands, but dataset 'nucla' holds kinect_v2_25"):
        check_streams(bodies, specs, config.build(recipe.Recipe, settings))


def test_background_needs_only_the_streams_that_the_network_takes():
    bodies, images = np.zeros((1, 2, 25, 3), np.float32), np.zeros((2, 4, 4, 3), np.uint8)
    clips, others = (
        datasets.ClipDataset([datasets.Clip("clip", 0, np.arange(2), bodies, streams)], ("wave", "clap"))
        for streams in ({"color": images}, {})
    )
    for model in ("sem_net", "p_i3d"):
        specs = create(model, num_classes=2).input_specs
        chosen = config.build(recipe.Recipe, {"model": model, "background": 0.1})
        if model == "sem_net":
            check_streams(clips, specs, chosen, background=others)
        else:
            with pytest.raises(ConfigError, match="clips of the background hold no color, which p_i3d takes"):
                check_streams(clips, specs, chosen, background=others)


@pytest.mark.parametrize(
    ("classes", "layout", "changes", "message"),
    [
        (("swipe_left", "Swipe RIGHT", "clap"), "kinect_v2_25", {}, "'swipe_left', 'Swipe RIGHT' name a side"),
        (("draw circle counter-clockwise", "clap"), "kinect_v2_25", {}, "'draw circle counter-clockwise' name a side"),
        (("bright", "clap"), "kinect_v2_25", {}, ""),
        (("swipe_left", "clap"), "kinect_v2_25", {"augmentation": {"mirror": False}}, ""),
        (("swipe_left", "clap"), "kinect_v2_25", {"augment": False}, ""),
        (("swipe_left", "clap"), "hand_22", {}, ""),
    ],
)
def test_mirror_with_sided_classes_warns(classes, layout, changes, message, caplog):
    bodies = np.zeros((1, 2, len(layouts.get(layout)), 3), np.float32)
    clips = datasets.ClipDataset([datasets.Clip("clip", 0, np.arange(2), bodies)], classes, layout)
    specs = create("sem_net", num_classes=len(classes), layout=layout).input_specs
    check_streams(clips, specs, config.build(recipe.Recipe, {"model": "sem_net", **changes}))
    assert message in caplog.text
    assert bool(message) == bool(caplog.records)


def test_sided_labels_in_any_spelling_found():
    sided = "left Left-Swipe swipe_right swipeLeft leftSwipe LeftHand SwipeLEFT swipeleft lefthand rightarm leftwards"
    rotations = "turn_cw turnCCW CCWTurn ccw90 rotate-anticlockwise counterClockwise clockwise2 Clockwise"
    for label in [*sided.split(), *rotations.split(), "raise the right hand", "up-right", "all, then right"]:
        assert names_side(label), label
    other = "bright Upright sitUpright cleft leftover leftovers copyright outright fright alright playwright rightly"
    for label in [
        *other.split(),
        "all right",
        "thumbs up: All_Right",
        "allRight",
        "clock",
        "wipe",
        "lift",
        "cwm",
        "",
    ]:
        assert not names_side(label), label


@pytest.mark.parametrize(
    ("attention", "mirror", "made"),
    [
        (True, True, None),
        (False, True, None),
        (False, False, None),
        (True, True, ["body_crop"]),
        (True, True, ["pose"]),
    ],
)
def test_mirror_of_images_with_sided_classes_warns(attention, mirror, made, caplog):
    """A stage that reads no pose mirrors its images, as a network without poses does."""
    streams = {"pixels": np.zeros((1, 2, 25, 2), np.float32), "color": np.zeros((2, 8, 8, 3), np.uint8)}
    clip = datasets.Clip("clip", 0, np.arange(2), np.zeros((1, 2, 25, 3), np.float32), streams)
    specs = create("p_i3d", num_classes=2, width=0.05, attention=attention).input_specs
    settings = {"model": "p_i3d", "augmentation": {"mirror": mirror}}
    clips = datasets.ClipDataset([clip], ("swipe_left", "clap"))
    check_streams(clips, specs, config.build(recipe.Recipe, settings), made)
    assert ("'swipe_left' name a side" in caplog.text) == (mirror and (not attention or made == ["body_crop"]))


@pytest.mark.parametrize("settings", [{"reach": 1.0}, {"held_deg": -1.0}])
def test_augmentation_value_out_of_range_raises(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        only(**settings)


def test_augmentation_joint_missing_in_all_frames_keeps_other_joints(hands):
    for joint in (HAND_22.index["wrist"], HAND_22.index["index_first"]):
        without_joint = hands.copy()
        without_joint[:, :, joint] = np.nan
        augmented = augment_hands(without_joint, Augmentation(missing=0.0), np.random.default_rng(1))
        np.testing.assert_array_equal(np.isnan(augmented), np.isnan(without_joint))


def test_augmentation_of_bodies_does_nothing_for_hands():
    specs = create("sem_net", num_classes=2, layout="hand_22").input_specs
    changes = {"exchange": 0.5, "smoothed": 0.3, "reach": 0.2}
    settings = config.build(recipe.Recipe, {"model": "sem_net", "augmentation": changes})
    assert unused_augmentation(specs, settings).startswith("augmentation: exchange, smoothed does nothing")
    assert not unused_augmentation(specs, config.build(recipe.Recipe, {"model": "sem_net"}))
