"""Fine-tuning of a package's network on the user's own actions, from few recordings: `actrec teach`.

1. The new head is trained on features of the frozen backbone, computed once for augmented versions of every clip.
2. The whole network is trained at a small learning rate.

The reported accuracy is cross-validated: a head on the frozen backbone is tested on one person, or one fold, after
training on the others. The rejection threshold is chosen by validation runs, which repeat both steps without one fold
and one class. The fold's clips are the known actions. The class, recordings labeled `unknown` and synthetic outliers
are the unknown ones.
"""

import dataclasses
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actrec import features
from actrec.datasets.base import ClipDataset
from actrec.datasets.user_folder import UNKNOWN_LABEL, Folder
from actrec.inference import package
from actrec.inference.package import ModelPackage, Provenance, Rejection
from actrec.skeleton.layouts import CANONICAL
from actrec.utils import config
from actrec.utils.errors import ConfigError, InputError
from actrec_models.evaluation.metrics import confusion_matrix
from actrec_models.export import rejection
from actrec_models.export.exporter import card, escape_markdown, weights_bytes
from actrec_models.export.onnx_graph import to_onnx
from actrec_models.finetune.recordings import Folds, Recordings, make_folds, read_recordings
from actrec_models.finetune.transfer import PretrainedModel, TeachConfig, Trainer, open_pretrained
from actrec_models.networks.base import Network
from actrec_models.training import provenance

logger = logging.getLogger(__name__)

_REPORTED_CONFUSION = 0.1  # share of a class's clips with another label from which a confusion is reported
_WEAK = 0.8  # share of correct or rejected clips below which more recordings are advised
_FEW_CLIPS = 10
_LISTED_RECORDINGS = 10
_LICENSE = "the license of your recordings, and of the base: "


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned network with its validation.

    Attributes:
        base: The pretrained package.
        folds: Folds of the cross-validation.
        logits: [known clips, classes] cross-validated logits of the head on the frozen backbone.
        validation_accuracy: Accuracy on the `validation_clips` held-out clips of the validation runs.
        known_kept: Share of these, and of augmented versions of them, that the threshold accepts.
        unknown_rejected: Rejected share of the held-out classes and recordings labeled unknown; NaN if there are none.
        mirror: Whether mirrored clips were used.
        steps, epochs: Steps and epochs of the final training.
        seconds, processor_seconds: Duration, and processor time of all cores.
    """

    base: ModelPackage
    network: Network
    recordings: Recordings
    folds: Folds
    logits: np.ndarray
    rejection: Rejection
    validation_accuracy: float
    validation_clips: int
    known_kept: float
    unknown_rejected: float
    mirror: bool
    steps: int
    epochs: int
    seconds: float
    processor_seconds: float


def teach(
    folder: str | Path, settings: TeachConfig, progress: bool = True, threads: int = 0, **options: object
) -> FineTuned:
    """Fine-tune a package on the actions in a folder of recordings (`actrec.datasets.user_folder`).

    Args:
        threads: CPU threads; 0 for PyTorch's default.
        options: Options of `Folder`.

    Raises:
        DeviceError, InputError: The recordings are missing, invalid or too few.
        PackageError: The pretrained package or its weights are missing.
        ConfigError: The package's network cannot be fine-tuned on skeletons.
    """
    config.validate(settings)
    if threads:
        torch.set_num_threads(threads)
    base = open_pretrained(settings.base)
    _check_base(base)
    source = Folder(folder, **options)  # type: ignore[arg-type]
    if source.layout != CANONICAL:
        raise InputError(f"'{source.root}' holds hands ({source.layout}): train a network of hands with `actrec train`")
    return fine_tune_package(base, read_recordings(source, progress), settings, progress)


def _check_base(base: PretrainedModel) -> None:
    specs = list(base.package.inputs)
    others = sorted(set(features.streams(specs)) - {"bodies"})
    layouts = sorted({spec.layout for spec in specs} - {CANONICAL})
    if others or layouts:
        taken = f"takes {', '.join(others)}" if others else f"takes joints of {layouts[0]}"
        raise ConfigError(f"{base.package.name} {taken}: choose a --from of bodies alone ({CANONICAL})")
    if base.package.bodies > 1:
        raise ConfigError(f"{base.package.name} takes {base.package.bodies} people together: choose a --from of one")
    base.check_head()


def fine_tune_package(
    base: PretrainedModel, recordings: Recordings, settings: TeachConfig, progress: bool = True
) -> FineTuned:
    """Fine-tune a pretrained package on recordings; see `teach`."""
    start, processor_start = time.monotonic(), time.process_time()
    for name, count in recordings.counts.items():
        if count < settings.least:
            logger.warning("'%s' has %d clips: record at least %d for a reliable label", name, count, settings.least)
    trainer, labels = Trainer(base, recordings, settings, progress), recordings.labels
    folds = make_folds(labels, recordings.people, settings.folds, settings.seed, recordings.identities)
    logits = trainer.cross_validate(folds)
    rounds = list(enumerate(_held_out_classes(recordings, folds)))[: settings.rehearsals]
    runs, end = [], start + 60 * settings.minutes
    for number, (fold, held_out) in enumerate(rounds):
        limit = (end - time.monotonic()) / (len(rounds) - number + 1)
        title = f"validation run {number + 1} of {len(rounds)}"
        runs.append(trainer.validate(folds, fold, held_out, limit, title))
    network, steps = trainer.train(np.arange(len(labels)), None, end - time.monotonic(), "training")
    known, unknown, outliers = (
        _concatenate([getattr(run, kind) for run in runs]) for kind in ("known", "unknown", "outliers")
    )
    correct, known_labels = (np.concatenate([getattr(run, kind) for run in runs]) for kind in ("correct", "labels"))
    chosen = rejection.choose(known, known_labels, _balance(unknown, outliers))
    rejected = float((chosen.confidence(unknown) < chosen.threshold).mean()) if len(unknown) else float("nan")
    kinds = ["recordings labeled unknown"] if (labels == UNKNOWN_LABEL).any() else []
    kinds += [f"a held-out class of each of {len(rounds)} validation runs"] if len(recordings.classes) > 2 else []
    calibrated_on = (
        f"clips of {len(rounds)} held-out folds ({chosen.known_kept:.1%} kept), against "
        f"{', '.join([*kinds, 'synthetic outliers'])} ({chosen.unknown_rejected:.1%} rejected)"
    )
    seconds = time.monotonic() - start
    if seconds > 60 * settings.minutes:
        logger.warning("%.1f minutes, over the limit of %g: no step could be shortened", seconds / 60, settings.minutes)
    return FineTuned(
        base.package, network, recordings, folds, logits, chosen.for_package(calibrated_on),
        float(correct.mean()), len(correct), chosen.known_kept, rejected, trainer.augmentation.mirror, steps,
        max(1, round(steps * settings.batch / len(labels))), seconds, time.process_time() - processor_start,
    )  # fmt: skip


def _concatenate(logits: list[np.ndarray]) -> np.ndarray:
    """Concatenate logits of networks that may have one class less, which gets −∞."""
    widest = max(part.shape[1] for part in logits)
    padded = [np.pad(part, ((0, 0), (0, widest - part.shape[1])), constant_values=-np.inf) for part in logits]
    return np.concatenate(padded)


def _balance(real: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
    """Concatenate both, with real clips repeated until they have at least the weight of the synthetic ones."""
    times = -(-len(synthetic) // len(real)) if len(real) else 0
    return np.concatenate([*[real] * times, synthetic])


def _held_out_classes(recordings: Recordings, folds: Folds) -> list[int | None]:
    """Return the class that the validation run of each fold holds out, in turn.

    None if fewer than two classes, or no known clip of the fold, would remain.
    """
    classes = len(recordings.classes)
    chosen: list[int | None] = []
    for fold in range(folds.count):
        in_fold = set(recordings.labels[folds.fold_of_clip == fold].tolist()) - {UNKNOWN_LABEL}
        candidates = [(fold + k) % classes for k in range(classes)] if classes > 2 else []
        chosen.append(next((held_out for held_out in candidates if in_fold - {held_out}), None))
    return chosen


# -- package and report ------------------------------------------------------------------------------------------------


def write(result: FineTuned, folder: Path, command: str, seed: int, overwrite: bool = False) -> ModelPackage:
    """Export a fine-tuned network, checked against PyTorch; the folder's name becomes the package's.

    `command` repeats the fine-tuning with the random seed `seed`.

    Raises:
        PackageError: The folder exists, or the graph disagrees with PyTorch.
    """
    base, figures = result.base, report(result)
    taught = ClipDataset(result.recordings.clips, result.recordings.classes)
    content = to_onnx(result.network)
    trained = Provenance(
        dataset="folder",
        split="all",
        seed=seed,
        epochs=result.epochs,
        accuracy=figures["accuracy"],
        license=_LICENSE + base.provenance.license.removeprefix(_LICENSE),
        recipe=(command,),
        commit=provenance.commit(),
        data_sha256=result.recordings.fingerprint,
        created=provenance.now(),
        frame_rates=tuple(sorted({*base.provenance.frame_rates, *taught.frame_rates()})),
        scene_flow=base.provenance.scene_flow,
        figures={
            "parameters": provenance.parameter_count(result.network),
            "streams": len(features.modalities(base.inputs)),
            "test_clips": figures["clips"],
            "taught_from": base.name,
            "taught_from_onnx_sha256": base.provenance.onnx_sha256,
            "evaluated_by": result.folds.description,
            **_training_recordings(result),
            "clips_per_class": figures["clips_per_class"],
            "validation_accuracy": result.validation_accuracy,
            "validation_known_kept": result.known_kept,
            "validation_unknown_rejected": figures["unknown_rejected"],
            "steps": result.steps,
            "minutes": figures["minutes"],
            "mirrored": result.mirror,
        },
    )
    description = dataclasses.replace(
        base, labels=result.recordings.classes, rejection=result.rejection, provenance=trained, path=Path(),
        float16=None, int8=None,
    )  # fmt: skip
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
    recordings, folds = result.recordings, result.folds
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
        "threshold": result.rejection.threshold,
        "background": result.rejection.background,
        "calibrated_on": result.rejection.calibrated_on,
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
        clips = f"{counts[true, predicted]} of {counts[true].sum()} clips"
        lines.append(f"'{names[true]}' is recognized as '{names[predicted]}' in {clips}")
    if weak := [name for name, share in figures["per_class"].items() if share < _WEAK]:
        lines.append(f"record more of {', '.join(f'{name!r}' for name in weak)}: other people, places and speeds")
    if few := [f"{name!r} ({count})" for name, count in figures["clips_per_class"].items() if count < _FEW_CLIPS]:
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
        more = [f"and {len(reasons) - _LISTED_RECORDINGS} more"] if len(reasons) > _LISTED_RECORDINGS else []
        count = "1 recording" if len(reasons) == 1 else f"{len(reasons)} recordings"
        lines.append(f"{count} could not be used: {'; '.join([*reasons[:_LISTED_RECORDINGS], *more])}")
    return lines
