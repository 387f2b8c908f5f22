"""Events: one begin and one end for each action, with hysteresis, evidence, and stamps of the camera."""

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actrec import inference
from actrec.inference.package import EventThresholds
from actrec.inference.session import Session
from actrec.recognition import ActionEvent, ActionRecognizer, EventConfig, clip_scores
from actrec.recognition.events import EventDetector, Rest
from actrec.skeleton import layouts
from actrec.types import NANOSECONDS, Body
from actrec.utils.errors import ConfigError, DeviceError
from tests.tiny_model import person_at, tiny_description, write_tiny

PACKAGE = tiny_description()  # labels left, right, far; threshold 0.5; window 2 s
LEFT, RIGHT, NONE = [0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.0, 0.0, 0.0]
JOINTS = person_at(0.5, 2.0)


def ns(seconds: float) -> int:
    return round(seconds * NANOSECONDS)


def run(
    *spans: tuple[float, list[float]],
    rate_hz: float = 10.0,
    joints: np.ndarray = JOINTS,
    start_s: float = 0.0,
    **settings: float,
) -> list[ActionEvent]:
    """Return the events of a body with these probabilities, each for some seconds, after its window is full."""
    detector = EventDetector(PACKAGE, EventConfig(**settings))
    events, frame = [], 0
    for seconds, probabilities in spans:
        for _ in range(round(seconds * rate_hz)):
            events += detector.update("body_1", ns(start_s + frame / rate_hz), np.array(probabilities), joints, 2.0)
            frame += 1
    return events


def kinds(events: list[ActionEvent]) -> list[tuple[str, str]]:
    return [(event.kind, event.label) for event in events]


def test_update_action_begins_and_ends_once() -> None:
    began, ended = run((1, NONE), (2, LEFT), (2, NONE))
    assert kinds([began, ended]) == [("began", "left"), ("ended", "left")]
    assert began.event_id == ended.event_id == 1 and began.class_id == 0
    assert 1.0 <= began.start_ns / NANOSECONDS <= 1.3 and began.stamp_ns <= ns(1.7)
    assert ended.start_ns == began.start_ns and 3.0 <= ended.end_ns / NANOSECONDS <= 3.4
    assert ended.confidence == pytest.approx(0.9, abs=0.02) and ended.confidence >= began.confidence
    assert began.position == pytest.approx((0.5, np.median(JOINTS[:, 1]), 2.0), abs=1e-6)


def test_update_stamps_may_be_negative() -> None:
    """Recordings may count from the moment of interest, and drivers from their own start."""
    spans = (1, NONE), (2, LEFT), (1, RIGHT), (2, NONE)
    expected, found = run(*spans), run(*spans, start_s=-100.0)
    assert kinds(found) == kinds(expected) != []
    assert [event.start_ns - ns(-100) for event in found] == [event.start_ns for event in expected]


def test_update_interrupted_action_stays_one_event() -> None:
    assert kinds(run((1, LEFT), (0.4, NONE), (0.3, RIGHT), (1, LEFT), (3, NONE))) == [
        ("began", "left"),
        ("ended", "left"),
    ]


def test_update_short_peak_begins_no_event() -> None:
    assert run((1, NONE), (0.2, LEFT), (1, NONE)) == []


def test_update_next_action_ends_the_first() -> None:
    events = run((1, LEFT), (2, RIGHT))
    assert kinds(events) == [("began", "left"), ("ended", "left"), ("began", "right")]
    assert events[1].stamp_ns == events[2].stamp_ns and events[2].event_id == 2


def test_update_two_alike_actions_above_threshold_are_one_event() -> None:
    """With a low threshold, both averages stay above it and take turns: the first action goes on."""
    turns = [(0.5, [0.55, 0.45, 0.0]), (0.5, [0.45, 0.55, 0.0])] * 4
    assert kinds(run((1, LEFT), *turns, begin=0.3)) == [("began", "left")]


@pytest.mark.parametrize("rate_hz", [5.0, 7.0, 30.0, 60.0])
def test_update_rate_of_predictions_changes_begin_little(rate_hz: float) -> None:
    (began,) = run((1, NONE), (2, LEFT), rate_hz=rate_hz)
    assert began.stamp_ns / NANOSECONDS == pytest.approx(1.5, abs=0.3)


def test_update_new_body_waits_for_evidence() -> None:
    detector = EventDetector(PACKAGE, EventConfig())
    found = [
        event
        for frame in range(30)
        for event in detector.update("body_1", ns(frame / 10), np.array(LEFT), JOINTS, min(frame / 10, 2.0))
    ]
    assert kinds(found) == [("began", "left")] and found[0].stamp_ns == ns(2.0)


def test_update_half_visible_body_begins_no_event() -> None:
    hidden = JOINTS.copy()
    hidden[12:] = np.nan
    assert run((3, LEFT), joints=hidden) == []
    assert kinds(run((3, LEFT), joints=hidden, min_joints=0.4)) == [("began", "left")]


def test_update_nan_probabilities_are_no_evidence() -> None:
    assert run((2, [np.nan] * 3)) == []
    assert kinds(run((1, LEFT), (3, [np.nan] * 3))) == [("began", "left"), ("ended", "left")]


def test_restart_drops_the_evidence_before_it() -> None:
    detector = EventDetector(PACKAGE, EventConfig())
    for frame in range(10):
        assert detector.update("body_1", ns(frame / 10), np.array(LEFT), JOINTS, 0.1) == []
    detector.restart()
    found = [
        event
        for frame in range(50, 80)
        for event in detector.update("body_1", ns(frame / 10), np.array(LEFT), JOINTS, frame / 10 - 5)
    ]
    assert kinds(found) == [("began", "left")] and found[0].start_ns >= ns(5) and found[0].stamp_ns == ns(7)


def test_update_without_prediction_ends_the_event() -> None:
    """A required stream that is missing, or a window that restarts again and again, must not keep an event."""
    for tracked_s, latest_s in ((2.0, 2.0), (0.1, 4.0)):
        detector = EventDetector(PACKAGE, EventConfig())
        for frame in range(10):
            detector.update("body_1", ns(frame / 10), np.array(LEFT), JOINTS, 2.0)
        updates = (detector.update("body_1", ns(f / 10), None, JOINTS, tracked_s) for f in range(10, 60))
        (ended,) = [event for events in updates for event in events]
        assert ended.kind == "ended" and latest_s - 0.5 <= ended.stamp_ns / NANOSECONDS <= latest_s
        assert ended.end_ns <= ns(1.2)


def test_end_lost_body_ends_its_event() -> None:
    detector = EventDetector(PACKAGE, EventConfig(smoothing_s=0.0, begin_s=0.0), first_id=7)
    detector.update("body_1", 0, np.array(LEFT), JOINTS, 2.0)
    (ended,) = detector.end("body_1", ns(1))
    assert (ended.kind, ended.event_id, ended.end_ns, ended.stamp_ns) == ("ended", 7, 0, ns(1))
    assert detector.end("body_1", ns(2)) == [] and detector.next_id == 8


def test_update_begin_of_other_threshold_is_used() -> None:
    assert run((3, [0.55, 0.0, 0.0]), begin=0.7) == []
    assert kinds(run((3, [0.55, 0.0, 0.0]))) == [("began", "left")]


def test_update_class_of_higher_threshold_begins_later() -> None:
    """The package's thresholds hold for each class; the setting `begin` replaces all of them."""
    package = replace(PACKAGE, events=EventThresholds(0.5, {"left": 0.95}))
    for begin, expected in ((0.0, ["right"]), (0.6, ["left", "right"])):
        detector, labels = EventDetector(package, EventConfig(begin=begin)), []
        for frame in range(60):
            now = np.array(LEFT if frame < 30 else RIGHT)
            labels += [e.label for e in detector.update("b", ns(frame / 10), now, JOINTS, 2.0) if e.kind == "began"]
        assert labels == expected


def act(*spans: tuple[float, list[float], float], motions: tuple[str, ...]) -> list[ActionEvent]:
    """Return the events of a person who moves an arm at a speed (m/s) for some seconds, at 5 Hz, with sensor noise."""
    package = replace(PACKAGE, events=EventThresholds(motions=motions))
    detector, rng, events, time, x = EventDetector(package, EventConfig()), np.random.default_rng(0), [], 0.0, 0.0
    for seconds, probabilities, speed in spans:
        for _ in range(round(seconds * 5)):
            time, x = time + 0.2, x + 0.2 * speed
            joints = JOINTS + rng.normal(0, 0.003, JOINTS.shape)
            joints[4:12, 0] += x
            events += detector.update("body_1", ns(time), np.array(probabilities), joints, 2.0)
    return events


def test_update_rest_ends_a_motion_and_new_motion_begins_it_again() -> None:
    """The window shows the first motion for longer than the rest lasts, so that its probability stays high."""
    spans = (2.0, LEFT, 1.0), (1.0, LEFT, 0.0), (3.0, LEFT, 1.0), (2.0, NONE, 0.0)
    first, rest, again, _ = events = act(*spans, motions=("left",))
    assert kinds(events) == [("began", "left"), ("ended", "left")] * 2
    assert rest.stamp_ns <= ns(2.7) and ns(1.9) <= rest.end_ns <= ns(2.3) and rest.event_id == first.event_id
    assert ns(4.2) <= again.stamp_ns <= ns(4.7) and ns(2.9) <= again.start_ns <= ns(3.5), "not where the first began"
    assert kinds(act(*spans, motions=("right",))) == [("began", "left"), ("ended", "left")]


def test_update_other_motion_after_rest_begins_as_usual() -> None:
    """The old evidence that a new motion removes from the window begins no event of the old class."""
    spans = (2.0, LEFT, 1.0), (1.0, LEFT, 0.0), (0.6, LEFT, 1.0), (2.0, RIGHT, 1.0)
    assert kinds(act(*spans, motions=("left", "right")))[2:] == [("began", "right")]


def test_update_joints_that_are_missing_are_no_rest() -> None:
    hidden = JOINTS.copy()
    hidden[:8] = np.nan
    rest, half = Rest(), np.where(np.arange(25)[:, None] < 23, np.nan, JOINTS)
    for frame, joints in enumerate([JOINTS, JOINTS + 0.1, half, half]):
        rest.update(ns(frame / 5), joints)
    assert rest.still_ns < 0
    rest.update(ns(1), hidden)
    rest.update(ns(1.2), hidden)
    assert rest.still_ns == ns(1.2)


def test_rest_person_before_a_camera_that_moves_rests_and_then_waves_slowly() -> None:
    rest, moved = Rest(), JOINTS.copy()
    for frame in range(20):
        rest.update(ns(frame / 5), JOINTS + np.array([0.4 * frame, 0.0, 0.1 * frame]))  # a robot that turns: 2 m/s
    assert rest.lasts(ns(19 / 5), 3.0)
    moved[4:12, 0] += 0.05  # a slow wave, 0.25 m/s
    rest.update(ns(20 / 5), moved)
    assert rest.still_ns < 0


def test_update_long_action_may_pause() -> None:
    """A pause of a fifth of the time that an action has lasted belongs to it."""
    assert kinds(run((10, LEFT), (1.6, NONE), (2, LEFT))) == [("began", "left")]
    assert len(run((2, LEFT), (1.6, NONE), (2, LEFT))) == 3


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return inference.load(write_tiny(tmp_path_factory.mktemp("models") / "tiny"))


def feed(recognizer: ActionRecognizer, seconds: tuple[float, float], *people: tuple[str, float]) -> list[ActionEvent]:
    """Add frames at 10 Hz with people at x, and return the events."""
    events = []
    for frame in range(round(10 * seconds[0]), round(10 * seconds[1])):
        bodies = [
            Body(name, "kinect_v2_25", person_at(x), np.full((25, 2), np.nan, np.float32), np.ones(25, np.float32))
            for name, x in people
        ]
        recognizer.add_skeletons(ns(frame / 10), bodies)
        recognizer.predict()
        events += recognizer.events()
    return events


@pytest.mark.parametrize("returns", [True, False])
def test_events_of_a_body_that_is_found_again_are_given_back(session: Session, returns: bool) -> None:
    """Another person comes near while the first is not detected, or tracking has changed the id for good."""
    recognizer = ActionRecognizer(session)
    (began,) = feed(recognizer, (0, 3), ("body_1", -1.0))
    assert feed(recognizer, (3, 3.2), ("body_2", -1.1)) == []
    assert [event.body_id for event in recognizer.present_events] == ["body_2"]
    people = [("body_2", -1.1), *([("body_1", -1.0)] if returns else [])]
    assert feed(recognizer, (3.2, 3.6), *people) == []
    (present,) = recognizer.present_events
    assert (present.event_id, present.body_id) == (began.event_id, "body_1" if returns else "body_2")
    events = feed(recognizer, (3.6, 8), *people)
    assert kinds(events) == [("began", "left")] * returns, "the second person's own"


def test_events_id_that_a_publisher_uses_for_another_person_ends_the_event(session: Session) -> None:
    recognizer = ActionRecognizer(session)
    assert kinds(feed(recognizer, (0, 3), ("body_1", -1.0))) == [("began", "left")]
    assert kinds(feed(recognizer, (3, 3.1), ("body_1", 4.0))) == [("ended", "left")]
    assert recognizer.counts.restarts == 1
    assert feed(recognizer, (3.1, 4.0), ("body_1", 4.0)) == []


@pytest.mark.parametrize(("layout", "unseen", "begins"), [
    ("kinect_v2_25", 0, True), ("kinect_v2_25", 9, True), ("kinect_v2_25", 11, False), ("nite_15", 4, True)
])  # fmt: skip
def test_events_of_a_body_that_the_image_edge_cuts_off_do_not_begin(
    session: Session, layout: str, unseen: int, begins: bool
) -> None:
    """Joints with a score of 0; the joints that a layout does not have are not missing."""
    recognizer, count = ActionRecognizer(session), len(layouts.get(layout))
    scores = np.where(np.arange(count) < count - unseen, 1.0, 0.0).astype(np.float32)
    positions = np.full((count, 3), (-1.0, 0.0, 2.0), np.float32)
    for frame in range(50):
        body = Body("body_1", layout, positions, np.full((count, 2), np.nan, np.float32), scores)
        recognizer.add_skeletons(ns(frame / 10), [body])
        recognizer.predict()
    assert bool(recognizer.events()) == begins
    body = replace(body, scores=np.zeros(count, np.float32))  # its publisher sets none
    recognizer.add_skeletons(ns(5), [body])
    assert recognizer._pending.joints["body_1"].in_view == 1.0


def test_events_recognizer_reports_each_body(session: Session) -> None:
    recognizer = ActionRecognizer(session)
    events = feed(recognizer, (0, 4), ("body_1", -1.0), ("body_2", 1.0))
    assert {(event.body_id, event.label) for event in events} == {("body_1", "left"), ("body_2", "right")}
    assert all(event.kind == "began" and event.stamp_ns >= ns(1.9) for event in events) and len(events) == 2
    assert kinds(feed(recognizer, (4, 5), ("body_2", 1.0))) == [("ended", "left")]
    assert recognizer.events() == []


def test_events_labels_have_the_place_and_the_time_since_the_event_started(session: Session) -> None:
    recognizer = ActionRecognizer(session, labels="events", interval_s=0.0)
    began: list[ActionEvent] = []
    for frame in range(40):
        joints = np.full((25, 2), np.nan, np.float32), np.ones(25, np.float32)
        recognizer.add_skeletons(ns(frame / 10), [Body("body_1", "kinect_v2_25", person_at(-1.0), *joints)])
        (label,) = recognizer.predict()
        began += recognizer.events()
        start_ns = began[0].start_ns if began else 0
        assert label.label == ("left" if began else "unknown")
        assert label.duration_s == pytest.approx((label.stamp_ns - start_ns) / NANOSECONDS)
        assert label.position == pytest.approx(np.median(person_at(-1.0), axis=0), abs=1e-6)
    assert len(began) == 1
    (present,) = recognizer.present_events
    assert present.event_id == began[0].event_id and present.confidence > began[0].confidence


@pytest.mark.parametrize(("x", "is_same"), [(-1.1, True), (-2.0, False)])
def test_events_go_on_if_the_body_id_changes(session: Session, x: float, is_same: bool) -> None:
    recognizer = ActionRecognizer(session)
    (began,) = feed(recognizer, (0, 3), ("body_1", -1.0))
    events = feed(recognizer, (3, 7), ("body_2", x)) + feed(recognizer, (7, 7.1), ("body_2", 0.0))
    events += feed(recognizer, (7.1, 9), ("body_2", 1.0))
    ended = events[0]
    again = [] if is_same else [("began", "left"), ("ended", "left")]
    assert kinds(events) == [("ended", "left"), *again, ("began", "right")]
    assert (ended.event_id, ended.start_ns) == (began.event_id, began.start_ns)
    assert ended.body_id == ("body_2" if is_same else "body_1") and (ended.end_ns > ns(6.9)) == is_same


def test_events_end_while_the_network_fails(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer = ActionRecognizer(session)
    assert kinds(feed(recognizer, (0, 3), ("body_1", -1.0))) == [("began", "left")]

    def fail(*_: object) -> None:
        raise DeviceError("the GPU is lost")

    with monkeypatch.context() as patch:
        patch.setattr(clip_scores, "predict", fail)
        events = []
        for frame in range(30, 60):
            joints = np.full((25, 2), np.nan, np.float32), np.ones(25, np.float32)
            recognizer.add_skeletons(ns(frame / 10), [Body("body_1", "kinect_v2_25", person_at(-1.0), *joints)])
            with contextlib.suppress(DeviceError):
                recognizer.predict()
            events += recognizer.events()
        assert kinds(events) == [("ended", "left")] and not recognizer.present_events
    assert kinds(feed(recognizer, (6, 9), ("body_1", -1.0))) == [("began", "left")]


def test_events_gap_in_the_frames_keeps_the_event(session: Session) -> None:
    recognizer = ActionRecognizer(session, lost_after_s=2.0)
    feed(recognizer, (0, 3), ("body_1", -1.0))
    assert feed(recognizer, (4, 7), ("body_1", -1.0)) == []
    assert kinds(feed(recognizer, (8, 11), ("body_1", 1.0))) == [("ended", "left"), ("began", "right")]


def test_events_position_of_tilting_camera_is_in_its_newest_frame(session: Session) -> None:
    recognizer = ActionRecognizer(session)
    for frame in range(40):
        angle = np.radians(0.4 * frame)
        up = np.array([0.0, -np.cos(angle), -np.sin(angle)])
        empty = np.full((25, 2), np.nan, np.float32), np.ones(25, np.float32)
        recognizer.add_skeletons(ns(frame / 10), [Body("body_1", "kinect_v2_25", person_at(-1.0), *empty)], up)
        recognizer.predict()
        events = recognizer.events()
        if events:
            assert events[0].position == pytest.approx(np.median(person_at(-1.0), axis=0), abs=1e-6)
            return
    pytest.fail("no event")


def test_events_model_replaced_ends_events_and_goes_on_counting(session: Session) -> None:
    recognizer = ActionRecognizer(session)
    (began,) = feed(recognizer, (0, 4), ("body_1", -1.0))
    recognizer.set_session(session)
    (ended,) = recognizer.events()
    (again,) = feed(recognizer, (4, 8), ("body_1", -1.0))
    assert (began.event_id, ended.event_id, again.event_id) == (1, 1, 2) and ended.kind == "ended"


def test_events_stamps_jump_back_ends_events(session: Session) -> None:
    recognizer = ActionRecognizer(session)
    feed(recognizer, (100, 104), ("body_1", -1.0))
    events = feed(recognizer, (0, 4), ("body_1", -1.0))
    assert kinds(events) == [("ended", "left"), ("began", "left")] and events[1].event_id == 2


def test_events_settings_are_checked(session: Session) -> None:
    with pytest.raises(ConfigError, match="begin_s"):
        ActionRecognizer(session, events={"begin_s": -1.0})
    quick = ActionRecognizer(session, events={"evidence_s": 0.5, "smoothing_s": 0.0, "begin_s": 0.0})
    assert feed(quick, (0, 2), ("body_1", -1.0))[0].stamp_ns <= ns(0.7)


def test_events_package_threshold_is_default(tmp_path: Path) -> None:
    strict = inference.load(write_tiny(tmp_path / "strict", threshold=0.999))
    assert feed(ActionRecognizer(strict), (0, 4), ("body_1", -0.1)) == []


def test_events_of_two_people_whose_ids_change_in_turn_all_end(session: Session) -> None:
    recognizer = ActionRecognizer(session)
    events = feed(recognizer, (0, 3), ("body_1", -1.0), ("body_2", -1.4))
    events += feed(recognizer, (3, 3.7), ("body_3", -1.0), ("body_2", -1.4))
    events += feed(recognizer, (3.7, 3.9), ("body_3", -1.0), ("body_1", -1.4))
    recognizer.end_events()
    events += recognizer.events()
    ids = [[each.event_id for each in events if each.kind == kind] for kind in ("began", "ended")]
    assert sorted(ids[0]) == sorted(ids[1]) == [1, 2]


def test_events_are_not_given_back_to_another_person_with_the_old_id(session: Session) -> None:
    recognizer = ActionRecognizer(session)
    feed(recognizer, (0, 3), ("body_1", -1.0))
    feed(recognizer, (3, 5), ("body_2", -1.0))
    assert feed(recognizer, (5, 5.3), ("body_2", -1.0), ("body_1", 2.0)) == []
    assert [event.body_id for event in recognizer.present_events] == ["body_2"]


def test_events_of_two_people_close_whose_ids_change_at_once_stay_with_the_one_who_acts(session: Session) -> None:
    recognizer, unseen = ActionRecognizer(session), (np.full((25, 2), np.nan, np.float32), np.ones(25, np.float32))
    for frame in range(31):  # the other person is nearer to the camera, and is labeled unknown
        actor, other = ("body_1", "body_2") if frame < 30 else ("body_4", "body_3")
        places = {actor: person_at(-0.3, 4.0), other: person_at(0.0, 3.9)}
        recognizer.add_skeletons(ns(frame / 10), [Body(n, "kinect_v2_25", p, *unseen) for n, p in places.items()])
        recognizer.predict()
    assert [event.kind for event in recognizer.events()] == ["began"]
    assert [event.body_id for event in recognizer.present_events] == ["body_4"]


def test_events_go_on_if_the_body_id_changes_at_the_limit_of_tracks(session: Session) -> None:
    recognizer = ActionRecognizer(session, max_bodies=1)
    (began,) = feed(recognizer, (0, 3), ("body_1", -1.0))
    assert feed(recognizer, (3, 6), ("body_2", -1.1)) == []
    (present,) = recognizer.present_events
    assert (present.event_id, present.body_id, recognizer.counts.over_limit) == (began.event_id, "body_2", 0)


def test_update_action_that_comes_back_starts_after_its_first_event() -> None:
    first, ended, _, _, again = run((3, LEFT), (2, [0.35, 0.6, 0.05]), (2, [0.65, 0.3, 0.05]))
    assert kinds([first, ended, again]) == [("began", "left"), ("ended", "left"), ("began", "left")]
    assert again.start_ns >= ended.end_ns


def test_update_short_movement_after_a_motion_begins_no_second_event() -> None:
    spans = (2.0, LEFT, 1.0), (1.0, LEFT, 0.0), (0.4, LEFT, 1.0), (1.6, LEFT, 0.0), (2.0, NONE, 0.0)
    assert kinds(act(*spans, motions=("left",))) == [("began", "left"), ("ended", "left")]
