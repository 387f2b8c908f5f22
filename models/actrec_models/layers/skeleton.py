"""Networks on joints: spatial-temporal graph convolution (ST-GCN, Yan et al. 2018) and HCN (Li et al., IJCAI 2018)."""

import torch
from torch import Tensor, nn

from actrec.skeleton import layouts
from actrec_models.layers.common import glorot, sizes

# -- ST-GCN ------------------------------------------------------------------------------------------------------------


def adjacency(layout: str) -> Tensor:
    """A_t of Eq. 2, [V, V]: 1 where a bone connects two joints of the layout, 0 otherwise."""
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
        """(N, C_in, T, V) to (N, C_out, T, V)."""
        f = self.weight(f_in)  # (N, K·C, T, V)
        channels, t, v = sizes(f)
        k, c = self.subsets, channels // self.subsets
        f = f.reshape(-1, k, c * t, v).transpose(1, 2).reshape(-1, c * t, k * v)  # (N, C·T, K·V)
        f = torch.matmul(f, (self.adjacency * self.mask).reshape(k * v, v))  # (N, C·T, V), summed over k
        return f.reshape(-1, c, t, v)  # (N, C, T, V)


class GraphBlock(nn.Module):
    """Graph convolution, then convolution over time, with a residual connection.

    Without `padding`, the temporal convolution (odd `kernel`) sees no zeros beyond the clip: the clip gets shorter, and
    the last output is of the last `kernel` frames.
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
        padding: bool = True,
    ):
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.spatial = GraphConvolution(channels_in, channels_out, adjacency)
        self.temporal = nn.Sequential(
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, (kernel, 1), (stride, 1), (kernel // 2 if padding else 0, 0)),
            nn.BatchNorm2d(channels_out),
            nn.Dropout(dropout),
        )
        self.residual: nn.Module | None = nn.Identity() if residual else None
        if residual and (channels_in != channels_out or stride != 1):
            self.residual = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, kernel_size=1, stride=(stride, 1)), nn.BatchNorm2d(channels_out)
            )

    def forward(self, f_in: Tensor) -> Tensor:
        """(N, C_in, T, V) to (N, C_out, T', V); T' = T / stride, or `unpadded_frames`."""
        middle = f_in
        if not self.padding:
            frames, reach = sizes(f_in)[1], self.kernel // 2
            first = (frames - self.kernel) % self.stride  # such that the last output ends with the last frame
            f_in, middle = f_in[:, :, first:], f_in[:, :, first + reach : frames - reach]
        f = self.temporal(self.spatial(f_in))
        if self.residual is not None:
            f = f + self.residual(middle)
        return torch.relu(f)


def unpadded_frames(frames: int, kernel: int, stride: int) -> int:
    """Return the output length of an unpadded temporal convolution over `frames`; below 1 if there are too few."""
    return (frames - kernel) // stride + 1


def present(value: Tensor) -> Tensor:
    """(N, 1): 1 for a sample of (N, …) that holds anything, 0 where all is zero, as an absent stream is."""
    return (value.flatten(1).abs().amax(dim=1, keepdim=True) > 0).to(value.dtype)


# -- HCN ---------------------------------------------------------------------------------------------------------------


POOLED = 16
"""Four poolings halve time and channels each."""


class Hcn(nn.Module):
    """HCN (Fig. 3): joints of M bodies to class scores (N, classes), zero for an input that is all zero.

    Args:
        num_classes: Outputs.
        frames: T, at least 16: four poolings halve it.
        joints: V.
        width: Multiple of the published channels (64, 32, 32, 64, 128, 256; fc7 256).
        dropout: After conv4, conv5, conv6 and fc7.
    """

    to_motion: Tensor

    def __init__(self, num_classes: int, frames: int, joints: int, width: float = 1.0, dropout: float = 0.5):
        super().__init__()
        base = max(16, round(32 * width / 16) * 16)
        self.position = _stream(joints, base, dropout)
        self.motion = _stream(joints, base, dropout)
        self.register_buffer("to_motion", motion_matrix(frames), persistent=False)
        self.conv5 = nn.Sequential(nn.Conv2d(4 * base, 4 * base, 3, padding=1), *_pooled(dropout))
        self.conv6 = nn.Sequential(nn.Conv2d(4 * base, 8 * base, 3, padding=1), *_pooled(dropout))
        flat = 8 * base * (frames // POOLED) * (base // POOLED)
        self.fc7 = nn.Sequential(nn.Linear(flat, 8 * base), nn.ReLU(), nn.Dropout(dropout))
        self.fc8 = nn.Linear(8 * base, num_classes)
        self.apply(glorot)

    def forward(self, joints: Tensor) -> Tensor:
        """(N, M, 3, T, V) to (N, classes)."""
        n, m, c, t, v = joints.shape
        position = joints.reshape(n * m, c, t, v)  # (N·M, C, T, V)
        motion = torch.matmul(self.to_motion, position)  # (N·M, C, T, V)
        f = torch.cat([self.position(position), self.motion(motion)], dim=1)  # (N·M, C, T / 4, W / 4)
        f = self.conv6(self.conv5(f))  # (N·M, C, T / 16, W / 16)
        f = f.reshape(n, m, -1).amax(dim=1)  # the strongest of all bodies, (N, C·T·W)
        return self.fc8(self.fc7(f)) * present(joints)


class _JointsFirst(nn.Module):
    """Swap channels and joints, so that the next convolution sees all joints at once."""

    def forward(self, f: Tensor) -> Tensor:
        return f.permute(0, 3, 2, 1)  # (N, C, T, V) to (N, V, T, C)


def _stream(joints: int, base: int, dropout: float) -> nn.Sequential:
    """conv1 to conv4 of one stream: (N, 3, T, V) to (N, 2·base, T / 4, base / 4)."""
    return nn.Sequential(
        nn.Conv2d(3, 2 * base, 1),  # conv1
        nn.ReLU(),
        nn.Conv2d(2 * base, base, (3, 1), padding=(1, 0)),  # conv2
        _JointsFirst(),
        nn.Conv2d(joints, base, 3, padding=1),  # conv3
        nn.MaxPool2d(2),
        nn.Conv2d(base, 2 * base, 3, padding=1),  # conv4
        nn.MaxPool2d(2),
        nn.Dropout(dropout),
    )


def _pooled(dropout: float) -> list[nn.Module]:
    return [nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(dropout)]


def motion_matrix(frames: int) -> Tensor:
    """Return [T, T]: differences of neighboring frames, stretched from T − 1 to T by linear interpolation."""
    difference = torch.eye(frames)[1:] - torch.eye(frames)[:-1]  # (T - 1, T)
    stretched = nn.functional.interpolate(difference.T[None], size=frames, mode="linear", align_corners=False)
    return stretched[0].T.contiguous()  # (T, T)
