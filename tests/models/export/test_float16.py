"""Conversion to float16, and packages with both precisions."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from actrec import inference
from actrec.cli import main
from actrec.inference import package
from actrec.utils.errors import PackageError
from actrec_models.export import precision, repackage
from actrec_models.export.onnx_graph import run_onnx
from tests.models.small import SMALL
from tests.tiny_model import FRAMES, tiny_description, tiny_onnx, write_tiny

CLASSES = 4
MANY = 200_000
"""More indices than float16 has integers."""


def graph(nodes: list[onnx.NodeProto], shape: list[int], constants: dict[str, np.ndarray]) -> bytes:
    """Return a graph from "x" [N, *shape] to "logits" [N, CLASSES]."""
    made = helper.make_graph(
        nodes,
        "made up",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def node(kind: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def test_to_float16_large_index_is_exact():
    table = np.random.default_rng(1).normal(0, 1, (MANY, CLASSES)).astype(np.float32)
    content = graph(
        [
            node("Add", "x one", "moved"),
            node("Cast", "moved", "place", to=TensorProto.INT64),
            node("Gather", "table place", "logits"),
        ],
        [],
        {"one": np.ones((), np.float32), "table": table},
    )
    places = np.array([2047, 4095, 70_001, MANY - 2], np.float32)
    made, difference = precision.to_float16(content, {"x": places})
    assert difference < 1e-3
    np.testing.assert_allclose(run_onnx(made, {"x": places}, optimized=False), table[places.astype(int) + 1], atol=1e-2)
    assert len(made) < 0.51 * len(content)


def test_to_float16_comparison_is_unchanged():
    """Two values that are equal in float16 stay on their sides of a limit."""
    content = graph(
        [
            node("Sub", "x limit", "beyond"),
            node("Greater", "beyond zero", "above"),
            node("Cast", "above", "mask", to=TensorProto.FLOAT),
            node("Mul", "mask weights", "logits"),
        ],
        [1],
        {
            "limit": np.array([1.0], np.float32),
            "zero": np.zeros(1, np.float32),
            "weights": np.array([1.0, -2.0, 3.0, 0.5], np.float32),
        },
    )
    made, difference = precision.to_float16(content, {"x": np.array([[1.0001], [0.9999], [1.0]], np.float32)})
    assert difference == 0.0
    assert run_onnx(made, {"x": np.array([[1.00001]], np.float32)}, optimized=False).tolist() == [[1.0, -2.0, 3.0, 0.5]]


@pytest.mark.parametrize("scale", [3e5, 1e-12])
def test_to_float16_constant_out_of_range_stays_in_float32(scale):
    """A product and a quotient with it neither overflow nor vanish."""
    content = graph(
        [node("Mul", "x scale", "far"), node("Div", "far scale", "logits")],
        [CLASSES],
        {"scale": np.array(scale, np.float32)},
    )
    inputs = {"x": np.array([[1.0, 2.0, -3.0, 0.5]], np.float32)}
    made, difference = precision.to_float16(content, inputs)
    assert difference < 1e-3
    kept = [t for t in onnx.load_model_from_string(made).graph.initializer if t.data_type == TensorProto.FLOAT]
    assert [float(numpy_helper.to_array(t)) for t in kept] == [pytest.approx(scale)]


def overflowing() -> bytes:
    """Return a graph with intermediate values of 9e10, whose constants fit into float16."""
    weights = np.eye(CLASSES, dtype=np.float32) * 3e3
    return graph(
        [node("MatMul", "x weights", "a"), node("MatMul", "a weights", "b"), node("Mul", "b small", "logits")],
        [CLASSES],
        {"weights": weights, "small": np.full(CLASSES, 1e-4, np.float32)},
    )


def test_to_float16_overflow_refused():
    inputs = {"x": np.array([[1.0, 20.0, -30.0, 0.5]], np.float32)}
    with pytest.raises(PackageError, match=r"values leave float16's range \(±65504\)"):
        precision.to_float16(overflowing(), inputs)
    made, _ = precision.to_float16(
        overflowing(), inputs, kept_operators=precision.FLOAT32_OPERATORS | {"MatMul", "Mul"}
    )
    assert np.isfinite(run_onnx(made, inputs, optimized=False)).all()


def test_to_float16_unsupported_operator_refused():
    content = graph([node("Det", "x", "logits")], [CLASSES, 2, 2], {})
    with pytest.raises(PackageError, match="in float16, node '.*' is a Det, which TensorRT"):
        precision.to_float16(content, {"x": np.ones((1, CLASSES, 2, 2), np.float32)})


def test_with_float16_refusal_contains_family(monkeypatch):
    monkeypatch.setattr(precision, "MAX_FLOAT16_DIFFERENCE", -1.0)
    with pytest.raises(PackageError, match=r"^deepacts_graph \(tiny\) cannot be written in float16: .*--float16"):
        precision.with_float16(tiny_description(), tiny_onnx())


# -- packages ----------------------------------------------------------------------------------------------------------


def test_export_float16_runs_in_both_precisions(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ACTREC_MODELS", str(tmp_path))
    folder = tmp_path / "both"
    options = [word for key, value in SMALL["res_tcn_bjcn"].items() for word in ("--option", f"{key}={value}")]
    command = ["export", "--network", "res_tcn_bjcn", *options, "--classes", "wave,point", "--float16"]
    assert main([*command, "--out", str(folder)]) == 0
    assert f"{folder}/model.float16.onnx: not measured on a dataset, logits within 0." in capsys.readouterr().out
    made = package.load(folder)
    assert made.precisions == ("float32", "float16")
    assert 0 < made.float16.difference < precision.MAX_FLOAT16_DIFFERENCE and made.float16.accuracy is None
    assert (folder / "model.float16.onnx").stat().st_size < 0.7 * (folder / "model.onnx").stat().st_size
    assert "| In float16 | logits within 0." in (folder / "README.md").read_text()
    one, other = (inference.load(folder, "onnxruntime", precision=name) for name in made.precisions)
    assert (one.backend.device, other.backend.device) == ("CPU, 1 thread", "CPU, 1 thread, float16")
    inputs = {spec.name: np.random.default_rng(1).normal(0, 0.3, (3, *spec.shape)) for spec in made.inputs}
    inputs = {name: value.astype(np.float32) for name, value in inputs.items()}
    assert precision.relative_difference(other.backend.run(inputs), one.backend.run(inputs)) < 0.02
    assert main(["models", str(folder)]) == 0
    assert "computes   in float32 and float16 (logits within" in capsys.readouterr().out
    assert main(["models"]) == 0
    assert "MB, also float16" in capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["packages"][0]["precisions"] == ["float32", "float16"]


@pytest.fixture
def both(tmp_path):
    """Return a package of the tiny network in both precisions."""
    write_tiny(tmp_path / "plain")
    (tmp_path / "plain/README.md").write_text("# plain\n\nold table\n\n## How it was taught\n\n- well\n")
    (tmp_path / "plain/model.safetensors").write_bytes(b"tensors")
    return repackage.add_float16(tmp_path / "plain", tmp_path / "both", str(tmp_path)).path


def test_add_float16_needs_no_checkpoint(both, caplog):
    made, plain = package.load(both), package.load(both.parent / "plain")
    assert made.read_onnx() == plain.read_onnx() and made.read_onnx("float16") != made.read_onnx()
    assert dataclasses.replace(made, float16=None, path=plain.path) == plain
    assert made.float16.accuracy is None  # "made up" is no dataset
    text = (both / "README.md").read_text()
    assert text.startswith("# both\n") and "In float16" in text and text.endswith("## How it was taught\n\n- well\n")
    assert (both / "model.safetensors").read_bytes() == b"tensors"
    clip = {"bodies": np.full((1, FRAMES, 25, 3), 0.3, np.float32)}
    assert inference.load(both, "onnxruntime", precision="float16").predict(clip).label == "right"


def test_copy_keeps_its_own_figures_on_other_datasets(tmp_path):
    """They are not another model's because the folder has another name."""
    write_tiny(tmp_path / "plain")
    made = package.load(tmp_path / "plain")
    row = {"set": "kard", "trained": False, "clips": 9, "top1": 0.5, "right": 0.4, "unknown": 0.3, "wrong": 0.3}
    row |= {"other_clips": 2, "others_labeled": 0.5, "found_share": 0.5, "false_events_per_minute": 1.0, "classes": {}}
    figures = {"elsewhere": [{"model": "plain", "package": made.provenance.onnx_sha256, "sets": [row]}]}
    described = dataclasses.replace(made, provenance=dataclasses.replace(made.provenance, figures=figures))
    package.write(tmp_path / "plain", described, made.read_onnx(), None, "# plain\n", True)
    copy = repackage.add_float16(tmp_path / "plain", tmp_path / "copy", str(tmp_path)).path
    card = (copy / "README.md").read_text()
    assert "| kard | 9 |" in card and "(plain)" not in card


def test_export_without_weights_into_current_folder(both, tmp_path, monkeypatch):
    (tmp_path / "small").mkdir()
    monkeypatch.chdir(tmp_path / "small")
    command = ["export", str(both), "--float16", "--no-weights", "--out"]
    assert main([*command, str(tmp_path / "new")]) == 0
    (tmp_path / "small").rmdir()
    (tmp_path / "new").rename(tmp_path / "small")
    monkeypatch.chdir(tmp_path / "small")
    assert main(["export", ".", "--float16", "--out", ".", "--overwrite"]) == 0
    assert not (tmp_path / "small/model.safetensors").exists()
    assert (tmp_path / "small/README.md").read_text().startswith("# small\n")


def test_add_float16_overwrites_source_package(both):
    plain = both.parent / "plain"
    with pytest.raises(PackageError, match="exists"):
        repackage.add_float16(plain, plain, str(both))
    assert package.load(plain).float16 is None
    repackage.add_float16(plain, plain, str(both), overwrite=True)
    assert package.load(plain).float16 == package.load(both).float16


def test_add_float16_is_scored_on_available_dataset(both, data_root, tmp_path, monkeypatch):
    asked = []

    def score(models, data_root, options):
        asked.append((models[0].package.precisions, data_root, options.root))
        return SimpleNamespace(main_results=[SimpleNamespace(accuracy=0.5)])

    monkeypatch.setattr(repackage, "_scoring_obstacle", lambda *_: "")
    monkeypatch.setattr(repackage.evaluator, "evaluate_models", score)
    made = repackage.add_float16(both.parent / "plain", tmp_path / "scored", str(data_root), root="mine")
    assert asked == [(("float32", "float16"), str(data_root), "mine")]
    assert made.float16.accuracy == 0.5
    assert "| In float16 | 50.0% of the same clips; logits within" in (made.path / "README.md").read_text()


def test_scoring_obstacle_unreadable_dataset(both, tmp_path):
    (tmp_path / "nucla").mkdir()
    described = package.load(both)
    trained = dataclasses.replace(described.provenance, dataset="nucla", split="view", figures={})
    obstacle = repackage._scoring_obstacle(dataclasses.replace(described, provenance=trained), str(tmp_path), "")
    assert "nucla_skeletons.npz" in obstacle


@pytest.mark.parametrize("change", ["missing", "truncated", "the other"])
def test_load_damaged_float16_file_refused(both, change, capsys):
    file = both / "model.float16.onnx"
    content = {"truncated": file.read_bytes()[:-9], "the other": (both / "model.onnx").read_bytes()}
    file.unlink() if change == "missing" else file.write_bytes(content[change])
    assert inference.load(both).backend.device == "CPU, 1 thread"
    with pytest.raises(PackageError, match=r"model\.float16\.onnx.*(No such file|SHA-256).*export the package again"):
        inference.load(both, "onnxruntime", precision="float16")
    assert main(["eval", str(both), "--precision", "float16", "--quiet"]) == 1
    error = capsys.readouterr().err.strip()
    assert "model.float16.onnx" in error and "\n" not in error


def test_load_package_without_float16_refuses_float16(both, capsys):
    file = both / "model.yaml"
    content = yaml.safe_load(file.read_text())
    del content["float16"]
    file.write_text(yaml.safe_dump(content))
    assert package.load(both).precisions == ("float32",)
    with pytest.raises(PackageError, match=r"both has no network in float16: write one with `actrec export .*both --f"):
        inference.load(both, "onnxruntime", precision="float16")
    assert main(["models", str(both)]) == 0
    assert "computes   in float32\n" in capsys.readouterr().out


def test_export_float16_wrong_use_refused_in_one_line(both, tmp_path, capsys):
    run = tmp_path / "last.ckpt"
    run.write_bytes(b"")
    for command, status, words in (
        (["export", str(both), "--out", str(tmp_path / "out")], 2, "is a package already: add --float16"),
        (["export", str(tmp_path), "--float16", "--out", str(tmp_path / "out")], 1, str(tmp_path)),
        (["eval", str(run), "--precision", "float16"], 1, "checkpoint, which runs in float32"),
    ):
        assert main(command) == status
        error = capsys.readouterr().err.strip()
        assert words in error and "\n" not in error
