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


class Bottleneck(nn.Module):
    """Convolutions of size 1, 3 and 1 over `axes` axes with a shortcut; the second has the stride and the groups.

    It is torchvision's (v1.5) for images and the 3D ResNeXt's for clips. `width` is the channels of its second
    convolution, which the third multiplies by `expansion`.
    """

    def __init__(self, before: int, width: int, stride: int, axes: int, expansion: int, groups: int = 1):
        super().__init__()
        conv = nn.Conv2d if axes == 2 else nn.Conv3d
        norm = nn.BatchNorm2d if axes == 2 else nn.BatchNorm3d
        after = expansion * width
        self.conv1 = conv(before, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = conv(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = norm(width)
        self.conv3 = conv(width, after, 1, bias=False)
        self.bn3 = norm(after)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(conv(before, after, 1, stride, bias=False), norm(after))

    def forward(self, f_in: Tensor) -> Tensor:
        """Map (N, before, …) to (N, after, … / stride)."""
        f = self.bn1(self.conv1(f_in)).relu()
        f = self.bn2(self.conv2(f)).relu()
        return (self.bn3(self.conv3(f)) + self.downsample(f_in)).relu()


def sizes(x: Tensor) -> tuple[int, ...]:
    """Return the shape without the batch axis as plain numbers, which are constants in an exported graph."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return tuple(int(size) for size in x.shape[1:])
