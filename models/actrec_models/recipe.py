"""A training recipe: everything that decides what a run produces, read from one YAML file."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from actrec import config
from actrec.config import setting
from actrec.errors import ConfigError
from actrec.package import WindowSpec
from actrec_models.data.augment import Augmentation
from actrec_models.networks.base import Network


@dataclass(frozen=True)
class Stage:
    """One part of a training that goes by stages (P-I3D's Algorithm 1)."""

    name: str = setting("", "what `Network.stage` takes; empty: the whole network, as it is without stages")
    epochs: int = setting(1, "passes over the training part", range=(1, 10_000))
    learning_rate: float = setting(1e-3, "peak of the stage's own one-cycle schedule", range=(1e-7, 10.0))


@dataclass(frozen=True)
class Recipe:
    """What to train, on what, and how."""

    command: str = setting("", "how a person makes this model again, for its card")
    model: str = setting("deepacts_graph", "network, a name of actrec_models.list_models()")
    options: dict = setting({}, "options of the network")
    dataset: str = setting("nucla", "dataset, a name of actrec_models.data.DATASETS")
    split: str = setting("view", "the dataset's protocol")
    rendered: str = setting("", "clips made by actrec_models.data.rendered, added to the training part")
    unknown_dataset: str = setting("utd_mhad", "actions outside the classes, for the rejection threshold; empty: none")
    unknown_exclude: list = setting([], "its actions that are among the classes after all")
    window_s: float | None = setting(
        None, "time that the network sees; by default its paper's", unit="s", range=(0.1, 60.0)
    )
    frames: int | None = setting(None, "T, frames of a clip of that window; by default its paper's", range=(1, 1000))
    clips: str = setting(
        "live",
        "what evaluation takes of a recording: the window that ends with it, or windows over all of it (whole), as "
        "papers on videos do",
        choices=("live", "whole"),
    )
    augmentation: dict = setting({}, "fields of actrec_models.data.augment.Augmentation")
    stages: list = setting([], "fields of Stage, one entry a stage; then epochs and learning_rate above are not used")
    epochs: int = setting(60, "passes over the training part", range=(1, 10_000))
    batch: int = setting(32, "clips a step", range=(1, 4096))
    learning_rate: float = setting(1e-3, "peak of the one-cycle schedule", range=(1e-7, 10.0))
    weight_decay: float = setting(0.05, "of AdamW", range=(0.0, 1.0))
    label_smoothing: float = setting(
        0.1, "of the cross-entropy; a network with a loss of its own takes none", range=(0.0, 0.9)
    )
    outliers: float = setting(0.0, "share of samples that show made-up actions of no class", range=(0.0, 0.9))
    outlier_weight: float = setting(0.5, "of their loss, the cross-entropy to equal probabilities", range=(0.0, 10.0))
    average_decay: float = setting(0.99, "of the exponential moving average of the weights, a step", range=(0.0, 1.0))
    precision: str = setting("32-true", "Lightning's precision", choices=("32-true", "bf16-mixed", "16-mixed"))
    seed: int = setting(1, "of everything random", range=(0, 2**31 - 1))

    def check(self) -> Augmentation:
        """Validates the recipe and returns its augmentation."""
        config.validate(self)
        self.plan()
        return config.build(Augmentation, self.augmentation)

    def plan(self) -> list[Stage]:
        """The stages; one that trains everything where the recipe names none."""
        if not self.stages:
            return [Stage("", self.epochs, self.learning_rate)]
        if not all(isinstance(entry, dict) for entry in self.stages):
            raise ConfigError("stages holds an entry that is no mapping, expected e.g. {name: joint, epochs: 25}")
        return [config.build(Stage, entry) for entry in self.stages]

    def network_options(self) -> dict[str, Any]:
        """Options of the network, with this recipe's T."""
        return {**({} if self.frames is None else {"frames": self.frames}), **self.options}

    def window(self, network: Network) -> WindowSpec:
        """The window of a network that was made with `network_options`."""
        window = network.window
        return window if self.window_s is None else dataclasses.replace(window, seconds=self.window_s)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and checkpoints."""
        return dataclasses.asdict(self)


def read(path: str | Path) -> Recipe:
    """Reads and validates a recipe.

    Raises:
        ConfigError: No such file, no YAML mapping, or a field is unknown or out of range.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read recipe '{path}': {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe '{path}' is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"recipe '{path}' holds no settings; see models/recipes for examples")
    recipe = config.build(Recipe, content)
    recipe.check()
    return recipe
