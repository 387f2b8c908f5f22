"""A worker keeps the newest inputs and counts dropped ones; statistics of a node."""

import json
import threading

import cv2
import pytest

from actrec.utils.errors import InputError
from actrec_nodes.bringup.processes import ros
from actrec_nodes.common import diagnostics as statistics_module
from actrec_nodes.common.diagnostics import LINE_CHARACTERS, Statistics
from actrec_nodes.common.lifecycle import Worker, one_line


class BlockedWork:
    """Work that waits until `go` is set."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.entered = threading.Event()
        self.resume = threading.Event()

    def __call__(self, item: int) -> None:
        self.entered.set()
        assert self.resume.wait(60)
        if item < 0:
            raise ValueError(f"bad item {item}")
        self.done.append(item)


@pytest.fixture
def statistics() -> Statistics:
    return Statistics()


def run(capacity: int, items: list[int], statistics: Statistics) -> tuple[list[int], list[Exception]]:
    """Put the first item, then the others during its processing."""
    work = BlockedWork()
    errors: list[Exception] = []
    worker = Worker(work, errors.append, statistics, capacity)
    worker.start()
    worker.put(items[0])
    assert work.entered.wait(60)
    for item in items[1:]:
        worker.put(item)
    work.resume.set()
    assert worker.wait_idle(60)
    worker.stop()
    return work.done, errors


def test_worker_keeps_the_newest_and_counts_the_dropped(statistics: Statistics) -> None:
    processed, _ = run(1, [1, 2, 3, 4, 5], statistics)
    snapshot = statistics.snapshot()
    assert processed == [1, 5]
    assert (snapshot.received, snapshot.processed, snapshot.dropped, snapshot.queue) == (5, 2, 3, 0)


def test_worker_full_queue_drops_the_oldest(statistics: Statistics) -> None:
    processed, _ = run(3, [1, 2, 3, 4, 5], statistics)
    assert processed == [1, 3, 4, 5]
    snapshot = statistics.snapshot()
    assert (snapshot.dropped, snapshot.queue, snapshot.queue_max) == (1, 0, 3)


def test_worker_failure_is_reported_and_work_continues(statistics: Statistics) -> None:
    processed, errors = run(9, [1, -2, 3], statistics)
    assert processed == [1, 3]
    assert [str(error) for error in errors] == ["bad item -2"]
    assert (statistics.snapshot().processed, statistics.snapshot().failed) == (2, 1)


def test_worker_stop_clears_the_queue(statistics: Statistics) -> None:
    work = BlockedWork()
    worker = Worker(work, lambda error: None, statistics)
    worker.start()
    worker.put(1)
    assert work.entered.wait(60)
    worker.put(2)
    thread = threading.Thread(target=worker.stop)
    thread.start()
    with worker._condition:  # `stop` notifies this condition
        assert worker._condition.wait_for(lambda: worker._stopping, 60)
    work.resume.set()
    thread.join(60)
    worker.put(3)
    worker.stop()
    assert work.done == [1]


def test_statistics_latency_needs_stamps_of_this_clock(statistics: Statistics) -> None:
    for age in (0.05, -3.0, 1e9, None):
        statistics.done(0.01, age)
    snapshot = statistics.snapshot()
    assert snapshot.processed == 4
    assert snapshot.latency_p50_ms == pytest.approx(50)
    assert snapshot.work_p95_ms == pytest.approx(10)


def test_statistics_missing_figures_are_null_in_json(statistics: Statistics) -> None:
    statistics.error("a camera was lost")
    figures = json.loads(statistics.snapshot().json())
    assert figures["latency_p50_ms"] is None
    assert figures["last_error"] == "a camera was lost"
    assert "0 of 0" in statistics.snapshot().line()


def test_statistics_rate_is_of_recent_inputs(statistics: Statistics, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(statistics_module.time, "monotonic", lambda: now)

    def run_at_10_hz() -> None:
        nonlocal now
        for _ in range(21):
            statistics.done(0.01)
            now += 0.1

    run_at_10_hz()
    assert statistics.snapshot().rate_hz == pytest.approx(10.0)
    now += 4.0
    assert statistics.snapshot().rate_hz == pytest.approx(10.0)
    now += 2.0  # no input since the camera was unplugged
    assert statistics.snapshot().rate_hz == 0.0
    run_at_10_hz()  # the pause does not lower the rate
    assert statistics.snapshot().rate_hz == pytest.approx(10.0)


def test_statistics_slow_inputs_have_a_rate(statistics: Statistics, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(statistics_module.time, "monotonic", lambda: now)
    for _ in range(4):
        statistics.done(4.0)
        now += 4.0
    now += 5.0
    assert statistics.snapshot().rate_hz == pytest.approx(0.25)


def test_one_line_long_text_of_a_message_is_shortened() -> None:
    line = one_line(InputError(f"frame '{'x' * 10_000}\n\x1b[2J\0': set\tthe frame_id"))
    assert len(line) < LINE_CHARACTERS and line.isprintable()
    assert line.startswith("frame 'xxx") and line.endswith("': set the frame_id") and "characters) …" in line
    assert one_line(InputError("x" * LINE_CHARACTERS)) == "x" * LINE_CHARACTERS
    assert one_line(ValueError("y" * 10_000)).startswith("ValueError: yyy")


def test_ros_opencv_runs_on_one_thread():
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        with ros():
            assert cv2.getNumThreads() == 1, "other threads of OpenCV wait actively"
    finally:
        cv2.setNumThreads(before)
