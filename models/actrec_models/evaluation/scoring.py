"""Logits of a dataset's clips, computed by the session that runs live, and their fusion over several models."""

import contextlib
import dataclasses
import logging
import multiprocessing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from scipy.special import softmax
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from actrec import features
from actrec.datasets.base import Clip, ClipDataset
from actrec.features import rates
from actrec.features.clips import each_clip
from actrec.inference import session as windowed
from actrec.inference.package import ModelPackage
from actrec.inference.session import Session
from actrec.scene_flow import identity
from actrec.utils import config
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec_models.data.samples import Samples, describe_missing, parts
from actrec_models.evaluation.metrics import EvaluationResult
from actrec_models.training.recipe import Recipe

logger = logging.getLogger(__name__)

CLIP_MODES = ("live", "whole", "stretched", "subsequences")

FUSIONS = ("softmax", "logits")

BATCH = 64
"""Largest batch of clips of T frames; `Session.at_once` reduces it for large inputs."""

Inputs = dict[str, np.ndarray]


def augmented_samples(package: ModelPackage, clips: ClipDataset, mode: str = "live") -> Samples:
    """Return samples that are augmented as in the model's training, in a mode of `score`; deterministic.

    Clips before the recording and clips without a class are disabled, as they show another recording. "stretched"
    stretches every version; "whole" takes each from one of the recording's places.

    Raises:
        ConfigError: The package does not store how clips were augmented, or they were not, or "stretched" with a
            network that takes more than bodies.
    """
    known = {field.name for field in dataclasses.fields(Recipe)}
    settings = {name: value for name, value in package.provenance.settings.items() if name in known}
    if "augmentation" not in settings:
        raise ConfigError(f"{package.name} does not store how its training augmented clips: omit --draws")
    whole = config.build(Recipe, settings)
    recipe = whole.for_stage(whole.plan()[-1])  # the last of several stages
    if not recipe.augment:
        raise ConfigError(f"clips were not augmented in the training of {package.name}: omit --draws")
    if mode == "stretched" and set(features.streams(package.inputs)) != {"bodies"}:
        raise ConfigError(
            f"--draws augments only bodies in stretched clips, but {package.name} takes more: omit --draws"
        )
    augmentation = dataclasses.replace(recipe.check(), before=0.0, stretched=float(mode == "stretched"))
    recipe = dataclasses.replace(recipe, outliers=0.0, clips=mode)
    return Samples(clips, list(package.inputs), package.window, recipe, augmentation)


@dataclass(frozen=True)
class Scores:
    """Logits [N, classes] of a dataset, zeros for unreadable clips, and the cause by an unreadable clip's index."""

    logits: np.ndarray
    unreadable: dict[int, str]


def score(
    session: Session,
    clips: ClipDataset,
    mode: str = "live",
    *,
    draws: int = 0,
    skip_unreadable: bool = False,
    strict_inputs: bool = False,
    workers: int = 0,
    progress: bool = False,
) -> Scores:
    """Compute the logits of every clip.

    Args:
        clips: The dataset; one clip is in memory at a time.
        mode: "live": the recognizer's window when the recording ends. "whole": clips all over the recording
            (`samples.parts`), combined as the package combines the clips of a window. "stretched": one window from the
            first frame to the last, of any duration. "subsequences": evenly spaced ones of T recorded frames.
        draws: Augmented versions of each clip to score as well; all scores are combined.
        skip_unreadable: Record an unreadable clip instead of raising.
        strict_inputs: Raise instead of warn if the clips' scene flow is not the training's.
        workers: Processes that read and prepare; 0 for this one.

    Raises:
        ConfigError: Unknown mode, `augmented_samples` refuses the model, the dataset lacks a stream, or another scene
            flow with `strict_inputs`.
        InputError: No clip, a model that does not fit the dataset, or an unreadable clip.
    """
    if mode not in CLIP_MODES:
        raise ConfigError(f"unknown clip mode '{mode}'; known: {', '.join(CLIP_MODES)}")
    if not len(clips):
        raise InputError(f"{session.package.name}: the dataset's part is empty, there is no clip to score")
    check_layout(session.package, clips)
    check_streams(session.package, clips, strict_inputs)
    package = session.package
    if differs := other_flow(package, clips):
        logger.warning("%s", differs)
    needs_rate = rates.image_rate(package.inputs, package.window) > 0
    source_hz = min(clips.frame_rates(skip_unreadable), default=0.0) if needs_rate else 0.0
    if slow := rates.describe_rate(package.inputs, package.window, source_hz):
        logger.warning("%s: %s", package.name, slow)
    augmented = augmented_samples(session.package, clips, mode) if draws else None
    loader = DataLoader(
        _PreparedInputs(clips, session.package, mode, augmented, draws), batch_size=None, num_workers=workers,
        collate_fn=_identity, multiprocessing_context=_worker_context() if workers else None,
    )  # fmt: skip
    rows: list[list[np.ndarray]] = [[] for _ in range(len(clips))]
    unreadable: dict[int, str] = {}
    with tqdm(total=len(clips), unit="clip", desc=session.package.name, disable=None if progress else True) as bar:
        inputs = _readable(iter(loader), unreadable, skip_unreadable, bar)
        while batch := list(islice(inputs, session.at_once(BATCH))):
            for (index, _), logits in zip(batch, session.run(clip for _, clip in batch), strict=True):
                rows[index].append(logits)
    combine = session.package.window.combine
    known = {i: windowed.combined(np.stack(row)[None], combine)[0] for i, row in enumerate(rows) if i not in unreadable}
    if not known:
        raise InputError(f"none of {len(clips)} clips can be read; first: {unreadable[0]}")
    zeros = np.zeros(len(session.package.labels), np.float32)
    return Scores(np.stack([known.get(i, zeros) for i in range(len(clips))]), unreadable)


def evaluate(
    session: Session,
    clips: ClipDataset,
    mode: str = "live",
    *,
    name: str = "",
    class_map: Sequence[int] | None = None,
    scores: Scores | None = None,
    duplicates: frozenset[str] = frozenset(),
    learned: np.ndarray | None = None,
) -> EvaluationResult:
    """Evaluate a session on a dataset with the package's temperature, background and threshold.

    Args:
        class_map: The dataset's class of each of the model's finer classes, whose probabilities are summed.
        scores: Result of `score`, if known.
        duplicates, learned: As in `EvaluationResult`.

    Raises:
        InputError: The model's classes are not the dataset's, or as `score`.
    """
    package = session.package
    name = name or package.name
    if class_map is None and tuple(package.labels) != tuple(clips.classes):
        raise InputError(
            f"{name} knows {', '.join(package.labels)} but the dataset's classes are {', '.join(clips.classes)}: "
            "evaluate it on the dataset it was trained for"
        )
    scores = score(session, clips, mode) if scores is None else scores
    probabilities = session.softmax(scores.logits)
    threshold = package.rejection.threshold
    result = make_result(name, clips, probabilities, scores.unreadable, class_map, threshold, duplicates)
    return result if learned is None else dataclasses.replace(result, learned=learned)


def make_result(
    name: str,
    clips: ClipDataset,
    probabilities: np.ndarray,
    unreadable: Mapping[int, str],
    class_map: Sequence[int] | None = None,
    threshold: float | None = None,
    duplicates: frozenset[str] = frozenset(),
) -> EvaluationResult:
    """Return the result for probabilities [N, the model's classes]."""
    package_confidence = None if class_map is None else probabilities.max(axis=1)
    if class_map is None:
        merged = probabilities.copy()
    else:
        merged = np.zeros((len(probabilities), len(clips.classes)))
        np.add.at(merged.T, list(class_map), probabilities.T)
    merged[list(unreadable)] = 0.0
    names = clips.names
    causes = {names[index]: cause for index, cause in sorted(unreadable.items())}
    return EvaluationResult(
        name, tuple(clips.classes), tuple(names), clips.labels, merged, threshold, causes, package_confidence,
        duplicates,
    )  # fmt: skip


def fuse(logits: Sequence[np.ndarray], method: str = "softmax", weights: Sequence[float] = ()) -> np.ndarray:
    """Return the probabilities [N, classes] of streams with the given logits [N, classes] on the same clips.

    "softmax" sums probabilities; "logits" sums logits before one softmax. The nonnegative weights, empty for equal
    ones, are normalized, which changes no ranking and keeps the confidence at the level of the streams.

    Raises:
        ConfigError: Unknown method or invalid weights.
        InputError: The streams' shapes differ.
    """
    shares = fusion_weights(method, weights, len(logits))
    if len({stream.shape for stream in logits}) != 1:
        raise InputError(f"streams of {' and '.join(str(list(stream.shape)) for stream in logits)} cannot be fused")
    stacked = np.stack(logits).astype(np.float64)  # (S, N, C)
    if method == "logits":
        return np.asarray(softmax(np.tensordot(shares, stacked, axes=1), axis=-1))
    return np.asarray(np.tensordot(shares, softmax(stacked, axis=-1), axes=1))


def fusion_weights(method: str, weights: Sequence[float], streams: int) -> np.ndarray:
    """Return [streams] weights that sum to 1, by default equal; raise ConfigError for an unknown method or weights."""
    if method not in FUSIONS:
        raise ConfigError(f"streams are fused by {' or '.join(FUSIONS)}; got '{method}'")
    given = np.asarray(list(weights) or [1.0] * streams, dtype=np.float64)
    if len(given) != streams:
        raise ConfigError(f"{len(given)} weights for {streams} streams: give one per stream, in their order")
    if not np.isfinite(given).all() or (given < 0).any() or given.sum() <= 0:
        raise ConfigError(f"weights {', '.join(f'{w:g}' for w in given)}: each must be 0 or more, one of them above 0")
    return np.asarray(given / given.sum())


def window_logits(session: Session, bodies: Iterable[np.ndarray], batch: int = 16) -> np.ndarray:
    """Return the logits [N, classes] of windows [M, T, V, 3] in meters."""
    samples, rows = ({"bodies": window} for window in bodies), []
    while together := list(islice(samples, batch)):
        rows.append(session.logits(together))
    return np.concatenate(rows)


def check_layout(package: ModelPackage, clips: ClipDataset) -> None:
    """Raise an InputError if the dataset's joint layout is not the package's."""
    expected = windowed.body_layout(package)
    if expected != clips.layout:
        raise InputError(
            f"package {package.name} takes joints of {expected} but the dataset's are {clips.layout}: evaluate it on a "
            f"dataset of {expected}"
        )


def check_streams(package: ModelPackage, clips: ClipDataset, strict: bool = False) -> None:
    """Raise ConfigError if clips lack a stream of a package, or, if `strict`, have another scene flow."""
    with contextlib.suppress(InputError, DeviceError):  # of a clip, which is reported when it is scored
        if missing := describe_missing(package.name, clips, package.inputs):
            raise ConfigError(missing)
    if strict and (differs := other_flow(package, clips)):
        raise ConfigError(differs)


def other_flow(package: ModelPackage, clips: ClipDataset) -> str:
    """Return how the clips' scene flow differs from the training's, with the remedy; empty if it does not."""
    differs = identity.describe(package.provenance.scene_flow, clips.scene_flow, identity.PREPARED)
    return differs and f"{package.name}: {differs}"


def _readable(
    prepared: Iterable[tuple[int, Inputs | str]], unreadable: dict[int, str], skip: bool, bar: Any
) -> Iterator[tuple[int, Inputs]]:
    """Yield readable clips; record unreadable ones, or raise at the first."""
    counted: set[int] = set()
    for index, inputs in prepared:
        bar.update(index not in counted)
        counted.add(index)
        if not isinstance(inputs, str):
            yield index, inputs
        elif skip:
            unreadable[index] = inputs
        else:
            # Export and quantization score too, and have no such option.
            raise InputError(
                f"{inputs}; repair it, exclude it from a store (`actrec prepare`), or have `actrec eval`, without "
                "--elsewhere, count it as wrong with --skip-unreadable"
            )


def _worker_context() -> Any:
    """Fork workers from a server that holds only this module: forking a process with a session's threads may crash."""
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


class _PreparedInputs(IterableDataset[tuple[int, Inputs | str]]):
    """Pairs (index of a clip, inputs of one of its clips of T frames, or the cause why it cannot be read)."""

    def __init__(
        self, clips: ClipDataset, package: ModelPackage, mode: str, augmented: Samples | None = None, draws: int = 0
    ):
        self.clips, self.package, self.mode, self.augmented, self.draws = clips, package, mode, augmented, draws

    def __iter__(self) -> Iterator[tuple[int, Inputs | str]]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        names = self.clips.names
        for index in range(first, len(self.clips), step):
            try:
                for inputs in clip_inputs(self.clips[index], self.package, self.mode):
                    yield index, inputs
                for number in range(1, self.draws + 1):
                    assert self.augmented is not None
                    sample = self.augmented[number, index, 0]
                    yield index, {name: value for name, value in sample.items() if name != "label"}
            except (InputError, DeviceError) as error:
                # Not raised: from another process the error would contain that process's traceback.
                yield index, str(error) if names[index] in str(error) else f"clip '{names[index]}': {error}"


def clip_inputs(clip: Clip, package: ModelPackage, mode: str) -> Iterator[Inputs]:
    """Yield a package's network inputs for each clip of T frames in a recording, as `score` takes them."""
    for part in parts(clip, package.inputs, package.window, mode):
        around = None if part.around_ns is None else clip.at_stamps(part.around_ns)
        yield from each_clip(clip.at_stamps(part.stamps_ns), package.inputs, part.window, part.starts, around)


def _identity(value: Any) -> Any:
    return value
