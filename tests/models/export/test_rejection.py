"""The choice of the rejection: separation of unknown actions, and a calibrated confidence."""

import dataclasses

import numpy as np
import pytest

from actrec import inference
from actrec.inference.package import Rejection
from actrec_models.export import rejection
from tests.tiny_model import write_tiny


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
