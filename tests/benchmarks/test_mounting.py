"""Places of the camera in `actrec bench mounting`, and rendered hands."""

import numpy as np
import pytest

from actrec import datasets
from actrec.datasets.base import Clip
from actrec.simulation.actor import FINGERS
from actrec.simulation.scene import CameraPose
from actrec.skeleton.layouts import HAND_22
from actrec.utils import gravity
from actrec_models.data import rendered_skeletons


@pytest.mark.parametrize(("pitch", "height"), [(30, 0.9 + 1.4), (-30, 0.15)])
def test_turned_pitched_camera_keeps_distance_and_stays_above_floor(pitch: int, height: float):
    bodies = np.full((1, 3, 25, 3), np.nan, np.float32)
    bodies[0, :, 0] = 0.0, 0.1, 2.8
    pose = rendered_skeletons.aimed(Clip("a", 0, np.arange(3), bodies), 0.0, np.radians(pitch), CameraPose(1.1))
    assert pose.height == pytest.approx(height, abs=1e-6)
    if pitch > 0:
        waist = pose.to_camera(np.array([0.0, -rendered_skeletons.WAIST_M, 2.8]))
        np.testing.assert_allclose(waist, [0.0, 0.0, 2.8], atol=1e-6)


@pytest.mark.parametrize("number", [0, 530])
def test_hand_frames_rolled_camera_shows_recorded_hand(data_root, number):
    clip = datasets.create("shrec17_28", datasets.folder(data_root, "shrec17_28"), part="test")[number]
    frame = next(rendered_skeletons.hand_frames(clip, np.pi / 2, 0.0))
    assert frame.up is not None and frame.depth is not None
    np.testing.assert_allclose(frame.up, gravity.up_from_angles(90, 0), atol=1e-6)
    joints = clip.bodies[0]
    middle = (joints.min(axis=(0, 1)) + joints.max(axis=(0, 1))) / 2
    shown = (joints[0] - middle) @ CameraPose(roll=np.pi / 2).rotation + [0, 0, rendered_skeletons.HAND_M]
    at = {name: shown[v] for name, v in HAND_22.index.items()}
    bases = [at[f"{finger}_base"] for finger in FINGERS[1:]]
    palm = [*(at["wrist"] + 0.9 * (base - at["wrist"]) for base in bases), *map(np.add, bases[1:], bases[:-1])]
    palm[4:] = [point / 2 for point in palm[4:]]
    shown, camera = np.concatenate([shown, palm]), frame.intrinsics
    u, v = np.rint(camera.fx * shown[:, :2].T / shown[:, 2] + [[camera.cx], [camera.cy]]).astype(int)
    before = shown[:, 2] - frame.depth[v, u]  # from the joint to the skin before it, or to another finger
    near = np.abs(before - 0.02) < 0.06
    assert near[:22].sum() >= 20 and near[22:].all()  # fingers begin at the palm
