"""Windows of batches of skeletons in time."""

import torch
from torch import Tensor

from actrec.skeleton.windows import MAX_GAP_S


def resample(joints: Tensor, times: Tensor, wanted: Tensor, gaps: bool = True) -> Tensor:
    """Interpolate joints linearly in time, as `actrec.skeleton.windows.resample`.

    Args:
        joints: (B, M, L, V, 3) m, NaN if missing.
        times: (B, L) increasing, s; infinite for padding.
        wanted: (B, T) s.
        gaps: Whether a joint may be missing in some frames and known in others.

    Returns:
        (B, M, 3, T, V) float32.
    """
    batch, bodies, length, count, _ = joints.shape
    after = torch.searchsorted(times, wanted)  # (B, T), the first frame that is not earlier
    if not gaps:
        last = (times.isfinite().sum(1, keepdim=True) - 1).expand_as(after)
        left, right = torch.minimum((after - 1).clamp(min=0), last), torch.minimum(after, last)
        weight = _weight(times.gather(1, left), times.gather(1, right), wanted)[:, :, None, None, None]
        rows = torch.arange(batch, device=joints.device)[:, None]
        frames = joints.transpose(1, 2)  # (B, L, M, V, 3)
        values = frames[rows, left] * (1 - weight) + frames[rows, right] * weight
        return values.permute(0, 2, 4, 1, 3).contiguous()
    known = ~joints.isnan().any(-1)  # (B, M, L, V)
    numbers = torch.arange(length, device=joints.device)[:, None]
    before_each = torch.where(known, numbers, -1).cummax(2).values
    after_each = torch.where(known, numbers, length).flip(2).cummin(2).values.flip(2)

    def at(of_frames: Tensor, frames: Tensor, beyond: Tensor, value: int) -> Tensor:
        index = frames[:, None, :, None].expand(-1, bodies, -1, count)
        return torch.where(beyond[:, None, :, None], value, of_frames.gather(2, index))

    # The known frames before and after each sample, -1 or L for none (B, M, T, V).
    before = at(before_each, (after - 1).clamp(min=0), after == 0, -1)
    later = at(after_each, after.clamp(max=length - 1), after == length, length)
    has_before, has_after = before >= 0, later < length
    left = torch.where(has_before, before, torch.where(has_after, later, 0))
    right = torch.where(has_after, later, left)
    clock = times[:, None, :, None].expand(-1, bodies, -1, count)
    sample = wanted[:, None, :, None]
    left_time, right_time = clock.gather(2, left), clock.gather(2, right)
    weight = _weight(left_time, right_time, sample)[:, :, None]
    channels = joints.permute(0, 1, 4, 2, 3)  # (B, M, 3, L, V)
    index = (each[:, :, None].expand(-1, -1, 3, -1, -1) for each in (left, right))
    values = channels.gather(3, next(index)) * (1 - weight) + channels.gather(3, next(index)) * weight
    # A body's first and last pose are repeated, but a single joint only for `MAX_GAP_S`.
    start = times[:, None, :1, None]
    span = right_time - left_time
    gap = torch.where(has_before & has_after, span, torch.where(has_after, right_time - sample, sample - left_time))
    gap = torch.where((sample < start) & has_after, right_time - start, gap)
    nearest = torch.minimum((sample - left_time).abs(), (sample - right_time).abs())
    whole = (known | ~times.isfinite()[:, None, :, None]).all(3).all(2)[:, :, None, None]  # nothing is missing
    lost = ((gap > MAX_GAP_S) & (nearest > 1e-3) & ~whole) | ~(has_before | has_after)
    return torch.where(lost[:, :, None], torch.nan, values)


def _weight(start: Tensor, end: Tensor, wanted: Tensor) -> Tensor:
    span = end - start
    return ((wanted - start) / torch.where(span > 0, span, 1.0)).clamp(0, 1).float()
