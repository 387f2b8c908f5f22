"""Checks of exported ONNX graphs."""

from dataclasses import dataclass

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from actrec.features.specs import InputSpec
from actrec.utils.config import setting
from actrec.utils.errors import PackageError
from actrec_models.export import onnx_graph
from actrec_models.networks.base import Network


@dataclass(frozen=True)
class ToyConfig:
    num_classes: int = setting(3, "classes")
    frames: int = setting(8, "T")


class Toy(Network):
    """A sum of joints over time, then `twist`, then a linear layer."""

    config_class = ToyConfig

    def __init__(self, twist, inputs=("body",)):
        super().__init__()
        self.twist, self.inputs = twist, inputs
        self.fc = nn.Linear(75, 3)

    @property
    def input_specs(self):
        return [InputSpec(name, "body", "kinect_v2_25", (1, 3, 8, 25)) for name in self.inputs]

    def forward(self, **inputs):
        f = inputs["body"].sum(dim=3).reshape(-1, 75)  # (N, C·V)
        return self.fc(self.twist(f))


def plain(f):
    return f


def nonzero(f):
    return f + torch.nonzero(f).sum().to(f.dtype)


class Pool(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool1d(3, stride=1, padding=1)

    def forward(self, f):
        return self.pool(f[:, None])[:, 0]


def randomness(f):
    return f + torch.rand_like(f)


def test_to_onnx_plain_network_passes():
    model = onnx.load_model_from_string(onnx_graph.to_onnx(Toy(plain)))
    assert onnx_graph.tensorrt_problems(model) == []
    assert "Gemm" in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize(
    ("twist", "message"),
    [
        (nonzero, r"node '.*NonZero.*' is a NonZero, which TensorRT's parser does not support"),
        (Pool(), r"node '/network/twist/pool/MaxPool' is a MaxPool over 1 axes, TensorRT pools 2 or 3"),
        (randomness, r"is a RandomUniformLike, which"),
    ],
)
def test_to_onnx_unsupported_operator_refused_with_node(twist, message):
    with pytest.raises(PackageError, match=message) as raised:
        onnx_graph.to_onnx(Toy(twist))
    assert "\n" not in str(raised.value)


def test_to_onnx_unused_input_refused(monkeypatch):
    network = Toy(plain)
    content = onnx_graph.trace(network)
    network.inputs = ("body", "more")
    with pytest.raises(PackageError, match="input 'more' reaches no logit"):
        onnx_graph.check_operators(network, content)


def test_to_onnx_disagreement_refused(monkeypatch):
    network = Toy(plain)
    content = onnx_graph.trace(network)
    monkeypatch.setattr(onnx_graph, "trace", lambda same: content)
    with torch.no_grad():
        network.fc.bias.add_(1e-3)
    with pytest.raises(PackageError, match=r"ONNX and PyTorch differ by 0.000\d+ \(batch 1\), allowed: 0.0001"):
        onnx_graph.to_onnx(network)
    with torch.no_grad():
        network.fc.bias.add_(float("nan"))
    with pytest.raises(PackageError, match="differ by nan"):
        onnx_graph.to_onnx(network)


def test_parity_errors_large_logits_are_relative():
    network = Toy(plain)
    content = onnx_graph.trace(network)
    with torch.no_grad():
        network.fc.bias.fill_(1e6)
    assert onnx_graph.parity_errors(network, content, [1]) == [pytest.approx(1.0, rel=0.01)]


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def graph(nodes, inputs, outputs):
    return helper.make_model(helper.make_graph(nodes, "made", inputs, outputs))


def test_tensorrt_problems_lists_input_types_and_free_axes():
    relu = helper.make_node("Relu", ["x"], ["y"])
    cases = {
        "'x' has ONNX type 7": (value("x", ["batch", 3], TensorProto.INT64), value("y", ["batch", 3])),
        r"'x' has the shape ['batch', 'T']: an axis beside the batch is not fixed": (
            value("x", ["batch", "T"]),
            value("y", ["batch", 3]),
        ),
        "'x' has the shape [2, 3]: the batch is not dynamic": (value("x", [2, 3]), value("y", ["batch", 3])),
    }
    for message, (given, taken) in cases.items():
        found = onnx_graph.tensorrt_problems(graph([relu], [given], [taken]))
        assert any(line.startswith(message) for line in found), found


def test_tensorrt_problems_lists_computed_axes_foreign_domains_and_dilated_pools():
    x, y = value("x", ["batch", 3]), value("y", ["batch", 3])
    foreign = helper.make_node("Relu", ["x"], ["y"], name="n", domain="com.microsoft")
    assert "com.microsoft.Relu" in onnx_graph.tensorrt_problems(graph([foreign], [x], [y]))[0]
    shape = helper.make_node("Shape", ["x"], ["axes"])
    computed = helper.make_node("ReduceSum", ["x", "axes"], ["y"], name="sum")
    assert "whose input 1 is computed" in onnx_graph.tensorrt_problems(graph([shape, computed], [x], [y]))[0]
    constant = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.INT64, [1], [1]))
    same = helper.make_node("Identity", ["c"], ["axes"])
    assert onnx_graph.tensorrt_problems(graph([constant, same, computed], [x], [y])) == []
    pool = helper.make_node("MaxPool", ["x"], ["y", "where"], kernel_shape=[2, 2], dilations=[2, 1], name="pool")
    found = onnx_graph.tensorrt_problems(graph([pool], [x], [y]))
    assert ["dilated" in line or "indices" in line for line in found] == [True, True]
