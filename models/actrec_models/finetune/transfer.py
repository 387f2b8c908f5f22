"""Transfer of a trained network to other classes: pretrained backbone, new linear head, frozen first, then fine-tuned.

The head consists of all parameters whose shape depends on the number of classes. Its layers must be linear and the
logits their sum, as in the graph networks (one per branch). The features of the frozen backbone are then computed once.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from actrec.inference.package import ModelPackage
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError
from actrec_models.data.samples import Samples
from actrec_models.export.onnx_graph import example_inputs
from actrec_models.networks.base import OUTLIER, Network
from actrec_models.registry import create
from actrec_models.training.checkpoints import open_package
from actrec_models.training.trainer import fast_bfloat16

Batch = dict[str, Tensor]

HEAD_LEARNING_RATE = 1e-2
"""Learning rate of the head on standardized features, a convex problem."""

WARM_UP = 0.15
"""Share of the training in which the learning rate rises."""


@dataclass(frozen=True)
class TuningConfig:
    """Settings of the training on the new classes."""

    head_steps: int = setting(300, "training steps of the head on the frozen backbone's features", range=(1, 100_000))
    steps: int = setting(100, "training steps of the whole network after its head; 0: none", range=(0, 100_000))
    batch: int = setting(16, "clips per step", range=(2, 4096))
    learning_rate: float = setting(1e-3, "peak of the one-cycle schedule of these steps", range=(1e-7, 1.0))
    weight_decay: float = setting(0.05, "weight decay of AdamW", range=(0.0, 1.0))
    label_smoothing: float = setting(0.1, "label smoothing of the cross-entropy", range=(0.0, 0.9))
    outlier_weight: float = setting(1.0, "weight of the loss of clips without a class", range=(0.0, 10.0))
    precision: str = setting(
        "auto",
        "precision of the backbone; auto: bf16-mixed if the CPU is fast at it",
        choices=("auto", "bf16-mixed", "32-true"),
    )


@dataclass(frozen=True)
class PretrainedModel:
    """A package with its network's weights.

    Attributes:
        package: The package.
        options: Options of its network, without the number of classes.
        tensors: Its weights.
    """

    package: ModelPackage
    options: dict[str, Any]
    tensors: dict[str, Tensor]

    @cached_property
    def head(self) -> tuple[str, ...]:
        """Names of the parameters that depend on the number of classes, in the network's order."""
        with torch.device("meta"):
            other = create(self.package.family, num_classes=len(self.package.labels) + 1, **self.options).state_dict()
        return tuple(name for name, value in other.items() if self.tensors[name].shape != value.shape)

    def network(self, classes: int) -> Network:
        """Return the network for `classes` classes, with the pretrained backbone and a head of zeros.

        Raises:
            ConfigError: Its head is not linear.
        """
        network: Network = create(self.package.family, num_classes=classes, **self.options)
        backbone = {name: value for name, value in self.tensors.items() if name not in self.head}
        network.load_state_dict(backbone, strict=False)
        for layer in self.head_layers(network):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        return network.eval()

    def head_layers(self, network: Network) -> list[nn.Linear]:
        """Return the head's layers."""
        names = dict.fromkeys(name.rpartition(".")[0] for name in self.head)
        modules = [network.get_submodule(name) for name in names]
        layers = [module for module in modules if isinstance(module, nn.Linear) and module.bias is not None]
        if not layers or len(layers) < len(modules):
            raise ConfigError(f"{self.package.family} has no linear head: train it with `actrec train --init` instead")
        return layers

    @torch.no_grad()
    def check_head(self) -> None:
        """Check that the logits are the sum of the head's layers for any weights.

        Raises:
            ConfigError: They are not.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = self.network(3)
            for layer in self.head_layers(network):
                layer.reset_parameters()
            inputs = example_inputs(network, 3)
        features, logits = self.features(network, inputs, "32-true"), network(**inputs)
        expected = torch.zeros_like(logits)
        for layer, part in zip(self.head_layers(network), features, strict=True):
            expected += layer(part)
        if not torch.allclose(expected, logits, atol=1e-4, rtol=1e-4):
            raise ConfigError(
                f"{self.package.family}'s logits are no sum of linear layers: use `actrec train --init` instead"
            )

    @torch.no_grad()
    def features(self, network: Network, inputs: Batch, precision: str) -> list[Tensor]:
        """Return the input of each of the head's layers, [N, D] float32."""
        layers = self.head_layers(network)
        found: list[Tensor | None] = [None] * len(layers)

        def store(number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            return lambda _, args: found.__setitem__(number, args[0])

        hooks = [layer.register_forward_pre_hook(store(number)) for number, layer in enumerate(layers)]
        try:
            with autocast(next(network.parameters()).device, precision):
                network(**inputs)
        finally:
            for hook in hooks:
                hook.remove()
        features = [part.float() for part in found if part is not None and part.ndim == 2]
        if len(features) < len(layers):
            raise ConfigError(
                f"{self.package.family}'s head does not take one vector per clip: use `actrec train --init`"
            )
        return features


def open_pretrained(name: str | Path) -> PretrainedModel:
    """Open a package for fine-tuning.

    Raises:
        PackageError: The package or its weights are missing, or the weights do not fit the network.
    """
    return PretrainedModel(*open_package(name))


def autocast(device: torch.device, precision: str) -> Any:
    """Return the context that computes in a precision of `TuningConfig`."""
    enabled = fast_bfloat16(device) if precision == "auto" else precision == "bf16-mixed"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def stack_inputs(items: Sequence[dict[str, Any]], device: torch.device | None = None) -> Batch:
    """Return the inputs of several samples as a batch, without labels."""
    names = [name for name in items[0] if name != "label"]
    return {name: torch.from_numpy(np.stack([item[name] for item in items])).to(device) for name in names}


def tuning_loss(logits: Tensor, labels: Tensor, config: TuningConfig) -> Tensor:
    """Return the smoothed cross-entropy [N]; the target of clips without a class is the uniform distribution."""
    known = nn.functional.cross_entropy(
        logits, labels, reduction="none", ignore_index=OUTLIER, label_smoothing=config.label_smoothing
    )
    outlier = -torch.log_softmax(logits, dim=1).mean(dim=1)
    return torch.where(labels != OUTLIER, known, config.outlier_weight * outlier)


def fit_head(features: Tensor, labels: Tensor, classes: int, config: TuningConfig) -> tuple[Tensor, Tensor]:
    """Return the weights [classes, D] and bias [classes] of a class-balanced linear head on features [N, D]."""
    mean, scale = features.mean(dim=0), features.std(dim=0) + 1e-3
    standard = (features - mean) / scale
    counts = torch.bincount(labels - OUTLIER, minlength=classes + 1).clamp(min=1)
    share = (1 / counts.float())[labels - OUTLIER]
    weight, bias = torch.zeros(classes, features.shape[1], requires_grad=True), torch.zeros(classes, requires_grad=True)
    groups: list[dict[str, Any]] = [{"params": [weight], "weight_decay": config.weight_decay}, {"params": [bias]}]
    optimizer = torch.optim.AdamW(groups, HEAD_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, HEAD_LEARNING_RATE, config.head_steps)
    for _ in range(config.head_steps):
        loss = (tuning_loss(standard @ weight.T + bias, labels, config) * share).sum() / share.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        unscaled = weight / scale
        return unscaled, bias - unscaled @ mean


@torch.no_grad()
def set_head(layers: Sequence[nn.Linear], weight: Tensor, bias: Tensor) -> None:
    """Copy a head on all features into the head's layers; the first layer gets the bias."""
    parts = weight.split([layer.in_features for layer in layers], dim=1)
    for number, (layer, part) in enumerate(zip(layers, parts, strict=True)):
        layer.weight.copy_(part)
        layer.bias.copy_(bias if number == 0 else torch.zeros_like(bias))


def fine_tune(
    network: Network,
    samples: Samples,
    labels: np.ndarray,
    config: TuningConfig,
    seconds: float,
    on_step: Callable[[], object],
) -> int:
    """Train the whole network on augmented clips, with class-balanced sampling.

    Args:
        network: Changed in place; in evaluation mode afterwards, on the CPU.
        samples: The clips.
        labels: Their classes.
        config: Settings.
        seconds: Time limit; the schedule is shortened to end with it.
        on_step: Called after each step.

    Returns:
        The number of steps.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seed = samples.recipe.seed
    torch.manual_seed(seed)
    rng, start, step = np.random.default_rng([seed, len(labels)]), time.monotonic(), 0
    network.to(device).train()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, config.learning_rate)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    while step < config.steps and time.monotonic() - start < seconds:
        # Progress by steps gives reproducible networks; the clock counts only if it is ahead of the steps.
        progress, elapsed = step / config.steps, (time.monotonic() - start) / seconds
        progress = elapsed if elapsed > (step + 1) / config.steps else progress
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * one_cycle(progress)
        chosen = [int(rng.choice(members[int(rng.integers(len(members)))])) for _ in range(config.batch)]
        items = [samples[(step + 1, index, number)] for number, index in enumerate(chosen)]
        with autocast(device, config.precision):
            logits = network(**stack_inputs(items, device))
        targets = torch.tensor([item["label"] for item in items], device=device)
        loss = tuning_loss(logits.float(), targets, config).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        on_step()
    network.cpu().eval()
    return step


def one_cycle(progress: float) -> float:
    """Return the share of the peak learning rate at 0..1 of the training: a cosine up, then a cosine down to zero."""
    if progress < WARM_UP:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * progress / WARM_UP)) / 2
    return (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2
