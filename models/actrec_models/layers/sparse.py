"""Sparse convolution and sparse max-pooling (SEM-Net and SPA-Net, Eq. 9 and 10) as gathers and matrix products.

Which points are neighbors is found outside the network (`actrec.features.voxels`), so that shapes are static and
the graph holds no search. Rows of the tables count from 1; row 0 reads as zeros.

`PaddedNeighborhood` reads the padded tables directly, for export. `points.Points` drops the padding of a whole batch,
for training; its features are (points, C).
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from actrec.features.voxels import offsets


class Neighborhood(Protocol):
    """What the layers ask of a level's neighborhood."""

    def convolve(self, f: Tensor, weight: Tensor) -> Tensor:
        """Σ of Eq. 9 over the neighbors but the center."""

    def temporal_neighbors(self, f: Tensor, branch: int, branches: int, channels: int) -> Tensor:
        """Return the points in the same voxel, earlier and later by a branch's dilation."""

    def pool(self, f: Tensor, channels: int) -> Tensor:
        """Eq. 10, from the level below."""

    def mean(self, f: Tensor) -> Tensor:
        """Global average pooling over the points that are there."""


class PaddedNeighborhood(NamedTuple):
    """Who is whose neighbor on one level. Sizes are plain numbers, so that an exported graph holds them as constants.

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

    def convolve(self, f: Tensor, weight: Tensor) -> Tensor:
        """Σ of Eq. 9 over the neighbors but the center, weight (positions, C, C′): (N, P, C) to (N, P, C′)."""
        positions, c, c_out = weight.shape
        w = functional.embedding(self.kernel.clamp(0, positions - 1), weight.flatten(1))
        w = w.reshape(-1, c, c_out)  # (N, Q, C·C′) -> (N·Q, C, C′)
        x = rows(f, self.tiles, self.points).reshape(-1, self.size, c)  # (N, Q·B, C) -> (N·Q, B, C)
        products = torch.matmul(x, w).reshape(-1, self.pairs, c_out)  # (N·Q, B, C′) -> (N, Q·B, C′)
        addends = rows(products, self.sums, self.pairs)  # (N, P·J, C′)
        return addends.reshape(-1, self.points, self.addends, c_out).sum(dim=2)  # (N, P, J, C′) -> (N, P, C′)

    def temporal_neighbors(self, f: Tensor, branch: int, branches: int, channels: int) -> Tensor:
        """Return the points in the same voxel, earlier and later by a branch's dilation: (N, P, C) to (N, P, 2·C)."""
        assert self.times is not None
        times = self.times.reshape(-1, self.points, branches, 2)[:, :, branch]  # (N, P, 2)
        return rows(f, times.flatten(1), self.points).reshape(-1, self.points, 2 * channels)

    def pool(self, f: Tensor, channels: int) -> Tensor:
        """Eq. 10: F_out(i) = max F_in(j) over the points j of the level below in i's voxel; (N, P, C) to (N, P, C)."""
        children = rows(f, self.cells, self.points)  # (N, P·8, C)
        return children.reshape(-1, self.points, 8, channels).amax(dim=2)

    def mean(self, f: Tensor) -> Tensor:
        """Global average pooling over the points that are there: (N, P, C) to (N, C)."""
        weight = self.present.to(f.dtype).unsqueeze(1)  # (N, 1, P)
        weight = weight / weight.sum(dim=2, keepdim=True).clamp(min=1.0)
        return torch.matmul(weight, f).squeeze(1)


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
        self.center = int((relative == 0).all(axis=1).argmax())
        self.weight = nn.Parameter(
            torch.empty(len(relative), channels_in, channels_out)
        )  # W, in the order of `offsets`
        # As a linear layer of the center alone: most of the window is empty.
        nn.init.uniform_(self.weight, -(channels_in**-0.5), channels_in**-0.5)

    def forward(self, f: Tensor, near: "Neighborhood") -> Tensor:
        """(N, P, C) to (N, P, C′)."""
        return torch.matmul(f, self.weight[self.center]) + near.convolve(f, self.weight)


class PointNorm(nn.BatchNorm1d):
    """Batch normalization over the points that are there."""

    def forward(self, f: Tensor) -> Tensor:
        """(points, C), or (N, P, C) whose absent rows have no meaning afterwards: then from the running statistics."""
        if f.ndim == 2:
            return super().forward(f)
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

    def forward(self, f: Tensor, near: "Neighborhood") -> Tensor:
        """(N, P, C) to (N, P, C)."""
        f = torch.relu(self.split_norm(self.split(f)))
        scales = []
        for b, (branch, part) in enumerate(zip(self.branches, f.split(self.width, dim=-1), strict=True)):
            around = near.temporal_neighbors(part, b, len(self.branches), self.width)  # (N, P, 2·C / B): earlier, later
            scales.append(branch(torch.cat([around, part], dim=-1)))
        return self.norm(torch.cat(scales, dim=-1))
