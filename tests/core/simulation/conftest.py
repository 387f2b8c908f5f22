"""Fixtures of simulated scenes."""

import numpy as np
import pytest

from actrec.simulation import posture
from actrec.simulation.actor import bone_lengths
from actrec.types import Intrinsics


@pytest.fixture(scope="session")
def intrinsics() -> Intrinsics:
    return Intrinsics(320, 240, 262.5, 262.5, 159.5, 119.5)


class PosedActor:
    """Body at rest, moved by `motion`: seconds to (rotation [3, 3], shift [3] m) in the camera's frame, or None."""

    duration = float("inf")

    def __init__(self, appearance, motion) -> None:
        self.appearance = appearance
        self._motion = motion
        turned = np.diag([1.0, -1.0, -1.0])
        self._pose = posture.pose(posture.REST, posture.Physique(appearance.stature)).transformed(turned, np.zeros(3))
        self.rest = bone_lengths(self._pose.joints)

    def pose(self, time):
        placement = self._motion(time)
        return None if placement is None else self._pose.transformed(*placement)

    def label(self, time) -> str:
        return "still"
