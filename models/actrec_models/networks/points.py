"""The points of a batch without padding, and their neighbours: what SPA-Net is trained on.

The exported graph needs static shapes, so its tables have room for the fullest clip. In training that room would be
computed in vain: here only pairs that exist are multiplied.
"""

import torch
from torch import Tensor

from actrec_models.networks.pair_products import PairProducts
from actrec_models.networks.pairs import sorted_pairs
from actrec_models.networks.sparse import Neighbourhood


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
        self._pairs = sorted_pairs(near, self._number, positions)
        self._times = None if near.times is None else self._numbers(near.times.reshape(*near.present.shape, -1))
        self._children = None if below is None else below._numbers(near.cells.reshape(*near.present.shape, 8), self)

    def _numbers(self, table: Tensor, of: "Points | None" = None) -> Tensor:
        """A table (N, P, K) of rows of this level as numbers of its points, for the points of `of`: (points, K)."""
        kept = table.flatten(0, 1)[(of or self).slots]
        clip = (of or self).clip.unsqueeze(1)
        numbers = self._number[clip, (kept - 1).clamp(min=0)]
        return torch.where(kept > 0, numbers, torch.full_like(numbers, self.count))

    def convolve(self, f: Tensor, weight: Tensor) -> Tensor:
        """Σ of Eq. 9 over the neighbours but the centre, weight (positions, C, C′): (points, C) to (points, C′)."""
        return PairProducts.apply(f, weight, self._pairs)

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
