"""The trainings of a lesson: heads on the frozen body, rehearsals without a fold and a class, the one that stays."""

import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from actrec_models.data import ClipDataset
from actrec_models.data.augment import Augmentation
from actrec_models.data.user_folder import OTHER
from actrec_models.folds import Folds
from actrec_models.networks.base import Network
from actrec_models.recipe import Recipe
from actrec_models.samples import Samples
from actrec_models.taking_over import Base, autocast, fit_head, set_head, stacked, tune
from actrec_models.teach_material import Material, TeachConfig

logger = logging.getLogger(__name__)

_CHUNK = 32
_FEATURES_SHARE = 0.2
"""Of the time allowed, what each of the two passes over all clips' features may take."""
_REHEARSAL_SHARE = 0.5
"""Of the time allowed to a rehearsal, what the features of its own clips may take."""
_UNSEEN_DRAWS = 1_000_000
"""Number of the first epoch of draws that training never sees."""


@dataclass(frozen=True)
class Draws:
    """The frozen body's features of augmented clips.

    Attributes:
        features: [draws, N, D], of the clips in their order.
        labels: [draws, N], −1 for made-up actions too.
    """

    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Rehearsal:
    """What a network says of clips that it has not learnt.

    Attributes:
        known: [2 N, classes] logits of known clips as recorded, then of a draw of each.
        labels: [2 N] of these.
        others: [K, classes] of clips of no class that it knows, likewise.
        made_up: [L, classes] of made-up actions.
    """

    known: np.ndarray
    labels: np.ndarray
    others: np.ndarray
    made_up: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """[N] which known clips, as recorded, are recognised."""
        count = len(self.labels) // 2
        recognised: np.ndarray = self.known[:count].argmax(axis=1) == self.labels[:count]
        return recognised


class Trainings:
    """What they share: the clips and their features."""

    def __init__(self, base: Base, material: Material, settings: TeachConfig, progress: bool):
        self.base, self.material, self.settings, self.progress = base, material, settings, progress
        self.window, self.specs = base.package.window, list(base.package.inputs)
        self.recipe = Recipe(seed=settings.seed, outliers=settings.outliers)
        self.augmentation = settings.augmented(material.classes)
        self.labels = material.labels
        with tqdm(total=settings.draws + 1, desc="features", unit="pass", disable=not progress) as bar:
            everything, self.body = np.arange(len(self.labels)), base.network(2)
            self.draws = self._draws([everything], bar, self._seconds)
            plain = self._samples(everything, None)
            self.plain = self._features(self.body, [plain[int(i)] for i in everything])[0]
            bar.update()

    def left_out(self, folds: Folds) -> np.ndarray:
        """[known clips, classes] logits of the head on the frozen body, each clip by one that never saw its fold.

        These heads learn from draws in which what leads up to a clip is of its own fold: of another one, it could be a
        clip that the head is judged on, seen under another label.
        """
        classes, known = len(self.material.classes), self.labels != OTHER
        logits = np.zeros((len(self.labels), classes), np.float32)
        parts = [np.flatnonzero(folds.of_clip == fold) for fold in range(folds.count)]
        with tqdm(total=self.settings.draws, desc="features of folds", unit="pass", disable=not self.progress) as bar:
            draws = self._draws(parts, bar, self._seconds)
        for fold in range(folds.count):
            held = folds.of_clip == fold
            weight, bias = self._head(draws, ~held, classes)
            logits[held] = (self.plain[torch.from_numpy(held)] @ weight.T + bias).numpy()
        return logits[known]

    def train(self, indices: np.ndarray, left: int | None, seconds: float, title: str) -> tuple[Network, int]:
        """The network trained on some clips, of which none is of the class `left`; and the steps that it took."""
        ends = time.monotonic() + seconds
        draws = self.draws if len(indices) == len(self.labels) else self._own_draws(indices, left, seconds, title)
        classes = len(self.material.classes) - (left is not None)
        network = self.base.network(classes)
        set_head(self.base.layers(network), *self._head(draws, np.ones(len(indices), bool), classes))
        samples, seconds = self._samples(indices, self.augmentation, left), max(ends - time.monotonic(), 0.0)
        with tqdm(total=self.settings.steps, desc=title, unit="step", disable=not self.progress) as bar:
            steps = tune(network, samples, samples.clips.labels, self.settings, seconds, bar.update)
        if steps < self.settings.steps:
            logger.warning("%s: %d of %d steps in the time allowed", title, steps, self.settings.steps)
        return network, steps

    def rehearse(self, folds: Folds, fold: int, left: int | None, seconds: float, title: str) -> Rehearsal:
        """The whole way without a fold and a class."""
        held, ours = folds.of_clip == fold, self.labels
        absent = ours == left if left is not None else np.zeros(len(ours), bool)
        learnt = np.flatnonzero(~held & ~absent)
        network, _ = self.train(learnt, left, seconds, title)
        known = np.flatnonzero(held & (ours != OTHER) & ~absent)
        others = np.flatnonzero((held & (ours == OTHER)) | absent)
        mine, theirs = ([self._logits(network, clips, draw) for draw in (None, 0)] for clips in (known, others))
        labels = np.tile(_shifted(ours[known], left), 2)
        return Rehearsal(np.concatenate(mine), labels, np.concatenate(theirs), self._made_up(network, learnt))

    def unknown_words(self, rehearsals: int) -> str:
        """What the threshold was chosen against."""
        words = ["made-up actions"]
        if len(self.material.classes) > 2:
            words.insert(0, f"a class left out of each of {rehearsals} rehearsals")
        if (self.labels == OTHER).any():
            words.insert(0, "recordings labelled unknown")
        return ", ".join(words)

    def _head(self, draws: Draws, chosen: np.ndarray, classes: int) -> tuple[Tensor, Tensor]:
        keep = torch.from_numpy(chosen)
        features, labels = draws.features[:, keep].flatten(0, 1), draws.labels[:, keep].reshape(-1)
        return fit_head(features, labels, classes, self.settings)

    @property
    def _seconds(self) -> float:
        """What a pass over all clips' features may take."""
        return _FEATURES_SHARE * 60 * self.settings.minutes

    def _own_draws(self, indices: np.ndarray, left: int | None, seconds: float, title: str) -> Draws:
        """Of some clips, to which no other ones lead up: in `draws` of all, what is left out would be seen."""
        what = f"features of {title}"
        with tqdm(total=self.settings.draws, desc=what, unit="pass", disable=not self.progress) as bar:
            return self._draws([indices], bar, _REHEARSAL_SHARE * seconds, left)

    def _draws(self, parts: Sequence[np.ndarray], bar: tqdm, seconds: float, left: int | None = None) -> Draws:
        """Of clips in parts, each of which is drawn by itself. As many as the time allows, one at least."""
        features: list[Tensor] = []
        labels: list[Tensor] = []
        ends = time.monotonic() + seconds
        for draw in range(self.settings.draws):
            if features and time.monotonic() > ends:
                logger.warning("features: %d of %d draws in the time allowed", draw, self.settings.draws)
                break
            items: dict[int, dict] = {}
            for number, part in enumerate(parts):
                samples, epoch = self._samples(part, self.augmentation, left), draw * len(parts) + number
                items |= {int(index): samples[(epoch, place, 0)] for place, index in enumerate(part)}
            drawn, theirs = self._features(self.body, [items[index] for index in sorted(items)])
            features.append(drawn)
            labels.append(theirs)
            bar.update()
        return Draws(torch.stack(features), torch.stack(labels))

    def _samples(self, indices: np.ndarray, augmentation: Augmentation | None, left: int | None = None) -> Samples:
        clips = [self.material.clips[int(i)] for i in indices]
        moved = _shifted(np.array([clip.label for clip in clips], np.int64), left)
        relabelled = [dataclasses.replace(clip, label=int(label)) for clip, label in zip(clips, moved, strict=True)]
        return Samples(
            ClipDataset(relabelled, self.material.classes), self.specs, self.window, self.recipe, augmentation
        )

    def _features(self, body: Network, items: list[dict]) -> tuple[Tensor, Tensor]:
        rows = [
            torch.cat(self.base.features(body, stacked(items[start : start + _CHUNK]), self.settings.precision), dim=1)
            for start in range(0, len(items), _CHUNK)
        ]
        return torch.cat(rows), torch.tensor([item["label"] for item in items])

    def _logits(self, network: Network, indices: np.ndarray, draw: int | None) -> np.ndarray:
        """Of clips as recorded, or of draws that no training sees."""
        if draw is None:
            plain = self._samples(indices, None)
            return self._run(network, [plain[i] for i in range(len(indices))])
        clean = dataclasses.replace(self.recipe, outliers=0.0)
        samples = self._samples(indices, self.augmentation)
        samples.recipe = clean
        return self._run(network, [samples[(_UNSEEN_DRAWS + draw, i, 0)] for i in range(len(indices))])

    def _made_up(self, network: Network, indices: np.ndarray) -> np.ndarray:
        """Of as many made-up actions as there are clips, none of which training sees."""
        samples = self._samples(indices, self.augmentation)
        samples.recipe = dataclasses.replace(self.recipe, outliers=1.0)
        return self._run(network, [samples[(_UNSEEN_DRAWS, i, 1)] for i in range(len(indices))])

    @torch.no_grad()
    def _run(self, network: Network, items: list[dict]) -> np.ndarray:
        rows = [np.zeros((0, network.config.num_classes), np.float32)]
        for start in range(0, len(items), _CHUNK):
            with autocast(torch.device("cpu"), self.settings.precision):
                rows.append(network(**stacked(items[start : start + _CHUNK])).float().numpy())
        return np.concatenate(rows)


def _shifted(labels: np.ndarray, left: int | None) -> np.ndarray:
    """Labels as they are numbered without the class `left`."""
    return labels if left is None else labels - (labels > left)
