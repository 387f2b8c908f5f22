"""A real but tiny model package for tests: the network judges where a person stands.

The one input is [N, M, 3, T, 25] in metres. The network takes its mean over everything but the coordinates and the
batch and multiplies: logits = (−8 x, 8 x, 8 (z − 4)) for "left", "right", "far". A person at x = −1 m, z = 2 m is on
the "left" with near certainty, one at x = 0, z = 4 gives three equal probabilities.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from actrec import package
from actrec.package import InputSpec, ModelPackage, Provenance, Rejection, WindowSpec

LABELS = ("left", "right", "far")
FRAMES = 8
RAW = {"centre": "none", "align": "none", "scale": "none"}


def tiny_onnx(
    bodies: int = 1,
    frames: int = FRAMES,
    name: str = "body",
    batch: str | int = "N",
    classes: int = 3,
    poison: bool = False,
) -> bytes:
    """The network's bytes; `poison` divides the logits by zero where the person is nearer than 1 m, which gives NaN."""
    weights = np.zeros((3, classes), dtype=np.float32)
    weights[0, :2], weights[2, 2:] = (-8.0, 8.0), 8.0
    bias = np.array([0.0, 0.0] + [-32.0] * (classes - 2), dtype=np.float32)
    nodes = [
        helper.make_node("ReduceMean", [name], ["mean"], axes=[1, 3, 4], keepdims=0),
        helper.make_node("Gemm", ["mean", "weights", "bias"], ["scores" if poison else "logits"]),
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
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def tiny_description(
    bodies: int = 1,
    frames: int = FRAMES,
    seconds: float = 2.0,
    threshold: float = 0.5,
    labels: tuple[str, ...] = LABELS,
) -> ModelPackage:
    """What `model.yaml` says of it."""
    return ModelPackage(
        schema_version=1,
        family="deepacts_graph",
        variant="tiny",
        labels=labels,
        window=WindowSpec(seconds, frames),
        bodies=bodies,
        inputs=(InputSpec("body", "body", "kinect_v2_25", (bodies, 3, frames, 25), "m", RAW),),
        rejection=Rejection(threshold, 1.0, "nothing"),
        provenance=Provenance(
            "made up", "none", 0, 0, 1.0, "none", "tests/tiny_model.py", "0000000", "2025-01-01T00:00:00"
        ),
    )


def write_tiny(folder: Path, poison: bool = False, **changes: object) -> ModelPackage:
    """Writes the package to `folder`; `changes` go to `tiny_description`."""
    description = tiny_description(**changes)  # type: ignore[arg-type]
    network = tiny_onnx(description.bodies, description.window.frames, classes=len(description.labels), poison=poison)
    return package.write(folder, description, network)


def person_at(x: float, z: float = 2.0) -> np.ndarray:
    """[25, 3] joints of somebody who is a single point in metres, as far as the tiny model can tell."""
    return np.tile(np.array([x, 0.0, z], dtype=np.float32), (25, 1))
