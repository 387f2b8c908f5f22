"""The multi-scale temporal feed-forward layer of SEM-Net (Fig. 4), which SPA-Net's blocks use in like form."""

import torch
from torch import Tensor, nn

from actrec_models.layers.common import sizes


class TemporalBranch(nn.Module):
    """One branch: a convolution over time that keeps the channels, k × 1 with a dilation, and its normalization.

    Args:
        channels: C_out / B.
        kernel, dilation, stride: Over time.
        causal: Whether it looks back only. Its last output then is about the last frame.
    """

    def __init__(self, channels: int, kernel: int, dilation: int, stride: int, causal: bool):
        super().__init__()
        self.kernel, self.dilation, self.stride, self.causal = kernel, dilation, stride, causal
        reach = dilation * (kernel - 1)
        self.conv = nn.Conv2d(
            channels, channels, (kernel, 1), (stride, 1), (0 if causal else reach // 2, 0), (dilation, 1)
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, f: Tensor) -> Tensor:
        """(N, C, T, V) to (N, C, ⌈T / stride⌉, V)."""
        if self.causal:
            first = last_aligned(sizes(f)[1], self.stride)
            f = nn.functional.pad(f, (0, 0, self.dilation * (self.kernel - 1) - first, 0))
        return self.norm(self.conv(f))


def last_aligned(frames: int, stride: int) -> int:
    """Return the first of every `stride`th frame such that the last frame is among them."""
    return (frames - 1) % stride


class MultiScaleFeedForward(nn.Module):
    """MS-TFF: a 1×1 convolution splits the channels into B branches, one temporal window each; then concatenated.

    Args:
        channels: In and out.
        stride: Over time.
        kernels, dilations: Of each branch; one branch is the plain TFF of Table 2.
        causal: Whether it looks back only.
        dropout: On the branches' outputs.
    """

    def __init__(
        self,
        channels: int,
        stride: int,
        kernels: tuple[int, ...],
        dilations: tuple[int, ...],
        causal: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.stride, self.causal = stride, causal
        self.width = channels // len(kernels)
        self.split = nn.Sequential(nn.Conv2d(channels, channels, kernel_size=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.branches = nn.ModuleList(
            TemporalBranch(self.width, k, d, stride, causal) for k, d in zip(kernels, dilations, strict=True)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, V) to (N, C, ⌈T / stride⌉, V)."""
        f = torch.cat([branch(part) for branch, part in zip(self.branches, self.parts(x), strict=True)], dim=1)
        return torch.relu(self.dropout(f) + self.shortcut(x))

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the branches' inputs: B × (N, C / B, T, V)."""
        return self.split(x).split(self.width, dim=1)

    def shortcut(self, x: Tensor) -> Tensor:
        """Return the frames of (N, C, T, V) that outputs are about."""
        if self.stride == 1:
            return x
        if self.causal:
            x = x[:, :, last_aligned(sizes(x)[1], self.stride) :]
        return nn.functional.max_pool2d(x, 1, (self.stride, 1))  # of one frame: every `stride`th
