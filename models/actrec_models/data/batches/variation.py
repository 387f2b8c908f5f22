"""Augmentation of batches of skeletons, as of single windows in `actrec_models.data.augmentation`."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from actrec.skeleton.layouts import HAND_22, KINECT_V2_25
from actrec_models.data.augmentation import OUTWARDS, PALM
from actrec_models.data.batches.normalization import (
    broadcast_clips,
    constant,
    gather_joints,
    nearest_known,
    rotate,
    rows_with,
    tree,
)

Batch = Mapping[str, Tensor]
"""Fields of `actrec_models.data.augmentation.Variation` by name; "…_rows" are the samples that a field is of."""


def vary_bodies(bodies: Tensor, batch: Batch) -> Tensor:
    """Apply variations to bodies (B, M, 3, T, 25), as `augmentation.vary_bodies`."""
    middle = pivot(bodies)
    varied = rotate(bodies.double() - middle, batch["turn"]) + middle
    varied = scale_bones(varied, batch["factor"], KINECT_V2_25.name, OUTWARDS)
    if len(rows := batch["smoothed_rows"]):
        varied = varied.index_copy(0, rows, _smooth(varied[rows], batch["smoothed"]))
    varied = _with_noise(varied, batch).float()
    mirror = tree(KINECT_V2_25.name, bodies.device).mirror
    if len(rows := batch["exchanged_rows"]):
        part = varied[rows]
        exchanged = torch.where(batch["exchanged"][:, None, None, :, None], part[..., mirror], part)
        varied = varied.index_copy(0, rows, exchanged)
    varied = torch.where(batch["lost"][:, None, None], torch.nan, varied)
    if len(rows := batch["mirrored_rows"]):
        flipped = varied[rows][..., mirror] * constant((-1.0, 1.0, 1.0), bodies.device)[:, None, None]
        varied = varied.index_copy(0, rows, flipped)
    return varied


def vary_hands(hands: Tensor, batch: Batch) -> Tensor:
    """Apply variations to hands (B, M, 3, T, 22), as `augmentation.vary_hands`."""
    if "held" in batch:
        palm = hands[..., PALM : PALM + 1]
        seen = ~palm.isnan().any(2, keepdim=True)
        middle = torch.where(seen, palm, 0.0).sum(3, keepdim=True) / seen.sum(3, keepdim=True).clamp(min=1)
        way = middle + broadcast_clips(batch["reach"]) * (palm - middle)
        hands = (rotate((hands - palm).double(), batch["held"]) + way).float()
    stretched = (hands - pivot(hands)) * batch["stretch"][:, None, :, None, None]
    varied = rotate(stretched, batch["turn"])
    varied = scale_bones(varied, batch["factor"], HAND_22.name, range(1, varied.shape[-1]))
    varied = _with_noise(varied, batch)
    return torch.where(batch["lost"][:, None, None], torch.nan, varied)


def pivot(bodies: Tensor) -> Tensor:
    """Return the pivot (B, 1, 3, 1, 1) of bodies (B, M, 3, T, V), as `augmentation.pivot`."""
    root = bodies[:, :1, :, :1, :1]
    rows = rows_with(root.isnan())
    if not len(rows):
        return root
    part = bodies[rows]
    known = ~part.isnan().any(2, keepdim=True)
    total = torch.where(known, part, 0.0).double().sum((1, 3, 4), keepdim=True)
    mean = (total / known.sum((1, 3, 4), keepdim=True).clamp(min=1)).to(bodies.dtype)
    unknown = root[rows].isnan().any(2, keepdim=True)
    return root.index_copy(0, rows, torch.where(unknown, mean, root[rows]))


def scale_bones(joints: Tensor, factor: Tensor, layout: str, outwards: Sequence[int]) -> Tensor:
    """Scale each bone of joints (B, M, 3, T, V) by its factor (B, V), and rebuild the joints from the root.

    `outwards` has all joints but the root, parents first. Missing joints stay missing.
    """
    layout_tree = tree(layout, joints.device)
    lost = joints.isnan().any(2, keepdim=True)
    rows = rows_with(lost)
    if len(rows):
        known = ~lost[rows]
        # A missing root moves to the first known joint.
        order = constant((0, *outwards), joints.device)
        first = order[known[..., order].byte().argmax(-1)]  # (B, M, 1, T)
        known[..., 0] = True
        source = nearest_known(known, layout_tree)
        source = torch.where(source == 0, first[..., None], source)
        joints = joints.index_copy(0, rows, gather_joints(joints[rows], source))
    root = torch.zeros_like(layout_tree.paths)
    root[:, 0] = 1
    change = root + layout_tree.paths * factor[:, None, :].double() @ layout_tree.bones  # (B, V, V)
    scaled = torch.matmul(joints.flatten(1, 3), change.to(joints.dtype).transpose(1, 2)).view_as(joints)
    return torch.where(lost, torch.nan, scaled) if len(rows) else scaled


def _smooth(bodies: Tensor, reach: Tensor) -> Tensor:
    """Average joints (B, M, 3, T, V) over up to `reach` (B) frames before and after; missing ones stay missing."""
    known = ~bodies.isnan().any(2, keepdim=True)
    both = torch.cat([torch.where(known, bodies, 0.0), known.to(bodies.dtype)], dim=2)
    total = both.clone()
    for shift in range(1, min(4, bodies.shape[3])):
        reached = broadcast_clips((reach >= shift).to(bodies.dtype))
        total[:, :, :, shift:] += both[:, :, :, :-shift] * reached
        total[:, :, :, :-shift] += both[:, :, :, shift:] * reached
    return torch.where(known, total[:, :, :3] / total[:, :, 3:].clamp(min=1), torch.nan)


def _with_noise(joints: Tensor, batch: Batch) -> Tensor:
    noise = batch["noise"] * broadcast_clips(batch["noise_size"]) + batch["bias"][:, None, None]  # (B, M, T, V, 3)
    return joints + noise.permute(0, 1, 4, 2, 3)
