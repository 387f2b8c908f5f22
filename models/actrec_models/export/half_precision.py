"""A network's ONNX graph in float16: half the size, for accelerators that compute in it; checked against float32."""

import graphlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, numpy_helper
from onnxruntime.transformers import float16

from actrec.inference.package import LowerPrecision, ModelPackage
from actrec.utils.errors import PackageError
from actrec_models.export import onnx_graph
from actrec_models.export.onnx_graph import inputs_for

LARGEST_DIFFERENCE = 0.02
"""Largest difference of logits between float16 and float32 that is written, as a share of the spread of a clip's."""

_NAMES = """
    Div Exp InstanceNormalization LayerNormalization Log LogSoftmax LpNormalization Pow ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceSum ReduceSumSquare Reciprocal Softmax Softplus Sqrt Sum
"""

KEPT_OPERATORS = frozenset([*_NAMES.split(), *float16.DEFAULT_OP_BLOCK_LIST])
"""Stay in float32: sums that may pass float16's range, quotients by what it may round to zero, exponentials, and what
the converter itself leaves alone. None of these holds weights."""

_RANGE = float(np.finfo(np.float16).max)

_NORMAL = float(np.finfo(np.float16).tiny)

_SMALLEST_SPREAD = 1e-3

_CLIPS = 4


def of_package(package: ModelPackage, content: bytes) -> tuple[bytes, LowerPrecision]:
    """A package's network in float16, and what the package is to say of it.

    Args:
        package: Its description.
        content: Its network in float32.

    Raises:
        PackageError: As `convert`; names the family.
    """
    inputs = inputs_for(package.inputs, package.window, package.bodies, _CLIPS)
    try:
        half, largest = convert(content, inputs)
    except PackageError as error:
        raise PackageError(
            f"{package.family} ({package.variant}) cannot be written in float16: {error}: leave out --float16"
        ) from error
    return half, LowerPrecision(largest)


def convert(
    content: bytes, inputs: Mapping[str, np.ndarray], *, kept_operators: frozenset[str] = KEPT_OPERATORS
) -> tuple[bytes, float]:
    """The graph with weights and arithmetic in float16, inputs and logits in float32 as before.

    What decides (comparisons, casts to an index) sees the very float32 values that it saw before: everything between an
    input and a decision stays in float32, as do nodes with a constant that float16 cannot hold and `kept_operators`.

    Args:
        content: The ONNX graph in float32.
        inputs: Example inputs [N, …] by name, to compare on.
        kept_operators: Operators that compute in float32.

    Returns:
        The graph, and the largest difference of its logits as a share of the spread of a clip's (`difference`).

    Raises:
        PackageError: The graph cannot be converted, ONNX Runtime or TensorRT would refuse it, or the logits differ by
            more than `LARGEST_DIFFERENCE`.
    """
    model = onnx.load_model_from_string(content)
    _name_nodes(model)
    kept = _kept(model, kept_operators)
    half = _converted(model, kept)
    found = onnx_graph.problems(half)
    if found:
        raise PackageError(f"in float16, {found[0]}")
    made = bytes(half.SerializeToString())
    expected, direct = _run(content, inputs), _run(made, inputs)
    # ONNX Runtime's CPU has few float16 kernels: it computes in float32 in between. An accelerator rounds each result.
    each = _run(bytes(rounded(model, kept).SerializeToString()), inputs)
    largest = float(np.maximum(difference(direct, expected), difference(each, expected)))  # NaN, where one is
    if not np.isfinite(largest):
        raise PackageError(f"values on the way to its logits leave float16's range (±{_RANGE:g})")
    if largest > LARGEST_DIFFERENCE:
        raise PackageError(
            f"its logits differ by {largest:.1%} of their spread in float16, allowed: {LARGEST_DIFFERENCE:.0%}"
        )
    return made, largest


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference of logits [N, classes], as a share of the spread of a clip's (its largest less its smallest).

    NaN where `found` has it.
    """
    spread = max(float(np.ptp(expected, axis=1).max()), _SMALLEST_SPREAD)
    return float(np.abs(found.astype(np.float64) - expected).max() / spread)


def rounded(model: ModelProto, kept: frozenset[str] = frozenset()) -> ModelProto:
    """The graph in float32 with each weight and each node's result rounded to float16, as an accelerator has them.

    Inputs stay as they are.

    Args:
        model: In float32; not changed.
        kept: Names of nodes that are left alone, with their weights.
    """
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    types = _types(model)
    exempt = {name for node in graph.node if node.name in kept for name in node.input}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in exempt:
            with np.errstate(over="ignore"):
                values = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.name in kept:
            continue
        for place, output in enumerate(node.output):
            if output and types.get(output) == TensorProto.FLOAT:
                node.output[place] = f"{output}/unrounded"
                nodes += [
                    onnx.helper.make_node("Cast", [f"{output}/unrounded"], [f"{output}/half"], to=TensorProto.FLOAT16),
                    onnx.helper.make_node("Cast", [f"{output}/half"], [output], to=TensorProto.FLOAT),
                ]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


# -- which nodes stay in float32 ---------------------------------------------------------------------------------------


def _kept(model: ModelProto, operators: frozenset[str]) -> frozenset[str]:
    """Names of the nodes that stay in float32."""
    constants = _constants(model)
    wide = {name for name, value in constants.items() if not _fits(value)}
    kept = {n.name for n in model.graph.node if n.op_type in operators or wide.intersection([*n.input, *n.output])}
    return frozenset(kept | _before_decisions(model))


def _constants(model: ModelProto) -> dict[str, np.ndarray]:
    """The float32 constants by name."""
    graph = model.graph
    tensors = [(t.name, t) for t in graph.initializer]
    tensors += [
        (n.output[0], a.t) for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    ]
    return {name: numpy_helper.to_array(t) for name, t in tensors if t.data_type == TensorProto.FLOAT}


def _fits(values: np.ndarray) -> bool:
    """Whether float16 holds all values, and a single number, which may divide or be a limit, to its full precision."""
    size = np.abs(values[np.isfinite(values)])
    if not size.size:
        return True
    return float(size.max()) <= _RANGE and not (values.size == 1 and 0 < float(size.max()) < _NORMAL)


def _before_decisions(model: ModelProto) -> set[str]:
    """Names of all nodes whose float32 results lead to an index or a truth value, through float32 values alone."""
    types = _types(model)
    made = {output: node for node in model.graph.node for output in node.output}
    waiting = [node for node in model.graph.node if _decides(node, types)]
    found: set[str] = set()
    while waiting:
        node = waiting.pop()
        if node.name not in found:
            found.add(node.name)
            waiting += [made[name] for name in node.input if name in made and types.get(name) == TensorProto.FLOAT]
    return found


def _decides(node: Any, types: dict[str, int]) -> bool:
    if node.op_type == "Shape":
        return False
    takes = any(types.get(name) == TensorProto.FLOAT for name in node.input)
    return takes and any(types[name] != TensorProto.FLOAT for name in node.output if name)


def _types(model: ModelProto) -> dict[str, int]:
    """The element type of each value.

    Raises:
        PackageError: One has none that ONNX could infer.
    """
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    types.update({t.name: t.data_type for t in graph.initializer})
    unknown = [name for node in graph.node for name in node.output if name and not types.get(name)]
    if unknown:
        raise PackageError(f"ONNX cannot tell the type of its value '{unknown[0]}'")
    return types


# -- conversion --------------------------------------------------------------------------------------------------------


def _name_nodes(model: ModelProto) -> None:
    """Gives each node a name of its own, by which the converter leaves it alone."""
    seen: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}/{number}"
        seen.add(node.name)


def _converted(model: ModelProto, kept: frozenset[str]) -> ModelProto:
    """The graph in float16, `kept` aside.

    Raises:
        PackageError: The converter, or ONNX's checker of what it made, refuses.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    try:
        half = float16.convert_float_to_float16(
            copy, keep_io_types=True, op_block_list=[], node_block_list=sorted(kept)
        )
        _put_in_order(half.graph)
        _straighten(half)
        onnx.checker.check_model(half, full_check=True)
    except PackageError:
        raise
    except Exception as error:  # the converter and ONNX's checker share no base class
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise PackageError(f"its graph cannot be converted to float16: {reason[0][:200]}") from error
    return half


def _straighten(model: ModelProto) -> None:
    """Takes the detours through float16 out that the converter leaves between nodes in float32.

    It casts each input and each result to float16, and back before a node that is kept: an index above 2048 would come
    back as another one.
    """
    graph = model.graph
    del graph.value_info[:]
    types = _types(model)
    made = {output: node for node in graph.node for output in node.output}
    outputs = {value.name for value in graph.output}
    instead: dict[str, str] = {}
    for node in graph.node:
        before = made.get(node.input[0]) if _casts_to(node, TensorProto.FLOAT) else None
        if before is not None and _casts_to(before, TensorProto.FLOAT16):
            node.input[0] = before.input[0]
            if types[before.input[0]] == TensorProto.FLOAT and node.output[0] not in outputs:
                instead[node.output[0]] = before.input[0]
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = instead.get(name, name)
    _remove_unused(graph)


def _casts_to(node: Any, kind: int) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == kind for a in node.attribute)


def _remove_unused(graph: Any) -> None:
    """Removes casts whose result nothing takes."""
    while True:
        taken = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        unused = [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in taken]
        if not unused:
            return
        for node in unused:
            graph.node.remove(node)


def _put_in_order(graph: Any) -> None:
    """Puts each node behind those whose results it takes, and keeps one of each cast.

    The converter appends its casts, and casts a value as often as nodes in float32 take it, always under one name.
    """
    nodes = list({(node.op_type, *node.output): node for node in graph.node}.values())
    made = {output: number for number, node in enumerate(nodes) for output in node.output if output}
    order = graphlib.TopologicalSorter(
        {n: [made[name] for name in node.input if name in made] for n, node in enumerate(nodes)}
    )
    ordered = [nodes[number] for number in order.static_order()]
    del graph.node[:]
    graph.node.extend(ordered)


def _run(content: bytes, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Logits [N, classes], each node computed as it stands in the graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # what goes wrong is raised, in one line
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        logits: np.ndarray = session.run(None, dict(inputs))[0]
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise PackageError(f"ONNX Runtime does not run it in float16: {reason[0][:200]}") from error
    return logits
