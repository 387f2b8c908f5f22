"""Base class and loss of the networks."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from actrec.features.specs import InputSpec, WindowSpec
from actrec.utils import config

OUTLIER = -1  # label of a sample without a class; the cross-entropy ignores it unless outliers have a weight


class Network(nn.Module):
    """A classifier of clips that takes its inputs by name and returns logits.

    Attributes:
        config_class: Frozen dataclass of its options, with at least `num_classes` and `frames` (T of a clip).
        config: Its options.
        stages: Names of the stages of its training, in order; see `stage`.
        weight_targets: Submodules ("" for the network itself) by the public checkpoint format
            (`training.initial_weights.FORMATS`) or other network that fills them; their parameters have that format's
            names. An attribute, or a property if it depends on the options.
        base_channels: Parameter name to (axis, number of input channels without optional ones). Weights of that size
            are accepted; the other channels start at zero.
        handles_outliers: Whether its own `losses` accepts samples without a class.
        outlier_weight: Weight of these samples in such a `losses`; set by the trainer.
        background: Whether it is trained with a background class, whose logit is 0 and whose label is the number of
            classes.
    """

    stages: tuple[str, ...] = ()
    config_class: ClassVar[type]
    weight_targets: Mapping[str, tuple[str, ...]] = {}
    base_channels: Mapping[str, tuple[int, int]] = {}
    handles_outliers: ClassVar[bool] = False
    outlier_weight: float = 0.0
    background: bool = False

    def __init__(self, **options: Any):
        super().__init__()
        self.config: Any = config.build(self.config_class, options)

    @property
    @abstractmethod
    def input_specs(self) -> list[InputSpec]:
        """Its float32 inputs; shapes are without the batch axis."""

    @property
    def stage_input_specs(self) -> list[InputSpec]:
        """The inputs that `losses` reads in the current stage of the training."""
        return self.input_specs

    @property
    def window(self) -> WindowSpec:
        """The paper's evaluation window; by default, one clip of T frames over five seconds."""
        return WindowSpec(5.0, self.config.frames)

    @abstractmethod
    def forward(self, **inputs: Tensor) -> Tensor:
        """Return the logits (N, classes) of inputs by name, each (N, *shape)."""

    def with_background(self, scores: Tensor) -> Tensor:
        """Return scores (N, classes), or (N, classes + 1) with the logit of the background class."""
        return nn.functional.pad(scores, (0, 1)) if self.background else scores

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses that the paper trains on.

        Args:
            batch: The inputs by name, and "label" [N] (−1 takes no part).

        Returns:
            "loss", the sum to minimize, "logits" [N, classes], and each part under its own name.
        """
        logits = self(**{spec.name: batch[spec.name] for spec in self.input_specs})
        return {"loss": cross_entropy(self.with_background(logits), batch["label"]), "logits": logits}

    def stage(self, name: str) -> None:
        """Train only the parameters of one of `stages`, or all for ""."""
        raise NotImplementedError(f"{type(self).__name__} has no stages")


def cross_entropy(scores: Tensor, labels: Tensor, smoothing: float = 0.0, outlier_weight: float = 0.0) -> Tensor:
    """Return the mean smoothed cross-entropy; the target of outliers is the uniform distribution.

    Args:
        scores: (N, classes).
        labels: (N); `OUTLIER` for samples without a class.
        smoothing: Label smoothing.
        outlier_weight: Weight of outliers; with 0, the mean is over the other samples alone.
    """
    if outlier_weight:
        return sample_losses(scores, labels, smoothing, outlier_weight).mean()
    total = nn.functional.cross_entropy(
        scores, labels, reduction="sum", ignore_index=OUTLIER, label_smoothing=smoothing
    )
    return total / (labels != OUTLIER).sum().clamp(min=1)  # 0 for a batch of outliers, not 0 / 0


def sample_losses(scores: Tensor, labels: Tensor, smoothing: float, outlier_weight: float) -> Tensor:
    """Return the loss (N) of each sample; see `cross_entropy`."""
    known = nn.functional.cross_entropy(
        scores, labels, reduction="none", ignore_index=OUTLIER, label_smoothing=smoothing
    )
    outlier = -torch.log_softmax(scores, dim=1).mean(dim=1)
    return torch.where(labels != OUTLIER, known, outlier_weight * outlier)
