"""The recognizer node over real DDS: labels, stamps, invalid inputs, and model changes during a stream."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from actrec_msgs.msg import ActionEvent
from actrec_msgs.srv import ListModels
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock

from actrec import inference
from actrec.features.specs import InputSpec
from actrec.inference import package
from actrec.utils.errors import InputError
from actrec_nodes.common import conversions
from tests.example_scene import FRAMES, WINDOW
from tests.nodes.recognizer_graph import PERIOD_NS, TIMEOUT_S, Make, body, stamp
from tests.tiny_model import RAW, tiny_description, tiny_onnx, write_any, write_tiny

pytestmark = pytest.mark.ros


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    return str(write_tiny(tmp_path / "tiny").path)


def test_recognizer_labels_have_the_stamp_and_the_model_name(make: Make, tiny: str) -> None:
    graph = make(model=tiny)
    assert graph.start()
    for frame in range(31):
        (label,) = graph.step(stamp(frame), body(1.0))
    assert (label.body_id, label.label, label.class_id, label.model_name) == ("body_1", "right", 1, "tiny")
    assert label.header.frame_id == "camera"
    assert conversions.stamp_to_ns(label.window_start) == stamp(10)
    assert label.top_labels[0] == "right" and list(label.top_probabilities) == sorted(label.top_probabilities)[::-1]
    assert label.confidence == label.top_probabilities[0]
    graph.wait(lambda: graph.texts[-31:] == ["unknown"] * 5 + ["right"] * 26)


def test_recognizer_events_have_one_begin_and_one_end(make: Make, tiny: str) -> None:
    graph = make(model=tiny, events__end_s=0.3)
    assert graph.start()
    for frame in range(60):
        graph.step(stamp(frame), body(1.0 if frame < 40 else -1.0))
    graph.publish(stamp(70))
    graph.wait(lambda: len(graph.events) == 4)
    first, second, third, last = graph.events
    kinds = [(event.kind, event.label, event.event_id) for event in graph.events]
    assert kinds == [(0, "right", 1), (1, "right", 1), (0, "left", 2), (1, "left", 2)]
    assert (first.body_id, first.header.frame_id, first.model_name) == ("body_1", "camera", "tiny")
    assert (first.position.x, first.position.z) == (1.0, 2.0) and first.confidence > 0.5
    assert stamp(19) <= conversions.stamp_to_ns(first.header.stamp) <= stamp(25)
    assert conversions.stamp_to_ns(second.end) >= stamp(40) and second.start == first.start
    assert conversions.stamp_to_ns(last.header.stamp) == stamp(70) and third.event_id == 2


@pytest.mark.parametrize("cause", ["silence", "deactivate"])
def test_recognizer_events_end_if_no_frame_follows(make: Make, tiny: str, cause: str) -> None:
    graph = make(model=tiny, watchdog_s=0.5 if cause == "silence" else 0.0)
    assert graph.start()
    for frame in range(30):
        graph.step(stamp(frame), body(1.0))
    graph.wait(lambda: len(graph.events) == 1)
    if cause == "deactivate":
        graph.node.trigger_deactivate()
    graph.wait(lambda: [event.kind for event in graph.events] == [0, 1])
    assert graph.events[1].header.frame_id == "camera" and conversions.stamp_to_ns(graph.events[1].end) <= stamp(29)


def test_recognizer_fast_messages_all_enter_the_window(make: Make, tiny: str) -> None:
    """A burst of 500 frames loses no frame; the last one gets a label, others may be skipped."""
    graph = make(model=tiny)
    assert graph.start()
    received = graph.node.statistics.snapshot().received
    for frame in range(500):
        graph.publish(stamp(frame), body(1.0))
    last = conversions.ns_to_stamp(stamp(499))
    graph.wait(lambda: bool(graph.labels) and graph.labels[-1].header.stamp == last)
    snapshot = graph.node.statistics.snapshot()
    assert (snapshot.received - received, snapshot.dropped, snapshot.failed) == (500, 0, 0)
    assert graph.labels[-1].label == "right"
    assert conversions.stamp_to_ns(graph.labels[-1].window_start) == stamp(479)


def test_recognizer_bodies_come_and_go_without_stale_labels(make: Make, tiny: str) -> None:
    graph = make(model=tiny, lost_after_s=0.3)
    assert graph.start()
    for frame in range(10):
        graph.step(stamp(frame), body(1.0, "body_1"), body(-1.0, "body_2"))
    graph.labels.clear()
    for frame in range(10, 15):
        graph.step(stamp(frame), body(-1.0, "body_2"))
    for frame in range(15, 25):
        (*_, label) = graph.step(stamp(frame))
        assert (label.body_id, label.label) in {("", "unknown"), ("body_2", "unknown")}
    lost_labels = [(label.label, label.class_id) for label in graph.labels if label.body_id == "body_1"]
    assert lost_labels == [("unknown", -1)]
    late_labels = [label.label for label in graph.labels if conversions.stamp_to_ns(label.header.stamp) >= stamp(15)]
    assert set(late_labels) == {"unknown"}


def test_recognizer_restarts_when_stamps_jump_back(make: Make, tiny: str) -> None:
    graph = make(model=tiny)
    assert graph.start()
    for frame in range(100, 120):
        graph.step(stamp(frame), body(1.0))
    (label,) = graph.step(stamp(0), body(-1.0))
    assert (label.label, conversions.stamp_to_ns(label.window_start)) == ("unknown", stamp(0))
    for frame in range(1, 10):
        (label,) = graph.step(stamp(frame), body(-1.0))
    assert (label.label, conversions.stamp_to_ns(label.window_start)) == ("left", stamp(0))


@pytest.mark.parametrize("fault", ["layout", "joints", "lengths", "infinite", "id"])
def test_recognizer_bad_skeletons_are_reported_and_the_node_continues(make: Make, tiny: str, fault: str) -> None:
    graph = make(model=tiny)
    assert graph.start()
    graph.step(stamp(0), body(1.0))
    message = conversions.bodies_to_message([body(1.0)], conversions.header(stamp(1), "camera"))
    skeleton = message.skeletons[0]
    if fault == "layout":
        skeleton.layout = "octopus_64"
    elif fault == "joints":
        skeleton.positions = skeleton.positions[:20]
        skeleton.pixels, skeleton.confidences = skeleton.pixels[:40], skeleton.confidences[:20]
    elif fault == "lengths":
        skeleton.confidences = skeleton.confidences[:3]
    elif fault == "infinite":
        skeleton.positions[3].x = float("inf")
    else:
        skeleton.body_id = ""
    graph._publisher.publish(message)
    graph.step(stamp(2), body(1.0))
    assert graph.node.statistics.snapshot().failed == 1
    words = {
        "layout": "octopus_64",
        "joints": "[20, 3]",
        "lengths": "3 confidences",
        "infinite": "infinite",
        "id": "id",
    }
    assert words[fault] in graph.node.last_error and "\n" not in graph.node.last_error
    for frame in range(3, 10):
        (label,) = graph.step(stamp(frame), body(1.0))
    assert (label.label, conversions.stamp_to_ns(label.window_start)) == ("right", stamp(0))


def test_recognizer_missing_joints_and_bodies_are_labeled(make: Make, tiny: str) -> None:
    graph = make(model=tiny)
    assert graph.start()
    occluded, empty = body(1.0), body(1.0)
    occluded.positions[8:12] = np.nan
    empty.positions[:] = np.nan
    for frame in range(10):
        (label,) = graph.step(stamp(frame), occluded)
    assert label.label == "right"
    (label,) = graph.step(stamp(10), empty)
    assert (label.body_id, label.label) == ("", "unknown")


@pytest.mark.parametrize(
    ("model", "word"), [("", "no model is given"), ("tony", "no model package 'tony'"), ("/nowhere/at/all", "no such")]
)
def test_recognizer_missing_model_fails_to_configure_with_one_line(make: Make, model: str, word: str) -> None:
    graph = make(model=model)
    assert not graph.start()
    assert word in graph.node.last_error and "\n" not in graph.node.last_error
    response = graph.load_model(model)
    assert not response.success and "configure" in response.message


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"bias_at": float("nan")}, "the network gives NaN for an example clip"),
        ({"operator": "Telepathy"}, "Telepathy"),
        ({"classes": 4}, "names 3 labels but model.onnx gives [N, 4]"),
    ],
)
def test_recognizer_damaged_model_fails_to_configure(
    make: Make, tmp_path: Path, changes: dict[str, Any], word: str
) -> None:
    damaged = package.write(tmp_path / "broken", tiny_description(), tiny_onnx(**changes))
    graph = make(model=str(damaged.path))
    assert not graph.start()
    assert word in graph.node.last_error and "\n" not in graph.node.last_error


def test_recognizer_model_with_another_file_fails_to_configure(make: Make, tiny: str) -> None:
    Path(tiny, "model.onnx").write_bytes(tiny_onnx(bias_at=1.0))
    graph = make(model=tiny)
    assert not graph.start()
    assert "model.onnx is not the file that model.yaml describes" in graph.node.last_error


def test_recognizer_unknown_backend_or_settings_fail_to_configure(make: Make, tiny: str) -> None:
    for parameters, word in (
        ({"backend": "caffe"}, "unknown inference backend 'caffe'; known: onnxruntime"),
        ({"onnxruntime__threads": 0}, "threads"),
        ({"onnxruntime__device": "tpu"}, "allowed: auto, cpu, cuda"),
        ({"interval_s": -1.0}, "interval_s"),
    ):
        graph = make(model=tiny, **parameters)
        assert not graph.start()
        assert word in graph.node.last_error


def test_load_model_replaces_the_model_between_frames(make: Make, tiny: str, tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "other", labels=("west", "east", "far"), seconds=1.0)
    graph = make(model=tiny, min_seconds=0.0)
    assert graph.start()
    stop = threading.Event()
    sent: list[int] = []

    def publish_frames() -> None:
        while not stop.is_set():
            sent.append(stamp(len(sent)))
            graph.step(sent[-1], body(1.0))

    stream = threading.Thread(target=publish_frames)
    stream.start()
    graph.wait(lambda: len(graph.labels) > 5)
    response = graph.load_model(other.path)
    assert (response.success, response.message, response.model_name) == (True, "", "other")
    graph.wait(lambda: graph.labels[-1].model_name == "other")
    stop.set()
    stream.join()
    labels = graph.labels
    assert {(label.model_name, label.label) for label in labels} == {("tiny", "right"), ("other", "east")}
    names = [label.model_name for label in labels]
    assert names == sorted(names, reverse=True), "each label comes from one model, the new one after the old"
    assert [conversions.stamp_to_ns(label.header.stamp) for label in labels] == sent
    assert graph.node.get_parameter("model").value == str(other.path)


def test_load_model_of_hands_ends_the_events_of_bodies(make: Make, tiny: str, tmp_path: Path) -> None:
    """No hand comes, as no node finds any; events of bodies must end nevertheless."""
    spec = InputSpec("body", "body", "hand_22", (1, 3, FRAMES, 22), "m", RAW)
    hands = write_any(tmp_path / "hands", (spec,), WINDOW)
    graph = make(model=tiny, stale_s=3.0)
    assert graph.start()
    for frame in range(30):
        graph.step(stamp(frame), body(1.0))
    graph.wait(lambda: bool(graph.events) and graph.events[-1].kind == ActionEvent.BEGAN)
    assert graph.load_model(hands.path).success
    graph.wait(lambda: graph.events[-1].kind == ActionEvent.ENDED)
    graph.wait(lambda: (graph.labels[-1].body_id, graph.labels[-1].label) == ("body_1", "unknown"))


def test_load_model_that_takes_long_keeps_labels_coming(
    make: Make, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_tiny(tmp_path / "other", labels=("west", "east", "far"))
    graph = make(model=tiny, min_seconds=0.0)
    assert graph.start()
    begun, resume, load = threading.Event(), threading.Event(), inference.load

    def slow(*args: Any, **options: Any) -> Any:
        begun.set()
        assert resume.wait(60)
        return load(*args, **options)

    monkeypatch.setattr(inference, "load", slow)
    responses: list[Any] = []
    client = threading.Thread(target=lambda: responses.append(graph.load_model(other.path)))
    client.start()
    assert begun.wait(60)
    names = {graph.step(stamp(frame), body(1.0))[0].model_name for frame in range(50)}
    assert names == {"tiny"} and not responses
    resume.set()
    client.join()
    assert responses[0].success and graph.step(stamp(50), body(1.0))[0].model_name == "other"


def test_recognizer_model_of_cut_out_recordings_warns(make: Make, tiny: str, tmp_path: Path, capfd: Any) -> None:
    description = tiny_description()
    figures = {"clips": "stretched", "live_accuracy": 0.6}
    provenance = replace(description.provenance, accuracy=0.9, figures=figures)
    trained = package.write(tmp_path / "cut_out", replace(description, provenance=provenance), tiny_onnx()).path
    graph = make(model=tiny)
    assert graph.start()
    assert "was evaluated on" not in capfd.readouterr().err
    assert graph.load_model(str(trained)).success
    assert (
        "model cut_out was evaluated on recordings cut out and stretched into the window: 90.0%"
        in capfd.readouterr().err
    )


def test_recognizer_model_without_rejection_warns(make: Make, tiny: str, tmp_path: Path, capfd: Any) -> None:
    graph = make(model=tiny)
    assert graph.start()
    assert "never says" not in capfd.readouterr().err
    assert graph.load_model(str(write_tiny(tmp_path / "sure", threshold=0.0).path)).success
    assert "model sure never says `unknown`, whatever it sees" in capfd.readouterr().err


def test_recognizer_trusted_models_other_folders_are_refused(make: Make, tmp_path: Path) -> None:
    trusted = tmp_path / "trusted"
    good = write_tiny(trusted / "good").path
    foreign = write_tiny(tmp_path / "trusted_not" / "foreign").path
    (trusted / "link").symlink_to(foreign)
    (foreign.parent / "home").symlink_to(good)
    graph = make(model=str(good), trusted_models=[str(trusted)])
    assert graph.start()
    for path in (foreign, trusted / "link", trusted / "../trusted_not/foreign", "joint_tcn_everyday"):
        response = graph.load_model(path)
        assert not response.success and response.model_name == "good"
        assert "is not in a trusted folder" in response.message and "trusted_models" in response.message
    assert graph.load_model(foreign.parent / "home").success
    changed = graph.node.set_parameters([Parameter("trusted_models", value=["/"])])[0]
    assert not changed.successful and graph.node.config.trusted_models == (str(trusted),)


@pytest.mark.parametrize(
    ("trusted", "word"),
    [
        ("/nowhere", "is not in a trusted folder (/nowhere)"),
        ([""], "trusted_models has an empty folder"),
        ([1, 2], "trusted_models"),
    ],
)
def test_recognizer_trusted_models_wrong_value_trusts_no_folder(make: Make, tiny: str, trusted: Any, word: str) -> None:
    graph = make(model=tiny, trusted_models=trusted)
    assert not graph.start()
    assert word in graph.node.last_error


@pytest.mark.parametrize("fault", ["missing", "corrupt", "foreign"])
def test_load_model_bad_model_keeps_the_current_one(make: Make, tiny: str, tmp_path: Path, fault: str) -> None:
    graph = make(model=tiny)
    assert graph.start()
    for frame in range(10):
        graph.step(stamp(frame), body(1.0))
    invalid = write_tiny(tmp_path / "bad").path
    if fault == "missing":
        invalid = tmp_path / "absent"
    elif fault == "corrupt":
        (invalid / "model.onnx").write_bytes(b"\0" * 100)
    else:
        (invalid / "model.yaml").write_text("!!python/object/apply:os.system ['true']\n")
    response = graph.load_model(invalid)
    assert not response.success and response.model_name == "tiny"
    assert str(invalid) in response.message and "\n" not in response.message
    (label,) = graph.step(stamp(10), body(1.0))
    assert (label.label, label.model_name) == ("right", "tiny")
    assert conversions.stamp_to_ns(label.window_start) == stamp(0), "the window is not restarted"
    assert graph.node.get_parameter("model").value == tiny


def test_list_models_skips_broken_packages(make: Make, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTREC_MODELS", str(Path(tiny).parent))
    write_tiny(Path(tiny).parent / "broken")
    (Path(tiny).parent / "broken/model.onnx").write_bytes(b"")
    graph = make(model="tiny")
    assert graph.start()
    response = graph.call(ListModels, "list_models", ListModels.Request())
    models = dict(zip(response.names, response.paths, strict=True))
    assert models["tiny"] == tiny and "broken" not in models and response.loaded == "tiny"


def test_recognizer_silent_skeletons_are_reported_without_stale_labels(make: Make, tiny: str) -> None:
    graph = make(model=tiny, watchdog_s=0.3, startup_s=0.0, stale_s=0.0)
    reported = threading.Event()
    fail = graph.node.fail

    def record_error(error: Exception) -> None:
        fail(error)
        reported.set()

    graph.node.fail = record_error  # type: ignore[method-assign,assignment]
    assert graph.start()
    for frame in range(10):
        graph.step(stamp(frame), body(1.0))
    graph.labels.clear()
    reported.clear()
    assert reported.wait(TIMEOUT_S)
    line = "waiting for skeletons on /skeletons: /peer publishes it but sends nothing (no message for 0.3 s"
    assert line in graph.node.last_error
    assert graph.labels == []


@pytest.mark.parametrize("jump_s", [-(2**31), -5, 0, 2**31 - 1], ids=["1901", "negative", "zero", "2038"])
def test_recognizer_bad_stamps_restart_windows_with_one_warning(make: Make, tiny: str, jump_s: int) -> None:
    graph = make(model=tiny, use_sim_time=True)
    assert graph.start()
    told: list[str] = []
    graph.node.warn = told.append  # type: ignore[method-assign,assignment]
    for frame in range(12):
        graph.step(stamp(frame), body(1.0))
    for start in (jump_s * 10**9, stamp(20), jump_s * 10**9, stamp(40)):
        for frame in range(3):
            graph.send("/clock", Clock(clock=conversions.ns_to_stamp(max(start, 0) + frame * PERIOD_NS)))
            (label,) = graph.step(start + frame * PERIOD_NS, body(-1.0))
            assert conversions.stamp_to_ns(label.window_start) >= start, "no joint from before the jump"
    assert [line.split(" by ")[0] for line in told] == ["stamps of skeletons jumped back"]
    assert graph.node.last_error == ""


def test_recognizer_constant_stamps_are_reported(make: Make, tiny: str) -> None:
    graph = make(model=tiny, watchdog_s=0.3, startup_s=0.0)
    assert graph.start()
    graph.step(stamp(0), body(1.0))

    def repeat_stamp() -> bool:
        graph.publish(stamp(0), body(1.0))
        return "all skeletons have the same stamp" in graph.node.last_error

    graph.wait_until(repeat_stamp)


@pytest.mark.parametrize("stamps", [range(0, 6000, 6), [frame // 2 + 3 * (frame % 2) for frame in range(1000)]])
def test_recognizer_restarting_windows_are_reported(make: Make, tiny: str, stamps: Sequence[int]) -> None:
    """The stamps have large gaps, or alternate between two publishers."""
    graph = make(model=tiny, watchdog_s=0.3, startup_s=0.0)
    assert graph.start()
    next_stamps = iter(stamps)

    def publish_next() -> bool:
        graph.publish(stamp(next(next_stamps)), body(1.0))
        time.sleep(0.05)
        return "windows restart too often" in graph.node.last_error

    graph.wait_until(publish_next)


def test_recognizer_reports_lost_bodies_though_the_network_fails(make: Make, tiny: str, monkeypatch) -> None:
    graph = make(model=tiny, min_seconds=0.0, lost_after_s=0.3)
    assert graph.start()
    for frame in range(3):
        graph.step(stamp(frame), body(1.0), body(-1.0, "body_2"))

    def fail(clips: Any) -> Any:
        raise InputError("the network failed: CUDA is out of memory")

    monkeypatch.setattr(graph.node._session, "predict_many", fail)
    graph.labels.clear()
    for frame in range(3, 9):
        graph.publish(stamp(frame), body(-1.0, "body_2"))
    graph.wait(lambda: [(label.body_id, label.label) for label in graph.labels] == [("body_1", "unknown")])
    graph.wait_until(lambda: "out of memory" in graph.node.last_error)


def test_recognizer_events_end_though_the_network_fails(make: Make, tiny: str, monkeypatch) -> None:
    """A robot that has stopped for an action must not wait for as long as the network fails."""
    graph = make(model=tiny, lost_after_s=0.3, interval_s=0.0, stale_s=0.0)
    assert graph.start()
    for frame in range(30):
        graph.step(stamp(frame), body(1.0), body(-1.0, "body_2"))
    graph.wait(lambda: len(graph.events) == 2)

    def fail(clips: Any) -> Any:
        raise InputError("the network failed: CUDA is out of memory")

    monkeypatch.setattr(graph.node._session, "predict_many", fail)
    for frame in range(30, 60):
        graph.publish(stamp(frame), body(-1.0, "body_2"))
    graph.wait(lambda: any(each.body_id == "body_1" for each in graph.events if each.kind == ActionEvent.ENDED))
    graph.wait_until(lambda: "body_1" not in graph.node._waits._labels)


def test_recognizer_figures_have_the_model_and_its_device(make: Make, tiny: str) -> None:
    graph = make(model=tiny)
    assert graph.node.figures() == {}
    assert graph.start()
    figures = graph.node.figures()
    assert (figures["model"], figures["device"], figures["warning"]) == ("tiny", "CPU, 1 thread", "")


def test_recognizer_deactivated_is_silent_and_restarts(make: Make, tiny: str) -> None:
    graph = make(model=tiny)
    assert graph.start()
    for frame in range(10):
        graph.step(stamp(frame), body(1.0))
    graph.node.trigger_deactivate()
    graph.labels.clear()
    graph.publish(stamp(10), body(1.0))
    graph.node.trigger_activate()
    graph._discover()
    (label,) = graph.step(stamp(12), body(1.0))
    assert conversions.stamp_to_ns(label.window_start) == stamp(12)
    graph.node.trigger_deactivate()
    graph.node.trigger_cleanup()
    assert graph.node.start()
