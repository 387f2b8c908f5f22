"""Estimation and removal of a known camera motion."""

import numpy as np
import pytest

from actrec.scene_flow import camera_motion
from actrec.scene_flow.camera_motion import CameraMotion
from actrec.types import Intrinsics
from actrec.utils.errors import InputError
from actrec.utils.geometry import rotation, unproject

C = Intrinsics(80, 60, 66.0, 66.0, 39.5, 29.5)
DT = 1 / 30
MOVED = CameraMotion(rotation(1, 0.02) @ rotation(0, -0.01), np.array([0.03, -0.01, -0.05]))


def scene(share: float, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the flow [H, W, 3] of a moving camera, depth, and the own motion of a box over `share` of the image."""
    rng = np.random.default_rng(0)
    depth = rng.uniform(1.5, 4.0, (60, 80)).astype(np.float32)
    depth[:5] = np.nan
    own = np.zeros((60, 80, 3), np.float32)
    own[:, : int(80 * share)] = [1.0, 0.5, -0.8]
    u, v = np.meshgrid(np.arange(80), np.arange(60))
    points = unproject(np.stack([u, v], axis=-1), depth, C)
    moved = (points + own * DT) @ MOVED.rotation.T + MOVED.translation
    flow = ((moved - points) / DT + rng.normal(0, noise, moved.shape)).astype(np.float32)
    return flow, depth, own


@pytest.mark.parametrize("share", [0.0, 0.2, 0.45])
def test_estimate_camera_motion_moving_box_matches_truth(share: float) -> None:
    flow, depth, own = scene(share, noise=0.1)
    found = camera_motion.estimate_camera_motion(flow, depth, C, DT)
    assert found is not None
    np.testing.assert_allclose(found.rotation, MOVED.rotation, atol=1e-3)
    np.testing.assert_allclose(found.translation, MOVED.translation, atol=2e-3)
    left = camera_motion.subtract_camera_motion(flow, depth, C, DT, found)
    assert np.nanmedian(np.linalg.norm(left - own, axis=-1)) < 0.25
    np.testing.assert_array_equal(np.isnan(left).any(-1), np.isnan(depth))


def test_subtract_camera_motion_known_motion_gives_own_motion() -> None:
    flow, depth, own = scene(0.3)
    left = camera_motion.subtract_camera_motion(flow, depth, C, DT, MOVED)
    np.testing.assert_allclose(left[5:], own[5:], atol=2e-3)
    still = camera_motion.subtract_camera_motion(flow, depth, C, DT, CameraMotion(np.eye(3), np.zeros(3)))
    np.testing.assert_allclose(still[5:], flow[5:], atol=1e-3)


def test_camera_motion_between_poses_moves_points() -> None:
    first, second = np.eye(4), np.eye(4)
    first[:3, :3], first[:3, 3] = rotation(1, 0.3), [1, 2, 3]
    second[:3, :3], second[:3, 3] = rotation(1, 0.35), [1.1, 2, 3]
    found, point = CameraMotion.between(first, second), np.array([0.2, -0.3, 2.0, 1.0])
    expected = np.linalg.inv(second) @ (first @ point)
    np.testing.assert_allclose(found.rotation @ point[:3] + found.translation, expected[:3])
    with pytest.raises(InputError, match=r"\[3, 4\].*\[4, 4\]"):
        CameraMotion.between(first[:3], second)


def test_estimate_camera_motion_incoherent_flow_returns_none() -> None:
    flow, depth, _ = scene(0.0)
    wild = np.random.default_rng(1).normal(0, 5, flow.shape).astype(np.float32)
    assert camera_motion.estimate_camera_motion(wild, depth, C, DT) is None
    assert camera_motion.estimate_camera_motion(np.full_like(flow, np.nan), depth, C, DT) is None
