"""Transfer of a trained network to other classes: pretrained backbone, new linear head, frozen first, then fine-tuned.

The head consists of all parameters whose shape depends on the number of classes. Its layers must be linear and the
logits their sum, as in the graph networks (one per branch). The features of the frozen backbone are then computed once.
"""

import dataclasses
import logging
import math
import re
import time
from collections.abc import Iterator, Sequence
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

from actrec.datasets.base import ClipDataset
from actrec.datasets.user_folder import UNKNOWN_LABEL
from actrec.inference import zoo
from actrec.inference.package import ModelPackage
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, PackageError
from actrec_models.data.augmentation import Augmentation, names_side
from actrec_models.data.samples import Samples
from actrec_models.export.onnx_graph import example_inputs
from actrec_models.finetune.recordings import Folds, Recordings
from actrec_models.networks import NETWORKS, create
from actrec_models.networks.base import OUTLIER, Network, sample_losses
from actrec_models.training import initial_weights
from actrec_models.training.recipe import Optimizer, Recipe
from actrec_models.training.trainer import fast_bfloat16

logger = logging.getLogger(__name__)

Batch = dict[str, Tensor]

_HEAD_LEARNING_RATE = 1e-2  # learning rate of the head on standardized features, a convex problem
_WARM_UP = 0.15  # share of the training in which the learning rate rises
_BATCH = 32
_FEATURES_SHARE = 0.2  # share of the time limit for each of the two passes over all clips' features
_VALIDATION_FEATURES_SHARE = 0.5  # share of a validation run's time limit for the features of its clips
_HELD_OUT_EPOCH = 1_000_000  # first epoch whose augmentations no training uses


@dataclass(frozen=True)
class TeachConfig:
    """Settings of `actrec teach`."""

    base: str = setting("deepacts_graph_nucla", "pretrained package: its name or folder")
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
    least: int = setting(10, "clips of a class below which a warning is logged", range=(1, 10_000))
    draws: int = setting(8, "augmented versions of each clip for the frozen backbone", range=(1, 1000))
    folds: int = setting(5, "folds of the cross-validation with fewer than two people", range=(2, 100))
    rehearsals: int = setting(2, "validation runs that choose the rejection threshold", range=(1, 100))
    outliers: float = setting(0.2, "share of synthetic outliers among the augmented clips", range=(0.0, 0.9))
    mirror: str = setting(
        "auto", "also train on mirrored clips; auto: unless a label has a side", choices=("auto", "yes", "no")
    )
    augmentation: dict = setting({}, "fields of actrec_models.data.augmentation.Augmentation")
    minutes: float = setting(10.0, "time limit; a short one reduces augmented versions and steps", range=(0.1, 1e5))
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


def fit_head(features: Tensor, labels: Tensor, classes: int, settings: TeachConfig) -> tuple[Tensor, Tensor]:
    """Return the weights [classes, D] and bias [classes] of a class-balanced linear head on features [N, D]."""
    mean, scale = features.mean(dim=0), features.std(dim=0) + 1e-3
    standard = (features - mean) / scale
    counts = torch.bincount(labels - OUTLIER, minlength=classes + 1).clamp(min=1)
    share = (1 / counts.float())[labels - OUTLIER]
    weight, bias = torch.zeros(classes, features.shape[1], requires_grad=True), torch.zeros(classes, requires_grad=True)
    groups: list[dict[str, Any]] = [{"params": [weight], "weight_decay": settings.weight_decay}, {"params": [bias]}]
    optimizer = torch.optim.AdamW(groups, _HEAD_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _HEAD_LEARNING_RATE, settings.head_steps)
    for _ in range(settings.head_steps):
        logits = standard @ weight.T + bias
        losses = sample_losses(logits, labels, settings.label_smoothing, settings.outlier_weight)
        loss = (losses * share).sum() / share.sum()
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


def fine_tune(network: Network, samples: Samples, settings: TeachConfig, seconds: float, bar: tqdm) -> int:
    """Train the whole network on augmented clips, with class-balanced sampling, and return the number of steps.

    The network is in evaluation mode afterwards, on the CPU. The schedule is shortened to end within `seconds`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    labels, seed = samples.clips.labels, samples.recipe.seed
    torch.manual_seed(seed)
    rng, start, step = np.random.default_rng([seed, len(labels)]), time.monotonic(), 0
    network.to(device).train()
    optimizer = Optimizer().make(network.parameters(), settings.learning_rate, settings.weight_decay)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    while step < settings.steps and time.monotonic() - start < seconds:
        # Progress by steps gives reproducible networks; the clock counts only if it is ahead of the steps.
        progress, elapsed = step / settings.steps, (time.monotonic() - start) / seconds
        progress = elapsed if elapsed > (step + 1) / settings.steps else progress
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * one_cycle(progress)
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
        step += 1
        bar.update()
    network.cpu().eval()
    return step


def one_cycle(progress: float) -> float:
    """Return the share of the peak learning rate at 0..1 of the training: a cosine up, then a cosine down to zero."""
    if progress < _WARM_UP:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * progress / _WARM_UP)) / 2
    return (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP))) / 2


# -- runs on shared clips ----------------------------------------------------------------------------------------------

Augmented = tuple[Tensor, Tensor]
"""Features [draws, N, D] of the frozen backbone for augmented clips, and labels [draws, N], −1 for outliers too."""


@dataclass(frozen=True)
class ValidationRun:
    """A network's logits of clips that it was not trained on.

    Attributes:
        known, labels: [2 N, classes] of known clips as recorded, then of an augmented version of each; [2 N].
        unknown: [K, classes] of clips of other actions, likewise.
        outliers: [L, classes] of synthetic outliers.
    """

    known: np.ndarray
    labels: np.ndarray
    unknown: np.ndarray
    outliers: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """[N] whether each known clip, as recorded, is recognized."""
        correct = self.known.argmax(axis=1) == self.labels
        return np.asarray(correct[: len(correct) // 2])


class Trainer:
    """Trainings on shared clips: heads on the frozen backbone, validation runs, and the final network."""

    def __init__(self, base: PretrainedModel, recordings: Recordings, settings: TeachConfig, progress: bool):
        self.base, self.recordings, self.settings, self.progress = base, recordings, settings, progress
        self.window, self.specs = base.package.window, list(base.package.inputs)
        self.recipe = Recipe(seed=settings.seed, outliers=settings.outliers)
        self.augmentation = settings.augmentation_for(recordings.classes)
        self.labels = recordings.labels
        everything, self.backbone = np.arange(len(self.labels)), base.network(2)
        self.augmented = self._augmented_features([everything], "features", _FEATURES_SHARE * 60 * settings.minutes)
        plain = self._samples(everything, None)
        self.plain = self._features([plain[int(i)] for i in everything])[0]

    def cross_validate(self, folds: Folds) -> np.ndarray:
        """Return logits [known clips, classes] of the head on the frozen backbone, by a head without the clip's fold.

        The augmentation may prepend another clip. For these heads that clip is of the same fold, since it could
        otherwise be a test clip of the head.
        """
        classes, known = len(self.recordings.classes), self.labels != UNKNOWN_LABEL
        logits = np.zeros((len(self.labels), classes), np.float32)
        parts = [np.flatnonzero(folds.fold_of_clip == fold) for fold in range(folds.count)]
        augmented = self._augmented_features(parts, "features of folds", _FEATURES_SHARE * 60 * self.settings.minutes)
        for fold in range(folds.count):
            held_out = folds.fold_of_clip == fold
            weight, bias = self._fit_head(augmented, ~held_out, classes)
            logits[held_out] = (self.plain[torch.from_numpy(held_out)] @ weight.T + bias).numpy()
        return logits[known]

    def train(self, indices: np.ndarray, held_out: int | None, seconds: float, title: str) -> tuple[Network, int]:
        """Return the network trained on some clips, without the class `held_out`, and the number of steps."""
        end = time.monotonic() + seconds
        augmented = self.augmented
        if len(indices) < len(self.labels):
            # Features of these clips alone: in `self.augmented`, other clips may be prepended.
            limit = _VALIDATION_FEATURES_SHARE * seconds
            augmented = self._augmented_features([indices], f"features of {title}", limit, held_out)
        classes = len(self.recordings.classes) - (held_out is not None)
        network = self.base.network(classes)
        set_head(self.base.head_layers(network), *self._fit_head(augmented, np.ones(len(indices), bool), classes))
        samples, seconds = self._samples(indices, self.augmentation, held_out), max(end - time.monotonic(), 0.0)
        with tqdm(total=self.settings.steps, desc=title, unit="step", disable=not self.progress) as bar:
            steps = fine_tune(network, samples, self.settings, seconds, bar)
        if steps < self.settings.steps:
            logger.warning("%s: %d of %d steps within the time limit", title, steps, self.settings.steps)
        return network, steps

    def validate(self, folds: Folds, fold: int, held_out: int | None, seconds: float, title: str) -> ValidationRun:
        """Train without a fold and a class, and return the logits of these."""
        in_fold, labels = folds.fold_of_clip == fold, self.labels
        excluded = labels == held_out if held_out is not None else np.zeros(len(labels), bool)
        trained = np.flatnonzero(~in_fold & ~excluded)
        network, _ = self.train(trained, held_out, seconds, title)
        known = np.flatnonzero(in_fold & (labels != UNKNOWN_LABEL) & ~excluded)
        unknown = np.flatnonzero((in_fold & (labels == UNKNOWN_LABEL)) | excluded)
        known_logits, unknown_logits = (
            np.concatenate([self._logits(network, clips, augmentation) for augmentation in (None, self.augmentation)])
            for clips in (known, unknown)
        )
        known_labels = np.tile(_renumber(labels[known], held_out), 2)
        outliers = self._logits(network, trained, self.augmentation, outliers=1)
        return ValidationRun(known_logits, known_labels, unknown_logits, outliers)

    def _fit_head(self, augmented: Augmented, chosen: np.ndarray, classes: int) -> tuple[Tensor, Tensor]:
        (backbone_features, labels), keep = augmented, torch.from_numpy(chosen)
        return fit_head(backbone_features[:, keep].flatten(0, 1), labels[:, keep].reshape(-1), classes, self.settings)

    def _augmented_features(
        self, parts: Sequence[np.ndarray], title: str, seconds: float, held_out: int | None = None
    ) -> Augmented:
        """Return features of parts that are augmented separately, as many as the time allows, at least one pass."""
        drawn: list[Tensor] = []
        labels: list[Tensor] = []
        end = time.monotonic() + seconds
        for draw in tqdm(range(self.settings.draws), desc=title, unit="pass", disable=not self.progress):
            if drawn and time.monotonic() > end:
                logger.warning("features: %d of %d passes within the time limit", draw, self.settings.draws)
                break
            items: dict[int, dict] = {}
            for number, part in enumerate(parts):
                samples, epoch = self._samples(part, self.augmentation, held_out), draw * len(parts) + number
                items |= {int(index): samples[(epoch, place, 0)] for place, index in enumerate(part)}
            part_features, part_labels = self._features([items[index] for index in sorted(items)])
            drawn.append(part_features)
            labels.append(part_labels)
        return torch.stack(drawn), torch.stack(labels)

    def _samples(self, indices: np.ndarray, augmentation: Augmentation | None, held_out: int | None = None) -> Samples:
        clips = [self.recordings.clips[int(i)] for i in indices]
        labels = _renumber(np.array([clip.label for clip in clips], np.int64), held_out)
        relabeled = [dataclasses.replace(clip, label=int(label)) for clip, label in zip(clips, labels, strict=True)]
        dataset = ClipDataset(relabeled, self.recordings.classes)
        return Samples(dataset, self.specs, self.window, self.recipe, augmentation)

    def _features(self, items: list[dict]) -> tuple[Tensor, Tensor]:
        rows = [self.base.features(self.backbone, inputs, self.settings.precision) for inputs in _batches(items)]
        labels = torch.tensor([item["label"] for item in items])
        return torch.cat([torch.cat(parts, dim=1) for parts in rows]), labels

    @torch.no_grad()
    def _logits(
        self, network: Network, indices: np.ndarray, augmentation: Augmentation | None, outliers: int = 0
    ) -> np.ndarray:
        """Return logits of clips as recorded, or of augmented versions or outliers that no training uses."""
        samples = self._samples(indices, augmentation)
        samples.recipe = dataclasses.replace(self.recipe, outliers=float(outliers))
        rows = [np.zeros((0, network.config.num_classes), np.float32)]
        for inputs in _batches([samples[(_HELD_OUT_EPOCH, i, outliers)] for i in range(len(indices))]):
            with autocast(torch.device("cpu"), self.settings.precision):
                rows.append(network(**inputs).float().numpy())
        return np.concatenate(rows)


def _batches(items: list[dict]) -> Iterator[Batch]:
    """Yield the inputs of samples in batches."""
    for start in range(0, len(items), _BATCH):
        batch = default_collate(items[start : start + _BATCH])
        yield {name: value for name, value in batch.items() if name != "label"}


def _renumber(labels: np.ndarray, held_out: int | None) -> np.ndarray:
    """Return the labels as numbered without the class `held_out`."""
    return labels if held_out is None else labels - (labels > held_out)
