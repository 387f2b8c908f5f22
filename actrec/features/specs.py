"""Declaration of a network's time window and input tensors."""

from dataclasses import dataclass, field
from typing import Any

COMBINE = ("mean", "logits", "max")


@dataclass(frozen=True)
class WindowSpec:
    """Time window of a prediction: `seconds` long, resampled to `frames`.

    Attributes:
        seconds, frames: Length, and number of samples.
        clip: T, frames per network input; 0 for all of them.
        stride: Frames from the start of one clip to the next; 0 for a single clip.
        combine: Combination of the clips' scores: "mean" of the probabilities, mean of the "logits", or "max" of the
            probabilities (renormalized).
    """

    seconds: float
    frames: int
    clip: int = 0
    stride: int = 0
    combine: str = "mean"

    @property
    def clip_frames(self) -> int:
        """Return T, the frames per network input."""
        return self.clip or self.frames

    @property
    def starts(self) -> tuple[int, ...]:
        """Return the first frame of each clip. The last clip ends with the window."""
        length = self.clip_frames
        return tuple(range((self.frames - length) % (self.stride or 1), self.frames - length + 1, self.stride or 1))


@dataclass(frozen=True)
class InputSpec:
    """One input tensor of a network.

    Attributes:
        name: Name of the ONNX graph's input.
        modality: Name of a feature in `actrec.features`: "body", "bones", …
        layout: Joint layout, or the axes of an image, e.g. "kinect_v2_25".
        shape: Without the batch axis.
        unit: SI unit of the values before normalization, "" for none.
        preprocessing: Options of the feature.
    """

    name: str
    modality: str
    layout: str
    shape: tuple[int, ...]
    unit: str = ""
    preprocessing: dict[str, Any] = field(default_factory=dict)
