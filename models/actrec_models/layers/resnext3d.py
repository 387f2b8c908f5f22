"""3D ResNeXt-101 (Hara et al., CVPR 2018), the second visual backbone of VPN's Table 5.

Parameters have the names of the widely used `kenshohara/3D-ResNets-PyTorch` (`conv1`, `bn1`, `layer1.0.conv1`, …,
`fc`), so that its Kinetics checkpoints load key for key.
"""

import math

import torch
from torch import Tensor, nn

BLOCKS = (3, 4, 23, 3)
"""Bottlenecks in each of ResNeXt-101's four stages."""

CARDINALITY = 32

MEAN = (114.7748, 107.7354, 99.4750)
"""Mean red, green and blue of ActivityNet's images, 0..255, which the port subtracts before its Kinetics networks."""

EXPANSION = 2
"""Channels of a bottleneck's output per channel of its grouped convolution."""


class Bottleneck(nn.Module):
    """1³ convolution, grouped 3³ convolution, 1³ convolution, with a shortcut of type B.

    Args:
        channels_in: Channels of the input.
        channels: Channels of the grouped convolution, F in the paper; the output has twice as many.
        stride: Of the grouped convolution, in time and space.
    """

    def __init__(self, channels_in: int, channels: int, stride: int = 1):
        super().__init__()
        channels_out = EXPANSION * channels
        groups = math.gcd(CARDINALITY, channels)  # all 32 at the published width
        self.conv1 = nn.Conv3d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm3d(channels)
        self.conv3 = nn.Conv3d(channels, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv3d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm3d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, T, H, W) to (N, 2·C, T / stride, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNext3d(nn.Module):
    """3D ResNeXt-101: RGB in [−1, 1] (N, 3, T, H, W) to class scores; published for T = 64 and H = W = 112.

    Args:
        num_classes: Outputs of `fc`; 0 for the feature map alone, without `fc`.
        width: Factor on all channels (for tests and small machines; 1 is the published network).
        momentum: Of the batch norms.
    """

    offset: Tensor

    def __init__(self, num_classes: int = 400, width: float = 1.0, momentum: float = 0.1):
        super().__init__()
        # Not among the weights, as the port's checkpoints lack it.
        self.register_buffer("offset", 127.5 - torch.tensor(MEAN).reshape(3, 1, 1, 1), persistent=False)
        stem = max(1, round(64 * width))
        self.conv1 = nn.Conv3d(3, stem, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        planes = [2 * stem * 2**stage for stage in range(4)]
        self.layer1 = _stage(stem, planes[0], BLOCKS[0], stride=1)
        self.layer2 = _stage(EXPANSION * planes[0], planes[1], BLOCKS[1], stride=2)
        self.layer3 = _stage(EXPANSION * planes[1], planes[2], BLOCKS[2], stride=2)
        self.layer4 = _stage(EXPANSION * planes[2], planes[3], BLOCKS[3], stride=2)
        self.channels = EXPANSION * planes[3]
        self.fc = nn.Linear(self.channels, num_classes) if num_classes else None
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm3d):
                module.momentum = momentum

    def feature_shape(self, frames: int, size: int) -> tuple[int, int, int, int]:
        """Return (c, t_c, m, n) of the feature map of `frames` images of `size` × `size` px."""
        t, s = _halve(frames), _halve(_halve(size))  # conv1 keeps time; the pool halves all
        for _ in range(3):  # layer2 to layer4
            t, s = _halve(t), _halve(s)
        return self.channels, t, s, s

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, 3, T, H, W) to (N, 2048, T / 16, H / 32, W / 32), the last stage's output."""
        x = 127.5 * x + self.offset  # 0..255 less the mean, as the port has it
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, T, H, W) to (N, classes)."""
        assert self.fc is not None, "made without classes: use forward_features"
        return self.fc(self.forward_features(x).mean(dim=(2, 3, 4)))


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    further = (Bottleneck(EXPANSION * channels, channels) for _ in range(blocks - 1))
    return nn.Sequential(Bottleneck(channels_in, channels, stride), *further)


def _halve(length: int) -> int:
    """Return the output length of a kernel of 3 (or 7) with stride 2 and "same" padding."""
    return (length + 1) // 2
