"""Fine-tuning of a package's network on the user's own actions, from few recordings.

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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from actrec import features
from actrec.datasets.base import ClipDataset
from actrec.datasets.user_folder import OTHER, Folder
from actrec.inference.package import ModelPackage, Rejection
from actrec.skeleton.layouts import CANONICAL
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError
from actrec_models.data.augmentation import Augmentation, names_side
from actrec_models.data.samples import Samples
from actrec_models.export import rejection
from actrec_models.finetune.recordings import Folds, Recordings, make_folds, read_recordings
from actrec_models.finetune.transfer import (
    PretrainedModel,
    TuningConfig,
    autocast,
    fine_tune,
    fit_head,
    open_pretrained,
    set_head,
    stack_inputs,
)
from actrec_models.networks.base import Network
from actrec_models.training.recipe import Recipe

logger = logging.getLogger(__name__)

_BATCH = 32

_FEATURES_SHARE = 0.2
"""Share of the time limit for each of the two passes over all clips' features."""

_VALIDATION_FEATURES_SHARE = 0.5
"""Share of a validation run's time limit for the features of its clips."""

_HELD_OUT_EPOCH = 1_000_000
"""First epoch whose augmentations no training uses."""


@dataclass(frozen=True)
class TeachConfig(TuningConfig):
    """Settings of `actrec teach`."""

    base: str = setting("deepacts_graph_nucla", "pretrained package: its name or folder")
    least: int = setting(10, "clips of a class below which a warning is logged", range=(1, 10_000))
    draws: int = setting(8, "augmented versions of each clip for the frozen backbone", range=(1, 1000))
    folds: int = setting(5, "folds of the cross-validation with fewer than two people", range=(2, 100))
    rehearsals: int = setting(2, "validation runs that choose the rejection threshold", range=(1, 100))
    outliers: float = setting(0.2, "share of synthetic outliers among the augmented clips", range=(0.0, 0.9))
    mirror: str = setting(
        "auto", "also train on mirrored clips; auto: unless a label has a side", choices=("auto", "yes", "no")
    )
    augmentation: dict = setting({}, "fields of actrec_models.data.augmentation.Augmentation")
    minutes: float = setting(10.0, "time limit; a short one reduces augmented versions and steps", range=(0.1, 1e5))
    seed: int = setting(1, "random seed", range=(0, 2**31 - 1))

    def augmentation_for(self, labels: Sequence[str]) -> Augmentation:
        """Return the augmentation for these labels."""
        sided = any(names_side(label) for label in labels)
        mirror = self.mirror == "yes" or (self.mirror == "auto" and not sided)
        return config.build(Augmentation, {"mirror": mirror, **self.augmentation})


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned network with its validation.

    Attributes:
        base: The pretrained package.
        network: The fine-tuned network.
        recordings: The training recordings.
        folds: Folds of the cross-validation.
        logits: [known clips, classes] cross-validated logits of the head on the frozen backbone.
        rejection: Rejection for the package.
        validation_accuracy: Accuracy on the held-out clips of the validation runs.
        validation_clips: Number of these clips.
        known_kept: Share of these, and of augmented versions of them, that the threshold accepts.
        unknown_rejected: Rejected share of the held-out classes and recordings labeled unknown; NaN if there are none.
        mirror: Whether mirrored clips were used.
        steps: Steps of the final training.
        epochs: Epochs of the final training.
        seconds: Duration.
        processor_seconds: Processor time of all cores.
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
        folder: The recordings.
        settings: Settings.
        progress: Show progress bars.
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
    trainer = Trainer(base, recordings, settings, progress)
    labels = recordings.labels
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
    calibrated_on = (
        f"clips of {len(rounds)} held-out folds ({chosen.known_kept:.1%} kept), against "
        f"{trainer.unknown_text(len(rounds))} ({chosen.unknown_rejected:.1%} rejected)"
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
        in_fold = set(recordings.labels[folds.fold_of_clip == fold].tolist()) - {OTHER}
        candidates = [(fold + k) % classes for k in range(classes)] if classes > 2 else []
        chosen.append(next((held_out for held_out in candidates if in_fold - {held_out}), None))
    return chosen


@dataclass(frozen=True)
class BackboneFeatures:
    """The frozen backbone's features of augmented clips.

    Attributes:
        features: [draws, N, D].
        labels: [draws, N], −1 for synthetic outliers too.
    """

    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class ValidationRun:
    """A network's logits of clips that it was not trained on.

    Attributes:
        known: [2 N, classes] logits of known clips as recorded, then of an augmented version of each.
        labels: [2 N] their labels.
        unknown: [K, classes] of clips of other actions, likewise.
        outliers: [L, classes] of synthetic outliers.
    """

    known: np.ndarray
    labels: np.ndarray
    unknown: np.ndarray
    outliers: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """[N] whether each known clip, as recorded, is recognized."""
        count = len(self.labels) // 2
        correct: np.ndarray = self.known[:count].argmax(axis=1) == self.labels[:count]
        return correct


class Trainer:
    """Trainings on shared clips: heads on the frozen backbone, validation runs, and the final network."""

    def __init__(self, base: PretrainedModel, recordings: Recordings, settings: TeachConfig, progress: bool):
        self.base, self.recordings, self.settings, self.progress = base, recordings, settings, progress
        self.window, self.specs = base.package.window, list(base.package.inputs)
        self.recipe = Recipe(seed=settings.seed, outliers=settings.outliers)
        self.augmentation = settings.augmentation_for(recordings.classes)
        self.labels = recordings.labels
        with tqdm(total=settings.draws + 1, desc="features", unit="pass", disable=not progress) as bar:
            everything, self.backbone = np.arange(len(self.labels)), base.network(2)
            self.augmented = self._augmented_features([everything], bar, self._pass_seconds)
            plain = self._samples(everything, None)
            self.plain = self._features([plain[int(i)] for i in everything])[0]
            bar.update()

    def cross_validate(self, folds: Folds) -> np.ndarray:
        """Return logits [known clips, classes] of the head on the frozen backbone, by a head without the clip's fold.

        The augmentation may prepend another clip. For these heads that clip is of the same fold, since it could
        otherwise be a test clip of the head.
        """
        classes, known = len(self.recordings.classes), self.labels != OTHER
        logits = np.zeros((len(self.labels), classes), np.float32)
        parts = [np.flatnonzero(folds.fold_of_clip == fold) for fold in range(folds.count)]
        with tqdm(total=self.settings.draws, desc="features of folds", unit="pass", disable=not self.progress) as bar:
            augmented = self._augmented_features(parts, bar, self._pass_seconds)
        for fold in range(folds.count):
            held_out = folds.fold_of_clip == fold
            weight, bias = self._fit_head(augmented, ~held_out, classes)
            logits[held_out] = (self.plain[torch.from_numpy(held_out)] @ weight.T + bias).numpy()
        return logits[known]

    def train(self, indices: np.ndarray, held_out: int | None, seconds: float, title: str) -> tuple[Network, int]:
        """Return the network trained on some clips, without the class `held_out`, and the number of steps."""
        end = time.monotonic() + seconds
        augmented = self.augmented
        if len(indices) < len(self.labels):
            # Features of these clips alone: in `self.augmented`, other clips may be prepended.
            name, limit = f"features of {title}", _VALIDATION_FEATURES_SHARE * seconds
            with tqdm(total=self.settings.draws, desc=name, unit="pass", disable=not self.progress) as bar:
                augmented = self._augmented_features([indices], bar, limit, held_out)
        classes = len(self.recordings.classes) - (held_out is not None)
        network = self.base.network(classes)
        set_head(self.base.head_layers(network), *self._fit_head(augmented, np.ones(len(indices), bool), classes))
        samples, seconds = self._samples(indices, self.augmentation, held_out), max(end - time.monotonic(), 0.0)
        with tqdm(total=self.settings.steps, desc=title, unit="step", disable=not self.progress) as bar:
            steps = fine_tune(network, samples, samples.clips.labels, self.settings, seconds, bar.update)
        if steps < self.settings.steps:
            logger.warning("%s: %d of %d steps within the time limit", title, steps, self.settings.steps)
        return network, steps

    def validate(self, folds: Folds, fold: int, held_out: int | None, seconds: float, title: str) -> ValidationRun:
        """Train without a fold and a class, and return the logits of these."""
        in_fold, labels = folds.fold_of_clip == fold, self.labels
        excluded = labels == held_out if held_out is not None else np.zeros(len(labels), bool)
        trained = np.flatnonzero(~in_fold & ~excluded)
        network, _ = self.train(trained, held_out, seconds, title)
        known = np.flatnonzero(in_fold & (labels != OTHER) & ~excluded)
        unknown = np.flatnonzero((in_fold & (labels == OTHER)) | excluded)
        known_logits, unknown_logits = (
            np.concatenate([self._logits(network, clips, augmented) for augmented in (False, True)])
            for clips in (known, unknown)
        )
        known_labels = np.tile(_renumber(labels[known], held_out), 2)
        return ValidationRun(known_logits, known_labels, unknown_logits, self._outlier_logits(network, trained))

    def unknown_text(self, runs: int) -> str:
        """Describe the unknown actions that the threshold was chosen against."""
        kinds = ["recordings labeled unknown"] if (self.labels == OTHER).any() else []
        if len(self.recordings.classes) > 2:
            kinds.append(f"a held-out class of each of {runs} validation runs")
        return ", ".join([*kinds, "synthetic outliers"])

    def _fit_head(self, augmented: BackboneFeatures, chosen: np.ndarray, classes: int) -> tuple[Tensor, Tensor]:
        keep = torch.from_numpy(chosen)
        backbone_features = augmented.features[:, keep].flatten(0, 1)
        return fit_head(backbone_features, augmented.labels[:, keep].reshape(-1), classes, self.settings)

    @property
    def _pass_seconds(self) -> float:
        return _FEATURES_SHARE * 60 * self.settings.minutes

    def _augmented_features(
        self, parts: Sequence[np.ndarray], bar: tqdm, seconds: float, held_out: int | None = None
    ) -> BackboneFeatures:
        """Return features of parts that are augmented separately, as many as the time allows, at least one pass."""
        drawn: list[Tensor] = []
        labels: list[Tensor] = []
        end = time.monotonic() + seconds
        for draw in range(self.settings.draws):
            if drawn and time.monotonic() > end:
                logger.warning("features: %d of %d passes within the time limit", draw, self.settings.draws)
                break
            items: dict[int, dict] = {}
            for number, part in enumerate(parts):
                samples, epoch = self._samples(part, self.augmentation, held_out), draw * len(parts) + number
                items |= {int(index): samples[(epoch, place, 0)] for place, index in enumerate(part)}
            part_features, part_labels = self._features([items[index] for index in sorted(items)])
            drawn.append(part_features)
            labels.append(part_labels)
            bar.update()
        return BackboneFeatures(torch.stack(drawn), torch.stack(labels))

    def _samples(self, indices: np.ndarray, augmentation: Augmentation | None, held_out: int | None = None) -> Samples:
        clips = [self.recordings.clips[int(i)] for i in indices]
        labels = _renumber(np.array([clip.label for clip in clips], np.int64), held_out)
        relabeled = [dataclasses.replace(clip, label=int(label)) for clip, label in zip(clips, labels, strict=True)]
        dataset = ClipDataset(relabeled, self.recordings.classes)
        return Samples(dataset, self.specs, self.window, self.recipe, augmentation)

    def _features(self, items: list[dict]) -> tuple[Tensor, Tensor]:
        batches = (stack_inputs(items[start : start + _BATCH]) for start in range(0, len(items), _BATCH))
        rows = [
            torch.cat(self.base.features(self.backbone, batch, self.settings.precision), dim=1) for batch in batches
        ]
        return torch.cat(rows), torch.tensor([item["label"] for item in items])

    def _logits(self, network: Network, indices: np.ndarray, augmented: bool) -> np.ndarray:
        """Return logits of clips as recorded, or of augmented versions that no training uses."""
        if not augmented:
            plain = self._samples(indices, None)
            return self._run(network, [plain[i] for i in range(len(indices))])
        samples = self._samples(indices, self.augmentation)
        samples.recipe = dataclasses.replace(self.recipe, outliers=0.0)
        return self._run(network, [samples[(_HELD_OUT_EPOCH, i, 0)] for i in range(len(indices))])

    def _outlier_logits(self, network: Network, indices: np.ndarray) -> np.ndarray:
        """Return logits of one synthetic outlier per clip, which no training uses."""
        samples = self._samples(indices, self.augmentation)
        samples.recipe = dataclasses.replace(self.recipe, outliers=1.0)
        return self._run(network, [samples[(_HELD_OUT_EPOCH, i, 1)] for i in range(len(indices))])

    @torch.no_grad()
    def _run(self, network: Network, items: list[dict]) -> np.ndarray:
        rows = [np.zeros((0, network.config.num_classes), np.float32)]
        for start in range(0, len(items), _BATCH):
            with autocast(torch.device("cpu"), self.settings.precision):
                rows.append(network(**stack_inputs(items[start : start + _BATCH])).float().numpy())
        return np.concatenate(rows)


def _renumber(labels: np.ndarray, held_out: int | None) -> np.ndarray:
    """Return the labels as numbered without the class `held_out`."""
    return labels if held_out is None else labels - (labels > held_out)
