"""DeepActsNet (Asif et al., AAAI 2021): convolutional and graph branches on body, bones, hands, face and motion.

One branch per modality (Fig. 3); the scores of all branches are summed before the softmax. An absent modality, whose
input is all zero, adds nothing to the sum.

Readings, choices where the paper is silent or ambiguous:

- **Eq. 3, W_k (f_in A_k) ∘ M_k.** The mask weighs the edges as in ST-GCN: f_in (A_k ∘ M_k). As typeset, M_k ∈ R^{N×N}
  does not fit C×T×N.
- **K_v, A_k.** ST-GCN's spatial partition (three subsets by distance to the root), normalized by degree. The root is
  the spine's base; ST-GCN's code takes the shoulders' center, which exchanges two edges.
- **Graph depth and width.** ST-GCN's ten blocks: 64 ×4, 128 ×3, 256 ×3, temporal kernel 9, stride 2 at the fifth and
  eighth; 3.1 M parameters per branch (packages: 3/8 of the width). Dropout is not given: 0; in ST-GCN's own rows 0.5.
- **Graph input.** Meters divided by the torso length; Eq. 1's 0–255 is for the CNNs alone.
- **"Exponential LR decay with a factor of 0.1".** A smooth fall by 0.1 every 30 epochs (SYSU 100), because 0.1 per
  epoch would end training after three. Epochs are not given: 60 (SYSU 200).
- **T = 60** is the whole window. Its seconds are not given: 5 s live, the stretched clip in the paper's recipe. SYSU:
  T = 200 at 12 Hz, 16.7 s.
- **c_min, c_max of Eq. 1.** One pair per modality over all training clips, joints and channels, stored in checkpoint
  and package; values beyond are clipped. A recipe without them has them measured (`extrema`). The defaults (±4 torso
  lengths, bones ±1.5, motion ±8 torso lengths a second) let untrained networks run. Values are not rounded; the paper
  does not say.
- **Coordinates in Eq. 1.** Normalized ones, as for the graph. The paper maps raw coordinates, which would change with
  camera and distance.
- **W and H.** A row per joint, a column per frame, resized bilinearly from V×T to 224×224; the interpolation is not
  given.
- **2D points.** Hands and face are centered on the body's spine base in pixels and divided by the median torso in
  pixels (`none`: raw pixels, as the paper). Without a torso, the unit is the shoulder width / 0.7, else the spread of
  the points. z = x + y of these.
- **Detectors.** Hands and face are MediaPipe's, in the regions that the body's joints give; the face mesh is reduced to
  the 68 points. The paper trained a Detectron2 estimator on Simon et al.'s hands, and used DLib's face landmarks.
- **SYSU's 25 joints.** "Already provided" in the paper, but the dataset has the Kinect v1's 20. Five are made up: the
  neck (30 % of the way from shoulder center to head), hand tips (as far beyond the hand as the wrist is before it),
  and thumbs (the hand itself); the middle of the spine moves to halfway between hips and shoulders.
- **Optical flow at the joints.** Method and unit are not given: px/s divided by the torso in pixels. Live: scene flow
  projected at the joint's pixel, u̇ = fx (Vx − x/z Vz) / z, median of 3×3. From two images: DIS. A test compares
  both.
- **Missing points** take their parent's place and motion; a hand without a wrist has it amid its other points; an
  absent hand or face is zero in that frame.
- **Missing modalities.** The paper has all five. An input that is all zero adds no score, decided per sample inside
  the graph. A body without any optical flow counts as "no flow". The paper trains without gaps; a network that must
  handle them should be trained on them.
- **Several bodies.** Not given; NTU's recipes use two. Graph: mean of the bodies' features before `fc`, with absent
  ones' input zero. Stamps: mean score of the bodies present. HCN: maximum over bodies after conv6.
- **ImageNet.** Stamps are normalized by ImageNet's mean and deviation inside the network. Pretraining is not
  mentioned: `--init` gives every branch the same checkpoint, else torchvision's initialization.
- **EfficientNet and ResNet.** B0 with dropout 0.2 and stochastic depth 0.2; ResNet-50 is torchvision's v1.5.
- **"Multi-CNN".** EfficientNet and ResNet-50 for each modality beside the graph: 2 × 5 + 5 branches, no shared weights.
- **HCN on DeepActs (Table 1).** Not described: one HCN per modality on joints over time, with its paper's width and
  layers, scores summed; T = 60 instead of its 32. Its motion, the frame difference stretched to T, is one constant
  T×T matrix.
- **ST-GCN, body 3D joints (Table 1).** `deepacts_graph` with one branch.
- **Hand graph.** Two trees of 21 nodes without an edge between them (Fig. 3): A_k is block-diagonal, 42×42.
- **Face graph.** Jaw, brows, nose, eyes and lips are chains (Fig. 3) attached to the nose root (27), so the graph is
  connected and has a root.
- **Table 2.** "Body" is joints, "Motion" optical flow; bones (the root's is zero) are row D, in the text motion.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from actrec.features import feature
from actrec.features.skeleton import HAND_PREPROCESSING
from actrec.features.specs import InputSpec
from actrec.skeleton import layouts
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError
from actrec_models.layers import glorot, sizes
from actrec_models.layers.cnn2d import EfficientNetB0, ResNet50
from actrec_models.layers.st_gcn import GraphBlock, partition, present
from actrec_models.networks.base import Network


@dataclass(frozen=True)
class Joints:
    """Joints of a modality: some sets of one layout's joints, in one unit."""

    layout: str
    sets: int
    unit: str

    def __len__(self) -> int:
        """N, the nodes of the modality's graph."""
        return self.sets * len(layouts.get(self.layout))


MODALITIES = {
    "body": Joints("kinect_v2_25", 1, "m"),
    "bones": Joints("kinect_v2_25", 1, "m"),
    "hands": Joints("hand_21", 2, "px"),
    "face": Joints("face_68", 1, "px"),
    "motion": Joints("kinect_v2_25", 1, "px/s"),
}
"""The five parts of Deep Action Stamps (Fig. 2 A, C, B, D, E): N = 25, 25, 42, 68, 25."""

MOTION_MODALITIES = {name: Joints("kinect_v2_25", 1, "m") for name in ("body_motion", "bones_motion")}
"""Beyond the paper, for the graph network and HCN: the motion of each joint and bone since the last frame."""

HAND_MODALITIES = ("body", "bones", *MOTION_MODALITIES)  # modalities of a clip of a hand
IMAGE_NETWORKS = ("efficientnet_b0", "resnet50")


@dataclass(frozen=True)
class DeepActsOptions:
    """Options of all networks of the family."""

    num_classes: int = setting(60, "classes", range=(1, 100_000))
    modalities: tuple[str, ...] = setting(
        tuple(MODALITIES),
        f"one branch a modality: {', '.join(MODALITIES)}; beyond the paper: {', '.join(MOTION_MODALITIES)}",
    )
    frames: int = setting(60, "T, frames of a clip (200 on SYSU)", range=(1, 1000))
    bodies: int = setting(1, "M, bodies of a clip, averaged", range=(1, 8))
    layout: str = setting(
        "kinect_v2_25",
        "joints of body and bones: 25 of a body, or, beyond the paper and with no other modality, 22 of a hand",
        choices=("kinect_v2_25", "hand_22"),
    )


@dataclass(frozen=True)
class JointOptions(DeepActsOptions):
    """Options of the networks on joints over time."""

    pitch_deg: float = setting(
        0.0, "downward angle of the axes, see `SkeletonPreprocessing`", unit="deg", range=(-90.0, 90.0)
    )


@dataclass(frozen=True)
class DeepActsGraphConfig(JointOptions):
    """Options of `deepacts_graph`; the defaults are the paper's."""

    width: int = setting(64, "channels of the first block", range=(4, 512))
    kernel: int = setting(9, "temporal kernel of a block, odd", range=(1, 31))
    dropout: float = setting(0.0, "in each block of the graph network", range=(0.0, 0.9))


@dataclass(frozen=True)
class CnnOptions(DeepActsOptions):
    """Options of the convolutional branches."""

    size: int = setting(224, "width and height of a stamp", unit="px", range=(32, 1024))
    cnn_width: float = setting(1.0, "multiple of the convolutional networks' published channels", range=(0.05, 4.0))
    cnn_depth: float = setting(1.0, "multiple of their published blocks a stage; HCN has none", range=(0.05, 4.0))
    cnn_dropout: float | None = setting(
        None, "in the convolutional networks; none: as each was published (0.2, 0, HCN 0.5)", range=(0.0, 0.9)
    )
    extrema: dict = setting({}, "modality to [c_min, c_max] of Eq. 1; see actrec.features.stamps.extrema")


@dataclass(frozen=True)
class DeepActsCnnConfig(CnnOptions, JointOptions):
    """Options of `deepacts_cnn`; the defaults are the paper's."""

    cnn: str = setting(
        "efficientnet_b0", "the branches' network: on stamps, or HCN on joints", choices=(*IMAGE_NETWORKS, "hcn")
    )


@dataclass(frozen=True)
class DeepActsConfig(DeepActsCnnConfig, DeepActsGraphConfig):
    """Options of `deepacts`; the defaults are the paper's."""


@dataclass(frozen=True)
class DeepActsMultiConfig(CnnOptions, DeepActsGraphConfig):
    """Options of `deepacts_multi`; the defaults are the paper's."""

    cnns: tuple[str, ...] = setting(IMAGE_NETWORKS, f"networks on stamps: {', '.join(IMAGE_NETWORKS)}")


def check_choice(name: str, chosen: tuple[str, ...] | list[str], known: tuple[str, ...]) -> None:
    """Raise `ConfigError` for an empty choice, an unknown one and a repeated one."""
    if not chosen or not set(chosen) <= set(known) or len(set(chosen)) < len(chosen):
        raise ConfigError(f"{name} is {', '.join(chosen) or 'empty'}; choose from {', '.join(known)}, each once")


def modality_joints(options: DeepActsOptions, modality: str) -> Joints:
    """Return the joints of a modality.

    Raises:
        ConfigError: A clip of a hand does not have it.
    """
    joints = {**MODALITIES, **MOTION_MODALITIES}[modality]
    if options.layout == "kinect_v2_25":
        return joints
    if modality not in HAND_MODALITIES:
        raise ConfigError(f"a clip of {options.layout} has no {modality}: set modalities to [body, bones]")
    return dataclasses.replace(joints, layout=options.layout)


def graph_specs(options: JointOptions) -> list[InputSpec]:
    """Return an input (M, 3, T, N) per modality: joints over time, for the graph network and HCN."""
    pitch, specs = options.pitch_deg, []
    for name in options.modalities:
        joints = modality_joints(options, name)
        shape = (options.bodies, 3, options.frames, len(joints))
        specs.append(_spec(name, joints, shape, {"pitch_deg": pitch} if pitch else {}))
    return specs


def stamp_specs(options: CnnOptions) -> list[InputSpec]:
    """Return a Deep Action Stamp (M, 3, size, size) per modality, with Eq. 1's extrema in its preprocessing.

    Raises:
        ConfigError: `extrema` names an unknown modality, or is not a pair in order; a modality has no stamp.
    """
    if moved := [name for name in options.modalities if name in MOTION_MODALITIES]:
        raise ConfigError(f"there is no stamp of {moved[0]}: choose from {', '.join(MODALITIES)}, or cnn: hcn")
    foreign = sorted(set(options.extrema) - set(MODALITIES))
    if foreign:
        raise ConfigError(f"extrema names {', '.join(map(str, foreign))}; known: {', '.join(MODALITIES)}")
    shape = (options.bodies, 3, options.size, options.size)
    return [
        _spec(
            f"{name}_stamp",
            modality_joints(options, name),
            shape,
            {"frames": options.frames, **_extrema(options, name)},
        )
        for name in options.modalities
    ]


def _extrema(options: CnnOptions, name: str) -> dict[str, float]:
    if name not in options.extrema:
        return {}
    try:
        low, high = (float(value) for value in options.extrema[name])
    except (TypeError, ValueError):
        low = high = 0.0
    if not low < high:
        raise ConfigError(f"extrema: {name} is {options.extrema[name]}, expected [c_min, c_max], the smaller first")
    return {"minimum": low, "maximum": high}


def _spec(modality: str, joints: Joints, shape: tuple[int, ...], preprocessing: dict[str, Any]) -> InputSpec:
    hand = HAND_PREPROCESSING if joints.layout == "hand_22" else {}
    chosen = dataclasses.asdict(feature(modality).config_class(**hand, **preprocessing))
    return InputSpec(modality, modality, joints.layout, shape, unit=joints.unit, preprocessing=chosen)


LAYERS = ((1, 1), (1, 1), (1, 1), (1, 1), (2, 2), (2, 1), (2, 1), (4, 2), (4, 1), (4, 1))
"""(multiple of the base width, temporal stride) of ST-GCN's ten blocks: 64 ×4, 128 ×3, 256 ×3 at base width 64."""

HCN_POOLING = 16  # four poolings halve time and channels each

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class GraphBranch(nn.Module):
    """ST-GCN on one modality: (N, M, 3, T, V) to class scores (N, classes), zero for an input that is all zero."""

    def __init__(self, options: Any, joints: Joints):
        super().__init__()
        adjacency = partition(joints.layout, joints.sets)
        self.norm = nn.BatchNorm1d(3 * len(joints))
        widths = [options.width * multiple for multiple, _ in LAYERS]
        self.blocks = nn.Sequential(
            *(
                GraphBlock(before, after, adjacency, stride, options.kernel, options.dropout, layer > 0)
                for layer, (before, after, (_, stride)) in enumerate(zip([3, *widths], widths, LAYERS, strict=False))
            )
        )
        self.fc = nn.Linear(widths[-1], options.num_classes)

    def forward(self, f_in: Tensor) -> Tensor:
        """Map (N, M, 3, T, V) to (N, classes)."""
        m, c, t, v = sizes(f_in)
        f = f_in.reshape(-1, c, t, v)  # (N·M, C, T, V)
        f = f.permute(0, 3, 1, 2).reshape(-1, v * c, t)  # (N·M, V·C, T): each coordinate of each joint is normalized
        f = self.norm(f).reshape(-1, v, c, t).permute(0, 2, 3, 1)  # (N·M, C, T, V)
        f = self.blocks(f).mean(dim=(2, 3))  # global average pool: (N·M, C)
        f = f.reshape(-1, m, self.fc.in_features).mean(dim=1)  # mean of (N, M, C) over M
        return self.fc(f) * present(f_in)


class Hcn(nn.Module):
    """HCN (Fig. 3): joints of M bodies to class scores (N, classes), zero for an input that is all zero.

    Args:
        num_classes: Outputs.
        frames: T, at least 16: four poolings halve it.
        joints: V.
        width: Multiple of the published channels (64, 32, 32, 64, 128, 256; fc7 256).
        dropout: After conv4, conv5, conv6 and fc7.
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
        flat = 8 * base * (frames // HCN_POOLING) * (base // HCN_POOLING)
        self.fc7 = nn.Sequential(nn.Linear(flat, 8 * base), nn.ReLU(), nn.Dropout(dropout))
        self.fc8 = nn.Linear(8 * base, num_classes)
        self.apply(glorot)

    def forward(self, joints: Tensor) -> Tensor:
        """Map (N, M, 3, T, V) to (N, classes)."""
        n, m, c, t, v = joints.shape
        position = joints.reshape(n * m, c, t, v)  # (N·M, C, T, V)
        motion = torch.matmul(self.to_motion, position)  # (N·M, C, T, V)
        f = torch.cat([self.position(position), self.motion(motion)], dim=1)  # (N·M, C, T / 4, W / 4)
        f = self.conv6(self.conv5(f))  # (N·M, C, T / 16, W / 16)
        f = f.reshape(n, m, -1).amax(dim=1)  # the strongest of all bodies, (N, C·T·W)
        return self.fc8(self.fc7(f)) * present(joints)


class _JointsFirst(nn.Module):
    """Swap channels and joints, so that the next convolution sees all joints at once."""

    def forward(self, f: Tensor) -> Tensor:
        return f.permute(0, 3, 2, 1)  # (N, C, T, V) to (N, V, T, C)


def _stream(joints: int, base: int, dropout: float) -> nn.Sequential:
    """Make conv1 to conv4 of one stream: (N, 3, T, V) to (N, 2·base, T / 4, base / 4)."""
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
    """Return [T, T]: differences of neighboring frames, stretched from T − 1 to T by linear interpolation."""
    difference = torch.eye(frames)[1:] - torch.eye(frames)[:-1]  # (T - 1, T)
    stretched = nn.functional.interpolate(difference.T[None], size=frames, mode="linear", align_corners=False)
    return stretched[0].T.contiguous()  # (T, T)


class StampBranch(nn.Module):
    """An image network on one modality's stamps: (N, M, 3, H, W) in 0…255 to scores (N, classes), 0 for no stamp."""

    mean: Tensor
    scale: Tensor

    def __init__(self, net: nn.Module, classes: int):
        super().__init__()
        self.net = net
        self.classes = classes
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN).reshape(3, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / (255 * torch.tensor(IMAGENET_STD)).reshape(3, 1, 1), persistent=False)

    def forward(self, stamps: Tensor) -> Tensor:
        """Map (N, M, 3, H, W) to (N, classes), averaged over the present bodies."""
        n, m, c, h, w = stamps.shape
        pictures = stamps.reshape(n * m, c, h, w)  # (N·M, C, H, W)
        # The mean is taken off first: around 0.5 a half-precision number is coarser than around 0.
        scores = self.net((pictures - self.mean) * self.scale).reshape(n, m, self.classes)  # (N, M, classes)
        there = present(pictures).reshape(n, m, 1)  # (N, M, 1)
        return (scores * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)  # (N, classes)


class _Branches(Network):
    """One branch per modality, in the order of the inputs; the branches' scores are summed."""

    branches: nn.ModuleDict

    def __init__(self, **options: Any):
        super().__init__(**options)
        check_choice("modalities", self.config.modalities, (*MODALITIES, *MOTION_MODALITIES))
        self.names = [spec.name for spec in self.input_specs]
        joints = {name: modality_joints(self.config, name) for name in self.config.modalities}
        self.branches = nn.ModuleDict({name: self._branch(made_of) for name, made_of in joints.items()})

    @abstractmethod
    def _branch(self, joints: Joints) -> nn.Module: ...

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return the sum of the branches' class scores, (N, classes)."""
        scores = [branch(inputs[name]) for name, branch in zip(self.names, self.branches.values(), strict=True)]
        return sum(scores[1:], scores[0])


class DeepActsGraph(_Branches):
    """The graph network of Fig. 3."""

    config_class = DeepActsGraphConfig

    def _branch(self, joints: Joints) -> nn.Module:
        if self.config.kernel % 2 == 0:
            raise ConfigError(f"kernel is {self.config.kernel}: a temporal convolution that keeps T has an odd one")
        return GraphBranch(self.config, joints)

    @property
    def input_specs(self) -> list[InputSpec]:
        """One input per modality, (M, 3, T, N) without the batch axis."""
        return graph_specs(self.config)


class DeepActsCnn(_Branches):
    """The convolutional network of Fig. 3: EfficientNet-B0 on stamps; Table 1's ResNet-50 and HCN by option `cnn`."""

    config_class = DeepActsCnnConfig

    def _branch(self, joints: Joints) -> nn.Module:
        c = self.config
        options: dict[str, Any] = {"width": c.cnn_width}
        if c.cnn_dropout is not None:
            options["dropout"] = c.cnn_dropout
        if c.cnn == "hcn":
            if c.frames < HCN_POOLING:
                raise ConfigError(f"frames is {c.frames}: HCN halves them four times, so that it needs {HCN_POOLING}")
            return Hcn(c.num_classes, c.frames, len(joints), **options)
        if c.pitch_deg:
            raise ConfigError(f"pitch_deg turns joints, but {c.cnn} takes stamps: leave it out, or set cnn to hcn")
        network = {"efficientnet_b0": EfficientNetB0, "resnet50": ResNet50}[c.cnn]
        return StampBranch(network(c.num_classes, depth=c.cnn_depth, **options), c.num_classes)

    @property
    def input_specs(self) -> list[InputSpec]:
        """One stamp per modality, (M, 3, size, size); HCN's are (M, 3, T, N)."""
        return graph_specs(self.config) if self.config.cnn == "hcn" else stamp_specs(self.config)

    @property
    def weight_targets(self) -> Mapping[str, tuple[str, ...]]:  # type: ignore[override]
        """Every branch starts from the same ImageNet checkpoint."""
        if self.config.cnn == "hcn":
            return {}
        return {self.config.cnn: tuple(f"branches.{name}.net" for name in self.branches)}


class _Ensemble(Network):
    """The graph network and some convolutional networks, scores summed."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        if multiple := isinstance(self.config, DeepActsMultiConfig):
            check_choice("cnns", self.config.cnns, IMAGE_NETWORKS)
        names = self.config.cnns if multiple else (self.config.cnn,)
        self.graph = DeepActsGraph(**self._options_of(DeepActsGraphConfig))
        pitch = {"pitch_deg": self.config.pitch_deg} if "hcn" in names else {}  # it shares the graph network's inputs
        shared = {**self._options_of(CnnOptions), **pitch}
        self.cnns = nn.ModuleDict({name: DeepActsCnn(**shared, cnn=name) for name in names})

    @property
    def _parts(self) -> list[_Branches]:
        return [self.graph, *(cnn for cnn in self.cnns.values() if isinstance(cnn, DeepActsCnn))]

    def _options_of(self, config_class: type) -> dict[str, Any]:
        return {field.name: getattr(self.config, field.name) for field in dataclasses.fields(config_class)}

    @property
    def input_specs(self) -> list[InputSpec]:
        """The graph network's inputs and the convolutional networks', each once."""
        return list({spec.name: spec for part in self._parts for spec in part.input_specs}.values())

    @property
    def weight_targets(self) -> Mapping[str, tuple[str, ...]]:  # type: ignore[override]
        """Targets of the convolutional networks, and the separately trained networks of the ensemble."""
        public = {
            form: tuple(f"cnns.{name}.{target}" for target in targets)
            for name, cnn in zip(self.cnns, self._parts[1:], strict=True)
            for form, targets in cnn.weight_targets.items()
        }
        apart: dict[str, tuple[str, ...]] = {"deepacts_graph": ("graph",)}
        if len(self.cnns) == 1:
            apart["deepacts_cnn"] = tuple(f"cnns.{name}" for name in self.cnns)
        return {**public, **apart}

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return the sum of all branches' class scores, (N, classes)."""
        scores = [part(**{name: inputs[name] for name in part.names}) for part in self._parts]
        return sum(scores[1:], scores[0])


class DeepActs(_Ensemble):
    """DeepActsNet, CNN + Graph: one convolutional network and the graph network."""

    config_class = DeepActsConfig


class DeepActsMulti(_Ensemble):
    """DeepActsNet, Multi-CNN + Graph: EfficientNet-B0, ResNet-50 and the graph network."""

    config_class = DeepActsMultiConfig
