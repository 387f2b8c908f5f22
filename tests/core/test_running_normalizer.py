import numpy as np
import pytest

from actrec.features import skeleton
from actrec.features.skeleton import RunningNormalizer, SkeletonPreprocessing
from actrec.utils.errors import InputError


def walk(frames=20, bodies=1):
    rng = np.random.default_rng(1)
    pose = rng.normal(size=(25, 3)).astype(np.float32)
    path = np.cumsum(rng.normal(0, 0.05, (bodies, frames, 1, 3)), axis=1)
    return (pose + path + rng.normal(0, 0.02, (bodies, frames, 25, 3))).astype(np.float32)


def test_the_newest_frame_is_normalized_as_the_window_that_ends_with_it():
    clip, options = walk(bodies=2), SkeletonPreprocessing()
    clip[0, 3:9, 7] = np.nan
    running = RunningNormalizer(8, options)
    for t in range(20):
        found = running.step(clip[:, t])
        expected = skeleton.normalize(clip[:, max(0, t - 7) : t + 1], options)[:, -1]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_window_of_running_placing_is_normalized_as_a_stream_of_its_frames():
    clip, options = walk(bodies=2), SkeletonPreprocessing(placing="running")
    running = RunningNormalizer(20, options)
    streamed = np.stack([running.step(clip[:, t]) for t in range(20)], axis=1)
    np.testing.assert_allclose(streamed, skeleton.normalize(clip, options), atol=1e-6)
    assert not np.allclose(streamed, skeleton.normalize(clip, SkeletonPreprocessing()))


def test_reset_forgets_and_inputs_are_those_of_the_network():
    clip, running = walk(), RunningNormalizer(8, SkeletonPreprocessing())
    first = running.step(clip[:, 0])
    running.step(clip[:, 1])
    running.reset()
    made = running.inputs(clip[:, 0], ("body", "bones"))
    np.testing.assert_array_equal(made["body"][0, :, 0].T, first[0])
    np.testing.assert_array_equal(made["bones"][0, :, 0].T, skeleton.bones(first[0]))


def test_what_one_frame_does_not_tell_is_refused():
    with pytest.raises(InputError, match="'bones_motion' needs two frames"):
        RunningNormalizer(8, SkeletonPreprocessing()).inputs(walk()[:, 0], ("body", "bones_motion"))


def test_wrong_joints_are_refused():
    with pytest.raises(InputError, match=r"\[1, 20, 3\], expected \[M, 25, 3\] \(kinect_v2_25\)"):
        RunningNormalizer(8, SkeletonPreprocessing()).step(np.zeros((1, 20, 3)))


def test_what_was_given_may_be_written_over():
    clip, options = walk(), SkeletonPreprocessing()
    kept, running, buffer = RunningNormalizer(8, options), RunningNormalizer(8, options), np.empty_like(clip[:, 0])
    for t in range(5):
        buffer[:] = clip[:, t]
        np.testing.assert_array_equal(running.step(buffer), kept.step(clip[:, t]))
