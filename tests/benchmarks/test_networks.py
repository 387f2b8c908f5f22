import json

import numpy as np
import pytest

from actrec.cli import main
from actrec.utils.errors import ConfigError
from benchmarks import networks, run_time
from benchmarks.pages import marks

MODEL = "deepacts_graph:width=4;frames=16;modalities=[bones]"


def test_a_network_is_measured_in_processes_of_its_own(tmp_path, monkeypatch, capsys):
    page = tmp_path / "networks.md"
    begin, end = marks("networks")
    page.write_text(f"# Networks\n\n{begin}\nold\n{end}\n\nEnd.\n")
    command = ["bench", "networks", "--models", MODEL, "--runs", "2", "--threads", "1", "--write", str(page), "--json"]
    assert main(command) == 0
    figures = json.loads(capsys.readouterr().out)
    row = figures["networks"][0]
    assert (row["network"], row["frames"], row["clips"]) == (MODEL, 16, 1)
    assert 0 < row["parameters_m"] < 0.1
    assert row["multiply_adds_g"] > 0
    assert row["ms_a_clip"] > 0
    assert row["ms_a_window"] == row["ms_a_clip"]
    assert 20 < row["peak_mb"] < 1000
    assert row["parity"] <= 1e-4
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("# Networks") and text.endswith(f"{end}\n\nEnd.\n")
    assert all(name in text for name in (f"`{MODEL}`", "CTR-GCN", "ST-GCN"))


def test_wrong_names_and_pages_are_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "_row", lambda *arguments: pytest.fail("measured"))
    with pytest.raises(ConfigError, match="unknown network 'lstm'"):
        networks.networks(["--models", "deepacts_graph,lstm"])
    (tmp_path / "plain.md").write_text("no marks")
    for page in ("plain.md", "missing.md"):
        with pytest.raises(ConfigError, match=page):
            networks.networks(["--models", "deepacts_graph", "--write", str(tmp_path / page)])


def test_run_time_loads_only_the_runtime():
    source = run_time.__file__
    with open(source, encoding="utf-8") as file:
        imported = [line for line in file.read().splitlines() if line.startswith(("import", "from"))]
    assert not any("torch" in line or "actrec" in line or "cv2" in line for line in imported)


def test_runs_are_counted_after_the_warm_up(tmp_path, monkeypatch):
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
