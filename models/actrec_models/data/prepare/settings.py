"""Settings of `actrec prepare`: streams of a store and their estimation."""

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
"""Keys of a clip that belong to each stream, besides bodies and stamps."""

POINTS = ("bodies", "hands", "face")
"""Streams kept by default, which need no images."""

ESTIMATES = ("bodies", "hands", "face", "motion", "flow")


@dataclass(frozen=True)
class PrepareConfig:
    """Streams of a store, and how missing ones are estimated."""

    streams: list = setting(
        [], "required streams to keep: bodies, hands, face, motion, flow, color; "
        "empty: bodies, and hands and face if available",
    )  # fmt: skip
    estimate: list = setting([], "streams to estimate from the camera frames: bodies, hands, face, motion, flow")
    image_height: int = setting(
        0, "height to reduce color to, with all pixel coordinates; 0 keeps it", unit="px",
        range=(0, 4320),
    )  # fmt: skip
    image_quality: int = setting(95, "JPEG quality of color", range=(1, 100))
    flow_limit_m_s: float = setting(
        4.0, "speed along an axis at which scene flow is clipped; resolution is 1/127 of it", unit="m/s",
        range=(0.1, 100.0),
    )  # fmt: skip
    motion_from: str = setting(
        "depth", "optical flow at the joints from scene flow, as live, or from color images alone",
        choices=("depth", "images"),
    )  # fmt: skip
    max_bodies: int = setting(2, "largest number of estimated bodies, the longest observed first", range=(1, 16))
    min_seen: float = setting(0.5, "share of the frames in which a body must be found", range=(0.0, 1.0))
    flow: dict = setting({}, "settings of actrec.scene_flow.stream.SceneFlowConfig")
    body: dict = setting({}, "settings of actrec.perception.pipeline.BodyPerceptionConfig")
    hand: dict = setting({}, "settings of actrec.perception.pipeline.HandPerceptionConfig")
    face: dict = setting({}, "settings of actrec.perception.pipeline.FacePerceptionConfig")

    def check(self) -> None:
        """Check streams, estimates and the settings of the estimators.

        Raises:
            ConfigError: A name or value is unknown; lists the known ones.
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
        """Return the streams to keep if a clip has them."""
        return tuple(dict.fromkeys([*(self.streams or POINTS), *self.estimate]))

    @property
    def required(self) -> tuple[str, ...]:
        """Return the streams that every clip must have."""
        return tuple(dict.fromkeys([*self.streams, *self.estimate]))

    @property
    def heavy(self) -> bool:
        """Return whether a clip takes seconds, not milliseconds."""
        return bool(self.estimate) or self.uses_images

    @property
    def uses_images(self) -> bool:
        """Return whether a kept stream is made from images."""
        return bool({"motion", "flow", "color"} & set(self.kept))

    @property
    def unread(self) -> frozenset[str]:
        """Return the kinds of files (`Entry.files`) that are not read."""
        if self.estimate:
            return frozenset()
        return frozenset({"depth"} if self.uses_images else {"depth", "color"})
