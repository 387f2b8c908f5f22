"""Runs and loads of networks that take long end when the node stops or the model is replaced."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from actrec import inference
from actrec.inference import package
from actrec.utils.errors import AbortedError
from tests.nodes.recognizer_graph import TIMEOUT_S, Make, body, stamp
from tests.tiny_model import FRAMES, endless_onnx, person_at, tiny_description, write_tiny

pytestmark = pytest.mark.ros

FAR = 10.0
"""Where a person must be for an endless run of the network, in m."""


@pytest.fixture
def endless(tmp_path: Path) -> str:
    return str(package.write(tmp_path / "endless", tiny_description(), endless_onnx()).path)


@pytest.fixture
def always(tmp_path: Path) -> str:
    """A package whose first runs, at loading, do not end."""
    return str(package.write(tmp_path / "always", tiny_description(), endless_onnx(beyond_m=-1e3)).path)


def in_thread(call: Any) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def test_session_abort_ends_a_run_and_no_later_one(endless: str) -> None:
    session = inference.load(endless, "onnxruntime")
    clip = {"bodies": person_at(FAR)[None, None].repeat(FRAMES, axis=1)}
    thread, found = in_thread(lambda: session.predict(clip))
    while thread.is_alive():
        time.sleep(0.05)
        session.abort()
    assert isinstance(found[0], AbortedError)
    assert session.predict({"bodies": clip["bodies"] - FAR}).label in (*session.package.labels, "unknown")


def test_session_abort_between_clips_ends_a_prediction(endless: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = inference.load(endless, "onnxruntime")
    monkeypatch.setattr(session, "_at_once", 1)
    run, runs = session.backend.run, []

    def run_and_abort(inputs: Any) -> Any:
        runs.append(inputs)
        session.abort()
        return run(inputs)

    monkeypatch.setattr(session.backend, "run", run_and_abort)
    with pytest.raises(AbortedError):
        session.predict_many([{"bodies": person_at(0.0)[None, None].repeat(FRAMES, axis=1)}] * 3)
    assert len(runs) == 1


def test_recognizer_with_an_endless_run_stops_and_starts_again(make: Make, endless: str) -> None:
    graph = make(model=endless, min_seconds=0.0)
    assert graph.start()
    graph.step(stamp(0), body(1.0))
    graph.publish(stamp(1), body(FAR))
    graph.wait_until(lambda: bool(graph.node._session.backend._runs))
    graph.node.trigger_deactivate()
    assert graph.node.last_error == ""
    graph.node.trigger_activate()
    graph._discover()
    assert graph.step(stamp(2), body(1.0))[0].label == "right"


def test_load_model_during_an_endless_run_labels_with_the_new_one(make: Make, endless: str, tmp_path: Path) -> None:
    graph = make(model=endless, min_seconds=0.0)
    assert graph.start()
    graph.publish(stamp(1), body(FAR))
    graph.wait_until(lambda: bool(graph.node._session.backend._runs))
    assert graph.load_model(write_tiny(tmp_path / "other").path).success
    assert graph.step(stamp(2), body(1.0))[0].model_name == "other"


@pytest.mark.parametrize("how", ["request", "cleanup"])
def test_load_model_that_does_not_end_is_ended_by_a_newer_request_and_by_cleanup(
    make: Make, always: str, tmp_path: Path, how: str
) -> None:
    tiny, other = (str(write_tiny(tmp_path / name).path) for name in ("tiny", "other"))
    graph = make(model=tiny)
    assert graph.start()
    client, found = in_thread(lambda: graph.load_model(always))
    graph.wait_until(lambda: bool(graph.node._loader._opening))
    if how == "request":
        assert graph.load_model(other).success
    else:
        graph.node.trigger_deactivate()
        graph.node.trigger_cleanup()
    client.join()
    assert not found[0].success and ("a newer request came" if how == "request" else "cleaned up") in found[0].message
    assert not graph.node._loader._opening


def test_recognizer_closed_while_a_model_loads_ends_the_load(make: Make, endless: str, always: str) -> None:
    graph = make(model=endless)
    assert graph.start()
    client, _ = in_thread(lambda: graph.load_model(always))
    graph.wait_until(lambda: bool(graph.node._loader._opening))
    graph.node.close()
    assert graph.node._loader._later.join(TIMEOUT_S)
    client.join()


def test_recognizer_network_that_does_not_answer_gives_one_unknown(make: Make, endless: str) -> None:
    graph = make(model=endless, min_seconds=0.0, stale_s=2.0)
    assert graph.start()
    graph.step(stamp(0), body(1.0))
    frames = iter(range(1, 10_000))

    def publish_far() -> bool:
        graph.publish(stamp(next(frames)), body(FAR))
        time.sleep(0.03)
        return len([label for label in graph.labels if label.reason]) > 0 and next(frames) > 60

    graph.wait_until(publish_far)
    (reason,) = [label.reason for label in graph.labels if label.reason]
    assert reason.startswith("the network has run for")
