"""Datasets, found by name, read from their own published files."""

import inspect
import json
from pathlib import Path
from typing import Any

from actrec.datasets.base import Clip, ClipDataset, Entry, Source, SourceDataset
from actrec.datasets.store.reader import PreparedDataset, is_store
from actrec.utils.errors import ConfigError
from actrec.utils.registry import Registry

__all__ = [
    "DATASETS",
    "PARTS",
    "Clip",
    "ClipDataset",
    "Entry",
    "PreparedDataset",
    "Source",
    "SourceDataset",
    "create",
    "folder",
    "is_store",
    "others",
    "source",
]

DATASETS = Registry(
    "dataset",
    {
        "folder": "actrec.datasets.user_folder:Folder",
        "ntu120": "actrec.datasets.ntu.dataset:Ntu120",
        "ntu60": "actrec.datasets.ntu.dataset:Ntu60",
        "nucla": "actrec.datasets.nucla:Nucla",
        "rendered": "actrec_models.data.rendered:RenderedRgbd",
        "shrec17_14": "actrec.datasets.shrec17:Shrec17",
        "shrec17_28": "actrec.datasets.shrec17:Shrec17Fine",
        "smarthome": "actrec.datasets.smarthome:Smarthome",
        "sysu": "actrec.datasets.sysu:Sysu",
        "utd_mhad": "actrec.datasets.utd_mhad:UtdMhad",
    },
)

FAMILIES = {"ntu60": "ntu", "ntu120": "ntu", "shrec17_14": "shrec17", "shrec17_28": "shrec17"}
"""Datasets that share their files, to the folder of those."""

PARTS = ("train", "test")

RESERVED = ("name", "root", "split", "part")
"""What `create` takes beside a dataset's own options."""


def source(name: str, root: str | Path, **options: Any) -> Source:
    """The dataset `name` in folder `root`, not read yet.

    Raises:
        ConfigError: Unknown name or option.
    """
    kind = DATASETS.get(name)
    parameters = inspect.signature(kind).parameters
    known = [key for key, parameter in parameters.items() if parameter.kind != parameter.VAR_KEYWORD and key != "root"]
    unknown = sorted(set(options) - set(known))
    if unknown and not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values()):
        raise ConfigError(f"{name} has no option '{unknown[0]}'; known: {', '.join(known) or 'none'}")
    made: Source = kind(root=root, **options)
    return made


def create(name: str, root: str | Path, *, split: str = "", part: str = "train", **options: Any) -> ClipDataset:
    """One part of the dataset `name`.

    Args:
        name: One of `DATASETS.names()`.
        root: Folder of its files, or of the store that `actrec prepare` made of them.
        split: One of its official protocols; empty for its first.
        part: "train" or "test".
        options: Of the dataset; of a store those that it was prepared with, and the fold.

    Raises:
        ConfigError: Unknown name, split, part or option.
        DeviceError: The files are not there.
        InputError: A list or an archive is corrupt.
    """
    return _open(name, root, split, part, options, others=False)


def others(
    name: str, root: str | Path, *, split: str = "", part: str = "train", **options: Any
) -> SourceDataset | PreparedDataset:
    """What one part holds beside the classes: a person's own recordings labeled `unknown`, with label −1.

    Arguments and errors are those of `create`. Published datasets hold none; a store does if it was prepared, or gone
    on with, since stores keep them.
    """
    return _open(name, root, split, part, options, others=True)


def _open(
    name: str, root: str | Path, split: str, part: str, options: dict[str, Any], others: bool
) -> SourceDataset | PreparedDataset:
    if part not in PARTS:
        raise ConfigError(f"{name} has parts {', '.join(PARTS)}; got '{part}'")
    if is_store(root):
        return _of_store(name, PreparedDataset(root), split, part, options, others)
    read = source(name, root, **options)
    split = split or read.splits[0]
    read.check(split)
    items = read.others() if others else read.entries()
    return SourceDataset(read, [entry for entry in items if read.part(entry, split) == part])


def _of_store(
    name: str, store: PreparedDataset, split: str, part: str, options: dict[str, Any], others: bool
) -> PreparedDataset:
    head = store.head
    if head.dataset != name:
        raise ConfigError(f"'{store.folder}' holds {head.dataset}, not {name}: prepare it into a folder called {name}")
    fold = options.pop("fold", 0)
    if type(fold) is not int:
        raise ConfigError(f"{name}'s fold is {fold!r}, expected a number")
    for key, value in json.loads(json.dumps(options)).items():
        if _several(head.options.get(key)) != _several(value):
            made = f"{key}={head.options[key]}" if key in head.options else f"no {key}"
            raise ConfigError(
                f"'{store.folder}' was prepared with {made}: prepare {name} into another folder with "
                f"--option {key}={value}"
            )
    return store.part(split, part, fold, others)


def _several(value: Any) -> list[Any]:
    """A list, or the one that stands for a list of one, as `held_out=ben` does."""
    return value if isinstance(value, list) else [value]


def folder(data_root: str | Path, name: str) -> str:
    """Where the dataset `name` lies in a folder of datasets: under its own name, or in the folder of its `FAMILIES`."""
    own = Path(data_root) / name
    return str(own if name not in FAMILIES or own.is_dir() else Path(data_root) / FAMILIES[name])
