"""Real but tiny model packages for tests: a network that classifies a person's position, and one over any inputs.

The one input is [N, M, 3, T, 25] in metres. The network takes its mean over everything but the coordinates and the
batch and multiplies: logits = (−8 x, 8 x, 8 (z − 4)) for "left", "right", "far". A person at x = −1 m, z = 2 m is on
the "left" with near certainty, one at x = 0, z = 4 gives three equal probabilities.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from actrec.features.specs import InputSpec, WindowSpec
from actrec.inference import package
from actrec.inference.package import SCHEMA_VERSION, ModelPackage, Provenance, Rejection
from actrec.inference.session import Session

LABELS = ("left", "right", "far")
FRAMES = 8
RAW = {"center": "none", "align": "none", "scale": "none"}


def tiny_onnx(
    bodies: int = 1,
    frames: int = FRAMES,
    name: str = "body",
    batch: str | int = "N",
    classes: int = 3,
    poison: bool = False,
    bias_at: float = 0.0,
    operator: str = "Gemm",
) -> bytes:
    """The network's bytes; `poison` divides the logits by zero where the person is nearer than 1 m, which gives NaN.

    `bias_at` is added to every logit; another `operator` than Gemm need not exist.
    """
    weights = np.zeros((3, classes), dtype=np.float32)
    weights[0, :2], weights[2, 2:] = (-8.0, 8.0), 8.0
    bias = np.array([0.0, 0.0] + [-32.0] * (classes - 2), dtype=np.float32) + np.float32(bias_at)
    nodes = [
        helper.make_node("ReduceMean", [name], ["mean"], "/network/place/ReduceMean", axes=[1, 3, 4], keepdims=0),
        helper.make_node(operator, ["mean", "weights", "bias"], ["scores" if poison else "logits"], "/network/fc/Gemm"),
    ]
    if poison:
        nodes += [
            helper.make_node("Sub", ["mean", "one"], ["beyond"]),
            helper.make_node("Relu", ["beyond"], ["positive"]),
            helper.make_node("Gather", ["positive", "z"], ["depth"], axis=1),
            helper.make_node("Div", ["depth", "depth"], ["unit"]),
            helper.make_node("Mul", ["scores", "unit"], ["logits"]),
        ]
    constants: dict[str, np.ndarray] = {"weights": weights, "bias": bias}
    if poison:
        constants |= {"one": np.array([1.0], dtype=np.float32), "z": np.array([2], dtype=np.int64)}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, bodies, 3, frames, 25])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if operator == "Gemm":
        onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def endless_onnx(frames: int = FRAMES, beyond_m: float = 5.0) -> bytes:
    """The network of `tiny_onnx`, with a run that does not end in a test's time for a person beyond a distance in x."""
    tiny = onnx.load_model_from_string(tiny_onnx(frames=frames))
    graph = tiny.graph
    graph.node[-1].output[0] = "scores"
    value = helper.make_tensor_value_info("value", TensorProto.FLOAT, [64, 64])
    step = helper.make_graph(
        [
            helper.make_node("MatMul", ["value", "identity"], ["next"]),
            helper.make_node("Identity", ["go_on"], ["go_on_next"]),
        ],
        "step",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            value,
        ],
        [
            helper.make_tensor_value_info("go_on_next", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [64, 64]),
        ],
    )
    graph.node.extend(
        [
            helper.make_node("ReduceMax", ["body"], ["farthest"], keepdims=0),
            helper.make_node("Sub", ["farthest", "beyond"], ["excess"]),
            helper.make_node("Relu", ["excess"], ["positive"]),
            helper.make_node("Mul", ["positive", "many"], ["steps"]),
            helper.make_node("Cast", ["steps"], ["count"], to=TensorProto.INT64),
            helper.make_node("Loop", ["count", "yes", "identity"], ["final"], body=step),
            helper.make_node("ReduceMin", ["final"], ["zero"], keepdims=0),
            helper.make_node("Add", ["scores", "zero"], ["logits"]),
        ]
    )
    constants = {
        "identity": np.eye(64, dtype=np.float32),
        "beyond": np.float32(beyond_m),
        "many": np.float32(1e9),
        "yes": np.array(True),
    }
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items())
    onnx.checker.check_model(tiny)
    return bytes(tiny.SerializeToString())


def tiny_description(
    bodies: int = 1,
    frames: int = FRAMES,
    seconds: float = 2.0,
    threshold: float = 0.5,
    labels: tuple[str, ...] = LABELS,
) -> ModelPackage:
    """What `model.yaml` says of it."""
    return ModelPackage(
        schema_version=SCHEMA_VERSION,
        family="deepacts_graph",
        variant="tiny",
        labels=labels,
        window=WindowSpec(seconds, frames),
        bodies=bodies,
        inputs=(InputSpec("body", "body", "kinect_v2_25", (bodies, 3, frames, 25), "m", RAW),),
        rejection=Rejection(threshold, 1.0, "nothing"),
        provenance=Provenance(
            "made up", "none", 0, 1, 1.0, "none", ("tests/tiny_model.py",), "0000000", "2025-01-01T00:00:00"
        ),
    )


def write_tiny(folder: Path, poison: bool = False, **changes: object) -> ModelPackage:
    """Writes the package to `folder`; `changes` go to `tiny_description`."""
    description = tiny_description(**changes)  # type: ignore[arg-type]
    network = tiny_onnx(description.bodies, description.window.frames, classes=len(description.labels), poison=poison)
    return package.write(folder, description, network)


def person_at(x: float, z: float = 2.0) -> np.ndarray:
    """[25, 3] joints that are all one point, in metres: the tiny model sees no difference."""
    return np.tile(np.array([x, 0.0, z], dtype=np.float32), (25, 1))


def averaging_onnx(specs: Sequence[InputSpec], weights: np.ndarray) -> bytes:
    """Logits [N, classes] = the mean of each input @ weights [inputs, classes]: can be worked out by hand."""
    nodes, means = [], []
    for spec in specs:
        axes = list(range(1, len(spec.shape) + 1))
        nodes.append(helper.make_node("ReduceMean", [spec.name], [f"{spec.name}_all"], axes=axes, keepdims=1))
        nodes.append(helper.make_node("Flatten", [f"{spec.name}_all"], [f"{spec.name}_mean"]))
        means.append(f"{spec.name}_mean")
    nodes += [
        helper.make_node("Concat", means, ["means"], axis=1),
        helper.make_node("MatMul", ["means", "weights"], ["logits"]),
    ]
    return _onnx(nodes, specs, {"weights": np.asarray(weights, np.float32)}, np.shape(weights)[1])


def projecting_onnx(specs: Sequence[InputSpec], classes: int = 3, seed: int = 0) -> bytes:
    """Logits that depend on every number of every input: each flattened, times random weights."""
    rng = np.random.default_rng(seed)
    nodes, constants = [], {}
    for spec in specs:
        size = int(np.prod(spec.shape))
        constants[f"{spec.name}_weights"] = rng.normal(0, 2 / np.sqrt(size), (size, classes)).astype(np.float32)
        nodes.append(helper.make_node("Flatten", [spec.name], [f"{spec.name}_flat"]))
        nodes.append(helper.make_node("MatMul", [f"{spec.name}_flat", f"{spec.name}_weights"], [f"{spec.name}_part"]))
    nodes.append(helper.make_node("Sum", [f"{spec.name}_part" for spec in specs], ["logits"]))
    return _onnx(nodes, specs, constants, classes)


def _onnx(
    nodes: list[onnx.NodeProto], specs: Sequence[InputSpec], constants: dict[str, np.ndarray], classes: int
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, ["N", *spec.shape]) for spec in specs],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def write_any(
    folder: Path,
    specs: Sequence[InputSpec],
    window: WindowSpec,
    bodies: int = 1,
    weights: np.ndarray | None = None,
    threshold: float = 0.0,
) -> ModelPackage:
    """A package over any inputs: averaging with `weights`, else projecting."""
    network = projecting_onnx(specs) if weights is None else averaging_onnx(specs, weights)
    description = replace(
        tiny_description(bodies, threshold=threshold), inputs=tuple(specs), window=window, variant="any"
    )
    return package.write(folder, description, network)


def note_runs(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, np.ndarray]]:
    """A list that the inputs of each further run of the network are put on."""
    runs: list[dict[str, np.ndarray]] = []
    run = session.backend.run

    def note(inputs: dict[str, np.ndarray]) -> np.ndarray:
        runs.append(inputs)
        return run(inputs)

    monkeypatch.setattr(session.backend, "run", note)
    return runs
