"""One or several models scored on a dataset: alone, fused, or as repetitions over seeds or folds.

A person's own recordings that are labeled `unknown`: how many of them a model rejects.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from actrec.datasets.base import ClipDataset
from actrec.datasets.duplicates import find_duplicates
from actrec.utils import config
from actrec.utils.errors import ConfigError, DeviceError, InputError
from actrec_models.evaluation import fusion, scoring
from actrec_models.evaluation.figures import Report
from actrec_models.evaluation.models import Model
from actrec_models.evaluation.scoring import Draws, Scores
from actrec_models.evaluation.target import (
    OWN,
    Options,
    Target,
    check_folds,
    check_not_learnt,
    draws_of,
    folds_of,
    groups_of,
    kind_of,
    learnt_by,
    merging,
    target_of,
)


@dataclass(frozen=True)
class Rejected:
    """What a model makes of them.

    Attributes:
        name: Of the model.
        clips: How many could be read.
        rejected: Share of which it says `unknown`.
    """

    name: str
    clips: int
    rejected: float

    def __str__(self) -> str:
        return f"{self.name} rejects {self.rejected:.1%} of {self.clips} recordings labeled unknown."


def others(target: Target, models: Sequence[Model]) -> ClipDataset | None:
    """The part's recordings that are labeled `unknown` and that no model has learnt; None where there are none."""
    found = target.others()
    learnt = set().union(*map(learnt_by, models))
    fresh = found.subset([index for index, recording in enumerate(found.recordings) if recording not in learnt])
    return fresh if len(fresh) else None


def rejected(model: Model, scores: Scores) -> Rejected:
    """How many of them a model rejects, by its package's threshold."""
    read = np.array([index not in scores.unread for index in range(len(scores.logits))])
    confidence = model.session.softmax(scores.logits[read]).max(axis=1)
    return Rejected(model.name, int(read.sum()), float((confidence < model.package.rejection.threshold).mean()))


SPREAD = (
    "accuracy", "accuracy_without_copies", "top5", "mean_class_accuracy", "mean_f1", "mean_average_precision", "ece",
    "nll", "brier", "aurc",
)  # fmt: skip
"""The figures of which repetitions get a mean and a spread, where they have them."""


@dataclass(frozen=True)
class Study:
    """What came of it.

    Attributes:
        kind: "single", "comparison", "fusion", "seeds" (of models, or of fusions) or "folds".
        target: What the models were scored on.
        clips: What was taken of each recording, by model: "live", "whole" or "stretched".
        draws: Looks that each model had at a clip besides, varied as in its training.
        models: What was scored.
        reports: One a model.
        joint: Of the fused streams, or of all repetitions' clips together; None for one model, or a comparison.
        fused: Of the fused streams; one a seed where there are several.
        weights: Of the fused streams, of any one seed; they sum to 1.
        how: How streams were fused.
        folds: Of the repetitions, by model.
        notes: What a reader must know.
        copies: Name of a clip that is scored to that of one of the training part which is the same.
        unknown: Of a person's own recordings that are labeled `unknown`, what each model rejects; None for a model
            that can read none of them.
    """

    kind: str
    target: Target
    clips: tuple[str, ...]
    models: tuple[Model, ...]
    reports: tuple[Report, ...]
    joint: Report | None = None
    fused: tuple[Report, ...] = ()
    weights: tuple[float, ...] = ()
    how: str = ""
    draws: tuple[int, ...] = ()
    folds: tuple[int, ...] = ()
    notes: tuple[str, ...] = field(default=())
    copies: Mapping[str, str] = field(default_factory=dict)
    unknown: tuple[Rejected | None, ...] = ()

    @property
    def main(self) -> list[Report]:
        """The reports to show in full."""
        return list(self.reports) if self.joint is None else [self.joint]

    @property
    def repetitions(self) -> tuple[Report, ...]:
        """What differs by seed or fold alone; empty where nothing does."""
        return (self.fused or self.reports) if self.kind in ("seeds", "folds") else ()

    @property
    def spread(self) -> dict[str, dict[str, float]]:
        """Figure to its mean and sample standard deviation over repetitions; empty where there are none."""
        rows = [report.summary() for report in self.repetitions]
        known = [figure for figure in SPREAD if rows and all(row.get(figure) is not None for row in rows)]
        return {figure: _spread([row[figure] for row in rows]) for figure in known}


def _spread(values: Sequence[float]) -> dict[str, float]:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "std": deviation, "min": float(min(values)), "max": float(max(values))}


def run(models: Sequence[Model], data_root: str, options: Options, progress: bool = False) -> Study:
    """Scores the models.

    Args:
        models: One or several.
        data_root: Folder that holds a folder a dataset.
        options: What to score, and how.
        progress: Show a bar a model.

    Raises:
        ConfigError: Options that contradict one another, the models or the dataset.
        InputError: Models and dataset do not fit, or a clip cannot be read.
    """
    config.validate(options)
    models = tuple(models)
    kind, groups = kind_of(models, options), groups_of(models, options)
    looks = draws_of(options.draws, len(models))
    target = target_of(
        models,
        data_root,
        dataset=options.dataset,
        split=options.split,
        part=options.part,
        root=options.root,
        options=options.dataset_options,
    )
    folds = folds_of(options.folds, target, len(models)) if kind == "folds" else []
    check_folds(models, target, folds)
    modes = tuple(options.clips or model.clips for model in models)
    scorer = _Scorer(target, options, progress)
    clips = [target.open(fold=fold) for fold in folds] or [target.open()] * len(models)
    apart = check_not_learnt(models, target, clips[0])
    for each in zip(models, clips, modes, looks, strict=True):
        _check(target, *each)  # what does not fit is said before an hour of scoring those before it
    if options.fit_weights:
        _check_fitting(models, target, clips[0])
    scores = [scorer.score(*each) for each in zip(models, clips, modes, looks, strict=True)]
    same = {} if folds else _copies(target, clips[0])
    reports = tuple(scorer.report(*each, same) for each in zip(models, clips, scores, strict=True))
    unknown, told = scorer.rejected(models, modes)
    notes = (*_notes(target, models, clips[0], apart), *_told_copies(same, len(clips[0])), *told)
    study = Study(kind, target, modes, models, reports, draws=looks, folds=tuple(folds), notes=notes, copies=same,
                  unknown=unknown)  # fmt: skip
    if groups:
        study = scorer.fused(study, groups, clips[0], scores)
    if study.repetitions:
        return dataclasses.replace(study, joint=_pooled(study))
    return dataclasses.replace(study, joint=study.fused[0]) if groups else study


@dataclass(frozen=True)
class _Scorer:
    target: Target
    options: Options
    progress: bool

    def score(self, model: Model, clips: ClipDataset, mode: str, looks: int) -> scoring.Scores:
        return scoring.score(
            model.session,
            clips,
            mode,
            draws=looks,
            skip_unreadable=self.options.skip_unreadable,
            workers=self.options.workers,
            progress=self.progress,
        )

    def report(self, model: Model, clips: ClipDataset, scores: scoring.Scores, same: Mapping[str, str]) -> Report:
        merged = merging(model, self.target, clips)
        report = scoring.evaluate(model.session, clips, name=model.name, merged=merged, scores=scores)
        return dataclasses.replace(report, copied=frozenset(same))

    def rejected(self, models: Sequence[Model], modes: Sequence[str]) -> tuple[tuple[Rejected | None, ...], list[str]]:
        """What each model rejects of the recordings labeled `unknown`, and a word on each and on unreadable ones."""
        found = others(self.target, models)
        if found is None:
            return (), []
        each: list[Rejected | None] = []
        told: list[str] = []
        unread: dict[int, str] = {}
        for model, mode in zip(models, modes, strict=True):
            try:
                scores = self.score(model, found, mode, 0)
            except InputError as error:
                if not self.options.skip_unreadable:
                    raise
                # All else is scored by now, and stands.
                each.append(None)
                told.append(f"{model.name}: what it rejects of recordings labeled unknown is not known: {error}")
                continue
            each.append(rejected(model, scores))
            told.append(str(each[-1]))
            unread |= scores.unread
        return tuple(each), [*told, *(f"Left out, labeled unknown: {why}" for _, why in sorted(unread.items()))]

    def fused(
        self, study: Study, groups: Sequence[Sequence[int]], clips: ClipDataset, scores: Sequence[scoring.Scores]
    ) -> Study:
        """The study with the streams of each group as one."""
        weights, notes = fusion.normalized(self.options.weights, len(groups[0])), study.notes
        if self.options.fit_weights:
            weights, told = self._fitted(study, groups)
            notes = (*notes, told)
        merged = merging(study.models[0], self.target, clips)
        fused = []
        for group in groups:
            streams = [scores[index] for index in group]
            probabilities = fusion.fuse([stream.logits for stream in streams], self.options.fuse, weights.tolist())
            unread = {index: why for stream in streams for index, why in stream.unread.items()}
            name = " + ".join(study.models[index].name for index in group)
            report = scoring.report_of(name, clips, probabilities, unread, merged)
            fused.append(dataclasses.replace(report, copied=frozenset(study.copies)))
        return dataclasses.replace(
            study, fused=tuple(fused), weights=tuple(map(float, weights)), how=self.options.fuse, notes=notes
        )

    def _fitted(self, study: Study, groups: Sequence[Sequence[int]]) -> tuple[np.ndarray, str]:
        """Weights from the training part, and a word on them; the same for every seed."""
        clips = self.target.open("train")
        streams = zip(study.models, study.clips, study.draws, strict=True)
        each = [self.score(model, clips, mode, looks) for model, mode, looks in streams]
        kept = [index for index in range(len(clips)) if not any(index in scores.unread for scores in each)]
        learnt = [
            np.concatenate([each[index].logits[kept] for index in stream]) for stream in zip(*groups, strict=True)
        ]
        weights = fusion.fit(learnt, np.tile(clips.labels[kept], len(groups)), self.options.fuse)
        return weights, (
            f"Weights were fitted on the {len(kept)} clips of the training part, which the streams have learned from: "
            "the stream that has learned them best by heart weighs most."
        )


def _check(target: Target, model: Model, clips: ClipDataset, mode: str, looks: int) -> None:
    """Refuses a model that does not fit the clips, or whose training nobody can vary them as."""
    merging(model, target, clips)
    scoring.check_fit(model.package, clips)
    if looks:
        Draws(model.package, clips, looks, mode)


def _check_fitting(models: Sequence[Model], target: Target, clips: ClipDataset) -> None:
    """Refuses to fit weights on what is scored, or on classes that the streams do not know.

    Raises:
        ConfigError: Says what to do instead.
    """
    if target.part == "train":
        raise ConfigError("--fit-weights chooses on the training part: evaluate the test part, or give --weights")
    if merging(models[0], target, clips) is not None:
        trained = models[0].package.provenance.dataset
        raise ConfigError(
            f"weights are fitted on the classes that the models know: do so with --dataset {trained}, then give "
            "them with --weights"
        )


def _pooled(study: Study) -> Report:
    """All repetitions' clips in one report, for pictures and classes."""
    reports = study.repetitions
    return Report(
        f"{len(reports)} {study.kind} together",
        reports[0].classes,
        tuple(f"{report.name}: {clip}" for report in reports for clip in report.clips),
        np.concatenate([report.labels for report in reports]),
        np.concatenate([report.probabilities for report in reports]),
        None,
        {f"{report.name}: {clip}": why for report in reports for clip, why in report.unread.items()},
        copied=frozenset(f"{report.name}: {clip}" for report in reports for clip in report.copied),
        recordings=tuple(clip for report in reports for clip in report.clips),
    )


def _notes(target: Target, models: Sequence[Model], clips: ClipDataset, apart: bool) -> tuple[str, ...]:
    """What a reader must know: the dataset's caveat, merged classes, and inputs that the dataset has nothing for."""
    notes = [target.source.caveat] if target.source.caveat else []
    if apart:
        notes.append("Every recording of an action in the folder is scored: the models have learnt none of them.")
    finer = [model for model in models if model.package.labels != tuple(clips.classes)]
    if finer:
        notes.append(
            f"{', '.join(model.name for model in finer)}: {len(finer[0].package.labels)} classes, whose probabilities "
            f"are summed to the dataset's {len(clips.classes)}."
        )
    for model in models:
        lacking = sorted(model.session.keys - _held(clips) - {"size"})
        if lacking:
            notes.append(f"The dataset has no {', '.join(lacking)}: {model.name} gets zeros in their place.")
    return tuple(notes)


def _copies(target: Target, clips: ClipDataset) -> dict[str, str]:
    """Clips of the test part that the training part holds too; a person's own recordings are told apart before."""
    if target.part != "test" or target.dataset == OWN:
        return {}
    return find_duplicates(clips, lambda: target.open("train"))


def _told_copies(same: Mapping[str, str], clips: int) -> list[str]:
    if not same:
        return []
    first, other = next(iter(same.items()))
    return [
        f"{len(same)} of the {clips} clips are in the training part too, number for number, under other names, first "
        f"{first}, which is {other}: whoever trained by this split has learnt them."
    ]


def _held(clips: ClipDataset) -> frozenset[str]:
    """The keys of the first clip that can be read: it speaks for all."""
    for index in range(len(clips)):
        try:
            return frozenset(clips[index].streams) | {"bodies"}
        except (InputError, DeviceError):  # has been named, or noted, when it was scored
            continue
    return frozenset()
