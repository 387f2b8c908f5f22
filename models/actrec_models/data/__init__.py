"""Training data: datasets by name with the rendered ones, samples, augmentation, samplers and preparation."""

from actrec.datasets import DATASETS, create, create_unknown, folder

__all__ = ["DATASETS", "create", "create_unknown", "folder"]

DATASETS.add("rendered", "actrec_models.data.rendered:RenderedRgbd")
DATASETS.add("rendered_everyday", "actrec_models.data.rendered_skeletons:RenderedEveryday")
