"""One or several models scored on a dataset: alone, fused, or as repetitions over seeds or folds."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actrec import config
from actrec.config import setting
from actrec.errors import ConfigError, DeviceError, InputError
from actrec_models.data import PARTS, ClipDataset
from actrec_models.evaluation import fusion, scoring
from actrec_models.evaluation.opening import Model
from actrec_models.evaluation.report import Report
from actrec_models.evaluation.target import Target, check_same_classes, merging, target_of

SPREAD = ("accuracy", "top5", "mean_class_accuracy", "mean_f1", "mean_average_precision", "ece", "nll", "brier", "aurc")
"""The figures of which repetitions get a mean and a spread."""


FREE = ("seed", "command")
"""The fields of a recipe by which repetitions may differ."""


@dataclass(frozen=True)
class Options:
    """What to score, and how."""

    dataset: str = setting("", "default: the one that the models were trained on")
    split: str = setting("", "default: the one that the models were trained on")
    part: str = setting("test", "part of the split", choices=PARTS)
    root: str = setting("", "the dataset's own folder, where it does not lie in the folder of datasets")
    dataset_options: dict = setting({}, "options of the dataset")
    clips: str = setting("", "live or whole (`scoring.score`); default: what the model's recipe says")
    fuse: str = setting("", "softmax or logits: score the models as streams of one; default: not")
    weights: list = setting([], "of the fused streams, one each; default: all alike")
    fit_weights: bool = setting(False, "choose the weights on the training part")
    seeds: bool = setting(False, "the models are repetitions that differ by seed")
    folds: list = setting([], "the models are repetitions, one a fold: these folds; [0] for all")
    skip_unreadable: bool = setting(False, "count a clip that cannot be read as wrong instead of refusing")
    workers: int = setting(0, "processes that read and prepare clips; 0: this one", range=(0, 256))


@dataclass(frozen=True)
class Study:
    """What came of it.

    Attributes:
        kind: "single", "comparison", "fusion", "seeds" or "folds".
        target: What the models were scored on.
        clips: What was taken of each recording, by model: "live" or "whole".
        models: What was scored.
        reports: One a model.
        joint: Of the fused streams, or of all repetitions' clips together; None for one model, or a comparison.
        weights: Of the fused streams; they sum to 1.
        how: How streams were fused.
        folds: Of the repetitions, by model.
        notes: What a reader must know.
    """

    kind: str
    target: Target
    clips: tuple[str, ...]
    models: tuple[Model, ...]
    reports: tuple[Report, ...]
    joint: Report | None = None
    weights: tuple[float, ...] = ()
    how: str = ""
    folds: tuple[int, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def main(self) -> list[Report]:
        """The reports to show in full."""
        return list(self.reports) if self.joint is None else [self.joint]

    @property
    def spread(self) -> dict[str, dict[str, float]]:
        """Figure to its mean and sample standard deviation over repetitions; empty where there are none."""
        if self.kind not in ("seeds", "folds"):
            return {}
        rows = [report.summary() for report in self.reports]
        return {figure: _spread([row[figure] for row in rows]) for figure in SPREAD}


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
    kind, folds = _kind(models, options), []
    target = target_of(
        models,
        data_root,
        dataset=options.dataset,
        split=options.split,
        part=options.part,
        root=options.root,
        options=options.dataset_options,
    )
    if kind == "folds":
        folds = _folds(options.folds, target, len(models))
    elif kind == "fusion":
        check_same_classes(models)
        fusion.normalised(options.weights, len(models))  # wrong weights are found before an hour of scoring
    modes = tuple(options.clips or model.clips for model in models)
    scorer = _Scorer(target, options, progress)
    clips = [target.open(fold=fold) for fold in folds] or [target.open()] * len(models)
    scores = [scorer.score(*each) for each in zip(models, clips, modes, strict=True)]
    reports = tuple(scorer.report(*each) for each in zip(models, clips, scores, strict=True))
    study = Study(kind, target, modes, models, reports, folds=tuple(folds), notes=_notes(target, models, clips[0]))
    if kind == "fusion":
        return scorer.fused(study, clips[0], scores)
    return dataclasses.replace(study, joint=_pooled(study)) if kind in ("seeds", "folds") else study


@dataclass(frozen=True)
class _Scorer:
    target: Target
    options: Options
    progress: bool

    def score(self, model: Model, clips: ClipDataset, mode: str) -> scoring.Scores:
        merging(model, self.target, clips)
        return scoring.score(
            model.session,
            clips,
            mode,
            skip_unreadable=self.options.skip_unreadable,
            workers=self.options.workers,
            progress=self.progress,
        )

    def report(self, model: Model, clips: ClipDataset, scores: scoring.Scores) -> Report:
        merged = merging(model, self.target, clips)
        return scoring.evaluate(model.session, clips, name=model.name, merged=merged, scores=scores)

    def fused(self, study: Study, clips: ClipDataset, scores: Sequence[scoring.Scores]) -> Study:
        """The study with its streams as one."""
        options, models, notes = self.options, study.models, list(study.notes)
        weights = fusion.normalised(options.weights, len(models))
        if options.fit_weights:
            weights, told = self._fitted(study)
            notes.append(told)
        probabilities = fusion.fuse([s.logits for s in scores], options.fuse, weights.tolist())
        unread = {index: why for s in scores for index, why in s.unread.items()}
        name = " + ".join(model.name for model in models)
        joint = scoring.report_of(name, clips, probabilities, unread, merging(models[0], self.target, clips))
        return dataclasses.replace(
            study, joint=joint, weights=tuple(map(float, weights)), how=options.fuse, notes=tuple(notes)
        )

    def _fitted(self, study: Study) -> tuple[np.ndarray, str]:
        if self.target.part == "train":
            raise ConfigError("--fit-weights chooses on the training part: evaluate the test part")
        clips = self.target.open("train")
        scores = [
            self.score(*each) for each in zip(study.models, [clips] * len(study.models), study.clips, strict=True)
        ]
        kept = [index for index in range(len(clips)) if not any(index in s.unread for s in scores)]
        merged = merging(study.models[0], self.target, clips)
        if merged is not None:
            raise ConfigError("--fit-weights needs the classes that the models were trained on: choose --dataset so")
        weights = fusion.fit([s.logits[kept] for s in scores], clips.labels[kept], self.options.fuse)
        return weights, (
            f"Weights were fitted on the {len(kept)} clips of the training part, which the streams have learned from: "
            "the stream that has learned them best by heart weighs most."
        )


def _kind(models: Sequence[Model], options: Options) -> str:
    """What several models are to one another."""
    asked = [name for name in ("fuse", "seeds", "folds") if getattr(options, name)]
    if len(asked) > 1:
        raise ConfigError(f"--{asked[0]} and --{asked[1]} cannot be combined: models are streams or repetitions")
    if (options.weights or options.fit_weights) and not options.fuse:
        raise ConfigError("weights are those of fused streams: add --fuse softmax or --fuse logits")
    if options.weights and options.fit_weights:
        raise ConfigError("weights are either given (--weights) or fitted (--fit-weights)")
    if options.fuse:
        fusion.check_how(options.fuse)
    if options.folds:
        return "folds"
    if asked and len(models) < 2:
        raise ConfigError(f"--{asked[0]} needs two models or more, got {models[0].name} alone")
    if options.fuse:
        return "fusion"
    if len(models) == 1:
        return "single"
    different = _no_repetitions(models)
    if options.seeds and different:
        raise ConfigError(f"{different}: they are no repetitions that differ by seed")
    return "comparison" if different or not _same_length(models) else "seeds"


def _no_repetitions(models: Sequence[Model]) -> str:
    """By what models differ besides their seed; empty where by nothing."""
    first, seen = models[0], {models[0].package.provenance.seed: models[0]}
    for model in models[1:]:
        ours, theirs = first.package, model.package
        for what in ("family", "variant", "labels", "window", "inputs"):
            if getattr(ours, what) != getattr(theirs, what):
                return f"{first.name} and {model.name} differ by their {what}"
        for what in ("dataset", "split"):
            if getattr(ours.provenance, what) != getattr(theirs.provenance, what):
                return f"{first.name} and {model.name} were trained on another {what}"
        changed = _changed(ours.provenance.settings, theirs.provenance.settings)
        if changed:
            return f"the recipes of {first.name} and {model.name} differ by their {', '.join(changed)}"
        if theirs.provenance.seed in seen:
            twin = seen[theirs.provenance.seed]
            return f"{twin.name} and {model.name} have the same seed {theirs.provenance.seed}"
        seen[theirs.provenance.seed] = model
    return ""


def _changed(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The fields of two recipes that differ, where both packages keep theirs; seed and words aside."""
    if not (ours and theirs):
        return []
    return sorted(key for key in ours.keys() | theirs.keys() if key not in FREE and ours.get(key) != theirs.get(key))


def _same_length(models: Sequence[Model]) -> bool:
    return len({model.package.provenance.epochs for model in models}) == 1


def _folds(asked: Sequence[int], target: Target, models: int) -> list[int]:
    """The folds to score, one a model."""
    known = target.folds
    folds = list(range(1, known + 1)) if list(asked) == [0] else [int(fold) for fold in asked]
    if any(not 1 <= fold <= known for fold in folds):
        raise ConfigError(f"dataset {target.dataset} has folds 1 to {known}; got {', '.join(map(str, folds))}")
    if len(folds) != models:
        raise ConfigError(f"{models} models for {len(folds)} folds: give one a fold, in their order")
    return folds


def _pooled(study: Study) -> Report:
    """All repetitions' clips in one report, for pictures and classes."""
    reports = study.reports
    return Report(
        f"{len(reports)} {study.kind} together",
        reports[0].classes,
        tuple(f"{report.name}: {clip}" for report in reports for clip in report.clips),
        np.concatenate([report.labels for report in reports]),
        np.concatenate([report.probabilities for report in reports]),
        None,
        {f"{report.name}: {clip}": why for report in reports for clip, why in report.unread.items()},
    )


def _notes(target: Target, models: Sequence[Model], clips: ClipDataset) -> tuple[str, ...]:
    """What a reader must know: the dataset's caveat, merged classes, and inputs that the dataset has nothing for."""
    notes = [target.source.caveat] if target.source.caveat else []
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


def _held(clips: ClipDataset) -> frozenset[str]:
    """The keys of the first clip that can be read: it speaks for all."""
    for index in range(len(clips)):
        try:
            return frozenset(clips[index].others) | {"bodies"}
        except (InputError, DeviceError):  # has been named, or noted, when it was scored
            continue
    return frozenset()
