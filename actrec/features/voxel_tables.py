"""Who is whose neighbour in a space of voxels: the tables that turn Eq. 9 and 10 of SEM-Net and SPA-Net into gathers.

Points are the joints of a clip, one slot each: slot (m·T + t)·V + v of body m, frame t, joint v. Rows of a table count
from 1, row 0 stands for "nothing" and reads as zeros. Joints in one voxel are one point (MinkowskiEngine's rule): the
first of them in the order of bodies and joints bears its features, the others are as absent.

The sparse convolution is a grouped matrix product. Pairs (i, j) of neighbours are sorted by their relative position
R(i) − R(j); those of one position fill tiles of B pairs, so that a tile shares one weight matrix.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from actrec.jit import kernel as compiled


class Tables(NamedTuple):
    """The neighbourhoods of one level, P = M·T·V slots.

    Attributes:
        tiles: [Q, 1 + B]: the index of the relative position in the kernel, then the rows of F_in that it multiplies.
        sums: [P, J]: the products that each point adds up, counted from 1 over the tiles' Q·B; 0 for none.
        times: [P, 2·D]: rows in the same voxel d frames earlier and later, for each dilation d; 0 for none.
        cells: [P, 8]: rows of the level below that lie in the point's voxel, the first repeated; all 0 for no point.
        pairs: Neighbouring pairs that were found.
        dropped: How many of them found no room, the farthest ones.
    """

    tiles: np.ndarray
    sums: np.ndarray
    times: np.ndarray
    cells: np.ndarray
    pairs: int
    dropped: int


@lru_cache(maxsize=16)
def offsets(kernel: int, temporal: int) -> np.ndarray:
    """The relative positions R(i) − R(j) = (x, y, z, t) of a kernel, [k³·k_t, 4] int64, in lexicographic order.

    An odd kernel is centred. Of an even one R(j) − R(i) runs from −(k/2 − 1) to k/2, as "same" convolutions have it.
    """
    space = np.arange(-(kernel // 2), (kernel + 1) // 2)
    time = np.arange(-(temporal // 2), (temporal + 1) // 2)
    return np.stack(np.meshgrid(space, space, space, time, indexing="ij"), axis=-1).reshape(-1, 4)


@lru_cache(maxsize=16)
def _ranks(kernel: int, temporal: int) -> tuple[np.ndarray, np.ndarray]:
    """(rank of each offset, offset of each rank), nearest first; the centre comes first and is no pair."""
    order = np.argsort((offsets(kernel, temporal) ** 2).sum(axis=1), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank, order


def build(
    coordinates: np.ndarray,
    level: int,
    kernel: int,
    temporal: int,
    dilations: tuple[int, ...],
    capacity: tuple[int, int, int],
) -> Tables:
    """The tables of one level.

    Args:
        coordinates: [M, T, V, 3] int32 voxels of level 0, −1 where there is no joint.
        level: Voxels of this level are 2^level wide.
        kernel, temporal: k in space and in time (1: within a frame).
        dilations: Of the temporal convolution.
        capacity: (Q, B, J). Pairs are placed nearest first; what does not fit is dropped and counted.
    """
    bodies, frames, joints, _ = coordinates.shape
    fine = by_frame(coordinates >> max(level - 1, 0))
    coarse = by_frame(coordinates >> level)
    owner = owners(coarse)
    rows = by_frame(np.arange(1, bodies * frames * joints + 1).reshape(bodies, frames, joints, 1))[..., 0]
    rank, order = _ranks(kernel, temporal)
    counts = np.zeros(len(order) + 1, np.int64)
    _scan(coarse, owner, rows, kernel, temporal, rank, counts, np.empty((0, 2), np.int32))
    starts = np.concatenate([[0], np.cumsum(counts[:-1])])
    pairs = np.empty((int(counts.sum()), 2), np.int32)
    _scan(coarse, owner, rows, kernel, temporal, rank, starts.copy(), pairs)
    tiles, sums, dropped = _place(pairs, starts, order, rows.size, *capacity)
    times = _same_voxel(coarse, owner, rows, np.asarray(dilations, np.int64))
    cells = _children(coarse, owner, fine, owners(fine), rows)
    return Tables(tiles, sums, times, cells, len(pairs), dropped)


def by_frame(values: np.ndarray) -> np.ndarray:
    """[M, T, V, …] to [T, M·V, …]."""
    _, frames, _, size = values.shape
    return np.ascontiguousarray(values.transpose(1, 0, 2, 3).reshape(frames, -1, size))


@compiled
def _same(a, b):  # type: ignore[no-untyped-def]
    return a[0] == b[0] and a[1] == b[1] and a[2] == b[2]


@compiled
def owners(cells):  # type: ignore[no-untyped-def]
    """[T, U]: the first joint in each joint's voxel, −1 where there is none."""
    frames, count, _ = cells.shape
    owner = np.full((frames, count), -1, np.int64)
    for t in range(frames):
        for u in range(count):
            if cells[t, u, 0] < 0:
                continue
            owner[t, u] = u
            for w in range(u):
                if owner[t, w] == w and _same(cells[t, w], cells[t, u]):
                    owner[t, u] = w
                    break
    return owner


@compiled
def _scan(cells, owner, rows, kernel, temporal, rank, place, pairs):  # type: ignore[no-untyped-def]
    """Goes through all pairs (i, j) in a kernel; `place[rank]` counts them, or says where in `pairs` they go."""
    frames, count, _ = cells.shape
    low, high = -(kernel // 2), (kernel + 1) // 2 - 1
    for t in range(frames):
        for before in range(-(temporal // 2), (temporal + 1) // 2):
            s = t - before  # R(i) − R(j) = before
            if s < 0 or s >= frames:
                continue
            for i in range(count):
                if owner[t, i] != i:
                    continue
                for j in range(count):
                    if owner[s, j] != j or (s == t and i == j):
                        continue
                    x = cells[t, i, 0] - cells[s, j, 0]
                    y = cells[t, i, 1] - cells[s, j, 1]
                    z = cells[t, i, 2] - cells[s, j, 2]
                    if min(x, y, z) < low or max(x, y, z) > high:
                        continue
                    o = (((x - low) * kernel + y - low) * kernel + z - low) * temporal + before + temporal // 2
                    if len(pairs):
                        pairs[place[rank[o]], 0] = rows[t, i]
                        pairs[place[rank[o]], 1] = rows[s, j]
                    place[rank[o]] += 1


@compiled
def _place(pairs, starts, order, points, tile_count, tile_size, addends):  # type: ignore[no-untyped-def]
    """Fills tiles and sums from pairs sorted by rank: (tiles [Q, 1 + B], sums [P, J], number of pairs left over)."""
    tiles = np.zeros((tile_count, 1 + tile_size), np.float32)
    sums = np.zeros((points, addends), np.float32)
    used = np.zeros(points, np.int64)
    placed, q = 0, -1
    for r in range(len(order)):
        b = tile_size
        for e in range(starts[r], starts[r + 1]):
            i, j = pairs[e, 0] - 1, pairs[e, 1]
            if used[i] == addends:
                continue
            if b == tile_size:
                if q + 1 == tile_count:
                    return tiles, sums, len(pairs) - placed
                q, b = q + 1, 0
                tiles[q, 0] = order[r]
            tiles[q, 1 + b] = j
            b += 1
            sums[i, used[i]] = q * tile_size + b
            used[i] += 1
            placed += 1
    return tiles, sums, len(pairs) - placed


@compiled
def _same_voxel(cells, owner, rows, dilations):  # type: ignore[no-untyped-def]
    frames, count, _ = cells.shape
    times = np.zeros((rows.size, 2 * len(dilations)), np.float32)
    for t in range(frames):
        for i in range(count):
            if owner[t, i] != i:
                continue
            for n in range(2 * len(dilations)):
                s = t + (2 * (n % 2) - 1) * dilations[n // 2]
                if s < 0 or s >= frames:
                    continue
                for j in range(count):
                    if owner[s, j] == j and _same(cells[s, j], cells[t, i]):
                        times[rows[t, i] - 1, n] = rows[s, j]
                        break
    return times


@compiled
def _children(cells, owner, fine, fine_owner, rows):  # type: ignore[no-untyped-def]
    """[P, 8]; on level 0, where `fine` is `cells`, a point's one child is itself."""
    frames, count, _ = cells.shape
    children = np.zeros((rows.size, 8), np.float32)
    for t in range(frames):
        for i in range(count):
            if owner[t, i] != i:
                continue
            n = 0
            for j in range(count):
                if fine_owner[t, j] == j and owner[t, j] == i:
                    children[rows[t, i] - 1, n] = rows[t, j]
                    n += 1
            children[rows[t, i] - 1, n:] = rows[t, i]
    return children
