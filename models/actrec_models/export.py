"""From a network, trained or not, to a model package: ONNX, parity check, rejection threshold, card."""

import dataclasses
import datetime
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from actrec import config, features, folders, inference, package, schema
from actrec.errors import PackageError
from actrec_models import checkpoint, data, evaluation, half_precision, initial_weights, registry, rejection, training
from actrec_models import provenance as provenances
from actrec_models.card import card
from actrec_models.networks.base import Network
from actrec_models.onnx_graph import to_onnx
from actrec_models.recipe import Recipe

__all__ = ["export", "export_network", "load_checkpoint", "to_onnx"]


def load_checkpoint(path: Path) -> tuple[Recipe, list[str], Network]:
    """The recipe, class names and network of a training checkpoint, without unpickling.

    Raises:
        PackageError: The file is missing or no checkpoint of `actrec train`.
    """
    content = checkpoint.read(path)
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
    folders.check_place(folder, package.DESCRIPTION, overwrite)
    recipe, classes, network = load_checkpoint(source)
    content = to_onnx(network)
    provenance = trained(recipe, provenances.of_checkpoint(checkpoint.read(source)))
    draft = describe(recipe.model, recipe.options, classes, network, provenance)
    draft = dataclasses.replace(draft, window=recipe.window(network))
    draft, half = _with_half(draft, content) if float16 else (draft, {})
    with tempfile.TemporaryDirectory() as scratch:
        drafted = package.write(Path(scratch) / folder.name, draft, content, lower=half)
        test = rejection.dataset_part(recipe, data_root, "test", root)
        judged, figures = _judge(recipe, inference.load(drafted), network, test, (data_root, root))
        if draft.float16 is not None and len(test):
            found = _scores(recipe, inference.load(drafted, "onnxruntime", precision="float16"), test)
            accuracy = float((found.argmax(axis=1) == test.labels).mean())
            draft = dataclasses.replace(draft, float16=dataclasses.replace(draft.float16, accuracy=accuracy))
    chosen_on = figures.pop("chosen_on", ())
    figures = {**figures, **provenance.figures}
    if chosen_on:
        figures["recordings"] = list(dict.fromkeys([*figures.get("recordings", ()), *chosen_on]))
    provenance = dataclasses.replace(provenance, accuracy=figures["accuracy"], figures=figures)
    final = dataclasses.replace(draft, rejection=judged, provenance=provenance)
    kept = _weights(network) if weights else None
    return package.write(folder, final, content, kept, card(final, folder.name), overwrite, half)


def _with_half(draft: package.ModelPackage, content: bytes) -> tuple[package.ModelPackage, dict[str, bytes]]:
    """The description with that of its network in float16, and this, as `package.write` takes it."""
    half, described = half_precision.of_package(draft, content)
    return dataclasses.replace(draft, float16=described), {"float16": half}


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
        ConfigError: Unknown network or option, or initial weights that do not fit.
        PackageError: The graph disagrees with PyTorch or cannot become an engine.
    """
    config.check_names(options, registry.RESERVED, "the network's options")
    folders.check_place(folder, package.DESCRIPTION, overwrite)
    torch.manual_seed(seed)
    network = registry.create(name, num_classes=len(classes), **options)
    for file in init:
        initial_weights.load(network, name, file)
    begun = f"initialised from {', '.join(file.name for file in init)}, not trained" if init else "untrained"
    provenance = package.Provenance(
        dataset="none",
        split=begun,
        seed=seed,
        epochs=0,
        accuracy=0.0,
        licence="that of the initial weights" if init else "none needed: random weights",
        recipe=_command(name, options, init, classes, folder),
        commit=provenances.commit(),
        created=_now(),
        figures={"parameters": _parameters(network), "streams": len(features.modalities(network.input_specs))},
    )
    content = to_onnx(network)
    described = describe(name, options, classes, network, provenance)
    described, half = _with_half(described, content) if float16 else (described, {})
    weights = _weights(network) if init else None
    return package.write(folder, described, content, weights, card(described, folder.name), overwrite, half)


def trained(recipe: Recipe, run: dict[str, Any]) -> package.Provenance:
    """What is known of the run that made a checkpoint; its accuracy is yet to be measured."""
    return package.Provenance(
        dataset=recipe.dataset,
        split=recipe.split,
        seed=recipe.seed,
        epochs=run["epochs"],
        accuracy=0.0,
        licence=_of_dataset(recipe.dataset, "licence"),
        recipe=recipe.command,
        commit=run.get("commit", provenances.commit()),
        created=_now(),
        settings=schema.plain(recipe.as_dict()),
        data_sha256=run.get("data_sha256", ""),
        init=tuple(run.get("init") or ()),
        figures={"recordings": run["recordings"]} if "recordings" in run else {},
        command=run.get("command", ""),
        packages=run.get("packages", {}),
        trained_on=", ".join(filter(None, [run.get("device", ""), run.get("host", "")])),
        hours=round(run.get("hours", 0.0), 4),
    )


def _command(name: str, options: dict[str, Any], init: Sequence[Path], classes: Sequence[str], folder: Path) -> str:
    words = ["actrec export --network", name]
    words += [f"--option {key}={value}" for key, value in options.items()]
    words += [f"--init {file.name}" for file in init]
    return " ".join([*words, f"--classes '{','.join(classes)}' --out {folder.name}"])


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


def _of_dataset(name: str, attribute: str) -> str:
    """What the dataset called `name`, or else any, says of itself."""
    kind = data.DATASETS.get(name) if name in data.DATASETS.names() else data.Source
    return str(getattr(kind, attribute))


def _scores(recipe: Recipe, session: inference.Session, clips: data.ClipDataset) -> np.ndarray:
    """Logits [N, classes]."""
    logits: np.ndarray = evaluation.score(session, clips, recipe.clips).logits
    return logits


def _judge(
    recipe: Recipe,
    session: inference.Session,
    network: Network,
    test: data.ClipDataset,
    roots: tuple[str, str],
) -> tuple[package.Rejection, dict[str, Any]]:
    """The rejection, and the figures of the card; `roots` are of all datasets and of the recipe's."""
    scores = _scores(recipe, session, test) if len(test) else np.zeros((0, len(test.classes)), np.float32)
    right = scores.argmax(axis=1) == test.labels
    figures: dict[str, Any] = {
        "accuracy": float(right.mean()) if len(test) else 0.0,
        "test_clips": len(test),
        "parameters": _parameters(network),
        "streams": len(features.modalities(network.input_specs)),
    }
    if recipe.clips != "live" and len(test):
        live = evaluation.score(session, test, "live").logits
        figures.update(clips=recipe.clips, live_accuracy=float((live.argmax(axis=1) == test.labels).mean()))
    if caveat := _of_dataset(recipe.dataset, "caveat"):
        figures["caveat"] = caveat
    missing = rejection.hindrance(recipe, network.input_specs, *roots)
    if missing:
        return package.Rejection(calibrated_on=f"not calibrated: {missing}"), figures
    chosen, described = rejection.calibrate(recipe, session, *roots)
    judged = package.Rejection(chosen.threshold, 1.0, described, chosen.background)
    # The threshold has seen a person's own recordings: no later evaluation may count them as new.
    figures["chosen_on"] = recipe.own_unknown(roots[0], "train", roots[1]).identities()
    if not len(test):
        return judged, figures
    accepted = chosen.confidence(scores) >= chosen.threshold
    unknown = chosen.confidence(rejection.unknown_logits(recipe, session, roots[0], "test", roots[1]))
    figures.update(test_rejected=float((~accepted).mean()), test_right_and_accepted=float((accepted & right).mean()))
    if len(unknown):
        figures.update(unknown_rejected=float((unknown < chosen.threshold).mean()), unknown_clips=len(unknown))
    return judged, figures


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
