"""The recognizer node with a backend that builds engines, with fake TensorRT and CUDA, and with a real builder."""

import sys
import threading
import time
from pathlib import Path

import pytest
from rclpy.parameter import Parameter

from actrec.inference import zoo
from actrec.inference.tensorrt import builder, cuda, engine
from tests.core.inference.tensorrt import plain_tensorrt, rtx
from tests.nodes.recognizer_graph import Make, body, stamp
from tests.tiny_model import write_tiny

pytestmark = pytest.mark.ros


class Graph:
    def __init__(self, stream, work):
        self.launch = work


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    return str(write_tiny(tmp_path / "tiny").path)


@pytest.fixture
def gate(monkeypatch, tmp_path):
    """Install a fake GPU; its engine builds wait until the returned event is set."""
    gate, found = threading.Event(), plain_tensorrt.module()
    build = found.Builder.build_serialized_network

    def build_when_open(self, network, config):
        assert gate.wait(60)
        return build(self, network, config)

    monkeypatch.setattr(found.Builder, "build_serialized_network", build_when_open)
    monkeypatch.setenv("ACTREC_ENGINES", str(tmp_path / "engines"))
    monkeypatch.setattr(engine, "CudaGraph", Graph)
    monkeypatch.setitem(sys.modules, "tensorrt", found)
    monkeypatch.setattr(cuda, "open_cuda", lambda library="auto": plain_tensorrt.Cuda())
    return gate


def record_complaints(node, monkeypatch) -> list[tuple[str, str]]:
    """Return a list that collects the node's complaints, each with the node's state."""
    lines: list[tuple[str, str]] = []
    original = node.complain

    def record(line: str, level: str = "error") -> None:
        lines.append((node.busy, line))
        original(line, level)

    monkeypatch.setattr(node, "complain", record)
    return lines


def device(graph) -> str:
    return graph.node._session.backend.device


def test_recognizer_labels_with_fallback_while_an_engine_is_built(make: Make, tiny: str, gate) -> None:
    graph = make(model=tiny, backend="tensorrt", allow_fallback=True)
    assert graph.start()
    assert device(graph).startswith("CPU")
    for frame in range(12):
        (label,) = graph.step(stamp(frame), body(1.0))
    assert label.label == "right"
    gate.set()
    graph.wait_until(lambda: device(graph).startswith("TensorRT"))
    for frame in range(12, 31):
        (label,) = graph.step(stamp(frame), body(1.0))
    assert label.label == "right"
    assert graph.node.busy == ""


def test_recognizer_uses_a_cached_engine_at_once(make: Make, tiny: str, gate) -> None:
    gate.set()
    first = make(model=tiny, backend="tensorrt")
    assert first.start()
    assert device(first).startswith("TensorRT")
    gate.clear()
    second = make(model=tiny, backend="tensorrt", allow_fallback=True)
    assert second.start()
    assert device(second).startswith("TensorRT")


def test_recognizer_auto_uses_an_engine_of_its_own_settings(make: Make, tiny: str, gate) -> None:
    gate.set()
    settings = {"tensorrt.most": 8}
    built = make(model=tiny, backend="tensorrt", **settings)
    assert built.start() and device(built).startswith("TensorRT")
    gate.clear()  # nothing more is built
    same, other = make(model=tiny, backend="auto", **settings), make(model=tiny, backend="auto")
    assert same.start() and device(same).startswith("TensorRT")
    assert other.start() and device(other).startswith("CPU")


def test_recognizer_building_an_engine_is_reported(make: Make, tiny: str, gate, monkeypatch) -> None:
    graph = make(model=tiny, backend="tensorrt")
    lines, reported = record_complaints(graph.node, monkeypatch), []
    report = graph.node.report

    def record() -> None:
        reported.append(graph.node.busy)
        report()

    monkeypatch.setattr(graph.node, "report", record)
    gate.set()
    assert graph.start()
    assert lines[0][0].startswith("BUILDING an engine for") and "Building 0/2" in lines[0][0]
    assert "takes minutes" in lines[0][1]
    assert [line for line in reported if line] == [f"loading {tiny}", lines[0][0]], "at once, then once a second"
    assert graph.node.busy == ""


@pytest.mark.parametrize("fallback", [False, True])
def test_recognizer_without_tensorrt_is_inactive_or_falls_back(
    make: Make, tiny: str, gate, monkeypatch, fallback
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    graph = make(model=tiny, backend="tensorrt", allow_fallback=fallback)
    assert graph.start() is fallback
    if fallback:
        assert device(graph).startswith("CPU")
        description = graph.node.figures()["device"]
        assert "(tensorrt cannot be used, onnxruntime runs instead:" in description and "part of JetPack" in description
    else:
        assert "part of JetPack" in graph.node.last_error


def test_recognizer_failed_build_keeps_the_fallback(make: Make, tiny: str, gate, monkeypatch) -> None:
    found = plain_tensorrt.module(fault="build")
    monkeypatch.setitem(sys.modules, "tensorrt", found)
    graph = make(model=tiny, backend="tensorrt", allow_fallback=True)
    lines = record_complaints(graph.node, monkeypatch)
    assert graph.start()
    graph.wait_until(lambda: any("the model was not replaced: TensorRT cannot build tiny" in line for _, line in lines))
    assert device(graph).startswith("CPU")


def test_recognizer_close_stops_the_build_of_an_engine(make: Make, tiny: str, gate, monkeypatch) -> None:
    found = plain_tensorrt.module(fault="slow")
    monkeypatch.setitem(sys.modules, "tensorrt", found)
    graph = make(model=tiny, backend="tensorrt", allow_fallback=True)
    assert graph.start()
    graph.wait_until(lambda: bool(graph.node.busy) and plain_tensorrt.is_building(found))
    graph.node.close()
    graph.wait_until(lambda: plain_tensorrt.CANCELLED in found.calls)


def test_recognizer_engine_of_an_earlier_model_is_discarded(make: Make, tiny: str, gate, tmp_path) -> None:
    other = write_tiny(tmp_path / "other").path
    graph = make(model=tiny, backend="tensorrt", allow_fallback=True)
    assert graph.start()
    node = graph.node
    node.trigger_deactivate()
    node.trigger_cleanup()
    node.set_parameters([Parameter("model", value=str(other)), Parameter("backend", value="onnxruntime")])
    node.trigger_configure()
    node.trigger_activate()
    gate.set()
    node._loader.submit(lambda: None).result(60)  # wait for the earlier tasks
    assert (node.figures()["model"], node._recognizer.session.package.name) == ("other", "other")


def test_recognizer_request_ends_the_first_build_of_an_engine(
    make: Make, tiny: str, gate, tmp_path, monkeypatch
) -> None:
    other = str(write_tiny(tmp_path / "other").path)
    graph = make(model=tiny, backend="tensorrt", allow_fallback=True)
    assert graph.start()
    used: list[str] = []
    replace = graph.node._recognizer.set_session

    def record(session) -> None:
        used.append(session.package.name)
        replace(session)

    monkeypatch.setattr(graph.node._recognizer, "set_session", record)
    end_loads = graph.node._loader.end_loads
    # The engine is ready as soon as the request has come.
    monkeypatch.setattr(graph.node._loader, "end_loads", lambda why: (end_loads(why), gate.set()))
    assert graph.load_model(other).success
    assert used == ["other"] and device(graph).startswith("TensorRT")


def test_recognizer_builds_an_engine_after_it_was_cleaned_up(make: Make, tiny: str, gate, tmp_path) -> None:
    gate.set()
    graph = make(model=tiny, backend="tensorrt", allow_fallback=True)
    assert graph.start()
    assert graph.load_model(str(write_tiny(tmp_path / "other").path)).success
    node = graph.node
    node.trigger_deactivate()
    node.trigger_cleanup()
    node.set_parameters([Parameter("model", value=str(write_tiny(tmp_path / "third").path))])
    gate.clear()
    node.trigger_configure()
    node.trigger_activate()
    assert device(graph).startswith("CPU")
    gate.set()
    graph.wait_until(lambda: device(graph).startswith("TensorRT"))


def test_recognizer_trusted_models_refuse_engines_that_others_can_replace(
    make: Make, tiny: str, gate, tmp_path: Path
) -> None:
    """Such an engine may hold another network, whose labels would come under a trusted name."""
    gate.set()
    graph = make(model=tiny, backend="tensorrt", trusted_models=[str(Path(tiny).parent)])
    assert graph.start()
    (tmp_path / "engines").chmod(0o777)
    response = graph.load_model(tiny)
    assert not response.success and "are not trusted: '" in response.message and "chmod go-w" in response.message
    assert device(graph).startswith("TensorRT"), "the old model still runs"
    changed = graph.node.set_parameters([Parameter("tensorrt.cache", value=str(tmp_path / "own"))])[0]
    assert not changed.successful
    (tmp_path / "engines").chmod(0o755)
    assert graph.load_model(tiny).success


@pytest.fixture
def begun(monkeypatch, tmp_path):
    """Install the real builder of TensorRT for RTX, with 20 ms more for each step; return an event set by the first."""
    begun, monitor = threading.Event(), builder._monitor

    def slow(trt, report):
        def step(*progress) -> bool:
            begun.set()
            time.sleep(0.02)
            return report(*progress)

        return monitor(trt, step)

    rtx.install(monkeypatch, tmp_path / "engines")
    monkeypatch.setattr(builder, "_monitor", slow)
    monkeypatch.setattr(engine, "CudaGraph", Graph)
    return begun


@pytest.mark.parametrize("how", ["close", "request"])
def test_recognizer_ends_the_build_of_a_real_builder_at_once(make: Make, tiny: str, begun, tmp_path, how) -> None:
    """The whole build takes more than 20 s with the slow steps."""
    graph = make(model=zoo.DEFAULT, backend="tensorrt_rtx", allow_fallback=True, **{"tensorrt_rtx.precision": "fp32"})
    assert graph.start() and device(graph).startswith("CPU")
    assert begun.wait(60)
    ended_at = time.monotonic()
    if how == "close":
        graph.node.close()
        assert graph.node._loader._later.join(5.0)
    else:
        assert graph.load_model(tiny).success and device(graph).startswith("TensorRT for RTX")
    assert time.monotonic() - ended_at < 10.0
    assert not rtx.has_built(zoo.find(zoo.DEFAULT))
    left = {path.name.split("_tensorrt")[0] for path in (tmp_path / "engines").iterdir() if path.suffix != ".lock"}
    assert left == (set() if how == "close" else {"tiny"})
