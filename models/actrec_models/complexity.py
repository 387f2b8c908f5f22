"""Size of a network: its parameters, and the multiply-adds of one forward pass.

Counted on the `meta` device, where shapes flow but nothing is computed: the largest network takes a second and no
memory. What is counted: convolutions, linear layers, matrix products (attention, graph convolution) and the matrix
products inside recurrent layers. What is not: additions of biases, normalisation, activation, softmax and pooling, as
in the papers' figures, which give a multiply-add as one operation.
"""

import copy
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Complexity:
    """Size of a network.

    Attributes:
        parameters: Trainable numbers.
        multiply_adds: Of one forward pass.
    """

    parameters: int
    multiply_adds: int


def complexity(network: nn.Module, inputs: dict[str, Tensor] | None = None) -> Complexity:
    """Parameters and multiply-adds of `network` for batch 1.

    Args:
        network: Stays as it is.
        inputs: What to call it with, by name; only shapes count. None for one clip by the network's `input_specs`.
    """
    if inputs is None:
        inputs = {spec.name: torch.empty(1, *spec.shape, device="meta") for spec in network.input_specs}
    shapes_only = _on_meta(network).eval()
    counter = _Counter()
    with torch.no_grad(), torch.device("meta"), counter:
        shapes_only(**{name: value.to("meta") for name, value in inputs.items()})
    return Complexity(sum(p.numel() for p in network.parameters()), counter.multiply_adds)


def _on_meta(network: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers have shapes but no values."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in network.parameters()}
    memo.update({id(b): b.to("meta") for b in network.buffers()})
    return copy.deepcopy(network, memo)


class _Counter(TorchDispatchMode):
    """Adds up the multiply-adds of the operators that pass."""

    def __init__(self) -> None:
        super().__init__()
        self.multiply_adds = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.multiply_adds += _multiply_adds(function.overloadpacket, args, result)
        return result


def _multiply_adds(operator: Any, args: Any, result: Any) -> int:
    aten = torch.ops.aten
    if operator is aten.convolution:
        # Each output value (each input value, where transposed) meets one kernel: channels of its group × positions.
        transposed = args[6]
        return (args[0] if transposed else result).numel() * prod(args[1].shape[1:])
    if operator in (aten.mm, aten.bmm, aten.mv):
        return result.numel() * args[0].shape[-1]
    if operator in (aten.addmm, aten.baddbmm, aten.addmv):
        return result.numel() * args[1].shape[-1]
    if operator is aten.dot:
        return args[0].numel()
    return 0
