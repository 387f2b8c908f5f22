"""DeepActsNet (Asif et al., AAAI 2021): the graph network on body joints and bones.

One ST-GCN branch a modality (Fig. 3); the branches' scores are summed before the softmax.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from actrec.config import setting
from actrec.features.skeleton import SkeletonPreprocessing
from actrec.package import InputSpec
from actrec_models.networks.base import Network
from actrec_models.networks.graph import GraphBlock, partition

LAYERS = ((1, 1), (1, 1), (1, 1), (1, 1), (2, 2), (2, 1), (2, 1), (4, 2), (4, 1), (4, 1))
"""(multiple of the base width, temporal stride) of ST-GCN's ten blocks: 64 ×4, 128 ×3, 256 ×3 at base width 64."""


@dataclass(frozen=True)
class DeepActsGraphConfig:
    """Options of `deepacts_graph`; the defaults are the paper's."""

    num_classes: int = setting(60, "classes", range=(1, 100_000))
    modalities: tuple[str, ...] = setting(("body", "bones"), "branches, one a modality")
    frames: int = setting(60, "T, frames of a clip (200 on SYSU)", range=(1, 1000))
    bodies: int = setting(1, "M, bodies of a clip; their features are averaged", range=(1, 8))
    width: int = setting(64, "channels of the first block", range=(4, 512))
    kernel: int = setting(9, "temporal kernel of a block, odd", range=(1, 31))
    dropout: float = setting(0.0, "in each block", range=(0.0, 0.9))


class GraphBranch(nn.Module):
    """ST-GCN on one modality: (N, M, 3, T, V) to class scores (N, classes)."""

    def __init__(self, options: DeepActsGraphConfig, layout: str):
        super().__init__()
        adjacency = partition(layout)
        self.norm = nn.BatchNorm1d(3 * adjacency.shape[-1])
        widths = [options.width * multiple for multiple, _ in LAYERS]
        self.blocks = nn.Sequential(
            *(
                GraphBlock(before, after, adjacency, stride, options.kernel, options.dropout, residual=layer > 0)
                for layer, (before, after, (_, stride)) in enumerate(zip([3, *widths], widths, LAYERS, strict=False))
            )
        )
        self.fc = nn.Linear(widths[-1], options.num_classes)

    def forward(self, f_in: Tensor) -> Tensor:
        """(N, M, 3, T, V) to (N, classes)."""
        n, m, c, t, v = f_in.shape
        f = f_in.reshape(n * m, c, t, v)  # (N·M, C, T, V)
        f = f.permute(0, 3, 1, 2).reshape(n * m, v * c, t)  # (N·M, V·C, T)
        f = self.norm(f).reshape(n * m, v, c, t).permute(0, 2, 3, 1)  # (N·M, C, T, V)
        f = self.blocks(f).mean(dim=(2, 3))  # global average pool: (N·M, C)
        f = f.reshape(n, m, -1).mean(dim=1)  # (N, C)
        return self.fc(f)


class DeepActsGraph(Network):
    """The graph network of Fig. 3, one branch a modality, scores summed.

    Args:
        options: Fields of `DeepActsGraphConfig`.
    """

    config_class = DeepActsGraphConfig
    layout = "kinect_v2_25"

    def __init__(self, **options: object):
        super().__init__(**options)
        self.branches = nn.ModuleDict({m: GraphBranch(self.config, self.layout) for m in self.config.modalities})

    @property
    def input_specs(self) -> list[InputSpec]:
        """One input a modality, (M, 3, T, V) without the batch axis."""
        preprocessing = dataclasses.asdict(SkeletonPreprocessing())
        shape = (self.config.bodies, 3, self.config.frames, 25)
        return [
            InputSpec(m, m, self.layout, shape, unit="m", preprocessing=preprocessing) for m in self.config.modalities
        ]

    def forward(self, **inputs: Tensor) -> Tensor:
        """Sum of the branches' class scores, (N, classes)."""
        scores = [branch(inputs[modality]) for modality, branch in self.branches.items()]
        return torch.stack(scores).sum(dim=0)
