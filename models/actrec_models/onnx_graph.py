"""A network as an ONNX graph: static but for the batch, of operators that TensorRT parses, checked against PyTorch."""

import io
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from actrec.errors import PackageError
from actrec.features.clips import window_inputs
from actrec.features.example import example_clip
from actrec.package import InputSpec, WindowSpec
from actrec_models import tensorrt_operators
from actrec_models.networks.base import Network
from actrec_models.simplify import simplified

OPSET = 17
PARITY = 1e-4
"""Largest difference of logits between PyTorch and ONNX Runtime, in float32: absolute, or relative to the largest
logit where that is above 1."""
CHECKED_BATCHES = (1, 3)
_MESSAGE_BYTES = 2**31 - 1


def example_inputs(network: Network, count: int, seed: int = 0) -> dict[str, Tensor]:
    """Inputs (count, *shape) by name: the first clips of windows with simulated people, made by the core's features."""
    bodies = getattr(network.config, "bodies", 1)
    made = inputs_for(network.input_specs, network.window, bodies, count, seed)
    return {name: torch.from_numpy(value) for name, value in made.items()}


def inputs_for(
    specs: Sequence[InputSpec], window: WindowSpec, bodies: int, count: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """As `example_inputs`, for a network of which only the description is at hand."""
    made = []
    for n in range(count):
        clip = example_clip(specs, window.frames, bodies, seed * 1000 + n)
        made += window_inputs(clip, specs, window, starts=window.starts[:1])
    return {spec.name: np.stack([m[spec.name] for m in made]) for spec in specs}


def logits_of(content: bytes, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Logits [N, classes] that ONNX Runtime computes of a graph and its inputs [N, …] by name."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    logits: np.ndarray = session.run(None, dict(inputs))[0]
    return logits


class _Positional(nn.Module):
    """Takes the network's inputs in the order of its specs, as ONNX export wants them."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network
        self.names = [spec.name for spec in network.input_specs]

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(**dict(zip(self.names, inputs, strict=True)))


def to_onnx(network: Network) -> bytes:
    """The network as ONNX with static M, T, V and a dynamic batch, simplified, checked against PyTorch.

    Raises:
        PackageError: As `check_operators`, or ONNX Runtime's logits differ by more than `PARITY`.
    """
    content = simplified(trace(network))
    check_operators(network, content)
    for batch, difference in zip(CHECKED_BATCHES, parity_errors(network, content, CHECKED_BATCHES), strict=True):
        if not difference <= PARITY:  # a NaN is no agreement either
            raise PackageError(
                f"ONNX and PyTorch differ by {difference:.2g} (batch {batch}), allowed: {PARITY:g}: not written"
            )
    return content


def check_operators(network: Network, content: bytes) -> None:
    """Refuses an ONNX graph that could not become a TensorRT engine.

    Raises:
        PackageError: Names the node, and with it the layer, that TensorRT's parser does not take.
    """
    model = onnx.load_model_from_string(content)
    taken = {value.name for value in model.graph.input}
    found = [f"input '{spec.name}' reaches no logit" for spec in network.input_specs if spec.name not in taken]
    found += tensorrt_operators.problems(model)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise PackageError(f"the ONNX graph cannot become a TensorRT engine: {found[0]}{more}: not written")


def trace(network: Network) -> bytes:
    """The network as ONNX, as PyTorch writes it, unchecked; it is in evaluation mode afterwards.

    Raises:
        PackageError: It is too large for one ONNX file, or has an operator that ONNX does not have.
    """
    wrapped = _Positional(network).eval()
    examples = example_inputs(network, 2)
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        # The TorchScript exporter is the one whose graphs TensorRT parses without surprises; torch calls it the old
        # one at every use, and doubts that a recurrent layer takes another batch than it was traced with. It does:
        # parity is checked at two others.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        try:
            torch.onnx.export(
                wrapped,
                tuple(examples.values()),
                buffer,
                input_names=list(examples),
                output_names=["logits"],
                dynamic_axes={name: {0: "batch"} for name in [*examples, "logits"]},
                opset_version=OPSET,
                dynamo=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise PackageError(f"the network cannot be written as ONNX: {str(error).splitlines()[0]}") from error
    if buffer.tell() > _MESSAGE_BYTES:
        raise PackageError(f"the network takes {buffer.tell() / 1e9:.1f} GB, one ONNX file holds 2.1 GB at most")
    return buffer.getvalue()


def parity_errors(network: Network, content: bytes, batches: Sequence[int], seed: int = 1) -> list[float]:
    """Largest difference of logits between ONNX Runtime and PyTorch at each of some batches, as `PARITY` counts it.

    Args:
        network: In evaluation mode.
        content: The same as ONNX.
        batches: N clips each, of simulated people.
        seed: Of the clips.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    errors = []
    for batch in batches:
        inputs = example_inputs(network, batch, seed)
        with torch.no_grad():
            expected = network(**inputs).numpy()
        found = session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
        errors.append(float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max()))))
    return errors
