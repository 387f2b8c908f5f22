"""Evaluation of one or several models on a dataset: alone, fused, or as repetitions over seeds or folds."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from actrec import datasets
from actrec.datasets import find_duplicates
from actrec.datasets.base import ClipDataset
from actrec.features import feature
from actrec.features.specs import InputSpec
from actrec.utils import config
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec_models.evaluation import scoring
from actrec_models.evaluation.metrics import EvaluationResult
from actrec_models.evaluation.protocol import (
    USER_FOLDER,
    EvalOptions,
    Model,
    Target,
    check_folds,
    check_not_trained_on,
    class_map,
    resolve_target,
    training_recordings,
)
from actrec_models.evaluation.scoring import Scores
from actrec_models.training import provenance

SEED_FIELDS = ("seed", "commands")
"""Recipe fields in which repetitions may differ."""

MAX_DRAWS = 1000

SPREAD_METRICS = (
    "accuracy", "accuracy_without_copies", "accuracy_of_learned", "top5", "mean_class_accuracy", "mean_f1",
    "mean_average_precision", "ece", "nll", "brier", "aurc",
)  # fmt: skip
"""Metrics of which repetitions get a mean and a spread."""


@dataclass(frozen=True)
class Evaluation:
    """Results of one or several models on a part of a dataset.

    Attributes:
        kind: "single", "comparison", "fusion", "seeds" (of models, or of fusions) or "folds".
        clips: Clip mode of each model: "live", "whole" or "stretched".
        combined: Result of the fused streams, or of all repetitions' clips together; None otherwise.
        fused: Results of the fused streams, one per seed.
        draws, folds: Augmented versions of each clip, and fold, of each model.
        duplicates: Name of a scored clip to the name of the same clip in the training part.
        unknown: Number of the user's recordings labeled `unknown` and the rejected share, per model; None if it can
            read none of them.
    """

    kind: str
    target: Target
    clips: tuple[str, ...]
    models: tuple[Model, ...]
    results: tuple[EvaluationResult, ...]
    combined: EvaluationResult | None = None
    fused: tuple[EvaluationResult, ...] = ()
    weights: tuple[float, ...] = ()
    fuse_method: str = ""
    draws: tuple[int, ...] = ()
    folds: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    duplicates: Mapping[str, str] = field(default_factory=dict)
    unknown: tuple[tuple[int, float] | None, ...] = ()

    @property
    def main_results(self) -> list[EvaluationResult]:
        """The results to show in full."""
        return list(self.results) if self.combined is None else [self.combined]

    @property
    def repetitions(self) -> tuple[EvaluationResult, ...]:
        """The results that differ only by seed or fold; empty without repetitions."""
        return (self.fused or self.results) if self.kind in ("seeds", "folds") else ()

    @property
    def spread(self) -> dict[str, dict[str, float]]:
        """Metric to its mean, sample standard deviation and range over the repetitions."""
        rows = [result.summary() for result in self.repetitions]
        known = [metric for metric in SPREAD_METRICS if rows and all(row.get(metric) is not None for row in rows)]
        spread = {}
        for metric in known:
            values = [row[metric] for row in rows]
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            spread[metric] = {"mean": float(np.mean(values)), "std": deviation, "min": min(values), "max": max(values)}
        return spread


def evaluate_models(
    models: Sequence[Model], data_root: str, options: EvalOptions, progress: bool = False
) -> Evaluation:
    """Evaluate one or several models on a dataset in the folder `data_root`.

    Raises:
        ConfigError: Options that contradict each other, the models or the dataset.
        InputError: Models and dataset do not fit, or a clip cannot be read.
    """
    config.validate(options)
    models = tuple(models)
    kind, groups = _kind(models, options), _fusion_groups(models, options)
    draws = draws_per_model(options.draws, len(models))
    target = resolve_target(models, data_root, options)
    folds = folds_per_model(options.folds, target, len(models)) if kind == "folds" else []
    check_folds(models, target, folds)
    modes = tuple(options.clips or model.clips for model in models)
    score = functools.partial(
        scoring.score, skip_unreadable=options.skip_unreadable, strict_inputs=options.strict_inputs,
        workers=options.workers, progress=progress,
    )  # fmt: skip
    clips = [target.open(fold=fold) for fold in folds] or [target.open()] * len(models)
    not_trained_on = check_not_trained_on(models, target, clips[0])
    for model, part, mode, count in zip(models, clips, modes, draws, strict=True):
        # Every model is checked before the first one is scored, which may take an hour.
        class_map(model, target, part)
        scoring.check_layout(model.package, part)
        scoring.check_streams(model.package, part, options.strict_inputs)
        if count:
            scoring.augmented_samples(model.package, part, mode)
    scores = [
        score(model.session, part, mode, draws=count)
        for model, part, mode, count in zip(models, clips, modes, draws, strict=True)
    ]
    # The user's own recordings are compared by identity instead (`check_not_trained_on`).
    compare = not folds and target.part == "test" and target.dataset != USER_FOLDER
    duplicates = find_duplicates(clips[0], lambda: target.open("train")) if compare else {}
    results = tuple(
        scoring.evaluate(
            model.session, part, name=model.name, class_map=class_map(model, target, part), scores=own,
            duplicates=frozenset(duplicates), learned=_learned(model, part),
        )
        for model, part, own in zip(models, clips, scores, strict=True)
    )  # fmt: skip
    unknown, unknown_notes = _score_unknown(models, modes, target, folds, score, options.skip_unreadable)
    notes = (*_notes(target, models, clips[0], not_trained_on, duplicates), *unknown_notes)
    evaluation = Evaluation(kind, target, modes, models, results, draws=draws, folds=tuple(folds),
                            notes=notes, duplicates=duplicates, unknown=unknown)  # fmt: skip
    if groups:
        evaluation = _fuse(evaluation, groups, clips[0], scores, options)
    if evaluation.repetitions:
        return dataclasses.replace(evaluation, combined=_pool(evaluation))
    return dataclasses.replace(evaluation, combined=evaluation.fused[0]) if groups else evaluation


def _score_unknown(
    models: Sequence[Model], modes: Sequence[str], target: Target, folds: Sequence[int], score: Callable[..., Scores],
    skip_unreadable: bool,
) -> tuple[tuple[tuple[int, float] | None, ...], list[str]]:  # fmt: skip
    """Score the recordings labeled `unknown` that no model was trained on; return a note on each model."""
    own_folds = folds or [0] * len(models)
    trained = set().union(*map(training_recordings, models))
    clips = {}
    for fold in dict.fromkeys(own_folds):
        part = target.unknown_recordings(fold)
        clips[fold] = part.subset([k for k, recording in enumerate(part.recordings) if recording not in trained])
    if not any(map(len, clips.values())):
        return (), []
    rejections: list[tuple[int, float] | None] = []
    notes: list[str] = []
    unreadable: list[str] = []
    for model, mode, fold in zip(models, modes, own_folds, strict=True):
        if not len(clips[fold]):
            rejections.append(None)
            continue
        try:
            scores = score(model.session, clips[fold], mode)
        except (InputError, ConfigError) as error:  # the latter if they lack a stream
            if isinstance(error, InputError) and not skip_unreadable:
                raise
            rejections.append(None)  # the results of the other clips stay valid
            notes.append(f"{model.name}: rejection of recordings labeled unknown is not measured: {error}")
            continue
        readable = np.array([index not in scores.unreadable for index in range(len(scores.logits))])
        is_rejected = model.session.is_rejected(model.session.softmax(scores.logits[readable]))
        rejections.append((len(is_rejected), float(is_rejected.mean())))
        notes.append(f"{model.name} rejects {is_rejected.mean():.1%} of {len(is_rejected)} recordings labeled unknown.")
        unreadable += [why for _, why in sorted(scores.unreadable.items())]
    return tuple(rejections), [*notes, *(f"Skipped, labeled unknown: {why}" for why in dict.fromkeys(unreadable))]


def _learned(model: Model, clips: ClipDataset) -> np.ndarray:
    """Return [N] whether a model was trained on clips of each clip's class; empty if it was on clips of all."""
    absent = model.package.provenance.figures.get(provenance.ABSENT, ())
    known = np.array([clips.classes[label] not in absent for label in clips.labels])
    return np.empty(0, bool) if known.all() else known


def _fuse(
    evaluation: Evaluation, groups: Sequence[Sequence[int]], clips: ClipDataset, scores: Sequence[Scores],
    options: EvalOptions,
) -> Evaluation:  # fmt: skip
    """Return the evaluation with the streams of each group fused."""
    weights = scoring.fusion_weights(options.fuse, options.weights, len(groups[0])).tolist()
    mapped = class_map(evaluation.models[0], evaluation.target, clips)
    fused = []
    for group in groups:
        streams = [scores[index] for index in group]
        probabilities = scoring.fuse([stream.logits for stream in streams], options.fuse, weights)
        unreadable = {index: why for stream in streams for index, why in stream.unreadable.items()}
        name = " + ".join(evaluation.models[index].name for index in group)
        duplicates = frozenset(evaluation.duplicates)
        learned = evaluation.results[group[0]].learned
        result = scoring.make_result(name, clips, probabilities, unreadable, mapped, duplicates=duplicates)
        fused.append(dataclasses.replace(result, learned=learned))
    return dataclasses.replace(evaluation, fused=tuple(fused), weights=tuple(weights), fuse_method=options.fuse)


def _pool(evaluation: Evaluation) -> EvaluationResult:
    """Return all repetitions' clips as one result, for plots and class metrics."""
    results = evaluation.repetitions
    learned = [result.learned if len(result.learned) else np.ones(len(result.clips), bool) for result in results]
    return EvaluationResult(
        f"{len(results)} {evaluation.kind} together",
        results[0].classes,
        tuple(f"{result.name}: {clip}" for result in results for clip in result.clips),
        np.concatenate([result.labels for result in results]),
        np.concatenate([result.probabilities for result in results]),
        None,
        {f"{result.name}: {clip}": why for result in results for clip, why in result.unreadable.items()},
        duplicates=frozenset(f"{result.name}: {clip}" for result in results for clip in result.duplicates),
        recordings=tuple(clip for result in results for clip in result.clips),
        learned=np.concatenate(learned) if any(len(result.learned) for result in results) else results[0].learned,
    )


def _notes(
    target: Target, models: Sequence[Model], clips: ClipDataset, not_trained_on: bool, duplicates: Mapping[str, str]
) -> list[str]:
    """Return notes on the dataset's caveat, merged classes, missing inputs, and duplicates in the training part."""
    notes = [target.source.caveat] if target.source.caveat else []
    if not_trained_on:
        notes.append("Every labeled recording in the folder is scored: no model was trained on any of them.")
    if finer := [model for model in models if model.package.labels != tuple(clips.classes)]:
        notes.append(
            f"{', '.join(model.name for model in finer)}: {len(finer[0].package.labels)} classes, whose probabilities "
            f"are summed to the dataset's {len(clips.classes)}."
        )
    available = _clip_keys(clips)
    for model in models:
        if missing := sorted(model.session.keys - available - {"size"}):
            notes.append(f"The dataset has no {', '.join(missing)}: {model.name} gets zeros in their place.")
    if duplicates:
        first, other = next(iter(duplicates.items()))
        notes.append(
            f"{len(duplicates)} of the {len(clips)} clips are in the training part too, number for number, under other "
            f"names, first {first}, which is {other}: models of this split were trained on them."
        )
    return notes


def _clip_keys(clips: ClipDataset) -> frozenset[str]:
    """Return the keys of the first readable clip, which stands for all."""
    for index in range(len(clips)):
        try:
            return frozenset(clips[index].streams) | {"bodies"}
        except (InputError, DeviceError):  # reported by the scoring
            continue
    return frozenset()


# -- several models ----------------------------------------------------------------------------------------------------


def _kind(models: Sequence[Model], options: EvalOptions) -> str:
    """Return "single", "comparison", "fusion", "seeds" or "folds"; raise ConfigError if the options contradict."""
    requested = [name for name in ("fuse", "seeds", "folds") if getattr(options, name)]
    if "folds" in requested and len(requested) > 1:
        raise ConfigError(f"--{requested[0]} and --folds cannot be combined: the models are one per fold")
    if options.weights and not options.fuse:
        raise ConfigError("weights belong to fused streams: add --fuse softmax or --fuse logits")
    if options.folds:
        return "folds"
    if requested and len(models) < 2:
        raise ConfigError(f"--{requested[0]} needs two models or more, got {models[0].name} alone")
    if options.fuse:
        return "seeds" if options.seeds else "fusion"
    if len(models) == 1:
        return "single"
    difference = _difference(models)
    if options.seeds and difference:
        raise ConfigError(f"{difference}: they are no repetitions that differ by seed")
    same_epochs = len({model.package.provenance.epochs for model in models}) == 1
    return "seeds" if same_epochs and not difference else "comparison"


def _fusion_groups(models: Sequence[Model], options: EvalOptions) -> tuple[tuple[int, ...], ...]:
    """Return the indices of the models of each fusion: all models, or one group a seed; empty without fusion."""
    if not options.fuse:
        return ()
    for other in models[1:]:
        if other.package.labels != models[0].package.labels:
            ours, theirs = (
                f"{model.name} knows {len(model.package.labels)} classes ({', '.join(model.package.labels)})"
                for model in (models[0], other)
            )
            raise InputError(f"{ours} but {theirs}: only models of the same classes can be fused or repeated")
    by_seed: dict[int, list[int]] = {}
    for index, model in enumerate(models):
        by_seed.setdefault(model.package.provenance.seed if options.seeds else 0, []).append(index)
    groups = list(by_seed.values())
    if options.seeds:
        sizes = ", ".join(f"{len(group)} of seed {seed}" for seed, group in by_seed.items())
        if len(groups) < 2 or len({len(group) for group in groups}) > 1 or len(groups[0]) < 2:
            raise ConfigError(f"got {sizes}: give the same streams of each of several seeds")
        for stream in zip(*groups, strict=True):
            if difference := _difference([models[index] for index in stream]):
                raise ConfigError(f"{difference}: give the streams of each seed in the same order")
    scoring.fusion_weights(options.fuse, options.weights, len(groups[0]))  # refused before an hour of scoring
    return tuple(map(tuple, groups))


def _difference(models: Sequence[Model]) -> str:
    """Describe the first difference of models besides their seed; empty if there is none."""
    first, by_seed = models[0], {models[0].package.provenance.seed: models[0]}
    for model in models[1:]:
        ours, theirs = first.package, model.package
        differing = [
            name for name in ("family", "variant", "labels", "window") if getattr(ours, name) != getattr(theirs, name)
        ]
        if differing or comparable_inputs(ours.inputs) != comparable_inputs(theirs.inputs):
            return f"{first.name} and {model.name} differ by their {(*differing, 'inputs')[0]}"
        for name in ("dataset", "split"):
            if getattr(ours.provenance, name) != getattr(theirs.provenance, name):
                return f"{first.name} and {model.name} were trained on another {name}"
        recipe, other = ours.provenance.settings, theirs.provenance.settings
        if recipe and other:
            changed = [key for key in recipe.keys() | other.keys() if recipe.get(key) != other.get(key)]
            if fields := sorted(set(changed) - set(SEED_FIELDS)):
                return f"the recipes of {first.name} and {model.name} differ by their {', '.join(fields)}"
        seed = theirs.provenance.seed
        if seed in by_seed:
            return f"{by_seed[seed].name} and {model.name} have the same seed {seed}"
        by_seed[seed] = model
    return ""


def comparable_inputs(specs: Sequence[InputSpec]) -> tuple[list[InputSpec], str]:
    """Return inputs with all feature options filled in; older packages do not store options added since."""
    bare = [dataclasses.replace(spec, preprocessing={}, shape=tuple(spec.shape)) for spec in specs]
    options = [dataclasses.asdict(feature(spec.modality).options(spec)) for spec in specs]
    return bare, json.dumps(options)  # JSON turns tuples into lists, as a package does


def draws_per_model(requested: Sequence[int], models: int) -> tuple[int, ...]:
    """Return each model's number of augmented versions of a clip; raise ConfigError if it is out of range."""
    if len(requested) not in (0, 1, models):
        raise ConfigError(f"--draws has {len(requested)} numbers for {models} models: give one, or one per model")
    if any(not 0 <= number <= MAX_DRAWS for number in requested):
        raise ConfigError(f"--draws is {' '.join(map(str, requested))}, allowed: 0 to {MAX_DRAWS}")
    return tuple(requested) if len(requested) == models else tuple(requested or [0]) * models


def folds_per_model(requested: Sequence[int], target: Target, models: int) -> list[int]:
    """Return the fold to score each model on."""
    known = target.source.folds
    if not known:
        raise ConfigError(f"dataset {target.dataset} is not divided into folds: omit --folds")
    if target.split not in (target.source.fold_splits or (target.split,)):
        raise ConfigError(f"split {target.split} of {target.dataset} is not divided into folds: omit --folds")
    if list(requested) == [0]:
        folds = datasets.folds(target.dataset, target.root, split=target.split, **target.options)
    else:
        folds = [int(fold) for fold in requested]
    if any(not 1 <= fold <= known for fold in folds):
        raise ConfigError(f"dataset {target.dataset} has folds 1 to {known}; got {', '.join(map(str, folds))}")
    if len(set(folds)) < len(folds):
        raise ConfigError(f"folds {', '.join(map(str, folds))}: one appears twice")
    if len(folds) != models:
        raise ConfigError(f"{models} models for {len(folds)} folds: give one model per fold, in their order")
    return folds
