"""Scene flow guided by the skeleton: Res-TCN-BJCN, C3D-F, its two levels of attention, and their fusion.

Magoulianitis & Psaltis, "Learning Scene Flow With Skeleton Guidance For 3D Action Recognition".

Readings, choices where the paper is silent or ambiguous:

- **C3D size.** The ports' 78.4 M parameters are with UCF-101's 101 classes; Sports-1M's 487 give 79,991,015 (both
  tested). `pool5` rounds 7×7 up to 4×4, as Caffe: its last windows are half outside. PyTorch ports pad in front too.
- **Attention** acts after the convolution's ReLU; before it would be the same, because 1 + M is never negative.
- **Characteristic area.** r = [0.05 × w] is not rounded; (a, b) is the feature pixel at the joint. At w = 14 and 7 (r
  < 1) an area is one pixel.
- **Joints in Eq. 3 and 5.** All of both skeletons (K = 50; M = 150 rows count both). A joint that is missing, or
  outside by more than a quarter of the image, has no mask. If it is missing in one of two interpolated frames, the
  other's place is kept. Joints lie on whole pixels of 112×112, so half precision gives the same masks.
- **Overlaps in Eq. 5.** Mean score of all joints whose areas hold the pixel, at every depth (the text mentions deeper
  layers).
- **X in Eq. 2.** X^(l) of Eq. 1, the sum before batch norm and ReLU. "Sum" adds X^(1) to X^(4), then normalizes
  linearly: the scores of the detected joints to 0 … 1, all 0 if equal. An absent body has no part in it.
- **BJCN-1 to 4.** The first convolution and the three residual units before the first stride (64 ×4 in Res-TCN's
  code), after which rows are no longer joints.
- **Strides.** As Res-TCN's code: the strided unit's convolution has the stride, a size-1 convolution carries the
  residual. "Filters of size 1 with stride 1" refers to the other units. Even filters pad one more ahead, as Keras; N
  is a multiple of 4.
- **Temporal downsampling by 5.** "Filter size 1 and stride s" is one filter shared by all rows, whose one weight
  starts at 1. A channel per row would mix joints. No batch norm or ReLU follows it: joints are in [−1, 1].
- **FC-768.** Fig. 1 is not in the text. FC-256 (ReLU) of Res-TCN beside FC-512 (softmax) of Res-BJCN, then dropout
  and softmax layer. `bjcn=false` is Res-TCN as published: average pooling, softmax layer.
- **Joint map's [−1, 1].** Stored bounds (x, y ±2.5 m, z 0 to 5 m, clipped). A clip's own extrema would change a live
  pose with the rest of the window. Missing joints take their parent's place.
- **Flow's [0, 255].** Stored bounds of ±2 m/s, so no motion is 128; unknown motion counts as none. x, y, z are R, G,
  B.
- **Center crop.** 320×240 of the depth image's 512×424 show 0.66 m of height per meter of distance. Here it is cut in
  the color image's pixels, like the joints, whatever the flow's own size, as `share` of the height (240/424) and 4/3 as
  wide, so people are not stretched. As much is shown by `share=0.645` of NTU's color (1060 px of focal length, 1080
  rows), as in the recipes, and 0.72 and 0.85 at 525 and 615 px and 480 rows. Colors are mapped before resizing.
- **C3D input.** Colors less 128, the code of no motion; `scale=1` for Sports-1M weights. Random weights are Glorot's
  (Keras); attention then enlarges features up to eight times. Measured on a few SGD steps of 1e-3: small test
  networks with attention (32 px, width 4) diverge with `scale=1`, not with 1/128. The full `flow_skeleton` on one
  batch of two clips diverged with neither (first cross-entropy 157 and 4.3; ln 60 = 4.1). Use `scale=0.0078125` from
  scratch. Sports-1M weights under attention were not tried.
- **AT-2's skeleton model in Table 1.** Frozen by default ("imposed from deep skeleton model"); `skeleton=joint`
  trains it through the mask. `c3d_flow_at2` holds only the parts that the score needs.
- **Skeleton beside clips.** The paper gives it the whole sequence. The joint map starts at the first frame with a
  body, in column 0, at 30 columns a second, zero-padded to N = 300, the same for each clip (`scope: window`); live, it
  ends with the clip. Frames that only hold the first pose are dropped, because Res-BJCN's channels are time. A
  motionless person is one column.
- **30 Hz joints, 10 Hz flow.** Fused models see every third frame, interpolated (`rate: 3`), and so does their first
  stage (`step: 3`). `res_tcn_bjcn_ntu60.yaml` alone sees every frame, as in the paper.
- **Window.** Sequences have any length, NTU's at most 10 s. `c3d_flow`, `c3d_flow_at1`: 4.8 s, 48 frames, five clips
  of 16 with stride 8, probabilities averaged. With a joint map: `map_frames` / 30 (10 s, eleven clips live);
  `map_frames: 144` (`frames: 144` in stage one) is 4.8 s and five clips. Longer recordings: half-overlapping windows,
  each with its own map.
- **L1 and dropout.** L1 1e-4, summed, on all convolutions of the skeleton model unless frozen; a frozen one has no
  dropout and fixed statistics. C3D's dropout 0.5 after fc6 and fc7 is Tran et al.'s.
- **C3D-F "SGD".** Momentum 0.9, as for the skeleton model.
- **Epochs of AT-2 and the fused model.** Not given: 30, with C3D-F's steps. Table 3's policies differ in `skeleton`
  alone.
- **All clips.** Five per sequence and epoch (`sampling: repeats: 5`), none twice before all were used: a sequence
  shorter than 4.8 s has fewer, so that an epoch repeats them.
- **Plateau of the skeleton model.** Held-out training subject (5 %); no early stop, 150 epochs. C3D-F + AT-2 and the
  fused network hold it out in the flow stage, too, and keep its best epoch; C3D-F and C3D-F + AT-1 train on all.
- **Stages.** The recipes of AT-2 and the fused model begin with `res_tcn_bjcn` (Section 4.2). The parts have the same
  names (`c3d.*`, `skeleton.*`) in all networks of the family, so trained ones initialize them (`--init`;
  `res_tcn_bjcn` with `frames=300 step=3`).
- **Figures.** Fig. 3 alone shows a network at work: the informativeness that guides AT-2. Of C3D-F and of AT-1 the
  paper has none (Fig. 1 and 2 are architectures), so `actrec explain` draws nothing for them.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from actrec.features.scene_flow import CENTER_CROP, FlowPreprocessing, JointMapPreprocessing, PixelPreprocessing
from actrec.features.specs import InputSpec, WindowSpec
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError
from actrec_models.layers import glorot
from actrec_models.layers.cnn3d import C3d
from actrec_models.layers.res_tcn import SCORES, ResBjcn, ResTcn, TwoBranches, informativeness, l1_norm
from actrec_models.networks.base import Network

LOST = -0.375  # a joint with u left of this, in widths of the image, is absent; see `actrec.features.scene_flow`


class JointMasks(nn.Module):
    """The masks M of each stage of C3D (Eq. 3 to 5), from the joints of a clip of T frames of `size` px.

    `radius` is r of a characteristic area, in widths of the feature.
    """

    def __init__(self, frames: int, size: int, radius: float):
        super().__init__()
        self.size, self.radius = size, radius
        # (frames l, width w) of the output of each stage's convolutions.
        self.stages = [(frames, size)] + [(frames >> (s - 1), size >> s) for s in range(1, 5)]

    def forward(self, joints: Tensor, score: Tensor | None = None) -> list[Tensor]:
        """M of each stage, (N, 1, l, w, w).

        Args:
            joints: 𝕂, (N, T, K, 2), u and v in px of the clip, pixel centers at integers.
            score: Eq. 2's (N, K): Eq. 5's weighted mask; None: Eq. 3's binary one.
        """
        masks = []
        before = self.stages[0][0]
        for frames, width in self.stages:
            if frames < before:
                joints, before = between(joints, LOST * self.size), frames
            area = areas(joints, self.size, width, self.radius * width)
            masks.append((binary(area) if score is None else weighted(area, score)).unsqueeze(1))
        return masks


def between(joints: Tensor, lost: float) -> Tensor:
    """Joints (N, l, K, 2) half-way between two frames with step 2: (N, l/2, K, 2).

    A joint that is absent from one of the two (u < lost) stays where the other has it.
    """
    _, frames, count, _ = joints.shape
    pairs = joints.reshape(-1, frames // 2, 2, count, 2)  # (N, l/2, 2, K, 2)
    first, second = pairs[:, :, 0], pairs[:, :, 1]  # (N, l/2, K, 2)
    middle = (first + second) / 2
    middle = torch.where(second[..., :1] < lost, first, middle)
    return torch.where(first[..., :1] < lost, second, middle)


def areas(joints: Tensor, size: int, width: int, radius: float) -> Tensor:
    """Return the characteristic areas 𝕁^k (N, l, K, h, w): 1 where (x − a)² + (y − b)² ≤ r², else 0.

    Args:
        joints: (N, l, K, 2) in an image of `size`.
        size: Width and height of that image.
        width: w = h of the feature.
        radius: r in its pixels.
    """
    ab = torch.floor((joints + 0.5) * (width / size))  # the feature's pixel that the joint falls on
    a, b = ab[..., 0:1, None], ab[..., 1:2, None]  # (N, l, K, 1, 1)
    pixels = torch.arange(width, dtype=joints.dtype, device=joints.device)
    x, y = pixels.reshape(1, -1), pixels.reshape(-1, 1)
    near = (x - a) ** 2 + (y - b) ** 2 <= radius * radius  # (N, l, K, h, w)
    return near.to(joints.dtype)


def binary(area: Tensor) -> Tensor:
    """Compute Eq. 3: 1 in the area of any joint, else 0; (N, l, h, w) of areas (N, l, K, h, w)."""
    return area.amax(dim=2)


def weighted(area: Tensor, score: Tensor) -> Tensor:
    """Compute Eq. 5: 1 + score_k in the area of joint k, the mean score where areas overlap, else 0; (N, l, h, w).

    `area` is (N, l, K, h, w), `score` (N, K).
    """
    count = area.sum(dim=2)
    total = (area * score[:, None, :, None, None]).sum(dim=2)
    return count.clamp(max=1) + total / count.clamp(min=1)


LAYOUT = "kinect_v2_25"
JOINTS = 25
KINECT_HZ = 30
FLOW_STEP = 3  # the flow is downsampled in time by this; the skeleton is not


@dataclass(frozen=True)
class ResTcnBjcnConfig:
    """Options of `res_tcn_bjcn`; the defaults are the paper's."""

    num_classes: int = setting(60, "classes", range=(1, 100_000))
    frames: int = setting(
        300, "N, columns of the joint map, a multiple of 4; shorter sequences end in zeros", range=(8, 3000)
    )
    step: int = setting(
        1, "columns from one pose that is looked at to the next, the rest interpolated: 3 for the models with flow",
        range=(1, 30),
    )  # fmt: skip
    bodies: int = setting(2, "skeletons in the joint map", range=(1, 8))
    width: int = setting(64, "filters of Res-TCN's first layer; Res-BJCN has twice as many", range=(4, 512))
    dropout: float = setting(0.5, "after each activation", range=(0.0, 0.9))
    l1: float = setting(1e-4, "weight of the L1 norm of the convolutions in the loss", range=(0.0, 1.0))
    bjcn: bool = setting(True, "with Res-BJCN; without it this is Res-TCN, Table 1's reference")


@dataclass(frozen=True)
class C3dFlowConfig:
    """Options of `c3d_flow`; the defaults are the paper's."""

    num_classes: int = setting(60, "classes", range=(1, 100_000))
    frames: int = setting(16, "T, frames of a clip, a multiple of 16", range=(16, 64))
    size: int = setting(112, "height and width of a clip, a multiple of 16", unit="px", range=(16, 448))
    width: int = setting(64, "channels of conv1", range=(4, 256))
    fc: int = setting(4096, "neurons of fc6 and fc7", range=(8, 16384))
    dropout: float = setting(0.5, "after fc6 and fc7", range=(0.0, 0.9))
    scale: float = setting(
        1.0,
        "of the colors less 128: 1 for Sports-1M weights; 1/128 keeps the first losses of random ones small",
        range=(1e-4, 10.0),
    )
    share: float = setting(
        CENTER_CROP, "height of the center crop (4:3) of scene flow and joints, as a share of the image height",
        range=(0.05, 1.0),
    )  # fmt: skip


@dataclass(frozen=True)
class C3dFlowAt1Config(C3dFlowConfig):
    """Options of `c3d_flow_at1`; the defaults are the paper's."""

    bodies: int = setting(2, "skeletons whose joints draw attention", range=(1, 8))
    radius: float = setting(0.05, "r of a characteristic area, in widths of the feature", range=(0.0, 1.0))


@dataclass(frozen=True)
class C3dFlowAt2Config(C3dFlowAt1Config):
    """Options of `c3d_flow_at2`; the defaults are the paper's."""

    layer: str = setting("sum", "BJCN layer that the score is drawn from (Table 2), or their sum", choices=SCORES)
    skeleton: str = setting(
        "frozen", "whether the skeleton model is trained along or keeps its weights", choices=("joint", "frozen")
    )
    map_frames: int = setting(
        300, "N, columns of the joint map, 30 for each second of the window; a multiple of 12", range=(48, 3000)
    )
    skeleton_width: int = setting(64, "filters of Res-TCN's first layer", range=(4, 512))
    skeleton_dropout: float = setting(0.5, "after each activation of the skeleton model", range=(0.0, 0.9))
    l1: float = setting(1e-4, "weight of the L1 norm of the skeleton model's convolutions", range=(0.0, 1.0))


@dataclass(frozen=True)
class FlowSkeletonConfig(C3dFlowAt2Config):
    """Options of `flow_skeleton`; the defaults are the paper's."""

    skeleton: str = setting(
        "joint", "whether the skeleton model is trained along or keeps its weights (Table 3)",
        choices=("joint", "frozen"),
    )  # fmt: skip


class ResTcnBjcn(Network):
    """Res-TCN-BJCN: joints of the whole sequence to classes."""

    config_class = ResTcnBjcnConfig

    def __init__(self, **options: Any):
        super().__init__(**options)
        c = self.config
        _check_multiple(c, 4, "frames")
        if c.frames % c.step:
            raise ConfigError(f"ResTcnBjcnConfig.frames is {c.frames}, expected a multiple of step, {c.step}")
        rows = 3 * JOINTS * c.bodies
        self.skeleton: ResTcn | TwoBranches
        if c.bjcn:
            self.skeleton = TwoBranches(rows, c.frames, c.width, c.dropout)
        else:
            self.skeleton = ResTcn(rows, c.width, c.dropout)
        self.fc_skeleton = nn.Linear(self.skeleton.channels, c.num_classes)
        self.fc_skeleton.apply(glorot)

    @property
    def input_specs(self) -> list[InputSpec]:
        """The joint map, (150, 300) for two bodies."""
        return [_map_spec(self.config.bodies, self.config.frames, "clip", self.config.step)]

    @property
    def window(self) -> WindowSpec:
        """The whole sequence at the Kinect's 30 Hz, or every `step`-th frame of it."""
        return WindowSpec(self.config.frames / KINECT_HZ, self.config.frames // self.config.step)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return the logits of "joint_map" (N, 3·K, frames)."""
        found = self.skeleton(inputs["joint_map"])
        return self.fc_skeleton(found[0] if self.config.bjcn else found)

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the cross-entropy and the L1 norm of the convolutions."""
        return _regularized(super().losses(batch), self.config.l1, self.skeleton)


class C3dFlow(Network):
    """C3D-F: RGB-coded scene flow to classes."""

    config_class = C3dFlowConfig
    weight_targets: Mapping[str, tuple[str, ...]] = {"c3d": ("c3d",)}
    own_classes: ClassVar[bool] = True

    def __init__(self, **options: Any):
        super().__init__(**options)
        c = self.config
        _check_multiple(c, 16, "frames", "size")
        self.c3d = C3d(c.num_classes if self.own_classes else 0, c.frames, c.size, c.width, c.fc, c.dropout)

    @property
    def input_specs(self) -> list[InputSpec]:
        """The flow clip, (3, 16, 112, 112)."""
        c = self.config
        preprocessing = dataclasses.asdict(FlowPreprocessing(share=c.share, scale=c.scale, exact=True))
        return [InputSpec("flow_rgb", "flow_rgb", "CTHW", (3, c.frames, c.size, c.size), "m/s", preprocessing)]

    @property
    def window(self) -> WindowSpec:
        """16-frame clips of every third frame, half overlapping, whose scores are averaged."""
        frames = 3 * self.config.frames
        return WindowSpec(frames * FLOW_STEP / KINECT_HZ, frames, self.config.frames, self.config.frames // 2, "mean")

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return the logits of "flow_rgb" (N, 3, T, H, W)."""
        return self.c3d(inputs["flow_rgb"])


class C3dFlowAt1(C3dFlow):
    """C3D-F + AT-1: features around the joints are boosted, all alike."""

    config_class = C3dFlowAt1Config

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.masks = JointMasks(self.config.frames, self.config.size, self.config.radius)

    @property
    def input_specs(self) -> list[InputSpec]:
        """The flow clip, and the joints in it, (16, 50, 2)."""
        c = self.config
        preprocessing = dataclasses.asdict(PixelPreprocessing(share=c.share, size=c.size))
        shape = (c.frames, JOINTS * c.bodies, 2)
        return [*super().input_specs, InputSpec("joint_pixels", "joint_pixels", LAYOUT, shape, "px", preprocessing)]

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return the logits of "flow_rgb" (N, 3, T, H, W) and "joint_pixels" (N, T, K, 2)."""
        return self.c3d(inputs["flow_rgb"], self.masks(inputs["joint_pixels"]))


class C3dFlowAt2(C3dFlowAt1):
    """C3D-F + AT-2: features around a joint are boosted as much as the skeleton model finds it informative."""

    config_class = C3dFlowAt2Config

    def __init__(self, **options: Any):
        super().__init__(**options)
        c = self.config
        _check_multiple(c, 4 * FLOW_STEP, "map_frames")
        if c.frames * FLOW_STEP > c.map_frames:
            raise ConfigError(
                f"{type(c).__name__}.map_frames is {c.map_frames}, but a clip of {c.frames} frames alone is as long as "
                f"{c.frames * FLOW_STEP} columns of the joint map"
            )
        self.skeleton = self._skeleton()
        if c.skeleton == "frozen":
            self.skeleton.requires_grad_(False)
        self.train()

    def _skeleton(self) -> ResBjcn:
        """Return BJCN-1 to BJCN-4, from which the score is computed."""
        c = self.config
        bottom = ResBjcn(c.map_frames, 2 * c.skeleton_width, c.skeleton_dropout)
        if c.layer != "sum":
            # Nothing is learnt beyond the layer that the score is drawn from: DDP would wait for its gradient.
            bottom.bjcn.units[int(c.layer) - 1 :].requires_grad_(False)
        return bottom

    def train(self, mode: bool = True) -> "C3dFlowAt2":
        """Set the mode; a frozen skeleton model stays in evaluation mode."""
        super().train(mode)
        if self.config.skeleton == "frozen":
            self.skeleton.eval()
        return self

    @property
    def window(self) -> WindowSpec:
        """As long as the joint map, so that both see the whole sequence; clips as of C3D-F."""
        frames = self.config.map_frames // FLOW_STEP
        return dataclasses.replace(super().window, seconds=frames * FLOW_STEP / KINECT_HZ, frames=frames)

    @property
    def input_specs(self) -> list[InputSpec]:
        """The flow clip, the joints in it, and the joint map of the whole window at the skeleton's 30 Hz."""
        return [*super().input_specs, _map_spec(self.config.bodies, self.config.map_frames, "window", FLOW_STEP)]

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return the logits of "flow_rgb", "joint_pixels" and "joint_map"."""
        layers = self.skeleton.joints(inputs["joint_map"])
        score = informativeness(layers, self.config.layer, inputs["joint_map"])  # (N, K)
        return self.c3d(inputs["flow_rgb"], self.masks(inputs["joint_pixels"], score))

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the cross-entropy, and the L1 norm of the skeleton model's convolutions if it is trained."""
        weight = self.config.l1 if self.config.skeleton == "joint" else 0.0
        return _regularized(super().losses(batch), weight, self.skeleton)


class FlowSkeleton(C3dFlowAt2):
    """The late fused model (Fig. 2): FC-4096 of C3D-F + AT-2 and FC-768 of Res-TCN-BJCN, concatenated."""

    config_class = FlowSkeletonConfig
    own_classes = False  # "softmax layers used for single-modal predictions are discarded"
    skeleton: TwoBranches

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.fc_fused = nn.Linear(self.config.fc + self.skeleton.channels, self.config.num_classes)
        self.fc_fused.apply(glorot)

    def _skeleton(self) -> TwoBranches:
        c = self.config
        return TwoBranches(3 * JOINTS * c.bodies, c.map_frames, c.skeleton_width, c.skeleton_dropout)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return the logits of "flow_rgb", "joint_pixels" and "joint_map"."""
        skeleton, layers = self.skeleton(inputs["joint_map"])  # FC-768
        score = informativeness(layers, self.config.layer, inputs["joint_map"])  # (N, K)
        flow = self.c3d(inputs["flow_rgb"], self.masks(inputs["joint_pixels"], score))  # FC-4096
        return self.fc_fused(torch.cat([flow, skeleton], dim=1))


def _map_spec(bodies: int, frames: int, scope: str, rate: int) -> InputSpec:
    preprocessing = dataclasses.asdict(JointMapPreprocessing(scope=scope, rate=rate))
    return InputSpec("joint_map", "joint_map", LAYOUT, (3 * JOINTS * bodies, frames), "m", preprocessing)


def _check_multiple(options: Any, of: int, *names: str) -> None:
    for name in names:
        if getattr(options, name) % of:
            raise ConfigError(
                f"{type(options).__name__}.{name} is {getattr(options, name)}, expected a multiple of {of}"
            )


def _regularized(losses: dict[str, Tensor], weight: float, skeleton: nn.Module) -> dict[str, Tensor]:
    if not weight:
        return losses
    l1 = weight * l1_norm(skeleton)
    return {**losses, "loss": losses["loss"] + l1, "cross_entropy": losses["loss"], "l1": l1}
