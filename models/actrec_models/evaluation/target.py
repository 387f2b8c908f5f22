"""What models are scored on: a part of a dataset by an official split, and how their classes relate to its own.

What several models are to one another, as far as options and descriptions say: streams, repetitions, or neither.
"""

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actrec import datasets
from actrec.datasets import PARTS
from actrec.datasets.base import ClipDataset, Source, SourceDataset
from actrec.datasets.store.reader import PreparedDataset
from actrec.features import feature
from actrec.features.specs import InputSpec
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, InputError
from actrec_models.evaluation import fusion
from actrec_models.evaluation.models import Model
from actrec_models.training import provenance
from actrec_models.training.provenance import FIRST_FOLD, same_items

OWN = "folder"
"""The dataset of a person's own recordings."""

_LEARNT = "recordings"
"""The figure of a taught package that tells which of them it has learnt."""


@dataclass(frozen=True)
class Target:
    """A part of a dataset.

    Attributes:
        dataset, split, part: As `actrec.datasets.create` takes them.
        root: Folder of the dataset's files.
        options: Of the dataset.
    """

    dataset: str
    split: str
    part: str
    root: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def open(self, part: str = "", fold: int = 0) -> ClipDataset:
        """The clips of the part, or of another one; of one fold where `fold` is not 0.

        Raises:
            ConfigError, DeviceError, InputError: As `actrec.datasets.create`.
        """
        options = {**self.options, **({"fold": fold} if fold else {})}
        return datasets.create(self.dataset, self.root, split=self.split, part=part or self.part, **options)

    def others(self) -> SourceDataset | PreparedDataset:
        """What the part holds beside the classes: recordings labeled `unknown`.

        Raises:
            ConfigError, DeviceError, InputError: As `actrec.datasets.create`.
        """
        return datasets.create_unknown(self.dataset, self.root, split=self.split, part=self.part, **self.options)

    @property
    def scores_all(self) -> bool:
        """Whether every one of a person's own recordings is scored (`check_not_learnt`)."""
        return self.dataset == OWN and self.split == "all" and self.part == "train"

    @property
    def source(self) -> type[Source]:
        """The dataset's class, nothing read."""
        found: type[Source] = datasets.DATASETS.get(self.dataset)
        return found

    def with_fold(self, fold: int) -> "Target":
        """One fold alone."""
        return dataclasses.replace(self, options={**self.options, "fold": fold})

    @property
    def folds(self) -> int:
        """How many folds the dataset has.

        Raises:
            ConfigError: It has none.
        """
        if not self.source.folds:
            raise ConfigError(f"dataset {self.dataset} is not divided into folds: leave out --folds")
        return self.source.folds


def target_of(
    models: Sequence[Model],
    data_root: str,
    *,
    dataset: str,
    split: str,
    part: str,
    root: str,
    options: Mapping[str, Any],
) -> Target:
    """What several models are scored on: what is asked for, else what they were trained on.

    Raises:
        ConfigError: They were not trained on the same, or one was trained on another split or fold, whose training part
            holds test clips of this one.
    """
    first = models[0].package.provenance
    asked, dataset = dataset, dataset or first.dataset
    if dataset not in datasets.DATASETS.names():
        known = ", ".join(datasets.DATASETS.names())
        what = f"--dataset is '{dataset}'" if asked else f"{models[0].name} was trained on '{dataset}'"
        raise ConfigError(f"{what}, which is no dataset here; choose one with --dataset: {known}")
    if split and split not in datasets.DATASETS.get(dataset).splits:
        raise ConfigError(f"{dataset} has split {', '.join(datasets.DATASETS.get(dataset).splits)}; got '{split}'")
    if not split:
        known = datasets.DATASETS.get(dataset).splits
        split = first.split if first.dataset == dataset or first.split in known else known[0]
    for model in models:
        trained = model.package.provenance
        apart = dataset == OWN and split == "all" and _tells(model)  # whatever it has learnt is known
        if trained.split != split and same_items(trained.dataset, dataset) and not apart:
            raise ConfigError(
                f"{model.name} was trained on split '{trained.split}' of {dataset}, {_other(models, model, split)}; "
                "parts of different splits overlap, so it has trained on clips that it would be tested on"
            )
    config.check_names(dict(options), datasets.RESERVED, "--option")
    root = root or datasets.folder(data_root, dataset)
    ours = {**_told(models[0], dataset), **options}
    if dataset == OWN and not datasets.is_store(root):
        ours = {"classes": list(models[0].package.labels), **ours}
    # All of a person's recordings test a model that learnt none of them, which `check_not_learnt` looks after.
    if dataset == OWN and split == "all" and all(_tells(model) for model in models):
        part, ours = "train", {key: value for key, value in ours.items() if key != "held_out"}
    return Target(dataset, split, part, root, ours)


def _tells(model: Model) -> bool:
    """Whether it is known which of a person's own recordings a model has learnt."""
    trained = model.package.provenance
    return trained.dataset != OWN or _LEARNT in trained.figures


def check_not_learnt(models: Sequence[Model], target: Target, clips: ClipDataset) -> bool:
    """Makes sure that no model is tested on a person's own recordings that it has learnt.

    Returns:
        Whether that is known of every model; it is not of a published dataset, which has a test part.

    Raises:
        InputError: One has; the first of them is named. Or of the model or of prepared clips nobody can tell.
    """
    if target.dataset != OWN or (target.part == "train" and not target.scores_all):
        return False
    # People in one recording may be on both sides of the split that a model was trained on.
    asked = [model for model in models if target.scores_all or not _same_split(model, target)]
    recordings = clips.recordings if asked else ()
    for model in asked:
        learnt = learnt_by(model)
        if not learnt and model.package.provenance.dataset == OWN:
            raise InputError(f"nobody can tell which recordings {model.name} has learnt: train it again")
        if learnt and not all(recordings):
            raise InputError(
                f"'{target.root}' was prepared before stores told recordings apart, so that nobody knows "
                f"what {model.name} has learnt: prepare it into another folder, or name the recordings' own with --root"
            )
        same = [name for name, recording in zip(clips.names, recordings, strict=True) if recording in learnt]
        if same:
            raise InputError(
                f"{model.name} has learnt {len(same)} of the {len(clips)} clips in {target.root}, first "
                f"'{same[0]}': name a folder of others with --root"
            )
    return target.scores_all and all(_tells(model) for model in models)


def learnt_by(model: Model) -> set[str]:
    """The identities of a person's own recordings that a model has learnt; empty for none, or where nobody knows."""
    return set(model.package.provenance.figures.get(_LEARNT, ()))


def _same_split(model: Model, target: Target) -> bool:
    """Whether a model was trained on the other part of the very split that it is to be tested on."""
    trained = model.package.provenance
    if trained.dataset != OWN or _held_out(_told(model, OWN)) != _held_out(target.options):
        return False
    # A store has the one split that it was prepared with, whatever the options.
    return not datasets.is_store(target.root) or target.open("train").fingerprint() == trained.data_sha256


def _held_out(options: Mapping[str, Any]) -> list[str]:
    """The people who are tested on; one of them may stand alone."""
    people = options.get("held_out", [])
    return sorted(map(str, people)) if isinstance(people, (list, tuple)) else [str(people)]


def _told(model: Model, dataset: str) -> dict[str, Any]:
    """The options of the dataset that a model was trained with; none where that was another dataset."""
    trained = model.package.provenance
    return dict(trained.settings.get("dataset_options", {})) if same_items(trained.dataset, dataset) else {}


def check_folds(models: Sequence[Model], target: Target, folds: Sequence[int]) -> None:
    """Makes sure that no model is tested on what it has trained on.

    Args:
        models: The models.
        target: What they are scored on.
        folds: One a model; empty where all are scored on the target's own.

    Raises:
        ConfigError: A model was trained on another fold, or began with weights of another split or fold.
    """
    for index, model in enumerate(models):
        trained = _fold(model, target)
        scored = folds[index] if folds else target.options.get("fold", FIRST_FOLD)
        before = model.package.provenance.figures.get(provenance.KEY, ())
        options = {**target.options, "fold": scored}
        provenance.check(f"what {model.name} began with", before, target.dataset, target.split, options)
        if trained is not None and trained != scored:
            raise ConfigError(
                f"{model.name} was trained on fold {trained} of {target.dataset}, not {scored}; parts of different "
                "folds overlap, so it has trained on clips that it would be tested on"
            )


def _fold(model: Model, target: Target) -> int | None:
    """The fold that a model was trained on; None where it was another dataset, has no folds, or nobody knows."""
    trained = model.package.provenance
    known = "dataset_options" in trained.settings and same_items(trained.dataset, target.dataset)
    if not (known and target.source.folds):
        return None
    return int(_told(model, target.dataset).get("fold", FIRST_FOLD))


def _other(models: Sequence[Model], model: Model, split: str) -> str:
    if model is models[0]:
        return f"not '{split}'"
    return f"{models[0].name} on '{split}'"


def merging(model: Model, target: Target, clips: ClipDataset) -> tuple[int, ...] | None:
    """The dataset's class of each of the model's; None where they are the same.

    A model of finer classes fits where the dataset that it was trained on says so (`Source.merges`).

    Raises:
        InputError: The classes have nothing to do with each other.
    """
    labels = tuple(model.package.labels)
    if labels == tuple(clips.classes):
        return None
    trained = model.package.provenance.dataset
    if trained in datasets.DATASETS.names():
        finer: type[Source] = datasets.DATASETS.get(trained)
        merged = finer.merges.get(target.dataset)
        if merged is not None and labels == tuple(finer.classes):
            return merged
    raise InputError(
        f"{model.name} knows {', '.join(labels)} but the classes of {target.dataset} are {', '.join(clips.classes)}: "
        + _remedy(target, labels)
    )


def _remedy(target: Target, labels: Sequence[str]) -> str:
    """What to do about other classes: a store keeps those that were there when it was prepared."""
    if target.dataset != OWN or not datasets.is_store(target.root):
        return "evaluate it on the dataset it was trained for"
    known = json.dumps(labels, ensure_ascii=False)
    return (
        "name the recordings' own folder with --root, or, where it knows all of these, prepare them into another store "
        f"with --option {shlex.quote(f'classes={known}')}"
    )


def check_same_classes(models: Sequence[Model]) -> None:
    """Refuses to fuse models of different classes.

    Raises:
        InputError: Names two that differ.
    """
    first = models[0]
    for model in models[1:]:
        if model.package.labels != first.package.labels:
            raise InputError(
                f"{_classes(first)} but {_classes(model)}: only models of the same classes can be fused or repeated"
            )


def _classes(model: Model) -> str:
    labels = model.package.labels
    return f"{model.name} knows {len(labels)} classes ({', '.join(labels)})"


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
    fusion.normalized(options.weights, len(groups[0]))  # wrong weights are found before an hour of scoring
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
