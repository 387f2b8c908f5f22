"""Convolutional networks on images, with torchvision's parameter names, whose ImageNet weights they load."""

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from actrec_models.layers import Bottleneck

# -- EfficientNet-B0 ---------------------------------------------------------------------------------------------------

EFFICIENTNET_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
"""(expansion, kernel, stride of the first block, output channels, blocks) of stages 2 to 8 of the paper's Table 1."""

STEM, HEAD = 32, 1280

DROP_PATH = 0.2
"""Greatest probability of skipping a block in training (stochastic depth); it grows from zero block by block."""


class EfficientNetB0(nn.Module):
    """EfficientNet-B0 (Tan & Le, ICML 2019): images (N, 3, H, W) to class scores (N, classes).

    `width` and `depth` are multiples of B0's channels and of its stages' blocks.
    """

    def __init__(self, num_classes: int = 1000, width: float = 1.0, depth: float = 1.0, dropout: float = 0.2):
        super().__init__()
        channels = divisible(STEM * width)
        layers: list[nn.Module] = [convolution(3, channels, 3, stride=2)]
        counts = [math.ceil(stage[-1] * depth) for stage in EFFICIENTNET_STAGES]
        done = 0
        for (expansion, kernel, stride, published, _), count in zip(EFFICIENTNET_STAGES, counts, strict=True):
            blocks: list[nn.Module] = []
            for first in (True, *[False] * (count - 1)):
                after = divisible(published * width)
                drop = DROP_PATH * done / sum(counts)
                blocks.append(MBConv(channels, after, expansion, kernel, stride if first else 1, drop))
                channels, done = after, done + 1
            layers.append(nn.Sequential(*blocks))
        head = divisible(HEAD * width)
        layers.append(convolution(channels, head, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(head, num_classes))
        self.apply(_initialize)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) to (N, classes)."""
        f = self.features(image)  # (N, C, H / 32, W / 32)
        return self.classifier(f.mean(dim=(2, 3)))


class MBConv(nn.Module):
    """Inverted bottleneck with squeeze and excitation: widen, filter each channel, weight the channels, narrow."""

    def __init__(self, before: int, after: int, expansion: int, kernel: int, stride: int, drop: float):
        super().__init__()
        wide = divisible(before * expansion)
        widen = [convolution(before, wide, 1)] if wide != before else []
        self.block = nn.Sequential(
            *widen,
            convolution(wide, wide, kernel, stride, groups=wide),
            SqueezeExcitation(wide, max(1, before // 4)),
            convolution(wide, after, 1, activation=False),
        )
        self.residual = stride == 1 and before == after
        self.drop = StochasticDepth(drop)

    def forward(self, f: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H / stride, W / stride)."""
        out = self.block(f)
        return self.drop(out) + f if self.residual else out


class StochasticDepth(_DropoutNd):
    """Skips the block of some clips in training, with probability `p`."""

    def forward(self, f: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        if not self.training or self.p == 0:
            return f
        kept = torch.rand(len(f), 1, 1, 1, device=f.device, dtype=f.dtype) >= self.p
        return f * kept / (1 - self.p)


class SqueezeExcitation(nn.Module):
    """Weighs each channel by a summary of the whole image."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, f: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        pooled = f.mean(dim=(2, 3), keepdim=True)  # (N, C, 1, 1)
        return f * torch.sigmoid(self.fc2(nn.functional.silu(self.fc1(pooled))))


def convolution(
    before: int, after: int, kernel: int, stride: int = 1, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    """Return a convolution with batch norm and, by default, activation."""
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), *([nn.SiLU()] if activation else []))


def divisible(channels: float) -> int:
    """Return the multiple of 8 next to `channels`, never less than nine tenths of it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        bound = 1 / math.sqrt(module.out_features)
        nn.init.uniform_(module.weight, -bound, bound)
        nn.init.zeros_(module.bias)


# -- ResNet-50 ---------------------------------------------------------------------------------------------------------

RESNET_STAGES = ((1, 3, 1), (2, 4, 2), (4, 6, 2), (8, 3, 2))
"""(multiple of the base width, blocks, stride of the first block) of conv2_x to conv5_x."""

RESNET_EXPANSION = 4


class ResNet50(nn.Module):
    """ResNet-50 (He et al., CVPR 2016): images (N, 3, H, W) to class scores (N, classes).

    `width` and `depth` are multiples of the published 64 base channels and of the stages' blocks.
    """

    def __init__(self, num_classes: int = 1000, width: float = 1.0, depth: float = 1.0, dropout: float = 0.0):
        super().__init__()
        base = max(4, round(64 * width))
        self.conv1 = nn.Conv2d(3, base, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.pool = nn.MaxPool2d(3, 2, 1)
        channels = base
        for number, (multiple, count, stride) in enumerate(RESNET_STAGES, start=1):
            blocks = []
            for step in (stride, *[1] * (math.ceil(count * depth) - 1)):
                blocks.append(Bottleneck(channels, base * multiple, step, axes=2, expansion=RESNET_EXPANSION))
                channels = base * multiple * RESNET_EXPANSION
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) to (N, classes)."""
        f = self.pool(self.bn1(self.conv1(image)).relu())  # (N, C, H / 4, W / 4)
        for number in range(1, len(RESNET_STAGES) + 1):
            f = self.get_submodule(f"layer{number}")(f)
        return self.fc(self.dropout(f.mean(dim=(2, 3))))
