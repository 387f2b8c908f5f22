"""SPA-Net (Shi et al., "What and Where", 2021, §3.2): the spatial perspective, joints as points in space; SEM+SPA.

SPA-blocks (Fig. 6) of sparse 3D convolution and multi-scale temporal convolution (SPA-3+1D), or of sparse 4D
convolution (SPA-4D); sparse max-pooling halves the space between levels.

Readings, choices where the paper is silent or ambiguous:

- **Eq. 8, the range of zero to the space size.** One cube per clip around all joints of all bodies, as wide as the
  longest side (proportions kept), at least 1.5 m (hand: 0.15 m), so still clips are not enlarged. Bodies are first
  turned to the camera (`align`), hands are not. Live, it acts on each window: place does not matter, scale follows
  the window's extent.
- **Eq. 8, one-hot features.** V joint names; the second body has the same names in the same space.
- **Missing joints, absent bodies.** No point: not in a table, a norm's statistics or the mean.
- **Joints in one voxel.** One point, as in MinkowskiEngine [8], with the sum of their one-hot vectors, because Eq. 9
  sums over all joints (`merge=sum`). `merge=first` keeps the first one (MinkowskiEngine: a random one).
- **Eq. 9, W_{R(i)−R(j)}.** Sign as written; torch counts R(j) − R(i), so weights are flipped in between.
- **Even kernels (k=6).** R(j) − R(i) from −2 to 3, as "same" convolutions (MinkowskiEngine: 0 to 5).
- **Eq. 10, "hierarchical".** Kernel and stride 2 in space, none in time, before each level but the first: voxels of
  1/64 to 1/8.
- **Fig. 6 (a), SPA-3+1D.** Sparse 3D convolution, BN, ReLU, temporal convolution, BN, residual, ReLU. The temporal
  convolution follows the same voxel (`same=voxel`): P3D [25], a kernel of 1×1×1×3 in MinkowskiEngine [8]. As "similar
  to MS-TFF", which convolves each joint, it may follow the same joint (`same=joint`; of a point of several joints, the
  first). At T = 32 a point has an earlier neighbor in 10 % (SHREC'17) and 58 % (N-UCLA) of the cases by voxel, in 97 %
  by joint. But by joint the motion of a rigid hand changes no one-hot feature. Both learn alike: after 5 epochs of a
  small network (T = 16, width 16) 51.8 % by voxel and 51.1 % by joint of SHREC'17's 14 classes.
- **Multi-scale temporal convolution.** As MS-TFF: 1×1, four branches of kernel 3, dilations 1, 3, 5, 7;
  `dilations=[1]` is single-scale. SPA-4D has none.
- **Fig. 6 (b), SPA-4D.** k frames as k voxels (5⁴ positions); `temporal` changes the frames.
- **Depth, width, T.** Two blocks on four levels, 32, 32, 64, 64 channels: 2.3 M parameters (3+1D), 11.4 M (4D); T =
  64. Chosen so 3+1D runs on two cores.
- **Initial weights.** As a linear layer of the center alone, U(±1/√C): most of the window is empty.
- **Room for neighbors.** Static shapes limit pairs per level and neighbors per point (`CAPACITY`); nearest pairs
  come first, others are dropped. Measured: no clip lost a pair. 3+1D: 371 clips of N-UCLA (M = 1), 700 of SHREC'17,
  371 of two people 0.5 m apart (made up); 4D: 75, 140, 75; `space` 32, 128 and `kernel` 3, 6: 75, 140, 75 (3+1D), 28
  (4D, hands). The room was sized on the same recordings. Tables take 3 ms (N-UCLA, M = 1), 8 ms (M = 2), 15 ms (4D)
  per 64 frames on one core.
- **Fig. 2, fusion.** Logits are log((softmax_SEM + softmax_SPA) / 2). SEM-Net of joints and bones is one network
  there: weights 1/4, 1/4, 1/2. Cross-entropies are added; no gradient crosses.
- **T in the fusion.** SEM-Net gets all T frames (256), SPA-Net `spa_frames` (64), evenly spaced.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from actrec.features.specs import InputSpec
from actrec.features.voxels import POSITIONS, VoxelPreprocessing
from actrec.skeleton import layouts
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError
from actrec_models.layers.sparse import (
    Neighborhood,
    PaddedNeighborhood,
    Points,
    SparseConvolution,
    TemporalConvolution,
    normalized_points,
)
from actrec_models.networks.base import Network
from actrec_models.networks.sem_net import SemNet, combine

SPACES = (32, 64, 128)
CAPACITY = ((1.5, 8), (3.0, 16), (9.0, 24), (11.0, 32), (13.0, 36), (13.0, 36))
"""(pairs for each joint, neighbors of one joint) that a level has room for where voxels are 1/128, 1/64, 1/32, 1/16,
1/8, 1/4 of the space wide, at k = 5 within a frame. Sized by N-UCLA, pairs of its people half a metre apart, and
SHREC'17, so that every clip's pairs have room."""


@dataclass(frozen=True)
class SpaNetConfig:
    """Options of `spa_net_3p1d`; the defaults are the paper's if it states them."""

    num_classes: int = setting(60, "classes", range=(1, 100_000))
    frames: int = setting(64, "T, frames of a clip", range=(1, 1000))
    bodies: int = setting(2, "M, bodies that share the space", range=(1, 8))
    layout: str = setting(
        "kinect_v2_25", "joints: NTU's 25 of a body, or SHREC'17's 22 of a hand", choices=("kinect_v2_25", "hand_22")
    )
    space: int = setting(64, "s of Table 5, voxels along each side of the space: 32, 64 or 128", range=(32, 128))
    kernel: int = setting(5, "k of Table 5, voxels along each side of the convolution", range=(1, 9))
    width: int = setting(32, "channels of the first level, a multiple of the number of dilations", range=(4, 512))
    widths: tuple[int, ...] = setting((1, 1, 2, 2), "channels of each level, in multiples of `width`")
    depths: tuple[int, ...] = setting((2, 2, 2, 2), "SPA-blocks of each level")
    dilations: tuple[int, ...] = setting((1, 3, 5, 7), "of the temporal convolution's branches; one for no multi-scale")
    same: str = setting(
        "voxel", "the temporal convolution follows the same voxel or the same joint", choices=("voxel", "joint")
    )
    merge: str = setting(
        "sum", "features of joints in one voxel: the sum, as in Eq. 9, or the first's", choices=("sum", "first")
    )
    positions: bool = setting(
        False, "beside the one-hot joints: place in the voxel and in the space, and time; not in the paper"
    )
    dropout: float = setting(0.0, "before the classifier", range=(0.0, 0.9))


@dataclass(frozen=True)
class SpaNet4dConfig(SpaNetConfig):
    """Options of `spa_net_4d`; `dilations` takes no part."""

    temporal: int = setting(0, "frames that the 4D convolution spans; 0 for as many as k", range=(0, 9))


class Spa3p1dBlock(nn.Module):
    """Fig. 6 (a): sparse 3D convolution within each frame, then temporal convolution."""

    def __init__(self, channels_in: int, channels_out: int, options: SpaNetConfig):
        super().__init__()
        self.spatial = SparseConvolution(channels_in, channels_out, options.kernel)
        self.norm = nn.BatchNorm1d(channels_out)
        self.temporal = TemporalConvolution(channels_out, tuple(options.dilations))
        self.shortcut = Shortcut(channels_in, channels_out)

    def forward(self, f_in: Tensor, near: Neighborhood) -> Tensor:
        """Map (N, P, C) to (N, P, C′)."""
        f = torch.relu(normalized_points(self.norm, self.spatial(f_in, near)))
        f = self.temporal(f, near)
        return torch.relu(f + self.shortcut(f_in))


class Spa4dBlock(nn.Module):
    """Fig. 6 (b): sparse 4D convolution over space and time at once."""

    def __init__(self, channels_in: int, channels_out: int, options: SpaNet4dConfig):
        super().__init__()
        self.spatiotemporal = SparseConvolution(
            channels_in, channels_out, options.kernel, options.temporal or options.kernel
        )
        self.norm = nn.BatchNorm1d(channels_out)
        self.shortcut = Shortcut(channels_in, channels_out)

    def forward(self, f_in: Tensor, near: Neighborhood) -> Tensor:
        """Map (N, P, C) to (N, P, C′)."""
        f = normalized_points(self.norm, self.spatiotemporal(f_in, near))
        return torch.relu(f + self.shortcut(f_in))


class Shortcut(nn.Module):
    """The residual connection: identity, or 1×1 convolution where channels change."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.same = channels_in == channels_out
        if not self.same:
            self.linear = nn.Linear(channels_in, channels_out, bias=False)
            self.norm = nn.BatchNorm1d(channels_out)

    def forward(self, f: Tensor) -> Tensor:
        """Map (N, P, C) to (N, P, C′)."""
        return f if self.same else normalized_points(self.norm, self.linear(f))


class SpaNet3p1d(Network):
    """SPA-3+1D of Table 4."""

    config_class: ClassVar[type] = SpaNetConfig
    block: ClassVar[type[nn.Module]] = Spa3p1dBlock
    convolution: ClassVar[str] = "spatial"
    tile: ClassVar[int] = 32  # B
    tables: ClassVar[tuple[str, ...]] = ("neighbors", "sums", "times", "cells")

    def __init__(self, **options: object):
        super().__init__(**options)
        self._check()
        if self.config.positions:
            without = len(layouts.get(self.config.layout))
            first = (f"{self.convolution}.weight", "shortcut.linear.weight")
            self.base_channels = {f"levels.0.0.{name}": (1, without) for name in first}
        before, stages = self._inputs, []
        self._channels = [self.config.width * multiple for multiple in self.config.widths]
        for width, depth in zip(self._channels, self.config.depths, strict=True):
            widths = [before] + [width] * depth
            stages.append(nn.ModuleList(self.block(a, b, self.config) for a, b in itertools.pairwise(widths)))
            before = width
        self.levels = nn.ModuleList(stages)
        self.dropout = nn.Dropout(self.config.dropout)
        self.fc = nn.Linear(before, self.config.num_classes)

    def _check(self) -> None:
        c = self.config
        if c.space not in SPACES:
            raise ConfigError(f"space is {c.space}, allowed: {', '.join(map(str, SPACES))}")
        if not 1 <= len(c.widths) == len(c.depths) <= 4 or min(*c.widths, *c.depths) < 1:
            raise ConfigError(f"widths {c.widths} and depths {c.depths}: one positive number a level, 1 to 4 levels")
        if not c.dilations or min(c.dilations) < 1:
            raise ConfigError(f"dilations are {c.dilations}: one or more frames each, one for no multi-scale")
        if "times" in self.tables and c.width % len(c.dilations):
            raise ConfigError(f"width {c.width} does not divide into branches of dilations {c.dilations}")

    @property
    def _inputs(self) -> int:
        """Channels of a point: one for each joint, and its position."""
        return len(layouts.get(self.config.layout)) + POSITIONS * self.config.positions

    @property
    def _temporal(self) -> int:
        """Frames that the sparse convolution spans."""
        return 1

    @property
    def preprocessing(self) -> VoxelPreprocessing:
        """The space, and the room that its neighborhoods have; see `CAPACITY`."""
        c = self.config
        joints = c.bodies * len(layouts.get(c.layout))
        span = self._temporal
        stretch = max(1.0, (c.kernel / 5) ** 2)
        levels = range(SPACES[::-1].index(c.space), SPACES[::-1].index(c.space) + len(c.widths))
        most = span * joints - 1
        tiles, addends = [], []
        for pairs, neighbors in (CAPACITY[level] for level in levels):
            pairs_of_clip = math.ceil(min(pairs * stretch * span, most) * joints * c.frames)
            tiles.append(math.ceil(pairs_of_clip / self.tile) + (c.kernel**3 * span) // 2)
            addends.append(max(1, min(math.ceil(neighbors * stretch) * span, most)))
        return VoxelPreprocessing(
            bodies=c.bodies,
            frames=c.frames,
            space=c.space,
            kernel=c.kernel,
            temporal=span,
            dilations=tuple(c.dilations),
            same=c.same,
            align="yaw" if c.layout == "kinect_v2_25" else "none",
            merge=c.merge,
            positions=c.positions,
            tile=self.tile,
            tiles=tuple(tiles),
            addends=tuple(addends),
        )

    @property
    def input_specs(self) -> list[InputSpec]:
        """F of Eq. 8 and the neighborhoods of every level."""
        c, made = self.config, self.preprocessing
        joints, levels = len(layouts.get(c.layout)), len(c.widths)
        points = c.bodies * c.frames * joints
        shapes = {
            "features": (c.bodies, c.frames, joints, self._inputs),
            "neighbors": (sum(made.tiles), 1 + made.tile),
            "sums": (points, sum(made.addends)),
            "times": (levels, points, 2 * len(c.dilations)),
            "cells": (levels, points, 8),
        }
        preprocessing = dataclasses.asdict(made)
        return [
            InputSpec(f"voxel_{name}", f"voxel_{name}", c.layout, shapes[name], preprocessing=preprocessing)
            for name in ("features", *self.tables)
        ]

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return the logits (N, classes) of the tables and features by name."""
        f = inputs["voxel_features"]
        f = f.flatten(1, 3)  # (N, M, T, V, C) -> (N, M·T·V, C): F of Eq. 8, C = V or V + 7
        if not self.training:
            return self.scores(f, self._neighborhoods(inputs))
        levels = self._points(inputs)
        return self.scores(f.flatten(0, 1)[levels[0].slots], levels)  # (N, P, C) -> (points, C)

    def scores(self, f: Tensor, levels: Sequence[Neighborhood]) -> Tensor:
        """Return the logits (N, classes) of the features of the first level's points, (N, P, C) or (points, C)."""
        for level, (blocks, near) in enumerate(zip(self.levels, levels, strict=True)):
            f = near.pool(f, self._channels[level - 1]) if level else f
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                f = block(f, near)
        return self.fc(self.dropout(near.mean(f)))

    def _points(self, inputs: dict[str, Tensor]) -> list[Points]:
        """Return the neighborhoods without their padding, level by level."""
        levels: list[Points] = []
        positions = self.config.kernel**3 * self._temporal
        for near in self._neighborhoods(inputs):
            levels.append(Points(near, positions, levels[-1] if levels else None))
        return levels

    def _neighborhoods(self, inputs: dict[str, Tensor]) -> list[PaddedNeighborhood]:
        """Return the tables, level by level, as integers."""
        c, made = self.config, self.preprocessing
        tiles = inputs["voxel_neighbors"].long().split(list(made.tiles), dim=1)  # (N, Q, 1 + B)
        sums = inputs["voxel_sums"].long().split(list(made.addends), dim=2)  # (N, P, J)
        cells = inputs["voxel_cells"].long()  # (N, L, P, 8)
        times = inputs["voxel_times"].long() if "times" in self.tables else None  # (N, L, P, 2·D)
        return [
            PaddedNeighborhood(
                points=c.bodies * c.frames * len(layouts.get(c.layout)),
                size=made.tile,
                pairs=made.tiles[level] * made.tile,
                addends=made.addends[level],
                kernel=tiles[level][:, :, 0],
                tiles=tiles[level][:, :, 1:].flatten(1),
                sums=sums[level].flatten(1),
                times=None if times is None else times[:, level].flatten(1),
                cells=cells[:, level].flatten(1),
                present=cells[:, level, :, 0] > 0,
            )
            for level in range(len(c.widths))
        ]


class SpaNet4d(SpaNet3p1d):
    """SPA-4D of Table 4."""

    config_class = SpaNet4dConfig
    block = Spa4dBlock
    convolution = "spatiotemporal"
    tables = ("neighbors", "sums", "cells")

    @property
    def _temporal(self) -> int:
        return self.config.temporal or self.config.kernel


# -- SEM+SPA -----------------------------------------------------------------------------------------------------------

SPA = {"4d": SpaNet4d, "3p1d": SpaNet3p1d}


@dataclass(frozen=True)
class SemSpaConfig:
    """Options of `sem_spa`; the defaults are the paper's "SEM+SPA"."""

    num_classes: int = setting(60, "classes", range=(1, 100_000))
    frames: int = setting(256, "T, frames of a clip; SEM-Net takes them all", range=(1, 1000))
    spa_frames: int = setting(64, "frames of SPA-Net, evenly spaced over the clip's", range=(1, 1000))
    bodies: int = setting(2, "M, bodies of a clip", range=(1, 8))
    layout: str = setting(
        "kinect_v2_25", "joints: NTU's 25 of a body, or SHREC'17's 22 of a hand", choices=("kinect_v2_25", "hand_22")
    )
    streams: str = setting(
        "fuse", "Table 6: SEM-Net on joints and bones, or on one of them", choices=("fuse", "joint", "bone")
    )
    spa: str = setting("4d", "Table 4: SPA-4D or SPA-3+1D", choices=tuple(SPA))
    sem_options: dict[str, Any] = setting({}, "further options of SEM-Net")
    spa_options: dict[str, Any] = setting({}, "further options of SPA-Net")


class SemSpa(Network):
    """SEM+SPA (Fig. 2). Its logits are the logarithm of the two networks' mean softmax."""

    config_class: ClassVar[type] = SemSpaConfig

    def __init__(self, **options: object):
        super().__init__(**options)
        c = self.config
        shared = {"num_classes": c.num_classes, "bodies": c.bodies, "layout": c.layout}
        set_here = {"sem_options": {*shared, "frames", "streams"}, "spa_options": {*shared, "frames"}}
        for name, fixed in set_here.items():
            if both := sorted(fixed & getattr(c, name).keys()):
                raise ConfigError(f"{name} has {both[0]}, which is an option of sem_spa itself: set it there")
        self.sem = SemNet(**{**c.sem_options, **shared, "frames": c.frames, "streams": c.streams})
        self.spa = SPA[c.spa](**{**c.spa_options, **shared, "frames": min(c.spa_frames, c.frames)})
        self.base_channels = {f"spa.{name}": channels for name, channels in self.spa.base_channels.items()}
        self.weight_targets = {"sem_net": ("sem",), f"spa_net_{c.spa}": ("spa",)}

    @property
    def input_specs(self) -> list[InputSpec]:
        """SEM-Net's inputs, then SPA-Net's."""
        return [*self.sem.input_specs, *self.spa.input_specs]

    def forward(self, **inputs: Tensor) -> Tensor:
        """Logarithm of the mean of both softmaxes, (N, classes)."""
        parts = (self.sem, self.spa)
        return mean(*(part(**{spec.name: inputs[spec.name] for spec in part.input_specs}) for part in parts))

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the sum of the networks' own losses: they are trained separately, only their scores are fused."""
        sem, spa = self.sem.losses(batch), self.spa.losses(batch)
        logits = mean(sem["logits"], spa["logits"])
        return {"loss": sem["loss"] + spa["loss"], "logits": logits, "sem": sem["loss"], "spa": spa["loss"]}


def mean(sem: Tensor, spa: Tensor) -> Tensor:
    """Logarithm log((softmax(a) + softmax(b)) / 2) of two networks' logits, (N, classes)."""
    return combine([sem, spa]) - math.log(2)
