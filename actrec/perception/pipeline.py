"""From an RGB-D frame to tracked bodies, hands and faces: all that a node needs.

What a camera sees, found by the same perception as in the live graph, with no ROS.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from actrec import cameras, perception
from actrec.perception.base import BodyEstimatorConfig, Detection, FaceEstimatorConfig, HandEstimatorConfig
from actrec.perception.lifting import Lifter, LiftingConfig, joint_radii, limb_links
from actrec.perception.tracking import Tracker, TrackerConfig
from actrec.recordings.clip_recorder import Observation, ReadObservation
from actrec.recordings.rosbag.writer import SKELETONS_TOPIC, BagWriter
from actrec.skeleton.conversions import CANONICAL, convert
from actrec.types import Body, Face, Hand, RgbdFrame
from actrec.utils.config import build, setting

T = TypeVar("T")


def part(config: Any, kind: type[T]) -> T:
    """The fields of `config` that make up the settings `kind`, which it inherits."""
    return kind(**{f.name: getattr(config, f.name) for f in dataclasses.fields(kind)})  # type: ignore[arg-type]


@dataclass(frozen=True)
class BodyPerceptionConfig(BodyEstimatorConfig, LiftingConfig, TrackerConfig):
    """Settings of the way from a frame to tracked bodies: those of its three parts."""


@dataclass(frozen=True)
class HandPerceptionConfig(HandEstimatorConfig):
    """Settings of the way from a frame to hands."""

    hand_depth_m: float = setting(
        0.12, "Depth further than this from the hand's shape is refused", unit="m", range=(0.01, 1.0)
    )
    hand_joint_window_m: float = setting(
        0.015, "Edge of the square around a finger joint in which depth is read", unit="m", range=(0.002, 0.1)
    )


@dataclass(frozen=True)
class FacePerceptionConfig(FaceEstimatorConfig):
    """Settings of the way from a frame to faces."""

    face_depth_m: float = setting(
        0.10, "Depth further than this from the face's shape is refused", unit="m", range=(0.01, 1.0)
    )
    face_point_window_m: float = setting(
        0.015, "Edge of the square around a face point in which depth is read", unit="m", range=(0.002, 0.1)
    )


FINGER_RADIUS_M = 0.008
"""From a finger's skin to its joints' centers."""


class BodyPerception:
    """Estimates poses, lifts them by depth, converts them to `kinect_v2_25` and tracks them.

    Args:
        options: Fields of `BodyPerceptionConfig`.

    Raises:
        ConfigError: An option is unknown or out of range.
        MissingLibraryError: The estimator's library is absent.
    """

    config_class = BodyPerceptionConfig

    def __init__(self, **options: Any):
        self.config = build(BodyPerceptionConfig, options)
        self._estimator = perception.create("body", **dataclasses.asdict(part(self.config, BodyEstimatorConfig)))
        self._lifter = Lifter(part(self.config, LiftingConfig))
        self._tracker = Tracker(**dataclasses.asdict(part(self.config, TrackerConfig)))

    def process(self, frame: RgbdFrame) -> list[Body]:
        """The bodies in `frame`, `kinect_v2_25`, with ids "body_1", …; empty for an empty scene.

        Raises:
            InputError: The frame has no color image or contradicts its intrinsics.
        """
        return self._tracker.update(frame.stamp_ns, [self._body(d, frame) for d in self._estimator.estimate(frame)])

    def reset(self) -> None:
        """Forgets everybody, as if the next frame were the first; ids go on counting."""
        self._estimator.reset()
        self._tracker.reset()

    def close(self) -> None:
        """Frees the models."""
        self._estimator.close()

    def _body(self, detection: Detection, frame: RgbdFrame) -> Body:
        positions, scores = self._lifter.lift(
            detection.pixels,
            detection.world,
            detection.scores,
            frame.depth,
            frame.intrinsics,
            joint_radii(detection.layout),
            limb_links(detection.layout),
        )
        positions, scores = convert(positions, scores, detection.layout, CANONICAL)
        pixels, _ = convert(detection.pixels, detection.scores, detection.layout, CANONICAL)
        return Body("", CANONICAL, positions, pixels, scores)


class HandPerception:
    """Estimates hands, at bodies' wrists where bodies are known, and lifts them.

    Args:
        options: Fields of `HandPerceptionConfig`.
    """

    config_class = HandPerceptionConfig

    def __init__(self, **options: Any):
        self.config = build(HandPerceptionConfig, options)
        self._estimator = perception.create("hand", **dataclasses.asdict(part(self.config, HandEstimatorConfig)))
        self._lifter = _small(self.config.hand_joint_window_m, self.config.hand_depth_m)

    def process(self, frame: RgbdFrame, bodies: list[Body]) -> list[Hand]:
        """The hands of `bodies` (or, with none given, any hands) in `frame`, `hand_21`.

        Raises:
            InputError: The frame has no color image or contradicts its intrinsics, or a body's layout does not convert
                to `kinect_v2_25` or has another number of joints.
        """
        found = self._estimator.estimate(frame, [_canonical(body) for body in bodies])
        hands = []
        for detection in found:
            positions, scores = _lifted(self._lifter, detection, frame, FINGER_RADIUS_M)
            hands.append(
                Hand(detection.body_id, detection.layout, positions, detection.pixels, scores, side=detection.side)
            )
        return hands

    def reset(self) -> None:
        """Forgets the hands followed."""
        self._estimator.reset()

    def close(self) -> None:
        """Frees the models."""
        self._estimator.close()


class FacePerception:
    """Estimates faces, at bodies' heads where bodies are known, and lifts them.

    Args:
        options: Fields of `FacePerceptionConfig`.
    """

    config_class = FacePerceptionConfig

    def __init__(self, **options: Any):
        self.config = build(FacePerceptionConfig, options)
        self._estimator = perception.create("face", **dataclasses.asdict(part(self.config, FaceEstimatorConfig)))
        self._lifter = _small(self.config.face_point_window_m, self.config.face_depth_m)

    def process(self, frame: RgbdFrame, bodies: list[Body]) -> list[Face]:
        """The faces of `bodies` (or, with none given, any faces) in `frame`, `face_68`.

        Raises:
            InputError: The frame has no color image or contradicts its intrinsics, or a body's layout does not convert
                to `kinect_v2_25` or has another number of joints.
        """
        faces = []
        for detection in self._estimator.estimate(frame, [_canonical(body) for body in bodies]):
            positions, scores = _lifted(self._lifter, detection, frame, 0.0)
            faces.append(Face(detection.body_id, detection.layout, positions, detection.pixels, scores))
        return faces

    def reset(self) -> None:
        """Forgets the faces followed."""
        self._estimator.reset()

    def close(self) -> None:
        """Frees the models."""
        self._estimator.close()


def _canonical(body: Body) -> Body:
    """The body in `kinect_v2_25`; whoever else tracks people may publish `skeletons` in a layout of its own."""
    positions, _ = convert(body.positions, body.scores, body.layout, CANONICAL)
    # Pixels say where to look; of joints without a position too.
    pixels, scores = convert(body.pixels, body.scores, body.layout, CANONICAL)
    return dataclasses.replace(body, layout=CANONICAL, positions=positions, pixels=pixels, scores=scores)


def _small(window_m: float, depth_m: float) -> Lifter:
    """A lifter for something small whose landmarks have no visibility of their own."""
    return Lifter(
        build(
            LiftingConfig,
            {"window_m": window_m, "max_disagreement_m": depth_m, "surface_gap_m": 0.02, "min_joint_score": 0.0},
        )
    )


def _lifted(lifter: Lifter, detection: Detection, frame: RgbdFrame, radius: float) -> tuple[np.ndarray, np.ndarray]:
    return lifter.lift(detection.pixels, detection.world, detection.scores, frame.depth, frame.intrinsics, radius)


@contextlib.contextmanager
def camera_observations(driver: str, options: dict[str, Any], images: bool) -> Iterator[ReadObservation]:
    """Opens a camera and finds the people in its frames.

    Args:
        driver: A name in `actrec.cameras.DRIVERS`.
        options: Its settings.
        images: Whether a observation also writes color and depth.

    Yields:
        Gives the next observation; see `actrec.recordings.clip_recorder.ReadObservation`.

    Raises:
        ConfigError: Unknown driver or option.
        DeviceError: There is no such camera.
        MissingLibraryError: The estimator's library is absent.
    """
    with contextlib.ExitStack() as held:
        camera = held.enter_context(cameras.create(driver, **options))
        perceive = perceiver(held)

        def read(timeout_s: float) -> Observation:
            frame = camera.read(timeout_s)
            return _sight(perceive(frame), images)

        yield read


def perceiver(held: contextlib.ExitStack) -> Callable[[RgbdFrame], RgbdFrame]:
    """Gives a frame the people that are found in it; joints alone are taken as they are."""
    perception: list[BodyPerception] = []

    def perceive(frame: RgbdFrame) -> RgbdFrame:
        if frame.color is None:
            return frame
        if not perception:
            perception.append(held.enter_context(contextlib.closing(BodyPerception())))
        return dataclasses.replace(frame, skeletons=perception[0].process(frame))

    return perceive


def _sight(frame: RgbdFrame, images: bool) -> Observation:
    bodies = frame.skeletons

    def write(bag: BagWriter) -> None:
        bag.write_bodies(SKELETONS_TOPIC, frame.stamp_ns, frame.frame_id, bodies)
        if images and frame.color is not None:
            bag.write_frame(dataclasses.replace(frame, skeletons=[]))

    return Observation(frame.stamp_ns, bodies, write)
