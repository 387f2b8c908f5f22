import numpy as np
import pytest

from actrec.skeleton.windows import Window, resample, sample_stamps
from actrec.types import NANOSECONDS
from actrec.utils.errors import InputError


def moving(stamps_ns, joints=25):
    """Joints that move at 1 m/s along x and 0.5 m/s along z from their positions at time 0."""
    seconds = np.asarray(stamps_ns)[:, None] / NANOSECONDS
    start = np.arange(joints)[None] * 0.1
    return np.stack([start + seconds, start + 0 * seconds, 2 + 0.5 * seconds + 0 * start], axis=-1).astype(np.float32)


def test_sample_stamps_are_even_and_end_at_newest():
    stamps = sample_stamps(10 * NANOSECONDS, 5.0, 60)
    assert stamps[-1] == 10 * NANOSECONDS
    np.testing.assert_allclose(np.diff(stamps), NANOSECONDS / 12, atol=1)


@pytest.mark.parametrize("fps", [8, 15, 30, 60])
def test_window_uniform_motion_is_exact_at_any_frame_rate(fps):
    rng = np.random.default_rng(fps)
    stamps = np.sort((np.arange(6 * fps) / fps + rng.uniform(0, 0.3 / fps, 6 * fps)) * NANOSECONDS).astype(np.int64)
    window = Window(5.0, 60)
    for stamp, joints in zip(stamps, moving(stamps), strict=True):
        assert not window.add(int(stamp), joints)
    np.testing.assert_allclose(window.positions(), moving(sample_stamps(int(stamps[-1]), 5.0, 60)), atol=2e-5)
    assert window.duration_s == pytest.approx(5.0, abs=0.01)


def test_window_repeats_first_pose_before_first_observation():
    stamps = (np.arange(13) / 12 * NANOSECONDS).astype(np.int64)
    window = Window(5.0, 60)
    for stamp, joints in zip(stamps, moving(stamps), strict=True):
        window.add(int(stamp), joints)
    sampled = window.positions()
    np.testing.assert_array_equal(sampled[:47], np.broadcast_to(moving(stamps)[0], (47, 25, 3)))
    assert window.duration_s == pytest.approx(1.0, abs=1e-6)
    assert window.start_ns == 0


def test_window_one_observation_fills_it():
    window = Window(5.0, 60)
    window.add(7, np.ones((25, 3)))
    assert window.positions().shape == (60, 25, 3)
    assert (window.positions() == 1).all()


def test_window_memory_is_bounded():
    long, short = Window(2.0, 24), Window(2.0, 24)
    stamps = (np.arange(600) / 30 * NANOSECONDS).astype(np.int64)
    for i, (stamp, joints) in enumerate(zip(stamps, moving(stamps), strict=True)):
        long.add(int(stamp), joints)
        if i >= 600 - 63:
            short.add(int(stamp), joints)
    assert len(long) <= 30 * (2.0 + long.max_gap_s) + 2
    np.testing.assert_array_equal(long.positions(), short.positions())


@pytest.mark.parametrize(("jump_s", "restarts"), [(-1.0, True), (0.0, True), (0.4, False), (0.6, True)])
def test_window_stamp_jump_restarts(jump_s, restarts):
    window = Window(5.0, 60, max_gap_s=0.5)
    window.add(10 * NANOSECONDS, np.zeros((25, 3)))
    assert window.add(int((10 + jump_s) * NANOSECONDS), np.ones((25, 3))) is restarts
    assert len(window) == (1 if restarts else 2)
    assert (window.positions() == 1).all() == restarts


def test_window_bridges_short_joint_gap_and_keeps_long_one_missing():
    stamps = (np.arange(61) / 12 * NANOSECONDS).astype(np.int64)
    joints = moving(stamps)
    joints[20:24, 3] = np.nan  # 5 frames between neighbors: 0.42 s
    joints[30:40, 4] = np.nan  # 11 frames: 0.92 s
    sampled = resample(stamps, joints, sample_stamps(int(stamps[-1]), 5.0, 60))
    expected = moving(sample_stamps(int(stamps[-1]), 5.0, 60))
    np.testing.assert_allclose(sampled[:, 3], expected[:, 3], atol=2e-5)
    assert np.flatnonzero(np.isnan(sampled[:, 4, 0])).tolist() == list(range(29, 39))
    assert not np.isnan(np.delete(sampled, 4, axis=1)).any()


def test_window_joint_lost_at_end_is_repeated_briefly():
    stamps = (np.arange(61) / 12 * NANOSECONDS).astype(np.int64)
    joints = moving(stamps)
    joints[40:, 7] = np.nan
    sampled = resample(stamps, joints, sample_stamps(int(stamps[-1]), 5.0, 60))
    repeated = sampled[39:45, 7]  # sample k is observation k + 1
    np.testing.assert_allclose(repeated, np.broadcast_to(joints[39, 7], repeated.shape))
    assert np.isnan(sampled[46:, 7]).all()


def test_window_unobserved_joint_is_missing():
    stamps = (np.arange(5) / 12 * NANOSECONDS).astype(np.int64)
    joints = moving(stamps)
    joints[:, 2] = np.nan
    sampled = resample(stamps, joints, sample_stamps(int(stamps[-1]), 5.0, 60))
    assert np.isnan(sampled[:, 2]).all()
    assert not np.isnan(sampled[:, 3]).any()


def test_window_other_joint_count_raises():
    window = Window(5.0, 60)
    window.add(0, np.zeros((25, 3)))
    with pytest.raises(InputError, match=r"\[20, 3\].*\[25, 3\]"):
        window.add(1, np.zeros((20, 3)))


def test_window_copies_its_input():
    kept, window = Window(5.0, 60), Window(5.0, 60)
    buffer = np.zeros((25, 3), np.float32)
    for k in range(4):
        buffer[:] = k
        kept.add(k * 10**8, buffer.copy())
        window.add(k * 10**8, buffer)
    np.testing.assert_array_equal(window.positions(), kept.positions())


@pytest.mark.slow
@pytest.mark.parametrize("fps", [10, 30])
def test_window_intermittent_joints_match_whole_recording(fps):
    rng = np.random.default_rng(fps)
    count, window = 12 * fps, Window(3.0, 36)
    stamps = (np.cumsum(rng.uniform(0.7, 1.3, count)) / fps * NANOSECONDS).astype(np.int64)
    joints = moving(stamps) + rng.normal(0, 0.1, (count, 25, 3)).astype(np.float32)
    for joint in range(24):  # missing for a few frames or for seconds
        for start in rng.integers(0, count, 8):
            joints[start : start + rng.integers(1, (joint % 4) * fps + 2), joint] = np.nan
    longest = 0
    for number, (stamp, observed) in enumerate(zip(stamps, joints, strict=True), start=1):
        window.add(int(stamp), observed)
        sample_ns = sample_stamps(int(stamp), 3.0, 36)
        # Next to the first observation after a long gap, a sample uses a millisecond of the time before the gap.
        np.testing.assert_allclose(window.positions(), resample(stamps[:number], joints[:number], sample_ns), atol=0.02)
        longest = max(longest, len(window))
    assert longest < 5 * fps
