"""Joints as points in a voxel grid (SEM-Net and SPA-Net, Shi et al., Eq. 8), with neighbor tables for Eqs. 9 and 10.

Points are the joints of a clip, one slot each: slot (m·T + t)·V + v of body m, frame t, joint v. Table rows count from
1; row 0 is empty and reads as zeros. Joints in one voxel are one point, as in MinkowskiEngine: the first of them in the
order of bodies and joints has the features, the others are absent.

The sparse convolution is a grouped matrix product. Pairs (i, j) of neighbors are sorted by their relative position
R(i) − R(j); pairs of one position fill tiles of B pairs, and a tile shares one weight matrix.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from actrec.features.skeleton import SkeletonPreprocessing, normalize
from actrec.features.specs import Feature, InputSpec, evenly_spaced, pad_bodies, required_joints
from actrec.skeleton import layouts
from actrec.types import Clip
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError, InputError
from actrec.utils.jit import kernel as compiled


class Tables(NamedTuple):
    """Neighborhoods of one level, P = M·T·V slots."""

    tiles: np.ndarray  # [Q, 1 + B]: index of the relative position in the kernel, then the rows of F_in to multiply
    sums: np.ndarray  # [P, J]: products to sum for each point, counted from 1 over the tiles' Q·B; 0 for none
    times: np.ndarray  # [P, 2·D]: rows d frames earlier and later, for each dilation d (`build`); 0 for none
    cells: np.ndarray  # [P, 8]: rows of the finer level in the point's voxel, padded by repetition; all 0 for no point
    pairs: int  # number of neighboring pairs
    dropped: int  # number of pairs beyond the capacity; the farthest are dropped


@lru_cache(maxsize=16)
def offsets(kernel: int, temporal: int) -> np.ndarray:
    """Return the relative positions R(i) − R(j) = (x, y, z, t) of a kernel, [k³·k_t, 4] int64, lexicographic.

    An odd kernel is centered. For an even one R(j) − R(i) runs from −(k/2 − 1) to k/2, as in "same" convolutions.
    """
    space = np.arange(-(kernel // 2), (kernel + 1) // 2)
    time = np.arange(-(temporal // 2), (temporal + 1) // 2)
    return np.stack(np.meshgrid(space, space, space, time, indexing="ij"), axis=-1).reshape(-1, 4)


@lru_cache(maxsize=16)
def ranks(kernel: int, temporal: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rank of each offset and the offset of each rank, nearest first; the center is first and no pair."""
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
    same: str = "voxel",
) -> Tables:
    """Build the tables of one level, whose voxels are 2^level wide.

    Args:
        coordinates: [M, T, V, 3] int32 voxels of level 0, −1 for no joint.
        level: The level.
        kernel, temporal: k in space and in time (1: within a frame).
        dilations: Of the temporal convolution.
        capacity: (Q, B, J). Pairs are placed nearest first; pairs beyond the capacity are dropped and counted.
        same: Points of other frames in `times`: the one in the same "voxel", or the one that holds the same "joint" (of
            a point of several joints, the first).
    """
    bodies, frames, joints, _ = coordinates.shape
    fine = by_frame(coordinates >> max(level - 1, 0))
    coarse = by_frame(coordinates >> level)
    owner = owners(coarse)
    rows = by_frame(np.arange(1, bodies * frames * joints + 1).reshape(bodies, frames, joints, 1))[..., 0]
    rank, order = ranks(kernel, temporal)
    counts = np.zeros(len(order) + 1, np.int64)
    _scan(coarse, owner, rows, kernel, temporal, rank, counts, np.empty((0, 2), np.int32))
    starts = np.concatenate([[0], np.cumsum(counts[:-1])])
    pairs = np.empty((int(counts.sum()), 2), np.int32)
    _scan(coarse, owner, rows, kernel, temporal, rank, starts.copy(), pairs)
    tiles, sums, dropped = _place(pairs, starts, order, rows.size, *capacity)
    steps = np.asarray(dilations, np.int64)
    times = _same_joint(owner, rows, steps) if same == "joint" else _same_voxel(coarse, owner, rows, steps)
    cells = _children(coarse, owner, fine, owners(fine), rows)
    return Tables(tiles, sums, times, cells, len(pairs), dropped)


def by_frame(values: np.ndarray) -> np.ndarray:
    """Convert [M, T, V, …] to [T, M·V, …]."""
    _, frames, _, size = values.shape
    return np.ascontiguousarray(values.transpose(1, 0, 2, 3).reshape(frames, -1, size))


@compiled
def _same(a, b):  # type: ignore[no-untyped-def]
    return a[0] == b[0] and a[1] == b[1] and a[2] == b[2]


@compiled
def owners(cells):  # type: ignore[no-untyped-def]
    """Return the first joint in each joint's voxel [T, U], −1 for no joint."""
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
    """Iterate over all pairs (i, j) in a kernel; `place[rank]` counts them, or is their position in `pairs`."""
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
    """Fill tiles [Q, 1 + B] and sums [P, J] from pairs sorted by rank; return them and the number of dropped pairs."""
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


def _same_joint(owner: np.ndarray, rows: np.ndarray, dilations: np.ndarray) -> np.ndarray:
    frames, count = owner.shape
    joints = np.arange(count)
    times = np.zeros((rows.size, 2 * len(dilations)), np.float32)
    for n in range(2 * len(dilations)):
        for t in range(frames):
            s = t + (2 * (n % 2) - 1) * dilations[n // 2]
            if 0 <= s < frames:
                known = (owner[t] == joints) & (owner[s] >= 0)
                times[rows[t, known] - 1, n] = rows[s, owner[s, known]]
    return times


@compiled
def _children(cells, owner, fine, fine_owner, rows):  # type: ignore[no-untyped-def]
    """Return the children [P, 8]; on level 0, `fine` is `cells` and each point is its own child."""
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


MIN_EXTENT = {"kinect_v2_25": 1.5, "hand_22": 0.15}
"""Minimum extent of the space (m), so that a few still joints are not scaled up to fill it."""


@dataclass(frozen=True)
class VoxelPreprocessing:
    """Voxel grid and neighborhoods, common to all inputs of a network."""

    bodies: int = setting(2, "M, bodies that share the space", range=(1, 8))
    frames: int = setting(64, "T, frames of a clip", range=(1, 1000))
    space: int = setting(64, "s, voxels along each side of the space", range=(8, 256))
    kernel: int = setting(5, "k, voxels along each side of the convolution", range=(1, 9))
    temporal: int = setting(1, "frames spanned by the convolution; 1 for a single frame (3D)", range=(1, 9))
    dilations: tuple[int, ...] = setting((1, 3, 5, 7), "dilations of the temporal convolution, frames")
    same: str = setting(
        "voxel", "the temporal convolution follows the same voxel or the same joint", choices=("voxel", "joint")
    )
    align: str = setting("yaw", "rotate about the vertical to face the camera", choices=("yaw", "none"))
    merge: str = setting(
        "sum",
        "features of joints in one voxel: their sum (Eq. 9), or the first joint's",
        choices=("sum", "first"),
    )
    positions: bool = setting(False, "append position and time of each point to the one-hot joints (`positions`)")
    tile: int = setting(16, "B, pairs of a tile", range=(1, 256))
    tiles: tuple[int, ...] = setting((312, 812, 1112, 1362), "Q, capacity in tiles of each level")
    addends: tuple[int, ...] = setting((12, 24, 28, 32), "J, maximum neighbors of a point of each level")


POSITIONS = 7
"""Channels of `positions`."""


def scaled(bodies: np.ndarray, options: VoxelPreprocessing, layout: str) -> np.ndarray:
    """Scale joints [M, T, V, 3] m in the optical frame to units of voxels, without rounding; NaN stays.

    The space of a clip is a cube around the bounding box of all valid joints, as wide as its longest side (at least
    `MIN_EXTENT`), which keeps proportions.

    Returns:
        [M, T, V, 3] float32 in [0, s].

    Raises:
        ConfigError: `align` is "yaw" but the layout has no shoulders and hips.
    """
    present = np.isfinite(bodies).all(axis=-1)
    made = np.full(bodies.shape, np.nan, np.float32)
    if not present.any():
        return made
    points = _aligned(bodies, options, layout)[present]  # (points, 3)
    low, high = points.min(axis=0), points.max(axis=0)
    extent = max(float((high - low).max()), MIN_EXTENT.get(layout, 1e-3))
    made[present] = ((points - (low + high) / 2) / extent + 0.5) * options.space
    return made


def coordinates(places: np.ndarray, space: int) -> np.ndarray:
    """Return the matrix R of Eq. 8 without t: [M, T, V, 3] int32 in [0, s) of `scaled` joints; −1 if missing."""
    present = np.isfinite(places).all(axis=-1)
    voxels = np.full(places.shape, -1, np.int32)
    voxels[present] = np.clip(np.floor(places[present]), 0, space - 1)
    return voxels


def _aligned(bodies: np.ndarray, options: VoxelPreprocessing, layout: str) -> np.ndarray:
    if options.align == "none":
        return bodies.astype(np.float32)
    if not {"shoulder_left", "shoulder_right", "hip_left", "hip_right"} <= set(layouts.get(layout).joints):
        raise ConfigError(f"layout '{layout}' has no shoulders and hips: set align to none")
    return normalize(bodies, SkeletonPreprocessing("none", "yaw", "none"), layout)


def _merged(voxels: np.ndarray, merge: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return frame, joint u = m·V + v, and the joint that has its features, of each joint that counts."""
    owner = owners(by_frame(voxels))  # [T, U]
    t, u = np.nonzero(owner >= 0 if merge == "sum" else owner == np.arange(owner.shape[1]))
    return t, u, owner[t, u]


def features(voxels: np.ndarray, merge: str) -> np.ndarray:
    """Return the matrix F of Eq. 8: one-hot joints, [M, T, V, V] float32, of voxels from `coordinates`.

    With `merge` "sum" the first joint of a voxel gets the sum of all joints in it, with "first" only its own feature.
    """
    bodies, frames, joints, _ = voxels.shape
    t, u, owner = _merged(voxels, merge)
    made = np.zeros((frames, bodies * joints, joints), np.float32)
    np.add.at(made, (t, owner, u % joints), 1.0)
    return np.ascontiguousarray(made.reshape(frames, bodies, joints, joints).transpose(1, 0, 2, 3))  # (M, T, V, V)


def positions(places: np.ndarray, space: int, merge: str) -> np.ndarray:
    """Return the exact position of each point of Eq. 8, which rounding removes; not in the paper.

    With `merge` "sum" a point is at the mean of the joints in its voxel, with "first" at the first one.

    Returns:
        [M, T, V, 7] float32, −1 to 1: position in the voxel, position in the space, time; zeros for no point.
    """
    bodies, frames, joints, _ = places.shape
    voxels = coordinates(places, space)
    when = np.broadcast_to((np.arange(frames, dtype=np.float32) + 0.5)[:, None, None] / frames, (*places.shape[:3], 1))
    where = np.concatenate([places - voxels, places / space, when], axis=-1) * 2 - 1
    where = by_frame(where.astype(np.float32))  # [T, U, 7]
    t, u, owner = _merged(voxels, merge)
    made = np.zeros((frames, bodies * joints, POSITIONS), np.float32)
    sharing = np.zeros((frames, bodies * joints, 1), np.float32)
    np.add.at(made, (t, owner), where[t, u])
    np.add.at(sharing, (t, owner), 1.0)
    made /= np.maximum(sharing, 1.0)
    return np.ascontiguousarray(made.reshape(frames, bodies, joints, POSITIONS).transpose(1, 0, 2, 3))  # (M, T, V, 7)


class VoxelFeatures(Feature):
    """F of Eq. 8, (M, T, V, V), or with `positions` appended, (M, T, V, V + 7)."""

    config_class = VoxelPreprocessing
    streams: ClassVar = {"bodies": True}
    part_of: ClassVar = "voxels"

    def make(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        """Compute the input from "bodies"; fewer than M are padded as absent."""
        options = self.options(spec)
        places = self._places(clip, spec, memo)
        made = features(coordinates(places, options.space), options.merge)
        if options.positions:
            made = np.concatenate([made, positions(places, options.space, options.merge)], axis=-1)
        return self._checked(made, spec)

    def _places(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        key = ("voxels", spec.layout, repr(sorted(spec.preprocessing.items())))
        if key not in memo:
            options = self.options(spec)
            bodies = required_joints(clip, "bodies", spec, options.bodies, least=options.frames)
            bodies = bodies[:, evenly_spaced(bodies.shape[1], options.frames)]
            memo[key] = scaled(pad_bodies(bodies, options.bodies), options, spec.layout)
        return memo[key]

    @staticmethod
    def _checked(made: np.ndarray, spec: InputSpec) -> np.ndarray:
        if made.shape != tuple(spec.shape):
            raise InputError(
                f"input '{spec.name}' has shape {list(spec.shape)}, but its preprocessing makes {list(made.shape)}"
            )
        return made


TABLES: dict[str, tuple[str, Callable[..., np.ndarray]]] = {
    "voxel_neighbors": ("tiles", np.concatenate),  # pairs of neighbors in tiles of one relative position, (ΣQ, 1 + B)
    "voxel_sums": ("sums", np.hstack),  # products that each point sums in Eq. 9, (P, ΣJ)
    "voxel_times": ("times", np.stack),  # points of the same voxel or joint at other times, (L, P, 2·D)
    "voxel_cells": ("cells", np.stack),  # points of the finer level that Eq. 10 pools, itself on level 0, (L, P, 8)
}
"""Field of `Tables` of each modality, and how the levels are joined."""


class VoxelTable(VoxelFeatures):
    """One table of all levels, see `TABLES`."""

    def make(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        """Compute the table from "bodies", once per clip for all tables."""
        key = ("voxel tables", spec.layout, repr(sorted(spec.preprocessing.items())))
        if key not in memo:
            options = self.options(spec)
            memo[key] = tables(coordinates(self._places(clip, spec, memo), options.space), options)
        table, join = TABLES[spec.modality]
        return self._checked(join([getattr(level, table) for level in memo[key]]), spec)


def tables(voxels: np.ndarray, options: VoxelPreprocessing) -> list[Tables]:
    """Build the tables of all levels for a clip's voxels [M, T, V, 3]."""
    room = [(q, options.tile, j) for q, j in zip(options.tiles, options.addends, strict=True)]
    return [
        build(voxels, level, options.kernel, options.temporal, tuple(options.dilations), capacity, options.same)
        for level, capacity in enumerate(room)
    ]
