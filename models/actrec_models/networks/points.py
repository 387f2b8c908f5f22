"""The points of a batch without padding, and their neighbours: what SPA-Net is trained on.

The exported graph needs static shapes, so its tables have room for the fullest clip. In training that room would be
computed in vain: here only pairs that exist are multiplied, one matrix product for each relative position.
"""

from typing import Any

import torch
from torch import Tensor

from actrec_models.networks.sparse import Neighbourhood


class GroupedProduct(torch.autograd.Function):
    """Rows (pairs, C) sorted by group, times the group's matrix of (groups, C, C′): (pairs, C′)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, ends: list[int]) -> Tensor:
        """`ends` are the groups' ends among the rows."""
        ctx.save_for_backward(x, weight)
        ctx.ends = ends
        out = x.new_empty(len(x), weight.shape[2])
        for group, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            if end > start:
                torch.mm(x[start:end], weight[group], out=out[start:end])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients of rows and matrices."""
        x, weight = ctx.saved_tensors
        of_x, of_weight, grad = torch.empty_like(x), torch.zeros_like(weight), grad.contiguous()
        for group, (start, end) in enumerate(zip([0, *ctx.ends], ctx.ends, strict=False)):
            if end > start:
                torch.mm(grad[start:end], weight[group].t(), out=of_x[start:end])
                torch.mm(x[start:end].t(), grad[start:end], out=of_weight[group])
        return of_x, of_weight, None


class Points:
    """One level's points of a whole batch, numbered without gaps; features are (points, C).

    Args:
        near: The level's padded tables.
        positions: Relative positions of the kernel.
        below: The level below; None for the first.
    """

    def __init__(self, near: Neighbourhood, positions: int, below: "Points | None"):
        present = near.present.flatten()  # (N·P)
        self.slots = present.nonzero().squeeze(1)  # (points)
        self.count, self.clips = len(self.slots), len(near.present)
        number = torch.cumsum(present, 0) - 1
        # What is nothing reads the row of zeros after the last point.
        self._number = torch.where(present, number, torch.full_like(number, self.count)).reshape(near.present.shape)
        self.clip = self.slots // near.points
        self._source, self._target, self._ends = self._pairs(near, positions)
        self._times = None if near.times is None else self._numbers(near.times.reshape(*near.present.shape, -1))
        self._children = None if below is None else below._numbers(near.cells.reshape(*near.present.shape, 8), self)

    def _numbers(self, table: Tensor, of: "Points | None" = None) -> Tensor:
        """A table (N, P, K) of rows of this level as numbers of its points, for the points of `of`: (points, K)."""
        kept = table.flatten(0, 1)[(of or self).slots]
        clip = (of or self).clip.unsqueeze(1)
        numbers = self._number[clip, (kept - 1).clamp(min=0)]
        return torch.where(kept > 0, numbers, torch.full_like(numbers, self.count))

    def _pairs(self, near: Neighbourhood, positions: int) -> tuple[Tensor, Tensor, list[int]]:
        """Neighbours j and points i of all pairs, sorted by relative position, and where each position's pairs end."""
        sums = near.sums.reshape(-1, near.addends)  # (N·P, J)
        target, slot = sums.nonzero(as_tuple=True)
        clip, pair = target // near.points, sums[target, slot] - 1
        kernel = near.kernel[clip, pair // near.size]
        order = torch.argsort(kernel, stable=True)
        clip, pair = clip[order], pair[order]
        source = self._number[clip, near.tiles[clip, pair] - 1]
        ends = torch.bincount(kernel, minlength=positions).cumsum(0).tolist()
        return source, self._number.flatten()[target[order]], ends

    def convolve(self, f: Tensor, weight: Tensor) -> Tensor:
        """Σ of Eq. 9 over the neighbours but the centre, weight (positions, C, C′): (points, C) to (points, C′)."""
        weight = weight.to(f.dtype)
        products = GroupedProduct.apply(f.index_select(0, self._source), weight, self._ends)
        sums = torch.zeros(self.count, weight.shape[2], dtype=torch.float32, device=f.device)
        return sums.index_add(0, self._target, products.float())

    def around(self, f: Tensor, branch: int, branches: int, channels: int) -> Tensor:
        """The points in the same voxel, earlier and later by a branch's dilation: (points, C) to (points, 2·C)."""
        assert self._times is not None
        index = self._times[:, 2 * branch : 2 * branch + 2].flatten()
        return _with_nothing(f).index_select(0, index).reshape(self.count, 2 * channels)

    def pool(self, f: Tensor, channels: int) -> Tensor:
        """Eq. 10: the largest over the points of the level below in the voxel: (points below, C) to (points, C)."""
        assert self._children is not None
        children = _with_nothing(f).index_select(0, self._children.flatten())
        return children.reshape(self.count, 8, channels).amax(dim=1)

    def mean(self, f: Tensor) -> Tensor:
        """Global average pooling over the points of each clip: (points, C) to (N, C)."""
        sums = torch.zeros(self.clips, f.shape[1], dtype=torch.float32, device=f.device)
        counts = torch.bincount(self.clip, minlength=self.clips).clamp(min=1)
        return sums.index_add(0, self.clip, f.float()) / counts.unsqueeze(1)


def _with_nothing(f: Tensor) -> Tensor:
    """Rows (points, C) and one of zeros."""
    return torch.cat([f, f.new_zeros(1, f.shape[1])])
