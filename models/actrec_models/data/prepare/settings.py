"""Settings of `actrec prepare`: what a store keeps and what is estimated for it."""

from dataclasses import dataclass

from actrec.perception.pipeline import BodyPerceptionConfig, FacePerceptionConfig, HandPerceptionConfig
from actrec.scene_flow.stream import SceneFlowConfig
from actrec.utils import config
from actrec.utils.config import setting
from actrec.utils.errors import ConfigError

STREAM_KEYS = {
    "bodies": ("pixels", "size"),
    "hands": ("hands", "hand_pixels", "size"),
    "face": ("face", "face_pixels", "size"),
    "motion": ("motion", "size"),
    "flow": ("flow",),
    "color": ("color",),
}
"""What may be kept beside bodies and stamps, and the keys of a clip that it is made of."""

POINTS = ("bodies", "hands", "face")
"""What is kept by default: what no image has to be decoded for."""

ESTIMATES = ("bodies", "hands", "face", "motion", "flow")


@dataclass(frozen=True)
class PrepareConfig:
    """What a store keeps, and how what the dataset does not have is estimated."""

    streams: list = setting(
        [], "what every clip must have and is kept: bodies, hands, face, motion, flow, color; "
        "empty: bodies, and hands and face where there are any",
    )  # fmt: skip
    estimate: list = setting([], "what is estimated from the camera's frames: bodies, hands, face, motion, flow")
    image_height: int = setting(
        0, "height that color is reduced to, its pixels' coordinates with it; 0 leaves it as it is", unit="px",
        range=(0, 4320),
    )  # fmt: skip
    image_quality: int = setting(95, "JPEG quality of color", range=(1, 100))
    flow_limit_m_s: float = setting(
        4.0, "speed along an axis at which scene flow is cut off; it is kept to a 127th of it", unit="m/s",
        range=(0.1, 100.0),
    )  # fmt: skip
    motion_from: str = setting(
        "depth", "optical flow at the joints from scene flow, as live, or from color images alone",
        choices=("depth", "images"),
    )  # fmt: skip
    max_bodies: int = setting(2, "bodies estimated at most, those seen longest", range=(1, 16))
    min_seen: float = setting(0.5, "share of the frames in which a body must be found", range=(0.0, 1.0))
    flow: dict = setting({}, "settings of actrec.scene_flow.stream.SceneFlowConfig")
    body: dict = setting({}, "settings of actrec.perception.pipeline.BodyPerceptionConfig")
    hand: dict = setting({}, "settings of actrec.perception.pipeline.HandPerceptionConfig")
    face: dict = setting({}, "settings of actrec.perception.pipeline.FacePerceptionConfig")

    def check(self) -> None:
        """Refuses what is no stream or cannot be estimated, and settings that an estimator does not have.

        Raises:
            ConfigError: Lists what is known.
        """
        config.validate(self)
        config.build(SceneFlowConfig, self.flow)
        config.build(BodyPerceptionConfig, self.body)
        config.build(HandPerceptionConfig, self.hand)
        config.build(FacePerceptionConfig, self.face)
        for field, known in (("streams", tuple(STREAM_KEYS)), ("estimate", ESTIMATES)):
            unknown = [name for name in getattr(self, field) if name not in known]
            if unknown:
                raise ConfigError(f"--{field} has '{unknown[0]}'; known: {', '.join(known)}")

    @property
    def kept(self) -> tuple[str, ...]:
        """The streams that are kept where a clip has them."""
        return tuple(dict.fromkeys([*(self.streams or POINTS), *self.estimate]))

    @property
    def required(self) -> tuple[str, ...]:
        """The streams without which a clip is not prepared."""
        return tuple(dict.fromkeys([*self.streams, *self.estimate]))

    @property
    def heavy(self) -> bool:
        """Return whether a clip takes seconds, not milliseconds."""
        return bool(self.estimate) or self.uses_images

    @property
    def uses_images(self) -> bool:
        """Return whether something is kept that is made from images."""
        return bool({"motion", "flow", "color"} & set(self.kept))

    @property
    def unread(self) -> frozenset[str]:
        """The kinds of an item's files (`Entry.files`) of which nothing is made."""
        if self.estimate:
            return frozenset()
        return frozenset({"depth"} if self.uses_images else {"depth", "color"})
