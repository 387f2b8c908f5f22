"""What every network offers."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from actrec.features.specs import InputSpec, WindowSpec
from actrec.utils import config

OUTLIER = -1
"""Label of a sample that shows no class; without a weight of its own it takes no part in the cross-entropy."""


class Network(nn.Module):
    """A classifier of clips that takes its inputs by name and returns logits.

    Attributes:
        config_class: Frozen dataclass of its options, with at least `num_classes` and `frames` (T of a clip).
        config: The options it was made with.
        stages: Names of the stages of its training, in order; see `stage`.
        window: Seconds, clip length, stride and combination of scores that its paper evaluates with.
        weight_targets: Public checkpoint format (`training.initial_weights.FORMATS`), or name of another network of
            ours, to the submodules that it fills, "" for the network itself; under them, parameters bear the names that
            the format's port gives them. An attribute, or a property if it depends on the options.
        base_channels: Parameter name to (axis, number of input channels without optional ones). Weights of that size
            are accepted, and the further channels start at zero.
        handles_outliers: Whether its own `losses` accepts samples that show no class.
        outlier_weight: What such a `losses` weighs them with; the trainer sets it.
    """

    stages: tuple[str, ...] = ()
    config_class: ClassVar[type]
    weight_targets: Mapping[str, tuple[str, ...]] = {}
    base_channels: Mapping[str, tuple[int, int]] = {}
    handles_outliers: ClassVar[bool] = False
    outlier_weight: float = 0.0

    def __init__(self, **options: Any):
        super().__init__()
        self.config: Any = config.build(self.config_class, options)

    @property
    @abstractmethod
    def input_specs(self) -> list[InputSpec]:
        """Its inputs, shapes without the batch axis; every one is float32."""

    @property
    def stage_input_specs(self) -> list[InputSpec]:
        """Those that `losses` reads at the stage of training that is under way: the others are not made for it."""
        return self.input_specs

    @property
    def window(self) -> WindowSpec:
        """The paper's window; the default is one clip of T frames over five seconds."""
        return WindowSpec(5.0, self.config.frames)

    @abstractmethod
    def forward(self, **inputs: Tensor) -> Tensor:
        """Logits (N, classes) of inputs by name, each (N, *shape)."""

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses that the paper trains on.

        Args:
            batch: The inputs by name, and "label" [N] (−1 takes no part).

        Returns:
            "loss", the sum to minimize, "logits" [N, classes], and each part under its own name.
        """
        logits = self(**{spec.name: batch[spec.name] for spec in self.input_specs})
        return {"loss": cross_entropy(logits, batch["label"]), "logits": logits}

    def stage(self, name: str) -> None:
        """Train only the parameters of one of `stages`, or all for ""."""
        raise NotImplementedError(f"{type(self).__name__} has no stages")


def cross_entropy(scores: Tensor, labels: Tensor, smoothing: float = 0.0, outlier_weight: float = 0.0) -> Tensor:
    """Mean cross-entropy, smoothed; of samples that show no class, weighted, that to equal probabilities.

    Args:
        scores: (N, classes).
        labels: (N); `OUTLIER` for samples that show no class.
        smoothing: Share of each label that is spread over all classes.
        outlier_weight: Weight of outliers; with 0 the mean is over the other samples alone.
    """
    kind = nn.functional.cross_entropy
    if not outlier_weight:
        total = kind(scores, labels, reduction="sum", ignore_index=OUTLIER, label_smoothing=smoothing)
        return total / (labels != OUTLIER).sum().clamp(min=1)  # of a batch that shows none it is 0, not 0 / 0
    losses = kind(scores, labels, reduction="none", ignore_index=OUTLIER, label_smoothing=smoothing)
    unsure = -torch.log_softmax(scores, dim=1).mean(dim=1)
    return torch.where(labels != OUTLIER, losses, outlier_weight * unsure).mean()
