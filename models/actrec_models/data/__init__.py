"""Datasets, found by name, read from their own published files."""

from typing import Any

from actrec.registry import Registry
from actrec_models.data.clips import Clip, ClipDataset

DATASETS = Registry(
    "dataset",
    {
        "nucla": "actrec_models.data.nucla:load",
        "utd_mhad": "actrec_models.data.utd_mhad:load",
    },
)


def create(name: str, root: str, **options: Any) -> ClipDataset:
    """The dataset `name` read from folder `root`; `split` and `part` are among the options.

    Raises:
        ConfigError: Unknown name, split or part.
        DeviceError: The files are not there.
    """
    return DATASETS.create(name, root=root, **options)


__all__ = ["DATASETS", "Clip", "ClipDataset", "create"]
