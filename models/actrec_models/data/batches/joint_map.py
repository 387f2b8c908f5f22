"""Joint maps of batches of skeletons, as of single clips in `actrec.features.scene_flow`."""

import torch
from torch import Tensor

from actrec.features.scene_flow import JointMapPreprocessing
from actrec.features.specs import InputSpec
from actrec.utils import config
from actrec_models.data.batches.normalization import constant, fill_missing


def first_visible_frame(bodies: Tensor) -> Tensor:
    """Return the first frame (B) of (B, M, 3, T, V) with a body, after any repetitions of its pose."""
    visible = bodies.isfinite().any(4).any(2).any(1)  # (B, T)
    first = visible.byte().argmax(1)
    pose = bodies.gather(3, first[:, None, None, None, None].expand(-1, *bodies.shape[1:3], 1, bodies.shape[4]))
    same = ((bodies == pose) | (bodies.isnan() & pose.isnan())).all(4).all(2).all(1)
    frames = torch.arange(bodies.shape[3], device=bodies.device)
    others = ~same & (frames >= first[:, None])
    end = torch.where(others.any(1), others.byte().argmax(1), bodies.shape[3])
    return torch.where(visible.any(1), end - 1, 0)


def hold_first(varied: Tensor, first: Tensor) -> Tensor:
    """Return bodies (B, M, 3, T, V) whose frames before `first` (B) repeat that one."""
    frames = torch.arange(varied.shape[3], device=varied.device)
    index = torch.maximum(frames, first[:, None])[:, None, None, :, None]
    return varied.gather(3, index.expand_as(varied))


def joint_map(bodies: Tensor, spec: InputSpec) -> Tensor:
    """Return the map (B, 3·K, N), K = M·V, of bodies (B, M, 3, T, V) float32 m."""
    options = config.build(JointMapPreprocessing, spec.preprocessing)
    count, frames, columns = len(bodies), bodies.shape[3], spec.shape[1]
    first = first_visible_frame(bodies)[:, None]
    column = torch.arange(columns, device=bodies.device)
    held = column <= (frames - 1 - first) * options.rate  # (B, N)
    before = first + column // options.rate
    share = (column % options.rate).float() / options.rate

    def at(index: Tensor) -> Tensor:
        index = index.clamp(max=frames - 1)[:, None, None, :, None]
        return bodies.gather(3, index.expand(-1, *bodies.shape[1:3], -1, bodies.shape[4]))

    after = before + (column % options.rate > 0)
    share = share[:, None]
    values = at(before) * (1 - share) + at(after) * share  # (B, M, 3, N, V)
    lower, upper = (
        constant(tuple(limit), bodies.device)[:, None, None] for limit in (options.lower_m, options.upper_m)
    )
    filled = fill_missing(((values - lower) * (2 / (upper - lower)) - 1).clamp(-1, 1), spec.layout)
    filled = torch.where(held[:, None, None, :, None], filled, 0.0)
    return filled.permute(0, 1, 4, 2, 3).reshape(count, -1, columns)
