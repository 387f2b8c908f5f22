"""From a network, trained or not, to a model package: ONNX, parity check, rejection threshold, card.

What a package says of itself once its network is there: rejection threshold, accuracy on the test part, card.
"""

import dataclasses
import datetime
import json
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from actrec import datasets, features, inference, types
from actrec.datasets.duplicates import find_duplicates
from actrec.inference import package
from actrec.inference.package import PRECISIONS, UNTRAINED, LowerPrecision, ModelPackage, Rejection
from actrec.utils import config, files
from actrec.utils.errors import ConfigError, PackageError
from actrec_models import evaluation, registry
from actrec_models.evaluation import metrics
from actrec_models.export import half_precision, rejection
from actrec_models.export.card import card
from actrec_models.export.onnx_graph import to_onnx
from actrec_models.networks.base import Network
from actrec_models.training import checkpoints, initial_weights, provenance
from actrec_models.training import module as training_module
from actrec_models.training import provenance as provenances
from actrec_models.training.recipe import Recipe

__all__ = ["export", "export_network", "load_checkpoint", "open_checkpoint", "to_onnx"]


def write(
    draft: ModelPackage,
    content: bytes,
    folder: Path,
    recipe: Recipe,
    roots: tuple[str, str],
    weights: bytes | None = None,
    *,
    overwrite: bool = False,
    float16: bool = False,
) -> ModelPackage:
    """Writes a package with its rejection threshold and its accuracy on the test part.

    Args:
        draft: Its description without these.
        content: The network.
        folder: Where to; its name becomes the package's.
        recipe: Says what it is judged on, and how.
        roots: Folder that holds a folder a dataset, and that of the recipe's dataset itself, empty for its own.
        weights: PyTorch's, as `package.write` takes them.
        overwrite: Replace a package that is there.
        float16: Write the network in half precision beside it.

    Raises:
        PackageError: It cannot be written in float16.
    """
    draft, half = with_half(draft, content) if float16 else (draft, {})
    with tempfile.TemporaryDirectory() as scratch:
        drafted = package.write(Path(scratch) / folder.name, draft, content, lower=half)
        test = rejection.dataset_part(recipe, roots[0], "test", roots[1])
        draft = judged(draft, recipe, inference.load(drafted), test, roots)
        draft = rescored(draft, recipe, drafted, test)
    return package.write(folder, draft, content, weights, card(draft, folder.name), overwrite, half)


def judged(
    draft: ModelPackage, recipe: Recipe, session: inference.Session, test: datasets.ClipDataset, roots: tuple[str, str]
) -> ModelPackage:
    """The description with rejection, accuracy on the test part and the figures of the card.

    Args:
        draft: Its description; figures that are not of this kind stay.
        recipe: Says what it is judged on, and how.
        session: The network.
        test: The test part.
        roots: As `write` takes them.
    """
    chosen, figures = _judge(recipe, session, test, roots)
    chosen_on = figures.pop("chosen_on", ())
    streams = len(features.modalities(session.package.inputs))
    figures = {"streams": streams, **draft.provenance.figures, **figures}
    if chosen_on and "recordings" in figures:  # else nobody knows what was learnt, and this would seem to be all of it
        figures["recordings"] = list(dict.fromkeys([*figures["recordings"], *chosen_on]))
    provenance = dataclasses.replace(draft.provenance, accuracy=figures["accuracy"], figures=figures)
    return dataclasses.replace(draft, rejection=chosen, provenance=provenance)


def rescored(draft: ModelPackage, recipe: Recipe, written: ModelPackage, test: datasets.ClipDataset) -> ModelPackage:
    """The description with the accuracy of its networks in lower precision on the same clips.

    Args:
        draft: Its description.
        recipe: Says how windows are taken.
        written: The package whose networks these are.
        test: The test part; where it is empty nothing changes.
    """
    for name in PRECISIONS[1:]:
        told = draft.lower(name)
        if told is not None and len(test):
            found = _scores(recipe, inference.load(written, "onnxruntime", precision=name), test)
            accuracy = float((found.argmax(axis=1) == test.labels).mean())
            changed: dict[str, LowerPrecision] = {name: dataclasses.replace(told, accuracy=accuracy)}
            draft = dataclasses.replace(draft, **changed)  # type: ignore[arg-type]
    return draft


def with_half(draft: ModelPackage, content: bytes) -> tuple[ModelPackage, dict[str, bytes]]:
    """The description with that of its network in float16, and this, as `package.write` takes it."""
    half, told = half_precision.of_package(draft, content)
    return dataclasses.replace(draft, float16=told), {"float16": half}


def of_dataset(name: str, attribute: str) -> str:
    """What the dataset called `name`, or else any, says of itself."""
    kind = datasets.DATASETS.get(name) if name in datasets.DATASETS.names() else datasets.Source
    return str(getattr(kind, attribute))


def _scores(recipe: Recipe, session: inference.Session, clips: datasets.ClipDataset) -> np.ndarray:
    """Logits [N, classes]."""
    logits: np.ndarray = evaluation.score(session, clips, recipe.clips).logits
    return logits


def _judge(
    recipe: Recipe, session: inference.Session, test: datasets.ClipDataset, roots: tuple[str, str]
) -> tuple[Rejection, dict[str, Any]]:
    """The rejection, and the figures of the card; `roots` are of all datasets and of the recipe's."""
    scores = _scores(recipe, session, test) if len(test) else np.zeros((0, len(test.classes)), np.float32)
    right = scores.argmax(axis=1) == test.labels
    specs = session.package.inputs
    figures: dict[str, Any] = {
        "accuracy": float(right.mean()) if len(test) else 0.0,
        "test_clips": len(test),
    }
    figures |= without_copies(recipe, test, right, roots)
    if recipe.clips != "live" and len(test):
        live = evaluation.score(session, test, "live").logits
        figures.update(clips=recipe.clips, live_accuracy=float((live.argmax(axis=1) == test.labels).mean()))
    if caveat := of_dataset(recipe.dataset, "caveat"):
        figures["caveat"] = caveat
    missing = rejection.hindrance(recipe, specs, *roots)
    if missing:
        return Rejection(calibrated_on=f"not calibrated: {missing}"), figures
    chosen, described = rejection.calibrate(recipe, session, *roots)
    found = chosen.described(described)
    # The threshold has seen a person's own recordings: no later evaluation may count them as new.
    figures["chosen_on"] = rejection.chosen_on(recipe, session.package.labels, *roots)
    if not len(test):
        return found, figures
    confidence = chosen.confidence(scores)
    accepted = confidence >= chosen.threshold
    figures.update(test_confidence=float(confidence.mean()), test_ece=metrics.binned(confidence, right).ece)
    unknown = chosen.confidence(rejection.unknown_logits(recipe, session, roots[0], "test", roots[1]))
    figures.update(test_rejected=float((~accepted).mean()), test_right_and_accepted=float((accepted & right).mean()))
    if len(unknown):
        figures.update(unknown_rejected=float((unknown < chosen.threshold).mean()), unknown_clips=len(unknown))
    return found, figures


def without_copies(
    recipe: Recipe, test: datasets.ClipDataset, right: np.ndarray, roots: tuple[str, str]
) -> dict[str, float | int]:
    """What a card tells of test clips that the training part holds too, where there are any.

    Args:
        recipe: Names dataset and split.
        test: The test part.
        right: [N] whether each of its clips was recognized.
        roots: As `write` takes them.

    Returns:
        Figures "copies" and "accuracy_without_copies", or none.
    """
    if recipe.dataset == "folder":  # a person's own recordings are told apart by what they are
        return {}
    same = find_duplicates(test, lambda: rejection.dataset_part(recipe, roots[0], "train", roots[1]))
    own = np.array([name not in same for name in test.names])
    return {"copies": len(same), "accuracy_without_copies": float(right[own].mean())} if same and own.any() else {}


def load_checkpoint(path: Path) -> tuple[Recipe, list[str], Network]:
    """The recipe, class names and network of a training checkpoint, without unpickling.

    Raises:
        PackageError: The file is missing or no checkpoint of `actrec train`.
    """
    return _loaded(path, checkpoints.read(path))


def open_checkpoint(path: Path) -> tuple[Recipe, package.ModelPackage, Network]:
    """The recipe, the package's description before it is judged (no rejection, no accuracy), and the network.

    The file is read once: a training that is still going on may replace it at any time.

    Raises:
        PackageError: As `load_checkpoint`.
    """
    content = checkpoints.read(path)
    recipe, classes, network = _loaded(path, content)
    provenance = trained(recipe, provenances.of_checkpoint(content))
    figures = {"parameters": _parameters(network), **provenance.figures}
    provenance = dataclasses.replace(provenance, figures=figures)
    draft = describe(recipe.model, recipe.options, classes, network, provenance)
    return recipe, dataclasses.replace(draft, window=recipe.window(network)), network


def _loaded(path: Path, content: dict[str, Any]) -> tuple[Recipe, list[str], Network]:
    parameters = content["hyper_parameters"]
    recipe = config.build(Recipe, parameters["recipe"])
    module = training_module.Recognition(parameters["recipe"], parameters["classes"])
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
    folder = files.check_place(folder, package.FILES, overwrite)
    recipe, draft, network = open_checkpoint(source)
    content = to_onnx(network)
    kept = _weights(network) if weights else None
    return write(draft, content, folder, recipe, (data_root, root), kept, overwrite=overwrite, float16=float16)


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
    folder = files.check_place(folder, package.FILES, overwrite)
    torch.manual_seed(seed)
    network = registry.create(name, num_classes=len(classes), **options)
    for file in init:
        initial_weights.load(network, name, file)
    begun = f"initialized from {', '.join(file.name for file in init)}, not trained" if init else "untrained"
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
    draft, half = with_half(draft, content) if float16 else (draft, {})
    weights = _weights(network) if init else None
    return package.write(folder, draft, content, weights, card(draft, folder.name), overwrite, half)


def _check_classes(classes: Sequence[str]) -> None:
    """Refuses what no package may have, before the work and by the name that was given for it."""
    for label in classes:
        if label.casefold() == types.UNKNOWN:
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
        licence=of_dataset(recipe.dataset, "licence"),
        recipe=recipe.command,
        commit=run.get("commit", provenances.commit()),
        created=now(),
        settings=config.plain(recipe.as_dict()),
        data_sha256=run.get("data_sha256", ""),
        init=tuple(run.get("init") or ()),
        figures={name: run[name] for name in ("recordings", provenance.KEY) if name in run},
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
