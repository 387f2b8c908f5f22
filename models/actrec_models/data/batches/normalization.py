"""Normalized joints, bones and their motion of batches of skeletons, as of single clips in `actrec.features.skeleton`.

Joints are (B, M, 3, T, V): clips, bodies, coordinates, frames, joints.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from actrec.features.skeleton import (
    CANONICAL_LENGTHS,
    LEAST_HAND_M,
    LEAST_TORSO_M,
    LEAST_WIDTH_M,
    SHORTEST_BONE,
    USUAL_HAND_M,
    USUAL_TORSO_M,
    SkeletonPreprocessing,
)
from actrec.skeleton import layouts
from actrec.utils import gravity


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return values as a tensor that is copied to a device once: each copy waits for the device."""
    return torch.tensor(values, device=device)


class Tree(NamedTuple):
    """The joints of a layout as tensors."""

    parents: Tensor  # [V]
    mirror: Tensor  # [V]
    paths: Tensor  # [V, V] float64: 1 for each bone between the root and a joint
    bones: Tensor  # [V, V] float64: each bone from the joints; zero for the root
    lengths: Tensor  # [V] float32, of the canonical bones
    depth: int


@lru_cache(maxsize=16)
def tree(layout: str, device: torch.device) -> Tree:
    """Return the joints of a layout as tensors on a device."""
    joints = layouts.get(layout)
    parents = list(joints.parents)
    paths, depth = np.zeros((len(joints), len(joints))), 0
    for v in joints.outwards:
        if parents[v] != v:
            paths[v] = paths[parents[v]]
            paths[v, v] = 1
            depth = max(depth, int(paths[v].sum()))
    bones = np.eye(len(joints)) - np.eye(len(joints))[parents]
    names = [name.removesuffix("_left").removesuffix("_right") for name in joints.joints]
    lengths = [CANONICAL_LENGTHS.get(name, 0.0) for name in names]
    return Tree(
        torch.tensor(parents, device=device), torch.tensor(joints.mirror, device=device),
        torch.tensor(paths, device=device), torch.tensor(bones, device=device),
        torch.tensor(lengths, device=device), depth,
    )  # fmt: skip


def broadcast_clips(values: Tensor) -> Tensor:
    """Return the values (B) with the axes of joints (B, M, 3, T, V)."""
    return values[:, None, None, None, None]


def rotate(joints: Tensor, matrix: Tensor) -> Tensor:
    """Multiply matrices (B, 3, 3) by joints (B, M, 3, T, V)."""
    return torch.matmul(matrix[:, None], joints.flatten(3)).view_as(joints)


def rows_with(mask: Tensor) -> Tensor:
    """Return the samples in which anything of the mask (B, …) is set; on a GPU all, since a look would wait for it."""
    if mask.device.type == "cpu":
        return mask.flatten(1).any(1).nonzero()[:, 0]
    return torch.arange(len(mask), device=mask.device)


def nearest_known(known: Tensor, layout_tree: Tree) -> Tensor:
    """Return for each joint (…, V) itself if it is known, else its nearest known ancestor; the root for none."""
    joint = torch.arange(known.shape[-1], device=known.device)
    source = torch.where(known, joint, layout_tree.parents)
    for _ in range(max(layout_tree.depth - 1, 1).bit_length()):
        source = source.gather(-1, source)
    return source


def gather_joints(joints: Tensor, source: Tensor) -> Tensor:
    """Return joints (B, M, 3, T, V) in the order `source` (B, M, 1, T, V)."""
    return joints.gather(-1, source.expand_as(joints))


def normalize(bodies: Tensor, options: SkeletonPreprocessing, layout: str) -> Tensor:
    """Normalize clips (B, M, 3, T, V) float32 m, NaN for missing, as `actrec.features.skeleton.normalize`."""
    if options.pitch_deg:
        level = gravity.level_rotation(gravity.up_from_angles(0.0, options.pitch_deg)).astype(np.float32)
        turn = constant(tuple(level.T.flatten().tolist()), bodies.device).view(3, 3)
        bodies = rotate(bodies, turn.expand(len(bodies), 3, 3))
    body, index = bodies[:, 0], layouts.get(layout).index
    moved = bodies
    if options.center != "none":
        moved = moved - _center(body, index[options.center])[:, None, :, None, None]
    if options.align == "yaw":
        moved = rotate(moved, _facing_rotation(body, index))
    if options.scale == "torso":
        moved = moved / broadcast_clips(
            _length(body, index["spine_base"], index["spine_shoulder"], LEAST_TORSO_M, USUAL_TORSO_M)
        )
    elif options.scale == "hand":
        moved = moved / broadcast_clips(_length(body, index["wrist"], index["middle_base"], LEAST_HAND_M, USUAL_HAND_M))
    filled = fill_missing(moved, layout)
    return filled if options.lengths == "own" else _with_canonical_lengths(filled, layout)


def _mean(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (B, 3) of the valid ones of (B, 3, N), zero for none, and whether there are any (B, 1)."""
    known = ~values.isnan().any(1, keepdim=True)
    count = known.sum(2)
    return torch.where(known, values, 0.0).sum(2, dtype=torch.float64) / count.clamp(min=1), count > 0


def _center(body: Tensor, joint: int) -> Tensor:
    """Return the mean (B, 3) of a joint of (B, 3, T, V), or else of all joints, or else zero."""
    own, seen = _mean(body[..., joint])
    rows = rows_with(~seen)
    if len(rows):
        own = own.index_copy(0, rows, torch.where(seen[rows], own[rows], _mean(body[rows].flatten(2))[0]))
    return own.float()


def _facing_rotation(body: Tensor, index: dict[str, int]) -> Tensor:
    """Return the rotations (B, 3, 3) of `actrec.features.skeleton` that make the first body face the camera."""
    sides = [body[..., index[f"{part}_left"]] - body[..., index[f"{part}_right"]] for part in ("shoulder", "hip")]
    across = _mean(sides[0])[0] + _mean(sides[1])[0]
    x, z = across[:, 0], across[:, 2]
    length = torch.hypot(x, z)
    unclear = length < LEAST_WIDTH_M  # from the side or not visible
    safe = length.clamp(min=LEAST_WIDTH_M)
    c, s = torch.where(unclear, 1.0, x / safe), torch.where(unclear, 0.0, z / safe)
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    return torch.stack([c, zero, s, zero, one, zero, -s, zero, c], dim=1).view(-1, 3, 3).float()


def _length(body: Tensor, start: int, end: int, shortest: float, usual: float) -> Tensor:
    """Return the median distances (B) of two joints of (B, 3, T, V) above `shortest`; `usual` if there is none."""
    length = (body[..., end] - body[..., start]).norm(dim=1)  # (B, T)
    valid = length > shortest  # not for NaN
    count = valid.sum(1, keepdim=True)
    ordered = torch.where(valid, length, torch.inf).sort(dim=1).values
    low, high = ((count - 1) // 2).clamp(min=0), (count // 2).clamp(max=length.shape[1] - 1)
    median = (ordered.gather(1, low) + ordered.gather(1, high)) / 2
    return torch.where(count > 0, median, usual)[:, 0]


def fill_missing(bodies: Tensor, layout: str) -> Tensor:
    """Move each missing joint of (B, M, 3, T, V) to its parent (a zero bone) and a missing root to the origin."""
    lost = bodies.isnan().any(2, keepdim=True)
    rows = rows_with(lost)
    if not len(rows):
        return bodies
    missing = lost[rows]
    source = nearest_known(~missing, tree(layout, bodies.device))
    return bodies.index_copy(0, rows, gather_joints(torch.where(missing, 0.0, bodies[rows]), source))


def _with_canonical_lengths(bodies: Tensor, layout: str) -> Tensor:
    layout_tree = tree(layout, bodies.device)
    vectors = bodies - bodies[..., layout_tree.parents]
    own = vectors.norm(dim=2, keepdim=True)
    vectors = vectors * torch.where(own > SHORTEST_BONE, layout_tree.lengths / own.clamp(min=SHORTEST_BONE), 1.0)
    return torch.matmul(vectors, layout_tree.paths.float().T) + bodies[..., :1]


def stack(joints: Tensor, modality: str, layout: str, root_bone: str) -> Tensor:
    """Return the input (B, M, 3, T, V) for normalized joints, as `actrec.features.skeleton.stack`."""
    values = joints
    if modality.startswith("bones"):
        values = joints - joints[..., tree(layout, joints.device).parents]
        if root_bone == "origin":
            values[..., :1] = joints[..., :1]
    if modality.endswith("_motion"):
        values = torch.cat([torch.zeros_like(values[:, :, :, :1]), values[:, :, :, 1:] - values[:, :, :, :-1]], dim=3)
    return values.contiguous()
