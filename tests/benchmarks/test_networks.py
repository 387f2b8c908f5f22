import json

import numpy as np
import pytest

from actrec.cli import main
from actrec.utils.errors import ConfigError
from benchmarks import networks, run_time

MODEL = "deepacts_graph:width=4;frames=16;modalities=[bones]"


def test_networks_small_network_is_measured(capsys):
    assert main(["bench", "networks", "--models", MODEL, "--runs", "2", "--threads", "1", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["networks"][0]
    assert (row["network"], row["frames"], row["clips"]) == (MODEL, 16, 1)
    assert 0 < row["parameters_m"] < 0.1
    assert row["multiply_adds_g"] > 0
    assert row["ms_a_clip"] > 0
    assert row["ms_a_window"] == row["ms_a_clip"]
    assert 20 < row["peak_mb"] < 1000
    assert row["parity"] <= 1e-4


def test_networks_unknown_network_raises_config_error_before_it_measures(monkeypatch):
    monkeypatch.setattr(networks, "_row", lambda *arguments: pytest.fail("measured"))
    with pytest.raises(ConfigError, match="unknown network 'lstm'"):
        networks.networks(["--models", "deepacts_graph,lstm"])


def test_run_time_imports_only_the_runtime():
    source = run_time.__file__
    with open(source, encoding="utf-8") as file:
        imported = [line for line in file.read().splitlines() if line.startswith(("import", "from"))]
    assert not any("torch" in line or "actrec" in line or "cv2" in line for line in imported)


def test_run_time_measures_after_the_warm_up(tmp_path, monkeypatch):
    calls = []

    class Graph:
        def __init__(self, *arguments, **options):
            pass

        def run(self, outputs, inputs):
            calls.append(inputs["x"].shape)

    monkeypatch.setattr(run_time.onnxruntime, "InferenceSession", Graph)
    np.savez(tmp_path / "inputs.npz", x=np.zeros((1, 2)))
    figures = run_time.measure(tmp_path / "model.onnx", tmp_path / "inputs.npz", 5, 1)
    assert calls == [(1, 2)] * (run_time.WARM_UP + 5)
    assert figures["peak_mb"] > 10
