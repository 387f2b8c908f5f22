"""Ages of frames by stamps of any clock, and labels of a recognizer whose input stops, is late or was stopped."""

import re
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from actrec_msgs.msg import ActionLabel, SkeletonArray
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile

from actrec.types import NANOSECONDS
from actrec_nodes.common import conversions, topics
from actrec_nodes.common import participants as participants_module
from actrec_nodes.recognition.staleness import FrameAges, Heartbeat
from tests.documents import blocks, documents
from tests.nodes.conftest import participants
from tests.nodes.recognizer_graph import Graph, Make, body, stamp
from tests.tiny_model import write_tiny

pytestmark = pytest.mark.ros

LIMIT_S, LATENCY_S, PERIOD_S = 2.0, 0.1, 1 / 30
HOUR_S = 3600.0


def test_valid_for_example_of_the_page_takes_a_message() -> None:
    (code,) = (block for block in blocks(documents()["docs/robot.md"], "python") if "valid_for" in block)
    for seconds in (0, 5):
        names: dict[str, Any] = {"time": time, "label": ActionLabel()}
        names["label"].valid_for.sec = seconds
        exec(textwrap.dedent(code), names)
        assert names["usable"]


class Time:
    """Clocks that a test advances: elapsed time, the node's clock, and the clocks of camera and publisher."""

    def __init__(self, camera_s: float = 0.0, publisher_s: float = 0.0):
        self.now_s = 1000.0
        self.node_s = 1.7e9  # times of the clocks at the elapsed time 0
        self.camera_s, self.publisher_s = self.node_s + camera_s, self.node_s + publisher_s
        self.ages = FrameAges(lambda: _ns(self.node_s + self.now_s), LIMIT_S, lambda: _ns(self.now_s))
        self.resumed_s = 0.0  # end of the last stop of this process

    def receive(self, captured_s: float | None = None, published_s: float | None = None) -> tuple[float, float]:
        """Receive a frame now; return its stated and its known age."""
        captured = self.now_s - LATENCY_S if captured_s is None else captured_s
        published = self.now_s if published_s is None else published_s
        frame = self.ages.add(_ns(self.camera_s + captured), _ns(self.publisher_s + published))
        return self.ages.age_s(frame), self.ages.known_age_s(frame, lambda s: self.resumed_s > self.now_s - s)

    def stream(self, seconds: float, speed: float = 1.0) -> list[tuple[float, float]]:
        """Receive frames for some time; `speed` is how fast a recording is played."""
        began, found = self.now_s, []
        for _ in range(round(seconds / PERIOD_S)):
            self.now_s += PERIOD_S
            found.append(self.receive(began + speed * (self.now_s - began) - LATENCY_S))
        return found


def _ns(seconds: float) -> int:
    return round(seconds * NANOSECONDS)


def ages(found: list[tuple[float, float]]) -> list[float]:
    return [round(known, 2) for _, known in found]


@pytest.mark.parametrize(("camera_s", "stated", "known"), [(0.0, 0.1, 0.1), (-HOUR_S, 0.0, 0.0), (5.0, 0.0, 0.0)])
def test_frame_ages_steady_stream_is_fresh(camera_s: float, stated: float, known: float) -> None:
    found = Time(camera_s, publisher_s=-7.0).stream(5.0)
    assert found[-1] == pytest.approx((stated, known), abs=0.01)
    assert max(ages(found)) <= LATENCY_S


def test_frame_ages_of_this_process_stopped_counts_time_in_queues() -> None:
    """Frames published during a stop, with stamps of another clock, arrive after it; to read them takes long."""
    clock = Time(camera_s=-HOUR_S, publisher_s=50.0)
    clock.stream(3.0)
    before = clock.now_s
    clock.now_s += 5.0
    clock.resumed_s, waited, found = clock.now_s, [], []
    for published_s in (before + k * PERIOD_S for k in range(1, 180)):
        clock.now_s = max(clock.now_s + PERIOD_S / 2, published_s)
        waited.append(clock.now_s - published_s)
        found.append(clock.receive(published_s - LATENCY_S, published_s))
    assert ages(found) == pytest.approx(waited, abs=0.01) and waited[0] > 4.9 and waited[-1] > 1.9
    assert max(ages(clock.stream(1.0))) == 0.0


@pytest.mark.parametrize("set_s", [HOUR_S, -HOUR_S])
def test_frame_ages_clock_that_is_set_is_noticed_once(set_s: float) -> None:
    clock = Time()
    clock.stream(1.0)
    clock.now_s += 5.0  # this process was stopped
    clock.receive()
    assert clock.ages.step_s == 0.0
    clock.node_s += set_s
    clock.now_s += PERIOD_S
    clock.receive()
    assert clock.ages.step_s == pytest.approx(set_s)
    assert clock.stream(0.2) and clock.ages.step_s == 0.0


def test_frame_ages_stop_between_two_clocks_is_no_setting() -> None:
    clock = Time()
    clock.stream(1.0)
    read = clock.ages._clock_ns

    def stopped() -> int:
        clock.ages._clock_ns, clock.now_s = read, clock.now_s + 10.0
        return read()

    clock.ages._clock_ns = stopped
    for _ in range(2):
        clock.receive()
        assert clock.ages.step_s == 0.0
        clock.now_s += PERIOD_S


def test_frame_ages_of_publisher_stopped_are_by_stamp() -> None:
    """Its first frames after the stop are from before it; here at 6 Hz."""
    clock = Time()
    for _ in range(20):
        clock.now_s += 1 / 6
        clock.receive()
    before = clock.now_s
    clock.now_s += 5.0
    for _ in range(3):
        assert clock.receive(captured_s=before) == pytest.approx((clock.now_s - before,) * 2)
        clock.now_s += 1 / 6
    assert max(ages(clock.stream(1.0))) <= LATENCY_S


@pytest.mark.parametrize("speed", [0.0, 0.3, 4.0])
def test_frame_ages_recording_at_another_speed_is_fresh(speed: float) -> None:
    """The delay of its stamps grows or shrinks with each frame."""
    assert max(ages(Time().stream(30.0, speed))) < LIMIT_S


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
@pytest.mark.parametrize("names", [("node_s",), ("camera_s",), ("node_s", "camera_s", "publisher_s")])
def test_frame_ages_clock_that_is_set_stays_fresh(jump_s: float, names: tuple[str, ...]) -> None:
    clock = Time()
    clock.stream(3.0)
    for name in names:
        setattr(clock, name, getattr(clock, name) + jump_s)
    found = clock.stream(3.0)
    assert max(ages(found)) <= LATENCY_S + 0.01 and max(stated for stated, _ in found) <= LATENCY_S + 0.01


def test_heartbeat_finds_a_pause() -> None:
    now = [0]
    heartbeat = Heartbeat(2.0, lambda: now[0])
    for _ in range(10):
        now[0] += _ns(heartbeat.period_s)
        assert heartbeat.beat() == 0.0 and not heartbeat.paused_within(3.0)
    now[0] += _ns(5.0)
    assert heartbeat.paused_within(0.1)
    assert heartbeat.beat() == pytest.approx(5.0)
    now[0] += _ns(0.2)
    assert heartbeat.beat() == 0.0 and heartbeat.paused_within(0.3) and not heartbeat.paused_within(0.1)


# -- the node ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    return str(write_tiny(tmp_path / "tiny").path)


def unknown_labels(graph: Graph) -> list[tuple[str, str]]:
    return [(label.body_id, label.reason) for label in graph.labels if label.reason]


def test_recognizer_new_interval_waits_for_the_next_configuration(make: Make, tiny: str) -> None:
    """With the time for which labels are valid, and the deadline of their publisher."""
    graph = make(model=tiny, stale_s=2.0, interval_s=0.2)
    assert graph.start()
    graph.node.set_parameters([Parameter("interval_s", value=5.0)])
    for transition in ("deactivate", "activate"):
        getattr(graph.node, f"trigger_{transition}")()
    assert (graph.node._recognizer.config.interval_s, graph.node._valid_for_s) == (0.2, 2.2)
    for transition in ("deactivate", "cleanup", "configure", "activate"):
        getattr(graph.node, f"trigger_{transition}")()
    assert (graph.node._recognizer.config.interval_s, graph.node._valid_for_s) == (5.0, 7.0)


@pytest.mark.slow
def test_recognizer_silent_skeletons_end_with_one_unknown_each(make: Make, tiny: str) -> None:
    graph = make(model=tiny, stale_s=1.5, statistics_period_s=0.0)
    reported: list[str] = []
    graph.node.report = lambda: reported.append(graph.node.last_error)  # type: ignore[method-assign]
    assert graph.start()

    def error_s() -> float:
        return time.monotonic() - graph.node.statistics.seconds_since_error()

    for frame in range(30):
        graph.step(stamp(frame), body(1.0), body(-1.0, "body_2"))
    last = graph.labels[-1]
    assert (last.label, last.reason) == ("left", "")
    assert (last.valid_for.sec, last.valid_for.nanosec >= 500_000_000) == (1, True)
    graph.wait(lambda: len(unknown_labels(graph)) == 2)
    graph.wait(lambda: len(graph.events) == 4)
    graph.wait_until(lambda: "labels are unknown" in (reported or [""])[-1])
    time.sleep(2.0)
    found = unknown_labels(graph)
    assert [body_id for body_id, _ in found] == ["body_1", "body_2"] and len(graph.events) == 4, "once"
    silence = re.fullmatch(r"no skeletons on /skeletons: /peer publishes it but sends nothing \((.*) s\)", found[0][1])
    assert silence and float(silence[1]) >= 1.0
    assert {label.label for label in graph.labels[-2:]} == {"unknown"} and graph.labels[-1].valid_for.sec == 0
    latest = error_s()
    graph.wait_until(lambda: error_s() > latest + 0.1)  # diagnostics stay an error
    (first, _) = graph.step(stamp(30), body(1.0), body(-1.0, "body_2"))
    assert (first.label, conversions.stamp_to_ns(first.window_start)) == ("right", stamp(10)), "the window goes on"
    graph.wait_until(lambda: graph.node.last_error == "" and reported[-1] == "")


def test_recognizer_empty_scene_that_stops_is_unknown_without_a_body(make: Make, tiny: str) -> None:
    graph = make(model=tiny, stale_s=0.3)
    assert graph.start()
    graph.step(stamp(0))
    graph.wait(lambda: [body_id for body_id, _ in unknown_labels(graph)] == [""])


@pytest.mark.parametrize(
    ("fault", "words"), [("stamp", "have the same stamp"), ("id", "are invalid: a body has no id")]
)
def test_recognizer_skeletons_that_do_not_advance_are_stale(make: Make, tiny: str, fault: str, words: str) -> None:
    graph = make(model=tiny, stale_s=2.0)
    assert graph.start()
    for frame in range(10):
        graph.step(stamp(frame), body(1.0))

    def publish_bad() -> bool:
        graph.publish(stamp(9), body(1.0, "body_1" if fault == "stamp" else ""))
        return bool(unknown_labels(graph))

    graph.wait_until(publish_bad)
    assert words in unknown_labels(graph)[0][1]


def test_recognizer_late_frames_are_not_labeled(make: Make, tiny: str) -> None:
    """Frames with stamps of this clock that come five seconds late, as after a stop of their publisher."""
    graph = make(model=tiny, min_seconds=0.0)
    assert graph.start()
    for _ in range(10):
        graph.step(time.time_ns(), body(1.0))
        time.sleep(0.03)
    late = time.time_ns() + 20_000_000
    ages, graph.node.warn = graph.node._inputs.ages, lambda line: None  # type: ignore[method-assign]
    ages._clock_ns = lambda: time.time_ns() + 5 * NANOSECONDS
    ages._clock_before_ns += 5 * NANOSECONDS
    graph.publish(late, body(1.0))
    graph.wait_until(lambda: graph.node.statistics.snapshot().stale == 1)
    ages._clock_ns = time.time_ns
    ages._clock_before_ns -= 5 * NANOSECONDS
    (label,) = graph.step(time.time_ns(), body(1.0))
    assert label.age.sec == 0
    assert conversions.ns_to_stamp(late) not in [label.header.stamp for label in graph.labels]


def test_recognizer_prediction_during_a_stop_is_not_published(make: Make, tiny: str, monkeypatch: Any) -> None:
    graph = make(model=tiny, min_seconds=0.0, stale_s=0.4)
    assert graph.start()
    graph.step(stamp(0), body(1.0))
    session, began, resume = graph.node._session, threading.Event(), threading.Event()
    predict = session.predict_many

    def slow(clips: Any) -> Any:
        began.set()
        assert resume.wait(60)
        return predict(clips)

    monkeypatch.setattr(session, "predict_many", slow)
    graph.publish(stamp(1), body(1.0))
    assert began.wait(60)
    graph.wait(lambda: bool(unknown_labels(graph)))  # frames have stopped, too
    resume.set()
    graph.node.wait_idle(60)
    monkeypatch.setattr(session, "predict_many", predict)
    graph.step(stamp(2), body(1.0))
    assert conversions.ns_to_stamp(stamp(1)) not in [label.header.stamp for label in graph.labels if not label.reason]


def test_recognizer_publisher_that_dies_is_noticed_by_its_liveliness(make: Make, tiny: str) -> None:
    """A publisher with a lease, as of our nodes; the test's first one has none and stays."""
    graph = make(model=tiny, stale_s=60.0)
    assert graph.start()
    graph.peer.destroy_publisher(graph._publisher)
    graph._publisher = graph.peer.create_publisher(SkeletonArray, topics.SKELETONS, topics.leased(topics.SMALL))
    graph._discover()
    graph.step(stamp(1), body(1.0))
    graph.wait_until(lambda: graph.node._inputs._liveliness._subscription is not None)
    graph.step(stamp(2), body(1.0))
    graph.peer.destroy_publisher(graph._publisher)
    graph.wait(lambda: bool(unknown_labels(graph)))
    assert "no skeletons on /skeletons: it has no publisher: start it: actrec run" in unknown_labels(graph)[0][1]


@pytest.mark.parametrize("asks", [{}, {"liveliness_lease_duration": 1.0, "deadline": 2.5}])
def test_labels_connect_to_subscribers_with_and_without_a_lease(make: Make, tiny: str, asks: dict[str, float]) -> None:
    graph = make(model=tiny, stale_s=2.0, interval_s=0.2)
    profile = QoSProfile(depth=10, **{name: Duration(seconds=seconds) for name, seconds in asks.items()})
    received: list[Any] = []
    refused: list[Any] = []
    events = SubscriptionEventCallbacks(incompatible_qos=refused.append)
    graph.peer.create_subscription(ActionLabel, topics.ACTION_LABEL, received.append, profile, event_callbacks=events)
    assert graph.start()
    graph.step(stamp(0), body(1.0))
    graph.wait_until(lambda: bool(received or refused))
    assert not refused


@pytest.mark.slow
def test_subscriber_with_a_deadline_learns_that_labels_stop(make: Make, tiny: str) -> None:
    graph = make(model=tiny, stale_s=2.0, interval_s=0.2)
    received: list[Any] = []
    missed: list[Any] = []
    profile = QoSProfile(depth=10, deadline=Duration(seconds=2.5))
    events = SubscriptionEventCallbacks(deadline=missed.append)
    graph.peer.create_subscription(ActionLabel, topics.ACTION_LABEL, received.append, profile, event_callbacks=events)
    assert graph.start()
    graph.step(stamp(0), body(1.0))
    graph.wait_until(lambda: bool(received))
    graph.wait_until(lambda: bool(missed))


@pytest.mark.slow
def test_recognizer_lying_skeletons_give_no_stale_label_and_no_growth(make: Make, tiny: str) -> None:
    """Ids that jump between places, stamps that go back or are huge, NaN, 1,000 bodies and layouts that change."""
    graph = make(model=tiny, min_seconds=0.0, interval_s=0.0)
    graph.node.complain = lambda line, level="error": None  # type: ignore[method-assign]
    assert graph.start()
    nowhere = body(float("nan"))
    crowd = [body(0.01 * k, f"body_{k}") for k in range(1000)]
    for k in range(40):
        anywhere, others = body(1.0 if k % 8 else -1.0), crowd if k == 20 else []
        people = ([anywhere, *others], [nowhere], [], [body(0.0, "b", "hand_21")])[k % 4]
        for stamp_ns in (stamp(k), stamp(-k), (2**31 - 1) * NANOSECONDS, 0, stamp(k)):
            graph.publish(stamp_ns, *people)
    last = stamp(1000)
    for k in range(10):
        (label,) = graph.step(last + k * 100_000_000, body(1.0))
    assert (label.label, conversions.stamp_to_ns(label.window_start)) == ("right", last)
    recognizer = graph.node._recognizer
    assert len(recognizer._tracks) == 1 and len(recognizer._detector._states) <= 1
    assert len(recognizer._buffers.skeletons) <= 128 and len(graph.node._complaints) <= 100
    assert len(graph.node._inputs.ages._by_stamp._kept) < 100 and not recognizer.events()


def test_recognizer_without_frames_from_a_publisher_subscribes_in_another_participant_too(
    make: Make, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = make(model=tiny, watchdog_s=0.1)
    assert graph.start()
    before = participants()
    monkeypatch.setattr(participants_module, "DEAF_S", 0.2)
    graph.step(stamp(0), body(1.0))
    graph.wait_until(lambda: participants() == before + 1)
    count = len(graph.labels)

    def is_labeled() -> bool:
        graph.publish(stamp(1 + time.monotonic()), body(1.0))
        return len(graph.labels) > count

    graph.wait_until(is_labeled)
    graph.node.trigger_deactivate()
    graph.wait_until(lambda: participants() == before)


def test_recognizer_logs_that_the_clock_was_set(make: Make, tiny: str) -> None:
    graph = make(model=tiny)
    assert graph.start()
    told: list[str] = []
    graph.node.warn = told.append  # type: ignore[method-assign,assignment]
    graph.step(stamp(0), body(0))
    assert graph.node._inputs is not None
    ages = graph.node._inputs.ages
    read = ages._clock_ns
    ages._clock_ns = lambda: read() - 3600 * NANOSECONDS
    for frame in (1, 2):
        graph.step(stamp(frame), body(0))
    assert [line.split(":")[0] for line in told] == ["the clock of this machine was set by -3600.0 s"]
