"""3D convolutional networks on clips, with the parameter names of their PyTorch ports, whose weights they load."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from actrec import features
from actrec.features.skeleton import PosePreprocessing
from actrec.features.specs import InputSpec
from actrec.utils.errors import ConfigError
from actrec_models.layers import Bottleneck, glorot, sizes

# -- I3D ---------------------------------------------------------------------------------------------------------------

INCEPTION_BLOCKS: dict[str, tuple[int, int, int, int, int, int]] = {
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
    "Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "MaxPool3d_3a_3x3", "Mixed_3b", "Mixed_3c",
    "MaxPool3d_4a_3x3", "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f", "MaxPool3d_5a_2x2", "Mixed_5b",
    "Mixed_5c",
)  # fmt: skip
"""The chain of layers, in order; `forward_features` can stop and start after any of them."""

POOLS = {
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
}
"""Kernel and stride in (T, H, W) of the pools between the blocks."""

NORM_MOMENTUM = 0.01  # share of a batch in the batch norms' running statistics, as in the port


def image_spec(name: str, frames: int, size: int) -> InputSpec:
    """Return the spec of an I3D's input (3, T, S, S) in [−1, 1]; `name` is a modality of `actrec.features.crops`."""
    preprocessing = dataclasses.asdict(features.feature(name).config_class())
    return InputSpec(name, name, "kinect_v2_25", (3, frames, size, size), preprocessing=preprocessing)


def pose_spec(poses: int, scope: str = "clip", choice: str = "even") -> InputSpec:
    """Return the spec of the poses (3, t_p, 25) that attend to a clip's images; see `PosePreprocessing`."""
    preprocessing = dataclasses.asdict(PosePreprocessing(scope=scope, choice=choice))
    return InputSpec("pose", "pose", "kinect_v2_25", (3, poses, 25), unit="m", preprocessing=preprocessing)


def scaled(channels: int, width: float) -> int:
    """Return `channels` times `width`, at least two."""
    return max(2, round(channels * width))


def same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> list[tuple[int, int]]:
    """Return the padding of x (N, C, T, H, W) by TensorFlow's "SAME": (before, after) along T, H, W."""
    totals = [max(k - (n % s or s), 0) for n, k, s in zip(sizes(x)[1:], kernel, stride, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]


class MaxPool3dSame(nn.Module):
    """Max pool with "SAME" padding."""

    def __init__(self, kernel: Sequence[int], stride: Sequence[int]):
        super().__init__()
        self.kernel, self.stride = tuple(kernel), tuple(stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, T, H, W) to (N, C, ⌈T/s⌉, ⌈H/s⌉, ⌈W/s⌉).

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
        """Map (N, before, T, H, W) to (N, after, ⌈T/s⌉, ⌈H/s⌉, ⌈W/s⌉)."""
        pads = same(x, self.kernel, self.stride)
        padding = [before for before, _ in pads]
        if any(before != behind for before, behind in pads):  # the first layer, on even sizes
            x = functional.pad(x, [side for pair in reversed(pads) for side in pair])  # the last axis comes first
            padding = [0, 0, 0]
        x = functional.conv3d(x, self.conv3d.weight, self.conv3d.bias, self.stride, padding)
        return x if self.is_logits else functional.relu(self.bn(x))


class InceptionBlock(nn.Module):
    """Four branches side by side, their channels concatenated; `widths` as in `INCEPTION_BLOCKS`."""

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
        """Map (N, before, T, H, W) to (N, channels, T, H, W)."""
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
        if name in INCEPTION_BLOCKS:
            block = InceptionBlock(c, [scaled(w, width) for w in INCEPTION_BLOCKS[name]])
            return block, block.channels
        channels, kernel, stride = {"1a_7x7": (64, 7, 2), "2b_1x1": (64, 1, 1), "2c_3x3": (192, 3, 1)}[name[7:]]
        return Unit3d(c, scaled(channels, width), kernel, stride), scaled(channels, width)

    def feature_shape(self, frames: int, size: int) -> tuple[int, int, int, int]:
        """Return (c, t_c, m, n) of the last block's output for `frames` images of `size` × `size` px."""
        regions = -(-size // 32)  # every halving rounds up
        return self.channels["Mixed_5c"], -(-frames // 8), regions, regions

    def forward_features(self, x: Tensor, until: str = "Mixed_5c") -> Tensor:
        """Return the output of endpoint `until` for x (N, C, T, H, W) in [−1, 1], or the output of `after`.

        It is (N, 1024, T/8, H/32, W/32) at "Mixed_5c" of the full width, each size rounded up at each halving.

        Raises:
            ConfigError: Unknown endpoint.
        """
        for name in chain(self.after, until):
            x = self.get_submodule(name)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes) of x (N, C, T, H, W), averaged over time."""
        pooled = self.dropout(average_pool(self.forward_features(x)))  # (N, C, T'', 1, 1)
        return self.logits(pooled).mean(dim=(2, 3, 4))  # (N, classes)


def average_pool(x: Tensor) -> Tensor:
    """Apply I3D's last pool, over the image and two neighboring steps each: to (N, C, max(T' − 1, 1), 1, 1)."""
    x = x.mean(dim=(3, 4), keepdim=True)  # (N, C, T', 1, 1)
    return functional.avg_pool3d(x, (2, 1, 1), stride=1) if sizes(x)[1] > 1 else x


def chain(after: str, until: str) -> tuple[str, ...]:
    """Return the endpoints after `after` (from the first one if it is empty) up to `until`.

    Raises:
        ConfigError: Unknown endpoint.
    """
    for name in (after, until):
        if name and name not in ENDPOINTS:
            raise ConfigError(f"I3D has no endpoint '{name}'; known: {', '.join(ENDPOINTS)}")
    start = ENDPOINTS.index(after) + 1 if after else 0
    return ENDPOINTS[start : ENDPOINTS.index(until) + 1]


# -- 3D ResNeXt-101 ----------------------------------------------------------------------------------------------------

RESNEXT_BLOCKS = (3, 4, 23, 3)  # bottlenecks in each of ResNeXt-101's four stages
CARDINALITY = 32
ACTIVITYNET_MEAN = (114.7748, 107.7354, 99.4750)
"""Mean red, green and blue of ActivityNet's images, 0..255, which the port subtracts before its Kinetics networks."""

RESNEXT_EXPANSION = 2  # channels of a bottleneck's output per channel of its grouped convolution


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
        self.register_buffer("offset", 127.5 - torch.tensor(ACTIVITYNET_MEAN).reshape(3, 1, 1, 1), persistent=False)
        stem = max(1, round(64 * width))
        self.conv1 = nn.Conv3d(3, stem, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(stem)
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        planes = [2 * stem * 2**stage for stage in range(4)]
        self.channels = stem
        for number, (channels, blocks) in enumerate(zip(planes, RESNEXT_BLOCKS, strict=True), start=1):
            self.add_module(f"layer{number}", _stage(self.channels, channels, blocks, stride=1 if number == 1 else 2))
            self.channels = RESNEXT_EXPANSION * channels
        self.fc = nn.Linear(self.channels, num_classes) if num_classes else None
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm3d):
                module.momentum = momentum

    def feature_shape(self, frames: int, size: int) -> tuple[int, int, int, int]:
        """Return (c, t_c, m, n) of the feature map of `frames` images of `size` × `size` px."""
        regions = -(-size // 32)  # every halving rounds up; conv1 keeps time
        return self.channels, -(-frames // 16), regions, regions

    def forward_features(self, x: Tensor) -> Tensor:
        """Map (N, 3, T, H, W) to (N, 2048, T / 16, H / 32, W / 32), the last stage's output."""
        x = 127.5 * x + self.offset  # 0..255 less the mean, as the port has it
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        for number in range(1, len(RESNEXT_BLOCKS) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, T, H, W) to (N, classes)."""
        assert self.fc is not None, "made without classes: use forward_features"
        return self.fc(self.forward_features(x).mean(dim=(2, 3, 4)))


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    groups = math.gcd(CARDINALITY, channels)  # all 32 at the published width
    shapes = [(channels_in, stride), *[(RESNEXT_EXPANSION * channels, 1)] * (blocks - 1)]
    made = (Bottleneck(before, channels, step, 3, RESNEXT_EXPANSION, groups) for before, step in shapes)
    return nn.Sequential(*made)


# -- C3D ---------------------------------------------------------------------------------------------------------------

C3D_STAGES = (("conv1",), ("conv2",), ("conv3a", "conv3b"), ("conv4a", "conv4b"), ("conv5a", "conv5b"))
"""The convolutions between two poolings."""

C3D_WIDTHS = (1, 2, 4, 8, 8)  # channels of each stage, in multiples of 64


class C3d(nn.Module):
    """Eight convolutions 3×3×3, five max-poolings, fc6 and fc7, and fc8 unless there are no classes.

    Args:
        num_classes: Outputs of fc8; 0 for none, `forward` then returns fc7's features.
        frames, size: T, and height and width of a clip, multiples of 16.
        width: Channels of conv1.
        fc: Neurons of fc6 and fc7.
        dropout: After fc6 and fc7.
    """

    def __init__(
        self, num_classes: int, frames: int = 16, size: int = 112, width: int = 64, fc: int = 4096, dropout: float = 0.5
    ):
        super().__init__()
        channels = 3
        for names, multiple in zip(C3D_STAGES, C3D_WIDTHS, strict=True):
            for name in names:
                setattr(self, name, nn.Conv3d(channels, width * multiple, kernel_size=3, padding=1))
                channels = width * multiple
        self.pool1 = nn.MaxPool3d((1, 2, 2))
        self.pool2 = nn.MaxPool3d(2)
        self.pool3 = nn.MaxPool3d(2)
        self.pool4 = nn.MaxPool3d(2)
        self.pool5 = nn.MaxPool3d(2, ceil_mode=True)  # 7×7 to 4×4, as Caffe, whose weights are used
        edge = -(-size // 32)
        self.fc6 = nn.Linear(channels * (frames // 16) * edge * edge, fc)
        self.fc7 = nn.Linear(fc, fc)
        self.fc8 = nn.Linear(fc, num_classes) if num_classes else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.apply(glorot)

    def forward(self, clip: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
        """Return the logits (N, classes), or fc7's features FC-4096 (N, fc).

        Args:
            clip: (N, 3, T, H, W).
            masks: Empty, or for each stage M (N, 1, l, h, w), which boosts what each of its convolutions yields.
        """
        f = clip
        for stage, names in enumerate(C3D_STAGES):
            for name in names:
                f = torch.relu(getattr(self, name)(f))  # Y (N, c, l, h, w)
                if masks:
                    f = boosted(f, masks[stage])  # F (N, c, l, h, w)
            f = getattr(self, f"pool{stage + 1}")(f)
        f = f.flatten(1)  # (N, c·l·h·w)
        f = self.dropout(torch.relu(self.fc6(f)))
        f = self.dropout(torch.relu(self.fc7(f)))
        return self.fc8(f)


def boosted(y: Tensor, mask: Tensor) -> Tensor:
    """Compute F = (1 + M) * Y, Y (N, c, l, h, w), M (N, 1, l, h, w): Eq. 4 of "… Scene Flow With Skeleton Guidance"."""
    return (1 + mask) * y
