"""A simpler ONNX graph with the same logits."""

import shutil
import tempfile
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from actrec.inference import zoo
from actrec.utils.errors import DeviceError
from actrec_models.export import onnx_graph
from actrec_models.export.onnx_graph import simplify
from actrec_models.networks import create


def run(content: bytes, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, inputs)[0]


def counts(content: bytes) -> dict[str, int]:
    nodes = [node.op_type for node in onnx.load_model_from_string(content).graph.node]
    return {name: nodes.count(name) for name in nodes}


def test_simplify_keeps_logits_and_folds_constants() -> None:
    network = create("sem_net", num_classes=4, frames=16, channels=(8, 8, 8, 8, 8, 8, 8), streams="fuse")
    plain = onnx_graph.trace(network)
    simple = simplify(plain)
    inputs = {name: value.numpy() for name, value in onnx_graph.example_inputs(network, 3).items()}
    np.testing.assert_allclose(run(simple, inputs), run(plain, inputs), atol=1e-6)
    assert counts(simple).get("Constant", 0) == 0 < counts(plain)["Constant"]
    assert counts(simple)["Max"] >= counts(simple)["Softmax"]
    assert not onnx.load_model_from_string(simple).graph.value_info
    assert onnx_graph.tensorrt_problems(onnx.load_model_from_string(simple)) == []
    again = simplify(simple)
    assert counts(again) == counts(simple)


def attention() -> bytes:
    """Return a graph of attention: the softmax of scores times values."""
    values = numpy_helper.from_array(np.ones((4, 2), np.float32), "values")
    nodes = [
        helper.make_node("Softmax", ["scores"], ["weights"], name="softmax", axis=-1),
        helper.make_node("MatMul", ["weights", "values"], ["logits"], name="sum"),
    ]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [values],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def test_simplify_full_disk_refused(monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3_000_000))
    with pytest.raises(DeviceError, match=r"has 3\.0 MB left, 4\.0 MB are needed: free some, or .*TMPDIR"):
        simplify(bytes(2_000_000))
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(DeviceError, match="temporary folder: No such file or directory; .*TMPDIR"):
        simplify(b"")


def test_simplify_attention_weights_not_subnormal() -> None:
    model = onnx.load_model_from_string(simplify(attention()))
    model.graph.output.append(helper.make_tensor_value_info("weights", TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    scores = np.array([[0, -95, -50, 1], [3, 3, 3, -100]], np.float32)
    expected = np.exp(scores - scores.max(axis=1, keepdims=True))
    logits, weights = session.run(["logits", "weights"], {"scores": scores})
    assert weights.min() >= np.float32(1e-20)
    np.testing.assert_allclose(weights, expected / expected.sum(axis=1, keepdims=True), atol=1e-7)
    np.testing.assert_allclose(logits, 1.0, atol=1e-6)


def test_simplify_output_softmax_unchanged() -> None:
    model = onnx.load_model_from_string(attention())
    del model.graph.node[1]
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("weights", TensorProto.FLOAT, ["batch", 4]))
    assert "Max" not in counts(simplify(bytes(model.SerializeToString())))


@pytest.mark.parametrize("name", [entry.name for entry in zoo.list_packages()])
def test_shipped_network_is_simplified_and_supported_by_tensorrt(name: str) -> None:
    package = zoo.find(name)
    for precision in package.precisions:
        model = onnx.load_model_from_string(package.read_onnx(precision))
        assert onnx_graph.tensorrt_problems(model) == []
    found = counts(package.read_onnx())
    assert not {"Constant", "Identity"} & set(found)
    assert found.get("Max", 0) >= found.get("Softmax", 0)
