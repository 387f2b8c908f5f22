"""ResNet-50 (He et al., CVPR 2016), with torchvision's parameter names, so that its ImageNet checkpoints load."""

import math

from torch import Tensor, nn

LAYERS = ((1, 3, 1), (2, 4, 2), (4, 6, 2), (8, 3, 2))
"""(multiple of the base width, blocks, stride of the first block) of conv2_x to conv5_x."""

EXPANSION = 4


class ResNet50(nn.Module):
    """Pictures (N, 3, H, W) to class scores (N, classes).

    Args:
        num_classes: Outputs.
        width, depth: Multiples of the published 64 base channels and of the stages' blocks.
        dropout: Before the classifier; 0 as published.
    """

    def __init__(self, num_classes: int = 1000, width: float = 1.0, depth: float = 1.0, dropout: float = 0.0):
        super().__init__()
        base = max(4, round(64 * width))
        self.conv1 = nn.Conv2d(3, base, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.pool = nn.MaxPool2d(3, 2, 1)
        channels = base
        for number, (multiple, count, stride) in enumerate(LAYERS, start=1):
            blocks = []
            for step in (stride, *[1] * (math.ceil(count * depth) - 1)):
                blocks.append(Bottleneck(channels, base * multiple, step))
                channels = base * multiple * EXPANSION
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, picture: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, classes)."""
        f = self.pool(self.bn1(self.conv1(picture)).relu())  # (N, C, H / 4, W / 4)
        for number in range(1, len(LAYERS) + 1):
            f = self.get_submodule(f"layer{number}")(f)
        return self.fc(self.dropout(f.mean(dim=(2, 3))))


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 with a shortcut; the 3×3 has the stride, as torchvision's has (v1.5)."""

    def __init__(self, before: int, width: int, stride: int):
        super().__init__()
        after = width * EXPANSION
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, f_in: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H / stride, W / stride)."""
        f = self.bn1(self.conv1(f_in)).relu()
        f = self.bn2(self.conv2(f)).relu()
        return (self.bn3(self.conv3(f)) + self.downsample(f_in)).relu()
