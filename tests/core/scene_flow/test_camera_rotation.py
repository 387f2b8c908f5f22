"""Compensation of fast camera rotations: estimate, rotate back, flow."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from actrec import scene_flow
from actrec.scene_flow import camera_motion
from actrec.scene_flow.camera_motion import CameraMotion
from actrec.scene_flow.stream import FlowPairs, SceneFlowConfig, resize
from actrec.types import Intrinsics, RgbdFrame
from actrec.utils.camera_model import KINECT_V1
from actrec.utils.errors import InputError
from benchmarks import scene_flow as scene_flow_benchmark
from benchmarks.scene_flow import DT, Motion, _turn

STEP_NS = round(DT * 1e9)
FAST = Motion("turns 5°, person right 40 mm", (0.04, 0, 0), camera_turn=_turn(1, 5))
SLOW = Motion("turns 0.2°", camera_turn=_turn(1, 0.2))


def frames(pair: scene_flow_benchmark.Pair) -> list[RgbdFrame]:
    return [
        RgbdFrame(k * STEP_NS, color, depth, intrinsics, "camera")
        for k, (color, depth, intrinsics) in enumerate((pair.first, pair.second))
    ]


@pytest.fixture(scope="module")
def fast() -> scene_flow_benchmark.Pair:
    return next(scene_flow_benchmark.pairs_of(FAST, False, KINECT_V1, 2))


@pytest.mark.parametrize(("axis", "degrees"), [(0, 0.0), (0, 3.0), (1, 8.0), (2, 3.0), (2, 8.0)])
def test_estimate_rotation_simulated_motion_matches_truth(axis: int, degrees: float) -> None:
    motion = Motion("", (0.04, 0, 0), camera_shift=(0, 0, 0.03), camera_turn=_turn(axis, degrees))
    first, second = frames(next(scene_flow_benchmark.pairs_of(motion, True, KINECT_V1, 2)))
    found = camera_motion.estimate_rotation(first, second)
    if degrees == 0.0:
        assert found is None or camera_motion.rotation_degrees(found) < 0.2
        return
    assert found is not None
    assert camera_motion.rotation_degrees(found @ motion.camera_turn) < 0.2
    assert camera_motion.rotation_degrees(found) == pytest.approx(degrees, abs=0.2)


def test_estimate_rotation_recorded_frames_is_small_or_none(data_root: Path) -> None:
    """The camera stands still before a turning person; of the hand-held pairs, one scene moves incoherently."""
    for pair in itertools.islice(scene_flow_benchmark._turning(data_root, 20), 5):
        found = camera_motion.estimate_rotation(*frames_of(pair))
        assert found is None or camera_motion.rotation_degrees(found) < 0.1
    estimates = [camera_motion.estimate_rotation(*frames_of(pair)) for pair in scene_flow_benchmark._pairs(data_root)]
    assert [found is None for found in estimates] == [False, True, False]
    # The flow of the whole image gives 1.0 and 0.4 degrees, and a translation that looks like a rotation.
    assert all(found is None or 0.3 < camera_motion.rotation_degrees(found) < 1.3 for found in estimates)


def frames_of(pair: tuple[scene_flow_benchmark.Images, scene_flow_benchmark.Images]) -> list[RgbdFrame]:
    return [RgbdFrame(k, *resize(*images, 320, 240), "camera") for k, images in enumerate(pair)]


def test_rotate_back_static_scene_matches_first_image(fast: scene_flow_benchmark.Pair) -> None:
    """Room and person hardly move, so the warped second image equals the first except at edges."""
    color, depth, visible = camera_motion.rotate_back(*fast.second, FAST.camera_turn.T)
    share = np.abs(color.astype(float) - fast.first[0]).max(axis=-1)[visible] < 25
    assert share.mean() > 0.9
    off = np.abs(depth - fast.first[1])[visible & ~fast.person & np.isfinite(depth)]
    assert (off < 0.01).mean() > 0.95
    assert 0.88 < visible.mean() < 0.92  # a tenth is outside the field of view
    assert np.isnan(depth[~visible]).all()


@pytest.mark.parametrize("name", ["dis", "pd_flow"])
@pytest.mark.parametrize("source", ["estimate", "tf"])
def test_flow_pairs_fast_rotation_gives_person_motion(name, source, fast) -> None:
    back = FAST.camera_turn.T
    moved = {"tf": lambda first, second: CameraMotion(back, np.zeros(3))}.get(source)
    pairs = FlowPairs(scene_flow.create(name), SceneFlowConfig(camera_motion=source), moved)
    first, second = frames(fast)
    assert pairs.add(first) is None
    flow = pairs.add(second)
    assert flow is not None
    wanted = camera_motion.subtract_camera_motion(
        fast.exact, first.depth, first.intrinsics, DT, CameraMotion(back, np.zeros(3))
    )
    off = np.linalg.norm(flow.velocity - wanted, axis=-1) * DT
    assert np.nanmedian(off[fast.person]) < 0.004
    assert np.nanmedian(off[~fast.person]) < 0.004
    known = np.isfinite(flow.velocity).all(axis=-1)
    assert known[fast.person].mean() > 0.85


def test_flow_with_rotation_none_or_out_of_range_equals_method() -> None:
    first, second = frames(next(scene_flow_benchmark.pairs_of(SLOW, False, KINECT_V1, 4)))
    method = scene_flow.create("dis")
    plain = method.estimate(first.color, first.depth, second.color, second.depth, first.intrinsics, DT)
    for turn in (None, SLOW.camera_turn.T, _turn(1, 60)):
        np.testing.assert_array_equal(camera_motion.flow_with_rotation(method, first, second, DT, turn), plain)


def test_estimate_rotation_without_tracks_returns_none(fast: scene_flow_benchmark.Pair) -> None:
    blank = Intrinsics(320, 240, 262.0, 262.0, 159.5, 119.5)
    gray, far = np.full((240, 320, 3), 90, np.uint8), np.full((240, 320), 2, np.float32)
    first, second = (RgbdFrame(k, gray, far, blank, "camera") for k in (0, 1))
    assert camera_motion.estimate_rotation(first, second) is None
    rng = np.random.default_rng(0)
    other = RgbdFrame(1, rng.integers(0, 255, (240, 320, 3), np.uint8), far, blank, "camera")
    assert camera_motion.estimate_rotation(frames(fast)[0], other) is None


def test_flow_pairs_changed_intrinsics_returns_none(fast: scene_flow_benchmark.Pair) -> None:
    pairs = FlowPairs(scene_flow.create("dis"), SceneFlowConfig(camera_motion="estimate", height=120))
    first, second = frames(fast)
    assert second.color is not None and second.depth is not None
    assert pairs.add(first) is None
    cropped = Intrinsics(300, 240, 262.0, 262.0, 159.5, 119.5)
    assert pairs.add(RgbdFrame(STEP_NS, second.color[:, :300], second.depth[:, :300], cropped, "camera")) is None


def test_flow_pairs_color_and_depth_of_different_size_raises(fast: scene_flow_benchmark.Pair) -> None:
    pairs = FlowPairs(scene_flow.create("dis"), SceneFlowConfig())
    frame = frames(fast)[0]
    assert frame.color is not None
    frame.color = np.zeros((2 * frame.color.shape[0], frame.color.shape[1], 3), np.uint8)
    with pytest.raises(InputError, match="color"):
        pairs.add(frame)
