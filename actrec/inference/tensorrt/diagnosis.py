"""Find the layers that an engine computes wrongly: the first that differ from ONNX Runtime's values."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from actrec.inference.onnxruntime_backend import outputs_of
from actrec.inference.tensorrt.builder import disagreement, group_of

PROBE = "probe/"

_FLOATS = (1, 10)
"""ONNX's float32 and float16."""

Inputs = dict[str, np.ndarray]

Run = Callable[[bytes, Inputs], dict[str, np.ndarray]]
"""Builds the engine of an ONNX graph and gives its outputs for one window."""


def first_wrong_group(content: bytes, inputs: Inputs, run: Run, allowed: float) -> str | None:
    """Return the layer group after which the engine's values first differ too much.

    Args:
        content: The ONNX graph that the engine was built of.
        inputs: One window.
        run: Runs the engine of a graph.
        allowed: Difference, as `disagreement` has it.

    Returns:
        The group; if none differs too much, the one that differs most. None if the package `onnx`, which is
        needed to add outputs to a graph, is not installed.
    """
    try:
        onnx = importlib.import_module("onnx")
    except ImportError:
        return None
    probed, names = _probed(onnx, content)
    theirs, ours = outputs_of(probed, inputs), run(probed, inputs)
    off = {group: disagreement(ours[name], theirs[name]) for group, name in names.items()}
    wrong = [group for group in names if off[group] > allowed]
    return wrong[0] if wrong else max(off, key=lambda group: off[group])


def _probed(onnx: Any, content: bytes) -> tuple[bytes, dict[str, str]]:
    """Return the graph with the last value of each layer group as a float32 output, and their names in order."""
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(content))
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    last: dict[str, str] = {}
    for node in graph.node:
        for output in node.output:
            if types.get(output) in _FLOATS:
                group = group_of(node.name)
                last.pop(group, None)  # in the order of the last one
                last[group] = output
    final = {value.name for value in graph.output}
    for group, name in last.items():
        if name not in final:
            last[group] = probe = f"{PROBE}{group}"
            graph.node.append(onnx.helper.make_node("Cast", [name], [probe], name=probe, to=1))
            graph.output.append(onnx.helper.make_tensor_value_info(probe, 1, None))
    return bytes(onnx.shape_inference.infer_shapes(model).SerializeToString()), last
