"""Training data: datasets by name, the rendered dataset, samples, augmentation, samplers and preparation."""

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
    create_unknown,
    folder,
    is_store,
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
    "create_unknown",
    "folder",
    "is_store",
    "source",
]

DATASETS.add("rendered", "actrec_models.data.rendered:RenderedRgbd")
