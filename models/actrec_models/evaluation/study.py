"""Evaluation of one or several models on a dataset: alone, fused, or as repetitions over seeds or folds."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from actrec.datasets.base import ClipDataset
from actrec.datasets.duplicates import find_duplicates
from actrec.utils import config
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec_models.evaluation import fusion, scoring
from actrec_models.evaluation.metrics import EvaluationResult
from actrec_models.evaluation.models import Model
from actrec_models.evaluation.scoring import AugmentedInputs, Scores
from actrec_models.evaluation.target import (
    USER_FOLDER,
    EvalOptions,
    Target,
    check_folds,
    check_not_trained_on,
    class_map,
    draws_per_model,
    folds_per_model,
    fusion_groups,
    resolve_target,
    study_kind,
    training_recordings,
)

SPREAD_METRICS = (
    "accuracy", "accuracy_without_copies", "top5", "mean_class_accuracy", "mean_f1", "mean_average_precision", "ece",
    "nll", "brier", "aurc",
)  # fmt: skip
"""Metrics of which repetitions get a mean and a spread."""


@dataclass(frozen=True)
class UnknownRejection:
    """The share of recordings labeled `unknown` that a model rejects.

    Attributes:
        name: Name of the model.
        clips: Readable clips.
        rejected: Share that the model labels `unknown`.
    """

    name: str
    clips: int
    rejected: float

    def __str__(self) -> str:
        return f"{self.name} rejects {self.rejected:.1%} of {self.clips} recordings labeled unknown."


@dataclass(frozen=True)
class Study:
    """Results of an evaluation.

    Attributes:
        kind: "single", "comparison", "fusion", "seeds" (of models, or of fusions) or "folds".
        target: The evaluation target.
        clips: Clip mode of each model: "live", "whole" or "stretched".
        models: The models.
        results: One per model.
        combined: Result of the fused streams, or of all repetitions' clips together; None otherwise.
        fused: Results of the fused streams, one per seed.
        weights: Weights of the fused streams; they sum to 1.
        fuse_method: "softmax" or "logits".
        draws: Augmented versions of each clip, per model.
        folds: Fold of each model.
        notes: Remarks for the reader.
        duplicates: Name of a scored clip to the name of the same clip in the training part.
        unknown: Rejection of the user's recordings labeled `unknown`, per model; None if a model can read none of them.
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
    notes: tuple[str, ...] = field(default=())
    duplicates: Mapping[str, str] = field(default_factory=dict)
    unknown: tuple[UnknownRejection | None, ...] = ()

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
        return {metric: _spread([row[metric] for row in rows]) for metric in known}


def _spread(values: Sequence[float]) -> dict[str, float]:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "std": deviation, "min": float(min(values)), "max": float(max(values))}


def run(models: Sequence[Model], data_root: str, options: EvalOptions, progress: bool = False) -> Study:
    """Evaluate the models.

    Args:
        models: One or several.
        data_root: Folder that contains a folder per dataset.
        options: Options of the evaluation.
        progress: Show a progress bar per model.

    Raises:
        ConfigError: Options that contradict each other, the models or the dataset.
        InputError: Models and dataset do not fit, or a clip cannot be read.
    """
    config.validate(options)
    models = tuple(models)
    kind, groups = study_kind(models, options), fusion_groups(models, options)
    draws = draws_per_model(options.draws, len(models))
    target = resolve_target(models, data_root, options)
    folds = folds_per_model(options.folds, target, len(models)) if kind == "folds" else []
    check_folds(models, target, folds)
    modes = tuple(options.clips or model.clips for model in models)
    scorer = _Scorer(target, options, progress)
    clips = [target.open(fold=fold) for fold in folds] or [target.open()] * len(models)
    not_trained_on = check_not_trained_on(models, target, clips[0])
    for model, part, mode, count in zip(models, clips, modes, draws, strict=True):
        # Every model is checked before the first one is scored, which may take an hour.
        class_map(model, target, part)
        scoring.check_layout(model.package, part)
        if count:
            AugmentedInputs(model.package, part, count, mode)
    if options.fit_weights:
        _check_fit_weights(models, target, clips[0])
    scores = [scorer.score(*each) for each in zip(models, clips, modes, draws, strict=True)]
    # The user's own recordings are compared by identity instead (`check_not_trained_on`).
    compare = not folds and target.part == "test" and target.dataset != USER_FOLDER
    duplicates = find_duplicates(clips[0], lambda: target.open("train")) if compare else {}
    results = tuple(scorer.result(*each, duplicates) for each in zip(models, clips, scores, strict=True))
    unknown, unknown_notes = scorer.unknown(models, modes)
    notes = (*_notes(target, models, clips[0], not_trained_on, duplicates), *unknown_notes)
    study = Study(kind, target, modes, models, results, draws=draws, folds=tuple(folds), notes=notes,
                  duplicates=duplicates, unknown=unknown)  # fmt: skip
    if groups:
        study = scorer.fuse(study, groups, clips[0], scores)
    if study.repetitions:
        return dataclasses.replace(study, combined=_pool(study))
    return dataclasses.replace(study, combined=study.fused[0]) if groups else study


@dataclass(frozen=True)
class _Scorer:
    target: Target
    options: EvalOptions
    progress: bool

    def score(self, model: Model, clips: ClipDataset, mode: str, draws: int) -> Scores:
        return scoring.score(
            model.session,
            clips,
            mode,
            draws=draws,
            skip_unreadable=self.options.skip_unreadable,
            workers=self.options.workers,
            progress=self.progress,
        )

    def result(
        self, model: Model, clips: ClipDataset, scores: Scores, duplicates: Mapping[str, str]
    ) -> EvaluationResult:
        mapped = class_map(model, self.target, clips)
        result = scoring.evaluate(model.session, clips, name=model.name, class_map=mapped, scores=scores)
        return dataclasses.replace(result, duplicates=frozenset(duplicates))

    def unknown(
        self, models: Sequence[Model], modes: Sequence[str]
    ) -> tuple[tuple[UnknownRejection | None, ...], list[str]]:
        """Score the recordings labeled `unknown` that no model was trained on; return a note on each model."""
        part = self.target.unknown_recordings()
        trained = set().union(*map(training_recordings, models))
        clips = part.subset([index for index, recording in enumerate(part.recordings) if recording not in trained])
        if not len(clips):
            return (), []
        each: list[UnknownRejection | None] = []
        notes: list[str] = []
        unreadable: dict[int, str] = {}
        for model, mode in zip(models, modes, strict=True):
            try:
                scores = self.score(model, clips, mode, 0)
            except InputError as error:
                if not self.options.skip_unreadable:
                    raise
                each.append(None)  # the results of the other clips stay valid
                notes.append(f"{model.name}: rejection of recordings labeled unknown is not measured: {error}")
                continue
            readable = np.array([index not in scores.unreadable for index in range(len(scores.logits))])
            confidence = model.session.softmax(scores.logits[readable]).max(axis=1)
            rejected = float((confidence < model.package.rejection.threshold).mean())
            each.append(UnknownRejection(model.name, int(readable.sum()), rejected))
            notes.append(str(each[-1]))
            unreadable |= scores.unreadable
        return tuple(each), [*notes, *(f"Skipped, labeled unknown: {why}" for _, why in sorted(unreadable.items()))]

    def fuse(
        self, study: Study, groups: Sequence[Sequence[int]], clips: ClipDataset, scores: Sequence[Scores]
    ) -> Study:
        """Return the study with the streams of each group fused."""
        weights, notes = fusion.normalized_weights(self.options.weights, len(groups[0])), study.notes
        if self.options.fit_weights:
            weights, note = self._fit_weights(study, groups)
            notes = (*notes, note)
        mapped = class_map(study.models[0], self.target, clips)
        fused = []
        for group in groups:
            streams = [scores[index] for index in group]
            probabilities = fusion.fuse([stream.logits for stream in streams], self.options.fuse, weights.tolist())
            unreadable = {index: why for stream in streams for index, why in stream.unreadable.items()}
            name = " + ".join(study.models[index].name for index in group)
            result = scoring.make_result(name, clips, probabilities, unreadable, mapped)
            fused.append(dataclasses.replace(result, duplicates=frozenset(study.duplicates)))
        return dataclasses.replace(
            study, fused=tuple(fused), weights=tuple(map(float, weights)), fuse_method=self.options.fuse, notes=notes
        )

    def _fit_weights(self, study: Study, groups: Sequence[Sequence[int]]) -> tuple[np.ndarray, str]:
        """Return weights fitted on the training part, the same for every seed, and a note on them."""
        clips = self.target.open("train")
        streams = zip(study.models, study.clips, study.draws, strict=True)
        each = [self.score(model, clips, mode, draws) for model, mode, draws in streams]
        kept = [index for index in range(len(clips)) if not any(index in scores.unreadable for scores in each)]
        logits = [
            np.concatenate([each[index].logits[kept] for index in stream]) for stream in zip(*groups, strict=True)
        ]
        weights = fusion.fit_weights(logits, np.tile(clips.labels[kept], len(groups)), self.options.fuse)
        return weights, (
            f"Weights were fitted on the {len(kept)} clips of the training part, which the streams were trained on: "
            "the stream that overfits most gets the largest weight."
        )


def _check_fit_weights(models: Sequence[Model], target: Target, clips: ClipDataset) -> None:
    """Raise a ConfigError if weights would be fitted on the scored clips, or on other classes than the streams'."""
    if target.part == "train":
        raise ConfigError("--fit-weights chooses on the training part: evaluate the test part, or give --weights")
    if class_map(models[0], target, clips) is not None:
        trained = models[0].package.provenance.dataset
        raise ConfigError(
            f"weights are fitted on the models' own classes: fit them with --dataset {trained}, then give them with "
            "--weights"
        )


def _pool(study: Study) -> EvaluationResult:
    """Return all repetitions' clips as one result, for plots and class metrics."""
    results = study.repetitions
    return EvaluationResult(
        f"{len(results)} {study.kind} together",
        results[0].classes,
        tuple(f"{result.name}: {clip}" for result in results for clip in result.clips),
        np.concatenate([result.labels for result in results]),
        np.concatenate([result.probabilities for result in results]),
        None,
        {f"{result.name}: {clip}": why for result in results for clip, why in result.unreadable.items()},
        duplicates=frozenset(f"{result.name}: {clip}" for result in results for clip in result.duplicates),
        recordings=tuple(clip for result in results for clip in result.clips),
    )


def _notes(
    target: Target, models: Sequence[Model], clips: ClipDataset, not_trained_on: bool, duplicates: Mapping[str, str]
) -> list[str]:
    """Return notes on the dataset's caveat, merged classes, missing inputs, and duplicates in the training part."""
    notes = [target.source.caveat] if target.source.caveat else []
    if not_trained_on:
        notes.append("Every labeled recording in the folder is scored: no model was trained on any of them.")
    finer = [model for model in models if model.package.labels != tuple(clips.classes)]
    if finer:
        notes.append(
            f"{', '.join(model.name for model in finer)}: {len(finer[0].package.labels)} classes, whose probabilities "
            f"are summed to the dataset's {len(clips.classes)}."
        )
    available = _clip_keys(clips)
    for model in models:
        missing = sorted(model.session.keys - available - {"size"})
        if missing:
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
