"""HCN (Li et al., IJCAI 2018, Fig. 3): co-occurrence features of joints and of their motion, Table 1's comparison."""

import torch
from torch import Tensor, nn

from actrec_models.layers.graph import present

POOLED = 16
"""Four poolings halve time and channels each."""


class Hcn(nn.Module):
    """Joints of M bodies to class scores (N, classes), zero for an input that is all zero.

    Args:
        num_classes: Outputs.
        frames: T; at least 16, four poolings halve it.
        joints: V.
        width: Multiple of the published channels (64, 32, 32, 64, 128, 256; fc7 256).
        dropout: After conv4, conv5, conv6 and fc7; 0.5 as published.
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
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

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
    """Makes the joints the channels, so that the next convolution sees all of them at once."""

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
    """[T, T] that takes joints over time to their motion.

    Differences of neighboring frames, stretched from T − 1 back to T by linear interpolation, as one matrix.
    """
    difference = torch.eye(frames)[1:] - torch.eye(frames)[:-1]  # (T - 1, T)
    stretched = nn.functional.interpolate(difference.T[None], size=frames, mode="linear", align_corners=False)
    return stretched[0].T.contiguous()  # (T, T)
