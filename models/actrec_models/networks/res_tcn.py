"""Res-TCN, the Res-BJCN that mirrors it over joints, and the joints' informativeness.

Kim & Reiter, "Interpretable 3D Human Action Analysis with Temporal Convolutional Networks", CVPR workshops 2017;
Magoulianitis & Psaltis, "Learning Scene Flow With Skeleton Guidance For 3D Action Recognition", Section 3.1.
"""

import torch
from torch import Tensor, nn

from actrec_models.networks.glorot import glorot

LAYERS = ((1, 1), (1, 1), (1, 1), (1, 1), (2, 2), (2, 1), (2, 1), (4, 2), (4, 1), (4, 1))
"""(multiple of the base width, stride) of Res-TCN's layers: 64 ×4, 128 ×3, 256 ×3."""
BOTTOM = 4
"""BJCN-1 to BJCN-4 come before the first stride: their rows are still the joints'."""
PLANES = 3
"""Planes of motion: x, y and z of a joint are successive rows."""
SMOOTHING = 5
"""Res-BJCN sees every fifth frame."""
DROPOUT = 0.5
SCORES = ("1", "2", "3", "4", "sum")
"""Which bottom layer of Res-BJCN the score is drawn from (Table 2)."""


class Unit(nn.Module):
    """One term of Eq. 1: X^(l) = X^(l−1) + W^l * max(0, X^(l−1)), with batch normalisation before the maximum.

    Args:
        channels_in, channels_out: N_{l−1} and N_l.
        kernel: f_l, the filter's length.
        stride: Of the filter; where it is not 1, a convolution of size 1 takes X^(l−1) along.
        dropout: After the activation.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, dropout: float):
        super().__init__()
        self.norm = nn.BatchNorm1d(channels_in)
        self.dropout = nn.Dropout(dropout)
        self.conv = Convolution(channels_in, channels_out, kernel, stride)
        plain = channels_in == channels_out and stride == 1
        self.downsample = nn.Identity() if plain else Convolution(channels_in, channels_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, L) to (N, C_out, L / stride)."""
        return self.downsample(x) + self.conv(self.dropout(torch.relu(self.norm(x))))


class Convolution(nn.Module):
    """1-D convolution whose output is as long as its input, divided by the stride.

    A filter of even length reaches one element farther ahead than back, as in Keras, where it meets an input of even
    length.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1):
        super().__init__()
        # PyTorch pads both ends alike: with one more at each, the first output is what must go.
        self.surplus = int(kernel % 2 == 0 and stride == 1)
        self.filters = nn.Conv1d(channels_in, channels_out, kernel, stride, (kernel - 1) // 2 + self.surplus)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, L) to (N, C_out, L / stride)."""
        return self.filters(x)[:, :, self.surplus :]


class Branch(nn.Module):
    """Res-TCN without its classifier: Eq. 1 along the last axis.

    Args:
        channels: Of X^(0).
        width: N_1.
        kernel: f_l.
        dropout: After each activation.
    """

    def __init__(self, channels: int, width: int, kernel: int, dropout: float):
        super().__init__()
        widths = [width * multiple for multiple, _ in LAYERS]
        self.first = Convolution(channels, width, kernel)
        self.units = nn.ModuleList(
            Unit(before, after, kernel, stride, dropout)
            for before, after, (_, stride) in zip(widths, widths[1:], LAYERS[1:], strict=False)
        )
        self.norm = nn.BatchNorm1d(widths[-1])
        self.channels = widths[-1]

    def bottom(self, x: Tensor) -> list[Tensor]:
        """X^(1) to X^(4), each (N, N_l, L), of X^(0) (N, C, L)."""
        layers = [self.first(x)]
        for unit in self.units[: BOTTOM - 1]:
            layers.append(unit(layers[-1]))
        return layers

    def top(self, x: Tensor) -> Tensor:
        """X^(4) to the last layer's activations, averaged along the last axis: (N, channels)."""
        for unit in self.units[BOTTOM - 1 :]:
            x = unit(x)
        return torch.relu(self.norm(x)).mean(dim=2)


class TwoBranches(nn.Module):
    """Fig. 1 without the softmax layer: Res-TCN over time, Res-BJCN over joints, FC-256 and FC-512 concatenated.

    Args:
        rows: 3·K.
        frames: N, a multiple of 4, so that both strides meet an even length.
        width: Filters of Res-TCN's first layer; Res-BJCN has twice as many in every layer.
        dropout: After each activation.
        bjcn: Whether Res-BJCN is there; without it this is Res-TCN up to its average pooling.
    """

    def __init__(self, rows: int, frames: int, width: int = 64, dropout: float = DROPOUT, bjcn: bool = True):
        super().__init__()
        self.tcn = Branch(rows, width, kernel=8, dropout=dropout)
        self.channels = self.tcn.channels
        self.bjcn: Branch | None = None
        if bjcn:
            self.smooth = nn.Conv2d(1, 1, kernel_size=1, stride=(1, SMOOTHING))
            self.bjcn = Branch(-(-frames // SMOOTHING), 2 * width, kernel=1, dropout=dropout)
            self.fc_tcn = nn.Linear(self.tcn.channels, self.tcn.channels)  # FC-256
            self.fc_bjcn = nn.Linear(self.bjcn.channels, self.bjcn.channels)  # FC-512
            self.channels += self.bjcn.channels
        self.dropout = nn.Dropout(dropout)
        self.apply(glorot)  # "initialized with Glorot's algorithm"
        if bjcn:
            nn.init.ones_(self.smooth.weight)  # one number: at random it might hide the joints

    def forward(self, x0: Tensor) -> tuple[Tensor, list[Tensor]]:
        """FC-768 (N, 768), and X^(1) to X^(4) of Res-BJCN, each (N, N_l, 3·K), of X^(0) (N, 3·K, N frames)."""
        tcn = self.tcn.top(self.tcn.bottom(x0)[-1])  # (N, 256)
        if self.bjcn is None:
            return tcn, []
        layers = self.joints(x0)
        bjcn = torch.softmax(self.fc_bjcn(self.bjcn.top(layers[-1])), dim=1)  # (N, 512)
        features = torch.cat([torch.relu(self.fc_tcn(tcn)), bjcn], dim=1)  # (N, 768)
        return self.dropout(features), layers

    def joints(self, x0: Tensor) -> list[Tensor]:
        """BJCN-1 to BJCN-4, each (N, N_l, 3·K): the movement of each row over the whole action."""
        assert self.bjcn is not None
        x = self.smooth(x0.unsqueeze(1)).squeeze(1)  # (N, 3·K, frames / 5)
        return self.bjcn.bottom(x.transpose(1, 2))  # (N, frames / 5, 3·K)

    def score_parts(self) -> list[nn.Module]:
        """What BJCN-1 to BJCN-4 are computed with."""
        assert self.bjcn is not None
        return [self.smooth, self.bjcn.first, *self.bjcn.units[: BOTTOM - 1]]

    def l1(self) -> Tensor:
        """Σ |w| over all convolutions that are trained."""
        convolutions = (m for m in self.modules() if isinstance(m, nn.Conv1d | nn.Conv2d))
        weights = [c.weight.abs().sum() for c in convolutions if c.weight.requires_grad]
        return torch.stack(weights).sum()


def informativeness(layers: list[Tensor], layer: str) -> Tensor:
    """Eq. 2: how much each joint's movements tell, linearly normalised to [0, 1] over the joints.

    Args:
        layers: X^(1) to X^(4) of Res-BJCN, each (N, N_l, 3·K).
        layer: l, "1" to "4", or "sum" of all.

    Returns:
        (N, K).
    """
    x = torch.stack(layers).sum(dim=0) if layer == "sum" else layers[int(layer) - 1]
    rows = x.sum(dim=1)  # (N, 3·K): over j
    score = rows.reshape(rows.shape[0], -1, PLANES).sum(dim=2)  # (N, K): over i = 3k … 3k + 2
    low, high = score.amin(dim=1, keepdim=True), score.amax(dim=1, keepdim=True)
    return (score - low) / (high - low + 1e-5)
