"""Scoring of clips by a session: clip modes, unreadable clips, and datasets that do not fit."""

import multiprocessing
from dataclasses import fields, replace

import numpy as np
import pytest

from actrec import datasets, inference
from actrec.datasets.base import Clip, ClipDataset
from actrec.features.specs import InputSpec, WindowSpec
from actrec.inference.session import Session, combined
from actrec.recognition import ActionRecognizer
from actrec.types import NANOSECONDS, Body
from actrec.utils.errors import ConfigError, InputError
from actrec_models import evaluation
from actrec_models.data.augmentation import Augmentation
from actrec_models.evaluation import scoring
from actrec_models.evaluation.evaluator import draws_per_model
from tests.models.places import PLACES, TARGETS, Places, still
from tests.tiny_model import LABELS, RAW, write_any, write_tiny

BODY = InputSpec("body", "body", "kinect_v2_25", (1, 3, 4, 25), "m", RAW)
WEIGHTS = np.array([[1.0, -1.0, 0.0]])


@pytest.fixture(autouse=True)
def places(monkeypatch):
    monkeypatch.setattr(datasets.DATASETS, "_targets", {**datasets.DATASETS._targets, **TARGETS})
    monkeypatch.setattr(Places, "read_names", [])


@pytest.fixture
def tiny(tmp_path):
    return inference.load(write_tiny(tmp_path / "tiny"))


def clips(**options):
    return datasets.create("places", "nowhere", split="all", part="test", **options)


def test_score_equals_session_logits(tiny):
    found = scoring.score(tiny, clips())
    own = [tiny.logits([clip.sample(2.0, 8)])[0] for clip in (clips()[i] for i in range(len(PLACES)))]
    np.testing.assert_allclose(found.logits, own, atol=1e-5)
    report = evaluation.evaluate(tiny, clips())
    assert report.clips == tuple(name for name, *_ in PLACES)
    assert (report.correct.sum(), report.accuracy) == (
        6,
        6 / 8,
    )  # "far_unsure" is recognized as "left", the first class
    assert report.per_class["left"]["recall"] == pytest.approx(2 / 3)


def test_score_other_scene_flow_warns_with_settings_of_prepare(tiny, caplog):
    trained = replace(tiny.package.provenance, scene_flow={"method": "pd_flow", "height": 120})
    session = Session(replace(tiny.package, provenance=trained), tiny.backend, warm_up_runs=0)
    dataset = clips()
    for dataset.scene_flow in ({}, trained.scene_flow, {"method": "dis", "height": 120}):
        assert "scene flow" not in caplog.text
        scoring.score(session, dataset)
    message = (
        "tiny: scene flow has method dis, trained with pd_flow; actrec prepare the dataset with --set "
        "flow.method=pd_flow"
    )
    assert message in caplog.text
    with pytest.raises(ConfigError, match=message):
        scoring.score(session, dataset, strict_inputs=True)


def test_score_live_equals_recognizer_with_joint_map_of_window(tmp_path):
    joint_map = InputSpec("joint_map", "joint_map", "kinect_v2_25", (75, 8), "m", {"scope": "window"})
    session = inference.load(write_any(tmp_path / "p", [BODY, joint_map], WindowSpec(0.8, 8, 4, 2)))
    positions = np.random.default_rng(0).normal((0, 0, 2), 0.1, (1, 30, 25, 3)).astype(np.float32)
    clip = Clip("moving", 0, np.arange(30) * NANOSECONDS // 10, positions)
    recognizer = ActionRecognizer(session, interval_s=0.0)
    for stamp_ns, joints in zip(clip.stamps_ns, positions[0], strict=True):
        body = Body("body_1", "kinect_v2_25", joints, np.zeros((25, 2), np.float32), np.ones(25, np.float32))
        recognizer.add_skeletons(int(stamp_ns), [body])
        (label,) = recognizer.predict()
    scores = scoring.score(session, ClipDataset([clip], LABELS))
    assert label.top_probabilities == tuple(sorted(session.softmax(scores.logits)[0], reverse=True))
    whole = session.logits([clip.sample(0.8, 8)])
    assert np.abs(whole - scores.logits).max() > 0.01, "one map for all clips differs"


def with_settings(session, **settings):
    provenance = replace(session.package.provenance, settings=settings)
    return Session(replace(session.package, provenance=provenance), session.backend, warm_up_runs=0)


def test_score_with_draws_combines_augmented_clips(tiny):
    """Without augmentation they equal the clip; with it they are reproducible."""
    nothing = {field.name: 0.0 for field in fields(Augmentation)} | {"speed": 1.0, "mirror": False}
    plain = scoring.score(tiny, clips())
    same = scoring.score(with_settings(tiny, augmentation=nothing), clips(), draws=3)
    np.testing.assert_allclose(same.logits, plain.logits, atol=1e-4)
    others = with_settings(tiny, augmentation={**nothing, "before": 1.0}, outliers=0.9)
    np.testing.assert_allclose(scoring.score(others, clips(), draws=3).logits, plain.logits, atol=1e-4)
    same = scoring.score(with_settings(tiny, augmentation=nothing), clips(), "stretched", draws=2)
    np.testing.assert_allclose(same.logits, scoring.score(tiny, clips(), "stretched").logits, atol=1e-4)
    varied = with_settings(tiny, augmentation={"before": 1.0, "noise_m": 0.1}, outliers=0.9)
    found, again = (scoring.score(varied, clips(), draws=3, workers=workers) for workers in (0, 2))
    np.testing.assert_array_equal(found.logits, again.logits)
    assert np.abs(found.logits - plain.logits).max() > 0.01
    samples = scoring.augmented_samples(varied.package, clips())
    versions = [{"body": samples[number, 1, 0]["body"]} for number in (1, 2, 3)]
    each = [
        varied.run([inputs])[0] for inputs in (next(scoring.clip_inputs(clips()[1], varied.package, "live")), *versions)
    ]
    np.testing.assert_allclose(found.logits[1], combined(np.stack(each)[None], "mean")[0], atol=1e-5)


def test_score_with_draws_without_stored_augmentation_refused(tiny):
    with pytest.raises(ConfigError, match="tiny does not store how its training augmented"):
        scoring.score(tiny, clips(), draws=1)
    with pytest.raises(ConfigError, match="clips were not augmented in the training of tiny"):
        scoring.score(with_settings(tiny, augment=False, augmentation={}), clips(), draws=1)
    stages = [{"epochs": 1}, {"epochs": 1, "augment": False}]
    with pytest.raises(ConfigError, match="clips were not augmented in the training of tiny"):
        scoring.score(with_settings(tiny, augmentation={}, stages=stages), clips(), draws=1)
    assert (
        draws_per_model([], 2) == (0, 0)
        and draws_per_model([4], 2) == (4, 4)
        and draws_per_model([0, 16], 2) == (0, 16)
    )
    with pytest.raises(ConfigError, match="--draws has 2 numbers for 3 models: give one, or one per model"):
        draws_per_model([1, 2], 3)
    with pytest.raises(ConfigError, match="--draws is -1, allowed: 0 to 1000"):
        draws_per_model([-1], 1)


def test_score_reads_each_clip_once(tiny, monkeypatch):
    monkeypatch.setattr(scoring, "BATCH", 3)
    made = scoring._PreparedInputs(clips(), tiny.package, "live")
    for number, _ in enumerate(made, start=1):
        assert len(Places.read_names) == number  # read one by one
    Places.read_names.clear()
    scoring.score(tiny, clips())
    assert Places.read_names == [name for name, *_ in PLACES]


def test_score_with_workers_gives_equal_logits(tiny):
    alone, shared = scoring.score(tiny, clips()), scoring.score(tiny, clips(broken=("far_1",)), skip_unreadable=True,
                                                                workers=2)  # fmt: skip
    kept = [k for k, (name, *_) in enumerate(PLACES) if name != "far_1"]
    np.testing.assert_array_equal(alone.logits[kept], shared.logits[kept])
    assert list(shared.unreadable) == [5]
    with pytest.raises(InputError, match=r"^nowhere/far_1.skeleton is truncated; repair it, .*--skip-unreadable$"):
        scoring.score(tiny, clips(broken=("far_1",)), workers=2)


def test_score_unreadable_clip_refused_or_counted_as_wrong(tiny):
    with pytest.raises(InputError, match=r"left_2.skeleton is truncated"):
        scoring.score(tiny, clips(broken=("left_2",)))
    scores = scoring.score(tiny, clips(broken=("left_2",)), skip_unreadable=True)
    report = evaluation.evaluate(tiny, clips(), scores=scores)
    assert (len(report.labels), report.correct.sum(), list(report.unreadable)) == (8, 5, ["left_2"])
    with pytest.raises(InputError, match=r"none of 8 clips can be read; first: nowhere/left_1.skeleton"):
        scoring.score(tiny, clips(broken=[name for name, *_ in PLACES]), skip_unreadable=True)


def test_frame_rates_skip_unreadable_clips_if_asked():
    """They are asked for before any clip of a network of images is scored."""
    broken = clips(broken=("left_2",))
    assert broken.frame_rates(skip_unreadable=True) == clips().frame_rates() != ()
    with pytest.raises(InputError, match=r"left_2.skeleton is truncated"):
        broken.frame_rates()


def test_score_workers_are_spawned_on_a_system_without_fork(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert scoring._worker_context().get_start_method() == "spawn"


def test_score_live_takes_last_window_and_whole_all(tmp_path):
    """x is 8 in the first second, 1 in the last; windows are of a second, 4 frames, their logits the mean of x."""
    package = write_any(tmp_path / "any", [BODY], WindowSpec(1.0, 4, combine="logits"), weights=9.375 * WEIGHTS)
    session = inference.load(package)
    clip = still("walk", 0, [(8.0, 0.0)] * 4 + [(4.0, 0.0)] * 4 + [(1.0, 0.0)] * 4)
    walk = ClipDataset([clip], LABELS)
    mean = 9.375 / 3  # the network averages over x, y and z
    assert scoring.score(session, walk, "live").logits[0, 0] == pytest.approx(1.0 * mean, rel=1e-4)
    # In steps of half a window: 8 8 8 8 | 8 8 4 4 | 4 4 4 4 | 4 4 1 1 | 1 1 1 1.
    expected = np.mean([8, 6, 4, 2.5, 1]) * mean
    assert scoring.score(session, walk, "whole").logits[0, 0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("combine", "expected"),
    [("max", "most confident"), ("mean", "mean of probabilities")],
)
def test_score_whole_combines_clips_as_package(tmp_path, combine, expected):
    """Windows of two clips of 4 frames: clips follow in the package's stride over the whole recording."""
    package = write_any(tmp_path / "any", [BODY], WindowSpec(1.5, 6, 4, 2, combine), weights=WEIGHTS)
    session = inference.load(package)
    clip = still("walk", 0, [(6.0, 0.0)] * 4 + [(0.0, 0.0)] * 4)
    found = session.softmax(scoring.score(session, ClipDataset([clip], LABELS), "whole").logits)[0]
    logits = np.array([[x, -x, 0.0] for x in (2.0, 1.0, 0.0)])  # thirds of 6, 3 and 0
    each = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    joint = each.max(axis=0) if combine == "max" else each.mean(axis=0)
    np.testing.assert_allclose(found, joint / joint.sum(), rtol=1e-4, err_msg=expected)


def test_score_unfitting_dataset_refused(tmp_path, tiny):
    with pytest.raises(ConfigError, match="'first'; known: live, whole, stretched"):
        scoring.score(tiny, clips(), "first")
    with pytest.raises(InputError, match=r"part is empty, there is no clip"):
        scoring.score(tiny, datasets.create("places", "nowhere", split="none", part="test"))
    hands = ClipDataset([still("hand", 0, [(0.0, 0.0)])], LABELS, "hand_22")
    with pytest.raises(InputError, match="takes joints of kinect_v2_25 but the dataset's are hand_22"):
        scoring.score(tiny, hands)
    with pytest.raises(InputError, match="tiny knows left, right, far but the dataset's classes are a, b, c"):
        evaluation.evaluate(tiny, ClipDataset([still("x", 0, [(0.0, 0.0)])], ("a", "b", "c")))
    image = InputSpec("image", "image", "CTHW", (3, 4, 16, 16))
    session = inference.load(write_any(tmp_path / "image", [BODY, image], WindowSpec(1.0, 4)))
    with pytest.raises(
        ConfigError, match=r"image takes bodies, color, but the dataset has no color .*: use recordings"
    ):
        scoring.score(session, clips())


def test_evaluate_nan_logits_refused(tmp_path):
    session: Session = inference.load(write_tiny(tmp_path / "broken", poison=True))
    near = ClipDataset([still("fine", 0, [(0.0, 2.0)]), still("near", 0, [(0.0, 0.5)])], LABELS)
    with pytest.raises(InputError, match="broken gave NaN for 1 of 2 clips, first 'near'"):
        evaluation.evaluate(session, near)
