"""VPN: video-pose network (Das et al., ECCV 2020): the VPN layer upon I3D or 3D ResNeXt-101, and its loss (Eq. 5)."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from actrec.config import setting
from actrec.errors import ConfigError
from actrec.features.skeleton import SkeletonPreprocessing
from actrec.package import InputSpec, WindowSpec
from actrec.skeleton import layouts
from actrec_models.networks.base import OUTLIER, Network
from actrec_models.networks.i3d import NORM_MOMENTUM, InceptionI3d, picture_spec
from actrec_models.networks.resnext3d import ResNext3d
from actrec_models.networks.vpn_layer import Attention, VpnLayer, VpnLayerConfig, attention_regulariser

LAYOUT = "kinect_v2_25"
RATE_HZ = 30.0
"""Of NTU's videos, of which a clip is 64 frames."""


@dataclass(frozen=True)
class VpnConfig(VpnLayerConfig):
    """Options of `vpn_i3d`; the defaults are the paper's for NTU."""

    num_classes: int = setting(60, "classes", range=(1, 100_000))
    frames: int = setting(64, "frames of a clip", range=(8, 256))
    size: int = setting(224, "height and width of the body crop", unit="px", range=(32, 512))
    width: float = setting(1.0, "factor on the visual backbone's channels", range=(0.05, 2.0))
    lambda_1: float = setting(0.8, "λ1, share of L_C against L_e", range=(0.0, 1.0))
    lambda_2: float = setting(1e-5, "λ2, weight of L_a", range=(0.0, 1.0))
    dropout: float = setting(0.3, "before the classifier", range=(0.0, 0.9))
    norm_momentum: float = setting(
        NORM_MOMENTUM, "of the batch norms; after n steps (1 - it)^n of the statistics that they began with is left",
        range=(1e-4, 1.0),
    )  # fmt: skip


@dataclass(frozen=True)
class VpnResnext101Config(VpnConfig):
    """Options of `vpn_resnext101`; its backbone is published for 112 × 112 px."""

    size: int = setting(112, "height and width of the body crop", unit="px", range=(32, 512))
    norm_momentum: float = setting(
        0.1, "share of a batch in the visual backbone's running statistics", range=(1e-4, 1.0)
    )


class Vpn(Network):
    """Visual backbone, VPN layer, classifier.

    Args:
        options: Fields of `config_class`.
    """

    config_class: ClassVar[type] = VpnConfig

    def __init__(self, **options: Any):
        super().__init__(**options)
        config = self.config
        if config.poses > config.frames:
            raise ConfigError(f"poses is {config.poses}, but a clip has {config.frames} frames to take them from")
        if config.attention == "none" and config.embedding != "none":
            raise ConfigError("without attention there is no z_1 to embed: set embedding to 'none' too")
        self.visual = self._backbone()
        shape = self._feature_shape()
        self.vpn = None if config.attention == "none" else VpnLayer(shape, config, LAYOUT)
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(shape[0] if self.vpn is None else self.vpn.channels, config.num_classes)

    @abstractmethod
    def _backbone(self) -> nn.Module:
        """The visual backbone."""

    @abstractmethod
    def _feature_shape(self) -> tuple[int, int, int, int]:
        """(c, t_c, m, n) of its feature map."""

    @abstractmethod
    def _features(self, body_crop: Tensor) -> Tensor:
        """(N, 3, T, H, W) to f, (N, c, t_c, m, n)."""

    @property
    def input_specs(self) -> list[InputSpec]:
        """The body crop; the poses, unless there is no attention network."""
        config = self.config
        crop = picture_spec("body_crop", config.frames, config.size)
        joints = len(layouts.get(LAYOUT))
        preprocessing = asdict(SkeletonPreprocessing())
        pose = InputSpec("pose", "pose", LAYOUT, (3, config.poses, joints), unit="m", preprocessing=preprocessing)
        return [crop] if self.vpn is None else [crop, pose]

    @property
    def window(self) -> WindowSpec:
        """Two clips' time, clips half overlapping; the maximum of their probabilities, as in the paper's inference."""
        frames = self.config.frames
        return WindowSpec(2 * frames / RATE_HZ, 2 * frames, frames, frames // 2, "max")

    def forward(self, **inputs: Tensor) -> Tensor:
        """Logits (N, classes) of "body_crop" (N, 3, T, H, W) and "pose" (N, 3, t_p, J)."""
        return self._recognise(inputs)[0]

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Eq. 5: L = λ1·L_C + (1 − λ1)·L_e + λ2·L_a; without L_e, L = L_C + λ2·L_a.

        Args:
            batch: The inputs by name, and "label" [N] (−1 takes no part in L_C).

        Returns:
            "loss" L, "logits" [N, classes], "classification" L_C, "embedding" L_e and "attention" L_a.
        """
        logits, f, attention = self._recognise(batch)
        L_C = functional.cross_entropy(logits, batch["label"], ignore_index=OUTLIER)
        L_e = L_a = logits.new_zeros(())
        share = 1.0
        if self.vpn is not None and attention is not None:
            L_a = attention_regulariser(attention)
            if self.vpn.embedding is not None:
                share, L_e = self.config.lambda_1, self.vpn.embedding.loss(f, attention.z_1)
        loss = share * L_C + (1 - share) * L_e + self.config.lambda_2 * L_a
        return {"loss": loss, "logits": logits, "classification": L_C, "embedding": L_e, "attention": L_a}

    def _recognise(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Attention | None]:
        """Logits, f and the attention."""
        f = self._features(inputs["body_crop"])  # (N, c, t_c, m, n)
        attended, attention = f, None
        if self.vpn is not None:
            attended, attention = self.vpn(f, inputs["pose"])
        pooled = attended.mean(dim=(2, 3, 4))  # (N, c)
        return self.fc(self.dropout(pooled)), f, attention


class VpnI3d(Vpn):
    """VPN upon I3D's `Mixed_5c`: (N, 1024, 8, 7, 7) of 64 frames of 224 × 224 px."""

    weight_targets: Mapping[str, tuple[str, ...]] = {"i3d": ("visual",)}

    def _backbone(self) -> nn.Module:
        return InceptionI3d(num_classes=0, width=self.config.width, momentum=self.config.norm_momentum)

    def _feature_shape(self) -> tuple[int, int, int, int]:
        config = self.config
        regions = -(-config.size // 32)  # every halving rounds up
        return self.visual.channels["Mixed_5c"], -(-config.frames // 8), regions, regions

    def _features(self, body_crop: Tensor) -> Tensor:
        return self.visual.forward_features(body_crop, until="Mixed_5c")


class VpnResnext101(Vpn):
    """VPN upon 3D ResNeXt-101 (Table 5): (N, 2048, 4, 4, 4) of 64 frames of 112 × 112 px."""

    config_class = VpnResnext101Config
    weight_targets: Mapping[str, tuple[str, ...]] = {"resnext3d_101": ("visual",)}

    def _backbone(self) -> nn.Module:
        return ResNext3d(num_classes=0, width=self.config.width, momentum=self.config.norm_momentum)

    def _feature_shape(self) -> tuple[int, int, int, int]:
        return self.visual.feature_shape(self.config.frames, self.config.size)

    def _features(self, body_crop: Tensor) -> Tensor:
        return self.visual.forward_features(body_crop)
