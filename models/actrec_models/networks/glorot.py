"""Glorot & Bengio's initialisation, Keras's default."""

from torch import nn


def glorot(module: nn.Module) -> None:
    """Uniform weights by fan-in and fan-out, and zero biases, of a convolution or linear layer; for `Module.apply`."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
