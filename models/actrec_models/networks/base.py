"""Base class and loss of the networks.

Readings, choices that hold for all networks:

- **Input.** A window spans a fixed time and ends at the newest frame; before the first frame the first pose is held.
  Bodies are centered on the mean spine base, turned about the vertical to face the camera on average, and divided by
  the median torso length. Training, evaluation and the recognizer share this code; the package stores its settings.
- **Window.** Clips are not stretched to T frames: a window is 5 s at 12 Hz, as live. Longer clips are scored by their
  last 5 s; shorter ones hold their first pose. Recipes with `clips: stretched` stretch: gestures, and
  `papers/deepacts_*.yaml`, as the paper says.
- **N-UCLA's clock.** The dataset has no stamps. 12 Hz gives its walkers 1.5 steps a second. Training varies speed by
  up to 1.35, so the exact value matters little.
- **Augmentation** depends on the inputs: time, body and camera for bodies alone; only time and the cut of crops and
  flow with images, because a turned body no longer fits its image.
- **Optimizers.** The papers' own in `models/recipes/papers`; elsewhere AdamW, one cycle, averaged weights.
- **Batch.** The sum over all devices and accumulation steps. P-I3D's "minibatches of size 16 on 4 GPUs" is 16 in all;
  VPN's 4 GPUs with 4 clips each are 16. Batch norm counts the whole batch (`sync_batch_norm`); the papers' frameworks
  counted each GPU's share.
- **Weight decay.** Only parameters with two or more axes, such as kernels, and SEM-Net's β (one per head).
  DeepActsNet's paper states it for the network: biases and norms too, as PyTorch's SGD has it.
- **Validation.** "Testing loss" (scene flow) and "validation set" (P-I3D) are always clips held out of the training
  part, never the test part; the best checkpoint on them is kept.
- **Not mentioned, so off** in a paper's recipe: gradient clipping, label smoothing, averaged weights, augmentation.
  SEM/SPA's scheme is in a supplement that is not at hand: see `sem_net`.
- **Half precision.** No paper mentions it. bf16-mixed trains networks on images or flow. Export checks float16 by
  rounding each weight and node result of the ONNX graph on the CPU, with float32 accumulation inside a node.
- **Clips of a window.** In training, one clip at random is a sample with the window's label. Live, clips are one
  stride apart and the last one ends with the window.
- **Combining clips.** "Mean" and "max" act on the clips' plain softmax, then return to logits at the clips' mean
  log-sum-exp; temperature, background and threshold act on the window. With temperature 1 and no background this
  equals the papers' average or maximum to 1e-5 (tested).
- **Clips of a recording** (`clips: whole`; scene flow, VPN; P-I3D: `subsequences`, see there). Clips step back from the
  recording's end by the package's stride; another one begins with the recording if needed. Training and evaluation use
  the same clips. A recording shorter than a clip (at 64 frames and 30 Hz, under 2.1 s) gives one clip, which ends with
  it; its first frame is held.
"""

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

    def member_logits(self, **inputs: Tensor) -> Tensor:
        """Return the logits (members, N, classes) that are trained alone and averaged by `forward`; by default one."""
        return self(**inputs)[None]

    def with_background(self, scores: Tensor) -> Tensor:
        """Return scores (…, classes), or (…, classes + 1) with the logit of the background class."""
        return nn.functional.pad(scores, (0, 1)) if self.background else scores

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses that the paper trains on.

        Args:
            batch: The inputs by name, and "label" [N] (−1 takes no part).

        Returns:
            "loss", the sum to minimize, "logits" [N, classes], and each part under its own name.
        """
        return self.classification_losses(batch)

    def classification_losses(
        self, batch: dict[str, Tensor], smoothing: float = 0.0, outlier_weight: float = 0.0
    ) -> dict[str, Tensor]:
        """Return the `cross_entropy` of `member_logits`, averaged over the members, and the mean "logits"."""
        logits = self.member_logits(**{spec.name: batch[spec.name] for spec in self.input_specs})
        each = [
            cross_entropy(scores, batch["label"], smoothing, outlier_weight) for scores in self.with_background(logits)
        ]
        return {"loss": torch.stack(each).mean(), "logits": logits.mean(dim=0)}

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
