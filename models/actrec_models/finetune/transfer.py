"""Transfer of a trained network to other classes: pretrained backbone, new linear head, optionally fine-tuned.

The head consists of all parameters whose shape depends on the number of classes. Its layers must be linear and the
logits their sum, as in the graph networks (one per branch). The features of the frozen backbone are then computed once.
"""

import dataclasses
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import default_collate
from tqdm import tqdm

from actrec.inference import zoo
from actrec.inference.package import ModelPackage
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, PackageError
from actrec_models.data.augmentation import Augmentation, names_side
from actrec_models.data.samples import Samples
from actrec_models.export.onnx_graph import example_inputs
from actrec_models.networks import NETWORKS, create
from actrec_models.networks.base import Network, sample_losses
from actrec_models.training import initial_weights
from actrec_models.training.machine import fast_bfloat16
from actrec_models.training.recipe import Optimizer

Batch = dict[str, Tensor]

_WARM_UP = 0.15  # share of the training in which the learning rate rises
_SHRINKAGE_CLIPS = 5  # the scatter is shrunk by this number divided by the number of clips
_MOST_SHRINKAGE = 0.5
_LEAST_SMOOTHING = 0.01
_TIMED_STEPS = 10  # steps from which the duration of all steps is estimated
_OVERRUN = 1.25  # estimated duration, as a share of the time left, from which fine-tuning is given up


@dataclass(frozen=True)
class TeachConfig:
    """Settings of `actrec teach`."""

    base: str = setting("joint_tcn_everyday", "pretrained package: its name or folder")
    steps: int = setting(100, "fine-tuning steps of the whole network; 0: the head alone", range=(0, 100_000))
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
    least: int = setting(10, "clips of each class from which the whole network is fine-tuned", range=(1, 10_000))
    draws: int = setting(8, "augmented versions of each clip for the frozen backbone", range=(1, 1000))
    folds: int = setting(5, "largest number of folds of the cross-validation", range=(2, 100))
    rehearsals: int = setting(2, "fine-tunings without a class, for the rejection threshold", range=(1, 100))
    outliers: float = setting(0.2, "share of synthetic outliers among the augmented clips", range=(0.0, 0.9))
    mirror: str = setting(
        "auto", "also train on mirrored clips; auto: unless a label has a side", choices=("auto", "yes", "no")
    )
    augmentation: dict = setting({}, "fields of actrec_models.data.augmentation.Augmentation")
    minutes: float = setting(10.0, "time limit; in a short one, the head alone is trained", range=(0.1, 1e5))
    seed: int = setting(1, "random seed", range=(0, 2**31 - 1))

    def augmentation_for(self, labels: Sequence[str]) -> Augmentation:
        """Return the augmentation for these labels."""
        sided = any(names_side(label) for label in labels)
        mirror = self.mirror == "yes" or (self.mirror == "auto" and not sided)
        return config.build(Augmentation, {"mirror": mirror, **self.augmentation})


@dataclass(frozen=True)
class PretrainedModel:
    """A package with its network's weights, and its options without the number of classes."""

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
        """Return the network: pretrained backbone, head of zeros; raise ConfigError unless the head is linear."""
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
        """Raise ConfigError unless the logits are the sum of the head's layers for any weights."""
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
        found: dict[nn.Module, Tensor] = {}

        def store(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            found[layer] = args[0]

        hooks = [layer.register_forward_pre_hook(store) for layer in layers]
        try:
            with autocast(next(network.parameters()).device, precision):
                network(**inputs)
        finally:
            for hook in hooks:
                hook.remove()
        features = [found[layer].float() for layer in layers if layer in found and found[layer].ndim == 2]
        if len(features) < len(layers):
            raise ConfigError(
                f"{self.package.family}'s head does not take one vector per clip: use `actrec train --init`"
            )
        return features


def open_pretrained(name: str | Path) -> PretrainedModel:
    """Open a package (a folder, or a name in the zoo) for fine-tuning.

    Raises:
        PackageError: The package or its weights are missing, or the weights do not fit the network.
    """
    found = zoo.find(name)
    tensors = initial_weights.read(initial_weights.package_weights(found)).tensors
    options = network_options(found)
    network: Network = create(found.family, num_classes=len(found.labels), **options)
    stated, built = (
        [(spec.name, spec.modality, spec.layout, tuple(spec.shape)) for spec in specs]
        for specs in (found.inputs, network.input_specs)
    )
    try:
        if stated != built:
            raise RuntimeError(f"it takes {built}")
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise PackageError(
            f"{found.path}: its weights do not fit {found.family} with {options or 'no options'} "
            f"({str(error).splitlines()[0]}); export it again"
        ) from error
    return PretrainedModel(found, options, tensors)


def network_options(found: ModelPackage) -> dict[str, Any]:
    """Return the options of a package's network, parsed from its variant and inputs."""
    known = [field.name for field in dataclasses.fields(NETWORKS.get(found.family).config_class)]
    names = "|".join(sorted(known, key=len, reverse=True))
    pairs = re.findall(rf"(?:^|, )({names}) (.*?)(?=, (?:{names}) |$)", found.variant)
    options = {name: None if value == "None" else yaml.safe_load(value) for name, value in pairs}
    implied = {
        "frames": found.window.clip_frames,
        "bodies": found.bodies,
        "modalities": [spec.modality for spec in found.inputs],
    }
    return {**{name: value for name, value in implied.items() if name in known}, **options}


def autocast(device: torch.device, precision: str) -> Any:
    """Return the context that computes in a precision of `TeachConfig`."""
    enabled = fast_bfloat16(device) if precision == "auto" else precision == "bf16-mixed"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def prototype_head(
    features: Tensor, labels: Tensor, classes: int, clips: int, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return the weights [classes, D] and bias [classes] of the nearest class mean, in closed form.

    The distance is Mahalanobis' with the scatter within classes (linear discriminant analysis), shrunk towards its mean
    the more, the fewer clips there are. All classes have the same weight. Clips without a class are one more class. Its
    logit is subtracted from the others, which are all low for such clips. The logits are scaled to the mean margin that
    label smoothing aims at.

    Args:
        features: [N, D] of augmented versions of the clips.
        labels: [N], −1 for clips without a class.
        clips: Number of different clips in the features.
        smoothing: Label smoothing, 0..1.
    """
    count = classes + bool((labels < 0).any())
    features, labels = features.double(), torch.where(labels < 0, classes, labels)
    mean, scale = features.mean(dim=0), features.std(dim=0) + 1e-3
    standard = (features - mean) / scale
    means = torch.stack([standard[labels == label].mean(dim=0) for label in range(count)])
    share = 1 / (count * torch.bincount(labels, minlength=count).double())[labels]
    deviations = standard - means[labels]
    scatter = (deviations * share[:, None]).T @ deviations
    shrinkage = min(_MOST_SHRINKAGE, _SHRINKAGE_CLIPS / clips)
    target = torch.eye(len(scatter), dtype=scatter.dtype) * (scatter.diagonal().mean() + 1e-6)
    weight = torch.linalg.solve((1 - shrinkage) * scatter + shrinkage * target, means.T).T
    bias = -(weight * means).sum(dim=1) / 2
    logits = standard @ weight.T + bias
    own = logits.gather(1, labels[:, None]).squeeze(1)
    margin = (own - (logits.sum(dim=1) - own) / (count - 1)).mean().clamp(min=1e-6)
    other = max(smoothing, _LEAST_SMOOTHING) / count
    temperature = margin / math.log((1 - (count - 1) * other) / other)
    weight, bias = weight / scale / temperature, bias / temperature
    bias = bias - weight @ mean
    if count > classes:
        weight, bias = weight[:-1] - weight[-1], bias[:-1] - bias[-1]
    return weight.float(), bias.float()


@torch.no_grad()
def set_head(layers: Sequence[nn.Linear], weight: Tensor, bias: Tensor) -> None:
    """Copy a head on all features into the head's layers; the first layer gets the bias."""
    parts = weight.split([layer.in_features for layer in layers], dim=1)
    for number, (layer, part) in enumerate(zip(layers, parts, strict=True)):
        layer.weight.copy_(part)
        layer.bias.copy_(bias if number == 0 else torch.zeros_like(bias))


class Steps:
    """Training steps that must end by a deadline, counted over several trainings.

    Attributes:
        expected_s: Estimated seconds of all steps.
    """

    def __init__(self, total: int, deadline: float, bar: tqdm):
        self.total, self.bar, self.done = total, bar, 0
        self.start, self.deadline, self.expected_s = time.monotonic(), deadline, 0.0

    def step(self) -> bool:
        """Count a step; return whether all steps can be expected to end in time."""
        self.done += 1
        self.bar.update()
        elapsed, limit = time.monotonic() - self.start, self.deadline - self.start
        self.expected_s = elapsed / self.done * self.total
        late = self.done >= _TIMED_STEPS and self.expected_s > _OVERRUN * limit
        return not late and (elapsed <= limit or self.done == self.total)


def fine_tune(network: Network, samples: Samples, settings: TeachConfig, steps: Steps) -> bool:
    """Train the whole network for `settings.steps` on augmented clips; return False if the time does not suffice.

    Every class is sampled equally often. The network is in evaluation mode afterwards, on the CPU. It depends on the
    seed and the clips alone, not on the machine's load.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    labels, seed = samples.clips.labels, samples.recipe.seed
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, len(labels)])
    network.to(device).train()
    optimizer = Optimizer().make(network.parameters(), settings.learning_rate, settings.weight_decay)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    in_time = True
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * one_cycle(step / settings.steps)
        chosen = [int(rng.choice(members[int(rng.integers(len(members)))])) for _ in range(settings.batch)]
        batch = default_collate([samples[(step + 1, index, number)] for number, index in enumerate(chosen)])
        inputs = {name: value.to(device) for name, value in batch.items()}
        targets = inputs.pop("label")
        with autocast(device, settings.precision):
            logits = network(**inputs)
        loss = sample_losses(logits.float(), targets, settings.label_smoothing, settings.outlier_weight).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if not (in_time := steps.step()):
            break
    network.cpu().eval()
    return in_time


def one_cycle(progress: float) -> float:
    """Return the share of the peak learning rate at 0..1 of the training: a cosine up, then a cosine down to zero."""
    if progress < _WARM_UP:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * progress / _WARM_UP)) / 2
    return (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP))) / 2
