"""Several networks' ONNX graphs as one, whose logits have the softmax that fusing their scores gives."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from actrec.errors import PackageError

_LOGITS = "logits"


def joined(contents: Sequence[bytes], names: Sequence[Mapping[str, str]], how: str, shares: Sequence[float]) -> bytes:
    """One graph of several.

    By "softmax" the logits are log Σ wₛ softmax(zₛ) + Σ wₛ log Σ exp(zₛ): the second term is the same for all classes
    and keeps how strong the streams' logits are, which the rejection looks at; without it all clips would be alike
    there. By "logits" they are Σ wₛ zₛ.

    Args:
        contents: The graphs, each with one output, logits [N, classes], and inputs [N, …] in float32.
        names: Of each, its inputs' names to those of the one graph. Inputs of the same name are one.
        how: "softmax" or "logits" (`evaluation.fusion.fuse`).
        shares: w, one a stream, above 0, with sum 1.

    Raises:
        PackageError: Graphs of different ONNX versions.
    """
    loaded = [onnx.load_model_from_string(content) for content in contents]
    parts = [onnx.compose.add_prefix(part, f"stream_{k}/") for k, part in enumerate(loaded)]
    opsets = [{entry.domain: entry.version for entry in part.opset_import} for part in parts]
    if any(opset != opsets[0] for opset in opsets):
        versions = " and ".join(sorted({str(opset.get("")) for opset in opsets}))
        raise PackageError(
            f"networks of ONNX operator sets {versions} are no one graph: export them with the same version of actrec"
        )
    for k, (part, known) in enumerate(zip(parts, names, strict=True)):
        _rename(part, {f"stream_{k}/{name}": shared for name, shared in known.items()})
    inputs = {value.name: value for part in parts for value in part.graph.input}
    logits = [part.graph.output[0].name for part in parts]
    nodes, constants = _softmaxes(logits, shares) if how == "softmax" else _weighted(logits, shares, _LOGITS)
    output = helper.make_tensor_value_info(_LOGITS, onnx.TensorProto.FLOAT, ["batch", _classes(parts[0])])
    graph = helper.make_graph(
        [*(node for part in parts for node in part.graph.node), *nodes],
        "fused",
        list(inputs.values()),
        [output],
        [
            *(tensor for part in parts for tensor in part.graph.initializer),
            *(numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=parts[0].opset_import, producer_name="actrec")
    model.ir_version = max(part.ir_version for part in parts)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _rename(model: ModelProto, names: Mapping[str, str]) -> None:
    for value in model.graph.input:
        value.name = names[value.name]
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)


def _classes(model: ModelProto) -> int:
    return int(model.graph.output[0].type.tensor_type.shape.dim[1].dim_value)


def _softmaxes(logits: Sequence[str], shares: Sequence[float]) -> tuple[list[Any], dict[str, float]]:
    """Makes log Σ exp(log wₛ + log softmax(zₛ)), the largest taken out of the sum, + Σ wₛ log Σ exp(zₛ)."""
    nodes, constants, logs, strengths = [], {}, [], []
    for k, (name, share) in enumerate(zip(logits, shares, strict=True)):
        own = f"fused/{k}"
        constants[f"{own}/log_share"] = math.log(share)
        nodes += [
            helper.make_node("LogSoftmax", [name], [f"{own}/log"], f"{own}/LogSoftmax", axis=1),
            helper.make_node("Add", [f"{own}/log", f"{own}/log_share"], [f"{own}/weighted"], f"{own}/Add"),
            # z − log softmax(z) is log Σ exp(z) in every class; of the largest it is exact.
            helper.make_node("ReduceMax", [name], [f"{own}/best"], f"{own}/Best", axes=[1], keepdims=1),
            helper.make_node("ReduceMax", [f"{own}/log"], [f"{own}/sure"], f"{own}/Sure", axes=[1], keepdims=1),
            helper.make_node("Sub", [f"{own}/best", f"{own}/sure"], [f"{own}/strength"], f"{own}/Strength"),
        ]
        logs.append(f"{own}/weighted")
        strengths.append(f"{own}/strength")
    nodes.append(helper.make_node("Max", logs, ["fused/most"], "fused/Max"))
    for k, name in enumerate(logs):
        nodes += [
            helper.make_node("Sub", [name, "fused/most"], [f"fused/{k}/less"], f"fused/{k}/Less"),
            helper.make_node("Exp", [f"fused/{k}/less"], [f"fused/{k}/times"], f"fused/{k}/Exp"),
        ]
    nodes += _added([f"fused/{k}/times" for k in range(len(logs))], "fused/sum")
    nodes += [
        helper.make_node("Log", ["fused/sum"], ["fused/log"], "fused/Log"),
        helper.make_node("Add", ["fused/log", "fused/most"], ["fused/scores"], "fused/Scores"),
    ]
    more, shared = _weighted(strengths, shares, "fused/strength")
    nodes += [*more, helper.make_node("Add", ["fused/scores", "fused/strength"], [_LOGITS], "fused/Logits")]
    return nodes, constants | shared


def _weighted(values: Sequence[str], shares: Sequence[float], output: str) -> tuple[list[Any], dict[str, float]]:
    """Makes Σ wₛ vₛ."""
    constants = {f"{output}/{k}/share": share for k, share in enumerate(shares)}
    shared = [f"{output}/{k}/shared" for k in range(len(values))]
    nodes = [
        helper.make_node("Mul", [value, share], [made], made)
        for value, share, made in zip(values, constants, shared, strict=True)
    ]
    return nodes + _added(shared, output), constants


def _added(values: Sequence[str], output: str) -> list[Any]:
    """Their sum, two at a time: an Add, which computes in any precision."""
    sums = [f"{output}/to_{k}" for k in range(1, len(values) - 1)] + [output]
    return [
        helper.make_node("Add", [before, value], [made], made)
        for before, value, made in zip([values[0], *sums], values[1:], sums, strict=False)
    ]
