"""A trained network taken over to other classes: its body with its weights, a new head, frozen first, then not.

The head is whatever changes its shape with the number of classes. Its layers must be linear and the logits their sum,
as in the graph networks (one a branch): then the body's features are computed once and the head is fitted to them.
"""

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from actrec.inference import zoo
from actrec.inference.package import ModelPackage
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, PackageError
from actrec_models.data.samples import Samples
from actrec_models.export.onnx_graph import example_inputs
from actrec_models.networks.base import OUTLIER, Network
from actrec_models.registry import NETWORKS, create
from actrec_models.training import initial_weights
from actrec_models.training.monitoring import fast_bfloat16

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class TuningConfig:
    """How the network is trained on the new classes."""

    head_steps: int = setting(
        300, "steps in which the head is fitted to the frozen body's features", range=(1, 100_000)
    )
    steps: int = setting(100, "steps in which all of the network is trained then; 0: none", range=(0, 100_000))
    batch: int = setting(16, "clips a step", range=(2, 4096))
    learning_rate: float = setting(1e-3, "peak of the one-cycle schedule of these steps", range=(1e-7, 1.0))
    weight_decay: float = setting(0.05, "of AdamW", range=(0.0, 1.0))
    label_smoothing: float = setting(0.1, "of the cross-entropy", range=(0.0, 0.9))
    outlier_weight: float = setting(1.0, "of the loss of what shows no class", range=(0.0, 10.0))
    precision: str = setting(
        "auto", "of the body; auto: bf16-mixed where the CPU is fast at it", choices=("auto", "bf16-mixed", "32-true")
    )


@dataclass(frozen=True)
class Base:
    """A package whose network is taken over.

    Attributes:
        package: The package.
        options: Of its network, the number of classes left out.
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
        """The network for so many classes: the base's body, and a head of zeros.

        Raises:
            ConfigError: Its logits are no sum of linear layers.
        """
        network: Network = create(self.package.family, num_classes=classes, **self.options)
        body = {name: value for name, value in self.tensors.items() if name not in self.head}
        network.load_state_dict(body, strict=False)
        for layer in self.layers(network):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        return network.eval()

    def layers(self, network: Network) -> list[nn.Linear]:
        """The head's layers."""
        found = [network.get_submodule(name) for name in dict.fromkeys(n.rpartition(".")[0] for n in self.head)]
        if not found or not all(isinstance(layer, nn.Linear) and layer.bias is not None for layer in found):
            raise ConfigError(f"{self.package.family} has no linear head: train it with `actrec train --init` instead")
        return found

    @torch.no_grad()
    def check(self) -> None:
        """Makes sure that the logits are the sum of the head's layers, whatever their weights.

        Raises:
            ConfigError: They are not.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = self.network(3)
            for layer in self.layers(network):
                layer.reset_parameters()
            inputs = example_inputs(network, 3)
        features, logits = self.features(network, inputs, "32-true"), network(**inputs)
        expected = torch.zeros_like(logits)
        for layer, part in zip(self.layers(network), features, strict=True):
            expected += layer(part)
        if not torch.allclose(expected, logits, atol=1e-4, rtol=1e-4):
            raise ConfigError(
                f"{self.package.family}'s logits are no sum of linear layers: use `actrec train --init` instead"
            )

    @torch.no_grad()
    def features(self, network: Network, inputs: Batch, precision: str) -> list[Tensor]:
        """What reaches each of the head's layers, [N, D] each, float32."""
        layers = self.layers(network)
        found: list[Tensor | None] = [None] * len(layers)

        def keep(number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            return lambda _, given: found.__setitem__(number, given[0])

        hooks = [layer.register_forward_pre_hook(keep(number)) for number, layer in enumerate(layers)]
        try:
            with autocast(next(network.parameters()).device, precision):
                network(**inputs)
        finally:
            for hook in hooks:
                hook.remove()
        kept = [part.float() for part in found if part is not None and part.ndim == 2]
        if len(kept) < len(layers):
            raise ConfigError(f"{self.package.family}'s head sees a clip in several parts: use `actrec train --init`")
        return kept


def open_base(name: str | Path) -> Base:
    """Opens a package to take its network over.

    Raises:
        PackageError: There is none, it came without its weights, or they are not those of its network.
    """
    found = zoo.find(name)
    file = initial_weights.of_package(found)
    options = options_of(found)
    tensors = initial_weights.read(file).tensors
    network: Network = create(found.family, num_classes=len(found.labels), **options)
    stated = [(spec.name, spec.modality, spec.layout, tuple(spec.shape)) for spec in found.inputs]
    made = [(spec.name, spec.modality, spec.layout, tuple(spec.shape)) for spec in network.input_specs]
    try:
        if stated != made:
            raise RuntimeError(f"it takes {made}")
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise PackageError(
            f"{found.path}: its weights are not those of {found.family} with {options or 'no options'} "
            f"({str(error).splitlines()[0]}); export it again"
        ) from error
    return Base(found, options, tensors)


def options_of(found: ModelPackage) -> dict[str, Any]:
    """The options of a package's network, from its variant and its inputs."""
    known = [field.name for field in fields(NETWORKS.get(found.family).config_class)]
    either = "|".join(sorted(known, key=len, reverse=True))
    pairs = re.findall(rf"(?:^|, )({either}) (.*?)(?=, (?:{either}) |$)", found.variant)
    options = {name: None if value == "None" else yaml.safe_load(value) for name, value in pairs}
    told = {
        "frames": found.window.clip_frames,
        "bodies": found.bodies,
        "modalities": [spec.modality for spec in found.inputs],
    }
    return {**{name: value for name, value in told.items() if name in known}, **options}


def autocast(device: torch.device, precision: str) -> Any:
    """The context in which a body runs."""
    enabled = fast_bfloat16(device) if precision == "auto" else precision == "bf16-mixed"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def stacked(items: Sequence[dict[str, Any]], device: torch.device | None = None) -> Batch:
    """Inputs of several samples, their labels left aside."""
    names = [name for name in items[0] if name != "label"]
    return {name: torch.from_numpy(np.stack([item[name] for item in items])).to(device) for name in names}


def loss_of(logits: Tensor, labels: Tensor, config: TuningConfig) -> Tensor:
    """Smoothed cross-entropy [N]; what shows no class is asked for equal probabilities."""
    plain = nn.functional.cross_entropy(
        logits, labels, reduction="none", ignore_index=OUTLIER, label_smoothing=config.label_smoothing
    )
    unsure = -torch.log_softmax(logits, dim=1).mean(dim=1)
    return torch.where(labels != OUTLIER, plain, config.outlier_weight * unsure)


def fit_head(features: Tensor, labels: Tensor, classes: int, config: TuningConfig) -> tuple[Tensor, Tensor]:
    """Weights [classes, D] and bias [classes] of a linear head on features [N, D]; classes count alike."""
    mean, scale = features.mean(dim=0), features.std(dim=0) + 1e-3
    standard = (features - mean) / scale
    counts = torch.bincount(labels - OUTLIER, minlength=classes + 1).clamp(min=1)
    share = (1 / counts.float())[labels - OUTLIER]
    weight, bias = torch.zeros(classes, features.shape[1], requires_grad=True), torch.zeros(classes, requires_grad=True)
    rate = 1e-2  # of standardised features: convex, so that it matters little
    optimizer = torch.optim.AdamW([{"params": [weight], "weight_decay": config.weight_decay}, {"params": [bias]}], rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, config.head_steps)
    for _ in range(config.head_steps):
        loss = (loss_of(standard @ weight.T + bias, labels, config) * share).sum() / share.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        turned = weight / scale
        return turned, bias - turned @ mean


@torch.no_grad()
def set_head(layers: Sequence[nn.Linear], weight: Tensor, bias: Tensor) -> None:
    """Gives the head's layers a head on all of their features; the first one gets the bias."""
    for number, (layer, part) in enumerate(
        zip(layers, weight.split([layer.in_features for layer in layers], dim=1), strict=True)
    ):
        layer.weight.copy_(part)
        layer.bias.copy_(bias if number == 0 else torch.zeros_like(bias))


def tune(
    network: Network,
    samples: Samples,
    labels: np.ndarray,
    config: TuningConfig,
    seconds: float,
    step: Callable[[], object],
) -> int:
    """Trains all of a network on augmented clips, classes drawn alike.

    Args:
        network: Changed in place; in evaluation mode afterwards, on the CPU.
        samples: What is drawn from.
        labels: Of its clips.
        config: Steps, rate.
        seconds: Where they are over before the steps are, the schedule comes to its end with them.
        step: Called after each step.

    Returns:
        Steps taken.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seed = samples.recipe.seed
    torch.manual_seed(seed)
    rng, began, taken = np.random.default_rng([seed, len(labels)]), time.monotonic(), 0
    network.to(device).train()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, config.learning_rate)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    while taken < config.steps and time.monotonic() - began < seconds:
        # By steps, so that the same seed gives the same network; by the clock where it runs ahead of them.
        progress, passed = taken / config.steps, (time.monotonic() - began) / seconds
        progress = passed if passed > (taken + 1) / config.steps else progress
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * one_cycle(progress)
        chosen = [int(rng.choice(members[int(rng.integers(len(members)))])) for _ in range(config.batch)]
        items = [samples[(taken + 1, index, again)] for again, index in enumerate(chosen)]
        with autocast(device, config.precision):
            logits = network(**stacked(items, device))
        loss = loss_of(logits.float(), torch.tensor([item["label"] for item in items], device=device), config).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        taken += 1
        step()
    network.cpu().eval()
    return taken


def one_cycle(progress: float) -> float:
    """Share of the peak rate at 0…1 of the training: up along a cosine over 15 %, down along one to nothing."""
    rise = 0.15
    if progress < rise:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * progress / rise)) / 2
    return (1 + math.cos(math.pi * (progress - rise) / (1 - rise))) / 2
