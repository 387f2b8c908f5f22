"""Sparse convolution and sparse max-pooling (SEM-Net and SPA-Net, Eq. 9 and 10) as gathers and matrix products.

Which points are neighbours is found outside the network (`actrec.features.voxel_tables`), so that shapes are static and
the graph holds no search. Rows of the tables count from 1; row 0 reads as zeros.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from actrec.features.voxel_tables import offsets


class Neighbourhood(NamedTuple):
    """Who is whose neighbour on one level. Sizes are plain numbers, so that an exported graph holds them as constants.

    Attributes:
        points, size, pairs, addends: P, B, Q·B and J.
        kernel: (N, Q) int64, which W_{R(i) − R(j)} each tile uses.
        tiles: (N, Q·B) int64, the rows F_in(j) of each tile's pairs.
        sums: (N, P·J) int64, the pairs whose products point i adds up.
        times: (N, P·2·D) int64, the rows in the same voxel at t − d and t + d of each dilation d; None in SPA-4D.
        cells: (N, P·8) int64, the rows of the level below that the point pools.
        present: (N, P) bool, False for a slot that holds no point.
    """

    points: int
    size: int
    pairs: int
    addends: int
    kernel: Tensor
    tiles: Tensor
    sums: Tensor
    times: Tensor | None
    cells: Tensor
    present: Tensor


def rows(f: Tensor, index: Tensor, points: int) -> Tensor:
    """Rows of (N, P, C) by an index (N, K) that counts from 1: (N, K, C), zeros for 0.

    Out of range counts as the nearest row, so that no input can read another clip's rows.
    """
    nothing = f.new_zeros(f.shape[0], 1, f.shape[2])
    padded = torch.cat([nothing, f], dim=1).flatten(0, 1)  # (N, 1 + P, C) -> (N·(1 + P), C)
    first = torch.arange(f.shape[0], device=f.device).unsqueeze(1) * (points + 1)
    return functional.embedding(index.clamp(0, points) + first, padded)  # (N, K, C)


class SparseConvolution(nn.Module):
    """Eq. 9: F_out(i) = Σ_{R(j) ∈ B_R(i)} W_{R(i) − R(j)} F_in(j), over space, or over space and time.

    Args:
        channels_in, channels_out: C and C′.
        kernel, temporal: k in space and in time (1: sparse 3D convolution).
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, temporal: int = 1):
        super().__init__()
        relative = offsets(kernel, temporal)
        self.channels, self.positions = (channels_in, channels_out), len(relative)
        self.centre = int((relative == 0).all(axis=1).argmax())
        self.weight = nn.Parameter(
            torch.empty(len(relative), channels_in, channels_out)
        )  # W, in the order of `offsets`
        # As a linear layer of the centre alone: most of the window is empty.
        nn.init.uniform_(self.weight, -(channels_in**-0.5), channels_in**-0.5)

    def forward(self, f: Tensor, near: Neighbourhood) -> Tensor:
        """(N, P, C) to (N, P, C′)."""
        c, c_out = self.channels
        w = functional.embedding(near.kernel.clamp(0, self.positions - 1), self.weight.flatten(1))
        w = w.reshape(-1, c, c_out)  # (N, Q, C·C′) -> (N·Q, C, C′)
        x = rows(f, near.tiles, near.points).reshape(-1, near.size, c)  # (N, Q·B, C) -> (N·Q, B, C)
        products = torch.matmul(x, w).reshape(-1, near.pairs, c_out)  # (N·Q, B, C′) -> (N, Q·B, C′)
        addends = rows(products, near.sums, near.pairs)  # (N, P·J, C′)
        neighbours = addends.reshape(-1, near.points, near.addends, c_out).sum(dim=2)  # (N, P, J, C′) -> (N, P, C′)
        return torch.matmul(f, self.weight[self.centre]) + neighbours


def max_pool(f: Tensor, near: Neighbourhood, channels: int) -> Tensor:
    """Eq. 10: F_out(i) = max F_in(j) over the points j of the level below in i's voxel; (N, P, C) to (N, P, C)."""
    children = rows(f, near.cells, near.points)  # (N, P·8, C)
    return children.reshape(-1, near.points, 8, channels).amax(dim=2)


class PointNorm(nn.BatchNorm1d):
    """Batch normalisation over the points that are there."""

    def forward(self, f: Tensor, present: Tensor) -> Tensor:
        """(N, P, C) of which (N, P) are there; what the other rows hold afterwards has no meaning."""
        if self.training:
            normal = torch.zeros_like(f)
            normal[present] = super().forward(f[present])  # (points, C)
            return normal
        assert self.running_mean is not None and self.running_var is not None
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return f * scale + (self.bias - self.running_mean * scale)


class TemporalConvolution(nn.Module):
    """1D convolution over time, kernel 3, at the same place: the points in the voxel at t − d, t and t + d.

    Multi-scale like MS-TFF (Fig. 4): a 1×1 convolution splits the channels into branches of one dilation each.

    Args:
        channels: In and out, a multiple of the number of branches.
        dilations: d of each branch; a single one is the plain temporal convolution.
    """

    def __init__(self, channels: int, dilations: tuple[int, ...]):
        super().__init__()
        self.width = channels // len(dilations)
        self.split = nn.Linear(channels, channels, bias=False)
        self.split_norm = PointNorm(channels)
        self.branches = nn.ModuleList(nn.Linear(3 * self.width, self.width, bias=False) for _ in dilations)
        self.norm = PointNorm(channels)

    def forward(self, f: Tensor, near: Neighbourhood) -> Tensor:
        """(N, P, C) to (N, P, C)."""
        assert near.times is not None
        f = torch.relu(self.split_norm(self.split(f), near.present))
        times = near.times.reshape(-1, near.points, len(self.branches), 2)  # (N, P, D, 2)
        scales = []
        for b, (branch, part) in enumerate(zip(self.branches, f.split(self.width, dim=2), strict=True)):
            around = rows(part, times[:, :, b].flatten(1), near.points)  # (N, P·2, C / B)
            around = around.reshape(-1, near.points, 2 * self.width)  # (N, P, 2·C / B): earlier, later
            scales.append(branch(torch.cat([around, part], dim=2)))
        return self.norm(torch.cat(scales, dim=2), near.present)
