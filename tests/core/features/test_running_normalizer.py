"""Frame-by-frame normalization of the streaming benchmark, against the normalization of a window."""

import numpy as np
import pytest

from actrec.features import skeleton
from actrec.features.skeleton import SkeletonPreprocessing
from actrec.utils.errors import InputError
from benchmarks.networks import RunningNormalizer


def walk(frames=20, bodies=1):
    rng = np.random.default_rng(1)
    pose = rng.normal(size=(25, 3)).astype(np.float32)
    path = np.cumsum(rng.normal(0, 0.05, (bodies, frames, 1, 3)), axis=1)
    return (pose + path + rng.normal(0, 0.02, (bodies, frames, 25, 3))).astype(np.float32)


def test_step_equals_last_frame_of_normalized_window():
    clip, options = walk(bodies=2), SkeletonPreprocessing()
    clip[0, 3:9, 7] = np.nan
    running = RunningNormalizer(8, options)
    for t in range(20):
        found = running.step(clip[:, t])
        expected = skeleton.normalize(clip[:, max(0, t - 7) : t + 1], options)[:, -1]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_normalize_running_placing_equals_steps():
    clip, options = walk(bodies=2), SkeletonPreprocessing(placing="running")
    running = RunningNormalizer(20, options)
    streamed = np.stack([running.step(clip[:, t]) for t in range(20)], axis=1)
    np.testing.assert_allclose(streamed, skeleton.normalize(clip, options), atol=1e-6)
    assert not np.allclose(streamed, skeleton.normalize(clip, SkeletonPreprocessing()))


def test_step_wrong_joint_count_raises():
    with pytest.raises(InputError, match=r"\[1, 20, 3\].*\[M, 25, 3\]"):
        RunningNormalizer(8, SkeletonPreprocessing()).step(np.zeros((1, 20, 3)))


def test_step_reused_buffer_does_not_change_history():
    clip, options = walk(), SkeletonPreprocessing()
    kept, running, buffer = RunningNormalizer(8, options), RunningNormalizer(8, options), np.empty_like(clip[:, 0])
    for t in range(5):
        buffer[:] = clip[:, t]
        np.testing.assert_array_equal(running.step(buffer), kept.step(clip[:, t]))
