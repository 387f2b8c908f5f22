"""The recognizer core: one window per body, which bodies get labels, and no stale labels."""

import contextlib
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from actrec import inference
from actrec.features.specs import InputSpec
from actrec.inference import package
from actrec.inference.package import EventThresholds
from actrec.inference.session import Session
from actrec.recognition import ActionPrediction, ActionRecognizer
from actrec.skeleton import layouts
from actrec.skeleton.windows import resample, sample_stamps
from actrec.types import Body, Prediction
from actrec.utils.errors import ConfigError, InputError, PackageError
from tests.example_scene import update
from tests.tiny_model import person_at, write_tiny

PERIOD_NS = 100_000_000
START_NS = 1_700_000_000_000_000_000


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return inference.load(write_tiny(tmp_path_factory.mktemp("models") / "tiny"))


def stamp(frame: float) -> int:
    return START_NS + round(frame * PERIOD_NS)


def body(x: float, body_id: str = "body_1", z: float = 2.0, layout: str = "kinect_v2_25") -> Body:
    joints = len(layouts.get(layout))
    positions = np.tile(person_at(x, z)[:1], (joints, 1))
    return Body(body_id, layout, positions, np.full((joints, 2), np.nan, np.float32), np.ones(joints, np.float32))


class EachFrame(ActionRecognizer):
    """A recognizer that labels every frame."""

    def __init__(self, session: Session, **options: object):
        super().__init__(session, **{"interval_s": 0.0, **options})


def feed(recognizer: ActionRecognizer, frames: range, *bodies: Body) -> list[ActionPrediction]:
    """Add the same bodies in each of the frames; return the last frame's labels."""
    return [update(recognizer, stamp(frame), list(bodies)) for frame in frames][-1]


@contextlib.contextmanager
def before_each_run(
    monkeypatch: pytest.MonkeyPatch, session: Session, act: Callable[[], object]
) -> Generator[None, None, None]:
    """Call `act` each time that the network is about to run, as another thread may."""
    run = session.backend.run

    def act_and_run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        act()
        return run(inputs)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(session.backend, "run", act_and_run)
        yield


def test_predict_label_carries_stamps_of_window(session: Session) -> None:
    recognizer = EachFrame(session)
    (label,) = feed(recognizer, range(31), body(1.0))
    assert (label.body_id, label.label, label.class_id, label.model_name) == ("body_1", "right", 1, "tiny")
    assert label.stamp_ns == stamp(30)
    assert label.window_start_ns == stamp(10)  # the tiny model's window is 2 s long
    assert label.confidence == label.top_probabilities[0] > 0.99
    assert label.top_labels[0] == "right" and len(label.top_labels) == 3


def test_predict_uneven_frames_are_resampled_by_time(session: Session) -> None:
    """A person who moves halfway through the window gets the same label at 30 Hz and at 6 Hz."""
    results = []
    for step in (1 / 3, 5 / 3):
        recognizer = EachFrame(session)
        for frame in np.arange(0, 20 + 1e-6, step):
            (label,) = update(recognizer, stamp(frame), [body(-0.05 if frame < 10 else 0.05, z=4.0)])
        results.append(dict(zip(label.top_labels, label.top_probabilities, strict=True)))
    assert results[0]["right"] == pytest.approx(results[1]["right"], abs=0.03)


def test_predict_two_bodies_share_one_network_run(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer = EachFrame(session)
    feed(recognizer, range(10), body(-1.0, "body_1"), body(1.0, "body_2"))
    sizes = []
    run = session.backend.run

    def record_batch_size(inputs: dict[str, np.ndarray]) -> np.ndarray:
        sizes.append(len(inputs["body"]))
        return run(inputs)

    monkeypatch.setattr(session.backend, "run", record_batch_size)
    labels = update(recognizer, stamp(10), [body(-1.0, "body_1"), body(1.0, "body_2")])
    assert {label.body_id: label.label for label in labels} == {"body_1": "left", "body_2": "right"}
    assert sizes == [2]


def test_predict_rejected_label_keeps_top_classes(session: Session) -> None:
    (label,) = feed(EachFrame(session), range(10), body(0.0, z=4.0))
    assert (label.label, label.class_id) == ("unknown", -1)
    assert label.confidence == pytest.approx(1 / 3, abs=1e-3)
    assert set(label.top_labels) == {"left", "right", "far"}


def test_predict_new_body_is_unknown_until_min_seconds(session: Session) -> None:
    recognizer = EachFrame(session, min_seconds=0.5)
    labels = [update(recognizer, stamp(frame), [body(1.0)])[0] for frame in range(7)]
    assert [label.label for label in labels] == ["unknown"] * 5 + ["right"] * 2
    assert labels[0].top_labels == () and labels[0].class_id == -1 and labels[0].confidence == 0.0
    assert update(EachFrame(session, min_seconds=0.0), stamp(0), [body(1.0)])[0].label == "right"


def test_predict_min_seconds_is_limited_to_window(session: Session) -> None:
    (label,) = feed(EachFrame(session, min_seconds=30.0), range(31), body(1.0))
    assert label.label == "right"


def test_predict_interval_limits_label_rate(session: Session) -> None:
    recognizer = EachFrame(session, interval_s=0.3, min_seconds=0.0)
    labeled_frames = [frame for frame in range(13) if update(recognizer, stamp(frame), [body(1.0)])]
    assert labeled_frames == [0, 3, 6, 9, 12]


def test_predict_empty_frame_is_unknown(session: Session) -> None:
    recognizer = EachFrame(session)
    for frame in range(3):
        (label,) = update(recognizer, stamp(frame), [])
        assert (label.body_id, label.label, label.class_id) == ("", "unknown", -1)
        assert label.stamp_ns == label.window_start_ns == stamp(frame)


def test_add_skeletons_lost_body_ends_with_one_unknown(session: Session) -> None:
    recognizer = EachFrame(session, lost_after_s=0.3)
    assert feed(recognizer, range(10), body(1.0, "body_1"), body(-1.0, "body_2"))[0].label == "right"
    frames = [update(recognizer, stamp(frame), [body(-1.0, "body_2")]) for frame in range(10, 20)]
    lost_labels = [label for frame in frames for label in frame if label.body_id == "body_1"]
    assert [(label.label, label.stamp_ns) for label in lost_labels] == [("unknown", stamp(12))]
    assert all(label.label == "left" for frame in frames for label in frame if label.body_id == "body_2")


def test_add_skeletons_last_lost_body_ends_before_empty_frame(session: Session) -> None:
    """An empty scene is reported at once, a lost body once, after lost_after_s."""
    recognizer = EachFrame(session, lost_after_s=0.2)
    feed(recognizer, range(10), body(1.0))
    labels = [label for frame in range(10, 15) for label in update(recognizer, stamp(frame), [])]
    assert {label.label for label in labels} == {"unknown"}
    assert [label.stamp_ns for label in labels if label.body_id == "body_1"] == [stamp(11)]
    assert [label.stamp_ns for label in labels if label.body_id == ""] == [stamp(frame) for frame in range(10, 15)]


def test_add_skeletons_returning_body_restarts_window(session: Session) -> None:
    recognizer = EachFrame(session, lost_after_s=0.3)
    feed(recognizer, range(20), body(1.0))
    feed(recognizer, range(20, 30))
    (label,) = update(recognizer, stamp(30), [body(-1.0)])
    assert (label.label, label.window_start_ns) == ("unknown", stamp(30))
    (label,) = feed(recognizer, range(31, 40), body(-1.0))
    assert (label.label, label.window_start_ns) == ("left", stamp(30))


def test_add_skeletons_short_absence_keeps_window(session: Session) -> None:
    recognizer = EachFrame(session, lost_after_s=0.5)
    feed(recognizer, range(10), body(1.0))
    feed(recognizer, range(10, 12))
    (label,) = update(recognizer, stamp(12), [body(1.0)])
    assert (label.label, label.window_start_ns) == ("right", stamp(0))


def test_add_skeletons_long_gap_restarts_window(session: Session) -> None:
    recognizer = EachFrame(session)
    feed(recognizer, range(10), body(1.0))
    (label,) = update(recognizer, stamp(60), [body(1.0)])
    assert (label.label, label.window_start_ns) == ("unknown", stamp(60))


def test_add_skeletons_stamps_jump_back_restarts_all_windows(session: Session) -> None:
    recognizer = EachFrame(session)
    feed(recognizer, range(50, 70), body(1.0, "body_1"), body(1.0, "body_2"))
    labels = update(recognizer, stamp(0), [body(-1.0, "body_1")])
    assert [(label.body_id, label.label, label.stamp_ns) for label in labels] == [
        ("body_2", "unknown", stamp(0)),
        ("body_1", "unknown", stamp(0)),
    ]
    (label,) = feed(recognizer, range(1, 10), body(-1.0, "body_1"))
    assert (label.label, label.window_start_ns) == ("left", stamp(0))
    assert recognizer.counts.restarts == 1


def test_add_skeletons_body_over_limit_after_jump_back_ends(session: Session) -> None:
    recognizer = EachFrame(session, max_bodies=1)
    feed(recognizer, range(10), body(1.0, "first", z=4.0))
    bodies = body(1.0, "first", z=4.0), body(-1.0, "nearer", z=1.5)
    update(recognizer, stamp(10), bodies)
    labels = update(recognizer, stamp(5), bodies)
    assert [(w.body_id, w.label) for w in labels] == [("first", "unknown"), ("nearer", "unknown")]
    assert list(recognizer._tracks) == ["nearer"]


def test_add_skeletons_duplicate_frame_is_ignored(session: Session) -> None:
    recognizer = EachFrame(session)
    feed(recognizer, range(10), body(1.0))
    assert update(recognizer, stamp(9), [body(-1.0)]) == []
    assert recognizer.counts.duplicates == 1 and recognizer.counts.frames == 10


def test_add_skeletons_duplicate_frame_of_a_turned_camera_is_ignored(session: Session) -> None:
    recognizer = EachFrame(session)
    for frame in range(10):
        recognizer.add_skeletons(stamp(frame), [body(1.0)], np.array([0.0, -1.0, 0.0]))
    recognizer.add_skeletons(stamp(9), [body(1.0)], np.array([1.0, 0.0, 0.0]))
    (label,) = recognizer.predict()
    assert (label.label, recognizer.counts.duplicates, recognizer.counts.restarts) == ("right", 1, 0)


def test_add_skeletons_without_predict_extends_window(session: Session) -> None:
    recognizer, other = EachFrame(session), EachFrame(session)
    for frame in range(20):
        assert update(recognizer, stamp(frame), [body(1.0)], predict=False) == []
    feed(other, range(20), body(1.0))
    ((one,), (two,)) = (update(each, stamp(20), [body(1.0)]) for each in (recognizer, other))
    assert one == replace(two, duration_s=0.0)  # its first label
    assert recognizer.counts.skipped == 20


def test_add_skeletons_without_predict_reports_lost_body(session: Session) -> None:
    recognizer = EachFrame(session, lost_after_s=0.2)
    feed(recognizer, range(10), body(1.0))
    labels = [label for f in range(10, 20) for label in update(recognizer, stamp(f), [], predict=False)]
    assert [(label.body_id, label.label) for label in labels] == [("body_1", "unknown")]


def test_predict_missing_joints_still_labels(session: Session) -> None:
    occluded = body(1.0)
    occluded.positions[5:12] = np.nan
    (label,) = feed(EachFrame(session), range(10), occluded)
    assert label.label == "right"


def test_add_skeletons_body_without_joints_is_ignored(session: Session) -> None:
    empty_body = body(1.0)
    empty_body.positions[:] = np.nan
    recognizer = EachFrame(session, lost_after_s=0.3)
    (label,) = update(recognizer, stamp(0), [empty_body])
    assert (label.body_id, label.label) == ("", "unknown")
    feed(recognizer, range(1, 11), body(1.0))
    labels = [label for frame in range(11, 20) for label in update(recognizer, stamp(frame), [empty_body])]
    assert {label.label for label in labels} == {"unknown"}
    assert [label.stamp_ns for label in labels if label.body_id] == [stamp(13)]


def test_predict_nan_output_is_unknown(tmp_path: Path) -> None:
    recognizer = EachFrame(inference.load(write_tiny(tmp_path / "poison", poison=True)), labels="events")
    labels = feed(recognizer, range(30), body(1.0, "body_1", z=0.5), body(1.0, "body_2", z=2.0))
    by_id = {label.body_id: label for label in labels}
    assert (by_id["body_1"].label, by_id["body_1"].top_labels, by_id["body_1"].confidence) == ("unknown", (), 0.0)
    assert by_id["body_2"].label == "right"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "octopus_64"}, "unknown layout 'octopus_64'; known: .*kinect_v2_25"),
        ({"layout": "hand_21", "positions": np.zeros((21, 3), np.float32)}, "no conversion from layout 'hand_21'"),
        ({"positions": np.zeros((20, 3), np.float32)}, r"positions \[20, 3\], expected \[25, 3\] of kinect_v2_25"),
        ({"positions": np.full((25, 3), np.inf, np.float32)}, "infinite"),
        ({"positions": np.full((25, 3), 2500.0, np.float32)}, "more than 1000 m away: are positions in meters"),
        ({"body_id": ""}, "no id"),
        ({"body_id": "body_2"}, "two bodies"),
    ],
)
def test_add_skeletons_invalid_body_raises_and_changes_nothing(
    session: Session, change: dict[str, object], message: str
) -> None:
    recognizer = EachFrame(session)
    feed(recognizer, range(10), body(1.0, "body_2"))
    with pytest.raises(InputError, match=message):
        update(recognizer, stamp(10), [body(1.0, "body_2"), replace(body(1.0, "body_1"), **change)])  # type: ignore[arg-type]
    (label,) = update(recognizer, stamp(11), [body(1.0, "body_2")])
    assert (label.body_id, label.label, label.window_start_ns) == ("body_2", "right", stamp(0))


@pytest.mark.parametrize("layout", ["kinect_v1_20", "azure_kinect_32", "mediapipe_33"])
def test_add_skeletons_other_layout_is_converted(session: Session, layout: str) -> None:
    (label,) = feed(EachFrame(session), range(10), body(1.0, layout=layout))
    assert label.label == "right"


def test_add_skeletons_over_limit_keeps_tracked_and_nearest(session: Session) -> None:
    recognizer = EachFrame(session, max_bodies=2, min_seconds=0.0)
    update(recognizer, stamp(0), [body(1.0, "far", z=5.0)])
    bodies = [body(1.0, "far", z=5.0), body(1.0, "near", z=1.0), body(1.0, "middle", z=3.0)]
    assert {label.body_id for label in update(recognizer, stamp(1), bodies)} == {"far", "near"}
    assert recognizer.counts.over_limit == 1


def test_predict_smoothing_averages_probabilities(session: Session) -> None:
    recognizer = EachFrame(session, labels="events", events={"smoothing_s": 1.0})
    feed(recognizer, range(40), body(-0.2))
    raw, smooth = EachFrame(session), recognizer
    feed(raw, range(40), body(-0.2))
    for frame in range(40, 60):
        (raw_label,), (smooth_label,) = (update(each, stamp(frame), [body(0.2)]) for each in (raw, smooth))
    probability = dict(zip(smooth_label.top_labels, smooth_label.top_probabilities, strict=True))["right"]
    assert 0.5 < probability < dict(zip(raw_label.top_labels, raw_label.top_probabilities, strict=True))["right"]
    assert sum(smooth_label.top_probabilities) == pytest.approx(1.0, abs=0.01)


def test_predict_labels_of_events_change_once_per_event(session: Session) -> None:
    """A body's label is its event: none before its window is full, and no change while two classes take turns."""
    recognizer, raw = (EachFrame(session, labels=source) for source in ("events", "windows"))
    seen = {}
    for each in (recognizer, raw):
        labels = [label for frame in range(40) for label in update(each, stamp(frame), [body(-1.0)])]
        for frame in range(40, 100):
            labels += update(each, stamp(frame), [body(-1.0 if frame % 30 < 20 else 0.02, z=4.0)])
        seen[each.config.labels] = [label.label for label in labels]
    assert seen["events"][:20] == ["unknown"] * 20 and "left" in seen["windows"][:20]
    changes = {source: sum(a != b for a, b in pairwise(own)) for source, own in seen.items()}
    assert changes["events"] <= 2 * sum(event.kind == "began" for event in recognizer.events())
    assert {*seen["events"]} == {"unknown", "left"}


def test_predict_labels_auto_are_events_of_a_model_with_thresholds(session: Session, tmp_path: Path) -> None:
    described = replace(session.package, events=EventThresholds(begin=0.9))
    other = package.write(tmp_path / "with_events", described, session.package.onnx_path().read_bytes())
    recognizer = EachFrame(session)
    (before,) = feed(recognizer, range(10), body(1.0))
    assert (before.label, recognizer.labels_events) == ("right", False)
    recognizer.set_session(inference.load(other))
    bodies = body(1.0), body(-1.0, "body_2", z=4.0)
    seen = [{each.body_id: each.label for each in feed(recognizer, range(k, k + 1), *bodies)} for k in range(10, 50)]
    assert {label for labels in seen[:20] for label in labels.values()} == {"unknown"}, "no full window so far"
    assert seen[-1] == {"body_1": "right", "body_2": "left"}
    for labels in (feed(recognizer, range(k, k + 1), *bodies) for k in range(58, 70)):  # a gap restarts the windows
        assert {each.label: each.confidence > 0.9 for each in labels} == {"right": True, "left": True}
    recognizer.set_session(session)
    assert {each.label for each in feed(recognizer, range(70, 80), *bodies)} == {"right", "left"}


@pytest.mark.parametrize("labels", ["events", "windows"])
def test_predict_track_that_ends_meanwhile_begins_no_event(
    session: Session, monkeypatch: pytest.MonkeyPatch, labels: str
) -> None:
    """Stamps jump back while the network runs: a single window is no event, whatever the network says of it."""
    recognizer = EachFrame(session, labels=labels)
    feed(recognizer, range(10), body(1.0))
    recognizer.add_skeletons(stamp(10), [body(1.0)])
    with before_each_run(monkeypatch, session, lambda: recognizer.add_skeletons(stamp(-100), [body(-1.0)])):
        (label,) = recognizer.predict()
    assert (label.label, label.top_labels[0]) == ("unknown" if labels == "events" else "right", "right")
    recognizer.predict()
    later = [each for frame in range(-99, -80) for each in update(recognizer, stamp(frame), [body(-1.0)])]
    assert all(each.duration_s >= 0 for each in later), "the new track knows nothing of the old one's label"


def test_predict_events_that_are_ended_meanwhile_do_not_begin_again(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node stops, or frames are missed, while the network runs: nothing would end the new event."""
    at_once = {"smoothing_s": 0.0, "begin_s": 0.0}
    recognizer = EachFrame(session, labels="events", events=at_once)
    feed(recognizer, range(40), body(1.0))
    assert [event.kind for event in recognizer.events()] == ["began"]
    recognizer.add_skeletons(stamp(40), [body(1.0)])
    with before_each_run(monkeypatch, session, recognizer.end_events):
        (label,) = recognizer.predict()
    assert [event.kind for event in recognizer.events()] == ["ended"] and label.label == "unknown"
    feed(recognizer, range(41, 43), body(1.0))
    assert [event.kind for event in recognizer.events()] == ["began"]


def test_predict_model_replaced_meanwhile_keeps_its_kind_of_label(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = replace(session.package, events=EventThresholds(begin=0.9))
    of_events = inference.load(package.write(tmp_path / "other", described, session.package.onnx_path().read_bytes()))
    for old, new, expected in ((of_events, session, "unknown"), (session, of_events, "right")):
        recognizer = EachFrame(old)
        feed(recognizer, range(10), body(1.0))
        recognizer.add_skeletons(stamp(10), [body(1.0)])
        with before_each_run(monkeypatch, old, partial(recognizer.set_session, new)):
            (label,) = recognizer.predict()
        assert (label.label, label.model_name) == (expected, old.package.name)


def test_predict_two_body_model_gets_nearest_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = inference.load(write_tiny(tmp_path / "pair", bodies=2))
    recognizer = EachFrame(session)
    calls = []
    predict = session.predict_many

    def record_clips(clips: list[dict[str, np.ndarray]]) -> list[Prediction]:
        calls.append(clips)
        return predict(clips)

    monkeypatch.setattr(session, "predict_many", record_clips)
    feed(recognizer, range(10), body(0.0, "a"), body(1.0, "b"), body(5.0, "c"))
    pairs = [[float(clip["bodies"][m, -1, 0, 0]) for m in range(2)] for clip in calls[-1]]
    assert pairs == [[0.0, 1.0], [1.0, 0.0], [5.0, 1.0]]
    feed(recognizer, range(10, 30), body(0.0, "a"))
    assert calls[-1][0]["bodies"].shape == (1, 8, 25, 3)


def test_predict_other_body_enters_and_leaves_as_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = inference.load(write_tiny(tmp_path / "pair", bodies=2))
    recognizer, window, predict = EachFrame(session), session.package.window, session.predict_many
    clip: dict[str, np.ndarray] = {}

    def record_clips(clips: list[dict[str, np.ndarray]]) -> list[Prediction]:
        clip.update(clips[0] if clips else {})
        return predict(clips)

    monkeypatch.setattr(session, "predict_many", record_clips)
    stamps, positions = np.array([stamp(frame) for frame in range(39)]), np.full((2, 39, 25, 3), np.nan, np.float32)
    for frame in range(39):
        bodies = [body(0.01 * frame, "a"), body(1 + 0.02 * frame, "b")]
        if frame not in (20, *range(23, 35)):  # b enters at frame 20, misses two frames, and leaves at frame 35
            del bodies[1]
        for m, person in enumerate(bodies):
            positions[m, frame] = person.positions
        update(recognizer, stamp(frame), bodies)
        if frame >= 20:
            sampled = sample_stamps(stamp(frame), window.seconds, window.frames)
            expected = [resample(stamps[: frame + 1], track[: frame + 1], sampled) for track in positions]
            np.testing.assert_allclose(clip["bodies"], expected, atol=1e-6)
            assert np.isnan(clip["bodies"][1, 0]).all() == (frame < 33), "the second body is missing before it enters"


def test_set_session_keeps_tracks(session: Session, tmp_path: Path) -> None:
    recognizer = EachFrame(session, lost_after_s=0.3)
    feed(recognizer, range(10), body(1.0, "body_1"), body(1.0, "body_2"))
    recognizer.set_session(inference.load(write_tiny(tmp_path / "longer", frames=16, seconds=4.0)))
    labels = feed(recognizer, range(10, 21), body(1.0, "body_1"))
    assert [(label.label, label.model_name, label.window_start_ns) for label in labels] == [
        ("right", "longer", stamp(10))
    ]


def test_set_session_frame_that_waits_is_labeled_by_the_new_model(session: Session, tmp_path: Path) -> None:
    recognizer = EachFrame(session, min_seconds=0.0)
    feed(recognizer, range(10), body(1.0))
    recognizer.add_skeletons(stamp(10), [body(1.0)])
    recognizer.set_session(inference.load(write_tiny(tmp_path / "other")))
    assert [(each.label, each.model_name, each.reason) for each in recognizer.predict()] == [("right", "other", "")]


def test_set_session_lost_body_still_ends(session: Session, tmp_path: Path) -> None:
    recognizer = EachFrame(session, lost_after_s=0.3)
    feed(recognizer, range(10), body(1.0))
    recognizer.set_session(inference.load(write_tiny(tmp_path / "other")))
    labels = [label for frame in range(10, 20) for label in update(recognizer, stamp(frame), [])]
    assert [label.label for label in labels if label.body_id == "body_1"] == ["unknown"]


def test_recognizer_model_of_other_layout_raises(session: Session) -> None:
    spec: InputSpec = replace(session.package.inputs[0], layout="kinect_v1_20")
    other_session = Session.__new__(Session)
    other_session.package, other_session.backend = replace(session.package, inputs=(spec,)), session.backend
    with pytest.raises(PackageError, match="takes kinect_v1_20"):
        EachFrame(other_session)


def test_recognizer_invalid_setting_raises(session: Session) -> None:
    with pytest.raises(ConfigError, match="unknown option interval"):
        EachFrame(session, interval=1.0)
    with pytest.raises(ConfigError, match="lost_after_s is -1"):
        EachFrame(session, lost_after_s=-1.0)


def test_counts_one_pause_with_several_people_is_no_trouble(session: Session) -> None:
    recognizer, people = EachFrame(session), [body(x, f"body_{x}") for x in (-1, 0, 1)]
    for frame in (0, 2, 4, 6, 12, 14, 16, 18):  # 5 Hz, one pause of 0.6 s
        update(recognizer, stamp(frame), people)
    assert recognizer.counts.restarts == 1 and recognizer.counts.describe_restarts("bodies", 0.5) == ""
