"""Adds the network in int8 to a model package, with ranges of the clips that it was trained on or of one's own."""

import copy
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np

from actrec import folders, zoo
from actrec.errors import ConfigError, PackageError
from actrec.package import FILES, ModelPackage
from actrec_models import data, quantize, repackage
from actrec_models.data import ClipDataset
from actrec_models.evaluation import scoring

logger = logging.getLogger(__name__)

CLIPS = 200
_HELD_OUT = 100
_LEAST = 20


def add(
    source: str | Path,
    folder: Path,
    data_root: str,
    *,
    dataset: str = "",
    root: str = "",
    clips: int = CLIPS,
    keep: tuple[str, ...] = (),
    overwrite: bool = False,
) -> ModelPackage:
    """Writes a copy of a package with the network in int8 beside it, scored where its test part is at hand.

    Args:
        source: A package's folder, or the name of one in the zoo.
        folder: Where to; may be the source's own with `overwrite`.
        data_root: Folder that holds a folder a dataset.
        dataset: The clips whose training part the ranges come of; empty for the one that it was trained on.
        root: Folder of that dataset itself; empty for its own in `data_root`.
        clips: How many; besides them, up to 100 others are compared on.
        keep: Layer groups that stay in float32.
        overwrite: Replace a package that is there.

    Raises:
        PackageError: The package is missing or corrupt, or int8 disagrees with float32.
        ConfigError: The dataset is not at hand, or has too few clips.
    """
    folders.check_place(folder, FILES, overwrite)
    base = zoo.find(source)
    name = dataset or base.provenance.dataset
    own = name == base.provenance.dataset
    part = _training_part(base, name, root or data.folder(data_root, name))
    scoring.check_fit(base, part)
    content = base.read_onnx()
    quantize.check_groups(content, keep)  # before minutes of work, not after
    drawn = Drawn(base, part, clips + _HELD_OUT)
    if len(drawn) < _LEAST:
        raise ConfigError(
            f"{name}'s training part gives {len(drawn)} clips, at least {_LEAST} are needed for int8's ranges"
        )
    used = drawn[: min(clips, len(drawn) * 2 // 3)]
    others = drawn[len(used) :]
    try:
        found = quantize.quantised(content, used, others, keep)
    except PackageError as error:
        raise PackageError(f"{base.name}: {error}") from error
    logger.info("int8 calls %.1f %% of %d other clips what float32 calls them", 100 * found.agreement, len(others))
    lower = {precision: base.read_onnx(precision) for precision in base.precisions[1:]}
    lower["int8"] = found.content
    described = found.described(f"{len(used)} clips of {name}'s training part")
    draft = dataclasses.replace(base, int8=described)
    # Of another dataset, `root` is not the folder of the one whose test part tells the accuracy.
    draft = repackage.scored(draft, content, lower, "int8", data_root, root if own else "")
    return repackage.write_like(base, draft, content, lower, folder, overwrite)


def _training_part(base: ModelPackage, name: str, root: str) -> ClipDataset:
    """The training part of a dataset: of its own, by the split, fold and people that the package was trained on.

    Raises:
        ConfigError: There is no such dataset.
    """
    trained = base.provenance
    if name not in data.DATASETS.names():
        known = ", ".join(data.DATASETS.names())
        what = f"{base.name} was trained on '{name}'" if name == trained.dataset else f"--dataset is '{name}'"
        raise ConfigError(f"{what}, which is no dataset here: name one with --dataset: {known}")
    if name != trained.dataset:
        return data.create(name, root, part="train")
    return data.create(name, root, split=trained.split, part="train", **trained.settings.get("dataset_options", {}))


class Drawn(Sequence[quantize.Inputs]):
    """A network's inputs of clips drawn evenly at random, as it is evaluated; one of a window's clips each.

    Made whenever they are looked at: the pictures of 300 clips of P-I3D are 35 GB.

    Args:
        base: The package.
        clips: What is drawn from.
        count: How many, or all where there are fewer.
    """

    def __init__(self, base: ModelPackage, clips: ClipDataset, count: int):
        self._base, self._clips = base, clips
        self._mode = str(base.provenance.settings.get("clips", "live"))
        self._order = np.random.default_rng(0).permutation(len(clips))[:count]

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> quantize.Inputs: ...

    @overload
    def __getitem__(self, index: slice) -> "Drawn": ...

    def __getitem__(self, index: int | slice) -> "quantize.Inputs | Drawn":
        if isinstance(index, slice):
            part = copy.copy(self)
            part._order = self._order[index]
            return part
        return next(iter(scoring.inputs_of(self._clips[int(self._order[index])], self._base, self._mode)))
