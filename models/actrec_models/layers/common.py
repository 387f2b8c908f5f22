"""Glorot & Bengio's initialization, Keras's default.

Shapes as plain numbers, and tables made from them.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def glorot(module: nn.Module) -> None:
    """Uniform weights by fan-in and fan-out, and zero biases, of a convolution or linear layer; for `Module.apply`."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def sizes(x: Tensor) -> tuple[int, ...]:
    """Return the shape behind the batch axis as plain numbers: an exported graph then has constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return tuple(int(size) for size in x.shape[1:])


def table(values: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """Return the rows of `values` as a matrix of the kind of `like`, a constant in an exported graph."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return torch.tensor(values, device=like.device, dtype=like.dtype)
