"""DeepActsNet (Asif et al., AAAI 2021): convolutional and graph branches on body, bones, hands, face and motion.

One branch a modality (Fig. 3); the scores of all branches are summed before the softmax. A modality that is absent, its
input all zero, adds nothing to the sum.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from actrec.errors import ConfigError
from actrec.package import InputSpec
from actrec_models.networks.base import Network
from actrec_models.networks.deepacts_options import (
    MODALITIES,
    MOVED,
    PICTURE_NETWORKS,
    CnnOptions,
    DeepActsCnnConfig,
    DeepActsConfig,
    DeepActsGraphConfig,
    DeepActsMultiConfig,
    Joints,
    check_choice,
    graph_specs,
    joints_of,
    stamp_specs,
)
from actrec_models.networks.efficientnet import EfficientNetB0
from actrec_models.networks.graph import GraphBlock, partition, present, unpadded_frames
from actrec_models.networks.hcn import POOLED, Hcn
from actrec_models.networks.resnet import ResNet50
from actrec_models.networks.shapes import sizes

LAYERS = ((1, 1), (1, 1), (1, 1), (1, 1), (2, 2), (2, 1), (2, 1), (4, 2), (4, 1), (4, 1))
"""(multiple of the base width, temporal stride) of ST-GCN's ten blocks: 64 ×4, 128 ×3, 256 ×3 at base width 64."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pooled_frames(options: DeepActsGraphConfig) -> int:
    """T' of the last block's output, which the global average pool goes over.

    Raises:
        ConfigError: The clip is too short for unpadded convolutions.
    """
    frames = options.frames
    for _, stride in LAYERS:
        frames = -(-frames // stride) if options.padding == "same" else unpadded_frames(frames, options.kernel, stride)
    if frames < 1:
        raise ConfigError(
            f"frames is {options.frames}: without padding, kernel {options.kernel} needs "
            f"{receptive_field(options.kernel)}"
        )
    return frames


def receptive_field(kernel: int) -> int:
    """Frames that one output of the last block is about."""
    step = np.cumprod([1, *(stride for _, stride in LAYERS[:-1])])
    return 1 + int(step.sum()) * (kernel - 1)


class GraphBranch(nn.Module):
    """ST-GCN on one modality: (N, M, 3, T, V) to class scores (N, classes), zero for an input that is all zero."""

    def __init__(self, options: Any, joints: Joints):
        super().__init__()
        adjacency = partition(joints.layout, joints.sets)
        self.padding, self.length = options.padding == "same", pooled_frames(options)
        self.norm = nn.BatchNorm1d(3 * len(joints))
        widths = [options.width * multiple for multiple, _ in LAYERS]
        self.blocks = nn.Sequential(
            *(
                GraphBlock(before, after, adjacency, stride, options.kernel, options.dropout, layer > 0, self.padding)
                for layer, (before, after, (_, stride)) in enumerate(zip([3, *widths], widths, LAYERS, strict=False))
            )
        )
        self.fc = nn.Linear(widths[-1], options.num_classes)

    def forward(self, f_in: Tensor) -> Tensor:
        """(N, M, 3, T, V) to (N, classes)."""
        f = self.blocks(self.normalise(f_in)).mean(dim=(2, 3))  # global average pool: (N·M, C)
        f = f.reshape(-1, sizes(f_in)[0], self.fc.in_features).mean(dim=1)  # mean of (N, M, C) over M
        return self.fc(f) * present(f_in)

    def normalise(self, f_in: Tensor) -> Tensor:
        """Batch normalisation of each coordinate of each joint: (N, M, 3, T, V) to (N·M, 3, T, V)."""
        _, c, t, v = sizes(f_in)
        f = f_in.reshape(-1, c, t, v)  # (N·M, C, T, V)
        f = f.permute(0, 3, 1, 2).reshape(-1, v * c, t)  # (N·M, V·C, T)
        return self.norm(f).reshape(-1, v, c, t).permute(0, 2, 3, 1)  # (N·M, C, T, V)


class StampBranch(nn.Module):
    """A picture network on one modality's stamps: (N, M, 3, H, W) in 0…255 to scores (N, classes), 0 for no stamp."""

    mean: Tensor
    scale: Tensor

    def __init__(self, net: nn.Module, classes: int):
        super().__init__()
        self.net = net
        self.classes = classes
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN).reshape(3, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / (255 * torch.tensor(IMAGENET_STD)).reshape(3, 1, 1), persistent=False)

    def forward(self, stamps: Tensor) -> Tensor:
        """(N, M, 3, H, W) to (N, classes), averaged over the bodies that are there."""
        n, m, c, h, w = stamps.shape
        pictures = stamps.reshape(n * m, c, h, w)  # (N·M, C, H, W)
        # The mean is taken off first: around 0.5 a half-precision number is coarser than around 0.
        scores = self.net((pictures - self.mean) * self.scale).reshape(n, m, self.classes)  # (N, M, classes)
        there = present(pictures).reshape(n, m, 1)  # (N, M, 1)
        return (scores * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)  # (N, classes)


class _Branches(Network):
    """One branch a modality, in the order of the inputs; the branches' scores are summed."""

    branches: nn.ModuleDict

    def __init__(self, **options: Any):
        super().__init__(**options)
        check_choice("modalities", self.config.modalities, (*MODALITIES, *MOVED))
        self.names = [spec.name for spec in self.input_specs]
        joints = {name: joints_of(self.config, name) for name in self.config.modalities}
        self.branches = nn.ModuleDict({name: self._branch(made_of) for name, made_of in joints.items()})

    @abstractmethod
    def _branch(self, joints: Joints) -> nn.Module: ...

    def forward(self, **inputs: Tensor) -> Tensor:
        """Sum of the branches' class scores, (N, classes)."""
        scores = [branch(inputs[name]) for name, branch in zip(self.names, self.branches.values(), strict=True)]
        return sum(scores[1:], scores[0])


class DeepActsGraph(_Branches):
    """The graph network of Fig. 3.

    Args:
        options: Fields of `DeepActsGraphConfig`.
    """

    config_class = DeepActsGraphConfig

    def _branch(self, joints: Joints) -> nn.Module:
        if self.config.kernel % 2 == 0:
            raise ConfigError(f"kernel is {self.config.kernel}: a temporal convolution that keeps T has an odd one")
        return GraphBranch(self.config, joints)

    @property
    def input_specs(self) -> list[InputSpec]:
        """One input a modality, (M, 3, T, N) without the batch axis."""
        return graph_specs(self.config)


class DeepActsCnn(_Branches):
    """The convolutional network of Fig. 3: EfficientNet-B0 on stamps; Table 1's ResNet-50 and HCN by option `cnn`.

    Args:
        options: Fields of `DeepActsCnnConfig`.
    """

    config_class = DeepActsCnnConfig

    def _branch(self, joints: Joints) -> nn.Module:
        c = self.config
        options: dict[str, Any] = {"width": c.cnn_width}
        if c.cnn_dropout is not None:
            options["dropout"] = c.cnn_dropout
        if c.cnn == "hcn":
            if c.frames < POOLED:
                raise ConfigError(f"frames is {c.frames}: HCN halves them four times, so that it needs {POOLED}")
            return Hcn(c.num_classes, c.frames, len(joints), **options)
        network = {"efficientnet_b0": EfficientNetB0, "resnet50": ResNet50}[c.cnn]
        return StampBranch(network(c.num_classes, depth=c.cnn_depth, **options), c.num_classes)

    @property
    def input_specs(self) -> list[InputSpec]:
        """One stamp a modality, (M, 3, size, size); HCN's are (M, 3, T, N)."""
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
        self.graph = DeepActsGraph(**self._options_of(DeepActsGraphConfig))
        shared = self._options_of(CnnOptions)
        self.cnns = nn.ModuleDict({name: DeepActsCnn(**shared, cnn=name) for name in self._cnn_names()})

    @abstractmethod
    def _cnn_names(self) -> tuple[str, ...]: ...

    def _options_of(self, config_class: type) -> dict[str, Any]:
        return {field.name: getattr(self.config, field.name) for field in dataclasses.fields(config_class)}

    @property
    def input_specs(self) -> list[InputSpec]:
        """The graph network's inputs and the convolutional networks', each once."""
        parts = [self.graph, *self.cnns.values()]
        return list({spec.name: spec for part in parts for spec in part.input_specs}.values())

    @property
    def weight_targets(self) -> Mapping[str, tuple[str, ...]]:  # type: ignore[override]
        """Those of the convolutional networks, and the networks that it joins, trained apart."""
        public = {
            form: tuple(f"cnns.{name}.{target}" for target in targets)
            for name, cnn in self.cnns.items()
            for form, targets in cnn.weight_targets.items()
        }
        apart: dict[str, tuple[str, ...]] = {"deepacts_graph": ("graph",)}
        if len(self.cnns) == 1:
            apart["deepacts_cnn"] = tuple(f"cnns.{name}" for name in self.cnns)
        return {**public, **apart}

    def forward(self, **inputs: Tensor) -> Tensor:
        """Sum of all branches' class scores, (N, classes)."""
        parts = (self.graph, *self.cnns.values())
        scores = [part(**{name: inputs[name] for name in part.names}) for part in parts]
        return sum(scores[1:], scores[0])


class DeepActs(_Ensemble):
    """DeepActsNet, CNN + Graph: one convolutional network and the graph network.

    Args:
        options: Fields of `DeepActsConfig`.
    """

    config_class = DeepActsConfig

    def _cnn_names(self) -> tuple[str, ...]:
        return (self.config.cnn,)


class DeepActsMulti(_Ensemble):
    """DeepActsNet, Multi-CNN + Graph: EfficientNet-B0, ResNet-50 and the graph network.

    Args:
        options: Fields of `DeepActsMultiConfig`.
    """

    config_class = DeepActsMultiConfig

    def _cnn_names(self) -> tuple[str, ...]:
        check_choice("cnns", self.config.cnns, PICTURE_NETWORKS)
        return tuple(self.config.cnns)
