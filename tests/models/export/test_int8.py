"""Networks in int8: Q/DQ as TensorRT reads them, ranges of recorded clips, what disturbs the logits left alone."""

import dataclasses
import types
import weakref

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, create_calibrator

from actrec import datasets, inference
from actrec.cli import main
from actrec.inference import package, zoo
from actrec.inference.tensorrt.builder import QUANTIZED, group_of, is_kept
from actrec.utils.errors import ConfigError, PackageError
from actrec_models.evaluation import scoring
from actrec_models.export import onnx_graph, precision, repackage
from actrec_models.networks import create
from tests.core.inference.tensorrt import rtx

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def network() -> tuple[bytes, list[precision.Inputs], list[precision.Inputs]]:
    torch.manual_seed(1)
    made = create("sem_net", num_classes=4, frames=16, channels=(8, 8, 8, 8, 8, 8, 8), streams="fuse")
    inputs = {name: value.numpy() for name, value in onnx_graph.example_inputs(made, 24).items()}
    rows = [{name: value[k] for name, value in inputs.items()} for k in range(24)]
    return onnx_graph.to_onnx(made), rows[:16], rows[16:]


@pytest.fixture(scope="module")
def in_int8(network) -> precision.Int8Network:
    return precision.to_int8(*network)


def test_to_int8_network_is_built_by_tensorrt_rtx() -> None:
    rtx.real()
    torch.manual_seed(1)
    made = create("sem_net", num_classes=4, frames=8, channels=(8, 8), strides=(1, 2))
    inputs = {name: value.numpy() for name, value in onnx_graph.example_inputs(made, 12).items()}
    rows = [{name: value[k] for name, value in inputs.items()} for k in range(12)]
    quantized = precision.to_int8(onnx_graph.to_onnx(made), rows[:8], rows[8:]).content
    assert quantized.count(b"QuantizeLinear") > 20 and rtx.build(quantized) > 1e5


def test_group_of_returns_module_names() -> None:
    assert group_of("/network/bones/blocks/blocks.3/attention/MatMul") == "bones/blocks.3"
    assert group_of("/network/body/blocks/blocks.3/linear/linear.0/Conv") == "body/blocks.3"
    assert group_of("/network/fc/Gemm") == "fc"
    assert group_of("/network/rgb/mixed_3b/branch/conv/Conv") == "rgb/mixed_3b"
    assert group_of("Conv_3") == "Conv_3"
    fused = "stream_1//network/bones/blocks/blocks.3/Conv"  # one of several networks in one graph
    assert group_of(fused) == "stream_1/bones/blocks.3" and group_of("stream_0/Conv_3") == "stream_0/Conv_3"
    assert group_of(f"stream_0/{fused}") == "stream_0/stream_1/bones/blocks.3"
    assert is_kept(fused, ("stream_1",)) and not is_kept(fused, ("stream_0", "bones/blocks.3"))
    assert is_kept("/network/bones/blocks/blocks.3/Conv", ("bones",))
    assert is_kept("/network/bones/blocks/blocks.3/Conv", ("fc", "bones/blocks.3"))
    assert not is_kept("/network/bones/blocks/blocks.31/Conv", ("bones/blocks.3",))


@pytest.mark.slow
def test_to_int8_qdq_nodes_suit_tensorrt(in_int8) -> None:
    made = in_int8
    model = onnx.load_model_from_string(made.content)
    assert onnx_graph.tensorrt_problems(model) == []
    assert rtx.refused(made.content) == ""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) > 20
    for node in pairs:
        assert not constants[node.input[2]].any() and constants[node.input[2]].dtype == np.int8  # no zero point
    readers = [name for node in model.graph.node if node.op_type in QUANTIZED for name in node.input]
    dequantized = [node.output[0] for node in pairs if node.op_type == "DequantizeLinear"]
    assert all(readers.count(name) <= 1 for name in dequantized)  # a pair for each int8 reader
    assert made.agreement >= precision.MIN_AGREEMENT and made.difference > 0


def test_histograms_equal_onnx_runtimes_with_one_clip_in_memory(network, tmp_path) -> None:
    content, rows, _ = network
    (tmp_path / "model.onnx").write_bytes(content)

    def calibrator(name: str):
        return create_calibrator(
            tmp_path / "model.onnx", list(QUANTIZED), str(tmp_path / name),
            calibrate_method=CalibrationMethod.Percentile, extra_options={"symmetric": True, "percentile": 99.99},
        )  # fmt: skip

    its_own, ours = calibrator("own.onnx"), calibrator("ours.onnx")
    reader = iter([{name: value[None] for name, value in row.items()} for row in rows])
    its_own.collect_data(types.SimpleNamespace(get_next=lambda: next(reader, None)))
    session, kept = ours.infer_session, []

    def run(names, inputs):
        assert sum(made() is not None for made in kept) <= len(session.get_outputs())
        values = session.run(names, inputs)
        kept.extend(map(weakref.ref, values))
        return values

    ours.infer_session = types.SimpleNamespace(get_outputs=session.get_outputs, run=run)
    ours.collector = precision._histograms(ours, rows)
    assert len(kept) == 2 * len(rows) * len(session.get_outputs())
    expected, found = its_own.compute_data().data, ours.compute_data().data
    assert set(found) == set(expected) and len(found) > 20
    for name, wanted in expected.items():
        np.testing.assert_allclose(found[name].range_value, wanted.range_value, rtol=1e-6, err_msg=name)


def test_sampled_inputs_prepared_on_access(monkeypatch) -> None:
    """Large images run through the network one by one, joints 16 at once."""
    asked: list[int] = []

    def inputs_of(clip, package, mode):
        asked.append(clip)
        yield {"x": np.full(8, clip, np.float32)}

    monkeypatch.setattr(scoring, "clip_inputs", inputs_of)
    drawn = repackage.SampledInputs(zoo.find("sem_net_utd_mhad"), range(100, 160), range(50, 0, -1))
    assert (len(drawn), asked) == (50, [])
    assert [row["x"][0] for row in drawn] == asked == list(range(150, 100, -1))
    batches: list[int] = []

    class Watched(onnxruntime.InferenceSession):
        def run(self, names, inputs):
            batches.append(len(inputs["x"]))
            return super().run(names, inputs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Watched)
    assert precision._int8_logits(wild(1.0), drawn).shape == (50, 4) and batches == [16, 16, 16, 2]
    monkeypatch.setattr(precision, "RUN_BYTES", 40)
    assert precision._int8_logits(wild(1.0), [drawn[k] for k in range(3)]).shape == (3, 4) and batches[4:] == [1, 1, 1]


@pytest.mark.slow
def test_to_int8_keep_leaves_group_in_float32(network, in_int8) -> None:
    content, rows, held_out = network
    made = precision.to_int8(content, rows, held_out, keep=["body/blocks.1"])
    assert made.kept[0] == "body/blocks.1"

    def quantized_inputs(graph: bytes) -> int:
        nodes = onnx.load_model_from_string(graph).graph.node
        return sum(node.op_type == "QuantizeLinear" for node in nodes)

    assert quantized_inputs(made.content) < quantized_inputs(in_int8.content)
    with pytest.raises(ConfigError, match=r"no layer group 'blocks\.99'; known: "):
        precision.to_int8(content, rows, held_out, keep=["blocks.99"])


def wild(first: float) -> bytes:
    """Return two matrices; between them, an unused column is `first` times larger than the others."""
    before = np.eye(8, dtype=np.float32)
    before[0, 0] = first
    after = np.eye(8, 4, k=-1, dtype=np.float32)  # skips the wild column
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], name="/network/calm/MatMul"),
        helper.make_node("Relu", ["h"], ["r"], name="/network/calm/Relu"),
        helper.make_node("MatMul", ["r", "b"], ["logits"], name="/network/wild/MatMul"),
    ]
    graph = helper.make_graph(
        nodes,
        "wild",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(before, "a"), numpy_helper.from_array(after, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def test_to_int8_sensitive_group_stays_in_float32() -> None:
    x = np.abs(RNG.normal(size=(60, 8))).astype(np.float32)
    rows = [{"x": row} for row in x]
    rows, held_out = rows[:40], rows[40:]
    made = precision.to_int8(wild(1000.0), rows, held_out)
    assert made.kept == ("wild",) and made.agreement >= precision.MIN_AGREEMENT
    assert precision.to_int8(wild(1.0), rows, held_out).kept == ()


def test_to_int8_disagreement_refused() -> None:
    x = np.abs(RNG.normal(size=(60, 8))).astype(np.float32)
    x[:, 0] *= 1e4  # the input does not fit into int8
    rows = [{"x": row} for row in x]
    rows, held_out = rows[:40], rows[40:]
    with pytest.raises(PackageError, match=r"int8 agrees with float32 on .* of the clips.*use float16"):
        precision.to_int8(wild(1000.0), rows, held_out)


@pytest.mark.slow
def test_quantize_shipped_package_keeps_accuracy(data_root, tmp_path, capsys) -> None:
    out = tmp_path / "int8"
    command = ["quantize", "sem_net_utd_mhad", "--data", str(data_root), "--out", str(out), "--clips", "30"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    made, base = package.load(out), zoo.find("sem_net_utd_mhad")
    assert made.precisions == ("float32", "float16", "int8")
    assert made.int8 is not None and made.int8.accuracy is not None
    assert made.int8.accuracy > base.provenance.accuracy - 0.01
    assert f"{made.int8.accuracy:.1%} on the test part, float32 {base.provenance.accuracy:.1%}" in printed
    assert made.int8.calibrated_on == "30 clips of utd_mhad's training part"
    assert dataclasses.replace(made, int8=None, path=base.path) == base
    assert made.read_onnx() == base.read_onnx() and made.read_onnx("float16") == base.read_onnx("float16")
    assert "| In int8 | " in (out / "README.md").read_text()
    session = inference.load(made, "onnxruntime", precision="int8")
    assert session.backend.device == "CPU, 1 thread, int8"
    assert main(["models", str(out)]) == 0
    assert "and int8 (logits within" in capsys.readouterr().out
    (out / "model.int8.onnx").write_bytes(b"torn")
    with pytest.raises(PackageError, match=r"model\.int8\.onnx is not the file"):
        inference.load(package.load(out), "onnxruntime", precision="int8")


def test_quantize_uses_training_split_and_options(monkeypatch, tmp_path) -> None:
    """`root` belongs to the dataset of the ranges, not to the test part of another one."""
    asked: list[tuple] = []

    def create(name, root, *, split="", part="train", **options):
        asked.append((name, root, split, part, options))
        return range(30)

    def scored(draft, content, lower, precision, data_root, root=""):
        asked.append((data_root, root))
        return draft

    shipped = zoo.find("sem_net_utd_mhad")
    trained = dataclasses.replace(shipped.provenance, settings={"dataset_options": {"fold": 2}})
    monkeypatch.setattr(zoo, "find", lambda source: dataclasses.replace(shipped, provenance=trained))
    monkeypatch.setattr(datasets, "create", create)
    monkeypatch.setattr(scoring, "check_layout", lambda base, part: None)
    monkeypatch.setattr(repackage, "SampledInputs", lambda *_: [{"body": np.zeros(1)}] * 30)
    monkeypatch.setattr(precision, "to_int8", lambda *_: precision.Int8Network(b"", 0.0, 1.0, ()))
    monkeypatch.setattr(repackage, "_with_accuracy", scored)
    monkeypatch.setattr(repackage, "_write_copy", lambda base, draft, *_: draft)
    repackage.quantize("sem_net_utd_mhad", tmp_path / "own", "data", root="mine")
    repackage.quantize("sem_net_utd_mhad", tmp_path / "other", "data", dataset="folder", root="mine")
    assert asked == [
        ("utd_mhad", "mine", trained.split, "train", {"fold": 2}),
        ("data", "mine"),
        ("folder", "mine", "", "train", {}),
        ("data", ""),
    ]


def test_quantize_wrong_use_refused_in_one_line(data_root, tmp_path, capsys) -> None:
    for words, message in (
        (["--clips", "0"], "--clips is 0, expected 1 or more"),
        (["--dataset", "no_such"], "--dataset is 'no_such', which is no known dataset: choose one with --dataset: "),
        (["--dataset", "nucla", "--root", str(tmp_path)], str(tmp_path)),
        (["--keep", "nothing"], "no layer group 'nothing'; known: "),
    ):
        command = ["quantize", "sem_net_utd_mhad", "--data", str(data_root), "--out", str(tmp_path / "out"), *words]
        assert main(command) in (1, 2)
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert message in error
    with pytest.raises(PackageError, match="no network in int8: write one with `actrec quantize"):
        zoo.find("sem_net_utd_mhad").read_onnx("int8")


def test_int8_network_runs_at_any_batch_size(network, in_int8) -> None:
    held_out = {name: np.stack([row[name] for row in network[2]]) for name in network[2][0]}
    session = onnxruntime.InferenceSession(in_int8.content, providers=["CPUExecutionProvider"])
    together = session.run(None, held_out)[0]
    alone = [session.run(None, {name: value[k : k + 1] for name, value in held_out.items()})[0] for k in range(8)]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("there", "clips", "expected"), [(5000, 1000, [1000, 100]), (150, 200, [100, 50]), (300, 10, [10, 100])]
)
def test_quantize_takes_the_clips_that_are_asked_for(monkeypatch, tmp_path, there, clips, expected) -> None:
    counts: list[int] = []

    def sampled(base, part, indices):
        counts.append(len(indices))
        return [{"body": np.zeros(1)}] * len(indices)

    monkeypatch.setattr(datasets, "create", lambda *_, **__: range(there))
    monkeypatch.setattr(scoring, "check_layout", lambda base, part: None)
    monkeypatch.setattr(repackage, "SampledInputs", sampled)
    monkeypatch.setattr(precision, "to_int8", lambda *_: precision.Int8Network(b"", 0.0, 1.0, ()))
    monkeypatch.setattr(repackage, "_with_accuracy", lambda draft, *_: draft)
    monkeypatch.setattr(repackage, "_write_copy", lambda base, draft, *_: draft)
    repackage.quantize("sem_net_utd_mhad", tmp_path / "out", "data", clips=clips)
    assert counts == expected
