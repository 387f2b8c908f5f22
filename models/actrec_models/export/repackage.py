"""Copies of a model package, made without its checkpoint: with other precisions or a new rejection threshold."""

import dataclasses
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actrec import datasets, inference
from actrec.datasets.base import ClipDataset
from actrec.inference import package, zoo
from actrec.inference.package import EventThresholds, LowerPrecision, ModelPackage
from actrec.utils import config, folders
from actrec.utils.errors import ActrecError, ConfigError, InputError, PackageError
from actrec_models.evaluation import elsewhere, evaluator, protocol, scoring, streams
from actrec_models.export import event_thresholds, exporter, precision, rejection
from actrec_models.training.recipe import Recipe

logger = logging.getLogger(__name__)

INT8_CLIPS = 200  # clips that the ranges of int8 are computed of
INT8_HELD_OUT = 100  # other clips, on which int8 is compared with float32
INT8_LEAST_CLIPS = 20

_FREE_SETTINGS = (
    "commands", "split", "epochs", "seed", "rendered", "unknown_dataset", "unknown_options", "unknown_exclude",
)  # fmt: skip
"""Fields of a recipe in which networks for a calibration may differ; `rendered` is a path."""

Inputs = dict[str, np.ndarray]


def add_float16(
    source: str | Path, folder: Path, data_root: str, overwrite: bool = False, *, weights: bool = True, root: str = ""
) -> ModelPackage:
    """Copy a package with its network also in float16, scored on the test part if the training's dataset is available.

    Args:
        source: A package's folder, or the name of one in the zoo.
        folder: Output folder; with `overwrite` it may be the source.
        data_root: Folder that contains a folder per dataset.
        weights: Keep PyTorch's weights, if it has some.
        root: Folder of the dataset; empty for its folder in `data_root`.

    Raises:
        PackageError: The package is missing or corrupt, or its network is unsuited to float16.
    """
    folder = folders.check_output_folder(folder, package.FILES, overwrite)
    base = zoo.find(source)
    content, lower = base.read_onnx(), {name: base.read_onnx(name) for name in base.precisions[1:]}
    draft, half = precision.with_float16(base, content)
    lower |= half
    draft = _with_accuracy(draft, content, lower, "float16", data_root, root)
    return _write_copy(base, draft, content, lower, folder, overwrite, weights)


def recalibrate(
    source: str | Path,
    folder: Path,
    recipe: Recipe | None,
    data_root: str,
    overwrite: bool = False,
    root: str = "",
    weights: bool = True,
    left_out: Sequence[str | Path] = (),
) -> ModelPackage:
    """Copy a package with a newly chosen rejection and the figures that depend on it; arguments as for `add_float16`.

    `recipe` is of the same dataset and split, with actions to reject; None for the package's own. With packages of the
    same recipe that were trained with split leave_one_set_out, the rejection is chosen on the sets left out, see
    `rejection.calibrate_left_out`. Thresholds of events are dropped, since they depend on the confidence.

    Raises:
        PackageError: The package is missing or corrupt, stores no recipe, or was fine-tuned by `actrec teach`.
        ConfigError: The recipe has another dataset, split or classes, or no actions to reject.
    """
    folder = folders.check_output_folder(folder, package.FILES, overwrite)
    base = zoo.find(source)
    trained = base.provenance
    if "evaluated_by" in trained.figures:
        raise PackageError(f"{base.name} was taught: its rejection was chosen on held-out clips; teach it again")
    if recipe is None and not trained.settings:
        raise PackageError(f"{base.name} does not store its training's recipe: pass one, --calibrate RECIPE")
    recipe = recipe or config.build(Recipe, trained.settings)
    if (recipe.dataset, recipe.split) != (trained.dataset, trained.split):  # the card's figures are of these
        raise ConfigError(
            f"{base.name} was trained on {trained.dataset}, split {trained.split}; the recipe is of {recipe.dataset}, "
            f"split {recipe.split}"
        )
    if trained.settings:
        own = config.build(Recipe, trained.settings)
        if other := [name for name in ("dataset_options", "clips") if getattr(own, name) != getattr(recipe, name)]:
            raise ConfigError(
                f"{base.name} was trained with another {' and '.join(other)} than the recipe's: use its own"
            )
        rejection.check_held_out(recipe, own, base.inputs)
    roots, session = (data_root, root), inference.load(base.path, exporter.REFERENCE)
    sessions = _load_left_out(left_out, base)
    if not left_out and (obstacle := rejection.calibration_obstacle(recipe, base.inputs, *roots)):
        raise ConfigError(f"{base.name}: no rejection can be chosen: {obstacle}")
    test = recipe.dataset_part(data_root, "test", root)
    if tuple(test.classes) != tuple(base.labels):
        raise ConfigError(f"{base.name} knows {', '.join(base.labels)}; {recipe.dataset} has {', '.join(test.classes)}")
    if base.events != EventThresholds():
        logger.warning("%s: thresholds of events fit the former confidence: choose new ones with --events", base.name)
    figures = {name: figure for name, figure in _lasting_figures(base).items() if name != "events"}
    kept = dataclasses.replace(trained, figures=figures)
    draft = dataclasses.replace(base, events=EventThresholds(), provenance=kept)
    draft = exporter.with_evaluation(draft, recipe, session, test, roots, sessions)
    draft = exporter.with_lower_accuracies(draft, recipe, base, test)
    lower = {name: base.read_onnx(name) for name in base.precisions}
    return _write_copy(base, draft, lower.pop("float32"), lower, folder, overwrite, weights)


def choose_events(
    source: str | Path,
    folder: Path,
    per_minute: float,
    data_root: str,
    overwrite: bool = False,
    root: str = "",
    weights: bool = True,
    left_out: Sequence[str | Path] = (),
) -> ModelPackage:
    """Copy a package with thresholds of events for a rate of false ones, chosen on people of its training part.

    With packages of the same recipe that were trained with split leave_one_set_out, they are chosen on the people of
    the sets left out instead. Which classes are motions is known from the training part.

    Its figures on other datasets are dropped, since they depend on the thresholds.

    Args:
        per_minute: Largest number of false events a minute on continuous recordings of these people.

    Raises:
        PackageError: The package is missing or corrupt, or stores no recipe.
        ConfigError: No thresholds keep to the rate.
        InputError: The model requires more than skeletons.
    """
    folder = folders.check_output_folder(folder, package.FILES, overwrite)
    base = zoo.find(source)
    if "evaluated_by" in base.provenance.figures:
        raise PackageError(
            f"{base.name} was taught and has no training part: set the recognizer's events.begin instead"
        )
    if not base.provenance.settings:
        raise PackageError(f"{base.name} does not store its training's recipe: export it again")
    recipe, session = config.build(Recipe, base.provenance.settings), inference.load(base.path, exporter.REFERENCE)
    streams.check_model(session)
    without = _load_left_out(left_out, base)
    recordings = event_thresholds.training_streams(recipe, base.labels, data_root, root)
    motions = event_thresholds.motions(recordings, base.labels)
    if without:
        material = event_thresholds.left_out(without, base, data_root)
    else:
        played = event_thresholds.play(session, recordings)
        material = event_thresholds.Material(played, "people of the training part")
    chosen, score = event_thresholds.choose(base, material, per_minute, motions)
    figures = {**_lasting_figures(base), "events": score.event_figures()}
    draft = dataclasses.replace(base, events=chosen, provenance=dataclasses.replace(base.provenance, figures=figures))
    lower = {name: base.read_onnx(name) for name in base.precisions}
    return _write_copy(base, draft, lower.pop("float32"), lower, folder, overwrite, weights)


def _load_left_out(sources: Sequence[str | Path], base: ModelPackage) -> list[inference.Session]:
    """Load packages of the recipe of `base` that were trained without a set; raise ConfigError for another recipe.

    Their epochs may differ; the description of the choice then names them.
    """
    sessions = [inference.load(zoo.find(source).path, exporter.REFERENCE) for source in sources]
    for found in (session.package for session in sessions):
        other = [] if found.labels == base.labels else ["labels"]
        if other := other or _differing_settings(found, base):
            raise ConfigError(
                f"{found.name} has other {', '.join(other)} than {base.name}: give networks of its recipe"
            )
    return sessions


def _differing_settings(found: ModelPackage, base: ModelPackage) -> list[str]:
    """Return the fields in which two packages' recipes differ, beside the fold and `_FREE_SETTINGS`."""
    if not base.provenance.settings:
        return []
    ours, theirs = (config.build(Recipe, each.provenance.settings).as_dict() for each in (base, found))
    for settings in (ours, theirs):
        settings["dataset_options"] = {**settings["dataset_options"], "fold": 0}
    return [name for name in ours if name not in _FREE_SETTINGS and ours[name] != theirs[name]]


def _lasting_figures(base: ModelPackage) -> dict[str, Any]:
    """Return a package's figures without the ones on other datasets, which depend on its thresholds."""
    return {name: figure for name, figure in base.provenance.figures.items() if name != elsewhere.KEY}


def quantize(
    source: str | Path,
    folder: Path,
    data_root: str,
    *,
    dataset: str = "",
    root: str = "",
    clips: int = INT8_CLIPS,
    keep: tuple[str, ...] = (),
    overwrite: bool = False,
) -> ModelPackage:
    """Copy a package with its network also in int8, scored on the test part if available; see `add_float16`.

    Args:
        dataset: Dataset whose training part gives the ranges; empty for the training's.
        root: Folder of that dataset; empty for its folder in `data_root`.
        clips: Clips for the ranges; up to 100 others are compared on.

    Raises:
        PackageError: The package is missing or corrupt, or int8 disagrees with float32.
        ConfigError: The dataset is missing or has too few clips.
    """
    folders.check_output_folder(folder, package.FILES, overwrite)
    base = zoo.find(source)
    trained = base.provenance
    name = dataset or trained.dataset
    if name not in datasets.DATASETS.names():
        origin = f"--dataset is '{name}'" if name != trained.dataset else f"{base.name} was trained on '{name}'"
        known = ", ".join(datasets.DATASETS.names())
        raise ConfigError(f"{origin}, which is no known dataset: choose one with --dataset: {known}")
    # The same split, fold and people as in the training.
    own = {"split": trained.split, **trained.settings.get("dataset_options", {})} if name == trained.dataset else {}
    part = datasets.create(name, root or datasets.folder(data_root, name), part="train", **own)
    scoring.check_layout(base, part)
    content = base.read_onnx()
    precision.check_layer_groups(content, keep)  # before minutes of work
    chosen = np.random.default_rng(0).permutation(len(part))[: clips + INT8_HELD_OUT].tolist()
    if len(chosen) < INT8_LEAST_CLIPS:
        raise ConfigError(
            f"{name}'s training part gives {len(chosen)} clips, int8's ranges need at least {INT8_LEAST_CLIPS}"
        )
    count = min(clips, max(len(chosen) - INT8_HELD_OUT, len(chosen) * 2 // 3))  # of few, a third is compared on
    calibration, held_out = (SampledInputs(base, part, indices) for indices in (chosen[:count], chosen[count:]))
    try:
        network = precision.to_int8(content, calibration, held_out, keep)
    except PackageError as error:
        raise PackageError(f"{base.name}: {error}") from error
    logger.info("int8 agrees with float32 on %.1f %% of %d other clips", 100 * network.agreement, len(held_out))
    lower = {name: base.read_onnx(name) for name in base.precisions[1:]}
    lower["int8"] = network.content
    described = LowerPrecision(
        network.difference, calibrated_on=f"{len(calibration)} clips of {name}'s training part", kept=network.kept
    )
    draft = dataclasses.replace(base, int8=described)
    # `root` is not the folder of the training's dataset, whose test part gives the accuracy, if another was chosen.
    draft = _with_accuracy(draft, content, lower, "int8", data_root, root if own else "")
    return _write_copy(base, draft, content, lower, folder, overwrite)


def add_figures(
    source: str | Path, folder: Path, files: Sequence[Path], overwrite: bool = False, weights: bool = True
) -> ModelPackage:
    """Copy a package with figures of `actrec eval --elsewhere --json` in its description and card.

    Args:
        source, folder, overwrite, weights: As for `add_float16`.
        files: Figures of this package, and of models of the same recipe that were trained without a set.

    Raises:
        InputError: A file is missing or has no such figures.
        ConfigError: No file has figures of this package.
    """
    folder = folders.check_output_folder(folder, package.FILES, overwrite)
    base = zoo.find(source)
    found: list[dict[str, Any]] = []
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            found += [each for each in content if each["sets"] or each["note"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            remedy = "write it with actrec eval MODEL --elsewhere --json"
            raise InputError(f"'{file}' has no figures of models on other datasets: {remedy}") from error
    own, now = base.provenance.onnx_sha256, elsewhere.thresholds(base)
    if all(each["package"] != own for each in found):
        raise ConfigError(f"--figures has none of {base.name} as it is: run actrec eval {source} --elsewhere --json")
    if any(each.get(elsewhere.THRESHOLDS, now) != now for each in found if each["package"] == own):
        raise ConfigError(
            f"--figures are of {base.name} with other thresholds: run actrec eval {source} --elsewhere --json again"
        )
    if reduced := [each for each in found if each.get("precision", "float32") not in ("auto", "float32", "fp32")]:
        raise ConfigError(
            f"--figures are of {reduced[0]['model']} in {reduced[0]['precision']}, the card's are of float32: run "
            "actrec eval --elsewhere --json again without --precision and --backend"
        )
    compared = ("precision", elsewhere.THRESHOLDS)
    found = [{key: value for key, value in each.items() if key not in compared} for each in found]
    named = [{**each, "model": folder.name} if each["package"] == own else each for each in found]
    figures = {**base.provenance.figures, elsewhere.KEY: named}
    draft = dataclasses.replace(base, provenance=dataclasses.replace(base.provenance, figures=figures))
    lower = {name: base.read_onnx(name) for name in base.precisions}
    return _write_copy(base, draft, lower.pop("float32"), lower, folder, overwrite, weights)


class SampledInputs(Sequence[Inputs]):
    """A network's inputs of some clips of a dataset, one window's clip each, as in the evaluation.

    They are prepared on every access: the images of 300 clips of P-I3D take 35 GB.
    """

    def __init__(self, base: ModelPackage, clips: ClipDataset, indices: Sequence[int]):
        self._base, self._clips, self._indices = base, clips, indices
        self._mode = str(base.provenance.settings.get("clips", "live"))

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Inputs:  # type: ignore[override]  # of one clip, no slice
        return next(scoring.clip_inputs(self._clips[self._indices[index]], self._base, self._mode))


def _write_copy(
    base: ModelPackage, draft: ModelPackage, content: bytes, lower: dict[str, bytes], folder: Path, overwrite: bool,
    weights: bool = True,
) -> ModelPackage:  # fmt: skip
    """Write `draft` with the weights of `base`, and a new card that keeps the sections after the table."""
    weights_file, card_file = base.path / package.WEIGHTS, base.path / package.CARD
    figures, shown = draft.provenance.figures, draft
    if elsewhere.KEY in figures:  # in the card, its own figures are not another model's
        own = base.provenance.onnx_sha256
        measured = figures[elsewhere.KEY]
        away = [{**each, "model": folder.name} if each.get("package") == own else each for each in measured]
        known = dataclasses.replace(draft.provenance, figures={**figures, elsewhere.KEY: away})
        shown = dataclasses.replace(draft, provenance=known)
    text = ""
    if card_file.is_file():
        old = card_file.read_text(encoding="utf-8")
        made = f"{elsewhere.HEADING}\n"
        sections = [part for part in old.split("\n## ")[1:] if not part.startswith(made)]
        text = exporter.card(shown, folder.name) + "".join(f"\n## {part}" for part in sections)
    tensors = weights_file.read_bytes() if weights and weights_file.is_file() else None
    return package.write(folder, draft, content, tensors, text, overwrite, lower)


def _with_accuracy(
    draft: ModelPackage, content: bytes, lower: dict[str, bytes], name: str, data_root: str, root: str
) -> ModelPackage:
    """Return the description with the accuracy in the precision `name`, if the dataset is available."""
    described = draft.lower(name)
    assert described is not None
    with tempfile.TemporaryDirectory() as scratch:
        written = package.write(Path(scratch) / (draft.name or "draft"), draft, content, lower=lower)
        accuracy = None
        if obstacle := _scoring_obstacle(written, data_root, root):
            logger.info("%s: %s is not scored: %s", written.name, name, obstacle)
        else:
            model = protocol.open_model(written.path, precision=name)
            options = protocol.EvalOptions(root=root)
            accuracy = float(evaluator.evaluate_models([model], data_root, options).main_results[0].accuracy)
    scored = dataclasses.replace(described, accuracy=accuracy)
    return dataclasses.replace(draft, **{name: scored})  # type: ignore[arg-type]


def _scoring_obstacle(written: ModelPackage, data_root: str, root: str) -> str:
    """Return why a package cannot be scored on its test part; empty if it can."""
    trained = written.provenance
    place = Path(root or datasets.folder(data_root, trained.dataset))
    if trained.dataset not in datasets.DATASETS.names() or not place.is_dir():
        return f"its dataset, {trained.dataset}, is not in {root or data_root}"
    if not trained.figures.get("test_clips", 1):
        return f"split {trained.split} of {trained.dataset} has no test part"
    if "evaluated_by" in trained.figures:
        return "it was taught all of its recordings"
    options = trained.settings.get("dataset_options", {})
    try:
        datasets.create(trained.dataset, place, split=trained.split, part="test", **options)
    except ActrecError as error:
        return str(error)
    return ""
