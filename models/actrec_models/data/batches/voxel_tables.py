"""Voxels and neighbor tables of batches of skeletons, as of single clips in `actrec.features.voxels`.

A joint u = m·V + v of frame t is row (m·T + t)·V + v + 1 of the tables. Equal voxels give equal tables, but a joint
within rounding of a border may get another voxel than in the reference. On a CPU the reference is faster.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from actrec.features import voxels
from actrec.features.skeleton import SkeletonPreprocessing
from actrec.features.specs import evenly_spaced
from actrec.features.voxels import MIN_EXTENT, POSITIONS, VoxelPreprocessing
from actrec_models.data.batches.normalization import constant, normalize


class Voxels(NamedTuple):
    """Joints as points, by frame."""

    places: Tensor  # (B, M, T, V, 3) float32 in [0, s], NaN if missing
    cells: Tensor  # (B, T, U, 3) int16 in [0, s), −1 if missing


def points(bodies: Tensor, options: VoxelPreprocessing, layout: str) -> Voxels:
    """Return the voxels of bodies (B, M, 3, T, V) m, of T evenly spaced frames and M bodies of the options."""
    chosen = constant(tuple(evenly_spaced(bodies.shape[3], options.frames).tolist()), bodies.device)
    bodies = bodies[:, :, :, chosen]
    present = bodies.isfinite().all(2, keepdim=True)
    if options.align == "yaw":
        bodies = normalize(bodies, SkeletonPreprocessing("none", "yaw", "none"), layout)
    low = torch.where(present, bodies, torch.inf).amin((1, 3, 4), keepdim=True)
    high = torch.where(present, bodies, -torch.inf).amax((1, 3, 4), keepdim=True)
    extent = (high - low).amax(2, keepdim=True).clamp(min=MIN_EXTENT.get(layout, 1e-3))
    scaled = ((bodies - (low + high) / 2) / extent + 0.5) * options.space
    places = torch.where(present, scaled, torch.nan).permute(0, 1, 3, 4, 2)  # (B, M, T, V, 3)
    return Voxels(places, cells(places, options.space))


def cells(places: Tensor, space: int) -> Tensor:
    """Return the voxels (B, T, U, 3) of scaled joints (B, M, T, V, 3); −1 if missing."""
    found = torch.where(places.isfinite().all(-1, keepdim=True), places.floor().clamp(0, space - 1), -1.0).short()
    return by_frame(found)


def by_frame(values: Tensor) -> Tensor:
    """Convert (B, M, T, V, …) to (B, T, M·V, …)."""
    return values.transpose(1, 2).flatten(2, 3)


def _by_body(values: Tensor, bodies: int) -> Tensor:
    """Convert (B, T, M·V, …) to (B, M, T, V, …)."""
    return values.unflatten(2, (bodies, -1)).transpose(1, 2).contiguous()


def _numbers(found: Tensor) -> Tensor:
    """Return the number (B, T, U) of each voxel (B, T, U, 3) on one level; −1 for none."""
    x, y, z = found.int().unbind(-1)
    return torch.where(x < 0, -1, (x * 1024 + y) * 1024 + z)


def _same(first: Tensor, second: Tensor) -> Tensor:
    """Return whether voxels (B, T, U) and (B, T, W) are equal, (B, T, U, W)."""
    return (first[..., :, None] == second[..., None, :]) & (first >= 0)[..., None]


def _owners(number: Tensor) -> Tensor:
    """Return the first joint (B, T, U) in each joint's voxel, −1 for no joint."""
    return torch.where(number >= 0, _same(number, number).byte().argmax(-1), -1)


def features(found: Voxels, options: VoxelPreprocessing) -> Tensor:
    """Return F of Eq. 8, (B, M, T, V, V), or with `positions` appended, (B, M, T, V, V + 7)."""
    bodies, joints = found.places.shape[1], found.places.shape[3]
    owner = _owners(_numbers(found.cells))  # (B, T, U)
    counted = owner >= 0
    if options.merge == "first":
        counted = owner == torch.arange(owner.shape[2], device=owner.device)
    shares = (
        (owner[..., None, :] == torch.arange(owner.shape[2], device=owner.device)[:, None]) & counted[..., None, :]
    ).float()
    one_hot = torch.eye(joints, device=owner.device).repeat(bodies, 1)  # (U, V)
    made = shares @ one_hot
    if options.positions:
        places = found.places
        frames = places.shape[2]
        when = ((torch.arange(frames, device=places.device) + 0.5)[:, None, None] / frames).expand(
            *places.shape[:-1], 1
        )
        own = _by_body(found.cells, bodies)
        where = by_frame(torch.cat([places - own, places / options.space, when], dim=-1) * 2 - 1)  # (B, T, U, 7)
        total = shares @ torch.where(counted[..., None], where, 0.0)
        assert total.shape[-1] == POSITIONS
        made = torch.cat([made, total / shares.sum(-1, keepdim=True).clamp(min=1)], dim=-1)
    return _by_body(made, bodies)


class LevelTables(NamedTuple):
    """Tables of one level of a batch, see `actrec.features.voxels.Tables`."""

    tiles: Tensor  # (B, Q, 1 + tile)
    sums: Tensor  # (B, P, J)
    times: Tensor  # (B, P, 2·D)
    cells: Tensor  # (B, P, 8)


def tables(found: Voxels, options: VoxelPreprocessing) -> list[LevelTables]:
    """Return the tables of all levels."""
    made = []
    for level, (tiles, addends) in enumerate(zip(options.tiles, options.addends, strict=True)):
        coarse = torch.where(found.cells < 0, -1, found.cells >> level)
        fine = torch.where(found.cells < 0, -1, found.cells >> max(level - 1, 0))
        made.append(_level(coarse, fine, found.places.shape[1], options, tiles, addends))
    return made


def _level(
    coarse: Tensor, fine: Tensor, bodies: int, options: VoxelPreprocessing, tiles: int, addends: int
) -> LevelTables:
    clips, frames, count, _ = coarse.shape
    joint = torch.arange(count, device=coarse.device)
    number = _numbers(coarse)
    owner = _owners(number)
    rows = by_frame(torch.arange(frames * count, device=coarse.device).reshape(1, bodies, frames, -1) + 1)[0]  # (T, U)
    times = _times(number, owner, rows, options)
    children = _children(owner, _owners(_numbers(fine)), rows)
    pairs = _pairs(coarse, owner == joint, options.kernel, options.temporal)
    tile, sums = _place(pairs, rows, clips, options, tiles, addends)
    return LevelTables(tile, sums, times, children)


@lru_cache(maxsize=16)
def _ranks(kernel: int, temporal: int, device: torch.device) -> tuple[Tensor, Tensor]:
    rank, order = voxels.ranks(kernel, temporal)
    return torch.from_numpy(rank).to(device), torch.from_numpy(order).to(device)


class NeighborPairs(NamedTuple):
    """Pairs (i, j) of neighboring points, (pairs) each."""

    clip: Tensor
    t: Tensor  # frame of i
    i: Tensor
    j: Tensor
    s: Tensor  # frame of j
    offset: Tensor  # index of the relative position in the kernel


def _pairs(coarse: Tensor, is_point: Tensor, kernel: int, temporal: int) -> NeighborPairs:
    frames, count = coarse.shape[1:3]
    low, high = -(kernel // 2), (kernel + 1) // 2 - 1
    parts = []
    for before in range(-(temporal // 2), (temporal + 1) // 2):
        first, last = max(before, 0), frames + min(before, 0)
        mine, theirs = coarse[:, first:last], coarse[:, first - before : last - before]
        apart = mine[:, :, :, None] - theirs[:, :, None]  # (B, T', U, U, 3), R(i) − R(j)
        near = ((apart >= low) & (apart <= high)).all(-1)
        near &= is_point[:, first:last, :, None] & is_point[:, first - before : last - before, None]
        if not before:
            near &= ~torch.eye(count, dtype=torch.bool, device=coarse.device)
        clip, t, i, j = near.nonzero(as_tuple=True)
        x, y, z = (apart[clip, t, i, j].long() - low).unbind(-1)
        offset = ((x * kernel + y) * kernel + z) * temporal + before + temporal // 2
        parts.append((clip, t + first, i, j, t + first - before, offset))
    return NeighborPairs(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _place(
    pairs: NeighborPairs, rows: Tensor, clips: int, options: VoxelPreprocessing, tile_count: int, addends: int
) -> tuple[Tensor, Tensor]:
    """Fill tiles (B, Q, 1 + tile) and sums (B, P, J), nearest pairs first, as `actrec.features.voxels._place`."""
    rank, order = _ranks(options.kernel, options.temporal, rows.device)
    ranks, point, size = len(rank), rows.numel(), options.tile
    clip, t, i = pairs.clip, pairs.t, pairs.i
    pair_rank, mine, theirs = rank[pairs.offset], rows[t, i] - 1, rows[pairs.s, pairs.j]
    # Number of each pair among the ones of its point, nearest first.
    by_point = ((clip * point + mine) * ranks + pair_rank).argsort()
    used = torch.empty_like(by_point)
    used[by_point] = _number_in_group((clip * point + mine)[by_point])
    kept = used < addends
    clip, t, i, mine, theirs, pair_rank, used = (each[kept] for each in (clip, t, i, mine, theirs, pair_rank, used))
    # Number of each pair among the ones of its relative position, in the order of frames and joints.
    frames, count = rows.shape
    by_rank = (((clip * ranks + pair_rank) * frames + t) * count + i).argsort()
    clip, mine, theirs, pair_rank, used = (each[by_rank] for each in (clip, mine, theirs, pair_rank, used))
    group = clip * ranks + pair_rank
    within = _number_in_group(group)
    counts = torch.zeros(clips * ranks, dtype=torch.int64, device=rows.device)
    counts.scatter_add_(0, group, torch.ones_like(group))
    needed = (counts.view(clips, ranks) + size - 1) // size
    first = needed.cumsum(1) - needed  # (B, ranks), first tile of each relative position
    tile = first.flatten()[group] + within // size
    kept = tile < tile_count
    clip, mine, theirs, pair_rank, used, tile, within = (
        each[kept] for each in (clip, mine, theirs, pair_rank, used, tile, within)
    )
    tiles = torch.zeros(clips, tile_count, 1 + size, device=rows.device)
    tiles[clip, tile, 0] = order[pair_rank].float()
    tiles[clip, tile, 1 + within % size] = theirs.float()
    sums = torch.zeros(clips, point, addends, device=rows.device)
    sums[clip, mine, used] = (tile * size + within % size + 1).float()
    return tiles, sums


def _number_in_group(group: Tensor) -> Tensor:
    """Return the number of each element within its run of equal values of a sorted tensor (N)."""
    index = torch.arange(len(group), device=group.device)
    starts = torch.ones_like(group, dtype=torch.bool)
    starts[1:] = group[1:] != group[:-1]
    return index - torch.where(starts, index, 0).cummax(0).values


def _times(number: Tensor, owner: Tensor, rows: Tensor, options: VoxelPreprocessing) -> Tensor:
    """Return the rows (B, P, 2·D) of the same voxel, or the same joint, in frames d earlier and later."""
    frames, count = rows.shape
    joint = torch.arange(count, device=rows.device)
    point = owner == joint
    made = []
    for dilation in options.dilations:
        for shift in (-dilation, dilation):
            column = torch.zeros_like(owner)  # (B, T, U)
            first, last = max(-shift, 0), frames - max(shift, 0)
            if first < last:
                here, there = slice(first, last), slice(first + shift, last + shift)
                if options.same == "joint":
                    target = owner[:, there].clamp(min=0)
                    found = owner[:, there] >= 0
                else:
                    same = _same(number[:, here], torch.where(point, number, -2)[:, there])
                    target, found = same.byte().argmax(-1), same.any(-1)
                row = rows[there].expand_as(target).gather(2, target)
                column[:, here] = torch.where(found & point[:, here], row, 0)
            made.append(column)
    return _by_row(torch.stack(made, dim=-1).float(), rows)


def _children(owner: Tensor, fine_owner: Tensor, rows: Tensor) -> Tensor:
    """Return the rows (B, P, 8) of the finer points in each point's voxel, padded with its own."""
    count = owner.shape[2]
    joint = torch.arange(count, device=owner.device)
    point = owner == joint
    inside = (owner[..., None, :] == joint[:, None]) & (fine_owner == joint)[..., None, :]  # (B, T, point, child)
    place = inside.cumsum(-1) - 1
    made = torch.where(point, rows, 0)[..., None].repeat(1, 1, 1, 8)  # (B, T, U, 8)
    clip, t, i, j = (inside & point[..., None]).nonzero(as_tuple=True)
    made[clip, t, i, place[clip, t, i, j]] = rows[t, j]
    return _by_row(made.float(), rows)


def _by_row(values: Tensor, rows: Tensor) -> Tensor:
    """Convert (B, T, U, K) to (B, P, K) in the order of rows."""
    made = torch.empty(len(values), rows.numel(), values.shape[-1], device=values.device)
    made[:, rows.flatten() - 1] = values.flatten(1, 2)
    return made
