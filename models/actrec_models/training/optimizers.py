"""Optimizers and learning-rate schedules of recipes: the papers' own, and the one-cycle default."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from math import cos, pi

import torch
from torch import nn
from torch.optim import lr_scheduler

from actrec.utils.config import setting
from actrec.utils.errors import ConfigError

OPTIMIZERS = ("adamw", "adam", "sgd")

SCHEDULES = ("one_cycle", "constant", "steps", "exponential", "cosine", "plateau")

_WARMED = ("one_cycle", "cosine")

_TIMED = ("steps", "exponential")

_USED_BY = {
    "beta_2": ("adamw", "adam"),
    "warm_up": _WARMED,
    "factor": ("steps", "exponential", "plateau"),
    "every": _TIMED,
    "patience": ("plateau",),
    "final": ("cosine",),
}
"""Settings that not every optimizer or schedule goes by."""

_SWING = 0.05
"""Range of the momentum in one_cycle: high at a low rate, low at the peak."""


def unused(part: "Optimizer | Schedule") -> list[str]:
    """Return settings that were changed, but that the one of this name does not go by."""
    changed = [entry.name for entry in fields(part) if getattr(part, entry.name) != entry.default]
    return [name for name in changed if part.name not in _USED_BY.get(name, (part.name,))]


@dataclass(frozen=True)
class Optimizer:
    """Which optimizer; learning rate and weight decay stand in the recipe itself."""

    name: str = setting(
        "adamw", "AdamW decays the weights themselves, the others add to the gradient", choices=OPTIMIZERS
    )
    momentum: float = setting(
        0.9, "of SGD; β₁ of the two Adams. one_cycle begins and ends 0.05 above it and peaks 0.05 below; 0 stays 0",
        range=(0.0, 0.9999),
    )  # fmt: skip
    beta_2: float = setting(0.999, "β₂ of the two Adams", range=(0.0, 0.999999))
    nesterov: bool = setting(False, "SGD looks ahead along the momentum")
    decay_all: bool = setting(False, "weight decay of biases and norms too")

    def check(self) -> None:
        """Check the values that types alone do not restrict.

        Raises:
            ConfigError: Nesterov's momentum of no momentum, or of another optimizer.
        """
        if self.nesterov and (self.name != "sgd" or not self.momentum):
            raise ConfigError(f"Optimizer.nesterov needs sgd with a momentum above 0, not {self.name}")

    def make(self, parameters: Iterable[nn.Parameter], rate: float, decay: float) -> torch.optim.Optimizer:
        """Return the optimizer of the `parameters` that have gradients.

        Args:
            parameters: Of the network.
            rate: Learning rate to start from.
            decay: Weight decay.

        Raises:
            ConfigError: Nothing is to be trained.
        """
        trained = [p for p in parameters if p.requires_grad]
        if not trained:
            raise ConfigError("nothing of the network is to be trained: name another stage, or unfreeze a part")
        decayed = [p for p in trained if p.ndim > 1 or self.decay_all]
        plain = [p for p in trained if p.ndim <= 1 and not self.decay_all]
        groups = [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
        if self.name == "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=self.momentum, nesterov=self.nesterov)
        kind = torch.optim.AdamW if self.name == "adamw" else torch.optim.Adam
        return kind(groups, lr=rate, betas=(self.momentum, self.beta_2))


@dataclass(frozen=True)
class Schedule:
    """How the learning rate changes from the recipe's; the last three by epochs, whole or not."""

    name: str = setting("one_cycle", "the schedule", choices=SCHEDULES)
    warm_up: float = setting(0.15, "of one_cycle and cosine: share of the steps over which it rises", range=(0.0, 0.99))
    factor: float = setting(0.1, "of steps, exponential and plateau: factor on the rate", range=(1e-6, 1.0))
    every: float | None = setting(
        None, "of steps and exponential: epochs from one factor to the next; exponential goes between them evenly",
        range=(1e-3, 10_000),
    )  # fmt: skip
    milestones: list = setting([], "of steps, instead of `every`: the epochs after which the factor comes in")
    patience: int = setting(10, "of plateau: epochs without a lower loss before the factor comes in", range=(0, 10_000))
    final: float = setting(0.0, "of cosine: share of the rate at the end", range=(0.0, 1.0))

    def check(self) -> None:
        """Check the values that types alone do not restrict.

        Raises:
            ConfigError: A setting of the schedule is missing, or belongs to another schedule.
        """
        if self.name in _TIMED and (self.every is None) == (not self.milestones):
            raise ConfigError(f"Schedule {self.name} goes by epochs: give it `every`, or milestones to steps")
        if self.milestones and self.name != "steps":
            raise ConfigError(f"Schedule.milestones belong to steps, not to {self.name}")
        numbers = [entry for entry in self.milestones if isinstance(entry, (int, float)) and entry > 0]
        if len(numbers) < len(self.milestones) or sorted(numbers) != numbers:
            raise ConfigError(f"Schedule.milestones is {self.milestones}, expected rising numbers of epochs")

    def share(self, step: int, steps: int, epochs: int) -> float:
        """Return the share of the recipe's rate at a step, of all but one_cycle and plateau.

        Args:
            step: Steps done.
            steps: Of the whole stage.
            epochs: Of the whole stage.
        """
        epoch = step * epochs / steps
        if self.name == "steps":
            passed = (
                sum(epoch >= m for m in self.milestones) if self.milestones else int(epoch / (self.every or epochs))
            )
            return float(self.factor**passed)
        if self.name == "exponential":
            return float(self.factor ** (epoch / (self.every or epochs)))
        if self.name == "cosine":
            rising = self.warm_up * steps
            if step < rising:
                return (step + 1) / (rising + 1)
            down = (step - rising) / max(steps - rising, 1)
            return self.final + (1 - self.final) * (1 + cos(pi * min(down, 1.0))) / 2
        return 1.0

    def make(
        self, optimizer: torch.optim.Optimizer, rate: float, steps: int, epochs: int
    ) -> lr_scheduler.LRScheduler | None:
        """Return the schedule to be stepped after each step; None for plateau, which goes by the loss (`plateau`)."""
        if self.name == "plateau":
            return None
        if self.name == "one_cycle":
            # PyTorch divides by the length of the rise less one step.
            share = self.warm_up * (1 + 1e-9) if self.warm_up * steps == 1 else self.warm_up
            momentum = optimizer.defaults.get("betas", (optimizer.defaults.get("momentum"),))[0]
            low, high = round(max(momentum - _SWING, 0.0), 6), round(min(momentum + _SWING, 0.9999), 6)
            return lr_scheduler.OneCycleLR(
                optimizer, rate, steps, pct_start=share,
                cycle_momentum=momentum > 0, base_momentum=low, max_momentum=high,
            )  # fmt: skip
        return lr_scheduler.LambdaLR(optimizer, lambda step: self.share(step, steps, epochs))

    def plateau(self, optimizer: torch.optim.Optimizer) -> lr_scheduler.ReduceLROnPlateau | None:
        """Return the schedule to be stepped with the loss after each epoch; None for all but plateau."""
        if self.name != "plateau":
            return None
        return lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)
