"""What depth lifting knows of bodies: how deep joints lie under the skin, and which limbs can hide which joints."""

from functools import cache

import numpy as np

from actrec.skeleton import layouts

BODY_RADII = {
    "shoulder": 0.06, "elbow": 0.04, "wrist": 0.03, "hip": 0.09, "knee": 0.055, "ankle": 0.04, "heel": 0.03,
    "foot_index": 0.02, "pinky": 0.015, "index": 0.015, "thumb": 0.015, "ear": 0.055,
}  # fmt: skip
"""Metres from the skin to the joint's centre, by the stem of the joint's name; what is not named lies on the skin."""

TORSO = (
    ("shoulder_left", "shoulder_right"),
    ("hip_left", "hip_right"),
    ("shoulder_left", "hip_right"),
    ("shoulder_right", "hip_left"),
)
"""What fills the trunk beside the layout's own bones."""

REACH_M = 0.12
"""Half the thickness of what can hide a joint, and how well its depth has to match."""

BEHIND_M = 0.1
"""A joint has to be expected this far behind the surface before it can be hidden by it."""


STEPS = np.array([0.0, 0.25, 0.5, 0.75, 1.0], dtype=np.float32)
"""Where along a limb points are tried."""


@cache
def radii_of(layout: str) -> np.ndarray:
    """[V] float32 metres from skin to joint centre for a body layout, from `BODY_RADII`."""
    stems = [joint.removesuffix("_left").removesuffix("_right") for joint in layouts.get(layout).joints]
    return np.array([BODY_RADII.get(stem, 0.0) for stem in stems], dtype=np.float32)


@cache
def links_of(layout: str) -> np.ndarray:
    """[L, 2] joint indices of the limbs of a body layout: its bones, and the trunk's diagonals."""
    known = layouts.get(layout)
    trunk = [(known.index[a], known.index[b]) for a, b in TORSO if a in known.index and b in known.index]
    return np.array([*known.edges, *trunk])


def hidden(rays: np.ndarray, surface: np.ndarray, fitted: np.ndarray, links: np.ndarray) -> np.ndarray:
    """Which joints' surfaces belong to another limb that passes before them.

    Depth alone cannot tell a hand held nearer than the estimator thought from a shoulder behind the other one: in the
    second case another limb is expected just where the surface is.

    Args:
        rays: [V, 3] towards the joints, z = 1.
        surface: [V] depth of the surface seen at each joint, NaN where none.
        fitted: [V, 3] where the estimator's landmarks expect the joints, metres.
        links: [L, 2] from `links_of`.

    Returns:
        [V] bool.
    """
    result = np.zeros(len(rays), dtype=bool)
    with np.errstate(invalid="ignore"):
        suspects = np.flatnonzero(fitted[:, 2] - surface > BEHIND_M)
    if not len(suspects):
        return result
    start, end = fitted[links[:, 0]], fitted[links[:, 1]]
    points = start[:, None] + STEPS[:, None] * (end - start)[:, None]
    seen = (rays * surface[:, None])[suspects]
    beside = (np.abs(points[None] - seen[:, None, None]) < REACH_M).all(axis=3)
    # The limb itself has to lie before the joint, else it is the joint's own neighbourhood.
    before = fitted[suspects, 2][:, None, None] - points[None, :, :, 2] > BEHIND_M
    own = (links[None] == suspects[:, None, None]).any(axis=2)
    result[suspects] = (beside & before & ~own[:, :, None]).any(axis=(1, 2))
    return result
