"""What several models are to one another, as far as options and descriptions say: streams, repetitions, or neither."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actrec.config import setting
from actrec.errors import ConfigError
from actrec.features import feature
from actrec.package import InputSpec
from actrec_models.data import PARTS
from actrec_models.evaluation import fusion
from actrec_models.evaluation.opening import Model
from actrec_models.evaluation.target import Target, check_same_classes

FREE = ("seed", "command")
"""The fields of a recipe by which repetitions may differ."""
MOST_DRAWS = 1000


@dataclass(frozen=True)
class Options:
    """What to score, and how."""

    dataset: str = setting("", "default: the one that the models were trained on")
    split: str = setting("", "default: the one that the models were trained on")
    part: str = setting("test", "part of the split", choices=PARTS)
    root: str = setting("", "the dataset's own folder, where it does not lie in the folder of datasets")
    dataset_options: dict = setting({}, "options of the dataset")
    clips: str = setting("", "one of `scoring.MODES`; default: what the model's recipe says")
    draws: list = setting(
        [], "looks at each clip besides, varied as in training: one number for all models, or one each"
    )
    fuse: str = setting("", "softmax or logits: score the models as streams of one; default: not")
    weights: list = setting([], "of the fused streams, one each; default: all alike")
    fit_weights: bool = setting(False, "choose the weights on the training part")
    seeds: bool = setting(False, "the models are repetitions that differ by seed")
    folds: list = setting([], "the models are repetitions, one a fold: these folds; [0] for all")
    skip_unreadable: bool = setting(False, "count a clip that cannot be read as wrong instead of refusing")
    workers: int = setting(0, "processes that read and prepare clips; 0: this one", range=(0, 256))


def kind_of(models: Sequence[Model], options: Options) -> str:
    """What several models are to one another."""
    asked = [name for name in ("fuse", "seeds", "folds") if getattr(options, name)]
    if "folds" in asked and len(asked) > 1:
        raise ConfigError(f"--{asked[0]} and --folds cannot be combined: the models are one a fold")
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
        return "seeds" if options.seeds else "fusion"
    if len(models) == 1:
        return "single"
    different = _no_repetitions(models)
    if options.seeds and different:
        raise ConfigError(f"{different}: they are no repetitions that differ by seed")
    return "comparison" if different or not _same_length(models) else "seeds"


def groups_of(models: Sequence[Model], options: Options) -> tuple[tuple[int, ...], ...]:
    """Indices of the models that are fused with one another: all, or those of each seed; none where nothing is fused.

    Raises:
        ConfigError: Models of one seed lack what another seed has, or differ by more; weights are not one a stream.
        InputError: Their classes differ.
    """
    if not options.fuse:
        return ()
    check_same_classes(models)
    by_seed: dict[int, list[int]] = {}
    for index, model in enumerate(models):
        by_seed.setdefault(model.package.provenance.seed if options.seeds else 0, []).append(index)
    groups = list(by_seed.values())
    if options.seeds:
        sizes = ", ".join(f"{len(group)} of seed {seed}" for seed, group in by_seed.items())
        if len(groups) < 2 or len({len(group) for group in groups}) > 1 or len(groups[0]) < 2:
            raise ConfigError(f"got {sizes}: give the same streams of each of several seeds")
        for stream in zip(*groups, strict=True):
            different = _no_repetitions([models[index] for index in stream])
            if different:
                raise ConfigError(f"{different}: give the streams of each seed in the same order")
    fusion.normalised(options.weights, len(groups[0]))  # wrong weights are found before an hour of scoring
    return tuple(map(tuple, groups))


def _no_repetitions(models: Sequence[Model]) -> str:
    """By what models differ besides their seed; empty where by nothing."""
    first, seen = models[0], {models[0].package.provenance.seed: models[0]}
    for model in models[1:]:
        ours, theirs = first.package, model.package
        different = [
            what for what in ("family", "variant", "labels", "window") if getattr(ours, what) != getattr(theirs, what)
        ]
        if different or comparable(ours.inputs) != comparable(theirs.inputs):
            return f"{first.name} and {model.name} differ by their {(*different, 'inputs')[0]}"
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


def comparable(specs: Sequence[InputSpec]) -> tuple[list[InputSpec], str]:
    """Inputs with all options of their features, which a package from before one of these does not name."""
    bare = [dataclasses.replace(spec, preprocessing={}, shape=tuple(spec.shape)) for spec in specs]
    options = [dataclasses.asdict(feature(spec.modality).options(spec)) for spec in specs]
    return bare, json.dumps(options)  # which makes lists of tuples, as a package does


def _changed(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The fields of two recipes that differ, where both packages keep theirs; seed and words aside."""
    if not (ours and theirs):
        return []
    return sorted(key for key in ours.keys() | theirs.keys() if key not in FREE and ours.get(key) != theirs.get(key))


def _same_length(models: Sequence[Model]) -> bool:
    return len({model.package.provenance.epochs for model in models}) == 1


def draws_of(asked: Sequence[int], models: int) -> tuple[int, ...]:
    """How many further looks each model has at a clip.

    Raises:
        ConfigError: They are neither one number nor one a model, or out of range.
    """
    if len(asked) not in (0, 1, models):
        raise ConfigError(f"--draws has {len(asked)} numbers for {models} models: give one, or one each")
    if any(not 0 <= number <= MOST_DRAWS for number in asked):
        raise ConfigError(f"--draws is {' '.join(map(str, asked))}, allowed: 0 to {MOST_DRAWS}")
    return tuple(asked) if len(asked) == models else tuple(asked or [0]) * models


def folds_of(asked: Sequence[int], target: Target, models: int) -> list[int]:
    """The folds to score, one a model."""
    known = target.folds
    folds = list(range(1, known + 1)) if list(asked) == [0] else [int(fold) for fold in asked]
    if any(not 1 <= fold <= known for fold in folds):
        raise ConfigError(f"dataset {target.dataset} has folds 1 to {known}; got {', '.join(map(str, folds))}")
    if len(set(folds)) < len(folds):
        raise ConfigError(f"folds {', '.join(map(str, folds))}: one is named twice, which makes no repetition")
    if len(folds) != models:
        raise ConfigError(f"{models} models for {len(folds)} folds: give one a fold, in their order")
    return folds
