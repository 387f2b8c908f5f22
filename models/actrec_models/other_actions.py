"""Actions outside a recipe's classes, of another dataset: what rejection is chosen against."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from actrec.errors import ConfigError
from actrec_models import data
from actrec_models.data import ClipDataset
from actrec_models.recipe import Recipe

_MOST = 2000
"""Clips that are looked at: NTU RGB+D 120 has 114,000, whose pictures would take days."""


def missing(recipe: Recipe, data_root: str) -> str:
    """That the files of `unknown_dataset` are not there, in words; empty where they are, or need not be."""
    name = recipe.unknown_dataset
    if not name or not data.DATASETS.get(name).has_files or Path(data.folder(data_root, name)).is_dir():
        return ""
    return f"the unknown_dataset {name} is not in {data_root}"


def left_out(recipe: Recipe, others: Iterable[str], classes: Iterable[str]) -> list[str]:
    """Which of the unknown dataset's actions are known after all: called as a class is, or named by the recipe.

    Args:
        recipe: Its `unknown_exclude` is looked at.
        others: The unknown dataset's classes.
        classes: Those of the network.
    """
    known = {name.casefold() for name in classes}
    return [name for name in others if name in recipe.unknown_exclude or name.casefold() in known]


def check(recipe: Recipe, classes: Sequence[str], data_root: str) -> ClipDataset:
    """The training part of the unknown dataset, from which actions are left to choose by.

    Raises:
        ConfigError: The recipe leaves out an action that the unknown dataset does not have, or all that it has.
        DeviceError, InputError: It cannot be read.
    """
    name = recipe.unknown_dataset
    clips = data.create(name, data.folder(data_root, name), part="train")
    if absent := sorted(set(recipe.unknown_exclude) - set(clips.classes)):
        raise ConfigError(f"unknown_exclude names {', '.join(absent)}, which {name} does not have")
    if len(left_out(recipe, clips.classes, classes)) == len(clips.classes):
        raise ConfigError(f"every action of the unknown_dataset {name} is among the classes: name another one, or none")
    return clips


def taken(recipe: Recipe, classes: Sequence[str], data_root: str, part: str) -> tuple[ClipDataset, list[int]]:
    """A part of the unknown dataset, and which of its clips show none of the classes, `_MOST` at most.

    Raises:
        ConfigError, DeviceError, InputError: As `check`.
    """
    clips = check(recipe, classes, data_root)
    if part != "train":
        clips = data.create(recipe.unknown_dataset, data.folder(data_root, recipe.unknown_dataset), part=part)
    without = set(left_out(recipe, clips.classes, classes))
    kept = [place for place, label in enumerate(clips.labels) if clips.classes[label] not in without]
    if len(kept) > _MOST:
        kept = sorted(np.random.default_rng(0).choice(kept, _MOST, replace=False).tolist())
    return clips, kept
