"""Writes a model package again: its network in float16 or simplified, its rejection chosen anew; from no checkpoint."""

import dataclasses
import logging
import tempfile
from pathlib import Path

import numpy as np

from actrec import datasets, inference
from actrec.inference import package, zoo
from actrec.inference.package import PRECISIONS, LowerPrecision, ModelPackage, Provenance
from actrec.utils import config, files
from actrec.utils.errors import ActrecError, ConfigError, PackageError
from actrec_models.evaluation import study, target
from actrec_models.evaluation.models import open_model
from actrec_models.export import exporter, half_precision, rejection
from actrec_models.export.card import card
from actrec_models.export.onnx_graph import PARITY, inputs_for, logits_of, simplified, to_onnx
from actrec_models.finetune import transfer
from actrec_models.training.recipe import Recipe

logger = logging.getLogger(__name__)


def again(
    source: str | Path,
    folder: Path,
    data_root: str,
    overwrite: bool = False,
    *,
    float16: bool = False,
    simplify: bool = False,
    weights: bool = True,
    root: str = "",
) -> ModelPackage:
    """Writes a copy of a package with other files of its network.

    Where the dataset that it was trained on is at hand, a new network is scored on the test part.

    Args:
        source: A package's folder, or the name of one in the zoo.
        folder: Where to; may be the source's own with `overwrite`.
        data_root: Folder that holds a folder a dataset.
        overwrite: Replace a package that is there.
        float16: Write the network in float16 too; also done where `simplify` changes the one that it is made of.
        simplify: Write the float32 network anew: from its weights by this version where it has them, else from its own
            graph.
        weights: Keep PyTorch's weights, where it has them.
        root: Folder of the dataset itself; empty for its own in `data_root`.

    Raises:
        PackageError: The package is missing or corrupt, its network cannot be written in float16, or what was
            simplified disagrees with what was there.
    """
    target = files.check_place(folder, package.FILES, overwrite)
    base = zoo.find(source)
    content = _simpler(base) if simplify else base.read_onnx()
    contents = {name: base.read_onnx(name) for name in base.precisions[1:] if not simplify}
    if simplify and base.int8 is not None:
        logger.warning("%s: its int8 network is left out: write it again with `actrec quantize`", base.name)
    made = base if not simplify else dataclasses.replace(base, int8=None)
    if float16 or (simplify and base.float16 is not None):
        contents["float16"], described = half_precision.of_package(base, content)
        made = scored(dataclasses.replace(made, float16=described), content, contents, "float16", data_root, root)
    return write_like(base, made, content, contents, target, overwrite, weights)


def calibrated(
    source: str | Path,
    folder: Path,
    recipe: Recipe | None,
    data_root: str,
    overwrite: bool = False,
    root: str = "",
    weights: bool = True,
) -> ModelPackage:
    """Writes a copy of a package whose rejection is chosen again, with the figures that follow from it.

    Args:
        source: A package's folder, or the name of one in the zoo.
        folder: Where to; may be the source's own with `overwrite`.
        recipe: Of the dataset and split that it was trained on; names what is not known. None for the package's own.
        data_root: Folder that holds a folder a dataset.
        overwrite: Replace a package that is there.
        root: Folder of the recipe's dataset itself; empty for its own in `data_root`.
        weights: Keep PyTorch's weights, where it has them.

    Raises:
        PackageError: The package is missing or corrupt, keeps no recipe, or was taught.
        ConfigError: The recipe is of another dataset, split or classes, or names nothing that is not known.
    """
    target = files.check_place(folder, package.FILES, overwrite)
    base = zoo.find(source)
    if "judged_by" in base.provenance.figures:
        raise PackageError(f"{base.name} was taught, its rejection chosen on clips left out: teach it again")
    if recipe is None and not base.provenance.settings:
        raise PackageError(f"{base.name} does not tell the recipe that it was trained by: name one, --calibrate RECIPE")
    recipe = recipe or config.build(Recipe, base.provenance.settings)
    trained = base.provenance
    if (recipe.dataset, recipe.split) != (trained.dataset, trained.split):  # what the card tells is of these
        raise ConfigError(
            f"{base.name} was trained on {trained.dataset}, split {trained.split}; the recipe is of {recipe.dataset}, "
            f"split {recipe.split}"
        )
    if trained.settings:
        rejection.check_held_out(recipe, config.build(Recipe, trained.settings), base.inputs)
    roots, session = (data_root, root), inference.load(base.path)
    if missing := rejection.hindrance(recipe, base.inputs, *roots):
        raise ConfigError(f"{base.name}: no rejection can be chosen: {missing}")
    test = rejection.dataset_part(recipe, data_root, "test", root)
    if tuple(test.classes) != tuple(base.labels):
        raise ConfigError(f"{base.name} knows {', '.join(base.labels)}; {recipe.dataset} has {', '.join(test.classes)}")
    made = exporter.rescored(exporter.judged(base, recipe, session, test, roots), recipe, base, test)
    contents = {name: base.read_onnx(name) for name in base.precisions}
    return write_like(base, made, contents.pop("float32"), contents, target, overwrite, weights)


def write_like(
    base: ModelPackage,
    made: ModelPackage,
    content: bytes,
    contents: dict[str, bytes],
    folder: Path,
    overwrite: bool,
    weights: bool = True,
) -> ModelPackage:
    """Writes `made` with the weights of `base`, and its card with what followed the table in it.

    Args:
        base: The package that it comes from.
        made: Its new description.
        content: The network in float32.
        contents: Those in lower precision.
        folder: Where to.
        overwrite: Replace a package that is there.
        weights: Keep PyTorch's, where there are some.
    """
    file, told = base.path / package.WEIGHTS, base.path / package.CARD
    text = ""
    if told.is_file():
        before = told.read_text(encoding="utf-8")
        more = before.find("\n## ")
        text = card(made, folder.name) + (before[more:] if more >= 0 else "")
    kept = file.read_bytes() if weights and file.is_file() else None
    return package.write(folder, made, content, kept, text, overwrite, contents)


def scored(
    draft: ModelPackage, content: bytes, contents: dict[str, bytes], precision: str, data_root: str, root: str = ""
) -> ModelPackage:
    """The description with the accuracy in a lower precision, where the dataset is at hand."""
    with tempfile.TemporaryDirectory() as scratch:
        drafted = package.write(Path(scratch) / (draft.name or "draft"), draft, content, lower=contents)
        accuracy = _accuracy(drafted, data_root, precision, root)
    told = draft.lower(precision)
    assert told is not None and precision in PRECISIONS
    changed: dict[str, LowerPrecision] = {precision: dataclasses.replace(told, accuracy=accuracy)}
    return dataclasses.replace(draft, **changed)  # type: ignore[arg-type]


def _accuracy(made: ModelPackage, data_root: str, precision: str, root: str) -> float | None:
    """Top-1 on the test part; None where there is none at hand, which the log says."""
    trained, why = made.provenance, ""
    place = Path(root or datasets.folder(data_root, trained.dataset))
    if trained.dataset not in datasets.DATASETS.names() or not place.is_dir():
        why = f"its dataset, {trained.dataset}, is not in {root or data_root}"
    elif not trained.figures.get("test_clips", 1):
        why = f"split {trained.split} of {trained.dataset} has no test part"
    elif "judged_by" in trained.figures:
        why = "it was taught all of its recordings"
    else:
        why = _hindrance(trained, place)
    if why:
        logger.info("%s: %s is not scored: %s", made.name, precision, why)
        return None
    model = open_model(made.path, precision=precision)
    return float(study.run([model], data_root, target.Options(root=root)).main[0].accuracy)


def _hindrance(trained: Provenance, place: Path) -> str:
    """Why a dataset that is there cannot be scored on, which is no reason to write nothing; empty where it can."""
    options = trained.settings.get("dataset_options", {})
    try:
        datasets.create(trained.dataset, place, split=trained.split, part="test", **options)
    except ActrecError as error:
        return str(error)
    return ""


def _simpler(base: ModelPackage) -> bytes:
    """The float32 network written anew.

    Raises:
        PackageError: It disagrees with the package's own.
    """
    before = base.read_onnx()
    if (base.path / package.WEIGHTS).is_file():
        opened = transfer.open_base(base.path)
        network = opened.network(len(base.labels))
        network.load_state_dict(opened.tensors)
        content = to_onnx(network)
    else:
        content = simplified(before)
    inputs = inputs_for(base.inputs, base.window, base.bodies, 4)
    expected, found = (logits_of(each, inputs) for each in (before, content))
    difference = float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))
    if not difference <= PARITY:
        raise PackageError(f"{base.name}: simplified, its logits differ by {difference:.2g}: not written")
    return content
