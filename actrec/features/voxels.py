"""Joints as points in a space of voxels (SEM-Net and SPA-Net, Shi et al., Eq. 8), the inputs of SPA-Net."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from actrec.config import setting
from actrec.errors import ConfigError, InputError
from actrec.features import voxel_tables
from actrec.features.base import Clip, Feature, absent
from actrec.features.skeleton import SkeletonPreprocessing, normalise
from actrec.features.voxel_tables import Tables
from actrec.package import InputSpec
from actrec.skeleton import layouts

MIN_EXTENT = {"kinect_v2_25": 1.5, "hand_22": 0.15}
"""Metres that the space spans at least: a clip of a few joints that stand still is not blown up to fill it."""


@dataclass(frozen=True)
class VoxelPreprocessing:
    """The space and the neighbourhoods in it. The inputs of one network share these."""

    bodies: int = setting(2, "M, bodies that share the space", range=(1, 8))
    frames: int = setting(64, "T, frames of a clip", range=(1, 1000))
    space: int = setting(64, "s, voxels along each side of the space", range=(8, 256))
    kernel: int = setting(5, "k, voxels along each side of the convolution", range=(1, 9))
    temporal: int = setting(1, "frames that the convolution spans; 1 for within a frame (3D)", range=(1, 9))
    dilations: tuple[int, ...] = setting((1, 3, 5, 7), "of the temporal convolution, frames")
    align: str = setting("yaw", "turn about the vertical until the person faces the camera", choices=("yaw", "none"))
    merge: str = setting(
        "sum",
        "features of joints in one voxel: the sum, as Eq. 9 adds them up, or the first's",
        choices=("sum", "first"),
    )
    positions: bool = setting(False, "beside the one-hot joints, where and when each point is (`positions`)")
    tile: int = setting(16, "B, pairs of a tile", range=(1, 256))
    tiles: tuple[int, ...] = setting((312, 812, 1112, 1362), "Q, tiles that each level has room for")
    addends: tuple[int, ...] = setting((12, 24, 28, 32), "J, neighbours of a point that each level has room for")


POSITIONS = 7
"""Channels of `positions`."""


def scaled(bodies: np.ndarray, options: VoxelPreprocessing, layout: str) -> np.ndarray:
    """Joints in units of voxels, before they are floored.

    One cube a clip: centred on the box around all joints that are present, as wide as the box's longest side (at least
    `MIN_EXTENT`), so that shapes keep their proportions.

    Args:
        bodies: [M, T, V, 3] metres in the optical frame, NaN for missing.
        options: Space size and alignment.
        layout: Layout of V.

    Returns:
        [M, T, V, 3] float32 in [0, s], NaN for a missing joint.

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
    """The matrix R of Eq. 8 without its t, which is the second axis.

    Args:
        places: [M, T, V, 3] as `scaled` makes them.
        space: s.

    Returns:
        [M, T, V, 3] int32 in [0, s); −1 for a missing joint.
    """
    present = np.isfinite(places).all(axis=-1)
    voxels = np.full(places.shape, -1, np.int32)
    voxels[present] = np.clip(np.floor(places[present]), 0, space - 1)
    return voxels


def _aligned(bodies: np.ndarray, options: VoxelPreprocessing, layout: str) -> np.ndarray:
    if options.align == "none":
        return bodies.astype(np.float32)
    if not {"shoulder_left", "shoulder_right", "hip_left", "hip_right"} <= set(layouts.get(layout).joints):
        raise ConfigError(f"layout '{layout}' has no shoulders and hips to face by: set align to none")
    return normalise(bodies, SkeletonPreprocessing("none", "yaw", "none"), layout)


def features(voxels: np.ndarray, merge: str) -> np.ndarray:
    """The matrix F of Eq. 8: one-hot joints, [M, T, V, V] float32.

    Args:
        voxels: [M, T, V, 3] as `coordinates` makes them.
        merge: "sum" or "first": of joints that share a voxel, the first bears the sum of all, or its own alone.
    """
    bodies, frames, joints, _ = voxels.shape
    owner = voxel_tables.owners(voxel_tables.by_frame(voxels))  # [T, U]
    made = np.zeros((frames, bodies * joints, joints), np.float32)
    t, u = np.nonzero(owner >= 0 if merge == "sum" else owner == np.arange(bodies * joints))
    np.add.at(made, (t, owner[t, u], u % joints), 1.0)
    return np.ascontiguousarray(made.reshape(frames, bodies, joints, joints).transpose(1, 0, 2, 3))  # (M, T, V, V)


def positions(places: np.ndarray, space: int, merge: str) -> np.ndarray:
    """Where each point of Eq. 8 is, for what flooring takes away; not in the paper.

    Args:
        places: [M, T, V, 3] as `scaled` makes them.
        space: s.
        merge: As in `features`: the mean of the joints that share a voxel, or the first's.

    Returns:
        [M, T, V, 7] float32, −1 to 1: place in the voxel, place in the space, time; zeros where there is no point.
    """
    bodies, frames, joints, _ = places.shape
    voxels = coordinates(places, space)
    when = np.broadcast_to((np.arange(frames, dtype=np.float32) + 0.5)[:, None, None] / frames, (*places.shape[:3], 1))
    where = np.concatenate([places - voxels, places / space, when], axis=-1) * 2 - 1
    where = voxel_tables.by_frame(where.astype(np.float32))  # [T, U, 7]
    owner = voxel_tables.owners(voxel_tables.by_frame(voxels))  # [T, U]
    made = np.zeros((frames, bodies * joints, POSITIONS), np.float32)
    sharing = np.zeros((frames, bodies * joints, 1), np.float32)
    t, u = np.nonzero(owner >= 0 if merge == "sum" else owner == np.arange(bodies * joints))
    np.add.at(made, (t, owner[t, u]), where[t, u])
    np.add.at(sharing, (t, owner[t, u]), 1.0)
    made /= np.maximum(sharing, 1.0)
    return np.ascontiguousarray(made.reshape(frames, bodies, joints, POSITIONS).transpose(1, 0, 2, 3))  # (M, T, V, 7)


class VoxelFeatures(Feature):
    """F of Eq. 8, (M, T, V, V), or with `positions` beside it, (M, T, V, V + 7)."""

    config_class = VoxelPreprocessing
    streams: ClassVar = {"bodies": True}
    part_of: ClassVar = "voxels"

    def make(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        """From "bodies"; fewer than M are padded as absent."""
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
            memo[key] = scaled(_bodies(clip, spec, options), options, spec.layout)
        places: np.ndarray = memo[key]
        return places

    @staticmethod
    def _checked(made: np.ndarray, spec: InputSpec) -> np.ndarray:
        if made.shape != tuple(spec.shape):
            raise InputError(
                f"input '{spec.name}' has shape {list(spec.shape)}, but its preprocessing makes {list(made.shape)}"
            )
        return made


class VoxelTable(VoxelFeatures):
    """One of the `Tables`, all levels of it; the base of the features below."""

    table: ClassVar[str]
    join: ClassVar[Callable[..., np.ndarray]] = staticmethod(np.stack)

    def make(self, clip: Clip, spec: InputSpec, memo: dict[Any, Any]) -> np.ndarray:
        """From "bodies"; made once a clip for all tables."""
        key = ("voxel tables", spec.layout, repr(sorted(spec.preprocessing.items())))
        if key not in memo:
            options = self.options(spec)
            memo[key] = tables(coordinates(self._places(clip, spec, memo), options.space), options)
        return self._checked(self.join([getattr(level, self.table) for level in memo[key]]), spec)


class VoxelNeighbours(VoxelTable):
    """Pairs of neighbours in tiles of one relative position, the levels one after the other: (ΣQ, 1 + B)."""

    table = "tiles"
    join = staticmethod(np.concatenate)


class VoxelSums(VoxelTable):
    """The products that each point adds up in Eq. 9, the levels side by side: (P, ΣJ)."""

    table = "sums"
    join = staticmethod(np.hstack)


class VoxelTimes(VoxelTable):
    """The points in the same voxel at other times, (L, P, 2·D)."""

    table = "times"


class VoxelCells(VoxelTable):
    """The points of the level below that Eq. 10 pools, (L, P, 8); on level 0 the point itself."""

    table = "cells"


def tables(voxels: np.ndarray, options: VoxelPreprocessing) -> list[Tables]:
    """The neighbourhoods of every level of a clip's voxels [M, T, V, 3]."""
    room = [(q, options.tile, j) for q, j in zip(options.tiles, options.addends, strict=True)]
    return [
        voxel_tables.build(voxels, level, options.kernel, options.temporal, tuple(options.dilations), capacity)
        for level, capacity in enumerate(room)
    ]


def _bodies(clip: Clip, spec: InputSpec, options: VoxelPreprocessing) -> np.ndarray:
    """[M, T, V, 3] of the spec's size: T frames evenly spaced over the clip's; fewer bodies are padded as absent."""
    if "bodies" not in clip:
        raise absent(spec, "bodies", clip)
    bodies = np.asarray(clip["bodies"], dtype=np.float32)
    count, frames, joints = options.bodies, options.frames, len(layouts.get(spec.layout))
    if bodies.ndim != 4 or bodies.shape[2:] != (joints, 3) or bodies.shape[1] < frames or bodies.shape[0] > count:
        raise InputError(
            f"bodies are {list(bodies.shape)} [M, T, V, 3] but input '{spec.name}' takes up to {count} bodies of "
            f"at least {frames} frames × {joints} joints ({spec.layout})"
        )
    # The last frame is always among them, as in `actrec.windows.sample_stamps`.
    bodies = bodies[:, np.round(np.arange(1, frames + 1) * bodies.shape[1] / frames).astype(int) - 1]
    padding = np.full((count - len(bodies), *bodies.shape[1:]), np.nan, dtype=np.float32)
    return np.concatenate([bodies, padding])
