"""Frame pairs of exact rigid motion of `actrec bench scene-flow`."""

import numpy as np
import pytest

from actrec import scene_flow
from actrec.scene_flow import camera_motion
from actrec.utils.camera_model import KINECT_V1
from actrec.utils.geometry import unproject
from benchmarks import scene_flow as scene_flow_benchmark
from benchmarks.scene_flow import CAMERAS, DT, STATUES

SMALL = KINECT_V1.resized(160, 120)


def points(depth, intrinsics):
    pixels = np.stack(np.meshgrid(np.arange(intrinsics.width), np.arange(intrinsics.height)), -1).astype(np.float32)
    return unproject(pixels, depth, intrinsics)


@pytest.mark.parametrize("motion", STATUES, ids=lambda motion: motion.name)
def test_pairs_of_moved_statue_flow_is_rigid_motion(motion) -> None:
    pair = next(scene_flow_benchmark.pairs_of(motion, False, SMALL, 1))
    person = pair.person & np.isfinite(pair.first[1])
    assert person.mean() > 0.05
    here = points(pair.first[1], pair.first[2])[person]
    found, moved = camera_motion.rigid(here, here + pair.exact[person] * DT)
    np.testing.assert_allclose(found, motion.turn, atol=2e-4)
    middle = here.mean(axis=0)
    expected = np.array(motion.shift) if (motion.turn == np.eye(3)).all() else found @ middle + moved - middle
    np.testing.assert_allclose(found @ middle + moved - middle, expected, atol=2e-4)
    np.testing.assert_allclose(pair.exact[~pair.person], 0, atol=1e-3)


@pytest.mark.parametrize("motion", CAMERAS, ids=lambda motion: motion.name)
def test_pairs_of_moved_camera_flow_is_camera_motion(motion) -> None:
    pair = next(scene_flow_benchmark.pairs_of(motion, False, SMALL, 1))
    back = motion.camera_turn.T
    true = camera_motion.CameraMotion(back, -back @ np.array(motion.camera_shift))
    own = camera_motion.subtract_camera_motion(pair.exact, pair.first[1], pair.first[2], DT, true)
    np.testing.assert_allclose(own[~pair.person], 0, atol=5e-3)
    np.testing.assert_allclose(np.median(own[pair.person], axis=0) * DT, motion.shift, atol=2e-4)


def test_rows_of_motion_and_camera_have_plausible_values() -> None:
    methods = {"dis": scene_flow.create("dis")}
    pairs = [next(scene_flow_benchmark.pairs_of(STATUES[1], True, KINECT_V1, 2))]
    row = scene_flow_benchmark._motion_errors(methods["dis"], pairs)
    assert 0 < row["of_motion"] < 1 and row["person_epe_mm"] < 60
    pairs = [next(scene_flow_benchmark.pairs_of(CAMERAS[1], False, KINECT_V1, 2))]
    row = scene_flow_benchmark._without_camera(CAMERAS[1], methods["dis"], pairs)
    assert row["found"] == "1 of 1"
    assert row["still_median_mm"] > 20
    assert row["still_after_mm"] < 10
