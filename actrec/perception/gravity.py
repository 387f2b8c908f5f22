"""Estimation of the direction of gravity from the people in view and the floor under them.

People stand, walk and sit upright: over some seconds, the direction from their feet to their heads is vertical within a
few degrees. With depth, the floor under their feet gives it within about one degree, and distinguishes a person who
lies on the floor from a camera that is turned.
"""

import contextlib
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from actrec.perception import floor_plane
from actrec.perception.floor_plane import Readings
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.types import NANOSECONDS, Body, RgbdFrame
from actrec.utils import gravity
from actrec.utils.config import build, setting
from actrec.utils.errors import InputError

_INDEX = KINECT_V2_25.index
_LEGS = np.array([[_INDEX[f"{joint}_{side}"] for joint in ("hip", "knee", "ankle")] for side in ("left", "right")])
_ARMS = np.array(
    [[_INDEX[f"{joint}_{side}"] for joint in ("shoulder", "elbow", "wrist")] for side in ("left", "right")]
)
_BASE, _SHOULDERS, _HEAD = _INDEX["spine_base"], _INDEX["spine_shoulder"], _INDEX["head"]

MIN_SCORE = 0.3
SEATED_WEIGHT = 0.1
"""Weight of a trunk alone, beside 1 for a straight standing body: seated people lean."""

HEAD_WEIGHT = 0.05
"""Weight of neck and head, if the image ends above the hips."""

MIN_WEIGHT = 1.0
"""Sum of weights from which on there is an estimate: one frame of a standing person, ten of a seated one."""


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GravityConfig:
    """Settings of the estimation of gravity."""

    mount: str = setting(
        "auto",
        "How the camera is mounted: level, upside_down, portrait_left, portrait_right, roll and pitch in degrees such "
        "as 0,25, or auto to use the camera's own data, else the people and the floor in view",
    )
    gravity_window_s: float = setting(
        4.0, "Time for which people are observed to estimate the direction of gravity", unit="s", range=(0.5, 600.0)
    )


class GravityEstimator:
    """Direction of gravity: from the setting `mount`, the frame, or the people and the floor in view.

    There is an estimate once people were observed for `gravity_window_s`. People alone, without a floor, turn the
    camera by 45° to 135° only if they walk, or, before anybody was seen upright, move an arm through the place of what
    they would lie on (`reaches_through`), or, of a source without depth, let the arm there hang (`arm_hangs`). If the
    camera is moved later, the estimate follows within two more windows. `options` are fields of `GravityConfig`.

    Args:
        mount_option: How the user sets the mounting, for warnings.

    Attributes:
        up: Unit vector [3] against gravity in the optical frame; None if unknown so far.
        source: Source of `up`, a name in `gravity.SOURCES`; empty if unknown.
        warning: Warning, with a remedy, about a direction that is in doubt; else empty.
    """

    config_class = GravityConfig

    def __init__(self, mount_option: str = "mount:=", **options: Any):
        self.config = build(GravityConfig, options)
        self._option = mount_option
        self._mount = None if self.config.mount == "auto" else gravity.parse_mount(self.config.mount)
        self._window_ns = int(self.config.gravity_window_s * NANOSECONDS)
        self._estimate: np.ndarray | None = None
        self._moved: np.ndarray | None = None  # another direction, in one window so far
        self._samples: deque[_Sample] = deque()
        self._newest: tuple[RgbdFrame, list[Body]] | None = None
        self._contradicted = False  # in one window so far
        self._upright = 0  # bodies upright in a level image, in all frames: who lies later fell or lay down
        self._by_arms = False  # the estimate is from `reaches_through` or `arm_hangs` alone
        self._has_depth = False  # in any frame
        self.warning = ""
        self._turns: int | None = None
        self._tries = 0
        self._choice = gravity.Choice(logger)
        self.up = self._choice.of({"setting": self._mount})

    @property
    def source(self) -> str:
        """Return the source of `up`."""
        return self._choice.source

    def known(self, frame: RgbdFrame) -> np.ndarray | None:
        """Return `up` before the people in `frame` are known: the setting's, the frame's own, or the estimate."""
        own = None if frame.up is None else gravity.check_up(frame.up)
        self.up = self._choice.of({"setting": self._mount, frame.up_source: own, "estimate": self._estimate})
        if self.up is not None and self._turns != (turns := gravity.quarter_turns(self.up, self._turns)):
            if self._turns is not None and self.source != "estimate":
                roll, pitch = gravity.angles_from_up(self.up)
                logger.warning(
                    "the camera was turned: by %s it is rolled by %.0f° and looks down by %.0f°; images are turned "
                    "upright, and label windows restart", gravity.SOURCES[self.source], roll, pitch
                )  # fmt: skip
            self._turns = turns
        return self.up

    def update(self, frame: RgbdFrame, bodies: list[Body]) -> None:
        """Add the tracked bodies (`kinect_v2_25`) of a frame."""
        self._has_depth |= frame.depth is not None
        if self._samples and not 0 <= frame.stamp_ns - self._samples[-1].stamp_ns <= self._window_ns:
            self._samples.clear()
        for body in bodies:
            axis, weight = body_axis(body.positions, body.scores)
            if weight > 0:
                known = np.isfinite(body.positions).all(axis=-1) & (body.scores >= MIN_SCORE)
                joints = np.where(known[:, None], body.positions, np.nan)
                self._samples.append(_Sample(frame.stamp_ns, body.body_id, axis, weight, joints))
                self._upright += angle_deg(axis, LEVEL) < UPRIGHT_DEG
        if bodies:
            self._newest = frame, bodies
        if bodies and self._samples and frame.stamp_ns - self._samples[0].stamp_ns >= self._window_ns:
            if self._mount is None and frame.up is None:
                self._decide(frame, bodies)
            else:
                self._compare(frame, bodies)

    def _compare(self, frame: RgbdFrame, bodies: list[Body]) -> None:
        """Warn if people contradict the stated direction in two windows in a row, and clear the samples."""
        stated, samples, weights = self.up, list(self._samples), np.array([sample.weight for sample in self._samples])
        if stated is None or weights.sum() < MIN_WEIGHT:
            return
        self._samples.clear()
        axis = median_direction(np.array([sample.axis for sample in samples]), weights)
        angle = angle_deg(axis, stated)
        # As for an estimate: people who lie are no evidence.
        is_wrong = angle > MAX_LEAN_DEG and (
            angle > UPSIDE_DOWN_DEG
            or walks(samples, axis)
            or bool(find_floors(frame, bodies, [axis]) and not find_floors(frame, bodies, [stated]))
        )
        before, self._contradicted = self._contradicted, is_wrong
        if not is_wrong:
            self.warning = ""
        elif before and not self.warning:
            self.warning = (
                f"people stand {angle:.0f}° off the direction of gravity that {gravity.SOURCES[self.source]} states: "
                f"was the camera mounted again? Correct it, or set {self._option}auto without it"
            )
            logger.warning(self.warning)

    def conclude(self) -> np.ndarray | None:
        """Return `up`, by all people since the last estimate even if they were observed for less than the window."""
        if self._estimate is None and self._newest is not None:
            self._tries = MAX_TRIES - 1
            self._decide(*self._newest)
        return self.up

    def _decide(self, frame: RgbdFrame, bodies: list[Body]) -> None:
        """Estimate from the window's samples and the floor under the people, and clear the samples."""
        samples = list(self._samples)
        weights = np.array([sample.weight for sample in samples])
        if weights.sum() < MIN_WEIGHT:
            return
        self._samples.clear()
        axis = median_direction(np.array([sample.axis for sample in samples]), weights)
        stands = weights[weights > SEATED_WEIGHT].sum() >= MIN_WEIGHT
        axis = round_to_mount(axis, STANDING_ERROR_DEG if stands else SEATED_ERROR_DEG)
        assumed = LEVEL if self._estimate is None else self._estimate
        angle = angle_deg(axis, assumed)
        is_sideways = MAX_LEAN_DEG < angle < UPSIDE_DOWN_DEG
        may_lie = is_sideways and not walks(samples, axis)
        on_floor = next(iter(find_floors(frame, bodies, [axis])), None)
        if may_lie or (is_sideways and on_floor is None):
            # People who lie on it: a plane at their feet is then a wall.
            on_floor = next(iter(find_floors(frame, bodies, [assumed])), on_floor)
        if on_floor is None and self._estimate is None and frame.depth is not None and self._tries < MAX_TRIES:
            self._tries += 1
            if is_sideways:  # before a camera that looks down
                on_floor = search_floor(frame, bodies, assumed)
            if on_floor is None:
                on_floor = search_floor(frame, bodies, axis)  # people who bend
            if on_floor is None and self._tries < MAX_TRIES:  # the floor may be found in a later frame
                middle = len(samples) // 2
                self._samples.extend(samples[middle:])
                return
        at_first = self._estimate is None and self._upright < MIN_UPRIGHT
        # Without depth no floor can ever contradict, and a recording of joints has nothing else.
        by_arms = (at_first and may_lie and on_floor is None) and any(
            reaches_through(arm) or (not self._has_depth and arm_hangs(arm)) for arm in _arms_beneath(samples)
        )
        refuted = self._by_arms and stands and angle_deg(axis, LEVEL) < MAX_LEAN_DEG  # people stand as in a level one
        if may_lie and on_floor is None and not (by_arms or refuted):
            self._doubt(axis)
            self._samples.extend(samples[len(samples) // 2 :])  # someone may begin to walk
            return
        found = round_to_mount(axis, PEOPLE_ERROR_DEG) if on_floor is None else on_floor
        if self._estimate is None or refuted:
            self._set(found)
            self._by_arms = by_arms
        elif angle_deg(found, self._estimate) < (FLOOR_CHANGE_DEG if on_floor is not None else PEOPLE_CHANGE_DEG):
            self._moved, self.warning = None, ""
        elif on_floor is not None or stands:
            if self._moved is not None and angle_deg(found, self._moved) < FLOOR_CHANGE_DEG + STANDING_ERROR_DEG:
                self._set(found)
            else:
                self._moved = found

    def _set(self, up: np.ndarray) -> None:
        before, self._estimate, self._moved, self.warning = self._estimate, up, None, ""
        self._by_arms = False
        self.up = self._choice.of({"estimate": up})
        roll, pitch = gravity.angles_from_up(up)
        if before is not None or angle_deg(up, LEVEL) > MAX_LEAN_DEG:
            logger.warning(
                "%s: by the people and the floor it is rolled by %.0f° and looks down by %.0f°; if this is wrong, set "
                "%slevel", "the camera was moved" if before is not None else "the camera is not upright", roll, pitch,
                self._option,
            )  # fmt: skip

    def _doubt(self, axis: np.ndarray) -> None:
        """Warn once of people who lie sideways in the image, without a floor or a walk as evidence."""
        if not self.warning:
            name = min(gravity.MOUNTS, key=lambda mount: angle_deg(axis, np.array(gravity.MOUNTS[mount], np.float32)))
            self.warning = (
                "people lie sideways in the image, and no floor is in view: they may lie, or the camera may be turned. "
                "It counts as upright until a person walks or moves both arms freely; if it is turned, set "
                f"{self._option}{name}"
            )
            logger.warning(self.warning)


@dataclass(frozen=True)
class _Sample:
    """A body in one frame: direction [3] to its head, weight of that, and joints [25, 3] m, NaN if not seen."""

    stamp_ns: int
    body_id: str
    axis: np.ndarray
    weight: float
    joints: np.ndarray


def walks(samples: Sequence[_Sample], axis: np.ndarray) -> bool:
    """Return whether a straight body moves across its own axis [3] and steps, as lying people do not.

    The hips of a lying person move, too, before a camera on a robot that drives.
    """
    # Not before a fall, in which the hips move as well.
    upright = (s for s in samples if s.weight > SEATED_WEIGHT and angle_deg(s.axis, axis) < SEATED_ERROR_DEG)
    for own in _by_body(upright):
        joints = np.stack([sample.joints for sample in own])
        joints = joints - (joints @ axis)[..., None] * axis
        bases = joints[np.isfinite(joints[:, _BASE]).all(axis=-1), _BASE]
        feet = joints[:, _LEGS[0, 2]] - joints[:, _LEGS[1, 2]]
        feet = feet[np.isfinite(feet).all(axis=-1)]
        if not len(bases) or not len(feet):
            continue
        way = float(np.percentile(np.linalg.norm(bases - np.median(bases, axis=0), axis=1), 90))
        step = float(np.ptp(np.percentile(feet, (5, 95), axis=0), axis=0).max())
        if way > WALK_M and step > STEP_M:
            return True
    return False


class _Arm(NamedTuple):
    """The arm [frames, 3] beneath a straight body that in a level image would lie on one side, in `on_side` frames."""

    shoulder: np.ndarray
    elbow: np.ndarray
    wrist: np.ndarray
    hip: np.ndarray
    outward: np.ndarray  # from the other shoulder
    on_side: np.ndarray


def reaches_through(arm: _Arm) -> bool:
    """Return whether the arm beneath moves through the place of what its owner would lie on.

    There is a floor or a bed beneath who lies; before a turned camera there is nothing. An arm that only hangs beside a
    body, or over the edge of a bed, is no evidence.
    """
    trunk = np.maximum(*((place * arm.outward).sum(axis=-1) for place in (arm.shoulder, arm.hip)))
    elbow, reach = ((place * arm.outward).sum(axis=-1) - trunk for place in (arm.elbow, arm.wrist))
    # Beyond the elbow, on which a person may lean. False if joints are missing.
    through = arm.on_side & (reach > np.maximum(REACH_M, elbow + PAST_ELBOW_M))
    if through.sum() < max(MIN_THROUGH * len(through), MIN_FRAMES):
        return False
    moved = (arm.wrist - arm.shoulder)[arm.on_side & np.isfinite(reach)]
    return bool(np.ptp(np.percentile(moved, (5, 95), axis=0), axis=0).max() > MOVED_M)


def arm_hangs(arm: _Arm) -> bool:
    """Return whether the arm beneath is stretched along the trunk in half of the frames or more.

    Arms of people who stand hang; a person who lies on one side rests on that arm, or has it before the body. This is
    likely, not certain.
    """
    down = arm.hip - arm.shoulder
    down /= np.maximum(np.linalg.norm(down, axis=-1, keepdims=True), 1e-6)
    parts = arm.elbow - arm.shoulder, arm.wrist - arm.elbow
    length = sum(np.linalg.norm(part, axis=-1) for part in parts)
    hangs = arm.on_side & ((sum(parts) * down).sum(axis=-1) > HANGING * length)
    return bool(hangs.sum() >= 0.5 * len(hangs))


def _arms_beneath(samples: Sequence[_Sample]) -> Iterator[_Arm]:
    """Yield the lower arms of the straight bodies that are on one side in half of their frames or more."""
    for own in _by_body(sample for sample in samples if sample.weight > STRAIGHT):
        joints = np.stack([sample.joints for sample in own])
        shoulders, elbows, wrists = joints[:, _ARMS].transpose(2, 1, 0, 3)
        across = shoulders[1] - shoulders[0]
        across /= np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), 1e-6)
        # Upward for who lies along the axis; a camera may look down too, or be rolled by another angle than 90°.
        axes = np.stack([sample.axis for sample in own])
        above = LEVEL - (axes @ LEVEL)[:, None] * axes
        above /= np.maximum(np.linalg.norm(above, axis=-1, keepdims=True), 1e-6)
        tilt = (across * above).sum(axis=-1)  # the right shoulder is beneath if < 0
        side = int(np.nanmedian(tilt) < 0) if np.isfinite(tilt).any() else 0
        on_side = tilt * (-1 if side else 1) > ON_SIDE
        if on_side.sum() >= 0.5 * len(own):
            hip, outward = joints[:, _LEGS[side, 0]], across * (1 if side else -1)
            yield _Arm(shoulders[side], elbows[side], wrists[side], hip, outward, on_side)


def _by_body(samples: Iterable[_Sample]) -> list[list[_Sample]]:
    own: dict[str, list[_Sample]] = {}
    for sample in samples:
        own.setdefault(sample.body_id, []).append(sample)
    return list(own.values())


LEVEL = np.array(gravity.LEVEL, np.float32)

REACH_M, PAST_ELBOW_M, MOVED_M = 0.2, 0.05, 0.25
"""Way in m of a wrist beyond shoulder and hip, beyond the elbow, and of its motion, of an arm beneath who would lie."""

ON_SIDE, STRAIGHT, MIN_THROUGH = 0.9, 0.3, 0.05
"""Cosine of the shoulders' angle upward and weight of a body that would lie on one side; share of frames for it."""

MIN_FRAMES = 3

HANGING = 0.85
"""Share of an arm's length, along the trunk, from shoulder to wrist, of an arm that hangs."""

MIN_UPRIGHT, UPRIGHT_DEG = 5, 30.0
"""Bodies upright in a level image, over all frames, from which on people sideways fell or lay down; their angle."""

STEP_M = 0.15
"""Change of the way from foot to foot, in m, of who walks."""

FLOOR_CHANGE_DEG, PEOPLE_CHANGE_DEG = 4.0, 20.0
"""Change of an estimate by the floor, or by standing people alone, beyond which the camera was moved."""

MAX_TRIES = 3
"""Searches for the floor before the people's axis alone is taken; one takes about 0.15 s, of people sideways 0.3 s."""

MAX_BEND_DEG = 45.0
"""Angle to the vertical up to which the floor under people is searched."""

WALK_M = 0.4
"""Distance of a walk from its middle in m, from which on a person is upright."""

MAX_LEAN_DEG = 45.0
"""Angle between people's axis and `up` beyond which people lie, or the camera is turned."""

STANDING_ERROR_DEG, SEATED_ERROR_DEG = 6.0, 30.0
"""Error of the axis of standing people, and of others, who lean: within it the camera counts as mounted exactly."""

PEOPLE_ERROR_DEG = 9.0
"""The same without a floor in view, whose axis is up to 11° off (90th percentile of N-UCLA's training people).

With 12°, cameras rolled by 75° are taken for 90°.
"""

UPSIDE_DOWN_DEG = 135.0
"""Angle beyond which people do not lie: a person on the head for seconds is too rare."""


def round_to_mount(up: np.ndarray, within_deg: float) -> np.ndarray:
    """Return the mounting of `gravity.MOUNTS` within this angle of `up` [3], else `up` itself."""
    nearest = max(gravity.MOUNTS.values(), key=lambda mount: float(up @ mount))
    mount = np.array(nearest, np.float32)
    return mount if angle_deg(up, mount) < within_deg else up


def angle_deg(a: np.ndarray, b: np.ndarray) -> float:
    """Return the angle between unit vectors [3] in degrees."""
    return float(np.degrees(np.arccos(np.clip(a @ b, -1.0, 1.0))))


def find_floors(frame: RgbdFrame, bodies: list[Body], ups: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Return the normals [3] of the floors that are found near some of the directions `ups` [3]."""
    joints = np.concatenate([body.positions for body in bodies])
    joints = joints[np.isfinite(joints).all(axis=1)]
    found: list[np.ndarray] = []
    if frame.depth is None or not len(joints):
        return found
    with contextlib.suppress(InputError):
        readings = Readings.of(frame.depth, frame.intrinsics, standing=True)
        for up in ups:
            with contextlib.suppress(InputError):
                found.append(gravity.check_up(floor_plane.find_floor(readings, up, joints).normal))
    return found


def search_floor(frame: RgbdFrame, bodies: list[Body], axis: np.ndarray) -> np.ndarray | None:
    """Return the normal [3] of the floor under people who bend, or lean by up to `MAX_BEND_DEG` to any side.

    Several planes may pass for a floor; the returned one agrees with most of the directions that were tried.
    """
    across = np.cross(axis, [0.0, 0.0, 1.0] if abs(axis[2]) < 0.9 else [1.0, 0.0, 0.0])
    across /= np.linalg.norm(across)
    sides = [np.cos(side) * across + np.sin(side) * np.cross(axis, across) for side in np.radians(range(0, 360, 45))]
    leans = np.radians((MAX_BEND_DEG / 2, MAX_BEND_DEG))
    found = find_floors(frame, bodies, (np.cos(lean) * axis + np.sin(lean) * side for lean in leans for side in sides))
    if not found:
        return None
    agree = [sum(angle_deg(one, other) < FLOOR_CHANGE_DEG for other in found) for one in found]
    return found[int(np.argmax(agree))]


def body_axis(positions: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the direction [3] from a body's feet, else its hips, to its head, and its weight in 0..1.

    The weight falls with the angles between shanks, thighs and trunk: only a straight body is vertical. Positions are
    [25, 3] m, NaN for missing, scores [25] in 0..1.
    """
    known = np.isfinite(positions).all(axis=-1) & (scores >= MIN_SCORE)
    lower, upper, weight = (_BASE, _SHOULDERS, SEATED_WEIGHT) if known[_BASE] else (_SHOULDERS, _HEAD, HEAD_WEIGHT)
    trunk = positions[upper] - positions[lower]
    length = float(np.linalg.norm(trunk)) if known[[lower, upper]].all() else 0.0
    if length < 0.05:
        return np.zeros(3, np.float32), 0.0
    best = trunk / length
    if known[_LEGS].all() and known[_HEAD]:
        hips, knees, ankles = positions[_LEGS].transpose(1, 0, 2)
        segments = np.concatenate([hips - knees, knees - ankles])
        segments /= np.maximum(np.linalg.norm(segments, axis=1, keepdims=True), 1e-6)
        bend = float((segments @ best).min())  # cosine of the largest angle of a leg's segment to the trunk
        straightness = np.clip((bend - 0.9) / 0.07, 0.0, 1.0)  # 0 at 26°, 1 at 14°
        if straightness > SEATED_WEIGHT:
            axis = positions[_HEAD] - ankles.mean(axis=0)
            best, weight = axis / max(float(np.linalg.norm(axis)), 1e-6), float(straightness)
    return best.astype(np.float32), weight


def median_direction(axes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted geometric median of unit vectors [N, 3], normalized (Weiszfeld's iteration)."""
    middle = (weights[:, None] * axes).sum(axis=0)
    for _ in range(20):
        factor = weights / np.maximum(np.linalg.norm(axes - middle / max(np.linalg.norm(middle), 1e-6), axis=1), 0.02)
        middle = (factor[:, None] * axes).sum(axis=0)
    return gravity.check_up(middle)
