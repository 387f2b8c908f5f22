"""Networks restored from training checkpoints and model packages, and the description of an exported package."""

import dataclasses
import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from actrec import datasets
from actrec.inference import package, zoo
from actrec.inference.package import ModelPackage, Provenance
from actrec.utils import config
from actrec.utils.errors import PackageError
from actrec_models.networks.base import Network
from actrec_models.registry import NETWORKS, create
from actrec_models.training import checkpoints, initial_weights, provenance
from actrec_models.training import module as training_module
from actrec_models.training.recipe import Recipe


def load_checkpoint(path: Path) -> tuple[Recipe, list[str], Network]:
    """Return the recipe, class names and network of a training checkpoint, without unpickling.

    Raises:
        PackageError: The file is missing or no checkpoint of `actrec train`.
    """
    return _restored(path, checkpoints.read(path))


def open_checkpoint(path: Path) -> tuple[Recipe, ModelPackage, Network]:
    """Return a checkpoint's recipe, its package description without rejection and accuracy, and its network.

    The file is read once, because a running training may replace it at any time.

    Raises:
        PackageError: As `load_checkpoint`.
    """
    content = checkpoints.read(path)
    recipe, classes, network = _restored(path, content)
    trained = run_provenance(recipe, provenance.from_checkpoint(content))
    trained = dataclasses.replace(trained, figures={"parameters": parameter_count(network), **trained.figures})
    draft = describe(recipe.model, recipe.options, classes, network, trained)
    return recipe, dataclasses.replace(draft, window=recipe.window(network)), network


def _restored(path: Path, content: dict[str, Any]) -> tuple[Recipe, list[str], Network]:
    parameters = content["hyper_parameters"]
    recipe = config.build(Recipe, parameters["recipe"])
    module = training_module.RecognitionModule(parameters["recipe"], parameters["classes"])
    try:
        module.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise PackageError(f"{path} does not fit the network that its recipe names: train it again") from error
    return recipe, parameters["classes"], module.network.eval()


def open_package(name: str | Path) -> tuple[ModelPackage, dict[str, Any], dict[str, Tensor]]:
    """Return a package's description, the options of its network, and the network's weights.

    Args:
        name: A package's folder, or its name in the zoo.

    Raises:
        PackageError: The package or its weights are missing, or the weights do not fit the network.
    """
    found = zoo.find(name)
    weights = initial_weights.package_weights(found)
    options = network_options(found)
    tensors = initial_weights.read(weights).tensors
    network: Network = create(found.family, num_classes=len(found.labels), **options)
    stated = [(spec.name, spec.modality, spec.layout, tuple(spec.shape)) for spec in found.inputs]
    built = [(spec.name, spec.modality, spec.layout, tuple(spec.shape)) for spec in network.input_specs]
    try:
        if stated != built:
            raise RuntimeError(f"it takes {built}")
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise PackageError(
            f"{found.path}: its weights do not fit {found.family} with {options or 'no options'} "
            f"({str(error).splitlines()[0]}); export it again"
        ) from error
    return found, options, tensors


def network_options(found: ModelPackage) -> dict[str, Any]:
    """Return the options of a package's network, parsed from its variant and inputs."""
    known = [field.name for field in dataclasses.fields(NETWORKS.get(found.family).config_class)]
    either = "|".join(sorted(known, key=len, reverse=True))
    pairs = re.findall(rf"(?:^|, )({either}) (.*?)(?=, (?:{either}) |$)", found.variant)
    options = {name: None if value == "None" else yaml.safe_load(value) for name, value in pairs}
    implied = {
        "frames": found.window.clip_frames,
        "bodies": found.bodies,
        "modalities": [spec.modality for spec in found.inputs],
    }
    return {**{name: value for name, value in implied.items() if name in known}, **options}


def describe(
    name: str, options: dict[str, Any], classes: Sequence[str], network: Network, trained: Provenance
) -> ModelPackage:
    """Return the description of a network's package, with the network's own window and no rejection."""
    return ModelPackage(
        schema_version=package.SCHEMA_VERSION,
        family=name,
        variant=", ".join(f"{k} {v}" for k, v in sorted(options.items())) or "as published",
        labels=tuple(classes),
        window=network.window,
        bodies=getattr(network.config, "bodies", 1),
        inputs=tuple(network.input_specs),
        rejection=package.Rejection(),
        provenance=trained,
    )


def run_provenance(recipe: Recipe, run: dict[str, Any]) -> Provenance:
    """Return the provenance of a training run; its accuracy is not measured yet."""
    return Provenance(
        dataset=recipe.dataset,
        split=recipe.split,
        seed=recipe.seed,
        epochs=run["epochs"],
        accuracy=0.0,
        licence=dataset_attribute(recipe.dataset, "licence"),
        recipe=recipe.command,
        commit=run.get("commit", provenance.commit()),
        created=now(),
        settings=config.plain(recipe.as_dict()),
        data_sha256=run.get("data_sha256", ""),
        init=tuple(run.get("init") or ()),
        figures={name: run[name] for name in ("recordings", provenance.INITIAL_TRAININGS) if name in run},
        command=run.get("command", ""),
        packages=run.get("packages", {}),
        trained_on=", ".join(filter(None, [run.get("device", ""), run.get("host", "")])),
        hours=round(run.get("hours", 0.0), 4),
    )


def dataset_attribute(name: str, attribute: str) -> str:
    """Return an attribute of the dataset called `name`, or its default for an unknown dataset."""
    kind = datasets.DATASETS.get(name) if name in datasets.DATASETS.names() else datasets.Source
    return str(getattr(kind, attribute))


def parameter_count(network: torch.nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in network.parameters())


def now() -> str:
    """Return the time in UTC, as a package stores it."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
