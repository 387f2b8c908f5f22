"""Teaches a network a person's own actions: a zoo package's network, a new head, their few recordings.

1. The head alone, on features of the frozen body, computed once for augmented draws of every clip.
2. All of the network, at a small rate.

What the person is told is judged on clips left out: the head on the frozen body leaves out one person (or one fold) at
a time, until every clip was left out once. So that a threshold can be chosen, the whole way is rehearsed without one
fold and without one class: the clips of the fold are what is known, the class, recordings labelled `unknown` and
made-up actions are what is not.
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

from actrec import config, features
from actrec.config import setting
from actrec.errors import ConfigError, InputError
from actrec.package import ModelPackage, Rejection
from actrec.skeleton.conversions import CANONICAL
from actrec_models import rejection
from actrec_models.data import Clip, ClipDataset
from actrec_models.data.augment import Augmentation
from actrec_models.data.user_folder import OTHER, Folder
from actrec_models.folds import Folds, folds_of
from actrec_models.networks.base import Network
from actrec_models.recipe import Recipe
from actrec_models.samples import Samples
from actrec_models.taking_over import Base, TuningConfig, autocast, fit_head, open_base, set_head, stacked, tune

logger = logging.getLogger(__name__)

_SIDES = ("left", "right", "clockwise", "anticlockwise", "counterclockwise")
_CHUNK = 32
_UNSEEN_DRAWS = 1_000_000
"""Number of the first epoch of draws that training never sees."""


@dataclass(frozen=True)
class TeachConfig(TuningConfig):
    """Settings of `actrec teach`."""

    base: str = setting("deepacts_graph_nucla", "package whose network is taken over: its name or folder")
    least: int = setting(10, "clips a class below which a warning is given", range=(1, 10_000))
    draws: int = setting(8, "augmented draws of each clip that the frozen body looks at", range=(1, 1000))
    folds: int = setting(5, "parts of which one is left out, where fewer than two people are named", range=(2, 100))
    rehearsals: int = setting(2, "how often the whole way is rehearsed to choose the threshold", range=(1, 100))
    outliers: float = setting(0.2, "share of draws that show made-up actions of no class", range=(0.0, 0.9))
    mirror: str = setting(
        "auto", "also learn from mirrored clips; auto: unless a label tells a side", choices=("auto", "yes", "no")
    )
    augmentation: dict = setting({}, "fields of actrec_models.data.augment.Augmentation")
    minutes: float = setting(10.0, "time that the training may take; where it is short, steps are left out",
                             range=(0.1, 1e5))  # fmt: skip
    seed: int = setting(1, "of everything random", range=(0, 2**31 - 1))

    def augmented(self, labels: Sequence[str]) -> Augmentation:
        """The augmentation for these labels."""
        sided = any(word in _SIDES for label in labels for word in label.lower().replace("-", " ").split())
        mirror = self.mirror == "yes" or (self.mirror == "auto" and not sided)
        return config.build(Augmentation, {"mirror": mirror, **self.augmentation})


@dataclass(frozen=True)
class Material:
    """The recordings.

    Attributes:
        clips: Of the classes first, then those of none, with label −1.
        classes: Labels.
        people: Who did each clip; empty where nobody says.
        skipped: Recordings that cannot be used, and why.
        fingerprint: Of all of them.
    """

    clips: list[Clip]
    classes: tuple[str, ...]
    people: tuple[str, ...]
    skipped: tuple[str, ...]
    fingerprint: str

    @property
    def labels(self) -> np.ndarray:
        """[N], −1 for none of the classes."""
        return np.array([clip.label for clip in self.clips], dtype=np.int64)

    @property
    def counts(self) -> dict[str, int]:
        """Clips of each class."""
        return {name: int((self.labels == number).sum()) for number, name in enumerate(self.classes)}


@dataclass(frozen=True)
class Lesson:
    """What came of it.

    Attributes:
        base: The package that was taken over.
        network: Trained.
        material: On what.
        folds: Which clips were left out together.
        logits: [known clips, classes] of the head on the frozen body, each clip left out of it.
        rejection: For the package.
        rehearsed: Accuracy over the clips that the rehearsals left out.
        rehearsed_clips: How many these are.
        known_kept: Share of these, and of augmented draws of them, that the threshold keeps.
        others_rejected: Share that it rejects of the class left out and of recordings labelled unknown; NaN for none.
        mirror: Whether mirrored clips were learnt from.
        steps: Steps of the last training.
        seconds: Taken for all.
        processor_seconds: Likewise, of all cores together.
    """

    base: ModelPackage
    network: Network
    material: Material
    folds: Folds
    logits: np.ndarray
    rejection: Rejection
    rehearsed: float
    rehearsed_clips: int
    known_kept: float
    others_rejected: float
    mirror: bool
    steps: int
    seconds: float
    processor_seconds: float


def read_material(source: Folder, progress: bool = True) -> Material:
    """Reads all recordings; those that cannot be read are left out and named.

    Raises:
        InputError: No two classes are left with three clips each.
    """
    clips, people, skipped, entries = [], [], [], []
    for entry in tqdm([*source.entries(), *source.others()], desc="recordings", unit="clip", disable=not progress):
        try:
            clips.append(source.read(entry))
        except InputError as error:
            logger.warning("left out: %s", error)
            skipped.append(str(error))
            continue
        people.append(str(entry.meta["person"]))
        entries.append(entry)
    found = Material(clips, source.classes, tuple(people), tuple(skipped), source.fingerprint(entries))
    few = [f"'{name}' has {count}" for name, count in found.counts.items() if count < 3]
    if len(found.classes) < 2 or few:
        what = f"three clips of each are the least, and {', '.join(few)}" if few else "at least two actions are needed"
        raise InputError(f"'{source.root}': {what}; record more: actrec record --label NAME --out '{source.root}'")
    return found


def teach(
    folder: str | Path, settings: TeachConfig, progress: bool = True, threads: int = 0, **options: object
) -> Lesson:
    """Learns the actions in a folder of recordings (`actrec_models.data.user_folder`).

    Args:
        folder: The recordings.
        settings: How to learn.
        progress: Show progress bars.
        threads: Of the CPU; 0 for as many as PyTorch takes.
        options: Of `Folder`.

    Raises:
        DeviceError, InputError: The recordings are missing, wrong or too few.
        PackageError: There is no such base, or it came without its weights.
        ConfigError: The base's network cannot be taught from skeletons.
    """
    config.validate(settings)
    if threads:
        torch.set_num_threads(threads)
    base = open_base(settings.base)
    _check_base(base)
    source = Folder(folder, **options)  # type: ignore[arg-type]
    return learn(base, read_material(source, progress), settings, progress)


def learn(base: Base, material: Material, settings: TeachConfig, progress: bool = True) -> Lesson:
    """`teach`, of recordings that have been read."""
    began, used = time.monotonic(), time.process_time()
    for name, count in material.counts.items():
        if count < settings.least:
            logger.warning(
                "'%s' has %d clips: record at least %d for a label to be relied on", name, count, settings.least
            )
    work = _Work(base, material, settings, progress)
    folds = folds_of(material.labels, material.people, settings.folds, settings.seed)
    logits = work.left_out(folds)
    runs, known, real, made_up, right = settings.rehearsals, [], [], [], []
    rounds = [(fold, left) for fold, left in enumerate(_left_out_classes(material, folds))][:runs]
    ends = began + 60 * settings.minutes
    for number, (fold, left) in enumerate(rounds):
        allowed = (ends - time.monotonic()) / (len(rounds) - number + 1)
        ours, others, invented, score = work.rehearse(
            folds, fold, left, allowed, f"rehearsal {number + 1} of {len(rounds)}"
        )
        known.append(ours)
        real.append(others)
        made_up.append(invented)
        right.append(score)
    network, steps = work.train(np.arange(len(material.clips)), None, ends - time.monotonic(), "training")
    others, scores = _joined(real), np.concatenate(right)
    chosen = rejection.choose(_joined(known), _alike(others, _joined(made_up)))
    rejected = float((chosen.confidence(others) < chosen.threshold).mean()) if len(others) else float("nan")
    described = (
        f"clips of {len(rounds)} folds left out ({chosen.known_kept:.1%} kept), against "
        f"{work.unknown_words(len(rounds))} ({chosen.unknown_rejected:.1%} rejected)"
    )
    return Lesson(
        base.package, network, material, folds, logits,
        Rejection(chosen.threshold, 1.0, described, chosen.background),
        float(scores.mean()), len(scores), chosen.known_kept, rejected, work.augmentation.mirror, steps,
        time.monotonic() - began, time.process_time() - used,
    )  # fmt: skip


def _joined(rows: list[np.ndarray]) -> np.ndarray:
    """Logits of networks that may differ by a class, which those that lack it never choose."""
    widest = max(part.shape[1] for part in rows)
    padded = [np.pad(part, ((0, 0), (0, widest - part.shape[1])), constant_values=-np.inf) for part in rows]
    return np.concatenate(padded)


def _alike(real: np.ndarray, made_up: np.ndarray) -> np.ndarray:
    """Both, what people did repeated until it counts as much as what is made up."""
    times = -(-len(made_up) // len(real)) if len(real) else 0
    return np.concatenate([*[real] * times, made_up])


def _left_out_classes(material: Material, folds: Folds) -> list[int | None]:
    """The class that the rehearsal of each fold leaves out, one after the other.

    None where two would not be left, or nothing that is known in the fold.
    """
    classes = len(material.classes)
    chosen: list[int | None] = []
    for fold in range(folds.count):
        held = set(material.labels[folds.of_clip == fold].tolist()) - {OTHER}
        wanted = [(fold + k) % classes for k in range(classes)] if classes > 2 else []
        chosen.append(next((left for left in wanted if held - {left}), None))
    return chosen


def _check_base(base: Base) -> None:
    specs = list(base.package.inputs)
    others = sorted(set(features.streams(specs)) - {"bodies"})
    layouts = sorted({spec.layout for spec in specs} - {CANONICAL})
    if others or layouts:
        what = f"takes {', '.join(others)}" if others else f"takes joints of {layouts[0]}"
        raise ConfigError(f"{base.package.name} {what}: choose a --from of bodies alone ({CANONICAL})")
    if base.package.bodies > 1:
        raise ConfigError(f"{base.package.name} looks at {base.package.bodies} people together: choose a --from of one")
    base.check()


class _Work:
    """What all trainings of a lesson share: the clips and their features."""

    def __init__(self, base: Base, material: Material, settings: TeachConfig, progress: bool):
        self.base, self.material, self.settings, self.progress = base, material, settings, progress
        self.window, self.specs = base.package.window, list(base.package.inputs)
        self.recipe = Recipe(seed=settings.seed, outliers=settings.outliers)
        self.augmentation = settings.augmented(material.classes)
        self.labels = material.labels
        with tqdm(total=settings.draws + 1, desc="features", unit="pass", disable=not progress) as bar:
            everything, body = np.arange(len(self.labels)), base.network(2)
            samples = self._samples(everything, self.augmentation)
            parts = []
            for draw in range(settings.draws):
                parts.append(self._features(body, [samples[(draw, int(i), 0)] for i in everything]))
                bar.update()
            plain = self._samples(everything, None)
            self.plain = self._features(body, [plain[int(i)] for i in everything])[0]
            bar.update()
        self.features = torch.stack([drawn for drawn, _ in parts])  # [draws, N, D]
        self.drawn = torch.stack([labels for _, labels in parts])  # [draws, N], −1 for made-up actions too

    def left_out(self, folds: Folds) -> np.ndarray:
        """[known clips, classes] logits of the head on the frozen body, each clip by one that never saw its fold."""
        classes, known = len(self.material.classes), self.labels != OTHER
        logits = np.zeros((len(self.labels), classes), np.float32)
        for fold in range(folds.count):
            held = folds.of_clip == fold
            weight, bias = self._head(~held, classes, None)
            logits[held] = (self.plain[torch.from_numpy(held)] @ weight.T + bias).numpy()
        return logits[known]

    def train(self, indices: np.ndarray, left: int | None, seconds: float, title: str) -> tuple[Network, int]:
        """The network trained on some clips, without the class `left`; and the steps that it took."""
        classes = len(self.material.classes) - (left is not None)
        network = self.base.network(classes)
        chosen = np.isin(np.arange(len(self.labels)), indices)
        set_head(self.base.layers(network), *self._head(chosen, classes, left))
        samples = self._samples(indices, self.augmentation, left)
        with tqdm(total=self.settings.steps, desc=title, unit="step", disable=not self.progress) as bar:
            steps = tune(network, samples, samples.clips.labels, self.settings, max(seconds, 0.0), bar.update)
        if steps < self.settings.steps:
            logger.warning("%s: %d of %d steps in the time allowed", title, steps, self.settings.steps)
        return network, steps

    def rehearse(
        self, folds: Folds, fold: int, left: int | None, seconds: float, title: str
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The whole way without a fold and a class.

        Returns:
            Logits of known clips left out, of clips of no class, of made-up actions; which known clips are right.
        """
        held, ours = folds.of_clip == fold, self.labels
        absent = ours == left if left is not None else np.zeros(len(ours), bool)
        learnt = np.flatnonzero(~held & ~absent)
        network, _ = self.train(learnt, left, seconds, title)
        known = np.flatnonzero(held & (ours != OTHER) & ~absent)
        others = np.flatnonzero((held & (ours == OTHER)) | absent)
        plain = self._logits(network, known, None)
        right = plain.argmax(axis=1) == _shifted(ours[known], left)
        ours_twice = np.concatenate([plain, self._logits(network, known, 0)])
        theirs = np.concatenate([self._logits(network, others, draw) for draw in (None, 0)])
        return ours_twice, theirs, self._made_up(network, learnt), right

    def unknown_words(self, rehearsals: int) -> str:
        """What the threshold was chosen against."""
        words = ["made-up actions"]
        if len(self.material.classes) > 2:
            words.insert(0, f"a class left out of each of {rehearsals} rehearsals")
        if (self.labels == OTHER).any():
            words.insert(0, "recordings labelled unknown")
        return ", ".join(words)

    def _head(self, chosen: np.ndarray, classes: int, left: int | None) -> tuple[Tensor, Tensor]:
        keep = torch.from_numpy(chosen & (self.labels != left) if left is not None else chosen)
        labels = torch.from_numpy(_shifted(self.drawn[:, keep].reshape(-1).numpy(), left))
        return fit_head(self.features[:, keep].flatten(0, 1), labels, classes, self.settings)

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
