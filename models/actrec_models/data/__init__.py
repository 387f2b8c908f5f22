"""Datasets, found by name, read from their own published files."""

from pathlib import Path
from typing import Any

from actrec.errors import ConfigError
from actrec.registry import Registry
from actrec_models.data.clips import Clip, ClipDataset, SourceDataset
from actrec_models.data.source import Entry, Source

DATASETS = Registry(
    "dataset",
    {
        "folder": "actrec_models.data.user_folder:Folder",
        "ntu120": "actrec_models.data.ntu:Ntu120",
        "ntu60": "actrec_models.data.ntu:Ntu60",
        "nucla": "actrec_models.data.nucla:Nucla",
        "rendered": "actrec_models.data.rendered_rgbd:RenderedRgbd",
        "shrec17_14": "actrec_models.data.shrec17:Shrec17",
        "shrec17_28": "actrec_models.data.shrec17:Shrec17Fine",
        "utd_mhad": "actrec_models.data.utd_mhad:UtdMhad",
    },
)
PARTS = ("train", "test")


def source(name: str, root: str | Path, **options: Any) -> Source:
    """The dataset `name` in folder `root`, not read yet.

    Raises:
        ConfigError: Unknown name or option.
    """
    made: Source = DATASETS.create(name, root=root, **options)
    return made


def create(name: str, root: str | Path, *, split: str = "", part: str = "train", **options: Any) -> ClipDataset:
    """One part of the dataset `name`.

    Args:
        name: One of `DATASETS.names()`.
        root: Folder of its files.
        split: One of its official protocols; empty for its first.
        part: "train" or "test".
        options: Of the dataset.

    Raises:
        ConfigError: Unknown name, split, part or option.
        DeviceError: The files are not there.
        InputError: A list or an archive is corrupt.
    """
    read = source(name, root, **options)
    split = split or read.splits[0]
    read.check(split)
    if part not in PARTS:
        raise ConfigError(f"{name} has parts {', '.join(PARTS)}; got '{part}'")
    return SourceDataset(read, [entry for entry in read.entries() if read.part(entry, split) == part])


def folder(data_root: str | Path, name: str) -> str:
    """Where the dataset `name` lies in a folder of datasets: the variants of one share its files."""
    return f"{data_root}/{'shrec17' if name.startswith('shrec17_') else name}"


__all__ = ["DATASETS", "PARTS", "Clip", "ClipDataset", "Entry", "Source", "SourceDataset", "create", "folder", "source"]
