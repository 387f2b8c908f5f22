"""The model package and the report of a fine-tuned network."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from actrec import features
from actrec.inference import package
from actrec.inference.package import ModelPackage, Provenance
from actrec_models.evaluation.metrics import confusion_matrix
from actrec_models.export.exporter import card, escape_markdown, weights_bytes
from actrec_models.export.onnx_graph import to_onnx
from actrec_models.finetune.fine_tuning import FineTuned
from actrec_models.training import provenance
from actrec_models.training.provenance import now, parameter_count

_REPORTED_CONFUSION = 0.1
"""Share of a class's clips with another label from which a confusion is reported."""

_WEAK = 0.8
"""Share of correct or rejected clips below which more recordings are advised."""

_FEW_CLIPS = 10
_LISTED_RECORDINGS = 10
_LICENSE = "the license of your recordings, and of the base: "


def write(result: FineTuned, folder: Path, command: str, seed: int, overwrite: bool = False) -> ModelPackage:
    """Export a fine-tuned network, checked against PyTorch.

    Args:
        result: The fine-tuned network.
        folder: Output folder; its name becomes the package's.
        command: Command that repeats the fine-tuning.
        seed: Its random seed.
        overwrite: Replace an existing package.

    Raises:
        PackageError: The folder exists, or the graph disagrees with PyTorch.
    """
    base, figures = result.base, report(result)
    content = to_onnx(result.network)
    trained = Provenance(
        dataset="folder",
        split="all",
        seed=seed,
        epochs=result.epochs,
        accuracy=figures["accuracy"],
        license=_LICENSE + base.provenance.license.removeprefix(_LICENSE),
        recipe=command,
        commit=provenance.commit(),
        data_sha256=result.recordings.fingerprint,
        created=now(),
        figures={
            "parameters": parameter_count(result.network),
            "streams": len(features.modalities(base.inputs)),
            "test_clips": figures["clips"],
            "taught_from": base.name,
            "taught_from_onnx_sha256": base.provenance.onnx_sha256,
            "evaluated_by": result.folds.description,
            **_training_recordings(result),
            "clips_per_class": figures["clips_per_class"],
            "validation_accuracy": figures["validation_accuracy"],
            "validation_known_kept": result.known_kept,
            "validation_unknown_rejected": figures["unknown_rejected"],
            "steps": result.steps,
            "minutes": figures["minutes"],
            "mirrored": result.mirror,
        },
    )
    description = dataclasses.replace(
        base,
        labels=result.recordings.classes,
        rejection=result.rejection,
        provenance=trained,
        path=Path(),
        float16=None,
        int8=None,
    )
    section = "\n".join(f"- {escape_markdown(line)}" for line in summary(result))
    text = f"{card(description, folder.name)}\n## How it was taught\n\n{section}\n"
    return package.write(folder, description, content, weights_bytes(result.network), text, overwrite)


def _training_recordings(result: FineTuned) -> dict[str, list[str]]:
    """Return the recordings that backbone and head were trained on, for `actrec eval`; empty if not all are known."""
    known = result.base.provenance.figures.get("recordings")
    if known is None and result.base.provenance.dataset == "folder":
        return {}
    return {"recordings": list(dict.fromkeys([*(known or ()), *result.recordings.identities]))}


def report(result: FineTuned) -> dict[str, Any]:
    """Return the figures, for `--json`."""
    recordings, folds, rejection = result.recordings, result.folds, result.rejection
    known = recordings.labels[recordings.labels >= 0]
    counts = confusion_matrix(known, result.logits.argmax(axis=1), len(recordings.classes))
    per_class = counts.diagonal() / np.maximum(counts.sum(axis=1), 1)
    base_recordings = set(result.base.provenance.figures.get("recordings", ()))
    return {
        "base": result.base.name,
        "classes": list(recordings.classes),
        "clips_per_class": recordings.counts,
        "unknown_clips": int((recordings.labels < 0).sum()),
        "skipped": list(recordings.skipped),
        "known_to_base": sum(identity in base_recordings for identity in recordings.identities),
        "evaluated_by": folds.description,
        "left_out": list(folds.names),
        "clips": int(counts.sum()),
        "accuracy": float(counts.diagonal().sum() / counts.sum()),
        "per_class": {name: float(share) for name, share in zip(recordings.classes, per_class, strict=True)},
        "confusion": counts.tolist(),
        "validation_accuracy": result.validation_accuracy,
        "validation_clips": result.validation_clips,
        "known_kept": result.known_kept,
        "unknown_rejected": None if np.isnan(result.unknown_rejected) else result.unknown_rejected,
        "threshold": rejection.threshold,
        "background": rejection.background,
        "calibrated_on": rejection.calibrated_on,
        "mirrored": result.mirror,
        "steps": result.steps,
        "minutes": round(result.seconds / 60, 2),
        "processor_minutes": round(result.processor_seconds / 60, 2),
    }


def summary(result: FineTuned) -> list[str]:
    """Return the report as sentences: accuracy, confusions, and advice on more recordings."""
    figures = report(result)
    fewer = " (with one class less)" if len(figures["classes"]) > 2 else ""
    return [
        f"{figures['evaluated_by']}, head on the frozen backbone: {figures['accuracy']:.1%} of {figures['clips']} "
        "clips right",
        f"validation runs: {result.validation_accuracy:.1%} of {result.validation_clips} held-out clips right{fewer}",
        f"rejection below {result.rejection.threshold:g}, chosen on {result.rejection.calibrated_on}",
        *(
            f"'{name}': {share:.1%} of {figures['clips_per_class'][name]} clips"
            for name, share in figures["per_class"].items()
        ),
        *_advice(result, figures),
    ]


def _advice(result: FineTuned, figures: dict[str, Any]) -> list[str]:
    """Return advice on improving the package, most important first."""
    names, counts, lines = figures["classes"], np.array(figures["confusion"]), []
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    pairs = zip(*np.nonzero(shares >= _REPORTED_CONFUSION), strict=True)
    for true, predicted in sorted(pairs, key=lambda pair: -shares[pair]):
        lines.append(
            f"'{names[true]}' is recognized as '{names[predicted]}' in {counts[true, predicted]} of "
            f"{counts[true].sum()} clips"
        )
    weak = [name for name, share in figures["per_class"].items() if share < _WEAK]
    if weak:
        lines.append(f"record more of {', '.join(f'{name!r}' for name in weak)}: other people, places and speeds")
    few = [f"{name!r} ({count})" for name, count in figures["clips_per_class"].items() if count < _FEW_CLIPS]
    if few:
        lines.append(f"fewer than {_FEW_CLIPS} clips of {', '.join(few)}: record more before relying on these figures")
    if result.folds.by == "clip":
        lines.append(
            "all clips of an action are cut from one recording, which makes the accuracy too high: record more"
        )
    if result.folds.by != "person":
        lines.append(
            "the figures include people of the training, because no person is given or one person did an action alone: "
            "record two or more with --person"
        )
    if figures["known_to_base"]:
        lines.append(
            f"{result.base.name} was trained on {figures['known_to_base']} of these clips before, which makes all "
            "figures too high: choose another --from"
        )
    rejected = figures["unknown_rejected"]
    if not result.rejection.threshold:
        lines.append("no threshold separates these actions from others: the package never publishes unknown")
    if not figures["unknown_clips"]:
        lines.append("no recording is labeled unknown: record other actions of the place with --label unknown")
    elif rejected is not None and rejected < _WEAK:
        lines.append(f"only {rejected:.0%} of other actions are rejected: record more with --label unknown")
    if reasons := figures["skipped"]:
        more = len(reasons) - _LISTED_RECORDINGS
        count = "1 recording" if len(reasons) == 1 else f"{len(reasons)} recordings"
        listed = "; ".join(reasons[:_LISTED_RECORDINGS])
        lines.append(f"{count} could not be used: {listed}{f'; and {more} more' if more > 0 else ''}")
    return lines
