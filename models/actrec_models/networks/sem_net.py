"""SEM-Net (Shi et al., "What and Where", 2021): the semantic perspective, a transformer over joints.

SEM-blocks (Fig. 5) of global-regularized cross-frame self-attention (Eq. 2–7, Fig. 3) and a multi-scale temporal
feed-forward layer (Fig. 4). The paper gives no widths; these reproduce every size of its Tables 1 and 2 together.

Readings, choices where the paper is silent or ambiguous:

- **Widths.** Not given; solved from Tables 1 and 2. k=9 − k=3 gives Σ C_out² = 0.68 M and Σ (positions · C_out²) =
  0.78 G: 23 frames on average (M = 2, V = 25, one FLOP per multiply-add). (3,5,7,9) − d=(1,3,5,7) confirms branches
  of C/4. A search over 5 million combinations gave the rest. Chosen: T = 256; blocks of 64, 128, 128, 256, 256, 512,
  512 with temporal strides 2, 2, 1, 2, 1, 2, 1; S = 6; C_e = 16. Parameters are within 1 %, GFLOPs within 7 % of
  every row (within 2 % with Eq. 6 as it stands).
- **Eq. 6's sums.** f1 and f2 are linear, so they act once on the mean frame: same values, 0.5 G of 7.4 less.
- **Sum or mean, β.** A sum over τ saturates the softmax as T grows. The mean is taken and β, "a parameter used to
  balance", is learned per head from 1 (the paper's β is this / T²). α̂ starts at 0.
- **GR.** Eq. 7 redefines α: α̂ is added inside σ and divided by √C_e.
- **Heads.** Eq. 2 and 4 aggregate x itself, without a value projection; the S results (S·C_in) are concatenated and
  mapped to C_out.
- **Residuals, norms.** Fig. 5 shows only residuals. One around attention with its linear layer, one around MS-TFF:
  1×1 convolution if channels change, every second frame at stride 2. Batch norm after each convolution but f1 and f2,
  ReLU after each half and after MS-TFF's 1×1 convolution. Coordinates are batch-normalized per joint as in ST-GCN,
  alike for both bodies. No stem.
- **MS-TFF.** "Split … into B branches through a 1×1 convolutional layer": a C→C convolution whose outputs are
  divided. k=3 and k=9 are B = 1 and keep it: without it k=3 − (3,5,7,9) would be 0.3 M parameters, the paper's is 1.1
  M. The stride is in the branches.
- **SEM-fuse.** Logits are log(softmax a + softmax b); each stream has its own cross-entropy, so they learn apart. The
  default is the joint stream (Tables 1, 2).
- **Second body.** Mean of the M bodies' features (2s-AGCN); the input of an absent body is zero.
- **SHREC'17 hands.** Centered on the window's mean palm, divided by wrist to middle finger, not turned, because
  swipes have a side. The root's bone is its place (`root_bone: origin`), or the bone stream would not get the hand's
  path (training loss of the bone stream, sixteenth epoch: 1.46 without, 0.67 with; joints 0.76 and 0.71).
- **SHREC'17 axes.** Half a turn about z from the optical frame, because its images are mirrored: as published, right
  hands curl to the palm's side.
- **14 and 28 classes.** The shipped packages are one network on the 28, whose probabilities are summed by gesture;
  `papers/sem_spa:9` trains one for each column, as the paper.
- **Cross-setup.** "Odd setup IDs for training" is taken as a slip: the dataset trains on the even ones.
- **Training.** "In the supplement", not at hand: AdamW, one cycle, 80 epochs, averaged weights, gradients clipped at
  1, augmented clips, dropout 0.1 in SEM-Net. NTU: to 1e-3, batch 64, 8 s windows. SHREC'17: SEM-Net to 2e-3, SPA-Net
  to 1e-3 with labels smoothed by 0.1, batch 32, clips stretched.
- **SEM+SPA.** Trained alone, then 5 epochs together at a tenth of the rate; the paper does not say.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from actrec.features.skeleton import HAND_PREPROCESSING, SkeletonPreprocessing
from actrec.features.specs import InputSpec
from actrec.skeleton import layouts
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError
from actrec_models.layers import sizes
from actrec_models.networks.base import Network, cross_entropy

MODALITIES = {
    "joint": ("body",),
    "bone": ("bones",),
    "fuse": ("body", "bones"),
    "motion": ("body_motion", "bones_motion"),
    "four": ("body", "bones", "body_motion", "bones_motion"),
}


@dataclass(frozen=True)
class SemNetConfig:
    """Options of `sem_net`; the defaults are the paper's."""

    num_classes: int = setting(60, "classes", range=(1, 100_000))
    frames: int = setting(256, "T, frames of a clip", range=(1, 1000))
    bodies: int = setting(2, "M, bodies of a clip; their features are averaged", range=(1, 8))
    layout: str = setting(
        "kinect_v2_25", "joints: NTU's 25 of a body, or SHREC'17's 22 of a hand", choices=("kinect_v2_25", "hand_22")
    )
    streams: str = setting(
        "joint",
        "Table 3: joints, bones, or the sum of both softmaxes; beyond it, both's motion, or the sum of all four",
        choices=tuple(MODALITIES),
    )
    channels: tuple[int, ...] = setting((64, 128, 128, 256, 256, 512, 512), "C_out of each block")
    strides: tuple[int, ...] = setting((2, 2, 1, 2, 1, 2, 1), "over time, of each block's feed-forward layer")
    heads: int = setting(6, "S, attention heads of a block", range=(1, 64))
    embedding: int = setting(16, "C_e, channels of f1 and f2", range=(1, 1024))
    attention: str = setting(
        "cross_frame", "Table 1: Eq. 2–3, Eq. 4–5 or Eq. 6", choices=("unified", "single_frame", "cross_frame")
    )
    global_regularization: bool = setting(True, "Eq. 7's α̂ of each pair of joints, learned")
    beta: float = setting(1.0, "β of Eq. 7 to start from, learned a head", range=(0.0, 1000.0))
    kernels: tuple[int, ...] = setting((3, 3, 3, 3), "Table 2: temporal kernel of each branch, odd")
    dilations: tuple[int, ...] = setting((1, 3, 5, 7), "Table 2: temporal dilation of each branch")
    dropout: float = setting(0.0, "in each block", range=(0.0, 0.9))
    label_smoothing: float = setting(0.0, "of each stream's cross-entropy", range=(0.0, 0.9))


class GrCfsa(nn.Module):
    """S heads of global-regularized cross-frame self-attention, side by side.

    f1 and f2 are linear, so that the sums over τ of Eq. 6 are taken before them: Σ_τ f(x_τ) = T · f(mean_τ x_τ), and
    the T² goes into β.

    Args:
        channels_in: C_in.
        joints: N of the paper, V here.
        options: Options of the network.
    """

    def __init__(self, channels_in: int, joints: int, options: SemNetConfig):
        super().__init__()
        self.heads, self.embedding = options.heads, options.embedding
        self.mode = options.attention
        self.scale = 1 / math.sqrt(options.embedding)
        self.f1 = nn.Conv2d(channels_in, options.heads * options.embedding, kernel_size=1)
        self.f2 = nn.Conv2d(channels_in, options.heads * options.embedding, kernel_size=1)
        self.beta = nn.Parameter(torch.full((options.heads, 1, 1), float(options.beta)))
        self.alpha_hat = (
            nn.Parameter(torch.zeros(options.heads, joints, joints)) if options.global_regularization else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, T, V) to the heads' outputs, concatenated: (N, S·C, T, V)."""
        if self.mode == "unified":
            return self._unified(x)
        if self.mode == "single_frame":
            return self._single_frame(x)
        c, t, v = sizes(x)
        weights = self.weights(x.mean(dim=2, keepdim=True))  # (N, S, V, V): the same for all frames
        y = torch.matmul(x.reshape(-1, 1, c * t, v), weights.transpose(-1, -2))  # Eq. 4: (N, S, C·T, V)
        return y.reshape(-1, self.heads * c, t, v)  # (N, S·C, T, V)

    def _single_frame(self, x: Tensor) -> Tensor:
        """Compute Eq. 4 and 5: every joint attends to the joints of its own frame."""
        c, t, v = sizes(x)
        frames = x.transpose(1, 2).reshape(-1, c, 1, v)  # (N·T, C, 1, V)
        weights = self.weights(frames).transpose(-1, -2)  # (N·T, S, V, V)
        y = torch.matmul(frames.transpose(1, 2), weights).reshape(-1, t, self.heads * c, v)  # (N, T, S·C, V)
        return y.transpose(1, 2)  # (N, S·C, T, V)

    def weights(self, x: Tensor) -> Tensor:
        """Return σ(α / √C_e) of Eq. 7 of the features (N, C, 1, V) of one frame, or the mean frame: (N, S, V, V)."""
        return torch.softmax(self._alpha(x) * self.scale, dim=-1)

    def _alpha(self, x: Tensor) -> Tensor:
        """Return β f1(x)·f2(x)ᵀ + α̂ of all positions of (N, C, T, V): (N, S, T·V, T·V); rows attend to columns."""
        _, t, v = sizes(x)
        f1 = self.f1(x).reshape(-1, self.heads, self.embedding, t * v)  # (N, S, C_e, T·V)
        f2 = self.f2(x).reshape(-1, self.heads, self.embedding, t * v)
        alpha = torch.matmul(f1.transpose(-1, -2), f2) * self.beta
        if self.alpha_hat is None:
            return alpha
        return alpha + (self.alpha_hat if t == 1 else self.alpha_hat.repeat(1, t, t))

    def _unified(self, x: Tensor) -> Tensor:
        """Compute Eq. 2 and 3: every joint of every frame attends to all others."""
        c, t, v = sizes(x)
        weights = self.weights(x).transpose(-1, -2)  # (N, S, T·V, T·V)
        y = torch.matmul(x.reshape(-1, 1, c, t * v), weights)  # (N, S, C, T·V)
        return y.reshape(-1, self.heads * c, t, v)  # (N, S·C, T, V)


class TemporalBranch(nn.Module):
    """One branch of C_out / B channels: a k × 1 convolution over time with a dilation, and its normalization."""

    def __init__(self, channels: int, kernel: int, dilation: int, stride: int):
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv2d(channels, channels, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1))
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, f: Tensor) -> Tensor:
        """Map (N, C, T, V) to (N, C, ⌈T / stride⌉, V)."""
        return self.norm(self.conv(f))


class MultiScaleFeedForward(nn.Module):
    """MS-TFF: a 1×1 convolution splits the channels into B branches, one temporal window each; then concatenated.

    One kernel and dilation per branch; a single branch is the plain TFF of Table 2.
    """

    def __init__(
        self, channels: int, stride: int, kernels: tuple[int, ...], dilations: tuple[int, ...], dropout: float = 0.0
    ):
        super().__init__()
        self.stride = stride
        self.width = channels // len(kernels)
        self.split = nn.Sequential(nn.Conv2d(channels, channels, kernel_size=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.branches = nn.ModuleList(
            TemporalBranch(self.width, k, d, stride) for k, d in zip(kernels, dilations, strict=True)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, T, V) to (N, C, ⌈T / stride⌉, V)."""
        parts = self.split(x).split(self.width, dim=1)  # B × (N, C / B, T, V)
        f = torch.cat([branch(part) for branch, part in zip(self.branches, parts, strict=True)], dim=1)
        if self.stride > 1:
            x = nn.functional.max_pool2d(x, 1, (self.stride, 1))  # of one frame: every `stride`th
        return torch.relu(self.dropout(f) + x)


class SemBlock(nn.Module):
    """Fig. 5: S heads concatenated, a linear layer, MS-TFF; a residual connection around each half."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, joints: int, options: SemNetConfig):
        super().__init__()
        self.attention = GrCfsa(channels_in, joints, options)
        self.linear = _pointwise(options.heads * channels_in, channels_out)
        self.shortcut: nn.Module = (
            nn.Identity() if channels_in == channels_out else _pointwise(channels_in, channels_out)
        )
        self.feed_forward = MultiScaleFeedForward(
            channels_out, stride, options.kernels, options.dilations, options.dropout
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, T, V) to (N, C_out, T / stride, V)."""
        heads = self.attention(x)  # (N, S·C_in, T, V)
        return self.feed_forward(torch.relu(self.linear(heads) + self.shortcut(x)))


def _pointwise(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, kernel_size=1), nn.BatchNorm2d(channels_out))


class SemStream(nn.Module):
    """The stack of SEM-blocks on one modality: (N, M, 3, T, V) to class scores (N, classes)."""

    def __init__(self, options: SemNetConfig):
        super().__init__()
        joints = len(layouts.get(options.layout))
        self.norm = nn.BatchNorm1d(3 * joints)
        sizes_and_strides = zip((3, *options.channels), options.channels, options.strides, strict=False)
        self.blocks = nn.Sequential(*(SemBlock(*block, joints, options) for block in sizes_and_strides))
        self.fc = nn.Linear(options.channels[-1], options.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, M, 3, T, V) to (N, classes)."""
        m, c, t, v = sizes(x)
        f = x.reshape(-1, c, t, v).permute(0, 1, 3, 2).reshape(-1, c * v, t)  # (N·M, C·V, T)
        f = self.norm(f).reshape(-1, c, v, t).permute(0, 1, 3, 2)  # (N·M, C, T, V), each coordinate of a joint alone
        f = self.blocks(f).mean(dim=(2, 3))  # (N·M, C)
        return self.fc(f.reshape(-1, m, self.fc.in_features).mean(dim=1))  # mean of (N, M, C) over M


class SemNet(Network):
    """SEM-Net. Logits of "fuse" are the logarithm of the streams' summed softmaxes."""

    config_class = SemNetConfig
    config: SemNetConfig
    handles_outliers = True

    def __init__(self, **options: object):
        super().__init__(**options)
        _check(self.config)
        self.streams = nn.ModuleDict({name: SemStream(self.config) for name in MODALITIES[self.config.streams]})

    @property
    def input_specs(self) -> list[InputSpec]:
        """One input per stream, (M, 3, T, V) without the batch axis."""
        hand: dict[str, Any] = HAND_PREPROCESSING if self.config.layout == "hand_22" else {}
        options = dataclasses.asdict(SkeletonPreprocessing(**hand))
        shape = (self.config.bodies, 3, self.config.frames, len(layouts.get(self.config.layout)))
        return [
            InputSpec(name, name, self.config.layout, shape, unit="m", preprocessing=options) for name in self.streams
        ]

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return the class scores, (N, classes)."""
        return combine([stream(inputs[name]) for name, stream in self.streams.items()], self.background)

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the summed cross-entropies of the streams, which are trained separately; only scores are fused."""
        scores = {name: stream(batch[name]) for name, stream in self.streams.items()}
        parts = {name: self._loss(score, batch["label"]) for name, score in scores.items()}
        own = parts if len(parts) > 1 else {}
        return {
            "loss": torch.stack(list(parts.values())).sum(),
            "logits": combine(list(scores.values()), self.background),
            **own,
        }

    def _loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(self.with_background(scores), labels, self.config.label_smoothing, self.outlier_weight)


def combine(scores: list[Tensor], background: bool = False) -> Tensor:
    """Return one stream's class scores, or log(softmax(a) + softmax(b) + …) of several: (N, classes).

    With a background class, whose logit is 0 in each stream, they are relative to the sum of its probabilities.
    """
    if len(scores) == 1:
        return scores[0]
    if background:
        total = combine([nn.functional.pad(score, (0, 1)) for score in scores])
        return total[:, :-1] - total[:, -1:]
    total, *others = (torch.log_softmax(score, dim=1) for score in scores)
    for other in others:
        total = torch.maximum(total, other) + torch.log(1 + torch.exp(-(total - other).abs()))
    return total


def _check(options: SemNetConfig) -> None:
    if len(options.channels) != len(options.strides) or not options.channels:
        raise ConfigError(
            f"channels names {len(options.channels)} blocks and strides {len(options.strides)}: one entry a block each"
        )
    if len(options.kernels) != len(options.dilations) or not options.kernels:
        raise ConfigError(
            f"kernels names {len(options.kernels)} branches and dilations {len(options.dilations)}: one entry each"
        )
    if min((*options.channels, *options.strides, *options.kernels, *options.dilations)) < 1:
        raise ConfigError("channels, strides, kernels and dilations must be 1 and more")
    if any(kernel % 2 == 0 for kernel in options.kernels):
        raise ConfigError(f"kernels are {options.kernels}, each must be odd to keep T")
    uneven = [c for c in options.channels if c % len(options.kernels)]
    if uneven:
        raise ConfigError(f"{uneven[0]} channels cannot be split into {len(options.kernels)} branches")
