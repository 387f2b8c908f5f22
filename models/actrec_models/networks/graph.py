"""Spatial-temporal graph convolution (ST-GCN, Yan et al. 2018), the block that the graph networks share."""

import numpy as np
import torch
from torch import Tensor, nn

from actrec.skeleton import layouts


def partition(layout: str) -> Tensor:
    """The normalised adjacencies A_k of Eq. 3 under ST-GCN's spatial configuration partition.

    Args:
        layout: Name of a skeleton layout with V joints.

    Returns:
        [3, V, V] float32: neighbours as far from the root as the joint (itself), nearer, farther. Columns are divided
        by the joint's degree, self-loop counted, as ST-GCN's `normalize_digraph` does.
    """
    skeleton = layouts.get(layout)
    count = len(skeleton)
    hop = np.array([_hops_to_root(skeleton.parents, v) for v in range(count)])
    adjacency = np.eye(count, dtype=np.float32)
    for a, b in skeleton.edges:
        adjacency[a, b] = adjacency[b, a] = 1.0
    adjacency /= adjacency.sum(axis=0, keepdims=True)
    difference = hop[:, None] - hop[None, :]  # [source, target]
    groups = (difference == 0, difference < 0, difference > 0)
    return torch.from_numpy(np.stack([np.where(group, adjacency, 0.0) for group in groups]).astype(np.float32))


def _hops_to_root(parents: tuple[int, ...], v: int) -> int:
    hops = 0
    while parents[v] != v:
        v, hops = parents[v], hops + 1
    return hops


class GraphConvolution(nn.Module):
    """DeepActsNet Eq. 3: f_out = Σ_k W_k (f_in A_k) ∘ M_k.

    Args:
        channels_in, channels_out: C_in and C_out of W_k.
        adjacency: A, [K_v, V, V].
    """

    adjacency: Tensor

    def __init__(self, channels_in: int, channels_out: int, adjacency: Tensor):
        super().__init__()
        self.register_buffer("adjacency", adjacency)
        self.mask = nn.Parameter(torch.ones_like(adjacency))  # M_k
        self.weight = nn.Conv2d(channels_in, channels_out * len(adjacency), kernel_size=1)  # W_k, all k at once

    def forward(self, f_in: Tensor) -> Tensor:
        """(N, C_in, T, V) to (N, C_out, T, V)."""
        n, _, t, v = f_in.shape
        k = self.adjacency.shape[0]
        f = self.weight(f_in)  # (N, K·C, T, V)
        f = f.reshape(n, k, -1, v)  # (N, K, C·T, V)
        f = torch.matmul(f, self.adjacency * self.mask).sum(dim=1)  # (N, C·T, V)
        return f.reshape(n, -1, t, v)  # (N, C, T, V)


class GraphBlock(nn.Module):
    """Graph convolution, then convolution over time, with a residual connection.

    Args:
        channels_in, channels_out: Feature channels.
        adjacency: A, [K_v, V, V].
        stride: Of the temporal convolution.
        kernel: Temporal kernel size, odd.
        dropout: After the temporal convolution.
        residual: Whether the block's input is added to its output.
    """

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
        self.residual = self._shortcut(channels_in, channels_out, stride) if residual else None

    @staticmethod
    def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module:
        if channels_in == channels_out and stride == 1:
            return nn.Identity()
        return nn.Sequential(
            nn.Conv2d(channels_in, channels_out, kernel_size=1, stride=(stride, 1)), nn.BatchNorm2d(channels_out)
        )

    def forward(self, f_in: Tensor) -> Tensor:
        """(N, C_in, T, V) to (N, C_out, T / stride, V)."""
        f = self.temporal(self.spatial(f_in))
        if self.residual is not None:
            f = f + self.residual(f_in)
        return torch.relu(f)
