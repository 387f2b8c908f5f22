"""A training recipe: everything that decides what a run produces, read from one YAML file.

Finds recipes: a file of the user's, or by name one of those that come with actrec.
"""

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from actrec import datasets
from actrec.features.specs import WindowSpec
from actrec.inference import zoo
from actrec.skeleton.conversions import CANONICAL
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError
from actrec_models.data.augmentation import Augmentation
from actrec_models.data.samplers import Sampling, Validation
from actrec_models.networks.base import Network
from actrec_models.registry import RESERVED as NETWORK_RESERVED
from actrec_models.training.optimizers import Optimizer, Schedule

PLACE = "models/recipes"


def folder(name: str = "") -> Path:
    """The folder of recipes that come with actrec, or one within it; of a clone, else as installed.

    Args:
        name: Within it: `papers`, `rendered`.

    Raises:
        ConfigError: It is nowhere.
    """
    for place in reversed(zoo.installed(PLACE)):
        if (place / name).is_dir():
            return place / name
    raise ConfigError(f"no folder {Path(PLACE, name)}: neither in a clone of actrec nor installed with it")


def find(name_or_path: str | Path) -> Path:
    """The recipe at a path, or the one of that name, with or without `models/recipes/` and `.yaml`.

    Args:
        name_or_path: `runs/mine.yaml`, `sem_net_shrec17`, `papers/vpn_ntu60`, `models/recipes/papers/vpn_ntu60.yaml`.

    Raises:
        ConfigError: There is none; what is named alike is told.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    name = path.as_posix().removeprefix(f"{PLACE}/").removesuffix(".yaml")
    for place in reversed(zoo.installed(PLACE)):
        if (place / f"{name}.yaml").is_file():
            return place / f"{name}.yaml"
    alike = difflib.get_close_matches(name, known(), n=3, cutoff=0.5)
    known_as = f"named alike: {', '.join(alike)}" if alike else f"known: {', '.join(known()) or 'none'}"
    raise ConfigError(f"no recipe '{name_or_path}', neither a file nor a name; {known_as}")


def known() -> list[str]:
    """The names of the recipes that come with actrec, those in folders after the others."""
    places = [place for place in zoo.installed(PLACE) if place.is_dir()]
    names = {path.relative_to(place).with_suffix("").as_posix() for place in places for path in place.rglob("*.yaml")}
    return sorted(names, key=lambda name: (name.count("/"), name))


PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class Stage:
    """One part of a training that goes by stages (P-I3D's Algorithm 1). What it leaves out is the recipe's."""

    name: str = setting("", "what `Network.stage` takes; empty: the whole network, as it is without stages")
    epochs: int = setting(60, "passes over the training part; by default the recipe's", range=(1, 10_000))
    learning_rate: float = setting(
        1e-3, "where the stage's own schedule begins or peaks; by default the recipe's", range=(1e-7, 10.0)
    )
    model: str = setting("", "another network, trained before that of the recipe, which starts from its weights")
    options: dict = setting({}, "options of that network")
    window_s: float | None = setting(None, "time that it sees; by default its paper's", unit="s", range=(0.1, 60.0))
    batch: int | None = setting(None, "as the recipe's", range=(1, 4096))
    weight_decay: float | None = setting(None, "as the recipe's", range=(0.0, 1.0))
    optimizer: dict | None = setting(None, "as the recipe's")
    schedule: dict | None = setting(None, "as the recipe's")
    sampling: dict | None = setting(None, "as the recipe's")
    augment: bool | None = setting(None, "as the recipe's")
    augmentation: dict | None = setting(None, "as the recipe's")
    precision: str | None = setting(None, "as the recipe's", choices=PRECISIONS)

    @property
    def title(self) -> str:
        """What its folder is called."""
        return "_".join(filter(None, [self.model, self.name])) or "whole"


@dataclass(frozen=True)
class Recipe:
    """What to train, on what, and how."""

    command: str = setting("", "how a person makes this model again, for its card")
    model: str = setting("deepacts_graph", "network, a name of actrec_models.list_models()")
    options: dict = setting({}, "options of the network")
    dataset: str = setting("nucla", "dataset, a name of actrec.datasets.DATASETS")
    split: str = setting("view", "the dataset's protocol")
    dataset_options: dict = setting({}, "options of the dataset, e.g. SYSU's fold")
    rendered: str = setting("", "clips made by actrec_models.data.rendered_skeletons, added to the training part")
    unknown_dataset: str = setting(
        "utd_mhad",
        "actions outside the classes, for the rejection threshold; empty: none. Own recordings labeled unknown are "
        "taken in its place",
    )
    unknown_options: dict = setting({}, "options of that dataset")
    unknown_exclude: list = setting(
        [], "its actions that are among the classes after all; those called as a class is are left out anyway"
    )
    window_s: float | None = setting(
        None, "time that the network sees; by default its paper's", unit="s", range=(0.1, 60.0)
    )
    frames: int | None = setting(None, "T, frames of a clip of that window; by default its paper's", range=(1, 1000))
    clips: str = setting(
        "live",
        "what evaluation takes of a recording: the window that ends with it, or clips all over it (whole), as papers "
        "on videos do (training draws them too), or all of it in one window (stretched), as papers on gestures do",
        choices=("live", "whole", "stretched"),
    )
    augment: bool = setting(True, "vary clips anew at each draw; false: as recorded, one of a window's clips at random")
    augmentation: dict = setting({}, "fields of actrec_models.data.augmentation.Augmentation")
    sampling: dict = setting({}, "fields of actrec_models.data.samplers.Sampling: how often a clip is drawn an epoch")
    validation: dict = setting(
        {}, "fields of actrec_models.data.samplers.Validation: what is held out of the training part"
    )
    stages: list = setting([], "fields of Stage, one entry a stage")
    epochs: int = setting(60, "passes over the training part", range=(1, 10_000))
    batch: int = setting(32, "clips a step, of all devices together", range=(1, 4096))
    accumulate: int = setting(1, "parts of a batch that go through the network one by one", range=(1, 4096))
    learning_rate: float = setting(1e-3, "where the schedule begins, or peaks", range=(1e-7, 10.0))
    optimizer: dict = setting({}, "fields of actrec_models.training.optimizers.Optimizer")
    schedule: dict = setting({}, "fields of actrec_models.training.optimizers.Schedule")
    weight_decay: float = setting(0.05, "of the optimizer", range=(0.0, 1.0))
    gradient_clip: float = setting(1.0, "largest norm of the gradient of a step; 0: any", range=(0.0, 1e6))
    label_smoothing: float = setting(
        0.1, "of the cross-entropy; a network with a loss of its own takes none", range=(0.0, 0.9)
    )
    outliers: float = setting(0.0, "share of samples that show made-up actions of no class", range=(0.0, 0.9))
    outlier_weight: float = setting(0.5, "of their loss, the cross-entropy to equal probabilities", range=(0.0, 10.0))
    average_decay: float = setting(
        0.99, "of the exponential moving average of the weights, a step; 0: no average", range=(0.0, 1.0)
    )
    average_warm_up: bool = setting(True, "a stage's average is of the last tenth of its steps at most")
    renew_norms: int | None = setting(
        None,
        "batches over which batch norms' statistics are estimated anew with the weights that are kept, after the last "
        "step of each stage (with clips held out, after each epoch); 0: they keep their running ones, which lag; none: "
        "where clips are held out and the weights averaged, a few, else 0",
        range=(0, 100_000),
    )
    sync_batch_norm: bool = setting(True, "on several GPUs, batch norms count the whole batch, not each GPU's share")
    precision: str = setting("32-true", "Lightning's precision", choices=PRECISIONS)
    seed: int = setting(1, "of everything random", range=(0, 2**31 - 1))

    def check(self) -> Augmentation:
        """Validates the recipe and returns its augmentation."""
        config.validate(self)
        if self.unknown_dataset and self.unknown_dataset not in datasets.DATASETS.names():
            known = ", ".join(datasets.DATASETS.names())
            raise ConfigError(f"unknown_dataset is '{self.unknown_dataset}', expected an empty text or one of {known}")
        if self.unknown_dataset and (held := datasets.DATASETS.get(self.unknown_dataset).layout) != CANONICAL:
            raise ConfigError(f"unknown_dataset {self.unknown_dataset} holds joints of {held}: name one of bodies, "
                              f"{CANONICAL}; of hands, those of its bodies are taken")  # fmt: skip
        if not all(isinstance(label, str) for label in self.unknown_exclude):
            raise ConfigError(f"unknown_exclude is {self.unknown_exclude}, expected labels")
        for part in (self, *(self.of(stage) for stage in self.plan())):
            part.parts()
            config.build(Augmentation, part.augmentation)
        return config.build(Augmentation, self.augmentation)

    def parts(self) -> tuple[Optimizer, Schedule, Sampling, Validation]:
        """What the dictionaries among the fields say.

        Raises:
            ConfigError: One has an unknown field, or fields that do not go together.
        """
        config.check_names(self.options, NETWORK_RESERVED, "options")
        config.check_names(self.dataset_options, datasets.RESERVED, "dataset_options")
        config.check_names(self.unknown_options, datasets.RESERVED, "unknown_options")
        optimizer, schedule = config.build(Optimizer, self.optimizer), config.build(Schedule, self.schedule)
        optimizer.check()
        schedule.check()
        if self.batch % self.accumulate:
            raise ConfigError(
                f"a batch of {self.batch} clips does not divide into {self.accumulate} parts (accumulate)"
            )
        validation = config.build(Validation, self.validation)
        validation.check()
        return optimizer, schedule, config.build(Sampling, self.sampling), validation

    def plan(self) -> list[Stage]:
        """The stages; one that trains everything where the recipe names none.

        Raises:
            ConfigError: An entry is no stage, or the last one trains another network.
        """
        if not self.stages:
            return [Stage("", self.epochs, self.learning_rate)]
        if not all(isinstance(entry, dict) for entry in self.stages):
            raise ConfigError("stages holds an entry that is no mapping, expected e.g. {name: joint, epochs: 25}")
        left_out = {"epochs": self.epochs, "learning_rate": self.learning_rate}
        stages = [config.build(Stage, {**left_out, **entry}) for entry in self.stages]
        for stage in stages:
            if not stage.model and (stage.options or stage.window_s is not None):
                raise ConfigError(f"stage '{stage.title}' has options or window_s, which are those of another network: "
                                  "name it (model), or set them for the recipe")  # fmt: skip
        if stages[-1].model:
            raise ConfigError(f"the last stage trains {stages[-1].model}, but the recipe is for {self.model}")
        return stages

    def of(self, stage: Stage) -> "Recipe":
        """The recipe of one stage, which has no stages itself."""
        optional = [field.name for field in dataclasses.fields(stage) if field.default is None]
        names = [name for name in optional if name != "window_s"]  # is of another network
        own: dict[str, Any] = {name: getattr(stage, name) for name in names if getattr(stage, name) is not None}
        if stage.model:
            own |= {"model": stage.model, "options": stage.options, "window_s": stage.window_s, "frames": None}
        return dataclasses.replace(self, stages=[], epochs=stage.epochs, learning_rate=stage.learning_rate, **own)

    def network_options(self) -> dict[str, Any]:
        """Options of the network, with this recipe's T."""
        return {**({} if self.frames is None else {"frames": self.frames}), **self.options}

    def window(self, network: Network) -> WindowSpec:
        """The window of a network that was made with `network_options`."""
        window = network.window
        return window if self.window_s is None else dataclasses.replace(window, seconds=self.window_s)

    def own_unknown(
        self, data_root: str, part: str, root: str = ""
    ) -> datasets.SourceDataset | datasets.PreparedDataset:
        """A part's clips of none of the classes: a person's own recordings labeled `unknown`; most often none.

        `root` is the dataset's folder, if not in `data_root`; errors are those of `actrec.datasets.create`.
        """
        folder = root or datasets.folder(data_root, self.dataset)
        return datasets.create_unknown(self.dataset, folder, split=self.split, part=part, **self.dataset_options)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and checkpoints."""
        return dataclasses.asdict(self)


def read(path: str | Path, changes: dict[str, Any] | None = None) -> Recipe:
    """Reads and validates a recipe.

    Args:
        path: YAML file, or the name of a recipe that comes with actrec (`recipe_files`).
        changes: Fields that have another value than the file gives; `schedule.every` is a field of a field.

    Raises:
        ConfigError: No such file, no YAML mapping, or a field is unknown or out of range.
    """
    path = find(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read recipe '{path}': {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # bytes that are no UTF-8, 2024-13-45, which looks like a date
        raise ConfigError(f"recipe '{path}' is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"recipe '{path}' holds no settings; see those that come with actrec for examples")
    try:
        recipe = config.build(Recipe, config.merged(content, changes or {}))
        recipe.check()
        if recipe.frames not in (None, recipe.options.get("frames", recipe.frames)):
            raise ConfigError(f"frames is {recipe.frames}, but options.frames is {recipe.options['frames']}")
    except ConfigError as error:
        raise ConfigError(f"recipe '{path}': {error}") from error
    return recipe
