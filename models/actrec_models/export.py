"""From a network, trained or not, to a model package: ONNX, parity check, rejection threshold, card."""

import dataclasses
import datetime
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from actrec import config, features, folders, package, schema
from actrec.errors import ConfigError, PackageError
from actrec.provenance import UNTRAINED
from actrec_models import checkpoint, initial_weights, judging, lineage, registry, training
from actrec_models import provenance as provenances
from actrec_models.card import card
from actrec_models.networks.base import Network
from actrec_models.onnx_graph import to_onnx
from actrec_models.recipe import Recipe

__all__ = ["export", "export_network", "load_checkpoint", "open_checkpoint", "to_onnx"]


def load_checkpoint(path: Path) -> tuple[Recipe, list[str], Network]:
    """The recipe, class names and network of a training checkpoint, without unpickling.

    Raises:
        PackageError: The file is missing or no checkpoint of `actrec train`.
    """
    return _loaded(path, checkpoint.read(path))


def open_checkpoint(path: Path) -> tuple[Recipe, package.ModelPackage, Network]:
    """The recipe, the package's description before it is judged (no rejection, no accuracy), and the network.

    The file is read once: a training that is still going on may replace it at any time.

    Raises:
        PackageError: As `load_checkpoint`.
    """
    content = checkpoint.read(path)
    recipe, classes, network = _loaded(path, content)
    provenance = trained(recipe, provenances.of_checkpoint(content))
    figures = {"parameters": _parameters(network), **provenance.figures}
    provenance = dataclasses.replace(provenance, figures=figures)
    draft = describe(recipe.model, recipe.options, classes, network, provenance)
    return recipe, dataclasses.replace(draft, window=recipe.window(network)), network


def _loaded(path: Path, content: dict[str, Any]) -> tuple[Recipe, list[str], Network]:
    parameters = content["hyper_parameters"]
    recipe = config.build(Recipe, parameters["recipe"])
    module = training.Recognition(parameters["recipe"], parameters["classes"])
    try:
        module.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise PackageError(f"{path} does not fit the network that its recipe names: train it again") from error
    return recipe, parameters["classes"], module.network.eval()


def export(
    source: Path,
    folder: Path,
    data_root: str,
    overwrite: bool = False,
    float16: bool = False,
    weights: bool = True,
    root: str = "",
) -> package.ModelPackage:
    """Writes a model package with its rejection threshold and its accuracy on the test part.

    Args:
        source: Checkpoint of `actrec train`.
        folder: Where to; its name becomes the package's.
        data_root: Folder that holds a folder a dataset.
        overwrite: Replace a package that is there.
        float16: Write the network in half precision beside it.
        weights: Also write PyTorch's weights, from which training or teaching can go on.
        root: Folder of the recipe's dataset itself; empty for its own in `data_root`.

    Raises:
        PackageError: No checkpoint, what was exported disagrees with PyTorch, or it cannot be written in float16.
    """
    folder = folders.check_place(folder, package.FILES, overwrite)
    recipe, draft, network = open_checkpoint(source)
    content = to_onnx(network)
    kept = _weights(network) if weights else None
    return judging.write(draft, content, folder, recipe, (data_root, root), kept, overwrite=overwrite, float16=float16)


def export_network(
    name: str,
    options: dict[str, Any],
    classes: Sequence[str],
    folder: Path,
    *,
    init: Sequence[Path] = (),
    seed: int = 1,
    overwrite: bool = False,
    float16: bool = False,
) -> package.ModelPackage:
    """Writes a package of a network that nobody trained, to try it in the graph or to measure it.

    Args:
        name: A name of `actrec_models.list_models()`.
        options: Fields of its configuration.
        classes: Labels, in the order of the logits.
        folder: Where to.
        init: Files of initial weights (`initial_weights.load`).
        seed: Of the random weights.
        overwrite: Replace a package that is there.
        float16: Write the network in half precision beside it.

    Raises:
        ConfigError: Unknown network or option, initial weights that do not fit, or classes that no package may have.
        PackageError: The graph disagrees with PyTorch or cannot become an engine.
    """
    config.check_names(options, registry.RESERVED, "the network's options")
    _check_classes(classes)
    folder = folders.check_place(folder, package.FILES, overwrite)
    torch.manual_seed(seed)
    network = registry.create(name, num_classes=len(classes), **options)
    for file in init:
        initial_weights.load(network, name, file)
    begun = f"initialised from {', '.join(file.name for file in init)}, not trained" if init else "untrained"
    provenance = package.Provenance(
        dataset=UNTRAINED,
        split=begun,
        seed=seed,
        epochs=0,
        accuracy=0.0,
        licence="that of the initial weights" if init else "none needed: random weights",
        recipe=_command(name, options, init, classes, folder, seed),
        commit=provenances.commit(),
        created=now(),
        figures={"parameters": _parameters(network), "streams": len(features.modalities(network.input_specs))},
    )
    content = to_onnx(network)
    draft = describe(name, options, classes, network, provenance)
    draft, half = judging.with_half(draft, content) if float16 else (draft, {})
    weights = _weights(network) if init else None
    return package.write(folder, draft, content, weights, card(draft, folder.name), overwrite, half)


def _check_classes(classes: Sequence[str]) -> None:
    """Refuses what no package may have, before the work and by the name that was given for it."""
    for label in classes:
        if label.casefold() == package.UNKNOWN:
            raise ConfigError(f"'{label}' is kept for what a model does not know: leave it out of the classes")
        if classes.count(label) > 1:
            raise ConfigError(f"the class '{label}' is named twice: {', '.join(classes)}")


def trained(recipe: Recipe, run: dict[str, Any]) -> package.Provenance:
    """What is known of the run that made a checkpoint; its accuracy is yet to be measured."""
    return package.Provenance(
        dataset=recipe.dataset,
        split=recipe.split,
        seed=recipe.seed,
        epochs=run["epochs"],
        accuracy=0.0,
        licence=judging.of_dataset(recipe.dataset, "licence"),
        recipe=recipe.command,
        commit=run.get("commit", provenances.commit()),
        created=now(),
        settings=schema.plain(recipe.as_dict()),
        data_sha256=run.get("data_sha256", ""),
        init=tuple(run.get("init") or ()),
        figures={name: run[name] for name in ("recordings", lineage.KEY) if name in run},
        command=run.get("command", ""),
        packages=run.get("packages", {}),
        trained_on=", ".join(filter(None, [run.get("device", ""), run.get("host", "")])),
        hours=round(run.get("hours", 0.0), 4),
    )


def _command(
    name: str, options: dict[str, Any], init: Sequence[Path], classes: Sequence[str], folder: Path, seed: int
) -> str:
    words = ["actrec", "export", "--network", name]
    for key, value in options.items():
        words += ["--option", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    for file in init:
        words += ["--init", file.name]
    return shlex.join([*words, "--classes", ",".join(classes), "--seed", str(seed), "--out", folder.name])


def describe(
    name: str, options: dict[str, Any], classes: Sequence[str], network: Network, provenance: package.Provenance
) -> package.ModelPackage:
    """The description of a network's package, with the network's own window and no rejection."""
    return package.ModelPackage(
        schema_version=package.SCHEMA_VERSION,
        family=name,
        variant=", ".join(f"{k} {v}" for k, v in sorted(options.items())) or "as published",
        labels=tuple(classes),
        window=network.window,
        bodies=getattr(network.config, "bodies", 1),
        inputs=tuple(network.input_specs),
        rejection=package.Rejection(),
        provenance=provenance,
    )


def _weights(network: Network) -> bytes:
    """The network's values as safetensors, which wants each in a memory of its own."""
    seen: set[int] = set()
    values = {}
    for name, value in network.state_dict().items():
        memory = value.untyped_storage().data_ptr()
        values[name] = value.clone().contiguous() if memory in seen else value.contiguous()
        seen.add(memory)
    return bytes(safetensors.torch.save(values))


def _parameters(network: Network) -> int:
    return sum(p.numel() for p in network.parameters())


def now() -> str:
    """The time, as a package says when it was made."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
