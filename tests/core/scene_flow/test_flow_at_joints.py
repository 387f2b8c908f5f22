"""Velocity at the joints, in pixels and in m, from estimated scene flow against the simulated motion."""

import numpy as np
import pytest

from actrec import scene_flow
from actrec.utils.camera_model import KINECT_V1
from actrec.utils.errors import InputError
from actrec.utils.geometry import motion_at_joints, velocity_at_joints
from benchmarks import scene_flow as scene_flow_benchmark
from benchmarks.scene_flow import DT, STATUES

INNER = [0, 1, 4, 8, 12, 16, 20]
"""Joints of the trunk, away from the silhouette."""


@pytest.fixture(scope="module")
def statue():
    """A person moved 60 mm to the right, at half size, with joints [25, 3] m and [25, 2] px."""
    motion = STATUES[1]
    pair = next(scene_flow_benchmark.pairs_of(motion, False, KINECT_V1, 2))
    before, _ = scene_flow_benchmark._scenes(motion, scene_flow_benchmark.DISTANCES[0], 0, KINECT_V1)
    body = before.at(0.0).bodies[0]
    return pair, body.positions, body.pixels


@pytest.mark.parametrize("method", ["pd_flow", "dis"])
def test_velocity_at_joints_estimated_flow_matches_motion(statue, method) -> None:
    pair, positions, pixels = statue
    (color0, depth0, camera), (color1, depth1, _) = pair.first, pair.second
    options = {"device": "cpu", "threads": 1} if method == "pd_flow" else {}
    flow = scene_flow.create(method, **options).estimate(color0, depth0, color1, depth1, camera, DT)
    size = (640, 480)
    shift = velocity_at_joints(flow, pixels, size) * DT
    np.testing.assert_allclose(shift[INNER], np.broadcast_to([0.06, 0, 0], (len(INNER), 3)), atol=0.006)
    moved = motion_at_joints(flow, positions, pixels, size, camera) * DT
    expected = KINECT_V1.fx * 0.06 / positions[INNER, 2]
    np.testing.assert_allclose(moved[INNER, 0], expected, rtol=0.12)
    np.testing.assert_allclose(moved[INNER, 1], 0, atol=2)


def test_velocity_at_joints_outside_or_unknown_is_nan(statue) -> None:
    flow = np.ones((24, 32, 3), np.float32)
    flow[:, :10] = np.nan
    pixels = np.array([[20, 12], [4, 12], [np.nan, 12], [-3, 5]], np.float32)
    found = velocity_at_joints(flow, pixels, (32, 24))
    np.testing.assert_array_equal(found[0], [1, 1, 1])
    assert np.isnan(found[1:]).all() and found.dtype == np.float32
    with pytest.raises(InputError, match=r"\[24, 32, 2\]"):
        velocity_at_joints(flow[..., :2], pixels, (32, 24))
