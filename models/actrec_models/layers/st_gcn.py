"""Spatial-temporal graph convolution (ST-GCN, Yan et al., AAAI 2018), the block of the graph networks."""

import torch
from torch import Tensor, nn

from actrec.skeleton import layouts
from actrec_models.layers import sizes


def adjacency(layout: str) -> Tensor:
    """Return A_t of Eq. 2, [V, V]: 1 where a bone connects two joints of the layout, 0 otherwise."""
    skeleton = layouts.get(layout)
    matrix = torch.zeros(len(skeleton), len(skeleton))
    for a, b in skeleton.edges:
        matrix[a, b] = matrix[b, a] = 1.0
    return matrix


def partition(layout: str, sets: int = 1) -> Tensor:
    """Return the normalized adjacencies A_k of Eq. 3 under ST-GCN's spatial configuration partition.

    Returns:
        [3, sets·V, sets·V] of `sets` unconnected skeletons: neighbors as far from the root as the joint (itself),
        nearer, farther. Columns are divided by the joint's degree with its self-loop (`normalize_digraph`).
    """
    parents = layouts.get(layout).parents
    hop = torch.tensor([_hops_to_root(parents, v) for v in range(len(parents))])
    linked = adjacency(layout) + torch.eye(len(parents))
    linked = linked / linked.sum(dim=0, keepdim=True)
    difference = hop[:, None] - hop[None, :]  # [source, target]
    groups = (difference == 0, difference < 0, difference > 0)
    return torch.stack([torch.block_diag(*[linked * group] * sets) for group in groups])


def _hops_to_root(parents: tuple[int, ...], v: int) -> int:
    hops = 0
    while parents[v] != v:
        v, hops = parents[v], hops + 1
    return hops


class GraphConvolution(nn.Module):
    """DeepActsNet Eq. 3: f_out = Σ_k W_k (f_in A_k) ∘ M_k, with A [K_v, V, V]."""

    adjacency: Tensor

    def __init__(self, channels_in: int, channels_out: int, adjacency: Tensor):
        super().__init__()
        self.register_buffer("adjacency", adjacency)
        self.subsets = len(adjacency)  # K_v
        self.mask = nn.Parameter(torch.ones_like(adjacency))  # M_k
        self.weight = nn.Conv2d(channels_in, channels_out * len(adjacency), kernel_size=1)  # W_k, all k at once

    def forward(self, f_in: Tensor) -> Tensor:
        """Map (N, C_in, T, V) to (N, C_out, T, V)."""
        f = self.weight(f_in)  # (N, K·C, T, V)
        channels, t, v = sizes(f)
        k, c = self.subsets, channels // self.subsets
        f = f.reshape(-1, k, c * t, v).transpose(1, 2).reshape(-1, c * t, k * v)  # (N, C·T, K·V)
        f = torch.matmul(f, (self.adjacency * self.mask).reshape(k * v, v))  # (N, C·T, V), summed over k
        return f.reshape(-1, c, t, v)  # (N, C, T, V)


class GraphBlock(nn.Module):
    """Graph convolution, then convolution over time with an odd `kernel`, with a residual connection."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        adjacency: Tensor,
        stride: int = 1,
        kernel: int = 9,
        dropout: float = 0.0,
        residual: bool = True,
    ):
        super().__init__()
        self.spatial = GraphConvolution(channels_in, channels_out, adjacency)
        self.temporal = nn.Sequential(
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, (kernel, 1), (stride, 1), (kernel // 2, 0)),
            nn.BatchNorm2d(channels_out),
            nn.Dropout(dropout),
        )
        self.residual: nn.Module | None = nn.Identity() if residual else None
        if residual and (channels_in != channels_out or stride != 1):
            self.residual = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, kernel_size=1, stride=(stride, 1)), nn.BatchNorm2d(channels_out)
            )

    def forward(self, f_in: Tensor) -> Tensor:
        """Map (N, C_in, T, V) to (N, C_out, T / stride, V)."""
        f = self.temporal(self.spatial(f_in))
        if self.residual is not None:
            f = f + self.residual(f_in)
        return torch.relu(f)


def present(value: Tensor) -> Tensor:
    """Return (N, 1): 0 for samples of (N, …) that are all zero, such as an absent stream, else 1."""
    return (value.flatten(1).abs().amax(dim=1, keepdim=True) > 0).to(value.dtype)
