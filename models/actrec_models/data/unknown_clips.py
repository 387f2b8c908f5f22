"""Unknown clips: actions of another dataset outside a recipe's classes, which determine the rejection threshold."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actrec import datasets
from actrec.datasets.base import ClipDataset
from actrec.recordings.labels import normalize_name
from actrec.utils.errors import ActrecError, ConfigError
from actrec_models.training.recipe import Recipe

_MOST = 2000
"""Largest number of clips: the images of all 114,000 of NTU RGB+D 120 would take days."""


@dataclass(frozen=True)
class UnknownClips:
    """Clips of an unknown dataset that show none of the classes.

    Attributes:
        clips: Each as a dataset and an index into it; not read yet.
        excluded: The dataset's actions that are known after all.
    """

    clips: Sequence[tuple[ClipDataset, int]]
    excluded: Sequence[str]

    def read(self) -> ClipDataset:
        """Read the clips; the user's recordings labeled `unknown` have label −1."""
        classes = self.clips[0][0].classes if self.clips else ()
        return ClipDataset([clips[index] for clips, index in self.clips], classes)

    def identities(self) -> tuple[str, ...]:
        """Return the distinct identities of the user's recordings; empty for published datasets."""
        parts = {id(clips): clips for clips, _ in self.clips}
        names = {place: clips.recordings for place, clips in parts.items()}
        return tuple(dict.fromkeys(filter(None, (names[id(clips)][index] for clips, index in self.clips))))


def missing_dataset(recipe: Recipe, data_root: str) -> str:
    """Return a message if the files of `unknown_dataset` are missing; empty otherwise."""
    name = recipe.unknown_dataset
    if not name or not datasets.DATASETS.get(name).has_files or Path(datasets.folder(data_root, name)).is_dir():
        return ""
    return f"the unknown_dataset {name} is not in {data_root}"


def excluded_actions(recipe: Recipe, others: Iterable[str], classes: Iterable[str]) -> list[str]:
    """Return the actions of the unknown dataset with the name of a class, or excluded by the recipe.

    Args:
        recipe: Its `unknown_exclude` is looked at.
        others: The unknown dataset's classes.
        classes: Those of the network. `Sit_down` is called as `sit down` is.
    """
    known = {normalize_name(name) for name in classes}
    return [name for name in others if name in recipe.unknown_exclude or normalize_name(name) in known]


def load(recipe: Recipe, classes: Sequence[str], data_root: str, part: str) -> UnknownClips:
    """Return the unknown clips of a part: clips of other actions, and the user's recordings labeled `unknown`.

    Args:
        recipe: Recipe with the dataset, its options and excluded actions.
        classes: Classes of the network.
        data_root: Folder that holds a folder a dataset.
        part: "train", of which there must be some, or "test"; `_MOST` clips of it at most.

    Raises:
        ConfigError: The recipe leaves out an action that the unknown dataset does not have, or all clips that it has.
        DeviceError, InputError: It cannot be read.
    """
    name = recipe.unknown_dataset
    clips, own = (_part(make, recipe, data_root, part) for make in (datasets.create, datasets.create_unknown))
    if absent := sorted(set(recipe.unknown_exclude) - set(clips.classes)):
        raise ConfigError(f"unknown_exclude names {', '.join(absent)}, which {name} does not have")
    without = excluded_actions(recipe, clips.classes, classes)
    kept = [(clips, place) for place, label in enumerate(clips.labels) if clips.classes[label] not in without]
    kept += [(own, place) for place in range(len(own))]
    if not kept and part == "train":
        raise ConfigError(
            f"no clip of the unknown_dataset {name} shows an action outside the classes: name another one, or none"
        )
    if len(kept) > _MOST:
        kept = [kept[i] for i in sorted(np.random.default_rng(0).choice(len(kept), _MOST, replace=False).tolist())]
    return UnknownClips(kept, without)


def _part(make: Callable[..., ClipDataset], recipe: Recipe, data_root: str, part: str) -> ClipDataset:
    name = recipe.unknown_dataset
    try:
        return make(name, datasets.folder(data_root, name), part=part, **recipe.unknown_options)
    except ActrecError as error:
        raise type(error)(f"unknown_dataset {name}: {error}; or name another one, or none") from error
