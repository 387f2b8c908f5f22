"""SEM-Net and SPA-Net together (Shi et al., "What and Where", 2021, Fig. 2): the mean of their softmax scores."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from actrec.features.specs import InputSpec
from actrec.utils.config import setting
from actrec_models.networks.base import Network
from actrec_models.networks.sem_net import SemNet, combine
from actrec_models.networks.spa_net import SpaNet3p1d, SpaNet4d

SPA = {"4d": SpaNet4d, "3p1d": SpaNet3p1d}


@dataclass(frozen=True)
class SemSpaConfig:
    """Options of `sem_spa`; the defaults are the paper's "SEM+SPA"."""

    num_classes: int = setting(60, "classes", range=(1, 100_000))
    frames: int = setting(256, "T, frames of a clip; SEM-Net takes them all", range=(1, 1000))
    spa_frames: int = setting(64, "frames of SPA-Net, evenly spaced over the clip's", range=(1, 1000))
    bodies: int = setting(2, "M, bodies of a clip", range=(1, 8))
    layout: str = setting(
        "kinect_v2_25", "joints: NTU's 25 of a body, or SHREC'17's 22 of a hand", choices=("kinect_v2_25", "hand_22")
    )
    streams: str = setting(
        "fuse", "Table 6: SEM-Net on joints and bones, or on one of them", choices=("fuse", "joint", "bone")
    )
    spa: str = setting("4d", "Table 4: SPA-4D or SPA-3+1D", choices=tuple(SPA))
    sem_options: dict[str, Any] = setting({}, "further options of SEM-Net")
    spa_options: dict[str, Any] = setting({}, "further options of SPA-Net")


class SemSpa(Network):
    """SEM+SPA. Its logits are the logarithm of the two networks' mean softmax, so that their softmax is that mean."""

    config_class: ClassVar[type] = SemSpaConfig

    def __init__(self, **options: object):
        super().__init__(**options)
        c = self.config
        shared = {"num_classes": c.num_classes, "bodies": c.bodies, "layout": c.layout}
        self.sem = SemNet(**{**c.sem_options, **shared, "frames": c.frames, "streams": c.streams})
        self.spa = SPA[c.spa](**{**c.spa_options, **shared, "frames": min(c.spa_frames, c.frames)})
        self.base_channels = {f"spa.{name}": channels for name, channels in self.spa.base_channels.items()}
        self.weight_targets = {"sem_net": ("sem",), f"spa_net_{c.spa}": ("spa",)}

    @property
    def input_specs(self) -> list[InputSpec]:
        """SEM-Net's inputs, then SPA-Net's."""
        return [*self.sem.input_specs, *self.spa.input_specs]

    def forward(self, **inputs: Tensor) -> Tensor:
        """Logarithm of the mean of both softmaxes, (N, classes)."""
        return mean(*(network(**_own(network, inputs)) for network in (self.sem, self.spa)))

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the sum of the networks' own losses: they are trained separately, only their scores are fused."""
        sem, spa = self.sem.losses(batch), self.spa.losses(batch)
        logits = mean(sem["logits"], spa["logits"])
        return {"loss": sem["loss"] + spa["loss"], "logits": logits, "sem": sem["loss"], "spa": spa["loss"]}


def _own(network: Network, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {spec.name: inputs[spec.name] for spec in network.input_specs}


def mean(sem: Tensor, spa: Tensor) -> Tensor:
    """Logarithm log((softmax(a) + softmax(b)) / 2) of two networks' logits, (N, classes)."""
    return combine([sem, spa]) - math.log(2)
