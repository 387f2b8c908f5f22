"""From an RGB-D frame to tracked bodies, hands and faces."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from actrec.perception.base import (
    BodyEstimatorConfig,
    Detection,
    FaceEstimatorConfig,
    HandEstimatorConfig,
    create,
)
from actrec.perception.lifting import LiftingConfig, joint_radii, lift, limb_links
from actrec.perception.tracking import Tracker, TrackerConfig
from actrec.skeleton.layouts import CANONICAL, convert
from actrec.types import Body, Face, Hand, RgbdFrame
from actrec.utils.config import build, setting

T = TypeVar("T")

FINGER_RADIUS_M = 0.008
"""Distance from a finger's skin to the centers of its joints."""


@dataclass(frozen=True)
class BodyPerceptionConfig(BodyEstimatorConfig, LiftingConfig, TrackerConfig):
    """Settings of the estimator, the lifting and the tracker of bodies."""


@dataclass(frozen=True)
class HandPerceptionConfig(HandEstimatorConfig):
    """Settings of the estimator and the lifting of hands."""

    hand_depth_m: float = setting(
        0.12, "Maximum distance of a depth reading from the hand's shape", unit="m", range=(0.01, 1.0)
    )
    hand_joint_window_m: float = setting(
        0.015, "Edge of the square around a finger joint in which depth is read", unit="m", range=(0.002, 0.1)
    )


@dataclass(frozen=True)
class FacePerceptionConfig(FaceEstimatorConfig):
    """Settings of the estimator and the lifting of faces."""

    face_depth_m: float = setting(
        0.10, "Maximum distance of a depth reading from the face's shape", unit="m", range=(0.01, 1.0)
    )
    face_point_window_m: float = setting(
        0.015, "Edge of the square around a face point in which depth is read", unit="m", range=(0.002, 0.1)
    )


@dataclass(frozen=True)
class PipelineConfig(BodyPerceptionConfig, HandPerceptionConfig, FacePerceptionConfig):
    """Settings of `Pipeline`."""

    hands: bool = setting(True, "Detect hands")
    faces: bool = setting(True, "Detect faces")


class _Perception:
    """Common part of the perception of bodies, hands and faces."""

    _estimator: Any

    def reset(self) -> None:
        """Forget all tracked objects."""
        self._estimator.reset()

    def close(self) -> None:
        """Free the models."""
        self._estimator.close()


class BodyPerception(_Perception):
    """Estimation of poses, lifted by depth, converted to `kinect_v2_25` and tracked.

    Args:
        options: Fields of `BodyPerceptionConfig`.

    Raises:
        ConfigError: An option is unknown or out of range.
        MissingLibraryError: The estimator's library is not installed.
    """

    config_class = BodyPerceptionConfig

    def __init__(self, **options: Any):
        self.config = build(BodyPerceptionConfig, options)
        self._estimator = create("body", **dataclasses.asdict(_subset(self.config, BodyEstimatorConfig)))
        self._lifting = _subset(self.config, LiftingConfig)
        self._tracker = Tracker(**dataclasses.asdict(_subset(self.config, TrackerConfig)))

    def process(self, frame: RgbdFrame) -> list[Body]:
        """Return the bodies in `frame`, `kinect_v2_25`, tracked, with ids "body_1", "body_2" and so on.

        Raises:
            InputError: The frame has no color image or contradicts its intrinsics.
        """
        return self._tracker.update(frame.stamp_ns, [self._body(d, frame) for d in self._estimator.estimate(frame)])

    def reset(self) -> None:
        """Forget all tracked bodies; ids continue to count up."""
        super().reset()
        self._tracker.reset()

    def _body(self, detection: Detection, frame: RgbdFrame) -> Body:
        radii, links = joint_radii(detection.layout), limb_links(detection.layout)
        positions, scores = _lift(self._lifting, detection, frame, radii, links)
        positions, scores = convert(positions, scores, detection.layout, CANONICAL)
        pixels, _ = convert(detection.pixels, detection.scores, detection.layout, CANONICAL)
        return Body("", CANONICAL, positions, pixels, scores)


class HandPerception(_Perception):
    """Estimation of hands, at the wrists of known bodies, lifted by depth.

    Args:
        options: Fields of `HandPerceptionConfig`.
    """

    config_class = HandPerceptionConfig

    def __init__(self, **options: Any):
        self.config = build(HandPerceptionConfig, options)
        self._estimator = create("hand", **dataclasses.asdict(_subset(self.config, HandEstimatorConfig)))
        self._lifting = _fine_lifting(self.config.hand_joint_window_m, self.config.hand_depth_m)

    def process(self, frame: RgbdFrame, bodies: list[Body]) -> list[Hand]:
        """Return the hands of `bodies` in `frame`, `hand_21`; without bodies, any hands.

        Raises:
            InputError: The frame has no color image or contradicts its intrinsics, or a body does not convert to
                `kinect_v2_25` or has a wrong number of joints.
        """
        hands = []
        for detection in self._estimator.estimate(frame, [_canonical(body) for body in bodies]):
            positions, scores = _lift(self._lifting, detection, frame, FINGER_RADIUS_M)
            hands.append(
                Hand(detection.body_id, detection.layout, positions, detection.pixels, scores, side=detection.side)
            )
        return hands


class FacePerception(_Perception):
    """Estimation of faces, at the heads of known bodies, lifted by depth.

    Args:
        options: Fields of `FacePerceptionConfig`.
    """

    config_class = FacePerceptionConfig

    def __init__(self, **options: Any):
        self.config = build(FacePerceptionConfig, options)
        self._estimator = create("face", **dataclasses.asdict(_subset(self.config, FaceEstimatorConfig)))
        self._lifting = _fine_lifting(self.config.face_point_window_m, self.config.face_depth_m)

    def process(self, frame: RgbdFrame, bodies: list[Body]) -> list[Face]:
        """Return the faces of `bodies` in `frame`, `face_68`; without bodies, any faces.

        Raises:
            InputError: As `HandPerception.process`.
        """
        faces = []
        for detection in self._estimator.estimate(frame, [_canonical(body) for body in bodies]):
            positions, scores = _lift(self._lifting, detection, frame, 0.0)
            faces.append(Face(detection.body_id, detection.layout, positions, detection.pixels, scores))
        return faces


class People(NamedTuple):
    """The people in one frame.

    Attributes:
        bodies: Tracked bodies in `kinect_v2_25`.
        hands: Hands in `hand_21`, each with the id of its body.
        faces: Faces in `face_68`, each with the id of its body.
    """

    bodies: list[Body]
    hands: list[Hand]
    faces: list[Face]


class Pipeline:
    """Perception of bodies, hands and faces in RGB-D frames; a context manager.

    Args:
        options: Fields of `PipelineConfig`.

    Raises:
        ConfigError: An option is unknown or out of range.
        MissingLibraryError: The estimators' library is not installed.
    """

    config_class = PipelineConfig

    def __init__(self, **options: Any):
        self.config = build(PipelineConfig, options)

        def options_of(kind: type) -> dict[str, Any]:
            return dataclasses.asdict(_subset(self.config, kind))

        self._bodies = BodyPerception(**options_of(BodyPerceptionConfig))
        self._hands = HandPerception(**options_of(HandPerceptionConfig)) if self.config.hands else None
        self._faces = FacePerception(**options_of(FacePerceptionConfig)) if self.config.faces else None

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def process(self, frame: RgbdFrame) -> People:
        """Return the tracked bodies in `frame` with their hands and faces.

        Without a tracked body there are no hands and faces. A body is reported from its second frame on (`min_hits`).

        Raises:
            InputError: The frame has no color image or contradicts its intrinsics.
        """
        bodies = self._bodies.process(frame)
        hands = self._hands.process(frame, bodies) if self._hands and bodies else []
        faces = self._faces.process(frame, bodies) if self._faces and bodies else []
        return People(bodies, hands, faces)

    def reset(self) -> None:
        """Forget all tracked people; ids continue to count up."""
        for part in self._parts():
            part.reset()

    def close(self) -> None:
        """Free the models."""
        for part in self._parts():
            part.close()

    def _parts(self) -> list[_Perception]:
        return [part for part in (self._bodies, self._hands, self._faces) if part is not None]


def _subset(config: Any, kind: type[T]) -> T:
    """Return the fields of `config` that belong to its base class `kind`."""
    return kind(**{f.name: getattr(config, f.name) for f in dataclasses.fields(kind)})  # type: ignore[arg-type]


def _canonical(body: Body) -> Body:
    """Return the body in `kinect_v2_25`; `skeletons` of another tracker may have another layout."""
    positions, _ = convert(body.positions, body.scores, body.layout, CANONICAL)
    # Scores of the pixels: a joint without a position still has a search region.
    pixels, scores = convert(body.pixels, body.scores, body.layout, CANONICAL)
    return dataclasses.replace(body, layout=CANONICAL, positions=positions, pixels=pixels, scores=scores)


def _fine_lifting(window_m: float, depth_m: float) -> LiftingConfig:
    """Return lifting settings for small objects whose landmarks have no visibility."""
    return LiftingConfig(window_m=window_m, max_disagreement_m=depth_m, surface_gap_m=0.02, min_joint_score=0.0)


def _lift(
    config: LiftingConfig,
    detection: Detection,
    frame: RgbdFrame,
    radii: np.ndarray | float,
    links: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    d = detection
    return lift(d.pixels, d.world, d.scores, frame.depth, frame.intrinsics, radii, links, config)
