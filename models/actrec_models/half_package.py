"""Adds the network in float16 to a model package that has float32 alone: no checkpoint is needed."""

import dataclasses
import logging
import tempfile
from pathlib import Path

from actrec import package, zoo
from actrec.package import ModelPackage
from actrec_models import data, half_precision
from actrec_models.card import card
from actrec_models.evaluation import study
from actrec_models.evaluation.opening import open_model

logger = logging.getLogger(__name__)

_CARD = "README.md"


def add(source: str | Path, folder: Path, data_root: str, overwrite: bool = False) -> ModelPackage:
    """Writes a copy of a package with the network in float16 beside it.

    Where the dataset that it was trained on is at hand, the new network is scored on the test part.

    Args:
        source: A package's folder, or the name of one in the zoo.
        folder: Where to; may be the source's own with `overwrite`.
        data_root: Folder that holds a folder a dataset.
        overwrite: Replace a package that is there.

    Raises:
        PackageError: The package is missing or corrupt, or its network cannot be written in float16.
    """
    base = zoo.find(source)
    content = base.read_onnx()
    half, described = half_precision.of_package(base, content)
    draft = dataclasses.replace(base, float16=described)
    with tempfile.TemporaryDirectory() as scratch:
        drafted = package.write(Path(scratch) / base.name, draft, content, float16=half)
        described = dataclasses.replace(described, accuracy=_accuracy(drafted, data_root))
    made = dataclasses.replace(base, float16=described)
    weights, told = base.path / package.WEIGHTS, base.path / _CARD
    return package.write(
        folder,
        made,
        content,
        weights.read_bytes() if weights.is_file() else None,
        _card(made, folder.name, told.read_text(encoding="utf-8")) if told.is_file() else "",
        overwrite,
        half,
    )


def _accuracy(made: ModelPackage, data_root: str) -> float | None:
    """Top-1 in float16 on the test part; None where the dataset is not at hand, which the log says."""
    trained = made.provenance
    if trained.dataset not in data.DATASETS.names() or not Path(data.folder(data_root, trained.dataset)).is_dir():
        logger.info("%s: float16 is not scored: its dataset, %s, is not in %s", made.name, trained.dataset, data_root)
        return None
    model = open_model(made.path, precision="float16")
    return float(study.run([model], data_root, study.Options()).main[0].accuracy)


def _card(made: ModelPackage, name: str, before: str) -> str:
    """The card, with what followed the table in the package's own."""
    more = before.find("\n## ")
    return card(made, name) + (before[more:] if more >= 0 else "")
