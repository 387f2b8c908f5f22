"""Recordings as other cameras see them."""

import numpy as np
import pytest

from actrec.recordings.labels import LabeledClip
from actrec.skeleton.layouts import KINECT_V2_25
from actrec.skeleton.sequence import from_joints
from actrec.types import NANOSECONDS
from actrec_models.data.continuous import ActionStream
from benchmarks import events


def recording() -> ActionStream:
    """Return 8 s at 30 Hz of a person who stays in place and raises the joints."""
    stamps = np.arange(240) * (NANOSECONDS // 30)
    joints = np.zeros((1, 240, 25, 3), np.float32)
    joints[..., 1], joints[..., 2] = -np.linspace(0, 1, 240)[None, :, None], 3.0
    return ActionStream(from_joints("one", stamps, joints), (LabeledClip("wave", 1.0, 2.0),))


def test_seen_by_a_camera_that_drives_moves_to_and_fro_at_its_speed() -> None:
    given = recording()
    found = events.seen(given, 0.6, None, False).sequence
    way = (found.bodies - given.sequence.bodies)[0, :, 0]
    speeds = np.linalg.norm(np.diff(way, axis=0), axis=1) * 30
    assert np.median(speeds) == pytest.approx(0.6, rel=1e-3)
    assert np.linalg.norm(way, axis=1).max() == pytest.approx(events.LEG_M, abs=0.05)
    assert not way[:, 1].any() and not way[0].any()


@pytest.mark.parametrize("fps", [7.0, 60.0])
def test_seen_at_another_rate_shows_the_same_at_other_times(fps: float) -> None:
    given, found = recording(), events.seen(recording(), 0.0, fps, False)
    assert found.actions == given.actions and found.minutes == pytest.approx(given.minutes, abs=0.005)
    assert np.median(np.diff(found.sequence.stamps_ns)) == pytest.approx(NANOSECONDS / fps, rel=1e-3)
    heights = np.interp(found.sequence.stamps_ns, given.sequence.stamps_ns, given.sequence.bodies[0, :, 5, 1])
    np.testing.assert_allclose(found.sequence.bodies[0, :, 5, 1], heights, atol=1e-4)


def test_seen_behind_a_table_has_no_legs() -> None:
    found = events.seen(recording(), 0.0, None, True).sequence
    hidden = ~np.isfinite(found.bodies).all(axis=(0, 1, 3))
    assert {KINECT_V2_25.joints[joint] for joint in np.flatnonzero(hidden)} == {
        f"{joint}_{side}" for joint in ("knee", "ankle", "foot") for side in ("left", "right")
    }
    assert not found.scores[:, :, hidden].any()
