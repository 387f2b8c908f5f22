"""ONNX graphs of networks: exported, simplified, checked against PyTorch and TensorRT.

The check of TensorRT's operators reads the graph alone and needs no TensorRT.
"""

import contextlib
import io
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from actrec.features.clips import example_windows
from actrec.inference.onnxruntime_backend import EXACT_INT8
from actrec.inference.package import ModelPackage
from actrec.utils.errors import DeviceError, PackageError
from actrec_models.networks.base import Network
from actrec_models.training import checkpoints

OPSET = 17
PARITY = 1e-4
"""Largest allowed float32 difference of logits between PyTorch and ONNX Runtime: absolute, or relative to the largest
logit if that is above 1."""

CHECKED_BATCHES = (1, 3)
_MESSAGE_BYTES = 2**31 - 1
_TINY = np.float32(1e-20)
_TINY_NAME = "softmax/tiny"
_OPERATORS = """
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

SUPPORTED = frozenset(_OPERATORS.split())
"""Operators marked Y in onnx-tensorrt's `docs/operators.md` for TensorRT 10 (read at 10.15), without control flow,
random numbers, `NonZero` and `NonMaxSuppression` (whose output shape depends on the data), and `ScatterND`."""

_POOLS = ("AveragePool", "MaxPool", "LpPool")

_CONSTANT_INPUTS = {
    "CumSum": 1, "OneHot": 1, "TopK": 1, "Squeeze": 1, "Unsqueeze": 1,
    "ReduceL1": 1, "ReduceL2": 1, "ReduceLogSum": 1, "ReduceLogSumExp": 1, "ReduceMax": 1, "ReduceMean": 1,
    "ReduceMin": 1, "ReduceProd": 1, "ReduceSum": 1, "ReduceSumSquare": 1,
}  # fmt: skip
"""Operator to the input that must be constant when the engine is built (axes, depth, k)."""

# -- running graphs ----------------------------------------------------------------------------------------------------


def open_graph(content: bytes, optimized: bool = True) -> onnxruntime.InferenceSession:
    """Open a graph in ONNX Runtime on the CPU; without optimization each node is computed as it is in the graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry(*EXACT_INT8)
    options.log_severity_level = 4  # errors are raised, in one line
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run_onnx(content: bytes, inputs: Mapping[str, np.ndarray], optimized: bool = True) -> np.ndarray:
    """Return the logits [N, classes] of a graph for inputs [N, …] by name."""
    logits: np.ndarray = open_graph(content, optimized).run(None, dict(inputs))[0]
    return logits


def example_inputs(network: Network, count: int, seed: int = 0) -> dict[str, Tensor]:
    """Return inputs (count, *shape) by name (`actrec.features.clips.example_windows`)."""
    arrays = example_windows(network.input_specs, network.window, getattr(network.config, "bodies", 1), count, seed)
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


# -- simplification ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def scratch_folder(needed: int) -> Iterator[Path]:
    """Create a temporary folder for ONNX Runtime's files, with `needed` bytes of space.

    On a full disk, ONNX Runtime only reports "Protobuf serialization failed"; a robot's /tmp is often small.

    Raises:
        DeviceError: The folder cannot be created, or its disk has less space.
    """
    try:
        folder = tempfile.TemporaryDirectory()
    except OSError as error:
        raise DeviceError(f"cannot create a temporary folder: {error.strerror}; set TMPDIR to another one") from error
    with folder as name:
        free = shutil.disk_usage(name).free
        if free < needed:
            raise DeviceError(
                f"{tempfile.gettempdir()} has {free / 1e6:.1f} MB left, {needed / 1e6:.1f} MB are needed: free some, "
                "or set TMPDIR to another folder"
            )
        yield Path(name)


def simplify(content: bytes) -> bytes:
    """Fold the constants of a float32 graph and keep its softmaxes off subnormal numbers.

    Raises:
        DeviceError: The disk of temporary files is full.
    """
    options = onnxruntime.SessionOptions()
    # Portable optimizations: constant folding, batch norms into convolutions, no identities.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with scratch_folder(2 * len(content)) as folder:
        options.optimized_model_filepath = str(folder / "model.onnx")
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        model = onnx.load(folder / "model.onnx")
    # With inferred shapes, ONNX Runtime converts more tensors between its layouts and is slower.
    del model.graph.value_info[:]
    domains = {node.domain for node in model.graph.node}
    for entry in [entry for entry in model.opset_import if entry.domain not in domains]:
        model.opset_import.remove(entry)
    _avoid_subnormals(model.graph)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _avoid_subnormals(graph: Any) -> None:
    """Raise softmax outputs to at least 1e-20, which changes no float32 sum.

    Confident attention has weights of 1e-40. CPUs multiply such subnormals a hundred times slower, which took half of a
    network's time.
    """
    final = {value.name for value in graph.output}
    # In a fused graph, the name has a prefix.
    guards = [node for node in graph.node if node.op_type == "Max" and node.input[-1].endswith(_TINY_NAME)]
    guarded = {node.input[0] for node in guards}
    found = [n for n in graph.node if n.op_type == "Softmax" and not {n.output[0]} & (final | guarded)]
    if found and _TINY_NAME not in {tensor.name for tensor in graph.initializer}:
        graph.initializer.append(numpy_helper.from_array(np.array(_TINY), _TINY_NAME))
    for node in found:
        at = list(graph.node).index(node)
        name = node.output[0]
        node.output[0] = f"{name}/exact"
        guard = onnx.helper.make_node("Max", [node.output[0], _TINY_NAME], [name], name=f"{node.name}/guard")
        graph.node.insert(at + 1, guard)


# -- TensorRT's parser -------------------------------------------------------------------------------------------------


def tensorrt_problems(model: Any) -> list[str]:
    """List why TensorRT's parser would refuse an `onnx.ModelProto`, one line per problem.

    Problems are unsupported operators, with the node, whose name contains the layer's; pooling over other than two or
    three axes; inputs that are not float32; dynamic axes other than the batch.
    """
    graph = model.graph
    constant = {tensor.name for tensor in graph.initializer}
    for node in graph.node:  # topologically sorted: an identity follows its input
        if node.op_type == "Constant" or (node.op_type == "Identity" and node.input[0] in constant):
            constant.update(node.output)
    found = [line for node in graph.node for line in _node_problems(node, constant)]
    return found + [line for value in (*graph.input, *graph.output) for line in _value_problems(value)]


def _node_problems(node: Any, constant: set[str]) -> Iterator[str]:
    prefix = f"node '{node.name or node.output[0]}'"
    operator = str(node.op_type) if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    if operator not in SUPPORTED:
        yield f"{prefix} is a {operator}, which TensorRT's parser does not support"
    if operator in _POOLS:
        attributes = {a.name: list(a.ints) for a in node.attribute}
        if len(attributes.get("kernel_shape", [])) not in (2, 3):
            yield f"{prefix} is a {operator} over {len(attributes.get('kernel_shape', []))} axes, TensorRT pools 2 or 3"
        if any(size != 1 for size in attributes.get("dilations", [])):
            yield f"{prefix} is a dilated {operator}, which TensorRT does not have"
        if len([name for name in node.output if name]) > 1:
            yield f"{prefix} is a {operator} that also returns indices, which TensorRT's does not"
    at = _CONSTANT_INPUTS.get(operator)
    if at is not None and len(node.input) > at and node.input[at] and node.input[at] not in constant:
        yield f"{prefix} is a {operator} whose input {at} is computed; TensorRT needs a constant there"


def _value_problems(value: Any) -> Iterator[str]:
    tensor = value.type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        yield f"'{value.name}' has ONNX type {tensor.elem_type}, expected float32 (1)"
    sizes = [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]
    if not sizes or not isinstance(sizes[0], str):
        yield f"'{value.name}' has the shape {sizes}: the batch is not dynamic"
    if any(not isinstance(size, int) or size < 1 for size in sizes[1:]):
        yield f"'{value.name}' has the shape {sizes}: an axis beside the batch is not fixed"


def check_operators(network: Network, content: bytes) -> None:
    """Check that TensorRT can build an engine from an ONNX graph.

    Raises:
        PackageError: Contains the node, and with it the layer, that TensorRT's parser does not support.
    """
    model = onnx.load_model_from_string(content)
    used = {value.name for value in model.graph.input}
    found = [f"input '{spec.name}' reaches no logit" for spec in network.input_specs if spec.name not in used]
    found += tensorrt_problems(model)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise PackageError(f"the ONNX graph cannot become a TensorRT engine: {found[0]}{more}: not written")


# -- export ------------------------------------------------------------------------------------------------------------


class _Positional(nn.Module):
    """Network with positional inputs, as the ONNX exporter needs."""

    def __init__(self, network: Network, names: Iterable[str]):
        super().__init__()
        self.network, self.names = network, list(names)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(**dict(zip(self.names, inputs, strict=True)))


def trace_module(module: nn.Module, inputs: Mapping[str, Tensor], opset: int = OPSET) -> bytes:
    """Export a module that returns logits for positional inputs, with a dynamic batch and without checks.

    It is in evaluation mode afterwards.

    Raises:
        PackageError: It is too large for one ONNX file, or has an operator that ONNX does not have.
    """
    buffer: Any = io.BytesIO()  # torch annotates only paths
    with torch.no_grad(), warnings.catch_warnings():
        # TensorRT parses the graphs of the TorchScript exporter, which torch deprecates. Its warning that a recurrent
        # layer may not take another batch size is settled by the parity check at two other sizes.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        try:
            torch.onnx.export(
                module.eval(), tuple(inputs.values()), buffer, input_names=list(inputs), output_names=["logits"],
                dynamic_axes={name: {0: "batch"} for name in (*inputs, "logits")}, opset_version=opset, dynamo=False,
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            raise PackageError(f"the network cannot be written as ONNX: {str(error).splitlines()[0]}") from error
    if buffer.tell() > _MESSAGE_BYTES:
        raise PackageError(f"the network takes {buffer.tell() / 1e9:.1f} GB, the limit of an ONNX file is 2.1 GB")
    content: bytes = buffer.getvalue()
    return content


def trace(network: Network, inputs: Mapping[str, Tensor] | None = None) -> bytes:
    """Export a network as ONNX without checks; it is in evaluation mode afterwards. Raises as `trace_module`.

    `inputs` are two clips, by default examples.
    """
    inputs = example_inputs(network, 2) if inputs is None else inputs
    return trace_module(_Positional(network, inputs), inputs)


def read(package: ModelPackage) -> bytes:
    """Return the graph of a package in float32, or of a checkpoint that was opened as one."""
    if package.path.is_file():
        return trace(checkpoints.open_checkpoint(package.path)[2])
    return package.read_onnx("float32")


def to_onnx(network: Network) -> bytes:
    """Export a network as ONNX with static M, T, V and a dynamic batch, simplified and checked against PyTorch.

    Raises:
        PackageError: ONNX or TensorRT does not support an operator, the network is too large for one file, or ONNX
            Runtime's logits differ by more than `PARITY`.
    """
    content = simplify(trace(network))
    check_operators(network, content)
    for batch, difference in zip(CHECKED_BATCHES, parity_errors(network, content, CHECKED_BATCHES), strict=True):
        if not difference <= PARITY:  # also refuses NaN
            raise PackageError(
                f"ONNX and PyTorch differ by {difference:.2g} (batch {batch}), allowed: {PARITY:g}: not written"
            )
    return content


def parity_errors(network: Network, content: bytes, batches: Sequence[int], seed: int = 1) -> list[float]:
    """Return the largest difference of logits between ONNX Runtime and PyTorch (see `PARITY`).

    Args:
        network: In evaluation mode.
        batches: Numbers of example clips, one per returned difference.
    """
    session = open_graph(content)
    errors = []
    for batch in batches:
        inputs = example_inputs(network, batch, seed)
        with torch.no_grad():
            expected = network(**inputs).numpy()
        found = session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
        errors.append(float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max()))))
    return errors
