"""Training recipes: YAML files with every setting that affects the result of a training."""

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import nn
from torch.optim import lr_scheduler

from actrec.features.specs import AXES, WindowSpec
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError
from actrec.utils.folders import installed, read_file
from actrec_models.data.augmentation import Augmentation
from actrec_models.data.data_recipe import DataRecipe
from actrec_models.data.samplers import Sampling, Validation
from actrec_models.networks import RESERVED as NETWORK_RESERVED
from actrec_models.networks.base import Network
from actrec_models.training import paper_tables
from actrec_models.training.paper_tables import PLACE


def shipped() -> dict[str, Path]:
    """Return the files of the shipped recipes by name (`papers/vpn_ntu60`), recipes in subfolders last."""
    found = {
        path.relative_to(place).with_suffix("").as_posix(): path
        for place in installed(PLACE)
        for path in place.rglob("*.yaml")
        if path != place / paper_tables.FILE
    }
    return dict(sorted(found.items(), key=lambda entry: (entry[0].count("/"), entry[0])))


def find(name_or_path: str | Path) -> Path:
    """Return the path of a recipe.

    Args:
        name_or_path: A file, or the name of a shipped recipe with or without `models/recipes/` and `.yaml`:
            `runs/mine.yaml`, `sem_net_shrec17`, `papers/vpn_ntu60`.

    Raises:
        ConfigError: There is no such recipe; the names of the shipped ones are listed.
    """
    path = Path(name_or_path).expanduser()
    if path.exists() and not path.is_dir():  # a pipe is refused when it is read
        return path
    known, name = shipped(), path.as_posix().removeprefix(f"{PLACE}/").removesuffix(".yaml")
    if name in known:
        return known[name]
    similar = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(similar)}?" if similar else f"known: {', '.join(known) or 'none'}"
    raise ConfigError(f"recipe '{name_or_path}' not found as a file or a name; {hint}")


# -- optimizer and schedule --------------------------------------------------------------------------------------------

OPTIMIZERS = ("adamw", "adam", "sgd")
SCHEDULES = ("one_cycle", "constant", "steps", "exponential", "cosine", "plateau")
_BY_EPOCH = ("steps", "exponential")
_USED_BY = {
    "beta_2": ("adamw", "adam"),
    "warm_up": ("one_cycle", "cosine"),
    "factor": (*_BY_EPOCH, "plateau"),
    "every": _BY_EPOCH,
    "patience": ("plateau",),
    "final": ("cosine",),
}
"""Settings that only some optimizers or schedules use."""
_MOMENTUM_RANGE = 0.05  # range of the momentum in one_cycle: high at a low rate, low at the peak


def unused(part: "Optimizer | Schedule") -> list[str]:
    """Return the changed settings that have no effect with the chosen name."""
    changed = [entry.name for entry in dataclasses.fields(part) if getattr(part, entry.name) != entry.default]
    return [name for name in changed if part.name not in _USED_BY.get(name, (part.name,))]


@dataclass(frozen=True)
class Optimizer:
    """The optimizer; learning rate and weight decay are fields of the recipe itself."""

    name: str = setting(
        "adamw", "AdamW decays the weights themselves, the others add to the gradient", choices=OPTIMIZERS
    )
    momentum: float = setting(
        0.9,
        "of SGD; β₁ of the two Adams. one_cycle begins and ends 0.05 above it and peaks 0.05 below; 0 stays 0",
        range=(0.0, 0.9999),
    )
    beta_2: float = setting(0.999, "β₂ of the two Adams", range=(0.0, 0.999999))
    nesterov: bool = setting(False, "Nesterov momentum of SGD")
    decay_all: bool = setting(False, "weight decay of biases and norms too")

    def check(self) -> None:
        """Raise `ConfigError` for Nesterov's momentum without momentum, or of another optimizer."""
        if self.nesterov and (self.name != "sgd" or not self.momentum):
            raise ConfigError(f"Optimizer.nesterov needs sgd with a momentum above 0, not {self.name}")

    def make(
        self, parameters: Iterable[nn.Parameter], rate: float, decay: float, fused: bool = False
    ) -> torch.optim.Optimizer:
        """Return the optimizer of the parameters that have gradients; raise ConfigError if there are none.

        `fused` updates all of them in a few GPU kernels.
        """
        trained = [p for p in parameters if p.requires_grad]
        if not trained:
            raise ConfigError("no parameter of the network is trained: name another stage, or unfreeze a part")
        decayed = [p for p in trained if p.ndim > 1 or self.decay_all]
        plain = [p for p in trained if p.ndim <= 1 and not self.decay_all]
        groups = [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
        if self.name == "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=self.momentum, nesterov=self.nesterov, fused=fused or None)
        kind = torch.optim.AdamW if self.name == "adamw" else torch.optim.Adam
        return kind(groups, lr=rate, betas=(self.momentum, self.beta_2), fused=fused or None)


@dataclass(frozen=True)
class Schedule:
    """The change of the learning rate over a stage; steps, exponential and plateau count (fractional) epochs."""

    name: str = setting("one_cycle", "the schedule", choices=SCHEDULES)
    warm_up: float = setting(0.15, "of one_cycle and cosine: share of the steps over which it rises", range=(0.0, 0.99))
    factor: float = setting(0.1, "of steps, exponential and plateau: factor on the rate", range=(1e-6, 1.0))
    every: float | None = setting(
        None,
        "of steps and exponential: epochs from one factor to the next; exponential goes between them evenly",
        range=(1e-3, 10_000),
    )
    milestones: list = setting([], "of steps, instead of `every`: the epochs after which the factor comes in")
    patience: int = setting(10, "of plateau: epochs without a lower loss before the factor comes in", range=(0, 10_000))
    final: float = setting(0.0, "of cosine: share of the rate at the end", range=(0.0, 1.0))

    def check(self) -> None:
        """Raise `ConfigError` if a setting of the schedule is missing or belongs to another schedule."""
        if self.name in _BY_EPOCH and (self.every is None) == (not self.milestones):
            raise ConfigError(f"Schedule {self.name} counts epochs: set `every`, or milestones for steps")
        if self.milestones and self.name != "steps":
            raise ConfigError(f"Schedule.milestones belong to steps, not to {self.name}")
        numbers = [entry for entry in self.milestones if isinstance(entry, (int, float)) and entry > 0]
        if len(numbers) < len(self.milestones) or sorted(numbers) != numbers:
            raise ConfigError(f"Schedule.milestones is {self.milestones}, expected rising numbers of epochs")

    def make(self, optimizer: torch.optim.Optimizer, rate: float, steps: int, epochs: int) -> lr_scheduler.LRScheduler:
        """Return the schedule to step after each of the stage's `steps`; plateau, with the loss after each epoch."""
        if self.name == "plateau":
            return lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)
        if self.name == "one_cycle":
            # PyTorch divides by the number of rising steps minus one.
            share = self.warm_up * (1 + 1e-9) if self.warm_up * steps == 1 else self.warm_up
            momentum = optimizer.defaults.get("betas", (optimizer.defaults.get("momentum"),))[0]
            low = round(max(momentum - _MOMENTUM_RANGE, 0.0), 6)
            high = round(min(momentum + _MOMENTUM_RANGE, 0.9999), 6)
            return lr_scheduler.OneCycleLR(
                optimizer, rate, steps, pct_start=share,
                cycle_momentum=momentum > 0, base_momentum=low, max_momentum=high,
            )  # fmt: skip
        return lr_scheduler.LambdaLR(optimizer, lambda step: self._factor(step, steps, epochs))

    def _factor(self, step: int, steps: int, epochs: int) -> float:
        epoch = step * epochs / steps
        if self.name == "steps":
            if self.milestones:
                return float(self.factor ** sum(epoch >= milestone for milestone in self.milestones))
            return float(self.factor ** int(epoch / (self.every or epochs)))
        if self.name == "exponential":
            return float(self.factor ** (epoch / (self.every or epochs)))
        if self.name == "cosine":
            rising = self.warm_up * steps
            if step < rising:
                return (step + 1) / (rising + 1)
            progress = (step - rising) / max(steps - rising, 1)
            return self.final + (1 - self.final) * (1 + cos(pi * min(progress, 1.0))) / 2
        return 1.0


# -- recipe ------------------------------------------------------------------------------------------------------------

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class Stage:
    """One stage of a staged training (e.g. P-I3D's Algorithm 1). Unset fields default to the recipe's."""

    name: str = setting("", "argument of `Network.stage`; empty: train the whole network")
    epochs: int = setting(60, "passes over the training part; default: the recipe's", range=(1, 10_000))
    learning_rate: float = setting(
        1e-3, "initial or peak rate of the stage's own schedule; default: the recipe's", range=(1e-7, 10.0)
    )
    model: str = setting("", "another network to train first; the recipe's network starts from its weights")
    options: dict = setting({}, "options of that network")
    window_s: float | None = setting(None, "window of that network; default: its paper's", unit="s", range=(0.1, 60.0))
    batch: int | None = setting(None, "default: the recipe's", range=(1, 4096))
    weight_decay: float | None = setting(None, "default: the recipe's", range=(0.0, 1.0))
    optimizer: dict | None = setting(None, "default: the recipe's")
    schedule: dict | None = setting(None, "default: the recipe's")
    sampling: dict | None = setting(None, "default: the recipe's")
    augment: bool | None = setting(None, "default: the recipe's")
    augmentation: dict | None = setting(None, "default: the recipe's")
    precision: str | None = setting(None, "default: the recipe's", choices=PRECISIONS)

    @property
    def title(self) -> str:
        """Name of the stage's folder."""
        return "_".join(filter(None, [self.model, self.name])) or "whole"


class Components(NamedTuple):
    """The validated parts of a recipe."""

    optimizer: Optimizer
    schedule: Schedule
    sampling: Sampling
    validation: Validation


@dataclass(frozen=True)
class Recipe(DataRecipe):
    """Network, data and hyperparameters of a training."""

    commands: list = setting([], "commands that reproduce this model, in order, for its card")
    options: dict = setting({}, "options of the network")
    window_s: float | None = setting(None, "window of the network; default: its paper's", unit="s", range=(0.1, 60.0))
    frames: int | None = setting(None, "T, frames of a clip of that window; default: its paper's", range=(1, 1000))
    gravity: str = setting(
        "leveled", "axes of the data: level ones if the direction of gravity is known, or always the camera's",
        choices=AXES,
    )  # fmt: skip
    stages: list = setting([], "fields of Stage, one entry a stage")
    epochs: int = setting(60, "passes over the training part", range=(1, 10_000))
    batch: int = setting(32, "clips a step, of all devices together", range=(1, 4096))
    accumulate: int = setting(1, "parts of a batch that go through the network one by one", range=(1, 4096))
    learning_rate: float = setting(1e-3, "initial or peak rate of the schedule", range=(1e-7, 10.0))
    optimizer: dict = setting({}, "fields of actrec_models.training.recipe.Optimizer")
    schedule: dict = setting({}, "fields of actrec_models.training.recipe.Schedule")
    weight_decay: float = setting(0.05, "of the optimizer", range=(0.0, 1.0))
    gradient_clip: float = setting(1.0, "largest norm of the gradient of a step; 0: no limit", range=(0.0, 1e6))
    label_smoothing: float = setting(
        0.1, "of the cross-entropy; ignored by a network with its own loss", range=(0.0, 0.9)
    )
    outlier_weight: float = setting(0.5, "of their loss, the cross-entropy to equal probabilities", range=(0.0, 10.0))
    ema_decay: float = setting(
        0.99, "exponential moving average of the weights, decay a step; 0: no average", range=(0.0, 1.0)
    )
    ema_warm_up: bool = setting(True, "limit the average of a stage to the last tenth of its steps")
    recalibration_batches: int | None = setting(
        None,
        "batches over which the batch norm statistics of the final weights are estimated after each stage (with "
        "held-out clips: after each epoch); 0: keep the running statistics, which lag behind; default: a few with "
        "held-out clips and an average of the weights, else 0",
        range=(0, 100_000),
    )
    sync_batch_norm: bool = setting(True, "on several GPUs, compute batch norms over the whole batch")
    precision: str = setting("32-true", "Lightning's precision", choices=PRECISIONS)

    def check(self) -> Augmentation:
        """Validate the recipe and return its augmentation."""
        augmentation = super().check()
        for part in (self, *(self.for_stage(stage) for stage in self.plan())):
            part.components()
            config.build(Augmentation, part.augmentation)
        return augmentation

    def components(self) -> Components:
        """Build the parts; raise ConfigError if a field is unknown, or fields contradict each other."""
        config.check_names(self.options, NETWORK_RESERVED, "options")
        optimizer, schedule = config.build(Optimizer, self.optimizer), config.build(Schedule, self.schedule)
        optimizer.check()
        schedule.check()
        if self.batch % self.accumulate:
            raise ConfigError(
                f"a batch of {self.batch} clips does not divide into {self.accumulate} parts (accumulate)"
            )
        return Components(optimizer, schedule, config.build(Sampling, self.sampling), self.held_out())

    def plan(self) -> list[Stage]:
        """Return the stages, or one that trains everything; raise ConfigError for an invalid one."""
        if not self.stages:
            return [Stage("", self.epochs, self.learning_rate)]
        if not all(isinstance(entry, dict) for entry in self.stages):
            raise ConfigError("each entry of stages must be a mapping, e.g. {name: joint, epochs: 25}")
        defaults = {"epochs": self.epochs, "learning_rate": self.learning_rate}
        stages = [config.build(Stage, {**defaults, **entry}) for entry in self.stages]
        for stage in stages:
            if not stage.model and (stage.options or stage.window_s is not None):
                raise ConfigError(
                    f"stage '{stage.title}' has options or window_s but no model: name the model, or set them in the "
                    "recipe"
                )
        if stages[-1].model:
            raise ConfigError(f"the last stage trains {stages[-1].model}, but the recipe is for {self.model}")
        return stages

    def folders(self, out: Path) -> list[Path]:
        """Return the folder of each stage of a run in the folder `out`; the last stage's is `out` itself."""
        return [*(out / f"stage_{number}_{stage.title}" for number, stage in enumerate(self.plan()[:-1], start=1)), out]

    def for_stage(self, stage: Stage) -> "Recipe":
        """Return the recipe of one stage, without stages of its own."""
        optional = [field.name for field in dataclasses.fields(stage) if field.default is None]
        names = [name for name in optional if name != "window_s"]  # applies to another network only
        own: dict[str, Any] = {name: getattr(stage, name) for name in names if getattr(stage, name) is not None}
        if stage.model:
            own |= {"model": stage.model, "options": stage.options, "window_s": stage.window_s, "frames": None}
        return dataclasses.replace(self, stages=[], epochs=stage.epochs, learning_rate=stage.learning_rate, **own)

    def network_options(self) -> dict[str, Any]:
        """Return the options of the network, with this recipe's T."""
        return {**({} if self.frames is None else {"frames": self.frames}), **self.options}

    def window(self, network: Network) -> WindowSpec:
        """Return the window of a network that was made with `network_options`."""
        seconds = network.window.seconds if self.window_s is None else self.window_s
        return dataclasses.replace(network.window, seconds=seconds, gravity=self.gravity)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for YAML and checkpoints."""
        return dataclasses.asdict(self)


def read(path: str | Path, changes: dict[str, Any] | None = None) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: YAML file, the name of a shipped recipe (`find`), or a row of a paper's table (`paper_tables`).
        changes: Fields to override; `schedule.every` is a field of a field.

    Raises:
        ConfigError: The file is missing or not a YAML mapping, or a field is unknown or out of range.
    """
    if (experiment := paper_tables.find_experiment(path)) is not None:
        path, changes = experiment.recipe, {**experiment.changes, **(changes or {})}
    path = find(path)
    try:
        content = config.parse_yaml(read_file(path).decode())
    except OSError as error:
        raise ConfigError(f"cannot read recipe '{path}': {error.strerror}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # not UTF-8, or an impossible date such as 2024-13-45
        raise ConfigError(f"recipe '{path}' is not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"recipe '{path}' is empty or not a mapping; see models/recipes for examples")
    if "command" in content:
        raise ConfigError(f"recipe '{path}': command is now commands, a list with one command per entry")
    try:
        recipe = config.build(Recipe, config.merge_settings(content, changes or {}))
        recipe.check()
        if recipe.frames not in (None, recipe.options.get("frames", recipe.frames)):
            raise ConfigError(f"frames is {recipe.frames}, but options.frames is {recipe.options['frames']}")
    except ConfigError as error:
        raise ConfigError(f"recipe '{path}': {error}") from error
    return recipe
