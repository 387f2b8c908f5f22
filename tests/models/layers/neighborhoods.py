"""Voxels of joints and their neighborhoods, as SPA-Net sees them."""

import itertools

import numpy as np
import torch

from actrec.features import voxels
from actrec_models.layers.sparse import PaddedNeighborhood


def near(cells, kernel=3, temporal=1, level=0, dilations=(1,), batch=1):
    """The neighborhood of one level of voxels [M, T, V, 3], as the network sees it."""
    made = voxels.build(cells, level, kernel, temporal, dilations, (1500, 4, 60))
    assert made.dropped == 0
    tables = [torch.from_numpy(t).long().repeat(batch, 1, 1) for t in made[:4]]
    tiles, sums, times, children = tables
    return PaddedNeighborhood(
        points=sums.shape[1], size=4, pairs=6000, addends=60, kernel=tiles[:, :, 0], tiles=tiles[:, :, 1:].flatten(1),
        sums=sums.flatten(1), times=times.flatten(1), cells=children.flatten(1), present=children[:, :, 0] > 0,
    )  # fmt: skip


def distinct_cells(size, frames, joints, seed=0):
    """[1, T, V, 3]: joints of a frame in voxels of their own, one of them missing."""
    rng = np.random.default_rng(seed)
    places = np.array(list(itertools.product(range(size), repeat=3)))
    cells = np.stack([places[rng.permutation(len(places))[:joints]] for _ in range(frames)])[None].astype(np.int32)
    cells[0, 0, 1] = -1
    return cells
