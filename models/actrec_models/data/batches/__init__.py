"""Augmentation and features of whole batches of skeletons in PyTorch, on the device that trains.

`BatchSamples` reads clips and draws the random numbers, in the same order as `Samples`; `BatchFeatures` does the rest
for a batch: resampling, augmentation, normalization, bones, motion, voxel tables, joint maps. Both together give the
inputs of `Samples` for the same seed and draws to 1e-5. `Samples` is the reference, which evaluation uses; the live
features share its code.
"""

from actrec_models.data.batches.collation import BatchSamples, collate
from actrec_models.data.batches.features import BatchFeatures, has_voxels, uncovered

__all__ = ["BatchFeatures", "BatchSamples", "collate", "has_voxels", "uncovered"]
