"""`actrec models`: the list, a broken package, a described package, and missing packages."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from actrec import cli
from actrec.cli import models
from actrec.inference import package, zoo
from tests.tiny_model import LABELS, tiny_description, tiny_onnx, write_tiny


@pytest.fixture(autouse=True)
def zoo_of_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_tiny(tmp_path / "tiny")
    write_tiny(tmp_path / "broken")
    (tmp_path / "broken/model.onnx").write_bytes(b"")
    monkeypatch.setenv("ACTREC_MODELS", str(tmp_path))
    return tmp_path


def test_models_lists_packages(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_networks", lambda: ["deepacts_graph"])
    assert cli.main(["models"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert "3 actions of made up, 100.0% top-1, 2 s window" in lines["tiny"]
    assert "SHA-256" in lines["broken"]
    assert "deepacts_graph" in lines and "papers/vpn_ntu60" in lines


def test_models_json_lists_packages(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_networks", lambda: None)
    assert cli.main(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    packages = {package["name"]: package for package in listed["packages"]}
    assert packages["tiny"]["labels"] == list(LABELS) and packages["tiny"]["bytes"] > 500
    assert "problem" in packages["broken"] and listed["networks"] is None and listed["recipes"] == []


def test_models_with_torch_lists_networks(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="networks need PyTorch")
    assert "deepacts_graph" in (models._networks() or [])


def test_models_describes_package(capsys: pytest.CaptureFixture[str], zoo_of_two: Path) -> None:
    assert cli.main(["models", "tiny"]) == 0
    text = capsys.readouterr().out
    assert "left, right, far" in text and "CPU, 1 thread" in text
    assert cli.main(["models", str(zoo_of_two / "tiny"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["window"] == {
        "seconds": 2.0, "frames": 8, "clip": 0, "stride": 0, "combine": "mean", "gravity": "leveled",
    }  # fmt: skip


def test_models_cut_out_recordings_warn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    described = tiny_description()
    figures = {"clips": "stretched", "live_accuracy": 0.6}
    described = replace(described, provenance=replace(described.provenance, accuracy=0.9, figures=figures))
    folder = package.write(tmp_path / "gestures", described, tiny_onnx()).path
    assert cli.main(["models", str(folder)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  live "))
    assert line == (
        "  live       recordings cut out and stretched into the window: 90.0% of them are right, 60.0% in windows as a "
        "camera gives them"
    )


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"test_clips": 0}, "made up (none), not measured: the split has no test part"),
        (
            {"test_clips": 12, "evaluated_by": "leave one person out"},
            "made up (none), 90.0% top-1 by leave one person out",
        ),
        ({"test_clips": 12}, "made up (none), 90.0% top-1 on its test"),
    ],
)
def test_models_accuracy_states_its_clips(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, figures: dict[str, object], said: str
) -> None:
    described = tiny_description()
    of = replace(described.provenance, split="none", accuracy=0.9, figures=figures)
    folder = package.write(tmp_path / "own", replace(described, provenance=of), tiny_onnx()).path
    assert cli.main(["models", str(folder)]) == 0
    assert f"  trained on {said}\n" in capsys.readouterr().out


def test_models_unfinished_first_epoch_counts_as_trained(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of a run on videos an epoch takes hours, and a checkpoint is written every ten minutes."""
    described = tiny_description()
    for dataset, trained in (("made up", True), ("none", False)):
        of = replace(described.provenance, dataset=dataset, epochs=0)
        folder = package.write(tmp_path / "begun", replace(described, provenance=of), tiny_onnx(), overwrite=True).path
        assert cli.main(["models", str(folder)]) == 0
        assert ("its labels mean nothing" in capsys.readouterr().out) != trained
        assert models._entry(zoo.InstalledPackage("tiny", folder, package.load(folder)))["trained"] == trained


@pytest.mark.parametrize("name", ["absent", "broken"])
def test_models_broken_package_refused_in_one_line(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert cli.main(["models", name]) == 1
    error = capsys.readouterr().err
    assert error.startswith("actrec: ") and error.count("\n") == 1 and name in error


def test_models_without_torch_names_install_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_networks", lambda: None)
    assert cli.main(["models"]) == 0
    assert "pip install 'actrec[train]'" in capsys.readouterr().out
