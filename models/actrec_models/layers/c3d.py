"""C3D (Tran et al., "Learning Spatiotemporal Features with 3D Convolutional Networks", ICCV 2015).

Layers have the names of its PyTorch ports, so that Sports-1M weights load by name.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from actrec_models.layers.common import glorot

STAGES = (("conv1",), ("conv2",), ("conv3a", "conv3b"), ("conv4a", "conv4b"), ("conv5a", "conv5b"))
"""The convolutions between two poolings."""

WIDTHS = (1, 2, 4, 8, 8)
"""Channels of each stage, in multiples of 64."""


class C3d(nn.Module):
    """Eight convolutions 3×3×3, five max-poolings, fc6 and fc7, and fc8 unless there are no classes.

    Args:
        num_classes: Outputs of fc8; 0 for none, `forward` then returns fc7's features.
        frames, size: T, and height and width of a clip, multiples of 16.
        width: Channels of conv1.
        fc: Neurons of fc6 and fc7.
        dropout: After fc6 and fc7.
    """

    def __init__(
        self,
        num_classes: int,
        frames: int = 16,
        size: int = 112,
        width: int = 64,
        fc: int = 4096,
        dropout: float = 0.5,
    ):
        super().__init__()
        channels = 3
        for names, multiple in zip(STAGES, WIDTHS, strict=True):
            for name in names:
                setattr(self, name, nn.Conv3d(channels, width * multiple, kernel_size=3, padding=1))
                channels = width * multiple
        self.pool1 = nn.MaxPool3d((1, 2, 2))
        self.pool2 = nn.MaxPool3d(2)
        self.pool3 = nn.MaxPool3d(2)
        self.pool4 = nn.MaxPool3d(2)
        self.pool5 = nn.MaxPool3d(2, padding=(0, 1, 1))  # 7×7 to 4×4, as Caffe rounds up
        edge = size // 16 // 2 + 1
        self.fc6 = nn.Linear(channels * (frames // 16) * edge * edge, fc)
        self.fc7 = nn.Linear(fc, fc)
        self.fc8 = nn.Linear(fc, num_classes) if num_classes else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.apply(glorot)

    def forward(self, clip: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
        """Logits (N, classes), or fc7's features FC-4096 (N, fc).

        Args:
            clip: (N, 3, T, H, W).
            masks: Empty, or for each stage M (N, 1, l, h, w), which boosts what each of its convolutions yields.
        """
        f = clip
        for stage, names in enumerate(STAGES):
            for name in names:
                f = torch.relu(getattr(self, name)(f))  # Y (N, c, l, h, w)
                if masks:
                    f = boosted(f, masks[stage])  # F (N, c, l, h, w)
            f = getattr(self, f"pool{stage + 1}")(f)
        f = f.flatten(1)  # (N, c·l·h·w)
        f = self.dropout(torch.relu(self.fc6(f)))
        f = self.dropout(torch.relu(self.fc7(f)))
        return self.fc8(f)


def boosted(y: Tensor, mask: Tensor) -> Tensor:
    """Eq. 4 of "Learning Scene Flow With Skeleton Guidance": F = (1 + M) * Y.

    Args:
        y: Y (N, c, l, h, w).
        mask: M (N, 1, l, h, w), repeated over the channels.
    """
    return (1 + mask) * y
