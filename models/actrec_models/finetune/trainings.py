"""The trainings of a lesson: heads on the frozen body, rehearsals without a fold and a class, the one that stays.

Which clips are left out together when a small set of recordings is judged on itself.
"""

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from actrec.datasets.base import ClipDataset
from actrec.datasets.user_folder import OTHER
from actrec_models.data.augmentation import Augmentation
from actrec_models.data.samples import Samples
from actrec_models.finetune.material import Material, TeachConfig
from actrec_models.finetune.transfer import Base, autocast, fit_head, set_head, stacked, tune
from actrec_models.networks.base import Network
from actrec_models.training.recipe import Recipe


@dataclass(frozen=True)
class Folds:
    """A division of clips.

    Attributes:
        of_clip: [N] number of the fold that each clip is in.
        names: What each fold is: a person, or "fold 1", …
        by: "person", "recording", or "clip" where one recording holds all clips of a class.
    """

    of_clip: np.ndarray
    names: tuple[str, ...]
    by: str

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.names)

    @property
    def words(self) -> str:
        """How it is called."""
        if self.by == "person":
            return "leave one person out"
        return f"{self.count}-fold cross-validation" + (" within recordings" if self.by == "clip" else "")


def folds_of(labels: np.ndarray, people: Sequence[str], count: int, seed: int, recordings: Sequence[str] = ()) -> Folds:
    """A fold a person where everybody is named and every class is done by two or more, else `count` folds by chance.

    By chance, clips that were cut from one recording are left out together, unless they are all that a class has. No
    fold holds all of a class: where recordings show several classes, there may be more folds for that.

    Args:
        labels: [N] class of each clip from 0 on, −1 for none of them.
        people: Who did each; empty where nobody says.
        count: Folds by chance; as many as the smallest class has recordings, where that is fewer.
        seed: Of the chance.
        recordings: What each clip was cut from; empty for another one each.
    """
    doer = np.array(people)
    source = np.array(recordings or [str(number) for number in range(len(labels))])
    known = labels >= 0
    names = tuple(sorted(set(doer[known].tolist())))
    doers = [set(doer[labels == label].tolist()) for label in range(int(labels.max()) + 1)]
    if len(names) > 1 and "" not in names and all(len(who) > 1 for who in doers):
        return Folds(_by_person(people, source, names), names, "person")
    apart = min(len(set(source[labels == label].tolist())) for label in range(len(doers)))
    by = "recording" if apart > 1 else "clip"
    if by == "clip":
        source = np.arange(len(labels))
        apart = min(int((labels == label).sum()) for label in range(len(doers)))
    of_clip = _divided(labels, source, min(count, apart), seed)
    return Folds(of_clip, tuple(f"fold {k + 1}" for k in range(int(of_clip.max()) + 1)), by)


def _by_person(people: Sequence[str], source: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """[N] folds: of each of these people one, among which all clips of somebody else lie together.

    So do those that have one source, of which nobody says who did them.
    """
    who = [(name, "" if name else one) for name, one in zip(people, source.tolist(), strict=True)]
    others = dict.fromkeys(one for one in who if one[0] not in names)  # did nothing but what is unknown
    fold_of = {(name, ""): fold for fold, name in enumerate(names)}
    fold_of |= {one: number % len(names) for number, one in enumerate(others)}
    return np.array([fold_of[one] for one in who], dtype=np.int64)


def _divided(labels: np.ndarray, source: np.ndarray, count: int, seed: int) -> np.ndarray:
    """[N] folds by chance: `count`, or the fewest more of which none holds all of a class, at most one a source.

    A class that lies in one fold would be judged by heads that never saw it, and seem to be recognized never.
    """
    sources = list(dict.fromkeys(source[labels >= 0].tolist()))
    of_clip = _by_chance(labels, source, count, seed)
    while not _serve(labels, of_clip, count):
        count += 1
        if count >= len(sources):
            known = {one: fold for fold, one in enumerate(sources)}
            others = dict.fromkeys(one for one in source.tolist() if one not in known)
            fold_of = known | {one: fold % len(sources) for fold, one in enumerate(others)}
            return np.array([fold_of[one] for one in source.tolist()], dtype=np.int64)
        of_clip = _by_chance(labels, source, count, seed, even=True)
    return of_clip


def _serve(labels: np.ndarray, of_clip: np.ndarray, count: int) -> bool:
    """Whether each fold has known clips, and no fold all of a class."""
    within = [set(of_clip[labels == label].tolist()) for label in range(int(labels.max()) + 1)]
    return set().union(*within) == set(range(count)) and all(len(folds) > 1 for folds in within)


def _by_chance(labels: np.ndarray, source: np.ndarray, count: int, seed: int, even: bool = False) -> np.ndarray:
    """[N] folds in each of which every class has its share, as far as what has one source lies in one fold.

    Of folds that have as little of a class, a source goes to the first, or if `even` to that of the fewest sources.
    """
    rng = np.random.default_rng(seed)
    drawn = [source[rng.permutation(np.flatnonzero(labels == label))].tolist() for label in np.unique(labels)]
    fold_of: dict[object, int] = {}
    # Those of the fewest sources first: a source may hold several classes, and these have the least choice of folds.
    for members in sorted((list(dict.fromkeys(sources)) for sources in drawn), key=len):
        held = Counter(fold_of[one] for one in members if one in fold_of)
        for one in (one for one in members if one not in fold_of):
            sizes = Counter(fold_of.values()) if even else Counter()
            fold_of[one] = min(range(count), key=lambda fold: (held[fold], sizes[fold]))
            held[fold_of[one]] += 1
    return np.array([fold_of[one] for one in source.tolist()], dtype=np.int64)


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
        """[N] which known clips, as recorded, are recognized."""
        count = len(self.labels) // 2
        recognized: np.ndarray = self.known[:count].argmax(axis=1) == self.labels[:count]
        return recognized


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
            words.insert(0, "recordings labeled unknown")
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
        relabeled = [dataclasses.replace(clip, label=int(label)) for clip, label in zip(clips, moved, strict=True)]
        return Samples(
            ClipDataset(relabeled, self.material.classes), self.specs, self.window, self.recipe, augmentation
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
