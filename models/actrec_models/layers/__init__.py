"""Building blocks that the networks share; initialization and shapes of several of them."""

import warnings

import torch
from torch import Tensor, nn


def glorot(module: nn.Module) -> None:
    """Initialize a convolution or linear layer as Keras does (Glorot & Bengio): for `Module.apply`."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def sizes(x: Tensor) -> tuple[int, ...]:
    """Return the shape without the batch axis as plain numbers, which are constants in an exported graph."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return tuple(int(size) for size in x.shape[1:])
