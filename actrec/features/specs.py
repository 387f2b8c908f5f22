"""What a network takes: its time window and its input tensors."""

from dataclasses import dataclass, field
from typing import Any

COMBINE = ("mean", "logits", "max")


@dataclass(frozen=True)
class WindowSpec:
    """The stretch of time that a label is about: `seconds` long, resampled to `frames`.

    Attributes:
        seconds, frames: Length, and number of samples.
        clip: T, frames that the network takes at once; 0 for all of them.
        stride: Frames from the start of one clip to that of the next; 0 where one clip is the window.
        combine: How the clips' scores become the window's: "mean" of their probabilities, mean of their "logits", or
            "max" of their probabilities (scaled to sum to 1 again).
    """

    seconds: float
    frames: int
    clip: int = 0
    stride: int = 0
    combine: str = "mean"

    @property
    def clip_frames(self) -> int:
        """T, frames that the network takes at once."""
        return self.clip or self.frames

    @property
    def starts(self) -> tuple[int, ...]:
        """First frame of each clip. The last clip ends with the window."""
        length = self.clip_frames
        return tuple(range((self.frames - length) % (self.stride or 1), self.frames - length + 1, self.stride or 1))


@dataclass(frozen=True)
class InputSpec:
    """One input tensor of a network.

    Attributes:
        name: The ONNX graph's input.
        modality: What it is made of ("body", "bones", …), as `actrec.features` knows it.
        layout: Joint layout, or the axes of an image, e.g. "kinect_v2_25".
        shape: Without the batch axis.
        unit: SI unit of its values before normalizing, "" for none.
        preprocessing: Options of the feature that makes it.
    """

    name: str
    modality: str
    layout: str
    shape: tuple[int, ...]
    unit: str = ""
    preprocessing: dict[str, Any] = field(default_factory=dict)
