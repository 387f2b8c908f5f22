"""Export of a network, trained or not, to a model package: ONNX, rejection threshold, accuracy, model card."""

import dataclasses
import html
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
from actrec.inference.package import PRECISIONS, UNTRAINED, LowerPrecision, ModelPackage, Provenance
from actrec.scene_flow import identity
from actrec.utils import config, folders
from actrec.utils.errors import ConfigError
from actrec_models import evaluation, networks
from actrec_models.evaluation import elsewhere, metrics
from actrec_models.export import precision, rejection
from actrec_models.export.onnx_graph import to_onnx
from actrec_models.networks.base import Network
from actrec_models.training import initial_weights, provenance
from actrec_models.training.checkpoints import open_checkpoint
from actrec_models.training.provenance import dataset_attribute, describe_package, now, parameter_count
from actrec_models.training.recipe import Recipe

REFERENCE = "onnxruntime"
"""Backend of the figures in a package: "auto" would take an engine that was built of it, in float16."""

_COMBINED = {"mean": "probabilities averaged", "logits": "logits averaged", "max": "probabilities maximized"}


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
        weights: Also write PyTorch's weights, needed for further training or fine-tuning.
        root: Folder of the recipe's dataset; empty for its folder in `data_root`.

    Raises:
        PackageError: No checkpoint, an ONNX graph that disagrees with PyTorch, or a network unsuited to float16.
    """
    folder = folders.check_output_folder(folder, package.FILES, overwrite)
    recipe, draft, network = open_checkpoint(source)
    content, tensors = to_onnx(network), weights_bytes(network) if weights else None
    roots = (data_root, root)
    return write_package(draft, content, folder, recipe, roots, tensors, overwrite=overwrite, float16=float16)


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
        init: Files of initial weights (`initial_weights.load`).

    Raises:
        ConfigError: Unknown network or option, initial weights that do not fit, or invalid classes.
        PackageError: The graph disagrees with PyTorch or cannot become an engine.
    """
    config.check_names(options, networks.RESERVED, "the network's options")
    for label in classes:
        if label.casefold() == types.UNKNOWN:
            raise ConfigError(f"'{label}' is reserved for rejected clips: remove it from the classes")
        if classes.count(label) > 1:
            raise ConfigError(f"the class '{label}' appears twice: {', '.join(classes)}")
    folder = folders.check_output_folder(folder, package.FILES, overwrite)
    torch.manual_seed(seed)
    network = networks.create(name, num_classes=len(classes), **options)
    for file in init:
        initial_weights.load(network, name, file)
    trained = package.Provenance(
        dataset=UNTRAINED,
        split=f"initialized from {', '.join(file.name for file in init)}, not trained" if init else "untrained",
        seed=seed,
        epochs=0,
        accuracy=0.0,
        license="the license of the initial weights" if init else "none needed: random weights",
        recipe=(_command(name, options, init, classes, folder, seed),),
        commit=provenance.commit(),
        created=now(),
        figures={"parameters": parameter_count(network), "streams": len(features.modalities(network.input_specs))},
    )
    content = to_onnx(network)
    draft = describe_package(name, options, classes, network, trained)
    draft, half = precision.with_float16(draft, content) if float16 else (draft, {})
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
        folder: Output folder; its name becomes the package's.
        roots: Folder that contains a folder per dataset, and the folder of the recipe's dataset, or empty.
        weights: PyTorch's weights, as in `package.write`.

    Raises:
        PackageError: The network is unsuited to float16.
    """
    draft, half = precision.with_float16(draft, content) if float16 else (draft, {})
    with tempfile.TemporaryDirectory() as scratch:
        written = package.write(Path(scratch) / folder.name, draft, content, lower=half)
        test = recipe.dataset_part(roots[0], "test", roots[1])
        draft = with_evaluation(draft, recipe, inference.load(written, REFERENCE), test, roots)
        draft = with_lower_accuracies(draft, recipe, written, test)
    return package.write(folder, draft, content, weights, card(draft, folder.name), overwrite, half)


def with_evaluation(
    draft: ModelPackage,
    recipe: Recipe,
    session: inference.Session,
    test: datasets.ClipDataset,
    roots: tuple[str, str],
    left_out: Sequence[inference.Session] = (),
) -> ModelPackage:
    """Return the description with rejection, accuracy on the test part and the figures of the card.

    Args:
        draft: Its description; its other figures are kept.
        roots: As in `write_package`.
        left_out: Networks for `rejection.calibrate_left_out`; without them, the package's own training part is taken.
    """
    logits = evaluation.score(session, test, recipe.clips).logits if len(test) else np.zeros((0, len(test.classes)))
    correct = logits.argmax(axis=1) == test.labels
    figures = {"streams": len(features.modalities(session.package.inputs)), **draft.provenance.figures}
    figures |= {"accuracy": float(correct.mean()) if len(test) else 0.0, "test_clips": len(test)}
    figures |= duplicate_figures(recipe, test, correct, roots)
    live = logits
    if recipe.clips != "live" and len(test):
        live = evaluation.score(session, test, "live").logits
        figures.update(clips=recipe.clips, live_accuracy=float((live.argmax(axis=1) == test.labels).mean()))
    if caveat := dataset_attribute(recipe.dataset, "caveat"):
        figures["caveat"] = caveat
    obstacle = "" if left_out else rejection.calibration_obstacle(recipe, session.package.inputs, *roots)
    if obstacle:
        chosen = dataclasses.replace(draft.rejection, calibrated_on=f"not calibrated: {obstacle}")
    else:
        if left_out:
            fitted, described = rejection.calibrate_left_out(left_out, draft, roots[0])
        else:
            fitted, described = rejection.calibrate(recipe, session, *roots)
        chosen = fitted.for_package(described)
        figures = {name: figure for name, figure in figures.items() if name not in _REJECTION_FIGURES}
        # A later evaluation must not count the recordings of the rejection as new. Of older packages of the user's own
        # recordings, the ones that trained are unknown.
        if not left_out and ("recordings" in figures or recipe.dataset != "folder"):
            used = rejection.calibration_recordings(recipe, session.package.labels, *roots)
            if known := list(dict.fromkeys([*figures.get("recordings", ()), *used])):
                figures["recordings"] = known
        if len(test):
            unknown = rejection.unknown_logits(recipe, session, roots[0], "test", roots[1])
            judged = logits if rejection.clip_mode(recipe) == recipe.clips else live  # as the threshold was chosen
            figures |= _rejection_figures(fitted, judged, judged.argmax(axis=1) == test.labels, unknown)
    trained = dataclasses.replace(draft.provenance, accuracy=figures["accuracy"], figures=figures)
    return dataclasses.replace(draft, rejection=chosen, provenance=trained)


_REJECTION_FIGURES = (
    "test_confidence", "test_ece", "test_rejected", "test_right_and_accepted", "unknown_rejected", "unknown_clips",
)  # fmt: skip
"""Names of the figures of `_rejection_figures`: the ones of an earlier rejection do not hold for another."""


def _rejection_figures(
    chosen: rejection.CalibratedRejection, logits: np.ndarray, correct: np.ndarray, unknown: np.ndarray
) -> dict[str, Any]:
    """Return the card's figures on a rejection, of the test part's logits and other actions'."""
    confidence, accepted = chosen.confidence(logits), chosen.accepts(logits)
    figures = {
        "test_confidence": float(confidence.mean()),
        "test_ece": metrics.calibration_bins(confidence, correct).ece,
        "test_rejected": float((~accepted).mean()),
        "test_right_and_accepted": float((accepted & correct).mean()),
    }
    if len(unknown):
        figures |= {"unknown_rejected": float((~chosen.accepts(unknown)).mean()), "unknown_clips": len(unknown)}
    return figures


def with_lower_accuracies(
    draft: ModelPackage, recipe: Recipe, written: ModelPackage, test: datasets.ClipDataset
) -> ModelPackage:
    """Return the description with the test accuracies of the lower precisions in `written`, if there is a test part."""
    for name in PRECISIONS[1:]:
        lower = draft.lower(name)
        if lower is not None and len(test):
            session = inference.load(written, REFERENCE, precision=name)
            logits = evaluation.score(session, test, recipe.clips).logits
            accuracy = float((logits.argmax(axis=1) == test.labels).mean())
            described = dataclasses.replace(lower, accuracy=accuracy)
            draft = dataclasses.replace(draft, **{name: described})  # type: ignore[arg-type]
    return draft


def duplicate_figures(
    recipe: Recipe, test: datasets.ClipDataset, correct: np.ndarray, roots: tuple[str, str]
) -> dict[str, float | int]:
    """Return the card's figures on test clips that are in the training part too; empty if there are none.

    `correct` [N] is whether each test clip was recognized; `roots` as in `write_package`.
    """
    if recipe.dataset == "folder":  # the user's own recordings are distinguished by identity
        return {}
    duplicates = find_duplicates(test, lambda: recipe.dataset_part(roots[0], "train", roots[1]))
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


# -- model card --------------------------------------------------------------------------------------------------------


def card(model: ModelPackage, name: str) -> str:
    """Return the README.md of the package called `name`, from its description."""
    trained, figures, window = model.provenance, model.provenance.figures, model.window
    people = "1 body" if model.bodies == 1 else f"up to {model.bodies} bodies"
    clips, modalities = len(window.starts), features.modalities(model.inputs)
    within = "" if clips == 1 else f", {clips} clips of {window.clip_frames}, {_COMBINED[window.combine]}"
    rows = [
        ("Network", f"`{model.family}` ({model.variant}), {figures.get('parameters', 0):,} parameters"),
        ("Streams", f"{len(modalities)}: {', '.join(modalities)}"),
        ("Window", f"{window.seconds:g} s resampled to {window.frames} frames{within}, {people}"),
        ("Labels", escape_markdown(", ".join(model.labels))),
    ]
    lower = [(f"In {name}", _lower_text(lower)) for name in PRECISIONS[1:] if (lower := model.lower(name))]
    if trained.untrained:
        note = (
            f"**This model is not trained** ({trained.split}). It shows whether a network fits a robot's time and "
            "memory budget. Its labels mean nothing, and it never publishes `unknown`.\n\n"
        )
        rows += [*lower, ("Made again by", _list_commands(trained.recipe))]
    else:
        note = f"**{figures['caveat']}**\n\n" if "caveat" in figures else ""
        rows += [*_accuracy_rows(trained), *lower, *_rejection_rows(model), *_training_rows(trained)]
    commit = f"commit {trained.commit}" if trained.commit else "no commit (not run from a checkout)"
    rows += [("Source", f"{commit}, {trained.created}"), ("License", trained.license)]
    bar = "\\|"  # an unescaped one would start another cell
    lines = "".join(f"| {key} | {value.replace('|', bar)} |\n" for key, value in rows)
    away = f"\n{elsewhere.section(figures[elsewhere.KEY], name)}" if elsewhere.KEY in figures else ""
    return f"# {name}\n\n{note}| | |\n| --- | --- |\n{lines}{away}"


def _lower_text(lower: LowerPrecision) -> str:
    accuracy = "" if lower.accuracy is None else f"{lower.accuracy:.1%} of the same clips; "
    text = f"{accuracy}logits within {lower.difference:.2%} of their spread of the float32 network's"
    text += f"; ranges of {lower.calibrated_on}" if lower.calibrated_on else ""
    return text + (f"; in float32: {', '.join(lower.kept)}" if lower.kept else "")


def _accuracy_rows(trained: Provenance) -> list[tuple[str, str]]:
    figures = trained.figures
    accuracy = f"{trained.accuracy:.1%} of {figures.get('test_clips', '?')} test clips (top-1, before rejection)"
    if figures.get("test_clips") == 0:
        accuracy = "not measured: the split has no test part"
    if "copies" in figures:
        left = figures["test_clips"] - figures["copies"]
        share = figures["accuracy_without_copies"]
        accuracy += f"; {share:.1%} of the {left} that are not in the training part as well"
    if "evaluated_by" in figures:
        accuracy += f", by {figures['evaluated_by']}, of the {figures.get('procedure', 'head on the frozen backbone')}"
    seeds = [part["seed"] for part in figures.get("fused", [])] or [trained.seed]
    seed = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    rate = f" at {trained.rates_text}" if trained.frame_rates else ""
    rows = [("Trained on", f"{trained.dataset}{rate}, split {trained.split}, {trained.epochs} epochs, {seed}")]
    rows += [("Scene flow", identity.text(trained.scene_flow))] if trained.scene_flow else []
    rows.append(("Accuracy", accuracy))
    return [*rows, ("Live", trained.live_note)] if trained.live_note else rows


def _rejection_rows(model: ModelPackage) -> list[tuple[str, str]]:
    figures, rows = model.provenance.figures, []
    if "test_ece" in figures:
        ece = f"expected calibration error {figures['test_ece']:.3f}"
        rows.append(("Confidence", f"test part: {figures['test_confidence']:.2f} on average, {ece}"))
    rows.append(("Rejection", model.rejection.note))
    if "test_rejected" in figures:
        kept = f"{figures['test_right_and_accepted']:.1%} right and accepted, {figures['test_rejected']:.1%} rejected"
        others = "no clip of another action was held out"
        if "unknown_rejected" in figures:
            clips = f"{figures['unknown_clips']} held-out clips of other actions"
            others = f"{figures['unknown_rejected']:.1%} of {clips} are rejected"
        rows.append(("With rejection", f"test part: {kept}; {others}"))
    rows.append(("Chosen on", escape_markdown(model.rejection.calibrated_on)))
    if chosen := model.events.chosen_on:
        return [*rows, ("Events", f"thresholds chosen on {escape_markdown(chosen)}")]
    return rows


def _training_rows(trained: Provenance) -> list[tuple[str, str]]:
    parts = trained.figures.get("fused", [])
    commands = [("Last command", trained.command)] if "fused" not in trained.figures else []
    commands += [(f"Last command of {part['name']}", part.get("command", "")) for part in parts]
    rows = [("Trained again by", _list_commands(trained.recipe or (trained.command or "?",)))]
    # They differ from the recipe's if recipe fields were overridden.
    rows += [(name, f"`{command}`") for name, command in commands if command and command not in trained.recipe]
    packages = ", ".join(f"{name} {version}" for name, version in trained.packages.items())
    facts = [
        ("Trained in", trained.trained_on and f"{trained.hours:.2f} h on {trained.trained_on}"),
        ("Trained with", packages),
        ("Training data", trained.data_sha256 and f"fingerprint {trained.data_sha256[:16]}…"),
        ("Began from", ", ".join(trained.init)),
    ]
    rows += [(name, value) for name, value in facts if value]
    for part in parts:
        run = f"seed {part['seed']}, {part['epochs']} epochs, commit {part['commit'] or 'unknown'}"
        rows.append((f"Of it {part['share']:.3g}", f"{part['name']}: {part['network']}, {run}"))
    return rows


def _list_commands(commands: Sequence[str]) -> str:
    return "<br>".join(f"`{command}`" for command in commands)


def escape_markdown(text: str) -> str:
    """Escape text for Markdown: a user's labels may contain any character."""
    return html.escape(text, quote=False).replace("`", "\\`")
