"""What weights were trained on before they were taken over: a network must not be tested on that either."""

from collections.abc import Iterable, Mapping
from typing import Any

from actrec.errors import ConfigError
from actrec_models import data

FIRST_FOLD = 1
"""What a dataset that is divided into folds takes where none is named."""
KEY = "began_with"
"""Of a checkpoint's provenance and a package's figures: the trainings (`training`) that the initial weights are of."""


def training(dataset: str, split: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A training as it is kept: dataset, split and options of the dataset."""
    return {"dataset": dataset, "split": split, "options": dict(options)}


def each_once(trainings: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """In their order."""
    found: list[dict[str, Any]] = []
    for one in trainings:
        if one not in found:
            found.append(dict(one))
    return found


def kept(trainings: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """As figures have it; nothing for none."""
    found = each_once(trainings)
    return {KEY: found} if found else {}


def same_items(trained: str, dataset: str) -> bool:
    """Whether two datasets are the same recordings."""
    if trained == dataset:
        return True
    return trained in data.DATASETS.names() and dataset in data.DATASETS.get(trained).merges


def overlap(one: Mapping[str, Any], dataset: str, split: str, options: Mapping[str, Any]) -> str:
    """By which other split or fold of the same recordings a network was trained; empty for none.

    Of a person's own recordings nothing is said: they are told apart one by one (`ClipDataset.identities`).
    """
    if dataset == "folder" or not same_items(one["dataset"], dataset):
        return ""
    if one["split"] != split:
        return f"split '{one['split']}' of {one['dataset']}"
    divided = dataset in data.DATASETS.names() and data.DATASETS.get(dataset).folds
    folds = [each.get("fold", FIRST_FOLD) for each in (one["options"], options)]
    return f"fold {folds[0]} of {one['dataset']}" if divided and folds[0] != folds[1] else ""


def check(
    who: str, trainings: Iterable[Mapping[str, Any]], dataset: str, split: str, options: Mapping[str, Any]
) -> None:
    """Refuses what would be tested on clips that it, or the weights that it began with, was trained on.

    Args:
        who: Whose trainings they are.
        trainings: Before the one that is to be tested.
        dataset, split, options: What is to be tested on.

    Raises:
        ConfigError: One was by another split or fold.
    """
    for one in trainings:
        if other := overlap(one, dataset, split, options):
            fold = f", fold {options.get('fold', FIRST_FOLD)}" if other.startswith("fold") else ""
            raise ConfigError(
                f"{who} was trained on {other}, not '{split}'{fold}: parts of different splits and folds overlap, so "
                "it has trained on clips that would be tested on"
            )
