"""Where the floor is under a recorded skeleton: which way is up for its camera, and how high the camera hung."""

from dataclasses import dataclass

import numpy as np

from actrec.simulation.appearance import ANKLE_HEIGHT, REFERENCE_STATURE, TOE_HEIGHT
from actrec.skeleton.layouts import KINECT_V2_25

_J = KINECT_V2_25.index
_FEET = [_J["foot_left"], _J["foot_right"]]
_ANKLES = [_J["ankle_left"], _J["ankle_right"]]
_PRIOR_SPREAD = 0.45
"""Feet must spread over this much depth (m, standard deviation) to be trusted as much as the upright body."""
_TOLERANCE = 0.03
"""Feet farther than this from the floor's slope count less, metres."""
_LIMIT = np.radians(35.0)


@dataclass(frozen=True)
class Ground:
    """The floor as the recording's camera sees it.

    Attributes:
        height: Of the camera over the floor, metres.
        pitch: How far the camera looked down, radians.
    """

    height: float
    pitch: float

    @property
    def up(self) -> np.ndarray:
        """[3] unit vector in the optical frame."""
        return np.array([0.0, -np.cos(self.pitch), -np.sin(self.pitch)])


def estimate(joints: np.ndarray, stature: float) -> Ground:
    """Fits a floor without sideways tilt under the feet.

    Two clues to the pitch: the slope of the lowest feet over depth, as far as the body moves in depth, and the upright
    body, head
    over ankles. The floor lies
    so low that no foot sinks into it but in one frame of ten, where a Kinect misplaces hidden feet.

    Args:
        joints: [N, 25, 3] metres, optical frame.
        stature: Of the body, metres.
    """
    scale = stature / REFERENCE_STATURE
    feet = np.concatenate(
        [joints[:, _FEET] + [0, TOE_HEIGHT * scale, 0], joints[:, _ANKLES] + [0, ANKLE_HEIGHT * scale, 0]], axis=1
    )
    lowest = feet[np.arange(len(feet)), feet[..., 1].argmax(axis=1)]
    prior = _upright(joints)
    z = lowest[:, 2] - lowest[:, 2].mean()
    y = lowest[:, 1] - lowest[:, 1].mean()
    # y = −tan(pitch)·z by least squares with a prior; reweighted, since feet are lifted and, where hidden, misplaced.
    weight, slope = np.ones(len(z)), 0.0
    for _ in range(8):
        n = weight.sum()
        zc, yc = z - (weight @ z) / n, y - (weight @ y) / n
        slope = ((weight * zc) @ yc / n - np.tan(prior) * _PRIOR_SPREAD**2) / (
            (weight * zc) @ zc / n + _PRIOR_SPREAD**2
        )
        weight = 1 / np.maximum(np.abs(yc - slope * zc) / _TOLERANCE, 1.0)
    pitch = float(np.clip(-np.arctan(slope), -_LIMIT, _LIMIT))
    down = np.array([0.0, np.cos(pitch), np.sin(pitch)])
    height = float(np.percentile((feet @ down).max(axis=1), 90))
    return Ground(float(np.clip(height, 0.3, 3.0)), pitch)


def _upright(joints: np.ndarray) -> float:
    """Pitch at which the body stands upright, from the frames in which it is longest, radians."""
    top = joints[:, _J["head"]]
    base = joints[:, _ANKLES].mean(axis=1)
    along = base - top
    length = np.linalg.norm(along, axis=1)
    tall = along[length >= np.percentile(length, 70)]
    angles = np.arctan2(tall[:, 2], tall[:, 1])
    return float(np.clip(np.median(angles), -_LIMIT, _LIMIT))
