"""`actrec bench inference`: rows of a package in each of its precisions, and the recognizer's memory."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from actrec.cli import main
from actrec.inference import package
from actrec.inference.package import LowerPrecision
from benchmarks import inference
from tests.tiny_model import write_tiny


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


@pytest.mark.ros
def test_inference_recognizer_has_less_than_300_mb_and_no_torch(tmp_path: Path) -> None:
    """The aim for a robot. Memory does not depend on the machine's load."""
    row = inference._node(write_tiny(tmp_path / "tiny"))
    assert row["torch"] is False
    assert 50 < row["resident_mb"] < 300
