"""VPN: video-pose network (Das et al., ECCV 2020): the VPN layer on I3D or 3D ResNeXt-101, and its loss (Eq. 5).

The pose backbone's h* gives attention weights A_S, A_T (Eq. 2), whose coupling A_ST modulates the visual feature map:
f′ = f + A_ST·f. A spatial embedding (Eq. 3, 4), used in training only, aligns f with the poses.

Readings, choices where the paper is silent or ambiguous:

- **e_ij = β.** Every unconnected pair: literally, all 276 pairs of 25 joints that are no bone. The authors' first
  code gives β to six pairs, 0 to the rest.
- **Eq. 1.** No bias, no activation. W_t is 3 × 64 for each t; E is the same at every t.
- **Residual with the original poses.** Poses pass a 1×1 convolution from 3 to 64 channels and are added; the authors'
  code concatenates.
- **The three convolutions.** 3×3 over (t_p, J), padding 1, batch norm, ReLU. 2×2 max pools follow the second and
  third, as the authors' code; unpooled, Eq. 2's maps would have 24.6 M parameters, against "one-third parameters
  compared to [P-I3D]". h* is the last map: 128·5·6 = 3840 at t_p = 20.
- **W_h1, W_h2.** 256 and 128 outputs, as the authors' code. W_z starts random, not zero as there: z_1 = 0 leaves the
  direction of T_p z_1, and Eq. 4, undefined.
- **t_c, m × n.** I3D's `Mixed_5c`: 8 and 7 × 7; ResNeXt's last stage: 4 and 4 × 4.
- **LSTM pose backbone "following [8]".** Sizes from P-I3D: three layers, h* of all poses' states, 512 units
  (`lstm_units`; N-UCLA 128), trained end to end.
- **Without coupler.** "Dissociated" weights, "equivalent to the separable STA model [8]": f + A_S·f and f + A_T·f
  concatenated, pooled, classified (2·1024 inputs).
- **Spatial attention only (Table 4).** f′ = f + inflate(A_S)·f; Eq. 6 without its second sum.
- **f_s.** Σ over t_c of f, flattened: D_v = m·n·c (50,176 with I3D); "global" means in time. D_p = m·n. D_e = 256, as
  the authors' code.
- **Embedding in the authors' code** differs; the text is followed. There dense layers with sigmoids map all of f, and
  A_S instead of z_1, to 256 values without a norm; L_e is their squared Manhattan distance, weighted 0.01 to 0.99.
- **‖T_v‖₂ = ‖T_p‖₂ = 1.** The largest singular value; T is divided by it at use, with gradient. Eq. 4 normalizes
  again, so the norm matters for the KL losses alone.
- **KL alternatives.** Softmax over D_e makes f_e and P_e distributions. D_KL(p‖q) fixes p and teaches q, as
  distillation [15]: "the feedback is in one direction"; the sum goes both ways.
- **Eq. 4–6.** Means over the batch, sums within a clip; ‖A_S(j)‖₂ is an absolute value. Without embedding (Tables 1,
  4) λ1 = 1: L = L_C + λ2·L_a; the backbone alone has L_C.
- **`attention=none` with an embedding** is refused: there is no z_1.
- **ResNeXt-101 input.** 64 frames of 112 × 112, as Hara et al.'s network; [−1, 1] becomes 0..255 less ActivityNet's
  mean inside the network.
- **Window.** 64 consecutive frames are 2.13 s at 30 Hz. The paper max-pools clips without a count: three
  half-overlapping clips in 128 frames (4.27 s), `max`.
- **"Fully convolutional inference in space".** The crop is scaled to the training size and scored once, without
  corner crops or flips; A_S has m·n outputs, so a larger image is impossible.
- **Body.** Crop and poses are of body 0; another person in NTU's interactions is visible only inside this crop.
- **Poses.** t_p even frames, normalized as elsewhere (authors' code: minus the first frame's spine); always
  `kinect_v2_25`, to which Smarthome's and N-UCLA's are converted.
- **Training.** SGD, 30 epochs, 0.01 × 0.1 each 10 epochs, batches of 16. I3D from ImageNet and Kinetics-400 (`--init`).
- **"Can be pre-trained for the action classification task" (l1).** Stage `visual`: backbone and classifier on the
  crops with L_C alone, at 0.01, for the 7 and 12 epochs of the checkpoints that the authors' code names for NTU-60 and
  120 (Smarthome: 12). The VPN layer keeps this classifier; that code has a new one. N-UCLA's backbone is NTU-60's.
- **Augmentation, momentum, weight decay.** Not given: random clips, crops neither moved nor mirrored; 0.9; none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from actrec.features.specs import InputSpec, WindowSpec
from actrec.skeleton import layouts
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError
from actrec_models.layers.cnn3d import NORM_MOMENTUM, InceptionI3d, ResNext3d, image_spec, pose_spec
from actrec_models.networks.base import Network, cross_entropy

GCN_CHANNELS = 64
CONV_CHANNELS = (64, 64, 128)
LSTM_LAYERS = 3
HIDDEN = (256, 128)  # outputs of W_h1 and W_h2; the paper does not give them
EMBEDDINGS = ("euclidean", "kl_visual_pose", "kl_pose_visual", "kl_bidirectional", "none")
ATTENTIONS = ("coupled", "dissociated", "spatial", "none")


@dataclass(frozen=True)
class VpnLayerConfig:
    """Options of the VPN layer; the defaults are the paper's for NTU."""

    poses: int = setting(20, "t_p, poses of a clip (30 on Smarthome, 5 on N-UCLA)", range=(4, 64))
    pose_backbone: str = setting("gcn", "what makes h* of the poses (Tables 2 and 4)", choices=("gcn", "lstm"))
    lstm_units: int = setting(512, "of each LSTM layer, for pose_backbone lstm (128 on N-UCLA)", range=(1, 4096))
    attention: str = setting("coupled", "how A_S and A_T modulate f (Tables 1, 2 and 4)", choices=ATTENTIONS)
    embedding: str = setting("euclidean", "L_e (Tables 1, 3 and 4)", choices=EMBEDDINGS)
    alpha: float = setting(5.0, "α, e_ij of joints that are connected", range=(0.0, 100.0))
    beta: float = setting(2.0, "β, e_ij of joints that are not", range=(0.0, 100.0))
    embedding_size: int = setting(256, "D_e, dimensions of the common space", range=(1, 4096))


class Attention(NamedTuple):
    """Output of the attention network."""

    z_1: Tensor  # (N, m·n), latent spatial attention vector
    A_S: Tensor  # (N, m·n) spatial weights, each 0..1
    A_T: Tensor | None  # (N, t_c) temporal weights that sum to 1; None if attention is spatial only


def normalized_adjacency(layout: str, alpha: float, beta: float) -> Tensor:
    """D^{-1/2} (E + I) D^{-1/2} of Eq. 1, [J, J]: e_ij is α for connected joints, β for others, e_ii is 0."""
    skeleton = layouts.get(layout)
    E = torch.full((len(skeleton), len(skeleton)), beta, dtype=torch.float32)
    for i, j in skeleton.edges:
        E[i, j] = E[j, i] = alpha
    E.fill_diagonal_(0.0)
    weights = E + torch.eye(len(skeleton))
    scale = weights.sum(dim=1).rsqrt()  # D^{-1/2}
    return scale[:, None] * weights * scale[None, :]


class PoseGraphs(nn.Module):
    """Eq. 1: f_t⁺ = D^{-1/2} (E + I) D^{-1/2} G_t W_t, t_p graph convolutions, each with its own W_t.

    `adjacency` is D^{-1/2} (E + I) D^{-1/2}, [J, J]; `poses` t_p.
    """

    adjacency: Tensor

    def __init__(self, adjacency: Tensor, poses: int):
        super().__init__()
        self.register_buffer("adjacency", adjacency)
        self.weight = nn.Parameter(torch.empty(poses, 3, GCN_CHANNELS))  # W_t
        for W_t in self.weight:
            nn.init.xavier_uniform_(W_t)

    def forward(self, P: Tensor) -> Tensor:
        """Map (N, 3, t_p, J) to [f_1⁺, …, f_tp⁺], (N, 64, t_p, J)."""
        G = P.permute(0, 2, 3, 1)  # (N, t_p, J, 3)
        f = torch.matmul(torch.matmul(self.adjacency, G), self.weight)  # (N, t_p, J, 64)
        return f.permute(0, 3, 1, 2)  # (N, 64, t_p, J)


class GcnBackbone(nn.Module):
    """Fig. 4 (A): graph convolutions, a residual connection with the poses, three convolutions."""

    def __init__(self, layout: str, options: VpnLayerConfig):
        super().__init__()
        self.graphs = PoseGraphs(normalized_adjacency(layout, options.alpha, options.beta), options.poses)
        self.residual = nn.Conv2d(3, GCN_CHANNELS, kernel_size=1)
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip((GCN_CHANNELS, *CONV_CHANNELS), CONV_CHANNELS, strict=False)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(2)] if i else []
        self.convolutions = nn.Sequential(*layers)
        self.channels = CONV_CHANNELS[-1] * (options.poses // 4) * (len(layouts.get(layout)) // 4)

    def forward(self, P: Tensor) -> Tensor:
        """Map (N, 3, t_p, J) to h*, (N, 128·(t_p / 4)·(J / 4))."""
        h = self.convolutions(self.graphs(P) + self.residual(P))  # (N, 128, t_p / 4, J / 4)
        return h.flatten(1)  # (N, 128·(t_p / 4)·(J / 4))


class LstmBackbone(nn.Module):
    """The pose backbone of l4 and l6 in Table 2: three stacked LSTM layers, as in P-I3D and Separable STA."""

    def __init__(self, layout: str, options: VpnLayerConfig):
        super().__init__()
        self.lstm = nn.LSTM(3 * len(layouts.get(layout)), options.lstm_units, LSTM_LAYERS, batch_first=True)
        self.channels = options.lstm_units * options.poses

    def forward(self, P: Tensor) -> Tensor:
        """Map (N, 3, t_p, J) to h*, the last layer's states of all poses, (N, t_p·units)."""
        x = P.permute(0, 2, 1, 3).flatten(2)  # (N, t_p, 3·J)
        return self.lstm(x)[0].flatten(1)  # (N, t_p·units)


class AttentionNetwork(nn.Module):
    """Pose backbone and Eq. 2: z_r = W_zr tanh(W_hr h* + b_hr) + b_zr, A_S = σ(z_1), A_T = softmax(z_2).

    The feature map has m·n `regions` and t_c `steps`.
    """

    def __init__(self, regions: int, steps: int, layout: str, options: VpnLayerConfig):
        super().__init__()
        backbone = GcnBackbone if options.pose_backbone == "gcn" else LstmBackbone
        self.backbone = backbone(layout, options)
        self.spatial = _latent(self.backbone.channels, HIDDEN[0], regions)
        self.temporal = None if options.attention == "spatial" else _latent(self.backbone.channels, HIDDEN[1], steps)

    def forward(self, P: Tensor) -> Attention:
        """Map poses (N, 3, t_p, J) to attention weights."""
        h = self.backbone(P)  # h*
        z_1 = self.spatial(h)  # (N, m·n)
        A_T = None if self.temporal is None else torch.softmax(self.temporal(h), dim=1)  # (N, t_c)
        return Attention(z_1, torch.sigmoid(z_1), A_T)


def _latent(channels: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, hidden), nn.Tanh(), nn.Linear(hidden, outputs))


class SpatialEmbedding(nn.Module):
    """Eq. 3: f_e = T_v f_s and P_e = T_p z_1, with ‖T_v‖₂ = ‖T_p‖₂ = 1, and the losses of Table 3.

    f_s has D_v `channels`, z_1 has D_p `regions`.
    """

    def __init__(self, channels: int, regions: int, options: VpnLayerConfig):
        super().__init__()
        self.kind = options.embedding
        self.visual = nn.Parameter(torch.empty(options.embedding_size, channels))
        self.pose = nn.Parameter(torch.empty(options.embedding_size, regions))
        nn.init.xavier_uniform_(self.visual)
        nn.init.xavier_uniform_(self.pose)
        self.requires_grad_()

    def requires_grad_(self, requires_grad: bool = True) -> "SpatialEmbedding":
        """As `nn.Module.requires_grad_`, but the fixed side of a one-directional divergence never does."""
        self.visual.requires_grad_(requires_grad and self.kind != "kl_visual_pose")  # DDP would wait for its gradient
        self.pose.requires_grad_(requires_grad and self.kind != "kl_pose_visual")
        return self

    def forward(self, f: Tensor, z_1: Tensor) -> tuple[Tensor, Tensor]:
        """Map f (N, c, t_c, m, n) and z_1 (N, m·n) to f_e and P_e, (N, D_e)."""
        f_s = f.sum(dim=2).flatten(1)  # (N, c·m·n)
        return functional.linear(f_s, unit_norm(self.visual)), functional.linear(z_1, unit_norm(self.pose))

    def loss(self, f: Tensor, z_1: Tensor) -> Tensor:
        """Return L_e, the mean over the batch."""
        f_e, P_e = self(f, z_1)
        if self.kind == "euclidean":  # Eq. 4
            difference = functional.normalize(f_e, dim=1, eps=1e-5) - functional.normalize(P_e, dim=1, eps=1e-5)
            return difference.square().sum(dim=1).mean()
        return {
            "kl_visual_pose": lambda: divergence(f_e, P_e),
            "kl_pose_visual": lambda: divergence(P_e, f_e),
            "kl_bidirectional": lambda: divergence(f_e, P_e) + divergence(P_e, f_e),
        }[self.kind]()


def unit_norm(T: Tensor) -> Tensor:
    """Return T / ‖T‖₂, where ‖T‖₂ is the largest singular value."""
    small = T if T.shape[0] <= T.shape[1] else T.T
    with torch.autocast(T.device.type, enabled=False):
        gram = torch.matmul(small.float(), small.float().T)
        norm = torch.linalg.eigvalsh(gram)[-1].sqrt()
    return T / norm.to(T.dtype)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return D_KL(p‖q) of the softmax distributions of p and q (N, D_e), mean over the batch; only q gets gradients."""
    log_p, log_q = torch.log_softmax(p.detach(), dim=1), torch.log_softmax(q, dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1).mean()


class VpnLayer(nn.Module):
    """VPN on any 3D convolutional network with a feature map of `feature_shape` (c, t_c, m, n)."""

    def __init__(self, feature_shape: tuple[int, int, int, int], options: VpnLayerConfig, layout: str):
        super().__init__()
        c, self.steps, self.m, self.n = feature_shape
        self.kind = options.attention
        self.channels = 2 * c if self.kind == "dissociated" else c
        regions = self.m * self.n
        self.attention = AttentionNetwork(regions, self.steps, layout, options)
        self.embedding = None if options.embedding == "none" else SpatialEmbedding(c * regions, regions, options)

    def forward(self, f: Tensor, P: Tensor) -> tuple[Tensor, Attention]:
        """Map f (N, c, t_c, m, n) and P (N, 3, t_p, J) to f′ (N, c or 2·c, t_c, m, n) and the attention."""
        attention = self.attention(P)
        return self.modulate(f, attention), attention

    def modulate(self, f: Tensor, attention: Attention) -> Tensor:
        """f′ = f + A_ST·f, where A_ST = inflate(A_S) ∘ inflate(A_T) if coupled."""
        A_S = attention.A_S.reshape(-1, 1, 1, self.m, self.n)  # (N, 1, 1, m, n)
        if attention.A_T is None:
            return f + A_S * f
        A_T = attention.A_T.reshape(-1, 1, self.steps, 1, 1)  # (N, 1, t_c, 1, 1)
        if self.kind == "dissociated":
            return torch.cat([f + A_S * f, f + A_T * f], dim=1)  # (N, 2·c, t_c, m, n)
        return f + (A_S * A_T) * f


def attention_regularizer(attention: Attention) -> Tensor:
    """Return L_a of Eq. 6, the mean over the batch."""
    L_a = attention.A_S.abs().sum(dim=1)
    if attention.A_T is not None:
        L_a = L_a + (1 - attention.A_T).square().sum(dim=1)
    return L_a.mean()


LAYOUT = "kinect_v2_25"
RATE_HZ = 30.0  # of NTU's videos, of which a clip is 64 frames


@dataclass(frozen=True)
class VpnConfig(VpnLayerConfig):
    """Options of `vpn_i3d`; the defaults are the paper's for NTU."""

    num_classes: int = setting(60, "classes", range=(1, 100_000))
    frames: int = setting(64, "frames of a clip", range=(8, 256))
    size: int = setting(224, "height and width of the body crop", unit="px", range=(32, 512))
    width: float = setting(1.0, "factor on the visual backbone's channels", range=(0.05, 2.0))
    lambda_1: float = setting(0.8, "λ1, share of L_C against L_e", range=(0.0, 1.0))
    lambda_2: float = setting(1e-5, "λ2, weight of L_a", range=(0.0, 1.0))
    dropout: float = setting(0.3, "before the classifier", range=(0.0, 0.9))
    norm_momentum: float = setting(
        NORM_MOMENTUM, "of the batch norms; after n steps (1 - it)^n of the statistics that they began with is left",
        range=(1e-4, 1.0),
    )  # fmt: skip


@dataclass(frozen=True)
class VpnResnext101Config(VpnConfig):
    """Options of `vpn_resnext101`; its backbone is published for 112 × 112 px."""

    size: int = setting(112, "height and width of the body crop", unit="px", range=(32, 512))
    norm_momentum: float = setting(
        0.1, "share of a batch in the visual backbone's running statistics", range=(1e-4, 1.0)
    )


class Vpn(Network):
    """Visual backbone, VPN layer, classifier."""

    config_class: ClassVar[type] = VpnConfig
    backbone: ClassVar[type[InceptionI3d] | type[ResNext3d]]
    stages = ("visual", "joint")
    _stage = ""

    def __init__(self, **options: Any):
        super().__init__(**options)
        config = self.config
        if config.poses > config.frames:
            raise ConfigError(f"poses is {config.poses}, but a clip has {config.frames} frames to take them from")
        if config.attention == "none" and config.embedding != "none":
            raise ConfigError("without attention there is no z_1 to embed: set embedding to 'none' too")
        self.visual = self.backbone(num_classes=0, width=config.width, momentum=config.norm_momentum)
        shape = self.visual.feature_shape(config.frames, config.size)  # (c, t_c, m, n)
        self.vpn = None if config.attention == "none" else VpnLayer(shape, config, LAYOUT)
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(shape[0] if self.vpn is None else self.vpn.channels, config.num_classes)

    @property
    def input_specs(self) -> list[InputSpec]:
        """The body crop; the poses, unless there is no attention network."""
        config = self.config
        crop = image_spec("body_crop", config.frames, config.size)
        return [crop] if self.vpn is None else [crop, pose_spec(config.poses)]

    @property
    def stage_input_specs(self) -> list[InputSpec]:
        """As in the base class: the visual backbone takes the body crop alone."""
        return self.input_specs[:1] if self._stage == "visual" else self.input_specs

    def stage(self, name: str) -> None:
        """Train the visual backbone and the classifier alone (l1 of Table 1) in stage "visual", everything in others.

        Raises:
            ConfigError: It has no such stage.
        """
        if name not in ("", *self.stages):
            raise ConfigError(f"VPN has no stage '{name}'; it has: {', '.join(self.stages)}")
        self._stage = name
        if self.vpn is not None:
            self.vpn.requires_grad_(name != "visual")
            if self.vpn.embedding is not None:
                self.vpn.embedding.requires_grad_(name != "visual")

    @property
    def window(self) -> WindowSpec:
        """Twice a clip's time, in clips that overlap by half; the maximum probability counts, as in the paper."""
        frames = self.config.frames
        return WindowSpec(2 * frames / RATE_HZ, 2 * frames, frames, frames // 2, "max")

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return the logits (N, classes) of "body_crop" (N, 3, T, H, W) and "pose" (N, 3, t_p, J)."""
        return self._recognize(inputs)[0]

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute Eq. 5: L = λ1·L_C + (1 − λ1)·L_e + λ2·L_a; without L_e, L = L_C + λ2·L_a; in stage "visual", L_C.

        Args:
            batch: The inputs by name, and "label" [N] (−1 takes no part in L_C).

        Returns:
            "loss" L, "logits" [N, classes], "classification" L_C, "embedding" L_e and "attention" L_a.
        """
        if self._stage == "visual":
            f = self.visual.forward_features(batch["body_crop"])
            logits = self._classify(torch.cat([f, f], dim=1) if self.config.attention == "dissociated" else f)
            return {"loss": cross_entropy(logits, batch["label"]), "logits": logits}
        logits, f, attention = self._recognize(batch)
        L_C = cross_entropy(logits, batch["label"])
        L_e = L_a = logits.new_zeros(())
        share = 1.0
        if self.vpn is not None and attention is not None:
            L_a = attention_regularizer(attention)
            if self.vpn.embedding is not None:
                share, L_e = self.config.lambda_1, self.vpn.embedding.loss(f, attention.z_1)
        loss = share * L_C + (1 - share) * L_e + self.config.lambda_2 * L_a
        return {"loss": loss, "logits": logits, "classification": L_C, "embedding": L_e, "attention": L_a}

    def _recognize(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Attention | None]:
        """Return the logits, f and the attention."""
        f = self.visual.forward_features(inputs["body_crop"])  # (N, c, t_c, m, n)
        attended, attention = f, None
        if self.vpn is not None:
            attended, attention = self.vpn(f, inputs["pose"])
        return self._classify(attended), f, attention

    def _classify(self, f: Tensor) -> Tensor:
        """Return the logits (N, classes) of a feature map (N, c or 2·c, t_c, m, n)."""
        return self.fc(self.dropout(f.mean(dim=(2, 3, 4))))  # of (N, c or 2·c)


class VpnI3d(Vpn):
    """VPN on I3D's `Mixed_5c`: (N, 1024, 8, 7, 7) of 64 frames of 224 × 224 px."""

    backbone = InceptionI3d
    weight_targets: Mapping[str, tuple[str, ...]] = {"i3d": ("visual",)}


class VpnResnext101(Vpn):
    """VPN on 3D ResNeXt-101 (Table 5): (N, 2048, 4, 4, 4) of 64 frames of 112 × 112 px."""

    config_class = VpnResnext101Config
    backbone = ResNext3d
    weight_targets: Mapping[str, tuple[str, ...]] = {"resnext3d_101": ("visual",)}
