"""From an RGB-D frame to tracked bodies, hands and faces: settings, estimators by name, lifting and tracking."""

import dataclasses
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np

from actrec.perception.gravity import MAX_LEAN_DEG, GravityConfig, GravityEstimator
from actrec.perception.lifting import LiftingConfig, is_plausible, joint_radii, lift, limb_links, with_less_lean
from actrec.perception.networks import NetworkConfig
from actrec.perception.tracking import Tracker, TrackerConfig
from actrec.skeleton import layouts, shape_fits
from actrec.skeleton.layouts import CANONICAL, convert
from actrec.types import NANOSECONDS, Body, Face, Hand, RgbdFrame
from actrec.utils import gravity
from actrec.utils.config import build, setting
from actrec.utils.gravity import BodyKind
from actrec.utils.registry import Registry

logger = logging.getLogger(__name__)

ESTIMATORS = Registry(
    "estimator",
    {
        "body": "actrec.perception.body:BlazePose",
        "hand": "actrec.perception.hand_face:BlazeHand",
        "face": "actrec.perception.hand_face:BlazeFace",
    },
)


def create(kind: str, **options: Any) -> Any:
    """Create the estimator of `kind` ("body", "hand" or "face"); `options` are fields of its settings dataclass.

    A body estimator has `.estimate(frame) -> list[Detection]`, the others `.estimate(frame, bodies)`.

    Raises:
        ConfigError: The kind or an option is unknown; the message lists the known ones.
        MissingLibraryError: ONNX Runtime is not installed; the message has the command to install it.
        PackageError: A network is missing or damaged.
    """
    return ESTIMATORS.create(kind, **options)


@dataclass
class Detection:
    """One body, hand or face in one color image."""

    layout: str  # name of a layout in `actrec.skeleton.layouts`
    pixels: np.ndarray  # [V, 2] float32 (u, v), pixel centers at integers; may lie outside the image
    world: np.ndarray  # [V, 3] float32 meters about its own center, axes of the optical frame; NaN if unknown
    scores: np.ndarray  # [V] float32 in 0..1
    side: str = ""  # the person's own "left" or "right" for a hand, else empty
    body_id: str = ""  # id of its body; empty if unknown


@dataclass(frozen=True)
class BodyEstimatorConfig(NetworkConfig):
    """Settings of the body estimator."""

    body_model: str = setting("full", "Landmark network: lite takes two thirds of the time", choices=("lite", "full"))
    num_poses: int = setting(
        5, "Maximum number of people per frame; each costs one run of the pose network", range=(1, 20)
    )
    detect_every: int = setting(
        5,
        "Frames between searches for new people while a person is tracked; without one, every frame is searched",
        range=(1, 300),
    )
    min_detection_score: float = setting(0.5, "Minimum score of the person detector", range=(0.0, 1.0))
    max_gap_s: float = setting(
        1.0, "A longer gap between frames, or a stamp that jumps back, resets tracking", unit="s", range=(0.0, 60.0)
    )


@dataclass(frozen=True)
class HandPerceptionConfig(NetworkConfig):
    """Settings of the estimator and the lifting of hands."""

    hand_model: str = setting(
        "full", "Landmark network: lite takes a third of the time, but fingers seen from below lose their shape",
        choices=("lite", "full"),
    )  # fmt: skip
    hand_window_m: float = setting(0.26, "Edge of the search window around a body's hand", unit="m", range=(0.1, 1.0))
    num_hands: int = setting(2, "Maximum number of hands if no bodies are known", range=(1, 8))
    hand_max_gap_s: float = setting(
        1.0, "A longer gap between frames, or a stamp that jumps back, resets tracking", unit="s", range=(0.0, 60.0)
    )
    hand_depth_m: float = setting(
        0.12, "Maximum distance of a depth reading from the hand's shape", unit="m", range=(0.01, 1.0)
    )
    hand_joint_window_m: float = setting(
        0.015, "Edge of the square around a finger joint in which depth is read", unit="m", range=(0.002, 0.1)
    )


@dataclass(frozen=True)
class FacePerceptionConfig(NetworkConfig):
    """Settings of the estimator and the lifting of faces."""

    num_faces: int = setting(2, "Maximum number of faces if no bodies are known", range=(1, 10))
    head_window_m: float = setting(0.5, "Edge of the search window around a body's head", unit="m", range=(0.1, 2.0))
    face_retry_every: int = setting(
        3, "Frames between searches for a face that was not found at a body's head", range=(1, 100)
    )
    face_max_gap_s: float = setting(
        1.0, "A longer gap between frames, or a stamp that jumps back, resets tracking", unit="s", range=(0.0, 60.0)
    )
    face_depth_m: float = setting(
        0.10, "Maximum distance of a depth reading from the face's shape", unit="m", range=(0.01, 1.0)
    )
    face_point_window_m: float = setting(
        0.015, "Edge of the square around a face point in which depth is read", unit="m", range=(0.002, 0.1)
    )


FINGER_RADIUS_M = 0.008
"""Distance from a finger's skin to the centers of its joints."""


@dataclass(frozen=True)
class BodyPerceptionConfig(BodyEstimatorConfig, LiftingConfig, TrackerConfig, GravityConfig):
    """Settings of the estimator, the lifting and the tracker of bodies, and of the direction of gravity."""


@dataclass(frozen=True)
class PipelineConfig(BodyPerceptionConfig, HandPerceptionConfig, FacePerceptionConfig):
    """Settings of `Pipeline`."""

    hands: bool = setting(True, "Detect hands")
    faces: bool = setting(True, "Detect faces")


class _Perception:
    """Common part of the perception of bodies, hands and faces.

    Attributes:
        up: Unit vector [3] against gravity in the optical frame of the last frame; None if unknown.

    The networks see the image turned by the quarter turns that bring it nearest to upright; results refer to the image
    as it came.
    """

    config_class: ClassVar[type]
    kind: ClassVar[str]

    def __init__(self, **options: Any):
        self.config: Any = build(self.config_class, options)
        self._estimator = create(self.kind, **_options(self.config, ESTIMATORS.get(self.kind).config_class))
        self._turns = 0
        self.up: np.ndarray | None = None

    @property
    def device(self) -> str:
        """The devices that the networks run on, for the log."""
        return str(self._estimator.device)

    def reset(self) -> None:
        """Forget all tracked objects."""
        self._estimator.reset()

    def forget_camera(self) -> None:
        """Forget how the camera is mounted: the next frames are of another."""
        self._turns, self.up = 0, None

    def _upright(self, frame: RgbdFrame) -> RgbdFrame:
        """Return the frame turned upright, by its `up`."""
        self.up = frame.up
        turns = 0 if frame.up is None else gravity.quarter_turns(frame.up, self._turns)
        if turns != self._turns:
            self._estimator.reset()
            self._turns = turns
        return gravity.turn_frame(frame, turns)

    def _turned_back(self, found: Iterable[BodyKind], frame: RgbdFrame) -> list[BodyKind]:
        """Return bodies, hands or faces of the upright image as they are in the frame's own image."""
        found = list(found)  # before the turns are read, which finding them may change
        upright = gravity.turn_intrinsics(frame.intrinsics, self._turns)
        return [gravity.turn_joints(each, upright, -self._turns) for each in found]

    def close(self) -> None:
        """Free the models."""
        self._estimator.close()

    def _lifted(
        self, frame: RgbdFrame, bodies: list[Body], window_m: float, depth_m: float, radius_m: float
    ) -> Iterator[tuple[Detection, np.ndarray, np.ndarray]]:
        """Yield hands or faces, whose landmarks have no visibility, with their positions and scores."""
        config = LiftingConfig(window_m, 0.02, max_disagreement_m=depth_m, hidden_m=depth_m, min_joint_score=0.0)
        upright = self._upright(frame)
        turned = [gravity.turn_joints(_canonical(body), frame.intrinsics, self._turns) for body in bodies]
        for found in self._estimator.estimate(upright, turned):
            image = found.pixels, found.world, found.scores, upright.depth, upright.intrinsics
            yield found, *lift(*image, radius_m, config=config)[:2]


class BodyPerception(_Perception):
    """Estimation of poses, lifted by depth, converted to `kinect_v2_25` and tracked.

    Args:
        mount_option: How the user sets the mounting of the camera, for warnings.
        options: Fields of `BodyPerceptionConfig`.

    Raises:
        ConfigError: An option is unknown or out of range.
        MissingLibraryError: The estimator's library is not installed.

    Attributes:
        sizes: Check of the unit of depth by the size of people.
        gravity: Direction of gravity and its source.
    """

    config_class = BodyPerceptionConfig
    kind = "body"

    def __init__(self, mount_option: str = "mount:=", **options: Any):
        super().__init__(**options)
        shape_fits.prepare()
        self._mount_option = mount_option
        self._lifting = LiftingConfig(**_options(self.config, LiftingConfig))
        self._tracker = Tracker(**_options(self.config, TrackerConfig))
        self.gravity = GravityEstimator(mount_option, **_options(self.config, GravityConfig))
        self.sizes = SizeMonitor()

    def process(self, frame: RgbdFrame) -> list[Body]:
        """Return the bodies in `frame`, `kinect_v2_25`, tracked, with ids "body_1", "body_2" and so on.

        The direction of gravity is taken from the frame or the setting `mount`, else estimated. Depth in another unit
        is not used, and named in a warning.

        Raises:
            InputError: The frame has no color image or contradicts its intrinsics.
        """
        upright = self._upright(dataclasses.replace(frame, up=self.gravity.known(frame)))
        found = [self._body(detection, upright) for detection in self._estimator.estimate(upright)]
        bodies = self._tracker.update(frame.stamp_ns, self._turned_back(found, frame))
        self.gravity.update(frame, bodies)
        return bodies

    def reset(self) -> None:
        """Forget all tracked bodies; ids continue to count up."""
        super().reset()
        self._tracker.reset()
        self.sizes.reset()

    def forget_camera(self) -> None:
        """Forget how the camera is mounted: the next frames are of another."""
        super().forget_camera()
        self.gravity = GravityEstimator(self._mount_option, **_options(self.config, GravityConfig))

    def find_gravity(self, frames: Iterable[RgbdFrame]) -> None:
        """Estimate the direction of gravity from the first people in a recording, before its frames are processed.

        Only frames of the first `SEARCH_S` are observed, eight a second, until the direction is known. A frame without
        color has its own skeletons as bodies. Ids of tracked bodies start at "body_1" again.
        """
        start_ns = due_ns = None
        for frame in frames:
            start_ns = frame.stamp_ns if start_ns is None else start_ns
            if self.gravity.known(frame) is not None or frame.stamp_ns - start_ns > SEARCH_S * NANOSECONDS:
                break
            if frame.color is None:
                self.gravity.update(frame, frame.skeletons)
            elif due_ns is None or frame.stamp_ns >= due_ns:
                due_ns = frame.stamp_ns + NANOSECONDS // 8
                self.process(frame)
        self.gravity.conclude()
        self.reset()
        self._tracker = Tracker(**_options(self.config, TrackerConfig))

    def _body(self, found: Detection, frame: RgbdFrame) -> Body:
        radii, links = joint_radii(found.layout), limb_links(found.layout)
        image = found.pixels, found.world, found.scores, frame.depth, frame.intrinsics
        alone = partial(with_less_lean, found.world, found.layout, frame.up)
        lifted = lift(*image, radii, links, self._lifting, alone)
        self.sizes.add(frame.stamp_ns, lifted.size, frame.depth_scale)
        positions = with_whole_legs(lifted.positions, found, frame)
        positions, scores = convert(positions, lifted.scores, found.layout, CANONICAL)
        pixels, _ = convert(found.pixels, found.scores, found.layout, CANONICAL)
        # Whoever enters or leaves is guessed beyond the edge. At the bottom, legs are often out of view for long.
        beyond_side = (pixels[:, 0] < 0) | (pixels[:, 0] > frame.intrinsics.width - 1)
        return Body("", CANONICAL, positions, pixels, np.where(beyond_side, np.float32(0), scores))


SEARCH_S = 60.0
"""Part of a recording in which people are searched for the direction of gravity."""

FEET = ("ankle", "heel", "foot_index")

THIGH, SHANK = 0.95, 0.85
"""Lengths relative to the trunk from hips to shoulders, as found for people in full view (medians of 0.91 to 0.96 and
0.78 to 0.85)."""

EDGE = 0.03
"""Margin of the image, relative to its height, in which an ankle is taken to be outside."""


def with_whole_legs(positions: np.ndarray, found: Detection, frame: RgbdFrame) -> np.ndarray:
    """Return a body's positions [V, 3], with legs of usual length whose ankles are outside of the image.

    The estimator squeezes a cut-off leg into the image, and guesses the direction of its shank, often far to the front.
    The thigh keeps its direction and gets at least `THIGH` of the trunk's length, and the shank hangs, at least `SHANK`
    long. Nothing changes if gravity is unknown, or if the trunk leans by more than `MAX_LEAN_DEG`.
    """
    index, up = layouts.get(found.layout).index, frame.up
    hips, shoulders = (positions[[index[f"{part}_left"], index[f"{part}_right"]]].mean(axis=0)
                       for part in ("hip", "shoulder"))  # fmt: skip
    trunk = np.linalg.norm(shoulders - hips)
    if up is None or not (shoulders - hips) @ up > np.cos(np.radians(MAX_LEAN_DEG)) * trunk:
        return positions
    size, moved = np.array([frame.intrinsics.width, frame.intrinsics.height]), positions.copy()
    margin = EDGE * size[1]
    for side in ("left", "right"):
        hip, knee, ankle = (index[f"{part}_{side}"] for part in ("hip", "knee", "ankle"))
        if (found.pixels[ankle] < margin).any() or (found.pixels[ankle] > size - 1 - margin).any():
            thigh, shank = positions[knee] - positions[hip], np.linalg.norm(positions[ankle] - positions[knee])
            moved[knee] = positions[hip] + thigh * max(1.0, THIGH * trunk / np.linalg.norm(thigh))
            foot = moved[knee] - max(SHANK * trunk, shank) * up
            moved[[index[f"{part}_{side}"] for part in FEET]] += foot - positions[ankle]
    return moved


class HandPerception(_Perception):
    """Estimation of hands, at the wrists of known bodies, lifted by depth; `options` as `HandPerceptionConfig`."""

    config_class = HandPerceptionConfig
    kind = "hand"

    def process(self, frame: RgbdFrame, bodies: list[Body]) -> list[Hand]:
        """Return the hands of `bodies` in `frame`, `hand_21`; without bodies, any hands.

        Raises:
            InputError: The frame has no color image or contradicts its intrinsics, or a body does not convert to
                `kinect_v2_25` or has a wrong number of joints.
        """
        config = self.config
        lifted = self._lifted(frame, bodies, config.hand_joint_window_m, config.hand_depth_m, FINGER_RADIUS_M)
        hands = (Hand(f.body_id, f.layout, xyz, f.pixels, scores, side=f.side) for f, xyz, scores in lifted)
        return self._turned_back(hands, frame)


class FacePerception(_Perception):
    """Estimation of faces, at the heads of known bodies, lifted by depth; `options` as `FacePerceptionConfig`."""

    config_class = FacePerceptionConfig
    kind = "face"

    def process(self, frame: RgbdFrame, bodies: list[Body]) -> list[Face]:
        """Return the faces of `bodies` in `frame`, `face_68`; without bodies, any faces. Raises as for hands."""
        lifted = self._lifted(frame, bodies, self.config.face_point_window_m, self.config.face_depth_m, 0.0)
        faces = (Face(f.body_id, f.layout, xyz, f.pixels, scores) for f, xyz, scores in lifted)
        return self._turned_back(faces, frame)


class People(NamedTuple):
    """The people in one frame: bodies in `kinect_v2_25`, hands and faces with the ids of their bodies."""

    bodies: list[Body]
    hands: list[Hand]
    faces: list[Face]


class Pipeline(AbstractContextManager["Pipeline", None]):
    """Perception of bodies, hands and faces in RGB-D frames; a context manager.

    `options` are fields of `PipelineConfig`. Raises as `BodyPerception`.
    """

    config_class = PipelineConfig

    def __init__(self, **options: Any):
        c = self.config = build(PipelineConfig, options)
        self._bodies = BodyPerception(**_options(c, BodyPerceptionConfig))
        self._hands = HandPerception(**_options(c, HandPerceptionConfig)) if c.hands else None
        self._faces = FacePerception(**_options(c, FacePerceptionConfig)) if c.faces else None
        self._parts = [part for part in (self._bodies, self._hands, self._faces) if part is not None]

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def up(self) -> np.ndarray | None:
        """Unit vector [3] against gravity in the optical frame of the last frame; None if unknown."""
        return self._bodies.up

    def process(self, frame: RgbdFrame) -> People:
        """Return the tracked bodies in `frame` with their hands and faces.

        Without a tracked body there are no hands and faces. A body is reported from its second frame on (`min_hits`).
        """
        bodies = self._bodies.process(frame)
        frame = dataclasses.replace(frame, up=self._bodies.up)
        hands = self._hands.process(frame, bodies) if self._hands and bodies else []
        faces = self._faces.process(frame, bodies) if self._faces and bodies else []
        return People(bodies, hands, faces)

    def reset(self) -> None:
        """Forget all tracked people; ids continue to count up."""
        for part in self._parts:
            part.reset()

    def close(self) -> None:
        """Free the models."""
        for part in self._parts:
            part.close()


def _options(config: Any, kind: type) -> dict[str, Any]:
    """Return the fields of `config` that belong to its base class `kind`."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(kind)}


def _canonical(body: Body) -> Body:
    """Return the body in `kinect_v2_25`; `skeletons` of another tracker may have another layout."""
    positions, _ = convert(body.positions, body.scores, body.layout, CANONICAL)
    # Scores of the pixels: a joint without a position still has a search region.
    pixels, scores = convert(body.pixels, body.scores, body.layout, CANONICAL)
    return dataclasses.replace(body, layout=CANONICAL, positions=positions, pixels=pixels, scores=scores)


SIZES = 20
"""Sizes of people that a decision needs; three times as many are kept."""

MIN_SECONDS = 1.0
"""Time that they must span."""

AGREEMENT = 0.8
"""Share of them that must be implausible: besides people, a poster or a screen may be in view."""

FACTORS = (4.0, 5.0, 10.0, 100.0, 1000.0)
"""Ratios of usual units: 0.25, 0.2 and 0.1 mm, centimeters and meters to millimeters; and their inverses."""

TYPICAL_SIZE = 1.05
"""Median size of simulated and recorded people whose depth is right; it is 0.9 to 1.2 of adults."""

SAME_FACTOR = 1.5
"""Largest ratio of a size to a usual factor; children are smaller than the estimator assumes."""


class SizeMonitor:
    """Warns once if depth makes people so large or small that its unit must be another.

    Attributes:
        size: Median size of people by depth, relative to the estimator's own shape; NaN if unknown so far.
        fault: The warning; empty if there is none.
    """

    def __init__(self) -> None:
        self._readings: deque[tuple[int, float]] = deque()
        self._has_warned = False
        self.size, self.fault = float("nan"), ""

    def reset(self) -> None:
        """Forget the people so far."""
        self._readings.clear()

    @property
    def is_refused(self) -> bool:
        """Return whether the depth of most people so far is not used, because its unit must be another."""
        refused = [not is_plausible(size) for _, size in self._readings]
        return bool(refused) and float(np.mean(refused)) >= AGREEMENT

    def add(self, stamp_ns: int, size: float, depth_scale: float) -> None:
        """Add one person's size in a frame, NaN if unknown, and the frame's `depth_scale`."""
        if np.isnan(size):
            return
        if self._readings and stamp_ns < self._readings[-1][0]:  # a recording that starts again
            self._readings.clear()
        self._readings.append((stamp_ns, size))
        while len(self._readings) > 3 * SIZES and stamp_ns - self._readings[1][0] >= MIN_SECONDS * NANOSECONDS:
            self._readings.popleft()  # many people, or a fast camera, fill a second with more readings
        span_s = (stamp_ns - self._readings[0][0]) / NANOSECONDS
        if len(self._readings) < SIZES or span_s < MIN_SECONDS:
            return
        self.size = float(np.median([reading for _, reading in self._readings]))
        self.fault = describe_size(self.size, depth_scale) if self.is_refused else ""
        if self.fault and not self._has_warned:
            self._has_warned = True
            logger.warning("%s", self.fault)


def describe_size(size: float, depth_scale: float) -> str:
    """Return the warning about people of an implausible relative size, with the `depth_scale` that mends it."""
    known = np.array([*FACTORS, *(1 / factor for factor in FACTORS)])
    apart = np.exp(np.abs(np.log(known * TYPICAL_SIZE / size)))
    factors = known[apart <= min(SAME_FACTOR, 1.1 * float(apart.min()))]  # two, if the size is between them
    cause, units = "its unit seems wrong", f"about {depth_scale / size:.2g}"
    if len(factors):
        cause = f"its unit is wrong by a factor of {' or '.join(f'{factor:g}' for factor in factors)}"
        units = " or ".join(f"{depth_scale / factor:.3g}" for factor in factors)
    return (
        f"depth makes people {size:.3g} times as large as they are: {cause}; set depth_scale to {units} m (now "
        f"{depth_scale:g} m); until then joints have the estimator's own size and half the confidence"
    )
