"""Export of a network, trained or not, to a model package: ONNX, parity check, rejection threshold, accuracy, card."""

import dataclasses
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
from actrec.datasets import find_duplicates
from actrec.inference import package
from actrec.inference.package import PRECISIONS, UNTRAINED, LowerPrecision, ModelPackage, Rejection
from actrec.utils import config, files
from actrec.utils.errors import ConfigError
from actrec_models import evaluation, registry
from actrec_models.evaluation import metrics
from actrec_models.export import precision, rejection
from actrec_models.export.card import card
from actrec_models.export.onnx_graph import to_onnx
from actrec_models.networks.base import Network
from actrec_models.training import initial_weights, provenance
from actrec_models.training.checkpoints import open_checkpoint
from actrec_models.training.provenance import dataset_attribute, describe_package, now, parameter_count
from actrec_models.training.recipe import Recipe


def export(
    source: Path,
    folder: Path,
    data_root: str,
    overwrite: bool = False,
    float16: bool = False,
    weights: bool = True,
    root: str = "",
) -> ModelPackage:
    """Export a checkpoint as a model package with rejection threshold and accuracy on the test part.

    Args:
        source: Checkpoint of `actrec train`.
        folder: Output folder; its name becomes the package's.
        data_root: Folder that contains a folder per dataset.
        overwrite: Replace an existing package.
        float16: Also write the network in half precision.
        weights: Also write PyTorch's weights, needed for further training or fine-tuning.
        root: Folder of the recipe's dataset; empty for its folder in `data_root`.

    Raises:
        PackageError: No checkpoint, an ONNX graph that disagrees with PyTorch, or a network unsuited to float16.
    """
    folder = files.check_place(folder, package.FILES, overwrite)
    recipe, draft, network = open_checkpoint(source)
    content = to_onnx(network)
    tensors = weights_bytes(network) if weights else None
    return write_package(
        draft, content, folder, recipe, (data_root, root), tensors, overwrite=overwrite, float16=float16
    )


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
) -> ModelPackage:
    """Export an untrained network as a package, to try it in the graph or to measure its speed.

    Args:
        name: A name of `actrec_models.list_models()`.
        options: Fields of its configuration.
        classes: Labels, in the order of the logits.
        folder: Output folder.
        init: Files of initial weights (`initial_weights.load`).
        seed: Seed of the random weights.
        overwrite: Replace an existing package.
        float16: Also write the network in half precision.

    Raises:
        ConfigError: Unknown network or option, initial weights that do not fit, or invalid classes.
        PackageError: The graph disagrees with PyTorch or cannot become an engine.
    """
    config.check_names(options, registry.RESERVED, "the network's options")
    for label in classes:
        if label.casefold() == types.UNKNOWN:
            raise ConfigError(f"'{label}' is reserved for rejected clips: remove it from the classes")
        if classes.count(label) > 1:
            raise ConfigError(f"the class '{label}' appears twice: {', '.join(classes)}")
    folder = files.check_place(folder, package.FILES, overwrite)
    torch.manual_seed(seed)
    network = registry.create(name, num_classes=len(classes), **options)
    for file in init:
        initial_weights.load(network, name, file)
    trained = package.Provenance(
        dataset=UNTRAINED,
        split=f"initialized from {', '.join(file.name for file in init)}, not trained" if init else "untrained",
        seed=seed,
        epochs=0,
        accuracy=0.0,
        licence="the license of the initial weights" if init else "none needed: random weights",
        recipe=_command(name, options, init, classes, folder, seed),
        commit=provenance.commit(),
        created=now(),
        figures={"parameters": parameter_count(network), "streams": len(features.modalities(network.input_specs))},
    )
    content = to_onnx(network)
    draft = describe_package(name, options, classes, network, trained)
    draft, half = with_float16(draft, content) if float16 else (draft, {})
    tensors = weights_bytes(network) if init else None
    return package.write(folder, draft, content, tensors, card(draft, folder.name), overwrite, half)


def _command(
    name: str, options: dict[str, Any], init: Sequence[Path], classes: Sequence[str], folder: Path, seed: int
) -> str:
    words = ["actrec", "export", "--network", name]
    for key, value in options.items():
        words += ["--option", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    for file in init:
        words += ["--init", file.name]
    return shlex.join([*words, "--classes", ",".join(classes), "--seed", str(seed), "--out", folder.name])


def write_package(
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
    """Write a package after choosing its rejection threshold and measuring its accuracy on the test part.

    Args:
        draft: Its description without these.
        content: The ONNX graph.
        folder: Output folder; its name becomes the package's.
        recipe: Recipe of the training.
        roots: Folder that contains a folder per dataset, and the folder of the recipe's dataset, or empty.
        weights: PyTorch's weights, as in `package.write`.
        overwrite: Replace an existing package.
        float16: Also write the network in half precision.

    Raises:
        PackageError: The network is unsuited to float16.
    """
    draft, half = with_float16(draft, content) if float16 else (draft, {})
    with tempfile.TemporaryDirectory() as scratch:
        written = package.write(Path(scratch) / folder.name, draft, content, lower=half)
        test = rejection.dataset_part(recipe, roots[0], "test", roots[1])
        draft = with_evaluation(draft, recipe, inference.load(written), test, roots)
        draft = with_lower_accuracies(draft, recipe, written, test)
    return package.write(folder, draft, content, weights, card(draft, folder.name), overwrite, half)


def with_evaluation(
    draft: ModelPackage, recipe: Recipe, session: inference.Session, test: datasets.ClipDataset, roots: tuple[str, str]
) -> ModelPackage:
    """Return the description with rejection, accuracy on the test part and the figures of the card.

    Args:
        draft: Its description; its other figures are kept.
        recipe: Recipe of the training.
        session: The network.
        test: The test part.
        roots: As in `write_package`.
    """
    chosen, figures = _evaluate(recipe, session, test, roots)
    calibrated_on = figures.pop("chosen_on", ())
    streams = len(features.modalities(session.package.inputs))
    figures = {"streams": streams, **draft.provenance.figures, **figures}
    if calibrated_on and "recordings" in figures:  # otherwise the list would seem to be complete
        figures["recordings"] = list(dict.fromkeys([*figures["recordings"], *calibrated_on]))
    trained = dataclasses.replace(draft.provenance, accuracy=figures["accuracy"], figures=figures)
    return dataclasses.replace(draft, rejection=chosen, provenance=trained)


def with_lower_accuracies(
    draft: ModelPackage, recipe: Recipe, written: ModelPackage, test: datasets.ClipDataset
) -> ModelPackage:
    """Return the description with the accuracies of the networks in lower precision on the test part.

    Args:
        draft: Its description.
        recipe: Recipe of the training.
        written: The package that contains the networks.
        test: The test part; if empty, nothing changes.
    """
    for name in PRECISIONS[1:]:
        lower = draft.lower(name)
        if lower is not None and len(test):
            session = inference.load(written, "onnxruntime", precision=name)
            logits = evaluation.score(session, test, recipe.clips).logits
            draft = replace_lower(draft, name, float((logits.argmax(axis=1) == test.labels).mean()))
    return draft


def replace_lower(draft: ModelPackage, name: str, accuracy: float | None) -> ModelPackage:
    """Return the description with the accuracy of its network in the precision `name`."""
    lower = draft.lower(name)
    assert lower is not None
    changed: dict[str, LowerPrecision] = {name: dataclasses.replace(lower, accuracy=accuracy)}
    return dataclasses.replace(draft, **changed)  # type: ignore[arg-type]


def with_float16(draft: ModelPackage, content: bytes) -> tuple[ModelPackage, dict[str, bytes]]:
    """Return the description with a float16 network, and that network as `package.write` takes it."""
    half, description = precision.package_float16(draft, content)
    return dataclasses.replace(draft, float16=description), {"float16": half}


def _evaluate(
    recipe: Recipe, session: inference.Session, test: datasets.ClipDataset, roots: tuple[str, str]
) -> tuple[Rejection, dict[str, Any]]:
    """Return the rejection and the figures of the card."""
    logits = np.zeros((0, len(test.classes)), np.float32)
    if len(test):
        logits = evaluation.score(session, test, recipe.clips).logits
    correct = logits.argmax(axis=1) == test.labels
    figures: dict[str, Any] = {"accuracy": float(correct.mean()) if len(test) else 0.0, "test_clips": len(test)}
    figures |= duplicate_figures(recipe, test, correct, roots)
    if recipe.clips != "live" and len(test):
        live = evaluation.score(session, test, "live").logits
        figures.update(clips=recipe.clips, live_accuracy=float((live.argmax(axis=1) == test.labels).mean()))
    if caveat := dataset_attribute(recipe.dataset, "caveat"):
        figures["caveat"] = caveat
    if obstacle := rejection.calibration_obstacle(recipe, session.package.inputs, *roots):
        return Rejection(calibrated_on=f"not calibrated: {obstacle}"), figures
    chosen, described = rejection.calibrate(recipe, session, *roots)
    # The threshold was fitted to the user's own recordings: a later evaluation must not count them as new.
    figures["chosen_on"] = rejection.calibration_recordings(recipe, session.package.labels, *roots)
    if not len(test):
        return chosen.for_package(described), figures
    confidence = chosen.confidence(logits)
    accepted = confidence >= chosen.threshold
    figures["test_confidence"] = float(confidence.mean())
    figures["test_ece"] = metrics.calibration_bins(confidence, correct).ece
    unknown = chosen.confidence(rejection.unknown_logits(recipe, session, roots[0], "test", roots[1]))
    figures["test_rejected"] = float((~accepted).mean())
    figures["test_right_and_accepted"] = float((accepted & correct).mean())
    if len(unknown):
        figures.update(unknown_rejected=float((unknown < chosen.threshold).mean()), unknown_clips=len(unknown))
    return chosen.for_package(described), figures


def duplicate_figures(
    recipe: Recipe, test: datasets.ClipDataset, correct: np.ndarray, roots: tuple[str, str]
) -> dict[str, float | int]:
    """Return the card's figures on test clips that are in the training part too; empty if there are none.

    Args:
        recipe: Recipe of the training.
        test: The test part.
        correct: [N] whether each of its clips was recognized.
        roots: As in `write_package`.
    """
    if recipe.dataset == "folder":  # the user's own recordings are distinguished by identity
        return {}
    duplicates = find_duplicates(test, lambda: rejection.dataset_part(recipe, roots[0], "train", roots[1]))
    unique = np.array([name not in duplicates for name in test.names])
    if not duplicates or not unique.any():
        return {}
    return {"copies": len(duplicates), "accuracy_without_copies": float(correct[unique].mean())}


def weights_bytes(network: Network) -> bytes:
    """Return the network's weights as safetensors, which needs separate memory for each tensor."""
    copied: set[int] = set()
    tensors = {}
    for name, value in network.state_dict().items():
        memory = value.untyped_storage().data_ptr()
        tensors[name] = value.clone().contiguous() if memory in copied else value.contiguous()
        copied.add(memory)
    return bytes(safetensors.torch.save(tensors))
