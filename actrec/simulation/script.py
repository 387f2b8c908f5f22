"""Script of an actor: a recorded skeleton, smoothed and with fixed bone lengths, and the floor under it.

The smoothed skeleton is rendered and is the ground truth; the recording's noise is removed.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from actrec.simulation.actor import ANKLE_HEIGHT, REFERENCE_STATURE, TOE_HEIGHT, ActorPose
from actrec.simulation.posture import Physique
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.skeleton.sequence import SkeletonSequence
from actrec.types import NANOSECONDS
from actrec.utils import gravity
from actrec.utils.errors import InputError
from actrec.utils.geometry import unit

_J = KINECT_V2_25.index
_FEET, _ANKLES = ([_J[f"{joint}_left"], _J[f"{joint}_right"]] for joint in ("foot", "ankle"))
_PARENTS = np.array(KINECT_V2_25.parents)

_ORDER = (0, 1, 20, 2, 3, 4, 5, 6, 7, 21, 22, 8, 9, 10, 11, 23, 24, 12, 13, 14, 15, 16, 17, 18, 19)
"""Joints from the root outward."""

_REQUIRED_JOINTS = (
    "spine_base", "spine_shoulder", "head", "shoulder_left", "shoulder_right", "hip_left", "hip_right",
)  # fmt: skip

_RELAXED_CURL = np.full((2, 5), 0.3)

_PRIOR_SPREAD = 0.45
"""Standard deviation of the feet's depth, m, at which their slope has the same weight as the upright body."""

_FLOOR_TOLERANCE = 0.03
"""Feet farther than this (m) from the fitted floor are down-weighted."""

_MAX_PITCH = np.radians(35.0)


def estimate_ground(joints: np.ndarray, stature: float, pitch: float | None = None) -> tuple[float, float]:
    """Return the recording camera's height above the floor under the feet, m, and its downward tilt, radians.

    The pitch combines the slope of the lowest feet over depth with the direction from head to ankles. In at most one
    frame of ten, feet are below the floor, since a Kinect misplaces occluded feet.

    Joints [N, 25, 3] are in the optical frame, m; the stature is in m. A known `pitch`, radians, is kept: people who
    sit or lie do not show it.
    """
    scale = stature / REFERENCE_STATURE
    feet = np.concatenate(
        [joints[:, _FEET] + [0, TOE_HEIGHT * scale, 0], joints[:, _ANKLES] + [0, ANKLE_HEIGHT * scale, 0]], axis=1
    )
    pitch = _pitch(joints, feet) if pitch is None else pitch
    down = np.array([0.0, np.cos(pitch), np.sin(pitch)])
    height = float(np.percentile((feet @ down).max(axis=1), 90))
    return float(np.clip(height, 0.3, 3.0)), pitch


def _pitch(joints: np.ndarray, feet: np.ndarray) -> float:
    lowest = feet[np.arange(len(feet)), feet[..., 1].argmax(axis=1)]
    # The pitch at which the body is upright, from the frames in which it is longest.
    trunk = joints[:, _ANKLES].mean(axis=1) - joints[:, _J["head"]]
    length = np.linalg.norm(trunk, axis=1)
    tall = trunk[length >= np.percentile(length, 70)]
    prior = float(np.clip(np.median(np.arctan2(tall[:, 2], tall[:, 1])), -_MAX_PITCH, _MAX_PITCH))
    z = lowest[:, 2] - lowest[:, 2].mean()
    y = lowest[:, 1] - lowest[:, 1].mean()
    # y = −tan(pitch)·z by least squares with a prior, reweighted for lifted and misplaced feet.
    weight, slope = np.ones(len(z)), 0.0
    for _ in range(8):
        n = weight.sum()
        zc, yc = z - (weight @ z) / n, y - (weight @ y) / n
        slope = ((weight * zc) @ yc / n - np.tan(prior) * _PRIOR_SPREAD**2) / (
            (weight * zc) @ zc / n + _PRIOR_SPREAD**2
        )
        weight = 1 / np.maximum(np.abs(yc - slope * zc) / _FLOOR_TOLERANCE, 1.0)
    return float(np.clip(-np.arctan(slope), -_MAX_PITCH, _MAX_PITCH))


@dataclass(frozen=True)
class Script:
    """Recorded motion of one body."""

    times: np.ndarray  # [T] seconds from the start of the recording, increasing
    present: np.ndarray  # [T] bool, whether the body was tracked
    root: np.ndarray  # [T, 3] spine base, m, optical frame
    directions: np.ndarray  # [T, 25, 3] unit vector of each bone, from its parent
    lengths: np.ndarray  # [25] constant bone lengths, m
    heads: np.ndarray  # [T, 3, 3] columns left, up, forward
    hands: np.ndarray  # [T, 2, 3, 3] columns toward the thumb, along the fingers, out of the palm
    step: float  # seconds between frames (median)
    pitch: float | None = None  # known downward tilt of the camera, radians

    @property
    def duration(self) -> float:
        """Return the duration in seconds, including the last frame."""
        return float(self.times[-1]) + self.step

    @cached_property
    def joints(self) -> np.ndarray:
        """Return the rendered joints at the recording's stamps, [T, 25, 3] m."""
        return _forward_kinematics(self.root, self.directions, self.lengths)

    @property
    def stature(self) -> float:
        """Return the stature in m, estimated from legs and trunk."""
        reference = Physique()
        legs = self.lengths[[_J[f"{j}_{s}"] for j in ("knee", "ankle") for s in ("left", "right")]].sum() / 2
        trunk = self.lengths[[_J["spine_mid"], _J["spine_shoulder"]]].sum()
        expected_legs = reference.length("knee") + reference.length("ankle")
        expected_trunk = reference.length("spine_mid") + reference.length("spine_shoulder")
        ratio = 0.5 * (legs / expected_legs + trunk / expected_trunk)
        return float(np.clip(ratio * reference.stature, 1.0, 2.2))

    def moved(self, rotation: np.ndarray, translation: np.ndarray) -> "Script":
        """Return the motion in the frame of another camera: rotated by `rotation` [3, 3], then translated [3] m."""
        return replace(
            self,
            root=self.root @ rotation.T + translation,
            directions=self.directions @ rotation.T,
            heads=rotation @ self.heads,
            hands=rotation @ self.hands,
        )

    def pose(self, time: float) -> ActorPose | None:
        """Return the pose at `time` seconds, interpolated between frames; None while the body is absent."""
        k = int(np.clip(np.searchsorted(self.times, time, side="right") - 1, 0, len(self.times) - 1))
        n = min(k + 1, len(self.times) - 1)
        if not self.present[k]:
            return None
        if n == k or not self.present[n]:
            return ActorPose(self.joints[k], self.heads[k], self.hands[k], _RELAXED_CURL)
        share = float(np.clip((time - self.times[k]) / max(self.times[n] - self.times[k], 1e-9), 0, 1))

        def lerp(values: np.ndarray) -> np.ndarray:
            return values[k] + share * (values[n] - values[k])

        joints = _forward_kinematics(lerp(self.root)[None], unit(lerp(self.directions))[None], self.lengths)[0]
        return ActorPose(
            joints, _orthonormal(lerp(self.heads), 1, 0), _orthonormal(lerp(self.hands), 1, 2), _RELAXED_CURL
        )


def from_recording(
    positions: np.ndarray,
    times: np.ndarray,
    name: str = "script",
    smoothing: float = 1.0,
    pitch: float | None = None,
) -> Script:
    """Create a script from joints [T, 25, 3] `kinect_v2_25` in the optical frame, m, at increasing `times` [T] s.

    The body is absent in frames without joints. `smoothing` is the standard deviation in frames, 0 for none; `pitch`
    is the known downward tilt of the camera, radians. Raise InputError if the shapes or times are wrong, or a joint of
    the trunk is always missing.
    """
    positions, times = np.asarray(positions, np.float64), np.asarray(times, np.float64)
    if positions.ndim != 3 or positions.shape[1:] != (25, 3) or times.shape != positions.shape[:1] or not len(times):
        raise InputError(
            f"script '{name}': positions {list(positions.shape)} and times {list(times.shape)}, "
            "expected [T, 25, 3] and [T]"
        )
    if (np.diff(times) <= 0).any():
        k = int(np.argmax(np.diff(times) <= 0))
        raise InputError(f"script '{name}': frame {k + 1} is not later than frame {k}; sort the recording by stamp")
    valid = np.isfinite(positions).all(-1)
    present = valid.any(-1)
    absent = [joint for joint in _REQUIRED_JOINTS if not valid[:, _J[joint]].any()]
    if absent:
        raise InputError(f"script '{name}': {', '.join(absent)} missing in every frame; record these joints too")
    filled = _smooth(_fill_gaps(positions, valid, times), smoothing)
    # The median bone lengths, equal for both sides.
    lengths = np.median(np.linalg.norm((filled - filled[:, _PARENTS])[present], axis=-1), axis=0)
    lengths = 0.5 * (lengths + lengths[list(KINECT_V2_25.mirror)])
    fitted = _fit_bone_lengths(filled, lengths)
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1 / 30
    script = Script(
        times - times[0], present, fitted[:, 0], _directions(fitted), lengths, np.empty(0), np.empty(0), step, pitch
    )
    _, pitch = estimate_ground(script.joints[present], script.stature, pitch)
    heads = _heads(script.joints, np.array([0.0, -np.cos(pitch), -np.sin(pitch)]))
    heads = _orthonormal(_smooth(heads, smoothing), 1, 0)
    hands = _orthonormal(_smooth(_hands(script.joints, filled, heads), 2 * smoothing), 1, 2)
    return replace(script, heads=heads, hands=hands)


def scripts_from_recording(recording: SkeletonSequence, actors: int = 1) -> list[Script]:
    """Return scripts of up to `actors` bodies of a recording, the ones with most frames.

    Raise InputError if the recording has no joints, or too few to pose an actor.
    """
    present = np.isfinite(recording.bodies).all(-1).any(-1).sum(axis=1)
    chosen = [m for m in np.argsort(-present, kind="stable")[:actors] if present[m]]
    if not chosen and actors:
        raise InputError(f"skeleton recording '{recording.name}' has no joint in any frame")
    times = (recording.stamps_ns - recording.stamps_ns[:1]) / NANOSECONDS
    pitch = None if recording.up is None else float(np.radians(gravity.angles_from_up(recording.up)[1]))
    return [
        from_recording(recording.bodies[m], times, f"{recording.name} {recording.body_ids[m]}", pitch=pitch)
        for m in sorted(chosen)
    ]


def recording_label(recording: SkeletonSequence) -> str:
    """Return the recording's label name, else its label number, else its own name."""
    number = recording.name if recording.label is None else recording.label
    return str(recording.meta.get("label_name") or number)


def _fill_gaps(positions: np.ndarray, valid: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Fill gaps: interpolate a joint over time; extrapolate from its parents if it is always missing."""
    filled = positions.copy()
    for v in _ORDER:
        known = valid[:, v]
        if known.any():
            for axis in range(3):
                filled[:, v, axis] = np.interp(times, times[known], positions[known, v, axis])
        else:
            # Continue along the parent's bone.
            parent, grand = _PARENTS[v], _PARENTS[_PARENTS[v]]
            filled[:, v] = filled[:, parent] + 0.1 * unit(filled[:, parent] - filled[:, grand])
    return filled


def _smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    """Smooth over the first axis with a Gaussian, replicating the ends."""
    if sigma <= 0:
        return values
    from scipy.ndimage import gaussian_filter1d  # 0.4 s, which each start of the simulated camera would take

    return gaussian_filter1d(values, sigma, axis=0, mode="nearest", truncate=3.0)


def _fit_bone_lengths(joints: np.ndarray, lengths: np.ndarray, rounds: int = 40) -> np.ndarray:
    """Move joints [T, 25, 3] until bones nearly have the given lengths; both ends of a bone move equally."""
    relaxed = joints.copy()
    for _ in range(rounds):
        for v in _ORDER[1:]:
            bone = relaxed[:, v] - relaxed[:, _PARENTS[v]]
            length = np.linalg.norm(bone, axis=-1, keepdims=True)
            shift = 0.5 * bone * (1 - lengths[v] / np.maximum(length, 1e-6))
            relaxed[:, v] -= shift
            relaxed[:, _PARENTS[v]] += shift
    return relaxed


def _directions(joints: np.ndarray) -> np.ndarray:
    """Return the unit vector of each bone [T, 25, 3]; a bone without length gets its parent's direction."""
    bones = joints - joints[:, _PARENTS]
    length = np.linalg.norm(bones, axis=-1)
    directions = bones / np.maximum(length, 1e-9)[..., None]
    for v in _ORDER[1:]:
        short = length[:, v] < 1e-4
        directions[short, v] = directions[short, _PARENTS[v]] if _PARENTS[v] != 0 else np.array([0.0, -1.0, 0.0])
    return directions


def _forward_kinematics(root: np.ndarray, directions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the joints [T, 25, 3] of a tree of bones."""
    joints = np.empty((len(root), 25, 3))
    joints[:, 0] = root
    for v in _ORDER[1:]:
        joints[:, v] = joints[:, _PARENTS[v]] + directions[:, v] * lengths[v]
    return joints


def _heads(joints: np.ndarray, upright: np.ndarray) -> np.ndarray:
    """Return head axes [T, 3, 3]: the heading of the shoulders, half the tilt of neck and chest."""
    left = unit(joints[:, _J["shoulder_left"]] - joints[:, _J["shoulder_right"]])
    chest = unit(joints[:, _J["spine_shoulder"]] - joints[:, _J["spine_mid"]])
    neck = unit(joints[:, _J["head"]] - joints[:, _J["spine_shoulder"]])
    up = unit(0.45 * chest + 0.35 * neck + 0.8 * upright)
    forward = unit(np.cross(left, up))
    return np.stack([np.cross(up, forward), up, forward], axis=-1)


def _hands(joints: np.ndarray, measured: np.ndarray, heads: np.ndarray) -> np.ndarray:
    """Return the axes of the hands [T, 2, 3, 3].

    The fingers continue the forearm toward the hand joint. The thumb points to the recorded thumb, or else to the
    inside of the bent elbow.
    """
    sides = []
    forward = heads[:, :, 2]
    for side, sign in (("left", 1.0), ("right", -1.0)):
        shoulder, elbow, wrist = (joints[:, _J[f"{j}_{side}"]] for j in ("shoulder", "elbow", "wrist"))
        fore = unit(wrist - elbow)
        fingers = unit(0.6 * fore + 0.4 * unit(measured[:, _J[f"hand_{side}"]] - measured[:, _J[f"wrist_{side}"]]))
        thumb = measured[:, _J[f"thumb_{side}"]] - measured[:, _J[f"wrist_{side}"]]
        aside = thumb - fingers * np.sum(thumb * fingers, -1, keepdims=True)
        thumb_weight = np.clip(np.linalg.norm(aside, axis=-1, keepdims=True) / 0.03, 0, 1)
        bent = np.cross(unit(elbow - shoulder), fore)
        inside = unit(shoulder - elbow) * np.linalg.norm(bent, axis=-1, keepdims=True) + 0.4 * forward
        radial = thumb_weight * unit(aside) + (1 - thumb_weight) * unit(inside)
        radial = unit(radial - fingers * np.sum(radial * fingers, -1, keepdims=True))
        sides.append(np.stack([radial, fingers, np.cross(radial, fingers) * -sign], axis=-1))
    return np.stack(sides, axis=1)


def _orthonormal(axes: np.ndarray, first: int, second: int) -> np.ndarray:
    """Orthonormalize columns: `first` keeps its direction, `second` its half-plane, the third its sign."""
    third = 3 - first - second
    a = unit(axes[..., first])
    b = unit(axes[..., second] - a * np.sum(axes[..., second] * a, -1, keepdims=True))
    c = np.cross(a, b)
    c = c * np.where(np.sum(c * axes[..., third], -1, keepdims=True) < 0, -1.0, 1.0)
    result = np.empty_like(axes)
    result[..., first], result[..., second], result[..., third] = a, b, c
    return result
