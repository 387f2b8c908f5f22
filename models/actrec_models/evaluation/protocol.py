"""Scope of an evaluation: models, the part of a dataset, how its classes map, and overlap with the training."""

import dataclasses
import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actrec import datasets, inference
from actrec.datasets import PARTS
from actrec.datasets.base import ClipDataset, Source, SourceDataset
from actrec.datasets.store import PreparedDataset
from actrec.inference import package
from actrec.inference.session import Session, Shape
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, InputError, PackageError
from actrec_models.networks.base import Network
from actrec_models.training import checkpoints, provenance
from actrec_models.training.provenance import same_recordings

USER_FOLDER = "folder"
"""The dataset of the user's own recordings."""

RECORDINGS = "recordings"
"""Key in a package's figures: identities of the user's recordings that it was trained on."""


# -- models ------------------------------------------------------------------------------------------------------------


class TorchBackend:
    """Backend that runs a network, which is in evaluation mode, in PyTorch (`actrec.inference.session.Backend`)."""

    def __init__(self, network: Network):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._network = network.to(self.device)
        self.inputs: dict[str, Shape] = {spec.name: (None, *spec.shape) for spec in network.input_specs}
        self.output: Shape = (None, network.config.num_classes)

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Return the logits [N, classes] float32 of inputs [N, …] float32."""
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(value).to(self.device) for name, value in inputs.items()}
            logits: np.ndarray = self._network(**tensors).float().cpu().numpy()
        return logits


@dataclass(frozen=True)
class Model:
    """A model to evaluate: the name of its package, or run and file of its checkpoint, and its recipe's clip mode."""

    name: str
    session: Session
    clips: str = "live"

    @property
    def package(self) -> package.ModelPackage:
        """The package's description; for a checkpoint, the one it would be exported with."""
        return self.session.package


def open_models(paths: Sequence[str | Path], **options: Any) -> list[Model]:
    """Open several models with `open_model`; equal names get the parent folder's name, or a number."""
    models = [open_model(path, **options) for path in paths]
    names = [model.name for model in models]
    named: list[Model] = []
    used: Counter[str] = Counter()
    for model in models:
        folder, name = model.package.path, model.name
        if names.count(name) > 1:
            name = f"{(folder.parent if folder.is_file() else folder).parent.name}/{name}"
        used[name] += 1
        named.append(dataclasses.replace(model, name=name if used[name] == 1 else f"{name} ({used[name]})"))
    return named


def open_model(
    path: str | Path, *, backend: str = "onnxruntime", threads: int = 0, precision: str = "float32"
) -> Model:
    """Open a package (a folder, or a name in the zoo) or a checkpoint of `actrec train`, which runs in PyTorch.

    `threads` of the CPU, 0 for all; `precision` of a package is one of `actrec.inference.package.PRECISIONS`.

    Raises:
        PackageError: It is missing, corrupt or foreign, or has no network in this precision.
    """
    threads = threads or torch.get_num_threads()
    if Path(path).is_file() or str(path).endswith(".ckpt"):
        if precision != "float32":
            how = "export it with --float16" if precision == "float16" else "export it, then `actrec quantize` it"
            raise PackageError(f"{path} is a checkpoint, which runs in float32: {how}")
        torch.set_num_threads(threads)
        recipe, draft, network = checkpoints.open_checkpoint(Path(path))
        place = Path(path).resolve()
        session = Session(dataclasses.replace(draft, path=place), TorchBackend(network), warm_up_runs=0)
        # The run's folder distinguishes checkpoints, which are all called `last.ckpt`.
        return Model(f"{place.parent.name}/{place.name}", session, recipe.clips)
    last = Path(path, checkpoints.LAST)
    if last.is_file() and not Path(path, package.DESCRIPTION).is_file():
        raise PackageError(f"{path} is the folder of a training, no package: name its checkpoint, {last}")
    session = inference.load(path, backend, **inference.network_options(backend, precision, threads))
    return Model(session.package.name, session, str(session.package.provenance.settings.get("clips", "live")))


# -- the part of a dataset ---------------------------------------------------------------------------------------------


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
    seeds: bool = setting(False, "the models are repetitions that differ by seed")
    folds: list = setting([], "the models are repetitions, one per fold: these folds; [0] for all")
    skip_unreadable: bool = setting(False, "count an unreadable clip as wrong instead of refusing")
    strict_inputs: bool = setting(False, "refuse scene flow of another method, height or rate than the training's")
    workers: int = setting(0, "processes that read and prepare clips; 0: this one", range=(0, 256))


@dataclass(frozen=True)
class Target:
    """A part of a dataset, by the arguments of `actrec.datasets.create`."""

    dataset: str
    split: str
    part: str
    root: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def open(self, part: str = "", fold: int = 0) -> ClipDataset:
        """Open the clips of the part, or of another one; of one fold if `fold` is not 0."""
        options = {**self.options, **({"fold": fold} if fold else {})}
        return datasets.create(self.dataset, self.root, split=self.split, part=part or self.part, **options)

    def unknown_recordings(self, fold: int = 0) -> SourceDataset | PreparedDataset:
        """Open the part's recordings labeled `unknown`; of one fold if `fold` is not 0."""
        options = {**self.options, **({"fold": fold} if fold else {})}
        return datasets.create_unknown(self.dataset, self.root, split=self.split, part=self.part, **options)

    @property
    def scores_all_recordings(self) -> bool:
        """Whether all of the user's own recordings are scored (`check_not_trained_on`)."""
        return self.dataset == USER_FOLDER and self.split == "all" and self.part == "train"

    @property
    def source(self) -> type[Source]:
        """The dataset's class."""
        found: type[Source] = datasets.DATASETS.get(self.dataset)
        return found


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
        has_split = first.split in splits and dataset != USER_FOLDER  # whose splits are others of the same name
        split = first.split if first.dataset == dataset or has_split else splits[0]
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
    """Check that no model is tested on recordings of the user that it was trained on; return whether that is known.

    A published dataset, which has a test part, returns False.

    Raises:
        InputError: A model was trained on a recording, or this cannot be known of the model or of prepared clips.
    """
    if target.dataset != USER_FOLDER or (target.part == "train" and not target.scores_all_recordings):
        return False
    # People in one recording may be on both sides of the split that a model was trained on.
    checked = [model for model in models if target.scores_all_recordings or not _same_split(model, target, clips)]
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
        if same := [name for name, recording in zip(clips.names, recordings, strict=True) if recording in trained]:
            raise InputError(
                f"{model.name} was trained on {len(same)} of the {len(clips)} clips in {target.root}, first "
                f"'{same[0]}': choose a folder of other recordings with --root"
            )
    return target.scores_all_recordings and all(map(_recordings_known, models))


def _same_split(model: Model, target: Target, clips: ClipDataset) -> bool:
    """Return whether a model was trained on the other part of the same split of the user's recordings."""
    trained = model.package.provenance
    same = provenance.same_split(provenance.trainings(trained), target.split, target.options)
    if trained.dataset != USER_FOLDER or not same:
        return False
    train = target.open("train")
    if datasets.is_store(target.root):  # it has the one split that it was prepared with, whatever the options
        return train.fingerprint() == trained.data_sha256
    # A recording that has trained may test now.
    return not training_recordings(model) & (set(clips.recordings) - set(train.recordings))


def _trained_options(model: Model, dataset: str) -> dict[str, Any]:
    """Return the dataset options of a model's training; empty if that was another dataset."""
    trained = model.package.provenance
    return dict(trained.settings.get("dataset_options", {})) if same_recordings(trained.dataset, dataset) else {}


def check_folds(models: Sequence[Model], target: Target, folds: Sequence[int]) -> None:
    """Raise ConfigError if a model was trained on the fold to test on; `folds` has one per model, or is empty."""
    for index, model in enumerate(models):
        known, own = model.package.provenance, []
        if (trained := known.settings.get("dataset_options")) is not None:  # older packages do not store any
            own = [provenance.training(known.dataset, known.split, trained)]
        initial = known.figures.get(provenance.INITIAL_TRAININGS, ())
        tested = {**target.options, **({"fold": folds[index]} if folds else {})}
        for who, trainings in ((f"the pretrained network of {model.name}", initial), (model.name, own)):
            provenance.check(who, trainings, target.dataset, target.split, tested)


# -- classes -----------------------------------------------------------------------------------------------------------


def class_map(model: Model, target: Target, clips: ClipDataset) -> tuple[int, ...] | None:
    """Return the dataset's class of each of the model's finer classes (`Source.merges`); None if they are the same."""
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
