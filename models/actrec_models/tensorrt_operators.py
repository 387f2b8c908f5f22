"""What TensorRT's ONNX parser takes, checked on the graph itself: no TensorRT is needed to know it."""

from collections.abc import Iterator
from typing import Any

_NAMES = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip Concat
    Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace Div Dropout Einsum Elu Equal Erf Exp Expand
    EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool
    Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN
    LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul Max MaxPool Mean
    MeanVarianceNormalization Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow RNN Range Reciprocal ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
    ReverseSequence Round ScatterElements Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign
    SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where
    Xor QuantizeLinear DequantizeLinear
"""
SUPPORTED = frozenset(_NAMES.split())
"""Operators marked Y in onnx-tensorrt's `docs/operators.md` for TensorRT 10 (read at 10.15), less what an engine for a
robot should not hold: control flow, random numbers, `NonZero` and `NonMaxSuppression` (whose output shape depends on
the data) and `ScatterND`."""

_POOLS = ("AveragePool", "MaxPool", "LpPool")
_CONSTANT_INPUTS = {
    "CumSum": 1, "OneHot": 1, "TopK": 1, "Squeeze": 1, "Unsqueeze": 1,
    "ReduceL1": 1, "ReduceL2": 1, "ReduceLogSum": 1, "ReduceLogSumExp": 1, "ReduceMax": 1, "ReduceMean": 1,
    "ReduceMin": 1, "ReduceProd": 1, "ReduceSum": 1, "ReduceSumSquare": 1,
}  # fmt: skip
"""Operator to the input that has to be known when the engine is built (axes, depth, k)."""
_FLOAT = 1


def problems(model: Any) -> list[str]:
    """Why TensorRT's parser would refuse an ONNX graph, or what makes it no graph of ours; empty where it is fine.

    Args:
        model: An `onnx.ModelProto`.

    Returns:
        One line a problem: operators that are not supported, with the node (its name holds the layer's), pooling over
        other than two or three axes, inputs that are not float32, axes other than the batch that are not fixed.
    """
    graph = model.graph
    constant = {tensor.name for tensor in graph.initializer}
    for node in graph.node:  # sorted: an identity comes after what it repeats
        if node.op_type == "Constant" or (node.op_type == "Identity" and node.input[0] in constant):
            constant.update(node.output)
    found = [line for node in graph.node for line in _node_problems(node, constant)]
    return found + [line for value in (*graph.input, *graph.output) for line in _value_problems(value)]


def operators(model: Any) -> set[str]:
    """The operators of an ONNX graph, with their domain where it is not ONNX's own."""
    return {_operator(node) for node in model.graph.node}


def _operator(node: Any) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else str(node.op_type)


def _node_problems(node: Any, constant: set[str]) -> Iterator[str]:
    where = f"node '{node.name or node.output[0]}'"
    operator = _operator(node)
    if operator not in SUPPORTED:
        yield f"{where} is a {operator}, which TensorRT's parser does not take"
    if operator in _POOLS:
        attributes = {a.name: list(a.ints) for a in node.attribute}
        if len(attributes.get("kernel_shape", [])) not in (2, 3):
            yield f"{where} is a {operator} over {len(attributes.get('kernel_shape', []))} axes, TensorRT's pool 2 or 3"
        if any(size != 1 for size in attributes.get("dilations", [])):
            yield f"{where} is a dilated {operator}, which TensorRT does not have"
        if len([name for name in node.output if name]) > 1:
            yield f"{where} is a {operator} that also gives indices, which TensorRT's does not"
    at = _CONSTANT_INPUTS.get(operator)
    if at is not None and len(node.input) > at and node.input[at] and node.input[at] not in constant:
        yield f"{where} is a {operator} whose input {at} is computed; TensorRT wants a constant there"


def _value_problems(value: Any) -> Iterator[str]:
    tensor = value.type.tensor_type
    if tensor.elem_type != _FLOAT:
        yield f"'{value.name}' has ONNX type {tensor.elem_type}, expected float32 (1)"
    sizes = [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]
    if not sizes or not isinstance(sizes[0], str):
        yield f"'{value.name}' has the shape {sizes}: the batch is not dynamic"
    if any(not isinstance(size, int) or size < 1 for size in sizes[1:]):
        yield f"'{value.name}' has the shape {sizes}: an axis beside the batch is not fixed"
