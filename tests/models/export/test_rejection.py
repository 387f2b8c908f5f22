"""The choice of the rejection: separation of unknown actions, and a calibrated confidence."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from actrec import datasets, inference
from actrec.datasets.base import Clip, ClipDataset
from actrec.inference.package import Rejection
from actrec.utils import config
from actrec_models.evaluation.elsewhere import Share
from actrec_models.export import exporter, rejection
from actrec_models.training.recipe import Recipe
from tests.models.made_up import TINY, skeletons
from tests.tiny_model import write_tiny


@pytest.mark.slow
def test_choose_separates_known_from_unknown():
    rng = np.random.default_rng(1)
    labels = rng.integers(5, size=400)
    known = rng.normal(0, 0.3, (400, 5)) + 6 * np.eye(5)[labels]
    weak = rng.normal(0, 0.3, (300, 5)) + 2 * np.eye(5)[rng.integers(5, size=300)]  # one class slightly ahead
    chosen = rejection.choose(known, labels, weak)
    assert chosen.known_kept >= 0.9
    assert chosen.unknown_rejected > 0.95
    stronger = rejection.choose(known, labels, known + 3)  # hardly separable
    assert stronger.separation >= 1 and stronger.confidence(known).mean() > 0.9
    alone = rejection.choose(known, labels, np.zeros((0, 5)))
    assert alone.known_kept == 1.0 and alone.unknown_rejected == 0.0
    for n in (3, 4, 8, 16) * 5:
        few = rejection.choose(rng.normal(size=(n, 3)), rng.integers(3, size=n), rng.normal(size=(30, 3)))
        assert few.known_kept >= rejection.LEAST_KEPT


def test_choose_gives_calibrated_confidence():
    """For logits of any scale; and without errors the confidence stays below 1."""
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 2.0, (4000, 5))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (rng.random((4000, 1)) > chances.cumsum(axis=1)).sum(axis=1)
    others = np.full((500, 5), -8.0) + rng.normal(0, 0.1, (500, 5))  # separable only by the background
    for scale in (0.5, 1.0, 2.0):
        chosen = rejection.choose(scale * logits, labels, scale * others)
        confidence, right = chosen.confidence(scale * logits), logits.argmax(axis=1) == labels
        assert chosen.temperature == pytest.approx(scale, rel=0.15)
        assert confidence.mean() == pytest.approx(right.mean(), abs=0.03)
        assert chosen.unknown_rejected > 0.9
    perfect = rejection.choose(20 * np.eye(3), np.arange(3), np.zeros((4, 3)))
    assert perfect.confidence(20 * np.eye(3)).max() < 1.0


@pytest.mark.parametrize("own", [False, True])
def test_unknown_clips_that_test_are_no_copies(tmp_path, monkeypatch, own):
    """Of the clips that the threshold was chosen on, or of one another; labeled unknown, or of another dataset."""
    made, scored = skeletons(6, ("sway", "jump")), []
    test = [dataclasses.replace(made[index], name=f"test{place}") for place, index in enumerate((3, 4, 5, 5))]
    clips = {"train": made.subset(range(4)), "test": ClipDataset(test, made.classes)}
    empty = ClipDataset([], made.classes)

    def score(_, clips, mode):
        scored.append(clips.names)
        return SimpleNamespace(logits=np.zeros((len(clips), 3)))

    makers = {"create": not own, "create_unknown": own}
    for name, has_clips in makers.items():
        monkeypatch.setattr(
            datasets, name, lambda *_, part="train", has_clips=has_clips, **__: clips[part] if has_clips else empty
        )
    monkeypatch.setattr(rejection.evaluation, "score", score)
    recipe = config.build(Recipe, {**TINY, "dataset": "utd_mhad", "unknown_dataset": "nucla"})
    session = inference.load(write_tiny(tmp_path / "tiny"))
    counts = [len(rejection.unknown_logits(recipe, session, str(tmp_path), part)) for part in ("train", "test")]
    assert counts == [4, 2] and scored[1] == ("test1", "test2")


@pytest.mark.parametrize("apart", [0.0, 0.5, 3.0])
def test_figures_of_a_rejection_agree_with_the_recognizer(tmp_path, apart):
    """Also without a threshold, if the actions are hardly told apart: then the background decides."""
    session, rng = inference.load(write_tiny(tmp_path / "tiny")), np.random.default_rng(5)
    labels = rng.integers(3, size=300)
    known, unknown = rng.normal(0, 1, (300, 3)) + apart * np.eye(3)[labels], rng.normal(0, 1, (300, 3))
    chosen = rejection.choose(known, labels, unknown)
    for each in (
        chosen,
        dataclasses.replace(chosen, threshold=0.0),
        rejection.CalibratedRejection(0.0, 0.8, 1.0, 1, 1),
    ):
        session.package = dataclasses.replace(session.package, rejection=each.for_package(""))
        np.testing.assert_array_equal(each.accepts(known), ~session.is_rejected(session.softmax(known)))
    assert chosen.known_kept == pytest.approx(chosen.accepts(known).mean()) and chosen.known_kept >= 0.9
    assert chosen.unknown_rejected == pytest.approx((~chosen.accepts(unknown)).mean())


def test_choose_prefers_a_threshold_that_separates_as_well_as_the_background():
    """Events begin by it, and the user reads it."""
    labels = np.arange(60) % 3
    known = np.random.default_rng(6).normal(0, 1, (60, 3)) + 4.0 * np.eye(3)[labels]
    chosen = rejection.choose(known, labels, np.full((60, 3), -20.0))
    assert chosen.unknown_rejected == 1.0 and chosen.threshold > 0
    assert rejection.choose(known, labels, np.zeros((0, 3))).threshold == 0, "without other actions there is none"


def test_choose_rejects_wrong_labels_if_asked():
    """Every third clip is confused with the next class, and less sure of it."""
    rng = np.random.default_rng(3)
    labels, wrong = rng.integers(5, size=600), np.arange(600) % 3 == 0
    logits = rng.normal(0, 0.3, (600, 5)) + np.where(wrong, 3.0, 6.0)[:, None] * np.eye(5)[(labels + wrong) % 5]
    none = np.zeros((0, 5))
    assert rejection.choose(logits, labels, none).known_kept == 1.0
    chosen = rejection.choose(logits, labels, none, wrong_rejected=True)
    accepted = chosen.confidence(logits) >= chosen.threshold
    assert accepted[~wrong].mean() >= 0.95 and accepted[wrong].mean() <= 0.05


def test_calibrate_left_out_counts_each_set_the_same(tmp_path, monkeypatch):
    """The larger set has ten times the clips; labels of `other` are no class of the package."""
    session, rng = inference.load(write_tiny(tmp_path / "tiny")), np.random.default_rng(4)
    sizes = {"kard": 200, "hdm05": 20}
    parts = {name: ([name] * size, np.array(["left", "other"] * (size // 2))) for name, size in sizes.items()}

    def score(_, clips, mode):
        logits = rng.normal(0, 0.1, (len(clips), 3))
        logits[0::2, 0] += 8.0 if clips[0] == "kard" else 5.0
        logits[1::2, 0] += 1.0
        return SimpleNamespace(logits=logits)

    monkeypatch.setattr(rejection.elsewhere, "left_out", lambda *_: [Share(name, "own", "train") for name in sizes])
    monkeypatch.setattr(rejection.elsewhere, "shared_clips", lambda _, share, options: parts[share.name])
    monkeypatch.setattr(rejection.evaluation, "score", score)
    longer = dataclasses.replace(session.package.provenance, epochs=20)
    base = dataclasses.replace(session.package, provenance=longer)
    assert "by networks of 1 epochs trained" in rejection.calibrate_left_out([session], base, "")[1]
    chosen, described = rejection.calibrate_left_out([session], session.package, "")
    assert chosen.known_kept >= 0.97 and chosen.unknown_rejected >= 0.97, "most of either set"
    assert "training people of kard and hdm05 by networks trained without the set" in described


@pytest.mark.parametrize("mode", ["whole", "stretched", "live"])
def test_rejection_figures_are_of_the_windows_that_the_threshold_was_chosen_on(tmp_path, monkeypatch, mode):
    """Else a threshold of live windows would be applied to probabilities that are combined over the whole clip."""
    session = inference.load(write_tiny(tmp_path / "tiny"))
    labels = np.arange(30) % 3
    sure = {"live": 1.0, "whole": 6.0, "stretched": 3.0}
    clips = [SimpleNamespace(label=label) for label in labels]
    test = ClipDataset([Clip(str(n), each.label, None, None) for n, each in enumerate(clips)], session.package.labels)
    monkeypatch.setattr(
        exporter.evaluation, "score", lambda _, clips, mode: SimpleNamespace(logits=sure[mode] * np.eye(3)[labels])
    )
    fitted = rejection.CalibratedRejection(0.5, -20.0, 1.0, 1.0, 1.0)
    monkeypatch.setattr(rejection, "calibration_obstacle", lambda *_: "")
    monkeypatch.setattr(rejection, "calibrate", lambda *_: (fitted, "made up"))
    monkeypatch.setattr(rejection, "unknown_logits", lambda *_: np.zeros((0, 3)))
    monkeypatch.setattr(rejection, "calibration_recordings", lambda *_: ())
    monkeypatch.setattr(exporter, "duplicate_figures", lambda *_: {})
    recipe = Recipe(model="sem_net", dataset="nucla", clips=mode)
    made = exporter.with_evaluation(session.package, recipe, session, test, ("", ""))
    chosen_on = sure["live" if mode == "whole" else mode]
    expected = np.exp(chosen_on) / (np.exp(chosen_on) + 2)
    assert made.provenance.figures["test_confidence"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("augment", [True, False])
def test_calibration_clips_are_mirrored_only_if_the_training_augments(tmp_path, monkeypatch, augment):
    """Else "swipe left" would be scored as it is mirrored, under its own label."""
    session, drawn = inference.load(write_tiny(tmp_path / "tiny")), []

    def samples(*arguments):
        drawn.append(arguments[-1].mirror)
        return []

    monkeypatch.setattr(rejection, "Samples", samples)
    monkeypatch.setattr(rejection.evaluation, "window_logits", lambda session, bodies: np.zeros((len(bodies), 3)))
    chosen = Recipe(model="sem_net", dataset="nucla", augment=augment)
    rejection._augmented_logits(chosen, session, None)
    assert drawn == [augment]


def test_rejection_confidence_equals_session(tmp_path):
    plain = inference.load(write_tiny(tmp_path / "tiny"))
    logits = np.random.default_rng(2).normal(0, 3, (20, 3)).astype(np.float32)
    np.testing.assert_allclose(plain.softmax(logits).sum(axis=1), 1, atol=1e-6)
    package = dataclasses.replace(plain.package, rejection=Rejection(0.5, 0.7, background=1.5))
    session = inference.Session(package, plain.backend)
    chosen = rejection.CalibratedRejection(0.5, 1.5, 0.7, 1.0, 1.0)
    assert chosen.for_package("tests") == dataclasses.replace(package.rejection, calibrated_on="tests")
    np.testing.assert_allclose(session.softmax(logits).max(axis=1), chosen.confidence(logits), rtol=1e-5)
    assert (session.softmax(logits).argmax(axis=1) == logits.argmax(axis=1)).all()
    assert (session.softmax(logits).sum(axis=1) < 1).all()
