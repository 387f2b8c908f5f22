"""Joint TCN: dilated convolutions over time of all joints at once, small and fast, for skeletons of any sensor.

It belongs to no paper. Residual blocks are ordered as in Res-TCN (Kim & Reiter, 2017), dilations as in WaveNet (van den
Oord et al., 2016). Inputs are only joints that every body layout has, on bones of the same length for everyone.

With several `members` it is an ensemble (Lakshminarayanan et al., 2017) in one network: each has blocks of its own, and
is trained on its own logits; the prediction is from their mean.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from actrec.features.skeleton import SkeletonPreprocessing
from actrec.features.specs import InputSpec, WindowSpec
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError
from actrec_models.layers import sizes
from actrec_models.networks.base import Network

JOINTS = (
    "spine_base", "spine_mid", "spine_shoulder", "head", "shoulder_left", "elbow_left", "wrist_left", "hip_left",
    "knee_left", "ankle_left", "shoulder_right", "elbow_right", "wrist_right", "hip_right", "knee_right", "ankle_right",
)  # fmt: skip
"""The joints that it reads; the root is the first."""

_INPUTS = {"all": 12, "bones": 9, "motion": 6}
"""Channels of each joint by a member's inputs: positions, bones, velocities; bones and their velocities; velocities."""

_WAY = {"all": 6, "bones": 0, "motion": 3}
"""Channels of the root's way."""

_PARENTS = (0, 0, 1, 2, 2, 4, 5, 0, 7, 8, 2, 10, 11, 0, 13, 14)  # indices in JOINTS; kinect_v2_25 has a neck between


@dataclass(frozen=True)
class JointTcnConfig:
    """Options of `joint_tcn`."""

    num_classes: int = setting(60, "classes", range=(1, 100_000))
    frames: int = setting(40, "T, frames of a clip", range=(1, 1000))
    bodies: int = setting(1, "M, bodies of a clip; their features are averaged", range=(1, 8))
    width: int = setting(160, "channels of each block", range=(4, 2048))
    kernel: int = setting(5, "temporal kernel of a block, odd", range=(1, 31))
    dilations: tuple[int, ...] = setting((1, 2, 4, 1, 2, 4), "temporal dilation of each block")
    dropout: float = setting(0.1, "in each block", range=(0.0, 0.9))
    head_dropout: float = setting(0.3, "before the classifier", range=(0.0, 0.9))
    lengths: str = setting("canonical", "of bones, see `SkeletonPreprocessing`", choices=("own", "canonical"))
    span: int = setting(4, "frames over which the slow velocity is taken", range=(1, 100))
    members: tuple[str, ...] = setting(
        ("all",), "inputs of each member (all, bones, motion): blocks of its own; their logits are averaged"
    )


class Block(nn.Module):
    """Residual block (N, C, T) to (N, C, T): a dilated convolution over time and one of size 1."""

    def __init__(self, channels: int, kernel: int, dilation: int, dropout: float):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(channels), nn.ReLU(),
            nn.Conv1d(channels, channels, kernel, padding=dilation * (kernel // 2), dilation=dilation),
            nn.BatchNorm1d(channels), nn.ReLU(), nn.Dropout(dropout), nn.Conv1d(channels, channels, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, T) to (N, C, T)."""
        return x + self.layers(x)


class Member(nn.Module):
    """Blocks over the inputs (N, channels, T), and the mean and maximum over time: (N, 2·width)."""

    def __init__(self, channels: int, config: JointTcnConfig):
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.first = nn.Conv1d(channels, config.width, 1)
        blocks = (Block(config.width, config.kernel, dilation, config.dropout) for dilation in config.dilations)
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, T) to (N, 2·width)."""
        f = self.blocks(self.first(self.norm(x)))
        return torch.cat([f.mean(dim=2), f.amax(dim=2)], dim=1)


class JointTcn(Network):
    """Positions relative to the root, bones, fast and slow velocities, and the way of the root; then `Block`s."""

    config_class = JointTcnConfig
    config: JointTcnConfig

    def __init__(self, **options: object):
        super().__init__(**options)
        c = self.config
        if c.kernel % 2 == 0:
            raise ConfigError(f"kernel is {c.kernel}: a temporal convolution that keeps T has an odd one")
        if not c.dilations or min(c.dilations) < 1:
            raise ConfigError(f"dilations are {list(c.dilations)}: give one of 1 or more for each block")
        if c.span >= c.frames:
            raise ConfigError(f"span is {c.span}, but a clip has {c.frames} frames: choose a shorter one")
        if not c.members or not set(c.members) <= set(_INPUTS):
            raise ConfigError(f"members are {list(c.members)}: give one or more of {', '.join(_INPUTS)}")
        self.chosen = [KINECT_V2_25.index[joint] for joint in JOINTS]
        self.members = nn.ModuleList(Member(_INPUTS[name] * len(JOINTS) + _WAY[name], c) for name in c.members)
        self.dropout = nn.Dropout(c.head_dropout)
        self.fc = nn.Linear(2 * c.width * len(c.members), c.num_classes)

    @property
    def window(self) -> WindowSpec:
        """Three seconds."""
        return WindowSpec(3.0, self.config.frames)

    @property
    def input_specs(self) -> list[InputSpec]:
        """The joints (M, 3, T, 25), without the batch axis."""
        options = dataclasses.asdict(SkeletonPreprocessing(lengths=self.config.lengths))
        shape = (self.config.bodies, 3, self.config.frames, len(KINECT_V2_25))
        return [InputSpec("body", "body", KINECT_V2_25.name, shape, unit="m", preprocessing=options)]

    def forward(self, **inputs: Tensor) -> Tensor:
        """Map (N, M, 3, T, V) to the logits (N, classes)."""
        return self.fc(self.dropout(self.embed(inputs["body"])))

    def embed(self, body: Tensor) -> Tensor:
        """Map (N, M, 3, T, V) to the features (N, members·2·width): of each member, averaged over bodies."""
        m, c, t, v = sizes(body)
        joints = body.reshape(-1, c, t, v)[..., self.chosen]  # (N·M, 3, T, J)
        parts = self._features(joints)
        found = [member(parts[name]) for name, member in zip(self.config.members, self.members, strict=True)]
        f = torch.cat(found, dim=1)  # (N·M, members·2·width)
        return f.reshape(-1, m, f.shape[1]).mean(dim=1)

    def member_logits(self, **inputs: Tensor) -> Tensor:
        """Return the logits (members, N, classes), whose mean is the classifier of all features."""
        count = len(self.members)
        f = self.dropout(self.embed(inputs["body"])).unflatten(1, (count, -1))  # (N, members, 2·width)
        weight = self.fc.weight.unflatten(1, (count, -1))  # (classes, members, 2·width)
        return count * torch.einsum("nkf,ckf->knc", f, weight) + self.fc.bias

    def _features(self, x: Tensor) -> dict[str, Tensor]:
        """Map joints (N, 3, T, J) to the inputs (N, channels, T) by their names."""
        root = x[..., :1]
        relative, span = x - root, self.config.span
        bones = x - x[..., list(_PARENTS)]
        way = torch.cat([_change(root, 1), root], dim=1)[..., 0]  # (N, 6, T)
        motion = [_change(relative, 1), _change(relative, span)]
        return {
            "all": torch.cat([_flat(relative, bones, *motion), way], dim=1),
            "bones": _flat(bones, _change(bones, 1), _change(bones, span)),
            "motion": torch.cat([_flat(*motion), way[:, :3]], dim=1),
        }


def _flat(*parts: Tensor) -> Tensor:
    """Join parts (N, 3, T, J) to (N, parts·3·J, T)."""
    joints = torch.cat(parts, dim=1)
    t, v = joints.shape[2:]
    return joints.permute(0, 1, 3, 2).reshape(-1, joints.shape[1] * v, t)


def _change(x: Tensor, frames: int) -> Tensor:
    """Return the change of (N, C, T, J) over some frames, zero for the first ones."""
    return torch.cat([torch.zeros_like(x[:, :, :frames]), x[:, :, frames:] - x[:, :, : x.shape[2] - frames]], dim=2)
