"""Trainings on the user's clips that share features of the frozen backbone, and their cross-validation."""

import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate
from tqdm import tqdm

from actrec.datasets.base import ClipDataset
from actrec.datasets.user_folder import UNKNOWN_LABEL
from actrec_models.data.augmentation import Augmentation
from actrec_models.data.samples import Samples
from actrec_models.finetune import transfer
from actrec_models.finetune.recordings import Folds, Recordings
from actrec_models.finetune.transfer import Batch, PretrainedModel, Steps, TeachConfig
from actrec_models.networks.base import OUTLIER, Network
from actrec_models.training.recipe import Recipe

logger = logging.getLogger(__name__)

_BATCH = 32
_FEATURES_SHARE = 0.4  # share of the time limit for the features of all augmented clips
_ROUND_SHARE = 0.1  # share for the features of the clips without a fold and a class
_HELD_OUT_EPOCH = 1_000_000  # first epoch whose augmentations no training uses


@dataclass(frozen=True)
class CrossValidation:
    """Cross-validation of a procedure: logits of clips by networks that were not trained on them.

    Attributes:
        networks: Network of each fold, trained on the other folds.
        logits: [N, classes] of known clips as recorded.
        varied: [N, classes] of an augmented version of each.
        labels: [N].
        unknown: [K, classes] of other actions: recordings labeled unknown, and each class that a further network was
            not trained on (−∞ for that class).
        outliers: [L, classes] of synthetic outliers.
        rounds: Number of these further networks.
    """

    networks: tuple[Network, ...]
    logits: np.ndarray
    varied: np.ndarray
    labels: np.ndarray
    unknown: np.ndarray
    outliers: np.ndarray
    rounds: int

    @property
    def accuracy(self) -> float:
        """Share of known clips as recorded that are recognized."""
        return float((self.logits.argmax(axis=1) == self.labels).mean())


class Trainer:
    """Trains heads on the frozen backbone and fine-tunes networks, on all clips or without a fold and a class.

    An augmented clip may follow another one of its fold, never one of another fold or of a held-out class: networks are
    independent of the clips that they are tested on.
    """

    def __init__(
        self, base: PretrainedModel, recordings: Recordings, folds: Folds, settings: TeachConfig, progress: bool
    ):
        self.base, self.recordings, self.folds = base, recordings, folds
        self.settings, self.progress = settings, progress
        self.recipe = Recipe(seed=settings.seed, outliers=settings.outliers)
        self.augmentation = settings.augmentation_for(recordings.classes)
        self.labels = recordings.labels
        self.backbone = base.network(2)
        self.augmented = self._augmented_features(np.arange(len(self.labels)), _FEATURES_SHARE)
        self._features_of_round: dict[tuple[int | None, int], tuple[Tensor, Tensor]] = {}

    def train(self, fold: int | None = None, held_out: int | None = None, steps: Steps | None = None) -> Network | None:
        """Return a network: the head on the frozen backbone, fine-tuned if `steps` are given.

        Args:
            fold: Fold to leave out.
            held_out: Class to leave out; the network has one class less.
            steps: Counts the steps; None is returned if their time does not suffice.
        """
        # A comparison with None holds for every clip.
        indices = np.flatnonzero((self.folds.fold_of_clip != fold) & (self.labels != held_out))
        if held_out is None:
            features, outliers = (each[:, indices] for each in self.augmented)
        else:
            key = (fold, held_out)
            if key not in self._features_of_round:
                self._features_of_round[key] = self._augmented_features(indices, _ROUND_SHARE)
            features, outliers = self._features_of_round[key]
        classes = len(self.recordings.classes) - (held_out is not None)
        labels = torch.from_numpy(_renumber(self.labels[indices], held_out)).expand(len(features), -1)
        labels = torch.where(outliers, OUTLIER, labels)
        smoothing = self.settings.label_smoothing
        head = transfer.prototype_head(features.flatten(0, 1), labels.flatten(), classes, len(indices), smoothing)
        network = self.base.network(classes)
        transfer.set_head(self.base.head_layers(network), *head)
        if steps is None:
            return network
        samples = self._samples(indices, self.augmentation, held_out)
        return network if transfer.fine_tune(network, samples, self.settings, steps) else None

    def rounds(self, fine_tuned: bool) -> list[tuple[int, int]]:
        """Return fold and class that each network of the rejection's calibration is not trained on."""
        classes = len(self.recordings.classes)
        if classes < 3:
            return []
        count = min(classes, self.settings.rehearsals * (1 if fine_tuned else 2))  # a head takes less time
        return [(label % self.folds.count, label) for label in range(count)]

    def validate(self, steps: Steps | None = None) -> CrossValidation | None:
        """Cross-validate the head, or the fine-tuned network if `steps` are given; None if time does not suffice."""
        labels, known = self.labels, self.labels != UNKNOWN_LABEL
        classes, of_clip = len(self.recordings.classes), self.folds.fold_of_clip
        logits = np.zeros((3, len(labels), classes), np.float32)  # as recorded, varied, outliers
        networks = []
        for fold in range(self.folds.count):
            network = self.train(fold, steps=steps)
            if network is None:
                return None
            networks.append(network)
            logits[:, of_clip == fold] = self._logits(network, np.flatnonzero(of_clip == fold))
        recorded, varied, outliers = logits
        unknown, rounds = [recorded[~known], varied[~known]], self.rounds(steps is not None)
        for fold, held_out in rounds:
            network = self.train(fold, held_out, steps)
            if network is None:
                return None
            fewer = self._logits(network, np.flatnonzero(labels == held_out))[:2].reshape(-1, classes - 1)
            unknown.append(np.insert(fewer, held_out, -np.inf, axis=1))
        return CrossValidation(
            tuple(networks), recorded[known], varied[known], labels[known], np.concatenate(unknown), outliers,
            len(rounds),
        )  # fmt: skip

    def steps(self, deadline: float) -> Steps:
        """Return the steps of a fine-tuned network with its validation."""
        total = (self.folds.count + len(self.rounds(True)) + 1) * self.settings.steps
        return Steps(total, deadline, tqdm(total=total, desc="fine-tuning", unit="step", disable=not self.progress))

    def _augmented_features(self, indices: np.ndarray, share: float) -> tuple[Tensor, Tensor]:
        """Return features [draws, N, D] of the frozen backbone, and [draws, N] whether each is of an outlier.

        There are as many draws as the time allows, at least one.
        """
        draws: list[Tensor] = []
        outliers: list[Tensor] = []
        end = time.monotonic() + share * 60 * self.settings.minutes
        of_clip = self.folds.fold_of_clip[indices]
        for draw in tqdm(range(self.settings.draws), desc="features", unit="pass", disable=not self.progress):
            if draws and time.monotonic() > end:
                logger.warning("features: %d of %d passes within the time limit", draw, self.settings.draws)
                break
            items: dict[int, dict] = {}
            for fold in np.unique(of_clip).tolist():
                part = np.flatnonzero(of_clip == fold)
                # Every clip is itself in the first draw, so that no class is without clips.
                samples = self._samples(indices[part], self.augmentation, outliers=None if draw else 0.0)
                epoch = draw * self.folds.count + fold
                items |= {int(index): samples[(epoch, place, 0)] for place, index in enumerate(part)}
            ordered = [items[index] for index in sorted(items)]
            rows = [
                torch.cat(self.base.features(self.backbone, inputs, self.settings.precision), dim=1)
                for inputs in _batches(ordered)
            ]
            draws.append(torch.cat(rows))
            outliers.append(torch.tensor([item["label"] == OUTLIER for item in ordered]))
        return torch.stack(draws), torch.stack(outliers)

    def _samples(
        self,
        indices: np.ndarray,
        augmentation: Augmentation | None,
        held_out: int | None = None,
        outliers: float | None = None,
    ) -> Samples:
        clips = [self.recordings.clips[int(i)] for i in indices]
        labels = _renumber(np.array([clip.label for clip in clips], np.int64), held_out)
        relabeled = [dataclasses.replace(clip, label=int(label)) for clip, label in zip(clips, labels, strict=True)]
        recipe = self.recipe if outliers is None else dataclasses.replace(self.recipe, outliers=outliers)
        package = self.base.package
        dataset = ClipDataset(relabeled, self.recordings.classes)
        return Samples(dataset, list(package.inputs), package.window, recipe, augmentation)

    @torch.no_grad()
    def _logits(self, network: Network, indices: np.ndarray) -> np.ndarray:
        """Return logits [3, N, classes] of clips as recorded, and of versions and outliers that no training uses."""
        kinds = []
        for number, augmentation in enumerate((None, self.augmentation, self.augmentation)):
            samples = self._samples(indices, augmentation, outliers=float(number == 2))
            items = [samples[(_HELD_OUT_EPOCH, i, number)] for i in range(len(indices))]
            rows = [network(**inputs).numpy() for inputs in _batches(items)]  # in float32, as in the package
            kinds.append(np.concatenate([np.zeros((0, network.config.num_classes), np.float32), *rows]))
        return np.stack(kinds)


def _batches(items: Sequence[dict]) -> Iterator[Batch]:
    """Yield the inputs of samples in batches."""
    for start in range(0, len(items), _BATCH):
        batch = default_collate(list(items[start : start + _BATCH]))
        yield {name: value for name, value in batch.items() if name != "label"}


def _renumber(labels: np.ndarray, held_out: int | None) -> np.ndarray:
    """Return the labels as numbered without the class `held_out`."""
    return labels if held_out is None else labels - (labels > held_out)
