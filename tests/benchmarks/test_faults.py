"""Every reader refuses mutated files, every conversion malformed messages; the campaigns' figures and options."""

import contextlib
import csv
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not there: source a distribution or scripts/env.sh")
pytest.importorskip("actrec_msgs.msg", reason="the messages are not built: make build")

from actrec import inference
from actrec.recognition import ActionRecognizer
from actrec.utils import gravity
from actrec.utils.errors import ActrecError, ConfigError, DeviceError
from actrec_nodes.bringup import graph
from actrec_nodes.bringup import run as graph_run
from actrec_nodes.common import conversions, topics
from actrec_nodes.common.synchronizer import Synchronizer, SynchronizerConfig, to_frame
from benchmarks import faults
from benchmarks.faults import files
from benchmarks.faults.endurance import _halves
from benchmarks.faults.files import READ, REFUSED, read_one
from benchmarks.faults.live_graph import Label
from benchmarks.faults.malformed import MAKERS, messages
from benchmarks.faults.outcome import Outcome
from benchmarks.faults.readers import READERS, Reader
from tests.tiny_model import write_tiny

FILES, MESSAGES = 6, 150
SLOW = {"bag (recovered)": 2}
"""Files of readers that take a second each."""


@pytest.mark.parametrize("name", READERS)
def test_reader_mutated_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    path = READERS[name].write(tmp_path)
    valid = path.read_bytes()
    READERS[name].read(path)
    logging.disable(logging.CRITICAL)
    try:
        results = {read_one(name, path, valid, number) for number in range(SLOW.get(name, FILES))}
    finally:
        logging.disable(logging.NOTSET)
    assert results <= {READ, REFUSED}


def conversion(topic: str, recognizer: ActionRecognizer) -> Callable[[Any], object]:
    """Return the work of a node's callback on a message of this topic."""

    def add_skeletons(message: Any) -> None:
        bodies, up = conversions.message_to_bodies(message), gravity.up_from_vector(message.up)
        recognizer.add_skeletons(conversions.stamp_to_ns(message.header.stamp), bodies, up)
        wrong = [label for label in recognizer.predict() if label.class_id >= 0]
        assert not wrong, wrong

    measured = gravity.GravityFilter()

    def add_vector(message: Any) -> None:
        assert gravity.up_from_vector(message.vector) is None

    def add_sample(message: Any) -> None:
        acceleration, turn = message.linear_acceleration, message.angular_velocity
        stamp_ns = conversions.stamp_to_ns(message.header.stamp)
        measured.rotate(stamp_ns, np.array([turn.x, turn.y, turn.z]))
        measured.add(stamp_ns, np.array([acceleration.x, acceleration.y, acceleration.z]))
        assert measured.up is None

    by_topic: dict[str, Callable[[Any], object]] = {
        topics.COLOR: conversions.image_to_color,
        topics.DEPTH: conversions.image_to_depth,
        topics.COLOR_INFO: conversions.info_to_intrinsics,
        topics.UP: add_vector,
        topics.MEASURED_UP: add_vector,
        topics.IMU: add_sample,
        topics.SKELETONS: add_skeletons,
        topics.HANDS: conversions.message_to_hands,
        topics.FACE: conversions.message_to_faces,
        topics.SCENE_FLOW: conversions.image_to_flow,
        topics.SCENE_FLOW_INFO: conversions.info_to_intrinsics,
        topics.SCENE_FLOW_STATISTICS: conversions.message_to_statistics,
        topics.ACTION_LABEL: lambda message: conversions.stamp_to_ns(message.header.stamp),
    }
    return by_topic[topic]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("topic", MAKERS)
def test_conversion_malformed_message_is_read_or_refused(topic: str, tmp_path: Path) -> None:
    convert = conversion(topic, ActionRecognizer(inference.load(write_tiny(tmp_path / "tiny", threshold=0.9))))
    refused = 0
    for message in messages(topic, MESSAGES, time.time_ns):
        try:
            convert(message)
        except ActrecError as error:
            refused += 1
            assert str(error)
    assert refused > MESSAGES // 5 or topic in (topics.ACTION_LABEL, topics.IMU)


def test_synchronizer_malformed_messages_are_framed_or_refused() -> None:
    frames: list[Any] = []
    synchronizer = Synchronizer(SynchronizerConfig(), frames.append, lambda line: None)
    streams = [messages(topic, MESSAGES, time.time_ns) for topic in (topics.COLOR_INFO, topics.COLOR, topics.DEPTH)]
    for info, color, depth in zip(*streams, strict=True):
        synchronizer.add_info(info)
        synchronizer.add_depth(depth)
        synchronizer.add_color(color)
    assert frames
    for frame in frames:
        with contextlib.suppress(ActrecError):
            to_frame(frame, lambda line: None).check()


def test_outcome_states_missed_lines() -> None:
    outcome = Outcome("kill", "camera_node")
    for back_s in (1.0, 2.0, 6.0, None):
        outcome.add(back_s)
    outcome.add_labels([Label(0, 500_000_000, 0, "body_1", "wave", 3), Label(0, 4 * 10**9, 0, "body_1", "wave", 3)])
    outcome.add_labels([Label(0, 9 * 10**9, 0, "body_1", "unknown", -1, reason="no skeletons")])
    outcome.check(max_s=5.0, p95_s=10.0)
    row = outcome.row()
    assert row["result"] == "1 of 4 never back; back after 6.0 s; 1 stale labels"
    assert (row["back p50, s"], row["back max, s"], row["stale labels"], row["oldest label, s"]) == (2.0, 6.0, 1, 4.0)


def test_outcome_late_answer_of_the_network_is_stale_even_if_it_is_unknown() -> None:
    outcome = Outcome("kill", "camera_node")
    outcome.add_labels([Label(0, 3 * 10**9, 0, "body_1", "unknown", -1)])
    assert (outcome.stale, outcome.oldest_s) == (1, 3.0)
    assert not Label(0, 3 * 10**9, 0, "body_1", "unknown", -1, window_s=0.0).is_stale, "no answer: too new"


def test_outcome_without_labels_has_no_figures_of_labels() -> None:
    outcome = Outcome("files", "labels", 2000)
    outcome.check()
    assert (outcome.faults, outcome.measurements()) == ([], [])
    assert (outcome.row()["lost"], outcome.row()["stale labels"]) == ("", "")
    outcome.add_labels([Label(0, 0, 0, "body_1", "wave", 3)])
    assert [name for name, *_ in outcome.measurements()] == ["stale labels", "age of the oldest label"]
    outcome.add(1.0)
    assert ("labels lost", 0, "of 1") in [figure[:3] for figure in outcome.measurements()]


def test_label_is_answer_only_of_a_person_with_inputs_and_a_window() -> None:
    label = Label(0, 0, 0, "body_1", "unknown", -1)
    assert label.is_answer
    assert not label._replace(body_id="").is_answer  # an empty scene
    assert not label._replace(reason="no skeletons").is_answer
    assert not label._replace(window_s=0.3).is_answer


def test_label_of_a_set_clock_is_stale_by_the_time_of_receipt() -> None:
    hour = 3600 * 10**9
    label = Label(hour, 2 * hour, 3 * 10**9, "body_1", "wave", 3, frame_ns=2 * 10**9)
    assert label.is_stale and not label.timed_here().is_stale
    assert label._replace(received_ns=5 * 10**9).timed_here().is_stale


def test_soak_halves_begin_after_the_warm_up() -> None:
    labels = [Label(0, 0, k * 10**9, "body_1", "wave", 3) for k in range(101)]
    first, last = _halves(labels, 20.0)
    assert [label.received_ns // 10**9 for label in (first[0], first[-1], last[0], last[-1])] == [20, 59, 60, 100]


def test_files_memory_that_is_freed_after_a_file_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(folder: Path) -> Path:
        (folder / "file").write_bytes(b"valid")
        return folder / "file"

    monkeypatch.setitem(READERS, "greedy", Reader(write, lambda path: np.ones(200_000_000, np.uint8).sum()))
    here, there = multiprocessing.Pipe()
    try:
        files._serve("greedy", str(tmp_path), 0, 1, there)
    finally:
        logging.disable(logging.NOTSET)
    result, _, peak = here.recv()
    assert result == READ
    assert peak > 150 or not os.access("/proc/self/clear_refs", os.W_OK)


@pytest.mark.parametrize("end_hung", [True, False])
def test_graph_hung_node_is_killed_unless_the_plan_leaves_it(end_hung: bool) -> None:
    class Sleeping(graph_run._Processes):
        def _command(self, name: str, again: bool) -> list[str]:
            return [sys.executable, "-c", "import time; time.sleep(600)"]

        def _log(self, line: str, is_error: bool) -> None:
            pass

    nodes: Any = Sleeping(graph_run.Plan([graph.find("skeleton")], end_hung=end_hung, standby=False), None)
    try:
        child = nodes.children["skeleton_node"]
        nodes.end_hung("skeleton_node")
        if end_hung:
            child.wait(60)
        assert (child.poll() is None) is not end_hung
    finally:
        nodes.stop()


def test_faults_campaign_that_cannot_run_leaves_the_rows_of_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def works(times: int, only: Sequence[str]) -> list[Outcome]:
        return [Outcome("works", "all", times, growth_mb=1.0)]

    def fails(times: int, only: Sequence[str]) -> list[Outcome]:
        raise DeviceError("run it as root")

    module = SimpleNamespace(works=works, fails=fails)
    monkeypatch.setitem(sys.modules, "benchmarks.faults.made_up", module)
    campaigns = {name: (f"made_up:{name}", 1, "") for name in ("works", "fails")}
    monkeypatch.setattr(faults, "CAMPAIGNS", campaigns)
    monkeypatch.setenv("ROS_DOMAIN_ID", os.environ.get("ROS_DOMAIN_ID", "0"))  # restored after the benchmark chose one
    found = faults.measure(["--campaigns", "works,fails", "--csv", str(tmp_path / "faults.csv")])
    assert found["fails_error"] == "run it as root" and len(found["faults"]) == 1
    assert "works, all: growth of the memory,1.0" in (tmp_path / "faults.csv").read_text().replace('"', "")
    with pytest.raises(ConfigError, match="run it as root"):
        faults.measure(["--campaigns", "fails"])


def test_documented_figures_of_damaged_files_are_measured(root: Path) -> None:
    text = (root / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert f"each of {len(READERS)} readers caused no crash, hang or traceback" in text
    with (root / "benchmarks/results/faults.csv").open(newline="", encoding="utf-8") as file:
        notes = {row["figure"]: row["note"] for row in csv.DictReader(file) if row["figure"].startswith("files, ")}
    assert len({figure.split(": ")[0] for figure in notes}) == len(READERS)
    assert [figure for figure, note in notes.items() if not note.endswith("reached")] == []


def test_faults_unknown_campaign_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown campaign 'earthquake'; known: kill, "):
        faults.measure(["--campaigns", "earthquake"])
