"""Metrics against values computed by hand, fusion, invalid probabilities, and reports."""

import cv2
import numpy as np
import pytest

from actrec.datasets.base import Clip, ClipDataset
from actrec.utils.errors import ConfigError, InputError
from actrec_models.evaluation import metrics, scoring
from actrec_models.evaluation import report as reports
from actrec_models.evaluation.metrics import EvaluationResult

CLASSES = ("a", "b", "c")
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.3, 0.6, 0.1], [0.2, 0.2, 0.6]])
LABELS = np.array([0, 0, 1, 1])
"""Right, wrong (a as b), right, wrong (b as c)."""


def report(probabilities=PROBABILITIES, labels=LABELS, **changes):
    names = tuple(f"clip{k}" for k in range(len(labels)))
    return EvaluationResult("model", CLASSES, names, np.asarray(labels), np.asarray(probabilities, float), **changes)


def test_top_k_equal_probabilities_rank_in_order():
    assert metrics.top_k(PROBABILITIES, LABELS, 1).tolist() == [True, False, True, False]
    assert metrics.top_k(PROBABILITIES, LABELS, 2).tolist() == [True, True, True, False]  # of 0.2 and 0.2 the first
    assert metrics.top_k(PROBABILITIES, LABELS, 5).all()


def test_calibration_bins_matches_hand_computation():
    confidence = np.array([0.95, 0.92, 0.3, 0.32])
    right = np.array([True, False, True, True])
    bins = metrics.calibration_bins(confidence, right, bins=10)
    # (0.9, 1.0]: mean confidence 0.935, half right; (0.2, 0.3]: 0.3, all right; (0.3, 0.4]: 0.32, all right.
    assert bins.counts.tolist() == [0, 0, 1, 1, 0, 0, 0, 0, 0, 2]
    assert bins.ece == pytest.approx(0.5 * 0.435 + 0.25 * 0.7 + 0.25 * 0.68)
    assert metrics.calibration_bins(np.array([0.0, 1.0]), np.array([False, True])).ece == 0.0
    assert len(metrics.calibration_bins(confidence, right).counts) == 15


def test_likelihood_and_brier_match_hand_computation():
    expected = -np.mean(np.log([0.7, 0.4, 0.6, 0.2]))
    assert metrics.negative_log_likelihood(PROBABILITIES, LABELS) == pytest.approx(expected)
    one = metrics.brier_score(np.array([[0.7, 0.2, 0.1]]), np.array([0]))
    assert one == pytest.approx(0.3**2 + 0.2**2 + 0.1**2)
    # 0.2 of "none of these" counts as a class that is never true.
    assert metrics.brier_score(np.array([[0.5, 0.2, 0.1]]), np.array([0])) == pytest.approx(0.25 + 0.04 + 0.01 + 0.04)
    assert metrics.negative_log_likelihood(np.array([[0.0, 1.0]]), np.array([0])) == pytest.approx(-np.log(1e-12))


def test_average_precision_matches_hand_computation():
    scores, positive = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert metrics.average_precision(scores, positive) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # Equal scores form one step, at the share of positives.
    assert metrics.average_precision(np.full(4, 0.5), positive) == pytest.approx(0.5)
    assert metrics.average_precision(scores, np.zeros(4, bool)) is None


def test_risk_coverage_matches_hand_computation():
    risk = metrics.risk_coverage(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, True]))
    np.testing.assert_allclose(risk, [0, 1 / 2, 1 / 3, 1 / 4])
    # Ties share their errors, so that the order of clips does not matter.
    alike = metrics.risk_coverage(np.full(4, 0.5), np.array([False, True, True, True]))
    np.testing.assert_allclose(alike, 0.25)
    assert metrics.risk_at_coverage(risk, 0.5) == 0.5
    assert metrics.risk_at_coverage(risk, 0.51) == pytest.approx(1 / 3)


def test_bootstrap_interval_contains_mean_and_narrows():
    few, many = (metrics.bootstrap_interval(np.arange(n) % 4 != 0) for n in (40, 4000))
    assert few[0] < 0.75 < few[1]
    # Binomial: 1.96 √(p (1 − p) / N).
    assert many[1] - many[0] == pytest.approx(2 * 1.96 * np.sqrt(0.75 * 0.25 / 4000), rel=0.05)
    assert metrics.bootstrap_interval(np.ones(10, bool)) == (1.0, 1.0)


def test_bootstrap_interval_counts_clip_of_several_models_once():
    right, clips = np.arange(400) % 4 != 0, [f"clip {n}" for n in range(400)]
    once = metrics.bootstrap_interval(right, clips)
    assert metrics.bootstrap_interval(np.tile(right, 3), clips * 3) == pytest.approx(once, abs=0.003)
    # Models with errors on different clips narrow the interval.
    apart = metrics.bootstrap_interval(np.concatenate([right, np.roll(right, 1), np.roll(right, 2)]), clips * 3)
    assert apart[1] - apart[0] < 0.8 * (once[1] - once[0])


def test_result_matches_hand_computation():
    figures = report(threshold=0.55).as_dict()
    assert (figures["clips"], figures["right"], figures["accuracy"]) == (4, 2, 0.5)
    assert figures["mean_class_accuracy"] == 0.5  # a 1/2, b 1/2; c has no clips and does not count
    assert figures["confusion"] == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    b, c = figures["per_class"]["b"], figures["per_class"]["c"]
    assert (b["clips"], b["predicted"], b["recall"], b["precision"], b["f1"]) == (2, 2, 0.5, 0.5, 0.5)
    assert (c["recall"], c["precision"], c["f1"], c["average_precision"]) == (None, 0.0, 0.0, None)
    assert figures["confused"] == [
        {"true": "a", "predicted": "b", "clips": 1, "share": 0.5},
        {"true": "b", "predicted": "c", "clips": 1, "share": 0.5},
    ]
    assert (figures["rejected"], figures["right_and_accepted"]) == (0.25, 0.5)
    assert figures["accuracy_of_accepted"] == pytest.approx(2 / 3)
    # 0.7 right, 0.6 half right (of two), 0.5 wrong: |1 − 0.7| / 4 + |0.5 − 0.6| / 2 + 0.5 / 4.
    assert figures["ece"] == pytest.approx(0.3 / 4 + 0.1 / 2 + 0.5 / 4)
    assert "threshold" not in report().as_dict()


def test_result_unreadable_clip_is_wrong_and_rejected_but_not_miscalibrated():
    probabilities = PROBABILITIES.copy()
    probabilities[0] = 0
    read = report(probabilities, threshold=0.0, unreadable={"clip0": "truncated"})
    figures = read.as_dict()
    assert (figures["clips"], figures["unreadable"], figures["right"]) == (4, 1, 1)
    assert figures["per_class"]["a"]["recall"] == 0.0
    assert np.sum(figures["confusion"]) == 3
    assert figures["rejected"] == 0.25
    assert figures["nll"] == pytest.approx(-np.mean(np.log([0.4, 0.6, 0.2])))
    assert figures["unreadable_clips"] == {"clip0": "truncated"}


def test_result_invalid_input_refused():
    broken = PROBABILITIES.copy()
    broken[2, 1] = np.nan
    with pytest.raises(InputError, match=r"model gave NaN for 1 of 4 clips, first 'clip2'"):
        report(broken)
    with pytest.raises(InputError, match="'clip0'.*no probabilities"):
        report(PROBABILITIES * 2)
    with pytest.raises(InputError, match="no clip to score"):
        report(np.zeros((0, 3)), [])
    with pytest.raises(InputError, match=r"\[4, 2\].*3 classes"):
        report(PROBABILITIES[:, :2])
    with pytest.raises(InputError, match="labels 0 to 3 of 3 classes"):
        report(labels=[0, 1, 2, 3])


# -- fusion ------------------------------------------------------------------------------------------------------------


def test_fuse_matches_hand_computation():
    first, second = np.log([[0.6, 0.3, 0.1]]), np.log([[0.2, 0.7, 0.1]])
    np.testing.assert_allclose(scoring.fuse([first, second]), [[0.4, 0.5, 0.1]])
    weighted = scoring.fuse([first, second], "softmax", [1, 0.6])
    np.testing.assert_allclose(weighted, [[(0.6 + 0.12) / 1.6, (0.3 + 0.42) / 1.6, 0.1]])
    mixed = np.sqrt([0.6 * 0.2, 0.3 * 0.7, 0.1 * 0.1])  # mean of logits: geometric mean of probabilities
    np.testing.assert_allclose(scoring.fuse([first, second], "logits"), [mixed / mixed.sum()])
    np.testing.assert_allclose(scoring.fuse([first, second], "logits", [0, 3]), [[0.2, 0.7, 0.1]])


def test_fuse_wrong_weights_and_streams_refused():
    streams = [np.zeros((2, 3)), np.zeros((2, 3))]
    with pytest.raises(ConfigError, match="1 weights for 2 streams"):
        scoring.fuse(streams, weights=[1])
    for weights in ([1, -1], [0, 0], [1, np.nan]):
        with pytest.raises(ConfigError, match="each must be 0 or more"):
            scoring.fuse(streams, weights=weights)
    with pytest.raises(ConfigError, match="softmax or logits; got 'product'"):
        scoring.fuse(streams, "product")
    with pytest.raises(InputError, match=r"\[2, 3\] and \[2, 4\] cannot be fused"):
        scoring.fuse([streams[0], np.zeros((2, 4))])


def test_make_result_finer_classes_sums_probabilities():
    clips = ClipDataset([Clip("clip", 1, np.arange(1), np.zeros((1, 1, 25, 3), np.float32))], ("a", "b"))
    result = scoring.make_result("model", clips, np.array([[0.1, 0.2, 0.3, 0.4]]), {}, (0, 0, 1, 1))
    np.testing.assert_allclose(result.probabilities, [[0.3, 0.7]])
    assert result.package_confidence == [0.4]


# -- plots -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 27, 200])
def test_plot_confusion_readable_size_for_any_classes(classes):
    rng = np.random.default_rng(0)
    labels = np.arange(3 * classes) % classes
    probabilities = rng.dirichlet(np.ones(classes), len(labels)) * 0.5
    probabilities[np.arange(len(labels)), labels] += 0.5
    names = tuple(f"an action with a long name, the number {k}" for k in range(classes))
    made = EvaluationResult("model", names, tuple(map(str, labels + 1000)), labels, probabilities)
    image = opened(reports.plot_confusion(made))
    assert min(image.shape[:2]) > 400
    assert max(image.shape[:2]) < 2600
    assert image.std() > 5


@pytest.mark.parametrize("name", list(reports.PLOTS))
def test_plots_of_few_clips_can_be_opened(name):
    draw = reports.PLOTS[name][1]
    assert opened(draw(report(threshold=0.5))).shape[2] == 3
    assert opened(draw(report([[1.0, 0.0, 0.0]], [0]))).shape[2] == 3


def opened(content):
    assert content.startswith(b"\x89PNG")
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image
