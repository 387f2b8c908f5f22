"""Evaluation targets: the part of a dataset to score models on, how classes map, and how several models relate."""

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
from actrec_models.training.provenance import FIRST_FOLD, same_recordings

USER_FOLDER = "folder"
"""The dataset of the user's own recordings."""

RECORDINGS = "recordings"
"""Key in a package's figures: identities of the user's recordings that it was trained on."""

SEED_FIELDS = ("seed", "command")
"""Recipe fields in which repetitions may differ."""

MAX_DRAWS = 1000


@dataclass(frozen=True)
class EvalOptions:
    """Options of an evaluation."""

    dataset: str = setting("", "default: the one that the models were trained on")
    split: str = setting("", "default: the one that the models were trained on")
    part: str = setting("test", "part of the split", choices=PARTS)
    root: str = setting("", "folder of the dataset, if not in the folder of datasets")
    dataset_options: dict = setting({}, "options of the dataset")
    clips: str = setting("", "one of `scoring.CLIP_MODES`; default: the recipe's")
    draws: list = setting([], "augmented versions of each clip to score as well: one number, or one per model")
    fuse: str = setting("", "softmax or logits: fuse the models as streams; default: do not fuse")
    weights: list = setting([], "weights of the fused streams; default: equal")
    fit_weights: bool = setting(False, "choose the weights on the training part")
    seeds: bool = setting(False, "the models are repetitions that differ by seed")
    folds: list = setting([], "the models are repetitions, one per fold: these folds; [0] for all")
    skip_unreadable: bool = setting(False, "count an unreadable clip as wrong instead of refusing")
    workers: int = setting(0, "processes that read and prepare clips; 0: this one", range=(0, 256))


@dataclass(frozen=True)
class Target:
    """A part of a dataset.

    Attributes:
        dataset, split, part: As in `actrec.datasets.create`.
        root: Folder of the dataset's files.
        options: Options of the dataset.
    """

    dataset: str
    split: str
    part: str
    root: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def open(self, part: str = "", fold: int = 0) -> ClipDataset:
        """Open the clips of the part, or of another one; of one fold if `fold` is not 0.

        Raises:
            ConfigError, DeviceError, InputError: As `actrec.datasets.create`.
        """
        options = {**self.options, **({"fold": fold} if fold else {})}
        return datasets.create(self.dataset, self.root, split=self.split, part=part or self.part, **options)

    def unknown_recordings(self) -> SourceDataset | PreparedDataset:
        """Open the part's recordings labeled `unknown`.

        Raises:
            ConfigError, DeviceError, InputError: As `actrec.datasets.create`.
        """
        return datasets.create_unknown(self.dataset, self.root, split=self.split, part=self.part, **self.options)

    @property
    def scores_all_recordings(self) -> bool:
        """Whether all of the user's own recordings are scored (`check_not_trained_on`)."""
        return self.dataset == USER_FOLDER and self.split == "all" and self.part == "train"

    @property
    def source(self) -> type[Source]:
        """The dataset's class."""
        found: type[Source] = datasets.DATASETS.get(self.dataset)
        return found

    @property
    def folds(self) -> int:
        """The number of the dataset's folds.

        Raises:
            ConfigError: It has none.
        """
        if not self.source.folds:
            raise ConfigError(f"dataset {self.dataset} is not divided into folds: omit --folds")
        return self.source.folds


def resolve_target(models: Sequence[Model], data_root: str, options: EvalOptions) -> Target:
    """Return the requested target, by default the dataset that the models were trained on.

    Raises:
        ConfigError: The models were trained on different splits or folds, or on another one than requested, whose
            training part contains test clips of this one.
    """
    first, dataset, split, part = models[0].package.provenance, options.dataset, options.split, options.part
    dataset = dataset or first.dataset
    if dataset not in datasets.DATASETS.names():
        known = ", ".join(datasets.DATASETS.names())
        source = f"--dataset is '{dataset}'" if options.dataset else f"{models[0].name} was trained on '{dataset}'"
        raise ConfigError(f"{source}, which is no known dataset; choose one with --dataset: {known}")
    splits = datasets.DATASETS.get(dataset).splits
    if split and split not in splits:
        raise ConfigError(f"{dataset} has split {', '.join(splits)}; got '{split}'")
    if not split:
        split = first.split if first.dataset == dataset or first.split in splits else splits[0]
    for model in models:
        trained = model.package.provenance
        checked_later = dataset == USER_FOLDER and split == "all" and _recordings_known(model)
        if trained.split != split and same_recordings(trained.dataset, dataset) and not checked_later:
            other = f"not '{split}'" if model is models[0] else f"{models[0].name} on '{split}'"
            raise ConfigError(
                f"{model.name} was trained on split '{trained.split}' of {dataset}, {other}; parts of different splits "
                "overlap, so it has trained on clips that it would be tested on"
            )
    config.check_names(dict(options.dataset_options), datasets.RESERVED, "--option")
    root = options.root or datasets.folder(data_root, dataset)
    dataset_options = {**_trained_options(models[0], dataset), **options.dataset_options}
    if dataset == USER_FOLDER and not datasets.is_store(root):
        dataset_options = {"classes": list(models[0].package.labels), **dataset_options}
    # All of the user's recordings can test a model that was trained on none of them (`check_not_trained_on`).
    if dataset == USER_FOLDER and split == "all" and all(map(_recordings_known, models)):
        part = "train"
        dataset_options.pop("held_out", None)
    return Target(dataset, split, part, root, dataset_options)


# -- overlap with the training -----------------------------------------------------------------------------------------


def _recordings_known(model: Model) -> bool:
    """Return whether it is known which of the user's recordings a model was trained on."""
    trained = model.package.provenance
    return trained.dataset != USER_FOLDER or RECORDINGS in trained.figures


def training_recordings(model: Model) -> set[str]:
    """Return the identities of the user's recordings that a model was trained on; empty if none or unknown."""
    return set(model.package.provenance.figures.get(RECORDINGS, ()))


def check_not_trained_on(models: Sequence[Model], target: Target, clips: ClipDataset) -> bool:
    """Check that no model is tested on recordings of the user that it was trained on.

    Returns:
        Whether this is known for every model. It is False for a published dataset, which has a test part.

    Raises:
        InputError: A model was trained on a recording, or this cannot be known of the model or of prepared clips.
    """
    if target.dataset != USER_FOLDER or (target.part == "train" and not target.scores_all_recordings):
        return False
    # People in one recording may be on both sides of the split that a model was trained on.
    checked = [model for model in models if target.scores_all_recordings or not _same_split(model, target)]
    recordings = clips.recordings if checked else ()
    for model in checked:
        trained = training_recordings(model)
        if not trained and model.package.provenance.dataset == USER_FOLDER:
            raise InputError(f"{model.name} does not store which recordings it was trained on: train it again")
        if trained and not all(recordings):
            raise InputError(
                f"'{target.root}' was prepared by a version that stored no identities of recordings, so clips of "
                f"{model.name}'s training cannot be excluded: prepare it into another folder, or pass the folder of "
                "the recordings with --root"
            )
        same = [name for name, recording in zip(clips.names, recordings, strict=True) if recording in trained]
        if same:
            raise InputError(
                f"{model.name} was trained on {len(same)} of the {len(clips)} clips in {target.root}, first "
                f"'{same[0]}': choose a folder of other recordings with --root"
            )
    return target.scores_all_recordings and all(map(_recordings_known, models))


def _same_split(model: Model, target: Target) -> bool:
    """Return whether a model was trained on the other part of the same split of the user's recordings."""
    trained = model.package.provenance
    if trained.dataset != USER_FOLDER or _held_out(_trained_options(model, USER_FOLDER)) != _held_out(target.options):
        return False
    # A store has the one split that it was prepared with, whatever the options.
    return not datasets.is_store(target.root) or target.open("train").fingerprint() == trained.data_sha256


def _held_out(options: Mapping[str, Any]) -> list[str]:
    """Return the people of the test part; a single one may be given without a list."""
    people = options.get("held_out", [])
    return sorted(map(str, people)) if isinstance(people, (list, tuple)) else [str(people)]


def _trained_options(model: Model, dataset: str) -> dict[str, Any]:
    """Return the dataset options of a model's training; empty if that was another dataset."""
    trained = model.package.provenance
    return dict(trained.settings.get("dataset_options", {})) if same_recordings(trained.dataset, dataset) else {}


def check_folds(models: Sequence[Model], target: Target, folds: Sequence[int]) -> None:
    """Check that no model is tested on a fold that it was trained on.

    Args:
        models: The models.
        target: The evaluation target.
        folds: One per model; empty to score all on the target's own fold.

    Raises:
        ConfigError: A model, or its initial weights, were trained on another split or fold.
    """
    for index, model in enumerate(models):
        trained = _trained_fold(model, target)
        scored = folds[index] if folds else target.options.get("fold", FIRST_FOLD)
        initial = model.package.provenance.figures.get(provenance.INITIAL_TRAININGS, ())
        options = {**target.options, "fold": scored}
        provenance.check(f"the pretrained network of {model.name}", initial, target.dataset, target.split, options)
        if trained is not None and trained != scored:
            raise ConfigError(
                f"{model.name} was trained on fold {trained} of {target.dataset}, not {scored}; parts of different "
                "folds overlap, so it has trained on clips that it would be tested on"
            )


def _trained_fold(model: Model, target: Target) -> int | None:
    """Return the fold that a model was trained on; None for another dataset, without folds, or if unknown."""
    trained = model.package.provenance
    known = "dataset_options" in trained.settings and same_recordings(trained.dataset, target.dataset)
    if not (known and target.source.folds):
        return None
    return int(_trained_options(model, target.dataset).get("fold", FIRST_FOLD))


# -- classes -----------------------------------------------------------------------------------------------------------


def class_map(model: Model, target: Target, clips: ClipDataset) -> tuple[int, ...] | None:
    """Return the dataset's class of each of the model's classes; None if they are the same.

    A model with finer classes fits if its training dataset defines the merge (`Source.merges`).

    Raises:
        InputError: The classes do not match.
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
    remedy = "evaluate it on the dataset it was trained for"
    if target.dataset == USER_FOLDER and datasets.is_store(target.root):
        option = shlex.quote(f"classes={json.dumps(labels, ensure_ascii=False)}")
        remedy = (
            "pass the folder of the recordings with --root, or, if it holds all of these classes, prepare them into "
            f"another store with --option {option}"
        )
    raise InputError(
        f"{model.name} knows {', '.join(labels)} but the classes of {target.dataset} are {', '.join(clips.classes)}: "
        + remedy
    )


def _check_same_classes(models: Sequence[Model]) -> None:
    first, *others = [(model, model.package.labels) for model in models]
    for other in others:
        if other[1] != first[1]:
            ours, theirs = (
                f"{model.name} knows {len(labels)} classes ({', '.join(labels)})" for model, labels in (first, other)
            )
            raise InputError(f"{ours} but {theirs}: only models of the same classes can be fused or repeated")


# -- several models ----------------------------------------------------------------------------------------------------


def study_kind(models: Sequence[Model], options: EvalOptions) -> str:
    """Return "single", "comparison", "fusion", "seeds" or "folds".

    Raises:
        ConfigError: Options that contradict each other or the models.
    """
    requested = [name for name in ("fuse", "seeds", "folds") if getattr(options, name)]
    if "folds" in requested and len(requested) > 1:
        raise ConfigError(f"--{requested[0]} and --folds cannot be combined: the models are one per fold")
    if (options.weights or options.fit_weights) and not options.fuse:
        raise ConfigError("weights belong to fused streams: add --fuse softmax or --fuse logits")
    if options.weights and options.fit_weights:
        raise ConfigError("weights are either given (--weights) or fitted (--fit-weights)")
    if options.fuse:
        fusion.check_method(options.fuse)
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


def fusion_groups(models: Sequence[Model], options: EvalOptions) -> tuple[tuple[int, ...], ...]:
    """Return the indices of the models of each fusion: all models, or the models of each seed; empty without fusion.

    Raises:
        ConfigError: The seeds have different streams, or the weights do not fit.
        InputError: The models' classes differ.
    """
    if not options.fuse:
        return ()
    _check_same_classes(models)
    by_seed: dict[int, list[int]] = {}
    for index, model in enumerate(models):
        by_seed.setdefault(model.package.provenance.seed if options.seeds else 0, []).append(index)
    groups = list(by_seed.values())
    if options.seeds:
        sizes = ", ".join(f"{len(group)} of seed {seed}" for seed, group in by_seed.items())
        if len(groups) < 2 or len({len(group) for group in groups}) > 1 or len(groups[0]) < 2:
            raise ConfigError(f"got {sizes}: give the same streams of each of several seeds")
        for stream in zip(*groups, strict=True):
            difference = _difference([models[index] for index in stream])
            if difference:
                raise ConfigError(f"{difference}: give the streams of each seed in the same order")
    fusion.normalized_weights(options.weights, len(groups[0]))  # wrong weights are refused before an hour of scoring
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
    """Return the number of augmented versions of a clip for each model.

    Raises:
        ConfigError: Neither one number nor one per model, or out of range.
    """
    if len(requested) not in (0, 1, models):
        raise ConfigError(f"--draws has {len(requested)} numbers for {models} models: give one, or one per model")
    if any(not 0 <= number <= MAX_DRAWS for number in requested):
        raise ConfigError(f"--draws is {' '.join(map(str, requested))}, allowed: 0 to {MAX_DRAWS}")
    return tuple(requested) if len(requested) == models else tuple(requested or [0]) * models


def folds_per_model(requested: Sequence[int], target: Target, models: int) -> list[int]:
    """Return the fold to score each model on."""
    known = target.folds
    folds = list(range(1, known + 1)) if list(requested) == [0] else [int(fold) for fold in requested]
    if any(not 1 <= fold <= known for fold in folds):
        raise ConfigError(f"dataset {target.dataset} has folds 1 to {known}; got {', '.join(map(str, folds))}")
    if len(set(folds)) < len(folds):
        raise ConfigError(f"folds {', '.join(map(str, folds))}: one appears twice")
    if len(folds) != models:
        raise ConfigError(f"{models} models for {len(folds)} folds: give one model per fold, in their order")
    return folds
