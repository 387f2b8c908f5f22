"""Clips as training samples: datasets by name, augmentation, samplers, preparation, rendered clips."""

from actrec.datasets import (
    DATASETS,
    PARTS,
    Clip,
    ClipDataset,
    Entry,
    PreparedDataset,
    Source,
    SourceDataset,
    create,
    folder,
    is_store,
    others,
    source,
)

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
