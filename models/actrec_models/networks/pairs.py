"""Which points of a batch are neighbours, pair by pair, in the order in which sparse convolution takes them."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from actrec import jit
from actrec_models.networks.sparse import Neighbourhood


class Pairs(NamedTuple):
    """Who is whose neighbour: sorted by share of the clips, then by relative position, then by point i.

    Attributes:
        source, target: (pairs) int64, points j and i.
        ends: (shares, positions) int64, on the CPU: where each position's pairs end. Shares have no point in common,
            so that threads can take one each.
    """

    source: Tensor
    target: Tensor
    ends: Tensor


def sorted_pairs(near: Neighbourhood, number: Tensor, positions: int) -> Pairs:
    """The pairs of a level.

    Args:
        near: Its padded tables.
        number: (N, P) int64, the number of each slot's point in the batch.
        positions: Relative positions of the kernel.
    """
    if number.device.type != "cpu":
        return pairs_on_device(near, number, positions)
    clips = len(number)
    shares = max(1, min(torch.get_num_threads(), clips))
    counts = np.zeros((shares, positions), np.int64)
    share = np.arange(clips) * shares // clips
    sums, kernel, tiles = (table.reshape(clips, -1).numpy() for table in (near.sums, near.kernel, near.tiles))
    _count(sums, kernel, near.size, share, counts)
    ends = np.cumsum(counts).reshape(counts.shape)
    source, target = np.empty((2, int(counts.sum())), np.int64)
    _fill(sums, kernel, tiles, near.size, near.addends, number.numpy(), share, ends - counts, source, target)
    return Pairs(torch.from_numpy(source), torch.from_numpy(target), torch.from_numpy(ends))


def pairs_on_device(near: Neighbourhood, number: Tensor, positions: int) -> Pairs:
    """`sorted_pairs` in one share, on any device."""
    sums = near.sums.reshape(-1, near.addends)  # (N·P, J)
    target, slot = sums.nonzero(as_tuple=True)
    clip, pair = target // near.points, sums[target, slot] - 1
    kernel = near.kernel[clip, pair // near.size]
    order = torch.argsort(kernel, stable=True)
    clip, pair = clip[order], pair[order]
    source = number[clip, near.tiles[clip, pair] - 1]
    ends = torch.bincount(kernel, minlength=positions).cumsum(0).unsqueeze(0)
    return Pairs(source, number.flatten()[target[order]], ends.cpu())


@jit.kernel
def _count(sums: np.ndarray, kernel: np.ndarray, size: int, share: np.ndarray, counts: np.ndarray) -> None:
    """Adds each group's pairs to counts [shares, positions]."""
    for clip in range(len(sums)):
        for pair in sums[clip]:
            if pair > 0:
                counts[share[clip], kernel[clip, (pair - 1) // size]] += 1


@jit.kernel
def _fill(
    sums: np.ndarray,
    kernel: np.ndarray,
    tiles: np.ndarray,
    size: int,
    addends: int,
    number: np.ndarray,
    share: np.ndarray,
    following: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
) -> None:
    """Writes each group's pairs from `following` [shares, positions] on."""
    for clip in range(len(sums)):
        for slot, pair in enumerate(sums[clip]):
            if pair > 0:
                position = kernel[clip, (pair - 1) // size]
                place = following[share[clip], position]
                source[place] = number[clip, tiles[clip, pair - 1] - 1]
                target[place] = number[clip, slot // addends]
                following[share[clip], position] = place + 1
