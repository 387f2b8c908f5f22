"""A network's step as an ONNX graph, checked against PyTorch; `actrec.inference.streaming` runs it."""

import io
import json
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from actrec.errors import PackageError
from actrec.inference.streaming import METADATA
from actrec_models import tensorrt_operators
from actrec_models.networks.base import Network
from actrec_models.networks.streaming import Step
from actrec_models.onnx_graph import OPSET, PARITY
from actrec_models.simplify import simplified


class _Positional(nn.Module):
    """Takes the step's inputs in order, and gives the logits and the new values in the order of the states."""

    def __init__(self, step: Step):
        super().__init__()
        self.step = step

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        logits, new = self.step(**dict(zip(self.step.example_inputs, inputs, strict=True)))
        return (logits, *(new[state.name] for state in self.step.states))


def to_onnx(network: Network) -> bytes:
    """The network's step: a frame and the past in, logits and the new values out; the batch is dynamic.

    Inputs are the network's, with T = 1, and `past_<state>`; outputs are "logits" and `new_<state>`. How many frames
    lie between the values of a state is written in the file's metadata.

    Raises:
        ConfigError: The network cannot run frame by frame.
        PackageError: An operator is none that TensorRT parses, or ONNX Runtime disagrees with PyTorch.
    """
    step = Step(network).eval()
    content = simplified(_trace(step))
    found = tensorrt_operators.problems(onnx.load_model_from_string(content))
    if found:
        raise PackageError(f"the step's ONNX graph cannot become a TensorRT engine: {found[0]}: not written")
    _check_parity(step, content)
    return content


def _trace(step: Step) -> bytes:
    inputs = step.example_inputs
    outputs = ["logits", *(f"new_{state.name}" for state in step.states)]
    rows = {name: "batch_bodies" for name in (*inputs, *outputs) if name.startswith(("past_", "new_"))}
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            _Positional(step).eval(),
            tuple(inputs.values()),
            buffer,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes={name: {0: rows.get(name, "batch")} for name in (*inputs, *outputs)},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load_model_from_string(buffer.getvalue())
    shapes = [(step.network.config.num_classes,), *((state.shape[0], 1, state.shape[1]) for state in step.states)]
    for value, shape in zip(model.graph.output, shapes, strict=True):  # which the exporter cannot always infer
        for axis, size in enumerate(shape, start=1):
            value.type.tensor_type.shape.dim[axis].dim_value = size
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps({state.name: state.step for state in step.states})
    return bytes(model.SerializeToString())


def _check_parity(step: Step, content: bytes, steps: int = 3, batch: int = 2) -> None:
    """Compares some steps, each after a past in which every frame was as the last one."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(1)
    past = {f"past_{state.name}": torch.zeros(step.past_shape(state, batch)) for state in step.states}
    for _ in range(steps):
        frames = {n: torch.randn(batch, *shape, generator=generator) for n, shape in step.frame_shapes.items()}
        with torch.no_grad():
            logits, new = step(**frames, **past)
        expected = [logits, *(new[state.name] for state in step.states)]
        found = session.run(None, {name: value.numpy() for name, value in (*frames.items(), *past.items())})
        for value, wanted in zip(found, expected, strict=True):
            difference = float(np.abs(value - wanted.numpy()).max() / max(1.0, float(wanted.abs().max())))
            if not difference <= PARITY:
                raise PackageError(
                    f"step: ONNX and PyTorch differ by {difference:.2g}, allowed: {PARITY:g}: not written"
                )
        past = {f"past_{s.name}": new[s.name].repeat(1, 1, s.count, 1) for s in step.states}
