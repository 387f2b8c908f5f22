"""The attention that joints in the picture draw (Magoulianitis & Psaltis, Eqs. 3 to 5)."""

import torch
from torch import Tensor, nn

LOST = -0.375
"""A joint is absent where its u is left of this, in widths of the picture; see `actrec.features.joint_pixels`."""


class JointMasks(nn.Module):
    """The masks M of each stage of C3D, from the joints of a clip.

    Args:
        frames, size: T, and height and width of the clip that the joints are in.
        radius: r of a characteristic area, in widths of the feature.
    """

    def __init__(self, frames: int, size: int, radius: float):
        super().__init__()
        self.size, self.radius = size, radius
        # (frames l, width w) of what the convolutions of each stage yield.
        self.stages = [(frames, size)] + [(frames >> (s - 1), size >> s) for s in range(1, 5)]

    def forward(self, joints: Tensor, score: Tensor | None = None) -> list[Tensor]:
        """M of each stage, (N, 1, l, w, w).

        Args:
            joints: 𝕂, (N, T, K, 2), u and v in px of the clip, pixel centres at integers.
            score: Eq. 2's (N, K): Eq. 5's weighted mask; None: Eq. 3's binary one.
        """
        masks = []
        before = self.stages[0][0]
        for frames, width in self.stages:
            if frames < before:
                joints, before = between(joints, LOST * self.size), frames
            area = areas(joints, self.size, width, self.radius * width)
            masks.append((binary(area) if score is None else weighted(area, score)).unsqueeze(1))
        return masks


def between(joints: Tensor, lost: float) -> Tensor:
    """Joints (N, l, K, 2) half-way between two frames with step 2: (N, l/2, K, 2).

    A joint that is absent from one of the two (u < lost) stays where the other has it.
    """
    _, frames, count, _ = joints.shape
    pairs = joints.reshape(-1, frames // 2, 2, count, 2)  # (N, l/2, 2, K, 2)
    first, second = pairs[:, :, 0], pairs[:, :, 1]  # (N, l/2, K, 2)
    middle = (first + second) / 2
    middle = torch.where(second[..., :1] < lost, first, middle)
    return torch.where(first[..., :1] < lost, second, middle)


def areas(joints: Tensor, size: int, width: int, radius: float) -> Tensor:
    """The characteristic areas 𝕁^k: 1 where (x − a)² + (y − b)² ≤ r², else 0.

    Args:
        joints: (N, l, K, 2) in a picture of `size`.
        size: Width and height that the joints are in.
        width: w = h of the feature.
        radius: r in its pixels.

    Returns:
        (N, l, K, h, w).
    """
    ab = torch.floor((joints + 0.5) * (width / size))  # the feature's pixel that the joint falls on
    a, b = ab[..., 0:1, None], ab[..., 1:2, None]  # (N, l, K, 1, 1)
    pixels = torch.arange(width, dtype=joints.dtype, device=joints.device)
    x, y = pixels.reshape(1, -1), pixels.reshape(-1, 1)
    near = (x - a) ** 2 + (y - b) ** 2 <= radius * radius  # (N, l, K, h, w)
    return near.to(joints.dtype)


def binary(area: Tensor) -> Tensor:
    """Eq. 3: 1 in the area of any joint, else 0; (N, l, h, w) of areas (N, l, K, h, w)."""
    return area.amax(dim=2)


def weighted(area: Tensor, score: Tensor) -> Tensor:
    """Eq. 5: 1 + score_k in the area of joint k, the mean score where areas overlap, else 0.

    Args:
        area: (N, l, K, h, w).
        score: (N, K).

    Returns:
        (N, l, h, w).
    """
    count = area.sum(dim=2)
    total = (area * score[:, None, :, None, None]).sum(dim=2)
    return count.clamp(max=1) + total / count.clamp(min=1)
