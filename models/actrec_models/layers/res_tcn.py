"""Res-TCN, the Res-BJCN that mirrors it over joints, and the joints' informativeness.

Kim & Reiter, "Interpretable 3D Human Action Analysis with Temporal Convolutional Networks", CVPR workshops 2017;
Magoulianitis & Psaltis, "Learning Scene Flow With Skeleton Guidance For 3D Action Recognition", Section 3.1.
"""

import torch
from torch import Tensor, nn

from actrec_models.layers import glorot

LAYERS = ((1, 1), (1, 1), (1, 1), (1, 1), (2, 2), (2, 1), (2, 1), (4, 2), (4, 1), (4, 1))
"""(multiple of the base width, stride) of Res-TCN's layers: 64 ×4, 128 ×3, 256 ×3."""

BOTTOM = 4  # BJCN-1 to BJCN-4 come before the first stride: their rows are still the joints'
PLANES = 3  # planes of motion: x, y and z of a joint are successive rows
SMOOTHING = 5  # Res-BJCN sees every fifth frame
DROPOUT = 0.5
SCORES = ("1", "2", "3", "4", "sum")  # which bottom layer of Res-BJCN the score is drawn from (Table 2)


class Unit(nn.Module):
    """One term of Eq. 1: X^(l) = X^(l−1) + W^l * max(0, X^(l−1)), with batch normalization before the maximum.

    N_{l−1} and N_l channels, filter length f_l; a convolution of size 1 adapts X^(l−1) to another size.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, dropout: float):
        super().__init__()
        self.norm = nn.BatchNorm1d(channels_in)
        self.dropout = nn.Dropout(dropout)
        self.conv = Convolution(channels_in, channels_out, kernel, stride)
        plain = channels_in == channels_out and stride == 1
        self.downsample = nn.Identity() if plain else Convolution(channels_in, channels_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, L) to (N, C_out, L / stride)."""
        return self.downsample(x) + self.conv(self.dropout(torch.relu(self.norm(x))))


class Convolution(nn.Module):
    """1-D convolution to the length of the input, divided by the stride.

    A filter of even length reaches one element farther ahead than back, as in Keras for an input of even length.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1):
        super().__init__()
        # PyTorch pads both ends alike: with one more at each, the first output must be dropped.
        self.surplus = int(kernel % 2 == 0 and stride == 1)
        self.filters = nn.Conv1d(channels_in, channels_out, kernel, stride, (kernel - 1) // 2 + self.surplus)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, L) to (N, C_out, L / stride)."""
        return self.filters(x)[:, :, self.surplus :]


class Branch(nn.Module):
    """Res-TCN without its classifier: Eq. 1 along the last axis, the first `depth` of `LAYERS`."""

    def __init__(self, channels: int, width: int, kernel: int, dropout: float, depth: int = len(LAYERS)):
        super().__init__()
        widths = [width * multiple for multiple, _ in LAYERS[:depth]]
        self.first = Convolution(channels, width, kernel)
        self.units = nn.ModuleList(
            Unit(before, after, kernel, stride, dropout)
            for before, after, (_, stride) in zip(widths, widths[1:], LAYERS[1:], strict=False)
        )
        self.channels = widths[-1]

    def forward(self, x0: Tensor) -> list[Tensor]:
        """X^(1), X^(2), … of X^(0) (N, C, L), each (N, N_l, L / strides)."""
        layers = [self.first(x0)]
        for unit in self.units:
            layers.append(unit(layers[-1]))
        return layers


class Pooling(nn.Module):
    """The activations of a branch's last layer, averaged along the last axis; without dropout in Res-TCN's own code."""

    def __init__(self, channels: int, dropout: float = 0.0):
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, L) to (N, C)."""
        return self.dropout(torch.relu(self.norm(x))).mean(dim=2)


class ResTcn(nn.Module):
    """Res-TCN up to its average pooling, on a joint map of `rows` 3·K."""

    def __init__(self, rows: int, width: int = 64, dropout: float = DROPOUT, last_dropout: float = 0.0):
        super().__init__()
        self.tcn = Branch(rows, width, kernel=8, dropout=dropout)
        self.pool_tcn = Pooling(self.tcn.channels, last_dropout)
        self.channels = self.tcn.channels
        self.apply(glorot)

    def forward(self, x0: Tensor) -> Tensor:
        """Map X^(0) (N, 3·K, frames) to (N, 256)."""
        return self.pool_tcn(self.tcn(x0)[-1])


class ResBjcn(nn.Module):
    """Res-BJCN on N `frames`: the first `depth` of `LAYERS`; the score needs the bottom alone."""

    def __init__(self, frames: int, width: int = 128, dropout: float = DROPOUT, depth: int = BOTTOM):
        super().__init__()
        self.smooth = nn.Conv2d(1, 1, kernel_size=1, stride=(1, SMOOTHING))
        self.bjcn = Branch(-(-frames // SMOOTHING), width, kernel=1, dropout=dropout, depth=depth)
        self.apply(glorot)
        nn.init.ones_(self.smooth.weight)  # one number: at random it might hide the joints

    def joints(self, x0: Tensor) -> list[Tensor]:
        """Return BJCN-1, BJCN-2, … of X^(0) (N, 3·K, frames), each (N, N_l, 3·K): the movements of each row."""
        x = self.smooth(x0.unsqueeze(1)).squeeze(1)  # (N, 3·K, frames / 5)
        return self.bjcn(x.transpose(1, 2))  # (N, frames / 5, 3·K)


class TwoBranches(ResBjcn):
    """Fig. 1 without the softmax layer: Res-TCN over time, Res-BJCN over joints, FC-256 and FC-512 concatenated.

    `rows` is 3·K; N `frames` a multiple of 4, so that both strides meet an even length; `width` the filters of
    Res-TCN's first layer: Res-BJCN has twice as many in every layer.
    """

    def __init__(self, rows: int, frames: int, width: int = 64, dropout: float = DROPOUT):
        super().__init__(frames, 2 * width, dropout, depth=len(LAYERS))
        tcn, bjcn = 4 * width, self.bjcn.channels
        self.res_tcn = ResTcn(rows, width, dropout, last_dropout=dropout)  # "after all activation layers"
        self.pool_bjcn = Pooling(bjcn, dropout)
        self.fc_tcn = nn.Linear(tcn, tcn).apply(glorot)  # FC-256
        self.fc_bjcn = nn.Linear(bjcn, bjcn).apply(glorot)  # FC-512
        self.dropout = nn.Dropout(dropout)
        self.channels = tcn + bjcn

    def forward(self, x0: Tensor) -> tuple[Tensor, list[Tensor]]:
        """FC-768 (N, 768) of X^(0) (N, 3·K, frames), and the layers of Res-BJCN."""
        layers = self.joints(x0)
        bjcn = torch.softmax(self.fc_bjcn(self.pool_bjcn(layers[-1])), dim=1)  # (N, 512)
        tcn = torch.relu(self.fc_tcn(self.res_tcn(x0)))  # (N, 256)
        return self.dropout(torch.cat([tcn, bjcn], dim=1)), layers


def l1_norm(module: nn.Module) -> Tensor:
    """Return Σ |w| over the weights of all convolutions."""
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv1d | nn.Conv2d)]
    return torch.stack([c.weight.abs().sum() for c in convolutions]).sum()


def informativeness(layers: list[Tensor], layer: str, x0: Tensor) -> Tensor:
    """Return the informativeness of each joint (N, K) by Eq. 2, linearly normalized to [0, 1] over the detected joints.

    Args:
        layers: X^(1) to X^(4) of Res-BJCN, each (N, N_l, 3·K); further ones are ignored.
        layer: l, "1" to "4", or "sum" of these four.
        x0: The joint map X^(0) (N, 3·K, frames); joints of an absent body are 0.
    """
    x = torch.stack(layers[:BOTTOM]).sum(dim=0) if layer == "sum" else layers[int(layer) - 1]
    rows = x.sum(dim=1)  # (N, 3·K): over j
    score = rows.reshape(rows.shape[0], -1, PLANES).sum(dim=2)  # (N, K): over i = 3k … 3k + 2
    detected = x0.reshape(x0.shape[0], -1, PLANES * x0.shape[2]).abs().amax(dim=2) > 0
    low, high = score.amin(dim=1, keepdim=True), score.amax(dim=1, keepdim=True)
    lowest = torch.where(detected, score, high).amin(dim=1, keepdim=True)
    highest = torch.where(detected, score, low).amax(dim=1, keepdim=True)
    return ((score - lowest) / ((highest - lowest).clamp(min=0) + 1e-5)).clamp(0, 1)
