"""Networks in lower precision: ONNX graphs in float16 and int8, checked against float32."""

import contextlib
import dataclasses
import graphlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType, create_calibrator
from onnxruntime.quantization.calibrate import HistogramCollector
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
from onnxruntime.transformers import float16

from actrec.features.clips import example_windows
from actrec.inference.package import LowerPrecision, ModelPackage
from actrec.inference.session import RUN_BYTES
from actrec.inference.tensorrt.builder import QUANTIZED, group_of, is_kept
from actrec.utils.errors import ConfigError, PackageError, first_line
from actrec_models.export.onnx_graph import open_graph, run_onnx, scratch_folder, tensorrt_problems

logger = logging.getLogger(__name__)

Inputs = dict[str, np.ndarray]

MAX_FLOAT16_DIFFERENCE = 0.02  # largest allowed difference of float16 logits, relative to the spread of a clip's logits
_OPERATORS = """
    Div Exp InstanceNormalization LayerNormalization Log LogSoftmax LpNormalization Pow ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceSum ReduceSumSquare Reciprocal Softmax Softplus Sqrt Sum
"""

FLOAT32_OPERATORS = frozenset([*_OPERATORS.split(), *float16.DEFAULT_OP_BLOCK_LIST])
"""Operators that stay in float32: sums that may exceed float16's range, divisions by what may round to zero,
exponentials, and the converter's own exceptions. None of these has weights."""

_FLOAT16_MAX = float(np.finfo(np.float16).max)
_FLOAT16_NORMAL = float(np.finfo(np.float16).tiny)
_SMALLEST_SPREAD = 1e-3
_FLOAT16_CLIPS = 4
MIN_AGREEMENT = 0.98  # smallest share of held-out clips on which int8 and float32 must predict the same label
_GRAPH_COPIES = 4  # files of the network's size that ONNX Runtime writes while quantizing
_BATCH = 16

_QDQ_OPTIONS = {
    "ActivationSymmetric": True, "WeightSymmetric": True,  # no zero points
    "AddQDQPairToWeight": True, "DedicatedQDQPair": True,  # a pair for each reader, also after float32 weights
    "QuantizeBias": False, "OpTypesToExcludeOutputQuantization": list(QUANTIZED),
}  # fmt: skip
"""Options that TensorRT needs (microsoft/onnxruntime issues 14142, 14229)."""


def relative_difference(logits: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of logits [N, classes], relative to the largest spread of a clip's; NaN for NaN."""
    spread = max(float(np.ptp(expected, axis=1).max()), _SMALLEST_SPREAD)
    return float(np.abs(logits.astype(np.float64) - expected).max() / spread)


# -- float16 -----------------------------------------------------------------------------------------------------------


def with_float16(package: ModelPackage, content: bytes) -> tuple[ModelPackage, dict[str, bytes]]:
    """Return the description with a float16 network, and that network as `package.write` takes it.

    Args:
        content: The network in float32.

    Raises:
        PackageError: As `to_float16`; contains the family.
    """
    inputs = example_windows(package.inputs, package.window, package.bodies, _FLOAT16_CLIPS)
    try:
        half, largest = to_float16(content, inputs)
    except PackageError as error:
        raise PackageError(
            f"{package.family} ({package.variant}) cannot be written in float16: {error}: omit --float16"
        ) from error
    return dataclasses.replace(package, float16=LowerPrecision(largest)), {"float16": half}


def to_float16(
    content: bytes, inputs: Mapping[str, np.ndarray], *, kept_operators: frozenset[str] = FLOAT32_OPERATORS
) -> tuple[bytes, float]:
    """Convert weights and arithmetic of a float32 graph to float16; inputs and logits stay in float32.

    Everything between an input and a comparison or a cast to an index stays in float32, so that decisions do not
    change. So do nodes with a constant outside float16's range, and `kept_operators`.

    Args:
        inputs: Example inputs [N, …] by name, for the comparison.
        kept_operators: Operators that stay in float32.

    Returns:
        The graph, and the `relative_difference` of its logits.

    Raises:
        PackageError: The graph cannot be converted, ONNX Runtime or TensorRT would refuse it, or the logits differ by
            more than `MAX_FLOAT16_DIFFERENCE`.
    """
    model = onnx.load_model_from_string(content)
    names: set[str] = set()
    for number, node in enumerate(model.graph.node):  # the converter excludes nodes by name
        if not node.name or node.name in names:
            node.name = f"{node.op_type}/{number}"
        names.add(node.name)
    kept = _float32_nodes(model, kept_operators)
    half = _convert(model, kept)
    if problems := tensorrt_problems(half):
        raise PackageError(f"in float16, {problems[0]}")
    converted = bytes(half.SerializeToString())
    # ONNX Runtime's CPU has few float16 kernels and computes in float32 in between; an accelerator rounds each result.
    rounded = bytes(round_to_float16(model, kept).SerializeToString())
    try:
        expected, direct, simulated = (run_onnx(c, inputs, optimized=False) for c in (content, converted, rounded))
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise PackageError(f"ONNX Runtime cannot run it in float16: {first_line(error)}") from error
    differences = [relative_difference(logits, expected) for logits in (direct, simulated)]
    largest = float(np.max(differences))  # NaN if one is NaN
    if not np.isfinite(largest):
        raise PackageError(f"intermediate values leave float16's range (±{_FLOAT16_MAX:g})")
    if largest > MAX_FLOAT16_DIFFERENCE:
        raise PackageError(
            f"its logits differ by {largest:.1%} of their spread in float16, allowed: {MAX_FLOAT16_DIFFERENCE:.0%}"
        )
    return converted, largest


def round_to_float16(model: ModelProto, kept: frozenset[str] = frozenset()) -> ModelProto:
    """Return a copy of a float32 graph that rounds weights and results to float16, as an accelerator does.

    The nodes named in `kept`, and their weights, are not rounded.
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


def _float32_nodes(model: ModelProto, operators: frozenset[str]) -> frozenset[str]:
    """Return the names of the nodes that stay in float32."""
    nodes, types = model.graph.node, _types(model)
    tensors = [(tensor.name, tensor) for tensor in model.graph.initializer]
    tensors += [(n.output[0], a.t) for n in nodes if n.op_type == "Constant" for a in n.attribute if a.name == "value"]
    floats = {name: numpy_helper.to_array(t) for name, t in tensors if t.data_type == TensorProto.FLOAT}
    wide = {name for name, values in floats.items() if not _fits_float16(values)}
    kept = {node.name for node in nodes if node.op_type in operators or wide & {*node.input, *node.output}}
    # A float32 value on the way to an index or a truth value.
    producers = {output: node for node in nodes for output in node.output}
    queue = [node for node in nodes if node.op_type != "Shape" and _decides(node, types)]
    decisive: set[str] = set()
    while queue:
        node = queue.pop()
        if node.name not in decisive:
            decisive.add(node.name)
            queue += [producers[n] for n in node.input if n in producers and types.get(n) == TensorProto.FLOAT]
    return frozenset(kept | decisive)


def _decides(node: Any, types: dict[str, int]) -> bool:
    """Return whether a node turns float32 values into an index or a truth value."""
    takes_float = any(types.get(name) == TensorProto.FLOAT for name in node.input)
    return takes_float and any(types[name] != TensorProto.FLOAT for name in node.output if name)


def _fits_float16(values: np.ndarray) -> bool:
    """Return whether all values are in range; a scalar, which may be a divisor or limit, must not be subnormal."""
    largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
    return largest <= _FLOAT16_MAX and not (values.size == 1 and 0 < largest < _FLOAT16_NORMAL)


def _types(model: ModelProto) -> dict[str, int]:
    """Return the element type of each value; a PackageError if ONNX cannot infer one."""
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    types.update({t.name: t.data_type for t in graph.initializer})
    if unknown := [name for node in graph.node for name in node.output if name and not types.get(name)]:
        raise PackageError(f"ONNX cannot infer the type of its value '{unknown[0]}'")
    return types


def _convert(model: ModelProto, kept: frozenset[str]) -> ModelProto:
    """Return the graph in float16 except the nodes `kept`; a PackageError if the converter refuses."""
    copy = ModelProto()
    copy.CopyFrom(model)
    try:
        half = float16.convert_float_to_float16(
            copy, keep_io_types=True, op_block_list=[], node_block_list=sorted(kept)
        )
        _sort_nodes(half.graph)
        _remove_detours(half)
        onnx.checker.check_model(half, full_check=True)
    except PackageError:
        raise
    except Exception as error:  # the converter and ONNX's checker share no base class
        raise PackageError(f"its graph cannot be converted to float16: {first_line(error)}") from error
    return half


def _remove_detours(model: ModelProto) -> None:
    """Remove the converter's casts to float16 and back between float32 nodes, which change an index above 2048."""
    graph = model.graph
    del graph.value_info[:]
    types = _types(model)
    producers = {output: node for node in graph.node for output in node.output}
    outputs = {value.name for value in graph.output}
    replaced: dict[str, str] = {}
    for node in graph.node:
        before = producers.get(node.input[0]) if _casts_to(node, TensorProto.FLOAT) else None
        if before is not None and _casts_to(before, TensorProto.FLOAT16):
            node.input[0] = before.input[0]
            if types[before.input[0]] == TensorProto.FLOAT and node.output[0] not in outputs:
                replaced[node.output[0]] = before.input[0]
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = replaced.get(name, name)
    while True:
        used = {name for node in graph.node for name in node.input} | outputs
        unused = [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in used]
        if not unused:
            return
        for node in unused:
            graph.node.remove(node)


def _casts_to(node: Any, kind: int) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == kind for a in node.attribute)


def _sort_nodes(graph: Any) -> None:
    """Sort the nodes topologically and remove the duplicates of the casts that the converter appends."""
    nodes = list({(node.op_type, *node.output): node for node in graph.node}.values())
    producers = {output: number for number, node in enumerate(nodes) for output in node.output if output}
    order = graphlib.TopologicalSorter(
        {n: [producers[name] for name in node.input if name in producers] for n, node in enumerate(nodes)}
    )
    ordered = [nodes[number] for number in order.static_order()]
    del graph.node[:]
    graph.node.extend(ordered)


# -- int8 --------------------------------------------------------------------------------------------------------------


class Int8Network(NamedTuple):
    """A network in int8 with Q/DQ nodes as TensorRT reads them, `agreement` on held-out labels, groups in float32."""

    content: bytes
    difference: float
    agreement: float
    kept: tuple[str, ...]


def to_int8(
    content: bytes, calibration: Sequence[Inputs], held_out: Sequence[Inputs], keep: Sequence[str] = ()
) -> Int8Network:
    """Quantize a network; if it disagrees with float32, keep the most sensitive layer groups in float32.

    Args:
        content: The simplified ONNX graph in float32.
        calibration: Inputs of recorded clips, without the batch axis; read several times.
        held_out: Inputs of other clips, for the comparison.
        keep: Layer groups that stay in float32 (`actrec.inference.tensorrt.builder`).

    Raises:
        ConfigError: Unknown layer group.
        PackageError: ONNX Runtime cannot quantize it, or it disagrees even with half of its groups in float32.
        DeviceError: The disk of temporary files is full.
    """
    check_layer_groups(content, keep)
    with scratch_folder(_GRAPH_COPIES * len(content)) as folder:
        quantizer = _Quantizer(content, folder, calibration)
        expected = _int8_logits(content, held_out)

        def attempt(kept: Sequence[str]) -> Int8Network:
            quantized = quantizer.quantize(kept)
            logits = _int8_logits(quantized, held_out)
            agreement = float((logits.argmax(axis=1) == expected.argmax(axis=1)).mean())
            return Int8Network(quantized, relative_difference(logits, expected), agreement, tuple(kept))

        best = attempt(keep)
        if best.agreement >= MIN_AGREEMENT:
            return best
        logger.info("int8 agrees on %.1f %% of the clips: searching for sensitive layers", 100 * best.agreement)
        for kept in _growing_groups(quantizer, expected, held_out, keep):
            best = max(best, attempt(kept), key=lambda each: each.agreement)
            if best.agreement >= MIN_AGREEMENT:
                return best
    raise PackageError(
        f"int8 agrees with float32 on {best.agreement:.1%} of the clips, required: {MIN_AGREEMENT:.0%}, even with half "
        "of its layer groups in float32: use float16"
    )


def check_layer_groups(content: bytes, keep: Sequence[str]) -> None:
    """Raise a ConfigError that lists the layer groups of an ONNX graph if it does not have all of `keep`."""
    groups = _groups(_quantizable_nodes(onnx.load_model_from_string(content)))
    if groups and (unknown := sorted(set(keep) - set(groups))):
        raise ConfigError(f"no layer group '{unknown[0]}'; known: {', '.join(groups)}")


def _growing_groups(
    quantizer: "_Quantizer", expected: np.ndarray, held_out: Sequence[Inputs], keep: Sequence[str]
) -> Iterator[list[str]]:
    """Yield `keep` plus the most sensitive group, then the two most sensitive, up to half of all groups."""
    sensitivity = {}
    for group in [group for group in quantizer.groups if group not in keep]:
        alone = quantizer.quantize([name for name in quantizer.groups if name != group])
        sensitivity[group] = float(np.abs(_int8_logits(alone, held_out) - expected).mean())
    ranked = sorted(sensitivity, key=lambda group: -sensitivity[group])
    for count in range(1, max(len(ranked) // 2, 1) + 1):
        yield [*keep, *ranked[:count]]


class _Quantizer:
    """Quantizer of one network for varying sets of float32 layer groups; the ranges are computed once."""

    def __init__(self, content: bytes, folder: Path, calibration: Sequence[Inputs]):
        self._file = folder / "model.onnx"
        self._file.write_bytes(content)
        self._nodes = _quantizable_nodes(onnx.load_model_from_string(content))
        self.groups = _groups(self._nodes)
        if not self._nodes:
            raise PackageError("it has no layer that int8 could compute")
        # Of four methods, this gave the logits of other training clips nearest to float32: 0.5 % of the
        # spread, the others 0.6 to 5.0 %.
        calibrator = create_calibrator(
            self._file, list(QUANTIZED), str(folder / "watched.onnx"),
            calibrate_method=CalibrationMethod.Percentile, extra_options={"symmetric": True, "percentile": 99.99},
        )  # fmt: skip
        calibrator.collector = _histograms(calibrator, calibration)
        with contextlib.redirect_stdout(None):  # it prints
            self._ranges = calibrator.compute_data()

    def quantize(self, kept: Sequence[str]) -> bytes:
        """Return the graph with all groups except `kept` in int8."""
        model = load_model_with_shape_infer(self._file)
        chosen = [name for name in self._nodes if not is_kept(name, tuple(kept))]
        if not chosen:
            raise PackageError("with all of its layer groups in float32, no layer remains for int8")
        quantizer = QDQQuantizer(
            model, True, False, QuantType.QInt8, QuantType.QInt8, self._ranges, chosen, [], list(QUANTIZED),
            _QDQ_OPTIONS,
        )  # fmt: skip
        quantizer.quantize_model()
        quantized = quantizer.model.model
        del quantized.graph.value_info[:]
        if problems := tensorrt_problems(quantized):
            raise PackageError(f"in int8, {problems[0]}")
        return bytes(quantized.SerializeToString())


def _quantizable_nodes(model: ModelProto) -> list[str]:
    """Return the nodes that ONNX Runtime can quantize: it quantizes matrices by column, but no stacks of matrices."""
    dims = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in QUANTIZED and node.name]
    return [n.name for n in nodes if n.op_type == "Conv" or all(dims.get(name, 0) <= 2 for name in n.input)]


def _groups(nodes: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(group_of(name) for name in nodes))


def _histograms(calibrator: Any, clips: Sequence[Inputs]) -> HistogramCollector:
    """Return the histograms of the clips' tensors, equal to the calibrator's `collect_data`.

    That method keeps all tensors of all clips in memory: 66 GB for 200 clips of `deepacts_graph`. This function runs
    each clip twice, for the range and for the counts.
    """
    lows: dict[str, np.ndarray] = {}
    highs: dict[str, np.ndarray] = {}
    for name, values in _calibration_tensors(calibrator, clips):
        size = np.abs(values)
        low, high = np.array([values.min(), size.min()]), np.array([values.max(), size.max()])
        lows[name], highs[name] = np.minimum(lows.get(name, low), low), np.maximum(highs.get(name, high), high)
    collector = HistogramCollector(
        calibrator.method, calibrator.symmetric, calibrator.num_bins, calibrator.num_quantized_bins,
        calibrator.percentile, calibrator.scenario,
    )  # fmt: skip
    counts: dict[str, np.ndarray] = {}
    for name, values in _calibration_tensors(calibrator, clips):
        (least, smallest), (most, largest) = lows[name], highs[name]
        inside, edges = np.histogram(np.abs(values), calibrator.num_bins, (smallest, largest))
        counts[name] = counts.get(name, 0) + inside
        collector.histogram_dict[name] = (counts[name], edges.astype(values.dtype), least, most)
    return collector


def _calibration_tensors(calibrator: Any, clips: Sequence[Inputs]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the values to calibrate with their names, clip by clip."""
    session = calibrator.infer_session
    names = [value.name for value in session.get_outputs()]
    for clip in clips:
        values = session.run(None, {name: value[None] for name, value in clip.items()})
        yield from (
            (name, value) for name, value in zip(names, values, strict=True) if name in calibrator.tensors_to_calibrate
        )


def _int8_logits(content: bytes, clips: Sequence[Inputs]) -> np.ndarray:
    """Return the logits [N, classes] of N clips, in batches whose inputs fit into memory."""
    batch_size = max(1, min(_BATCH, RUN_BYTES // sum(value.nbytes for value in clips[0].values())))
    session, rows = None, []
    for start in range(0, len(clips), batch_size):
        batch = [clips[at] for at in range(start, min(start + batch_size, len(clips)))]
        inputs = {name: np.stack([clip[name] for clip in batch]) for name in batch[0]}
        try:
            session = session or open_graph(content)
            rows.append(session.run(None, inputs)[0])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise PackageError(f"ONNX Runtime cannot run it in int8: {first_line(error)}") from error
    return np.concatenate(rows)
