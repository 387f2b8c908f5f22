"""A camera that turns fast: its turn is found, the second image turned back, the flow of both made whole."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from actrec import scene_flow
from actrec.scene_flow import base, camera_motion
from actrec.scene_flow.base import resize
from actrec.scene_flow.camera_motion import CameraMotion
from actrec.scene_flow.stream import FlowPairs, SceneFlowConfig
from actrec.types import Intrinsics, RgbdFrame
from actrec.utils.errors import InputError
from benchmarks import scene_flow as scene_flow_benchmark
from benchmarks.scene_flow import DT, FULL, Motion, _turn

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
    return next(scene_flow_benchmark.pairs_of(FAST, False, FULL, 2))


@pytest.mark.parametrize(("axis", "degrees"), [(0, 0.0), (0, 3.0), (1, 8.0), (2, 3.0), (2, 8.0)])
def test_a_turn_is_found(axis: int, degrees: float) -> None:
    motion = Motion("", (0.04, 0, 0), camera_shift=(0, 0, 0.03), camera_turn=_turn(axis, degrees))
    first, second = frames(next(scene_flow_benchmark.pairs_of(motion, True, FULL, 2)))
    found = base.estimate(first, second)
    if degrees == 0.0:
        assert found is None or base.degrees(found) < 0.2
        return
    assert found is not None
    assert base.degrees(found @ motion.camera_turn) < 0.2
    assert base.degrees(found) == pytest.approx(degrees, abs=0.2)


def test_on_recordings_nothing_turns_that_stands(data_root: Path) -> None:
    """A person who turns before a camera that stands; hand-held pairs, of which one scene moves every which way."""
    for pair in itertools.islice(scene_flow_benchmark._turning(data_root, 20), 5):
        found = base.estimate(*frames_of(pair))
        assert found is None or base.degrees(found) < 0.1
    told = [base.estimate(*frames_of(pair)) for pair in scene_flow_benchmark._pairs(data_root)]
    assert [found is None for found in told] == [False, True, False]
    # As the flow of the whole image has it: 1.0 and 0.4 degrees, and a shift that looks like a turn.
    assert all(found is None or 0.3 < base.degrees(found) < 1.3 for found in told)


def frames_of(pair: tuple[scene_flow_benchmark.Images, scene_flow_benchmark.Images]) -> list[RgbdFrame]:
    return [RgbdFrame(k, *resize(*images, 320, 240), "camera") for k, images in enumerate(pair)]


def test_turned_back_is_what_had_been_seen(fast: scene_flow_benchmark.Pair) -> None:
    """Room and person stand almost where they stood: what is seen of them is the first image, but at edges."""
    color, depth, seen = base.turned_back(*fast.second, FAST.camera_turn.T)
    share = np.abs(color.astype(float) - fast.first[0]).max(axis=-1)[seen] < 25
    assert share.mean() > 0.9
    off = np.abs(depth - fast.first[1])[seen & ~fast.person & np.isfinite(depth)]
    assert (off < 0.01).mean() > 0.95
    assert 0.88 < seen.mean() < 0.92  # a tenth has turned out of sight
    assert np.isnan(depth[~seen]).all()


@pytest.mark.parametrize("name", ["dis", "pd_flow"])
@pytest.mark.parametrize("told_by", ["estimate", "tf"])
def test_a_person_is_seen_moving_before_a_camera_that_turns_fast(name, told_by, fast) -> None:
    back = FAST.camera_turn.T
    moved = {"tf": lambda first, second: CameraMotion(back, np.zeros(3))}.get(told_by)
    pairs = FlowPairs(scene_flow.create(name), SceneFlowConfig(camera_motion=told_by), moved)
    first, second = frames(fast)
    assert pairs.add(first) is None
    flow = pairs.add(second)
    assert flow is not None
    wanted = camera_motion.own_motion(fast.exact, first.depth, first.intrinsics, DT, CameraMotion(back, np.zeros(3)))
    off = np.linalg.norm(flow.velocity - wanted, axis=-1) * DT
    assert np.nanmedian(off[fast.person]) < 0.004
    assert np.nanmedian(off[~fast.person]) < 0.004
    known = np.isfinite(flow.velocity).all(axis=-1)
    assert known[fast.person].mean() > 0.85


def test_without_a_turn_the_flow_is_the_methods_own() -> None:
    first, second = frames(next(scene_flow_benchmark.pairs_of(SLOW, False, FULL, 4)))
    method = scene_flow.create("dis")
    plain = method.estimate(first.color, first.depth, second.color, second.depth, first.intrinsics, DT)
    for turn in (None, SLOW.camera_turn.T, _turn(1, 60)):
        np.testing.assert_array_equal(base.flow(method, first, second, DT, turn), plain)


def test_where_nothing_can_be_followed_no_turn_is_claimed(fast: scene_flow_benchmark.Pair) -> None:
    blank = Intrinsics(320, 240, 262.0, 262.0, 159.5, 119.5)
    gray, far = np.full((240, 320, 3), 90, np.uint8), np.full((240, 320), 2, np.float32)
    first, second = (RgbdFrame(k, gray, far, blank, "camera") for k in (0, 1))
    assert base.estimate(first, second) is None
    rng = np.random.default_rng(0)
    other = RgbdFrame(1, rng.integers(0, 255, (240, 320, 3), np.uint8), far, blank, "camera")
    assert base.estimate(frames(fast)[0], other) is None


def test_images_of_two_sizes_are_refused_before_anything_is_turned(fast: scene_flow_benchmark.Pair) -> None:
    pairs = FlowPairs(scene_flow.create("dis"), SceneFlowConfig(camera_motion="estimate", width=160, height=120))
    first, second = frames(fast)
    assert second.color is not None and second.depth is not None
    assert pairs.add(first) is None
    cropped = Intrinsics(300, 240, 262.0, 262.0, 159.5, 119.5)
    assert pairs.add(RgbdFrame(STEP_NS, second.color[:, :300], second.depth[:, :300], cropped, "camera")) is None


def test_color_of_another_size_than_depth_is_refused_before_both_are_resized(fast: scene_flow_benchmark.Pair) -> None:
    pairs = FlowPairs(scene_flow.create("dis"), SceneFlowConfig())
    frame = frames(fast)[0]
    assert frame.color is not None
    frame.color = np.zeros((2 * frame.color.shape[0], frame.color.shape[1], 3), np.uint8)
    with pytest.raises(InputError, match="color is .*, expected uint8"):
        pairs.add(frame)
