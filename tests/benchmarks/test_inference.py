"""`actrec bench inference` and `networks`: rows of packages and networks, and the recognizer's memory."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import benchmarks
from actrec.cli import main
from actrec.inference import package
from actrec.inference.package import LowerPrecision
from actrec.utils.errors import ConfigError, DeviceError
from benchmarks import inference, networks
from tests.tiny_model import write_tiny

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_inference_has_a_row_for_each_precision_and_number_of_threads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = write_tiny(tmp_path / "tiny")
    content = tiny.read_onnx()
    package.write(tmp_path / "both", replace(tiny, float16=LowerPrecision(0.1)), content, lower={"float16": content})
    command = ["bench", "inference", "--packages", str(tmp_path / "both"), "--calls", "20", "--no-node", "--json"]
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)["latency"]
    assert [(row["precision"], row["threads"]) for row in rows] == [
        ("float32", 1), ("float32", 2), ("float16", 1), ("float16", 2)
    ]  # fmt: skip
    for row in rows:
        assert 0 < row["p50_ms"] <= row["p99_ms"] and row["first_ms"] > 0 and row["load_ms"] > 0
        assert 30 < row["resident_mb"] < 500


def test_in_turns_compares_with_the_first_file(tmp_path: Path) -> None:
    paths = [str(write_tiny(tmp_path / name).onnx_path("float32")) for name in ("one", "other")]
    first, second = inference.in_turns(paths, 1, 20)
    assert (first["network"], second["network"], first["times_as_fast"]) == ("one", "other", 1.0)
    assert second["times_as_fast"] > 0 and first["p50_ms"] >= 0
    with pytest.raises(DeviceError, match="cannot read '/nowhere.onnx'"):
        inference.in_turns(["/nowhere.onnx"], 1, 1)


@pytest.mark.slow
@pytest.mark.ros
def test_inference_recognizer_has_less_than_300_mb_and_no_torch(tmp_path: Path) -> None:
    """The aim for a robot. Memory does not depend on the machine's load."""
    row = inference._node(write_tiny(tmp_path / "tiny"))
    assert row["torch"] is False
    assert 50 < row["resident_mb"] < 300


MODEL = "deepacts_graph:width=4;frames=16;modalities=[bones]"


@pytest.mark.slow
def test_networks_small_network_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "networks", "--models", MODEL, "--runs", "2", "--threads", "1", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["networks"][0]
    assert (row["network"], row["frames"], row["clips"]) == (MODEL, 16, 1)
    assert 0 < row["parameters_m"] < 0.1
    assert row["multiply_adds_g"] > 0
    assert row["ms_a_clip"] > 0
    assert row["ms_a_window"] == row["ms_a_clip"]
    assert 20 < row["peak_mb"] < 1000
    assert row["parity"] <= 1e-4


def test_networks_unknown_network_raises_config_error_before_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "_row", lambda *arguments: pytest.fail("measured"))
    with pytest.raises(ConfigError, match="unknown network 'lstm'"):
        networks.networks(["--models", "deepacts_graph,lstm"])


def test_importing_benchmarks_loads_no_library() -> None:
    command = "import benchmarks, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert not {"torch", "cv2", "numpy", "onnxruntime"} & set(loaded.split())


@pytest.mark.parametrize(("name", "absent"), [("inference", "torch"), ("streams", "torch"), ("streams", "rclpy")])
def test_importing_benchmark_of_a_robot_needs_no_other_library(name: str, absent: str) -> None:
    command = f"import sys; sys.modules['{absent}'] = None; import benchmarks.{name}"
    subprocess.run([sys.executable, "-c", command], cwd=ROOT, check=True)


def test_time_graph_measures_after_the_warm_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Graph:
        def __init__(self, *arguments, **options):
            pass

        def run(self, outputs, inputs):
            calls.append(inputs["x"].shape)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Graph)
    np.savez(tmp_path / "inputs.npz", x=np.zeros((1, 2)))
    figures = benchmarks.time_graph("model.onnx", str(tmp_path / "inputs.npz"), 5, 1)
    assert calls == [(1, 2)] * (benchmarks.WARM_UP + 5)
    assert figures["peak_mb"] > 10
