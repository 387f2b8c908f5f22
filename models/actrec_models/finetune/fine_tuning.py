"""Fine-tuning of a package's network on the user's own actions, from few recordings: `actrec teach`.

1. A head of class means is computed on features of the frozen backbone, for augmented versions of every clip.
2. With enough clips of each class, the whole network is also fine-tuned, at a small learning rate.

Both procedures are cross-validated: trained without one person, or one fold, and tested on it. The better one makes the
package, with the same steps, and its figures are the report. A fine-tuning that does not end in time is discarded.
The rejection threshold is chosen on the same networks' logits. Known actions are the folds' clips. Unknown ones are
recordings labeled `unknown`, classes that further networks were not trained on, and synthetic outliers.
"""

import dataclasses
import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actrec import features, inference
from actrec.datasets.base import ClipDataset
from actrec.datasets.user_folder import UNKNOWN_LABEL, Folder
from actrec.inference import package
from actrec.inference.package import EventThresholds, ModelPackage, Provenance, Rejection
from actrec.skeleton.layouts import CANONICAL
from actrec.utils import config
from actrec.utils.errors import ConfigError, InputError, PackageError
from actrec_models import evaluation
from actrec_models.evaluation.metrics import confusion_matrix
from actrec_models.export import onnx_graph, rejection
from actrec_models.export.exporter import card, escape_markdown, weights_bytes
from actrec_models.export.rejection import CalibratedRejection
from actrec_models.finetune.cross_validation import CrossValidation, Trainer
from actrec_models.finetune.recordings import Folds, Recordings, make_folds, read_recordings
from actrec_models.finetune.transfer import PretrainedModel, TeachConfig, open_pretrained
from actrec_models.networks.base import Network
from actrec_models.training import provenance

logger = logging.getLogger(__name__)

_REPORTED_CONFUSION = 0.1  # share of a class's clips with another label from which a confusion is reported
_WEAK = 0.8  # share of correct or rejected clips below which more recordings are advised
_FEW_CLIPS = 10
_ALLOWED_CLIPS = 1.5  # clips by which rounding may change the accuracy of an exported network
_ALLOWED_GAP = 0.05
_LISTED_RECORDINGS = 10
_HEAD, _TUNED = "head on the frozen network", "fine-tuned network"
_LICENSE = "the license of your recordings, and of the base: "


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned network with its validation.

    Attributes:
        base: The pretrained package.
        folds: Folds of the cross-validation.
        validation: Cross-validation of the procedure that made the network.
        head_accuracy: Cross-validated accuracy of the head on the frozen backbone.
        tuned_accuracy: Cross-validated accuracy of the fine-tuned network; None if it was not fine-tuned in time.
        not_tuned: Why there is no fine-tuned network to compare; empty if there is.
        known_kept: Share of the known clips, and of augmented versions of them, that the threshold accepts.
        unknown_rejected: Rejected share of the held-out classes and recordings labeled unknown; NaN if there are none.
        mirror: Whether mirrored clips were used.
        steps, epochs: Steps and epochs of the network's fine-tuning; 0 for the head on the frozen backbone.
        seconds, processor_seconds: Duration, and processor time of all cores.
    """

    base: ModelPackage
    network: Network
    recordings: Recordings
    folds: Folds
    validation: CrossValidation
    rejection: Rejection
    head_accuracy: float
    tuned_accuracy: float | None
    not_tuned: str
    known_kept: float
    unknown_rejected: float
    mirror: bool
    steps: int
    epochs: int
    seconds: float
    processor_seconds: float

    @property
    def procedure(self) -> str:
        """Name of the procedure that made the network."""
        return _TUNED if self.steps else _HEAD


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
    labels = recordings.labels
    folds = make_folds(labels, recordings.people, settings.folds, settings.seed, recordings.identities)
    trainer = Trainer(base, recordings, folds, settings, progress)
    network, validation = trainer.train(), trainer.validate()
    assert network is not None and validation is not None
    head_accuracy, tuned_accuracy, steps = validation.accuracy, None, 0
    not_tuned = _not_tuned(recordings, settings, head_accuracy)
    if not not_tuned:
        counted = trainer.steps(start + 60 * settings.minutes)
        tuned = trainer.validate(counted)
        tuned_accuracy = tuned.accuracy if tuned else None
        better = tuned_accuracy is not None and tuned_accuracy > head_accuracy
        trained = trainer.train(steps=counted) if better else None
        if tuned is None or (better and trained is None):
            expected = (counted.start - start + counted.expected_s) / 60
            not_tuned = f"fine-tuning takes about {expected:.1f} minutes here, over the limit of {settings.minutes:g}"
            logger.warning("%s: the %s is used; allow more with --minutes", not_tuned, _HEAD)
        elif trained is not None:
            network, validation, steps = trained, tuned, settings.steps
        counted.bar.close()
    chosen, rejected = _choose_rejection(validation)
    seconds = time.monotonic() - start
    if seconds > 60 * settings.minutes:
        logger.warning("%.1f minutes, over the limit of %g: nothing could be shortened", seconds / 60, settings.minutes)
    return FineTuned(
        base.package, network, recordings, folds, validation,
        chosen.for_package(_calibrated_on(chosen, validation, recordings, folds)),
        head_accuracy, tuned_accuracy, not_tuned, chosen.known_kept, rejected, trainer.augmentation.mirror, steps,
        round(steps * settings.batch / len(labels)), seconds, time.process_time() - processor_start,
    )  # fmt: skip


def _not_tuned(recordings: Recordings, settings: TeachConfig, head_accuracy: float) -> str:
    """Return why the whole network is not fine-tuned; empty if it is."""
    if not settings.steps:
        return "--steps is 0"
    few = [f"'{name}' has {count}" for name, count in recordings.counts.items() if count < settings.least]
    if not few:
        return "fine-tuning can be no better: the head recognizes all held-out clips" if head_accuracy == 1 else ""
    logger.warning(
        "fine-tuning takes %d clips of each action, but %s: the %s is used", settings.least, ", ".join(few), _HEAD
    )
    return f"fine-tuning takes {settings.least} clips of each action, but {', '.join(few)}"


def _choose_rejection(validation: CrossValidation) -> tuple[CalibratedRejection, float]:
    """Return the rejection of a procedure, and the rejected share of real unknown clips; NaN without any."""
    known, known_labels = np.concatenate([validation.logits, validation.varied]), np.tile(validation.labels, 2)
    unknown = validation.unknown
    chosen = rejection.choose(known, known_labels, _balance(unknown, validation.outliers))
    rejected = float((~chosen.accepts(unknown)).mean()) if len(unknown) else float("nan")
    return chosen, rejected


def _calibrated_on(
    chosen: CalibratedRejection, validation: CrossValidation, recordings: Recordings, folds: Folds
) -> str:
    """Return the description of the clips that a rejection was chosen on."""
    kinds = ["recordings labeled unknown"] if (recordings.labels == UNKNOWN_LABEL).any() else []
    kinds += [f"a held-out class of each of {validation.rounds} further networks"] if validation.rounds else []
    return (
        f"clips of {folds.count} held-out folds ({chosen.known_kept:.1%} kept), against "
        f"{', '.join([*kinds, 'synthetic outliers'])} ({chosen.unknown_rejected:.1%} rejected)"
    )


def _balance(real: np.ndarray, synthetic: np.ndarray) -> np.ndarray:
    """Concatenate both, with real clips repeated until they have at least the weight of the synthetic ones."""
    times = -(-len(synthetic) // len(real)) if len(real) else 0
    return np.concatenate([*[real] * times, synthetic])


# -- package and report ------------------------------------------------------------------------------------------------


def write(result: FineTuned, folder: Path, command: str, seed: int, overwrite: bool = False) -> ModelPackage:
    """Export a fine-tuned network; the folder's name becomes the package's.

    The written package and the network of each fold are scored again before anything is replaced (`check_report`).
    `command` repeats the fine-tuning with the random seed `seed`.

    Raises:
        PackageError: The folder exists, the graph disagrees with PyTorch, or the package with the report.
    """
    base, figures = result.base, report(result)
    taught = ClipDataset(result.recordings.clips, result.recordings.classes)
    content = onnx_graph.to_onnx(result.network)
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
            **provenance.as_figures(provenance.trainings(base.provenance)),
            "clips_per_class": figures["clips_per_class"],
            "procedure": result.procedure,
            "accuracy_interval": figures["accuracy_interval"],
            "head_accuracy": result.head_accuracy,
            "fine_tuned_accuracy": result.tuned_accuracy,
            "validation_known_kept": result.known_kept,
            "validation_unknown_rejected": figures["unknown_rejected"],
            "steps": result.steps,
            "minutes": figures["minutes"],
            "mirrored": result.mirror,
        },
    )
    description = dataclasses.replace(
        base, labels=result.recordings.classes, rejection=result.rejection, events=EventThresholds(),
        provenance=trained, path=Path(), float16=None, int8=None,
    )  # fmt: skip
    section = "\n".join(f"- {escape_markdown(line)}" for line in summary(result))
    text = f"{card(description, folder.name)}\n## How it was taught\n\n{section}\n"
    return package.write(
        folder, description, content, weights_bytes(result.network), text, overwrite,
        check=lambda written: check_report(result, written),
    )  # fmt: skip


def check_report(result: FineTuned, written: ModelPackage) -> None:
    """Score a package again on the clips of each fold, as a recognizer does, and compare it with the report.

    The network of each fold is exported as the package's was. The package's own network must recognize the clips that
    it was trained on as often as the networks that were not trained on them.

    Raises:
        PackageError: An accuracy differs from the report.
    """
    recordings, labels, right = result.recordings, result.recordings.labels, 0
    stated, known = result.validation.accuracy, np.flatnonzero(labels >= 0)
    own = _count_right(written, recordings, known) / len(known)
    if own < stated - _ALLOWED_GAP:
        raise PackageError(
            f"the exported network recognizes {own:.1%} of the clips that it was trained on, but networks that were "
            f"trained without them {stated:.1%}: not written; teach again with another --seed or with --steps 0"
        )
    for fold, network in enumerate(result.validation.networks):
        content = onnx_graph.simplify(onnx_graph.trace(network))
        with tempfile.TemporaryDirectory() as scratch:
            exported = package.write(Path(scratch) / "fold", written, content)
            right += _count_right(exported, recordings, known[result.folds.fold_of_clip[known] == fold])
    again = right / len(known)
    if abs(again - stated) > _ALLOWED_CLIPS / len(known):
        raise PackageError(
            f"the exported networks of the folds recognize {again:.1%} of the held-out clips, but the report states "
            f"{stated:.1%}: not written; teach again with another --seed"
        )


def _count_right(found: ModelPackage, recordings: Recordings, indices: np.ndarray) -> int:
    """Return the number of clips whose class a package recognizes on ONNX Runtime."""
    clips = ClipDataset([recordings.clips[int(i)] for i in indices], recordings.classes)
    logits = evaluation.score(inference.load(found, "onnxruntime"), clips).logits
    return int((logits.argmax(axis=1) == clips.labels).sum())


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
    counts = confusion_matrix(known, result.validation.logits.argmax(axis=1), len(recordings.classes))
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
        "procedure": result.procedure,
        "accuracy": float(counts.diagonal().sum() / counts.sum()),
        "accuracy_interval": wilson_interval(int(counts.diagonal().sum()), int(counts.sum())),
        "head_accuracy": result.head_accuracy,
        "fine_tuned_accuracy": result.tuned_accuracy,
        "not_fine_tuned": result.not_tuned,
        "per_class": {name: float(share) for name, share in zip(recordings.classes, per_class, strict=True)},
        "confusion": counts.tolist(),
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
    low, high = figures["accuracy_interval"]
    other = result.not_tuned
    if result.tuned_accuracy is not None:
        name, share = (_HEAD, result.head_accuracy) if result.steps else (_TUNED, result.tuned_accuracy)
        other = f"{name}: {share:.1%}" + (f"; {other}" if other else "")
    return [
        f"{figures['evaluated_by']}, {result.procedure}: {figures['accuracy']:.1%} of {figures['clips']} clips right "
        f"(95 % interval: {low:.0%} to {high:.0%})",
        f"not used: {other}",
        f"rejection: {result.rejection.note}; chosen on {result.rejection.calibrated_on}",
        *(
            f"'{name}': {share:.1%} of {figures['clips_per_class'][name]} clips"
            for name, share in figures["per_class"].items()
        ),
        *_advice(result, figures),
    ]


def wilson_interval(right: int, clips: int) -> list[float]:
    """Return Wilson's 95 % interval of the accuracy behind `right` of `clips`."""
    share, z = right / clips, 1.96
    middle, scale = share + z * z / (2 * clips), 1 + z * z / clips
    half = z * float(np.sqrt(share * (1 - share) / clips + (z / clips) ** 2 / 4))
    return [round(max(0.0, (middle - half) / scale), 4), round(min(1.0, (middle + half) / scale), 4)]


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
        better = "" if result.rejection.background is None else " better than the background"
        lines.append(f"no threshold separates these actions from others{better}: {result.rejection.note}")
    if not figures["unknown_clips"]:
        lines.append("no recording is labeled unknown: record other actions of the place with --label unknown")
    elif rejected is not None and rejected < _WEAK:
        lines.append(f"only {rejected:.0%} of other actions are rejected: record more with --label unknown")
    if reasons := figures["skipped"]:
        more = [f"and {len(reasons) - _LISTED_RECORDINGS} more"] if len(reasons) > _LISTED_RECORDINGS else []
        count = "1 recording" if len(reasons) == 1 else f"{len(reasons)} recordings"
        lines.append(f"{count} could not be used: {'; '.join([*reasons[:_LISTED_RECORDINGS], *more])}")
    return lines
