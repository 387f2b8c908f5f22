"""Shapes as plain numbers."""

import warnings

import torch
from torch import Tensor


def sizes(x: Tensor) -> tuple[int, ...]:
    """What stands behind the batch axis, as plain numbers: an exported graph then holds constants, no arithmetic."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return tuple(int(size) for size in x.shape[1:])
