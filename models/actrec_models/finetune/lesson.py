"""Teaches a network a person's own actions: a zoo package's network, a new head, their few recordings.

1. The head alone, on features of the frozen body, computed once for augmented draws of every clip.
2. All of the network, at a small rate.

What the person is told is judged on clips left out: the head on the frozen body leaves out one person (or one fold) at
a time, until every clip was left out once. So that a threshold can be chosen, the whole way is rehearsed without one
fold and without one class: the clips of the fold are what is known, the class, recordings labeled `unknown` and
made-up actions are what is not.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from actrec import features
from actrec.datasets.user_folder import OTHER, Folder
from actrec.inference.package import ModelPackage, Rejection
from actrec.skeleton.conversions import CANONICAL
from actrec.utils import config
from actrec.utils.errors import ConfigError
from actrec_models.export import rejection
from actrec_models.finetune.material import Material, TeachConfig, read_material
from actrec_models.finetune.trainings import Folds, Trainings, folds_of
from actrec_models.finetune.transfer import Base, open_base
from actrec_models.networks.base import Network

logger = logging.getLogger(__name__)


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
        others_rejected: Share that it rejects of the class left out and of recordings labeled unknown; NaN for none.
        mirror: Whether mirrored clips were learnt from.
        steps: Steps of the last training.
        epochs: Passes over the clips that these were.
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
    epochs: int
    seconds: float
    processor_seconds: float


def teach(
    folder: str | Path, settings: TeachConfig, progress: bool = True, threads: int = 0, **options: object
) -> Lesson:
    """Learns the actions in a folder of recordings (`actrec.datasets.user_folder`).

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
    work = Trainings(base, material, settings, progress)
    folds = folds_of(material.labels, material.people, settings.folds, settings.seed, material.recordings)
    logits = work.left_out(folds)
    rounds = [(fold, left) for fold, left in enumerate(_left_out_classes(material, folds))][: settings.rehearsals]
    rehearsed, ends = [], began + 60 * settings.minutes
    for number, (fold, left) in enumerate(rounds):
        allowed = (ends - time.monotonic()) / (len(rounds) - number + 1)
        rehearsed.append(work.rehearse(folds, fold, left, allowed, f"rehearsal {number + 1} of {len(rounds)}"))
    network, steps = work.train(np.arange(len(material.clips)), None, ends - time.monotonic(), "training")
    known, others, made_up = (
        _joined([getattr(one, kind) for one in rehearsed]) for kind in ("known", "others", "made_up")
    )
    scores, labels = (np.concatenate([getattr(one, kind) for one in rehearsed]) for kind in ("right", "labels"))
    chosen = rejection.choose(known, labels, _alike(others, made_up))
    rejected = float((chosen.confidence(others) < chosen.threshold).mean()) if len(others) else float("nan")
    described = (
        f"clips of {len(rounds)} folds left out ({chosen.known_kept:.1%} kept), against "
        f"{work.unknown_words(len(rounds))} ({chosen.unknown_rejected:.1%} rejected)"
    )
    seconds = time.monotonic() - began
    if seconds > 60 * settings.minutes:
        logger.warning("%.1f minutes, more than %g: nothing more could be left out", seconds / 60, settings.minutes)
    return Lesson(
        base.package, network, material, folds, logits,
        chosen.described(described),
        float(scores.mean()), len(scores), chosen.known_kept, rejected, work.augmentation.mirror, steps,
        max(1, round(steps * settings.batch / len(material.clips))),
        seconds, time.process_time() - used,
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
